"""Training: from a recipe and a folder of fine rasters to a model bundle.

A recipe is a TOML file with everything that decides the result: data, split, network, loss, schedule, seed. The same
recipe, data and seed give the same weights on one machine. The recipes of the shipped models are in
``geosr/recipes``; docs/training.md describes them. For a folder of rasters :mod:`geosr.training.folders` writes one.

Scenes (:mod:`scenes`) become examples (:mod:`examples`), examples weights (:mod:`fitting`), and
weights a bundle (:mod:`geosr.models.bundle`), which is then scored on data that training has not touched
(:mod:`geosr.training.skill`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from geosr._version import __version__
from geosr.channel import AffineScaler
from geosr.degrade import area_mean
from geosr.envelope import Envelope
from geosr.errors import GeosrWarning, InputError, ModelError, OutputError, UsageError
from geosr.fieldstats import measure
from geosr.models import Model, keras_network, load_model
from geosr.models.architectures import architecture
from geosr.models.bundle import CARD, Arrays, Card, load_bundle, rewrite_card, save_bundle
from geosr.training import curves
from geosr.training.choices import Choices, changed
from geosr.training.examples import MIN_COVER, Sampler
from geosr.training.fitting import Checkpoint, Report, Row, Tick, fit, fit_sigma, writing
from geosr.training.recipe import Recipe, read_recipe
from geosr.training.scenes import Scene, load_scenes
from geosr.training.skill import skill_on
from geosr.training.split import check_split, check_start

#: The recipe in a bundle.
RECIPE = "recipe.toml"

# More names of files than these do not go into a card.
_FILES_NAMED = 500


@dataclass(frozen=True)
class Task:
    """What is to be trained on what; ``notes`` say what was decided, for people."""

    recipe: Recipe
    data: Path
    notes: tuple[str, ...] = ()


def prepare(
    source: str | os.PathLike[str],
    data: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    choices: Choices,
) -> Task:
    """The training that a user asks for.

    Parameters
    ----------
    source : a folder of rasters, for which a recipe is made (:func:`folders.plan`); or a recipe, as a file or by
        name.
    data : the folder of a recipe's files; None with a folder of rasters.
    out : where the model will go; its name is the model's where there is no recipe.
    choices : what the user wants otherwise.

    Raises
    ------
    UsageError
        ``data`` beside a folder, a recipe without, or no TensorFlow.
    InputError, ModelError
        Nothing to train on, no such recipe, or choices that cannot work.
    """
    check_tensorflow()
    if Path(source).is_dir():
        if data is not None:
            raise UsageError(f"{source} is a folder, and so is --data", "give one folder, or a recipe and its --data")
        from geosr.training.folders import plan

        made = plan(Path(source), Path(out).name, choices)
        return Task(made.recipe, Path(source), made.notes)
    recipe = changed(read_recipe(source), choices)
    if data is None:
        raise UsageError("a recipe needs its data", "say where its files are with --data FOLDER")
    if not Path(data).is_dir():
        raise InputError("no such folder", "give the folder that the recipe's files are in", data)
    return Task(recipe, Path(data))


def train(
    recipe: Recipe,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    report: Report | None = None,
    overwrite: bool = False,
    resume: bool = False,
    tick: Tick | None = None,
) -> Card:
    """Train by ``recipe`` on the rasters under ``data`` and write a bundle to the folder ``out``.

    The folder appears whole, after the scoring, or not at all. Until then ``<out>.checkpoint`` holds the state, as it
    was at the last look at the validation data.

    The bundle is loaded again and scored on the recipe's held-out sets, which training has not touched
    (:func:`split.check_split`); the scores go into the card. Beside it are the recipe, the curve of the loss
    (``training.csv``) and its picture (``training.png``, where matplotlib is installed).

    Parameters
    ----------
    report : gets every line of the curve.
    overwrite : replace an existing bundle, and forget the checkpoint of an interrupted run.
    resume : go on from the checkpoint of an interrupted run of the same recipe and data; the result is the same as
        without the interruption.
    tick : called after every step.

    Raises
    ------
    OutputError
        ``out`` exists without ``overwrite``, or is something else than a bundle, or there is a checkpoint and neither
        ``overwrite`` nor ``resume``, or nothing can be written there; told before the training. The disk fails or is
        full: a checkpoint that was saved before stays, and ``resume`` goes on from it.
    ModelError
        No data, a place and date on both sides of the split, a model to start from that has seen what is held out, a
        loss that is not finite, nothing to resume, or a checkpoint that is damaged or of another run.
    InputError, RefusedError
        A raster cannot be read.
    """
    folder, final = Path(data), Path(out)
    check_tensorflow()
    _check_place(final, overwrite)
    place_of_state = _check_state(final, overwrite, resume)
    check_split(recipe, folder)
    start_card = load_model(recipe.network.init).card if recipe.network.init else None
    if start_card is not None:
        check_start(recipe, folder, start_card)
    scenes = load_scenes(recipe, folder)
    checks = load_scenes(recipe, folder, recipe.validate) if recipe.validate else []
    checkpoint = Checkpoint(place_of_state, _key(recipe, scenes + checks))
    start = time.perf_counter()
    fitted = _fit(recipe, scenes, checks, report, checkpoint, tick)
    seconds = time.perf_counter() - start
    with _staging(final) as staging:
        place = staging / "bundle"
        with writing(final):
            card = _card(recipe, scenes, fitted.scaler, seconds, start_card)
            card = save_bundle(place, card, fitted.arrays, fitted.sigma_arrays)
            _write_beside(place, recipe, fitted.curve)
        skill = [skill_on(d, recipe, folder, Model(load_bundle(place))) for d in recipe.heldout]
        with writing(final):
            rewrite_card(place, replace(card, skill=[entry for entry in skill if entry]))
            _move(place, final, staging / "old")
    shutil.rmtree(checkpoint.folder, ignore_errors=True)
    return load_bundle(final).card


@contextlib.contextmanager
def _staging(final: Path) -> Iterator[Path]:
    """A folder beside ``final`` for what is not whole yet; it goes at the end."""
    ends = {"prefix": f".{final.name}.", "suffix": ".partial"}
    try:
        folder = tempfile.TemporaryDirectory(**ends, dir=final.parent, ignore_cleanup_errors=True)
    except OSError as error:
        what = f"nothing can be written to {final.parent} ({error.strerror})"
        raise OutputError(what, "choose another folder", final) from error
    with folder as name:
        yield Path(name)


def _move(place: Path, final: Path, old: Path) -> None:
    """``place`` becomes ``final``; what is there goes to ``old``, and comes back if that fails."""
    if final.exists():
        final.rename(old)
    try:
        place.rename(final)
    except OSError:
        if old.exists():
            old.rename(final)
        raise


def check_tensorflow() -> None:
    """A :class:`UsageError` where there is no TensorFlow to train with. It is loaded here, without its greetings."""
    try:
        with _without_stderr():
            import keras  # noqa: F401
            import tensorflow  # noqa: F401
    except ImportError as error:
        raise UsageError(f"training needs TensorFlow ({error})", "pip install 'geosr[tensorflow]'") from error


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """Nothing is written to the process's stderr, not even by C++."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _check_place(final: Path, overwrite: bool) -> None:
    """An :class:`OutputError` if the bundle cannot go to ``final``."""
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder cannot be made ({error.strerror})", "choose another", final) from error
    with _staging(final):  # hours before it is needed
        pass
    if not final.exists() or (final.is_dir() and not any(final.iterdir())):
        return
    if not (final / CARD).is_file():
        raise OutputError("exists and is not a model", "choose another name", final)
    if not overwrite:
        raise OutputError("exists", "use --overwrite to replace it", final)


