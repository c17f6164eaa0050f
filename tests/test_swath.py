"""Gridding of swaths: conservation, poles, dateline, broken corners, precision, and the grid that fits."""

from __future__ import annotations

import gc
import math
import os
import subprocess
import sys
import weakref
from dataclasses import replace

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from geosr import footprint, native
from geosr import swath as swath_module
from geosr.errors import GeosrWarning, InputError, RefusedError, UsageError
from geosr.footprint import Extent, corners_from_centres, nice_size
from geosr.grid import cell_areas, geobox_of
from geosr.swath import Swath, default_geobox, grid_swaths
from referee.orbit import R, orbit_corners, orbit_file, rings, shapely_overlaps, solid_angles, sphere_points


@pytest.fixture(params=["native", "numba"], autouse=True, scope="module")
def compiled(request):
    """Each test runs with both compiled twins."""
    if request.param == "native" and not native.available():
        pytest.skip("geosr was built without a compiler")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "numba":
            patch.setattr(native, "available", lambda: False)
        yield request.param


def make(lon, lat, value=None, precision=None, name="no2", size=(5500.0, 3600.0), **attrs) -> Swath:
    lon, lat = np.atleast_2d(lon), np.atleast_2d(lat)
    value = np.ones(len(lon)) if value is None else np.asarray(value, float)
    precision = None if precision is None else np.broadcast_to(np.asarray(precision, float), value.shape)
    return Swath(value, precision, lon, lat, size, {"units": "mol m-2"} | attrs, name)


def degrees(west, south, east, north, step, crs="EPSG:4326") -> GeoBox:
    shape = round((north - south) / step), round((east - west) / step)
    return GeoBox(shape, Affine(step, 0, west, 0, -step, north), crs)


def overlaps(lon, lat, box) -> np.ndarray:
    """(ny, nx) float64 sums of overlap areas in m2, before any rounding to float32."""
    sums = swath_module._Sums((box.shape[0], box.shape[1]), False, False)
    swath_module._accumulate(make(lon, lat), box, swath_module._plan(box), sums)
    return sums.cells[..., 0]


def mesh(west, south, ny, nx, step, turn=0.0, at=None):
    """Nodes of a turned mesh in degrees."""
    j, i = np.meshgrid(np.arange(nx + 1) * step, np.arange(ny + 1) * step)
    return west + j * math.cos(turn) - i * math.sin(turn), south + j * math.sin(turn) + i * math.cos(turn)


@st.composite
def pixels(draw):
    """A few convex or concave pixels with edges of less than half a degree of longitude, anywhere between the poles."""
    lat0, lon0 = draw(st.floats(-85, 85)), draw(st.floats(-180, 360))
    n = draw(st.integers(1, 4))
    out = []
    for _ in range(n):
        size = draw(st.floats(0.02, 0.35))
        start = draw(st.floats(0, 2 * math.pi))
        radii = np.array([draw(st.floats(0.3, 0.7)) for _ in range(4)])
        angles = start + np.arange(4) * math.pi / 2
        shift = draw(st.floats(-0.5, 0.5)), draw(st.floats(-0.5, 0.5))
        out.append((lon0 + shift[0] + size * radii * np.cos(angles), lat0 + shift[1] + size * radii * np.sin(angles)))
    lon, lat = (np.array(v) for v in zip(*out, strict=True))
    return lon, np.clip(lat, -90, 90), lon0, lat0


@settings(max_examples=80, deadline=None)
@given(
    pixels(),
    st.floats(0.01, 0.7),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.sampled_from([-720, -360, 0, 360]),
    st.booleans(),
)
def test_overlaps_are_those_of_shapely(some, step, at, turns, south_up):
    """On grids that hold the pixels, cut them, or lie inside them."""
    lon, lat, lon0, lat0 = some
    n = 12
    left, top = lon0 + 0.8 - at[0] * (1.6 + n * step), min(lat0 - 0.8 + at[1] * (1.6 + n * step), 90.0)
    box = GeoBox((n, n), Affine(step, 0, left, 0, -step, top), "EPSG:4326")
    if south_up:
        box = GeoBox((n, n), Affine(step, 0, left, 0, step, top - n * step), "EPSG:4326")
    ours = overlaps(lon + turns, lat, box)
    theirs = shapely_overlaps(lon, lat, box).sum(axis=0)
    np.testing.assert_allclose(ours, theirs, atol=1e-9 * R**2 * math.radians(1) ** 2, rtol=1e-9)


def test_grids_inside_one_pixel_and_cut_by_its_edges():
    lon, lat = np.array([[0, 0.45, 0.44, 0.02]]), np.array([[10, 10.05, 10.5, 10.4]])
    for left, top in ((0.2, 10.3), (0.3, 10.3), (-0.2, 10.3), (0.2, 10.6), (0.2, 10.1)):
        box = GeoBox((25, 25), Affine(0.01, 0, left, 0, -0.01, top), "EPSG:4326")
        np.testing.assert_allclose(overlaps(lon, lat, box), shapely_overlaps(lon, lat, box)[0], rtol=1e-9, atol=1)


