"""The NetCDF against the CF checker, UDUNITS, GDAL and xarray."""

import os
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine

from geosr.errors import UsageError
from geosr.writing import cf, write
from geosr.writing.netcdf import chunk_sizes
from referee.cf import cf_findings

CHECKER = pytest.importorskip("compliance_checker")

GRIDS = {
    "geographic": ((40, 50), Affine(0.1, 0, 3.0, 0, -0.1, 50.0), "EPSG:4326", False),
    "swath": ((40, 50), Affine(0.05, 0, -5.0, 0, -0.05, 50.0), "EPSG:4326", True),
    "series": ((3, 40, 50), Affine(1000, 0, 4321000, 0, -1000, 3210000), "EPSG:3035", True),
    "one cell": ((1, 1), Affine(0.1, 0, 3.0, 0, -0.1, 50.0), "EPSG:4326", False),
}


@pytest.mark.parametrize("version", ["1.8", "1.11"])
@pytest.mark.parametrize("sample", ["S5P_*.nc", "*_l3.nc", "*_utm.tif"])
def test_cf_checker_finds_nothing_in_a_downscaled_sample(tmp_path, sample_dir, sample, version):
    from geosr.jobs import downscale_files

    (path,) = sample_dir.glob(sample)
    (report,) = downscale_files([path], tmp_path / "out.nc", scale=2, method="bicubic")
    assert cf_findings(report.output, version) == []


@pytest.mark.parametrize("name", GRIDS)
def test_cf_checker_finds_nothing(tmp_path, dataset, columns, provenance, name):
    shape, affine, crs, ancillary = GRIDS[name]
    ds = dataset(
        columns(*shape),
        affine=affine,
        crs=crs,
        ancillary=ancillary,
        standard_name="troposphere_mole_content_of_nitrogen_dioxide",
        cell_methods="time: mean" if len(shape) == 3 else "",
    )
    if len(shape) == 3:
        ds.attrs |= {
            "time_coverage_start": "2024-01-01T00:00:00Z",
            "time_coverage_end": "2024-01-04T00:00:00Z",
        }
    write(ds, tmp_path / "out.nc", main="no2", provenance=provenance)
    assert cf_findings(tmp_path / "out.nc") == []


@pytest.mark.parametrize("units", ["molec cm-2", "10^15molec/cm2", "1/cm2", "molecules/cm²", "DU", "umol m-2", None])
def test_cf_checker_takes_every_unit_of_columns(tmp_path, dataset, columns, provenance, units):
    ds = dataset(columns(8, 9), standard_name="troposphere_mole_content_of_nitrogen_dioxide")
    ds.no2.attrs["units"] = units
    if units is None:
        del ds.no2.attrs["units"], ds.no2.attrs["standard_name"]
    write(ds, tmp_path / "out.nc", main="no2", provenance=provenance)
    found = cf_findings(tmp_path / "out.nc")
    assert [m for m in found if units is not None or "units" not in m] == []


@pytest.mark.parametrize("units", ["mol m-2", "molec cm-2", "10^15molec/cm2", "1/cm2", "DU", "umol/m^2", "3 mol m-2"])
def test_spelling_for_udunits_means_the_same(units):
    """UDUNITS (by cf-units) as referee: the number of mol m-2 in one unit (its DU is 1e-4 larger)."""
    cf_units = pytest.importorskip("cf_units")
    from geosr.units import parse

    spelled = cf._units(units)
    assert cf_units.Unit(spelled["units"]).convert(1.0, "mol m-2") == pytest.approx(parse(units).si, rel=2e-4)
    assert ("comment" in spelled) == (spelled["units"] != units)
    if "comment" in spelled:
        assert units in spelled["comment"]


