"""geosr.evaluation.metrics against scikit-image and plain formulas."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from geosr.evaluation import metrics


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    truth = rng.gamma(1, 3, (40, 30)).astype(np.float32)
    return truth, truth + rng.normal(0.1, 0.3, truth.shape).astype(np.float32)


def test_scores_by_scikit_image_scipy_and_hand(pair):
    truth, found = pair
    everywhere = np.ones(truth.shape, bool)
    span = metrics.value_range(truth, everywhere)
    s = metrics.score(truth, found, everywhere, span)
    t, f = truth.astype(np.float64), found.astype(np.float64)
    assert s.cells == truth.size
    assert s.psnr == pytest.approx(peak_signal_noise_ratio(t, f, data_range=span))
    # scikit-image crops 3 cells at the rim; so does counting complete windows only.
    assert s.ssim == pytest.approx(structural_similarity(t, f, data_range=span), abs=1e-12)
    assert s.mse == pytest.approx(np.mean((t - f) ** 2))
    assert s.rmse == pytest.approx(np.sqrt(np.mean((t - f) ** 2)))
    assert s.mae == pytest.approx(np.mean(np.abs(t - f)))
    assert s.bias == pytest.approx(np.mean(f - t))
    # As scikit-learn's r2_score(truth, prediction) defines it: not the correlation squared.
    assert s.r2 == pytest.approx(1 - np.sum((t - f) ** 2) / np.sum((t - np.mean(t)) ** 2))
    assert s.correlation == pytest.approx(stats.pearsonr(t.ravel(), f.ravel()).statistic)
    assert s.r2 < s.correlation**2


def test_large_numbers_lose_nothing(pair):
    """molec cm-2: squares near 1e32, beyond what float32 sums exactly."""
    truth, found = (f.astype(np.float64) for f in pair)
    mask = np.ones(truth.shape, bool)
    small = metrics.score(truth, found, mask, metrics.value_range(truth, mask))
    large = metrics.score(truth * 1e16, found * 1e16, mask, metrics.value_range(truth * 1e16, mask))
    for name in ("psnr", "r2", "correlation", "ssim"):
        assert getattr(large, name) == pytest.approx(getattr(small, name), rel=1e-9)
    assert large.mse == pytest.approx(small.mse * 1e32)


def test_nothing_outside_the_mask_counts(pair):
    truth, found = pair
    mask = np.zeros(truth.shape, bool)
    mask[:20] = True
    span = metrics.value_range(truth, mask)
    inside = metrics.score(truth, found, mask, span)
    truth, found = truth.copy(), found.copy()
    truth[20:], found[20:] = np.nan, 1e30
    assert metrics.score(truth, found, mask, span) == inside
    assert metrics.value_range(truth, mask) == span


def test_perfect_field(pair):
    truth, _ = pair
    s = metrics.score(truth, truth, np.ones(truth.shape, bool), 10.0)
    assert (s.psnr, s.rmse, s.ssim, s.r2) == (np.inf, 0, 1, 1)
    assert s.correlation == pytest.approx(1)


def test_a_constant_truth_explains_nothing(pair):
    _, found = pair
    s = metrics.score(np.ones_like(found), found, np.ones(found.shape, bool), 0.0)
    assert np.isnan([s.r2, s.correlation, s.ssim]).all()
    assert s.psnr == -np.inf
    assert s.rmse > 0


def test_no_cells(pair):
    s = metrics.score(*pair, np.zeros(pair[0].shape, bool), 1.0)
    assert s.cells == 0
    assert np.isnan([s.psnr, s.mse, s.rmse, s.mae, s.bias, s.ssim, s.r2, s.correlation]).all()
    assert np.isnan(metrics.value_range(pair[0], np.zeros(pair[0].shape, bool)))


def test_ssim_needs_a_complete_window(pair):
    mask = np.zeros(pair[0].shape, bool)
    mask[::2] = True
    assert np.isnan(metrics.ssim(*pair, mask, 1.0))
    assert np.isnan(metrics.ssim(pair[0][:5], pair[1][:5], np.ones((5, 30), bool), 1.0))


def test_shaving_is_cropping(pair):
    truth, found = pair
    shaved = metrics.score(truth, found, metrics.shave(np.ones(truth.shape, bool), 4), 9.0)
    inner = truth[4:-4, 4:-4], found[4:-4, 4:-4]
    cropped = metrics.score(*inner, np.ones(inner[0].shape, bool), 9.0)
    assert shaved.cells == cropped.cells == 32 * 22
    assert shaved.psnr == pytest.approx(cropped.psnr)
    assert shaved.ssim == pytest.approx(cropped.ssim)
    assert not metrics.shave(np.ones((6, 9), bool), 3).any()
    assert metrics.shave(np.ones((6, 9), bool), 0).all()


def test_coverage_of_gaussian_errors():
    rng = np.random.default_rng(0)
    truth, sigma = rng.normal(size=(300, 300)), rng.uniform(0.5, 2, (300, 300))
    found = truth + sigma * rng.standard_normal(truth.shape)
    mask = rng.uniform(size=truth.shape) < 0.8
    c = metrics.coverage(truth, found, sigma, mask)
    assert c.cells == mask.sum()
    assert c.one_sigma == pytest.approx(stats.norm.cdf(1) - stats.norm.cdf(-1), abs=0.005)
    assert c.two_sigma == pytest.approx(stats.norm.cdf(2) - stats.norm.cdf(-2), abs=0.005)
    assert c.mean_sigma == pytest.approx(sigma[mask].mean())
    assert c.rms_sigma == pytest.approx(c.rmse, rel=0.02)
    wide = metrics.coverage(truth, found, 3 * sigma, mask)
    assert wide.one_sigma > 0.99
    assert metrics.coverage(truth, found, sigma, np.zeros_like(mask)).cells == 0
