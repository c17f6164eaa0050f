"""Lazy arrays, tile by tile, into a file: computed, measured, stored and dropped, in one pass.

A format brings a *sink*: what is done with all variables of the dataset at one place, in the thread (or on the worker
of a cluster) that computed them. So there is one terminal task a tile; what its variables share is shared, and nothing
holds more of the raster than the tiles being worked on. What comes out of the task is small: the moments of each
window, for statistics that are exact for the data written whatever the order of the tiles, and the sink's own record.
"""

from __future__ import annotations

import math
import os
import threading
import uuid
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from geosr.errors import GeosrError, OutputError, UsageError
from geosr.grid import geobox_of, spatial_dims
from geosr.writing.ledger import Ledger, Tile, measure

# Chunk of an array that came without any (it is in memory already), and of one whose chunks do not fit the file's.
_DEFAULT_CHUNK = 1024


@dataclass(frozen=True)
class Place:
    """Where a tile lies: layers ``first`` to ``last`` (exclusive), and its rows and columns."""

    first: int
    last: int
    top: int
    bottom: int
    left: int
    right: int

    @property
    def rows(self) -> slice:
        return slice(self.top, self.bottom)

    @property
    def cols(self) -> slice:
        return slice(self.left, self.right)


@dataclass(frozen=True)
class Window:
    """The values of one layer at a place, in the dtype of the file."""

    field: int
    lead: int
    values: np.ndarray


