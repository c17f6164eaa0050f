"""Degradation: from a fine truth to the coarse field that a coarser sensor would have seen (Wald's protocol).

Wald, L., Ranchin, T. & Mangolini, M. (1997), Fusion of satellite images of different spatial resolutions,
Photogrammetric Engineering & Remote Sensing 63(6): the degraded truth is downscaled, and the result compared with the
truth itself. The degradation here is the area mean, the exact inverse of geosr's conservation: a coarse cell holds the
area-weighted mean of its fine cells. Averaging alone flatters every method; real footprints also blur.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from geosr import grid


def area_mean(fine: np.ndarray, weights: np.ndarray, scale: int, min_valid: float = 1.0) -> np.ndarray:
    """Area-weighted mean of the valid fine cells of each ``scale`` x ``scale`` block.

    Parameters
    ----------
    fine : (…, h * scale, w * scale) floating; NaN is missing.
    weights : cell areas, (h * scale, 1) or (h * scale, w * scale).
    scale : fine cells along a coarse cell's side.
    min_valid : share of a coarse cell's area that must be valid, above 0; below it the cell is NaN.

    Returns
    -------
    (…, h, w) of the same dtype, summed in float64.
    """
    *lead, ny, nx = fine.shape
    split = (ny // scale, scale, nx // scale, scale)
    area = np.broadcast_to(weights, (ny, nx)).astype(np.float64).reshape(split)
    values = fine.reshape(*lead, *split)
    valid = ~np.isnan(values)
    known = (valid * area).sum(axis=(-3, -1))
    total = (np.where(valid, values, 0.0) * area).sum(axis=(-3, -1))
    # A complete block must count as complete whatever the order in which numpy sums its areas.
    enough = (known > 0) & (known >= min_valid * area.sum(axis=(-3, -1)) * (1 - 1e-9))
    return np.where(enough, total / np.where(known > 0, known, 1.0), np.nan).astype(fine.dtype)


def modcrop(data: xr.DataArray, scale: int) -> xr.DataArray:
    """``data`` (…, y, x) without the last rows and columns that do not fill a ``scale`` x ``scale`` block.

    The grid is cropped with the data. Raises :class:`~geosr.errors.UsageError` where nothing would be left.
    """
    from geosr.errors import UsageError

    y, x = grid.spatial_dims(data)
    ny, nx = data.sizes[y] // scale * scale, data.sizes[x] // scale * scale
    if 0 in (ny, nx):
        raise UsageError(
            f"{data.sizes[y]} x {data.sizes[x]} cells are less than one coarse cell at scale {scale}",
            "choose a smaller --scale",
        )
    if (ny, nx) == (data.sizes[y], data.sizes[x]):
        return data
    box = grid.geobox_of(data)[:ny, :nx]
    return grid.with_geobox(data.isel({y: slice(ny), x: slice(nx)}), box, like=data)


def degrade(truth: xr.DataArray, scale: int, min_valid: float = 1.0) -> xr.DataArray:
    """The coarse field that ``truth`` averages to.

    Parameters
    ----------
    truth : (…, y, x) on a grid, NaN where missing; cropped by :func:`modcrop`.
    scale, min_valid : as in :func:`area_mean`.

    Returns
    -------
    DataArray (…, y / scale, x / scale) with the attributes of ``truth``, on the coarsened grid; computed at once.
    """
    scale = grid.check_scale(scale)
    truth = modcrop(truth, scale)
    box = grid.geobox_of(truth)
    y, x = grid.spatial_dims(truth)
    ordered = truth.transpose(..., y, x)
    values = np.asarray(ordered.values)
    if values.dtype.kind != "f":
        values = values.astype(np.float32)
    coarse = area_mean(values, grid.cell_areas(box), scale, min_valid)
    kept = {n: c for n, c in ordered.coords.items() if not {y, x} & set(c.dims) and n != "spatial_ref"}
    out = xr.DataArray(coarse, dims=ordered.dims, coords=kept, attrs=dict(truth.attrs), name=truth.name)
    return grid.with_geobox(out, grid.coarsen(box, scale), like=truth)
