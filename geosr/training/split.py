"""Is what a model is judged on new to it? No place and date may be in two of a recipe's sets.

Two truths that share a day (or of whose days one is not known) must not share a cell, and keep the network's reach
apart: a prediction depends on cells that far away, and so would be seen. Composites are made of a set's own rasters, so
they hold no more than these do; a raster that is itself a mean of several days is of all of them
(:mod:`geosr.training.dates`). Two with the same values in one place are one raster, whatever their dates say.

Nor may a model that training starts from have seen what is held out, or validates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from geosr.errors import ModelError
from geosr.models.bundle import Card
from geosr.training.dates import Span, meet, span_between
from geosr.training.examples import reach_of
from geosr.training.recipe import Data, Recipe, from_dict
from geosr.training.regions import Place, place_of
from geosr.training.scenes import check_memory, planes_of
from geosr.training.truths import Plane

# So many files are named in a message. What a card says in place of names that it has no room for.
_TOLD, _MORE = 5, re.compile(r"and \d+ more")

_NAMES = {"train": "trained on", "validate": "used for validation", "heldout": "held out"}


@dataclass(frozen=True)
class _Item:
    plane: Plane

    @property
    def label(self) -> str:
        return self.plane.label

    @property
    def span(self) -> Span | None:
        return self.plane.span


def check_split(recipe: Recipe, folder: Path) -> None:
    """Raise :class:`ModelError` if a place and date is in two of training, validation and held-out sets, or a raster is
    in two of them under different dates.

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
    check_memory(planes)  # their values will be compared
    return [(place_of(p, data.region, data.outside, reach), _Item(p)) for p in planes]


def _check_pair(sets: dict[str, dict[Place, list[_Item]]], first: str, second: str) -> None:
    for here, ours in sets[first].items():
        for there, theirs in sets[second].items():
            if not here.near(there):
                continue
            if found := _shared(ours, theirs):
                a, b = found
                text = f"{_told(b)}, which is {_NAMES[second]}, has a place and date in common with "
                text += f"{_told(a)}, which is {_NAMES[first]}"
                if a.label == b.label:
                    text = f"{b.label} is {_NAMES[second]} and {_NAMES[first]}"
                raise ModelError(
                    text, "separate the sets by dates, or by region and outside, the network's reach apart"
                )
            if found := _copies(ours, theirs):
                a, b = found
                text = f"{_told(b)}, which is {_NAMES[second]}, has the same values as "
                text += f"{_told(a)}, which is {_NAMES[first]}"
                raise ModelError(text, "remove one of the two: a raster and its copy are of the same days")


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


def _copies(ours: list[_Item], theirs: list[_Item]) -> tuple[_Item, _Item] | None:
    """A pair with the same values."""
    known = {a.plane.digest: a for a in reversed(ours) if a.plane.digest}
    return next(((known[b.plane.digest], b) for b in theirs if b.plane.digest in known), None)


def _told(item: _Item) -> str:
    if item.span is None:
        return f"{item.label} (date not known)"
    first, last = item.span
    return f"{item.label} ({first})" if first == last else f"{item.label} ({first} to {last})"


# --- the model that training starts from --------------------------------------------------------------------------


def check_start(recipe: Recipe, folder: Path, card: Card) -> None:
    """Raise :class:`ModelError` if what is held out, or validates, was trained on by the model to start from.

    Files are told by their names. Where the card has the recipe, only what that recipe takes of a file counts: a file
    split by dates or by region is split the same way when training goes on. The models that it was itself started
    from count alike.

    Parameters
    ----------
    card : of the model to start from.
    """
    for kind in ("validate", "heldout"):
        seen: dict[str, None] = {}
        for data in getattr(recipe, kind):
            for plane in planes_of(data, folder, recipe.units):
                if any(_was_seen(plane, data, training) for training in generations(card)):
                    seen[plane.path.name] = None
        if not seen:
            continue
        names = list(seen)
        more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
        spans = [d["dates"] for t in generations(card) for d in t.get("data", ()) if d.get("dates")]
        dates = f" (its data are of {min(s[0] for s in spans)} to {max(s[1] for s in spans)})" if spans else ""
        raise ModelError(
            f"{', '.join(names[:_TOLD])}{more}: {_NAMES[kind]}, but {card.name}, which training starts from, was "
            f"trained on {'that' if len(names) == 1 else 'those'}{dates}",
            "hold out other files, or start from another model",
        )


def generations(card: Card) -> Iterator[dict[str, Any]]:
    """``training`` of a model's card, of the model that it was started from, and so on."""
    training: Any = card.training
    while isinstance(training, dict) and training:
        yield training
        training = training.get("start")


def _was_seen(plane: Plane, data: Data, training: dict[str, Any]) -> bool:
    """Was what ``data`` takes of ``plane`` among what a card says under ``training``?"""
    name, files = plane.path.name, list(training.get("files", ()))
    sets, reach = _sets_of(training, name)
    if name not in files and not (sets and files and _MORE.fullmatch(files[-1])):
        return False
    if not sets:
        return True
    ours = place_of(plane, data.region, data.outside, reach)
    return any(
        meet(plane.span, span_between(s.dates) if s.dates else None)
        and ours.near(place_of(plane, s.region, s.outside, reach * max(s.coarsen)))
        for s in sets
    )


def _sets_of(training: dict[str, Any], name: str) -> tuple[list[Data], int]:
    """The training sets of a card's recipe whose globs may find ``name``, and the reach; none without a recipe."""
    try:
        recipe = from_dict(training["recipe"])
    except (KeyError, TypeError, ModelError):  # none, or of another version
        return [], 0
    return [d for d in recipe.train if any(PurePath(name).match(PurePath(g).name) for g in d.globs)], reach_of(recipe)
