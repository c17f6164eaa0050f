"""Bad input, rows 87 to 97: dimensions, bands, layouts and names."""

from __future__ import annotations

import netCDF4
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import xarray as xr
from affine import Affine
from rasterio.enums import ColorInterp

from reading.make import LAT, LON, NAME, NORTH_UP, columns, geotiff, netcdf
from trust.command import Row, check, geosr, ids, read_map

GRID = ("latitude", "longitude")
DATA = columns()
MANY = np.stack([columns(seed=i) for i in range(3)])
MARCH = "days since 2019-03-01"


def nc(dims, data, axes=None, format="NETCDF4", more=None, **attrs):
    """A field along ``dims`` before latitude and longitude, with ``axes``: name -> (values, attributes)."""
    coordinates = {n: ((n,), np.asarray(v), a) for n, (v, a) in (axes or {}).items()}
    variables = {**coordinates, NAME: ((*dims, *GRID), data, {"units": "mol m-2", **attrs}), **(more or {})}
    return lambda folder: netcdf(folder / "no2.nc", variables, lat=LAT, lon=LON, format=format)


def times(n=3, units=MARCH, data=None, values=None, format="NETCDF4", **attrs):
    values = 31.0 * np.arange(n) if values is None else values
    data = (MANY[:n] if n <= 3 else np.repeat(MANY[:1], n, axis=0)) if data is None else data
    return nc(("time",), data, {"time": (values, {"units": units, **attrs})}, format=format)


def tif(data=DATA, **more):
    return lambda folder: geotiff(folder / "no2.tif", data, **more)


def palette(folder):
    path = geotiff(folder / "no2.tif", np.ones((6, 8), np.uint8), photometric="palette")
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {1: (255, 0, 0)})
    return path


MASK = np.full((6, 8), 255, np.uint8)
MASK[2, 3:5] = 0
MASKED = np.where(MASK == 0, np.nan, DATA)


def masked(folder):
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = geotiff(folder / "no2.tif", DATA)
        with rasterio.open(path, "r+") as file:
            file.write_mask(MASK)
    return path


def alpha(folder):
    path = geotiff(folder / "no2.tif", np.stack([DATA, MASK.astype("f4")]))
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
    return path


def cog(folder, n=600):
    data = columns((n, n))
    path = geotiff(folder / "plain.tif", data, Affine(0.05, 0, 5, 0, -0.05, 50))
    with rasterio.open(path) as source:
        rasterio.shutil.copy(source, folder / "no2.tif", driver="COG", COMPRESS="DEFLATE", BLOCKSIZE=128)
    path.unlink()
    return folder / "no2.tif"


LARGE = columns((40, 50))
LAYOUTS = {
    "bigtiff": {"BIGTIFF": "YES"},
    "tiled": {"tiled": True, "blockxsize": 16, "blockysize": 16},
    "one-strip": {"blockysize": 40},
    "one-row-strips": {"blockysize": 1},
    "big-endian": {"ENDIANNESS": "BIG"},
    "deflate-predictor": {"compress": "deflate", "predictor": 3},
    "lzw-tiled": {"compress": "lzw", "tiled": True, "blockxsize": 16, "blockysize": 32},
    "zstd": {"compress": "zstd"},
    "lzma": {"compress": "lzma"},
    "packbits": {"compress": "packbits"},
    "lerc": {"compress": "lerc"},
    "lerc-deflate": {"compress": "lerc_deflate"},
}

