"""Whole or not at all: every failure leaves the folder as it was."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import dask
import dask.array as da
import numpy as np
import pytest
import rasterio

from geosr.errors import InputError, OutputError, OutputLockedError, UsageError
from geosr.writing import atomic, check_target, write

FORMATS = ("tif", "nc", "zarr")
ROOT = Path(__file__).resolve().parents[2]


def contents(folder):
    return {f.relative_to(folder): f.read_bytes() for f in Path(folder).rglob("*") if f.is_file()}


def failing(ds, error, after=3):
    """``ds`` whose computation raises ``error`` in the chunk after ``after`` chunks."""
    seen = []

    def block(values):
        seen.append(1)
        if len(seen) > after:
            raise error
        return values

    lazy = da.map_blocks(block, ds.no2.data, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    return ds.assign(no2=ds.no2.copy(data=lazy))


@pytest.fixture(params=FORMATS)
def suffix(request):
    if request.param == "zarr":
        pytest.importorskip("zarr")
    return request.param


# ---- before computing


def test_unknown_suffixes_are_usage_errors_that_list_the_known(tmp_path):
    for name in ("out.png", "out", "out.tif.gz"):
        with pytest.raises(UsageError, match=r"\.tif.*\.nc.*\.zarr"):
            check_target(tmp_path / name)


def test_suffixes_know_no_case(tmp_path):
    assert check_target(tmp_path / "OUT.TIF") == tmp_path / "OUT.TIF"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(OutputError, match="none does not exist"):
        check_target(tmp_path / "none" / "out.tif")


def test_a_folder_or_a_device_is_no_target(tmp_path):
    (tmp_path / "dir.tif").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        check_target(tmp_path / "dir.tif", overwrite=True)
    os.mkfifo(tmp_path / "pipe.nc")
    with pytest.raises(OutputError, match="not a regular file"):
        check_target(tmp_path / "pipe.nc", overwrite=True)


def test_a_file_is_not_replaced_by_a_store(tmp_path):
    pytest.importorskip("zarr")
    (tmp_path / "out.zarr").write_text("text")
    with pytest.raises(OutputError, match="not a Zarr store"):
        check_target(tmp_path / "out.zarr", overwrite=True)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_folder_that_is_not_writable_is_found_before_computing(tmp_path, monkeypatch, code):
    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match="not writable"):
        check_target(tmp_path / "out.tif")


def test_the_check_leaves_nothing(tmp_path):
    check_target(tmp_path / "out.tif")
    check_target(tmp_path / ("n" * 251 + ".tif"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("beside", ["out.tif", "out.qml", "out.tif.aux.xml", "out.tif.ovr"])
def test_what_exists_is_kept_and_nothing_is_computed(tmp_path, dataset, columns, provenance, beside):
    (tmp_path / beside).write_text("precious")
    ds = failing(dataset(columns(20, 20)), AssertionError("computed"), after=0)
    with pytest.raises(OutputError, match=r"exists.*; use --overwrite") as caught:
        write(ds, tmp_path / "out.tif", main="no2", provenance=provenance)
    assert caught.value.exit_code == 5
    assert contents(tmp_path) == {Path(beside): b"precious"}


def test_too_little_room_is_found_before_computing(tmp_path, dataset, columns, provenance, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    ds = failing(dataset(columns(20, 20)), AssertionError("computed"), after=0)
    with pytest.raises(OutputError, match="disk full"):
        write(ds, tmp_path / "out.tif", main="no2", provenance=provenance)
    assert list(tmp_path.iterdir()) == []


# ---- while computing and writing


@pytest.mark.parametrize(
    "error", [InputError("block lost", "fetch it again"), KeyboardInterrupt(), ZeroDivisionError()], ids=repr
)
@pytest.mark.parametrize("old", [False, True], ids=["new", "overwriting"])
def test_a_failing_computation_leaves_all_as_it_was(tmp_path, dataset, columns, provenance, suffix, error, old):
    path = tmp_path / f"out.{suffix}"
    if old:
        write(dataset(columns(50, 50, seed=1)), path, main="no2", provenance=provenance)
    before = contents(tmp_path)
    ds = failing(dataset(columns(90, 90), chunks=20), error)
    with pytest.raises(type(error)) as caught:
        write(ds, path, main="no2", provenance=provenance, overwrite=True)
    if isinstance(error, InputError):
        assert (caught.value.what, caught.value.exit_code) == ("block lost", 3)
    assert contents(tmp_path) == before
    assert {p.name for p in tmp_path.iterdir()} <= {path.name, "out.qml", f"{path.name}.json"}


def test_ctrl_c_in_the_progress_bar_leaves_nothing(tmp_path, dataset, columns, provenance, suffix):
    def interrupt(cells):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(
            dataset(columns(90, 90), chunks=20),
            tmp_path / f"out.{suffix}",
            main="no2",
            provenance=provenance,
            progress=interrupt,
        )
    assert list(tmp_path.iterdir()) == []


def test_an_error_in_the_provenance_hook_leaves_nothing(tmp_path, dataset, columns, suffix):
    with pytest.raises(ZeroDivisionError):
        write(dataset(columns(9, 9)), tmp_path / f"out.{suffix}", main="no2", provenance=lambda _: 1 / 0)
    assert list(tmp_path.iterdir()) == []


def test_provenance_is_asked_once_after_the_last_tile(tmp_path, dataset, columns, provenance, suffix):
    events = []

    def finish(_):
        events.append("provenance")
        return provenance

    write(
        dataset(columns(40, 40), chunks=20),
        tmp_path / f"out.{suffix}",
        main="no2",
        provenance=finish,
        progress=lambda cells: events.append(cells),
    )
    # Chunks that do not fit the blocks of a GeoTIFF are joined.
    assert events == ([1600] if suffix == "tif" else [400, 400, 400, 400]) + ["provenance"]


def test_tasks_that_outlive_a_failure_do_not_touch_the_file(dataset, columns):
    """dask's threads finish what they have begun; by then the file may be closed and removed."""
    from geosr.writing.stream import plan, stream

    def block(values, block_info=None):
        if block_info[0]["chunk-location"] == (0, 0):
            time.sleep(0.1)
            raise ZeroDivisionError
        time.sleep(0.4)
        return values

    ds = dataset(columns(40, 40), chunks=20)
    lazy = da.map_blocks(block, ds.no2.data, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    job = plan(ds.assign(no2=ds.no2.copy(data=lazy)), "no2")
    put = []
    with pytest.raises(ZeroDivisionError), dask.config.set(scheduler="threads", num_workers=4):
        stream(job, lambda place, windows: put.append(windows), dtypes=(np.dtype("f4"),))
    before = len(put)
    time.sleep(0.6)
    assert len(put) == before


def test_a_failure_waits_for_what_is_being_written(dataset, columns):
    """The file is closed next."""
    from geosr.writing.stream import plan, stream

    events = []
    begun = threading.Event()

    def block(values, block_info=None):
        if block_info[0]["chunk-location"] == (0, 0):
            begun.wait(10)
            raise ZeroDivisionError
        return values

    def sink(place, windows):
        begun.set()
        time.sleep(0.3)
        events.append("written")

    ds = dataset(columns(20, 40), chunks=20)
    lazy = da.map_blocks(block, ds.no2.data, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    job = plan(ds.assign(no2=ds.no2.copy(data=lazy)), "no2")
    with pytest.raises(ZeroDivisionError), dask.config.set(scheduler="threads", num_workers=2):
        stream(job, sink, dtypes=(np.dtype("f4"),))
    assert events == ["written"]


# ---- what was written must read back


def _damage(path):
    """Overwrite bytes in the middle of the largest file."""
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    file = max(files, key=lambda f: f.stat().st_size)
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    file.write_bytes(data)


def test_damage_between_writing_and_reading_is_found(tmp_path, dataset, columns, provenance, suffix, monkeypatch):
    from geosr.writing import cog, netcdf, zarr

    for module in (cog, netcdf, zarr):
        verify = module._verify

        def damaged(made, *args, verify=verify):
            _damage(made.store.made if hasattr(made, "store") else made)
            verify(made, *args)

        monkeypatch.setattr(module, "_verify", damaged)
    with pytest.raises(OutputError, match="reads back differently|could not be written"):
        write(dataset(columns(200, 200)), tmp_path / f"out.{suffix}", main="no2", provenance=provenance)
    assert list(tmp_path.iterdir()) == []


# ---- the last steps


def test_sidecars_of_the_old_raster_do_not_speak_for_the_new(tmp_path, dataset, columns, provenance):
    path = tmp_path / "out.tif"
    write(dataset(columns(50, 50, seed=1)), path, main="no2", provenance=provenance)
    (tmp_path / "out.tif.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><Description>old</Description></PAMRasterBand></PAMDataset>"
    )
    write(dataset(columns(60, 60)), path, main="no2", provenance=provenance, overwrite=True)
    assert {p.name for p in tmp_path.iterdir()} == {"out.tif", "out.qml", "out.tif.json"}
    with rasterio.open(path) as done:
        assert done.descriptions == ("no2",)


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_each_failing_rename_and_flush_restores_the_old_output(
    tmp_path, dataset, columns, provenance, suffix, monkeypatch, step
):
    """As in SQLite's tests: the n-th call fails, for n = 1, 2, … until a run goes through."""
    path = tmp_path / f"out.{suffix}"
    write(dataset(columns(30, 30, seed=1)), path, main="no2", provenance=provenance)
    if suffix == "tif":
        (tmp_path / "out.tif.aux.xml").write_text("<PAMDataset/>")
    before = contents(tmp_path)
    real = getattr(os, step)
    messages = []
    counting = threading.Lock()
    for fail_at in range(1, 100, 4 if suffix == "zarr" else 1):  # a store has many files
        calls = []

        def fail(*args, fail_at=fail_at, calls=calls):
            with counting:  # a store is written by several threads
                calls.append(args)
                number = len(calls)
            if number == fail_at:
                raise OSError(errno.EIO, "Input/output error")
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            try:
                write(dataset(columns(40, 40)), path, main="no2", provenance=provenance, overwrite=True)
                break
            except OutputError as error:
                messages.append(str(error))
        after_rename = step == "fsync" and contents(tmp_path) != before  # the folder's own flush, the last step
        if after_rename:
            assert len(calls) == fail_at
            break
        assert contents(tmp_path) == before
        assert not [p for p in tmp_path.iterdir() if p.name.endswith(".partial")]
    assert fail_at > 1
    assert all("Input/output error" in message for message in messages), messages


def test_an_output_that_appears_in_the_meantime_is_kept(tmp_path, dataset, columns, provenance):
    path = tmp_path / "out.nc"
    with pytest.raises(OutputLockedError, match="another run"):
        write(
            dataset(columns(9, 9)),
            path,
            main="no2",
            provenance=provenance,
            progress=lambda cells: path.write_text("another run's"),
        )
    assert contents(tmp_path) == {Path("out.nc"): b"another run's"}


def test_names_of_any_kind_work(tmp_path, dataset, columns, provenance):
    for name in ("a b.tif", "名前.nc", "-o.tif", "x" * 251 + ".tif", 'it\'s "q".nc'):
        path = write(dataset(columns(5, 5)), tmp_path / name, main="no2", provenance=provenance).path
        assert path.name == name
        assert path.is_file()


# ---- outside forces (slow)

SCRIPT = """
    import sys, time
    import numpy as np, dask.array as da
    sys.path.insert(0, {tests!r})
    from conftest import make_dataset
    from geosr.provenance import Provenance
    from geosr.writing import write

    def slow(block):
        time.sleep(0.02)
        return block

    n = {n}
    ds = make_dataset(np.random.default_rng(0).normal(size=(n, n)).astype("f4"), chunks=64)
    ds["no2"] = ds.no2.copy(data=da.map_blocks(slow, ds.no2.data, dtype="f4", meta=np.empty((0, 0), "f4")))
    print("go", flush=True)
    write(ds, {path!r}, main="no2", provenance=Provenance(), overwrite=True)
    print("done", flush=True)
"""


def start(path, n=512):
    code = textwrap.dedent(SCRIPT.format(tests=str(Path(__file__).parent), path=str(path), n=n))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    run = subprocess.Popen([sys.executable, "-c", code], env=env, **pipes)
    assert run.stdout.readline() == "go\n", run.stderr.read()
    return run


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.1, 0.3, 0.6])
def test_kill_leaves_the_target_absent_or_whole(tmp_path, suffix, delay):
    run = start(tmp_path / f"out.{suffix}")
    time.sleep(delay)
    run.kill()
    run.communicate()
    names = {p.name for p in tmp_path.iterdir() if not p.name.endswith(".partial")}
    assert names in ({f"out.{suffix}"}, {f"out.{suffix}", "out.qml"}, set())


