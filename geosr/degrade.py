"""Degradation: from a fine truth to the coarse field that a coarser sensor would have seen (Wald's protocol).

Wald, L., Ranchin, T. & Mangolini, M. (1997), Fusion of satellite images of different spatial resolutions,
Photogrammetric Engineering & Remote Sensing 63(6): the degraded truth is downscaled, and the result compared with the
truth itself. Three ways down, each with noise on request:

* ``area``: the area mean, the exact inverse of geosr's conservation: a coarse cell holds the area-weighted mean of its
  fine cells. It flatters every method, for real footprints also blur.
* ``psf``: a Gaussian point spread function first, then the area mean. The Gaussian is given by its modulation transfer
  function (MTF) at the coarse Nyquist frequency; the area mean multiplies the whole response there by another 2/pi.
* ``resize``: antialiased bicubic, as MATLAB's ``imresize`` does it, the degradation of the super-resolution papers. A
  coarse value is no mean of its own fine cells then, so conserving methods keep the wrong thing a little.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import reduce
from typing import Any, overload

import numpy as np
import xarray as xr

from geosr import grid, interpolate
from geosr.errors import InputError, UsageError

KINDS = ("area", "psf", "resize")

#: MTF at Nyquist across (x) and along (y) track that was estimated for TROPOMI's bands 3 to 6.
TROPOMI = (0.74, 0.44)

#: As a noise: draw from the precision that comes with the data.
PRECISION = "precision"


@dataclass(frozen=True)
class Degradation:
    """How a truth becomes coarse; plain data, checked.

    Attributes
    ----------
    kind : one of :data:`KINDS`.
    mtf : (x, y) response of the Gaussian of ``psf`` at the coarse Nyquist frequency; above 0, up to 1 (no blur).
    noise : standard deviation of Gaussian noise on the coarse cells, in the data's units; or :data:`PRECISION`.
    seed : of the noise. Same seed, same noise; every field of a series draws its own.
    """

    kind: str = "area"
    mtf: tuple[float, float] = TROPOMI
    noise: float | str = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"degradation {self.kind!r} is not known", f"use one of {', '.join(KINDS)}")
        if len(self.mtf) != 2 or not all(0 < m <= 1 for m in self.mtf):
            raise UsageError(f"MTF {self.mtf} is not possible", "give two numbers above 0, up to 1: across and along")
        if isinstance(self.noise, str):
            if self.noise != PRECISION:
                raise UsageError(f"noise {self.noise!r} is not known", f"give a number or {PRECISION!r}")
        elif not (math.isfinite(self.noise) and self.noise >= 0):
            raise UsageError(f"noise {self.noise} is not possible", "give a standard deviation, 0 or larger")
        if isinstance(self.seed, bool) or self.seed != int(self.seed) or self.seed < 0:
            raise UsageError(f"seed {self.seed} is not possible", "use a whole number, 0 or larger")

    def __str__(self) -> str:
        """For people: "Gaussian PSF (MTF 0.74 across, 0.44 along) and area mean, noise 0.3, seed 0"."""
        names = {"area": "area mean", "resize": "antialiased bicubic (imresize)"}
        psf = f"Gaussian PSF (MTF {self.mtf[0]:g} across, {self.mtf[1]:g} along) and area mean"
        noise = f", noise {self.noise}, seed {self.seed}" if self.noise else ""
        return names.get(self.kind, psf) + noise

    def to_dict(self) -> dict[str, Any]:
        """Plain data: what was used; None for what does not apply."""
        return {
            "kind": self.kind,
            "mtf": list(self.mtf) if self.kind == "psf" else None,
            "noise": self.noise or None,
            "seed": self.seed if self.noise else None,
        }


def area_mean(fine: np.ndarray, weights: np.ndarray, scale: int, min_valid: float = 1.0) -> np.ndarray:
    """Area-weighted mean of the valid fine cells of each ``scale`` x ``scale`` block.

    Parameters
    ----------
    fine : (…, h * scale, w * scale) floating; NaN is missing.
    weights : cell areas, (h * scale, 1) or (h * scale, w * scale).
    scale : fine cells along a coarse cell's side.
    min_valid : share of a coarse cell's area that must be valid, above 0; below it the cell is NaN.

    Returns
    -------
    (…, h, w) of the same dtype, summed in float64.
    """
    *lead, ny, nx = fine.shape
    split = (ny // scale, scale, nx // scale, scale)
    area = np.broadcast_to(weights, (ny, nx)).astype(np.float64).reshape(split)
    values = fine.reshape(*lead, *split)
    valid = ~np.isnan(values)
    whole = _block_sum(area)
    complete = valid.all()
    known = whole if complete else _block_sum(valid * area)
    total = _block_sum((values if complete else np.where(valid, values, 0.0)) * area)
    # A complete block must count as complete whatever the order in which its areas are summed.
    enough = (known > 0) & (known >= min_valid * whole * (1 - 1e-9))
    return np.where(enough, total / np.where(known > 0, known, 1.0), np.nan).astype(fine.dtype)


def _block_sum(values: np.ndarray) -> np.ndarray:
    """(…, h, scale, w, scale) to (…, h, w). numpy's sum over two short axes takes five times as long."""
    rows = reduce(np.add, (values[..., i] for i in range(values.shape[-1])))
    total: np.ndarray = reduce(np.add, (rows[..., i, :] for i in range(rows.shape[-2])))
    return total


