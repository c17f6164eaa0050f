"""Scores of a downscaled field against the truth.

Every score is over the cells of a mask. PSNR and SSIM are relative to a value range, and comparable only between
methods on one truth with one range; here it is that of the truth's scored cells unless one is given, and it is always
reported. Sums are in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_NAN = float("nan")


@dataclass(frozen=True)
class Scores:
    """What one method reached on one set of cells.

    Attributes
    ----------
    cells : number of scored cells.
    psnr : dB; ``10 log10(range^2 / mse)``, infinite for a perfect field.
    mse : in the field's units, squared.
    rmse, mae, bias : in the field's units; bias is prediction minus truth.
    ssim : mean structural similarity; NaN where no window is complete.
    r2 : coefficient of determination, ``1 - SSE / SST``; NaN on a constant truth.
    correlation : Pearson's; NaN where either field is constant.
    """

    cells: int
    psnr: float = _NAN
    mse: float = _NAN
    rmse: float = _NAN
    mae: float = _NAN
    bias: float = _NAN
    ssim: float = _NAN
    r2: float = _NAN
    correlation: float = _NAN


@dataclass(frozen=True)
class Coverage:
    """How honest a one-sigma band is on one set of cells.

    Attributes
    ----------
    cells : number of cells.
    one_sigma, two_sigma : share of cells whose error is at most one, two sigma; 0.683 and 0.954 for Gaussian errors.
    mean_sigma : in the field's units.
    rmse : of the prediction, in the field's units; near the root mean square of sigma where sigma is right.
    rms_sigma : root mean square of sigma.
    """

    cells: int
    one_sigma: float = _NAN
    two_sigma: float = _NAN
    mean_sigma: float = _NAN
    rmse: float = _NAN
    rms_sigma: float = _NAN


def value_range(truth: np.ndarray, mask: np.ndarray) -> float:
    """Largest minus smallest truth in the mask; NaN without cells."""
    values = truth[mask]
    return float(values.max() - values.min()) if values.size else _NAN


def psnr(mse: float, data_range: float) -> float:
    """Peak signal-to-noise ratio in dB; minus infinity over a range of 0."""
    if mse == 0:
        return float("inf")
    with np.errstate(divide="ignore"):
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
        return _NAN
    fields = [np.where(mask, f, 0).astype(np.float64) for f in (truth, predicted)]
    _, local = structural_similarity(*fields, win_size=window, data_range=data_range, full=True)
    return float(local[inside].mean())


def score(truth: np.ndarray, predicted: np.ndarray, mask: np.ndarray, data_range: float) -> Scores:
    """All scores of ``predicted`` (y, x) against ``truth`` over ``mask``; NaN without cells."""
    t, p = truth[mask].astype(np.float64), predicted[mask].astype(np.float64)
    if not t.size:
        return Scores(0)
    error = p - t
    mse = float(np.mean(error**2))
    t_centred, p_centred = t - t.mean(), p - p.mean()
    total, spread = float(np.sum(t_centred**2)), float(np.sum(p_centred**2))
    return Scores(
        cells=int(t.size),
        psnr=psnr(mse, data_range),
        mse=mse,
        rmse=float(np.sqrt(mse)),
        mae=float(np.abs(error).mean()),
        bias=float(error.mean()),
        ssim=ssim(truth, predicted, mask, data_range),
        r2=1 - float(np.sum(error**2)) / total if total > 0 else _NAN,
        correlation=float(np.sum(t_centred * p_centred)) / np.sqrt(total * spread) if total * spread > 0 else _NAN,
    )


def coverage(truth: np.ndarray, predicted: np.ndarray, sigma: np.ndarray, mask: np.ndarray) -> Coverage:
    """How much of the error of ``predicted`` (y, x) lies within one and two ``sigma`` (y, x), over ``mask``."""
    error = np.abs(predicted[mask].astype(np.float64) - truth[mask].astype(np.float64))
    band = sigma[mask].astype(np.float64)
    if not error.size:
        return Coverage(0)
    return Coverage(
        cells=int(error.size),
        one_sigma=float(np.mean(error <= band)),
        two_sigma=float(np.mean(error <= 2 * band)),
        mean_sigma=float(band.mean()),
        rmse=float(np.sqrt(np.mean(error**2))),
        rms_sigma=float(np.sqrt(np.mean(band**2))),
    )


def shave(mask: np.ndarray, cells: int) -> np.ndarray:
    """``mask`` (y, x) without its outermost ``cells`` rows and columns: what the papers cut before scoring."""
    if cells == 0:
        return mask
    inner = np.zeros_like(mask)
    kept = slice(cells, -cells)
    inner[kept, kept] = mask[kept, kept]
    return inner
