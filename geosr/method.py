"""Which method refines a field, and what a run is called."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from geosr.errors import UsageError

if TYPE_CHECKING:
    from geosr.models import Model

#: What a user may ask for: the best network there is, a family of networks, or the same way without a network.
METHODS = ("auto", "edsr", "srcnn", "bicubic")


def choose_model(method: str, scale: int, model: str | os.PathLike[str] | Model | None) -> Model | None:
    """The network that ``method`` means for ``scale``; None for bicubic.

    Parameters
    ----------
    method : one of :data:`METHODS`.
    model : a loaded one, a shipped name or the path of a bundle; None takes the shipped one of the method.

    Raises
    ------
    UsageError
        Unknown method, a model for bicubic, or one of another family than the method.
    ModelError
        No model for this scale, or one that cannot be loaded.
    """
    if method not in METHODS:
        raise UsageError(f"method {method!r} is not known", f"use one of {', '.join(METHODS)}")
    if method == "bicubic":
        if model is not None:
            raise UsageError("method bicubic takes no model", "leave out --model or --method")
        return None
    from geosr.models import default_model, resolve_model

    family = None if method == "auto" else method
    loaded = resolve_model(default_model(scale, family) if model is None else model, scale)
    if family not in (None, loaded.family):
        hint = f"use --method {loaded.family}, or leave it out"
        raise UsageError(f"{loaded.card.name} is of the family {loaded.family}, not {family}", hint)
    return loaded


@dataclass(frozen=True)
class Run:
    """What a call of :func:`downscale` does, as reports and files tell it.

    Attributes
    ----------
    method : what refines: "bicubic", or the family of the network.
    model, model_sha256 : of the network; None without one.
    envelope : is the field like those of training? See :attr:`geosr.envelope.Judgement.status`; None without a network.
    uncertainty : name of the variable that holds it, if there is one.
    """

    scale: int
    method: str = "bicubic"
    model: str | None = None
    model_sha256: str | None = None
    conserve: bool = True
    envelope: str | None = None
    uncertainty: str | None = None

    @classmethod
    def of(cls, model: Model | None, scale: int, conserve: bool, envelope: str | None, uncertainty: str | None) -> Run:
        """The run with ``model``, or without one."""
        if model is None:
            return cls(scale, conserve=conserve)
        return cls(scale, model.family, model.card.name, model.sha256, conserve, envelope, uncertainty)

    def __str__(self) -> str:
        """One line that travels with the data, e.g. ``x4 by geosr 0.1.0, model no2-edsr-x4 sha256 …, conserving``."""
        from geosr._version import __version__

        how = "bicubic" if self.model is None else f"model {self.model} sha256 {self.model_sha256}"
        line = f"x{self.scale} by geosr {__version__}, {how}, {'conserving' if self.conserve else 'not conserving'}"
        return line if self.envelope in (None, "inside") else f"{line}; training's envelope {self.envelope}"
