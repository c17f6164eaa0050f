"""Training examples: squares of truth with the field that inference would start from.

Each is cut at any phase of the coarse grid, degraded, gap-filled and refined exactly as inference does it, then
standardised by the mean and spread of its bicubic field. Standardising is for the optimiser alone: an
affine-equivariant network gives the same residual, scaled (:mod:`geosr.models.keras_network`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geosr import gaps, interpolate
from geosr.degrade import area_mean
from geosr.errors import ModelError
from geosr.models.architectures import architecture
from geosr.recipe import Recipe
from geosr.scenes import Scene

#: Share of a coarse cell that must be valid for it to count as data in the degraded field.
MIN_COVER = 0.5

#: Spread below this share of the largest |value| of a patch counts as this: a constant patch must not divide by 0.
_FLAT = 1e-3


@dataclass(frozen=True)
class Batch:
    """Examples, float32: upsampled (n, P + 2 r, P + 2 r, 1), truth and mask (n, P, P, 1), weight (n, 1, 1, 1)."""

    upsampled: np.ndarray
    truth: np.ndarray
    mask: np.ndarray
    weight: np.ndarray


class Sampler:
    """Draws examples from scenes, at every phase of the coarse grid.

    Parameters
    ----------
    scenes : truths; ``weight`` is a factor on the odds of each of a scene's squares.
    recipe : scale, patches, spread power, seed.
    """

    def __init__(self, scenes: list[Scene], recipe: Recipe) -> None:
        self.recipe = recipe
        self.scale = recipe.scale
        self.radius = architecture(recipe.network.architecture).radius
        self.halo = -(-self.radius // self.scale) + interpolate.RADIUS  # coarse cells
        self.rng = np.random.default_rng(recipe.seed)
        rim = self.halo * self.scale
        # Outside the raster is a gap like any other, so squares at the edge are examples too.
        self.fields = [np.pad(s.values, rim, constant_values=np.nan) for s in scenes]
        self.areas = [np.pad(s.areas, ((rim, rim), (0, 0)), mode="edge") for s in scenes]
        self.places, odds = [], []
        for scene in scenes:
            places, odds_here = self._usable(scene.values)
            self.places.append(places)
            odds.append(np.cumsum(odds_here * scene.weight))
        if not sum(len(p) for p in self.places):
            raise ModelError(
                f"no square of {recipe.patches.size} cells has {recipe.patches.min_valid:.0%} valid cells",
                "lower patches.size or patches.min_valid in the recipe, or add data",
            )
        self.odds = odds  # cumulative: one draw finds a square in log time
        self.shares = np.cumsum([o[-1] if len(o) else 0.0 for o in odds])

    def _usable(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n, 2) upper left corners of squares with enough valid cells, in unpadded cells, and their (n,) odds."""
        size = self.recipe.patches.size
        if min(values.shape) < size:
            return np.empty((0, 2), dtype=np.int32), np.empty(0)
        valid = ~np.isnan(values)
        count = _window_sum(valid, size)
        places = np.argwhere(count >= self.recipe.patches.min_valid * size**2).astype(np.int32)
        n = count[places[:, 0], places[:, 1]]
        centred = np.where(valid, values - np.nanmean(values) if valid.any() else 0, 0)
        mean, square = (_window_sum(a, size)[places[:, 0], places[:, 1]] / n for a in (centred, centred**2))
        contrast = np.sqrt(np.maximum(square - mean**2, 0))
        return places, contrast**self.recipe.patches.contrast_power

    def batch(self) -> Batch:
        """The next examples."""
        drawn = [self._example() for _ in range(self.recipe.patches.batch)]
        up, truth, mask, weight = (np.stack(parts) for parts in zip(*drawn, strict=True))
        return Batch(up[..., None], truth[..., None], mask[..., None], weight[:, None, None, None])

    def _example(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.float32]:
        while True:
            which = int(np.searchsorted(self.shares, self.rng.uniform(0, self.shares[-1]), side="right"))
            odds = self.odds[which]
            at = int(np.searchsorted(odds, self.rng.uniform(0, odds[-1]), side="right"))
            example = self._cut(which, *(int(n) for n in self.places[which][at]))
            if example is not None:
                return example

    def _cut(self, which: int, row: int, col: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.float32] | None:
        """Example whose truth starts at (row, col); None if no coarse cell is complete."""
        s, size, rim = self.scale, self.recipe.patches.size, self.halo * self.scale
        side = size + 2 * rim
        fine = self.fields[which][row : row + side, col : col + side]
        area = self.areas[which][row : row + side]
        coarse = gaps.fill_gaps(area_mean(fine, area, s, MIN_COVER), self.halo)
        up = interpolate.bicubic(coarse, s)
        cut = rim - interpolate.RADIUS * s - self.radius
        up = up[cut : up.shape[0] - cut, cut : up.shape[1] - cut]
        truth = fine[rim:-rim, rim:-rim]
        blocks = truth.reshape(size // s, s, size // s, s)
        whole = ~np.isnan(blocks).any(axis=(1, 3))
        if not whole.any():
            return None
        mask = np.repeat(np.repeat(whole, s, axis=0), s, axis=1)
        return self._standardise(up, np.where(mask, truth, 0), mask)

    def _standardise(
        self, up: np.ndarray, truth: np.ndarray, mask: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.float32]:
        inner = up[self.radius : -self.radius, self.radius : -self.radius][mask]
        mean, spread = inner.mean(), max(inner.std(), _FLAT * np.abs(inner).max(), np.float32(1e-12))
        turns, flip = int(self.rng.integers(4)), bool(self.rng.integers(2))

        def turn(a: np.ndarray) -> np.ndarray:
            a = np.rot90(a, turns)
            return a[:, ::-1] if flip else a

        weight = np.float32(spread**self.recipe.loss.spread_power)
        standard = ((up - mean) / spread).astype(np.float32), ((truth - mean) / spread).astype(np.float32)
        return turn(standard[0]), turn(standard[1]), turn(mask).astype(np.float32), weight


def _window_sum(values: np.ndarray, size: int) -> np.ndarray:
    """Sum over each ``size`` x ``size`` window, at its upper left corner; float64."""
    total = np.pad(np.cumsum(np.cumsum(values, axis=0, dtype=np.float64), axis=1), ((1, 0), (1, 0)))
    return total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
