"""Runs that are killed, interrupted, or stopped for a while."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from .harness import (
    FORMATS,
    Bench,
    Run,
    Tally,
    check_absent_or_whole,
    check_names,
    check_same,
    fault,
    partial_of,
    places,
    processes_with,
)

# 64 tiles of 512 cells, those at the edge cut off.
SIDE, SCALE = 450, 8
HOW = ("--scale", str(SCALE), "--method", "bicubic", "--tile", "512")


def _args(bench: Bench, target: Path, *more: str) -> tuple[object, ...]:
    return "downscale", bench.source(SIDE), "-o", target, *HOW, *more


def _kill_and_resume(bench: Bench, tally: Tally, suffix: str, trials: range, workers: bool = False) -> None:
    expected = bench.whole(bench.source(SIDE), f"o.{suffix}", *HOW)
    more = ("--workers", "2") if workers else ()
    with bench.fresh() as folder:
        took = _run(bench, folder / f"o.{suffix}", workers, *more).wait().seconds
    first = 0.5 * took if workers else 0.0  # a cluster takes a while to start
    for _ in trials:
        with bench.fresh() as folder:
            target, delay = folder / f"o.{suffix}", bench.random.uniform(first, 1.02 * took)
            with tally.trial(f"{suffix}, killed after {delay:.3f} s"):
                run = _run(bench, target, workers, *more)
                time.sleep(delay)
                run.kill()
                run.wait()
                tally.count(check_absent_or_whole(target))
                journal, kept = partial_of(target) / "journal", folder / "kept"
                before = places(journal)
                if journal.exists():
                    os.link(journal, kept)  # the folder goes at the end; this name stays
                finished = target.exists()
                ended = _run(bench, target, workers, *more, "--resume").wait()
                assert ended.code == 0 or (finished and ended.code == 5), ended.err
                if ended.code == 5:  # whole, but killed before it had its manifest: it must be asked for anew
                    ended = _run(bench, target, workers, *more, "--overwrite").wait()
                    assert ended.code == 0, ended.err
                check_same(target, expected)
                if before:
                    after = places(kept)
                    assert after[: len(before)] == before, "the journal was begun anew"
                    assert len(after) == len(set(after)), "a tile was done twice"
                    cells = sum((bottom - top) * (right - left) for _, _, top, bottom, left, right in after)
                    assert cells == (SIDE * SCALE) ** 2, f"{cells} cells in {len(after)} tiles"
                    tally.notes["tiles kept"] = tally.notes.get("tiles kept", 0) + len(before)
                    kept.unlink()
                kept.unlink(missing_ok=True)
                check_names(folder, target)


def _run(bench: Bench, target: Path, workers: bool, *more: str) -> Run:
    # Workers are started anew by Python, which a fork in the middle of a script cannot do.
    return (bench.start if workers else bench.fork)(*_args(bench, target, *more))


@fault(
    "1",
    "kill -9, then --resume",
    how="the whole process group, at a random moment of a run of 64 tiles; GeoTIFF, NetCDF, Zarr in turn",
    expected="target absent or whole; --resume ends with the uninterrupted run's bytes (NetCDF: pixels); each tile is "
    "in the journal once; nothing is left",
)
def kill_and_resume(bench: Bench, tally: Tally) -> None:
    for suffix in FORMATS:
        _kill_and_resume(bench, tally, suffix, bench.times(40, 1))


@fault(
    "1w",
    "the same with --workers 2",
    how="the whole process group, workers too",
    expected="as above",
)
def kill_workers_and_resume(bench: Bench, tally: Tally) -> None:
    for suffix in FORMATS:
        _kill_and_resume(bench, tally, suffix, bench.times(10, 1 if suffix == "tif" else 0), workers=True)


def _signalled(bench: Bench, tally: Tally, name: str, twice: float | None, keep: bool, workers: bool) -> None:
    number = getattr(signal, name)
    took = 1.0 if not workers else 6.0
    delay = bench.random.uniform(0.02 if not workers else 2.0, took)
    with bench.fresh() as folder:
        target = folder / f"o.{bench.random.choice(FORMATS)}"
        what = f"{name}{' twice' if twice else ''} after {delay:.3f} s, {target.suffix}{', workers' * workers}"
        with tally.trial(what):
            env = {"GEOSR_FAULT": "keep"} if keep else {}
            mark = f"GEOSR_TRIAL={folder}"
            if workers:
                run = bench.start(*_args(bench, target, "--workers", "2"), GEOSR_TRIAL=str(folder), **env)
            else:
                run = bench.fork(*_args(bench, target), env=env)
            time.sleep(delay)
            sent = time.monotonic()
            run.kill(number)  # as a terminal does: the whole group
            if twice:
                time.sleep(twice)
                run.kill(number)
            ended = run.wait()
            tally.most("longest to the end (s)", time.monotonic() - sent)
            assert "Traceback" not in ended.err, ended.err[-600:]
            # A second one may come when Python has closed its own handling, at the very end: a shell says 130 then too.
            codes = (0, 128 + number, *((-number,) if twice else ()))
            assert ended.code in codes, f"exit {ended.code}: {ended.err[-300:]}"
            tally.count(str(ended.code))
            left = partial_of(target)
            if ended.code == 0:
                check_names(folder, target)
                check_absent_or_whole(target)
            else:
                assert "geosr: interrupted" in ended.err or "geosr: terminated" in ended.err, ended.err[-300:]
                if left.exists():
                    assert str(left) in ended.err, f"left without a word: {ended.err[-300:]}"
                check_names(folder, target, left)
                check_absent_or_whole(target)
            if workers:
                time.sleep(0.2)
                assert not processes_with(mark), "children are left"


@fault(
    "2",
    "SIGINT, SIGTERM, SIGHUP, double Ctrl-C",
    how="to the process group at a random moment; half of the runs keep what they have",
    expected="130, 143, 129; no traceback; nothing is left, or the message names the folder; no child is left",
)
def signals(bench: Bench, tally: Tally) -> None:
    bench.whole(bench.source(SIDE), "o.tif", *HOW)
    for number in bench.times(25, 1):
        for name, twice in (("SIGINT", None), ("SIGTERM", None), ("SIGHUP", None), ("SIGINT", 0.03), ("SIGINT", 0.3)):
            _signalled(bench, tally, name, twice, keep=number % 2 == 0, workers=False)


@fault(
    "2w",
    "the same with --workers 2",
    how="to the process group, 2 to 6 s after the start",
    expected="as above",
)
def signals_to_workers(bench: Bench, tally: Tally) -> None:
    for number in bench.times(5, 1):
        for name, twice in (("SIGINT", None), ("SIGTERM", None), ("SIGHUP", None), ("SIGINT", 0.3)):
            if bench.long or name == "SIGINT":
                _signalled(bench, tally, name, twice, keep=number % 2 == 0, workers=True)


@fault(
    "21p",
    "the process is stopped for a while",
    how="SIGSTOP, a second later SIGCONT, at a random moment",
    expected="the run goes on; the same result",
)
def stopped_for_a_while(bench: Bench, tally: Tally) -> None:
    for _ in bench.times(10, 1):
        with bench.fresh() as folder, tally.trial("SIGSTOP and SIGCONT"):
            target = folder / f"o.{bench.random.choice(FORMATS)}"
            run = bench.fork(*_args(bench, target))
            time.sleep(bench.random.uniform(0.1, 0.8))
            run.kill(signal.SIGSTOP)
            time.sleep(1)
            run.kill(signal.SIGCONT)
            assert run.wait().code == 0
            check_same(target, bench.whole(bench.source(SIDE), target.name, *HOW))