@pytest.mark.slow
def test_ctrl_c_leaves_nothing(tmp_path, suffix):
    run = start(tmp_path / f"out.{suffix}", n=1024)
    time.sleep(0.4)
    run.send_signal(signal.SIGINT)
    _, messages = run.communicate(timeout=20)
    assert "KeyboardInterrupt" in messages
    assert list(tmp_path.iterdir()) == []


def unmount(path):
    # Lazily: HDF5 keeps a file open that it could not flush.
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a tmpfs of so many KiB at tmp_path/disk (root only)."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = []

    def mount(kib):
        while mounted:
            unmount(mounted.pop())
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kib}k,nr_inodes=1000", "tmpfs", str(disk)],
            capture_output=True,
        )
        if done.returncode:
            pytest.skip("this system does not let root mount a tmpfs")
        mounted.append(str(disk))
        return disk

    yield mount
    for path in mounted:
        unmount(path)


@pytest.mark.slow
def test_a_full_disk_is_an_error_whatever_is_missing(small_disk, dataset, columns, provenance, suffix):
    """Disks of many sizes: a success reads back whole; a failure says "disk full" and leaves nothing."""
    values = columns(700, 500)
    fits, refused = 0, []
    for kib in [*range(100, 1400, 100), *range(1400, 2000, 28), *range(2000, 4000, 200)]:
        disk = small_disk(kib)
        path = disk / f"out.{suffix}"
        try:
            write(dataset(values, chunks=128), path, main="no2", provenance=provenance)
            fits += 1
        except OutputError as error:
            refused.append((str(error).partition("disk full")[1], list(disk.iterdir()), error.exit_code))
    assert fits > 0
    assert refused == [("disk full", [], 5)] * len(refused)
    assert len(refused) > 10


@pytest.mark.slow
def test_a_file_size_limit_is_an_error(tmp_path, suffix):
    code = textwrap.dedent(
        f"""
        import resource, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import numpy as np
        from conftest import make_dataset
        from geosr.errors import OutputError
        from geosr.provenance import Provenance
        from geosr.writing import write
        ds = make_dataset(np.random.default_rng(0).normal(size=(600, 600)).astype("f4"), chunks=512)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        try:
            write(ds, {str(tmp_path / f"out.{suffix}")!r}, main="no2", provenance=Provenance())
        except OutputError as error:
            print("refused", error)
        """
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.startswith("refused"), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_is_full_asks_the_file_system(tmp_path, monkeypatch):
    assert not atomic.is_full(tmp_path)
    real = os.statvfs(tmp_path)
    full = {name: getattr(real, name) for name in dir(real) if name.startswith("f_")} | {"f_bavail": 0}
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(**full))
    assert atomic.is_full(tmp_path)
