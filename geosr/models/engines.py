"""Engines: who multiplies. The same network and numbers with ONNX Runtime or TensorFlow.

ONNX Runtime is the default: it starts in 0.3 s and comes with geosr. TensorFlow is the reference (and the framework of
training); the two agree to 1e-5 of the range. Neither is imported before a model runs.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from geosr.errors import ModelError, UsageError
from geosr.models import onnx_network
from geosr.models.bundle import Bundle

#: (n, H, W, channels) float32 on the network's grid -> (n, h, w, 1) float32 on the fine grid, less the network's reach;
#: safe to call from several threads.
Engine = Callable[[np.ndarray], np.ndarray]

NAMES = ("auto", "onnx", "tensorflow")
_INSTALL = "pip install 'geosr[tensorflow]'"
_PACKAGES = {"onnx": "onnxruntime", "tensorflow": "tensorflow"}

# One session per process, model, engine and thread count, however many dask tasks ask for it.
_cache: dict[tuple[str, str, str, int], Engine] = {}
_lock = threading.Lock()


def choose(name: str = "auto") -> str:
    """The engine that ``name`` means here: "onnx" or "tensorflow".

    Raises
    ------
    UsageError
        An unknown name, or an engine whose package is not installed.
    """
    if name not in NAMES:
        raise UsageError(f"engine {name!r} is not known", f"use one of {', '.join(NAMES)}")
    wanted = ("onnx", "tensorflow") if name == "auto" else (name,)
    for candidate in wanted:
        if importlib.util.find_spec(_PACKAGES[candidate]) is not None:
            return candidate
    if name == "onnx":
        raise UsageError("engine 'onnx' needs onnxruntime, which is not installed", "pip install onnxruntime")
    if name == "auto":
        raise UsageError("no engine is installed", f"{_INSTALL}, or use --method bicubic")
    raise UsageError("engine 'tensorflow' needs TensorFlow, which is not installed", _INSTALL)


def engine(bundle: Bundle, name: str = "auto", threads: int = 1, part: str = "model") -> Engine:
    """A function that runs a network of the bundle.

    Parameters
    ----------
    name : "auto", "onnx" or "tensorflow".
    threads : of one call, for ONNX Runtime. 1 by default, because dask runs one call per core already. TensorFlow's
        threads belong to the process and are left as they are.
    part : "model" or "sigma".
    """
    name = choose(name)
    key = (bundle.sha256, part, name, threads)
    with _lock:
        if key not in _cache:
            _cache[key] = _onnx(bundle, threads, part) if name == "onnx" else _tensorflow(bundle, part)
        return _cache[key]


def _onnx(bundle: Bundle, threads: int, part: str) -> Engine:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    graph = onnx_network.write(bundle.network(part), bundle.onnx_arrays(part), bundle.card.scale)
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base
        raise ModelError(f"ONNX Runtime does not take the model ({error})", "use --engine tensorflow") from error

    def run(x: np.ndarray) -> np.ndarray:
        first = np.ascontiguousarray(np.moveaxis(x, -1, 1), dtype=np.float32)
        (out,) = session.run([onnx_network.OUTPUT], {onnx_network.INPUT: first})
        return np.moveaxis(out, 1, -1)

    return run


def _tensorflow(bundle: Bundle, part: str) -> Engine:
    import tensorflow as tf

    from geosr.models import keras_network

    arch, channels, scale = bundle.network(part), bundle.channels(part), bundle.card.scale
    model = keras_network.build(arch, channels, scale=scale, equivariant=not bundle.bias(part), training=False)
    keras_network.with_arrays(model, bundle.keras_arrays(part))

    def forward(x: Any) -> Any:
        out = model(x, training=False)
        return keras_network.shuffle(out, scale) if arch.coarse else out

    # One trace for all shapes: a tile at the edge has its own.
    spec = tf.TensorSpec((None, None, None, channels), tf.float32)
    call = tf.function(forward, input_signature=[spec], autograph=False)

    def run(x: np.ndarray) -> np.ndarray:
        return call(tf.constant(np.ascontiguousarray(x, dtype=np.float32))).numpy()

    return run
