"""The command as a whole: help, exit codes, signals, pipes."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from affine import Affine

from strategies import write_tif

GEOSR = [sys.executable, "-m", "geosr_cli.main"]


def test_help_lists_every_command(run):
    got = run("--help")
    assert got.code == 0
    for name in ("downscale", "grid", "info", "evaluate", "degrade", "train", "models", "simulate"):
        assert name in got.out
        one = run(name, "--help")
        assert one.code == 0
        assert len(one.out.splitlines()) > 5


def test_unknown_command_and_option(run):
    for args in (["dowscale"], ["downscale", "x.tif", "--sacle", "4"], ["downscale"]):
        got = run(*args)
        assert got.code == 2
        assert len(got.errors) == 1


def test_models_are_listed(run):
    assert "x4" in run("models").out
    cards = json.loads(run("models", "--json").out)
    assert {card["scale"] for card in cards} >= {2, 4}


def test_a_bug_is_one_line_and_exit_1(run, tif, monkeypatch):
    import geosr.jobs

    def broken(*args, **kwargs):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(geosr.jobs, "downscale_files", broken)
    got = run("downscale", tif)
    assert got.code == 1
    assert "bug in geosr: ZeroDivisionError: oops" in got.errors[0]
    assert "--debug" in got.errors[0]


def test_control_characters_of_a_file_name_are_escaped(run, tmp_path):
    got = run("info", tmp_path / "a\n\x1b[31mb.tif")
    assert got.code == 3
    assert "\x1b" not in got.err
    assert len(got.err.splitlines()) == 1


def test_what_is_written_is_one_line_whatever_its_name(run, tif, tmp_path):
    out = tmp_path / "a\n\x1b[31mb.tif"
    for args in (["downscale", tif, "--scale", "2", "-o", out], ["verify", out]):
        got = run(*args)
        assert got.code == 0
        assert "\x1b" not in got.out + got.err
        assert len((got.out + got.err).splitlines()) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux")
@pytest.mark.parametrize("suffix", [".tif", ".nc"])
def test_an_output_name_that_is_no_text(run, tif, tmp_path, suffix):
    out = os.fsdecode(os.fsencode(tmp_path) + b"/a\xff" + suffix.encode())
    got = run("downscale", tif, "--scale", "2", "-o", out)
    assert got.code == 5
    assert "the name is not UTF-8" in got.errors[0]
    assert os.listdir(tmp_path) == [tif.name]
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/b\xff")
    os.mkdir(folder)
    got = run("downscale", tif, "--scale", "2", "-o", f"{folder}/a{suffix}")
    assert "its folder's name is not UTF-8" in got.errors[0]
    assert os.listdir(folder) == []


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_behind(tmp_path, signum, code):
    data = np.random.default_rng(0).random((3000, 3000), np.float32)
    big = write_tif(tmp_path / "big.tif", data, crs="EPSG:3035", transform=Affine(100, 0, 4e6, 0, -100, 3e6))
    process = subprocess.Popen(
        [*GEOSR, "downscale", str(big), "--method", "bicubic"], stderr=subprocess.PIPE, text=True
    )
    while not list(tmp_path.glob(".*partial*")) and process.poll() is None:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signum)
    err = process.communicate(timeout=30)[1]
    assert process.returncode == code
    assert "Traceback" not in err
    assert [p.name for p in tmp_path.iterdir()] == ["big.tif"]


def test_rio_geosr_is_the_same_command(tmp_path):
    """rasterio's own command takes geosr as a plugin, with geosr's errors and exit codes."""
    rio = [sys.executable, "-c", "from rasterio.rio.main import main_group; main_group()", "geosr"]
    shown = subprocess.run([*rio, "--help"], capture_output=True, text=True, check=True).stdout
    assert "downscale" in shown
    done = subprocess.run([*rio, "info", str(tmp_path / "none.tif")], capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr.startswith("geosr: error:")


def test_a_full_stdout_is_an_output_error(tif):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*GEOSR, "info", str(tif)], stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 5
        assert "stdout" in done.stderr
        out = tif.with_name("out.tif")
        done = subprocess.run([*GEOSR, "downscale", str(tif), "--method", "bicubic", "-o", str(out)], stderr=full)
        assert done.returncode == 0
        assert out.exists()


def test_closed_streams_do_not_stop_the_work(tif):
    out = tif.with_name("out.tif")
    command = " ".join([*GEOSR, "downscale", str(tif), "--method", "bicubic", "-o", str(out), ">&-", "2>&-"])
    assert subprocess.run(command, shell=True).returncode == 0
    assert out.exists()


@pytest.mark.slow
def test_a_cluster_gives_the_same_numbers(run, tif, tmp_path):
    import rasterio
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        got = run("downscale", tif, "--tile", "64", "--scheduler", address, "-o", tmp_path / "far.tif")
    assert got.code == 0, got.err
    assert run("downscale", tif, "--tile", "64", "-o", tmp_path / "near.tif").code == 0
    with rasterio.open(tmp_path / "far.tif") as far, rasterio.open(tmp_path / "near.tif") as near:
        assert np.array_equal(far.read(), near.read(), equal_nan=True)
        assert far.tags()["GEOSR_CONSERVATION_ERROR"] == near.tags()["GEOSR_CONSERVATION_ERROR"]


@pytest.mark.slow
def test_no_scheduler_at_the_address(run, tif):
    got = run("downscale", tif, "--scheduler", "tcp://127.0.0.1:9")
    assert got.code == 7
    assert "no dask scheduler" in got.errors[0]


def test_a_closed_pipe_is_quiet(tif):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*GEOSR, "info", str(tif), "--json"], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 141)
