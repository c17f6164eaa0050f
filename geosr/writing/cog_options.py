"""What ``--co`` may say for a GeoTIFF: options of GDAL's COG driver that leave cells and values what they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from geosr.errors import UsageError
from geosr.writing.codec import Codec, Pyramid, creation_options

BLOCK = 512

_DEFAULTS = {
    "COMPRESS": "DEFLATE",
    "BLOCKSIZE": str(BLOCK),
    "BIGTIFF": "IF_SAFER",
    "OVERVIEWS": "AUTO",
    "OVERVIEW_RESAMPLING": "AVERAGE",
}

#: Creation options of the COG driver that leave cells and values what they are; NUM_THREADS changes nothing here, where
#: each tile's thread compresses it.
OPTIONS = (
    "BIGTIFF",
    "BLOCKSIZE",
    "COMPRESS",
    "GEOTIFF_VERSION",
    "INTERLEAVE",
    "LEVEL",
    "NUM_THREADS",
    "OVERVIEWS",
    "OVERVIEW_COMPRESS",
    "OVERVIEW_COUNT",
    "OVERVIEW_PREDICTOR",
    "OVERVIEW_RESAMPLING",
    "PREDICTOR",
    "SPARSE_OK",
)
_LOSSLESS = ("NONE", "DEFLATE", "ZSTD", "LZW", "LZMA", "LERC", "LERC_DEFLATE", "LERC_ZSTD")
_PREDICTORS = ("YES", "NO", "STANDARD", "FLOATING_POINT")
#: What the others may be, and what to do for more.
_CHOICES = {
    "BIGTIFF": (("YES", "NO", "IF_NEEDED", "IF_SAFER"), ""),
    "GEOTIFF_VERSION": (("AUTO", "1.0", "1.1"), ""),
    "INTERLEAVE": (("BAND",), "interleave by pixel or tile afterwards with gdal_translate"),
    "OVERVIEWS": (("AUTO", "IGNORE_EXISTING", "NONE"), ""),
    "OVERVIEW_COMPRESS": (("AUTO", *_LOSSLESS), ""),
    "OVERVIEW_PREDICTOR": (_PREDICTORS, ""),
    "OVERVIEW_RESAMPLING": (("AVERAGE", "NEAREST"), "make others with OVERVIEWS=NONE and gdaladdo"),
    "PREDICTOR": (_PREDICTORS, ""),
    "SPARSE_OK": (("YES", "NO", "TRUE", "FALSE"), ""),
}


def cog_options(given: Mapping[str, Any] | None) -> dict[str, str]:
    """Options of GDAL's COG driver: geosr's, with ``given`` (``--co KEY=VALUE``) over them.

    Raises
    ------
    UsageError
        An option that the driver does not have, one that would move cells or change values, or a value that is not
        possible here.
    """
    chosen = {str(k).upper(): str(v) for k, v in (given or {}).items()}
    if unknown := sorted(set(chosen) - set(OPTIONS)):
        raise UsageError(
            f"creation option {unknown[0]} is not one for a GeoTIFF by geosr",
            f"use {', '.join(OPTIONS)} (reproject or quantise afterwards with gdal_translate)",
        )
    options = {**_DEFAULTS, **chosen}
    compress = options["COMPRESS"] = options["COMPRESS"].upper()
    if compress not in _LOSSLESS:
        raise UsageError(f"COMPRESS={compress} is not lossless for float32", f"use one of {', '.join(_LOSSLESS)}")
    block = options["BLOCKSIZE"]
    if not block.isdigit() or not 128 <= int(block) <= 8192 or int(block) % 16:
        raise UsageError(f"BLOCKSIZE={block} is not possible", "use a multiple of 16 from 128 to 8192")
    for name in ("LEVEL", "OVERVIEW_COUNT"):
        if not (text := options.get(name, "0")).isdigit() or int(text) > 30:
            raise UsageError(f"{name}={text} is not possible", "use a whole number")
    for name, (allowed, otherwise) in _CHOICES.items():
        if name in options and (value := options[name].upper()) not in allowed:
            hint = f"use {' or '.join(allowed)}"
            raise UsageError(f"{name}={value} is not possible", f"{hint}; {otherwise}" if otherwise else hint)
    return options


@dataclass(frozen=True)
class Recipe:
    """How the file is made: the pyramid, and the codecs of the full resolution and of the overviews."""

    pyramid: Pyramid
    codec: Codec
    overview_codec: Codec
    resampling: str
    sparse: bool
    bigtiff: str
    geotiff: str

    @classmethod
    def of(cls, shape: tuple[int, int], options: Mapping[str, str]) -> Recipe:
        block = int(options["BLOCKSIZE"])
        count = int(options["OVERVIEW_COUNT"]) if "OVERVIEW_COUNT" in options else None
        none = options["OVERVIEWS"].upper() == "NONE"

        def codec(prefix: str) -> Codec:
            coding = creation_options(options, prefix)
            # The coder of the default is another than GDAL's, and has levels of its own.
            fast = dict(coding).items() >= {"COMPRESS": "DEFLATE", "PREDICTOR": "3"}.items() and "LEVEL" not in options
            return Codec(block, coding, fast)

        return cls(
            Pyramid.of(shape, block, 0 if none else count),
            codec(""),
            codec("OVERVIEW_"),
            resampling=options["OVERVIEW_RESAMPLING"].upper(),
            sparse=options.get("SPARSE_OK", "NO").upper() in ("YES", "TRUE"),
            bigtiff=options["BIGTIFF"].upper().replace("IF_SAFER", "IF_NEEDED"),  # the size is known exactly
            geotiff=options.get("GEOTIFF_VERSION", "AUTO"),
        )

    def codec_of(self, level: int) -> Codec:
        return self.overview_codec if level else self.codec
