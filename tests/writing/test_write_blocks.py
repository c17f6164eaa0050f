"""Blocks, overviews and header of a GeoTIFF against GDAL and numpy."""

import errno
import itertools
import os
from dataclasses import replace

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import Resampling
from rio_cogeo import cog_validate

from geosr.errors import OutputError
from geosr.writing import blocks, codec, tiff, write
from geosr.writing.codec import Codec, Pyramid, half
from geosr.writing.cog_options import Recipe, cog_options


def default_codec(block):
    return Recipe.of((1, 1), cog_options({"BLOCKSIZE": str(block)})).codec


def by_gdal(values, made):
    """``made`` blocks of ``values``, decoded by GDAL: the header of a sparse file that it writes, and our blocks."""
    block = default_codec(128).block
    size = np.array([len(b) for b in made])
    down, across = (-(-n // block) for n in values.shape)
    plain = Codec(16, default_codec(128).options)
    with rasterio.MemoryFile() as memory:
        with memory.open(count=1, height=16, width=16, nodata=np.nan, **plain.profile()):
            pass
        known = tiff.fields_of(bytes(memory.getbuffer()))
    kept = (*tiff.CODING, tiff.BITS, tiff.PHOTOMETRIC, tiff.SAMPLES, tiff.SAMPLE_FORMAT)
    fields = {tag: known[tag] for tag in kept if tag in known}
    fields |= {tiff.WIDTH: tiff.longs(values.shape[1]), tiff.LENGTH: tiff.longs(values.shape[0])}
    fields |= {tiff.TILE_WIDTH: tiff.shorts(block), tiff.TILE_LENGTH: tiff.shorts(block)}
    assert len(made) == down * across
    found = tiff.layout([tiff.Level(fields, size)], 1)
    body = b"".join(len(b).to_bytes(4, "little") + b + b[-4:] for b in made)
    with rasterio.MemoryFile(found.header + body) as file, file.open() as done:
        return done.read(1)


@settings(max_examples=30)
@given(shape=st.tuples(st.integers(1, 300), st.integers(1, 300)), seed=st.integers(0, 99), with_isal=st.booleans())
def test_gdal_decodes_every_block(shape, seed, with_isal):
    values = np.random.default_rng(seed).normal(0, 1e-5, shape).astype(np.float32)
    values[np.random.default_rng(seed).random(shape) < 0.1] = np.nan
    values[0, 0] = -np.inf
    with pytest.MonkeyPatch.context() as patch:
        if not with_isal:
            patch.setattr(codec, "_isal", lambda: None)
        made = default_codec(128).encode(values)
    got = by_gdal(values, made)
    np.testing.assert_array_equal(got.view(np.uint32), values.view(np.uint32))


def test_the_fast_coder_is_what_the_default_uses(monkeypatch):
    pytest.importorskip("isal")
    monkeypatch.setattr(Codec, "_by_gdal", lambda *_: pytest.fail("GDAL was asked"))
    assert len(default_codec(128).encode(np.zeros((130, 10), np.float32))) == 2


@pytest.mark.parametrize("shape", [(8, 6), (7, 5), (1, 1), (1, 9)])
def test_half_is_the_mean_of_valid_cells(shape):
    rng = np.random.default_rng(1)
    values = rng.normal(3e-5, 1e-5, shape).astype(np.float32)
    values[rng.random(shape) < 0.4] = np.nan
    padded = np.pad(values.astype(np.float64), [(0, n % 2) for n in shape], constant_values=np.nan)
    cells = padded.reshape(padded.shape[0] // 2, 2, -1, 2).transpose(0, 2, 1, 3).reshape(-1, 4)
    expected = [np.mean(c[np.isfinite(c)]) if np.isfinite(c).any() else np.nan for c in cells]
    np.testing.assert_allclose(half(values).reshape(-1), expected, rtol=1e-6)
    np.testing.assert_array_equal(half(values, "NEAREST"), values[::2, ::2])


def test_half_does_not_overflow():
    assert half(np.full((4, 4), 3e38, np.float32)) == pytest.approx(np.full((2, 2), 3e38))


@settings(max_examples=12)
@given(
    size=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    chunks=st.sampled_from([128, 256, 384, 512, 300, 1000]),
    gap=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_overviews_are_those_of_gdal(tmp_path_factory, dataset, provenance, size, chunks, gap, seed):
    """On sizes that halve without remainder, where both mean the same cells."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, (256 * size[0], 256 * size[1])).astype(np.float32)
    values[: int(gap * values.shape[0]), 100:] = np.nan
    values[rng.random(values.shape) < 0.1] = np.nan
    folder = tmp_path_factory.mktemp("overviews")
    options = {"BLOCKSIZE": 128, "OVERVIEW_COUNT": 3}
    made = dataset(values, chunks=chunks)
    write(made, folder / "a.tif", main="no2", provenance=provenance, creation_options=options)
    plain = {"driver": "GTiff", "count": 1, "dtype": "float32", "nodata": np.nan, "transform": Affine.scale(2)}
    with rasterio.open(folder / "b.tif", "w", height=values.shape[0], width=values.shape[1], **plain) as other:
        other.write(values, 1)
        other.build_overviews([2, 4, 8], Resampling.average)
    for level in range(3):
        with (
            rasterio.open(folder / "a.tif", overview_level=level) as ours,
            rasterio.open(folder / "b.tif", overview_level=level) as theirs,
        ):
            np.testing.assert_allclose(ours.read(1), theirs.read(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(1100, 700), (513, 40), (2100, 2050), (129, 1)])
@pytest.mark.parametrize("chunks", [(512, 512), (1024, 1024), (300, 77), (1536, 1536)])
def test_the_file_does_not_depend_on_chunks(tmp_path, dataset, columns, provenance, shape, chunks):
    values = columns(*shape)
    for name, cut in (("a", chunks), ("b", shape)):
        write(dataset(values, chunks=cut), tmp_path / f"{name}.tif", main="no2", provenance=provenance)
    with rasterio.open(tmp_path / "a.tif") as a, rasterio.open(tmp_path / "b.tif") as b:
        np.testing.assert_array_equal(a.read(1), values)
        assert a.overviews(1) == b.overviews(1)
        levels = len(a.overviews(1))
    for level in range(levels):
        with (
            rasterio.open(tmp_path / "a.tif", overview_level=level) as a,
            rasterio.open(tmp_path / "b.tif", overview_level=level) as b,
        ):
            np.testing.assert_array_equal(a.read(1), b.read(1))
    assert cog_validate(tmp_path / "a.tif", strict=True, quiet=True) == (True, [], [])


def test_a_tile_without_values_is_compressed_once(tmp_path, dataset, provenance, monkeypatch):
    values = np.full((1024, 2048), np.nan, np.float32)
    values[:512, :512] = 1.0
    seen = []
    encode = Codec.encode
    monkeypatch.setattr(Codec, "encode", lambda self, v: seen.append(np.isnan(v).all()) or encode(self, v))
    codec.missing.cache_clear()
    write(dataset(values, chunks=512), tmp_path / "o.tif", main="no2", provenance=provenance)
    assert sum(seen) <= 1
    with rasterio.open(tmp_path / "o.tif") as done:
        np.testing.assert_array_equal(done.read(1), values)
    write(
        dataset(values, chunks=512),
        tmp_path / "s.tif",
        main="no2",
        provenance=provenance,
        creation_options={"SPARSE_OK": "YES"},
    )
    with rasterio.open(tmp_path / "s.tif") as done:
        np.testing.assert_array_equal(done.read(1), values)
    assert (tmp_path / "s.tif").stat().st_size < (tmp_path / "o.tif").stat().st_size


def test_records_are_small_whatever_the_tile(tmp_path):
    import pickle

    from geosr.writing.stream import Place, Window

    sizes = []
    for side in (512, 2048):
        sink = blocks.BlockSink(
            tmp_path, Pyramid.of((8192, 8192), 512), default_codec(512), default_codec(512), "AVERAGE", 2
        )
        values = np.random.default_rng(0).normal(size=(side, side)).astype(np.float32)
        record = sink(Place(0, 1, 0, side, 0, side), [Window(0, 0, values)])
        sizes.append(len(pickle.dumps(record)))
    assert max(sizes) < 2500


@pytest.mark.parametrize("where", ["header", "first overview", "a block in the middle", "the end", "cut short"])
def test_any_damage_is_found(tmp_path, dataset, columns, provenance, monkeypatch, where):
    from geosr.writing import cog

    verify = cog._verify

    def damaged(made, job, recipe, directory, found, staging):
        data = bytearray(made.read_bytes())
        middle = found.offsets[0][40] + 99
        at = {"header": 300, "first overview": found.offsets[-1][0] + 5, "the end": len(data) - 9}.get(where, middle)
        data[at] ^= 1
        made.write_bytes(data[:-7] if where == "cut short" else data)
        verify(made, job, recipe, directory, found, staging)

    monkeypatch.setattr(cog, "_verify", damaged)
    values = columns(1300, 1200)
    monkeypatch.setattr(blocks, "_FEW", 8)  # so that only a sample is decoded
    with pytest.raises(OutputError, match="reads back differently"):
        write(
            dataset(values, chunks=512),
            tmp_path / "o.tif",
            main="no2",
            provenance=provenance,
            creation_options={"BLOCKSIZE": 128},
        )
    assert list(tmp_path.iterdir()) == []


def test_a_coder_that_lies_is_found(tmp_path, dataset, columns, provenance, monkeypatch):
    """The bytes are what was compressed, but they do not hold the values."""
    real = Codec.encode
    monkeypatch.setattr(Codec, "encode", lambda self, v: real(self, np.nextafter(v, np.float32(1))))
    with pytest.raises(OutputError, match=r"reads back differently \(layer 1, row 0, column 0\)"):
        write(dataset(columns(100, 100)), tmp_path / "o.tif", main="no2", provenance=provenance)


def test_the_sample_covers_small_files_and_a_share_of_large_ones():
    small, large = Pyramid.of((2048, 2048), 512), Pyramid.of((100_000, 80_000), 512)
    assert all(blocks.is_sampled(small, y, x) for y in range(4) for x in range(4))
    rows, cols = large.blocks(0)
    chosen = np.array([[blocks.is_sampled(large, y, x) for x in range(cols)] for y in range(rows)])
    assert chosen.mean() == pytest.approx(1 / 16, rel=0.05)
    assert chosen.any(axis=0).all()
    assert chosen.any(axis=1).all()


@pytest.mark.parametrize("big", ["YES", "NO"])
def test_both_kinds_of_tiff(tmp_path, dataset, columns, provenance, big):
    values = columns(3, 600, 700)
    path = tmp_path / "o.tif"
    write(dataset(values), path, main="no2", provenance=provenance, creation_options={"BIGTIFF": big})
    assert path.read_bytes()[2] == (43 if big == "YES" else 42)
    with rasterio.open(path) as done:
        np.testing.assert_array_equal(done.read(), values)
        assert done.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert cog_validate(path, strict=True, quiet=True) == (True, [], [])


def test_beyond_4_gib_it_becomes_a_bigtiff():
    level = tiff.Level({tiff.WIDTH: tiff.longs(1)}, np.full(6000, 1 << 20))
    found = tiff.layout([level], 1)
    assert found.header[2] == 43
    assert found.size == len(found.header) + 6000 * ((1 << 20) + 8)
    assert (np.diff(found.offsets[0]) == (1 << 20) + 8).all()
    with pytest.raises(ValueError, match="BIGTIFF=NO"):
        tiff.layout([level], 1, "NO")


def test_blocks_have_leaders_and_trailers_in_row_major_order(tmp_path, dataset, columns, provenance):
    path = tmp_path / "o.tif"
    write(dataset(columns(2, 1100, 600)), path, main="no2", provenance=provenance)
    data = path.read_bytes()
    with rasterio.open(path) as done:
        places = [
            [int(done.get_tag_item(f"BLOCK_{w}_{x}_{y}", "TIFF", bidx=b)) for w in ("OFFSET", "SIZE")]
            for b in (1, 2)
            for y in range(3)
            for x in range(2)
        ]
    assert places == sorted(places)
    for offset, size in places:
        assert int.from_bytes(data[offset - 4 : offset], "little") == size
        assert data[offset + size : offset + size + 4] == data[offset + size - 4 : offset + size]


def test_metadata_of_many_bands_are_kept(tmp_path, dataset, columns, provenance):
    """GDAL drops them beyond 32 000 characters."""
    values = columns(200, 12, 10)
    ds = dataset(values, comment="c" * 300)
    write(ds, tmp_path / "o.tif", main="no2", provenance=provenance)
    with rasterio.open(tmp_path / "o.tif") as done:
        assert done.descriptions[199] == "no2 2024-07-18T10:30:00"
        assert set(done.units) == {"mol m-2"}
        assert float(done.tags(200)["STATISTICS_MAXIMUM"]) == np.nanmax(values[199])
        assert done.tags(200)["comment"] == "c" * 300


def test_names_that_xml_cannot_hold(tmp_path, dataset, columns, provenance):
    ds = dataset(columns(5, 5), long_name='a<b & "c"\x07 µ')
    write(ds, tmp_path / "o.tif", main="no2", provenance=provenance)
    with rasterio.open(tmp_path / "o.tif") as done:
        assert done.tags(1)["long_name"] == 'a<b & "c"? µ'


def test_a_hundred_thousand_squared_is_planned_in_a_bounded_graph(dataset):
    import dask.array as da

    from geosr.writing.stream import _Landing, _tasks, _waiting, plan

    data = da.zeros((100_000, 100_000), chunks=1024, dtype=np.float32)
    ds = dataset(np.zeros((2, 2), np.float32))
    job = plan(ds, "no2")
    whole = type(job)((job.main.__class__(data, dims=("y", "x"), name="no2"),), job.box, "y", "x", None)
    assert whole.aligned(512, 1024) is whole
    whole = replace(whole, came=whole.edges)
    tasks = _tasks(whole, print, _waiting(whole, _Landing(None, None), None))
    assert tasks.npartitions == 98 * 98
    assert len(tasks.__dask_graph__().layers) == 2


def test_all_that_makes_a_tile_is_one_task(dataset):
    """Two fields and a check, with a cluster's messages and memory for one; and what another makes is left alone."""
    import dask
    import dask.array as da

    from geosr.tiling import map_tiles, plan_tiles
    from geosr.writing.stream import Place, _Landing, _tasks, _waiting, plan

    def kernel(window, down, across):
        fine = np.repeat(np.repeat(window[2:-2, 2:-2], 2, 0), 2, 1)
        return fine, -fine, np.array([[np.max(fine)]])

    coarse = da.from_array(np.arange(90 * 90.0).reshape(90, 90), chunks=40)
    tiles = plan_tiles((90, 90), tile=50, halo=2, scale=2)
    results = map_tiles(coarse, kernel, tiles, [(coarse.dtype, None), (coarse.dtype, None), (coarse.dtype, (1, 1))])
    fields = [xr.DataArray(data, dims=("y", "x"), name=f"no2_{i}") for i, data in enumerate(results[:2])]
    job = replace(plan(dataset(np.zeros((2, 2), np.float32)), "no2"), checks={"largest": results[2]})

    def done(*fields, checks=job.checks):
        """Number of tasks, and what the terminal ones were given."""
        given = []
        whole = replace(job, fields=fields, checks=checks)
        whole = replace(whole, came=whole.edges)
        graph = _tasks(whole, lambda *args: given.append(args), _waiting(whole, _Landing(None, None), None))
        count = len(dask.optimize(graph)[0].__dask_graph__())
        graph.compute(scheduler="sync")
        return count, {place: (*blocks, *itertools.chain(*checks)) for place, blocks, _, checks in given}

    count, found = done(*fields)
    assert len(tiles.rows) * len(tiles.cols) == len(found) == 16
    assert count == 16 + coarse.npartitions + 2  # the kernel, and what all end with
    apart, other = done(fields[0] + 0, fields[1])
    assert apart > count
    for fused in (None, False):  # tasks of the dataset then stand where keys were
        with dask.config.set({"optimization.fuse.active": fused}):
            optimised = dask.optimize(*fields)
        for place, parts in done(*optimised, checks={})[1].items():
            for part, wanted in zip(parts, found[place][:2], strict=True):
                np.testing.assert_array_equal(part, wanted)
    fine = np.repeat(np.repeat(coarse.compute(), 2, 0), 2, 1)
    for place, (first, second, largest) in found.items():
        wanted = fine[place.top : place.bottom, place.left : place.right]
        assert isinstance(place, Place)
        for one, two, three in ((first, second, largest), other[place]):
            np.testing.assert_array_equal(one, wanted)
            np.testing.assert_array_equal(two, -wanted)
            np.testing.assert_array_equal(three, [[wanted.max()]])


@pytest.mark.parametrize(
    "name", ["INTERLEAVE=PIXEL", "OVERVIEWS=FORCE_USE_EXISTING", "OVERVIEW_COMPRESS=JPEG", "LEVEL=x"]
)
def test_options_that_are_not_possible_here_say_so(name):
    key, value = name.split("=")
    with pytest.raises(Exception, match=name) as caught:
        cog_options({key: value})
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"COMPRESS": "DEFLATE", "PREDICTOR": "3", "ZLEVEL": "1"}),
        ({"LEVEL": "9"}, {"COMPRESS": "DEFLATE", "PREDICTOR": "3", "ZLEVEL": "9"}),
        ({"COMPRESS": "zstd"}, {"COMPRESS": "ZSTD", "PREDICTOR": "3", "ZSTD_LEVEL": "1"}),
        ({"COMPRESS": "LZW", "PREDICTOR": "NO"}, {"COMPRESS": "LZW", "PREDICTOR": "1"}),
        ({"COMPRESS": "LERC_ZSTD", "LEVEL": "5"}, {"COMPRESS": "LERC_ZSTD", "ZSTD_LEVEL": "5"}),
    ],
)
def test_options_become_those_of_the_geotiff_driver(given, expected):
    made = Recipe.of((100, 100), cog_options(given)).codec
    assert dict(made.options) == expected
    assert made.fast == (given == {})


