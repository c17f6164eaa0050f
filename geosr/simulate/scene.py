"""Simulated truth: NO2 columns of plumes from cities, roads and power plants in a bending wind.

Every source releases puffs that drift with the wind, widen and decay; the column is their sum (a Lagrangian puff
model, the steady-state Gaussian plume where the wind is uniform: in the line density, ``Q/u exp(-x/(u tau))``, the
model of Beirle et al. (2011), Science 333, 1737, before its smoothing). Width grows as 0.4 m per second of travel,
of the order that Heffter (1965), J. Appl. Meteor. 4, 153, found (0.5 m/s) less what the resolved eddies do
themselves. Chemistry is one lifetime. Puffs are integrated over the cells, not sampled, so mass is exact.

This is a picture for testing and teaching, not a chemistry-transport model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr
from odc.geo.geobox import GeoBox

from geosr.conserve import conserve
from geosr.errors import RefusedError, UsageError
from geosr.footprint import METRES_PER_DEGREE
from geosr.grid import cell_areas, with_geobox
from geosr.interpolate import RADIUS, bicubic
from geosr.simulate.fields import Wind, gaussian_field, random_wind

GROWTH = 0.4  # m/s, widening of a puff
_REACH = 4.0  # puffs are cut off at this many sigma; what lies beyond, 1.3e-4 of them, is shared out inside
_LIFETIMES = 4.6  # puffs are followed until 1 % is left, which the last one carries
_SPACING = 1.3  # sigmas between neighbouring puffs at the typical wind: their sum is smooth to 2e-5
_STEP = 2700.0  # seconds, of a puff's drift
_BLOCK = 1 << 14  # puffs that drift together, in the processor's cache
_COARSE_SIGMA = 4.0  # a puff wider than twice this many cells is drawn on a grid with half the resolution
#: Largest grid of a scene.
MAX_CELLS = 64_000_000


@dataclass(frozen=True)
class Sources:
    """Where NO2 is released: degrees, mol/s, and the initial width (sigma) of the puffs in metres. All (n,)."""

    lon: np.ndarray
    lat: np.ndarray
    rate: np.ndarray
    sigma: np.ndarray

    def __len__(self) -> int:
        return len(self.lon)


@dataclass(frozen=True)
class Scene:
    """What is released where, what wind carries it, how long it lives, and what was there before.

    ``background`` is a column in mol m-2 that broadcasts to the grid; ``texture`` multiplies the result (1 for none).
    """

    box: GeoBox
    sources: Sources
    wind: Wind
    lifetime: float  # seconds
    background: np.ndarray | float = 0.0
    texture: np.ndarray | float = 1.0

    def column(self) -> xr.DataArray:
        """The NO2 column, mol m-2, float32 (latitude, longitude) on ``box``."""
        mass = plume_mass(self.box, self.sources, self.wind, self.lifetime)
        values = (self.background + mass / cell_areas(self.box)) * self.texture
        data = xr.DataArray(
            values.astype(np.float32),
            dims=("latitude", "longitude"),
            name="tropospheric_NO2_column_number_density",
            attrs={
                "units": "mol m-2",
                "standard_name": "troposphere_mole_content_of_nitrogen_dioxide",
                "long_name": "Simulated tropospheric vertical column of nitrogen dioxide",
                "cell_methods": "area: mean",
            },
        )
        return with_geobox(data, self.box)


def simulate_scene(box: GeoBox, *, seed: int = 0, **options: object) -> xr.DataArray:
    """Truth on the fine grid ``box``: ``make_scene(box, seed=seed, **options).column()``."""
    return make_scene(box, seed=seed, **options).column()  # type: ignore[arg-type]


def make_scene(
    box: GeoBox,
    *,
    seed: int = 0,
    day: int = 0,
    n_point_sources: int | None = None,
    n_cities: int | None = None,
    roads: bool = True,
    wind: Wind | None = None,
    wind_speed: float = 5.0,
    turbulence: float = 2.0,
    lifetime: float = 4 * 3600.0,
    background: float = 1.0e-5,
) -> Scene:
    """Invent a scene: cities of all sizes along roads, power plants, wind and background.

    Parameters
    ----------
    box : fine grid, geographic and north-up.
    seed, day : the same seed keeps the sources, another day changes wind and background.
    n_point_sources, n_cities : by default as many as the area would have in a populated region.
    roads : link the cities.
    wind : given, instead of a random one of mean ``wind_speed`` and eddies of ``turbulence`` (m/s).
    lifetime : of NO2, seconds.
    background : mean background column, mol m-2.

    Raises
    ------
    UsageError, RefusedError
        A grid that is not geographic, north-up and away from the poles; options out of range; too many cells.
    """
    check_box(box)
    for name, value in (("wind_speed", wind_speed), ("lifetime", lifetime), ("background", background)):
        if not np.isfinite(value) or value <= 0:
            raise UsageError(f"{name} {value} is not possible", "give a positive number")
    if not np.isfinite(turbulence) or turbulence < 0:
        raise UsageError(f"turbulence {turbulence} is not possible", "give a number of m/s from 0")
    for what, number in (("n_cities", n_cities), ("n_point_sources", n_point_sources)):
        if number is not None and number < 0:
            raise UsageError(f"{what} {number} is not possible", "give a whole number from 0")
    square_km = float(cell_areas(box).sum()) * box.shape[1] / 1e6
    n_cities = max(round(square_km / 9000), 1) if n_cities is None else n_cities
    n_point_sources = max(round(square_km / 20000), 1) if n_point_sources is None else n_point_sources
    # One stream for each part, so that an option of one does not change the others.
    place, plants = (np.random.default_rng([seed, part]) for part in (0, 1))
    air, before, fine = (np.random.default_rng([seed, part, day]) for part in (2, 3, 4))
    sources = [*_cities(box, place, n_cities, roads), _plants(box, plants, n_point_sources)]
    return Scene(
        box,
        Sources(*(np.concatenate([getattr(s, f) for s in sources]) for f in ("lon", "lat", "rate", "sigma"))),
        wind or random_wind(box, air, speed=wind_speed, turbulence=turbulence),
        lifetime,
        _background(box, before, background),
        np.exp(0.05 * gaussian_field(box.shape, cell_spacing(box), fine, slope=3.0, outer=4e4)),
    )


def check_box(box: GeoBox) -> None:
    """Raise unless ``box`` is a grid that a scene can be drawn on."""
    a = box.affine
    if box.crs is None or not box.crs.geographic or a.b or a.d or a.a <= 0 or a.e >= 0:
        raise UsageError("a scene needs a geographic, north-up grid", "give bounds in degrees (EPSG:4326)")
    west, south, east, north = box.boundingbox
    if max(abs(south), abs(north)) > 80 or east - west > 180:
        raise UsageError(
            f"a scene of {west:g} {south:g} {east:g} {north:g} is too near a pole or too wide",
            "stay within 80 degrees of latitude and 180 of longitude",
        )
    if box.shape[0] * box.shape[1] > MAX_CELLS:
        raise RefusedError(
            f"{box.shape[0]} x {box.shape[1]} cells are more than {MAX_CELLS}",
            "take a smaller box or larger cells",
        )


def cell_spacing(box: GeoBox) -> tuple[float, float]:
    """Cell size (dy, dx) in metres at the middle of a geographic grid."""
    middle = np.deg2rad((box.boundingbox.bottom + box.boundingbox.top) / 2)
    return abs(box.affine.e) * METRES_PER_DEGREE, box.affine.a * METRES_PER_DEGREE * float(np.cos(middle))


def _background(box: GeoBox, rng: np.random.Generator, mean: float) -> np.ndarray:
    """Lognormal, large scales dominating, with a gradient across the box."""
    rows, cols = (np.linspace(-1, 1, n) for n in box.shape)
    tilt = 0.25 * (np.sin(angle := rng.uniform(0, 2 * np.pi)) * rows[:, None] + np.cos(angle) * cols[None, :])
    waves = gaussian_field(box.shape, cell_spacing(box), rng, slope=3.5, outer=6e5)
    return mean * np.exp(tilt + 0.3 * waves)


def _plants(box: GeoBox, rng: np.random.Generator, n: int) -> Sources:
    west, south, east, north = box.boundingbox
    rate = np.clip(rng.lognormal(np.log(3.0), 0.8, n), 0.5, 16.0)
    return Sources(rng.uniform(west, east, n), rng.uniform(south, north, n), rate, np.full(n, 1000.0))


def _settle(box: GeoBox, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """``n`` places (lon, lat), crowded where a random field of 250 km is high: valleys and plains, not chance."""
    west, south, east, north = box.boundingbox
    shape = (96, 96)
    spacing = tuple(s * n_box / 96 for s, n_box in zip(cell_spacing(box), box.shape, strict=True))
    density = np.exp(1.1 * gaussian_field(shape, spacing, rng, slope=4.0, outer=2.5e5)).ravel()
    cell = rng.choice(density.size, n, p=density / density.sum())
    row, col = cell // 96 + rng.uniform(size=n), cell % 96 + rng.uniform(size=n)
    return west + (east - west) * col / 96, north - (north - south) * row / 96


def _cities(box: GeoBox, rng: np.random.Generator, n: int, roads: bool) -> Iterator[Sources]:
    """Cities as clouds of sources, six towns for each, and roads between them."""
    lon, lat = _settle(box, rng, 7 * n)
    rate = np.clip(rng.lognormal(np.log(8.0), 0.9, n), 2.0, 80.0)
    parts = np.clip(rate.round().astype(int), 6, 40)
    which = np.repeat(np.arange(n), parts)
    spread = (4500.0 * np.sqrt(rate / 10.0))[which] * rng.standard_normal((2, len(which)))
    share = rng.lognormal(0.0, 0.7, len(which))
    share *= (rate / np.bincount(which, share, n))[which] if n else 1.0
    cosine = np.cos(np.deg2rad(lat))
    yield Sources(
        lon[which] + spread[0] / METRES_PER_DEGREE / cosine[which],
        lat[which] + spread[1] / METRES_PER_DEGREE,
        share,
        np.full(len(which), 2500.0),
    )
    towns = rng.lognormal(np.log(0.7), 0.8, 6 * n)
    yield Sources(lon[n:], lat[n:], towns, np.full(6 * n, 2500.0))
    if roads and n > 1:
        yield from (_road(lon, lat, cosine, i, j, rng) for i, j in _links(lon[:n] * cosine[:n], lat[:n]))


def _links(x: np.ndarray, y: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of cities to link: the shortest network that joins all."""
    from scipy.sparse.csgraph import minimum_spanning_tree

    tree = minimum_spanning_tree(np.hypot(x[:, None] - x, y[:, None] - y) + 1e-9).tocoo()
    return sorted(zip(tree.row.tolist(), tree.col.tolist(), strict=True))


