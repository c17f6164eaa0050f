"""Options and reporting that several commands share."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from geosr_cli.main import complain, debug_option

if TYPE_CHECKING:
    from geosr.jobs import Report

F = TypeVar("F", bound=Callable[..., Any])


class QualityThreshold(click.ParamType[float | None]):
    """A number from 0 to 1, or ``none``."""

    name = "0..1|none"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | None:
        if value is None or (isinstance(value, str) and value.lower() == "none"):
            return None
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not 0 <= number <= 1:
            self.fail(f"{value!r} is neither a number from 0 to 1 nor 'none'", param, ctx)
        return number


class KeyValue(click.ParamType[tuple[str, str]]):
    """``KEY=VALUE``."""

    name = "KEY=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, sep, rest = str(value).partition("=")
        if not sep or not key:
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        return key.upper(), rest


class Limit(KeyValue):
    """``LIMIT=NUMBER``."""

    name = "LIMIT=NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        key, text = super().convert(value, param, ctx)
        try:
            return key.lower(), float(text)
        except ValueError:
            self.fail(f"{value!r} is not LIMIT=NUMBER", param, ctx)


def _set_limits(ctx: click.Context, param: click.Parameter, value: tuple[tuple[str, float], ...]) -> None:
    if value:
        from geosr.reading.limits import reading_as

        ctx.with_resource(reading_as(dict(value)))


def _set_untrusted(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        from geosr.reading.limits import reading_as

        ctx.with_resource(reading_as(untrusted=True))


def _apply(options: list[Callable[[F], F]]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


#: How far a file is trusted; they hold while the command runs.
_trust_options = _apply(
    [
        click.option(
            "--untrusted",
            is_flag=True,
            expose_value=False,
            callback=_set_untrusted,
            help="Read files as those of strangers: in a process without other files and network (Linux).",
        ),
        click.option(
            "--limit",
            type=Limit(),
            multiple=True,
            expose_value=False,
            callback=_set_limits,
            help="Raise a limit that a file was refused for: pixels, bands, block, expansion, variables, depth, "
            "directories; with --untrusted also time (s) and memory (MB).",
        ),
    ]
)


_time_options = _apply(
    [
        click.option("--time", metavar="WHEN", help="Which time: an index or an ISO date. Default: all."),
        click.option("--level", metavar="LEVEL", help="Which level: an index or a coordinate value."),
    ]
)

#: Options of reading swaths, as :func:`geosr.open_no2` takes them.
swath_options = _apply(
    [
        click.option("--variable", metavar="NAME", help="Which variable (or band) to take."),
        click.option("--bbox", nargs=4, type=float, metavar="W S E N", help="Area in degrees; W > E crosses 180."),
        click.option("--crs", metavar="CRS", help="For a swath: CRS of the grid to make. For a grid: CRS it lacks."),
        click.option("--units", metavar="UNIT", help="Units of the output. Default: those of the input."),
        click.option("--input-units", metavar="UNIT", help="Units of the input, whatever the file says."),
        click.option(
            "--qa",
            type=QualityThreshold(),
            default="0.75",
            show_default=True,
            help="Least qa_value of a swath pixel; 'none' where there is no qa_value.",
        ),
        click.option(
            "--resolution",
            type=float,
            metavar="CELL",
            help="Cell size of a gridded swath, in units of the CRS.",
        ),
        _trust_options,
    ]
)


def reading_options(function: F) -> F:
    """Options of reading grids and swaths."""
    return swath_options(_time_options(function))


#: Which implementation runs a network.
engine_option = click.option(
    "--engine",
    type=click.Choice(["auto", "native", "onnx", "tensorflow"]),
    default="auto",
    show_default=True,
    help="What runs the model.",
)

#: Options of writing.
output_options = _apply(
    [
        click.option(
            "--overwrite", is_flag=True, help="Replace an existing output, and what an unfinished run has left."
        ),
        click.option(
            "--resume", is_flag=True, help="Go on where the same command was killed: finished tiles are kept."
        ),
        click.option(
            "--co",
            "creation_options",
            type=KeyValue(),
            multiple=True,
            help="GDAL creation option of the COG.",
        ),
        click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads. Default: one per core."),
        click.option(
            "--workers",
            type=click.IntRange(1),
            metavar="N",
            help="Compute in N processes of one thread each, instead of in threads (dask.distributed).",
        ),
        click.option(
            "--scheduler",
            metavar="ADDRESS",
            help="Compute on a dask.distributed cluster, e.g. tcp://host:8786; its workers must see the same files.",
        ),
    ]
)

#: Options of reporting.
report_options = _apply(
    [
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout."),
        click.option("-q", "--quiet", is_flag=True, help="No messages: results and errors only."),
        click.option("-v", "--verbose", count=True, help="Also show the warnings of libraries."),
        debug_option,
    ]
)


def printable(text: str) -> str:
    """``text`` without control characters, which could make a terminal do things: names and attributes hold any."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Reporter:
    """Messages and the progress bar on stderr, results on stdout."""

    def __init__(self, *, as_json: bool, quiet: bool, verbose: int = 0) -> None:
        self.as_json, self.quiet, self.verbose = as_json, quiet, verbose
        self.warnings: list[str] = []

    def say(self, text: str) -> None:
        """A message for people: one line, whatever the names in it hold."""
        if not self.quiet:
            complain(printable(text))

    def result(self, text: str, data: Any) -> None:
        """The result: JSON if it was asked for, else the text."""
        from geosr.errors import OutputError

        try:
            lines = (printable(line) for line in text.split("\n"))
            click.echo(json.dumps(data, indent=2, allow_nan=False) if self.as_json else "\n".join(lines))
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"stdout cannot be written ({error.strerror})", "check where it leads") from error

    def finish(self, reports: Sequence[Report]) -> None:
        """Close a run: a line for each output on stderr, JSON on stdout if it was asked for."""
        for report in reports:
            self.say(report.line())
        if self.as_json:
            documents = [{**report.to_dict(), "warnings": self.warnings} for report in reports]
            self.result("", documents[0] if len(documents) == 1 else {"results": documents})

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Print each geosr warning once, as it comes; others only with ``-v``."""
        from geosr.errors import GeosrWarning

        def show(message: Any, category: type, *args: Any, **kwargs: Any) -> None:
            if issubclass(category, GeosrWarning):
                if str(message) not in self.warnings:
                    self.warnings.append(str(message))
                    self.say(f"geosr: warning: {message}")
            elif self.verbose and not issubclass(category, DeprecationWarning | PendingDeprecationWarning):
                self.say(f"{category.__name__}: {' '.join(str(message).split())}")

        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = show
            yield

    @contextlib.contextmanager
    def progress(self, label: str, unit: str = "px") -> Iterator[Callable[[int, int], None]]:
        """A bar with rate and time left; yields ``update(done_now, in_all)``."""
        from tqdm import tqdm

        hidden = self.quiet or sys.stderr is None or not sys.stderr.isatty()
        with tqdm(desc=label, unit=unit, unit_scale=True, disable=hidden, dynamic_ncols=True, leave=False) as bar:

            def update(done: int, total: int) -> None:
                bar.total = total
                bar.update(done)

            yield update
