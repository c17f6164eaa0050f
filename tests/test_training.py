"""Recipes, scenes, examples, and a short run from raster to bundle."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from affine import Affine

from bundles import random_bundle
from geosr import interpolate
from geosr.conserve import conserve
from geosr.degrade import area_mean
from geosr.errors import ModelError
from geosr.models import load_model
from geosr.training import train
from geosr.training.examples import Sampler
from geosr.training.recipe import Data, Recipe, parse_recipe, read_recipe
from geosr.training.scenes import load_scenes
from geosr.training.split import check_split

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

SIGMA = """
[sigma]
architecture = "sigma-24x4"
steps = 30
"""

VALIDATE = """
[[validate]]
files = "day_*.tif"
units = "1e15 molec cm-2"
dates = ["2023-10-05", "2023-10-05"]
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


@pytest.mark.parametrize("network", ["srcnn-9-3-5", "edsr-32x6"])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_committed_recipes(scale, network):
    recipe = read_recipe(f"no2-{network}-x{scale}")
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


def blocks_to_field(blocks, scale):
    """(n, K, K, scale ** 2) by coarse cell to (n, K scale, K scale)."""
    n, k = blocks.shape[:2]
    return blocks.reshape(n, k, k, scale, scale).transpose(0, 1, 3, 2, 4).reshape(n, k * scale, k * scale)


@pytest.mark.parametrize("network", ["srcnn-9-1-5", "edsr-16x4"])
def test_examples(folder, network):
    recipe = parse_recipe(BASE.replace("batch = 4", "batch = 64").replace("srcnn-9-1-5", network))
    sampler = Sampler(load_scenes(recipe, folder), recipe)
    batch = sampler.batch()
    h, k = sampler.halo, 6
    assert h == {"srcnn-9-1-5": 4, "edsr-16x4": 10}[network]
    assert batch.coarse.shape == (64, k + 2 * h, k + 2 * h, 1)
    assert batch.truth.shape == (64, k, k, 16)
    assert batch.mask.shape == (64, k, k, 1)
    assert np.isfinite(batch.coarse).all()
    assert np.isfinite(batch.truth).all()
    assert 0.9 < batch.mask.mean() < 1
    assert batch.weight.min() > 0
    # Standardised by the coarse field over the mask, of which the truth's blocks are the means ...
    inner = batch.coarse[:, h:-h, h:-h]
    assert abs(inner[batch.mask > 0].mean()) < 1e-4
    assert inner[batch.mask > 0].std() == pytest.approx(1, abs=0.01)
    means = batch.truth.mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(means[batch.mask > 0], inner[batch.mask > 0], atol=0.02)  # areas differ a little
    # ... and whose fine cells lie where bicubic refinement has them, turned alike.
    fine = np.stack([interpolate.bicubic(c, 4) for c in batch.coarse[:, h - 2 : h + k + 2, h - 2 : h + k + 2, 0]])
    mask = np.repeat(np.repeat(batch.mask[..., 0], 4, axis=1), 4, axis=2) > 0
    truth = blocks_to_field(batch.truth, 4)
    error = (fine - truth)[mask]
    assert error.std() < 0.6
    for other in (np.rot90(truth, 1, (1, 2)), truth[:, ::-1], truth[:, :, ::-1]):
        assert (fine - other)[mask & (other != 0)].std() > 2 * error.std()


def test_some_examples_are_at_an_edge(folder):
    """On some sides the coarse field is continued by its edge values, as in inference; truth and inner cells stay."""
    base = BASE.replace("batch = 4", "batch = 32")
    recipe = parse_recipe(base.replace("batch = 32", "batch = 32\nedge = 1.0"))
    sampler = Sampler(load_scenes(recipe, folder), recipe)
    coarse, h = sampler.batch().coarse[..., 0], sampler.halo
    sides = [coarse[:, :h], coarse[:, -h:], coarse[:, :, :h].swapaxes(1, 2), coarse[:, :, -h:].swapaxes(1, 2)]
    flat = np.array([(np.ptp(side, axis=1).max(axis=1) < 1e-6) for side in sides])
    assert flat.any(axis=0).mean() > 0.7  # where there is a gap at the edge, its filling is not flat
    assert 0.3 < flat.mean() < 0.8
    never = Sampler(load_scenes(recipe, folder), parse_recipe(base)).batch().coarse[..., 0]
    assert (np.ptp(never[:, :h], axis=1).max(axis=1) > 1e-6).mean() > 0.9


def test_examples_are_the_seed_s(folder):
    recipe = parse_recipe(BASE)
    scenes = load_scenes(recipe, folder)
    a, b = Sampler(scenes, recipe).batch(), Sampler(scenes, recipe).batch()
    np.testing.assert_array_equal(a.coarse, b.coarse)
    np.testing.assert_array_equal(a.truth, b.truth)


def test_contrast_draws_the_plumes(folder):
    """The more the odds follow the contrast, the larger the mean spread of what is drawn."""
    means = []
    for power in (0.0, 1.0, 3.0):
        text = BASE.replace("batch = 4", f"batch = 150\ncontrast_power = {power}")
        recipe = parse_recipe(text.replace("[network]", "[loss]\nspread_power = 1.0\n[network]"))
        means.append(Sampler(load_scenes(recipe, folder), recipe).batch().weight.mean())  # the weight is the spread
    assert means[0] < means[1] < means[2]


