"""Down to which wavelength is a refined field right? Power spectra of truth, prediction and error.

Spectra are two-dimensional periodograms of square windows without gaps, overlapping by half at most, averaged (Welch,
P. D. (1967), The use of fast Fourier transform for the estimation of power spectra, IEEE Trans. Audio Electroacoust.
15(2)). Of each window the least-squares plane is subtracted and the rest tapered by a Hann window: what leaves a
limited area through its edges would else be taken for short waves. Then means over rings of equal wavenumber.

The **effective resolution** is the wavelength at which the spectrum of the error, coming from long waves, reaches half
that of the truth: noise-to-signal ratio 0.5, as Ballarotta, M. et al. (2019), On the resolutions of ocean
altimetry maps, Ocean Science 15, define it. A wavelength is two features wide: a resolution of two coarse cells is what
the coarse sampling itself can carry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox

from geosr import grid

#: Noise-to-signal ratio at the effective resolution.
THRESHOLD = 0.5

#: Sides of windows, in coarse cells, largest first: the first of which there are enough is taken.
SIDES = (32, 24, 16, 12, 8)
ENOUGH = 8

#: More windows than this make no better estimate, only a slower one.
MOST = 64


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Ring means of power spectra, long waves first.

    Attributes
    ----------
    windows, side : how many, and their side in fine cells.
    wavelength_km : (n,) descending, from the window's side down to two fine cells.
    coarse_cell_km : side of a coarse cell, mean over the windows and both axes; 2 of it are the shortest wave that the
        coarse field can carry.
    truth : (n,) power spectral density, units squared times km squared.
    prediction, error : method -> (n,), of the refined field and of refined minus truth.
    """

    windows: int
    side: int
    wavelength_km: np.ndarray
    coarse_cell_km: float
    truth: np.ndarray
    prediction: dict[str, np.ndarray]
    error: dict[str, np.ndarray]

    def ratio(self, method: str) -> np.ndarray:
        """(n,) power of the prediction over that of the truth: below 1 is too smooth. NaN where the truth has none."""
        return _over(self.prediction[method], self.truth)

    def noise_to_signal(self, method: str) -> np.ndarray:
        """(n,) power of the error over that of the truth; NaN where the truth has none."""
        return _over(self.error[method], self.truth)

    def ratio_at(self, method: str, wavelength_km: float) -> float:
        """:meth:`ratio` at one wavelength, linear in wavenumber; NaN outside the spectrum."""
        waves = 1 / self.wavelength_km
        return float(np.interp(1 / wavelength_km, waves, self.ratio(method), left=np.nan, right=np.nan))

    def effective_resolution_km(self, method: str) -> float:
        """Wavelength down to which the noise-to-signal ratio stays below :data:`THRESHOLD`.

        Linear in wavenumber between the rings. NaN where not even the longest wave is right; the shortest wavelength
        of the spectrum where all are.
        """
        noise = self.noise_to_signal(method)
        bad = np.flatnonzero(~(noise < THRESHOLD))
        if not bad.size:
            return float(self.wavelength_km[-1])
        first = int(bad[0])
        if first == 0 or np.isnan(noise[first]):
            return float("nan") if first == 0 else float(self.wavelength_km[first - 1])
        low, high = 1 / self.wavelength_km[first - 1], 1 / self.wavelength_km[first]
        share = (THRESHOLD - noise[first - 1]) / (noise[first] - noise[first - 1])
        return float(1 / (low + share * (high - low)))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, derived numbers included."""
        return {
            "windows": self.windows,
            "side_cells": self.side,
            "coarse_cell_km": self.coarse_cell_km,
            "threshold": THRESHOLD,
            "wavelength_km": self.wavelength_km.tolist(),
            "truth": self.truth.tolist(),
            "methods": {
                name: {
                    "effective_resolution_km": self.effective_resolution_km(name),
                    "ratio": self.ratio(name).tolist(),
                    "noise_to_signal": self.noise_to_signal(name).tolist(),
                }
                for name in self.prediction
            },
        }


def _over(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(b > 0, a / np.where(b > 0, b, 1.0), np.nan)


def spectrum(
    truth: np.ndarray, fields: Mapping[str, np.ndarray], usable: np.ndarray, box: GeoBox, scale: int
) -> Spectrum | None:
    """Spectra over the windows that fit into the usable cells; None where not one of 8 coarse cells fits.

    Parameters
    ----------
    truth : (h * scale, w * scale); ``fields`` : method -> the same shape.
    usable : (h, w) bool, coarse cells where truth and fields have no gap.
    box : grid of the truth, for the lengths.
    """
    side, corners = choose_windows(usable)
    if not corners:
        return None
    n = side * scale
    lengths = [cell_lengths_km(box, row * scale + n / 2, col * scale + n / 2) for row, col in corners]
    rings = Rings(n, max(max(pair) for pair in lengths))
    for (row, col), (dy, dx) in zip(corners, lengths, strict=True):
        window = slice(row * scale, row * scale + n), slice(col * scale, col * scale + n)
        waves = transform(truth[window])
        rings.add("truth", waves, dy, dx)
        for name, field in fields.items():
            predicted = transform(field[window])
            rings.add(("prediction", name), predicted, dy, dx)
            rings.add(("error", name), predicted - waves, dy, dx)  # the transform is linear
    wavelength, means = rings.means()
    return Spectrum(
        windows=len(corners),
        side=n,
        wavelength_km=wavelength,
        coarse_cell_km=scale * float(np.mean(lengths)),
        truth=means["truth"],
        prediction={name: means["prediction", name] for name in fields},
        error={name: means["error", name] for name in fields},
    )


def choose_windows(usable: np.ndarray) -> tuple[int, list[tuple[int, int]]]:
    """(side, upper left corners) of windows in ``usable`` (h, w): the largest of :data:`SIDES` with enough of them."""
    best: tuple[int, list[tuple[int, int]]] = (SIDES[-1], [])
    for side in SIDES:
        found = find_windows(usable, side)
        if len(found) > len(best[1]):
            best = side, found
        if len(found) >= ENOUGH:
            break
    side, found = best
    some = np.linspace(0, len(found) - 1, min(len(found), MOST)).round().astype(int)
    return side, [found[i] for i in some]


def find_windows(usable: np.ndarray, side: int) -> list[tuple[int, int]]:
    """Upper left corners, row by row, of windows of usable cells; no two overlap by more than half."""
    if min(usable.shape) < side:
        return []
    count = np.pad(np.cumsum(np.cumsum(~usable, axis=0, dtype=np.int64), axis=1), ((1, 0), (1, 0)))
    free = (count[side:, side:] - count[:-side, side:] - count[side:, :-side] + count[:-side, :-side]) == 0
    step, found = side // 2, []
    for row in range(free.shape[0]):
        while free[row].any():
            col = int(np.argmax(free[row]))
            found.append((row, col))
            free[row : row + step, max(0, col - step + 1) : col + step] = False
    return found


def cell_lengths_km(box: GeoBox, row: float, col: float) -> tuple[float, float]:
    """(length of a row step, of a column step) in km at a place of the grid, on the authalic sphere if geographic."""
    a = box.affine
    if box.crs is not None and box.crs.geographic:
        km = np.deg2rad(grid.AUTHALIC_RADIUS) / 1000
        shrink = np.cos(np.deg2rad(np.clip(a.d * col + a.e * row + a.f, -90, 90)))
        return float(km * np.hypot(a.b * shrink, a.e)), float(km * np.hypot(a.a * shrink, a.d))
    unit = 1.0 if box.crs is None else box.crs.proj.axis_info[0].unit_conversion_factor
    return float(np.hypot(a.b, a.e)) * unit / 1000, float(np.hypot(a.a, a.d)) * unit / 1000


def transform(window: np.ndarray) -> np.ndarray:
    """Fourier transform (n, n) of a window less its least-squares plane, under a Hann window of mean square 1."""
    n = len(window)
    values = window.astype(np.float64)
    place = np.arange(n) - (n - 1) / 2
    square = (place**2).sum() * n
    slopes = (values * place[:, None]).sum() / square, (values * place).sum() / square
    flat = values - values.mean() - slopes[0] * place[:, None] - slopes[1] * place
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n) / n)
    taper = np.outer(hann, hann)
    return np.fft.fft2(flat * taper / np.sqrt(np.mean(taper**2)))


class Rings:
    """Sums of power over rings of equal wavenumber, for windows of ``n`` x ``n`` cells of at most ``longest`` km.

    Ring i holds the wavenumbers nearest to i / (n * longest): from the longest wave that fits into a window of the
    largest cells to the shortest that such cells carry.
    """

    def __init__(self, n: int, longest: float) -> None:
        self.n, self.step, self.count = n, 1 / (n * longest), n // 2
        self.power: dict[Any, np.ndarray] = {}
        self.members, self.waves = np.zeros(self.count + 1), np.zeros(self.count + 1)

    def add(self, key: Any, waves: np.ndarray, dy: float, dx: float) -> None:
        """Add a window's transform; ``dy``, ``dx`` are its cells' lengths in km."""
        ky, kx = np.fft.fftfreq(self.n, dy)[:, None], np.fft.fftfreq(self.n, dx)
        k = np.hypot(ky, kx)
        ring = np.rint(k / self.step).astype(int)
        inside = (ring > 0) & (ring <= self.count)
        density = np.abs(waves) ** 2 * dy * dx / self.n**2
        found = np.bincount(ring[inside], density[inside], minlength=self.count + 1)
        self.power[key] = self.power.get(key, 0) + found
        if key == "truth":
            self.members += np.bincount(ring[inside], minlength=self.count + 1)
            self.waves += np.bincount(ring[inside], k[inside], minlength=self.count + 1)

    def means(self) -> tuple[np.ndarray, dict[Any, np.ndarray]]:
        """(wavelengths, key -> mean power spectral density), long waves first."""
        members = self.members[1:]
        return members / self.waves[1:], {key: power[1:] / members for key, power in self.power.items()}
