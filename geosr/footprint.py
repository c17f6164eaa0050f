"""Where pixels lie: extent of a swath, corners from centres, and the grid that fits them.

Everything here is safe at the poles and across the dateline: longitudes are compared on the circle, points are
averaged on the sphere.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from geosr.errors import InputError, RefusedError, UsageError
from geosr.grid import AUTHALIC_RADIUS

METRES_PER_DEGREE = AUTHALIC_RADIUS * math.pi / 180
#: Share of the available memory that a grid may take.
MEMORY_SHARE = 0.7
#: Bytes a cell takes at least: three float64 sums, a float32 mean and an int32 count.
CELL_BYTES = 3 * 8 + 4 + 4
_LARGEST_CELL_DEG = 10.0
# Pixels whose extent is found at once: their float64 copies stay in the processor's cache.
_BLOCK = 1 << 14
_NICE = (1.0, 2.0, 2.5, 5.0, 10.0)


def unit_vectors(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """(…, 3) points on the unit sphere from degrees; NaN stays NaN."""
    lo, la = np.deg2rad(np.asarray(lon, np.float64)), np.deg2rad(np.asarray(lat, np.float64))
    return np.stack([np.cos(la) * np.cos(lo), np.cos(la) * np.sin(lo), np.sin(la)], axis=-1)


def lonlat(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Degrees of (…, 3) vectors of any length; inverse of :func:`unit_vectors`."""
    x, y, z = np.moveaxis(points, -1, 0)
    return np.rad2deg(np.arctan2(y, x)), np.rad2deg(np.arctan2(z, np.hypot(x, y)))


def _extrapolate(points: np.ndarray) -> np.ndarray:
    """Fill the missing neighbours of valid points, straight on from the next two, averaged over directions."""
    total, hits = np.zeros_like(points), np.zeros(points.shape[:2])
    for axis in (0, 1):
        for step in (1, -1):
            near, far = np.roll(points, -step, axis), np.roll(points, -2 * step, axis)
            cut = [slice(None), slice(None)]
            cut[axis] = slice(-2, None) if step == 1 else slice(0, 2)  # np.roll wraps around
            guess = 2 * near - far
            guess[tuple(cut)] = np.nan
            good = np.isfinite(guess[..., 0])
            total[good] += guess[good]
            hits[good] += 1
    fill = ~np.isfinite(points[..., 0]) & (hits > 0)
    out = points.copy()
    out[fill] = total[fill] / hits[fill][:, None]
    return out


