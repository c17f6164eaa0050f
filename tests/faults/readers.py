"""Reading: many threads on one NetCDF file, and files that never end."""

from __future__ import annotations

import sys

from .harness import Bench, Tally, environment, fault

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
