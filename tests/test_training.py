"""From rasters and a recipe to a bundle with its card."""

from __future__ import annotations

import errno
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bundles import random_bundle
from geosr.errors import GeosrWarning, InputError, ModelError, OutputError, UsageError
from geosr.models import load_model
from geosr.training import curves, prepare, run, train
from geosr.training.choices import Choices
from geosr.training.fitting import Row
from geosr.training.recipe import Data, parse_recipe, read_recipe
from rasters import RECIPE, plumes, write_days, write_map

pytest.importorskip("tensorflow")

SIGMA = """
[sigma]
architecture = "sigma-24x4"
steps = 30
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_days(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    """(folder of the bundle, card, curve) of a short run of a network on the coarse grid."""
    out = tmp_path_factory.mktemp("runs")
    text = RECIPE.replace("srcnn-9-1-5", "edsr-16x4").replace("steps = 60", "steps = 150\nvalidate_every = 50") + SIGMA
    rows: list[Row] = []
    card = train(parse_recipe(text), folder, out / "tiny", rows.append)
    return out / "tiny", card, rows


def test_a_short_run(trained, folder):
    """The loss falls, the bundle loads, and the held-out days are scored and better than conserved bicubic."""
    place, card, rows = trained
    assert [(r.phase, r.step) for r in rows] == [("model", 50), ("model", 100), ("model", 150), ("sigma", 30)]
    assert rows[2].loss < 0.9 * rows[0].loss
    model = load_model(place)
    assert model.card == card
    assert (model.family, model.has_sigma) == ("edsr", True)
    assert card.training["files"] == [f"day_202310{d:02d}.tif" for d in range(1, 5)]
    assert parse_recipe((place / "recipe.toml").read_text()) == read_recipe(place / "recipe.toml")
    assert card.training["recipe"] == read_recipe(place / "recipe.toml").to_dict()
    assert card.training["software"]["tensorflow"]
    assert not list(place.parent.glob("*.checkpoint"))
    assert not list(place.parent.glob(".*"))


def test_the_card_says_how_good_it_is(trained):
    _, card, _ = trained
    (entry,) = card.skill
    assert (entry["name"], entry["scenes"]) == ("later", 2)
    assert entry["psnr"]["edsr"] > entry["psnr"]["conserved bicubic"]
    assert entry["rmse"]["edsr"] < entry["rmse"]["conserved bicubic"]
    gain = entry["gain"]["bicubic"]
    assert gain["db"] == pytest.approx(entry["psnr"]["edsr"] - entry["psnr"]["bicubic"], abs=0.002)
    assert gain["low"] is None or gain["low"] <= gain["db"] <= gain["high"]
    assert set(entry["gain"]) == {"bicubic", "best interpolation"}
    assert entry["worst_gain"] <= entry["gain"]["best interpolation"]["db"]
    assert 0 < entry["sigma"]["one_sigma"] < entry["sigma"]["two_sigma"] <= 1


def test_the_card_says_what_it_was_trained_on(trained, folder):
    """Coarse cells of 0.2 and, as a coarser sensor sees them, 0.4 degrees."""
    from geosr.envelope import Envelope

    _, card, _ = trained
    small, large = card.envelope["coarse_cell_m"]
    assert large == pytest.approx(2 * small, rel=0.02)
    assert small == pytest.approx(0.2 * 111_000 * np.sqrt(np.cos(np.deg2rad(32))), rel=0.02)
    assert card.envelope["units"] == "1e15 molec cm-2"
    assert Envelope.from_dict(card.envelope).to_dict() == card.envelope


def test_the_curve_is_kept_and_drawn(trained):
    place, _, rows = trained
    lines = (place / "training.csv").read_text().splitlines()
    assert lines[0] == "phase,step,loss,validation"
    assert [line.split(",")[:2] for line in lines[1:]] == [[r.phase, str(r.step)] for r in rows]
    image = pytest.importorskip("matplotlib.image").imread(place / "training.png")
    assert image.shape[1] > image.shape[0] > 300
    assert image[..., :3].std() > 0.02


CURVE = [Row("model", 10, 0.5, 0.4), Row("model", 20, 0.3, 0.2), Row("model", 30, 0.2, 0.3), Row("sigma", 5, 0.1)]


def test_the_chosen_step():
    assert curves.chosen_step(CURVE[:3], patience=2) == 20
    assert curves.chosen_step(CURVE[:3], patience=0) == 30
    assert curves.chosen_step(CURVE[3:], patience=0) == 5


def test_the_picture_shows_the_curve(tmp_path, monkeypatch):
    """Titles, labels, a logarithmic axis, the validation points, and the step whose weights were kept."""
    figure = pytest.importorskip("matplotlib.figure").Figure
    seen = []
    monkeypatch.setattr(figure, "savefig", lambda self, *args, **kwargs: seen.append(self))
    recipe = parse_recipe(RECIPE.replace("steps = 60", "steps = 30\npatience = 2") + SIGMA + VALIDATE)
    assert curves.draw(tmp_path, CURVE, replace(recipe, name="50$ a_b$"))
    left, right = seen[0].axes
    assert "srcnn-9-1-5" in left.get_title()
    assert "sigma-24x4" in right.get_title()
    assert (left.get_yscale(), left.get_xlabel()) == ("log", "step")
    assert "charbonnier" in left.get_ylabel()
    training, validation, kept = left.get_lines()
    assert list(training.get_ydata()) == [0.5, 0.3, 0.2]
    assert list(validation.get_ydata()) == [0.4, 0.2, 0.3]
    assert list(kept.get_xdata()) == [20, 20]


def test_without_matplotlib_there_is_no_picture(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert not curves.draw(tmp_path, CURVE, parse_recipe(RECIPE))
    assert not list(tmp_path.iterdir())


VALIDATE = """
[[validate]]
files = "day_*.tif"
units = "1e15 molec cm-2"
dates = ["2023-10-05", "2023-10-05"]
"""


def test_early_stopping_is_told(folder, tmp_path):
    text = RECIPE.replace("srcnn-9-1-5", "edsr-16x4").replace("learning_rate = 3e-3", "learning_rate = 1.0")
    text = text.replace("steps = 60", "steps = 60\nvalidate_every = 2\npatience = 2").replace(
        '["2023-10-05", "2023-10-31"]', '["2023-10-06", "2023-10-31"]'
    )
    rows: list[Row] = []
    train(parse_recipe(text + VALIDATE), folder, tmp_path / "m", rows.append)
    looks = {row.step: row.validation for row in rows if row.validation is not None}
    assert max(looks) == min(looks, key=looks.get) + 4 < 60


@pytest.mark.parametrize("options", ["equivariant = false", "residual = false\nequivariant = false"])
def test_plain_networks_train_too(folder, tmp_path, options):
    """The SRCNN of the papers: biases, no residual, mean squared error, no conservation in the loss."""
    text = RECIPE.replace("[patches]", f'{options}\n[loss]\nkind = "mse"\nconserve = false\n[patches]')
    losses: list[float] = []
    card = train(parse_recipe(text).with_steps(150), folder, tmp_path / "plain", lambda row: losses.append(row.loss))
    assert losses[-1] < 0.8 * losses[0]
    arrays = load_model(tmp_path / "plain").arrays()
    assert card.network.weight_count(1, 4, bias=True) == sum(k.size + b.size for k, b in arrays)
    truth = np.concatenate([plumes((120, 100), d).ravel() for d in range(1, 5)])
    assert card.scaler.offset == pytest.approx(truth.mean(), rel=0.02)  # composites and coarser ones have less spread
    assert 0.5 * truth.std() < card.scaler.scale < truth.std()


# --- what is refused, and when ---------------------------------------------------------------------------------


def never(*_):
    pytest.fail("trained")


def test_a_leak_is_told_before_the_training(folder, tmp_path):
    leaky = parse_recipe(RECIPE.replace('"2023-10-05", "2023-10-31"', '"2023-10-04", "2023-10-31"'))
    with pytest.raises(ModelError, match=r"day_20231004.tif is held out and trained on"):
        train(leaky, folder, tmp_path / "never", tick=never)
    assert not list(tmp_path.iterdir())


def test_what_is_there_is_kept(folder, tmp_path):
    recipe = parse_recipe(RECIPE)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for name in ("file", "full"):
        for overwrite in (False, True):
            with pytest.raises(OutputError, match="not a model"):
                train(recipe, folder, tmp_path / name, tick=never, overwrite=overwrite)
    with pytest.raises(OutputError, match="cannot be made"):
        train(recipe, folder, tmp_path / "file" / "model", tick=never)
    assert (tmp_path / "file").read_text() == (tmp_path / "full" / "mine.txt").read_text() == "mine"


def test_a_model_that_has_seen_what_is_held_out_is_no_start(folder, tmp_path):
    """Nor is one that was started from it; what has not, is."""
    recipe = parse_recipe(RECIPE.replace("srcnn-9-1-5", "edsr-16x4").replace("60", "2"))
    first = tmp_path / "first"
    random_bundle(first, "edsr-16x4", 4, training={"files": ["day_20231002.tif"]})
    card = train(started(recipe, first), folder, tmp_path / "second")
    assert card.training["start"] == {"name": "random-edsr-16x4", "files": ["day_20231002.tif"]}
    other = Data("day_20231002.tif", name="swapped", units="1e15 molec cm-2")
    swapped = replace(recipe, train=(Data("day_20231006.tif", units="1e15 molec cm-2"),), heldout=(other,))
    for start in ("first", "second"):
        with pytest.raises(ModelError, match=r"day_20231002.tif: held out, but .* trained on that"):
            train(started(swapped, tmp_path / start), folder, tmp_path / "never", tick=never)
    assert not (tmp_path / "never").exists()


def started(recipe, start):
    return replace(recipe, network=replace(recipe.network, init=str(start)))


# --- disks ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="no folder in which nobody may write")
def test_a_place_where_nothing_can_be_written_is_told_before_the_training(folder):
    with pytest.raises(OutputError, match="nothing can be written to /proc"):
        train(parse_recipe(RECIPE), folder, "/proc/model", tick=never)


@pytest.mark.parametrize("error", [OSError(errno.EFBIG, "File too large"), RuntimeError("h5py: unable to flush")])
def test_a_disk_that_fails_at_the_end_leaves_the_checkpoint(folder, tmp_path, monkeypatch, error):
    """And nothing half-written; what was there stays."""
    recipe = parse_recipe(RECIPE.replace("srcnn-9-1-5", "edsr-16x4").replace("60", "2"))
    random_bundle(tmp_path / "m", "edsr-16x4", 4)
    before = (tmp_path / "m" / "card.json").read_bytes()

    def fail(place, *_):
        place.mkdir()
        (place / "model.onnx").write_bytes(b"half")
        raise error

    monkeypatch.setattr(run, "save_bundle", fail)
    with pytest.raises(OutputError, match=r"larger than the file size limit|could not be written"):
        train(recipe, folder, tmp_path / "m", overwrite=True)
    monkeypatch.undo()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "m.checkpoint"]
    assert (tmp_path / "m" / "card.json").read_bytes() == before
    train(recipe, folder, tmp_path / "m", overwrite=True, resume=True, tick=never)
    assert load_model(tmp_path / "m").card.name == "tiny"


def test_a_model_that_cannot_be_moved_leaves_the_old_one(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "mine").write_text("mine")
    with pytest.raises(FileNotFoundError):
        run._move(tmp_path / "none", tmp_path / "m", tmp_path / "old")
    assert (tmp_path / "m" / "mine").read_text() == "mine"


class Stop(Exception):
    """What interrupts a run."""


def test_an_interrupted_run_is_resumed_or_forgotten(folder, tmp_path):
    """Broken off in both phases and resumed: weights, curve and skill are those of a run in one go, to the bit."""
    text = RECIPE.replace("srcnn-9-1-5", "edsr-16x4").replace("steps = 60", "steps = 20\nvalidate_every = 10")
    recipe, out = parse_recipe(text + SIGMA), tmp_path / "parts"
    whole = train(recipe, folder, tmp_path / "whole")

    def stop_at(phase, step):
        def tick(*now):
            if now[:2] == (phase, step):
                raise Stop

        return tick

    with pytest.raises(Stop):
        train(recipe, folder, out, tick=stop_at("model", 15))
    assert not out.exists()
    with pytest.raises(OutputError, match="--resume, or start anew with --overwrite"):
        train(recipe, folder, out, tick=never)
    with pytest.raises(ModelError, match="another recipe"):
        train(recipe.with_steps(21), folder, out, resume=True, tick=never)
    with pytest.raises(ModelError, match="no checkpoint"):
        train(recipe, folder, tmp_path / "other", resume=True, tick=never)
    with pytest.raises(Stop):
        train(recipe, folder, out, resume=True, tick=stop_at("sigma", 17))
    parts = train(recipe, folder, out, resume=True)
    assert not (tmp_path / "parts.checkpoint").exists()
    for part in ("model", "sigma"):
        pairs = [(load_model(tmp_path / name).arrays(part)) for name in ("whole", "parts")]
        for (a, _), (b, _) in zip(*pairs, strict=True):
            np.testing.assert_array_equal(a, b)
    assert parts.skill == whole.skill
    assert (tmp_path / "whole/training.csv").read_text() == (out / "training.csv").read_text()


def test_a_checkpoint_of_other_data_is_refused(folder, tmp_path):
    other = write_days(tmp_path / "other")
    values = plumes((120, 100), 2)
    values[0, 0] += 1
    write_map(other / "day_20231002.tif", values)
    recipe = parse_recipe(RECIPE.replace("srcnn-9-1-5", "edsr-16x4").replace("60", "4\nvalidate_every = 1"))

    def stop(phase, step, loss):
        if step == 2:
            raise Stop

    with pytest.raises(Stop):
        train(recipe, folder, tmp_path / "m", tick=stop)
    with pytest.raises(ModelError, match="other data"):
        train(recipe, other, tmp_path / "m", resume=True, tick=never)
    file = tmp_path / "m.checkpoint" / "model.npz"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="damaged"):
        train(recipe, folder, tmp_path / "m", resume=True, tick=never)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GeosrWarning)
        train(recipe, folder, tmp_path / "m", overwrite=True)  # forgets it
    assert load_model(tmp_path / "m").family == "edsr"


def test_prepare_tells_a_folder_from_a_recipe(folder, tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE)
    task = prepare(tmp_path / "r.toml", folder, tmp_path / "m", Choices(steps=7))
    assert (task.recipe, task.data) == (parse_recipe(RECIPE).with_steps(7), folder)
    with pytest.warns(GeosrWarning, match="no date"):  # the mean lies in the place of the days
        task = prepare(folder, None, tmp_path / "m", Choices(architecture="srcnn-9-1-5"))
    assert task.recipe.name == "m"
    assert len(task.notes) == 3
    for source, data, error, match in (
        (folder, folder, UsageError, "so is --data"),
        (tmp_path / "r.toml", None, UsageError, "--data FOLDER"),
        (tmp_path / "r.toml", tmp_path / "none", InputError, "no such folder"),
        (tmp_path / "none", None, InputError, "no such file or folder, and no recipe of that name"),
    ):
        with pytest.raises(error, match=match):
            prepare(source, data, tmp_path / "m", Choices())


def test_without_tensorflow_there_is_a_hint(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(UsageError, match="geosr\\[tensorflow\\]"):
        prepare(folder, None, tmp_path / "m", Choices())
