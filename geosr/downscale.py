"""The main job: a coarse field in, a finer one out, on the same ground and with the same columns.

:func:`downscale` reads like the data's way through the house: read, refine the grid, normalise, tile, predict,
stitch, denormalise, conserve, mask, wrap. Everything is lazy; writing (or ``compute``) runs it tile by tile.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, overload

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from geosr import conserve as conservation
from geosr import tiling
from geosr.channel import AffineScaler
from geosr.errors import UsageError
from geosr.gaps import fill_gaps
from geosr.grid import cell_areas, check_scale, geobox_of, refine, spatial_dims, with_geobox
from geosr.interpolate import RADIUS as BICUBIC_RADIUS
from geosr.interpolate import bicubic

METHODS = ("srcnn", "bicubic")

#: Side of a tile in fine cells: a COG block, and about 0.3 GB of activations per thread for the widest network.
DEFAULT_TILE = 512

# Attributes that describe the coarse numbers or their storage, and would lie about the fine ones.
_STALE_ATTRS = (
    "actual_range",
    "valid_min",
    "valid_max",
    "valid_range",
    "scale_factor",
    "add_offset",
    "_FillValue",
    "missing_value",
    "grid_mapping",
    "ancillary_variables",
    "coordinates",
    "cell_measures",
)


@dataclass(frozen=True)
class Predictor:
    """A kernel for :func:`geosr.tiling.map_tiles`: fill gaps, normalise, predict, denormalise.

    Picklable: a model is named by its path and loaded once per process.

    Attributes
    ----------
    scale : fine cells per coarse cell and axis.
    reach : coarse cells that a prediction depends on, to each side (the network's receptive radius and the
        bicubic's, from the model).
    model : path of the bundle; None for plain bicubic.
    scaler : constants between the field's units and the channel.
    """

    scale: int
    reach: int
    model: str | None = None
    engine: str = "auto"
    scaler: AffineScaler = AffineScaler()

    @property
    def halo(self) -> int:
        """Coarse cells around a tile: what the network sees, and what the filling of that in turn sees."""
        return 2 * self.reach

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """Fine tile (h * scale, w * scale) from the coarse one with halo; floating, of the block's dtype."""
        inner = slice(self.reach, -self.reach)
        if np.isnan(block[self.halo : -self.halo, self.halo : -self.halo]).all():
            h, w = (n - 2 * self.halo for n in block.shape)
            return np.full((h * self.scale, w * self.scale), np.nan, dtype=block.dtype)
        channel = self.scaler.normalise(fill_gaps(block, self.reach)[inner, inner])
        return self.scaler.denormalise(self._refine(channel))

    def _refine(self, channel: np.ndarray) -> np.ndarray:
        if self.model is None:
            return bicubic(channel, self.scale)
        from geosr.models import load_model

        # Networks work in float32; what float64 asks for beyond that, conservation restores.
        return load_model(self.model).predict(channel, engine=self.engine).astype(channel.dtype, copy=False)


@dataclass(frozen=True)
class Conserver:
    """A pair kernel: make each coarse cell's mean right and mask the gaps."""

    box: GeoBox
    scale: int
    enabled: bool = True

    def weights(self, rows: slice, cols: slice) -> np.ndarray:
        """True areas of the fine cells under the coarse ``rows`` and ``cols``."""
        return cell_areas(refine(self.box[rows, cols], self.scale))

    def __call__(self, fine: np.ndarray, coarse: np.ndarray, rows: slice, cols: slice) -> np.ndarray:
        if not self.enabled:
            return conservation.mask(fine, coarse, self.scale)
        return conservation.conserve(fine, coarse, self.weights(rows, cols), self.scale)


@dataclass(frozen=True)
class ConservationCheck:
    """A pair kernel: what conservation is off by in a tile, and the largest value, side by side (…, 1, 2)."""

    conserver: Conserver

    def __call__(self, fine: np.ndarray, coarse: np.ndarray, rows: slice, cols: slice) -> np.ndarray:
        weights = self.conserver.weights(rows, cols)
        error = conservation.conservation_error(fine, coarse, weights, self.conserver.scale)
        valid = coarse[np.isfinite(coarse)]
        largest = float(np.abs(valid).max()) if valid.size else 0.0
        return np.array([error, largest]).reshape(*(1 for _ in fine.shape[:-2]), 1, 2)


def make_predictor(
    method: str, scale: int, model: str | os.PathLike[str] | None, engine: str, units: str | None
) -> Predictor:
    """The predictor for a method; for ``srcnn`` with the model named, or the shipped one for ``scale``.

    Raises
    ------
    UsageError
        Unknown method, or a model given for a method that takes none.
    ModelError
        No model for this scale, or one that cannot be loaded.
    """
    if method not in METHODS:
        raise UsageError(f"method {method!r} is not known", f"use one of {', '.join(METHODS)}")
    if method == "bicubic":
        if model is not None:
            raise UsageError("method bicubic takes no model", "leave out --model or use --method srcnn")
        return Predictor(scale, BICUBIC_RADIUS)
    from geosr.models import resolve_model

    loaded = resolve_model(model, scale)
    return Predictor(scale, loaded.halo, str(loaded.path), engine, loaded.card.scaler.in_units(units))


@overload
def downscale(source: xr.DataArray, scale: int = 4, **options: Any) -> xr.DataArray: ...
@overload
def downscale(
    source: xr.Dataset | str | os.PathLike[str] | Sequence[str | os.PathLike[str]], scale: int = 4, **options: Any
) -> xr.Dataset: ...
def downscale(
    source: xr.DataArray | xr.Dataset | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    scale: int = 4,
    *,
    method: str = "srcnn",
    model: str | os.PathLike[str] | None = None,
    conserve: bool = True,
    tile: int = DEFAULT_TILE,
    engine: str = "auto",
    crs: Any = None,
    variable: str | None = None,
    **read_options: Any,
) -> xr.DataArray | xr.Dataset:
    """A field on a grid ``scale`` times finer.

    Parameters
    ----------
    source : DataArray (…, y, x) with a CRS and evenly spaced coordinates; Dataset; or file(s), read by
        :func:`geosr.open_no2` with ``read_options`` (time, level, bbox, units, input_units, qa, resolution).
    scale : whole number; ``srcnn`` needs a model for it, ``bicubic`` takes any from 2 to 16.
    method : ``srcnn``, the super-resolution network; ``bicubic``, the same way without a network.
    model : name of a shipped model or path of a bundle; default the shipped one for ``scale``.
    conserve : correct each coarse cell so that the area-weighted mean of its fine cells is its value.
    tile : side of a tile in fine cells; the result does not depend on it.
    engine : what runs the network: auto, onnx or tensorflow.
    crs : CRS of data that carries none (for a swath file: of the grid to make).
    variable : which variable of a Dataset or file; by default the one NO2 column in it.

    Returns
    -------
    DataArray for a DataArray, else Dataset (the variable, its ``conservation_error`` relative to the largest
    value, and the coarse precision and count repeated on the fine grid where there are any). Dask-backed if the
    source is. Same outer bounds, orientation, dimension order, attributes and units; float64 stays float64,
    else float32. NaN exactly where the coarse cell is NaN (or infinite, or the declared nodata value).

    Raises
    ------
    InputError, RefusedError, UsageError, ModelError
        See :mod:`geosr.errors`; nothing is computed before all of them are checked.

    Examples
    --------
    >>> import geosr
    >>> fine = geosr.downscale("s5p_l3.nc", scale=4)  # doctest: +SKIP
    """
    scale = check_scale(scale)
    coarse, ancillary, attrs, crs = _read(source, variable, crs, read_options)

    box = geobox_of(coarse, crs)
    predictor = make_predictor(method, scale, model, engine, coarse.attrs.get("units"))
    plan = tiling.plan_tiles((box.shape[0], box.shape[1]), tile=tile, halo=predictor.halo, scale=scale)

    cells = tiling.as_tiles(coarse.data, plan)
    predicted = tiling.map_tiles(cells, predictor, plan, dtype=cells.dtype)
    conserver = Conserver(box, scale, conserve)
    fine = tiling.map_pairs(predicted, cells, conserver, dtype=cells.dtype)

    result = _wrap(fine, coarse, refine(box, scale))
    result.attrs["geosr"] = describe_run(scale, predictor, conserve)
    if isinstance(source, xr.DataArray):
        result = result.transpose(*source.dims)
        return result if _is_lazy(source) else result.compute()
    return _dataset(result, ancillary, attrs, box, scale, plan, relative_error(fine, cells, conserver))


def _read(
    source: Any, variable: str | None, crs: Any, read_options: dict[str, Any]
) -> tuple[xr.DataArray, list[xr.DataArray], dict[str, Any], Any]:
    """The coarse field (…, y, x), its ancillary variables, the dataset's attributes and a CRS still to declare."""
    if isinstance(source, xr.DataArray):
        _no_read_options(read_options, variable=variable)
        return as_field(source), [], {}, crs
    from geosr.variables import ancillary_of, main_variable

    if isinstance(source, xr.Dataset):
        _no_read_options(read_options)
        ds = source
    else:
        from geosr.reading import open_no2

        ds, crs = open_no2(source, variable=variable, crs=crs, **read_options), None
        variable = None
    main = main_variable(ds, variable)
    return as_field(main), [as_field(a) for a in ancillary_of(ds, main)], dict(ds.attrs), crs


def _no_read_options(options: dict[str, Any], **more: Any) -> None:
    given = [name for name, value in {**options, **more}.items() if value is not None]
    if given:
        raise UsageError(
            f"{', '.join(given)}: options of reading, but the data is in memory", "select with xarray first"
        )


def as_field(data: xr.DataArray) -> xr.DataArray:
    """``data`` as (…, y, x) floating with NaN for nodata and infinities: float64 stays, the rest becomes float32."""
    if data.dtype.kind not in "fiub":
        raise UsageError(f"dtype {data.dtype} is not a real number type", "convert it first")
    y, x = spatial_dims(data)
    if packed := [k for k in ("scale_factor", "add_offset") if k in data.attrs]:
        raise UsageError(f"the numbers are packed: {packed[0]} in attrs", "decode them first (xarray.decode_cf)")
    field = data.transpose(..., y, x)
    dtype = np.dtype(np.float64 if field.dtype == np.float64 else np.float32)
    for nodata in _nodata(data):
        field = field.where(field != nodata)
    field = field.astype(dtype)
    return field.where(np.isfinite(field)).assign_attrs(data.attrs)


def _nodata(data: xr.DataArray) -> list[float]:
    """Numbers declared to mean nothing: in attrs, or in encoding, where rioxarray and xarray move them.

    Decoded data holds NaN for the encoded ones already (and may hold -9999 as a value of its own, once scaled), so
    encoding counts only for integers, which cannot hold NaN.
    """
    places = [data.attrs] + ([data.encoding] if data.dtype.kind in "iu" else [])
    found = [place[k] for place in places for k in ("_FillValue", "missing_value") if place.get(k) is not None]
    return [float(v) for value in found for v in np.atleast_1d(value) if not np.isnan(v)]


def _is_lazy(data: xr.DataArray) -> bool:
    return data.chunks is not None


def _wrap(fine: Any, coarse: xr.DataArray, box: GeoBox) -> xr.DataArray:
    """Fine numbers with the coarse field's name, dimensions, other coordinates and attributes that still hold."""
    y, x = coarse.dims[-2:]
    others = {name: c for name, c in coarse.coords.items() if not {y, x} & set(c.dims) and name != "spatial_ref"}
    attrs = {k: v for k, v in coarse.attrs.items() if k not in _STALE_ATTRS}
    result = xr.DataArray(fine, dims=coarse.dims, coords=others, name=coarse.name, attrs=attrs)
    return with_geobox(result, box, like=coarse)


def describe_run(scale: int, predictor: Predictor, conserve: bool) -> str:
    """One line that travels with the data, e.g. ``x4 by geosr 0.1.0, model no2-srcnn-9-3-5-x4 …, conserving``."""
    from geosr._version import __version__

    how = "bicubic"
    if predictor.model is not None:
        from geosr.models import load_model

        loaded = load_model(predictor.model)
        how = f"model {loaded.card.name} sha256 {loaded.sha256}"
    return f"x{scale} by geosr {__version__}, {how}, {'conserving' if conserve else 'not conserving'}"


def relative_error(fine: Any, cells: Any, conserver: Conserver) -> Any:
    """0-d dask array: largest ``|mean of the fine cells - coarse|`` over the largest ``|coarse|``."""
    import dask.array as da

    check = tiling.map_pairs(fine, cells, ConservationCheck(conserver), dtype=np.dtype(np.float64), tile_shape=(1, 2))
    error, largest = check[..., 0::2].max(), check[..., 1::2].max()
    return da.where(largest > 0, error / da.maximum(largest, np.finfo(np.float64).tiny), 0.0)


def _dataset(
    result: xr.DataArray,
    ancillary: list[xr.DataArray],
    attrs: dict[str, Any],
    box: GeoBox,
    scale: int,
    plan: tiling.TilePlan,
    error: Any,
) -> xr.Dataset:
    """The fine variable with its companions."""
    variables: dict[Hashable, xr.DataArray] = {}
    for item in ancillary:
        cells = tiling.as_tiles(item.data, plan)
        repeated = tiling.map_cells(cells, partial(conservation.spread, scale=scale), plan)
        variables[item.name] = _wrap(repeated, item, refine(box, scale))
    if variables:
        result.attrs["ancillary_variables"] = " ".join(str(name) for name in variables)
    ds = xr.Dataset({result.name or "field": result, **variables}, attrs=attrs)
    long_name = "largest difference between a coarse cell and the mean of its fine cells, over the largest column"
    ds["conservation_error"] = xr.DataArray(error, attrs={"long_name": long_name, "units": "1"})
    return ds
