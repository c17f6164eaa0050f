"""geosr.gaps: what may be seen is filled, and the filling does not know where a tile ends."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from geosr.gaps import fill_gaps
from strategies import smooth_field, values


@given(st.data(), st.integers(1, 5))
def test_no_nan_stays_and_no_value_changes(data, radius):
    block = data.draw(values((9, 11)))
    filled = fill_gaps(block, radius)
    valid = np.isfinite(block)
    assert np.isfinite(filled).all()
    assert np.array_equal(filled[valid], block[valid])
    if valid.any():
        near = filled[~valid & (filled != 0)]
        assert (near >= block[valid].min() - 1e-3).all()
        assert (near <= block[valid].max() + 1e-3).all()


@given(st.integers(0, 10_000), st.floats(0, 0.9), st.integers(1, 4))
def test_filling_is_local(seed, share, radius):
    rng = np.random.default_rng(seed)
    field = smooth_field((40, 40), seed)
    field[rng.random(field.shape) < share] = np.nan
    whole = fill_gaps(field, radius)
    part = fill_gaps(field[5:30, 8:35], radius)
    inner = slice(radius, -radius)
    assert np.array_equal(part[inner, inner], whole[5:30, 8:35][inner, inner])


@given(st.integers(1, 6))
def test_filling_reaches_its_radius_and_no_farther(radius):
    field = np.full((25, 25), 7.0)
    field[3:-3, 3:-3] = np.nan
    row, col = np.mgrid[:25, :25]
    depth = np.minimum(np.minimum(row, 24 - row), np.minimum(col, 24 - col)) - 2  # cells from the nearest valid one
    filled = fill_gaps(field, radius)
    assert (filled[depth <= radius] == 7).all()
    assert (filled[depth > radius] == 0).all()


def test_all_missing_gives_zeros():
    assert (fill_gaps(np.full((4, 4), np.nan), 3) == 0).all()
