"""Rasters to begin with, whole or odd, made by other libraries: here GeoTIFF, NetCDF in :mod:`fuzz.netcdfs`.

``*_seeds`` are honest files of many layouts, and hostile ones that geosr refuses, so that damage may get them past a
check. ``*_odd`` draw one whose parts are valid each and need not fit together.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.edits import ADDRESS, REALS, SECRET


def columns(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """NO2 columns in mol m-2."""
    return np.random.default_rng(seed).normal(5e-5, 2e-5, shape).astype(np.float32)


@contextlib.contextmanager
def _file(suffix: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="geosr-fuzz-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield Path(folder) / f"a{suffix}"


def made(suffix: str, write: Callable[[Path], Any]) -> bytes:
    with _file(suffix) as path:
        write(path)
        return path.read_bytes()


# --- GeoTIFF ---------------------------------------------------------------------------------------------------


def tiff(
    data: np.ndarray,
    tags: dict[str, str] | None = None,
    describe: dict[str, Any] | None = None,
    overviews: bool = False,
    mask: bool = False,
    **profile: Any,
) -> bytes:
    """A GeoTIFF of ``data`` (band, y, x) by rasterio; ``describe`` sets properties of the open dataset."""
    import rasterio
    from affine import Affine

    n, height, width = data.shape
    place = {"crs": "EPSG:4326", "transform": Affine(0.25, 0, 5, 0, -0.25, 50)}

    def write(path: Path) -> None:
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True, GDAL_NUM_THREADS="1", GDAL_PAM_ENABLED="NO"),
            rasterio.open(path, "w+", **{"driver": "GTiff", "count": n, "height": height, "width": width,
                                         "dtype": data.dtype, **place, **profile}) as file,
        ):  # fmt: skip
            file.write(data)
            if tags:
                file.update_tags(**tags)
            for name, value in (describe or {}).items():
                setattr(file, name, value)
            if mask:
                file.write_mask(columns((height, width)) > 4e-5)
            if overviews:
                file.build_overviews([2, 4], rasterio.enums.Resampling.average)

    return made(".tif", write)


def tiff_seeds() -> list[bytes]:
    """Of many layouts, compressions and kinds of numbers."""
    from affine import Affine
    from rasterio.control import GroundControlPoint as Gcp

    one, counts = columns((1, 24, 20)), (1e6 * columns((1, 24, 20))).astype(np.int16)
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16}
    utm = {"crs": "EPSG:32631", "transform": Affine(7000, 0, 3e5, 0, -5500, 5e6)}
    gcps = [Gcp(r, c, 5 + 0.3 * c, 50 - 0.3 * r) for r, c in ((0, 0), (0, 20), (24, 0), (24, 20))]
    seeds = [
        tiff(one, nodata=np.nan),
        tiff(one, BIGTIFF="YES", compress="lzw", predictor=3, **tiles),
        tiff(one, compress="deflate", predictor=2, BIGTIFF="YES", ENDIANNESS="BIG", **utm),
        tiff(counts, ENDIANNESS="BIG", nodata=-9999, describe={"scales": (1e-6,), "offsets": (0.5,), "units": ("m",)}),
        tiff(one, compress="zstd", overviews=True, mask=True, **tiles),
        tiff(one, compress="packbits", tags={"AREA_OR_POINT": "Point", "units": "mol m-2"}),
        tiff(columns((3, 12, 10)), interleave="pixel", describe={"descriptions": ("NO2 2019-01", "NO2 2019-02", "x")}),
        tiff(columns((3, 12, 10)), interleave="band", compress="lzma"),
        tiff(counts.astype(np.uint8), compress="jpeg", photometric="minisblack"),
        tiff(one, compress="lerc_zstd", **tiles),
        tiff(np.concatenate([one, one > 0]), photometric="minisblack", alpha="unspecified"),
        tiff(one, transform=Affine(0.2, 0.05, 5, 0.04, -0.2, 50)),
        tiff(counts.astype(np.uint8), photometric="palette"),
        tiff(one.astype(np.complex64)),
        tiff(np.zeros((1, 96, 80), "f4"), SPARSE_OK=True, compress="deflate", nodata=0, **tiles),
        tiff(one.astype(np.float64), compress="deflate", crs=None),
        tiff(one, transform=Affine.identity(), gcps=gcps),
        tiff(one, tags={"no2": f"<VRTDataset><SourceFilename>{SECRET.decode()}</SourceFilename></VRTDataset>"}),
    ]
    vrt = b"<VRTDataset rasterXSize='9' rasterYSize='9'><VRTRasterBand dataType='Byte' band='1' "
    vrt += b"subClass='VRTRawRasterBand'><SourceFilename>" + SECRET + b"</SourceFilename></VRTRasterBand></VRTDataset>"
    wms = b"<GDAL_WMS><Service name='TMS'><ServerUrl>" + ADDRESS + b"/${z}/${x}</ServerUrl></Service></GDAL_WMS>"
    return [*seeds, vrt, wms, b"II*\0" + vrt, vrt.replace(SECRET, b"/vsicurl/" + ADDRESS)]


def tiff_odd(rng: random.Random) -> bytes:
    """Any kind of numbers, nodata, packing, place and description."""
    from affine import Affine

    real = lambda: rng.choice((rng.choice(REALS), rng.uniform(-400, 400), rng.gauss(0, 1)))  # noqa: E731
    shape = rng.choice(((1, 1), (1, 9), (7, 1), (2, 2), (7, 13), (24, 20), (33, 17), (48, 48)))
    bands = rng.choice((1, 1, 1, 2, 3, 5))
    dtype = rng.choice(("float32", "float64", "int16", "uint16", "uint8", "int8", "int32", "uint32", "int64", "uint64"))
    data = spoiled(rng, columns((bands, *shape), rng.randrange(9)) * rng.choice((1, 1e5, 1e20, -1e36, 0)), dtype)
    low = -1 if np.dtype(dtype).kind == "f" else 0
    nodata = rng.choice((None, None, 0, 1, low, np.nan if np.dtype(dtype).kind == "f" else 7))
    crs = rng.choice(("EPSG:4326", "EPSG:4326", "EPSG:3857", "EPSG:32661", "EPSG:4979", "EPSG:2193", "EPSG:5714", None,
                      "+proj=ob_tran +o_proj=longlat +o_lat_p=30", "+proj=geos +h=35785831", "EPSG:4978"))  # fmt: skip
    size = rng.choice((0.05, 0.25, 0.25, 1, 1, 30, 180, 1000, 1e-9, 1e12))
    affine = rng.choice((
        Affine(size, 0, rng.uniform(-180, 180), 0, -size, rng.uniform(-60, 80)),
        Affine(size, 0, rng.uniform(-190, 190), 0, -size, rng.uniform(-95, 95)),
        Affine(size, 0, real(), 0, rng.choice((size, -size)), real()),
        Affine(real(), real(), real(), real(), real(), real()),
    ))  # fmt: skip
    properties: dict[str, Any] = {}
    for name in ("scales", "offsets"):
        if rng.random() < 0.3:
            properties[name] = tuple(real() for _ in range(bands))
    if rng.random() < 0.3:
        properties["units"] = tuple(odd_text(rng) for _ in range(bands))
    if rng.random() < 0.4:
        names = ("NO2", "no2_precision", "NO2_count", "2019-01", "", "x" * 99, "a/b", "é\n", "qa", "band")
        properties["descriptions"] = tuple(rng.choice(names) for _ in range(bands))
    tags = {rng.choice(("units", "long_name", "title", "AREA_OR_POINT", "NO2", "TIFFTAG_DATETIME")): odd_text(rng)}
    blocks = rng.choice(({}, {"tiled": True, "blockxsize": 16, "blockysize": rng.choice((16, 32))}))
    try:
        return tiff(data, tags, properties, overviews=rng.random() < 0.1, mask=rng.random() < 0.1, nodata=nodata,
                    crs=crs, transform=affine, compress=rng.choice(("deflate", "lzw", "none")), **blocks)  # fmt: skip
    except Exception:  # what GDAL does not write either
        return tiff(data[:1, :9, :9].astype(np.float32))


def spoiled(rng: random.Random, values: np.ndarray, dtype: str) -> np.ndarray:
    """``values`` as ``dtype``, some of them what stands for missing somewhere."""
    with np.errstate(all="ignore"):
        found = np.nan_to_num(values).astype(dtype) if np.dtype(dtype).kind != "f" else values.astype(dtype)
        flat = found.reshape(-1)
        for _ in range(rng.choice((0, 0, 1, 3))):
            bad = rng.choice((np.nan, np.inf, -np.inf, -9999.0, 9.96921e36, 1e20, -999.0, 0.0, 1e30, -32767))
            many = rng.choice((1, len(flat) // 2, len(flat)))
            bad = (
                bad if np.dtype(dtype).kind == "f" else np.array(np.nan_to_num(bad, posinf=99, neginf=0)).astype(dtype)
            )
            flat[:many] = bad
    return found


def odd_text(rng: random.Random) -> str:
    from fuzz.edits import TEXTS

    return rng.choice(TEXTS).decode("latin-1").replace("\0", " ")
