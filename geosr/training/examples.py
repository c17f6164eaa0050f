"""Training examples: squares of truth with the coarse field that inference would start from.

Each is cut at any phase of the coarse grid, degraded and gap-filled exactly as inference does it, turned and flipped.
Networks on either grid learn from the same examples: truth and mask are kept by coarse cell, a cell's fine cells as
channels (the layout of :func:`geosr.models.keras_network.shuffle`).

Standardising by the mean and spread of each square is for the optimiser alone: an affine-equivariant network gives the
same residual, scaled (:mod:`geosr.models.keras_network`). Other networks get the constants that inference will use.
"""

from __future__ import annotations

import copy
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from geosr import gaps, interpolate
from geosr.channel import AffineScaler
from geosr.degrade import add_noise, area_mean, psf, psf_kernel
from geosr.errors import ModelError
from geosr.models.architectures import Architecture, architecture
from geosr.training.recipe import Recipe
from geosr.training.scenes import Scene

#: Share of a coarse cell that must be valid for it to count as data in the degraded field.
MIN_COVER = 0.5

#: Spread below this share of the largest |value| of a square counts as this: a constant one must not divide by 0.
_FLAT = 1e-3

# Squares are drawn from a lattice this coarse (cells), and shifted by less than it: every phase of every scale comes.
_LATTICE = 4

# After so many squares without enough complete coarse cells there are none.
_TRIES = 10_000


@dataclass(frozen=True)
class Batch:
    """Examples, float32.

    Attributes
    ----------
    coarse : (n, K + 2 halo, K + 2 halo, 1), K coarse cells along a side.
    truth : (n, K, K, scale ** 2).
    mask : (n, K, K, 1), 1 where every fine cell of the coarse cell is valid.
    weight : (n, 1, 1, 1).
    """

    coarse: np.ndarray
    truth: np.ndarray
    mask: np.ndarray
    weight: np.ndarray


