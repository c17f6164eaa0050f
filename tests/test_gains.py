"""geosr.evaluation.gains: bootstrap intervals against scipy's, blocks against loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from geosr.evaluation import metrics
from geosr.evaluation.gains import block_sums, bootstrap, gain_of_many, gain_of_one


def test_interval_is_scipy_s():
    samples = np.random.default_rng(0).gamma(2, 1, 25)
    low, high = bootstrap(samples, lambda drawn: drawn.mean(axis=1))
    theirs = stats.bootstrap((samples,), np.mean, method="percentile", n_resamples=20000).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.04)
    assert bootstrap(samples, lambda drawn: drawn.mean(axis=1)) == (low, high)  # the same each time


def test_many_samples_are_drawn_in_pieces():
    samples = np.random.default_rng(0).normal(size=30000)
    low, high = bootstrap(samples, lambda drawn: drawn.mean(axis=1))
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(30000), rel=0.1)


def test_blocks_by_loops():
    rng = np.random.default_rng(0)
    squares, mask = rng.gamma(1, 1, (11, 9)), rng.uniform(size=(11, 9)) < 0.7
    squares[~mask] = np.nan
    sums, cells = block_sums(squares, mask, 4)
    expected = [(slice(i, i + 4), slice(j, j + 4)) for i in (0, 4, 8) for j in (0, 4, 8)]
    assert sums == pytest.approx([squares[b][mask[b]].sum() for b in expected])
    assert cells.tolist() == [mask[b].sum() for b in expected]


def test_gain_is_the_difference_of_the_psnrs_and_its_interval_holds_it():
    rng = np.random.default_rng(0)
    truth = rng.gamma(1, 3, (256, 256)).astype(np.float32)
    good, bad = (truth + rng.normal(0, s, truth.shape).astype(np.float32) for s in (0.5, 1.0))
    mask = rng.uniform(size=truth.shape) < 0.5
    found = gain_of_one(truth, good, bad, mask, 2, ("good", "bad"))
    scores = [metrics.score(truth, f, mask, 10.0) for f in (good, bad)]
    assert found.db == pytest.approx(scores[0].psnr - scores[1].psnr, abs=1e-6)
    assert found.n == 64
    assert found.low < found.db < found.high
    assert found.high - found.low < 0.3
    assert (found.method, found.over, found.units, found.wins) == ("good", "bad", "blocks", 1)
    assert str(found).startswith("+6.0")


def test_too_little_gives_no_interval():
    truth = np.random.default_rng(0).normal(size=(64, 64))
    found = gain_of_one(truth, truth + 1, truth + 2, np.ones((64, 64), bool), 4, ("a", "b"))
    assert (found.n, found.low, found.high) == (1, None, None)
    assert str(found) == "+6.02 dB"
    perfect = gain_of_one(truth, truth, truth + 2, np.ones((64, 64), bool), 1, ("a", "b"))
    assert perfect.db == np.inf
    assert perfect.low is None
    assert gain_of_many([1.0, 2.0], ("a", "b")).low is None


def test_gain_of_many():
    found = gain_of_many([0.5, -0.1, 0.7, 0.4, 0.6], ("a", "b"))
    assert found.db == pytest.approx(0.42)
    assert (found.worst, found.wins, found.n, found.units) == (-0.1, 4, 5, "cases")
    assert -0.1 < found.low < 0.42 < found.high < 0.7


def test_a_gain_of_nothing_is_no_win():
    truth = np.random.default_rng(0).normal(size=(64, 64))
    tiny = gain_of_one(truth, truth + 1, truth + 1 + 1e-6, np.ones((64, 64), bool), 4, ("a", "b"))
    assert 0 < tiny.db < 1e-4
    assert (tiny.wins, tiny.outcome) == (0, "tied")
    assert gain_of_many([0.5, 0.004, -0.1, 0.006], ("a", "b")).wins == 2
