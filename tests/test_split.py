"""No place and date is in two sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geosr.errors import ModelError
from geosr.training.examples import reach_of
from geosr.training.recipe import Data, Network, Patches, Recipe
from geosr.training.scenes import load_scenes, planes_of
from geosr.training.split import check_split
from rasters import plumes, write_map

#: 60 x 60 cells of 0.05 degrees from 110 E 35 N; a network of reach 16 cells (0.8 degrees) at x4, 10 at x2.
DAYS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("split")
    for day in range(1, DAYS + 1):
        write_map(place / f"day_202310{day:02d}.tif", plumes((60, 60), day))
        write_map(place / f"coarse_202310{day:02d}.tif", plumes((15, 15), day), cell=0.2)
    write_map(place / "week_20231001-20231006.tif", plumes((60, 60), 8))
    write_map(place / "mean.tif", plumes((60, 60), 9))
    write_map(place / "elsewhere.tif", plumes((60, 60), 9), west=20)
    (place / "copy_20231001.tif").write_bytes((place / "day_20231001.tif").read_bytes())
    return place


def recipe(train, heldout, validate=(), scale=4):
    return Recipe(
        "r",
        scale,
        (train,),
        heldout=(heldout,),
        validate=validate,
        network=Network("srcnn-9-1-5"),
        patches=Patches(8 * scale),
        units="",
    )


WEST, EAST = (110, 30, 111, 36), (112, 30, 114, 36)
FIRST, LAST = ("2023-10-01", "2023-10-04"), ("2023-10-05", "2023-10-06")


@pytest.mark.parametrize(
    ("train", "heldout", "match"),
    [
        pytest.param(
            Data("day_*"), Data("day_20231003.tif"), r"day_20231003.tif is held out and trained on", id="same file"
        ),
        pytest.param(
            Data("day_*", dates=FIRST), Data("day_*", dates=("2023-10-04", "2023-10-06")), "day_20231004", id="a day"
        ),
        pytest.param(Data("copy*"), Data("day_20231001.tif"), "place and date in common", id="same day, another file"),
        pytest.param(
            Data("coarse_*"), Data("day_20231003.tif"), "place and date in common", id="same day, another sensor"
        ),
        pytest.param(Data("mean.tif"), Data("day_20231003.tif"), "date not known", id="a mean without a date"),
        pytest.param(Data("day_20231003.tif"), Data("mean.tif"), "date not known", id="a mean held out"),
        pytest.param(
            Data("week*"), Data("day_20231003.tif"), "2023-10-01 to 2023-10-06", id="a mean over held-out days"
        ),
        pytest.param(
            Data("mean.tif", region=(WEST,)), Data("mean.tif", region=((111, 30, 114, 36),)), "mean", id="no distance"
        ),
        pytest.param(
            Data("mean.tif", region=(WEST,)), Data("mean.tif", region=((111.79, 30, 114, 36),)), "mean", id="too near"
        ),
        pytest.param(
            Data("mean.tif", outside=((112.2, 0, 114, 36),)),
            Data("mean.tif", region=((112.9, 0, 113, 36),)),
            "mean",
            id="hole",
        ),
        pytest.param(
            Data("coarse_*", region=(WEST,)),
            Data("day_20231001.tif", region=(EAST,)),
            "coarse",
            id="coarse cells see farther",
        ),
        pytest.param(
            Data("mean.tif", region=(WEST,), coarsen=(1, 2)),
            Data("mean.tif", region=(EAST,)),
            "mean",
            id="coarsened sees farther",
        ),
        pytest.param(Data("day_*", dates=FIRST, composites=(4,)), Data("week*"), "week", id="composite held out"),
    ],
)
def test_leaks_are_refused(folder, train, heldout, match):
    with pytest.raises(ModelError, match=match):
        check_split(recipe(train, heldout), folder)
    with pytest.raises(ModelError, match="used for validation"):
        check_split(recipe(train, Data("elsewhere.tif"), validate=(heldout,)), folder)
    with pytest.raises(ModelError, match="held out"):
        check_split(recipe(Data("elsewhere.tif"), heldout, validate=(train,)), folder)


@pytest.mark.parametrize(
    ("train", "heldout"),
    [
        (Data("day_*", dates=FIRST), Data("day_*", dates=LAST)),
        (Data("day_*", dates=FIRST, composites=(1, 4), coarsen=(1, 2)), Data("day_*", dates=LAST)),
        (Data("mean.tif"), Data("elsewhere.tif")),
        (Data(("[dwm]*.tif", "copy*"), region=(WEST,)), Data("mean.tif", region=((111.81, 30, 114, 36),))),
        (Data("mean.tif", outside=((111, 0, 114, 36),)), Data("mean.tif", region=((112, 0, 113, 36),))),
    ],
    ids=str,
)
def test_what_is_apart_passes(folder, train, heldout):
    check_split(recipe(train, heldout), folder)


def test_pictures_are_told_by_their_contents(tmp_path):
    import rasterio

    profile = {"driver": "PNG", "width": 60, "height": 60, "count": 1, "dtype": "uint8"}
    for name, seed in (("a", 0), ("b", 1)):
        with (
            pytest.warns(rasterio.errors.NotGeoreferencedWarning),
            rasterio.open(tmp_path / f"{name}.png", "w", **profile) as f,
        ):
            f.write((plumes((60, 60), seed) * 20 % 255).astype(np.uint8), 1)
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes())
    check_split(recipe(Data("a.png"), Data("b.png")), tmp_path)
    with pytest.raises(ModelError, match=r"c.png"):
        check_split(recipe(Data("a.png"), Data("c.png")), tmp_path)
    check_split(recipe(Data("a.png", region=((0, 0, 60, 20),)), Data("c.png", region=((0, 36, 60, 60),))), tmp_path)
    with pytest.raises(ModelError, match=r"c.png"):
        check_split(recipe(Data("a.png", region=((0, 0, 60, 20),)), Data("c.png", region=((0, 35, 60, 60),))), tmp_path)


def test_a_blur_sees_farther(folder):
    from dataclasses import replace

    from geosr.training.recipe import Response

    plain = recipe(Data("mean.tif", region=(WEST,)), Data("mean.tif", region=((111.81, 30, 114, 36),)))
    check_split(plain, folder)
    blurred = replace(plain, degradation=Response((0.74, 0.44)))
    assert reach_of(blurred) > reach_of(plain)
    with pytest.raises(ModelError, match=r"mean.tif"):
        check_split(blurred, folder)


# --- any recipe that passes -------------------------------------------------------------------------------------

# Values tell where they come from: in one folder the cell, in the other the days.
SIDE = 48


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    place = tmp_path_factory.mktemp("marked")
    cells = np.arange(SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE) + 1
    for day in range(DAYS):
        write_map(place / "cells" / f"d_202310{day + 1:02d}.tif", cells)
        write_map(place / "days" / f"d_202310{day + 1:02d}.tif", np.full_like(cells, 2**day))
    return place


def found(recipe: Recipe, sets: tuple[Data, ...], place: Path) -> set[tuple[int, int]]:
    """Every (day, cell) in ``sets``; of means as well."""
    seen = set()
    for where, when in zip(*(load_scenes(recipe, place / n, sets) for n in ("cells", "days")), strict=True):
        valid = ~np.isnan(where.values)
        # A mean of days has the sum of their powers of 2, over their number.
        bits = round(float(when.values[valid][0]) * len(when.files)) if valid.any() else 0
        days = [d for d in range(DAYS) if bits >> d & 1]
        assert len(days) == len(when.files) or not valid.any()
        seen |= {(day, int(cell)) for cell in where.values[valid] for day in days}
    return seen


edges = st.integers(0, 12).map(lambda n: n * SIDE * 0.05 / 12)


@st.composite
def boxes(draw):
    w, e = sorted(draw(st.lists(edges, min_size=2, max_size=2, unique=True)))
    s, n = sorted(draw(st.lists(edges, min_size=2, max_size=2, unique=True)))
    return (110 + w, 35 - SIDE * 0.05 + s, 110 + e, 35 - SIDE * 0.05 + n)


@st.composite
def datasets(draw):
    first = draw(st.integers(1, DAYS))
    last = draw(st.sampled_from([first, min(first + 1, DAYS), DAYS]))
    return Data(
        "d_*.tif",
        dates=draw(st.sampled_from([None, *[(f"2023-10-{first:02d}", f"2023-10-{last:02d}")] * 4])),
        region=draw(st.lists(boxes(), max_size=2).map(tuple)),
        outside=draw(st.lists(boxes(), max_size=1).map(tuple)),
        composites=draw(st.sampled_from([(1,), (2,), (1, 3)])),
    )


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(datasets(), datasets(), datasets())
def test_no_place_and_date_is_in_two_sets_of_a_recipe_that_passes(marked, train, validate, heldout):
    plan = recipe(train, heldout, (validate,), scale=2)
    try:
        check_split(plan, marked / "cells")
    except ModelError:
        return
    sets = [found(plan, s, marked) for s in (plan.train, plan.validate, plan.heldout)]
    for i in range(3):
        for j in range(i):
            assert not sets[i] & sets[j]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(datasets(), datasets())
def test_what_passes_is_also_the_reach_apart(marked, train, heldout):
    """On one day no trained-on cell is nearer to a held-out one than the network sees."""
    plan = recipe(train, heldout, scale=2)
    try:
        check_split(plan, marked / "cells")
    except ModelError:
        return
    ours, theirs = (found(plan, s, marked) for s in (plan.train, plan.heldout))
    reach = reach_of(plan)
    for day in range(DAYS):
        a, b = (np.array([divmod(c - 1, SIDE) for d, c in s if d == day]) for s in (ours, theirs))
        if len(a) and len(b):
            nearest = min(np.abs(a - cell).max(axis=1).min() for cell in b[:: max(1, len(b) // 50)])
            assert nearest >= reach


def test_enough_random_recipes_pass_for_the_above_to_mean_something(marked):
    strategy = st.tuples(datasets(), datasets(), datasets())
    passed = []

    @settings(max_examples=150, database=None, derandomize=True)
    @given(strategy)
    def count(sets):
        plan = recipe(sets[0], sets[2], (sets[1],), scale=2)
        try:
            check_split(plan, marked / "cells")
            passed.append(planes_of(plan.train[0], marked / "cells", ""))
        except ModelError:
            pass

    count()
    assert len(passed) >= 5
