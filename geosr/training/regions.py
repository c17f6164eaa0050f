"""Boxes on the Earth (or on a picture): which cells of a raster they hold, and how near two rasters' cells come.

A box is [west, south, east, north] in degrees, as ``--bbox``: west > east crosses the dateline. A cell belongs to it if
its centre does; the western and southern sides are inside, the others are not, so that boxes side by side share no
cell. On a picture without georeference, boxes are in cells from its lower left corner.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from odc.geo.geobox import GeoBox

from geosr.training.checks import Box
from geosr.training.truths import Plane

# Least metres in a degree of latitude on WGS 84 (at the equator) and in one of longitude there, rounded down: distances
# in degrees come out too large rather than too small.
_METRES_PER_DEGREE = 110_500.0

# Cells whose longitude and latitude are computed at once.
_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Place:
    """Where the cells of a truth lie.

    Attributes
    ----------
    picture : hash of a picture without georeference; "" on Earth.
    rects : plain boxes (west < east within -180 to 180 on Earth) that together hold all the cells.
    reach : (x, y) distance, in the boxes' units, that cells of other sets have to keep.
    """

    picture: str
    rects: tuple[Box, ...]
    reach: tuple[float, float]

    def near(self, other: Place) -> bool:
        """Do the two share cells, or come nearer than the larger of their reaches?"""
        if self.picture != other.picture:
            return False
        dx, dy = (max(a, b) for a, b in zip(self.reach, other.reach, strict=True))
        grown = [piece for r in self.rects for piece in _pieces(_grown(r, dx, dy), not self.picture)]
        return any(_overlap(a, b) is not None for a in grown for b in other.rects)


def place_of(plane: Plane, region: Sequence[Box], outside: Sequence[Box], cells: int) -> Place:
    """Where the cells of ``plane`` lie that a set keeps.

    Parameters
    ----------
    region, outside : the set's.
    cells : reach, in cells of the plane.
    """
    earth = plane.box is not None
    rects = list(extent_of(plane))
    if region:
        wanted = [piece for b in region for piece in _pieces(b, earth)]
        rects = [both for a in rects for b in wanted if (both := _overlap(a, b)) is not None]
    for hole in (piece for b in outside for piece in _pieces(b, earth)):
        rects = [rest for r in rects for rest in _without(r, hole)]
    return Place(plane.picture, tuple(rects), reach_of(plane, cells))


def extent_of(plane: Plane) -> tuple[Box, ...]:
    """Plain boxes that hold the plane."""
    if plane.box is None:
        return ((0.0, 0.0, float(plane.shape[1]), float(plane.shape[0])),)
    box = plane.box
    bounds = box.boundingbox
    west, south, east, north = bounds.left, bounds.bottom, bounds.right, bounds.top
    if not _geographic(box):
        from pyproj import Transformer

        crs = box.crs.proj if box.crs is not None else None
        turned = Transformer.from_crs(crs, 4326, always_xy=True)
        ends = turned.transform_bounds(west, south, east, north, densify_pts=21)
        west, south, east, north = ends if np.isfinite(ends).all() else (-180.0, -90.0, 180.0, 90.0)
    return tuple(_pieces((west, south, east, north), True))


def reach_of(plane: Plane, cells: int) -> tuple[float, float]:
    """The width and height of ``cells`` cells in the units of the plane's boxes; on Earth at least as much."""
    if plane.box is None:
        return float(cells), float(cells)
    a = plane.box.affine
    if _geographic(plane.box) and not (a.b or a.d):
        return cells * abs(a.a), cells * abs(a.e)
    unit = 1.0
    if plane.box.crs is not None and not _geographic(plane.box):
        unit = plane.box.crs.proj.axis_info[0].unit_conversion_factor / _METRES_PER_DEGREE
    step = cells * unit * max(np.hypot(a.a, a.d), np.hypot(a.b, a.e))
    furthest = max(max(abs(r[1]), abs(r[3])) for r in extent_of(plane))
    return step / np.cos(np.deg2rad(min(furthest + step, 89.5))), step


def kept(plane: Plane, region: Sequence[Box], outside: Sequence[Box]) -> np.ndarray | None:
    """(y, x) bool, the cells that a set with these boxes keeps; None where it keeps them all."""
    if not region and not outside:
        return None
    ny, nx = plane.shape
    mask = np.empty((ny, nx), dtype=bool)
    rows = max(1, _AT_ONCE // nx)
    for top in range(0, ny, rows):
        x, y = centres(plane, slice(top, min(ny, top + rows)))
        inside = _any(x, y, region, plane.box is not None) if region else np.ones(x.shape, dtype=bool)
        mask[top : top + rows] = inside & ~_any(x, y, outside, plane.box is not None)
    return mask


def centres(plane: Plane, rows: slice, cols: slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (x, y) of cell centres in the units of the boxes, each (rows, columns)."""
    ny, nx = plane.shape
    j, i = np.meshgrid(np.arange(nx)[cols] + 0.5, np.arange(ny)[rows] + 0.5)
    if plane.box is None:
        return j, ny - i
    a = plane.box.affine
    x, y = a.a * j + a.b * i + a.c, a.d * j + a.e * i + a.f
    if _geographic(plane.box):
        return x, y
    from pyproj import Transformer

    crs = plane.box.crs.proj if plane.box.crs is not None else None
    lon, lat = Transformer.from_crs(crs, 4326, always_xy=True).transform(x, y)
    return lon, lat


def _geographic(box: GeoBox) -> bool:
    return bool(box.crs is not None and box.crs.geographic)


def _any(x: np.ndarray, y: np.ndarray, boxes: Sequence[Box], earth: bool) -> np.ndarray:
    inside = np.zeros(x.shape, dtype=bool)
    for west, south, east, north in boxes:
        across = (x - west) % 360 < (((east - west) % 360) or 360) if earth else (west <= x) & (x < east)
        inside |= across & (south <= y) & (y < north)
    return inside


def _pieces(box: Box, earth: bool) -> Iterator[Box]:
    """``box`` without a jump at the dateline: one plain box, or two."""
    west, south, east, north = box
    if not earth:
        yield box
        return
    width = east - west if east > west else east - west + 360
    if width >= 360:
        yield (-180.0, south, 180.0, north)
        return
    start = (west + 180) % 360 - 180
    yield (start, south, min(start + width, 180.0), north)
    if start + width > 180:
        yield (-180.0, south, start + width - 360, north)


def _grown(box: Box, dx: float, dy: float) -> Box:
    return box[0] - dx, box[1] - dy, box[2] + dx, box[3] + dy


def _overlap(a: Box, b: Box) -> Box | None:
    west, south, east, north = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    return (west, south, east, north) if west < east and south < north else None


def _without(box: Box, hole: Box) -> Iterator[Box]:
    """What is left of ``box``: up to four boxes."""
    both = _overlap(box, hole)
    if both is None:
        yield box
        return
    west, south, east, north = box
    if south < both[1]:
        yield (west, south, east, both[1])
    if both[3] < north:
        yield (west, both[3], east, north)
    if west < both[0]:
        yield (west, both[1], both[0], both[3])
    if both[2] < east:
        yield (both[2], both[1], east, both[3])
