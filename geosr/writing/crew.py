"""Who computes: threads of this process, worker processes on this machine, or a cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from geosr.errors import ResourceError, UsageError

# What dask does beside computing, in every process and many times a second: a watch for its event loop being held up,
# and samples of what runs, for the dashboard. With two workers that was 15 % of a core, and is 5 %.
_SELDOM = {"distributed.admin.tick.interval": "500ms", "distributed.worker.profile.interval": "100ms"}

# Runs in each worker when it has started. A terminal sends Ctrl-C to all processes; this one stops its workers itself,
# and they need not print tracebacks. On POSIX they are deaf to it from the first, by :func:`_undisturbed`.
_DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


# For glibc in workers of this machine. dask has it give back whatever is free, so each tile's arrays are made of new
# pages: 740 000 faults for 8192 x 8192 cells instead of 1000, and a fifth more time.
_MALLOC = {"MALLOC_TRIM_THRESHOLD_": 256 << 20, "MALLOC_MMAP_THRESHOLD_": 32 << 20}

# Seconds after which a worker of this machine that says nothing is given up; dask waits five minutes.
_STALLED = 60


@dataclass(frozen=True)
class Crew:
    """Who computes an output.

    Attributes
    ----------
    threads : how many tasks run at once, as far as is known here.
    client : of dask.distributed; None for threads of this process.
    """

    threads: int
    client: Any = None

    @classmethod
    @contextlib.contextmanager
    def of(
        cls,
        threads: int | None = None,
        workers: int | None = None,
        scheduler: str | None = None,
        say: Callable[[str], None] | None = None,
    ) -> Iterator[Crew]:
        """``threads`` of this process (default: one per core), or ``workers`` processes of one thread each on this
        machine, or those of the scheduler at the address ``scheduler``.

        ``say`` is told where the dashboard of a cluster is.

        Raises
        ------
        UsageError
            More than one of the three, or dask.distributed is not installed.
        ResourceError
            No scheduler answers.
        """
        given = {"--threads": threads, "--workers": workers, "--scheduler": scheduler}
        if len(named := [name for name, value in given.items() if value is not None]) > 1:
            raise UsageError(f"{' and '.join(named)} in one run", "name one of them: each says who computes")
        if workers is None and scheduler is None:
            import dask.config

            count = threads or dask.config.get("num_workers", None) or os.cpu_count() or 1
            with dask.config.set(num_workers=count):
                yield cls(count)
            return
        with _client(workers, scheduler) as client:
            if say is not None:
                say(f"geosr: {_where(client)}")
            yield cls(sum(client.nthreads().values()) or 1, client)

    @property
    def scheduler(self) -> Any:
        """For :func:`geosr.writing.write`."""
        from dask.threaded import get

        return self.client or get  # by its name, dask would import distributed first to see if that is meant

    @contextlib.contextmanager
    def shared_by(self, outputs: int) -> Iterator[None]:
        """While so many outputs are made at once: threads are divided among them."""
        import dask.config

        share = max(1, self.threads // outputs)
        with contextlib.nullcontext() if self.client else dask.config.set(num_workers=share):
            yield


@contextlib.contextmanager
def _client(workers: int | None, scheduler: str | None) -> Iterator[Any]:
    option = "--workers" if scheduler is None else "--scheduler"
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError(f"{option} needs dask.distributed", "pip install 'geosr[distributed]'") from error
    _hush()
    if scheduler is not None:
        try:
            client = _undisturbed(lambda: Client(scheduler, timeout=10))
        except Exception as error:  # of what answers, if it is no scheduler, the first bytes are taken for a length
            raise ResourceError(
                f"no dask scheduler answers at {scheduler}", "start one with: dask scheduler"
            ) from error
        with client:
            yield client
        return
    import dask.config

    with (
        dask.config.set({"distributed.scheduler.worker-ttl": f"{_STALLED}s"}),
        _undisturbed(lambda: local_cluster(workers)) as cluster,
        _undisturbed(lambda: Client(cluster)) as client,
    ):
        yield client


def local_cluster(workers: int | None) -> Any:
    """A ``distributed.LocalCluster`` of so many processes (None: as many as dask would take), of one thread each."""
    import dask.config
    from distributed import LocalCluster

    malloc = {f"distributed.nanny.pre-spawn-environ.{name}": str(n) for name, n in _MALLOC.items()}
    with dask.config.set({**malloc, **_SELDOM}):
        return LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",  # any free port, for this machine alone
            silence_logs=logging.CRITICAL,  # a worker that is lost and replaced is no news
            preload=[_DEAF],
        )


def _undisturbed(make: Callable[[], Any]) -> Any:
    """``make()``, whole: a signal that comes meanwhile counts when it is made, and closed again.

    A cluster that is half started cannot be closed in order, and distributed says so at length when Python ends. So it
    is made in a thread, which blocks the signals of a terminal; processes and threads that are started there inherit
    that, and need not be told, before they can listen, that such a signal is not theirs to answer.
    """
    with ThreadPoolExecutor(1, initializer=_turn_deaf) as pool:
        making = pool.submit(make)
        try:
            return making.result()
        except BaseException:
            wait([making])
            if making.exception() is None:
                making.result().close()
            raise


def _turn_deaf() -> None:
    """Block Ctrl-C and hang-up in this thread, and in what it starts."""
    if not hasattr(signal, "pthread_sigmask"):  # of POSIX alone
        return
    from multiprocessing import resource_tracker

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    resource_tracker.ensure_running()  # a process, started before the first of others; unblocks SIGINT when it is
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _hush() -> None:
    """A worker or scheduler that is lost, and a run that is interrupted, are told in one line by whoever notices; what
    the libraries underneath say of it are tracebacks, some of them when all is over."""
    # distributed gives loggers of its own, and of tornado, levels of their own.
    names = {"distributed", "tornado", "asyncio", *logging.root.manager.loggerDict}
    for name in names:
        if name.partition(".")[0] in ("distributed", "tornado", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _where(client: Any) -> str:
    """Where one can watch the cluster."""
    from importlib.util import find_spec

    count = len(client.nthreads())
    text = f"{count} worker{'s' * (count != 1)} at {client.scheduler.address}"
    # The scheduler has no dashboard without bokeh, but gives an address all the same; of another's one cannot know.
    local = client.cluster is not None
    if local and find_spec("bokeh") is None:
        return f"{text}, no dashboard (pip install bokeh)"
    return f"{text}, dashboard: {client.dashboard_link}" if client.dashboard_link else text
