"""From a folder of rasters to a recipe."""

from __future__ import annotations

import datetime as dt
import warnings
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from geosr.errors import GeosrWarning, InputError
from geosr.training.blocks import least_length
from geosr.training.choices import Choices
from geosr.training.examples import Sampler, reach_of
from geosr.training.folders import HELDOUT, VALIDATE, plan
from geosr.training.globs import globs_for
from geosr.training.recipe import parse_recipe
from geosr.training.scenes import load_scenes
from geosr.training.split import check_split
from rasters import plumes, write_map
from strategies import write_tif

SMALL = Choices(scale=2, architecture="srcnn-9-1-5")


def write_picture(path, bands):
    profile = {"driver": {"png": "PNG", "tif": "GTiff"}[path.suffix[1:]], "dtype": "uint8", "count": len(bands)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", height=bands.shape[1], width=bands.shape[2], **profile) as file:
            file.write(bands)


def picture(seed, shape=(60, 60), bands=1):
    return np.stack([np.clip(plumes(shape, seed + i) * 15, 0, 255) for i in range(bands)]).astype(np.uint8)


def usable(recipe, folder):
    """The recipe is sound: it survives TOML, no set shares anything, all have scenes, and examples can be cut."""
    assert parse_recipe(recipe.to_toml()) == recipe
    check_split(recipe, folder)
    counts = {
        kind: len(load_scenes(recipe, folder, getattr(recipe, kind))) for kind in ("train", "validate", "heldout")
    }
    Sampler(load_scenes(recipe, folder), recipe).batch()
    if recipe.validate:
        Sampler(load_scenes(recipe, folder, recipe.validate), recipe).batch()
    return counts


# --- what is held out ------------------------------------------------------------------------------------------


def test_dates_split_a_series(tmp_path):
    for day in range(1, 21):
        write_map(tmp_path / "deep" / f"no2_202310{day:02d}.tif", plumes((48, 40), day))
    made = plan(tmp_path, "mine", SMALL)
    assert made.recipe.name == "mine"
    assert usable(made.recipe, tmp_path) == {"train": 15, "validate": 2, "heldout": 3}
    assert made.recipe.heldout[0].dates == ("2023-10-18", "2023-10-20")
    assert "holding out 2023-10-18 to 2023-10-20" in made.notes[1]


@settings(max_examples=15)
@given(days=st.lists(st.integers(0, 700), min_size=5, max_size=30, unique=True))
def test_any_dates_are_split_in_order(days, tmp_path_factory):
    folder = tmp_path_factory.mktemp("dates")
    for day in days:
        date = dt.date(2019, 1, 1) + dt.timedelta(days=day)
        write_map(folder / f"{date:%Y%m%d}.tif", plumes((24, 24), day))
    recipe = plan(folder, "n", SMALL).recipe
    counts = usable(recipe, folder)
    assert sum(counts.values()) == len(days)
    assert counts["heldout"] == max(1, round(HELDOUT * len(days)))
    assert counts["validate"] == max(1, round(VALIDATE * len(days)))
    assert recipe.train[0].dates[1] < recipe.validate[0].dates[0] <= recipe.validate[0].dates[1]
    assert recipe.validate[0].dates[1] < recipe.heldout[0].dates[0]


def test_means_over_the_split_and_undated_rasters_of_the_place_are_left_out(tmp_path):
    for day in range(1, 9):
        write_map(tmp_path / f"no2_202310{day:02d}.tif", plumes((48, 40), day))
    write_map(tmp_path / "mean_202310.tif", plumes((48, 40), 9))
    write_map(tmp_path / "mean.tif", plumes((48, 40), 10))
    write_map(tmp_path / "elsewhere.tif", plumes((48, 40), 11), west=20)
    with pytest.warns(GeosrWarning) as told:
        recipe = plan(tmp_path, "n", SMALL).recipe
    texts = " | ".join(str(w.message) for w in told)
    assert "both sides of the split): mean_202310.tif" in texts
    assert "no date, in one place with others that have one): mean.tif" in texts
    assert usable(recipe, tmp_path) == {"train": 7, "validate": 1, "heldout": 1}


def test_three_maps_of_one_place_are_split_by_region(tmp_path):
    """The issue's folder: three GeoTIFFs of 200 x 200 cells, default network and scale."""
    for i in range(3):
        write_map(tmp_path / f"map_{i}.tif", plumes((200, 200), i))
    recipe, reach = plan(tmp_path, "n", Choices()).recipe, 56
    assert reach_of(recipe) == reach
    assert usable(recipe, tmp_path) == {"train": 3, "validate": 3, "heldout": 3}
    parts = [~np.isnan(load_scenes(recipe, tmp_path, getattr(recipe, k))[0].values) for k in ("train", "heldout")]
    assert parts[0].sum() > 0.4 * 200 * 200
    assert parts[1].sum() > 0.05 * 200 * 200
    assert recipe.schedule.patience > 0


@settings(max_examples=20)
@given(
    shapes=st.lists(st.tuples(st.integers(70, 110), st.integers(70, 110)), min_size=1, max_size=2),
    west=st.sampled_from([10.0, 178.0, -181.5]),
    projected=st.booleans(),
    gap=st.booleans(),
)
def test_any_few_maps_are_split_soundly(shapes, west, projected, gap, tmp_path_factory):
    """Also across the dateline, in a projection, with a corner missing."""
    folder = tmp_path_factory.mktemp("maps")
    for i, shape in enumerate(shapes):
        values = plumes(shape, i)
        if gap:
            values[: shape[0] // 3, : shape[1] // 3] = np.nan
        if projected:
            transform = Affine(2000, 0, 3e5, 0, -2000, 6e6)
            write_tif(folder / f"m_{i}.tif", values, crs="EPSG:32633", transform=transform)
        else:
            write_map(folder / f"m_{i}.tif", values, west=west)
    counts = usable(plan(folder, "n", SMALL).recipe, folder)
    assert counts["heldout"] >= 1


def test_many_places_are_held_out_whole(tmp_path):
    for i in range(10):
        write_map(tmp_path / f"town_{i}.tif", plumes((40, 40), i), west=-170 + 30 * i)
    recipe = plan(tmp_path, "n", SMALL).recipe
    assert usable(recipe, tmp_path) == {"train": 7, "validate": 1, "heldout": 2}
    assert not any(d.region or d.outside for d in (*recipe.train, *recipe.heldout))


def test_pictures_are_places_each(tmp_path):
    for i in range(6):
        write_picture(tmp_path / f"p_{i}.png", picture(i, bands=3))
    (tmp_path / "again.png").write_bytes((tmp_path / "p_0.png").read_bytes())
    made = plan(tmp_path, "n", SMALL)
    assert "without georeference" in made.notes[0]
    assert made.recipe.units == ""
    assert sum(usable(made.recipe, tmp_path).values()) == 7


def test_bands_of_an_image_are_scenes(tmp_path):
    write_map(tmp_path / "image.tif", np.stack([plumes((90, 80), i) for i in range(4)]))
    recipe = plan(tmp_path, "n", SMALL).recipe
    assert usable(recipe, tmp_path)["train"] == 4
    assert plan(tmp_path, "n", replace(SMALL, variable="2")).recipe.train[0].variable == "2"


# --- what is left out ------------------------------------------------------------------------------------------


def test_what_cannot_be_used_is_named(tmp_path):
    for day in range(1, 6):
        write_map(tmp_path / f"no2_202310{day:02d}.tif", plumes((48, 40), day))
    (tmp_path / "broken.tif").write_bytes(b"II*\0broken")
    (tmp_path / "notes.txt").write_text("no raster")
    (tmp_path / ".hidden.tif").write_bytes(b"")
    write_map(tmp_path / "tiny.tif", plumes((10, 40), 0))
    write_picture(tmp_path / "picture.png", picture(0))
    with pytest.warns(GeosrWarning) as told:
        recipe = plan(tmp_path, "n", SMALL).recipe
    (text,) = (str(w.message) for w in told)
    assert text.startswith("3 files left out")
    for part in ("broken.tif: ", "tiny.tif: smaller than 16 x 16 cells", "picture.png: no georeference"):
        assert part in text
    assert sum(usable(recipe, tmp_path).values()) == 5


def test_models_below_the_folder_are_no_data(tmp_path):
    for day in range(1, 6):
        write_map(tmp_path / f"no2_202310{day:02d}.tif", plumes((48, 40), day))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "card.json").write_text("{}")
    write_picture(tmp_path / "model" / "training.png", picture(0))
    (tmp_path / "other.checkpoint").mkdir()
    write_map(tmp_path / "other.checkpoint" / "x.tif", plumes((48, 40), 1))
    assert sum(usable(plan(tmp_path, "n", SMALL).recipe, tmp_path).values()) == 5


def test_nothing_to_train_on(tmp_path):
    with pytest.raises(InputError, match="holds no raster"):
        plan(tmp_path, "n", SMALL)
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    with pytest.raises(InputError, match=r"none of 1 raster can be trained on \(a.tif: "):
        plan(tmp_path, "n", SMALL)
    (tmp_path / "a.tif").unlink()
    write_map(tmp_path / "b.tif", np.full((100, 100), np.nan, np.float32))
    with pytest.warns(GeosrWarning, match="no valid value"), pytest.raises(InputError, match="too little"):
        plan(tmp_path, "n", SMALL)


def test_too_little_to_hold_some_out_says_what_would_do(tmp_path):
    write_map(tmp_path / "a.tif", plumes((60, 60), 1))
    with pytest.raises(InputError, match="needs 138 in a row; the longest raster has 60") as caught:
        plan(tmp_path, "n", Choices())
    assert "--architecture srcnn-9-1-5 --scale 2" in caught.value.hint
    usable(plan(tmp_path, "n", SMALL).recipe, tmp_path)  # what the hint says works
    write_map(tmp_path / "a.tif", plumes((40, 40), 1))
    with pytest.raises(InputError) as caught:
        plan(tmp_path, "n", SMALL)
    assert "--architecture" not in caught.value.hint


@pytest.mark.parametrize("architecture", ["edsr-32x6", "srcnn-9-1-5"])
@pytest.mark.parametrize("scale", [2, 4])
def test_the_length_that_is_asked_for_is_enough(tmp_path, architecture, scale):
    choices = Choices(scale=scale, architecture=architecture)
    write_map(tmp_path / "a.tif", plumes((200, 200), 1))
    length = least_length(reach_of(plan(tmp_path, "n", choices).recipe), scale)
    write_map(tmp_path / "a.tif", plumes((40, length), 1))
    usable(replace_patience(plan(tmp_path, "n", choices).recipe), tmp_path)
    write_map(tmp_path / "a.tif", plumes((40, length - 3), 1))
    with pytest.raises(InputError, match="in a row"):
        plan(tmp_path, "n", choices)


def replace_patience(recipe):
    return replace(recipe, schedule=replace(recipe.schedule, patience=0)) if not recipe.validate else recipe


# --- squares, units, globs -------------------------------------------------------------------------------------


def test_squares_fit_the_data(tmp_path):
    for day in range(1, 7):
        write_map(tmp_path / f"no2_202310{day:02d}.tif", plumes((38, 200), day))
    recipe = plan(tmp_path, "n", Choices(scale=4, architecture="srcnn-9-1-5")).recipe
    assert recipe.patches.size == 36
    assert plan(tmp_path, "n", Choices(scale=4, architecture="srcnn-9-1-5", patch=16)).recipe.patches.size == 16


def test_gappy_data_ask_for_fewer_valid_cells(tmp_path):
    rng = np.random.default_rng(0)
    for day in range(1, 7):
        values = plumes((64, 64), day)
        blocks = np.kron(rng.uniform(size=(8, 8)) < 0.7, np.ones((8, 8)))
        values[blocks > 0] = np.nan
        write_map(tmp_path / f"no2_202310{day:02d}.tif", values)
    recipe = plan(tmp_path, "n", SMALL).recipe
    assert 0.05 < recipe.patches.min_valid < 0.4
    usable(recipe, tmp_path)


def units_of(tmp_path, *units):
    for number, unit in enumerate(units):
        columns = plumes((48, 40), number) * np.float32(6e14 if unit == "molec cm-2" else 1e-5)
        path = write_map(tmp_path / f"no2_202310{number + 1:02d}.tif", columns)
        if unit:
            with rasterio.open(path, "r+") as file:
                file.set_band_unit(1, unit)
    return plan(tmp_path, "n", SMALL).recipe.units


def test_units_are_common_ones(tmp_path):
    assert units_of(tmp_path / "a", *["mol m-2"] * 5) == "mol m-2"
    assert units_of(tmp_path / "b", *["molec cm-2"] * 3, *["mol m-2"] * 2) == "molec cm-2"
    assert units_of(tmp_path / "c", *["mol m-2"] * 4, None) == ""


names = st.text("ab[]*?! .é", min_size=1, max_size=4).map(lambda n: f"x{n}y")


@settings(max_examples=40)
@given(st.sets(names, min_size=1, max_size=8), st.data())
def test_globs_find_exactly_the_files(tmp_path_factory, found, data):
    folder = tmp_path_factory.mktemp("globs")
    files = []
    for name in sorted(found):
        file = folder / data.draw(st.sampled_from(["", "s[1]", "t"])) / f"{name}.tif"
        file.parent.mkdir(exist_ok=True)
        file.touch()
        files.append(file)
    wanted = [f for f in files if data.draw(st.booleans())] or files[:1]
    globs = globs_for(wanted, folder)
    got = [p for g in ([globs] if isinstance(globs, str) else globs) for p in folder.glob(g)]
    assert sorted(got) == sorted(wanted)


def test_globs_of_many_files_are_short(tmp_path):
    files = [tmp_path / "d" / f"{i}.tif" for i in range(60)]
    files[0].parent.mkdir()
    for file in files:
        file.touch()
    assert globs_for(files, tmp_path) == "d/*.tif"
    assert len(globs_for(files[1:], tmp_path)) == 59
