"""Cloud-Optimised GeoTIFF.

The windows go into an uncompressed tiled GeoTIFF in any order; GDAL's COG driver then makes the output of it,
with overviews (by average, over valid cells), in one pass. Measured with GDAL 3.10 and 3.12: the COG driver keeps
descriptions, units, statistics and tags of its source, so they are set there.

Compression is DEFLATE with the floating-point predictor: every reader has it. ZSTD was 4 % smaller in the same time
on a smooth 4096 x 4096 field (61.5 against 64.2 MB, 1.1 s), which does not pay for files that some GIS builds and
browsers cannot read; ``--co COMPRESS=ZSTD`` has it. Level 1, because what is left after the predictor is noise:
level 6 saves 2 % and takes half as long again, level 9 saves 3 % and takes six times as long.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from geosr.errors import OutputError, UsageError
from geosr.provenance import Provenance
from geosr.writing.atomic import Staging, closing, disk_full, is_full
from geosr.writing.cf import COMMENT, parse_time
from geosr.writing.stream import Ledger, Plan, Statistics, stream

BLOCK = 512

# GDAL caches blocks up to 5 % of the machine's memory by default; that is not "bounded by tiles".
_CACHE_BYTES = 128 << 20

_BAND_ATTRS = ("long_name", "standard_name", "cell_methods", "comment")

# A block with all its bands, at most, where the number of bands allows.
_BLOCK_BYTES = 16 << 20

_DEFAULTS = {
    "COMPRESS": "DEFLATE",
    "LEVEL": "1",
    "BLOCKSIZE": str(BLOCK),
    "BIGTIFF": "IF_SAFER",
    "OVERVIEW_RESAMPLING": "AVERAGE",
    "NUM_THREADS": "ALL_CPUS",
}

#: Creation options of the COG driver that leave cells and values what they are.
OPTIONS = (
    "BIGTIFF",
    "BLOCKSIZE",
    "COMPRESS",
    "GEOTIFF_VERSION",
    "INTERLEAVE",
    "LEVEL",
    "NUM_THREADS",
    "OVERVIEWS",
    "OVERVIEW_COMPRESS",
    "OVERVIEW_COUNT",
    "OVERVIEW_PREDICTOR",
    "OVERVIEW_RESAMPLING",
    "PREDICTOR",
    "SPARSE_OK",
)
_LOSSLESS = ("NONE", "DEFLATE", "ZSTD", "LZW", "LZMA", "LERC", "LERC_DEFLATE", "LERC_ZSTD")
_WITH_PREDICTOR = ("DEFLATE", "ZSTD", "LZW")


def cog_options(given: Mapping[str, Any] | None) -> dict[str, str]:
    """Options for the COG driver: geosr's, with ``given`` (``--co KEY=VALUE``) over them.

    Raises
    ------
    UsageError
        An option that the driver does not have, or one that would move cells or change values.
    """
    chosen = {str(k).upper(): str(v) for k, v in (given or {}).items()}
    if unknown := sorted(set(chosen) - set(OPTIONS)):
        raise UsageError(
            f"creation option {unknown[0]} is not one for a GeoTIFF by geosr",
            f"use {', '.join(OPTIONS)} (reproject or quantise afterwards with gdal_translate)",
        )
    options = {**_DEFAULTS, **chosen}
    compress = options["COMPRESS"] = options["COMPRESS"].upper()
    if compress not in _LOSSLESS:
        raise UsageError(f"COMPRESS={compress} is not lossless for float32", f"use one of {', '.join(_LOSSLESS)}")
    block = options["BLOCKSIZE"]
    if not block.isdigit() or int(block) < 128 or int(block) % 16:
        raise UsageError(f"BLOCKSIZE={block} is not possible", "use a multiple of 16 from 128 on")
    if "LEVEL" not in chosen and compress != _DEFAULTS["COMPRESS"]:
        options.pop("LEVEL")  # ours is for DEFLATE
    if compress in _WITH_PREDICTOR:
        options.setdefault("PREDICTOR", "FLOATING_POINT")
    return options


def write_cog(
    job: Plan,
    staging: Staging,
    *,
    attrs: Mapping[str, Any],
    provenance: Callable[[Mapping[str, float]], Provenance],
    options: Mapping[str, str],
    progress: Callable[[int], None] | None,
    scheduler: Any,
) -> tuple[Path, Ledger, Provenance]:
    """Make the COG in ``staging``, verified.

    Parameters
    ----------
    attrs : the dataset's global attributes (source, product, time coverage).
    provenance : called once with the scalars, after the last window was written.
    options : from :func:`cog_options`.

    Returns
    -------
    The finished file (still in the staging folder), what was written, and its provenance.
    """
    import rasterio
    import rasterio.shutil

    raw, made = staging.path("raw.tif"), staging.path("made.tif")
    ny, nx = job.box.shape
    bands = {layer: number for number, layer in enumerate(job.layers(), start=1)}
    block = _raw_block(ny, nx)
    _check_room(staging, 4 * len(bands) * math.prod(-(-n // block) * block for n in (ny, nx)))
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_CACHEMAX=_CACHE_BYTES):
        with staging.explained():
            target = rasterio.open(raw, "w", **_raw_profile(job, len(bands)))

        def put(number: int, lead: int, rows: slice, cols: slice, window: np.ndarray) -> None:
            target.write(window, bands[number, lead], window=_window(rows, cols))

        def close() -> None:
            with staging.explained():
                target.close()

        with closing(close):
            ledger = stream(
                job,
                put,
                dtypes=(np.dtype(np.float32),) * len(job.fields),
                explained=staging.explained,
                progress=progress,
                scheduler=scheduler,
            )
            final = provenance(ledger.scalars)
            with staging.explained():
                _describe(target, job, bands, ledger)
                target.update_tags(**_tags(job, attrs, final))
        with staging.explained():
            rasterio.shutil.copy(raw, made, driver="COG", **_for_bands(options, len(bands)))
            raw.unlink()
        _verify(made, job, bands, ledger, staging)
    return made, ledger, final


def _for_bands(options: Mapping[str, str], count: int) -> dict[str, str]:
    """``options`` such that many bands neither slow the reading of one nor make huge blocks.

    The COG driver interleaves by pixel before GDAL 3.11, so that a block holds all bands; a viewer that wants one
    has to decompress them all. From 3.11 on bands can lie apart.
    """
    import rasterio

    if count == 1:
        return dict(options)
    version = tuple(int(part) for part in rasterio.__gdal_version__.split(".")[:2])
    if version >= (3, 11):
        return {"INTERLEAVE": "BAND", **options}
    block = BLOCK
    while block > 128 and 4 * block * block * count > _BLOCK_BYTES:
        block //= 2
    return dict(options) | ({"BLOCKSIZE": str(block)} if options["BLOCKSIZE"] == str(BLOCK) else {})


def _raw_profile(job: Plan, count: int) -> dict[str, Any]:
    from rasterio.crs import CRS

    ny, nx = job.box.shape
    return {
        "driver": "GTiff",
        "dtype": "float32",
        "count": count,
        "height": ny,
        "width": nx,
        "crs": CRS.from_user_input(job.box.crs.to_wkt()) if job.box.crs is not None else None,
        "transform": job.box.affine,
        "nodata": float("nan"),
        "tiled": True,
        "blockxsize": _raw_block(ny, nx),
        "blockysize": _raw_block(ny, nx),
        "interleave": "band",
        "bigtiff": "IF_NEEDED",  # exact, since nothing is compressed
    }


def _raw_block(ny: int, nx: int) -> int:
    """Block of the uncompressed file: whole blocks are written, so a small raster gets small ones."""
    return min(BLOCK, -(-max(ny, nx) // 16) * 16)


def _check_room(staging: Staging, needed: int) -> None:
    """The uncompressed file must fit; what the compressed one takes on top is not known before."""
    folder = staging.target.parent
    if needed > shutil.disk_usage(folder).free:
        raise disk_full(staging.target, folder, needed)


def _window(rows: slice, cols: slice) -> Any:
    from rasterio.windows import Window

    return Window(cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start)


def _describe(target: Any, job: Plan, bands: Mapping[tuple[int, int], int], ledger: Ledger) -> None:
    """Description, unit, names and statistics of each band."""
    units = []
    for (number, lead), band in bands.items():
        data = job.fields[number]
        units.append(str(data.attrs.get("units", "")))
        target.set_band_description(band, _band_name(data, lead))
        named = {k: str(data.attrs[k])[:COMMENT] for k in _BAND_ATTRS if k in data.attrs}
        target.update_tags(band, **named, **statistics_tags(ledger.statistics(number, lead)))
    target.units = units


def _band_name(data: xr.DataArray, lead: int) -> str:
    """Name of the variable, and of the time or band where there are several, or of the one band that was chosen."""
    name = str(data.name)
    if data.ndim == 2 and "band" in data.coords and data.coords["band"].dtype.kind in "UO":
        return f"{name} {data.coords['band'].item()}"
    if data.ndim == 2 or data.shape[0] == 1 or data.dims[0] not in data.coords:
        return name if data.ndim == 2 or data.shape[0] == 1 else f"{name} {lead + 1}"
    label = data.coords[data.dims[0]].values[lead]
    if isinstance(label, np.datetime64):
        label = np.datetime_as_string(label, unit="s")
    return f"{name} {label}"


def statistics_tags(found: Statistics) -> dict[str, str]:
    """``found`` as GDAL writes it (17 digits bring a double back); a band without values has no moments."""
    tags = {"STATISTICS_VALID_PERCENT": f"{found.valid_percent:.4g}"}
    moments = {"MINIMUM": found.minimum, "MAXIMUM": found.maximum, "MEAN": found.mean, "STDDEV": found.std}
    return tags | {f"STATISTICS_{k}": f"{v:.17g}" for k, v in moments.items() if v is not None}


def _tags(job: Plan, attrs: Mapping[str, Any], provenance: Provenance) -> dict[str, str]:
    tags = {
        "AREA_OR_POINT": "Area",
        "TIFFTAG_SOFTWARE": f"geosr {provenance.geosr_version}",
        **provenance.tags(),
    }
    for name in ("product", "time_coverage_start", "time_coverage_end"):
        if text := str(attrs.get(name, "")):
            tags[name.upper()] = text[:200]
    if moment := acquisition_time(job, attrs):
        tags["TIFFTAG_DATETIME"] = moment.strftime("%Y:%m:%d %H:%M:%S")
    return tags


def acquisition_time(job: Plan, attrs: Mapping[str, Any]) -> datetime | None:
    """Start of the data, UTC: ``time_coverage_start``, else the first (or only) time coordinate."""
    if moment := parse_time(attrs.get("time_coverage_start")):
        return moment
    for coord in job.main.coords.values():
        if coord.dtype.kind == "M" and coord.size and not np.isnat(first := coord.values.reshape(-1)[0]):
            return datetime.fromtimestamp(first.astype("datetime64[s]").astype(int).item(), UTC)
    return None


def _verify(made: Path, job: Plan, bands: Mapping[tuple[int, int], int], ledger: Ledger, staging: Staging) -> None:
    """Reopen, and compare grid and every window: GDAL reports success on a full disk."""
    import rasterio

    with staging.explained(), rasterio.open(made, driver="GTiff") as done:
        if done.transform != job.box.affine or done.shape != tuple(job.box.shape) or done.count != len(bands):
            raise OutputError(f"the grid reads back differently ({done.shape}, {tuple(done.transform)[:6]})")
        try:
            ledger.verify(lambda f, lead, rows, cols: done.read(bands[f, lead], window=_window(rows, cols)))
        except OutputError as error:
            if is_full(staging.target.parent):
                raise disk_full(staging.target, staging.target.parent) from error
            raise
