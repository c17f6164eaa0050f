"""Blocks of a place to hold out and to validate on: at one end of it, as far from the rest as the network sees.

::

    +----------------+---------+----------+
    |                |         | held out |
    |                |         +----------+
    |  trained on    |  reach  |  reach   |
    |                |         +----------+
    |                |         | validate |
    +----------------+---------+----------+

Where that does not fit, the whole end is held out, or validates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geosr.training.checks import Box
from geosr.training.regions import centres, extent_of, reach_of
from geosr.training.truths import Plane

# Share of a place at its end that is not trained on, and share of that end that is held out.
_END, _HELD = 0.25, 0.6

# Share of the end's valid cells at either side of it that are too few for a block of their own.
_FEW = 0.05

# What is trained on, and each of the others, is at least so many coarse cells wide.
_LEAST_TRAINED, _LEAST = 12, 8

# About how many cells are looked at along a side of a place. How much wider than the reach the distance is: boxes are
# rounded.
_LOOKED, _SAFE = 200, 1.01


@dataclass(frozen=True)
class Blocks:
    """Boxes of a place: what is held out, what validates, and what must not be trained on (both, and the reach)."""

    heldout: tuple[Box, ...] = ()
    validate: tuple[Box, ...] = ()
    closed: tuple[Box, ...] = ()

    @staticmethod
    def together(parts: Sequence[Blocks]) -> Blocks:
        """The boxes of several places."""

        def all_of(key: str) -> tuple[Box, ...]:
            return tuple(box for part in parts for box in getattr(part, key))

        return Blocks(all_of("heldout"), all_of("validate"), all_of("closed"))


def least_length(reach: int, scale: int) -> int:
    """Cells along a place that is long enough for a block."""
    return (_LEAST_TRAINED + _LEAST) * scale + math.ceil(_SAFE * reach) + 1


def blocks_of(planes: Sequence[Plane], reach: int, scale: int, number: int) -> Blocks:
    """Blocks of the place that ``planes`` share; none where it is too small.

    Parameters
    ----------
    reach : cells of the planes that the network sees to each side.
    number : of the place; where an end is too short for two blocks, even ones hold it out, odd ones validate on it.
    """
    axes = _valid_centres(planes)
    if axes[0].size == 0:
        return Blocks()
    apart = [_SAFE * max(v) for v in zip(*(reach_of(p, reach) for p in planes), strict=True)]
    cell = [a / (_SAFE * reach) for a in apart]
    low, high = _extent(planes, float(axes[0][0]))
    # Along the axis that is longer as the network counts.
    far = int(np.argmax([np.ptp(v) / a for v, a in zip(axes, apart, strict=True)]))
    near = 1 - far
    low_far, top = float(axes[far].min()), float(axes[far].max())
    earliest = low_far + _LEAST_TRAINED * scale * cell[far] + apart[far]
    latest = top - _LEAST * scale * cell[far]
    if earliest > latest:
        return Blocks()
    cut = min(max(float(np.quantile(axes[far], 1 - _END)), earliest), latest)
    end, across = (cut, high[far]), (low[near] - apart[near], high[near] + apart[near])
    closed = _box({far: (cut - apart[far], high[far] + apart[far]), near: across}, planes)
    beside = axes[near][axes[far] >= cut]
    first, last = (float(v) for v in np.quantile(beside, [_FEW, 1 - _FEW]))
    room = last - first - apart[near]
    around = planes[0].box is not None and near == 0 and across[1] - across[0] >= 360
    if around or room * min(_HELD, 1 - _HELD) < _LEAST * scale * cell[near]:
        whole = _box({far: end, near: (low[near], high[near])}, planes)
        return Blocks((whole,), (), (closed,)) if number % 2 == 0 else Blocks((), (whole,), (closed,))
    checked = low[near], first + (1 - _HELD) * room
    held = checked[1] + apart[near], high[near]
    return Blocks((_box({far: end, near: held}, planes),), (_box({far: end, near: checked}, planes),), (closed,))


def _extent(planes: Sequence[Plane], middle: float) -> tuple[list[float], list[float]]:
    """Smallest and largest [x, y] of boxes that hold the planes; longitudes are those nearest to ``middle``."""
    rects = [r for p in planes for r in extent_of(p)]
    wests, easts = [r[0] for r in rects], [r[2] for r in rects]
    if planes[0].box is not None:
        # A box that ends at the dateline goes on in another one that begins there.
        wests = [(w - middle + 180) % 360 - 180 + middle for w in wests]
        easts = [w + r[2] - r[0] for w, r in zip(wests, rects, strict=True)]
    return [min(wests), min(r[1] for r in rects)], [max(easts), max(r[3] for r in rects)]


def _box(sides: dict[int, tuple[float, float]], planes: Sequence[Plane]) -> Box:
    """The box of two ranges; on Earth with longitudes from -180 to 180, to a tenth of a metre."""
    (west, east), (south, north) = sides[0], sides[1]
    if planes[0].box is None:
        return round(west), round(south), round(east), round(north)
    if east - west >= 360:
        west, east = -180.0, 180.0
    else:
        west, east = ((v + 180) % 360 - 180 for v in (west, east))
    return round(west, 6), round(south, 6), round(east, 6), round(north, 6)


def _valid_centres(planes: Sequence[Plane]) -> list[np.ndarray]:
    """Coordinates, [x, y], of centres of valid cells of the first plane on each grid, some 200 along a side.

    Longitudes are those nearest to the first, so that a place across the dateline is in one piece.
    """
    grids: dict[object, Plane] = {}
    for plane in planes:
        grids.setdefault((plane.shape, plane.box, plane.picture), plane)
    xs, ys = [], []
    for plane in grids.values():
        rows, cols = (slice(None, None, max(1, n // _LOOKED)) for n in plane.shape)
        valid = ~np.isnan(plane.read()[0][rows, cols])
        x, y = centres(plane, rows, cols)
        xs.append(x[valid])
        ys.append(y[valid])
    x, y = np.concatenate(xs), np.concatenate(ys)
    if planes[0].box is not None and x.size:
        x = (x - x[0] + 180) % 360 - 180 + x[0]
    return [x, y]
