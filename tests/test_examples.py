"""Examples: squares of truth with the coarse field that inference would start from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from geosr import interpolate
from geosr.channel import AffineScaler
from geosr.degrade import area_mean
from geosr.errors import ModelError
from geosr.models.architectures import architecture
from geosr.training.examples import Ahead, Sampler, blur_rim, halo_of, reach_of
from geosr.training.recipe import Patches, Response, parse_recipe
from geosr.training.scenes import Scene, load_scenes
from rasters import RECIPE, blocks_to_field, plumes, write_days


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_days(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("network", ["srcnn-9-1-5", "edsr-16x4"])
def test_examples(folder, network):
    recipe = parse_recipe(RECIPE.replace("batch = 4", "batch = 64").replace("srcnn-9-1-5", network))
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
    base = RECIPE.replace("batch = 4", "batch = 32")
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
    recipe = parse_recipe(RECIPE)
    scenes = load_scenes(recipe, folder)
    a, b = Sampler(scenes, recipe).batch(), Sampler(scenes, recipe).batch()
    np.testing.assert_array_equal(a.coarse, b.coarse)
    np.testing.assert_array_equal(a.truth, b.truth)


def test_contrast_draws_the_plumes(folder):
    """The more the odds follow the contrast, the larger the mean spread of what is drawn."""
    means = []
    for power in (0.0, 1.0, 3.0):
        text = RECIPE.replace("batch = 4", f"batch = 150\ncontrast_power = {power}")
        recipe = parse_recipe(text.replace("[network]", "[loss]\nspread_power = 1.0\n[network]"))
        means.append(Sampler(load_scenes(recipe, folder), recipe).batch().weight.mean())  # the weight is the spread
    assert means[0] < means[1] < means[2]


def test_too_many_gaps_say_what_to_change(folder):
    recipe = parse_recipe(RECIPE.replace("size = 24", "size = 120\nmin_valid = 1.0"))
    with pytest.raises(ModelError, match=r"patches.size"):
        Sampler(load_scenes(recipe, folder), recipe)


def test_a_flat_raster_gives_no_examples():
    recipe = parse_recipe(RECIPE)
    for values in (np.full((60, 60), 3, np.float32), np.full((60, 60), np.nan, np.float32)):
        with pytest.raises(ModelError, match="contrast"):
            Sampler([Scene(values, np.ones((60, 1)), 1.0, ())], recipe)


def test_gaps_in_every_coarse_cell_end_the_search():
    recipe = parse_recipe(RECIPE)
    values = plumes((60, 60), 1)
    values[::3, ::3] = np.nan  # a coarse cell of 4 x 4 always holds one
    with pytest.raises(ModelError, match="complete coarse cells"):
        Sampler([Scene(values, np.ones((60, 1)), 1.0, ())], recipe).batch()


def test_a_raster_smaller_than_a_square_is_a_square_with_gaps():
    recipe = parse_recipe(RECIPE)
    scene = Scene(plumes((16, 20), 1), np.ones((16, 1)), 1.0, ())
    batch = Sampler([scene], recipe).batch()
    valid = batch.mask.sum(axis=(1, 2, 3))
    assert valid.max() <= 20
    assert valid.min() >= 2


def test_scenes_come_by_their_weight():
    """One scene in four, by its weight, has values of 100 more; constants that standardise leave them to see."""
    recipe = replace(parse_recipe(RECIPE), patches=Patches(24, 400))
    values, areas = plumes((60, 60), 1), np.ones((60, 1))
    scenes = [Scene(values, areas, 3.0, ()), Scene(values + 1000, areas, 1.0, ())]
    batch = Sampler(scenes, recipe, AffineScaler(0.0, 1.0)).batch()
    assert (batch.coarse[:, 8, 8, 0] > 500).mean() == pytest.approx(0.25, abs=0.06)


@pytest.mark.parametrize(
    ("name", "scale", "halo"), [("edsr-32x6", 4, 14), ("srcnn-9-1-5", 4, 4), ("srcnn-9-3-5", 2, 6)]
)
def test_the_reach_is_what_the_network_sees(name, scale, halo):
    recipe = parse_recipe(RECIPE)
    recipe = replace(recipe, scale=scale, network=replace(recipe.network, architecture=name))
    assert halo_of(architecture(name), scale) * scale >= architecture(name).radius(scale)
    assert (halo_of(architecture(name), scale), reach_of(recipe)) == (halo, halo * scale)


# --- the sensor ------------------------------------------------------------------------------------------------


def examples_with(response: Response, network="srcnn-9-1-5", **patches):
    recipe = parse_recipe(RECIPE)
    recipe = replace(recipe, degradation=response, patches=replace(recipe.patches, batch=24, **patches))
    scene = Scene(plumes((120, 120), 3), np.ones((120, 1)), 1.0, ())
    return Sampler([scene], recipe)


def test_a_sensor_that_only_averages_changes_nothing():
    plain = examples_with(Response()).batch()
    again = examples_with(Response((), [0.0, 0.0])).batch()
    for a, b in zip(vars(plain).values(), vars(again).values(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_blur_is_a_gaussian_of_the_mtf_before_the_mean():
    """Referee: scipy's Gaussian whose transfer function at the coarse Nyquist frequency is the MTF."""
    mtf = (0.5, 0.25)
    sampler = examples_with(Response(mtf))
    scene, scale, rim = sampler._scenes[0], 4, sampler.blur
    assert rim == blur_rim(sampler.recipe) > 0
    side = 24 + 2 * (sampler.halo * scale + rim)
    fine, areas = scene.values[40 : 40 + side, 40 : 40 + side], scene.areas[40 : 40 + side]
    got = sampler._coarse(fine, areas, 0)
    # exp(-2 pi^2 s^2 f^2) = mtf at f = 1 / (2 scale)
    sx, sy = (scale * np.sqrt(-2 * np.log(m)) / np.pi for m in mtf)
    expected = gaussian_filter(fine.astype(np.float64), (sy, sx), truncate=6)[rim:-rim, rim:-rim]
    np.testing.assert_allclose(got, area_mean(expected, areas[rim:-rim], scale), rtol=1e-2)  # theirs is sampled
    turned = sampler._coarse(fine, areas, 1)
    across = gaussian_filter(fine.astype(np.float64), (sx, sy), truncate=6)[rim:-rim, rim:-rim]
    np.testing.assert_allclose(turned, area_mean(across, areas[rim:-rim], scale), rtol=1e-2)
    assert np.abs(turned / got - 1).max() > 0.05


