"""``geosr downscale`` as a user meets it: files, lines, exit codes."""

import json

import numpy as np
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from rio_cogeo.cogeo import cog_validate

from bundles import NO2_ENVELOPE, bundle_with, random_bundle
from geosr.conserve import conservation_error, spread
from geosr.grid import cell_areas
from strategies import smooth_field, write_tif

METHODS = ["bicubic", "srcnn", "auto"]


def read(path):
    with rasterio.open(path) as src:
        return src.read(1), src.transform, src.crs, src.bounds


@pytest.mark.parametrize("method", METHODS)
def test_default_output_and_contracts(run, tif, method):
    got = run("downscale", tif, "--scale", 4, "--method", method, "--json")
    assert got.code == 0
    out = tif.with_name("no2_x4.tif")
    report = json.loads(got.out)
    assert report["output"] == str(out)
    assert report["conservation_error"] <= 1e-6
    coarse, transform, crs, bounds = read(tif)
    fine, fine_transform, fine_crs, fine_bounds = read(out)
    assert fine_bounds == bounds
    assert fine_crs == crs
    assert fine_transform.a == transform.a / 4
    assert np.array_equal(np.isnan(fine), spread(np.isnan(coarse), 4))
    box = GeoBox(fine.shape, fine_transform, "EPSG:4326")
    assert conservation_error(fine, coarse, cell_areas(box), 4) <= 1e-6 * np.nanmax(np.abs(coarse))
    valid, problems, _ = cog_validate(out, strict=True)
    assert valid, problems
    assert out.with_suffix(".qml").is_file()
    assert "conservation error" in got.err.splitlines()[-1]


@pytest.mark.parametrize("method", METHODS)
def test_same_numbers_from_python_and_any_tile(run, tif, tmp_path, method):
    import geosr

    want = geosr.downscale(geosr.open_no2(tif), 4, method=method)
    for tile in (64, 512):
        out = tmp_path / f"t{tile}.tif"
        assert run("downscale", tif, "--tile", tile, "--method", method, "-o", out).code == 0
        got = read(out)[0]
        limit = 1e-6 * float(np.nanmax(got) - np.nanmin(got))
        np.testing.assert_allclose(got, want.geosr.no2.values, atol=limit, rtol=0, equal_nan=True)


@pytest.mark.parametrize(("suffix", "engine"), [(".nc", None), (".zarr", "zarr")])
def test_other_formats_hold_the_same_numbers(run, tif, tmp_path, suffix, engine):
    import xarray as xr

    out = tmp_path / f"fine{suffix}"
    assert run("downscale", tif, "-o", out, "--method", "bicubic").code == 0
    assert run("downscale", tif, "-o", tmp_path / "fine.tif", "--method", "bicubic").code == 0
    with xr.open_dataset(out, engine=engine) as ds:
        main = ds.geosr.no2
        assert np.array_equal(main.values, read(tmp_path / "fine.tif")[0], equal_nan=True)
        assert ds.attrs["Conventions"].startswith("CF-")


def test_an_existing_output_is_kept(run, tif):
    assert run("downscale", tif, "--method", "bicubic").code == 0
    out = tif.with_name("no2_x4.tif")
    before = out.read_bytes()
    again = run("downscale", tif)
    assert again.code == 5
    assert len(again.errors) == 1
    assert "--overwrite" in again.errors[0]
    assert out.read_bytes() == before
    assert run("downscale", tif, "--overwrite").code == 0
    assert out.read_bytes() != before


def test_a_wrong_option_is_told_before_an_existing_output(run, tif):
    assert run("downscale", tif, "--method", "bicubic").code == 0
    for args, code in ((["--model", "nonesuch"], 6), (["--bbox", "100", "10", "110", "20"], 3)):
        assert run("downscale", tif, *args).code == code
    assert run("downscale", tif, "--dry-run").code == 0


def test_dry_run_writes_nothing(run, tif):
    before = sorted(tif.parent.iterdir())
    got = run("downscale", tif, "--dry-run", "--json")
    assert got.code == 0
    assert json.loads(got.out)["shape"] == [164, 212]
    assert "would write" in got.err
    assert sorted(tif.parent.iterdir()) == before


