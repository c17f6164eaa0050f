"""Where a NetCDF variable lies: coordinates along its dimensions, CRS, grid.

Which dimensions are y and x is told by the one-dimensional latitude/longitude or x/y variables along them, whatever
they are called and wherever in the groups they stand.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from geosr.errors import GeosrWarning, InputError
from geosr.grid import axis_of, axis_step, spatial_dims
from geosr.reading.crs import as_crs, from_grid_mapping, keeps_own
from geosr.reading.store import Store, Variable


@dataclass(frozen=True)
class Gridded:
    """A numeric variable and what its dimensions are."""

    variable: Variable
    y: str
    x: str
    axes: Mapping[str, xr.DataArray]  # by dimension: 1-D coordinates, where there are any


def find_axes(store: Store, v: Variable) -> tuple[str, str, dict[str, xr.DataArray]] | None:
    """(y dimension, x dimension, coordinates by dimension) of ``v``, or None if it is on no grid."""
    axes = {}
    for dim, size in zip(v.dims, v.shape, strict=True):
        coordinate = _coordinate(store, v, dim, size)
        if coordinate is not None:
            raw = store.values(coordinate)
            axes[dim] = xr.DataArray(
                raw.astype(raw.dtype.newbyteorder("=")),
                dims=dim,
                name=coordinate.base,
                attrs=clean_attrs(coordinate.attrs),
            )
    span = _hdfeos_axes(store, v)
    axes.update({d: c for d, c in span.items() if d not in axes})
    probe = xr.DataArray(da.empty(v.shape), dims=v.dims)
    # Under the coordinate's own name ("lat" along "rows"), which is what tells y from x.
    for dim, axis in axes.items():
        probe = probe.assign_coords({dim: axis_of(dim, axis.values, axis.attrs)})
    names = {dim: str(c.name) for dim, c in axes.items()}
    if len(set(names.values()) | (set(v.dims) - set(names))) == len(v.dims):
        probe = probe.rename({d: n for d, n in names.items() if d != n})
    try:
        y, x = spatial_dims(probe)
    except InputError:
        return None
    back = {n: d for d, n in names.items()}
    y_dim, x_dim = (str(back.get(str(d), d)) for d in (y, x))
    return y_dim, x_dim, axes


def clean_attrs(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Scalar attributes; "Units" and "Title" of HDF-EOS under their CF names."""
    plain = {k: a for k, a in attrs.items() if isinstance(a, str | int | float | np.generic)}
    for cf, eos in (("units", "Units"), ("long_name", "Title")):
        if cf not in plain and eos in plain:
            plain[cf] = plain[eos]
    return plain


def _coordinate(store: Store, v: Variable, dim: str, size: int) -> Variable | None:
    """The 1-D variable that says where along ``dim`` things are."""

    def fits(c: Variable | None) -> bool:
        return c is not None and c.dtype is not None and c.dims == (dim,) and c.shape == (size,)

    named = store.near(dim, v.group)
    if fits(named) and named is not v:
        return named
    listed = [store.near(n, v.group) for n in str(v.attrs.get("coordinates", "")).split()]
    others = [c for c in store.variables.values() if fits(c) and _says_where(c)]
    return next((c for c in (*listed, *others) if fits(c) and c is not None and _says_where(c)), None)


def _says_where(c: Variable) -> bool:
    units = str(c.attrs.get("units", "")).lower()
    standard = str(c.attrs.get("standard_name", ""))
    return (
        bool(re.fullmatch(r"(lat|latitudes?|lon|longitudes?|x|y|time)", c.base, re.I))
        or units.startswith(("degrees_n", "degree_n", "degrees_e", "degree_e"))
        or standard in ("latitude", "longitude", "projection_x_coordinate", "projection_y_coordinate", "time")
    )


def _hdfeos_axes(store: Store, v: Variable) -> dict[str, xr.DataArray]:
    """Coordinates of an HDF-EOS grid (OMI level 3), which states its extent in group attributes instead."""
    match = re.match(r"(HDFEOS/GRIDS/[^/]+)/Data Fields$", v.group)
    if match is None or len(v.dims) < 2:
        return {}
    span = re.findall(r"[-+.\deE]+", str(store.group_attrs.get(match[1], {}).get("GridSpan", "")))
    if len(span) != 4:
        return {}
    west, east, south, north = (float(s) for s in span)
    ny, nx = v.shape[-2:]
    lat = south + (north - south) / ny * (np.arange(ny) + 0.5)
    lon = west + (east - west) / nx * (np.arange(nx) + 0.5)
    y, x = v.dims[-2:]
    if y == x:
        return {}
    return {
        y: xr.DataArray(lat, dims=y, name="lat", attrs={"units": "degrees_north"}),
        x: xr.DataArray(lon, dims=x, name="lon", attrs={"units": "degrees_east"}),
    }


