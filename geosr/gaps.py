"""Gaps: what stands in for missing cells while a network looks at their neighbours.

A network would smear a missing cell over its whole receptive field (and ReLU turns NaN into 0, so that nobody
sees it). So gaps are filled before, and masked again after. The filling grows ring by ring from the valid
cells, each ring the mean of the already known among its eight neighbours. It reaches ``radius`` cells, which is
all that a valid cell's receptive field can see, and it depends on cells no farther than ``radius``: the filling,
like everything else, does not know where a tile ends.
"""

from __future__ import annotations

import numpy as np

# Summed in this order, always: floating-point sums must not depend on the tile.
_NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]


def fill_gaps(block: np.ndarray, radius: int) -> np.ndarray:
    """``block`` with its gaps filled up to ``radius`` cells from the nearest valid cell.

    Parameters
    ----------
    block : (h, w) floating; NaN is missing.
    radius : how far to fill, in cells (Chebyshev distance).

    Returns
    -------
    (h, w) without NaN; ``block`` itself if it has none. Gap cells farther than ``radius`` from any valid cell are
    0: no valid cell can see them. Values within ``radius`` of the array's rim may lack neighbours outside it.
    """
    known = ~np.isnan(block)
    if known.all():
        return block
    h, w = block.shape
    # With a rim, as numbers: padding and converting anew in each round would take longer than the sums.
    values, filled = np.zeros((h + 2, w + 2), block.dtype), np.zeros((h + 2, w + 2), block.dtype)
    inner = slice(1, -1), slice(1, -1)
    values[inner], filled[inner] = np.where(known, block, 0), known
    windows = [(slice(1 + dy, 1 + dy + h), slice(1 + dx, 1 + dx + w)) for dy, dx in _NEIGHBOURS]
    for _ in range(radius):
        total, count = np.zeros_like(block), np.zeros_like(block)
        for window in windows:
            total += values[window]
            count += filled[window]
        ring = (filled[inner] == 0) & (count > 0)
        if not ring.any():
            break
        values[inner][ring] = total[ring] / count[ring]
        filled[inner][ring] = 1
    return values[inner].copy()
