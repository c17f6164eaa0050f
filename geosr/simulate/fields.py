"""Random fields and winds for simulated scenes.

Fields are Gaussian with a power law spectrum; winds come from a streamfunction, so air is neither made nor lost.
Time is in seconds, the overpass is at t = 0 and the past is negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from odc.geo.geobox import GeoBox

from geosr.footprint import METRES_PER_DEGREE

#: Cells along the longer side of the grid that holds the wind; eddies below two of its cells are not resolved.
_WIND_CELLS = 320


def gaussian_field(
    shape: Sequence[int],
    spacing: Sequence[float],
    rng: np.random.Generator,
    *,
    slope: float,
    outer: float,
    inner: float = 0.0,
) -> np.ndarray:
    """Gaussian random field of zero mean and unit variance (over the ensemble, not over each draw).

    Parameters
    ----------
    shape : (ny, nx).
    spacing : cell size (dy, dx) in metres.
    slope : the 2-D power density falls as wavenumber to the power ``-slope`` (a 1-D transect by one less).
    outer : wavelength in metres above which the spectrum is flat.
    inner : wavelength in metres below which it is damped as a Gaussian.

    Returns
    -------
    (ny, nx) float64. It is cut from a larger periodic field, so opposite edges are not alike.
    """
    from scipy import fft

    big = [
        fft.next_fast_len(n + min(n // 2, int(outer / d) + 1), real=True) for n, d in zip(shape, spacing, strict=True)
    ]
    ky = fft.fftfreq(big[0], spacing[0])[:, None]
    kx = fft.rfftfreq(big[1], spacing[1])[None, :]
    k2 = ky**2 + kx**2
    amplitude = (k2 + outer**-2) ** (-slope / 4) * np.exp(-k2 * (inner / 2) ** 2)
    amplitude[0, 0] = 0.0
    # Parseval on the half spectrum: columns other than the first (and the last, if even) stand for two.
    twice = np.full(kx.shape[1], 2.0)
    twice[0] = 1.0
    if big[1] % 2 == 0:
        twice[-1] = 1.0
    amplitude /= np.sqrt((amplitude**2 * twice).sum() / (big[0] * big[1]))
    field = fft.irfft2(fft.rfft2(rng.standard_normal(big)) * amplitude, s=big)
    return field[: shape[0], : shape[1]]


@dataclass(frozen=True)
class Wind:
    """Horizontal wind on a regular grid of longitude and latitude: a steady part and two beats of eddies.

    ``wind(t) = steady + cos(rate t) eddies[0] + sin(rate t) eddies[1]``; each array is (2, ny, nx), metres per
    second east and north, rows from south to north. Beyond the grid the edge's wind blows on.
    """

    west: float
    south: float
    step: tuple[float, float]  # degrees (latitude, longitude)
    steady: np.ndarray
    eddies: np.ndarray  # (2, 2, ny, nx)
    rate: float

    def __call__(self, lon: np.ndarray, lat: np.ndarray, t: np.ndarray | float = 0.0) -> np.ndarray:
        """(2, …) metres per second east and north at ``lon``, ``lat`` (degrees) and ``t`` (seconds), bilinear."""
        ny, nx = self.steady.shape[-2:]
        row = np.clip((lat - self.south) / self.step[0], 0, ny - 1.000001)
        col = np.clip((lon - self.west) / self.step[1], 0, nx - 1.000001)
        i, j = row.astype(np.intp), col.astype(np.intp)
        fi, fj = row - i, col - j
        table = self._table
        at = i * nx + j
        low = table[at] + (table[at + 1] - table[at]) * fj[..., None]
        high = table[at + nx] + (table[at + nx + 1] - table[at + nx]) * fj[..., None]
        low += (high - low) * fi[..., None]  # (…, 6)
        cosine, sine = np.cos(self.rate * t), np.sin(self.rate * t)
        return np.stack([low[..., k] + cosine * low[..., 2 + k] + sine * low[..., 4 + k] for k in range(2)])

    @cached_property
    def _table(self) -> np.ndarray:
        """(ny * nx, 6), the numbers of a grid point side by side."""
        parts = np.concatenate([self.steady, self.eddies[0], self.eddies[1]])
        return np.ascontiguousarray(parts.reshape(6, -1).T)

    def speed(self) -> float:
        """Typical speed, m/s: root mean square over the grid."""
        eddy = (self.eddies**2).sum(axis=1).mean() if self.eddies.size else 0.0
        return float(np.sqrt((self.steady**2).sum(axis=0).mean() + eddy))


def uniform_wind(east: float, north: float) -> Wind:
    """The same wind everywhere and always (for tests: plumes are straight Gaussians)."""
    steady = np.empty((2, 2, 2))
    steady[0], steady[1] = east, north
    return Wind(-180.0, -90.0, (180.0, 360.0), steady, np.zeros((2, 2, 2, 2)), 0.0)


def random_wind(
    box: GeoBox, rng: np.random.Generator, *, speed: float, turbulence: float, direction: float | None = None
) -> Wind:
    """Wind over ``box``: a mean, synoptic bends of 0.4 of its strength, and mesoscale eddies.

    Parameters
    ----------
    speed : mean speed, m/s.
    turbulence : root mean square speed of the eddies (10 to 250 km, spectrum as k^-5/3), m/s.
    direction : degrees clockwise from north that the mean wind blows TO; random by default.
    """
    west, south, east, north = box.boundingbox
    cosine = float(np.cos(np.deg2rad((south + north) / 2)))
    height, width = (north - south) * METRES_PER_DEGREE, (east - west) * METRES_PER_DEGREE * cosine
    cell = max(height, width) / _WIND_CELLS
    shape = (max(int(height / cell), 2) + 2, max(int(width / cell), 2) + 2)
    angle = np.deg2rad(rng.uniform(0, 360) if direction is None else direction)

    def from_streamfunction(slope: float, outer: float, inner: float, rms: float) -> np.ndarray:
        psi = gaussian_field(shape, (cell, cell), rng, slope=slope, outer=outer, inner=inner)
        dpsi_dy, dpsi_dx = np.gradient(psi, cell)
        flow = np.stack([-dpsi_dy, dpsi_dx])
        return flow * (rms / max(float(np.sqrt((flow**2).sum(axis=0).mean())), 1e-30))

    # The spectrum of the flow falls by two powers less than the streamfunction's.
    bends = from_streamfunction(6.0, 2.0e6, 4e5, 0.4 * speed)
    mean = speed * np.array([np.sin(angle), np.cos(angle)])
    eddies = np.stack([from_streamfunction(14 / 3, 2.5e5, 1e4, turbulence) for _ in range(2)])
    step = (cell / METRES_PER_DEGREE, cell / METRES_PER_DEGREE / cosine)
    return Wind(west, south, step, mean[:, None, None] + bends, eddies, 2 * np.pi / (8 * 3600))
