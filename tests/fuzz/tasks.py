"""What geosr is asked to do with an input: what its command would do with such a file, and checks of what it gives."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from geosr.errors import GeosrError, ModelError


class Lie(Exception):
    """geosr gave a result that cannot be right."""


def raster(path: Path, options: dict[str, Any]) -> None:
    """``geosr info``, and the field as ``geosr downscale`` reads it; some are refined by two as well."""
    from geosr import open_no2
    from geosr.reading.info import describe

    options = dict(options)
    refined = options.pop("refined", False)
    usual = {k: v for k, v in options.items() if v is not None}
    info = None
    try:
        info = describe(path, **usual)
        json.dumps(info.to_dict(), allow_nan=False)
        info.to_text()
    except GeosrError as error:
        str(error)
    ds = open_no2(path, **usual)
    if math.prod(ds.sizes.values()) > 30_000_000:
        return  # the command streams such a field; here it would be held
    ds = ds.compute()
    _check_field(ds)
    if refined:
        _refine(ds)


def _check_field(ds: Any) -> None:
    """Is it a field on a grid: with a finite affine that has an area, on Earth, and without infinite values?"""
    from geosr.grid import geobox_of
    from geosr.variables import main_variable

    main = main_variable(ds)
    box = geobox_of(main)
    affine = np.array(list(box.affine)[:6])
    if not np.isfinite(affine).all() or not abs(box.affine.determinant) > 0:
        raise Lie(f"a grid with the affine {affine.tolist()}")
    if box.crs is None:
        raise Lie("a grid without CRS")
    if main.dtype != np.float32 or main.shape[-2:] != tuple(box.shape):
        raise Lie(f"{main.dtype}, {main.shape} on a grid of {tuple(box.shape)}")
    if np.isinf(main.values).any():
        raise Lie("infinite values")
    if box.crs.geographic and not box.affine.b and not box.affine.d:
        low, high = sorted((box.boundingbox.bottom, box.boundingbox.top))
        if low < -91 - abs(box.affine.e) or high > 91 + abs(box.affine.e):
            raise Lie(f"latitudes from {low} to {high}")


def _refine(ds: Any) -> None:
    import geosr
    from geosr.variables import main_variable

    main = main_variable(ds)
    if main.size > 200_000:
        return
    fine = geosr.downscale(ds, scale=2, method="bicubic").compute()
    values = main_variable(fine).values
    if values.shape[-1] != 2 * main.shape[-1] or values.shape[-2] != 2 * main.shape[-2]:
        raise Lie(f"{values.shape} of {main.shape}")
    missing = np.isnan(main.values).repeat(2, -1).repeat(2, -2)
    if not np.array_equal(missing, np.isnan(values)):
        raise Lie("what is missing is not missing, or what is there is missing, after refining")


def bundle(path: Path, options: dict[str, Any]) -> None:
    """Load a model, from the zip or unpacked, and refine a small field by it."""
    from geosr.models import load_model

    place = path
    if options.get("folder"):
        place = path.with_suffix(".folder")
        if not _unpack(path, place):
            place = path
    try:
        model = load_model(place)
        str(model)
        if options.get("refined"):
            _predict(model, place)
    finally:
        shutil.rmtree(path.with_suffix(".folder"), ignore_errors=True)


def _unpack(path: Path, place: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            files = {n.rpartition("/")[2]: archive.read(n) for n in archive.namelist()[:20] if "\0" not in n}
        place.mkdir()
        for name, data in files.items():
            if name not in ("", ".", ".."):
                (place / name).write_bytes(data)
    except Exception:  # Python's, on a damaged zip
        shutil.rmtree(place, ignore_errors=True)
        return False
    return True


def _predict(model: Any, place: Path) -> None:
    import geosr

    field = _small_field()
    try:
        fine = geosr.downscale(field, scale=model.scale, model=str(place)).compute()
    except GeosrError as error:
        if isinstance(error, ModelError) or error.exit_code in (2, 3, 4):
            return
        raise
    if fine.shape != tuple(model.scale * n for n in field.shape):
        raise Lie(f"{fine.shape} by a model of scale {model.scale}")


@lru_cache(maxsize=1)
def _small_field() -> Any:
    import xarray as xr
    from affine import Affine
    from odc.geo.geobox import GeoBox

    from geosr.grid import with_geobox

    data = 3 + np.random.default_rng(0).normal(0, 1, (12, 14)).astype("f4")
    field = xr.DataArray(data, dims=("y", "x"), name="no2", attrs={"units": "1e15 molec cm-2"})
    return with_geobox(field, GeoBox((12, 14), Affine(0.2, 0, 3, 0, -0.2, 50), "EPSG:4326"))


def keras(path: Path, options: dict[str, Any]) -> None:
    """Take the weights out of a Keras file."""
    from geosr.models.importing import Wishes, import_keras

    with tempfile.TemporaryDirectory() as folder:
        import_keras(path, Path(folder) / "model", Wishes(scale=2, low=0, high=1e-3, units="mol m-2"))


def journal(path: Path, options: dict[str, Any]) -> None:
    """Go on with a run that was killed, whose journal is this one; the pixels must be those of a run that was not."""
    import rasterio

    from fuzz.documents import run_to_journal

    data = path.read_bytes()
    suffix = ".tif" if b"GeoTIFF" in data else ".nc"
    whole, killed = _killed_run(suffix)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        shutil.copytree(killed, place)
        target = place / f"a{suffix}"
        next(place.rglob("journal")).write_bytes(data)
        run_to_journal(target, resume=True)
        if options.get("honest") and suffix == ".tif":
            with rasterio.open(target) as made:
                if not np.array_equal(made.read(), whole, equal_nan=True):
                    raise Lie("the run that was gone on with differs from one that was not killed")


@lru_cache(maxsize=2)
def _killed_run(suffix: str) -> tuple[Any, Path]:
    """(pixels of a whole run, folder of a killed one)."""
    import rasterio

    from fuzz.documents import run_to_journal

    folder = Path(tempfile.mkdtemp(prefix="killed-"))
    whole = folder / f"whole{suffix}"
    run_to_journal(whole)
    place = folder / "killed"
    place.mkdir()
    with contextlib.suppress(KeyboardInterrupt):
        run_to_journal(place / f"a{suffix}", fail_after=3)
    pixels = None
    if suffix == ".tif":
        with rasterio.open(whole) as file:
            pixels = file.read()
    return pixels, place


def manifest(path: Path, options: dict[str, Any]) -> None:
    """``geosr verify``, and what else asks a manifest."""
    from fuzz.documents import KEY, MANIFESTED
    from geosr.writing.manifest import check_input, is_complete, verify

    target = path.with_name("a.tif")
    target.write_bytes(MANIFESTED)
    path.rename(f"{target}.json")
    is_complete(target, KEY)
    with contextlib.suppress(GeosrError):
        check_input(target, "0" * 64)
    found = verify(target)
    json.dumps(found.to_dict())
    found.line()


def recipe(path: Path, options: dict[str, Any]) -> None:
    """Read a recipe, and write it again."""
    from geosr.training.recipe import parse_recipe, read_recipe

    found = read_recipe(path)
    again = parse_recipe(found.to_toml())
    if again != found:
        raise Lie("a recipe that reads back as another")
    json.dumps(found.to_dict())


TASKS: dict[str, Callable[[Path, dict[str, Any]], None]] = {
    "tiff": raster,
    "netcdf3": raster,
    "hdf5": raster,
    "swath": raster,
    "bundle": bundle,
    "keras": keras,
    "journal": journal,
    "manifest": manifest,
    "recipe": recipe,
}
