"""Values: from the numbers in a file to the field they mean, float32 with NaN for missing.

One rule, :class:`Decoding`, is fixed when a file is opened, from its metadata and a bounded sample of its values, and
then applied to every block alike: what is missing does not depend on how the file is cut.

Missing are: declared fill values (``_FillValue`` and ``missing_value`` both), what lies outside ``valid_min``,
``valid_max`` or ``valid_range``, NaN, infinities, anything larger than :data:`HUGE`, and undeclared fill values found
in the sample. The last three kinds give a warning. Negative columns are data.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
from dask.threaded import get as threads  # by its name, "threads", dask would import distributed: 0.3 s

from geosr.errors import GeosrWarning, InputError

#: No column in any unit is larger than this (1e25 molec m-2 is 17 mol m-2); fill values such as 9.97e36 are.
HUGE = 1e25

#: Cells that are read when a file is opened, to find undeclared fill values and units that cannot be.
SAMPLE_CELLS = 1_000_000

# Side of the windows of such a sample.
_SAMPLE_SIDE = 256

# Numbers that programs write for "missing", among them what netCDF fills with by itself. A column may have such a value
# by itself; then it has neighbours.
_SUSPECTS = (-9999.0, -999.0, -99999.0, -999999.0, -9999.9, -999.9, -999.99, -9999.99, -99.0, -99.9, -99.99, -99.9999,
             -8888.0, -888.0, -32767.0, -32768.0, -2147483647.0, -2147483648.0, -9223372036854775806.0,
             -9223372036854775808.0, -1e10, -1e15, -1e20, 999.0, 9999.0, 99999.0, 999999.0, 32767.0, 65535.0,
             2147483647.0, 4294967295.0, 1e20, 18446744073709551614.0)  # fmt: skip

# A suspect among its like is a fill value all the same if it comes so often, and so much oftener than any of them.
_OFTEN, _OFTENER = 5, 20

# A negative extreme this many times as large as all else is none of a column's values: if it comes twice, and if once.
_FAR_OUT, _FAR_OUT_ALONE = 10.0, 100.0

# A positive one that comes several times, so many times as large as all else.
_FAR_ABOVE = 1000.0

# How near another value of an 8-bit type must be to its extreme for that to be a value too.
_APART = 10.0


@dataclass(frozen=True)
class Decoding:
    """How numbers in a file become a field.

    Attributes
    ----------
    fills : raw values that mean missing, declared.
    found : raw values that mean missing, not declared but found in the sample.
    lower, upper : valid range, in raw numbers or, if ``valid_unpacked``, in those after scale and offset.
    scale, offset : ``field = raw * scale + offset``.
    unsigned : read signed integers as unsigned ones (the netCDF-3 convention ``_Unsigned``).
    announced : kinds of bad values ("inf", "huge") that the user has been told of.
    """

    fills: tuple[float, ...] = ()
    found: tuple[float, ...] = ()
    lower: float | None = None
    upper: float | None = None
    valid_unpacked: bool = False
    scale: float = 1.0
    offset: float = 0.0
    unsigned: bool = False
    announced: frozenset[str] = frozenset()

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any], dtype: np.dtype) -> Decoding:
        """The rule that CF attributes give (CF conventions 1.11, sections 2.5.1 and 8.1).

        Raises
        ------
        InputError
            Attributes that are not numbers, or a scale factor that is 0 or not finite.
        """
        fills = tuple(v for key in ("_FillValue", "missing_value") for v in _numbers(attrs, key))
        lower = next(iter(_numbers(attrs, "valid_min")), None)
        upper = next(iter(_numbers(attrs, "valid_max")), None)
        both = _numbers(attrs, "valid_range")
        if len(both) == 2:
            lower, upper = both
        scale, offset = _packing(attrs, "scale_factor", 1.0), _packing(attrs, "add_offset", 0.0)
        if not np.isfinite(scale) or scale == 0 or not np.isfinite(offset):
            raise InputError(
                f"scale_factor {scale:g} and add_offset {offset:g} make no values",
                "repair them first (NetCDF: ncatted; GeoTIFF: gdal_edit.py -scale 1 -offset 0)",
            )
        valid_keys = [k for k in ("valid_min", "valid_max", "valid_range") if k in attrs]
        packed = (scale, offset) != (1.0, 0.0)
        # CF: of the packed type, they are packed values; of another type, they are of the unpacked one.
        valid_unpacked = (
            packed and dtype.kind in "iu" and any(np.asarray(attrs[k]).dtype.kind == "f" for k in valid_keys)
        )
        unsigned = str(attrs.get("_Unsigned", "")).lower() == "true" and dtype.kind == "i"
        if unsigned:  # the attributes are as signed as the numbers
            fills = tuple(v % 2.0 ** (8 * dtype.itemsize) for v in fills)
            lower, upper = (v if v is None else v % 2.0 ** (8 * dtype.itemsize) for v in (lower, upper))
        elif lower is not None and upper is not None and lower > upper:
            warnings.warn(
                f"the valid range in the file, {lower:g} to {upper:g}, is upside down: taken as {upper:g} to {lower:g}",
                GeosrWarning,
                stacklevel=2,
            )
            lower, upper = upper, lower
        return cls(fills, (), lower, upper, valid_unpacked, scale, offset, unsigned)


def _numbers(attrs: Mapping[str, Any], key: str) -> list[float]:
    """The attribute's numbers, also those written as text; none where it holds none."""
    value = attrs.get(key)
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if value is None:
        return []
    found = re.split(r"[\s,;]+", value.strip()) if isinstance(value, str) else np.atleast_1d(value).ravel()
    try:
        return [float(v) for v in found]
    except (TypeError, ValueError):
        return []


