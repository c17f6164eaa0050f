"""Numbers that say what kind of field it is, whatever its units: they do not change when it is scaled or shifted.

============== =======================================================================================================
``lower``      0.1 % of the cells lie more spreads than this below the median; an undeclared nodata value shows here
``upper``      1 % of the cells lie more spreads than this above the median: how far plumes stand out
``peak``       the same for 0.1 % of the cells
``noise``      standard deviation of the noise over that of the field, 0 to 1
``neighbours`` rank correlation of neighbouring cells: 0 for noise of any distribution, near 1 for a map
``levels``     how many different values there are: a map of classes has few
============== =======================================================================================================

The spread is half the distance between the 16th and the 84th percentile (the standard deviation of a normal
distribution), so that plumes do not set the scale on which they are measured. The noise is that of Immerkær, J. (1996),
Fast noise variance estimation, CVIU 64(2), section 2, with the median in place of the mean of the absolute responses:
plumes are few cells, and do not count.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

#: Fewer cells than this say nothing about a distribution; and so many must differ from the commonest value.
MIN_CELLS = 1000

#: What :func:`sample` looks at, at most: windows, their side in cells, planes (times, bands) they are taken from.
WINDOWS, SIDE, PLANES = 16, 128, 8

# So many windows are opened, at most, in the search for some with data; and this share of one must be valid.
_LOOKS = 64
_LEAST_VALID = 0.1

# Immerkær's mask: the difference of two Laplacians, blind to planes. The root of the sum of its squares is 6.
_MASK = ((1, -2, 1), (-2, 4, -2), (1, -2, 1))
_MASK_NORM = 6.0
# Median of |x| for a normal x of standard deviation 1.
_NORMAL_MEDIAN = 0.6744897501960817


@dataclass(frozen=True)
class Sample:
    """What :func:`measure` found.

    Attributes
    ----------
    cells : valid ones.
    cell_m : side of a coarse cell in metres.
    statistics : name (see the module's docstring) -> value; empty where there is nothing to judge.
    """

    cells: int
    cell_m: float
    statistics: Mapping[str, float] = field(default_factory=dict)


def measure(coarse: np.ndarray | Sequence[np.ndarray], cell_m: float) -> Sample:
    """Statistics of a coarse field.

    Parameters
    ----------
    coarse : (h, w), or several windows of one field, of any sizes; NaN is missing.
    cell_m : side of a coarse cell in metres (:func:`geosr.grid.cell_size_m`).

    Returns
    -------
    Sample without statistics if fewer than :data:`MIN_CELLS` cells differ from the commonest value (all-NaN, constant
    and tiny fields among them): there is nothing to judge. One that cannot be had (no 3 x 3 window without NaN, a
    spread of 0) is left out.
    """
    windows = [np.asarray(w, dtype=np.float64) for w in ([coarse] if isinstance(coarse, np.ndarray) else coarse)]
    known = [np.isfinite(w) for w in windows]
    values = np.concatenate([w[k] for w, k in zip(windows, known, strict=True)] or [np.empty(0)])
    if values.size < MIN_CELLS:
        return Sample(values.size, cell_m)
    different, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    if values.size - int(np.max(counts)) < MIN_CELLS:
        return Sample(values.size, cell_m)
    found = {"levels": float(different.size), **_tails(values)}
    deviation = float(values.std())
    if (noise := _noise(windows)) is not None and deviation > 0:
        found["noise"] = min(noise / deviation, 1.0)
    # Mean ranks of equal values, as Spearman's correlation wants them.
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[where.reshape(-1)]
    if (correlation := _neighbours(known, ranks)) is not None:
        found["neighbours"] = correlation
    return Sample(values.size, cell_m, found)


def _tails(values: np.ndarray) -> dict[str, float]:
    bottom, low, median, high, top, peak = np.quantile(values, [0.001, 0.16, 0.5, 0.84, 0.99, 0.999])
    spread = (high - low) / 2
    if not spread > 0:
        return {}
    tails = {"lower": median - bottom, "upper": top - median, "peak": peak - median}
    with np.errstate(over="ignore"):
        return {name: float(reach / spread) for name, reach in tails.items()}


def _noise(windows: Iterable[np.ndarray]) -> float | None:
    """Standard deviation of the noise, in the field's units; None without enough 3 x 3 windows free of NaN."""
    responses = []
    for window in windows:
        h, w = window.shape
        if h < 3 or w < 3:
            continue
        total = np.zeros((h - 2, w - 2))
        for dy, row in enumerate(_MASK):
            for dx, weight in enumerate(row):
                total += weight * window[dy : h - 2 + dy, dx : w - 2 + dx]
        responses.append(np.abs(total[np.isfinite(total)]))
    sizes = np.concatenate(responses) if responses else np.empty(0)
    if sizes.size < MIN_CELLS // 4:
        return None
    return float(np.median(sizes)) / (_MASK_NORM * _NORMAL_MEDIAN)


def _neighbours(known: Iterable[np.ndarray], ranks: np.ndarray) -> float | None:
    """Spearman's correlation of cells that share a side; ``ranks`` are those of the known cells, in order."""
    firsts, seconds, start = [], [], 0
    for mask in known:
        field = np.full(mask.shape, np.nan)
        field[mask] = ranks[start : start + int(mask.sum())]
        start += int(mask.sum())
        for a, b in ((field[:, :-1], field[:, 1:]), (field[:-1], field[1:])):
            both = ~np.isnan(a) & ~np.isnan(b)
            firsts.append(a[both])
            seconds.append(b[both])
    a, b = np.concatenate(firsts), np.concatenate(seconds)
    if a.size < MIN_CELLS // 4 or a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def sample(data: Any, cell_m: float) -> Sample:
    """:func:`measure` of a bounded part of ``data``.

    Parameters
    ----------
    data : numpy or dask array (…, y, x), floating, NaN is missing.

    Returns
    -------
    Statistics of the whole, if it is one plane of at most 16 windows' cells. Else of up to 16 windows of 128 x 128
    cells with data, spread evenly over the raster and over up to 8 planes; of lazy data only these windows (64 at the
    most, until 16 have data) are computed.
    """
    planes, (ny, nx) = int(np.prod(data.shape[:-2], dtype=int)), data.shape[-2:]
    if planes == 1 and ny * nx <= WINDOWS * SIDE * SIDE:
        return measure(_computed([data])[0].reshape(ny, nx), cell_m)
    found: list[np.ndarray] = []
    places = _places(data.shape)
    for start in range(0, len(places), WINDOWS):
        parts = _computed([data[place] for place in places[start : start + WINDOWS]])
        found += [p for p in parts if np.isfinite(p).mean() >= _LEAST_VALID]
        if len(found) >= WINDOWS:
            break
    return measure(found[:WINDOWS], cell_m)


def _places(shape: tuple[int, ...]) -> list[tuple[Any, ...]]:
    """Indices of windows, in an order in which any first few of them are spread over the whole."""
    lead, (ny, nx) = shape[:-2], shape[-2:]
    count = int(np.prod(lead, dtype=int))
    planes = np.unique(np.linspace(0, count - 1, min(PLANES, count)).astype(int))
    rows, cols = (np.arange(n // SIDE) * SIDE + n % SIDE // 2 if n > SIDE else np.zeros(1, int) for n in (ny, nx))
    every = len(planes) * len(rows) * len(cols)
    # Multiples of the golden ratio, modulo 1, are as evenly spread as can be, however many are taken.
    order = np.argsort(np.arange(every) * 0.6180339887498949 % 1.0)[:_LOOKS]
    places = []
    for plane, i, j in zip(*np.unravel_index(order, (len(planes), len(rows), len(cols))), strict=True):
        index = np.unravel_index(planes[plane], lead) if lead else ()
        window = slice(rows[i], rows[i] + SIDE), slice(cols[j], cols[j] + SIDE)
        places.append((*(int(n) for n in index), *window))
    return places


def _computed(parts: list[Any]) -> list[np.ndarray]:
    """Numpy arrays of numpy or dask ones, by the scheduler that is set."""
    import dask
    from dask.threaded import get

    # Without distributed there is no client that dask could find; in its search it would import it, 0.3 s.
    alone = "distributed" not in sys.modules and dask.config.get("scheduler", None) is None
    return [np.asarray(p) for p in dask.compute(*parts, scheduler=get if alone else None)]
