"""geosr.native: every instruction set of this processor against numpy and scipy, to the bit where that is promised."""

import ctypes
import os
import subprocess
import sys

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

from geosr import conserve, interpolate, native
from geosr.models import native_network
from geosr.models.architectures import architecture
from models.conftest import random_arrays
from strategies import field, smooth_field

pytestmark = pytest.mark.skipif(not native.available(), reason="geosr was built without a compiler")
SETS = native.instruction_sets()


@pytest.fixture(params=range(len(SETS)), ids=SETS)
def instructions(request):
    native.library().geosr_choose(ctypes.c_long(request.param))
    yield SETS[request.param]
    native.library().geosr_choose(ctypes.c_long(0))


def by_numpy(function, *args, **options):
    """``function`` as it runs without the library."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "available", lambda: False)
        return function(*args, **options)


@pytest.mark.parametrize("scale", [2, 3, 4, 5, 16])
def test_bicubic_is_numpys_to_the_bit(instructions, scale):
    block = np.random.default_rng(0).normal(size=(23, 71)).astype(np.float32)
    want = by_numpy(interpolate.bicubic, block, scale)
    assert np.array_equal(interpolate.bicubic(block, scale), want)
    base = np.random.default_rng(1).normal(size=want.shape).astype(np.float32)
    assert np.array_equal(interpolate.bicubic(block, scale, added_to=base.copy()), want + base)
    assert np.array_equal(interpolate.bicubic(np.asfortranarray(block)[::-1], scale), by_numpy(interpolate.bicubic, block[::-1], scale))  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("scale", [2, 3, 4, 7])
def test_conservation_is_numpys_to_the_bit(instructions, scale, correct):
    rng = np.random.default_rng(scale)
    coarse = rng.normal(1e-5, 1e-4, (19, 37)).astype(np.float32)
    coarse[rng.random(coarse.shape) < 0.1] = np.nan
    fine = rng.normal(0, 1e-4, (19 * scale, 37 * scale)).astype(np.float32)
    weights = rng.uniform(1, 2, (19 * scale, 1))
    want, error, largest = by_numpy(conserve.finish, fine.copy(), coarse, weights, scale, correct)
    got, *found = conserve.finish(fine.copy(), coarse, weights, scale, correct)
    assert np.array_equal(got, want, equal_nan=True)
    assert found == [error, largest]
    assert np.array_equal(np.isnan(got), conserve.spread(np.isnan(coarse), scale))
    if correct:
        assert error < 1e-6 * largest


def test_a_tile_without_values_has_no_error():
    empty = np.full((3, 4), np.nan, np.float32)
    fine, error, largest = conserve.finish(np.zeros((6, 8), np.float32), empty, np.ones((6, 1)), 2)
    assert np.isnan(fine).all()
    assert (error, largest) == (0, 0)


@pytest.mark.parametrize("scale", [2, 3, 4, 7])
@pytest.mark.parametrize("side", [1, 5, 9])
def test_folded_filters_are_bicubic_and_convolution(scale, side):
    from scipy.signal import correlate

    rng = np.random.default_rng(0)
    kernel, field = rng.normal(size=(side, side, 2)), rng.normal(size=(15, 16))
    phases, starts = native_network.fold(kernel, scale)
    taps = phases.shape[1]
    fine, half = interpolate.bicubic(field, scale), side // 2
    want = np.stack([correlate(fine, kernel[..., f], "valid") for f in range(2)])
    for i, j, p, q in [(6, 7, 0, 0), (7, 6, scale - 1, 1), (8, 8, 1, scale - 1)]:
        top, left = i - starts[p], j - starts[q]
        window = field[top : top + taps, left : left + taps]
        got = np.einsum("abf,ab->f", phases[p * scale + q], window)
        np.testing.assert_allclose(got, want[:, (i - 2) * scale + p - half, (j - 2) * scale + q - half], atol=1e-12)
    if (scale, side) == (4, 9):
        assert taps == 6


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_winograd_weights_are_of_the_published_algorithm(scale):
    """A^T [(G g) * (B^T d)] is the correlation of d and g, by the matrices that the kernels have written out."""
    inverse = {
        2: ([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]], [[1, 1, 1, 0], [0, 1, -1, 1]]),
        3: (
            [[2, -1, -2, 1, 0], [0, -2, -1, 1, 0], [0, 2, -3, 1, 0], [0, -1, 0, 1, 0], [0, 2, -1, -2, 1]],
            [[1, 1, 1, 1, 0], [0, 1, -1, 2, 0], [0, 1, 1, 4, 1]],
        ),
        4: (
            [
                [4, 0, -5, 0, 1, 0],
                [0, -4, -4, 1, 1, 0],
                [0, 4, -4, -1, 1, 0],
                [0, -2, -1, 2, 1, 0],
                [0, 2, -1, -2, 1, 0],
                [0, 4, 0, -5, 0, 1],
            ],
            [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
        ),
    }
    data, out = (np.array(m, float) for m in inverse[scale])
    rng = np.random.default_rng(0)
    d, g = rng.normal(size=scale + 2), rng.normal(size=3)
    got = out @ ((native_network.WINOGRAD[scale] @ g) * (data @ d))
    np.testing.assert_allclose(got, np.correlate(d, g, "valid"), atol=1e-12)


NETWORKS = ["srcnn-9-1-5", "srcnn-9-3-5-n64", "edsr-16x4", "sigma-24x4"]


def network(name, scale, bias=False):
    arch = architecture(name)
    return arch, native_network.build(arch, random_arrays(name, 1, bias, scale=scale), scale)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_instruction_sets_agree(instructions, name, scale):
    """Sums are in one order whatever the width of a vector; only fused multiply-add may round differently."""
    arch, run = network(name, scale, bias=True)
    rim = 2 * arch.halo(scale)
    coarse = np.random.default_rng(0).normal(size=(21 + rim, 50 + rim)).astype(np.float32)
    got = run(coarse)
    native.library().geosr_choose(ctypes.c_long(0))
    want = run(coarse)
    assert np.abs(got - want).max() <= 2e-6 * np.ptp(want)
    if instructions != "base":
        assert np.array_equal(got, want)


@given(st.sampled_from(NETWORKS), st.integers(2, 4), st.integers(1, 40), st.integers(1, 70), st.data())
@settings(max_examples=40, deadline=None)
def test_tiles_do_not_show(name, scale, h, w, data):
    """Any part of a tile, run alone with its halo, is that part to the last bit, in every network."""
    arch, run = network(name, scale)
    halo = arch.halo(scale)
    coarse = np.random.default_rng(h).normal(size=(h + 2 * halo, w + 2 * halo)).astype(np.float32)
    top, left = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
    rows, cols = data.draw(st.integers(1, h - top)), data.draw(st.integers(1, w - left))
    part = run(coarse[top : top + rows + 2 * halo, left : left + cols + 2 * halo])
    whole = run(coarse)[top * scale : (top + rows) * scale, left * scale : (left + cols) * scale]
    assert np.array_equal(part, whole)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_nothing_is_felt_beyond_the_halo(name, scale):
    """Not even as a rounding error, which Winograd's transforms could carry farther than the convolution reaches."""
    arch, run = network(name, scale)
    halo = arch.halo(scale)
    coarse = np.random.default_rng(0).normal(size=(9 + 2 * halo, 11 + 2 * halo)).astype(np.float32)
    before = run(coarse)
    middle = before.reshape(9, scale, 11, scale)[4, :, 5, :]
    for row, col in [(4 - 1, 5 + halo), (4 + 2 * halo + 1, 5 + halo), (4 + halo, 5 - 1), (4 + halo, 5 + 2 * halo + 1)]:
        changed = coarse.copy()
        changed[row, col] = 1e4
        after = run(changed)
        assert not np.array_equal(after, before)
        assert np.array_equal(after.reshape(9, scale, 11, scale)[4, :, 5, :], middle)


