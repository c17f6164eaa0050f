"""What a CF file says, for NetCDF and Zarr alike (CF-1.11): coordinates with bounds, grid mapping, attributes.

Decisions:

* Nothing is inherited: encodings are fresh, and of a variable's attributes only those listed here go on.
* Units are spelled as UDUNITS-2 reads them, "molec cm-2" included (UDUNITS knows ``molec``, so NASA's and KNMI's
  unit is valid CF as it stands); another spelling in the input ("10^15molec/cm2") is kept in ``comment``.
* ``standard_name`` is kept only if it is in the CF table; the names that columns of trace gases have are here.
* CF has no name for some projections (Web Mercator, Mollweide): those have ``crs_wkt`` and no
  ``grid_mapping_name``, which GDAL, QGIS and rioxarray read and a CF checker reports.
* A rotated grid has no one-dimensional coordinates. It could have two-dimensional ones, but no tool would take it
  for the raster that it is; it goes to GeoTIFF only.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr

from geosr.errors import InputError, UsageError
from geosr.provenance import Provenance
from geosr.writing.stream import Plan

# Both hold: nothing here came after 1.8, and checkers ask for the very version that they are run with.
CONVENTIONS = "CF-1.11, CF-1.8"

#: Name of the grid mapping variable: the one that rioxarray and odc-geo look for first.
GRID_MAPPING = "spatial_ref"

# Names that columns and what goes with them have in https://cfconventions.org/Data/cf-standard-names, version 93.
STANDARD_NAMES = frozenset(
    [
        "atmosphere_mole_content_of_carbon_monoxide",
        "atmosphere_mole_content_of_methane",
        "atmosphere_mole_content_of_nitrogen_dioxide",
        "atmosphere_mole_content_of_ozone",
        "mass_concentration_of_nitrogen_dioxide_in_air",
        "mole_concentration_of_nitrogen_dioxide_in_air",
        "mole_content_of_nitrogen_dioxide_in_atmosphere_layer",
        "mole_fraction_of_nitrogen_dioxide_in_air",
        "number_of_observations",
        "stratosphere_mole_content_of_nitrogen_dioxide",
        "surface_altitude",
        "troposphere_mole_content_of_formaldehyde",
        "troposphere_mole_content_of_glyoxal",
        "troposphere_mole_content_of_nitrogen_dioxide",
        "troposphere_mole_content_of_ozone",
        "troposphere_mole_content_of_sulfur_dioxide",
    ]
)
_MODIFIERS = ("detection_minimum", "number_of_observations", "standard_error", "status_flag")

# Spellings for UDUNITS-2, of the units that columns come in.
_COLUMN_UNITS = (
    "mol m-2",
    "mmol m-2",
    "umol m-2",
    "nmol m-2",
    "molec cm-2",
    "1e15 molec cm-2",
    "1e16 molec cm-2",
    "DU",
)

#: A comment is no place for more characters than this.
COMMENT = 500

_TIME_UNITS = "seconds since 1970-01-01 00:00:00"
# Inputs are in UTC, but nothing between them and here says whether leap seconds were counted.
_TIME_ATTRS = {"standard_name": "time", "units_metadata": "leap_seconds: unknown"}


@dataclass(frozen=True)
class Content:
    """A CF file without its data.

    Attributes
    ----------
    frame : coordinates, bounds and grid mapping; small, in memory.
    attrs : of each field of the plan, in order.
    dtypes : of each field.
    """

    frame: xr.Dataset
    attrs: tuple[dict[str, Any], ...]
    dtypes: tuple[np.dtype, ...]

    def encoding(self) -> dict[Hashable, dict[str, Any]]:
        """Fresh encodings of the frame's variables: no fill values, times as double seconds."""
        fresh: dict[Hashable, dict[str, Any]] = {}
        for name, variable in self.frame.variables.items():
            fresh[name] = {"_FillValue": None} if variable.dtype.kind in "fM" else {}
            if variable.dtype.kind == "M":
                fresh[name] |= {"units": _TIME_UNITS, "calendar": "standard", "dtype": "float64"}
        return fresh


