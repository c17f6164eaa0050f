"""Bad input, rows 43 to 66: where the field lies. What each row asks is in the table; so is why some are otherwise."""

from __future__ import annotations

import netCDF4
import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import CRS
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

from reading.make import LAT, LON, NAME, NORTH_UP, columns, geotiff, netcdf
from trust.command import BOUNDS, Row, check, geosr, ids, read_map, refused

GRID = ("latitude", "longitude")
DATA = columns()
DEGREES = ({"units": "degrees_north"}, {"units": "degrees_east"})
METRES = tuple({"standard_name": f"projection_{a}_coordinate", "units": "m"} for a in "yx")


def tif(data=DATA, transform=NORTH_UP, crs="EPSG:4326", **more):
    """A maker of a GeoTIFF."""
    return lambda folder: geotiff(folder / "in.tif", data, transform, crs, **more)


def nc(lat=LAT, lon=LON, data=DATA, names=GRID, attrs=DEGREES, dims=None, format="NETCDF4", extra=None, **field):
    """A maker of a NetCDF with 1-D coordinates."""
    variables = {
        names[0]: ((names[0],), np.asarray(lat), attrs[0]),
        names[1]: ((names[1],), np.asarray(lon), attrs[1]),
        NAME: (dims or names, data, {"units": "mol m-2", **field}),
        **(extra or {}),
    }
    return lambda folder: netcdf(folder / "in.nc", variables, format=format)


def bare(dims, data=DATA, **attrs):
    """A maker of a NetCDF without coordinates."""
    return lambda folder: netcdf(folder / "in.nc", {NAME: (dims, data, {"units": "mol m-2", **attrs})})


def with_gcps(folder):
    points = [GroundControlPoint(0, 0, 5, 50), GroundControlPoint(0, 8, 9, 50), GroundControlPoint(6, 0, 5, 47)]
    return _plain(folder, gcps=points, crs="EPSG:4326")


def with_rpcs(folder):
    half = {f"{k}_{w}": 4.0 for k in ("height", "lat", "long", "line", "samp") for w in ("off", "scale")}
    both = {f"{k}_{w}_coeff": [1.0] + [0.0] * 19 for k in ("line", "samp") for w in ("num", "den")}
    return _plain(folder, rpcs=RPC(**half, **both))


def _plain(folder, **more):
    path = folder / "in.tif"
    with rasterio.open(path, "w", driver="GTiff", height=6, width=8, count=1, dtype="float32", **more) as file:
        file.write(DATA, 1)
    return path


def as_point(folder):
    """Raster type "point": the tie point is the centre of the first cell."""
    path = tif()(folder)
    with rasterio.open(path, "r+") as file:
        file.update_tags(AREA_OR_POINT="Point")
    return path


def wkt(text):
    """A grid in metres whose grid mapping says ``text``."""
    y, x = 3.2e6 - 5000 * np.arange(6), 4.1e6 + 5000 * np.arange(8)
    mapping = {"crs": ((), np.int32(0), text if isinstance(text, dict) else {"crs_wkt": text})}
    return nc(y, x, names=("y", "x"), attrs=METRES, extra=mapping, grid_mapping="crs")


LAEA = (4097500.0, 3172500.0, 4137500.0, 3202500.0)
CF_LAEA = {k: v for k, v in CRS("EPSG:3035").to_cf().items() if k != "crs_wkt"}


def projected(factor=1.0, unit="m", **attrs):
    y, x = (3.2e6 - 5000 * np.arange(6)) / factor, (4.1e6 + 5000 * np.arange(8)) / factor
    both = tuple({**a, "units": unit} for a in METRES)
    mapping = {"crs": ((), np.int32(0), {"spatial_ref": CRS("EPSG:3035").to_wkt()})}
    return nc(y, x, names=("y", "x"), attrs=both, extra=mapping, grid_mapping="crs", **attrs)


