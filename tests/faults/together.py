"""Several at once: two runs, readers, a model that is replaced."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from .harness import FORMATS, Bench, Tally, check_names, check_same, check_whole, digest_within, fault, partial_of

HOW = ("--scale", "2", "--method", "bicubic")
OTHER = (*HOW, "--no-conserve")


def _is_one_of(target: Path, *expected: Path) -> int:
    """Which of ``expected`` the output is, wholly."""
    check_whole(target)
    if target.suffix == ".nc":
        for number, other in enumerate(expected):
            try:
                check_same(target, other)
            except AssertionError:
                continue
            return number
    found = [digest_within(target) == digest_within(other) for other in expected]
    assert any(found), f"{target.name} is none of the two"
    return found.index(True)


@fault(
    "11",
    "two runs on one output",
    how="two runs with different options, started within 0.5 s, with and without --overwrite",
    expected="the second exits 8 (5 where the output exists by then), or comes after the first; "
    "one of the outputs, whole",
)
def two_runs(bench: Bench, tally: Tally) -> None:
    source = bench.source(160)
    for number in bench.times(100, 3):
        suffix, more = FORMATS[number % 3], ("--overwrite",) if number % 2 else ()
        both = [bench.whole(source, f"o.{suffix}", *how) for how in (HOW, OTHER)]
        with bench.fresh() as folder, tally.trial(f"{suffix} {' '.join(more)}"):
            target = folder / f"o.{suffix}"
            first = bench.fork("downscale", source, "-o", target, *HOW, *more)
            time.sleep(bench.random.uniform(0, 0.5))
            second = bench.fork("downscale", source, "-o", target, *OTHER, *more, lane=1)
            ended = [first.wait(), second.wait()]
            codes = [one.code for one in ended]
            tally.count(" and ".join(map(str, sorted(codes))))
            assert 0 in codes, [one.err for one in ended]
            for one in ended:
                if one.code:
                    one.check_told(8, *(() if more else (5,)))
            which = _is_one_of(target, *both)
            assert codes[which] == 0
            check_names(folder, target)


@fault(
    "11r",
    "two resumes of one run",
    how="a run is killed after 10 tiles; two --resume are started within 0.5 s",
    expected="one exits 8, or comes after the first; the uninterrupted run's result",
)
def two_resumes(bench: Bench, tally: Tally) -> None:
    source, how = bench.source(225), ("--scale", "8", "--method", "bicubic", "--tile", "512")
    for number in bench.times(30, 1):
        suffix = FORMATS[number % 3]
        with bench.fresh() as folder, tally.trial(suffix):
            target = folder / f"o.{suffix}"
            bench.fork("downscale", source, "-o", target, *how, env={"GEOSR_FAULT": "stop=10"}).wait()
            assert partial_of(target).exists()
            runs = [bench.fork("downscale", source, "-o", target, *how, "--resume")]
            time.sleep(bench.random.uniform(0, 0.5))
            runs.append(bench.fork("downscale", source, "-o", target, *how, "--resume", lane=1))
            ended = [run.wait() for run in runs]
            tally.count(" and ".join(map(str, sorted(one.code for one in ended))))
            for one in ended:
                if one.code:
                    one.check_told(8)
            assert 0 in [one.code for one in ended]
            check_same(target, bench.whole(source, target.name, *how))
            check_names(folder, target)


@fault(
    "12",
    "readers while an output is overwritten",
    how="two outputs replace each other; meanwhile threads read the file's bytes without a pause, and every tenth time "
    "open it with rasterio or netCDF4; a trial is one reading",
    expected="the old or the new output, whole, each time",
    fast=True,
)
def readers(bench: Bench, tally: Tally) -> None:
    source = bench.source(160)
    for suffix in ("tif", "nc"):
        # NetCDF is not the same to the bit from run to run, so what was there at some moment is all there may be.
        with bench.fresh() as folder:
            target, known, done = folder / f"o.{suffix}", set(), threading.Event()
            shutil.copy(bench.whole(source, f"o.{suffix}", *HOW), target)
            known.add(hashlib.sha256(target.read_bytes()).hexdigest())
            seen: dict[str, int] = {}
            wrong: list[str] = []
            threads = [threading.Thread(target=_read, args=(target, seen, wrong, done)) for _ in range(2)]
            for thread in threads:
                thread.start()
            for number in bench.times(40, 2):
                how = OTHER if number % 2 else HOW
                ended = bench.fork("downscale", source, "-o", target, *how, "--overwrite").wait()
                known.add(hashlib.sha256(target.read_bytes()).hexdigest())
                if ended.code:
                    wrong.append(ended.err)
            done.set()
            for thread in threads:
                thread.join()
            tally.trials += sum(seen.values())
            tally.failures += wrong + [f"{suffix}: neither the old nor the new" for found in seen if found not in known]
            tally.count(f"{suffix}: {len(seen)} of {len(known)} outputs seen")


_OPENING = threading.Lock()


def _read(target: Path, seen: dict[str, int], wrong: list[str], done: threading.Event) -> None:
    number = 0
    while not done.is_set():
        number += 1
        try:
            found = hashlib.sha256(target.read_bytes()).hexdigest()
            with _OPENING:
                seen[found] = seen.get(found, 0) + 1
                if number % 10 == 0:
                    _open(target)
        except Exception as error:
            wrong.append(f"{type(error).__name__}: {error}")
        time.sleep(0.002)


def _open(target: Path) -> None:
    if target.suffix == ".nc":
        import netCDF4

        with netCDF4.Dataset(target) as file:
            name = next(n for n, v in file.variables.items() if v.shape == (320, 320))
            assert file[name][...].count() > 100_000
        return
    import rasterio

    with rasterio.open(target) as file:
        assert (file.read(1, masked=True).count()) > 100_000


@fault(
    "13",
    "a model is replaced while it is in use",
    how="the folder of a model is replaced by another one's, or its weights are overwritten, at a random moment",
    expected="the result of the one or of the other, whole and with that one's checksum; or exit 6",
)
def replaced_model(bench: Bench, tally: Tally) -> None:
    from geosr.models import load_model

    source = bench.source(120)
    shipped = [Path(load_model(name).path) for name in ("no2-srcnn-9-3-5-n64-x2", "no2-edsr-32x6-x2")]
    store = bench.folder()
    kept = [shutil.copytree(path, store / f"kept{n}") for n, path in enumerate(shipped)]
    how: tuple[Any, ...] = ("--scale", "2", "--tile", "64", "--force-model", "--no-uncertainty", "--model")
    model = store / "model"

    def put(which: int) -> None:
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(kept[which], model)

    expected = []
    for which in (0, 1):
        put(which)
        place = bench.folder() / "o.tif"
        ended = bench.fork("downscale", source, "-o", place, *how, model).wait()
        assert ended.code == 0, ended.err
        expected.append(place)
        took = ended.seconds
    for number in bench.times(30, 2):
        with bench.fresh() as folder, tally.trial(("folder replaced", "weights overwritten")[number % 2]):
            put(0)
            target = folder / "o.tif"
            run = bench.fork("downscale", source, "-o", target, *how, model)
            time.sleep(bench.random.uniform(0, took))
            if number % 2:
                weights = max(model.iterdir(), key=lambda f: f.stat().st_size)
                with open(weights, "r+b") as file:
                    file.seek(weights.stat().st_size // 2)
                    file.write(os.urandom(512))
            else:
                os.rename(model, store / "away")
                shutil.copytree(kept[1], store / "new")
                os.rename(store / "new", model)
                shutil.rmtree(store / "away")
            ended = run.wait()
            tally.count(str(ended.code))
            if ended.code:
                ended.check_told(6)
                check_names(folder)
            else:
                tally.count(f"model {_is_one_of(target, *expected) + 1}")
                check_names(folder, target)
