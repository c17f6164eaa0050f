"""A run that was killed goes on: what is done stays done, and the end is the same to the bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from geosr.errors import GeosrWarning, InputError, ModelError, OutputError, OutputLockedError, UsageError
from geosr.grid import with_geobox
from geosr.provenance import Provenance
from geosr.writing import atomic, check_target, journal, write
from geosr.writing.manifest import read, verify

FORMATS = ("tif", "nc", "zarr")
SHAPE, SIDE = (1024, 1536), 512
ALL, DONE = 6, 3  # tiles, and how many of them a run has done before it is interrupted
KEY = {"inputs": [["a.nc", "ab"]], "model": ["m", "cd"], "options": {"scale": 4}}
PROVENANCE = Provenance(created="2024-01-01T00:00:00Z")


@pytest.fixture(params=FORMATS)
def suffix(request):
    if request.param == "zarr":
        pytest.importorskip("zarr")
    return request.param


def lazy(computed, fail_after=None, error=None, factor=1.0):
    """Six tiles; ``computed`` gets the corner of each that is computed."""

    def cells(block_info=None):
        (top, bottom), (left, right) = block_info[None]["array-location"]
        if fail_after is not None and len(computed) >= fail_after:
            raise error
        computed.append((top, left))
        values = np.hypot(np.arange(top, bottom)[:, None] / 7, np.arange(left, right) / 3).astype("f4")
        return np.where(values % 11 < 1, np.float32(np.nan), values * np.float32(factor))

    cut = tuple((SIDE,) * (n // SIDE) for n in SHAPE)
    data = da.map_blocks(cells, chunks=cut, dtype="f4", meta=np.empty((0, 0), "f4"))
    main = xr.DataArray(data, dims=("y", "x"), name="no2", attrs={"units": "mol m-2"})
    main = with_geobox(main, GeoBox(SHAPE, Affine(0.01, 0, 3, 0, -0.01, 50), "EPSG:4326"))
    ds = main.to_dataset()
    ds["no2_uncertainty"] = main * np.float32(0.5)
    return ds


def make(path, computed, key=KEY, fail_after=None, error=None, **how):
    ds = lazy(computed, fail_after, error)
    data = ds["no2"].data
    check = da.map_blocks(
        lambda b: np.nanmax(b, keepdims=True), data, chunks=tuple((1,) * n for n in data.numblocks), dtype="f4"
    )
    seen = {}

    def finish(largest):
        seen.update(largest)
        return PROVENANCE

    how = {"provenance": finish, "checks": {"largest": check}, "scheduler": "synchronous"} | how
    return write(ds, path, main="no2", key=key, **how), seen


@pytest.fixture
def killed(tmp_path, suffix, monkeypatch):
    """An output of which some tiles were done when the run was interrupted; the corners of those tiles."""
    monkeypatch.setattr(atomic, "KEEP_SECONDS", 0.0)
    done = []
    with pytest.raises(KeyboardInterrupt) as caught:
        make(tmp_path / f"o.{suffix}", done, fail_after=DONE, error=KeyboardInterrupt())
    assert caught.value.kept == tmp_path / f".o.{suffix}.partial"
    assert not (tmp_path / f"o.{suffix}").exists()
    return tmp_path / f"o.{suffix}", done


def contents(path):
    """All bytes of an output, and all its values."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    raw = {f.relative_to(path.parent).parts[1:]: f.read_bytes() for f in files if f.is_file()}
    if path.suffix == ".tif":
        with rasterio.open(path) as done:
            return raw, {"tif": done.read()}
    with xr.open_dataset(path, engine="zarr" if path.suffix == ".zarr" else None) as done:
        return raw, {str(name): v.values for name, v in done.data_vars.items()}


def check_same(one, other):
    (raw, values), (others, expected) = contents(one), contents(other)
    assert values.keys() == expected.keys()
    for name, array in values.items():
        np.testing.assert_array_equal(array, expected[name])
    if one.suffix != ".nc":  # HDF5 lays tiles out in the order in which they come
        assert raw == others


