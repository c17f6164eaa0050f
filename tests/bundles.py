"""Bundles for tests, written without Keras, and an envelope like those of the shipped ones."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from geosr.models import load_model, onnx_network
from geosr.models.architectures import architecture
from geosr.models.bundle import PARTS, Card, rewrite_card

#: What docs/envelope.py prints for days of GEMS and a week of OMI, averaged by 2 to 4.
NO2_ENVELOPE: dict[str, Any] = {
    "units": "1e15 molec cm-2",
    "coarse_cell_m": [10045, 111195],
    "statistics": {
        "lower": [0.5265, 1.293],
        "upper": [5.741, 16.6],
        "peak": [7.806, 58.92],
        "noise": [0.009408, 0.03599],
        "neighbours": [0.925, 0.9874],
        "levels": [13060.0, 258500.0],
    },
}


def bundle_with(folder: Path, name: str = "no2-srcnn-9-3-5-n64-x4", **changes: Any) -> Path:
    """A copy in ``folder`` of the shipped model ``name`` whose card has ``changes``."""
    source = load_model(name)
    place = folder / "changed"
    shutil.copytree(source.path, place)
    rewrite_card(place, replace(source.card, **changes))
    return place


def random_bundle(
    folder: Path, name: str = "srcnn-9-1-5", scale: int = 4, sigma: str | None = None, **card: Any
) -> Path:
    """A bundle in ``folder`` of architecture ``name``, with the error predicted by ``sigma``; the weights are random.

    First kernels sum to zero, as those of trained equivariant networks do.
    """
    rng = np.random.default_rng(0)
    files: dict[str, dict[str, Any]] = {}
    folder.mkdir(parents=True, exist_ok=True)
    for part, key in (("model", name), ("sigma", sigma)):
        if key is None:
            continue
        arch = architecture(key)
        kernels = [
            rng.normal(0, 1 / np.sqrt(np.prod(s[:3])), s).astype(np.float32) for s in arch.kernel_shapes(1, scale)
        ]
        kernels[0] -= kernels[0].mean(axis=(0, 1, 2), keepdims=True)
        data = onnx_network.write(arch, [(k, None) for k in kernels], scale)
        file = PARTS[part][0]
        (folder / file).write_bytes(data)
        files[file] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    about = {"architecture": sigma} if sigma else {}
    radius = architecture(name).radius(scale)
    rewrite_card(folder, Card(f"random-{name}", name, scale, radius, sigma=about, files=files, **card))
    return folder
