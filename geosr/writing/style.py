"""The colours in which QGIS opens an output: a ``.qml`` beside the GeoTIFF.

A palette inside a float32 GeoTIFF is silently lost, but QGIS loads ``<name>.qml`` beside ``<name>.tif`` by itself.
The elements and attributes are those that QGIS 3.22 saves for a single-band pseudocolour renderer
(``QgsSingleBandPseudoColorRenderer``, ``QgsColorRampShader``); colours are given both as ``Option`` (3.22 on) and
as ``prop`` (before).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

# viridis (Smith, van der Walt & Firing 2015, CC0) as in matplotlib 3.11, at 33 equal steps; straight lines between
# them stay within 2/255 of its 256 colours. Lightness rises evenly, also for colour-blind eyes and in grey.
_BYTES = bytes.fromhex(
    "440154 470d60 48186a 482374 472d7b 453681 424086 3f4989 3b528b 375a8d 33638d "
    "2f6a8e 2c728e 297a8e 26818e 23898e 21908c 1f988b 1f9f88 21a685 28ae80 31b57b "
    "3ebc74 4cc26c 5dc963 6ece58 82d34c 96d83f abdc32 c0df24 d5e21a eae51a fde725"
)
_VIRIDIS = [(_BYTES[i], _BYTES[i + 1], _BYTES[i + 2]) for i in range(0, len(_BYTES), 3)]

#: Percentiles of the values that the ends of the ramp stand for.
PERCENTILES = (2.0, 98.0)

# Cells along the longer side that the percentiles are taken from (of one layer), and layers that are looked at.
_SAMPLE = 1024
_LAYERS = 8

# An image so many times larger than the view is not read for it; windows, so many along each axis, are.
_COARSE = 4
_WINDOWS = 8


def robust_range(path: Path, bands: Sequence[int]) -> tuple[float, float]:
    """2nd and 98th percentile over a reduced view (the overviews) of ``bands`` of a GeoTIFF.

    Of many bands eight, evenly spaced, are looked at; of a large file without overviews 64 windows.
    Without any valid value the range is 0 to 1; a constant field gets a range around it.
    """
    import rasterio

    some = [bands[i] for i in np.unique(np.linspace(0, len(bands) - 1, _LAYERS).astype(int))]
    with rasterio.open(path, driver="GTiff") as source:
        cells = int(_SAMPLE / len(some) ** 0.5)  # all together as many as of one band
        seen = [part for band in some for part in _sample(source, band, cells)]
    values = np.concatenate([layer[np.isfinite(layer)] for layer in seen]).astype(np.float64)
    if not values.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values, PERCENTILES))
    if high <= low:
        low, high = float(np.min(values)), float(np.max(values))
    if high <= low:
        reach = abs(low) / 2 or 0.5
        low, high = low - reach, low + reach
    return low, high


def _sample(source: Any, band: int, longer: int) -> list[np.ndarray]:
    """A view of ``band``, ``longer`` cells along its longer side, without reading much more than that."""
    from rasterio.windows import Window

    shrink = max(1.0, max(source.shape) / longer)
    if shrink / max([1, *source.overviews(band)]) <= _COARSE:
        return [source.read(band, out_shape=tuple(max(1, round(n / shrink)) for n in source.shape))]
    side = longer // _WINDOWS
    tops, lefts = (np.linspace(0, max(n - side, 0), _WINDOWS).astype(int).tolist() for n in source.shape)
    return [source.read(band, window=Window(left, top, side, side)) for top in tops for left in lefts]


def qml(low: float, high: float, unit: str = "", band: int = 1) -> str:
    """The style document.

    Parameters
    ----------
    low, high : values of the ends of the ramp; values beyond them take the end's colour.
    unit : shown at the ends of the legend.
    band : the band shown, counted from 1.
    """
    # .10g keeps what a float32 holds; more would be noise in every label that QGIS derives.
    values = [float(f"{v:.10g}") for v in np.linspace(low, high, len(_VIRIDIS))]
    root = ElementTree.Element("qgis", version="3.22.16", styleCategories="Symbology")
    pipe = _add(root, "pipe")
    renderer = _add(
        _with_resampling(pipe),
        "rasterrenderer",
        type="singlebandpseudocolor",
        band=band,
        alphaBand=-1,
        opacity=1,
        nodataColor="",
        classificationMin=values[0],
        classificationMax=values[-1],
    )
    _add(renderer, "rasterTransparency")
    _min_max_origin(renderer)
    shader = _add(
        _add(renderer, "rastershader"),
        "colorrampshader",
        colorRampType="INTERPOLATED",
        classificationMode=1,  # QgsColorRampShader.Continuous
        clip=0,
        minimumValue=values[0],
        maximumValue=values[-1],
        labelPrecision=6,
    )
    _ramp(shader)
    for number, (value, colour) in enumerate(zip(values, _VIRIDIS, strict=True)):
        end = number in (0, len(values) - 1)
        _add(
            shader,
            "item",
            value=value,
            label=_label(value, unit if end else ""),
            color="#{:02x}{:02x}{:02x}".format(*colour),
            alpha=255,
        )
    _add(
        shader,
        "rampLegendSettings",
        useContinuousLegend=1,
        minimumLabel=_label(values[0], unit),
        maximumLabel=_label(values[-1], unit),
        prefix="",
        suffix=f" {unit}" if unit else "",
        direction=0,
        orientation=2,
    )
    _add(pipe, "brightnesscontrast", brightness=0, contrast=0, gamma=1)
    _add(pipe, "huesaturation", saturation=0, grayscaleMode=0, colorizeOn=0)
    _add(pipe, "rasterresampler", maxOversampling=2)
    _add(root, "blendMode").text = "0"
    ElementTree.indent(root)
    return f"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n{ElementTree.tostring(root, 'unicode')}\n"


def _add(parent: ElementTree.Element, tag: str, **attributes: object) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, {k: str(v) for k, v in attributes.items()})


def _with_resampling(pipe: ElementTree.Element) -> ElementTree.Element:
    # Nearest neighbour when zoomed in: a cell is a mean over its area and should look like one.
    _add(
        _add(pipe, "provider"),
        "resampling",
        enabled="false",
        zoomedInResamplingMethod="nearestNeighbour",
        zoomedOutResamplingMethod="nearestNeighbour",
        maxOversampling=2,
    )
    return pipe


def _min_max_origin(renderer: ElementTree.Element) -> None:
    """The range is ours: "None" keeps QGIS from taking its own when the view changes."""
    origin = _add(renderer, "minMaxOrigin")
    cut_low, cut_high = (p / 100 for p in PERCENTILES)
    for tag, text in (
        ("limits", "None"),
        ("extent", "WholeRaster"),
        ("statAccuracy", "Estimated"),
        ("cumulativeCutLower", f"{cut_low:g}"),
        ("cumulativeCutUpper", f"{cut_high:g}"),
        ("stdDevFactor", "2"),
    ):
        _add(origin, tag).text = text


def _ramp(shader: ElementTree.Element) -> None:
    colours = [f"{red},{green},{blue},255" for red, green, blue in _VIRIDIS]
    inner = range(1, len(colours) - 1)
    settings = {
        "color1": colours[0],
        "color2": colours[-1],
        "discrete": "0",
        "rampType": "gradient",
        "stops": ":".join(f"{i / (len(colours) - 1):.6g};{colours[i]}" for i in inner),
    }
    ramp = _add(shader, "colorramp", type="gradient", name="[source]")
    options = _add(ramp, "Option", type="Map")
    for key, value in settings.items():
        _add(options, "Option", type="QString", name=key, value=value)
    for key, value in settings.items():
        _add(ramp, "prop", k=key, v=value)


def _label(value: float, unit: str) -> str:
    return f"{value:.3g} {unit}".rstrip()