def curvilinear(lat2d, lon2d, names=("lat", "lon"), format="NETCDF4", more=None, **attrs):
    """Latitudes and longitudes of two dimensions, as models and oversampled products have them."""
    variables = {
        names[0]: (("j", "i"), lat2d, {"units": "degrees_north"}),
        names[1]: (("j", "i"), lon2d, {"units": "degrees_east"}),
        NAME: (("j", "i"), DATA, {"units": "mol m-2", "coordinates": " ".join(names), **attrs}),
        **(more or {}),
    }
    return lambda folder: netcdf(folder / "in.nc", variables, format=format)


MESH_LON, MESH_LAT = np.meshgrid(LON, LAT)


def indexed(dtype, mesh=False):
    """Rows and columns with numbers of their own, as xarray gives them, and latitudes and longitudes beside."""
    lat, lon = ((("y", "x"), MESH_LAT), (("y", "x"), MESH_LON)) if mesh else ((("y",), LAT), (("x",), LON))
    variables = {
        "y": (("y",), np.arange(6, dtype=dtype), {}),
        "x": (("x",), np.arange(8, dtype=dtype), {}),
        "lat": (*lat, DEGREES[0]),
        "lon": (*lon, DEGREES[1]),
        NAME: (("y", "x"), DATA, {"coordinates": "lat lon"}),
    }
    return lambda folder: netcdf(folder / "in.nc", variables)


def weather_model(folder):
    """As WRF names things."""
    dims = ("Time", "south_north", "west_east")
    variables = {
        "XLAT": (dims, MESH_LAT[None], {"units": "degree_north"}),
        "XLONG": (dims, MESH_LON[None], {"units": "degree_east"}),
        "no2": (dims, DATA[None], {"coordinates": "XLONG XLAT XTIME"}),
    }
    return netcdf(folder / "in.nc", variables)


def packed_axes(folder):
    """Coordinates as hundredths in 16 bits."""
    lat, lon = (np.round(v * 100).astype("i2") for v in (LAT, LON))
    packing = {"scale_factor": 0.01, "add_offset": 0.0}
    return nc(lat, lon, attrs=tuple({**a, **packing} for a in DEGREES))(folder)


def with_bounds(lat_bounds, lat=LAT, **more):
    attrs = ({**DEGREES[0], "bounds": "lat_bnds"}, DEGREES[1])
    return nc(lat, attrs=attrs, extra={"lat_bnds": (("latitude", "nv"), np.asarray(lat_bounds), {})}, **more)


EDGES = np.stack([LAT + 0.25, LAT - 0.25], axis=1)


def with_scalar(name, attrs):
    return nc(extra={name: ((), np.int32(0), attrs)}, grid_mapping=name)


