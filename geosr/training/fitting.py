"""Fitting: the loops that turn examples into weights, in TensorFlow.

The network adds a residual to the bicubic refinement (:func:`geosr.interpolate.bicubic`, written here as the one
convolution that it is); then the block means of the error are subtracted, which is the conservation projection of
:mod:`geosr.conserve` (with equal weights: within a block the areas differ by a few per cent at most). So the network
spends nothing on what conservation repairs anyway. The loss counts fine cells whose whole coarse cell is valid.

A second, small network then learns how wrong the first is. Its loss is the pinball loss (Koenker, R. & Bassett, G.
(1978), Regression quantiles, Econometrica 46(1)) of the absolute error at the probabilities that a normal error has
within one and within two standard deviations: what is promised is coverage, and errors have heavier tails than a normal
distribution, whose likelihood would let the few largest decide.

The state of a loop (weights, optimiser, random generator, curve) can be kept in a :class:`Checkpoint`; a loop that goes
on from one ends with the same weights as one that was never interrupted.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from geosr import interpolate
from geosr.errors import GeosrError, ModelError, OutputError
from geosr.models import keras_network
from geosr.models.architectures import Architecture, architecture
from geosr.training.examples import Ahead, Batch, Sampler
from geosr.training.recipe import Recipe, Schedule
from geosr.writing.atomic import explain

#: Share of a normal distribution within one and within two standard deviations.
ONE_SIGMA, TWO_SIGMA = 0.6827, 0.9545

#: Batches of validation examples, the same at every look.
VALIDATION_BATCHES = 16

_REPORT_EVERY = 50

_ANEW = "start anew: --overwrite instead of --resume"

# What numpy, zipfile and json raise for files that are cut off, overwritten or of another kind.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclass(frozen=True)
class Row:
    """A line of the training curve: mean loss since the line before, and the validation loss where it was looked at."""

    phase: str
    step: int
    loss: float
    validation: float | None = None


#: Called with every new line of the curve.
Report = Callable[[Row], None]

#: Called after every step: phase, number of the step, loss.
Tick = Callable[[str, int, float], None]


@dataclass
class State:
    """Where a loop is."""

    step: int = 0
    curve: list[Row] = field(default_factory=list)
    best: float = float("inf")
    best_step: int = 0
    best_weights: list[np.ndarray] = field(default_factory=list)


@contextlib.contextmanager
def writing(place: Path) -> Iterator[None]:
    """What goes wrong while something is written to ``place`` is an :class:`OutputError`."""
    try:
        yield
    except GeosrError:
        raise
    except (OSError, RuntimeError) as error:  # h5py raises both
        raise explain(error, place, place.parent) from error


class Checkpoint:
    """A folder with the state of each phase of a training run; every file is replaced whole.

    Parameters
    ----------
    folder : made with the first save.
    key : what the run is made of (recipe, data); files with another key are not gone on from.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.key = key

    def save(self, phase: str, state: State, variables: list[Any], sampler: Sampler | Ahead) -> None:
        """Write the state of ``phase``, next to the old one, then in its place; :class:`OutputError` if that fails."""
        head = {
            "key": self.key,
            "step": state.step,
            "curve": [vars(row) for row in state.curve],
            "best": state.best if np.isfinite(state.best) else None,
            "best_step": state.best_step,
            "random": sampler.rng.bit_generator.state,
        }
        arrays = {f"variable_{i}": np.asarray(v) for i, v in enumerate(variables)}
        arrays |= {f"best_{i}": a for i, a in enumerate(state.best_weights)}
        memory = io.BytesIO()
        arrays["head"] = np.frombuffer(json.dumps(head).encode(), np.uint8)
        np.savez(memory, **arrays)  # type: ignore[arg-type]  # its stub takes every keyword for allow_pickle
        part = self.folder / f"{phase}.partial"
        try:
            with writing(self.folder):
                self.folder.mkdir(exist_ok=True)
                part.write_bytes(memory.getvalue())
                os.replace(part, self._file(phase))
        except OutputError:
            with contextlib.suppress(OSError):  # the folder stays if a state of before is in it
                part.unlink(missing_ok=True)
                self.folder.rmdir()
            raise

    def load(self, phase: str, variables: list[Any], sampler: Sampler) -> State:
        """The state that ``phase`` was saved in, put into the variables and the sampler; a fresh one where none was."""
        file = self._file(phase)
        if not file.is_file():
            return State()
        try:
            with np.load(file, allow_pickle=False) as stored:
                head = json.loads(stored["head"].tobytes())
                arrays = {name: stored[name] for name in stored.files if name != "head"}
            if head["key"] != self.key:
                raise ModelError("the checkpoint is of another recipe or other data", _ANEW, file)
            for i, variable in enumerate(variables):
                variable.assign(arrays[f"variable_{i}"])
            sampler.rng.bit_generator.state = head["random"]
            best_weights = [arrays[f"best_{i}"] for i in range(sum(n.startswith("best_") for n in arrays))]
            curve = [Row(**row) for row in head["curve"]]
            best = float("inf") if head["best"] is None else head["best"]
            return State(head["step"], curve, best, head["best_step"], best_weights)
        except ModelError:
            raise
        except _DAMAGE as error:
            raise ModelError(f"the checkpoint is damaged ({error})", _ANEW, file) from error

    def _file(self, phase: str) -> Path:
        return self.folder / f"{phase}.npz"


