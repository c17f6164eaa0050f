"""Small bundles with random weights."""

from __future__ import annotations

import os

import numpy as np
import pytest

from geosr.models.architectures import architecture
from geosr.models.bundle import Card, save_bundle

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def random_arrays(name: str, channels: int, bias: bool, seed: int = 0):
    rng = np.random.default_rng(seed)
    arrays = []
    for shape in architecture(name).kernel_shapes(channels):
        kernel = rng.normal(0, np.sqrt(2 / np.prod(shape[:3])), shape).astype(np.float32)
        arrays.append((kernel, rng.normal(0, 0.1, shape[3]).astype(np.float32) if bias else None))
    return arrays


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory):
    """make_bundle(architecture, channels, equivariant) -> (folder, card, arrays)."""
    pytest.importorskip("keras", reason="bundles are written with Keras (extra: tensorflow)")

    def make(name: str = "srcnn-9-1-5", channels: int = 1, equivariant: bool = True, scale: int = 4, **card):
        arrays = random_arrays(name, channels, not equivariant)
        folder = tmp_path_factory.mktemp("bundle") / "random"
        radius = architecture(name).radius
        written = Card("random", name, scale, radius, channels=channels, equivariant=equivariant, **card)
        return folder, save_bundle(folder, written, arrays), arrays

    return make


@pytest.fixture(scope="session")
def random_bundle(make_bundle):
    """One bundle for tests that only read it, or copy it first."""
    return make_bundle()
