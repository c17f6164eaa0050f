"""Values: from the numbers in a file to the field they mean, float32 with NaN for missing.

One rule, :class:`Decoding`, is fixed when a file is opened, from its metadata and a bounded sample of its values, and
then applied to every block alike: what is missing does not depend on how the file is cut.

Missing are: declared fill values (``_FillValue`` and ``missing_value`` both), what lies outside ``valid_min``,
``valid_max`` or ``valid_range``, NaN, infinities, anything larger than :data:`HUGE`, and undeclared fill values found
in the sample. The last three kinds give a warning. Negative columns are data.
"""

from __future__ import annotations

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
SAMPLE_CELLS = 2_000_000

# Numbers that programs write for "missing". A column may have such a value by itself; then it has neighbours.
_SUSPECTS = (-9999.0, -999.0, -99999.0, -9999.9, -999.9, -99.0, -99.99, -32767.0, -32768.0, -2147483647.0,
             -2147483648.0, 9999.0, 99999.0, 32767.0, 65535.0, 1e20, -1e20)  # fmt: skip


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
        scale = next(iter(_numbers(attrs, "scale_factor", strict=True)), 1.0)
        offset = next(iter(_numbers(attrs, "add_offset", strict=True)), 0.0)
        if not np.isfinite(scale) or scale == 0 or not np.isfinite(offset):
            raise InputError(
                f"scale_factor {scale:g} and add_offset {offset:g} make no values",
                "repair them first (ncatted, or xarray with mask_and_scale=False)",
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
        return cls(fills, (), lower, upper, valid_unpacked, scale, offset, unsigned)


def _numbers(attrs: Mapping[str, Any], key: str, strict: bool = False) -> list[float]:
    """The attribute's numbers; text that is no number is an error where ``strict``, else it is ignored."""
    if key not in attrs:
        return []
    try:
        return [float(v) for v in np.atleast_1d(attrs[key]).ravel()]
    except (TypeError, ValueError):
        if not strict:
            return []
        raise InputError(f"{key} {attrs[key]!r} is not a number", "repair the attribute first (ncatted)") from None


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
        if numbers.dtype.kind == "f":
            _tell(numbers, missing, how)
            missing |= ~np.isfinite(numbers) | (np.abs(numbers) > HUGE)
        field = np.where(missing, np.nan, unpacked) if unpacked.dtype.kind == "f" else unpacked
        field = field.astype(np.float32, copy=False)
    if unpacked.dtype.kind != "f" and missing.any():
        field = np.where(missing, np.float32(np.nan), field)
    return field


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
    of ten of it: a column has neighbours, a fill value stands alone.
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
                declared |= _equals(numbers, value) | (np.abs(numbers - value) <= 1e-5 * abs(value)) & (
                    abs(value) > HUGE
                )
        rest = numbers[~declared & ~np.isnan(numbers)]
        if np.isinf(rest).any():
            warnings.warn(f"{label} {_INFINITE}", GeosrWarning, stacklevel=2)
            announced.add("inf")
        huge = np.unique(rest[np.isfinite(rest) & (np.abs(rest) > HUGE)])
        if huge.size:
            text = ", ".join(f"{v:.6g}" for v in huge[:3])
            warnings.warn(f"{label} holds {text}, undeclared: treated as missing", GeosrWarning, stacklevel=2)
            announced.add("huge")
    found = tuple(value for value in _SUSPECTS if _stands_alone(candidates, value))
    for value in found:
        share = _equals(candidates, value).mean()
        text = f"{label} holds {value:g} in {share:.1%} of its valid cells, undeclared: treated as missing"
        warnings.warn(text, GeosrWarning, stacklevel=2)
    return replace(how, found=found, announced=frozenset(announced))


def _stands_alone(numbers: np.ndarray, value: float) -> bool:
    same = _equals(numbers, value)
    if not same.any() or same.all():
        return False
    others = numbers[~same].astype(np.float64) / value
    return not ((others > 0.1) & (others < 10)).any()


def sample(data: da.Array, cells: int = SAMPLE_CELLS) -> np.ndarray:
    """Values of ``data`` as a flat array: all of them, or those of blocks spread evenly up to about ``cells``.

    The choice depends on the array and its chunks alone. The first and last block are always in it: fill values
    live at the rims.
    """
    if data.size <= cells:
        return np.asarray(data.compute(scheduler=threads)).ravel()
    n = data.npartitions
    per_block = max(1, data.size // n)
    wanted = int(np.clip(cells // per_block, 2, n))
    chosen = sorted({round(i) for i in np.linspace(0, n - 1, wanted)})
    where = [tuple(int(k) for k in np.unravel_index(i, data.numblocks)) for i in chosen]
    parts = da.compute(*(data.blocks[index] for index in where), scheduler=threads)
    return np.concatenate([np.asarray(p).ravel() for p in parts])


def decoded(raw: da.Array, how: Decoding) -> da.Array:
    """Lazy :func:`decode`."""
    return da.map_blocks(decode, raw, how, dtype=np.float32, meta=np.empty((0,) * raw.ndim, np.float32))
