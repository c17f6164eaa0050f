"""Outputs that appear whole or not at all.

Everything is made in a hidden folder beside the target, ``.<name>.<random>.partial``, on the same file system;
verified there; flushed to disk; and only then renamed into place. On any failure, Ctrl-C included, the folder
goes and what stood at the target stays. A run that is killed outright leaves that folder, never a half target.

GDAL returns success on a full disk (most of the time), so "no exception" proves nothing: the writers read their
file back and compare it with checksums taken from the data (:mod:`geosr.writing.stream`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from geosr.errors import GeosrError, OutputError, OutputLockedError, UsageError

#: What each suffix means.
SUFFIXES = {".tif": "GeoTIFF", ".tiff": "GeoTIFF", ".nc": "NetCDF", ".zarr": "Zarr"}

# Files that GDAL and QGIS read together with <name>.tif. An old one would speak for the new raster: statistics
# (.aux.xml), overviews (.ovr), mask (.msk).
_GDAL_SIDECARS = (".aux.xml", ".ovr", ".msk")

# Less than this much room left after a failed write means that the disk filled up.
_FULL_BYTES = 4 << 20


def format_of(path: str | os.PathLike[str]) -> str:
    """ "GeoTIFF", "NetCDF" or "Zarr", by suffix; a :class:`UsageError` for any other."""
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        known = ", ".join(f"{s} ({f})" for s, f in SUFFIXES.items())
        raise UsageError(f"the suffix {suffix!r} does not name an output format", f"use one of {known}", path)
    return SUFFIXES[suffix]


def sidecars(path: Path) -> dict[str, Path]:
    """Files that belong to the output ``path`` by their name, by kind."""
    if format_of(path) != "GeoTIFF":
        return {}
    found = {suffix: path.with_name(path.name + suffix) for suffix in _GDAL_SIDECARS}
    return {".qml": path.with_suffix(".qml"), **found}


def check_target(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Everything that can be known to be wrong with the output before any computing.

    Parameters
    ----------
    path : the output; its suffix names the format.
    overwrite : an existing output may be replaced.

    Returns
    -------
    Path, absolute.

    Raises
    ------
    UsageError
        Unknown suffix; a ``.zarr`` without the package zarr.
    OutputError
        The folder is missing or not writable, the output exists without ``overwrite``, or what exists there is
        not something that geosr replaces (a folder that is no Zarr store, a device).
    """
    target = Path(os.path.abspath(path))
    kind = format_of(target)
    if kind == "Zarr":
        require_zarr()
    if not target.parent.is_dir():
        raise OutputError(f"the folder {target.parent} does not exist", "create it first", path)
    for file in (target, *sidecars(target).values()):
        if not os.path.lexists(file):
            continue
        _check_replaceable(file, is_store=kind == "Zarr", path=path)
        if not overwrite:
            what = "exists" if file == target else f"{file.name} exists beside it"
            raise OutputError(what, "use --overwrite to replace it", path)
    with _explained(path, target.parent):
        probe = _partial_folder(target)
        probe.rmdir()
    return target


def require_zarr() -> None:
    """A :class:`UsageError` that says what to install if the package zarr is absent."""
    try:
        import zarr  # noqa: F401
    except ImportError as error:
        raise UsageError("writing .zarr needs the package zarr", "pip install 'geosr[zarr]'") from error


def _check_replaceable(file: Path, is_store: bool, path: str | os.PathLike[str]) -> None:
    if file.is_symlink() or file.is_file():
        if not is_store:
            return
        raise OutputError("is a file, not a Zarr store", "choose another name", path)
    if not file.is_dir():
        raise OutputError("is not a regular file", "choose another name", path)
    marks = ("zarr.json", ".zgroup", ".zmetadata")
    if not is_store:
        raise OutputError("is a folder", "choose another name", path)
    if any(file.iterdir()) and not any((file / mark).is_file() for mark in marks):
        raise OutputError("is a folder that is not a Zarr store, and is not replaced", "choose another name", path)


def _partial_folder(target: Path) -> Path:
    # File names may have 255 bytes; the target's own may use them all.
    stem = os.fsdecode(os.fsencode(target.name)[:200])
    folder = target.with_name(f".{stem}.{secrets.token_hex(4)}.partial")
    folder.mkdir()
    return folder


