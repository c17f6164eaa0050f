"""What an unfinished run has left is damaged before it is gone on with."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from .harness import FORMATS, Bench, Tally, check_names, check_same, fault, partial_of

HOW = ("--scale", "8", "--method", "bicubic", "--tile", "512")


def _flip(data: bytearray, random: Random) -> bytearray:
    for _ in range(random.choice((1, 1, 3, 30))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return data


def _noise(data: bytearray, random: Random) -> bytearray:
    at = random.randrange(len(data))
    data[at : at + 4096] = random.randbytes(min(4096, len(data) - at))
    return data


def _cut(data: bytearray, random: Random) -> bytearray:
    return data[: random.randrange(len(data))]


def _double(data: bytearray, random: Random) -> bytearray:
    lines = data.splitlines(keepends=True)
    random.shuffle(lines)
    return bytearray(b"".join(lines + lines[: len(lines) // 2]))


def _zero(data: bytearray, random: Random) -> bytearray:
    at = random.randrange(len(data))
    return data[:at] + bytearray(len(data) - at)


_DAMAGES: tuple[Callable[[bytearray, Random], bytearray], ...] = (_flip, _noise, _cut, _double, _zero)


@fault(
    "14",
    "the leftovers of a killed run are damaged",
    how="bits flipped, noise, cut off, lines shuffled and doubled, zeros, in the journal or in stored tiles; a file "
    "removed; then --resume",
    expected="the uninterrupted run's result; nothing left",
)
def damaged_leftovers(bench: Bench, tally: Tally) -> None:
    source = bench.source(225)
    for suffix in FORMATS:
        expected = bench.whole(source, f"o.{suffix}", *HOW)
        store = bench.folder()
        bench.fork("downscale", source, "-o", store / f"o.{suffix}", *HOW, env={"GEOSR_FAULT": "stop=9"}).wait()
        kept = partial_of(store / f"o.{suffix}")
        assert (kept / "journal").exists()
        for number in bench.times(60, 2):
            with bench.fresh() as folder:
                target = folder / f"o.{suffix}"
                left = shutil.copytree(kept, partial_of(target))
                files = sorted(p for p in left.rglob("*") if p.is_file() and p.stat().st_size)
                file = left / "journal" if number % 2 == 0 else bench.random.choice(files)
                what = _spoil(file, number, bench.random)
                with tally.trial(f"{suffix}: {what} in {file.relative_to(left)}"):
                    ended = bench.fork("downscale", source, "-o", target, *HOW, "--resume").wait()
                    tally.count("0, with a warning" if "warning" in ended.err else str(ended.code))
                    assert ended.code == 0, ended.err
                    assert "Traceback" not in ended.err
                    check_same(target, expected)
                    check_names(folder, target)


def _spoil(file: Path, number: int, random: Random) -> str:
    if number % 10 == 9:
        file.unlink()
        return "removed"
    damage = _DAMAGES[(number // 2) % len(_DAMAGES)]
    file.write_bytes(damage(bytearray(file.read_bytes()), random))
    return damage.__name__.strip("_")
