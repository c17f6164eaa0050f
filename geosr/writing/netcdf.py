"""CF NetCDF-4, compressed, written tile by tile.

xarray writes the small part (coordinates, bounds, grid mapping); the data go through netCDF4, one window at a
time, under xarray's own lock for the HDF5 library, which crashes when two threads are inside it: the input may be
read through it at the same time.

HDF5 has one writer, so compression is not parallel, and a file whose writer was killed is lost. So tiles are left
uncompressed in the staging folder first, by threads or by the workers of a cluster, and this process puts them into the
file one by one; a run that goes on after a kill makes the file anew from those that are there. Large outputs are better
written to .zarr or .tif.
"""

from __future__ import annotations

import math
import os
import secrets
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geosr.errors import OutputError, UsageError
from geosr.provenance import Provenance
from geosr.writing.atomic import Staging, closing, disk_full, is_full
from geosr.writing.cf import Content, content, global_attrs
from geosr.writing.ledger import Ledger, crc_of
from geosr.writing.stream import Finish, Landed, Place, Plan, Window, stream

# Level 4 of zlib: 1 % larger than level 9 on smooth fields, several times faster.
_LEVEL = 4

# Chunks in the file: whole fractions of the tiles, about this many cells a side.
_CHUNK = 512


def netcdf_options(given: Mapping[str, Any] | None) -> dict[str, str]:
    """``ZLEVEL`` (0 to 9, as GDAL's netCDF driver names it) or a :class:`UsageError`."""
    chosen = {str(k).upper(): str(v) for k, v in (given or {}).items()}
    if unknown := sorted(set(chosen) - {"ZLEVEL"}):
        raise UsageError(f"creation option {unknown[0]} is not one for NetCDF by geosr", "there is ZLEVEL (0 to 9)")
    level = chosen.get("ZLEVEL", str(_LEVEL))
    if level not in tuple("0123456789"):
        raise UsageError(f"ZLEVEL={level} is not possible", "use 0 to 9")
    return {"ZLEVEL": level}


def chunk_sizes(data: Any, limit: int = _CHUNK) -> tuple[int, ...]:
    """Chunks in the file for a dask-backed field: each a divisor of the tile (so that no two tiles share one, and
    none is compressed twice), near ``limit`` cells a side, one layer thick.
    """
    *first, rows, cols = data.chunks
    return (*(1 for _ in first), _divisor(_step(rows), limit), _divisor(_step(cols), limit))


