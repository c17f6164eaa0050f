"""From rasters to scenes: dates, places, planes, composites, pictures."""

from __future__ import annotations

import datetime as dt
import warnings

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from geosr.degrade import area_mean
from geosr.errors import InputError, ModelError, ResourceError
from geosr.grid import cell_areas
from geosr.training.bounds import time_bounds
from geosr.training.dates import meet, span_from, span_in, within
from geosr.training.recipe import Data, Recipe, Simulated, parse_recipe
from geosr.training.regions import extent_of, kept, place_of, reach_of
from geosr.training.scenes import (
    _pass,
    _seen,
    blurred,
    files_of,
    load_scenes,
    planes_of,
    read_truth,
    simulated_scenes,
)
from geosr.training.truths import planes_in
from rasters import RECIPE, plumes, write_days, write_map, write_series
from strategies import geoboxes, write_tif


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_days(tmp_path_factory.mktemp("data"))


# --- dates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("gems_no2_trop_20231001_daymean.tif", "2023-10-01", "2023-10-01"),
        (
            "S5P_OFFL_L2__NO2____20190601T120000_20190602T134000_08500_01_010302_20190607T1.nc",
            "2019-06-01",
            "2019-06-02",
        ),
        ("OMI-Aura_L3-OMNO2d_2019m0601_v003-2019m1122t153.he5", "2019-06-01", "2019-06-01"),
        ("no2_2019-06-01.tif", "2019-06-01", "2019-06-01"),
        ("no2_20190601-20190630.nc", "2019-06-01", "2019-06-30"),
        ("a_20190601_to_20190605.tif", "2019-06-01", "2019-06-05"),
        ("20190602_20190601.tif", "2019-06-01", "2019-06-02"),
        # Which one is the day of production? All days between them, so that no leak passes.
        ("proc20240115_obs20231005.tif", "2023-10-05", "2024-01-15"),
        ("no2_20231005_made_2023-11-02T101500.nc", "2023-10-05", "2023-11-02"),
        ("no2_202310_made_20240101.nc", "2023-10-01", "2024-01-01"),
        ("mean2019_of_2018_v202001.tif", "2018-01-01", "2020-01-31"),
        ("no2_2023_202310_20231005.tif", "2023-10-05", "2023-10-05"),
        ("S5P_PAL__L2__NO2____20190601T120000_20190601T134000_08500_01_020301_20211112T102030.nc", *["2019-06-01"] * 2),
        ("S5P_NRTI_L3__NO2____20211217T1147_20211217T1152_x_20211219T131229.nc", "2021-12-17", "2021-12-19"),
        ("20190601123000.tif", "2019-06-01", "2019-06-01"),
        ("no2_201902.nc", "2019-02-01", "2019-02-28"),
        ("no2_201901-201903.nc", "2019-01-01", "2019-03-31"),
        ("WorldNO2_2019.tif", "2019-01-01", "2019-12-31"),
        ("mean_2018-2020.tif", "2018-01-01", "2020-12-31"),
        ("dem_2000m.tif", None, None),
        ("NO2_20191301.tif", None, None),
        ("landsat8_LC80030172015001LGN00.tif", None, None),
        ("t36.bmp", None, None),
    ],
)
def test_days_in_names(name, first, last):
    want = None if first is None else (dt.date.fromisoformat(first), dt.date.fromisoformat(last))
    assert span_in(name) == want


@given(st.dates(dt.date(1970, 1, 1), dt.date(2069, 12, 31)))
def test_a_day_is_read_as_it_is_written(day):
    for form in ("%Y%m%d", "%Y-%m-%d", "%Y_%m_%d", "%YM%m%d".replace("M", "m"), "%Y%m%dT2359"):
        assert span_in(f"no2_{day.strftime(form)}_x.tif") == (day, day)


def test_within_wants_the_whole_span():
    days = [dt.date(2023, 10, d) for d in range(1, 10)]
    assert within((days[0], days[4]), ("2023-10-01", "2023-10-05"))
    assert not within((days[0], days[5]), ("2023-10-01", "2023-10-05"))
    assert within(None, None)
    assert not within(None, ("2023-10-01", "2023-10-05"))
    assert meet((days[0], days[2]), (days[2], days[3]))
    assert not meet((days[0], days[2]), (days[3], days[3]))
    assert meet(None, (days[0], days[0]))


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [
        ("2023-10-01", "2023-10-09", 1, 8),
        ("2023-10-01T06", "2023-10-09T00:00:01", 1, 9),
        ("2023-10-01", "2023-10-02", 1, 1),
        ("2023-10-01", "2023-10-01", 1, 1),
        ("2023-10-09", "2023-10-01", 1, 8),
    ],
)
def test_a_span_ends_before_its_midnight(start, end, first, last):
    assert span_from(np.datetime64(start), np.datetime64(end)) == tuple(dt.date(2023, 10, d) for d in (first, last))


