"""Compressed blocks of a GeoTIFF, made in the thread that computed the values.

DEFLATE with the floating-point predictor is the default: every reader has it. Measured on one core, in ns a pixel of a
float32 field of 1024 x 1024 cells interpolated from noisy columns (GDAL 3.12; predictor included; ISA-L's level 3 in
another run, scaled by its level 1):

==============================  =====  =========================
coder                           ns     bytes before / after
==============================  =====  =========================
ISA-L, level 1                  10.0   1.18
ISA-L, level 3                  13.0   1.20
GDAL, ZSTD level 1              12.3   1.20
GDAL, DEFLATE level 1           29.7   1.19
GDAL, DEFLATE level 6           59.2   1.21
==============================  =====  =========================

So Intel's ISA-L (the package ``isal``; it knows x86-64 and ARM) makes the default; where it is absent, and for all
else that ``--co`` may ask for, GDAL does. Levels 1 and 2 of ISA-L give other bytes for the same values in one process
of five (blocks at the edge, with their long runs; found by killing runs and comparing): a run that is gone on with
could not end bit-identical to one that was not. Level 3 gave the same in 150 of 150.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from affine import Affine

#: Level of ISA-L's DEFLATE: 0 does not compress noise, 1 and 2 are not the same from process to process.
_FAST_LEVEL = 3


@dataclass(frozen=True)
class Codec:
    """How the blocks of one image are compressed.

    Attributes
    ----------
    block : side of a block.
    options : creation options of GDAL's GTiff driver that say how (COMPRESS, PREDICTOR, a level).
    fast : DEFLATE with the floating-point predictor, at whatever level is fastest.
    """

    block: int
    options: tuple[tuple[str, str], ...]
    fast: bool = False

    def encode(self, values: np.ndarray) -> list[bytes]:
        """The blocks of ``values`` (float32, 2-D), row by row; those at the edge are filled by its last values."""
        rows, cols = (-n % self.block for n in values.shape)
        if rows or cols:
            values = np.pad(values, ((0, rows), (0, cols)), mode="edge")
        return _fast(values, self.block) if self.fast and _isal() is not None else self._by_gdal(values)

    def _by_gdal(self, values: np.ndarray) -> list[bytes]:
        from rasterio.io import MemoryFile

        with MemoryFile() as memory:
            with memory.open(count=1, height=values.shape[0], width=values.shape[1], **self.profile()) as target:
                target.write(values, 1)
            with memory.open(driver="GTiff") as made:
                places = [
                    [int(made.get_tag_item(f"BLOCK_{what}_{x}_{y}", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE")]
                    for y in range(values.shape[0] // self.block)
                    for x in range(values.shape[1] // self.block)
                ]
            whole = memory.getbuffer()
            return [bytes(whole[offset : offset + size]) for offset, size in places]

    def profile(self) -> dict[str, Any]:
        """For :func:`rasterio.open`: a GeoTIFF with such blocks."""
        side = {"blockxsize": self.block, "blockysize": self.block}
        # Any transform: rasterio warns of a raster that has none.
        where = {"transform": Affine(2, 0, 0, 0, -2, 0)}
        return {"driver": "GTiff", "dtype": "float32", "tiled": True, **side, **where, **dict(self.options)}


@lru_cache(8)
def missing(codec: Codec) -> bytes:
    """A block without any value: compressed once, used for all."""
    (block,) = codec.encode(np.full((codec.block, codec.block), np.nan, np.float32))
    return block


@lru_cache(1)
def _isal() -> Any:
    try:
        from isal import isal_zlib
    except ImportError:
        return None
    return isal_zlib


def _fast(values: np.ndarray, block: int) -> list[bytes]:
    """The floating-point predictor of TIFF (Adobe's Technical Note 3: the bytes of a row, most significant ones first,
    as differences), then ISA-L's DEFLATE.
    """
    found = []
    for top in range(0, values.shape[0], block):
        for left in range(0, values.shape[1], block):
            swapped = values[top : top + block, left : left + block].astype(">f4")
            planes = swapped.view(np.uint8).reshape(block, block, 4).transpose(0, 2, 1).reshape(block, 4 * block)
            planes[:, 1:] -= planes[:, :-1].copy()
            found.append(_isal().compress(planes, _FAST_LEVEL))
    return found


@dataclass(frozen=True)
class Pyramid:
    """The images of a file: full resolution, then overviews, each half the one before.

    Attributes
    ----------
    shape : (rows, columns) of the full resolution.
    block : side of a block.
    overviews : how many.
    """

    shape: tuple[int, int]
    block: int
    overviews: int

    @classmethod
    def of(cls, shape: tuple[int, int], block: int, count: int | None = None) -> Pyramid:
        """With ``count`` overviews, or as many as it takes until the last one fits in a block, as GDAL does."""
        most = max(0, math.ceil(math.log2(max(shape) / block)))
        return cls(shape, block, most if count is None else count)

    @property
    def levels(self) -> range:
        return range(self.overviews + 1)

    def size(self, level: int) -> tuple[int, int]:
        """(rows, columns) of an image: overview cells begin at multiples of 2^level, the last ones may be cut off."""
        return -(-self.shape[0] >> level), -(-self.shape[1] >> level)

    def blocks(self, level: int) -> tuple[int, int]:
        rows, cols = self.size(level)
        return -(-rows // self.block), -(-cols // self.block)

    def shared_level(self, edges: tuple[tuple[int, ...], ...]) -> int:
        """The first level on which tiles with ``edges`` (rows, columns) share blocks; beyond the last one if none."""
        step = math.gcd(*(e for axis in edges for e in axis[1:-1]))
        return next((k for k in self.levels if step % (self.block << k)), self.overviews + 1)


def half(values: np.ndarray, resampling: str = "AVERAGE") -> np.ndarray:
    """The next overview of ``values``: means of 2 x 2 cells over the valid ones (NaN without any), or the first cell.

    An odd last row or column stands for itself. Means of means, as GDAL makes them.
    """
    if resampling == "NEAREST":
        return np.ascontiguousarray(values[::2, ::2])
    if values.shape[0] % 2 or values.shape[1] % 2:
        values = np.pad(values, [(0, n % 2) for n in values.shape], constant_values=np.nan)
    quarter = np.float32(0.25)  # before the sum, which could overflow
    mean = _sum4(values * quarter)
    lost = np.isnan(mean)
    if not lost.any():
        return mean
    missing_cells = np.isnan(values)
    count = 4 - _sum4(missing_cells.astype(np.uint8))
    with np.errstate(divide="ignore", invalid="ignore"):
        return _sum4(np.where(missing_cells, np.float32(0), values * quarter)) * (np.float32(4) / count)


def _sum4(values: np.ndarray) -> np.ndarray:
    rows = values[0::2] + values[1::2]
    return rows[:, 0::2] + rows[:, 1::2]


def creation_options(given: Mapping[str, str], prefix: str = "") -> tuple[tuple[str, str], ...]:
    """Options of GDAL's COG driver (``prefix`` "" or "OVERVIEW_") as those of its GTiff driver."""
    compress = given["COMPRESS"]
    if prefix and (other := given.get("OVERVIEW_COMPRESS", "AUTO").upper()) != "AUTO":
        compress = other
    found = {"COMPRESS": compress}
    predictor = given.get(prefix + "PREDICTOR", given.get("PREDICTOR", "FLOATING_POINT")).upper()
    if compress in ("DEFLATE", "ZSTD", "LZW"):
        found["PREDICTOR"] = {"NO": "1", "STANDARD": "2"}.get(predictor, "3")
    level = given.get("LEVEL", "1" if compress in ("DEFLATE", "ZSTD") else None)
    names = {"DEFLATE": "ZLEVEL", "LERC_DEFLATE": "ZLEVEL", "ZSTD": "ZSTD_LEVEL", "LERC_ZSTD": "ZSTD_LEVEL"}
    names["LZMA"] = "LZMA_PRESET"
    if level is not None and compress in names:
        found[names[compress]] = level
    return tuple(found.items())
