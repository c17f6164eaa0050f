"""Training: from a recipe and a folder of fine rasters to a model bundle.

A recipe is a TOML file with everything that decides the result: data, split, network, loss, schedule, seed. The same
recipe, data and seed give the same weights on one machine. The recipes of the shipped models are in
``geosr/recipes``; docs/models.md walks through one.

A training example is a square of fine truth, its area mean by the scale (:mod:`geosr.degrade`) and the bicubic
refinement of that (:func:`geosr.interpolate.bicubic`, the same function as in inference). The network adds a
residual; then the block means of the error are subtracted, which is the conservation projection of
:mod:`geosr.conserve` (with equal weights: within a block the areas differ by less than 0.5 %). So the network spends
nothing on what conservation repairs anyway. The loss counts fine cells whose whole coarse cell is valid.

Examples are standardised by the mean and spread of their bicubic field, and the loss of each is weighted by
``spread ** spread_power``: 0 treats a faint scene like a strong plume, 1 counts errors in physical units.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geosr import gaps, interpolate
from geosr.degrade import area_mean
from geosr.errors import ModelError
from geosr.models.architectures import architecture
from geosr.recipe import Recipe
from geosr.scenes import Scene, load_scenes

#: Share of a coarse cell that must be valid for it to count as data in the degraded field.
MIN_COVER = 0.5

#: Spread below this share of the largest |value| of a patch counts as this: a constant patch must not divide by 0.
_FLAT = 1e-3


@dataclass(frozen=True)
class Batch:
    """Examples, float32: upsampled (n, P + 2 r, P + 2 r, 1), truth and mask (n, P, P, 1), weight (n, 1, 1, 1)."""

    upsampled: np.ndarray
    truth: np.ndarray
    mask: np.ndarray
    weight: np.ndarray


class Sampler:
    """Draws examples from scenes, uniformly over their valid squares, at every phase of the coarse grid.

    Parameters
    ----------
    scenes : truths; a scene's share of the examples is its ``weight`` times its number of usable squares.
    recipe : scale, patch size, batch size, valid share, spread power, seed.
    """

    def __init__(self, scenes: list[Scene], recipe: Recipe) -> None:
        self.recipe = recipe
        self.scale = recipe.scale
        self.radius = architecture(recipe.network.architecture).radius
        self.halo = -(-self.radius // self.scale) + interpolate.RADIUS  # coarse cells
        self.rng = np.random.default_rng(recipe.seed)
        rim = self.halo * self.scale
        # Outside the raster is a gap like any other, so squares at the edge are examples too.
        self.fields = [np.pad(s.values, rim, constant_values=np.nan) for s in scenes]
        self.areas = [np.pad(s.areas, ((rim, rim), (0, 0)), mode="edge") for s in scenes]
        self.places = [self._usable(s.values) for s in scenes]
        counts = np.array([len(p) * s.weight for p, s in zip(self.places, scenes, strict=True)], dtype=float)
        if not counts.sum():
            raise ModelError(
                f"no square of {recipe.patches.size} cells has {recipe.patches.min_valid:.0%} valid cells",
                "lower patches.size or patches.min_valid in the recipe, or add data",
            )
        self.shares = counts / counts.sum()

    def _usable(self, values: np.ndarray) -> np.ndarray:
        """(n, 2) upper left corners of squares with enough valid cells, in unpadded cells."""
        size = self.recipe.patches.size
        if min(values.shape) < size:
            return np.empty((0, 2), dtype=np.int32)
        total = np.pad(np.cumsum(np.cumsum(~np.isnan(values), axis=0), axis=1), ((1, 0), (1, 0)))
        inside = total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
        return np.argwhere(inside >= self.recipe.patches.min_valid * size**2).astype(np.int32)

    def batch(self) -> Batch:
        """The next examples."""
        drawn = [self._example() for _ in range(self.recipe.patches.batch)]
        up, truth, mask, weight = (np.stack(parts) for parts in zip(*drawn, strict=True))
        return Batch(up[..., None], truth[..., None], mask[..., None], weight[:, None, None, None])

    def _example(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.float32]:
        while True:
            which = int(self.rng.choice(len(self.shares), p=self.shares))
            row, col = self.places[which][self.rng.integers(len(self.places[which]))]
            example = self._cut(which, int(row), int(col))
            if example is not None:
                return example

    def _cut(self, which: int, row: int, col: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.float32] | None:
        """Example whose truth starts at (row, col); None if no coarse cell is complete."""
        s, size, rim = self.scale, self.recipe.patches.size, self.halo * self.scale
        side = size + 2 * rim
        fine = self.fields[which][row : row + side, col : col + side]
        area = self.areas[which][row : row + side]
        coarse = gaps.fill_gaps(area_mean(fine, area, s, MIN_COVER), self.halo)
        up = interpolate.bicubic(coarse, s)
        cut = rim - interpolate.RADIUS * s - self.radius
        up = up[cut : up.shape[0] - cut, cut : up.shape[1] - cut]
        truth = fine[rim:-rim, rim:-rim]
        blocks = truth.reshape(size // s, s, size // s, s)
        whole = ~np.isnan(blocks).any(axis=(1, 3))
        if not whole.any():
            return None
        mask = np.repeat(np.repeat(whole, s, axis=0), s, axis=1)
        return self._standardise(up, np.where(mask, truth, 0), mask)

    def _standardise(
        self, up: np.ndarray, truth: np.ndarray, mask: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.float32]:
        inner = up[self.radius : -self.radius, self.radius : -self.radius][mask]
        mean, spread = inner.mean(), max(inner.std(), _FLAT * np.abs(inner).max(), np.float32(1e-12))
        turns, flip = int(self.rng.integers(4)), bool(self.rng.integers(2))

        def turn(a: np.ndarray) -> np.ndarray:
            a = np.rot90(a, turns)
            return a[:, ::-1] if flip else a

        weight = np.float32(spread**self.recipe.loss.spread_power)
        standard = ((up - mean) / spread).astype(np.float32), ((truth - mean) / spread).astype(np.float32)
        return turn(standard[0]), turn(standard[1]), turn(mask).astype(np.float32), weight


def _loss_function(recipe: Recipe, radius: int) -> Callable[..., Any]:
    """loss(network output, upsampled, truth, mask, weight) -> scalar tensor."""
    import tensorflow as tf

    scale, kind = recipe.scale, recipe.loss.kind

    def penalty(error: Any) -> Any:
        if kind == "mse":
            return tf.square(error)
        return tf.sqrt(tf.square(error) + recipe.loss.epsilon**2)

    def loss(output: Any, upsampled: Any, truth: Any, mask: Any, weight: Any) -> Any:
        start = upsampled[:, radius:-radius, radius:-radius, :] if recipe.network.residual else 0.0
        error = (start + output - truth) * mask
        if recipe.loss.conserve:
            mean = tf.nn.avg_pool2d(error, scale, scale, "VALID")
            error = (error - tf.repeat(tf.repeat(mean, scale, axis=1), scale, axis=2)) * mask
        weights = mask * weight
        return tf.reduce_sum(weights * penalty(error)) / tf.reduce_sum(weights)

    return loss


def fit(recipe: Recipe, scenes: list[Scene], report: Callable[[int, float], None] | None = None) -> Any:
    """Train the recipe's network on ``scenes``.

    Parameters
    ----------
    report : called as ``report(step, loss)`` every 50 steps, with the mean loss since the last call.

    Returns
    -------
    ``keras.Model`` with the weights of the last step (the learning rate has decayed to zero by then).
    """
    import keras
    import tensorflow as tf

    from geosr.models import keras_network

    arch = architecture(recipe.network.architecture)
    keras.utils.set_random_seed(recipe.seed)
    model = keras_network.build(arch, 1, equivariant=recipe.network.equivariant, seed=recipe.seed)
    schedule = recipe.schedule
    warm = min(100, schedule.steps // 10)
    rate = keras.optimizers.schedules.CosineDecay(
        schedule.learning_rate / 10, max(1, schedule.steps - warm), warmup_target=schedule.learning_rate, warmup_steps=warm
    )
    optimizer = keras.optimizers.Adam(rate, clipnorm=1.0)
    optimizer.build(model.trainable_variables)
    loss_of = _loss_function(recipe, arch.radius)

    @tf.function(reduce_retracing=True)
    def step(upsampled: Any, truth: Any, mask: Any, weight: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(model(upsampled, training=True), upsampled, truth, mask, weight)
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    sampler, recent = Sampler(scenes, recipe), []
    for number in range(1, schedule.steps + 1):
        b = sampler.batch()
        recent.append(float(step(b.upsampled, b.truth, b.mask, b.weight)))
        if not np.isfinite(recent[-1]):
            raise ModelError(f"the loss is {recent[-1]} at step {number}", "lower schedule.learning_rate")
        if report is not None and (number % 50 == 0 or number == schedule.steps):
            report(number, float(np.mean(recent)))
            recent = []
    return model
