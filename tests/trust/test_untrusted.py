"""Files from strangers: the same result, in a box that holds."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr

from geosr.errors import GeosrError, GeosrWarning, InputError, RefusedError, ResourceError, UsageError
from geosr.reading import open_no2, untrusted
from geosr.reading.limits import Limits, is_untrusted, limits, reading_as
from geosr.reading.parcel import Writer, scratch_of
from geosr.reading.untrusted import open_untrusted
from reading.make import column_file, columns, geotiff, netcdf
from trust import hostile
from trust.command import geosr

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="--untrusted is for Linux")


def both(path, **options):
    """As read here, and in the box."""
    return open_no2(path, **options).compute(), open_untrusted(path, **options).compute()


@pytest.mark.parametrize(
    ("pattern", "options"),
    [
        ("*_utm.tif", {}),
        ("*_l3.nc", {}),
        ("*_l3.nc", {"bbox": (-29, 43, -26, 46), "units": "molec cm-2"}),
        ("*_truth.nc", {}),
        ("S5P*.nc", {}),
        ("S5P*.nc", {"qa": None, "resolution": 0.1, "bbox": (-29, 43, -26, 46)}),
    ],
)
def test_samples_are_the_same(sample_dir, pattern, options):
    here, boxed = both(next(sample_dir.glob(pattern)), **options)
    xr.testing.assert_identical(here, boxed)


def test_times_bands_and_masks_are_the_same(tmp_path):
    time_axis = (("time",), np.array([0.0, 31.0]), {"units": "days since 2019-03-01"})
    lat, lon = 49.75 - 0.5 * np.arange(6), 5.25 + 0.5 * np.arange(8)
    values = np.stack([columns(), columns(seed=1)])
    values[0, 2, 3] = np.nan
    field = {"time": time_axis, "no2": (("time", "latitude", "longitude"), values, {"units": "mol m-2"})}
    xr.testing.assert_identical(*both(netcdf(tmp_path / "a.nc", field, lat=lat, lon=lon)))
    xr.testing.assert_identical(*both(tmp_path / "a.nc", time="2019-04"))
    path = geotiff(tmp_path / "a.tif", values, descriptions=["NO2 2019-01", "NO2 2019-02"], nodata=np.nan)
    xr.testing.assert_identical(*both(path))
    xr.testing.assert_identical(*both(path, variable="2"))
    rotated = rasterio.Affine.translation(5, 50) * rasterio.Affine.rotation(20) * rasterio.Affine.scale(0.5, -0.5)
    xr.testing.assert_identical(*both(geotiff(tmp_path / "r.tif", values[1], transform=rotated)))
    no_crs = geotiff(tmp_path / "n.tif", values[1], crs=None)
    xr.testing.assert_identical(*both(no_crs, crs=rasterio.crs.CRS.from_epsg(4326)))


def test_the_command_writes_the_same(sample_dir, tmp_path):
    source = next(sample_dir.glob("*_utm.tif"))
    for name, way in (("a", ()), ("b", ("--untrusted",))):
        got = geosr("downscale", source, "--method", "bicubic", "--scale", 2, "-o", tmp_path / f"{name}.tif", *way)
        assert got.code == 0, got.err
    fields = []
    for name in "ab":
        with rasterio.open(tmp_path / f"{name}.tif") as file:
            fields.append(file.read())
    np.testing.assert_array_equal(*fields)


def told(way, path) -> tuple:
    """(Dataset or error, warnings) of reading ``path`` in that ``way``."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = way(path).compute()
        except GeosrError as error:
            found = (type(error), str(error))
    return found, sorted(str(w.message) for w in caught if issubclass(w.category, GeosrWarning))


def test_real_files_are_the_same(data_dir):
    """Of each folder: the same Dataset, the same warnings, the same error."""
    for folder in sorted(p for p in data_dir.iterdir() if p.name.startswith(("no2_", "s5p_", "images_sat"))):
        for path in sorted(p for p in folder.glob("*") if p.is_file() and p.stat().st_size < 3e6)[:2]:
            (here, heard), (boxed, boxed_heard) = told(open_no2, path), told(open_untrusted, path)
            assert heard == boxed_heard, path
            if isinstance(here, tuple) or isinstance(boxed, tuple):
                assert here == boxed, path
            else:  # PROJ rounds the 15th digit of an ellipsoid on its way through WKT
                assert here.drop_vars("spatial_ref").identical(boxed.drop_vars("spatial_ref")), path
                assert here.rio.crs == boxed.rio.crs, path


