"""Damage: edits of bytes that know where the fields of a format lie.

A format tells its fields as (place, size, kind, order); :func:`damage` changes some of them to what parsers stumble
over, or bytes anywhere, and cuts, repeats and joins pieces. All choices come of one ``random.Random``.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

#: In inputs this stands for the path of a secret file, and for an address on this machine that nobody may call. They
#: are replaced when an input is run, by as many bytes.
SECRET = b"@@geosr-fuzz-the-path-of-a-file-that-nobody-may-read@@@@@@@@@@@@"
ADDRESS = b"http://127.0.0.1:00000/geosr-fuzz"

INTEGERS = (0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 31, 32, 33, 63, 64, 100, 127, 128, 129, 255, 256, 257, 512, 1000,
            1024, 4095, 4096, 32767, 32768, 65535, 65536, 1 << 20, (1 << 24) + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1,
            1 << 32, (1 << 40) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 8)  # fmt: skip
REALS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-7, 1e-30, 5e-324, 1e30, 9.96921e36, 1e300, -1e300, 1.7976931348623157e308,
         math.nan, math.inf, -math.inf, -9999.0, 89.99, 90.0, -90.0, 91.0, 179.99, 180.0, -180.0, 181.0, 360.0, 400.0,
         2.0**31, 2.0**53, -(2.0**63))  # fmt: skip
TEXTS = (b"", b"\0", b"nan", b"inf", b"-inf", b"1e999", b"-9999", b"0x10", b"1_000", b"None", b"true", b"[]", b"{}",
         b"mol m-2", b"1e15 molec cm-2", b"mol/m^2", b"1e400 mol m-2", b"m", b"K", b"degrees_north", b"degrees_east",
         b"9**9**9**9 mol m-2", b"mol m-2**99999999", b"((((((((((mol", b"__import__('os')", b"1/0", b"mol m-", b"*",
         b"days since 2000-01-01", b"seconds since 0000-00-00", b"days since 99999-01-01", b"months since 2000-01-31",
         b"hours since 1970-01-01T00:00:00+99:99", b"since", b"noleap", b"360_day", b"latitude", b"longitude", b"time",
         b"lat lon", b"projection_x_coordinate", b"EPSG:4326", b"EPSG:999999", b"EPSG:-1", b"+proj=longlat", b"+proj=",
         b"latitude_longitude", b"crs", b"/", b"//", b"..", b"../../x", b"%s%n%d", b"\x1b[31m", b"\xff\xfe\xfd",
         b"\xe2\x80\xae", b"\xf0\x9f\x98\x80", b"<", b"<GDALMetadata>", b"<VRTDataset/>", b"&lol;", b"x" * 300,
         b"tropospheric_NO2_column_number_density", b"nitrogendioxide_tropospheric_column", b"PRODUCT", b"qa_value",
         SECRET, ADDRESS, b"PROJCS[\"x\"]", b"{\"type\": \"ProjectedCRS\"}", b"S5P_OFFL_L2__NO2____")  # fmt: skip


class Spot(NamedTuple):
    """A field: ``kind`` is "int", "real", "text", or the name of a list of favourite numbers."""

    at: int
    size: int
    kind: str = "int"
    order: str = "<"


Fields = Callable[[bytes], list[Spot]]
_INTS = {1: "B", 2: "H", 4: "I", 8: "Q"}


def damage(
    rng: random.Random,
    data: bytes,
    fields: Fields,
    others: Sequence[bytes],
    favourites: dict[str, Sequence[int]] | None = None,
    most: int = 1 << 18,
) -> bytes:
    """``data`` after one to eight edits, at most ``most`` bytes long.

    Parameters
    ----------
    others : inputs from which pieces may come.
    favourites : numbers that are tried more often in fields of a kind.
    """
    out = bytearray(data)
    spots = fields(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5, 8))):
        if spots and rng.random() < 0.75:
            _edit_field(rng, out, _chosen(rng, spots), spots, favourites or {})
        elif rng.random() < 0.7:
            _edit_bytes(rng, out)
        else:
            _edit_pieces(rng, out, rng.choice(list(others) or [data]))
            spots = fields(bytes(out))
    return bytes(out[:most])


def _chosen(rng: random.Random, spots: list[Spot]) -> Spot:
    """A field of a kind of fields: those that hold sizes and places are many, and most files die of them at once."""
    kinds = sorted({s.kind for s in spots})
    kind = rng.choices(kinds, [3 if k in ("text", "real", "tag", "key", "message") else 1 for k in kinds])[0]
    return rng.choice([s for s in spots if s.kind == kind])


def _edit_field(
    rng: random.Random, out: bytearray, spot: Spot, spots: list[Spot], favourites: dict[str, Sequence[int]]
) -> None:
    at, size, kind, order = spot
    if at + size > len(out) or size <= 0:
        return
    if kind == "text":
        text = rng.choice(TEXTS)
        if rng.random() < 0.2:  # as it is, with one byte changed
            out[at + rng.randrange(size)] = rng.randrange(256)
        else:
            out[at : at + size] = text[:size].ljust(size, rng.choice((b"\0", b" ", b"x")))
        return
    if kind == "real":
        code = order + ("d" if size == 8 else "f")
        values = [v for v in REALS if size == 8 or not 3.5e38 < abs(v) < math.inf]
        now = struct.unpack_from(code, out, at)[0]
        value = rng.choice((rng.choice(values), -now, now * rng.choice((0.5, 2, 1 + 1e-6, 1 + 1e-3)), rng.gauss(0, 1)))
        try:
            struct.pack_into(code, out, at, value)
        except OverflowError:
            struct.pack_into(code, out, at, math.inf)
        return
    if size not in _INTS:
        out[at + rng.randrange(size)] = rng.randrange(256)
        return
    code = order + _INTS[size]
    now = struct.unpack_from(code, out, at)[0]
    other = rng.choice(spots)
    copied = int.from_bytes(out[other.at : other.at + min(other.size, size)], "little" if order == "<" else "big")
    liked = favourites.get(kind, INTEGERS)
    value = rng.choice((
        rng.choice(liked), rng.choice(liked), rng.choice(INTEGERS), now + rng.choice((-8, -2, -1, 1, 2, 8)),
        now * 2, now ^ (1 << rng.randrange(8 * size)), len(out) + rng.choice((-8, -1, 0, 1)), copied,
    ))  # fmt: skip
    struct.pack_into(code, out, at, value % (1 << 8 * size))


def _edit_bytes(rng: random.Random, out: bytearray) -> None:
    if not out:
        out += b"\0"
    # The beginning holds structure in all formats.
    at = rng.randrange(len(out)) if rng.random() < 0.6 else rng.randrange(min(len(out), 512))
    what = rng.randrange(4)
    if what == 0:
        out[at] ^= 1 << rng.randrange(8)
    elif what == 1:
        out[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    elif what == 2:
        size = rng.choice((2, 4, 8))
        number = rng.choice(INTEGERS) % (1 << 8 * size)
        out[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
    else:
        n = rng.choice((4, 8, 16))
        out[at : at + n] = rng.randbytes(n)


def _edit_pieces(rng: random.Random, out: bytearray, other: bytes) -> None:
    n = len(out)
    at, length = rng.randrange(n + 1), rng.choice((1, 2, 4, 8, 12, 64, 512))
    what = rng.randrange(6)
    if what == 0:
        del out[at:]
    elif what == 1:
        del out[at : at + length]
    elif what == 2:
        out[at:at] = out[at : at + length]
    elif what == 3:
        start = rng.randrange(n + 1)
        out[at : at + length] = out[start : start + length]
    elif what == 4:
        start = rng.randrange(len(other) + 1)
        out[at : at + length] = other[start : start + length]
    else:
        out += rng.choice((b"\0" * length, rng.randbytes(length)))
