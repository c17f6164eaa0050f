"""Bad input, rows 103 to 107: models from strangers, through the command.

In a bundle nothing is code; a file that could be is refused, and never opened by what would run it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from bundles import random_bundle
from geosr.models import load_model
from geosr.models.bundle import CARD, KERAS, ONNX
from reading.make import columns, geotiff
from trust.command import geosr, read_map, refused, snapshot

DATA = columns((24, 20)) + np.float32(1e-3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A good bundle, of one channel, for scale 2."""
    return random_bundle(tmp_path_factory.mktemp("bundle") / "m", scale=2)


@pytest.fixture
def place(tmp_path, whole):
    """A folder with a field, a copy of the bundle, and room for the output."""
    (tmp_path / "m").mkdir()
    for file in whole.iterdir():
        (tmp_path / "m" / file.name).write_bytes(file.read_bytes())
    geotiff(tmp_path / "in.tif", DATA, units="mol m-2")
    return tmp_path


def run(place, model, *more, scale=2):
    return geosr("downscale", place / "in.tif", "--scale", scale, "-o", place / "out.tif", "--model", model, *more)


def is_refused(place, model, *words, code=6, **more):
    before = snapshot(place)
    line = refused(run(place, model, **more), code, *words)
    assert snapshot(place) == before
    return line


def edit(folder, **changes):
    card = json.loads((folder / CARD).read_text())
    card.update(changes)
    (folder / CARD).write_text(json.dumps(card))
    return folder


def sign(folder):
    """Give the card the hashes of the files as they are, as a forger would."""
    data = (folder / ONNX).read_bytes()
    return edit(folder, files={ONNX: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}})


def zipped(folder, target, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(target, "w", method) as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    return target


def test_a_good_one_runs(place):
    got = run(place, place / "m")
    assert got.code == 0, got.err
    np.testing.assert_allclose(read_map(place / "out.tif").coarse, DATA, rtol=2e-6)
    assert run(place, zipped(place / "m", place / "m.zip"), "--overwrite").code == 0


# --- 103: damaged --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("name", [CARD, ONNX])
def test_103_truncated(place, name, cut):
    data = (place / "m" / name).read_bytes()
    (place / "m" / name).write_bytes(data[: int(cut * len(data))])
    is_refused(place, place / "m", name)


@pytest.mark.parametrize("at", [0, 0.3, 0.7, -1])
def test_103_one_bit(place, at):
    data = bytearray((place / "m" / ONNX).read_bytes())
    data[int(at * len(data)) if at >= 0 else -1] ^= 1
    (place / "m" / ONNX).write_bytes(data)
    is_refused(place, place / "m", r"model.onnx is not the file that the card describes \(sha256\)")


def test_103_bits_anywhere_signed(place):
    """The hash is the forger's own: then the file is read, and what comes of it is numbers or a refusal."""
    whole = (place / "m" / ONNX).read_bytes()
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(150):
        data = bytearray(whole)
        for at in rng.integers(0, 400 if rng.random() < 0.7 else len(data), rng.integers(1, 8)):
            data[at] = int(rng.integers(256))
        if rng.random() < 0.3:
            data = data[: rng.integers(len(data))]
        (place / "m" / ONNX).write_bytes(data)
        got = geosr("downscale", place / "in.tif", "--scale", 2, "--model", sign(place / "m"), "--dry-run")
        assert "Traceback" not in got.err
        assert got.code in (0, 6), got.err
        outcomes.add(got.code)
    assert outcomes == {0, 6}


@pytest.mark.parametrize("cut", [0.2, 0.9, 0.999])
def test_103_truncated_zip(place, cut):
    archive = zipped(place / "m", place / "m.zip")
    data = archive.read_bytes()
    archive.write_bytes(data[: int(cut * len(data))])
    is_refused(place, archive, "not a model bundle|cannot be read")


def test_103_bits_in_a_zip(place):
    archive = zipped(place / "m", place / "m.zip")
    whole = archive.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(60):
        data = bytearray(whole)
        for at in rng.integers(-400 if rng.random() < 0.5 else -len(data), 0, 3):
            data[at] ^= 1 << int(rng.integers(8))
        archive.write_bytes(data)
        got = geosr("downscale", place / "in.tif", "--scale", 2, "--model", archive, "--dry-run")
        assert got.code in (0, 6), got.err
        assert "Traceback" not in got.err


# --- 104: code -----------------------------------------------------------------------------------------------------


class _Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def lambda_keras(place, canary):
    """A real .keras whose layer is a lambda, as Keras writes it."""
    keras = pytest.importorskip("keras", reason="needs Keras (extra: tensorflow)")
    text = str(canary)
    layer = keras.layers.Lambda(lambda x, text=text: (open(text, "w").close(), x)[1])
    model = keras.Sequential([keras.Input((4,)), layer])
    model.save(place / "evil.keras")
    canary.unlink(missing_ok=True)  # building the model ran it
    return place / "evil.keras"


def config_keras(place, canary):
    """A .keras by hand whose configuration names a function to call."""
    config = {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"}
    layer = {"class_name": "Lambda", "module": "keras.layers", "config": {"function": config, "name": "x"}}
    with zipfile.ZipFile(place / "evil.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Sequential", "config": {"layers": [layer]}}))
        archive.writestr("metadata.json", "{}")
        archive.writestr("model.weights.h5", b"")
    return place / "evil.keras"