@pytest.mark.parametrize(("network", "scale"), [("srcnn-9-1-5", 4), ("srcnn-9-3-5-n64", 3), ("edsr-16x4", 2)])
def test_the_loss_sees_what_inference_makes(tmp_path, network, scale):
    """Referee: the prediction of the same weights by ONNX Runtime, conserved by geosr.conserve."""
    pytest.importorskip("tensorflow")
    from geosr.models import keras_network
    from geosr.training.fitting import Refiner

    model = load_model(random_bundle(tmp_path / "model", network, scale))
    arch = model.card.network
    keras_model = keras_network.build(arch, scale=scale, training=False)
    keras_network.with_arrays(keras_model, model.arrays())
    rng, k = np.random.default_rng(0), 5
    coarse = rng.normal(size=(k + 2 * model.halo,) * 2).astype(np.float32)
    truth = rng.normal(size=(1, k, k, scale**2)).astype(np.float32)
    inner = coarse[model.halo : -model.halo, model.halo : -model.halo]
    fine = model.predict(coarse)
    for conserving in (True, False):
        refiner = Refiner(keras_model, arch, scale, conserve=conserving)
        error = refiner.error(coarse[None, ..., None], truth, model.halo).numpy()
        expected = fine - blocks_to_field(truth, scale)[0]
        if conserving:  # block means of the error are taken away: as if the truth's were the coarse field's
            expected = conserve(expected, np.zeros_like(inner), np.ones((k * scale, 1)), scale)
        np.testing.assert_allclose(blocks_to_field(error, scale)[0], expected, atol=2e-5 * np.ptp(fine))


def test_a_run_that_was_interrupted_ends_the_same(folder, tmp_path):
    """Broken off twice, in both phases, and resumed: the weights are those of a run in one go, to the bit."""
    pytest.importorskip("tensorflow")
    recipe = parse_recipe(BASE.replace("steps = 200", "steps = 30\nvalidate_every = 10") + SIGMA)
    train(recipe, folder, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop_at(phase, step):
        def note(row):
            if (row.phase, row.step) == (phase, step):
                raise Stop

        return note

    for phase, step in (("model", 20), ("sigma", 20)):
        with pytest.raises(Stop):
            train(recipe, folder, tmp_path / "parts", stop_at(phase, step), resume=phase == "sigma")
        assert not (tmp_path / "parts").exists()
        assert (tmp_path / "parts.checkpoint").is_dir()
    with pytest.raises(ModelError, match="another recipe"):
        train(recipe.with_steps(31), folder, tmp_path / "parts", resume=True)
    (tmp_path / "parts.checkpoint").rename(tmp_path / "other.checkpoint")
    with pytest.raises(ModelError, match="no checkpoint"):
        train(recipe, folder, tmp_path / "parts", resume=True)
    (tmp_path / "other.checkpoint").rename(tmp_path / "parts.checkpoint")
    train(recipe, folder, tmp_path / "parts", resume=True)
    assert not (tmp_path / "parts.checkpoint").exists()
    whole, parts = load_model(tmp_path / "whole"), load_model(tmp_path / "parts")
    for part in ("model", "sigma"):
        for (a, _), (b, _) in zip(whole.arrays(part), parts.arrays(part), strict=True):
            np.testing.assert_array_equal(a, b)
    assert (tmp_path / "whole/training.csv").read_text() == (tmp_path / "parts/training.csv").read_text()


def test_early_stopping_keeps_the_best(folder, tmp_path):
    """A learning rate that ruins the network: training ends after ``patience`` looks, with the best look's weights."""
    pytest.importorskip("tensorflow")
    text = BASE.replace("steps = 200", "steps = 200\nvalidate_every = 5\npatience = 2")
    text = text.replace("learning_rate = 3e-3", "learning_rate = 3.0").replace("[network]", VALIDATE + "[network]")
    text = text.replace('["2023-10-05", "2023-10-31"]', '["2023-10-06", "2023-10-31"]')
    rows = []
    train(parse_recipe(text), folder, tmp_path / "m", rows.append)
    looks = {row.step: row.validation for row in rows if row.validation is not None}
    best = min(looks, key=looks.get)
    assert max(looks) == best + 10 < 200


def test_too_many_gaps_say_what_to_change(folder):
    recipe = parse_recipe(BASE.replace("size = 24", "size = 120\nmin_valid = 1.0"))
    with pytest.raises(ModelError, match=r"patches.size"):
        Sampler(load_scenes(recipe, folder), recipe)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    pytest.importorskip("tensorflow")
    out = tmp_path_factory.mktemp("runs")
    losses: dict[int, float] = {}
    card = train(parse_recipe(BASE), folder, out / "tiny", lambda row: losses.update({row.step: row.loss}))
    return out, card, losses


def test_a_short_run(trained):
    """The loss falls, the bundle loads, and the held-out days are scored and better than conserved bicubic."""
    out, card, losses = trained
    assert list(losses) == [50, 100, 150, 200]
    assert losses[200] < 0.9 * losses[50]
    model = load_model(out / "tiny")
    assert model.card == card
    assert card.training["files"] == [f"day_202310{d:02d}.tif" for d in range(1, 5)]
    assert card.training["recipe"] == parse_recipe(BASE).to_dict()
    assert card.envelope["coarse_cell_m"][1] == pytest.approx(2 * card.envelope["coarse_cell_m"][0], rel=0.01)
    assert set(card.envelope) == {"units", "coarse_cell_m", "statistics"}
    (entry,) = card.skill
    assert (entry["name"], entry["scenes"]) == ("later", 2)
    assert entry["psnr"]["srcnn"] > entry["psnr"]["conserved bicubic"]
    assert (out / "tiny" / "training.csv").read_text().splitlines()[0] == "phase,step,loss,validation"


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
    card = train(parse_recipe(text).with_steps(200), folder, tmp_path / "plain", lambda row: losses.append(row.loss))
    assert losses[-1] < 0.8 * losses[0]
    assert card.network.weight_count(1, 4, bias=True) == sum(
        k.size + b.size for k, b in load_model(tmp_path / "plain")._bundle.onnx_arrays()
    )