def content(job: Plan, attrs: Mapping[str, Any]) -> Content:
    """The CF content for ``job``.

    Raises
    ------
    UsageError
        The grid is rotated.
    """
    affine = job.box.affine
    if affine.b != 0 or affine.d != 0:
        raise UsageError("a rotated grid has no CF coordinates of one dimension", "write it to .tif")
    frame = xr.Dataset(coords={GRID_MAPPING: _grid_mapping(job)})
    for name, edge, step, axis in ((job.y, affine.f, affine.e, "Y"), (job.x, affine.c, affine.a, "X")):
        n = job.main.sizes[name]
        edges = edge + step * np.arange(n + 1)
        bounds = f"{name}_bnds"
        named = _axis_attrs(job.main.coords[name].attrs if name in job.main.coords else {}, axis)
        frame = frame.assign_coords({name: (name, edge + step * (np.arange(n) + 0.5), {**named, "bounds": bounds})})
        frame[bounds] = ((name, "nv"), np.stack([edges[:-1], edges[1:]], axis=1))
    frame = _with_other_coordinates(frame, job)
    frame = _with_time(frame, job, attrs)
    scalars = sorted(str(n) for n, c in frame.coords.items() if c.ndim == 0 and n != GRID_MAPPING)
    dtypes = tuple(_dtype(data.dtype) for data in job.fields)
    # As plain variables: xarray would name the scalars in a "coordinates" attribute of the bounds.
    frame = frame.reset_coords(scalars + [GRID_MAPPING])
    return Content(frame, tuple(_variable_attrs(job, n, scalars) for n in range(len(job.fields))), dtypes)


def _dtype(given: np.dtype) -> np.dtype:
    """float32 for what is floating, and the integers that all CF readers have."""
    if given.kind == "f":
        return np.dtype(np.float32)
    return np.dtype(np.int32) if given.kind in "iu" and given.itemsize > 2 else np.dtype(given)


def _axis_attrs(given: Mapping[str, Any], axis: str) -> dict[str, Any]:
    kept = {k: given[k] for k in ("standard_name", "long_name", "units") if k in given}
    return {**kept, "axis": axis}


def _grid_mapping(job: Plan) -> xr.Variable:
    """CF's attributes as far as CF has them, the WKT for the rest, and GDAL's exact transform."""
    attrs: dict[str, Any] = {"long_name": "coordinate reference system"}
    if job.box.crs is not None:
        attrs |= job.box.crs.proj.to_cf()
        attrs["spatial_ref"] = attrs["crs_wkt"]  # the name that GDAL read before CF had one
    attrs["GeoTransform"] = " ".join(repr(float(v)) for v in job.box.affine.to_gdal())
    return xr.Variable((), np.int32(0), {k: list(v) if isinstance(v, tuple) else v for k, v in attrs.items()})


def _with_other_coordinates(frame: xr.Dataset, job: Plan) -> xr.Dataset:
    """The leading dimension's coordinate, and scalars such as a selected time or level."""
    for name, coord in job.main.coords.items():
        if name in frame.variables or not (coord.dims == (job.lead,) or coord.ndim == 0):
            continue
        if coord.dtype.kind not in "iufMUS" or name == GRID_MAPPING:
            continue
        kept = {
            k: coord.attrs[k]
            for k in ("units", "calendar", "long_name", "standard_name", "positive")
            if k in coord.attrs
        }
        if coord.dtype.kind == "M":
            kept = {"long_name": kept.get("long_name", "time"), **_TIME_ATTRS}
        if name == job.lead and coord.dtype.kind == "M":
            kept["axis"] = "T"
        frame = frame.assign_coords({name: (coord.dims, coord.values, kept)})
    return frame


