"""Bad input, rows 67 to 86: what the numbers mean, and which of them are meant. In GeoTIFF and NetCDF alike."""

from __future__ import annotations

import re
import struct

import netCDF4
import numpy as np
import pytest
import rasterio

from reading.make import LAT, LON, NAME, columns, geotiff, netcdf
from reading.test_s5p_l2 import scene, write
from trust.command import Row, check, geosr, ids, read_map, refused

GRID = ("latitude", "longitude")
DATA = columns()
MOLEC = (DATA / np.float32(5e-5) * np.float32(3e15)).astype(np.float32)
NAN = np.float32(np.nan)


def tif(data, scale=None, offset=None, band_units="mol m-2", **more):
    def make(folder):
        path = geotiff(folder / "no2.tif", data, units=band_units, **more)
        if scale is not None or offset is not None:
            with rasterio.open(path, "r+") as file:
                file.scales, file.offsets = ((scale or 1.0,), (offset or 0.0,))
        return path

    return make


def nc(data, units="mol m-2", format="NETCDF4", name=NAME, **attrs):
    attrs = attrs if units is None else {"units": units, **attrs}
    return lambda folder: netcdf(folder / "no2.nc", {name: (GRID, data, attrs)}, lat=LAT, lon=LON, format=format)


def both(id, data, want=None, words=(), attrs=None, options=(), code=0, decided="", classic=True):
    """The row in GeoTIFF, NetCDF-4 and NetCDF-3."""
    data = np.asarray(data)
    want = data if want is None and not code else want
    forms = {"tif": tif(data), "nc": nc(data, **(attrs or {}))}
    if classic and data.dtype in (np.float32, np.float64, np.int16, np.int32):
        forms["nc3"] = nc(data, format="NETCDF3_CLASSIC", **(attrs or {}))
    return [Row(f"{id}-{k}", make, code, words, options, want, decided=decided) for k, make in forms.items()]


def at(cells, value, data=DATA, dtype=None):
    """``data`` with ``value`` in ``cells``: "one", "third" or "all"."""
    out = np.array(data, dtype or data.dtype)
    out[{"one": np.s_[2, 3], "third": np.s_[:2], "all": np.s_[:]}[cells]] = value
    return out


def without(cells, data=DATA):
    return at(cells, np.nan, data, np.float64)


COUNTS = (np.arange(48).reshape(6, 8) + 3).astype(np.float64)
UNDECLARED = [
    (f"71-{value:g}-{cells}-{np.dtype(dtype).name}", value, cells, dtype)
    for value in (-9999.0, 1e20, 1e36, 9.969209968386869e36, -999.0, 65535.0, -32768.0, -8888.0, -1e34)
    for cells in ("one", "third")
    for dtype in (
        (np.float32, np.float64, np.int16, np.uint16, np.int32) if cells == "third" else (np.float32, np.int16)
    )
    if np.dtype(dtype).kind == "f" or np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
]

