"""Recipes: what decides a training run, read from TOML and checked before hours are spent on it.

docs/training.md describes every key for readers.
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from geosr.errors import InputError, ModelError, blame
from geosr.models.architectures import FAMILIES, architecture
from geosr.training.checks import Box, boxes_of, dates_of, is_number, is_whole, require, span_of

LOSSES = ("charbonnier", "mse")
DECAYS = ("cosine", "constant")
PRECISIONS = ("float32", "mixed_bfloat16")


@dataclass(frozen=True)
class Data:
    """A set of rasters: each file, or each time or band of it, is a truth.

    Attributes
    ----------
    files : glob, or globs, relative to the data folder.
    variable : name of the variable or band, where a file leaves a choice; "" takes the obvious one
        (:mod:`geosr.variables`), or every band of an image.
    units : of the values; None if the file says it and it need not be checked.
    dates : first and last day that belongs to the set, inclusive, by the times in the file or the date in its name
        (:mod:`geosr.training.dates`); None takes every file.
    region, outside : boxes; the set has only cells whose centre is inside one of the first, and in none of the second.
        Empty: everywhere, and nothing. A box is [west, south, east, north] in degrees (:data:`checks.Box`).
    composites : lengths of runs of consecutive files to average; 1 is the files themselves. Longer means have less
        noise and smoother plumes.
    coarsen : factors by which a truth is area-averaged to serve as the truth of a coarser sensor; 1 is as it is.
    blur : standard deviations, in fine cells, of a Gaussian that smooths a truth, as oversampling does; 0 is as it is.
    weight : share of the examples, in proportion to the other sets'; within a set all scenes count alike.
    name, licence : for the card.
    """

    files: str | tuple[str, ...]
    units: str | None = None
    dates: tuple[str, str] | None = None
    composites: tuple[int, ...] = (1,)
    coarsen: tuple[int, ...] = (1,)
    blur: tuple[float, ...] = (0.0,)
    weight: float = 1.0
    name: str = ""
    licence: str = ""
    variable: str = ""
    region: tuple[Box, ...] = ()
    outside: tuple[Box, ...] = ()

    def __post_init__(self) -> None:
        require(
            bool(self.globs) and all(isinstance(g, str) and g for g in self.globs), "files", self.files, "give globs"
        )
        if self.dates is not None:
            object.__setattr__(self, "dates", dates_of(self.dates))
        for key in ("region", "outside"):
            object.__setattr__(self, key, boxes_of(key, getattr(self, key)))
        for key in ("composites", "coarsen"):
            value = getattr(self, key)
            whole = isinstance(value, tuple) and bool(value) and all(is_whole(n) and n >= 1 for n in value)
            require(whole, key, value, "use a list of whole numbers from 1")
        blurs = isinstance(self.blur, tuple) and bool(self.blur) and all(is_number(b) and b >= 0 for b in self.blur)
        require(blurs, "blur", self.blur, "use a list of numbers from 0")
        require(is_number(self.weight) and self.weight > 0, "weight", self.weight, "use a number above 0")

    @property
    def globs(self) -> tuple[str, ...]:
        """The globs, also where there is one."""
        return (self.files,) if isinstance(self.files, str) else tuple(self.files)

    @property
    def label(self) -> str:
        """What to call the set."""
        more = f" and {len(self.globs) - 1} more" if len(self.globs) > 1 else ""
        return self.name or f"{self.globs[0]}{more}"


@dataclass(frozen=True)
class Simulated:
    """Scenes that :mod:`geosr.simulate` invents, and how they were seen.

    Each is drawn at random, by ``seed``: as it is, smoothed, or as the mean of several passes of an instrument whose
    pixels are larger than the cells; then averaged to coarser cells, with noise.

    Attributes
    ----------
    scenes : how many.
    cells : side of each, before it is averaged.
    resolution : cell sizes in degrees to choose from.
    days : numbers of days to choose from whose mean a scene is.
    coarsen : factors to choose from by which a scene is area-averaged.
    noise : standard deviations to choose from, in the recipe's units; each is multiplied by 0.3 to 3.
    weight : as in :class:`Data`.
    """

    scenes: int = 60
    seed: int = 1
    cells: int = 400
    resolution: tuple[float, ...] = (0.0125, 0.025)
    days: tuple[int, ...] = (1, 1, 4)
    coarsen: tuple[int, ...] = (1, 2, 3)
    noise: tuple[float, ...] = (0.0, 0.02, 0.05, 0.2, 1.0)
    weight: float = 1.0
    name: str = "scenes simulated by geosr: plumes of cities, roads and power plants"
    licence: str = "made by geosr itself"


@dataclass(frozen=True)
class Response:
    """How the sensor sees a truth, before and beside the area mean; by default it does no more than average.

    Attributes
    ----------
    mtf : response of a Gaussian point spread function at the coarse Nyquist frequency, across (x) and along (y) track
        (:func:`geosr.degrade.psf`): two numbers, or two ranges to draw from for each example. Empty: no blur.
    noise : standard deviation of Gaussian noise on coarse cells, in the recipe's units: a number, or a range to draw
        from for each example.
    """

    mtf: tuple[Any, ...] = ()
    noise: Any = 0.0

    def __post_init__(self) -> None:
        mtf = self.mtf_ranges
        good = self.mtf == () or (len(mtf) == 2 and all(0 < low <= high <= 1 for low, high in mtf))
        require(good, "degradation.mtf", self.mtf, "use [x, y] or [[low, high], [low, high]], above 0 and up to 1")
        low, high = self.noise_range
        require(0 <= low <= high < math.inf, "degradation.noise", self.noise, "use a number from 0, or [low, high]")

    @property
    def mtf_ranges(self) -> tuple[tuple[float, float], ...]:
        """(smallest, largest) response in x and in y; empty without blur."""
        return tuple(span_of(m) for m in self.mtf) if isinstance(self.mtf, tuple) else (span_of(None),)

    @property
    def noise_range(self) -> tuple[float, float]:
        """Smallest and largest standard deviation."""
        return span_of(self.noise)

    def __bool__(self) -> bool:
        return bool(self.mtf) or self.noise_range[1] > 0


@dataclass(frozen=True)
class Network:
    """What to train.

    Attributes
    ----------
    architecture : by registry name.
    residual : add the network's output to the bicubic refinement.
    equivariant : as in :mod:`geosr.models.keras_network`.
    init : name or path of a model whose weights training starts from, wherever a layer has the same shape (all but the
        last, between scales of one architecture); "" starts from random ones.
    """

    architecture: str = "srcnn-9-3-5"
    residual: bool = True
    equivariant: bool = True
    init: str = ""


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
    edge : share of examples at a raster's edge: on some sides, the coarse field is continued by its edge values, as in
        inference.
    """

    size: int = 48
    batch: int = 16
    min_valid: float = 0.5
    contrast_power: float = 0.0
    edge: float = 0.0


