"""Compiled kernels: networks, bicubic and conservation of a tile, and the overlaps of swaths, in C++ without Python.

The library beside this file is built when geosr is installed, if there is a compiler (``CMakeLists.txt``); it holds the
kernels for several instruction sets and takes the best that the processor has. Without it, or with the environment
variable ``GEOSR_NATIVE=off``, geosr does the same with numpy, ONNX Runtime and numba. Calls release the interpreter's
lock and may come from several threads at once; each runs on the thread that calls.

What is fused, and why: ``src/srcnn.h``, ``src/chain.h``. The weights that they take:
:mod:`geosr.models.native_network`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from geosr.errors import ResourceError

#: Outputs whose weights lie together (PACK in ``src/panel.h``).
PACK = 8

_FLOATS = ctypes.POINTER(ctypes.c_float)


class Layer(ctypes.Structure):
    """``struct Layer`` of ``src/api.h``."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("kernel", "inputs", "outputs", "relu", "skip")),
        ("weights", _FLOATS),
        ("bias", _FLOATS),
    ]


class Srcnn(ctypes.Structure):
    """``struct Srcnn`` of ``src/api.h``."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("scale", "halo", "taps", "first", "second", "middle")),
        ("reach", ctypes.POINTER(ctypes.c_long)),
        *((name, _FLOATS) for name in ("phases", "bias1", "weights", "bias2", "last", "bias3")),
    ]


_DOUBLES = ctypes.POINTER(ctypes.c_double)


class Footprints(ctypes.Structure):
    """``struct Footprints`` of ``src/overlap.h``."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("count", "geographic")),
        *((name, _DOUBLES) for name in ("x", "y", "value", "sigma", "weight")),
        *((name, ctypes.c_double) for name in ("straight", "longest", "shortest", "share", "rounding")),
    ]


class Grid(ctypes.Structure):
    """``struct Grid`` of ``src/overlap.h``."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("ny", "nx")),
        *((name, ctypes.c_double) for name in "cafe"),
        ("edges", _DOUBLES),
    ]


class Sums(ctypes.Structure):
    """``struct Sums`` of ``src/overlap.h``."""

    _fields_ = [
        ("cells", _DOUBLES),
        ("touched", ctypes.POINTER(ctypes.c_uint8)),
        *((name, ctypes.c_long) for name in ("room", "tiles", "tile")),
    ]


@cache
def library() -> Any:
    """The loaded library, or None if there is none for this machine (or it is switched off)."""
    if os.environ.get("GEOSR_NATIVE", "").lower() in ("off", "0", "no"):
        return None
    path = Path(__file__).with_name("libgeosr_native" + (".dll" if sys.platform == "win32" else ".so"))
    try:
        found = ctypes.CDLL(str(path))
        found.geosr_isa.restype = ctypes.c_char_p
        found.geosr_average.restype = ctypes.c_int
    except (OSError, AttributeError):
        return None
    return found


def available() -> bool:
    """Are there compiled kernels here?"""
    return library() is not None


def instruction_sets() -> list[str]:
    """Those that this processor has and the library was built for, the best (and used) first."""
    lib = library()
    found: list[str] = []
    while lib is not None and (name := lib.geosr_isa(ctypes.c_long(len(found)))) is not None:
        found.append(name.decode())
    return found


def pack(matrix: np.ndarray) -> np.ndarray:
    """``matrix`` (…, k, outputs) as the kernels read it: (…, ceil(outputs / 8), k, 8) float32, padded with zeros."""
    *lead, k, outputs = matrix.shape
    groups = -(-outputs // PACK)
    padded = np.zeros((*lead, k, groups * PACK), dtype=np.float32)
    padded[..., :outputs] = matrix
    return np.ascontiguousarray(np.moveaxis(padded.reshape(*lead, k, groups, PACK), -3, -2))


def floats(array: np.ndarray | None) -> Any:
    """Address of a C-contiguous float32 array (which the caller keeps), or None."""
    return None if array is None else array.ctypes.data_as(_FLOATS)


def chain(field: np.ndarray, layers: ctypes.Array[Layer], scale: int) -> np.ndarray:
    """Convolutions on the coarse grid and the pixel shuffle.

    Parameters
    ----------
    field : (h + 2 reach, w + 2 reach), no NaN.
    layers : an array of :class:`Layer`; the last has ``scale ** 2`` outputs.

    Returns
    -------
    (h * scale, w * scale) float32.
    """
    reach = sum(layer.kernel // 2 for layer in layers)
    field, out, h, w = _tile(field, reach, scale)
    done = library().geosr_chain(_at(field), h, w, layers, ctypes.c_long(len(layers)), ctypes.c_long(scale), _at(out))
    return _checked(out, done)


def srcnn(field: np.ndarray, network: Srcnn) -> np.ndarray:
    """SRCNN's output (h * scale, w * scale), float32, on the bicubic of ``field`` (h + 2 halo, w + 2 halo)."""
    field, out, h, w = _tile(field, network.halo, network.scale)
    return _checked(out, library().geosr_srcnn(_at(field), h, w, ctypes.byref(network), _at(out)))


