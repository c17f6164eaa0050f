"""geosr.evaluate: the protocol, its baselines, and whether the shipped models win."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

from geosr import conserve, grid
from geosr.degrade import area_mean
from geosr.downscale import downscale
from geosr.errors import InputError, ModelError
from geosr.evaluate import (
    BACK_PROJECTED,
    BICUBIC,
    BILINEAR,
    CONSERVED,
    NEAREST,
    SRCNN,
    back_projected,
    bilinear,
    evaluate,
    evaluate_array,
    refined,
)
from geosr.models import default_model, load_model
from geosr.scenes import read_truth


def plumes(shape=(96, 80), seed=0):
    """Smooth background, and point sources smeared downwind."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    out = 2 + 0.01 * y
    for _ in range(12):
        cy, cx, strength = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.gamma(2, 3)
        along = np.clip(x - cx, 0, None)
        width = 1.5 + 0.15 * along
        out += np.where(x >= cx, strength / width * np.exp(-0.5 * ((y - cy) / width) ** 2 - along / 30), 0)
    return out.astype(np.float32)


def raster(values, **attrs):
    box = GeoBox(values.shape, Affine(0.05, 0, 5, 0, -0.05, 52), "EPSG:4326")
    return grid.with_geobox(xr.DataArray(values, dims=("y", "x"), attrs=attrs), box)


def test_order_of_the_baselines_and_what_is_reported():
    truth = raster(plumes(), units="1e15 molec cm-2")
    found = evaluate(truth, 4)
    assert list(found.valid.scores) == [NEAREST, BILINEAR, BICUBIC, CONSERVED, BACK_PROJECTED, SRCNN]
    psnr = {name: s.psnr for name, s in found.valid.scores.items()}
    assert psnr[NEAREST] < psnr[BILINEAR] < psnr[BICUBIC] < psnr[CONSERVED] < psnr[BACK_PROJECTED] < psnr[SRCNN]
    assert found.valid.best_interpolation == BACK_PROJECTED
    assert found.valid.gain(BICUBIC) == pytest.approx(psnr[SRCNN] - psnr[BICUBIC])
    assert found.valid.data_range == pytest.approx(float(np.ptp(truth.values)))
    assert found.valid.cells == found.away_from_gaps.cells == truth.size
    assert found.conservation_error <= 1e-6 * float(truth.max())
    assert (found.model, found.units, found.scale) == (default_model(4), "1e15 molec cm-2", 4)
    assert json.loads(json.dumps(found.to_dict()))["valid"]["scores"][SRCNN]["psnr"] == psnr[SRCNN]


def test_units_do_not_matter():
    values = plumes()
    small = evaluate(raster(values / np.float32(60221.4076), units="mol m-2"), 4)
    large = evaluate(raster(values, units="1e15 molec cm-2"), 4)
    bare = evaluate(raster(values), 4)
    for name in (BICUBIC, SRCNN):
        assert small.valid.scores[name].psnr == pytest.approx(large.valid.scores[name].psnr, abs=1e-3)
        assert bare.valid.scores[name].psnr == pytest.approx(large.valid.scores[name].psnr, abs=1e-3)


def test_gaps_are_not_scored():
    values = plumes()
    values[30:33, 40:50] = np.nan
    found = evaluate(raster(values), 4, network=False)
    assert found.valid.cells < np.isfinite(values).sum() + 1
    # 2 x 3 coarse cells hold the gap, and 2 more to each side are near it.
    assert found.away_from_gaps.cells == values.size - 16 * (6 * 7)
    assert found.model is None
    assert SRCNN not in found.valid.scores
    filled = values.copy()
    filled[30:33, 40:50] = 500  # what is in a gap must not matter: here it is no gap, and everything near changes
    assert evaluate(raster(filled), 4, network=False).away_from_gaps.data_range > found.away_from_gaps.data_range


def test_refined_fields_have_the_gaps_of_the_coarse():
    coarse = plumes((20, 18))
    coarse[4, 5] = np.nan
    fields = refined(coarse, np.ones((80, 1)), 4, load_model(default_model(4)))
    for field in fields.values():
        np.testing.assert_array_equal(np.isnan(field), conserve.spread(np.isnan(coarse), 4))


