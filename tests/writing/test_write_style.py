"""The QGIS style. Checked once by hand with QGIS 3.22.16: the layer opens with this renderer by itself."""

from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio

from geosr.writing import write
from geosr.writing.style import qml, robust_range


def shader_of(text):
    root = ElementTree.fromstring(text)
    (renderer,) = root.findall("pipe/rasterrenderer")
    (shader,) = renderer.findall("rastershader/colorrampshader")
    return renderer, shader


def test_style_lies_beside_and_spans_the_robust_range(tmp_path, dataset, provenance):
    values = np.linspace(0, 1e-4, 300 * 400, dtype=np.float32).reshape(300, 400)
    values[10, 10] = 5.0  # an outlier must not flatten the picture
    values[:50, :50] = np.nan
    report = write(dataset(values), tmp_path / "out.tif", main="no2", provenance=provenance)
    assert report.files == tuple(tmp_path / name for name in ("out.tif", "out.qml", "out.tif.json"))
    renderer, shader = shader_of((tmp_path / "out.qml").read_text())
    low, high = np.nanpercentile(values.astype(np.float64), [2, 98])
    assert float(shader.get("minimumValue")) == pytest.approx(low, rel=1e-6)
    assert float(shader.get("maximumValue")) == pytest.approx(high, rel=1e-6)
    assert renderer.get("classificationMin") == shader.get("minimumValue")
    assert renderer.get("type") == "singlebandpseudocolor"
    assert renderer.get("band") == "1"
    assert renderer.find("minMaxOrigin/limits").text == "None"


def test_ramp_is_continuous_ordered_and_labelled_with_the_unit():
    _, shader = shader_of(qml(-1e-6, 8e-5, "mol m-2"))
    assert (shader.get("colorRampType"), shader.get("classificationMode")) == ("INTERPOLATED", "1")
    items = shader.findall("item")
    values = [float(i.get("value")) for i in items]
    assert values == sorted(set(values))
    assert (values[0], values[-1]) == (-1e-6, 8e-5)
    assert items[0].get("label") == "-1e-06 mol m-2"
    assert items[-1].get("label") == "8e-05 mol m-2"
    legend = shader.find("rampLegendSettings")
    assert (legend.get("minimumLabel"), legend.get("maximumLabel")) == ("-1e-06 mol m-2", "8e-05 mol m-2")
    options = {o.get("name"): o.get("value") for o in shader.findall("colorramp/Option/Option")}
    assert options == {p.get("k"): p.get("v") for p in shader.findall("colorramp/prop")}
    assert options["color1"] == "68,1,84,255"
    assert len(options["stops"].split(":")) == len(items) - 2


def test_colours_are_viridis():
    colormaps = pytest.importorskip("matplotlib").colormaps
    colours = np.array([bytes.fromhex(i.get("color")[1:])[:] for i in shader_of(qml(0, 1))[1].findall("item")])
    ours = np.array([list(c) for c in colours], float)
    at = np.linspace(0, 1, 256)
    line = np.stack([np.interp(at, np.linspace(0, 1, len(ours)), ours[:, k]) for k in range(3)], axis=1)
    assert np.abs(line - 255 * np.array(colormaps["viridis"].colors)).max() < 2


def test_unit_is_escaped():
    _, shader = shader_of(qml(0, 1, 'a<b & "c" µmol'))
    assert shader.find("rampLegendSettings").get("suffix") == ' a<b & "c" µmol'


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.full((9, 9), np.nan), (0.0, 1.0)),
        (np.zeros((9, 9)), (-0.5, 0.5)),
        (np.full((9, 9), 4.0), (2.0, 6.0)),
        (np.where(np.arange(81).reshape(9, 9) == 40, 7.0, 1.0), (1.0, 7.0)),
    ],
    ids=["all NaN", "zero", "constant", "one value differs"],
)
def test_range_of_odd_fields_is_not_empty(tmp_path, dataset, provenance, values, expected):
    write(dataset(values.astype(np.float32)), tmp_path / "out.tif", main="no2", provenance=provenance)
    assert robust_range(tmp_path / "out.tif", [1]) == expected


def test_range_of_a_series_covers_its_layers(tmp_path, dataset, provenance):
    values = np.stack([np.full((20, 20), k, np.float32) for k in range(3)])
    write(dataset(values), tmp_path / "out.tif", main="no2", provenance=provenance)
    assert robust_range(tmp_path / "out.tif", range(1, 4)) == (0.0, 2.0)


def test_range_of_a_large_file_without_overviews_reads_little_of_it(tmp_path, dataset, provenance, monkeypatch):
    rng = np.random.default_rng(0)
    values = rng.normal(5, 1, (1024, 5000)).astype(np.float32)
    options = {"OVERVIEWS": "NONE", "BLOCKSIZE": 128}
    path = tmp_path / "o.tif"
    write(dataset(values, chunks=1024), path, main="no2", provenance=provenance, creation_options=options)
    cells, real = [], rasterio.open

    class Counting:
        """Says how many cells are asked for."""

        def __init__(self, *args, **kwargs):
            self.source = real(*args, **kwargs)

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            self.source.close()

        def __getattr__(self, name):
            return getattr(self.source, name)

        def read(self, band, window=None, out_shape=None):
            found = self.source.read(band, window=window, out_shape=out_shape)
            cells.append(self.source.height * self.source.width if window is None else found.size)
            return found

    monkeypatch.setattr(rasterio, "open", Counting)
    low, high = robust_range(path, [1])
    assert (low, high) == pytest.approx(np.percentile(values, [2, 98]), rel=0.02)
    assert len(cells) == 64
    assert sum(cells) < values.size / 4
