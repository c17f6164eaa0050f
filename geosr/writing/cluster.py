"""Terminal tasks on a dask.distributed cluster: submitted as one graph, gathered as they finish, nothing large moved.

Workers read their windows of the input, compute, and write into the staging folder; what comes back here is one small
record a tile. An input that is an array of this process is left in that folder for them. A worker that is lost costs
the tiles that it had not handed over: the scheduler gives them to another, and a tile that was stored twice counts
once. A cluster that has no workers, or no scheduler, for :data:`PATIENCE` seconds is given up.
"""

from __future__ import annotations

import contextlib
import os
import pkgutil
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from geosr._version import __version__
from geosr.errors import OutputError, ResourceError

#: Seconds without a worker, or without the scheduler, after which a run is given up.
PATIENCE = 30.0

# Bytes of an array that may travel with the graph.
_SMALL = 1 << 14

# Seconds between looks at results, and at the cluster's health.
_PAUSE = 0.02
_CHECK = 1.0


def compute(
    client: Any,
    records: Any,
    land: Callable[[Any], None],
    folder: Path | None = None,
    places: Sequence[object] = (),
) -> None:
    """Compute ``records``, a dask array of one object a chunk, in one graph.

    Parameters
    ----------
    land : called here with each record, as it comes.
    folder : where the tasks write; every worker must see it.
    places : of the records, to say which of them several workers died on.

    Raises
    ------
    ResourceError
        No worker, or no scheduler any more; workers without this version of geosr.
    OutputError
        A worker that does not see ``folder``.

    What a task raises is raised here.
    """
    from distributed import as_completed, futures_of

    check_workers(client, folder)
    if folder is not None:
        records = spilled(records, folder)
    with _explained(client):
        persisted = client.persist(records)
    futures = futures_of(persisted)
    del persisted
    waiting = as_completed(futures, loop=client.loop, with_results=True)
    futures.clear()
    try:
        for future, result in _finished(client, waiting, places):
            land(result.item())
            future.release()  # the cluster may forget it
    except BaseException:
        _cancel(client, waiting)
        raise


def spilled(collection: Any, folder: Path) -> Any:
    """``collection``, a dask array, with arrays that its graph holds (a swath that was gridded here, say) in files of
    ``folder`` instead: workers read them there, and they do not travel through the scheduler.
    """
    import dask.array as da
    import numpy as np
    from dask.highlevelgraph import HighLevelGraph, MaterializedLayer

    graph = collection.__dask_graph__()
    layers, number = {}, 0
    for name, layer in graph.layers.items():
        layers[name] = layer
        if not isinstance(layer, MaterializedLayer):
            continue
        found = {key: getattr(value, "value", value) for key, value in layer.items()}  # dask wraps data in a node
        large = {
            k: v for k, v in found.items() if isinstance(v, np.ndarray) and v.nbytes > _SMALL and not v.dtype.hasobject
        }
        tasks = dict(layer)
        for key, values in large.items():
            path = folder / f"input-{number}.npy"
            np.save(path, values)
            tasks[key] = (np.load, str(path))
            number += 1
        layers[name] = MaterializedLayer(tasks) if large else layer
    made = HighLevelGraph(layers, graph.dependencies)
    return da.Array(made, collection.name, collection.chunks, meta=collection._meta) if number else collection


def _finished(client: Any, waiting: Any, places: Sequence[object]) -> Iterator[tuple[Any, Any]]:
    """(future, result) as they come; raises what a task raised, or that the cluster is gone."""
    well = checked = time.monotonic()
    while not waiting.is_empty():
        batch = waiting.next_batch(block=False)
        for future, result in batch:
            if future.status == "error":
                kind, error = result[:2]
                raise _from_worker(kind, error, places[future.key[-1]] if places else "")
            if future.status != "finished":
                raise ResourceError("the scheduler has lost the run", "is it still running?")
            yield future, result
        now = time.monotonic()
        if batch:
            well = now
            continue
        if now - checked > _CHECK:
            checked = now
            trouble = _trouble(client)
            well = well if trouble else now
            if now - well > PATIENCE:
                raise ResourceError(trouble, "start workers and run again")
        time.sleep(_PAUSE)


def _trouble(client: Any) -> str:
    """What is wrong with the cluster; empty if nothing is."""
    if client.status != "running":
        return f"the scheduler at {_address(client)} does not answer"
    return "" if client.scheduler_info()["workers"] else f"no worker is left at {_address(client)}"


def _address(client: Any) -> str:
    return str(getattr(client.scheduler, "address", "the address given"))


def _from_worker(kind: type, error: BaseException, place: object) -> BaseException:
    if kind.__name__ == "KilledWorker":
        tile = f"the tile of {place}" if place else "one tile"
        return ResourceError(f"several workers died on {tile}", "give them more memory, or use a smaller --tile")
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] == "geosr":
        return ResourceError("a worker has no geosr", "install the same version on all workers")
    return error


@contextlib.contextmanager
def _explained(client: Any) -> Iterator[None]:
    """A connection that breaks is the cluster's fault."""
    try:
        yield
    except (OSError, TimeoutError) as error:
        if isinstance(error, OutputError):
            raise
        raise ResourceError(f"the scheduler at {_address(client)} does not answer", "is it running?") from error


def _cancel(client: Any, waiting: Any) -> None:
    with contextlib.suppress(Exception):
        if client.status == "running":
            client.cancel(list(waiting.futures))


def check_workers(client: Any, folder: Path | None = None) -> None:
    """Do all workers have this geosr, and see ``folder``? Raises as :func:`compute` says."""
    with _explained(client):
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            where = f"--scheduler {_address(client)}"
            raise ResourceError(f"no worker at {_address(client)}", f"start some: dask worker ({where})") from error
        versions = _asked(client, pkgutil.resolve_name, "geosr._version:__version__")
        for worker, version in versions.items():
            if version != __version__:
                found = f"geosr {version}" if isinstance(version, str) else "no geosr"
                raise ResourceError(f"worker {worker} has {found}", f"install {__version__} there as here")
        if folder is None:
            return
        probe = folder / f"seen-{secrets.token_hex(8)}"
        probe.touch()
        seen = _asked(client, _sees, str(probe))
        probe.unlink()
    for worker, there in seen.items():
        if there is not True:  # or an error
            hint = "write to a folder on a file system that all workers share"
            raise OutputError(f"worker {worker} does not see the folder {folder.parent}", hint)


def _asked(client: Any, function: Callable[..., Any], *args: Any) -> dict[str, Any]:
    """What each worker answers, or what it raised; those that are lost meanwhile are not there."""
    from distributed.comm import CommClosedError

    answers = client.run(function, *args, on_error="return")
    return {worker: answer for worker, answer in answers.items() if not isinstance(answer, CommClosedError)}


def _sees(path: str) -> bool:
    return os.path.exists(path)
