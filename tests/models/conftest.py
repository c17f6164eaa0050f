"""Small bundles with random weights."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from geosr.models.architectures import architecture
from geosr.models.bundle import Card, save_bundle

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def random_arrays(name: str, channels: int, bias: bool, seed: int = 0, scale: int = 4):
    """Weights of a size that keeps values near 1, residual blocks included; zero-sum first kernels without a bias."""
    rng = np.random.default_rng(seed)
    arch, arrays = architecture(name), []
    for layer, shape in zip(arch.layers, arch.kernel_shapes(channels, scale), strict=True):
        size = 0.3 if layer.skip else 1.0
        kernel = rng.normal(0, size * np.sqrt(2 / np.prod(shape[:3])), shape).astype(np.float32)
        if not bias and not arrays:
            kernel -= kernel.mean(axis=(0, 1), keepdims=True)
        arrays.append((kernel, rng.normal(0, 0.1, shape[3]).astype(np.float32) if bias else None))
    return arrays


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory):
    """make_bundle(architecture, channels, equivariant) -> (folder, card, arrays); ``sigma`` adds that network."""
    pytest.importorskip("keras", reason="bundles are written with Keras (extra: tensorflow)")

    def make(
        name: str = "srcnn-9-1-5",
        channels: int = 1,
        equivariant: bool = True,
        scale: int = 4,
        sigma: str = "",
        **card,
    ):
        arrays = random_arrays(name, channels, not equivariant, scale=scale)
        folder = tmp_path_factory.mktemp("bundle") / "random"
        radius = architecture(name).radius(scale)
        written = Card("random", name, scale, radius, channels=channels, equivariant=equivariant, **card)
        if not sigma:
            return folder, save_bundle(folder, written, arrays), arrays
        written = replace(written, sigma={"architecture": sigma})
        return folder, save_bundle(folder, written, arrays, random_arrays(sigma, 1, False, 7, scale)), arrays

    return make


@pytest.fixture(scope="session")
def random_bundle(make_bundle):
    """One bundle for tests that only read it, or copy it first."""
    return make_bundle()
