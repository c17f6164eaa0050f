"""Is what a model is judged on new to it? No place and date may be in two of a recipe's sets.

Two truths that share a day (or of whose days one is not known) must not share a cell, and keep the network's reach
apart: a prediction depends on cells that far away, and so would be seen. Composites are made of a set's own rasters, so
they hold no more than these do; a raster that is itself a mean of several days is of all of them
(:mod:`geosr.training.dates`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geosr.errors import ModelError
from geosr.training.dates import Span, meet
from geosr.training.examples import reach_of
from geosr.training.recipe import Data, Recipe
from geosr.training.regions import Place, place_of
from geosr.training.scenes import planes_of

_NAMES = {"train": "trained on", "validate": "used for validation", "heldout": "held out"}


@dataclass(frozen=True)
class _Item:
    label: str
    span: Span | None


def check_split(recipe: Recipe, folder: Path) -> None:
    """Raise :class:`ModelError` if a place and date is in two of training, validation and held-out sets.

    Parameters
    ----------
    folder : that the recipe's files are in.
    """
    cells = reach_of(recipe)
    sets: dict[str, dict[Place, list[_Item]]] = {}
    for kind in _NAMES:
        sets[kind] = {}
        for data in getattr(recipe, kind):
            for place, item in _items(data, recipe, folder, cells):
                sets[kind].setdefault(place, []).append(item)
    kinds = list(_NAMES)
    for number, first in enumerate(kinds):
        for second in kinds[number + 1 :]:
            _check_pair(sets, first, second)


def _items(data: Data, recipe: Recipe, folder: Path, cells: int) -> list[tuple[Place, _Item]]:
    """Place and days of each truth of a set. A coarser variant sees farther, in cells of the file."""
    reach = cells * max(data.coarsen)
    planes = planes_of(data, folder, recipe.units)
    return [(place_of(p, data.region, data.outside, reach), _Item(p.label, p.span)) for p in planes]


def _check_pair(sets: dict[str, dict[Place, list[_Item]]], first: str, second: str) -> None:
    for here, ours in sets[first].items():
        for there, theirs in sets[second].items():
            found = _shared(ours, theirs)
            if found is None or not here.near(there):
                continue
            a, b = found
            if a.label == b.label:
                text = f"{b.label} is {_NAMES[second]} and {_NAMES[first]}"
            else:
                text = f"{b.label} ({_when(b)}), which is {_NAMES[second]}, has a place and date in common with "
                text += f"{a.label} ({_when(a)}), which is {_NAMES[first]}"
            raise ModelError(text, "separate the sets by dates, or by region and outside, the network's reach apart")


def _shared(ours: list[_Item], theirs: list[_Item]) -> tuple[_Item, _Item] | None:
    """A pair that shares a day, one with the same label if there is one."""
    # A set of thousands of hours is compared with another in a blink: by the days, each once.
    days = {a.span: a for a in reversed(ours)}
    others = {b.span: b for b in reversed(theirs)}
    for span, item in days.items():
        for other, match in others.items():
            if meet(span, other):
                names = {b.label: b for b in theirs if meet(span, b.span)}
                same = next((a for a in ours if a.span == span and a.label in names), None)
                return (same, names[same.label]) if same is not None else (item, match)
    return None


def _when(item: _Item) -> str:
    if item.span is None:
        return "date not known"
    first, last = item.span
    return str(first) if first == last else f"{first} to {last}"
