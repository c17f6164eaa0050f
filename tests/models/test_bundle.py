"""Bundles: what is written is read, and nothing else is."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile

import numpy as np
import pytest

from geosr.errors import ModelError
from geosr.models import load_model, onnx_network
from geosr.models.bundle import CARD, KERAS, ONNX, SIGMA_KERAS, SIGMA_ONNX, Card, load_bundle


def same(a, b):
    return all(
        np.array_equal(k1, k2) and (b1 is None) == (b2 is None) and (b1 is None or np.array_equal(b1, b2))
        for (k1, b1), (k2, b2) in zip(a, b, strict=True)
    )


@pytest.mark.parametrize(
    ("name", "channels", "equivariant"),
    [("srcnn-9-1-5", 1, True), ("srcnn-9-3-5", 3, False), ("srcnn-9-5-5", 2, True), ("edsr-16x4", 2, False)],
)
def test_round_trip(make_bundle, name, channels, equivariant):
    folder, card, arrays = make_bundle(name, channels, equivariant)
    bundle = load_bundle(folder)
    assert bundle.card == card
    assert same(bundle.onnx_arrays(), arrays)
    assert bundle.sha256 == hashlib.sha256((folder / CARD).read_bytes()).hexdigest()


@pytest.mark.parametrize("prefix", ["", "random/"])
def test_zip_is_as_good_as_a_folder(random_bundle, tmp_path, prefix):
    folder, card, arrays = random_bundle
    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.iterdir():
            archive.write(file, prefix + file.name)
    bundle = load_bundle(tmp_path / "m.zip")
    assert bundle.card == card
    assert same(bundle.onnx_arrays(), arrays)


def test_onnx_file_by_the_onnx_package(make_bundle):
    """Referee: the onnx package reads the same graph and weights, and finds nothing to complain about."""
    onnx = pytest.importorskip("onnx")
    folder, _, arrays = make_bundle("srcnn-9-5-5", 2, False)
    model = onnx.load(folder / ONNX)
    onnx.checker.check_model(model, full_check=True)
    assert [n.op_type for n in model.graph.node] == ["Conv", "Relu", "Conv", "Relu", "Conv", "Identity"]
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for i, (kernel, bias) in enumerate(arrays, start=1):
        assert np.array_equal(weights[f"conv{i}.kernel"], kernel.transpose(3, 2, 0, 1))
        assert np.array_equal(weights[f"conv{i}.bias"], bias)


def test_keras_alone_opens_the_weights(random_bundle):
    """No custom object in the file: it stays useful without geosr."""
    keras = pytest.importorskip("keras")
    folder, _, arrays = random_bundle
    model = keras.saving.load_model(folder / KERAS, safe_mode=True, compile=False)
    assert np.array_equal(model.get_weights()[1], arrays[1][0])


# --- what is refused ---


@pytest.mark.parametrize("scale", [2, 3])
def test_residual_blocks_by_the_onnx_package(make_bundle, scale):
    onnx = pytest.importorskip("onnx")
    folder, _, _ = make_bundle("edsr-16x4", 1, True, scale, sigma="sigma-24x4")
    for name in (ONNX, SIGMA_ONNX):
        model = onnx.load(folder / name)
        onnx.checker.check_model(model, full_check=True)
        assert model.graph.node[-1].op_type == "DepthToSpace"


def test_sigma_network_travels_with_the_model(make_bundle):
    keras = pytest.importorskip("keras")
    folder, card, _ = make_bundle("edsr-16x4", sigma="sigma-24x4")
    assert set(card.files) == {ONNX, KERAS, SIGMA_ONNX, SIGMA_KERAS}
    bundle = load_bundle(folder)
    assert bundle.network("sigma").name == "sigma-24x4"
    alone = keras.saving.load_model(folder / SIGMA_KERAS, safe_mode=True, compile=False)
    kernels = [kernel for kernel, _ in bundle.onnx_arrays("sigma")]
    assert all(np.array_equal(a, b) for a, b in zip(alone.get_weights(), kernels, strict=True))


def test_no_sigma_network(random_bundle):
    with pytest.raises(ModelError, match="no sigma network"):
        load_bundle(random_bundle[0]).onnx_arrays("sigma")
    model = load_model(random_bundle[0])
    assert not model.has_sigma
    with pytest.raises(ModelError, match="no sigma network"):
        model.sigma(np.zeros((20, 20), np.float32))


@pytest.fixture
def copy(random_bundle, tmp_path):
    return shutil.copytree(random_bundle[0], tmp_path / "copy")


def edit_card(folder, **changes):
    raw = json.loads((folder / CARD).read_text())
    raw.update(changes)
    (folder / CARD).write_text(json.dumps(raw))


def sign(folder):
    """Give the card the hashes of the files as they are, like a forger would."""
    files = {n: {"sha256": hashlib.sha256((folder / n).read_bytes()).hexdigest()} for n in (ONNX, KERAS)}
    edit_card(folder, files=files)


def refused(place, match):
    with pytest.raises(ModelError, match=match) as caught:
        load_bundle(place)
    assert caught.value.exit_code == 6
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", [ONNX, KERAS])
def test_one_flipped_bit(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    refused(copy, f"{name} is not the file that the card describes")


def test_keras_weights_are_optional(copy, random_bundle):
    """A bundle that does not name them is whole."""
    files = json.loads((copy / CARD).read_text())["files"]
    (copy / KERAS).unlink()
    edit_card(copy, files={ONNX: files[ONNX]})
    assert same(load_bundle(copy).onnx_arrays(), random_bundle[2])


@pytest.mark.parametrize("name", [CARD, ONNX, KERAS])
def test_missing_file(copy, name):
    (copy / name).unlink()
    assert str(copy) in str(refused(copy, f"no {name}"))


def test_truncated_zip(random_bundle, tmp_path):
    shutil.make_archive(str(tmp_path / "m"), "zip", random_bundle[0])
    data = (tmp_path / "m.zip").read_bytes()
    (tmp_path / "m.zip").write_bytes(data[: len(data) // 2])
    refused(tmp_path / "m.zip", "not a model bundle")


@pytest.mark.parametrize("name", ["model.h5", "model.keras", "model.hdf5"])
def test_whole_keras_models(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n")
    refused(tmp_path / name, "refused")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"architecture": "os.system"}, "not known"),
        ({"scale": 1}, "scale 1"),
        ({"scale": "4"}, "scale"),
        ({"scale": True}, "scale"),
        ({"radius": 3}, "radius"),
        ({"channels": 1_000_000}, "channels"),
        ({"channels": 2}, "shape"),
        ({"residual": "yes"}, "residual"),
        ({"equivariant": False}, "bias"),
        ({"scaler": {"offset": 0, "scale": 0, "units": None}}, "unusable"),
        ({"scaler": {"offset": "a", "scale": 1, "units": None}}, "not usable"),
        ({"scaler": {"fn": "eval"}}, "not usable"),
        ({"format": "other"}, "not a geosr model card"),
        ({"files": {"../../secret": {"sha256": ""}}}, "no such model has"),
        ({"files": {SIGMA_ONNX: {"sha256": ""}}}, "no such model has"),
        ({"architecture": "sigma-24x4"}, "architecture"),
        ({"sigma": "sigma-24x4"}, "sigma"),
        ({"sigma": {"architecture": "srcnn-9-1-5"}}, "sigma"),
        ({"sigma": {"architecture": "sigma-24x4"}}, "no sigma.onnx"),
        ({"envelope": []}, "envelope"),
        ({"files": {}}, "no model.onnx"),
        ({"files": {ONNX: "x"}}, ONNX),
    ],
)
def test_wrong_cards(copy, changes, match):
    edit_card(copy, **changes)
    refused(copy, match)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "null", "NaN", "\x00\xff"])
def test_cards_that_are_no_cards(copy, text):
    (copy / CARD).write_text(text)
    refused(copy, CARD)


def test_huge_card_and_huge_file(copy):
    (copy / ONNX).write_bytes(b"\0" * (1 << 20))
    sign(copy)
    refused(copy, "larger than srcnn-9-1-5 can be")
    (copy / CARD).write_bytes(b" " * (2 << 20))
    refused(copy, "larger")


@pytest.mark.parametrize("cut", [0, 1, 100, 5000, -1])
def test_signed_but_damaged_onnx(copy, cut):
    data = (copy / ONNX).read_bytes()
    (copy / ONNX).write_bytes(data[:cut])
    sign(copy)
    refused(copy, ONNX)


def test_signed_nan(copy, random_bundle):
    arrays = [(k.copy(), b) for k, b in random_bundle[2]]
    arrays[1][0][0, 0, 0, 0] = np.nan
    (copy / ONNX).write_bytes(onnx_network.write(Card("n", "srcnn-9-1-5", 4, 6).network, arrays, 4))
    sign(copy)
    refused(copy, "NaN")


def test_signed_graph_with_another_operator_does_not_run(copy, random_bundle):
    """The graph of the file is not what runs: only its weights are taken."""
    data = (copy / ONNX).read_bytes().replace(b"Relu", b"Sqrt")
    (copy / ONNX).write_bytes(data)
    sign(copy)
    x = np.random.default_rng(0).normal(size=(20, 20)).astype(np.float32)
    assert np.array_equal(load_model(copy).predict(x), load_model(random_bundle[0]).predict(x))


def test_keras_weights_are_not_opened(copy, random_bundle):
    """Whatever is in them, signed: every engine runs the numbers of the ONNX file."""
    pytest.importorskip("tensorflow")
    with zipfile.ZipFile(copy / KERAS, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", b"no HDF5")
        archive.writestr("config.json", '{"class_name": "Lambda"}')
    sign(copy)
    x = np.random.default_rng(0).normal(size=(20, 20)).astype(np.float32)
    want = load_model(random_bundle[0]).predict(x)
    np.testing.assert_allclose(load_model(copy).predict(x, engine="tensorflow"), want, atol=1e-5 * np.ptp(want))
