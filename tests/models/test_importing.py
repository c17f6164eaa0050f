"""Weights of Keras files made into bundles: the same network, and nothing else of the file."""

from __future__ import annotations

import contextlib
import io
import json
import os
import zipfile

import numpy as np
import pytest

from geosr import interpolate
from geosr.errors import ModelError, OutputError, UsageError
from geosr.models import load_model
from geosr.models.architectures import architecture
from geosr.models.importing import MOST_BYTES, Wishes, import_keras, match, read_arrays

h5py = pytest.importorskip("h5py")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SHAPES = {name: architecture(name).kernel_shapes(1, 4) for name in ("srcnn-9-1-5", "srcnn-9-3-5-n64", "srcnn-9-5-5")}


def weights(name="srcnn-9-1-5", seed=0):
    rng = np.random.default_rng(seed)
    return [
        (rng.normal(0, 1 / np.sqrt(np.prod(s[:3])), s).astype("f4"), rng.normal(0, 0.1, s[3]).astype("f4"))
        for s in SHAPES[name]
    ]


def hdf5(arrays=None, layout="layers/conv2d{}/vars/{}", names=("0", "1"), more=()):
    """An HDF5 file like those of Keras 3, as bytes; ``more``: path -> array, or a function of the file."""
    out = io.BytesIO()
    with h5py.File(out, "w") as file:
        for i, pair in enumerate(weights() if arrays is None else arrays):
            for key, array in zip(names, pair, strict=True):
                if array is not None:
                    file[layout.format(f"_{i}" if i else "", key)] = array
        for path, value in dict(more).items():
            if callable(value):
                value(file)
            else:
                file[path] = value
    return out.getvalue()


def made(tmp_path, data, name="m.weights.h5", **wishes):
    (tmp_path / name).write_bytes(data)
    card = import_keras(tmp_path / name, tmp_path / "bundle", Wishes(**{"scale": 4, **wishes}))
    return load_model(tmp_path / "bundle"), card


def keras_zip(inner, **more):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", inner)
        for name, text in more.items():
            archive.writestr(f"{name}.json", text)
    return out.getvalue()


def srcnn(name, padding="same", functional=False, dtype="float32"):
    """The network as a stranger would have written it."""
    keras = pytest.importorskip("keras", reason="needs Keras (extra: tensorflow)")
    layers = [
        keras.layers.Conv2D(s[3], s[0], padding=padding, activation="relu" if i < 2 else None, dtype=dtype)
        for i, s in enumerate(SHAPES[name])
    ]
    if not functional:
        model = keras.Sequential([keras.Input((None, None, 1)), *layers])
    else:
        x = inputs = keras.Input((None, None, 1))
        for layer in layers:
            x = layer(x)
        model = keras.Model(inputs, x)
    model.set_weights([a.astype(dtype) for pair in weights(name) for a in pair])
    return model


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".weights.h5"])
@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("name", list(SHAPES))
def test_the_same_numbers_as_keras(tmp_path, name, suffix, functional):
    """What Keras saved, imported, predicts what Keras predicts on the bicubic field."""
    model = srcnn(name, functional=functional)
    path = tmp_path / f"stranger{suffix}"
    (model.save_weights if suffix == ".weights.h5" else model.save)(path)
    card = import_keras(path, tmp_path / "bundle", Wishes(4, name, 0, 1, residual=False))
    assert (card.architecture, card.equivariant, card.residual) == (name, False, False)
    imported = load_model(tmp_path / "bundle", 4)
    halo = imported.halo
    coarse = np.random.default_rng(1).uniform(0, 1, (20 + 2 * halo, 24 + 2 * halo)).astype("f4")
    fine = interpolate.bicubic(coarse, 4)
    rim = (halo - interpolate.RADIUS) * 4
    want = interpolate.crop(np.asarray(model(fine[None, :, :, None]))[0, :, :, 0], rim)
    for engine in ("onnx", "tensorflow", "auto"):
        got = imported.predict(coarse, engine=engine)
        assert got.shape == want.shape == (80, 96)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.ptp(want))


def test_a_compiled_and_trained_model(tmp_path):
    """With the moments of an optimizer beside the weights."""
    model = srcnn("srcnn-9-1-5")
    model.compile("adam", "mse")
    model.fit(np.zeros((2, 16, 16, 1)), np.zeros((2, 16, 16, 1)), verbose=0)
    for suffix in (".keras", ".h5", ".weights.h5"):
        path = tmp_path / f"m{suffix}"
        (model.save_weights if suffix == ".weights.h5" else model.save)(path)
        import_keras(path, tmp_path / suffix.replace(".", "_"), Wishes(2))
        arrays = load_model(tmp_path / suffix.replace(".", "_")).arrays()
        for ours, theirs in zip([a for pair in arrays for a in pair], model.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("layout", "names"),
    [
        ("layers/conv2d{}/vars/{}", ("0", "1")),
        ("_layer_checkpoint_dependencies/conv2d{}/vars/{}", ("0", "1")),
        ("model_weights/conv2d{0}/sequential/conv2d{0}/{1}", ("kernel", "bias")),
        ("model_weights/c{0}/c{0}/{1}", ("kernel:0", "bias:0")),
        ("c{0}/c{0}/{1}", ("kernel:0", "bias:0")),
    ],
)
def test_layouts_of_all_versions(tmp_path, layout, names):
    model, _ = made(tmp_path, hdf5(layout=layout, names=names))
    for (kernel, bias), (k, b) in zip(model.arrays(), weights(), strict=True):
        np.testing.assert_array_equal(kernel, k)
        np.testing.assert_array_equal(bias, b)


