"""Bad input, rows 98 to 102: options that contradict themselves, the file or the disk."""

from __future__ import annotations

import os

import numpy as np
import pytest

from reading.make import column_file, columns, geotiff, netcdf
from reading.test_s5p_l2 import write
from trust.command import Row, check, geosr, ids, read_map, refused, snapshot

DATA = columns((12, 16))
WHERE = (5, 44, 13, 50)


def tif(folder):
    return geotiff(folder / "in.tif", DATA)


def nc(folder):
    lat, lon = 49.75 - 0.5 * np.arange(12), 5.25 + 0.5 * np.arange(16)
    return column_file(folder / "in.nc", DATA, lat, lon)


def swath(folder):
    return write(folder / "in.nc")


WHOLE = "whole number from 2 to 16|is not a valid integer"
ROWS = [
    *(
        Row(f"98-scale-{s}", tif, 2, WHOLE, ["--scale", s])
        for s in ("0", "-1", "1", "1.5", "1000", "17", "nan", "two", "2e0", "")
    ),
    Row(
        "98-scale-without-a-model", tif, 6, "no model for scale 7.*--method bicubic", ["--scale", 7, "--method", "auto"]
    ),
    *(Row(f"99-tile-{t}", tif, 2, "tile", ["--tile", t]) for t in ("0", "-512", "15", "1.5", "x")),
    *(
        Row(
            f"99-tile-{t}",
            tif,
            options=["--tile", t],
            want=DATA,
            bounds=WHERE,
            decided="a tile smaller than its overlap is enlarged: the result does not depend on it",
        )
        for t in ("16", "1000000")
    ),
    Row("102-suffix-jpg", tif, 2, "suffix", ["-o", "out.jpg"]),
    Row("102-output-without-a-name", tif, 2, "name is empty", ["-o", ""]),
    Row("102-suffix-none", tif, 2, "suffix", ["-o", "out"]),
    Row("102-suffix-of-a-device", tif, 2, "suffix", ["-o", "/dev/null"]),
    Row("101-folder-missing", tif, 5, "does not exist", ["-o", "/nowhere/at/all/out.tif"]),
    Row("101-folder-is-a-file", tif, 5, "", ["-o", "/etc/passwd/out.tif"]),
    # --- where, when, what
    *(
        Row(f"98-bbox-{'-'.join(map(str, b))}", tif, 2, "bbox", ["--bbox", *b])
        for b in [
            ("nan", 44, 13, 50),
            (5, 50, 13, 44),
            (5, 44, 5, 50),
            (5, -91, 13, 50),
            (1000, 44, 1001, 50),
            ("inf", 44, 13, 50),
            (5, 44, 13, "x"),
        ]
    ),
    Row("98-bbox-elsewhere", tif, 3, "outside the grid .W 5 S 44 E 13 N 50.*--bbox", ["--bbox", 100, 10, 110, 20]),
    Row(
        "98-bbox-of-one-cell-nc",
        nc,
        options=["--bbox", 5.1, 49.6, 5.2, 49.7],
        want=DATA[:1, :1],
        bounds=(5, 49.5, 5.5, 50),
    ),
    Row("98-resolution-of-a-grid", tif, 2, "--resolution is for swaths", ["--resolution", 0.1]),
    *(
        Row(f"98-resolution-{r}", swath, c, "resolution|cells", ["--resolution", r])
        for r, c in [("0", 2), ("-1", 2), ("nan", 2), ("inf", 2), ("1e-9", 4), ("x", 2)]
    ),
    Row("98-resolution-enormous", swath, 2, "resolution", ["--resolution", "1e9"]),
    *(Row(f"98-qa-{q}", tif, 2, "qa", ["--qa", q]) for q in ("7", "-0.1", "nan", "x")),
    *(Row(f"98-threads-{n}", tif, 2, "threads", ["--threads", n]) for n in ("0", "-1", "x")),
    Row("98-workers-0", tif, 2, "workers", ["--workers", "0"]),
    Row("98-creation-option-without-value", tif, 2, "KEY=VALUE", ["--co", "NONSENSE"]),
    Row("98-method-unknown", tif, 2, "magic", ["--method", "magic"]),
    Row("98-model-for-bicubic", tif, 2, "bicubic takes no model", ["--model", "no2-edsr-32x6-x2"]),
    Row("98-option-unknown", tif, 2, "--scalle", ["--scalle", "2"]),
    Row("98-crs-for-a-grid-of-its-own-unknown", tif, 3, "not known", ["--crs", "nonsense"]),
]


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_row(row, tmp_path):
    check(row, tmp_path)


