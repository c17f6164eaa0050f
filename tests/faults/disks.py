"""Disks that are full, broken, forbidden, or lose power."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

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
    check_whole,
    fault,
    need,
    partial_of,
    snapshot,
)

HOW = ("--scale", "2", "--method", "bicubic")
PAGE = 4096
# HDF5 keeps the reason to itself.
FULL = "disk full|too large|No space|limit|HDF error"


def _old(bench: Bench, folder: Path, suffix: str) -> dict[str, str]:
    """Put an older output at ``folder/o.suffix``; what is there then."""
    made = bench.whole(bench.source(30), f"o.{suffix}", *HOW)
    shutil.copytree(made.parent, folder, dirs_exist_ok=True)
    return snapshot(folder)


def _judge(tally: Tally, ended: Ended, folder: Path, target: Path, before: dict[str, str], expected: Path,
           words: str = "", codes: tuple[int, ...] = (5,)) -> None:  # fmt: skip
    """The new output, whole; or an error, and nothing has changed."""
    tally.count(str(ended.code))
    if ended.code == 0:
        check_same(target, expected)
        check_names(folder, target)
        return
    ended.check_told(*codes, words=words)
    assert snapshot(folder) == before, f"changed: {sorted(set(snapshot(folder)) ^ set(before))}"
    assert not partial_of(target).exists(), "the folder is left"


@fault(
    "3",
    "disk full, at each page",
    how="a tmpfs with a filler that leaves 1, 2, 3 … pages of 4 KB, until a run fits; every other disk has an older "
    "output, which is to be replaced",
    expected="exit 5 'disk full', the older output as it was, nothing left; or whole",
)
def full_disk(bench: Bench, tally: Tally) -> None:
    source = bench.source(160)
    for suffix in FORMATS if bench.long else ("tif",):
        expected = bench.whole(source, f"o.{suffix}", *HOW)
        size = 2048 * PAGE
        disk, fitted = bench.mount(f"size={size}"), 0
        filler, target = disk / "filler", disk / "o" / f"o.{suffix}"
        step = 1 if bench.long else 40
        for free in range(0, 900, step):
            shutil.rmtree(target.parent, ignore_errors=True)
            filler.unlink(missing_ok=True)
            target.parent.mkdir()
            before = _old(bench, target.parent, suffix) if (free // step) % 2 else {}
            used = os.statvfs(disk)
            room = used.f_bavail * used.f_frsize - free * PAGE
            if room < 0:
                continue
            with open(filler, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, room)
            with tally.trial(f"{suffix}, {free} pages free"):
                ended = bench.fork("downscale", source, "-o", target, *HOW, "--overwrite").wait()
                _judge(tally, ended, target.parent, target, before, expected, FULL)
            fitted += ended.code == 0
            if fitted >= 4:
                break
        with tally.trial(f"{suffix} fits in the end"):
            assert fitted
        bench.unmount(disk)


#: What is made to fail, and with what.
_CALLS = (
    ("fsync,fdatasync", "EIO"),
    ("fsync,fdatasync", "ENOSPC"),
    ("rename,renameat,renameat2", "EIO"),
    ("rename,renameat,renameat2", "ENOSPC"),
    ("link,linkat", "EIO"),
    ("write,pwrite64,writev,pwritev,copy_file_range", "EIO"),
    ("write,pwrite64,writev,pwritev,copy_file_range", "ENOSPC"),
    ("mkdir,mkdirat", "ENOSPC"),
    ("ftruncate,fallocate", "ENOSPC"),
    ("unlink,unlinkat,rmdir", "EIO"),
)


def _inject(bench: Bench, tally: Tally, suffix: str, calls: str, error: str, older: bool, most: int) -> None:
    """The n-th call fails, for n = 1, 2, … until a run has none to fail; every n-th of many."""
    source = bench.source(60)
    expected = bench.whole(source, f"o.{suffix}", *HOW)
    number, step = 1, 1
    while number < 5000:
        with bench.fresh() as folder:
            log, place = folder / "strace.log", folder / "out"
            place.mkdir()
            before = _old(bench, place, suffix) if older else {}
            target = place / f"o.{suffix}"
            under = ("strace", "-f", "-qq", "-y", "--seccomp-bpf", "-o", str(log), "-e", f"trace={calls}")
            under += ("-e", f"inject={calls}:error={error}:when={number}")
            with tally.trial(f"{suffix}, {calls.partition(',')[0]} {number}: {error}"):
                ended = bench.start("downscale", source, "-o", target, *HOW, "--overwrite", under=under).wait()
                injected = [line for line in log.read_text().splitlines() if "(INJECTED)" in line]
                if not injected:
                    assert ended.code == 0
                    tally.trials -= 1  # nothing was done to this one
                    return
                _judge_injected(tally, ended, place, target, before, expected, injected[0])
        number += step
        step = 1 if bench.long and number < most else max(1, number // (3 if bench.long else 1))


def _judge_injected(tally: Tally, ended: Ended, place: Path, target: Path, before: dict[str, str], expected: Path,
                    call: str) -> None:  # fmt: skip
    if re.search(r"\b(unlink|unlinkat|rmdir)\(", call):
        # What cannot be removed stays: a failure to tidy up after a success, or after a failure.
        assert "Traceback" not in ended.err
        tally.count(str(ended.code))
        check_absent_or_whole(target)
        return
    if ended.code == 5 and f"<{place}>)" in call and snapshot(place) != before:
        # The rename is done, and the folder cannot be flushed: new, whole, and not said to be safe.
        tally.count("5, after the rename")
        ended.check_told(5)
        check_same(target, expected)
        return
    _judge(tally, ended, place, target, before, expected)


@fault(
    "4",
    "EIO and ENOSPC from each system call",
    how="strace makes the n-th fsync, rename, link, write, mkdir, ftruncate or unlink fail, for n = 1, 2, 3 … until a "
    "run has none to fail (of writes beyond 60, every third or so)",
    expected="exit 5, the older output as it was, nothing left; or whole, where the call was not one that matters",
)
def failing_calls(bench: Bench, tally: Tally) -> None:
    need("strace")
    if subprocess.run(["strace", "-e", "inject=fsync:error=EIO", "true"], capture_output=True).returncode:
        raise Skipped("strace may not trace here")
    for suffix in FORMATS if bench.long else ("tif",):
        for calls, error in _CALLS if bench.long else (_CALLS[0], _CALLS[3]):
            _inject(bench, tally, suffix, calls, error, older=True, most=60)


@fault(
    "5",
    "no inodes left; a limit on the size of files",
    how="tmpfs with 2, 3, 4 … inodes; RLIMIT_FSIZE of 0, 16 KB, 32 KB …; until a run fits",
    expected="exit 5, nothing left; or whole",
    fast=True,
)
def no_inodes(bench: Bench, tally: Tally) -> None:
    source = bench.source(160)
    for suffix in FORMATS if bench.long else ("tif",):
        expected = bench.whole(source, f"o.{suffix}", *HOW)
        for limit in range(0, 1 << 22, 16384 if bench.long else 1 << 18):
            with bench.fresh() as folder, tally.trial(f"{suffix}, files of {limit} bytes at most"):
                target, limits = folder / f"o.{suffix}", {"RLIMIT_FSIZE": limit}
                # Its own messages go to a file, too: nobody hears them at a limit of 0.
                ended = bench.fork("downscale", source, "-o", target, *HOW, limits=limits).wait()
                if limit:
                    _judge(tally, ended, folder, target, {}, expected, FULL)
                else:
                    assert (ended.code, list(folder.iterdir())) == (5, [])
                if ended.code == 0:
                    break
        if not bench.is_root:
            continue
        for count in range(2, 200, 1 if bench.long else 8):
            disk = bench.mount("size=8m", f"nr_inodes={count}")
            with tally.trial(f"{suffix}, {count} inodes"):
                ended = bench.fork("downscale", source, "-o", disk / f"o.{suffix}", *HOW).wait()
                _judge(tally, ended, disk, disk / f"o.{suffix}", {}, expected)
            bench.unmount(disk)
            if ended.code == 0:
                break


@fault(
    "6",
    "a folder that is read-only, or another user's",
    how="read-only bind mount; read-only file system; setpriv nobody; chattr +i; a run that would compute a tile exits "
    "with 99",
    expected="exit 5 before any computing",
    fast=True,
)
def read_only(bench: Bench, tally: Tally) -> None:
    source = bench.source(60)
    for _ in bench.times(5, 1):
        for suffix in FORMATS:
            place = bench.folder()
            bench.mount("bind", kind="none", device=str(place), place=place)
            subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)
            with tally.trial(f"{suffix}, read-only mount"):
                _refused(bench, tally, source, place / f"o.{suffix}", "not writable|Read-only")
            bench.unmount(place)
        disk = bench.mount("size=1m", "ro")
        with tally.trial("read-only file system"):
            _refused(bench, tally, source, disk / "o.tif", "not writable|Read-only")
        bench.unmount(disk)
        with bench.fresh() as folder, tally.trial("another user's folder"):
            need("setpriv")
            folder.chmod(0o755)
            under = ANOTHER_USER
            if subprocess.run([*under, *COMMAND, "--help"], capture_output=True, cwd="/").returncode == 0:
                run = bench.start("downscale", source, "-o", folder / "o.tif", *HOW, under=under, GEOSR_FAULT="refuse")
                run.wait().check_told(5, words="not writable")
                assert not snapshot(folder)
        with bench.fresh() as folder, tally.trial("chattr +i"):
            if subprocess.run(["chattr", "+i", str(folder)], capture_output=True).returncode == 0:
                try:
                    _refused(bench, tally, source, folder / "o.tif", "not writable")
                finally:
                    subprocess.run(["chattr", "-i", str(folder)], check=True)


def _refused(bench: Bench, tally: Tally, source: Path, target: Path, words: str) -> None:
    run = bench.fork("downscale", source, "-o", target, *HOW, env={"GEOSR_FAULT": "refuse"})
    ended = run.wait()
    tally.count(str(ended.code))
    ended.check_told(5, words=words)
    assert not snapshot(target.parent)


# ---- power


def _flushed_before_renamed(log: str, target: Path, written: set[str]) -> None:
    """In a log of strace -y: each file of the output is flushed before it gets its name, the folder after the last."""
    flushed, renamed, last_rename, last_folder = set(), [], 0, 0
    for number, line in enumerate(log.splitlines()):
        if (found := re.search(r"f(?:data)?sync\(\d+<(.*?)>\)\s+= 0", line)) is not None:
            flushed.add(found[1])
            if found[1] == str(target.parent):
                last_folder = number
        paths = re.findall(r'"(.*?)"', line)
        if re.search(r"\brename", line) and line.rstrip().endswith("= 0") and len(paths) >= 2:
            made, final = paths[-2:]
            if Path(final).parent == target.parent and ".partial" in made:
                assert made in flushed, f"{final} was renamed before it was flushed"
                renamed.append(final)
                last_rename = number
                if target.suffix == ".zarr" and final == str(target):
                    lost = [p for p in written if f"{made}/{p}" not in flushed]
                    assert not lost, f"not flushed: {lost[:3]}"
    assert str(target) in renamed
    assert f"{target}.json" == renamed[-1], "the manifest is not the last"
    assert last_folder > last_rename, "the folder was not flushed after the last rename"


@fault(
    "26",
    "power loss: the order of flushes",
    how="strace -y of a run; fresh and over an older output",
    expected="each file of the output is fsynced before its rename, the manifest is the last, the folder is fsynced "
    "after it",
)
def order_of_flushes(bench: Bench, tally: Tally) -> None:
    need("strace")
    source = bench.source(60)
    for suffix in FORMATS if bench.long else ("tif",):
        for older in (False, True):
            with bench.fresh() as folder, tally.trial(f"{suffix}{', over an older one' * older}"):
                place = folder / "out"
                place.mkdir()
                if older:
                    _old(bench, place, suffix)
                target, log = place / f"o.{suffix}", folder / "strace.log"
                calls = "trace=fsync,fdatasync,rename,renameat,renameat2"
                under = ("strace", "-f", "-qq", "-y", "-s", "4096", "--seccomp-bpf", "-o", str(log), "-e", calls)
                ended = bench.start("downscale", source, "-o", target, *HOW, "--overwrite", under=under).wait()
                assert ended.code == 0, ended.err
                written = set(snapshot(target)) if target.is_dir() else set()
                _flushed_before_renamed(log.read_text(), target, written)


_SHUT_DOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN: _IOR('X', 125, __u32)
_WITHOUT_LOG = 2


@contextlib.contextmanager
def _loop(bench: Bench) -> Any:
    """A loop device with ext4; gives its mount point, and a function that cuts the power."""
    need("losetup", "mkfs.ext4")
    image = bench.folder() / "image"
    with open(image, "wb") as file:
        file.truncate(48 << 20)
    done = subprocess.run(["losetup", "--find", "--show", str(image)], capture_output=True, text=True)
    if done.returncode:
        raise Skipped(f"no loop device: {done.stderr.strip()}")
    device = done.stdout.strip()
    try:
        subprocess.run(["mkfs.ext4", "-q", device], check=True, capture_output=True)
        disk = bench.mount(kind="ext4", device=device)

        def cut() -> None:
            handle = os.open(disk, os.O_RDONLY)
            try:
                flags = ctypes.c_uint32(_WITHOUT_LOG)
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.ioctl(handle, ctypes.c_ulong(_SHUT_DOWN), ctypes.byref(flags)):
                    raise Skipped(f"the kernel cannot shut down ext4: {os.strerror(ctypes.get_errno())}")
            finally:
                os.close(handle)

        def plug() -> None:
            subprocess.run(["umount", str(disk)], check=True)
            subprocess.run(["mount", "-t", "ext4", device, str(disk)], check=True)

        yield disk, cut, plug
    finally:
        if "disk" in locals():
            bench.unmount(disk)
        subprocess.run(["losetup", "--detach", device], check=False)


@fault(
    "26p",
    "power loss: the disk is cut off",
    how="ext4 on a loop device, shut down without its log at a random moment of a run (the ioctl that xfstests uses), "
    "then mounted again; over an older output and without one",
    expected="the older output or the new one, whole; never a mixture; --resume or --overwrite then ends with the "
    "uninterrupted run's bytes",
)
def power_cut(bench: Bench, tally: Tally) -> None:
    if not bench.is_root:
        raise Skipped("needs root")
    source, side = bench.source(300), ("--scale", "4", "--method", "bicubic", "--tile", "512")
    for suffix in FORMATS if bench.long else ("tif",):
        expected = bench.whole(source, f"o.{suffix}", *side)
        started = time.monotonic()
        bench.fork("downscale", source, "-o", bench.folder() / f"o.{suffix}", *side).wait()
        took = time.monotonic() - started
        with _loop(bench) as (disk, cut, plug):
            for number in bench.times(15, 2):
                place = disk / f"{number}"
                place.mkdir()
                older = number % 2 == 1
                before = _old(bench, place, suffix) if older else {}
                os.sync()
                delay = bench.random.uniform(0.3, 1.2) * took
                with tally.trial(f"{suffix}, cut after {delay:.2f} s{', over an older one' * older}"):
                    run = bench.fork("downscale", source, "-o", place / f"o.{suffix}", *side, "--overwrite")
                    time.sleep(delay)
                    cut()
                    run.wait()
                    plug()
                    _after_the_cut(bench, tally, place, suffix, before, expected, source, side)
                shutil.rmtree(place, ignore_errors=True)


def _after_the_cut(bench: Bench, tally: Tally, place: Path, suffix: str, before: dict[str, str], expected: Path,
                   source: Path, side: tuple[str, ...]) -> None:  # fmt: skip
    target = place / f"o.{suffix}"
    found = {name: digest for name, digest in snapshot(place).items() if not name.startswith(".")}
    if found == before:
        tally.count("old" if before else "absent")
    elif target.exists() and (place / f"{target.name}.json").exists():
        check_same(target, expected)
        tally.count("new")
    else:
        # Between the first rename and the last: a part is there, and no manifest says that it is all.
        assert not (place / f"{target.name}.json").exists(), sorted(found)
        if target.is_file():
            assert target.read_bytes() in (expected.read_bytes(),) or snapshot(place)[target.name] == before.get(
                target.name
            ), "neither the old nor the new"
        tally.count("between two renames")
    ended = bench.fork("downscale", source, "-o", target, *side, "--resume", "--overwrite").wait()
    assert ended.code == 0, ended.err
    check_same(target, expected)
    check_whole(target)
