"""``geosr models``."""

from __future__ import annotations

import click

from geosr_cli.common import Reporter, report_options


@click.group("models", invoke_without_command=True)
@report_options
@click.pass_context
def command(ctx: click.Context, as_json: bool, quiet: bool, verbose: int) -> None:
    """List the models that ship with geosr: scale, architecture, and skill on data they never saw.

    \b
    geosr models import FILE.keras --scale 4 -o my_model    a bundle of the weights in a Keras file
    """
    if ctx.invoked_subcommand is not None:
        return
    from geosr.models import available, table

    cards = available()
    Reporter(as_json=as_json, quiet=quiet, verbose=verbose).result(table(cards), [card.to_dict() for card in cards])


@command.command("import")
@click.argument("file", metavar="FILE", type=click.Path())
@click.option("--scale", type=int, required=True, metavar="N", help="Scale that it was trained for.")
@click.option("-o", "--output", type=click.Path(), required=True, metavar="BUNDLE", help="Folder to make.")
@click.option(
    "--architecture",
    metavar="NAME",
    help="Which SRCNN: 9-1-5, 9-3-5, 9-5-5, or a full name. Default: the one whose weights these are.",
)
@click.option(
    "--range",
    "span",
    nargs=2,
    type=float,
    metavar="LOW HIGH",
    help="Columns that its input 0 and 1 stand for. Default: 0 30.",
)
@click.option("--units", metavar="UNIT", help="Units of the range. Default: 1e15 molec cm-2.")
@click.option("--residual", is_flag=True, help="It predicts what is to be added to the bicubic field.")
@click.option("--name", metavar="NAME", help="Name of the model. Default: the file's.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@report_options
def import_command(
    file: str,
    scale: int,
    output: str,
    architecture: str | None,
    span: tuple[float, float] | None,
    units: str | None,
    residual: bool,
    name: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    verbose: int,
) -> None:
    """Make a bundle of the weights in a Keras file (.keras, .h5, .weights.h5), for downscale --model.

    Nothing that the file says is run, or built: its arrays must be those of an SRCNN that geosr knows, from one
    channel of the bicubic field to the fine field, ReLU between.

    \b
    geosr models import srcnn.weights.h5 --scale 4 --range 0 20 --units "1e15 molec cm-2" -o my_model
    geosr downscale no2.tif --scale 4 --model my_model
    """
    from geosr.models.importing import RANGE, UNITS, Wishes, import_keras

    reporter = Reporter(as_json=as_json, quiet=quiet, verbose=verbose)
    with reporter.listening():
        wishes = Wishes(scale, architecture, *(span or RANGE), units or UNITS, residual, name)
        card = import_keras(file, output, wishes, overwrite)
    reporter.say(f"{output}: {card.name}, x{card.scale}, {card.architecture}. {' '.join(card.limits)}")
    if as_json:
        reporter.result("", {"output": output, **card.to_dict()})
