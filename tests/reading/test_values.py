"""Values: trust matrix, rows 67-84, by the kernel and through files."""

from __future__ import annotations

import warnings

import netCDF4
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geosr.errors import GeosrWarning, InputError
from geosr.reading import open_no2
from geosr.reading.values import Decoding, decode, inspect
from geosr.variables import main_variable
from reading.make import LAT, LON, NAME, column_file, columns, geotiff, netcdf


def read(path, **options):
    return main_variable(open_no2(path, **options))


# --- the kernel ------------------------------------------------------------------------------------------------


@given(
    hnp.arrays(
        st.sampled_from([np.int16, np.uint8, np.float32, np.float64, np.dtype(">f4"), np.dtype(">i2")]),
        (5, 4),
        elements=st.integers(0, 100),
    ),
    st.integers(0, 100),
    st.integers(-3, 3),
)
def test_missing_is_the_fill_value_and_nothing_else(raw, fill, offset):
    how = Decoding(fills=(float(fill),), scale=0.25, offset=float(offset))
    field = decode(raw, how)
    assert field.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(field), raw == fill)
    expected = (raw.astype(np.float64) * 0.25 + offset).astype(np.float32)
    np.testing.assert_array_equal(field[raw != fill], expected[raw != fill])


@given(hnp.arrays(np.float32, 12, elements=st.floats(width=32)), st.integers(1, 11))
def test_a_block_is_decoded_as_the_whole(raw, cut):
    how = Decoding(fills=(-1.0, 0.5), found=(-9999.0,), upper=1e20, announced=frozenset({"inf", "huge"}))
    parts = np.concatenate([decode(raw[:cut], how), decode(raw[cut:], how)])
    np.testing.assert_array_equal(parts, decode(raw, how))