def _packing(attrs: Mapping[str, Any], key: str, default: float) -> float:
    """The attribute's one number; an :class:`InputError` where there is something else."""
    if key not in attrs:
        return default
    found = set(_numbers(attrs, key))
    if len(found) != 1:
        shown = " ".join(repr(attrs[key]).split())[:60]
        raise InputError(f"{key} {shown} is not a number", "repair the attribute first (ncatted)")
    return found.pop()


def _equals(raw: np.ndarray, value: float) -> np.ndarray:
    """Where ``raw`` is ``value`` as its dtype holds it; for float64 also as float32 holds it (-1e30 is not -1e30f)."""
    if raw.dtype.kind in "iu":
        info = np.iinfo(raw.dtype)
        if not np.isfinite(value) or value != int(value) or not info.min <= value <= info.max:
            return np.zeros(raw.shape, bool)
        return raw == raw.dtype.type(int(value))
    with np.errstate(over="ignore"):
        same = raw == raw.dtype.type(value)
        if raw.dtype.itemsize > 4:
            same |= raw == np.float64(np.float32(value))
    return same


def _native(raw: np.ndarray, how: Decoding) -> np.ndarray:
    raw = np.asarray(raw)
    raw = raw.astype(raw.dtype.newbyteorder("="), copy=False)
    return raw.view(f"u{raw.dtype.itemsize}") if how.unsigned else raw


def decode(raw: np.ndarray, how: Decoding) -> np.ndarray:
    """``raw`` numbers, any shape and real dtype, as float32 with NaN where missing.

    Scale and offset are applied in float64, so that a packed file equals its unpacked twin rounded to float32.
    """
    numbers = _native(raw, how)
    unpacked = numbers
    if (how.scale, how.offset) != (1.0, 0.0):
        with np.errstate(invalid="ignore", over="ignore"):  # judged below
            unpacked = numbers.astype(np.float64) * how.scale + how.offset
    missing = np.zeros(numbers.shape, bool)
    for value in (*how.fills, *how.found):
        missing |= _equals(numbers, value)
    judged = unpacked if how.valid_unpacked else numbers
    # Limits are compared as the data's dtype holds them: 0.1 as float32 is not below 0.1 as float64.
    as_held = judged.dtype.type if judged.dtype.kind == "f" else float
    with np.errstate(invalid="ignore", over="ignore"):
        if how.lower is not None:
            missing |= judged < as_held(how.lower)
        if how.upper is not None:
            missing |= judged > as_held(how.upper)
        for held in (numbers,) if unpacked is numbers else (numbers, unpacked):
            if held.dtype.kind == "f":
                _tell(held, missing, how)
                missing |= ~np.isfinite(held) | (np.abs(held) > HUGE)
        field = np.where(missing, np.nan, unpacked) if unpacked.dtype.kind == "f" else unpacked
        field = field.astype(np.float32, copy=False)
    if unpacked.dtype.kind != "f" and missing.any():
        field = np.where(missing, np.float32(np.nan), field)
    return field


