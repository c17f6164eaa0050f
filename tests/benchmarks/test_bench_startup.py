"""Small jobs against the libraries they stand on: whole commands, from the shell's prompt back to it.

The peer is ``python -c "import rioxarray"``: what anyone pays to open a raster with xarray, before doing anything. Byte
code is cached, as in an installation, and so are files: the first round of each is thrown away.

Run with ``pytest tests/benchmarks --benchmark-only -k startup``; the ratio of the fastest rounds is in ``extra_info``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

ROUNDS = 5
PEER = [sys.executable, "-c", "import rioxarray"]
GEOSR = [sys.executable, "-c", "from geosr_cli.main import main; main()"]

#: Name -> the command's arguments; the most that it may take, in times of the peer. On two cores of an EPYC 9V74 the
#: peer took 1.1 s.
JOBS = {
    "help": (["--help"], 0.3),
    "tif": (["downscale", "simulated_no2_20240612_utm.tif", "--scale", "4"], 1.6),
    "netcdf": (["downscale", "simulated_no2_20240612_l3.nc", "--scale", "4"], 1.8),
    "swath": (["downscale", "S5P_SIMU_L2__NO2", "--scale", "4", "--bbox", "-30", "42", "-24", "47"], 2.2),
}


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPYCACHEPREFIX": str(tmp_path_factory.mktemp("bytecode"))}


@pytest.mark.parametrize("name", JOBS)
def test_bench_startup(benchmark, env, sample_dir, tmp_path, name):
    args, most = JOBS[name]
    if args[0] == "downscale":
        (source,) = sample_dir.glob(args[1] + "*")
        args = [args[0], str(source), *args[2:], "-o", str(tmp_path / "fine.tif"), "--overwrite", "-q"]
    peer: list[float] = []

    def once(command: list[str]) -> float:
        start = time.perf_counter()
        subprocess.run(command, env=env, check=True, capture_output=True)
        return time.perf_counter() - start

    def setup() -> None:
        peer.append(once(PEER))

    benchmark.pedantic(once, args=([*GEOSR, *args],), setup=setup, rounds=ROUNDS, warmup_rounds=1)
    ratio = benchmark.stats.stats.min / min(peer)
    benchmark.extra_info |= {"peer": min(peer), "ratio": round(ratio, 2)}
    print(f"{name}: {benchmark.stats.stats.min:.2f} s, {ratio:.2f} times import rioxarray ({min(peer):.2f} s)")
    assert ratio < most
