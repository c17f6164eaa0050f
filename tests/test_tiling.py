"""geosr.tiling: whatever the tiles, the same numbers."""

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geosr.errors import UsageError
from geosr.tiling import as_lazy, default_tile, map_cells, map_tiles, plan_tiles
from strategies import smooth_field


def box_sum(halo, scale):
    """A kernel that looks exactly as far as its halo."""

    def kernel(block, rows, cols):
        h, w = (n - 2 * halo for n in block.shape)
        total = np.zeros((h, w), block.dtype)
        for dy in range(2 * halo + 1):
            for dx in range(2 * halo + 1):
                total += block[dy : dy + h, dx : dx + w]
        return (np.repeat(np.repeat(total, scale, 0), scale, 1),)

    return kernel


def tiles(data, kernel, plan):
    (fine,) = map_tiles(as_lazy(data), kernel, plan, [(data.dtype, None)])
    return fine.compute(scheduler="sync")


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
    (want,) = box_sum(halo, scale)(np.pad(field, halo, mode="edge"), None, None)
    plan = plan_tiles((ny, nx), tile=max(halo, 1) * scale + extra, halo=halo, scale=scale)
    got = tiles(da.from_array(field, chunks=chunk), box_sum(halo, scale), plan)
    assert got.shape == plan.fine_shape == want.shape
    assert np.array_equal(got, want)
    assert np.array_equal(tiles(field, box_sum(halo, scale), plan), want)


def test_leading_dimensions_go_plane_by_plane():
    cube = np.stack([smooth_field((15, 17), s) for s in range(3)])
    plan = plan_tiles((15, 17), tile=12, halo=2, scale=3)
    for data in (cube, da.from_array(cube, chunks=(2, 5, 17))):
        for plane, fine in zip(cube, tiles(data, box_sum(2, 3), plan), strict=True):
            assert np.array_equal(fine, box_sum(2, 3)(np.pad(plane, 2, mode="edge"), None, None)[0])


def test_kernels_know_where_they_are_and_may_give_several_results():
    coarse = np.arange(7 * 9, dtype=np.float32).reshape(7, 9)
    plan = plan_tiles((7, 9), tile=4, halo=1, scale=2)

    def kernel(window, rows, cols):
        cells = window[1:-1, 1:-1]
        assert np.array_equal(cells, coarse[rows, cols])
        return np.repeat(np.repeat(cells, 2, 0), 2, 1), np.array([[rows.start, cols.start, cells.sum()]])

    results = [(coarse.dtype, None), (np.dtype(float), (1, 3))]
    fine, summary = map_tiles(as_lazy(da.from_array(coarse, chunks=4)), kernel, plan, results)
    assert np.array_equal(fine.compute(scheduler="sync"), np.repeat(np.repeat(coarse, 2, 0), 2, 1))
    found = summary.compute(scheduler="sync")
    assert found.shape == (len(plan.rows), 3 * len(plan.cols))
    assert found[:, 0::3][:, 0].tolist() == np.cumsum([0, *plan.rows[:-1]]).tolist()
    assert found[:, 2::3].sum() == coarse.sum()


def test_cells_are_mapped_without_neighbours():
    coarse = np.arange(7 * 9, dtype=np.float32).reshape(7, 9)
    plan = plan_tiles((7, 9), tile=4, halo=1, scale=2)
    fine = map_cells(as_lazy(coarse), lambda b: np.repeat(np.repeat(b, 2, -2), 2, -1), plan)
    assert fine.chunks == ((4, 4, 4, 2), (4, 4, 4, 4, 2))
    assert np.array_equal(fine.compute(scheduler="sync"), np.repeat(np.repeat(coarse, 2, 0), 2, 1))


def test_a_tile_is_one_task_and_one_for_each_result():
    """However the halo lies across the chunks that the data came in."""
    data = da.zeros((4000, 4000), chunks=700, dtype=np.float32)
    plan = plan_tiles((4000, 4000), tile=1024, halo=14, scale=4)
    fine, check = map_tiles(data, box_sum(14, 4), plan, [(data.dtype, None), (data.dtype, (1, 1))])
    count = len(plan.rows) * len(plan.cols)
    graph = dict(fine.__dask_graph__()) | dict(check.__dask_graph__())
    assert len(graph) == 3 * count + 1 + data.npartitions


@pytest.mark.parametrize(("scale", "multiple"), [(2, 512), (3, 512), (4, 512), (16, 512), (7, 7)])
def test_tiles_begin_at_whole_blocks_where_they_can(scale, multiple):
    tile = default_tile((5000, 5000), scale)
    plan = plan_tiles((5000, 5000), tile=tile, halo=9, scale=scale)
    assert all(n * scale % multiple == 0 for n in (*plan.rows[:-1], *plan.cols[:-1]))
    assert 700 < plan.rows[0] * scale <= 1600
    assert default_tile((100, 100), scale) == 512


def test_remainder_smaller_than_the_halo_joins_its_neighbour():
    plan = plan_tiles((21, 23), tile=10, halo=4, scale=1)
    assert plan.rows == (10, 11)
    assert plan.cols == (10, 13)
    assert plan_tiles((21, 24), tile=10, halo=4, scale=1).cols == (10, 10, 4)


def test_too_small_a_tile_is_refused():
    with pytest.raises(UsageError, match="--tile 24"):
        plan_tiles((100, 100), tile=16, halo=6, scale=4)
