"""The header of a Cloud-Optimised GeoTIFF, written by hand: IFDs first, smallest overview's blocks first.

Blocks are compressed where they are computed and copied into place, so their offsets are known before the file is
begun. No library writes a header around blocks that exist already (tifffile and GDAL both want the pixels), and a TIFF
header is short: TIFF 6.0 section 2, BigTIFF (https://libtiff.gitlab.io/libtiff/specification/bigtiff.html), and GDAL's
hidden area behind the first 8 or 16 bytes, by which readers know the order of IFDs and blocks
(https://gdal.org/drivers/raster/cog.html#header-ghost-area). What GDAL knows better, keys of the CRS above all, is
taken from a tiny file that GDAL writes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import numpy as np

#: Bytes of each TIFF field type.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_ASCII, _SHORT, _LONG, _LONG8 = 2, 3, 4, 16

NEW_SUBFILE_TYPE, WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC = 254, 256, 257, 258, 259, 262
SAMPLES, PLANAR, PREDICTOR, TILE_WIDTH, TILE_LENGTH = 277, 284, 317, 322, 323
OFFSETS, BYTE_COUNTS, EXTRA_SAMPLES, SAMPLE_FORMAT = 324, 325, 338, 339
GDAL_METADATA, GDAL_NODATA, LERC_PARAMETERS = 42112, 42113, 50674

#: What a decoder needs to know, from the tiny file with the same compression.
CODING = (COMPRESSION, PREDICTOR, LERC_PARAMETERS)
#: What says where the raster lies and what it is: geometry and keys of the CRS, DateTime, Software, nodata.
MEANING = (305, 306, 33550, 33922, 34264, 34735, 34736, 34737, GDAL_NODATA)

# A classic TIFF holds offsets below 4 GiB.
_CLASSIC_BYTES = (1 << 32) - 1


@dataclass(frozen=True)
class Field:
    """One field of an IFD: its TIFF type, and its values as little-endian bytes."""

    kind: int
    data: bytes

    @property
    def count(self) -> int:
        return len(self.data) // _SIZES[self.kind]


def shorts(*values: int) -> Field:
    return Field(_SHORT, struct.pack(f"<{len(values)}H", *values))


def longs(*values: int) -> Field:
    return Field(_LONG, struct.pack(f"<{len(values)}I", *values))


def text(value: str) -> Field:
    return Field(_ASCII, value.encode() + b"\0")


def fields_of(file: bytes) -> dict[int, Field]:
    """The fields of the first IFD of a classic little-endian TIFF, by tag."""
    if file[:4] != b"II*\0":
        raise ValueError(f"not a classic little-endian TIFF: it begins with {file[:4]!r}")
    (start,) = struct.unpack_from("<I", file, 4)
    (count,) = struct.unpack_from("<H", file, start)
    found = {}
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, number = struct.unpack_from("<HHI", file, at)
        size = number * _SIZES[kind]
        (offset,) = struct.unpack_from("<I", file, at + 8) if size > 4 else (at + 8,)
        found[tag] = Field(kind, file[offset : offset + size])
    return found


def metadata(tags: Mapping[str, str], bands: Sequence[Mapping[str, Any]]) -> Field:
    """GDAL's XML: ``tags`` of the dataset; of each band ``description``, ``unit`` and ``tags``.

    Written here because GDAL's own writer drops it beyond 32 000 characters, which a month of daily bands has.
    """
    root = ElementTree.Element("GDALMetadata")

    def add(name: str, value: str, **attributes: str) -> None:
        item = ElementTree.SubElement(root, "Item", {"name": _legal(name), **attributes})
        item.text = escape(_legal(value))  # once more than XML needs: GDAL's reader resolves entities twice

    for name, value in tags.items():
        add(name, value)
    for number, band in enumerate(bands):
        sample = str(number)
        for name, value in band["tags"].items():
            add(name, value, sample=sample)
        add("DESCRIPTION", band["description"], sample=sample, role="description")
        if band["unit"]:
            add("UNITTYPE", band["unit"], sample=sample, role="unittype")
    ElementTree.indent(root)
    return text(ElementTree.tostring(root, "unicode") + "\n")


def _legal(value: str) -> str:
    """``value`` without what XML cannot hold."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in value)


