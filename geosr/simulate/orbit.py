"""Where a Sentinel-5P-like imager looks: orbit, swath, pixel corners, angles.

A circular, sun-synchronous orbit over a spherical Earth (latitudes are geocentric and taken as geographic), with
the across-track line perpendicular to the track over ground (yaw steering) and pixels of equal viewing angle: 3.4 km
wide at nadir, 16 km at the swath's edge, 5.5 km along track. TROPOMI's own pixels are 3.5 to 14 km wide; its
binning of detector rows changes across the swath, which this does not copy.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace

import numpy as np

from geosr.errors import UsageError
from geosr.footprint import lonlat, ring, unit_vectors
from geosr.grid import AUTHALIC_RADIUS

INCLINATION = np.deg2rad(98.7)
ALTITUDE = 824_000.0
SWATH_WIDTH = 2_600_000.0
PERIOD = 16 * 86400 / 227  # seconds: 227 orbits in 16 days
SCANLINE_TIME = 0.84  # seconds
CROSSING_HOUR = 13.5  # local solar time at the ascending node
#: Scanlines and pixels of a whole orbit's day side.
ORBIT_SHAPE = (4172, 450)

# Orbit number 12285 crossed the equator northward near this time; later ones are counted from it.
_REFERENCE_ORBIT = 12285, dt.datetime(2020, 2, 26, 7, 43, tzinfo=dt.UTC)


@dataclass(frozen=True)
class Geometry:
    """Pixels of a swath: scanlines run along the ascending orbit, pixels from west to east.

    lon, lat : (scanline, pixel) centres in degrees, -180 to 180.
    lon_corners, lat_corners : (scanline, pixel, 4); counter-clockwise from the south-western corner (seen on the
        ascending, equatorward part), shared bit for bit by neighbouring pixels.
    seconds : (scanline,) since the ascending equator crossing.
    crossing : UTC of that crossing.
    nadir_lon, nadir_lat : (scanline,) the point below the satellite.
    first : index in the whole orbit of this section's first (scanline, pixel).
    """

    lon: np.ndarray
    lat: np.ndarray
    lon_corners: np.ndarray
    lat_corners: np.ndarray
    seconds: np.ndarray
    crossing: dt.datetime
    nadir_lon: np.ndarray
    nadir_lat: np.ndarray
    first: tuple[int, int] = (0, 0)

    @property
    def shape(self) -> tuple[int, int]:
        return self.lon.shape  # type: ignore[return-value]

    @property
    def orbit(self) -> int:
        """Orbit number, counted from a real one at 227 orbits in 16 days."""
        number, when = _REFERENCE_ORBIT
        return number + round((self.crossing - when).total_seconds() / PERIOD)

    def times(self) -> np.ndarray:
        """(scanline,) datetime64[ns], UTC, to the millisecond."""
        start = np.datetime64(self.crossing.replace(tzinfo=None), "ms")
        return (start + np.round(self.seconds * 1000).astype("timedelta64[ms]")).astype("datetime64[ns]")

    def section(self, rows: slice, cols: slice) -> Geometry:
        """The part of the swath in these ranges (with a start, without a step)."""
        pixels = {n: getattr(self, n)[rows, cols] for n in ("lon", "lat", "lon_corners", "lat_corners")}
        lines = {n: getattr(self, n)[rows] for n in ("seconds", "nadir_lon", "nadir_lat")}
        first = (self.first[0] + (rows.start or 0), self.first[1] + (cols.start or 0))
        return replace(self, **pixels, **lines, first=first)

    def viewing_angles(self) -> tuple[np.ndarray, np.ndarray]:
        """Zenith angle and azimuth (clockwise from north) of the satellite at each pixel, degrees."""
        below = unit_vectors(self.nadir_lon, self.nadir_lat)[:, None, :]
        towards = below * (1 + ALTITUDE / AUTHALIC_RADIUS) - unit_vectors(self.lon, self.lat)
        return _local_angles(self.lon, self.lat, towards)

    def solar_angles(self) -> tuple[np.ndarray, np.ndarray]:
        """Zenith angle and azimuth of the sun at each pixel, degrees; good to about a degree."""
        lon, lat = _subsolar_point(self.crossing, self.seconds)
        return _local_angles(self.lon, self.lat, unit_vectors(lon, lat)[:, None, :])


def _local_angles(lon: np.ndarray, lat: np.ndarray, towards: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lo, la = np.deg2rad(lon), np.deg2rad(lat)
    zero = np.zeros_like(lo)
    up = unit_vectors(lon, lat)
    east = np.stack([-np.sin(lo), np.cos(lo), zero], axis=-1)
    north = np.stack([-np.sin(la) * np.cos(lo), -np.sin(la) * np.sin(lo), np.cos(la)], axis=-1)
    e, n, u = ((towards * axis).sum(axis=-1) for axis in (east, north, up))
    return np.rad2deg(np.arctan2(np.hypot(e, n), u)), np.rad2deg(np.arctan2(e, n))


def _subsolar_point(crossing: dt.datetime, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Longitude (mean sun) and declination (one harmonic) where the sun is overhead, degrees."""
    midnight = crossing.replace(hour=0, minute=0, second=0, microsecond=0)
    hours = ((crossing - midnight).total_seconds() + seconds) / 3600
    day = crossing.timetuple().tm_yday + hours / 24
    return 15.0 * (12.0 - hours), -23.44 * np.cos(2 * np.pi * (day + 9) / 365.25)