ROWS = [
    # --- 87: times
    Row("87-one-time", times(1), want=DATA),
    Row("87-three-times", times(), want=MANY),
    Row("87-three-times-netcdf3", times(format="NETCDF3_CLASSIC"), want=MANY),
    *(
        Row(f"87-chosen-by-{w}", times(), options=["--time", w], want=MANY[i])
        for w, i in [("0", 0), ("-1", 2), ("2019-04", 1), ("2019-04-01", 1), ("2019-05-02T00:00:00Z", 2)]
    ),
    Row("87-chosen-year", times(), options=["--time", "2019"], want=MANY),
    *(
        Row(
            f"87-no-time-{w or 'empty'}",
            times(),
            3,
            "no time .* among 3 from 2019-03-01 to 2019-05-02.*index from 0 to 2",
            ["--time", w],
        )
        for w in ("3", "-4", "2020", "yesterday", "2019-13", "")
    ),
    Row("87-no-times-at-all", nc((), DATA), 3, "no time dimension.*leave out --time", ["--time", "0"]),
    Row(
        "87-time-last",
        lambda f: netcdf(
            f / "no2.nc",
            {NAME: ((*GRID, "time"), np.moveaxis(MANY, 0, -1), {}), "time": (("time",), [0.0, 1, 2], {"units": MARCH})},
            lat=LAT,
            lon=LON,
        ),
        want=MANY,
    ),
    Row("87-time-without-coordinate", nc(("time",), MANY), want=MANY),
    Row("87-chosen-without-coordinate", nc(("time",), MANY), options=["--time", "1"], want=MANY[1]),
    # --- 88, 89: no times, odd times
    Row(
        "88-no-time-left",
        nc(("time",), MANY[:0], {"time": (np.empty(0), {"units": MARCH})}),
        3,
        f"'{NAME}' is empty: dimension 'time' has length 0",
    ),
    *(
        Row(f"89-{id}", times(units=u, **a), want=MANY)
        for id, u, a in [
            ("no-units", "", {}),
            ("odd-units", "fortnights since the flood", {}),
            ("units-without-since", "days", {}),
            ("overflow", "days since 99999-01-01", {}),
            ("year-0", "days since 0000-01-01", {}),
            ("months", "months since 2019-01-01", {}),
            ("calendar-360", MARCH, {"calendar": "360_day"}),
            ("calendar-noleap", MARCH, {"calendar": "noleap"}),
            ("calendar-of-words", MARCH, {"calendar": "of the Mayas"}),
            ("julian-day", "days since -4713-01-01 12:00:00", {}),
        ]
    ),
    *(
        Row(f"89-{id}", times(values=np.array(v)), want=MANY)
        for id, v in [
            ("nan", [0.0, np.nan, 2]),
            ("fill", [0.0, 9.96921e36, 2]),
            ("huge", [0.0, 1e18, 2]),
            ("descending", [60.0, 31, 0]),
            ("alike", [0.0, 0, 0]),
        ]
    ),
    Row(
        "89-text",
        nc(("time",), MANY, more={"time_text": (("time",), np.array([1, 2, 3], "i2"), {"units": "%Y-%m"})}),
        want=MANY,
    ),
    Row("89-calendar-360-by-index", times(calendar="360_day"), options=["--time", "2"], want=MANY[2]),
    Row("89-calendar-360-by-date", times(calendar="360_day"), 3, "no time '2019-04'", ["--time", "2019-04"]),
    # --- 90: levels
    Row(
        "90-levels",
        nc(("level",), MANY, {"level": ([1000.0, 500, 1], {"units": "hPa"})}),
        3,
        r"3 levels along 'level' \(1000 … 1\).*--level",
    ),
    Row("90-levels-without-coordinate", nc(("layer",), MANY), 3, "3 levels along 'layer'.*--level"),
    *(
        Row(
            f"90-chosen-{w}",
            nc(("level",), MANY, {"level": ([1000.0, 500, 1], {"units": "hPa"})}),
            options=["--level", w],
            want=MANY[i],
        )
        for w, i in [("500", 1), ("1000", 0), ("2", 2), ("-1", 2), ("1", 2)]
    ),
    *(
        Row(
            f"90-no-level-{w or 'empty'}",
            nc(("level",), MANY, {"level": ([1000.0, 500, 1], {"units": "hPa"})}),
            3,
            "no level .* along 'level'.*--level|no level .* along 'level'.*index from 0 to 2",
            ["--level", w],
        )
        for w in ("7", "nan", "inf", "x", "")
    ),
    Row("90-one-level", nc(("level",), MANY[:1], {"level": ([1000.0], {})}), want=DATA),
    Row("90-no-levels-at-all", nc((), DATA), 3, "no levels.*leave out --level", ["--level", "0"]),
    Row(
        "90-times-and-levels", nc(("time", "level"), np.stack([MANY, MANY[::-1]])), 3, "3 levels along 'level'.*--level"
    ),
    Row(
        "90-times-and-levels-chosen",
        nc(("time", "level"), np.stack([MANY, MANY[::-1]])),
        options=["--level", "0"],
        want=MANY[[0, 2]],
    ),
    Row("90-five-dimensions", nc(("time", "member", "level"), MANY[None, None]), 3, "3 levels along 'level'"),
    # --- 91 to 93: bands
    Row("91-bands-of-one-kind", tif(MANY, descriptions=["no2 2019-03", "no2 2019-04", "no2 2019-05"]), want=MANY),
    Row("91-bands-without-names", tif(MANY), want=MANY),
    Row(
        "91-band-by-date",
        tif(MANY, descriptions=["2019-03", "2019-04", "2019-05"]),
        options=["--time", "2019-04"],
        want=MANY[1],
    ),
    Row("91-band-by-number", tif(MANY), options=["--variable", "2"], want=MANY[1]),
    Row("91-no-such-band", tif(MANY), 3, "no variable '4'.*--variable", ["--variable", "4"]),
    Row("92-mask", masked, want=MASKED),
    Row("92-alpha", alpha, want=MASKED),
    Row("93-palette", palette, 3, "palette image: its numbers are colours"),
    # --- 94, 95: layouts
    Row("94-cog", cog, want=columns((600, 600)), bounds=(5, 20, 35, 50)),
    *(Row(f"95-{id}", tif(LARGE, **layout), want=LARGE, bounds=(5, 30, 30, 50)) for id, layout in LAYOUTS.items()),
    *(
        Row(
            f"95-{i}-{k}",
            tif(np.stack([LARGE, -LARGE]), interleave=i, **k_),
            want=np.stack([LARGE, -LARGE]),
            bounds=(5, 30, 30, 50),
        )
        for i in ("pixel", "band")
        for k, k_ in [
            ("strips", {}),
            ("tiles", {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate"}),
        ]
    ),
    *(
        Row(f"95-{f}", nc((), DATA, format=f), want=DATA)
        for f in ("NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA", "NETCDF4_CLASSIC")
    ),
    # --- 96: names
    Row(
        "96-same-name-in-two-groups",
        lambda f: netcdf(f / "no2.nc", {f"{g}/{NAME}": (GRID, DATA, {}) for g in "ab"}, lat=LAT, lon=LON),
        3,
        f"a/{NAME}.*b/{NAME}.*--variable a/{NAME}",
    ),
    Row(
        "96-same-name-chosen",
        lambda f: netcdf(
            f / "no2.nc", {f"{g}/{NAME}": (GRID, d, {}) for g, d in (("a", -DATA), ("b", DATA))}, lat=LAT, lon=LON
        ),
        options=["--variable", f"b/{NAME}"],
        want=DATA,
    ),
    Row(
        "96-unicode",
        lambda f: netcdf(f / "no2.nc", {"Übersäule-NO₂": (GRID, DATA, {"long_name": "NO₂"})}, lat=LAT, lon=LON),
        want=DATA,
    ),
    Row(
        "96-unicode-file",
        lambda f: netcdf(f / "säule 二酸化窒素 🛰.nc", {NAME: (GRID, DATA, {})}, lat=LAT, lon=LON),
        want=DATA,
    ),
    Row(
        "96-blank-in-a-name",
        lambda f: netcdf(f / "no2.nc", {"NO2 column": (GRID, DATA, {})}, lat=LAT, lon=LON),
        want=DATA,
    ),
    Row(
        "96-nested-groups",
        lambda f: netcdf(f / "no2.nc", {f"a/b/c/d/{NAME}": (GRID, DATA, {})}, lat=LAT, lon=LON),
        want=DATA,
    ),
    # --- attributes of odd kinds: none may matter
    *(
        Row(f"96-attribute-{k}-{i}", nc((), DATA, **{k: v}), want=DATA)
        for k in ("coordinates", "ancillary_variables", "cell_methods", "long_name", "standard_name", "grid_mapping")
        for i, v in enumerate(["", np.array([1.0, 2.0]), np.int8(3), "\x1b[31mred\x1b[0m <b>x</b>", "no such variable"])
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_row(row, tmp_path):
    check(row, tmp_path)


def test_91_descriptions_travel(tmp_path):
    names = ["no2 2019-03", "no2 2019-04", "no2 2019-05"]
    made = check(Row("91", tif(MANY, descriptions=names), want=MANY), tmp_path)
    assert [d.rsplit(" ", 1)[-1] for d in made.tags["descriptions"]] == ["2019-03", "2019-04", "2019-05"]


def test_87_times_travel(tmp_path):
    out = tmp_path / "out.nc"
    assert geosr("downscale", times()(tmp_path), "--scale", 2, "--method", "bicubic", "-o", out).code == 0
    with xr.open_dataset(out) as ds:
        assert [str(t)[:10] for t in ds.time.values] == ["2019-03-01", "2019-04-01", "2019-05-02"]
    np.testing.assert_allclose(read_map(out).coarse, MANY, atol=1e-9)


@pytest.mark.parametrize("calendar", ["360_day", "noleap", "proleptic_gregorian"])
def test_89_odd_calendars_travel(calendar, tmp_path):
    """Numbers that geosr cannot turn into dates are handed on with the units and the calendar that they had."""
    out = tmp_path / "out.nc"
    path = times(calendar=calendar)(tmp_path)
    assert geosr("downscale", path, "--scale", 2, "--method", "bicubic", "-o", out).code == 0
    with netCDF4.Dataset(path) as before, netCDF4.Dataset(out) as after:
        dates = [
            [str(d) for d in netCDF4.num2date(f["time"][:], f["time"].units, f["time"].calendar)]
            for f in (before, after)
        ]
    assert dates[0] == dates[1]


@pytest.mark.parametrize("rows", [1, 5, 6])
@pytest.mark.parametrize("columns", [1, 3, 8])
def test_97_dask_chunks_do_not_matter(rows, columns):
    import geosr as library

    data = xr.DataArray(
        DATA, dims=GRID, coords={"latitude": LAT, "longitude": LON}, name="no2", attrs={"units": "mol m-2"}
    )
    whole = library.downscale(data, 2, method="bicubic", crs="EPSG:4326")
    parts = library.downscale(
        data.chunk(dict(zip(GRID, (rows, columns), strict=True))), 2, method="bicubic", crs="EPSG:4326"
    )
    assert parts.chunks is not None
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-6 * float(np.abs(whole).max()))
    assert NORTH_UP.c == float(whole.longitude[0]) - 0.125
