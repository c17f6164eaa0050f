"""The loops that turn examples into weights: what the loss sees, checkpoints, early stopping."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles import random_bundle
from geosr import interpolate
from geosr.conserve import conserve
from geosr.errors import ModelError, OutputError
from geosr.models import load_model
from geosr.models.architectures import architecture
from geosr.training.examples import Sampler
from geosr.training.fitting import Checkpoint, Row, State, fit, fit_sigma
from geosr.training.recipe import Data, Network, Patches, Recipe, Schedule, Sigma
from geosr.training.scenes import Scene
from rasters import blocks_to_field, plumes


def scenes(count=2, first=0):
    return [Scene(plumes((60, 60), first + i), np.ones((60, 1)), 1.0, ()) for i in range(count)]


#: The smallest network on the coarse grid, on few small squares: a step takes milliseconds.
QUICK = Recipe(
    "quick",
    2,
    (Data("*"),),
    validate=(Data("*"),),
    network=Network("edsr-16x4"),
    patches=Patches(16, 2),
    schedule=Schedule(12, 2e-3, validate_every=4),
    sigma=Sigma("sigma-24x4", 8),
)


def fitted(recipe=QUICK, **options):
    """(weights, curve) of a run with a fresh sampler."""
    refiner, curve = fit(recipe, Sampler(scenes(), recipe), Sampler(scenes(1, 9), recipe, seed=5), **options)
    return refiner.model.get_weights(), curve


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def whole():
    pytest.importorskip("tensorflow")
    return fitted()


# --- what the loss sees ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("network", "scale"), [("srcnn-9-1-5", 4), ("srcnn-9-3-5-n64", 3), ("edsr-16x4", 2)])
def test_the_loss_sees_what_inference_makes(tmp_path, network, scale):
    """Referee: the prediction of the same weights by ONNX Runtime, conserved by geosr.conserve."""
    pytest.importorskip("tensorflow")
    from geosr.models import keras_network
    from geosr.training.fitting import Refiner

    model = load_model(random_bundle(tmp_path / "model", network, scale))
    arch = model.card.network
    keras_model = keras_network.build(arch, scale=scale, training=False)
    keras_network.with_arrays(keras_model, model.arrays())
    rng, k = np.random.default_rng(0), 5
    coarse = rng.normal(size=(k + 2 * model.halo,) * 2).astype(np.float32)
    truth = rng.normal(size=(1, k, k, scale**2)).astype(np.float32)
    inner = coarse[model.halo : -model.halo, model.halo : -model.halo]
    fine = model.predict(coarse)
    for conserving in (True, False):
        refiner = Refiner(keras_model, arch, scale, conserve=conserving)
        error = refiner.error(coarse[None, ..., None], truth, model.halo).numpy()
        expected = fine - blocks_to_field(truth, scale)[0]
        if conserving:  # block means of the error are taken away: as if the truth's were the coarse field's
            expected = conserve(expected, np.zeros_like(inner), np.ones((k * scale, 1)), scale)
        np.testing.assert_allclose(blocks_to_field(error, scale)[0], expected, atol=2e-5 * np.ptp(fine))


def test_a_relative_loss_is_relative_to_conserved_bicubic():
    """Referee: geosr.interpolate and geosr.conserve, square by square, over complete coarse cells."""
    pytest.importorskip("tensorflow")
    from geosr.training.fitting import Refiner

    batch, sampler = Sampler(scenes(), QUICK).batch(), Sampler(scenes(), QUICK)
    mask = batch.mask.copy()
    mask[0, :3] = 0
    refiner = Refiner(None, architecture(QUICK.network.architecture), 2)
    got = refiner.bicubic_error(batch.coarse, batch.truth, mask, sampler.halo).numpy().ravel()
    rim, k = sampler.halo - interpolate.RADIUS, batch.truth.shape[1]
    for n, truth in enumerate(blocks_to_field(batch.truth, 2)):
        fine = interpolate.bicubic(batch.coarse[n, rim:-rim, rim:-rim, 0], 2)
        error = conserve(fine - truth, np.zeros((k, k)), np.ones((2 * k, 1)), 2)
        counted = np.kron(mask[n, :, :, 0], np.ones((2, 2))) > 0
        assert got[n] == pytest.approx(np.sqrt(np.mean(error[counted] ** 2)), rel=1e-4)


def test_training_lowers_the_loss():
    pytest.importorskip("tensorflow")
    _, curve = fitted(replace(QUICK, patches=Patches(16, 4), schedule=Schedule(150, 1e-2, validate_every=50)))
    assert [(row.phase, row.step) for row in curve] == [("model", 50), ("model", 100), ("model", 150)]
    assert curve[-1].loss < 0.7 * curve[0].loss
    assert curve[-1].validation < 0.7 * curve[0].validation


def test_a_loss_that_is_not_finite_stops_the_run():
    pytest.importorskip("tensorflow")
    with pytest.raises(ModelError, match="lower the learning rate"):
        fitted(replace(QUICK, schedule=Schedule(60, 1e18)))


def test_a_constant_rate_has_no_decay_and_clips_nothing():
    """Referee: Adam by hand (Kingma & Ba 2015, algorithm 1), with gradients larger than a clipped norm would let be."""
    pytest.importorskip("tensorflow")
    import tensorflow as tf

    from geosr.training.fitting import _optimizer

    gradients, rate = [3.0, -40.0, 0.5, 7.0], 0.1
    optimizer = _optimizer(Schedule(4, rate, decay="constant"))
    weight = tf.Variable(1.0)
    expected, mean, square = 1.0, 0.0, 0.0
    for number, gradient in enumerate(gradients, start=1):
        optimizer.apply([tf.constant(gradient)], [weight])
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        expected -= rate * (mean / (1 - 0.9**number)) / (np.sqrt(square / (1 - 0.999**number)) + 1e-7)
        assert float(weight) == pytest.approx(expected, rel=1e-4)
    cosine = _optimizer(Schedule(100, rate))
    assert cosine.clipnorm == 1
    rates = [float(cosine._learning_rate(step)) for step in (0, 10, 50, 100)]
    assert rates[0] < rates[2] < rates[1] == pytest.approx(rate)
    assert rates[3] == pytest.approx(0, abs=1e-9)


def test_the_schedule_decides(whole):
    constant, _ = fitted(replace(QUICK, schedule=replace(QUICK.schedule, decay="constant")))
    assert not same(constant, whole[0])


def test_training_starts_from_a_model(tmp_path):
    """Every layer that has the same shape: between scales, all but the last."""
    pytest.importorskip("tensorflow")
    start = load_model(random_bundle(tmp_path / "m", "edsr-16x4", 3))
    still = replace(QUICK, network=Network("edsr-16x4", init=str(tmp_path / "m")), schedule=Schedule(1, 1e-12))
    weights, _ = fitted(still)
    theirs = [kernel for kernel, _ in start.arrays()]
    assert len(weights) == len(theirs)
    for ours, kernel in zip(weights[:-1], theirs[:-1], strict=True):
        np.testing.assert_allclose(ours, kernel, atol=1e-6)
    assert weights[-1].shape != theirs[-1].shape
    random_bundle(tmp_path / "other", "srcnn-9-1-5", 2)
    with pytest.raises(ModelError, match="other layers"):
        fitted(replace(QUICK, network=Network("edsr-16x4", init=str(tmp_path / "other"))))


def test_mixed_precision_learns_as_much():
    """From another place in the curve's noise: losses of the end within 3 %, and a network that computes in float32."""
    pytest.importorskip("tensorflow")
    import keras

    losses = {}
    for precision in ("float32", "mixed_bfloat16"):
        schedule = Schedule(150, 1e-2, validate_every=50, precision=precision)
        recipe = replace(QUICK, patches=Patches(16, 4), schedule=schedule)
        refiner, curve = fit(recipe, Sampler(scenes(), recipe), Sampler(scenes(1, 9), recipe, seed=5))
        losses[precision] = curve[-1].validation
        assert {w.dtype for w in refiner.model.get_weights()} == {np.dtype("float32")}
        assert {layer.compute_dtype for layer in refiner.model.layers} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"
    assert losses["mixed_bfloat16"] != losses["float32"]
    assert losses["mixed_bfloat16"] == pytest.approx(losses["float32"], rel=0.03)