def psf_kernel(mtf: float, scale: int) -> np.ndarray:
    """(2 r + 1,) weights of the Gaussian with response ``mtf`` at the coarse Nyquist frequency, over fine cells.

    A Gaussian of standard deviation sigma has the response ``exp(-2 pi^2 sigma^2 f^2)``; at the Nyquist frequency of
    the coarse cells, ``f = 1 / (2 scale)`` cycles per fine cell, that is ``mtf`` for ``sigma = sqrt(-2 ln mtf) / (2 pi
    f)``. (Matching a Gaussian to the sensor's MTF at Nyquist: Aiazzi, B., Alparone, L., Baronti, S., Garzelli, A. &
    Selva, M. (2006), MTF-tailored multiscale fusion of high-resolution MS and Pan imagery, Photogrammetric Engineering
    & Remote Sensing 72(5).) At small scales sigma is half a cell, and samples of the Gaussian miss the response (0.79
    for 0.74 at x2). So the weights are those of the discrete Gaussian, ``exp(-t) I_n(t)``, whose response is exactly
    ``exp(t (cos 2 pi f - 1))`` (Lindeberg, T. (1990), Scale-space for discrete signals, IEEE TPAMI 12(3)); t is sigma^2
    in the limit.
    """
    from scipy.special import ive

    t = -math.log(mtf) / (1 - math.cos(math.pi / scale))
    reach = math.ceil(4 * math.sqrt(t)) + 1
    weights: np.ndarray = ive(np.abs(np.arange(-reach, reach + 1)), t)
    return weights / weights.sum()


def psf(fine: np.ndarray, mtf: tuple[float, float], scale: int) -> np.ndarray:
    """``fine`` seen through a Gaussian point spread function.

    Parameters
    ----------
    fine : (…, y, x) floating; NaN is missing.
    mtf : (x, y) response at the Nyquist frequency of cells ``scale`` times larger: along the grid's rows (x), which
        stand for across track, and its columns (y), for along track.

    Returns
    -------
    Like ``fine``, NaN where it is. Weights are normalised over the valid cells within the array: nothing is invented
    in gaps or beyond the edge. They end at 4 standard deviations.
    """
    from scipy.ndimage import correlate1d

    def blurred(part: np.ndarray) -> np.ndarray:
        for axis, response in ((-1, mtf[0]), (-2, mtf[1])):
            part = correlate1d(part, psf_kernel(response, scale), axis=axis, mode="constant")
        return part

    valid = ~np.isnan(fine)
    total, weight = (blurred(part.astype(np.float64)) for part in (np.where(valid, fine, 0), valid))
    # A value always has its own weight; deep in a gap there may be none, and nothing is wanted.
    return np.where(valid, total / np.where(valid, weight, 1.0), np.nan).astype(fine.dtype)


