"""Scenes: fine truths for training and for tests, read from the rasters that a recipe names, or simulated."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from affine import Affine

from geosr.degrade import area_mean
from geosr.errors import ModelError, ResourceError
from geosr.training.dates import meet, span_between, span_in, within
from geosr.training.recipe import Data, Recipe, Simulated
from geosr.training.regions import kept, place_of
from geosr.training.truths import Plane, planes_in

# Share of a Gaussian's weight that must lie on valid cells for its mean to be one.
_BLUR_COVER = 0.6

# Bytes that a cell of a truth takes while it is read and its squares are counted, and what may be taken of the memory.
_CELL_BYTES, _MEMORY_SHARE = 60, 0.7


@dataclass(frozen=True)
class Scene:
    """One truth.

    Attributes
    ----------
    values : (y, x) float32 in the recipe's units, NaN where missing.
    areas : (y, 1) float64 cell areas in m2.
    weight : the scene's share of the examples, in proportion to the others'.
    files : what it was made from.
    located : is it a place on Earth? Otherwise it is a plain picture, and the areas are 1.
    """

    values: np.ndarray
    areas: np.ndarray
    weight: float
    files: tuple[str, ...]
    located: bool = True

    @property
    def cell_m(self) -> float:
        """Typical cell size in metres: the root of the middle row's cell area."""
        return float(np.sqrt(self.areas[len(self.areas) // 2, 0]))


def files_of(data: Data, folder: Path) -> list[Path]:
    """The set's files in ``folder``, glob by glob, sorted by name, or a :class:`ModelError` where a glob finds none.

    Files whose name says other days than the set's are left out.
    """
    found: dict[Path, None] = {}
    for pattern in data.globs:
        try:
            matches = [p for p in sorted(folder.glob(pattern)) if p.is_file()]
        except (NotImplementedError, ValueError) as error:
            raise ModelError(f"files = {pattern!r} cannot be searched for ({error})", "give a relative glob") from error
        if not matches:
            raise _nothing(data, pattern, folder)
        found |= dict.fromkeys(matches)
    if data.dates is None:
        return list(found)
    span = span_between(data.dates)
    return [p for p in found if meet(span_in(p.name), span)]


def planes_of(data: Data, folder: Path, units: str) -> list[Plane]:
    """The set's truths in ``folder``, in the order of :func:`files_of`; its dates and boxes leave some out.

    Parameters
    ----------
    units : wanted, "" takes those of each file.

    Raises
    ------
    ModelError
        There are none.
    InputError, RefusedError
        A file cannot be read.
    """
    planes = [p for file in files_of(data, folder) for p in planes_in(file, data.variable, data.units, units or None)]
    planes = [p for p in planes if within(p.span, data.dates)]
    if data.region or data.outside:
        planes = [p for p in planes if place_of(p, data.region, data.outside, 0).rects]
    if not planes:
        raise _nothing(data, data.label, folder)
    return planes


def _nothing(data: Data, pattern: str, folder: Path) -> ModelError:
    dates = f" from {data.dates[0]} to {data.dates[1]}" if data.dates else ""
    region = " in its region" if data.region or data.outside else ""
    return ModelError(f"no file matches {pattern!r}{dates}{region} in {folder}", "check the recipe and the data folder")


def read_truth(plane: Plane, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """(values, areas) of ``plane``, cut to the cells that the set keeps; the others are NaN.

    Read whole: training holds its truths in memory.
    """
    values, areas = plane.read()
    mask = kept(plane, data.region, data.outside)
    if mask is None:
        return values, areas
    rows, cols = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return values[:0, :0], areas[:0]
    window = slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1)
    return np.where(mask, values, np.float32(np.nan))[window], areas[window[0]]


def _mean(stack: list[np.ndarray]) -> np.ndarray:
    """Mean over scenes of one grid, where at least half of them are valid."""
    values = np.stack(stack)
    valid = ~np.isnan(values)
    count = valid.sum(axis=0)
    total = np.where(valid, values, 0).sum(axis=0, dtype=np.float64)
    enough = (count > 0) & (2 * count >= len(stack))
    return np.where(enough, total / np.maximum(count, 1), np.nan).astype(np.float32)


def blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    """``values`` smoothed by a Gaussian of ``sigma`` cells over valid cells; NaN where too little of it has any."""
    from scipy.ndimage import gaussian_filter

    valid = ~np.isnan(values)
    weight = gaussian_filter(valid.astype(np.float32), sigma, mode="nearest")
    total = gaussian_filter(np.where(valid, values, 0).astype(np.float32), sigma, mode="nearest")
    enough = valid & (weight > _BLUR_COVER)
    return np.where(enough, total / np.where(enough, weight, 1), np.nan).astype(np.float32)


def load_scenes(recipe: Recipe, folder: Path, sets: tuple[Data, ...] | None = None) -> list[Scene]:
    """All truths of ``sets`` (default: the recipe's training sets, simulated ones included) with their variants.

    Raises
    ------
    ModelError
        A set without files, or runs of rasters to average that lie on different grids.
    InputError, RefusedError
        A file cannot be read.
    ResourceError
        They do not fit into memory.
    """
    scenes: list[Scene] = []
    for data in recipe.train if sets is None else sets:
        of_set: list[Scene] = []
        planes = planes_of(data, folder, recipe.units)
        check_memory(planes)
        read = [read_truth(p, data) for p in planes]
        for run in data.composites:
            for start in range(0, len(read) - run + 1, run):
                part, names = read[start : start + run], tuple(p.path.name for p in planes[start : start + run])
                if run > 1 and not all(_same_grid(planes[start], p) for p in planes[start : start + run]):
                    raise ModelError(f"{names[0]} and {names[-1]} have different grids", "set composites = [1]")
                values = _mean([v for v, _ in part]) if run > 1 else part[0][0]
                located = planes[start].box is not None
                for factor in data.coarsen:
                    for sigma in data.blur:
                        scene = _scene(values, part[0][1], factor, sigma, names)
                        of_set.append(scene if located else replace(scene, located=False))
        of_set = [s for s in of_set if min(s.values.shape) >= recipe.scale]
        scenes += [replace(s, weight=data.weight / len(of_set)) for s in of_set]
    if sets is None:
        for wanted in recipe.simulate:
            scenes += simulated_scenes(wanted, recipe.units)
    return scenes


def _same_grid(a: Plane, b: Plane) -> bool:
    """Do the cells of two planes lie on each other, to a thousandth of a cell?"""
    if a.shape != b.shape or a.picture != b.picture or (a.box is None) != (b.box is None):
        return False
    if a.box is None or b.box is None or a.box == b.box:
        return True
    if a.box.crs != b.box.crs:
        return False
    here = ~a.box.affine * b.box.affine  # in cells of the first
    return all(math.dist((x, y), here * (x, y)) < 1e-3 for x in (0, a.shape[1]) for y in (0, a.shape[0]))


def check_memory(planes: list[Plane]) -> None:
    """A :class:`ResourceError` where the values of ``planes`` do not fit into memory together."""
    from geosr.footprint import available_memory

    sizes = [p.shape[0] * p.shape[1] for p in planes]
    needed = 4 * sum(sizes) + _CELL_BYTES * max(sizes)
    if needed > _MEMORY_SHARE * available_memory():
        raise ResourceError(
            f"{len(planes)} rasters with {sum(sizes) / 1e6:,.0f} million cells do not fit into memory",
            "train on fewer files, or on a region of them (in the recipe: region)",
        )


def _scene(values: np.ndarray, areas: np.ndarray, factor: int, sigma: float, files: tuple[str, ...]) -> Scene:
    if sigma > 0:
        values = blurred(values, sigma)
    if factor > 1:
        ny, nx = (n // factor * factor for n in values.shape)
        values, areas = values[:ny, :nx], areas[:ny]
        values = area_mean(values, areas, factor)
        areas = factor * areas.reshape(-1, factor).sum(axis=1, keepdims=True)
    return Scene(values, areas, 1.0, files)


def simulated_scenes(wanted: Simulated, units: str) -> list[Scene]:
    """The scenes that ``wanted`` describes, in ``units``; the same for the same seed."""
    from odc.geo.geobox import GeoBox

    from geosr.grid import cell_areas
    from geosr.simulate import simulate_scene
    from geosr.units import factor

    rng = np.random.default_rng(wanted.seed)
    scale = factor("mol m-2", units)
    scenes = []
    for number in range(wanted.scenes):
        cell, days, merge = (rng.choice(options) for options in (wanted.resolution, wanted.days, wanted.coarsen))
        west, south = rng.uniform(-150, 150), rng.uniform(-45, 55)
        n = wanted.cells
        box = GeoBox((n, n), Affine(cell, 0, west, 0, -cell, south + n * cell), "EPSG:4326")
        values = np.zeros((n, n))
        seed = 1000 * wanted.seed + number
        for day in range(days):
            # Speeds in m/s, lifetimes from a summer noon to a winter's day.
            wind = {"wind_speed": rng.uniform(2, 8), "turbulence": rng.uniform(0, 3)}
            lifetime = 3600 * rng.uniform(1.5, 8)
            values += simulate_scene(box, seed=seed, day=day, lifetime=lifetime, **wind).values * scale / days
        noise, of_pixels = (float(rng.choice(wanted.noise)) * 10 ** rng.uniform(-0.5, 0.5) for _ in range(2))
        seen = _seen(values.astype(np.float32), of_pixels, rng)
        areas = cell_areas(box)[:, :1]
        scene = _scene(seen, areas, int(merge), 0.0, ())
        noisy = scene.values + noise * rng.standard_normal(scene.values.shape)
        scenes.append(replace(scene, values=noisy.astype(np.float32), weight=wanted.weight / wanted.scenes))
    return scenes


def _seen(values: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """``values`` as they are, smoothed, or as a mean of passes: one, one and two in four."""
    kind = int(rng.integers(4))
    if kind == 0:
        return values
    if kind == 1:
        return blurred(values, rng.uniform(0.5, 2))
    passes, height = int(rng.choice([1, 4, 12, 30, 60])), 8 ** rng.uniform(0, 1)
    width, turn = height * rng.uniform(1, 2), np.deg2rad(rng.uniform(-20, 20))
    missing = rng.uniform(0, 0.5)
    total = count = np.zeros(values.shape)
    for _ in range(passes):
        # Pixels grow towards the edge of the swath.
        pixel = height, width * rng.uniform(1, 2)
        seen = _pass(values, pixel, turn, noise, missing if passes > 4 else 0.0, rng)
        total, count = total + np.where(np.isnan(seen), 0, seen), count + ~np.isnan(seen)
    return np.where(count > 0, total / np.maximum(count, 1), values).astype(np.float32)


def _pass(
    values: np.ndarray, pixel: tuple[float, float], turn: float, noise: float, missing: float, rng: np.random.Generator
) -> np.ndarray:
    """What one pass makes of ``values``: each cell has the mean of the pixel that its centre lies in.

    Parameters
    ----------
    pixel : height and width in cells; pixels start anywhere.
    turn : angle between their rows and the raster's, radians.
    noise : standard deviation of a pixel's.
    missing : share of pixels without a value, NaN.
    """
    y, x = np.indices(values.shape)
    along = (np.cos(turn) * y - np.sin(turn) * x) / pixel[0] + rng.uniform()
    across = (np.sin(turn) * y + np.cos(turn) * x) / pixel[1] + rng.uniform()
    row, col = (np.floor(v - v.min() + v.min() % 1).astype(int) for v in (along, across))
    number = row * (col.max() + 1) + col
    count = np.bincount(number.ravel())
    means = np.bincount(number.ravel(), weights=values.ravel()) / np.maximum(count, 1)
    means += noise * rng.standard_normal(means.shape)
    means[rng.uniform(size=means.shape) < missing] = np.nan
    return means[number]