def bicubic_kernel(scale: int) -> np.ndarray:
    """(5, 5, 1, scale ** 2) float32: bicubic refinement as a convolution from coarse cells to their fine cells."""
    rows = interpolate.phase_weights(scale)
    both = rows[:, None, :, None] * rows[None, :, None, :]  # (phase y, phase x, tap y, tap x)
    return np.ascontiguousarray(both.reshape(scale**2, 5, 5).transpose(1, 2, 0)[:, :, None, :], dtype=np.float32)


class Refiner:
    """A network together with everything around it that the loss must see; all tensors by coarse cell.

    Parameters
    ----------
    model : Keras model of ``arch`` (:func:`geosr.models.keras_network.build`).
    residual : add the bicubic refinement to its output.
    conserve : subtract the block means of errors.
    """

    def __init__(
        self, model: Any, arch: Architecture, scale: int, *, residual: bool = True, conserve: bool = True
    ) -> None:
        import tensorflow as tf

        self.model, self.arch, self.scale = model, arch, scale
        self.residual, self.conserve = residual, conserve
        self._kernel = tf.constant(bicubic_kernel(scale))

    def _bicubic(self, coarse: Any) -> Any:
        """(n, h + 4, w + 4, 1) to (n, h, w, scale ** 2)."""
        import tensorflow as tf

        return tf.nn.conv2d(coarse, self._kernel, 1, "VALID")

    def output(self, coarse: Any, halo: int, training: bool = False) -> Any:
        """What the network makes of ``coarse`` (n, K + 2 halo, K + 2 halo, 1): (n, K, K, scale ** 2)."""
        import tensorflow as tf

        if self.arch.coarse:
            return tf.cast(self.model(_inner(coarse, halo - self.arch.reach), training=training), tf.float32)
        fine = tf.nn.depth_to_space(self._bicubic(coarse), self.scale)
        rim = (halo - interpolate.RADIUS) * self.scale - self.arch.reach
        found = tf.cast(self.model(_inner(fine, rim), training=training), tf.float32)
        return tf.nn.space_to_depth(found, self.scale)

    def error(self, coarse: Any, truth: Any, halo: int, training: bool = False) -> Any:
        """Prediction minus truth (n, K, K, scale ** 2), after conservation where that is on."""
        import tensorflow as tf

        error = self.output(coarse, halo, training) - truth
        if self.residual:
            error += self._bicubic(_inner(coarse, halo - interpolate.RADIUS))
        if self.conserve:
            error -= tf.reduce_mean(error, axis=-1, keepdims=True)
        return error

    def bicubic_error(self, coarse: Any, truth: Any, mask: Any, halo: int) -> Any:
        """Root of each square's mean squared error of conserved bicubic refinement, (n, 1, 1, 1)."""
        import tensorflow as tf

        error = self._bicubic(_inner(coarse, halo - interpolate.RADIUS)) - truth
        error -= tf.reduce_mean(error, axis=-1, keepdims=True)
        total = tf.reduce_sum(mask * tf.square(error), axis=(1, 2, 3), keepdims=True)
        return tf.sqrt(total / (self.scale**2 * tf.reduce_sum(mask, axis=(1, 2, 3), keepdims=True)))