def _road(lon: np.ndarray, lat: np.ndarray, cosine: np.ndarray, i: int, j: int, rng: np.random.Generator) -> Sources:
    """A winding road from city i to city j: a source each 6 km, 0.004 to 0.02 mol/s per km."""
    dx, dy = (lon[j] - lon[i]) * cosine[i], lat[j] - lat[i]
    length = np.hypot(dx, dy) * METRES_PER_DEGREE / 1000
    n = max(int(length / 6), 1)
    t = (np.arange(n) + 0.5) / n
    sway = sum(rng.normal(0, 0.08 / m) * np.sin(np.pi * m * t) for m in (1, 2, 3, 5))
    rate = np.exp(rng.uniform(np.log(0.004), np.log(0.02))) * length / n
    return Sources(
        lon[i] + (dx * t - dy * sway) / cosine[i],
        lat[i] + dy * t + dx * sway,
        np.full(n, rate),
        np.full(n, 3000.0),
    )


def _puffs(sources: Sources, wind: Wind, lifetime: float) -> tuple[np.ndarray, ...]:
    """Where the puffs are at the overpass: (lon, lat, sigma in m, mass in mol), each (n,).

    A puff stands for the releases between two ages, ``tau (exp(-t0/tau) - exp(-t1/tau))`` of the rate, spaced evenly
    in sigmas travelled.
    """
    speed, oldest = max(wind.speed(), 0.5), _LIFETIMES * lifetime
    parts = []
    for sigma in np.unique(sources.sigma):
        chosen = sources.sigma == sigma
        n = int(np.ceil(np.arcsinh(GROWTH * oldest / sigma) * speed / GROWTH / _SPACING)) + 1
        edges = sigma / GROWTH * np.sinh(np.linspace(0, np.arcsinh(GROWTH * oldest / sigma), n + 1))
        left = np.exp(-edges / lifetime)
        left[-1] = 0.0
        age = (edges[:-1] + edges[1:]) / 2
        mass = sources.rate[chosen][:, None] * (lifetime * -np.diff(left))
        shape = mass.shape
        parts.append(
            [
                np.broadcast_to(a, shape).ravel()
                for a in (
                    sources.lon[chosen][:, None],
                    sources.lat[chosen][:, None],
                    np.hypot(sigma, GROWTH * age),
                    mass,
                    age,
                )
            ]
        )
    if not parts:
        return (np.empty(0),) * 4
    lon, lat, width, mass, age = (np.concatenate(p) for p in zip(*parts, strict=True))
    lon, lat = _drift(wind, lon, lat, age)
    return lon, lat, width, mass


