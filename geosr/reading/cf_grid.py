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
from geosr.grid import axis_of, degrees_of, spatial_dims
from geosr.reading.crs import as_crs, from_grid_mapping, keeps_own
from geosr.reading.mesh import axes_of_mesh
from geosr.reading.place import edge_and_step
from geosr.reading.store import Store, Variable
from geosr.reading.values import Decoding, unpack


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
            axes[dim] = xr.DataArray(
                numbers_of(store, coordinate), dims=dim, name=coordinate.base, attrs=clean_attrs(coordinate.attrs)
            )
    for more in (_hdfeos_axes(store, v), _mesh_axes(store, v, axes)):
        axes.update({d: c for d, c in more.items() if d not in axes or not _places(axes[d])})
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


def numbers_of(store: Store, c: Variable) -> np.ndarray:
    """All values of a coordinate, unpacked, NaN where it has a fill value; as they are stored if they are plain."""
    raw = store.values(c)
    raw = raw.astype(raw.dtype.newbyteorder("="), copy=False)
    how = Decoding.from_attrs(c.attrs, raw.dtype)
    return unpack(raw, how)


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
    if not fits(named) or named is v:
        named = None
    if named is not None and _says_where(named) and not _is_index(named):
        return named
    listed = [store.near(n, v.group) for n in str(v.attrs.get("coordinates", "")).split()]
    others = [c for c in store.variables.values() if fits(c) and c is not named and _says_where(c)]
    better = (c for c in (*listed, *others) if fits(c) and c is not None and c is not named and _says_where(c))
    return next(better, named)


def _is_index(c: Variable) -> bool:
    """Could it be no more than the numbers of rows or columns, as xarray and others add?"""
    said = {str(c.attrs.get(k, "")).strip() for k in ("units", "standard_name")}
    return c.dtype is not None and c.dtype.kind in "iu" and said <= {"", "1", "count"} and c.base.lower() in ("x", "y")


def _says_where(c: Variable) -> bool:
    standard = str(c.attrs.get("standard_name", ""))
    return (
        bool(re.fullmatch(r"(lat|latitudes?|lon|longitudes?|x|y|time)", c.base, re.I))
        or bool(degrees_of(c.attrs.get("units", "")))
        or standard in ("latitude", "longitude", "projection_x_coordinate", "projection_y_coordinate", "time")
    )


def _places(axis: xr.DataArray) -> bool:
    """Says the coordinate where on Earth its cells lie, rather than their number?"""
    if axis.attrs.get("units") or axis.attrs.get("standard_name"):
        return True
    return axis.dtype.kind == "f" and not any(np.array_equal(axis.values, np.arange(n, n + axis.size)) for n in (0, 1))


_WAYS = (("lat", "north"), ("lon", "east"))


def is_mesh_coordinate(c: Variable, *which: str) -> bool:
    """Are these latitudes or longitudes in two dimensions?"""
    if c.dtype is None or len(c.dims) < 2:
        return False
    units = degrees_of(c.attrs.get("units", ""))
    return any(
        units == way or (not units and re.fullmatch(f"{name}(itudes?)?", c.base, re.I))
        for name, way in ([which] if which else _WAYS)
    )


def _mesh_axes(store: Store, v: Variable, known: Mapping[str, xr.DataArray]) -> dict[str, xr.DataArray]:
    """Coordinates of a regular grid that states them in two dimensions (:mod:`geosr.reading.mesh`)."""
    pair = []
    for name, way in _WAYS:
        fits = [
            c
            for c in store.variables.values()
            if is_mesh_coordinate(c, name, way) and set(c.shape[:-2]) <= {1} and set(c.dims[-2:]) <= set(v.dims)
        ]
        if not fits:
            return {}
        pair.append(fits[0])
    lat, lon = pair
    if (
        lat.dims != lon.dims
        or lat.dims[-2] == lat.dims[-1]
        or all(d in known and _places(known[d]) for d in lat.dims[-2:])
    ):
        return {}
    numbers = [numbers_of(store, c).reshape(c.shape[-2:]) for c in pair]
    found = axes_of_mesh(*numbers)
    if found is None:
        return {}
    along, lats, lons = found
    down, across = lat.dims[-2 + along], lat.dims[-1 - along]
    return {
        down: xr.DataArray(lats, dims=down, name="lat", attrs={"units": "degrees_north"}),
        across: xr.DataArray(lons, dims=across, name="lon", attrs={"units": "degrees_east"}),
    }


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
    (top, dy), (left, dx) = (
        edge_and_step(in_crs_units(axis, crs, mapping), _bounds(store, found, axis, crs, mapping), label)
        for axis, label in ((rows, "y"), (cols, "x"))
    )
    return GeoBox((rows.size, cols.size), Affine(dx, 0.0, left, 0.0, dy, top), crs)


def _bounds(
    store: Store, found: Gridded, axis: xr.DataArray, crs: CRS, mapping: Mapping[str, Any]
) -> np.ndarray | None:
    """Bounds of the cells along ``axis``, (n, 2) in units of the CRS, if the file has them."""
    name = str(axis.attrs.get("bounds", ""))
    variable = store.near(name, found.variable.group) if name else None
    if variable is None or variable.dtype is None or variable.shape != (axis.size, 2):
        return None
    pairs = xr.DataArray(numbers_of(store, variable), dims=("n", "nv"), attrs=axis.attrs)
    return in_crs_units(pairs, crs, mapping).values


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
        or degrees_of(units) == ("north" if what == "latitude" else "east")
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


def in_crs_units(axis: xr.DataArray, crs: CRS, mapping: Mapping[str, Any]) -> xr.DataArray:
    """Coordinates in units of ``crs``: from radians, from kilometres, or from the angles of a geostationary view."""
    units = str(axis.attrs.get("units", "")).lower()
    ratio = 1.0
    if crs.geographic:
        if units in _RADIANS:
            ratio = 180 / np.pi
    elif units in _KILOMETRES and crs.units[0] in ("metre", "meter"):
        ratio = 1000.0
    elif units in _RADIANS and "perspective_point_height" in mapping:
        ratio = float(mapping["perspective_point_height"])
    return axis if ratio == 1 else (axis.astype(np.float64) * ratio).assign_attrs(axis.attrs)


_RADIANS = ("rad", "radian", "radians")
_KILOMETRES = ("km", "kilometer", "kilometre", "kilometers", "kilometres")
