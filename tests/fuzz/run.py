"""Fuzzing of all that reads files: seeded, mutational, guided by the lines of geosr that an input reaches.

    python tests/fuzz/run.py --reader tiff --seed 7 --inputs 2000

Inputs begin as small files that this makes itself; they are damaged field by field, with checksums made right again,
or drawn anew of parts that do not fit together. Each is given to geosr in a process of its own, which must answer in
time and within its memory by a result that can be right, or by an error of geosr's; and no input may make it open a
secret file or call a local port, whose names are in the inputs. With ``--untrusted`` files are read as strangers' are.

What dies by a signal in a library (libhdf5, GDAL) is counted apart: geosr cannot prevent it in its own process. It is
given to geosr once more as untrusted, where it must be an ordinary error.

Prints one line of JSON for each reader, and saves what fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz import documents, fields, geotiffs, netcdfs
from fuzz.edits import Fields, damage
from fuzz.watch import MEGABYTES, Bench

Odd = Callable[[random.Random], bytes]


@dataclass(frozen=True)
class Reader:
    """How inputs of a kind are made.

    Attributes
    ----------
    odd : draws a new input.
    rebuild : changes an input as a whole and keeps its checksums right.
    share : of inputs that come by ``odd`` or ``rebuild``.
    sums : where checksums lie, and how they are made right again.
    """

    suffix: str
    seeds: Callable[[], list[bytes]]
    fields: Fields
    favourites: dict[str, Any] = field(default_factory=dict)
    odd: Odd | None = None
    rebuild: Callable[[random.Random, bytes], bytes] | None = None
    share: float = 0.45
    checksums: bool = False
    raster: bool = True


READERS = {
    "tiff": Reader(".tif", geotiffs.tiff_seeds, fields.tiff_fields, fields.TIFF_FAVOURITES, geotiffs.tiff_odd),
    "netcdf3": Reader(".nc", netcdfs.netcdf3_seeds, fields.netcdf3_fields, fields.NETCDF3_FAVOURITES,
                      partial(netcdfs.netcdf_odd, format="NETCDF3_64BIT_OFFSET")),
    "hdf5": Reader(".nc", netcdfs.hdf5_seeds, fields.hdf5_fields, fields.HDF5_FAVOURITES,
                   partial(netcdfs.netcdf_odd, format="NETCDF4"), checksums=True),
    "swath": Reader(".nc", netcdfs.swath_seeds, fields.hdf5_fields, fields.HDF5_FAVOURITES, netcdfs.swath_odd,
                    checksums=True),
    "bundle": Reader(".zip", documents.bundle_seeds, documents.bundle_fields, rebuild=documents.bundle_rebuilt,
                     share=0.7, raster=False),
    "keras": Reader(".h5", documents.keras_seeds, fields.hdf5_fields, fields.HDF5_FAVOURITES, checksums=True,
                    raster=False),
    "journal": Reader("", documents.journal_seeds, documents.journal_fields, rebuild=documents.journal_rebuilt,
                      share=0.6, raster=False),
    "manifest": Reader(".json", documents.manifest_seeds, documents.text_fields, rebuild=documents.manifest_rebuilt,
                       share=0.7, raster=False),
    "recipe": Reader(".toml", documents.recipe_seeds, documents.text_fields, rebuild=documents.recipe_rebuilt,
                     share=0.6, raster=False),
}  # fmt: skip

_OPTIONS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("crs", ("EPSG:4326", "EPSG:3857", "EPSG:3035")),
    ("crs", ("EPSG:4326",)),
    ("variable", (netcdfs.NAME, "no2", "1", "2", "PRODUCT/x", netcdfs.S5P)),
    ("time", (0, 1, "2020-01-02", "2020")),
    ("level", (0, "500", 1000.0)),
    ("bbox", ((5, 40, 7, 46), (170, -10, -170, 10), (-180, -90, 180, 90))),
    ("units", ("mol m-2", "1e15 molec cm-2", "DU")),
    ("input_units", ("mol m-2", "umol m-2")),
    ("qa", (0.0, 0.5)),
    ("resolution", (0.05, 0.5)),
)


#: Where a process is that hangs in HDF5 or GDAL: these lines of geosr call them, and their own modules show no lines.
_IN_LIBRARY = re.compile(
    r"most recent call first\):\n"
    r'  File "[^"]*(reading/(store|hdf5_scan|s5p_l2|geotiff)\.py|(h5py|rasterio|netCDF4)/[^"]*)"'
)


@dataclass
class Tally:
    """What came of the inputs of one reader."""

    reader: str
    seed: int
    untrusted: bool
    inputs: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    native: Counter[str] = field(default_factory=Counter)
    warned: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    lines: set[str] = field(default_factory=set)
    kept: int = 0
    seconds: float = 0.0
    peak: float = 0.0
    saved: list[str] = field(default_factory=list)

    def line(self) -> str:
        """As JSON."""
        refused = {k: v for k, v in sorted(self.outcomes.items()) if k != "accepted"}
        told = {
            "reader": self.reader, "seed": self.seed, "untrusted": self.untrusted, "inputs": self.inputs,
            "accepted": self.outcomes["accepted"], "refused": refused, "failures": sum(self.failures.values()),
            "kinds": dict(self.failures.most_common()), "native": dict(self.native), "lines": len(self.lines),
            "corpus": self.kept, "peak_mb": self.peak, "seconds": round(self.seconds, 1), "saved": self.saved,
        }  # fmt: skip
        return json.dumps(told)


class Fuzzer:
    """Inputs of one reader, one after the other.

    Parameters
    ----------
    out : folder for inputs that fail; it is made when there is one.
    """

    def __init__(self, bench: Bench, reader: str, seed: int, untrusted: bool = False, out: Path | None = None) -> None:
        self.bench, self.name, self.reader, self.seed, self.untrusted = bench, reader, READERS[reader], seed, untrusted
        self.out = out
        self.corpus = self.reader.seeds()
        self.tally = Tally(reader, seed, untrusted)
        self.first = len(self.corpus)

    def run(self, inputs: int) -> Tally:
        """Try that many inputs, the seeds among them."""
        start = time.monotonic()
        for i in range(inputs):
            self.one(i)
        self.tally.seconds = time.monotonic() - start
        self.tally.kept = len(self.corpus) - self.first
        return self.tally

    def input(self, i: int) -> tuple[bytes, dict[str, Any]]:
        """Input ``i`` and the options that go with it. The first are the seeds as they are."""
        rng = random.Random(f"{self.name} {self.seed} {i}")
        if i < self.first:
            return self.corpus[i], {"refined": self.reader.raster or i == 0}
        # What was found last is tried more often.
        parent = self.corpus[-1 - int(len(self.corpus) * rng.random() ** 2)]
        rebuilt = rng.random() < self.reader.share
        if rebuilt and self.reader.odd is not None:
            data = self.reader.odd(rng)
            if rng.random() < 0.3:
                data = self._damaged(rng, data)
        elif rebuilt and self.reader.rebuild is not None:
            data = self.reader.rebuild(rng, parent)
        else:
            data = self._damaged(rng, parent)
        return data, self._options(rng, rebuilt)

    def _damaged(self, rng: random.Random, data: bytes) -> bytes:
        sums = fields.hdf5_sums(data) if self.reader.checksums and rng.random() < 0.9 else []
        other = [rng.choice(self.corpus)]
        return fields.hdf5_resum(damage(rng, data, self.reader.fields, other, self.reader.favourites), sums)

    def _options(self, rng: random.Random, rebuilt: bool) -> dict[str, Any]:
        if not self.reader.raster:
            return {"folder": rng.random() < 0.4, "refined": rng.random() < 0.5, "honest": not rebuilt}
        chosen: dict[str, Any] = {"refined": rng.random() < 0.15}
        for _ in range(rng.choice((0, 0, 1, 2))):
            name, values = rng.choice(_OPTIONS)
            if name != "resolution" or self.name == "swath":
                chosen[name] = rng.choice(values)
        return chosen

    def one(self, i: int) -> None:
        """Try input ``i``."""
        data, options = self.input(i)
        found = self.bench.run(self.name, data, self.reader.suffix, options, self.untrusted, fresh=i == 0)
        tally = self.tally
        tally.inputs += 1
        tally.outcomes[found["outcome"]] += 1
        tally.peak = max(tally.peak, found.get("peak", 0.0))
        reason = found.get("told", "").rpartition("input" + self.reader.suffix + ": ")[2]
        tally.reasons[re.sub(r"[\d.e+-]*\d+|'[^']*'", "#", reason)[:90]] += 1
        for text in found.get("warned", []):
            if not text.startswith("GeosrWarning"):
                tally.warned[text] += 1
        new = set(found.get("lines", ())) - tally.lines
        tally.lines |= new
        if found["outcome"] in ("crash", "hang") and "failure" not in found:
            self._native(i, data, options, found)
        if "failure" in found:
            self._failed(i, data, options, found)
        elif new and i >= self.first and found["outcome"] not in ("crash", "hang"):
            self.corpus.append(data)

    def _native(self, i: int, data: bytes, options: dict[str, Any], found: dict[str, Any]) -> None:
        """A crash or hang outside the box: is it an error in the box?"""
        self.tally.native[f"{found['outcome']}: {found['told']}"] += 1
        where = _IN_LIBRARY.search(found["traceback"])
        if not self.reader.raster or (found["outcome"] == "hang" and not where):
            found["failure"] = f"{found['outcome']}: {found['told']}"
            return
        self._save(i, data, options, found)
        boxed = self.bench.run(self.name, data, self.reader.suffix, options, untrusted=True)
        if "failure" in boxed:
            found["failure"] = f"boxed: {boxed['failure']}"
            found["traceback"] = boxed.get("traceback", "")

    def _failed(self, i: int, data: bytes, options: dict[str, Any], found: dict[str, Any]) -> None:
        self.tally.failures[found["failure"]] += 1
        if self.tally.failures[found["failure"]] <= 3:
            self._save(i, data, options, found)

    def _save(self, i: int, data: bytes, options: dict[str, Any], found: dict[str, Any]) -> None:
        if self.out is None:
            self.out = Path(tempfile.mkdtemp(prefix="geosr-fuzz-found-"))
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / f"{self.name}-{self.seed}-{i}{self.reader.suffix}"
        path.write_bytes(data)
        found = {k: v for k, v in found.items() if k != "lines"}
        said = {"reader": self.name, "seed": self.seed, "input": i, "untrusted": self.untrusted, "options": options}
        path.with_name(f"{path.name}.found").write_text(json.dumps({**said, **found}, indent=1))
        if str(path) not in self.tally.saved:
            self.tally.saved.append(str(path))


def again(bench: Bench, path: Path, untrusted: bool) -> dict[str, Any]:
    """Try a saved input once more."""
    said = json.loads(path.with_name(f"{path.name}.found").read_text())
    reader = READERS[said["reader"]]
    return bench.run(said["reader"], path.read_bytes(), reader.suffix, said["options"], untrusted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reader", choices=READERS, action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=2000, help="for each reader")
    parser.add_argument("--untrusted", action="store_true", help="read files as those of strangers")
    parser.add_argument("--seconds", type=float, default=30, help="that an input may take")
    parser.add_argument(
        "--memory", type=float, default=MEGABYTES, help="megabytes that the process may take (default: %(default)g)"
    )
    parser.add_argument("--out", type=Path, help="folder for what fails (default: a new temporary one)")
    parser.add_argument(
        "--reasons", action="store_true", help="also list why inputs were refused, and what else warned"
    )
    parser.add_argument("--again", type=Path, metavar="FILE", nargs="+", help="try inputs that were saved")
    asked = parser.parse_args()
    failed = False
    with Bench(asked.seconds, asked.memory) as bench:
        for path in asked.again or ():
            found = again(bench, path, asked.untrusted)
            found.pop("lines", None)
            failed |= "failure" in found
            trace = found.pop("traceback", "")
            print(trace + json.dumps(found), flush=True)
        for name in [] if asked.again else asked.reader or READERS:
            fuzzer = Fuzzer(bench, name, asked.seed, asked.untrusted and READERS[name].raster, asked.out)
            tally = fuzzer.run(asked.inputs)
            failed |= bool(tally.failures)
            print(tally.line(), flush=True)
            if asked.reasons:
                for text, count in (*tally.reasons.most_common(30), *tally.warned.most_common(20)):
                    print(f"{count:6} {text}", file=sys.stderr)
    sys.exit(failed)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "default")
    main()
