"""``da.geosr`` and ``ds.geosr``: doorways into the functions, with no state and no logic."""

from __future__ import annotations

import os
from typing import Any

import xarray as xr


@xr.register_dataarray_accessor("geosr")
class GeosrDataArrayAccessor:
    """geosr on a DataArray (…, y, x)."""

    def __init__(self, data: xr.DataArray) -> None:
        self._data = data

    def downscale(
        self,
        scale: int = 4,
        *,
        method: str = "srcnn",
        model: str | os.PathLike[str] | None = None,
        conserve: bool = True,
        tile: int = 512,
        engine: str = "auto",
        crs: Any = None,
    ) -> xr.DataArray:
        """See :func:`geosr.downscale`. Lazy if the data is."""
        from geosr.downscale import downscale

        return downscale(
            self._data,
            scale,
            method=method,
            model=model,
            conserve=conserve,
            tile=tile,
            engine=engine,
            crs=crs,
        )

    @property
    def geobox(self) -> Any:
        """The grid, an :class:`odc.geo.geobox.GeoBox`. See :func:`geosr.grid.geobox_of`."""
        from geosr.grid import geobox_of

        return geobox_of(self._data)


@xr.register_dataset_accessor("geosr")
class GeosrDatasetAccessor:
    """geosr on a Dataset."""

    def __init__(self, data: xr.Dataset) -> None:
        self._data = data

    @property
    def no2(self) -> xr.DataArray:
        """The NO2 column of the dataset. See :func:`geosr.variables.main_variable`."""
        from geosr.variables import main_variable

        return main_variable(self._data)

    def downscale(
        self,
        scale: int = 4,
        *,
        variable: str | None = None,
        method: str = "srcnn",
        model: str | os.PathLike[str] | None = None,
        conserve: bool = True,
        tile: int = 512,
        engine: str = "auto",
        crs: Any = None,
    ) -> xr.Dataset:
        """See :func:`geosr.downscale`. Lazy if the data is."""
        from geosr.downscale import downscale

        return downscale(
            self._data,
            scale,
            variable=variable,
            method=method,
            model=model,
            conserve=conserve,
            tile=tile,
            engine=engine,
            crs=crs,
        )
