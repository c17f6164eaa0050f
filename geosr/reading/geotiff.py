"""GeoTIFF: from a file to a lazy field on its grid, window by window.

GDAL is opened with the GTiff driver alone and without looking at neighbouring files: ``.ovr``, ``.msk`` and
``.aux.xml`` beside an image can hold anything, even references to other files. Each window opens the file for itself (a
millisecond): no handle is shared between threads, nothing stays open, and the graph can travel to other processes. That
is also why this does not go through rioxarray, whose handles reopen in worker threads without these settings.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from geosr.errors import GeosrWarning, InputError
from geosr.reading.crs import as_crs, keeps_own
from geosr.reading.field import Layer, Raw, describe_source
from geosr.reading.gate import guarded, name_for_c, vet
from geosr.reading.lazy import read_indexed
from geosr.reading.limits import limits
from geosr.reading.values import Decoding
from geosr.variables import Candidate, choose

#: GDAL settings for reading files of unknown origin.
SAFE_ENV = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_GEOREF_SOURCES": "INTERNAL",  # and what the environment may say otherwise, from here on
    "GTIFF_IGNORE_READ_ERRORS": "NO",
    "GTIFF_POINT_GEO_IGNORE": "NO",
}

# Cells in one window: 1 MB as float32. A few rows of windows are held at once, as tiles look at their neighbours', so
# those of tiled files are wide, and no higher than this if their blocks are not.
_CHUNK_CELLS = 512 * 512
_CHUNK_ROWS = 256


@dataclass(frozen=True)
class _Band:
    """A band of a file as an array that reads when it is indexed; with ``mask``, the band's validity instead."""

    path: str
    number: int
    shape: tuple[int, int]
    dtype: np.dtype
    mask: bool = False
    ndim: int = 2

    def __getitem__(self, index: Any) -> np.ndarray:
        return guarded(lambda: read_indexed(index, self.shape, self._read), self.path)

    def _read(self, box: tuple[slice, ...]) -> np.ndarray:
        rows, cols = box
        window = Window(cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start)
        with opened(self.path) as source:
            return (source.read_masks if self.mask else source.read)(self.number, window=window)


@contextmanager
def opened(path: str | Path) -> Iterator[rasterio.DatasetReader]:
    """The GeoTIFF at ``path``, open for reading, and no other file with it."""
    with (
        name_for_c(path) as name,
        rasterio.Env(**SAFE_ENV),
        rasterio.open(Path(name), driver="GTiff", sharing=False) as source,
    ):
        yield source


def read(path: Path, variable: str | None = None, crs: object = None) -> Raw:
    """The field in a GeoTIFF, or its bands together if they are of one kind.

    Parameters
    ----------
    variable : a band's description, or its number from 1.
    crs : declares the CRS of a file that has none.

    Raises
    ------
    InputError
        No CRS or transform, ground control points only, a colour table, complex numbers, blocks missing or beyond the
        end of the file, an ambiguous choice of bands.
    """
    missing = vet(path, "tiff")

    def look() -> Raw:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # told below, as an error
            return _look(path, variable, crs, missing)

    return guarded(look, path)


def _look(path: Path, variable: str | None, crs: object, missing: int) -> Raw:
    with opened(path) as source:
        height, width = source.shape
        # Should GDAL see more in it than the scan did.
        limits().check_cells(height * width, os.path.getsize(path), f"{height} x {width}")
        limits().check("bands", source.count, f"{source.count} bands")
        box = _geobox(source, crs)
        numbers, candidate = _choose_bands(source, variable)
        if missing and source.nodatavals[numbers[0] - 1] is None:
            raise InputError(
                f"{missing} missing blocks and no nodata value: they would read as 0",
                "declare the nodata value (gdal_edit.py -a_nodata)",
            )
        return _raw(source, path, box, numbers, candidate)


def candidates_in(path: Path) -> list[Candidate]:
    """The bands of a file, as the choice of a variable sees them."""

    vet(path, "tiff")

    def look() -> list[Candidate]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with opened(path) as source:
                return _candidates(source)

    return guarded(look, path)


