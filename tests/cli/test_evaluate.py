"""``geosr evaluate`` and ``geosr degrade``: options, tables, JSON, figures, and what goes wrong."""

from __future__ import annotations

import json

import click
import numpy as np
import pytest
import rasterio

from geosr.errors import InputError, OutputError, UsageError
from geosr_cli.degrade import command as degrade_command
from strategies import smooth_field, write_tif


@pytest.fixture
def truth(tmp_path):
    return write_tif(tmp_path / "truth.tif", smooth_field((64, 72), seed=3))


def test_a_table_for_people_and_a_verdict(run, truth):
    got = run("evaluate", truth, "--scale", "4")
    assert got.code == 0, got.err
    for word in ("PSNR", "MSE", "RMSE", "SSIM", "MAE", "bias", "R2", "corr", "resolution km", "conservation"):
        assert word in got.out
    for method in ("nearest", "bilinear", "bicubic", "conserved bicubic", "back-projected bicubic"):
        assert f"\n{method} " in got.out
    assert "best interpolation" in got.out.splitlines()[-1]


def test_json_has_everything(run, truth):
    got = run("evaluate", truth, "--scale", "4", "--json", "--shave", "4", "--data-range", "20")
    found = json.loads(got.out)
    assert found["shave"] == 4
    assert found["valid"]["data_range"] == 20
    assert set(found["valid"]["scores"]["bicubic"]) == {
        *("cells", "psnr", "mse", "rmse", "mae", "bias", "ssim", "r2", "correlation")
    }
    assert found["spectrum"]["methods"]["bicubic"]["effective_resolution_km"] > 0
    assert found["gains"]
    assert found["verdict"]
    assert found["figures"] == []


def test_models_are_repeated_and_degradation_is_passed_on(run, truth):
    from geosr.models import default_model

    name = default_model(4)
    options = ("--degrade", "psf", "--mtf", "0.5", "0.6", "--noise", "0.1", "--seed", "7")
    got = run("evaluate", truth, "--model", name, "--model", name, "--json", *options)
    found = json.loads(got.out)
    assert list(found["networks"]) == [name, f"{name} (2)"]
    assert found["degradation"] == {"kind": "psf", "mtf": [0.5, 0.6], "noise": 0.1, "seed": 7}
    plain = json.loads(run("evaluate", truth, "--no-network", "--json").out)
    assert plain["networks"] == {}
    assert plain["valid"]["scores"]["bicubic"] != found["valid"]["scores"]["bicubic"]


