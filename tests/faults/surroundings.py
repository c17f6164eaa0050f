"""What is around a run: channels, environment variables, folders, clocks, networks, other machines' devices."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

from .harness import COMMAND, Bench, Ended, Skipped, Tally, check_names, check_same, environment, fault, need

HOW = ("--scale", "2", "--method", "bicubic")


def _right(bench: Bench, ended: Ended, target: Path, folder: Path | None = None) -> None:
    assert "Traceback" not in ended.err + ended.out, ended.err[-500:]
    assert ended.code == 0, f"exit {ended.code}: {ended.err[-300:]}"
    check_same(target, bench.whole(bench.source(60), target.name, *HOW))
    check_names(folder or target.parent, target)


def _shell(bench: Bench, line: str, cwd: Path) -> Ended:
    """``line`` in a shell; ``GEOSR`` in it is the command."""
    line = line.replace("GEOSR", shlex.join(COMMAND))
    return bench.process(["bash", "-c", line], cwd, environment()).wait()


@fault(
    "15",
    "channels that are closed or full",
    how="each of stdin, stdout, stderr closed, and all three; stdout or stderr on /dev/full; a pipe without reader",
    expected="the output is right; 0, or 5 or 141 where the result was to be printed and could not be; no traceback",
)
def channels(bench: Bench, tally: Tally) -> None:
    source = bench.source(60)
    closings = ("<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full", "2>/dev/full", ">/dev/full 2>&1")
    for _ in bench.times(5, 1):
        for closing in closings if bench.long else closings[-4:]:
            for more in ("", "--json"):
                with bench.fresh() as folder, tally.trial(f"{closing} {more}"):
                    line = f"GEOSR downscale {source} -o o.tif {' '.join(HOW)} {more} {closing}"
                    ended = _shell(bench, line, folder)
                    tally.count(str(ended.code))
                    assert ended.code == 0 or (more and ended.code == 5 and "full" in closing), ended
                    _right(bench, Ended(0, ended.out, ended.err), folder / "o.tif")
        for reader in ("head -c 1 >/dev/null", "true"):
            with bench.fresh() as folder, tally.trial(f"| {reader}"):
                line = f"GEOSR downscale {source} -o o.tif {' '.join(HOW)} --json | {reader}; exit ${{PIPESTATUS[0]}}"
                ended = _shell(bench, line, folder)
                tally.count(str(ended.code))
                assert ended.code in (0, 141), ended
                _right(bench, Ended(0, ended.out, ended.err), folder / "o.tif")


@fault(
    "16",
    "bare surroundings",
    how="env -i; no HOME; TMPDIR missing, full, read-only, without exec; LANG=C; umask 077; working folder deleted",
    expected="the same result; exit 5 where the working folder is gone and the output's name needs it",
)
def bare(bench: Bench, tally: Tally) -> None:
    source = bench.source(60)
    run = f"GEOSR downscale {source} -o o.tif {' '.join(HOW)}"
    lines = {
        "env -i": f"env -i SOURCE_DATE_EPOCH=1700000000 {run}",
        "no HOME": f"env -u HOME {run}",
        "HOME that is not there": f"HOME=/nonexistent {run}",
        "TMPDIR that is not there": f"TMPDIR=/nonexistent TMP=/nonexistent {run}",
        "LANG=C": f"LANG=C LC_ALL=C {run}",
        "a locale that does not exist": f"LC_ALL=xx_YY.UTF-8 {run}",
        "umask 077": f"umask 077; {run}",
    }
    for _ in bench.times(3, 1):
        for what, line in lines.items() if bench.long else list(lines.items())[:2]:
            with bench.fresh() as folder, tally.trial(what):
                _right(bench, _shell(bench, line, folder), folder / "o.tif")
        with bench.fresh() as folder, tally.trial("the working folder deleted, names absolute"):
            line = f"mkdir gone; cd gone; rmdir ../gone; {run.replace('-o o.tif', f'-o {folder}/o.tif')}"
            ended = _shell(bench, line, folder)
            tally.count(f"deleted, absolute: {ended.code}")
            if ended.code:
                ended.check_told(5, words="working folder")
            else:
                _right(bench, ended, folder / "o.tif")
        with bench.fresh() as folder, tally.trial("the working folder deleted, a relative name"):
            ended = _shell(bench, f"mkdir gone; cd gone; rmdir ../gone; {run}", folder)
            ended.check_told(5, words="working folder")
        if bench.is_root and bench.long:
            for option, what in (("size=4k", "full"), ("noexec", "without exec"), ("ro", "read-only")):
                place = bench.mount(option, "mode=1777")
                with bench.fresh() as folder, tally.trial(f"TMPDIR {what}"):
                    subprocess.run(["dd", "if=/dev/zero", f"of={place}/x", "bs=4k", "count=2"], capture_output=True)
                    _right(bench, _shell(bench, f"TMPDIR={place} {run}", folder), folder / "o.tif")
                bench.unmount(place)


_NAMES = (
    "GDAL_SKIP=GTiff GDAL_DRIVER_PATH=/nonexistent HDF5_PLUGIN_PATH=/nonexistent PROJ_LIB=/nonexistent PROJ_DATA=BAD "
    "GDAL_DATA=BAD PROJ_LIB=BAD CUDA_VISIBLE_DEVICES=99 OMP_NUM_THREADS=0 OMP_NUM_THREADS=-3 OPENBLAS_NUM_THREADS=0 "
    "DASK_SCHEDULER=processes DASK_NUM_WORKERS=0 DASK_NUM_WORKERS=abc DASK_CONFIG=/nonexistent "
    "DASK_ARRAY__CHUNK_SIZE=1B NUMBA_NUM_THREADS=0 NUMBA_DISABLE_JIT=1 NUMBA_CACHE_DIR=/nonexistent "
    "PYTHONWARNINGS=error "
    "GTIFF_IGNORE_READ_ERRORS=YES GTIFF_POINT_GEO_IGNORE=YES CPL_DEBUG=ON GDAL_NUM_THREADS=abc GDAL_CACHEMAX=0 "
    "GDAL_TIFF_ENDIANNESS=BIG GDAL_GEOREF_SOURCES=NONE PROJ_NETWORK=ON PYTHONOPTIMIZE=2 PYTHONIOENCODING=ascii "
    "HDF5_USE_FILE_LOCKING=FALSE HDF5_DRIVER=core XLA_FLAGS=--nonsense TQDM_MININTERVAL=abc COLUMNS=0 "
    "KERAS_BACKEND=torch GEOSR_NATIVE=off OSR_DEFAULT_AXIS_MAPPING_STRATEGY=AUTHORITY_COMPLIANT"
)


@fault(
    "17",
    "hostile environment variables",
    how="one variable at a time (drivers skipped, databases damaged or missing, no threads, plugins, DASK_*, NUMBA_*), "
    "then all together; GeoTIFF and NetCDF outputs",
    expected="the same result",
)
def hostile_variables(bench: Bench, tally: Tally) -> None:
    bad = bench.folder()
    (bad / "proj.db").write_text("not a database")
    variables = [v.replace("BAD", str(bad)) for v in _NAMES.split()]
    chosen = variables if bench.long else bench.random.sample(variables, 3)
    for given in [*([one] for one in chosen), variables]:
        for suffix in ("tif", "nc") if bench.long else ("tif",):
            with bench.fresh() as folder, tally.trial(f"{suffix}: {' '.join(given) if len(given) < 2 else 'all'}"):
                env = dict(one.split("=", 1) for one in given)
                ended = bench.start("downscale", bench.source(60), "-o", folder / f"o.{suffix}", *HOW, **env).wait()
                _right(bench, ended, folder / f"o.{suffix}")


@fault(
    "18",
    "no network",
    how="unshare --net; and strace of a run with a network: no socket but of this machine",
    expected="the same result; no connection is tried",
)
def no_network(bench: Bench, tally: Tally) -> None:
    need("unshare")
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
        raise Skipped("unshare may not make a network of its own")
    for number in bench.times(3, 1):
        with bench.fresh() as folder, tally.trial("without a network"):
            run = bench.start("downscale", bench.source(60), "-o", folder / "o.tif", *HOW, under=("unshare", "--net"))
            _right(bench, run.wait(), folder / "o.tif")
        with bench.fresh() as folder, tally.trial("connections"):
            need("strace")
            log, place = folder / "log", folder / "out"
            place.mkdir()
            under = ("strace", "-f", "-qq", "--seccomp-bpf", "-o", str(log), "-e", "trace=connect,sendto,bind")
            ended = bench.start("downscale", bench.source(60), "-o", place / "o.tif", *HOW, under=under).wait()
            _right(bench, ended, place / "o.tif")
            assert "AF_INET" not in log.read_text(), re.findall(r".*AF_INET.*", log.read_text())[:3]
        tally.count(f"round {number + 1}")


_EPOCHS = (
    "0",
    "1709164800",
    "2147483648",
    "253402300799",
    "253402300800",
    "99999999999999",
    "-1",
    "",
    "abc",
    "1e9",
    "²",
)


@fault(
    "20",
    "clocks",
    how="SOURCE_DATE_EPOCH of 1970, of a leap day, beyond 2038, beyond the year 9999, and no number; a wall clock "
    "that jumps by years at each look; inputs from 1970 and from 2100",
    expected="the run ends as always; geosr verify agrees",
)
def clocks(bench: Bench, tally: Tally) -> None:
    source = bench.source(60)
    for epoch in _EPOCHS if bench.long else _EPOCHS[-2:]:
        with bench.fresh() as folder, tally.trial(f"SOURCE_DATE_EPOCH={epoch}"):
            run = bench.start("downscale", source, "-o", folder / "o.tif", *HOW, SOURCE_DATE_EPOCH=epoch)
            _ends(run.wait(), folder / "o.tif")
    for number in bench.times(6, 1):
        with bench.fresh() as folder, tally.trial("a clock that jumps"):
            target = folder / f"o.{('tif', 'nc', 'zarr')[number % 3]}"
            _right(bench, bench.start("downscale", source, "-o", target, *HOW, GEOSR_FAULT="clock").wait(), target)
    for when in (0, 4_102_444_800):
        with bench.fresh() as folder, tally.trial(f"an input from {1970 + when // 31_556_952}"):
            place = folder / "out"
            place.mkdir()
            copy = folder / source.name
            copy.write_bytes(source.read_bytes())
            os.utime(copy, (when, when))
            _right(bench, bench.fork("downscale", copy, "-o", place / "o.tif", *HOW).wait(), place / "o.tif")


def _ends(ended: Ended, target: Path) -> None:
    from .harness import check_whole

    assert "Traceback" not in ended.err, ended.err[-400:]
    assert ended.code == 0, ended.err[-300:]
    check_whole(target)


@fault(
    "27",
    "no GPU",
    how="CUDA_VISIBLE_DEVICES=99 and none, with the TensorFlow engine",
    expected="it computes on the CPU: the same numbers within 1e-5 of the largest",
)
def no_gpu(bench: Bench, tally: Tally) -> None:
    from importlib.util import find_spec

    if find_spec("tensorflow") is None:
        raise Skipped("needs tensorflow")
    import numpy as np
    import rasterio

    how = ("--scale", "2", "--force-model", "--method", "srcnn", "--no-uncertainty", "--engine")
    source = bench.source(60)
    for number in bench.times(3, 1):
        with bench.fresh() as folder, tally.trial("TensorFlow on the CPU"):
            devices = ("99", "", "-1")[number % 3]
            run = bench.start(
                "downscale", source, "-o", folder / "tf.tif", *how, "tensorflow", CUDA_VISIBLE_DEVICES=devices
            )
            _ends(run.wait(), folder / "tf.tif")
            _ends(bench.fork("downscale", source, "-o", folder / "onnx.tif", *how, "onnx").wait(), folder / "onnx.tif")
            with rasterio.open(folder / "tf.tif") as one, rasterio.open(folder / "onnx.tif") as two:
                a, b = one.read(1), two.read(1)
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.nanmax(np.abs(b)))
