"""How wrong a fine value may be: one standard deviation for each, beside the field.

It has two parts, taken as independent:

* The model's. A second, small network says how far the first is likely to be off where the field looks like this
  (:meth:`geosr.models.Model.sigma`). It is trained on the errors that are left after conservation, so it belongs to the
  conserved field only.
* The input's, where the input has a precision: that of a coarse cell, repeated on its fine cells. That is right for a
  conserved field, whose fine cells have the coarse value as their mean: an error of the coarse value shifts them all
  alike. What it changes in the pattern within the cell is left out.

Because the second part shifts them alike, the errors of neighbouring fine cells are not independent: the mean of a
region is less certain than the number of its cells suggests.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from geosr import conserve, tiling
from geosr.errors import GeosrError, GeosrWarning, InputError, ModelError, UsageError
from geosr.units import factor
from geosr.variables import precision_of

if TYPE_CHECKING:
    from geosr.models import Model


def wanted(asked: bool | None, model: Model | None, conserved: bool, in_dataset: bool) -> bool:
    """Is there to be an uncertainty, and can there be?

    Parameters
    ----------
    asked : True, False, or None: where it can be had.
    model : what refines; None for bicubic.
    conserved : the field is.
    in_dataset : the result is a Dataset; a DataArray has no room for a second variable.

    Raises
    ------
    UsageError, ModelError
        It was asked for, and cannot be had.
    """
    if asked is False:
        return False
    lacking = _lacking(model, conserved, in_dataset)
    if lacking is not None and asked:
        raise lacking
    return lacking is None


def _lacking(model: Model | None, conserved: bool, in_dataset: bool) -> GeosrError | None:
    """Why there cannot be one."""
    without = "leave out uncertainty=True"
    if model is None:
        return UsageError("bicubic has no uncertainty", f"use a network, or {without}")
    if not conserved:
        return UsageError("the uncertainty is that of the conserved field", f"conserve, or {without}")
    if not in_dataset:
        return UsageError("a DataArray has no room for its uncertainty", "downscale da.to_dataset() instead")
    if not model.has_sigma:
        return ModelError(f"{model.card.name} does not predict its error", f"use another model, or {without}")
    return None


def name_of(main: xr.DataArray) -> str:
    """``<main>_uncertainty``."""
    return f"{main.name or 'field'}_uncertainty"


def uncertainty(
    sigma: Any, main: xr.DataArray, ancillary: Sequence[xr.DataArray], plan: tiling.TilePlan
) -> tuple[Any, dict[str, str]]:
    """One standard deviation of each fine value.

    Parameters
    ----------
    sigma : the model's part, (…, ny * scale, nx * scale), lazy, cut by ``plan``; NaN where the coarse cell is NaN.
    main : the coarse field as DataArray (…, y, x), for names and units.
    ancillary : what goes with it on the coarse grid; its precision, if it is there, is the second part
        (:func:`geosr.variables.precision_of`). Where that is missing or not positive, the model's part stands alone.

    Returns
    -------
    Lazy, like ``sigma``, in the field's units; and the attributes of the variable. ``comment`` says which parts it has.
    """
    total = sigma
    parts = ["the model's error, as a network trained on such errors predicts it"]
    precision = precision_of(main, ancillary)
    ratio = None if precision is None else _ratio(precision, main)
    if precision is not None and ratio is not None:
        spread = partial(_repeat, scale=plan.scale, ratio=ratio)
        repeated = tiling.map_cells(tiling.as_lazy(precision.data), spread, plan)
        total = np.hypot(total, repeated).astype(sigma.dtype)
        parts.append(f"the precision of the coarse value ({precision.name}), the same in all its fine cells")
    return total, _attributes(main, parts)


def _repeat(precision: np.ndarray, scale: int, ratio: float) -> np.ndarray:
    usable = np.where(precision > 0, precision, 0) * precision.dtype.type(ratio)
    return conserve.spread(usable, scale)


def _ratio(precision: xr.DataArray, main: xr.DataArray) -> float | None:
    """From the precision's units to the field's (without units: the same); None, and a warning, if there is no way."""
    if precision.dims not in (main.dims, main.dims[-2:]):
        return None
    to, given = main.attrs.get("units"), precision.attrs.get("units")
    if not to or not given or to == given:
        return 1.0
    try:
        return factor(str(given), str(to))
    except InputError as error:
        text = f"{precision.name} does not enter the uncertainty of {main.name}: {error.what}"
        warnings.warn(text, GeosrWarning, stacklevel=2)
        return None


def _attributes(main: xr.DataArray, parts: Sequence[str]) -> dict[str, str]:
    described = main.attrs.get("long_name") or main.name or "field"
    squares = "square root of the sum of squares of " if len(parts) > 1 else ""
    attrs = {
        "long_name": f"uncertainty (one standard deviation) of {described}",
        "comment": squares + " and ".join(parts),
    }
    if units := main.attrs.get("units"):
        attrs["units"] = str(units)
    if name := str(main.attrs.get("standard_name", "")):
        attrs["standard_name"] = f"{name.split()[0]} standard_error"
    return attrs
