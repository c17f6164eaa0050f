"""geosr.conserve: means kept, gaps kept, nothing else touched."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geosr import conserve
from geosr.grid import cell_areas, refine
from strategies import geoboxes, values


@given(st.data(), geoboxes(max_side=9), st.integers(2, 4), st.sampled_from([np.float32, np.float64]))
def test_means_are_the_coarse_values(data, box, scale, dtype):
    coarse = data.draw(values(box.shape, dtype))
    fine = data.draw(values((box.shape[0] * scale, box.shape[1] * scale), dtype, gaps=False))
    weights = cell_areas(refine(box, scale))
    result = conserve.conserve(fine, coarse, weights, scale)
    assert result.dtype == dtype
    assert np.array_equal(np.isnan(result), conserve.spread(np.isnan(coarse), scale))
    # An independent mean, by np.average cell by cell.
    full = np.broadcast_to(weights, fine.shape)
    limit = (1e-6 if dtype == np.float32 else 1e-12) * max(np.abs(fine).max(), np.nanmax(np.abs(coarse), initial=1))
    for i, j in np.argwhere(np.isfinite(coarse))[:20]:
        cell = slice(i * scale, (i + 1) * scale), slice(j * scale, (j + 1) * scale)
        mean = np.average(result[cell].astype(np.float64), weights=full[cell])
        assert abs(mean - coarse[i, j]) <= limit
    assert conserve.conservation_error(result, coarse, weights, scale) <= limit


def test_the_correction_is_constant_in_a_cell():
    fine = np.arange(16.0).reshape(4, 4)
    result = conserve.conserve(fine, np.full((2, 2), 100.0), np.ones((4, 1)), 2)
    change = (result - fine).reshape(2, 2, 2, 2).swapaxes(1, 2).reshape(4, 4)
    assert np.ptp(change, axis=1) == pytest.approx(0)


def test_a_broken_mean_is_found():
    fine, coarse = np.ones((4, 4)), np.ones((2, 2))
    fine[0, 0] = 5
    assert conserve.conservation_error(fine, coarse, np.ones((4, 1)), 2) == pytest.approx(1)


def test_mask_without_correction():
    fine, coarse = np.ones((4, 4), np.float32), np.array([[3, np.nan], [3, 3]], np.float32)
    result = conserve.mask(fine, coarse, 2)
    assert np.isnan(result[:2, 2:]).all()
    assert (np.delete(result.ravel(), [2, 3, 6, 7]) == 1).all()
