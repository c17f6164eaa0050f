"""What a boxed process hands over: numbers in a scratch file, and a description in JSON.

Neither can carry code, whatever has become of the process that wrote them: no pickles. The receiver believes nothing:
each array must lie in the scratch file, and what it rebuilds goes through the same constructors as any other data.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from geosr.errors import InputError, ResourceError
from geosr.reading.lazy import read_indexed

_TYPES = ("<f4", "<f8", "|b1")


class Writer:
    """Arrays one after the other into an open file; pwrite, as a memory map would count as memory of the process."""

    def __init__(self, handle: int) -> None:
        self.handle, self.end = handle, 0

    def reserve(self, shape: Sequence[int], dtype: np.dtype) -> Slot:
        """Room for an array, to be assigned to by windows."""
        slot = Slot(self.handle, self.end, tuple(int(n) for n in shape), dtype.newbyteorder("<"))
        self.end += slot.nbytes + -slot.nbytes % 64
        return slot

    def array(self, values: np.ndarray) -> dict[str, Any]:
        """Write a whole array; its description."""
        values = np.asarray(values)
        slot = self.reserve(values.shape, values.dtype)
        slot[tuple(slice(0, n) for n in values.shape)] = values
        return slot.described()


@dataclass(frozen=True)
class Slot:
    """A C-ordered array in a file, written by windows (``da.store`` does)."""

    handle: int
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize

    def described(self) -> dict[str, Any]:
        return {"offset": self.offset, "shape": list(self.shape), "dtype": self.dtype.str}

    def __setitem__(self, index: tuple[slice, ...], values: np.ndarray) -> None:
        values = np.ascontiguousarray(values, self.dtype)
        starts = [s.start or 0 for s in index]
        whole = _whole_axes(values.shape, self.shape)
        lead, strides = values.ndim - whole, self._strides()
        for at in np.ndindex(*values.shape[:lead]):
            place = sum((starts[k] + at[k]) * strides[k] for k in range(lead))
            place += sum(starts[k] * strides[k] for k in range(lead, values.ndim))
            _write_all(self.handle, values[at], self.offset + place)

    def _strides(self) -> list[int]:
        strides, step = [], self.dtype.itemsize
        for n in reversed(self.shape):
            strides.append(step)
            step *= n
        return strides[::-1]


def _whole_axes(part: Sequence[int], shape: Sequence[int]) -> int:
    """How many last axes of a window lie in one piece: those that it spans, and one before them."""
    n = 0
    while n < len(shape) and part[len(shape) - 1 - n] == shape[len(shape) - 1 - n]:
        n += 1
    return min(n + 1, len(shape))


def _write_all(handle: int, values: np.ndarray, place: int) -> None:
    data = values.data.cast("B") if values.size else memoryview(b"")
    while data:
        try:
            done = os.pwrite(handle, data, place)
        except OSError as error:
            raise ResourceError(
                f"the scratch file cannot be written ({error.strerror})",
                "free some space, or set TMPDIR to another disk",
            ) from None
        data, place = data[done:], place + done


# --- the receiver ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scratch:
    """An array in the scratch file, read when indexed; threads and processes of this machine may.

    ``keeper`` is the open file: the file has no name, and goes when the last array on it does.
    """

    path: str
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    keeper: Any = field(default=None, compare=False, repr=False)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "keeper": None}

    def __getitem__(self, index: Any) -> np.ndarray:
        return read_indexed(index, self.shape, self._read)

    def _read(self, box: tuple[slice, ...]) -> np.ndarray:
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)[box]
        values = np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
        return np.array(values[box])

    def values(self) -> np.ndarray:
        """All of it."""
        return self[(slice(None),) * self.ndim]


def scratch_of(described: Any, path: str, size: int, keeper: Any) -> Scratch:
    """The array that a description names.

    Raises
    ------
    InputError
        It is no description, or the array does not lie in the file of ``size`` bytes.
    """
    try:
        offset, shape = described["offset"], tuple(described["shape"])
        dtype = np.dtype(described["dtype"]) if described["dtype"] in _TYPES else None
        whole = all(type(n) is int and n >= 0 for n in (offset, *shape)) and len(shape) <= 8
        if dtype is not None and whole:
            end = offset + dtype.itemsize * int(np.prod(shape, dtype=object))
            if end <= size:
                return Scratch(path, offset, shape, dtype, keeper)
    except (TypeError, KeyError):
        pass
    raise InputError("the boxed reader's answer makes no sense", "do not use this file")


def plain(value: Any) -> Any:
    """Attributes as JSON has them: numbers, text, lists; other things as text."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return [plain(v) for v in value.ravel()[:1000].tolist()]
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