def chunked(job: Plan, limit: int = _CHUNK) -> Plan:
    """``job`` such that :func:`chunk_sizes` are of a good size and each lies in one tile."""
    for sizes in (job.main.chunks or ())[-2:]:
        step = _step(sizes)
        if step < min(limit // 4, max(sizes)) or step % _divisor(step, limit):
            return job.aligned(limit)
    return job


def _step(sizes: tuple[int, ...]) -> int:
    """All tiles begin at multiples of this."""
    return math.gcd(*np.cumsum(sizes[:-1]).tolist()) or max(sizes)


def _divisor(n: int, limit: int) -> int:
    """Largest divisor of ``n`` up to ``limit``; ``n`` itself (up to eight times the limit) if those are tiny."""
    best = next(k for k in range(min(n, limit), 0, -1) if n % k == 0)
    return best if best >= limit // 4 or n < limit // 4 else min(n, 8 * limit)


def write_netcdf(
    job: Plan,
    staging: Staging,
    *,
    attrs: Mapping[str, Any],
    provenance: Finish,
    options: Mapping[str, str],
    progress: Callable[[int], None] | None,
    scheduler: Any,
) -> tuple[Path, Ledger, Provenance]:
    """Make the NetCDF file in ``staging``, verified. Parameters and result as for :func:`write_cog`."""
    import netCDF4
    from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK as lock

    made = staging.path("made.nc")
    job = chunked(job)
    what = content(job, attrs)
    with staging.explained():
        what.frame.to_netcdf(made, engine="netcdf4", format="NETCDF4", encoding=what.encoding())
        with lock:
            target = netCDF4.Dataset(made, "a")

    def close() -> None:
        try:
            with staging.explained(), lock:
                target.close()
        except OutputError:
            # HDF5 does not let go of a file that it cannot flush; without length it holds no room on the disk.
            os.truncate(made, 0)
            raise

    def take(landed: Landed) -> None:
        with staging.explained(), lock:
            for w in fetched(staging.path(""), landed):
                rows, cols = landed.place.rows, landed.place.cols
                variables[w.field][window_index(job, w.field, w.lead, rows, cols)] = w.values

    with closing(close):
        with staging.explained(), lock:
            variables = [_create(target, job, what, n, int(options["ZLEVEL"])) for n in range(len(job.fields))]
        ledger = stream(
            job,
            Scratch(staging.path("")),
            dtypes=what.dtypes,
            take=take,
            intact=lambda landed: intact(staging.path(""), landed),
            with_crc=True,
            folder=staging.path(""),
            journal=staging.journal,
            explained=staging.explained,
            progress=progress,
            scheduler=scheduler,
        )
        final = provenance(ledger.largest)
        with staging.explained(), lock:
            target.setncatts(global_attrs(job, attrs, final))
    _verify(made, job, ledger, staging)
    return made, ledger, final


@dataclass(frozen=True)
class Scratch:
    """Leaves the windows of a tile, uncompressed, in a file of its own in ``folder`` and gives its name."""

    folder: Path

    def __call__(self, place: Place, windows: list[Window]) -> str:
        name = f"tile-{secrets.token_hex(8)}.npz"
        np.savez(self.folder / name, *(w.values for w in windows))
        return name


def fetched(folder: Path, landed: Landed) -> list[Window]:
    """The windows that :class:`Scratch` left."""
    with np.load(folder / landed.record, allow_pickle=False) as found:
        arrays = [found[f"arr_{i}"] for i in range(len(landed.tiles))]
    return [Window(n, lead, values) for (n, lead, _), values in zip(landed.tiles, arrays, strict=True)]


def intact(folder: Path, landed: Landed) -> bool:
    """Is what :class:`Scratch` left of this tile in an earlier run there, to the bit?"""
    try:
        if os.path.basename(landed.record) != landed.record:
            return False
        pairs = zip(fetched(folder, landed), landed.tiles, strict=True)
        return all(crc_of(window.values) == tile.crc for window, (_, _, tile) in pairs)
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):
        return False


def _create(target: Any, job: Plan, what: Content, number: int, level: int) -> Any:
    data, dtype = job.fields[number], what.dtypes[number]
    for name, size in data.sizes.items():
        if name not in target.dimensions:
            target.createDimension(str(name), size)
    compression: dict[str, Any] = {"zlib": True, "complevel": level, "shuffle": True} if level else {}
    variable = target.createVariable(
        str(data.name),
        dtype,
        tuple(map(str, data.dims)),
        chunksizes=tuple(min(c, n) for c, n in zip(chunk_sizes(data), data.shape, strict=True)),
        fill_value=np.float32(np.nan) if dtype.kind == "f" else None,
        **compression,
    )
    # Windows are what they are: netCDF4 would mask and scale them.
    variable.set_auto_maskandscale(False)
    variable.setncatts(what.attrs[number])
    return variable


def window_index(job: Plan, number: int, lead: int, rows: slice, cols: slice) -> tuple[int | slice, ...]:
    """Index of one window into the stored array of a field."""
    return (lead, rows, cols) if job.fields[number].ndim == 3 else (rows, cols)


def _verify(made: Path, job: Plan, ledger: Ledger, staging: Staging) -> None:
    """Reopen and compare every window: a file cut short by a full disk reads as fill values, without an error."""
    import netCDF4
    from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK as lock

    with staging.explained(), lock, netCDF4.Dataset(made) as done:
        done.set_auto_maskandscale(False)
        variables = [done.variables[str(f.name)] for f in job.fields]
        try:
            ledger.verify(lambda f, lead, rows, cols: variables[f][window_index(job, f, lead, rows, cols)])
        except OutputError as error:
            if is_full(staging.target.parent):
                raise disk_full(staging.target, staging.target.parent) from error
            raise
