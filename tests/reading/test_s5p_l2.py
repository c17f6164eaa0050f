"""Reading swaths: S5P L2 as delivered, as subset tools leave it, other products, other sensors, broken files."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from geosr.errors import GeosrWarning, InputError, UsageError
from geosr.footprint import corners_from_centres
from geosr.reading.s5p_l2 import is_swath, read_swath
from geosr.swath import open_swaths
from referee.orbit import R, rings, sphere_points

NAME = "S5P_OFFL_L2__NO2____20200114T065453_20200114T083623_11675_01_010302_20200117T165022"
NO2 = "nitrogendioxide_tropospheric_column"
GEO = "PRODUCT/SUPPORT_DATA/GEOLOCATIONS"
FILL = np.float32(9.96921e36)


def scene(ny=12, nx=9, west=77.0, south=28.0):
    j, i = np.meshgrid(np.arange(nx + 1) * 0.06, np.arange(ny + 1) * 0.05)
    lon, lat = west + j - 0.2 * i, south + i + 0.1 * j
    middle = lambda v: (v[:-1, :-1] + v[1:, 1:]) / 2  # noqa: E731
    rng = np.random.default_rng(3)
    return {
        "longitude": middle(lon),
        "latitude": middle(lat),
        "longitude_bounds": rings(lon).reshape(ny, nx, 4),
        "latitude_bounds": rings(lat).reshape(ny, nx, 4),
        NO2: rng.normal(5e-5, 2e-5, (ny, nx)),
        f"{NO2}_precision": np.full((ny, nx), 1e-5),
        "qa_value": rng.choice([0, 0.5, 0.74, 0.75, 0.76, 1.0], (ny, nx)),
    }


def write(
    path: Path, data=None, *, where=None, qa="packed", drop=(), attrs=None, gas="NO2", field=NO2, bounds=GEO
) -> Path:
    """A file like S5P's. ``where``: path of a variable's group by name, "" for the root; names may be flattened."""
    import netCDF4

    data = scene() if data is None else data
    ny, nx = data["latitude"].shape
    where = {"longitude_bounds": bounds, "latitude_bounds": bounds} | (where or {})
    with netCDF4.Dataset(path, "w") as file:
        file.setncatts(
            {"id": NAME.replace("NO2", gas), "orbit": np.int32(11675), "processor_version": "1.3.2"} | (attrs or {})
        )
        for dim, n in (("time", 1), ("scanline", ny), ("ground_pixel", nx), ("corner", 4)):
            file.createDimension(dim, n)
        for name, values in data.items():
            if name in drop:
                continue
            group = where.get(name, "PRODUCT")
            holder = file.createGroup(group) if group and "__" not in group else file
            full = group + name if "__" in group else name
            full = full.replace(NO2, field)
            dims = ("time", "scanline", "ground_pixel") + (("corner",) if values.ndim == 3 else ())
            if name == "qa_value" and qa == "packed":
                v = holder.createVariable(full, "u1", dims, fill_value=255)
                v.scale_factor, v.add_offset = np.float32(0.01), np.float32(0)
                v.set_auto_scale(False)
                v[:] = np.round(values * 100)[None]
            elif name == "qa_value" and qa == "percent":
                v = holder.createVariable(full, "u1", dims, fill_value=255)
                v[:] = np.round(values * 100)[None]
            else:
                v = holder.createVariable(full, "f4", dims, fill_value=FILL)
                v[:] = values[None]
            if name.startswith(NO2):
                v.units, v.long_name = "mol m-2", "Tropospheric column"
                error = " standard_error" if "precision" in name else ""
                v.standard_name = "troposphere_mole_content_of_nitrogen_dioxide" + error
    return path


def same(a, b) -> None:
    for name in ("value", "precision", "lon_corners", "lat_corners"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_reads_what_the_file_holds(tmp_path):
    data = scene()
    one = read_swath(write(tmp_path / f"{NAME}.nc", data))
    good = data["qa_value"] >= 0.75
    np.testing.assert_array_equal(one.value, data[NO2][good].astype(np.float32))
    np.testing.assert_array_equal(one.lon_corners, data["longitude_bounds"][good].astype(np.float32))
    assert one.name == NO2
    assert one.precision is not None
    assert one.attrs["units"] == "mol m-2"
    assert one.attrs["product"] == "S5P L2 NO2 OFFL"
    assert one.attrs["orbit"] == "11675"
    assert one.attrs["source"] == f"{NAME}.nc"
    assert one.attrs["time_coverage_start"] == "2020-01-14T06:54:53Z"
    along, across = one.pixel_size_m
    assert 5000 < along < 6000
    assert 5500 < across < 6500


@pytest.mark.parametrize("qa", ["packed", "float", "percent"])
def test_quality_spellings_are_equal(tmp_path, qa):
    data = scene()
    a = read_swath(write(tmp_path / "a.nc", data))
    if qa == "float":
        b = read_swath(write(tmp_path / "b.nc", data, qa="float"))
    else:
        b = read_swath(write(tmp_path / "b.nc", data, qa=qa))
    same(a, b)
    assert len(a.value) == (data["qa_value"] >= 0.75).sum()


@pytest.mark.parametrize("qa", ["packed", "percent"])
def test_a_pixel_without_quality_is_not_a_good_one(tmp_path, qa):
    data = scene()
    data["qa_value"][:] = 1.0
    data["qa_value"][2, 3] = 2.55  # 255 as stored: the fill value
    path = write(tmp_path / "a.nc", data, qa=qa)
    for threshold in (0.75, 0.0):
        assert len(read_swath(path, qa=threshold).value) == data["qa_value"].size - 1


def test_quality_thresholds(tmp_path):
    data = scene()
    path = write(tmp_path / "a.nc", data)
    for qa in (0.0, 0.5, 0.76, 1.0):
        assert len(read_swath(path, qa=qa).value) == (data["qa_value"] >= qa - 1e-9).sum()
    assert len(read_swath(path, qa=None).value) == data["qa_value"].size
    with pytest.raises(UsageError, match="--qa 75"):
        read_swath(path, qa=75)


def test_without_quality_only_on_request(tmp_path):
    path = write(tmp_path / "a.nc", drop=("qa_value",))
    with pytest.raises(InputError, match=r"a.nc: no qa_value.*--qa none"):
        read_swath(path)
    assert len(read_swath(path, qa=None).value) == 108


@pytest.mark.parametrize(
    "where",
    [
        dict.fromkeys(("longitude_bounds", "latitude_bounds"), ""),
        dict.fromkeys(("longitude_bounds", "latitude_bounds"), "PRODUCT"),
        dict.fromkeys(scene(), ""),
        dict.fromkeys(scene(), "__PRODUCT__")
        | dict.fromkeys(("longitude_bounds", "latitude_bounds"), "__PRODUCT__SUPPORT_DATA__GEOLOCATIONS__"),
    ],
    ids=["bounds at the root", "bounds in PRODUCT", "all at the root", "flattened"],
)
def test_what_subset_tools_do(tmp_path, where):
    same(read_swath(write(tmp_path / "b.nc", where=where)), read_swath(write(tmp_path / "a.nc")))


def test_corners_are_derived_where_there_are_none(tmp_path):
    data = scene()
    own = read_swath(write(tmp_path / "a.nc", data), qa=None)
    derived = read_swath(write(tmp_path / "b.nc", data, drop=("latitude_bounds", "longitude_bounds")), qa=None)
    off = sphere_points(own.lon_corners, own.lat_corners) - sphere_points(derived.lon_corners, derived.lat_corners)
    assert np.linalg.norm(off, axis=-1).max() * R < 20  # metres; the pixels are 5 km
    assert "derived" in derived.attrs["geolocation"]


def test_missing_values_locations_and_corners_drop_the_pixel(tmp_path):
    data = scene()
    data[NO2][0, 0] = FILL
    data["latitude_bounds"][1, 1, 2] = FILL
    data["longitude"][2, 2] = FILL
    data[NO2][3, 3] = np.nan
    data[NO2][4, 4] = -1.2676506e30
    one = read_swath(write(tmp_path / "a.nc", data), qa=None)
    assert len(one.value) == 108 - 4  # a missing centre does no harm where the corners are there
    assert np.isfinite(one.value).all()
    assert np.abs(one.lat_corners).max() < 90
    centres_only = read_swath(write(tmp_path / "b.nc", data, drop=("latitude_bounds", "longitude_bounds")), qa=None)
    assert len(centres_only.value) == 108 - 4


def test_negative_columns_are_data_and_an_undeclared_fill_value_is_not(tmp_path):
    data = scene()
    data[NO2][0] = -3e-5
    assert (read_swath(write(tmp_path / "a.nc", data), qa=None).value < 0).sum() >= 9
    data[NO2][0] = -9999.0
    with pytest.warns(GeosrWarning, match="-9999"):
        one = read_swath(write(tmp_path / "b.nc", data), qa=None)
    assert len(one.value) == 99


def test_variables_by_path_and_by_name(tmp_path):
    import netCDF4

    path = write(tmp_path / "a.nc")
    with netCDF4.Dataset(path, "a") as file:
        group = file.createGroup("PRODUCT/SUPPORT_DATA/DETAILED_RESULTS")
        for name in ("nitrogendioxide_total_column", "qa_value"):
            group.createVariable(name, "f4", ("time", "scanline", "ground_pixel"))[:] = 7.0
        group.createVariable("averaging_kernel", "f4", ("time", "scanline", "ground_pixel", "corner"))[:] = 1.0
    for name in (
        "nitrogendioxide_total_column",
        "/PRODUCT/SUPPORT_DATA/DETAILED_RESULTS/nitrogendioxide_total_column",
    ):
        one = read_swath(path, variable=name, qa=None)
        assert np.unique(one.value) == 7
        assert one.name == "nitrogendioxide_total_column"
        assert one.precision is None
    with pytest.raises(
        InputError, match=r"no variable 'nope'.*--variable from PRODUCT/nitrogendioxide_tropospheric_column"
    ):
        read_swath(path, variable="nope")
    with pytest.raises(InputError, match="not one number a pixel"):
        read_swath(path, variable="averaging_kernel")
    with pytest.raises(InputError, match="is there 2 times"):
        read_swath(path, variable="qa_value")
    assert len(read_swath(path).value) < 108  # qa_value beside the variable, not the other one


def test_another_product_is_named(tmp_path):
    path = write(tmp_path / "a.nc", gas="SO2", field="sulfurdioxide_total_vertical_column")
    with pytest.raises(InputError, match=r"this is S5P L2 SO2 OFFL, not NO2; choose --variable from PRODUCT/sulfur"):
        read_swath(path)
    assert len(read_swath(path, variable="sulfurdioxide_total_vertical_column").value)


def test_empty_files(tmp_path):
    import netCDF4

    for name, fill in (("none", ()), ("dims", ("scanline", "ground_pixel"))):
        path = tmp_path / f"{NAME}.{name}.nc"
        with netCDF4.Dataset(path, "w") as file:
            group = file.createGroup("PRODUCT") if fill else file
            for dim in fill:
                group.createDimension(dim, 5)
        assert is_swath(path)
        with pytest.raises(InputError, match="is empty: no variables" + (".*scanline" if fill else "")):
            read_swath(path)
    with pytest.raises(InputError, match="no latitude and longitude"):
        read_swath(write(tmp_path / "c.nc", drop=("latitude",)))
    with pytest.raises(InputError, match="no pixel has a location"):
        read_swath(
            write(
                tmp_path / "d.nc",
                scene() | {k: np.full((12, 9, 4), FILL) for k in ("latitude_bounds", "longitude_bounds")},
            )
        )


def test_unreadable_files(tmp_path):
    path = write(tmp_path / "a.nc")
    cut = tmp_path / "cut.nc"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    text = tmp_path / "text.nc"
    text.write_text("hello")
    for bad in (cut, text, tmp_path / "absent.nc", tmp_path):
        assert not is_swath(bad)
        with pytest.raises(InputError):
            read_swath(bad)


@pytest.mark.parametrize("scale", [0.0, np.nan, "0.01 percent"])
def test_bad_packing_is_an_error(tmp_path, scale):
    import netCDF4

    path = write(tmp_path / "a.nc")
    with netCDF4.Dataset(path, "a") as file:
        file[f"PRODUCT/{NO2}"].setncattr("scale_factor", scale)
    with pytest.raises(InputError, match="scale_factor"):
        read_swath(path)


@pytest.mark.parametrize("shape", [(6, 1), (1, 6)])
def test_swaths_one_pixel_wide(tmp_path, shape):
    data = scene(*shape)
    own = read_swath(write(tmp_path / "a.nc", data), qa=None)
    attrs = {"spatial_resolution": "5.5x6km2"}
    bare = write(tmp_path / "b.nc", data, drop=("latitude_bounds", "longitude_bounds"), attrs=attrs)
    with pytest.warns(GeosrWarning, match="one pixel wide"):
        derived = read_swath(bare, qa=None)
    assert len(derived.value) == len(own.value) == 6
    np.testing.assert_allclose(derived.lat_corners.mean(1), own.lat_corners.mean(1), atol=1e-3)
    np.testing.assert_allclose(np.ptp(derived.lat_corners, axis=1), np.ptp(own.lat_corners, axis=1), rtol=0.3)


def test_other_sensors(tmp_path):
    """Two-dimensional coordinates at the root, other names, no S5P groups; and HARP's list of pixels with corners."""
    import netCDF4

    data = scene()
    path = tmp_path / "gems.nc"
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension("y", 12)
        file.createDimension("x", 9)
        for name, source in (("lat", "latitude"), ("lon", "longitude"), ("ColumnAmountNO2Trop", NO2)):
            file.createVariable(name, "f8", ("y", "x"))[:] = data[source]
    assert is_swath(path)
    with pytest.raises(InputError, match="--qa none"):
        read_swath(path)
    assert len(read_swath(path, qa=None).value) == 108
    harp = tmp_path / "harp.nc"
    with netCDF4.Dataset(harp, "w") as file:
        file.createDimension("time", 108)
        file.createDimension("independent_4", 4)
        for name in ("latitude", "longitude"):
            file.createVariable(name, "f8", ("time",))[:] = data[name].ravel()
            file.createVariable(f"{name}_bounds", "f8", ("time", "independent_4"))[:] = data[f"{name}_bounds"].reshape(
                108, 4
            )
        v = file.createVariable("tropospheric_NO2_column_number_density", "f4", ("time",))
        v[:] = data[NO2].ravel()
        file.createVariable("tropospheric_NO2_column_number_density_uncertainty", "f4", ("time",))[:] = 1e-5
    assert is_swath(harp)
    one = read_swath(harp, qa=None)
    np.testing.assert_allclose(one.value, data[NO2].ravel().astype(np.float32))
    assert one.precision is not None


