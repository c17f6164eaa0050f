"""What may be opened: trust matrix, rows 1-11, 18-22."""

from __future__ import annotations

import os
import shutil
import struct

import numpy as np
import pytest
import rasterio

from geosr.errors import GeosrError, InputError, RefusedError
from geosr.reading import open_no2
from geosr.reading.gate import check_path, kind_of
from geosr.reading.geotiff import opened
from geosr.reading.tiff_scan import check_tiff_blocks
from reading.make import column_file, columns, geotiff

VRT = '<VRTDataset rasterXSize="2" rasterYSize="2"><VRTRasterBand dataType="Byte" band="1"/></VRTDataset>'


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.nc", b"", "empty"),
        ("text.tif", b"not a raster\n", "not GeoTIFF/NetCDF"),
        ("image.tif", b"\x89PNG\r\n\x1a\n" + bytes(100), "not GeoTIFF/NetCDF"),
        ("photo.tif", b"\xff\xd8\xff\xe0" + bytes(100), "not GeoTIFF/NetCDF"),
        ("archive.nc", b"PK\x03\x04" + bytes(100), "zip archive"),
        ("plain.xml", b"<html/>", "not GeoTIFF/NetCDF"),
    ],
)
def test_foreign_files_are_input_errors(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        open_no2(path)
    assert caught.value.path == str(path)


def test_missing_and_directory(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        open_no2(tmp_path / "absent.nc")
    with pytest.raises(InputError, match="directory"):
        open_no2(tmp_path)


@pytest.mark.parametrize("prefix", ["", " \n", "\ufeff"])
@pytest.mark.parametrize("name", ["a.tif", "a.vrt", "a.nc"])
def test_vrt_is_refused_by_content(tmp_path, name, prefix):
    path = tmp_path / name
    path.write_text(prefix + VRT, encoding="utf-8")
    with pytest.raises(RefusedError, match="VRT") as caught:
        open_no2(path)
    assert caught.value.exit_code == 4


def test_wms_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    path.write_text("<GDAL_WMS><Service/></GDAL_WMS>")
    with pytest.raises(RefusedError, match="WMS"):
        open_no2(path)


@pytest.mark.parametrize(
    "path",
    [
        "http://localhost:1/a.nc",
        "/vsicurl/http://localhost:1/a.tif",
        "/vsizip/a.zip/a.tif",
        "vrt://a.tif",
        "NETCDF:a.nc:x",
        "https://localhost:1/a.nc#mode=bytes",
        "s3://bucket/a.tif",
        VRT,
        "DERIVED_SUBDATASET:AMPLITUDE:a.tif",
    ],
)
def test_paths_that_are_no_local_files(path):
    with pytest.raises(InputError, match="local file"):
        open_no2(path)


def test_devices_and_pipes_do_not_hang(tmp_path):
    pipe = tmp_path / "pipe.nc"
    os.mkfifo(pipe)
    for path in (pipe, "/dev/zero"):
        with pytest.raises(InputError, match="regular file"):
            check_path(path)


def test_nul_and_odd_names(tmp_path):
    with pytest.raises(InputError):
        check_path("a\0b.tif")
    with pytest.raises(InputError, match="empty"):
        check_path("")
    odd = column_file(tmp_path / "-né\n☃.nc")
    assert open_no2(odd).sizes["latitude"] == 6


def test_the_suffix_is_not_believed(tmp_path):
    path = geotiff(tmp_path / "really_a_tiff.nc", columns())
    assert kind_of(path) == "tiff"
    assert open_no2(path).sizes["latitude"] == 6


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("tiled", [False, True])
def test_truncated_geotiff(tmp_path, share, tiled):
    options = {"tiled": True, "blockxsize": 64, "blockysize": 64} if tiled else {}
    path = geotiff(tmp_path / "a.tif", columns((200, 300)), **options)
    whole = path.read_bytes()
    assert check_tiff_blocks(path) == 0
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"truncated"):
        open_no2(path)


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("format", ["NETCDF4", "NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET"])
def test_truncated_netcdf(tmp_path, share, format):
    shape = (60, 80)
    path = column_file(
        tmp_path / "a.nc", columns(shape), 50 - 0.1 * np.arange(60), 5 + 0.1 * np.arange(80), format=format
    )
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(GeosrError, match="truncated or corrupt"):
        open_no2(path)


def test_truncation_is_found_without_reading(tmp_path):
    """Where the directory comes first, only the blocks' places tell; GDAL finds out when it gets there, or never."""
    path = geotiff(tmp_path / "a.tif", columns((200, 300)), tiled=True, blockxsize=64, blockysize=64)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="1 of 20 blocks lie beyond the end"):
        check_tiff_blocks(path)


def packed_file(path, **options):
    """int16 with scale, offset, units and nodata, all of them stored behind the blocks."""
    data = np.arange(1, 1201, dtype=np.int16).reshape(30, 40)
    data[3, 4] = -7
    geotiff(path, data, nodata=-7, units="mol m-2", **options)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (1e-8,), (1e-6,)
    return path


