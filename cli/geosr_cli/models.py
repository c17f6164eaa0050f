"""``geosr models``."""

from __future__ import annotations

import click

from geosr_cli.common import Reporter, report_options


@click.command("models")
@report_options
def command(as_json: bool, quiet: bool, verbose: int) -> None:
    """List the models that ship with geosr: scale, architecture, and skill on data they never saw."""
    from geosr.models import available, table

    cards = available()
    Reporter(as_json=as_json, quiet=quiet, verbose=verbose).result(table(cards), [card.to_dict() for card in cards])
