"""``geosr info``."""

from __future__ import annotations

from typing import Any

import click

from geosr_cli.common import Reporter, reading_options, report_options


@click.command("info")
@click.argument("path", metavar="IN", type=click.Path())
@click.option("--scale", type=int, default=4, show_default=True, metavar="N", help="Scale that you have in mind.")
@reading_options
@report_options
def command(path: str, as_json: bool, quiet: bool, verbose: int, **options: Any) -> None:
    """Show what geosr sees in a file, and what it would do with it."""
    from geosr.reading.info import describe

    reporter = Reporter(as_json=as_json, quiet=quiet, verbose=verbose)
    with reporter.listening():
        info = describe(path, **options)
    reporter.result(info.to_text(), info.to_dict())
