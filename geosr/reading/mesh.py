"""Regular grids whose latitudes and longitudes come in two dimensions, as models and remapping programs write them.

They look like swaths, and are none: each row has one latitude, each column one longitude.
"""

from __future__ import annotations

from typing import Any

import numpy as np

# How far a row's latitudes may differ, in steps between rows, beyond rounding.
_SAME = 1e-3


def axes_of_mesh(lat: np.ndarray, lon: np.ndarray) -> tuple[int, np.ndarray, np.ndarray] | None:
    """(axis along which latitude changes, latitudes, longitudes) of a regular mesh; None if it is curvilinear.

    Parameters
    ----------
    lat, lon : (n, m) both, at least two along each axis; degrees, NaN nowhere.
    """
    if lat.shape != lon.shape or lat.ndim != 2 or min(lat.shape) < 2:
        return None
    for axis in (0, 1):
        one, other = (np.moveaxis(np.asarray(v), axis, 0) for v in (lat, lon))
        if _same_along_rows(one) and _same_along_rows(other.T, 360.0):
            return axis, one[:, 0], other[0]
    return None


def _same_along_rows(values: np.ndarray, period: float | None = None) -> bool:
    """Is each row of ``values`` one number, to rounding?"""
    first = values[:, :1].astype(np.float64)
    with np.errstate(invalid="ignore"):
        steps = np.abs(np.diff(first[:, 0]))
        off = np.abs(values.astype(np.float64) - first)
        if period is not None:
            steps, off = np.minimum(steps, period - steps), np.minimum(off, np.abs(period - off))
        rounding = 4 * np.spacing(np.abs(first).max().astype(values.dtype)) if values.dtype.kind == "f" else 0.0
        return bool(steps.min() > 0 and off.max() <= _SAME * np.median(steps) + rounding)


def lies_on_grid(variables: dict[str, Any], lat: Any, lon: Any) -> bool:
    """Do a file's two-dimensional latitudes and longitudes belong to a grid rather than to a swath?

    Either they stand beside projected one-dimensional coordinates along the same dimensions (CF conventions, section
    5.6), or they are a regular mesh. Looks at one row and one column before it reads more.

    Parameters
    ----------
    variables : of the file, netCDF4's, by name.
    lat, lon : netCDF4 variables.
    """
    if lat.ndim < 2 or lat.dimensions != lon.dimensions:
        return False
    dims = lat.dimensions[-2:]
    kinds = [str(getattr(variables.get(d), "standard_name", "")) for d in dims]
    if all(k.startswith(("projection_", "grid_l")) for k in kinds):
        return True
    if min(lat.shape[-2:]) < 2 or any(n != 1 for n in lat.shape[:-2]):
        return False
    lead = (0,) * (lat.ndim - 2)

    def read(v: Any, *where: Any) -> np.ndarray:
        return np.ma.filled(np.ma.asarray(v[(*lead, *where)]).astype(np.float64), np.nan)

    try:
        row, column = read(lat, 0, slice(None)), read(lat, slice(None), 0)
        if np.ptp(row) > 1e-3 and np.ptp(column) > 1e-3:
            return False  # latitude changes both ways
        return axes_of_mesh(read(lat, slice(None), slice(None)), read(lon, slice(None), slice(None))) is not None
    except (TypeError, ValueError, RuntimeError, OverflowError, OSError):
        return False  # who reads it says what is wrong with it: a scale factor that is text, damage
