"""Spectra: densities that are right, wavelengths in km, and the effective resolution of known filters."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from odc.geo.geobox import GeoBox
from pyproj import Geod
from scipy import signal

from geosr import grid
from geosr.evaluation.spectrum import (
    SIDES,
    Spectrum,
    cell_lengths_km,
    choose_windows,
    find_windows,
    spectrum,
    transform,
)


def km_box(shape, dx=2.0, dy=2.0):
    return GeoBox(shape, Affine(dx * 1000, 0, 4e5, 0, -dy * 1000, 5e6), "EPSG:32632")


def whole(shape, scale):
    return np.ones((shape[0] // scale, shape[1] // scale), bool)


def test_white_noise_has_a_flat_spectrum_of_its_variance():
    """Two-dimensional density of white noise: variance times the cell's area, at every wavelength."""
    values = 3 * np.random.default_rng(0).standard_normal((512, 512))
    found = spectrum(values, {}, whole(values.shape, 4), km_box(values.shape, 2, 3), 4)
    assert found.windows > 8
    assert found.truth[1:] == pytest.approx(9 * 6, rel=0.15)
    assert found.truth[1:].mean() == pytest.approx(9 * 6, rel=0.02)


def test_the_transform_is_scipy_s():
    """Referee: scipy's periodogram with the same window, of a field that varies along one axis, without its plane."""
    n = 64
    x = np.random.default_rng(0).standard_normal(n)
    ours = np.abs(transform(np.tile(x, (n, 1))) ** 2).sum(axis=0)
    flat = signal.detrend(x, type="linear")
    _, theirs = signal.periodogram(flat, window=signal.get_window("hann", n), detrend=False, return_onesided=False)
    np.testing.assert_allclose(ours / n**3, theirs, rtol=1e-10, atol=1e-12)


def test_a_plane_has_no_spectrum():
    rows, cols = np.mgrid[:64, :64]
    assert np.abs(transform(5 + 0.3 * rows - 7 * cols)).max() < 1e-9


@pytest.mark.parametrize(("dx", "dy"), [(2, 2), (1, 2), (3, 2)])
@pytest.mark.parametrize("axis", [0, 1])
def test_a_wave_is_found_at_its_wavelength(dx, dy, axis):
    rows, cols = np.mgrid[:256, :256]
    values = np.cos(2 * np.pi * (rows * dy if axis == 0 else cols * dx) / 24)
    found = spectrum(values, {}, whole(values.shape, 4), km_box(values.shape, dx, dy), 4)
    assert found.wavelength_km[np.argmax(found.truth)] == pytest.approx(24, rel=0.08)
    assert (np.diff(found.wavelength_km) < 0).all()
    assert found.wavelength_km[-1] == pytest.approx(2 * max(dx, dy), rel=0.02)
    assert found.coarse_cell_km == pytest.approx(4 * (dx + dy) / 2)


def filtered(values, response, km):
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(values.shape[0], km), np.fft.fftfreq(values.shape[1], km), indexing="ij"))
    return np.fft.ifft2(np.fft.fft2(values) * response(k)).real


def test_effective_resolution_of_a_known_filter():
    """A filter of response exp(-k L) leaves the error power (1 - exp(-k L))^2: half at k L = -ln(1 - sqrt(1/2))."""
    truth = np.random.default_rng(0).standard_normal((512, 512))
    length = 8.0
    fields = {"smooth": filtered(truth, lambda k: np.exp(-k * length), 2.0), "perfect": truth, "nothing": 0 * truth}
    found = spectrum(truth, fields, whole(truth.shape, 4), km_box(truth.shape), 4)
    expected = length / -np.log(1 - np.sqrt(0.5))
    assert found.effective_resolution_km("smooth") == pytest.approx(expected, rel=0.02)
    assert found.effective_resolution_km("perfect") == found.wavelength_km[-1]
    assert np.isnan(found.effective_resolution_km("nothing"))
    waves = 1 / found.wavelength_km
    np.testing.assert_allclose(found.ratio("smooth")[2:], np.exp(-2 * waves[2:] * length), rtol=0.1)
    np.testing.assert_allclose(found.noise_to_signal("nothing"), 1)
    assert found.ratio_at("smooth", 20) == pytest.approx(np.exp(-2 * length / 20), rel=0.05)
    assert np.isnan(found.ratio_at("smooth", 1.0))


