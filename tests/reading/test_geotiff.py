"""GeoTIFF: georeference, bands, masks, layouts."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

from geosr.errors import GeosrWarning, InputError, UsageError
from geosr.grid import geobox_of
from geosr.reading import open_no2
from geosr.reading.lazy import read_indexed
from geosr.variables import main_variable
from reading.make import NORTH_UP, columns, geotiff


def read(path, **options):
    main = main_variable(open_no2(path, **options))
    return main, geobox_of(main)


def test_bounds_are_the_files_to_the_last_bit(tmp_path):
    transform = Affine(0.01796630568239043, 0, -9.5760409287141, 0, -0.01796630568239043, 39.31027683307026)
    path = geotiff(tmp_path / "a.tif", columns((62, 83)).astype(np.float64), transform)
    main, box = read(path)
    assert box.affine == transform
    with rasterio.open(path) as file:
        assert tuple(box.boundingbox) == tuple(file.bounds)
    assert main.dtype == np.float32
    assert main.chunks is not None  # lazy
    assert not main.encoding
    np.testing.assert_array_equal(main, columns((62, 83)))


def test_south_up_equals_its_north_up_twin(tmp_path):
    data = columns()
    north, box = read(geotiff(tmp_path / "n.tif", data))
    flipped = Affine(0.5, 0, 5.0, 0, 0.5, 47.0)
    south, turned = read(geotiff(tmp_path / "s.tif", data[::-1], flipped))
    assert turned == box
    np.testing.assert_array_equal(north, south)
    assert (np.diff(south.latitude) < 0).all()


def test_east_to_west_is_turned(tmp_path):
    data = columns()
    main, box = read(geotiff(tmp_path / "w.tif", data[:, ::-1], Affine(-0.5, 0, 9.0, 0, -0.5, 50.0)))
    assert box.affine == NORTH_UP
    np.testing.assert_array_equal(main, data)


def test_rotated_is_kept(tmp_path):
    rotated = Affine.translation(4e5, 4e6) * Affine.rotation(30) * Affine.scale(700, -900)
    main, box = read(geotiff(tmp_path / "r.tif", columns(), rotated, "EPSG:32632"))
    assert np.allclose(box.affine, rotated, rtol=1e-15)
    assert main.dims == ("y", "x")
    assert "x" not in main.coords
    np.testing.assert_array_equal(main, columns())


def test_pixel_is_point(tmp_path):
    path = tmp_path / "p.tif"
    geotiff(path, columns())
    with rasterio.open(path, "r+") as file:
        file.update_tags(AREA_OR_POINT="Point")
    with rasterio.open(path) as file:
        expected = file.transform
    assert read(path)[1].affine == expected


@pytest.mark.parametrize(
    ("crs", "transform", "words"),
    [(None, NORTH_UP, "no CRS.*--crs"), ("EPSG:4326", Affine.identity(), "no geotransform")],
)
def test_not_georeferenced(tmp_path, crs, transform, words):
    path = geotiff(tmp_path / "a.tif", columns(), transform, crs)
    with pytest.raises(InputError, match=words):
        open_no2(path)


def test_declared_crs(tmp_path):
    path = geotiff(tmp_path / "a.tif", columns(), Affine(5000, 0, 4e6, 0, -5000, 3e6), crs=None)
    assert read(path, crs="EPSG:3035")[1].crs.epsg == 3035
    with pytest.raises(InputError, match="EPSG:999999"):
        open_no2(path, crs="EPSG:999999")
    own = geotiff(tmp_path / "b.tif", columns())
    with pytest.warns(GeosrWarning, match="b.tif keeps its own CRS EPSG:4326: --crs declares a missing one"):
        assert read(own, crs="EPSG:3035")[1].crs.epsg == 4326


def test_control_points_and_rpcs(tmp_path):
    points = [GroundControlPoint(0, 0, 5, 50), GroundControlPoint(0, 8, 9, 50), GroundControlPoint(6, 0, 5, 47)]
    path = tmp_path / "gcps.tif"
    profile = {"driver": "GTiff", "height": 6, "width": 8, "count": 1, "dtype": "float32"}
    with rasterio.open(path, "w", **profile, gcps=points, crs="EPSG:4326") as file:
        file.write(columns(), 1)
    with pytest.raises(InputError, match="GCPs: warp"):
        open_no2(path)
    path = tmp_path / "rpcs.tif"
    coefficients = [1.0] + [0.0] * 19
    half = {f"{k}_{w}": 4.0 for k in ("height", "lat", "long", "line", "samp") for w in ("off", "scale")}
    both = {f"{k}_{w}_coeff": coefficients for k in ("line", "samp") for w in ("num", "den")}
    rpcs = RPC(**half, **both)
    with rasterio.open(path, "w", **profile, rpcs=rpcs) as file:
        file.write(columns(), 1)
    with pytest.raises(InputError, match="RPC: orthorectify"):
        open_no2(path)


def test_beyond_the_pole(tmp_path):
    path = geotiff(tmp_path / "a.tif", columns(), Affine(1, 0, 0, 0, -1, 95))
    with pytest.raises(InputError, match="pole"):
        open_no2(path)
    centres_at_poles = geotiff(tmp_path / "b.tif", columns((181, 360)), Affine(1, 0, -180, 0, -1, 90.5))
    assert read(centres_at_poles)[1].boundingbox.top == 90.5


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"tiled": True, "blockxsize": 16, "blockysize": 32},
        {"compress": "deflate", "predictor": 3},
        {"compress": "lzw"},
        {"compress": "zstd"},
        {"compress": "packbits"},
        {"compress": "lerc"},
        {"BIGTIFF": "YES"},
        {"interleave": "pixel"},
        {"interleave": "band"},
        {"tiled": True, "compress": "deflate", "interleave": "pixel"},
        {"ENDIANNESS": "BIG"},
    ],
)
def test_layouts_read_alike(tmp_path, layout):
    data = np.stack([columns((61, 47), 1), columns((61, 47), 2)])
    main, _ = read(geotiff(tmp_path / "a.tif", data, **layout))
    assert main.dims == ("band", "latitude", "longitude")
    np.testing.assert_array_equal(main, data)


def test_many_windows_equal_one(tmp_path, monkeypatch):
    monkeypatch.setattr("geosr.reading.geotiff._CHUNK_CELLS", 256)
    monkeypatch.setattr("geosr.reading.geotiff._CHUNK_ROWS", 16)
    data = columns((67, 53))
    for name, layout in {
        "t": {"tiled": True, "blockxsize": 16, "blockysize": 16},
        "s": {"compress": "lzw", "blockysize": 4},
    }.items():
        main, _ = read(geotiff(tmp_path / f"{name}.tif", data[::-1], Affine(0.1, 0, 0, 0, 0.1, 0), **layout))
        assert main.data.npartitions > 4
        np.testing.assert_array_equal(main, data)
        with dask.config.set(scheduler="threads", num_workers=8):
            np.testing.assert_array_equal(main[5:60:7, ::-3], data[5:60:7, ::-3])


def test_overviews_do_not_matter(tmp_path):
    path = geotiff(tmp_path / "a.tif", columns((128, 128)), tiled=True, blockxsize=64, blockysize=64)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4])
    np.testing.assert_array_equal(read(path)[0], columns((128, 128)))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
def test_dtypes(tmp_path, dtype):
    data = np.arange(48).reshape(6, 8).astype(dtype)
    main, _ = read(geotiff(tmp_path / "a.tif", data, nodata=7))
    assert main.dtype == np.float32
    expected = np.where(data == 7, np.nan, data.astype(np.float32))
    np.testing.assert_array_equal(main, expected)


def test_scale_and_offset_equal_the_float_twin(tmp_path):
    data = np.arange(-20, 28, dtype=np.int16).reshape(6, 8)
    path = geotiff(tmp_path / "a.tif", data, nodata=-20)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (0.02,), (1.5,)
    expected = (data * 0.02 + 1.5).astype(np.float32)
    expected[data == -20] = np.nan
    np.testing.assert_array_equal(read(path)[0], expected)


def test_mask_band_and_alpha(tmp_path):
    data = columns()
    mask = np.full((6, 8), 255, np.uint8)
    mask[2, 3:5] = 0
    path = tmp_path / "mask.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        geotiff(path, data)
        with rasterio.open(path, "r+") as file:
            file.write_mask(mask)
    np.testing.assert_array_equal(np.isnan(read(path)[0]), mask == 0)
    path = geotiff(
        tmp_path / "alpha.tif", np.stack([np.arange(1, 49, dtype=np.uint8).reshape(6, 8), mask]), alpha="YES"
    )
    main, _ = read(path)
    assert main.dims == ("latitude", "longitude")
    np.testing.assert_array_equal(np.isnan(main), mask == 0)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint8"])
@pytest.mark.parametrize("nodata", [None, 3])
def test_alpha_of_any_dtype_is_a_mask(tmp_path, dtype, nodata):
    """GDAL takes alpha for a mask only of 8 and 16 bits, and only without nodata."""
    data = np.arange(1, 49, dtype=dtype).reshape(6, 8)
    alpha = np.ones((6, 8), dtype)
    alpha[2, 3:5] = 0
    path = geotiff(tmp_path / "a.tif", np.stack([data, alpha]), nodata=nodata)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [rasterio.enums.ColorInterp.gray, rasterio.enums.ColorInterp.alpha]
    main, _ = read(path)
    assert main.dims == ("latitude", "longitude")
    np.testing.assert_array_equal(np.isnan(main), (alpha == 0) | (data == (nodata or -1)))
    with pytest.raises(InputError):
        open_no2(path, variable="2")


def test_palette_and_complex(tmp_path):
    path = tmp_path / "p.tif"
    geotiff(path, np.ones((6, 8), np.uint8), photometric="palette")
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {1: (255, 0, 0)})
    with pytest.raises(InputError, match="palette"):
        open_no2(path)
    with pytest.raises(InputError, match="complex"):
        open_no2(geotiff(tmp_path / "c.tif", columns().astype(np.complex64)))


def test_sparse_blocks(tmp_path):
    options = {"tiled": True, "blockxsize": 16, "blockysize": 16, "SPARSE_OK": "TRUE", "dtype": "float32"}
    for nodata in (None, -1.0):
        path = tmp_path / f"{nodata}.tif"
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            count=1,
            height=32,
            width=32,
            crs="EPSG:4326",
            transform=NORTH_UP,
            nodata=nodata,
            **options,
        ) as file:
            file.write(columns((16, 16)), 1, window=rasterio.windows.Window(0, 0, 16, 16))
        if nodata is None:
            with pytest.raises(InputError, match="missing blocks"):
                open_no2(path)
        else:
            assert int(np.isnan(read(path)[0]).sum()) == 32 * 32 - 16 * 16


# --- bands -----------------------------------------------------------------------------------------------------


def test_bands_of_one_kind_stay_together(tmp_path):
    data = np.stack([columns(seed=i) for i in range(3)])
    names = ["2019-01-01", "2019-02-01", "2019-03-01"]
    path = geotiff(tmp_path / "a.tif", data, descriptions=names)
    main, _ = read(path)
    assert main.dims[0] == "band"
    assert list(main["band"].values) == names
    np.testing.assert_array_equal(main, data)
    np.testing.assert_array_equal(read(path, time="2019-02")[0], data[1])
    np.testing.assert_array_equal(read(path, time=-1)[0], data[2])
    with pytest.raises(InputError, match="2019-01-01 to 2019-03-01"):
        open_no2(path, time="2020")


def test_one_band_of_several_keeps_its_label(tmp_path):
    data = np.stack([columns(seed=i) for i in range(3)])
    names = ["2019-01", "2019-02", "2019-03"]
    path = geotiff(tmp_path / "a.tif", data, descriptions=names)
    for options in ({"time": "2019-02"}, {"variable": "2"}, {"variable": "2019-02"}):
        main, _ = read(path, **options)
        assert main.dims == ("latitude", "longitude")
        assert main["band"].item() == "2019-02"
        np.testing.assert_array_equal(main, data[1])
    named = geotiff(tmp_path / "b.tif", data, descriptions=["no2", "no2_precision", "no2_count"])
    assert "band" not in read(named)[0].coords  # the name says it
    alone = geotiff(tmp_path / "c.tif", data[0], descriptions=["NO2 mean over 2019"])
    assert "band" not in read(alone)[0].coords


def test_band_by_name_number_and_kind(tmp_path):
    data = np.stack([columns(seed=i) for i in range(3)])
    names = ["cloud_fraction", "tropospheric_NO2_column_number_density", "NO2_column_number_density"]
    path = geotiff(tmp_path / "a.tif", data, descriptions=names)
    main, _ = read(path)
    assert main.name == names[1]
    np.testing.assert_array_equal(main, data[1])
    for variable, band in (("cloud_fraction", 0), ("3", 2), (names[2], 2)):
        np.testing.assert_array_equal(read(path, variable=variable)[0], data[band])
    with pytest.raises(InputError, match="cloud_fraction"):
        open_no2(path, variable="4")
    described = geotiff(tmp_path / "b.tif", data, descriptions=["red", "green", "blue"])
    with pytest.raises(InputError, match=r"1: red.*--variable"):
        open_no2(described)


def test_band_units_and_names(tmp_path):
    path = geotiff(tmp_path / "a.tif", columns(), descriptions=["NO2 mean over 2019"], units="mol m-2")
    main, _ = read(path)
    assert main.attrs["units"] == "mol m-2"
    assert main.attrs["long_name"] == "NO2 mean over 2019"
    assert main.name == "no2"
    assert open_no2(path).attrs["source"] == "a.tif"


def test_resolution_is_for_swaths(tmp_path):
    with pytest.raises(UsageError, match="swaths"):
        open_no2(geotiff(tmp_path / "a.tif", columns()), resolution=0.1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (7, 13)])
def test_small_shapes_keep_their_transform(tmp_path, shape):
    main, box = read(geotiff(tmp_path / "a.tif", columns(shape)))
    assert main.shape == shape
    assert box.affine == NORTH_UP


# --- indexing --------------------------------------------------------------------------------------------------


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_indexing_equals_numpy(data):
    """Whatever dask fuses out of slicings, flips and selections, one axis at a time."""
    whole = np.arange(5 * 7).reshape(5, 7)

    def boxes(box):
        assert all(s.step is None and 0 <= s.start <= s.stop <= n for s, n in zip(box, whole.shape, strict=True))
        return whole[box]

    index, expected = [], whole
    for axis, n in ((0, 5), (1, 7)):
        i = data.draw(
            st.one_of(st.slices(n), st.integers(-n, n - 1), st.lists(st.integers(0, n - 1), min_size=1, max_size=4))
        )
        index.append(np.array(i) if isinstance(i, list) else i)
        kept = [i] if isinstance(i, int) else i
        expected = np.take(expected, np.arange(n)[kept], axis=axis)
    expected = expected.reshape([k for k, i in zip(expected.shape, index, strict=True) if not isinstance(i, int)])
    np.testing.assert_array_equal(read_indexed(tuple(index), whole.shape, boxes), expected)


def test_a_mask_beside_the_file_is_told_of(tmp_path):
    path = geotiff(tmp_path / "a.tif", columns())
    (tmp_path / "a.tif.msk").write_bytes(b"II*\0")
    with pytest.warns(GeosrWarning, match="the mask a.tif.msk beside it is not read"):
        open_no2(path)
