"""How good a trained network is on data that it has not seen, for its card.

The protocol is that of :mod:`geosr.evaluation`; the degradation is the recipe's, in the middle of its ranges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geosr.degrade import Degradation
from geosr.evaluation.baselines import BICUBIC
from geosr.evaluation.evaluate import EmptyTruth, Settings, evaluate_array
from geosr.evaluation.gains import BLOCK
from geosr.evaluation.results import BEST, Evaluation, Evaluations
from geosr.models import Model
from geosr.training.recipe import Data, Recipe, Response
from geosr.training.scenes import load_scenes

#: From so many scenes on, intervals are over scenes; of fewer, over blocks of them.
ENOUGH_SCENES = 5


def skill_on(data: Data, recipe: Recipe, folder: Path, model: Model) -> dict[str, Any]:
    """Scores of every method on a held-out set; plain data.

    Returns
    -------
    Empty where no scene of the set can be scored: all too small, without a value, or constant. Else:

    ``name``, ``scenes`` (how many), ``cells`` (which are scored), ``degradation``;
    ``psnr`` (dB, relative to each scene's own range), ``rmse`` (the recipe's units), ``ssim``: method -> mean over the
    scenes; the network is called by its family;
    ``worst_gain`` : smallest PSNR gain over the best interpolation in any scene;
    ``gain`` : over "bicubic" and "best interpolation" (of each scene) -> {db, low, high}, the mean gain with its 95 %
    bootstrap interval (over what, ``interval`` says), whose ends are None where there is too little to draw from;
    ``sigma`` : where the model predicts its error, the shares of errors within one and two sigma (mean over scenes).
    """
    settings = Settings(degradation_of(recipe.degradation))
    found = []
    for index, scene in enumerate(load_scenes(recipe, folder, (data,))):
        ny, nx = (n // recipe.scale * recipe.scale for n in scene.values.shape)
        truth, areas = scene.values[:ny, :nx], scene.areas[:ny]
        try:
            one = evaluate_array(
                truth, areas, recipe.scale, model, units=recipe.units or None, settings=settings, index=index
            )
        except EmptyTruth:
            continue
        # A constant truth has no range to score against; nor does anything gain on a perfect interpolation.
        if all(math.isfinite(s.psnr) for s in one.judged.scores.values()):
            found.append(one)
    if not found:
        return {}
    tables = [e.judged for e in found]
    entry: dict[str, Any] = {
        "name": data.label,
        "scenes": len(found),
        "cells": ", ".join(dict.fromkeys(t.label for t in tables)),
        "degradation": str(settings.degradation),
    }
    for key, digits in (("psnr", 3), ("rmse", 5), ("ssim", 5)):
        entry[key] = {m: _mean([getattr(t.scores[m], key) for t in tables], digits) for m in tables[0].scores}
    entry["worst_gain"] = round(min(t.gain(t.best_interpolation) for t in tables), 3)
    entry |= _gains(found)
    bands = [t.sigma[model.family] for t in tables if model.family in t.sigma]
    if bands:
        entry["sigma"] = {k: _mean([getattr(b, k) for b in bands], 4) for k in ("one_sigma", "two_sigma")}
    return entry


def degradation_of(response: Response) -> Degradation:
    """The degradation in the middle of a recipe's ranges: the geometric one of the response, which is a ratio."""
    noise = sum(response.noise_range) / 2
    if not response.mtf:
        return Degradation(noise=noise)
    x, y = (math.sqrt(low * high) for low, high in response.mtf_ranges)
    return Degradation("psf", (x, y), noise)


def _mean(values: Sequence[float], digits: int) -> float | None:
    """Mean of the numbers among ``values`` (SSIM needs whole windows, and may not exist); None without one."""
    known = [v for v in values if math.isfinite(v)]
    return round(float(np.mean(known)), digits) if known else None


def _gains(found: list[Evaluation]) -> dict[str, Any]:
    """Mean gains with intervals: over scenes; of few scenes, over the blocks of each, where there are enough."""
    blocks = len(found) < ENOUGH_SCENES and all(g.low is not None for e in found for g in e.gains)
    gains: dict[str, dict[str, float | None]] = {}
    for gain in Evaluations.of(found).gains:
        low, high = _within_scenes(found, gain.over) if blocks else (gain.low, gain.high)
        ends = {"db": gain.db, "low": low, "high": high}
        gains[gain.over] = {k: None if v is None else round(v, 3) for k, v in ends.items()}
    scenes = f"{len(found)} scene{'s' if len(found) > 1 else ''}"
    over = f"blocks of {BLOCK} x {BLOCK} coarse cells in {scenes}" if blocks else scenes
    known = all(g["low"] is not None for g in gains.values())
    return {"gain": gains, "interval": f"95 %, bootstrap over {over}" if known else "none: too little data"}


def _within_scenes(found: list[Evaluation], over: str) -> tuple[float, float]:
    """Interval of the mean of independent gains, each with its own over blocks: half-widths add up in squares."""
    total = below = above = 0.0
    for one in found:
        wanted = one.judged.best_interpolation if over == BEST else BICUBIC
        gain = next(g for g in one.gains if g.over == wanted)
        low, high = (gain.db if v is None else v for v in (gain.low, gain.high))
        total, below, above = total + gain.db, below + (gain.db - low) ** 2, above + (high - gain.db) ** 2
    n = len(found)
    return total / n - math.sqrt(below) / n, total / n + math.sqrt(above) / n