@dataclass(frozen=True)
class Loss:
    """``kind`` "charbonnier" (sqrt(e^2 + epsilon^2)) or "mse", of the error in spreads of the patch.

    Attributes
    ----------
    conserve : of the error after conservation, which takes each coarse cell's mean error away.
    spread_power : weight of an example: its spread to this power.
    relative : above 0, the errors of a square are divided by the root mean square error of its conserved bicubic
        refinement plus this (in spreads), before ``epsilon`` is applied: what counts is what the network gains, in
        smooth squares as much as in rough ones.
    """

    kind: str = "charbonnier"
    epsilon: float = 0.01
    conserve: bool = True
    spread_power: float = 0.0
    relative: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """Adam, by default with a short warm-up to ``learning_rate`` and cosine decay to zero over ``steps``.

    Attributes
    ----------
    decay : "cosine", with gradients clipped to a norm of 1; or "constant": the same rate at every step, without
        warm-up, and gradients as they are. The network for the error always has the first.
    validate_every : steps between looks at the validation sets, and between checkpoints.
    patience : looks without a better validation loss after which training stops, with the best weights; 0 never
        stops early, and keeps the last weights.
    precision : what the network is computed in: "float32", or "mixed_bfloat16" (weights and loss stay float32), which
        pays where the processor or GPU multiplies bfloat16.
    """

    steps: int = 4000
    learning_rate: float = 1e-3
    validate_every: int = 250
    patience: int = 0
    decay: str = "cosine"
    precision: str = "float32"


