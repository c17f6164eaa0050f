"""Times in files, and choosing one of them, or a level."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import xarray as xr

from geosr.errors import InputError
from geosr.reading.field import Raw

_TIME_NAMES = ("time", "t", "times", "date", "datetime", "month", "day", "hour", "year")


def decode_times(coordinate: xr.Variable) -> xr.Variable:
    """``coordinate`` as datetime64 if its units say how, else as it is: an odd time does not make a field unreadable.

    Knows CF ("days since …") and CDO's "day as %Y%m%d.%f".
    """
    units = str(coordinate.attrs.get("units", ""))
    rest = {k: v for k, v in coordinate.attrs.items() if k in ("long_name", "standard_name", "axis")}
    plain = coordinate.copy()
    # Numbers that stay numbers need both to be understood by those who read the output.
    plain.attrs = rest | {k: v for k, v in coordinate.attrs.items() if k in ("units", "calendar")}
    try:
        if " since " in units:
            attrs = {k: v for k, v in coordinate.attrs.items() if k in ("units", "calendar")}
            coded = xr.Variable(coordinate.dims, coordinate.values, attrs)
            values = xr.coding.times.CFDatetimeCoder(use_cftime=False).decode(coded).values
        elif units.startswith("day as %Y%m%d"):
            values = np.array([_from_digits(float(v)) for v in coordinate.values])
        else:
            return plain
        if np.asarray(values).dtype.kind != "M" or np.isnat(values).any():
            return plain
    except Exception:  # xarray, pandas and cftime raise many kinds; see the docstring
        return plain
    return xr.Variable(coordinate.dims, values.astype("datetime64[ns]"), rest)


def _from_digits(number: float) -> np.datetime64:
    """20150115.5 -> 2015-01-15T12:00."""
    day = int(number)
    date = np.datetime64(f"{day // 10000:04d}-{day // 100 % 100:02d}-{day % 100:02d}", "s")
    return date + np.timedelta64(round((number - day) * 86400), "s")


def is_time(raw: Raw, dim: str) -> bool:
    """Is ``dim`` a dimension of time, by name, kind or attributes?"""
    if dim.lower() in _TIME_NAMES:
        return True
    c = raw.coords.get(dim)
    if c is None:
        return False
    return c.dtype.kind == "M" or c.attrs.get("standard_name") == "time" or str(c.attrs.get("axis", "")).upper() == "T"


def select(raw: Raw, time: object = None, level: object = None) -> Raw:
    """``raw`` with at most one dimension before y and x: time, or the bands of a raster.

    Parameters
    ----------
    time : index (0, -1), or an ISO date or its beginning ("2019-03"); a beginning may match several times.
    level : coordinate value or index along any other dimension.

    Raises
    ------
    InputError
        No such time or level, or a dimension of several levels and none chosen.
    """
    for dim in raw.dims[:-2]:
        if (
            raw.dims.index(dim) < len(raw.dims) - 2
            and _size(raw, dim) == 1
            and not (is_time(raw, dim) and time is not None)
        ):
            raw = raw.take(dim, 0)
    dims = raw.dims[:-2]
    times = [d for d in dims if is_time(raw, d)]
    if not times and time is not None:
        times = [d for d in dims if d == "band"]
    if time is not None:
        if not times:
            raise InputError(f"time {str(time)!r} is not there: the field has no time dimension", "leave out --time")
        raw = _take_time(raw, times[0], time)
    for dim in [d for d in raw.dims[:-2] if d not in times[:1] and d != "band"]:
        if level is None:
            raise InputError(
                f"{_size(raw, dim)} levels along {dim!r}{_span(raw, dim)}", "choose one with --level (index or value)"
            )
        raw, level = _take_level(raw, dim, level), None
    if level is not None and not dims:
        raise InputError(f"level {str(level)!r} is not there: the field has no levels", "leave out --level")
    return raw


def _size(raw: Raw, dim: str) -> int:
    axis = raw.dims.index(dim)
    if raw.stacked:
        return len(raw.layers) if axis == 0 else int(raw.layers[0].data.shape[axis - 1])
    return int(raw.layers[0].data.shape[axis])


def labels(raw: Raw, dim: str) -> list[str]:
    """What the steps along ``dim`` are called: ISO times, band descriptions, numbers."""
    c = raw.coords.get(dim)
    return [str(i) for i in range(_size(raw, dim))] if c is None else _texts(c.values)


def time_labels(data: xr.DataArray) -> list[str]:
    """ISO times (or, undecoded, numbers) of a field; empty if it has none."""
    times = [c for n, c in data.coords.items() if c.dtype.kind == "M" or str(n).lower() in _TIME_NAMES]
    return _texts(times[0].values) if times else []


def _texts(values: np.ndarray) -> list[str]:
    values = np.atleast_1d(values)
    if values.dtype.kind == "M":
        return [re.sub(r"(T00:00)?:00$", "", str(v)) for v in values.astype("datetime64[s]")]
    return [f"{v:.10g}" if isinstance(v, (float, np.floating)) else str(v) for v in values]


def _span(raw: Raw, dim: str) -> str:
    names = labels(raw, dim)
    return f" ({names[0]} … {names[-1]})" if len(names) > 1 else ""


def _take_time(raw: Raw, dim: str, time: object) -> Raw:
    names = labels(raw, dim)
    text = str(time).strip()
    if isinstance(time, np.datetime64):
        text = re.sub(r"(T00:00)?:00$", "", str(time.astype("datetime64[s]")))
    if re.fullmatch(r"-?\d+", text) and -len(names) <= int(text) < len(names):
        return raw.take(dim, int(text) % len(names))
    wanted = text.replace(" ", "T").rstrip("Z")
    hits = [
        i
        for i, n in enumerate(names)
        if wanted and (n.startswith(wanted) or (wanted.startswith(n) and _same_moment(n, wanted)))
    ]
    if not hits:
        raise InputError(
            f"no time {text!r} among {len(names)} from {names[0]} to {names[-1]}",
            f"give an index from 0 to {len(names) - 1}, or a date such as {names[0]}",
        )
    return raw.take(dim, hits[0]) if len(hits) == 1 else raw.take(dim, np.array(hits))


def _same_moment(a: str, b: str) -> bool:
    try:
        return bool(np.datetime64(a, "s") == np.datetime64(b, "s"))
    except ValueError:
        return False


def _take_level(raw: Raw, dim: str, level: Any) -> Raw:
    n = _size(raw, dim)
    c = raw.coords.get(dim)
    text = str(level).strip()
    names = labels(raw, dim)
    if text in names:
        return raw.take(dim, names.index(text))
    try:
        number = float(text)
    except ValueError:
        number = np.nan
    if c is not None and c.dtype.kind in "iuf":
        near = np.flatnonzero(np.isclose(c.values.astype(np.float64), number, rtol=1e-5, atol=0))
        if near.size == 1:
            return raw.take(dim, int(near[0]))
    if number == round(number) and -n <= number < n if np.isfinite(number) else False:
        return raw.take(dim, int(number) % n)
    raise InputError(
        f"no level {text!r} along {dim!r}{_span(raw, dim)}", f"give a value, or an index from 0 to {n - 1}"
    )
