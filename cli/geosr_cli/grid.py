"""``geosr grid``."""

from __future__ import annotations

from typing import Any

import click

from geosr_cli.common import Reporter, output_options, report_options, swath_options


@click.command("grid")
@click.argument("inputs", metavar="L2...", nargs=-1, required=True, type=click.Path())
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    metavar="L3",
    help="Output: .tif, .nc or .zarr. Default: L2_grid.tif beside L2.",
)
@swath_options
@output_options
@report_options
def command(
    inputs: tuple[str, ...],
    output: str | None,
    creation_options: tuple[tuple[str, str], ...],
    as_json: bool,
    quiet: bool,
    verbose: int,
    **options: Any,
) -> None:
    """Average swaths on one regular grid, weighted by the true overlap of pixel and cell.

    The output holds the column, its precision and the number of pixels.

    \b
    geosr grid S5P_OFFL_L2__NO2*.nc --resolution 0.05 --bbox 5 44 12 48 -o po_valley.tif
    """
    from geosr.jobs import grid_files

    reporter = Reporter(as_json=as_json, quiet=quiet, verbose=verbose)
    with reporter.listening(), reporter.progress("grid") as progress:
        report = grid_files(
            inputs,
            output,
            creation_options=dict(creation_options),
            progress=progress,
            say=reporter.say,
            **options,
        )
    reporter.finish([report])
