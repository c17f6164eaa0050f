"""What is not a raster: bundles of models, journals of runs, manifests of outputs, recipes of trainings.

Their texts are changed as trees, with the checksums behind them made right again, or as bytes, with them left wrong.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from fuzz.edits import REALS, SECRET, TEXTS, Spot, damage
from fuzz.fields import hdf5_untimed

Rebuild = Callable[[random.Random, bytes], bytes]

#: The output whose manifests are damaged.
MANIFESTED = b"what is there"
#: Key of the runs whose journals are damaged.
KEY = {"inputs": [["a.nc", "ab"]], "model": ["m", "cd"], "options": {"scale": 4}}


def spoil(rng: random.Random, value: Any, times: int = 1) -> Any:
    """A tree of dicts, lists and plain values with some of its nodes changed, dropped, doubled or moved."""
    try:
        value = json.loads(json.dumps(value))
        list(_nodes(value))
    except RecursionError:  # deep already
        return value
    for _ in range(times):
        try:
            nodes = list(_nodes(value))
        except RecursionError:
            break
        holder, key = rng.choice(nodes)
        what = rng.randrange(8)
        if what == 0:
            del holder[key]
        elif what == 1 and isinstance(holder, list):
            holder.insert(rng.randrange(len(holder) + 1), _leaf(rng))
        elif what == 1:
            holder[rng.choice(TEXTS).decode("latin-1")] = _leaf(rng)
        elif what == 2:
            other, k = rng.choice(nodes)
            if k in other if isinstance(other, dict) else k < len(other):
                holder[key] = json.loads(json.dumps(other[k]))
        elif what == 3:
            holder[key] = [holder[key]]
        elif what == 4 and isinstance(holder[key], (int, float)) and abs(holder[key]) < 1e300:
            holder[key] = rng.choice((-1, 1, 2, 0.5)) * holder[key] + rng.choice((-1, 0, 0.5, 1))
        else:
            holder[key] = _leaf(rng)
        if not value:
            break
    return value


def _nodes(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from _nodes(item)


def _leaf(rng: random.Random) -> Any:
    deep: Any = 1
    for _ in range(rng.choice((1, 3, 60, 900))):
        deep = [deep]
    texts = [t.decode("latin-1") for t in TEXTS] + ["\ud800", "../../etc/passwd", "é" * 200, "x" * 20_000]
    return rng.choice((None, True, False, 0, 1, -1, 2, 3, 4, 64, 65, 1 << 31, 1 << 63, 1 << 70, 10**400, deep,
                       rng.choice(REALS), rng.choice(texts), rng.choice(texts),
                       [], {}, [1, 2], {"a": 1}, {"sha256": "0", "bytes": 1},
                       "srcnn-9-1-5", "edsr-32x6", "1e15 molec cm-2", list(range(9)), [[1, 2], [3]]))  # fmt: skip


def _text(rng: random.Random, value: Any) -> bytes:
    """JSON, of kinds that Python reads and others do not write."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.7).encode("utf-8", "surrogatepass")
    what = rng.randrange(20)
    if what == 0:
        return b"\xef\xbb\xbf" + text
    if what == 1:
        return text.decode("utf-8", "surrogatepass").encode("utf-16", "surrogatepass")
    if what == 2:
        return text.replace(b"1", b"1e999", 1)
    if what == 3:
        return b"[" * rng.choice((100, 5000, 200_000)) + text
    if what == 4:
        return text.replace(b":", b': -Infinity, "x":', 1)
    return text


