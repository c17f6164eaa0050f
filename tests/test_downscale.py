"""geosr.downscale: the contracts, for each method and for numpy, dask and dask in odd chunks alike."""

import sys

import numpy as np
import pytest
import xarray as xr
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

import geosr
from bundles import NO2_ENVELOPE, bundle_with
from geosr.conserve import conservation_error, spread
from geosr.envelope import Envelope
from geosr.errors import GeosrWarning, InputError, ModelError, RefusedError, UsageError
from geosr.grid import cell_areas, geobox_of, refine
from geosr.kernels import Predictor
from geosr.method import choose_model
from geosr.models import available
from geosr.models.architectures import FAMILIES
from strategies import field, geoboxes, smooth_field, values

SCALES = (2, 4)
#: Every contract holds for every family of networks that ships.
SHIPPED = {(card.family, card.scale) for card in available()}
METHODS = ["bicubic", *(f for f in FAMILIES if all((f, scale) in SHIPPED for scale in SCALES))]
#: For fields and grids that no network was trained on.
anything = pytest.mark.filterwarnings("ignore::geosr.errors.GeosrWarning")
BOX = GeoBox((45, 61), Affine(0.1, 0, 3, 0, -0.1, 50), "EPSG:4326")


def numbers(result) -> np.ndarray:
    return np.asarray(result.values)


@pytest.fixture(scope="module")
def coarse() -> xr.DataArray:
    data = smooth_field(BOX.shape, seed=3)
    data[20:23, 30] = np.nan
    return field(BOX, data, units="1e15 molec cm-2", long_name="tropospheric NO2 column")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", SCALES)
def test_contracts_on_a_plain_field(coarse, method, scale):
    fine = coarse.geosr.downscale(scale, method=method)
    box = geobox_of(fine)
    assert box.boundingbox.bbox == BOX.boundingbox.bbox
    assert box.shape == refine(BOX, scale).shape
    assert np.array_equal(np.isnan(numbers(fine)), spread(np.isnan(numbers(coarse)), scale))
    largest = np.nanmax(np.abs(numbers(coarse)))
    assert conservation_error(numbers(fine), numbers(coarse), cell_areas(box), scale) <= 1e-6 * largest
    assert fine.attrs["units"] == "1e15 molec cm-2"
    assert fine.dtype == np.float32
    assert (numbers(coarse)[np.isfinite(numbers(coarse))] < 0).any(), "the test field must have negative columns"
    assert np.nanmin(numbers(fine)) < 0


@anything
@given(st.data(), geoboxes(max_side=14), st.sampled_from(METHODS), st.sampled_from(SCALES))
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_contracts_on_any_grid(data, box, method, scale):
    da = field(box, data.draw(values(box.shape)))
    fine = geosr.downscale(da, scale, method=method, force_model=True)
    found = geobox_of(fine)
    assert found.shape == refine(box, scale).shape
    assert found.affine * (0, 0) == box.affine * (0, 0)
    assert found.crs == box.crs
    assert np.array_equal(np.isnan(numbers(fine)), spread(np.isnan(numbers(da)), scale))
    largest = np.nanmax(np.abs(numbers(da)), initial=1e-9)
    assert conservation_error(numbers(fine), numbers(da), cell_areas(found), scale) <= 1e-6 * largest


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(45, 61), (33, 65), (1, 40), (40, 1), (5, 3), (32, 97)])
def test_tiles_do_not_show(method, shape):
    box = GeoBox(shape, BOX.affine, BOX.crs)
    data = smooth_field(shape, seed=1)
    data[data > np.quantile(data, 0.97)] = np.nan
    da = field(box, data)
    whole = numbers(geosr.downscale(da, 4, method=method, tile=4096))
    for tile in (64, 96, 160):
        tiled = numbers(geosr.downscale(da, 4, method=method, tile=tile))
        assert np.nanmax(np.abs(tiled - whole)) <= 1e-6 * np.nanmax(data) - 1e-6 * np.nanmin(data)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", SCALES)