def unpack(raw: np.ndarray, how: Decoding) -> np.ndarray:
    """Coordinates rather than columns: ``raw`` unpacked in float64, NaN for declared fills; as it is if it is plain."""
    numbers = _native(raw, how)
    missing = np.zeros(numbers.shape, bool)
    for value in how.fills:
        missing |= _equals(numbers, value)
    if (how.scale, how.offset) != (1.0, 0.0):
        numbers = numbers.astype(np.float64) * how.scale + how.offset
    return np.where(missing, np.nan, numbers) if missing.any() else numbers


_INFINITE = "holds infinite values: treated as missing"


def _tell(numbers: np.ndarray, missing: np.ndarray, how: Decoding) -> None:
    """Warn of bad values that the sample did not show."""
    if "inf" not in how.announced and (np.isinf(numbers) & ~missing).any():
        warnings.warn(_INFINITE, GeosrWarning, stacklevel=2)
    if "huge" not in how.announced and ((np.abs(numbers) > HUGE) & np.isfinite(numbers) & ~missing).any():
        warnings.warn(
            f"holds values beyond {HUGE:g} that no column has: treated as missing", GeosrWarning, stacklevel=2
        )


def inspect(raw: np.ndarray, how: Decoding, label: str) -> Decoding:
    """``how`` with the undeclared fill values in the sample ``raw``; warns of each, and of infinities.

    A suspect (-9999, …) is taken for a fill value if nothing else in the sample is of its sign and within a factor
    of ten of it, for a column has neighbours and a fill value stands alone; or if it comes far oftener than any of
    them. So is any other negative extreme that is far out of all proportion.
    """
    numbers = _native(raw, how).ravel()
    quiet = replace(how, announced=frozenset({"inf", "huge"}))
    candidates = numbers[~np.isnan(decode(numbers, quiet))]
    announced = set()
    if numbers.dtype.kind == "f":
        declared = np.zeros(numbers.shape, bool)
        for value in how.fills:
            # A fill value written with few digits is still the one meant: all this far out are missing anyway.
            with np.errstate(invalid="ignore", over="ignore"):
                close = (np.abs(numbers - value) <= 1e-5 * abs(value)) & (abs(value) > HUGE)
            if close.any():
                announced.add("huge")
            declared |= _equals(numbers, value) | close
        rest = numbers[~declared & ~np.isnan(numbers)]
        if np.isinf(rest).any():
            warnings.warn(f"{label} {_INFINITE}", GeosrWarning, stacklevel=2)
            announced.add("inf")
        huge = np.unique(rest[np.isfinite(rest) & (np.abs(rest) > HUGE)])
        if huge.size:
            text = ", ".join(f"{v:.6g}" for v in huge[:3])
            warnings.warn(f"{label} holds {text}, undeclared: treated as missing", GeosrWarning, stacklevel=2)
            announced.add("huge")
    _tell_limits(numbers, candidates.size, quiet, label)
    found = _undeclared(candidates)
    for value in found:
        share = _equals(candidates, value).mean()
        text = f"{label} holds {value:g} in {share:.1%} of its valid cells, undeclared: treated as missing"
        warnings.warn(text, GeosrWarning, stacklevel=2)
    return replace(how, found=found, announced=frozenset(announced))


def _tell_limits(numbers: np.ndarray, valid: int, how: Decoding, label: str) -> None:
    """Warn where a declared valid range leaves less than half of the values: then it is of something else."""
    if how.lower is None and how.upper is None:
        return
    without = int((~np.isnan(decode(numbers, replace(how, lower=None, upper=None)))).sum())
    if valid < 0.5 * without:
        low, high = ("…" if v is None else f"{v:g}" for v in (how.lower, how.upper))
        share = f"{1 - valid / without:.0%} of the values of {label}"
        text = f"{share} lie outside the valid range in the file, {low} to {high}: treated as missing"
        warnings.warn(text, GeosrWarning, stacklevel=3)