def corners_from_centres(
    lon: np.ndarray, lat: np.ndarray, width_m: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pixel corners halfway between the centres of a swath.

    Parameters
    ----------
    lon, lat : (scanline, pixel) centres in degrees; NaN where there is none.
    width_m : size of the pixels along a dimension of length one, where no neighbour tells it.

    Returns
    -------
    lon, lat : (scanline, pixel, 4) in degrees, float64, in ring order. A corner is the mean, on the sphere, of
    the four centres around it, those beyond the swath's edge (or in a hole) continued linearly from the two
    next to it. A pixel with too few neighbours for that takes the size and direction of the nearest that have
    them. NaN where there is no centre, or no two neighbours anywhere.

    Raises
    ------
    InputError
        One dimension has length one and ``width_m`` is not given.
    """
    points = unit_vectors(lon, lat)
    ny, nx = points.shape[:2]
    if min(ny, nx) < 2:
        if width_m is None:
            raise InputError(
                f"a swath of {ny} x {nx} pixels without corner coordinates does not tell the pixels' size",
                "use a file with latitude_bounds and longitude_bounds, or a larger subset",
            )
        points = _widen(points, width_m / AUTHALIC_RADIUS)
    pad = np.full((points.shape[0] + 2, points.shape[1] + 2, 3), np.nan)
    pad[1:-1, 1:-1] = points
    pad = _extrapolate(_extrapolate(pad))  # the second round reaches the diagonal neighbours
    mean = pad[:-1, :-1] + pad[:-1, 1:] + pad[1:, 1:] + pad[1:, :-1]
    corners = ring(mean)
    _fill_lonely(corners, points)
    inner = tuple(slice((s - n) // 2, (s + n) // 2) for s, n in zip(points.shape[:2], (ny, nx), strict=True))
    clon, clat = lonlat(corners[inner])
    missing = ~(np.isfinite(lon) & np.isfinite(lat))
    clon[missing], clat[missing] = np.nan, np.nan
    return clon, clat


def ring(nodes: np.ndarray) -> np.ndarray:
    """(ny + 1, nx + 1, …) nodes to the four corners of each pixel, (ny, nx, 4, …), around the pixel."""
    return np.stack([nodes[:-1, :-1], nodes[:-1, 1:], nodes[1:, 1:], nodes[1:, :-1]], axis=2)


def _fill_lonely(corners: np.ndarray, points: np.ndarray) -> None:
    """Give pixels with too few neighbours the pixel vectors of the nearest place (in pixels) that has them."""
    from scipy.ndimage import distance_transform_edt

    lonely = np.isfinite(points[..., 0]) & ~np.isfinite(corners).all(axis=(2, 3))
    if not lonely.any():
        return
    half = []
    for axis in (0, 1):
        step = np.diff(points, axis=axis, append=np.take(points, [-1], axis=axis) * np.nan)
        known = np.isfinite(step[..., 0])
        if not known.any():
            return
        nearest = distance_transform_edt(~known, return_distances=False, return_indices=True)
        half.append(step[nearest[0][lonely], nearest[1][lonely]] / 2)
    row, col = half
    centre = points[lonely]
    corners[lonely] = np.stack([centre - row - col, centre - row + col, centre + row + col, centre + row - col], 1)


def _widen(points: np.ndarray, width: float) -> np.ndarray:
    """Give a line of pixels neighbours at right angles to its course (north, for a single pixel), ``width`` away."""
    for axis in (0, 1):
        if points.shape[axis] > 1:
            continue
        along = np.gradient(points, axis=1 - axis) if points.shape[1 - axis] > 1 else None
        if along is None or not np.isfinite(along).any():
            up = np.array([0.0, 0.0, 1.0])
            along = np.cross(np.cross(points, np.broadcast_to(up, points.shape)), points)
            if axis == 0 and points.shape[1] == 1:  # a single pixel: this axis is along track, the other across
                along = np.cross(points, along)
        side = np.cross(along, points)
        side = side / np.linalg.norm(side, axis=-1, keepdims=True) * width
        points = np.concatenate([points - side, points, points + side], axis=axis)
    return points


@dataclass
class Extent:
    """Latitude and longitude range of pixels, gathered piece by piece in constant memory.

    Longitudes are kept as the outermost pixel edges within each degree of the circle, so that the widest gap
    (where the range begins) can be found at the end, whatever the order.
    """

    south: float = math.inf
    north: float = -math.inf
    pixels: int = 0
    asked: tuple[float, float, float, float] | None = None  # count the pixels that reach this box
    inside: int = 0  # how many do, by their ranges of longitude and latitude
    west: np.ndarray = field(default_factory=lambda: np.full(360, math.inf))
    east: np.ndarray = field(default_factory=lambda: np.full(360, -math.inf))
    covered: np.ndarray = field(default_factory=lambda: np.zeros(360, bool))

    def add(self, lon: np.ndarray, lat: np.ndarray) -> None:
        """Take in pixels with corners ``lon``, ``lat`` (n, 4) in degrees; those with NaN are passed over."""
        for at in range(0, len(lon), _BLOCK):
            # One row a corner: numpy is six times slower at reducing rows of four.
            x, y = (np.array(v[at : at + _BLOCK].T, np.float64, order="C") for v in (lon, lat))
            good = np.isfinite(x.sum(axis=0) + y.sum(axis=0))
            if good.any():
                self._add(*((x, y) if good.all() else (x[:, good], y[:, good])))

    def _add(self, lon: np.ndarray, lat: np.ndarray) -> None:
        """Take in pixels with finite corners ``lon``, ``lat`` (4, n)."""
        self.pixels += lon.shape[1]
        low, high = lat.min(axis=0), lat.max(axis=0)
        turn = np.roll(lon, -1, axis=0) - lon
        turn -= 360.0 * np.rint(turn / 360.0)
        polar = np.abs(turn.sum(axis=0)) > 180.0
        if polar.any():
            self.covered[:] = True
            top = lat.mean(axis=0) > 0
            high[polar & top], low[polar & ~top] = 90.0, -90.0
        self.south, self.north = min(self.south, float(low.min())), max(self.north, float(high.max()))
        along = np.cumsum(turn[:3], axis=0)
        least, most = np.minimum(along.min(axis=0), 0.0), np.maximum(along.max(axis=0), 0.0)
        west = (lon[0] + least) % 360.0
        west[west >= 360.0] = 0.0  # -1e-14 % 360 rounds up
        east = west + (most - least)
        if self.asked is not None:
            w, s, e, n = self.asked
            near = ((west - w) % 360.0 < e - w) | ((w - west) % 360.0 < east - west) | polar
            self.inside += int((near & (low < n) & (high > s)).sum())
        first = west.astype(np.int64) % 360
        last = np.maximum(np.ceil(east).astype(np.int64) - 1, first)
        np.minimum.at(self.west, first, west)
        np.maximum.at(self.east, last % 360, east - 360.0 * (last // 360))
        steps = np.zeros(721, np.int64)
        np.add.at(steps, first, 1)
        np.add.at(steps, np.minimum(last + 1, 720), -1)
        reach = np.cumsum(steps[:720]) > 0
        self.covered |= reach[:360] | reach[360:]

    def merge(self, other: Extent) -> None:
        self.south, self.north = min(self.south, other.south), max(self.north, other.north)
        self.pixels += other.pixels
        self.inside += other.inside
        self.west, self.east = np.minimum(self.west, other.west), np.maximum(self.east, other.east)
        self.covered |= other.covered

    def bbox(self) -> tuple[float, float, float, float]:
        """West, south, east, north; east > 180 where the range crosses the dateline; -180 to 180 if it is all round."""
        if self.covered.all():
            return -180.0, self.south, 180.0, self.north
        free = np.flatnonzero(~self.covered)
        runs = np.split(free, np.flatnonzero(np.diff(free) > 1) + 1)
        if len(runs) > 1 and runs[0][0] == 0 and runs[-1][-1] == 359:
            runs[0] = np.concatenate([runs.pop(), runs[0] + 360])
        gap = max(runs, key=len)
        begin, end = (int(gap[-1]) + 1) % 360, (int(gap[0]) - 1) % 360
        west = float(self.west[begin])
        east = float(self.east[end])
        west = west - 360.0 if west >= 180.0 else west
        return west, self.south, west + ((east - west) % 360.0 or 360.0), self.north


def nice_size(size: float) -> float:
    """Smallest of 1, 2, 2.5, 5 times a power of ten that is not below ``size``."""
    power = 10.0 ** math.floor(math.log10(size))
    return next(n * power for n in _NICE if n * power >= size * (1 - 1e-9))


def check_bbox(bbox: Sequence[float]) -> tuple[float, float, float, float]:
    """West, south, east, north in degrees with east > west (by 360 where the dateline is crossed), or an error."""
    if len(bbox) != 4 or not all(math.isfinite(v) for v in bbox):
        raise UsageError(f"--bbox {bbox} is not four numbers", "give west south east north in degrees")
    west, south, east, north = (float(v) for v in bbox)
    if not (-90 <= south < north <= 90 and -360 <= west <= 360 and -360 <= east <= 540):
        raise UsageError(
            f"--bbox {west:g} {south:g} {east:g} {north:g} is no area on Earth",
            "give west south east north in degrees, south < north; west > east or east > 180 crosses the dateline",
        )
    if east <= west:
        east += 360.0
    if not west < east <= west + 360.0:
        raise UsageError(f"--bbox spans {east - west:g} degrees of longitude", "360 is all there is")
    return west, south, east, north


def _snap(low: float, high: float, step: float) -> tuple[int, int]:
    """Numbers of the multiples of ``step`` just outside low and high (1e-6 of a step is rounding)."""
    return math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)


def _multiple(number: int, step: float) -> float:
    """``number * step``, to the last bit where ``1 / step`` is whole: 3 * 0.05 is 0.15."""
    per_unit = round(1 / step)
    return number / per_unit if per_unit and abs(per_unit * step - 1) < 1e-12 else number * step


def check_memory(ny: int, nx: int, cell_bytes: int) -> None:
    """Raise :class:`RefusedError` if a grid of ``ny`` by ``nx`` cells takes too much of the available memory."""
    needed, limit = ny * nx * cell_bytes, MEMORY_SHARE * available_memory()
    if needed > limit:
        raise RefusedError(
            f"a grid of {ny} x {nx} cells ({ny * nx / 1e6:,.0f} million) takes {needed / 1e9:,.1f} GB of memory, more "
            f"than {limit / 1e9:,.1f} GB ({MEMORY_SHARE:.0%} of what is available)",
            "give a smaller --bbox or a larger --resolution",
        )


def available_memory() -> float:
    """Bytes that can be had: the system's, or the limit of a control group that the process is in, if lower.

    Linux's MemAvailable where there is one: SC_AVPHYS_PAGES counts the cache of files as taken, which is most of the
    memory of a machine that has run for a day. Infinite where nothing tells.
    """
    known = [_system_memory()]
    for file in _cgroup_files():
        try:
            known.append(float(file.read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min(known)


def _system_memory() -> float:
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        if found:
            return 1024.0 * int(found[1])
    except OSError:
        pass
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows has no sysconf, macOS not this one
        return math.inf


def _cgroup_files() -> list[Path]:
    """Files that may hold the limit of this process's control group or one above it (versions 2 and 1)."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    files = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            root, name = Path("/sys/fs/cgroup"), "memory.max"
        elif "memory" in controllers.split(","):
            root, name = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        else:
            continue
        here = root / group.lstrip("/")
        files += [folder / name for folder in (here, *here.parents) if folder.is_relative_to(root)]
    return files


def fit_geobox(
    extent: tuple[float, float, float, float],
    pixel_size_m: tuple[float, float],
    resolution: float | None = None,
    crs: object = None,
) -> GeoBox:
    """North-up grid that holds a range of longitude and latitude; see :func:`geosr.swath.default_geobox`."""
    try:
        target = CRS("EPSG:4326" if crs is None else crs)
    except Exception as error:  # odc and pyproj raise many kinds for a bad CRS
        raise InputError(f"CRS {crs!r} is not known ({error})", "give an EPSG code, a PROJ string or WKT") from error
    metres = METRES_PER_DEGREE if target.geographic else target.proj.axis_info[0].unit_conversion_factor
    chosen = resolution is not None
    if resolution is None:
        resolution = nice_size(math.sqrt(pixel_size_m[0] * pixel_size_m[1]) / metres)
    if not (math.isfinite(resolution) and resolution > 0):
        raise UsageError(f"--resolution {resolution} is not a cell size", "give a positive number in units of the CRS")
    west, south, east, north = extent
    if target.geographic and chosen and resolution > _LARGEST_CELL_DEG:
        raise UsageError(
            f"--resolution {resolution:g} degrees is too coarse for a grid",
            f"it is in units of the CRS, here degrees: give at most {_LARGEST_CELL_DEG:g}",
        )
    if target.geographic:
        x0, x1 = _snap(west, east, resolution)
        # all round, to the nearest whole number of columns, is enough
        x1 = min(x1, x0 + round(360.0 / resolution + 1e-6))
        y0, y1 = _snap(south, north, resolution)
        pole = round(90.0 / resolution)  # the outermost centre stays on Earth
        y0, y1 = max(y0, -pole), min(y1, pole)
    else:
        left, bottom, right, top = _project(target, extent)
        if chosen and resolution > max(right - left, top - bottom):
            raise UsageError(
                f"--resolution {resolution:g} is larger than the whole box ({right - left:.6g} x {top - bottom:.6g})",
                "it is in units of the CRS: give a smaller one",
            )
        (x0, x1), (y0, y1) = _snap(left, right, resolution), _snap(bottom, top, resolution)
    nx, ny = max(x1 - x0, 1), max(y1 - y0, 1)
    check_memory(ny, nx, CELL_BYTES)
    affine = Affine(resolution, 0.0, _multiple(x0, resolution), 0.0, -resolution, _multiple(y0 + ny, resolution))
    return GeoBox((ny, nx), affine, target)


def _project(crs: CRS, extent: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """Bounds in ``crs`` of a range in degrees, from a lattice of points (a pole may lie inside)."""
    from pyproj import Transformer

    west, south, east, north = extent
    lon, lat = np.meshgrid(np.linspace(west, east, 65), np.linspace(south, north, 65))
    lon = (lon + 180.0) % 360.0 - 180.0
    x, y = Transformer.from_crs(4326, crs.proj, always_xy=True).transform(lon, lat)
    good = np.isfinite(x) & np.isfinite(y)
    if not good.any():
        raise UsageError(f"the pixels or --bbox lie outside the domain of {crs}", "choose another --crs or --bbox")
    return float(x[good].min()), float(y[good].min()), float(x[good].max()), float(y[good].max())
