"""One standard deviation beside each fine value: its parts, its mask, its place in files."""

import pickle
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox

import geosr
from bundles import random_bundle
from geosr.channel import AffineScaler
from geosr.conserve import spread
from geosr.errors import GeosrWarning, ModelError, UsageError
from geosr.gaps import fill_gaps
from geosr.grid import geobox_of
from geosr.kernels import Conserver, Predictor, TileKernel
from geosr.models import load_model
from referee.cf import cf_findings
from strategies import field, smooth_field

BOX = GeoBox((45, 61), Affine(0.1, 0, 3, 0, -0.1, 50), "EPSG:4326")
NAME = "troposphere_mole_content_of_nitrogen_dioxide"
SCALER = AffineScaler(2.0, -0.5, "1e15 molec cm-2")


@pytest.fixture(scope="module", params=["srcnn-9-1-5", "edsr-16x4"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "m"
    return random_bundle(folder, request.param, sigma="sigma-24x4", scaler=SCALER)


@pytest.fixture(scope="module")
def data() -> np.ndarray:
    values = smooth_field(BOX.shape, seed=3)
    values[20:23, 30] = values[0, :4] = np.nan
    return values


@pytest.fixture(scope="module")
def ds(data) -> xr.Dataset:
    about = {"units": "1e15 molec cm-2", "long_name": "tropospheric NO2 column", "standard_name": NAME}
    return field(BOX, data, **about).to_dataset()


def with_precision(ds: xr.Dataset, values: np.ndarray, name: str = "no2_precision", **attrs) -> xr.Dataset:
    main = ds.no2.assign_attrs(ancillary_variables=name)
    extra = field(BOX, values.astype(np.float32), **{"units": ds.no2.attrs["units"], **attrs})
    return xr.Dataset({"no2": main, name: extra})


def sigma_of(found: xr.Dataset) -> np.ndarray:
    return found.no2_uncertainty.values


def test_it_is_the_sigma_of_the_model_in_the_fields_units(ds, data, model):
    got = ds.geosr.downscale(4, model=model)
    network = load_model(model)
    halo = network.halo
    filled = fill_gaps(np.pad(data, 2 * halo, mode="edge"), halo)[halo:-halo, halo:-halo]
    want = 0.5 * network.sigma((filled - np.float32(2)) / np.float32(-0.5))
    seen = ~np.isnan(sigma_of(got))
    np.testing.assert_allclose(sigma_of(got)[seen], want[seen], rtol=2e-5, atol=1e-6)
    assert sigma_of(got)[seen].min() >= 0
    assert sigma_of(got)[seen].std() > 0
    assert sigma_of(got).dtype == np.float32


def test_mask_grid_and_attributes(ds, data, model):
    got = ds.geosr.downscale(4, model=model)
    assert np.array_equal(np.isnan(sigma_of(got)), spread(np.isnan(data), 4))
    assert geobox_of(got.no2_uncertainty) == geobox_of(got.no2)
    attrs = got.no2_uncertainty.attrs
    assert attrs["long_name"] == "uncertainty (one standard deviation) of tropospheric NO2 column"
    assert attrs["standard_name"] == f"{NAME} standard_error"
    assert attrs["units"] == "1e15 molec cm-2"
    assert attrs["comment"].startswith("the model's error")
    assert got.no2.attrs["ancillary_variables"] == "no2_uncertainty"
    assert got.geosr.no2.name == "no2"
    of_error = ds.no2.assign_attrs(standard_name=f"{NAME} standard_error").to_dataset().geosr.downscale(4, model=model)
    assert of_error.no2_uncertainty.attrs["standard_name"] == f"{NAME} standard_error"
    bare = ds.no2.drop_attrs().rename(None).to_dataset(name="x").geosr.downscale(4, model=model)
    assert set(bare.x_uncertainty.attrs) == {"long_name", "comment"}


def test_the_field_itself_does_not_change(ds, model):
    with_it = ds.geosr.downscale(4, model=model)
    without = ds.geosr.downscale(4, model=model, uncertainty=False)
    assert "no2_uncertainty" not in without
    assert "ancillary_variables" not in without.no2.attrs
    assert np.array_equal(with_it.no2, without.no2, equal_nan=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tiles_do_not_show(ds, model, dtype):
    ds = ds.astype(dtype)
    whole = sigma_of(ds.geosr.downscale(4, model=model, tile=4096))
    assert whole.dtype == dtype
    for tile in (64, 96, 160):
        tiled = sigma_of(ds.geosr.downscale(4, model=model, tile=tile))
        assert np.nanmax(np.abs(tiled - whole)) <= 1e-6 * np.nanmax(whole)


@pytest.mark.parametrize(("factor", "shift"), [(3.0, 0.0), (1.0, 40.0), (0.01, -7.0)])
def test_it_scales_with_the_field_and_does_not_feel_a_shift(ds, model, factor, shift):
    want = factor * sigma_of(ds.geosr.downscale(4, model=model))
    got = sigma_of((ds * factor + shift).assign_attrs(ds.attrs).geosr.downscale(4, model=model))
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * np.nanmax(want))


def test_units_change_nothing_but_the_unit(ds, model):
    other = ds.copy()
    other["no2"] = (ds.no2 * (1e19 / 6.02214076e23)).assign_attrs(ds.no2.attrs, units="mol m-2")
    want = sigma_of(ds.geosr.downscale(4, model=model)) * (1e19 / 6.02214076e23)
    np.testing.assert_allclose(
        sigma_of(other.geosr.downscale(4, model=model)), want, rtol=1e-4, atol=1e-5 * np.nanmax(want)
    )


def test_a_constant_field_is_certain(ds, model):
    flat = sigma_of(xr.full_like(ds, 3.0).geosr.downscale(4, model=model))
    assert np.abs(flat).max() < 1e-5


def test_lazy_in_lazy_out(ds, model):
    lazy = ds.chunk({"latitude": 11}).geosr.downscale(4, model=model)
    assert lazy.no2_uncertainty.chunks is not None
    assert np.array_equal(sigma_of(lazy), sigma_of(ds.geosr.downscale(4, model=model)), equal_nan=True)


def test_times_are_independent(ds, model):
    cube = xr.concat([ds, 2 * ds], dim="time", coords="minimal").assign_coords(time=[0, 1])
    got = cube.geosr.downscale(4, model=model).no2_uncertainty
    assert got.dims == ("time", "latitude", "longitude")
    for step in (0, 1):
        alone = cube.isel(time=step).geosr.downscale(4, model=model)
        assert np.array_equal(got[step].values, sigma_of(alone), equal_nan=True)


def test_the_kernel_travels_to_workers(model):
    kernel = TileKernel(Predictor.of(load_model(model), 4, units="mol m-2"), Conserver(BOX, 4), uncertain=True)
    window = np.pad(smooth_field((9, 9)), kernel.predictor.halo, mode="edge")
    place = slice(3, 12), slice(20, 29)
    there = pickle.loads(pickle.dumps(kernel))(window, *place)
    for mine, theirs, (dtype, shape) in zip(kernel(window, *place), there, kernel.results(window.dtype), strict=True):
        assert np.array_equal(mine, theirs)
        assert (mine.dtype, mine.shape) == (dtype, shape or (36, 36))
    nothing = kernel(np.full_like(window, np.nan), *place)
    assert np.isnan(nothing[0]).all()
    assert np.isnan(nothing[2]).all()
    assert not nothing[1].any()


# --- the precision of the input ------------------------------------------------------------------------------------


def test_the_precision_of_a_cell_enters_in_all_its_fine_cells(ds, data, model):
    precision = 0.1 + np.abs(smooth_field(BOX.shape, 9))
    alone = sigma_of(ds.geosr.downscale(4, model=model))
    got = with_precision(ds, precision).geosr.downscale(4, model=model)
    want = np.sqrt(alone.astype(float) ** 2 + spread(precision, 4).astype(float) ** 2)
    np.testing.assert_allclose(sigma_of(got), want, rtol=1e-6)
    assert got.no2.attrs["ancillary_variables"] == "no2_uncertainty no2_precision"
    assert list(got.data_vars)[:3] == ["no2", "no2_uncertainty", "no2_precision"]
    assert "square root of the sum of squares" in got.no2_uncertainty.attrs["comment"]
    assert "no2_precision" in got.no2_uncertainty.attrs["comment"]


def test_other_units_are_converted(ds, model):
    precision = np.full(BOX.shape, 0.7)
    want = sigma_of(with_precision(ds, precision).geosr.downscale(4, model=model))
    in_moles = with_precision(ds, precision * 1e19 / 6.02214076e23, units="mol m-2")
    np.testing.assert_allclose(sigma_of(in_moles.geosr.downscale(4, model=model)), want, rtol=1e-5)
    doubled = with_precision(ds, precision)
    doubled["no2_precision"] = doubled.no2_precision.astype(np.float64)
    got = doubled.geosr.downscale(4, model=model)
    assert got.no2_uncertainty.dtype == np.float32
    assert got.no2_uncertainty.compute().dtype == np.float32
    bare = with_precision(ds, precision)
    del bare.no2_precision.attrs["units"]
    assert np.array_equal(sigma_of(bare.geosr.downscale(4, model=model)), want, equal_nan=True)


def test_units_that_cannot_be_converted_leave_it_out_and_say_so(ds, model):
    relative = with_precision(ds, np.full(BOX.shape, 20.0), units="percent")
    with pytest.warns(GeosrWarning, match=r"no2_precision does not enter the uncertainty of no2: 'percent'"):
        got = relative.geosr.downscale(4, model=model)
    assert np.array_equal(sigma_of(got), sigma_of(ds.geosr.downscale(4, model=model)), equal_nan=True)
    assert "no2_precision" not in got.no2_uncertainty.attrs["comment"]


def test_where_the_precision_is_missing_the_model_stands_alone(ds, data, model):
    precision = np.full(BOX.shape, 0.4)
    precision[:9], precision[9:12], precision[12:15] = np.nan, -1, 0
    alone = sigma_of(ds.geosr.downscale(4, model=model))
    got = sigma_of(with_precision(ds, precision).geosr.downscale(4, model=model))
    assert np.array_equal(got[: 15 * 4], alone[: 15 * 4], equal_nan=True)
    assert np.array_equal(np.isnan(got), spread(np.isnan(data), 4))
    assert np.nanmin(got[15 * 4 :]) >= 0.4


def test_one_precision_serves_all_times(ds, model):
    both = with_precision(ds, np.full(BOX.shape, 0.4))
    cube = xr.concat([both.no2, both.no2], dim="time", coords="minimal").assign_coords(time=[0, 1])
    cube.attrs = both.no2.attrs
    got = xr.Dataset({"no2": cube, "no2_precision": both.no2_precision}).geosr.downscale(4, model=model)
    want = sigma_of(both.geosr.downscale(4, model=model))
    assert np.array_equal(got.no2_uncertainty[1].values, want, equal_nan=True)


def test_a_coarse_uncertainty_goes_into_the_fine_one_and_gives_way(ds, model):
    values = np.full(BOX.shape, 0.4)
    got = with_precision(ds, values, "no2_uncertainty").geosr.downscale(4, model=model)
    want = with_precision(ds, values).geosr.downscale(4, model=model)
    assert np.array_equal(sigma_of(got), sigma_of(want), equal_nan=True)
    assert got.no2.attrs["ancillary_variables"] == "no2_uncertainty"
    assert got.geosr.no2.name == "no2"


# --- where there is none -------------------------------------------------------------------------------------------


def test_where_there_can_be_none_there_is_none(ds, model, tmp_path):
    plain = random_bundle(tmp_path / "plain")
    for options in ({"method": "bicubic"}, {"model": model, "conserve": False}, {"model": plain}):
        assert "no2_uncertainty" not in ds.geosr.downscale(4, **options)
    assert isinstance(ds.no2.geosr.downscale(4, model=model), xr.DataArray)
    assert "no2_uncertainty" in ds.geosr.downscale(4, model=model, uncertainty=True)


def test_asked_for_in_vain(ds, model, tmp_path):
    plain = random_bundle(tmp_path / "plain")
    with pytest.raises(UsageError, match="bicubic has no uncertainty"):
        ds.geosr.downscale(4, method="bicubic", uncertainty=True)
    with pytest.raises(UsageError, match="conserved field"):
        ds.geosr.downscale(4, model=model, conserve=False, uncertainty=True)
    with pytest.raises(UsageError, match="to_dataset"):
        geosr.downscale(ds.no2, 4, model=model, uncertainty=True)
    with pytest.raises(ModelError, match="random-srcnn-9-1-5 does not predict its error"):
        ds.geosr.downscale(4, model=plain, uncertainty=True)


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def netcdf(ds, tmp_path):
    path = tmp_path / "in.nc"
    full = with_precision(ds, np.full(BOX.shape, 0.4), standard_name=f"{NAME} standard_error")
    full.to_netcdf(path)
    return path


def test_it_is_the_second_band(netcdf, model, tmp_path):
    from geosr.jobs import downscale_files

    (report,) = downscale_files([netcdf], tmp_path / "o.tif", model=str(model))
    assert report.uncertainty == "no2_uncertainty"
    want = geosr.downscale(netcdf, 4, model=model)
    with rasterio.open(tmp_path / "o.tif") as done:
        assert done.descriptions == ("no2", "no2_uncertainty", "no2_precision")
        assert set(done.units) == {"1e15 molec cm-2"}
        np.testing.assert_allclose(done.read(2), want.no2_uncertainty, rtol=1e-5)
        assert done.tags(2)["standard_name"] == f"{NAME} standard_error"
        assert done.tags(2)["long_name"].startswith("uncertainty (one standard deviation)")
        assert "no2_precision" in done.tags(2)["comment"]
        assert float(done.tags(2)["STATISTICS_MINIMUM"]) >= 0.4
    style = ElementTree.parse(tmp_path / "o.qml").find(".//rasterrenderer")
    assert style is not None
    assert style.get("band") == "1"
    again = geosr.open_no2(tmp_path / "o.tif")
    np.testing.assert_allclose(again.geosr.no2, want.no2, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("version", ["1.8", "1.11"])
def test_the_cf_checker_takes_it(netcdf, model, tmp_path, version):
    pytest.importorskip("compliance_checker")
    from geosr.jobs import downscale_files

    downscale_files([netcdf], tmp_path / "o.nc", model=str(model), scale=4)
    with xr.open_dataset(tmp_path / "o.nc") as done:
        assert done.no2.attrs["ancillary_variables"] == "no2_uncertainty no2_precision"
        assert done.no2_uncertainty.attrs["standard_name"] == f"{NAME} standard_error"
        assert "no2_precision" in done.no2_uncertainty.attrs["comment"]
        assert done.geosr.no2.name == "no2"
    assert cf_findings(tmp_path / "o.nc", version) == []


def test_what_was_refined_can_be_refined_again(netcdf, model, tmp_path):
    from geosr.jobs import downscale_files

    downscale_files([netcdf], tmp_path / "o.nc", model=str(model))
    twice = geosr.downscale(tmp_path / "o.nc", 4, model=model)
    assert list(twice.data_vars)[:3] == ["no2", "no2_uncertainty", "no2_precision"]
    assert float(twice.no2_uncertainty.min()) >= 0.4