@pytest.mark.parametrize("dtype", ["f2", "f8", ">f4"])
def test_other_precisions(tmp_path, dtype):
    model, _ = made(tmp_path, hdf5([(k.astype(dtype), b.astype(dtype)) for k, b in weights()]))
    np.testing.assert_array_equal(model.arrays()[0][0], weights()[0][0].astype(dtype).astype("f4"))


def test_without_biases_they_are_zero(tmp_path):
    model, card = made(tmp_path, hdf5([(k, None) for k, _ in weights()]))
    assert not card.equivariant
    assert all(not bias.any() for _, bias in model.arrays())


def test_the_architecture_is_found_by_the_shapes(tmp_path):
    for name in SHAPES:
        arch, _ = match({f"{i}/{j}": a for i, pair in enumerate(weights(name)) for j, a in enumerate(pair)}, None, 3)
        assert arch.name == name
    assert match({f"{i}/0": k for i, (k, _) in enumerate(weights("srcnn-9-3-5-n64"))}, "9-3-5", 3)[0].name.endswith(
        "n64"
    )


def test_the_card_says_what_is_not_known(tmp_path):
    _, card = made(tmp_path, hdf5(), low=0.0, high=20.0, units="1e15 molec cm-2")
    assert card.training["data_known"] is False
    assert card.training["licence"] == "unknown"
    assert len(card.training["imported"]["sha256"]) == 64
    assert card.envelope["unknown"]
    assert (card.scaler.offset, card.scaler.scale, card.scaler.units) == (0.0, 20.0, "1e15 molec cm-2")
    assert any("0 to 20 1e15 molec cm-2" in text for text in card.limits)
    assert card.name == "m"


def test_nothing_is_left_of_a_failure(tmp_path):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ModelError):
        made(tmp_path, b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    assert sorted(tmp_path.iterdir()) == [*before, tmp_path / "m.weights.h5"]


def test_an_existing_bundle_is_kept(tmp_path):
    made(tmp_path, hdf5())
    first = (tmp_path / "bundle" / "card.json").read_bytes()
    args = (tmp_path / "m.weights.h5", tmp_path / "bundle", Wishes(3))
    with pytest.raises(OutputError, match="exists; use --overwrite"):
        import_keras(*args)
    assert (tmp_path / "bundle" / "card.json").read_bytes() == first
    assert import_keras(*args, overwrite=True).scale == 3
    (tmp_path / "other").mkdir()
    with pytest.raises(OutputError, match="exists; name another"):
        import_keras(args[0], tmp_path / "other", Wishes(3), overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "m.weights.h5", "other"]


@pytest.mark.parametrize(
    "wishes",
    [{"scale": 1}, {"scale": 40}, {"low": 3.0, "high": 1.0}, {"high": float("nan")}, {"low": 1.0, "high": 1.0}],
)
def test_impossible_wishes(tmp_path, wishes):
    with pytest.raises(UsageError):
        made(tmp_path, hdf5(), **wishes)


@pytest.mark.parametrize("name", ["9-9-9", "vgg", "", "srcnn", "edsr-32x6"])
def test_unknown_architectures(tmp_path, name):
    with pytest.raises(ModelError, match="not known|cannot be imported"):
        made(tmp_path, hdf5(), architecture=name)


# --- what is refused -----------------------------------------------------------------------------------------------


def _swap(i, change):
    arrays = weights()
    arrays[i] = tuple(change(a) for a in arrays[i])
    return arrays


def _nan(a):
    out = a.copy()
    out.flat[0] = np.nan
    return out


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: hdf5(_swap(1, _nan)), "NaN"),
        (lambda: hdf5(_swap(2, lambda a: a.astype("f8") * 1e200)), "NaN or infinity"),
        (lambda: hdf5(weights()[:2]), "are not those of"),
        (lambda: hdf5([*weights(), *weights()[2:]]), "are not those of"),
        (lambda: hdf5(_swap(0, lambda a: np.moveaxis(a, 0, -1))), "are not those of|biases"),
        (lambda: hdf5([(np.repeat(k, 3, 2) if i == 0 else k, b) for i, (k, b) in enumerate(weights())]), "3 channels"),
        (lambda: hdf5([(k, b[:-1] if b.size > 1 else b) for k, b in weights()]), "biases of 63 numbers, not of 64"),
        (lambda: hdf5(weights("srcnn-9-5-5")), r"use --architecture srcnn-9-5-5"),
        (
            lambda: hdf5(more={"layers/batch_normalization/vars/0": np.ones(64, "f4")}),
            "more than convolutions: .*batch",
        ),
        (lambda: hdf5(more={"layers/p_re_lu/vars/0": np.ones((9, 9, 64), "f4")}), "more than convolutions"),
        (lambda: hdf5(more={"layers/dense/vars/0": np.ones((64, 10), "f4")}), "more than convolutions"),
        (lambda: hdf5([]), "no convolutions"),
        (lambda: hdf5()[:-2000], "truncated or corrupt"),
        (lambda: hdf5()[:300], "truncated or corrupt"),
        (lambda: b"", "not a Keras file"),
        (lambda: b"text", "not a Keras file"),
        (lambda: b"\x80\x04\x95" + b"x" * 50, "pickles"),
        (lambda: keras_zip(hdf5())[:-300], "not a Keras file|damaged"),
        (lambda: keras_zip(hdf5()[:4000]), "truncated or corrupt"),
        (lambda: keras_zip(b""), "truncated or corrupt"),
        (lambda: b"\x89HDF\r\n\x1a\n" + b"\0" * (MOST_BYTES + 1), "larger than any"),
        (lambda: keras_zip(b"\0" * (MOST_BYTES + 1)), "unpack to more"),
    ],
)
def test_wrong_files(tmp_path, data, words):
    with pytest.raises(ModelError, match=words) as caught:
        made(tmp_path, data(), architecture="9-1-5")
    assert caught.value.exit_code == 6
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "bundle").exists()


