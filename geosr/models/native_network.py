"""The registry's networks for the compiled kernels (:mod:`geosr.native`): weights folded, transformed and packed, once.

The numbers are those of the plain network to about 1e-6 of the range: sums are the same, in another order.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from geosr import interpolate, native
from geosr.models.architectures import Architecture

Arrays = list[tuple[np.ndarray, np.ndarray | None]]

#: G of Winograd's F(scale, 3), which takes a window's 3 weights to scale + 2 (Lavin & Gray 2016, sections 4.1 and 4.3;
#: scale 3 by Cook and Toom's way at 0, 1, -1, 2 and infinity). The other two matrices are in ``native/src/srcnn.h``.
WINOGRAD = {
    2: np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]),
    3: np.array([[1 / 2, 0, 0], [-1 / 2, -1 / 2, -1 / 2], [-1 / 6, 1 / 6, -1 / 6], [1 / 6, 1 / 3, 2 / 3], [0, 0, 1]]),
    4: np.array(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ]
    ),
}


def supports(arch: Architecture, channels: int, scale: int) -> bool:
    """Is there a kernel for this network? For chains on the coarse grid, and SRCNN 9-1-5 and 9-3-5 (at x2, x3, x4)."""
    if channels != 1 or scale < 2:
        return False
    if arch.coarse:
        return True
    sides = [layer.kernel for layer in arch.layers]
    return sides == [9, 1, 5] or (sides == [9, 3, 5] and scale in WINOGRAD)


def build(arch: Architecture, arrays: Arrays, scale: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function from a coarse tile (h + 2 halo, w + 2 halo) to (h * scale, w * scale); halo:
    :meth:`Architecture.halo`."""
    return _chain(arch, arrays, scale) if arch.coarse else _srcnn(arch, arrays, scale)


def _chain(arch: Architecture, arrays: Arrays, scale: int) -> Callable[[np.ndarray], np.ndarray]:
    layers = (native.Layer * len(arrays))()
    kept: list[Any] = []  # the arrays that the structures point into
    for layer, what, (kernel, bias) in zip(layers, arch.layers, arrays, strict=True):
        rows, _, inputs, outputs = kernel.shape
        packed = native.pack(kernel.reshape(-1, outputs))
        offset = None if bias is None else np.ascontiguousarray(bias, dtype=np.float32)
        kept += [packed, offset]
        layer.kernel, layer.inputs, layer.outputs = rows, inputs, outputs
        layer.relu, layer.skip = what.activation == "relu", what.skip
        layer.weights, layer.bias = native.floats(packed), native.floats(offset)
    rim = arch.halo(scale) - arch.reach

    def run(field: np.ndarray, kept: list[Any] = kept) -> np.ndarray:
        return native.chain(interpolate.crop(field, rim), layers, scale)

    return run


def _srcnn(arch: Architecture, arrays: Arrays, scale: int) -> Callable[[np.ndarray], np.ndarray]:
    (first, bias1), (middle, bias2), (last, bias3) = arrays
    phases, reach = fold(first[:, :, 0, :], scale)
    taps = phases.shape[1]
    if middle.shape[0] == 3:
        g = WINOGRAD[scale]
        middle = np.einsum("ia,jb,abkc->ijkc", g, g, middle.astype(np.float64))
    packed = {
        "phases": native.pack(phases.reshape(scale * scale, taps * taps, -1)),
        "weights": native.pack(middle.reshape(-1, *middle.shape[2:])),
        "last": native.pack(last.reshape(25, -1).T),
        "bias1": bias1,
        "bias2": bias2,
        "bias3": bias3,
    }
    filters = phases.shape[-1], middle.shape[-1]
    network = native.Srcnn(scale, arch.halo(scale), taps, *filters, arch.layers[1].kernel)
    network.reach = (ctypes.c_long * scale)(*reach.tolist())
    for name, array in packed.items():
        setattr(network, name, native.floats(array))

    def run(field: np.ndarray, kept: dict[str, Any] = packed) -> np.ndarray:
        return native.srcnn(field, network)

    return run


def fold(kernel: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Bicubic refinement and a convolution of the fine field as one: filters of the coarse field, one for each phase.

    Parameters
    ----------
    kernel : (n, n, filters), n odd; for a "valid" convolution of the refined field.

    Returns
    -------
    (scale ** 2, taps, taps, filters) float64, phases row by row, and for each row (or column) of them how many cells
    before its own the window begins: the convolution at the fine cell (p, q) of coarse cell (i, j) is
    ``sum(result[p * scale + q] * field[i - reach[p] : i - reach[p] + taps, j - reach[q] : j - reach[q] + taps])``.
    """
    n = kernel.shape[0]
    weights = interpolate.phase_weights(scale)
    # steps[p, d, o]: what the coarse cell at offset o contributes to the fine cell d - n // 2 away from phase p.
    offsets = n // 2 // scale + 1 + interpolate.RADIUS
    steps = np.zeros((scale, n, 2 * offsets + 1))
    for p in range(scale):
        for d in range(n):
            cell, phase = divmod(p + d - n // 2, scale)
            start = offsets + cell - interpolate.RADIUS
            steps[p, d, start : start + weights.shape[1]] += weights[phase]
    used = [np.flatnonzero(np.abs(of_phase).sum(axis=0)) for of_phase in steps]
    taps = max(int(u[-1] - u[0]) + 1 for u in used)
    # A window that ends at the far side of what is looked at may begin earlier than it must, with zeros.
    starts = np.minimum([u[0] for u in used], 2 * offsets + 1 - taps)
    steps = np.stack([of_phase[:, a : a + taps] for of_phase, a in zip(steps, starts, strict=True)])
    folded = np.einsum("pao,qbr,abf->pqorf", steps, steps, kernel.astype(np.float64), optimize=True)
    return folded.reshape(scale * scale, *folded.shape[2:]), offsets - starts
