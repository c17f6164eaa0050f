"""Which days a raster is of, by its times and by its name; for splitting training data.

A span is the first and the last day, inclusive. Names are read generously: ``20231005``, ``2023-10-05``, ``2023m1005``
(as OMI's products), with or without a time of day, are a day; ``202310`` and ``2023-10`` are that month, ``2023`` is
that year. A name with several dates is of all days from the first to the last: which of them is the day that the file
was made on, nobody can know, and a span that is too long lets no leak pass. Only where a product's convention says so
(Sentinel-5P, OMI) that day is left out.
"""

from __future__ import annotations

import calendar
import datetime as dt
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

#: First and last day, inclusive.
Span = tuple[dt.date, dt.date]

_CLOCK = r"(?:[T_ ]?\d{4}(?:\d{2})?Z?)?"
_DAY = rf"(?<!\d)((?:19|20)\d{{2}})([-_.m]?)(\d{{2}})\2?(\d{{2}}){_CLOCK}(?!\d)"
_MONTH = r"(?<!\d)((?:19|20)\d{2})[-_.]?(0[1-9]|1[0-2])(?!\d)"
_YEAR = r"(?<![0-9A-Za-z.])((?:19|20)\d{2})(?![0-9A-Za-z])"

# The day of production, by convention: after orbit, collection and processor in Sentinel-5P's names, after the version
# in EOS Aura's.
_MADE = re.compile(r"(?<=_)\d{5}_\d{2}_\d{6}_\d{8}T\d+|(?<=_v\d{3}-)\d{4}m\d{4}t\d+")


def _day(found: re.Match[str]) -> Span:
    day = dt.date(int(found[1]), int(found[3]), int(found[4]))
    return day, day


def _month(found: re.Match[str]) -> Span:
    return _month_of(dt.date(int(found[1]), int(found[2]), 1))


def _month_of(day: dt.date) -> Span:
    return day.replace(day=1), day.replace(day=calendar.monthrange(day.year, day.month)[1])


def _year(found: re.Match[str]) -> Span:
    return dt.date(int(found[1]), 1, 1), dt.date(int(found[1]), 12, 31)


_READERS = [(re.compile(pattern), read) for pattern, read in ((_DAY, _day), (_MONTH, _month), (_YEAR, _year))]


def span_in(name: str) -> Span | None:
    """The days, first to last, that a file's name (without folders) says it is of; None if it says nothing.

    A month or year that holds a day of the name adds nothing (``no2_2023_20231005.tif`` is of one day).
    """
    rest = _MADE.sub(" ", name)
    spans: list[Span] = []
    for pattern, read in _READERS:
        finer = list(spans)
        for found in pattern.finditer(rest):
            try:
                span = read(found)
            except ValueError:  # a 13th month: digits of something else
                continue
            rest = f"{rest[: found.start()]}{' ' * len(found[0])}{rest[found.end() :]}"
            if not any(span[0] <= s[0] and s[1] <= span[1] for s in finer):
                spans.append(span)
    return hull(spans)


def hull(spans: Sequence[Span]) -> Span | None:
    """The days from the first to the last of ``spans``; None without any."""
    return (min(s[0] for s in spans), max(s[1] for s in spans)) if spans else None


def span_from(start: np.datetime64, end: np.datetime64) -> Span:
    """The days from one moment to another; midnight ends the day before it."""
    start, end = sorted((start.astype("datetime64[us]"), end.astype("datetime64[us]")))
    last = max(start, end - np.timedelta64(1, "us"))
    return start.astype("datetime64[D]").astype(dt.date), last.astype("datetime64[D]").astype(dt.date)


def spans_of(
    field: xr.DataArray, attrs: Mapping[str, Any], name: str, bounds: Mapping[np.datetime64, Span] | None = None
) -> list[Span | None]:
    """The days of each (y, x) plane of ``field``, in order.

    Parameters
    ----------
    field : (…, y, x); its times decide where it has some. Times a month apart are months, times a week apart weeks.
    attrs : of its Dataset: ``time_coverage_start`` and ``time_coverage_end`` decide where a single plane has no time.
    name : of the file, without folders. A single plane whose name spans more days than its time (a month's mean with
        the time of its middle) is of all of them.
    bounds : days of the file's times by their bounds (:func:`geosr.training.bounds.time_bounds`), which decide where
        there are some.
    """
    bounds = bounds or {}
    count = int(np.prod(field.shape[:-2], dtype=int))
    named = span_in(name)
    times = [c for c in field.coords.values() if c.dtype.kind == "M" and not np.isnat(c.values).any()]
    if times:
        lead = field.dims[:-2]
        known = times[0].expand_dims({d: field.sizes[d] for d in lead if d not in times[0].dims}).transpose(*lead)
        moments = known.values.astype("datetime64[us]").ravel()
        steps = _steps(moments.astype("datetime64[D]"))
        spans: list[Span | None] = [bounds.get(t, s) for t, s in zip(moments, steps, strict=True)]
    else:
        start, end = (span_in(str(attrs.get(f"time_coverage_{word}", ""))) for word in ("start", "end"))
        spans = [hull(list(bounds.values())) or (hull([start, end]) if start and end else None)] * count
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
