"""Reading: from a path to a Dataset with one field on a north-up grid.

:func:`open_no2` is the way in. ``gate`` decides what may be opened, ``geotiff`` and ``netcdf`` read grids, ``s5p_l2``
reads Sentinel-5P swaths, ``times`` and ``crop`` select, ``values`` turns numbers into columns, ``field`` wraps the
result. ``info`` describes a file. ``untrusted`` reads files from strangers in a process of their own.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import xarray as xr

from geosr.errors import GeosrWarning, InputError, UsageError, blame
from geosr.reading.gate import check_path, kind_of
from geosr.reading.limits import is_untrusted, reading_as

if TYPE_CHECKING:
    from geosr.reading.field import Raw

StrPath = str | os.PathLike[str]


def open_no2(
    path: StrPath | Sequence[StrPath],
    *,
    variable: str | None = None,
    time: str | int | None = None,
    level: str | float | None = None,
    bbox: Sequence[float] | None = None,
    crs: object = None,
    units: str | None = None,
    input_units: str | None = None,
    qa: float | None = 0.75,
    resolution: float | None = None,
    limits: Mapping[str, float] | None = None,
    untrusted: bool | None = None,
) -> xr.Dataset:
    """Open a GeoTIFF, a NetCDF grid, or one or several Sentinel-5P L2 swaths (which are gridded together).

    Parameters
    ----------
    path : a local file; several only for swaths.
    variable : name of the variable (groups allowed), or description or number of a GeoTIFF's band. Default: the
        tropospheric NO2 column (see :mod:`geosr.variables`).
    time : index, or ISO date or its beginning. Default: all times.
    level : value or index, for files with levels.
    bbox : west, south, east, north in degrees; W > E crosses the dateline. Grids are cut to the cells it overlaps.
    crs : declares the CRS of a grid that has none; for swaths, the CRS of the grid to make.
    units : of the result. Declares them where the file says nothing.
    input_units : the units of the numbers in the file, whatever the file says.
    qa : least ``qa_value`` of a swath's pixels; None takes them all, also where there is no ``qa_value``.
    resolution : cell size of the grid to make from swaths, in units of its CRS.
    limits : raises (or lowers) limits on what a file may ask for, e.g. ``{"bands": 300}``; see
        :class:`geosr.reading.limits.Limits`.
    untrusted : read the files as those of strangers, in a process with no other files, no network, and bounded memory
        and time (:mod:`geosr.reading.untrusted`). Costs a second once, and room for the field in the temporary folder.

    Returns
    -------
    Dataset, lazy for grids, with one main variable (:func:`geosr.variables.main_variable`): float32, dims (latitude,
    longitude), or (y, x) on projected and rotated grids, after time or band if there are several; NaN where missing,
    north-up, ``units`` where known; and ``spatial_ref``.

    Raises
    ------
    InputError, RefusedError
        The file is missing, unreadable, unsupported or invalid, beyond a limit, or a choice is ambiguous.
    ResourceError
        Reading an untrusted file takes too much time or memory.
    UsageError
        Options that do not fit the file.

    >>> ds = open_no2("s5p_l3.nc", bbox=(5, 44, 12, 48), units="molec cm-2")     # doctest: +SKIP
    """
    paths = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    if not paths:
        raise UsageError("no file to read", "name at least one")
    files = [check_path(p) for p in paths]
    if limits is not None or untrusted is not None:
        with reading_as(limits, untrusted):
            return open_no2(path, variable=variable, time=time, level=level, bbox=bbox, crs=crs, units=units,
                            input_units=input_units, qa=qa, resolution=resolution)  # fmt: skip
    if _all_swaths(files):
        from geosr.swath import open_swaths

        if time is not None or level is not None:
            raise UsageError("--time and --level do not apply to swaths", "choose the files instead")
        return open_swaths(
            files,
            variable=variable,
            qa=qa,
            resolution=resolution,
            bbox=bbox,
            crs=crs,
            units=units,
            input_units=input_units,
        )
    if len(files) > 1:
        raise UsageError(f"{len(files)} grids at once", "give one grid at a time; only swaths are averaged together")
    with blame(paths[0]):
        if resolution is not None:
            raise UsageError("--resolution is for swaths, the file has a grid already", "leave it out")
        _warn_of_mask(files[0])
        if is_untrusted():
            from geosr.reading.untrusted import open_grid

            return open_grid(files[0], variable=variable, time=time, level=level, bbox=bbox, crs=crs, units=units,
                             input_units=input_units)  # fmt: skip
        return _open_grid(files[0], variable, time, level, bbox, crs, units, input_units)


def _warn_of_mask(file: Path) -> None:
    """What lies beside a file is not read, for it can hold anything; but a mask there says which cells are none."""
    mask = file.with_name(f"{file.name}.msk")
    if kind_of(file) == "tiff" and os.path.isfile(mask):
        text = f"{file}: the mask {mask.name} beside it is not read, so the cells that it hides count as values"
        hint = "put it into the file: gdal_translate --config GDAL_TIFF_INTERNAL_MASK YES"
        warnings.warn(GeosrWarning(f"{text}; {hint}"), stacklevel=3)


def candidates(path: StrPath) -> list[str]:
    """The variables or bands of a grid that ``variable`` could name, with their units and sizes, for people."""
    file = check_path(path)
    if is_untrusted():
        from geosr.reading import untrusted

        return untrusted.candidates(file)
    kind = kind_of(file)
    if kind == "tiff":
        from geosr.reading.geotiff import candidates_in

        return [str(c) for c in candidates_in(file)]
    from geosr.reading.netcdf import candidates_of, gridded_variables
    from geosr.reading.store import open_store

    return [str(c) for c in candidates_of(gridded_variables(open_store(file, kind)))]


def _all_swaths(files: list[Path]) -> bool:
    """Are they swaths? Raises if some are and some are not."""
    swaths = []
    for file in files:
        if kind_of(file) in ("hdf5", "netcdf5"):
            from geosr.reading.s5p_l2 import is_swath

            with blame(file):
                swaths.append(is_swath(file))
        else:
            swaths.append(False)
    if any(swaths) != all(swaths):
        raise UsageError(f"swaths and grids together; {files[swaths.index(False)].name} is a grid", "read them apart")
    return all(swaths)


def _open_grid(
    path: Path,
    variable: str | None,
    time: str | int | None,
    level: str | float | None,
    bbox: Sequence[float] | None,
    crs: object,
    units: str | None,
    input_units: str | None,
) -> xr.Dataset:
    from geosr.reading.crop import crop
    from geosr.reading.field import is_count, to_dataset
    from geosr.reading.times import select

    read = _reader(path, crs)

    def dataset(raw: Raw, units: str | None, input_units: str | None, companion: bool = False) -> xr.Dataset:
        raw = select(raw, time, level)
        return to_dataset(raw if bbox is None else crop(raw, bbox), path, units, input_units, companion)

    raw = read(variable)
    ds = dataset(raw, units, input_units)
    kept = []
    for name in companions(raw):
        extra = _companion(read, name, raw)
        if extra is None:
            continue
        same = extra.attrs.get("units") == raw.attrs.get("units") and not is_count(extra)
        wanted = (units, input_units) if same else (None, None)
        ds[extra.name] = dataset(extra, *wanted, companion=True)[extra.name]
        kept.append(extra.name)
    if kept:
        ds[raw.name].attrs["ancillary_variables"] = " ".join(kept)
    return ds


def _reader(path: Path, crs: object) -> Callable[[str | None], Raw]:
    """From the name of a variable or band to the field."""
    kind = kind_of(path)
    if kind == "tiff":
        from geosr.reading import geotiff

        return lambda name: geotiff.read(path, name, crs)
    from geosr.reading import netcdf

    return netcdf.reader(path, kind, crs)


def companions(raw: Raw) -> list[str]:
    """Names under which the precision and the count of a column may stand beside it.

    CF names them in ``ancillary_variables`` (along with flags and factors, which do not belong on a finer grid);
    the bands of a GeoTIFF have only their descriptions, as ``geosr grid`` writes them.
    """
    listed = str(raw.attrs.get("ancillary_variables", "")).split()
    return listed or [f"{raw.name}_precision", f"{raw.name}_count"]


def _companion(read: Callable[[str | None], Raw], name: str, main: Raw) -> Raw | None:
    """The variable ``name`` if it is a precision or a count on the grid of ``main``."""
    try:
        found = read(name)
    except InputError:
        return None  # not there, or not on a grid
    role = f"{found.attrs.get('standard_name', '')} {found.name}"
    if found.dims != main.dims or found.box != main.box or found.name == main.name:
        return None
    return found if re.search(r"standard_error|number_of_observations|_precision$|_count$", role) else None
