"""Scores of a downscaled field against the truth.

Every score is over the cells of a mask. PSNR and SSIM are relative to a value range, and comparable only between
methods on one truth with one range; here it is that of the truth's scored cells, and it is always reported.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scores:
    """What one method reached on one set of cells.

    Attributes
    ----------
    cells : number of scored cells.
    psnr : dB; ``10 log10(range^2 / mse)``, infinite for a perfect field.
    rmse, mae, bias : in the field's units; bias is prediction minus truth.
    ssim : mean structural similarity; NaN where no window is complete.
    """

    cells: int
    psnr: float
    rmse: float
    mae: float
    bias: float
    ssim: float


def value_range(truth: np.ndarray, mask: np.ndarray) -> float:
    """Largest minus smallest truth in the mask; NaN without cells."""
    values = truth[mask]
    return float(values.max() - values.min()) if values.size else float("nan")


def psnr(mse: float, data_range: float) -> float:
    """Peak signal-to-noise ratio in dB."""
    if mse == 0:
        return float("inf")
    return float(10 * np.log10(data_range**2 / mse))


def ssim(truth: np.ndarray, predicted: np.ndarray, mask: np.ndarray, data_range: float) -> float:
    """Mean structural similarity over the mask's cells whose whole 7 x 7 window is in the mask.

    scikit-image's ``structural_similarity`` (uniform window) on the two fields, cells outside the mask set to 0 in
    both: no window that touches them is counted.
    """
    from scipy.ndimage import minimum_filter
    from skimage.metrics import structural_similarity

    window = 7
    inside = minimum_filter(mask, size=window, mode="constant", cval=False)
    if min(mask.shape) < window or not inside.any() or not data_range > 0:
        return float("nan")
    fields = [np.where(mask, f, 0).astype(np.float64) for f in (truth, predicted)]
    _, local = structural_similarity(*fields, win_size=window, data_range=data_range, full=True)
    return float(local[inside].mean())


def score(truth: np.ndarray, predicted: np.ndarray, mask: np.ndarray, data_range: float) -> Scores:
    """All scores of ``predicted`` (y, x) against ``truth`` over ``mask``; NaN without cells."""
    error = predicted[mask].astype(np.float64) - truth[mask].astype(np.float64)
    if not error.size:
        nan = float("nan")
        return Scores(0, nan, nan, nan, nan, nan)
    mse = float(np.mean(error**2))
    return Scores(
        cells=int(error.size),
        psnr=psnr(mse, data_range),
        rmse=float(np.sqrt(mse)),
        mae=float(np.abs(error).mean()),
        bias=float(error.mean()),
        ssim=ssim(truth, predicted, mask, data_range),
    )