# --- bundles ---------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def bundle_seeds() -> list[bytes]:
    """Zips of small bundles: with a network of the error, with biases, and with weights for Keras beside."""
    import bundles

    seeds = []
    with tempfile.TemporaryDirectory(prefix="geosr-fuzz-") as folder:
        for i, how in enumerate((
            {"name": "srcnn-9-1-5", "scale": 2},
            {"name": "srcnn-9-1-5", "scale": 3, "sigma": "sigma-16", "envelope": bundles.NO2_ENVELOPE},
            {"name": "srcnn-9-1-5", "scale": 2, "version": "3", "limits": ["none"], "training": {"a": [1]}},
        )):  # fmt: skip
            place = Path(folder) / str(i)
            if "sigma" in how:
                how["sigma"] = _a_sigma()
            bundles.random_bundle(place, **how)
            files = {f.name: f.read_bytes() for f in place.iterdir()}
            if i == 0:
                files = _with_keras(files)
            seeds += (
                [packed(files)] if i else [packed(files), packed({f"model/{n}": d for n, d in files.items()}, False)]
            )
    return seeds


def _a_sigma() -> str:
    from geosr.models.architectures import ARCHITECTURES

    return next(name for name, one in ARCHITECTURES.items() if one.family == "sigma")


def _with_keras(files: dict[str, bytes]) -> dict[str, bytes]:
    """With a ``weights.keras`` beside, where h5py is there."""
    seeds = keras_seeds()
    if not seeds:
        return files
    claims = json.loads(files["card.json"])
    claims["files"]["weights.keras"] = {"sha256": hashlib.sha256(seeds[-1]).hexdigest(), "bytes": len(seeds[-1])}
    return {**files, "card.json": json.dumps(claims).encode(), "weights.keras": seeds[-1]}


@lru_cache(maxsize=1)
def keras_seeds() -> list[bytes]:
    """Weights as Keras lays them out, by h5py: alone, in groups of the older kind, and in a whole model's zip."""
    try:
        import h5py
    except ImportError:
        return []
    from geosr.models.architectures import architecture

    shapes = architecture("srcnn-9-1-5").kernel_shapes(1, 2)
    found = []
    for libver, name in (("earliest", "layers/conv2d{}/vars/{}"), ("latest", "model_weights/conv2d{}/k{}:0")):
        out, begun = io.BytesIO(), time.time()
        with h5py.File(out, "w", libver=libver) as file:
            file.attrs["backend"] = "tensorflow"
            for i, shape in enumerate(shapes):
                layer = f"_{i}" if i else ""
                file[name.format(layer, 0)] = np.full(shape, 0.01, "f4")
                file[name.format(layer, 1)] = np.zeros(shape[-1], "f4")
        found.append(hdf5_untimed(out.getvalue(), begun))
    return [*found, packed({"config.json": b"{}", "metadata.json": b"{}", "model.weights.h5": found[0]})]


