"""Tiles with overlap, by dask; exact, and ignorant of models.

A kernel turns a coarse tile with its halo into the fine tile without it. If it looks no farther than the halo, the
stitched result is the same as the kernel's on the whole raster, whatever the tiles: there is nothing to blend.
Beyond the raster's edge the field is continued by its edge values.

The plan (:class:`TilePlan`) is pure arithmetic on shapes; :func:`map_tiles` executes it. It works on the last two
dimensions; leading ones (time, band) are cut into single planes. There is one task a tile, which cuts its window out
of the chunks that the data came in and does all that is done to the tile, and one for each of its results: a plan of a
hundred thousand tiles is made in seconds, and nothing but the results leaves a tile.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import getitem
from typing import Any

import numpy as np

from geosr.errors import UsageError

#: A kernel: ((h + 2 halo, w + 2 halo) coarse, rows and columns of the tile as slices of coarse cells) -> its results,
#: each (h * scale, w * scale), or of another fixed shape.
Kernel = Callable[[np.ndarray, slice, slice], tuple[np.ndarray, ...]]

#: Tiles begin at multiples of this many fine cells, where the scale allows it: whole blocks of a GeoTIFF lie in one
#: tile.
BLOCK = 512

#: How dask cuts arrays anew. Without being told it imports distributed, a quarter of a second, to see whether to do it
#: there; and distributed's own way holds on to workers that may be lost, and stores the raster in between.
BY_TASKS = "tasks"


@dataclass(frozen=True)
class TilePlan:
    """How a raster is cut.

    Attributes
    ----------
    shape : (ny, nx) coarse cells.
    rows, cols : sizes of the tiles along each axis, in coarse cells; none but a lone tile is smaller than the halo.
    halo : coarse cells around each tile that the kernel sees.
    scale : fine cells per coarse cell and axis.
    """

    shape: tuple[int, int]
    rows: tuple[int, ...]
    cols: tuple[int, ...]
    halo: int
    scale: int

    @property
    def fine_shape(self) -> tuple[int, int]:
        return self.shape[0] * self.scale, self.shape[1] * self.scale


def default_tile(shape: tuple[int, int], scale: int) -> int:
    """Side of a tile in fine cells for a raster of ``shape`` (ny, nx) coarse cells.

    Large tiles lose less to the overlap: about 1024, which is 4 MB, in whole blocks where that is possible. A raster
    of few such tiles is cut finer, so that all cores have work.
    """
    if shape[0] * shape[1] * scale**2 < 8 * 1024**2:
        return 512
    step = math.lcm(BLOCK, scale)
    return step * -(-1024 // step) if step <= 2048 else 1024


def plan_tiles(shape: tuple[int, int], *, tile: int, halo: int, scale: int) -> TilePlan:
    """Cut ``shape`` into tiles of about ``tile`` fine cells.

    Parameters
    ----------
    shape : (ny, nx) coarse cells.
    tile : side of a tile in fine cells; rounded down to whole blocks (:data:`BLOCK`) where there are any. The
        remainder at the far edge joins its neighbour if it is smaller than the halo.
    halo : coarse cells that the kernel needs around a tile.

    Raises
    ------
    UsageError
        If a tile would be smaller than the halo around it.
    """
    side = tile // scale
    if side < max(halo, 1):
        raise UsageError(
            f"tile {tile} is too small: {side} coarse cells at scale {scale}, with {halo} of overlap on each side",
            f"use --tile {max(halo, 1) * scale} or more",
        )
    step = math.lcm(BLOCK, scale) // scale
    if side >= step:
        side -= side % step
    return TilePlan(shape, _cut(shape[0], side, halo), _cut(shape[1], side, halo), halo, scale)


def _cut(n: int, side: int, halo: int) -> tuple[int, ...]:
    whole, rest = divmod(n, side)
    if whole == 0:
        return (n,)
    sizes = [side] * whole
    if rest >= max(halo, 1):
        sizes.append(rest)
    else:
        sizes[-1] += rest
    return tuple(sizes)


def as_lazy(data: Any) -> Any:
    """``data`` (numpy or dask, (…, ny, nx)) as a dask array with whole planes cut into chunks of a few megabytes."""
    import dask.array as da

    if not isinstance(data, da.Array):
        return da.from_array(data, chunks=(*(1 for _ in data.shape[:-2]), 1024, 1024), name=False)
    chunks = (*(1 for _ in data.shape[:-2]), *data.chunks[-2:])
    return data.rechunk(chunks, method=BY_TASKS) if data.ndim > 2 else data


def map_tiles(
    data: Any, kernel: Kernel, plan: TilePlan, results: Sequence[tuple[np.dtype, tuple[int, int] | None]]
) -> list[Any]:
    """``kernel`` on every tile of ``data`` with its halo, stitched.

    Parameters
    ----------
    data : dask array (…, ny, nx) of :func:`as_lazy`, in chunks of any size.
    kernel : picklable.
    results : for each of the kernel's results its dtype, and its shape where that is not the fine tile's (a summary,
        say).

    Returns
    -------
    A lazy dask array for each result: (…, ny * scale, nx * scale), or the tiles' summaries side by side.
    """
    import dask.array as da
    from dask.base import tokenize
    from dask.highlevelgraph import HighLevelGraph

    name = f"tiles-{tokenize(data, kernel, plan)}"
    down, across = (_windows(sizes, data.chunks[axis], plan.halo) for sizes, axis in ((plan.rows, -2), (plan.cols, -1)))
    leads = list(np.ndindex(*data.numblocks[:-2]))
    places = [(*lead, i, j) for lead in leads for i in range(len(down)) for j in range(len(across))]
    # The kernel is a key of its own, so that a cluster gets it once.
    tiles: dict[Any, Any] = {f"{name}-kernel": kernel}
    for *lead, i, j in places:
        parts = [[(data.name, *lead, r, c) for c in across[j].chunks] for r in down[i].chunks]
        tiles[name, *lead, i, j] = (_run, f"{name}-kernel", parts, down[i], across[j])
    found = []
    for number, (dtype, shape) in enumerate(results):
        picked = f"{name}-{number}"
        layers = {
            **data.dask.layers,
            name: tiles,
            picked: {(picked, *place): (getitem, (name, *place), number) for place in places},
        }
        graph = HighLevelGraph(layers, {**data.dask.dependencies, name: {data.name}, picked: {name}})
        sizes = [[n * plan.scale if shape is None else shape[k] for n in (plan.rows, plan.cols)[k]] for k in (0, 1)]
        chunks = (*data.chunks[:-2], *map(tuple, sizes))
        found.append(da.Array(graph, picked, chunks, meta=np.empty((0,) * data.ndim, dtype=dtype)))
    return found


@dataclass(frozen=True)
class _Window:
    """What a tile sees along one axis: ``cells`` of the raster are the tile, ``cuts`` of ``chunks`` are the tile with
    its halo as far as there is data, and ``pad`` is what lies beyond the raster's edges, before and after."""

    cells: slice
    chunks: range
    cuts: tuple[slice, ...]
    pad: tuple[int, int]