@dataclass(frozen=True)
class Sigma:
    """The small network that predicts the error: architecture by registry name ("" for none), and its schedule.

    Attributes
    ----------
    tail_weight : weight of two sigma against one in the loss. Errors have heavier tails than a normal distribution, the
        more so the larger the scale, so no sigma fits both; a larger weight takes more errors within either.
    """

    architecture: str = ""
    steps: int = 1000
    learning_rate: float = 2e-3
    tail_weight: float = 1.0


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a training run.

    ``train``, ``validate`` (watched while training, for early stopping) and ``heldout`` (scored once, for the card)
    must not share a place and date (:mod:`split`). ``units`` are those of the fields; "" takes the numbers as
    they are. ``degradation`` holds for all three. ``limits`` are sentences for the card: what the model is not for.
    """

    name: str
    scale: int
    train: tuple[Data, ...] = ()
    simulate: tuple[Simulated, ...] = ()
    validate: tuple[Data, ...] = ()
    heldout: tuple[Data, ...] = ()
    version: str = "1"
    description: str = ""
    limits: tuple[str, ...] = ()
    units: str = "1e15 molec cm-2"
    seed: int = 1
    degradation: Response = field(default_factory=Response)
    network: Network = field(default_factory=Network)
    patches: Patches = field(default_factory=Patches)
    loss: Loss = field(default_factory=Loss)
    schedule: Schedule = field(default_factory=Schedule)
    sigma: Sigma = field(default_factory=Sigma)

    def __post_init__(self) -> None:
        good = is_whole(self.scale) and 2 <= self.scale <= 16
        require(good, "scale", self.scale, "use a whole number from 2 to 16")
        require(self.seed >= 0, "seed", self.seed, "use a whole number from 0")
        texts = isinstance(self.limits, tuple) and all(isinstance(text, str) for text in self.limits)
        require(texts, "limits", self.limits, "use a list of sentences")
        self._check_networks()
        size, least, batch = self.patches.size, self.patches.min_valid, self.patches.batch
        require(size > 0 and size % self.scale == 0, "patches.size", size, "make it a multiple of the scale")
        require(0 < least <= 1, "patches.min_valid", least, "use a share above 0, up to 1")
        require(batch > 0, "patches.batch", batch, "use 1 or more")
        require(0 <= self.patches.edge <= 1, "patches.edge", self.patches.edge, "use a share from 0 to 1")
        require(self.loss.kind in LOSSES, "loss.kind", self.loss.kind, f"use {' or '.join(LOSSES)}")
        require(0 <= self.loss.relative < math.inf, "loss.relative", self.loss.relative, "use a number from 0")
        require(self.schedule.steps > 0, "schedule.steps", self.schedule.steps, "use 1 or more")
        for part, table in (("schedule", self.schedule), ("sigma", self.sigma)):
            rate = table.learning_rate
            require(0 < rate < math.inf, f"{part}.learning_rate", rate, "use a number above 0")
        require(self.schedule.decay in DECAYS, "schedule.decay", self.schedule.decay, f"use {' or '.join(DECAYS)}")
        precision = self.schedule.precision
        require(precision in PRECISIONS, "schedule.precision", precision, f"use {' or '.join(PRECISIONS)}")
        every, patience = self.schedule.validate_every, self.schedule.patience
        require(every > 0, "schedule.validate_every", every, "use 1 or more")
        require(bool(self.train or self.simulate), "train", [], "add a [[train]] or [[simulate]] table")
        require(bool(self.units or not self.simulate), "units", self.units, "[[simulate]] needs units of a column")
        require(patience >= 0, "schedule.patience", patience, "use 0 or more")
        require(patience == 0 or bool(self.validate), "schedule.patience", patience, "add a [[validate]] table")

    def _check_networks(self) -> None:
        network = self.network
        family = architecture(network.architecture).family
        require(family in FAMILIES, "network.architecture", network.architecture, f"use {' or '.join(FAMILIES)}")
        if self.sigma.architecture:
            family = architecture(self.sigma.architecture).family
            require(family == "sigma", "sigma.architecture", self.sigma.architecture, "use a sigma network")
            require(self.sigma.steps > 0, "sigma.steps", self.sigma.steps, "use 1 or more")
            tail = self.sigma.tail_weight
            require(0 < tail < math.inf, "sigma.tail_weight", tail, "use a number above 0")
        # An equivariant network does not see the level of a field: something else must bring it.
        level = network.residual or self.loss.conserve or not network.equivariant
        hint = "switch it off too where there is neither residual nor conservation"
        require(level, "network.equivariant", True, hint)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for the card."""
        return json.loads(json.dumps(asdict(self)))

    def to_toml(self) -> str:
        """The recipe as TOML, which :func:`parse_recipe` reads back."""
        plain = asdict(self)
        lines = [f"{key} = {_toml(value)}" for key, value in plain.items() if key not in (*_TABLES, *_LISTS)]
        for key in _LISTS:
            for item in plain[key]:
                lines += ["", f"[[{key}]]", *(f"{k} = {_toml(v)}" for k, v in item.items() if v not in (None, ()))]
        for key in _TABLES:
            lines += ["", f"[{key}]", *(f"{k} = {_toml(v)}" for k, v in plain[key].items())]
        return "\n".join(lines) + "\n"

    def with_steps(self, steps: int) -> Recipe:
        """A shorter or longer run of the same recipe."""
        return replace(self, schedule=replace(self.schedule, steps=steps))


