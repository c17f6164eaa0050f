"""Swaths: Sentinel-5P L2 and other files whose pixels have two-dimensional latitudes and longitudes.

Made for S5P NO2 (OFFL, NRTI, RPRO), whole or cut by subset tools that drop, move or rename groups; other S5P
products and other sensors' NetCDF L2 files are read where the variable is named. What is not asked for is not read.
netCDF-C is not thread-safe: files are read under xarray's lock.
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geosr.errors import GeosrError, GeosrWarning, InputError, ResourceError, UsageError, blame
from geosr.footprint import METRES_PER_DEGREE, Extent, corners_from_centres, unit_vectors
from geosr.grid import AUTHALIC_RADIUS
from geosr.reading.gate import check_path, guarded, kind_of, vet
from geosr.reading.limits import is_untrusted, limits
from geosr.reading.mesh import lies_on_grid
from geosr.reading.store import netcdf4_file
from geosr.reading.values import Decoding, inspect
from geosr.swath import Swath

#: Variables taken when none is named, in this order: S5P; OMI and GEMS; TEMPO; HARP.
DEFAULT_VARIABLES = (
    "nitrogendioxide_tropospheric_column",
    "ColumnAmountNO2Trop",
    "vertical_column_troposphere",
    "tropospheric_NO2_column_number_density",
)
_LAT, _LON = r"lat|latitude", r"lon|longitude"
_BOUNDS = r"({0})_?(bnds|bounds|corners?|vertices)|(pixel|tiled|fov\d*)?corner_?({0})s?"
_NOT_DATA = re.compile(
    r"(?i)precision|uncertainty|error|std(dev)?$|qa_value|flag|angle|latitude|longitude|geolocation|altitude|"
    r"classification|number_of|kernel|_idx$|chi_?square|degrees_of_freedom|radius|^(delta_)?time"
)
_SCANLINES = 64  # that tell the size of a pixel
_HUGE = 1e30  # fill values beyond this need no declaration: 9.97e36, 1e36, -1.27e30
_PRODUCT = re.compile(r"S5P_(?P<mode>[A-Z]{4})_L2__(?P<gas>[A-Z0-9_]{6})_(?P<start>\d{8}T\d{6})_(?P<end>\d{8}T\d{6})_")


def _last(name: str) -> str:
    """The bare name: subset tools write groups into it, "__PRODUCT__latitude"."""
    return re.split(r"/|__", name)[-1]


def _walk(group: Any) -> Iterator[tuple[str, Any]]:
    """(full path, variable) of a netCDF4 group and all below it."""
    prefix = group.path.rstrip("/")
    for name, variable in group.variables.items():
        yield f"{prefix}/{name}".lstrip("/"), variable
    for child in group.groups.values():
        yield from _walk(child)


def _attr(holder: Any, name: str, default: Any = None) -> Any:
    try:
        return holder.getncattr(name) if name in holder.ncattrs() else default
    except (UnicodeDecodeError, AttributeError, RuntimeError):
        return default


def _pixel_dims(variable: Any) -> tuple[str, ...]:
    """Dimensions without those of length one that come first (S5P's time)."""
    dims = list(variable.dimensions)
    while len(dims) > 1 and len(dims) > 2 and variable.shape[len(variable.shape) - len(dims)] == 1:
        dims.pop(0)
    return tuple(dims)


def _find(items: Sequence[tuple[str, Any]], pattern: str) -> list[tuple[str, Any]]:
    match = re.compile(f"(?i)^({pattern})$")
    return [(path, v) for path, v in items if match.match(_last(path)) and v.dtype is not str and v.dtype.kind in "fiu"]


def _centres(items: Sequence[tuple[str, Any]]) -> tuple[Any, Any] | None:
    """Latitude and longitude variables over the same two pixel dimensions (or one, with corners)."""
    for path, lat in _find(items, _LAT):
        group = path.rpartition("/")[0]
        for other, lon in _find(items, _LON):
            if other.rpartition("/")[0] != group or lon.dimensions != lat.dimensions:
                continue
            dims = _pixel_dims(lat)
            if len(dims) == 2 or (len(dims) == 1 and lat.name not in lat.dimensions and _bounds(items, lat, lon)):
                return lat, lon
    return None


def _bounds(items: Sequence[tuple[str, Any]], lat: Any, lon: Any) -> tuple[Any, Any] | None:
    """Variables of the four corners of each pixel, by CF ``bounds`` or by name, wherever subset tools put them."""
    found = []
    for centre, names in ((lat, _LAT), (lon, _LON)):
        declared = _last(str(_attr(centre, "bounds", "")))
        fits = [
            (path, v)
            for path, v in items
            if v.size == 4 * centre.size and 4 in v.shape and (_last(path) == declared or v in _named(path, v, names))
        ]
        if not fits:
            return None
        found.append(fits[0][1])
    return found[0], found[1]


def _named(path: str, variable: Any, names: str) -> list[Any]:
    return [v for _, v in _find([(path, variable)], _BOUNDS.format(names))]


@contextlib.contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[Any]:
    kind = kind_of(check_path(path))
    if kind == "tiff":
        raise InputError("a GeoTIFF is no swath", "geosr downscale takes it as it is", path)
    vet(path, kind)
    with contextlib.ExitStack() as stack:
        yield guarded(lambda: stack.enter_context(netcdf4_file(Path(path))), path)


def is_swath(path: str | os.PathLike[str]) -> bool:
    """Does the file hold a swath: S5P's groups or name, or latitudes over two pixel dimensions?

    Reads names and shapes only. False for a file that is not NetCDF; grids with one-dimensional coordinates are no
    swaths, nor are those with two-dimensional ones of a grid (:mod:`geosr.reading.mesh`). A file that is S5P L2 by its
    name or ``id`` counts as one even if it is empty: :func:`read_swath` says what is wrong with it.
    """
    try:
        if kind_of(check_path(path)) == "tiff":
            return False
        if is_untrusted():
            from geosr.reading import untrusted

            return untrusted.is_swath(path)
        with _open(path) as data:
            items = list(_walk(data))
            if _PRODUCT.search(f"{path} {_attr(data, 'id', '')}"):
                return True
            centres = _centres(items)
            return centres is not None and not lies_on_grid({_last(p): v for p, v in items}, *centres)
    except ResourceError:  # of an untrusted file: asking again would take as long again
        raise
    except GeosrError:
        return False


def read_swath(
    path: str | os.PathLike[str],
    *,
    variable: str | None = None,
    qa: float | None = 0.75,
    bbox: tuple[float, float, float, float] | None = None,
) -> Swath:
    """Pixels of one swath file, quality-filtered.

    Parameters
    ----------
    variable : full path ("PRODUCT/SUPPORT_DATA/DETAILED_RESULTS/…") or bare name of a two-dimensional pixel
        variable. Default: tropospheric NO2.
    qa : keep pixels with qa_value >= qa, 0 to 1; None keeps all. ``qa_value`` may be packed (uint8 with
        scale_factor 0.01), 0 to 1 or 0 to 100.
    bbox : west < east, in degrees; nothing is cut, but ``located.inside`` counts the pixels, good or not, that reach
        the box.

    Returns
    -------
    Swath in the file's units. The precision is ``<variable>_precision`` or what ``ancillary_variables`` marks as
    the standard error. Where the file has no corners they are derived from the centres; on S5P these
    lie 2 % of a pixel from the product's own (median; 150 m of 7 km), up to 20 % at the swath's edge.

    Raises
    ------
    InputError
        Not NetCDF, no variables, no such variable (the message lists those there are), another product, no
        ``qa_value``, no location.
    RefusedError
        It reads other files, needs plugins, or is beyond the limits (:mod:`geosr.reading.limits`).
    UsageError
        qa is not within 0 to 1.
    """
    if qa is not None and not 0.0 <= qa <= 1.0:
        raise UsageError(f"--qa {qa:g} is not a threshold", "give a number from 0 to 1, or none to keep all pixels")
    if is_untrusted():
        from geosr.reading import untrusted

        return untrusted.read_swath(check_path(path), variable=variable, qa=qa, bbox=bbox)
    with blame(path), _open(path) as data:
        items = list(_walk(data))
        product = _product(data, path)
        centres = _checked_centres(data, items, product)
        limits().check("pixels", centres[0].size, f"a swath of {centres[0].size} pixels")
        found, field = _field(items, centres, variable, product)
        values = _values(field)
        for fill in inspect(values, Decoding(), _last(found)).found:
            values[values == np.float32(fill)] = np.nan
        lat, lon = (_values(v) for v in centres)
        located = np.isfinite(lat) & np.isfinite(lon) & (np.abs(lat) <= 90.001) & (np.abs(lon) <= 540.0)
        lat, lon = np.where(located, lat, np.nan), np.where(located, lon, np.nan)
        clon, clat, origin = _corners(data, items, centres, lon, lat)
        error = _precision(items, found, field)
        good = np.isfinite(values) & np.isfinite(clon).all(axis=-1) & np.isfinite(clat).all(axis=-1)
        if qa is not None:
            good &= _quality(items, found, field) >= 100.0 * qa - 0.01
        attrs = _attributes(data, path, product, field, qa, origin)
        sigma = None if error is None else _values(error)
    extent = Extent(asked=bbox)
    extent.add(clon.reshape(-1, 4), clat.reshape(-1, 4))
    if not extent.pixels:
        raise InputError("no pixel has a location", "latitudes, longitudes or corners are all missing", path)
    return Swath(
        value=values[good],
        precision=None if sigma is None else sigma[good],
        lon_corners=clon[good],
        lat_corners=clat[good],
        pixel_size_m=_pixel_size(clon, clat),
        attrs=attrs,
        name=_last(found),
        located=extent,
    )


def _product(data: Any, path: str | os.PathLike[str]) -> str:
    """ "S5P L2 NO2 OFFL" from the file's ``id`` or its name, else ""."""
    for text in (str(_attr(data, "id", "")), os.path.basename(os.fspath(path))):
        match = _PRODUCT.search(text)
        if match:
            return f"S5P L2 {match['gas'].strip('_')} {match['mode']}"
    return ""


def _checked_centres(data: Any, items: Sequence[tuple[str, Any]], product: str) -> tuple[Any, Any]:
    what = f" ({product})" if product else ""
    items = [(path, v) for path, v in items if not path.startswith("METADATA/")]
    if not items:
        dims = list(dict.fromkeys(d for g in [data, *data.groups.values()] for d in g.dimensions))
        tail = (
            f", only dimensions ({', '.join(dims[:4])}{', …' if len(dims) > 4 else ''})" if dims else " and no groups"
        )
        raise InputError(
            f"the file{what} is empty: no variables{tail}", "download it again; the subset may have failed"
        )
    centres = _centres(items)
    if centres is None:
        some = ", ".join(path for path, _ in items[:4])
        raise InputError(
            f"no latitude and longitude of pixels{what}; the file holds {some}{', …' if len(items) > 4 else ''}",
            "a swath needs two-dimensional latitude and longitude; subset it with them",
        )
    if 0 in centres[0].shape:
        raise InputError(f"the swath{what} is empty: {' x '.join(map(str, centres[0].shape))} pixels")
    return centres


def _pixel_variables(items: Sequence[tuple[str, Any]], centres: tuple[Any, Any]) -> dict[str, Any]:
    """Numeric variables with one number a pixel, by full path."""
    dims, shape = _pixel_dims(centres[0]), centres[0].shape
    return {
        path: v
        for path, v in items
        if v.dtype is not str
        and getattr(v.dtype, "kind", "") in "fiu"
        and _pixel_dims(v) == dims
        and v.size == centres[0].size
        and v.shape[-1] == shape[-1]
        and v not in centres
    }


def _field(
    items: Sequence[tuple[str, Any]], centres: tuple[Any, Any], variable: str | None, product: str
) -> tuple[str, Any]:
    """(full path, variable) of the field asked for, or of tropospheric NO2."""
    fields = _pixel_variables(items, centres)
    data = [p for p in fields if not _NOT_DATA.search(_last(p))]
    listed = ", ".join(data[:8]) + (", …" if len(data) > 8 else "") if data else "none"
    if variable is not None:
        asked = variable.strip("/")
        hits = [p for p in fields if p == asked] or [p for p in fields if _last(p) == _last(asked)]
        if len(hits) == 1:
            return hits[0], fields[hits[0]]
        if hits:
            raise InputError(
                f"variable {variable!r} is there {len(hits)} times",
                f"choose --variable from {', '.join(hits)}",
            )
        if any(p == asked or _last(p) == asked for p, _ in items):
            raise InputError(f"variable {variable!r} is not one number a pixel", f"choose --variable from {listed}")
        raise InputError(f"no variable {variable!r}", f"choose --variable from {listed}")
    for name in DEFAULT_VARIABLES:
        hits = [p for p in fields if _last(p) == name]
        if hits:
            return hits[0], fields[hits[0]]
    if not data:
        raise InputError(f"no field over the pixels{f' of this {product} file' if product else ''}", "check the file")
    if len(data) == 1 and not product:
        return data[0], fields[data[0]]
    what = f"this is {product}, not NO2" if product and " NO2 " not in product else "no tropospheric NO2 column"
    raise InputError(what, f"choose --variable from {listed}")


def _values(variable: Any) -> np.ndarray:
    """The variable unpacked, float, over its pixel dimensions; whatever is masked, infinite or huge is NaN."""
    for name in ("scale_factor", "add_offset"):
        number = _attr(variable, name)
        if number is not None and not _is_number(number, name):
            raise InputError(f"{variable.name!r} has {name} {number!r}", "correct the attribute (e.g. ncatted)")
    try:
        raw = variable[...]
    except (ValueError, TypeError, RuntimeError, OverflowError, OSError) as error:
        raise InputError(f"variable {variable.name!r} cannot be read ({error})", "the file may be damaged") from error
    kind = np.float64 if np.dtype(raw.dtype).itemsize > 4 else np.float32
    values = np.ma.filled(np.ma.asarray(raw).astype(kind), np.nan)
    with np.errstate(invalid="ignore"):
        values[~(np.abs(values) < _HUGE)] = np.nan
    return values.reshape(values.shape[values.ndim - len(_pixel_dims(variable)) :])


def _is_number(number: Any, name: str) -> bool:
    try:
        value = float(number) if not isinstance(number, str) else float("nan")
    except (TypeError, ValueError):
        return False
    return bool(np.isfinite(value)) and (name != "scale_factor" or value != 0.0)


def _quality(items: Sequence[tuple[str, Any]], path: str, field: Any) -> np.ndarray:
    """``qa_value`` in percent; NaN where missing."""
    group = path.rpartition("/")[0]
    hits = [(p, v) for p, v in items if _last(p).lower() == "qa_value" and v.size == field.size]
    hits.sort(key=lambda hit: hit[0].rpartition("/")[0] != group)
    if not hits:
        raise InputError(
            "no qa_value, so that bad pixels cannot be told from good ones",
            "use --qa none to take all pixels, or a file that has qa_value (--qa 0 still needs it)",
        )
    quality = _values(hits[0][1]).astype(np.float64)
    packed = _attr(hits[0][1], "scale_factor") is not None
    percent = (hits[0][1].dtype.kind in "iu" and not packed) or np.nanmax(quality, initial=0.0) > 1.01
    quality = quality if percent else 100.0 * quality
    return np.where(np.isfinite(quality), quality, -1.0)


def _precision(items: Sequence[tuple[str, Any]], path: str, field: Any) -> Any | None:
    """The variable with the field's standard error: by name, else by CF ancillary_variables."""
    group, _, name = path.rpartition("/")
    near = {_last(p): v for p, v in items if p.rpartition("/")[0] == group and v.shape == field.shape}
    for suffix in ("_precision", "_uncertainty", "_error", "_Std", "Std"):
        if _last(name) + suffix in near:
            return near[_last(name) + suffix]
    for other in str(_attr(field, "ancillary_variables", "")).split():
        v = near.get(_last(other))
        if v is not None and str(_attr(v, "standard_name", "")).endswith("standard_error"):
            return v
    return None


def _corners(
    data: Any, items: Sequence[tuple[str, Any]], centres: tuple[Any, Any], lon: np.ndarray, lat: np.ndarray
) -> tuple[np.ndarray, np.ndarray, str]:
    """Corner longitudes and latitudes (…, 4), and where they come from."""
    bounds = _bounds(items, *centres)
    if bounds is not None:
        out = []
        for v, limit in zip(bounds, (90.001, 540.0), strict=True):
            values = _values(v)
            values = np.moveaxis(values, values.shape.index(4) if values.shape[-1] != 4 else -1, -1)
            values = values.reshape(*lat.shape, 4)
            values[~(np.abs(values) <= limit)] = np.nan
            out.append(values)
        return out[1], out[0], f"pixel corners from {bounds[0].name}, {bounds[1].name}"
    width = None
    if min(lat.shape) < 2:
        width = _declared_width(data, lat.shape)
        if width is None and max(lat.shape) > 1:
            width = float(np.nanmedian(np.linalg.norm(np.diff(unit_vectors(lon, lat).reshape(-1, 3), axis=0), axis=1)))
            width = width * AUTHALIC_RADIUS if np.isfinite(width) else None
        if width is not None:
            warnings.warn(
                f"{os.path.basename(data.filepath())}: the swath is one pixel wide and has no corner coordinates; "
                f"its width is taken as {width / 1000:.1f} km",
                GeosrWarning,
                stacklevel=4,
            )
    clon, clat = corners_from_centres(lon, lat, width)
    return clon, clat, "pixel corners derived from the centres"


def _declared_width(data: Any, shape: Sequence[int]) -> float | None:
    """Pixel size in metres along the dimension of length one, from S5P's ``spatial_resolution`` ("7x3.5km2")."""
    match = re.search(r"([\d.]+)\s*x\s*([\d.]+)\s*km", str(_attr(data, "spatial_resolution", "")))
    if not match:
        return None
    along, across = (1000.0 * float(g) for g in match.groups())
    return across if shape[1] == 1 else along


def _pixel_size(clon: np.ndarray, clat: np.ndarray) -> tuple[float, float]:
    """Median length along and tenth percentile across: the across-track size grows from nadir to the edges.

    Of some dozens of scanlines, spread over the swath: they are alike, and all would take longer than the gridding.
    """
    step = max(1, len(clon) // _SCANLINES)
    points = unit_vectors(clon[::step], clat[::step])
    first, second = (
        (
            np.linalg.norm(points[..., a, :] - points[..., b, :], axis=-1)
            + np.linalg.norm(points[..., c, :] - points[..., d, :], axis=-1)
        )
        / 2
        for a, b, c, d in ((1, 2, 0, 3), (0, 1, 3, 2))
    )
    along, across = float(np.nanmedian(first)), float(np.nanpercentile(second, 10))
    size = [max(v * AUTHALIC_RADIUS, 1e-4 * METRES_PER_DEGREE) for v in (along, across)]
    return size[0], size[1]


def _attributes(
    data: Any, path: str | os.PathLike[str], product: str, field: Any, qa: float | None, origin: str
) -> dict[str, Any]:
    attrs: dict[str, Any] = {"source": os.path.basename(os.fspath(path)), "geolocation": origin}
    for name in ("units", "long_name", "standard_name"):
        value = _attr(field, name)
        if isinstance(value, str) and value.strip():
            attrs[name] = value.strip()
    attrs["quality_filter"] = "none" if qa is None else f"qa_value >= {qa:g}"
    if product:
        attrs["product"] = product
    orbit = _attr(data, "orbit")
    if orbit is not None:
        attrs["orbit"] = str(np.asarray(orbit).ravel()[0])
    for name in ("processor_version", "time_coverage_start", "time_coverage_end"):
        value = _attr(data, name)
        if isinstance(value, str) and value.strip():
            attrs[name] = value.strip()
    match = _PRODUCT.search(f"{_attr(data, 'id', '')} {attrs['source']}")
    if match:  # subset tools may drop the attributes; the name holds the orbit's start and end
        for name, text in (("time_coverage_start", match["start"]), ("time_coverage_end", match["end"])):
            iso = f"{text[:4]}-{text[4:6]}-{text[6:8]}T{text[9:11]}:{text[11:13]}:{text[13:15]}Z"
            attrs.setdefault(name, iso)
    return attrs
