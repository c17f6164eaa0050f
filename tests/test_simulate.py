"""Simulated scenes, swaths and files: masses, geometry, footprints, structure, reproducibility."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from geosr.errors import GeosrError, OutputError, RefusedError, UsageError
from geosr.footprint import unit_vectors
from geosr.grid import AUTHALIC_RADIUS, cell_areas, geobox_of, with_geobox
from geosr.simulate import (
    KINDS,
    RESPONSES,
    as_swath,
    make_scene,
    orbit_geometry,
    overpass,
    simulate,
    simulate_scene,
    simulate_swath,
)
from geosr.simulate.fields import gaussian_field, random_wind, uniform_wind
from geosr.simulate.footprints import footprint_means
from geosr.simulate.scene import Scene, Sources, plume_mass

COLUMN = "nitrogendioxide_tropospheric_column"
L3 = "tropospheric_NO2_column_number_density"


def grid(west: float, south: float, east: float, north: float, step: float) -> GeoBox:
    shape = (round((north - south) / step), round((east - west) / step))
    return GeoBox(shape, Affine(step, 0, west, 0, -step, north), "EPSG:4326")


def field(values: np.ndarray, box: GeoBox) -> xr.DataArray:
    return with_geobox(xr.DataArray(values, dims=("latitude", "longitude")), box)


def source(lon: float, lat: float, rate: float = 10.0, sigma: float = 1000.0) -> Sources:
    return Sources(*(np.array([v]) for v in (lon, lat, rate, sigma)))


# --- scenes


@settings(max_examples=15, deadline=None)
@given(
    lat=st.floats(-60, 60),
    speed=st.floats(2, 8),
    heading=st.floats(0, 2 * np.pi),
    sigma=st.sampled_from([800.0, 3000.0, 9000.0]),
    rate=st.floats(0.1, 50),
)
def test_a_plume_holds_rate_times_lifetime(lat, speed, heading, sigma, rate):
    # 3 hours at 8 m/s: 4.6 lifetimes reach 400 km, well inside 8 degrees each side even at 60 degrees.
    box = grid(2, round(lat) - 6, 18, round(lat) + 6, 0.05)
    wind = uniform_wind(speed * np.sin(heading), speed * np.cos(heading))
    mass = plume_mass(box, source(10.0, lat, rate, sigma), wind, 3 * 3600.0)
    assert mass.sum() == pytest.approx(rate * 3 * 3600.0, rel=1e-9)
    assert mass.min() >= -1e-3 * mass.max()


def test_line_density_falls_as_the_steady_state_plume():
    """Beirle et al. (2011): Q/u exp(-x / (u tau)) downwind of a point source."""
    box, u, tau, rate = grid(0, -1, 6, 1, 0.01), 6.0, 2 * 3600.0, 5.0
    mass = plume_mass(box, source(0.5, 0.0, rate), uniform_wind(u, 0.0), tau)
    step = np.deg2rad(0.01) * AUTHALIC_RADIUS
    line = mass.sum(axis=0) / step
    x = np.deg2rad(box.affine.c + 0.01 * (np.arange(600) + 0.5) - 0.5) * AUTHALIC_RADIUS
    plume = (x > 15e3) & (x < 2.5 * u * tau)
    # A puff stands for an interval of ages, at its middle: hence some per cent.
    np.testing.assert_allclose(line[plume], (rate / u * np.exp(-x / (u * tau)))[plume], rtol=0.03)
    upwind = x < -10e3
    assert line[upwind].max() < 1e-3 * line.max()


def test_wide_puffs_are_the_same_on_the_coarse_levels(monkeypatch):
    box = grid(0, 40, 4, 43, 0.01)
    args = box, source(1.5, 41.5, sigma=2000.0), uniform_wind(3.0, 1.0), 3 * 3600.0
    levels = plume_mass(*args)
    monkeypatch.setattr("geosr.simulate.scene._COARSE_SIGMA", 1e9)
    direct = plume_mass(*args)
    assert np.abs(levels - direct).max() < 2e-3 * direct.max()
    assert not np.array_equal(levels, direct)


def test_plumes_bend_along_the_wind():
    box = grid(0, 40, 6, 45, 0.02)
    wind = random_wind(box, np.random.default_rng(3), speed=5.0, turbulence=2.0)
    lon, lat = np.array([3.0]), np.array([42.5])
    dlon = []
    for _ in range(60):  # follow the air at the overpass for five hours
        east, north = wind(lon, lat) * 300 / (np.deg2rad(1) * AUTHALIC_RADIUS)
        lon, lat = lon + east / np.cos(np.deg2rad(lat)), lat + north
        dlon.append((float(lon[0]), float(lat[0])))
    mass = plume_mass(box, source(3.0, 42.5), wind, 4 * 3600.0)
    assert mass.sum() > 0
    assert np.ptp(np.arctan2(*np.diff(np.array(dlon), axis=0).T)) > np.deg2rad(5)


def test_wind_neither_makes_nor_loses_air():
    box = grid(0, 40, 6, 45, 0.02)
    wind = random_wind(box, np.random.default_rng(0), speed=5.0, turbulence=2.0)
    u, v = wind.steady + wind.eddies[0]
    divergence = np.gradient(u, axis=1) + np.gradient(v, axis=0)
    shear = np.gradient(u, axis=0)
    inner = (slice(2, -2), slice(2, -2))  # np.gradient is one-sided at the rim
    assert np.abs(divergence[inner]).max() < 1e-9 * np.abs(shear).max()
    assert np.hypot(*wind.steady.mean(axis=(1, 2))) == pytest.approx(5.0, rel=0.5)


def test_random_fields_have_the_spectrum_asked_for():
    n, slope = 512, 3.0
    power = np.zeros(n // 2)
    for seed in range(12):
        values = gaussian_field((n, n), (1.0, 1.0), np.random.default_rng(seed), slope=slope, outer=1e4)
        window = np.hanning(n)
        power += (np.abs(np.fft.rfft((values - values.mean()) * window, axis=1)) ** 2).mean(axis=0)[: n // 2]
    k = np.arange(n // 2)
    part = slice(6, 60)
    found = -np.polyfit(np.log(k[part]), np.log(power[part]), 1)[0]
    assert found == pytest.approx(slope - 1, abs=0.2)  # along a line the power law is one less
    spread = [gaussian_field((64, 64), (1, 1), np.random.default_rng(s), slope=3, outer=20).var() for s in range(40)]
    assert np.mean(spread) == pytest.approx(1.0, abs=0.1)


def test_scene_has_realistic_magnitudes_and_is_reproducible():
    box = grid(-30, 42, -26, 45, 0.02)
    truth = simulate_scene(box, seed=5)
    again = simulate_scene(box, seed=5)
    xr.testing.assert_identical(truth, again)
    assert not np.array_equal(truth, simulate_scene(box, seed=6))
    assert not np.array_equal(truth, simulate_scene(box, seed=5, day=1))
    one, two = make_scene(box, seed=5), make_scene(box, seed=5, day=1)
    np.testing.assert_array_equal(one.sources.rate, two.sources.rate)
    assert geobox_of(truth) == box
    assert truth.attrs["units"] == "mol m-2"
    low, middle, high = np.percentile(truth, [1, 50, 99.9])
    assert 3e-6 < low < 2e-5
    assert 1e-5 < middle < 1e-4
    assert 1.5e-4 < high < 3e-3
    assert float(truth.min()) > 0


def test_scene_without_sources_is_the_background():
    box = grid(0, 0, 1, 1, 0.05)
    nothing = Sources(*(np.empty(0) for _ in range(4)))
    scene = Scene(box, nothing, uniform_wind(1, 0), 3600.0, background=2e-5)
    np.testing.assert_allclose(scene.column(), 2e-5, rtol=1e-6)
    assert make_scene(box, n_cities=0, n_point_sources=0).column().notnull().all()


@pytest.mark.parametrize(
    ("box", "error"),
    [
        (GeoBox((10, 10), Affine(1000, 0, 0, 0, -1000, 0), "EPSG:32631"), UsageError),
        (GeoBox((10, 10), Affine(0.1, 0, 0, 0, 0.1, 0), "EPSG:4326"), UsageError),
        (GeoBox((10, 10), Affine(0.1, 0, 0, 0, -0.1, 89), "EPSG:4326"), UsageError),
        (GeoBox((20_000, 20_000), Affine(1e-3, 0, 0, 0, -1e-3, 20), "EPSG:4326"), RefusedError),
    ],
)
def test_grids_that_cannot_be_drawn_on(box, error):
    with pytest.raises(error):
        simulate_scene(box)


# --- orbit


@pytest.fixture(scope="module")
def orbit():
    return orbit_geometry(1043, 450, centre=0.0, node_lon=30.0)


def test_whole_orbit_crosses_poles_and_dateline():
    whole = orbit_geometry()
    assert whole.shape == (4172, 450)
    assert whole.lat.max() > 89.9
    assert whole.lat.min() < -89.9
    assert (np.abs(np.diff(whole.lon, axis=0)) > 300).any()
    assert np.abs(whole.lon).max() <= 180
    assert np.abs(whole.nadir_lat).max() == pytest.approx(81.3, abs=0.05)


def test_pixels_have_the_sensors_sizes(orbit):
    corners = unit_vectors(orbit.lon_corners, orbit.lat_corners)[orbit.shape[0] // 2] * AUTHALIC_RADIUS / 1000
    across = np.linalg.norm(corners[:, 1] - corners[:, 0], axis=-1)
    along = np.linalg.norm(corners[:, 3] - corners[:, 0], axis=-1)
    assert across[225] == pytest.approx(3.5, abs=0.2)
    assert 13 < across[0] < 16
    assert across.sum() == pytest.approx(2600, rel=0.02)
    np.testing.assert_allclose(along, 5.5, atol=0.2)


def test_corners_are_shared_and_counter_clockwise(orbit):
    for corners in (orbit.lon_corners, orbit.lat_corners):
        np.testing.assert_array_equal(corners[:, :-1, 1], corners[:, 1:, 0])
        np.testing.assert_array_equal(corners[:, :-1, 2], corners[:, 1:, 3])
        np.testing.assert_array_equal(corners[:-1, :, 3], corners[1:, :, 0])
    x, y = orbit.lon_corners, orbit.lat_corners
    area = (x * np.roll(y, -1, -1) - np.roll(x, -1, -1) * y).sum(axis=-1)
    assert (area > 0).all()
    # The first corner is the south-western one: west of the second, south of the last.
    assert (x[..., 0] < x[..., 1]).all()
    assert (y[..., 0] < y[..., 3]).all()


def test_angles_and_time(orbit):
    view, _ = orbit.viewing_angles()
    sun, azimuth = orbit.solar_angles()
    row = orbit.shape[0] // 2
    assert view[row].min() < 1
    assert 60 < view[row].max() < 70
    # 13:30 local solar time: the hour angle is 22.5 degrees, in June the sun stands 23 degrees north.
    centre = np.argmin(np.abs(orbit.lon[row] - 30.0))
    expected = np.rad2deg(np.arccos(np.cos(np.deg2rad(22.5)) * np.cos(np.deg2rad(23.1))))
    assert sun[row, centre] == pytest.approx(expected, abs=0.5)
    assert -90 < azimuth[row, centre] < 0  # in the north-west
    assert orbit.times()[row] == np.datetime64("2024-06-12T11:30:00")
    assert 34_400 < orbit.orbit < 34_700


@settings(max_examples=25, deadline=None)
@given(st.floats(-179, 179), st.floats(-55, 60), st.floats(-0.8, 0.8))
def test_overpass_covers_its_box(lon, lat, offset):
    box = (lon - 1, lat - 1, lon + 1, lat + 1)
    seen = overpass(box, date=dt.date(2024, 3, 1), offset=offset, n_pixels=150)
    x, y = (seen.lon - lon + 180) % 360 - 180, seen.lat - lat
    assert np.hypot(x * np.cos(np.deg2rad(lat)), y).min() < 0.15
    inside = (np.abs(x) <= 1) & (np.abs(y) <= 1)
    assert inside.sum() > 30
    assert inside[0].any()
    assert inside[:, -1].any()


def test_overpass_refuses_a_pole():
    with pytest.raises(UsageError, match="latitude"):
        overpass((0, 85, 2, 87), date=dt.date(2024, 3, 1))


# --- footprints


def test_footprint_means_against_polygon_overlap():
    shapely = pytest.importorskip("shapely")
    rng = np.random.default_rng(1)
    box = grid(5, 50, 6, 51, 0.05)
    values = rng.lognormal(size=box.shape)
    lon = 5.5 + rng.uniform(-0.1, 0.1, (8, 1)) + np.array([-0.11, 0.07, 0.12, -0.08])
    lat = 50.5 + rng.uniform(-0.1, 0.1, (8, 1)) + np.array([-0.07, -0.09, 0.08, 0.1])
    found = footprint_means(values, box, lon, lat)
    edges = np.sin(np.deg2rad(51 - 0.05 * np.arange(21)))
    for k in range(8):
        pixel = shapely.Polygon(np.c_[lon[k], np.sin(np.deg2rad(lat[k]))])
        share = [
            [
                pixel.intersection(shapely.box(5 + 0.05 * j, edges[i + 1], 5.05 + 0.05 * j, edges[i])).area
                for j in range(20)
            ]
            for i in range(20)
        ]
        assert found[k] == pytest.approx((np.array(share) * values).sum() / pixel.area, rel=1e-9)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.floats(-0.7, 0.7), st.floats(-60, 60))
def test_footprints_conserve_mass(seed, offset, lat):
    """Pixels that tile an area hold together what the field holds there (a field within the swath's area)."""
    seen = overpass((9, lat - 0.5, 11, lat + 0.5), date=dt.date(2024, 6, 1), offset=offset)
    west, east = seen.lon_corners.min() - 0.1, seen.lon_corners.max() + 0.1
    south, north = seen.lat_corners.min() - 0.1, seen.lat_corners.max() + 0.1
    step = 0.04
    shape = (int((north - south) / step) + 1, int((east - west) / step) + 1)
    box = GeoBox(shape, Affine(step, 0, west, 0, -step, north), "EPSG:4326")
    lon = west + step * (np.arange(shape[1]) + 0.5)
    la = north - step * (np.arange(shape[0]) + 0.5)
    near = np.hypot((lon[None] - 10) * np.cos(np.deg2rad(lat)), la[:, None] - lat) < 0.2
    values = np.where(near, np.random.default_rng(seed).lognormal(size=shape), 0.0)
    means = footprint_means(values, box, seen.lon_corners, seen.lat_corners)
    x, v = np.deg2rad(seen.lon_corners), np.sin(np.deg2rad(seen.lat_corners))
    area = AUTHALIC_RADIUS**2 * np.abs((x * np.roll(v, -1, -1) - np.roll(x, -1, -1) * v).sum(axis=-1)) / 2
    assert (means * area).sum() == pytest.approx((values * cell_areas(box)).sum(), rel=1e-9)


def test_footprints_beyond_the_field_have_no_value():
    box = grid(0, 0, 1, 1, 0.1)
    lon = np.array([[0.2, 0.4, 0.4, 0.2], [0.9, 1.1, 1.1, 0.9], [360.2, 360.4, 360.4, 360.2]])
    lat = np.array([[0.2, 0.2, 0.4, 0.4]] * 3)
    np.testing.assert_allclose(footprint_means(np.full(box.shape, 3.0), box, lon, lat), [3.0, np.nan, 3.0])


@pytest.mark.parametrize(("axis", "response"), [(0, 0.44), (1, 0.74)])
def test_tropomi_response_at_the_nyquist_frequency(axis, response):
    """A wave of two pixels' length along (rows) or across (columns) keeps this part of its amplitude."""
    step, size = 0.001, 0.1
    box = grid(0, -1, 2, 1, step)
    lon, lat = (step * (np.arange(2000) + 0.5) - o for o in (0, 1))
    wave = np.cos(np.pi * (lon[None, :] if axis else lat[::-1, None]) / size) * np.ones(box.shape)
    centre = np.array([1.0, 0.0])  # a crest of both
    lo = centre[0] + size / 2 * np.array([[-1, 1, 1, -1]])
    la = centre[1] + size / 2 * np.array([[-1, -1, 1, 1]])
    found = footprint_means(wave, box, lo, la, scale=RESPONSES["tropomi"])[0]
    assert found == pytest.approx(response, abs=0.01)
    plain = footprint_means(wave, box, lo, la)[0]
    assert plain == pytest.approx(2 / np.pi, abs=0.01)


# --- swaths


@pytest.fixture(scope="module")
def truth():
    return simulate_scene(grid(-31, 41, -26, 46, 0.02), seed=2)


def test_noise_is_of_the_stated_precision(truth):
    exact = simulate_swath(truth, noise=0.0, missing=0.0)
    noisy = simulate_swath(truth, noise=1.0, missing=0.0)
    z = ((noisy[COLUMN] - exact[COLUMN]) / noisy[f"{COLUMN}_precision"]).values
    z = z[np.isfinite(z)]
    assert z.std() == pytest.approx(1.0, abs=0.03)
    assert z.mean() == pytest.approx(0.0, abs=0.03)
    clear = noisy[f"{COLUMN}_precision"].where(noisy.qa_value == 1)
    assert 5e-6 < float(clear.median()) < 3e-5
    assert (noisy[COLUMN] < 0).any()  # as in real data
    means = footprint_means(truth.values, geobox_of(truth), exact.longitude_bounds.values, exact.latitude_bounds.values)
    np.testing.assert_allclose(exact[COLUMN], means, rtol=1e-12)


def test_clouds_lower_qa_and_some_pixels_are_missing(truth):
    swath = simulate_swath(truth, cloud_cover=0.3, missing=0.01, seed=1)
    cloud = swath.cloud_radiance_fraction_nitrogendioxide_window
    assert float((cloud > 0.5).mean()) == pytest.approx(0.3, abs=0.02)
    assert (swath.qa_value.where(cloud > 0.5, 0) < 0.75).all()
    lost = swath[COLUMN].isnull()
    assert (swath.qa_value.where(lost, 0) == 0).all()
    seen = ~np.isnan(simulate_swath(truth, missing=0.0)[COLUMN].values)
    assert 0.005 < (lost.values & seen).sum() / seen.sum() < 0.02
    assert (simulate_swath(truth, cloud_cover=0.0).qa_value.values[seen] > 0).mean() > 0.99


@pytest.mark.parametrize("options", [{"cloud_cover": 2}, {"noise": -1}, {"response": "x"}, {"missing": np.nan}])
def test_swath_options_out_of_range(truth, options):
    with pytest.raises(UsageError):
        simulate_swath(truth, **options)


def test_gridding_brings_the_truth_back(truth):
    """Footprint means, gridded, are the truth smoothed: the mass of the scene is that of the truth to 1 %."""
    from geosr.swath import grid_swaths

    swath = simulate_swath(truth, noise=0.0, cloud_cover=0.0, missing=0.0)
    box = grid(-30, 42, -27, 45, 0.1)
    found = grid_swaths([as_swath(swath)], box)[L3].values
    inner = truth.sel(longitude=slice(-30, -27), latitude=slice(45, 42))
    want = inner.coarsen(latitude=5, longitude=5).mean().values
    assert np.isfinite(found).all()
    areas = cell_areas(box)
    assert (found * areas).sum() == pytest.approx((want * areas).sum(), rel=0.01)
    assert np.corrcoef(found.ravel(), want.ravel())[0, 1] > 0.97


# --- files


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated")
    return dict(zip(KINDS, simulate(folder), strict=True))


def variables(group: netCDF4.Dataset, path: str = "") -> dict[str, netCDF4.Variable]:
    found = {f"{path}/{name}": v for name, v in group.variables.items()}
    for name, child in group.groups.items():
        found |= variables(child, f"{path}/{name}")
    return found


def test_l2_has_the_products_structure_and_packing(made):
    with netCDF4.Dataset(made["l2"]) as data:
        product = data["PRODUCT"]
        assert list(product.dimensions) == ["time", "scanline", "ground_pixel", "corner"]
        column = product[COLUMN]
        assert column.dimensions == ("time", "scanline", "ground_pixel")
        assert column.units == "mol m-2"
        assert column.standard_name == "troposphere_mole_content_of_nitrogen_dioxide"
        assert column._FillValue == np.float32(9.96921e36)
        assert column.multiplication_factor_to_convert_to_molecules_percm2 == np.float32(6.02214e19)
        assert column.filters()["zlib"]
        qa = product["qa_value"]
        assert qa.dtype == np.uint8
        assert qa.scale_factor == np.float32(0.01)
        assert 0 <= qa[:].min() < 0.75 <= qa[:].max() == pytest.approx(1.0)
        bounds = data["PRODUCT/SUPPORT_DATA/GEOLOCATIONS/latitude_bounds"]
        assert bounds.dimensions == ("time", "scanline", "ground_pixel", "corner")
        assert product["latitude"].bounds == "/PRODUCT/SUPPORT_DATA/GEOLOCATIONS/latitude_bounds"
        lat = product["latitude"][0]
        assert (np.abs(bounds[0].mean(axis=-1) - lat) < 1e-3).all()
        assert {"PRODUCT", "METADATA"} == set(data.groups)
        assert "DETAILED_RESULTS" in data["PRODUCT/SUPPORT_DATA"].groups
        assert data["PRODUCT/SUPPORT_DATA/INPUT_DATA/cloud_fraction_crb"].shape == column.shape
        when = netCDF4.num2date(product["delta_time"][0, 0], product["delta_time"].units)
        assert f"{when:%Y-%m-%dT%H:%M:%S}" == product["time_utc"][0, 0][:19] == data.time_coverage_start[:19]
        # Nobody shall take it for a measurement.
        assert "simulated" in data.source
        assert "Not a measurement" in data.comment
        assert data.id == made["l2"].stem
        assert made["l2"].name.startswith("S5P_SIMU_L2__NO2____20240612T")


def test_l2_has_the_real_files_names(made, data_dir):
    """Each variable under the path of a real OFFL file has its type, dimensions, units and standard name."""
    real = next((data_dir / "no2_s5p_l2_delhi").glob("*20200226T065218*"))
    with netCDF4.Dataset(real) as theirs, netCDF4.Dataset(made["l2"]) as ours:
        known, mine = variables(theirs), variables(ours)
        shared = [name for name in known if name in mine]
        assert len(shared) >= 18
        for name in shared:
            assert mine[name].dimensions == known[name].dimensions, name
            assert mine[name].dtype == known[name].dtype, name
            for attribute in ("units", "_FillValue", "scale_factor", "proposed_standard_name", "bounds"):
                if attribute in known[name].ncattrs() and not name.endswith(("delta_time", "time_utc")):
                    assert mine[name].getncattr(attribute) == known[name].getncattr(attribute), (name, attribute)


def test_l2_is_read_by_geosr(made):
    from geosr.reading.s5p_l2 import is_swath, read_swath

    assert is_swath(made["l2"])
    swath = read_swath(made["l2"])
    assert swath.attrs["units"] == "mol m-2"
    assert swath.attrs["product"] == "S5P L2 NO2 SIMU"
    assert swath.pixel_size_m == pytest.approx((5500, 3500), rel=0.1)
    assert len(read_swath(made["l2"], qa=None).value) > 1.2 * len(swath.value)


def test_l3_is_cf(made):
    with xr.open_dataset(made["l3"]) as data:
        column = data[L3]
        assert column.dims == ("time", "latitude", "longitude")
        assert column.shape == (1, 100, 120)
        assert (np.diff(data.latitude) > 0).all()
        np.testing.assert_allclose(data.latitude_bnds[[0, -1]].values.ravel()[[0, -1]], [42, 47], atol=1e-12)
        np.testing.assert_allclose(data.longitude_bnds.values[[0, -1]].ravel()[[0, -1]], [-30, -24], atol=1e-12)
        assert column.attrs["units"] == "mol m-2"
        assert column.attrs["grid_mapping"] == "crs"
        assert set(column.attrs["ancillary_variables"].split()) <= set(data.data_vars)
        count = data[f"{L3}_count"]
        np.testing.assert_array_equal(count.values > 0, column.notnull().values)
        assert 0.4 < float(column.notnull().mean()) < 1
        assert "simulated" in data.attrs["source"]
        with xr.open_dataset(made["truth"]) as fine:
            mean = fine[L3][0].coarsen(latitude=4, longitude=4).mean().sortby("latitude").values
        seen = column[0].values
        good = np.isfinite(seen)
        assert np.corrcoef(seen[good], mean[good])[0, 1] > 0.9


def test_truth_is_four_times_finer_and_agrees_with_l2(made):
    with xr.open_dataset(made["truth"]) as data, netCDF4.Dataset(made["l2"]) as l2:
        column = data[L3].isel(time=0).load()
        assert column.shape == (400, 480)
        box = geobox_of(column, crs="EPSG:4326")
        np.testing.assert_allclose(tuple(box.boundingbox), (-30, 42, -24, 47), atol=1e-9)
        geo = l2["PRODUCT/SUPPORT_DATA/GEOLOCATIONS"]
        corners = (np.ma.filled(geo[n][0], np.nan) for n in ("longitude_bounds", "latitude_bounds"))
        means = footprint_means(column.values, box, *corners)
        value, sigma = (np.ma.filled(l2["PRODUCT"][n][0], np.nan) for n in (COLUMN, f"{COLUMN}_precision"))
        z = (value - means) / sigma
        z = z[np.isfinite(z)]
        assert len(z) > 8000
        assert z.std() == pytest.approx(1.0, abs=0.03)
    with netCDF4.Dataset(made["truth"]) as data:
        assert data[L3].dtype == np.int16


def test_geotiff_is_projected_with_nodata_and_unit(made):
    with rasterio.open(made["tif"]) as tif:
        assert tif.crs.to_epsg() == 32626
        assert tif.nodata == -9999
        assert tif.dtypes == ("float32",)
        assert tif.units == ("mol m-2",)
        assert tif.descriptions == (L3,)
        assert tif.res == (5000, 5000)
        values = tif.read(1, masked=True)
        assert 0.3 < 1 - values.mask.mean() < 0.9
        assert 1e-5 < values.mean() < 1e-4


def same_data(one: Path, two: Path, rtol: float) -> None:
    if one.suffix == ".tif":
        with rasterio.open(one) as a, rasterio.open(two) as b:
            assert a.profile == b.profile
            np.testing.assert_allclose(a.read(), b.read(), rtol=rtol, atol=rtol * 1e-5)
        return
    with netCDF4.Dataset(one) as a, netCDF4.Dataset(two) as b:
        mine, theirs = variables(a), variables(b)
        assert list(mine) == list(theirs)
        for name, variable in mine.items():
            assert variable.__dict__ == theirs[name].__dict__ or rtol, name
            left, right = variable[:], theirs[name][:]
            if variable.dtype is str or rtol == 0:
                np.testing.assert_array_equal(left, right, err_msg=name)
            else:
                np.testing.assert_array_equal(np.ma.getmaskarray(left), np.ma.getmaskarray(right), err_msg=name)
                close = np.isclose(np.ma.filled(left, 0), np.ma.filled(right, 0), rtol=rtol, atol=3e-8)
                assert close.mean() > 0.999, name  # a cloud at its threshold may fall on either side


def test_same_seed_same_files_other_seed_others(tmp_path):
    options = {"bbox": (10.0, -2.0, 12.0, 0.0), "resolution": 0.1, "truth_scale": 2}
    runs = [simulate(tmp_path / str(k), seed=seed, **options) for k, seed in enumerate((3, 3, 4))]
    assert [p.name for p in runs[0]] == [p.name for p in runs[1]]
    for one, two in zip(runs[0], runs[1], strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name
    with pytest.raises(AssertionError):
        same_data(runs[0][-1], runs[2][-1], 0)


def test_samples_are_what_the_code_makes(made, sample_dir):
    """`geosr simulate sample_data --seed 7` makes the files in sample_data again."""
    for path in made.values():
        same_data(path, sample_dir / path.name, rtol=1e-4)
    shipped = sorted(p for p in sample_dir.iterdir() if p.suffix in (".nc", ".tif"))
    assert {p.name for p in made.values()} <= {p.name for p in shipped}
    assert sum((sample_dir / p.name).stat().st_size for p in made.values()) < 3_000_000
    notes = (sample_dir / "README.md").read_text()
    assert all(p.name in notes for p in made.values())


def test_several_days_and_the_dateline(tmp_path):
    paths = simulate(tmp_path, bbox=(179.0, 10.0, -179.0, 12.0), days=2, resolution=0.1, truth_scale=2, seed=1)
    assert len(paths) == 5
    with netCDF4.Dataset(paths[0]) as data:
        lon = data["PRODUCT/longitude"][:]
        assert lon.min() < -179
        assert lon.max() > 179
        assert np.ma.count(data[f"PRODUCT/{COLUMN}"][:]) > 0.9 * lon.size
    with xr.open_dataset(paths[2]) as data:
        assert float(data.longitude.min()) == pytest.approx(179.05)
        assert float(data.longitude.max()) == pytest.approx(180.95)
        assert data[L3].notnull().mean() > 0.5
    with xr.open_dataset(paths[4]) as data:
        assert data.sizes["time"] == 2
        assert np.datetime_as_string(data.time.values, "D").tolist() == ["2024-06-12", "2024-06-13"]
        assert float(abs(data[L3][0] - data[L3][1]).max()) > 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {"kind": ("l4",)},
        {"kind": ()},
        {"date": "12/06/2024"},
        {"bbox": (0, 5, 1, 4)},
        {"bbox": (0, 84, 5, 86)},
        {"days": 0},
        {"seed": -1},
        {"resolution": 0},
        {"truth_scale": 0},
        {"wind_speed": 0},
        {"bbox": (0, 0, 60, 40), "resolution": 0.01},
    ],
)
def test_requests_that_make_no_sense(tmp_path, options):
    with pytest.raises(GeosrError):
        simulate(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_existing_files_are_kept(tmp_path):
    options = {"bbox": (10.0, -1.0, 11.0, 0.0), "resolution": 0.1, "truth_scale": 1, "kind": "truth"}
    (path,) = simulate(tmp_path, **options)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        simulate(tmp_path, seed=1, **options)
    assert path.read_bytes() == before
    simulate(tmp_path, seed=1, overwrite=True, **options)
    assert path.read_bytes() != before


def test_a_file_in_the_folders_place(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(OutputError, match="folder"):
        simulate(tmp_path / "x", bbox=(10.0, -1.0, 11.0, 0.0), resolution=0.1)


def test_importing_is_light():
    import subprocess
    import sys

    code = "import sys, geosr.simulate; print([m for m in ('netCDF4', 'numba', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_a_large_truth_takes_seconds():
    import time

    start = time.perf_counter()
    simulate_scene(grid(0, 35, 25, 60, 0.0125), seed=3)
    assert time.perf_counter() - start < 30
