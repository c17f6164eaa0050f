"""Files to read, written by other libraries than geosr's."""

from __future__ import annotations

import netCDF4
import numpy as np
import rasterio
from rasterio.transform import Affine

NORTH_UP = Affine(0.5, 0, 5.0, 0, -0.5, 50.0)


def columns(shape=(6, 8), seed=0) -> np.ndarray:
    """NO2 columns in mol m-2, of either sign, none alike."""
    rng = np.random.default_rng(seed)
    return (rng.normal(5e-5, 4e-5, shape)).astype(np.float32)


def geotiff(path, data, transform=NORTH_UP, crs="EPSG:4326", descriptions=None, units=None, **profile):
    """Write ``data`` (y, x) or (band, y, x) by rasterio."""
    data = np.asarray(data)
    data = data if data.ndim == 3 else data[None]
    profile = {"dtype": data.dtype, **profile}
    n, h, w = data.shape
    with rasterio.open(
        path, "w", driver="GTiff", count=n, height=h, width=w, transform=transform, crs=crs, **profile
    ) as file:
        file.write(data)
        for i in range(n):
            if descriptions:
                file.set_band_description(i + 1, descriptions[i])
            if units:
                file.set_band_unit(i + 1, units)
    return path


def netcdf(path, variables, dims=None, lat=None, lon=None, format="NETCDF4", **global_attrs):
    """Write ``variables``: name -> (dims, data, attrs), by netCDF4; latitude and longitude are added for lat and lon.

    ``_FillValue`` in attrs is set as netCDF wants it; ``packed`` data are written as they are.
    """
    with netCDF4.Dataset(path, "w", format=format) as file:
        file.set_auto_maskandscale(False)
        all_variables = dict(variables)
        if lat is not None:
            all_variables = {
                "latitude": (("latitude",), np.asarray(lat), {"units": "degrees_north"}),
                "longitude": (("longitude",), np.asarray(lon), {"units": "degrees_east"}),
                **all_variables,
            }
        for names, data, _ in all_variables.values():
            for name, size in zip(names, np.shape(data), strict=True):
                if name not in file.dimensions:
                    file.createDimension(name, size)
        for name, (names, data, attrs) in all_variables.items():
            data = np.asarray(data)
            attrs = dict(attrs)
            group, _, base = name.rpartition("/")
            holder = file.createGroup(group) if group else file
            endian = "big" if data.dtype.byteorder == ">" and format == "NETCDF4" else "native"
            v = holder.createVariable(base, data.dtype, names, fill_value=attrs.pop("_FillValue", None), endian=endian)
            v.set_auto_maskandscale(False)
            v.setncatts(attrs)
            v[...] = data
        file.setncatts(global_attrs)
    return path


LAT = 49.75 - 0.5 * np.arange(6)
LON = 5.25 + 0.5 * np.arange(8)
NAME = "nitrogendioxide_tropospheric_column"


def column_file(path, data=None, lat=LAT, lon=LON, dims=("latitude", "longitude"), format="NETCDF4", **attrs):
    """A NetCDF with one NO2 column on a latitude-longitude grid."""
    data = columns() if data is None else data
    return netcdf(path, {NAME: (dims, data, {"units": "mol m-2", **attrs})}, lat=lat, lon=lon, format=format)
