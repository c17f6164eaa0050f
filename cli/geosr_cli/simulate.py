"""``geosr simulate``."""

from __future__ import annotations

from typing import Any

import click

from geosr_cli.common import Reporter, printable, report_options

KINDS = ("l2", "l3", "tif", "truth")


@click.command("simulate")
@click.argument("folder", type=click.Path())
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    multiple=True,
    default=KINDS,
    help="What to write; may be given several times. [all]",
)
@click.option("--seed", type=click.IntRange(0), default=7, show_default=True, help="Same seed, same files.")
@click.option("--bbox", nargs=4, type=float, metavar="W S E N", help="Area in degrees; W > E crosses 180.")
@click.option("--date", default="2024-06-12", show_default=True, metavar="YYYY-MM-DD", help="First day.")
@click.option("--days", type=click.IntRange(1), default=1, show_default=True, help="Days, one overpass each.")
@click.option("--resolution", type=float, default=0.05, show_default=True, help="Cell size of the L3 grid, degrees.")
@click.option("--truth-scale", type=int, default=4, show_default=True, help="Truth cells per L3 cell and axis.")
@click.option("--cities", "n_cities", type=click.IntRange(0), help="Number of cities. Default: by the area.")
@click.option("--point-sources", "n_point_sources", type=click.IntRange(0), help="Power plants. Default: by the area.")
@click.option("--wind-speed", type=float, default=5.0, show_default=True, help="Mean wind, m/s.")
@click.option("--turbulence", type=float, default=2.0, show_default=True, help="Root mean square of eddies, m/s.")
@click.option("--lifetime-hours", type=float, default=4.0, show_default=True, help="Lifetime of NO2.")
@click.option(
    "--response",
    type=click.Choice(["area", "tropomi"]),
    default="area",
    show_default=True,
    help="Response of the sensor.",
)
@click.option("--noise", type=float, default=1.0, show_default=True, help="Noise, in parts of TROPOMI's.")
@click.option("--cloud-cover", type=float, default=0.25, show_default=True, help="Share of the scene under clouds.")
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@report_options
def command(
    folder: str,
    bbox: tuple[float, float, float, float] | None,
    as_json: bool,
    quiet: bool,
    verbose: int,
    **options: Any,
) -> None:
    """Invent a scene and write what a satellite would see of it into FOLDER.

    Plumes of cities and power plants in a wind field, seen through the sensor's footprint, noise and clouds: a
    Sentinel-5P-like L2 swath, its L3 grid as NetCDF and GeoTIFF, and the fine truth. To test and to teach with.
    """
    from geosr.simulate import simulate

    reporter = Reporter(as_json=as_json, quiet=quiet, verbose=verbose)
    if bbox:
        options["bbox"] = bbox
    with reporter.listening():
        paths = [str(path) for path in simulate(folder, **options)]
    reporter.result("\n".join(map(printable, paths)), {"outputs": paths})