@pytest.mark.parametrize("fill", [-1e30, 9.96921e36, -1.2676506002282294e30, -3.4e38, 1e20, 0.1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fill_values_meet_their_float32_rounding(fill, dtype):
    raw = np.array([1e-5, np.float32(fill)], dtype)
    np.testing.assert_array_equal(np.isnan(decode(raw, Decoding(fills=(fill,), announced=frozenset({"huge"})))), [0, 1])


def test_negative_columns_are_data():
    raw = np.array([-5e-5, 0.0, 5e-5], np.float32)
    np.testing.assert_array_equal(decode(raw, Decoding()), raw)


def test_float16():
    raw = np.array([1.5, -9999, 2.0], np.float16)
    np.testing.assert_array_equal(decode(raw, Decoding(fills=(-9999.0,))), np.array([1.5, np.nan, 2.0], np.float32))


def test_a_bad_value_that_the_sample_missed_still_warns():
    with pytest.warns(GeosrWarning, match="infinite"):
        decode(np.array([1.0, np.inf]), Decoding())
    with pytest.warns(GeosrWarning, match="beyond"):
        decode(np.array([1.0, -2e30]), Decoding())


@pytest.mark.parametrize("scale", [5e-5, 1.0, 30.0, 3e15])
@pytest.mark.parametrize("fill", [-9999.0, -999.0, 1e20, 9999.0, -32768.0])
def test_undeclared_fill_values_stand_alone(scale, fill):
    values = (np.abs(columns((40, 50))) / 5e-5 * scale).astype(np.float32)
    if np.any((values / fill > 0.1) & (values / fill < 10)):
        pytest.skip("the field itself has such values")
    values[3:5, 7] = fill
    with pytest.warns(GeosrWarning, match="undeclared"):
        how = inspect(values, Decoding(), "x")
    assert how.found == (fill,)
    assert int(np.isnan(decode(values, how)).sum()) == 2


def test_a_value_with_neighbours_is_no_fill_value():
    heights = np.linspace(-12000, 9000, 2000, dtype=np.float32)
    heights[7] = -9999
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert inspect(heights, Decoding(), "x").found == ()


# --- through files, both formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [9.96921e36, -1.2676506e30, 1e36, -9999.0, 1e20])
@pytest.mark.parametrize("form", ["tif", "nc"])
def test_undeclared_fill_value_in_a_file(tmp_path, value, form):
    data = columns()
    data[1, 2] = value
    path = geotiff(tmp_path / "a.tif", data) if form == "tif" else column_file(tmp_path / "a.nc", data)
    with pytest.warns(GeosrWarning, match=f"holds {value:.6g}".replace("+", r"\+")):
        field = read(path)
    assert np.flatnonzero(np.isnan(field.values)).tolist() == [10]


def test_infinities(tmp_path):
    data = columns()
    data[0, 0], data[1, 1] = np.inf, -np.inf
    with pytest.warns(GeosrWarning, match="infinite"):
        field = read(column_file(tmp_path / "a.nc", data))
    assert np.flatnonzero(np.isnan(field.values)).tolist() == [0, 9]


def test_all_missing_warns(tmp_path):
    with pytest.warns(GeosrWarning, match="no valid value"):
        assert np.isnan(read(column_file(tmp_path / "a.nc", np.full((6, 8), np.nan, np.float32)))).all()


def test_mostly_zero_warns(tmp_path):
    data = columns()
    data[:3] = 0
    with pytest.warns(GeosrWarning, match="exactly 0"):
        assert not np.isnan(read(column_file(tmp_path / "a.nc", data))).any()


def test_both_fill_attributes(tmp_path):
    data = columns()
    data[0, 0], data[0, 1] = -5, -6
    field = read(column_file(tmp_path / "a.nc", data, _FillValue=np.float32(-5), missing_value=np.float32(-6)))
    assert np.flatnonzero(np.isnan(field.values)).tolist() == [0, 1]


@pytest.mark.parametrize(
    "attrs",
    [
        {"valid_min": np.float32(0), "valid_max": np.float32(9e-5)},
        {"valid_range": np.array([0, 9e-5], np.float32)},
        {"valid_range": np.array([0, 9e-5])},
    ],
)
def test_valid_range(tmp_path, attrs):
    data = columns()
    data[2, 2] = np.float32(9e-5)  # the limit itself is valid
    field = read(column_file(tmp_path / "a.nc", data, **attrs))
    np.testing.assert_array_equal(np.isnan(field), (data < 0) | (data > np.float32(9e-5)))


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "u1", "u2", ">i2"])
def test_packed_integers_equal_the_independent_reader(tmp_path, dtype):
    raw = np.arange(48).reshape(6, 8).astype(dtype)
    attrs = {"_FillValue": np.array(7, raw.dtype)[()], "scale_factor": 2e-6, "add_offset": -1e-5}
    path = column_file(tmp_path / "a.nc", raw, **attrs)
    with netCDF4.Dataset(path) as file:
        expected = file[NAME][:].filled(np.nan).astype(np.float32)
    np.testing.assert_array_equal(read(path), expected)


def test_unsigned_convention(tmp_path):
    raw = np.array([[1, 2], [-1, -56]], np.int8)
    path = netcdf(
        tmp_path / "a.nc",
        {
            "no2": (
                ("latitude", "longitude"),
                raw,
                {"_Unsigned": "true", "_FillValue": np.int8(-1), "scale_factor": 1e-6},
            )
        },
        lat=[2.0, 1.0],
        lon=[5.0, 6.0],
        format="NETCDF3_CLASSIC",
    )
    np.testing.assert_allclose(read(path), np.array([[1e-6, 2e-6], [np.nan, 2e-4]], np.float32))


@pytest.mark.parametrize(
    "attrs",
    [
        {"scale_factor": 0.0},
        {"scale_factor": np.nan},
        {"scale_factor": "two"},
        {"add_offset": np.inf},
        {"add_offset": "x"},
    ],
)
def test_bad_packing(tmp_path, attrs):
    with pytest.raises(InputError, match="scale_factor|add_offset"):
        open_no2(column_file(tmp_path / "a.nc", **attrs))


def test_packing_as_text_that_is_a_number(tmp_path):
    field = read(column_file(tmp_path / "a.nc", np.arange(48, dtype="i2").reshape(6, 8), scale_factor="1e-6"))
    np.testing.assert_allclose(field.values.ravel(), np.arange(48) * 1e-6, rtol=1e-6)


