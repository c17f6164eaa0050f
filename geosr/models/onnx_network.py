"""The registry's networks as ONNX, written and read without the ``onnx`` package.

The graph is a chain of Conv and Relu, so the part of protobuf that it takes is small: varints and length-prefixed
fields. Having it here has two uses. ONNX Runtime, and nothing else, is needed to run a model. And a model file is
never run as it came: :func:`read_arrays` takes the weights out of it, after checking every shape against the
registry, and the graph that runs is written afresh by :func:`write`. Field numbers are those of ``onnx.proto``
(https://github.com/onnx/onnx/blob/main/onnx/onnx.proto); tests hold the result against the ``onnx`` package.

Inside, tensors are channels-first: (n, channels, H, W) -> (n, 1, H - 2 radius, W - 2 radius).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from geosr.errors import ModelError
from geosr.models.architectures import Architecture

#: (kernel (rows, columns, inputs, filters), bias (filters,) or None) of each convolution.
Arrays = list[tuple[np.ndarray, np.ndarray | None]]

INPUT, OUTPUT = "upsampled", "residual"
_OPSET, _IR_VERSION = 13, 8  # old enough for every ONNX Runtime that geosr supports


def write(arch: Architecture, arrays: Arrays) -> bytes:
    """A complete ``.onnx`` file of ``arch`` with these weights."""
    channels = arrays[0][0].shape[2]
    nodes, tensors, value = b"", b"", INPUT
    for i, (layer, (kernel, bias)) in enumerate(zip(arch.layers, arrays, strict=True), start=1):
        name, last = f"conv{i}", i == len(arch.layers)
        weights = {f"{name}.kernel": np.transpose(kernel, (3, 2, 0, 1))}
        if bias is not None:
            weights[f"{name}.bias"] = bias
        tensors += b"".join(_field(5, _tensor(key, array)) for key, array in weights.items())
        result = OUTPUT if last else name
        nodes += _field(1, _node("Conv", [value, *weights], result, kernel_shape=[layer.kernel, layer.kernel]))
        value = result
        if layer.activation == "relu":
            value = f"relu{i}"
            nodes += _field(1, _node("Relu", [result], value))
    graph = nodes + _field(2, arch.name.encode()) + tensors
    graph += _field(11, _value_info(INPUT, ["n", channels, "H", "W"]))
    graph += _field(12, _value_info(OUTPUT, ["n", 1, "h", "w"]))
    return _integer(1, _IR_VERSION) + _field(2, b"geosr") + _field(7, graph) + _field(8, _integer(2, _OPSET))


def read_arrays(data: bytes, arch: Architecture, channels: int, bias: bool) -> Arrays:
    """The weights in an ``.onnx`` file that :func:`write` made.

    Raises
    ------
    ModelError
        Not such a file, or weights whose names, shapes or type are not the registry's.
    """
    found: dict[str, np.ndarray] = {}
    try:
        for number, graph in _fields(data):
            if number == 7 and isinstance(graph, bytes):
                for inner, tensor in _fields(graph):
                    if inner == 5 and isinstance(tensor, bytes):
                        name, array = _read_tensor(tensor)
                        found[name] = array
    except (IndexError, ValueError, UnicodeDecodeError) as error:
        raise ModelError(f"model.onnx is damaged ({error})", "fetch the model again") from error
    arrays: Arrays = []
    for i, (rows, columns, inputs, filters) in enumerate(arch.kernel_shapes(channels), start=1):
        kernel = _take(found, f"conv{i}.kernel", (filters, inputs, rows, columns), arch)
        offset = _take(found, f"conv{i}.bias", (filters,), arch) if bias else None
        arrays.append((np.ascontiguousarray(np.transpose(kernel, (2, 3, 1, 0))), offset))
    if found:
        raise ModelError(
            f"model.onnx holds {sorted(found)[0]!r}, which {arch.name} does not have", "fetch the model again"
        )
    return arrays


def _take(found: dict[str, np.ndarray], name: str, shape: tuple[int, ...], arch: Architecture) -> np.ndarray:
    array = found.pop(name, None)
    if array is None or array.shape != shape:
        have = "is missing" if array is None else f"has shape {array.shape}"
        raise ModelError(f"model.onnx: {name} {have}, {arch.name} needs {shape}", "fetch the model again")
    return array


# --- protobuf, as far as it is needed ---


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    return bytes(out) + bytes([n])


def _integer(number: int, n: int) -> bytes:
    return _varint(number << 3) + _varint(n)


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _tensor(name: str, array: np.ndarray) -> bytes:
    dims = b"".join(_integer(1, n) for n in array.shape)
    return dims + _integer(2, 1) + _field(8, name.encode()) + _field(9, array.astype("<f4").tobytes())


def _node(op: str, inputs: list[str], output: str, **integers: list[int]) -> bytes:
    text = b"".join(_field(1, name.encode()) for name in inputs) + _field(2, output.encode())
    text += _field(3, output.encode()) + _field(4, op.encode())
    for name, values in integers.items():
        numbers = b"".join(_integer(8, v) for v in values)
        text += _field(5, _field(1, name.encode()) + numbers + _integer(20, 7))  # type INTS
    return text


def _value_info(name: str, shape: list[str | int]) -> bytes:
    dims = b"".join(_field(1, _integer(1, n) if isinstance(n, int) else _field(2, n.encode())) for n in shape)
    return _field(1, name.encode()) + _field(2, _field(1, _integer(1, 1) + _field(2, dims)))


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number without an end")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, integer or bytes) of each field of one message."""
    at = 0
    while at < len(data):
        key, at = _read_varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _read_varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _read_varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"field type {kind}")
        if at + size > len(data):
            raise ValueError("it ends early")
        yield key >> 3, data[at : at + size]
        at += size


def _read_tensor(data: bytes) -> tuple[str, np.ndarray]:
    dims, name, raw, kind = [], "", b"", 0
    for number, value in _fields(data):
        if number == 1 and isinstance(value, int):
            dims.append(value)
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 8 and isinstance(value, bytes):
            name = value.decode()
        elif number == 9 and isinstance(value, bytes):
            raw = value
    if kind != 1:
        raise ValueError(f"{name} is not float32")
    return name, np.frombuffer(raw, dtype="<f4").reshape(dims).astype(np.float32)
