"""The structure of a TIFF file, checked without a library: does everything lie in the file, and is it of sane size?

GDAL reads a block that is not there as 0, passes over a tag that it cannot read (nodata, scale, georeference), and
takes memory by what a file declares. Directories are walked as TIFF 6.0 and BigTIFF have them; no number that the file
declares decides how much is allocated or how long it takes.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from geosr.errors import InputError, RefusedError
from geosr.reading.limits import Limits
from geosr.reading.limits import limits as current_limits

# Field type -> struct code and bytes of one value (TIFF 6.0, section 2; BigTIFF). An unknown type counts as bytes.
_TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_OFFSETS, _COUNTS = (273, 324), (279, 325)  # strips, tiles (TIFF 6.0, sections 3 and 15)
_WIDTH, _LENGTH, _BITS, _COMPRESSION, _SAMPLES, _ROWS, _PLANAR = 256, 257, 258, 259, 277, 278, 284
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_UNCOMPRESSED, _SEPARATE = 1, 2
_MOST_TAGS = 65_535  # of a directory; in a classic TIFF there cannot be more


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


class _Tiff:
    """An open TIFF. ``room`` is what may still be read: parts that share bytes could keep us busy for ever."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size, self.room = file, size, 2 * size + 4096

    def take(self, at: int, n: int) -> bytes:
        """``n`` bytes at the place ``at``."""
        self.room -= n
        if self.room < 0 or at + n > self.size:
            raise EOFError
        self.file.seek(at)
        data = self.file.read(n)
        if len(data) < n:
            raise EOFError
        return data

    def directories(self) -> Iterator[dict[int, _Entry]]:
        """The image file directories, in the order of their chain; a chain that runs in a circle ends there."""
        head = self.take(0, min(16, self.size))
        order = "<" if head[:2] == b"II" else ">"
        big = struct.unpack_from(order + "H", head, 2)[0] == 43
        at = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0]
        count, link = (order + "Q", order + "Q") if big else (order + "H", order + "I")
        item = order + ("HHQ8s" if big else "HHI4s")
        seen: set[int] = set()
        while not seen or (at and at not in seen):
            seen.add(at)
            n = struct.unpack(count, self.take(at, struct.calcsize(count)))[0]
            at += struct.calcsize(count)
            if n > _MOST_TAGS:
                raise EOFError
            entries = struct.iter_unpack(item, self.take(at, n * struct.calcsize(item)))
            at += n * struct.calcsize(item)
            tags: dict[int, _Entry] = {}
            for tag, kind, number, value in entries:
                tags.setdefault(tag, _Entry(order, kind, number, value))  # of duplicates libtiff takes the first
            yield tags
            at = struct.unpack(link, self.take(at, struct.calcsize(link)))[0]

    def values(self, entry: _Entry | None) -> np.ndarray | None:
        """The values of an entry of integers; None for others."""
        if entry is None or entry.kind not in _TYPES:
            return None
        dtype = np.dtype(entry.order + _TYPES[entry.kind])
        return np.frombuffer(entry.value[: entry.size] if entry.inline else self.take(entry.place, entry.size), dtype)

    def number(self, tags: dict[int, _Entry], tag: int, default: int) -> int:
        """The first value of a tag, as libtiff takes it."""
        values = self.values(tags.get(tag))
        return int(values[0]) if values is not None and len(values) else default