@settings(max_examples=30, deadline=None)
@given(pixels())
def test_the_whole_pixel_is_shared_out(some):
    lon, lat, lon0, _ = some
    box = degrees(math.floor(lon0) - 4, -90, math.floor(lon0) + 5, 90, 0.5)
    z = np.sin(np.radians(lat))
    area = shapely.area(shapely.polygons(np.stack([lon, z], -1))).sum() * R**2 * math.pi / 180
    assert overlaps(lon, lat, box).sum() == pytest.approx(area, rel=1e-9)


def test_constant_field_stays_constant_to_the_last_bit():
    lon, lat = mesh(3, 44, 40, 50, 0.043, 0.3)
    value = 7.3e-5
    out = grid_swaths([make(rings(lon), rings(lat), np.full(2000, value))], degrees(0, 42, 7, 48, 0.05)).no2
    assert np.isfinite(out).sum() > 800
    assert np.unique(out.values[np.isfinite(out)]) == np.float32(value)


def field(p: np.ndarray) -> np.ndarray:
    """A smooth field on the sphere with a plume some hundred kilometres wide; p (…, 3)."""
    plume = np.exp(-((1 - p @ sphere_points(8.0, 50.0)) / (1 - math.cos(math.radians(4.0)))))
    return 2 + p[..., 0] + 0.5 * p[..., 1] * p[..., 2] + 0.3 * p[..., 2] ** 2 + 3 * plume