def test_finished_tiles_are_not_done_again_and_the_end_is_the_same(tmp_path, suffix, killed):
    path, before = killed
    again = []
    report, largest = make(path, again, resume=True)
    assert sorted(before + again) == [(y, x) for y in range(0, SHAPE[0], SIDE) for x in range(0, SHAPE[1], SIDE)]
    (tmp_path / "whole").mkdir()
    whole, expected = make(tmp_path / "whole" / path.name, [])
    check_same(path, whole.path)
    assert report.statistics == whole.statistics
    assert largest == expected
    assert {p.name for p in tmp_path.iterdir()} <= {path.name, f"{path.name}.json", "o.qml", "whole"}


def test_progress_counts_what_was_done_before(killed):
    path, _ = killed
    seen = []
    make(path, [], resume=True, progress=seen.append)
    assert sum(seen) == np.prod(SHAPE)


def test_without_resume_leftovers_are_named_and_overwrite_clears_them(killed):
    path, _ = killed
    for call in (lambda: check_target(path), lambda: make(path, [])):
        with pytest.raises(OutputError, match=rf"{DONE} tiles in .*\.partial; --resume .* --overwrite"):
            call()
    computed = []
    make(path, computed, overwrite=True)
    assert len(computed) == ALL
    assert not (path.parent / f".{path.name}.partial").exists()


@pytest.mark.parametrize(
    ("part", "value", "error", "words"),
    [
        ("inputs", [["a.nc", "ee"]], InputError, "another input"),
        ("model", ["m", "ef"], ModelError, "another model"),
        ("options", {"scale": 2}, UsageError, "other options"),
    ],
)
def test_what_has_changed_is_noticed(killed, part, value, error, words):
    path, _ = killed
    with pytest.raises(error, match=f"had {words}; --overwrite"):
        make(path, [], key={**KEY, part: value}, resume=True)
    computed = []
    make(path, computed, key={**KEY, part: value}, resume=True, overwrite=True)
    assert len(computed) == ALL


def test_tiles_of_another_version_are_done_again_with_a_warning(killed, monkeypatch):
    path, _ = killed
    monkeypatch.setattr("geosr.writing.__version__", "0.0.1")
    computed = []
    with pytest.warns(GeosrWarning, match=rf"{DONE} finished tiles are done again: geosr .* made them"):
        make(path, computed, resume=True)
    assert len(computed) == ALL


@pytest.mark.parametrize("where", ["head", "line", "cut", "garbage"])
def test_damage_to_the_journal_costs_work_and_nothing_else(tmp_path, killed, where):
    path, _ = killed
    file = path.parent / f".{path.name}.partial" / journal.NAME
    lines = file.read_bytes().splitlines(keepends=True)
    if where == "head":
        lines[0] = lines[0].replace(b'"scale": 4', b'"scale": 5')
    elif where == "line":
        lines[2] = lines[2].replace(b"0", b"1", 12)
    elif where == "cut":
        lines[-1] = lines[-1][:-30]
    else:
        lines.insert(3, b"\xff\x00 not a line\n" + b"[" * 100_000 + b"\n")
    file.write_bytes(b"".join(lines))
    computed = []
    if where == "head":
        with pytest.warns(GeosrWarning, match="the journal is damaged"):
            make(path, computed, resume=True)
    else:
        make(path, computed, resume=True)
    assert len(computed) == {"head": ALL, "line": ALL - DONE + 1, "cut": ALL - DONE + 1, "garbage": ALL - DONE}[where]
    (tmp_path / "whole").mkdir()
    check_same(path, make(tmp_path / "whole" / path.name, [])[0].path)