def test_sigma_learns_the_size_of_errors():
    """On a network that adds nothing, the errors are the bicubic ones: about 68 % of new ones are within one sigma."""
    pytest.importorskip("tensorflow")
    from geosr.models import keras_network
    from geosr.training.fitting import Refiner

    recipe = replace(QUICK, patches=Patches(16, 8), sigma=Sigma("sigma-24x4", 300))
    arch = architecture(recipe.network.architecture)
    model = keras_network.build(arch, 1, scale=2, equivariant=True, seed=1)
    model.set_weights([np.zeros_like(w) for w in model.get_weights()])
    refiner = Refiner(model, arch, 2)
    sigma, curve = fit_sigma(recipe, Sampler(scenes(4), recipe), refiner)
    assert curve[-1].loss < curve[0].loss
    assert {row.phase for row in curve} == {"sigma"}
    batch = Sampler(scenes(2, 20), recipe).batch()
    halo = Sampler(scenes(1), recipe).halo
    error = np.abs(refiner.error(batch.coarse, batch.truth, halo).numpy())
    rim = halo - 4  # four 3 x 3 layers
    size = np.abs(sigma(batch.coarse[:, rim:-rim, rim:-rim]).numpy())
    mask = np.broadcast_to(batch.mask > 0, error.shape)
    assert 0.5 < (error <= size)[mask].mean() < 0.85
    assert 0.8 < (error <= 2 * size)[mask].mean() < 1


