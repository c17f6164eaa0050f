"""Any grid, any numbers: through ``geosr.downscale``, into a file and back, geometry, mask and columns are kept.

What may come instead is one of geosr's own errors, where the row of the matrix of bad input says so; never another one.
The grids are random in shape, place, CRS, orientation and dtype, their gaps in form, the run in scale, tile and chunks.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

import dask
import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

import geosr
from bundles import random_bundle
from geosr.errors import GeosrWarning, InputError, OutputError, RefusedError
from geosr.grid import geobox_of
from geosr.reading.place import check_place
from reading.make import netcdf
from strategies import field, geoboxes
from trust.command import read_map

DTYPES = ["float32", "float64", "int16", "uint8", "uint16", "int32", ">f4", ">i2"]
GAPS = ["none", "one", "block", "rim", "stripes", "checkerboard", "scatter", "all but one", "all"]


def gaps(shape, kind, seed):
    """Which cells are missing."""
    missing, rng = np.zeros(shape, bool), np.random.default_rng(seed)
    r, c = (int(rng.integers(n)) for n in shape)
    if kind == "one":
        missing[r, c] = True
    elif kind == "block":
        missing[r : r + 6, c : c + 9] = True
    elif kind == "rim":
        missing[:] = True
        missing[1:-1, 1:-1] = False
    elif kind == "stripes":
        missing[:, :: 1 + r % 3 + 1] = True
    elif kind == "checkerboard":
        missing = np.indices(shape).sum(0) % 2 == 1
    elif kind == "scatter":
        missing = rng.random(shape) < 0.3
    elif kind in ("all", "all but one"):
        missing[:] = True
        missing[r, c] = kind == "all"
    return missing


@dataclass(frozen=True)
class Case:
    """A random field, coarse, as it is meant: float64 with NaN where missing; and how it is stored and run."""

    box: GeoBox
    want: np.ndarray
    raw: np.ndarray
    nodata: float
    scale: int
    tile: int
    chunk: int
    seed: int


def is_on_earth(box):
    """A field beyond a pole is refused."""
    try:
        check_place(box)
    except InputError:
        return False
    return True


@st.composite
def cases(draw, max_side=24):
    box = draw(geoboxes(max_side=max_side).filter(is_on_earth))
    dtype, seed = np.dtype(draw(st.sampled_from(DTYPES))), draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    size = draw(st.sampled_from([1e-5, 1.0, 3e15])) if dtype.kind == "f" else 40.0
    values = rng.gamma(2, size, box.shape) - (size if draw(st.booleans()) else 0)
    missing = gaps(box.shape, draw(st.sampled_from(GAPS)), seed)
    if dtype.kind == "f":
        values = values.astype(dtype.newbyteorder("="))
        nodata = draw(st.sampled_from([np.nan, -9999.0, 9.96921e36, 0.0]))
        nodata = float(np.asarray(nodata, values.dtype)) if dtype.itemsize == 4 else nodata
    else:
        values = np.clip(np.round(values), 1, 200).astype(dtype.newbyteorder("="))
        nodata = float(draw(st.sampled_from([0, 255] if dtype.itemsize == 1 else [0, 9999, 255])))
    raw = np.where(missing, np.asarray(nodata, values.dtype), values)
    want = np.where(missing | (raw == nodata), np.nan, raw.astype(np.float64))
    return Case(
        box,
        want,
        raw.astype(dtype),
        nodata,
        draw(st.integers(2, 5)),
        draw(st.sampled_from([16, 33, 64, 512])),
        draw(st.sampled_from([1, 5, 7, 100])),
        seed,
    )


def same_map(got, case):
    """Does the map, north-up, hold the coarse field ``case.want``: bounds, mask, columns?"""
    south_up = case.box.affine.e > 0 and not case.box.affine.b
    want = case.want[::-1] if south_up else case.want
    assert got.torn == 0
    assert got.coarse.shape == want.shape
    np.testing.assert_array_equal(np.isnan(got.coarse), np.isnan(want))
    largest = np.nanmax(np.abs(want), initial=0)
    np.testing.assert_allclose(got.coarse, want, rtol=0, atol=3e-6 * largest)


def same_bounds(got, box):
    b = box.boundingbox
    size = max(abs(v) for v in b)
    np.testing.assert_allclose(got.bounds, (b.left, b.bottom, b.right, b.top), rtol=0, atol=1e-9 * size)


def write_tif(folder, case):
    with rasterio.open(
        folder / "in.tif",
        "w",
        driver="GTiff",
        height=case.raw.shape[0],
        width=case.raw.shape[1],
        count=1,
        dtype=case.raw.dtype.newbyteorder("="),
        crs=str(case.box.crs),
        transform=case.box.affine,
        nodata=case.nodata,
        tiled=case.seed % 2 == 0,
        blockxsize=16,
        blockysize=16,
        compress=["none", "deflate", "lzw"][case.seed % 3],
    ) as file:
        file.write(case.raw.astype(case.raw.dtype.newbyteorder("=")), 1)
    return folder / "in.tif"


def write_nc(folder, case):
    """Only grids without rotation; in metres with a grid mapping."""
    ny, nx = case.raw.shape
    a, geographic = case.box.affine, case.box.crs.geographic
    y, x = a.f + a.e * (np.arange(ny) + 0.5), a.c + a.a * (np.arange(nx) + 0.5)
    names = ("lat", "lon") if geographic else ("y", "x")
    units = ("degrees_north", "degrees_east") if geographic else ("m", "m")
    filled = {} if np.isnan(case.nodata) else {"_FillValue": np.asarray(case.nodata, case.raw.dtype)[()]}
    format = ["NETCDF4", "NETCDF3_CLASSIC"][case.seed % 2 if case.raw.dtype.kind != "u" else 0]
    variables = {
        names[0]: ((names[0],), y, {"units": units[0]}),
        names[1]: ((names[1],), x, {"units": units[1]}),
        "crs": ((), np.int32(0), {"crs_wkt": case.box.crs.to_wkt()}),
        "no2": (names, case.raw, {"grid_mapping": "crs", **filled}),
    }
    return netcdf(folder / "in.nc", variables, format=format)


def through_a_file(case, form, method="bicubic", model=None):
    from geosr.jobs import downscale_files

    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore", GeosrWarning)
        folder = Path(name)
        path = write_tif(folder, case) if form == "tif" else write_nc(folder, case)
        out = folder / ("out.nc" if case.seed % 5 == 0 and not case.box.affine.b else "out.tif")
        downscale_files([path], out, scale=case.scale, tile=case.tile, method=method, model=model)
        assert not [p for p in folder.iterdir() if "partial" in p.name]
        got = read_map(out, case.scale)
    same_map(got, case)
    same_bounds(got, case.box)


FAST = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
LONG = settings(FAST, max_examples=200)


def in_memory(case):
    data = field(case.box, case.want.astype("f8" if case.raw.dtype.itemsize == 8 else "f4"))
    with warnings.catch_warnings(), dask.config.set(scheduler="synchronous"):
        warnings.simplefilter("ignore", GeosrWarning)
        lazy = data.chunk(dict(zip(data.dims, (case.chunk, case.chunk + 2), strict=True)))
        fine = geosr.downscale(lazy, case.scale, method="bicubic", tile=case.tile).compute()
        whole = geosr.downscale(data, case.scale, method="bicubic")
    largest = np.nanmax(np.abs(case.want), initial=0)
    np.testing.assert_allclose(fine, whole, rtol=0, atol=2e-6 * largest)  # neither chunks nor tiles matter
    repeated = case.want.repeat(case.scale, 0).repeat(case.scale, 1)
    np.testing.assert_array_equal(np.isnan(fine), np.isnan(repeated))
    box = geobox_of(fine)
    assert box.shape == repeated.shape
    np.testing.assert_allclose(tuple(box.boundingbox), tuple(case.box.boundingbox), rtol=1e-12)


@given(cases())
@FAST
def test_in_memory(case):
    in_memory(case)


@given(cases(), st.sampled_from(["tif", "nc"]))
@FAST
def test_through_a_file(case, form):
    through_a_file(case, "tif" if case.box.affine.b else form)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A network with random weights for each scale."""
    folder = tmp_path_factory.mktemp("models")
    return {s: random_bundle(folder / f"x{s}", "edsr-16x4", scale=s) for s in (2, 3, 4, 5)}