def _undeclared(numbers: np.ndarray) -> tuple[float, ...]:
    """The values of ``numbers`` (a sample of what should be valid) that must mean missing."""
    if not numbers.size:
        return ()
    # No other is a suspect, or within a factor of ten of one.
    large = numbers[np.abs(numbers.astype(np.float64)) >= 9.0]
    found = []
    if large.size:
        low, high = float(large.min()), float(large.max())
        slack = 1e-6 * max(abs(low), abs(high))
        found = [v for v in _SUSPECTS if low - slack <= v <= high + slack and _means_missing(large, v)]
    for _ in range(2):  # an extreme of either sign
        odd = _far_out(numbers, found)
        found += [] if odd is None else [odd]
    if numbers.dtype in (np.dtype(np.int8), np.dtype(np.uint8)):
        found += [v for v in (-128.0, 255.0) if _is_apart(numbers, v)]
    return tuple(found)


def _is_apart(numbers: np.ndarray, value: float) -> bool:
    """Does the extreme of an 8-bit type come far too often, with nothing near it? (Saturation has values near it.)"""
    same = _equals(numbers, value)
    count, others = int(same.sum()), numbers[~same].astype(np.float64)
    if count < _OFTEN or not others.size or bool((np.abs(others - value) < _APART).any()):
        return False
    return count > _OFTENER / 2 * int(np.max(np.unique(others, return_counts=True)[1]))


def _means_missing(numbers: np.ndarray, value: float) -> bool:
    """Does the suspect ``value`` stand alone among ``numbers``, or come far too often for one of them?"""
    same = _equals(numbers, value)
    count = int(same.sum())
    if not count:
        return False
    others = numbers[~same]
    ratio = others.astype(np.float64) / value
    like = others[(ratio > 0.1) & (ratio < 10)]
    if not like.size:
        return True
    return count >= _OFTEN and count > _OFTENER * int(np.max(np.unique(like, return_counts=True)[1]))


def _far_out(numbers: np.ndarray, found: list[float]) -> float | None:
    """The lowest value, if it is negative and far out of all proportion to the rest; or the highest one, if it comes
    several times and no plume could be so high."""
    rest = numbers
    for value in found:
        rest = rest[~_equals(rest, value)]
    for extreme, margins in (
        (np.min(rest, initial=0), (_FAR_OUT, _FAR_OUT_ALONE)),
        (np.max(rest, initial=0), (_FAR_ABOVE, np.inf)),
    ):
        same = rest == extreme
        if extreme == 0 or not same.any():
            continue
        largest = float(np.max(np.abs(rest[~same].astype(np.float64)), initial=0.0))
        if 0 < margins[int(same.sum() == 1)] * largest < abs(float(extreme)):
            return float(extreme)
    return None


def sample(data: da.Array, cells: int = SAMPLE_CELLS) -> np.ndarray:
    """Values of ``data`` (…, y, x) as a flat array: all of them, or those of windows spread evenly over it, about
    ``cells`` in all.

    The choice depends on the shape alone. The first and last corner are always in it: fill values live at the rims.
    """
    if data.size <= cells:
        return np.asarray(data.compute(scheduler=threads)).ravel()
    *lead, ny, nx = data.shape
    height, width = min(ny, _SAMPLE_SIDE), min(nx, _SAMPLE_SIDE)
    grid = (*lead, -(-ny // height), -(-nx // width))
    count = math.prod(grid)
    # Multiples of the golden ratio, modulo 1, are as evenly spread as can be, however many are taken.
    order = np.argsort(np.arange(count) * 0.6180339887498949 % 1.0)[: max(2, cells // (height * width))]
    parts = []
    for at in sorted({0, count - 1, *order.tolist()}):
        *index, i, j = (int(k) for k in np.unravel_index(at, grid))
        top, left = min(i * height, ny - height), min(j * width, nx - width)
        parts.append(data[(*index, slice(top, top + height), slice(left, left + width))])
    return np.concatenate([np.asarray(p).ravel() for p in da.compute(*parts, scheduler=threads)])


def decoded(raw: da.Array, how: Decoding) -> da.Array:
    """Lazy :func:`decode`."""
    return da.map_blocks(decode, raw, how, dtype=np.float32, meta=np.empty((0,) * raw.ndim, np.float32))
