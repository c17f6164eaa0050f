"""The L2 file: a simulated swath in the group structure, names, attributes and packing of the Sentinel-5P product.

After the product's user manual (S5P-KNMI-L2-0021-MA) and real OFFL files. Not there: averaging kernels and the
model's layers, surface and meteorological input, ISO and EOP metadata.
"""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from geosr._version import __version__
from geosr.writing.atomic import Staging, check_target

FILL = np.float32(9.96921e36)
#: In the places of the processing collection and processor version: the version of this simulation.
COLLECTION, VERSION = 1, (1, 0, 0)
NOTICE = "Simulated by geosr simulate. Not a measurement: sources, wind and clouds are random numbers."
MOLEC = np.float32(6.02214e19)

_PIXEL = ("time", "scanline", "ground_pixel")
_GEO, _DETAIL, _INPUT = (f"PRODUCT/SUPPORT_DATA/{g}" for g in ("GEOLOCATIONS", "DETAILED_RESULTS", "INPUT_DATA"))


def _column(long_name: str, standard: str, **more: Any) -> dict[str, Any]:
    key = "proposed_standard_name" if standard.startswith("atmosphere") else "standard_name"
    return {
        "units": "mol m-2",
        key: standard,
        "long_name": long_name,
        "coordinates": "longitude latitude",
        **more,
        "multiplication_factor_to_convert_to_molecules_percm2": MOLEC,
    }


def _angle(long_name: str, top: float, **more: str) -> dict[str, Any]:
    low = np.float32(0.0 if top == 180 and "zenith" in long_name else -180.0)
    more = {"coordinates": "/PRODUCT/longitude /PRODUCT/latitude", **more}
    return {"long_name": long_name, "units": "degree", "valid_min": low, "valid_max": np.float32(top), **more}


def _degrees(long_name: str, way: str, top: float, **more: Any) -> dict[str, Any]:
    limits = {"valid_min": np.float32(-top), "valid_max": np.float32(top)}
    return {"long_name": long_name, "units": f"degrees_{way}", **more, **limits}


_TROPO = "troposphere_mole_content_of_nitrogen_dioxide"
_STRATO = "stratosphere_mole_content_of_nitrogen_dioxide"
_TOTAL = "atmosphere_mole_content_of_nitrogen_dioxide"

