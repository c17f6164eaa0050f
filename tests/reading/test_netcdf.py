"""NetCDF: where things lie, which variable, structure. Trust matrix, rows 43-66, 85-97."""

from __future__ import annotations

import threading

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
from pyproj import CRS

from geosr.errors import InputError
from geosr.grid import geobox_of
from geosr.reading import open_no2
from geosr.variables import main_variable
from reading.make import LAT, LON, NAME, column_file, columns, netcdf

GRID = ("latitude", "longitude")


def read(path, **options):
    main = main_variable(open_no2(path, **options))
    return main, geobox_of(main)


def test_plain(tmp_path):
    main, box = read(column_file(tmp_path / "a.nc"))
    assert main.name == NAME
    assert main.dims == GRID
    assert tuple(box.boundingbox) == (5.0, 47.0, 9.0, 50.0)
    assert box.crs.epsg == 4326
    assert main.chunks is not None
    np.testing.assert_array_equal(main, columns())


@pytest.mark.parametrize(
    "names", [("lat", "lon"), ("latitude", "longitude"), ("Latitude", "Longitude"), ("y", "x"), ("Y", "X")]
)
@pytest.mark.parametrize("way", ["as is", "ascending", "transposed", "descending lon", "all three"])
def test_every_orientation_reads_alike(tmp_path, names, way):
    """Names, order and direction of the dimensions change nothing: rows 49, 50, 59, 60."""
    data, lat, lon, dims = columns(), LAT, LON, names
    if way in ("ascending", "all three"):
        data, lat = data[::-1], lat[::-1]
    if way in ("descending lon", "all three"):
        data, lon = data[:, ::-1], lon[::-1]
    if way in ("transposed", "all three"):
        data, dims = data.T, names[::-1]
    coordinates = {
        names[0]: ((names[0],), lat, {"units": "degrees_north"}),
        names[1]: ((names[1],), lon, {"units": "degrees_east"}),
    }
    path = netcdf(tmp_path / "a.nc", {**coordinates, NAME: (dims, data, {})})
    main, box = read(path)
    np.testing.assert_array_equal(main, columns())
    assert main.dims == GRID
    assert tuple(box.boundingbox) == (5.0, 47.0, 9.0, 50.0)


def test_coordinates_under_other_names_than_their_dimensions(tmp_path):
    path = netcdf(
        tmp_path / "a.nc",
        {
            "lat": (("rows",), LAT, {"units": "degrees_north"}),
            "lon": (("cols",), LON, {"units": "degrees_east"}),
            NAME: (("cols", "rows"), columns().T, {"coordinates": "lon lat"}),
        },
    )
    main, box = read(path)
    np.testing.assert_array_equal(main, columns())
    assert box.boundingbox.left == 5.0


@pytest.mark.parametrize(
    ("lon", "bounds"),
    [
        (0.5 + np.arange(360), (0, 360)),
        (np.r_[170.5:180, -179.5:-170], (170, 190)),
        (np.r_[-170.5:-180:-1, 179.5:170:-1], (-190, -170)),
        (-179.5 + np.arange(360), (-180, 180)),
    ],
)
def test_longitudes_across_the_dateline(tmp_path, lon, bounds):
    data = columns((6, lon.size))
    main, box = read(column_file(tmp_path / "a.nc", data, lon=lon))
    assert (box.boundingbox.left, box.boundingbox.right) == bounds
    np.testing.assert_array_equal(main, data if lon[1] > lon[0] else data[:, ::-1])
    assert (np.diff(main.longitude) > 0).all()


@pytest.mark.parametrize(
    ("lat", "words"),
    [
        (np.r_[50, 49, 48, 47, 45, 44.0], "non-uniform"),
        (np.r_[50, 49, 49, 48, 47, 46.0], "duplicate"),
        (np.r_[50, np.nan, 48, 47, 46, 45], "NaN"),
        (100 - np.arange(6.0), "pole"),
    ],
)
def test_bad_coordinates(tmp_path, lat, words):
    with pytest.raises(InputError, match=words):
        open_no2(column_file(tmp_path / "a.nc", lat=lat))


def test_float32_coordinates_are_no_jitter(tmp_path):
    lon = (100 + 0.05 * np.arange(200)).astype(np.float32)
    _, box = read(column_file(tmp_path / "a.nc", columns((6, 200)), lon=lon))
    assert box.shape == (6, 200)
    assert abs(box.boundingbox.left - 99.975) < 1e-4


