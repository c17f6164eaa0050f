"""geosr.evaluation.figures and geosr.evaluation.panels: what is drawn, where, and the file that comes out."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

import geosr
from geosr.errors import OutputError, UsageError
from geosr.evaluation.figures import check_figure, paint, scaled_unit
from geosr.evaluation.panels import WINDOW, cut_panels
from geosr.evaluation.results import Evaluations, numbered
from strategies import field, smooth_field

pytest.importorskip("matplotlib")

BOXES = {
    "geographic": GeoBox((60, 72), Affine(0.05, 0, 5, 0, -0.05, 52), "EPSG:4326"),
    "south-up": GeoBox((60, 72), Affine(0.05, 0, 5, 0, 0.05, 40), "EPSG:4326"),
    "projected": GeoBox((60, 72), Affine(2000, 0, 3e5, 0, -2000, 5e6), "EPSG:32632"),
    "rotated": GeoBox(
        (60, 72), Affine.translation(4e5, 4e6) * Affine.rotation(20) * Affine.scale(700, -900), "EPSG:32632"
    ),
}


def evaluated(box=BOXES["geographic"], scale=2, gap=True, **options):
    values = smooth_field(box.shape, seed=1)
    if gap:
        values[4:8, 6:9] = np.nan
    return geosr.evaluate(field(box, values, units="1e15 molec cm-2"), scale, network=False, **options)


@pytest.fixture(autouse=True)
def _coarse_dots(monkeypatch):
    monkeypatch.setattr("geosr.evaluation.figures._DPI", 60)  # what is drawn does not depend on it


@pytest.fixture(scope="module")
def found():
    return evaluated()


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_each_format_whole_and_the_same_again(found, tmp_path, suffix):
    path = found.figure(tmp_path / f"f{suffix}")
    first = path.read_bytes()
    assert first[:4] == {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xm"}[suffix]
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OutputError, match="exists"):
        found.figure(path)
    if suffix == ".svg":  # it would hold the date of its making, and random names
        assert found.figure(path, overwrite=True).read_bytes() == first


def test_a_failure_leaves_nothing(found, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    def fails(*args, **kwargs):
        raise OSError("no")

    monkeypatch.setattr("geosr.evaluation.figures.paint", lambda *_: Figure())
    monkeypatch.setattr(Figure, "savefig", fails)
    with pytest.raises(OutputError):
        found.figure(tmp_path / "f.png")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_drawn_is_told_early(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"\.png, \.pdf, \.svg"):
        check_figure(tmp_path / "f.jpg")
    with pytest.raises(OutputError, match="folder does not exist"):
        check_figure(tmp_path / "no" / "f.png")
    (tmp_path / "f.png").mkdir()
    with pytest.raises(OutputError, match="exists"):
        check_figure(tmp_path / "f.png", overwrite=True)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"pip install 'geosr\[plot\]'"):
        check_figure(tmp_path / "g.png")


def test_the_panels_of_the_figure(found):
    figure = paint(found, found.panels)
    titles = [ax.get_title(loc="left") for ax in figure.axes[:9]]
    assert all(f"({letter})" in title for letter, title in zip("abcdefghi", titles, strict=True))
    for number, word in (
        (1, "truth, 0.05"),
        (2, "coarse, 0.1"),
        (3, "bicubic, "),
        (4, "back-projected"),
        (8, "effective"),
    ):
        assert word in titles[number]
    maps = [figure.axes[i].images[0] for i in (1, 2, 3, 4)]
    assert len({(m.norm.vmin, m.norm.vmax) for m in maps}) == 1  # one scale for what is compared
    errors = [figure.axes[i].images[0] for i in (6, 7)]
    assert len({(e.norm.vmin, e.norm.vmax) for e in errors}) == 1
    assert errors[0].norm.vmin == -errors[0].norm.vmax
    drawn = maps[0].get_array()
    np.testing.assert_array_equal(np.ma.getmaskarray(drawn), np.isnan(found.panels.truth))  # gaps have the gaps' grey
    assert maps[0].cmap.get_bad()[:3] == pytest.approx((0.75, 0.75, 0.75))
    assert errors[1].cmap.get_bad()[:3] == pytest.approx((0.75, 0.75, 0.75))
    assert "km" in figure.axes[8].get_xlabel()


@pytest.mark.parametrize("name", BOXES)
def test_maps_lie_where_the_grid_says(name):
    box = BOXES[name]
    found = evaluated(box)
    figure = paint(found, found.panels)
    image = figure.axes[1].images[0]
    left, right, bottom, top = image.get_extent()
    labels = figure.axes[6].get_xlabel(), figure.axes[6].get_ylabel()
    if name == "rotated":
        assert (left, top) == (0, 0)
        assert (right, bottom) == pytest.approx((72 * 0.7, 60 * 0.9))
        assert "km along rows" in labels
    elif name == "projected":
        assert (left, right, bottom, top) == pytest.approx((300, 444, 4880, 5000))
        assert labels == ("easting (km)", "northing (km)")
    else:
        edges = box.affine.f, box.affine.f + 60 * box.affine.e
        assert (left, right, top, bottom) == pytest.approx((5, 8.6, *edges))
        low, high = figure.axes[1].get_ylim()
        assert low < high  # north is up, also for a grid that is not


def test_a_large_raster_is_shown_by_its_most_structured_window():
    box = GeoBox((400, 500), Affine(2000, 0, 3e5, 0, -2000, 5e6), "EPSG:32632")
    truth = np.zeros((400, 500))
    truth[290:320, 350:380] = smooth_field((30, 30)) * 50
    coarse = truth.reshape(100, 4, 125, 4).mean(axis=(1, 3))
    methods = {"bicubic": truth, "net": truth + 1}
    panels = cut_panels(truth, coarse, methods, "net", box)
    rows, cols = panels.window
    assert panels.zoomed
    assert panels.truth.shape == (WINDOW * 4, WINDOW * 4) == (rows.stop - rows.start, cols.stop - cols.start)
    assert rows.start <= 290 < 320 <= rows.stop
    assert cols.start <= 350 < 380 <= cols.stop
    assert panels.box == box[panels.window]
    np.testing.assert_array_equal(panels.fields["net"], panels.truth + 1)
    assert max(panels.whole.shape) <= 400
    truth[300] = np.nan  # a window with gaps is not taken while there are complete ones
    coarse[70:80, 85:95] = np.nan
    other = cut_panels(truth, coarse, methods, "net", box)
    assert np.isfinite(other.coarse).mean() > 0.9


def test_windows_are_square_on_the_ground():
    box = GeoBox((320, 640), Affine(0.1, 0, 0, 0, -0.1, 76), "EPSG:4326")
    truth = np.random.default_rng(0).normal(size=(320, 640)) * (np.arange(320) < 160)[:, None]
    coarse = truth.reshape(80, 4, 160, 4).mean(axis=(1, 3))
    panels = cut_panels(truth, coarse, {"bicubic": truth, "net": truth}, "net", box)
    assert panels.truth.shape[0] == 160
    assert panels.truth.shape[1] > 240  # at 68 degrees a degree of longitude is 0.37 of one of latitude


def test_a_raster_without_a_window_still_has_its_figure():
    found = evaluated(BOXES["geographic"], scale=8)
    assert found.spectrum is None
    figure = paint(found, found.panels)
    assert "no window" in figure.axes[5].texts[0].get_text()


def test_a_zoomed_figure_marks_its_window(tmp_path):
    box = GeoBox((260, 300), Affine(2000, 0, 3e5, 0, -2000, 5e6), "EPSG:32632")
    found = evaluated(box)
    figure = paint(found, found.panels)
    (mark,) = figure.axes[0].patches
    rows, cols = found.panels.window
    assert mark.get_xy() == pytest.approx((300 + 2 * cols.start, 5000 - 2 * rows.start))
    assert (mark.get_width(), mark.get_height()) == pytest.approx((2 * WINDOW * 2, -2 * WINDOW * 2))


def test_no_resolution_is_called_none():
    noisy = evaluated(noise=30.0)
    assert np.isnan(noisy.spectrum.effective_resolution_km("bicubic"))
    labels = [text.get_text() for text in paint(noisy, noisy.panels).axes[8].get_legend().get_texts()]
    assert "bicubic: none" in labels
    assert "nan" not in noisy.to_text()
    assert "nan" not in " ".join(labels)


def test_a_figure_for_each_case(found, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    monkeypatch.setattr("geosr.evaluation.figures.paint", lambda *_: Figure())
    many = Evaluations.of([found, found])
    assert many.figure(tmp_path / "f.svg") == [tmp_path / "f_1.svg", tmp_path / "f_2.svg"]
    assert numbered("a/b.c.png", 12).name == "b.c_12.png"


@pytest.mark.parametrize(
    ("largest", "units", "factor", "text"),
    [
        (2e-5, "mol m-2", 1e6, "$10^{-6}$ mol m$^{-2}$"),
        (3e15, "molec cm-2", 1e-15, "$10^{15}$ molec cm$^{-2}$"),
        (30, "1e15 molec cm-2", 1, "$10^{15}$ molec cm$^{-2}$"),
        (4e4, "1e15 molec cm-2", 1e-3, "$10^{18}$ molec cm$^{-2}$"),
        (0.4, "mol/m2", 1, "mol/m$^{2}$"),
        (200, None, 1, ""),
        (0, None, 1, ""),
    ],
)
def test_units_and_powers_of_ten(largest, units, factor, text):
    got = scaled_unit(np.array([largest, np.nan, -largest / 2]), units)
    assert got == (pytest.approx(factor), text)