def _check_state(final: Path, overwrite: bool, resume: bool) -> Path:
    """The folder for the state of the run; what an earlier run left there is resumed, or forgotten if that is said."""
    folder = final.with_name(f"{final.name}.checkpoint")
    if resume and not folder.is_dir():
        raise ModelError(f"there is no checkpoint {folder}", "start without --resume")
    if not resume and folder.exists():
        if not overwrite:
            hint = "go on with --resume, or start anew with --overwrite"
            raise OutputError("an interrupted run has left its checkpoint", hint, folder)
        with writing(folder):
            shutil.rmtree(folder)
    return folder


@dataclass(frozen=True)
class _Fitted:
    """What came out of the loops: weights, the constants that standardised, and the curve."""

    arrays: Arrays
    sigma_arrays: Arrays | None
    scaler: AffineScaler
    curve: list[Row]


def _fit(
    recipe: Recipe,
    scenes: list[Scene],
    checks: list[Scene],
    report: Report | None,
    checkpoint: Checkpoint,
    tick: Tick | None,
) -> _Fitted:
    """Both networks, one after the other; ``checks`` are the scenes to validate on."""
    scaler = _scaler(recipe, scenes)
    # An equivariant network needs no constants; its examples are standardised one by one.
    fixed = None if recipe.network.equivariant else scaler
    validation = Sampler(checks, recipe, fixed, seed=recipe.seed + 2000) if recipe.validate else None
    refiner, curve = fit(recipe, Sampler(scenes, recipe, fixed), validation, report, checkpoint, tick)
    arrays = keras_network.arrays_of(refiner.model)
    if recipe.network.equivariant:  # exact, where the optimiser's float32 projection is so to 1e-8
        arrays[0] = (keras_network.zero_sum(arrays[0][0]), None)
    sigma_arrays = None
    if recipe.sigma.architecture:
        sampler = Sampler(scenes, recipe, fixed, seed=recipe.seed + 1000)
        model, more = fit_sigma(recipe, sampler, refiner, report, checkpoint, tick)
        sigma_arrays = keras_network.arrays_of(model)
        sigma_arrays[0] = (keras_network.zero_sum(sigma_arrays[0][0]), None)
        curve = curve + more
    return _Fitted(arrays, sigma_arrays, scaler, curve)