def _raw(source: rasterio.DatasetReader, path: Path, box: GeoBox, numbers: list[int], chosen: Candidate) -> Raw:
    tags = source.tags()
    layers = tuple(_layer(source, path, n) for n in numbers)
    many = len(numbers) > 1
    is_no2 = chosen.is_no2 or (not chosen.attrs.get("long_name") and "no2" in path.name.lower())
    named = re.fullmatch(r"(?!band_?\d)[A-Za-z]\w*", chosen.name)
    name = chosen.name if named else "no2" if is_no2 else "field"
    coords: dict[str, xr.Variable] = {}
    if many:
        labels = [source.descriptions[n - 1] or str(n) for n in numbers]
        coords["band"] = xr.Variable("band", np.array(labels, dtype=object).astype(str), {"long_name": "band"})
    elif source.count > 1 and source.descriptions[numbers[0] - 1] not in (None, "", name):
        coords["band"] = xr.Variable((), str(source.descriptions[numbers[0] - 1]), {"long_name": "band"})
    return Raw(
        name=name,
        layers=layers,
        dims=("band", "y", "x") if many else ("y", "x"),
        box=box,
        attrs=chosen.attrs,
        coords=coords,
        file_attrs=describe_source(path, tags),
        is_no2=is_no2,
    )


def _layer(source: rasterio.DatasetReader, path: Path, number: int) -> Layer:
    dtype = np.dtype(source.dtypes[number - 1])
    nodata, scale, offset = (v[number - 1] for v in (source.nodatavals, source.scales, source.offsets))
    packing = {"scale_factor": scale, "add_offset": offset}
    how = Decoding.from_attrs(packing if nodata is None else {**packing, "_FillValue": nodata}, dtype)
    chunks = _chunks(source, number)
    return Layer(_lazy(_Band(str(path), number, source.shape, dtype), chunks), how, _mask(source, path, number, chunks))


def _mask(source: rasterio.DatasetReader, path: Path, number: int, chunks: tuple[int, int]) -> da.Array | None:
    """Validity of a band (0 is invalid) by the file's mask and its alpha bands.

    Alpha bands are read here, because GDAL takes only those of 8 and 16 bits for a mask, and none beside nodata.
    """
    masks = []
    flags = source.mask_flag_enums[number - 1]
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        masks.append(_lazy(_Band(str(path), number, source.shape, np.dtype(np.uint8), mask=True), chunks))
    for i, meaning in enumerate(source.colorinterp):
        if meaning == ColorInterp.alpha:
            band = _Band(str(path), i + 1, source.shape, np.dtype(source.dtypes[i]))
            masks.append(_lazy(band, chunks) != 0)
    if len(masks) < 2:
        return masks[0] if masks else None
    return da.all(da.stack([mask != 0 for mask in masks]), axis=0)


def _lazy(band: _Band, chunks: tuple[int, int]) -> da.Array:
    return da.from_array(band, chunks=chunks, name=False, meta=np.empty((0, 0), band.dtype))


