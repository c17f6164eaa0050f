"""Both engines give the numbers of a plain convolution."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.signal import correlate

from geosr.errors import UsageError
from geosr.models import load_model
from geosr.models.bundle import load_bundle
from geosr.models.engines import choose, engine

ENGINES = ["onnx", pytest.param("tensorflow", marks=pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"))]  # fmt: skip  # noqa: E501


def by_hand(x, arrays):
    """The network by scipy's correlation, in float64. x (H, W, c) -> (H - 2r, W - 2r)."""
    for i, (kernel, bias) in enumerate(arrays):
        filters = [correlate(x, kernel[..., f].astype(np.float64), "valid")[..., 0] for f in range(kernel.shape[3])]
        x = np.stack(filters, axis=-1) + (0 if bias is None else bias)
        if i < len(arrays) - 1:
            x = np.maximum(x, 0)
    return x[..., 0]


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    ("network", "channels", "equivariant"),
    [("srcnn-9-1-5", 1, True), ("srcnn-9-3-5", 2, False), ("srcnn-9-5-5", 1, False)],
)
def test_numbers_of_a_plain_convolution(make_bundle, name, network, channels, equivariant):
    folder, card, arrays = make_bundle(network, channels, equivariant)
    x = np.random.default_rng(1).normal(size=(2, 2 * card.radius + 5, 2 * card.radius + 8, channels))
    out = engine(load_bundle(folder), name)(x.astype(np.float32))
    assert out.shape == (2, 5, 8, 1)
    assert out.dtype == np.float32
    for i in range(2):
        expected = by_hand(x[i].astype(np.float32).astype(np.float64), arrays)
        np.testing.assert_allclose(out[i, ..., 0], expected, atol=1e-5 * np.ptp(expected))


@pytest.mark.parametrize("name", ENGINES)
def test_threads_may_share_it(random_bundle, name):
    run = engine(load_bundle(random_bundle[0]), name)
    fields = [np.random.default_rng(i).normal(size=(1, 20 + i, 30, 1)).astype(np.float32) for i in range(8)]
    alone = [run(x) for x in fields]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, fields))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_one_session_per_process(random_bundle):
    folder = random_bundle[0]
    assert engine(load_bundle(folder), "onnx") is engine(load_bundle(folder), "onnx")
    assert engine(load_bundle(folder), "onnx", threads=2) is not engine(load_bundle(folder), "onnx")


def test_choice(monkeypatch):
    present = {"onnxruntime", "tensorflow"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in present else None)
    assert choose("auto") == "onnx"
    assert choose("tensorflow") == "tensorflow"
    present.remove("onnxruntime")
    assert choose("auto") == "tensorflow"
    with pytest.raises(UsageError, match="pip install onnxruntime"):
        choose("onnx")
    present.clear()
    for name in ("auto", "tensorflow"):
        with pytest.raises(UsageError, match=r"geosr\[tensorflow\]"):
            choose(name)
    with pytest.raises(UsageError, match="auto, onnx, tensorflow"):
        choose("torch")


@pytest.mark.parametrize("name", ENGINES)
def test_model_runs_the_engine_it_is_told(random_bundle, name):
    x = np.random.default_rng(0).normal(size=(25, 21)).astype(np.float32)
    expected = by_hand(x[..., None].astype(np.float64), random_bundle[2])
    np.testing.assert_allclose(load_model(random_bundle[0]).residual(x, name), expected, atol=1e-5 * np.ptp(expected))


def test_onnx_needs_neither_tensorflow_nor_h5py():
    code = (
        "import sys, numpy as np\n"
        "sys.modules.update(dict.fromkeys(['tensorflow', 'keras', 'h5py']))\n"
        "from geosr.models import default_model, load_model\n"
        "model = load_model(default_model(4))\n"
        "assert np.isfinite(model.predict(np.ones((9, 9), np.float32))).all()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
