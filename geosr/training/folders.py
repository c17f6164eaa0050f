"""From a folder of rasters to a recipe: what can be read, what is held out, how large the squares are.

What is held out is new to the model in date or in place, never a random draw of squares: neighbours, and the same day,
know too much about each other. Where there are five or more different dates, the last 15 % are held out and the 10 %
before them validate. Else places are: whole ones where there are many, a block at the end of each where there are few
(:mod:`geosr.training.blocks`). The recipe says it all, and training goes by the recipe.
"""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from geosr.errors import GeosrError, GeosrWarning, InputError
from geosr.models.bundle import CARD
from geosr.training.blocks import Blocks, blocks_of, least_length
from geosr.training.choices import PLAIN_ARCHITECTURE, Choices, template
from geosr.training.dates import Span, within
from geosr.training.examples import reach_of, window_sum
from geosr.training.globs import globs_for
from geosr.training.recipe import Data, Recipe
from geosr.training.regions import Place, place_of
from geosr.training.scenes import planes_of, read_truth
from geosr.training.truths import PICTURES, Plane, is_raster, planes_in

#: Shares of the dates, or of the places, that are held out and that validate.
HELDOUT, VALIDATE = 0.15, 0.10

#: From so many dates on, the split is by date; from so many separate places on, whole ones are held out, and where
#: blocks do not fit into them, or they are pictures, from so few.
FEWEST_DATES, MANY_PLACES, FEWEST_PLACES = 5, 8, 3

#: Rasters narrower than this many coarse cells are no use.
LEAST_SIDE = 8

# So many files are named in a warning.
_TOLD = 8

_KINDS = {"train": "training on", "validate": "validating on", "heldout": "holding out"}

#: Tables of a recipe, by kind.
_Sets = dict[str, tuple[Data, ...]]


@dataclass(frozen=True)
class Plan:
    """A recipe for a folder.

    Attributes
    ----------
    recipe : ready for :func:`geosr.training.train`.
    notes : what was found and decided, for people.
    """

    recipe: Recipe
    notes: tuple[str, ...]


def plan(folder: Path, name: str, choices: Choices) -> Plan:
    """The recipe that suits the rasters below ``folder``.

    Parameters
    ----------
    name : of the model to be.
    choices : what the user has settled.

    Raises
    ------
    InputError
        Nothing below it can be read, or it is too little to hold some out.
    ModelError
        Choices that cannot work.
    """
    start = template(choices)
    planes = _survey(folder, start.scale, choices.variable or "")
    sets, how = _split(planes, folder, start)
    if choices.variable:
        sets = {kind: tuple(replace(d, variable=choices.variable) for d in tables) for kind, tables in sets.items()}
    schedule = start.schedule if sets["validate"] else replace(start.schedule, patience=0)
    title = f"trained by geosr train on {folder.resolve().name}"
    recipe = replace(
        start,
        name=name,
        description=title,
        units=_units(planes),
        schedule=schedule,
        train=sets["train"],
        validate=sets["validate"],
        heldout=sets["heldout"],
    )
    recipe = _with_patches(recipe, folder, choices)
    files = len({p.path for p in planes})
    many = _count(len(planes), "raster") + (f" in {_count(files, 'file')}" if len(planes) != files else "")
    kind = "" if planes[0].box is not None else ", plain pictures without georeference: on maps the model is a guess"
    squares = f"{recipe.network.architecture}, x{recipe.scale}, squares of {recipe.patches.size} cells"
    return Plan(recipe, (f"{many}, units {recipe.units or 'as they are'}{kind}", how, squares))


# --- what is there ---------------------------------------------------------------------------------------------


def _survey(folder: Path, scale: int, variable: str) -> list[Plane]:
    """Every plane below ``folder`` that can be trained on; a warning names the files that cannot."""
    planes: list[Plane] = []
    left: dict[Path, str] = {}
    least = LEAST_SIDE * scale
    for path in _rasters(folder):
        try:
            found = planes_in(path, variable if path.suffix.lower() not in PICTURES else "")
        except GeosrError as error:
            left[path] = error.what
            continue
        large = [p for p in found if min(p.shape) >= least]
        if not large:
            left[path] = f"smaller than {least} x {least} cells"
        planes += large
    if any(p.box is not None for p in planes):
        left |= {p.path: "no georeference, and the others are maps" for p in planes if p.box is None}
        planes = [p for p in planes if p.box is not None]
    reasons = _some([f"{path.relative_to(folder)}: {reason}" for path, reason in left.items()], "; ")
    if not planes:
        none = f"none of {_count(len(left), 'raster')} can be trained on ({reasons})"
        what = none if left else "holds no raster"
        raise InputError(what, "put GeoTIFF or NetCDF maps there; geosr info FILE says what geosr sees in one", folder)
    if left:
        warnings.warn(f"{_count(len(left), 'file')} left out: {reasons}", GeosrWarning, stacklevel=2)
    return planes


