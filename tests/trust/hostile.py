"""Hostile files, made by hand: of TIFF bytes, of netCDF-3 bytes, and by h5py where it is installed."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

SECRET = "the-canary-sings-7f3a"

# --- TIFF ------------------------------------------------------------------------------------------------------

SHORT, LONG, DOUBLE, ASCII, LONG8 = 3, 4, 12, 2, 16
_CODES = {SHORT: "H", LONG: "I", DOUBLE: "d", LONG8: "Q"}


def tiff(path: Path, tags: dict[int, tuple[int, list]], blocks: bytes = b"", size: int = 0) -> Path:
    """A little-endian TIFF of one directory. Values of tags lie behind it, then ``blocks``; padded to ``size``.

    The value "BLOCKS" stands for the place where ``blocks`` begin.
    """
    at = 8 + 2 + 12 * len(tags) + 4
    bodies, entries = b"", b""
    lengths = {t: len(_packed(kind, values, 0)) for t, (kind, values) in tags.items()}
    begin = at + sum(n + n % 2 for n in lengths.values() if n > 4)
    for tag, (kind, values) in sorted(tags.items()):
        data = _packed(kind, values, begin)
        count = len(data) if kind == ASCII else len(values)
        if len(data) <= 4:
            entries += struct.pack("<HHI", tag, kind, count) + data.ljust(4, b"\0")
        else:
            entries += struct.pack("<HHII", tag, kind, count, at + len(bodies))
            bodies += data + b"\0" * (len(data) % 2)
    head = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes((head + bodies + blocks).ljust(size, b"\0"))
    return path


def _packed(kind: int, values: list, begin: int) -> bytes:
    if kind == ASCII:
        return str(values[0]).encode() + b"\0"
    numbers = [begin if v == "BLOCKS" else v for v in values]
    return struct.pack(f"<{len(numbers)}{_CODES[kind]}", *numbers)


def georeference(cell: float = 0.5) -> dict[int, tuple[int, list]]:
    """Tags of a raster in longitude and latitude, at 5 E 50 N."""
    return {
        33550: (DOUBLE, [cell, cell, 0.0]),
        33922: (DOUBLE, [0.0, 0.0, 0.0, 5.0, 50.0, 0.0]),
        34735: (SHORT, [1, 1, 0, 3, 1024, 0, 1, 2, 1025, 0, 1, 1, 2048, 0, 1, 4326]),
    }


def raster_tags(width: int, length: int, bands: int = 1, compression: int = 1, tile: int = 0) -> dict:
    """Tags of a float32 raster, but for the places of its blocks."""
    tags = {
        256: (LONG, [width]),
        257: (LONG, [length]),
        258: (SHORT, [32] * min(bands, 4)),
        259: (SHORT, [compression]),
        262: (SHORT, [1]),
        277: (SHORT, [bands]),
        339: (SHORT, [3]),
        **georeference(0.5 if width < 100 else 1e-4),
    }
    if tile:
        tags |= {322: (LONG, [tile]), 323: (LONG, [tile])}
    else:
        tags[278] = (LONG, [min(length, 2**31)])
    return tags


def huge_tiff(path: Path, side: int = 1_000_000, tiled: bool = True) -> Path:
    """Row 33: some hundred bytes that claim 10^6 x 10^6 pixels."""
    where, counts = (324, 325) if tiled else (273, 279)
    tags = raster_tags(side, side, tile=256 if tiled else 0)
    if not tiled:
        tags[278] = (LONG, [1])
    return tiff(path, tags | {where: (LONG, [8]), counts: (LONG, [4])})


def many_bands_tiff(path: Path, bands: int = 65_535) -> Path:
    """Row 34."""
    tags = raster_tags(8, 8, bands) | {273: (LONG, ["BLOCKS"]), 279: (LONG, [256])}
    return tiff(path, tags, bytes(256))


def big_block_tiff(path: Path, tile: int = 16_384) -> Path:
    """Row 35: one sparse tile of a gigabyte, in a file large enough for the claim of pixels."""
    tags = raster_tags(tile, tile, compression=8, tile=tile) | {324: (LONG, ["BLOCKS"]), 325: (LONG, [260_000])}
    return tiff(path, tags, bytes(260_000))


def zeros_tiff(path: Path, side: int, tile: int = 512) -> Path:
    """Row 36: ``side`` x ``side`` zeros, every tile the same bytes of DEFLATE but written out."""
    packed = zlib.compress(bytes(tile * tile * 4), 9)
    n = (-(-side // tile)) ** 2
    tags = raster_tags(side, side, compression=8, tile=tile)
    head = 8 + 2 + 12 * (len(tags) + 2) + 4 + 200 + 8 * n
    tags |= {324: (LONG, [head + i * len(packed) for i in range(n)]), 325: (LONG, [len(packed)] * n)}
    tiff(path, tags)
    content = path.read_bytes()
    path.write_bytes(content.ljust(head, b"\0") + packed * n)
    return path


def chained_tiff(path: Path, images: int) -> Path:
    """A chain of ``images`` directories of one tag each."""
    body = b"II*\0" + struct.pack("<I", 8)
    for i in range(images):
        following = 0 if i == images - 1 else 8 + 18 * (i + 1)
        body += struct.pack("<HHHIHHI", 1, 60000, SHORT, 1, 7, 0, following)
    path.write_bytes(body)
    return path


def xml_tag_tiff(path: Path) -> Path:
    """Row 32: a small raster whose GDAL_METADATA is a billion laughs."""
    laughs = "<!DOCTYPE l [<!ENTITY a0 'ha'>" + "".join(f"<!ENTITY a{i} '{f'&a{i - 1};' * 10}'>" for i in range(1, 11))
    xml = f"{laughs}]><GDALMetadata><Item name='x'>&a10;</Item></GDALMetadata>"
    data = (np.arange(64, dtype="<f4") * 1e-6).tobytes()
    tags = raster_tags(8, 8) | {273: (LONG, ["BLOCKS"]), 279: (LONG, [256]), 42112: (ASCII, [xml])}
    return tiff(path, tags, data)


# --- XML that is no raster -------------------------------------------------------------------------------------


def vrt(path: Path, source: str, tag: str = "SourceFilename") -> Path:
    """Rows 18 and 20: a virtual raster that reads ``source``."""
    path.write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="8"><SRS>EPSG:4326</SRS>'
        "<GeoTransform>5,0.5,0,50,0,-0.5</GeoTransform>"
        f'<VRTRasterBand dataType="Float32" band="1"><SimpleSource><{tag} relativeToVRT="0">{source}</{tag}>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    return path


def raw_vrt(path: Path, source: str) -> Path:
    """Row 19: a virtual raster of the bytes of ``source``."""
    path.write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="2"><SRS>EPSG:4326</SRS>'
        '<GeoTransform>5,0.5,0,50,0,-0.5</GeoTransform><VRTRasterBand dataType="Byte" band="1" '
        f'subClass="VRTRawRasterBand"><SourceFilename relativetoVRT="0">{source}</SourceFilename>'
        "<ImageOffset>0</ImageOffset><PixelOffset>1</PixelOffset><LineOffset>8</LineOffset>"
        "</VRTRasterBand></VRTDataset>"
    )
    return path


def wms(path: Path, url: str) -> Path:
    """Row 21."""
    path.write_text(
        f'<GDAL_WMS><Service name="TMS"><ServerUrl>{url}</ServerUrl></Service>'
        "<DataWindow><SizeX>8</SizeX><SizeY>8</SizeY></DataWindow><BandsCount>1</BandsCount></GDAL_WMS>"
    )
    return path


# --- netCDF-3 --------------------------------------------------------------------------------------------------


def netcdf3_header(path: Path, side: int, version: int = 1) -> Path:
    """A header alone, which claims a float32 variable of ``side`` x ``side``."""
    n, place = (">q", ">q") if version == 5 else (">i", ">i" if version == 1 else ">q")

    def count(value: int) -> bytes:
        return struct.pack(n, value)

    def name(text: str) -> bytes:
        return count(len(text)) + text.encode() + b"\0" * (-len(text) % 4)

    body = b"CDF" + bytes([version]) + count(0)
    body += struct.pack(">i", 10) + count(2)
    for dim in ("lat", "lon"):
        body += name(dim) + count(side)
    body += struct.pack(">i", 0) + count(0)
    body += struct.pack(">i", 11) + count(1) + name("no2") + count(2) + count(0) + count(1)
    body += struct.pack(">i", 0) + count(0) + struct.pack(">i", 5) + count(2**31 - 4)
    body += struct.pack(place, 200)
    path.write_bytes(body.ljust(512, b"\0"))
    return path


# --- HDF5, by h5py ---------------------------------------------------------------------------------------------


def _grid(file, h5py) -> None:
    """Coordinates of an 8 x 8 grid, as netCDF-4 has them."""
    for name, values in (("latitude", 50 - 0.5 * np.arange(8)), ("longitude", 5 + 0.5 * np.arange(8))):
        scale = file.create_dataset(name, data=values)
        scale.make_scale(name)
        scale.attrs["units"] = "degrees_north" if name == "latitude" else "degrees_east"


def hdf5(path: Path, kind: str, other: Path | None = None, size: int = 0) -> Path:
    """An HDF5 file that is hostile in the way ``kind``; ``other`` is the file that it is after."""
    import h5py

    values = np.linspace(1e-5, 2e-5, 64, dtype="f4").reshape(8, 8)
    with h5py.File(path, "w") as file:
        _grid(file, h5py)
        if kind == "external storage":
            file.create_dataset("no2", (8, 8), "f4", external=[(str(other), 0, h5py.h5f.UNLIMITED)])
        elif kind == "external link":
            file["no2"] = h5py.ExternalLink(str(other), "/secret")
        elif kind == "virtual":
            layout = h5py.VirtualLayout((8, 8), "f4")
            layout[:] = h5py.VirtualSource(str(other), "secret", (8, 8))
            file.create_virtual_dataset("no2", layout)
        elif kind == "soft loop":
            file["a"], file["b"] = h5py.SoftLink("/b"), h5py.SoftLink("/a")
            file["no2"] = values
        elif kind == "hard cycle":
            group = file.create_group("a/b")
            group["back"] = file["a"]
            file["no2"] = values
        elif kind == "two ways":
            for i in range(30):
                file.create_group("/" + "a/" * (i + 1))
            for i in range(30):
                file["/" + "a/" * (i + 1)]["b"] = file["/" + "a/" * (i + 1)].get("a") or file["a"]
            file["no2"] = values
        elif kind == "filter":
            file.create_dataset("no2", data=values, chunks=(8, 8), compression="lzf")
        elif kind == "claims":
            file.create_dataset("no2", (size, size), "f4", chunks=(512, 512))
        elif kind == "line":
            file.create_dataset("no2", (size,), "f4", chunks=(4096,))
        elif kind == "chunk":
            file.create_dataset("no2", (size, 16_384), "f4", chunks=(size, 16_384), compression="gzip")
        elif kind == "thrice":
            how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            how.set_chunk((8, 8))
            for _ in range(3):
                how.set_filter(h5py.h5z.FILTER_DEFLATE, 0, (9,))
            space = h5py.h5s.create_simple((8, 8))
            h5py.h5d.create(file.id, b"no2", h5py.h5t.NATIVE_FLOAT, space, how)
            file["no2"][...] = values
        elif kind == "variables":
            for i in range(size):
                file.create_dataset(f"v{i}", (), "f4")
        elif kind == "depth":
            group = file
            for _ in range(size):
                group = group.create_group("g")
            deepest = group
            deepest["no2"] = values
        else:
            raise ValueError(kind)
        if "no2" in file and kind not in ("external link",):
            node = file["no2"]
            node.attrs["units"] = "mol m-2"
            if node.shape == (8, 8):
                node.dims[0].attach_scale(file["latitude"])
                node.dims[1].attach_scale(file["longitude"])
    return path


def secret_hdf5(path: Path) -> Path:
    """What links and virtual datasets are after."""
    import h5py

    with h5py.File(path, "w") as file:
        file["secret"] = np.frombuffer((SECRET * 20).encode()[:256], "f4").reshape(8, 8)
    return path
