"""The environment that libraries see: without what would have them read, skip or load other things.

A variable left over from another installation, or set by somebody else, must not change a result: GDAL would skip its
drivers, HDF5 read through another, PROJ look for its database where there is none, numpy not start.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from importlib.util import find_spec

# What would change which code reads a file, or what it finds there.
_DROPPED = (
    "GDAL_SKIP", "GDAL_DRIVER_PATH", "GDAL_GEOREF_SOURCES", "OGR_SKIP", "GTIFF_IGNORE_READ_ERRORS",
    "GTIFF_POINT_GEO_IGNORE", "GDAL_VRT_ENABLE_PYTHON", "CPL_DEBUG", "CPL_LOG",
    "HDF5_DRIVER", "HDF5_DRIVER_CONFIG", "HDF5_PLUGIN_PATH", "HDF5_VOL_CONNECTOR",
    "GDAL_TIFF_ENDIANNESS", "DASK_SCHEDULER",
)  # fmt: skip
_FOLDERS = {"PROJ_LIB": "proj.db", "PROJ_DATA": "proj.db", "GDAL_DATA": "gdalvrt.xsd"}


def settle(environ: MutableMapping[str, str] = os.environ) -> None:
    """Make ``environ`` safe, before the libraries are imported: they look once."""
    for name in _DROPPED:
        environ.pop(name, None)
    for name in [n for n in environ if n.startswith("TQDM_")]:
        del environ[name]  # of a number that is none, tqdm makes a traceback
    for name, least in (("SOURCE_DATE_EPOCH", 0), ("DASK_NUM_WORKERS", 1)):
        if not least <= _number(environ.get(name, "")) <= _LATEST:
            environ.pop(name, None)
    own = _brings_its_own()
    for name, needed in _FOLDERS.items():
        places = environ.get(name, "").split(os.pathsep)
        if name in environ and (own or not any(os.path.isfile(os.path.join(place, needed)) for place in places)):
            del environ[name]
    environ["HDF5_PLUGIN_PRELOAD"] = "::"  # no plugin is loaded
    environ["PROJ_NETWORK"] = "OFF"


# The last second of the year 9999.
_LATEST = 253402300799


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1


def _brings_its_own() -> bool:
    """Does rasterio have the databases of GDAL and PROJ in its wheel? Those of another installation, which an activated
    conda environment names, are then of another version, and PROJ refuses them.
    """
    spec = find_spec("rasterio")
    places = spec.submodule_search_locations if spec is not None else None
    return any(os.path.isfile(os.path.join(place, "proj_data", "proj.db")) for place in places or ())