#: What is done with a tile: ``sink(place, windows)``, in any order, by several threads at once; picklable where a
#: cluster computes. Returns a small record.
Sink = Callable[[Place, list[Window]], Any]


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

    @property
    def edges(self) -> tuple[tuple[int, ...], ...]:
        """Where the chunks of the main variable begin and end, along (lead, y, x)."""
        chunks = self.main.chunks or ()
        lead = () if self.main.ndim == 3 else ((1,),)
        return tuple(tuple(np.cumsum((0, *sizes)).tolist()) for sizes in (*lead, *chunks))

    def aligned(self, block: int, least: int = 0) -> Plan:
        """The same, in chunks that begin at multiples of ``block``, so that no block of the file lies in two.

        Chunks that do are left as they are; those smaller than ``least`` are joined, and those that begin elsewhere are
        cut anew, to about ``least`` cells (or 1024).
        """
        import dask.config

        step = math.gcd(*self.edges[1][1:-1], *self.edges[2][1:-1])
        if step == 0 or (step % block == 0 and step >= least):
            return self
        side = block * max(1, max(least, _DEFAULT_CHUNK) // block)
        # By tasks: distributed's other way holds on to workers that may be lost, and stores the raster between.
        with dask.config.set({"array.rechunk.method": "tasks"}):
            return replace(self, fields=tuple(f.chunk({self.y: side, self.x: side}) for f in self.fields))

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
class Landed:
    """What a terminal task gives back: small, whatever the tile's size."""

    place: Place
    tiles: tuple[tuple[int, int, Tile], ...]  # (field, lead, moments)
    record: Any


@dataclass(frozen=True)
class _Terminal:
    """The last task of a tile: cast, measure, sink. Runs in a thread of this process or on a worker."""

    sink: Sink
    dtypes: tuple[np.dtype, ...]
    edges: tuple[tuple[int, ...], ...]
    with_crc: bool
    explained: Callable[[], AbstractContextManager[None]]

    def place(self, block_id: Sequence[int]) -> Place:
        index = (0, *block_id)[-3:]
        first, top, left = (edge[i] for edge, i in zip(self.edges, index, strict=True))
        last, bottom, right = (edge[i + 1] for edge, i in zip(self.edges, index, strict=True))
        return Place(first, last, top, bottom, left, right)

    def run(self, blocks: Sequence[Any], block_id: Sequence[int]) -> Landed:
        place = self.place(block_id)
        windows = [w for number, block in enumerate(blocks) for w in self.windows(number, np.asarray(block), place)]
        tiles = tuple((w.field, w.lead, measure(w.values, place.rows, place.cols, self.with_crc)) for w in windows)
        with self.explained():
            return Landed(place, tiles, self.sink(place, windows))

    def windows(self, number: int, block: np.ndarray, place: Place) -> Iterator[Window]:
        if block.ndim == 2:
            if place.first:
                return  # an ancillary variable without the leading dimension goes with the first layers
            block = block[np.newaxis]
        # A cast of a float64 beyond float32 gives inf, which the field's own inf handling would have to know of.
        with np.errstate(over="ignore"):
            block = block.astype(self.dtypes[number], copy=False)
        for lead, values in enumerate(block, start=place.first):
            yield Window(number, lead, values)

    def __call__(self, *blocks: Any, block_id: Sequence[int]) -> np.ndarray:
        return _boxed(self.run(blocks, block_id), len(block_id))


def _boxed(what: Any, ndim: int) -> np.ndarray:
    box = np.empty((1,) * ndim, dtype=object)
    box.flat[0] = what
    return box


@dataclass
class _Landing:
    """Where the results of terminal tasks come together, in this process."""

    take: Callable[[Landed], None] | None
    progress: Callable[[int], None] | None
    ledger: Ledger = field(default_factory=Ledger)
    lock: threading.Condition = field(default_factory=threading.Condition)
    running: int = 0
    closed: bool = False

    def land(self, landed: Landed) -> None:
        with self.lock:
            self._check_open()
            if self.take is not None:
                self.take(landed)
            for number, lead, tile in landed.tiles:
                self.ledger.note(number, lead, tile)
            if self.progress is not None:
                self.progress(sum(tile.count for number, _, tile in landed.tiles if number == 0))

    def _check_open(self) -> None:
        # After a failure or Ctrl-C, tasks that still run must not touch a file that is being removed.
        if self.closed:
            raise OutputError("the writing was stopped")

    @contextmanager
    def writing(self) -> Iterator[None]:
        with self.lock:
            self._check_open()
            self.running += 1
        try:
            yield
        finally:
            with self.lock:
                self.running -= 1
                self.lock.notify_all()

    def close(self) -> None:
        """No task begins to write from here on, and none is writing."""
        with self.lock:
            self.closed = True
            self.lock.wait_for(lambda: self.running == 0)


@dataclass(frozen=True)
class _Local(_Terminal):
    """A terminal task in this process: what it gives lands at once, and nothing is kept."""

    landing: _Landing

    def run(self, blocks: Sequence[Any], block_id: Sequence[int]) -> Any:
        def guarded(place: Place, windows: list[Window]) -> Any:
            with self.landing.writing():
                return self.sink(place, windows)

        plain = _Terminal(guarded, self.dtypes, self.edges, self.with_crc, self.explained)
        self.landing.land(plain.run(blocks, block_id))


def stream(
    job: Plan,
    sink: Sink,
    *,
    dtypes: tuple[np.dtype, ...],
    take: Callable[[Landed], None] | None = None,
    with_crc: bool = False,
    folder: Path | None = None,
    explained: Callable[[], AbstractContextManager[None]] = nullcontext,
    progress: Callable[[int], None] | None = None,
    scheduler: Any = None,
) -> Ledger:
    """Compute the plan's chunks, give all that lies at one place to ``sink``, and the scalars to the ledger.

    Parameters
    ----------
    sink : called in the task of the tile, by several threads at once; with a cluster, on its workers (so picklable).
    dtypes : what each field is cast to.
    take : called here, one at a time, with what each task gave back.
    with_crc : also take the checksum of each window, for :meth:`Ledger.verify`.
    folder : where the sink writes: workers of a cluster must see it.
    explained : wraps ``sink``, to turn a library's failure into an OutputError; picklable like it. Errors of the
        computation itself (of reading the input, of the model) pass through as they are.
    progress : called, one at a time, with the number of main-variable cells that have just landed.
    scheduler : as for ``dask.compute``; None takes dask's configured one, a distributed client included.
    """
    import dask

    landing = _Landing(take, progress)
    client = distributed_client(scheduler)
    parts = (sink, tuple(map(np.dtype, dtypes)), job.edges, with_crc, explained)
    scalars = list(job.scalars.values())
    try:
        # In one graph: what the scalars are made of are the tiles that are being stored.
        if client is not None:
            from geosr.writing.cluster import compute

            found = compute(client, _tasks(job, _Terminal(*parts)), scalars, landing.land, folder)
        else:
            _, *found = dask.compute(_tasks(job, _Local(*parts, landing)), *scalars, scheduler=scheduler)
    except BaseException:
        landing.close()
        raise
    _check_complete(job, landing.ledger)
    landing.ledger.scalars.update(zip(job.scalars, map(float, found), strict=True))
    return landing.ledger


def _tasks(job: Plan, terminal: _Terminal) -> Any:
    """One task for each place, as a dask array of one object each."""
    import dask.array as da

    return da.map_blocks(
        terminal,
        *(f.data for f in job.fields),
        dtype=object,
        chunks=tuple((1,) * n for n in job.main.data.numblocks),
        meta=np.empty((0,) * job.main.ndim, dtype=object),
        name=f"write-{uuid.uuid4().hex}",
    )


def _check_complete(job: Plan, ledger: Ledger) -> None:
    for number, lead in job.layers():
        cells = sum(tile.count for tile in ledger.layers[number, lead].values())
        if cells != job.box.shape[0] * job.box.shape[1]:
            raise GeosrError(f"{cells} cells of layer {lead + 1} were written, of {job.box.shape}", "report this bug")


def threads() -> int:
    """Threads of this process that dask would use."""
    import dask.config

    return dask.config.get("num_workers", None) or os.cpu_count() or 1


def distributed_client(scheduler: Any) -> Any:
    """The distributed client that would run the graph, if any."""
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
