"""Model bundles: a folder or zip with arrays and one JSON card that says what they are.

========================  ==============================================================================================
``card.json``             :class:`Card`; names the architecture (by registry name), and every other file with its sha256
``model.onnx``            weights and graph for inference; geosr reads the weights and writes its own graph
``weights.keras``         optional: the same weights, for Keras; geosr checks its sha256 and does not open it
``sigma.onnx``            optional, like ``model.onnx``: the small network that predicts the error of the first
``sigma.keras``           the same for Keras
========================  ==============================================================================================

Nothing in a bundle is executed: the network is built from geosr's own registry, and the files only fill in numbers
whose count and shape the registry fixes. So a bundle from a stranger can be wrong, but not dangerous. Whole ``.h5`` and
``.keras`` models, which may carry code, are refused; :mod:`geosr.models.importing` takes the weights out of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from geosr.channel import AffineScaler
from geosr.errors import GeosrError, ModelError
from geosr.grid import check_scale
from geosr.models import onnx_network
from geosr.models.architectures import FAMILIES, Architecture, architecture
from geosr.models.foreign import CARD, check_archive, foreign_kind

FORMAT = "geosr-model/1"
ONNX, KERAS = "model.onnx", "weights.keras"
SIGMA_ONNX, SIGMA_KERAS = "sigma.onnx", "sigma.keras"
#: Networks that a bundle may hold, and their files.
PARTS = {"model": (ONNX, KERAS), "sigma": (SIGMA_ONNX, SIGMA_KERAS)}
_MAX_CARD = 1 << 20
_MAX_CHANNELS = 64
# What a file may hold besides its weights: names and structure.
_OVERHEAD = 1 << 18
# Nesting, and lengths, that no card of geosr's comes near.
_MAX_DEPTH, _MAX_NAME, _MAX_TEXT = 40, 120, 10_000
_AGAIN = "fetch the model again, or train it anew"

Arrays = onnx_network.Arrays


@dataclass(frozen=True)
class Card:
    """What a model is, where it comes from and how good it is.

    Attributes
    ----------
    name, version, description : for people, and for provenance.
    architecture : key of :data:`geosr.models.architectures.ARCHITECTURES`, of a family that refines.
    scale : fine cells along a coarse cell's side.
    channels : input fields; the first is the one to refine.
    residual : the output is added to the bicubic field (else it is the field).
    equivariant : f(a x + c) = a f(x) for a > 0, by construction (:mod:`geosr.models.keras_network`); no biases.
    scaler : physical units to the channel.
    radius : receptive radius in fine cells; must be the registry's.
    training : data with licences, the whole recipe, software, seconds.
    skill : one entry per held-out set: scores of the model and of each baseline.
    limits : what it is not good for, and what its skill does not say; sentences for people.
    envelope : what it was trained on, as :class:`geosr.envelope.Envelope` reads it.
    sigma : of the network that predicts the error: its ``architecture``, and how it was trained; empty without one.
    files : name -> {"sha256": …, "bytes": …}.
    """

    name: str
    architecture: str
    scale: int
    radius: int
    version: str = "1"
    description: str = ""
    channels: int = 1
    residual: bool = True
    equivariant: bool = True
    scaler: AffineScaler = field(default_factory=AffineScaler)
    training: dict[str, Any] = field(default_factory=dict)
    skill: list[dict[str, Any]] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)
    envelope: dict[str, Any] = field(default_factory=dict)
    sigma: dict[str, Any] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def network(self) -> Architecture:
        """The registry's entry."""
        return architecture(self.architecture)

    @property
    def sigma_network(self) -> Architecture | None:
        """The registry's entry of the network that predicts the error, if there is one."""
        return architecture(str(self.sigma.get("architecture"))) if self.sigma else None

    @property
    def family(self) -> str:
        """What to call the method: ``edsr`` or ``srcnn``."""
        return self.network.family

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {"format": FORMAT, **asdict(self)}

    def to_json(self) -> str:
        """The text of ``card.json``."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Card:
        """The card in ``text``, every value checked; a :class:`ModelError` says what is wrong."""
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{CARD} is not JSON ({error})", _AGAIN) from error
        _check(_depth(raw) <= _MAX_DEPTH, "nesting")
        if not isinstance(raw, dict) or raw.pop("format", None) != FORMAT:
            raise ModelError(f"{CARD} is not a geosr model card ({FORMAT})", "use a bundle that geosr made")
        known = {f.name: f for f in fields(cls)}
        # A later version may say more; what decides the numbers must be there and right.
        values = {k: v for k, v in raw.items() if k in known}
        for key, kind in _KINDS.items():
            value = values.get(key)
            _check(isinstance(value, kind) and (kind is not int or not isinstance(value, bool)), key)
        try:
            values["scaler"] = _scaler(values["scaler"])
            card = cls(**values)
            check_scale(card.scale)
        except (TypeError, ValueError, OverflowError, GeosrError) as error:
            raise ModelError(f"{CARD} is not usable: {error}", _AGAIN) from error
        _check(1 <= card.channels <= _MAX_CHANNELS, "channels")
        _check(0 < len(card.name) <= _MAX_NAME and card.name.isprintable(), "name")
        for key, kind in _OTHER_KINDS.items():
            _check(isinstance(getattr(card, key), kind), key)
        _check(len(card.version) <= _MAX_NAME and len(card.description) <= _MAX_TEXT, "description")
        _check(all(isinstance(v, str) for v in card.limits) and all(isinstance(v, dict) for v in card.skill), "skill")
        _check(card.network.family in FAMILIES, "architecture")
        _check(card.radius == card.network.radius(card.scale), "radius")
        _check(card.sigma_network is None or card.sigma_network.family == "sigma", "sigma")
        return card


_KINDS: dict[str, type] = {
    "name": str,
    "architecture": str,
    "scale": int,
    "radius": int,
    "channels": int,
    "residual": bool,
    "equivariant": bool,
    "scaler": dict,
    "files": dict,
}


_OTHER_KINDS: dict[str, type] = {
    "version": str,
    "description": str,
    "training": dict,
    "skill": list,
    "limits": list,
    "envelope": dict,
    "sigma": dict,
}


def _check(good: bool, key: str) -> None:
    if not good:
        raise ModelError(f"{CARD}: {key!r} is missing or wrong", _AGAIN)


def _depth(value: Any) -> int:
    """How deep lists and objects lie in each other, counted no farther than is allowed."""
    level, depth = [value], 0
    while level and depth <= _MAX_DEPTH:
        depth += 1
        level = [w for v in level for w in (v.values() if isinstance(v, dict) else v if isinstance(v, list) else ())]
    return depth


def _scaler(raw: dict[str, Any]) -> AffineScaler:
    """The scaler of a card: numbers, and units that geosr knows or none."""
    from geosr.units import parse

    _check(set(raw) <= {"offset", "scale", "units"}, "scaler")
    for key in ("offset", "scale"):
        _check(key not in raw or (isinstance(raw[key], int | float) and not isinstance(raw[key], bool)), "scaler")
    units = raw.get("units")
    _check(units is None or isinstance(units, str), "scaler")
    if units is not None:
        parse(units)
    scaler = AffineScaler(float(raw.get("offset", 0.0)), float(raw.get("scale", 1.0)), units)
    # Beyond these a float32 channel is all zeros or all infinite, whatever the units of a column.
    _check(1e-30 < abs(scaler.scale) < 1e30 and abs(scaler.offset) < 1e30, "scaler")
    return scaler


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory: the card, the checked files, and the sha256 of ``card.json``, which names them all."""

    card: Card
    files: dict[str, bytes]
    sha256: str
    path: str

    def network(self, part: str = "model") -> Architecture:
        """The registry's entry of ``part``, a key of :data:`PARTS`."""
        found = self.card.network if part == "model" else self.card.sigma_network
        if found is None:
            raise ModelError(f"the model has no {part} network", "choose a model that has one", self.path)
        return found

    def channels(self, part: str = "model") -> int:
        """Input channels of ``part``."""
        return self.card.channels if part == "model" else 1

    def bias(self, part: str = "model") -> bool:
        """Do the convolutions of ``part`` have biases?"""
        return part == "model" and not self.card.equivariant

    def onnx_arrays(self, part: str = "model") -> Arrays:
        """Weights from ``model.onnx`` or ``sigma.onnx``, shapes checked, finite."""
        arch, data = self.network(part), self._file(PARTS[part][0])
        return _finite(onnx_network.read_arrays(data, arch, self.channels(part), self.card.scale, self.bias(part)))

    def _file(self, name: str) -> bytes:
        if name not in self.files:
            raise ModelError(f"the model has no {name}", "choose another --engine", self.path)
        return self.files[name]


