"""Does it win? Degrade a truth, downscale it by every method, score each against the truth (Wald's protocol).

:mod:`geosr.degrade` makes the coarse field, :mod:`baselines` and the networks refine it, :mod:`metrics`
and :mod:`spectrum` score the results, :mod:`gains` says how sure a gain is. docs/evaluation.md describes
the protocol for readers.

Two tables: all valid cells, and those away from gaps. Near a gap every method works with filled neighbours, and the
choice of the filling would be scored instead of the method. Where the truth is constant there is nothing to score.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from geosr import conserve, grid
from geosr.degrade import (
    PRECISION,
    TROPOMI,
    Degradation,
    as_floating,
    coarse_precision,
    degrade_array,
    modcrop,
    planes_of,
)
from geosr.errors import GeosrWarning, UsageError, blame
from geosr.evaluation import metrics
from geosr.evaluation.baselines import (
    BACK_PROJECTED,
    BASELINES,
    BICUBIC,
    BILINEAR,
    CONSERVED,
    CONSERVING,
    NEAREST,
    ROUNDS,
    back_projected,
    bilinear,
    refined,
)
from geosr.evaluation.cases import Case, ModelLike, Truth, cases_of, chosen_networks
from geosr.evaluation.cells import MIN_COVER, RIM, EmptyTruth, away_from_gaps, scored
from geosr.evaluation.gains import Gain, gain_of_one
from geosr.evaluation.networks import envelope_status, sigma_band
from geosr.evaluation.panels import cut_panels
from geosr.evaluation.results import Evaluation, Evaluations, Network, ScoreTable
from geosr.evaluation.spectrum import spectrum
from geosr.models import Model

__all__ = [
    "BACK_PROJECTED",
    "BASELINES",
    "BICUBIC",
    "BILINEAR",
    "CONSERVED",
    "MIN_COVER",
    "NEAREST",
    "RIM",
    "ROUNDS",
    "EmptyTruth",
    "Evaluation",
    "Evaluations",
    "ScoreTable",
    "back_projected",
    "bilinear",
    "evaluate",
    "evaluate_array",
    "refined",
]

#: Called as cases are done: (done since the last call, in all).
Progress = Callable[[int, int], None]


def evaluate(
    truth: Truth | Sequence[Truth],
    scale: int = 4,
    model: ModelLike | Sequence[ModelLike] | None = None,
    *,
    engine: str = "auto",
    network: bool = True,
    kind: str = "area",
    mtf: tuple[float, float] = TROPOMI,
    noise: float | str | xr.DataArray = 0.0,
    seed: int = 0,
    data_range: float | None = None,
    shave: int = 0,
    progress: Progress | None = None,
) -> Evaluation | Evaluations:
    """Score every method on ``truth``.

    Parameters
    ----------
    truth : fine field (y, x) on a grid, NaN where missing; or a Dataset with one (its NO2 column); or a file, read by
        :func:`geosr.open_no2`; or several of them. One more dimension (time, band) makes each of its fields a case.
        Each case is computed whole.
    scale : the truth is degraded by this and refined again.
    model : what to judge: loaded models, shipped names or paths, one or several. Default: the shipped model for the
        scale, and the shipped SRCNN beside it.
    engine : see :func:`geosr.models.engines.engine`.
    network : False scores the baselines only.
    kind, mtf, noise, seed : the degradation, see :func:`geosr.degrade`. ``noise="precision"`` takes the precision
        that a Dataset brings; a DataArray can be given for a single truth. Either also enters the sigma band that is
        measured, as in :func:`geosr.downscale`.
    data_range : value range for PSNR and SSIM; default, for each table, that of the truth's scored cells.
    shave : fine cells to leave out at the raster's rim; ``scale`` in many papers.

    Returns
    -------
    Evaluation for one field; Evaluations for a sequence, or for a truth of several fields. Of several cases, those
    with nothing to score (no valid coarse cell, or a constant field) are left out with a :class:`GeosrWarning`.
    Another one tells of a coarse field outside what a network was trained on: it is scored, also where
    :func:`geosr.downscale` would refuse it.

    Raises
    ------
    InputError
        Nothing to score at all.
    UsageError
        A truth smaller than a coarse cell or of another type, or options that cannot be.
    ModelError
        No model for the scale.

    >>> evaluate(truth, 4).verdict()                                        # doctest: +SKIP
    'srcnn (+0.41 dB [+0.23, +0.58]) beats the best interpolation here, back-projected bicubic'
    """
    scale = grid.check_scale(scale)
    precision = noise if isinstance(noise, xr.DataArray) else None
    how = Degradation(kind, (mtf[0], mtf[1]), PRECISION if isinstance(noise, xr.DataArray) else noise, seed)
    settings = Settings(how, data_range, shave, engine)
    networks = chosen_networks(model, scale) if network else {}
    several = isinstance(truth, Sequence) and not isinstance(truth, str)
    cases = cases_of(cast(Sequence[Truth], truth if several else [truth]), precision, how)
    if not several and len(cases) == 1:
        return _on_case(cases[0], scale, networks, settings)
    found = []
    for case in cases:
        try:
            found.append(_on_case(case, scale, networks, settings))
        except EmptyTruth as error:
            warnings.warn(f"{error.path or 'a truth'}: {error.what}: left out", GeosrWarning, stacklevel=2)
        if progress is not None:
            progress(1, len(cases))
    if not found:
        raise EmptyTruth("none of the truths has anything to score", "check --bbox, --variable and the nodata values")
    return Evaluations.of(found)


@dataclass(frozen=True)
class Settings:
    """What else the scores depend on: see :func:`evaluate`."""

    degradation: Degradation = Degradation()
    data_range: float | None = None
    shave: int = 0
    engine: str = "auto"

    def __post_init__(self) -> None:
        if self.data_range is not None and not (np.isfinite(self.data_range) and self.data_range > 0):
            raise UsageError(f"a value range of {self.data_range} is not possible", "give a number above 0")
        if self.shave != int(self.shave) or self.shave < 0:
            raise UsageError(f"shaving {self.shave} cells is not possible", "give a whole number, 0 or larger")


def _on_case(case: Case, scale: int, networks: Mapping[str, Model], settings: Settings) -> Evaluation:
    """Compute the field and score every method on it; errors name the case."""
    with blame(case.label) if case.label else contextlib.nullcontext():
        truth = modcrop(case.truth, scale)
        box = grid.geobox_of(truth)
        precision = None
        if case.precision is not None:
            precision = planes_of(case.precision, truth, scale)
        return evaluate_array(
            as_floating(truth),
            grid.cell_areas(box),
            scale,
            networks,
            units=truth.attrs.get("units"),
            engine=settings.engine,
            settings=settings,
            precision=precision,
            index=case.index,
            box=box,
            label=case.label,
        )


def evaluate_array(
    truth: np.ndarray,
    areas: np.ndarray,
    scale: int,
    model: Model | Mapping[str, Model] | None,
    *,
    units: str | None = None,
    engine: str = "auto",
    settings: Settings | None = None,
    precision: np.ndarray | None = None,
    index: int = 0,
    box: GeoBox | None = None,
    label: str = "",
) -> Evaluation:
    """:func:`evaluate` on arrays.

    Parameters
    ----------
    truth : (h * scale, w * scale) floating, NaN where missing.
    areas : as cell_areas gives them.
    model : a network, or label -> network, or None.
    units : of the truth.
    precision : (h, w) or like ``truth``, for noise "precision"; index : which field of a series this is.
    box : grid of the truth; without it there are no spectra (they are in km), no figure, and no word about envelopes.
    label : of the case.

    Raises
    ------
    EmptyTruth
        There is nothing to score.
    """
    settings = settings or Settings()
    networks = model if isinstance(model, Mapping) else {} if model is None else {model.family: model}
    how = settings.degradation
    coarse = degrade_array(truth, areas, scale, how, min_valid=MIN_COVER, precision=precision, index=index)
    far = away_from_gaps(truth, areas, scale) & ~np.isnan(coarse)
    valid, away = scored(truth, coarse, far, scale, settings.shave)
    seen = {n: envelope_status(m, coarse, units, box, label or "the truth") for n, m in networks.items()}
    fields = refined(coarse, areas, scale, networks, units=units, engine=engine)
    given = None
    if precision is not None and how.noise == PRECISION:
        given = coarse_precision(precision, areas, scale, coarse.shape)
    bands = {n: sigma_band(m, coarse, units, engine, given) for n, m in networks.items() if m.has_sigma}
    tables = [
        _table(name, truth, fields, mask, networks, bands, settings.data_range)
        for name, mask in (("all valid cells", valid), ("away from gaps", away))
    ]
    claims = [*CONSERVING, *networks]
    found = Evaluation(
        label=label,
        scale=scale,
        units=units,
        degradation=settings.degradation,
        shave=settings.shave,
        range_given=settings.data_range is not None,
        networks={n: Network(m.card.name, m.sha256, m.family, seen[n]) for n, m in networks.items()},
        valid=tables[0],
        away_from_gaps=tables[1],
        conservation={n: conserve.conservation_error(fields[n], coarse, areas, scale) for n in claims},
        largest=float(np.nanmax(np.abs(coarse))),
    )
    mask = away if found.away_from_gaps.cells else valid
    found = replace(found, gains=_gains(truth, fields, mask, found, scale))
    if box is None:
        return found
    return replace(
        found,
        spectrum=spectrum(truth, fields, far, box, scale),
        panels=cut_panels(truth, coarse, fields, next(iter(networks), None), box),
    )


def _table(
    label: str,
    truth: np.ndarray,
    fields: Mapping[str, np.ndarray],
    mask: np.ndarray,
    networks: Mapping[str, Model],
    bands: Mapping[str, np.ndarray],
    data_range: float | None,
) -> ScoreTable:
    span = data_range if data_range is not None else metrics.value_range(truth, mask)
    scores = {name: metrics.score(truth, field, mask, span) for name, field in fields.items()}
    sigma = {name: metrics.coverage(truth, fields[name], band, mask) for name, band in bands.items()}
    return ScoreTable(label, int(mask.sum()), span, scores, tuple(networks), sigma)


def _gains(
    truth: np.ndarray, fields: Mapping[str, np.ndarray], mask: np.ndarray, found: Evaluation, scale: int
) -> tuple[Gain, ...]:
    """Each network over bicubic and over the best interpolation (once, where that is bicubic)."""
    others = dict.fromkeys((BICUBIC, found.judged.best_interpolation))
    return tuple(
        gain_of_one(truth, fields[network], fields[other], mask, scale, (network, other))
        for network in found.networks
        for other in others
    )