def quadrature(corners_lon, corners_lat, n=3):
    """Mean of the field over each pixel (n, 4), by Gauss points in bilinear coordinates on the sphere."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    c = sphere_points(corners_lon, corners_lat)
    total = 0.0
    for u, wu in zip((nodes + 1) / 2, weights / 2, strict=True):
        for v, wv in zip((nodes + 1) / 2, weights / 2, strict=True):
            p = c[:, 0] * (1 - u) * (1 - v) + c[:, 1] * u * (1 - v) + c[:, 2] * u * v + c[:, 3] * (1 - u) * v
            total = total + wu * wv * field(p / np.linalg.norm(p, axis=-1, keepdims=True))
    return total


def check_orbit(scanlines, pixels_across, step):
    lon, lat = (rings(v) for v in orbit_corners(scanlines, pixels_across))
    value = quadrature(lon, lat)
    box = degrees(-180, -90, 180, 90, step)
    out = grid_swaths([make(lon, lat, value)], box, weights=True)
    weight = out.no2_weight.values
    rows, cols = np.nonzero(weight > 1 - 1e-6)
    west, north = -180 + cols * step, 90 - rows * step
    corners = (
        np.stack([west, west + step, west + step, west], -1),
        np.stack([north, north, north - step, north - step], -1),
    )
    truth = quadrature(*corners)
    assert len(rows) > 0.1 * weight.size
    assert weight.max() <= 1 + 1e-6  # the swath of half an orbit does not overlap itself
    np.testing.assert_allclose(out.no2.values[rows, cols], truth, rtol=5e-3)
    mass = np.nansum(out.no2.values.astype(float) * weight * cell_areas(box))
    assert mass == pytest.approx((value * solid_angles(lon, lat)).sum() * R**2, rel=1e-5)
    assert np.isfinite(out.no2.values[[0, -1]]).all()  # both poles are covered


def test_orbit_over_both_poles_and_the_dateline():
    check_orbit(900, 120, 0.5)


@pytest.mark.slow
def test_orbit_at_full_size():
    check_orbit(4172, 450, 0.05)


def polar_cap(n=9, size=40e3, south=False, offset=(0.31, 0.17)):
    """Nodes of a square mesh in the tangent plane of the pole, the pole inside a pixel."""
    s = (np.arange(n + 1) - n / 2) * size / R
    x, y = np.meshgrid(s + offset[0] * size / R, s + offset[1] * size / R)
    return np.degrees(np.arctan2(y, x)), (1 - 2 * south) * np.degrees(np.arctan2(1, np.hypot(x, y)))


@pytest.mark.parametrize("south", [False, True])
def test_pixels_around_the_pole_tile_the_cap(south):
    lon, lat = (rings(v) for v in polar_cap(south=south))
    box = degrees(-180, -90, 180, 90, 0.25)
    got = overlaps(lon, lat, box)
    pole = got[-1 if south else 0]
    np.testing.assert_allclose(pole, cell_areas(box)[-1 if south else 0, 0], rtol=1e-9)
    assert got.sum() == pytest.approx(solid_angles(lon, lat).sum() * R**2, rel=1e-4)
    one = np.flatnonzero(np.abs(((np.roll(lon, -1, 1) - lon + 180) % 360 - 180).sum(1)) > 180)
    assert len(one) == 1  # the pixel with the pole inside, by itself
    alone = overlaps(lon[one], lat[one], box).sum()
    assert alone == pytest.approx(solid_angles(lon[one], lat[one])[0] * R**2, rel=1e-3)


def test_a_corner_on_the_pole():
    lon, lat = (rings(v) for v in polar_cap(n=8, offset=(0.0, 0.0)))
    box = degrees(-180, -90, 180, 90, 0.25)
    got = overlaps(lon, lat, box)
    np.testing.assert_allclose(got[0], cell_areas(box)[0, 0], rtol=1e-9)


def test_grids_that_begin_anywhere_agree():
    lon, lat = mesh(176.3, -18, 60, 150, 0.05, 0.1)
    lon = (rings(lon) + 180) % 360 - 180
    lat = rings(lat)
    value = np.random.default_rng(0).normal(size=len(lon))
    one = make(lon, lat, value)
    a = grid_swaths([one], degrees(-180, -20, 180, -14, 0.1)).no2.values
    b = grid_swaths([one], degrees(0, -20, 360, -14, 0.1)).no2.values
    c = grid_swaths([one], degrees(170, -20, 190, -14, 0.1)).no2.values
    d = grid_swaths([make(lon + 360, lat, value)], degrees(-190, -20, -170, -14, 0.1)).no2.values
    np.testing.assert_allclose(np.roll(a, 1800, axis=1), b, rtol=1e-5)
    np.testing.assert_allclose(b[:, 1700:1900], c, rtol=1e-5)
    np.testing.assert_allclose(c, d, rtol=1e-5)
    assert np.isfinite(c[:, [99, 100]]).any(axis=0).all()


def test_a_grid_whose_period_is_no_whole_number_of_cells():
    lon, lat = mesh(-181, 10, 10, 40, 0.05)
    box = GeoBox((20, 6000), Affine(0.06, 0, -180, 0, -0.06, 11), "EPSG:4326")
    got = overlaps(rings(lon), rings(lat), box)
    np.testing.assert_allclose(got[:, :10], shapely_overlaps(rings(lon), rings(lat), box[:, :10]).sum(0), atol=1.0)
    assert got[:, -10:].max() > 0


def test_order_and_number_of_files_do_not_matter():
    rng = np.random.default_rng(1)
    lon, lat = mesh(10, 50, 30, 30, 0.08, 0.4)
    lon, lat, value = rings(lon), rings(lat), rng.lognormal(size=900)
    box = degrees(8, 49, 13, 54, 0.1)
    whole = grid_swaths([make(lon, lat, value, value / 3)], box)
    order = rng.permutation(900)
    shuffled = grid_swaths([make(lon[order], lat[order], value[order], value[order] / 3)], box)
    parts = np.array_split(np.arange(900), 4)
    pieces = grid_swaths((make(lon[p], lat[p], value[p], value[p] / 3) for p in parts), box)
    for name in whole:
        np.testing.assert_allclose(shuffled[name], whole[name], rtol=1e-6)
        np.testing.assert_array_equal(pieces[name], whole[name])


def test_swaths_are_taken_one_at_a_time():
    alive: list[weakref.ref] = []
    most = 0

    def many():
        nonlocal most
        for k in range(5):
            lon, lat = mesh(10 + k, 50, 3, 3, 0.1)
            one = make(rings(lon), rings(lat))
            alive.append(weakref.ref(one))
            yield one
            del one
            gc.collect()
            most = max(most, sum(r() is not None for r in alive))

    grid_swaths(many(), degrees(8, 49, 20, 54, 0.5))
    assert most == 0


#: Grids the file named ten times over (twice: the second call finds the allocator's pools as they will stay), then
#: forty times, and prints the peak of memory in kB after each.
PEAK = """
import resource, sys
from geosr.swath import open_swaths
for times in (10, 10, 40):
    open_swaths(times * sys.argv[1:], bbox=(-180, -60, 180, 60), resolution=1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
def test_memory_does_not_grow_with_the_number_of_files(tmp_path):
    """Four times as many: less than two swaths more, of the thirty it would be if they were kept."""
    one = orbit_file(tmp_path / "one.nc", 200, 450)
    swath_kb = 200 * 450 * 4 * (4 + 4 + 1) / 1024
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", PEAK, str(one)], capture_output=True, text=True, env=env)
    _, before, after = map(int, done.stdout.split())
    assert after - before < 2 * swath_kb, done.stderr


class Files:
    """Stands for read_swath: counts what it is asked for and what of it is still there."""

    def __init__(self):
        self.read, self.alive, self.most = [], [], 0

    def __call__(self, path, **options):
        if path == "broken":
            raise InputError("broken")
        lon, lat = mesh(10 + len(self.read) % 4, 50, 3, 3, 0.1)
        located = Extent(asked=options["bbox"])
        located.add(rings(lon), rings(lat))
        one = replace(make(rings(lon), rings(lat), source=path), located=located)
        self.read.append(path)
        self.alive.append(weakref.ref(one))
        self.most = max(self.most, sum(r() is not None for r in self.alive))
        return one


@pytest.mark.parametrize(("grid", "times"), [({"bbox": (8, 49, 20, 54), "resolution": 0.5}, 1), ({}, 2)])
@pytest.mark.filterwarnings("ignore:.*contradict their units")  # round numbers
def test_files_are_read_in_order_and_as_seldom_as_can_be(monkeypatch, grid, times):
    """Once where the grid is given, and with one more in memory than the one that is being gridded."""
    files = Files()
    monkeypatch.setattr("geosr.reading.s5p_l2.read_swath", files)
    out = swath_module.open_swaths([*"abcdefgh"], **grid)
    assert files.read == [*"abcdefgh"] * times
    assert out.attrs["source"] == "a, b, c, d, e, f, g, h"
    assert files.most == 2


@pytest.mark.filterwarnings("ignore:.*contradict their units")  # round numbers
def test_a_broken_file_among_many_is_an_error_after_those_before(monkeypatch):
    files = Files()
    monkeypatch.setattr("geosr.reading.s5p_l2.read_swath", files)
    with pytest.raises(InputError, match="broken"):
        swath_module.open_swaths(["a", "b", "broken", "d"], bbox=(8, 49, 20, 54), resolution=0.5)
    assert files.read == ["a", "b"]


@pytest.mark.parametrize("crs", ["EPSG:3035", "EPSG:32632", "EPSG:3995"])
def test_projected_grids_share_out_the_true_area(crs):
    lon, lat = (rings(v) for v in mesh(8, 48, 20, 20, 0.06, 0.2))
    x, y = Transformer.from_crs(4326, crs, always_xy=True).transform(lon, lat)
    step = 5000.0
    left, top = math.floor(x.min() / step) * step, math.ceil(y.max() / step) * step
    shape = math.ceil((top - y.min()) / step), math.ceil((x.max() - left) / step)
    box = GeoBox(shape, Affine(step, 0, left, 0, -step, top), crs)
    got = overlaps(lon, lat, box)
    assert got.sum() == pytest.approx(solid_angles(lon, lat).sum() * R**2, rel=1e-5)
    polygons = shapely.polygons(np.stack([x, y], -1))
    row, col = shape[0] // 2, shape[1] // 2
    cell = shapely.box(left + col * step, top - (row + 1) * step, left + (col + 1) * step, top - row * step)
    share = shapely.area(shapely.intersection(polygons, cell)) / shapely.area(polygons)
    assert got[row, col] == pytest.approx((share * solid_angles(lon, lat)).sum() * R**2, rel=1e-5)
    out = grid_swaths([make(lon, lat)], box).no2
    assert out.dims == ("y", "x")
    assert geobox_of(out) == box


def test_polar_stereographic_grid_over_the_pole_and_rotated_grid():
    lon, lat = (rings(v) for v in polar_cap())
    box = GeoBox((80, 80), Affine.translation(-4e5, 4e5) * Affine.scale(1e4, -1e4), "EPSG:3995")
    area = solid_angles(lon, lat).sum() * R**2
    assert overlaps(lon, lat, box).sum() == pytest.approx(area, rel=1e-5)
    turned = GeoBox(
        (120, 120), Affine.translation(0, 9e5) * Affine.rotation(-45) * Affine.scale(1e4, -1e4), "EPSG:3995"
    )
    got = overlaps(lon, lat, turned).sum()
    assert got == pytest.approx(area, rel=1e-5)


def test_rotated_grid_of_degrees_across_the_dateline():
    lon, lat = mesh(179, 10, 20, 40, 0.05)
    box = GeoBox((60, 60), Affine.translation(180, 8) * Affine.rotation(45) * Affine.scale(0.06), "EPSG:4326")
    got = overlaps((rings(lon) + 180) % 360 - 180, rings(lat), box)
    inside = got[27:33, 27:33] / cell_areas(box)[27:33, 27:33]
    assert got.max() > 0
    np.testing.assert_allclose(inside[got[27:33, 27:33] > 0.99 * got.max()], 1.0, rtol=1e-3)


def test_a_projection_seam_is_reported():
    lon, lat = mesh(179.5, 10, 4, 10, 0.1)
    lon = (rings(lon + 0.05) + 180) % 360 - 180
    box = GeoBox((400, 4000), Affine(1e4, 0, -2.0037e7, 0, -1e4, 3e6), "EPSG:3857")
    with pytest.warns(GeosrWarning, match="4 of 40 pixels left out: they straddle the edge of the map"):
        out = grid_swaths([make(lon, rings(lat))], box)
    assert out.no2_count.values[:, [0, -1]].any()


def test_degrees_of_another_datum():
    """NAD27 lies some 100 m from WGS 84 in longitude."""
    lon, lat = mesh(-100, 40, 5, 5, 0.1)
    box = degrees(-101, 39, -99, 41, 0.01, "EPSG:4267")
    got = overlaps(rings(lon), rings(lat), box)
    same = overlaps(rings(lon), rings(lat), degrees(-101, 39, -99, 41, 0.01))
    assert got.sum() == pytest.approx(same.sum(), rel=1e-4)
    assert np.abs(got - same).max() > 1e-3 * same.max()


def test_broken_corners_are_left_out_and_counted():
    lon = np.array([[0, 1, 1, 0], [2, 3, 3, 2], [4, 5, 5, 4], [6, 7, 6, 7], [0, 90, 1, 0], [0, 0, 3, 3.0]])
    lat = np.array([[0, 0, 1, 1], [0, 0, np.nan, 1], [0, 0, 9.97e36, 1], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 3, 3.0]])
    box = degrees(-1, -1, 9, 9, 0.5)
    with pytest.warns(GeosrWarning) as seen:
        out = grid_swaths([make(lon, lat)], box, weights=True)
    text = " | ".join(str(w.message) for w in seen)
    assert "2 of 6 pixels left out: a corner is missing" in text
    assert "2 of 6 pixels left out: their corners enclose no area" in text
    assert "1 of 6 pixels had crossing edges" in text
    weight = out.no2_weight
    assert weight.sel(longitude=slice(0, 1), latitude=slice(1, 0)).values == pytest.approx(np.ones((2, 2)), abs=1e-3)
    assert weight.sel(longitude=slice(6, 7), latitude=slice(1, 0)).values == pytest.approx(np.ones((2, 2)), abs=1e-3)
    assert weight.sum() == pytest.approx(8, abs=1e-2)


