"""Training: from a recipe and a folder of fine rasters to a model bundle.

A recipe is a TOML file with everything that decides the result: data, split, network, loss, schedule, seed. The same
recipe, data and seed give the same weights on one machine. The recipes of the shipped models are in
``geosr/recipes``; docs/models.md walks through one.

A training example is a square of fine truth, its area mean by the scale (:mod:`geosr.degrade`) and the bicubic
refinement of that (:func:`geosr.interpolate.bicubic`, the same function as in inference). The network adds a
residual; then the block means of the error are subtracted, which is the conservation projection of
:mod:`geosr.conserve` (with equal weights: within a block the areas differ by a few per cent at most). So the network
spends nothing on what conservation repairs anyway. The loss counts fine cells whose whole coarse cell is valid.

Each example's loss (:mod:`geosr.examples` makes them) is weighted by ``spread ** spread_power``: 0 treats a faint
scene like a strong plume, 1 counts errors in physical units.
"""

from __future__ import annotations

import csv
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from geosr._version import __version__
from geosr.channel import AffineScaler
from geosr.errors import ModelError, OutputError
from geosr.evaluate import evaluate_array
from geosr.examples import Sampler
from geosr.models import Model, keras_network
from geosr.models.architectures import architecture
from geosr.models.bundle import CARD, Card, load_bundle, rewrite_card, save_bundle
from geosr.recipe import Data, Recipe
from geosr.scenes import Scene, check_split, load_scenes


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

    arch = architecture(recipe.network.architecture)
    keras.utils.set_random_seed(recipe.seed)
    model = keras_network.build(arch, 1, equivariant=recipe.network.equivariant, seed=recipe.seed)
    schedule = recipe.schedule
    warm = min(100, schedule.steps // 10)
    rate = keras.optimizers.schedules.CosineDecay(
        schedule.learning_rate / 10,
        max(1, schedule.steps - warm),
        warmup_target=schedule.learning_rate,
        warmup_steps=warm,
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


def train(
    recipe: Recipe,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    report: Callable[[int, float], None] | None = None,
    overwrite: bool = False,
) -> Card:
    """Train by ``recipe`` on the rasters under ``data`` and write a bundle to the folder ``out``.

    The folder appears whole, after the scoring, or not at all.

    The bundle is loaded again and scored on the recipe's held-out sets, which training has not touched
    (:func:`geosr.scenes.check_split`); the scores go into the card. ``training.csv`` beside it has the loss curve.

    Parameters
    ----------
    report : called as ``report(step, loss)`` every 50 steps.
    overwrite : replace an existing bundle.

    Raises
    ------
    OutputError
        ``out`` exists without ``overwrite``, or is something else than a bundle; told before the training.
    ModelError
        No data, a file on both sides of the split, or a loss that is not finite.
    """
    folder, final = Path(data), Path(out)
    _check_place(final, overwrite)
    check_split(recipe, folder)
    scenes = load_scenes(recipe, folder)
    curve: list[tuple[int, float, float]] = []
    start = time.perf_counter()

    def note(step: int, loss: float) -> None:
        curve.append((step, loss, round(time.perf_counter() - start, 1)))
        if report is not None:
            report(step, loss)

    arrays = keras_network.arrays_of(fit(recipe, scenes, note))
    seconds = time.perf_counter() - start
    if recipe.network.equivariant:  # exact, where the optimiser's float32 projection is so to 1e-8
        arrays[0] = (keras_network.zero_sum(arrays[0][0]), None)
    with tempfile.TemporaryDirectory(prefix=f".{final.name}.", suffix=".partial", dir=final.parent) as staging:
        place = Path(staging) / "bundle"
        card = save_bundle(place, _card(recipe, scenes, seconds), arrays)
        with (place / "training.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("step", "loss", "seconds"), *curve])
        skill = [skill_on(d, recipe, folder, Model(load_bundle(place))) for d in recipe.heldout]
        rewrite_card(place, replace(card, skill=skill))
        if final.exists():
            final.rename(Path(staging) / "old")
        place.rename(final)
    return load_bundle(final).card


def _check_place(final: Path, overwrite: bool) -> None:
    """An :class:`OutputError` if the bundle cannot go to ``final``."""
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder cannot be made ({error.strerror})", "choose another", final) from error
    if not final.exists() or (final.is_dir() and not any(final.iterdir())):
        return
    if not (final / CARD).is_file():
        raise OutputError("exists and is not a model", "choose another name", final)
    if not overwrite:
        raise OutputError("exists", "use --overwrite to replace it", final)


def _card(recipe: Recipe, scenes: list[Scene], seconds: float) -> Card:
    import keras
    import tensorflow as tf

    arch = architecture(recipe.network.architecture)
    training = {
        "data": [{"name": d.name or d.files, "licence": d.licence, "dates": list(d.dates or ())} for d in recipe.train],
        "files": sorted({name for s in scenes for name in s.files}),
        "seconds": round(seconds),
        "software": {"geosr": __version__, "tensorflow": tf.__version__, "keras": keras.__version__},
        "recipe": recipe.to_dict(),
    }
    return Card(
        name=recipe.name,
        architecture=arch.name,
        scale=recipe.scale,
        radius=arch.radius,
        version=recipe.version,
        description=recipe.description,
        residual=recipe.network.residual,
        equivariant=recipe.network.equivariant,
        scaler=AffineScaler(0.0, 1.0, recipe.units),
        training=training,
        envelope=_envelope(recipe, scenes),
    )


def _envelope(recipe: Recipe, scenes: list[Scene]) -> dict[str, Any]:
    """Units, quantiles of the truths' values, and range of the fine cells' size: what the model has seen."""
    # Every 16th cell tells the quantiles to three digits.
    values = np.concatenate([v[~np.isnan(v)] for v in (s.values[::4, ::4] for s in scenes)])
    names = ("min", "p01", "p50", "p99", "max")
    quantiles = np.quantile(values, [0, 0.01, 0.5, 0.99, 1]) if values.size else np.full(5, np.nan)
    cells = [s.cell_m for s in scenes]
    return {
        "units": recipe.units,
        "values": {n: float(f"{q:.4g}") for n, q in zip(names, quantiles, strict=True)},
        "fine_cell_m": [round(min(cells)), round(max(cells))],
    }


def skill_on(data: Data, recipe: Recipe, folder: Path, model: Model) -> dict[str, Any]:
    """Mean scores of every method over the scenes of a held-out set, on cells away from gaps.

    Returns
    -------
    Plain data: the set's name, number of scenes, and method -> mean over scenes for ``psnr`` (dB, relative to each
    scene's own range), ``rmse`` (the recipe's units) and ``ssim``; ``worst_gain`` is the smallest PSNR gain over the
    best interpolation in any scene.
    """
    tables = []
    for scene in load_scenes(recipe, folder, (data,)):
        ny, nx = (n // recipe.scale * recipe.scale for n in scene.values.shape)
        found = evaluate_array(scene.values[:ny, :nx], scene.areas[:ny], recipe.scale, model, units=recipe.units)
        tables.append(found.away_from_gaps)
    entry: dict[str, Any] = {
        "name": data.name or data.files,
        "scenes": len(tables),
        "cells": "away from gaps",
    }
    for key, digits in (("psnr", 3), ("rmse", 5), ("ssim", 5)):
        entry[key] = {
            m: round(float(np.mean([getattr(t.scores[m], key) for t in tables])), digits) for m in tables[0].scores
        }
    entry["worst_gain"] = round(min(t.gain(t.best_interpolation) for t in tables), 3)
    return entry
