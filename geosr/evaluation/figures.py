"""The figure of an evaluation: truth, coarse field, bicubic, network, both errors, spectra. One page, print quality.

:mod:`panels` has cut out what is drawn. matplotlib is the extra ``geosr[plot]``, used through its object-oriented
interface with the Agg canvas: no display, no global state.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from odc.geo.geobox import GeoBox

from geosr.errors import OutputError, UsageError
from geosr.evaluation.baselines import BICUBIC
from geosr.evaluation.panels import Panels

if TYPE_CHECKING:
    from geosr.evaluation.results import Evaluation

FORMATS = (".png", ".pdf", ".svg")

# The ends and the middle of seaborn's "vlag" (Waskom, BSD 3-Clause), with the two colours half way: blue and red of
# one lightness, so that an error of either sign weighs the same, also in grey.
_DIVERGING = ("#2369bd", "#98b0d6", "#fafafa", "#d69a98", "#a9373b")
_GAP = "0.75"
_COLOURS = ("#7f7f7f", "#d55e00", "#0072b2", "#009e73", "#cc79a7")  # Okabe & Ito's, safe for colour-blind eyes


_DPI = 300

_LEGEND: dict[str, Any] = {
    "fontsize": 6,
    "facecolor": "white",
    "edgecolor": "none",
    "framealpha": 0.8,
    "handlelength": 1.5,
    "labelspacing": 0.2,
    "borderpad": 0.1,
}

_STYLE: dict[Any, Any] = {
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.linewidth": 0.5,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "svg.hashsalt": "geosr",
    "pdf.fonttype": 42,
}


def check_figure(path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """What can be known to be wrong with a figure's path before the computing.

    Raises
    ------
    UsageError
        A suffix that is none of :data:`FORMATS`, or no matplotlib.
    OutputError
        No such folder, or the file exists without ``overwrite``.
    """
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise UsageError(f"the suffix {target.suffix!r} names no figure", f"use one of {', '.join(FORMATS)}", path)
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError("a figure needs the package matplotlib", "pip install 'geosr[plot]'") from error
    if not target.absolute().parent.is_dir():
        raise OutputError("the folder does not exist", "create it first", path)
    if os.path.lexists(target) and (not overwrite or not target.is_file()):
        raise OutputError("exists", "use --overwrite (overwrite=True) to replace it" if target.is_file() else "", path)
    return target


def draw(found: Evaluation, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write the figure of one case, whole or not at all.

    Raises
    ------
    UsageError, OutputError
        See :func:`check_figure`; UsageError too where the evaluation was made without a grid.
    """
    from geosr.writing.atomic import Staging

    target = check_figure(path, overwrite)
    if found.panels is None:
        raise UsageError("the evaluation holds no maps", "evaluate a field on a grid (geosr.evaluate)")
    from matplotlib import rc_context

    with Staging(target.absolute(), overwrite) as staging:
        made = staging.path(f"made{target.suffix.lower()}")
        figure = paint(found, found.panels)
        # Vector formats keep the date of their making unless told; the same evaluation gives the same file.
        dates = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}[target.suffix.lower()]
        with staging.explained(), rc_context(_STYLE):
            figure.savefig(made, dpi=_DPI, metadata=dates)
        staging.commit({made: target.absolute()})
    return target