@pytest.mark.parametrize("order", [[0, 2, 1, 3], [0, 1, 3, 2]])
def test_crossing_corners_are_put_in_order_also_at_the_pole(order):
    lon, lat = (rings(v) for v in polar_cap())
    box = degrees(-180, -90, 180, 90, 0.25)
    sound = overlaps(lon, lat, box)
    np.testing.assert_allclose(overlaps(lon[:, order], lat[:, order], box), sound, rtol=1e-6, atol=1.0)


def test_either_sense_of_rotation():
    lon, lat = (rings(v) for v in mesh(8, 48, 6, 6, 0.06, 0.2))
    box = degrees(7, 47, 10, 50, 0.05)
    np.testing.assert_allclose(overlaps(lon[:, ::-1], lat[:, ::-1], box), overlaps(lon, lat, box), rtol=1e-9, atol=1e-3)


def test_random_error_falls_with_the_number_of_pixels_and_the_shared_part_does_not():
    lon, lat = np.tile([0.0, 1, 1, 0], (4, 1)), np.tile([0.0, 0, 1, 1], (4, 1))
    box = degrees(0, 0, 1, 1, 1.0)
    one = make(lon, lat, [1, 2, 3, 4], 0.2)
    for c, wanted in ((0.0, 0.1), (1.0, 0.2), (0.25, math.sqrt(0.75 * 0.01 + 0.25 * 0.04))):
        out = grid_swaths([one], box, correlated=c)
        assert out.no2.item() == 2.5
        assert out.no2_precision.item() == pytest.approx(wanted, rel=1e-6)
        assert out.no2_count.item() == 4


