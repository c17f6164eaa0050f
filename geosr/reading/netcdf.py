"""NetCDF and HDF5 grids: CF, HARP, Earth Engine, OMI (also HDF-EOS), GEMS, TEMIS-like files.

What is in the file and which variable is meant is decided here; ``store`` reads, ``cf_grid`` says where things lie.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import dask.array as da
import numpy as np
import xarray as xr

from geosr.errors import InputError
from geosr.grid import degrees_of
from geosr.reading.cf_grid import Gridded, clean_attrs, find_axes, geobox_along, is_mesh_coordinate
from geosr.reading.field import Layer, Raw, describe_source
from geosr.reading.store import Store, Variable, open_store
from geosr.reading.times import decode_times
from geosr.reading.values import Decoding
from geosr.variables import Candidate, choose

# Cells in one chunk: 4 MB as float32.
_CHUNK_CELLS = 1024 * 1024

# A storage chunk of more cells than this is cut in dask, though each part then unpacks it whole.
_MOST_CHUNK_CELLS = 16 * _CHUNK_CELLS


def reader(path: Path, kind: str, crs: object = None) -> Callable[[str | None], Raw]:
    """The fields in a NetCDF or HDF5 file, whose structure is looked at once.

    Parameters
    ----------
    kind : as :func:`geosr.reading.gate.kind_of` says.
    crs : declares the CRS of projected coordinates that come without.

    Returns
    -------
    A function from the name of a variable, with groups if need be (None: the one that is meant), to its field. It
    raises :class:`InputError` for no gridded variable, several that may be meant, uneven or absent coordinates, no
    CRS, bad packing.
    """
    store = open_store(path, kind)
    gridded = gridded_variables(store)
    candidates = candidates_of(gridded)

    def read(variable: str | None) -> Raw:
        if variable is not None:
            _check_named(store, gridded, variable)
        if not gridded:
            raise _nothing_gridded(store)
        chosen = choose(candidates, variable)
        found = gridded[chosen.name]
        if 0 in found.variable.shape:
            empty = next(d for d, n in zip(found.variable.dims, found.variable.shape, strict=True) if n == 0)
            raise InputError(f"{chosen.name!r} is empty: dimension {empty!r} has length 0", "download it again")
        return _raw(store, found, crs, chosen.is_no2)

    return read


def candidates_of(gridded: Mapping[str, Gridded]) -> list[Candidate]:
    """Gridded variables, as the choice of a variable sees them."""
    return [Candidate(name, clean_attrs(g.variable.attrs), g.variable.shape) for name, g in gridded.items()]


def gridded_variables(store: Store) -> dict[str, Gridded]:
    """Numeric variables that have a y and an x dimension, coordinates and their bounds left out."""
    # HARP and CF name bounds in an attribute; others only by habit.
    bounds = {
        str(v.attrs[k]).rsplit("/", 1)[-1]
        for v in store.variables.values()
        for k in ("bounds", "climatology")
        if k in v.attrs
    }
    axes_of: dict[tuple[str, tuple[str, ...]], tuple[str, str, dict[str, xr.DataArray]] | None] = {}
    found = {}
    for name, v in store.variables.items():
        if v.dtype is None or len(v.dims) < 2 or v.base in bounds or re.search(r"_(bnds|bounds)$", v.base, re.I):
            continue
        if is_mesh_coordinate(v):
            continue
        key = (v.group, v.dims)
        if key not in axes_of:
            axes_of[key] = find_axes(store, v)
        axes = axes_of[key]
        if axes is not None:
            found[name] = Gridded(v, *axes)
    return found


def _check_named(store: Store, gridded: Mapping[str, Gridded], name: str) -> None:
    """Tell what is wrong with a variable that exists but is no gridded number."""
    wanted = name.strip().strip("/")
    same = [v for n, v in store.variables.items() if wanted in (n, v.base)]
    if same and not any(v.name in gridded for v in same):
        v = same[0]
        if v.dtype is None:
            raise InputError(f"variable {v.name!r} holds {v.kind}, not numbers", "choose another with --variable")
        dims = ", ".join(f"{d} ({n})" for d, n in zip(v.dims, v.shape, strict=True)) or "none"
        raise InputError(
            f"variable {v.name!r} lies on no grid: its dimensions are {dims}", "choose another with --variable"
        )


def _nothing_gridded(store: Store) -> InputError:
    """The error that says what the file is instead."""
    if not store.variables:
        what = "has dimensions but no variables" if store.n_dims else "has no variables"
        note = next((str(store.attrs[k]) for k in ("errors", "error") if k in store.attrs), "")
        said = f" (it says: {' '.join(note.split())[:100]})" if note else ""
        return InputError(f"the file is empty: it {what}{said}", "download it again")
    swath = [v for v in store.variables.values() if re.search("^(lat|lon)", v.base, re.I) and len(v.dims) >= 2]
    if swath:
        return InputError(
            f"a swath or curvilinear grid that geosr does not know ({swath[0].base} along {', '.join(swath[0].dims)})",
            "resample it to a regular latitude-longitude grid first",
        )
    crossed = [
        f"{v.base} is in {v.attrs['units']}"
        for v in store.variables.values()
        if len(v.dims) == 1
        and degrees_of(v.attrs.get("units")) == ("east" if re.match("lat", v.base, re.I) else "north")
        and re.match("lat|lon", v.base, re.I)
    ]
    if crossed:
        return InputError(
            f"coordinates contradict their units: {', '.join(crossed)}",
            "set the right units, or the right names, first (ncatted, ncrename)",
        )
    odd = sorted({v.kind for v in store.variables.values() if v.dtype is None})
    held = f"; it holds {', '.join(odd)}" if odd else ""
    return InputError(
        f"no gridded numeric variable among {len(store.variables)}{held}",
        "geosr needs one with latitude/longitude or y/x coordinates",
    )


# --- the variable ----------------------------------------------------------------------------------------------


def _raw(store: Store, found: Gridded, crs: object, is_no2: bool) -> Raw:
    v, y, x = found.variable, found.y, found.x
    how = Decoding.from_attrs(v.attrs, np.dtype(v.dtype))
    data = da.from_array(
        store.array(v), chunks=_chunks(v, y, x), name=False, meta=np.empty((0,) * len(v.dims), v.dtype)
    )
    leading = [d for d in v.dims if d not in (y, x)]
    data = data.transpose([v.dims.index(d) for d in (*leading, y, x)])
    coords = {}
    for d in leading:
        if d in found.axes:
            axis = found.axes[d]
            coords[d] = xr.Variable(d, axis.values, axis.attrs)
    coords = {d: decode_times(c) for d, c in coords.items()}
    file_attrs = describe_source(store.path, store.attrs)
    return Raw(
        name=v.base,
        layers=(Layer(data, how),),
        dims=(*leading, "y", "x"),
        box=geobox_along(store, found, crs),
        attrs=clean_attrs(v.attrs),
        coords=coords,
        file_attrs=file_attrs,
        is_no2=is_no2,
    )


def _chunks(v: Variable, y: str, x: str) -> tuple[int, ...]:
    """Dask chunks: whole storage chunks, about :data:`_CHUNK_CELLS` cells, one step of the leading dimensions."""
    least = list(v.chunks or ((1,) * (len(v.dims) - 1) + (v.shape[-1],)))
    least = [max(1, min(c, n)) for c, n in zip(least, v.shape, strict=True)]
    if np.prod(least, dtype=float) > _MOST_CHUNK_CELLS:
        least = [min(c, 1024) if d in (y, x) else 1 for c, d in zip(least, v.dims, strict=True)]
    chunks = list(least)
    for i in reversed(range(len(v.dims))):
        if v.dims[i] in (y, x):
            room = max(1, int(_CHUNK_CELLS // np.prod(chunks, dtype=float)))
            chunks[i] = min(v.shape[i], chunks[i] * room)
    return tuple(chunks)
