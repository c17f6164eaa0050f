"""Provenance: what made this file, from what, and how well it conserved.

The noun travels to the writers, which set it down as GeoTIFF tags, CF history and global attributes. The
conservation error is known only after the last tile, so a writer also takes a function that returns the
Provenance and calls it after the data pass (see :func:`geosr.writing.write`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

from geosr._version import __version__
from geosr.errors import InputError


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces; of a folder (a Zarr store), over its files by name.

    Raises
    ------
    InputError
        If the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        if not os.path.isdir(path):
            _feed(digest, path)
            return digest.hexdigest()
        for folder, subfolders, names in os.walk(path):
            subfolders.sort()
            for name in sorted(names):
                file = os.path.join(folder, name)
                relative = os.path.relpath(file, path).replace(os.sep, "/")
                digest.update(f"{relative}\0{sha256_of(file)}\n".encode())
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", "check the path", path) from error
    return digest.hexdigest()


def _feed(digest: Any, path: str | os.PathLike[str]) -> None:
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)


def now() -> str:
    """The current time, ISO 8601 in UTC; ``SOURCE_DATE_EPOCH`` overrides it for reproducible files.

    https://reproducible-builds.org/specs/source-date-epoch/
    """
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    try:
        moment = datetime.fromtimestamp(int(epoch), UTC) if epoch.isdigit() else datetime.now(UTC)
    except (ValueError, OverflowError, OSError):  # beyond the year 9999
        moment = datetime.now(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _plain(text: object) -> str:
    """``text`` on one line without control characters: file names may hold escapes that a terminal would obey."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(text))


@dataclass(frozen=True)
class Provenance:
    """How an output came about.

    Attributes
    ----------
    inputs : (name, sha256) of each input file, in order; the sha256 may be None where it was not taken.
    model, model_sha256 : name and hash of the model; None without one.
    method : "edsr", "srcnn", "bicubic", "area-weighted mean" …
    scale : refinement factor; None where nothing was refined (gridding a swath).
    options : what else shaped the result, JSON-serialisable.
    envelope : was the input like what the model was trained on ("inside", "outside: …", "overridden: …"); None without
        a model.
    conserve : the conservation correction was on.
    conservation_error : largest ``|block mean - coarse|`` found, over the largest ``|coarse|``; None if not measured.
    created : ISO time, UTC.
    command : the command line, if there was one.
    """

    inputs: tuple[tuple[str, str | None], ...] = ()
    model: str | None = None
    model_sha256: str | None = None
    method: str = ""
    scale: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    envelope: str | None = None
    conserve: bool = True
    conservation_error: float | None = None
    created: str = field(default_factory=now)
    command: str | None = None
    geosr_version: str = __version__

    def __post_init__(self) -> None:
        # A read-only copy: a frozen noun must not change when the caller reuses its dict.
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))
        object.__setattr__(self, "inputs", tuple((str(n), h) for n, h in self.inputs))

    def __reduce__(self) -> tuple[Any, ...]:
        # A mapping proxy does not pickle, and a Provenance travels to workers.
        return _rebuild, ({**self.__dict__, "options": dict(self.options)},)

    def finish(self, conservation_error: float | None) -> Provenance:
        """This provenance, with the error that was found."""
        return replace(self, conservation_error=conservation_error)

    def _items(self) -> dict[str, str]:
        """Non-empty facts as text, by bare name, in a fixed order."""
        names = "; ".join(_plain(name) for name, _ in self.inputs)
        hashes = "; ".join(digest or "-" for _, digest in self.inputs)
        error = self.conservation_error
        items = {
            "version": self.geosr_version,
            "method": self.method,
            "scale": self.scale,
            "model": self.model,
            "model_sha256": self.model_sha256,
            "input": names,
            "input_sha256": hashes if any(digest for _, digest in self.inputs) else None,
            "options": json.dumps(dict(self.options), sort_keys=True, default=str) if self.options else None,
            "envelope": self.envelope,
            "conserve": "yes" if self.conserve else "no",
            "conservation_error": None if error is None else f"{error:.6g}",
            "created": self.created,
            "command": self.command,
        }
        return {key: _plain(value) for key, value in items.items() if value not in (None, "")}

    def tags(self) -> dict[str, str]:
        """GeoTIFF tags, ``GEOSR_VERSION`` and so on."""
        return {f"GEOSR_{key.upper()}": value for key, value in self._items().items()}

    def attrs(self) -> dict[str, str]:
        """Global attributes of NetCDF and Zarr, ``geosr_version`` and so on (all text, as in the tags)."""
        return {f"geosr_{key}": value for key, value in self._items().items()}

    def history_line(self) -> str:
        """One line for CF ``history``: time, program, what was done."""
        how = self.command or " ".join(
            f"{key}={value}" for key, value in self._items().items() if key in ("method", "scale", "model", "input")
        )
        return f"{self.created}: geosr {self.geosr_version}: {_plain(how)}"


def _rebuild(state: dict[str, Any]) -> Provenance:
    return Provenance(**state)
