"""Writing: a lazy Dataset on a grid becomes a file, tile by tile, whole or not at all.

The suffix chooses the format: ``.tif`` a Cloud-Optimised GeoTIFF with its QGIS style (:mod:`~geosr.writing.cog`,
:mod:`~geosr.writing.style`), ``.nc`` CF NetCDF (:mod:`~geosr.writing.netcdf`), ``.zarr`` the same content as a Zarr
store (:mod:`~geosr.writing.zarr`). What they share: the data pass (:mod:`~geosr.writing.stream`, by threads or on a
cluster, :mod:`~geosr.writing.cluster`), the CF content (:mod:`~geosr.writing.cf`), appearing whole or not at all
(:mod:`~geosr.writing.atomic`), going on after a kill (:mod:`~geosr.writing.journal`), and the checksums beside the
output (:mod:`~geosr.writing.manifest`).
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geosr._version import __version__
from geosr.errors import OutputError, UsageError, blame
from geosr.provenance import Provenance
from geosr.writing.atomic import (
    MANIFEST,
    SUFFIXES,
    Staging,
    check_target,
    format_of,
    remove_leftovers,
    sidecars,
)
from geosr.writing.ledger import Ledger, Statistics
from geosr.writing.manifest import is_complete, size_of, text_of
from geosr.writing.stream import Finish, Plan, plan

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["SUFFIXES", "Statistics", "WriteReport", "check_target", "format_of", "write"]


@dataclass(frozen=True)
class WriteReport:
    """What was written.

    Attributes
    ----------
    path : the output.
    files : everything written: the output, a GeoTIFF's ``.qml``, the manifest.
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
    provenance: Provenance | Finish,
    checks: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    key: Mapping[str, Any] | None = None,
    resume: bool = False,
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
    provenance : or a function that gives it, called once after the last tile has been computed, with the largest
        values of each of ``checks`` (the conservation error is known only then).
    checks : lazy arrays with one small block for each chunk of the main variable, computed in the same pass.
    overwrite : replace an existing output, and what an unfinished run has left of it.
    key : JSON-serialisable: inputs, model, options; the same for calls that give the same tiles to the bit. With it, a
        run that is killed can be gone on with.
    resume : go on with the tiles that an unfinished run with the same ``key`` has left, if there are any.
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
    OutputLockedError
        Another run is writing the same output.
    InputError, ModelError, UsageError
        With ``resume``: the unfinished run had another input, model, or other options.
    ResourceError
        A cluster without workers, without scheduler, or without this geosr (:mod:`~geosr.writing.cluster`).

    Errors of the computation (an unreadable input, a model) pass through unchanged.
    """
    started = time.perf_counter()
    with blame(path):
        target = check_target(path, overwrite, resume)
        job = plan(ds, main, checks)
        kind = format_of(target)
        options = _options(kind, creation_options)
    finish: Finish = provenance if callable(provenance) else lambda _: provenance
    full = None if key is None else full_key(key, job, kind, options)
    beside = sidecars(target)
    goals = [target, *([beside.pop(".qml")] if ".qml" in beside else [])]
    manifest = beside.pop(MANIFEST)
    try:
        with Staging(target, overwrite, full, resume) as staging:
            made, ledger, final = _MAKE[kind](
                job,
                staging,
                attrs=dict(ds.attrs),
                provenance=finish,
                options=options,
                progress=progress,
                scheduler=scheduler,
            )
            statistics = ledger.statistics()
            with staging.explained():
                files = dict(zip(made, goals, strict=True))
                text = staging.path("made.json")
                text.write_text(text_of(files, final, statistics, full), encoding="utf-8")
            # The style before the raster that it belongs to: who opens that finds both.
            staging.commit({**dict(reversed(files.items())), text: manifest}, stale=beside.values())
    except OutputError as error:
        error.path = error.path or os.fspath(path)
        raise
    written = (*goals, manifest)
    return WriteReport(
        path=target,
        files=written,
        format=kind,
        shape=job.main.shape,
        bytes=sum(map(size_of, written)),
        seconds=time.perf_counter() - started,
        statistics=statistics,
        provenance=final,
    )


def complete(
    ds: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    main: str,
    key: Mapping[str, Any],
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """The manifest of ``path``, if that is whole and what :func:`write` would make with these arguments."""
    kind = format_of(path)
    found = is_complete(path, full_key(key, plan(ds, main), kind, _options(kind, options)))
    if found is not None:
        remove_leftovers(Path(os.path.abspath(path)))
    return found


def full_key(key: Mapping[str, Any], job: Plan, kind: str, options: Mapping[str, str]) -> dict[str, Any]:
    """``key`` with what the writing adds to it."""
    tiles = hashlib.sha256(repr(job.edges).encode()).hexdigest()[:16]
    grid = f"{job.box.shape[0]} x {job.box.shape[1]}, {tuple(job.box.affine[:6])}, {job.box.crs}, tiles {tiles}"
    output = [kind, dict(sorted(options.items())), [str(f.name) for f in job.fields]]
    return {**key, "geosr": __version__, "grid": grid, "output": output}


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


_Made = tuple[list[Path], Ledger, Provenance]


def _geotiff(job: Plan, staging: Staging, **how: Any) -> _Made:
    import rasterio

    from geosr.writing.cog import CACHE_BYTES, write_cog
    from geosr.writing.style import qml, robust_range

    made, ledger, final = write_cog(job, staging, **how)
    with staging.explained(), rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
        layers = job.main.shape[0] if job.main.ndim == 3 else 1
        low, high = robust_range(made, range(1, layers + 1))
        style = staging.path("made.qml")
        style.write_text(qml(low, high, str(job.main.attrs.get("units", ""))), encoding="utf-8")
    return [made, style], ledger, final


def _netcdf(job: Plan, staging: Staging, **how: Any) -> _Made:
    from geosr.writing.netcdf import write_netcdf

    made, ledger, final = write_netcdf(job, staging, **how)
    return [made], ledger, final


def _zarr(job: Plan, staging: Staging, *, options: Mapping[str, str], **how: Any) -> _Made:
    from geosr.writing.zarr import write_zarr

    made, ledger, final = write_zarr(job, staging, **how)
    return [made], ledger, final


# What is made in the staging folder: the output, then what belongs to it.
_MAKE: dict[str, Callable[..., _Made]] = {"GeoTIFF": _geotiff, "NetCDF": _netcdf, "Zarr": _zarr}
