"""Cropping a grid to a box of longitudes and latitudes."""

from __future__ import annotations

from collections.abc import Sequence

import dask.array as da
import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from geosr.errors import InputError, UsageError
from geosr.reading.field import Raw
from geosr.reading.place import check_place

# A cell that the box overlaps by less than this, in cells, is only touched.
_TOUCH = 1e-6


def check_bbox(bbox: Sequence[float]) -> tuple[float, float, float, float]:
    """(west, south, east, north) in degrees with west < east <= west + 360: W > E is taken across the dateline.

    Raises
    ------
    UsageError
        If it is no such box.
    """
    try:
        west, south, east, north = (float(v) for v in bbox)
    except (TypeError, ValueError):
        raise UsageError(f"bbox {bbox!r} is not four numbers", "give W S E N in degrees") from None
    if not np.isfinite([west, south, east, north]).all() or not (-90 <= south < north <= 90):
        raise UsageError(
            f"bbox {west:g} {south:g} {east:g} {north:g}: south must be below north, within ±90", "give W S E N"
        )
    if not (-360 <= west <= 360 and -360 <= east <= 540) or west == east:
        raise UsageError(
            f"bbox {west:g} {south:g} {east:g} {north:g}: longitudes make no box", "give W S E N in degrees"
        )
    if east < west:
        east += 360
    return west, south, min(east, west + 360), north


def crop(raw: Raw, bbox: Sequence[float]) -> Raw:
    """``raw`` cut to the cells that ``bbox`` (W, S, E, N in degrees) overlaps.

    On a grid of longitudes the result begins in -180 to 180: one that would begin beyond 180 is moved by 360.

    Raises
    ------
    InputError
        If the grid and the box do not overlap, or the grid lies nowhere (:func:`~geosr.reading.place.check_place`).
    """
    west, south, east, north = check_bbox(bbox)
    box = raw.box
    check_place(box)
    a = box.affine
    if box.crs is not None and box.crs.geographic and not (a.b or a.d):
        pieces, rows = _columns(box, west, east), _rows(box, south, north)
    else:
        rows, columns = _projected(box, west, south, east, north)
        pieces = [columns]
    nx = box.shape[1]
    if rows[0] >= rows[1] or not pieces or pieces[0][0] >= pieces[0][1]:
        found = _extent(box)
        raise InputError(
            f"bbox {west:g} {south:g} {east:g} {north:g} lies outside the grid{found}", "check --bbox W S E N"
        )
    left = pieces[0][0]
    width = sum(c1 - c0 for c0, c1 in pieces)
    at = a * Affine.translation(left, rows[0])
    if box.crs is not None and box.crs.geographic and not (a.b or a.d):
        west_cell = at.c + at.a / 2 if at.a > 0 else at.c + (width - 0.5) * at.a
        if west_cell >= 180:
            at = Affine(at.a, 0.0, at.c - 360.0, 0.0, at.e, at.f)
    cut = GeoBox((rows[1] - rows[0], width), at, box.crs)

    def take(v: da.Array) -> da.Array:
        parts = [v[..., rows[0] : rows[1], c0 % nx : (c1 - 1) % nx + 1] for c0, c1 in pieces]
        return parts[0] if len(parts) == 1 else da.concatenate(parts, axis=-1)

    return raw.on(take, cut)


def _overlap(low: float, high: float, n: int) -> tuple[int, int]:
    """Cells 0…n-1 that the interval (low, high), in cells, overlaps."""
    return max(0, int(np.floor(low + _TOUCH))), min(n, int(np.ceil(high - _TOUCH)))


def _rows(box: GeoBox, south: float, north: float) -> tuple[int, int]:
    a = box.affine
    ends = sorted(((south - a.f) / a.e, (north - a.f) / a.e))
    return _overlap(ends[0], ends[1], box.shape[0])


def _columns(box: GeoBox, west: float, east: float) -> list[tuple[int, int]]:
    """Runs of columns, west to east along the grid; two runs where a grid around the globe is cut at its seam.

    Columns of the second run count on beyond the last: they lie 360 degrees farther.
    """
    a, nx = box.affine, box.shape[1]
    turn = 360 / a.a  # columns around the globe, signed
    best: tuple[int, int] = (0, 0)
    for k in range(-3, 4):
        ends = sorted(((west - a.c) / a.a + k * turn, (east - a.c) / a.a + k * turn))
        c0, c1 = int(np.floor(ends[0] + _TOUCH)), int(np.ceil(ends[1] - _TOUCH))
        if abs(nx - abs(turn)) < 0.5 and 0 <= c0 < nx:
            c1 = min(c1, c0 + nx)
            return [(c0, c1)] if c1 <= nx else [(c0, nx), (nx, c1)]
        run = _overlap(ends[0], ends[1], nx)
        if run[1] - run[0] > best[1] - best[0]:
            best = run
    return [best] if best[1] > best[0] else []


def _projected(
    box: GeoBox, west: float, south: float, east: float, north: float
) -> tuple[tuple[int, int], tuple[int, int]]:
    """(rows, columns) that the box's outline, carried into the grid's CRS, spans."""
    from pyproj import Transformer

    t = np.linspace(0, 1, 41)
    lons, lats = np.meshgrid(west + (east - west) * t, south + (north - south) * t)  # the outline, and what is inside
    if box.crs is None:
        raise InputError("no CRS", "declare it with --crs")
    to_grid = Transformer.from_crs("EPSG:4326", box.crs.proj, always_xy=True)
    x, y = to_grid.transform((lons + 180) % 360 - 180, lats)
    col, row = ~box.affine * (np.asarray(x), np.asarray(y))
    known = np.isfinite(col) & np.isfinite(row)
    if not known.any():
        return (0, 0), (0, 0)
    ny, nx = box.shape
    return _overlap(row[known].min(), row[known].max(), ny), _overlap(col[known].min(), col[known].max(), nx)


def _extent(box: GeoBox) -> str:
    try:
        b = box.geographic_extent.boundingbox
        return f" (W {b.left:g} S {b.bottom:g} E {b.right:g} N {b.top:g})"
    except Exception:  # an extent that cannot be projected is only left out of a message
        return ""
