"""Cloud-Optimised GeoTIFF, in one pass.

The tasks of the tiles compress their blocks, and their share of the overviews (:mod:`~geosr.writing.blocks`,
:mod:`~geosr.writing.codec`); at the end a header is written (:mod:`~geosr.writing.tiff`) and the compressed bytes are
copied behind it, smallest overview first. Nothing is compressed twice or decompressed but a sample, to verify.

What it cost with level 1 of ISA-L (level 3 takes about 3 more) and a copy through this process, in CPU-ns a pixel of
one band (8192 x 8192 noisy float32, tiles of 1024, 4.4 bytes a pixel on disk with overviews; one core of a busy two-
core machine, so upper bounds): statistics 2, predictor and compression 18, verification 2; in the kernel 11 to 14 for
the first writing and 5 to 6 for the copy, most of it for memory pages touched for the first time (1.5 and 2 where they
are warm). All NaN: 2 in all. An uncompressed file that GDAL's COG driver then compresses took 80 to 84 and 24 to 40 in
the kernel, in the same minutes as this took 26 to 28 and 15 to 19 (two threads, a load of 4 on two cores). Peak memory
hardly depends on the raster's size.

Bands lie apart (``INTERLEAVE=BAND``), so that a viewer that wants one need not decompress all. Overviews are means
over valid cells; their cells begin at multiples of 2, 4, 8 … cells, the last one being cut off where the raster ends.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from geosr.errors import OutputError
from geosr.provenance import Provenance
from geosr.writing import tiff
from geosr.writing.atomic import Staging, disk_full, is_full
from geosr.writing.blocks import BlockSink, Directory, copy_blocks, crcs_of, finish_overviews, in_runs, sizes_of
from geosr.writing.cf import COMMENT, parse_time
from geosr.writing.codec import Codec
from geosr.writing.cog_options import BLOCK, OPTIONS, Recipe, cog_options
from geosr.writing.ledger import Ledger, Statistics, crc32, crc_of, differs
from geosr.writing.stream import Finish, Plan, stream, threads

__all__ = ["BLOCK", "OPTIONS", "cog_options", "write_cog"]

#: GDAL caches blocks that it reads up to 5 % of the machine's memory by default; none is read twice here.
CACHE_BYTES = 4 << 20

# A CRS that reads back otherwise may move the grid by so much of a cell: names and digits may differ, places may not.
_SAME_PLACE = 1e-3

_BAND_ATTRS = ("long_name", "standard_name", "cell_methods", "comment")


def write_cog(
    job: Plan,
    staging: Staging,
    *,
    attrs: Mapping[str, Any],
    provenance: Finish,
    options: Mapping[str, str],
    progress: Callable[[int], None] | None,
    scheduler: Any,
) -> tuple[Path, Ledger, Provenance]:
    """Make the COG in ``staging``, verified.

    Parameters
    ----------
    attrs : the dataset's global attributes (source, product, time coverage).
    provenance : called once with the checks' largest values, after the last tile was stored.
    options : from :func:`cog_options`.

    Returns
    -------
    The finished file (still in the staging folder), what was written, and its provenance.
    """
    recipe = Recipe.of((job.box.shape[0], job.box.shape[1]), options)
    _check_crs(job, recipe)
    job = job.aligned(recipe.pyramid.block)
    bands = {layer: number for number, layer in enumerate(job.layers())}
    _check_room(staging, 4 * len(bands) * job.box.shape[0] * job.box.shape[1])
    folder, edges = staging.path(""), job.edges[1:]
    shared = recipe.pyramid.shared_level(edges)
    directory = Directory(folder, recipe.pyramid, bands, edges, shared)
    ledger = stream(
        job,
        BlockSink(folder, recipe.pyramid, recipe.codec, recipe.overview_codec, recipe.resampling, shared),
        dtypes=(np.dtype(np.float32),) * len(job.fields),
        take=directory.take,
        intact=directory.intact,
        folder=folder,
        journal=staging.journal,
        explained=staging.explained,
        progress=progress,
        scheduler=scheduler,
    )
    final = provenance(ledger.largest)
    made = staging.path("made.tif")
    with staging.explained():
        finish_overviews(directory, recipe.overview_codec, recipe.resampling, threads())
        directory.check_complete()
        found = _assemble(made, job, recipe, directory, _tags(job, attrs, final), _described(job, bands, ledger))
    _verify(made, job, recipe, directory, found, staging)
    return made, ledger, final


def _assemble(
    made: Path,
    job: Plan,
    recipe: Recipe,
    directory: Directory,
    tags: Mapping[str, str],
    described: list[dict[str, Any]],
) -> tiff.Layout:
    """Write header and blocks."""
    codes = _known_to_gdal(job, recipe, tags)
    named = {k: v for k, v in tags.items() if not k.startswith(("TIFFTAG_", "AREA_OR_POINT"))}
    meaning = {tag: codes[tag] for tag in tiff.MEANING if tag in codes}
    meaning[tiff.GDAL_METADATA] = tiff.metadata(named, described)
    levels = []
    for level in recipe.pyramid.levels:
        sizes = sizes_of(directory, level, recipe.codec_of(level), recipe.sparse)
        fields = _image(recipe, level, len(described), _known_to_gdal(job, recipe, {}, level) if level else codes)
        about = {tiff.NEW_SUBFILE_TYPE: tiff.longs(1), tiff.GDAL_NODATA: codes[tiff.GDAL_NODATA]} if level else meaning
        levels.append(tiff.Level({**fields, **about}, sizes))
    try:
        found = tiff.layout(levels, len(described), recipe.bigtiff)
    except ValueError as error:
        raise OutputError(str(error), "leave BIGTIFF out") from error
    with open(made, "wb") as file:
        file.write(found.header)
    for level in reversed(recipe.pyramid.levels):
        sizes, codec = levels[level].sizes, recipe.codec_of(level)
        copy_blocks(directory, made, level, found.offsets[level], sizes, codec)
    return found


def _image(recipe: Recipe, level: int, count: int, codes: Mapping[int, tiff.Field]) -> dict[int, tiff.Field]:
    """The fields that say how one image is stored."""
    rows, cols = recipe.pyramid.size(level)
    fields = {tag: codes[tag] for tag in tiff.CODING if tag in codes}
    fields |= {
        tiff.WIDTH: tiff.longs(cols),
        tiff.LENGTH: tiff.longs(rows),
        tiff.BITS: tiff.shorts(*[32] * count),
        tiff.PHOTOMETRIC: tiff.shorts(1),  # black is zero
        tiff.SAMPLES: tiff.shorts(count),
        tiff.PLANAR: tiff.shorts(2 if count > 1 else 1),
        tiff.TILE_WIDTH: tiff.shorts(recipe.pyramid.block),
        tiff.TILE_LENGTH: tiff.shorts(recipe.pyramid.block),
        tiff.SAMPLE_FORMAT: tiff.shorts(*[3] * count),  # IEEE floating point
    }
    return fields | ({tiff.EXTRA_SAMPLES: tiff.shorts(*[0] * (count - 1))} if count > 1 else {})


def _known_to_gdal(job: Plan, recipe: Recipe, tags: Mapping[str, str], level: int = 0) -> dict[int, tiff.Field]:
    """The fields of a tiny file that GDAL writes with the same CRS, grid, compression and tags."""
    from rasterio.crs import CRS
    from rasterio.io import MemoryFile

    tiny = Codec(16, recipe.codec_of(level).options)
    profile = {
        **tiny.profile(),
        "count": 1,
        "height": 16,
        "width": 16,
        "crs": CRS.from_user_input(job.box.crs.to_wkt()) if job.box.crs is not None else None,
        "transform": job.box.affine,
        "nodata": float("nan"),
        "GEOTIFF_VERSION": recipe.geotiff,
    }
    with MemoryFile() as memory:
        with memory.open(**profile) as target:
            target.update_tags(**{k: v for k, v in tags.items() if k.startswith(("TIFFTAG_", "AREA_OR_POINT"))})
        return tiff.fields_of(bytes(memory.getbuffer()))


def _check_crs(job: Plan, recipe: Recipe) -> None:
    """Raise an :class:`OutputError` for a CRS that GeoTIFF cannot hold (a rotated pole, say): GDAL leaves it out, or
    writes another, without a word.
    """
    import rasterio.warp
    from rasterio.crs import CRS
    from rasterio.io import MemoryFile

    if job.box.crs is None:
        return
    wanted = CRS.from_user_input(job.box.crs.to_wkt())
    # GDAL would keep in a sidecar what the file cannot hold.
    with rasterio.Env(GDAL_PAM_ENABLED="NO"), MemoryFile() as memory:
        with memory.open(driver="GTiff", dtype="float32", count=1, width=16, height=16, crs=wanted,
                         transform=job.box.affine, GEOTIFF_VERSION=recipe.geotiff):  # fmt: skip
            pass
        with memory.open() as done:
            found = done.crs
    if found == wanted:
        return
    error = math.inf
    if found is not None:
        ny, nx = job.box.shape
        corners = [job.box.affine * at for at in ((0, 0), (nx, 0), (0, ny), (nx, ny), (nx / 2, ny / 2))]
        moved = rasterio.warp.transform(wanted, found, *zip(*corners, strict=True))
        cell = min(abs(job.box.resolution.x), abs(job.box.resolution.y))
        error = max(math.hypot(x - u, y - v) for (x, y), u, v in zip(corners, *moved, strict=True)) / cell
    if not error < _SAME_PLACE:
        name = job.box.crs.proj.name
        known = "" if name in ("", "unknown", "undefined", "unnamed") else f" ({name})"
        hint = "write NetCDF (-o OUT.nc), or warp the input to another CRS first"
        raise OutputError(f"GeoTIFF cannot hold the CRS of this grid{known}", hint)


def _check_room(staging: Staging, needed: int) -> None:
    """The uncompressed file must fit; what the compressed one takes on top is not known before."""
    folder = staging.target.parent
    if needed > shutil.disk_usage(folder).free:
        raise disk_full(staging.target, folder, needed)


def _described(job: Plan, bands: Mapping[tuple[int, int], int], ledger: Ledger) -> list[dict[str, Any]]:
    """Description, unit, names and statistics of each band."""
    found = []
    for number, lead in bands:
        data = job.fields[number]
        named = {k: str(data.attrs[k])[:COMMENT] for k in _BAND_ATTRS if k in data.attrs}
        found.append(
            {
                "description": _band_name(data, lead),
                "unit": str(data.attrs.get("units", "")),
                "tags": {**named, **statistics_tags(ledger.statistics(number, lead))},
            }
        )
    return found


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


def _verify(made: Path, job: Plan, recipe: Recipe, directory: Directory, found: tiff.Layout, staging: Staging) -> None:
    """Read header and all blocks back and compare their bytes; let GDAL open it, and decode a sample of the blocks (all
    of a small file): GDAL and disks report success on a full disk.
    """
    with staging.explained():
        try:
            _verify_bytes(made, recipe, directory, found)
            _verify_values(made, job, recipe, directory)
        except OutputError as error:
            if is_full(staging.target.parent):
                raise disk_full(staging.target, staging.target.parent) from error
            raise


def _verify_bytes(made: Path, recipe: Recipe, directory: Directory, found: tiff.Layout) -> None:
    with open(made, "rb") as file:
        if file.read(len(found.header)) != found.header or os.fstat(file.fileno()).st_size != found.size:
            raise OutputError("the header of what was written reads back differently", "check the disk")
    for level in reversed(recipe.pyramid.levels):
        _verify_level(made, recipe, directory, level, found.offsets[level])


def _verify_level(made: Path, recipe: Recipe, directory: Directory, level: int, offsets: np.ndarray) -> None:
    crcs = crcs_of(directory, level, recipe.codec_of(level))
    places = directory.levels[level].shape

    def compare(run: slice) -> None:
        with open(made, "rb") as file:
            for number, offset, crc in zip(range(*run.indices(len(crcs))), offsets[run], crcs[run], strict=True):
                if not offset:
                    continue
                file.seek(int(offset) - 4)
                size = int.from_bytes(file.read(4), "little")
                if crc32(file.read(size)) != crc:
                    band, y, x = (int(i) for i in np.unravel_index(number, places))
                    raise differs(band, *(i * recipe.pyramid.block << level for i in (y, x)))

    in_runs(compare, len(crcs), threads())


def _verify_values(made: Path, job: Plan, recipe: Recipe, directory: Directory) -> None:
    import rasterio
    from rasterio.windows import Window

    side = recipe.pyramid.block
    env = rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_CACHEMAX=CACHE_BYTES)
    with env, rasterio.open(made, driver="GTiff") as done:
        if (
            done.transform != job.box.affine
            or done.shape != tuple(job.box.shape)
            or done.count != len(directory.bands)
            or len(done.overviews(1)) != recipe.pyramid.overviews
        ):
            raise OutputError(f"the grid reads back differently ({done.shape}, {tuple(done.transform)[:6]})")
        for (number, lead, y, x), crc in sorted(directory.checks.items()):
            top, left = y * side, x * side
            window = Window(left, top, min(side, done.width - left), min(side, done.height - top))
            if crc_of(done.read(directory.bands[number, lead] + 1, window=window)) != crc:
                raise differs(lead, top, left)