def test_one_missing_cell_is_felt_no_farther_than_the_receptive_radius(method, scale):
    data = smooth_field((50, 50), seed=5)
    whole = numbers(geosr.downscale(field(BOX_50, data), scale, method=method))
    data[24, 27] = np.nan
    holed = numbers(geosr.downscale(field(BOX_50, data), scale, method=method))
    reach = Predictor.of(choose_model(method, scale, None), scale).reach
    rows, cols = np.nonzero(whole != holed)
    assert np.isnan(holed).sum() == scale**2
    distance = np.maximum(np.abs(rows // scale - 24), np.abs(cols // scale - 27))
    assert 0 < distance.max() <= reach


BOX_50 = GeoBox((50, 50), Affine(5000, 0, 3e5, 0, -5000, 5e6), "EPSG:32632")


@pytest.mark.parametrize("method", METHODS)
def test_lazy_in_lazy_out_same_numbers(coarse, method):
    want = numbers(coarse.geosr.downscale(4, method=method))
    for chunks in ({"latitude": 10, "longitude": 7}, {"latitude": 1}, -1):
        lazy = coarse.chunk(chunks).geosr.downscale(4, method=method)
        assert lazy.chunks is not None
        assert np.array_equal(numbers(lazy.compute()), want, equal_nan=True)
    assert coarse.geosr.downscale(4, method=method).chunks is None


@pytest.mark.parametrize("method", METHODS)
def test_float64_conserves_to_1e12(coarse, method):
    fine = coarse.astype(np.float64).geosr.downscale(4, method=method)
    assert fine.dtype == np.float64
    error = conservation_error(numbers(fine), numbers(coarse).astype(np.float64), cell_areas(geobox_of(fine)), 4)
    assert error <= 1e-12 * np.nanmax(np.abs(numbers(coarse)))


@pytest.mark.parametrize("method", METHODS)
def test_infinity_and_declared_nodata_are_missing(coarse, method):
    data = numbers(coarse).copy()
    odd = data.copy()
    odd[4, 4], odd[30, 30], odd[40, 9] = np.inf, -np.inf, -9999
    data[[4, 30, 40], [4, 30, 9]] = np.nan
    got = field(BOX, odd, _FillValue=-9999.0).geosr.downscale(2, method=method)
    assert np.array_equal(numbers(got), numbers(field(BOX, data).geosr.downscale(2, method=method)), equal_nan=True)


@pytest.mark.parametrize("place", ["attrs", "encoding"])
@pytest.mark.parametrize("name", ["_FillValue", "missing_value"])
@pytest.mark.parametrize("value", [-9999, np.array([-9999], np.int16)])
def test_nodata_of_integers_wherever_it_is_declared(place, name, value):
    data = np.full(BOX.shape, 20, np.int16)
    data[7, 9] = -9999
    da = field(BOX, data)
    getattr(da, place)[name] = value
    fine = numbers(da.geosr.downscale(4, method="bicubic"))
    assert np.isnan(fine).sum() == 16
    assert np.nanmin(fine) == 20


def test_packed_numbers_are_not_taken_for_values(coarse):
    with pytest.raises(UsageError, match="decode"):
        coarse.assign_attrs(scale_factor=0.01).geosr.downscale(2, method="bicubic")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, -3.5, 4e15, 1e-5])