def run(path, *args):
    return geosr("downscale", path, "--scale", 2, "--method", "bicubic", *args)


@pytest.mark.parametrize("how", ["same", "dots", "symlink", "hardlink", "case"])
def test_100_output_is_the_input(how, tmp_path):
    path = tif(tmp_path)
    out = {"same": path, "dots": tmp_path / "." / "x" / ".." / "in.tif"}.get(how, tmp_path / "other.tif")
    (tmp_path / "x").mkdir()
    if how == "symlink":
        out.symlink_to(path)
    elif how == "hardlink":
        os.link(path, out)
    elif how == "case":
        out = tmp_path / "IN.tif"
        if not out.exists():
            pytest.skip("this file system tells upper from lower case")
    before = snapshot(tmp_path)
    refused(run(path, "-o", out, "--overwrite"), 2, "the output is the input.*-o")
    assert snapshot(tmp_path) == before


def test_100_output_holds_the_input(tmp_path):
    pytest.importorskip("zarr")
    path, out = tif(tmp_path), tmp_path / "out.zarr"
    assert run(path, "-o", out).code == 0
    inside = path.rename(out / "in.tif")
    before = snapshot(tmp_path)
    refused(run(inside, "-o", out, "--overwrite"), 2, "the output holds the input.*-o")
    assert snapshot(tmp_path) == before


def test_101_output_holds_what_is_another_s(tmp_path):
    pytest.importorskip("zarr")
    path, out = tif(tmp_path), tmp_path / "out.zarr"
    assert run(path, "-o", out).code == 0
    (out / "notes.txt").write_text("precious")
    before = snapshot(tmp_path)
    refused(run(path, "-o", out, "--overwrite"), 5, "notes.txt, which is no part of a Zarr store")
    assert snapshot(tmp_path) == before


def test_101_output_name_is_too_long(tmp_path):
    path = tif(tmp_path)
    before = snapshot(tmp_path)
    refused(run(path, "-o", tmp_path / ("a" * 300 + ".tif")), 5, "too long")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["out.tif", "out.nc"])
def test_101_output_exists(name, tmp_path):
    path, out = tif(tmp_path), tmp_path / name
    out.write_bytes(b"precious")
    before = snapshot(tmp_path)
    refused(run(path, "-o", out), 5, "exists.*--overwrite")
    assert snapshot(tmp_path) == before
    assert run(path, "-o", out, "--overwrite").code == 0
    np.testing.assert_allclose(read_map(out).coarse, DATA, atol=1e-9)


def test_101_output_is_a_folder_of_that_name(tmp_path):
    path = tif(tmp_path)
    (tmp_path / "out.tif").mkdir()
    (tmp_path / "out.tif" / "precious").write_text("x")
    before = snapshot(tmp_path)
    for more in ((), ("--overwrite",)):
        got = run(path, "-o", tmp_path / "out.tif", *more)
        if got.code:
            assert len(got.errors) == 1
            assert snapshot(tmp_path) == before
    assert (tmp_path / "out.tif" / "precious").read_text() == "x"


def test_100_one_input_twice(tmp_path):
    path = tif(tmp_path)
    refused(run(path, path), 2, "named twice")


def test_98_a_swath_and_a_grid(tmp_path):
    (tmp_path / "a").mkdir()
    refused(run(swath(tmp_path / "a"), tif(tmp_path)), 2, "swaths and grids.*in.tif")


def test_85_companions_of_another_shape_do_not_matter(tmp_path):
    lat, lon = 49.75 - 0.5 * np.arange(12), 5.25 + 0.5 * np.arange(16)
    grid = ("latitude", "longitude")
    path = netcdf(
        tmp_path / "in.nc",
        {
            "no2": (grid, DATA, {"ancillary_variables": "no2_precision no2_count nothing"}),
            "no2_precision": (("latitude",), np.ones(12), {}),
            "no2_count": (("other", "longitude"), np.ones((3, 16)), {}),
        },
        lat=lat,
        lon=lon,
    )
    out = tmp_path / "out.tif"
    assert run(path, "-o", out).code == 0
    np.testing.assert_allclose(read_map(out).coarse, DATA, atol=1e-9)