def test_grids_and_tracks_are_no_swaths(tmp_path):
    import netCDF4

    for name, dims in (("grid", (("lat",), ("lon",))), ("track", (("time",), ("time",)))):
        path = tmp_path / f"{name}.nc"
        with netCDF4.Dataset(path, "w") as file:
            for dim in {*dims[0], *dims[1]}:
                file.createDimension(dim, 5)
            for v, d in zip(("lat", "lon"), dims, strict=True):
                file.createVariable(v, "f8", d)[:] = np.arange(5)
        assert not is_swath(path)


# --- reading and gridding together -----------------------------------------------------------------------------------


def test_open_swaths_reads_a_single_file_once_and_averages_several(tmp_path, monkeypatch):
    from geosr.reading import s5p_l2

    calls = []
    plain = s5p_l2.read_swath
    monkeypatch.setattr(s5p_l2, "read_swath", lambda *a, **k: calls.append(a) or plain(*a, **k))
    a, b = scene(), scene(west=77.3)
    first, second = write(tmp_path / "a.nc", a), write(tmp_path / "b.nc", b)
    one = open_swaths(first, qa=None)
    assert len(calls) == 1
    assert one[NO2].rio.resolution() == (0.1, -0.1)
    both = open_swaths([first, second], qa=None, resolution=0.05)
    assert both.attrs["source"] == "a.nc, b.nc"
    assert int(both[f"{NO2}_count"].max()) > int(one[f"{NO2}_count"].min())
    assert float(both.longitude.max()) > float(one.longitude.max())
    calls.clear()
    open_swaths([first, second], qa=None, resolution=0.05, bbox=(77, 28, 78, 29))
    assert len(calls) == 2  # nothing to find out first


