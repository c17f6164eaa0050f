"""Lazy arrays, tile by tile, into a file: computed, checked, counted and dropped.

A format brings a ``put`` that takes one 2-D window and a ``get`` that reads it back. This module computes the
dask chunks (nothing holds more of the raster than the chunks being worked on), gives each window to ``put`` under
one lock, and keeps for each its CRC-32 and its moments: after the file is closed, :meth:`Ledger.verify` reads it
back and compares, and :meth:`Ledger.statistics` are exact for the data written, whatever the order of the tiles.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from geosr.errors import GeosrError, OutputError, UsageError
from geosr.grid import geobox_of, spatial_dims

#: ``put(field, lead, rows, cols, window)`` writes one 2-D window of layer ``lead`` of the ``field``-th variable.
Put = Callable[[int, int, slice, slice, np.ndarray], None]
#: ``get(field, lead, rows, cols)`` reads it back.
Get = Callable[[int, int, slice, slice], np.ndarray]

# Chunks that a distributed run asks for at once: enough to keep workers busy, few enough to hold.
_BATCH = 64

# Chunk of an array that came without any (it is in memory already).
_DEFAULT_CHUNK = 1024

# Typical block of the formats; only the order of reading back depends on it.
_BLOCK = 512


@dataclass(frozen=True)
class Plan:
    """What is to be written: variables on one grid, chunked alike.

    Attributes
    ----------
    fields : the main variable, then its ancillary ones; dims (y, x) or (lead, y, x), dask-backed.
    box : the grid.
    y, x : names of the horizontal dimensions.
    lead : name of the leading dimension of the main variable (time, band), or None.
    scalars : 0-d variables, computed in the same pass (a check on the tiles, say), for the provenance.
    """

    fields: tuple[xr.DataArray, ...]
    box: GeoBox
    y: Hashable
    x: Hashable
    lead: Hashable | None
    scalars: Mapping[str, Any] = field(default_factory=dict)

    @property
    def main(self) -> xr.DataArray:
        return self.fields[0]

    def layers(self) -> Iterator[tuple[int, int]]:
        """(field, lead) of every 2-D layer, main variable first."""
        for number, data in enumerate(self.fields):
            for lead in range(data.shape[0] if data.ndim == 3 else 1):
                yield number, lead


def plan(ds: xr.Dataset, main: str) -> Plan:
    """The :class:`Plan` for ``ds``: what is on the main variable's grid, in the order that its CF
    ``ancillary_variables`` gives.

    Raises
    ------
    UsageError
        No such variable, more than three dimensions, or an ancillary variable of another shape.
    """
    if main not in ds.data_vars:
        raise UsageError(f"no variable {main!r} in the dataset", f"there are: {', '.join(map(str, ds.data_vars))}")
    y, x = spatial_dims(ds[main])
    field0 = ds[main].transpose(..., y, x)
    if field0.ndim > 3:
        dims = ", ".join(map(str, field0.dims))
        raise UsageError(f"{main} has {field0.ndim} dimensions ({dims})", "select one level or time first")
    lead = field0.dims[0] if field0.ndim == 3 else None
    if not isinstance(field0.chunks, tuple):
        field0 = field0.chunk({lead: 1, y: _DEFAULT_CHUNK, x: _DEFAULT_CHUNK} if lead else _DEFAULT_CHUNK)
    listed = [n for n in str(field0.attrs.get("ancillary_variables", "")).split() if n in ds.data_vars]
    others = [str(n) for n in ds.data_vars if n != main and n not in listed and {y, x} <= set(ds[n].dims)]
    fields = [field0]
    for name in dict.fromkeys(listed + others):
        extra = ds[name].transpose(..., y, x)
        if extra.dims not in (field0.dims, (y, x)):
            raise UsageError(f"{name} has dimensions {extra.dims}, {main} has {field0.dims}", "drop it first")
        fields.append(extra.chunk({d: field0.chunksizes[d] for d in extra.dims}))
    scalars = {str(n): v.data for n, v in ds.data_vars.items() if v.ndim == 0}
    return Plan(tuple(fields), geobox_of(field0), y, x, lead, scalars)


@dataclass(frozen=True)
class Statistics:
    """Moments of the valid values.

    Attributes
    ----------
    count : values, NaN included.
    valid : values that are finite.
    minimum, maximum, mean, std : of the valid values, float64 (population std, as GDAL); None if there are none.
    """

    count: int
    valid: int
    minimum: float | None
    maximum: float | None
    mean: float | None
    std: float | None

    @property
    def valid_percent(self) -> float:
        return 100.0 * self.valid / self.count if self.count else 0.0


@dataclass(frozen=True)
class _Tile:
    rows: slice
    cols: slice
    crc: int
    count: int
    valid: int
    minimum: float
    maximum: float
    mean: float
    m2: float  # sum of squared deviations from the mean


def _crc(window: np.ndarray) -> int:
    """CRC-32 of the values; all NaNs count as one (their payload bits mean nothing and need not survive)."""
    window = np.ascontiguousarray(window)
    if window.dtype.kind == "f":
        missing = np.isnan(window)
        if missing.any():
            window = np.where(missing, window.dtype.type(np.nan), window)
    return zlib.crc32(window.data)


def _measure(window: np.ndarray, rows: slice, cols: slice) -> _Tile:
    valid = window[np.isfinite(window)].astype(np.float64)
    if not valid.size:
        return _Tile(rows, cols, _crc(window), window.size, 0, math.inf, -math.inf, 0.0, 0.0)
    mean = valid.mean()
    m2 = float(np.square(valid - mean).sum())
    low, high = float(np.min(valid)), float(np.max(valid))
    return _Tile(rows, cols, _crc(window), window.size, valid.size, low, high, float(mean), m2)


@dataclass
class Ledger:
    """What has been written so far: checksum and moments of each window, by (field, lead) and by corner."""

    layers: dict[tuple[int, int], dict[tuple[int, int], _Tile]] = field(default_factory=dict)
    scalars: dict[str, float] = field(default_factory=dict)

    def note(self, number: int, lead: int, tile: _Tile) -> None:
        self.layers.setdefault((number, lead), {})[tile.rows.start or 0, tile.cols.start or 0] = tile

    def statistics(self, number: int = 0, lead: int | None = None) -> Statistics:
        """Statistics of one layer, or of all layers of a field.

        The moments of the tiles are merged in the order of their place, pairwise as in Chan, Golub & LeVeque
        (1983), Algorithms for computing the sample variance, Am. Stat. 37(3), eq. 2.1; so the result does not
        depend on which tile was done first.
        """
        keys = [(number, lead)] if lead is not None else sorted(k for k in self.layers if k[0] == number)
        tiles = [self.layers[key][corner] for key in keys for corner in sorted(self.layers[key])]
        count, valid, mean, m2 = sum(t.count for t in tiles), 0, 0.0, 0.0
        for tile in tiles:
            if tile.valid:
                total = valid + tile.valid
                delta = tile.mean - mean
                m2 += tile.m2 + delta * delta * valid * tile.valid / total
                mean += delta * tile.valid / total
                valid = total
        if not valid:
            return Statistics(count, 0, None, None, None, None)
        low, high = min(t.minimum for t in tiles), max(t.maximum for t in tiles)
        return Statistics(count, valid, low, high, mean, math.sqrt(m2 / valid))

    def verify(self, get: Get) -> None:
        """Read every window back and compare its checksum.

        Raises
        ------
        OutputError
            A window differs from what was written.
        """

        def block_by_block(place: tuple[int, int, int, int]) -> tuple[int, ...]:
            top, left, number, lead = place
            return top // _BLOCK, left // _BLOCK, top, left, number, lead

        # All that lies in one block of the file together, so that each block is decompressed once.
        places = [(*corner, *layer) for layer, tiles in self.layers.items() for corner in tiles]
        for top, left, number, lead in sorted(places, key=block_by_block):
            tile = self.layers[number, lead][top, left]
            if _crc(get(number, lead, tile.rows, tile.cols)) != tile.crc:
                raise OutputError(
                    f"what was written reads back differently (layer {lead + 1}, row {top}, column {left})",
                    "check the disk",
                )


class _Sink:
    """Where dask stores the chunks of one variable."""

    def __init__(self, number: int, data: xr.DataArray, dtype: np.dtype, stream: _Stream) -> None:
        self.number, self.dtype, self.stream = number, dtype, stream
        self.shape, self.ndim = data.shape, data.ndim

    def __setitem__(self, index: tuple[slice, ...], block: Any) -> None:
        block = np.asarray(block)
        # A cast of a float64 beyond float32 gives inf, which the field's own inf handling would have to know of.
        with np.errstate(over="ignore"):
            block = block.astype(self.dtype, copy=False)
        *first, rows, cols = index
        leads = range(*first[0].indices(self.shape[0])) if first else range(1)
        for lead, window in zip(leads, block.reshape(len(leads), *block.shape[-2:]), strict=True):
            self.stream.land(self.number, lead, rows, cols, window)


@dataclass
class _Stream:
    put: Put
    ledger: Ledger
    explained: Callable[[], AbstractContextManager[None]]
    progress: Callable[[int], None] | None
    lock: threading.Lock = field(default_factory=threading.Lock)
    closed: bool = False

    def land(self, number: int, lead: int, rows: slice, cols: slice, window: np.ndarray) -> None:
        tile = _measure(window, rows, cols)
        with self.lock:
            # After a failure or Ctrl-C, tasks that still run must not touch a file that is being removed.
            if self.closed:
                raise OutputError("the writing was stopped")
            with self.explained():
                self.put(number, lead, rows, cols, window)
            self.ledger.note(number, lead, tile)
            if self.progress is not None and number == 0:
                self.progress(window.size)


def stream(
    job: Plan,
    put: Put,
    *,
    dtypes: tuple[np.dtype, ...],
    explained: Callable[[], AbstractContextManager[None]] = nullcontext,
    progress: Callable[[int], None] | None = None,
    scheduler: Any = None,
) -> Ledger:
    """Compute the plan's chunks, give each window to ``put``, and the scalars to the ledger.

    Parameters
    ----------
    put : called under one lock, in any order.
    dtypes : what each field is cast to.
    explained : wraps ``put``, to turn a library's failure into an OutputError. Errors of the computation itself
        (of reading the input, of the model) pass through as they are.
    progress : called under the lock with the number of main-variable cells that have just landed.
    scheduler : as for ``dask.compute``; None takes dask's configured one, a distributed client included.
    """
    import dask.array

    work = _Stream(put, Ledger(), explained, progress)
    sinks = [_Sink(n, d, np.dtype(t), work) for n, (d, t) in enumerate(zip(job.fields, dtypes, strict=True))]
    arrays = [d.data for d in job.fields]
    client = _distributed_client(scheduler)
    try:
        if client is not None:
            _store_from_cluster(arrays, sinks, client)
            found = client.compute(list(job.scalars.values()), sync=True)
        else:
            stored = dask.array.store(arrays, sinks, lock=False, compute=False)  # type: ignore[arg-type]
            # In one graph: what the scalars are made of are the tiles that are being stored.
            _, *found = dask.compute(stored, *job.scalars.values(), scheduler=scheduler)
    except BaseException:
        with work.lock:  # waits for a put in another thread: the file is closed next
            work.closed = True
        raise
    _check_complete(job, work.ledger)
    work.ledger.scalars.update(zip(job.scalars, map(float, found), strict=True))
    return work.ledger


def _check_complete(job: Plan, ledger: Ledger) -> None:
    for number, lead in job.layers():
        cells = sum(tile.count for tile in ledger.layers[number, lead].values())
        if cells != job.box.shape[0] * job.box.shape[1]:
            raise GeosrError(f"{cells} cells of layer {lead + 1} were written, of {job.box.shape}", "report this bug")


def _distributed_client(scheduler: Any) -> Any:
    """The distributed client that would run the graph, if any; files are written by this process alone."""
    import dask.base
    import dask.config

    chosen = scheduler if scheduler is not None else dask.config.get("scheduler", None)
    if hasattr(chosen, "as_completed") or type(chosen).__name__ == "Client":
        return chosen
    if chosen in ("distributed", "dask.distributed"):
        from distributed import default_client

        return default_client()
    if chosen is None:
        get = dask.base.get_scheduler()
        return getattr(get, "__self__", None) if getattr(get, "__module__", "").startswith("distributed") else None
    return None


def _store_from_cluster(arrays: list[Any], sinks: list[_Sink], client: Any) -> None:
    """Chunks computed by workers, brought here in batches and stored by this process."""
    from dask import delayed
    from dask.array.core import slices_from_chunks
    from distributed import as_completed

    # Chunks of the same place together: the ancillary variables share the main one's work.
    jobs = sorted(
        ((place[-2:], number, place, block))  # type: ignore[misc]
        for number, array in enumerate(arrays)
        for place, block in zip(
            [tuple((s.start, s.stop) for s in i) for i in slices_from_chunks(array.chunks)],
            list(np.ndindex(*array.numblocks)),
            strict=True,
        )
    )
    for start in range(0, len(jobs), _BATCH):
        batch = jobs[start : start + _BATCH]
        lazy = [delayed(np.asarray)(arrays[number].blocks[block]) for _, number, _, block in batch]
        futures = client.compute(lazy)
        where = {future.key: (number, place) for future, (_, number, place, _) in zip(futures, batch, strict=True)}
        for future, block in as_completed(futures, with_results=True):
            number, place = where[future.key]
            sinks[number][tuple(slice(a, b) for a, b in place)] = block
            future.release()
