"""``geosr downscale``."""

from __future__ import annotations

from typing import Any

import click

from geosr_cli.common import Reporter, engine_option, output_options, reading_options, report_options


@click.command("downscale")
@click.argument("inputs", metavar="IN...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--scale",
    type=int,
    default=4,
    show_default=True,
    metavar="N",
    help="Fine cells per coarse cell and axis.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    metavar="OUT",
    help="Output: .tif, .nc or .zarr, or a folder. Default: IN_x4.tif beside IN.",
)
@click.option(
    "--method",
    type=click.Choice(["auto", "edsr", "srcnn", "bicubic"]),
    default="auto",
    show_default=True,
    help="How to refine: a network of that family (auto: the best there is), or without a network.",
)
@click.option("--model", metavar="NAME|PATH", help="Model to use. Default: the shipped one for the scale.")
@click.option(
    "--force-model",
    is_flag=True,
    help="Run the network on a field far outside what it was trained on; recorded in the output.",
)
@click.option(
    "--no-conserve",
    "conserve",
    flag_value=False,
    default=True,
    help="Leave coarse-cell means as the method has them (the promises on geometry are for corrected ones).",
)
@click.option(
    "--no-uncertainty",
    "uncertainty",
    flag_value=False,
    default=None,
    help="Leave out the one-sigma band that a network which predicts its error adds.",
)
@click.option("--tile", type=int, metavar="N", help="Side of a tile in fine cells. Default: about 1024.")
@engine_option
@reading_options
@output_options
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@report_options
def command(
    inputs: tuple[str, ...],
    output: str | None,
    creation_options: tuple[tuple[str, str], ...],
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    verbose: int,
    **options: Any,
) -> None:
    """Refine a map: IN on a grid N times finer, with the same columns.

    IN is a Sentinel-5P L2 swath (several are averaged on one grid first), or a grid as NetCDF or GeoTIFF
    (several give one output each). The output is a Cloud-Optimised GeoTIFF with a QGIS style beside it, or by
    its suffix a CF NetCDF or a Zarr store.

    \b
    geosr downscale s5p.nc --scale 4
    geosr downscale s5p.nc --scale 2 --bbox 5 44 12 48 -o po_valley.nc
    """
    from geosr.jobs import downscale_files

    reporter = Reporter(as_json=as_json, quiet=quiet, verbose=verbose)
    with reporter.listening(), reporter.progress("downscale") as progress:
        reports = downscale_files(
            inputs,
            output,
            dry_run=dry_run,
            creation_options=dict(creation_options),
            progress=progress,
            say=reporter.say,
            **options,
        )
    reporter.finish(reports)