def test_every_time_is_a_truth_of_its_days(tmp_path):
    values = write_series(tmp_path / "no2_2019.nc", ["2019-06-01T12", "2019-06-02T12", "2019-06-03T12"])
    planes = planes_in(tmp_path / "no2_2019.nc")
    assert [p.span for p in planes] == [(dt.date(2019, 6, d),) * 2 for d in (1, 2, 3)]
    for plane, expected in zip(planes, values, strict=True):
        np.testing.assert_array_equal(plane.read()[0], expected)
    data = Data("*.nc", dates=("2019-06-02", "2019-06-03"))
    assert [p.span for p in planes_of(data, tmp_path, "")] == [p.span for p in planes[1:]]
    recipe = Recipe("n", 2, (Data("*.nc", composites=(3,)),))
    (scene,) = load_scenes(recipe, tmp_path)
    np.testing.assert_allclose(scene.values, values.mean(axis=0), atol=1e-5)


def test_times_a_month_apart_are_months_and_a_name_widens_a_single_time(tmp_path):
    write_series(tmp_path / "series.nc", ["2020-01-15", "2020-02-15", "2020-03-15"])
    spans = [p.span for p in planes_in(tmp_path / "series.nc")]
    assert spans[1] == (dt.date(2020, 2, 1), dt.date(2020, 2, 29))
    write_series(tmp_path / "weekly.nc", ["2020-01-01", "2020-01-08", "2020-01-15"])
    assert planes_in(tmp_path / "weekly.nc")[1].span == (dt.date(2020, 1, 8), dt.date(2020, 1, 14))
    write_series(tmp_path / "mean_202006.nc", ["2020-06-15"])
    assert planes_in(tmp_path / "mean_202006.nc")[0].span == (dt.date(2020, 6, 1), dt.date(2020, 6, 30))
    write_series(tmp_path / "made_20240101.nc", ["2020-06-15"])  # a date far from the time is not of the field
    assert planes_in(tmp_path / "made_20240101.nc")[0].span == (dt.date(2020, 6, 15),) * 2


WEEK, AFTER = ("2023-10-01", "2023-10-09"), ("2023-10-09", "2023-10-17")


@pytest.mark.parametrize(
    ("times", "bounds", "options", "days"),
    [
        (["2023-10-04"], [WEEK], {}, [(1, 8)]),
        (["2023-10-04"], [WEEK], {"name": "time_bounds", "key": ""}, [(1, 8)]),
        (["2023-10-04"], [WEEK], {"name": "climatology_bounds", "key": "climatology"}, [(1, 8)]),
        (["2023-10-04"], [WEEK], {"fixed": True}, [(1, 8)]),
        (["2023-10-04", "2023-10-12"], [WEEK, AFTER], {}, [(1, 8), (9, 16)]),
        (["2023-10-09", "2023-10-17"], [WEEK, AFTER], {}, [(1, 8), (9, 16)]),  # the time is the end of the mean
        (["2023-10-12"], [WEEK], {}, [(1, 12)]),  # outside its own bounds: who knows
        (["2023-10-04"], [], {}, [(4, 4)]),
    ],
)
def test_bounds_say_which_days_a_mean_is_of(tmp_path, times, bounds, options, days):
    write_series(tmp_path / "m.nc", times, bounds, **options)
    spans = [p.span for p in planes_in(tmp_path / "m.nc")]
    assert spans == [tuple(dt.date(2023, 10, d) for d in pair) for pair in days]


def test_bounds_may_take_their_units_from_the_time_and_be_no_times_at_all(tmp_path):
    import netCDF4

    write_series(tmp_path / "m.nc", ["2023-10-04"], [WEEK])
    with netCDF4.Dataset(tmp_path / "m.nc", "a") as file:
        for name in file["time_bnds"].ncattrs():
            file["time_bnds"].delncattr(name)
    assert planes_in(tmp_path / "m.nc")[0].span == (dt.date(2023, 10, 1), dt.date(2023, 10, 8))
    with netCDF4.Dataset(tmp_path / "m.nc", "a") as file:
        file["time_bnds"].units = "1"
    assert planes_in(tmp_path / "m.nc")[0].span == (dt.date(2023, 10, 4),) * 2
    assert time_bounds(write_map(tmp_path / "m.tif", plumes((20, 20), 0))) == {}


# --- planes ----------------------------------------------------------------------------------------------------


