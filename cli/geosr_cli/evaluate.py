"""``geosr simulate``."""

from __future__ import annotations

import click

from geosr_cli.common import Reporter, report_options


@click.command("simulate")
@report_options
def command(as_json: bool, quiet: bool, verbose: int) -> None:
    """Make"""
    Reporter(as_json=as_json, quiet=quiet, verbose=verbose)
