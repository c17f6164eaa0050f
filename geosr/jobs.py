"""Files in, files out: what the commands ``downscale`` and ``grid`` call, and scripts may.

Checks first (inputs, options, target), then the lazy pipeline, then one pass of writing that computes everything
tile by tile. The result is a :class:`Report`, for people and as JSON.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geosr.errors import InputError, ResourceError, UsageError, blame

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
    cell_size : (x, y) in ``cell_unit``, the CRS's.
    method : "bicubic", or the family of the network.
    envelope : "inside", "outside: …" or "overridden: …" (:mod:`geosr.envelope`); None without a network.
    uncertainty : name of the variable with one standard deviation of each value, if there is one.
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
    cell_unit: str
    scale: int | None = None
    method: str | None = None
    model: str | None = None
    model_sha256: str | None = None
    envelope: str | None = None
    uncertainty: str | None = None
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
        size = f"{self.cell_size[0]:g} x {self.cell_size[1]:g} {self.cell_unit}"
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
    scheduler: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> list[Report]:
    """Downscale files to files.

    Parameters
    ----------
    inputs : swaths, which are averaged on one grid and give one output; or grids, which give one each.
    output : file, or a folder where several outputs go; default ``<stem>_x<scale>.tif`` beside the input.
    dry_run : open, check and plan only.
    overwrite, creation_options : see :func:`geosr.writing.write`.
    workers : threads; default one per core.
    scheduler : address of a dask.distributed scheduler, whose workers see the same files.
    options : of :func:`geosr.downscale`.

    Returns
    -------
    One :class:`Report` per output.
    """
    from geosr.writing import check_target

    outputs = _outputs(inputs, output, f"_x{scale}")
    for sources, target in outputs:
        _check_names(sources, target)
        # Gridding swaths takes a while; with grids, what is wrong with input or options is worth more than this.
        if len(sources) > 1 and not dry_run:
            check_target(target, overwrite)
    jobs = [_plan(sources, target, scale, dry_run, options) for sources, target in outputs]
    if dry_run:
        return [job.report for job in jobs]
    for job in jobs:
        check_target(job.report.output, overwrite)
    with _cluster(scheduler) as client:
        how = _Writing(overwrite, dict(creation_options or {}), workers, client, progress)
        return [_write(job, how) for job in jobs]


def grid_files(
    inputs: Sequence[StrPath],
    output: StrPath | None = None,
    *,
    overwrite: bool = False,
    creation_options: Mapping[str, str] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Report:
    """Average swath files on one grid and write it. ``options`` as for :func:`geosr.open_no2`."""
    from geosr.grid import geobox_of
    from geosr.reading import open_no2
    from geosr.reading.s5p_l2 import is_swath
    from geosr.variables import main_variable
    from geosr.writing import check_target

    ((sources, target),) = _outputs(inputs, output, "_grid", together=True)
    _check_names(sources, target)
    for source in sources:
        with blame(source):
            if not is_swath(source):
                raise InputError("is not a swath, it has a grid already", "geosr downscale takes it as it is")
    check_target(target, overwrite)
    started = time.perf_counter()
    ds = open_no2(sources, **options)
    main = main_variable(ds)
    report = _blank(ds, main, geobox_of(main), sources, target)
    job = _Job(ds, report, _provenance(sources, options, method="area-weighted mean"), time.perf_counter() - started)
    with _cluster(scheduler) as client:
        return _write(job, _Writing(overwrite, dict(creation_options or {}), workers, client, progress))


@dataclass(frozen=True)
class _Job:
    """What is to be written: lazy data, the report as far as it is known, and the seconds that it took so far."""

    ds: xr.Dataset
    report: Report
    provenance: Provenance
    seconds: float


@dataclass(frozen=True)
class _Writing:
    """How it is to be written."""

    overwrite: bool
    creation_options: dict[str, str]
    workers: int | None
    client: Any
    progress: Progress | None


def _plan(sources: list[Path], target: Path, scale: int, dry_run: bool, options: dict[str, Any]) -> _Job:
    """Open, check and build the lazy pipeline."""
    from geosr.downscale import prepare
    from geosr.grid import geobox_of
    from geosr.variables import main_variable

    started = time.perf_counter()
    with blame(sources[0]):
        ds, run = prepare(sources, scale, **options)
        main = main_variable(ds)
        box = geobox_of(main)
    made = asdict(run)
    conserve, uncertainty = made.pop("conserve"), made.pop("uncertainty")
    known = {**made, "uncertainty": uncertainty, "tiles": main.data.npartitions, "dry_run": dry_run}
    report = _blank(ds, main, box, sources, target, **known)
    provenance = _provenance(sources, options, conserve=conserve, **made)
    return _Job(ds, report, provenance, time.perf_counter() - started)


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


def _check_names(sources: list[Path], target: Path) -> None:
    from geosr.writing.atomic import format_of

    format_of(target)
    if any(target.exists() and target.samefile(source) for source in sources):
        raise UsageError("the output is the input", "name another output with -o", target)


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
        crs=f"EPSG:{epsg}" if epsg else _crs_name(box.crs.proj.name),
        cell_size=(abs(box.resolution.x), abs(box.resolution.y)),
        cell_unit="degrees" if box.crs.geographic else {"metre": "m"}.get(box.crs.units[0], str(box.crs.units[0])),
        **more,
    )


def _crs_name(name: str) -> str:
    return name if name not in ("", "unknown", "undefined", "unnamed") else "a CRS without a name"


def _provenance(sources: list[Path], options: Mapping[str, Any], **more: Any) -> Provenance:
    from geosr.provenance import Provenance, sha256_of

    def plain(value: Any) -> Any:
        return value if isinstance(value, str | int | float | bool | list | tuple) else str(value)

    return Provenance(
        inputs=tuple((s.name, sha256_of(s)) for s in sources),
        options={k: plain(v) for k, v in sorted(options.items()) if v is not None},
        **more,
    )


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """A client of the scheduler at ``address``; None for this process's own threads."""
    if address is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError("--scheduler needs dask.distributed", "pip install 'geosr[distributed]'") from error
    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise ResourceError(f"no dask scheduler answers at {address}", "start one with: dask scheduler") from error
    with client:
        yield client


def _write(job: _Job, how: _Writing) -> Report:
    """Compute and write; the completed report."""
    import dask

    from geosr.writing import write

    report, update = job.report, how.progress
    cells = report.shape[0] * report.shape[1] * report.planes
    threads: dict[str, Any] = {"num_workers": how.workers} if how.workers else {}
    started = time.perf_counter()
    with dask.config.set(threads), blame(report.output):
        done = write(
            job.ds,
            report.output,
            main=report.variable,
            provenance=lambda scalars: job.provenance.finish(scalars.get("conservation_error")),
            overwrite=how.overwrite,
            creation_options=how.creation_options,
            progress=None if update is None else lambda now: update(now, cells),
            scheduler=how.client or "threads",
        )
    seconds = job.seconds + time.perf_counter() - started
    found = done.statistics
    return replace(
        report,
        conservation_error=done.provenance.conservation_error,
        valid_share=found.valid / found.count,
        minimum=found.minimum,
        maximum=found.maximum,
        seconds=round(seconds, 3),
        megapixels_per_second=round(cells / 1e6 / seconds, 3),
        also_written=[fspath(p) for p in done.files if p != done.path],
    )