@dataclass(frozen=True)
class _Image:
    """What a directory declares. A strip is a block as wide as the image."""

    width: int
    length: int
    samples: int
    bits: int
    compression: int
    separate: bool
    block: tuple[int, int]  # rows, columns
    tiled: bool

    @classmethod
    def of(cls, tiff: _Tiff, tags: dict[int, _Entry]) -> _Image:
        width, length = tiff.number(tags, _WIDTH, 0), tiff.number(tags, _LENGTH, 0)
        tiled = _TILE_WIDTH in tags
        rows = tiff.number(tags, _TILE_LENGTH, 0) if tiled else min(tiff.number(tags, _ROWS, length), length)
        bits = tiff.values(tags.get(_BITS))
        return cls(
            width,
            length,
            tiff.number(tags, _SAMPLES, 1),
            max((int(b) for b in bits[:1024]), default=1) if bits is not None else 1,
            tiff.number(tags, _COMPRESSION, _UNCOMPRESSED),
            tiff.number(tags, _PLANAR, 1) == _SEPARATE,
            (rows, tiff.number(tags, _TILE_WIDTH, 0) if tiled else width),
            tiled,
        )

    @property
    def blocks(self) -> int:
        """How many blocks the image is made of."""
        rows, cols = (max(1, n) for n in self.block)
        return -(-self.length // rows) * -(-self.width // cols) * (self.samples if self.separate else 1)

    @property
    def block_megabytes(self) -> float:
        return self.block[0] * self.block[1] * (1 if self.separate else self.samples) * self.bits / 8e6

    def check(self, limits: Limits, file_bytes: int) -> None:
        """Raise :class:`RefusedError` where the image is beyond a limit."""
        limits.check("bands", self.samples, f"{self.samples} bands")
        size = f"{self.length} x {self.width}"
        limits.check_cells(self.width * self.length, file_bytes, size)
        # libtiff cuts an uncompressed image of one strip in small strips.
        if self.tiled or self.compression != _UNCOMPRESSED or self.block[0] < self.length:
            rows, cols = self.block
            what = f"one block has {rows} x {cols} pixels, {self.block_megabytes:.0f} MB unpacked"
            limits.check("block", self.block_megabytes, what)


def check_tiff_blocks(path: str | os.PathLike[str], limits: Limits | None = None) -> int:
    """Does everything that the directories of a TIFF point to lie inside the file, and is the file within the limits?

    Tags are lost without a word otherwise: libtiff passes over one that it cannot read, and with it go nodata
    value, scale and offset, or the georeference.

    Returns
    -------
    The number of missing ("sparse") blocks of the first image, which GDAL reads as 0 or nodata.

    Raises
    ------
    InputError
        If a block, the values of a tag, or a directory itself, lies beyond the end of the file.
    RefusedError
        If an image has too many pixels for its file, too many bands, too large blocks, or if there are too many images.
    """
    limits = current_limits() if limits is None else limits
    size = os.path.getsize(path)
    missing: list[int] = []
    with open(path, "rb") as file:
        tiff = _Tiff(file, size)
        try:
            for tags in tiff.directories():
                limits.check("directories", len(missing) + 1, f"{len(missing) + 1} images in one file", more=True)
                image = _Image.of(tiff, tags)
                image.check(limits, size)
                missing.append(_check_blocks(tiff, tags, image, path))
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
        except RefusedError as error:
            error.path = os.fspath(path)
            raise
    return missing[0] if missing else 0


def _check_blocks(tiff: _Tiff, tags: dict[int, _Entry], image: _Image, path: str | os.PathLike[str]) -> int:
    """Number of missing blocks of an image; raises if one lies beyond the end."""
    offsets = next((tiff.values(tags[t]) for t in _OFFSETS if t in tags), None)
    counts = next((tiff.values(tags[t]) for t in _COUNTS if t in tags), None)
    if offsets is None:
        return image.blocks if image.width and image.length else 0
    absent = max(0, image.blocks - len(offsets))
    if counts is None or len(offsets) != len(counts):
        return absent  # odd, but libtiff may cope: let it try
    ends = offsets.astype(np.float64) + counts
    if ends.max(initial=0) > tiff.size:
        short = int((ends > tiff.size).sum())
        raise InputError(
            f"truncated: {short} of {len(ends)} blocks lie beyond the end of the file ({tiff.size} bytes)",
            "download it again",
            path,
        )
    return absent + int((counts == 0).sum())
