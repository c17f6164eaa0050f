"""What a network is judged against, weakest first: interpolation, then interpolation made to conserve.

Nearest, bilinear, bicubic, conserved bicubic, and bicubic with ten rounds of back-projection, the strongest classical
method here (Irani, M. & Peleg, S. (1991), Improving resolution by image registration, CVGIP 53(3): the coarse residual
is refined and added, again and again). The last two are conserved, as the networks are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from geosr import conserve, gaps, interpolate

if TYPE_CHECKING:
    from geosr.models import Model

NEAREST, BILINEAR, BICUBIC = "nearest", "bilinear", "bicubic"
CONSERVED, BACK_PROJECTED = "conserved bicubic", "back-projected bicubic"

#: Weakest first.
BASELINES = (NEAREST, BILINEAR, BICUBIC, CONSERVED, BACK_PROJECTED)

#: Those that promise each coarse cell's mean, as the networks do.
CONSERVING = (CONSERVED, BACK_PROJECTED)

#: Rounds of back-projection.
ROUNDS = 10


def refined(
    coarse: np.ndarray,
    areas: np.ndarray,
    scale: int,
    models: Mapping[str, Model] | None = None,
    *,
    units: str | None = None,
    engine: str = "auto",
) -> dict[str, np.ndarray]:
    """``coarse`` (h, w; NaN is missing) refined by every method; (h * scale, w * scale) each, NaN over missing cells.

    Beyond the edge the field continues with its edge values, gaps are filled (:mod:`geosr.gaps`): as in
    :func:`geosr.downscale`.

    Parameters
    ----------
    areas : fine cell areas, (h * scale, 1) or full.
    models : label -> network, in the order of the result; after the baselines.
    units : of ``coarse``, for the scaler of a network.
    """
    reach = interpolate.RADIUS * (ROUNDS + 1)
    filled = gaps.fill_gaps(np.pad(coarse, reach, mode="edge"), reach)

    def rim(cells: int) -> np.ndarray:
        return filled[reach - cells : filled.shape[0] - reach + cells, reach - cells : filled.shape[1] - reach + cells]

    cubic = interpolate.bicubic(rim(interpolate.RADIUS), scale)
    fields = {
        NEAREST: conserve.spread(rim(0), scale),
        BILINEAR: bilinear(rim(1), scale),
        BICUBIC: cubic,
        CONSERVED: conserve.conserve(cubic, coarse, areas, scale),
        BACK_PROJECTED: conserve.conserve(back_projected(filled, areas, scale), coarse, areas, scale),
    }
    for label, model in (models or {}).items():
        scaler = model.card.scaler.in_units(units)
        fine = scaler.denormalise(model.predict(scaler.normalise(padded_for(model, coarse)), engine))
        fields[label] = conserve.conserve(fine.astype(coarse.dtype), coarse, areas, scale)
    return {name: conserve.mask(field, coarse, scale) for name, field in fields.items()}


def padded_for(model: Model, coarse: np.ndarray) -> np.ndarray:
    """``coarse`` with the network's halo and its gaps filled as far as the network sees: what geosr.downscale does."""
    return gaps.fill_gaps(np.pad(coarse, model.halo, mode="edge"), model.halo)


def bilinear(block: np.ndarray, scale: int) -> np.ndarray:
    """Centre-aligned bilinear refinement of ``block`` (h + 2, w + 2) to (h * scale, w * scale)."""
    for axis in (0, 1):
        n = block.shape[axis] - 2
        position = (np.arange(n * scale) + 0.5) / scale + 0.5  # in cells of the block with its rim
        low = np.floor(position).astype(int)
        part = (position - low).astype(block.dtype)
        part = part[:, None] if axis == 0 else part[None, :]
        block = (1 - part) * np.take(block, low, axis) + part * np.take(block, low + 1, axis)
    return block


def back_projected(block: np.ndarray, areas: np.ndarray, scale: int, rounds: int = ROUNDS) -> np.ndarray:
    """Bicubic refinement with ``rounds`` rounds of back-projection.

    Parameters
    ----------
    block : (h + 2 m, w + 2 m) without NaN, with m = 2 (rounds + 1): each round reaches two cells farther.
    areas : fine cell areas of the inner (h * scale, …), (…, 1) or full.

    Returns
    -------
    (h * scale, w * scale). Not yet conserved: what is left of the residual is the caller's to remove.
    """
    margin = interpolate.RADIUS * (rounds + 1)
    rim = margin * scale
    weights = np.pad(areas, ((rim, rim), (0, 0) if areas.shape[-1] == 1 else (rim, rim)), mode="edge")
    fine = interpolate.bicubic(np.pad(block, interpolate.RADIUS, mode="edge"), scale)
    for _ in range(rounds):
        left = (block - conserve.block_mean(fine, weights, scale)).astype(block.dtype)
        fine += interpolate.bicubic(np.pad(left, interpolate.RADIUS, mode="edge"), scale)
    return fine[rim:-rim, rim:-rim]