def test_unequal_weights_in_the_precision():
    """Two pixels that share a cell 3 to 1, with errors 1 and 2."""
    lon = np.array([[0, 0.75, 0.75, 0], [0.75, 1, 1, 0.75]])
    lat = np.array([[0, 0, 1, 1.0]] * 2)
    out = grid_swaths([make(lon, lat, [1, 5], [1, 2])], degrees(0, 0, 1, 1, 1.0))
    assert out.no2.item() == pytest.approx(2.0, rel=1e-6)
    assert out.no2_precision.item() == pytest.approx(math.hypot(0.75, 0.5), rel=1e-6)


def test_precision_is_given_only_where_every_swath_has_one_and_nan_stays_local():
    lon, lat = np.array([[0.0, 1, 1, 0], [1, 2, 2, 1]]), np.array([[0.0, 0, 1, 1]] * 2)
    box = degrees(0, 0, 2, 1, 1.0)
    out = grid_swaths([make(lon, lat, [1, 2], [np.nan, 0.5])], box)
    assert np.isnan(out.no2_precision.values[0, 0])
    assert out.no2_precision.values[0, 1] == 0.5
    assert out.no2.values.tolist() == [[1, 2]]
    mixed = grid_swaths([make(lon, lat, precision=0.1), make(lon, lat)], box)
    assert list(mixed) == ["no2", "no2_count"]


def test_slivers_of_float32_corners_do_not_count():
    lon, lat = (rings(np.float32(v)) for v in mesh(10, 50, 20, 20, 0.05))
    out = grid_swaths([make(lon, lat)], degrees(9, 49, 12, 52, 0.05))
    assert int(out.no2_count.max()) == 1
    assert int(out.no2_count.sum()) == 400
    assert int(np.isfinite(out.no2).sum()) == 400


def test_small_pixels_in_a_large_cell_all_count():
    lon, lat = (rings(v) for v in mesh(1, 1, 60, 60, 0.05))
    out = grid_swaths([make(lon, lat, np.arange(3600.0))], degrees(0, 0, 5, 5, 5.0))
    assert out.no2_count.item() == 3600


def test_dataset_says_what_it_is():
    lon, lat = mesh(10, 50, 3, 3, 0.1)
    attrs = {
        "long_name": "column",
        "standard_name": "troposphere_mole_content_of_nitrogen_dioxide",
        "source": "a.nc",
    }
    swaths = [
        make(
            rings(lon),
            rings(lat),
            precision=1.0,
            **attrs,
            time_coverage_start="2019-02-01T00:00:00Z",
            orbit="1",
        ),
        make(
            rings(lon),
            rings(lat),
            precision=1.0,
            **attrs | {"source": "b.nc"},
            time_coverage_start="2019-01-01T00:00:00Z",
        ),
    ]
    box = degrees(9, 49, 11, 51, 0.1)
    out = grid_swaths(swaths, box)
    assert list(out) == ["no2", "no2_precision", "no2_count"]
    assert out.no2.dims == ("latitude", "longitude")
    assert [out[n].dtype for n in out] == [np.float32, np.float32, np.int32]
    assert out.no2.attrs["ancillary_variables"] == "no2_precision no2_count"
    assert out.no2.attrs["cell_methods"] == "area: mean"
    assert out.no2_precision.attrs["standard_name"].endswith("nitrogen_dioxide standard_error")
    assert out.no2_precision.attrs["units"] == "mol m-2"
    assert out.no2_count.attrs["standard_name"] == "number_of_observations"
    assert out.attrs["source"] == "a.nc, b.nc"
    assert out.attrs["time_coverage_start"] == "2019-01-01T00:00:00Z"
    for name in out:
        assert geobox_of(out[name]) == box
    assert out.rio.crs.to_epsg() == 4326


