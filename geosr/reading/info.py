"""What geosr sees in a file, for people and machines (``geosr info``).

Unlike :func:`geosr.open_no2`, an ambiguous file is no error here: the candidates and the option that chooses among them
are the information asked for. Statistics stream over the file in blocks; percentiles come from a bounded sample.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from geosr.errors import GeosrWarning, InputError, ModelError, blame
from geosr.grid import cell_size_m, check_scale, geobox_of, refine
from geosr.reading import candidates, open_no2
from geosr.reading.gate import check_path, kind_of
from geosr.reading.values import sample, threads
from geosr.variables import main_variable


@dataclass
class Info:
    """What is in a file. Fields that the file does not tell are None or empty.

    Attributes
    ----------
    kind : "grid" or "swath".
    variable, candidates : the field, and the variables that ``--variable`` could name.
    needs : why ``geosr downscale`` would ask back, with the option that answers; None if it would run.
    grid : shape, bounds (left, bottom, right, top), crs, cell size in CRS units and in km; for a swath, of the grid
        that would be made.
    values : valid (share), min, max, p2, p50, p98, in ``units``.
    swath : pixels, passing (share that qa lets pass), qa, extent (W S E N), pixel_km.
    plan : output, scale, shape, cell_size, method of ``geosr downscale``.
    """

    path: str
    kind: str
    format: str
    product: str | None = None
    variable: str | None = None
    long_name: str | None = None
    units: str | None = None
    candidates: list[str] = field(default_factory=list)
    times: list[str] = field(default_factory=list)
    bands: list[str] = field(default_factory=list)
    grid: dict[str, Any] | None = None
    values: dict[str, float | None] | None = None
    swath: dict[str, Any] | None = None
    plan: dict[str, Any] | None = None
    needs: str | None = None
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe: no NaN, no numpy."""
        return _plain(asdict(self))

    def to_text(self) -> str:
        """A few aligned lines."""
        return "\n".join(f"{label + ':':<12}{' '.join(text.split())}" for label, text in _lines(self) if text)


def describe(path: str | os.PathLike[str], *, scale: int = 4, **options: Any) -> Info:
    """What geosr sees in the file at ``path``, and what ``geosr downscale`` would do with it.

    Parameters
    ----------
    scale : that ``geosr downscale`` would be asked for.
    options : as for :func:`geosr.open_no2`.

    Raises
    ------
    InputError, RefusedError
        The file is missing, unreadable, unsupported or invalid.
    UsageError
        ``scale`` or the options are impossible.
    """
    check_scale(scale)
    file = check_path(path)
    with blame(path), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", GeosrWarning)
        info = _look(file, scale, options)
    for warning in caught:
        text = str(warning.message)
        if text not in info.warnings:
            info.warnings.append(text)
    return info


def _look(file: Path, scale: int, options: Mapping[str, Any]) -> Info:
    kind = kind_of(file)
    info = Info(os.fspath(file), "grid", {"tiff": "GeoTIFF", "hdf5": "NetCDF-4/HDF5"}.get(kind, "NetCDF-3"))
    if kind in ("hdf5", "netcdf5"):
        from geosr.reading.s5p_l2 import is_swath

        if is_swath(file):
            info.kind = "swath"
    if info.kind == "grid":
        info.candidates = candidates(file)
        try:
            ds = open_no2(file, **options)
        except InputError as error:
            if not _is_a_question(error) or len(info.candidates) < 1:
                raise
            info.needs = str(InputError(error.what, error.hint))
            return info
    else:
        gridded = _look_at_swath(info, file, options)
        if gridded is None:
            return info
        ds = gridded
    main = main_variable(ds)
    _look_at_field(info, ds, main)
    _plan(info, file, geobox_of(main), scale)
    return info


def _is_a_question(error: InputError) -> bool:
    """Does the error ask for an option, on a file that is otherwise fine?"""
    return any(f"--{option}" in error.hint for option in ("variable", "level", "crs", "input-units", "qa"))


