"""Where the fields of TIFF, netCDF-3 and HDF5 lie, as far as damaged files let one see; and HDF5's checksums.

Written apart from geosr's own scans, so that a misreading there is no misreading here.
"""

from __future__ import annotations

import struct
import time
from functools import lru_cache

from fuzz.edits import Spot

# --- TIFF ------------------------------------------------------------------------------------------------------

#: Tags of images, of GeoTIFF and of GDAL; compressions, types, and codes of coordinate systems.
TIFF_FAVOURITES = {
    "tag": (254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 282, 284, 305, 306, 317, 320, 322, 323, 324,
            325, 330, 338, 339, 347, 529, 530, 531, 532, 33550, 33922, 34264, 34665, 34735, 34736, 34737, 42112, 42113,
            50674, 50844, 50909, 65000),
    "type": tuple(range(20)),
    "value": (0, 1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64, 32773, 32946, 34661, 34712, 34887, 34925, 50000, 50001, 50002,
              65000, 65535),
    "key": (0, 1, 2, 3, 1024, 1025, 1026, 2048, 2049, 2050, 2051, 2052, 2054, 2056, 2057, 3072, 3073, 3074, 3075, 3076,
            3080, 4096, 4099, 4326, 4979, 4978, 4269, 3857, 3035, 32631, 32661, 2193, 5714, 32767, 9001, 9101, 9102,
            34736, 34737, 65535),
}  # fmt: skip
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def tiff_fields(data: bytes) -> list[Spot]:
    """Entries of the first directories, and the values they point to."""
    spots: list[Spot] = []
    order = ">" if data[:2] == b"MM" else "<"
    try:
        big = struct.unpack_from(order + "H", data, 2)[0] == 43
        word = 8 if big else 4
        link = 8 if big else 4
        seen: set[int] = set()
        while True:
            spots.append(Spot(link, word, "int", order))
            at = struct.unpack_from(order + ("Q" if big else "I"), data, link)[0]
            if not at or at in seen or len(seen) > 8:
                break
            seen.add(at)
            count = struct.unpack_from(order + ("Q" if big else "H"), data, at)[0]
            head = 8 if big else 2
            spots.append(Spot(at, head, "int", order))
            for i in range(min(count, 100)):
                spots += _entry(data, at + head + i * (4 + 2 * word), word, order)
            link = at + head + count * (4 + 2 * word)
    except (struct.error, OverflowError):
        pass
    return [s for s in spots if s.at + s.size <= len(data)]


def _entry(data: bytes, at: int, word: int, order: str) -> list[Spot]:
    code = "Q" if word == 8 else "I"
    tag, kind, count, value = struct.unpack_from(f"{order}HH{code}{code}", data, at)
    small = {3: 2, 1: 1}.get(kind, word)
    spots = [Spot(at, 2, "tag", order), Spot(at + 2, 2, "type", order), Spot(at + 4, word, "int", order)]
    spots += [Spot(at + 4 + word, small, "value", order)] * 2
    each = _SIZES.get(kind, 1)
    length = min(each * count, len(data))
    place = at + 4 + word if length <= word else value
    if kind in (2, 7):
        spots += [Spot(place, length, "text")] * 2
    elif kind in (11, 12):
        spots += [Spot(place + i, each, "real", order) for i in range(0, min(length, 128), each)]
    elif length > word:
        name = "key" if tag == 34735 else "int"
        spots += [Spot(place + i, each, name, order) for i in range(0, min(length, 64 * each), each)]
    return spots


# --- netCDF-3 --------------------------------------------------------------------------------------------------

_NC_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}
NETCDF3_FAVOURITES = {"nctype": tuple(range(14)), "list": (0, 10, 11, 12)}


