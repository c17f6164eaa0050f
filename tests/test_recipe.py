"""Recipes, and what a user may put over them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geosr.errors import InputError, ModelError
from geosr.models.architectures import ARCHITECTURES, FAMILIES
from geosr.training.choices import Choices, changed, template
from geosr.training.recipe import (
    DECAYS,
    PRECISIONS,
    Data,
    Loss,
    Network,
    Patches,
    Recipe,
    Response,
    Schedule,
    Sigma,
    Simulated,
    from_dict,
    parse_recipe,
    read_recipe,
)
from rasters import RECIPE


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("family", ["srcnn-9-3-5-n64", "edsr-32x6"])
def test_committed_recipes(scale, family):
    recipe = read_recipe(f"no2-{family}-x{scale}")
    assert (recipe.scale, recipe.network.architecture) == (scale, family)
    assert recipe.network.equivariant
    assert all(d.licence and d.name for d in recipe.train)
    assert any("OMI" in d.name for d in recipe.heldout)
    assert not recipe.degradation


def test_the_plain_recipe_is_the_papers():
    recipe = read_recipe("srcnn-9-1-5-plain-x4")
    again = changed(recipe, Choices(plain=True))
    assert again == recipe
    assert (recipe.loss.kind, recipe.schedule.learning_rate, recipe.schedule.decay) == ("mse", 3e-4, "constant")
    assert (recipe.patches.contrast_power, recipe.patches.edge) == (0, 0)
    switched = (recipe.network.residual, recipe.network.equivariant, recipe.loss.conserve, recipe.sigma.architecture)
    assert not any(switched)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (("steps = 60", "stepz = 60"), "no option 'stepz'"),
        (("scale = 4", "scale = 1"), "scale = 1"),
        (("scale = 4", 'scale = "4"'), "type int"),
        (("scale = 4", "scale = true"), "type int"),
        (("size = 24", "size = 25"), "multiple of the scale"),
        (("srcnn-9-1-5", "srcnn-1-1-1"), "not known"),
        (("srcnn-9-1-5", "sigma-24x4"), "use edsr or srcnn"),
        (('name = "tiny"', ""), "incomplete"),
        (("steps = 60", "steps = 0"), "1 or more"),
        (("steps = 60", 'steps = 60\nprecision = "float16"'), "float32 or mixed_bfloat16"),
        (("steps = 60", 'steps = 60\ndecay = "linear"'), "cosine or constant"),
        (("steps = 60", "steps = 60\npatience = 2"), r"\[\[validate\]\]"),
        (("3e-3", "-1.0"), "above 0"),
        (("[schedule]", "[schedule"), "TOML"),
        (("[patches]", '[loss]\nkind = "l7"\n[patches]'), "charbonnier or mse"),
        (("[patches]", "[loss]\nrelative = -0.1\n[patches]"), r"loss.relative"),
        (("[patches]\nsize = 24\nbatch = 4", ""), None),
        (("size = 24", "size = 24\nmin_valid = 0"), "min_valid"),
        (("size = 24", "size = 24\nedge = 2.0"), "edge"),
        (('"2023-10-04"]', '"2023-09-04"]'), "first and last day"),
        (('"2023-10-04"]', '"2023-10-32"]'), "first and last day"),
        (("composites = [1, 2]", "composites = [0]"), "whole numbers from 1"),
        (("composites = [1, 2]", "composites = []"), "whole numbers from 1"),
        (("composites = [1, 2]", "blur = [-1.0]"), "numbers from 0"),
        (("composites = [1, 2]", "weight = 0.0"), "above 0"),
        (("composites = [1, 2]", "region = [1, 2, 3]"), "west, south, east, north"),
        (("composites = [1, 2]", "region = [1, 5, 3, 4]"), "west, south, east, north"),
        (("composites = [1, 2]", "outside = [[1, 2, 3, 4], 5]"), "west, south, east, north"),
        (('files = "day_*.tif"', "files = []"), "glob"),
        (("[patches]", "[degradation]\nmtf = [0.5]\n[patches]"), r"degradation.mtf"),
        (("[patches]", "[degradation]\nmtf = [0.0, 0.5]\n[patches]"), r"degradation.mtf"),
        (("[patches]", "[degradation]\nmtf = [[0.9, 0.5], 0.5]\n[patches]"), r"degradation.mtf"),
        (("[patches]", '[degradation]\nmtf = "tropomi"\n[patches]'), r"degradation.mtf"),
        (("[patches]", "[degradation]\nnoise = -1\n[patches]"), r"degradation.noise"),
        (("[patches]", "[degradation]\nnoise = [1, 2, 3]\n[patches]"), r"degradation.noise"),
        (("[network]", "[loss]\nconserve = false\n[network]\nresidual = false"), r"network.equivariant"),
        (("[network]", "[[simulate]]\nscenes = 1\n[network]"), None),
        (('name = "tiny"', 'name = "tiny"\nunits = ""\nsimulate = [{scenes = 1}]'), "units"),
    ],
)
def test_recipes_that_cannot_work(change, match):
    assert change[0] in RECIPE
    text = RECIPE.replace(*change, 1)
    if match is None:
        parse_recipe(text)
        return
    with pytest.raises(ModelError, match=match):
        parse_recipe(text)


def test_a_table_that_is_none():
    with pytest.raises(ModelError, match="not a table"):
        parse_recipe("patches = 3\n" + RECIPE.replace("[patches]\nsize = 24\nbatch = 4", ""))


def test_dates_of_toml_and_a_single_box():
    text = RECIPE.replace('["2023-10-01", "2023-10-04"]', "[2023-10-01, 2023-10-04]\nregion = [1, 2, 3, 4]")
    (data,) = parse_recipe(text).train
    assert data.dates == ("2023-10-01", "2023-10-04")
    assert data.region == ((1.0, 2.0, 3.0, 4.0),)
    assert data.globs == ("day_*.tif",)


def test_unknown_recipe_lists_its_own(tmp_path):
    with pytest.raises(InputError, match="nothing: no such file or folder, and no recipe of that name") as caught:
        read_recipe("nothing")
    assert "no2-srcnn-9-3-5-n64-x4" in caught.value.hint
    (tmp_path / "raster.tif").write_bytes(b"II*\0\xff\xfe\x80")
    with pytest.raises(ModelError, match="not a recipe"):
        read_recipe(tmp_path / "raster.tif")


# --- as TOML, and back -----------------------------------------------------------------------------------------

texts = st.text(max_size=20)
boxes = st.tuples(st.floats(-180, 0), st.floats(-90, 0), st.floats(1, 180), st.floats(1, 90))
sets = st.builds(
    Data,
    files=texts.filter(bool) | st.lists(texts.filter(bool), min_size=1, max_size=3).map(tuple),
    units=st.none() | texts,
    dates=st.none() | st.just(("2020-01-01", "2020-02-03")),
    composites=st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    blur=st.lists(st.floats(0, 9), min_size=1, max_size=3).map(tuple),
    weight=st.floats(1e-9, 1e9),
    name=texts,
    region=st.lists(boxes, max_size=2).map(tuple),
    outside=st.lists(boxes, max_size=2).map(tuple),
)
recipes = st.builds(
    Recipe,
    name=texts,
    scale=st.integers(2, 4),
    train=st.lists(sets, min_size=1, max_size=2).map(tuple),
    simulate=st.lists(st.builds(Simulated, scenes=st.integers(1, 5)), max_size=1).map(tuple),
    validate=st.lists(sets, min_size=1, max_size=1).map(tuple),
    degradation=st.builds(
        Response, st.sampled_from([(), (0.7, 0.4), ((0.5, 0.8), 0.4)]), st.sampled_from([0, 1.5, (0.0, 2.0)])
    ),
    network=st.builds(Network, st.sampled_from([n for n, a in ARCHITECTURES.items() if a.family in FAMILIES])),
    patches=st.builds(Patches, st.sampled_from([12, 24]), st.integers(1, 9)),
    loss=st.builds(Loss, st.sampled_from(["mse", "charbonnier"]), st.floats(0, 1)),
    schedule=st.builds(
        Schedule,
        st.integers(1, 9),
        st.floats(1e-9, 1),
        st.integers(1, 9),
        st.integers(0, 9),
        st.sampled_from(DECAYS),
        st.sampled_from(PRECISIONS),
    ),
    sigma=st.builds(Sigma, st.sampled_from(["", "sigma-24x4"])),
)


@given(recipes)
def test_toml_and_back(recipe):
    assert parse_recipe(recipe.to_toml()) == recipe
    assert from_dict(recipe.to_dict()) == recipe


# --- choices ---------------------------------------------------------------------------------------------------


def test_no_choices_change_nothing():
    recipe = read_recipe("no2-edsr-32x6-x4")
    assert changed(recipe, Choices()) == recipe


def test_choices_change_what_they_say():
    recipe = parse_recipe(RECIPE)
    numbers = Choices(steps=7, seed=3, loss="mse", learning_rate=0.5, batch=2, patch=8, validate_every=9, variable="b")
    got = changed(recipe, numbers)
    assert got.schedule == Schedule(7, 0.5, 9)
    assert (got.seed, got.loss.kind, got.patches.size, got.patches.batch) == (3, "mse", 8, 2)
    assert got.train[0].variable == got.heldout[0].variable == "b"
    assert changed(recipe, Choices(scale=3)).patches.size == 24
    assert changed(recipe, Choices(scale=5)).patches.size == 20
    other = changed(recipe, Choices(architecture="edsr-32x4", init="some"))
    assert (other.network.architecture, other.network.init) == ("edsr-32x4", "some")


def test_switched_off():
    recipe = read_recipe("no2-edsr-32x6-x4")
    only = changed(recipe, Choices(residual=False))
    assert not only.network.residual
    assert only.network.equivariant  # conservation brings the level
    both = changed(recipe, Choices(residual=False, conserve=False))
    assert not any((both.network.residual, both.network.equivariant, both.loss.conserve))
    assert changed(recipe, Choices(sigma=False)).sigma.architecture == ""
    plain = changed(recipe, Choices(plain=True))
    assert (recipe.patches.contrast_power, recipe.patches.edge, recipe.schedule.decay) == (1, 0.25, "cosine")
    assert (plain.patches.contrast_power, plain.patches.edge, plain.schedule.decay) == (0, 0, "constant")
    assert plain.network == Network("srcnn-9-1-5", residual=False, equivariant=False)
    assert (plain.loss.kind, plain.loss.conserve, plain.schedule.learning_rate) == ("mse", False, 3e-4)
    assert changed(recipe, Choices(plain=True, architecture="srcnn-9-5-5")).network.architecture == "srcnn-9-5-5"
    assert changed(recipe, Choices(plain=True, learning_rate=1e-3)).schedule.learning_rate == 1e-3


@pytest.mark.parametrize("scale", [2, 3, 4, 5, 16])
@pytest.mark.parametrize("architecture", [None, "srcnn-9-1-5", "edsr-64x8"])
def test_templates_work_at_every_scale(scale, architecture):
    recipe = template(Choices(scale=scale, architecture=architecture))
    assert recipe.patches.size % scale == 0
    assert recipe.schedule.patience > 0  # early stopping is on
    assert recipe.sigma.architecture
    assert (recipe.patches.contrast_power, recipe.schedule.decay) == (1, "cosine")
    plain = template(Choices(scale=scale, plain=True))
    assert (plain.patches.contrast_power, plain.schedule.decay) == (0, "constant")


def test_choices_that_cannot_work():
    with pytest.raises(ModelError, match="multiple of the scale"):
        changed(parse_recipe(RECIPE), Choices(patch=7))
    with pytest.raises(ModelError, match="above 0"):
        changed(parse_recipe(RECIPE), Choices(learning_rate=math.nan))


def test_data_has_a_label():
    assert Data("a").label == "a"
    assert Data(("a", "b", "c")).label == "a and 2 more"
    assert replace(Data("a"), name="n").label == "n"
