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
@click.option("--resume", is_flag=True, help="Go on with an interrupted run of the same recipe and data.")
@report_options
def command(
    recipe: str,
    data: str,
    output: str,
    steps: int | None,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    quiet: bool,
    verbose: int,
) -> None:
    """Train a network by RECIPE (a TOML file, or the name of a model that ships with geosr) and bundle it.

    \b
    geosr train my_recipe.toml --data rasters/ -o my_model
    geosr downscale s5p.nc --model my_model
    """
    from geosr.fitting import Row
    from geosr.models import table
    from geosr.recipe import read_recipe
    from geosr.training import train

    reporter = Reporter(as_json=as_json, quiet=quiet, verbose=verbose)
    plan = read_recipe(recipe)
    if steps is not None:
        plan = plan.with_steps(steps)
    with reporter.listening(), reporter.progress("train", unit="step") as progress:
        steps_of = {"model": plan.schedule.steps, "sigma": plan.sigma.steps if plan.sigma.architecture else 0}
        done = 0

        def note(row: Row) -> None:
            nonlocal done
            now = row.step + (steps_of["model"] if row.phase == "sigma" else 0)
            progress(now - done, sum(steps_of.values()))
            done = now

        card = train(plan, data, output, note, overwrite, resume)
    reporter.result(table([card]), card.to_dict())
