"""Trained networks: find one, load it, refine a channel with it.

``load_model("no2-srcnn-9-3-5-n64-x4")`` or a path to a bundle (:mod:`geosr.models.bundle`) gives a :class:`Model`. The
networks: :mod:`geosr.models.architectures`; why they need no statistics of the scene:
:mod:`geosr.models.keras_network`. Engines: :mod:`geosr.models.engines`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from geosr import interpolate
from geosr.errors import GeosrError, ModelError, UsageError
from geosr.models.architectures import FAMILIES
from geosr.models.bundle import CARD, Arrays, Bundle, Card, load_bundle
from geosr.models.engines import choose
from geosr.models.engines import engine as _engine

__all__ = ["Card", "Model", "available", "default_model", "load_model", "resolve_model"]

_SHIPPED = Path(__file__).parent / "shipped"


class Model:
    """A trained network with its card.

    Instances are safe to call from several threads, and pickle as the place they came from: a worker process loads the
    network once, by itself.

    Attributes
    ----------
    card, path, sha256 : as in :class:`~geosr.models.bundle.Bundle`; the hash is that of ``card.json``.
    scale : fine cells along a coarse cell's side.
    family : what to call the method, "edsr" or "srcnn".
    has_sigma : does it predict its error?
    halo : coarse cells to each side that a prediction, and that of its error, depends on.
    """

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self._bundle = bundle
        self._threads = threads
        self.card = bundle.card
        self.path = bundle.path
        self.sha256 = bundle.sha256
        self.scale = bundle.card.scale
        self.family = bundle.card.family
        self.has_sigma = bool(bundle.card.sigma)
        parts = ("model", "sigma") if self.has_sigma else ("model",)
        self.halo = max(bundle.network(part).halo(self.scale) for part in parts)

    def __repr__(self) -> str:
        return f"Model({self.card.name!r}, scale={self.scale}, architecture={self.card.architecture!r})"

    def __reduce__(self) -> tuple[Callable[..., Model], tuple[str, str, int]]:
        return _restore, (self.path, self.sha256, self._threads)

    def check_engine(self, name: str) -> None:
        """Raises :class:`UsageError` if the engine ``name`` is not there for this model."""
        for part in ("model", "sigma") if self.has_sigma else ("model",):
            choose(name, self._bundle, part)

    def predict(self, coarse: np.ndarray, engine: str = "auto") -> np.ndarray:
        """The fine channel: bicubic field plus residual, before conservation.

        Parameters
        ----------
        coarse : (h + 2 halo, w + 2 halo) channel, no NaN (gaps filled, edges continued).
        engine : see :func:`geosr.models.engines.engine`.

        Returns
        -------
        (h * scale, w * scale) float32.
        """
        if self.card.channels != 1:
            raise UsageError(f"{self.card.name} needs {self.card.channels} channels", "this call gives one")
        field = np.asarray(coarse, dtype=np.float32)
        out = self._run(field, "model", engine)
        if not self.card.residual:
            return out
        return interpolate.bicubic(interpolate.crop(field, self.halo - interpolate.RADIUS), self.scale, added_to=out)

    def sigma(self, coarse: np.ndarray, engine: str = "auto") -> np.ndarray:
        """One standard deviation of the error of the conserved prediction, in units of the channel.

        Parameters, shapes and Raises as in :meth:`predict`; a :class:`ModelError` where the model has none.
        """
        return np.abs(self._run(np.asarray(coarse, dtype=np.float32), "sigma", engine))

    def arrays(self, part: str = "model") -> Arrays:
        """(kernel, bias or None) of each convolution of ``part``, "model" or "sigma"."""
        return self._bundle.onnx_arrays(part)

    def _run(self, field: np.ndarray, part: str, engine: str) -> np.ndarray:
        """What a network makes of ``field`` (h + 2 halo, w + 2 halo): (h * scale, w * scale)."""
        rim = self.halo - self._bundle.network(part).halo(self.scale)
        return _engine(self._bundle, engine, self._threads, part)(interpolate.crop(field, rim)[:, :, None])


def _restore(path: str, sha256: str, threads: int) -> Model:
    model = load_model(path, threads=threads)
    if model.sha256 != sha256:
        raise ModelError("the model has changed since the run began", "start again", path)
    return model


def available() -> list[Card]:
    """Cards of the models that come with geosr, by scale."""
    cards = [Card.from_json((p / CARD).read_bytes()) for p in _SHIPPED.iterdir() if (p / CARD).is_file()]
    return sorted(cards, key=lambda card: (card.scale, card.name))


def table(cards: Sequence[Card]) -> str:
    """Cards for people: a line each, and below it what the model gains on each set of data it never saw."""
    lines = []
    for card in cards:
        kilobytes = sum(f["bytes"] for f in card.files.values()) / 1000
        lines.append(f"{card.name:24} x{card.scale}  {card.architecture}, {kilobytes:.0f} kB. {card.description}")
        for held in card.skill:
            gains = (held["gain"][over]["db"] for over in ("bicubic", "best interpolation"))
            text = "{:+.2f} dB over bicubic, {:+.2f} dB over the best interpolation".format(*gains)
            lines.append(f"    {text}: {held['name']}")
    return "\n".join(lines)


def default_model(scale: int, family: str | None = None) -> str:
    """Name of the shipped model for ``scale``, of the best ``family`` that there is unless one is named.

    Raises
    ------
    ModelError
        There is none; the message lists those there are.
    """
    cards = available()
    for wanted in FAMILIES if family is None else (family,):
        for card in cards:
            if card.scale == scale and card.family == wanted:
                return card.name
    have = ", ".join(f"{card.name} (x{card.scale})" for card in cards) or "none"
    kind = f"{family} model" if family else "model"
    raise ModelError(f"no {kind} for scale {scale}; there are: {have}", "use --method bicubic, or one of these scales")


def load_model(name: str | os.PathLike[str], scale: int | None = None, threads: int = 1) -> Model:
    """A model by shipped name or by path.

    Parameters
    ----------
    name : a name that :func:`available` lists, or the path of a bundle.
    scale : if given, the model must have this scale.
    threads : see :func:`geosr.models.engines.engine`.

    Raises
    ------
    ModelError
        No such model, a damaged one, or another scale.
    """
    shipped = _SHIPPED / str(name)
    named = str(name) == Path(name).name and (shipped / CARD).is_file()
    if not named and not Path(name).exists() and str(name) == Path(name).name and not Path(name).suffix:
        names = ", ".join(card.name for card in available()) or "none"
        raise ModelError(f"no model {str(name)!r}; there are: {names}", "give one of these, or the path of a bundle")
    model = _loaded(*_place(shipped if named else Path(name)), threads)
    if scale is not None:
        _check_scale(model, scale)
    return model


def resolve_model(model: str | os.PathLike[str] | Model | None, scale: int) -> Model:
    """The model that a user's wish means for ``scale``: a loaded one, a name, a path, or None for the shipped one.

    A :class:`ModelError` also for one that needs more than the field it refines.
    """
    if isinstance(model, Model):
        _check_scale(model, scale)
        found = model
    else:
        found = load_model(model if model is not None else default_model(scale), scale)
    if found.card.channels != 1:
        raise ModelError(
            f"{found.card.name} needs {found.card.channels} channels, a field is one",
            "choose a model of one",
            found.path,
        )
    return found


def _place(path: Path) -> tuple[str, int, int]:
    """The absolute path and what changes when the bundle does, as a key for the cache."""
    place = path.resolve()
    try:
        state = (place / CARD if place.is_dir() else place).stat()
    except OSError:
        return str(place), 0, 0  # load_bundle says what is wrong
    return str(place), state.st_mtime_ns, state.st_size


@lru_cache(maxsize=8)
def _loaded(path: str, _mtime: int, _size: int, threads: int) -> Model:
    """Read and checked once per process, however many tiles ask for it."""
    return Model(load_bundle(path), threads)


def _check_scale(model: Model, scale: int) -> None:
    if model.scale == scale:
        return
    try:
        hint = f"use --model {default_model(scale)}"
    except GeosrError:
        hint = "choose that scale, or --method bicubic"
    raise ModelError(f"{model.card.name} is for scale {model.scale}, not {scale}", hint)
