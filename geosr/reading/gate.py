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
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

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

_TYPES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_OFFSETS, _COUNTS = (273, 324), (279, 325)  # strips, tiles (TIFF 6.0, sections 3 and 15)


def check_tiff_blocks(path: str | os.PathLike[str]) -> int:
    """Do all blocks of the first image of a TIFF lie inside the file?

    Returns
    -------
    The number of missing ("sparse") blocks, which GDAL reads as 0 or nodata.

    Raises
    ------
    InputError
        If a block, or the directory itself, lies beyond the end of the file.
    """
    size = os.path.getsize(path)
    cut = InputError("truncated or corrupt: its directory lies beyond the end of the file", "download it again", path)
    with open(path, "rb") as file:
        try:
            tags = _directory(file, size)
            offsets = next((_values(file, tags[t], size) for t in _OFFSETS if t in tags), None)
            counts = next((_values(file, tags[t], size) for t in _COUNTS if t in tags), None)
        except (struct.error, EOFError, OverflowError):
            raise cut from None
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


def _directory(file, size: int) -> dict[int, tuple[str, str, int, bytes]]:
    """First image file directory: tag -> (byte order, struct code, count, the value or its offset as bytes)."""
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = struct.unpack_from(order + "H", head, 2)[0] == 43
    at = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0]
    if at >= size:
        raise EOFError
    file.seek(at)
    n_code, entry = ("Q", order + "HHQ8s") if big else ("H", order + "HHI4s")
    n = struct.unpack(order + n_code, file.read(struct.calcsize(n_code)))[0]
    if n * struct.calcsize(entry) > size:
        raise EOFError
    tags = {}
    for _ in range(n):
        tag, kind, count, value = struct.unpack(entry, file.read(struct.calcsize(entry)))
        tags[tag] = (order, _TYPES.get(kind, ""), count, value)
    return tags


def _values(file, entry: tuple[str, str, int, bytes], size: int) -> np.ndarray | None:
    order, code, count, value = entry
    if not code:
        return None
    dtype = np.dtype(order + code)
    n = dtype.itemsize * count
    if n > size:
        raise EOFError
    if n <= len(value):
        return np.frombuffer(value[:n], dtype)
    file.seek(struct.unpack(order + ("Q" if len(value) == 8 else "I"), value)[0])
    data = file.read(n)
    if len(data) < n:
        raise EOFError
    return np.frombuffer(data, dtype)