def test_standard_names_are_in_the_cf_table():
    table = os.path.join(os.path.dirname(CHECKER.__file__), "data", "cf-standard-name-table.xml")
    known = {entry.get("id") for entry in ElementTree.parse(table).getroot().iter("entry")}
    assert known >= cf.STANDARD_NAMES


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("troposphere_mole_content_of_nitrogen_dioxide", True),
        ("troposphere_mole_content_of_nitrogen_dioxide standard_error", True),
        ("troposphere_mole_content_of_nitrogen_dioxide wrongness", False),
        ("tropospheric_NO2", False),
    ],
)
def test_only_true_standard_names_are_kept(tmp_path, dataset, columns, provenance, given, kept):
    write(dataset(columns(5, 5), standard_name=given), tmp_path / "out.nc", main="no2", provenance=provenance)
    with xr.open_dataset(tmp_path / "out.nc") as done:
        assert done.no2.attrs.get("standard_name") == (given if kept else None)


@pytest.mark.parametrize("name", GRIDS)
def test_gdal_and_xarray_read_values_and_grid(tmp_path, dataset, columns, provenance, name):
    shape, affine, crs, ancillary = GRIDS[name]
    values = columns(*shape)
    ds = dataset(values, affine=affine, crs=crs, ancillary=ancillary, chunks=17)
    path = tmp_path / "out.nc"
    write(ds, path, main="no2", provenance=provenance)
    with rasterio.open(f"netcdf:{path}:no2") as done:
        assert done.transform.almost_equals(affine, 1e-9)  # GDAL before 3.11 takes it from the coordinates
        assert done.crs == rasterio.CRS.from_string(crs)
        assert np.isnan(done.nodata)
        assert set(done.units) == {"mol m-2"}
        np.testing.assert_array_equal(done.read().reshape(shape), values)
    with xr.open_dataset(path) as done:
        np.testing.assert_array_equal(done.no2, values)
        np.testing.assert_array_equal(done.y, ds.y)
        np.testing.assert_array_equal(done.x_bnds[:, 0], affine.c + affine.a * np.arange(shape[-1]))
        np.testing.assert_array_equal(done.y_bnds[:, 1], affine.f + affine.e * (np.arange(shape[-2]) + 1))
        # xarray would list the scalars as coordinates of the bounds, which they are not
        assert not [v for v in done.variables.values() if "coordinates" in v.encoding and "nv" in v.dims]
        if ancillary:
            assert done.no2.attrs["ancillary_variables"] == "no2_precision no2_count"
            np.testing.assert_array_equal(done.no2_precision, ds.no2_precision)
        if len(shape) == 3:
            np.testing.assert_array_equal(done.time, ds.time)


def test_attributes_are_chosen_not_inherited(tmp_path, dataset, columns, provenance):
    ds = dataset(columns(5, 6), valid_max=7, secret="s", cell_methods="time: mean")
    ds.no2.encoding = {"dtype": "int16", "scale_factor": 0.1, "_FillValue": -1}
    ds.attrs |= {"history": "2024-01-01: made by somebody\n", "junk": "j" * 9999}
    write(ds, tmp_path / "out.nc", main="no2", provenance=lambda _: provenance.finish(2e-10))
    with xr.open_dataset(tmp_path / "out.nc") as done:
        assert done.no2.encoding["dtype"] == np.float32
        assert np.isnan(done.no2.encoding["_FillValue"])
        assert "scale_factor" not in done.no2.encoding
        assert (done.no2.encoding["zlib"], done.no2.encoding["shuffle"]) == (True, True)
        assert done.no2.attrs["cell_methods"] == "area: mean time: mean"
        assert not {"secret", "valid_max"} & set(done.no2.attrs)
        first, last = done.attrs["history"].splitlines()
        assert first == "2024-01-01: made by somebody"
        assert last == provenance.history_line()
        assert done.attrs["Conventions"] == "CF-1.11, CF-1.8"
        assert done.attrs["geosr_conservation_error"] == "2e-10"
        assert "junk" not in done.attrs


