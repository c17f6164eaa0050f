"""Limits on memory, files and processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from .harness import (
    ANOTHER_USER,
    COMMAND,
    FORMATS,
    Bench,
    Ended,
    Skipped,
    Tally,
    check_absent_or_whole,
    check_names,
    check_same,
    fault,
    need,
    partial_of,
)

HOW = ("--scale", "6", "--method", "bicubic", "--tile", "512", "--threads", "2")


def _judge(tally: Tally, ended: Ended, folder: Path, target: Path, expected: Path) -> None:
    """Right, or exit 7; or killed by the kernel, with what that leaves. Never half a target."""
    tally.count("killed" if ended.code in (-9, 137) else str(ended.code))
    assert "Traceback" not in ended.err, ended.err[-500:]
    if ended.code == 0:
        check_same(target, expected)
        check_names(folder, target)
    elif ended.code in (-9, 137):
        assert check_absent_or_whole(target) == "absent"
    else:
        ended.check_told(7)
        left = partial_of(target)
        check_names(folder, *([left] if f"{left} could not be removed" in ended.err else []))


@fault(
    "7",
    "too little address space",
    how="prlimit --as of 300 MB, 320 MB, 340 MB … until three runs fit",
    expected="right, or exit 7; no traceback, no part of an output",
)
def address_space(bench: Bench, tally: Tally) -> None:
    need("prlimit")
    source = bench.source(400)
    for suffix in FORMATS if bench.long else ("tif",):
        expected, fitted = bench.whole(source, f"o.{suffix}", *HOW), 0
        for megabytes in range(300, 4000, 20 if bench.long else 400):
            with bench.fresh() as folder, tally.trial(f"{suffix}, {megabytes} MB of address space"):
                under = ("prlimit", f"--as={megabytes << 20}")
                ended = bench.start("downscale", source, "-o", folder / f"o.{suffix}", *HOW, under=under).wait()
                fitted += ended.code == 0
                _judge(tally, ended, folder, folder / f"o.{suffix}", expected)
            if fitted >= 3:
                break


@contextlib.contextmanager
def cgroup(bench: Bench, megabytes: int) -> Iterator[str]:
    """The file of a memory cgroup (version 1 or 2) into which a process writes its number."""
    if not bench.is_root:
        raise Skipped("needs root")
    for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(root) / f"geosr-faults-{os.getpid()}-{megabytes}"
        with contextlib.suppress(OSError):
            group.mkdir()
            try:
                (group / limit).write_text(str(megabytes << 20))
            except OSError:
                group.rmdir()
                continue
            try:
                yield str(group / "cgroup.procs")
            finally:
                for _ in range(50):
                    with contextlib.suppress(OSError):
                        group.rmdir()
                        break
                    time.sleep(0.1)
            return
    raise Skipped("no memory cgroup can be made")


@fault(
    "7c",
    "too little memory",
    how="a memory cgroup of 80, 90, 100 … MB, until three runs fit; the kernel enforces it by killing; then --resume",
    expected="right, or exit 7, or killed with the target absent; --resume ends with the uninterrupted run's bytes",
)
def memory_cgroup(bench: Bench, tally: Tally) -> None:
    source = bench.source(400)
    for suffix in FORMATS if bench.long else ("tif",):
        expected, fitted = bench.whole(source, f"o.{suffix}", *HOW), 0
        for megabytes in range(80, 1000, 10 if bench.long else 80):
            with (
                bench.fresh() as folder,
                cgroup(bench, megabytes) as procs,
                tally.trial(f"{suffix}, {megabytes} MB of memory"),
            ):
                under = ("sh", "-c", f'echo $$ > {procs}; exec "$@"', "sh")
                ended = bench.start("downscale", source, "-o", folder / f"o.{suffix}", *HOW, under=under).wait()
                fitted += ended.code == 0
                _judge(tally, ended, folder, folder / f"o.{suffix}", expected)
                if ended.code:
                    again = bench.fork("downscale", source, "-o", folder / f"o.{suffix}", *HOW, "--resume").wait()
                    assert again.code == 0, again.err
                    check_same(folder / f"o.{suffix}", expected)
                    check_names(folder, folder / f"o.{suffix}")
            if fitted >= 3:
                break


@fault(
    "19",
    "few files, few processes",
    how="prlimit --nofile of 8, 12 … 128; --nproc of 1, 2, 4 … 64 as another user",
    expected="right, or exit 7; no traceback; nothing left, or the message names the folder (of 12 files and fewer)",
)
def few_files(bench: Bench, tally: Tally) -> None:
    need("prlimit")
    source = bench.source(400)
    for suffix in FORMATS if bench.long else ("tif",):
        expected = bench.whole(source, f"o.{suffix}", *HOW)
        for limit in range(8, 129, 4) if bench.long else (16, 64):
            with bench.fresh() as folder, tally.trial(f"{suffix}, {limit} files"):
                under = ("prlimit", f"--nofile={limit}")
                ended = bench.start("downscale", source, "-o", folder / f"o.{suffix}", *HOW, under=under).wait()
                _judge(tally, ended, folder, folder / f"o.{suffix}", expected)
        user = ANOTHER_USER
        if not bench.is_root or subprocess.run([*user, *COMMAND, "--help"], capture_output=True, cwd="/").returncode:
            continue
        for limit in (1, 2, 3, 4, 6, 8, 16, 50, 64) if bench.long else (2, 50):
            with bench.fresh() as folder, tally.trial(f"{suffix}, {limit} processes"):
                folder.chmod(0o777)
                under = (*user, "prlimit", f"--nproc={limit}")
                ended = bench.start("downscale", source, "-o", folder / f"o.{suffix}", *HOW, under=under).wait()
                _judge(tally, ended, folder, folder / f"o.{suffix}", expected)
