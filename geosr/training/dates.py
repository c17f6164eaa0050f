"""Which days a raster is of, by its times and by its name; for splitting training data.

A span is the first and the last day, inclusive. Names are read generously: ``20231005``, ``2023-10-05``, ``2023m1005``
(as OMI's products), with or without a time of day, are a day; two of them beside each other are a span; ``202310`` and
``2023-10`` are that month, ``2023`` is that year. The first that a name holds counts: what comes later is often the
day on which the file was made.
"""

from __future__ import annotations

import calendar
import datetime as dt
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

#: First and last day, inclusive.
Span = tuple[dt.date, dt.date]

_CLOCK = r"(?:[T_ ]?\d{4}(?:\d{2})?Z?)?"
_DAY = rf"(?<!\d)((?:19|20)\d{{2}})([-_.m]?)(\d{{2}})\2?(\d{{2}}){_CLOCK}(?!\d)"
_MONTH = r"(?<!\d)((?:19|20)\d{2})[-_.]?(0[1-9]|1[0-2])(?!\d)"
_YEAR = r"(?<![0-9A-Za-z.])((?:19|20)\d{2})(?![0-9A-Za-z])"
_BETWEEN = r"(?:[-_ ]to[-_ ]|[-_. ]{1,2})"


def _day(found: re.Match[str]) -> Span:
    day = dt.date(int(found[1]), int(found[3]), int(found[4]))
    return day, day


def _month(found: re.Match[str]) -> Span:
    return _month_of(dt.date(int(found[1]), int(found[2]), 1))


def _month_of(day: dt.date) -> Span:
    return day.replace(day=1), day.replace(day=calendar.monthrange(day.year, day.month)[1])


def _year(found: re.Match[str]) -> Span:
    return dt.date(int(found[1]), 1, 1), dt.date(int(found[1]), 12, 31)


_READERS = [(re.compile(p), re.compile(_BETWEEN), read) for p, read in ((_DAY, _day), (_MONTH, _month), (_YEAR, _year))]


def span_in(name: str) -> Span | None:
    """The days that a file's name (without folders) says it is of; None if it says nothing."""
    for pattern, between, read in _READERS:
        for found in pattern.finditer(name):
            try:
                first = read(found)
            except ValueError:  # a 13th month: digits of something else
                continue
            gap = between.match(name, found.end())
            second = pattern.match(name, gap.end()) if gap else None
            try:
                last = read(second) if second else first
            except ValueError:
                last = first
            return (first[0], last[1]) if last >= first else first
    return None


def spans_of(field: xr.DataArray, attrs: Mapping[str, Any], name: str) -> list[Span | None]:
    """The days of each (y, x) plane of ``field``, in order.

    Parameters
    ----------
    field : (…, y, x); its times decide where it has some. Times a month apart are months, times a week apart weeks.
    attrs : of its Dataset: ``time_coverage_start`` and ``time_coverage_end`` decide where a single plane has no time.
    name : of the file, without folders. A single plane whose name spans more days than its time (a month's mean with
        the time of its middle) is of all of them.
    """
    count = int(np.prod(field.shape[:-2], dtype=int))
    named = span_in(name)
    times = [c for c in field.coords.values() if c.dtype.kind == "M" and not np.isnat(c.values).any()]
    if times:
        lead = field.dims[:-2]
        known = times[0].expand_dims({d: field.sizes[d] for d in lead if d not in times[0].dims}).transpose(*lead)
        spans: list[Span | None] = list(_steps(known.values.astype("datetime64[D]").ravel()))
    else:
        start, end = (span_in(str(attrs.get(f"time_coverage_{word}", ""))) for word in ("start", "end"))
        spans = [(start[0], max(start[1], end[1])) if start and end else None] * count
    if count == 1:
        return [_joined(spans[0], named)]
    return [span or named for span in spans]


def _steps(days: np.ndarray) -> list[Span]:
    """What each of a series of datetime64[D] stands for, by how far apart they are."""
    apart = np.diff(np.unique(days)).astype(int)
    step = int(np.median(apart)) if apart.size else 1
    dates = [day.astype(dt.date) for day in days]
    if 27 <= step <= 32:
        return [_month_of(day) for day in dates]
    return [(day, day + dt.timedelta(days=step - 1)) for day in dates]


def _joined(span: Span | None, named: Span | None) -> Span | None:
    """Both together where they touch, else the first that is known."""
    if span is None or named is None or not meet(span, named):
        return span or named
    return min(span[0], named[0]), max(span[1], named[1])


def meet(a: Span | None, b: Span | None) -> bool:
    """Do two spans share a day? What is of unknown days may be of any."""
    return a is None or b is None or (a[0] <= b[1] and b[0] <= a[1])


def within(span: Span | None, dates: tuple[str, str] | None) -> bool:
    """Does a plane of these days belong to a set with these dates? It must lie in them as a whole."""
    if dates is None:
        return True
    first, last = span_between(dates)
    return span is not None and first <= span[0] and span[1] <= last


def span_between(dates: tuple[str, str]) -> Span:
    """The span of two ISO dates."""
    return dt.date.fromisoformat(dates[0]), dt.date.fromisoformat(dates[1])
