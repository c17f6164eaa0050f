"""Bounds of times: over which days a field in a NetCDF or HDF5 file was averaged.

CF (sections 7.1 and 7.4) has them in a variable that the time names in its attribute ``bounds`` or ``climatology``;
without the attribute one called ``time_bnds`` or ``time_bounds`` is taken. A climatology is of all days from its first
to its last year.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from geosr.reading.gate import kind_of
from geosr.reading.store import Store, Variable, open_store
from geosr.reading.times import decode_times
from geosr.training.dates import Span, hull, span_from

_NAMED = re.compile(r"((?:date)?time)_?(?:bnds|bounds)", re.IGNORECASE)


def time_bounds(path: Path) -> dict[np.datetime64, Span]:
    """Time (datetime64[us]) -> the days that its bounds span, of every time with bounds in the file.

    Empty for a GeoTIFF, and where there are none. Equal times have all the days of their bounds. A time outside its own
    bounds is of its own day, too.
    """
    kind = kind_of(path)
    if kind == "tiff":
        return {}
    store = open_store(path, kind)
    found: dict[np.datetime64, Span] = {}
    for time, bounds in _pairs(store):
        moments = _decoded(store, time, time.attrs)
        # CF lets bounds take units and calendar from what they bound.
        ends = _decoded(store, bounds, {**time.attrs, **bounds.attrs})
        if moments is None or ends is None or ends.shape != (*moments.shape, 2):
            continue
        for moment, (start, end) in zip(moments.ravel(), ends.reshape(-1, 2), strict=True):
            spans = [span_from(start, end)]
            if not min(start, end) <= moment <= max(start, end):
                spans.append(span_from(moment, moment))
            if moment in found:
                spans.append(found[moment])
            found[moment] = hull(spans) or spans[0]
    return found


def _pairs(store: Store) -> list[tuple[Variable, Variable]]:
    """Times and their bounds."""
    pairs = []
    for v in store.variables.values():
        names = [str(v.attrs[key]) for key in ("bounds", "climatology") if key in v.attrs]
        found = [near for name in names if (near := store.near(name, v.group)) is not None]
        named = _NAMED.fullmatch(v.base)
        time = store.near(named[1], v.group) if named else None
        pairs += [(v, bounds) for bounds in found] + ([(time, v)] if time is not None else [])
    return list({(a.name, b.name): (a, b) for a, b in pairs}.values())


def _decoded(store: Store, variable: Variable, attrs: Mapping[str, Any]) -> np.ndarray | None:
    """Moments, datetime64[us]; None if they are none."""
    if variable.dtype is None or " since " not in str(attrs.get("units", "")):
        return None
    values = decode_times(xr.Variable(variable.dims, store.values(variable), attrs)).values
    return values.astype("datetime64[us]") if values.dtype.kind == "M" else None