def _drift(wind: Wind, lon: np.ndarray, lat: np.ndarray, age: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Carry points with the wind from ``-age`` to now (midpoint rule, steps of three quarters of an hour)."""
    out = np.empty((2, len(age)))
    order = np.argsort(age, kind="stable")
    for start in range(0, len(age), _BLOCK):
        part = order[start : start + _BLOCK]
        x, y, since = lon[part], lat[part], age[part]
        steps = max(int(np.ceil(since[-1] / _STEP)), 2)
        dt = since / steps
        for step in range(steps):
            t = step * dt - since
            x, y = _move(x, y, wind(*_move(x, y, wind(x, y, t), dt / 2), t + dt / 2), dt)
        out[:, part] = x, y
    return out[0], out[1]


def _move(lon: np.ndarray, lat: np.ndarray, flow: np.ndarray, dt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    east, north = flow * dt / METRES_PER_DEGREE
    return lon + east / np.cos(np.deg2rad(lat)), np.clip(lat + north, -89.0, 89.0)


def plume_mass(box: GeoBox, sources: Sources, wind: Wind, lifetime: float) -> np.ndarray:
    """NO2 in each cell of ``box``, mol, (ny, nx) float64; the sum of what lies inside is rate times lifetime.

    Wide puffs are drawn on coarser grids and brought back by bicubic interpolation with each coarse cell's mass
    kept: at four cells per sigma its error is below 1e-3 of a puff, and the cost of a puff no longer grows.
    """
    lon, lat, sigma, mass = _puffs(sources, wind, lifetime)
    dy, dx = abs(box.affine.e), box.affine.a
    sigma_y = sigma / METRES_PER_DEGREE / dy
    sigma_x = sigma / METRES_PER_DEGREE / np.cos(np.deg2rad(lat)) / dx
    row, col = (box.affine.f - lat) / dy, (lon - box.affine.c) / dx
    narrow = np.minimum(sigma_x, sigma_y)
    level = np.clip(np.floor(np.log2(np.maximum(narrow / _COARSE_SIGMA, 1.0))), 0, 6).astype(int)
    top = int(level.max(initial=0))
    unit = 2**top
    shape = tuple(-(-n // unit) * unit for n in box.shape)
    puffs = np.stack([row, col, sigma_y, sigma_x])
    total = np.zeros(())
    for lev in range(top, -1, -1):
        at = level == lev
        drawn = _draw((shape[0] >> lev, shape[1] >> lev), puffs[:, at] / 2**lev, mass[at])
        if lev < top:
            inner = total[RADIUS:-RADIUS, RADIUS:-RADIUS]
            # Mass, not density: each of the four parts of a cell gets a quarter.
            finer = conserve(bicubic(total, 2), inner, np.ones((2 * inner.shape[0], 1)), 2) / 4
            # The rim only steers the next interpolation: continued by its edge values.
            drawn += np.pad(finer, RADIUS, mode="edge")
        total = drawn
    return total[RADIUS:-RADIUS, RADIUS:-RADIUS][: box.shape[0], : box.shape[1]]


def _draw(shape: tuple[int, int], puffs: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """Sum of Gaussian puffs integrated over cells: (ny + 4, nx + 4), two cells of rim around ``shape``.

    ``puffs`` is (4, n): row, column, sigma along rows, sigma along columns, all in cells of this grid. Drawn within
    a wider frame, so that puffs at the edge need no special case.
    """
    from scipy.special import ndtr

    order = np.argsort(puffs[2:].max(axis=0), kind="stable")
    row, col, sigma_y, sigma_x = puffs[:, order]
    mass = mass[order]
    frame = int(np.ceil(2 * _REACH * max(sigma_x.max(initial=1), sigma_y.max(initial=1)))) + 4
    out = np.zeros((shape[0] + 2 * frame, shape[1] + 2 * frame))
    for start in range(0, len(mass), 2048):
        part = slice(start, start + 2048)
        windows = []
        for centre, sigma in ((row[part], sigma_y[part]), (col[part], sigma_x[part])):
            first = np.floor(centre - _REACH * sigma).astype(np.intp)
            size = int(np.ceil(2 * _REACH * sigma.max())) + 2
            edges = ndtr((first[:, None] + np.arange(size + 1) - centre[:, None]) / sigma[:, None])
            share = np.diff(edges, axis=1)
            windows.append((first, size, share / share.sum(axis=1, keepdims=True)))
        (i0, ni, wy), (j0, nj, wx) = windows
        wy *= mass[part, None]
        i0, j0 = i0 + frame, j0 + frame
        seen = (i0 >= 0) & (j0 >= 0) & (i0 + ni <= out.shape[0]) & (j0 + nj <= out.shape[1])
        for k in np.flatnonzero(seen):
            out[i0[k] : i0[k] + ni, j0[k] : j0[k] + nj] += wy[k][:, None] * wx[k]
    rim = frame - RADIUS
    return out[rim : out.shape[0] - rim, rim : out.shape[1] - rim]