def test_several_grids_give_one_output_each(run, tmp_path):
    names = [write_tif(tmp_path / f"{n}.tif", smooth_field((20, 20), n)) for n in range(3)]
    folder = tmp_path / "fine"
    folder.mkdir()
    got = run("downscale", *names, "--method", "bicubic", "-o", folder, "--json")
    assert got.code == 0
    assert sorted(p.name for p in folder.glob("*.tif")) == ["0_x4.tif", "1_x4.tif", "2_x4.tif"]
    assert len(json.loads(got.out)["results"]) == 3
    assert run("downscale", *names, "-o", tmp_path / "one.tif").code == 2


def test_south_up_comes_out_north_up_on_the_same_ground(run, tmp_path):
    from affine import Affine

    data = smooth_field((20, 30), 4)
    up = write_tif(tmp_path / "up.tif", data)
    down = write_tif(tmp_path / "down.tif", data[::-1], transform=Affine(0.05, 0, 8, 0, 0.05, 45))
    for path in (up, down):
        assert run("downscale", path, "--method", "bicubic").code == 0
    a, b = read(tmp_path / "up_x4.tif"), read(tmp_path / "down_x4.tif")
    assert a[1].almost_equals(b[1])
    np.testing.assert_allclose(a[0], b[0], atol=1e-5)


def test_rotated_transform_is_kept(run, tmp_path):
    from affine import Affine

    affine = Affine.translation(4e5, 5e6) * Affine.rotation(30) * Affine.scale(5000, -7000)
    path = write_tif(tmp_path / "r.tif", smooth_field((12, 15)), crs="EPSG:32632", transform=affine)
    assert run("downscale", path, "--scale", 2).code == 0
    assert tuple(read(tmp_path / "r_x2.tif")[1]) == pytest.approx(tuple(affine * Affine.scale(0.5)), rel=1e-15)


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--scale", "0"], 2, "whole number"),
        (["--scale", "1.5"], 2, "--scale"),
        (["--scale", "7"], 6, "--method bicubic"),
        (["--tile", "4"], 2, "--tile"),
        (["-o", "x.jpg"], 2, "suffix"),
        (["-o", "/nowhere/x.tif"], 5, "does not exist"),
        (["--model", "nonesuch"], 6, "nonesuch"),
        (["--qa", "7"], 2, "qa"),
        (["--bbox", "100", "10", "110", "20"], 3, "outside"),
        (["--method", "magic"], 2, "magic"),
        (["--resolution", "0.1"], 2, "resolution"),
        (["--co", "NONSENSE"], 2, "KEY=VALUE"),
    ],
)
def test_wrong_options_give_one_line(run, tif, args, code, words):
    before = sorted(tif.parent.iterdir())
    got = run("downscale", tif, *args)
    assert got.code == code
    assert len(got.errors) == 1
    assert words in got.errors[0]
    assert got.out == ""
    assert sorted(tif.parent.iterdir()) == before


def test_output_equal_to_input_is_refused(run, tif):
    got = run("downscale", tif, "-o", tif, "--overwrite")
    assert got.code == 2
    assert "input" in got.errors[0]


def test_wrong_files_give_one_line(run, tmp_path):
    text = tmp_path / "text.tif"
    text.write_text("not a raster")
    (tmp_path / "empty.nc").write_bytes(b"")
    bare = write_tif(tmp_path / "bare.tif", smooth_field((9, 9)), crs=None)
    for path, words in [
        (tmp_path / "none.nc", "no such file"),
        (tmp_path, "folder|directory"),
        (text, "not GeoTIFF"),
        (tmp_path / "empty.nc", "empty"),
        (bare, "no CRS"),
        ("http://example.org/x.nc", "local file"),
    ]:
        got = run("downscale", path, "-o", tmp_path / "out.tif")
        assert got.code == 3
        assert len(got.errors) == 1
        assert str(path) in got.errors[0]
        assert any(word in got.errors[0] for word in words.split("|"))
        assert not (tmp_path / "out.tif").exists()


def test_units_are_converted_and_kept(run, tif, tmp_path):
    assert run("downscale", tif, "--input-units", "mol m-2", "--units", "umol m-2", "-o", tmp_path / "u.tif").code == 0
    assert run("downscale", tif, "-o", tmp_path / "m.tif").code == 0
    with rasterio.open(tmp_path / "u.tif") as u, rasterio.open(tmp_path / "m.tif") as m:
        assert set(u.units) == {"umol m-2"}
        np.testing.assert_allclose(u.read(1), m.read(1) * 1e6, rtol=1e-5, atol=1e-4)


