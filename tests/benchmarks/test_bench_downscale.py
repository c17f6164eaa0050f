"""File to finished file against what a user would take instead, in the same run (tests/benchmarks/peers.py).

Run with ``pytest tests/benchmarks --benchmark-only -k downscale``; ``docs/performance.py`` measures larger rasters and
draws them. The ratio of speeds and of peak memory is in ``extra_info``.
"""

import pytest

from benchmarks.peers import measure

CELLS = 512  # 2048 x 2048 fine cells


@pytest.mark.parametrize(
    ("network", "peer", "least"),
    [
        ("srcnn-9-1-5", "keras.predict", 3),
        ("srcnn-9-3-5", "keras.predict", 2),
        ("srcnn-9-1-5", "blended tiles", 2),
        ("bicubic", "gdalwarp", 0.5),
        ("bicubic", "scipy zoom", 0.5),
    ],
)
def test_bench_downscale(benchmark, network, peer, least):
    if peer in ("keras.predict", "blended tiles"):
        pytest.importorskip("tensorflow")
    theirs = measure(peer, CELLS, network=network, repeat=2)
    ours = benchmark.pedantic(measure, ("geosr", CELLS), {"network": network, "repeat": 2}, rounds=1)
    ratio = ours["mpixels_per_second"] / theirs["mpixels_per_second"]
    memory = theirs["peak_mb"] / ours["peak_mb"]
    benchmark.extra_info.update(ours=ours, theirs=theirs, times_as_fast=ratio, of_their_memory=1 / memory)
    assert ratio > least


def test_bench_memory_is_flat(benchmark):
    """Four times the cells, at most a fifth more memory (of it, the rows of input windows that are held)."""
    small = measure("geosr", 1024, network="bicubic")
    large = benchmark.pedantic(measure, ("geosr", 2048), {"network": "bicubic"}, rounds=1)
    benchmark.extra_info.update(small=small["peak_mb"], large=large["peak_mb"])
    assert large["peak_mb"] < 1.2 * small["peak_mb"]


def test_bench_two_workers(benchmark):
    """A cluster of two processes against one of one, both standing before the run."""
    pytest.importorskip("distributed")
    one = measure("geosr", 2048, network="srcnn-9-1-5", workers=1)
    two = benchmark.pedantic(measure, ("geosr", 2048), {"network": "srcnn-9-1-5", "workers": 2}, rounds=1)
    ratio = one["seconds"] / two["seconds"]
    benchmark.extra_info.update(one=one["seconds"], two=two["seconds"], ratio=ratio)
    assert ratio > 1.2
