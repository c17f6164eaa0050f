"""Folders of small rasters to train on."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import xarray as xr
from affine import Affine

from strategies import write_tif

#: A recipe for :func:`write_days`, small and quick.
RECIPE = """
name = "tiny"
scale = 4
[[train]]
files = "day_*.tif"
units = "1e15 molec cm-2"
dates = ["2023-10-01", "2023-10-04"]
composites = [1, 2]
coarsen = [1, 2]
[[heldout]]
name = "later"
files = "day_*.tif"
units = "1e15 molec cm-2"
dates = ["2023-10-05", "2023-10-31"]
[network]
architecture = "srcnn-9-1-5"
[patches]
size = 24
batch = 4
[schedule]
steps = 60
learning_rate = 3e-3
"""


def plumes(shape: tuple[int, int], seed: int, many: float = 0.004) -> np.ndarray:
    """A smooth field of Gaussian plumes on a background with a little noise; float32."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    values = 2 + rng.normal(0, 0.05, shape)
    for _ in range(round(many * shape[0] * shape[1])):
        cy, cx, width = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.uniform(1.5, 6)
        values += rng.gamma(2, 3) * np.exp(-0.5 * ((y - cy) ** 2 + (x - cx) ** 2) / width**2)
    return values.astype(np.float32)


def write_map(path: Path, values: np.ndarray, west: float = 110, north: float = 35, cell: float = 0.05) -> Path:
    """A GeoTIFF in longitude and latitude; ``values`` (y, x) or (band, y, x)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_tif(path, values, transform=Affine(cell, 0, west, 0, -cell, north))


def write_days(folder: Path, days: int = 6, shape: tuple[int, int] = (120, 100)) -> Path:
    """``day_20231001.tif`` and so on, with a gap each; and a mean without a date, which holds all of them."""
    for day in range(1, days + 1):
        values = plumes(shape, day)
        values[10:20, 80:90] = np.nan
        write_map(folder / f"day_202310{day:02d}.tif", values)
    write_map(folder / "day_mean.tif", plumes(shape, 0))
    return folder


def write_series(path, times, bounds=(), name="time_bnds", key="bounds", fixed=False):
    """Maps at ``times``; with their ``bounds`` in the variable ``name``, which the time names as ``key``."""
    values = np.stack([plumes((20, 30), i) for i in range(len(times))])
    lat, lon = 45 - 0.1 * (np.arange(20) + 0.5), 8 + 0.1 * (np.arange(30) + 0.5)
    da = xr.DataArray(
        values,
        dims=("time", "latitude", "longitude"),
        coords={
            "time": np.array(times, dtype="datetime64[ns]"),
            "latitude": ("latitude", lat, {"units": "degrees_north"}),
            "longitude": ("longitude", lon, {"units": "degrees_east"}),
        },
        name="tropospheric_no2",
        attrs={"units": "1e15 molec cm-2"},
    )
    dataset = da.to_dataset()
    hours = "hours since 2000-01-01"
    encoding = {"time": {"units": hours, "dtype": "float64"}}
    if len(bounds):
        dataset[name] = (("time", "nv"), np.array(bounds, dtype="datetime64[ns]"))
        encoding[name] = {"units": hours, "dtype": "float64"}
        dataset["time"].attrs |= {key: name} if key else {}
    if fixed:
        dataset = dataset.isel(time=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of xarray, where the units of both are not said in one place
        dataset.to_netcdf(path, encoding=encoding)
    return values


def blocks_to_field(blocks: np.ndarray, scale: int) -> np.ndarray:
    """(n, K, K, scale ** 2) by coarse cell to (n, K scale, K scale)."""
    n, k = blocks.shape[:2]
    return blocks.reshape(n, k, k, scale, scale).transpose(0, 1, 3, 2, 4).reshape(n, k * scale, k * scale)
