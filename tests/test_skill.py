"""What a card says of a model's skill, and how sure that is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from bundles import random_bundle
from geosr.degrade import Degradation
from geosr.evaluation.evaluate import Settings, evaluate_array
from geosr.models import load_model
from geosr.training.recipe import Data, Response, parse_recipe
from geosr.training.scenes import load_scenes
from geosr.training.skill import _within_scenes, degradation_of, skill_on
from rasters import RECIPE, plumes, write_map

DAYS = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Days of 192 x 160 cells (48 x 40 coarse ones: 9 blocks); and one that cannot be scored."""
    place = tmp_path_factory.mktemp("skill")
    for day in range(1, DAYS + 1):
        write_map(place / f"day_202310{day:02d}.tif", plumes((192, 160), day))
    write_map(place / "flat.tif", np.full((64, 64), 3, np.float32))
    write_map(place / "small.tif", plumes((64, 64), 1))
    return place


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(random_bundle(tmp_path_factory.mktemp("m") / "m", "edsr-16x4", 4, sigma="sigma-24x4"))


def data(files, **options):
    return Data(files, units="1e15 molec cm-2", **options)


def evaluations(folder, model, files):
    recipe = parse_recipe(RECIPE)
    return [
        evaluate_array(s.values, s.areas, 4, model, units=recipe.units, settings=Settings(), index=i)
        for i, s in enumerate(load_scenes(recipe, folder, (data(files),)))
    ]


def test_of_many_scenes_the_interval_is_over_scenes(folder, model):
    """Referee: scipy's percentile bootstrap of the scenes' gains."""
    entry = skill_on(data("day_*.tif", name="days"), parse_recipe(RECIPE), folder, model)
    assert (entry["name"], entry["scenes"], entry["interval"]) == ("days", 7, "95 %, bootstrap over 7 scenes")
    tables = [e.judged for e in evaluations(folder, model, "day_*.tif")]
    for over, gains in (
        ("bicubic", [t.scores["edsr"].psnr - t.scores["bicubic"].psnr for t in tables]),
        ("best interpolation", [t.gain(t.best_interpolation) for t in tables]),
    ):
        got = entry["gain"][over]
        assert got["db"] == pytest.approx(np.mean(gains), abs=1e-3)
        wanted = stats.bootstrap((gains,), np.mean, method="percentile", n_resamples=9999, rng=np.random.default_rng(0))
        assert got["low"] == pytest.approx(wanted.confidence_interval.low, abs=0.1 * np.std(gains) + 1e-3)
        assert got["high"] == pytest.approx(wanted.confidence_interval.high, abs=0.1 * np.std(gains) + 1e-3)
        assert got["low"] < got["db"] < got["high"]
    assert entry["worst_gain"] == pytest.approx(min(t.gain(t.best_interpolation) for t in tables), abs=1e-3)
    for key, digits in (("psnr", 1e-3), ("rmse", 1e-5), ("ssim", 1e-5)):
        means = {m: np.mean([getattr(t.scores[m], key) for t in tables]) for m in tables[0].scores}
        assert entry[key] == pytest.approx(means, abs=digits)


def test_of_one_scene_the_interval_is_over_its_blocks(folder, model):
    entry = skill_on(data("day_20231001.tif"), parse_recipe(RECIPE), folder, model)
    assert entry["interval"] == "95 %, bootstrap over blocks of 16 x 16 coarse cells in 1 scene"
    (one,) = evaluations(folder, model, "day_20231001.tif")
    gain = next(g for g in one.gains if g.over == "bicubic")
    assert entry["gain"]["bicubic"] == pytest.approx({"db": gain.db, "low": gain.low, "high": gain.high}, abs=1e-3)


def test_scenes_are_independent_of_each_other(folder, model):
    """The mean of n scenes that are alike has an interval narrower by the root of n."""
    (one,) = evaluations(folder, model, "day_20231001.tif")
    low, high = _within_scenes([one], "bicubic")
    db = next(g.db for g in one.gains if g.over == "bicubic")
    for n in (2, 4):
        ends = _within_scenes([one] * n, "bicubic")
        assert db - ends[0] == pytest.approx((db - low) / np.sqrt(n))
        assert ends[1] - db == pytest.approx((high - db) / np.sqrt(n))
    entry = skill_on(data(("day_20231001.tif", "day_20231002.tif")), parse_recipe(RECIPE), folder, model)
    assert "blocks of 16 x 16 coarse cells in 2 scenes" in entry["interval"]
    gain = entry["gain"]["best interpolation"]
    assert gain["low"] < gain["db"] < gain["high"]


def test_too_little_has_no_interval(folder, model):
    entry = skill_on(data("small.tif"), parse_recipe(RECIPE), folder, model)
    assert entry["interval"] == "none: too little data"
    assert entry["gain"]["bicubic"]["low"] is None
    assert isinstance(entry["gain"]["bicubic"]["db"], float)


def test_what_cannot_be_scored_is_left_out(folder, model):
    recipe = parse_recipe(RECIPE)
    assert skill_on(data("flat.tif"), recipe, folder, model) == {}
    assert skill_on(data(("flat.tif", "small.tif")), recipe, folder, model)["scenes"] == 1


def test_sigma_is_covered(folder, model):
    entry = skill_on(data("day_*.tif"), parse_recipe(RECIPE), folder, model)
    bands = [e.judged.sigma["edsr"] for e in evaluations(folder, model, "day_*.tif")]
    assert entry["sigma"]["one_sigma"] == pytest.approx(np.mean([b.one_sigma for b in bands]), abs=1e-4)
    assert entry["sigma"]["two_sigma"] == pytest.approx(np.mean([b.two_sigma for b in bands]), abs=1e-4)


def test_the_degradation_is_the_recipe_s(folder, model):
    assert degradation_of(Response()) == Degradation()
    middle = degradation_of(Response(((0.4, 0.9), 0.5), (1.0, 3.0)))
    assert (middle.kind, middle.noise) == ("psf", 2.0)
    assert middle.mtf == pytest.approx((0.6, 0.5))
    recipe = parse_recipe(RECIPE)
    blurred = replace(recipe, degradation=Response((0.3, 0.3)))
    plain, soft = (skill_on(data("day_20231001.tif"), r, folder, model) for r in (recipe, blurred))
    assert soft["psnr"]["bicubic"] < plain["psnr"]["bicubic"] - 0.5
    assert soft["degradation"] != plain["degradation"]