def test_swaths_of_different_units_or_none_are_errors():
    lon, lat = mesh(10, 50, 3, 3, 0.1)
    box = degrees(9, 49, 11, 51, 0.1)
    other = make(rings(lon), rings(lat), units="K")
    for units in ("K", None, "furlong"):
        with pytest.raises(InputError, match=f"is in {units or 'no units'}, the files before in mol m-2"):
            grid_swaths([make(rings(lon), rings(lat)), make(rings(lon), rings(lat), units=units)], box)
    with pytest.raises(InputError, match="no swaths"):
        grid_swaths([], box)
    with pytest.raises(UsageError, match="correlation"):
        grid_swaths([other], box, correlated=1.5)


def test_swaths_are_converted_to_the_units_of_the_first():
    lon, lat = mesh(10, 50, 3, 3, 0.1)
    box = degrees(9, 49, 11, 51, 0.1)
    one = make(rings(lon), rings(lat), np.full(9, 5e-5), 1e-5)
    two = make(rings(lon), rings(lat), np.full(9, 3e15), 1e15, units="molec cm-2")
    both, mol = grid_swaths([one, two], box), grid_swaths([one], box)
    assert both.no2.attrs["units"] == both.no2_precision.attrs["units"] == "mol m-2"
    expected = np.where(np.isnan(mol.no2), np.nan, (5e-5 + 3e15 / 6.02214076e19) / 2)
    np.testing.assert_allclose(both.no2, expected, rtol=1e-6)
    sigma = mol.no2_precision * math.hypot(1, 1e20 / 6.02214076e19) / 2
    np.testing.assert_allclose(both.no2_precision, sigma, rtol=1e-6)
    assert grid_swaths([two, one], box).no2.attrs["units"] == "molec cm-2"
    assert two.attrs["units"] == "molec cm-2"  # nobody's swath is changed


def test_sums_are_freed_band_by_band_without_harm(monkeypatch):
    lon, lat = mesh(10, 50, 30, 30, 0.1)
    some = make(rings(lon), rings(lat), np.arange(900.0), 1.0)
    box = degrees(9, 49, 15, 55, 0.01)
    monkeypatch.setattr(swath_module, "_BAND_CELLS", 600 * 7)
    freed = []
    plain = swath_module._Sums.free
    monkeypatch.setattr(swath_module._Sums, "free", lambda s, rows: None)
    kept = grid_swaths([some], box, correlated=0.5, weights=True)
    monkeypatch.setattr(swath_module._Sums, "free", lambda s, rows: freed.append(rows) or plain(s, rows))
    assert grid_swaths([some], box, correlated=0.5, weights=True).identical(kept)
    assert freed == list(range(7, 607, 7))
    sums = swath_module._Sums((600, 600), True, True)
    sums.cells[:] = 1.0
    sums.free(300)
    if sys.platform == "linux":
        assert not sums.cells[:299].any()
    assert sums.cells[300:].all()
    sums.free(10_000)


# --- the grid that fits --------------------------------------------------------------------------------------------


def test_default_grid_of_sentinel_5p():
    lon, lat = mesh(10.013, 50.012, 30, 30, 0.05)
    box = default_geobox([make(rings(lon), rings(lat))])
    assert box.affine.a == 0.05
    assert box.affine.e == -0.05
    west, south, east, north = box.boundingbox
    assert (west, south) == (10.0, 50.0)
    assert (east, north) == (11.55, 51.55)
    metres = default_geobox([make(rings(lon), rings(lat))], crs="EPSG:3035")
    assert metres.affine.a == 5000
    assert metres.affine.c % 5000 == 0


@pytest.mark.parametrize(
    ("size", "nice"), [(0.04, 0.05), (0.05, 0.05), (0.0501, 0.1), (4450, 5000), (0.12, 0.2), (0.21, 0.25)]
)
def test_nice_sizes(size, nice):
    assert nice_size(size) == pytest.approx(nice, rel=1e-12)


def test_swath_over_the_dateline_gets_a_grid_over_the_dateline():
    lon, lat = mesh(178, -5, 30, 80, 0.05, 0.1)
    one = make((rings(lon) + 180) % 360 - 180, rings(lat))
    box = default_geobox([one])
    west, _, east, _ = box.boundingbox
    assert 177.8 < west < 178
    assert 181.9 < east < 182.2
    assert int(np.isfinite(grid_swaths([one], box).no2).sum()) > 0.9 * 30 * 80 * 0.9


def test_whole_orbit_gets_the_globe():
    lon, lat = (rings(v) for v in orbit_corners(400, 60))
    box = default_geobox([make(lon, lat)], resolution=1.0)
    assert tuple(box.shape) == (180, 360)
    assert box.affine.c == -180


@settings(max_examples=40, deadline=None)
@given(st.floats(-180, 180), st.floats(-80, 75), st.floats(0.02, 3), st.floats(-1.5, 1.5), st.integers(2, 60))
def test_extent_holds_every_corner_tightly(lon0, lat0, step, turn, n):
    lon, lat = mesh(lon0, lat0, 2, n, min(step, 150 / n, 1.5), turn)
    lat = np.clip(lat, -89.9, 89.9)
    extent = Extent()
    for part in np.array_split(np.arange(2 * n), 3):
        extent.add(((rings(lon) + 180) % 360 - 180)[part], rings(lat)[part])
    west, south, east, north = extent.bbox()
    assert -180 <= west < 180
    shift = round((lon.min() - west) / 360) * 360
    assert lon.min() - shift == pytest.approx(west, abs=1e-9)
    assert lon.max() - shift == pytest.approx(east, abs=1e-9)
    assert (south, north) == (lat.min(), lat.max())


