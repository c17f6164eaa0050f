"""The journal of a run: which tiles of an output are done, so that a run that was killed can be gone on with.

A file in the staging folder (:mod:`~geosr.writing.atomic`) with one line a tile, as JSON behind its CRC-32, after a
first line that says what the run makes: inputs, model, options, grid. A journal of another run is never gone on with,
and neither is a line that is damaged or cut short (the last one, where a run was killed), nor a tile whose bytes are
not what the line says: such tiles are done again. Nothing in the file is ever more than numbers and names.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TextIO

from geosr.errors import GeosrError, InputError, ModelError, UsageError
from geosr.writing.ledger import Tile, crc32

#: Name of the journal in the staging folder.
NAME = "journal"

_FORMAT = 1

# No line is longer.
_LONGEST = 1 << 24


@dataclass(frozen=True)
class Place:
    """Where a tile lies: layers ``first`` to ``last`` (exclusive), and its rows and columns."""

    first: int
    last: int
    top: int
    bottom: int
    left: int
    right: int

    @property
    def rows(self) -> slice:
        return slice(self.top, self.bottom)

    @property
    def cols(self) -> slice:
        return slice(self.left, self.right)

    @property
    def extents(self) -> tuple[tuple[int, int], ...]:
        """Along layers, rows and columns."""
        return (self.first, self.last), (self.top, self.bottom), (self.left, self.right)

    def __str__(self) -> str:
        """For messages; counted from 0, as GDAL does."""
        layer = f" of layer {self.first + 1}" if self.first else ""
        return f"rows {self.top} to {self.bottom - 1}, columns {self.left} to {self.right - 1}{layer}"


@dataclass(frozen=True)
class Landed:
    """What the task of a tile gives back: small, whatever the tile's size.

    Attributes
    ----------
    tiles : (field, lead, moments) of each window.
    largest : of each check, the largest values in this tile.
    record : of the sink, made of lists, strings and numbers.
    """

    place: Place
    tiles: tuple[tuple[int, int, Tile], ...]
    largest: Mapping[str, list[float]]
    record: Any

    def plain(self) -> list[Any]:
        """For :func:`json.dumps`."""
        moments = [(number, lead, [getattr(tile, name) for name in _MOMENTS]) for number, lead, tile in self.tiles]
        return [[getattr(self.place, f.name) for f in fields(Place)], moments, dict(self.largest), self.record]

    @classmethod
    def of(cls, plain: list[Any]) -> Landed:
        """The inverse of :meth:`plain`; ValueError, TypeError or KeyError for what is not one."""
        corners, moments, largest, record = plain
        place = Place(*_numbers(corners, int))
        tiles = tuple(
            (*_numbers([number, lead], int), Tile(place.rows, place.cols, **_named(_numbers(values))))
            for number, lead, values in moments
        )
        return cls(place, tiles, {str(name): _numbers(found) for name, found in largest.items()}, record)


_MOMENTS = tuple(f.name for f in fields(Tile) if f.name not in ("rows", "cols"))


def _named(moments: list[Any]) -> dict[str, Any]:
    return dict(zip(_MOMENTS, moments, strict=True))


def _numbers(values: list[Any], *kinds: type) -> list[Any]:
    """``values``, if each is of one of the ``kinds``; by default a number."""
    if not all(type(value) in (kinds or (int, float)) for value in values):
        raise ValueError(f"{values} are no numbers")
    return values


class Journal:
    """Of one output.

    Parameters
    ----------
    folder : the staging folder.
    key : what the run makes, JSON-serialisable: the same for runs whose tiles are the same to the bit.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.path = folder / NAME
        self.key = key
        self._file: TextIO | None = None

    def __enter__(self) -> Journal:
        fresh = _read_line(self.path) is None
        self._file = open(self.path, "w" if fresh else "a", encoding="ascii", opener=regular)
        # A line that was cut short must not run into the next.
        self._write({"format": _FORMAT, "key": self.key}) if fresh else self._file.write("\n")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()

    def note(self, landed: Landed) -> None:
        """A tile is done."""
        self._write(landed.plain())

    def _write(self, what: Any) -> None:
        if self._file is None:
            raise RuntimeError("the journal is not open")
        text = json.dumps(what)
        self._file.write(f"{crc32(text.encode()):08x} {text}\n")
        self._file.flush()

    def done(self) -> Iterator[Landed]:
        """The tiles that are noted, each once, as it was done last; damaged lines are passed over."""
        found: dict[Place, Landed] = {}
        for plain in _lines(self.path):
            if isinstance(plain, list):
                with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                    landed = Landed.of(plain)
                    found[landed.place] = landed
        yield from found.values()


def count(folder: Path) -> int:
    """How many tiles the journal in ``folder`` has."""
    return sum(isinstance(line, list) for line in _lines(folder / NAME))


def key_of(folder: Path) -> dict[str, Any] | None:
    """What the run that left ``folder`` was making; None if nothing can be gone on with."""
    head = _read_line(folder / NAME)
    key = head.get("key") if isinstance(head, dict) and head.get("format") == _FORMAT else None
    return key if isinstance(key, dict) else None


def regular(path: str, flags: int) -> int:
    """An opener for files, and nothing that waits or never ends: no links, pipes, devices."""
    handle = os.open(path, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return handle


def _read_line(path: Path) -> Any:
    return next(_lines(path), None)


def _lines(path: Path) -> Iterator[Any]:
    """What each undamaged line holds."""
    try:
        file = open(path, "rb", opener=regular)  # noqa: SIM115
    except OSError:
        return
    with file:
        while line := file.readline(_LONGEST):
            head, _, text = line.rstrip(b"\n").partition(b" ")
            try:
                if int(head, 16) == crc32(text):
                    yield json.loads(text)
            except (ValueError, RecursionError):
                continue


#: Parts of a key -> what they are called, and the error for a run that is gone on with although they have changed.
_PARTS: dict[str, tuple[str, type[GeosrError]]] = {
    "inputs": ("another input", InputError),
    "model": ("another model", ModelError),
    "options": ("other options", UsageError),
    "grid": ("another grid", UsageError),
    "output": ("other options of the output", UsageError),
    "geosr": ("another version of geosr", UsageError),
}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The parts in which two keys differ, in the order of what matters most."""
    one, other = (json.loads(json.dumps(dict(key))) for key in (one, other))
    names = [*_PARTS, *sorted({*one, *other} - {*_PARTS})]
    return [name for name in names if one.get(name) != other.get(name)]


def told(parts: list[str]) -> str:
    """The differences in words."""
    return " and ".join(_PARTS[name][0] if name in _PARTS else f"another {name}" for name in parts)


def error_for(parts: list[str]) -> type[GeosrError]:
    """What going on with a run of another key raises."""
    return next((_PARTS[name][1] for name in parts if name in _PARTS), UsageError)


def clear(folder: Path, keep: str) -> None:
    """Remove all that ``folder`` holds but the file ``keep``."""
    import shutil

    for entry in folder.iterdir():
        if entry.name == keep:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            os.unlink(entry)