NO_CRS = r"no CRS; declare it with --crs"
ROWS = [
    # --- 43: no CRS
    Row("43-no-crs-geotiff", tif(crs=None), 3, NO_CRS),
    Row(
        "43-no-crs-netcdf",
        nc(3.2e6 - 5e3 * np.arange(6), 4.1e6 + 5e3 * np.arange(8), names=("y", "x"), attrs=METRES),
        3,
        NO_CRS,
    ),
    Row("43-no-crs-degrees-named-y-x", nc(names=("y", "x"), attrs=({}, {})), 3, NO_CRS),
    Row("43-no-crs-declared-geotiff", tif(crs=None), options=["--crs", "EPSG:4326"], want=DATA),
    Row("43-no-crs-declared-netcdf", nc(names=("y", "x"), attrs=({}, {})), options=["--crs", "EPSG:4326"], want=DATA),
    Row("43-no-crs-degrees-by-name", nc(names=("lat", "lon"), attrs=({}, {})), want=DATA),
    Row("43-no-crs-degrees-by-units", nc(names=("a", "b")), want=DATA),
    Row("43-local-crs", tif(crs=rasterio.crs.CRS.from_wkt('LOCAL_CS["here",UNIT["metre",1]]')), 3, "local CRS.*--crs"),
    Row("43-declared-nonsense", tif(crs=None), 3, "'EPSG:999999' is not known.*EPSG code", ["--crs", "EPSG:999999"]),
    Row("43-declared-empty", tif(crs=None), 3, "not known", ["--crs", ""]),
    Row("43-declared-another", tif(), words="keeps its own CRS EPSG:4326", options=["--crs", "EPSG:3035"], want=DATA),
    # --- 44 to 46: no transform
    Row("44-no-transform-geotiff", tif(transform=Affine.identity()), 3, "no geotransform.*gdal_translate -a_ullr"),
    Row("44-no-transform-netcdf-y-x", bare(("y", "x")), 3, "no coordinates along 'y'"),
    Row("44-no-transform-netcdf-any", bare(("rows", "cols")), 3, "no gridded numeric variable"),
    Row("44-transform-without-area", tif(transform=Affine(0.0, 0, 5, 0, -0.5, 50)), 3, "no area|GCPs"),
    Row("44-transform-of-nan", tif(transform=Affine(np.nan, 0, 5, 0, -0.5, 50)), 3, "geotransform"),
    Row("44-transform-of-inf", tif(transform=Affine(0.5, 0, np.inf, 0, -0.5, 50)), 3, "geotransform"),
    Row("45-gcps-alone", with_gcps, 3, "GCPs: warp"),
    Row("46-rpcs-alone", with_rpcs, 3, "RPC: orthorectify"),
    # --- 48 to 50: orientation
    Row(
        "48-south-up",
        tif(DATA[::-1], Affine(0.5, 0, 5, 0, 0.5, 47)),
        want=DATA,
        decided="files come out north-up: GIS programs and people expect it; arrays keep their orientation",
    ),
    Row("48-east-to-west", tif(DATA[:, ::-1], Affine(-0.5, 0, 9, 0, -0.5, 50)), want=DATA),
    Row("48-both", tif(DATA[::-1, ::-1], Affine(-0.5, 0, 9, 0, 0.5, 47)), want=DATA),
    Row("49-ascending-latitude", nc(LAT[::-1], data=DATA[::-1]), want=DATA),
    Row("49-ascending-latitude-netcdf3", nc(LAT[::-1], data=DATA[::-1], format="NETCDF3_CLASSIC"), want=DATA),
    Row("50-descending-longitude", nc(lon=LON[::-1], data=DATA[:, ::-1]), want=DATA),
    # --- 51, 52: longitudes
    Row("51-0-to-360", nc(lon=355.25 + 0.5 * np.arange(8)), want=DATA, bounds=(355, 47, 359, 50)),
    Row("51-0-to-360-beyond", nc(lon=358.25 + 0.5 * np.arange(8)), want=DATA, bounds=(358, 47, 362, 50)),
    Row(
        "51-0-to-360-across-the-seam", nc(lon=(358.25 + 0.5 * np.arange(8)) % 360), want=DATA, bounds=(358, 47, 362, 50)
    ),
    Row("51-0-to-360-geotiff", tif(transform=Affine(0.5, 0, 355, 0, -0.5, 50)), want=DATA, bounds=(355, 47, 359, 50)),
    Row(
        "52-across-the-dateline",
        nc(lon=(178.25 + 0.5 * np.arange(8) + 180) % 360 - 180),
        want=DATA,
        bounds=(178, 47, 182, 50),
    ),
    Row(
        "52-across-the-dateline-float32",
        nc(lon=((178.25 + 0.5 * np.arange(8) + 180) % 360 - 180).astype("f4")),
        want=DATA,
        bounds=(178, 47, 182, 50),
    ),
    Row(
        "52-across-the-dateline-westward",
        nc(lon=((178.25 + 0.5 * np.arange(8) + 180) % 360 - 180)[::-1], data=DATA[:, ::-1]),
        want=DATA,
        bounds=(-182, 47, -178, 50),
    ),
    Row("52-longitudes-beyond-all", nc(lon=900 + 0.5 * np.arange(8)), 3, "longitude"),
    Row("52-more-than-once-around", nc(lon=-180 + 60.0 * np.arange(8)), 3, "480 degrees|around the"),
    # --- 53, 54: poles
    Row(
        "53-centres-at-the-poles",
        nc(np.linspace(90, -90, 7), np.arange(8) * 45.0 - 180, data=columns((7, 8))),
        want=columns((7, 8)),
        bounds=(-202.5, -105, 157.5, 105),
        decided="bounds stay those of the cells: half a cell beyond a pole has no area; clipping would shift the grid",
    ),
    Row(
        "53-edges-at-the-poles",
        tif(columns((6, 8)), Affine(45, 0, -180, 0, -30, 90)),
        want=columns((6, 8)),
        bounds=(-180, -90, 180, 90),
    ),
    Row("54-latitude-beyond-the-pole", nc(100 - np.arange(6.0)), 3, "beyond the pole"),
    Row("54-latitude-beyond-the-pole-geotiff", tif(transform=Affine(1, 0, 0, 0, -1, 95)), 3, "beyond the pole"),
    Row("54-latitude-and-longitude-exchanged", nc(np.arange(100, 130, 5.0), np.arange(8.0)), 3, "beyond the pole"),
    Row("54-metres-called-degrees", tif(transform=Affine(5000, 0, 4e6, 0, -5000, 3e6)), 3, "beyond the pole.*CRS"),
    Row("54-eastings-called-degrees", tif(transform=Affine(5000, 0, 4e6, 0, -0.5, 50)), 3, "longitude.*CRS"),
    Row("54-degrees-called-metres-geotiff", tif(crs="EPSG:32632"), 3, "look like degrees.*EPSG:32632"),
    Row(
        "54-degrees-called-metres-declared",
        nc(names=("y", "x"), attrs=({}, {})),
        3,
        "look like degrees",
        ["--crs", "EPSG:3035"],
    ),
    Row("54-degrees-declared-metres", nc(), 3, "degrees", ["--crs", "EPSG:3035"]),
    Row(
        "54-radians",
        nc(np.deg2rad(LAT), np.deg2rad(LON), names=("lat", "lon"), attrs=({"units": "radians"},) * 2),
        want=DATA,
    ),
    Row("54-units-exchanged", nc(names=("lat", "lon"), attrs=DEGREES[::-1]), 3, "lat is in degrees_east"),
    # --- 55 to 58: coordinates
    Row("55-duplicate-latitude", nc(np.r_[50, 49, 49, 48, 47, 46.0]), 3, "'latitude' holds duplicate"),
    Row(
        "55-seam-in-both-ends",
        nc(lon=np.r_[np.arange(7) * 51.42857142857143, 360.0]),
        want=DATA,
        bounds=None,
        decided="a globe from 0 to 360 with the seam in both ends is even; both columns stay",
    ),
    Row("55-all-alike", nc(np.full(6, 50.0)), 3, "duplicate"),
    Row("56-non-uniform-latitude", nc(np.r_[50, 49, 48, 47, 45, 44.0]), 3, "'latitude' is non-uniform.*resample"),
    Row("56-non-uniform-longitude", nc(lon=np.r_[LON[:-1], LON[-1] + 0.01]), 3, "'longitude' is non-uniform"),
    Row(
        "56-gaussian-latitudes",
        nc(np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(6)[0][::-1]))),
        3,
        "non-uniform",
    ),
    Row("56-shuffled", nc(LAT[[0, 2, 1, 3, 4, 5]]), 3, "non-uniform"),
    Row(
        "57-jitter-of-float32",
        nc(LAT.astype("f4"), (100 + 0.05 * np.arange(8)).astype("f4")),
        want=DATA,
        bounds=(99.975, 47, 100.375, 50),
    ),
    Row("57-jitter-of-few-digits", nc(lon=np.round(5 + np.arange(8) / 3, 3)), want=DATA, bounds=None),
    Row(
        "57-integers",
        nc(np.arange(50, 44, -1, dtype="i2"), np.arange(5, 13, dtype="u1")),
        want=DATA,
        bounds=(4.5, 44.5, 12.5, 50.5),
    ),
    Row("58-nan", nc(np.r_[LAT[:-1], np.nan]), 3, "'latitude' holds NaN"),
    Row("58-inf", nc(lon=np.r_[LON[:-1], np.inf]), 3, "'longitude' holds"),
    Row(
        "58-fill-value",
        nc(np.r_[LAT[:-1], 9.96921e36].astype("f8"), attrs=({**DEGREES[0], "_FillValue": 9.96921e36}, DEGREES[1])),
        3,
        "'latitude' holds",
    ),
    Row(
        "58-all-fill",
        nc(np.full(6, -9999.0), attrs=({**DEGREES[0], "_FillValue": -9999.0}, DEGREES[1])),
        3,
        "'latitude'",
    ),
    # --- 59, 60: names and order
    *(
        Row(f"59-{a}-{b}", nc(names=(a, b)), want=DATA)
        for a, b in [
            ("lat", "lon"),
            ("latitude", "longitude"),
            ("LAT", "LON"),
            ("y", "x"),
            ("Y", "X"),
            ("nav_lat", "nav_lon"),
            ("nlat", "nlon"),
        ]
    ),
    *(
        Row(f"59-units-{u}", nc(names=("a", "b"), attrs=({"units": u[0]}, {"units": u[1]})), want=DATA)
        for u in [
            ("degree_north", "degree_east"),
            ("degrees_N", "degrees_E"),
            ("degreeN", "degreeE"),
            ("degreesN", "degreesE"),
        ]
    ),
    Row(
        "59-standard-names",
        nc(names=("a", "b"), attrs=({"standard_name": "latitude"}, {"standard_name": "longitude"})),
        want=DATA,
    ),
    Row("59-units-degrees", nc(names=("lat", "lon"), attrs=({"units": "degrees"},) * 2), want=DATA),
    Row("59-packed-coordinates", packed_axes, want=DATA),
    Row("60-transposed", nc(data=DATA.T, dims=GRID[::-1]), want=DATA),
    Row("60-transposed-geographic-netcdf3", nc(data=DATA.T, dims=GRID[::-1], format="NETCDF3_CLASSIC"), want=DATA),
    Row(
        "60-one-dimension-twice",
        lambda f: netcdf(f / "in.nc", {"lat": (("n",), LAT, DEGREES[0]), NAME: (("n", "n"), DATA[:, :6], {})}),
        3,
        "grid",
    ),
    # --- 61, 62: CRS
    *(
        Row(f"61-{n}", wkt(a), want=DATA, bounds=LAEA, crs=None)
        for n, a in [
            ("cf-grid-mapping", {k: np.array(v) if isinstance(v, list) else v for k, v in CF_LAEA.items()}),
            ("wkt", CRS("EPSG:3035").to_wkt()),
            ("spatial-ref", {"spatial_ref": CRS("EPSG:3035").to_wkt()}),
            ("proj4", {"proj4": "+init=epsg:3035"}),
        ]
    ),
    Row("61-kilometres", projected(1000, "km"), want=DATA, bounds=LAEA, crs=None),
    Row("61-projected-with-2d-latitudes", lambda f: _with_2d(f), want=DATA, bounds=LAEA, crs=None),
    Row("61-grid-mapping-missing", nc(grid_mapping="nowhere"), want=DATA),
    Row("61-grid-mapping-of-latitudes", with_scalar("crs", {"grid_mapping_name": "latitude_longitude"}), want=DATA),
    Row(
        "61-rotated-pole-unsaid",
        nc(
            attrs=(
                {"standard_name": "grid_latitude", "units": "degrees"},
                {"standard_name": "grid_longitude", "units": "degrees"},
            ),
            names=("rlat", "rlon"),
        ),
        3,
        NO_CRS,
    ),
    Row("62-broken-wkt", wkt('PROJCS["broken"'), 3, "CRS .* is not known.*--crs"),
    Row("62-unknown-epsg", wkt({"epsg_code": "EPSG:999999"}), 3, "EPSG:999999"),
    Row("62-unknown-grid-mapping", wkt({"grid_mapping_name": "flat_earth"}), 3, "'flat_earth' cannot be read.*--crs"),
    Row(
        "62-broken-wkt-declared",
        wkt('PROJCS["broken"'),
        options=["--crs", "EPSG:3035"],
        want=DATA,
        bounds=LAEA,
        crs="EPSG:3035",
    ),
    # --- 63: two-dimensional coordinates
    Row("63-regular-in-two-dimensions", curvilinear(MESH_LAT, MESH_LON), want=DATA),
    Row("63-regular-in-two-dimensions-netcdf3", curvilinear(MESH_LAT, MESH_LON, format="NETCDF3_CLASSIC"), want=DATA),
    Row(
        "63-curvilinear-netcdf3",
        curvilinear(MESH_LAT + 0.1 * MESH_LON, MESH_LON, format="NETCDF3_CLASSIC"),
        3,
        "swath or curvilinear",
    ),
    Row("63-curvilinear-without-qa", curvilinear(MESH_LAT + 0.1 * MESH_LON, MESH_LON), 3, "qa_value.*--qa none"),
    # --- 64: points
    Row("64-pixel-is-point", as_point, want=DATA),
    # --- 65: few cells
    *(
        Row(f"65-{h}x{w}-geotiff", tif(columns((h, w))), want=columns((h, w)), bounds=(5, 50 - h / 2, 5 + w / 2, 50))
        for h, w in [(1, 1), (1, 9), (9, 1), (2, 2)]
    ),
    *(
        Row(f"65-{h}x{w}-netcdf", nc(LAT[:h], LON[:w], columns((h, w))), 3, "at least 2 x 2")
        for h, w in [(1, 1), (1, 8), (6, 1)]
    ),
    Row(
        "65-1x8-netcdf-with-bounds",
        with_bounds(EDGES[:1], LAT[:1], data=DATA[:1]),
        want=DATA[:1],
        bounds=(5, 49.5, 9, 50),
    ),
    Row("65-0x8-netcdf", nc(LAT[:0], LON, columns((0, 8))), 3, "empty"),
    # --- bounds of cells
    Row("64-bounds-that-agree", with_bounds(EDGES), want=DATA),
    Row(
        "64-coordinates-are-edges-by-the-bounds",
        with_bounds(np.stack([LAT, LAT - 0.5], axis=1)),
        want=DATA,
        bounds=(5, 46.75, 9, 49.75),
        words="bounds",
    ),
    Row("64-bounds-of-nonsense", with_bounds(EDGES * 3), want=DATA, words="bounds"),
    Row("64-bounds-of-nan", with_bounds(EDGES * np.nan), want=DATA),
    # --- more of 61 to 63
    Row("62-geocentric", tif(crs="EPSG:4978"), 3, "no CRS of maps .geocentric.*--crs"),
    Row("62-of-heights-alone", tif(crs=None), 3, "no CRS of maps", ["--crs", "EPSG:5773"]),
    Row("61-with-heights", tif(crs="EPSG:4326+5773"), want=DATA, crs=None),
    Row("63-numbered-beside-latitudes", indexed("i4"), want=DATA),
    Row("63-numbered-beside-latitudes-in-two-dimensions", indexed("i4", mesh=True), want=DATA),
    Row("63-numbered-in-floats-beside-two-dimensions", indexed("f8", mesh=True), want=DATA),
    Row("63-weather-model", weather_model, want=DATA),
]


