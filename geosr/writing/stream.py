"""Lazy arrays, tile by tile, into a file: computed, measured, stored and dropped, in one pass.

A format brings a *sink*: what is done with all variables of the dataset at one place, in the thread (or on the worker
of a cluster) that computed them. So there is one terminal task a tile; what its variables share is shared, and nothing
holds more of the raster than the tiles being worked on. What comes out of the task is small: the moments of each
window, for statistics that are exact for the data written whatever the order of the tiles, and the sink's own record.
Those can be noted in a :class:`~geosr.writing.journal.Journal`, from which a later run goes on.

Threads of this process get the tasks a few rows of tiles at a time: in a whole raster's graph dask holds on to parts of
the input that many tiles share, the more the larger the raster. A cluster gets them all at once.
"""

from __future__ import annotations

import itertools
import math
import operator
import os
import threading
import uuid
from bisect import bisect_left, bisect_right
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
from geosr.provenance import Provenance
from geosr.writing.journal import Journal, Landed, Place
from geosr.writing.ledger import Ledger, measure

# Chunk of an array that came without any (it is in memory already), and of one whose chunks do not fit the file's.
_DEFAULT_CHUNK = 1024

# So many tasks for each thread make a graph of their own: enough that none waits long for the last ones.
_TOGETHER = 16


@dataclass(frozen=True)
class Window:
    """The values of one layer at a place, in the dtype of the file."""

    field: int
    lead: int
    values: np.ndarray


#: Gives the provenance when all is computed, from the largest values of each check.
Finish = Callable[[Mapping[str, np.ndarray]], Provenance]

