"""No place and date is in two sets."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geosr.errors import GeosrWarning, ModelError
from geosr.models import Card, load_model
from geosr.training.examples import reach_of
from geosr.training.recipe import Data, Network, Patches, Recipe, read_recipe
from geosr.training.scenes import load_scenes, planes_of
from geosr.training.split import check_split, check_start
from geosr.training.truths import planes_in
from rasters import plumes, write_map, write_series

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


def test_the_mean_of_a_week_is_of_all_its_days(tmp_path):
    """By the bounds of its time, which lies in the middle."""
    write_map(tmp_path / "d_20231008.tif", plumes((60, 60), 1), west=8, north=45, cell=0.1)
    write_map(tmp_path / "d_20231009.tif", plumes((60, 60), 2), west=8, north=45, cell=0.1)
    write_series(tmp_path / "m.nc", ["2023-10-04"], [("2023-10-01", "2023-10-09")])
    check_split(recipe(Data("m.nc"), Data("d_20231009.tif")), tmp_path)
    with pytest.raises(ModelError, match=r"m.nc \(2023-10-01 to 2023-10-08\), which is trained on"):
        check_split(recipe(Data("m.nc"), Data("d_20231008.tif")), tmp_path)


def test_one_raster_under_two_dates_is_told_by_its_values(tmp_path):
    values = plumes((60, 60), 1)
    values[:5, :5] = np.nan
    write_map(tmp_path / "a_20231001.tif", values)
    write_map(tmp_path / "b_20231101.tif", values)
    write_map(tmp_path / "c_20231101.tif", values, west=20)
    write_map(tmp_path / "d_20231101.tif", values + np.float32(1e-3))
    for name, value in (("e_20231001", 3), ("e_20231101", 3), ("f_20231001", np.nan), ("f_20231101", np.nan)):
        write_map(tmp_path / f"{name}.tif", np.full((60, 60), value, np.float32))
    with pytest.raises(
        ModelError, match=r"b_20231101.tif \(2023-11-01\), which is held out, has the same values as a_"
    ):
        check_split(recipe(Data("a*"), Data("b*")), tmp_path)
    check_split(recipe(Data("a*", region=(WEST,)), Data("b*", region=((111.81, 30, 114, 36),))), tmp_path)
    for held in ("c*", "d*"):
        check_split(recipe(Data("a*"), Data(held)), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GeosrWarning)  # no valid value
        for kind in "ef":  # an empty map, or one without structure, says nothing about another
            check_split(recipe(Data(f"{kind}_202310*"), Data(f"{kind}_202311*")), tmp_path)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_picture_is_the_same_however_it_is_packed(tmp_path, suffix):
    import rasterio

    values = (plumes((60, 60), 0) * 20 % 255).astype(np.uint8)
    places = set()
    for level in (1, 9):
        more = {"png": {"driver": "PNG"}, "tif": {"driver": "GTiff", "compress": "deflate"}}
        for name, driver in ((f"{level}.{suffix}", more[suffix]), (f"{level}.png", more["png"])):
            profile = {"width": 60, "height": 60, "count": 1, "dtype": "uint8", "zlevel": level, **driver}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                with rasterio.open(tmp_path / name, "w", **profile) as file:
                    file.write(values, 1)
            places |= {p.picture for p in planes_in(tmp_path / name)}
    assert len(places) == 1


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
    from geosr.training.recipe import Response

    plain = recipe(Data("mean.tif", region=(WEST,)), Data("mean.tif", region=((111.81, 30, 114, 36),)))
    check_split(plain, folder)
    blurred = replace(plain, degradation=Response((0.74, 0.44)))
    assert reach_of(blurred) > reach_of(plain)
    with pytest.raises(ModelError, match=r"mean.tif"):
        check_split(blurred, folder)


# --- the model that training starts from --------------------------------------------------------------------------


def card(*files, start=None, **recipe_of):
    """Of a model that was trained on ``files``; where ``recipe_of`` says how, with a recipe."""
    training = {"files": list(files), "data": [{"name": "n", "dates": list(recipe_of.get("dates", ()))}]}
    if recipe_of:
        training["recipe"] = recipe(Data("*", **recipe_of), Data("*")).to_dict()
    if start:
        training["start"] = {"name": start.name, **start.training}
    return Card("start", "srcnn-9-1-5", 4, 8, training=training)


DAY = Data("day_20231005.tif")
EASTERN = Data("mean.tif", region=((111.81, 30, 114, 36),))


@pytest.mark.parametrize(
    ("heldout", "start", "seen"),
    [
        (DAY, card("day_20231005.tif", "mean.tif"), True),
        (DAY, card("day_20231004.tif"), False),
        (DAY, card("day_20231004.tif", start=card("day_20231005.tif")), True),
        (DAY, card("day_20231005.tif", dates=FIRST), False),  # a file of several days, of which only others were taken
        (DAY, card("day_20231005.tif", dates=("2023-10-01", "2023-10-05")), True),
        (DAY, card("a.tif", "and 9 more"), False),
        (DAY, card("a.tif", "and 9 more", dates=LAST), True),  # it may be among those that are not named
        (EASTERN, card("mean.tif"), True),
        (EASTERN, card("mean.tif", region=(WEST,)), False),
        (EASTERN, card("mean.tif", region=(WEST,), coarsen=(1, 2)), True),
        (EASTERN, card("mean.tif", region=((110, 30, 111.5, 36),)), True),
    ],
)
def test_a_model_that_has_seen_what_is_held_out_is_refused(folder, heldout, start, seen):
    plans = {
        "held out": recipe(Data("elsewhere.tif"), heldout),
        "used for validation": recipe(Data("elsewhere.tif"), Data("elsewhere.tif"), validate=(heldout,)),
    }
    for words, plan in plans.items():
        if not seen:
            check_start(plan, folder, start)
            continue
        with pytest.raises(ModelError, match=f"{heldout.files}: {words}, but start, which training starts from"):
            check_start(plan, folder, start)


def test_the_dates_of_the_start_are_said(folder):
    start = card("day_20231005.tif", dates=("2023-10-01", "2023-10-05"))
    with pytest.raises(ModelError, match=r"trained on that \(its data are of 2023-10-01 to 2023-10-05\)"):
        check_start(recipe(Data("elsewhere.tif"), DAY), folder, start)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("family", ["edsr-32x6", "srcnn-9-3-5-n64"])
def test_the_shipped_recipes_are_sound(data_dir, family, scale):
    """On the real data; the x3 EDSR starts from the x4 one, which has the same training files."""
    plan = read_recipe(f"no2-{family}-x{scale}")
    check_split(plan, data_dir)
    assert bool(plan.network.init) == (family == "edsr-32x6" and scale == 3)
    if plan.network.init:
        shipped = load_model(plan.network.init).card
        check_start(plan, data_dir, shipped)
        with pytest.raises(ModelError, match="gems_no2_trop_20231001_daymean.tif, .* and 16 more: held out"):
            check_start(replace(plan, heldout=plan.train), data_dir, shipped)


# --- any recipe that passes -------------------------------------------------------------------------------------

# Values tell where they come from: in one folder the cell, in the other the days. The split is checked by the second:
# all days of the first have the same values.
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
        check_split(plan, marked / "days")
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
        check_split(plan, marked / "days")
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
            check_split(plan, marked / "days")
            passed.append(planes_of(plan.train[0], marked / "days", ""))
        except ModelError:
            pass

    count()
    assert len(passed) >= 5
