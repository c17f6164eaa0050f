"""What the satellite sees of a simulated scene: footprints, noise, clouds, quality."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import xarray as xr

from geosr.errors import UsageError
from geosr.grid import geobox_of
from geosr.simulate.fields import gaussian_field
from geosr.simulate.footprints import footprint_means
from geosr.simulate.orbit import Geometry, overpass
from geosr.simulate.scene import cell_spacing, check_box

#: Random error of the slant column, mol m-2: about 1e-5 mol m-2 in the vertical column.
SLANT_NOISE = 1.3e-5
#: Part of the error that grows with the column.
RELATIVE_NOISE = 0.08
#: How far the footprint is stretched (along, across) by the sensor's response. "area" is the pixel's own area, whose
#: response at the Nyquist frequency is 2/pi = 0.64; "tropomi" has 0.44 along and 0.74 across, the response that was
#: estimated for TROPOMI's bands 3 to 6: sin(x)/x = 0.44 at x = 2.02 = 1.286 pi/2, 0.74 at 1.31 = 0.832 pi/2.
RESPONSES = {"area": (1.0, 1.0), "tropomi": (1.286, 0.832)}


def simulate_swath(
    truth: xr.DataArray,
    *,
    seed: int = 0,
    geometry: Geometry | None = None,
    bbox: tuple[float, float, float, float] | None = None,
    date: dt.date = dt.date(2024, 6, 12),
    offset: float = 0.0,
    response: str = "area",
    noise: float = 1.0,
    cloud_cover: float = 0.25,
    missing: float = 0.003,
) -> xr.Dataset:
    """See ``truth`` from orbit.

    Parameters
    ----------
    truth : column in mol m-2 (…, y, x) without NaN on a geographic, north-up grid, finer than the pixels.
    geometry : pixels; by default the overpass over ``bbox`` (by default the truth's bounds) on ``date`` with the
        box's middle at ``offset`` of the swath (see :func:`geosr.simulate.overpass`).
    response : "area" averages over each pixel's corners, exactly; "tropomi" over wider ones along, narrower ones
        across the track (:data:`RESPONSES`).
    noise : factor on the random error; 0 gives exact footprint means. The precision is that of factor 1.
    cloud_cover : share of pixels whose cloud radiance fraction is above one half; their ``qa_value`` is below 0.75.
    missing : share of pixels without a retrieval.

    Returns
    -------
    Dataset (scanline, ground_pixel[, corner]) with the variables of an L2 product by their names there; ``qa_value``
    as a fraction; NaN where there is no value (outside the truth, missing). Coordinate ``time`` (scanline).
    """
    box = geobox_of(truth)
    check_box(box)
    if response not in RESPONSES:
        raise UsageError(f"no response {response!r}", f"choose one of {', '.join(RESPONSES)}")
    for name, share in (("cloud_cover", cloud_cover), ("missing", missing)):
        if not 0 <= share <= 1:
            raise UsageError(f"{name} {share} is not a share", "give a number from 0 to 1")
    if not noise >= 0:
        raise UsageError(f"noise {noise} is not possible", "give a factor from 0")
    geometry = geometry or overpass(bbox or tuple(box.boundingbox), date=date, offset=offset)  # type: ignore[arg-type]
    cloudy, gaps, error = (np.random.default_rng([seed, part]) for part in (10, 11, 12))

    field = np.asarray(truth.values, dtype=np.float64).reshape(box.shape)
    corners = geometry.lon_corners, geometry.lat_corners
    seen = footprint_means(field, box, *corners, scale=RESPONSES[response])
    view, view_azimuth = geometry.viewing_angles()
    sun, sun_azimuth = geometry.solar_angles()
    amf_stratosphere = 1 / np.cos(np.deg2rad(np.minimum(sun, 85))) + 1 / np.cos(np.deg2rad(view))
    amf_troposphere = 0.6 * amf_stratosphere
    cloud = _clouds(truth, geometry, cloudy, cloud_cover)
    precision = (1 + cloud) * np.hypot(SLANT_NOISE / amf_troposphere, RELATIVE_NOISE * seen)
    value = seen + noise * precision * error.standard_normal(seen.shape)
    lost = np.isnan(seen) | (gaps.uniform(size=seen.shape) < missing)
    stratosphere = 3.5e-5 + 2.0e-5 * np.sin(np.deg2rad(geometry.lat)) ** 2
    amf_total = (amf_stratosphere + 0.3 * amf_troposphere) / 1.3
    total = (stratosphere * amf_stratosphere + value * amf_troposphere) / amf_total

    pixel = ("scanline", "ground_pixel")
    columns = {
        "nitrogendioxide_tropospheric_column": value,
        "nitrogendioxide_tropospheric_column_precision": precision,
        "air_mass_factor_troposphere": amf_troposphere,
        "air_mass_factor_total": amf_total,
        "nitrogendioxide_stratospheric_column": stratosphere,
        "nitrogendioxide_stratospheric_column_precision": np.full(seen.shape, 3.3e-6),
        "nitrogendioxide_summed_total_column": value + stratosphere,
        "nitrogendioxide_summed_total_column_precision": np.hypot(precision, 3.3e-6),
        "nitrogendioxide_total_column": total,
        "nitrogendioxide_total_column_precision": precision * amf_troposphere / amf_total,
    }
    variables: dict[str, tuple[Any, np.ndarray]] = {
        name: (pixel, np.where(lost, np.nan, v)) for name, v in columns.items()
    }
    variables |= {
        "qa_value": (pixel, np.where(lost, 0.0, _quality(cloud))),
        "cloud_radiance_fraction_nitrogendioxide_window": (pixel, cloud),
        # The fraction of the pixel that a bright cloud (albedo 0.8) covers, over a ground a third as bright.
        "cloud_fraction_crb": (pixel, cloud / (cloud + 3 * (1 - cloud))),
        "latitude": (pixel, geometry.lat),
        "longitude": (pixel, geometry.lon),
        "latitude_bounds": ((*pixel, "corner"), geometry.lat_corners),
        "longitude_bounds": ((*pixel, "corner"), geometry.lon_corners),
        "solar_zenith_angle": (pixel, sun),
        "solar_azimuth_angle": (pixel, sun_azimuth),
        "viewing_zenith_angle": (pixel, view),
        "viewing_azimuth_angle": (pixel, view_azimuth),
        "satellite_latitude": ("scanline", geometry.nadir_lat),
        "satellite_longitude": ("scanline", geometry.nadir_lon),
    }
    return xr.Dataset(
        variables,
        coords={"time": ("scanline", geometry.times())},
        attrs={
            "orbit": int(geometry.orbit),
            "first_scanline": int(geometry.first[0]),
            "first_ground_pixel": int(geometry.first[1]),
            "seed": int(seed),
            "response": response,
        },
    )


def _clouds(truth: xr.DataArray, geometry: Geometry, rng: np.random.Generator, cover: float) -> np.ndarray:
    """Cloud radiance fraction of each pixel, 0 to 1: a smooth random field, above one half in ``cover`` of them."""
    box = geobox_of(truth)
    # Spectra of cloud fields fall as k^-5/3 along a line, k^-8/3 in the plane.
    waves = gaussian_field(box.shape, cell_spacing(box), rng, slope=8 / 3, outer=3e5, inner=8e3)
    a = box.affine
    middle = a.c + a.a * box.shape[1] / 2
    lon = middle + (geometry.lon - middle + 180) % 360 - 180
    row = np.clip(((geometry.lat - a.f) / a.e).astype(int), 0, box.shape[0] - 1)
    col = np.clip(((lon - a.c) / a.a).astype(int), 0, box.shape[1] - 1)
    field = waves[row, col]
    threshold = np.quantile(field, 1 - cover) if 0 < cover < 1 else (-9.0 if cover else 9.0)
    return 1 / (1 + np.exp(-(field - threshold) / 0.25))


def _quality(cloud: np.ndarray) -> np.ndarray:
    """qa_value: 1 for clear pixels; at most 0.74 where the cloud radiance fraction is above one half, the rule of
    the product (its user manual recommends values above 0.75), less where hardly any ground is seen."""
    return np.select([cloud > 0.95, cloud > 0.5, cloud > 0.4], [0.5, 0.74, 0.91], 1.0)