# --- the same again --------------------------------------------------------------------------------------------


def test_same_seed_same_weights(whole):
    weights, curve = fitted()
    assert same(weights, whole[0])
    assert curve == whole[1]
    assert not same(fitted(replace(QUICK, seed=2))[0], weights)


class Stop(Exception):
    """What interrupts a run."""


@pytest.mark.parametrize("step", [1, 8, 11])
def test_a_run_that_was_interrupted_ends_the_same(whole, tmp_path, step):
    """At any step, also between two looks, where some steps are done again."""

    def stop(phase, number, loss):
        if number == step:
            raise Stop

    checkpoint = Checkpoint(tmp_path / "c", "key")
    with pytest.raises(Stop):
        fitted(checkpoint=checkpoint, tick=stop)
    assert (tmp_path / "c").exists() == (step > 4)
    done = []
    weights, curve = fitted(checkpoint=checkpoint, tick=lambda phase, number, loss: done.append(number))
    assert done[0] == (step - 1) // 4 * 4 + 1
    assert same(weights, whole[0])
    assert curve == whole[1]


def test_early_stopping_keeps_the_best(tmp_path):
    """A rate that ruins the network: training ends ``patience`` looks after the best, with the best look's weights."""
    pytest.importorskip("tensorflow")
    schedule = Schedule(100, 1.0, validate_every=2, patience=3)
    ruined = replace(QUICK, schedule=schedule)
    kept = {}
    checkpoint = Checkpoint(tmp_path / "c", "key")
    original = checkpoint.save

    def save(phase, state, variables, sampler):
        kept[state.step] = [np.asarray(v) for v in variables]
        original(phase, state, variables, sampler)

    checkpoint.save = save
    weights, curve = fitted(ruined, checkpoint=checkpoint)
    looks = {row.step: row.validation for row in curve if row.validation is not None}
    best = min(looks, key=looks.get)
    assert max(looks) == best + 6 < 100
    assert same(weights, kept[best][: len(weights)])
    # Resumed where it had ended, it does no step more and gives the same.
    again, _ = fitted(ruined, checkpoint=Checkpoint(tmp_path / "c", "key"), tick=lambda *_: pytest.fail("a step"))
    assert same(again, weights)
    # Without patience it goes to the end, and keeps the last.
    to_the_end, curve = fitted(replace(QUICK, schedule=replace(schedule, steps=best + 8, patience=0)))
    assert curve[-1].step == best + 8
    assert not same(to_the_end, weights)