def resize_down(fine: np.ndarray, weights: np.ndarray, scale: int, min_valid: float = 1.0) -> np.ndarray:
    """Antialiased bicubic reduction, as MATLAB's ``imresize(fine, 1 / scale, "bicubic")``.

    Keys' kernel (a = -1/2) stretched by ``scale``, centre-aligned; beyond the edge the edge's values go on, as in the
    MATLAB that made the customary low-resolution Set5 (newer ones mirror). MATLAB rounds 8-bit images after each axis;
    this does not. Over gaps the kernel is normalised over the valid cells.

    Parameters, Returns
    -------------------
    As for :func:`area_mean`; ``weights`` and ``min_valid`` decide alone which coarse cells have a value.
    """
    known = ~np.isnan(area_mean(fine, weights, scale, min_valid))
    valid = ~np.isnan(fine)
    total, share = (
        reduce_axis(reduce_axis(part.astype(np.float64), scale, -2), scale, -1)
        for part in (np.where(valid, fine, 0), valid)
    )
    return np.where(known, total / np.where(known, share, 1.0), np.nan).astype(fine.dtype)


def reduce_axis(values: np.ndarray, scale: int, axis: int) -> np.ndarray:
    """Sums of float64 ``values`` along ``axis`` under the stretched kernel at each coarse cell's centre."""
    reach = 2 * scale  # the kernel ends 2 coarse cells from the centre, 1.5 from the cell's side
    distance = (np.arange(-reach, scale + reach) + 0.5) / scale - 0.5
    taps = interpolate.keys_kernel(distance)
    taps /= taps.sum()
    values = np.moveaxis(values, axis, -1)
    n = values.shape[-1] // scale
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(reach, reach)], mode="edge")
    total: np.ndarray = sum(w * padded[..., k : k + (n - 1) * scale + 1 : scale] for k, w in enumerate(taps) if w)
    return np.moveaxis(total, -1, axis)


def add_noise(coarse: np.ndarray, sigma: float | np.ndarray, seed: int, index: int = 0) -> np.ndarray:
    """``coarse`` with Gaussian noise.

    Parameters
    ----------
    coarse : (h, w) floating; NaN stays.
    sigma : standard deviation in the units of ``coarse``, a number or (h, w). Where it is NaN the result is: what a
        sensor of unknown noise would have seen is not known.
    seed, index : of the noise, and which field of a series this is. A cell's noise does not depend on gaps elsewhere.

    Raises
    ------
    InputError
        A negative standard deviation.
    """
    sigma = np.asarray(sigma, dtype=np.float64)
    if (sigma < 0).any():
        raise InputError(f"a precision of {np.nanmin(sigma):g} is not possible", "check the precision variable")
    drawn = np.random.default_rng([seed, index]).standard_normal(coarse.shape)
    return (coarse + sigma * drawn).astype(coarse.dtype)


def degrade_array(
    fine: np.ndarray,
    weights: np.ndarray,
    scale: int,
    how: Degradation | None = None,
    *,
    min_valid: float = 1.0,
    precision: np.ndarray | None = None,
    index: int = 0,
) -> np.ndarray:
    """The coarse field (h, w) that a sensor like ``how`` makes of ``fine`` (h * scale, w * scale).

    Parameters
    ----------
    fine, weights, scale, min_valid : as for :func:`area_mean`; ``min_valid`` means the same for every kind.
    how : default: the area mean without noise.
    precision : with noise :data:`PRECISION`: (h, w), or (h * scale, w * scale); see :func:`coarse_precision`.
    index : which field of a series this is, for the noise.
    """
    how = how or Degradation()
    if how.kind == "resize":
        coarse = resize_down(fine, weights, scale, min_valid)
    else:
        coarse = area_mean(psf(fine, how.mtf, scale) if how.kind == "psf" else fine, weights, scale, min_valid)
    if not how.noise:
        return coarse
    if not isinstance(how.noise, str):
        return add_noise(coarse, how.noise, how.seed, index)
    if precision is None:
        raise UsageError("noise from the precision, but the data brings none", "give the noise as a number")
    return add_noise(coarse, coarse_precision(precision, weights, scale, coarse.shape), how.seed, index)


