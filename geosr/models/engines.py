"""Engines: who multiplies. The same network and numbers from compiled kernels, ONNX Runtime or TensorFlow.

============== ================================================================================================
``native``     geosr's own kernels (:mod:`geosr.native`), for one channel and the architectures that they know: the
               fastest, in a few megabytes, without a library to start. Built at installation where there is a compiler.
``onnx``       ONNX Runtime: portable, every architecture, starts in 0.3 s. Comes with geosr.
``tensorflow`` the reference and the framework of training; runs on a GPU.
============== ================================================================================================

They agree to 1e-5 of the range. None is imported before a model runs. docs/performance.md compares their speeds.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from geosr import interpolate, native
from geosr.errors import ModelError, UsageError
from geosr.models import native_network, onnx_network
from geosr.models.architectures import Architecture
from geosr.models.bundle import Bundle

#: A coarse tile (h + 2 halo, w + 2 halo, channels) float32 without NaN, with the ``halo`` of
#: :meth:`~geosr.models.architectures.Architecture.halo`, to the network's output (h * scale, w * scale) float32. The
#: output depends on no cell farther away, and not on the extent of the tile beyond rounding. Safe to call from several
#: threads.
Engine = Callable[[np.ndarray], np.ndarray]
#: A network in a framework: (1, H, W, channels) on the network's grid to (1, h, w, 1) on the fine grid, less its reach.
_Network = Callable[[np.ndarray], np.ndarray]

NAMES = ("auto", "native", "onnx", "tensorflow")
_INSTALL = "pip install 'geosr[tensorflow]'"
_PACKAGES = {"onnx": "onnxruntime", "tensorflow": "tensorflow"}

#: Side of the squares that go through a framework at once, in cells of the network's own grid: bounds memory and keeps
#: them near the processor's caches, whatever the size of the tile.
FINE_BLOCK, COARSE_BLOCK = 96, 256

# One engine per process, model, part, name and thread count, however many dask tasks ask for it.
_cache: dict[tuple[str, str, str, int], Engine] = {}
_lock = threading.Lock()


def choose(name: str = "auto", bundle: Bundle | None = None, part: str = "model") -> str:
    """The engine that ``name`` means here: "native", "onnx" or "tensorflow".

    Parameters
    ----------
    bundle, part : the network to run; "auto" takes the fastest engine that knows it.

    Raises
    ------
    UsageError
        An unknown name, an engine that is not installed, or "native" for a network that it does not know.
    """
    if name not in NAMES:
        raise UsageError(f"engine {name!r} is not known", f"use one of {', '.join(NAMES)}")
    for candidate in NAMES[1:] if name == "auto" else (name,):
        if candidate == "native":
            if native.available() and (bundle is None or _knows(bundle, part)):
                return candidate
        elif importlib.util.find_spec(_PACKAGES[candidate]) is not None:
            return candidate
    if name == "native" and native.available():
        raise UsageError("engine 'native' has no kernel for this network", "use --engine onnx")
    if name == "native":
        hint = "install geosr where there is a C++ compiler, or use --engine onnx"
        raise UsageError("engine 'native' was not built with this installation", hint)
    if name == "onnx":
        raise UsageError("engine 'onnx' needs onnxruntime, which is not installed", "pip install onnxruntime")
    if name == "auto":
        raise UsageError("no engine is installed", f"{_INSTALL}, or use --method bicubic")
    raise UsageError("engine 'tensorflow' needs TensorFlow, which is not installed", _INSTALL)


def _knows(bundle: Bundle, part: str) -> bool:
    return native_network.supports(bundle.network(part), bundle.channels(part), bundle.card.scale)


def engine(bundle: Bundle, name: str = "auto", threads: int = 1, part: str = "model") -> Engine:
    """A function that runs a network of the bundle on a coarse tile.

    Parameters
    ----------
    name : one of :data:`NAMES`.
    threads : of one call, for ONNX Runtime. 1 by default, because dask runs one call per core already. TensorFlow's
        threads belong to the process and are left as they are; compiled kernels run on the thread that calls.
    part : "model" or "sigma".
    """
    name = choose(name, bundle, part)
    key = (bundle.sha256, part, name, threads)
    with _lock:
        if key not in _cache:
            _cache[key] = _make(bundle, name, threads, part)
        return _cache[key]


def _make(bundle: Bundle, name: str, threads: int, part: str) -> Engine:
    arch, scale = bundle.network(part), bundle.card.scale
    if name == "native":
        run = native_network.build(arch, bundle.onnx_arrays(part), scale)
        return lambda coarse: run(coarse[:, :, 0])
    network = _onnx(bundle, threads, part) if name == "onnx" else _tensorflow(bundle, part)
    return lambda coarse: _in_blocks(network, arch, scale, coarse)


def _in_blocks(network: _Network, arch: Architecture, scale: int, coarse: np.ndarray) -> np.ndarray:
    """``network`` on the grid that it is for, a block at a time."""
    halo, reach = arch.halo(scale), arch.reach
    if arch.coarse:
        field, block, up = interpolate.crop(coarse, halo - reach), COARSE_BLOCK, scale
    else:
        fine = np.moveaxis(interpolate.bicubic(np.moveaxis(coarse, -1, 0), scale), 0, -1)
        field, block, up = interpolate.crop(fine, (halo - interpolate.RADIUS) * scale - reach), FINE_BLOCK, 1
    h, w = (n - 2 * reach for n in field.shape[:2])
    out = np.empty((h * up, w * up), dtype=np.float32)
    for top in range(0, h, block):
        for left in range(0, w, block):
            part = field[top : top + block + 2 * reach, left : left + block + 2 * reach]
            made = network(part[None])[0, :, :, 0]
            out[top * up : (top + block) * up, left * up : (left + block) * up] = made
    return out


def _onnx(bundle: Bundle, threads: int, part: str) -> _Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    graph = onnx_network.write(bundle.network(part), bundle.onnx_arrays(part), bundle.card.scale, rewritten=True)
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base
        raise ModelError(f"ONNX Runtime does not take the model ({error})", "use --engine tensorflow") from error

    def run(x: np.ndarray) -> np.ndarray:
        first = np.ascontiguousarray(np.moveaxis(x, -1, 1), dtype=np.float32)
        (out,) = session.run([onnx_network.OUTPUT], {onnx_network.INPUT: first})
        return np.moveaxis(out, 1, -1)

    return run


def _tensorflow(bundle: Bundle, part: str) -> _Network:
    import tensorflow as tf

    from geosr.models import keras_network

    arch, channels, scale = bundle.network(part), bundle.channels(part), bundle.card.scale
    model = keras_network.build(arch, channels, scale=scale, equivariant=not bundle.bias(part), training=False)
    # Not from ``weights.keras``: all engines run the same numbers, and no HDF5 of a stranger's is opened here.
    keras_network.with_arrays(model, bundle.onnx_arrays(part))

    def forward(x: Any) -> Any:
        out = model(x, training=False)
        return keras_network.shuffle(out, scale) if arch.coarse else out

    # One trace for all shapes: a tile at the edge has its own.
    spec = tf.TensorSpec((None, None, None, channels), tf.float32)
    call = tf.function(forward, input_signature=[spec], autograph=False)

    def run(x: np.ndarray) -> np.ndarray:
        return call(tf.constant(np.ascontiguousarray(x, dtype=np.float32))).numpy()

    return run
