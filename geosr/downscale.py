"""The main job: a coarse field in, a finer one out, on the same ground and with the same columns.

:func:`downscale` reads like the data's way through the house: read, refine the grid, normalise, tile, predict,
stitch, denormalise, conserve, mask, wrap. Everything is lazy; writing (or ``compute``) runs it tile by tile.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from geosr import conserve as conservation
from geosr import tiling
from geosr.errors import UsageError
from geosr.grid import cell_size_m, check_scale, geobox_of, refine, spatial_dims, with_geobox
from geosr.kernels import Conserver, Predictor, TileKernel, relative_error
from geosr.method import Run, choose_model
from geosr.reading.place import check_place
from geosr.uncertainty import name_of, wanted
from geosr.uncertainty import uncertainty as one_sigma

if TYPE_CHECKING:
    from geosr.models import Model

#: The least tile that makes sense: a block of the smallest kind that TIFF has. Below the overlap, tiles are enlarged.
MIN_TILE = 16

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
    method: str = "auto",
    model: str | os.PathLike[str] | None = None,
    force_model: bool = False,
    conserve: bool = True,
    uncertainty: bool | None = None,
    tile: int | None = None,
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
    scale : whole number; a network needs a model for it, ``bicubic`` takes any from 2 to 16.
    method : ``edsr`` or ``srcnn``, a super-resolution network of that family; ``auto``, the shipped network for the
        scale, or the one that ``model`` names; ``bicubic``, the same way without a network.
    model : name of a shipped model or path of a bundle; default the shipped one for ``scale``.
    force_model : run the network even on a field far outside the envelope of its training. This is recorded.
    conserve : correct each coarse cell so that the area-weighted mean of its fine cells is its value.
    uncertainty : add ``<name>_uncertainty``, one standard deviation of each value (:mod:`geosr.uncertainty`). Default:
        where it can be had, which is in a Dataset, conserved, by a network that predicts its error. For a DataArray
        ``da``: ``geosr.downscale(da.to_dataset())``.
    tile : side of a tile in fine cells, enlarged to the overlap that the network needs; the result does not depend
        on it. Default: :func:`geosr.tiling.default_tile`.
    engine : what runs the network: auto, native, onnx or tensorflow (:mod:`geosr.models.engines`).
    crs : CRS of data that carries none (for a swath file: of the grid to make).
    variable : which variable of a Dataset or file; by default the one NO2 column in it.

    Returns
    -------
    DataArray for a DataArray, else Dataset (the variable, its uncertainty, its ``conservation_error`` relative to the
    largest value, and the coarse precision and count repeated on the fine grid where there are any). Dask-backed if
    the source is. Same outer bounds, orientation, dimension order, attributes and units; float64 stays float64,
    else float32. NaN exactly where the coarse cell is NaN (or infinite, or the declared nodata value).

    Raises
    ------
    RefusedError
        The field is far outside what the network was trained on (:mod:`geosr.envelope`; a
        :class:`~geosr.errors.GeosrWarning` where it is a little outside). It is looked at once per call, in a bounded
        sample (:func:`geosr.fieldstats.sample`): the only part of lazy data that is computed here.
    InputError, UsageError, ModelError
        See :mod:`geosr.errors`; nothing else is computed before all of them are checked.

    Examples
    --------
    >>> import geosr
    >>> fine = geosr.downscale("s5p_l3.nc", scale=4)  # doctest: +SKIP
    """
    return prepare(
        source,
        scale,
        method=method,
        model=model,
        force_model=force_model,
        conserve=conserve,
        uncertainty=uncertainty,
        tile=tile,
        engine=engine,
        crs=crs,
        variable=variable,
        **read_options,
    )[0]