# --- checkpoints -----------------------------------------------------------------------------------------------


class Variable:
    """Something with a value, as TensorFlow's."""

    def __init__(self, value):
        self.value = np.asarray(value)

    def assign(self, value):
        if value.shape != self.value.shape:
            raise ValueError("shape")
        self.value = value

    def __array__(self, dtype=None, copy=None):
        return self.value


def sampler_of(seed):
    return SimpleNamespace(rng=np.random.default_rng(seed))


CURVE = [Row("model", 1, 0.1), Row("model", 2, 1 / 3, 0.7)]


def saved(folder, key="key"):
    checkpoint = Checkpoint(folder, key)
    state = State(2, CURVE, 0.7, 2, [np.arange(3.0)])
    sampler = sampler_of(1)
    sampler.rng.normal(size=5)
    checkpoint.save("model", state, [Variable(np.ones((2, 3))), Variable(np.int64(7))], sampler)
    return checkpoint, sampler


def test_a_checkpoint_brings_everything_back(tmp_path):
    checkpoint, before = saved(tmp_path / "c")
    variables, after = [Variable(np.zeros((2, 3))), Variable(np.int64(0))], sampler_of(99)
    state = checkpoint.load("model", variables, after)
    assert (state.step, state.curve, state.best, state.best_step) == (2, CURVE, 0.7, 2)
    np.testing.assert_array_equal(state.best_weights[0], np.arange(3.0))
    np.testing.assert_array_equal(variables[0].value, np.ones((2, 3)))
    assert variables[1].value == 7
    np.testing.assert_array_equal(before.rng.normal(size=9), after.rng.normal(size=9))
    assert checkpoint.load("sigma", variables, after).step == 0
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["model.npz"]


def test_a_checkpoint_that_cannot_be_saved_leaves_what_was_there(tmp_path, monkeypatch):
    """A disk that is full half-way: an error with its own words, the state of before, and nothing else."""
    saved(tmp_path / "c")
    before = (tmp_path / "c" / "model.npz").read_bytes()

    def full(path, data):
        with path.open("wb") as stream:
            stream.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="disk full"):
        saved(tmp_path / "c")
    with pytest.raises(OutputError, match="disk full"):
        saved(tmp_path / "new")
    monkeypatch.undo()
    assert [p.name for p in tmp_path.rglob("*")] == ["c", "model.npz"]
    assert (tmp_path / "c" / "model.npz").read_bytes() == before
    with pytest.raises(OutputError, match="could not be written"):
        saved(tmp_path / "missing" / "c")


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    saved(tmp_path / "c")
    with pytest.raises(ModelError, match="another recipe"):
        Checkpoint(tmp_path / "c", "other").load("model", [], sampler_of(0))


@pytest.fixture(scope="module")
def a_checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage") / "c"
    saved(folder)
    return folder, (folder / "model.npz").read_bytes()


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_checkpoint_is_an_error_or_harmless(a_checkpoint, data):
    """Cut off anywhere, or with any byte changed: never another exception, never other numbers."""
    folder, good = a_checkpoint
    at = data.draw(st.integers(0, len(good) - 1))
    if data.draw(st.booleans()):
        bad = good[:at]
    else:
        bad = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    (folder / "model.npz").write_bytes(bad)
    variables, sampler = [Variable(np.zeros((2, 3))), Variable(np.int64(0))], sampler_of(99)
    try:
        state = Checkpoint(folder, "key").load("model", variables, sampler)
    except ModelError:
        return
    assert (state.step, state.curve, variables[1].value) == (2, CURVE, 7)
    np.testing.assert_array_equal(variables[0].value, np.ones((2, 3)))


@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + bytes(18), b"\x93NUMPY\x01\0", b"\x80\x04]\x94."])
def test_a_file_of_another_kind_is_no_checkpoint(tmp_path, content):
    (tmp_path / "model.npz").write_bytes(content)
    with pytest.raises(ModelError, match="damaged") as caught:
        Checkpoint(tmp_path, "key").load("model", [Variable(1)], sampler_of(0))
    assert "--overwrite" in caught.value.hint
