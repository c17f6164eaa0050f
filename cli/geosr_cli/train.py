"""``geosr train``."""

from __future__ import annotations

import click

from geosr_cli.common import Reporter, report_options


@click.command("train")
@click.argument("recipe", type=click.Path())
@click.option(
    "--data", required=True, type=click.Path(), metavar="FOLDER", help="Folder that the recipe's files are in."
)
@click.option(
    "-o", "--output", required=True, type=click.Path(), metavar="BUNDLE", help="Folder for the trained model."
)
@click.option("--steps", type=click.IntRange(1), metavar="N", help="Train for N steps instead of the recipe's.")
@click.option("--overwrite", is_flag=True, help="Replace an existing model.")
@report_options
def command(
    recipe: str, data: str, output: str, steps: int | None, overwrite: bool, as_json: bool, quiet: bool, verbose: int
) -> None:
    """Train a network by RECIPE (a TOML file, or the name of a model that ships with geosr) and bundle it.

    \b
    geosr train my_recipe.toml --data rasters/ -o my_model
    geosr downscale s5p.nc --model my_model
    """
    from geosr.models import table
    from geosr.recipe import read_recipe
    from geosr.training import train

    reporter = Reporter(as_json=as_json, quiet=quiet, verbose=verbose)
    plan = read_recipe(recipe)
    if steps is not None:
        plan = plan.with_steps(steps)
    with reporter.listening(), reporter.progress("train", unit="step") as progress:
        done = 0

        def note(step: int, loss: float) -> None:
            nonlocal done
            progress(step - done, plan.schedule.steps)
            done = step

        card = train(plan, data, output, note, overwrite)
    reporter.result(table([card]), card.to_dict())
