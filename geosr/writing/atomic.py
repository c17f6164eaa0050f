"""Outputs that appear whole or not at all.

Everything is made in a hidden folder beside the target, ``.<name>.partial``, on the same file system; verified there;
flushed to disk; and only then renamed into place, the manifest last (:mod:`~geosr.writing.manifest`). On any failure
the folder goes and what stood at the target stays. A run that is killed outright leaves that folder, never a half
target; one that is interrupted leaves it if there is work in it that is worth keeping. With its journal
(:mod:`~geosr.writing.journal`) a later run can go on.

The folder is locked while a run works in it: of two runs on one output the second is refused.

GDAL returns success on a full disk (most of the time), so "no exception" proves nothing: the writers read their
file back and compare it with checksums taken from the data (:mod:`geosr.writing.stream`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from geosr.errors import GeosrError, GeosrWarning, OutputError, OutputLockedError, ResourceError, UsageError
from geosr.writing import journal as journals
from geosr.writing.journal import Journal

#: What each suffix means.
SUFFIXES = {".tif": "GeoTIFF", ".tiff": "GeoTIFF", ".nc": "NetCDF", ".zarr": "Zarr"}

# Files of metadata in a Zarr store, and in each of its arrays and groups (formats 2 and 3).
_IN_STORE = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata", ".zarray")

#: What the name of a manifest adds to its output's.
MANIFEST = ".json"

# Files that GDAL and QGIS read together with <name>.tif. An old one would speak for the new raster: statistics
# (.aux.xml), overviews (.ovr), mask (.msk).
_GDAL_SIDECARS = (".aux.xml", ".ovr", ".msk")

# The file that says that a staging folder is one.
_MARK = "geosr-staging"

#: An interrupted run keeps its tiles for ``--resume`` if it has worked for so many seconds: less is sooner done again
#: than asked about.
KEEP_SECONDS = 10.0

# What linking says to folders, and on file systems that know no links.
_NO_LINK = (errno.EPERM, errno.EISDIR, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV, errno.EMLINK, errno.EACCES)

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
    beside = {MANIFEST: manifest_of(path)}
    if format_of(path) != "GeoTIFF":
        return beside
    found = {suffix: path.with_name(path.name + suffix) for suffix in _GDAL_SIDECARS}
    return {".qml": path.with_suffix(".qml"), **found, **beside}


def manifest_of(path: Path) -> Path:
    """Where the manifest of the output ``path`` lies (:mod:`~geosr.writing.manifest`)."""
    return path.with_name(_shortened(path.name, 250) + MANIFEST)


def _shortened(name: str, most: int) -> str:
    """File names may have 255 bytes, and an output's own may use them all."""
    return os.fsdecode(os.fsencode(name)[:most])


def check_apart(targets: Iterable[Path], sources: Iterable[Path]) -> None:
    """Raise a :class:`UsageError` if an output, or a file that goes with it, is one of the inputs, by whatever name, or
    is a folder (a Zarr store) that holds one.
    """
    sources, there = list(sources), dict[tuple[int, int], Path]()
    for source in sources:
        status = os.stat(source)
        there[status.st_dev, status.st_ino] = source
    for target in targets:
        whole = os.path.realpath(target)
        for source in sources:
            if os.path.realpath(source).startswith(whole + os.sep):
                raise UsageError(f"the output holds the input {source}", "name another output with -o", target)
        for file in (target, *sidecars(target).values()):
            try:
                status = os.stat(file)
            except OSError:
                continue
            if named := there.get((status.st_dev, status.st_ino)):
                what = "the output is" if file == target else f"{file.name}, which goes with the output, is"
                raise UsageError(f"{what} the input {named}", "name another output with -o", target)


class Stopped(OutputError):
    """The run was stopped: not a failure of this output."""


