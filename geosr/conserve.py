"""Conservation: each coarse cell's column is the area-weighted mean of its fine cells.

The correction is additive and constant within a coarse cell: the orthogonal projection of the fine field onto
the fields that reproduce the coarse one (in the area-weighted norm). It needs no sign, so negative columns
stay what they are. The same constraint layer is "additive" in Harder et al. (2023), Hard-constrained deep
learning for climate downscaling, JMLR 24, eq. 4.
"""

from __future__ import annotations

import numpy as np

from geosr import native


def block_mean(fine: np.ndarray, weights: np.ndarray, scale: int) -> np.ndarray:
    """Weighted mean of each ``scale`` x ``scale`` block.

    Parameters
    ----------
    fine : (…, h * scale, w * scale).
    weights : cell areas, (h * scale, 1) or (h * scale, w * scale).

    Returns
    -------
    (…, h, w) float64. A NaN in a block makes its mean NaN.
    """
    *lead, ny, nx = fine.shape
    h, w = ny // scale, nx // scale
    split = (h, scale, w, scale)
    values = np.asarray(fine, dtype=np.float64).reshape(*lead, *split)
    if weights.shape[-1] == 1:
        rows = weights.reshape(h, scale)
        share = rows / rows.sum(axis=1, keepdims=True)
        return (values.sum(axis=-1) * share[:, :, None]).sum(axis=-2) / scale
    cells = weights.reshape(split)
    return (values * cells).sum(axis=(-3, -1)) / cells.sum(axis=(-3, -1))


def spread(coarse: np.ndarray, scale: int) -> np.ndarray:
    """Each cell of ``coarse`` (…, h, w) repeated over its ``scale`` x ``scale`` fine cells."""
    return np.repeat(np.repeat(coarse, scale, axis=-2), scale, axis=-1)


def conserve(fine: np.ndarray, coarse: np.ndarray, weights: np.ndarray, scale: int) -> np.ndarray:
    """``fine`` corrected so that each block's weighted mean is the coarse cell's value.

    Parameters
    ----------
    fine : (…, h * scale, w * scale) prediction, finite.
    coarse : (…, h, w); NaN is nodata.
    weights : as in :func:`block_mean`.

    Returns
    -------
    Array like ``fine``; NaN exactly where the coarse cell is NaN. The sums are in float64, so the error is the
    rounding of the result's own dtype.
    """
    correction = np.asarray(coarse, dtype=np.float64) - block_mean(fine, weights, scale)
    return (fine + spread(correction, scale)).astype(fine.dtype)


def mask(fine: np.ndarray, coarse: np.ndarray, scale: int) -> np.ndarray:
    """``fine`` with NaN over the coarse cells that are NaN (what :func:`conserve` does, without the correction)."""
    return np.where(spread(np.isnan(coarse), scale), fine.dtype.type(np.nan), fine)


def conservation_error(fine: np.ndarray, coarse: np.ndarray, weights: np.ndarray, scale: int) -> float:
    """Largest ``|block mean - coarse|`` over valid cells, in the field's units (0 without valid cells)."""
    error = np.abs(block_mean(fine, weights, scale) - coarse)
    return float(np.nanmax(error)) if np.isfinite(error).any() else 0.0


def finish(
    fine: np.ndarray, coarse: np.ndarray, weights: np.ndarray, scale: int, correct: bool = True
) -> tuple[np.ndarray, float, float]:
    """A predicted tile made final: :func:`conserve` (or only :func:`mask`), and the check of it.

    Parameters
    ----------
    fine : (h * scale, w * scale), finite; may be changed.
    coarse, weights : as in :func:`conserve`.
    correct : False leaves the means as they are.

    Returns
    -------
    The tile, the :func:`conservation_error` that is left, and the largest ``|coarse|`` (0 without valid cells). The
    same to the last bit whether :mod:`geosr.native` does it (float32, weights that depend on the row alone) or numpy.
    """
    if fine.dtype == np.float32 and fine.flags.c_contiguous and weights.shape[-1] == 1 and native.available():
        rows = weights.reshape(-1, scale)
        return fine, *native.conserve(fine, coarse, rows / rows.sum(axis=1, keepdims=True), correct)
    fine = conserve(fine, coarse, weights, scale) if correct else mask(fine, coarse, scale)
    largest = np.abs(coarse[np.isfinite(coarse)]).max(initial=0.0)
    return fine, conservation_error(fine, coarse, weights, scale), float(largest)
