"""geosr.grid: geometry to the last bit, areas against pyproj, coordinates against CF."""

import numpy as np
import pytest
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from geosr import grid
from geosr.errors import InputError, UsageError
from strategies import field, geoboxes


@given(geoboxes(), st.integers(2, 9))
def test_refine_keeps_bounds_and_centres_cells(box, scale):
    fine = grid.refine(box, scale)
    ny, nx = box.shape
    for corner in ((0, 0), (nx, 0), (0, ny), (nx, ny)):
        want = np.array(box.affine * corner)
        got = np.array(fine.affine * (corner[0] * scale, corner[1] * scale))
        # A step divided by a number is rounded, and a corner may be small where origin and extent cancel: what counts
        # is the largest number that enters the sum.
        origin = np.array(box.affine * (0, 0))
        assert np.abs(got - want).max() <= 2 * np.spacing(max(np.abs(origin).max(), np.abs(want - origin).max()))
    # Fine centre i lies at (i + 0.5) / s - 0.5 coarse cells.
    col, row = ~box.affine * (fine.affine * (0.5, 0.5))
    assert (col - 0.5, row - 0.5) == pytest.approx((0.5 / scale - 0.5,) * 2, abs=1e-6)


@given(geoboxes(), st.integers(2, 5))
def test_coarsen_undoes_refine(box, scale):
    back = grid.coarsen(grid.refine(box, scale), scale)
    assert back.shape == box.shape
    assert tuple(back.affine) == pytest.approx(tuple(box.affine), rel=1e-12)


@given(geoboxes())
def test_geobox_survives_xarray(box):
    found = grid.geobox_of(field(box, np.zeros(box.shape, np.float32)))
    assert found.shape == box.shape
    assert tuple(found.affine) == tuple(box.affine)
    assert found.crs == box.crs


@pytest.mark.parametrize("values", [[3.5, 2.5], np.float32([1, 2]), [7, 8, 9]])
def test_axes_are_what_xarray_makes_of_them(values):
    attrs = {"units": "m"}
    expected = xr.DataArray(np.zeros(len(values)), dims="x").assign_coords(x=("x", np.asarray(values), attrs))
    got = xr.DataArray(np.zeros(len(values)), dims="x").assign_coords(x=grid.axis_of("x", np.asarray(values), attrs))
    xr.testing.assert_identical(got, expected)
    assert got.x.dtype == expected.x.dtype == np.asarray(values).dtype


@given(geoboxes(min_side=6))
def test_geobox_follows_slicing(box):
    if box.affine.b:
        return  # a rotated grid has no coordinates that could tell
    sliced = field(box, np.zeros(box.shape, np.float32))[2:-1, 1:]
    found = grid.geobox_of(sliced)
    want = box.affine * (1, 2)
    assert found.affine * (0, 0) == pytest.approx(want, abs=1e-6 * abs(box.affine.a))


@given(geoboxes(), st.integers(2, 5))
@settings(max_examples=40)
def test_fine_areas_sum_to_coarse(box, scale):
    fine = np.broadcast_to(grid.cell_areas(grid.refine(box, scale)), (box.shape[0] * scale, box.shape[1] * scale))
    coarse = np.broadcast_to(grid.cell_areas(box), box.shape)
    ny, nx = box.shape
    summed = fine.reshape(ny, scale, nx, scale).sum(axis=(1, 3))
    # A rotated geographic cell is a quadrilateral in the equal-area plane, not exactly the union of its parts.
    np.testing.assert_allclose(summed, coarse, rtol=1e-9)


def test_areas_of_the_globe_sum_to_the_sphere():
    box = GeoBox((180, 360), Affine(1, 0, -180, 0, -1, 90), "EPSG:4326")
    total = np.broadcast_to(grid.cell_areas(box), box.shape).sum()
    assert total == pytest.approx(4 * np.pi * grid.AUTHALIC_RADIUS**2, rel=1e-12)


def test_areas_agree_with_pyproj():
    """Referee: geodesic area on a sphere of the same radius; its sides are great circles, hence the tolerance."""
    from pyproj import Geod

    geod = Geod(a=grid.AUTHALIC_RADIUS, b=grid.AUTHALIC_RADIUS)
    box = GeoBox((3, 1), Affine(0.05, 0, 10, 0, -0.05, 62), "EPSG:4326")
    for row, area in enumerate(grid.cell_areas(box)[:, 0]):
        north, south = 62 - 0.05 * row, 62 - 0.05 * (row + 1)
        reference, _ = geod.polygon_area_perimeter([10, 10.05, 10.05, 10], [south, south, north, north])
        assert area == pytest.approx(abs(reference), rel=1e-5)


