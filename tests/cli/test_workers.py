"""Who computes: ``--threads``, ``--workers``, ``--scheduler``."""

import json

import numpy as np
import pytest
import rasterio


def values(path):
    with rasterio.open(path) as src:
        return src.read()


def test_threads_change_nothing(run, tif, tmp_path):
    for count in (1, 3):
        out = tmp_path / f"{count}.tif"
        assert run("downscale", tif, "--method", "bicubic", "--tile", "64", "--threads", count, "-o", out).code == 0
    np.testing.assert_array_equal(values(tmp_path / "1.tif"), values(tmp_path / "3.tif"))


@pytest.mark.parametrize("args", [["--threads", "0"], ["--workers", "x"], ["--workers", "2", "--threads", "2"]])
def test_counts_that_make_no_sense_are_usage_errors(run, tif, args):
    got = run("downscale", tif, "--method", "bicubic", *args)
    assert got.code == 2
    assert "--workers" in got.errors[0] or "--threads" in got.errors[0]
    assert not tif.with_name("no2_x4.tif").exists()


def test_interleaving_by_pixel_is_refused_with_the_way_out(run, tif):
    got = run("downscale", tif, "--method", "bicubic", "--co", "INTERLEAVE=PIXEL")
    assert got.code == 2
    assert "gdal_translate" in got.errors[0]


@pytest.mark.slow
def test_worker_processes_give_the_same_numbers(run, tif, tmp_path):
    pytest.importorskip("distributed")
    near, far = tmp_path / "near.tif", tmp_path / "far.tif"
    assert run("downscale", tif, "--tile", "64", "-o", near).code == 0
    got = run("downscale", tif, "--tile", "64", "-o", far, "--workers", "2", "--json")
    assert got.code == 0, got.err
    np.testing.assert_array_equal(values(near), values(far))
    assert json.loads(got.out)["output"] == str(far)
    with rasterio.open(near) as a, rasterio.open(far) as b:
        assert a.tags(1) == b.tags(1)
        assert a.tags()["GEOSR_CONSERVATION_ERROR"] == b.tags()["GEOSR_CONSERVATION_ERROR"]
