"""Gains in PSNR, and how sure they are: percentile bootstrap intervals over cases or over blocks of one case.

Efron, B. & Tibshirani, R. J. (1993), An introduction to the bootstrap, section 13.3. Cells are no independent samples
(errors come in plumes), so what is drawn again is a whole case (a file, a day), or, with one case only, a square block
of it. Cases of one sensor and season resemble each other more than the interval knows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

#: Side of a block in coarse cells: wide against a plume, small against a scene.
BLOCK = 16

#: Fewer blocks or cases than these give no interval.
FEWEST_BLOCKS = 8
FEWEST_CASES = 3

#: A gain smaller than this, in dB, is none.
TIE = 0.005

DRAWS = 5000
CONFIDENCE = 0.95
_SEED = 20190820


@dataclass(frozen=True)
class Gain:
    """PSNR of one method minus that of another.

    Attributes
    ----------
    method, over : what gains over what; ``over`` is a method, or "best interpolation" where that differs by case.
    db : the gain; over several cases, the mean of theirs.
    low, high : 95 % interval of ``db``; None where there is too little to draw from.
    units : what was drawn, "blocks" or "cases"; n : how many there are.
    worst : smallest gain in any case; wins : cases with a gain of at least :data:`TIE`. One case is its own worst.
    """

    method: str
    over: str
    db: float
    low: float | None
    high: float | None
    units: str
    n: int
    worst: float
    wins: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.db:+.2f} dB"
        return f"{self.db:+.2f} dB [{self.low:+.2f}, {self.high:+.2f}]"

    @property
    def outcome(self) -> str:
        """``won``, ``lost``, ``tied`` (no gain), ``open`` (the interval holds 0); without one the sign tells."""
        if not abs(self.db) >= TIE:
            return "tied"
        if self.low is not None and self.high is not None and self.low <= 0 <= self.high:
            return "open"
        return "won" if self.db > 0 else "lost"

    @property
    def told(self) -> str:
        """The gain for a verdict: with its interval, or with the reason why there is none."""
        if self.low is None and self.n < {"blocks": FEWEST_BLOCKS, "cases": FEWEST_CASES}[self.units]:
            return f"{self}, {'too small' if self.units == 'blocks' else 'too few cases'} for an interval"
        return str(self)


def bootstrap(samples: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
    """Percentile interval of ``statistic`` at :data:`CONFIDENCE`, always the same for the same samples.

    Parameters
    ----------
    samples : (n, …), drawn along the first axis with replacement.
    statistic : from (draws, n, …) to (draws,).
    """
    rng, n = np.random.default_rng(_SEED), len(samples)
    at_once = max(1, min(DRAWS, 1_000_000 // n))  # bounds memory
    sizes = [min(at_once, DRAWS - done) for done in range(0, DRAWS, at_once)]
    drawn = np.concatenate([statistic(samples[rng.integers(n, size=(size, n))]) for size in sizes])
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def block_sums(squares: np.ndarray, mask: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) sums of ``squares`` (y, x) over the masked cells of each block, ``side`` cells wide, and (n,) cell counts.

    The last blocks of a row or column may be smaller.
    """
    starts = [np.arange(0, n, side) for n in mask.shape]

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.add.reduceat(values, starts[0], axis=0), starts[1], axis=1).ravel()

    return total(np.where(mask, squares, 0.0).astype(np.float64)), total(mask.astype(np.int64))


def gain_of_one(
    truth: np.ndarray, better: np.ndarray, worse: np.ndarray, mask: np.ndarray, scale: int, names: tuple[str, str]
) -> Gain:
    """Gain of the field ``better`` over ``worse`` (y, x) on ``mask``, with its interval over blocks.

    Parameters
    ----------
    names : of the two methods.
    """
    squares = [(f.astype(np.float64) - truth) ** 2 for f in (better, worse)]
    (ours, cells), (theirs, _) = (block_sums(s, mask, BLOCK * scale) for s in squares)
    ours, theirs = ours[cells > 0], theirs[cells > 0]
    db, n = float(_decibels(np.stack([ours, theirs], axis=-1)[None])[0]), len(ours)
    low = high = None
    if n >= FEWEST_BLOCKS and np.isfinite(db):
        low, high = bootstrap(np.stack([ours, theirs], axis=-1), _decibels)
        low, high = (low, high) if np.isfinite([low, high]).all() else (None, None)
    return Gain(*names, db, low, high, "blocks", n, db, int(db >= TIE))


def _decibels(sums: np.ndarray) -> np.ndarray:
    """(draws,) gains from (draws, n, 2) sums of squared errors, whose ratio is that of the MSEs."""
    ours, theirs = np.moveaxis(sums.sum(axis=1), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 10 * np.log10(theirs / ours)


def gain_of_many(values: list[float], names: tuple[str, str]) -> Gain:
    """Mean gain over cases, with its interval over them."""
    gains: np.ndarray = np.array(values, dtype=np.float64)
    low = high = None
    if len(gains) >= FEWEST_CASES and np.isfinite(gains).all():
        low, high = bootstrap(gains, lambda drawn: drawn.mean(axis=1))
    wins = int(np.sum(gains >= TIE))
    return Gain(*names, float(gains.mean()), low, high, "cases", len(gains), float(gains.min()), wins)
