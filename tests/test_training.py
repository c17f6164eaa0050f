"""Recipes, scenes, examples, and a short run from raster to bundle."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from affine import Affine

from geosr.degrade import area_mean
from geosr.errors import ModelError
from geosr.examples import Sampler
from geosr.models import load_model
from geosr.recipe import Data, Recipe, parse_recipe, read_recipe
from geosr.scenes import check_split, load_scenes
from geosr.training import _loss_function, train

BASE = """
name = "tiny"
scale = 4
[[train]]
files = "day_*.tif"
units = "1e15 molec cm-2"
dates = ["2023-10-01", "2023-10-04"]
composites = [1, 2]
coarsen = [1, 2]
[[heldout]]
name = "later"
files = "day_*.tif"
units = "1e15 molec cm-2"
dates = ["2023-10-05", "2023-10-31"]
[network]
architecture = "srcnn-9-1-5"
[patches]
size = 24
batch = 4
[schedule]
steps = 200
learning_rate = 3e-3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six days of moving plumes with a gap, as GeoTIFFs."""
    place = tmp_path_factory.mktemp("data")
    y, x = np.mgrid[:120, :100].astype(float)
    for day in range(1, 7):
        rng = np.random.default_rng(day)
        values = 2 + rng.normal(0, 0.05, y.shape)
        for _ in range(40):
            cy, cx, width = rng.uniform(0, 120), rng.uniform(0, 100), rng.uniform(1.5, 6)
            values += rng.gamma(2, 3) * np.exp(-0.5 * ((y - cy) ** 2 + (x - cx) ** 2) / width**2)
        values[10:20, 80:90] = np.nan
        profile = {"driver": "GTiff", "width": 100, "height": 120, "count": 1, "dtype": "float32", "nodata": np.nan}
        profile |= {"crs": "EPSG:4326", "transform": Affine(0.05, 0, 110, 0, -0.05, 35)}
        with rasterio.open(place / f"day_202310{day:02d}.tif", "w", **profile) as file:
            file.write(values.astype(np.float32), 1)
            file.set_band_unit(1, "1e15 molec cm-2")
    # A mean over all days, without a date in its name: it would leak the held-out days.
    (place / "day_mean.tif").write_bytes((place / "day_20231006.tif").read_bytes())
    return place


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_committed_recipes(scale):
    recipe = read_recipe(f"no2-srcnn-9-3-5-x{scale}")
    assert recipe.scale == scale
    assert recipe.network.equivariant
    assert all(d.licence and d.name for d in recipe.train)
    assert any("OMI" in d.name for d in recipe.heldout)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (("steps = 200", "stepz = 200"), "no option 'stepz'"),
        (("scale = 4", "scale = 1"), "scale = 1"),
        (("size = 24", "size = 25"), "multiple of the scale"),
        (("srcnn-9-1-5", "srcnn-1-1-1"), "not known"),
        (('name = "tiny"', ""), "incomplete"),
        (("steps = 200", "steps = 0"), "1 or more"),
        (("[schedule]", "[schedule"), "TOML"),
        (("[patches]", '[loss]\nkind = "l7"\n[patches]'), "charbonnier or mse"),
        (("[patches]\nsize = 24\nbatch = 4", "patches = 3"), "not a table"),
    ],
)
def test_recipes_that_cannot_work(change, match):
    text = BASE.replace(*change)
    if change[1] == "patches = 3":
        text = "patches = 3\n" + BASE.replace(change[0], "")
    with pytest.raises(ModelError, match=match):
        parse_recipe(text)


def test_unknown_recipe_lists_its_own():
    with pytest.raises(ModelError, match="no2-srcnn-9-3-5-x4"):
        read_recipe("nothing")


def test_scenes_are_split_by_date_and_composed(folder):
    recipe = parse_recipe(BASE)
    scenes = load_scenes(recipe, folder)
    assert len(scenes) == (4 + 2) * 2
    assert {f for s in scenes for f in s.files} == {f"day_202310{d:02d}.tif" for d in range(1, 5)}
    fine, coarse = scenes[0], scenes[1]
    assert coarse.values.shape == (60, 50)
    np.testing.assert_allclose(coarse.values, area_mean(fine.values, fine.areas, 2), atol=1e-6)
    assert coarse.cell_m == pytest.approx(2 * fine.cell_m, rel=0.01)
    pair = next(s for s in scenes if len(s.files) == 2)
    days = [s.values for s in scenes if len(s.files) == 1 and s.values.shape == (120, 100)]
    np.testing.assert_allclose(pair.values, (days[0] + days[1]) / 2, atol=1e-5)


def test_a_file_on_both_sides_is_refused(folder):
    check_split(parse_recipe(BASE), folder)
    leaky = parse_recipe(BASE.replace('"2023-10-05", "2023-10-31"', '"2023-10-04", "2023-10-31"'))
    with pytest.raises(ModelError, match=r"day_20231004.tif is held out and trained on"):
        check_split(leaky, folder)
    with pytest.raises(ModelError, match="held out and trained on"):
        train(leaky, folder, folder / "never")
    assert not (folder / "never").exists()


def test_no_files_says_where_it_looked(folder):
    recipe = Recipe("n", 4, (Data("*.nc"),))
    with pytest.raises(ModelError, match=r"no file matches '\*.nc'"):
        load_scenes(recipe, folder)


def test_examples(folder):
    recipe = parse_recipe(BASE.replace("batch = 4", "batch = 64"))
    sampler = Sampler(load_scenes(recipe, folder), recipe)
    batch = sampler.batch()
    r = 6
    assert batch.upsampled.shape == (64, 24 + 2 * r, 24 + 2 * r, 1)
    assert batch.truth.shape == batch.mask.shape == (64, 24, 24, 1)
    assert np.isfinite(batch.upsampled).all()
    assert np.isfinite(batch.truth).all()
    assert 0.9 < batch.mask.mean() < 1
    assert batch.weight.min() > 0
    # Standardised by the bicubic field over the mask ...
    inner = batch.upsampled[:, r:-r, r:-r][batch.mask > 0]
    assert abs(inner.mean()) < 0.05
    assert inner.std() == pytest.approx(1, abs=0.05)
    # ... which is close to the truth there, so that the two are aligned, and turned alike.
    error = (batch.upsampled[:, r:-r, r:-r] - batch.truth)[batch.mask > 0]
    assert error.std() < 0.6
    turned = (np.rot90(batch.upsampled[:, r:-r, r:-r], 1, (1, 2)) - batch.truth)[batch.mask > 0]
    assert turned.std() > 2 * error.std()


def test_examples_are_the_seed_s(folder):
    recipe = parse_recipe(BASE)
    scenes = load_scenes(recipe, folder)
    a, b = Sampler(scenes, recipe).batch(), Sampler(scenes, recipe).batch()
    np.testing.assert_array_equal(a.upsampled, b.upsampled)


def test_contrast_draws_the_plumes(folder):
    """The more the odds follow the contrast, the larger the mean spread of what is drawn."""
    means = []
    for power in (0.0, 1.0, 3.0):
        text = BASE.replace("batch = 4", f"batch = 150\ncontrast_power = {power}")
        recipe = parse_recipe(text.replace("[network]", "[loss]\nspread_power = 1.0\n[network]"))
        means.append(Sampler(load_scenes(recipe, folder), recipe).batch().weight.mean())  # the weight is the spread
    assert means[0] < means[1] < means[2]


@pytest.mark.parametrize("conserve", [True, False])
def test_loss_sees_the_field_after_conservation(conserve):
    """Adding a constant to each coarse cell's fine cells is repaired by conservation: no loss, if it is in the loss."""
    pytest.importorskip("tensorflow")
    text = BASE.replace("[patches]", f"[loss]\nconserve = {str(conserve).lower()}\n[patches]")
    loss_of = _loss_function(parse_recipe(text), 6)
    rng = np.random.default_rng(0)
    up, truth, output = (rng.normal(size=(2, n, n, 1)).astype(np.float32) for n in (20, 8, 8))
    mask, weight = np.ones((2, 8, 8, 1), np.float32), np.ones((2, 1, 1, 1), np.float32)
    shift = np.repeat(np.repeat(rng.normal(size=(2, 2, 2, 1)), 4, 1), 4, 2).astype(np.float32)
    before, after = (float(loss_of(o, up, truth, mask, weight)) for o in (output, output + 5 * shift))
    assert (after == pytest.approx(before, rel=1e-5)) == conserve
    perfect = truth - up[:, 6:-6, 6:-6]
    assert float(loss_of(perfect, up, truth, mask, weight)) == pytest.approx(0.01, rel=1e-3)  # epsilon


