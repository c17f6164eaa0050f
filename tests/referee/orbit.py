"""A sun-synchronous orbit with Sentinel-5P's geometry, and independent area computations."""

from __future__ import annotations

import math

import numpy as np
import shapely

R = 6371007.2
HEIGHT, INCLINATION, PERIOD_S = 824_000.0, math.radians(98.7), 6090.0
SWATH_M = 2_600_000.0


def orbit_corners(scanlines: int, pixels: int, turns: float = 0.58, node: float = 150.0, lead: float = 0.29):
    """Corner longitudes and latitudes, float64 (scanlines + 1, pixels + 1), of a swath over both poles.

    A circular orbit over a turning Earth, from the night side past the south pole up over the north pole; pixels
    of equal viewing angle steps grow towards the swath's edges.
    """
    t = (np.linspace(0.0, turns, scanlines + 1) - lead) * 2 * math.pi
    along = np.stack([np.cos(t), np.sin(t) * math.cos(INCLINATION), np.sin(t) * math.sin(INCLINATION)], axis=-1)
    normal = np.array([0.0, -math.sin(INCLINATION), math.cos(INCLINATION)])
    edge = math.atan(math.sin(SWATH_M / 2 / R) / (1 + HEIGHT / R - math.cos(SWATH_M / 2 / R)))
    view = np.linspace(-edge, edge, pixels + 1)
    arc = np.arcsin(np.clip((1 + HEIGHT / R) * np.sin(view), -1, 1)) - view
    points = along[:, None] * np.cos(arc)[None, :, None] + normal * np.sin(arc)[None, :, None]
    lon = np.degrees(np.arctan2(points[..., 1], points[..., 0])) + node
    lon = lon - np.degrees(t)[:, None] / (2 * math.pi) * PERIOD_S / 86400.0 * 2 * math.pi
    return (lon + 180.0) % 360.0 - 180.0, np.degrees(np.arcsin(points[..., 2]))


def rings(nodes: np.ndarray) -> np.ndarray:
    """(ny + 1, nx + 1) nodes to (n, 4) corners."""
    return np.stack([nodes[:-1, :-1], nodes[:-1, 1:], nodes[1:, 1:], nodes[1:, :-1]], axis=-1).reshape(-1, 4)


def orbit_file(path, scanlines: int, across: int, compressed: bool = False):
    """An S5P-like file of one orbit: all pixels good, corners given. Returns ``path``."""
    import netCDF4

    lon, lat = (v.astype(np.float32) for v in orbit_corners(scanlines, across))
    shape = (1, scanlines, across)
    data = {"latitude": (lat[:-1, :-1] + lat[1:, 1:]) / 2, "longitude": lon[:-1, :-1]}
    data |= {"nitrogendioxide_tropospheric_column": np.random.default_rng(0).normal(5e-5, 2e-5, shape)}
    data |= {"nitrogendioxide_tropospheric_column_precision": np.full(shape, 1e-5), "qa_value": np.ones(shape)}
    data |= {"latitude_bounds": rings(lat).reshape(*shape, 4), "longitude_bounds": rings(lon).reshape(*shape, 4)}
    with netCDF4.Dataset(path, "w") as file:
        group = file.createGroup("PRODUCT")
        dims = {"time": 1, "scanline": scanlines, "ground_pixel": across, "corner": 4}
        for name, n in dims.items():
            group.createDimension(name, n)
        for name, values in data.items():
            along = [*dims][: 4 if "bounds" in name else 3]
            group.createVariable(name, "f4", along, zlib=compressed, complevel=4)[:] = values
    return path


def sphere_points(lon, lat) -> np.ndarray:
    lo, la = np.radians(lon), np.radians(lat)
    return np.stack([np.cos(la) * np.cos(lo), np.cos(la) * np.sin(lo), np.sin(la)], axis=-1)


def solid_angles(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Areas of great-circle quadrilaterals (n, 4) on the unit sphere (van Oosterom and Strackee 1983)."""
    a, b, c, d = np.moveaxis(sphere_points(lon, lat), 1, 0)

    def triangle(p, q, r):
        # from edge vectors, so that small triangles keep their digits
        volume = (p * np.cross(q - p, r - p)).sum(-1)
        return 2 * np.arctan2(volume, 1 + (p * q).sum(-1) + (q * r).sum(-1) + (r * p).sum(-1))

    return np.abs(triangle(a, b, c) + triangle(a, c, d))


def shapely_overlaps(lon: np.ndarray, lat: np.ndarray, box) -> np.ndarray:
    """(n, ny, nx) overlaps in m2 of pixels with the cells of a geographic grid, by shapely in the plane of
    (longitude, sin latitude). For pixels with no edge over half a degree of longitude."""
    ny, nx = box.shape
    a = box.affine
    turn = (np.diff(lon, axis=1) + 180.0) % 360.0 - 180.0
    lon = np.concatenate([lon[:, :1], lon[:, :1] + np.cumsum(turn, axis=1)], axis=1)
    z = np.sin(np.radians(lat))
    xs = a.c + a.a * np.arange(nx + 1)
    zs = np.sin(np.radians(np.clip(a.f + a.e * np.arange(ny + 1), -90, 90)))
    cells = shapely.box(
        xs[None, :-1],
        np.minimum(zs[:-1], zs[1:])[:, None],
        xs[None, 1:],
        np.maximum(zs[:-1], zs[1:])[:, None],
    )
    total = np.zeros((len(lon), ny, nx))
    for shift in (-720.0, -360.0, 0.0, 360.0, 720.0):
        pixels = shapely.polygons(np.stack([lon + shift, z], axis=-1))
        total += shapely.area(shapely.intersection(pixels[:, None, None], cells[None]))
    return total * R**2 * math.pi / 180
