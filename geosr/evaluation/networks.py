"""What a network says beside its field: how far off it may be, and whether the field is like those of its training."""

from __future__ import annotations

import warnings

import numpy as np
from odc.geo.geobox import GeoBox

from geosr import conserve, grid
from geosr.envelope import Envelope
from geosr.errors import GeosrWarning
from geosr.evaluation.baselines import padded_for
from geosr.fieldstats import Sample, sample
from geosr.models import Model


def envelope_status(model: Model, coarse: np.ndarray, units: str | None, box: GeoBox | None, label: str) -> str | None:
    """Is ``coarse`` like what ``model`` was trained on? :attr:`geosr.envelope.Judgement.status`; None without a grid.

    What is not "inside" is also a warning. An evaluation is what shows whether the network is right all the same.
    """
    if box is None:
        return None
    envelope = Envelope.from_dict(model.card.envelope, model.scale)
    cell_m = grid.cell_size_m(grid.coarsen(box, model.scale))
    found = envelope.judge(sample(coarse, cell_m) if envelope.statistics else Sample(0, cell_m), units)
    if found.inside:
        return found.status
    where = "far outside" if found.refusals else "outside"
    end = "geosr downscale refuses it, scored all the same" if found.refusals else "scored all the same"
    text = f"{label}: the coarse field is {where} what {model.card.name} was trained on: {found.text}; {end}"
    warnings.warn(text, GeosrWarning, stacklevel=2)
    return found.status


def sigma_band(
    model: Model, coarse: np.ndarray, units: str | None, engine: str, precision: np.ndarray | None
) -> np.ndarray:
    """(h * scale, w * scale) one-sigma error of the network's conserved field, in ``units``.

    With a ``precision`` (h, w) that is in it, repeated on the fine cells, as in :mod:`geosr.uncertainty`.
    """
    scaler = model.card.scaler.in_units(units)
    channel = scaler.normalise(padded_for(model, coarse))
    band: np.ndarray = model.sigma(channel, engine) * abs(scaler.scale)
    if precision is None:
        return band
    return np.hypot(band, conserve.spread(np.where(precision > 0, precision, 0), model.scale))
