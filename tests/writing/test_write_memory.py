"""Memory stays bounded by tiles."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
    import resource, sys
    import dask, dask.array as da, numpy as np
    sys.path.insert(0, {tests!r})
    from conftest import make_dataset
    from geosr.provenance import Provenance
    from geosr.writing import write

    def cells(block_info=None):
        (top, bottom), (left, right) = block_info[None]["array-location"]
        return np.hypot(np.arange(top, bottom)[:, None] / 7, np.arange(left, right) / 3).astype("f4")

    def lazy(n):
        edges = (512,) * (n // 512) + ((n % 512,) if n % 512 else ())
        data = da.map_blocks(cells, chunks=(edges, edges), dtype="f4", meta=np.empty((0, 0), "f4"))
        frame = make_dataset(np.broadcast_to(np.float32(0), (n, n)), chunks=512)
        frame["no2"] = frame.no2.copy(data=data)
        return frame

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    with dask.config.set(scheduler="threads", num_workers=2):
        write(lazy(1024), {folder!r} + "/small." + {suffix!r}, main="no2", provenance=Provenance())
        before = peak()
        report = write(lazy(6000), {folder!r} + "/large." + {suffix!r}, main="no2", provenance=Provenance())
    print(peak() - before, report.statistics.valid)
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["tif", "nc", "zarr"])
def test_peak_does_not_grow_with_the_raster(tmp_path, suffix):
    """6000 x 6000 cells are 137 MiB, twice that with a copy; GDAL's block cache may take its 128 MiB."""
    if not sys.platform.startswith("linux"):
        pytest.skip("ru_maxrss is in KiB on Linux only")
    code = textwrap.dedent(SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path), suffix=suffix))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    grown, valid = done.stdout.split()
    assert int(valid) == 6000 * 6000
    assert float(grown) < (240 if suffix == "tif" else 110)