def halo_of(arch: Architecture, scale: int) -> int:
    """Coarse cells that a network sees around the cell it refines, the bicubic refinement included."""
    if arch.coarse:
        return max(arch.reach, interpolate.RADIUS)
    return -(-arch.reach // scale) + interpolate.RADIUS


def reach_of(recipe: Recipe) -> int:
    """Cells of a truth around an example that its coarse field is made from."""
    names = (recipe.network.architecture, recipe.sigma.architecture)
    halo = max(halo_of(architecture(name), recipe.scale) for name in names if name)
    return halo * recipe.scale + blur_rim(recipe)


def blur_rim(recipe: Recipe) -> int:
    """Cells that the recipe's point spread function reaches beyond those that are averaged; 0 without one."""
    widths = [len(psf_kernel(low, recipe.scale)) for low, _ in recipe.degradation.mtf_ranges]
    return max(widths, default=1) // 2


class Sampler:
    """Draws examples from scenes, at every phase of the coarse grid.

    Parameters
    ----------
    scenes : truths; ``weight`` is in proportion to the odds that an example is of the scene. Within a scene, squares
        are drawn with odds in proportion to their contrast (``recipe.patches.contrast_power``).
    recipe : scale, patches, spread power, seed.
    scaler : constants that standardise; None takes each square's own mean and spread.
    seed : instead of the recipe's.
    """

    def __init__(
        self, scenes: list[Scene], recipe: Recipe, scaler: AffineScaler | None = None, seed: int | None = None
    ) -> None:
        self.recipe = recipe
        self.scale = recipe.scale
        self.scaler = scaler
        self.blur = blur_rim(recipe)
        self.halo = (reach_of(recipe) - self.blur) // self.scale
        self.rng = np.random.default_rng(recipe.seed if seed is None else seed)
        self._scenes: list[_Places] = []
        weights = []
        for scene in scenes:
            places = _Places.of(scene, recipe, self.halo * self.scale + self.blur)
            if places is not None:
                self._scenes.append(places)
                weights.append(scene.weight)
        if not self._scenes:
            raise ModelError(
                f"no square of {recipe.patches.size} cells has {recipe.patches.min_valid:.0%} valid cells and contrast",
                "lower patches.size or patches.min_valid in the recipe, or add data",
            )
        self._shares = np.cumsum(weights) / np.sum(weights)

    def batch(self) -> Batch:
        """The next examples."""
        drawn = [self._example() for _ in range(self.recipe.patches.batch)]
        coarse, truth, mask, weight = (np.stack(parts) for parts in zip(*drawn, strict=True))
        return Batch(coarse[..., None], truth, mask[..., None], weight[:, None, None, None])

    def _example(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.float32]:
        for _ in range(_TRIES):
            which = int(np.searchsorted(self._shares, self.rng.uniform(), side="right"))
            places = self._scenes[min(which, len(self._scenes) - 1)]
            example = self._cut(places, *places.draw(self.rng))
            if example is not None:
                return example
        raise ModelError(
            f"{_TRIES} squares in a row have no two complete coarse cells",
            "use a smaller scale, or data with fewer gaps",
        )

    def _cut(self, places: _Places, row: int, col: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.float32] | None:
        """Example whose truth starts at (row, col); None if too few coarse cells are complete."""
        s, h, size = self.scale, self.halo, self.recipe.patches.size
        k, side, rim = size // s, size + 2 * (h * s + self.blur), h * s + self.blur
        fine, areas = places.values[row : row + side, col : col + side], places.areas[row : row + side]
        blocks = fine[rim:-rim, rim:-rim].reshape(k, s, k, s).swapaxes(1, 2)
        whole = ~np.isnan(blocks).any(axis=(2, 3))
        if whole.sum() < 2:
            return None
        # A sensor's two directions are the network's: where it matters, the turn is drawn first.
        turn = self._turn() if self.recipe.degradation else None
        coarse = self._coarse(fine, areas, turn[0] % 2 if turn else 0)
        if self.recipe.patches.edge and self.rng.uniform() < self.recipe.patches.edge:
            coarse = _ended(coarse, h, int(self.rng.integers(1, 16)))
        inner = coarse[h : h + k, h : h + k][whole]
        mean, spread = self._standard(inner)
        weight = np.float32(spread**self.recipe.loss.spread_power) if self.scaler is None else np.float32(1)
        coarse = (gaps.fill_gaps(coarse, h) - mean) / spread
        blocks = np.where(whole[:, :, None, None], (blocks - mean) / spread, 0)
        turns, flip = turn or self._turn()
        coarse, whole, blocks = (_turned(a, turns, flip) for a in (coarse, whole, blocks))
        truth = blocks.reshape(k, k, s * s).astype(np.float32)
        return coarse.astype(np.float32), truth, whole.astype(np.float32), weight

    def _turn(self) -> tuple[int, bool]:
        """(quarter turns, mirrored?) of an example."""
        return int(self.rng.integers(4)), bool(self.rng.integers(2))

    def _coarse(self, fine: np.ndarray, areas: np.ndarray, sideways: int) -> np.ndarray:
        """What the recipe's sensor makes of ``fine``: by default its area mean.

        Parameters
        ----------
        fine : truth with the halo, and as much more on each side as the point spread function reaches.
        areas : of its rows.
        sideways : 1 if the example will be turned such that its columns become rows.
        """
        how, rim = self.recipe.degradation, self.blur
        if how.mtf:
            x, y = (self.rng.uniform(*ends) for ends in how.mtf_ranges)
            fine = psf(fine, (y, x) if sideways else (x, y), self.scale)
        inner = slice(rim, len(fine) - rim)
        coarse = area_mean(fine[inner, inner], areas[inner], self.scale, MIN_COVER)
        low, high = how.noise_range
        if high > 0:
            coarse = add_noise(coarse, self.rng.uniform(low, high), int(self.rng.integers(2**32)))
        return coarse

    def _standard(self, inner: np.ndarray) -> tuple[float, float]:
        """(mean, spread) to standardise by."""
        if self.scaler is not None:
            return self.scaler.offset, self.scaler.scale
        spread = max(float(inner.std()), _FLAT * float(np.abs(inner).max()), 1e-12)
        return float(inner.mean()), spread


class Ahead:
    """The batches of a sampler, each made in a thread while the one before is learnt from.

    Attributes
    ----------
    rng : as the sampler's would be after the last batch that was asked for; leaving the context leaves that one so.
    """

    def __init__(self, sampler: Sampler) -> None:
        self.rng = copy.deepcopy(sampler.rng)
        self._sampler = sampler
        self._thread = ThreadPoolExecutor(1)
        self._coming: Future[tuple[Batch, Any]] | None = None

    def batch(self) -> Batch:
        """The next examples."""
        coming = self._coming or self._thread.submit(self._make)
        made, self.rng.bit_generator.state = coming.result()
        self._coming = self._thread.submit(self._make)
        return made

    def _make(self) -> tuple[Batch, Any]:
        return self._sampler.batch(), self._sampler.rng.bit_generator.state

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(wait=True)
        self._sampler.rng.bit_generator.state = self.rng.bit_generator.state


@dataclass(frozen=True)
class _Places:
    """A scene with a rim of gaps, and the squares in it that can be drawn.

    Attributes
    ----------
    values, areas : with the rim; outside the raster is a gap like any other, so squares at the edge are examples too.
    corners : (n, 2) upper left corners of usable squares on the lattice, in cells of the scene.
    odds : (n,) cumulative, ending in 1.
    """

    values: np.ndarray
    areas: np.ndarray
    corners: np.ndarray
    odds: np.ndarray

    @classmethod
    def of(cls, scene: Scene, recipe: Recipe, rim: int) -> _Places | None:
        """None where no square has enough valid cells, or all are flat."""
        size = recipe.patches.size
        ny, nx = scene.values.shape
        # A scene smaller than a square is a square with gaps; what it cannot have is not asked of it.
        more = max(size - ny, 0), max(size - nx, 0)
        values = np.pad(scene.values, ((0, more[0]), (0, more[1])), constant_values=np.nan)
        valid = ~np.isnan(values)
        if not valid.any():
            return None
        step = slice(None, None, _LATTICE)
        count = window_sum(valid, size)[step, step]
        centred = np.where(valid, values - values[valid].mean(dtype=np.float64), 0)
        mean, square = (window_sum(a, size)[step, step] / np.maximum(count, 1) for a in (centred, centred**2))
        # What cancels to rounding is flat.
        variance = np.where(square - mean**2 > 1e-10 * square, square - mean**2, 0)
        least = recipe.patches.min_valid * min(size, ny) * min(size, nx)
        odds = np.where((count >= least) & (variance > 0), variance ** (recipe.patches.contrast_power / 2), 0)
        corners = np.argwhere(odds > 0).astype(np.int32)
        if not len(corners):
            return None
        chosen = np.cumsum(odds[odds > 0])
        areas = np.pad(scene.areas, ((rim, rim + more[0] + _LATTICE), (0, 0)), mode="edge")
        around = np.pad(values, ((rim, rim + _LATTICE),) * 2, constant_values=np.nan)
        return cls(around, areas, corners * _LATTICE, chosen / chosen[-1])

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """The corner of a square."""
        at = min(int(np.searchsorted(self.odds, rng.uniform(), side="right")), len(self.corners) - 1)
        shift = rng.integers(_LATTICE, size=2)
        return int(self.corners[at, 0] + shift[0]), int(self.corners[at, 1] + shift[1])


def _turned(a: np.ndarray, turns: int, flip: bool) -> np.ndarray:
    """``a`` (h, w) or (h, w, scale, scale), blocks by coarse cell, turned by ``turns`` quarters and mirrored."""
    a = np.rot90(a, turns)
    if a.ndim == 4:
        a = np.rot90(a, turns, axes=(2, 3))
    if flip:
        a = a[:, ::-1] if a.ndim == 2 else a[:, ::-1, :, ::-1]
    return a


def _ended(coarse: np.ndarray, halo: int, sides: int) -> np.ndarray:
    """``coarse`` as if the raster ended where the halo begins, on the ``sides`` (bits: top, bottom, left, right)."""
    top, bottom, left, right = (halo if sides >> bit & 1 else 0 for bit in range(4))
    kept = coarse[top : coarse.shape[0] - bottom, left : coarse.shape[1] - right]
    return np.pad(kept, ((top, bottom), (left, right)), mode="edge")


def window_sum(values: np.ndarray, size: int) -> np.ndarray:
    """Sum over each ``size`` x ``size`` window, at its upper left corner; float64."""
    total = np.pad(np.cumsum(np.cumsum(values, axis=0, dtype=np.float64), axis=1), ((1, 0), (1, 0)))
    return total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