def test_interval_of_the_data_becomes_bounds_of_the_time(tmp_path, dataset, columns, provenance):
    ds = dataset(columns(1, 5, 6))
    ds.attrs |= {
        "time_coverage_start": "2024-01-01T10:00:00Z",
        "time_coverage_end": "2024-01-01T13:00:00+02:00",
    }
    write(ds, tmp_path / "out.nc", main="no2", provenance=provenance)
    with xr.open_dataset(tmp_path / "out.nc") as done:
        expected = np.array([["2024-01-01T10:00", "2024-01-01T11:00"]], "datetime64[ns]")
        np.testing.assert_array_equal(done.time_bnds, expected)


def test_integer_counts_stay_integers(tmp_path, dataset, columns, provenance):
    ds = dataset(columns(9, 9))
    ds["n"] = (("y", "x"), np.arange(81).reshape(9, 9), {"units": "1"})
    write(ds, tmp_path / "out.nc", main="no2", provenance=provenance)
    with xr.open_dataset(tmp_path / "out.nc") as done:
        assert done.n.dtype == np.int32
        np.testing.assert_array_equal(done.n, ds.n)


def test_a_projection_without_a_cf_name_is_still_found(tmp_path, dataset, columns, provenance):
    affine = Affine(1000, 0, 1e6, 0, -1000, 5e6)
    write(
        dataset(columns(9, 9), affine=affine, crs="EPSG:3857"),
        tmp_path / "out.nc",
        main="no2",
        provenance=provenance,
    )
    with rasterio.open(tmp_path / "out.nc") as done, xr.open_dataset(tmp_path / "out.nc") as ds:
        subdataset = done.subdatasets[0] if done.subdatasets else tmp_path / "out.nc"
        assert "3857" in ds.spatial_ref.attrs["crs_wkt"]
    with rasterio.open(f"netcdf:{tmp_path / 'out.nc'}:no2") as done:
        assert (done.crs.to_epsg(), done.transform) == (3857, affine), subdataset


def test_a_rotated_grid_is_refused_with_the_way_out(tmp_path, dataset, columns, provenance):
    rotated = Affine.translation(3, 50) * Affine.rotation(20) * Affine.scale(0.1, -0.1)
    for suffix in ("nc", "zarr"):
        with pytest.raises(UsageError, match=r"rotated.*write it to \.tif"):
            write(
                dataset(columns(5, 5), affine=rotated),
                tmp_path / f"o.{suffix}",
                main="no2",
                provenance=provenance,
            )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tile", "stored"),
    [(1024, 512), (100, 100), (1000, 500), (768, 384), (997, 997), (5000, 500), (4999, 4096)],
)
def test_chunks_in_the_file_divide_the_tiles(dataset, tile, stored):
    import dask.array as da

    assert chunk_sizes(da.zeros((20_000, 20_000), chunks=tile)) == (stored, stored)
    assert tile % stored == 0 or tile > 4096


@pytest.mark.parametrize("options", [{"COMPRESS": "ZSTD"}, {"ZLEVEL": "10"}, {"ZLEVEL": "x"}])
def test_wrong_creation_options_are_usage_errors(tmp_path, dataset, columns, provenance, options):
    with pytest.raises(UsageError, match="ZLEVEL"):
        write(
            dataset(columns(5, 5)),
            tmp_path / "o.nc",
            main="no2",
            provenance=provenance,
            creation_options=options,
        )


def test_compression_level_is_taken(tmp_path, dataset, columns, provenance):
    for level in ("0", "9"):
        write(
            dataset(columns(50, 50)),
            tmp_path / f"{level}.nc",
            main="no2",
            provenance=provenance,
            creation_options={"zlevel": level},
        )
    with xr.open_dataset(tmp_path / "0.nc") as plain, xr.open_dataset(tmp_path / "9.nc") as packed:
        assert plain.no2.encoding["zlib"] is False
        assert packed.no2.encoding["complevel"] == 9
