"""The compiled kernel of :mod:`geosr.swath`: exact overlap of pixel footprints and grid cells.

A footprint becomes a polygon in a plane whose grid lines are straight: (column, sin latitude) for geographic
grids, where areas are true areas on the sphere (Lambert's cylindrical projection), else (column, row). Its
overlap with all cells of one grid row comes from one walk along its edges, as font rasterisers do it with
"signed area and cover": an edge piece that rises by ``dv`` inside a cell adds the area to its right in that
cell, and ``dv`` to every cell farther right; a running sum along the row then gives every overlap. The work is
proportional to the cells touched, there is no polygon to build per cell, and the overlaps of a polygon sum to
its area, so that mass is conserved to rounding.

The kernels are compiled: in C++ with the networks' (:mod:`geosr.native`), else by numba
(:mod:`geosr.overlap_numba`), whose import takes half a second.
"""

from __future__ import annotations

import math

import numpy as np

from geosr import native

# An overlap below this share of the smaller of pixel and cell does not count as an observation of the cell:
# float32 corners are good to 1.5e-5 degrees, which alone gives slivers of 3e-4 of a 0.05 degree cell.
COUNT_SHARE = 1e-3
# Below this share of the pixel an overlap is rounding of the running sum.
ROUNDING = 1e-12
# Edges that span more longitude than this follow the great circle instead of the plane's straight line; for
# smaller ones the two differ by at most a quarter of the span in radians, as a share of the pixel: 0.2 %.
STRAIGHT_DEG = 0.5
# Edges longer than this chord (20 degrees) are not pixels but broken corners.
MAX_CHORD2 = (2 * math.sin(math.radians(10.0))) ** 2
MIN_CHORD2 = 1e-14  # 0.6 m: the last piece beside a pole may turn as fast as it likes

# Cells of a row that `touched` answers for with one flag: about a page of memory.
TILE = 128

# What `accumulate` counts in `tally`.
INVALID, DEGENERATE, REPAIRED, USED = range(4)


def accumulate(
    x: np.ndarray,
    y: np.ndarray,
    value: np.ndarray,
    sigma: np.ndarray,
    weight: np.ndarray,
    frame: tuple[float, float, float, float],
    edges: np.ndarray,
    geographic: bool,
    sums: np.ndarray,
    touched: np.ndarray,
    tally: np.ndarray,
) -> None:
    """Add pixels to the sums of a grid.

    Parameters
    ----------
    x, y : (n, 4) float64 corners: longitude and latitude in degrees if ``geographic``, else column and row.
    value, sigma : (n,) float64; ``sigma`` is read only where ``sums`` has room for it.
    weight : float64; (1,), the area of a unit of the plane, if ``geographic``, else (n,) areas of the pixels.
    frame : first edge and step of columns, then of rows (0, 1, 0, 1 if not ``geographic``).
    edges : (ny + 1,) ascending v of the row edges: ``sin(latitude)`` with the sign of the row step, or the row number.
    sums : (ny, nx, 3 to 5) float64, added to: sums of w, w v, the count, and as far as there is room w^2 s^2
        and w s. One record a cell: a page of memory and a cache line touched where separate arrays touch four.
    touched : (ny, nx // TILE + 1) bool, set where cells of a row were added to.
    tally : (4,) int64, added to; see INVALID ….
    """
    if native.available():
        least = (STRAIGHT_DEG, MAX_CHORD2, MIN_CHORD2, COUNT_SHARE, ROUNDING)
        native.accumulate(x, y, value, sigma, weight, frame, edges, geographic, least, sums, touched, TILE, tally)
        return
    from geosr import overlap_numba

    overlap_numba.accumulate(x, y, value, sigma, weight, *frame, edges, geographic, sums, touched, tally)


def finish(
    sums: np.ndarray, touched: np.ndarray, correlated: float, mean: np.ndarray, error: np.ndarray, count: np.ndarray
) -> None:
    """Means, standard errors and counts of :func:`accumulate`'s ``sums``; NaN where nothing was counted.

    Parameters
    ----------
    sums : (ny, nx, 3 to 5); read only where ``touched``, so that memory never used is never asked for.
    correlated : 0 to 1, needs the fifth sum unless 0.
    mean, count : (ny, nx) float32 and int32, written. error : (ny, nx) float32, written, or (0, 0).
    """
    if native.available():
        native.average(sums, touched, TILE, correlated, mean, error, count)
        return
    from geosr import overlap_numba

    overlap_numba.finish(sums, touched, correlated, mean, error, count)