def bicubic(field: np.ndarray, weights: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Bicubic of ``field`` (h + 4, w + 4), by ``weights`` (scale, 5) of the phases; added to a given ``out``."""
    scale = len(weights)
    field, made, h, w = _tile(field, 2, scale)
    target = made if out is None else out
    taps = np.ascontiguousarray(weights, dtype=np.float32)
    add = ctypes.c_long(out is not None)
    done = library().geosr_bicubic(_at(field), h, w, ctypes.c_long(scale), _at(taps), add, _at(target))
    return _checked(target, done)


def conserve(fine: np.ndarray, coarse: np.ndarray, share: np.ndarray, correct: bool) -> tuple[float, float]:
    """Correct ``fine`` (h * scale, w * scale), float32 and contiguous, in place.

    Parameters
    ----------
    coarse : (h, w) float32; NaN is nodata, and makes its fine cells NaN.
    share : (h, scale) float64, the part that each fine row has of its coarse row's area.
    correct : False only puts the NaNs in.

    Returns
    -------
    Largest ``|mean of the fine cells - coarse|`` that is left, and largest ``|coarse|``; 0 without valid cells.
    """
    h, w = coarse.shape
    coarse = np.ascontiguousarray(coarse, dtype=np.float32)
    share = np.ascontiguousarray(share, dtype=np.float64)
    found = np.zeros(2)
    sizes = [ctypes.c_long(n) for n in (h, w, share.shape[1])]
    done = library().geosr_conserve(_at(fine), _at(coarse), *sizes, _at(share), ctypes.c_long(correct), _at(found))
    _checked(fine, done)
    return float(found[0]), float(found[1])


def accumulate(
    x: np.ndarray,
    y: np.ndarray,
    value: np.ndarray,
    sigma: np.ndarray,
    weight: np.ndarray,
    frame: tuple[float, float, float, float],
    edges: np.ndarray,
    geographic: bool,
    least: tuple[float, float, float, float, float],
    sums: np.ndarray,
    touched: np.ndarray,
    tile: int,
    tally: np.ndarray,
) -> None:
    """:func:`geosr.overlap.accumulate`, whose names these are; ``least`` as ``struct Footprints`` has them."""
    given = [np.ascontiguousarray(array, dtype=np.float64) for array in (x, y, value, sigma, weight, edges)]
    *pixels, rows = (array.ctypes.data_as(_DOUBLES) for array in given)
    ny, nx, _ = sums.shape
    footprints = Footprints(len(x), geographic, *pixels, *least)
    grid = Grid(ny, nx, *frame, rows)
    arrays = ctypes.byref(footprints), ctypes.byref(grid), ctypes.byref(_sums(sums, touched, tile)), _at(tally)
    if library().geosr_accumulate(*arrays):
        raise ResourceError("no memory for a row of the grid", "choose a smaller --bbox or a larger --resolution")


def average(
    sums: np.ndarray,
    touched: np.ndarray,
    tile: int,
    correlated: float,
    mean: np.ndarray,
    error: np.ndarray,
    count: np.ndarray,
) -> None:
    """:func:`geosr.overlap.finish`, whose names these are."""
    ny, nx = (ctypes.c_long(n) for n in mean.shape)
    share, sigma = ctypes.c_double(correlated), _at(error) if error.size else None
    library().geosr_average(ctypes.byref(_sums(sums, touched, tile)), ny, nx, share, _at(mean), sigma, _at(count))


def _sums(sums: np.ndarray, touched: np.ndarray, tile: int) -> Sums:
    flags = touched.view(np.uint8).ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
    return Sums(sums.ctypes.data_as(_DOUBLES), flags, sums.shape[2], touched.shape[1], tile)


def _tile(field: np.ndarray, rim: int, scale: int) -> tuple[np.ndarray, np.ndarray, ctypes.c_long, ctypes.c_long]:
    """The field as the kernels read it, room for the result, and the coarse cells of the result."""
    h, w = (n - 2 * rim for n in field.shape)
    out = np.empty((h * scale, w * scale), dtype=np.float32)
    return np.ascontiguousarray(field, dtype=np.float32), out, ctypes.c_long(h), ctypes.c_long(w)


def _at(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _checked(result: np.ndarray, code: int) -> np.ndarray:
    if code:
        raise ResourceError("no memory for a tile", "use a smaller --tile, or fewer threads")
    return result
