"""geosr.interpolate against GDAL, and its own promises."""

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from geosr.interpolate import RADIUS, bicubic, phase_weights
from strategies import smooth_field


@pytest.mark.parametrize("scale", range(2, 9))
def test_weights_reproduce_constants_and_lines(scale):
    weights = phase_weights(scale)
    centres = (np.arange(scale) + 0.5) / scale - 0.5
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-15)
    np.testing.assert_allclose(weights @ np.arange(-2, 3), centres, atol=1e-15)
    # Keys 1981: third-order convergence, so parabolas too.
    np.testing.assert_allclose(weights @ np.arange(-2, 3) ** 2, centres**2, atol=1e-15)


@pytest.mark.parametrize("scale", [2, 3, 4, 5])
def test_agrees_with_gdal_cubic(scale):
    """Referee: GDAL's cubic warp, away from the rim where GDAL renormalises."""
    import rasterio
    from rasterio.warp import Resampling, reproject

    coarse = smooth_field((24, 31), dtype=np.float64)
    affine = Affine(1, 0, 0, 0, -1, 24)
    fine = np.empty((24 * scale, 31 * scale))
    reproject(
        coarse,
        fine,
        src_transform=affine,
        dst_transform=affine * Affine.scale(1 / scale),
        src_crs="EPSG:3857",
        dst_crs="EPSG:3857",
        resampling=Resampling.cubic,
    )
    rim = 2 * scale
    ours = bicubic(np.pad(coarse, RADIUS, mode="edge"), scale)
    assert rasterio.__version__
    np.testing.assert_allclose(ours[rim:-rim, rim:-rim], fine[rim:-rim, rim:-rim], atol=1e-6 * np.ptp(coarse))


@given(st.integers(2, 8), st.integers(0, 5), st.integers(0, 5))
def test_value_does_not_depend_on_the_extent(scale, top, left):
    coarse = smooth_field((20, 22))
    whole = bicubic(coarse, scale)
    part = bicubic(coarse[top : top + 12, left : left + 13], scale)
    inside = whole[top * scale : (top + 8) * scale, left * scale : (left + 9) * scale]
    assert np.array_equal(part, inside)


def test_phase_shift_is_below_a_hundredth_of_a_cell():
    """The centroid of a refined blob stays where it was."""
    y, x = np.mgrid[:25, :25]
    blob = np.exp(-((y - 12.3) ** 2 + (x - 11.6) ** 2) / 18)
    for scale in (2, 3, 4):
        fine = bicubic(np.pad(blob, RADIUS, mode="edge"), scale)
        position = (np.arange(25 * scale) + 0.5) / scale - 0.5
        assert (fine.sum(axis=1) @ position) / fine.sum() == pytest.approx(12.3, abs=0.01)
        assert (fine.sum(axis=0) @ position) / fine.sum() == pytest.approx(11.6, abs=0.01)
