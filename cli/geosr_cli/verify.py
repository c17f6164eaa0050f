"""``geosr verify``."""

from __future__ import annotations

from typing import Any

import click

from geosr_cli.common import Reporter, printable, report_options


@click.command("verify")
@click.argument("outputs", metavar="OUT...", nargs=-1, required=True, type=click.Path())
@report_options
def command(outputs: tuple[str, ...], **how: Any) -> None:
    """Check outputs of geosr against their manifests: are they, to the bit, what was written?

    OUT.json beside an output has the SHA-256 of its files, of the inputs and of the model. Exits with 3 if a file is
    missing or has changed.
    """
    from geosr.writing.manifest import verify

    reporter = Reporter(**how)
    found = [verify(path) for path in outputs]
    documents = [one.to_dict() for one in found]
    lines = "\n".join(printable(one.line()) for one in found)
    reporter.result(lines, documents[0] if len(found) == 1 else {"results": documents})
