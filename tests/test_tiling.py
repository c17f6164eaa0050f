"""geosr.tiling: whatever the tiles, the same numbers."""

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geosr.errors import UsageError
from geosr.tiling import as_tiles, map_cells, map_pairs, map_tiles, plan_tiles
from strategies import smooth_field


def box_sum(halo, scale):
    """A kernel that looks exactly as far as its halo."""

    def kernel(block):
        h, w = (n - 2 * halo for n in block.shape)
        total = np.zeros((h, w), block.dtype)
        for dy in range(2 * halo + 1):
            for dx in range(2 * halo + 1):
                total += block[dy : dy + h, dx : dx + w]
        return np.repeat(np.repeat(total, scale, 0), scale, 1)

    return kernel


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(0, 4),
    st.integers(1, 4),
    st.integers(0, 30),
    st.integers(1, 50),
)
@settings(max_examples=60, deadline=None)
def test_tiles_do_not_show(ny, nx, halo, scale, extra, chunk):
    field = smooth_field((ny, nx), seed=ny)
    want = box_sum(halo, scale)(np.pad(field, halo, mode="edge"))
    plan = plan_tiles((ny, nx), tile=max(halo, 1) * scale + extra, halo=halo, scale=scale)
    cells = as_tiles(da.from_array(field, chunks=chunk), plan)
    got = map_tiles(cells, box_sum(halo, scale), plan, dtype=field.dtype)
    assert got.shape == plan.fine_shape == want.shape
    assert np.array_equal(got.compute(scheduler="sync"), want)


def test_leading_dimensions_go_plane_by_plane():
    cube = np.stack([smooth_field((15, 17), s) for s in range(3)])
    plan = plan_tiles((15, 17), tile=12, halo=2, scale=3)
    got = map_tiles(as_tiles(cube, plan), box_sum(2, 3), plan, dtype=cube.dtype).compute(scheduler="sync")
    for plane, fine in zip(cube, got, strict=True):
        assert np.array_equal(fine, box_sum(2, 3)(np.pad(plane, 2, mode="edge")))


def test_pairs_know_where_they_are():
    coarse = np.arange(7 * 9, dtype=np.float32).reshape(7, 9)
    plan = plan_tiles((7, 9), tile=4, halo=1, scale=2)
    cells = as_tiles(coarse, plan)
    fine = map_cells(cells, lambda b: np.repeat(np.repeat(b, 2, -2), 2, -1), plan)

    def check(fine, cells, rows, cols):
        assert np.array_equal(cells, coarse[rows, cols])
        assert np.array_equal(fine[::2, ::2], cells)
        return fine + cells[0, 0]

    assert map_pairs(fine, cells, check, dtype=fine.dtype).compute(scheduler="sync").shape == (14, 18)
    first = map_pairs(fine, cells, lambda f, c, r, k: c[:1, :1], dtype=fine.dtype, tile_shape=(1, 1))
    assert first.compute(scheduler="sync").shape == (len(plan.rows), len(plan.cols))


def test_remainder_smaller_than_the_halo_joins_its_neighbour():
    plan = plan_tiles((21, 23), tile=10, halo=4, scale=1)
    assert plan.rows == (10, 11)
    assert plan.cols == (10, 13)
    assert plan_tiles((21, 24), tile=10, halo=4, scale=1).cols == (10, 10, 4)


def test_too_small_a_tile_is_refused():
    with pytest.raises(UsageError, match="--tile 24"):
        plan_tiles((100, 100), tile=16, halo=6, scale=4)