def _with_time(frame: xr.Dataset, job: Plan, attrs: Mapping[str, Any]) -> xr.Dataset:
    """The one time there is (made, if there is none), with the interval that the data cover as bounds."""
    start, end = (parse_time(attrs.get(f"time_coverage_{which}")) for which in ("start", "end"))
    times = [n for n, c in frame.coords.items() if c.dtype.kind == "M"]
    if start is None or end is None or end < start or len(times) > 1:
        return frame
    interval = np.array([_datetime64(start), _datetime64(end)])
    if not times:
        if "time" in frame.variables or "time" in job.main.dims:
            return frame
        frame = frame.assign_coords(time=((), interval[0], {**_TIME_ATTRS, "long_name": "start of the data"}))
        times = ["time"]
    name = times[0]
    if frame[name].size != 1 or not interval[0] <= frame[name].values.reshape(-1)[0] <= interval[1]:
        return frame
    if frame[name].ndim == 0:
        # CF lets a scalar coordinate have bounds, but its checkers do not; the global attributes say it as well.
        return frame
    bounds = f"{name}_bnds"
    frame[name].attrs["bounds"] = bounds
    frame[bounds] = ((*frame[name].dims, "nv"), interval.reshape((*frame[name].shape, 2)))
    return frame


def parse_time(text: object) -> datetime | None:
    """ISO time as UTC; None for what is not one."""
    try:
        moment = datetime.fromisoformat(str(text).strip())
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _datetime64(moment: datetime) -> np.datetime64:
    return np.datetime64(moment.replace(tzinfo=None), "ns")


def _variable_attrs(job: Plan, number: int, scalars: list[str]) -> dict[str, Any]:
    data = job.fields[number]
    attrs: dict[str, Any] = {"long_name": str(data.attrs.get("long_name", data.name))}
    name = str(data.attrs.get("standard_name", ""))
    if is_standard_name(name):
        attrs["standard_name"] = name
    attrs |= _units(data.attrs.get("units"))
    if remark := str(data.attrs.get("comment", ""))[:COMMENT]:
        attrs["comment"] = f"{remark}; {attrs['comment']}" if "comment" in attrs else remark
    if methods := cell_methods(str(data.attrs.get("cell_methods", "")), main=number == 0):
        attrs["cell_methods"] = methods
    if number == 0 and len(job.fields) > 1:
        attrs["ancillary_variables"] = " ".join(str(f.name) for f in job.fields[1:])
    attrs["grid_mapping"] = GRID_MAPPING
    if scalars:
        attrs["coordinates"] = " ".join(scalars)
    return attrs


def is_standard_name(text: str) -> bool:
    """Is ``text`` a standard name of a column (or one of its modifiers) in the CF table?"""
    name, *modifier = text.split(" ")
    return name in STANDARD_NAMES and (not modifier or (len(modifier) == 1 and modifier[0] in _MODIFIERS))


def cell_methods(given: str, main: bool = True) -> str:
    """``given``, plus "area: mean" for the main variable: a cell holds the mean over its area."""
    given = " ".join(given.split())
    return f"area: mean {given}".rstrip() if main and "area:" not in given else given


def _units(given: object) -> dict[str, str]:
    """``units`` that UDUNITS reads, and the input's own spelling where it is another."""
    from geosr.units import parse

    text = str(given or "").strip()
    if not text:
        return {}
    try:
        unit = parse(text)
    except InputError:
        return {"units": text}
    if unit.dimension == "dimensionless":
        return {"units": "1"} if math.isclose(unit.si, 1.0) else {"units": text}
    if not unit.is_column:
        return {"units": text}
    same = [u for u in _COLUMN_UNITS if math.isclose(parse(u).si, unit.si, rel_tol=1e-6)]
    spelled = same[0] if same else f"{unit.si:.9g} mol m-2"
    return {"units": spelled} | ({"comment": f"units in the input: {text}"} if text != spelled else {})


def global_attrs(job: Plan, attrs: Mapping[str, Any], provenance: Provenance) -> dict[str, str]:
    """Global attributes: CF's, ACDD's time coverage, and the provenance; history is appended to the input's."""
    name = str(job.main.attrs.get("long_name", job.main.name))
    source = str(attrs.get("product") or attrs.get("source") or "unknown")
    history = [line for line in str(attrs.get("history", "")).splitlines() if line.strip()]
    found = {
        "Conventions": CONVENTIONS,
        "title": f"{name}, refined {provenance.scale} times" if provenance.scale else name,
        "source": f"{source}; processed by geosr {provenance.geosr_version}",
        "history": "\n".join([*history, provenance.history_line()]),
    }
    for key in ("institution", "references", "product", "time_coverage_start", "time_coverage_end"):
        if text := str(attrs.get(key, "")):
            found[key] = text
    return found | provenance.attrs()
