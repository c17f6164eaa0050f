"""Simulated scenes, swaths and files, to test with and to teach with.

>>> from geosr.simulate import simulate
>>> simulate("sample_data")                                     # doctest: +SKIP

The steps by themselves: :func:`simulate_scene` draws the truth, :func:`simulate_swath` looks at it from orbit,
:func:`write_l2`, :func:`write_l3`, :func:`write_geotiff` and :func:`write_truth` make files;
:func:`orbit_geometry` gives the pixels of a whole orbit.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox

from geosr.errors import OutputError, RefusedError, UsageError, blame
from geosr.footprint import fit_geobox
from geosr.grid import geobox_of, refine, with_geobox
from geosr.simulate.grids import as_swath, write_geotiff, write_l3, write_truth
from geosr.simulate.orbit import Geometry, orbit_geometry, overpass
from geosr.simulate.product import conventional_name, l2_name, write_l2
from geosr.simulate.scene import MAX_CELLS, Scene, Sources, make_scene, simulate_scene
from geosr.simulate.swaths import RESPONSES, simulate_swath
from geosr.writing.atomic import check_target

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "KINDS",
    "RESPONSES",
    "Geometry",
    "Scene",
    "Sources",
    "as_swath",
    "l2_name",
    "make_scene",
    "orbit_geometry",
    "overpass",
    "simulate",
    "simulate_scene",
    "simulate_swath",
    "write_geotiff",
    "write_l2",
    "write_l3",
    "write_truth",
]

#: What :func:`simulate` can write.
KINDS = ("l2", "l3", "tif", "truth")
#: Open Atlantic, just UTM zone 26: nobody will take invented cities there for real ones.
BBOX = (-30.0, 42.0, -24.0, 47.0)
_MARGIN = 0.5  # degrees of truth around what is seen, so that plumes do not begin at its edge
_MAX_DAYS = 366


def simulate(
    out_dir: str | os.PathLike[str],
    *,
    kind: Sequence[str] = KINDS,
    seed: int = 7,
    bbox: tuple[float, float, float, float] = BBOX,
    date: str | dt.date = "2024-06-12",
    days: int = 1,
    resolution: float = 0.05,
    truth_scale: int = 4,
    n_cities: int | None = None,
    n_point_sources: int | None = None,
    wind_speed: float = 5.0,
    turbulence: float = 2.0,
    lifetime_hours: float = 4.0,
    response: str = "area",
    noise: float = 1.0,
    cloud_cover: float = 0.25,
    overwrite: bool = False,
) -> list[Path]:
    """Invent a scene and write it as the files that geosr reads.

    Parameters
    ----------
    out_dir : folder, made if it does not exist.
    kind : any of "l2" (a Sentinel-5P-like swath per day), "l3" (its grid, NetCDF, mean over the days), "tif" (the
        same as GeoTIFF on a 5 km UTM grid) and "truth" (the fine field at each overpass, NetCDF).
    seed : the same seed gives the same files; the cities stay over the days, wind and clouds change.
    bbox : west, south, east, north in degrees; west > east or east > 180 crosses the dateline. The grid begins at
        west and north and reaches over east and south by less than a cell.
    date, days : first UTC day (YYYY-MM-DD) and number of days, one overpass each.
    resolution : L3 cell size, degrees.
    truth_scale : truth cells per L3 cell and axis.
    n_cities, n_point_sources : in all that is seen, which is wider than the box; by default by its area.
    wind_speed, turbulence : mean, and root mean square of the eddies, m/s.
    lifetime_hours : of NO2.
    response, noise, cloud_cover : see :func:`simulate_swath`.
    overwrite : replace files that exist.

    Returns
    -------
    Paths of the files written.

    Raises
    ------
    UsageError, RefusedError, OutputError
        Options out of range; a scene too large; files that exist or cannot be written.
    """
    kinds = _checked_kinds(kind)
    first = _checked_date(date)
    if not 1 <= days <= _MAX_DAYS:
        raise UsageError(f"days {days} is not possible", f"give 1 to {_MAX_DAYS}")
    if seed < 0:
        raise UsageError(f"seed {seed} is not possible", "give a whole number from 0")
    box = _grid(bbox, resolution, truth_scale)
    west, south, east, north = box.boundingbox
    lean = np.random.default_rng([seed, 20]).uniform(-0.6, 0.6, days)
    overpasses = [
        overpass((west, south, east, north), date=first + dt.timedelta(days=day), offset=float(lean[day]))
        for day in range(days)
    ]
    truth_box = _truth_grid(box, truth_scale, overpasses)
    targets = _targets(Path(out_dir), kinds, first, overpasses, overwrite)

    truths: list[xr.DataArray] = []
    swaths: list[xr.Dataset] = []
    for day in range(days):
        truth = simulate_scene(
            truth_box,
            seed=seed,
            day=day,
            n_cities=n_cities,
            n_point_sources=n_point_sources,
            wind_speed=wind_speed,
            turbulence=turbulence,
            lifetime=lifetime_hours * 3600,
        )
        swaths.append(
            simulate_swath(
                truth,
                seed=seed * _MAX_DAYS + day,
                geometry=overpasses[day],
                response=response,
                noise=noise,
                cloud_cover=cloud_cover,
            )
        )
        swaths[-1].attrs["seed"] = seed
        if "truth" in kinds:
            truths.append(_inner(truth, box, truth_scale))
    return _write(targets, box, truths, swaths, overwrite)


def _targets(
    folder: Path, kinds: Sequence[str], first: dt.date, overpasses: Sequence[Geometry], overwrite: bool
) -> dict[str, list[Path]]:
    """The files to write, by kind, checked before anything is computed; makes the folder."""
    with blame(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"the folder cannot be made ({error.strerror})", "choose another one") from error
    stem = f"simulated_no2_{first:%Y%m%d}"
    spans = [(g.times()[0], g.times()[-1], g.orbit) for g in overpasses]
    names = {
        "l2": [conventional_name(*span) for span in spans],
        "l3": [f"{stem}_l3.nc"],
        "tif": [f"{stem}_utm.tif"],
        "truth": [f"{stem}_truth.nc"],
    }
    return {k: [check_target(folder / name, overwrite) for name in names[k]] for k in KINDS if k in kinds}


def _write(
    targets: dict[str, list[Path]],
    box: GeoBox,
    truths: Sequence[xr.DataArray],
    swaths: Sequence[xr.Dataset],
    overwrite: bool,
) -> list[Path]:
    west, south, east, north = box.boundingbox
    for kind, paths in targets.items():
        if kind == "l2":
            for path, swath in zip(paths, swaths, strict=True):
                write_l2(path, swath, overwrite=overwrite)
        elif kind == "l3":
            write_l3(paths[0], swaths, box, overwrite=overwrite)
        elif kind == "tif":
            crs = _utm((west + east) / 2, (south + north) / 2)
            planar = fit_geobox((west, south, east, north), (1.0, 1.0), 5000.0, crs)
            write_geotiff(paths[0], swaths, planar, overwrite=overwrite)
        else:
            write_truth(paths[0], truths, swaths, overwrite=overwrite)
    return [path for paths in targets.values() for path in paths]


def _checked_kinds(kind: Sequence[str]) -> tuple[str, ...]:
    kinds = (kind,) if isinstance(kind, str) else tuple(kind)
    unknown = [k for k in kinds if k not in KINDS]
    if unknown or not kinds:
        raise UsageError(
            f"no kind of file {', '.join(map(repr, unknown)) or 'given'}", f"choose from {', '.join(KINDS)}"
        )
    return kinds


def _checked_date(date: str | dt.date) -> dt.date:
    if isinstance(date, dt.date):
        return date
    try:
        return dt.date.fromisoformat(date)
    except ValueError as error:
        raise UsageError(f"{date!r} is not a date", "write it as YYYY-MM-DD") from error


def _grid(bbox: Sequence[float], resolution: float, scale: int) -> GeoBox:
    """The L3 grid."""
    west, south, east, north = bbox
    if east <= west:
        east += 360.0
    if not (np.isfinite([west, south, east, north]).all() and south < north and 0 < resolution <= 1):
        raise UsageError(
            f"box {bbox} at {resolution:g} degrees is no grid", "give west south east north, south < north"
        )
    if not 1 <= scale <= 16:
        raise UsageError(f"truth_scale {scale} is not possible", "use a whole number from 1 to 16")
    ny, nx = (int(np.ceil(size / resolution - 1e-6)) for size in (north - south, east - west))
    if ny < 2 or nx < 2:
        raise UsageError(f"{ny} x {nx} cells are too few", "take a larger box or smaller cells")
    per_degree = round(1 / resolution)
    step = 1 / per_degree if abs(per_degree * resolution - 1) < 1e-9 else resolution
    return GeoBox((ny, nx), Affine(step, 0.0, west, 0.0, -step, north), "EPSG:4326")


def _truth_grid(box: GeoBox, scale: int, overpasses: Sequence[Geometry]) -> GeoBox:
    """``box`` refined by ``scale`` and widened, by whole cells of ``box``, to all that the overpasses see."""
    west, south, east, north = box.boundingbox
    middle, step = (west + east) / 2, box.affine.a
    lon = [(g.lon_corners - middle + 180) % 360 - 180 + middle for g in overpasses]
    reach = (
        west - float(np.min([np.min(v) for v in lon])),
        float(np.max([np.max(v) for v in lon])) - east,
        max(float(g.lat_corners.max()) for g in overpasses) - north,
        south - min(float(g.lat_corners.min()) for g in overpasses),
    )
    left, right, top, bottom = (int(np.ceil((max(r, 0.0) + _MARGIN) / step)) for r in reach)
    ny, nx = (box.shape[0] + top + bottom) * scale, (box.shape[1] + left + right) * scale
    if ny * nx > MAX_CELLS:
        raise RefusedError(f"a truth of {ny} x {nx} cells is too large", "take a smaller box or larger cells")
    fine = Affine(step / scale, 0.0, west - left * step, 0.0, -step / scale, north + top * step)
    return GeoBox((ny, nx), fine, box.crs)


def _inner(truth: xr.DataArray, box: GeoBox, scale: int) -> xr.DataArray:
    """``truth`` without its margin, on ``box`` refined by ``scale``, to the last bit."""
    inner = refine(box, scale) if scale > 1 else box
    corner = ~geobox_of(truth).affine * (inner.affine.c, inner.affine.f)
    left, top = (round(v) for v in corner)
    ny, nx = inner.shape
    return with_geobox(truth[..., top : top + ny, left : left + nx], inner)


def _utm(lon: float, lat: float) -> str:
    zone = int((lon + 180) % 360 // 6) + 1
    return f"EPSG:{32600 + zone if lat >= 0 else 32700 + zone}"