def coarse_precision(precision: np.ndarray, weights: np.ndarray, scale: int, shape: tuple[int, ...]) -> np.ndarray:
    """``precision`` on the coarse grid of ``shape``: as it is, or the area mean where it is on the fine one.

    A coarse pixel gets the precision of a fine one, not that of an average over many, for it is one measurement.
    """
    if precision.shape == tuple(n * scale for n in shape):
        precision = area_mean(precision, weights, scale, 1e-6)
    if precision.shape != shape:
        raise UsageError(
            f"the precision has {precision.shape} cells, the coarse field {shape}", "bring it to one of the grids"
        )
    return precision


def modcrop(data: xr.DataArray, scale: int) -> xr.DataArray:
    """``data`` (…, y, x) without the last rows and columns that do not fill a ``scale`` x ``scale`` block.

    The grid is cropped with the data. Raises :class:`~geosr.errors.UsageError` where nothing would be left.
    """
    y, x = grid.spatial_dims(data)
    ny, nx = data.sizes[y] // scale * scale, data.sizes[x] // scale * scale
    if 0 in (ny, nx):
        raise UsageError(
            f"{data.sizes[y]} x {data.sizes[x]} cells are less than one coarse cell at scale {scale}",
            "choose a smaller --scale",
        )
    if (ny, nx) == (data.sizes[y], data.sizes[x]):
        return data
    box = grid.geobox_of(data)[:ny, :nx]
    return grid.with_geobox(data.isel({y: slice(ny), x: slice(nx)}), box, like=data)


