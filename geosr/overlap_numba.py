"""The kernels of :mod:`geosr.overlap` in numba, for machines where geosr was built without a compiler.

``native/src/overlap.cpp`` follows this line by line.

Machine code is cached beside the source or, where that is read-only, in the user's cache directory or
``NUMBA_CACHE_DIR``; with no writable place at all it is compiled anew in each process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from geosr.overlap import (
    COUNT_SHARE,
    DEGENERATE,
    INVALID,
    MAX_CHORD2,
    MIN_CHORD2,
    REPAIRED,
    ROUNDING,
    STRAIGHT_DEG,
    TILE,
    USED,
)

_MAX_DEPTH = 16
_MAX_VERTICES = 4096


def _jit(function: Callable[..., Any]) -> Any:
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # "cannot cache function: no locator available": nowhere to write
        return numba.njit(nogil=True)(function)


@_jit
def _add_piece(xa, xb, dv, nx, cover):
    """Add an edge piece inside one row, from column xa to xb, rising by dv; returns the columns touched."""
    left, right = min(xa, xb), max(xa, xb)
    if left >= nx:  # not the grid's, but cells up to its rim may lie inside the polygon
        return nx, nx
    if right <= 0.0:
        cover[0] += dv
        return 0, 0
    first, final = nx, -1
    if left < 0.0:  # what lies left of the grid still covers everything to its right
        part = dv * (-left / (right - left))
        cover[0] += part
        dv -= part
        left = 0.0
        first = 0
    if right > nx:
        dv *= (nx - left) / (right - left)
        right = float(nx)
        final = nx
    j, last = int(left), min(int(right), nx - 1)
    first = min(first, j)
    if j == last:
        middle = 0.5 * (left + right) - j
        cover[j] += dv * (1.0 - middle)
        cover[j + 1] += dv * middle
        return first, max(final, j + 1)
    slope = dv / (right - left)
    part = (j + 1 - left) * slope
    middle = 0.5 * (left - j + 1.0)
    cover[j] += part * (1.0 - middle)
    cover[j + 1] += part * middle
    for q in range(j + 1, last):
        cover[q] += 0.5 * slope
        cover[q + 1] += 0.5 * slope
    part = (right - last) * slope
    middle = 0.5 * (right - last)
    cover[last] += part * (1.0 - middle)
    cover[last + 1] += part * middle
    return first, max(final, last + 1)


@_jit
def _row_cover(px, pv, n, low, high, nx, cover):
    """Walk the polygon's edges between v = low and high; returns the range of columns touched."""
    first, last = nx, -1
    x0, v0 = px[n - 1], pv[n - 1]
    for k in range(n):
        x1, v1 = px[k], pv[k]
        if v0 != v1 and max(v0, v1) > low and min(v0, v1) < high:
            va, vb = min(max(v0, low), high), min(max(v1, low), high)
            slope = (x1 - x0) / (v1 - v0)
            xa = x0 if va == v0 else x0 + (va - v0) * slope
            xb = x1 if vb == v1 else x0 + (vb - v0) * slope
            f, t = _add_piece(xa, xb, vb - va, nx, cover)
            first, last = min(first, f), max(last, t)
        x0, v0 = x1, v1
    return first, last


@_jit
def _turns(px, pv):
    """How many of a quadrilateral's corners turn left and right: 4-0 convex, 3-1 concave, 2-2 self-crossing."""
    left = right = 0
    for k in range(4):
        a, b, c = k, (k + 1) % 4, (k + 2) % 4
        cross = (px[b] - px[a]) * (pv[c] - pv[b]) - (pv[b] - pv[a]) * (px[c] - px[b])
        if cross > 0.0:
            left += 1
        elif cross < 0.0:
            right += 1
    return left, right


@_jit
def _untangle(px, pv):
    """Reorder the corners of a self-crossing quadrilateral into a ring; False if it was none."""
    left, right = _turns(px, pv)
    if left != 2 or right != 2:
        return False
    for i, j in ((1, 2), (2, 3)):
        px[i], px[j], pv[i], pv[j] = px[j], px[i], pv[j], pv[i]
        left, right = _turns(px, pv)
        if left != 2 or right != 2:
            break
        px[i], px[j], pv[i], pv[j] = px[j], px[i], pv[j], pv[i]
    return True


@_jit
def _wrap(d):
    """Longitude difference in -180 to 180; antisymmetric, so that neighbours agree on a shared edge."""
    while d > 180.0:
        d -= 360.0
    while d < -180.0:
        d += 360.0
    return d


