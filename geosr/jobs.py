"""Files in, files out: what the commands ``downscale`` and ``grid`` call, and scripts may.

Checks first (inputs, options, target), then the lazy pipeline, then one pass of writing that computes everything
tile by tile, in threads of this process or on a dask.distributed cluster (:class:`~geosr.writing.crew.Crew`). The
result is a :class:`Report`, for people and as JSON.

Of several outputs, small ones are made side by side. One that fails does not stop the others: what could be written
is there, and then the first failure is raised, saying how many there were.

A run that was killed is gone on with by the same call and ``resume``: outputs that are complete and were made of the
same inputs in the same way are left as they are, and of an unfinished one the tiles that are done
(:mod:`geosr.writing.journal`).
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geosr.errors import GeosrError, GeosrWarning, InputError, UsageError, blame

if TYPE_CHECKING:
    import xarray as xr

    from geosr.provenance import Provenance
    from geosr.writing.crew import Crew

StrPath = str | PathLike[str]
#: Called as tiles land: (fine cells written since the last call, fine cells in all).
Progress = Callable[[int, int], None]
#: Called with a message for people.
Say = Callable[[str], None]

# More outputs than this are not made side by side, nor such as have more tiles for each thread than this: their own
# tiles keep the threads busy, and each costs memory.
_BESIDE = 8
_MANY_TILES = 16

# Beyond this a conservation error is told of: float32 gives 1e-7 of the largest column.
_PROMISED = 1e-6

# Outputs that are made side by side report one at a time.
_REPORTING = threading.Lock()


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
    resumed : an earlier run had written it, and nothing was left to do.
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
    resumed: bool = False
    also_written: list[str] = field(default_factory=list)

    @property
    def cells(self) -> int:
        """Of all planes."""
        return self.shape[0] * self.shape[1] * self.planes

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
        if self.resumed:
            return f"{text}; was complete already"
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
    resume: bool = False,
    creation_options: Mapping[str, str] | None = None,
    threads: int | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
    **options: Any,
) -> list[Report]:
    """Downscale files to files.

    Parameters
    ----------
    inputs : swaths, which are averaged on one grid and give one output; or grids, which give one each.
    output : file, or a folder where several outputs go; default ``<stem>_x<scale>.tif`` beside the input.
    dry_run : open, check and plan only.
    overwrite, creation_options : see :func:`geosr.writing.write`.
    resume : go on with what an earlier, unfinished call with the same inputs and options has left.
    threads : how many threads of this process compute; default one per core.
    workers : instead, so many processes of one thread each, on this machine (a script that calls this needs the usual
        ``if __name__ == "__main__":``).
    scheduler : instead, the workers of the dask.distributed scheduler at this address. They see the same files as
        this process, under the same names, and have the same version of geosr.
    progress : called as tiles land, for all outputs together.
    say : called with messages for people: where the dashboard of a cluster is, which outputs failed.
    options : of :func:`geosr.downscale`.

    Returns
    -------
    One :class:`Report` per output.

    Raises
    ------
    GeosrError
        What is wrong with inputs, options and targets, before anything is computed. Later the first failure of an
        output, when all others have been tried.
    """
    from geosr.writing import check_target
    from geosr.writing.crew import Crew

    outputs = _outputs(inputs, output, f"_x{scale}")
    _check_names(outputs)
    for sources, target in outputs:
        # Gridding swaths takes a while; with grids, what is wrong with input or options is worth more than this.
        if len(sources) > 1 and not dry_run and not resume:
            check_target(target, overwrite)
    jobs = [_plan(sources, target, scale, dry_run, options) for sources, target in outputs]
    if dry_run:
        return [job.report for job in jobs]
    how = _Writing(overwrite, resume, dict(creation_options or {}), progress, say)
    return _write_those_left(jobs, how, lambda: Crew.of(threads, workers, scheduler, say))


def grid_files(
    inputs: Sequence[StrPath],
    output: StrPath | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    creation_options: Mapping[str, str] | None = None,
    threads: int | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Progress | None = None,
    say: Say | None = None,
    **options: Any,
) -> Report:
    """Average swath files on one grid and write it.

    ``options`` as for :func:`geosr.open_no2`, the others as for :func:`downscale_files`.
    """
    from geosr.grid import geobox_of
    from geosr.reading import open_no2
    from geosr.reading.s5p_l2 import is_swath
    from geosr.variables import main_variable
    from geosr.writing import check_target
    from geosr.writing.crew import Crew

    ((sources, target),) = _outputs(inputs, output, "_grid", together=True)
    _check_names([(sources, target)])
    for source in sources:
        with blame(source):
            if not is_swath(source):
                raise InputError("is not a swath, it has a grid already", "geosr downscale takes it as it is")
    if not resume:
        check_target(target, overwrite)
    started = time.perf_counter()
    prints = _fingerprints(sources)
    ds = open_no2(sources, **options)
    main = main_variable(ds)
    report = _blank(ds, main, geobox_of(main), sources, target)
    provenance = _provenance(sources, options, method="area-weighted mean")
    job = _Job(ds, report, provenance, prints, time.perf_counter() - started)
    how = _Writing(overwrite, resume, dict(creation_options or {}), progress, say)
    return _write_those_left([job], how, lambda: Crew.of(threads, workers, scheduler, say))[0]


@dataclass(frozen=True)
class _Job:
    """What is to be written: lazy data, the report as far as it is known, what the input files looked like before they
    were read, the seconds that it took so far, and the tiles' summaries of their conservation."""

    ds: xr.Dataset
    report: Report
    provenance: Provenance
    prints: dict[Path, Any]
    seconds: float
    check: Any = None

    @property
    def key(self) -> dict[str, Any]:
        """What is made of what, and how: equal for runs that give the same tiles to the bit."""
        made = self.provenance
        return {
            "inputs": [list(pair) for pair in made.inputs],
            "model": [made.model, made.model_sha256],
            "options": {"method": made.method, "scale": made.scale, "conserve": made.conserve, **made.options},
        }