def test_centres_at_the_poles(tmp_path):
    _, box = read(column_file(tmp_path / "a.nc", columns((181, 8)), lat=np.linspace(-90, 90, 181)))
    assert (box.boundingbox.bottom, box.boundingbox.top) == (-90.5, 90.5)


@pytest.mark.parametrize("shape", [(1, 8), (6, 1), (1, 1)])
def test_one_cell_tells_no_size(tmp_path, shape):
    with pytest.raises(InputError, match="at least 2 x 2"):
        open_no2(column_file(tmp_path / "a.nc", columns(shape), LAT[: shape[0]], LON[: shape[1]]))


# --- CRS -------------------------------------------------------------------------------------------------------


def projected(path, crs_attrs, factor=1.0, units="m", **attrs):
    y, x = (3.2e6 - 5000 * np.arange(6)) / factor, (4.1e6 + 5000 * np.arange(8)) / factor
    return netcdf(
        path,
        {
            "y": (("y",), y, {"standard_name": "projection_y_coordinate", "units": units}),
            "x": (("x",), x, {"standard_name": "projection_x_coordinate", "units": units}),
            "no2": (("y", "x"), columns(), {"grid_mapping": "crs", **attrs}),
            "crs": ((), np.int32(0), crs_attrs),
        },
    )


@pytest.mark.parametrize(
    "attrs",
    [
        CRS("EPSG:3035").to_cf(),
        {k: v for k, v in CRS("EPSG:3035").to_cf().items() if k != "crs_wkt"},
        {"spatial_ref": CRS("EPSG:3035").to_wkt()},
        {"proj4": "+init=epsg:3035"},
        {"epsg_code": "EPSG:3035"},
    ],
)
def test_grid_mappings(tmp_path, attrs):
    attrs = {k: (v if not isinstance(v, list) else np.array(v)) for k, v in attrs.items()}
    main, box = read(projected(tmp_path / "a.nc", attrs))
    assert tuple(box.boundingbox) == (4097500, 3172500, 4137500, 3202500)
    assert main.dims == ("y", "x")
    lon, lat = 10.0, 52.0
    from pyproj import Transformer

    ours = Transformer.from_crs("EPSG:4326", box.crs.proj, always_xy=True).transform(lon, lat)
    theirs = Transformer.from_crs("EPSG:4326", "EPSG:3035", always_xy=True).transform(lon, lat)
    np.testing.assert_allclose(ours, theirs, atol=0.01)


def test_kilometres(tmp_path):
    _, box = read(projected(tmp_path / "a.nc", {"spatial_ref": CRS("EPSG:3035").to_wkt()}, 1000, "km"))
    assert tuple(box.boundingbox) == pytest.approx((4097500, 3172500, 4137500, 3202500), rel=1e-12)


def test_broken_and_missing_crs(tmp_path):
    broken = projected(tmp_path / "a.nc", {"crs_wkt": 'PROJCS["broken"'})
    with pytest.raises(InputError, match="CRS"):
        open_no2(broken)
    assert read(broken, crs="EPSG:3035")[1].crs.epsg == 3035
    bare = projected(tmp_path / "b.nc", {})
    with pytest.raises(InputError, match=r"no CRS.*--crs"):
        open_no2(bare)
    assert read(bare, crs="EPSG:3035")[1].crs.epsg == 3035


def test_stored_geotransform_is_exact(tmp_path):
    da = xr.DataArray(columns(), dims=("y", "x"), name="no2")
    from affine import Affine
    from odc.geo.geobox import GeoBox

    from geosr.grid import with_geobox

    box = GeoBox((6, 8), Affine(0.1 / 3, 0, 10 / 3, 0, -0.1 / 3, 50 / 3), "EPSG:4326")
    with_geobox(da, box).to_netcdf(tmp_path / "a.nc")
    assert read(tmp_path / "a.nc")[1].affine == box.affine


# --- which variable ----------------------------------------------------------------------------------------------


def test_wrong_name_lists_candidates(tmp_path):
    with pytest.raises(InputError, match=NAME):
        open_no2(column_file(tmp_path / "a.nc"), variable="ozone")


def test_two_candidates(tmp_path):
    two = {f"tropospheric_no2_{k}": (GRID, columns(seed=i), {}) for i, k in enumerate("ab")}
    path = netcdf(tmp_path / "a.nc", two, lat=LAT, lon=LON)
    with pytest.raises(InputError, match=r"tropospheric_no2_a, tropospheric_no2_b; .*--variable"):
        open_no2(path)
    np.testing.assert_array_equal(read(path, variable="tropospheric_no2_b")[0], columns(seed=1))