def check_target(path: str | os.PathLike[str], overwrite: bool = False, resume: bool = False) -> Path:
    """Everything that can be known to be wrong with the output before any computing.

    Parameters
    ----------
    path : the output; its suffix names the format.
    overwrite : an existing output may be replaced, and what an unfinished run has left.
    resume : what an unfinished run has left may be used.

    Returns
    -------
    Path, absolute.

    Raises
    ------
    UsageError
        Unknown suffix; a ``.zarr`` without the package zarr.
    OutputError
        The folder is missing or not writable, the output exists without ``overwrite``, or what exists there is
        not something that geosr replaces (a folder that is no Zarr store, a device); an unfinished run has left
        tiles.
    OutputLockedError
        Another run is writing it.
    """
    target = Path(os.path.abspath(path))
    kind = format_of(target)
    if kind == "Zarr":
        require_zarr()
    elif not _is_unicode(target):
        which = "its folder's name" if _is_unicode(target.name) else "the name"
        hint = "choose another with -o"
        raise OutputError(f"{which} is not UTF-8, as libraries of {kind} need it", hint, path)
    if not target.parent.is_dir():
        raise OutputError(f"the folder {target.parent} does not exist", "create it first", path)
    with _explained(path, target.parent), contextlib.suppress(FileNotFoundError):
        os.lstat(target)  # a name that is too long, say
    for file in (target, *sidecars(target).values()):
        if not os.path.lexists(file):
            continue
        _check_replaceable(file, is_store=kind == "Zarr" and file == target, path=path)
        if not overwrite:
            what = "exists" if file == target else f"{file.name} exists beside it"
            raise OutputError(what, "use --overwrite to replace it", path)
    with _explained(path, target.parent):
        folder = partial_folder(target)
        with _locked(folder, path):
            _check_leftovers(folder, overwrite or resume, path)
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
    return target


def _is_unicode(path: Path | str) -> bool:
    """Names on Linux are bytes; Python has surrogates for those that are no text."""
    try:
        return bool(str(path).encode())
    except UnicodeEncodeError:
        return False


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
        what = "is a folder" if file.name == os.path.basename(path) else f"{file.name} beside it is a folder"
        raise OutputError(what, "choose another name", path)
    entries = list(file.iterdir())
    if entries and not any((file / mark).is_file() for mark in marks):
        raise OutputError("is a folder that is not a Zarr store, and is not replaced", "choose another name", path)
    for entry in entries:
        known = any((entry / mark).is_file() for mark in _IN_STORE) if entry.is_dir() else entry.name in _IN_STORE
        if not known:
            raise OutputError(f"holds {entry.name}, which is no part of a Zarr store", "move it elsewhere", path)


def partial_folder(target: Path) -> Path:
    """The hidden folder in which ``target`` is made."""
    return target.with_name(f".{_shortened(target.name, 240)}.partial")


def _mark(folder: Path, path: str | os.PathLike[str]) -> None:
    """Make the folder ours; raise if it holds what is not."""
    mark = folder / _MARK
    if not mark.exists():
        if any(folder.iterdir()):
            what = f"{folder} is in the way: it holds files that are not geosr's"
            raise OutputError(what, "move them, or name another output with -o", path)
        try:
            mark.touch()
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
            raise


def remove_leftovers(target: Path) -> None:
    """Of a run that was killed when ``target`` was complete; not what another run is working in."""
    folder = partial_folder(target)
    with contextlib.suppress(OSError, OutputLockedError):
        if (folder / _MARK).exists():
            with _locked(folder, target):
                _remove(folder)
        elif folder.is_dir() and not folder.is_symlink():
            folder.rmdir()  # if it is empty: the mark goes last


def _check_leftovers(folder: Path, allowed: bool, path: str | os.PathLike[str]) -> None:
    if not allowed and (tiles := journals.count(folder)):
        what = f"an unfinished run has left {tiles} tiles in {folder}"
        raise OutputError(what, "--resume goes on with it, --overwrite starts anew", path)


