"""Workers of ``--workers`` and ``--scheduler`` that die, stall, or take too much memory."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .harness import (
    FORMATS,
    Bench,
    Run,
    Skipped,
    Tally,
    check_names,
    check_same,
    environment,
    fault,
    partial_of,
    places,
)

SIDE, HOW = 450, ("--scale", "8", "--method", "bicubic", "--tile", "512")


def _need_distributed() -> None:
    from importlib.util import find_spec

    if find_spec("distributed") is None:
        raise Skipped("needs dask.distributed")


def workers_of(run: Run) -> list[int]:
    """Processes of ``run`` that compute."""
    found = []
    for pid in run.children():
        with contextlib.suppress(OSError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def _wait_for_tiles(run: Run, target: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(places(partial_of(target) / "journal")) < count and time.monotonic() < deadline:
        stat = Path(f"/proc/{run.pid}/stat")
        assert stat.exists(), "the run has ended too soon"
        assert ") Z" not in stat.read_text(), "the run has ended too soon"
        time.sleep(0.01)


def _start(bench: Bench, target: Path, fault: str, *more: object, **env: str) -> Run:
    args = ("downscale", bench.source(SIDE), "-o", target, *HOW, *(more or ("--workers", "2")))
    return bench.start(*args, GEOSR_FAULT=fault, **env)


@fault(
    "8",
    "a worker is killed",
    how="SIGKILL to one of two workers at a random tile (--workers 2), or to both",
    expected="the run goes on; the uninterrupted run's result",
)
def killed_worker(bench: Bench, tally: Tally) -> None:
    _need_distributed()
    for number in bench.times(12, 1):
        with bench.fresh() as folder:
            target, both = folder / f"o.{FORMATS[number % 3]}", number % 4 == 3
            with tally.trial(f"{target.suffix}, {'both' if both else 'one'}"):
                run = _start(bench, target, "slow=0.05")
                _wait_for_tiles(run, target, bench.random.randint(1, 50))
                victims = workers_of(run)
                assert victims, "no worker found"
                for pid in victims if both else victims[:1]:
                    os.kill(pid, signal.SIGKILL)
                ended = run.wait()
                tally.count(str(ended.code))
                assert ended.code == 0, ended.err
                check_same(target, bench.whole(bench.source(SIDE), target.name, *HOW))
                check_names(folder, target)


@fault(
    "8p",
    "a tile that kills its worker",
    how="one tile kills the process that computes it, each time (--workers 2)",
    expected="exit 7, told in one line that names the tile; nothing left",
)
def poison_tile(bench: Bench, tally: Tally) -> None:
    _need_distributed()
    for number in bench.times(3, 1):
        with bench.fresh() as folder:
            target = folder / f"o.{FORMATS[number % 3]}"
            with tally.trial(f"{target.suffix}"):
                run = _start(bench, target, "poison=512:1024")
                ended = run.wait()
                tally.count(str(ended.code))
                tally.most("longest (s)", ended.seconds)
                ended.check_told(7, words="rows 512 to 1023, columns 1024 to 1535")
                check_names(folder)


@fault(
    "9",
    "a worker above its memory limit",
    how="one tile takes memory without end; each worker has 400 MB (--workers 2)",
    expected="exit 7, told in one line; nothing left",
)
def greedy_tile(bench: Bench, tally: Tally) -> None:
    _need_distributed()
    for number in bench.times(2, 1):
        with bench.fresh() as folder:
            target = folder / f"o.{FORMATS[number % 3]}"
            with tally.trial(f"{target.suffix}"):
                # dask takes the limit on resident memory as what there is; Linux does not enforce it itself.
                args = ("downscale", bench.source(SIDE), "-o", target, *HOW, "--workers", "2")
                under = ("prlimit", f"--rss={800 << 20}")
                ended = bench.start(*args, under=under, GEOSR_FAULT="hog=512:1024").wait()
                tally.count(str(ended.code))
                tally.most("longest (s)", ended.seconds)
                ended.check_told(7, words="died|memory")
                check_names(folder)


@contextlib.contextmanager
def _cluster(bench: Bench, folder: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """The address of a scheduler with two workers that nobody starts again: (scheduler, worker, worker)."""
    import json

    file, running = folder / "scheduler.json", []
    common = ["--no-dashboard"]

    def dask(*args: object) -> None:
        log = open(folder / f"log{len(running)}", "w")  # noqa: SIM115
        command = [sys.executable, "-m", "dask", *map(str, args), *common]
        env = environment(DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="5s")
        running.append(subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True))

    dask("scheduler", "--host", "127.0.0.1", "--port", 0, "--scheduler-file", file)
    for _ in range(2):
        dask("worker", "--scheduler-file", file, "--no-nanny", "--nthreads", 1, "--local-directory", folder)
    deadline = time.monotonic() + 60
    address = ""
    while not address and time.monotonic() < deadline:
        time.sleep(0.05)
        with contextlib.suppress(OSError, ValueError):
            address = json.loads(file.read_text())["address"]
    try:
        yield address, running
    finally:
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@fault(
    "8s",
    "--scheduler: workers or the scheduler die",
    how="SIGKILL to one worker, to both, or to the scheduler, of a cluster that nobody starts again",
    expected="one: the right result; both, or the scheduler: exit 7 within the patience (30 s), nothing left",
)
def dying_cluster(bench: Bench, tally: Tally) -> None:
    _need_distributed()
    for number in bench.times(6, 3):
        who = ("one worker", "both workers", "the scheduler")[number % 3]
        with (
            bench.fresh() as folder,
            bench.fresh() as place,
            tally.trial(who),
            _cluster(bench, place) as (address, all_),
        ):
            target = folder / "o.tif"
            run = _start(bench, target, "", "--scheduler", address)
            _wait_for_tiles(run, target, 3)
            victims = {"one worker": all_[1:2], "both workers": all_[1:], "the scheduler": all_[:1]}[who]
            for process in victims:
                os.killpg(process.pid, signal.SIGKILL)
            killed = time.monotonic()
            ended = run.wait()
            tally.count(f"{who}: {ended.code}")
            if who == "one worker":
                assert ended.code == 0, ended.err
                check_same(target, bench.whole(bench.source(SIDE), "o.tif", *HOW))
                check_names(folder, target)
            else:
                ended.check_told(7)
                tally.most("longest to the end (s)", time.monotonic() - killed)
                check_names(folder)


@fault(
    "21",
    "a worker that stalls",
    how="SIGSTOP to one of two workers (--workers 2), for good; dask's worker-ttl set to 5 s",
    expected="the run goes on without it, or exit 7 within the patience",
)
def stalled_worker(bench: Bench, tally: Tally) -> None:
    _need_distributed()
    for number in bench.times(3, 1):
        with bench.fresh() as folder:
            target = folder / f"o.{FORMATS[number % 3]}"
            with tally.trial(f"{target.suffix}"):
                run = _start(bench, target, "slow=0.05", DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL="5s")
                _wait_for_tiles(run, target, 3)
                os.kill(workers_of(run)[0], signal.SIGSTOP)
                stopped = time.monotonic()
                try:
                    ended = run.wait()
                finally:
                    run.kill()
                tally.count(str(ended.code))
                tally.most("longest to the end (s)", time.monotonic() - stopped)
                if ended.code == 0:
                    check_same(target, bench.whole(bench.source(SIDE), target.name, *HOW))
                    check_names(folder, target)
                else:
                    ended.check_told(7)
                    check_names(folder)