def load_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read and check the bundle at ``path``, a folder or a zip.

    Raises
    ------
    ModelError
        Anything missing, damaged, too large or not what the card says; whole Keras models.
    """
    place = Path(path)
    try:
        with _opened(place) as read:
            return _read_bundle(read, place)
    except ModelError as error:
        error.path = error.path or str(place)
        raise
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ModelError(f"the model cannot be read ({error})", _AGAIN, place) from error


class _opened:
    """Context: a function ``read(name, most)`` for the files of a folder or zip; at most ``most`` bytes, else None."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.zip: zipfile.ZipFile | None = None

    def __enter__(self) -> Callable[[str, int], bytes | None]:
        place = self.place
        foreign = foreign_kind(place)
        if foreign is not None:
            raise ModelError(foreign.what, foreign.hint)
        if place.is_dir():
            return self._read_folder
        if not place.is_file():
            raise ModelError(
                "no such model",
                "give a bundle (folder or zip with a card.json) or a name that geosr models lists",
            )
        if not zipfile.is_zipfile(place):
            raise ModelError("not a model bundle", "give a folder or a zip with a card.json")
        self.zip = zipfile.ZipFile(check_archive(place))
        return self._read_zip

    def __exit__(self, *_: object) -> None:
        if self.zip is not None:
            self.zip.close()

    def _read_folder(self, name: str, most: int) -> bytes | None:
        file = self.place / name
        if not file.is_file():
            raise ModelError(f"the model has no {name}", _AGAIN)
        with file.open("rb") as stream:
            data = stream.read(most + 1)
        return data if len(data) <= most else None

    def _read_zip(self, name: str, most: int) -> bytes | None:
        archive = self.zip
        names = archive.namelist() if archive is not None else []
        found = [n for n in names if n == name or (n.count("/") == 1 and n.endswith("/" + name))]
        if archive is None or len(found) != 1:
            raise ModelError(f"the model has {len(found)} files {name}, not one", _AGAIN)
        if archive.getinfo(found[0]).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ModelError(f"{name} is packed by another method than deflate", "pack it with an ordinary zip")
        with archive.open(found[0]) as stream:  # reads what is there, whatever size the directory claims
            data = stream.read(most + 1)
        return data if len(data) <= most else None


