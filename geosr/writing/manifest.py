"""The manifest of an output: ``<output>.json``, written last.

It has the SHA-256 of each file of the output, of the inputs and of the model, with what was done, and its own
checksum. An output with its manifest is complete; :func:`verify` says whether it is still what was written. A file that
geosr reads and that has a manifest is held against it (:func:`check_input`).

A Zarr store is one output of many files: its SHA-256 is that of the list of its files
(:func:`geosr.provenance.sha256_of`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geosr._version import __version__
from geosr.errors import InputError
from geosr.provenance import Provenance, sha256_of
from geosr.writing.atomic import MANIFEST, manifest_of
from geosr.writing.journal import regular
from geosr.writing.ledger import Statistics

_FORMAT = "geosr manifest 1"

# A manifest is a few kilobytes; what is much longer is something else.
_MOST_BYTES = 4 << 20


@dataclass(frozen=True)
class Verified:
    """What :func:`verify` found to be as it was written.

    Attributes
    ----------
    files : SHA-256 of each, by name.
    provenance : how the output came about, as text by name.
    """

    path: str
    files: dict[str, str]
    bytes: int
    created: str
    provenance: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return asdict(self)

    def line(self) -> str:
        """For people."""
        names = ", ".join(self.files)
        return f"{self.path}: as geosr wrote it on {self.created}: {names} ({self.bytes} bytes, SHA-256)"


def text_of(
    files: Mapping[Path, Path], provenance: Provenance, statistics: Statistics, key: Mapping[str, Any] | None
) -> str:
    """The manifest for ``files`` (made: final, the output first), which are read for it.

    Parameters
    ----------
    statistics : of the main variable.
    key : what was made (:class:`~geosr.writing.journal.Journal`), where that is known.
    """
    found = {
        "format": _FORMAT,
        "geosr": __version__,
        "created": provenance.created,
        "files": {
            final.name: {"bytes": size_of(made), "sha256": sha256_of(made), "folder": made.is_dir()}
            for made, final in files.items()
        },
        "provenance": {name.removeprefix("geosr_"): value for name, value in provenance.attrs().items()},
        "statistics": asdict(statistics),
        "conservation_error": provenance.conservation_error,
        "key": key,
    }
    return json.dumps({**found, "sha256": _digest(found)}, indent=1) + "\n"


def _digest(found: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of the output ``path``.

    Raises
    ------
    InputError
        There is none, it is damaged, or not one of geosr.
    """
    where = manifest_of(Path(os.path.abspath(path)))
    try:
        with open(where, "rb", opener=regular) as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        if str(path).endswith(MANIFEST):
            raise InputError("has no manifest", "name the output, not its manifest", path) from None
        hint = "geosr writes one for each output; was it moved without, or was its run stopped at the very end?"
        raise InputError(f"has no manifest {where.name}", hint, path) from None
    except OSError as error:
        raise InputError(f"its manifest {where.name} cannot be read ({error.strerror})", "check it", path) from None
    try:
        found = json.loads(data) if len(data) <= _MOST_BYTES else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not _is_manifest(found):
        raise InputError(f"{where.name} is damaged, or not a manifest of geosr", "see that it is the right file", path)
    told = found.pop("sha256", None)
    if told != _digest(found):
        raise InputError(f"the manifest {where.name} has been changed: its own checksum differs", "trust neither", path)
    return found


def _is_manifest(found: Mapping[str, Any]) -> bool:
    """Is all that is read of it there, and of the right kind? Files are named as they lie beside it."""
    files = found.get("files")
    return (
        found.get("format") == _FORMAT
        and isinstance(files, dict)
        and all(_is_file(name, told) for name, told in files.items())
        and isinstance(found.get("created"), str)
        and isinstance(found.get("provenance"), dict)
    )


def _is_file(name: str, told: object) -> bool:
    try:
        plain = b"\0" not in os.fsencode(name) and os.path.basename(name) == name and name not in ("", ".", "..")
    except UnicodeEncodeError:
        return False
    return plain and isinstance(told, dict) and type(told.get("bytes")) is int and isinstance(told.get("sha256"), str)


def verify(path: str | os.PathLike[str]) -> Verified:
    """Is the output ``path``, with the files that belong to it, what geosr wrote?

    Raises
    ------
    InputError
        A file is missing, or its checksum differs from the manifest's; there is no manifest, or it is damaged.
    """
    target = Path(os.path.abspath(path))
    found = read(path)
    if target.name not in found["files"]:
        names = ", ".join(found["files"])
        raise InputError(
            f"its manifest is of {names}", "verify the output under the name that it was written with", path
        )
    for name, told in found["files"].items():
        _check(target.with_name(name), told, path)
    digests = {name: told["sha256"] for name, told in found["files"].items()}
    total = sum(told["bytes"] for told in found["files"].values())
    return Verified(os.fspath(path), digests, total, str(found["created"]), dict(found["provenance"]))


def _check(file: Path, told: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    name = "it" if file.name == os.path.basename(path) else file.name
    if not file.exists():
        raise InputError(f"{file.name} is missing", "make the output again", path)
    if (size := size_of(file)) != told["bytes"]:
        raise InputError(f"{name} has {size} bytes, the manifest says {told['bytes']}", "make it again", path)
    if sha256_of(file) != told["sha256"]:
        raise InputError(f"the checksum of {name} is not what the manifest says: it has changed", "make it again", path)


def is_complete(path: str | os.PathLike[str], key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The manifest of an output that is there, whole, and made of the same inputs in the same way."""
    from geosr.writing.journal import differences

    try:
        found = read(path)
        if not isinstance(found["key"], dict) or differences(found["key"], key):
            return None
        verify(path)
    except (InputError, KeyError):
        return None
    return found


def check_input(path: Path, sha256: str) -> None:
    """Hold a file that is read against its manifest, where there is one.

    Raises
    ------
    InputError
        The file's checksum is not what its manifest says.
    """
    path = Path(os.path.abspath(path))
    if not manifest_of(path).is_file():
        return
    try:
        told = read(path)["files"].get(path.name, {})
    except InputError:
        return  # another program's <name>.json
    if told.get("sha256", sha256) != sha256:
        hint = "it is damaged or was edited: make it again, or remove its .json to use it as it is"
        raise InputError("its checksum is not what its manifest says", hint, path)