def test_it_can_be_switched_off():
    code = "from geosr import native; print(native.available(), native.instruction_sets())"
    env = {**os.environ, "GEOSR_NATIVE": "off"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == "False []"


@pytest.mark.parametrize("method", ["bicubic", "srcnn", "edsr"])
def test_a_run_without_the_library_is_the_same(monkeypatch, method):
    """Bicubic and conservation to the last bit; networks to 1e-5 of the range, by ONNX Runtime."""
    box = GeoBox((60, 70), Affine(0.05, 0, 3, 0, -0.05, 50), "EPSG:4326")
    data = smooth_field(box.shape, seed=2)
    data[20:23, 30:34] = np.nan
    ds = field(box, data).to_dataset(name="no2")
    runs = [ds.geosr.downscale(4, method=method, force_model=method != "bicubic").compute()]
    monkeypatch.setattr(native, "available", lambda: False)
    runs.append(ds.geosr.downscale(4, method=method, force_model=method != "bicubic").compute())
    tolerance = 0 if method == "bicubic" else 1e-5 * np.nanmax(data) - 1e-5 * np.nanmin(data)
    for name in runs[0].data_vars:
        np.testing.assert_allclose(runs[1][name], runs[0][name], rtol=0, atol=tolerance, equal_nan=True)
