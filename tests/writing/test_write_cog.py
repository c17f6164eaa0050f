"""The GeoTIFF against rio-cogeo, rasterio and numpy."""

import dask.array as da
import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rio_cogeo import cog_validate

from geosr.errors import OutputError, UsageError
from geosr.writing import write
from geosr.writing.cog import cog_options

TRANSFORMS = {
    "geographic": (Affine(0.1, 0, 3.0, 0, -0.1, 50.0), "EPSG:4326"),
    "thirds": (Affine(1 / 3, 0, -180.0, 0, -1 / 3, 90.0), "EPSG:4326"),
    "rotated": (Affine.translation(3, 50) * Affine.rotation(20) * Affine.scale(0.07, -0.09), "EPSG:4326"),
    "projected": (Affine(1000, 0, 4321000.5, 0, -1000, 3210000.25), "EPSG:3035"),
    "sheared": (Affine.translation(5e5, 5e6) * Affine.shear(10, 3) * Affine.scale(300, -500), "EPSG:32633"),
}


def check_cog(path):
    valid, errors, warnings = cog_validate(path, strict=True, quiet=True)
    assert (valid, errors, warnings) == (True, [], [])


@settings(max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    lead=st.sampled_from([None, 1, 3]),
    chunks=st.integers(1, 40),
    grid=st.sampled_from(sorted(TRANSFORMS)),
    gap=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_any_raster_comes_back_as_it_was(tmp_path_factory, dataset, provenance, shape, lead, chunks, grid, gap, seed):
    affine, crs = TRANSFORMS[grid]
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1e16, shape if lead is None else (lead, *shape)).astype(np.float32)
    values[rng.random(values.shape) < gap] = np.nan
    path = tmp_path_factory.mktemp("any") / "out.tif"
    landed = []
    report = write(
        dataset(values, affine=affine, crs=crs, chunks=max(chunks, max(shape) // 4)),
        path,
        main="no2",
        provenance=provenance,
        progress=landed.append,
    )
    with rasterio.open(path) as done:
        np.testing.assert_array_equal(done.read().reshape(values.shape), values)
        assert done.transform == affine
        assert done.crs == rasterio.CRS.from_string(crs)
        assert np.isnan(done.nodata)
        assert done.dtypes == ("float32",) * done.count
    check_cog(path)
    assert sum(landed) == values.size
    found, valid = report.statistics, values[~np.isnan(values)].astype(np.float64)
    assert (found.count, found.valid) == (values.size, valid.size)
    if valid.size:
        expected = [valid.min(), valid.max(), valid.mean(), valid.std()]
        scale = np.abs(valid).max()
        np.testing.assert_allclose(
            [found.minimum, found.maximum, found.mean, found.std], expected, rtol=1e-9, atol=1e-12 * scale
        )
    else:
        assert found.mean is None


def test_bands_are_described(tmp_path, dataset, columns, provenance):
    ds = dataset(columns(2, 40, 30), ancillary=True, standard_name="a_name", secret="x" * 10_000)
    ds.attrs |= {"time_coverage_start": "2024-01-01T09:59:58.5Z", "megabytes": "y" * 10_000}
    path = tmp_path / "out.tif"
    report = write(ds, path, main="no2", provenance=lambda _: provenance.finish(3e-12))
    with rasterio.open(path) as done:
        times = ("2024-01-01T10:30:00", "2024-01-02T10:30:00")
        assert done.descriptions[:4] == tuple(f"{n} {t}" for n in ("no2", "no2_precision") for t in times)
        assert done.units == ("mol m-2",) * 4 + ("1",) * 2
        tags = done.tags()
        for band in range(1, done.count + 1):
            values = done.read(band).astype(np.float64)
            stored = {k: float(v) for k, v in done.tags(band).items() if k.startswith("STATISTICS_")}
            assert stored == {
                "STATISTICS_MINIMUM": np.nanmin(values),
                "STATISTICS_MAXIMUM": np.nanmax(values),
                "STATISTICS_MEAN": pytest.approx(np.nanmean(values), rel=1e-12),
                "STATISTICS_STDDEV": pytest.approx(np.nanstd(values), rel=1e-9),
                "STATISTICS_VALID_PERCENT": pytest.approx(100 * np.isfinite(values).mean(), rel=1e-3),
            }
        assert done.tags(1)["long_name"] == "tropospheric NO2 column"
        assert done.tags(1)["standard_name"] == "a_name"
        assert not {"secret"} & set(done.tags(1))
    assert tags["TIFFTAG_DATETIME"] == "2024:01:01 09:59:58"
    assert tags["AREA_OR_POINT"] == "Area"
    assert tags["PRODUCT"] == "S5P L2 NO2 OFFL"
    assert "megabytes" not in tags
    assert {k: v for k, v in tags.items() if k.startswith("GEOSR_")} == provenance.finish(3e-12).tags()
    assert report.provenance.conservation_error == 3e-12
    check_cog(path)


def test_the_one_band_that_was_chosen_keeps_its_label(tmp_path, dataset, columns, provenance):
    ds = dataset(columns(1, 40, 30)[0], ancillary=True).assign_coords(band="2019-02")
    path = tmp_path / "out.tif"
    write(ds, path, main="no2", provenance=lambda _: provenance.finish(3e-12))
    with rasterio.open(path) as done:
        assert done.descriptions[:2] == ("no2 2019-02", "no2_precision 2019-02")


def test_datetime_falls_back_on_the_time_coordinate(tmp_path, dataset, columns, provenance):
    write(dataset(columns(2, 5, 5)), tmp_path / "out.tif", main="no2", provenance=provenance)
    with rasterio.open(tmp_path / "out.tif") as done:
        assert done.tags()["TIFFTAG_DATETIME"] == "2024:01:01 10:30:00"


def test_without_times_there_is_no_datetime(tmp_path, dataset, columns, provenance):
    write(dataset(columns(5, 5)), tmp_path / "out.tif", main="no2", provenance=provenance)
    with rasterio.open(tmp_path / "out.tif") as done:
        assert "TIFFTAG_DATETIME" not in done.tags()
        assert done.descriptions == ("no2",)


def test_overviews_are_means_of_valid_cells(tmp_path, dataset, columns, provenance):
    values = columns(1100, 700)
    values[400:700:3, 200:500:5] = np.nan
    write(dataset(values, chunks=300), tmp_path / "out.tif", main="no2", provenance=provenance)
    with rasterio.open(tmp_path / "out.tif", overview_level=0) as half:
        shown = half.read(1)
    with np.errstate(invalid="ignore"), pytest.warns(RuntimeWarning):
        expected = np.nanmean(values.reshape(550, 2, 350, 2), axis=(1, 3), dtype=np.float64)
    np.testing.assert_allclose(shown, expected, rtol=1e-5, atol=1e-10)
    check_cog(tmp_path / "out.tif")


def test_all_nan_is_a_valid_file_without_moments(tmp_path, dataset, provenance):
    ds = dataset(np.full((600, 90), np.nan, np.float32))
    report = write(ds, tmp_path / "out.tif", main="no2", provenance=provenance)
    check_cog(tmp_path / "out.tif")
    with rasterio.open(tmp_path / "out.tif") as done:
        assert np.isnan(done.read()).all()
        assert {k: v for k, v in done.tags(1).items() if k.startswith("STAT")} == {"STATISTICS_VALID_PERCENT": "0"}
    assert report.statistics.valid_percent == 0


def test_statistics_do_not_depend_on_tiles_order_or_threads(tmp_path, dataset, columns, provenance):
    values = columns(150, 170)
    a, b = (
        write(dataset(values, chunks=32), tmp_path / f"{s}.tif", main="no2", provenance=provenance, scheduler=s)
        for s in ("synchronous", "threads")
    )
    assert a.statistics == b.statistics
    other = write(dataset(values, chunks=(7, 170)), tmp_path / "c.tif", main="no2", provenance=provenance)
    assert other.statistics.mean == pytest.approx(a.statistics.mean, rel=1e-13)
    assert other.statistics.std == pytest.approx(a.statistics.std, rel=1e-12)


def test_many_bands_stay_readable_one_by_one(tmp_path, dataset, columns, provenance):
    values = columns(40, 140, 130)
    write(dataset(values), tmp_path / "out.tif", main="no2", provenance=provenance)
    with rasterio.open(tmp_path / "out.tif") as done:
        np.testing.assert_array_equal(done.read(40), values[39])
        block = 4 * np.prod(done.block_shapes[0])
        assert done.interleaving.name == "band" or block * done.count <= 16 << 20
    check_cog(tmp_path / "out.tif")


@pytest.mark.parametrize("compress", ["ZSTD", "LZW", "NONE", "lerc_deflate"])
def test_creation_options_reach_gdal(tmp_path, dataset, columns, provenance, compress):
    options = {"COMPRESS": compress, "blocksize": 256, "OVERVIEWS": "NONE"}
    values = columns(600, 600)
    write(dataset(values), tmp_path / "out.tif", main="no2", provenance=provenance, creation_options=options)
    with rasterio.open(tmp_path / "out.tif") as done:
        assert done.profile.get("compress", "none").upper() == compress.upper()
        assert done.block_shapes == [(256, 256)]
        assert done.overviews(1) == []
        np.testing.assert_array_equal(done.read(1), values)


def test_default_compression_has_the_floating_point_predictor(tmp_path, dataset, columns, provenance):
    write(dataset(columns(60, 60)), tmp_path / "out.tif", main="no2", provenance=provenance)
    with rasterio.open(tmp_path / "out.tif") as done:
        structure = done.tags(ns="IMAGE_STRUCTURE")
    assert (structure["COMPRESSION"], structure["PREDICTOR"], structure["LAYOUT"]) == ("DEFLATE", "3", "COG")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"COLOUR": "red"}, "COLOUR"),
        ({"TARGET_SRS": "EPSG:3857"}, "TARGET_SRS"),
        ({"MAX_Z_ERROR": "0.1"}, "MAX_Z_ERROR"),
        ({"COMPRESS": "JPEG"}, "lossless"),
        ({"BLOCKSIZE": "100"}, "multiple of 16"),
        ({"BLOCKSIZE": "big"}, "multiple of 16"),
    ],
)
def test_options_that_do_not_exist_or_change_the_raster_are_refused(options, says):
    with pytest.raises(UsageError, match=says):
        cog_options(options)