def tfsm_keras(place, canary):
    with zipfile.ZipFile(place / "evil.keras", "w") as archive:
        layer = {"class_name": "TFSMLayer", "config": {"filepath": str(place), "call_endpoint": "serve"}}
        archive.writestr("config.json", json.dumps({"class_name": "Sequential", "config": {"layers": [layer]}}))
        archive.writestr("model.weights.h5", b"")
    return place / "evil.keras"


def whole_h5(place, canary):
    h5py = pytest.importorskip("h5py")
    with h5py.File(place / "evil.h5", "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Lambda", "config": str(canary)})
    return place / "evil.h5"


def a_pickle(place, canary):
    (place / "evil.pkl").write_bytes(pickle.dumps(_Canary(canary)))
    return place / "evil.pkl"


def disguised_pickle(place, canary):
    (place / "evil.zip").write_bytes(pickle.dumps(_Canary(canary)))
    return place / "evil.zip"


def torch_zip(place, canary):
    with zipfile.ZipFile(place / "evil.pth", "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps(_Canary(canary)))
    return place / "evil.pth"


def numpy_pickle(place, canary):
    np.save(place / "evil.npy", np.array([_Canary(canary)], dtype=object), allow_pickle=True)
    return place / "evil.npy"


def saved_model(place, canary):
    folder = place / "evil"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"\x08\x01")
    return folder


def a_graph(place, canary):
    (place / "evil.onnx").write_bytes((place / "m" / ONNX).read_bytes())
    return place / "evil.onnx"


FOREIGN = [
    (lambda_keras, "geosr models import evil.keras"),
    (config_keras, "whole Keras models are refused.*geosr models import"),
    (tfsm_keras, "geosr models import"),
    (whole_h5, "geosr models import evil.h5"),
    (a_pickle, "pickles.*run code"),
    (disguised_pickle, "pickles"),
    (torch_zip, "pickles, PyTorch's"),
    (numpy_pickle, "not a model bundle"),
    (saved_model, "SavedModel.*code"),
    (a_graph, "a graph alone"),
]


@pytest.mark.parametrize(("make", "words"), FOREIGN, ids=[f"104-{m.__name__}" for m, _ in FOREIGN])
def test_104_files_that_may_be_code(place, make, words):
    canary = place / "canary"
    path = make(place, canary)
    is_refused(place, path, words)
    before = snapshot(place)
    got = geosr("models", "import", path, "--scale", 2, "-o", place / "made")
    refused(got, 6)
    assert snapshot(place) == before
    assert not canary.exists()


