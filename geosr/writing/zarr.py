"""A Zarr store with the same CF content as the NetCDF file.

Format 2 with consolidated metadata: every Zarr library reads it, and GDAL (hence QGIS) since 3.4, while GDAL 3.10
rejects what zarr-python writes in format 3, whose consolidated metadata are not in its specification either.
Compression is Blosc with Zstandard and shuffle, checked with GDAL's driver in rasterio's wheels. Chunks are whole
fractions of the tiles, so threads, and workers of a cluster, write their own tiles at once and none touches a chunk of
another's.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from geosr.errors import OutputError
from geosr.provenance import Provenance
from geosr.writing.atomic import Staging, disk_full, is_full, require_zarr
from geosr.writing.cf import Content, content, global_attrs
from geosr.writing.cluster import compute
from geosr.writing.ledger import Ledger, Tile, check
from geosr.writing.netcdf import chunk_sizes, chunked
from geosr.writing.stream import Finish, Landed, Place, Plan, Window, distributed_client, stream, threads

_FORMAT: Literal[2] = 2

# Windows that a worker compares in one task.
_TOGETHER = 16


def write_zarr(
    job: Plan,
    staging: Staging,
    *,
    attrs: Mapping[str, Any],
    provenance: Finish,
    progress: Callable[[int], None] | None,
    scheduler: Any,
) -> tuple[Path, Ledger, Provenance]:
    """Make the store in ``staging``, verified. Parameters and result as for :func:`write_cog`."""
    require_zarr()
    import zarr

    made = staging.path("made.zarr")
    job = chunked(job)
    what = content(job, attrs)
    fresh = staging.path("fresh.zarr") if staging.resumed else made
    with staging.explained():
        what.frame.to_zarr(fresh, mode="w", zarr_format=_FORMAT, consolidated=False, encoding=_encoding(what))
        group = zarr.open_group(fresh, mode="a", zarr_format=_FORMAT)
        for number in range(len(job.fields)):
            _create(group, job, what, number)
        if staging.resumed:
            _lay_over(fresh, made)
            group = zarr.open_group(made, mode="a", zarr_format=_FORMAT)
    store = Store(made, tuple(str(f.name) for f in job.fields))
    get = Reread(store)
    ledger = stream(
        job,
        Regions(store, tuple(f.ndim for f in job.fields)),
        dtypes=what.dtypes,
        intact=get.intact,
        with_crc=True,
        folder=staging.path(""),
        journal=staging.journal,
        explained=staging.explained,
        progress=progress,
        scheduler=scheduler,
    )
    final = provenance(ledger.largest)
    with staging.explained():
        group.attrs.update(global_attrs(job, attrs, final))
        zarr.consolidate_metadata(made, zarr_format=_FORMAT)
    _verify(get, ledger, staging, distributed_client(scheduler))
    return made, ledger, final


def _lay_over(fresh: Path, made: Path) -> None:
    """Move all files of ``fresh`` to their places in ``made``: of what an earlier run has left only the chunks of the
    fields have checksums, in the journal. What has not a chunk's name goes, as files that zarr was writing when that
    run was killed.
    """
    for file in made.rglob("*"):
        if file.is_file() and not file.name.replace(".", "").isdigit():
            file.unlink()
    for folder, _, names in os.walk(fresh):
        goal = made / os.path.relpath(folder, fresh)
        goal.mkdir(parents=True, exist_ok=True)
        for name in names:
            os.replace(os.path.join(folder, name), goal / name)
    shutil.rmtree(fresh)


@dataclass(frozen=True)
class Store:
    """The arrays ``names`` of the store ``made``, opened once a process.

    Attributes
    ----------
    run : tells the stores of two runs apart that are made in the same place, one after the other.
    """

    made: Path
    names: tuple[str, ...]
    run: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def arrays(self) -> list[Any]:
        return _opened(self)


@lru_cache(4)
def _opened(store: Store) -> list[Any]:
    import zarr

    group = zarr.open_group(store.made, mode="r+", zarr_format=_FORMAT)
    return [group[name] for name in store.names]


@dataclass(frozen=True)
class Regions:
    """Writes a tile into the arrays, of so many dimensions, of a store."""

    store: Store
    ndims: tuple[int, ...]

    def __call__(self, place: Place, windows: list[Window]) -> None:
        folder = self.store.made.parent
        mark = self.store.made / ".zgroup"
        if not mark.exists():
            hint = "workers need a file system that they share with this machine"
            raise OutputError(f"the folder {folder} is not there for a worker", hint)
        arrays = self.store.arrays
        for w in windows:
            index = (w.lead, place.rows, place.cols) if self.ndims[w.field] == 3 else (place.rows, place.cols)
            arrays[w.field][index] = w.values
        if not mark.exists():
            # The run was stopped meanwhile and its folder removed; zarr has made it anew.
            shutil.rmtree(folder, ignore_errors=True)


def _encoding(what: Content) -> dict[Any, dict[str, Any]]:
    # One chunk for each coordinate, so that opening the store costs one request each.
    return {
        name: {**fresh, "chunks": what.frame[name].shape} if what.frame[name].ndim else fresh
        for name, fresh in what.encoding().items()
    }


def _create(group: Any, job: Plan, what: Content, number: int) -> None:
    from numcodecs import Blosc

    data, dtype = job.fields[number], what.dtypes[number]
    group.create_array(
        str(data.name),
        shape=data.shape,
        chunks=tuple(min(c, n) for c, n in zip(chunk_sizes(data), data.shape, strict=True)),
        dtype=dtype,
        fill_value=np.nan if dtype.kind == "f" else None,
        compressors=Blosc("zstd", clevel=3, shuffle=Blosc.SHUFFLE),
        attributes={**what.attrs[number], "_ARRAY_DIMENSIONS": [str(d) for d in data.dims]},
    )


@dataclass(frozen=True)
class Reread:
    """Gives a window of a store as it stands there."""

    store: Store

    def __call__(self, number: int, lead: int, rows: slice, cols: slice) -> np.ndarray:
        array = self.store.arrays[number]
        found: np.ndarray = array[(lead, rows, cols) if array.ndim == 3 else (rows, cols)]
        return found

    def intact(self, landed: Landed) -> bool:
        """Is what an earlier run has stored of this tile there, to the bit?"""
        try:
            for number, lead, tile in landed.tiles:
                check(self, number, lead, tile)
        except (OutputError, OSError, ValueError, RuntimeError, IndexError):
            return False
        return True

    def check(self, places: list[tuple[int, int, Tile]]) -> np.ndarray:
        """Compare some windows; raises as :meth:`~geosr.writing.ledger.Ledger.verify`."""
        for place in places:
            check(self, *place)
        return np.array([len(places)], dtype=object)


def _verify(get: Reread, ledger: Ledger, staging: Staging, client: Any) -> None:
    """Reopen and compare every window, on a cluster by its workers."""
    with staging.explained():
        try:
            if client is None:
                ledger.verify(get, threads())
            else:
                _verify_there(get, ledger.places(), client)
        except OutputError as error:
            if is_full(staging.target.parent):
                raise disk_full(staging.target, staging.target.parent) from error
            raise


def _verify_there(get: Reread, places: list[tuple[int, int, Tile]], client: Any) -> None:
    import dask.array as da

    name = f"verify-{secrets.token_hex(8)}"
    parts = [places[start : start + _TOGETHER] for start in range(0, len(places), _TOGETHER)]
    graph = {(name, i): (partial(get.check, part),) for i, part in enumerate(parts)}
    tasks = da.Array(graph, name, ((1,) * len(parts),), dtype=object)
    compute(client, tasks, lambda _: None)