def test_a_wrong_option_leaves_nothing(tmp_path, dataset, columns, provenance):
    with pytest.raises(UsageError, match=r"out\.tif: .*MAGIC"):
        write(
            dataset(columns(600, 600)),
            tmp_path / "out.tif",
            main="no2",
            provenance=provenance,
            creation_options={"OVERVIEW_RESAMPLING": "MAGIC"},
        )
    assert list(tmp_path.iterdir()) == []


def test_numpy_backed_and_float64_data_are_taken(tmp_path, dataset, columns, provenance):
    values = columns(30, 40).astype(np.float64)
    write(dataset(values).compute(), tmp_path / "out.tif", main="no2", provenance=provenance)
    with rasterio.open(tmp_path / "out.tif") as done:
        np.testing.assert_array_equal(done.read(1), values.astype(np.float32))


def test_ancillary_work_shared_with_the_main_variable_is_done_once(tmp_path, dataset, columns, provenance):
    calls = []

    def costly(block):
        calls.append(block.shape)
        return block

    ds = dataset(columns(90, 90), chunks=30)
    shared = da.map_blocks(costly, ds.no2.data, dtype=np.float32, meta=np.empty((0, 0), np.float32))
    ds["no2"] = ds.no2.copy(data=shared)
    ds["no2_precision"] = (("y", "x"), shared * 2, {"units": "mol m-2"})
    write(ds, tmp_path / "out.tif", main="no2", provenance=provenance)
    assert len(calls) == 9


