"""The Zarr store against xarray and GDAL."""

import sys

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine

from geosr.errors import OutputError, UsageError
from geosr.writing import check_target, write


@pytest.mark.parametrize("shape", [(1, 7), (90, 70), (2, 40, 50)])
def test_the_store_holds_what_the_netcdf_holds(tmp_path, dataset, columns, provenance, shape):
    pytest.importorskip("zarr")
    affine = Affine(1000, 0, 4321000, 0, -1000, 3210000)
    values = columns(*shape)
    ds = dataset(values, affine=affine, crs="EPSG:3035", ancillary=True, chunks=32)
    report = write(ds, tmp_path / "out.zarr", main="no2", provenance=provenance)
    write(ds, tmp_path / "out.nc", main="no2", provenance=provenance)
    files = [tmp_path / "out.zarr.json", *(tmp_path / "out.zarr").rglob("*")]
    assert report.bytes == sum(f.stat().st_size for f in files if f.is_file())
    with (
        xr.open_dataset(tmp_path / "out.zarr", engine="zarr", consolidated=True) as store,
        xr.open_dataset(tmp_path / "out.nc") as netcdf,
    ):
        xr.testing.assert_identical(store, netcdf)
        np.testing.assert_array_equal(store.no2, values)
        assert store.no2.encoding["chunks"][-2:] == tuple(min(32, n) for n in shape[-2:])
    with rasterio.open(f'ZARR:"{tmp_path / "out.zarr"}":/no2') as done:
        assert done.crs.to_epsg() == 3035
        assert set(done.units) == {"mol m-2"}
        np.testing.assert_array_equal(done.read().reshape(shape), values)
        if shape[-2] > 1:  # GDAL takes the grid from the coordinates of a Zarr array
            assert done.transform.almost_equals(affine, 1e-6)


def test_overwriting_replaces_the_whole_store(tmp_path, dataset, columns, provenance):
    pytest.importorskip("zarr")
    path = tmp_path / "out.zarr"
    write(dataset(columns(30, 30), ancillary=True), path, main="no2", provenance=provenance)
    with pytest.raises(OutputError, match="--overwrite"):
        write(dataset(columns(5, 5)), path, main="no2", provenance=provenance)
    write(dataset(columns(5, 5)), path, main="no2", provenance=provenance, overwrite=True)
    with xr.open_dataset(path, engine="zarr") as done:
        assert done.no2.shape == (5, 5)
        assert "no2_count" not in done
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, f"{path.name}.json"]


def test_a_folder_that_is_no_store_is_never_replaced(tmp_path):
    pytest.importorskip("zarr")
    path = tmp_path / "thesis.zarr"
    path.mkdir()
    (path / "chapter1.txt").write_text("irreplaceable")
    with pytest.raises(OutputError, match="not a Zarr store"):
        check_target(path, overwrite=True)


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(UsageError, match=r"geosr\[zarr\]"):
        check_target(tmp_path / "out.zarr")


def test_creation_options_are_refused(tmp_path, dataset, columns, provenance):
    pytest.importorskip("zarr")
    with pytest.raises(UsageError, match="not one for Zarr"):
        write(
            dataset(columns(5, 5)),
            tmp_path / "o.zarr",
            main="no2",
            provenance=provenance,
            creation_options={"COMPRESS": "ZSTD"},
        )


@pytest.mark.parametrize(
    "cuts",
    [
        ((512, 516, 300), (512, 512, 304)),
        ((1536, 1536, 100), (1536, 1000)),
        ((7,) * 50, (350,)),
        ((997, 997), (4999, 4999)),
        ((90,), (70,)),
    ],
)
def test_no_chunk_of_the_store_lies_in_two_tiles(dataset, cuts):
    """Tiles are written at once by threads and workers that know nothing of each other."""
    import dask.array as da

    from geosr.writing.netcdf import chunk_sizes, chunked
    from geosr.writing.stream import plan

    ds = dataset(np.zeros((sum(cuts[0]), sum(cuts[1])), np.float32))
    ds["no2"] = ds.no2.copy(data=da.zeros((sum(cuts[0]), sum(cuts[1])), chunks=cuts, dtype=np.float32))
    job = chunked(plan(ds, "no2"))
    for edges, side in zip(job.edges[1:], chunk_sizes(job.main), strict=True):
        assert all(edge % side == 0 for edge in edges[:-1])
        assert side >= min(128, edges[1])


def test_many_threads_write_ragged_chunks(tmp_path, dataset, columns, provenance):
    pytest.importorskip("zarr")
    import dask

    values = columns(700, 650)
    with dask.config.set(num_workers=8):
        write(
            dataset(values, chunks=((130, 131, 439), (300, 350))),
            tmp_path / "o.zarr",
            main="no2",
            provenance=provenance,
        )
    with xr.open_dataset(tmp_path / "o.zarr", engine="zarr") as done:
        np.testing.assert_array_equal(done.no2, values)


def test_a_tile_that_outlives_its_run_removes_what_it_made_anew(tmp_path, dataset, monkeypatch):
    pytest.importorskip("zarr")
    import shutil

    import zarr as library

    from geosr.writing import zarr
    from geosr.writing.stream import Place, Window

    made = tmp_path / ".o.zarr.partial" / "made.zarr"
    group = library.open_group(made, mode="w", zarr_format=2)
    group.create_array("no2", shape=(8, 8), chunks=(8, 8), dtype="f4")
    sink = zarr.Regions(zarr.Store(made, ("no2",)), (2,))
    tile = Place(0, 1, 0, 8, 0, 8), [Window(0, 0, np.ones((8, 8), np.float32))]
    sink(*tile)
    opened = zarr._opened
    monkeypatch.setattr(zarr, "_opened", lambda store: shutil.rmtree(made.parent) or opened(store))
    sink(*tile)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match="not there for a worker"):
        sink(*tile)