def _track(seconds: np.ndarray, node_lon: float) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (n, 3) to the nadir point and eastward across the track, in the turning Earth's frame.

    The orbit's plane follows the mean sun, so the Earth turns below it once in a solar day.
    """
    u, spin = 2 * np.pi * seconds / PERIOD, 2 * np.pi / 86400
    node = np.deg2rad(node_lon) - spin * seconds
    cu, su, ci, si = np.cos(u), np.sin(u), np.cos(INCLINATION), np.sin(INCLINATION)

    def turned(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        return np.stack([x * np.cos(node) - y * np.sin(node), x * np.sin(node) + y * np.cos(node), z], axis=-1)

    place = turned(cu, su * ci, su * si)
    rate = 2 * np.pi / PERIOD
    velocity = rate * turned(-su, cu * ci, cu * si)
    velocity += spin * np.stack([place[:, 1], -place[:, 0], np.zeros(len(u))], axis=-1)
    across = np.cross(velocity, place)
    return place, across / np.linalg.norm(across, axis=-1, keepdims=True)


def _earth_angles(view: np.ndarray) -> np.ndarray:
    """Angle at the Earth's centre, radians, from nadir to where a ray at viewing angle ``view`` lands."""
    return np.arcsin((1 + ALTITUDE / AUTHALIC_RADIUS) * np.sin(view)) - view


def _half_view() -> float:
    """Viewing angle, radians, of the swath's edge."""
    half = SWATH_WIDTH / 2 / AUTHALIC_RADIUS
    return float(np.arctan2(np.sin(half), 1 + ALTITUDE / AUTHALIC_RADIUS - np.cos(half)))