def _windows(sizes: tuple[int, ...], chunks: tuple[int, ...], halo: int) -> list[_Window]:
    tiles, edges = np.cumsum([0, *sizes]).tolist(), np.cumsum([0, *chunks]).tolist()
    found = []
    for start, stop in itertools.pairwise(tiles):
        low, high = max(start - halo, 0), min(stop + halo, edges[-1])
        first, last = bisect_right(edges, low) - 1, bisect_left(edges, high)
        parts = [(max(low, edges[k]) - edges[k], min(high, edges[k + 1]) - edges[k]) for k in range(first, last)]
        pad = low - start + halo, stop + halo - high
        found.append(_Window(slice(start, stop), range(first, last), tuple(slice(*part) for part in parts), pad))
    return found


def _run(kernel: Kernel, parts: list[list[np.ndarray]], down: _Window, across: _Window) -> tuple[np.ndarray, ...]:
    """Cut the window out of its chunks, supply what lies beyond the raster's edge, run the kernel."""
    lead = (1,) * (parts[0][0].ndim - 2)
    planes = [[chunk.reshape(chunk.shape[-2:]) for chunk in row] for row in parts]
    rows = [
        np.concatenate([chunk[r, c] for chunk, c in zip(row, across.cuts, strict=True)], axis=1)
        for row, r in zip(planes, down.cuts, strict=True)
    ]
    window = np.concatenate(rows)
    if any(down.pad + across.pad):
        window = np.pad(window, (down.pad, across.pad), mode="edge")
    results = kernel(window, down.cells, across.cells)
    return tuple(result.reshape(*lead, *result.shape) for result in results)


def map_cells(data: Any, kernel: Callable[[np.ndarray], np.ndarray], plan: TilePlan) -> Any:
    """``kernel``, (…, h, w) to (…, h * scale, w * scale), on every tile of ``data``; it sees no neighbours."""
    import dask.array as da

    tiles = data.rechunk((*(1 for _ in data.shape[:-2]), plan.rows, plan.cols), method=BY_TASKS)
    sizes = (tuple(n * plan.scale for n in axis) for axis in (plan.rows, plan.cols))
    meta = np.empty((0,) * data.ndim, dtype=data.dtype)
    return da.map_blocks(kernel, tiles, dtype=data.dtype, chunks=(*tiles.chunks[:-2], *sizes), meta=meta)
