"""The same plan on dask.distributed: equal files, survived losses, clear errors, nothing large on the way."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import rasterio
import xarray as xr

import geosr
from geosr.errors import OutputError, ResourceError, UsageError
from geosr.grid import with_geobox
from geosr.jobs import downscale_files
from geosr.provenance import Provenance
from geosr.variables import main_variable
from geosr.writing import cluster as on_cluster
from geosr.writing import write
from geosr.writing.crew import Crew
from strategies import smooth_field, write_tif

distributed = pytest.importorskip("distributed")

FORMATS = ["tif", "nc", "zarr"]
SHAPE = (1300, 1100)


def lazy(pause=0.0, fail=None, side=256):
    """A dataset whose tiles are made of their place, each in ``pause`` seconds; it travels to workers by value."""
    from affine import Affine
    from odc.geo.geobox import GeoBox

    def cells(block_info=None):
        import time

        (top, bottom), (left, right) = block_info[None]["array-location"]
        time.sleep(pause)
        if fail is not None and (top, left) == (256, 256):
            raise fail
        values = np.hypot(np.arange(top, bottom)[:, None] / 7, np.arange(left, right) / 3).astype("f4")
        return np.where(values % 11 < 1, np.float32(np.nan), values)

    cut = tuple((side,) * (n // side) + ((n % side,) if n % side else ()) for n in SHAPE)
    data = da.map_blocks(cells, chunks=cut, dtype="f4", meta=np.empty((0, 0), "f4"))
    main = xr.DataArray(data, dims=("y", "x"), name="no2", attrs={"units": "mol m-2"})
    main = with_geobox(main, GeoBox(SHAPE, Affine(0.01, 0, 3, 0, -0.01, 50), "EPSG:4326"))
    ds = main.to_dataset()
    ds["no2_uncertainty"] = main * np.float32(0.5)
    return ds


def checks_of(ds):
    """The largest value of each chunk."""
    import dask.array as da

    data = ds["no2"].data
    cut = tuple((1,) * n for n in data.numblocks)
    return {"largest": da.map_blocks(lambda b: np.nanmax(b, keepdims=True), data, chunks=cut, dtype="f4")}


def written(path):
    """All values of an output, by variable or band."""
    if path.suffix == ".tif":
        with rasterio.open(path) as done:
            return {**dict(zip(done.descriptions, done.read(), strict=True)), "tags": np.array(str(done.tags(1)))}
    with xr.open_dataset(path, engine="zarr" if path.suffix == ".zarr" else None) as done:
        return {str(name): v.values for name, v in done.data_vars.items()}


def check_same(a, b):
    a, b = written(a), written(b)
    assert a.keys() == b.keys()
    for name, values in a.items():
        np.testing.assert_array_equal(b[name], values)


@pytest.fixture(scope="module")
def client():
    """A scheduler and two workers in this process: all of the protocol, none of the start-up."""
    with distributed.Client(
        processes=False, n_workers=2, threads_per_worker=1, dashboard_address=None, set_as_default=False
    ) as found:
        yield found


@pytest.fixture
def seen():
    largest = []

    def provenance(found):
        largest.append(found)
        return Provenance(created="2024-01-01T00:00:00Z")

    provenance.largest = largest
    return provenance


def test_a_worker_that_is_lost_while_it_is_asked_has_no_answer(tmp_path, client, monkeypatch):
    """It was taken for a worker with another version."""
    run = client.run

    def lost(*args, **kwargs):
        return {**run(*args, **kwargs), "tcp://gone:1": distributed.comm.CommClosedError("Stream is closed")}

    monkeypatch.setattr(client, "run", lost)
    on_cluster.check_workers(client, tmp_path)
    monkeypatch.setattr(client, "run", lambda *args, **kwargs: {"tcp://bare:1": ModuleNotFoundError("geosr")})
    with pytest.raises(ResourceError, match=r"tcp://bare:1 has no geosr"):
        on_cluster.check_workers(client, tmp_path)
    answers = iter([geosr.__version__, PermissionError("no")])
    monkeypatch.setattr(client, "run", lambda *args, **kwargs: {"tcp://blind:1": next(answers)})
    with pytest.raises(OutputError, match=r"tcp://blind:1 does not see"):
        on_cluster.check_workers(client, tmp_path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_cluster_writes_what_threads_write(tmp_path, client, seen, suffix):
    landed = []
    ds = lazy()
    how = {"main": "no2", "provenance": seen, "checks": checks_of(ds)}
    far = write(ds, tmp_path / f"far.{suffix}", scheduler=client, progress=landed.append, **how)
    near = write(ds, tmp_path / f"near.{suffix}", **how)
    check_same(near.path, far.path)
    assert far.statistics == near.statistics
    assert seen.largest[0] == seen.largest[1] == {"largest": [np.nanmax(ds["no2"].values)]}
    assert sum(landed) == np.prod(SHAPE)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("chunks", [128, -1])
def test_arrays_in_memory_do_not_travel_with_the_graph(tmp_path, client, seen, chunks):
    import cloudpickle
    import dask.array as da

    from geosr.writing import stream

    ds = lazy().compute()
    held = ds.assign({name: v.copy(data=da.from_array(v.values, chunks=chunks)) for name, v in ds.data_vars.items()})
    job = stream.plan(held, "no2")
    tasks = stream._tasks(job, print, stream._waiting(job, stream._Landing(None, None), None))
    folder = tmp_path / "staging"
    folder.mkdir()
    bytes_held = sum(v.nbytes for v in ds.data_vars.values())
    assert len(cloudpickle.dumps(dict(tasks.__dask_graph__()))) > bytes_held
    assert len(cloudpickle.dumps(dict(on_cluster.spilled(tasks, folder).__dask_graph__()))) < bytes_held / 20
    far = write(held, tmp_path / "far.tif", main="no2", provenance=seen, scheduler=client)
    near = write(held, tmp_path / "near.tif", main="no2", provenance=seen)
    check_same(near.path, far.path)


def test_workers_compare_what_they_wrote(tmp_path, client, monkeypatch):
    """The windows of a store are read back by workers: one byte that is not what was written is found."""
    from geosr.writing import zarr as stores

    def damage(get, places, client):
        chunk = get.store.made / "no2_uncertainty" / "1.1"
        chunk.write_bytes((get.store.made / "no2_uncertainty" / "0.0").read_bytes())
        return compare(get, places, client)

    compare = stores._verify_there
    monkeypatch.setattr(stores, "_verify_there", damage)
    with pytest.raises(OutputError, match="reads back differently"):
        write(lazy(), tmp_path / "o.zarr", main="no2", provenance=Provenance(), scheduler=client)
    assert not list(tmp_path.iterdir())


def test_what_a_tile_raises_is_raised_here_and_nothing_is_left(tmp_path, client, seen):
    with pytest.raises(ZeroDivisionError):
        write(lazy(fail=ZeroDivisionError()), tmp_path / "o.zarr", main="no2", provenance=seen, scheduler=client)
    time.sleep(0.3)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_cancels_what_is_left(tmp_path, client, seen):
    def interrupt(cells):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:  # which holds on to what there was at that moment
        write(
            lazy(pause=0.2),
            tmp_path / "o.zarr",
            main="no2",
            provenance=seen,
            scheduler=client,
            progress=interrupt,
        )
    assert caught.traceback
    deadline = time.monotonic() + 1.5  # all tiles would take 3 s
    while any(client.processing().values()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(client.processing().values())
    time.sleep(0.5)  # a task that was running may still have written, and then has cleaned up
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_workers_do_not_see_is_named(tmp_path, client, seen, monkeypatch):
    monkeypatch.setattr(on_cluster, "_sees", lambda path: False)
    with pytest.raises(OutputError, match="does not see the folder") as caught:
        write(lazy(), tmp_path / "o.tif", main="no2", provenance=seen, scheduler=client)
    assert caught.value.exit_code == 5
    assert list(tmp_path.iterdir()) == []


def test_workers_of_another_version_are_refused(tmp_path, client, seen, monkeypatch):
    monkeypatch.setattr(on_cluster, "__version__", "99.0")
    with pytest.raises(ResourceError, match=r"has geosr .*; install 99\.0") as caught:
        write(lazy(), tmp_path / "o.tif", main="no2", provenance=seen, scheduler=client)
    assert caught.value.exit_code == 7


def test_a_cluster_without_workers_is_given_up(tmp_path, seen, monkeypatch):
    monkeypatch.setattr(on_cluster, "PATIENCE", 0.5)
    with (
        distributed.Client(processes=False, n_workers=0, dashboard_address=None, set_as_default=False) as empty,
        pytest.raises(ResourceError, match="no worker"),
    ):
        write(lazy(), tmp_path / "o.tif", main="no2", provenance=seen, scheduler=empty)


def test_what_answers_but_is_no_scheduler_is_named():
    import socketserver

    class Other(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 20)  # taken for lengths: exabytes

    with socketserver.TCPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with (
                pytest.raises(ResourceError, match="no dask scheduler answers"),
                Crew.of(scheduler=f"tcp://127.0.0.1:{server.server_address[1]}"),
            ):
                pass
        finally:
            server.shutdown()


def test_local_workers_keep_their_heap(tmp_path):
    import dask.config

    before = dask.config.get("distributed.nanny.pre-spawn-environ")
    with Crew.of(workers=1) as crew:
        found = crew.client.submit(os.environ.get, "MALLOC_TRIM_THRESHOLD_").result()
    assert found == str(256 << 20)
    assert dask.config.get("distributed.nanny.pre-spawn-environ") == before


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_what_is_half_made_is_finished_and_closed_before_an_interrupt_counts(tmp_path):
    script = """
    import multiprocessing, os, signal, threading, time
    from geosr.writing.crew import _undisturbed

    def blocked(pipe):
        pipe.send(sorted(s.name for s in signal.pthread_sigmask(signal.SIG_BLOCK, [])))

    class Made:
        def __init__(self):
            context = multiprocessing.get_context("spawn")
            here, there = context.Pipe()
            child = context.Process(target=blocked, args=(there,))
            child.start()
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)
            print("made", here.recv())
            child.join()

        def close(self):
            print("closed")

    if __name__ == "__main__":
        try:
            _undisturbed(Made)
        except KeyboardInterrupt:
            print("interrupted")
    """
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["made ['SIGHUP', 'SIGINT']", "closed", "interrupted"], done.stderr


def test_threads_workers_and_scheduler_exclude_each_other():
    with pytest.raises(UsageError, match="--threads and --workers"), Crew.of(threads=2, workers=2):
        pass
    with pytest.raises(UsageError, match="--workers and --scheduler"), Crew.of(workers=2, scheduler="tcp://x:1"):
        pass


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"--workers.*geosr\[distributed\]"), Crew.of(workers=2):
        pass


# ---- many outputs


def rasters(folder, count, side=40):
    return [write_tif(folder / f"{n}.tif", smooth_field((side, side), n), compress="deflate") for n in range(count)]


def test_two_inputs_that_would_become_one_output_are_refused(tmp_path):
    (tmp_path / "day1").mkdir()
    (tmp_path / "day2").mkdir()
    (first,) = rasters(tmp_path / "day1", 1)
    (second,) = rasters(tmp_path / "day2", 1)
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="would both become"):
        downscale_files([first, second], tmp_path / "out", scale=2, method="bicubic")
    assert not list((tmp_path / "out").iterdir())
    assert len(downscale_files([first, second], scale=2, method="bicubic")) == 2  # each beside its input


def test_one_failure_does_not_stop_the_others(tmp_path):
    sources = rasters(tmp_path, 5)
    said = []

    def get_in_the_way(now, total):
        (tmp_path / "4_x4.tif").write_text("another's")

    with pytest.raises(OutputError, match=r"1 of 5 outputs failed; all others were written") as caught:
        downscale_files(sources, tmp_path, method="bicubic", say=said.append, progress=get_in_the_way)
    assert (caught.value.exit_code, caught.value.path) == (5, str(tmp_path / "4_x4.tif"))
    for n in range(4):
        with rasterio.open(tmp_path / f"{n}_x4.tif") as done:
            assert np.isfinite(done.read()).all()
    assert (tmp_path / "4_x4.tif").read_text() == "another's"
    assert [text for text in said if "4_x4.tif: exists" in text] == said
    assert len(said) == 1


def test_progress_runs_over_all_outputs(tmp_path):
    calls = []
    reports = downscale_files(
        rasters(tmp_path, 6), tmp_path, method="bicubic", progress=lambda now, total: calls.append((now, total))
    )
    assert [r.output for r in reports] == [str(tmp_path / f"{n}_x4.tif") for n in range(6)]
    assert {total for _, total in calls} == {6 * 160 * 160}
    assert sum(now for now, _ in calls) == 6 * 160 * 160


def test_ctrl_c_stops_all_outputs(tmp_path):
    calls = []

    def interrupt(now, total):
        calls.append(now)
        if len(calls) == 1:
            raise KeyboardInterrupt
        time.sleep(0.5)  # an output that was being made at the same time

    sources = rasters(tmp_path, 4)
    with pytest.raises(KeyboardInterrupt):
        downscale_files(sources, tmp_path, method="bicubic", progress=interrupt)
    assert sorted(tmp_path.iterdir()) == sorted(sources)


# ---- with processes (slow)


@pytest.fixture
def two_processes():
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as cluster,
        distributed.Client(cluster, set_as_default=False) as found,
    ):
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_lost_worker_is_survived(tmp_path, two_processes, seen, suffix):
    pids = list(two_processes.run(os.getpid).values())
    done = []

    def kill(cells):
        done.append(cells)
        if len(done) == 3:
            os.kill(pids[0], signal.SIGKILL)

    far = tmp_path / f"far.{suffix}"
    write(lazy(pause=0.1), far, main="no2", provenance=seen, scheduler=two_processes, progress=kill)
    assert len(done) > 3
    assert pids[0] not in two_processes.run(os.getpid).values()
    near = write(lazy(), tmp_path / f"near.{suffix}", main="no2", provenance=seen)
    check_same(near.path, far)


@pytest.mark.slow
def test_nothing_large_passes_through_client_or_scheduler(tmp_path, two_processes, monkeypatch):
    """Scheduler and client are in this process, the workers in others: all that they say is counted."""
    from distributed.comm import tcp

    moved = []
    for name in ("to_frames", "from_frames"):
        real = getattr(tcp, name)

        async def counting(*args, real=real, **kwargs):
            found = await real(*args, **kwargs)
            frames = found if isinstance(found, list) else args[0]
            moved.append(sum(getattr(f, "nbytes", len(f)) for f in frames))
            return found

        monkeypatch.setattr(tcp, name, counting)
    source = write_tif(tmp_path / "in.tif", smooth_field((400, 500)), compress="deflate", tiled=True)
    for suffix in FORMATS:
        moved.clear()
        fine = geosr.downscale(geosr.open_no2(source, input_units="mol m-2"), 8, method="bicubic", tile=1024)
        out = tmp_path / f"out.{suffix}"
        name = str(main_variable(fine).name)
        write(fine, out, main=name, provenance=Provenance(), scheduler=two_processes)
        assert 0 < sum(moved) < 0.02 * 4 * 3200 * 4000
        assert max(moved) < 60_000


CLUSTER = """
    import sys
    from geosr.jobs import downscale_files
    if __name__ == "__main__":
        downscale_files({sources!r}, {folder!r}, method="bicubic", overwrite=True, say=print, {how})