@_jit
def _local_turns(q, order):
    """:func:`_turns` seen from above the pixel, for corners q (4, 3) on the unit sphere."""
    left = right = 0
    for k in range(4):
        a, b, c = order[k], order[(k + 1) % 4], order[(k + 2) % 4]
        turn = 0.0
        for i in range(3):
            j, m = (i + 1) % 3, (i + 2) % 3
            up = q[0, i] + q[1, i] + q[2, i] + q[3, i]
            turn += up * ((q[b, j] - q[a, j]) * (q[c, m] - q[b, m]) - (q[b, m] - q[a, m]) * (q[c, j] - q[b, j]))
        if turn > 0.0:
            left += 1
        elif turn < 0.0:
            right += 1
    return left, right


@_jit
def _ring_order(q, order):
    """Order the corners q (4, 3) into a ring; True if they crossed as they came."""
    left, right = _local_turns(q, order)
    if left != 2 or right != 2:
        return False
    for i in (1, 2):
        order[i], order[i + 1] = order[i + 1], order[i]
        left, right = _local_turns(q, order)
        if left != 2 or right != 2:
            break
        order[i], order[i + 1] = order[i + 1], order[i]
    return True


@_jit
def _great_circle_ring(lon, lat, plon, plat, order):
    """Ring of a pixel near a pole or with long edges, subdivided along great circles, closed along the pole.

    ``plon`` comes out unwrapped. Bisection takes the same points whichever way an edge is walked, so that
    neighbours stay seamless. Returns the number of vertices; 0: not a pixel.
    """
    q = np.empty((4, 3))
    for k in range(4):
        la, lo = math.radians(lat[k]), math.radians(lon[k])
        q[k, 0], q[k, 1], q[k, 2] = math.cos(la) * math.cos(lo), math.cos(la) * math.sin(lo), math.sin(la)
        order[k] = k
    _ring_order(q, order)
    # Depth first along each edge: rows of `todo` are the ends x, y, z, longitude, depth still to reach, nearest last.
    todo = np.empty((_MAX_DEPTH + 2, 5))
    n, start = 0, lon[order[0]]
    here = start
    for k in range(4):
        a, b = order[k], order[(k + 1) % 4]
        plon[n], plat[n] = here, lat[a]
        n += 1
        x, y, z, plain = q[a, 0], q[a, 1], q[a, 2], lon[a]
        todo[0, 0], todo[0, 1], todo[0, 2], todo[0, 3], todo[0, 4] = q[b, 0], q[b, 1], q[b, 2], lon[b], 0.0
        if (q[b, 0] - x) ** 2 + (q[b, 1] - y) ** 2 + (q[b, 2] - z) ** 2 > MAX_CHORD2:
            return 0
        top = 0
        while top >= 0:
            ex, ey, ez, elon, depth = todo[top, 0], todo[top, 1], todo[top, 2], todo[top, 3], todo[top, 4]
            turn = _wrap(elon - plain)
            chord2 = (ex - x) ** 2 + (ey - y) ** 2 + (ez - z) ** 2
            if abs(turn) > STRAIGHT_DEG and chord2 > MIN_CHORD2 and depth < _MAX_DEPTH:
                mx, my, mz = x + ex, y + ey, z + ez
                norm = math.sqrt(mx * mx + my * my + mz * mz)
                todo[top, 4] = depth + 1
                top += 1
                todo[top, 0], todo[top, 1], todo[top, 2] = mx / norm, my / norm, mz / norm
                todo[top, 3], todo[top, 4] = math.degrees(math.atan2(my, mx)), depth + 1
                continue
            here += turn
            x, y, z, plain = ex, ey, ez, elon
            top -= 1
            if top >= 0:
                if n >= _MAX_VERTICES - 8:
                    return 0
                plon[n], plat[n] = here, math.degrees(math.atan2(ez, math.hypot(ex, ey)))
                n += 1
    if abs(here - start) > 180.0:  # once around: the pole is inside
        pole = 90.0 if lat[0] > 0 else -90.0
        plon[n], plat[n] = here, lat[order[0]]
        plon[n + 1], plat[n + 1] = here, pole
        plon[n + 2], plat[n + 2] = start, pole
        n += 3
    return n