@pytest.mark.parametrize(
    ("bbox", "west", "columns"),
    [
        ((170, -20, -170, 20), 170, 40),
        ((170, -20, 190, 20), 170, 40),
        ((0, 0, 360, 10), 0, 720),
        ((-10, 0, 10, 10), -10, 40),
    ],
)
def test_bbox(bbox, west, columns):
    box = default_geobox([], resolution=0.5, bbox=bbox)
    assert box.affine.c == west
    assert box.shape[1] == columns


@pytest.mark.parametrize(
    "bbox", [(0, 10, 10, 10), (0, 20, 10, 10), (0, -91, 1, 0), (0, 0, 700, 1), (0, 0, math.nan, 1), (1, 2, 3)]
)
def test_bad_bbox(bbox):
    with pytest.raises(UsageError, match="--bbox"):
        default_geobox([], resolution=0.5, bbox=bbox)


def test_bad_resolution_crs_and_size():
    for bad in (0.0, -0.1, math.nan, math.inf):
        with pytest.raises(UsageError, match="--resolution"):
            default_geobox([], resolution=bad, bbox=(0, 0, 1, 1))
    with pytest.raises(InputError, match="CRS"):
        default_geobox([], resolution=1, bbox=(0, 0, 1, 1), crs="EPSG:999999")
    with pytest.raises(InputError, match="location"):
        default_geobox([make(np.full((1, 4), np.nan), np.zeros((1, 4)))])


def test_cells_larger_than_10_degrees_or_the_box():
    with pytest.raises(UsageError, match="--resolution 500 degrees.*at most 10"):
        default_geobox([], resolution=500, bbox=(0, 0, 1, 1))
    with pytest.raises(UsageError, match="--resolution 11 degrees"):
        default_geobox([], resolution=11, bbox=(-180, -90, 180, 90))
    assert default_geobox([], resolution=10, bbox=(-180, -90, 180, 90)).shape == (18, 36)
    with pytest.raises(UsageError, match="--resolution 1e\\+06 is larger than the whole box"):
        default_geobox([], resolution=1e6, bbox=(10, 50, 11, 51), crs="EPSG:3035")
    assert default_geobox([], resolution=50e3, bbox=(10, 50, 11, 51), crs="EPSG:3035").shape[0] > 1
    lon, lat = mesh(10, 50, 3, 3, 0.1)
    tiny = default_geobox([make(rings(lon), rings(lat))], bbox=(10, 50, 10.001, 50.001), crs="EPSG:3035")
    assert tiny.shape == (1, 1)  # nobody asked for 5 km


def test_memory_is_capped_by_what_there_is(monkeypatch):
    monkeypatch.setattr(footprint, "available_memory", lambda: 1e9)
    with pytest.raises(RefusedError, match=r"648 million\) takes 20.7 GB .* 0.7 GB .*--bbox or a larger --resolution"):
        default_geobox([], resolution=0.01, bbox=(-180, -90, 180, 90))
    assert default_geobox([], resolution=0.1, bbox=(-180, -90, 180, 90)).shape == (1800, 3600)
    lon, lat = mesh(10, 50, 3, 3, 0.1)
    box = degrees(9, 49, 11, 51, 0.1)
    plain, precise = make(rings(lon), rings(lat)), make(rings(lon), rings(lat), precision=1.0)
    for some, options, cell in (
        (plain, {}, 32),
        (precise, {}, 44),
        (precise, {"correlated": 0.5}, 52),
        (plain, {"weights": True}, 36),
    ):
        monkeypatch.setattr(footprint, "available_memory", lambda n=cell: 400 * n / 0.7 + 1)
        grid_swaths([some], box, **options)
        monkeypatch.setattr(footprint, "available_memory", lambda n=cell: 400 * n / 0.7 - 2)
        with pytest.raises(RefusedError, match="memory"):
            grid_swaths([some], box, **options)


def test_available_memory_is_the_lowest_limit(tmp_path, monkeypatch):
    files = [tmp_path / n for n in ("a", "b", "absent")]
    files[0].write_text("max\n")
    files[1].write_text("1234567\n")
    monkeypatch.setattr(footprint, "_cgroup_files", lambda: files)
    assert footprint.available_memory() == 1234567
    files[1].write_text("9223372036854771712\n")
    assert 1e7 < footprint.available_memory() < 1e15


def test_orbits_gridded_one_by_one_share_cells():
    a = default_geobox([], resolution=0.05, bbox=(0.123, 40.01, 3.3, 44.4))
    b = default_geobox([], resolution=0.05, bbox=(2.777, 41.3, 7.1, 46))
    col, row = ~a.affine * (b.affine.c, b.affine.f)
    assert col == pytest.approx(round(col), abs=1e-9)
    assert row == pytest.approx(round(row), abs=1e-9)