def test_104_nothing_beside_a_bundle_matters(place):
    """Files that the card does not name are not opened: code, pickles, a .keras."""
    for name in ("__init__.py", "model.py", "hook.pkl", KERAS, "saved_model.pb"):
        (place / "m" / name).write_bytes(b"raise SystemExit(99)")
    assert run(place, place / "m").code == 0


# --- 105: cards ----------------------------------------------------------------------------------------------------

NAN = float("nan")


def _nested(depth):
    return {"a": _nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale": 3}, "shape|radius|scale 3"),
        ({"scale": NAN}, "'scale'"),
        ({"scale": 1e9}, "'scale'"),
        ({"scale": 10**30}, "scale"),
        ({"scale": -2}, "scale"),
        ({"radius": 10**9}, "'radius'"),
        ({"radius": NAN}, "'radius'"),
        ({"channels": 3}, "shape"),
        ({"channels": 0}, "'channels'"),
        ({"architecture": "__import__('os')"}, "not known"),
        ({"architecture": "srcnn-9-5-5"}, "shape|radius"),
        ({"architecture": ["srcnn-9-1-5"]}, "'architecture'"),
        ({"equivariant": False}, "bias"),
        ({"scaler": {"offset": NAN, "scale": 1.0, "units": None}}, "scaler"),
        ({"scaler": {"offset": 0, "scale": 0, "units": None}}, "unusable|scaler"),
        ({"scaler": {"offset": 0, "scale": 1e300, "units": None}}, "scaler"),
        ({"scaler": {"offset": 0, "scale": 1e-300, "units": None}}, "scaler"),
        ({"scaler": {"offset": 10**400, "scale": 1, "units": None}}, "not usable|not JSON"),
        ({"scaler": {"offset": 0, "scale": 1, "units": "furlongs"}}, "furlongs"),
        ({"scaler": {"offset": 0, "scale": 1, "units": "9**9**9"}}, "not known"),
        ({"scaler": {"offset": 0, "scale": 1, "units": 7}}, "scaler"),
        ({"scaler": {"offset": [0], "scale": 1}}, "scaler"),
        ({"name": "x" * 100_000}, "'name'"),
        ({"name": "a\x1b[31m\nb"}, "'name'"),
        ({"name": ""}, "'name'"),
        ({"limits": 3}, "'limits'"),
        ({"skill": [1, 2]}, "'skill'"),
        ({"training": "mine"}, "'training'"),
        ({"training": _nested(60)}, "nesting"),
        ({"envelope": {"units": 3, "coarse_cell_m": "x"}}, "envelope is unusable"),
        ({"envelope": {"coarse_cell_m": [NAN, 1]}}, "envelope is unusable"),
        ({"envelope": {"statistics": [1]}}, "envelope is unusable"),
        ({"envelope": {"statistics": {"noise": [3, 1]}}}, "envelope is unusable"),
        ({"sigma": {"architecture": "sigma-24x4"}}, "no sigma.onnx"),
        ({"sigma": []}, "'sigma'"),
        ({"files": {}}, "no model.onnx"),
        ({"files": {"../../../etc/passwd": {"sha256": ""}}}, "no such model has"),
        ({"files": {"/etc/passwd": {"sha256": ""}}}, "no such model has"),
        ({"files": {ONNX: {"sha256": None}}}, "sha256"),
        ({"files": {ONNX: {}}}, "sha256"),
        ({"format": "geosr-model/999"}, "not a geosr model card"),
    ],
)  # fmt: skip
def test_105_cards(place, changes, words):
    is_refused(place, edit(place / "m", **changes), words)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "NaN", "{", "\x00", '"x"', "[" * 200_000, '{"a":' * 200_000, "9" * 100_000, "\ufeff{}"]
)
def test_105_no_cards(place, text):
    (place / "m" / CARD).write_text(text)
    is_refused(place, place / "m", CARD)


def test_105_a_card_of_another_encoding(place):
    (place / "m" / CARD).write_bytes(b"\xff\xfe" + "{}".encode("utf-16-le"))
    is_refused(place, place / "m", CARD)