class Staging(contextlib.AbstractContextManager):
    """The hidden folder in which an output is made.

    >>> with Staging(target) as staging:                       # doctest: +SKIP
    ...     make(staging.path("out.tif"))
    ...     staging.commit({staging.path("out.tif"): target})
    """

    def __init__(self, target: Path, overwrite: bool = False) -> None:
        self.target = target
        self.overwrite = overwrite
        self._folder: Path | None = None

    def __enter__(self) -> Staging:
        with _explained(self.target, self.target.parent):
            self._folder = _partial_folder(self.target)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._folder is not None:
            _remove(self._folder)

    def path(self, name: str) -> Path:
        """A path inside the folder."""
        if self._folder is None:
            raise RuntimeError("the staging folder is not open")
        return self._folder / name

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Turn any failure of a library inside into an :class:`OutputError` that says why."""
        with _explained(self.target, self.target.parent):
            yield

    def commit(self, files: Mapping[Path, Path], stale: Iterable[Path] = ()) -> None:
        """Flush ``files`` (made: final) to disk and rename them into place, the last one last.

        ``stale`` files are removed. If a step fails, the steps before it are undone, so that the old output
        stays with its sidecars. A single file is replaced atomically; a Zarr store, being a folder, is absent
        for the moment between two renames.
        """
        with self.explained():
            for made in files:
                _fsync_tree(made)
            if not self.overwrite and os.path.lexists(self.target):
                raise OutputLockedError("has been written by another run meanwhile", "compare the two", self.target)
            with contextlib.ExitStack() as undo:
                for number, old in enumerate(stale):
                    if os.path.lexists(old):
                        self._move(old, self.path(f"stale{number}"), undo)
                *before, last = files.items()
                for number, (made, final) in enumerate(before):
                    if os.path.lexists(final):
                        self._move(final, self.path(f"old{number}"), undo)
                    self._move(made, final, undo)
                made, final = last
                if final.is_dir() and not final.is_symlink():
                    self._move(final, self.path("old"), undo)
                os.replace(made, final)
                undo.pop_all()
            _fsync(self.target.parent)

    @staticmethod
    def _move(source: Path, goal: Path, undo: contextlib.ExitStack) -> None:
        os.replace(source, goal)
        undo.callback(os.replace, goal, source)


def _remove(folder: Path) -> None:
    """Remove ``folder``; a library's threads (zarr has some) may still be writing into it for a moment."""
    for pause in (0.0, 0.01, 0.1, 0.5, 1.0, 2.0):
        time.sleep(pause)
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot flush a folder; a file that cannot be flushed is a failure.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.EBADF, errno.ENOTSUP)):
            raise
    finally:
        os.close(handle)


def _fsync_tree(path: Path) -> None:
    if path.is_dir():
        for folder, _, names in os.walk(path, topdown=False):
            for name in names:
                _fsync(Path(folder, name))
            _fsync(Path(folder))
    else:
        _fsync(path)


@contextlib.contextmanager
def closing(close: Callable[[], None]) -> Iterator[None]:
    """``close()`` at the end; after a failure inside, a failure to close does not hide the first one."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):
            close()
        raise
    close()


@contextlib.contextmanager
def _explained(path: str | os.PathLike[str], folder: Path) -> Iterator[None]:
    try:
        yield
    except (GeosrError, MemoryError):
        raise
    except Exception as error:
        raise explain(error, path, folder) from error


def explain(error: BaseException, path: str | os.PathLike[str], folder: Path) -> OutputError:
    """The :class:`OutputError` for a library's ``error`` while writing to ``folder``."""
    # Errors of GDAL have an errno too, of their own meaning.
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT) or is_full(folder):
        return disk_full(path, folder)
    if number == errno.EFBIG:
        return OutputError("larger than the file size limit", "raise the limit (ulimit -f) or write elsewhere", path)
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"the folder {folder} is not writable", "choose another folder", path)
    text = " ".join(str(error).split()) or type(error).__name__
    return OutputError(f"could not be written ({text})", "check the disk and the creation options", path)


def disk_full(path: str | os.PathLike[str], folder: Path, needed: int | None = None) -> OutputError:
    """The :class:`OutputError` for a full disk."""
    need = f": {needed / 1e6:,.0f} MB needed, {shutil.disk_usage(folder).free / 1e6:,.0f} MB free" if needed else ""
    return OutputError(f"disk full{need}", f"free some space in {folder} or write elsewhere", path)


def is_full(folder: Path) -> bool:
    """No bytes, or no file entries, are left where ``folder`` is."""
    with contextlib.suppress(OSError):
        if hasattr(os, "statvfs"):
            status = os.statvfs(folder)
            return status.f_bavail * status.f_frsize < _FULL_BYTES or (status.f_files > 0 and status.f_favail == 0)
        return shutil.disk_usage(folder).free < _FULL_BYTES
    return False
