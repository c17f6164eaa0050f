"""Gridding against shapely in the same run: the same overlaps, and the ratio of their speeds.

And a whole orbit's file against the way of scripts, netCDF4 and a histogram.

Run with ``pytest tests/benchmarks --benchmark-only -k swath``; ``test_ratio_to_shapely`` runs always.
"""

from __future__ import annotations

import time
from typing import Any

import netCDF4
import numpy as np
import pytest
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox

from geosr.swath import Swath, _accumulate, _plan, _Sums, grid_swaths, open_swaths
from referee.orbit import orbit_corners, orbit_file, rings

GLOBE = GeoBox((3600, 7200), Affine(0.05, 0, -180, 0, -0.05, 90), "EPSG:4326")


def orbit(scanlines: slice = slice(None)) -> Swath:
    lon, lat = orbit_corners(4172, 450)
    lon, lat = (rings(v[scanlines]).astype(np.float32) for v in (lon, lat))
    return Swath(np.ones(len(lon), np.float32), np.ones(len(lon), np.float32), lon, lat, (5500, 3600), {})


def overlap_by_shapely(lon, lat) -> float:
    """Total overlap of pixels with 0.05 degree cells, by bulk intersection of every pair of overlapping boxes."""
    z, unit = np.sin(np.radians(lat.astype(float))), 0.05
    polygons = shapely.polygons(np.stack([lon, z], -1))
    west, east = np.floor(lon.min(1) / unit).astype(int), np.floor(lon.max(1) / unit).astype(int)
    south, north = np.floor(lat.min(1) / unit).astype(int), np.floor(lat.max(1) / unit).astype(int)
    pixel, col, row = (
        np.concatenate(v)
        for v in zip(
            *(
                (np.full(c.size, p), c.ravel(), r.ravel())
                for p in range(len(lon))
                for c, r in [np.meshgrid(np.arange(west[p], east[p] + 1), np.arange(south[p], north[p] + 1))]
            ),
            strict=True,
        )
    )
    edges = np.sin(np.radians(np.stack([row, row + 1]) * unit))
    cells = shapely.box(col * unit, edges[0], (col + 1) * unit, edges[1])
    return float(shapely.area(shapely.intersection(polygons[pixel], cells)).sum())


def test_ratio_to_shapely():
    """Ten thousand mid-latitude pixels: equal to rounding, and at least thirty times as fast."""
    part = orbit(slice(1500, 1523))
    sums = _Sums((3600, 7200), False, False)
    plan = _plan(GLOBE)
    _accumulate(part, GLOBE, plan, sums)  # compile, and touch the memory
    sums.cells[:] = 0
    start = time.perf_counter()
    _accumulate(part, GLOBE, plan, sums)
    ours = time.perf_counter() - start
    start = time.perf_counter()
    theirs_total = overlap_by_shapely(part.lon_corners, part.lat_corners)
    theirs = time.perf_counter() - start
    rate = len(part.value) / ours
    print(f"{rate / 1e6:.2f} Mpixel/s, {theirs / ours:.0f} times shapely")
    assert sums.cells[..., 0].sum() / plan["unit"] * 0.05 == pytest.approx(theirs_total, rel=1e-6)
    assert theirs / ours > 30


@pytest.fixture(scope="module")
def orbit_path(tmp_path_factory):
    return orbit_file(tmp_path_factory.mktemp("orbit") / "orbit.nc", 4172, 450, compressed=True)


def into_buckets(path) -> np.ndarray:
    """What scripts do: the mean of the pixels whose centres lie in a cell."""
    with netCDF4.Dataset(path) as file:
        group = file["PRODUCT"]
        names = ("latitude", "longitude", "nitrogendioxide_tropospheric_column", "qa_value")
        lat, lon, value, quality = (np.ma.filled(group[name][0].astype(np.float64), np.nan) for name in names)
    good = (quality >= 0.75) & np.isfinite(value)
    where = {"bins": (3600, 7200), "range": ((-90, 90), (-180, 180))}
    total = np.histogram2d(lat[good], lon[good], weights=value[good], **where)[0]
    count = np.histogram2d(lat[good], lon[good], **where)[0]
    with np.errstate(invalid="ignore"):
        return total / count


def test_bench_file(benchmark, orbit_path):
    """From the file of a whole orbit to the globe at 0.05 degrees: a million pixels a second and core; the ratio to
    dropping the same pixels into buckets, which reads half as much and knows no footprints."""
    grid = {"bbox": (-180, -90, 180, 90), "resolution": 0.05}
    open_swaths(orbit_path, **grid)
    took: dict[Any, list[float]] = {into_buckets: [], open_swaths: []}

    def timed(call, *args, **options):
        start = time.process_time()
        call(*args, **options)
        took[call].append(time.process_time() - start)

    def run():
        timed(open_swaths, orbit_path, **grid)

    benchmark.pedantic(run, setup=lambda: timed(into_buckets, orbit_path), rounds=3, iterations=1)
    ours, theirs = (min(took[call]) for call in (open_swaths, into_buckets))
    rate = 4172 * 450 / ours / 1e6
    benchmark.extra_info |= {"megapixels_per_core_second": round(rate, 2), "ratio": round(theirs / ours, 2)}
    print(f"{rate:.2f} Mpixel/s a core, {theirs / ours:.2f} times the speed of buckets ({theirs:.2f} s)")
    assert theirs / ours > 0.15


def test_bench_orbit(benchmark):
    """A whole orbit onto the globe at 0.05 degrees, everything included."""
    one = orbit()
    grid_swaths([one], GLOBE)
    benchmark.extra_info["pixels"] = len(one.value)
    benchmark.pedantic(lambda: grid_swaths([one], GLOBE), rounds=3, iterations=1)
