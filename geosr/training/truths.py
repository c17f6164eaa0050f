"""Rasters as truths for training: every time or band of a file is a plane, with its days and its place.

Maps are read as :func:`geosr.open_no2` reads them. Two kinds of files more are good enough to learn from: images with
georeference whose bands are no columns (each band is a plane), and plain pictures without georeference (PNG, JPEG, BMP,
TIFF; a colour PNG, JPEG or BMP gives its luminance, as in the papers). On a picture all cells are alike, and its place
is known by its contents only.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from geosr.errors import GeosrError, InputError, blame
from geosr.reading.gate import kind_of
from geosr.reading.tiff_scan import check_tiff_blocks
from geosr.training.bounds import time_bounds
from geosr.training.dates import Span, spans_of

#: Suffixes of files that may hold maps, and of those that hold pictures only.
MAPS = (".tif", ".tiff", ".nc", ".nc4", ".cdf", ".h5", ".hdf5", ".he5")
PICTURES = (".png", ".jpg", ".jpeg", ".bmp")

_DRIVERS = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"BM": "BMP"}

# Rec. ITU-R BT.601, section 2.5.1: luminance from red, green and blue.
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Plane:
    """One truth, not yet read.

    Attributes
    ----------
    path : of the file; label : how to tell the plane from the others.
    shape : (rows, columns).
    span : its days; None if they are not known.
    box : its grid; None for a picture without georeference.
    picture : for one of these, a hash of its pixels: the same place has the same.
    units : of the values.
    load : gives the values, (y, x) float32.
    """

    path: Path
    label: str
    shape: tuple[int, int]
    span: Span | None
    box: GeoBox | None
    picture: str
    units: str | None
    load: Callable[[], np.ndarray]

    @cached_property
    def digest(self) -> str:
        """A hash of the values, to know copies by; "" where there are no two different ones. Reads them."""
        values = self.read()[0]
        valid = values[~np.isnan(values)]
        if not valid.size or valid.min() == valid.max():
            return ""
        return _hash(values)

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """(values, areas): (y, x) float32, NaN where missing, and (y, 1) float64 cell areas in m2, or 1."""
        from geosr.grid import cell_areas

        with blame(self.path):
            values = self.load()
        if self.box is None:
            return values, np.ones((self.shape[0], 1))
        areas = cell_areas(self.box)[:, :1]
        if self.box.crs is not None and not self.box.crs.geographic:
            areas = areas * self.box.crs.proj.axis_info[0].unit_conversion_factor ** 2
        return values, areas


def planes_in(path: Path, variable: str = "", units: str | None = None, target: str | None = None) -> list[Plane]:
    """The planes of the file at ``path``, in its order; the values are read later.

    Parameters
    ----------
    variable : which; "" takes the obvious one, or every band of an image.
    units : of the numbers in the file, whatever it says; None believes it.
    target : wanted units; None takes those of the file.

    Raises
    ------
    InputError, RefusedError
        The file cannot be read, or leaves a choice open.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise InputError(f"cannot be opened ({error.strerror})", "check the path and its permissions", path) from error
    return list(_planes(path, state.st_mtime_ns, state.st_size, variable, units, target))


@lru_cache(maxsize=4096)  # the sets of a recipe share files, and each file is looked at for split and scenes
def _planes(
    path: Path, _mtime: int, _size: int, variable: str, units: str | None, target: str | None
) -> tuple[Plane, ...]:
    with blame(path):
        picture = _picture(path)
        if picture is not None:
            return tuple(picture)
        planes: list[Plane] = []
        for dataset, field in _fields(path, variable, units, target):
            planes += _split(path, dataset, field)
        return tuple(planes)


def _fields(
    path: Path, variable: str, units: str | None, target: str | None
) -> Iterator[tuple[xr.Dataset, xr.DataArray]]:
    """The field that is meant; every band, where none is meant and none is a column."""
    from geosr.reading import open_no2
    from geosr.variables import main_variable

    def opened(name: str | None) -> tuple[xr.Dataset, xr.DataArray]:
        dataset = open_no2(path, variable=name, input_units=units, units=target)
        return dataset, main_variable(dataset)

    try:
        yield opened(variable or None)
    except InputError:
        bands = [] if variable else _bands_of_image(path)
        if not bands:
            raise
        for number in bands:
            yield opened(str(number))