def test_groups(tmp_path):
    """Coordinates in a parent group serve its children; names may carry groups; the same name twice is a question."""
    path = netcdf(
        tmp_path / "a.nc",
        {
            f"PRODUCT/{NAME}": (GRID, columns(seed=1), {}),
            f"OLD/{NAME}": (GRID, columns(seed=2), {}),
            "PRODUCT/Überschuß": (GRID, columns(seed=3), {}),
        },
        lat=LAT,
        lon=LON,
    )
    with pytest.raises(InputError, match=f"PRODUCT/{NAME}, OLD/{NAME}"):
        open_no2(path)
    for name, seed in ((f"PRODUCT/{NAME}", 1), (f"/OLD/{NAME}", 2), ("Überschuß", 3)):
        np.testing.assert_array_equal(read(path, variable=name)[0], columns(seed=seed))


def test_nothing_gridded(tmp_path):
    none = netcdf(tmp_path / "none.nc", {})
    with pytest.raises(InputError, match="no variables"):
        open_no2(none)
    swath = netcdf(
        tmp_path / "swath.nc",
        {
            "lat": (("line", "pixel"), np.zeros((4, 5)), {"units": "degrees_north"}),
            "lon": (("line", "pixel"), np.zeros((4, 5)), {"units": "degrees_east"}),
            "no2": (("line", "pixel"), columns((4, 5)), {}),
        },
        format="NETCDF3_CLASSIC",
    )
    with pytest.raises(InputError, match="swath or curvilinear"):
        open_no2(swath)
    profile = netcdf(tmp_path / "p.nc", {"no2": (("z",), np.arange(3.0), {})})
    with pytest.raises(InputError, match="no gridded numeric variable"):
        open_no2(profile)
    with pytest.raises(InputError, match="on no grid"):
        open_no2(profile, variable="no2")


# --- structure -----------------------------------------------------------------------------------------------------


def stack(path, n, data=None, format="NETCDF4", **time_attrs):
    data = np.stack([columns(seed=i) for i in range(n)]) if data is None else data
    attrs = time_attrs or {"units": "days since 2019-01-01"}
    time = 31.0 * np.arange(n)
    return netcdf(
        path, {"time": (("time",), time, attrs), NAME: (("time", *GRID), data, {})}, lat=LAT, lon=LON, format=format
    )


@pytest.mark.parametrize("format", ["NETCDF4", "NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA"])
def test_one_time_is_squeezed_and_several_are_kept(tmp_path, format):
    main, _ = read(stack(tmp_path / "one.nc", 1, format=format))
    assert main.dims == GRID
    assert str(main["time"].values)[:10] == "2019-01-01"
    main, _ = read(stack(tmp_path / "many.nc", 3, format=format))
    assert main.dims == ("time", *GRID)
    np.testing.assert_array_equal(main[2], columns(seed=2))


def test_time_coverage(tmp_path):
    attrs = open_no2(stack(tmp_path / "a.nc", 3)).attrs
    assert (attrs["time_coverage_start"], attrs["time_coverage_end"]) == (
        "2019-01-01T00:00:00Z",
        "2019-03-04T00:00:00Z",
    )
    path = netcdf(
        tmp_path / "S5P_OFFL_L3__NO2____20190811T073033_20190811T091203.nc",
        {NAME: (GRID, columns(), {})},
        lat=LAT,
        lon=LON,
    )
    attrs = open_no2(path).attrs
    assert attrs["product"] == "S5P L3 NO2 OFFL"
    assert attrs["time_coverage_start"] == "2019-08-11T07:30:33Z"


