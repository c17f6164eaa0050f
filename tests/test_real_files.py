"""Every real NO2 file opens right, or fails with the right line; the table says which, and why.

The oracles are rasterio and netCDF4 (scipy for the file whose attributes netCDF4 cannot decode), without geosr.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import rasterio
from scipy.io import netcdf_file

from geosr.errors import GeosrError, GeosrWarning, InputError
from geosr.grid import geobox_of
from geosr.reading import open_no2
from geosr.reading.info import describe
from geosr.variables import main_variable


@dataclass
class Expected:
    """What a file must give.

    Attributes
    ----------
    name : of the variable; in NetCDF also where the oracle finds it.
    warns : words of the warning that is due, "" for none.
    units : as the file spells them.
    error : words of the error that is due instead.
    options : of reading.
    """

    why: str
    name: str = ""
    units: str | None = None
    warns: str = ""
    error: str = ""
    options: dict = field(default_factory=dict)


GEMS = "1e15 molec cm-2"
TROP = "tropospheric_NO2_column_number_density"
TOTAL = "NO2_column_number_density"
S5P = "nitrogendioxide_tropospheric_column"
NOT_NO2 = "swath of another gas: it says which, and geosr does not guess the variable"

TABLE = {
    "no2_gems_china/daily/*.tif": Expected("NaN nodata, units in a tag", "no2", GEMS),
    "no2_gems_china/*_mean*.tif": Expected("NaN nodata, units in a tag", "no2", GEMS),
    "no2_gems_china/*_hourly.nc": Expected(
        "int16 packed, 93 times, one chosen", "no2_trop_vcd", GEMS, options={"time": "2023-10-01T02"}
    ),
    "no2_omi_world/*.tif": Expected(
        "nodata -1.27e30; 1/cm2 counts molecules", "OMNO2d_003_ColumnAmountNO2TropCloudScreened", "1/cm2"
    ),
    "no2_omi_countries/Turkey*.tif": Expected(
        "no nodata declared: zeros are kept and told of", "no2", warns="62% .* exactly 0"
    ),
    "no2_omi_countries/*.tif": Expected("nodata -10 is declared, so it is missing; national CRSs", "no2"),
    "no2_omi_romania/*_monthly.nc": Expected(
        "4e15 with 10^15molec/cm2: a wrong units attribute",
        "no2",
        "10^15molec/cm2",
        warns="contradict.*--input-units 'molec cm-2'",
    ),
    "no2_omi_romania/*_ymonmean*": Expected(
        "ascending latitude, CDO times", "ColumnAmountNO2CloudScreened", "molec/cm2"
    ),
    "no2_s5p_l3_harp/*.nc": Expected(
        "HARP: latitude ascends, time without values, total column beside the tropospheric one", TROP, "mol/m2"
    ),
    "no2_s5p_gee/NO2_Latest_India.tif": Expected("south-up, all NaN", TROP, warns="no valid value"),
    "no2_s5p_gee/*.tif": Expected("float64, nodata unset with NaN", TOTAL),
    "no2_s5p_l2_delhi/*20191130T*": Expected("a failed subset without any group", error="empty"),
    "no2_s5p_l2_delhi/*20190811T*": Expected("no pixel is good enough", S5P, "mol m-2", warns="no pixel is valid"),
    "no2_s5p_l2_delhi/*20190814T*": Expected("no pixel is good enough", S5P, "mol m-2", warns="no pixel is valid"),
    "no2_s5p_l2_delhi/*20200201T*": Expected(
        "one pixel wide: its width is assumed, and said", S5P, "mol m-2", warns="one pixel wide"
    ),
    "no2_s5p_l2_delhi/*": Expected("a few pixels of a swath", S5P, "mol m-2"),
    "s5p_l2_other/*NO2*": Expected("dimensions but no variables", error="no variables, only dimensions"),
    "s5p_l2_other/*CH4*": Expected(NOT_NO2, error=r"CH4.*--variable.*methane_mixing_ratio"),
    "s5p_l2_other/*_CO__*": Expected(NOT_NO2, error=r"CO .*--variable.*carbonmonoxide_total_column"),
    "s5p_l2_other/*SO2*": Expected(NOT_NO2, error=r"SO2.*--variable.*sulfurdioxide_total_vertical_column"),
    "images_satellite/dsen2_*.tif": Expected("no georeference", error="no geotransform"),
    "images_satellite/*_cog_gcps.tif": Expected("ground control points only", error="GCPs: warp"),
    "images_satellite/rasterio_rotated.tif": Expected("no CRS; with one, its rotation is kept", error="no CRS.*--crs"),
    "images_satellite/landsat8*.tif": Expected("three bands without names stay together", "field"),
    "images_satellite/rasterio_RGB*.tif": Expected("nodata 0, three bands", "field"),
    "images_satellite/*latin1*.nc": Expected(
        "attributes that are not UTF-8, CRS as xarray once wrote it", "__xarray_dataarray_variable__"
    ),
    "covariates_gems_china/*.tif": Expected("no NO2, but one band only", "field"),
}

FOLDERS = ("no2_*", "s5p_l2_other", "images_satellite", "covariates_*")


def expected_of(path: Path) -> Expected:
    """The first row that fits."""
    relative = path.relative_to(path.parents[2] if path.parent.name == "daily" else path.parents[1])
    return next(row for pattern, row in TABLE.items() if relative.match(pattern))


def files(data_dir: Path) -> list[Path]:
    found = [p for folder in FOLDERS for p in data_dir.glob(f"{folder}/**/*") if p.is_file() and p.suffix != ".md"]
    return sorted(found)


def test_the_table_has_a_row_for_every_file(data_dir):
    missing = []
    for path in files(data_dir):
        try:
            expected_of(path)
        except StopIteration:
            missing.append(str(path))
    assert not missing


def test_every_file(data_dir):
    """One test for all: the folder's content is not known when tests are collected."""
    paths = files(data_dir)
    assert len(paths) > 60
    wrong = {}
    for path in paths:
        try:
            check(path, expected_of(path))
        except Exception as error:  # every file has its say
            wrong[path.name] = f"{type(error).__name__}: {error}"
    assert not wrong, "\n".join(f"{k}: {v}" for k, v in wrong.items())