def test_every_band_of_an_image_is_a_truth(tmp_path):
    bands = np.stack([plumes((30, 20), i) for i in range(3)])
    path = write_map(tmp_path / "image.tif", bands)
    with rasterio.open(path, "r+") as file:
        for i, name in enumerate(("red", "green", "near infrared"), start=1):
            file.set_band_description(i, name)
    planes = planes_in(path)
    assert [p.label for p in planes] == ["image.tif", "image.tif", "image.tif"]
    np.testing.assert_array_equal(np.stack([p.read()[0] for p in planes]), bands)
    assert [p.read()[0][0, 0] for p in planes_in(path, "green")] == [bands[1, 0, 0]]
    with rasterio.open(path, "r+") as file:
        file.set_band_description(1, "tropospheric NO2")
    assert len(planes_in(path)) == 1  # a column among others is the one that is meant


@pytest.mark.parametrize(("suffix", "driver"), [("png", "PNG"), ("bmp", "BMP"), ("tif", "GTiff")])
def test_plain_pictures(tmp_path, suffix, driver):
    image = pytest.importorskip("PIL.Image")
    rgb = np.random.default_rng(0).integers(0, 255, (3, 20, 30)).astype(np.uint8)
    write_picture(tmp_path / f"p.{suffix}", rgb, driver)
    planes = planes_in(tmp_path / f"p.{suffix}")
    if driver == "GTiff":  # bands of a sensor, each a truth
        assert [p.label for p in planes] == ["p.tif (1)", "p.tif (2)", "p.tif (3)"]
        np.testing.assert_array_equal(np.stack([p.read()[0] for p in planes]), rgb)
    else:  # a photograph: referee is Pillow's own conversion, which rounds
        (plane,) = planes
        np.testing.assert_allclose(plane.read()[0], image.fromarray(rgb.transpose(1, 2, 0)).convert("L"), atol=1)
    values, areas = planes[0].read()
    assert (values.dtype, values.shape, areas.shape) == (np.float32, (20, 30), (20, 1))
    assert (areas == 1).all()
    assert all(p.box is None and p.units is None and p.span is None for p in planes)


def write_picture(path, bands, driver="PNG", colours=None, **profile):
    profile = {"driver": driver, "count": len(bands), "dtype": bands.dtype, **profile}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", height=bands.shape[1], width=bands.shape[2], **profile) as file:
            file.write(bands)
            if colours:
                file.write_colormap(1, colours)


