"""What is to be evaluated: the fields in the truths that a user gives, and the networks behind the names of models."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from geosr import grid
from geosr.degrade import PRECISION, Degradation, precision_in
from geosr.errors import ModelError, UsageError, blame
from geosr.evaluation.baselines import BASELINES
from geosr.models import Model, available, resolve_model

#: One model: loaded, a shipped name or a path.
ModelLike = str | os.PathLike[str] | Model
#: A fine field, alone or with what belongs to it, or the file that holds it.
Truth = xr.DataArray | xr.Dataset | str | os.PathLike[str]


@dataclass(frozen=True)
class Case:
    """One field to evaluate on, not yet computed: (y, x), with its precision if that is wanted."""

    label: str
    truth: xr.DataArray
    precision: xr.DataArray | None
    index: int


def cases_of(truths: Sequence[Truth], precision: xr.DataArray | None, how: Degradation) -> list[Case]:
    """Every (y, x) field of ``truths`` with its label and, where ``how`` wants it, its precision."""
    if not truths:
        raise UsageError("no truth to evaluate on", "give at least one")
    if len(truths) > 1 and precision is not None:
        raise UsageError("one precision field for several truths", "give Datasets with their own and noise='precision'")
    cases: list[Case] = []
    for given in truths:
        truth = _opened(given)
        source = [str(truth.attrs["source"])] if isinstance(truth, xr.Dataset) and truth.attrs.get("source") else []
        with blame(source[0]) if source else contextlib.nullcontext():
            field, own = _parts(truth, precision, how)
        y, x = grid.spatial_dims(field)
        ordered = field.transpose(..., y, x)
        lead = ordered.dims[:-2]
        for place in np.ndindex(*(ordered.sizes[d] for d in lead)):
            at = dict(zip(lead, place, strict=True))
            one = ordered.isel(at)
            mine = None if own is None else own.isel({d: i for d, i in at.items() if d in own.dims})
            cases.append(Case(" ".join([*source, *_when(one, at)]), one, mine, len(cases)))
    return cases


def _opened(truth: Any) -> xr.DataArray | xr.Dataset:
    """``truth`` in memory."""
    if isinstance(truth, (xr.DataArray, xr.Dataset)):
        return truth
    if isinstance(truth, (str, os.PathLike)):
        from geosr.reading import open_no2

        return open_no2(truth)
    raise UsageError(
        f"a truth cannot be of the type {type(truth).__name__}",
        "give a DataArray on a grid, a Dataset, the path of a file, or a list of these",
    )


def _parts(
    truth: xr.DataArray | xr.Dataset, precision: xr.DataArray | None, how: Degradation
) -> tuple[xr.DataArray, xr.DataArray | None]:
    """(field, precision) of a truth."""
    if isinstance(truth, xr.DataArray):
        if how.noise == PRECISION and precision is None:
            raise UsageError("a DataArray brings no precision", "give it as noise=, or the Dataset that holds both")
        return truth, precision
    from geosr.variables import main_variable

    field = main_variable(truth)
    if how.noise == PRECISION and precision is None:
        precision = precision_in(truth, field)
    return field, precision


def _when(one: xr.DataArray, at: Mapping[Hashable, int]) -> list[str]:
    """How to tell a field from the others of its truth: its time, or its place along other dimensions."""
    from geosr.reading.times import time_labels

    if not at:
        return []
    return time_labels(one)[:1] or [f"{dim} {index + 1}" for dim, index in at.items()]


def chosen_networks(model: ModelLike | Sequence[ModelLike] | None, scale: int) -> dict[str, Model]:
    """label -> loaded model for each wish; by default the shipped model for ``scale`` and the shipped SRCNN beside it.

    A label is the model's family; its card's name where two are of one family; numbered where that, too, is taken.
    """
    if model is None:
        models = [_shipped(scale)]
        srcnn = [c.name for c in available() if c.scale == scale and c.family == "srcnn"]
        if srcnn and models[0].family != "srcnn":
            models.append(resolve_model(srcnn[0], scale))
    else:
        asked = [model] if isinstance(model, (str, os.PathLike)) or not isinstance(model, Sequence) else list(model)
        models = [resolve_model(m, scale) for m in asked]
    families = [m.family for m in models]
    labels: dict[str, Model] = {}
    for one, family in zip(models, families, strict=True):
        name = family if families.count(family) == 1 else one.card.name
        number = sum(label == name or label.startswith(f"{name} (") for label in [*labels, *BASELINES])
        labels[f"{name} ({number + 1})" if number else name] = one
    return labels


def _shipped(scale: int) -> Model:
    try:
        return resolve_model(None, scale)
    except ModelError as error:
        raise ModelError(
            error.what, "give your own with --model, or judge the interpolations with --no-network"
        ) from error
