"""What fuzzing found, and was mended: each case as the smallest input that shows it."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib

import numpy as np
import pytest

from fuzz.documents import MANIFESTED, manifest_seeds
from fuzz.geotiffs import columns, tiff
from fuzz.netcdfs import netcdf, swath_of
from geosr import open_no2
from geosr.errors import InputError, ModelError, RefusedError
from geosr.training.recipe import parse_recipe
from geosr.writing.journal import Journal
from geosr.writing.manifest import check_input, verify


@pytest.fixture(scope="module")
def good_manifest():
    return json.loads(manifest_seeds()[1])


def spoil(found, change):
    """The manifest with ``change`` made to it, and its own checksum right."""
    found = json.loads(json.dumps({k: v for k, v in found.items() if k != "sha256"}))
    change(found)
    return {**found, "sha256": hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()}


def put(*keys, value):
    def change(found):
        for key in keys[:-1]:
            found = found[key]
        found[keys[-1]] = value

    return change


def drop(*keys):
    def change(found):
        for key in keys[:-1]:
            found = found[key]
        del found[keys[-1]]

    return change


@pytest.mark.parametrize(
    "change",
    [
        put("files", "a.tif", value=None),
        put("files", "a.tif", value=[1]),
        drop("files", "a.tif", "bytes"),
        drop("files", "a.tif", "sha256"),
        put("files", "\0", value={"bytes": 1, "sha256": ""}),
        put("files", "..", value={"bytes": 1, "sha256": ""}),
        put("files", "\ud800", value={"bytes": 1, "sha256": ""}),
        put("provenance", value=True),
        drop("created"),
    ],
)
def test_a_manifest_of_another_shape_is_damaged(tmp_path, good_manifest, change):
    """Beside an input too, where anybody may have put it: it is passed over there, like another program's."""
    target = tmp_path / "a.tif"
    target.write_bytes(MANIFESTED)
    manifest = tmp_path / "a.tif.json"
    manifest.write_text(json.dumps(spoil(good_manifest, lambda found: None)))
    assert list(verify(target).files) == ["a.tif"]
    manifest.write_text(json.dumps(spoil(good_manifest, change)))
    with pytest.raises(InputError, match=r"is damaged, or not a manifest"):
        verify(target)
    check_input(target, "0" * 64)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000], ids=["thousands of digits", "lists in lists"])
def test_a_recipe_that_python_cannot_parse_is_no_recipe(value):
    with pytest.raises(ModelError, match="recipe"):
        parse_recipe(f'name = "tiny"\nscale = {value}\n')


@pytest.mark.parametrize("line", ["days = 12:00:00", "noise = [0.1, 2023-10-01]", "coarsen = 2023-10-01T12:00:00"])
def test_times_of_toml_are_no_values_of_a_recipe(line):
    """They passed until the card was written, after the training."""
    text = (
        f'name = "tiny"\nscale = 4\nunits = "mol m-2"\n[[simulate]]\n{line}\n[network]\narchitecture = "srcnn-9-1-5"\n'
    )
    with pytest.raises(ModelError, match=r"simulate\.\w+ = .* does not work; put it in quotes"):
        parse_recipe(text)
    parse_recipe(text.replace(line, ""))


@pytest.mark.parametrize("size", [np.nan, np.inf])
def test_a_geotransform_of_nan_is_none(tmp_path, size):
    """Cells of no size went as far as --bbox."""
    data = tiff(columns((1, 12, 14))).replace(struct.pack("<d", 0.25), struct.pack("<d", size))
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(InputError, match="geotransform"):
        open_no2(tmp_path / "a.tif", bbox=(5, 48, 7, 50))


def test_cells_too_small_for_their_coordinates_have_no_area(tmp_path):
    """Places in cells of 1e-308 degrees are infinite, which went as far as --bbox too."""
    data = tiff(columns((1, 12, 14)))
    at = data.index(struct.pack("<dd", 0.25, 0.25)) + 8
    (tmp_path / "a.tif").write_bytes(data[:at] + struct.pack("<d", 1e-308) + data[at + 8 :])
    with pytest.raises(InputError, match="no area"):
        open_no2(tmp_path / "a.tif", bbox=(5, 48, 7, 50))


@pytest.mark.filterwarnings("ignore::geosr.errors.GeosrWarning")
def test_one_pixel_far_away_does_not_make_a_gigabyte(tmp_path):
    """A swath of 80 pixels, the grid of which would have half a billion cells."""
    swath = swath_of("PRODUCT/", corners=False)
    for name, base, far in (("PRODUCT/longitude", 5, 100), ("PRODUCT/latitude", 45, -60)):
        values = swath[name][1]
        values[:] = base + (values - base) / 10
        values[0, 0, 0] = far
    (tmp_path / "a.nc").write_bytes(netcdf(swath))
    with pytest.raises(RefusedError, match=r"--resolution"):
        open_no2(tmp_path / "a.nc")
    open_no2(tmp_path / "a.nc", resolution=0.5)


@pytest.mark.parametrize("value", [float("inf"), "x", None, [1], True])
def test_a_tile_of_a_journal_is_made_of_numbers(tmp_path, value):
    place = [0, 1, 0, 512, 0, 512]
    moments = [1, 4, 4, 0.0, 1.0, 0.5, 1.0]
    good = [place, [[0, 0, moments]], {"largest": [1.0]}, ["a"]]
    tiles = [good, [[*place[:5], value], *good[1:]], [place, [[0, value, moments]], *good[2:]]]
    if value != float("inf"):  # the least and the greatest of no values
        tiles += [[place, [[0, 0, [*moments[:6], value]]], *good[2:]], [*good[:2], {"largest": [value]}, "a"]]
    lines = [b"%08x %s\n" % (zlib.crc32(t), t) for t in (json.dumps(tile).encode() for tile in tiles)]
    (tmp_path / "journal").write_bytes(b"".join(lines))
    assert [landed.record for landed in Journal(tmp_path, {}).done()] == [["a"]]


@pytest.mark.filterwarnings("ignore::geosr.errors.GeosrWarning")
def test_numbers_that_are_infinite_once_unpacked_are_missing(tmp_path):
    """Floats have scale factors too."""
    data = np.linspace(1e15, 9e15, 168, dtype=np.float32).reshape(1, 12, 14)
    (tmp_path / "a.tif").write_bytes(tiff(data, describe={"scales": (1e24,), "units": ("mol m-2",)}))
    assert np.isnan(open_no2(tmp_path / "a.tif").compute()["field"]).all()


@pytest.mark.parametrize("name", ["scale_factor", "add_offset"])
def test_latitudes_whose_packing_is_text(tmp_path, name):
    """It was netCDF4's error, while geosr looked whether they are a swath's."""
    swath = swath_of("PRODUCT/")
    swath["PRODUCT/latitude"][2][name] = "x"
    (tmp_path / "a.nc").write_bytes(netcdf(swath))
    with pytest.raises(InputError, match=name):
        open_no2(tmp_path / "a.nc")
