"""Every engine gives the numbers of a plain convolution."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from scipy.signal import correlate

from geosr import interpolate, native
from geosr.errors import UsageError
from geosr.models import load_model
from geosr.models.bundle import load_bundle
from geosr.models.engines import choose, engine

NATIVE = pytest.param("native", marks=pytest.mark.skipif(not native.available(), reason="built without a compiler"))
HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None
TENSORFLOW = pytest.param(
    "tensorflow", marks=pytest.mark.skipif(not HAS_TENSORFLOW, reason="TensorFlow is not installed")
)
ENGINES = [NATIVE, "onnx", TENSORFLOW]


def convolved(x, kernel, bias):
    filters = [correlate(x, kernel[..., f].astype(np.float64), "valid")[..., 0] for f in range(kernel.shape[3])]
    return np.stack(filters, axis=-1) + (0 if bias is None else bias)


def by_hand(x, arrays):
    """An SRCNN by scipy's correlation, in float64. x (H, W, c) -> (H - 2r, W - 2r)."""
    for i, (kernel, bias) in enumerate(arrays):
        x = convolved(x, kernel, bias)
        if i < len(arrays) - 1:
            x = np.maximum(x, 0)
    return x[..., 0]


def edsr_by_hand(x, arrays, scale):
    """Lim et al. (2017), fig. 2: head, residual blocks without normalisation, tail; Shi et al. (2016), eq. 4."""
    x = convolved(x, *arrays[0])
    for first, second in zip(arrays[1:-1:2], arrays[2:-1:2], strict=True):
        x = x[2:-2, 2:-2] + convolved(np.maximum(convolved(x, *first), 0), *second)
    x = convolved(x, *arrays[-1])
    h, w, _ = x.shape
    fine = np.empty((h * scale, w * scale))
    for row in range(h * scale):
        for col in range(w * scale):
            fine[row, col] = x[row // scale, col // scale, (row % scale) * scale + col % scale]
    return fine


def tile(arch, scale, channels, shape=(6, 7)):
    """A coarse tile for an engine, and what the network sees of it in float64."""
    halo = arch.halo(scale)
    size = (channels, *(n + 2 * halo for n in shape))
    coarse = np.random.default_rng(1).normal(size=size).astype(np.float32)
    if arch.coarse:
        seen, rim = coarse.astype(np.float64), halo - arch.reach
    else:
        seen, rim = interpolate.bicubic(coarse.astype(np.float64), scale), (halo - 2) * scale - arch.reach
    rows, cols = (slice(rim, n - rim) for n in seen.shape[1:])
    return np.moveaxis(coarse, 0, -1), np.moveaxis(seen[:, rows, cols], 0, -1)


NETWORKS = [
    ("srcnn-9-1-5", 1, True, 4),
    ("srcnn-9-1-5", 1, False, 7),
    ("srcnn-9-3-5", 1, True, 4),
    ("srcnn-9-3-5-n64", 1, False, 2),
    ("srcnn-9-3-5-n64", 1, True, 3),
    ("srcnn-9-3-5", 2, False, 4),
    ("srcnn-9-5-5", 1, False, 4),
    ("edsr-16x4", 1, True, 4),
    ("edsr-32x4", 1, False, 2),
    ("edsr-16x4", 2, False, 3),
]


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(("network", "channels", "equivariant", "scale"), NETWORKS)
def test_numbers_of_a_plain_convolution(make_bundle, name, network, channels, equivariant, scale):
    folder, card, arrays = make_bundle(network, channels, equivariant, scale)
    bundle, arch = load_bundle(folder), card.network
    if name == "native" and (channels > 1 or network == "srcnn-9-5-5"):
        with pytest.raises(UsageError, match="no kernel for this network"):
            engine(bundle, name)
        assert choose("auto", bundle) == "onnx"
        return
    coarse, seen = tile(arch, scale, channels)
    out = engine(bundle, name)(coarse)
    assert out.shape == (6 * scale, 7 * scale)
    assert out.dtype == np.float32
    expected = edsr_by_hand(seen, arrays, scale) if arch.coarse else by_hand(seen, arrays)
    np.testing.assert_allclose(out, expected, atol=1e-5 * np.ptp(expected))


@pytest.mark.parametrize("name", ENGINES)
def test_sigma_network(make_bundle, name):
    """The second network of a bundle, by hand; its sign does not matter, and it is about the same cells."""
    folder, _, _ = make_bundle("edsr-16x4", scale=3, sigma="sigma-24x4")
    model = load_model(folder)
    assert model.has_sigma
    bundle = load_bundle(folder)
    arrays = bundle.onnx_arrays("sigma")
    x = np.random.default_rng(2).normal(size=(2 * model.halo + 4, 2 * model.halo + 3)).astype(np.float32)
    rim = model.halo - bundle.network("sigma").reach
    values = x[rim:-rim, rim:-rim, None].astype(np.float64)
    for i, (kernel, bias) in enumerate(arrays):
        values = convolved(values, kernel, bias)
        values = np.maximum(values, 0) if i < len(arrays) - 1 else values
    blocks = values.reshape(4, 3, 3, 3).transpose(0, 2, 1, 3).reshape(12, 9)
    found = model.sigma(x, name)
    np.testing.assert_allclose(found, np.abs(blocks), atol=1e-5 * np.ptp(blocks))
    assert found.min() >= 0
    np.testing.assert_allclose(model.sigma(3 * x + 5, name), 3 * found, atol=2e-5 * np.ptp(blocks))


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("network", ["srcnn-9-3-5-n64", "edsr-16x4"])
def test_threads_may_share_it(make_bundle, name, network):
    run = engine(load_bundle(make_bundle(network)[0]), name)
    fields = [np.random.default_rng(i).normal(size=(30 + i, 40, 1)).astype(np.float32) for i in range(8)]
    alone = [run(x) for x in fields]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(run, fields))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_one_session_per_process(random_bundle):
    folder = random_bundle[0]
    assert engine(load_bundle(folder), "onnx") is engine(load_bundle(folder), "onnx")
    assert engine(load_bundle(folder), "onnx", threads=2) is not engine(load_bundle(folder), "onnx")