#: What is done with a tile: ``sink(place, windows)``, in any order, by several threads at once; picklable where a
#: cluster computes. Returns a small record, made of lists, strings and numbers.
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
    checks : arrays that are computed in the same pass, with one small block for each chunk of ``fields`` as they came
        in :func:`plan`: of these only the largest values over all chunks are wanted (what conservation is off by, say).
    came : ``edges`` of the fields as they came.
    """

    fields: tuple[xr.DataArray, ...]
    box: GeoBox
    y: Hashable
    x: Hashable
    lead: Hashable | None
    checks: Mapping[str, Any] = field(default_factory=dict)
    came: tuple[tuple[int, ...], ...] = ()

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


def plan(ds: xr.Dataset, main: str, checks: Mapping[str, Any] | None = None) -> Plan:
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
    found = Plan(tuple(fields), geobox_of(field0), y, x, lead, checks or {})
    return replace(found, came=found.edges)


@dataclass(frozen=True)
class _Terminal:
    """The last task of a tile: cast, measure, sink. Runs in a thread of this process or on a worker."""

    sink: Sink
    dtypes: tuple[np.dtype, ...]
    with_crc: bool
    explained: Callable[[], AbstractContextManager[None]]

    def run(self, place: Place, blocks: Sequence[Any], checks: Mapping[str, list[Any]]) -> Landed:
        windows = [w for number, block in enumerate(blocks) for w in self.windows(number, np.asarray(block), place)]
        tiles = tuple((w.field, w.lead, measure(w.values, place.rows, place.cols, self.with_crc)) for w in windows)
        largest = {name: np.max([np.ravel(part) for part in parts], axis=0).tolist() for name, parts in checks.items()}
        with self.explained():
            return Landed(place, tiles, largest, self.sink(place, windows))

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

    def __call__(self, place: Place, blocks: Sequence[Any], names: Sequence[str], checks: Sequence[list[Any]]) -> Any:
        box = np.empty(1, dtype=object)  # a chunk of a dask array
        box[0] = self.run(place, blocks, dict(zip(names, checks, strict=True)))
        return box


@dataclass
class _Landing:
    """Where the results of terminal tasks come together, in this process."""

    take: Callable[[Landed], None] | None
    progress: Callable[[int], None] | None
    journal: Journal | None = None
    ledger: Ledger = field(default_factory=Ledger)
    lock: threading.Condition = field(default_factory=threading.Condition)
    running: int = 0
    closed: bool = False

    def land(self, landed: Landed, known: bool = False) -> None:
        """``known``: it is in the journal already."""
        with self.lock:
            self._check_open()
            if self.take is not None:
                self.take(landed)
            if self.journal is not None and not known:
                self.journal.note(landed)
            for number, lead, tile in landed.tiles:
                self.ledger.note(number, lead, tile)
            for name, values in landed.largest.items():
                self.ledger.note_largest(name, values)
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

    def run(self, place: Place, blocks: Sequence[Any], checks: Mapping[str, list[Any]]) -> Any:
        def guarded(place: Place, windows: list[Window]) -> Any:
            with self.landing.writing():
                return self.sink(place, windows)

        plain = _Terminal(guarded, self.dtypes, self.with_crc, self.explained)
        self.landing.land(plain.run(place, blocks, checks))


def stream(
    job: Plan,
    sink: Sink,
    *,
    dtypes: tuple[np.dtype, ...],
    take: Callable[[Landed], None] | None = None,
    intact: Callable[[Landed], bool] | None = None,
    with_crc: bool = False,
    folder: Path | None = None,
    journal: Journal | None = None,
    explained: Callable[[], AbstractContextManager[None]] = nullcontext,
    progress: Callable[[int], None] | None = None,
    scheduler: Any = None,
) -> Ledger:
    """Compute the plan's chunks and give all that lies at one place to ``sink``.

    Parameters
    ----------
    sink : called in the task of the tile, by several threads at once; with a cluster, on its workers (so picklable).
    dtypes : what each field is cast to.
    take : called here, one at a time, with what each task gave back.
    intact : is what an earlier run stored for this tile still there, to the bit? Such tiles of the journal are taken
        and not computed.
    with_crc : also take the checksum of each window, for :meth:`Ledger.verify`.
    folder : where the sink writes: workers of a cluster must see it.
    journal : notes the tiles that are done, and knows those that were.
    explained : wraps ``sink``, to turn a library's failure into an OutputError; picklable like it. Errors of the
        computation itself (of reading the input, of the model) pass through as they are.
    progress : called, one at a time, with the number of main-variable cells that have just landed.
    scheduler : as for ``dask.compute``; None takes dask's configured one, a distributed client included.
    """
    landing = _Landing(take, progress, journal)
    client = distributed_client(scheduler)
    parts = (sink, tuple(map(np.dtype, dtypes)), with_crc, explained)
    try:
        waiting = _waiting(job, landing, intact)
        if client is not None and waiting:
            from geosr.writing.cluster import compute

            compute(client, _tasks(job, _Terminal(*parts), waiting), landing.land, folder, list(waiting.values()))
        elif waiting:
            local = _Local(*parts, landing)
            for some in _batches(waiting):
                _tasks(job, local, some).compute(scheduler=scheduler)
    except BaseException:
        landing.close()
        raise
    _check_complete(job, landing.ledger)
    return landing.ledger


_Index = tuple[int, int, int]


def _waiting(job: Plan, landing: _Landing, intact: Callable[[Landed], bool] | None) -> dict[_Index, Place]:
    """Tiles that are still to be done, by their number along (lead, y, x); the others land here."""
    places: dict[_Index, Place] = {}
    layers, rows, cols = (list(itertools.pairwise(axis)) for axis in job.edges)
    for i, j, k in itertools.product(*map(range, map(len, (layers, rows, cols)))):
        places[i, j, k] = Place(*layers[i], *rows[j], *cols[k])
    if landing.journal is None or intact is None:
        return places
    numbers = {place: index for index, place in places.items()}
    for landed in landing.journal.done():
        if landed.place in numbers and intact(landed):
            places.pop(numbers.pop(landed.place))
            landing.land(landed, known=True)
    return places


def _batches(places: Mapping[_Index, Place]) -> Iterator[dict[_Index, Place]]:
    """Whole rows of tiles, in their order."""
    some: dict[_Index, Place] = {}
    for _, row in itertools.groupby(places.items(), key=lambda item: item[0][:2]):
        some |= row
        if len(some) >= _TOGETHER * threads():
            yield some
            some = {}
    if some:
        yield some


def _tasks(job: Plan, terminal: _Terminal, places: Mapping[_Index, Place]) -> Any:
    """One task for each place, as a dask array of one object each. Where one task makes all that lies at a place, that
    task is part of it.
    """
    import dask.array as da
    from dask.highlevelgraph import HighLevelGraph

    name = f"write-{uuid.uuid4().hex}"
    names = tuple(job.checks)
    sources = [*(f.data for f in job.fields), *job.checks.values()]
    graph = HighLevelGraph.merge(*(source.dask for source in sources))
    tasks: dict[Any, Any] = {f"{name}-terminal": terminal}  # a key of its own: a cluster gets it once
    for number, (index, place) in enumerate(places.items()):
        blocks = [(f.data.name, *index[-f.ndim :]) for f in job.fields]
        under = list(itertools.product(*(_overlapping(*pair) for pair in zip(job.came, place.extents, strict=True))))
        checks = [[(job.checks[n].name, *at[-job.checks[n].ndim :]) for at in under] for n in names]
        tile, numbers = _made_at_once([*blocks, *itertools.chain(*checks)], graph.layers)
        many = len(blocks), *map(len, checks)
        tasks[name, number] = (_land, f"{name}-terminal", place, names, many, numbers, tile)
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=sources)
    return da.Array(graph, name, ((1,) * len(places),), meta=np.empty(0, dtype=object))


def _made_at_once(keys: list[Any], layers: Mapping[str, Mapping[Any, Any]]) -> tuple[Any, Sequence[int]]:
    """A task, and which of its results have these ``keys``: the one that makes them all (:func:`geosr.tiling.map_tiles`
    has such), or the list of them.
    """
    apart = keys, range(len(keys))
    numbers, tiles = [], []
    for key in keys:
        pick = layers.get(key[0], {}).get(key)
        if type(pick) is not tuple or len(pick) != 3 or pick[0] is not operator.getitem or type(pick[2]) is not int:
            return apart
        tiles.append(pick[1])
        numbers.append(pick[2])
    # Whoever has optimised the dataset's graph has tasks where keys were, and keys in other layers.
    if any(type(tile) is not tuple or tile != tiles[0] for tile in tiles) or not isinstance(tiles[0][0], str):
        return apart
    tile = layers.get(tiles[0][0], {}).get(tiles[0])
    return apart if tile is None else (tile, numbers)


def _land(
    terminal: Callable[..., Any],
    place: Place,
    names: Sequence[str],
    many: Sequence[int],
    numbers: Sequence[int],
    results: Sequence[Any],
) -> Any:
    """``results`` by their ``numbers``: so ``many`` blocks, and so many of each check."""
    chosen = (results[number] for number in numbers)
    blocks, *checks = (list(itertools.islice(chosen, n)) for n in many)
    return terminal(place, blocks, names, checks)


def _overlapping(edges: tuple[int, ...], extent: tuple[int, int]) -> range:
    return range(bisect_right(edges, extent[0]) - 1, bisect_left(edges, extent[1]))


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
