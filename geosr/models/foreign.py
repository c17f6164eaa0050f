"""What is passed for a model and is none of geosr's: files of Keras, TensorFlow, PyTorch, told by their first bytes.

They may carry code, and are neither loaded nor unpacked here.
"""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

from geosr.errors import ModelError

#: The file that makes a folder or zip a bundle.
CARD = "card.json"

# A zip of a bundle, and its directory, at most: the largest architecture has 3 MB.
_MAX_ZIP, _MAX_DIRECTORY = 64 << 20, 1 << 20


@dataclass(frozen=True)
class Foreign:
    """A file or folder of another program's: what it is, why it is no bundle, and what to do."""

    name: str
    what: str
    hint: str


_IMPORT = "take its weights alone: geosr models import {} --scale N -o my_model"
_RESAVE = "save its weights by Keras (model.save_weights('x.weights.h5')), then: geosr models import x.weights.h5"


def foreign_kind(place: Path) -> Foreign | None:
    """What ``place`` is, if it is a model of Keras, TensorFlow, PyTorch or the like; told by its first bytes."""
    if place.is_dir():
        if (place / CARD).is_file() or not any((place / n).exists() for n in ("saved_model.pb", "keras_metadata.pb")):
            return None
        return Foreign("savedmodel", "a TensorFlow SavedModel is refused, because it is code", _RESAVE)
    if not place.is_file():
        return None
    try:
        with place.open("rb") as stream:
            head = stream.read(16)
        names = zipfile.ZipFile(check_archive(place)).namelist() if head.startswith(b"PK") else []
    except (OSError, zipfile.BadZipFile, ValueError):
        return None
    suffix = place.suffix.lower()
    if any(n.endswith(CARD) for n in names):
        return None
    keras = Foreign("keras", "whole Keras models are refused, because they can carry code", _IMPORT.format(place.name))
    if head.startswith(b"\x89HDF") or "model.weights.h5" in names:
        return keras
    pickled = head[:1] == b"\x80" or any(n.endswith(".pkl") for n in names)
    if pickled or suffix in (".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt"):
        return Foreign("pickle", "pickles, PyTorch's among them, are refused, because they run code", _RESAVE)
    if suffix in (".h5", ".hdf5", ".keras"):
        return keras
    if head[4:8] == b"TFL3" or suffix in (".onnx", ".tflite", ".pb"):
        return Foreign("graph", "a graph alone does not say what it is for, and is not run", _RESAVE)
    return None


def check_archive(place: Path) -> Path:
    """``place``, a zip, if its size and the size of its directory, which is read whole, are those of a model.

    Raises
    ------
    ModelError
        It is larger.
    """
    size = place.stat().st_size
    with place.open("rb") as stream:
        stream.seek(max(0, size - (1 << 16) - 22))
        tail = stream.read()
    at = tail.rfind(b"PK\x05\x06")
    directory = struct.unpack_from("<I", tail, at + 12)[0] if 0 <= at <= len(tail) - 22 else 0
    if size > _MAX_ZIP or directory > _MAX_DIRECTORY:
        raise ModelError(f"an archive of {size} bytes, {directory} of them names, is no model", "fetch the model again")
    return place