def test_big_endian(tmp_path):
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w") as file:
        for name, values, units in (("lat", LAT, "degrees_north"), ("lon", LON, "degrees_east")):
            file.createDimension(name, len(values))
            v = file.createVariable(name, ">f8", (name,), endian="big")
            v[:], v.units = values, units
        file.createVariable("no2", ">f4", ("lat", "lon"), endian="big")[:] = columns()
    np.testing.assert_array_equal(read(path), columns())


def test_text_and_compound_variables(tmp_path):
    path = tmp_path / "a.nc"
    column_file(path)
    with netCDF4.Dataset(path, "a") as file:
        file.createVariable("label", str, ("latitude", "longitude"))
        kind = file.createCompoundType(np.dtype([("re", "f4"), ("im", "f4")]), "pair")
        file.createVariable("pairs", kind, ("latitude", "longitude"))
    np.testing.assert_array_equal(read(path), columns())
    for name in ("label", "pairs"):
        with pytest.raises(InputError, match="not numbers"):
            open_no2(path, variable=name)


def test_counts_may_be_mostly_zero(tmp_path):
    """Beside the column, or as the variable asked for."""
    grid = ("latitude", "longitude")
    count = np.zeros((6, 8), np.int32)
    count[2:4] = 7
    path = netcdf(
        tmp_path / "a.nc",
        {
            NAME: (grid, columns(), {"ancillary_variables": f"{NAME}_count"}),
            f"{NAME}_count": (grid, count, {}),
        },
        lat=LAT,
        lon=LON,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds = open_no2(path, input_units="mol m-2")
        open_no2(path, variable=f"{NAME}_count")
    np.testing.assert_array_equal(ds[f"{NAME}_count"], count)
    assert "units" not in ds[f"{NAME}_count"].attrs  # a count is no column, though neither has units in the file


# --- units -------------------------------------------------------------------------------------------------------


def test_units_of_input_and_output(tmp_path):
    data = columns()
    path = column_file(tmp_path / "a.nc", data)
    assert read(path).attrs["units"] == "mol m-2"
    molec = read(path, units="molec cm-2")
    assert molec.attrs["units"] == "molec cm-2"
    assert molec.chunks is not None
    np.testing.assert_allclose(molec, data.astype(np.float64) * 6.02214076e19, rtol=1e-6)
    wrong = column_file(tmp_path / "b.nc", data * np.float32(1e6))  # says mol m-2, is umol m-2
    np.testing.assert_allclose(read(wrong, input_units="umol m-2", units="mol m-2"), data, rtol=1e-6)
    assert read(wrong, input_units="umol m-2").attrs["units"] == "umol m-2"


def test_missing_and_unknown_units(tmp_path):
    bare = netcdf(tmp_path / "bare.nc", {NAME: (("latitude", "longitude"), columns(), {})}, lat=LAT, lon=LON)
    assert "units" not in read(bare).attrs
    with pytest.warns(GeosrWarning, match="the file gives no units: its numbers are taken as mol m-2") as told:
        declared = read(bare, units="mol m-2")
    assert len(told) == 1
    assert read(bare, input_units="mol m-2").attrs["units"] == "mol m-2"  # without a word
    with pytest.raises(InputError, match="furlongs"):
        read(bare, units="furlongs")
    assert declared.attrs["units"] == "mol m-2"
    np.testing.assert_array_equal(declared, columns())
    odd = column_file(tmp_path / "odd.nc", units="furlongs")
    with pytest.raises(InputError, match=r"furlongs.*--input-units"):
        open_no2(odd)
    assert read(odd, input_units="mol m-2").attrs["units"] == "mol m-2"
    with pytest.warns(GeosrWarning, match="none of an amount"), pytest.raises(InputError, match="cannot be converted"):
        open_no2(column_file(tmp_path / "k.nc", units="K"), units="mol m-2")


def test_values_against_their_units(tmp_path):
    path = column_file(tmp_path / "a.nc", columns() / np.float32(5e-5) * np.float32(3e15), units="10^15molec/cm2")
    with pytest.warns(GeosrWarning, match=r"contradict.*--input-units 'molec cm-2'"):
        open_no2(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_no2(path, input_units="molec cm-2")


def test_another_gas_is_not_judged(tmp_path):
    data = np.full((6, 8), 1850, np.float32) + columns()
    path = netcdf(
        tmp_path / "a.nc", {"methane": (("latitude", "longitude"), data, {"units": "1e-9"})}, lat=LAT, lon=LON
    )
    assert read(path).attrs["units"] == "1e-9"


def test_nothing_is_inherited(tmp_path):
    ds = xr.Dataset(
        {NAME: (("lat", "lon"), columns(), {"units": "mol m-2", "actual_range": [0, 1]})}, {"lat": LAT, "lon": LON}
    )
    ds.to_netcdf(tmp_path / "a.nc", encoding={NAME: {"dtype": "i2", "scale_factor": 1e-7, "_FillValue": -1}})
    field = read(tmp_path / "a.nc")
    assert field.encoding == {}
    assert set(field.attrs) <= {"units", "grid_mapping", "long_name", "standard_name"}


# ---- what a reviewer found to pass without a word


@pytest.mark.parametrize(
    ("dtype", "low", "high", "fill"),
    [("i1", 46, 92, -128), ("u1", 46, 92, 255), ("f4", 4e-5, 6e-5, 99.0), ("f4", 4e-5, 6e-5, 1.0)],
)
def test_undeclared_extremes_are_missing(tmp_path, dtype, low, high, fill):
    rng = np.random.default_rng(0)
    values = rng.uniform(low, high, (60, 80)).astype(dtype)
    values[:30, :40] = fill
    with pytest.warns(GeosrWarning, match=rf"holds {fill:g} in 25\.0%"):
        found = read(geotiff(tmp_path / "a.tif", values))
    assert np.array_equal(np.isnan(found.values), values == fill)


@pytest.mark.parametrize(("dtype", "fill"), [("u1", 255), ("i1", -128)])
def test_saturated_values_are_data(tmp_path, dtype, fill):
    """An extreme with values right beside it is where a sensor saturates."""
    rng = np.random.default_rng(0)
    values = np.clip(np.abs(fill) - rng.exponential(20, (60, 80)) + 10, 0, abs(fill)) * np.sign(fill)
    found = read(geotiff(tmp_path / "a.tif", values.astype(dtype)))
    assert not np.isnan(found.values).any()


def test_a_plume_is_data(tmp_path):
    values = columns((60, 80))
    values[30:32, 40:42] = 500 * np.abs(values).max()
    assert not np.isnan(read(geotiff(tmp_path / "a.tif", values)).values).any()


def test_packing_beyond_all_numbers_says_that_nothing_is_valid(tmp_path):
    values = np.full((len(LAT), len(LON)), 7, np.int16)
    path = column_file(tmp_path / "a.nc", values, scale_factor=1e300, units="mol m-2")
    with pytest.warns(GeosrWarning) as caught:
        read(path)
    assert [w for w in caught if "no valid value" in str(w.message)]


def test_categories_are_no_columns(tmp_path):
    path = tmp_path / "a.nc"
    column_file(path)
    with netCDF4.Dataset(path, "a") as file:
        kind = file.createEnumType(np.uint8, "kind", {"land": 0, "sea": 1})
        file.createVariable("no2", kind, ("latitude", "longitude"))
    with pytest.raises(InputError, match="categories"):
        open_no2(path, variable="no2")


def test_the_unit_of_a_vertical_crs_is_not_the_fields(tmp_path):
    path = geotiff(tmp_path / "a.tif", columns(), crs="EPSG:4326+5773")
    assert "units" not in read(path).attrs


def test_degrees_of_another_kind_are_refused(tmp_path):
    with pytest.raises(InputError, match="in grad, not in degrees; warp it"):
        read(geotiff(tmp_path / "a.tif", columns(), crs="EPSG:4807"))


def test_the_declared_unit_is_not_suggested(tmp_path):
    values = columns().astype(np.float64) * 1e-6
    with pytest.warns(GeosrWarning) as caught:
        read(column_file(tmp_path / "a.nc", values, units="mol m-2"))
    assert not [w for w in caught if "--input-units 'mol m-2'" in str(w.message)]
