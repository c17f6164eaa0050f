"""Degradation from file to file: what the command ``geosr degrade`` calls, and scripts may."""

from __future__ import annotations

import time
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from geosr import grid
from geosr.degrade import TROPOMI, Degradation, degrade
from geosr.errors import blame
from geosr.jobs import Report


def degrade_file(
    source: str | PathLike[str],
    output: str | PathLike[str] | None = None,
    *,
    scale: int = 4,
    min_valid: float = 0.5,
    kind: str = "area",
    mtf: tuple[float, float] = TROPOMI,
    noise: float | str = 0.0,
    seed: int = 0,
    overwrite: bool = False,
    creation_options: Mapping[str, str] | None = None,
    **options: Any,
) -> Report:
    """Write what a coarser sensor would have seen of the field in ``source``.

    Parameters
    ----------
    output : ``.tif``, ``.nc`` or ``.zarr``; default ``<stem>_coarse<scale>.tif`` beside the source.
    scale, min_valid, kind, mtf, seed : as for :func:`geosr.degrade.degrade`.
    noise : standard deviation in the units of the field, or "precision" for what comes with the field.
    overwrite, creation_options : see :func:`geosr.writing.write`.
    options : of :func:`geosr.open_no2`.

    Raises
    ------
    InputError, RefusedError, UsageError, OutputError
        See :mod:`geosr.errors`; the target is checked before anything is computed.
    """
    from geosr.provenance import Provenance, sha256_of
    from geosr.reading import open_no2
    from geosr.reading.gate import check_path
    from geosr.variables import main_variable
    from geosr.writing import check_target, write
    from geosr.writing.atomic import check_apart, format_of

    started = time.perf_counter()
    scale = grid.check_scale(scale)
    how = Degradation(kind, (mtf[0], mtf[1]), noise, seed)
    path = check_path(source)
    target = Path(output or path.with_name(f"{path.stem}_coarse{scale}.tif"))
    format_of(target)
    check_apart([target], [path])
    target = check_target(target, overwrite)
    with blame(path):
        ds = degrade(open_no2(path, **options), scale, min_valid, kind=kind, mtf=how.mtf, noise=noise, seed=seed)
    coarse = main_variable(ds)
    coarse.attrs["geosr"] = f"degraded by {scale}: {how}"
    provenance = Provenance(
        inputs=((path.name, sha256_of(path)),),
        method=f"degraded by {scale}: {how}",
        options={"scale": scale, "min_valid": min_valid, **{k: v for k, v in how.to_dict().items() if v is not None}},
        conserve=False,
    )
    done = write(
        ds,
        target,
        main=str(coarse.name),
        provenance=provenance,
        overwrite=overwrite,
        creation_options=creation_options,
    )
    return _report(coarse, fspath(output or target), fspath(path), str(how), done, time.perf_counter() - started)


def _report(coarse: Any, output: str, source: str, how: str, done: Any, seconds: float) -> Report:
    box = grid.geobox_of(coarse)
    ny, nx = box.shape
    edges = box.boundingbox
    crs: Any = box.crs  # a field without one has been refused
    found = done.statistics
    return Report(
        output=output,
        inputs=[source],
        variable=str(coarse.name),
        units=coarse.attrs.get("units"),
        shape=(ny, nx),
        planes=coarse.size // (ny * nx),
        bounds=(edges.left, edges.bottom, edges.right, edges.top),
        crs=f"EPSG:{crs.epsg}" if crs.epsg else "a CRS without a code",
        cell_size=(abs(box.resolution.x), abs(box.resolution.y)),
        cell_unit="degrees" if crs.geographic else {"metre": "m"}.get(crs.units[0], str(crs.units[0])),
        method=how,
        valid_share=found.valid / found.count,
        minimum=found.minimum,
        maximum=found.maximum,
        seconds=round(seconds, 3),
        megapixels_per_second=round(coarse.size / 1e6 / seconds, 3),
        also_written=[fspath(p) for p in done.files if p != done.path],
    )
