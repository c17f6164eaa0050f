"""Grids: which cell lies where on Earth, before and after refinement.

One noun, :class:`odc.geo.geobox.GeoBox` (shape, affine transform, CRS), travels through the house. This module
finds it in xarray objects, refines it, gives the true areas of its cells, and writes it back as coordinates.

Conventions: cell (row, col) covers ``A * (col, row)`` to ``A * (col + 1, row + 1)`` with ``A`` the affine
transform; coordinates are cell centres. Nothing here assumes north-up: a transform is refined as it is,
``A' = A * scale(1 / s)``, so outer bounds stay and a fine centre sits at ``(i + 0.5) / s - 0.5`` coarse cells.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from geosr.errors import InputError, UsageError

# Radius of the sphere with the Earth's (WGS 84) surface area, in metres.
AUTHALIC_RADIUS = 6371007.2

# Coordinates farther than this from an even spacing, in cells, are not a regular grid (trust.md row 56).
UNIFORM_TOLERANCE = 1e-3

# … unless they are written with so few decimals that they cannot be closer; and never farther than this.
ROUNDED_TOLERANCE = 0.02

_X_NAMES = ("x", "lon", "longitude", "easting")
_Y_NAMES = ("y", "lat", "latitude", "northing")
_X_STANDARD = ("longitude", "projection_x_coordinate", "grid_longitude")
_Y_STANDARD = ("latitude", "projection_y_coordinate", "grid_latitude")


def _matches(coord: xr.DataArray | None, name: Hashable, axis: str) -> bool:
    names, standard = (_X_NAMES, _X_STANDARD) if axis == "X" else (_Y_NAMES, _Y_STANDARD)
    if str(name).lower() in names:
        return True
    if coord is None:
        return False
    return (
        coord.attrs.get("standard_name") in standard
        or str(coord.attrs.get("axis", "")).upper() == axis
        or degrees_of(coord.attrs.get("units", "")) == ("east" if axis == "X" else "north")
    )


def degrees_of(units: object) -> str:
    """ "north" or "east" if ``units`` are degrees of latitude or longitude in one of CF's spellings, else ""."""
    match = re.fullmatch(r"degrees?_?(?:(n|north)|(e|east))", str(units).strip(), re.IGNORECASE)
    return "" if match is None else "north" if match[1] else "east"


def spatial_dims(data: xr.DataArray) -> tuple[Hashable, Hashable]:
    """Names of the (row, column) dimensions, by name, CF ``standard_name``, ``axis`` or ``units``.

    Raises
    ------
    InputError
        If there is no such pair, e.g. for a swath whose latitude and longitude are two-dimensional.
    """

    def find(axis: str) -> Hashable | None:
        found = [d for d in data.dims if _matches(data.coords.get(d), d, axis)]
        return found[0] if len(found) == 1 else None

    y, x = find("Y"), find("X")
    if y is None or x is None or y == x:
        dims = ", ".join(f"{d} ({n})" for d, n in data.sizes.items())
        raise InputError(
            f"no pair of horizontal dimensions among {dims or 'no dimensions at all'}",
            "geosr needs a grid with y/x or latitude/longitude coordinates (swaths are gridded first: geosr grid)",
        )
    return y, x


def _stored_affine(data: xr.DataArray) -> Affine | None:
    """Transform in the grid mapping variable's ``GeoTransform``, as GDAL and rioxarray write it."""
    name = data.attrs.get("grid_mapping") or data.encoding.get("grid_mapping") or "spatial_ref"
    if name not in data.coords:
        return None
    text = data.coords[name].attrs.get("GeoTransform")
    if not text:
        return None
    try:
        return Affine.from_gdal(*(float(v) for v in str(text).split()))
    except (TypeError, ValueError):
        return None


