"""Bicubic refinement: the one interpolation of geosr, for training, inference and as a baseline.

"Bicubic" names several kernels; here it is Keys' cubic convolution with a = -1/2, centre-aligned, without
renormalisation. The field beyond the array's edge is the caller's to supply (edge values, see ``tiling``).

Keys, R. G. (1981), Cubic convolution interpolation for digital image processing, IEEE Trans. ASSP 29(6), eq. 15.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from geosr import native

#: Coarse cells that a fine cell's value depends on, to each side.
RADIUS = 2


def keys_kernel(t: np.ndarray, a: float = -0.5) -> np.ndarray:
    """Keys' cubic convolution kernel at distances ``t`` (in coarse cells)."""
    t = np.abs(t)
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    return np.where(t <= 1, near, np.where(t < 2, far, 0.0))


@lru_cache
def phase_weights(scale: int) -> np.ndarray:
    """(scale, 5) float64: weights of the coarse cells at offsets -2…2 for each fine cell of a coarse cell."""
    centre = (np.arange(scale) + 0.5) / scale - 0.5
    weights = keys_kernel(centre[:, None] - np.arange(-RADIUS, RADIUS + 1)[None, :])
    weights.setflags(write=False)
    return weights


def bicubic(block: np.ndarray, scale: int, added_to: np.ndarray | None = None) -> np.ndarray:
    """Refine ``block`` by bicubic interpolation.

    Parameters
    ----------
    block : (…, h + 4, w + 4), the cells to refine with two cells of halo on each side; floating, no NaN.
    added_to : (…, h * scale, w * scale), contiguous and of the same dtype; is changed to the sum, and returned.

    Returns
    -------
    (…, h * scale, w * scale) of the same dtype. Each value is a sum in one fixed order, so it does not depend
    on the extent of ``block``, to the last bit, nor on whether :mod:`geosr.native` does it (2-D, float32) or numpy.
    """
    if block.ndim == 2 and block.dtype == np.float32 and native.available():
        return native.bicubic(block, phase_weights(scale), added_to)
    fine = _refine_axis(_refine_axis(block, scale, -2), scale, -1)
    return fine if added_to is None else np.add(fine, added_to, out=added_to)


def crop(field: np.ndarray, rim: int) -> np.ndarray:
    """``field`` (h + 2 rim, w + 2 rim) without its rim."""
    return field[rim : field.shape[0] - rim, rim : field.shape[1] - rim]


def _refine_axis(block: np.ndarray, scale: int, axis: int) -> np.ndarray:
    block = np.moveaxis(block, axis, -1)
    n = block.shape[-1] - 2 * RADIUS
    weights = phase_weights(scale)
    out = np.empty((*block.shape[:-1], n, scale), dtype=block.dtype)
    for phase in range(scale):
        taps = [(k, block.dtype.type(w)) for k, w in enumerate(weights[phase]) if w]
        total = taps[0][1] * block[..., taps[0][0] : taps[0][0] + n]
        for k, w in taps[1:]:
            total += w * block[..., k : k + n]
        out[..., phase] = total
    return np.moveaxis(out.reshape(*block.shape[:-1], n * scale), -1, axis)
