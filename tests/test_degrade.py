"""geosr.degrade: what a coarser sensor would see, gaps and areas included."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from geosr import conserve, grid
from geosr.degrade import area_mean, degrade, modcrop
from geosr.errors import UsageError
from strategies import geoboxes, values


@given(st.data(), geoboxes(max_side=6), st.integers(2, 4), st.sampled_from([0.01, 0.5, 1.0]))
def test_area_mean_by_numpy_average(data, box, scale, least):
    fine_box = grid.refine(box, scale)
    fine = data.draw(values(fine_box.shape, np.float64))
    areas = grid.cell_areas(fine_box)
    coarse = area_mean(fine, areas, scale, least)
    full = np.broadcast_to(areas, fine.shape)
    for i, j in np.ndindex(tuple(box.shape)):
        cell = slice(i * scale, (i + 1) * scale), slice(j * scale, (j + 1) * scale)
        good = ~np.isnan(fine[cell])
        share = full[cell][good].sum() / full[cell].sum()
        if abs(share - least) < 1e-6 and least < 1:
            continue  # a tie: either answer is right
        assert np.isnan(coarse[i, j]) == (not good.any() or share < least - 1e-9)
        if not np.isnan(coarse[i, j]):
            mean = np.average(fine[cell][good], weights=full[cell][good])
            assert coarse[i, j] == pytest.approx(mean, rel=1e-12, abs=1e-9)


@given(st.data(), geoboxes(max_side=6), st.integers(2, 4))
def test_degrading_undoes_conservation(data, box, scale):
    """The coarse field that a conserved refinement averages to is the coarse field."""
    coarse = data.draw(values(box.shape, np.float64))
    areas = grid.cell_areas(grid.refine(box, scale))
    rough = np.random.default_rng(0).normal(size=(box.shape[0] * scale, box.shape[1] * scale))
    fine = conserve.conserve(rough, coarse, areas, scale)
    back = area_mean(fine, areas, scale)
    np.testing.assert_allclose(back, coarse, atol=1e-9)


def test_leading_dimensions():
    fine = np.arange(32, dtype=np.float32).reshape(2, 4, 4)
    out = area_mean(fine, np.ones((4, 1)), 2)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out[0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(out[1], out[0] + 16)


def field(shape, dims=("lat", "lon"), gaps=True):
    box = GeoBox(shape, Affine(0.1, 0, 5, 0, -0.1, 60), "EPSG:4326")
    data = np.random.default_rng(0).gamma(1, 3, shape).astype(np.float32)
    if gaps:
        data[0, 0] = np.nan
    return grid.with_geobox(xr.DataArray(data, dims=dims, attrs={"units": "mol m-2"}, name="no2"), box)


@pytest.mark.parametrize(("shape", "cropped"), [((13, 9), (12, 8)), ((12, 8), (12, 8)), ((7, 4), (4, 4))])
def test_modcrop_keeps_the_upper_left(shape, cropped):
    truth = field(shape)
    out = modcrop(truth, 4)
    assert out.shape == cropped
    assert grid.geobox_of(out) == grid.geobox_of(truth)[: cropped[0], : cropped[1]]
    np.testing.assert_array_equal(out.values, truth.values[: cropped[0], : cropped[1]])
    assert out.attrs == truth.attrs


def test_nothing_left_is_an_error():
    with pytest.raises(UsageError, match="smaller --scale"):
        modcrop(field((3, 9)), 4)


def test_degrade_on_its_grid():
    truth = field((13, 9))
    coarse = degrade(truth, 4, min_valid=0.5)
    box = grid.geobox_of(coarse)
    assert coarse.shape == box.shape == (3, 2)
    assert box.affine == Affine(0.4, 0, 5, 0, -0.4, 60)
    assert coarse.attrs["units"] == "mol m-2"
    assert np.isfinite(coarse.values).all()
    assert np.isnan(degrade(truth, 4).values).sum() == 1
    areas = grid.cell_areas(grid.geobox_of(modcrop(truth, 4)))
    np.testing.assert_array_equal(coarse.values, area_mean(truth.values[:12, :8], areas, 4, 0.5))


def test_degrade_in_any_dimension_order():
    truth = field((12, 8))
    stack = xr.concat([truth, truth + 1], "time")
    turned = degrade(stack.transpose("lat", "lon", "time"), 4, 0.5)
    assert turned.dims == ("time", "lat", "lon")
    np.testing.assert_allclose(turned[1] - turned[0], 1, atol=1e-5)