ROTATED = Affine.translation(4e5, 5e6) * Affine.rotation(30) * Affine.scale(5000, -7000)
SHEARED = Affine(5000, 900, 4e5, 300, -7000, 5e6)


@pytest.mark.parametrize("affine", [ROTATED, SHEARED], ids=["47-rotated", "47-sheared"])
def test_rotated_transform_is_exact(affine, tmp_path):
    row = Row("47", tif(transform=affine, crs="EPSG:32632"), want=DATA, bounds=None, crs="EPSG:32632")
    made = check(row, tmp_path)
    assert made.transform == affine * Affine.scale(0.5)


def rotated_pole(folder):
    sides = tuple({"standard_name": f"grid_{n}itude", "units": "degrees"} for n in ("lat", "long"))
    pole = {
        "grid_mapping_name": "rotated_latitude_longitude",
        "grid_north_pole_latitude": 39.25,
        "grid_north_pole_longitude": -162.0,
    }
    extra = {"rp": ((), np.int32(0), pole)}
    return nc(attrs=sides, names=("rlat", "rlon"), extra=extra, grid_mapping="rp")(folder)


def test_61_rotated_pole(tmp_path):
    """A NetCDF holds such a CRS."""
    out = tmp_path / "out.nc"
    assert geosr("downscale", rotated_pole(tmp_path), "--scale", 2, "--method", "bicubic", "-o", out).code == 0
    made = read_map(out)
    assert made.bounds == pytest.approx(BOUNDS)
    crs = CRS.from_user_input(made.crs)
    assert crs.is_geographic
    assert crs.is_derived
    np.testing.assert_allclose(made.coarse, DATA, atol=1e-9)