def test_resolution_is_interpolated_between_rings():
    waves = np.array([1.0, 2.0, 3.0, 4.0])
    one = np.ones(4)
    found = Spectrum(1, 8, 1 / waves, 1.0, one, {"m": one}, {"m": np.array([0.0, 0.25, 0.75, 0.1])})
    assert 1 / found.effective_resolution_km("m") == pytest.approx(2.5)  # and what is right beyond does not count
    dark = Spectrum(1, 8, 1 / waves, 1.0, np.array([1, 1, 0, 1.0]), {"m": one}, {"m": 0 * one})
    assert dark.effective_resolution_km("m") == 0.5
    assert np.isnan(dark.ratio("m")[2])


@given(
    hnp.arrays(bool, st.tuples(st.integers(4, 24), st.integers(4, 24)), elements=st.sampled_from([True] * 9 + [False]))
)
def test_windows_have_no_gap_and_overlap_by_half_at_most(usable):
    for side in [s for s in (4, 6) if s <= min(usable.shape)]:
        corners = find_windows(usable, side)
        for row, col in corners:
            assert usable[row : row + side, col : col + side].all()
            assert row + side <= usable.shape[0]
            assert col + side <= usable.shape[1]
        for a, b in [(a, b) for a in corners for b in corners if a < b]:
            assert abs(a[0] - b[0]) >= side // 2 or abs(a[1] - b[1]) >= side // 2
        tiled = np.lib.stride_tricks.sliding_window_view(usable, (side, side)).all(axis=(2, 3))
        assert bool(corners) == bool(tiled.any())  # where one fits, one is found


def test_the_largest_side_with_enough_windows():
    assert choose_windows(np.ones((128, 128), bool))[0] == 32
    assert choose_windows(np.ones((24, 24), bool))[0] == 12
    side, corners = choose_windows(np.ones((9, 8), bool))
    assert (side, corners) == (8, [(0, 0)])
    assert choose_windows(np.ones((7, 30), bool)) == (SIDES[-1], [])
    assert len(choose_windows(np.ones((600, 600), bool))[1]) == 64


def test_no_window_no_spectrum():
    values = np.zeros((64, 64))
    usable = np.ones((16, 16), bool)
    usable[::7] = False
    assert spectrum(values, {}, usable, km_box(values.shape), 4) is None


def test_gaps_do_not_reach_the_spectrum():
    truth = np.random.default_rng(0).standard_normal((128, 128))
    usable = whole(truth.shape, 4)
    usable[:, 12:] = False
    truth[:, 48:] = np.nan
    found = spectrum(truth, {"a": truth}, usable, km_box(truth.shape), 4)
    assert np.isfinite(found.truth).all()
    assert (found.error["a"] == 0).all()
    document = found.to_dict()
    assert document["methods"]["a"]["noise_to_signal"] == [0.0] * len(document["wavelength_km"])


@pytest.mark.parametrize(
    ("epsg", "affine"), [(4326, Affine(0.25, 0, 5, 0, -0.2, 60)), (4326, Affine(0.1, 0.1, 5, 0.2, -0.2, 40))]
)
def test_lengths_by_geodesics(epsg, affine):
    """Referee: geodesics on the authalic sphere."""
    box = GeoBox((50, 40), affine, f"EPSG:{epsg}")
    geod = Geod(a=grid.AUTHALIC_RADIUS, f=0)
    for row, col in ((3, 5), (40, 30)):
        dy, dx = cell_lengths_km(box, row, col)
        ends = [affine * p for p in ((col, row - 0.5), (col, row + 0.5), (col - 0.5, row), (col + 0.5, row))]
        assert dy == pytest.approx(geod.inv(*ends[0], *ends[1])[2] / 1000, rel=1e-4)
        assert dx == pytest.approx(geod.inv(*ends[2], *ends[3])[2] / 1000, rel=1e-4)


def test_lengths_in_feet():
    box = GeoBox((4, 4), Affine(5280, 0, 0, 0, -5280, 0), "EPSG:2263")  # New York, US survey feet
    assert cell_lengths_km(box, 1, 1) == pytest.approx((1.609347, 1.609347))