@overload
def degrade(
    truth: xr.DataArray,
    scale: int = 4,
    min_valid: float = 1.0,
    *,
    kind: str = "area",
    mtf: tuple[float, float] = TROPOMI,
    noise: float | str | xr.DataArray = 0.0,
    seed: int = 0,
) -> xr.DataArray: ...
@overload
def degrade(
    truth: xr.Dataset | str | os.PathLike[str],
    scale: int = 4,
    min_valid: float = 1.0,
    *,
    kind: str = "area",
    mtf: tuple[float, float] = TROPOMI,
    noise: float | str | xr.DataArray = 0.0,
    seed: int = 0,
) -> xr.Dataset: ...
def degrade(
    truth: xr.DataArray | xr.Dataset | str | os.PathLike[str],
    scale: int = 4,
    min_valid: float = 1.0,
    *,
    kind: str = "area",
    mtf: tuple[float, float] = TROPOMI,
    noise: float | str | xr.DataArray = 0.0,
    seed: int = 0,
) -> xr.DataArray | xr.Dataset:
    """The coarse field that a sensor makes of ``truth``.

    Parameters
    ----------
    truth : (…, y, x) on a grid, NaN where missing, cropped by :func:`modcrop`; or a Dataset with one (its NO2 column);
        or a file, read by :func:`geosr.open_no2`.
    scale : fine cells along a coarse cell's side.
    min_valid : share of a coarse cell's area that must be valid, above 0, up to 1.
    kind, mtf, seed : as in :class:`Degradation`.
    noise : standard deviation in the units of ``truth``: a number, or a field with its dimensions, or (y, x), on its
        grid or on the coarse one; "precision" takes what a Dataset brings.

    Returns
    -------
    DataArray with the dimensions, attributes and dtype of ``truth`` (float32 if it held integers), on the coarsened
    grid; computed at once. For a Dataset or a file, a Dataset with that as its one variable.

    Raises
    ------
    UsageError
        A kind, MTF, noise, seed or ``min_valid`` that cannot be, or a truth smaller than one coarse cell.

    >>> blurred = geosr.degrade(truth, 4, kind="psf", noise=0.3, seed=1)        # doctest: +SKIP
    """
    if not isinstance(truth, xr.DataArray):
        return _degrade_main(truth, scale, min_valid, kind=kind, mtf=mtf, noise=noise, seed=seed)
    scale = grid.check_scale(scale)
    if not 0 < min_valid <= 1:
        raise UsageError(f"a valid share of {min_valid} is not possible", "give a number above 0, up to 1")
    fields = isinstance(noise, xr.DataArray)
    how = Degradation(kind, tuple(mtf), PRECISION if fields else noise, seed)  # type: ignore[arg-type]
    y, x = grid.spatial_dims(truth)
    ordered = modcrop(truth, scale).transpose(..., y, x)
    box = grid.geobox_of(ordered)
    areas = grid.cell_areas(box)
    values = as_floating(ordered)
    lead = values.shape[:-2]
    coarse = np.empty((*lead, values.shape[-2] // scale, values.shape[-1] // scale), values.dtype)
    precisions = planes_of(noise, ordered, scale) if isinstance(noise, xr.DataArray) else None
    for index, place in enumerate(np.ndindex(lead)):
        precision = precisions[place] if precisions is not None else None
        coarse[place] = degrade_array(
            values[place], areas, scale, how, min_valid=min_valid, precision=precision, index=index
        )
    kept = {n: c for n, c in ordered.coords.items() if not {y, x} & set(c.dims) and n != "spatial_ref"}
    out = xr.DataArray(coarse, dims=ordered.dims, coords=kept, attrs=dict(truth.attrs), name=truth.name)
    return grid.with_geobox(out, grid.coarsen(box, scale), like=truth)


def _degrade_main(truth: Any, scale: int, min_valid: float, *, noise: Any, **options: Any) -> xr.Dataset:
    """:func:`degrade` for the NO2 column of a Dataset or a file."""
    from geosr.variables import main_variable

    if not isinstance(truth, xr.Dataset):
        from geosr.reading import open_no2

        truth = open_no2(truth)
    field = main_variable(truth)
    drawn = precision_in(truth, field) if isinstance(noise, str) and noise == PRECISION else noise
    coarse = degrade(field, scale, min_valid, noise=drawn, **options)
    coarse.attrs.pop("ancillary_variables", None)  # they are not in the result
    return coarse.to_dataset(name=str(field.name)).assign_attrs(truth.attrs)


def precision_in(ds: xr.Dataset, field: xr.DataArray) -> xr.DataArray:
    """The one-sigma precision that ``ds`` brings for ``field``, or a :class:`UsageError`."""
    from geosr.variables import ancillary_of

    for item in ancillary_of(ds, field):
        if "standard_error" in str(item.attrs.get("standard_name", "")) or str(item.name).endswith("_precision"):
            return item
    raise UsageError("noise from the precision, but the data brings none", "give the noise as a number")


def as_floating(data: xr.DataArray) -> np.ndarray:
    """The numbers of ``data``: floating as they are, others as float32; infinities are NaN."""
    values = np.asarray(data.values)
    if values.dtype.kind != "f":
        values = values.astype(np.float32)
    return np.where(np.isfinite(values), values, values.dtype.type(np.nan))


def planes_of(precision: xr.DataArray, truth: xr.DataArray, scale: int) -> np.ndarray:
    """``precision`` with the leading dimensions of ``truth`` (…, y, x), cropped with it if it is on the fine grid."""
    y, x = truth.dims[-2:]
    lead = truth.dims[:-2]
    strange = [d for d in precision.dims if d not in truth.dims]
    if strange or y not in precision.dims or x not in precision.dims:
        raise UsageError(
            f"the precision has dimensions {precision.dims}, the truth {truth.dims}", "bring it to the truth's grid"
        )
    if precision.sizes[y] > truth.sizes[y] // scale:
        precision = precision.isel({y: slice(truth.sizes[y]), x: slice(truth.sizes[x])})
    named = precision.expand_dims([d for d in lead if d not in precision.dims]).transpose(*lead, y, x)
    return np.broadcast_to(as_floating(named), (*(truth.sizes[d] for d in lead), named.sizes[y], named.sizes[x]))
