"""What all faults share: runs of geosr, checks of what they leave, and the counting.

A fault is a function that is given a :class:`Bench` and counts in a :class:`Tally`; each of its trials is a ``with
tally.trial(...)``, and an assertion that fails in it is a failure. Runs are either processes of their own
(:meth:`Bench.start`) or forks of one that has imported everything (:class:`Nursery`), which start in 20 ms, so that a
hundred kills at random times hit the work and not the imports.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
COMMAND = [sys.executable, "-m", "geosr_cli.main"]
FORMATS = ("tif", "nc", "zarr")

# No run here takes a tenth of this on an idle machine.
LONGEST = 300.0


#: Runs a command as a user who may read all files and write nobody's (Python may lie in a folder of root's).
ANOTHER_USER = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),
)


class Skipped(Exception):
    """This machine cannot play the fault."""


@dataclass
class Tally:
    """Trials and failures of one fault."""

    failures: list[str] = field(default_factory=list)
    trials: int = 0
    seen: dict[str, int] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @contextlib.contextmanager
    def trial(self, what: str) -> Iterator[None]:
        self.trials += 1
        try:
            yield
        except Skipped:
            self.trials -= 1
            raise
        except Exception as error:  # whatever went wrong, the others are tried too
            text = str(error) or next((line.line for line in _frames(error)), "")
            self.failures.append(f"{what}: {type(error).__name__}: {text[:400]}")

    def count(self, what: str) -> None:
        """What kind of end a trial had."""
        self.seen[what] = self.seen.get(what, 0) + 1

    def most(self, name: str, value: float) -> None:
        self.notes[name] = round(max(value, self.notes.get(name, value)), 2)


def _frames(error: BaseException) -> Any:
    import traceback

    return reversed(traceback.extract_tb(error.__traceback__))


@dataclass(frozen=True)
class Ended:
    """What a run left on its channels."""

    code: int
    out: str
    err: str
    seconds: float = 0.0

    def check_told(self, *codes: int, words: str = "") -> None:
        """A failure with one of these codes, told in one line that has one of ``words`` (separated by ``|``)."""
        assert "Traceback" not in self.err + self.out, self.err[-800:]
        assert self.code in codes, f"exit {self.code}: {self.err[-400:]}"
        told = [line for line in self.err.splitlines() if line.startswith("geosr: ")]
        assert told, f"exit {self.code} without a word: {self.err[-200:]!r}"
        assert not words or any(word in told[-1] for word in words.split("|")), told[-1]


class Run:
    """A process of geosr, in a process group of its own.

    Parameters
    ----------
    wait : gives its exit code, negative for a signal.
    """

    def __init__(self, pid: int, wait: Callable[[], int], channels: tuple[Path, Path], forked: bool) -> None:
        self.pid, self._wait, self._channels, self.forked = pid, wait, channels, forked
        self.started = time.monotonic()

    def kill(self, signum: int = signal.SIGKILL, group: bool = True) -> None:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, signum)

    def wait(self) -> Ended:
        code = self._wait()
        out, err = (path.read_text(errors="replace") for path in self._channels)
        for path in self._channels:
            path.unlink()
        return Ended(code, out, err, time.monotonic() - self.started)

    def children(self) -> list[int]:
        """Processes that this one has started, and theirs."""
        return _descendants(self.pid)


def _descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            head = stat.read_text().rpartition(")")[2].split()
            if head[0] != "Z":
                parents.setdefault(int(head[1]), []).append(int(stat.parent.name))
    result: list[int] = []
    todo = list(parents.get(pid, []))
    while todo:
        child = todo.pop()
        result.append(child)
        todo += parents.get(child, [])
    return result


def alive(pid: int) -> bool:
    """Is it there, and more than an entry that nobody has asked for yet?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def processes_with(text: str) -> list[int]:
    """Processes whose environment or command line holds ``text``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if text.encode() in (folder / "environ").read_bytes() + (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def environment(**more: str | None) -> dict[str, str]:
    """Of a run: outputs are the same to the bit, and sitecustomize is found."""
    paths = [str(HERE / "site"), os.environ.get("PYTHONPATH", "")]
    found = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    found |= {name: value for name, value in more.items() if value is not None}
    return {name: value for name, value in found.items() if more.get(name, "") is not None}


# What a run imports.
_MODULES = (
    "click numpy xarray dask.array dask.threaded rasterio netCDF4 pyproj odc.geo.geobox rioxarray zarr geosr "
    "geosr.jobs geosr.downscale geosr.native geosr.reading geosr.reading.geotiff geosr.writing.cog "
    "geosr.writing.netcdf geosr.writing.zarr geosr.writing.style geosr.writing.crew geosr_cli.main "
    "geosr_cli.downscale sitecustomize"
)

NURSERY = """
import contextlib, json, os, resource, signal, sys