def test_tiles_whose_bytes_have_changed_are_done_again(tmp_path, killed):
    path, _ = killed
    folder = path.parent / f".{path.name}.partial"
    pattern = {".tif": "blocks-*", ".nc": "tile-*", ".zarr": "made.zarr/no2/[0-9]*"}[path.suffix]
    file = max(folder.glob(pattern), key=lambda f: f.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(data)
    computed = []
    make(path, computed, resume=True)
    assert len(computed) == ALL - DONE + 1
    (tmp_path / "whole").mkdir()
    check_same(path, make(tmp_path / "whole" / path.name, [])[0].path)


def test_metadata_and_half_written_files_of_a_store_are_made_anew(tmp_path, killed):
    path, _ = killed
    if path.suffix != ".zarr":
        pytest.skip("of stores")
    made = path.parent / f".{path.name}.partial" / "made.zarr"
    (made / "no2" / ".zarray").write_text("{")
    (made / "y" / "0").write_bytes(b"")
    (made / "no2" / "0.0.d4e5.partial").write_bytes(b"half")
    computed = []
    make(path, computed, resume=True)
    assert len(computed) == ALL - DONE
    (tmp_path / "whole").mkdir()
    check_same(path, make(tmp_path / "whole" / path.name, [])[0].path)


def test_what_a_run_left_that_was_killed_at_the_very_end_goes(tmp_path, suffix):
    from geosr.writing import complete

    path = tmp_path / f"o.{suffix}"
    make(path, [])
    left = tmp_path / f".{path.name}.partial"
    left.mkdir()
    (left / "journal").write_text("")
    (left / atomic._MARK).touch()
    assert complete(lazy([]), path, main="no2", key=KEY) is not None
    assert not left.exists()


def test_a_disk_that_is_full_from_the_start_keeps_nothing(tmp_path, suffix, monkeypatch):
    def full(self, what):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal.Journal, "_write", full)
    with pytest.raises(OutputError, match="disk full"):
        make(tmp_path / f"o.{suffix}", [])
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_leaves_nothing(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(atomic, "KEEP_SECONDS", 0.0)
    with pytest.raises(InputError):
        make(tmp_path / f"o.{suffix}", [], fail_after=DONE, error=InputError("block lost"))
    assert list(tmp_path.iterdir()) == []


def test_a_short_run_that_is_interrupted_leaves_nothing(tmp_path, suffix):
    with pytest.raises(KeyboardInterrupt) as caught:
        make(tmp_path / f"o.{suffix}", [], fail_after=DONE, error=KeyboardInterrupt())
    assert not hasattr(caught.value, "kept")
    assert list(tmp_path.iterdir()) == []


def test_of_two_runs_on_one_output_the_second_is_refused(tmp_path, suffix):
    path = tmp_path / f"o.{suffix}"

    def look(cells):
        for call in (lambda: check_target(path, overwrite=True), lambda: make(path, [], overwrite=True, resume=True)):
            with pytest.raises(OutputLockedError, match="another run is writing it") as caught:
                call()
            assert caught.value.exit_code == 8

    make(path, [], progress=look)
    verify(path)


def test_a_folder_that_is_not_ours_is_not_touched(tmp_path, suffix):
    path, folder = tmp_path / f"o.{suffix}", tmp_path / f".o.{suffix}.partial"
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    for how in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(OutputError, match="not geosr's"):
            make(path, [], **how)
    assert (folder / "thesis.txt").read_text() == "precious"
    os.rename(folder, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", folder)
    for how in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(OutputError, match="not a folder"):
            make(path, [], **how)
    assert (tmp_path / "elsewhere" / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize("where", ["row", "level", "negative", "crc of another place"])
def test_a_forged_line_costs_its_tile_and_nothing_else(tmp_path, monkeypatch, where):
    monkeypatch.setattr(atomic, "KEEP_SECONDS", 0.0)
    path = tmp_path / "o.tif"
    with pytest.raises(KeyboardInterrupt):
        make(path, [], fail_after=DONE, error=KeyboardInterrupt())
    file = tmp_path / ".o.tif.partial" / journal.NAME
    lines = file.read_text().splitlines()
    found = json.loads(lines[-1][9:])
    entry = found[3][1][0]
    if where == "crc of another place":
        found[3][2].append([0, 0, 10**9, 0, 0])
    else:
        entry[{"row": 3, "level": 2, "negative": 4}[where]] = {"row": 10**9, "level": 60, "negative": -1}[where]
    text = json.dumps(found)
    file.write_text("\n".join([*lines[:-1], f"{journal.crc32(text.encode()):08x} {text}"]) + "\n")
    computed = []
    make(path, computed, resume=True)
    assert len(computed) == ALL - DONE + 1
    (tmp_path / "whole").mkdir()
    check_same(path, make(tmp_path / "whole" / "o.tif", [])[0].path)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link"])
def test_a_journal_that_is_no_file_does_not_hang(tmp_path, kind):
    folder = tmp_path / ".o.tif.partial"
    folder.mkdir()
    (folder / atomic._MARK).touch()
    place = folder / journal.NAME
    (tmp_path / "other").write_text("precious")
    {
        "pipe": lambda: os.mkfifo(place),
        "device": lambda: place.symlink_to("/dev/zero"),
        "folder": place.mkdir,
        "link": lambda: place.symlink_to(tmp_path / "other"),
    }[kind]()
    make(tmp_path / "o.tif", [], resume=True)
    assert (tmp_path / "other").read_text() == "precious"
    assert not folder.exists()


# ---- inputs that would be lost


@pytest.mark.parametrize(
    ("names", "output"),
    [
        (["q.tif", "q_x2.tif"], None),
        (["out.tif.json"], "out.tif"),
        (["o2.qml"], "o2.tif"),
        (["o3.tif.ovr"], "o3.tif"),
    ],
)
def test_no_input_is_written_over(tmp_path, names, output):
    from geosr.jobs import downscale_files

    for name in names:
        raster(tmp_path / name, 40)
    before = {name: (tmp_path / name).read_bytes() for name in names}
    where = None if output is None else tmp_path / output
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="input") as caught:
            downscale_files([tmp_path / n for n in names], where, scale=2, method="bicubic", overwrite=overwrite)
        assert caught.value.exit_code == 2
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


# ---- the manifest


def test_an_output_has_a_manifest_that_it_agrees_with(tmp_path, suffix):
    path = tmp_path / f"o.{suffix}"
    make(path, [])
    found = read(path)
    assert found["key"]["inputs"] == KEY["inputs"]
    assert found["statistics"]["count"] == np.prod(SHAPE)
    assert verify(path).files.keys() == {path.name} | ({"o.qml"} if suffix == "tif" else set())


def test_one_bit_is_noticed(tmp_path, suffix):
    path = tmp_path / f"o.{suffix}"
    make(path, [])
    files = [f for f in (path.rglob("*") if path.is_dir() else [path]) if f.is_file()]
    file = max(files, key=lambda f: f.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    with pytest.raises(InputError, match="checksum"):
        verify(path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: p.unlink(), "no manifest"),
        (lambda p: p.write_text("{}"), "not a manifest of geosr"),
        (lambda p: p.write_bytes(b"[" * 1_000_000), "damaged"),
        (lambda p: p.write_text(p.read_text().replace("2024-01-01", "2023-01-01")), "has been changed"),
    ],
)
def test_a_manifest_that_is_no_good_is_named(tmp_path, damage, words):
    make(tmp_path / "o.tif", [])
    damage(tmp_path / "o.tif.json")
    with pytest.raises(InputError, match=words):
        verify(tmp_path / "o.tif")


def test_an_output_under_another_name_says_so(tmp_path):
    make(tmp_path / "o.tif", [])
    os.rename(tmp_path / "o.tif", tmp_path / "p.tif")
    os.rename(tmp_path / "o.tif.json", tmp_path / "p.tif.json")
    with pytest.raises(InputError, match=r"its manifest is of o\.tif"):
        verify(tmp_path / "p.tif")


# ---- the command


def raster(path, side=500):
    values = np.random.default_rng(0).normal(5e-5, 1e-5, (side, side)).astype("f4")
    profile = {"driver": "GTiff", "dtype": "float32", "count": 1, "height": side, "width": side, "crs": "EPSG:32632"}
    with rasterio.open(path, "w", **profile, transform=Affine(1000, 0, 4e5, 0, -1000, 5e6), nodata=np.nan) as out:
        out.write(values, 1)
        out.units = ["mol m-2"]


def start(folder, *args):
    command = [sys.executable, "-m", "geosr_cli.main", "downscale", "in.tif", "--scale=6", "--method=bicubic", *args]
    env = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    return subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)