_TABLES = {
    "degradation": Response,
    "network": Network,
    "patches": Patches,
    "loss": Loss,
    "schedule": Schedule,
    "sigma": Sigma,
}
_LISTS = {"train": Data, "simulate": Simulated, "validate": Data, "heldout": Data}


def _deep(value: Any) -> Any:
    """Lists as tuples, so that recipes compare and hash."""
    return tuple(_deep(v) for v in value) if isinstance(value, (list, tuple)) else value


_KINDS = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}


def _table(kind: type, values: object, where: str) -> Any:
    """Dataclass ``kind`` from a TOML table; unknown keys are errors, not silently ignored wishes."""
    if not isinstance(values, dict):
        raise ModelError(f"recipe: [{where}] is not a table", "see geosr/recipes for examples")
    values = {key: value for key, value in values.items() if value is not None}  # so a card says that there is none
    known = {f.name: str(f.type) for f in fields(kind)}
    for key, value in values.items():
        if key not in known:
            raise ModelError(f"recipe: {where} has no option {key!r}", f"known: {', '.join(sorted(known))}")
        wanted = _KINDS.get(known[key].removesuffix(" | None"))
        if wanted and (not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted)):
            raise ModelError(f"recipe: {where}.{key} = {value!r} does not work", f"use a value of type {known[key]}")
    try:
        made = kind(**{k: v if is_dataclass(v) else _deep(v) for k, v in values.items()})
    except TypeError as error:
        raise ModelError(f"recipe: {where} is incomplete ({error})", "see geosr/recipes for examples") from error
    odd = next((key for key in values if not _is_plain(getattr(made, key))), None)
    if odd is not None:
        raise ModelError(f"recipe: {where}.{odd} = {values[odd]} does not work", "put it in quotes, or leave it out")
    return made


def _is_plain(value: Any) -> bool:
    """Text, numbers, lists and tables of them; not the times of TOML, which a card cannot hold."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or is_dataclass(value) or isinstance(value, (str, int, float))


def _toml(value: Any) -> str:
    """A TOML value. JSON's strings are TOML's, but for the control character that JSON lets pass."""
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_toml(v) for v in value)}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def parse_recipe(text: str) -> Recipe:
    """A recipe from TOML text.

    Raises
    ------
    ModelError
        TOML that does not parse, unknown or missing keys, values that cannot work.
    """
    try:
        plain = tomllib.loads(text)
    except (
        ValueError,
        RecursionError,
    ) as error:  # also for numbers of thousands of digits, and lists in lists in lists
        raise ModelError(f"recipe: {error}", "repair the TOML") from error
    return from_dict(plain)


def from_dict(plain: Mapping[str, Any]) -> Recipe:
    """A recipe from plain data, as TOML or a card (:meth:`Recipe.to_dict`) has it; Raises as :func:`parse_recipe`."""
    raw = dict(plain)
    for key, kind in _TABLES.items():
        if key in raw:
            raw[key] = _table(kind, raw[key], key)
    for key, kind in _LISTS.items():
        if key in raw:
            raw[key] = [_table(kind, d, key) for d in (raw[key] if isinstance(raw[key], list) else [raw[key]])]
    return _table(Recipe, raw, "recipe")


def read_recipe(path: str | os.PathLike[str]) -> Recipe:
    """The recipe in a file, or one of geosr's own by name (``no2-srcnn-9-3-5-n64-x4``).

    Raises
    ------
    InputError
        There is neither.
    ModelError
        It is no recipe, or one that cannot work (:func:`parse_recipe`).
    """
    file = Path(path)
    if not file.is_file():
        own = Path(__file__).parent.parent / "recipes" / f"{path}.toml"
        if not own.is_file():
            names = sorted(p.stem for p in own.parent.glob("*.toml"))
            hint = f"give a folder of rasters, a TOML file, or one of {', '.join(names)}"
            raise InputError("no such file or folder, and no recipe of that name", hint, path)
        file = own
    try:
        with blame(file):
            return parse_recipe(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ModelError("not a recipe", "give a TOML file, or a folder of rasters", file) from error