def axis_step(coord: xr.DataArray, label: str) -> tuple[float, float]:
    """First outer edge and cell size of evenly spaced cell centres.

    Parameters
    ----------
    coord : 1-D centres, at least two. A jump across the dateline (… 179, -180 …) is unwrapped.

    Raises
    ------
    InputError
        NaN, duplicate or unevenly spaced coordinates; latitudes beyond the poles.
    """
    values = np.asarray(coord.values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise InputError(
            f"{label} coordinate {coord.name!r} holds NaN or fill values",
            "repair the coordinate first, or crop to where it is known",
        )
    if coord.name is not None and _is_longitude(coord):
        values = np.unwrap(values, period=360.0)
    steps = np.diff(values)
    if (steps == 0).any():
        raise InputError(f"{label} coordinate {coord.name!r} holds duplicate values", "remove the duplicates first")
    step = (values[-1] - values[0]) / (len(values) - 1)
    ideal = values[0] + step * np.arange(len(values))
    # Float32 coordinates near 180 are good to 1.5e-5 degrees: rounding is not unevenness.
    ulp = float(np.spacing(np.abs(values).max().astype(coord.dtype))) if coord.dtype.kind == "f" else 0.0
    worst = float(np.abs(values - ideal).max())
    if worst > max(UNIFORM_TOLERANCE * abs(step) + 2 * ulp, min(ROUNDED_TOLERANCE * abs(step), _last_digit(values))):
        raise InputError(
            f"{label} coordinate {coord.name!r} is non-uniform: {worst / abs(step):.3g} cells off an even spacing",
            "resample it to a regular grid first (e.g. xarray.DataArray.interp or gdalwarp)",
        )
    if _is_latitude(coord) and np.abs(values).max() > 90 + 1e-6:
        raise InputError(
            f"latitude {np.abs(values).max():g} is beyond the pole", "check the coordinate's order and units"
        )
    return _round_grid(values, float(values[0] - step / 2), float(step), 2 * ulp)


def _last_digit(values: np.ndarray) -> float:
    """How far rounding to as many decimals as ``values`` have may take them off a line through two of them."""
    for digits in range(1, 7):
        if np.abs(values - values.round(digits)).max() < 1e-3 * 10.0**-digits:
            return 0.75 * 10.0**-digits
    return 0.0


def _round_grid(values: np.ndarray, edge: float, step: float, tolerance: float) -> tuple[float, float]:
    """Edge and step in the fewest decimals that still give every centre to within rounding.

    Centres at -29.975, -29.925, … say -30 and 0.05 in any format; the mean of their differences only nearly does.
    """
    index = np.arange(len(values)) + 0.5
    for digits in range(1, 13):
        short_edge, short_step = round(edge, digits), round(step, digits)
        if short_step and np.abs(short_edge + short_step * index - values).max() <= tolerance:
            return short_edge, short_step
    return edge, step


def _is_longitude(coord: xr.DataArray) -> bool:
    return _degrees(coord, "east") or str(coord.name).lower() in ("lon", "longitude")


def _is_latitude(coord: xr.DataArray) -> bool:
    return _degrees(coord, "north") or str(coord.name).lower() in ("lat", "latitude")


def _degrees(coord: xr.DataArray, way: str) -> bool:
    standard = {"east": "longitude", "north": "latitude"}[way]
    return degrees_of(coord.attrs.get("units", "")) == way or coord.attrs.get("standard_name") == standard


def crs_of(data: xr.DataArray, declared: Any = None) -> Any:
    """CRS of ``data``: the stored one, else ``declared``, else EPSG:4326 for degree coordinates, else an error."""
    import rioxarray  # noqa: F401  (registers .rio)
    from rasterio.errors import CRSError

    try:
        stored = data.rio.crs
    except (CRSError, ValueError) as error:
        raise InputError(f"the CRS cannot be read ({error})", "declare it with --crs") from error
    if stored is not None:
        code = stored.to_epsg(confidence_threshold=100)
        return f"EPSG:{code}" if code else stored
    if declared is not None:
        return declared
    y, x = spatial_dims(data)
    coords = data.coords
    if y in coords and x in coords and _is_latitude(coords[y]) and _is_longitude(coords[x]):
        return "EPSG:4326"
    raise InputError("no CRS", "declare it with --crs (in Python: crs=…), e.g. EPSG:4326")


def geobox_of(data: xr.DataArray, crs: Any = None) -> GeoBox:
    """The grid of ``data``.

    A stored ``GeoTransform`` that agrees with the coordinates is taken to the last bit; otherwise the transform
    comes from the coordinates. Rotated grids have no coordinates and need the stored transform.

    Parameters
    ----------
    data : DataArray with (…, y, x).
    crs : declares the CRS of data that carries none.

    Raises
    ------
    InputError
        No CRS, no transform, or coordinates that are not a regular grid.
    """
    y, x = spatial_dims(data)
    shape = (data.sizes[y], data.sizes[x])
    if 0 in shape:
        raise InputError(f"the grid is empty, {shape[0]} x {shape[1]} cells", "check --bbox and the file")
    stored = _stored_affine(data)
    affine = stored if stored is not None and _agrees(stored, data, y, x) else None
    if affine is None:
        if y not in data.coords or x not in data.coords:
            raise InputError(
                "no geotransform and no coordinates", "georeference the raster first (gdal_translate -a_ullr)"
            )
        for name, n in ((y, shape[0]), (x, shape[1])):
            if n < 2:
                raise InputError(
                    f"one cell along {name!r} does not tell the cell size", "at least 2 x 2 cells are needed"
                )
        top, dy = axis_step(data.coords[y], "y")
        left, dx = axis_step(data.coords[x], "x")
        affine = Affine(dx, 0.0, left, 0.0, dy, top)
    if affine.is_degenerate:
        raise InputError(f"the geotransform {tuple(affine)[:6]} has no area", "georeference the raster first")
    try:
        return GeoBox(shape, affine, crs_of(data, crs))
    except InputError:
        raise
    except Exception as error:  # odc and pyproj raise many kinds for a bad CRS
        raise InputError(f"CRS {crs!r} is not known ({error})", "give an EPSG code, a PROJ string or WKT") from error


def _agrees(affine: Affine, data: xr.DataArray, y: Hashable, x: Hashable) -> bool:
    """Do the coordinates say the same as the stored transform? (They do not after slicing, for one.)"""
    rotated = affine.b != 0 or affine.d != 0
    if rotated or y not in data.coords or x not in data.coords:
        return True
    for name, step, edge in ((x, affine.a, affine.c), (y, affine.e, affine.f)):
        values = np.asarray(data.coords[name].values, dtype=np.float64)
        ends = edge + step * (np.array([0, len(values) - 1]) + 0.5)
        if np.abs(values[[0, -1]] - ends).max() > UNIFORM_TOLERANCE * abs(step):
            return False
    return True


def check_scale(scale: int) -> int:
    """Integer scale from 2 to 16, or a :class:`UsageError`."""
    if isinstance(scale, bool) or int(scale) != scale or not 2 <= scale <= 16:
        raise UsageError(f"scale {scale} is not possible", "use a whole number from 2 to 16")
    return int(scale)


def refine(box: GeoBox, scale: int) -> GeoBox:
    """``box`` with ``scale`` x ``scale`` cells in place of each one: same outer bounds, ``A' = A * scale(1/s)``."""
    ny, nx = box.shape
    return GeoBox((ny * scale, nx * scale), box.affine * Affine.scale(1 / scale), box.crs)


def coarsen(box: GeoBox, scale: int) -> GeoBox:
    """Inverse of :func:`refine`; the shape must be a multiple of ``scale``."""
    ny, nx = box.shape
    if ny % scale or nx % scale:
        raise UsageError(f"{ny} x {nx} cells do not divide by {scale}", "crop first (degrade.modcrop)")
    return GeoBox((ny // scale, nx // scale), box.affine * Affine.scale(scale), box.crs)


def cell_areas(box: GeoBox) -> np.ndarray:
    """Areas of the cells of ``box``, float64.

    Returns
    -------
    (ny, 1) where areas depend on the row alone (they broadcast), else (ny, nx). Geographic grids: m2 on the
    authalic sphere, ``R^2 dlon (sin lat1 - sin lat0)``, exact for cells bounded by meridians and parallels;
    a rotated geographic cell is the shoelace area in the equal-area plane (lon, sin lat). Projected grids:
    the transform's determinant, in units of the CRS squared. Beyond the poles the area is zero.
    """
    ny, nx = box.shape
    a = box.affine
    if box.crs is None or not box.crs.geographic:
        return np.full((ny, 1), abs(a.determinant))
    if a.b == 0 and a.d == 0:
        edges = np.clip(a.f + a.e * np.arange(ny + 1), -90.0, 90.0)
        low, high = np.deg2rad(edges[:-1]), np.deg2rad(edges[1:])
        # sin b - sin a without cancellation for small cells
        band = 2 * np.cos((low + high) / 2) * np.sin(np.abs(high - low) / 2)
        return (AUTHALIC_RADIUS**2 * np.deg2rad(abs(a.a)) * band)[:, None]
    cols, rows = np.meshgrid(np.arange(nx + 1), np.arange(ny + 1))
    lon = np.deg2rad(a.a * cols + a.b * rows + a.c)
    z = np.sin(np.deg2rad(np.clip(a.d * cols + a.e * rows + a.f, -90.0, 90.0)))
    dx1, dz1 = lon[1:, 1:] - lon[:-1, :-1], z[1:, 1:] - z[:-1, :-1]
    dx2, dz2 = lon[1:, :-1] - lon[:-1, 1:], z[1:, :-1] - z[:-1, 1:]
    return AUTHALIC_RADIUS**2 * np.abs(dx1 * dz2 - dx2 * dz1) / 2


def cell_size_m(box: GeoBox) -> float:
    """Typical cell size in metres: the root of the middle cell's area (metres assumed for a projected CRS)."""
    ny, nx = box.shape
    middle = box[ny // 2 : ny // 2 + 1, nx // 2 : nx // 2 + 1]
    unit = 1.0
    if box.crs is not None and not box.crs.geographic:
        unit = box.crs.proj.axis_info[0].unit_conversion_factor
    return float(np.sqrt(cell_areas(middle)[0, 0])) * unit


def with_geobox(data: xr.DataArray, box: GeoBox, like: xr.DataArray | None = None) -> xr.DataArray:
    """``data`` with the coordinates and CRS of ``box``.

    Parameters
    ----------
    data : (…, y, x) whose last two dimensions have the shape of ``box``.
    like : array whose coordinate attributes (standard_name, units, …) are kept, where the names match.

    Returns
    -------
    DataArray with 1-D centre coordinates (none for a rotated grid) and a ``spatial_ref`` coordinate that
    holds CRS and ``GeoTransform``, readable by rioxarray, GDAL and odc-geo.
    """
    y, x = data.dims[-2:]
    a = box.affine
    ny, nx = box.shape
    out = data.drop_vars([n for n in data.coords if n in (y, x, "spatial_ref")])
    if a.b == 0 and a.d == 0:
        geographic = box.crs is not None and box.crs.geographic
        for name, edge, step, n, axis in ((y, a.f, a.e, ny, "Y"), (x, a.c, a.a, nx, "X")):
            attrs = dict(like.coords[name].attrs) if like is not None and name in like.coords else {}
            attrs = {k: v for k, v in attrs.items() if k not in ("bounds", "valid_min", "valid_max", "valid_range")}
            attrs.setdefault("axis", axis)
            if geographic:
                attrs["standard_name"] = "latitude" if axis == "Y" else "longitude"
                attrs["units"] = "degrees_north" if axis == "Y" else "degrees_east"
            else:
                attrs["standard_name"] = f"projection_{axis.lower()}_coordinate"
                if box.crs is not None:
                    attrs["units"] = "m" if box.crs.units[0] in ("metre", "meter", "m") else str(box.crs.units[0])
            out = out.assign_coords({name: axis_of(name, edge + step * (np.arange(n) + 0.5), attrs)})
    wkt = None if box.crs is None else box.crs.to_wkt()
    out = out.assign_coords(spatial_ref=((), 0, dict(_spatial_ref(wkt, a))))
    out.encoding["grid_mapping"] = "spatial_ref"
    return out


def axis_of(dim: Hashable, values: np.ndarray, attrs: Mapping[str, Any]) -> xr.IndexVariable:
    """A coordinate along its own dimension. Of plain numbers xarray would make the same, but import pint (0.1 s)."""
    import pandas as pd

    return xr.IndexVariable(dim, pd.Index(values, copy=True), dict(attrs))


@lru_cache(maxsize=64)
def _spatial_ref(wkt: str | None, affine: Affine) -> Mapping[str, Any]:
    """Attributes of the grid mapping variable that rioxarray writes."""
    import rioxarray  # noqa: F401  (registers .rio)

    empty = xr.DataArray(0)
    if wkt is not None:
        empty = empty.rio.write_crs(wkt, grid_mapping_name="spatial_ref")
    attrs = empty.rio.write_transform(affine, grid_mapping_name="spatial_ref").coords["spatial_ref"].attrs
    return MappingProxyType(attrs)