#: Float32 pixel variables: (group, name, attributes), in the product's order.
_VARIABLES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (
        "PRODUCT",
        "longitude",
        _degrees("pixel center longitude", "east", 180, standard_name="longitude", bounds=f"/{_GEO}/longitude_bounds"),
    ),
    (
        "PRODUCT",
        "latitude",
        _degrees("pixel center latitude", "north", 90, standard_name="latitude", bounds=f"/{_GEO}/latitude_bounds"),
    ),
    (
        "PRODUCT",
        "air_mass_factor_total",
        {"units": "1", "long_name": "Total air mass factor", "coordinates": "longitude latitude"},
    ),
    (
        "PRODUCT",
        "air_mass_factor_troposphere",
        {"units": "1", "long_name": "Tropospheric air mass factor", "coordinates": "longitude latitude"},
    ),
    (
        "PRODUCT",
        "nitrogendioxide_tropospheric_column",
        _column(
            "Tropospheric vertical column of nitrogen dioxide",
            _TROPO,
            ancillary_variables="nitrogendioxide_tropospheric_column_precision air_mass_factor_troposphere "
            "air_mass_factor_total",
        ),
    ),
    (
        "PRODUCT",
        "nitrogendioxide_tropospheric_column_precision",
        _column("Precision of the tropospheric vertical column of nitrogen dioxide", f"{_TROPO} standard_error"),
    ),
    (_GEO, "solar_zenith_angle", _angle("solar zenith angle", 180, standard_name="solar_zenith_angle")),
    (_GEO, "solar_azimuth_angle", _angle("solar azimuth angle", 180, standard_name="solar_azimuth_angle")),
    (_GEO, "viewing_zenith_angle", _angle("viewing zenith angle", 180, standard_name="viewing_zenith_angle")),
    (_GEO, "viewing_azimuth_angle", _angle("viewing azimuth angle", 180, standard_name="viewing_azimuth_angle")),
    (
        _DETAIL,
        "nitrogendioxide_stratospheric_column",
        _column(
            "Stratospheric vertical column of nitrogen dioxide",
            _STRATO,
            ancillary_variables="nitrogendioxide_stratospheric_column_precision",
        ),
    ),
    (
        _DETAIL,
        "nitrogendioxide_stratospheric_column_precision",
        _column("Precision of stratospheric vertical column of nitrogen dioxide", f"{_STRATO} standard_error"),
    ),
    (
        _DETAIL,
        "nitrogendioxide_summed_total_column",
        _column(
            "Sum of the tropospheric and stratospheric vertical columns",
            _TOTAL,
            ancillary_variables="nitrogendioxide_summed_total_column_precision",
        ),
    ),
    (
        _DETAIL,
        "nitrogendioxide_summed_total_column_precision",
        _column(
            "Precision of the sum of the tropospheric and stratospheric vertical columns", f"{_TOTAL} standard_error"
        ),
    ),
    (
        _DETAIL,
        "nitrogendioxide_total_column",
        _column(
            "Total vertical column of nitrogen dioxide derived from the total slant column",
            _TOTAL,
            ancillary_variables="nitrogendioxide_total_column_precision",
        ),
    ),
    (
        _DETAIL,
        "nitrogendioxide_total_column_precision",
        _column("Precision of the total vertical column of nitrogen dioxide", f"{_TOTAL} standard_error"),
    ),
    (
        _DETAIL,
        "cloud_radiance_fraction_nitrogendioxide_window",
        {
            "units": "1",
            "long_name": "Cloud radiance fraction at 440 nm",
            "coordinates": "/PRODUCT/longitude /PRODUCT/latitude",
        },
    ),
    (
        _INPUT,
        "cloud_fraction_crb",
        {
            "units": "1",
            "long_name": "Effective cloud fraction, cloud as a bright reflecting boundary",
            "coordinates": "/PRODUCT/longitude /PRODUCT/latitude",
        },
    ),
)


def l2_name(swath: xr.Dataset) -> str:
    """File name by the product's convention, with SIMU where real files say OFFL, NRTI or RPRO."""
    return conventional_name(swath.time.values[0], swath.time.values[-1], swath.attrs["orbit"])


def conventional_name(start: np.datetime64, end: np.datetime64, orbit: int) -> str:
    """:func:`l2_name` before there is a swath."""
    first, last = (_iso(t, "%Y%m%dT%H%M%S") for t in (start, end))
    version = "".join(f"{v:02d}" for v in VERSION)
    # The last field is the production time; the end of sensing stands there, so that equal input gives equal names.
    return f"S5P_SIMU_L2__NO2____{first}_{last}_{orbit:05d}_{COLLECTION:02d}_{version}_{last}.nc"


def _iso(time: np.datetime64, form: str = "%Y-%m-%dT%H:%M:%SZ") -> str:
    return time.astype("datetime64[ms]").astype(dt.datetime).strftime(form)


def write_l2(path: str | os.PathLike[str], swath: xr.Dataset, *, overwrite: bool = False) -> Path:
    """Write a swath of :func:`geosr.simulate.simulate_swath` as a Sentinel-5P L2 NO2 file.

    Parameters
    ----------
    path : the file, or a folder, in which it gets its conventional name (:func:`l2_name`).

    Returns
    -------
    The path written. The file appears whole or not at all.
    """
    import netCDF4

    target = Path(path)
    target = check_target(target / l2_name(swath) if target.is_dir() else target, overwrite)
    with Staging(target, overwrite) as staging, staging.explained():
        made = staging.path(target.name)
        with netCDF4.Dataset(made, "w", format="NETCDF4") as data:
            _globals(data, swath, target.stem)
            _product(data.createGroup("PRODUCT"), swath)
            for group, name, attrs in _VARIABLES:
                _put(data.createGroup(group), name, swath[name].values[None], _PIXEL, attrs)
            _geolocation(data[_GEO], swath)
            _metadata(data.createGroup("METADATA"), swath)
        staging.commit({made: target})
    return target


