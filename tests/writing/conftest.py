"""A lazy dataset as the pipeline makes it, on a grid of one's choice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from geosr.grid import with_geobox
from geosr.provenance import Provenance

NORTH_UP = Affine(0.1, 0, 3.0, 0, -0.1, 50.0)


def make_dataset(
    values: np.ndarray,
    *,
    affine: Affine = NORTH_UP,
    crs: str = "EPSG:4326",
    chunks: Any = 64,
    ancillary: bool = False,
    **attrs: Any,
) -> xr.Dataset:
    dims = ("time", "y", "x")[-values.ndim :]
    if values.ndim == 3 and isinstance(chunks, int):
        chunks = (1, chunks, chunks)
    main = xr.DataArray(
        da.from_array(values, chunks=chunks),
        dims=dims,
        name="no2",
        attrs={"units": "mol m-2", "long_name": "tropospheric NO2 column", **attrs},
    )
    if values.ndim == 3:
        times = np.datetime64("2024-01-01T10:30:00", "ns") + np.arange(len(values)) * np.timedelta64(1, "D")
        main = main.assign_coords(time=times)
    main = with_geobox(main, GeoBox(values.shape[-2:], affine, crs))
    ds = main.to_dataset()
    if ancillary:
        ds["no2"].attrs["ancillary_variables"] = "no2_precision no2_count"
        ds["no2_count"] = (
            main.dims,
            da.full_like(main.data, 3.0),
            {"units": "1", "long_name": "observations"},
        )
        ds["no2_precision"] = (
            main.dims,
            main.data * np.float32(0.1),
            {"units": "mol m-2", "long_name": "precision"},
        )
    ds.attrs = {"product": "S5P L2 NO2 OFFL", "source": "orbit.nc"}
    return ds


@pytest.fixture(scope="session")
def dataset() -> Callable[..., xr.Dataset]:
    """``dataset(values, affine=…, crs=…, chunks=…, ancillary=…, **attrs of the main variable)``."""
    return make_dataset


@pytest.fixture(scope="session")
def columns() -> Callable[..., np.ndarray]:
    """Columns like those of NO2, with noise below zero and a gap."""

    def make(*shape: int, seed: int = 0) -> np.ndarray:
        values = np.random.default_rng(seed).normal(3e-5, 2e-5, shape).astype(np.float32)
        values[..., : shape[-2] // 3, : shape[-1] // 4] = np.nan
        return values

    return make


@pytest.fixture(scope="session")
def provenance() -> Provenance:
    return Provenance(
        inputs=(("orbit.nc", "ab" * 32),),
        model="srcnn-x4",
        model_sha256="cd" * 32,
        method="srcnn",
        scale=4,
        options={"qa": 0.75},
        command="geosr downscale orbit.nc",
    )