SHAPE = SHAPES["srcnn-9-1-5"][0]


def external(file):
    file.create_dataset("layers/conv2d/vars/0", SHAPE, "f4", external=[("/etc/passwd", 0, 4 * int(np.prod(SHAPE)))])


def external_link(file):
    file["layers/conv2d/vars/0"] = h5py.ExternalLink("/etc/passwd", "x")


def soft_link(file):
    file["layers/conv2d/vars/0"] = h5py.SoftLink("/layers/conv2d_1/vars/0")


def circle(file):
    file["layers/conv2d/vars/round"] = file["layers"]


def virtual(file):
    layout = h5py.VirtualLayout(SHAPE, "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", SHAPE)
    file.create_virtual_dataset("layers/conv2d/vars/0", layout)


def packed(file):
    file.create_dataset("layers/conv2d/vars/0", SHAPE, "f4", data=np.zeros(SHAPE), chunks=SHAPE, compression="gzip")


def huge(file):
    file.create_dataset("layers/conv2d/vars/0", (1 << 20, 1 << 20, 1 << 10), "f4")


def never_written(file):
    file.create_dataset("layers/conv2d/vars/0", SHAPE, "f4")


def crowd(file):
    for i in range(5000):
        file.create_group(f"g{i}")


def deep(file):
    file.create_group("/".join("g" * 200))


HOSTILE = [external, external_link, soft_link, circle, virtual, packed, huge, never_written, crowd, deep]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_weights(tmp_path, hostile, zipped):
    arrays = [(None, weights()[0][1]), *weights()[1:]]
    data = hdf5(arrays, more={"x": hostile})
    with pytest.raises(ModelError) as caught:
        made(tmp_path, keras_zip(data) if zipped else data, "m.keras" if zipped else "m.h5")
    assert "root:" not in str(caught.value)


def test_the_process_that_reads_may_die(monkeypatch):
    monkeypatch.setattr("geosr.models.importing.sys.executable", "/bin/false")
    with pytest.raises(ModelError, match="fails on it"):
        read_arrays(hdf5())


def test_no_configuration_is_read(tmp_path):
    """The configuration of a .keras or .h5 file may name any code; it is as if it were not there."""
    model, _ = made(tmp_path, keras_zip(hdf5(), config='{"class_name": "Lambda"', metadata="[" * 100_000), "m.keras")
    assert len(model.arrays()) == 3
    canary = tmp_path / "canary"
    (tmp_path / "b").mkdir()

    def config(file):
        file.attrs["model_config"] = json.dumps({"class_name": "os.system", "config": f"touch {canary}"})

    made(tmp_path / "b", hdf5(more={"x": config}), "m.h5")
    assert not canary.exists()


@pytest.mark.slow
def test_fuzzed_weights(tmp_path):
    """A bit here and there: the same weights, other numbers, or a :class:`ModelError`."""
    whole = bytearray(hdf5())
    rng = np.random.default_rng(0)
    for _ in range(200):
        data = bytearray(whole)
        for at in rng.integers(0, 4000 if rng.random() < 0.8 else len(data), rng.integers(1, 6)):
            data[at] ^= 1 << int(rng.integers(8))
        with contextlib.suppress(ModelError):
            match(read_arrays(bytes(data)), None, 4)