class _Header:
    """A walk over a header that notes each field."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.spots = data, 4, [Spot(3, 1, "int")]
        self.word = 8 if data[3:4] == b"\x05" else 4
        self.place = 4 if data[3:4] == b"\x01" else 8

    def number(self, size: int, kind: str = "int") -> int:
        self.spots.append(Spot(self.at, size, kind, ">"))
        value = struct.unpack_from(">I" if size == 4 else ">Q", self.data, self.at)[0]
        self.at += size
        return int(value)

    def text(self, n: int) -> None:
        self.spots.append(Spot(self.at, min(n, 4096), "text"))
        self.at += n + -n % 4

    def listed(self) -> int:
        self.number(4, "list")
        return min(self.number(self.word), 200)

    def attributes(self) -> None:
        for _ in range(self.listed()):
            self.text(self.number(self.word))
            kind, n = self.number(4, "nctype"), self.number(self.word)
            size = _NC_SIZES.get(kind, 1)
            if kind == 2:
                self.text(n)
                continue
            for i in range(min(n, 8)):
                self.spots.append(Spot(self.at + i * size, size, "real" if kind in (5, 6) else "int", ">"))
            self.at += n * size + -(n * size) % 4


def netcdf3_fields(data: bytes) -> list[Spot]:
    """Fields of the header, and the first values of each variable."""
    head = _Header(data)
    try:
        head.number(head.word)
        for _ in range(head.listed()):
            head.text(head.number(head.word))
            head.number(head.word)
        head.attributes()
        for _ in range(head.listed()):
            head.text(head.number(head.word))
            for _ in range(min(head.number(head.word), 100)):
                head.number(head.word)
            head.attributes()
            kind = head.number(4, "nctype")
            head.number(head.word)
            begin = head.number(head.place)
            size = _NC_SIZES.get(kind, 1)
            name = "real" if kind in (5, 6) else "int"
            head.spots += [Spot(begin + i * size, size, name, ">") for i in range(6)]
    except (struct.error, OverflowError):
        pass
    return [s for s in head.spots if s.at + s.size <= len(data)]


# --- HDF5 ------------------------------------------------------------------------------------------------------

_HDF5 = b"\x89HDF\r\n\x1a\n"
#: Types of messages in object headers; classes, layouts and filters (HDF5 File Format Specification 3.0).
HDF5_FAVOURITES = {"message": tuple(range(25)), "small": tuple(range(17)) + (255,)}
_NAMED = (b"TREE", b"SNOD", b"HEAP", b"GCOL", b"FRHP", b"FHDB", b"FHIB", b"BTHD", b"BTLF", b"BTIN", b"FAHD", b"FADB",
          b"EAHD", b"EAIB", b"EADB", b"EASB", b"SMTB", b"SMLI")  # fmt: skip
_SUMMED = (b"OCHK", b"FRHP", b"FHIB", b"BTHD", b"BTLF", b"BTIN", b"FAHD", b"FADB", b"EAHD", b"EAIB", b"EADB")


def hdf5_fields(data: bytes) -> list[Spot]:
    """The superblock, messages of object headers of both versions, words of trees and heaps, and texts."""
    spots = [Spot(i, 1, "small") for i in range(8, 16)]
    spots += [Spot(i, 8) for i in range(24 if data[8:9] in (b"\0", b"\x01") else 12, 56, 8)]
    at = data.find(b"OHDR")
    while at >= 0:
        spots += _messages_2(data, at)
        at = data.find(b"OHDR", at + 4)
    for at in range(96, len(data) - 16, 8):
        if data[at : at + 2] == b"\x01\0" and data[at + 4 : at + 8] == b"\1\0\0\0" and 0 < data[at + 2] < 60:
            spots += _messages_1(data, at)
    for name in _NAMED:
        at = data.find(name)
        while at >= 0:
            spots += [Spot(at + 4, 1, "small"), Spot(at + 5, 1, "small"), Spot(at + 6, 2)]
            spots += [Spot(at + 8 + i, 8) for i in range(0, 96, 8)]
            if name in (b"HEAP", b"GCOL", b"FHDB"):
                spots += [Spot(at + 24 + i, 8, "text") for i in range(0, 200, 8)]
            at = data.find(name, at + 4)
    return [s for s in spots if s.at + s.size <= len(data)]


def _chunk_0(data: bytes, at: int) -> tuple[int, int, int]:
    """(where messages begin, where they end, bytes of a message's head) of a version 2 object header."""
    flags = data[at + 5]
    begin = at + 6 + (16 if flags & 32 else 0) + (4 if flags & 16 else 0)
    width = 1 << (flags & 3)
    size = int.from_bytes(data[begin : begin + width], "little")
    return begin + width, begin + width + size, 6 if flags & 4 else 4


def _messages_2(data: bytes, at: int) -> list[Spot]:
    spots = [Spot(at + 4, 1, "small"), Spot(at + 5, 1, "small")]
    if at + 32 > len(data):
        return []
    begin, end, head = _chunk_0(data, at)
    place = begin
    while place + head <= min(end, len(data)):
        size = int.from_bytes(data[place + 1 : place + 3], "little")
        spots += [Spot(place, 1, "message"), Spot(place + 1, 2), Spot(place + 3, 1, "small")]
        spots += _body(data, data[place], place + head, size)
        place += head + size
    return spots


def _messages_1(data: bytes, at: int) -> list[Spot]:
    place, end = at + 16, at + 16 + int.from_bytes(data[at + 8 : at + 12], "little")
    spots = [Spot(at, 1, "small"), Spot(at + 2, 2), Spot(at + 4, 4), Spot(at + 8, 4)]
    while place + 8 <= min(end, len(data)):
        size = int.from_bytes(data[place + 2 : place + 4], "little")
        spots += [Spot(place, 2, "message"), Spot(place + 2, 2), Spot(place + 4, 1, "small")]
        spots += _body(data, data[place], place + 8, size)
        place += 8 + size
    return spots


def _body(data: bytes, kind: int, at: int, size: int) -> list[Spot]:
    """Fields of a message: its first bytes are versions and classes, then numbers; attributes and links hold text."""
    size = min(size, 400)
    spots = [Spot(at + i, 1, "small") for i in range(min(size, 4))]
    spots += [Spot(at + i, 4) for i in range(0, size - 3, 4)]
    spots += [Spot(at + i, 8) for i in range(0, size - 7, 2 if kind in (1, 8) else 8)]
    if kind in (6, 12):
        spots += [Spot(at + i, min(8, size - i), "text") for i in range(4, size, 4)] + [Spot(at + size - 8, 8, "real")]
    return spots


@lru_cache(maxsize=64)
def hdf5_sums(data: bytes) -> list[tuple[int, int]]:
    """(begin, end) of the parts behind which their checksum stands, of a whole file."""
    found = []
    if data[8:9] in (b"\2", b"\3"):
        found.append((0, 44))
    at = data.find(b"OHDR")
    while at >= 0:
        end = _chunk_0(data, at)[1]
        if _is_summed(data, at, end):
            found.append((at, end))
        at = data.find(b"OHDR", at + 4)
    for name in _SUMMED:
        at = data.find(name)
        while at >= 0:
            end = next((e for e in range(at + 8, min(at + 600, len(data) - 3)) if _is_summed(data, at, e)), None)
            if end is not None:
                found.append((at, end))
            at = data.find(name, at + 4)
    return found


def _is_summed(data: bytes, at: int, end: int) -> bool:
    return data[end : end + 4] == lookup3(data[at:end]).to_bytes(4, "little")


def hdf5_resum(data: bytes, sums: list[tuple[int, int]]) -> bytes:
    """``data`` with the checksums made right again."""
    out = bytearray(data)
    for at, end in sums:
        if end + 4 <= len(out):
            out[end : end + 4] = lookup3(bytes(out[at:end])).to_bytes(4, "little")
    return bytes(out)


def hdf5_untimed(data: bytes, begun: float) -> bytes:
    """``data``, written since ``begun``, with one and the same time for each moment that the HDF5 library put into it.

    h5py asks it not to, for the datasets that it makes itself; other objects have times from the clock of the library.
    """
    sums, untimed = hdf5_sums(data), data
    for second in range(int(begun), int(time.time()) + 1):
        untimed = untimed.replace(struct.pack("<I", second), struct.pack("<I", 1_500_000_000))
    return hdf5_resum(untimed, sums)


def lookup3(key: bytes) -> int:
    """Bob Jenkins' ``hashlittle`` (lookup3.c, 2006) with initial value 0, as HDF5 has it."""
    mask = 0xFFFFFFFF
    a = b = c = (0xDEADBEEF + len(key)) & mask
    words = struct.unpack(f"<{-(-len(key) // 12) * 3}I", key.ljust(-(-len(key) // 12) * 12, b"\0"))
    if not words:
        return c
    for i in range(0, len(words) - 3, 3):
        a, b, c = (a + words[i]) & mask, (b + words[i + 1]) & mask, (c + words[i + 2]) & mask
        a = ((a - c) & mask) ^ ((c << 4 | c >> 28) & mask)
        c = (c + b) & mask
        b = ((b - a) & mask) ^ ((a << 6 | a >> 26) & mask)
        a = (a + c) & mask
        c = ((c - b) & mask) ^ ((b << 8 | b >> 24) & mask)
        b = (b + a) & mask
        a = ((a - c) & mask) ^ ((c << 16 | c >> 16) & mask)
        c = (c + b) & mask
        b = ((b - a) & mask) ^ ((a << 19 | a >> 13) & mask)
        a = (a + c) & mask
        c = ((c - b) & mask) ^ ((b << 4 | b >> 28) & mask)
        b = (b + a) & mask
    a, b, c = (a + words[-3]) & mask, (b + words[-2]) & mask, (c + words[-1]) & mask
    for which, turn in ((0, 14), (1, 11), (2, 25), (0, 16), (1, 4), (2, 14), (0, 24)):
        if which == 0:
            c = ((c ^ b) - ((b << turn | b >> (32 - turn)) & mask)) & mask
        elif which == 1:
            a = ((a ^ c) - ((c << turn | c >> (32 - turn)) & mask)) & mask
        else:
            b = ((b ^ a) - ((a << turn | a >> (32 - turn)) & mask)) & mask
    return c
