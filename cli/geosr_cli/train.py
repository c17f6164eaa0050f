"""``geosr train``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geosr_cli.common import Reporter, report_options
from geosr_cli.main import EXIT_INTERRUPTED, complain

if TYPE_CHECKING:
    from geosr.training.fitting import Row
    from geosr.training.recipe import Recipe


def _number(name: str, text: str, least: int, most: int | None = None, key: str | None = None) -> Any:
    return click.option(name, *([key] if key else []), type=click.IntRange(least, most), metavar="N", help=text)


def _without(name: str, key: str, text: str) -> Any:
    return click.option(name, key, is_flag=True, default=True, flag_value=False, help=text)


_CHOICES = [
    _number("--scale", "Fine cells along a coarse cell. Default: 4, or the recipe's.", 2, 16),
    click.option("--architecture", metavar="NAME", help="Network: edsr-32x6 (default), srcnn-9-1-5, srcnn-9-3-5, …"),
    click.option("--variable", metavar="NAME", help="Which variable or band to take, where files have several."),
    _number("--steps", "Train for N steps.", 1),
    _number("--seed", "Of the first weights and of the examples: same seed, same model.", 0),
    click.option("--loss", type=click.Choice(["charbonnier", "mse"]), help="Loss of the error."),
    click.option("--learning-rate", type=float, metavar="RATE", help="Adam's, at its largest."),
    _number("--batch", "Squares in a step.", 1),
    _number("--patch", "Side of a square in fine cells, a multiple of the scale.", 1),
    _number("--validate", "Look at the validation data, and save, every N steps.", 1, key="validate_every"),
    _number("--patience", "Stop after N looks without a better one; 0 goes to the end.", 0),
    click.option("--init", metavar="MODEL", help="Start from the weights of this model (name or path)."),
    _without("--no-residual", "residual", "Predict the field itself, not what the bicubic one lacks."),
    _without("--no-conserve", "conserve", "Take the loss before conservation, not after it."),
    _without("--no-sigma", "sigma", "Train no network for the error."),
    click.option(
        "--plain", is_flag=True, help="The papers' SRCNN: 9-1-5, biases, none of these, MSE, a constant rate of 3e-4."
    ),
]


def _choices(function: Any) -> Any:
    for option in reversed(_CHOICES):
        function = option(function)
    return function


@click.command("train")
@click.argument("source", metavar="FOLDER|RECIPE", type=click.Path())
@click.option("--data", type=click.Path(), metavar="FOLDER", help="With a recipe: the folder that its files are in.")
@click.option(
    "-o", "--output", required=True, type=click.Path(), metavar="BUNDLE", help="Folder for the trained model."
)
@_choices
@click.option("--overwrite", is_flag=True, help="Replace an existing model; forget an interrupted run.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run of the same recipe and data.")
@report_options
def command(
    source: str,
    data: str | None,
    output: str,
    overwrite: bool,
    resume: bool,
    as_json: bool,
    quiet: bool,
    verbose: int,
    **options: Any,
) -> None:
    """Train a network on a FOLDER of rasters, or by a RECIPE (a TOML file, or the name of one of geosr's own).

    Of a folder, every map that geosr can read is taken; the last dates, or a part of each region, are held out, and the
    model is judged on them. The recipe that was used goes with the model.

    \b
    geosr train maps/ --scale 4 -o my_model
    geosr train my_model/recipe.toml --data maps/ --steps 8000 -o longer
    geosr downscale s5p.nc --model my_model
    """
    from geosr.models import table
    from geosr.training import prepare, train
    from geosr.training.choices import Choices

    reporter = Reporter(as_json=as_json, quiet=quiet, verbose=verbose)
    with reporter.listening():
        task = prepare(source, data, output, Choices(**options))
        for note in task.notes:
            reporter.say(note)
        progress = _Progress(task.recipe, reporter)
        with progress.shown(output):
            card = train(task.recipe, task.data, output, progress.look, overwrite, resume, progress.tick)
        if progress.stopped:
            looks = f"{task.recipe.schedule.patience} look{'s' if task.recipe.schedule.patience > 1 else ''}"
            reporter.say(f"stopped at step {progress.stopped}: {looks} without a better validation loss")
    reporter.result(table([card]), card.to_dict())


class _Progress:
    """A bar with rate, time left and loss; without a terminal, a line at every look at the validation data."""

    def __init__(self, recipe: Recipe, reporter: Reporter) -> None:
        self.reporter = reporter
        self.steps = {"model": recipe.schedule.steps, "sigma": recipe.sigma.steps if recipe.sigma.architecture else 0}
        self.every = recipe.schedule.validate_every
        self.bar: Any = None
        self.validation = ""
        self.last = 0

    @property
    def stopped(self) -> int:
        """The step after which early stopping ended the first phase; 0 if it did not."""
        return self.last if self.last < self.steps["model"] else 0

    @contextlib.contextmanager
    def shown(self, output: str) -> Iterator[None]:
        """Show the bar; say how to go on where the run is interrupted."""
        from tqdm import tqdm

        hidden = self.reporter.quiet or sys.stderr is None or not sys.stderr.isatty()
        try:
            with tqdm(
                desc="train",
                unit="step",
                total=sum(self.steps.values()),
                disable=hidden,
                dynamic_ncols=True,
                leave=False,
            ) as self.bar:
                yield
        except (KeyboardInterrupt, SystemExit) as stop:
            saved = Path(output).with_name(f"{Path(output).name}.checkpoint").is_dir()
            after = "the same command with --resume goes on from the last look" if saved else "nothing was written"
            complain(f"geosr: interrupted; {after}")
            code = stop.code if isinstance(stop, SystemExit) and isinstance(stop.code, int) else EXIT_INTERRUPTED
            raise click.exceptions.Exit(code) from stop

    def tick(self, phase: str, step: int, loss: float) -> None:
        """A step is done."""
        now = step + (self.steps["model"] if phase == "sigma" else 0)
        if now - self.bar.n > 1:  # a resumed run, or one that stopped early: what was not done now has no rate
            self.bar.initial, self.bar.n = now - 1, now - 1
        self.bar.set_description("score" if now == self.bar.total else f"train {phase}", refresh=False)
        self.bar.set_postfix_str(f"loss {loss:.4g}{self.validation}", refresh=False)
        self.bar.update(now - self.bar.n)

    def look(self, row: Row) -> None:
        """A line of the curve is done."""
        if row.phase == "model":
            self.last = row.step
        if row.phase == "sigma":
            self.validation = ""
        elif row.validation is not None:
            self.validation = f", validation {row.validation:.4g}"
        if self.bar.disable and row.step % self.every == 0:
            total = self.steps[row.phase]
            self.reporter.say(f"{row.phase}: step {row.step} of {total}, loss {row.loss:.4g}{self.validation}")