def _look_at_swath(info: Info, file: Path, options: Mapping[str, Any]) -> xr.Dataset | None:
    from geosr.reading.s5p_l2 import read_swath
    from geosr.swath import open_swaths

    least = options.get("qa", 0.75)
    variable = options.get("variable")
    try:
        every = read_swath(file, variable=variable, qa=None)
        good = every if least is None else read_swath(file, variable=variable, qa=least)
    except InputError as error:
        if not _is_a_question(error):
            raise
        info.needs = str(InputError(error.what, error.hint))
        return None
    n, passing = len(every.value), len(good.value)
    info.product = every.attrs.get("product")
    info.swath = {
        "pixels": n,
        "passing": passing / n if n else None,
        "qa": least,
        "extent": _extent(every),
        "pixel_km": [float(v) / 1000 for v in every.pixel_size_m],
    }
    chosen = {k: v for k, v in options.items() if k in ("resolution", "bbox", "crs", "units", "input_units")}
    return open_swaths([file], variable=variable, qa=least, **{k: v for k, v in chosen.items() if v is not None})


def _extent(swath: Any) -> list[float] | None:
    """(west, south, east, north) of the pixels; east > 180 where they cross the dateline."""
    lons, lats = np.asarray(swath.lon_corners, np.float64), np.asarray(swath.lat_corners, np.float64)
    if not lons.size:
        return None
    # The largest gap between occupied degrees of longitude is where the extent begins and ends.
    degrees = np.unique(np.floor(lons).astype(int) % 360)
    gaps = np.diff(np.append(degrees, degrees[0] + 360))
    start = degrees[(int(np.argmax(gaps)) + 1) % len(degrees)]
    turned = (lons - start) % 360 + start
    west, east = float(turned.min()), float(turned.max())
    shift = 360 if west > 180 else 0
    return [west - shift, float(lats.min()), east - shift, float(lats.max())]


def _look_at_field(info: Info, ds: xr.Dataset, main: xr.DataArray) -> None:
    from geosr.reading.times import time_labels

    info.product = ds.attrs.get("product") or info.product
    info.variable = str(main.name)
    info.long_name = main.attrs.get("long_name")
    info.units = main.attrs.get("units")
    info.times = time_labels(main)
    start, end = ds.attrs.get("time_coverage_start"), ds.attrs.get("time_coverage_end")
    if not info.times and start:
        info.times = [start, end] if end and end != start else [start]
    if "band" in main.dims and "band" in main.coords:
        info.bands = [str(v) for v in main["band"].values]
    box = geobox_of(main)
    info.grid = _grid(box)
    info.values = _statistics(main)


def _grid(box: GeoBox) -> dict[str, Any]:
    b, crs = box.boundingbox, box.crs
    return {
        "shape": [int(n) for n in box.shape],
        "bounds": [float(v) for v in (b.left, b.bottom, b.right, b.top)],
        "crs": f"EPSG:{crs.epsg}" if crs is not None and crs.epsg else crs.proj.name if crs is not None else None,
        "cell_size": _cell(box),
        "cell_km": cell_size_m(box) / 1000,
        "rotated": bool(box.affine.b or box.affine.d),
    }


def _cell(box: GeoBox) -> list[float]:
    """(along x, along y) in units of the CRS, also of a rotated grid."""
    a = box.affine
    return [float(np.hypot(a.a, a.d)), float(np.hypot(a.b, a.e))]


def _statistics(main: xr.DataArray) -> dict[str, float | None]:
    """Share of valid cells and range of all values; percentiles of a sample."""
    import dask
    import dask.array as da

    data = main.data if isinstance(main.data, da.Array) else da.from_array(np.asarray(main.data))
    n, low, high = dask.compute(
        da.isfinite(data).sum(), da.nanmin(data), da.nanmax(data), scheduler=threads
    ) if data.size else (0, np.nan, np.nan)  # fmt: skip
    seen = sample(data)
    seen = seen[np.isfinite(seen)]
    p2, p50, p98 = np.percentile(seen, [2, 50, 98]) if seen.size else (np.nan,) * 3
    return {
        "valid": float(n) / data.size if data.size else 0.0,
        "min": float(low),
        "p2": float(p2),
        "p50": float(p50),
        "p98": float(p98),
        "max": float(high),
    }