def _put(group: Any, name: str, values: np.ndarray, dims: tuple[str, ...], attrs: dict[str, Any]) -> None:
    variable = group.createVariable(
        name, "f4", dims, zlib=True, complevel=9, shuffle=True, fill_value=FILL, chunksizes=values.shape
    )
    variable.setncatts(attrs)
    variable[:] = np.where(np.isfinite(values), values, FILL).astype(np.float32)


def _globals(data: Any, swath: xr.Dataset, name: str) -> None:
    times = swath.time.values
    midnight = times[0].astype("datetime64[D]")
    seconds = (times[-1] - times[0]) / np.timedelta64(1, "s")
    lat, lon = swath.latitude.values, swath.longitude.values
    data.setncatts(
        {
            "Conventions": "CF-1.7",
            "institution": "none (simulation)",
            "source": "simulated by geosr simulate",
            "comment": NOTICE,
            "summary": "Simulated TROPOMI/S5P NO2 L2 swath",
            "title": "Simulated TROPOMI/S5P NO2 L2 swath",
            "id": name,
            "time_reference": _iso(midnight),
            "time_coverage_start": _iso(times[0]),
            "time_coverage_end": _iso(times[-1]),
            "time_coverage_duration": f"PT{seconds:.3f}S",
            "time_coverage_resolution": "PT0.840S",
            "orbit": np.int32(swath.attrs["orbit"]),
            "processor_version": ".".join(map(str, VERSION)),
            "date_created": _iso(times[-1]),
            "geospatial_lat_min": np.float32(lat.min()),
            "geospatial_lat_max": np.float32(lat.max()),
            "geospatial_lon_min": np.float32(lon[0, 0]),
            "geospatial_lon_max": np.float32(lon[-1, -1]),
            "spatial_resolution": "5.5x3.5km2",
            "platform": "S5P (simulated)",
            "sensor": "TROPOMI (simulated)",
            "cdm_data_type": "Swath",
            "license": "CC0-1.0",
            "history": f"geosr {__version__} simulate, seed {swath.attrs['seed']}",
        }
    )


def _product(group: Any, swath: xr.Dataset) -> None:
    """Dimensions, coordinates, times and qa_value of the group PRODUCT."""
    sizes = {
        "time": 1,
        "scanline": swath.sizes["scanline"],
        "ground_pixel": swath.sizes["ground_pixel"],
        "corner": 4,
    }
    for name, size in sizes.items():
        group.createDimension(name, size)
    index = {
        "scanline": ("Y", "along-track dimension index", "indices along track"),
        "ground_pixel": ("X", "across-track dimension index", "indices across track, from west to east"),
        "corner": (None, "pixel corner index", "indices for the pixel corners"),
    }
    order = " (counter-clockwise, starting from south-western corner of the pixel in ascending part of the orbit)"
    for name, (axis, long_name, what) in index.items():
        variable = group.createVariable(name, "i4", (name,), fill_value=np.int32(-2147483647))
        comment = f"This coordinate variable defines the {what}; index starts at 0{order if name == 'corner' else ''}"
        variable.setncatts(
            {"units": "1", **({"axis": axis} if axis else {}), "long_name": long_name, "comment": comment}
        )
        variable[:] = np.arange(sizes[name]) + swath.attrs.get(f"first_{name}", 0)
    _times(group, swath.time.values)
    qa = group.createVariable("qa_value", "u1", _PIXEL, zlib=True, complevel=9, fill_value=np.uint8(255))
    qa.setncatts(
        {
            "units": "1",
            "scale_factor": np.float32(0.01),
            "add_offset": np.float32(0.0),
            "valid_min": np.uint8(0),
            "valid_max": np.uint8(100),
            "long_name": "data quality value",
            "comment": "A continuous quality descriptor, varying between 0 (no data) and 1 (full quality data). "
            "Recommend to ignore data with qa_value < 0.75",
            "coordinates": "longitude latitude",
        }
    )
    qa.set_auto_maskandscale(False)
    qa[:] = np.round(swath.qa_value.values[None] * 100).astype(np.uint8)


