"""Choosing times and cropping to a box."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from geosr.errors import InputError, UsageError
from geosr.grid import geobox_of
from geosr.reading import open_no2
from geosr.variables import main_variable
from reading.make import LAT, LON, NAME, column_file, columns, geotiff, netcdf


def read(path, **options):
    main = main_variable(open_no2(path, **options))
    return main, geobox_of(main)


@pytest.fixture(scope="module")
def monthly(tmp_path_factory):
    data = np.stack([columns(seed=i) for i in range(14)])
    time = np.array([0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365, 396.5])
    variables = {
        "time": (("time",), time, {"units": "days since 2019-01-01"}),
        NAME: (("time", "latitude", "longitude"), data, {}),
    }
    return netcdf(tmp_path_factory.mktemp("t") / "a.nc", variables, lat=LAT, lon=LON), data


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (0, 0),
        ("3", 3),
        (-1, 13),
        ("2019-03", 2),
        ("2019-03-01", 2),
        ("2019-03-01T00:00", 2),
        ("2020-02-01T12", 13),
        ("2019-03-01T00:00:00Z", 2),
        ("2020", [12, 13]),
        ("2019-1", [9, 10, 11]),
        (np.datetime64("2019-06-01"), 5),
    ],
)
def test_time(monthly, time, expected):
    path, data = monthly
    main, _ = read(path, time=time)
    np.testing.assert_array_equal(main, data[expected])


@pytest.mark.parametrize("time", ["2021", "2019-03-02", 14, "yesterday"])
def test_no_such_time(monthly, time):
    with pytest.raises(InputError, match="2019-01-01 to 2020-02-01T12:00"):
        open_no2(monthly[0], time=time)


def test_no_time_dimension(tmp_path):
    with pytest.raises(InputError, match="no time"):
        open_no2(column_file(tmp_path / "a.nc"), time=0)


def test_one_time_can_be_named(tmp_path):
    variables = {
        "time": (("time",), [0.0], {"units": "days since 2019-01-01"}),
        NAME: (("time", "latitude", "longitude"), columns()[None], {}),
    }
    path = netcdf(tmp_path / "a.nc", variables, lat=LAT, lon=LON)
    np.testing.assert_array_equal(read(path, time="2019-01-01")[0], columns())
    with pytest.raises(InputError, match="no time"):
        open_no2(path, time="2020")


def test_cdo_times(tmp_path):
    variables = {
        "time": (("time",), [20190115.5, 20190214.0], {"units": "day as %Y%m%d.%f"}),
        NAME: (("time", "latitude", "longitude"), np.stack([columns(), columns(seed=1)]), {}),
    }
    main, _ = read(netcdf(tmp_path / "a.nc", variables, lat=LAT, lon=LON))
    assert [str(t)[:16] for t in main["time"].values] == ["2019-01-15T12:00", "2019-02-14T00:00"]


# --- bbox ------------------------------------------------------------------------------------------------------

ONE_DEGREE = {"lat": 89.5 - np.arange(180), "lon": -179.5 + np.arange(360)}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    data = np.arange(180 * 360, dtype=np.float32).reshape(180, 360) * np.float32(1e-9) + np.float32(1e-6)
    return column_file(tmp_path_factory.mktemp("w") / "a.nc", data, **ONE_DEGREE), data


@given(
    west=st.floats(-180, 179),
    width=st.floats(0.01, 359),
    south=st.floats(-89, 88),
    height=st.floats(0.01, 60),
    turn=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_crop_takes_the_cells_that_overlap(world, west, width, south, height, turn):
    """Against the plain definition: a cell is in iff it overlaps the box on the sphere, all round the globe."""
    path, data = world
    north, east = min(90.0, south + height), west + width
    if turn and east > 180:
        east -= 360  # W > E
        if east >= west:
            return
    main, box = read(path, bbox=(west, south, east, north))
    rows = [i for i in range(180) if 90 - i - 1 < north - 1e-6 and 90 - i > south + 1e-6]
    span = (west, west + width)
    cols = [j for j in range(-360, 720) if -180 + j < span[1] - 1e-6 and -180 + j + 1 > span[0] + 1e-6][:360]
    np.testing.assert_array_equal(main, data[np.ix_(rows, np.array(cols) % 360)])
    assert (box.boundingbox.left, box.boundingbox.top) == (-180 + cols[0], 90 - rows[0])
    assert (np.diff(main.longitude) > 0).all()


@pytest.mark.parametrize("start", [-180, 0])
def test_crop_across_the_seam(tmp_path, start):
    lon = start + 0.5 + np.arange(360)
    data = np.broadcast_to(((lon + 180) % 360 - 180).astype(np.float32) * 1e-6, (6, 360))
    path = column_file(tmp_path / "a.nc", data, lon=lon)
    for bbox in ((170, 47, -170, 50), (170, 47, 190, 50)):
        main, box = read(path, bbox=bbox)
        assert (box.boundingbox.left, box.boundingbox.right) == (170, 190)
        np.testing.assert_allclose((main.longitude + 180) % 360 - 180, main[0] * 1e6, rtol=1e-5)
    main, _ = read(path, bbox=(-10, 47, 10, 50))
    assert main.sizes["longitude"] == 20
    np.testing.assert_allclose((main.longitude + 180) % 360 - 180, main[0] * 1e6, rtol=1e-5)


@pytest.mark.parametrize("bbox", [(-180, -90, 180, 90), (-179.5, 0, 180.5, 10), (0, 0, 360, 10), (-360, 0, 360, 10)])
def test_no_column_comes_twice(world, bbox):
    main, box = read(world[0], bbox=bbox)
    assert main.sizes["longitude"] == 360
    assert box.boundingbox.right - box.boundingbox.left == 360


@pytest.mark.parametrize(
    ("bbox", "left", "right"),
    [
        ((-180, -90, 180, 90), -180, 180),
        ((-100, 47, -80, 50), -100, -80),
        ((190, 47, 200, 50), -170, -160),
        ((170, 47, 190, 50), 170, 190),
        ((0, 47, 360, 50), 0, 360),
        (None, 0, 360),
    ],
)
@pytest.mark.parametrize("eastward", [True, False])
def test_crop_of_0_to_360_lies_in_180_west_to_180_east(tmp_path, bbox, left, right, eastward):
    lon = 0.5 + np.arange(360)
    data = np.broadcast_to(((lon + 180) % 360 - 180).astype(np.float32) * 1e-6, (6, 360))
    way = slice(None, None, 1 if eastward else -1)
    main, box = read(column_file(tmp_path / "a.nc", data[:, way], lon=lon[way]), bbox=bbox)
    assert (box.boundingbox.left, box.boundingbox.right) == (left, right)
    np.testing.assert_allclose((main.longitude + 180) % 360 - 180, main[0] * 1e6, rtol=1e-5)


def test_crop_of_ascending_rows(tmp_path):
    main, box = read(column_file(tmp_path / "a.nc", columns()[::-1], lat=LAT[::-1]), bbox=(5.6, 48.1, 7.4, 48.9))
    np.testing.assert_array_equal(main, columns()[2:4, 1:5])
    assert tuple(box.boundingbox) == (5.5, 48, 7.5, 49)


def test_crop_of_a_projected_grid(tmp_path):
    transform = Affine(10_000, 0, 4_000_000, 0, -10_000, 3_500_000)
    data = columns((100, 120))
    path = geotiff(tmp_path / "a.tif", data, transform, "EPSG:3035")
    main, box = read(path, bbox=(9, 50, 11, 51))
    from pyproj import Transformer

    back = Transformer.from_crs("EPSG:3035", "EPSG:4326", always_xy=True)
    xs, ys = np.meshgrid(4_005_000 + 10_000 * np.arange(120), 3_495_000 - 10_000 * np.arange(100))
    lon, lat = back.transform(xs, ys)
    inside = (lon > 9) & (lon < 11) & (lat > 50) & (lat < 51)
    rows, cols = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    b = box.boundingbox
    assert b.left <= xs[0, cols[0]] <= xs[0, cols[-1]] <= b.right
    assert b.top >= ys[rows[0], 0] >= ys[rows[-1], 0] >= b.bottom
    assert main.shape[0] <= rows.size + 2
    assert main.shape[1] <= cols.size + 2


@pytest.mark.parametrize("bbox", [(20, 47, 30, 50), (5, -10, 9, 10)])
def test_outside(tmp_path, bbox):
    with pytest.raises(InputError, match="outside the grid"):
        open_no2(column_file(tmp_path / "a.nc"), bbox=bbox)


@pytest.mark.parametrize(
    "bbox", [(5, 50, 9, 47), (5, 47, 9), (5, 47, 5, 50), (5, -91, 9, 50), (5, float("nan"), 9, 50), (999, 0, 5, 5)]
)
def test_no_box(tmp_path, bbox):
    with pytest.raises(UsageError, match="bbox"):
        open_no2(column_file(tmp_path / "a.nc"), bbox=bbox)
