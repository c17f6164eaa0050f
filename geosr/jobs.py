"""Files in, files out: what the commands ``downscale`` and ``grid`` call, and scripts may.

Checks first (inputs, options, target), then the lazy pipeline, then one pass of writing that computes everything
tile by tile. The result is a :class:`Report`, for people and as JSON.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geosr.errors import InputError, UsageError, blame

if TYPE_CHECKING:
    import xarray as xr

    from geosr.provenance import Provenance

StrPath = str | PathLike[str]
#: Called as tiles land: (fine cells written since the last call, fine cells in all).
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Report:
    """What a run did (or, for a dry run, would do).

    Attributes
    ----------
    shape : (ny, nx) of the output; planes : how many times or bands it has.
    bounds : (left, bottom, right, top) in the CRS.
    cell_size : (x, y) in the CRS's units.
    conservation_error : largest difference between a coarse cell and the mean of its fine cells, over the largest
        |column|; None where it does not apply.
    valid_share : share of the output that is not nodata.
    """

    output: str
    inputs: list[str]
    variable: str
    units: str | None
    shape: tuple[int, int]
    planes: int
    bounds: tuple[float, float, float, float]
    crs: str
    cell_size: tuple[float, float]
    scale: int | None = None
    method: str | None = None
    model: str | None = None
    model_sha256: str | None = None
    tiles: int | None = None
    conservation_error: float | None = None
    valid_share: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    seconds: float | None = None
    megapixels_per_second: float | None = None
    dry_run: bool = False
    also_written: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        return asdict(self)

    def line(self) -> str:
        """The closing line."""
        ny, nx = self.shape
        planes = f" x {self.planes}" if self.planes > 1 else ""
        unit = "degrees" if "4326" in self.crs else "units"
        size = f"{self.cell_size[0]:g} x {self.cell_size[1]:g} {unit}"
        text = f"{self.output}: {ny} x {nx}{planes} cells of {size}, {self.crs}"
        if self.dry_run:
            return f"would write {text}"
        if self.valid_share is not None:
            text += f", {self.valid_share:.1%} valid"
        text += f"; {self.seconds:.1f} s, {self.megapixels_per_second:.2f} Mpixel/s"
        if self.conservation_error is not None:
            text += f"; conservation error {self.conservation_error:.1e} of the largest column"
        return text


def downscale_files(
    inputs: Sequence[StrPath],
    output: StrPath | None = None,
    *,
    scale: int = 4,
    dry_run: bool = False,
    overwrite: bool = False,
    creation_options: Mapping[str, str] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> list[Report]:
    """Downscale files to files.

    Parameters
    ----------
    inputs : swaths, which are averaged on one grid and give one output; or grids, which give one each.
    output : file, or a folder where several outputs go; default ``<stem>_x<scale>.tif`` beside the input.
    dry_run : open, check and plan only.
    options : of :func:`geosr.downscale`.

    Returns
    -------
    One :class:`Report` per output.
    """
    jobs = _outputs(inputs, output, f"_x{scale}")
    for sources, target in jobs:
        _check(sources, target, overwrite)
    return [
        _downscale_one(sources, target, scale, dry_run, overwrite, creation_options, workers, progress, options)
        for sources, target in jobs
    ]


def grid_files(
    inputs: Sequence[StrPath],
    output: StrPath | None = None,
    *,
    overwrite: bool = False,
    creation_options: Mapping[str, str] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Average swath files on one grid and write it. ``options`` as for :func:`geosr.open_no2`."""
    from geosr.grid import geobox_of
    from geosr.reading import open_no2
    from geosr.reading.s5p_l2 import is_swath
    from geosr.variables import main_variable

    ((sources, target),) = _outputs(inputs, output, "_grid", together=True)
    _check(sources, target, overwrite)
    for source in sources:
        with blame(source):
            if not is_swath(source):
                raise InputError("is not a swath, it has a grid already", "geosr downscale takes it as it is")
    started = time.perf_counter()
    ds = open_no2(sources, **options)
    main = main_variable(ds)
    report = _blank(ds, main, geobox_of(main), sources, target)
    return _write(ds, report, _provenance(sources, options, method="area-weighted mean"), started, overwrite,
                  creation_options, workers, progress)  # fmt: skip


def _downscale_one(
    sources: list[Path],
    target: Path,
    scale: int,
    dry_run: bool,
    overwrite: bool,
    creation_options: Mapping[str, str] | None,
    workers: int | None,
    progress: Progress | None,
    options: dict[str, Any],
) -> Report:
    from geosr.downscale import downscale
    from geosr.grid import geobox_of
    from geosr.variables import main_variable

    started = time.perf_counter()
    with blame(sources[0]):
        ds = downscale(sources, scale, **options)
        main = main_variable(ds)
        box = geobox_of(main)
    method = options.get("method", "srcnn")
    model = _model(method, options.get("model"), scale)
    report = _blank(
        ds,
        main,
        box,
        sources,
        target,
        scale=scale,
        method=method,
        dry_run=dry_run,
        **model,
        tiles=main.data.npartitions,
    )
    if dry_run:
        return report
    provenance = _provenance(sources, options, method=method, scale=scale, **model)
    return _write(ds, report, provenance, started, overwrite, creation_options, workers, progress)


