"""``geosr train`` as a user sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from geosr.models import load_model
from rasters import RECIPE, plumes, write_days, write_map

pytest.importorskip("tensorflow")

#: A network and squares that need milliseconds a step.
QUICK = ("--scale", "2", "--architecture", "edsr-16x4", "--steps", "20", "--batch", "2", "--patch", "16")


@pytest.fixture(scope="module")
def maps(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("maps")
    for name in "abc":
        write_map(folder / f"{name}.tif", plumes((100, 90), ord(name)))
    return folder


def test_from_a_folder_to_a_downscaled_map(run, maps, tmp_path):
    """The one line, then the model on a map; the recipe in the bundle gives the same model again."""
    got = run("train", maps, *QUICK, "-o", tmp_path / "mine")
    assert got.code == 0, got.err
    assert "3 rasters" in got.err
    assert "split by region" in got.err
    assert "model: step 10 of 20" in got.err
    assert "dB over bicubic" in got.out
    names = {p.name for p in (tmp_path / "mine").iterdir()}
    assert {"card.json", "model.onnx", "sigma.onnx", "recipe.toml", "training.csv", "training.png"} <= names
    done = run("downscale", maps / "a.tif", "--scale", "2", "--model", tmp_path / "mine", "-o", tmp_path / "o.tif")
    assert done.code == 0, done.err
    recipe = tmp_path / "mine" / "recipe.toml"
    again = run("train", recipe, "--data", maps, "-o", tmp_path / "again", "--json", "-q")
    assert again.code == 0, again.err
    assert json.loads(again.out)["name"] == "mine"
    pairs = [load_model(tmp_path / name).arrays() for name in ("mine", "again")]
    for (a, _), (b, _) in zip(*pairs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_options_go_over_a_recipe(run, tmp_path):
    folder = write_days(tmp_path / "data", shape=(64, 64))
    (tmp_path / "r.toml").write_text(RECIPE)
    options = ("--steps", "6", "--seed", "7", "--loss", "mse", "--learning-rate", "1e-4", "--batch", "2", "--patch")
    more = ("16", "--validate", "3", "--architecture", "edsr-16x4", "--no-residual", "--json", "-q")
    got = run("train", tmp_path / "r.toml", "--data", folder, "-o", tmp_path / "m", *options, *more)
    assert got.code == 0, got.err
    recipe = json.loads(got.out)["training"]["recipe"]
    assert (recipe["seed"], recipe["loss"]["kind"], recipe["patches"]["size"]) == (7, "mse", 16)
    schedule = {"steps": 6, "learning_rate": 1e-4, "validate_every": 3, "patience": 0, "decay": "cosine"}
    schedule |= {"precision": "float32"}
    assert recipe["schedule"] == schedule
    assert recipe["network"]["architecture"] == "edsr-16x4"
    assert not recipe["network"]["residual"]
    assert recipe["patches"]["batch"] == 2


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("{none}", "--scale", "4"), 3, ("holds no raster", "GeoTIFF or NetCDF")),
        (("{broken}",), 3, ("none of 1 raster", "bad.tif")),
        (("{maps}",), 3, ("too little", "--architecture srcnn-9-1-5")),
        (("{maps}/nowhere",), 3, ("no such file or folder", "no recipe of that name", "folder of rasters")),
        (("{maps}", "--data", "{maps}"), 2, ("so is --data",)),
        (("no2-edsr-32x6-x4",), 2, ("--data FOLDER",)),
        (("{maps}", *QUICK, "--patch", "15"), 6, ("multiple of the scale",)),
        (("{maps}", "--scale", "2", "--architecture", "vdsr"), 6, ("edsr-32x6",)),
        (("{maps}", "--scale", "2", "--architecture", "sigma-24x4"), 6, ("edsr or srcnn",)),
        (("{maps}", *QUICK, "--init", "none"), 6, ("no model 'none'",)),
        (("{maps}", *QUICK, "--resume"), 6, ("no checkpoint", "without --resume")),
        (("{maps}", *QUICK, "--learning-rate", "1e30"), 6, ("loss is", "lower the learning rate")),
    ],
)
def test_what_cannot_work_says_why(run, maps, tmp_path, options, code, words):
    (tmp_path / "none").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "bad.tif").write_bytes(b"II*\0")
    places = {"maps": maps, "none": tmp_path / "none", "broken": tmp_path / "broken"}
    got = run("train", *[o.format(**places) for o in options], "-o", tmp_path / "model")
    assert got.code == code, got.err
    (error,) = got.errors
    for word in words:
        assert word in error
    assert not (tmp_path / "model").exists()


def test_a_file_size_limit_is_an_output_error(maps, tmp_path):
    """As ``ulimit -f`` sets it, in a process of its own; nothing is left behind."""
    resource = pytest.importorskip("resource")
    limit = (40 * 1024, resource.RLIM_INFINITY)
    process = start(maps, tmp_path / "m", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    code, err = stop_at(process, "never", 0)
    assert code == 5, err
    assert "larger than the file size limit" in err
    assert "bug" not in err
    assert not list(tmp_path.iterdir())


def test_early_stopping_is_said(run, maps, tmp_path):
    ruin = ("--learning-rate", "1", "--validate", "2", "--patience", "1", "--no-sigma")
    got = run("train", maps, *QUICK, *ruin, "-o", tmp_path / "m")
    assert got.code == 0, got.err
    assert "1 look without a better validation loss" in got.err
    stopped = int(got.err.split("stopped at step ")[1].split(":")[0])
    assert (tmp_path / "m" / "training.csv").read_text().splitlines()[-1].startswith(f"model,{stopped},")


def start(maps, out, *more, **options):
    """``geosr train`` as a process of its own."""
    code = "from geosr_cli.main import main; main()"
    arguments = ["train", maps, *QUICK, "--steps", "60", "-o", out, *more]
    env = os.environ | {"TF_NUM_INTRAOP_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, **options)


def stop_at(process, words, number):
    """Send the signal when a line with ``words`` comes; (exit code, stderr)."""
    lines = []
    for line in process.stderr:
        lines.append(line)
        if words in line:
            process.send_signal(number)
    process.stdout.close()
    return process.wait(), "".join(lines)


@pytest.mark.slow
def test_ctrl_c_and_resume_give_the_same_model(maps, tmp_path):
    """Killed by SIGINT in the first phase and SIGTERM in the second; to the bit as in one go."""
    whole, out = tmp_path / "whole", tmp_path / "parts"
    assert stop_at(start(maps, whole), "never", 0)[0] == 0
    code, err = stop_at(start(maps, out), "model: step 30 of 60", signal.SIGINT)
    assert code == 130
    assert "--resume goes on" in err
    assert "Traceback" not in err
    assert not out.exists()
    code, err = stop_at(start(maps, out), "never", 0)
    assert code == 5
    assert "--resume, or start anew with --overwrite" in err
    code, err = stop_at(start(maps, out, "--resume"), "sigma: step 10 of 20", signal.SIGTERM)
    assert code == 143
    assert "model: step 30" not in err
    assert "--resume goes on" in err
    assert stop_at(start(maps, out, "--resume"), "never", 0)[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["parts", "whole"]
    for part in ("model", "sigma"):
        pairs = [load_model(place).arrays(part) for place in (whole, out)]
        for (a, _), (b, _) in zip(*pairs, strict=True):
            np.testing.assert_array_equal(a, b)
    assert (whole / "training.csv").read_text() == (out / "training.csv").read_text()