def test_quiet_and_verbose(run, tif):
    got = run("downscale", tif, "-q", "--method", "bicubic")
    assert (got.code, got.out, got.err) == (0, "", "")


# --- what a network was trained on ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return bundle_with(tmp_path_factory.mktemp("model"), envelope=NO2_ENVELOPE)


@pytest.fixture
def noise(tmp_path):
    return write_tif(tmp_path / "noise.tif", np.random.default_rng(0).normal(size=(50, 50)).astype(np.float32))


def test_the_report_names_the_family_that_ran_and_the_envelope(run, tif, model):
    report = json.loads(run("downscale", tif, "--model", model, "--json").out)
    assert (report["method"], report["envelope"]) == ("srcnn", "inside")
    report = json.loads(run("downscale", tif, "--method", "bicubic", "--json", "--overwrite").out)
    assert (report["method"], report["envelope"], report["model"]) == ("bicubic", None, None)


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_far_outside_the_envelope_is_exit_4(run, noise, model, dry):
    before = sorted(noise.parent.iterdir())
    got = run("downscale", noise, "--model", model, *dry)
    assert got.code == 4
    (line,) = got.errors
    for words in (str(noise), "far outside", "noise level", "trained on", "--method bicubic", "--force-model"):
        assert words in line
    assert sorted(noise.parent.iterdir()) == before
    assert run("downscale", noise, "--method", "bicubic", *dry).code == 0


def test_the_override_is_recorded_everywhere(run, noise, model, tmp_path):
    import xarray as xr

    for name in ("o.tif", "o.nc"):
        got = run("downscale", noise, "--model", model, "--force-model", "--json", "-o", tmp_path / name)
        assert got.code == 0
        assert "warning: the field is far outside" in got.err
        report = json.loads(got.out)
        assert report["envelope"].startswith("overridden: noise level")
        assert any("far outside" in text for text in report["warnings"])
    with rasterio.open(tmp_path / "o.tif") as done, xr.open_dataset(tmp_path / "o.nc") as ds:
        tags = done.tags()
        assert tags["GEOSR_ENVELOPE"] == ds.attrs["geosr_envelope"] == report["envelope"]
        assert json.loads(tags["GEOSR_OPTIONS"])["force_model"] is True


def test_outside_the_envelope_is_a_warning(run, tmp_path, model):
    from affine import Affine

    wide = Affine(3e5, 0, 0, 0, -3e5, 6e6)
    path = write_tif(tmp_path / "wide.tif", smooth_field((41, 53), 2), crs="EPSG:6933", transform=wide)
    got = run("downscale", path, "--model", model, "--json")
    assert got.code == 0
    assert json.loads(got.out)["envelope"].startswith("outside: cells of 300 km")
    assert "geosr: warning: the field is outside" in got.err


def test_a_model_of_another_family_is_a_wrong_option(run, tif, model):
    got = run("downscale", tif, "--model", model, "--method", "edsr")
    assert got.code == 2
    assert "--method srcnn" in got.errors[0]


# --- uncertainty ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unsure(tmp_path_factory):
    return random_bundle(tmp_path_factory.mktemp("unsure") / "m", "edsr-16x4", sigma="sigma-24x4")


def test_a_network_that_predicts_its_error_adds_a_band(run, tif, unsure, tmp_path):
    got = run("downscale", tif, "--model", unsure, "--json", "-o", tmp_path / "with.tif")
    assert got.code == 0
    report = json.loads(got.out)
    assert (report["method"], report["uncertainty"]) == ("edsr", f"{report['variable']}_uncertainty")
    got = run("downscale", tif, "--model", unsure, "--json", "-o", tmp_path / "without.tif", "--no-uncertainty")
    assert json.loads(got.out)["uncertainty"] is None
    with rasterio.open(tmp_path / "with.tif") as both, rasterio.open(tmp_path / "without.tif") as one:
        assert both.descriptions == (report["variable"], report["uncertainty"])
        assert one.descriptions == both.descriptions[:1]
        assert np.array_equal(one.read(1), both.read(1), equal_nan=True)
        assert np.array_equal(np.isnan(both.read(2)), np.isnan(both.read(1)))
        assert json.loads(one.tags()["GEOSR_OPTIONS"])["uncertainty"] is False
        assert "uncertainty" not in json.loads(both.tags()["GEOSR_OPTIONS"])
    valid, problems, _ = cog_validate(tmp_path / "with.tif", strict=True)
    assert valid, problems