def prepare(
    source: Any,
    scale: int,
    *,
    method: str = "auto",
    model: str | os.PathLike[str] | None = None,
    force_model: bool = False,
    conserve: bool = True,
    uncertainty: bool | None = None,
    tile: int | None = None,
    engine: str = "auto",
    crs: Any = None,
    variable: str | None = None,
    **read_options: Any,
) -> tuple[Any, Run, Any]:
    """What :func:`downscale` returns; what it does, for a report; and the tiles' summaries of their conservation
    (:class:`~geosr.kernels.TileKernel`), lazy.
    """
    scale = check_scale(scale)
    coarse, ancillary, attrs, crs = _read(source, variable, crs, read_options)

    box = geobox_of(coarse, crs)
    check_place(box)
    network = choose_model(method, scale, model)
    if network is not None:
        network.check_engine(engine)
    predictor = Predictor.of(network, scale, engine, coarse.attrs.get("units"))
    shape = (box.shape[0], box.shape[1])
    tile = tiling.default_tile(shape, scale) if tile is None else tile
    if tile < MIN_TILE:
        raise UsageError(f"tile {tile} is too small", f"use --tile {MIN_TILE} or more")
    # A tile smaller than the overlap around it has neighbours of neighbours in it: the largest networks need 144.
    plan = tiling.plan_tiles(shape, tile=max(tile, predictor.halo * scale), halo=predictor.halo, scale=scale)
    alone = isinstance(source, xr.DataArray)
    uncertain = name_of(coarse) if wanted(uncertainty, network, conserve, not alone) else None
    run = Run.of(network, scale, conserve, _in_envelope(coarse, box, network, force_model), uncertain)

    cells = tiling.as_lazy(coarse.data)
    kernel = TileKernel(predictor, Conserver(box, scale, conserve), uncertain is not None)
    fine, check, *sigma = tiling.map_tiles(cells, kernel, plan, kernel.results(cells.dtype))

    result = _wrap(fine, coarse, refine(box, scale))
    result.attrs["geosr"] = str(run)
    if alone:
        result = result.transpose(*source.dims)
        return result if _is_lazy(source) else result.compute(), run, check
    companions = _repeated(ancillary, box, plan)
    if uncertain is not None:
        total, about = one_sigma(sigma[0], coarse, ancillary, plan)
        # In place of the coarse uncertainty, where there is one of that name: it is in the new one.
        companions = [_beside(result, uncertain, total, about), *(c for c in companions if c.name != uncertain)]
    return _dataset(result, companions, attrs, relative_error(check)), run, check


def _in_envelope(coarse: xr.DataArray, box: GeoBox, model: Model | None, force: bool) -> str | None:
    """Is the field like those that ``model`` was trained on? Warns and raises as :func:`downscale` says."""
    if model is None:
        return None
    from geosr.envelope import Envelope

    envelope = Envelope.from_dict(model.card.envelope, model.scale)
    return envelope.check(coarse.data, cell_size_m(box), coarse.attrs.get("units"), model.card.name, force)


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


def _repeated(ancillary: list[xr.DataArray], box: GeoBox, plan: tiling.TilePlan) -> list[xr.DataArray]:
    """Each coarse cell of ``ancillary`` repeated on its fine cells."""
    kernel = partial(conservation.spread, scale=plan.scale)
    fine = [tiling.map_cells(tiling.as_lazy(item.data), kernel, plan) for item in ancillary]
    return [_wrap(data, item, refine(box, plan.scale)) for data, item in zip(fine, ancillary, strict=True)]


def _beside(result: xr.DataArray, name: str, data: Any, attrs: dict[str, str]) -> xr.DataArray:
    """``data`` as a variable on the grid of ``result``."""
    made = xr.DataArray(data, dims=result.dims, coords=result.coords, name=name, attrs=attrs)
    made.encoding = dict(result.encoding)
    return made


def _dataset(result: xr.DataArray, companions: list[xr.DataArray], attrs: dict[str, Any], error: Any) -> xr.Dataset:
    """The fine variable with its companions."""
    if companions:
        result.attrs["ancillary_variables"] = " ".join(str(item.name) for item in companions)
    variables: dict[Hashable, xr.DataArray] = {item.name: item for item in companions}
    ds = xr.Dataset({result.name or "field": result, **variables}, attrs=attrs)
    long_name = "largest difference between a coarse cell and the mean of its fine cells, over the largest column"
    ds["conservation_error"] = xr.DataArray(error, attrs={"long_name": long_name, "units": "1"})
    return ds