def test_too_many_gaps_say_what_to_change(folder):
    recipe = parse_recipe(BASE.replace("size = 24", "size = 200"))
    with pytest.raises(ModelError, match=r"patches.size"):
        Sampler(load_scenes(recipe, folder), recipe)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    pytest.importorskip("tensorflow")
    out = tmp_path_factory.mktemp("runs")
    losses: dict[int, float] = {}
    card = train(parse_recipe(BASE), folder, out / "tiny", lambda step, loss: losses.update({step: loss}))
    return out, card, losses


def test_a_short_run(trained):
    """The loss falls, the bundle loads, and the held-out days are scored and better than conserved bicubic."""
    out, card, losses = trained
    assert list(losses) == [50, 100, 150, 200]
    assert losses[200] < 0.8 * losses[50]
    model = load_model(out / "tiny")
    assert model.card == card
    assert card.training["files"] == [f"day_202310{d:02d}.tif" for d in range(1, 5)]
    assert card.training["recipe"] == parse_recipe(BASE).to_dict()
    assert card.envelope["fine_cell_m"][1] == pytest.approx(2 * card.envelope["fine_cell_m"][0], rel=0.01)
    (entry,) = card.skill
    assert (entry["name"], entry["scenes"]) == ("later", 2)
    assert entry["psnr"]["srcnn"] > entry["psnr"]["conserved bicubic"]
    assert (out / "tiny" / "training.csv").read_text().splitlines()[0] == "step,loss,seconds"


def test_same_seed_same_weights(trained, folder):
    out, _, _ = trained
    train(parse_recipe(BASE), folder, out / "again")
    first, second = load_model(out / "tiny"), load_model(out / "again")
    for (a, _), (b, _) in zip(first._bundle.onnx_arrays(), second._bundle.onnx_arrays(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("options", ["equivariant = false", "residual = false\nequivariant = false"])
def test_plain_networks_train_too(folder, tmp_path, options):
    """The SRCNN of the papers: biases, no residual, mean squared error, no conservation in the loss."""
    pytest.importorskip("tensorflow")
    text = BASE.replace("[patches]", f'{options}\n[loss]\nkind = "mse"\nconserve = false\n[patches]')
    losses: list[float] = []
    card = train(parse_recipe(text).with_steps(200), folder, tmp_path / "plain", lambda _, loss: losses.append(loss))
    assert losses[-1] < 0.8 * losses[0]
    assert card.network.weight_count(1, bias=True) == sum(
        k.size + b.size for k, b in load_model(tmp_path / "plain")._bundle.onnx_arrays()
    )