def _chunks(source: rasterio.DatasetReader, number: int) -> tuple[int, int]:
    """Window size: whole blocks, about :data:`_CHUNK_CELLS` cells."""
    height, width = source.shape
    rows, cols = source.block_shapes[number - 1]
    if cols >= width:
        least = 1 if source.compression is None else rows
        return min(height, max(least, _CHUNK_CELLS // width // least * least)), width
    high = max(1, _CHUNK_ROWS // rows) * rows
    return min(height, high), min(width, max(1, _CHUNK_CELLS // high // cols) * cols)


# --- which bands -----------------------------------------------------------------------------------------------

_MONTHS = r"jan\w*|feb\w*|mar\w*|apr\w*|may|june?|july?|aug\w*|sep\w*|oct\w*|nov\w*|dec\w*"


def _candidates(source: rasterio.DatasetReader) -> list[Candidate]:
    found = []
    for i in range(source.count):
        if source.colorinterp[i] == ColorInterp.alpha:
            continue
        dtype = source.dtypes[i]
        if source.colorinterp[i] == ColorInterp.palette:
            raise InputError("a palette image: its numbers are colours, not values", "pass the data it was made from")
        if "complex" in dtype:
            raise InputError(
                f"complex numbers ({dtype})", "NO2 columns are real: take the real part or the magnitude first"
            )
        text = source.descriptions[i] or ""
        tags = {**_named_tags(source.tags()), **_named_tags(source.tags(i + 1))}
        units = source.units[i] or tags.get("units")
        if units in ("metre", "m") and _is_compound(source.crs) and not tags.get("units"):
            units = None  # of the heights of a vertical CRS, which GDAL gives every band
        name = text or tags.get("netcdf_varname") or tags.get("fullnamepath", "").rsplit("/", 1)[-1]
        attrs: dict[str, Any] = {"units": units} if units else {}
        for key in ("standard_name", "long_name", "cell_methods"):
            if tags.get(key):
                attrs[key] = tags[key]
        if text or tags.get("title"):
            attrs.setdefault("long_name", text or tags["title"])
        found.append(Candidate(name or f"band_{i + 1}", attrs, source.shape, i + 1))
    return found


def _is_compound(crs: Any) -> bool:
    """Has the CRS a vertical part?"""
    return crs is not None and crs.to_wkt().startswith(("COMPD_CS", "COMPOUNDCRS"))


def _named_tags(tags: dict[str, str]) -> dict[str, str]:
    """Short tags of one raster by lower-case name; tags of a NetCDF that it came from ("lat#units") left out."""
    wanted = ("units", "unit", "standard_name", "long_name", "cell_methods", "title", "fullnamepath", "netcdf_varname")
    found = {k.lower(): v for k, v in tags.items() if k.lower() in wanted and 0 < len(v) <= 200}
    if "unit" in found:
        found.setdefault("units", found["unit"])
    return found


def _choose_bands(source: rasterio.DatasetReader, variable: str | None) -> tuple[list[int], Candidate]:
    """(band numbers, what they are): one band, or all where they are of one kind."""
    bands = _candidates(source)
    if variable is None and len(bands) > 1 and len({_kind(b.name) for b in bands}) == 1:
        name = re.sub(r"[\W_]+$", "", re.sub(r"\d+$", "", bands[0].name)) if _kind(bands[0].name) else "field"
        attrs = {k: v for k, v in bands[0].attrs.items() if k != "long_name"}
        return [b.number for b in bands if b.number], Candidate("" if name == "band" else name, attrs)
    if variable is None and len(bands) == 1:
        return [bands[0].number or 1], bands[0]
    chosen = choose(bands, variable)
    return [chosen.number or 1], chosen


def _kind(description: str) -> str:
    """What is left of a band's name without dates and numbers: the same for "NO2 2019-01" and "NO2 2019-02"."""
    return re.sub(rf"\b({_MONTHS})\b|[\d\W_TZ]+", "", description, flags=re.IGNORECASE).lower()


# --- where -----------------------------------------------------------------------------------------------------


def _geobox(source: rasterio.DatasetReader, declared: object) -> GeoBox:
    if source.transform == Affine.identity():
        if source.gcps[0]:
            raise InputError(
                f"georeferenced by {len(source.gcps[0])} GCPs alone", "GCPs: warp it to a grid first (gdalwarp -tps)"
            )
        if source.rpcs is not None:
            raise InputError("georeferenced by RPCs alone", "RPC: orthorectify it first (gdalwarp -rpc)")
        raise InputError(
            "no geotransform: nothing says where the raster lies", "georeference it first (gdal_translate -a_ullr)"
        )
    if source.transform.is_degenerate:
        raise InputError(f"the geotransform {source.transform.to_gdal()} has no area", "georeference the raster first")
    own: CRS | None = None
    if source.crs:
        try:
            own = as_crs(source.crs)
        except InputError:
            if declared is None:
                raise
    if own is None and declared is None:
        raise InputError("no CRS", "declare it with --crs (in Python: crs=…), e.g. --crs EPSG:4326")
    if own is not None and declared is not None and own != as_crs(declared):
        warnings.warn(keeps_own(source.name, own), GeosrWarning, stacklevel=2)
    return GeoBox(source.shape, source.transform, own or as_crs(declared))
