"""The coordinate reference system that a file or a user states."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from odc.geo.crs import CRS

from geosr.errors import InputError


def as_crs(text: object) -> CRS:
    """``text`` (EPSG code, WKT, PROJ string, a CRS object of rasterio, pyproj or odc-geo) as a CRS.

    Raises
    ------
    InputError
        If it is none that PROJ knows.
    """
    try:
        crs = CRS(text)  # type: ignore[arg-type]
        if crs.proj.is_engineering:
            raise InputError(
                "a local CRS with no place on Earth", "declare the real one with --crs, or warp the file first"
            )
        if not (crs.geographic or crs.projected):
            kind = "geocentric" if crs.proj.is_geocentric else crs.proj.type_name
            raise InputError(
                f"{crs.proj.name or 'the CRS'} is no CRS of maps ({kind})",
                "declare a geographic or projected one with --crs, or warp the file first (gdalwarp -t_srs)",
            )
        return crs
    except InputError:
        raise
    except Exception as error:  # odc and pyproj raise many kinds
        shown = " ".join(str(text).split())[:80]
        raise InputError(
            f"CRS {shown!r} is not known", "give an EPSG code (EPSG:4326), a PROJ string or WKT"
        ) from error


def from_grid_mapping(attrs: Mapping[str, Any]) -> CRS | None:
    """CRS of a CF grid mapping variable; also of those that say it in PROJ or EPSG. None if they say nothing.

    Raises
    ------
    InputError
        If they say something that PROJ does not know.
    """
    for key in (
        "crs_wkt",
        "spatial_ref",
        "esri_pe_string",
        "proj4",
        "proj4text",
        "proj4_params",
        "epsg_code",
        "EPSG_code",
    ):
        text = str(attrs.get(key, "")).strip()
        if text:
            try:
                return _familiar(as_crs(_modern(text)))
            except InputError as error:
                raise InputError(
                    f"the file's {error.what}", "declare the right one with --crs, e.g. --crs EPSG:4326"
                ) from error
    if attrs.get("grid_mapping_name"):
        from pyproj import CRS as ProjCRS

        try:
            return _familiar(CRS(ProjCRS.from_cf(dict(attrs))))
        except Exception as error:
            name = attrs["grid_mapping_name"]
            raise InputError(
                f"the grid mapping {name!r} cannot be read ({error})", "declare the CRS with --crs"
            ) from error
    return None


def _modern(text: str) -> str:
    """PROJ text without what PROJ has since given up: "+init=epsg:…", and datum shifts that shift nothing."""
    init = re.match(r"\+init=(epsg:\d+)", text, re.IGNORECASE)
    if init:
        return init[1].upper()
    return re.sub(r"\+towgs84=[0.,]*(?=\s|$)", "", text)


def _familiar(crs: CRS) -> CRS:
    """``crs`` under the name it is best known by: files written as PROJ text or CF attributes leave it nameless."""
    proj = crs.proj
    if crs.epsg is not None:
        return CRS(f"EPSG:{crs.epsg}") if proj.name in ("unknown", "undefined") else crs
    if not crs.geographic or proj.is_derived or proj.ellipsoid is None:
        return crs
    same_shape = (
        proj.ellipsoid.semi_major_metre == 6378137 and abs(proj.ellipsoid.inverse_flattening - 298.257223563) < 1e-6
    )
    greenwich = proj.prime_meridian is None or proj.prime_meridian.longitude == 0
    datum = str(proj.datum.name if proj.datum is not None else "").lower()
    plain = re.search("undefined|unknown|world geodetic system 1984|wgs.?84|^$", datum)
    return CRS("EPSG:4326") if same_shape and greenwich and plain else crs


def keeps_own(path: str | os.PathLike[str], own: CRS) -> str:
    """Text of the warning where a CRS was declared for a file that has another."""
    name = f"EPSG:{own.epsg}" if own.epsg else own.to_wkt()[:60]
    return f"{os.path.basename(os.fspath(path))} keeps its own CRS {name}: --crs declares a missing one"
