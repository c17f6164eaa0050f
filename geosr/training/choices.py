"""What a user chooses on the command line, put over a recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from geosr.models.architectures import architecture
from geosr.training.recipe import Data, Loss, Network, Patches, Recipe, Schedule, Sigma

#: What is trained unless something else is chosen.
DEFAULT_ARCHITECTURE = "edsr-32x6"
DEFAULT_SCALE = 4
DEFAULT_STEPS = 3000
PLAIN_ARCHITECTURE = "srcnn-9-1-5"

#: Adam's rate for the plain SRCNN.
PLAIN_RATE = 3e-4


@dataclass(frozen=True)
class Choices:
    """Options of ``geosr train``; None, and the defaults of the others, leave what the recipe says.

    Attributes
    ----------
    scale, architecture, steps, seed, loss, learning_rate, batch, patch, init : as in :class:`recipe.Recipe`.
    validate_every, patience : as in :class:`geosr.training.recipe.Schedule`.
    variable : to read, as in :class:`geosr.training.recipe.Data`.
    residual, conserve, sigma : False switches that off.
    plain : the SRCNN of the papers: no residual, no conservation in the loss, biases, constants that standardise, mean
        squared error, a constant rate, no clipped gradients, squares drawn evenly, no network for the error.
    """

    scale: int | None = None
    architecture: str | None = None
    steps: int | None = None
    seed: int | None = None
    loss: str | None = None
    learning_rate: float | None = None
    batch: int | None = None
    patch: int | None = None
    validate_every: int | None = None
    patience: int | None = None
    init: str | None = None
    variable: str | None = None
    residual: bool = True
    conserve: bool = True
    sigma: bool = True
    plain: bool = False


def changed(recipe: Recipe, choices: Choices) -> Recipe:
    """``recipe`` with ``choices`` put over it.

    A new scale keeps the patches about as large as they were. Without both residual and conservation the network is
    not equivariant, for nothing else would bring the level of a field.

    Raises
    ------
    ModelError
        What comes out cannot work.
    """
    c = choices
    parts: dict[str, Any] = _given(seed=c.seed)
    parts["scale"] = scale = recipe.scale if c.scale is None else c.scale
    residual = recipe.network.residual and c.residual and not c.plain
    conserve = recipe.loss.conserve and c.conserve and not c.plain
    equivariant = recipe.network.equivariant and not c.plain and (residual or conserve)
    name = c.architecture or (PLAIN_ARCHITECTURE if c.plain else None)
    network = _given(architecture=name, init=c.init, residual=residual, equivariant=equivariant)
    parts["network"] = replace(recipe.network, **network)
    size = recipe.patches.size
    if c.patch is not None:
        size = c.patch
    elif c.scale is not None and size % scale:
        size = max(scale, size // scale * scale)
    evenly: dict[str, Any] = {"contrast_power": 0.0, "edge": 0.0} if c.plain else {}
    parts["patches"] = replace(recipe.patches, size=size, **evenly, **_given(batch=c.batch))
    loss = _given(kind=c.loss or ("mse" if c.plain else None), relative=0.0 if c.plain else None)
    parts["loss"] = replace(recipe.loss, conserve=conserve, **loss)
    rate = c.learning_rate if c.learning_rate is not None or not c.plain else PLAIN_RATE
    schedule = _given(steps=c.steps, learning_rate=rate, validate_every=c.validate_every, patience=c.patience)
    parts["schedule"] = replace(recipe.schedule, **schedule, **_given(decay="constant" if c.plain else None))
    if c.plain or not c.sigma:
        parts["sigma"] = Sigma()
    if c.variable is not None:
        for key in ("train", "validate", "heldout"):
            parts[key] = tuple(replace(d, variable=c.variable) for d in getattr(recipe, key))
    return replace(recipe, **parts)


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def template(choices: Choices) -> Recipe:
    """A recipe for data that is not known yet: the settings that suit the architecture, and ``choices`` over them."""
    name = choices.architecture or (PLAIN_ARCHITECTURE if choices.plain else DEFAULT_ARCHITECTURE)
    scale = DEFAULT_SCALE if choices.scale is None else choices.scale
    size, batch, rate = (96, 8, 2e-3) if architecture(name).coarse else (48, 16, 1e-3)
    steps = choices.steps or DEFAULT_STEPS
    start = Recipe(
        name="new",
        scale=scale,
        train=(Data("*"),),
        validate=(Data("*"),),
        network=Network(name),
        patches=Patches(size // scale * scale or size, batch, min_valid=0.4, contrast_power=1.0),
        loss=Loss(epsilon=0.05, relative=0.003),
        schedule=Schedule(steps, rate, validate_every=max(10, steps // 20), patience=8),
        sigma=Sigma("sigma-24x4", max(1, steps // 3), tail_weight=3.0 if scale >= 4 else 1.0),
    )
    return changed(start, choices)