def test_ancillary_variables_come_in_their_cf_order_then_the_rest(tmp_path, dataset, columns, provenance):
    ds = dataset(columns(5, 6), ancillary=True).assign(cloud=lambda d: d.no2 * 0)
    ds = ds[["cloud", "no2_count", "no2", "no2_precision"]]
    write(ds, tmp_path / "out.tif", main="no2", provenance=provenance)
    with rasterio.open(tmp_path / "out.tif") as done:
        assert done.descriptions == ("no2", "no2_precision", "no2_count", "cloud")


def test_wrong_variables_are_usage_errors(tmp_path, dataset, columns, provenance):
    ds = dataset(columns(5, 6))
    with pytest.raises(UsageError, match="no variable 'so2'"):
        write(ds, tmp_path / "out.tif", main="so2", provenance=provenance)
    four = ds.expand_dims(level=2, time=2)
    with pytest.raises(UsageError, match="4 dimensions"):
        write(four, tmp_path / "out.tif", main="no2", provenance=provenance)
    ds["other"] = ds.no2.expand_dims(level=2)
    with pytest.raises(UsageError, match="other has dimensions"):
        write(ds, tmp_path / "out.tif", main="no2", provenance=provenance)
    assert list(tmp_path.iterdir()) == []


POLE = "+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=39.25 +lon_0=18 +type=crs"


@pytest.mark.parametrize(
    ("crs", "holds"),
    [
        (POLE, False),
        ("+proj=laea +lat_0=52 +lon_0=10 +x_0=4321000 +y_0=3210000 +R=6370000 +type=crs", True),
        ("+proj=geos +h=35785831 +lon_0=128.2 +sweep=y +type=crs", True),
        ("EPSG:27700", True),
    ],
)
def test_a_crs_that_geotiff_cannot_hold_is_refused_before_computing(tmp_path, dataset, columns, provenance, crs, holds):
    affine = Affine(0.1, 0, 3, 0, -0.1, 5) if crs == POLE else Affine(1e4, 0, 1e5, 0, -1e4, 2e5)
    ds = dataset(columns(20, 20), affine=affine, crs=crs)
    if holds:
        write(ds, tmp_path / "o.tif", main="no2", provenance=provenance)
        with rasterio.open(tmp_path / "o.tif") as done:
            assert done.crs is not None
        return
    with pytest.raises(OutputError, match="GeoTIFF cannot hold the CRS") as caught:
        write(ds, tmp_path / "o.tif", main="no2", provenance=provenance)
    assert caught.value.exit_code == 5
    assert list(tmp_path.iterdir()) == []
    write(ds, tmp_path / "o.nc", main="no2", provenance=provenance)
