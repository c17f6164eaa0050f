"""Reading: many threads on one NetCDF file, and files that never end."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from .harness import Bench, Run, Skipped, Tally, alive, environment, fault

_THREADS = """
import sys, threading
import numpy as np
import geosr

path, reads = sys.argv[1], int(sys.argv[2])
expected = geosr.open_no2(path).no2.values
wrong = []

def read():
    for _ in range(reads):
        try:
            found = geosr.open_no2(path).no2
            if not np.array_equal(found.compute(scheduler="synchronous").values, expected, equal_nan=True):
                wrong.append("other values")
        except Exception as error:
            wrong.append(repr(error))

threads = [threading.Thread(target=read) for _ in range(8)]
for t in threads: t.start()
for t in threads: t.join()
print(len(wrong), *wrong[:3])
"""


@fault(
    "22",
    "threads and NetCDF",
    how="8 threads open and read one NetCDF-4 file through geosr.open_no2, 30 times each (a trial is such a process)",
    expected="no crash, the right values each time",
)
def threads_and_netcdf(bench: Bench, tally: Tally) -> None:
    import numpy as np
    import xarray as xr

    path, side = bench.scratch / "in.nc", 120
    values = np.random.default_rng(0).normal(5e-5, 1e-5, (side, side)).astype("f4")
    coords = {
        "lat": ("lat", 50 - 0.1 * np.arange(side), {"units": "degrees_north"}),
        "lon": ("lon", 0.1 * np.arange(side), {"units": "degrees_east"}),
    }
    field = xr.Dataset({"no2": (("lat", "lon"), values, {"units": "mol m-2"})}, coords)
    field.to_netcdf(path, encoding={"no2": {"zlib": True, "chunksizes": (32, 32)}}, engine="netcdf4")
    for number in bench.times(20, 1):
        with tally.trial(f"process {number + 1}"):
            reads = "30" if bench.long else "5"
            ended = bench.process([sys.executable, "-c", _THREADS, str(path), reads], None, environment()).wait()
            assert ended.code == 0, f"exit {ended.code}: {ended.err[-300:]}"
            assert ended.out.startswith("0"), ended.out
            tally.notes["reads"] = tally.notes.get("reads", 0) + 8 * int(reads)


@fault(
    "10",
    "a reader that hangs",
    how="--untrusted with a limit of 0.5 to 3 s, and a GeoTIFF whose 361 million zeros take longer",
    expected="exit 7, told in one line, within 2 s of limit and honest reading; a second later no process is left",
)
def hanging_reader(bench: Bench, tally: Tally) -> None:
    if sys.platform != "linux":
        raise Skipped("--untrusted is for Linux")
    slow, honest = _zeros(bench.scratch / "zeros.tif", 19_000), bench.source(450)

    def start(path: Path, seconds: float) -> Run:
        return bench.start("info", path, "--untrusted", "--limit", f"time={seconds:.2f}")

    took = max(start(honest, 60).wait().seconds for _ in range(3))
    for _ in bench.times(12, 1):
        seconds = bench.random.uniform(0.5, 3)
        with tally.trial(f"limit {seconds:.2f} s"):
            run, seen = start(slow, seconds), set[int]()
            while time.monotonic() < run.started + took + seconds / 2:
                seen |= set(run.children())
                time.sleep(0.05)
            ended = run.wait()
            tally.count(str(ended.code))
            tally.most("longest beyond the limit (s)", ended.seconds - took - seconds)
            ended.check_told(7, words="timed out")
            assert ended.seconds < took + seconds + 2, f"{ended.seconds:.1f} s of {took:.1f} + {seconds:.1f}"
            assert seen, "no process was seen to read"
            time.sleep(1)  # they notice when this one is gone
            assert not list(filter(alive, seen)), "processes are left"


def _zeros(path: Path, side: int) -> Path:
    """``side`` x ``side`` zeros, in 1.5 MB."""
    import numpy as np
    import rasterio
    from affine import Affine
    from rasterio.windows import Window

    profile = {"driver": "GTiff", "dtype": "float32", "count": 1, "height": side, "width": side, "compress": "deflate"}
    strip = np.zeros((512, side), np.float32)
    with rasterio.open(path, "w", **profile, tiled=True, blockxsize=512, blockysize=512, crs="EPSG:32632",
                       transform=Affine(1, 0, 4e5, 0, -1, 5e6), sparse_ok=False) as file:  # fmt: skip
        for top in range(0, side, 512):
            rows = min(512, side - top)
            file.write(strip[:rows], 1, window=Window(0, top, side, rows))
    return path
