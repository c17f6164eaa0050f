"""From one variable as a file has it to the Dataset that geosr works on.

:class:`Raw` is what the readers of formats hand over: lazy raw numbers, how to decode them, and where they lie. What
comes after is the same for every format: select time and level, crop, turn north up, decode, settle units, wrap.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

from geosr.errors import GeosrWarning
from geosr.grid import with_geobox
from geosr.reading.place import check_place
from geosr.reading.values import SAMPLE_CELLS, Decoding, decode, decoded, inspect, sample
from geosr.units import convert, parse, plausibility

#: Attributes of the file's variable that still hold for the field.
KEPT_ATTRS = ("units", "long_name", "standard_name", "cell_methods", "description", "comment")


@dataclass(frozen=True)
class Layer:
    """Numbers with one decoding: (…, y, x), and for rasters with a mask band the validity (0 is invalid)."""

    data: da.Array
    decoding: Decoding
    mask: da.Array | None = None

    def apply(self, change: Callable[[da.Array], da.Array]) -> Layer:
        """The layer with ``change`` done to numbers and mask alike."""
        return replace(self, data=change(self.data), mask=None if self.mask is None else change(self.mask))


@dataclass(frozen=True)
class Raw:
    """One variable as the file has it.

    Attributes
    ----------
    name : for the output's variable.
    layers : one for a NetCDF variable; one a band for a GeoTIFF, then ``dims[0]`` is the dimension they make together.
    dims : of the field, the last two are y and x.
    coords : of the leading dimensions, where known.
    box : the grid, in the file's orientation.
    attrs : of the variable.
    file_attrs : of the Dataset to be: product, time_coverage_start, …
    is_no2 : whether the values are NO2 columns (then their size can be judged).
    """

    name: str
    layers: tuple[Layer, ...]
    dims: tuple[str, ...]
    box: GeoBox
    attrs: Mapping[str, Any]
    coords: Mapping[str, xr.Variable] = field(default_factory=dict)
    file_attrs: Mapping[str, Any] = field(default_factory=dict)
    is_no2: bool = False

    @property
    def stacked(self) -> bool:
        """Do the layers lie along a dimension of their own?"""
        return self.layers[0].data.ndim < len(self.dims)

    def take(self, dim: str, index: int | slice | np.ndarray) -> Raw:
        """The part of the field at ``index`` of a leading dimension; an integer drops the dimension."""
        axis = self.dims.index(dim)
        coords = {k: (v if dim not in v.dims else v.isel({dim: index})) for k, v in self.coords.items()}
        dims = tuple(d for d in self.dims if d != dim) if isinstance(index, int) else self.dims
        if self.stacked and axis == 0:
            chosen = np.arange(len(self.layers))[index]
            layers = tuple(self.layers[i] for i in np.atleast_1d(chosen))
        else:
            where = (slice(None),) * (axis - self.stacked) + (index,)
            layers = tuple(layer.apply(lambda a: a[where]) for layer in self.layers)
        return replace(self, layers=layers, dims=dims, coords=coords)

    def on(self, change: Callable[[da.Array], da.Array], box: GeoBox) -> Raw:
        """The field with ``change`` done to its last two axes, on the grid ``box``."""
        return replace(self, layers=tuple(layer.apply(change) for layer in self.layers), box=box)


def north_up(raw: Raw) -> Raw:
    """``raw`` with rows from north to south and columns from west to east; a rotated grid stays as it is."""
    ny, nx = raw.box.shape
    a = raw.box.affine
    if a.b or a.d:
        return raw
    if a.e > 0:
        turned = GeoBox((ny, nx), Affine(a.a, 0, a.c, 0, -a.e, a.f + ny * a.e), raw.box.crs)
        return north_up(raw.on(lambda v: v[..., ::-1, :], turned))
    if a.a < 0:
        turned = GeoBox((ny, nx), Affine(-a.a, 0, a.c + nx * a.a, 0, a.e, a.f), raw.box.crs)
        return raw.on(lambda v: v[..., ::-1], turned)
    return raw


def to_dataset(raw: Raw, path: Path, units: str | None, input_units: str | None, companion: bool = False) -> xr.Dataset:
    """Decode, settle units and wrap ``raw`` into the Dataset that :func:`geosr.open_no2` returns. Lazy.

    ``companion``: it goes with a main variable, of which the user has been told what there is to tell.
    """
    check_place(raw.box)
    raw = north_up(raw)
    attrs = {k: raw.attrs[k] for k in KEPT_ATTRS if str(raw.attrs.get(k, "")).strip()}
    if input_units is not None:
        parse(input_units)
        attrs["units"] = input_units
    elif "units" in attrs:
        parse(str(attrs["units"]))
    shares = max(1, SAMPLE_CELLS // len(raw.layers))
    fields, samples = [], []
    for layer in raw.layers:
        values, how = _inspected(layer, shares, raw.name)
        samples.append(values)
        lazy = decoded(layer.data, how)
        fields.append(lazy if layer.mask is None else da.where(layer.mask != 0, lazy, np.float32(np.nan)))
    seen = np.concatenate(samples)
    if raw.is_no2:
        doubt = plausibility(seen, attrs.get("units"))
        if doubt:
            warnings.warn(f"{raw.name}: {doubt}", GeosrWarning, stacklevel=2)
    may_be_zero = companion or is_count(raw)
    _warn_of_odd_shares(seen, sum(layer.data.size for layer in raw.layers), raw.name, may_be_zero)
    array = da.stack(fields) if raw.stacked else fields[0]
    data = xr.DataArray(array, dims=_dims(raw), coords=dict(raw.coords), name=raw.name, attrs=attrs)
    if units is not None:
        data = convert(data, units, quiet=companion)
    data = with_geobox(data, raw.box)
    data.encoding = {}
    return xr.Dataset({raw.name: data}, attrs={"source": path.name, **raw.file_attrs, **_coverage(raw)})


def _coverage(raw: Raw) -> dict[str, str]:
    """First and last time of the field, where it has times and the file does not say otherwise."""
    times = [c.values for c in raw.coords.values() if c.dtype.kind == "M" and c.size]
    if not times or "time_coverage_start" in raw.file_attrs:
        return {}
    first, last = (f"{t.astype('datetime64[s]')}Z" for t in (times[0].min(), times[0].max()))
    return {"time_coverage_start": first, "time_coverage_end": last}


def _dims(raw: Raw) -> tuple[str, ...]:
    """Names as grids made from swaths have them, whatever the file calls them: latitude and longitude, or y and x."""
    a, crs = raw.box.affine, raw.box.crs
    plain = crs is not None and crs.geographic and not (a.b or a.d) and not crs.proj.is_derived
    return (*raw.dims[:-2], "latitude", "longitude") if plain else raw.dims


def _inspected(layer: Layer, cells: int, label: str) -> tuple[np.ndarray, Decoding]:
    """(decoded sample, decoding that knows of undeclared fill values)."""
    values = sample(layer.data, cells)
    if layer.mask is not None:
        values = values[sample(layer.mask, cells) != 0]
    how = inspect(values, layer.decoding, label)
    return decode(values, how), how


def is_count(raw: Raw) -> bool:
    """Is it a number of observations, by name or standard name?"""
    return bool(re.search(r"number_of_observations|_count$", f"{raw.attrs.get('standard_name', '')} {raw.name}"))


def _warn_of_odd_shares(seen: np.ndarray, cells: int, label: str, may_be_zero: bool) -> None:
    """Warn where nothing of ``cells`` cells is valid, or where so much is exactly zero that zero must mean missing."""
    valid = ~np.isnan(seen)
    if not valid.any():
        where = "" if seen.size == cells else f" in a sample of {seen.size} of its {cells} cells"
        warnings.warn(f"{label} holds no valid value{where}", GeosrWarning, stacklevel=3)
        return
    zero = float((seen[valid] == 0).mean())
    if 0.25 < zero < 1 and not may_be_zero:
        text = f"{zero:.0%} of the valid values of {label} are exactly 0, which is kept; if 0 means missing, declare it"
        warnings.warn(f"{text} (gdal_edit.py -a_nodata 0)", GeosrWarning, stacklevel=3)


# --- what the file is ------------------------------------------------------------------------------------------

_S5P = re.compile(r"S5P_(\w{4})_L(\d\w?)_+([A-Z0-9]+?)_+(\d{8}T\d{6})_(\d{8}T\d{6})")


def describe_source(path: Path, attrs: Mapping[str, Any]) -> dict[str, str]:
    """``product`` and time coverage, as far as the file's attributes and names say.

    >>> from pathlib import Path
    >>> describe_source(Path("S5P_OFFL_L2__NO2____20190811T073033_20190811T091203_09462.nc"), {})["product"]
    'S5P L2 NO2 OFFL'
    """
    flat = {str(k).rsplit("#", 1)[-1].rsplit(".", 1)[-1].lower(): str(v) for k, v in attrs.items()}
    out: dict[str, str] = {}
    known = next(
        (m for text in (flat.get("id"), flat.get("source_product"), path.name) if text and (m := _S5P.search(text))),
        None,
    )
    level3 = re.search(r"_L3_", path.name) or "harp" in flat.get("conventions", "").lower()
    if known:
        mode, level, gas, start, end = known.groups()
        out["product"] = f"S5P L{'3' if level3 else level} {gas} {mode}"
        out["time_coverage_start"], out["time_coverage_end"] = _iso(start), _iso(end)
    else:
        sensor = flat.get("instrumentname") or flat.get("instrument") or flat.get("sensor")
        title = flat.get("title") or flat.get("summary")
        product = " ".join(t for t in (sensor, title) if t)
        if product:
            out["product"] = product[:120]
    for key, names in (("start", ("time_coverage_start", "start_time")), ("end", ("time_coverage_end", "end_time"))):
        stated = next((flat[n] for n in names if re.match(r"\d{4}-?\d\d", flat.get(n, ""))), None)
        if stated:
            out[f"time_coverage_{key}"] = stated
    return out


def _iso(stamp: str) -> str:
    return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}T{stamp[9:11]}:{stamp[11:13]}:{stamp[13:15]}Z"