def test_rotated_geographic_areas_agree_with_upright_ones():
    upright = GeoBox((4, 5), Affine(0.1, 0, 10, 0, -0.1, 50), "EPSG:4326")
    barely = GeoBox((4, 5), Affine(0.1, 1e-12, 10, 0, -0.1, 50), "EPSG:4326")
    np.testing.assert_allclose(grid.cell_areas(barely), np.broadcast_to(grid.cell_areas(upright), (4, 5)), rtol=1e-6)


def test_cells_beyond_the_pole_have_no_area():
    box = GeoBox((2, 2), Affine(1, 0, 0, 0, -1, 91), "EPSG:4326")
    areas = grid.cell_areas(box)
    assert areas[0, 0] == 0
    assert areas[1, 0] > 0


def coords(lat, lon, lat_name="lat", lon_name="lon"):
    data = np.zeros((len(lat), len(lon)), np.float32)
    attrs = {lat_name: {"units": "degrees_north"}, lon_name: {"units": "degrees_east"}}
    da = xr.DataArray(data, dims=(lat_name, lon_name), coords={lat_name: lat, lon_name: lon})
    for name, extra in attrs.items():
        da[name].attrs.update(extra)
    return da


LAT, LON = 50 - 0.25 * np.arange(5), 3 + 0.5 * np.arange(7)


@pytest.mark.parametrize(
    ("lat", "lon", "words"),
    [
        (np.r_[LAT[:3], LAT[2:4]], LON, "duplicate"),
        (LAT + np.array([0, 0, 0.01, 0, 0]), LON, "non-uniform"),
        (np.r_[LAT[:4], np.nan], LON, "NaN"),
        (LAT + 45, LON, "pole"),
        (LAT[:1], LON, "one cell"),
        (LAT[:0], LON, "empty"),
    ],
)
def test_bad_coordinates_say_what_is_wrong(lat, lon, words):
    with pytest.raises(InputError, match=words):
        grid.geobox_of(coords(lat, lon))


def test_float32_coordinates_are_not_irregular():
    lon = (-180 + 0.05 * (np.arange(7200) + 0.5)).astype(np.float32)
    box = grid.geobox_of(coords(LAT, lon))
    assert box.affine.a == 0.05
    assert box.affine.c == -180


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("edge", "step", "n"), [(-180, 0.05, 7200), (-29.9, 0.1, 60), (73.475, 0.05, 1233), (90, -0.25, 720)]
)
def test_round_grids_come_out_round(dtype, edge, step, n):
    centres = (edge + step * (np.arange(n) + 0.5)).astype(dtype)
    found = grid.axis_step(xr.DataArray(centres, dims="x", name="x"), "x")
    assert found == (edge, step)


def test_longitudes_over_the_dateline_are_unwrapped():
    lon = np.array([179.0, 179.5, -180.0, -179.5])
    box = grid.geobox_of(coords(LAT, lon))
    assert box.affine.a == pytest.approx(0.5)
    assert box.affine.c == pytest.approx(178.75)


@pytest.mark.parametrize(("y", "x"), [("lat", "lon"), ("latitude", "longitude"), ("y", "x"), ("Y", "X")])
def test_usual_dimension_names(y, x):
    da = coords(LAT, LON, y, x)
    assert grid.spatial_dims(da) == (y, x)
    assert grid.geobox_of(da).crs == "EPSG:4326"


def test_a_swath_is_not_a_grid():
    da = xr.DataArray(np.zeros((1, 4, 5)), dims=("time", "scanline", "ground_pixel"))
    with pytest.raises(InputError, match="scanline"):
        grid.spatial_dims(da)


def test_no_crs_is_an_error_unless_declared():
    da = xr.DataArray(np.zeros((3, 3)), dims=("y", "x"), coords={"y": [2.0, 1, 0], "x": [0.0, 1, 2]})
    with pytest.raises(InputError, match="no CRS; .*--crs"):
        grid.geobox_of(da)
    assert grid.geobox_of(da, "EPSG:3035").crs == "EPSG:3035"
    with pytest.raises(InputError, match="not known"):
        grid.geobox_of(da, "EPSG:999999")


@pytest.mark.parametrize("scale", [0, -1, 1, 1.5, 1000, True])
def test_impossible_scales(scale):
    with pytest.raises(UsageError, match="whole number"):
        grid.check_scale(scale)
