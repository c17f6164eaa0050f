"""Scenes: fine truths for training and for tests, read from the rasters that a recipe names."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geosr.degrade import area_mean
from geosr.errors import InputError, ModelError, blame
from geosr.recipe import Data, Recipe, within

_DATE = re.compile(r"(?<!\d)(20\d{2})(\d{2})(\d{2})(?!\d)")


@dataclass(frozen=True)
class Scene:
    """One truth.

    Attributes
    ----------
    values : (y, x) float32 in the recipe's units, NaN where missing.
    areas : (y, 1) float64 cell areas.
    weight : factor on the scene's share of the examples.
    files : what it was made from.
    """

    values: np.ndarray
    areas: np.ndarray
    weight: float
    files: tuple[str, ...]

    @property
    def cell_m(self) -> float:
        """Typical cell size in metres: the root of the middle row's cell area."""
        return float(np.sqrt(self.areas[len(self.areas) // 2, 0]))


def date_of(path: Path) -> dt.date | None:
    """The day in a file's name (YYYYMMDD), if there is one."""
    found = _DATE.search(path.name)
    try:
        return dt.date(*map(int, found.groups())) if found else None
    except ValueError:
        return None


def files_of(data: Data, folder: Path) -> list[Path]:
    """The set's files in ``folder``, sorted by name, or a :class:`ModelError` when there are none."""
    found = [p for p in sorted(folder.glob(data.files)) if within(date_of(p), data.dates)]
    if not found:
        dates = f" from {data.dates[0]} to {data.dates[1]}" if data.dates else ""
        raise ModelError(f"no file matches {data.files!r}{dates} in {folder}", "check the recipe and the data folder")
    return found


def check_split(recipe: Recipe, folder: Path) -> None:
    """Raise :class:`ModelError` if a file is in training and held out as well."""
    train = {p for d in recipe.train for p in files_of(d, folder)}
    for data in recipe.heldout:
        both = sorted(p.name for p in files_of(data, folder) if p in train)
        if both:
            raise ModelError(f"{both[0]} is held out and trained on", "separate the sets by dates or files")


def read_truth(path: Path, units: str | None, target: str) -> tuple[np.ndarray, np.ndarray]:
    """(values, areas) of a one-band raster; ``units`` overrides what the file says, ``target`` is wanted.

    Read whole: training holds its truths in memory.
    """
    from geosr.grid import cell_areas, geobox_of
    from geosr.reading import open_no2
    from geosr.variables import main_variable

    with blame(path):
        field = main_variable(open_no2(path, input_units=units, units=target)).squeeze(drop=True)
        if field.ndim != 2:
            raise InputError(f"the field has dimensions {field.dims}", "training needs one field per file")
        box = geobox_of(field)
        areas = cell_areas(box)
        return np.asarray(field.values, dtype=np.float32), areas[:, :1]


def _mean(stack: list[np.ndarray]) -> np.ndarray:
    """Mean over scenes of one grid, where at least half of them are valid."""
    values = np.stack(stack)
    valid = ~np.isnan(values)
    count = valid.sum(axis=0)
    total = np.where(valid, values, 0).sum(axis=0, dtype=np.float64)
    enough = (count > 0) & (2 * count >= len(stack))
    return np.where(enough, total / np.maximum(count, 1), np.nan).astype(np.float32)


def load_scenes(recipe: Recipe, folder: Path, sets: tuple[Data, ...] | None = None) -> list[Scene]:
    """All truths of ``sets`` (default: the recipe's training sets), composites and coarsened copies included."""
    scenes = []
    for data in recipe.train if sets is None else sets:
        files = files_of(data, folder)
        read = [read_truth(p, data.units, recipe.units) for p in files]
        names = [p.name for p in files]
        for run in data.composites:
            for start in range(0, len(read) - run + 1, run):
                part = read[start : start + run]
                values = _mean([v for v, _ in part]) if run > 1 else part[0][0]
                for factor in data.coarsen:
                    scenes.append(_scene(values, part[0][1], factor, data.weight, tuple(names[start : start + run])))
    return scenes


def _scene(values: np.ndarray, areas: np.ndarray, factor: int, weight: float, files: tuple[str, ...]) -> Scene:
    if factor > 1:
        ny, nx = (n // factor * factor for n in values.shape)
        values, areas = values[:ny, :nx], areas[:ny]
        values = area_mean(values, areas, factor)
        areas = factor * areas.reshape(-1, factor).sum(axis=1, keepdims=True)
    return Scene(values, areas, weight, files)