ROWS = [
    # --- 67 to 70: missing, infinite, constant
    *both("67-all-nan", np.full((6, 8), NAN), words="no valid value"),
    *both(
        "67-all-inf",
        np.full((6, 8), np.inf, np.float32),
        want=np.full((6, 8), NAN),
        words=["infinite", "no valid value"],
    ),
    *both("67-all-fill", at("all", -9999), want=without("all"), words="holds -9999 in 100.0% .*undeclared"),
    *both("68-one-nan", at("one", np.nan)),
    *both("69-one-inf", at("one", np.inf), want=without("one"), words="infinite values: treated as missing"),
    *both("69-one-minus-inf", at("one", -np.inf), want=without("one"), words="infinite"),
    *both("70-constant", np.full((6, 8), 3e-5, np.float32)),
    *both("70-constant-of-zeros", np.zeros((6, 8), np.float32)),
    *both("70-constant-large", np.full((6, 8), 3e-1, np.float32), words="contradict their units"),
    # --- 71: undeclared fill values
    *(
        row
        for id, value, cells, dtype in UNDECLARED
        for row in both(
            id,
            at(cells, value, (COUNTS if np.dtype(dtype).kind in "iu" else DATA).astype(dtype)),
            want=without(cells, COUNTS if np.dtype(dtype).kind in "iu" else DATA),
            words=rf"holds {value:.6g}.*undeclared: treated as missing".replace("+", r"\+"),
            options=["--input-units", "umol m-2"] if np.dtype(dtype).kind in "iu" else (),
            classic=False,
        )
    ),
    *both(
        "71-among-noise-of-its-size",
        at("third", -999, (MOLEC / 1e13).astype("f4")),
        want=without("third", (MOLEC / 1e13).astype("f4")),
        words="holds -999",
        options=["--input-units", "1e13 molec cm-2"],
    ),
    *both("71-no-known-fill", at("one", -777777, DATA), want=without("one"), words="holds -777777"),
    *both(
        "71-two-fills",
        np.where(
            np.arange(48).reshape(6, 8) % 7 == 0, -9999, np.where(np.arange(48).reshape(6, 8) % 11 == 0, 1e30, DATA)
        ).astype("f4"),
        want=np.where((np.arange(48).reshape(6, 8) % 7 == 0) | (np.arange(48).reshape(6, 8) % 11 == 0), np.nan, DATA),
        words=["-9999", r"1e\+30"],
    ),
    *both("71-a-plume-is-no-fill", at("one", 1.1e-2, DATA)),
    *both("71-a-deep-negative-is-no-fill", at("one", -1e-3, DATA)),
    # --- 72: nodata
    Row("72-nodata-nan", tif(at("one", np.nan), nodata=np.nan), want=without("one")),
    Row("72-nodata-0", tif(at("one", 0), nodata=0), want=without("one")),
    Row(
        "72-nodata-0-integers",
        tif(at("one", 0, COUNTS, "i2"), nodata=0),
        want=without("one", COUNTS),
        options=["--input-units", "umol m-2"],
    ),
    Row(
        "72-nodata-beyond-the-dtype",
        lambda f: _nodata_text(f, "1e+20"),
        want=COUNTS,
        options=["--input-units", "umol m-2"],
    ),
    Row(
        "72-nodata-negative-of-unsigned",
        lambda f: _nodata_text(f, "-9999", "u2"),
        want=COUNTS,
        options=["--input-units", "umol m-2"],
    ),
    Row(
        "72-nodata-nan-of-integers",
        lambda f: _nodata_text(f, "nan"),
        want=COUNTS,
        options=["--input-units", "umol m-2"],
    ),
    Row(
        "72-nodata-of-few-digits",
        lambda f: _nodata_text(f, "-3.40282e+38", data=at("one", np.finfo("f4").min)),
        want=without("one"),
    ),
    Row("72-nodata-text", lambda f: _nodata_text(f, "none"), want=COUNTS, options=["--input-units", "umol m-2"]),
    Row("72-zeros-that-may-be-nodata", tif(at("third", 0)), words="exactly 0.*-a_nodata 0", want=at("third", 0)),
    # --- 73, 74: declared in NetCDF
    Row(
        "73-both-fill-values",
        nc(at("one", -5, at("third", -6)), _FillValue=np.float32(-5), missing_value=np.float32(-6)),
        want=without("one", without("third")),
    ),
    Row(
        "73-missing-value-of-another-type",
        nc(at("one", -7, COUNTS, "i2"), missing_value=-7.0, scale_factor=1e-6),
        want=without("one", COUNTS * 1e-6),
    ),
    Row("73-missing-value-as-text", nc(at("one", -7e4), missing_value="-70000"), want=without("one")),
    Row("73-missing-value-of-several", nc(at("one", -7e4), missing_value=np.array([-8e4, -7e4])), want=without("one")),
    Row("73-missing-value-of-words", nc(DATA, missing_value="none"), want=DATA),
    Row("73-missing-value-empty", nc(DATA, missing_value=""), want=DATA),
    Row("73-missing-value-nan", nc(at("one", np.nan), missing_value=np.float32(np.nan)), want=without("one")),
    Row("73-fill-value-in-float64", nc(at("one", 9.96921e36), missing_value=9.96921e36), want=without("one")),
    Row("74-valid-min", nc(DATA, valid_min=np.float32(0)), want=np.where(DATA < 0, np.nan, DATA)),
    Row("74-valid-max", nc(DATA, valid_max=9e-5), want=np.where(np.float32(9e-5) < DATA, np.nan, DATA)),
    Row(
        "74-valid-range",
        nc(DATA, valid_range=np.array([-2e-5, 9e-5], "f4")),
        want=np.where((np.float32(-2e-5) > DATA) | (np.float32(9e-5) < DATA), np.nan, DATA),
    ),
    Row(
        "74-valid-range-upside-down",
        nc(DATA, valid_range=np.array([9e-5, -2e-5], "f4")),
        want=np.where((np.float32(-2e-5) > DATA) | (np.float32(9e-5) < DATA), np.nan, DATA),
        words="upside down",
    ),
    Row(
        "74-valid-range-as-text",
        nc(DATA, valid_range="-2e-5, 9e-5"),
        want=np.where((np.float32(-2e-5) > DATA) | (np.float32(9e-5) < DATA), np.nan, DATA),
    ),
    Row("74-valid-range-of-one", nc(DATA, valid_range=np.array([0.0])), want=DATA),
    Row("74-valid-range-of-words", nc(DATA, valid_range="low to high"), want=DATA),
    Row("74-valid-range-of-nan", nc(DATA, valid_range=np.array([np.nan, np.nan])), want=DATA),
    Row(
        "74-valid-range-of-something-else",
        nc(DATA, valid_range=np.array([1.0, 100.0])),
        want=without("all"),
        words=["100% of the values .* outside the valid range in the file, 1 to 100", "no valid value"],
    ),
    Row(
        "74-valid-range-packed",
        nc(COUNTS.astype("i2"), valid_range=np.array([10, 45], "i2"), scale_factor=1e-6),
        want=np.where((COUNTS < 10) | (COUNTS > 45), np.nan, COUNTS * 1e-6),
    ),
    Row(
        "74-valid-range-unpacked",
        nc(COUNTS.astype("i2"), valid_range=np.array([0.95e-5, 4.55e-5]), scale_factor=1e-6),
        want=np.where((COUNTS < 10) | (COUNTS > 45), np.nan, COUNTS * 1e-6),
    ),
    # --- 75, 76: packing
    Row("75-packed-nc", nc(COUNTS.astype("i2"), scale_factor=1e-6, add_offset=-1e-5), want=COUNTS * 1e-6 - 1e-5),
    Row(
        "75-packed-nc3",
        nc(COUNTS.astype("i2"), format="NETCDF3_CLASSIC", scale_factor=1e-6, add_offset=-1e-5),
        want=COUNTS * 1e-6 - 1e-5,
    ),
    Row("75-packed-tif", tif(COUNTS.astype("i2"), 1e-6, -1e-5), want=COUNTS * 1e-6 - 1e-5),
    Row("75-packed-negative", nc(COUNTS.astype("i2"), scale_factor=-1e-6), want=-COUNTS * 1e-6),
    Row("75-packing-as-text", nc(COUNTS.astype("i2"), scale_factor="1e-6"), want=COUNTS * 1e-6),
    Row("75-packing-twice-the-same", nc(COUNTS.astype("i2"), scale_factor=np.array([1e-6, 1e-6])), want=COUNTS * 1e-6),
    *(
        Row(f"76-{id}", nc(COUNTS.astype("i2"), **{key: value}), 3, f"{key}")
        for id, key, value in [
            ("scale-0", "scale_factor", 0.0),
            ("scale-nan", "scale_factor", np.nan),
            ("scale-text", "scale_factor", "two"),
            ("scale-empty", "scale_factor", ""),
            ("scale-of-two", "scale_factor", np.array([1.0, 2.0])),
            ("offset-inf", "add_offset", np.inf),
            ("offset-text", "add_offset", "x"),
        ]
    ),
    Row("76-scale-0-tif", lambda f: _gdal_scale(f, "0"), 3, "scale_factor 0 .*gdal_edit"),
    Row("76-scale-nan-tif", lambda f: _gdal_scale(f, "nan"), 3, "scale_factor nan"),
    Row(
        "76-scale-beyond-all", nc(COUNTS.astype("i2"), scale_factor=1e300), want=without("all"), words=r"beyond 1e\+25"
    ),
    # --- 77 to 80: types
    *(
        row
        for d in ("u1", "i1", "i2", "u2", "i4", "u4")
        for row in both(f"77-{d}", COUNTS.astype(d), options=["--input-units", "umol m-2"])
    ),
    *(
        Row(f"77-{d}-nc", nc(COUNTS.astype(d)), want=COUNTS, options=["--input-units", "umol m-2"])
        for d in ("i8", "u8")
    ),
    Row(
        "77-unsigned-convention",
        nc(np.array(COUNTS * 5 - 128).astype("i1"), format="NETCDF3_CLASSIC", _Unsigned="true", scale_factor=1e-6),
        want=(np.array(COUNTS * 5 - 128).astype("i1").view("u1")) * 1e-6,
    ),
    *both("78-float64", DATA.astype("f8")),
    Row("78-float16-hdf5", lambda f: _float16(f), 3, ""),
    Row("79-complex-tif", tif(DATA.astype(np.complex64)), 3, "complex"),
    Row("79-text-nc", lambda f: _odd_types(f), 3, "'label' holds text.*--variable", ["--variable", "label"]),
    Row("79-compound-nc", lambda f: _odd_types(f), 3, "'pairs' holds compound.*--variable", ["--variable", "pairs"]),
    Row("79-odd-types-beside-nc", lambda f: _odd_types(f), want=DATA),
    Row("80-big-endian-nc", nc(DATA.astype(">f4")), want=DATA),
    Row("80-big-endian-integers-nc", nc(COUNTS.astype(">i2"), scale_factor=1e-6), want=COUNTS * 1e-6),
    Row("80-big-endian-tif", tif(DATA, ENDIANNESS="BIG"), want=DATA),
    *both("81-negative", -np.abs(DATA)),
    # --- 82: units
    *(
        Row(f"82-{u}", nc(f, units=u), want=f)
        for u, f in [
            ("mol m^-2", DATA),
            ("mol/m2", DATA),
            ("mol m⁻²", DATA),
            ("mol·m⁻²", DATA),
            ("µmol m⁻²", DATA * 1e6),
            ("molec cm-2", MOLEC),
            ("molecules/cm^2", MOLEC),
            ("10^15 molec/cm2", MOLEC / 1e15),
            ("1e15 molec cm-2", MOLEC / 1e15),
            ("#/cm2", MOLEC),
            ("DU", DATA * 2241),
        ]
    ),
    Row("82-converted", nc(DATA), options=["--units", "molec cm-2"], want=DATA.astype("f8") * 6.02214076e19),
    Row("82-none", nc(DATA, units=None), want=DATA, decided="the map needs no units; they stay unsaid in the output"),
    Row(
        "82-none-declared",
        nc(DATA, units=None),
        options=["--units", "mol m-2"],
        words="the file gives no units: its numbers are taken as mol m-2",
        want=DATA,
    ),
    Row("82-empty", nc(DATA, units=""), want=DATA),
    Row("82-blank", nc(DATA, units="  "), want=DATA),
    Row("82-several", nc(DATA, units=np.array([1.0, 2.0])), want=DATA),
    Row("82-unknown", nc(DATA, units="furlongs"), 3, "units 'furlongs' are not known.*--input-units"),
    Row("82-unknown-declared", nc(DATA, units="furlongs"), options=["--input-units", "mol m-2"], want=DATA),
    Row("82-unknown-wanted", nc(DATA), 3, "'furlongs' are not known", ["--units", "furlongs"]),
    Row("82-empty-wanted", nc(DATA), 3, "units '' are not known", ["--units", ""]),
    Row("82-hostile", nc(DATA, units="9**9**9**9"), 3, "are not known"),
    Row(
        "82-of-something-else", nc(DATA, units="K"), words="'K' are none of an amount of NO2.*--input-units", want=DATA
    ),
    Row("82-percent", nc(DATA, units="%"), words="'%' are none of an amount", want=DATA),
    Row(
        "82-of-something-else-converted",
        nc(DATA, units="K"),
        3,
        "'K' cannot be converted to 'mol m-2'.*--input-units",
        ["--units", "mol m-2"],
    ),
    Row(
        "82-molecules-called-moles",
        nc(MOLEC, units="mol m^-2"),
        words="contradict their units.*--input-units 'molec cm-2'",
        want=MOLEC,
    ),
    Row("82-micromoles-called-moles", nc(DATA * 1e6), words="look like umol m-2", want=DATA * 1e6),
    Row("82-moles-called-molecules", nc(DATA, units="molec cm-2"), words="look like mol m-2", want=DATA),
    Row("82-molecules-called-moles-tif", tif(MOLEC), words="--input-units 'molec cm-2'", want=MOLEC),
    Row(
        "82-molecules-called-moles-declared",
        nc(MOLEC),
        options=["--input-units", "molec cm-2", "--units", "mol m-2"],
        want=MOLEC.astype("f8") / 6.02214076e19,
    ),
    # --- 85, 86: which variable
    Row(
        "85-no-such-variable", nc(DATA), 3, f"no variable 'ozone'; it holds {NAME}.*--variable", ["--variable", "ozone"]
    ),
    Row("85-empty-name", nc(DATA), 3, "no variable ''", ["--variable", ""]),
    Row(
        "85-no-such-band",
        tif(np.stack([DATA, DATA]), descriptions=["no2", "cloud"]),
        3,
        "1: no2.*2: cloud.*--variable",
        ["--variable", "3"],
    ),
    Row("85-case-does-not-matter", nc(DATA), options=["--variable", NAME.upper()], want=DATA),
    Row(
        "86-two-variables",
        lambda f: _two(f),
        3,
        "tropospheric_no2_a .*tropospheric_no2_b .*--variable tropospheric_no2_a",
    ),
    Row("86-two-variables-chosen", lambda f: _two(f), options=["--variable", "tropospheric_no2_b"], want=DATA),
    Row(
        "86-two-bands",
        tif(np.stack([DATA, DATA]), descriptions=["no2_morning", "no2_evening"]),
        3,
        "1: no2_morning.*--variable 1",
    ),
    Row(
        "86-same-name-in-another-case",
        lambda f: netcdf(f / "no2.nc", {"NO2": (GRID, DATA, {}), "no2": (GRID, DATA, {})}, lat=LAT, lon=LON),
        3,
        "NO2, no2.*--variable",
    ),
]


