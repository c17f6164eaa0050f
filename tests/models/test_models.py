"""Shipped models: found, loaded, and equal to what their construction promises."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import geosr.models
from geosr import interpolate
from geosr.errors import ModelError, UsageError
from geosr.models import available, default_model, engines, load_model, resolve_model

CARDS = available()
NAMES = [card.name for card in CARDS]
SHIPPED = Path(geosr.models.__file__).parent / "shipped"


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    return load_model(request.param)


def plumes(seed: int, shape=(24, 21)):
    """A rough positive field with structure at every scale."""
    return np.random.default_rng(seed).gamma(0.5, 4, shape).astype(np.float32)


def test_scales_2_3_4_ship_under_5_mb():
    assert {card.scale for card in CARDS} == {2, 3, 4}
    assert sum(file.stat().st_size for file in SHIPPED.rglob("*") if file.is_file()) < 5e6


@pytest.mark.parametrize("card", CARDS, ids=NAMES)
def test_card_says_what_a_user_must_know(card):
    assert card.residual
    assert card.equivariant
    assert card.training["data"]
    assert all(d["licence"] for d in card.training["data"])
    assert card.training["recipe"]["name"] == card.name
    assert card.limits
    assert all(d["licence"] for d in card.training["recipe"]["heldout"])
    assert card.envelope["units"] == "1e15 molec cm-2"
    assert len(card.skill) >= 2
    for entry in card.skill:
        assert entry["psnr"][card.family] > entry["psnr"]["bicubic"]
        if not entry["name"].startswith("TROPOMI"):  # small and oversampled: docs/models.md says where they lose
            assert entry["psnr"][card.family] > entry["psnr"]["back-projected bicubic"]
            assert entry["worst_gain"] > 0
            assert entry["gain"]["best interpolation"]["low"] > 0
            # Errors have heavier tails than a normal distribution: no sigma brings both shares to 68 and 95 %.
            assert entry["sigma"]["one_sigma"] == pytest.approx(0.6827, abs=0.09)
            assert entry["sigma"]["two_sigma"] == pytest.approx(0.9545, abs=0.03)


def covers(ours, theirs):
    """Is everything that ``theirs`` says in ``ours``?"""
    if isinstance(theirs, dict):
        return all(key in ours and covers(ours[key], value) for key, value in theirs.items())
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(covers(a, b) for a, b in zip(ours, theirs, strict=True))
    return ours == theirs


@pytest.mark.parametrize("card", CARDS, ids=NAMES)
def test_shipped_model_is_of_the_committed_recipe(card):
    from geosr.training.recipe import read_recipe

    recipe = read_recipe(card.name)
    # A card may be older than an option that the recipe leaves at its default.
    assert covers(recipe.to_dict(), card.training["recipe"])
    # Another year of OMI, and the days after: what the card calls held out was not there.
    names = set(card.training["files"])
    assert names
    assert not names & {"WorldNO2_2020.tif", *(f"gems_no2_trop_202310{d}_daymean.tif" for d in range(21, 32))}


@settings(max_examples=25, deadline=None)
@given(factor=st.floats(1e-3, 1e3), offset=st.floats(-50, 50), seed=st.integers(0, 99))
def test_affine_equivariance(model, factor, offset, seed):
    """predict(a x + c) = a predict(x) + c for a > 0: no unit, level or spread of the scene matters."""
    x = plumes(seed, (2 * model.halo + 3, 2 * model.halo + 2))
    expected = factor * model.predict(x).astype(np.float64) + offset * factor
    found = model.predict((factor * (x + np.float32(offset))).astype(np.float32))
    np.testing.assert_allclose(found, expected, atol=2e-5 * factor * (np.ptp(x) + abs(offset)))


def test_flat_field_has_no_residual(model):
    flat = np.full((2 * model.halo + 4, 2 * model.halo + 4), 7.5, np.float32)
    np.testing.assert_allclose(model.predict(flat), 7.5, atol=1e-4)


def test_network_does_something(model):
    x = plumes(0, (2 * model.halo + 9, 2 * model.halo + 9))
    inner = slice(model.halo - interpolate.RADIUS, -(model.halo - interpolate.RADIUS))
    change = model.predict(x) - interpolate.bicubic(x[inner, inner], model.scale)
    assert change.std() > 0.02 * x.std()


def test_halo_is_all_that_a_prediction_sees(model):
    """A change ``halo + 1`` cells away changes nothing, one ``halo`` cells away may."""
    m, n = model.halo, 2 * model.halo + 3
    x = plumes(1, (n, n))
    far = x.copy()
    far[0], far[-1], far[:, 0], far[:, -1] = 99, 99, 99, 99
    inner = slice(model.scale, 2 * model.scale)  # the middle coarse cell of three
    assert np.array_equal(model.predict(x)[inner, inner], model.predict(far)[inner, inner])
    if model.has_sigma:
        assert np.array_equal(model.sigma(x)[inner, inner], model.sigma(far)[inner, inner])
    assert x.shape[0] - 2 * m == 3


@pytest.mark.parametrize("block", [16, 50, 1000])
def test_block_size_does_not_matter(model, monkeypatch, block):
    x = plumes(2, (2 * model.halo + 33, 2 * model.halo + 29))
    whole = model.predict(x, "onnx")
    for name in ("FINE_BLOCK", "COARSE_BLOCK"):
        monkeypatch.setattr(engines, name, block)
    np.testing.assert_allclose(model.predict(x, "onnx"), whole, atol=1e-6 * np.ptp(whole))


def test_geometry_of_the_prediction(model):
    x = plumes(3, (2 * model.halo + 1, 2 * model.halo + 4))
    fine = model.predict(x)
    assert fine.shape == (model.scale, 4 * model.scale)
    assert fine.dtype == np.float32


def test_pickles_as_its_place(model):
    copy = pickle.loads(pickle.dumps(model))
    assert copy.sha256 == model.sha256
    assert len(pickle.dumps(model)) < 2000


def test_changed_on_disk_between_processes(random_bundle, tmp_path):
    folder = shutil.copytree(random_bundle[0], tmp_path / "m")
    text = pickle.dumps(load_model(folder))
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "version": "2"}))
    with pytest.raises(ModelError, match="changed since"):
        pickle.loads(text)


def test_lookup():
    assert load_model(default_model(4)) is load_model(default_model(4), 4)
    assert default_model(4) in NAMES
    assert resolve_model(None, 2).scale == 2
    model = load_model(default_model(2))
    assert resolve_model(model, 2) is model
    assert load_model(default_model(2)).family == "edsr"
    assert load_model(default_model(2, "srcnn")).family == "srcnn"
    with pytest.raises(ModelError, match=r"no2-srcnn.*--method bicubic"):
        default_model(7)
    with pytest.raises(ModelError, match="no sigma model for scale 2"):
        default_model(2, "sigma")
    with pytest.raises(ModelError, match=f"for scale 2, not 4; use --model {default_model(4)}"):
        resolve_model(model, 4)
    with pytest.raises(ModelError, match="no model 'nothing'.*no2-srcnn"):
        load_model("nothing")
    with pytest.raises(ModelError, match="no such model"):
        load_model("./nothing/here.zip")


def test_models_of_several_channels_are_not_fed_one(make_bundle):
    folder, _, _ = make_bundle(channels=2)
    with pytest.raises(UsageError, match="2 channels"):
        load_model(folder).predict(np.zeros((12, 12), np.float32))


def test_plain_network_predicts_the_field_itself(make_bundle):
    """A model without residual learning: predict gives the network's output."""
    plain = load_model(make_bundle(residual=False)[0])
    residual = load_model(make_bundle(residual=True)[0])
    x = plumes(4)
    bicubic = interpolate.bicubic(x[2:-2, 2:-2], 4)
    np.testing.assert_allclose(plain.predict(x), residual.predict(x) - bicubic, atol=1e-4)
