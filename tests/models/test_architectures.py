"""The registry, and the Keras networks built from it."""

from __future__ import annotations

import numpy as np
import pytest

from geosr.errors import ModelError
from geosr.models.architectures import ARCHITECTURES, FAMILIES, architecture


@pytest.mark.parametrize(
    ("name", "scale", "radius"),
    [
        ("srcnn-9-1-5", 4, 6),
        ("srcnn-9-3-5", 2, 7),
        ("srcnn-9-5-5", 3, 8),
        ("edsr-32x6", 2, 28),  # 14 convolutions of 3 x 3 on the coarse grid
        ("edsr-32x6", 4, 56),
        ("sigma-24x4", 3, 12),
    ],
)
def test_receptive_radius(name, scale, radius):
    assert architecture(name).radius(scale) == radius


@pytest.mark.parametrize(
    # Dong et al. (2016), table 1 and section 4.3.3: weights without biases, one channel.
    ("name", "weights"),
    [("srcnn-9-1-5", 8032), ("srcnn-9-3-5", 128 * 81 + 64 * 128 * 9 + 64 * 25), ("srcnn-9-5-5", 57184)],
)
def test_weight_counts_of_the_papers(name, weights):
    assert architecture(name).weight_count(1, 4, bias=False) == weights


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_names_say_what_it_is(name):
    arch = architecture(name)
    assert arch.name == name
    assert arch.family in (*FAMILIES, "sigma")
    assert arch.coarse == (arch.family != "srcnn")
    if arch.family == "edsr":
        filters, blocks = map(int, name.removeprefix("edsr-").split("x"))
        assert arch.filters(3) == [filters] * (2 * blocks + 1) + [9]
        assert sum(layer.skip for layer in arch.layers) == blocks


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ModelError, match="srcnn-9-1-5, srcnn-9-3-5, .*edsr-32x6"):
        architecture("srcnn-9-2-5")


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("equivariant", [True, False])
def test_keras_network_is_the_registry_s(name, equivariant):
    pytest.importorskip("keras")
    from geosr.models import keras_network

    arch = architecture(name)
    model = keras_network.build(arch, 2, scale=3, equivariant=equivariant, seed=3)
    arrays = keras_network.arrays_of(model)
    assert [kernel.shape for kernel, _ in arrays] == arch.kernel_shapes(2, 3)
    assert all((bias is None) == equivariant for _, bias in arrays)
    assert (np.abs(arrays[0][0].sum(axis=(0, 1))).max() < 1e-5) == equivariant  # from the first step on
    assert model.count_params() == arch.weight_count(2, 3, bias=not equivariant)
    side = 2 * arch.reach + 3
    assert model(np.zeros((1, side, side + 1, 2), np.float32)).shape == (1, 3, 4, 9 if arch.coarse else 1)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_receptive_radius_is_what_the_network_sees(name):
    """A change r cells away changes the value; r + 1 cells away it does not."""
    pytest.importorskip("keras")
    from geosr.models import keras_network

    r = architecture(name).reach
    model = keras_network.build(architecture(name), 1, scale=2, equivariant=False, seed=1)
    if architecture(name).coarse:  # training starts with next to no residual, which would hide what is far
        rng = np.random.default_rng(1)
        model.set_weights([rng.uniform(0, 2 / np.prod(w.shape[:-1]), w.shape) for w in model.get_weights()])
    side = 2 * r + 3  # 3 x 3 outputs; the middle one sees all but the outer frame
    x = np.random.default_rng(0).normal(size=(1, side, side, 1)).astype(np.float32)
    far, near = x.copy(), x.copy()
    far[0, 0, :], far[0, :, 0], far[0, -1, :], far[0, :, -1] = 9, 9, 9, 9
    near[0, 1, r + 1] += 3.0**r  # not the corner, whose weight float32 would lose
    middle = [float(model(a)[0, 1, 1, 0]) for a in (x, far, near)]
    assert middle[0] == pytest.approx(middle[1], abs=1e-9)
    assert abs(middle[0] - middle[2]) > 1e-9


def test_training_keeps_the_zero_sum():
    keras = pytest.importorskip("keras")
    from geosr.models import keras_network

    model = keras_network.build(architecture("srcnn-9-1-5"), 2, seed=1)
    x = np.random.default_rng(0).normal(size=(4, 20, 20, 2)).astype(np.float32)
    model.compile(keras.optimizers.Adam(0.01), "mse")
    model.fit(x, np.ones((4, 8, 8, 1), np.float32), epochs=3, verbose=0)
    kernel, bias = keras_network.arrays_of(model)[0]
    assert bias is None
    assert np.abs(kernel.sum(axis=(0, 1), dtype=np.float64)).max() < 1e-5 * np.abs(kernel).sum(axis=(0, 1)).max()
    exact = keras_network.zero_sum(kernel)
    assert np.abs(exact.sum(axis=(0, 1), dtype=np.float64)).max() < 1e-6