"""


@pytest.mark.slow
def test_a_local_cluster_serves_many_files(tmp_path):
    sources = rasters(tmp_path, 4)
    folders = {"workers=2": tmp_path / "far", "threads=2": tmp_path / "near"}
    for how, folder in folders.items():
        folder.mkdir()
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(CLUSTER).format(sources=list(map(str, sources)), folder=str(folder), how=how))
        done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert ("2 workers at tcp://127.0.0.1" in done.stdout) == (how == "workers=2")
    for near in sorted(folders["threads=2"].glob("*.tif")):
        check_same(near, folders["workers=2"] / near.name)
    assert len(list(folders["workers=2"].glob("*.tif"))) == 4


def start(*args, folder):
    """A process of ``dask``; its messages go to a file."""
    with open(folder / f"{args[0]}-{time.monotonic_ns()}.log", "w") as log:
        command = [sys.executable, "-m", "dask", *map(str, args)]
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


@pytest.fixture
def far_cluster(tmp_path):
    """(client, scheduler, workers): processes that nobody starts again."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    file = folder / "scheduler.json"
    running = [
        start(
            "scheduler", "--host", "127.0.0.1", "--port", 0, "--no-dashboard", "--scheduler-file", file, folder=folder
        )
    ]
    for number in range(2):
        preload = folder / f"preload{number}.py"
        preload.write_text("")
        options = ["--no-nanny", "--nthreads", 1, "--no-dashboard", "--preload", preload, "--local-directory", folder]
        running.append(start("worker", "--scheduler-file", file, *options, folder=folder))
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    with distributed.Client(scheduler_file=str(file), set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        yield client, running[0], running[1:]
        for process in running[1:] + running[:1]:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("victims", ["workers", "scheduler"])
def test_a_cluster_that_dies_is_an_error_in_bounded_time(tmp_path, far_cluster, seen, monkeypatch, victims):
    monkeypatch.setattr(on_cluster, "PATIENCE", 3)
    client, scheduler, workers = far_cluster
    out = tmp_path / "out"
    out.mkdir()

    def kill(cells):
        for process in workers if victims == "workers" else [scheduler]:
            process.kill()

    started = time.monotonic()
    with pytest.raises(ResourceError) as caught:
        write(lazy(pause=0.2), out / "o.tif", main="no2", provenance=seen, scheduler=client, progress=kill)
    assert caught.value.exit_code == 7
    assert time.monotonic() - started < 60
    assert list(out.iterdir()) == []


WITHOUT_GEOSR = """
    import sys
    from importlib.abc import MetaPathFinder

    class Absent(MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name.partition(".")[0] == "geosr":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    sys.meta_path.insert(0, Absent())
"""


@pytest.mark.slow
def test_a_worker_without_geosr_is_named(tmp_path, seen):
    preload = tmp_path / "preload.py"
    preload.write_text(textwrap.dedent(WITHOUT_GEOSR))
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, preload=[str(preload)], silence_logs=50
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
        pytest.raises(ResourceError, match="has no geosr"),
    ):
        write(lazy(), tmp_path / "o.tif", main="no2", provenance=seen, scheduler=client)


@pytest.mark.slow
def test_ctrl_c_on_the_command_line_leaves_nothing(tmp_path):
    source = write_tif(tmp_path / "in.tif", smooth_field((900, 900)))
    command = [sys.executable, "-m", "geosr_cli.main", "downscale", str(source), "--method", "bicubic", "--scale", "8"]
    run = subprocess.Popen([*command, "--workers", "2"], stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".*partial/blocks-*")) and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to the workers too
    _, messages = run.communicate(timeout=60)
    assert run.returncode == 130, messages
    assert "Traceback" not in messages
    assert list(tmp_path.iterdir()) == [source]
    assert Path(source).is_file()