def test_nothing_good_is_all_nan_and_says_so(tmp_path):
    data = scene()
    data["qa_value"][:] = 0.3
    path = write(tmp_path / "a.nc", data)
    with pytest.warns(GeosrWarning, match=r"a.nc: no pixel is valid with qa_value >= 0.75 \(--qa lowers"):
        out = open_swaths(path)
    assert np.isnan(out[NO2]).all()
    assert out[NO2].shape == open_swaths(path, qa=0.3)[NO2].shape  # the grid does not depend on the clouds
    inside = (77.0, 28.2, 77.2, 28.4)
    with pytest.warns(GeosrWarning, match="no pixel is valid with qa_value"):
        out = open_swaths(path, bbox=inside)
    assert np.isnan(out[NO2]).all()
    data[NO2][:, :5], data["qa_value"][:] = np.nan, 1
    path = write(tmp_path / "b.nc", data)
    with pytest.warns(GeosrWarning, match="none of the 48 good pixels lies in the grid"):
        out = open_swaths(path, bbox=(77.0, 28.2, 77.1, 28.25), resolution=0.05)
    assert np.isnan(out[NO2]).all()


@pytest.mark.parametrize("resolution", [None, 0.05])
@pytest.mark.parametrize(
    "bbox", [(0, 0, 1, 1), (77, 30, 78, 31), (78.2, 28, 79, 29), (170, 28, -170, 29), (77.45, 28.0, 77.53, 28.03)]
)
def test_a_box_that_no_pixel_touches_is_an_error(tmp_path, bbox, resolution):
    """Also one inside the range of the swath's longitudes and latitudes."""
    path = write(tmp_path / "a.nc")
    with pytest.raises(InputError, match=r"lies outside the swath \(W 76.88 S 28 E 77.54 N 28.654\)"):
        open_swaths(path, qa=None, bbox=bbox, resolution=resolution)
    with pytest.raises(InputError, match=r"lies outside the swaths \(W"):
        open_swaths([path, write(tmp_path / "b.nc")], qa=None, bbox=bbox, resolution=resolution)


