"""Blocks on their way into a GeoTIFF: compressed by the tasks of the tiles, gathered, laid out, copied.

Each process that computes appends its blocks to files of its own in the staging folder, one for each layer and row of
tiles, which stay until all is done, for a run that goes on with them; what travels from there is where the blocks lie,
their sizes and checksums. A tile gives its blocks of every overview on which it has blocks to itself
(with tiles of 1024 cells and blocks of 512: the first); of the next overview it leaves its uncompressed share, of
which :func:`finish_overviews` makes the rest of the pyramid at the end, one block after the other.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np

from geosr.errors import GeosrError, OutputError
from geosr.writing.codec import Codec, Pyramid, half, missing
from geosr.writing.ledger import crc32, crc_of
from geosr.writing.stream import Landed, Place, Window

#: Where one block (or share of an overview) lies: layer, place in the pyramid (of a share: row and column of its first
#: cell), offset in the file of the process that made it (-1: a block without values, not stored), bytes, CRC-32.
ENTRY = ("field", "lead", "level", "y", "x", "offset", "size", "crc")
_PLACED = np.dtype([("file", "u4"), ("offset", "i8"), ("size", "u4"), ("crc", "u4")])

_NO_VALUES = -1
_UNSET = (0, -2, 0, 0)

# One block in so many is decoded in the end, all of a file that has few.
_SAMPLE = 16
_FEW = 16

# Files that are open for reading at once.
_OPEN_FILES = 64

# What the kernel says where it does not copy between two files: of two file systems, or of one that has no way to.
_CANNOT_COPY = (errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EPERM)

# Blocks that one thread copies or compares in a row.
_RUN = 32

# Threads of one process append to its file one after the other.
_APPENDING = threading.Lock()
_PROCESS = secrets.token_hex(8)


#: What one tile has stored: the process that did, :data:`ENTRY` of each block, and of some blocks (field, lead, row,
#: column, checksum of the values).
Record = tuple[str, list[tuple[int, ...]], list[tuple[int, ...]]]


@dataclass(frozen=True)
class BlockSink:
    """Compresses a tile and appends it to this process's file (:data:`~geosr.writing.stream.Sink`).

    Attributes
    ----------
    folder : the staging folder; on a cluster, one that all workers see.
    shared : the level on which tiles share blocks (:meth:`~geosr.writing.codec.Pyramid.shared_level`).
    """

    folder: Path
    pyramid: Pyramid
    codec: Codec
    overview_codec: Codec
    resampling: str
    shared: int

    def __call__(self, place: Place, windows: list[Window]) -> Record:
        process = f"{_PROCESS}-{os.getpid()}"
        entries: list[tuple[int, ...]] = []
        checks: dict[tuple[int, int, int, int], int] = {}
        for window in windows:
            checks |= self._checks(place, window)
            pieces = list(self._pieces(place, window.values))
            parts = [data for *_, data in pieces if data is not None]
            end = self._append(_file_name(process, window.field, window.lead, place.top), parts)
            for level, y, x, data in pieces:
                stored = (_NO_VALUES, 0, 0) if data is None else (end, len(data), crc32(data))
                entries.append((window.field, window.lead, level, y, x, *stored))
                end += len(data or b"")
        return process, entries, [(*place, crc) for place, crc in checks.items()]

    def _pieces(self, place: Place, values: np.ndarray) -> Iterator[tuple[int, int, int, bytes | None]]:
        """(level, y, x, bytes or None for nothing but NaN) of the blocks of one layer, then of its share."""
        empty = bool(np.isnan(values).all())
        for level in self.pyramid.levels:
            if level:
                values = half(values, "NEAREST" if empty else self.resampling)
            top, left = place.top >> level, place.left >> level
            if level == self.shared:
                yield level, top, left, None if empty else np.ascontiguousarray(values).tobytes()
                return
            side = self.pyramid.block
            down, across = -(-values.shape[0] // side), -(-values.shape[1] // side)
            codec = self.overview_codec if level else self.codec
            found = [None] * (down * across) if empty else codec.encode(values)
            for number, data in enumerate(found):
                yield level, top // side + number // across, left // side + number % across, data

    def _checks(self, place: Place, window: Window) -> dict[tuple[int, int, int, int], int]:
        side, found = self.pyramid.block, {}
        for y in range(place.top // side, -(-place.bottom // side)):
            for x in range(place.left // side, -(-place.right // side)):
                if is_sampled(self.pyramid, y, x):
                    top, left = y * side - place.top, x * side - place.left
                    found[window.field, window.lead, y, x] = crc_of(window.values[top : top + side, left : left + side])
        return found

    def _append(self, name: str, parts: list[bytes]) -> int:
        """Where the first one begins."""
        if not parts:
            return 0
        try:
            # Opened each time: on a network file system closing is what makes the bytes visible to others.
            with _APPENDING, open(self.folder / name, "ab") as file:
                base = file.tell()
                file.writelines(parts)
        except FileNotFoundError as error:
            hint = "workers need a file system that they share with this machine"
            raise OutputError(f"the folder {self.folder} is not there for a worker", hint) from error
        return base


def _file_name(process: str, number: int, lead: int, top: int) -> str:
    return f"blocks-{process}-{number}-{lead}-{top}"


def is_sampled(pyramid: Pyramid, y: int, x: int) -> bool:
    """Is this block of the full resolution one of those whose values are compared in the end?"""
    rows, cols = pyramid.blocks(0)
    return rows * cols <= _FEW or (y * 7 + x * 3 + (y // _SAMPLE)) % _SAMPLE == 0


@dataclass
class Directory:
    """Where the blocks of all layers lie, as records come in; a tile that is stored twice counts once.

    Attributes
    ----------
    bands : number of the band of each (field, lead), from 0.
    edges : rows and columns where the tiles begin and end.
    """

    folder: Path
    pyramid: Pyramid
    bands: dict[tuple[int, int], int]
    edges: tuple[tuple[int, ...], ...]
    shared: int
    checks: dict[tuple[int, int, int, int], int] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)

    @cached_property
    def levels(self) -> list[np.ndarray]:
        """Of each level: entries (band, row, column) of its blocks."""
        sizes = [(len(self.bands), *self.pyramid.blocks(k)) for k in self.pyramid.levels]
        return [np.full(size, np.array(_UNSET, dtype=_PLACED)) for size in sizes]

    @cached_property
    def shares(self) -> np.ndarray:
        """Entries (band, tile row, tile column) of the shares of the level on which tiles share blocks."""
        size = (len(self.bands), len(self.edges[0]) - 1, len(self.edges[1]) - 1)
        return np.full(size, np.array(_UNSET, dtype=_PLACED))

    def take(self, landed: Landed) -> None:
        record: Record = landed.record
        process, entries, checks = record
        self.checks |= {(f, lead, y, x): crc for f, lead, y, x, crc in checks}
        for f, lead, level, y, x, *stored in entries:
            band, number = self.bands[f, lead], self.number(_file_name(process, f, lead, landed.place.top))
            placed = (number, *stored)
            if level == self.shared:
                rows, cols = ([e >> level for e in axis[:-1]] for axis in self.edges)
                self.shares[band, bisect_right(rows, y) - 1, bisect_right(cols, x) - 1] = placed
            else:
                self.levels[level][band, y, x] = placed

    def intact(self, landed: Landed) -> bool:
        """Is what an earlier run has stored of this tile there, to the bit?"""
        try:
            process, entries, checks = landed.record
            wanted = {(f, lead, *at) for f, lead, _ in landed.tiles for at in self.places(landed.place)}
            if not all(set(map(type, item)) == {int} for item in (*entries, *checks)) or "/" in process:
                return False
            stored = [tuple(item[:5]) for item in entries]
            if sorted(stored) != sorted(wanted) or not {(f, lead) for f, lead, *_ in wanted} <= set(self.bands):
                return False
            if not all((f, lead, 0, y, x) in wanted for f, lead, y, x, _ in checks):
                return False
            for f, lead, _, _, _, offset, size, crc in entries:
                if offset != _NO_VALUES:
                    with open(self.folder / _file_name(process, f, lead, landed.place.top), "rb") as file:
                        file.seek(offset)
                        if crc32(file.read(size)) != crc:
                            return False
        except (OSError, ValueError, TypeError):
            return False
        return True

    def places(self, place: Place) -> Iterator[tuple[int, int, int]]:
        """(level, y, x) of all that the tile at ``place`` stores of one layer, as :class:`BlockSink` does."""
        rows, cols = place.bottom - place.top, place.right - place.left
        for level in self.pyramid.levels:
            top, left = place.top >> level, place.left >> level
            if level == self.shared:
                yield level, top, left
                return
            side = self.pyramid.block
            for y in range(-(-rows // side)):
                for x in range(-(-cols // side)):
                    yield level, top // side + y, left // side + x
            rows, cols = -(-rows // 2), -(-cols // 2)

    def number(self, name: str) -> int:
        """Of a file in the staging folder."""
        return self.files.setdefault(name, len(self.files))

    def check_complete(self) -> None:
        for level, entries in enumerate(self.levels):
            if (entries["offset"] == _UNSET[1]).any():
                raise GeosrError(f"blocks of level {level} were not written", "report this bug")

    def open(self) -> Blocks:
        return Blocks(self)


class Blocks:
    """The files of a :class:`Directory`, for reading; a few are open at a time."""

    def __init__(self, directory: Directory) -> None:
        self._paths = [directory.folder / name for name in directory.files]
        self._open: dict[int, BinaryIO] = {}
        self._reading = threading.Lock()

    def __enter__(self) -> Blocks:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def _close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()

    def read(self, entry: np.void) -> bytes:
        """The bytes of one block or share."""
        with self._reading:
            file = self._file(entry)
            file.seek(int(entry["offset"]))
            return file.read(int(entry["size"]))

    def copy(self, entry: np.void, onto: int, offset: int) -> bytes:
        """Write one block into the file of descriptor ``onto``, at ``offset``; its last 4 bytes.

        The kernel copies where it can: the bytes need no pages of this process.
        """
        start, size = int(entry["offset"]), int(entry["size"])
        with self._reading:
            source = self._file(entry).fileno()
            if _copied(source, onto, size, start, offset):
                return os.pread(source, 4, start + size - 4)
        data = self.read(entry)
        if len(data) != size:
            raise OutputError("a block in the staging folder is cut short", "check the disk")
        _write(onto, data, offset)
        return data[-4:]

    def _file(self, entry: np.void) -> BinaryIO:
        number = int(entry["file"])
        if number not in self._open:
            if len(self._open) >= _OPEN_FILES:
                self._close()
            self._open[number] = open(self._paths[number], "rb")  # noqa: SIM115
        return self._open[number]


def _copied(source: int, onto: int, count: int, start: int, offset: int) -> bool:
    """Has the kernel copied ``count`` bytes from file to file? It may not know how to between these."""
    if not hasattr(os, "copy_file_range"):  # of Linux
        return False
    while count:
        try:
            done = os.copy_file_range(source, onto, count, start, offset)
        except OSError as error:
            if error.errno in _CANNOT_COPY:
                return False
            raise
        if not done:
            return False
        count, start, offset = count - done, start + done, offset + done
    return True


def _write(file: int, data: bytes, offset: int) -> None:
    left = memoryview(data)
    while left:
        done = os.pwrite(file, left, offset)
        left, offset = left[done:], offset + done


def finish_overviews(directory: Directory, codec: Codec, resampling: str, threads: int = 1) -> None:
    """Make the blocks of the overviews that no tile has to itself, depth first: a few blocks in memory at a time."""
    from concurrent.futures import ThreadPoolExecutor

    top = directory.pyramid.overviews
    if directory.shared > top:
        return
    with _Appended(directory) as appended, directory.open() as blocks:
        work = _Overviews(directory, blocks, appended, codec, resampling)
        rows, cols = directory.pyramid.blocks(top)
        with ThreadPoolExecutor(threads) as pool:
            jobs = ((b, y, x) for b in range(len(directory.bands)) for y in range(rows) for x in range(cols))
            for _ in pool.map(lambda job: work.build(top, *job).size, jobs):
                pass


class _Appended:
    """The file for blocks that are made at the end."""

    def __init__(self, directory: Directory) -> None:
        self.number = directory.number("blocks-overviews")
        self._file = open(directory.folder / "blocks-overviews", "wb")  # noqa: SIM115
        self._lock = threading.Lock()

    def __enter__(self) -> _Appended:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def add(self, data: bytes) -> tuple[int, int, int, int]:
        with self._lock:
            offset = self._file.tell()
            self._file.write(data)
        return self.number, offset, len(data), crc32(data)


@dataclass(frozen=True)
class _Overviews:
    directory: Directory
    blocks: Blocks
    appended: _Appended
    codec: Codec
    resampling: str

    def build(self, level: int, band: int, y: int, x: int) -> np.ndarray:
        """The share of one block in the next level, after it and all under it have been stored."""
        pyramid = self.directory.pyramid
        side = pyramid.block
        rows, cols = pyramid.size(level)
        shape = min(side, rows - y * side), min(side, cols - x * side)
        if level == self.directory.shared:
            values = self._from_shares(band, y * side, x * side, shape)
        else:
            values = self._from_children(level - 1, band, 2 * y, 2 * x)
        empty = np.isnan(values).all()
        placed = (0, _NO_VALUES, 0, 0) if empty else self.appended.add(self.codec.encode(values)[0])
        self.directory.levels[level][band, y, x] = placed
        return half(values, self.resampling)

    def _from_children(self, level: int, band: int, y: int, x: int) -> np.ndarray:
        down, across = self.directory.pyramid.blocks(level)
        return np.block(
            [[self.build(level, band, j, i) for i in range(x, min(x + 2, across))] for j in range(y, min(y + 2, down))]
        )

    def _from_shares(self, band: int, top: int, left: int, shape: tuple[int, int]) -> np.ndarray:
        values = np.full(shape, np.nan, np.float32)
        level = self.directory.shared
        ends = self.directory.pyramid.size(level)
        rows, cols = (
            [*(e >> level for e in axis[:-1]), end] for axis, end in zip(self.directory.edges, ends, strict=True)
        )
        for j in _overlapping(rows, top, top + shape[0]):
            for i in _overlapping(cols, left, left + shape[1]):
                entry = self.directory.shares[band, j, i]
                if entry["offset"] == _NO_VALUES:
                    continue
                data = self.blocks.read(entry)
                if crc32(data) != entry["crc"]:
                    raise OutputError("overviews in the staging folder read back differently", "check the disk")
                share = np.frombuffer(data, np.float32).reshape(rows[j + 1] - rows[j], cols[i + 1] - cols[i])
                _paste(values, share, rows[j] - top, cols[i] - left)
        return values


def _overlapping(edges: list[int], start: int, stop: int) -> Iterable[int]:
    return range(bisect_right(edges, start) - 1, bisect_right(edges, stop - 1))


def _paste(onto: np.ndarray, what: np.ndarray, top: int, left: int) -> None:
    """``what`` onto ``onto`` with its corner at (top, left), which may lie outside."""
    y, x = max(top, 0), max(left, 0)
    part = what[y - top : onto.shape[0] - top, x - left : onto.shape[1] - left]
    onto[y : y + part.shape[0], x : x + part.shape[1]] = part


def copy_blocks(
    directory: Directory, made: Path, level: int, offsets: np.ndarray, sizes: np.ndarray, codec: Codec
) -> None:
    """Write the blocks of one level into the file ``made``, where ``offsets`` says, each between its size and its last
    bytes (:func:`geosr.writing.tiff.layout`).

    By one thread: a file takes one write at a time, and a second thread spends its time waiting for the first.
    """
    entries = directory.levels[level].reshape(-1)
    with directory.open() as blocks, open(made, "r+b", buffering=0) as file:
        number = file.fileno()
        for entry, offset, size in zip(entries, offsets.tolist(), sizes.tolist(), strict=True):
            if not size:
                continue
            if entry["offset"] == _NO_VALUES:
                data = missing(codec)
                _write(number, data, offset)
                last = data[-4:]
            else:
                last = blocks.copy(entry, number, offset)
            _write(number, size.to_bytes(4, "little"), offset - 4)
            _write(number, last, offset + size)


def in_runs(call: Callable[[slice], None], count: int, threads: int) -> None:
    """``call`` with one stretch of ``range(count)`` after the other, by several threads."""
    from concurrent.futures import ThreadPoolExecutor

    runs = [slice(start, min(start + _RUN, count)) for start in range(0, count, _RUN)]
    with ThreadPoolExecutor(max(1, min(threads, len(runs)))) as pool:
        for _ in pool.map(call, runs):
            pass


def sizes_of(directory: Directory, level: int, codec: Codec, sparse: bool) -> np.ndarray:
    """Bytes of each block of a level, in the file's order; 0 for what is left out."""
    entries = directory.levels[level].reshape(-1)
    empty = 0 if sparse else len(missing(codec))
    return np.where(entries["offset"] == _NO_VALUES, empty, entries["size"]).astype(np.int64)


def crcs_of(directory: Directory, level: int, codec: Codec) -> np.ndarray:
    """CRC-32 of each block of a level, in the file's order."""
    entries = directory.levels[level].reshape(-1)
    return np.where(entries["offset"] == _NO_VALUES, crc32(missing(codec)), entries["crc"])
