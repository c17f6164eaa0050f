"""What a file may ask for before geosr refuses it, and whether files are read as those of strangers.

The limits are checked before anything is allocated, against what a file declares. Each message names the limit and the
option that raises it. They hold for the current context (:mod:`contextvars`): the command line sets them for a run, and
:func:`geosr.open_no2` for a call.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace

from geosr.errors import RefusedError, UsageError

#: A field of fewer cells is no bomb, however small its file: empty maps compress without end.
HARMLESS_CELLS = 16_000_000


@dataclass(frozen=True)
class Limits:
    """The limits, with their defaults.

    Attributes
    ----------
    pixels : cells that are held at once: the pixels of a swath, the fields of a file read as untrusted. Rasters that
        stream have no limit of this kind.
    bands : of a GeoTIFF.
    block : megabytes (1e6 bytes) of one unpacked block or chunk.
    expansion : cells declared for each byte of the file, beyond :data:`HARMLESS_CELLS` (DEFLATE packs at most 1032
        bytes into one).
    variables : variables, dimensions or attributes of a NetCDF or HDF5 file.
    depth : of its groups.
    directories : images in one TIFF file (bands are no images, overviews and masks are).
    time : seconds that reading an untrusted file may take.
    memory : megabytes that it may take.
    """

    pixels: float = 400e6
    bands: float = 256
    block: float = 512
    expansion: float = 1100
    variables: float = 5000
    depth: float = 100
    directories: float = 4096
    time: float = 120
    memory: float = 4096

    def changed(self, changes: Mapping[str, float]) -> Limits:
        """These limits, some of them changed.

        Raises
        ------
        UsageError
            No such limit, or not a positive number.
        """
        names = [f.name for f in fields(self)]
        for name, value in changes.items():
            if name not in names:
                raise UsageError(f"no limit {name!r}", f"choose from {', '.join(names)}")
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise UsageError(f"limit {name}={value!r} is not a positive number", f"e.g. {name}=1000")
        return replace(self, **changes)

    def check(self, name: str, value: float, what: str, more: bool = False) -> None:
        """Raise :class:`RefusedError` where ``value`` is above the limit ``name``.

        ``what`` is the file's claim; ``more``: there is more to come, and the message says so.
        """
        most: float = getattr(self, name)
        if value > most:
            unit = {"block": " MB", "memory": " MB", "expansion": " for each byte of the file"}.get(name, "")
            needed = float(f"{value:.3g}")
            needed = needed if needed >= value else needed + 10 ** (math.floor(math.log10(value)) - 2)
            needed, what = (10 * most, f"{what} and more") if more else (needed, what)
            raise RefusedError(
                f"{what}; the limit is {most:g}{unit}", f"if you trust the file, raise it: --limit {name}={needed:g}"
            )

    def check_cells(self, cells: int, file_bytes: int, what: str) -> None:
        """Raise where a file of ``file_bytes`` bytes declares too many ``cells``; ``what`` names the claim."""
        if cells > HARMLESS_CELLS:
            self.check("expansion", cells / max(1, file_bytes), f"{what} pixels in a file of {file_bytes} bytes")


_LIMITS: ContextVar[Limits] = ContextVar("limits", default=Limits())  # noqa: B039  (frozen)
_UNTRUSTED: ContextVar[bool] = ContextVar("untrusted", default=False)


def limits() -> Limits:
    """The limits that hold here."""
    return _LIMITS.get()


def is_untrusted() -> bool:
    """Are files read as those of strangers, in a process of their own (:mod:`geosr.reading.untrusted`)?"""
    return _UNTRUSTED.get()


@contextmanager
def reading_as(changes: Mapping[str, float] | None = None, untrusted: bool | None = None) -> Iterator[None]:
    """Change limits, and whether files are untrusted, inside; None leaves as it is.

    >>> with reading_as({"bands": 300}):
    ...     limits().bands
    300
    """
    mine = _LIMITS.set(limits().changed(changes or {}))
    other = _UNTRUSTED.set(is_untrusted() if untrusted is None else untrusted)
    try:
        yield
    finally:
        _UNTRUSTED.reset(other)
        _LIMITS.reset(mine)