def test_noise_is_added_to_coarse_cells():
    """In the units of the field; a square's own spread makes it larger or smaller for the network."""
    quiet, noisy = (examples_with(Response((), n)) for n in (0.0, 2.0))
    quiet.scaler = noisy.scaler = AffineScaler(0.0, 1.0)
    for sampler, spread in ((quiet, 0.0), (noisy, 2.0)):
        batch, h = sampler.batch(), sampler.halo
        inside = batch.coarse[:, h:-h, h:-h, 0]
        error = (inside - batch.truth.mean(axis=-1))[batch.mask[..., 0] > 0]
        assert error.std() == pytest.approx(spread, rel=0.1, abs=1e-4)
        assert abs(error.mean()) < 0.2


def test_ranges_are_drawn_from():
    recipe = parse_recipe(RECIPE.replace("[patches]", "[degradation]\nnoise = [0.0, 4.0]\n[patches]"))
    assert recipe.degradation.noise_range == (0, 4)
    sampler = examples_with(recipe.degradation)
    sampler.scaler, h = AffineScaler(0.0, 1.0), sampler.halo
    batch = sampler.batch()
    errors = (batch.coarse[:, h:-h, h:-h, 0] - batch.truth.mean(axis=-1)).std(axis=(1, 2))
    assert errors.min() < 1 < 3 < errors.max()
    assert errors.mean() == pytest.approx(2, abs=0.6)


def test_batches_made_ahead_are_the_samplers(folder):
    """The same ones in the same order; its generator is at each where the sampler's would be, and is left so."""
    recipe = parse_recipe(RECIPE)
    plain, behind = (Sampler(load_scenes(recipe, folder), recipe) for _ in range(2))
    with Ahead(behind) as ahead:
        for _ in range(3):
            expected, got = plain.batch(), ahead.batch()
            for name, values in vars(expected).items():
                np.testing.assert_array_equal(getattr(got, name), values)
            assert ahead.rng.bit_generator.state == plain.rng.bit_generator.state
    assert behind.rng.bit_generator.state == plain.rng.bit_generator.state


def test_what_goes_wrong_ahead_is_raised(folder, monkeypatch):
    recipe = parse_recipe(RECIPE)
    sampler = Sampler(load_scenes(recipe, folder), recipe)
    monkeypatch.setattr(sampler, "_cut", lambda *_: None)
    with Ahead(sampler) as ahead, pytest.raises(ModelError, match="complete coarse cells"):
        ahead.batch()