def geobox_along(store: Store, found: Gridded, declared: object) -> GeoBox:
    y, x = found.y, found.x
    for dim in (y, x):
        if dim not in found.axes:
            raise InputError(f"no coordinates along {dim!r}", "georeference the file first")
    rows, cols = found.axes[y], found.axes[x]
    crs, mapping = _crs(store, found, declared)
    stored = _stored_affine(mapping, rows, cols)
    if stored is not None:
        return GeoBox((rows.size, cols.size), stored, crs)
    for axis in (rows, cols):
        if axis.size < 2:
            raise InputError(
                f"one cell along {axis.name!r} does not tell the cell size", "at least 2 x 2 cells are needed"
            )
    top, dy = axis_step(_in_metres(rows, crs, mapping), "y")
    left, dx = axis_step(_in_metres(cols, crs, mapping), "x")
    return GeoBox((rows.size, cols.size), Affine(dx, 0.0, left, 0.0, dy, top), crs)


def _crs(store: Store, found: Gridded, declared: object) -> tuple[CRS, Mapping[str, Any]]:
    """(CRS, attributes of the grid mapping): the file's, else degrees are EPSG:4326, else the declared one."""
    v = found.variable
    name = str(v.attrs.get("grid_mapping", "")).split(":")[0].strip()
    variable = store.near(name, v.group) if name else store.near("spatial_ref", v.group) or store.near("crs", v.group)
    mapping = dict(variable.attrs) if variable is not None else {}
    if not mapping and re.match(r"\+init|\+proj|epsg:", str(v.attrs.get("crs", "")), re.IGNORECASE):
        mapping = {"proj4": v.attrs["crs"]}  # as xarray.open_rasterio wrote it
    try:
        own = from_grid_mapping(mapping)
    except InputError:
        if declared is None:
            raise
        own = None
    if own is not None:
        if declared is not None and own != as_crs(declared):
            warnings.warn(keeps_own(store.path, own), GeosrWarning, stacklevel=2)
        return own, mapping
    if declared is not None:
        return as_crs(declared), mapping
    if _is_degrees(found.axes[found.y], "latitude") and _is_degrees(found.axes[found.x], "longitude"):
        return as_crs("EPSG:4326"), mapping
    raise InputError("no CRS", "declare it with --crs (in Python: crs=…), e.g. --crs EPSG:4326")


def _is_degrees(axis: xr.DataArray, what: str) -> bool:
    units = str(axis.attrs.get("units", "")).lower()
    if units.startswith(("m", "km")):
        return False
    return (
        str(axis.name).lower().rstrip("s") in (what, what[:3])
        or axis.attrs.get("standard_name") == what
        or units in (("degrees_north", "degree_north") if what == "latitude" else ("degrees_east", "degree_east"))
    )


def _stored_affine(mapping: Mapping[str, Any], rows: xr.DataArray, cols: xr.DataArray) -> Affine | None:
    """GDAL's ``GeoTransform`` in the grid mapping, if the coordinates say the same: it is exact where they round."""
    try:
        affine = Affine.from_gdal(*(float(t) for t in str(mapping["GeoTransform"]).split()))
    except (KeyError, TypeError, ValueError):
        return None
    if affine.b or affine.d:
        return None
    for axis, step, edge in ((cols, affine.a, affine.c), (rows, affine.e, affine.f)):
        ends = edge + step * (np.array([0, axis.size - 1]) + 0.5)
        values = axis.values[[0, -1]].astype(np.float64)
        if not np.abs(values - ends).max() <= 1e-3 * abs(step) + 2 * np.spacing(
            np.abs(values).max().astype(axis.dtype)
        ):
            return None
    return affine


def _in_metres(axis: xr.DataArray, crs: CRS, mapping: Mapping[str, Any]) -> xr.DataArray:
    """Projected coordinates that a file gives in kilometres, or a geostationary one in radians, in metres."""
    if crs.geographic:
        return axis
    units = str(axis.attrs.get("units", "")).lower()
    if units in ("km", "kilometer", "kilometre", "kilometers", "kilometres") and crs.units[0] in ("metre", "meter"):
        return (axis.astype(np.float64) * 1000).assign_attrs(axis.attrs)
    if units in ("rad", "radian", "radians") and "perspective_point_height" in mapping:
        return (axis.astype(np.float64) * float(mapping["perspective_point_height"])).assign_attrs(axis.attrs)
    return axis