def _inner(x: Any, rim: int) -> Any:
    return x[:, rim : x.shape[1] - rim, rim : x.shape[2] - rim] if rim else x


def fit(
    recipe: Recipe,
    sampler: Sampler,
    validation: Sampler | None = None,
    report: Report | None = None,
    checkpoint: Checkpoint | None = None,
    tick: Tick | None = None,
) -> tuple[Refiner, list[Row]]:
    """Train the recipe's network on the sampler's examples.

    Parameters
    ----------
    validation : examples to look at every ``schedule.validate_every`` steps.
    report : gets every line of the curve: each 50 steps, and each look at the validation examples.
    checkpoint : gone on from where it holds a state, and saved at every look.
    tick : called after every step.

    Returns
    -------
    The trained network, which computes in float32 whatever ``schedule.precision`` it was trained in, and the curve.
    """
    import keras
    import tensorflow as tf

    arch, scale = architecture(recipe.network.architecture), recipe.scale
    keras.utils.set_random_seed(recipe.seed)
    build = partial(keras_network.build, arch, 1, scale=scale, equivariant=recipe.network.equivariant, seed=recipe.seed)
    with _computed_in(recipe.schedule.precision):
        model = build()
    if recipe.network.init:
        _start_from(model, recipe.network.init)
    refiner = Refiner(model, arch, scale, residual=recipe.network.residual, conserve=recipe.loss.conserve)
    kind, epsilon, floor = recipe.loss.kind, recipe.loss.epsilon, recipe.loss.relative

    def loss(coarse: Any, truth: Any, mask: Any, weight: Any) -> Any:
        error = refiner.error(coarse, truth, sampler.halo, training=True)
        if floor:
            error /= refiner.bicubic_error(coarse, truth, mask, sampler.halo) + floor
        penalty = tf.square(error) if kind == "mse" else tf.sqrt(tf.square(error) + epsilon**2)
        weights = mask * weight
        return tf.reduce_sum(weights * penalty) / (scale**2 * tf.reduce_sum(weights))

    looks = None if validation is None else [validation.batch() for _ in range(VALIDATION_BATCHES)]
    curve = _loop("model", model, loss, sampler, recipe.schedule, looks, report, checkpoint, tick)
    if recipe.schedule.precision != "float32":
        refiner.model = build()
        refiner.model.set_weights(model.get_weights())
    return refiner, curve


