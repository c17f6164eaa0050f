"""Recipes: what decides a training run, read from TOML and checked before hours are spent on it."""

from __future__ import annotations

import datetime as dt
import json
import os
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from geosr.errors import ModelError
from geosr.models.architectures import architecture


@dataclass(frozen=True)
class Data:
    """A set of rasters.

    Attributes
    ----------
    files : glob, relative to the data folder.
    units : of the values; None if the file says it and it need not be checked.
    dates : first and last day that belongs to the set, inclusive, by the date (YYYYMMDD) in the file's name; None
        takes every file.
    composites : lengths of runs of consecutive files to average; 1 is the files themselves. Longer means have less
        noise and smoother plumes.
    coarsen : factors by which a truth is area-averaged to serve as the truth of a coarser sensor; 1 is as it is.
    weight : factor on this set's share of the examples.
    name, licence : for the card.
    """

    files: str
    units: str | None = None
    dates: tuple[str, str] | None = None
    composites: tuple[int, ...] = (1,)
    coarsen: tuple[int, ...] = (1,)
    weight: float = 1.0
    name: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Network:
    """Architecture by registry name; ``equivariant`` as in :mod:`geosr.models.keras_network`."""

    architecture: str = "srcnn-9-3-5"
    residual: bool = True
    equivariant: bool = True


@dataclass(frozen=True)
class Patches:
    """What an example is, and where it is taken.

    Attributes
    ----------
    size : side in fine cells, a multiple of the scale.
    batch : examples per step.
    min_valid : least valid share.
    contrast_power : a square is drawn with a probability in proportion to the standard deviation of its truth to this
        power. 0 draws them evenly; 1 goes where the plumes are, and few steps are spent on clean background.
    """

    size: int = 48
    batch: int = 16
    min_valid: float = 0.5
    contrast_power: float = 0.0


@dataclass(frozen=True)
class Loss:
    """``kind`` "charbonnier" (sqrt(e^2 + epsilon^2)) or "mse", of the error in spreads of the patch."""

    kind: str = "charbonnier"
    epsilon: float = 0.01
    conserve: bool = True
    spread_power: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """Adam with a short warm-up to ``learning_rate`` and cosine decay to zero over ``steps``."""

    steps: int = 4000
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run. ``train`` and ``heldout`` must not share a file."""

    name: str
    scale: int
    train: tuple[Data, ...]
    heldout: tuple[Data, ...] = ()
    version: str = "1"
    description: str = ""
    units: str = "1e15 molec cm-2"
    seed: int = 1
    network: Network = field(default_factory=Network)
    patches: Patches = field(default_factory=Patches)
    loss: Loss = field(default_factory=Loss)
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        whole = isinstance(self.scale, int) and 2 <= self.scale <= 16
        _require(whole, "scale", self.scale, "use a whole number from 2 to 16")
        architecture(self.network.architecture)
        size, least = self.patches.size, self.patches.min_valid
        _require(size > 0 and size % self.scale == 0, "patches.size", size, "make it a multiple of the scale")
        _require(0 < least <= 1, "patches.min_valid", least, "use a share above 0, up to 1")
        _require(self.loss.kind in ("charbonnier", "mse"), "loss.kind", self.loss.kind, "use charbonnier or mse")
        _require(self.schedule.steps > 0, "schedule.steps", self.schedule.steps, "use 1 or more")
        _require(bool(self.train), "train", [], "add a [[train]] table")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the card."""
        return json.loads(json.dumps(asdict(self)))

    def with_steps(self, steps: int) -> Recipe:
        """A shorter or longer run of the same recipe."""
        return replace(self, schedule=replace(self.schedule, steps=steps))


def _require(good: bool, key: str, value: object, hint: str) -> None:
    if not good:
        raise ModelError(f"recipe: {key} = {value!r} does not work", hint)


def _table(kind: type, values: object, where: str) -> Any:
    """Dataclass ``kind`` from a TOML table; unknown keys are errors, not silently ignored wishes."""
    if not isinstance(values, dict):
        raise ModelError(f"recipe: [{where}] is not a table", "see geosr/recipes for examples")
    known = {f.name for f in fields(kind)}
    for key in values:
        if key not in known:
            raise ModelError(f"recipe: {where} has no option {key!r}", f"known: {', '.join(sorted(known))}")
    tidy = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    try:
        return kind(**tidy)
    except TypeError as error:
        raise ModelError(f"recipe: {where} is incomplete ({error})", "see geosr/recipes for examples") from error


def parse_recipe(text: str) -> Recipe:
    """A recipe from TOML text.

    Raises
    ------
    ModelError
        TOML that does not parse, unknown or missing keys, values that cannot work.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ModelError(f"recipe: {error}", "repair the TOML") from error
    for key, kind in (("network", Network), ("patches", Patches), ("loss", Loss), ("schedule", Schedule)):
        if key in raw:
            raw[key] = _table(kind, raw[key], key)
    for key in ("train", "heldout"):
        if key in raw:
            raw[key] = [_table(Data, d, key) for d in (raw[key] if isinstance(raw[key], list) else [raw[key]])]
    return _table(Recipe, raw, "recipe")


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """The recipe in a file, or one of geosr's own by name (``no2-srcnn-9-3-5-x4``)."""
    file = Path(path)
    if not file.is_file():
        own = Path(__file__).parent / "recipes" / f"{path}.toml"
        if not own.is_file():
            names = sorted(p.stem for p in own.parent.glob("*.toml"))
            raise ModelError(f"no recipe {str(path)!r}", f"give a TOML file or one of {', '.join(names)}")
        file = own
    return parse_recipe(file.read_text(encoding="utf-8"))


def within(day: dt.date | None, dates: tuple[str, str] | None) -> bool:
    """Does a file of that day belong to a set with these dates?"""
    if dates is None:
        return True
    return day is not None and dt.date.fromisoformat(dates[0]) <= day <= dt.date.fromisoformat(dates[1])