@pytest.mark.parametrize("method", ["srcnn", "bicubic"])
def test_what_is_judged_is_what_downscale_gives(method):
    """The protocol refines whole arrays; downscale goes by tiles. Same numbers, gaps and edges included."""
    coarse = plumes((40, 37))
    coarse[10:13, 20:22] = np.nan
    found = downscale(raster(coarse, units="1e15 molec cm-2"), 4, method=method, tile=64).values
    areas = grid.cell_areas(grid.refine(grid.geobox_of(raster(coarse)), 4))
    model = load_model(default_model(4))
    judged = refined(coarse, areas, 4, model)[SRCNN if method == "srcnn" else CONSERVED]
    np.testing.assert_allclose(found, judged, atol=2e-6 * np.nanmax(coarse))


def test_modcrop_of_odd_sizes():
    found = evaluate(raster(plumes((50, 47))), 4, network=False)
    assert found.valid.cells == 48 * 44


@pytest.mark.parametrize("scale", [2, 3, 5])
def test_bilinear_is_gdal_s(scale):
    """Referee: GDAL's bilinear resampling of the same array, away from the edge."""
    coarse = plumes((12, 14))
    with rasterio.MemoryFile() as memory:
        profile = {"driver": "GTiff", "width": 14, "height": 12, "count": 1, "dtype": "float32"}
        with memory.open(**profile) as file:
            file.write(coarse, 1)
        with memory.open() as file:
            shape = (1, 12 * scale, 14 * scale)
            gdal = file.read(1, out_shape=shape[1:], resampling=Resampling.bilinear)
    ours = bilinear(np.pad(coarse, 1, mode="edge"), scale)
    np.testing.assert_allclose(ours[scale:-scale, scale:-scale], gdal[scale:-scale, scale:-scale], atol=1e-5)


def test_back_projection_converges_to_the_coarse_field():
    coarse = plumes((30, 26)).astype(np.float64)
    areas = grid.cell_areas(GeoBox((120, 104), Affine(0.05, 0, 5, 0, -0.05, 52), "EPSG:4326"))
    left = []
    for rounds in (0, 1, 3, 10):
        fine = back_projected(np.pad(coarse, 2 * (rounds + 1), mode="edge"), areas, 4, rounds)
        assert fine.shape == (120, 104)
        left.append(np.abs(area_mean(fine, areas, 4) - coarse).max())
    assert left[0] > 3 * left[1] > 6 * left[2]
    assert left[3] < 0.01 * left[0]


def test_wrong_questions():
    with pytest.raises(InputError, match="--time"):
        evaluate(xr.DataArray(np.zeros((2, 8, 8)), dims=("time", "y", "x")), 4)
    with pytest.raises(InputError, match="no valid"):
        evaluate(raster(np.full((16, 16), np.nan, np.float32)), 4, network=False)
    with pytest.raises(ModelError, match="--method bicubic"):
        evaluate(raster(plumes((16, 16))), 8)
    with pytest.raises(ModelError, match="for scale 2"):
        evaluate(raster(plumes((16, 16))), 4, default_model(2))


# --- real data outside the training set ---

HELD_OUT = {
    "no2_omi_world/WorldNO2_2019.tif": "molec cm-2",
    "no2_omi_world/WorldNO2_2020.tif": "molec cm-2",
    "no2_gems_china/daily/gems_no2_trop_20231024_daymean.tif": "1e15 molec cm-2",
    "no2_gems_china/daily/gems_no2_trop_20231030_daymean.tif": "1e15 molec cm-2",
}


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", HELD_OUT)
def test_shipped_models_win_on_held_out_data(data_dir, name, scale):
    """Another sensor, later dates: better than the best interpolation, in PSNR and in structure."""
    values, areas = read_truth(data_dir / name, HELD_OUT[name], "1e15 molec cm-2")
    ny, nx = (n // scale * scale for n in values.shape)
    model = load_model(default_model(scale))
    assert name.rsplit("/")[-1] not in model.card.training["files"]
    found = evaluate_array(values[:ny, :nx], areas[:ny], scale, model, units="1e15 molec cm-2")
    for table in (found.valid, found.away_from_gaps):
        assert table.gain(CONSERVED) > 0.3
        assert table.gain(BACK_PROJECTED) > 0.15
        assert table.scores[SRCNN].ssim > table.scores[BACK_PROJECTED].ssim
