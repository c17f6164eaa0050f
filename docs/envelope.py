"""Prints the table in docs/envelope.md: statistics of real columns and of other fields, and how they are judged.

Needs the folder with real files that tests/conftest.py names; ``GEOSR_DATA`` says where it is.
"""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from geosr.degrade import area_mean
from geosr.envelope import Envelope, measure
from geosr.fieldstats import Sample
from geosr.grid import cell_areas, cell_size_m, geobox_of
from geosr.reading import open_no2
from geosr.variables import main_variable

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("GEOSR_DATA", HERE.parents[1] / "shared" / "data"))
#: What stands for training: days of one sensor, a month, and the world seen by another, each averaged by 2 to 4.
TRAINING = ["no2_gems_china/daily/*_202310[01]*.tif", "no2_gems_china/*_mean.tif", "no2_omi_world/*2019.tif"]
COLUMNS = {
    "GEMS, other days": "no2_gems_china/daily/*_202310[23]*.tif",
    "GEMS, hours of the day": "no2_gems_china/*UTC.tif",
    "GEMS, single scans": "no2_gems_china/*hourly.nc",
    "OMI, world, 2020": "no2_omi_world/*2020.tif",
    "OMI, national maps": "no2_omi_countries/[GU]*.tif",
    "OMI, Thailand": "no2_omi_countries/Th*.tif",
    "OMI, Turkey (62 % zeros)": "no2_omi_countries/Tu*.tif",
    "OMI, Romania": "no2_omi_romania/*.nc*",
    "TROPOMI by HARP": "no2_s5p_l3_harp/*.nc",
    "TROPOMI by Earth Engine": "no2_s5p_gee/*no2_2*.tif",
}
OTHERS = {
    "elevation, m": ("covariates_gems_china/dem_m.tif", "m"),
    "elevation, no units": ("covariates_gems_china/dem_m.tif", None),
    "night lights, no units": ("covariates_gems_china/viirs*.tif", None),
}
NAMES = ("noise", "neighbours", "lower", "upper", "peak", "levels")


def samples(pattern: str, averaged: tuple[int, ...] = (1, 2, 3, 4)) -> Iterator[tuple[Sample, str | None]]:
    """(statistics, units) of up to 12 planes of each file, as they are and averaged."""
    for path in sorted(DATA.glob(pattern)):
        field = main_variable(open_no2(path, variable="1" if "countries" in pattern else None))
        box = geobox_of(field)
        areas = cell_areas(box)[:, :1]
        planes = field.data.reshape(-1, *field.shape[-2:])
        for plane in planes[:: max(1, len(planes) // 12)].compute():
            for n in averaged:
                ny, nx = (size // n * n for size in plane.shape)
                coarse = area_mean(plane[:ny, :nx].astype(np.float64), areas[:ny], n, 0.5)
                yield measure(coarse, n * cell_size_m(box)), field.attrs.get("units")


def made() -> Iterator[tuple[str, Sample]]:
    """Fields that are no columns."""
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.normal(size=(200, 200)), 4)
    fields = {
        "white noise, normal": rng.normal(size=(200, 200)),
        "white noise, lognormal": rng.lognormal(size=(200, 200)),
        "checkerboard": np.indices((200, 200)).sum(axis=0) % 2.0,
        "land cover, 6 classes": np.digitize(smooth, np.quantile(smooth, [0.1, 0.3, 0.4, 0.7, 0.9])).astype(float),
        "an undeclared -9999 in 1 % of the cells": np.where(rng.random((200, 200)) < 0.01, -9999, 1 + smooth),
    }
    for name, values in fields.items():
        yield name, measure(values, 20e3)


def row(name: str, found: list[tuple[Sample, str | None]], envelope: Envelope | None) -> str:
    """One line of the table: smallest and largest of each statistic, and the judgements."""
    judged = [s for s, _ in found if s.statistics]
    cells = [f"{name}", str(len(judged))]
    for key in NAMES:
        values = [s.statistics[key] for s in judged if key in s.statistics]
        ends = [f"{v:.2g}" if v < 1000 else f"{v:.0f}" for v in (min(values), max(values))] if values else ["–"]
        cells.append(" … ".join(dict.fromkeys(ends)))
    if envelope is not None:
        verdicts = [envelope.judge(s, units) for s, units in found if s.statistics]
        for wanted in ("inside", "outside", "overridden"):
            cells.append(str(sum(v.status.split(":")[0] == wanted for v in verdicts)))
    return f"| {' | '.join([*cells, '', '', ''][: len(NAMES) + 5])} |"


def main() -> None:
    warnings.simplefilter("ignore")
    trained = [s for pattern in TRAINING for s in samples(pattern, (2, 3, 4))]
    envelope = Envelope.of([s for s, _ in trained], "1e15 molec cm-2")
    print(f"| fields | judged | {' | '.join(NAMES)} | inside | warned | refused |\n|{'---|' * (len(NAMES) + 5)}")
    print(row("**training**", trained, None))
    for name, pattern in COLUMNS.items():
        print(row(name, list(samples(pattern)), envelope))
    for name, (pattern, units) in OTHERS.items():
        print(row(name, [(s, units) for s, _ in samples(pattern)], envelope))
    for name, sample in made():
        print(row(name, [(sample, None)], envelope))
    print(envelope.to_dict())


if __name__ == "__main__":
    main()
