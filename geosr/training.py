"""Training: from a recipe and a folder of fine rasters to a model bundle.

A recipe is a TOML file with everything that decides the result: data, split, network, loss, schedule, seed. The same
recipe, data and seed give the same weights on one machine. The recipes of the shipped models are in
``geosr/recipes``; docs/models.md walks through one.

Scenes (:mod:`geosr.scenes`) become examples (:mod:`geosr.examples`), examples weights (:mod:`geosr.fitting`), and
weights a bundle (:mod:`geosr.models.bundle`), which is then scored on data that training has not touched.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from geosr._version import __version__
from geosr.channel import AffineScaler
from geosr.degrade import area_mean
from geosr.envelope import Envelope
from geosr.errors import ModelError, OutputError
from geosr.evaluate import evaluate_array
from geosr.examples import MIN_COVER, Sampler
from geosr.fieldstats import measure
from geosr.fitting import Checkpoint, Report, Row, fit, fit_sigma
from geosr.models import Model, keras_network
from geosr.models.architectures import architecture
from geosr.models.bundle import CARD, Arrays, Card, load_bundle, rewrite_card, save_bundle
from geosr.recipe import Data, Recipe
from geosr.scenes import Scene, load_scenes
from geosr.split import check_split


def train(
    recipe: Recipe,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    report: Report | None = None,
    overwrite: bool = False,
    resume: bool = False,
) -> Card:
    """Train by ``recipe`` on the rasters under ``data`` and write a bundle to the folder ``out``.

    The folder appears whole, after the scoring, or not at all. Until then ``<out>.checkpoint`` holds the state.

    The bundle is loaded again and scored on the recipe's held-out sets, which training has not touched
    (:func:`geosr.split.check_split`); the scores go into the card. ``training.csv`` beside it has the loss curve.

    Parameters
    ----------
    report : gets every line of the curve.
    overwrite : replace an existing bundle.
    resume : go on from the checkpoint of an interrupted run of the same recipe and data; the result is the same as
        without the interruption.

    Raises
    ------
    OutputError
        ``out`` exists without ``overwrite``, or is something else than a bundle; told before the training.
    ModelError
        No data, a file on both sides of the split, a loss that is not finite, or nothing to resume.
    """
    folder, final = Path(data), Path(out)
    _check_place(final, overwrite)
    check_split(recipe, folder)
    scenes = load_scenes(recipe, folder)
    checkpoint = _checkpoint(recipe, scenes, final, resume)
    start = time.perf_counter()
    fitted = _fit(recipe, scenes, folder, report, checkpoint)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory(prefix=f".{final.name}.", suffix=".partial", dir=final.parent) as staging:
        place = Path(staging) / "bundle"
        card = save_bundle(place, _card(recipe, scenes, fitted.scaler, seconds), fitted.arrays, fitted.sigma_arrays)
        _write_curve(place, fitted.curve)
        skill = [skill_on(d, recipe, folder, Model(load_bundle(place))) for d in recipe.heldout]
        rewrite_card(place, replace(card, skill=skill))
        if final.exists():
            final.rename(Path(staging) / "old")
        place.rename(final)
    shutil.rmtree(checkpoint.folder, ignore_errors=True)
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


@dataclass(frozen=True)
class _Fitted:
    """What came out of the loops: weights, the constants that standardised, and the curve."""

    arrays: Arrays
    sigma_arrays: Arrays | None
    scaler: AffineScaler
    curve: list[Row]


def _fit(recipe: Recipe, scenes: list[Scene], folder: Path, report: Report | None, checkpoint: Checkpoint) -> _Fitted:
    """Both networks, one after the other."""
    scaler = _scaler(recipe, scenes)
    # An equivariant network needs no constants; its examples are standardised one by one.
    fixed = None if recipe.network.equivariant else scaler
    validation = None
    if recipe.validate:
        validation = Sampler(load_scenes(recipe, folder, recipe.validate), recipe, fixed, seed=recipe.seed + 2000)
    refiner, curve = fit(recipe, Sampler(scenes, recipe, fixed), validation, report, checkpoint)
    arrays = keras_network.arrays_of(refiner.model)
    if recipe.network.equivariant:  # exact, where the optimiser's float32 projection is so to 1e-8
        arrays[0] = (keras_network.zero_sum(arrays[0][0]), None)
    sigma_arrays = None
    if recipe.sigma.architecture:
        sampler = Sampler(scenes, recipe, fixed, seed=recipe.seed + 1000)
        model, more = fit_sigma(recipe, sampler, refiner, report, checkpoint)
        sigma_arrays = keras_network.arrays_of(model)
        sigma_arrays[0] = (keras_network.zero_sum(sigma_arrays[0][0]), None)
        curve = curve + more
    return _Fitted(arrays, sigma_arrays, scaler, curve)


def _scaler(recipe: Recipe, scenes: list[Scene]) -> AffineScaler:
    """None needed for an equivariant network; else mean and standard deviation of the scenes, each scene alike."""
    if recipe.network.equivariant:
        return AffineScaler(0.0, 1.0, recipe.units)
    values = [s.values[~np.isnan(s.values)].astype(np.float64) for s in scenes]
    weights = [s.weight for s, v in zip(scenes, values, strict=True) if v.size]
    values = [v for v in values if v.size]
    mean = float(np.average([v.mean() for v in values], weights=weights))
    variance = float(np.average([np.mean((v - mean) ** 2) for v in values], weights=weights))
    return AffineScaler(float(f"{mean:.6g}"), float(f"{max(variance, 1e-24) ** 0.5:.6g}"), recipe.units)


def _checkpoint(recipe: Recipe, scenes: list[Scene], final: Path, resume: bool) -> Checkpoint:
    """Where the state is kept. Raises :class:`ModelError` where there is nothing to resume."""
    digest = hashlib.sha256(json.dumps(recipe.to_dict(), sort_keys=True).encode())
    for scene in scenes:
        digest.update(scene.values.tobytes())
    folder = final.with_name(f"{final.name}.checkpoint")
    if resume and not folder.is_dir():
        raise ModelError(f"there is no checkpoint {folder}", "start without --resume")
    if not resume and folder.exists():
        shutil.rmtree(folder)
    return Checkpoint(folder, digest.hexdigest())


def _write_curve(place: Path, curve: list[Row]) -> None:
    with (place / "training.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["phase", "step", "loss", "validation"])
        for row in curve:
            validation = "" if row.validation is None else f"{row.validation:.6g}"
            writer.writerow([row.phase, row.step, f"{row.loss:.6g}", validation])


def _card(recipe: Recipe, scenes: list[Scene], scaler: AffineScaler, seconds: float) -> Card:
    import keras
    import tensorflow as tf

    arch = architecture(recipe.network.architecture)
    sets: list[dict[str, Any]]
    sets = [{"name": d.name or d.files, "licence": d.licence, "dates": list(d.dates or ())} for d in recipe.train]
    sets += [{"name": d.name, "licence": d.licence, "scenes": d.scenes} for d in recipe.simulate]
    training = {
        "data": sets,
        "files": sorted({name for s in scenes for name in s.files}),
        "seconds": round(seconds),
        "software": {"geosr": __version__, "tensorflow": tf.__version__, "keras": keras.__version__},
        "recipe": recipe.to_dict(),
    }
    return Card(
        name=recipe.name,
        architecture=arch.name,
        scale=recipe.scale,
        radius=arch.radius(recipe.scale),
        version=recipe.version,
        description=recipe.description,
        residual=recipe.network.residual,
        equivariant=recipe.network.equivariant,
        scaler=scaler,
        training=training,
        envelope=_envelope(recipe, scenes),
        sigma={"architecture": recipe.sigma.architecture} if recipe.sigma.architecture else {},
    )


def _envelope(recipe: Recipe, scenes: list[Scene]) -> dict[str, Any]:
    """What the network has seen: statistics of the coarse field of every scene, and the range of coarse cells."""
    samples = []
    for scene in scenes:
        ny, nx = (n // recipe.scale * recipe.scale for n in scene.values.shape)
        coarse = area_mean(scene.values[:ny, :nx], scene.areas[:ny], recipe.scale, MIN_COVER)
        samples.append(measure(coarse, recipe.scale * scene.cell_m))
    return Envelope.of(samples, recipe.units).to_dict()


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