@given(case=cases(max_side=14))
@settings(FAST, max_examples=10)
def test_through_a_network_and_a_file(models, case):
    through_a_file(case, "tif", "auto", models[case.scale])


@given(cases(), st.sampled_from(["tif", "nc"]), st.data())
@FAST
def test_wrong_in_one_thing_is_an_error_of_geosr(case, form, data):
    """One byte of the head changed, or the file cut: the same map, another one, or an error of geosr's own."""
    from geosr.jobs import downscale_files

    form = "tif" if case.box.affine.b else form
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        path = write_tif(folder, case) if form == "tif" else write_nc(folder, case)
        raw = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            raw[data.draw(st.integers(0, min(len(raw), 2000) - 1))] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            del raw[data.draw(st.integers(1, len(raw) - 1)) :]
        path.write_bytes(raw)
        before = {p.name for p in folder.iterdir()}
        try:
            downscale_files([path], folder / "out.tif", scale=2, method="bicubic")
        except (InputError, RefusedError, OutputError):
            after = {p.name for p in folder.iterdir()}
            if after != before:
                raise


@pytest.mark.slow
@given(case=cases(max_side=60))
@LONG
def test_in_memory_long(case):
    in_memory(case)


@pytest.mark.slow
@given(case=cases(max_side=60), form=st.sampled_from(["tif", "nc"]))
@LONG
def test_through_a_file_long(case, form):
    through_a_file(case, "tif" if case.box.affine.b else form)
