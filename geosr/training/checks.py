"""Checks of what a recipe says: each raises a :class:`ModelError` that shows the value and what would do."""

from __future__ import annotations

import datetime as dt
import math
from typing import Any

from geosr.errors import ModelError

#: West, south, east, north: in degrees, west > east crosses the dateline. For a picture without georeference: in cells
#: from its lower left corner.
Box = tuple[float, float, float, float]


def require(good: bool, key: str, value: object, hint: str) -> None:
    if not good:
        raise ModelError(f"recipe: {key} = {value!r} does not work", hint)


def is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def span_of(value: Any) -> tuple[float, float]:
    """(low, high) of a number or a pair; NaN for anything else, which no check lets pass."""
    low, high = (value, value) if not isinstance(value, (tuple, list)) else value if len(value) == 2 else (None, None)
    if low is None or high is None or not (is_number(low) and is_number(high)):
        return math.nan, math.nan
    return float(low), float(high)


def dates_of(value: Any) -> tuple[str, str]:
    """Two ISO dates in order; TOML's own dates are taken too."""
    hint = 'use ["2023-10-01", "2023-10-20"], first and last day'
    require(isinstance(value, tuple) and len(value) == 2, "dates", value, hint)
    try:
        first, last = (dt.date.fromisoformat(str(day)) for day in value)
    except ValueError as error:
        raise ModelError(f"recipe: dates = {value!r} does not work ({error})", hint) from error
    require(first <= last, "dates", value, hint)
    return first.isoformat(), last.isoformat()


def boxes_of(key: str, value: Any) -> tuple[Box, ...]:
    """One box or several, as several."""
    boxes = (value,) if isinstance(value, tuple) and value and not isinstance(value[0], tuple) else value
    hint = "use [west, south, east, north] in degrees, or a list of such boxes"
    good = isinstance(boxes, tuple) and all(
        isinstance(b, tuple) and len(b) == 4 and all(is_number(v) for v in b) and b[1] < b[3] and b[0] != b[2]
        for b in boxes
    )
    require(good, key, value, hint)
    return tuple((float(b[0]), float(b[1]), float(b[2]), float(b[3])) for b in boxes)