# --- corners from centres ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [(10, 50), (179.5, 0), (30, 88.5), (-60, -89.0)])
def test_corners_from_centres(where):
    """On an even mesh drawn on the tangent plane, also across the dateline and at the poles."""
    lon0, lat0 = np.radians(where)
    up = sphere_points(*where)
    east = np.array([-math.sin(lon0), math.cos(lon0), 0])
    north = np.cross(up, east)
    assert lat0 != 0 or where[1] == 0
    s = np.arange(13) * 6e3 / R
    i, j = np.meshgrid(s, s, indexing="ij")
    points = up + i[..., None] * north + j[..., None] * east
    nodes = (
        np.degrees(np.arctan2(points[..., 1], points[..., 0])),
        np.degrees(np.arctan2(points[..., 2], np.hypot(points[..., 0], points[..., 1]))),
    )
    middle = (points[:-1, :-1] + points[1:, 1:]) / 2
    centre = (
        np.degrees(np.arctan2(middle[..., 1], middle[..., 0])),
        np.degrees(np.arctan2(middle[..., 2], np.hypot(middle[..., 0], middle[..., 1]))),
    )
    lon, lat = corners_from_centres(*centre)
    off = np.linalg.norm(
        sphere_points(lon.reshape(-1, 4), lat.reshape(-1, 4)) - sphere_points(rings(nodes[0]), rings(nodes[1])),
        axis=-1,
    )
    assert off.max() * R < 1.0  # metres


def test_corners_beside_holes_and_of_lonely_pixels():
    lon, lat = np.meshgrid(10 + 0.1 * np.arange(6), 50 + 0.1 * np.arange(7))
    full = corners_from_centres(lon, lat)
    lon[3, 2] = np.nan
    hole = corners_from_centres(lon, lat)
    assert np.isnan(hole[0][3, 2]).all()
    keep = np.isfinite(lon)
    np.testing.assert_allclose(hole[0][keep], full[0][keep], atol=1e-4)
    lon[:, 1:] = np.nan
    lon[0:2, 1] = 10.1
    lon[6, 5] = 10.5
    few = corners_from_centres(lon, lat)
    np.testing.assert_allclose([v[6, 5] for v in few], [v[6, 5] for v in full], atol=2e-3)
    lon[:] = np.nan
    lon[2, 2] = 10.2
    assert np.isnan(corners_from_centres(lon, lat)[0]).all()


@pytest.mark.parametrize("shape", [(5, 1), (1, 5), (1, 1)])
def test_a_line_of_pixels_takes_the_width_given(shape):
    lat, lon = np.meshgrid(50 + 0.05 * np.arange(shape[0]), 10 + 0.08 * np.arange(shape[1]), indexing="ij")
    clon, clat = corners_from_centres(lon, lat, 5000.0)
    assert clon.shape == (*shape, 4)
    area = solid_angles(clon.reshape(-1, 4), clat.reshape(-1, 4)) * R**2
    other = 0.05 * 111.2e3 if shape[0] > 1 else 0.08 * 111.2e3 * math.cos(math.radians(50)) if shape[1] > 1 else 5000.0
    np.testing.assert_allclose(area, 5000 * other, rtol=2e-3)
    if shape != (1, 1):
        with pytest.raises(InputError, match="does not tell the pixels' size"):
            corners_from_centres(lon, lat)


@pytest.mark.skipif(not native.available(), reason="geosr was built without a compiler")
@pytest.mark.filterwarnings("ignore:.* of .* pixels")
@pytest.mark.parametrize(("row0", "row1"), [(0, 60), (2000, 2080), (4100, 4172)], ids=["pole", "middle", "end"])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3035"])
def test_the_twins_agree_to_the_last_bits(row0, row1, crs):
    """Real corner geometry, with missing and crossed corners, at poles and dateline; only sine may differ in its last
    bit."""
    lon, lat = (rings(v[row0 : row1 + 1]) for v in orbit_corners(4172, 450))
    lon[5, 2] = np.nan
    lon[7], lat[7] = lon[7][[0, 2, 1, 3]], lat[7][[0, 2, 1, 3]]
    rng = np.random.default_rng(0)
    swath = make(lon, lat, rng.normal(size=len(lon)), rng.random(len(lon)))
    box = (
        degrees(-180, -90, 180, 90, 0.5)
        if crs == "EPSG:4326"
        else GeoBox((400, 500), Affine(2e4, 0, 0, 0, -2e4, 8e6), crs)
    )
    found = []
    for on in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(native, "available", lambda on=on: on)
            found.append(grid_swaths([swath], box, correlated=0.3))
    one, other = found
    for name in one.data_vars:
        np.testing.assert_allclose(one[name].values, other[name].values, rtol=2e-7 if one[name].dtype == "f4" else 0)


@pytest.mark.slow
def test_works_with_nowhere_to_keep_compiled_code(tmp_path):
    """A package directory and home that cannot be written: compile in the process, do not fail."""
    code = (
        "import numba.core.caching as c\n"
        "c.CacheImpl._locator_classes = []\n"
        "import numpy as np\nfrom geosr.swath import Swath, grid_swaths, default_geobox\n"
        "s = Swath(np.ones(1), None, np.array([[0, 1, 1, 0.]]), np.array([[0, 0, 1, 1.]]), (1e5, 1e5), {})\n"
        "print(float(grid_swaths([s], default_geobox([s], 1.0)).value.values[0, 0]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "GEOSR_NATIVE": "off"},
    )
    assert done.stdout.strip() == "1.0", done.stderr
