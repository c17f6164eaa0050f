"""What the figure of an evaluation shows, cut out while the fields are in memory; no matplotlib here.

The most structured window of the raster, and the whole of it thinned, for orientation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from odc.geo.geobox import GeoBox

from geosr.conserve import spread
from geosr.evaluation.baselines import BACK_PROJECTED, BICUBIC
from geosr.evaluation.spectrum import cell_lengths_km

#: Side of the window, in coarse cells: few enough that a cell can be seen in print.
WINDOW = 40

# Cells along the longer side of the overview.
_OVERVIEW = 400

# Share of a window that must be valid for it to be drawn, where there is such a window.
_FULL = 0.9


@dataclass(frozen=True, eq=False)
class Panels:
    """What the maps show.

    Attributes
    ----------
    box : grid of the window.
    window : (rows, columns) of the raster that it is, in fine cells.
    zoomed : it is a part of the raster only.
    truth, coarse : fields of the window; the coarse one repeated on its fine cells. NaN is missing.
    fields : method -> its field; bicubic first, then the first network (the back-projected bicubic without one).
    whole : the raster, thinned; whole_box : its grid.
    """

    box: GeoBox
    window: tuple[slice, slice]
    zoomed: bool
    truth: np.ndarray
    coarse: np.ndarray
    fields: dict[str, np.ndarray]
    whole: np.ndarray
    whole_box: GeoBox


def cut_panels(
    truth: np.ndarray, coarse: np.ndarray, fields: Mapping[str, np.ndarray], best: str | None, box: GeoBox
) -> Panels:
    """The window of the (y, x) ``truth`` and ``fields`` that is worth a look.

    Parameters
    ----------
    coarse : (h, w).
    best : the network to draw beside bicubic; None for the back-projected bicubic.
    box : grid of the truth.
    """
    scale = truth.shape[0] // coarse.shape[0]
    row, col, height, width = _most_structured(coarse, WINDOW)
    dy, dx = cell_lengths_km(box, (row + height / 2) * scale, (col + width / 2) * scale)
    row, col, height, width = _most_structured(coarse, round(WINDOW * min(2.0, dy / dx)))  # square on the ground there
    window = slice(row * scale, (row + height) * scale), slice(col * scale, (col + width) * scale)
    step = max(1, -(-max(truth.shape) // _OVERVIEW))
    ny, nx = (n // step * step for n in truth.shape)
    methods = (BICUBIC, best or BACK_PROJECTED)
    return Panels(
        box=box[window],
        window=window,
        zoomed=(height, width) != coarse.shape,
        truth=truth[window].copy(),
        coarse=spread(coarse[row : row + height, col : col + width], scale),
        fields={name: fields[name][window].copy() for name in methods},
        whole=truth[:ny:step, :nx:step].copy(),
        whole_box=box[:ny, :nx],
    )


def _most_structured(coarse: np.ndarray, wide: int) -> tuple[int, int, int, int]:
    """(row, column, height, width) of the window of ``coarse`` that varies most, among the almost complete ones.

    Windows are :data:`WINDOW` cells high and ``wide`` cells wide; a raster that is little larger is taken whole.
    """
    from scipy.ndimage import uniform_filter

    height, width = (n if n <= 1.5 * side else side for n, side in zip(coarse.shape, (WINDOW, wide), strict=True))
    valid = ~np.isnan(coarse)
    centred = np.where(valid, coarse - np.nanmean(coarse), 0).astype(np.float64)

    def means(values: np.ndarray) -> np.ndarray:
        """Over each window, at its upper left corner."""
        whole = uniform_filter(values, (height, width), mode="constant")
        top, left = height // 2, width // 2
        ny, nx = values.shape[0] - height + 1, values.shape[1] - width + 1
        return whole[top : top + ny, left : left + nx]

    share = np.maximum(means(valid.astype(np.float64)), 1e-12)
    mean, square = means(centred) / share, means(centred**2) / share
    enough = min(_FULL, float(share.max()) * 0.999)
    variance = np.where(share >= enough, square - mean**2, -np.inf)
    row, col = np.unravel_index(int(np.argmax(variance)), variance.shape)
    return int(row), int(col), height, width