def test_record_dimension_in_netcdf3(tmp_path):
    path = tmp_path / "a.nc"
    with netCDF4.Dataset(path, "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("time", None)
        for name, values, units in (("lat", LAT, "degrees_north"), ("lon", LON, "degrees_east")):
            file.createDimension(name, len(values))
            v = file.createVariable(name, "f4", (name,))
            v[:], v.units = values, units
        a = file.createVariable("no2", "f4", ("time", "lat", "lon"))
        b = file.createVariable("weight", "i2", ("time", "lat", "lon"))
        for i in range(4):
            a[i], b[i] = columns(seed=i), i
    main, _ = read(path)
    for i in range(4):
        np.testing.assert_array_equal(main[i], columns(seed=i))


def test_no_time_at_all(tmp_path):
    with pytest.raises(InputError, match="empty"):
        open_no2(stack(tmp_path / "a.nc", 0, data=np.empty((0, 6, 8), np.float32)))


def test_bad_time_units_do_not_matter(tmp_path):
    main, _ = read(stack(tmp_path / "a.nc", 3, units="fortnights since the flood"))
    np.testing.assert_array_equal(main["time"], [0, 31, 62])
    main, _ = read(stack(tmp_path / "b.nc", 3, units="days since 99999-01-01"))
    assert main.sizes["time"] == 3


def test_levels(tmp_path):
    data = np.stack([columns(seed=i) for i in range(3)])
    level = (("level",), np.array([1000.0, 500.0, 1.0]), {"units": "hPa"})
    path = netcdf(tmp_path / "a.nc", {"level": level, NAME: (("level", *GRID), data, {})}, lat=LAT, lon=LON)
    with pytest.raises(InputError, match=r"3 levels along 'level' \(1000 … 1\); .*--level"):
        open_no2(path)
    for wanted, i in ((500, 1), ("1000", 0), (1, 2), (0, 0), ("2", 2)):
        np.testing.assert_array_equal(read(path, level=wanted)[0], data[i])
    with pytest.raises(InputError, match="no level"):
        open_no2(path, level=7)
    with pytest.raises(InputError, match="no levels"):
        open_no2(column_file(tmp_path / "b.nc"), level=0)


def test_latin1_attributes(tmp_path):
    path = tmp_path / "a.nc"
    column_file(path, format="NETCDF3_CLASSIC", comment="microns")
    path.write_bytes(path.read_bytes().replace(b"microns", b"\xb5icrons"))
    np.testing.assert_array_equal(read(path)[0], columns())
    path = column_file(tmp_path / "b.nc")
    with h5py.File(path, "a") as file:
        file[NAME].attrs.create("comment", np.bytes_(b"\xb5icrons"))
    np.testing.assert_array_equal(read(path)[0], columns())


def test_storage_chunks_do_not_matter(tmp_path, monkeypatch):
    monkeypatch.setattr("geosr.reading.netcdf._CHUNK_CELLS", 50)
    data = np.stack([columns((20, 30), seed=i) for i in range(5)])
    lat, lon = 50 - 0.1 * np.arange(20), 5 + 0.1 * np.arange(30)
    for i, chunks in enumerate([(1, 7, 11), (5, 20, 30), (1, 1, 30), None]):
        path = tmp_path / f"{i}.nc"
        with netCDF4.Dataset(path, "w") as file:
            for name, values, units in (("lat", lat, "degrees_north"), ("lon", lon, "degrees_east")):
                file.createDimension(name, len(values))
                v = file.createVariable(name, "f8", (name,))
                v[:], v.units = values, units
            file.createDimension("time", 5)
            options = {"chunksizes": chunks, "zlib": True} if chunks else {"contiguous": True}
            file.createVariable("no2", "f4", ("time", "lat", "lon"), **options)[:] = data
        main, _ = read(path)
        assert main.data.npartitions > 1 or chunks == (5, 20, 30)
        np.testing.assert_array_equal(main, data)


def test_hdfeos_grid(tmp_path):
    """OMI level 3 (he5): no coordinates, the extent in a group attribute, spaces in names."""
    path = tmp_path / "omi.he5"
    data = (columns((18, 36)) * 6e19).astype(np.float32)
    with h5py.File(path, "w") as file:
        grid = file.create_group("HDFEOS/GRIDS/ColumnAmountNO2")
        grid.attrs["GridSpan"] = np.bytes_("(-180,180,-90,90)")
        fields = grid.create_group("Data Fields")
        for name in ("ColumnAmountNO2", "ColumnAmountNO2Trop", "Weight"):
            fields[name] = data if name.endswith("Trop") else data * 2
            fields[name].attrs["_FillValue"] = np.float32([-1.2676506e30])
            fields[name].attrs["Units"] = np.bytes_("molec/cm2")
    main, box = read(path)
    assert main.name == "ColumnAmountNO2Trop"
    assert main.attrs["units"] == "molec/cm2"
    assert tuple(box.boundingbox) == (-180, -90, 180, 90)
    np.testing.assert_array_equal(main, data[::-1])  # OMI rows run from south to north


def test_threads_may_read_one_file_and_several(tmp_path):
    """netCDF4 without a lock crashes here five times in six (trust.md 3.7)."""
    paths = [
        column_file(tmp_path / f"{i}.nc", columns((50, 80), i), 50 - 0.1 * np.arange(50), 5 + 0.1 * np.arange(80))
        for i in range(3)
    ]
    fields = [read(p)[0] for p in paths]
    failures = []

    def work():
        for i, field in enumerate(fields):
            for _ in range(5):
                if not np.array_equal(field.values, columns((50, 80), i)):
                    failures.append(i)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