def test_105_another_scale(place):
    is_refused(place, place / "m", "for scale 2, not 4.*--model no2-edsr-32x6-x4", scale=4)


def test_105_three_channels(tmp_path, place):
    from geosr.models import onnx_network
    from geosr.models.architectures import architecture

    arch = architecture("srcnn-9-1-5")
    arrays = [(np.ones(s, "f4"), None) for s in arch.kernel_shapes(3, 2)]
    (place / "m" / ONNX).write_bytes(onnx_network.write(arch, arrays, 2))
    sign(edit(place / "m", channels=3))
    is_refused(place, place / "m", "needs 3 channels, a field is one")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_105_weights_that_are_none(place, value):
    from geosr.models import onnx_network
    from geosr.models.architectures import architecture

    arrays = load_model(place / "m").arrays()
    arrays[1][0].flat[7] = value
    (place / "m" / ONNX).write_bytes(onnx_network.write(architecture("srcnn-9-1-5"), arrays, 2))
    is_refused(place, sign(place / "m"), "NaN or infinity")


@pytest.mark.parametrize(
    "name", ["nonesuch", "", "no2-edsr-32x6-x2/../x", "/dev/zero", "https://example.org/m.zip", "."]
)
def test_105_no_model(place, name):
    is_refused(place, name, "model")


def test_105_a_pipe_is_no_model(place):
    os.mkfifo(place / "pipe")
    refused(run(place, place / "pipe"), 6, "no such model")


# --- 106, 107: bombs and reaching out --------------------------------------------------------------------------------