def test_the_rewritten_graph_is_the_plain_one(make_bundle):
    """A last layer of one output as products and shifted sums: for ONNX Runtime, checked in ONNX Runtime."""
    import onnxruntime

    from geosr.models import onnx_network

    _, card, arrays = make_bundle("srcnn-9-3-5-n64", 1, False)
    x = np.random.default_rng(3).normal(size=(2, 1, 33, 41)).astype(np.float32)
    found = []
    for rewritten in (False, True):
        graph = onnx_network.write(card.network, arrays, 4, rewritten)
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        found += session.run([onnx_network.OUTPUT], {onnx_network.INPUT: x})
    np.testing.assert_allclose(found[1], found[0], atol=2e-6 * np.ptp(found[0]))
    assert b"Slice" in graph


def test_choice(monkeypatch):
    present = {"onnxruntime", "tensorflow"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in present else None)
    monkeypatch.setattr(native, "available", lambda: True)
    assert choose("auto") == choose("native") == "native"
    monkeypatch.setattr(native, "available", lambda: False)
    assert choose("auto") == "onnx"
    with pytest.raises(UsageError, match="--engine onnx"):
        choose("native")
    assert choose("tensorflow") == "tensorflow"
    present.remove("onnxruntime")
    assert choose("auto") == "tensorflow"
    with pytest.raises(UsageError, match="pip install onnxruntime"):
        choose("onnx")
    present.clear()
    for name in ("auto", "tensorflow"):
        with pytest.raises(UsageError, match=r"geosr\[tensorflow\]"):
            choose(name)
    with pytest.raises(UsageError, match="auto, native, onnx, tensorflow"):
        choose("torch")


def test_an_engine_that_is_not_there_is_told_before_anything_is_computed(monkeypatch, make_bundle):
    from geosr.downscale import prepare
    from strategies import field, smooth_field

    data = field(GeoBox((20, 30), Affine(0.05, 0, 3, 0, -0.05, 50), "EPSG:4326"), smooth_field((20, 30)))
    monkeypatch.setattr(native, "available", lambda: False)
    with pytest.raises(UsageError, match="--engine onnx"):
        prepare(data, 4, model=make_bundle()[0], engine="native", force_model=True)


@pytest.mark.parametrize("name", ENGINES)
def test_model_runs_the_engine_it_is_told(random_bundle, name):
    x = np.random.default_rng(0).normal(size=(14, 13)).astype(np.float32)
    model = load_model(random_bundle[0])
    assert model.halo == 4
    fine = interpolate.bicubic(x, 4)
    expected = by_hand(fine[2:-2, 2:-2, None].astype(np.float64), random_bundle[2]) + fine[8:-8, 8:-8]
    np.testing.assert_allclose(model.predict(x, name), expected, atol=1e-5 * np.ptp(expected))


def test_onnx_needs_neither_tensorflow_nor_h5py():
    code = (
        "import sys, numpy as np\n"
        "sys.modules.update(dict.fromkeys(['tensorflow', 'keras', 'h5py']))\n"
        "from geosr.models import default_model, load_model\n"
        "model = load_model(default_model(4))\n"
        "field = np.ones((2 * model.halo + 1,) * 2, np.float32)\n"
        "assert np.isfinite(model.predict(field)).all() and np.isfinite(model.sigma(field)).all()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