def _times(group: Any, times: np.ndarray) -> None:
    midnight = times[0].astype("datetime64[D]")
    reference = group.createVariable("time", "i4", ("time",), fill_value=np.int32(-2147483647))
    reference.setncatts(
        {
            "units": "seconds since 2010-01-01 00:00:00",
            "standard_name": "time",
            "axis": "T",
            "long_name": "reference time for the measurements",
            "comment": "The time in this variable corresponds to the time in the time_reference global attribute",
        }
    )
    reference[:] = (midnight - np.datetime64("2010-01-01")) // np.timedelta64(1, "s")
    delta = group.createVariable("delta_time", "i4", ("time", "scanline"), zlib=True, fill_value=np.int32(-2147483647))
    delta.setncatts(
        {
            "long_name": "offset of start time of measurement relative to time_reference",
            "units": f"milliseconds since {midnight} 00:00:00",
        }
    )
    delta[:] = ((times - midnight) // np.timedelta64(1, "ms")).astype(np.int32)[None]
    utc = group.createVariable("time_utc", str, ("time", "scanline"))
    utc.long_name = "Time of observation as ISO 8601 date-time string"
    utc[:] = np.array([[f"{np.datetime_as_string(t, 'us')}Z" for t in times]], dtype=object)


def _geolocation(group: Any, swath: xr.Dataset) -> None:
    below = {"latitude": ("north", 90), "longitude": ("east", 180)}
    for name, (way, top) in below.items():
        place = "on a sphere" if name == "latitude" else "on a sphere, -180 to 180"
        attrs = _degrees(f"sub satellite {name}", way, top, comment=f"{name.title()} below the satellite, {place}")
        _put(group, f"satellite_{name}", swath[f"satellite_{name}"].values[None], ("time", "scanline"), attrs)
    for name in ("latitude_bounds", "longitude_bounds"):
        attrs = {"long_name": name, "units": f"degrees_{below[name.split('_')[0]][0]}"}
        _put(group, name, swath[name].values[None], (*_PIXEL, "corner"), attrs)


def _metadata(group: Any, swath: xr.Dataset) -> None:
    times = swath.time.values
    group.createGroup("ALGORITHM_SETTINGS").setncatts(
        {"simulation.seed": np.int32(swath.attrs["seed"]), "simulation.response": swath.attrs["response"]}
    )
    group.createGroup("GRANULE_DESCRIPTION").setncatts(
        {
            "GranuleStart": _iso(times[0]),
            "GranuleEnd": _iso(times[-1]),
            "InstrumentName": "TROPOMI (simulated)",
            "MissionName": "Sentinel-5 precursor (simulated)",
            "MissionShortName": "S5P",
            "ProcessLevel": "2",
            "ProcessingMode": "Simulation",
            "ProcessorVersion": ".".join(map(str, VERSION)),
            "ProductShortName": "L2__NO2___",
        }
    )
    column = swath.nitrogendioxide_tropospheric_column.values
    group.createGroup("QA_STATISTICS").setncatts(
        {
            "number_of_groundpixels": np.int32(column.size),
            "number_of_successfully_processed_pixels": np.int32(np.isfinite(column).sum()),
        }
    )