def _model(method: str, model: StrPath | None, scale: int) -> dict[str, str]:
    if method != "srcnn":
        return {}
    from geosr.models import resolve_model

    loaded = resolve_model(model, scale)
    return {"model": loaded.card.name, "model_sha256": loaded.sha256}


def _outputs(
    inputs: Sequence[StrPath], output: StrPath | None, ending: str, together: bool = False
) -> list[tuple[list[Path], Path]]:
    """Which inputs go into which output."""
    from geosr.reading.gate import check_path
    from geosr.reading.s5p_l2 import is_swath

    paths = [check_path(p) for p in inputs]
    if len(set(paths)) < len(paths):
        raise UsageError("an input is named twice", "name each once")
    if not together and len(paths) > 1:
        swaths = [is_swath(p) for p in paths]
        if any(swaths) != all(swaths):
            one = paths[swaths.index(False)]
            raise UsageError("swaths and grids in one run", f"run them apart; {one.name} is a grid")
        together = all(swaths)
    groups = [paths] if together else [[p] for p in paths]
    folder = Path(output) if output is not None and Path(output).is_dir() and Path(output).suffix != ".zarr" else None
    if len(groups) > 1 and output is not None and folder is None:
        raise UsageError(f"{len(groups)} outputs, but {fspath(output)} is not a folder", "make it, or leave out -o")
    if output is not None and folder is None:
        return [(groups[0], Path(output))]
    return [(group, (folder or group[0].parent) / f"{_stem(group[0])}{ending}.tif") for group in groups]


def _stem(path: Path) -> str:
    return path.name.removesuffix(path.suffix) or path.name


def _check(sources: list[Path], target: Path, overwrite: bool) -> None:
    from geosr.writing import check_target

    if any(target.exists() and target.samefile(source) for source in sources):
        raise UsageError("the output is the input", "name another output with -o", target)
    check_target(target, overwrite)


def _blank(ds: xr.Dataset, main: xr.DataArray, box: Any, sources: list[Path], target: Path, **more: Any) -> Report:
    """A report of what is known before writing."""
    ny, nx = box.shape
    bounds = box.boundingbox
    epsg = box.crs.epsg
    return Report(
        output=fspath(target),
        inputs=[fspath(s) for s in sources],
        variable=str(main.name),
        units=main.attrs.get("units"),
        shape=(ny, nx),
        planes=main.size // (ny * nx),
        bounds=(bounds.left, bounds.bottom, bounds.right, bounds.top),
        crs=f"EPSG:{epsg}" if epsg else str(box.crs.proj.name),
        cell_size=(abs(box.resolution.x), abs(box.resolution.y)),
        **more,
    )


def _provenance(sources: list[Path], options: Mapping[str, Any], **more: Any) -> Provenance:
    from geosr.provenance import Provenance, sha256_of

    def plain(value: Any) -> Any:
        return value if isinstance(value, str | int | float | bool | list | tuple) else str(value)

    return Provenance(
        inputs=tuple((s.name, sha256_of(s)) for s in sources),
        options={k: plain(v) for k, v in sorted(options.items()) if v is not None},
        **more,
    )


def _write(
    ds: xr.Dataset,
    report: Report,
    provenance: Provenance,
    started: float,
    overwrite: bool,
    creation_options: Mapping[str, str] | None,
    workers: int | None,
    progress: Progress | None,
) -> Report:
    """Compute and write ``ds``; the completed report."""
    import dask

    from geosr.writing import write

    cells = report.shape[0] * report.shape[1] * report.planes
    config: dict[str, Any] = {"scheduler": "threads"}
    if workers:
        config["num_workers"] = workers
    with dask.config.set(config):
        done = write(
            ds,
            report.output,
            main=report.variable,
            provenance=lambda scalars: provenance.finish(scalars.get("conservation_error")),
            overwrite=overwrite,
            creation_options=dict(creation_options or {}),
            progress=None if progress is None else lambda now: progress(now, cells),
        )
    seconds = time.perf_counter() - started
    found = done.statistics
    return replace(
        report,
        conservation_error=done.provenance.conservation_error,
        valid_share=found.valid / found.count,
        minimum=found.minimum,
        maximum=found.maximum,
        seconds=round(seconds, 3),
        megapixels_per_second=round(cells / 1e6 / seconds, 3),
        also_written=[fspath(p) for p in done.files if fspath(p) != report.output],
    )
