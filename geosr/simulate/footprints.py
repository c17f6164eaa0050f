"""Means of a gridded field over pixel footprints: exact, for a field that is constant within each cell.

By Green's theorem the integral of f over a polygon is the sum over its edges of the integral of C dv, where
``C(x, v)`` is the integral of f along the row up to x. In the plane (column, sin latitude) true areas are plain
areas; along an edge, within one cell, C is linear, so each piece is exact. Neighbours that share an edge get the
same number with opposite sign: no mass is lost between pixels. (:mod:`geosr.overlap` goes the other way, from
pixels to cells, by another algorithm.)
"""

from __future__ import annotations

import numpy as np
from odc.geo.geobox import GeoBox

_CHUNK = 20_000


def footprint_means(
    field: np.ndarray,
    box: GeoBox,
    lon_corners: np.ndarray,
    lat_corners: np.ndarray,
    scale: tuple[float, float] = (1, 1),
) -> np.ndarray:
    """Area-weighted means of ``field`` over quadrilaterals.

    Parameters
    ----------
    field : (ny, nx), no NaN, on ``box``: geographic, north-up.
    lon_corners, lat_corners : (…, 4) degrees, in ring order; longitudes are unwrapped towards the box.
    scale : stretches each footprint about its middle by these factors along (corner 0 to 3) and across track
        (corner 0 to 1).

    Returns
    -------
    (…) float64; NaN for footprints that are not wholly inside the box, or have no area.
    """
    lon_corners, lat_corners = np.asarray(lon_corners, np.float64), np.asarray(lat_corners, np.float64)
    shape = lon_corners.shape[:-1]
    a = box.affine
    middle = a.c + a.a * box.shape[1] / 2
    lon = middle + (lon_corners.reshape(-1, 4) - middle + 180) % 360 - 180
    x = (lon - a.c) / a.a
    lat = lat_corners.reshape(-1, 4)
    if scale != (1, 1):
        x, lat = _stretch(x, scale), _stretch(lat, scale)
    row = (lat - a.f) / a.e
    inside = ((x >= 0) & (x <= box.shape[1]) & (row >= 0) & (row <= box.shape[0])).all(axis=1)
    out = np.full(len(x), np.nan)
    edges = np.sin(np.deg2rad(a.f + a.e * np.arange(box.shape[0] + 1)))
    running = np.concatenate([np.zeros((len(field), 1)), np.cumsum(field, axis=1, dtype=np.float64)], axis=1)
    chosen = np.flatnonzero(inside)
    for start in range(0, len(chosen), _CHUNK):
        part = chosen[start : start + _CHUNK]
        out[part] = _means(running, edges, x[part], np.sin(np.deg2rad(lat[part])), row[part])
    return out.reshape(shape)


def _stretch(corners: np.ndarray, scale: tuple[float, float]) -> np.ndarray:
    along, across = scale
    c0, c1, c2, c3 = corners.T
    middle, a, b = (c0 + c1 + c2 + c3) / 4, (c3 + c2 - c0 - c1) / 4 * along, (c1 + c2 - c0 - c3) / 4 * across
    return np.stack([middle - a - b, middle - a + b, middle + a + b, middle + a - b], axis=1)


def _means(running: np.ndarray, edges: np.ndarray, x: np.ndarray, v: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Means over polygons inside the grid: ``running`` (ny, nx + 1), row edges (ny + 1,) in sin latitude."""
    x1, v1, row1 = (np.roll(c, -1, axis=1) for c in (x, v, row))
    t = np.concatenate(
        [
            _crossings(x, x1, lambda k: k, x, x1),
            _crossings(row, row1, lambda k: edges[np.clip(k, 0, len(edges) - 1)], v, v1),
            np.zeros((*x.shape, 1)),
            np.ones((*x.shape, 1)),
        ],
        axis=-1,
    )
    t.sort(axis=-1)
    middle = (t[..., 1:] + t[..., :-1]) / 2
    xm = x[..., None] + middle * (x1 - x)[..., None]
    vm = v[..., None] + middle * (v1 - v)[..., None]
    dv = np.diff(t, axis=-1) * (v1 - v)[..., None]
    ny, nx = running.shape[0], running.shape[1] - 1
    i = np.clip(len(edges) - 1 - np.searchsorted(edges[::-1], vm, side="right"), 0, ny - 1)
    i = np.where(vm >= edges[0], 0, i)
    j = np.clip(xm.astype(np.intp), 0, nx - 1)
    low, high = running[i, j], running[i, j + 1]
    integral = ((low + (high - low) * (xm - j)) * dv).sum(axis=(1, 2))
    area = ((x + x1) / 2 * (v1 - v)).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.abs(area) > 1e-12, integral / area, np.nan)


def _crossings(a: np.ndarray, b: np.ndarray, line, start: np.ndarray, end: np.ndarray) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Where edges from ``a`` to ``b`` (in cells) cross whole numbers k: their parameters in 0…1, (n, 4, m).

    ``line(k)`` is where line k lies in the coordinate in which the edge is straight, from ``start`` to ``end``.
    Edges with fewer crossings than the others repeat an end, which adds pieces of no length.
    """
    first = np.floor(np.minimum(a, b)).astype(np.intp) + 1
    count = int((np.ceil(np.maximum(a, b)).astype(np.intp) - first).max(initial=0))
    k = first[..., None] + np.arange(max(count, 0))
    span = (end - start)[..., None]
    with np.errstate(invalid="ignore", divide="ignore"):
        t = (line(k) - start[..., None]) / span
    return np.clip(np.where(np.isfinite(t), t, 0.0), 0.0, 1.0)
