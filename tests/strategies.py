"""Hypothesis strategies and builders for grids and fields."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
import xarray as xr
from affine import Affine
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from odc.geo.geobox import GeoBox

from geosr.grid import with_geobox


@st.composite
def geoboxes(draw, max_side: int = 30, min_side: int = 2) -> GeoBox:
    """North-up, south-up and rotated grids, geographic and projected."""
    shape = draw(st.tuples(st.integers(min_side, max_side), st.integers(min_side, max_side)))
    kind = draw(st.sampled_from(["geographic", "south-up", "projected", "rotated"]))
    if kind == "projected":
        step = draw(st.floats(10, 9000))
        return GeoBox(shape, Affine(step, 0, 3e5, 0, -step, 5e6), "EPSG:32632")
    if kind == "rotated":
        angle = draw(st.floats(-80, 80))
        affine = Affine.translation(4e5, 4e6) * Affine.rotation(angle) * Affine.scale(700, -900)
        return GeoBox(shape, affine, "EPSG:32632")
    step = draw(st.floats(0.001, 1.5))
    left = draw(st.floats(-180, 180))
    top = draw(st.floats(-30, 80))
    if kind == "south-up":
        return GeoBox(shape, Affine(step, 0, left, 0, step, min(top, 89 - shape[0] * step)), "EPSG:4326")
    return GeoBox(shape, Affine(step, 0, left, 0, -step, top), "EPSG:4326")


def values(shape, dtype=np.float32, gaps: bool = True):
    """Columns of either sign with, perhaps, gaps."""
    elements = st.floats(-50, 1000, width=32)
    if gaps:
        elements = elements | st.just(float("nan"))
    return hnp.arrays(dtype, shape, elements=elements)


def field(box: GeoBox, data: np.ndarray, **attrs) -> xr.DataArray:
    """A DataArray of ``data`` on ``box``."""
    geographic = box.crs is not None and box.crs.geographic
    dims = ("latitude", "longitude") if geographic else ("y", "x")
    return with_geobox(xr.DataArray(data, dims=dims, name="no2", attrs=attrs), box)


def smooth_field(shape, seed=0, dtype=np.float32) -> np.ndarray:
    """Random plumes on a background: something with structure at several scales, partly negative."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    total = rng.normal(0, 0.1, shape)
    for _ in range(12):
        cy, cx = rng.uniform(0, shape[0]), rng.uniform(0, shape[1])
        total += rng.lognormal(0, 1) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * rng.uniform(1, 6) ** 2))
    return total.astype(dtype)


def write_tif(path: Path, data: np.ndarray, **profile) -> Path:
    """A plain GeoTIFF with one band per plane of ``data``."""
    planes = data[None] if data.ndim == 2 else data
    options = {
        "driver": "GTiff",
        "height": planes.shape[1],
        "width": planes.shape[2],
        "count": len(planes),
        "dtype": planes.dtype,
        "crs": "EPSG:4326",
        "transform": Affine(0.05, 0, 8, 0, -0.05, 46),
        "nodata": np.nan,
        **profile,
    }
    with rasterio.open(path, "w", **options) as dst:
        dst.write(planes)
    return path
