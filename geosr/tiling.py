"""Tiles with overlap, by dask; exact, and ignorant of models.

A kernel turns a coarse tile with its halo into the fine tile without it. If it looks no farther than the halo, the
stitched result is the same as the kernel's on the whole raster, whatever the tiles: there is nothing to blend.
Beyond the raster's edge the field is continued by its edge values.

The plan (:class:`TilePlan`) is pure arithmetic on shapes; :func:`map_tiles` and :func:`map_pairs` execute it. They
work on the last two dimensions; leading ones (time, band) are cut into single planes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from geosr.errors import UsageError

#: A kernel: ((h + 2 halo, w + 2 halo) coarse) -> (h * scale, w * scale) fine.
Kernel = Callable[[np.ndarray], np.ndarray]
#: A pair kernel: (fine tile, coarse tile, rows of the coarse tile, its columns) -> fine tile.
PairKernel = Callable[[np.ndarray, np.ndarray, slice, slice], np.ndarray]


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


def plan_tiles(shape: tuple[int, int], *, tile: int, halo: int, scale: int) -> TilePlan:
    """Cut ``shape`` into tiles of about ``tile`` fine cells.

    Parameters
    ----------
    shape : (ny, nx) coarse cells.
    tile : side of a tile in fine cells; the remainder at the far edge joins its neighbour if it is smaller than
        the halo.
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


def as_tiles(data: Any, plan: TilePlan) -> Any:
    """``data`` (numpy or dask, (…, ny, nx)) as a dask array cut by ``plan``, leading dimensions into planes."""
    import dask.array as da

    chunks = (*(1 for _ in data.shape[:-2]), plan.rows, plan.cols)
    return data.rechunk(chunks) if isinstance(data, da.Array) else da.from_array(data, chunks=chunks, name=False)


def map_tiles(data: Any, kernel: Kernel, plan: TilePlan, *, dtype: np.dtype) -> Any:
    """The fine field: ``kernel`` on every tile of ``data`` with its halo, stitched.

    Parameters
    ----------
    data : dask array (…, ny, nx) cut by ``plan`` (:func:`as_tiles`).
    kernel : picklable; called on (h + 2 halo, w + 2 halo), returns (h * scale, w * scale).

    Returns
    -------
    Lazy dask array (…, ny * scale, nx * scale) of ``dtype``.
    """
    import dask.array as da

    lead = data.ndim - 2
    # An axis of one tile needs no neighbours, so an axis shorter than the halo needs no special case.
    depth = {lead: plan.halo if len(plan.rows) > 1 else 0, lead + 1: plan.halo if len(plan.cols) > 1 else 0}
    return da.map_overlap(
        _run_kernel,
        data,
        depth=depth,
        boundary="none",
        trim=False,
        allow_rechunk=False,
        dtype=dtype,
        chunks=_fine_chunks(data, plan),
        meta=np.empty((0,) * data.ndim, dtype=dtype),
        kernel=kernel,
        plan=plan,
    )


def _fine_chunks(data: Any, plan: TilePlan) -> tuple[tuple[int, ...], ...]:
    def scaled(sizes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(n * plan.scale for n in sizes)

    return (*data.chunks[:-2], scaled(plan.rows), scaled(plan.cols))


def _run_kernel(block: np.ndarray, kernel: Kernel, plan: TilePlan, block_info: Any = None) -> np.ndarray:
    """Supply the halo that lies beyond the raster's edge, then run the kernel on each plane of the block."""
    location = block_info[0]["chunk-location"][-2:]
    pad = []
    for index, sizes in zip(location, (plan.rows, plan.cols), strict=True):
        pad.append((plan.halo if index == 0 else 0, plan.halo if index == len(sizes) - 1 else 0))
    padded = np.pad(block, [(0, 0)] * (block.ndim - 2) + pad, mode="edge")
    planes = padded.reshape(-1, *padded.shape[-2:])
    fine = np.stack([kernel(plane) for plane in planes])
    return fine.reshape(*block.shape[:-2], *fine.shape[-2:])


def map_cells(data: Any, kernel: Kernel, plan: TilePlan) -> Any:
    """``kernel``, (…, h, w) to (…, h * scale, w * scale), on every tile of ``data``; it sees no neighbours."""
    import dask.array as da

    meta = np.empty((0,) * data.ndim, dtype=data.dtype)
    return da.map_blocks(kernel, data, dtype=data.dtype, chunks=_fine_chunks(data, plan), meta=meta)


def map_pairs(
    fine: Any, coarse: Any, kernel: PairKernel, *, dtype: np.dtype, tile_shape: tuple[int, int] | None = None
) -> Any:
    """``kernel`` on every fine tile together with the coarse tile under it, where it needs no neighbours.

    Parameters
    ----------
    fine, coarse : dask arrays cut alike, (…, ny * scale, nx * scale) and (…, ny, nx).
    kernel : picklable; gets (…, h * scale, w * scale), (…, h, w) and the coarse rows and columns as slices.
    tile_shape : what ``kernel`` returns for a tile, if not the fine tile's shape (a summary of it, say).

    Returns
    -------
    Lazy dask array of ``dtype``: like ``fine``, or tiles of ``tile_shape`` side by side.
    """
    import dask.array as da

    chunks = fine.chunks
    if tile_shape is not None:
        chunks = (
            *chunks[:-2],
            *((n,) * len(sizes) for n, sizes in zip(tile_shape, chunks[-2:], strict=True)),
        )
    meta = np.empty((0,) * fine.ndim, dtype=dtype)
    return da.map_blocks(_run_pair_kernel, fine, coarse, dtype=dtype, chunks=chunks, meta=meta, kernel=kernel)


def _run_pair_kernel(fine: np.ndarray, coarse: np.ndarray, kernel: PairKernel, block_info: Any = None) -> np.ndarray:
    (top, bottom), (left, right) = block_info[1]["array-location"][-2:]
    return kernel(fine, coarse, slice(top, bottom), slice(left, right))