def check(path: Path, row: Expected) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if row.error:
            with pytest.raises(InputError, match=row.error) as error:
                open_no2(path, **row.options)
            check_one_line(error.value, path)
            return
        ds = open_no2(path, **row.options)
        main = main_variable(ds)
        values = main.values
    told = [str(w.message) for w in caught if issubclass(w.category, GeosrWarning)]
    if row.warns:
        if not any(re.search(row.warns, text) for text in told):
            raise AssertionError(f"no warning of {row.warns!r} among {told}")
    elif told:
        raise AssertionError(f"unexpected warnings {told}")
    same(main.name, row.name, "name")
    same(main.attrs.get("units"), row.units, "units")
    same(str(main.dtype), "float32", "dtype")
    box = geobox_of(main)
    if box.affine.e >= 0 or box.affine.a <= 0:
        raise AssertionError(f"not north-up: {box.affine}")
    if path.suffix == ".tif":
        check_against_rasterio(path, values, box)
    elif "_L2_" not in path.name:
        check_against_netcdf(path, values, box, row)
    else:
        check_swath(path, values, box)


def same(got, expected, what) -> None:
    if got != expected:
        raise AssertionError(f"{what} {got!r}, expected {expected!r}")


def check_one_line(error: GeosrError, path: Path) -> None:
    same(error.exit_code, 3, "exit code")
    same(str(error).count("\n"), 0, "line breaks")
    same(Path(error.path), path, "file named")


def check_against_rasterio(path: Path, values: np.ndarray, box) -> None:
    with rasterio.open(path) as file:
        truth = file.read().astype(np.float64)
        if file.nodata is not None:
            truth[(truth == file.nodata) | (truth == np.float64(np.float32(file.nodata)))] = np.nan
        bounds, crs, south_up = file.bounds, file.crs, file.transform.e > 0
    truth = truth[:, ::-1] if south_up else truth
    b = box.boundingbox
    left, bottom, right, top = bounds
    if south_up:
        bottom, top = top, bottom
    # To the last bit, except where a flip had to add up the rows once more.
    np.testing.assert_allclose(
        [b.left, b.bottom, b.right, b.top],
        [left, *sorted((bottom, top))[:1], right, max(bottom, top)],
        rtol=0 if not south_up else 1e-15,
    )
    same(rasterio.crs.CRS.from_wkt(box.crs.to_wkt()), crs, "CRS")
    compare(values, truth if values.ndim == 3 else truth[0])