def test_a_box_that_one_of_two_swaths_touches_is_none(tmp_path):
    a, b = write(tmp_path / "a.nc"), write(tmp_path / "b.nc", scene(west=177.5))
    for bbox in ((77, 28.2, 77.2, 28.4), (177.2, 28.4, 177.6, 28.6), (-182.8, 28.4, -182.4, 28.6)):
        assert np.isfinite(open_swaths([a, b], qa=None, bbox=bbox, resolution=0.05)[NO2]).any()


def test_units_are_converted_and_corrected(tmp_path):
    path = write(tmp_path / "a.nc")
    plain = open_swaths(path, qa=None)
    molec = open_swaths(path, qa=None, units="molec cm-2")
    for name in (NO2, f"{NO2}_precision"):
        np.testing.assert_allclose(molec[name], plain[name] * 6.02214076e19, rtol=1e-5)
        assert molec[name].attrs["units"] == "molec cm-2"
    with pytest.warns(GeosrWarning, match="contradict their units 'umol m-2'"):
        wrong = open_swaths(path, qa=None, input_units="umol m-2", units="mol m-2")
    np.testing.assert_allclose(wrong[NO2], plain[NO2] * 1e-6, rtol=1e-5)
    assert molec[f"{NO2}_count"].attrs["units"] == "1"