@contextlib.contextmanager
def _locked(folder: Path, path: str | os.PathLike[str]) -> Iterator[None]:
    """Make ``folder`` where it is not there, and hold its lock."""
    while True:
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
        try:
            # A link would have us work, and clear, somewhere else.
            handle = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0))
        except FileNotFoundError:  # another run has just removed it
            continue
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise OutputError(f"{folder} is in the way: it is not a folder", "remove it", path) from error
            raise
        try:
            if not _lock(handle):
                what = "another run is writing it at this moment"
                raise OutputLockedError(what, "wait for it, or name another output with -o", path)
            try:
                current = os.stat(folder).st_ino == os.fstat(handle).st_ino
            except FileNotFoundError:
                current = False
            if current:
                yield
                return
        finally:
            os.close(handle)


def _lock(handle: int) -> bool:
    """Lock an open folder until it is closed, at the latest when the process ends; False if another holds it."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system: the last one that renames wins, whole
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)  # others: a file system without locks
    return True


@dataclass
class Written:
    """Outputs that this process has put in place, for whoever says what an interrupted run has done."""

    count: int = 0
    last: Path | None = None

    def note(self, target: Path) -> None:
        self.count, self.last = self.count + 1, target


WRITTEN = Written()


class Staging(contextlib.AbstractContextManager):
    """The hidden folder in which an output is made.

    >>> with Staging(target) as staging:                       # doctest: +SKIP
    ...     make(staging.path("out.tif"))
    ...     staging.commit({staging.path("out.tif"): target})

    Parameters
    ----------
    key : what is being made (:class:`~geosr.writing.journal.Journal`); None for what cannot be gone on with.
    resume : go on with what a run with the same key has left.

    Attributes
    ----------
    journal : of the run; None without ``key``.
    resumed : there were tiles to go on with.
    """

    def __init__(
        self, target: Path, overwrite: bool = False, key: Mapping[str, Any] | None = None, resume: bool = False
    ) -> None:
        self.target = target
        self.overwrite = overwrite
        self.key = key
        self.resume = resume
        self.journal: Journal | None = None
        self.resumed = False
        #: ``with explained():`` turns any failure of a library into an OutputError that says why; picklable.
        self.explained = partial(_explained, target, target.parent)
        self._folder: Path | None = None
        self._held = contextlib.ExitStack()
        self._started = time.monotonic()

    def __enter__(self) -> Staging:
        with contextlib.ExitStack() as held, _explained(self.target, self.target.parent):
            folder = partial_folder(self.target)
            held.enter_context(_locked(folder, self.target))
            _mark(folder, self.target)
            self.resumed = self._can_resume(folder)
            if not self.resumed:
                _check_leftovers(folder, self.overwrite or self.resume, self.target)
                journals.clear(folder, keep=_MARK)
            try:
                if self.key is not None:
                    self.journal = held.enter_context(Journal(folder, self.key))
            except BaseException:  # a disk that is full already, say: nothing else would remove the folder
                if not self.resumed:
                    _remove(folder)
                raise
            self._folder, self._held = folder, held.pop_all()
        return self

    def _can_resume(self, folder: Path) -> bool:
        """Are there tiles of the same run? Raises where they are of another, and may not be thrown away."""
        if not self.resume or self.key is None or not (tiles := journals.count(folder)):
            return False
        there = journals.key_of(folder)
        changed = journals.differences(there, self.key) if there is not None else ["journal"]
        if not changed:
            return True
        if changed in (["geosr"], ["journal"]):
            why = "the journal is damaged" if there is None else f"geosr {there.get('geosr')} made them"
            warnings.warn(GeosrWarning(f"{tiles} finished tiles are done again: {why}"), stacklevel=2)
        elif not self.overwrite:
            what = f"the unfinished run in {folder} had {journals.told(changed)}"
            raise journals.error_for(changed)(what, "--overwrite starts anew", self.target)
        return False

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        left = False
        with self._held:
            if self._folder is None:
                return
            if isinstance(error, (KeyboardInterrupt, SystemExit, Stopped)) and self._worth_keeping():
                error.kept = self._folder  # type: ignore[union-attr]
            else:
                _remove(self._folder)
                left = self._folder.exists()
        if left:
            remove_leftovers(self.target)  # where no file could be opened any more: now the lock's own is free
            if isinstance(error, ResourceError) and self._folder.exists():  # a cluster's tasks may remove it yet
                warnings.warn(GeosrWarning(f"{self._folder} could not be removed: remove it"), stacklevel=2)

    def _worth_keeping(self) -> bool:
        if self._folder is None or self.journal is None:
            return False
        return time.monotonic() - self._started >= KEEP_SECONDS and journals.count(self._folder) > 0

    def path(self, name: str) -> Path:
        """A path inside the folder."""
        if self._folder is None:
            raise RuntimeError("the staging folder is not open")
        return self._folder / name

    def commit(self, files: Mapping[Path, Path], stale: Iterable[Path] = ()) -> None:
        """Flush ``files`` (made: final) to disk and rename them into place, in their order: the target first but for
        what belongs to it, the manifest last.

        ``stale`` files, and an old manifest, are removed before. If a step fails, the steps before it are undone, so
        that the old output stays with its sidecars. The target is replaced atomically: who looks sees the old one or
        the new one, whole; a Zarr store, being a folder, is absent for the moment between two renames.
        """
        with self.explained():
            for made in files:
                _fsync_tree(made)
            if not self.overwrite and os.path.lexists(self.target):
                raise OutputLockedError("has been written by another run meanwhile", "compare the two", self.target)
            with contextlib.ExitStack() as undo:
                for number, old in enumerate(dict.fromkeys([manifest_of(self.target), *stale])):
                    if os.path.lexists(old):
                        self._move(old, self.path(f"stale{number}"), undo)
                for number, (made, final) in enumerate(files.items()):
                    self._replace(made, final, self.path(f"old{number}"), undo)
                undo.pop_all()
                WRITTEN.note(self.target)
            _fsync(self.target.parent)

    def _replace(self, made: Path, final: Path, aside: Path, undo: contextlib.ExitStack) -> None:
        if not os.path.lexists(final):
            self._move(made, final, undo)
            return
        try:
            # A second name for what is there: it can be put back, and is never gone.
            os.link(final, aside, follow_symlinks=False)
        except (OSError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LINK:
                raise
            self._move(final, aside, undo)
            self._move(made, final, undo)
        else:
            undo.callback(os.replace, aside, final)
            os.replace(made, final)

    @staticmethod
    def _move(source: Path, goal: Path, undo: contextlib.ExitStack) -> None:
        os.replace(source, goal)
        undo.callback(os.replace, goal, source)


def _remove(folder: Path) -> None:
    """Remove ``folder``, whatever asks for the end meanwhile."""
    try:
        _try_to_remove(folder)
    except BaseException:
        _try_to_remove(folder)
        raise


def _try_to_remove(folder: Path) -> None:
    """A library's threads (zarr has some) may still be writing into it for a moment."""
    for pause in (0.0, 0.01, 0.1, 0.5, 1.0, 2.0):
        time.sleep(pause)
        with contextlib.suppress(OSError):
            journals.clear(folder, keep=_MARK)  # first: without its mark nobody would dare to remove the rest
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


def explain(error: BaseException, path: str | os.PathLike[str], folder: Path) -> GeosrError:
    """The :class:`OutputError` for a library's ``error`` while writing to ``folder``; a :class:`ResourceError` where
    this process may open no more files.
    """
    # Errors of GDAL have an errno too, of their own meaning.
    number = error.errno if isinstance(error, OSError) else None
    # Before room is asked about: a read-only disk has none.
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"the folder {folder} is not writable", "choose another folder", path)
    if number in (errno.EMFILE, errno.ENFILE):
        return ResourceError("too many open files", "raise the limit (ulimit -n), or use fewer --threads", path)
    if number in (errno.ENOSPC, errno.EDQUOT) or is_full(folder):
        return disk_full(path, folder)
    if number == errno.ENAMETOOLONG:
        return OutputError("the name is too long for this file system", "choose a shorter one", path)
    if number == errno.EFBIG:
        return OutputError("larger than the file size limit", "raise the limit (ulimit -f) or write elsewhere", path)
    text = " ".join(str(error).split()) or type(error).__name__
    if "can't start new thread" in text:  # a RuntimeError of CPython
        return ResourceError("no more threads can be started", "raise the limit (ulimit -u)", path)
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
