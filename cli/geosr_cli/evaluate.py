"""``geosr evaluate``."""

from __future__ import annotations

from typing import Any

import click

from geosr_cli.common import Reporter, engine_option, reading_options, report_options


@click.command("evaluate")
@click.argument("truth", type=click.Path())
@click.option("--scale", type=int, default=4, show_default=True, metavar="N", help="Degrade by N, refine again by N.")
@click.option("--model", metavar="NAME|PATH", help="Model to judge. Default: the shipped one for the scale.")
@engine_option
@reading_options
@report_options
def command(
    truth: str,
    scale: int,
    model: str | None,
    engine: str,
    as_json: bool,
    quiet: bool,
    verbose: int,
    **options: Any,
) -> None:
    """Judge the network against interpolation on TRUTH, a map at its native resolution.

    TRUTH is averaged to cells N times larger, refined again by every method, and compared (Wald's protocol).
    """
    from geosr.evaluate import evaluate
    from geosr.reading import open_no2
    from geosr.variables import main_variable

    reporter = Reporter(as_json=as_json, quiet=quiet, verbose=verbose)
    with reporter.listening():
        result = evaluate(main_variable(open_no2(truth, **options)), scale, model, engine=engine)
    reporter.result(result.to_text(), result.to_dict())