def check_against_netcdf(path: Path, values: np.ndarray, box, row: Expected) -> None:
    if "latin1" in path.name:
        with netcdf_file(path, mmap=False) as file:
            truth = np.array(file.variables[row.name].data, np.float64)
            y, x = (np.array(file.variables[n].data, np.float64) for n in "yx")
    else:
        with netCDF4.Dataset(path) as file:
            lat, lon = (
                next(n for n in names if n in file.variables) for names in (("lat", "latitude"), ("lon", "longitude"))
            )
            y, x = np.asarray(file[lat][:], np.float64), np.asarray(file[lon][:], np.float64)
            v = file[row.name]
            if "hourly" in path.name:  # 2023-10-01T02, hours since 2023-01-01
                hour = int(np.flatnonzero(np.asarray(file["time"][:]) == 273 * 24 + 2)[0])
                truth = np.ma.filled(v[hour].astype(np.float64), np.nan)
            else:
                truth = np.ma.filled(v[:].astype(np.float64), np.nan).squeeze()
    if y[0] < y[-1]:
        y, truth = y[::-1], truth[..., ::-1, :]
    dy, dx = (y[-1] - y[0]) / (y.size - 1), (x[-1] - x[0]) / (x.size - 1)
    b = box.boundingbox
    np.testing.assert_allclose(
        [b.left, b.top, b.right, b.bottom],
        [x[0] - dx / 2, y[0] - dy / 2, x[-1] + dx / 2, y[-1] + dy / 2],
        atol=2e-5 * abs(dx),
    )
    compare(values, truth)


def compare(values: np.ndarray, truth: np.ndarray) -> None:
    same(values.shape, truth.shape, "shape")
    same(float(np.isfinite(values).mean()), float(np.isfinite(truth).mean()), "valid share")
    np.testing.assert_allclose(values, truth.astype(np.float32), rtol=1e-6)


def check_swath(path: Path, values: np.ndarray, box) -> None:
    """Cells hold averages of the good pixels, and cover where these lie."""
    with netCDF4.Dataset(path) as file:
        product = file["PRODUCT"]
        qa = np.ma.filled(product["qa_value"][0].astype(float), 0)
        v = np.ma.filled(product[S5P][0].astype(np.float64), np.nan)
        lat, lon = (np.ma.filled(product[n][0].astype(np.float64), np.nan) for n in ("latitude", "longitude"))
    good = (qa >= 0.75 - 1e-6) & np.isfinite(v) & np.isfinite(lat)
    same(bool(np.isfinite(values).any()), bool(good.any()), "anything valid")
    if good.any():
        slack = 1e-6 * np.abs(v[good]).max()
        if np.nanmin(values) < v[good].min() - slack or np.nanmax(values) > v[good].max() + slack:
            raise AssertionError("cell means beyond the pixels' range")
        b = box.boundingbox
        if not (
            b.left <= lon[good].min()
            and lon[good].max() <= b.right
            and b.bottom <= lat[good].min()
            and lat[good].max() <= b.top
        ):
            raise AssertionError("the grid does not cover the pixels")


def test_info_of_every_file(data_dir):
    """``geosr info`` fails only where the file itself is unusable."""
    unusable = ("empty", "no variables", "no geotransform", "GCPs")
    daily = 0
    for path in files(data_dir):
        if path.parent.name == "daily" or "hourly" in path.name or path.name.startswith("var_subset"):
            daily += 1
            continue
        row = expected_of(path)
        if any(words in row.error for words in unusable):
            with pytest.raises(InputError, match=row.error):
                describe(path)
            continue
        info = describe(path)
        assert info.to_text()
        assert bool(info.needs) == bool(row.error), path.name
        if row.warns:
            assert info.warnings, path.name
    assert daily > 30


def test_rotated_with_a_declared_crs(data_dir):
    path = data_dir / "images_satellite" / "rasterio_rotated.tif"
    box = geobox_of(main_variable(open_no2(path, crs="EPSG:32618")))
    with rasterio.open(path) as file:
        assert box.affine == file.transform


def test_another_gas_by_name(data_dir):
    path = next((data_dir / "s5p_l2_other").glob("S5P_OFFL_L2__CH4*"))
    main = main_variable(open_no2(path, variable="methane_mixing_ratio", qa=0.3))
    assert main.attrs["units"] == "1e-9"
    assert 1700 < float(np.nanmedian(main)) < 2000


def test_gems_month_is_lazy(data_dir):
    path = data_dir / "no2_gems_china" / "gems_no2_trop_202310_hourly.nc"
    main = main_variable(open_no2(path))
    assert main.shape == (93, 733, 1233)
    assert main.data.chunksize[0] == 1
    assert np.prod(main.data.chunksize) <= 2**20
    assert str(main["time"].values[0])[:7] == "2023-10"
    part = main_variable(open_no2(path, time="2023-10-07", bbox=(110, 30, 112, 32)))
    assert part.shape == (3, 41, 41)  # 110 and 112 cut cells in two
    assert part.latitude.values.max() == pytest.approx(32)
    assert int(np.isfinite(part).sum()) >= 869
