"""The gate: what may be opened, and by which one reader.

A path is an existing local regular file or it is refused: GDAL and netCDF-C would otherwise take URLs, archives,
XML and devices for rasters. The first bytes choose the reader; the suffix is not believed. Structure that can be
checked without a library (do the file's blocks lie inside the file?) is checked here, because the libraries find
a truncated file late or never.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from geosr.errors import GeosrError, InputError, RefusedError

T = TypeVar("T")

#: First bytes of what geosr reads -> reader.
_MAGIC = {
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",  # BigTIFF
    b"MM\0+": "tiff",
    b"CDF\x01": "netcdf3",
    b"CDF\x02": "netcdf3",  # 64-bit offsets
    b"CDF\x05": "netcdf5",  # 64-bit data: netCDF-C only
    b"\x89HDF\r\n\x1a\n": "hdf5",
}

# First bytes of what people pass by mistake -> what to tell them.
_FOREIGN = {
    b"\x89PNG": "a PNG image has no georeference",
    b"\xff\xd8\xff": "a JPEG image has no georeference",
    b"BM": "a bitmap image has no georeference",
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"\x1f\x8b": "a gzip archive: unpack it first",
    b"BZh": "a bzip2 archive: unpack it first",
    b"\x0e\x03\x13\x01": "HDF4: convert it first (h4toh5, or gdal_translate to GeoTIFF)",
    b"GRIB": "GRIB: convert it first (grib_to_netcdf, or cdo -f nc4 copy)",
}

# "scheme://…" and "DRIVER:…"; one letter before the colon is a Windows drive.
_REMOTE = re.compile(r"^(/vsi|[a-z][a-z0-9+._-]*://|[a-z_][a-z0-9_]+:|\s*<)", re.IGNORECASE)


def check_path(path: str | os.PathLike[str]) -> Path:
    """``path``, if it is a local file that geosr reads; the caller's spelling is kept (outputs are named after it).

    Raises
    ------
    InputError
        Not a local file, missing, a directory, not a regular file, empty, unreadable, or neither GeoTIFF nor NetCDF.
    RefusedError
        A file that makes GDAL read other files or the network (VRT, WMS and other XML).
    """
    text = os.fsdecode(path)
    if not text:
        raise InputError("the file name is empty", "give the path of a local file")
    if _REMOTE.match(text) and not os.path.exists(text):
        raise InputError("not a local file", "download it first: geosr reads local files only", text)
    try:
        status = os.stat(text)
    except FileNotFoundError:
        raise InputError("no such file", "check the path", text) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"cannot be opened ({_reason(error)})", "check the path and its permissions", text) from None
    if stat.S_ISDIR(status.st_mode):
        if text.rstrip("/\\").lower().endswith(".zarr"):
            raise InputError(
                "Zarr input is not read yet", "convert it to NetCDF first (xarray, or gdal_translate)", text
            )
        raise InputError("is a directory", "give one file (or several Sentinel-5P L2 files)", text)
    if not stat.S_ISREG(status.st_mode):
        raise InputError("not a regular file", "copy the data to a file first", text)
    if status.st_size == 0:
        raise InputError("the file is empty (0 bytes)", "download it again", text)
    kind_of(text)
    return Path(text)


def kind_of(path: str | os.PathLike[str]) -> str:
    """Which reader the first bytes ask for: "tiff", "netcdf3", "netcdf5" or "hdf5"."""
    try:
        with open(path, "rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise InputError(f"cannot be read ({_reason(error)})", "check its permissions", path) from None
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    raise _foreign(head, os.fsdecode(path))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _foreign(head: bytes, path: str) -> GeosrError:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"<"):
        for tag, name in ((b"VRTDataset", "VRT"), (b"GDAL_WMS", "GDAL WMS"), (b"WMT_MS", "WMS"), (b"VRTTile", "VRT")):
            if tag in head:
                hint = "it can read other files; write a GeoTIFF from it (gdal_translate)"
                return RefusedError(f"a {name} description (XML), not a raster", hint, path)
    hint = next((text for magic, text in _FOREIGN.items() if head.startswith(magic)), "")
    return InputError("not GeoTIFF/NetCDF", hint or "geosr reads GeoTIFF, NetCDF-3/4 and HDF5", path)


def guarded(call: Callable[[], T], path: str | os.PathLike[str]) -> T:
    """``call()``, a reading library's doing, with whatever it raises turned into an :class:`InputError`.

    Libraries answer damaged files with nearly every exception type there is; none is geosr's bug.
    """
    try:
        return call()
    except GeosrError:
        raise
    except MemoryError:
        raise
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"truncated or corrupt: cannot be read ({text[:200]})", "download it again", path) from error


# --- TIFF ------------------------------------------------------------------------------------------------------

# Field type -> struct code and bytes of one value (TIFF 6.0, section 2; BigTIFF). An unknown type counts as bytes.
_TYPES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_OFFSETS, _COUNTS = (273, 324), (279, 325)  # strips, tiles (TIFF 6.0, sections 3 and 15)


@dataclass(frozen=True)
class _Entry:
    """One entry of an image file directory: ``value`` holds the values, or the place in the file where they are."""

    order: str
    kind: int
    count: int
    value: bytes

    @property
    def size(self) -> int:
        return _BYTES.get(self.kind, 1) * self.count

    @property
    def inline(self) -> bool:
        return self.size <= len(self.value)

    @property
    def place(self) -> int:
        return int(struct.unpack(self.order + ("Q" if len(self.value) == 8 else "I"), self.value)[0])


def check_tiff_blocks(path: str | os.PathLike[str]) -> int:
    """Does everything that the directories of a TIFF point to lie inside the file: blocks, and the values of tags?

    Tags are lost without a word otherwise: libtiff passes over one that it cannot read, and with it go nodata
    value, scale and offset, or the georeference.

    Returns
    -------
    The number of missing ("sparse") blocks of the first image, which GDAL reads as 0 or nodata.

    Raises
    ------
    InputError
        If a block, the values of a tag, or a directory itself, lies beyond the end of the file.
    """
    size = os.path.getsize(path)
    missing = []
    with open(path, "rb") as file:
        try:
            for tags in _directories(file, size):
                missing.append(_check_blocks(file, tags, size, path))
                for tag, entry in tags.items():
                    if not entry.inline and entry.place + entry.size > size:
                        raise InputError(
                            f"truncated or corrupt: the values of its tag {tag} lie beyond the end of the file",
                            "download it again",
                            path,
                        )
        except (struct.error, EOFError, OverflowError):
            raise InputError(
                "truncated or corrupt: its directory lies beyond the end of the file", "download it again", path
            ) from None
    return missing[0] if missing else 0


def _check_blocks(file: BinaryIO, tags: dict[int, _Entry], size: int, path: str | os.PathLike[str]) -> int:
    """Number of missing blocks of an image; raises if one lies beyond the end."""
    offsets = next((_values(file, tags[t], size) for t in _OFFSETS if t in tags), None)
    counts = next((_values(file, tags[t], size) for t in _COUNTS if t in tags), None)
    if offsets is None or counts is None or len(offsets) != len(counts):
        return 0  # odd, but libtiff may cope: let it try
    ends = offsets.astype(np.float64) + counts
    if ends.max(initial=0) > size:
        short = int((ends > size).sum())
        raise InputError(
            f"truncated: {short} of {len(ends)} blocks lie beyond the end of the file ({size} bytes)",
            "download it again",
            path,
        )
    return int((counts == 0).sum())


def _directories(file: BinaryIO, size: int) -> Iterator[dict[int, _Entry]]:
    """The image file directories, in the order of their chain; a chain that runs in a circle ends there."""
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", head, 2)[0] == 43
    at = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0]
    n_code, link, item = (
        (order + "Q", order + "Q", order + "HHQ8s") if big else (order + "H", order + "I", order + "HHI4s")
    )
    seen: set[int] = set()
    room = size  # directories that share bytes could keep us busy for ever
    while not seen or (at and at not in seen):
        seen.add(at)
        if at >= size:
            raise EOFError
        file.seek(at)
        n = struct.unpack(n_code, file.read(struct.calcsize(n_code)))[0]
        length = n * struct.calcsize(item)
        room -= length
        if room < 0:
            raise EOFError
        entries = struct.iter_unpack(item, _exactly(file, length))
        following = _exactly(file, struct.calcsize(link))
        yield {tag: _Entry(order, kind, count, value) for tag, kind, count, value in entries}
        at = struct.unpack(link, following)[0]


def _exactly(file: BinaryIO, n: int) -> bytes:
    data = file.read(n)
    if len(data) < n:
        raise EOFError
    return data


def _values(file: BinaryIO, entry: _Entry, size: int) -> np.ndarray | None:
    if entry.kind not in _TYPES:
        return None
    dtype = np.dtype(entry.order + _TYPES[entry.kind])
    if entry.inline:
        return np.frombuffer(entry.value[: entry.size], dtype)
    if entry.size > size:
        raise EOFError
    file.seek(entry.place)
    return np.frombuffer(_exactly(file, entry.size), dtype)