def paint(found: Evaluation, panels: Panels) -> Any:
    """The figure as a ``matplotlib.figure.Figure``: 3 x 3 panels, 180 mm wide (two columns of a journal)."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(7.1, 8.0), dpi=_DPI, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(3, 3)
        _paint_maps(found, panels, axes, figure)
        if panels.zoomed:
            _paint_overview(axes[0, 0], panels)
        else:
            _paint_gains(axes[0, 0], found)
        _paint_power(axes[1, 2], found, list(panels.fields))
        _paint_noise(axes[2, 2], found)
        for letter, ax in zip("abcdefghi", axes.flat, strict=True):
            title = ax.get_title().replace("$", "\\$")
            ax.set_title(f"$\\bf{{({letter})}}$ {title}", loc="left")
            ax.set_title("", loc="center")
        if found.label:
            figure.suptitle(
                f"{found.label}, \N{MULTIPLICATION SIGN}{found.scale}, {found.degradation}",
                fontsize=7.5,
                parse_math=False,
            )
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # once is enough, and half of the time
    return figure


def _paint_maps(found: Evaluation, panels: Panels, axes: Any, figure: Any) -> None:
    """Truth and coarse field, bicubic and network under one scale, and below the latter two their errors under one."""
    from matplotlib.colors import LinearSegmentedColormap, Normalize

    factor, unit = scaled_unit(panels.truth, found.units)
    truth = panels.truth * factor
    fields = {name: field * factor for name, field in panels.fields.items()}
    errors = {name: field - truth for name, field in fields.items()}
    norm = Normalize(*_limits(truth))
    reach = max(_limits(np.abs(error))[1] for error in errors.values())
    diverging = LinearSegmentedColormap.from_list("errors", _DIVERGING).with_extremes(bad=_GAP)
    _map(axes[0, 1], truth, panels.box, f"truth, {_cell(panels.box, 1)}", norm)
    _map(axes[0, 2], panels.coarse * factor, panels.box, f"coarse, {_cell(panels.box, found.scale)}", norm)
    for column, (name, field) in enumerate(fields.items()):
        title = f"{name}, {found.judged.scores[name].psnr:.2f} dB"
        image = _map(axes[1, column], field, panels.box, title, norm)
        axes[1, column].set_xlabel("")  # the errors below have the same
        title = f"{name} \N{MINUS SIGN} truth"
        error = _map(axes[2, column], errors[name], panels.box, title, Normalize(-reach, reach), diverging)
    for row, drawn, label in ((1, image, "field"), (2, error, "error")):
        bar = figure.colorbar(drawn, ax=axes[row, :2], location="bottom", extend="both", fraction=0.05, aspect=45)
        bar.set_label(f"{label} ({unit})" if unit else label, labelpad=1)
        bar.outline.set_linewidth(0.5)


def _map(ax: Any, values: np.ndarray, box: GeoBox, title: str, norm: Any, colours: Any = None) -> Any:
    """One map in the grid's own coordinates, a cell a square of colour; gaps in grey."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    place, names, aspect = _frame(box)
    cmap = colours if colours is not None else colormaps["viridis"].with_extremes(bad=_GAP)
    image = ax.imshow(
        np.ma.masked_invalid(values), extent=place, norm=norm, cmap=cmap, interpolation="nearest", aspect=aspect
    )
    ax.set_ylim(sorted(place[2:]) if names[1] != "km along columns" else place[2:])
    ax.set_title(title)
    ax.set_xlabel(names[0], labelpad=1)
    ax.set_ylabel(names[1] if ax.get_subplotspec().is_first_col() else "", labelpad=1)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], min_n_ticks=3))
    ax.tick_params(length=2, pad=1.5)
    return image


def _frame(box: GeoBox) -> tuple[tuple[float, float, float, float], tuple[str, str], float]:
    """(left, right, bottom, top of the array), axis labels, aspect. A rotated grid is shown along its axes, in km."""
    from geosr.evaluation.spectrum import cell_lengths_km

    a, (ny, nx) = box.affine, box.shape
    dy, dx = cell_lengths_km(box, ny / 2, nx / 2)
    if a.b or a.d or box.crs is None:
        return (0.0, nx * dx, ny * dy, 0.0), ("km along rows", "km along columns"), 1.0
    place = (a.c, a.c + nx * a.a, a.f + ny * a.e, a.f)
    if box.crs.geographic:
        return place, ("longitude (\N{DEGREE SIGN})", "latitude (\N{DEGREE SIGN})"), (dy / abs(a.e)) / (dx / abs(a.a))
    km = box.crs.proj.axis_info[0].unit_conversion_factor / 1000
    left, right, bottom, top = (edge * km for edge in place)
    return (left, right, bottom, top), ("easting (km)", "northing (km)"), 1.0


def _cell(box: GeoBox, scale: int) -> str:
    """Size of a cell of ``scale`` cells of ``box``, as the grid counts it."""
    a = box.affine
    x, y = np.hypot(a.a, a.d) * scale, np.hypot(a.b, a.e) * scale
    if box.crs is not None and box.crs.geographic:
        unit = "\N{DEGREE SIGN}"
    else:
        x, y, unit = x / 1000, y / 1000, " km"
    return f"{x:.4g}{unit}" if np.isclose(x, y) else f"{x:.4g}{unit} \N{MULTIPLICATION SIGN} {y:.4g}{unit}"


def _limits(values: np.ndarray) -> tuple[float, float]:
    """1st and 99.5th percentile: plumes are bright and small, and single cells must not set the scale."""
    finite = values[np.isfinite(values)]
    low, high = (float(v) for v in np.percentile(finite, (1, 99.5))) if finite.size else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def scaled_unit(values: np.ndarray, units: str | None) -> tuple[float, str]:
    """(factor, unit as mathtext) that bring ``values`` between 0.1 and 1000: 3e15 molec cm-2 is 3 "$10^{15}$ molec …".

    >>> scaled_unit(np.array([2e-5]), "mol m-2")
    (1000000.0, '$10^{-6}$ mol m$^{-2}$')
    """
    largest = np.nanmax(np.abs(values)) if np.isfinite(values).any() else 0.0
    power = 3 * int(np.floor(np.log10(largest) / 3)) if largest > 0 else 0
    power = 0 if power in (0, -3) and largest >= 0.1 else power
    given = re.match(r"1(?:\.0*)?e\+?(-?\d+)\s*", units or "")
    name = re.sub(r"(?<=[A-Za-z])\^?(-?\d+)", r"$^{\1}$", (units or "")[given.end() if given else 0 :])
    total = power + int(given[1]) if given else power
    return 10.0**-power, f"$10^{{{total}}}$ {name}".strip() if total else name


