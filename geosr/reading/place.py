"""Does a grid lie where it says? What georeferences of honest files get wrong, found before a map is made of it."""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from geosr.errors import GeosrWarning, InputError
from geosr.grid import axis_step, degrees_of

# Longitudes farther than this are no longitudes (0 to 360, or across the dateline, is as far as files go).
_FURTHEST = 540.0

# Cells smaller than this, in metres, within a few hundred metres of a projection's origin, are degrees.
_TINY = 5.0

# Cells smaller than this, as a share of the coordinates, are lost in double precision.
_RESOLVED = 1e-13

# Edges closer than this, in cells, are the same: bounds are often rounded to a few digits.
_SAME_EDGE = 0.02


def check_place(box: GeoBox) -> None:
    """Raise :class:`InputError` where transform and CRS contradict each other or the globe.

    Not finite, or no area; latitudes beyond a pole by more than half a cell (centres may lie on it), longitudes that
    are none, more than once around the globe; degrees in a CRS in metres.
    """
    a = box.affine
    if not np.isfinite(a[:6]).all():
        raise InputError(
            f"the geotransform {_short(a.to_gdal())} holds NaN or infinity",
            "georeference it first (gdal_translate -a_ullr)",
        )
    ny, nx = box.shape
    cols, rows = np.array([0, nx, 0, nx]), np.array([0, 0, ny, ny])
    with np.errstate(over="ignore", invalid="ignore"):
        x, y = a.a * cols + a.b * rows + a.c, a.d * cols + a.e * rows + a.f
        furthest = max(1.0, float(np.abs(x).max()), float(np.abs(y).max()))
        smallest = min(float(np.hypot(a.a, a.d)), float(np.hypot(a.b, a.e)))
    if not np.isfinite(furthest):
        raise InputError(f"the geotransform {_short(a.to_gdal())} reaches to infinity", "georeference the raster first")
    if a.is_degenerate or smallest < _RESOLVED * furthest:
        raise InputError(f"the geotransform {_short(a.to_gdal())} has no area", "georeference the raster first")
    if box.crs is None:
        return
    if box.crs.geographic:
        unit = box.crs.proj.axis_info[0].unit_name if box.crs.proj.axis_info else "degree"
        if not unit.lower().startswith("degree"):
            hint = "warp it to one in degrees first (gdalwarp -t_srs EPSG:4326)"
            raise InputError(f"the CRS {box.crs.proj.name} is in {unit}, not in degrees", hint)
        if not box.crs.proj.is_derived:
            _check_degrees(x, y, np.hypot(a.a, a.d), np.hypot(a.b, a.e))
    elif _is_metric(box) and np.max(np.abs(x)) <= 361 and np.max(np.abs(y)) <= 91:
        name = f"EPSG:{box.crs.epsg}" if box.crs.epsg else box.crs.proj.name
        raise InputError(
            f"the coordinates ({np.min(x):g} to {np.max(x):g}, {np.min(y):g} to {np.max(y):g}) look like degrees, but "
            f"the CRS is {name}, in metres",
            "leave out --crs where the file knows better, or set the CRS that they are in (GeoTIFF: gdal_edit.py "
            "-a_srs EPSG:4326)",
        )


def _is_metric(box: GeoBox) -> bool:
    """Is the grid in metres, with cells too small for a map of columns?"""
    a = box.affine
    metres = box.crs is not None and str(box.crs.units[0]).lower() in ("metre", "meter", "m")
    return metres and max(float(np.hypot(a.a, a.d)), float(np.hypot(a.b, a.e))) < _TINY


def _check_degrees(x: np.ndarray, y: np.ndarray, dx: float, dy: float) -> None:
    metres = "if the coordinates are in metres, set the CRS that they are in (GeoTIFF: gdal_edit.py -a_srs)"
    furthest = float(y[np.argmax(np.abs(y))])
    if abs(furthest) > 90 + 0.51 * dy:
        raise InputError(
            f"latitude {furthest:g} is beyond the pole",
            f"check the CRS and the order of the coordinates; {metres}",
        )
    furthest = float(x[np.argmax(np.abs(x))])
    if abs(furthest) > _FURTHEST:
        raise InputError(f"longitude {furthest:g} is none on Earth", f"check the CRS; {metres}")
    if np.ptp(x) > 360 + 1.01 * dx:
        raise InputError(
            f"the grid goes {np.ptp(x):g} degrees around the globe, which has 360",
            "check the longitudes and their step",
        )


def _short(numbers: tuple[float, ...]) -> str:
    return f"({', '.join(f'{v:g}' for v in numbers)})"


def edge_and_step(axis: xr.DataArray, bounds: np.ndarray | None, label: str) -> tuple[float, float]:
    """First outer edge and cell size along ``axis``, by the centres, or by the cells' bounds if they say otherwise.

    CF: a cell is what its bounds say; the coordinate only lies in it, often in the middle, sometimes at an edge.
    Bounds that do not fit the coordinates are not used, with a :class:`GeosrWarning`.

    Parameters
    ----------
    bounds : (n, 2) in units of ``axis``, any order, or None.

    Raises
    ------
    InputError
        As :func:`geosr.grid.axis_step`; or one cell alone, without bounds.
    """
    usable = bounds is not None and bounds.shape == (axis.size, 2) and bool(np.isfinite(bounds).all())
    if axis.size < 2:
        if not usable or bounds is None or bounds[0, 0] == bounds[0, 1]:
            raise InputError(
                f"one cell along {axis.name!r} does not tell the cell size", "at least 2 x 2 cells are needed"
            )
        low, high = sorted(float(v) for v in bounds[0])
        return low, high - low
    edge, step = axis_step(axis, label)
    if not usable or bounds is None:
        return edge, step
    n = axis.size
    centres = edge + step * (np.arange(n) + 0.5)
    pairs = bounds.astype(np.float64)
    if label == "x" and degrees_of(axis.attrs.get("units", "")):
        pairs = centres[:, None] + (pairs - centres[:, None] + 180) % 360 - 180
    pairs = np.sort(pairs, axis=1)[:, :: 1 if step > 0 else -1]
    # Inner edges alone: at a pole the outer ones are clipped.
    inner = pairs[1:, 0]
    off = (inner - (edge + step * np.arange(1, n))) / step
    contiguous = np.abs(inner - pairs[:-1, 1]).max() <= _SAME_EDGE * abs(step)
    if contiguous and np.abs(off).max() <= _SAME_EDGE:
        return edge, step
    shift = float(off.mean())
    if contiguous and np.ptp(off) <= _SAME_EDGE and abs(shift) <= 0.5 + _SAME_EDGE:
        shift = round(shift, 2)
        warnings.warn(
            f"coordinate {axis.name!r} is not the middle of its cells: the bounds in the file, which are followed, "
            f"place them {abs(shift):g} cells off",
            GeosrWarning,
            stacklevel=2,
        )
        return edge + shift * step, step
    warnings.warn(
        f"the bounds of coordinate {axis.name!r} do not fit it: its values are taken as centres of even cells",
        GeosrWarning,
        stacklevel=2,
    )
    return edge, step