def test_figures_of_one_and_of_several(run, truth, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    monkeypatch.setattr("geosr.evaluation.figures.paint", lambda *_: Figure())  # test_figures.py looks at the real one
    got = run("evaluate", truth, "--no-network", "--figure", tmp_path / "f.png")
    assert got.code == 0
    assert f"figure: {tmp_path / 'f.png'}" in got.err
    assert run("evaluate", truth, "--no-network", "--figure", tmp_path / "f.png").code == 5
    assert run("evaluate", truth, "--no-network", "--figure", tmp_path / "f.png", "--overwrite").code == 0
    other = write_tif(tmp_path / "other.tif", smooth_field((64, 72), seed=4))
    found = json.loads(run("evaluate", truth, other, "--no-network", "--json", "--figure", tmp_path / "g.svg").out)
    assert found["figures"] == [str(tmp_path / "g_1.svg"), str(tmp_path / "g_2.svg")]
    (tmp_path / "g_1.svg").unlink()
    assert run("evaluate", truth, other, "--no-network", "--figure", tmp_path / "g.svg").code == 5
    assert not (tmp_path / "g_1.svg").exists()  # told before anything was drawn


def test_several_files(run, truth, tmp_path):
    paths = [write_tif(tmp_path / f"day{i}.tif", smooth_field((64, 72), seed=i)) for i in range(4)]
    got = run("evaluate", *paths)
    assert got.code == 0
    for path in paths:
        assert path.name in got.out
    assert "4 cases" in got.out
    assert "interval" in got.out
    found = json.loads(run("evaluate", *paths, "--json").out)
    assert [case["label"] for case in found["cases"]] == [p.name for p in paths]
    assert all(g["low"] <= g["db"] <= g["high"] for g in found["gains"])


def test_bands_are_cases_and_time_picks_one(run, tmp_path):
    stack = write_tif(tmp_path / "series.tif", np.stack([smooth_field((64, 72), seed=i) for i in range(3)]))
    assert len(json.loads(run("evaluate", stack, "--no-network", "--json").out)["cases"]) == 3
    one = json.loads(run("evaluate", stack, "--no-network", "--json", "--time", "1").out)
    assert "cases" not in one


@pytest.mark.parametrize(
    ("options", "code", "word"),
    [
        (("--mtf", "0.5", "0.5"), 2, "psf"),
        (("--degrade", "psf", "--mtf", "0", "0.5"), 2, "above 0"),
        (("--noise", "some"), 2, "precision"),
        (("--noise", "precision"), 2, "brings none"),
        (("--noise", "-1"), 2, "0 or larger"),
        (("--degrade", "median"), 2, "median"),
        (("--scale", "8"), 6, "--no-network"),
        (("--scale", "65"), 2, "2 to 16"),
        (("--figure", "f.txt"), 2, ".png"),
        (("--data-range", "-3"), 2, "above 0"),
        (("--shave", "32"), 2, "leaves nothing of 64 x 72"),
    ],
)
def test_wrong_questions(run, truth, options, code, word):
    got = run("evaluate", truth, *options)
    assert got.code == code, got.err
    assert len(got.errors) == 1
    assert word in got.errors[0]


def test_truths_that_are_none(run, truth, tmp_path):
    text = tmp_path / "text.tif"
    text.write_text("not a raster")
    empty = write_tif(tmp_path / "empty.tif", np.full((64, 72), np.nan, np.float32))
    flat = write_tif(tmp_path / "flat.tif", np.zeros((64, 72), np.float32))
    tiny = write_tif(tmp_path / "tiny.tif", np.ones((3, 3), np.float32))
    for path, code in ((text, 3), (empty, 3), (flat, 3), (tiny, 2), (tmp_path / "none.tif", 3)):
        got = run("evaluate", path)
        assert got.code == code, got.err
        assert path.name in got.errors[0]
    got = run("evaluate", truth, empty, "--no-network")
    assert got.code == 0
    assert "empty.tif: the truth has no valid coarse cell: left out" in got.err
    got = run("evaluate", truth, flat)
    assert got.code == 0
    assert "flat.tif: the truth is 0 everywhere: a constant field has nothing to score: left out" in got.err
    assert "inf" not in got.out.splitlines()[-1]
    assert run("evaluate", flat, flat, "--no-network").code == 3
    assert run("evaluate", truth, text).code == 3


def test_what_downscale_refuses_is_scored_with_a_warning(run, tmp_path):
    noise = write_tif(tmp_path / "noise.tif", np.random.default_rng(0).normal(size=(160, 160)).astype(np.float32))
    assert run("downscale", noise).code == 4
    got = run("evaluate", noise, "--json")
    assert got.code == 0
    found = json.loads(got.out)
    assert all(network["envelope"].startswith("overridden") for network in found["networks"].values())
    assert len(found["warnings"]) == len(found["networks"])
    assert "noise.tif: the coarse field is far outside" in got.err


# --- geosr degrade ---


def call(*args):
    """The command itself, whatever the list of commands says."""
    return degrade_command.main([str(a) for a in args], standalone_mode=False)


def test_degrade_writes_what_evaluate_starts_from(truth, tmp_path):
    import geosr
    from geosr.degrade import degrade

    call(truth, "--scale", "4", "--kind", "psf", "--noise", "0.2", "--seed", "5", "-q")
    field = geosr.open_no2(truth).geosr.no2
    expected = degrade(field, 4, 0.5, kind="psf", noise=0.2, seed=5)
    with rasterio.open(tmp_path / "truth_coarse4.tif") as found:
        np.testing.assert_array_equal(found.read(1), expected.values)
        assert found.res == pytest.approx((0.2, 0.2))
        tags = found.tags()
    assert "PSF" in tags["GEOSR_METHOD"]
    assert '"seed": 5' in tags["GEOSR_OPTIONS"]
    with pytest.raises(OutputError, match="--overwrite"):
        call(truth, "--scale", "4")


def test_degrade_reports_and_refuses(truth, tmp_path, capsys):
    call(truth, "--scale", "2", "-o", tmp_path / "c.nc", "--json")
    report = json.loads(capsys.readouterr().out)
    assert report["shape"] == [32, 36]
    assert report["output"].endswith("c.nc")
    with pytest.raises(click.UsageError, match="psf"):
        call(truth, "--mtf", "0.5", "0.5")
    with pytest.raises(InputError, match="none.tif"):
        call(tmp_path / "none.tif")
    with pytest.raises(UsageError, match="up to 1"):
        call(truth, "--scale", "4", "--min-valid", "nan", "-o", tmp_path / "d.tif")
    assert not (tmp_path / "d.tif").exists()
