"""The other commands, and the ways in which they meet."""

import json

import numpy as np
import pytest
import rasterio
import xarray as xr

BBOX = ("--bbox", "-29", "43", "-26", "45")


@pytest.fixture
def swath(sample_dir):
    (path,) = sample_dir.glob("S5P_*.nc")
    return path


def bands(path):
    with rasterio.open(path) as src:
        return dict(zip(src.descriptions, src.read(), strict=True)), dict(zip(src.descriptions, src.units, strict=True))


def test_grid_gives_column_precision_and_count(run, swath, tmp_path):
    got = run("grid", swath, *BBOX, "--resolution", "0.05", "-o", tmp_path / "g.tif", "--json")
    assert got.code == 0
    report = json.loads(got.out)
    assert report["bounds"] == [-29, 43, -26, 45]
    assert report["shape"] == [40, 60]
    data, units = bands(tmp_path / "g.tif")
    name = "nitrogendioxide_tropospheric_column"
    assert units == {name: "mol m-2", f"{name}_precision": "mol m-2", f"{name}_count": "1"}
    seen = np.isfinite(data[name])
    assert 0.3 < seen.mean() < 1
    assert (data[f"{name}_count"][seen] >= 1).all()
    assert (data[f"{name}_precision"][seen] > 0).all()


@pytest.mark.parametrize("suffix", ["tif", "nc"])
def test_gridding_first_changes_nothing(run, swath, tmp_path, suffix):
    """``geosr grid`` is the step that ``geosr downscale`` takes by itself; its companions come along."""
    grid, two, one = (tmp_path / f"{n}.{suffix}" for n in ("grid", "two", "one"))
    assert run("grid", swath, *BBOX, "-o", grid).code == 0
    assert run("downscale", grid, "-o", two).code == 0
    assert run("downscale", swath, *BBOX, "-o", one).code == 0
    import geosr

    a, b = geosr.open_no2(one), geosr.open_no2(two)
    assert set(a.data_vars) == set(b.data_vars)
    # The field, precision and count; its uncertainty is read back from NetCDF alone, where the field names it.
    assert len(a.data_vars) == {"nc": 4, "tif": 3}[suffix]
    for name in a.data_vars:
        np.testing.assert_allclose(a[name].values, b[name].values, rtol=1e-5, atol=1e-12, equal_nan=True)


def test_several_swaths_are_averaged_on_one_grid(run, swath, tmp_path):
    twin = tmp_path / swath.name.replace("_34535_", "_34536_")
    twin.write_bytes(swath.read_bytes())
    assert run("grid", swath, *BBOX, "-o", tmp_path / "one.tif").code == 0
    assert run("grid", swath, twin, *BBOX, "-o", tmp_path / "two.tif").code == 0
    one, two = bands(tmp_path / "one.tif")[0], bands(tmp_path / "two.tif")[0]
    name = "nitrogendioxide_tropospheric_column"
    np.testing.assert_allclose(two[name], one[name], rtol=1e-6, equal_nan=True)
    np.testing.assert_allclose(two[f"{name}_count"], 2 * one[f"{name}_count"], equal_nan=True)
    np.testing.assert_allclose(two[f"{name}_precision"], one[f"{name}_precision"] / 2**0.5, rtol=1e-5, equal_nan=True)


def test_grid_refuses_a_grid(run, tif, tmp_path):
    got = run("grid", tif, "-o", tmp_path / "x.tif")
    assert got.code == 3
    assert "not a swath" in got.errors[0]


def test_info_says_what_geosr_sees(run, swath, tif):
    got = run("info", swath)
    for word in ("S5P L2 NO2", "mol m-2", "qa_value", "0.05"):
        assert word in got.out
    facts = json.loads(run("info", tif, "--json").out)
    assert facts["variable"] == "field" or facts["variable"]
    assert "EPSG:4326" in json.dumps(facts)


def test_simulate_then_downscale(run, tmp_path):
    got = run("simulate", tmp_path / "s", "--kind", "l3", "--kind", "truth", "--bbox", "0", "0", "2", "2", "--json")
    assert got.code == 0
    l3, truth = json.loads(got.out)["outputs"]
    assert run("downscale", l3, "--json").code == 0
    with xr.open_dataset(truth) as ds:
        assert ds.sizes["latitude"] == 160


def test_evaluate_prints_every_method(run, sample_dir):
    (truth,) = sample_dir.glob("*_truth.nc")
    got = run("evaluate", truth, "--scale", "4")
    assert got.code == 0
    for word in ("bicubic", "back-projected", "srcnn", "PSNR"):
        assert word in got.out
    scores = json.loads(run("evaluate", truth, "--scale", "2", "--json").out)
    assert scores["scale"] == 2


def test_train_makes_a_model_that_downscale_takes(run, tif, tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        """
name = "mine"
version = "1"
description = "a test"
scale = 2
units = "1"
seed = 1
[[train]]
name = "one raster"
licence = "mine"
files = "*.tif"
[network]
architecture = "srcnn-9-1-5"
[patches]
size = 16
batch = 2
[schedule]
steps = 3
"""
    )
    got = run("train", recipe, "--data", tif.parent, "-o", tmp_path / "model", "--json")
    assert got.code == 0, got.err
    before = (tmp_path / "model" / "card.json").read_bytes()
    again = run("train", recipe, "--data", tif.parent, "-o", tmp_path / "model")
    assert again.code == 5
    assert "--overwrite" in again.errors[0]
    assert (tmp_path / "model" / "card.json").read_bytes() == before
    assert run("train", recipe, "--data", tif.parent, "-o", tmp_path / "model", "--overwrite").code == 0
    assert not list(tmp_path.glob(".*partial"))
    assert run("downscale", tif, "--scale", "2", "--model", tmp_path / "model", "-o", tmp_path / "o.tif").code == 0
    wrong = run("downscale", tif, "--scale", "4", "--model", tmp_path / "model", "-o", tmp_path / "p.tif")
    assert wrong.code == 6
    assert "scale 2" in wrong.errors[0]