def main():
    import importlib
    sys.path[:0] = [{site!r}]
    for name in {modules!r}:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    from geosr_cli.main import main as geosr
    say = os.fdopen(os.dup(1), "w")
    print("ready", file=say, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if not pid:
            os.setpgid(0, 0)
            say.close()
            os.chdir(job["cwd"])
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            for number, name in ((1, job["out"]), (2, job["err"])):
                handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(handle, number)
                os.close(handle)
            os.environ.update(job["env"])
            for name, value in job["limits"].items():
                resource.setrlimit(getattr(resource, name), (value, value))
            if "GEOSR_FAULT" in job["env"]:
                import sitecustomize
                sitecustomize.FAULTS.update(p.partition("=")[::2] for p in job["env"]["GEOSR_FAULT"].split(","))
                sitecustomize.apply()
            sys.argv = ["geosr", *job["args"]]
            return geosr()
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        print(pid, file=say, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=say, flush=True)

if __name__ == "__main__":
    main()
"""


class Nursery:
    """A process that has imported geosr and what it needs, and forks for each run; one run at a time."""

    def __init__(self, scratch: Path) -> None:
        script = scratch / "nursery.py"
        script.write_text(NURSERY.format(site=str(HERE / "site"), modules=_MODULES.split()))
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([sys.executable, str(script)], env=environment(), **pipes)
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def start(self, job: dict[str, Any]) -> tuple[int, Callable[[], int]]:
        assert self._process.stdin is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)
        return int(self._line()), lambda: int(self._line())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Bench:
    """A scratch folder, inputs, what a run makes of them when nothing goes wrong, and ways to run geosr.

    Parameters
    ----------
    long : many trials; else few, for CI.
    """

    def __init__(self, long: bool = False, seed: int = 0) -> None:
        self.long = long
        self.random = random.Random(seed)
        self.scratch = Path(tempfile.mkdtemp(prefix="geosr-faults-"))
        self.scratch.chmod(0o755)  # some runs are another user's
        self._number = 0
        self._nurseries: list[Nursery] = []
        self._whole: dict[tuple[Any, ...], Path] = {}
        self._mounted: list[Path] = []

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *exc: object) -> None:
        for nursery in self._nurseries:
            nursery.close()
        for place in reversed(self._mounted):
            subprocess.run(["umount", "--lazy", str(place)], capture_output=True)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def times(self, long: int, short: int) -> range:
        """How many trials; those of one that the short run leaves out are none."""
        return range(long if self.long else short)

    def folder(self) -> Path:
        """A new one."""
        self._number += 1
        place = self.scratch / f"f{self._number}"
        place.mkdir()
        return place

    @contextlib.contextmanager
    def fresh(self) -> Iterator[Path]:
        """A new folder, for one trial."""
        place = self.folder()
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def source(self, side: int, seed: int = 0) -> Path:
        """A raster of ``side`` x ``side`` cells of noise, with gaps."""
        path = self.scratch / f"in{side}-{seed}.tif"
        if not path.exists():
            import numpy as np
            import rasterio
            from affine import Affine

            values = np.random.default_rng(seed).normal(5e-5, 1e-5, (side, side)).astype("f4")
            values[side // 3 : side // 3 + 4, side // 2] = np.nan
            profile = {"driver": "GTiff", "dtype": "float32", "count": 1, "height": side, "width": side}
            affine = Affine(1000, 0, 4e5, 0, -1000, 5e6)
            with rasterio.open(path, "w", **profile, crs="EPSG:32632", transform=affine, nodata=np.nan) as out:
                out.write(values, 1)
                out.units = ["mol m-2"]
        return path

    # ---- running

    def _channels(self) -> tuple[Path, Path]:
        self._number += 1
        return self.scratch / f"out{self._number}", self.scratch / f"err{self._number}"

    def fork(self, *args: object, cwd: Path | None = None, env: dict[str, str] | None = None, lane: int = 0,
             limits: dict[str, int] | None = None) -> Run:  # fmt: skip
        """``geosr ARGS`` in a fork of a process that has imported everything; in two ``lane`` s side by side."""
        while len(self._nurseries) <= lane:
            self._nurseries.append(Nursery(self.folder()))
        out, err = self._channels()
        job = {"args": list(map(str, args)), "cwd": str(cwd or self.scratch), "env": env or {}, "limits": limits or {}}
        pid, wait = self._nurseries[lane].start({**job, "out": str(out), "err": str(err)})
        return Run(pid, wait, (out, err), forked=True)

    def start(self, *args: object, cwd: Path | None = None, under: tuple[str, ...] = (), **env: str | None) -> Run:
        """``geosr ARGS`` in a process of its own, perhaps ``under`` another command."""
        return self.process([*under, *COMMAND, *map(str, args)], cwd, environment(**env))

    def process(self, command: list[str], cwd: Path | None, env: dict[str, str]) -> Run:
        out, err = self._channels()
        with open(out, "w") as one, open(err, "w") as two:
            made = subprocess.Popen(
                command, cwd=cwd or self.scratch, env=env, stdin=subprocess.DEVNULL, stdout=one, stderr=two,
                start_new_session=True,
            )  # fmt: skip
        return Run(made.pid, lambda: made.wait(LONGEST), (out, err), forked=False)

    # ---- what should come of it

    def whole(self, source: Path, name: str, *args: object) -> Path:
        """What an uninterrupted run makes of ``source``, as ``name``."""
        key = (source, name, *args)
        if key not in self._whole:
            place = self.folder() / name
            ended = self.fork("downscale", source, "-o", place, *args).wait()
            assert ended.code == 0, ended.err
            self._whole[key] = place
        return self._whole[key]

    @cached_property
    def is_root(self) -> bool:
        return hasattr(os, "geteuid") and os.geteuid() == 0

    # ---- disks

    def mount(self, *options: str, kind: str = "tmpfs", device: str = "tmpfs", place: Path | None = None) -> Path:
        """Mount a file system at a new folder."""
        if not self.is_root:
            raise Skipped("needs root to mount")
        place = place or self.folder()
        command = ["mount", "-t", kind, *(("-o", ",".join(options)) if options else ()), device, str(place)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Skipped(f"cannot mount: {done.stderr.strip()}")
        self._mounted.append(place)
        return place

    def unmount(self, place: Path) -> None:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        self._mounted.remove(place)


def need(*programs: str) -> None:
    """Skip where one is missing."""
    for program in programs:
        if shutil.which(program) is None:
            raise Skipped(f"needs {program}")


# ---- checks


def partial_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


def places(journal: Path) -> list[tuple[int, ...]]:
    """Corners of the tiles that a journal has, in its order, damaged lines left out; read without geosr's code."""
    import zlib

    found = []
    for line in journal.read_bytes().split(b"\n") if journal.exists() else ():
        head, _, text = line.partition(b" ")
        with contextlib.suppress(ValueError):
            if int(head, 16) == zlib.crc32(text):
                plain = json.loads(text)
                if isinstance(plain, list):
                    found.append(tuple(plain[0]))
    return found


def digest(path: Path) -> str:
    """Of a file's bytes, or of all files in a folder with their names."""
    found = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        found.update(f"{file.relative_to(path.parent) if path.is_dir() else ''}".encode())
        found.update(file.read_bytes())
    return found.hexdigest()


def snapshot(folder: Path) -> dict[str, str]:
    """Every file in ``folder``, by name."""
    return {str(p.relative_to(folder)): digest(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def check_whole(target: Path) -> None:
    """The output agrees with its manifest, and opens."""
    from geosr.writing.manifest import verify

    verify(target)


def check_same(target: Path, other: Path) -> None:
    """To the bit; NetCDF to the pixel, since HDF5 lays tiles out in the order in which they come."""
    check_whole(target)
    if target.suffix != ".nc":
        assert digest_within(target) == digest_within(other), f"{target.name} differs from the uninterrupted run's"
        return
    import netCDF4
    import numpy as np

    with netCDF4.Dataset(target) as one, netCDF4.Dataset(other) as two:
        assert one.variables.keys() == two.variables.keys()
        for name in one.variables:
            np.testing.assert_array_equal(np.asarray(one[name][...]), np.asarray(two[name][...]))


def digest_within(path: Path) -> Any:
    """As :func:`digest`, whatever ``path`` is called."""
    return snapshot(path) if path.is_dir() else digest(path)


def check_names(folder: Path, *allowed: Path) -> None:
    """Nothing in ``folder`` but outputs of that name, with what belongs to them."""
    known = {n for p in allowed for n in (p.name, f"{p.name}.json", p.with_suffix(".qml").name)}
    extra = {p.name for p in folder.iterdir()} - known
    assert not extra, f"left: {sorted(extra)}"


def check_absent_or_whole(target: Path) -> str:
    """The target, if it is there, is whole: "absent" or "whole"."""
    if not os.path.lexists(target):
        assert not os.path.lexists(target.with_name(target.name + ".json")), "a manifest without its output"
        return "absent"
    if not target.with_name(target.name + ".json").exists():
        # Killed between the last two renames: the output is there, whole, and not yet said to be.
        return "whole, no manifest"
    check_whole(target)
    return "whole"


# ---- the list of faults


@dataclass(frozen=True)
class Fault:
    """A row of the table.

    Attributes
    ----------
    number : of the row.
    how : what is done; expected : what must come of it.
    fast : its short version takes no more than two seconds or so.
    """

    number: str
    name: str
    how: str
    expected: str
    play: Callable[[Bench, Tally], None]
    fast: bool

    def run(self, bench: Bench) -> dict[str, Any]:
        """Play it; the line of JSON."""
        tally, started, skipped = Tally(), time.monotonic(), None
        try:
            self.play(bench, tally)
        except Skipped as reason:
            skipped = str(reason)
        found = {"row": self.number, "fault": self.name, "trials": tally.trials, "failures": len(tally.failures)}
        more = {"seen": tally.seen, "notes": tally.notes, "failed": tally.failures[:20], "skipped": skipped}
        return {**found, "seconds": round(time.monotonic() - started, 1), **{k: v for k, v in more.items() if v}}


FAULTS: list[Fault] = []


def fault(number: str, name: str, *, how: str, expected: str, fast: bool = False) -> Callable[[Any], Any]:
    """Add a function to the list."""

    def add(play: Callable[[Bench, Tally], None]) -> Callable[[Bench, Tally], None]:
        FAULTS.append(Fault(number, name, how, expected, play, fast))
        return play

    return add