def orbit_geometry(
    n_scanlines: int = ORBIT_SHAPE[0],
    n_pixels: int = ORBIT_SHAPE[1],
    *,
    node_lon: float = 0.0,
    date: dt.date = dt.date(2024, 6, 12),
    centre: float = 0.0,
) -> Geometry:
    """Geometry of ``n_scanlines`` of 0.84 s around ``centre``.

    Parameters
    ----------
    n_scanlines, n_pixels : 4172 x 450 is the whole day side; it covers both poles and crosses the dateline. Fewer
        pixels are wider ones.
    node_lon : longitude of the ascending equator crossing.
    date : UTC date of the crossing, which is at 13:30 local solar time.
    centre : middle of the section, seconds after the crossing.
    """
    if n_scanlines < 1 or n_pixels < 1:
        raise UsageError(f"{n_scanlines} x {n_pixels} pixels are not a swath", "give at least one of each")
    seconds = centre + SCANLINE_TIME * (np.arange(n_scanlines) - (n_scanlines - 1) / 2)
    view = _half_view() * np.linspace(-1, 1, 2 * n_pixels + 1)
    eta = _earth_angles(view)

    def pixels(seconds: np.ndarray, eta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place, across = _track(seconds, node_lon)
        return lonlat(place[:, None] * np.cos(eta)[:, None] + across[:, None] * np.sin(eta)[:, None])

    lon, lat = pixels(seconds, eta[1::2])
    edges = np.append(seconds, seconds[-1] + SCANLINE_TIME) - SCANLINE_TIME / 2
    corner_lon, corner_lat = pixels(edges, eta[::2])
    nadir_lon, nadir_lat = lonlat(_track(seconds, node_lon)[0])
    hours = (CROSSING_HOUR - node_lon / 15) % 24
    noon = dt.datetime(date.year, date.month, date.day, tzinfo=dt.UTC)
    return Geometry(
        lon,
        lat,
        # Node rows run north and columns east, so ring's order is south-west, south-east, north-east, north-west.
        np.ascontiguousarray(ring(corner_lon)),
        np.ascontiguousarray(ring(corner_lat)),
        seconds,
        noon + dt.timedelta(milliseconds=round(hours * 3_600_000)),
        nadir_lon,
        nadir_lat,
    )


def overpass(
    bbox: tuple[float, float, float, float],
    *,
    date: dt.date,
    offset: float = 0.0,
    n_pixels: int = ORBIT_SHAPE[1],
) -> Geometry:
    """The ascending swath whose pixel at ``offset`` passes over the middle of ``bbox``, cut to the box.

    Parameters
    ----------
    bbox : west, south, east, north in degrees; east > 180 crosses the dateline.
    offset : where the middle of the box lies in the swath, from -0.9 (its western edge) over 0 (nadir) to 0.9.
    date : UTC date.

    Raises
    ------
    UsageError
        The box lies too near a pole to be seen on the ascending track.
    """
    west, south, east, north = bbox
    if not -0.9 <= offset <= 0.9:
        raise UsageError(f"offset {offset} is not in the swath", "give -0.9 (west) to 0.9 (east)")
    seconds = np.linspace(-PERIOD / 4, PERIOD / 4, 4001)
    place, across = _track(seconds, 0.0)
    eta = float(_earth_angles(np.array(offset * _half_view())))
    lon, lat = lonlat(place * np.cos(eta) + across * np.sin(eta))
    rising = slice(int(np.argmin(lat)), int(np.argmax(lat)) + 1)
    middle = (south + north) / 2
    if not lat[rising][0] < middle < lat[rising][-1]:
        raise UsageError(f"latitude {middle:g} is not seen by day at this offset", "take a box nearer the equator")
    when = float(np.interp(middle, lat[rising], seconds[rising]))
    where = float(np.interp(when, seconds, np.unwrap(lon, period=360)))
    node = ((west + east) / 2 - where + 180) % 360 - 180
    reach = np.hypot(north - south, (east - west) * np.cos(np.deg2rad(middle))) / 2 + 2.0
    n_lines = 2 * int(np.deg2rad(reach) * PERIOD / (2 * np.pi) / SCANLINE_TIME) + 1
    whole = orbit_geometry(min(n_lines, ORBIT_SHAPE[0]), n_pixels, node_lon=node, date=date, centre=when)
    start = round((when - whole.seconds[0]) / SCANLINE_TIME)
    line = round(when / SCANLINE_TIME) + ORBIT_SHAPE[0] // 2 - start
    return crop(replace(whole, first=(line, 0)), bbox)


def crop(geometry: Geometry, bbox: tuple[float, float, float, float]) -> Geometry:
    """The smallest section that holds every pixel whose centre is in ``bbox``."""
    west, south, east, north = bbox
    x = (geometry.lon - west) % 360
    inside = (x <= east - west) & (geometry.lat >= south) & (geometry.lat <= north)
    rows, cols = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not len(rows):
        raise UsageError(f"no pixel centre lies in {west:g} {south:g} {east:g} {north:g}", "take a larger box")
    return geometry.section(slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1))