def _bands_of_image(path: Path) -> list[int]:
    """Numbers of the bands of a GeoTIFF that holds several, none of them NO2."""
    from geosr.reading.geotiff import candidates_in

    try:
        bands = candidates_in(path) if kind_of(path) == "tiff" else []
    except GeosrError:
        return []
    if len(bands) < 2 or "no2" in path.name.lower() or any(b.is_no2 for b in bands):
        return []
    return [b.number for b in bands if b.number and not b.is_secondary]


def _split(path: Path, dataset: xr.Dataset, field: xr.DataArray) -> list[Plane]:
    """A plane for each time or band of ``field``."""
    from geosr.grid import geobox_of, spatial_dims

    box = geobox_of(field)
    field = field.transpose(..., *spatial_dims(field))
    units = field.attrs.get("units")
    spans = spans_of(field, dataset.attrs, path.name, time_bounds(path))
    lead = field.shape[:-2]
    planes = []
    for number, (place, span) in enumerate(zip(np.ndindex(lead), spans, strict=True)):
        one = field[place]
        day = f" of {span[0]}" if span is not None else f" ({number + 1})"
        label = path.name + (day if len(spans) > 1 else "")
        shape = (int(one.shape[0]), int(one.shape[1]))
        load = partial(_values, one)
        planes.append(Plane(path, label, shape, span, box, "", None if units is None else str(units), load))
    return planes


def _hash(values: np.ndarray) -> str:
    """Of shape and numbers (float32), every NaN and every zero alike."""
    plain = np.where(np.isnan(values), np.float32(np.nan), values + np.float32(0))
    return hashlib.sha256(str(values.shape).encode() + plain.astype("<f4").tobytes()).hexdigest()


def _values(field: xr.DataArray) -> np.ndarray:
    return np.asarray(field.values, dtype=np.float32)


# --- pictures without georeference -----------------------------------------------------------------------------


def _picture(path: Path) -> list[Plane] | None:
    """The planes of a plain picture; None if the file is something else."""
    with path.open("rb") as stream:
        head = stream.read(8)
    driver = next((name for magic, name in _DRIVERS.items() if head.startswith(magic)), None)
    if driver is not None:
        with _opened(path, driver) as source:
            return _of_picture(path, source)
    if not head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return None
    with _opened(path, "GTiff") as source:
        if source.crs or not source.transform.is_identity or source.gcps[0] or source.rpcs is not None:
            return None
        check_tiff_blocks(path)
        return _of_picture(path, source)


@contextmanager
def _opened(path: Path, driver: str) -> Iterator[Any]:
    """A picture, open for reading, and no other file with it; what libraries raise is an :class:`InputError`."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    from geosr.reading.geotiff import SAFE_ENV

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.Env(**SAFE_ENV), rasterio.open(path, driver=driver, sharing=False) as source:
                yield source
        except RasterioError as error:
            raise InputError(f"truncated or corrupt: cannot be read ({error})", "download it again") from error


def _of_picture(path: Path, source: Any) -> list[Plane]:
    """Planes of a picture: its luminance if it is a colour PNG, JPEG or BMP, else its bands, alpha left out."""
    from rasterio.enums import ColorInterp

    if ColorInterp.palette in source.colorinterp:
        raise InputError("a palette image: its numbers are colours, not values", "save it as a grey or colour image")
    if any("complex" in dtype for dtype in source.dtypes):
        raise InputError("complex numbers", "take the magnitude first")
    numbers = [i + 1 for i, meaning in enumerate(source.colorinterp) if meaning != ColorInterp.alpha]
    parts = [tuple(numbers)] if len(numbers) == 3 and source.driver != "GTiff" else [(n,) for n in numbers]
    # Of the pixels: however they were packed, it is the same picture.
    digest = _hash(source.read(numbers).astype(np.float32))
    planes = []
    for part in parts:
        label = path.name + (f" ({part[0]})" if len(parts) > 1 else "")
        load = partial(_picture_values, path, source.driver, part)
        planes.append(Plane(path, label, source.shape, None, None, digest, None, load))
    return planes


def _picture_values(path: Path, driver: str, numbers: tuple[int, ...]) -> np.ndarray:
    """A band, or the luminance of three; float32, NaN where it has no data."""
    with _opened(path, driver) as source:
        bands = source.read(list(numbers))
        values = bands.astype(np.float32)
        if source.nodata is not None:
            values[bands == source.nodata] = np.nan
    values[~np.isfinite(values)] = np.nan
    return np.tensordot(_LUMINANCE, values, axes=1) if len(numbers) == 3 else values[0]


def is_raster(path: Path, pictures: bool = True) -> bool:
    """Does the name say that it may be read?"""
    return os.path.splitext(path.name)[1].lower() in (MAPS + PICTURES if pictures else MAPS)