@_jit
def accumulate(x, y, value, sigma, weight, c, a, f, e, edges, geographic, sums, touched, tally):
    """As :func:`geosr.overlap.accumulate`."""
    ny, nx, room = sums.shape
    cover = np.zeros(nx + 2)
    plon, plat, order = np.empty(_MAX_VERTICES), np.empty(_MAX_VERTICES), np.arange(4)
    px, pv, pr = np.empty(_MAX_VERTICES), np.empty(_MAX_VERTICES), np.empty(_MAX_VERTICES)
    sign = 1.0 if e > 0 else -1.0
    period = 360.0 / abs(a)
    for p in range(x.shape[0]):
        ok, near = True, True
        for k in range(4):
            ok = ok and math.isfinite(x[p, k]) and math.isfinite(y[p, k])
            ok = ok and not (geographic and (abs(y[p, k]) > 90.001 or abs(x[p, k]) > 1000.0))
        if not ok:
            tally[INVALID] += 1
            continue
        n, repaired = 4, False
        if geographic:
            d1, d2 = _wrap(x[p, 1] - x[p, 0]), _wrap(x[p, 2] - x[p, 1])
            d3, d4 = _wrap(x[p, 3] - x[p, 2]), _wrap(x[p, 0] - x[p, 3])
            near = max(max(abs(d1), abs(d2)), max(abs(d3), abs(d4))) <= STRAIGHT_DEG
            low = min(min(y[p, 0], y[p, 1]), min(y[p, 2], y[p, 3]))
            high = max(max(y[p, 0], y[p, 1]), max(y[p, 2], y[p, 3]))
            near = near and high - low <= 20.0
            if near:
                r0, r1 = (low - f) / e, (high - f) / e
                if max(r0, r1) <= 0 or min(r0, r1) >= ny:
                    tally[USED] += 1
                    continue
                plon[0] = x[p, 0]
                plon[1] = plon[0] + d1
                plon[2] = plon[1] + d2
                plon[3] = plon[2] + d3
                for k in range(4):
                    plat[k] = y[p, k]
            else:
                n = _great_circle_ring(x[p], y[p], plon, plat, order)
                repaired = order[1] != 1 or order[2] != 2
            for k in range(n):
                lat = min(max(plat[k], -90.0), 90.0)
                px[k] = (plon[k] - c) / a
                pv[k] = sign * math.sin(math.radians(lat))
                pr[k] = (lat - f) / e
        else:
            for k in range(4):
                px[k], pv[k], pr[k] = x[p, k], y[p, k], y[p, k]
        if near:
            repaired = _untangle(px, pv)
        size = 0.0
        xmin, xmax, vmin, vmax = np.inf, -np.inf, np.inf, -np.inf
        rmin, rmax = np.inf, -np.inf
        for k in range(n):
            q = k + 1 if k + 1 < n else 0
            # relative to the first vertex: pixels are small and lie far from the origin
            size += (px[k] - px[0]) * (pv[q] - pv[0]) - (px[q] - px[0]) * (pv[k] - pv[0])
            xmin, xmax = min(xmin, px[k]), max(xmax, px[k])
            vmin, vmax = min(vmin, pv[k]), max(vmax, pv[k])
            rmin, rmax = min(rmin, pr[k]), max(rmax, pr[k])
        size *= 0.5
        orient = 1.0 if size < 0 else -1.0  # `cover` counts what lies right of rising edges: clockwise
        size = abs(size)
        if n == 0 or size <= 1e-7 * (xmax - xmin) * (vmax - vmin):  # no pixel, or all corners on one line
            tally[DEGENERATE] += 1
            continue
        tally[USED] += 1
        if repaired:
            tally[REPAIRED] += 1
        i0, i1 = max(0, math.floor(rmin)), min(ny - 1, math.floor(rmax))
        if i0 > i1:
            continue
        if geographic:  # the copies of the pixel, 360 degrees apart, that reach the grid
            shift = (math.floor(-xmax / period) + 1) * period
            for k in range(n):
                px[k] += shift
            xmin, xmax = xmin + shift, xmax + shift
        unit = weight[0] if geographic else weight[p] / size
        while xmin < nx and xmax > 0:
            for i in range(i0, i1 + 1):
                first, last = _row_cover(px, pv, n, edges[i], edges[i + 1], nx, cover)
                enough = COUNT_SHARE * min(size, edges[i + 1] - edges[i])
                run = 0.0
                for j in range(first, last + 1):
                    run += cover[j]
                    cover[j] = 0.0
                    share = orient * run
                    if share > ROUNDING * size and j < nx:
                        w = share * unit
                        touched[i, j // TILE] = True
                        cell = sums[i, j]
                        cell[0] += w
                        cell[1] += w * value[p]
                        if share > enough:
                            cell[2] += 1.0
                        if room > 3:
                            cell[3] += (w * sigma[p]) ** 2
                        if room > 4:
                            cell[4] += w * sigma[p]
            if not geographic:
                break
            for k in range(n):
                px[k] += period
            xmin, xmax = xmin + period, xmax + period


@_jit
def finish(sums, touched, correlated, mean, error, count):
    """As :func:`geosr.overlap.finish`."""
    ny, nx, room = sums.shape
    for i in range(ny):
        mean[i] = np.nan
        count[i] = 0
        if error.size > 0:
            error[i] = np.nan
        for j in range(nx):
            if not touched[i, j // TILE] or sums[i, j, 2] == 0.0:
                continue
            cell = sums[i, j]
            count[i, j] = int(cell[2])
            mean[i, j] = cell[1] / cell[0]
            if error.size > 0:
                variance = (1.0 - correlated) * cell[3]
                if room > 4:
                    variance += correlated * cell[4] ** 2
                error[i, j] = math.sqrt(variance) / cell[0]
