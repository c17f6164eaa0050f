"""NetCDF to begin with: grids as netCDF-3 and NetCDF-4/HDF5, and swaths, by netCDF4 and h5py."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.edits import REALS, SECRET
from fuzz.fields import hdf5_untimed
from fuzz.geotiffs import columns, made, odd_text, spoiled

NAME = "tropospheric_NO2_column_number_density"
S5P = "nitrogendioxide_tropospheric_column"


def netcdf(
    variables: dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, Any]]],
    attrs: dict[str, Any] | None = None,
    format: str = "NETCDF4",
    unlimited: str = "",
    **storage: Any,
) -> bytes:
    """``variables``: name with groups -> (dims, values, attributes, ``_FillValue`` among them), by netCDF4."""
    import netCDF4

    def write(path: Path) -> None:
        with netCDF4.Dataset(path, "w", format=format) as file:
            for dims, values, _ in variables.values():
                for name, n in zip(dims, np.shape(values), strict=True):
                    if name not in file.dimensions:
                        file.createDimension(name, None if name == unlimited else n)
            for name, (dims, values, about) in variables.items():
                about = dict(about)
                fill = about.pop("_FillValue", None)
                group, _, base = name.rpartition("/")
                holder = file.createGroup(group) if group else file
                dtype = str if values.dtype.kind == "U" else values.dtype
                kept = storage if len(dims) > 1 and dtype is not str else {}
                v = holder.createVariable(base, dtype, dims, fill_value=fill, **kept)
                v.set_auto_maskandscale(False)
                for key, value in about.items():
                    with contextlib.suppress(Exception):
                        v.setncattr(key, value)
                v[...] = values
            for key, value in (attrs or {}).items():
                with contextlib.suppress(Exception):
                    file.setncattr(key, value)

    return made(".nc", write)


def axes(ny: int = 12, nx: int = 14) -> dict[str, Any]:
    """Latitudes and longitudes."""
    return {
        "latitude": (("latitude",), 40 + 0.25 * np.arange(ny), {"units": "degrees_north"}),
        "longitude": (("longitude",), 5 + 0.25 * np.arange(nx), {"units": "degrees_east"}),
    }


def grid(**about: Any) -> dict[str, Any]:
    """A plain map."""
    return {**axes(), NAME: (("latitude", "longitude"), columns((12, 14)), {"units": "mol m-2", **about})}


def _projected() -> dict[str, Any]:
    from pyproj import CRS

    mapping = {"grid_mapping_name": "lambert_azimuthal_equal_area", "crs_wkt": CRS("EPSG:3035").to_wkt()}
    along = {f"{n}": ((n,), 4e6 + 1e4 * np.arange(12.0), {"units": "m", "standard_name": f"projection_{n}_coordinate"})
             for n in ("y", "x")}  # fmt: skip
    field = (("y", "x"), columns((12, 12)), {"units": "mol m-2", "grid_mapping": "crs"})
    return {"crs": ((), np.array(0, "i4"), mapping), **along, "no2": field}


def _series(**about: Any) -> dict[str, Any]:
    hours = {"units": "hours since 2020-01-01", "calendar": "standard", "bounds": "time_bnds"}
    packed = (1e7 * columns((3, 12, 14))).astype(np.int16)
    how = {"units": "mol m-2", "scale_factor": 1e-7, "add_offset": 0.0, "_FillValue": np.int16(-32767), **about}
    return {"time": (("time",), 24.0 * np.arange(3), hours), "time_bnds": (("time", "nv"), np.ones((3, 2)), {}),
            **axes(), NAME: (("time", "latitude", "longitude"), packed, how),
            f"{NAME}_precision": (("time", "latitude", "longitude"), columns((3, 12, 14)), {"units": "mol m-2"}),
    }  # fmt: skip


def netcdf3_seeds() -> list[bytes]:
    """CDF-1, -2 and -5, with records and without."""
    levels = {"lev": (("lev",), np.array([1000.0, 500, 100]), {"units": "hPa", "axis": "Z"}), **axes(),
              "no2": (("lev", "latitude", "longitude"), columns((3, 12, 14)), {"units": "mol m-2"})}  # fmt: skip
    return [
        netcdf(grid(), format="NETCDF3_CLASSIC"),
        netcdf(_series(), format="NETCDF3_CLASSIC", unlimited="time", attrs={"title": "NO2", "history": "made"}),
        netcdf(_series(ancillary_variables=f"{NAME}_precision"), format="NETCDF3_64BIT_OFFSET", unlimited="time"),
        netcdf(_projected(), format="NETCDF3_64BIT_OFFSET"),
        netcdf(levels, format="NETCDF3_CLASSIC"),
        netcdf(grid(valid_range=np.array([-1, 1], "f4"), missing_value=np.float32(-9)), format="NETCDF3_64BIT_DATA"),
        netcdf(_series(), format="NETCDF3_64BIT_DATA", unlimited="time"),
    ]


def hdf5_seeds() -> list[bytes]:
    """By netCDF4 and by h5py, of old and new versions of the format; and the hostile ones, by h5py."""
    names = (("latitude",), np.array(list("abcdefghijkl")), {})
    seeds = [
        netcdf(grid()),
        netcdf(grid(), zlib=True, shuffle=True, fletcher32=True, chunksizes=(5, 6)),
        netcdf(_series(), unlimited="time", zlib=True, attrs={"title": "NO2", "Conventions": "CF-1.8"}),
        netcdf(_projected()),
        netcdf({f"PRODUCT/{k}" if k == NAME else k: v for k, v in grid().items()}),
        netcdf({**grid(flag_values=np.arange(3), note="é"), "names": names}),
        netcdf(_series(), format="NETCDF4_CLASSIC", zlib=True, least_significant_digit=3),
    ]  # fmt: skip
    with contextlib.suppress(ImportError):
        seeds += [
            _h5(kind) for kind in ("earliest", "latest", "compact", "external", "link", "virtual", "soft", "loop")
        ]
    return seeds


def _h5(kind: str) -> bytes:
    """A map by h5py. The hostile kinds point to the secret file."""
    import h5py

    def write(path: Path) -> None:
        libver = "latest" if kind == "latest" else ("earliest", "v110")
        with h5py.File(path, "w", libver=libver) as file:
            for name, n, unit in (("latitude", 12, "north"), ("longitude", 14, "east")):
                file[name] = 40 + 0.25 * np.arange(n)
                file[name].attrs["units"] = f"degrees_{unit}"
                file[name].make_scale(name)
            values, secret = columns((12, 14)), SECRET.decode()
            if kind == "external":
                v = file.create_dataset(NAME, (12, 14), "f4", external=[(secret, 0, 672)])
            elif kind == "link":
                file[NAME] = values
                file["no2"] = h5py.ExternalLink(secret, "/no2")
                v = file[NAME]
            elif kind == "virtual":
                layout = h5py.VirtualLayout((12, 14), "f4")
                layout[:] = h5py.VirtualSource(secret, "no2", (12, 14))
                v = file.create_virtual_dataset(NAME, layout)
            elif kind == "compact":
                space, how = h5py.h5s.create_simple((12, 14)), h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                how.set_layout(h5py.h5d.COMPACT)
                h5py.h5d.create(file.id, NAME.encode(), h5py.h5t.NATIVE_FLOAT, space, how).write(
                    h5py.h5s.ALL, h5py.h5s.ALL, values)  # fmt: skip
                v = file[NAME]
            else:
                v = file.create_dataset(NAME, data=values, chunks=(5, 6), compression="gzip", maxshape=(None, 14))
            v.attrs["units"] = "mol m-2"
            for i, name in enumerate(("latitude", "longitude")):
                v.dims[i].attach_scale(file[name])
            if kind == "soft":
                file["again"] = h5py.SoftLink(f"/{NAME}")
            if kind == "loop":
                below = file.create_group("a/b")
                below["c"] = file["a"]

    begun = time.time()
    return hdf5_untimed(made(".h5", write), begun)


_ATTRS = ("units", "scale_factor", "add_offset", "missing_value", "valid_range", "valid_min", "valid_max", "_Unsigned",
          "grid_mapping", "coordinates", "bounds", "ancillary_variables", "standard_name", "long_name", "axis",
          "calendar",
          "flag_values", "cell_methods", "positive", "_FillValue", "spatial_ref", "crs_wkt", "grid_mapping_name",
          "GeoTransform", "proj4", "epsg_code", "GridOrigin", "ProjParams")  # fmt: skip


def _odd_value(rng: random.Random, names: list[str]) -> Any:
    numbers = [rng.choice((*REALS, 0.01, 1e-7, 255, -32767)) for _ in range(rng.choice((1, 1, 2, 3, 5)))]
    dtype = rng.choice(("f4", "f8", "i2", "i4", "u1", "i8"))
    with np.errstate(all="ignore"):
        array = np.array(numbers, "f8").astype(dtype)
    return rng.choice((
        odd_text(rng), odd_text(rng), array, array[0], np.array([], "f8"), rng.choice(names),
        " ".join(rng.sample(names, 2)),
        f"crs: {rng.choice(names)}", "standard", "true", "degrees_north", "degree_east", "mol m-2", "1", "m",
        "projection_x_coordinate", "latitude", "longitude", "X", "Y", "Z", "T", "EPSG:4326",
        "days since 2000-01-01", "troposphere_mole_content_of_nitrogen_dioxide standard_error",
    ))  # fmt: skip


def _odd_axis(rng: random.Random, n: int) -> np.ndarray:
    start, step = rng.choice((-180, -90, 40, 170, 0, 4e6)), rng.choice((0.25, -0.25, 1, 360 / max(n, 1), 1e4, 0))
    values = start + step * np.arange(n, dtype=float)
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        if n:
            values[rng.randrange(n)] = rng.choice((*REALS, values[0], values[-1]))
    with np.errstate(all="ignore"):
        return values.astype(rng.choice(("f8", "f8", "f4", "i4")))


def netcdf_odd(rng: random.Random, format: str) -> bytes:
    """Maps with odd axes, attributes, kinds of numbers, sizes, names and links between variables."""
    variables = dict(rng.choice((grid, _projected, _series))())
    names = [*variables, "nowhere", "crs", "/PRODUCT/x"]
    sizes = {d: n for dims, v, _ in variables.values() for d, n in zip(dims, np.shape(v), strict=True)}
    if rng.random() < 0.3:
        sizes[rng.choice(list(sizes))] = rng.choice((0, 1, 2, 3, 200))
    fields = {}
    for name, (dims, values, about) in variables.items():
        if rng.random() < 0.03:
            continue
        shape = tuple(sizes[d] for d in dims)
        new = np.resize(values, shape) if values.size else np.zeros(shape)
        if dims == (name,) and (rng.random() < 0.25 or sizes[name] != len(values)):
            new = _odd_axis(rng, sizes[name])
        kinds = ("f4", "f8", "i2", "u1" if format == "NETCDF4" else "i1", "i4", "i1")
        if len(dims) > 1 and rng.random() < 0.3:
            new = spoiled(rng, new, rng.choice(kinds))
        about = {k: v for k, v in about.items() if rng.random() > 0.08}
        for _ in range(rng.choice((0, 0, 1, 2))):
            about[rng.choice(_ATTRS)] = _odd_value(rng, names)
        if "_FillValue" in about:
            about["_FillValue"] = _fill(rng, about["_FillValue"], new.dtype)
        fields[name if rng.random() > 0.05 else rng.choice(("lat", "lon", "a b", "ü", "x", "g/v"))] = (dims, new, about)
    storage: dict[str, Any] = {}
    if format == "NETCDF4":
        storage = rng.choice(({}, {"zlib": True}, {"endian": "big"}))
        if rng.random() < 0.1:
            fields["t"] = (("nt",), np.array(["a", "bb"]), {})
    try:
        return netcdf(fields, {rng.choice(("title", "Conventions", "id", "crs", "history")): _odd_value(rng, names)},
                      format, rng.choice(("", "", "time")), **storage)  # fmt: skip
    except Exception:  # what netCDF-C does not write either
        return netcdf(grid(), format=format)


def _fill(rng: random.Random, value: Any, dtype: np.dtype) -> Any:
    try:
        with np.errstate(all="ignore"):
            return np.asarray(value).astype(dtype).reshape(-1)[0]
    except (ValueError, IndexError):
        return dtype.type(rng.choice((0, 1)))


# --- swaths ----------------------------------------------------------------------------------------------------


def swath_of(
    prefix: str = "PRODUCT/", corners: bool = True, shape: tuple[int, int] = (8, 10), qa: Any = None
) -> dict[str, Any]:
    """The variables of a swath as Sentinel-5P has them, in the group ``prefix``; ``qa`` (values, attributes)."""
    rows, cols = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    lat, lon = 45 + 0.05 * rows - 0.002 * cols, 5 + 0.06 * cols + 0.01 * rows
    dims = ("time", "scanline", "ground_pixel")
    qa = qa if qa is not None else (np.full(shape, 90, np.uint8), {"scale_factor": 0.01, "add_offset": 0.0})
    found = {
        "latitude": (dims, lat[None].astype("f4"), {"units": "degrees_north", "bounds": "latitude_bounds"}),
        "longitude": (dims, lon[None].astype("f4"), {"units": "degrees_east", "bounds": "longitude_bounds"}),
        "qa_value": (dims, qa[0][None], qa[1]),
        S5P: (dims, columns((1, *shape)), {"units": "mol m-2", "_FillValue": np.float32(9.96921e36)}),
        f"{S5P}_precision": (dims, np.abs(columns((1, *shape), 1)), {"units": "mol m-2"}),
    }
    if corners:
        for name, centre, steps in (
            ("latitude_bounds", lat, (-0.02, -0.02, 0.02, 0.02)), ("longitude_bounds", lon, (-0.03, 0.03, 0.03, -0.03)),
        ):  # fmt: skip
            found[name] = ((*dims, "corner"), (centre[..., None] + np.array(steps))[None].astype("f4"), {})
    return {f"{prefix}{name}": item for name, item in found.items()}


_ID = {"id": "S5P_OFFL_L2__NO2____20200101T000000_20200101T010000_11111_01_010302_20200102T000000", "orbit": 11111}


def swath_seeds() -> list[bytes]:
    """In the groups of Sentinel-5P, flat, with and without corners; and one by ``geosr.simulate``, cut down."""
    flat = {k: (d[1:], v[0], a) for k, (d, v, a) in swath_of("", corners=False).items()}
    harp = {k.replace("scanline", "t"): (("time",), v.reshape(-1), a) for k, (d, v, a) in swath_of("", False).items()}
    for name, base in (("latitude", 45.0), ("longitude", 5.0)):
        bounds = base + 0.02 * np.arange(80)[:, None] + np.array([0, 0.02, 0.02, 0.0])
        harp[f"{name}_bounds"] = (("time", "corner"), bounds, {})
    return [
        netcdf(swath_of(), _ID),
        netcdf(swath_of(), _ID, zlib=True, shuffle=True),
        netcdf(swath_of(corners=False), _ID, zlib=True),
        netcdf(swath_of("", qa=(np.full((8, 10), 0.9, "f4"), {}))),
        netcdf({k.replace(S5P, "ColumnAmountNO2Trop"): v for k, v in flat.items()}),
        netcdf(harp),
        netcdf({**swath_of("PRODUCT/SUPPORT_DATA/GEOLOCATIONS/"), **swath_of("PRODUCT/")}, _ID, zlib=True),
        netcdf(flat, format="NETCDF3_64BIT_DATA"),
    ]


def swath_odd(rng: random.Random) -> bytes:
    """Swaths with odd numbers, attributes, sizes and names."""
    shape = rng.choice(((8, 10), (1, 10), (8, 1), (1, 1), (0, 10), (3, 4), (40, 30), (4, 4), (2, 450)))
    prefix = rng.choice(("PRODUCT/", "PRODUCT/", "", "a/b/"))
    made = swath_of(prefix, rng.random() < 0.6, (max(shape[0], 1), max(shape[1], 1)))
    names = [*made, "nowhere"]
    fields = {}
    for name, (dims, values, about) in made.items():
        if rng.random() < 0.05:
            continue
        values = values[:, : shape[0]]
        values = spoiled(rng, values, rng.choice(("f4", "f8", "i2", "u1"))) if rng.random() < 0.2 else values.copy()
        if values.dtype.kind == "f" and values.size:
            for _ in range(rng.choice((0, 0, 1, 3))):
                flat = values.reshape(-1)
                at = rng.randrange(flat.size)
                with np.errstate(all="ignore"):
                    flat[at : at + rng.choice((1, 9, 1000))] = rng.choice((*REALS, 1000.0, 539.0, -89.9999))
        about = {k: v for k, v in about.items() if rng.random() > 0.1}
        for _ in range(rng.choice((0, 0, 1, 2))):
            about[rng.choice(_ATTRS)] = _odd_value(rng, names)
        if "_FillValue" in about:
            about["_FillValue"] = _fill(rng, about["_FillValue"], values.dtype)
        fields[name if rng.random() > 0.05 else f"{prefix}{rng.choice(('lat', 'lon', 'no2', 'corner_latitude'))}"] = (
            dims, values, about)  # fmt: skip
    attrs = {**_ID, "spatial_resolution": odd_text(rng)} if rng.random() < 0.5 else {"id": _odd_value(rng, names)}
    try:
        return netcdf(fields, attrs)
    except Exception:  # what was drawn cannot be written by netCDF4 at all: no input for geosr either
        return netcdf(swath_of(), _ID)
