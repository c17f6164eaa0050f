"""The header of a netCDF-3 file, against the size of the file.

A truncated file opens and reads in some libraries as if nothing was missing, and a header of a hundred bytes may claim
gigabytes. The header is walked as the format is written ("The NetCDF Classic Format Specification", Unidata; CDF-1, -2
and -5), taking from the file what lies in it: nothing is allocated by a number that the file declares.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

from geosr.errors import InputError, RefusedError
from geosr.reading.limits import Limits

# nc_type -> bytes of one value.
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}
_DIMENSION, _VARIABLE, _ATTRIBUTE = 10, 11, 12


class _Corrupt(Exception):
    """The header contradicts itself or goes beyond the file."""


@dataclass(frozen=True)
class _Variable:
    name: str
    record: bool
    width: int  # bytes, of one record if it is a record variable
    begin: int


class _Header:
    """The file from its beginning, taken in pieces that lie within it."""

    def __init__(self, file: BinaryIO, size: int, limits: Limits) -> None:
        self.file, self.size, self.limits = file, size, limits
        self.version = self.take(4)[3]
        self.count = ">q" if self.version == 5 else ">i"
        self.offset = ">i" if self.version == 1 else ">q"

    def take(self, n: int) -> bytes:
        """The next ``n`` bytes."""
        if n < 0 or self.file.tell() + n > self.size:
            raise _Corrupt
        return self.file.read(n)

    def skip(self, n: int) -> None:
        """Pass over ``n`` bytes, and the padding to a multiple of four."""
        n += -n % 4
        if n < 0 or self.file.tell() + n > self.size:
            raise _Corrupt
        self.file.seek(n, os.SEEK_CUR)

    def number(self, code: str) -> int:
        return int(struct.unpack(code, self.take(struct.calcsize(code)))[0])

    def name(self) -> str:
        n = self.number(self.count)
        text = self.take(n)
        self.take(-n % 4)
        return text.decode("utf-8", "replace")

    def entries(self, tag: int, what: str) -> int:
        """Length of the list of ``tag``."""
        found, n = self.number(">i"), self.number(self.count)
        if n < 0 or found not in (0, tag) or (found == 0 and n):
            raise _Corrupt
        self.limits.check("variables", n, f"its header lists {n} {what}")
        return n

    def pass_attributes(self) -> None:
        for _ in range(self.entries(_ATTRIBUTE, "attributes")):
            self.name()
            kind, n = self.number(">i"), self.number(self.count)
            if kind not in _BYTES or n < 0:
                raise _Corrupt
            self.skip(_BYTES[kind] * n)

    def variable(self, dims: list[int]) -> _Variable:
        name = self.name()
        n = self.number(self.count)
        if not 0 <= n <= 1024:  # NC_MAX_VAR_DIMS
            raise _Corrupt
        ids = [self.number(self.count) for _ in range(n)]
        if any(not 0 <= i < len(dims) for i in ids):
            raise _Corrupt
        self.pass_attributes()
        kind = self.number(">i")
        self.number(self.count)  # the variable's size, which is redundant, and wrong where it overflows
        begin = self.number(self.offset)
        if kind not in _BYTES or begin < 0:
            raise _Corrupt
        lengths = [dims[i] for i in ids]
        record = bool(lengths) and lengths[0] == 0
        width = _BYTES[kind]
        for length in lengths[record:]:
            width *= length
        return _Variable(name, record, width, begin)


def check_netcdf3(path: str | os.PathLike[str], limits: Limits) -> None:
    """Do all values that the header of a netCDF-3 file (CDF-1, -2, -5) announces lie inside the file?

    Raises
    ------
    InputError
        They do not, or the header is no header.
    RefusedError
        More dimensions, variables or attributes than ``limits.variables``.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        try:
            header = _Header(file, size, limits)
            records = header.number(header.count)
            dims = []
            for _ in range(header.entries(_DIMENSION, "dimensions")):
                header.name()
                dims.append(header.number(header.count))
            if any(length < 0 for length in dims):
                raise _Corrupt
            header.pass_attributes()
            variables = [header.variable(dims) for _ in range(header.entries(_VARIABLE, "variables"))]
        except (_Corrupt, struct.error, OverflowError):
            raise InputError(
                "truncated or corrupt: its header contradicts itself or goes beyond the end of the file",
                "download it again",
                path,
            ) from None
        except RefusedError as error:
            error.path = os.fspath(path)
            raise
    _check_extents(path, size, variables, records)


def _check_extents(path: str | os.PathLike[str], size: int, variables: list[_Variable], records: int) -> None:
    recorded = [v for v in variables if v.record]
    # A single record variable is not padded.
    step = recorded[0].width if len(recorded) == 1 else sum(v.width + -v.width % 4 for v in recorded)
    for v in variables:
        if v.record and records <= 0:  # -1: still being written, the readers count the records themselves
            continue
        end = v.begin + v.width + ((records - 1) * step if v.record else 0)
        if end > size and v.width:
            raise InputError(
                f"truncated or corrupt: variable {v.name!r} should end at byte {end}, the file has {size} bytes",
                "download it again",
                path,
            )