def _nodata_text(folder, text, dtype="i2", data=COUNTS):
    """A GeoTIFF whose nodata tag holds ``text``, which rasterio would not write."""
    path = geotiff(
        folder / "no2.tif",
        np.asarray(data).astype(dtype if data is COUNTS else data.dtype),
        nodata=101,
        units="mol m-2",
    )
    raw = bytearray(path.read_bytes())
    order = "<" if raw[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", raw, 4)
    (n,) = struct.unpack_from(order + "H", raw, at)
    for i in range(n):
        entry = at + 2 + 12 * i
        if struct.unpack_from(order + "H", raw, entry)[0] == 42113:  # GDAL_NODATA
            value = text.encode() + b"\0"
            struct.pack_into(order + "I", raw, entry + 4, len(value))
            if len(value) <= 4:
                raw[entry + 8 : entry + 12] = value.ljust(4, b"\0")
            else:
                struct.pack_into(order + "I", raw, entry + 8, len(raw))
                raw += value
            path.write_bytes(raw)
            return path
    raise AssertionError("no nodata tag")


def _gdal_scale(folder, text):
    """A GeoTIFF whose metadata give the scale ``text``."""
    path = tif(COUNTS.astype("i2"), 7.5)(folder)
    raw = path.read_bytes()
    assert b">7.5</Item>" in raw
    path.write_bytes(raw.replace(b">7.5</Item>", f">{text:3}</Item>".encode()))
    return path


def _float16(folder):
    h5py = pytest.importorskip("h5py")
    path = nc(DATA)(folder)
    with h5py.File(path, "a") as file:
        file.create_dataset("half", data=DATA.astype("f2"))
        del file[NAME]
        file["half"].dims[0].attach_scale(file["latitude"])
        file["half"].dims[1].attach_scale(file["longitude"])
    return path


def _odd_types(folder):
    path = nc(DATA)(folder)
    with netCDF4.Dataset(path, "a") as file:
        file.createVariable("label", str, GRID)
        kind = file.createCompoundType(np.dtype([("re", "f4"), ("im", "f4")]), "pair")
        file.createVariable("pairs", kind, GRID)
        file.createVariable("few", file.createVLType(np.float32, "few_t"), GRID)
        file.createVariable("flag", file.createEnumType(np.uint8, "yes_no", {"no": 0, "yes": 1}), GRID, fill_value=0)
    return path


def _two(folder):
    two = {f"tropospheric_no2_{k}": (GRID, DATA, {"units": "mol m-2"}) for k in "ab"}
    return netcdf(folder / "no2.nc", two, lat=LAT, lon=LON)


# Of the many undeclared fill values a few stand for all in a quick run; and of formats, two.
_USUAL = ("71--9999-", "71-9.96921e+36-", "71-65535-", "71-among", "71-no", "71-two", "71-a-")


def _is_slow(row):
    return (row.id.startswith("71-") and not row.id.startswith(_USUAL)) or row.id.endswith("-nc3")


@pytest.mark.parametrize("row", [pytest.param(r, marks=pytest.mark.slow if _is_slow(r) else (), id=r.id) for r in ROWS])
def test_row(row, tmp_path):
    check(row, tmp_path)


# --- swaths: 83, 84 -----------------------------------------------------------------------------------------------


def grid_of(folder, name, *options, **layout):
    """The map of a swath that is written as ``layout`` says."""
    path = write(folder / f"{name}.nc", scene(), **layout)
    out = folder / f"{name}.tif"
    got = geosr("downscale", path, "--scale", 2, "--method", "bicubic", "--resolution", 0.1, "-o", out, *options)
    return got, read_map(out).coarse[0] if got.code == 0 else None


def test_83_quality_packed_percent_and_float_are_alike(tmp_path):
    maps = [grid_of(tmp_path, qa, qa=qa)[1] for qa in ("packed", "float", "percent")]
    assert np.isnan(maps[0]).any()
    assert np.isfinite(maps[0]).any()
    np.testing.assert_array_equal(maps[0], maps[1])
    np.testing.assert_array_equal(maps[0], maps[2])


def test_83_no_quality(tmp_path):
    got, _ = grid_of(tmp_path, "bare", drop=("qa_value",))
    refused(got, 3, "bare.nc: no qa_value.*--qa none")
    assert not (tmp_path / "bare.tif").exists()
    got, made = grid_of(tmp_path, "all", "--qa", "none", drop=("qa_value",))
    assert got.code == 0
    assert np.isfinite(made).sum() > np.isfinite(grid_of(tmp_path, "good")[1]).sum()


@pytest.mark.parametrize("value", ["-1", "1.5", "nan", "good", "75"])
def test_83_quality_that_is_none(tmp_path, value):
    refused(grid_of(tmp_path, "a", "--qa", value)[0], 2, "neither a number from 0 to 1 nor 'none'")


def test_84_nothing_is_good_enough(tmp_path):
    data = scene()
    data["qa_value"][:] = 0.3
    path = write(tmp_path / "a.nc", data)
    got = geosr("downscale", path, "--scale", 2, "--method", "bicubic", "--resolution", 0.1, "-o", tmp_path / "a.tif")
    assert got.code == 0
    assert "no pixel is valid with qa_value >= 0.75 (--qa lowers" in got.err
    assert np.isnan(read_map(tmp_path / "a.tif").coarse[0]).all()


def test_82_a_swath_whose_units_are_wrong(tmp_path):
    data = scene()
    data[NAME] = data[NAME] * 6e19
    path = write(tmp_path / "a.nc", data)
    args = ("downscale", path, "--scale", 2, "--method", "bicubic", "--resolution", 0.1, "-o", tmp_path / "a.tif")
    assert "contradict their units" in " ".join(geosr(*args).warnings)
    assert not geosr(*args, "--overwrite", "--input-units", "molec cm-2").warnings


# --- info: 67 to 86 as a question ------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [r for r in ROWS if r.code], ids=ids)
def test_info_says_the_same(row, tmp_path):
    """What ``downscale`` refuses, ``info`` refuses with the same words, or shows as what is needed."""
    path = row.make(tmp_path)
    got = geosr("info", path, *row.options)
    assert "Traceback" not in got.err
    words = (row.words,) if isinstance(row.words, str) else row.words
    if got.code:
        refused(got, row.code, *words)
    else:
        assert "needs:" in got.out
        for word in words:
            assert re.search(word, got.out)
