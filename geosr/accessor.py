"""``da.geosr`` and ``ds.geosr``: doorways into the functions, with no state and no logic."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import xarray as xr

if TYPE_CHECKING:
    from geosr.evaluation.cases import ModelLike
    from geosr.evaluation.results import Evaluation, Evaluations


@xr.register_dataarray_accessor("geosr")
class GeosrDataArrayAccessor:
    """geosr on a DataArray (…, y, x)."""

    def __init__(self, data: xr.DataArray) -> None:
        self._data = data

    def downscale(
        self,
        scale: int = 4,
        *,
        method: str = "auto",
        model: str | os.PathLike[str] | None = None,
        force_model: bool = False,
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
            force_model=force_model,
            conserve=conserve,
            tile=tile,
            engine=engine,
            crs=crs,
        )

    def evaluate(
        self,
        scale: int = 4,
        model: ModelLike | Sequence[ModelLike] | None = None,
        *,
        engine: str = "auto",
        network: bool = True,
        kind: str = "area",
        mtf: tuple[float, float] = (0.74, 0.44),
        noise: float | str | xr.DataArray = 0.0,
        seed: int = 0,
        data_range: float | None = None,
        shave: int = 0,
    ) -> Evaluation | Evaluations:
        """See :func:`geosr.evaluate`: how well each method refines this field after it was degraded."""
        from geosr.evaluation.evaluate import evaluate

        return evaluate(
            self._data,
            scale,
            model,
            engine=engine,
            network=network,
            kind=kind,
            mtf=mtf,
            noise=noise,
            seed=seed,
            data_range=data_range,
            shave=shave,
        )

    def degrade(
        self,
        scale: int = 4,
        min_valid: float = 1.0,
        *,
        kind: str = "area",
        mtf: tuple[float, float] = (0.74, 0.44),
        noise: float | xr.DataArray = 0.0,
        seed: int = 0,
    ) -> xr.DataArray:
        """See :func:`geosr.degrade`: what a sensor with cells ``scale`` times larger would see."""
        from geosr.degrade import degrade

        return degrade(self._data, scale, min_valid, kind=kind, mtf=mtf, noise=noise, seed=seed)

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
        method: str = "auto",
        model: str | os.PathLike[str] | None = None,
        force_model: bool = False,
        conserve: bool = True,
        uncertainty: bool | None = None,
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
            force_model=force_model,
            conserve=conserve,
            uncertainty=uncertainty,
            tile=tile,
            engine=engine,
            crs=crs,
        )

    def evaluate(
        self,
        scale: int = 4,
        model: ModelLike | Sequence[ModelLike] | None = None,
        *,
        engine: str = "auto",
        network: bool = True,
        kind: str = "area",
        mtf: tuple[float, float] = (0.74, 0.44),
        noise: float | str | xr.DataArray = 0.0,
        seed: int = 0,
        data_range: float | None = None,
        shave: int = 0,
    ) -> Evaluation | Evaluations:
        """See :func:`geosr.evaluate`: how well each method refines its NO2 column after degradation."""
        from geosr.evaluation.evaluate import evaluate

        return evaluate(
            self._data,
            scale,
            model,
            engine=engine,
            network=network,
            kind=kind,
            mtf=mtf,
            noise=noise,
            seed=seed,
            data_range=data_range,
            shave=shave,
        )

    def degrade(
        self,
        scale: int = 4,
        min_valid: float = 1.0,
        *,
        kind: str = "area",
        mtf: tuple[float, float] = (0.74, 0.44),
        noise: float | str | xr.DataArray = 0.0,
        seed: int = 0,
    ) -> xr.Dataset:
        """See :func:`geosr.degrade`: what a sensor with cells ``scale`` times larger would see of its NO2 column."""
        from geosr.degrade import degrade

        return degrade(self._data, scale, min_valid, kind=kind, mtf=mtf, noise=noise, seed=seed)
