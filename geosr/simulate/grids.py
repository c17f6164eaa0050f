"""Gridded files of a simulated scene: L3 NetCDF and GeoTIFF of what the satellite saw, NetCDF of the truth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from odc.geo.crs import CRS
from odc.geo.geobox import GeoBox

from geosr._version import __version__
from geosr.grid import cell_size_m, geobox_of
from geosr.simulate.product import FILL, NOTICE, _iso
from geosr.swath import Swath, grid_swaths
from geosr.writing.atomic import Staging, check_target

NAME = "tropospheric_NO2_column_number_density"
_NODATA = -9999.0
_TIME_UNITS = "seconds since 2010-01-01 00:00:00"


def as_swath(swath: xr.Dataset, qa: float = 0.75) -> Swath:
    """The good pixels of a simulated swath, as :func:`geosr.swath.grid_swaths` takes them, with a file's precision."""
    value = swath.nitrogendioxide_tropospheric_column.values.astype(np.float32)
    good = np.isfinite(value) & (swath.qa_value.values >= qa)
    return Swath(
        value=value[good],
        precision=swath.nitrogendioxide_tropospheric_column_precision.values.astype(np.float32)[good],
        lon_corners=swath.longitude_bounds.values.astype(np.float32)[good],
        lat_corners=swath.latitude_bounds.values.astype(np.float32)[good],
        pixel_size_m=(5500.0, 3500.0),
        attrs={
            "units": "mol m-2",
            "long_name": "Tropospheric vertical column of nitrogen dioxide",
            "standard_name": "troposphere_mole_content_of_nitrogen_dioxide",
            "time_coverage_start": _iso(swath.time.values[0]),
            "time_coverage_end": _iso(swath.time.values[-1]),
        },
        name=NAME,
    )


def _attributes(title: str, seed: int, start: str, end: str) -> dict[str, str]:
    return {
        "Conventions": "CF-1.8",
        "title": title,
        "source": "simulated by geosr simulate",
        "comment": NOTICE,
        "history": f"geosr {__version__} simulate, seed {seed}",
        "time_coverage_start": start,
        "time_coverage_end": end,
        "license": "CC0-1.0",
    }


def write_l3(
    path: str | os.PathLike[str], swaths: Sequence[xr.Dataset], box: GeoBox, *, overwrite: bool = False
) -> Path:
    """Grid swaths, weighted by overlap, and write their mean as a CF NetCDF with precision and count.

    Latitudes ascend, as in most L3 files. The file appears whole or not at all.

    Parameters
    ----------
    box : geographic, north-up.
    """
    import netCDF4

    target = check_target(path, overwrite)
    gridded = grid_swaths((as_swath(s) for s in swaths), box)
    attrs = gridded.attrs
    title = f"Simulated tropospheric NO2, mean of {len(swaths)} overpass{'es' if len(swaths) > 1 else ''}"
    attrs = _attributes(title, swaths[0].attrs["seed"], attrs["time_coverage_start"], attrs["time_coverage_end"])
    with Staging(target, overwrite) as staging, staging.explained():
        made = staging.path(target.name)
        with netCDF4.Dataset(made, "w", format="NETCDF4") as data:
            data.setncatts(attrs)
            _axes(data, box, [(swaths[0].time.values[0], swaths[-1].time.values[-1])])
            for name, array in gridded.data_vars.items():
                kind = "i4" if str(name).endswith("_count") else "f4"
                variable = _variable(data, str(name), kind, None if kind == "i4" else FILL, array.attrs)
                if name == NAME:
                    variable.cell_methods = "time: mean area: mean"
                values = array.values[::-1]
                variable[0] = np.where(np.isfinite(values), values, FILL if kind == "f4" else 0)
        staging.commit({made: target})
    return target


def write_truth(
    path: str | os.PathLike[str],
    truths: Sequence[xr.DataArray],
    swaths: Sequence[xr.Dataset],
    *,
    overwrite: bool = False,
) -> Path:
    """Write the fine fields at the overpasses as one NetCDF (time, latitude, longitude), packed in int16.

    The packing's step is 2e-8 mol m-2, or the range in 65,000 where that is more. North first.
    """
    import netCDF4

    target = check_target(path, overwrite)
    top = max(float(t.max()) for t in truths)
    step = max(2e-8, top / 65_000)
    times = [s.time.values for s in swaths]
    title = "Simulated tropospheric NO2 at the overpass, the truth that the swath was made from"
    attrs = _attributes(title, swaths[0].attrs["seed"], _iso(times[0][0]), _iso(times[-1][-1]))
    with Staging(target, overwrite) as staging, staging.explained():
        made = staging.path(target.name)
        with netCDF4.Dataset(made, "w", format="NETCDF4") as data:
            data.setncatts(attrs)
            _axes(data, geobox_of(truths[0]), [(t[0], t[-1]) for t in times], ascending=False)
            packing = {"scale_factor": step, "add_offset": 32_767 * step}
            variable = _variable(data, NAME, "i2", np.int16(-32_768), truths[0].attrs | packing)
            variable.set_auto_maskandscale(False)
            for i, truth in enumerate(truths):
                packed = np.round((truth.values.astype(np.float64) - packing["add_offset"]) / step)
                variable[i] = np.clip(packed, -32_767, 32_767).astype(np.int16)
        staging.commit({made: target})
    return target