def _scaler(recipe: Recipe, scenes: list[Scene]) -> AffineScaler:
    """None needed for an equivariant network; else mean and standard deviation of the scenes, each scene alike."""
    if recipe.network.equivariant:
        return AffineScaler(0.0, 1.0, recipe.units or None)
    values = [s.values[~np.isnan(s.values)].astype(np.float64) for s in scenes]
    weights = [s.weight for s, v in zip(scenes, values, strict=True) if v.size]
    values = [v for v in values if v.size]
    mean = float(np.average([v.mean() for v in values], weights=weights))
    variance = float(np.average([np.mean((v - mean) ** 2) for v in values], weights=weights))
    return AffineScaler(float(f"{mean:.6g}"), float(f"{max(variance, 1e-24) ** 0.5:.6g}"), recipe.units or None)


def _key(recipe: Recipe, scenes: list[Scene]) -> str:
    """A hash of all that decides the result: recipe, data, and the model that is started from."""
    digest = hashlib.sha256(json.dumps(recipe.to_dict(), sort_keys=True).encode())
    if recipe.network.init:
        digest.update(load_model(recipe.network.init).sha256.encode())
    for scene in scenes:
        digest.update(scene.values.tobytes())
    return digest.hexdigest()


def _write_beside(place: Path, recipe: Recipe, curve: list[Row]) -> None:
    """The recipe and the curve, in the bundle's folder."""
    (place / RECIPE).write_text(recipe.to_toml(), encoding="utf-8")
    curves.write_csv(place, curve)
    if not curves.draw(place, curve, recipe):
        text = f"no {curves.PNG}: it needs matplotlib (pip install 'geosr[plot]')"
        warnings.warn(text, GeosrWarning, stacklevel=2)


def _card(recipe: Recipe, scenes: list[Scene], scaler: AffineScaler, seconds: float, start: Card | None) -> Card:
    import keras
    import tensorflow as tf

    arch = architecture(recipe.network.architecture)
    sets: list[dict[str, Any]]
    sets = [{"name": d.label, "licence": d.licence, "dates": list(d.dates or ())} for d in recipe.train]
    sets += [{"name": d.name, "licence": d.licence, "scenes": d.scenes} for d in recipe.simulate]
    training = {
        "data": sets,
        "files": _named(sorted({name for s in scenes for name in s.files})),
        "seconds": round(seconds),
        "software": {"geosr": __version__, "tensorflow": tf.__version__, "keras": keras.__version__},
        "recipe": recipe.to_dict(),
    }
    if start is not None:  # what that model has seen, this one has seen as well
        keys = ("data", "files", "recipe", "start")
        training["start"] = {"name": start.name, **{k: start.training[k] for k in keys if k in start.training}}
    return Card(
        name=recipe.name,
        architecture=arch.name,
        scale=recipe.scale,
        radius=arch.radius(recipe.scale),
        version=recipe.version,
        description=recipe.description,
        limits=list(recipe.limits),
        residual=recipe.network.residual,
        equivariant=recipe.network.equivariant,
        scaler=scaler,
        training=training,
        envelope=_envelope(recipe, scenes),
        sigma={"architecture": recipe.sigma.architecture} if recipe.sigma.architecture else {},
    )


def _named(files: list[str]) -> list[str]:
    more = [f"and {len(files) - _FILES_NAMED} more"] if len(files) > _FILES_NAMED else []
    return files[:_FILES_NAMED] + more


def _envelope(recipe: Recipe, scenes: list[Scene]) -> dict[str, Any]:
    """What the network has seen: statistics of every scene's coarse field, and the range of coarse cells on Earth."""
    samples = []
    for scene in scenes:
        ny, nx = (n // recipe.scale * recipe.scale for n in scene.values.shape)
        coarse = area_mean(scene.values[:ny, :nx], scene.areas[:ny], recipe.scale, MIN_COVER)
        samples.append(measure(coarse, recipe.scale * scene.cell_m))
    seen = Envelope.of(samples, recipe.units or None)
    cells = [s.cell_m for s, scene in zip(samples, scenes, strict=True) if scene.located]
    return replace(seen, cell_m=(min(cells), max(cells)) if cells else None).to_dict()