def _read_bundle(read: Callable[[str, int], bytes | None], place: Path) -> Bundle:
    text = read(CARD, _MAX_CARD)
    if text is None:
        raise ModelError(f"{CARD} is larger than {_MAX_CARD} bytes", _AGAIN)
    card = Card.from_json(text)
    files = {}
    for name, claim in card.files.items():
        part = next((p for p, names in PARTS.items() if name in names), None)
        arch = {"model": card.network, "sigma": card.sigma_network}.get(str(part))
        if arch is None or not isinstance(claim, dict):
            raise ModelError(f"{CARD} names {name!r}, which no such model has", _AGAIN)
        most = 4 * arch.weight_count(card.channels, card.scale, bias=True) + _OVERHEAD
        data = read(name, most)
        if data is None:
            raise ModelError(f"{name} is larger than {arch.name} can be ({most} bytes)", _AGAIN)
        if hashlib.sha256(data).hexdigest() != claim.get("sha256"):
            raise ModelError(f"{name} is not the file that the card describes (sha256)", _AGAIN)
        files[name] = data
    bundle = Bundle(card, files, hashlib.sha256(text).hexdigest(), str(place))
    bundle.onnx_arrays()  # every model has one; wrong shapes must not wait for the first tile
    if card.sigma:
        bundle.onnx_arrays("sigma")
    return bundle


def _finite(arrays: Arrays) -> Arrays:
    for kernel, bias in arrays:
        if not np.isfinite(kernel).all() or (bias is not None and not np.isfinite(bias).all()):
            raise ModelError("the weights hold NaN or infinity", _AGAIN)
    return arrays


def save_bundle(
    folder: str | os.PathLike[str],
    card: Card,
    arrays: Arrays,
    sigma_arrays: Arrays | None = None,
    keras: bool = True,
) -> Card:
    """Write a bundle: ``model.onnx``, ``weights.keras`` (needs Keras) and, last, ``card.json``.

    Parameters
    ----------
    folder : created; files of an older bundle in it are replaced.
    card : ``files`` is filled in here.
    sigma_arrays : weights of ``card.sigma_network``, where there is one.
    keras : False leaves ``weights.keras`` out.

    Returns
    -------
    The card as written.
    """
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    (place / CARD).unlink(missing_ok=True)  # a bundle without a card is no bundle: never a card for other files
    card = replace(card, files={})
    files = {}
    for part, weights in (("model", arrays), ("sigma", sigma_arrays)):
        if weights is None:
            continue
        bundle = Bundle(card, {}, "", str(place))
        arch, channels, bias = bundle.network(part), bundle.channels(part), bundle.bias(part)
        written = [place / PARTS[part][0]]
        written[0].write_bytes(onnx_network.write(arch, weights, card.scale))
        if keras:
            from geosr.models import keras_network

            written.append(place / PARTS[part][1])
            model = keras_network.build(arch, channels, scale=card.scale, equivariant=not bias, training=False)
            keras_network.with_arrays(model, weights).save(written[1])
        for file in written:
            data = file.read_bytes()
            files[file.name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    return rewrite_card(place, replace(card, files=files))


def rewrite_card(folder: str | os.PathLike[str], card: Card) -> Card:
    """Replace the card of the bundle in ``folder``, for instance after scoring it. Returns ``card``."""
    (Path(folder) / CARD).write_text(card.to_json(), encoding="utf-8")
    return card
