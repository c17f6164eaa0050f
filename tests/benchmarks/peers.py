"""One measured run in a process of its own: geosr, or what a user would take instead.

    python peers.py geosr --cells 1024 --network srcnn-9-1-5

prints a JSON object: ``seconds``, ``cpu_seconds`` and ``peak_mb`` (largest resident memory of the process and its
workers) of one run of the size asked for, after a small one that loads and compiles what there is to load. All refine
the same simulated raster four times; those that end in a file start from one.

==================  ================================================================================================
``geosr``           file to verified, compressed Cloud-Optimised GeoTIFF, conserving
``network``         the network alone on one raster in memory, in tiles of 256 cells, by ``--engine``
``keras.predict``   bicubic refinement of the whole raster (``tf.image.resize``), and ``keras.Model.predict`` on it
``blended tiles``   the same by overlapping patches of 128 cells with weights that fall off towards their rims, as
                    opensr-utils does it; a seam is blurred, not avoided
``gdalwarp``        GDAL's warper, cubic, file to file (``-r cubic -multi``, compressed as geosr does)
``scipy zoom``      ``scipy.ndimage.zoom``, cubic spline, in memory
``sgemm``           ``numpy`` product of 2048 x 2048 matrices on one core: what the processor gives a good library
==================  ================================================================================================
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

SCALE = 4
THREADS = 2
ROOT = Path(__file__).resolve().parents[2]


def measure(kind: str, cells: int = 0, **options: Any) -> dict[str, float]:
    """The run ``kind`` in a process of its own; options as those of the command line."""
    words = [f"--{name}={value}" for name, value in options.items()]
    paths = [str(ROOT), str(ROOT / "cli"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TF_CPP_MIN_LOG_LEVEL": "3"}
    if kind in ("sgemm", "network"):
        env["OPENBLAS_NUM_THREADS"] = "1"
    command = [sys.executable, "-W", "ignore", __file__, kind, f"--cells={cells}", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    if done.returncode:
        raise RuntimeError(f"{kind} {cells}: {done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    if cells:
        found["mpixels_per_second"] = (cells * SCALE) ** 2 / 1e6 / found["seconds"]
    return found


def write_raster(path: Path, cells: int) -> None:
    """A simulated column raster of ``cells`` x ``cells``, made and written by rows so that any size fits."""
    import numpy as np
    import rasterio
    from rasterio.transform import from_origin
    from rasterio.windows import Window
    from scipy.ndimage import gaussian_filter

    patch = gaussian_filter(np.random.default_rng(0).standard_normal((512, 512)), 3, mode="wrap")
    patch = (5e-5 + 4e-4 * patch).astype(np.float32)
    step = 50 / cells
    profile = {"driver": "GTiff", "dtype": "float32", "count": 1, "height": cells, "width": cells, "crs": "EPSG:4326"}
    profile |= {
        "transform": from_origin(0, 50, step, step),
        "nodata": float("nan"),
        "tiled": True,
        "compress": "deflate",
    }
    with rasterio.open(path, "w", **profile) as target:
        target.units = ["mol m-2"]
        target.set_band_description(1, "nitrogendioxide_tropospheric_column")
        for row in range(0, cells, 512):
            n = min(512, cells - row)
            strip = np.tile(patch[:n], (1, -(-cells // 512)))[:, :cells]
            target.write(strip, 1, window=Window(0, row, cells, n))


def geosr_run(folder: Path, cells: int, args: argparse.Namespace) -> Callable[[], None]:
    from geosr.jobs import downscale_files
    from geosr_cli.main import share_one_heap

    share_one_heap()
    source = folder / f"{cells}.tif"
    if not source.exists():
        write_raster(source, cells)
    how: dict[str, Any] = {"method": "bicubic"} if args.network == "bicubic" else {"force_model": True}
    if args.network not in ("bicubic", "shipped"):
        how["model"] = bundle(folder, args.network)
    if args.workers:
        how["scheduler"] = cluster(args.workers).scheduler_address
    out = folder / ("out." + args.format)

    def run() -> None:
        downscale_files([source], out, scale=SCALE, overwrite=True, engine=args.engine, **how)

    return run


@cache
def cluster(workers: int) -> Any:
    """As ``--workers`` starts it, but it stands before the run is timed."""
    from geosr.writing.crew import local_cluster

    return local_cluster(workers)


def bundle(folder: Path, network: str) -> str:
    from bundles import random_bundle

    place = folder / network
    if not place.exists():
        random_bundle(place, network, SCALE)
    return str(place)


def network_run(folder: Path, cells: int, args: argparse.Namespace) -> Callable[[], None]:
    import numpy as np

    from geosr.models import default_model, load_model

    model = load_model(default_model(SCALE) if args.network == "shipped" else bundle(folder, args.network))
    tile, halo = min(cells, 256), model.halo
    window = np.random.default_rng(0).normal(size=(tile + 2 * halo, tile + 2 * halo)).astype(np.float32)

    def run() -> None:
        for _ in range((cells // tile) ** 2):
            model.predict(window, args.engine)

    return run


def keras_run(folder: Path, cells: int, args: argparse.Namespace) -> Callable[[], None]:
    import numpy as np
    import tensorflow as tf

    model = keras_model(args.network)
    field = np.random.default_rng(0).normal(size=(1, cells, cells, 1)).astype(np.float32)

    def run() -> None:
        side = cells * SCALE
        model.predict(tf.image.resize(field, (side, side), "bicubic"), verbose=0)

    return run


def keras_model(network: str) -> Any:
    """As tutorials build it: "same" padding, on the refined field."""
    import keras

    from geosr.models.architectures import architecture

    x = out = keras.Input((None, None, 1))
    for layer in architecture(network).layers:
        out = keras.layers.Conv2D(layer.filters, layer.kernel, padding="same", activation=layer.activation)(out)
    return keras.Model(x, out)


def blended_run(folder: Path, cells: int, args: argparse.Namespace) -> Callable[[], None]:
    import numpy as np
    import tensorflow as tf

    model = keras_model(args.network)
    field = np.random.default_rng(0).normal(size=(cells, cells)).astype(np.float32)
    patch, overlap = 128, 16
    ramp = np.minimum(np.arange(1, patch * SCALE + 1), np.arange(patch * SCALE, 0, -1)) / (overlap * SCALE)
    weight = np.outer(np.minimum(ramp, 1), np.minimum(ramp, 1)).astype(np.float32)

    @tf.function
    def refine(x: Any) -> Any:
        return model(tf.image.resize(x[None, :, :, None], (patch * SCALE, patch * SCALE), "bicubic"))[0, :, :, 0]

    def run() -> None:
        total = np.zeros((cells * SCALE, cells * SCALE), np.float32)
        share = np.zeros_like(total)
        starts = [*range(0, cells - patch, patch - overlap), cells - patch]
        for top in starts:
            for left in starts:
                fine = refine(field[top : top + patch, left : left + patch]).numpy()
                place = tuple(slice(a * SCALE, (a + patch) * SCALE) for a in (top, left))
                total[place] += fine * weight
                share[place] += weight
        total /= share

    return run


def gdalwarp_run(folder: Path, cells: int, args: argparse.Namespace) -> Callable[[], None]:
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.shutil import copy
    from rasterio.vrt import WarpedVRT

    source = folder / f"{cells}.tif"
    if not source.exists():
        write_raster(source, cells)
    side = cells * SCALE
    how = {"driver": "GTiff", "tiled": True, "blockxsize": 512, "blockysize": 512, "num_threads": "ALL_CPUS"}
    how |= {"compress": "ZSTD", "zstd_level": 1, "predictor": 3, "BIGTIFF": "IF_SAFER"}

    def run() -> None:
        with rasterio.open(source) as raster:
            finer = raster.transform * raster.transform.scale(1 / SCALE)
            options = {"transform": finer, "width": side, "height": side, "resampling": Resampling.cubic}
            with WarpedVRT(raster, warp_extras={"NUM_THREADS": str(THREADS)}, **options) as warped:
                copy(warped, folder / "warped.tif", **how)

    return run


def zoom_run(folder: Path, cells: int, args: argparse.Namespace) -> Callable[[], None]:
    import numpy as np
    from scipy.ndimage import zoom

    field = np.random.default_rng(0).normal(size=(cells, cells)).astype(np.float32)
    return lambda: zoom(field, SCALE, order=3, grid_mode=True, mode="nearest")


def sgemm_run(folder: Path, cells: int, args: argparse.Namespace) -> Callable[[], None]:
    import numpy as np

    a = np.random.default_rng(0).random((2048, 2048), dtype=np.float32)
    return lambda: a @ a


KINDS: dict[str, tuple[Callable[..., Callable[[], None]], int]] = {  # and the size of the run before the measured one
    "geosr": (geosr_run, 200),
    "network": (network_run, 256),
    "keras.predict": (keras_run, 64),
    "blended tiles": (blended_run, 128),
    "gdalwarp": (gdalwarp_run, 200),
    "scipy zoom": (zoom_run, 64),
    "sgemm": (sgemm_run, 0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--cells", type=int, default=1024)
    parser.add_argument("--network", default="srcnn-9-1-5")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--format", default="tif")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--folder", help="where files go; kept")
    args = parser.parse_args()
    make, warm = KINDS[args.kind]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        make(folder, warm, args)()
        run = make(folder, args.cells, args)
        best, cpu = float("inf"), float("inf")
        for _ in range(args.repeat):
            wall, busy = time.perf_counter(), time.process_time()
            run()
            best, cpu = min(best, time.perf_counter() - wall), min(cpu, time.process_time() - busy)
    usage = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps({"seconds": best, "cpu_seconds": cpu, "peak_mb": usage[0] + usage[1] * args.workers}))


if __name__ == "__main__":
    main()