def _paint_overview(ax: Any, panels: Panels) -> None:
    """The whole raster, brighter than the other maps if need be, and where the window is."""
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    _map(ax, panels.whole, panels.whole_box, "truth, whole", Normalize(*_limits(panels.whole)))
    left, right, bottom, top = _frame(panels.whole_box)[0]
    across, down = (right - left) / panels.whole_box.shape[1], (bottom - top) / panels.whole_box.shape[0]
    rows, cols = panels.window
    corner = left + cols.start * across, top + rows.start * down
    size = (cols.stop - cols.start) * across, (rows.stop - rows.start) * down
    ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor="#d55e00", linewidth=1))


def _paint_gains(ax: Any, found: Evaluation) -> None:
    """How much every method gains over bicubic."""
    table = found.judged
    names = [name for name in table.scores if name != BICUBIC]
    gains = [table.gain(BICUBIC, name) for name in names]
    colours = ["#0072b2" if name in found.networks else "0.6" for name in names]
    ax.barh(range(len(names)), np.nan_to_num(gains, posinf=0, neginf=0), color=colours)
    ax.set_yticks(range(len(names)), [n.replace(" bicubic", "\nbicubic") for n in names])
    ax.invert_yaxis()
    ax.axvline(0, color="black", linewidth=0.5)
    ax.set(title="PSNR over bicubic", xlabel="dB")


def _shown(found: Evaluation) -> dict[str, str]:
    """method -> colour: bicubic, the best interpolation, the networks."""
    names = dict.fromkeys((BICUBIC, found.judged.best_interpolation, *found.networks))
    return dict(zip(names, _COLOURS, strict=False))


def _paint_power(ax: Any, found: Evaluation, methods: list[str]) -> None:
    """Power of the truth, the fields and their errors by wavelength."""
    ax.set(title="power spectral density", xlabel="wavelength (km)")
    spectrum = found.spectrum
    if spectrum is None:
        ax.text(0.5, 0.5, "no window without gaps", ha="center", va="center", transform=ax.transAxes)
        return
    x = spectrum.wavelength_km
    ax.loglog(x, spectrum.truth, color="black", linewidth=1.2, label="truth")
    for name, colour in _shown(found).items():
        if name in methods:
            ax.loglog(x, spectrum.prediction[name], color=colour, linewidth=1, label=name)
            ax.loglog(x, spectrum.error[name], color=colour, linewidth=1, linestyle=":", label=f"{name}, error")
    _wavelengths(ax, spectrum)
    ax.set_ylabel(f"{_squared(found.units)}km$^2$", labelpad=1)
    at = 2 * spectrum.coarse_cell_km
    ax.annotate("2 coarse cells", (at, 0), (-2, 3), ("data", "axes fraction"), "offset points", size=6, ha="right")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high * (high / low) ** 0.4)  # room for the legend
    ax.legend(loc="upper right", **_LEGEND)


def _squared(units: str | None) -> str:
    return f"({scaled_unit(np.ones(1), units)[1]})$^2$ " if units else ""


def _paint_noise(ax: Any, found: Evaluation) -> None:
    """Error over truth by wavelength, and the effective resolution that it gives."""
    from geosr.evaluation.spectrum import THRESHOLD

    ax.set(title="effective resolution", xlabel="wavelength (km)", ylabel="error power / truth power")
    spectrum = found.spectrum
    if spectrum is None:
        return
    ax.axhline(THRESHOLD, color="0.4", linewidth=0.6)
    for name, colour in _shown(found).items():
        resolution = spectrum.effective_resolution_km(name)
        noise = spectrum.noise_to_signal(name)
        reached = f"{resolution:.3g} km" if np.isfinite(resolution) else "none"
        ax.semilogx(spectrum.wavelength_km, noise, color=colour, linewidth=1, label=f"{name}: {reached}")
        if np.isfinite(resolution):
            ax.plot([resolution, resolution], [0, THRESHOLD], color=colour, linewidth=0.7, linestyle="--")
            ax.plot(resolution, THRESHOLD, "o", color=colour, markersize=3)
    _wavelengths(ax, spectrum)
    ax.set_ylim(0, 1.5)
    ax.legend(loc="upper left", **_LEGEND)


def _wavelengths(ax: Any, spectrum: Any) -> None:
    """Long waves left; plain numbers; and the shortest wave that the coarse grid carries."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    ax.set_xlim(spectrum.wavelength_km[0], spectrum.wavelength_km[-1])
    ax.axvline(2 * spectrum.coarse_cell_km, color="0.4", linewidth=0.6, linestyle="-.")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(length=2, pad=1.5, which="major")
    ax.tick_params(length=1, which="minor")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
