"""Prints the table in docs/envelope.md: statistics of real columns and of other fields, and how a model judges them.

    python docs/envelope.py [SCALE]

Needs the folder with real files that tests/conftest.py names; ``GEOSR_DATA`` says where it is.
"""

import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from geosr.degrade import area_mean
from geosr.envelope import Envelope, measure
from geosr.fieldstats import Sample
from geosr.grid import cell_areas, cell_size_m, geobox_of
from geosr.models import default_model, load_model
from geosr.reading import open_no2
from geosr.variables import main_variable

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("GEOSR_DATA", HERE.parents[1] / "shared" / "data"))
COLUMNS = {
    "GEMS, days": "no2_gems_china/daily/*.tif",
    "GEMS, month": "no2_gems_china/*_mean.tif",
    "GEMS, hours of the day": "no2_gems_china/*UTC.tif",
    "GEMS, single scans": "no2_gems_china/*hourly.nc",
    "OMI, world": "no2_omi_world/*.tif",
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


def shown(values: list[float]) -> str:
    """Smallest and largest."""
    ends = [f"{v:.0f}" if v >= 100 else f"{v:.2g}" for v in (min(values), max(values))] if values else ["–"]
    return " … ".join(dict.fromkeys(ends))


def row(name: str, found: list[tuple[Sample, str | None]], envelope: Envelope) -> str:
    """One line of the table: smallest and largest of each statistic, and the judgements."""
    judged = [(s, units) for s, units in found if s.statistics]
    cells = [name, str(len(judged))]
    cells += [shown([s.statistics[key] for s, _ in judged if key in s.statistics]) for key in NAMES]
    verdicts = [envelope.judge(s, units).status.split(":")[0] for s, units in judged]
    cells += [str(verdicts.count(wanted)) for wanted in ("inside", "outside", "overridden")]
    return f"| {' | '.join(cells)} |"


def main(scale: int) -> None:
    warnings.simplefilter("ignore")
    model = load_model(default_model(scale))
    envelope = Envelope.from_dict(model.card.envelope, scale)
    print(f"| fields | judged | {' | '.join(NAMES)} | inside | warned | refused |\n|{'---|' * (len(NAMES) + 5)}")
    trained = [shown(list(envelope.statistics[key])) for key in NAMES]
    print(f"| **training of {model.card.name}** | | {' | '.join(trained)} | | | |")
    for name, pattern in COLUMNS.items():
        print(row(name, list(samples(pattern)), envelope))
    for name, (pattern, units) in OTHERS.items():
        print(row(name, [(s, units) for s, _ in samples(pattern)], envelope))
    for name, sample in made():
        print(row(name, [(sample, None)], envelope))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
