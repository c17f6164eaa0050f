"""The gate: what may be opened, and by which one reader.

A path is an existing local regular file or it is refused: GDAL and netCDF-C would otherwise take URLs, archives,
XML and devices for rasters. The first bytes choose the reader; the suffix is not believed. Before a library reads it,
:func:`vet` has the file's structure scanned (``tiff_scan``, ``netcdf3_scan``, ``hdf5_scan``): does everything lie in
the file, does it name no other file, is it of sane size (``limits``)? The libraries find out late or never.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from geosr.errors import GeosrError, InputError, RefusedError, ResourceError
from geosr.reading.limits import Limits, limits

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
    b"\xfd7zXZ\0": "an xz archive: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"\x28\xb5\x2f\xfd": "a zstd archive: unpack it first",
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
    if (_REMOTE.match(text) and not os.path.exists(text)) or local(text).startswith("/vsi"):
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
    if head[257:262] == b"ustar":
        hint = "a tar archive: unpack it first"
    return InputError("not GeoTIFF/NetCDF", hint or "geosr reads GeoTIFF, NetCDF-3/4 and HDF5", path)


def local(path: str | os.PathLike[str]) -> str:
    """``path`` as libraries are given it: absolute, so that no part of it can be taken for a scheme or a driver."""
    return os.path.abspath(os.fspath(path))


@contextlib.contextmanager
def name_for_c(path: str | os.PathLike[str]) -> Iterator[str]:
    """The file under a name that C libraries open: netCDF-C takes a backslash for an escape, all want UTF-8."""
    name = local(path)
    plain = "\\" not in name and not any("\ud800" <= c <= "\udfff" for c in name)
    if plain or not sys.platform.startswith("linux"):
        yield name
        return
    handle = os.open(name, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)


class Fingerprint(NamedTuple):
    """What changes when somebody writes to a file or puts another in its place."""

    size: int
    mtime_ns: int
    inode: int
    device: int


def fingerprint(path: str | os.PathLike[str]) -> Fingerprint:
    """The file's fingerprint, for :func:`check_unchanged`.

    Raises
    ------
    InputError
        It is not there.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise InputError(f"cannot be read ({_reason(error)})", "check the path and its permissions", path) from None
    return Fingerprint(found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev)


def check_unchanged(path: str | os.PathLike[str], before: Fingerprint) -> None:
    """Raise :class:`InputError` if the file at ``path`` is not what it was when ``before`` was taken."""
    try:
        same = fingerprint(path) == before
    except InputError:
        same = False
    if not same:
        raise InputError("changed while reading", "run again when nothing writes to it any more", path)


def vet(path: str | os.PathLike[str], kind: str) -> int:
    """Is a file safe to read, and whole as far as its structure tells? Asked again of the same file, it costs nothing.

    Parameters
    ----------
    kind : as :func:`kind_of` says.

    Returns
    -------
    For a TIFF, the number of blocks that are missing; else 0.

    Raises
    ------
    InputError
        Parts of it lie beyond its end, or it is damaged.
    RefusedError
        It reads other files or needs plugins, or it is beyond the limits (:mod:`geosr.reading.limits`).
    """
    return _vetted(local(path), os.fspath(path), kind, fingerprint(path), limits())


@lru_cache(maxsize=256)
def _vetted(file: str, shown: str, kind: str, state: Fingerprint, most: Limits) -> int:
    if kind == "tiff":
        from geosr.reading.tiff_scan import check_tiff_blocks

        return check_tiff_blocks(shown, most)
    if kind == "hdf5":
        from geosr.reading.hdf5_scan import check_hdf5

        guarded(lambda: check_hdf5(shown, most), shown)
    else:
        from geosr.reading.netcdf3_scan import check_netcdf3

        check_netcdf3(shown, most)
    return 0


def guarded(call: Callable[[], T], path: str | os.PathLike[str]) -> T:
    """``call()``, a reading library's doing, with whatever it raises turned into an :class:`InputError`, or into a
    :class:`ResourceError` where this process may open no more files.

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
        if os.strerror(errno.EMFILE) in text:
            raise ResourceError("too many open files", "raise the limit (ulimit -n)", path) from error
        raise InputError(f"truncated or corrupt: cannot be read ({text[:200]})", "download it again", path) from error