def packed(files: dict[str, bytes], deflate: bool = True) -> bytes:
    """A zip."""
    out = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
    with zipfile.ZipFile(out, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one name twice
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return out.getvalue()


def bundle_fields(data: bytes) -> list[Spot]:
    """Local headers, the directory and its end (APPNOTE.TXT 6.3)."""
    spots = []
    for magic, sizes in ((b"PK\3\4", (2, 2, 2, 2, 2, 4, 4, 4, 2, 2)),
                         (b"PK\1\2", (2, 2, 2, 2, 2, 2, 4, 4, 4, 2, 2, 2, 2, 2, 4, 4)),
                         (b"PK\5\6", (2, 2, 2, 2, 4, 4, 2))):  # fmt: skip
        at = data.find(magic)
        while at >= 0:
            place = at + 4
            for size in sizes:
                spots.append(Spot(place, size))
                place += size
            spots.append(Spot(place, 9, "text"))
            at = data.find(magic, at + 4)
    return [s for s in spots if s.at + s.size <= len(data)]


def bundle_rebuilt(rng: random.Random, data: bytes) -> bytes:
    """A bundle with another card, or other arrays whose hash the card has, or an odd archive."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = {n: archive.read(n) for n in archive.namelist()}
        name = next(n for n in files if n.endswith("card.json"))
        card = json.loads(files[name])
    except Exception:  # a damaged parent
        return data
    if rng.random() < 0.5:
        for other in files:
            if other != name and rng.random() < 0.6:
                files[other] = damage(rng, files[other], _words, list(files.values()))
                about = card.get("files", {}).get(other.rpartition("/")[2]) if isinstance(card, dict) else None
                if isinstance(about, dict):
                    about["sha256"] = hashlib.sha256(files[other]).hexdigest()
    else:
        card = spoil(rng, card, rng.choice((1, 1, 2, 4)))
    files[name] = _text(rng, card)
    what = rng.randrange(12)
    if what == 0:
        files[rng.choice(("x/card.json", "../card.json", "/etc/card.json", "a\\card.json", "card.json\0x"))] = files[
            name
        ]
    elif what == 1:
        files["model.onnx"] = bytes(3_000_000)
    elif what == 2:
        files[name] = b" " * 5_000_000 + files[name]
    elif what == 3:
        files[rng.choice(("config.json", "saved_model.pb", "data.pkl", "model.weights.h5"))] = b"\x80\x04."
    return packed(files, rng.random() < 0.8)


def _words(data: bytes) -> list[Spot]:
    """Of protobuf (ONNX) and HDF5 alike: small fields near the beginning and at the ends of long runs of weights."""
    places = [*range(0, min(len(data), 400)), *range(max(0, len(data) - 400), len(data))]
    return [Spot(at, 1) for at in places] + [Spot(at, 4, "real") for at in range(400, len(data) - 400, 97)]


# --- journals --------------------------------------------------------------------------------------------------


def run_to_journal(path: Path, fail_after: int | None = None, resume: bool = False) -> None:
    """Write a small map of four tiles at ``path``; interrupted after some tiles if ``fail_after`` is given."""
    import dask.array as da
    import xarray as xr
    from affine import Affine
    from odc.geo.geobox import GeoBox

    from geosr.grid import with_geobox
    from geosr.provenance import Provenance
    from geosr.writing import atomic, write

    done: list[int] = []

    def cells(block_info: Any = None) -> np.ndarray:
        (top, bottom), (left, right) = block_info[None]["array-location"]
        if fail_after is not None and len(done) >= fail_after:
            raise KeyboardInterrupt
        done.append(top)
        return np.hypot(np.arange(top, bottom)[:, None] / 7, np.arange(left, right) / 3).astype("f4")

    data = da.map_blocks(cells, chunks=((512, 512), (512, 100)), dtype="f4", meta=np.empty((0, 0), "f4"))
    main = xr.DataArray(data, dims=("y", "x"), name="no2", attrs={"units": "mol m-2"})
    ds = with_geobox(main, GeoBox((1024, 612), Affine(0.01, 0, 3, 0, -0.01, 50), "EPSG:4326")).to_dataset()
    provenance = Provenance(created="2024-01-01T00:00:00Z")
    how = {"main": "no2", "key": KEY, "provenance": provenance, "scheduler": "synchronous"}
    with mock.patch.object(atomic, "KEEP_SECONDS", 0.0):
        write(ds, path, resume=resume, overwrite=resume, **how)


@lru_cache(maxsize=1)
def journal_seeds() -> list[bytes]:
    """Of a GeoTIFF and of a NetCDF."""
    seeds = []
    for suffix in (".tif", ".nc"):
        with tempfile.TemporaryDirectory(prefix="geosr-fuzz-") as folder:
            try:
                run_to_journal(Path(folder) / f"a{suffix}", fail_after=3)
            except KeyboardInterrupt:
                seeds.append(next(Path(folder).rglob("journal")).read_bytes())
    return seeds


def lines_of(data: bytes) -> list[Any]:
    """What the lines of a journal hold."""
    found = []
    for line in data.splitlines():
        try:
            found.append(json.loads(line.partition(b" ")[2]))
        except (ValueError, RecursionError):
            continue
    return found


def journal_rebuilt(rng: random.Random, data: bytes) -> bytes:
    """A journal that says something else, with right checksums."""
    lines = lines_of(data)
    if not lines:
        return data
    at = 0 if rng.random() < 0.1 else rng.randrange(len(lines))
    lines[at] = spoil(rng, lines[at], rng.choice((1, 1, 2, 3)))
    if rng.random() < 0.1:
        lines.append(spoil(rng, rng.choice(lines)))
    texts = [json.dumps(line).encode() if rng.random() < 0.9 else _text(rng, line) for line in lines]
    return b"".join(b"%08x %s\n" % (zlib.crc32(text), text) for text in texts)


def journal_fields(data: bytes) -> list[Spot]:
    """Checksums and digits."""
    return [Spot(i, 1, "text") for i, c in enumerate(data) if c in b'0123456789,[]{}" \n']


# --- manifests and recipes -------------------------------------------------------------------------------------


def manifest_seeds() -> list[bytes]:
    """Of a small output, and the same held to :data:`MANIFESTED`, which is what lies beside it."""
    with tempfile.TemporaryDirectory(prefix="geosr-fuzz-") as folder:
        path = Path(folder) / "a.tif"
        run_to_journal(path)
        text = Path(f"{path}.json").read_bytes()
    found = json.loads(text)
    del found["sha256"]
    about = {"bytes": len(MANIFESTED), "sha256": hashlib.sha256(MANIFESTED).hexdigest(), "folder": False}
    return [text, _manifest({**found, "files": {"a.tif": about}})]


def _manifest(found: Any) -> bytes:
    digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    return json.dumps({**found, "sha256": digest}).encode("utf-8", "surrogatepass")


def manifest_rebuilt(rng: random.Random, data: bytes) -> bytes:
    """A manifest that says something else, with its own checksum right."""
    try:
        found = json.loads(data)
        found.pop("sha256", None)
    except (ValueError, AttributeError, RecursionError):
        return data
    if rng.random() < 0.3:
        found["files"] = {rng.choice(("a.tif", "../a.tif", SECRET.decode(), "/", "..", "", "\0")): rng.choice(
            (found.get("files"), {"bytes": 1, "sha256": "", "folder": True}, {"bytes": 1}, None, 3))}  # fmt: skip
    found = spoil(rng, found, rng.choice((0, 1, 1, 2, 3)))
    try:
        return _manifest(found)
    except (TypeError, RecursionError):
        return data


def recipe_seeds() -> list[bytes]:
    """geosr's own, and a small one."""
    import geosr
    from rasters import RECIPE

    own = sorted((Path(geosr.__file__).parent / "recipes").glob("*.toml"))
    return [RECIPE.encode(), *(p.read_bytes() for p in own[:3] + own[-1:])]


def recipe_rebuilt(rng: random.Random, data: bytes) -> bytes:
    """A recipe with other values, by lines."""
    lines = data.decode("utf-8", "replace").splitlines() or [""]
    values = ("true", "-1", "0", "1e400", "nan", "-inf", "9" * 5000, "[]", "{}", '""', '"x"', "2024-01-01", "[[1]]",
              "{a = 1}", "12:00:00", "1.5", "[1, 'a']", '"' + "x" * 9999 + '"', "0x7fffffffffffffffff", '["a", 1]',
              "[" * 3000, '"**/*"', "'/etc/*'", '"2023-99-99"')  # fmt: skip
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(lines))
        key, equals, _ = lines[at].partition("=")
        if equals:
            lines[at] = f"{key}= {rng.choice(values)}" if rng.random() < 0.8 else f"{key}.x = 1"
        elif rng.random() < 0.5:
            del lines[at]
        else:
            lines.insert(at, rng.choice(("[x]", "[[train]]", "[network]", "x = 1", "train = 3", "a.b.c = 1", "[", "=")))
        if not lines:
            lines = [""]
    return "\n".join(lines).encode("utf-8", "replace")


def text_fields(data: bytes) -> list[Spot]:
    """Every eighth byte, as text."""
    return [Spot(at, min(8, len(data) - at), "text") for at in range(0, len(data), 8)]