def run(folder, *args):
    process = start(folder, *args)
    return process.communicate(timeout=300)[1], process.returncode


def tiles_of(folder):
    return journal.count(folder / ".in_x6.tif.partial")


@pytest.mark.slow
def test_kill_minus_nine_then_resume(tmp_path):
    raster(tmp_path / "in.tif", 900)
    (tmp_path / "whole").mkdir()
    raster(tmp_path / "whole" / "in.tif", 900)
    assert run(tmp_path / "whole", "--tile", "512")[1] == 0
    process = start(tmp_path, "--tile", "512")
    deadline = time.monotonic() + 60
    while tiles_of(tmp_path) < 20 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "in_x6.tif").exists()
    done = tiles_of(tmp_path)
    assert done >= 20
    text, code = run(tmp_path, "--tile", "512")
    assert code == 5
    assert "--resume goes on" in text
    text, code = run(tmp_path, "--tile", "512", "--resume")
    assert code == 0, text
    assert (tmp_path / "in_x6.tif").read_bytes() == (tmp_path / "whole" / "in_x6.tif").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"in.tif", "in_x6.tif", "in_x6.qml", "in_x6.tif.json", "whole"}
    # Once more: there is nothing left to do.
    stamp = (tmp_path / "in_x6.tif").stat().st_mtime_ns
    text, code = run(tmp_path, "--tile", "512", "--resume")
    assert (code, "was complete already" in text) == (0, True)
    assert (tmp_path / "in_x6.tif").stat().st_mtime_ns == stamp