@dataclass(frozen=True)
class Level:
    """One image of the file, its blocks of all bands in the order of TIFF (band by band, row by row).

    Attributes
    ----------
    fields : the IFD without offsets and sizes of blocks.
    sizes : bytes of each block, int64; 0 for a block that is left out.
    """

    fields: Mapping[int, Field]
    sizes: np.ndarray


@dataclass(frozen=True)
class Layout:
    """Where everything lies.

    Attributes
    ----------
    header : all bytes before the first block.
    offsets : of each block, per level; 0 where it is left out.
    size : of the file.
    """

    header: bytes
    offsets: tuple[np.ndarray, ...]
    size: int


def layout(levels: Sequence[Level], bands: int, bigtiff: str = "IF_NEEDED") -> Layout:
    """The layout of a COG with ``levels`` (full resolution first).

    Each block has its size before it and its last 4 bytes repeated after it, as GDAL's COG driver does: a reader over
    the net gets size and data in one request.

    Raises
    ------
    ValueError
        ``bigtiff`` is "NO" and the file would be larger than 4 GiB.
    """
    big = bigtiff == "YES"
    while True:
        start = len(_header(levels, [np.zeros_like(level.sizes) for level in levels], bands, big))
        offsets: list[np.ndarray] = []
        end = start
        for level in reversed(levels):
            room = np.where(level.sizes > 0, level.sizes + 8, 0)
            first = end + np.cumsum(room) - room + 4
            offsets.insert(0, np.where(level.sizes > 0, first, 0))
            end += int(room.sum())
        if end > _CLASSIC_BYTES and not big:
            if bigtiff == "NO":
                raise ValueError(f"BIGTIFF=NO, but the file has {end / 2**30:.1f} GiB and TIFF holds 4")
            big = True
            continue
        return Layout(_header(levels, offsets, bands, big), tuple(offsets), end)


def _header(levels: Sequence[Level], offsets: Sequence[np.ndarray], bands: int, big: bool) -> bytes:
    order = "INTERLEAVE=BAND\n" if bands > 1 else ""
    body = (
        "LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
        f"BLOCK_TRAILER=LAST_4_BYTES_REPEATED\n{order}KNOWN_INCOMPATIBLE_EDITION=NO\n "
    )
    ghost = f"GDAL_STRUCTURAL_METADATA_SIZE={len(body):06d} bytes\n{body}".encode()
    made = bytearray((16 if big else 8) + len(ghost))
    made[16 if big else 8 :] = ghost
    links = [8 if big else 4]  # where the offset of the next IFD stands
    for level, places in zip(levels, offsets, strict=True):
        made += bytes(-len(made) % 16)
        struct.pack_into("<Q" if big else "<I", made, links[-1], len(made))
        kind, dtype = (_LONG8, "<u8") if big else (_LONG, "<u4")
        fields = {
            **level.fields,
            OFFSETS: Field(kind, places.astype(dtype).tobytes()),
            BYTE_COUNTS: Field(_LONG, level.sizes.astype("<u4").tobytes()),
        }
        links.append(_append_ifd(made, fields, big))
    made[: 8 if big else 4] = struct.pack("<2sHHH", b"II", 43, 8, 0) if big else b"II*\0"
    return bytes(made)


def _append_ifd(made: bytearray, fields: Mapping[int, Field], big: bool) -> int:
    """Append an IFD and what its fields hold; where its link to the next one stands."""
    count, entry, inline, number = ("<Q", "<HHQ", 8, "<Q") if big else ("<H", "<HHI", 4, "<I")
    rows = bytearray(struct.pack(count, len(fields)))
    table = struct.calcsize(count) + len(fields) * (struct.calcsize(entry) + inline)
    after = len(made) + table + inline
    held = bytearray()
    for tag in sorted(fields):
        item = fields[tag]
        rows += struct.pack(entry, tag, item.kind, item.count)
        if len(item.data) <= inline:
            rows += item.data.ljust(inline, b"\0")
        else:
            held += bytes(-(after + len(held)) % 8)
            rows += struct.pack(number, after + len(held))
            held += item.data
    link = len(made) + len(rows)
    made += rows + bytes(inline) + held
    return link
