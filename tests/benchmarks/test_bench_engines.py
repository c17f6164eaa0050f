"""Networks alone, one thread: the ratio to numpy's sgemm in the same run, counted in the products of the plain network.

Run with ``pytest tests/benchmarks --benchmark-only -k engines``. More than 1 is possible: folding and Winograd's
transform take fewer products than are counted, and the kernels use vectors that a library's sgemm may not.
"""

import numpy as np
import pytest

from benchmarks.peers import SCALE, measure
from bundles import random_bundle
from geosr import native
from geosr.models import load_model

TILE = 256
LEAST = {"native": 0.85, "onnx": 0.3}  # of sgemm; what an engine falls below only if something is broken


@pytest.fixture(scope="module")
def sgemm():
    """GFLOP/s of one core."""
    return 2 * 2048**3 / measure("sgemm", repeat=10)["seconds"] / 1e9


@pytest.mark.parametrize("engine", ["native", "onnx"])
@pytest.mark.parametrize("network", ["srcnn-9-1-5", "srcnn-9-3-5", "srcnn-9-3-5-n64", "edsr-32x6"])
def test_bench_engines(benchmark, sgemm, tmp_path, network, engine):
    if engine == "native" and not native.available():
        pytest.skip("geosr was built without a compiler")
    model = load_model(random_bundle(tmp_path / "model", network, SCALE))
    side = TILE + 2 * model.halo
    window = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
    benchmark.pedantic(model.predict, args=(window, engine), rounds=5, warmup_rounds=1)
    arch = model.card.network
    products = arch.weight_count(1, SCALE, bias=False) / (SCALE**2 if arch.coarse else 1)
    cells = (TILE * SCALE) ** 2
    rate = 2 * products * cells / benchmark.stats.stats.min / 1e9
    benchmark.extra_info.update(
        mpixels_per_second=cells / 1e6 / benchmark.stats.stats.min, gflops=rate, share_of_sgemm=rate / sgemm
    )
    assert rate / sgemm > LEAST[engine]
