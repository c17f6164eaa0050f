"""Pixel corners on grids that are not rows and columns of longitude and latitude: projected, rotated, other datums."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox

from geosr.footprint import lonlat, unit_vectors
from geosr.grid import AUTHALIC_RADIUS

# A projected pixel whose centre is farther than this share of its diameter from its corners' mean straddles a
# seam of the projection (its corners lie at opposite ends of the map).
_SEAM = 0.2


class Planar:
    """Corners of pixels in columns and rows of a projected or rotated grid (or in degrees of another datum)."""

    def __init__(self, box: GeoBox) -> None:
        from pyproj import Transformer

        crs = box.crs.proj if box.crs is not None else None
        self.geographic = bool(box.crs is not None and box.crs.geographic)
        self.transform = Transformer.from_crs(4326, crs, always_xy=True).transform
        self.inverse = ~box.affine
        # Pixels outside the cap that holds the grid need not be projected (a microsecond a point).
        back = Transformer.from_crs(crs, 4326, always_xy=True).transform
        rows, cols = np.meshgrid(np.linspace(0, box.shape[0], 33), np.linspace(0, box.shape[1], 33))
        a = box.affine
        xs = a.a * cols.ravel() + a.b * rows.ravel() + a.c
        ys = a.d * cols.ravel() + a.e * rows.ravel() + a.f
        points = unit_vectors(*back(xs, ys))
        self.middle_lon = float(np.median(xs))
        self.axis = points[np.isfinite(points).all(axis=1)].sum(axis=0) if len(points) else np.zeros(3)
        norm = float(np.linalg.norm(self.axis))
        if not np.isfinite(points).all() or norm < 1e-6 * len(points):
            self.reach = -1.0  # the grid is as large as the world
        else:
            self.axis /= norm
            radius = math.acos(min(1.0, max(-1.0, float(np.min(points @ self.axis)))))
            self.reach = math.cos(min(math.pi, 1.1 * radius + 0.35))

    def __call__(self, lon: np.ndarray, lat: np.ndarray, degrees: bool) -> tuple[Any, ...]:
        """Indices kept, their x and y (m, 4), their areas (m,) in m2, and how many a seam cut."""
        points = unit_vectors(lon, np.clip(lat, -90.0, 90.0))
        centre = points.sum(axis=1)
        near = (centre @ self.axis) / np.linalg.norm(centre, axis=1) > self.reach
        keep = np.flatnonzero(near | ~np.isfinite(centre).all(axis=1))  # NaN is counted by the kernel
        lon, lat, points, centre = lon[keep], lat[keep], points[keep], centre[keep]
        diagonals = points[:, 2] - points[:, 0], points[:, 3] - points[:, 1]
        area = AUTHALIC_RADIUS**2 / 2 * np.linalg.norm(np.cross(*diagonals), axis=1)
        if degrees:
            x, y = self.transform(lon, lat)
            return keep, x, y, area, 0
        clon, clat = lonlat(centre)
        x, y = self.transform(np.column_stack([lon, clon]), np.column_stack([lat, clat]))
        if self.geographic:  # a rotated grid of degrees: the copy of the pixel nearest to the grid
            x = x - 360.0 * np.round((x[:, 4:] - self.middle_lon) / 360.0)
            x[:, :4] = x[:, 4:] + (x[:, :4] - x[:, 4:] + 180.0) % 360.0 - 180.0
        i = self.inverse
        cols, rows = i.a * x + i.b * y + i.c, i.d * x + i.e * y + i.f
        away = np.hypot(cols[:, 4] - cols[:, :4].mean(axis=1), rows[:, 4] - rows[:, :4].mean(axis=1))
        size = np.hypot(np.ptp(cols[:, :4], axis=1), np.ptp(rows[:, :4], axis=1))
        # Inf: outside the projection's domain, hence outside the grid. NaN corners go on, to be counted.
        outside = np.isinf(cols).any(axis=1) | np.isinf(rows).any(axis=1)
        cut = ~outside & (away > _SEAM * size)
        good = ~outside & ~cut
        return (
            keep[good],
            *(np.ascontiguousarray(v[good, :4]) for v in (cols, rows)),
            area[good],
            int(cut.sum()),
        )