@pytest.mark.parametrize("cut", [1, 2, 10, 40, 200, 400])
@pytest.mark.parametrize("which", ["sample", "classic", "BigTIFF"])
def test_a_cut_tail_is_an_error(tmp_path, sample_dir, which, cut):
    """Tags whose values lie behind the cut are not lost without a word: nodata, scale and offset, units."""
    path = tmp_path / "a.tif"
    if which == "sample":
        shutil.copy(next(sample_dir.glob("*_utm.tif")), path)
    else:
        packed_file(path, BIGTIFF="YES" if which == "BigTIFF" else "NO")
    assert check_tiff_blocks(path) == 0
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match="truncated"):
        open_no2(path)


def test_a_cut_tail_of_a_packed_file_was_read_wrongly(tmp_path):
    path = packed_file(tmp_path / "a.tif")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="the values of its tag 42112 lie beyond|its directory lies beyond"):
        check_tiff_blocks(path)


def small_tiff(path, entries, following=0, big=False, size=None):
    """A directory with ``entries`` (tag, type, count, place) and the link to another."""
    if big:
        body = b"II" + struct.pack("<HHHQ", 43, 8, 0, 16) + struct.pack("<Q", len(entries))
        body += b"".join(struct.pack("<HHQQ", *e) for e in entries) + struct.pack("<Q", following)
    else:
        body = b"II" + struct.pack("<HI", 42, 8) + struct.pack("<H", len(entries))
        body += b"".join(struct.pack("<HHII", *e) for e in entries) + struct.pack("<I", following)
    path.write_bytes(body.ljust(size or len(body), b"\0"))
    return path


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    ("kind", "width"),
    [(1, 1), (2, 1), (3, 2), (4, 4), (5, 8), (6, 1), (7, 1), (8, 2), (9, 4), (10, 8), (11, 4), (12, 8), (13, 4)]
    + [(16, 8), (17, 8), (18, 8), (99, 1)],
)
def test_every_field_type_has_its_width(tmp_path, kind, width, big):
    """Nine values at byte 100 need 100 + 9 width bytes, and not one more."""
    path = small_tiff(tmp_path / "a.tif", [(60000, kind, 9, 100)], big=big, size=100 + 9 * width)
    assert check_tiff_blocks(path) == 0
    small_tiff(path, [(60000, kind, 9, 100)], big=big, size=100 + 9 * width - 1)
    with pytest.raises(InputError, match="truncated or corrupt: the values of its tag 60000"):
        check_tiff_blocks(path)


def test_chains_of_directories_end(tmp_path):
    assert check_tiff_blocks(small_tiff(tmp_path / "circle.tif", [(60000, 1, 1, 0)], following=8)) == 0
    with pytest.raises(InputError, match="directory lies beyond"):
        check_tiff_blocks(small_tiff(tmp_path / "far.tif", [(60000, 1, 1, 0)], following=4000))
    path = small_tiff(tmp_path / "many.tif", [(60000, 1, 1, 0)] * 3)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match="directory lies beyond"):
        check_tiff_blocks(path)


def test_later_directories_are_checked_too(tmp_path):
    """An internal mask or overview whose blocks are gone."""
    path = tmp_path / "a.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        geotiff(path, columns((64, 64)))
        with rasterio.open(path, "r+") as file:
            file.write_mask(np.tri(64, dtype=bool))
    assert check_tiff_blocks(path) == 0
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="truncated"):
        check_tiff_blocks(path)


def test_zarr_says_what_to_do(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    for path in (tmp_path / "a.zarr", f"{tmp_path}/a.zarr/"):
        with pytest.raises(InputError, match="Zarr input is not read yet; convert it to NetCDF first"):
            check_path(path)


def test_gdal_is_kept_to_geotiff(tmp_path):
    """Even where the gate were passed, a VRT is not opened."""
    path = tmp_path / "a.tif"
    path.write_text(VRT)
    with pytest.raises(rasterio.errors.RasterioIOError), opened(path):
        pass


def test_garbage_after_the_end_is_harmless(tmp_path):
    path = column_file(tmp_path / "a.nc", format="NETCDF3_CLASSIC")
    path.write_bytes(path.read_bytes() + b"garbage" * 100)
    np.testing.assert_array_equal(open_no2(path)["nitrogendioxide_tropospheric_column"], columns())


def test_sidecars_are_not_read(tmp_path):
    """A hostile .ovr or .aux.xml beside an image changes nothing."""
    path = geotiff(tmp_path / "a.tif", columns((64, 64)))
    before = open_no2(path)["no2" if "no2" in open_no2(path) else "field"].values
    (tmp_path / "a.tif.ovr").write_text(VRT)
    (tmp_path / "a.tif.aux.xml").write_text(
        '<PAMDataset><SRS>EPSG:3035</SRS><PAMRasterBand band="1"><NoDataValue>0</NoDataValue>'
        "<Scale>7</Scale></PAMRasterBand></PAMDataset>"
    )
    ds = open_no2(path)
    np.testing.assert_array_equal(ds["field"].values, before)
    assert ds["field"].rio.crs.to_epsg() == 4326


def test_unreadable_blocks_are_input_errors(tmp_path):
    path = geotiff(tmp_path / "a.tif", columns((64, 64)), compress="deflate")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = b"\xff" * 200
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match="truncated or corrupt"):
        open_no2(path)["field"].compute()