@dataclass(frozen=True)
class _Writing:
    """How it is to be written."""

    overwrite: bool
    resume: bool
    creation_options: dict[str, str]
    progress: Progress | None
    say: Say | None


def _plan(sources: list[Path], target: Path, scale: int, dry_run: bool, options: dict[str, Any]) -> _Job:
    """Open, check and build the lazy pipeline."""
    from geosr.downscale import prepare
    from geosr.grid import geobox_of
    from geosr.variables import main_variable

    started = time.perf_counter()
    prints = _fingerprints(sources)
    with blame(sources[0]):
        ds, run, check = prepare(sources, scale, **options)
        main = main_variable(ds)
        box = geobox_of(main)
    made = asdict(run)
    conserve, uncertainty = made.pop("conserve"), made.pop("uncertainty")
    known = {**made, "uncertainty": uncertainty, "tiles": main.data.npartitions, "dry_run": dry_run}
    report = _blank(ds, main, box, sources, target, **known)
    provenance = _provenance(sources, options, conserve=conserve, **made)
    return _Job(ds, report, provenance, prints, time.perf_counter() - started, check)


def _fingerprints(sources: list[Path]) -> dict[Path, Any]:
    from geosr.reading.gate import fingerprint

    return {source: fingerprint(source) for source in sources}


def _outputs(
    inputs: Sequence[StrPath], output: StrPath | None, ending: str, together: bool = False
) -> list[tuple[list[Path], Path]]:
    """Which inputs go into which output."""
    from geosr.reading.gate import check_path
    from geosr.reading.s5p_l2 import is_swath

    if output is not None and not fspath(output):
        raise UsageError("the output's name is empty", "name a file or a folder with -o, or leave it out")
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
    folder = Path(output) if output is not None and os.path.isdir(output) and Path(output).suffix != ".zarr" else None
    if len(groups) > 1 and output is not None and folder is None:
        raise UsageError(f"{len(groups)} outputs, but {fspath(output)} is not a folder", "make it, or leave out -o")
    if output is not None and folder is None:
        return [(groups[0], Path(output))]
    named: dict[Path, list[Path]] = {}
    for group in groups:
        target = (folder or group[0].parent) / f"{_stem(group[0])}{ending}.tif"
        if target in named:
            what = f"{named[target][0]} and {group[0]} would both become {target}"
            raise UsageError(what, "run them apart, or into different folders")
        named[target] = group
    return [(group, target) for target, group in named.items()]


def _stem(path: Path) -> str:
    return path.name.removesuffix(path.suffix) or path.name


def _check_names(outputs: list[tuple[list[Path], Path]]) -> None:
    from geosr.writing.atomic import check_apart, format_of

    for _, target in outputs:
        format_of(target)
    check_apart((target for _, target in outputs), (source for sources, _ in outputs for source in sources))


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
    from geosr.writing.manifest import check_input

    def plain(value: Any) -> Any:
        return value if isinstance(value, str | int | float | bool | list | tuple) else str(value)

    inputs = tuple((source.name, sha256_of(source)) for source in sources)
    for source, (_, digest) in zip(sources, inputs, strict=True):
        with blame(source):
            check_input(source, digest)
    return Provenance(
        inputs=inputs,
        options={k: plain(v) for k, v in sorted(options.items()) if v is not None},
        **more,
    )


def _write_those_left(jobs: list[_Job], how: _Writing, crew: Callable[[], Any]) -> list[Report]:
    """Write each, but those that an earlier run has written already; reports of all."""
    from geosr.writing import check_target

    known = {number: report for number, job in enumerate(jobs) if how.resume and (report := _complete(job, how))}
    left = [job for number, job in enumerate(jobs) if number not in known]
    for job in left:
        check_target(job.report.output, how.overwrite, how.resume)
    made: list[Report] = []
    if left:
        with crew() as chosen:
            made = _write_all(left, how, chosen)
    fresh = iter(made)
    return [known[number] if number in known else next(fresh) for number in range(len(jobs))]