def test_units_named_for_a_file_without_are_told(tmp_path):
    import netCDF4

    path = write(tmp_path / "a.nc")
    with netCDF4.Dataset(path, "a") as file:
        for name in (NO2, f"{NO2}_precision"):
            del file["PRODUCT"][name].units
    with pytest.warns(GeosrWarning, match="the file gives no units: its numbers are taken as mol m-2") as told:
        out = open_swaths(path, qa=None, units="mol m-2")
    assert len(told) == 1
    assert out[NO2].attrs["units"] == out[f"{NO2}_precision"].attrs["units"] == "mol m-2"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_swaths(path, qa=None, input_units="mol m-2", units="molec cm-2")


# --- real files ------------------------------------------------------------------------------------------------------


def real(data_dir: Path, pattern: str) -> Path:
    return next(iter(data_dir.glob(pattern)))


@pytest.mark.parametrize("day", ["20190811", "20190814", "20200114", "20200203", "20200226"])
def test_delhi(data_dir, day):
    import netCDF4

    path = real(data_dir, f"no2_s5p_l2_delhi/*__{day}T*")
    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        raw = {n: file[f"PRODUCT/{n}"][0] for n in ("latitude", "longitude", "qa_value", NO2)}
    located = (raw["latitude"] < 91) & (raw["longitude"] < 361)
    good = located & (raw["qa_value"] >= 75) & (raw["qa_value"] <= 100) & (raw[NO2] < 1)
    assert is_swath(path)
    one = read_swath(path)
    np.testing.assert_array_equal(one.value, raw[NO2][good])
    everything = read_swath(path, qa=None)
    assert (everything.lat_corners > 28).all()
    assert (everything.lat_corners < 29.5).all()
    if good.any():
        out = open_swaths(path)
        assert float(out[NO2].mean()) == pytest.approx(float(one.value.mean()), rel=0.2)
        assert out.attrs["product"] == "S5P L2 NO2 OFFL"


