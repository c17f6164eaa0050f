"""A bundle out of a Keras model of one's own or from elsewhere: of its file only the weights are taken.

``.keras``, ``.weights.h5`` and whole ``.h5`` models all hold their weights as plain arrays in HDF5. Which layers they
belong to would be told by a configuration that may name code; it is not read. Instead the arrays must be, in number and
shape, those of an architecture of geosr's own registry, and it is that which runs.

An SRCNN of the literature refines the bicubic field itself (no residual), with biases, in "Y" from 0 to 1: which
columns 0 and 1 stand for, its file cannot say.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geosr.channel import AffineScaler
from geosr.errors import ModelError, OutputError, UsageError
from geosr.grid import check_scale
from geosr.models.architectures import ARCHITECTURES, Architecture, architecture
from geosr.models.bundle import Arrays, Card, save_bundle
from geosr.models.foreign import CARD, check_archive, foreign_kind
from geosr.units import parse

#: Bytes of a model file, packed and unpacked, at most: the largest architecture in double precision, with an
#: optimizer's moments beside it, is an eighth of that.
MOST_BYTES = 32 << 20

_SECONDS = 60
_H5 = b"\x89HDF\r\n\x1a\n"

#: What 0 and 1 stand for unless the user says otherwise.
RANGE, UNITS = (0.0, 30.0), "1e15 molec cm-2"


@dataclass(frozen=True)
class Wishes:
    """What a file of weights does not say.

    Attributes
    ----------
    scale : fine cells along a coarse cell's side that it was trained for.
    architecture : key of the registry, or the kernel sizes alone ("9-1-5"); None finds the one that fits.
    low, high, units : the columns that the network's 0 and 1 stand for.
    residual : its output is added to the bicubic field, rather than being the field.
    name : of the model; default the file's.
    """

    scale: int
    architecture: str | None = None
    low: float = RANGE[0]
    high: float = RANGE[1]
    units: str = UNITS
    residual: bool = False
    name: str | None = None

    def check(self) -> AffineScaler:
        """The scaler they mean; raises :class:`UsageError` for what is impossible."""
        check_scale(self.scale)
        parse(self.units)
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low < self.high):
            raise UsageError(f"--range {self.low:g} {self.high:g} is none", "give the columns that 0 and 1 stand for")
        candidates(self.architecture)
        return AffineScaler(float(self.low), float(self.high - self.low), self.units)


def import_keras(
    path: str | os.PathLike[str], output: str | os.PathLike[str], wishes: Wishes, overwrite: bool = False
) -> Card:
    """Make a bundle at ``output``, a folder, of the weights in the Keras file at ``path``.

    Returns
    -------
    The card: training data and licence unknown, so is what it was trained on; it says so in ``limits``.

    Raises
    ------
    ModelError
        Not a Keras file, one that reaches out of itself, is damaged or too large, or whose weights are of no
        architecture that geosr knows, or not finite.
    UsageError, OutputError
        Impossible wishes; an output that exists or cannot be written.
    """
    source, place = Path(path), Path(output)
    scaler = wishes.check()
    if place.suffix.lower() in (".zip", ".keras", ".h5"):
        raise UsageError(f"{place} would be a folder", "name a folder with -o, e.g. -o my_model")
    if (place.exists() or place.is_symlink()) and not (overwrite and (place / CARD).is_file()):
        hint = "use --overwrite to replace it" if (place / CARD).is_file() else "name another output with -o"
        raise OutputError("exists", hint, place)
    try:
        data, sha256 = _weights_file(source)
        arch, arrays = match(read_arrays(data), wishes.architecture, wishes.scale)
    except ModelError as error:
        error.path = error.path or str(source)
        raise
    card = _card(source, sha256, arch, scaler, wishes)
    return _save(place, card, arrays)


# --- the file ------------------------------------------------------------------------------------------------------


def _weights_file(source: Path) -> tuple[bytes, str]:
    """(the HDF5 file with the weights, sha256 of the file that it came in)."""
    foreign = foreign_kind(source)
    if foreign is not None and foreign.name != "keras":
        raise ModelError(f"{foreign.what}", foreign.hint)
    if not source.is_file():
        raise ModelError("no such model", "give a .keras, .h5 or .weights.h5 file")
    with source.open("rb") as stream:
        data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ModelError(
            f"larger than any architecture of geosr can be ({MOST_BYTES >> 20} MB)", "save it without its optimizer"
        )
    sha256 = hashlib.sha256(data).hexdigest()
    if data.startswith(_H5):
        return data, sha256
    if not zipfile.is_zipfile(source):
        raise ModelError("not a Keras file", "give a .keras, .h5 or .weights.h5 file")
    try:
        with zipfile.ZipFile(check_archive(source)) as archive:
            names = [i for i in archive.infolist() if i.filename == "model.weights.h5"]
            if len(names) != 1:
                raise ModelError(f"it holds {len(names)} files model.weights.h5, not one", "save it by Keras again")
            with archive.open(names[0]) as packed:
                inner = packed.read(MOST_BYTES + 1)
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"the archive is damaged ({error})", "save it by Keras again") from error
    if len(inner) > MOST_BYTES:
        raise ModelError(
            f"its weights unpack to more than any architecture can be ({MOST_BYTES >> 20} MB)", "save it again"
        )
    return inner, sha256


def read_arrays(data: bytes) -> dict[str, np.ndarray]:
    """Arrays of floats in the HDF5 file ``data`` by their path, read in a process of its own (:mod:`hdf5_arrays`).

    Raises
    ------
    ModelError
        The file is damaged, reaches out of itself, claims more than it holds, or the process came to grief over it.
    """
    import importlib.util

    from geosr.reading import landlock

    if importlib.util.find_spec("h5py") is None:
        raise UsageError("Keras files need h5py, which is not installed", "pip install h5py")
    script = Path(__file__).with_name("hdf5_arrays.py")
    command = [sys.executable, "-I", os.fspath(script), os.fspath(landlock.__file__), str(MOST_BYTES)]
    # What HDF5 would take from the environment: a driver, or a folder of filters that are code.
    env = {k: v for k, v in os.environ.items() if not k.startswith("HDF5_")} | {"HDF5_PLUGIN_PRELOAD": "::"}
    with tempfile.TemporaryFile() as answer:
        try:
            done = subprocess.run(
                command, input=data, stdout=answer, stderr=subprocess.DEVNULL, timeout=_SECONDS, env=env, check=False
            )
        except subprocess.TimeoutExpired:
            raise ModelError(f"reading it takes more than {_SECONDS} s", "save it by Keras again") from None
        answer.seek(0)
        body = answer.read(MOST_BYTES + (2 << 20))
    if done.returncode:
        raise ModelError(f"the HDF5 library fails on it (code {done.returncode})", "save it by Keras again")
    return _answer(body)


def _answer(body: bytes) -> dict[str, np.ndarray]:
    at = 8 + int.from_bytes(body[:8], "little")
    try:
        said: dict[str, Any] = json.loads(body[8:at])
        if "refused" in said:
            raise ModelError(str(said["refused"]), "save the weights by Keras again (model.save_weights)")
        if "damaged" in said:
            raise ModelError(f"truncated or corrupt ({said['damaged']})", "save it again, or fetch it again")
        found = {}
        for path, shape, dtype in said["arrays"]:
            kind = np.dtype(dtype)
            end = at + kind.itemsize * int(np.prod([int(n) for n in shape], dtype=object))
            found[str(path)] = np.frombuffer(body[at:end], kind).reshape(shape)
            at = end
        return found
    except (ValueError, TypeError, KeyError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError("the HDF5 library fails on it", "save it by Keras again") from error


# --- the architecture ----------------------------------------------------------------------------------------------


def candidates(name: str | None) -> list[Architecture]:
    """Architectures that ``name`` may mean, SRCNN alone: how the blocks of others are joined no weights can tell.

    Raises
    ------
    ModelError
        There is none; the message lists them.
    """
    known = [a for a in ARCHITECTURES.values() if a.family == "srcnn"]
    if name is None:
        return known
    wanted = name.strip().lower().removeprefix("srcnn-")
    hits = [a for a in known if re.fullmatch(re.escape(f"srcnn-{wanted}") + r"(-n\d+)?", a.name)]
    if hits:
        return hits
    if name in ARCHITECTURES:
        raise ModelError(
            f"{name} cannot be imported: its weights do not tell how its blocks are joined", "train it anew"
        )
    architecture(name)  # raises
    return []


def match(found: Mapping[str, np.ndarray], name: str | None, scale: int) -> tuple[Architecture, Arrays]:
    """The architecture whose weights ``found`` are, and the weights in its order, float32; missing biases are 0.

    Raises
    ------
    ModelError
        Other layers, other shapes, channels or number of convolutions; NaN or infinity.
    """
    kernels = {path: a for path, a in found.items() if a.ndim == 4}
    groups = [path.rpartition("/")[0] for path in kernels]
    others = {p: a for p, a in found.items() if p not in kernels}
    odd = next((p for p, a in others.items() if a.ndim != 1 or p.rpartition("/")[0] not in groups), None)
    if odd is not None:
        size = " x ".join(map(str, others[odd].shape))
        raise ModelError(
            f"it has more than convolutions: {odd} ({size})",
            "geosr's SRCNN is convolutions, biases and ReLU: no normalisation, PReLU or dense layers",
        )
    fits = [a for a in candidates(name) if _fits(a, kernels, scale)]
    if not fits:
        raise _mismatch(kernels, name, scale)
    arch = fits[0]
    arrays: Arrays = []
    for shape in fits[0].kernel_shapes(1, scale):
        path = next(p for p, a in kernels.items() if a.shape == shape)
        biases = [a for p, a in others.items() if p.rpartition("/")[0] == path.rpartition("/")[0]]
        if len(biases) > 1 or any(b.shape != shape[3:] for b in biases):
            sizes = ", ".join(str(b.size) for b in biases)
            raise ModelError(f"{path} has biases of {sizes} numbers, not of {shape[3]}", "save it by Keras again")
        bias = biases[0] if biases else np.zeros(shape[3])
        with np.errstate(over="ignore"):
            arrays.append((np.ascontiguousarray(kernels[path], np.float32), np.ascontiguousarray(bias, np.float32)))
    if not all(np.isfinite(a).all() for pair in arrays for a in pair if a is not None):
        raise ModelError("the weights hold NaN or infinity", "train it anew")
    return arch, arrays


def _fits(arch: Architecture, kernels: Mapping[str, np.ndarray], scale: int) -> bool:
    return sorted(a.shape for a in kernels.values()) == sorted(arch.kernel_shapes(1, scale))


def _mismatch(kernels: Mapping[str, np.ndarray], name: str | None, scale: int) -> ModelError:
    """The error that says what the file holds instead, and which architecture that is."""

    def listed(shapes: Any) -> str:
        return ", ".join("x".join(map(str, s)) for s in list(shapes)[:8]) + (", …" if len(list(shapes)) > 8 else "")

    have = [a.shape for a in kernels.values()]
    if not have:
        return ModelError("it holds no convolutions", "save the weights of the model, e.g. model.save_weights")
    channels = [s[2] for s in have if s[:2] == (9, 9)]
    if channels and channels[0] != 1:
        return ModelError(
            f"its first convolution takes {channels[0]} channels", "geosr refines one field: train it on one channel"
        )
    fits = [a.name for a in candidates(None) if _fits(a, kernels, scale)]
    known = "; ".join(f"{a.name}: {listed(a.kernel_shapes(1, scale))}" for a in candidates(name))
    hint = f"use --architecture {fits[0]}" if fits else f"geosr knows {known}"
    return ModelError(f"its convolutions ({listed(have)}) are not those of {name or 'any SRCNN in geosr'}", hint)


# --- the bundle ----------------------------------------------------------------------------------------------------


def _card(source: Path, sha256: str, arch: Architecture, scaler: AffineScaler, wishes: Wishes) -> Card:
    name = wishes.name or re.split(r"\.(?:weights\.)?(?:keras|h5|hdf5)$", source.name, flags=re.I)[0]
    name = re.sub(r"[^\w.+-]+", "-", name).strip("-.")[:80] or "imported"
    low, high = scaler.offset, scaler.offset + scaler.scale
    return Card(
        name=name,
        architecture=arch.name,
        scale=wishes.scale,
        radius=arch.radius(wishes.scale),
        description=f"imported from a Keras file, {arch.name}; training data, licence and skill unknown",
        residual=wishes.residual,
        equivariant=False,
        scaler=scaler,
        training={
            "data": [],
            "data_known": False,
            "licence": "unknown",
            "imported": {"file": source.name, "sha256": sha256, "bytes": source.stat().st_size},
        },
        limits=[
            "What it was trained on is not known: whether a field is like that is not checked.",
            f"Its input from 0 to 1 is taken to be {low:g} to {high:g} {wishes.units}, as the import was told.",
            "Its convolutions are taken to be followed by ReLU, the last by nothing; its file was not asked.",
            "geosr evaluate tells whether it is any better than interpolation on maps of yours.",
        ],
        envelope={"unknown": "imported weights do not tell what they were trained on"},
    )


def _save(place: Path, card: Card, arrays: Arrays) -> Card:
    """Write beside the target, then rename: a bundle is whole or not there."""
    from geosr.models import load_model

    temporary = None
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".partial", dir=place.absolute().parent))
        made = temporary / "bundle"
        written = save_bundle(made, card, arrays, keras=False)
        load_model(made, card.scale)  # as downscale will
        if place.exists():
            os.replace(place, temporary / "old")
        os.replace(made, place)
        return written
    except OSError as error:
        raise OutputError(f"cannot be written ({error.strerror or error})", "check the folder", place) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
