"""``geosr evaluate``."""

from __future__ import annotations

from typing import Any

import click

from geosr_cli.common import Reporter, engine_option, reading_options, report_options
from geosr_cli.degrade import degradation_options

#: What goes to geosr.open_no2.
READING = ("variable", "time", "level", "bbox", "crs", "units", "input_units", "qa", "resolution")


@click.command("evaluate")
@click.argument("truths", metavar="TRUTH...", nargs=-1, required=True, type=click.Path())
@click.option("--scale", type=int, default=4, show_default=True, metavar="N", help="Degrade by N, refine again by N.")
@click.option(
    "--model",
    "models",
    metavar="NAME|PATH",
    multiple=True,
    help="Model to judge; may be repeated. Default: the shipped one for the scale, and the shipped SRCNN.",
)
@click.option("--no-network", is_flag=True, help="Judge the interpolations only.")
@degradation_options("--degrade")
@click.option("--shave", type=click.IntRange(0), default=0, metavar="N", help="Leave out N fine cells at the rim.")
@click.option(
    "--data-range", type=float, metavar="VALUE", help="Value range for PSNR. Default: the scored truth's own."
)
@click.option(
    "--figure",
    type=click.Path(),
    metavar="F.png|pdf|svg",
    help="Draw maps, errors and spectra; of several cases F_1.png, F_2.png …",
)
@click.option("--overwrite", is_flag=True, help="Replace existing figures.")
@engine_option
@reading_options
@report_options
def command(
    truths: tuple[str, ...],
    models: tuple[str, ...],
    no_network: bool,
    figure: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    verbose: int,
    **options: Any,
) -> None:
    """Judge the networks against interpolation on TRUTH, maps at their native resolution.

    Each TRUTH is degraded to cells N times larger, refined again by every method, and compared (Wald's protocol).
    The last line says whether the networks win.

    \b
    geosr evaluate truth.tif --scale 4 --figure truth.png
    geosr evaluate october/*.tif --scale 2 --degrade psf --json
    """
    from geosr.evaluation.files import evaluate_files

    reading = {name: options.pop(name) for name in READING}
    reporter = Reporter(as_json=as_json, quiet=quiet, verbose=verbose)
    with reporter.listening(), reporter.progress("evaluate", unit="case") as progress:
        result, figures = evaluate_files(
            truths,
            reading=reading,
            model=list(models) or None,
            network=not no_network,
            figure=figure,
            overwrite=overwrite,
            progress=progress,
            **options,
        )
    for path in figures:
        reporter.say(f"figure: {path}")
    document = {**result.to_dict(), "figures": [str(path) for path in figures], "warnings": reporter.warnings}
    reporter.result(result.to_text(), document)