def test_a_field_is_read_lazily_and_travels(tmp_path):
    ds = open_untrusted(geotiff(tmp_path / "a.tif", columns((64, 48))))
    lazy = ds["field"].data
    assert lazy.npartitions >= 1
    code = "import pickle, sys; print(float(pickle.load(sys.stdin.buffer).compute(scheduler='sync').sum()))"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(lazy), capture_output=True, check=True)
    assert float(done.stdout) == pytest.approx(float(ds["field"].sum()))
    np.testing.assert_array_equal(lazy[5:20, 30:].compute(), columns((64, 48))[5:20, 30:])


def test_many_threads(tmp_path):
    paths = [geotiff(tmp_path / f"{i}.tif", columns(seed=i)) for i in range(6)]
    paths += [column_file(tmp_path / f"{i}.nc", columns(seed=i)) for i in range(6)]
    wrong = []

    def read(i):
        got = next(iter(open_untrusted(paths[i]).data_vars.values())).values
        if not np.array_equal(got, columns(seed=i % 6)):
            wrong.append(i)

    threads = [threading.Thread(target=read, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert not is_untrusted()


# --- the box ---------------------------------------------------------------------------------------------------

#: Runs in a process that has shut itself in as if to read ``allowed``; prints what each attempt came to.
PROBE = """
import json, os, socket, subprocess, sys, urllib.request
from geosr.reading import landlock, sandbox
from geosr.reading.limits import reading_as
allowed, secret, port, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
import numpy  # as the server would
with reading_as({"memory": 300, "pixels": 1e6}):
    box = sandbox._shut_in(allowed)

def attempt(call):
    try:
        return repr(call())[:80]
    except BaseException as error:
        return "no: " + type(error).__name__

def connect(kind):
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.settimeout(2)
        sock.connect(("127.0.0.1", port))
        sock.send(b"x")
        return sock.getpeername()

print(json.dumps({
    "box": box,
    "allowed": attempt(lambda: open(allowed, "rb").read(4)),
    "secret": attempt(lambda: open(secret).read()),
    "folder": attempt(lambda: os.listdir(folder)),
    "passwd": attempt(lambda: open("/etc/passwd").read(4)),
    "environ": attempt(lambda: open(f"/proc/{os.getppid()}/environ").read(4)),
    "write": attempt(lambda: open(os.path.join(folder, "new"), "w")),
    "append": attempt(lambda: open(allowed, "ab")),
    "remove": attempt(lambda: os.remove(allowed)),
    "tcp": attempt(lambda: connect(socket.SOCK_STREAM)),
    "udp": attempt(lambda: connect(socket.SOCK_DGRAM)),
    "program": attempt(lambda: subprocess.run(["/bin/sh", "-c", "true"], check=True)),
    "memory": attempt(lambda: numpy.ones(100_000_000).sum()),
    "kill": attempt(lambda: os.kill(os.getppid(), 0)),
    "import": attempt(lambda: __import__("wave").__name__),
}))
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    import socketserver

    folder = tmp_path_factory.mktemp("probe")
    secret, allowed = folder / "secret.txt", folder / "allowed.tif"
    secret.write_text(hostile.SECRET)
    allowed.write_bytes(b"II*\0")
    hits = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            hits.append(self.client_address)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [sys.executable, "-c", PROBE, str(allowed), str(secret), str(server.server_address[1]), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=untrusted._environment())
        server.shutdown()
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {**found, "hits": hits, "left": sorted(p.name for p in folder.iterdir())}


def test_the_box_lets_read_what_it_should(probe):
    assert probe["allowed"] == repr(b"II*\0")
    assert probe["import"] == repr("wave")


def test_the_box_keeps_files_closed(probe):
    if not probe["box"]["files"]:
        pytest.skip("this kernel has no Landlock")
    for what in ("secret", "folder", "passwd", "environ", "write", "append", "remove", "program"):
        assert probe[what].startswith("no: "), what
    assert probe["left"] == ["allowed.tif", "secret.txt"]


def test_the_box_keeps_the_network_away(probe):
    if not probe["box"]["network"]:
        pytest.skip("this kernel can neither restrict TCP nor give away a network")
    assert probe["tcp"].startswith("no: ")
    assert probe["hits"] == []


def test_the_box_bounds_memory(probe):
    assert probe["memory"] == "no: MemoryError"


def test_threads_would_stay_outside(tmp_path):
    """Landlock holds for the thread that asks for it."""
    code = (
        "import threading, time; from geosr.reading import sandbox\n"
        "threading.Thread(target=time.sleep, args=(5,), daemon=True).start()\n"
        "sandbox._shut_in('/dev/null')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "threads would stay outside the box" in done.stderr


def test_the_environment_is_not_passed_on(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", hostile.SECRET)
    monkeypatch.setenv("GDAL_SKIP", "GTiff")
    monkeypatch.setenv("HDF5_PLUGIN_PATH", "/nowhere")
    seen = untrusted._environment()
    assert hostile.SECRET not in seen.values()
    assert not {"GDAL_SKIP", "HDF5_PLUGIN_PATH"} & set(seen)
    assert seen["HDF5_PLUGIN_PRELOAD"] == "::"


# --- what goes wrong -------------------------------------------------------------------------------------------


def waiting() -> list[int]:
    """Process ids of the server's forks."""
    server = untrusted._server().process.pid
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == server:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def until(condition, seconds=20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_time_runs_out(tmp_path):
    path = hostile.zeros_tiff(tmp_path / "a.tif", 19_000)
    started = time.monotonic()
    with pytest.raises(ResourceError, match="timed out") as caught:
        open_untrusted(path, timeout=0.5)
    assert caught.value.path == str(path)
    assert time.monotonic() - started < 30
    assert until(lambda: len(waiting()) <= 2)  # the one that took too long is gone


def test_a_stalled_reader_is_ended(tmp_path, monkeypatch):
    """As on a dead network disk: the process does not run at all."""
    path = geotiff(tmp_path / "a.tif", columns())
    open_untrusted(path)
    assert until(lambda: len(waiting()) == 2)
    for pid in waiting():
        os.kill(pid, signal.SIGSTOP)
    try:
        monkeypatch.setattr(untrusted, "_START_SECONDS", 1)
        with pytest.raises(ResourceError):
            open_untrusted(path, timeout=1)
    finally:
        monkeypatch.undo()
        untrusted._stop()
    assert open_untrusted(path)["field"].shape == (6, 8)  # a new server


def test_memory_runs_out(tmp_path):
    path = hostile.zeros_tiff(tmp_path / "a.tif", 9000)
    with pytest.raises((ResourceError, InputError)) as caught:
        open_untrusted(path, memory=20)
    assert caught.value.exit_code in (3, 7)


def test_too_many_pixels_to_hold(tmp_path):
    path = geotiff(tmp_path / "a.tif", columns((30, 40)))
    with pytest.raises(RefusedError, match=r"1200 pixels \(30 x 40\).*the limit is 1000; .*--limit pixels=1200"):
        open_untrusted(path, limits={"pixels": 1000})
    assert open_untrusted(path, limits={"pixels": 1200})["field"].size == 1200


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV])
def test_a_reader_that_dies_is_told(tmp_path, signum):
    path = hostile.zeros_tiff(tmp_path / "a.tif", 19_000)
    open_untrusted(geotiff(tmp_path / "b.tif", columns()))
    assert until(lambda: len(waiting()) == 2)
    before = set(waiting())

    def end():
        time.sleep(0.4)
        for pid in before:
            with contextlib.suppress(ProcessLookupError):  # it may have been one that waited, and is replaced
                os.kill(pid, signum)

    killer = threading.Thread(target=end)
    killer.start()
    with pytest.raises(ResourceError, match="died") as caught:
        open_untrusted(path)
    killer.join()
    assert caught.value.exit_code == 7
    assert open_untrusted(tmp_path / "b.tif")["field"].shape == (6, 8)


def test_nothing_outlives_the_command(tmp_path):
    """However it ends, the server and its forks end with it, and no file is left."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    path = hostile.zeros_tiff(tmp_path / "a.tif", 19_000)
    code = "from geosr.reading.untrusted import open_untrusted; import sys; open_untrusted(sys.argv[1])"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], env={**os.environ, "TMPDIR": str(folder)})

    def boxes() -> list[str]:
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if (
                        f"TMPDIR={folder}\0".encode() in (entry / "environ").read_bytes()
                        and int(entry.name) != process.pid
                    ):
                        found.append(entry.name)
                except OSError:
                    continue
        return found

    assert until(lambda: len(boxes()) >= 3)
    time.sleep(0.5)
    process.kill()
    process.wait()
    assert until(lambda: not boxes())
    assert list(folder.iterdir()) == []


def test_an_answer_is_not_believed(tmp_path, monkeypatch):
    """Whatever has become of the process in the box: what it says is data, and checked."""
    path = geotiff(tmp_path / "a.tif", columns())
    good = {"result": None, "warnings": [], "box": {"files": True, "network": True}}
    grid = untrusted._ask("grid", path, {})[0]
    described = grid["variables"][0]
    lies = [
        b"", b"\0\0\0\0", b"nonsense", b"[]", b"{}", b"null",
        {**good, "result": {**grid, "box": {**grid["box"], "shape": [10**9, 10**9]}}},
        {**good, "result": {**grid, "box": {**grid["box"], "wkt": "+init=/etc/passwd:1"}}},
        {**good, "result": {**grid, "variables": [{**described, "values": {**described["values"], "offset": -1}}]}},
        {**good, "result": {**grid, "variables": [{**described, "values": {**described["values"], "offset": 10**12}}]}},
        {**good, "result": {**grid, "variables": [{**described, "values": {**described["values"], "dtype": "|O8"}}]}},
        {**good, "result": {**grid, "coords": [{"name": "t", "dims": ["y"], "dtype": "<M8[ns]", "values": ["x"],
                                               "attrs": {}}]}},
        {**good, "error": "SystemExit", "what": "x", "hint": ""},
    ]  # fmt: skip
    for lie in lies:
        data = lie if isinstance(lie, bytes) else json.dumps(lie).encode()
        monkeypatch.setattr(untrusted, "_receive", lambda *args, data=data: data)
        with pytest.raises((InputError, RuntimeError)):
            open_untrusted(path)


def test_descriptions_of_arrays(tmp_path):
    """Windows written in any order come back; what does not lie in the file is refused."""
    path = tmp_path / "scratch"
    values = np.arange(2 * 5 * 7, dtype="f4").reshape(2, 5, 7)
    with path.open("w+b") as file:
        out = Writer(file.fileno())
        out.array(np.ones(3))
        slot = out.reserve(values.shape, values.dtype)
        for y in (slice(3, 5), slice(0, 3)):
            for x in (slice(0, 4), slice(4, 7)):
                slot[:2, y, x] = values[:, y, x]
        size = path.stat().st_size
        found = scratch_of(slot.described(), str(path), size, None)
        np.testing.assert_array_equal(found.values(), values)
        np.testing.assert_array_equal(found[1, ::-2, 2:5], values[1, ::-2, 2:5])
        for change in ({"offset": size}, {"shape": [2, 5, 8]}, {"shape": [-1]}, {"dtype": "<c16"}, {"shape": [True]}):
            with pytest.raises(InputError, match="makes no sense"):
                scratch_of({**slot.described(), **change}, str(path), size, None)


# --- limits ----------------------------------------------------------------------------------------------------


def test_limits_hold_inside_alone():
    assert limits() == Limits()
    with reading_as({"bands": 3}, untrusted=True):
        assert limits().bands == 3
        assert is_untrusted()
        with reading_as({"block": 7}):
            assert (limits().bands, limits().block) == (3, 7)
    assert limits() == Limits()
    assert not is_untrusted()


@pytest.mark.parametrize(
    "wrong", [{"nothing": 1}, {"bands": 0}, {"bands": -1}, {"bands": float("nan")}, {"bands": "x"}]
)
def test_limits_that_make_no_sense(wrong):
    with pytest.raises(UsageError), reading_as(wrong):
        pass


@pytest.mark.parametrize("option", ["bands", "bands=", "bands=x", "nothing=3", "bands=-1"])
def test_options_that_make_no_sense(tmp_path, option):
    got = geosr("info", geotiff(tmp_path / "a.tif", columns()), "--limit", option)
    assert got.code == 2
    assert len(got.errors) == 1


def test_the_hint_is_enough(tmp_path):
    """The number in the message lets the file through."""
    for value in (257, 1234567, 999.6, 0.123456):
        with pytest.raises(RefusedError) as caught:
            Limits(bands=value / 2).check("bands", value, "x")
        raised = float(caught.value.hint.rsplit("=", 1)[1])
        assert value <= raised <= 1.02 * value
