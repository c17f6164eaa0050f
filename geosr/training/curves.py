"""The curve of a training run: as a table, and as a picture."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geosr.training.fitting import Row
from geosr.training.recipe import Recipe

CSV, PNG = "training.csv", "training.png"

_TITLES = {"model": "network", "sigma": "sigma: the network for the error"}
_LOSS, _VALIDATION, _CHOSEN = "#0072b2", "#d55e00", "#7f7f7f"  # of Okabe & Ito's, safe for colour-blind eyes


def chosen_step(curve: Sequence[Row], patience: int) -> int:
    """The step whose weights were kept: with early stopping that of the least validation loss, else the last."""
    looks = [row for row in curve if row.validation is not None]
    if patience and looks:
        return min(looks, key=lambda row: (row.validation, row.step)).step
    return curve[-1].step


def write_csv(place: Path, curve: Sequence[Row]) -> None:
    """``training.csv`` in the folder ``place``: phase, step, mean loss since the line before, validation loss."""
    with (place / CSV).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["phase", "step", "loss", "validation"])
        for row in curve:
            validation = "" if row.validation is None else f"{row.validation:.6g}"
            writer.writerow([row.phase, row.step, f"{row.loss:.6g}", validation])


def draw(place: Path, curve: Sequence[Row], recipe: Recipe) -> bool:
    """``training.png`` in the folder ``place``; False where there is no matplotlib to draw it."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    phases = list(dict.fromkeys(row.phase for row in curve))
    figure = Figure(figsize=(5.0 * len(phases), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for ax, phase in zip(figure.subplots(1, len(phases), squeeze=False)[0], phases, strict=True):
        _panel(ax, [row for row in curve if row.phase == phase], recipe, phase)
    figure.suptitle(recipe.name, fontsize=10, parse_math=False)
    figure.savefig(place / PNG, dpi=150)
    return True


def _panel(ax: Any, rows: Sequence[Row], recipe: Recipe, phase: str) -> None:
    from matplotlib.ticker import NullFormatter

    steps = [row.step for row in rows]
    ax.plot(
        steps,
        [row.loss for row in rows],
        ".-",
        color=_LOSS,
        lw=1.2,
        ms=3,
        label="training (mean between points)",
    )
    looks = [(row.step, row.validation) for row in rows if row.validation is not None]
    if looks:
        ax.plot(*zip(*looks, strict=True), "o-", color=_VALIDATION, lw=0.8, ms=3.5, label="validation")
    chosen = chosen_step(rows, recipe.schedule.patience if phase == "model" else 0)
    ax.axvline(chosen, color=_CHOSEN, ls="--", lw=1, label=f"kept: step {chosen}")
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}" if high < 10 * low else NullFormatter())  # a decade has ticks enough
    ax.set_xlim(0, 1.02 * steps[-1])
    name = recipe.network.architecture if phase == "model" else recipe.sigma.architecture
    ax.set_title(f"{_TITLES.get(phase, phase)}, {name}", fontsize=9)
    ax.set_xlabel("step")
    kind = recipe.loss.kind if phase == "model" else "pinball"
    unit = "errors of bicubic" if phase == "model" and recipe.loss.relative else "spreads of the patch"
    ax.set_ylabel(f"{kind} loss ({unit})")
    ax.grid(True, which="both", lw=0.3, alpha=0.6)
    ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False, columnspacing=1)
