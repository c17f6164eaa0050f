"""``geosr degrade``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from geosr_cli.common import Reporter, reading_options, report_options

F = TypeVar("F", bound=Callable[..., Any])


class Noise(click.ParamType[float | str]):
    """A number, or ``precision``."""

    name = "VALUE|precision"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        if value == "precision":
            return str(value)
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor 'precision'", param, ctx)


def _mtf(ctx: click.Context, param: click.Parameter, value: tuple[float, float] | None) -> tuple[float, float]:
    """The response, or TROPOMI's; given for anything but a PSF it would be ignored, which nobody wants."""
    if value is None:
        return 0.74, 0.44
    if ctx.params.get("kind") != "psf":
        raise click.UsageError("--mtf is the response of a psf: choose psf as well")
    return value


_OPTIONS = (
    click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the noise."),
    click.option(
        "--noise",
        type=Noise(),
        default=0.0,
        help="Standard deviation of noise on the coarse cells; 'precision' takes the file's.",
    ),
    click.option(
        "--mtf",
        nargs=2,
        type=float,
        metavar="X Y",
        callback=_mtf,
        help="For psf: response at the coarse Nyquist frequency, across and along. Default: 0.74 0.44 (TROPOMI).",
    ),
)


def degradation_options(kind: str) -> Callable[[F], F]:
    """Options of a degradation; its kind is called ``kind``, and read first, for the others depend on it."""

    def decorate(function: F) -> F:
        for option in _OPTIONS:
            function = option(function)
        return click.option(
            kind,
            "kind",
            type=click.Choice(["area", "psf", "resize"]),
            default="area",
            show_default=True,
            is_eager=True,
            help="Area mean; a Gaussian sensor response before it; or antialiased bicubic (MATLAB's imresize).",
        )(function)

    return decorate


@click.command("degrade")
@click.argument("source", metavar="IN", type=click.Path())
@click.option(
    "--scale", type=int, default=4, show_default=True, metavar="N", help="Fine cells per coarse cell and axis."
)
@click.option(
    "-o", "--output", type=click.Path(), metavar="OUT", help="Output: .tif, .nc or .zarr. Default: IN_coarse4.tif."
)
@degradation_options("--kind")
@click.option(
    "--min-valid",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="Share of a coarse cell that must be valid.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@reading_options
@report_options
def command(source: str, as_json: bool, quiet: bool, verbose: int, **options: Any) -> None:
    """Write what a coarser sensor would have seen of IN.

    \b
    geosr degrade fine.tif --scale 4 --kind psf --noise 0.3 -o coarse.tif
    """
    from geosr.degrade_files import degrade_file

    reporter = Reporter(as_json=as_json, quiet=quiet, verbose=verbose)
    with reporter.listening():
        report = degrade_file(source, **options)
    reporter.finish([report])
