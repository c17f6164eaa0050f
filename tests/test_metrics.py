"""geosr.metrics against scikit-image and plain formulas."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from geosr import metrics


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    truth = rng.gamma(1, 3, (40, 30)).astype(np.float32)
    return truth, truth + rng.normal(0, 0.3, truth.shape).astype(np.float32)


def test_scores_by_scikit_image(pair):
    truth, found = pair
    everywhere = np.ones(truth.shape, bool)
    span = metrics.value_range(truth, everywhere)
    s = metrics.score(truth, found, everywhere, span)
    t, f = truth.astype(np.float64), found.astype(np.float64)
    assert s.cells == truth.size
    assert s.psnr == pytest.approx(peak_signal_noise_ratio(t, f, data_range=span))
    # scikit-image crops 3 cells at the rim; so does counting complete windows only.
    assert s.ssim == pytest.approx(structural_similarity(t, f, data_range=span), abs=1e-12)
    assert s.rmse == pytest.approx(np.sqrt(np.mean((t - f) ** 2)))
    assert s.mae == pytest.approx(np.mean(np.abs(t - f)))
    assert s.bias == pytest.approx(np.mean(f - t))


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
    assert (s.psnr, s.rmse, s.ssim) == (np.inf, 0, 1)


def test_no_cells(pair):
    s = metrics.score(*pair, np.zeros(pair[0].shape, bool), 1.0)
    assert s.cells == 0
    assert np.isnan([s.psnr, s.rmse, s.mae, s.bias, s.ssim]).all()
    assert np.isnan(metrics.value_range(pair[0], np.zeros(pair[0].shape, bool)))


def test_ssim_needs_a_complete_window(pair):
    mask = np.zeros(pair[0].shape, bool)
    mask[::2] = True
    assert np.isnan(metrics.ssim(*pair, mask, 1.0))
    assert np.isnan(metrics.ssim(pair[0][:5], pair[1][:5], np.ones((5, 30), bool), 1.0))