def _complete(job: _Job, how: _Writing) -> Report | None:
    """The report of an output that is there, whole, and made of the same inputs in the same way."""
    from geosr.writing import complete

    manifest = complete(job.ds, job.report.output, main=job.report.variable, key=job.key, options=how.creation_options)
    if manifest is None:
        return None
    found = manifest["statistics"]
    return replace(
        job.report,
        conservation_error=manifest["conservation_error"],
        valid_share=found["valid"] / found["count"],
        minimum=found["minimum"],
        maximum=found["maximum"],
        resumed=True,
        also_written=[fspath(p) for p in _files_of(job.report.output, manifest) if fspath(p) != job.report.output],
    )


def _files_of(output: str, manifest: Mapping[str, Any]) -> list[Path]:
    from geosr.writing.atomic import manifest_of

    return [*(Path(output).with_name(name) for name in manifest["files"]), manifest_of(Path(output))]


def _write_all(jobs: list[_Job], how: _Writing, crew: Crew) -> list[Report]:
    """Write each; small ones side by side. What fails is told and raised when all have been tried."""
    from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

    if len(jobs) == 1:
        return [_write(jobs[0], how, crew, jobs)]
    beside, stop = _beside(jobs, crew.threads), threading.Event()
    done: list[Report | GeosrError] = []
    with crew.shared_by(beside), ThreadPoolExecutor(beside) as pool:
        futures = [pool.submit(_try, job, how, crew, jobs, stop) for job in jobs]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
            done = [future.result() for future in futures]
        except BaseException as error:  # Ctrl-C, or a bug
            stop.set()
            pool.shutdown(cancel_futures=True)
            ended = [future.result() for future in futures if future.done() and not future.cancelled()]
            error.kept = next((found.kept for found in ended if hasattr(found, "kept")), None)  # type: ignore[attr-defined]
            raise
    failed = [found for found in done if isinstance(found, GeosrError)]
    if failed:
        raise _summed_up(failed, len(jobs))
    return [found for found in done if isinstance(found, Report)]


def _beside(jobs: list[_Job], threads: int) -> int:
    """How many outputs to make at once."""
    if max(job.report.tiles or 1 for job in jobs) > _MANY_TILES * threads:
        return 1
    return min(len(jobs), threads, _BESIDE)


def _try(job: _Job, how: _Writing, crew: Crew, jobs: list[_Job], stop: threading.Event) -> Report | GeosrError:
    try:
        return _write(job, how, crew, jobs, stop)
    except GeosrError as error:
        if how.say is not None and not stop.is_set():
            how.say(f"geosr: failed: {error}")
        return error


def _summed_up(failed: list[GeosrError], count: int) -> GeosrError:
    """The first error, with how many there are."""
    first = failed[0]
    if count == 1:
        return first
    written = "all others were written" if len(failed) < count else "nothing was written"
    what = f"{first.what} ({len(failed)} of {count} outputs failed; {written})"
    return type(first)(what, first.hint, first.path)


def _write(job: _Job, how: _Writing, crew: Crew, jobs: list[_Job], stop: threading.Event | None = None) -> Report:
    """Compute and write; the completed report."""
    from geosr.kernels import error_of
    from geosr.writing import write
    from geosr.writing.atomic import Stopped

    report = job.report
    cells, total = report.cells, sum(other.report.cells for other in jobs)

    def update(now: int) -> None:
        if how.progress is not None:
            with _REPORTING:
                how.progress(now, total)
        if stop is not None and stop.is_set():
            raise Stopped("the run was stopped")

    def finish(largest: Mapping[str, Any]) -> Provenance:
        _check_unchanged(job)
        error = error_of(largest["conservation"]) if largest else None
        if error is not None and job.provenance.conserve and not error <= _PROMISED:
            text = f"{report.output}: the conservation error is {error:.1e} of the largest column, more than promised"
            warnings.warn(GeosrWarning(f"{text}: are its numbers too small or too large for float32?"), stacklevel=2)
        return job.provenance.finish(error)

    started = time.perf_counter()
    with blame(report.output):
        done = write(
            job.ds,
            report.output,
            main=report.variable,
            provenance=finish,
            checks={} if job.check is None else {"conservation": job.check},
            overwrite=how.overwrite,
            key=job.key,
            resume=how.resume,
            creation_options=how.creation_options,
            progress=update,
            scheduler=crew.scheduler,
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


def _check_unchanged(job: _Job) -> None:
    """Raises an :class:`InputError` if an input is another file than when it was opened."""
    from geosr.reading.gate import check_unchanged

    for source, seen in job.prints.items():
        check_unchanged(source, seen)