def _axes(data: Any, box: GeoBox, spans: Sequence[tuple[Any, Any]], *, ascending: bool = True) -> None:
    """Dimensions, coordinates with bounds, and the grid mapping of ``box``; one time per span, its middle."""
    a, (ny, nx) = box.affine, box.shape
    data.createDimension("time", len(spans))
    data.createDimension("bnds", 2)
    epoch, second = np.datetime64("2010-01-01"), np.timedelta64(1, "s")
    ends = np.array([[(t - epoch) / second for t in span] for span in spans])
    south_up = slice(None, None, -1) if ascending else slice(None)
    edges = {
        "latitude": (a.f + a.e * np.arange(ny + 1))[south_up],
        "longitude": a.c + a.a * np.arange(nx + 1),
    }
    bounds = {"time": ends, **{n: np.stack([e[:-1], e[1:]], axis=1) for n, e in edges.items()}}
    attrs = {
        "time": {"standard_name": "time", "axis": "T", "units": _TIME_UNITS, "calendar": "standard"},
        "latitude": {"standard_name": "latitude", "axis": "Y", "units": "degrees_north"},
        "longitude": {"standard_name": "longitude", "axis": "X", "units": "degrees_east"},
    }
    for name, limits in bounds.items():
        if name != "time":
            data.createDimension(name, len(limits))
        variable = data.createVariable(name, "f8", (name,))
        variable.setncatts({**attrs[name], "long_name": name, "bounds": f"{name}_bnds"})
        variable[:] = limits.mean(axis=1)
        data.createVariable(f"{name}_bnds", "f8", (name, "bnds"))[:] = limits
    crs = data.createVariable("crs", "i4")
    crs.setncatts({k: v for k, v in CRS(box.crs).proj.to_cf().items() if v is not None})
    crs[...] = 0


def _variable(data: Any, name: str, kind: str, fill: Any, attrs: dict[Any, Any]) -> Any:
    dims = ("time", "latitude", "longitude")
    chunk = (1, *(min(data.dimensions[d].size, 512) for d in dims[1:]))
    variable = data.createVariable(
        name, kind, dims, zlib=True, complevel=9, shuffle=True, fill_value=fill, chunksizes=chunk
    )
    variable.setncatts({**attrs, "grid_mapping": "crs"})
    return variable


def write_geotiff(
    path: str | os.PathLike[str], swaths: Sequence[xr.Dataset], box: GeoBox, *, overwrite: bool = False
) -> Path:
    """Grid swaths, weighted by overlap, to a GeoTIFF in any CRS: float32, nodata -9999, unit and description set."""
    import rasterio

    target = check_target(path, overwrite)
    gridded = grid_swaths((as_swath(s) for s in swaths), box)
    values = gridded[NAME].values
    start, end = gridded.attrs["time_coverage_start"], gridded.attrs["time_coverage_end"]
    tags = _attributes("Simulated tropospheric NO2", swaths[0].attrs["seed"], start, end)
    tags |= {
        "cell_size_m": f"{cell_size_m(box):.0f}",
        "TIFFTAG_DATETIME": start[:19].replace("-", ":").replace("T", " "),
    }
    del tags["Conventions"]
    with Staging(target, overwrite) as staging, staging.explained():
        made = staging.path(target.name)
        with rasterio.open(
            made,
            "w",
            driver="GTiff",
            height=box.shape[0],
            width=box.shape[1],
            count=1,
            dtype="float32",
            crs=CRS(box.crs).to_wkt(),
            transform=box.affine,
            nodata=_NODATA,
            compress="deflate",
            predictor=3,
        ) as tif:
            tif.write(np.where(np.isfinite(values), values, _NODATA).astype(np.float32), 1)
            tif.set_band_description(1, NAME)
            tif.units = ["mol m-2"]
            tif.update_tags(**tags)
        staging.commit({made: target})
    return target
