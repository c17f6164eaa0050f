"""Writing: a lazy Dataset on a grid becomes a file, tile by tile, whole or not at all.

The suffix chooses the format: ``.tif`` a Cloud-Optimised GeoTIFF with its QGIS style (:mod:`~geosr.writing.cog`,
:mod:`~geosr.writing.style`), ``.nc`` CF NetCDF (:mod:`~geosr.writing.netcdf`), ``.zarr`` the same content as a Zarr
store (:mod:`~geosr.writing.zarr`). What they share: the data pass (:mod:`~geosr.writing.stream`, by threads or on a
cluster, :mod:`~geosr.writing.cluster`), the CF content (:mod:`~geosr.writing.cf`), and appearing whole or not at all
(:mod:`~geosr.writing.atomic`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geosr.errors import OutputError, UsageError, blame
from geosr.provenance import Provenance
from geosr.writing.atomic import SUFFIXES, Staging, check_target, format_of, sidecars
from geosr.writing.ledger import Ledger, Statistics
from geosr.writing.stream import Plan, plan

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["SUFFIXES", "Statistics", "WriteReport", "check_target", "format_of", "write"]


@dataclass(frozen=True)
class WriteReport:
    """What was written.

    Attributes
    ----------
    path : the output.
    files : everything written, the output first (a GeoTIFF brings its ``.qml``).
    format : "GeoTIFF", "NetCDF" or "Zarr".
    shape : of the main variable.
    bytes : size of all files on disk.
    seconds : from the call to the last rename, computing included.
    statistics : of the main variable, over all its layers.
    provenance : as set down in the file.
    """

    path: Path
    files: tuple[Path, ...]
    format: str
    shape: tuple[int, ...]
    bytes: int
    seconds: float
    statistics: Statistics
    provenance: Provenance


def write(
    ds: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    main: str,
    provenance: Provenance | Callable[[Mapping[str, float]], Provenance],
    overwrite: bool = False,
    creation_options: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
    scheduler: Any = None,
) -> WriteReport:
    """Compute ``ds`` and write it.

    Parameters
    ----------
    ds : lazy dataset on one grid (:func:`geosr.grid.geobox_of` finds it); ``main`` with dims (y, x) or
        (time or band, y, x), NaN for nodata, and ancillary variables on the same grid. Chunks are computed one by
        one and dropped when written: memory is bounded by chunks and threads. All variables at one place are written
        by one task, so that work they share is done once. Chunks that begin at multiples of 512 cells and have 1024
        or more are written as they are; others are cut anew first.
    path : the suffix chooses the format.
    main : name of the main variable.
    provenance : or a function of the scalars that gives it, called once after the last tile has been computed.
        The scalars are the 0-d variables of ``ds``, computed in the same pass: the conservation error is known
        only then.
    overwrite : replace an existing output.
    creation_options : of GDAL's COG driver for a GeoTIFF; ``ZLEVEL`` for NetCDF.
    progress : called with the number of main-variable cells that have just landed; the calls sum up to its size.
    scheduler : as for ``dask.compute``. With a distributed client, workers compute and write, into the folder of
        ``path``, which all must see; no array comes through this process, or through the scheduler, but those that
        ``ds`` holds in memory.

    Raises
    ------
    UsageError, OutputError
        See :func:`~geosr.writing.atomic.check_target`; OutputError too when the writing fails, when what was written
        does not read back, or a worker does not see the folder. Nothing is left then, and an old output stays.
    ResourceError
        A cluster without workers, without scheduler, or without this geosr (:mod:`~geosr.writing.cluster`).

    Errors of the computation (an unreadable input, a model) pass through unchanged.
    """
    started = time.perf_counter()
    with blame(path):
        target = check_target(path, overwrite)
        job = plan(ds, main)
        finish = provenance if callable(provenance) else lambda _: provenance
        kind = format_of(target)
        options = _options(kind, creation_options)
    make = {"GeoTIFF": _geotiff, "NetCDF": _netcdf, "Zarr": _zarr}[kind]
    try:
        files, ledger, final = make(
            job,
            target,
            overwrite,
            attrs=dict(ds.attrs),
            provenance=finish,
            options=options,
            progress=progress,
            scheduler=scheduler,
        )
    except OutputError as error:
        error.path = error.path or os.fspath(path)
        raise
    return WriteReport(
        path=target,
        files=files,
        format=kind,
        shape=job.main.shape,
        bytes=sum(_size(f) for f in files),
        seconds=time.perf_counter() - started,
        statistics=ledger.statistics(),
        provenance=final,
    )


def _options(kind: str, given: Mapping[str, Any] | None) -> dict[str, str]:
    if kind == "GeoTIFF":
        from geosr.writing.cog import cog_options

        return cog_options(given)
    if kind == "NetCDF":
        from geosr.writing.netcdf import netcdf_options

        return netcdf_options(given)
    if given:
        raise UsageError(f"creation option {next(iter(given))} is not one for Zarr", "leave out --co")
    return {}


_Made = tuple[tuple[Path, ...], Ledger, Provenance]


def _geotiff(job: Plan, target: Path, overwrite: bool, **how: Any) -> _Made:
    import rasterio

    from geosr.writing.cog import CACHE_BYTES, write_cog
    from geosr.writing.style import qml, robust_range

    beside = sidecars(target)
    style = beside.pop(".qml")
    with Staging(target, overwrite) as staging:
        made, ledger, final = write_cog(job, staging, **how)
        with staging.explained(), rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
            layers = job.main.shape[0] if job.main.ndim == 3 else 1
            low, high = robust_range(made, range(1, layers + 1))
            text = staging.path("made.qml")
            text.write_text(qml(low, high, str(job.main.attrs.get("units", ""))), encoding="utf-8")
        staging.commit({text: style, made: target}, stale=beside.values())
    return (target, style), ledger, final


def _netcdf(job: Plan, target: Path, overwrite: bool, **how: Any) -> _Made:
    from geosr.writing.netcdf import write_netcdf

    with Staging(target, overwrite) as staging:
        made, ledger, final = write_netcdf(job, staging, **how)
        staging.commit({made: target})
    return (target,), ledger, final


def _zarr(job: Plan, target: Path, overwrite: bool, **how: Any) -> _Made:
    from geosr.writing.zarr import write_zarr

    how.pop("options")
    with Staging(target, overwrite) as staging:
        made, ledger, final = write_zarr(job, staging, **how)
        staging.commit({made: target})
    return (target,), ledger, final


def _size(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else path.stat().st_size