def test_delhi_odd_ones(data_dir):
    with pytest.raises(InputError, match="is empty: no variables and no groups"):
        read_swath(real(data_dir, "no2_s5p_l2_delhi/*__20191130T*"))
    with pytest.warns(GeosrWarning, match=r"one pixel wide.*3.5 km"):
        one = read_swath(real(data_dir, "no2_s5p_l2_delhi/*__20200201T*"))
    assert len(one.value) == 3


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("S5P_CH4*", "this is S5P L2 CH4 OFFL, not NO2"),
        ("*L2__CO_*", "this is S5P L2 CO OFFL.*carbonmonoxide_total_column"),
        ("*L2__SO2*", "this is S5P L2 SO2 OFFL.*sulfurdioxide_total_vertical_column"),
        ("*L2__NO2*", "is empty: no variables, only dimensions"),
        ("var_subset*", "this is S5P L2 CH4 OFFL.*methane_mixing_ratio"),
    ],
)
def test_other_products(data_dir, pattern, message):
    path = real(data_dir, f"s5p_l2_other/{pattern}")
    assert is_swath(path)
    with pytest.raises(InputError, match=message):
        read_swath(path)


def test_l3_files_are_no_swaths(data_dir):
    assert not is_swath(real(data_dir, "no2_s5p_l3_harp/*"))
    assert not is_swath(real(data_dir, "no2_omi_romania/*.nc"))


def test_a_real_orbit_over_both_poles(data_dir):
    path = real(data_dir, "s5p_l2_other/var_subset*")
    with pytest.raises(InputError, match="no qa_value"):
        read_swath(path, variable="methane_mixing_ratio")
    out = open_swaths(path, variable="methane_mixing_ratio", qa=None, resolution=0.25)
    assert out.methane_mixing_ratio.shape == (720, 1440)
    one = read_swath(path, variable="methane_mixing_ratio", qa=None)
    assert float(out.methane_mixing_ratio.min()) >= one.value.min()
    assert float(out.methane_mixing_ratio.max()) <= one.value.max()
    assert one.located is not None
    assert one.located.bbox()[2] - one.located.bbox()[0] == 360


def test_derived_corners_are_near_the_products_own(data_dir):
    """Half of them within 3 % of a 7 km pixel; the swath's rim and the holes within a quarter of it."""
    import netCDF4

    with netCDF4.Dataset(real(data_dir, "s5p_l2_other/S5P_CH4*")) as file:
        lon, lat = (np.ma.filled(file[f"PRODUCT/{n}"][0], np.nan) for n in ("longitude", "latitude"))
        own = [np.ma.filled(file[f"{GEO}/{n}_bounds"][0], np.nan) for n in ("longitude", "latitude")]
    derived = corners_from_centres(lon, lat)
    off = R * np.linalg.norm(sphere_points(*derived) - sphere_points(*own), axis=-1)
    assert np.isfinite(off).all(axis=-1).sum() > 0.99 * np.isfinite(lat).sum()
    assert np.nanmedian(off) < 210
    assert np.nanmax(off) < 1750