def _rasters(folder: Path) -> Iterator[Path]:
    """Files below ``folder`` whose name says raster, sorted; nothing hidden, and no files of a model."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name.endswith(".checkpoint"):
            continue
        if path.is_dir():
            if not (path / CARD).is_file():
                yield from _rasters(path)
        elif path.is_file() and is_raster(path):
            yield path


def _units(planes: Sequence[Plane]) -> str:
    """Units to train in: those of the first, if all can be converted to them; "" for numbers as they are."""
    from geosr.units import factor

    first, *others = dict.fromkeys(p.units for p in planes)
    if first is None or None in others:
        return ""
    try:
        for units in others:
            factor(str(units), first)
    except GeosrError:
        return ""
    return first


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _some(names: Sequence[str], separator: str = ", ") -> str:
    more = f"{separator}and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return separator.join(names[:_TOLD]) + more


# --- what is held out ------------------------------------------------------------------------------------------


def _split(planes: list[Plane], folder: Path, recipe: Recipe) -> tuple[_Sets, str]:
    """Tables of files, dates and boxes for training, validation and held-out data; and how that was done."""
    reach = reach_of(recipe)
    by_date = _by_date(planes, folder, reach)
    if by_date is not None:
        return by_date
    groups = _groups(planes, reach)
    if len(groups) >= (FEWEST_PLACES if planes[0].box is None else MANY_PLACES):
        return _by_place(groups, folder)
    blocks = [blocks_of(group, reach, recipe.scale, number) for number, group in enumerate(groups)]
    if any(b.heldout for b in blocks):
        return _by_block(groups, blocks, folder)
    if len(groups) >= FEWEST_PLACES:
        return _by_place(groups, folder)
    raise _too_little(planes, folder, recipe)


def _too_little(planes: list[Plane], folder: Path, recipe: Recipe) -> InputError:
    side = max(max(p.shape) for p in planes)
    tries = [(name, scale) for scale in (recipe.scale, 2) for name in (recipe.network.architecture, PLAIN_ARCHITECTURE)]
    known = recipe.network.architecture, recipe.scale
    fits = [t for t in tries if t != known and least_length(reach_of(template(Choices(t[1], t[0]))), t[1]) <= side]
    smaller = f", or use --architecture {fits[0][0]} --scale {fits[0][1]}, which sees less" if fits else ""
    reach = reach_of(recipe)
    least = least_length(reach, recipe.scale)
    found = f"the longest raster has {side} cells" if side < least else "larger cells or gaps leave less"
    return InputError(
        f"too little to hold some out: {recipe.network.architecture} at x{recipe.scale}, which sees {reach} cells to "
        f"each side, needs {least} in a row; {found}",
        f"add rasters of {FEWEST_PLACES} places, or of {FEWEST_DATES} dates (told by their times or names){smaller}",
        folder,
    )


def _by_date(planes: list[Plane], folder: Path, reach: int) -> tuple[_Sets, str] | None:
    """The last dates held out; None where there are too few."""
    spans = [p.span for p in planes if p.span is not None]
    days = sorted({first for first, _ in spans})
    if len(days) < FEWEST_DATES:
        return None
    held, checked = (max(1, round(share * len(days))) for share in (HELDOUT, VALIDATE))
    starts = [days[0], days[-held - checked], days[-held]]
    eve = dt.timedelta(days=1)
    ends = [starts[1] - eve, starts[2] - eve, max(last for _, last in spans)]
    parts: dict[str, Span] = dict(zip(_KINDS, zip(starts, ends, strict=True), strict=True))
    sets: _Sets = {}
    used: list[Plane] = []
    for kind, (first, last) in parts.items():
        dates = first.isoformat(), last.isoformat()
        own = [p for p in planes if within(p.span, dates)]
        if not own:
            return None
        used += own
        sets[kind] = (_table(own, folder, kind, dates=dates),)
    dated = [p for p in planes if p.span is not None]
    _tell([p for p in dated if p not in used], "their days are on both sides of the split")
    sets["train"] += _undated([p for p in planes if p.span is None], dated, folder, reach)
    return sets, "split by date: " + ", ".join(f"{_KINDS[k]} {a} to {b}" for k, (a, b) in parts.items())


def _undated(planes: list[Plane], dated: list[Plane], folder: Path, reach: int) -> tuple[Data, ...]:
    """A table of rasters without a date that lie elsewhere; in the place of dated ones they may be means over them."""
    places = {place_of(p, (), (), reach) for p in dated}
    apart = [p for p in planes if not any(place_of(p, (), (), reach).near(q) for q in places)]
    _tell([p for p in planes if p not in apart], "no date, in one place with others that have one")
    return (_table(apart, folder, "train"),) if apart else ()


def _tell(planes: Sequence[Plane], reason: str) -> None:
    if planes:
        names = list(dict.fromkeys(p.path.name for p in planes))
        warnings.warn(f"left out ({reason}): {_some(names)}", GeosrWarning, stacklevel=2)


def _groups(planes: list[Plane], reach: int) -> list[list[Plane]]:
    """Planes that lie in one place, or nearer than the network sees, together; by first appearance."""
    places: dict[Place, list[int]] = {}
    for number, plane in enumerate(planes):
        places.setdefault(place_of(plane, (), (), reach), []).append(number)
    groups: list[tuple[list[Place], list[int]]] = []
    for place, members in places.items():
        touching = [g for g in groups if any(place.near(p) for p in g[0])]
        apart = [g for g in groups if not any(g is t for t in touching)]
        joined = ([p for g in touching for p in g[0]] + [place], [n for g in touching for n in g[1]] + members)
        groups = [*apart, joined]
    return [[planes[n] for n in numbers] for numbers in sorted(sorted(members) for _, members in groups)]


def _by_place(groups: list[list[Plane]], folder: Path) -> tuple[_Sets, str]:
    """Whole places held out, drawn at random; always the same for the same folder."""
    order = [int(i) for i in np.random.default_rng(1).permutation(len(groups))]
    held, checked = (max(1, round(share * len(groups))) for share in (HELDOUT, VALIDATE))
    kinds = {"train": order[held + checked :], "validate": order[held : held + checked], "heldout": order[:held]}
    sets: _Sets = {k: (_table([p for i in sorted(n) for p in groups[i]], folder, k),) for k, n in kinds.items()}
    told = ", ".join(f"{_KINDS[kind]} {len(numbers)}" for kind, numbers in kinds.items())
    return sets, f"split by place, of {len(groups)} separate ones: {told}"


def _by_block(groups: list[list[Plane]], blocks: list[Blocks], folder: Path) -> tuple[_Sets, str]:
    """A block at the end of each place held out."""
    parts = list(zip(groups, blocks, strict=True))
    if groups[0][0].box is not None:
        # Boxes on Earth mean the same in every file; on pictures, each needs tables of its own.
        parts = [([p for group in groups for p in group], Blocks.together(blocks))]
    sets: _Sets = {"train": (), "validate": (), "heldout": ()}
    for members, cut in parts:
        sets["train"] += (_table(members, folder, "train", outside=cut.closed),)
        for kind, boxes in (("validate", cut.validate), ("heldout", cut.heldout)):
            own = [p for p in members if boxes and place_of(p, boxes, (), 0).rects]
            sets[kind] += (_table(own, folder, kind, region=boxes),) if own else ()
    held = sum(bool(b.heldout) for b in blocks)
    ends = "the place" if len(groups) == 1 else f"{held} of {len(groups)} separate places"
    small = "" if sets["validate"] else "; too small to validate on another"
    return sets, f"split by region: holding out a block at the end of {ends}{small}"


def _table(planes: Sequence[Plane], folder: Path, kind: str, **where: object) -> Data:
    """A table of a recipe; every raster counts alike."""
    files = globs_for([p.path for p in planes], folder)
    label = {"train": "", "validate": ", for validation", "heldout": ", held out"}[kind]
    return Data(files, name=f"{folder.resolve().name}{label}", weight=float(len(planes)), **where)  # type: ignore[arg-type]


# --- how large the squares are -----------------------------------------------------------------------------------

# Rasters looked at to choose the squares; and what of the fullest squares' valid share is asked of every one.
_LOOKED, _ENOUGH = 12, 0.6


def _with_patches(recipe: Recipe, folder: Path, choices: Choices) -> Recipe:
    """The recipe with squares that fit into the data, and that ask of it no more valid cells than it has."""
    looked = _looked_at(recipe.train, recipe, folder)
    sides = [min(v.shape) for v in looked if v.size]
    size = recipe.patches.size
    if choices.patch is None and sides:
        fits = int(np.median(sides)) // recipe.scale * recipe.scale
        size = max(min(size, fits), recipe.scale)
    shares = [share for v in looked if (share := _fullest(~np.isnan(v), size))]
    if not shares:
        raise InputError("the rasters to train on have no valid cell", "check their nodata values", folder)
    least = min(recipe.patches.min_valid, _ENOUGH * float(np.median(shares)))
    checked = [_fullest(~np.isnan(v), size) for v in _looked_at(recipe.validate, recipe, folder)]
    if recipe.validate and not any(checked):
        _warn_unvalidated()
        recipe = replace(recipe, validate=(), schedule=replace(recipe.schedule, patience=0))
    elif checked:  # one square to look at is enough
        least = min(least, _ENOUGH * max(checked))
    return replace(recipe, patches=replace(recipe.patches, size=size, min_valid=float(f"{least:.2g}")))


def _looked_at(sets: tuple[Data, ...], recipe: Recipe, folder: Path) -> list[np.ndarray]:
    """Some of the sets' truths."""
    chosen = [(p, data) for data in sets for p in planes_of(data, folder, recipe.units)]
    return [read_truth(p, data)[0] for p, data in chosen[:: max(1, -(-len(chosen) // _LOOKED))]]


def _warn_unvalidated() -> None:
    text = "no valid cell to validate on: training goes to its end, without early stopping"
    warnings.warn(text, GeosrWarning, stacklevel=2)


def _fullest(valid: np.ndarray, size: int) -> float:
    """Largest valid share of a square, of what a square can have where the raster is smaller."""
    height, width = (min(size, n) for n in valid.shape)
    more = [(0, max(size - n, 0)) for n in valid.shape]
    return float(window_sum(np.pad(valid, more), size).max()) / (height * width)