@contextlib.contextmanager
def _computed_in(policy: str) -> Iterator[None]:
    """Networks that are built here compute by Keras's dtype policy of that name."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _start_from(model: Any, name: str) -> None:
    """Give ``model`` the weights of the bundle ``name`` where the shapes agree."""
    from geosr.models import load_model

    theirs = [a for pair in load_model(name).arrays() for a in pair if a is not None]
    ours = model.get_weights()
    if len(theirs) != len(ours) or all(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
        raise ModelError(f"{name} has other layers than {model.name}", "start from a model of the same architecture")
    model.set_weights([b if a.shape == b.shape else a for a, b in zip(ours, theirs, strict=True)])


def fit_sigma(
    recipe: Recipe,
    sampler: Sampler,
    refiner: Refiner,
    report: Report | None = None,
    checkpoint: Checkpoint | None = None,
    tick: Tick | None = None,
) -> tuple[Any, list[Row]]:
    """Train the recipe's sigma network on the errors of ``refiner``, whose weights stay.

    Returns
    -------
    The Keras model, whose absolute output is one standard deviation of the conserved prediction, and the curve.
    """
    import tensorflow as tf

    arch, scale = architecture(recipe.sigma.architecture), recipe.scale
    model = keras_network.build(arch, 1, scale=scale, seed=recipe.seed + 1000)
    tail = recipe.sigma.tail_weight
    conserving = Refiner(refiner.model, refiner.arch, scale, residual=refiner.residual, conserve=True)

    def pinball(over: Any, probability: float) -> Any:
        return tf.maximum(probability * over, (probability - 1) * over)

    def loss(coarse: Any, truth: Any, mask: Any, weight: Any) -> Any:
        size = tf.abs(tf.stop_gradient(conserving.error(coarse, truth, sampler.halo)))
        sigma = tf.abs(model(_inner(coarse, sampler.halo - arch.reach), training=True))
        penalty = pinball(size - sigma, ONE_SIGMA) + tail * pinball(size - 2 * sigma, TWO_SIGMA)
        weights = mask * weight
        return tf.reduce_sum(weights * penalty) / (scale**2 * tf.reduce_sum(weights))

    schedule = Schedule(recipe.sigma.steps, recipe.sigma.learning_rate, recipe.schedule.validate_every)
    return model, _loop("sigma", model, loss, sampler, schedule, None, report, checkpoint, tick)


def _loop(
    phase: str,
    model: Any,
    loss: Callable[..., Any],
    sampler: Sampler,
    schedule: Schedule,
    looks: list[Batch] | None,
    report: Report | None,
    checkpoint: Checkpoint | None,
    tick: Tick | None,
) -> list[Row]:
    """Minimise ``loss`` over the model's weights; the curve."""
    import tensorflow as tf

    optimizer = _optimizer(schedule)
    optimizer.build(model.trainable_variables)
    weights = model.trainable_variables

    @tf.function(reduce_retracing=True)
    def step(coarse: Any, truth: Any, mask: Any, weight: Any) -> Any:
        with tf.GradientTape() as tape:
            value = loss(coarse, truth, mask, weight)
        optimizer.apply(tape.gradient(value, weights), weights)
        return value

    look = tf.function(loss, reduce_retracing=True)
    variables = [*weights, *optimizer.variables]
    state = State() if checkpoint is None else checkpoint.load(phase, variables, sampler)
    recent: list[float] = []
    with Ahead(sampler) as batches:
        for number in _steps(state, schedule):
            recent.append(float(step(*vars(batches.batch()).values())))
            if not np.isfinite(recent[-1]):
                raise ModelError(f"the loss is {recent[-1]} at step {number}", "lower the learning rate")
            if tick is not None:
                tick(phase, number, recent[-1])
            state.step = number
            looking = number % schedule.validate_every == 0 or number == schedule.steps
            if looking or number % _REPORT_EVERY == 0:
                value = None
                if looking and looks is not None:
                    value = float(np.mean([look(*vars(b).values()) for b in looks]))
                    if value < state.best:
                        state.best, state.best_step, state.best_weights = value, number, model.get_weights()
                state.curve.append(Row(phase, number, float(np.mean(recent)), value))
                recent = []
                if looking and checkpoint is not None:
                    checkpoint.save(phase, state, variables, batches)
                if report is not None:
                    report(state.curve[-1])
    if schedule.patience and state.best_weights:
        model.set_weights(state.best_weights)
    return state.curve


def _steps(state: State, schedule: Schedule) -> Iterator[int]:
    """Numbers of the steps still to do; ends early when the validation loss has not fallen for long."""
    while state.step < schedule.steps:
        waited = (state.step - state.best_step) // schedule.validate_every
        if schedule.patience and state.best_step and waited >= schedule.patience:
            return
        yield state.step + 1


def _optimizer(schedule: Schedule) -> Any:
    """Adam with warm-up and cosine decay, and a clipped gradient; or at a constant rate, without any of these."""
    import keras

    if schedule.decay == "constant":
        return keras.optimizers.Adam(schedule.learning_rate)
    warm = min(100, schedule.steps // 10)
    rate = keras.optimizers.schedules.CosineDecay(
        schedule.learning_rate / 10,
        max(1, schedule.steps - warm),
        warmup_target=schedule.learning_rate,
        warmup_steps=warm,
    )
    return keras.optimizers.Adam(rate, clipnorm=1.0)