def _plan(info: Info, file: Path, box: GeoBox, scale: int) -> None:
    from geosr.models import default_model

    fine = refine(box, scale)
    try:
        method = default_model(scale)
    except ModelError as error:
        method = "bicubic"
        info.warnings.append(str(error))
    info.plan = {
        "output": f"{file.name.removesuffix(file.suffix) or file.name}_x{scale}.tif",
        "scale": scale,
        "shape": [int(n) for n in fine.shape],
        "cell_size": _cell(fine),
        "cell_km": cell_size_m(fine) / 1000,
        "method": method,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


# --- for people ------------------------------------------------------------------------------------------------


_PERCENT = {"p2": " [2 %]", "p50": " [50 %]", "p98": " [98 %]"}


def _lines(info: Info) -> list[tuple[str, str]]:
    """(label, text) pairs; empty texts are left out."""
    g, v, s, p = info.grid, info.values, info.swath, info.plan
    lines = [
        ("file", f"{info.path} ({info.format}, {info.kind})"),
        ("product", info.product or ""),
        ("variable", info.variable + (f" ({info.long_name})" if info.long_name else "") if info.variable else ""),
        ("units", (info.units or "not stated (declare them with --units)") if info.variable else ""),
    ]
    others = [c for c in info.candidates if c.split(" (")[0].rsplit("/", 1)[-1] != info.variable]
    if len(info.candidates) > 1:
        lines.append(("also" if info.variable else "variables", _few(others, 12)))
    lines.append(("times", _few(info.times, 4)))
    lines.append(("bands", _few(info.bands, 8)))
    if s:
        judged = s["passing"] is not None and s["qa"] is not None
        share = f", {s['passing']:.1%} with qa_value >= {s['qa']:g}" if judged else ""
        lines.append(("pixels", f"{s['pixels']}{share}, about {s['pixel_km'][0]:.3g} x {s['pixel_km'][1]:.3g} km"))
        lines.append(("extent", "W {:.4f} S {:.4f} E {:.4f} N {:.4f}".format(*s["extent"]) if s["extent"] else ""))
    if g:
        made = "would be " if s else ""
        lines.append(("grid", f"{made}{_size(g)}, {g['crs']}{', rotated' if g['rotated'] else ''}"))
        lines.append(("bounds", "left {:.10g}, bottom {:.10g}, right {:.10g}, top {:.10g}".format(*g["bounds"])))
    if v:
        lines.append(("valid", f"{v['valid']:.1%}"))
        if v["valid"]:
            lines.append(
                ("values", " … ".join(f"{v[k]:.4g}{_PERCENT.get(k, '')}" for k in ("min", "p2", "p50", "p98", "max")))
            )
    if p:
        lines.append(("downscale", f"x{p['scale']} by {p['method']}: {p['output']}, {_size(p)}"))
    if info.needs:
        lines.append(("needs", info.needs))
    return lines + [("warning", text) for text in info.warnings]


def _size(grid: Mapping[str, Any]) -> str:
    ny, nx = grid["shape"]
    dx, dy = grid["cell_size"]
    cell = f"{dx:.6g}" if abs(dx - dy) < 1e-6 * dx else f"{dx:.6g} x {dy:.6g}"
    return f"{ny} x {nx} cells of {cell} (about {grid['cell_km']:.3g} km)"


def _few(names: list[str], most: int) -> str:
    if len(names) > most:
        return f"{len(names)}: {', '.join(names[: most - 1])}, … {names[-1]}"
    return ", ".join(names)