def test_pictures_with_gaps_alpha_or_a_palette(tmp_path):
    grey = np.random.default_rng(1).integers(1, 255, (1, 20, 30)).astype(np.uint8)
    grey[0, 3, 4] = 0
    write_picture(tmp_path / "gap.tif", grey, "GTiff", nodata=0)
    ((values, _),) = (p.read() for p in planes_in(tmp_path / "gap.tif"))
    np.testing.assert_array_equal(np.isnan(values), grey[0] == 0)
    write_picture(tmp_path / "alpha.png", np.concatenate([grey, grey]))
    ((values, _),) = (p.read() for p in planes_in(tmp_path / "alpha.png"))
    np.testing.assert_array_equal(np.nan_to_num(values), np.where(np.isnan(values), 0, grey[0]))
    write_picture(tmp_path / "palette.png", grey, colours={i: (i, 0, 0, 255) for i in range(256)})
    with pytest.raises(InputError, match="palette"):
        planes_in(tmp_path / "palette.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "palette.png").read_bytes()[:60])
    with pytest.raises(InputError, match="corrupt"):
        planes_in(tmp_path / "cut.png")


def test_areas_are_in_square_metres(tmp_path):
    feet = Affine(1000, 0, 6e6, 0, -1000, 2e6)
    write_tif(tmp_path / "f.tif", plumes((20, 20), 0), crs="EPSG:2263", transform=feet)
    (plane,) = planes_in(tmp_path / "f.tif")
    assert plane.read()[1][0, 0] == pytest.approx((1000 * 0.3048006096) ** 2)
    write_map(tmp_path / "d.tif", plumes((20, 20), 0))
    (plane,) = planes_in(tmp_path / "d.tif")
    np.testing.assert_array_equal(plane.read()[1], cell_areas(plane.box))


# --- places ----------------------------------------------------------------------------------------------------


@given(
    geoboxes(max_side=12), st.tuples(st.floats(-180, 180), st.floats(-80, 40), st.floats(-180, 180), st.floats(0.1, 50))
)
def test_a_place_holds_the_centres_of_all_cells_that_are_kept(box, corner):
    """The rectangles by which sets are compared hold every cell that the mask keeps, of any grid and box."""
    from geosr.training.regions import centres
    from geosr.training.truths import Plane

    west, south, east, height = corner
    if west == east:
        return
    boxes = ((west, south, east, south + height),)
    plane = Plane(None, "p", box.shape, None, box, "", None, lambda: None)
    x, y = centres(plane, slice(None))
    usable = np.isfinite(x) & (np.abs(y) < 89)
    for region, outside in ((boxes, ()), ((), boxes)):
        mask = kept(plane, region, outside) & usable
        place = place_of(plane, region, outside, 0)
        lon = (x + 180) % 360 - 180
        tolerance = 1e-6
        held = np.zeros(mask.shape, bool)
        for w, s, e, n in place.rects:
            across = (lon >= w - tolerance) & (lon <= e + tolerance) | (lon + 360 <= e + tolerance)
            held |= across & (y >= s - tolerance) & (y <= n + tolerance)
        assert held[mask].all()


def test_boxes_side_by_side_share_no_cell(tmp_path):
    write_map(tmp_path / "a.tif", plumes((40, 60), 0), west=178.5, north=10, cell=0.05)
    (plane,) = planes_in(tmp_path / "a.tif")
    left, right = kept(plane, ((170, 5, 180, 15),), ()), kept(plane, ((180, 5, -170, 15),), ())
    assert (left ^ right).all()
    assert left.sum() == 40 * 30
    assert kept(plane, ((179, 9, -179, 9.5),), ()).sum() == 40 * 10
    np.testing.assert_array_equal(kept(plane, (), ((179, 9, -179, 9.5),)), ~kept(plane, ((179, 9, -179, 9.5),), ()))
    assert kept(plane, (), ()) is None


def test_near_counts_the_reach_also_across_the_dateline(tmp_path):
    write_map(tmp_path / "a.tif", plumes((40, 40), 0), west=177, north=10)
    write_map(tmp_path / "b.tif", plumes((40, 40), 0), west=-180, north=10)
    a, b = (planes_in(tmp_path / f"{n}.tif")[0] for n in "ab")
    assert reach_of(a, 10) == pytest.approx((0.5, 0.5))
    assert not place_of(a, (), (), 20).near(place_of(b, (), (), 20))  # a ends at 179: 1 degree, 20 cells
    assert place_of(a, (), (), 21).near(place_of(b, (), (), 0))


def test_the_reach_in_degrees_is_not_too_short(tmp_path):
    """In a projection it is compared with the Earth as pyproj has it."""
    from pyproj import Geod

    transform = Affine(2000, 0, 4e5, 0, -2000, 7e6)
    write_tif(tmp_path / "u.tif", plumes((30, 30), 0), crs="EPSG:32633", transform=transform)
    (plane,) = planes_in(tmp_path / "u.tif")
    dx, dy = reach_of(plane, 10)
    geod = Geod(ellps="WGS84")
    for west, south, _, north in extent_of(plane):
        assert geod.inv(west, north, west + dx, north)[2] >= 20000
        assert geod.inv(west, south, west, south + dy)[2] >= 20000
        assert geod.inv(west, south, west, south + dy)[2] < 21000


def test_regions_cut_truths(folder):
    data = Data("day_20231001.tif", region=((111, 31, 112, 33),), outside=((111.5, 30, 113, 32),))
    (plane,) = planes_of(data, folder, "")
    values, areas = read_truth(plane, data)
    whole, all_areas = plane.read()
    expected = whole[40:80, 20:40].copy()
    expected[20:, 10:] = np.nan
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(areas, all_areas[40:80])
    with pytest.raises(ModelError, match="in its region"):
        planes_of(Data("day_20231001.tif", region=((0, 0, 1, 1),)), folder, "")


# --- scenes ----------------------------------------------------------------------------------------------------


def test_scenes_are_split_by_date_and_composed(folder):
    recipe = parse_recipe(RECIPE)
    scenes = load_scenes(recipe, folder)
    assert len(scenes) == (4 + 2) * 2
    assert {f for s in scenes for f in s.files} == {f"day_202310{d:02d}.tif" for d in range(1, 5)}
    fine, coarse = scenes[0], scenes[1]
    assert coarse.values.shape == (60, 50)
    np.testing.assert_allclose(coarse.values, area_mean(fine.values, fine.areas, 2), atol=1e-6)
    assert coarse.cell_m == pytest.approx(2 * fine.cell_m, rel=0.01)
    pair = next(s for s in scenes if len(s.files) == 2)
    days = [s.values for s in scenes if len(s.files) == 1 and s.values.shape == (120, 100)]
    np.testing.assert_allclose(pair.values, (days[0] + days[1]) / 2, atol=1e-5)
    assert sum(s.weight for s in scenes) == pytest.approx(1)


def test_no_files_says_where_it_looked(folder):
    with pytest.raises(ModelError, match=r"no file matches '\*.nc'"):
        load_scenes(Recipe("n", 4, (Data("*.nc"),)), folder)
    with pytest.raises(ModelError, match="relative glob"):
        files_of(Data("/*.tif"), folder)
    names = [p.name for p in files_of(Data(("day_20231003.tif", "day_2023*.tif")), folder)]
    assert names == [f"day_202310{d:02d}.tif" for d in (3, 1, 2, 4, 5, 6)]  # glob by glob, each file once


def test_rasters_on_different_grids_are_not_averaged(folder, tmp_path):
    write_map(tmp_path / "a.tif", plumes((40, 40), 0))
    write_map(tmp_path / "b.tif", plumes((40, 40), 0), west=111)
    with pytest.raises(ModelError, match="different grids"):
        load_scenes(Recipe("n", 4, (Data("*.tif", composites=(2,)),), units=""), tmp_path)
    write_map(tmp_path / "b.tif", plumes((40, 40), 0), west=110 + 1e-9)  # rounding is no other grid
    assert len(load_scenes(Recipe("n", 4, (Data("*.tif", composites=(2,)),), units=""), tmp_path)) == 1


def test_more_than_fits_into_memory(folder, monkeypatch):
    from geosr import footprint

    monkeypatch.setattr(footprint, "available_memory", lambda: 1e5)
    with pytest.raises(ResourceError, match="fewer files"):
        load_scenes(parse_recipe(RECIPE), folder)


def test_blur_is_scipy_s_where_nothing_is_missing():
    from scipy.ndimage import gaussian_filter

    values = plumes((40, 50), 0)
    np.testing.assert_allclose(blurred(values, 1.5), gaussian_filter(values, 1.5, mode="nearest"), rtol=1e-4)
    values[5:9, 5:9] = np.nan
    np.testing.assert_array_equal(np.isnan(blurred(values, 0.5)), np.isnan(values))


def test_simulated_scenes_are_the_seed_s():
    wanted = Simulated(scenes=3, cells=60, coarsen=(1,), seed=4)
    first, again, other = (
        simulated_scenes(w, "1e15 molec cm-2") for w in (wanted, wanted, Simulated(scenes=3, cells=60, seed=5))
    )
    assert all(np.array_equal(a.values, b.values) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0].values[:20, :20], other[0].values[:20, :20])
    assert 0.01 < np.median([s.values.max() for s in first]) < 1000  # columns in 1e15 molec cm-2