def peak_mb(args):
    """Peak resident memory in MB of a run of its own, and its exit code; what other tests loaded does not count."""
    code = (
        "import re, sys\nfrom geosr_cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n"
        # Not ru_maxrss, which a process inherits from the one that started it.
        "    peak = re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1]\n"
        "    print(int(stop.code or 0), int(peak) / 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=300)
    exit_code, peak = done.stdout.split()[-2:]
    assert "Traceback" not in done.stderr
    return int(exit_code), float(peak)


def keras_bomb(place, gigabytes=3):
    """3 GB of zeros in 3 MB, as the weights in a .keras: it takes Keras 6.5 GB."""
    with zipfile.ZipFile(place / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        with archive.open("model.weights.h5", "w", force_zip64=True) as stream:
            block = b"\0" * (16 << 20)
            for _ in range(gigabytes * 64):
                stream.write(block)
    return place / "bomb.keras"


@pytest.mark.slow
def test_106_keras_bomb(place):
    bomb = keras_bomb(place)
    for args in (
        ("downscale", place / "in.tif", "--scale", 2, "--model", bomb),
        ("models", "import", bomb, "--scale", 2, "-o", place / "made"),
    ):
        code, peak = peak_mb(args)
        assert code == 6
        assert peak < 1000


@pytest.mark.parametrize("name", [CARD, ONNX])
@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_106_bundle_bomb(place, name, method):
    """Many zeros in little: only as many are unpacked as could be a model's; odd methods are not tried at all."""
    with zipfile.ZipFile(place / "m.zip", "w", method) as archive:
        for file in (CARD, ONNX):
            data = b"\0" * (64 << 20) if file == name else (place / "m" / file).read_bytes()
            archive.writestr(file, data)
    words = "larger|not the file" if method == zipfile.ZIP_DEFLATED else "another method than deflate"
    is_refused(place, place / "m.zip", words)


def test_106_a_zip_of_names(place):
    """The directory of a zip is read whole: 50,000 names."""
    with zipfile.ZipFile(place / "m.zip", "w") as archive:
        for i in range(50_000):
            archive.writestr(f"{i}", b"")
    is_refused(place, place / "m.zip", "is no model")


def test_106_a_zip_that_lies_about_its_sizes(place):
    archive = zipped(place / "m", place / "m.zip", zipfile.ZIP_STORED)
    data = bytearray(archive.read_bytes())
    at = 0
    while (at := data.find(b"PK\x01\x02", at)) >= 0:
        struct.pack_into("<II", data, at + 20, 10, 0x7FFFFFFF)
        at += 4
    archive.write_bytes(data)
    is_refused(place, archive, "")


def test_106_names_twice(place):
    with zipfile.ZipFile(place / "m.zip", "w") as archive:
        for file in (CARD, ONNX, "other/" + CARD):
            archive.write(place / "m" / os.path.basename(file), file)
    is_refused(place, place / "m.zip", "2 files card.json")


def test_106_an_encrypted_zip(place):
    archive = zipped(place / "m", place / "m.zip")
    data = bytearray(archive.read_bytes())
    for magic, flag in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = 0
        while (at := data.find(magic, at)) >= 0:
            data[at + flag] |= 1
            at += 4
    archive.write_bytes(data)
    is_refused(place, archive, "cannot be read")


def test_107_weights_stored_elsewhere(place):
    h5py = pytest.importorskip("h5py")
    inner = io.BytesIO()
    with h5py.File(inner, "w") as file:
        file.create_dataset("layers/conv2d/vars/0", (9, 9, 1, 64), "f4", external=[("/etc/passwd", 0, 20736)])
    with zipfile.ZipFile(place / "evil.keras", "w") as archive:
        archive.writestr("model.weights.h5", inner.getvalue())
    got = geosr("models", "import", place / "evil.keras", "--scale", 2, "-o", place / "made")
    refused(got, 6, "external")
    assert not (place / "made").exists()


# --- the import, through the command --------------------------------------------------------------------------------


def test_import_and_use(place):
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    with h5py.File(place / "mine.weights.h5", "w") as file:
        for i, shape in enumerate([(9, 9, 1, 64), (1, 1, 64, 32), (5, 5, 32, 1)]):
            name = "layers/conv2d" + (f"_{i}" if i else "") + "/vars"
            file[f"{name}/0"] = rng.normal(0, 1 / np.sqrt(np.prod(shape[:3])), shape).astype("f4")
            file[f"{name}/1"] = np.zeros(shape[3], "f4")
    span = ["--range", 0, 2e-3, "--units", "mol m-2"]
    got = geosr(
        "models", "import", place / "mine.weights.h5", "--architecture", "9-1-5", "--scale", 2, "-o", place / "b", *span
    )
    assert got.code == 0, got.err
    assert "not known" in got.err
    card = json.loads((place / "b" / CARD).read_text())
    assert card["scaler"] == {"offset": 0.0, "scale": 2e-3, "units": "mol m-2"}
    got = run(place, place / "b", "--json")
    assert got.code == 0, got.err
    assert json.loads(got.out)["envelope"].startswith("unknown")
    assert any("is not known" in w for w in got.warnings)
    np.testing.assert_allclose(read_map(place / "out.tif").coarse, DATA, rtol=2e-6)
    again = geosr("models", "import", place / "mine.weights.h5", "--scale", 2, "-o", place / "b")
    refused(again, 5, "--overwrite")
    listing = geosr(
        "models", "import", place / "mine.weights.h5", "--scale", 2, "-o", place / "b", "--overwrite", "--json"
    )
    assert json.loads(listing.out)["architecture"] == "srcnn-9-1-5"


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--scale", 2], 2, "--output"),
        (["-o", "x"], 2, "--scale"),
        (["--scale", 1, "-o", "x"], 2, "whole number"),
        (["--scale", 2, "-o", "x", "--range", 1, 1], 2, "--range"),
        (["--scale", 2, "-o", "x", "--range", "nan", 1], 2, "--range"),
        (["--scale", 2, "-o", "x", "--units", "furlongs"], 3, "furlongs"),
        (["--scale", 2, "-o", "x", "--architecture", "vgg"], 6, "vgg"),
        (["--scale", 2, "-o", "x.zip"], 2, "folder"),
        (["--scale", 2, "-o", "x"], 6, "no such model"),
    ],
)
def test_import_options(tmp_path, monkeypatch, args, code, words):
    monkeypatch.chdir(tmp_path)
    refused(geosr("models", "import", "nothing.h5", *args), code, words)
    assert not list(tmp_path.iterdir())