def test_overviews_may_have_another_compression(tmp_path, dataset, columns, provenance):
    values = columns(600, 600)
    options = {"OVERVIEW_COMPRESS": "LZW", "OVERVIEW_RESAMPLING": "NEAREST", "LEVEL": "9"}
    write(dataset(values), tmp_path / "o.tif", main="no2", provenance=provenance, creation_options=options)
    with rasterio.open(tmp_path / "o.tif", overview_level=0) as done:
        np.testing.assert_array_equal(done.read(1), values[::2, ::2])
        assert done.profile["compress"] == "lzw"
    assert cog_validate(tmp_path / "o.tif", strict=True, quiet=True) == (True, [], [])


@pytest.mark.skipif(not hasattr(os, "copy_file_range"), reason="the kernel copies on Linux alone")
@pytest.mark.parametrize("how", ["another file system", "in parts", "not to the end"])
def test_blocks_are_the_same_however_the_kernel_copies(tmp_path, monkeypatch, dataset, columns, provenance, how):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    real, calls = os.copy_file_range, []

    def copy(source, onto, count, start, offset):
        calls.append(count)
        if how == "another file system":
            raise OSError(errno.EXDEV, "cross-device link")
        if how == "not to the end" and len(calls) % 2 == 0:
            return 0
        return real(source, onto, (count + 1) // 2, start, offset)

    ds = dataset(columns(300, 200))
    write(ds, tmp_path / "a.tif", main="no2", provenance=provenance)
    monkeypatch.setattr(os, "copy_file_range", copy)
    write(ds, tmp_path / "b.tif", main="no2", provenance=provenance)
    assert calls
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_a_block_that_is_cut_short_is_no_block(tmp_path, monkeypatch, dataset, columns, provenance):
    real = blocks.copy_blocks

    def cut(directory, *rest):
        for name in directory.files:
            os.truncate(directory.folder / name, 10)
        real(directory, *rest)

    monkeypatch.setattr("geosr.writing.cog.copy_blocks", cut)
    with pytest.raises(OutputError, match="cut short"):
        write(dataset(columns(300, 200)), tmp_path / "a.tif", main="no2", provenance=provenance)
    assert list(tmp_path.iterdir()) == []