def test_a_constant_field_stays_constant(method, value):
    fine = geosr.downscale(field(BOX, np.full(BOX.shape, value, np.float32)), 4, method=method)
    assert numbers(fine) == pytest.approx(np.float32(value), rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_all_missing_stays_missing(method):
    assert np.isnan(geosr.downscale(field(BOX, np.full(BOX.shape, np.nan, np.float32)), 4, method=method)).all()


@pytest.mark.parametrize("method", METHODS)
def test_orientation_and_dimension_order_are_kept(coarse, method):
    plain = coarse.geosr.downscale(2, method=method)
    turned = coarse.transpose("longitude", "latitude").geosr.downscale(2, method=method)
    assert turned.dims == ("longitude", "latitude")
    assert np.array_equal(numbers(turned).T, numbers(plain), equal_nan=True)


def test_flipped_twin_gives_the_flipped_result(coarse):
    plain = coarse.geosr.downscale(2, method="bicubic")
    flipped = coarse.isel(latitude=slice(None, None, -1)).geosr.downscale(2, method="bicubic")
    assert flipped.latitude.values[0] < flipped.latitude.values[-1]
    np.testing.assert_allclose(numbers(flipped)[::-1], numbers(plain), atol=2e-6, equal_nan=True)


def test_time_steps_are_independent(coarse):
    cube = xr.concat([coarse, coarse * 2], dim="time", coords="minimal").assign_coords(time=[0, 1])
    cube.attrs = coarse.attrs
    fine = cube.geosr.downscale(2, method="srcnn")
    assert fine.dims == ("time", "latitude", "longitude")
    for step in (0, 1):
        alone = cube.isel(time=step).geosr.downscale(2, method="srcnn")
        assert np.array_equal(numbers(fine[step]), numbers(alone), equal_nan=True)


@anything
def test_phase_shift_is_below_a_hundredth_of_a_cell():
    """By cross-correlation with sub-pixel registration (scikit-image) against the exact field."""
    from skimage.registration import phase_cross_correlation

    scale = 4
    y, x = (np.mgrid[: 64 * scale, : 64 * scale] + 0.5) / scale

    def blobs(y, x):
        return sum(np.exp(-((y - a) ** 2 + (x - b) ** 2) / 12) for a, b in ((20.3, 31.1), (40.7, 18.2), (45.1, 47.9)))

    truth = blobs(y, x)
    box = GeoBox((64, 64), BOX_50.affine, BOX_50.crs)
    coarse = truth.reshape(64, scale, 64, scale).mean(axis=(1, 3)).astype(np.float32)
    for method in METHODS:
        fine = numbers(geosr.downscale(field(box, coarse), scale, method=method))
        shift, *_ = phase_cross_correlation(truth, fine, upsample_factor=1000, normalization=None)
        assert np.abs(shift).max() / scale < 0.01


@pytest.mark.parametrize("scale", range(2, 9))
def test_bicubic_takes_any_scale(coarse, scale):
    fine = coarse.geosr.downscale(scale, method="bicubic")
    assert fine.shape == (45 * scale, 61 * scale)
    assert geobox_of(fine).boundingbox.bbox == pytest.approx(BOX.boundingbox.bbox, rel=1e-15)


def test_a_dataset_brings_its_companions(coarse):
    name = "no2"
    main = coarse.assign_attrs(ancillary_variables="no2_precision no2_count")
    count = field(BOX, np.arange(coarse.size, dtype=np.float32).reshape(BOX.shape)).rename("no2_count")
    ds = xr.Dataset({name: main, "no2_precision": (coarse * 0.1).rename("no2_precision"), "no2_count": count})
    fine = ds.geosr.downscale(2, uncertainty=False)
    assert fine[name].attrs["ancillary_variables"] == "no2_precision no2_count"
    assert np.array_equal(fine["no2_count"].values, spread(count.values, 2))
    assert float(fine["conservation_error"]) <= 1e-6
    assert np.array_equal(fine[name].values, coarse.geosr.downscale(2).values, equal_nan=True)


@pytest.mark.parametrize("method", METHODS)
def test_without_conservation_gaps_are_kept_all_the_same(coarse, method):
    fine = numbers(coarse.geosr.downscale(4, method=method, conserve=False))
    assert np.array_equal(np.isnan(fine), spread(np.isnan(numbers(coarse)), 4))
    assert not np.array_equal(fine, numbers(coarse.geosr.downscale(4, method=method)), equal_nan=True)


def test_a_rotated_geographic_grid_conserves_by_its_own_areas():
    affine = Affine.translation(10, 75) * Affine.rotation(30) * Affine.scale(0.5, -0.5)
    box = GeoBox((9, 11), affine, "EPSG:4326")
    data = np.random.default_rng(0).normal(size=box.shape)
    fine = numbers(geosr.downscale(field(box, data), 3, method="bicubic"))
    areas = cell_areas(refine(box, 3))
    assert areas.shape == fine.shape
    for i, j in ((0, 0), (4, 7), (8, 10)):
        cell = slice(3 * i, 3 * i + 3), slice(3 * j, 3 * j + 3)
        assert np.average(fine[cell], weights=areas[cell]) == pytest.approx(data[i, j], abs=1e-12)


def test_attributes_that_still_hold_are_kept_and_stale_ones_go(coarse):
    stale = {"actual_range": [0, 1], "valid_min": 0.0, "valid_range": [0, 1], "missing_value": np.float32(-9)}
    fine = coarse.assign_attrs(stale, comment="mine", cell_methods="time: mean").geosr.downscale(2, method="bicubic")
    assert not set(stale) & set(fine.attrs)
    kept = {k: fine.attrs[k] for k in ("units", "long_name", "comment", "cell_methods")}
    assert kept == {**coarse.attrs, "comment": "mine", "cell_methods": "time: mean"}


@pytest.mark.parametrize("kind", ["DataArray", "Dataset"])
def test_the_accessor_hands_on_every_option(coarse, monkeypatch, kind):
    import inspect

    seen = {}
    module = sys.modules["geosr.downscale"]  # the name geosr.downscale is the function
    monkeypatch.setattr(module, "downscale", lambda source, scale, **options: seen.update(options, scale=scale))
    doorway = (coarse if kind == "DataArray" else xr.Dataset({"no2": coarse})).geosr.downscale
    wanted = {name: object() for name in inspect.signature(doorway).parameters}
    doorway(**wanted)
    assert seen == wanted


def test_a_crs_can_be_declared_through_the_accessor(coarse):
    bare = xr.DataArray(numbers(coarse), dims=("y", "x"), coords={"y": -1e4 * np.arange(45), "x": 1e4 * np.arange(61)})
    assert geobox_of(bare.geosr.downscale(2, method="bicubic", crs="EPSG:3035")).crs == "EPSG:3035"


def test_without_conservation_the_error_is_shown(coarse):
    ds = xr.Dataset({"no2": coarse})
    assert float(geosr.downscale(ds, 4, method="bicubic", conserve=False)["conservation_error"]) > 1e-3


def test_errors_name_the_way_out(coarse):
    with pytest.raises(ModelError, match="--method bicubic"):
        coarse.geosr.downscale(7)
    with pytest.raises(UsageError, match="--tile"):
        coarse.geosr.downscale(4, tile=8)
    with pytest.raises(ModelError, match="no edsr model for scale 16.*--method bicubic"):
        coarse.geosr.downscale(16, method="edsr")
    with pytest.raises(UsageError, match="is of the family srcnn, not edsr; use --method srcnn"):
        coarse.geosr.downscale(4, method="edsr", model="no2-srcnn-9-3-5-n64-x4")
    with pytest.raises(UsageError, match="takes no model"):
        coarse.geosr.downscale(4, method="bicubic", model="x")
    with pytest.raises(UsageError, match="not known"):
        coarse.geosr.downscale(4, method="magic")
    with pytest.raises(UsageError, match="time"):
        geosr.downscale(coarse, 4, time="2020-01-01")
    with pytest.raises(InputError, match="horizontal dimensions"):
        geosr.downscale(xr.DataArray(np.zeros(5), dims="station"), 2)


# --- methods -------------------------------------------------------------------------------------------------------


def test_auto_is_the_shipped_default_and_a_family_is_that_one(coarse):
    from geosr.models import default_model, load_model

    for method, family in (("auto", None), ("srcnn", "srcnn"), ("edsr", "edsr")):
        try:
            wanted = load_model(default_model(2, family))
        except ModelError:
            continue  # none of that family ships
        told = coarse.geosr.downscale(2, method=method).attrs["geosr"]
        assert told == f"x2 by geosr {geosr.__version__}, model {wanted.card.name} sha256 {wanted.sha256}, conserving"
    assert coarse.geosr.downscale(2).attrs["geosr"] == coarse.geosr.downscale(2, method="auto").attrs["geosr"]
    assert "bicubic, not conserving" in coarse.geosr.downscale(2, method="bicubic", conserve=False).attrs["geosr"]


def test_a_model_is_taken_with_auto_and_with_its_family(coarse):
    want = coarse.geosr.downscale(4, method="srcnn")
    for method in ("auto", "srcnn"):
        assert coarse.geosr.downscale(4, method=method, model="no2-srcnn-9-3-5-n64-x4").identical(want)


def test_a_tile_smaller_than_the_overlap_is_enlarged(coarse):
    want = numbers(coarse.geosr.downscale(4))
    got = numbers(coarse.geosr.downscale(4, tile=16))
    assert np.nanmax(np.abs(got - want)) <= 1e-6 * (np.nanmax(want) - np.nanmin(want))


# --- the envelope of training --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that knows what it was trained on."""
    return bundle_with(tmp_path_factory.mktemp("model"), envelope=NO2_ENVELOPE)


@pytest.fixture(scope="module")
def noise():
    return field(BOX, np.random.default_rng(0).normal(size=BOX.shape).astype(np.float32), units="mol m-2")


def test_inside_the_envelope_nothing_is_said(coarse, model):
    fine = coarse.geosr.downscale(4, model=model)  # a warning would be an error here
    assert fine.attrs["geosr"].endswith(", conserving")


def test_far_outside_it_is_refused_and_can_be_forced(noise, model):
    with pytest.raises(RefusedError, match="noise level.*correlation.*--method bicubic.*--force-model") as refusal:
        noise.geosr.downscale(4, model=model)
    assert refusal.value.exit_code == 4
    assert "envelope" not in noise.geosr.downscale(4, method="bicubic").attrs["geosr"]
    with pytest.warns(GeosrWarning, match="far outside"):
        fine = noise.geosr.downscale(4, model=model, force_model=True)
    assert "; training's envelope overridden: noise level" in fine.attrs["geosr"]


def test_outside_it_warns_and_says_so_in_the_output(coarse, model):
    wide = field(GeoBox(BOX.shape, Affine(3e5, 0, 0, 0, -3e5, 6e6), "EPSG:6933"), numbers(coarse), units="mol m-2")
    with pytest.warns(GeosrWarning, match="cells of 300 km, trained on"):
        fine = wide.to_dataset().geosr.downscale(4, model=model)
    assert "envelope outside: cells of 300 km" in fine.no2.attrs["geosr"]


def test_other_units_are_refused(coarse, model):
    with pytest.raises(RefusedError, match="'K' measure something else"):
        coarse.assign_attrs(units="K").geosr.downscale(4, model=model)


def test_the_check_computes_a_part_of_a_lazy_field_once(model, monkeypatch):
    import dask.array as da

    seen = []

    def look(block, block_info=None):
        seen.append(block.size)
        return block

    values = da.from_array(np.tile(smooth_field((50, 50), 3), (30, 30)), chunks=125)
    lazy = da.map_blocks(look, values, dtype=values.dtype, meta=np.empty((0, 0), np.float32))
    box = GeoBox(values.shape, Affine(1e4, 0, 0, 0, -1e4, 0), "EPSG:32632")
    checks = []
    check = Envelope.check
    monkeypatch.setattr(Envelope, "check", lambda *args: checks.append(args) or check(*args))
    field(box, lazy, units="mol m-2").geosr.downscale(4, model=model)
    assert len(checks) == 1
    assert 0 < sum(seen) < values.size / 2


def test_an_array_beyond_a_pole_is_refused():
    """Cells there have no area."""
    from geosr.errors import InputError
    from geosr.grid import with_geobox

    data = xr.DataArray(np.ones((8, 4), np.float32), dims=("y", "x"), name="no2", attrs={"units": "mol m-2"})
    with pytest.raises(InputError, match="pole"):
        geosr.downscale(with_geobox(data, GeoBox((8, 4), Affine(1.5, 0, 0, 0, -1.5, -82), "EPSG:4326")), 2)