@given(st.floats(1, 8), st.floats(1, 2), st.floats(-0.35, 0.35), st.integers(0, 99))
def test_a_pass_conserves_the_mean_of_its_pixels(height, stretch, turn, seed):
    values = plumes((40, 50), seed)
    got = _pass(values, (height, height * stretch), turn, 0.0, 0.0, np.random.default_rng(seed))
    assert got.sum() == pytest.approx(values.sum(dtype=np.float64), rel=1e-6)
    for pixel in np.unique(got):  # to float64's last digits no two pixels have one mean
        assert pixel == pytest.approx(values[got == pixel].mean(dtype=np.float64), rel=1e-6)
    area = height * height * stretch
    assert np.unique(got).size <= values.size / area + 2 * (90 / height + 2) + 2  # and those cut off at the edge


def test_a_pass_has_noise_and_gaps_by_pixel():
    rng = np.random.default_rng(0)
    flat = np.zeros((200, 200), np.float32)
    got = _pass(flat, (2.0, 4.0), 0.0, 3.0, 0.25, rng)
    pixels = np.unique(got[~np.isnan(got)])
    assert pixels.size == pytest.approx(0.75 * 101 * 51, rel=0.05)
    assert pixels.std() == pytest.approx(3, rel=0.05)
    assert np.isnan(got).mean() == pytest.approx(0.25, abs=0.03)


def test_what_is_seen_has_no_gaps_and_keeps_the_level():
    """In each of its ways: as it is, smoothed, as a mean of passes."""
    values = plumes((60, 60), 0)
    same = 0
    for seed in range(12):
        got = _seen(values, 0.0, np.random.default_rng(seed))
        same += np.array_equal(got, values)
        assert (got.dtype, got.shape) == (np.float32, values.shape)
        assert got.mean() == pytest.approx(values.mean(), rel=0.03)
        assert got.std() <= values.std() * 1.001
    assert 1 <= same <= 6  # one in four
