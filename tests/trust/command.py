"""The command as a user runs it, in this process, and what must hold of any run: the tables of bad input use it.

A :class:`Row` is a line of a table: a file that is made, the command line, and what must come of it. :func:`check` runs
it. Of a failure: the exit code, one line on stderr that says what the row says, no traceback, and not one file more or
less in the folder. Of a success: the coarse field that was meant comes back out of the output's fine cells (area means,
by numpy), missing exactly where it should be, within the bounds that the row says, and no warning but the expected one.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pyproj
import rasterio

SCALE = 2


@dataclass(frozen=True)
class Outcome:
    """What a run left behind on its channels."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("geosr: error:")]

    @property
    def warnings(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("geosr: warning:")]


def geosr(*args: object) -> Outcome:
    """``geosr ARGS`` in this process."""
    from geosr_cli.main import main

    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["geosr", *map(str, args)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as stop:
        return Outcome(int(stop.code or 0), out.getvalue(), err.getvalue())
    finally:
        sys.argv = argv
    raise AssertionError("main() returned")


def refused(got: Outcome, code: int, *words: str) -> str:
    """Check that ``got`` is a failure of that kind, told in one line that holds all ``words`` (patterns); the line."""
    assert "Traceback" not in got.err + got.out
    assert got.code == code, got.err
    assert len(got.errors) == 1, got.err
    (line,) = got.errors
    assert len(line) < 900, "nobody reads that"
    for word in words:
        assert re.search(word, line), f"{word!r} not in {line!r}"
    assert got.out == ""
    return line


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every file under ``folder`` with its content, every folder with None."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


@dataclass(frozen=True)
class Map:
    """A fine map brought back to its coarse cells."""

    coarse: np.ndarray  # (…, y, x) area means, NaN where all fine cells are missing
    torn: int  # coarse cells of which some fine cells are missing and others not
    bounds: tuple[float, float, float, float]
    crs: str | None
    transform: Any
    tags: dict[str, Any]


def _is_geographic(crs: Any) -> bool:
    return crs is not None and pyproj.CRS.from_wkt(crs.to_wkt()).is_geographic


def read_map(path: Path, scale: int = SCALE) -> Map:
    """The output at ``path``, GeoTIFF by rasterio or NetCDF by netCDF4, as means of ``scale`` x ``scale`` cells."""
    if path.suffix == ".tif":
        with rasterio.open(path) as file:
            fine, affine = file.read(masked=True).filled(np.nan).astype(np.float64), file.transform
            crs, geographic, bounds = file.crs, _is_geographic(file.crs), tuple(file.bounds)
            tags = {**file.tags(), "descriptions": file.descriptions, "units": file.units}
    else:
        with netCDF4.Dataset(path) as file:
            variable = next(v for v in file.variables.values() if v.ndim >= 2 and not v.name.endswith("bnds"))
            fine = np.ma.filled(np.ma.masked_invalid(variable[:].astype(np.float64)), np.nan)
            y, x = (file[d][:].filled(np.nan).astype(np.float64) for d in variable.dimensions[-2:])
            dy, dx = (np.diff(y).mean(), np.diff(x).mean())
            affine = rasterio.Affine(dx, 0, x[0] - dx / 2, 0, dy, y[0] - dy / 2)
            crs = rasterio.crs.CRS.from_wkt(file[variable.grid_mapping].crs_wkt)
            geographic = _is_geographic(crs)
            bounds = rasterio.transform.array_bounds(len(y), len(x), affine)
            tags = {k: file.getncattr(k) for k in file.ncattrs()} | {"variable": variable.name}
            tags |= {"units": getattr(variable, "units", None)}
    *lead, ny, nx = fine.shape
    weights = np.ones(ny)
    if geographic and not (affine.b or affine.d):
        edges = np.clip(affine.f + affine.e * np.arange(ny + 1), -90, 90)
        weights = np.abs(np.diff(np.sin(np.deg2rad(edges))))
    weights = np.where(np.isnan(fine), np.nan, weights[:, None])
    shape = (*lead, ny // scale, scale, nx // scale, scale)
    cells, weights = fine.reshape(shape), weights.reshape(shape)
    valid = (~np.isnan(cells)).sum(axis=(-3, -1))
    with np.errstate(invalid="ignore", divide="ignore"):
        coarse = np.nansum(cells * weights, axis=(-3, -1)) / np.nansum(weights, axis=(-3, -1))
    coarse[valid == 0] = np.nan
    torn = int(((valid > 0) & (valid < scale**2)).sum())
    return Map(coarse[0] if lead == [1] else coarse, torn, bounds, str(crs) if crs else None, affine, tags)


#: Where the small files of ``reading.make`` lie.
BOUNDS = (5.0, 47.0, 9.0, 50.0)


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes
    ----------
    id : the row's number in the matrix of bad input, and what is bad.
    make : writes the file into a folder; its path.
    code : exit code.
    words : patterns that the line of the error holds; on success, that the warnings hold, of which there must then be
        one, and must be none without words.
    options : more of the command line.
    want : on success, the coarse field (…, y, x); None leaves that to the test.
    bounds, crs : of the output.
    decided : why it is otherwise than the matrix says.
    """

    id: str
    make: Callable[[Path], Path]
    code: int = 0
    words: Sequence[str] | str = ()
    options: Sequence[object] = ()
    want: Any = None
    bounds: tuple[float, float, float, float] | None = BOUNDS
    crs: str | None = "EPSG:4326"
    decided: str = ""

    def __str__(self) -> str:
        return self.id


def ids(row: Row) -> str:
    return row.id


def check(row: Row, folder: Path) -> Map | None:
    """Run the row in the empty ``folder``; the map, where there is to be one."""
    path = row.make(folder)
    before = snapshot(folder)
    words = (row.words,) if isinstance(row.words, str) else row.words
    out = folder / "out.tif"
    got = geosr("downscale", path, "--scale", SCALE, "--method", "bicubic", "-o", out, *row.options)
    if row.code:
        line = refused(got, row.code, *words)
        assert path.name in line or row.code in (2, 5)  # the command line is at fault, or the output
        assert snapshot(folder) == before
        return None
    assert got.code == 0, got.err
    assert "Traceback" not in got.err
    if words:
        assert got.warnings, got.err
        for word in words:
            assert re.search(word, " ".join(got.warnings)), f"{word!r} not in {got.warnings}"
    else:
        assert not got.warnings
    assert set(snapshot(folder)) - set(before) <= {"out.tif", "out.qml", "out.tif.json"}
    made = read_map(out)
    assert made.torn == 0
    if row.want is not None:
        want = np.asarray(row.want, dtype=np.float64)
        assert made.coarse.shape == want.shape
        np.testing.assert_array_equal(np.isnan(made.coarse), np.isnan(want))
        largest = np.nanmax(np.abs(want), initial=0)
        np.testing.assert_allclose(made.coarse, want, rtol=0, atol=2e-6 * largest)
    if row.bounds is not None:
        np.testing.assert_allclose(made.bounds, row.bounds, rtol=0, atol=1e-6 * max(map(abs, row.bounds)))
    if row.crs is not None:
        assert made.crs == row.crs
    return made