def test_51_turned_by_bbox(tmp_path):
    """A globe from 0 to 360 cut to -180 to 180: the same cells, half of them moved."""
    lon = 22.5 + 45.0 * np.arange(8)
    row = Row("51", nc(lon=lon), options=["--bbox", -180, 47, 180, 50], want=np.roll(DATA, 4, axis=1))
    check(Row(**{**vars(row), "bounds": (-180, 47, 180, 50)}), tmp_path)


def test_52_cut_across_the_dateline(tmp_path):
    row = Row("52", nc(lon=178.25 + 0.5 * np.arange(8)), options=["--bbox", 179, 47, -179, 50])
    check(Row(**{**vars(row), "want": DATA[:, 2:6], "bounds": (179, 47, 181, 50)}), tmp_path)


@pytest.mark.parametrize("shape", [(7, 13), (17, 31), (2, 97), (33, 32), (5, 40)])
@pytest.mark.parametrize("tile", [16, 31, 64, 65])
def test_66_sizes_and_tiles(shape, tile, tmp_path):
    """Odd, prime, smaller than the overlap, a tile and one more: the map is the untiled one."""
    path = tif(columns(shape))(tmp_path)
    maps = []
    for more in (["--tile", tile], []):
        out = tmp_path / f"{len(more)}.tif"
        assert geosr("downscale", path, "--scale", 2, "--method", "bicubic", "-o", out, *more).code == 0
        with rasterio.open(out) as file:
            maps.append(file.read(1))
    np.testing.assert_allclose(*maps, rtol=0, atol=1e-6 * np.abs(maps[1]).max())


def test_63_a_swath_is_gridded(sample_dir, tmp_path):
    (swath,) = sample_dir.glob("S5P_*_L2__NO2*.nc")
    out = tmp_path / "out.tif"
    where = ["--bbox", -29, 43, -27, 45, "--resolution", 0.1]
    assert geosr("downscale", swath, "--scale", 2, "--method", "bicubic", "-o", out, *where).code == 0
    made = read_map(out)
    assert made.bounds == pytest.approx((-29, 43, -27, 45))
    assert (made.torn, made.crs) == (0, "EPSG:4326")
    line = refused(geosr("downscale", swath, "--time", 0, "-o", tmp_path / "no.tif"), 2, "--time")
    assert "swath" in line


def _with_2d(folder):
    """A projected grid with 1-D x and y, and latitudes and longitudes in two dimensions beside them, as CF has it."""
    path = projected(coordinates="lat lon")(folder)
    with netCDF4.Dataset(path, "a") as file:
        for name, units in (("lat", "degrees_north"), ("lon", "degrees_east")):
            v = file.createVariable(name, "f8", ("y", "x"))
            v.units = units
            v[:] = MESH_LAT if name == "lat" else MESH_LON
    return path


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_row(row, tmp_path):
    check(row, tmp_path)