def test_an_input_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    from geosr.jobs import downscale_files

    raster(tmp_path / "in.tif", 100)

    def touch(done, total):
        stat = os.stat(tmp_path / "in.tif")
        os.utime(tmp_path / "in.tif", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))

    with pytest.raises(InputError, match="changed while reading"):
        downscale_files([tmp_path / "in.tif"], scale=2, method="bicubic", progress=touch)
    assert [p.name for p in tmp_path.iterdir()] == ["in.tif"]


def test_an_output_that_was_damaged_is_not_read_as_input(tmp_path):
    from geosr.jobs import downscale_files

    raster(tmp_path / "in.tif", 100)
    (report,) = downscale_files([tmp_path / "in.tif"], scale=2, method="bicubic")
    made = Path(report.output)
    downscale_files([made], tmp_path / "again.tif", scale=2, method="bicubic")
    data = bytearray(made.read_bytes())
    data[-200] ^= 1
    made.write_bytes(data)
    with pytest.raises(InputError, match="checksum is not what its manifest says"):
        downscale_files([made], tmp_path / "more.tif", scale=2, method="bicubic")


def test_a_batch_that_was_killed_leaves_what_is_complete_alone(tmp_path):
    from geosr.jobs import downscale_files

    names = ["a.tif", "b.tif", "c.tif"]
    for name in names:
        raster(tmp_path / name, 60)
    paths = [tmp_path / name for name in names]
    downscale_files(paths[:2], scale=2, method="bicubic")
    stamps = [(tmp_path / f"{n[0]}_x2.tif").stat().st_mtime_ns for n in names[:2]]
    with pytest.raises(OutputError, match="exists"):
        downscale_files(paths, scale=2, method="bicubic")
    reports = downscale_files(paths, scale=2, method="bicubic", resume=True)
    assert [r.resumed for r in reports] == [True, True, False]
    assert [(tmp_path / f"{n[0]}_x2.tif").stat().st_mtime_ns for n in names[:2]] == stamps
    fresh = downscale_files(paths[:1], tmp_path / "fresh.tif", scale=2, method="bicubic")[0]
    for name in ("valid_share", "minimum", "maximum", "conservation_error"):
        assert getattr(reports[0], name) == getattr(fresh, name)
    # With other options it is another output, and stays.
    with pytest.raises(OutputError, match="exists"):
        downscale_files(paths[:1], scale=2, method="bicubic", conserve=False, resume=True)


def test_verify_is_a_command(tmp_path):
    from click.testing import CliRunner

    from geosr_cli.main import cli

    make(tmp_path / "o.tif", [])
    found = CliRunner().invoke(cli, ["verify", str(tmp_path / "o.tif"), "--json"])
    assert found.exit_code == 0
    assert json.loads(found.stdout)["files"].keys() == {"o.tif", "o.qml"}
    (tmp_path / "o.qml").write_text("")
    found = CliRunner().invoke(cli, ["verify", str(tmp_path / "o.tif")])
    assert (found.exit_code, "o.qml has 0 bytes" in found.stderr) == (3, True)
