"""The registry's networks as ONNX: a chain of Conv and Relu, with the sums of residual blocks and the pixel shuffle.

A model file is never run as it came: :func:`read_arrays` takes the weights out of it, after checking every name, shape
and type against the registry, and the graph that runs is written afresh by :func:`write`.

Inside, tensors are channels-first: on the fine grid (n, channels, H, W) -> (n, 1, H - 2 reach, W - 2 reach), on the
coarse one (n, channels, h, w) -> (n, 1, scale (h - 2 reach), scale (w - 2 reach)).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from geosr.errors import ModelError
from geosr.models.architectures import Architecture

#: (kernel (rows, columns, inputs, filters), bias (filters,) or None) of each convolution.
Arrays = list[tuple[np.ndarray, np.ndarray | None]]

INPUT, OUTPUT = "field", "residual"
_OPSET, _IR_VERSION = 13, 8  # old enough for every ONNX Runtime that geosr supports


def write(arch: Architecture, arrays: Arrays, scale: int, rewritten: bool = False) -> bytes:
    """A complete ``.onnx`` file of ``arch`` with these weights.

    Parameters
    ----------
    rewritten : write a last layer of one output as a 1x1 convolution to the products of its window, which are then
        summed shifted. The numbers are the same to rounding, and ONNX Runtime is 1.5 to 2.4 times as fast: its
        convolutions work on 16 outputs at once. Files have the plain graph, so that others may read them; sessions run
        the rewritten one.
    """
    from onnx import TensorProto, helper

    nodes: list[Any] = []
    tensors: list[Any] = []
    values = [INPUT]  # the input of each layer, then the output
    for i, (kernel, bias) in enumerate(arrays):
        layer = _shifted_sums if rewritten and kernel.shape[3] == 1 and kernel.shape[0] > 1 else _layer
        values.append(layer(arch, i, values, kernel, bias, nodes, tensors))
    if arch.coarse:
        nodes.append(helper.make_node("DepthToSpace", [values[-1]], [OUTPUT], blocksize=scale, mode="DCR"))
    else:
        nodes.append(helper.make_node("Identity", [values[-1]], [OUTPUT]))
    field = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", arrays[0][0].shape[2], "H", "W"])
    output = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", 1, "h", "w"])
    graph = helper.make_graph(nodes, arch.name, [field], [output], tensors)
    opset = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(graph, producer_name="geosr", ir_version=_IR_VERSION, opset_imports=opset)
    data: bytes = model.SerializeToString()
    return data


def _layer(
    arch: Architecture,
    i: int,
    values: list[str],
    kernel: np.ndarray,
    bias: np.ndarray | None,
    nodes: list[Any],
    tensors: list[Any],
) -> str:
    """Append the nodes and weights of layer ``i``; the name of its output."""
    from onnx import helper, numpy_helper

    layer, value = arch.layers[i], f"conv{i + 1}"
    weights = {f"{value}.kernel": np.transpose(kernel, (3, 2, 0, 1))}
    if bias is not None:
        weights[f"{value}.bias"] = bias
    tensors += [numpy_helper.from_array(np.ascontiguousarray(a, np.float32), k) for k, a in weights.items()]
    nodes.append(helper.make_node("Conv", [values[i], *weights], [value], kernel_shape=[layer.kernel] * 2))
    if layer.activation == "relu":
        nodes.append(helper.make_node("Relu", [value], [f"relu{i + 1}"]))
        value = f"relu{i + 1}"
    if layer.skip:
        rim = arch.skipped_rim(i)
        ends = {"start": [rim, rim], "end": [-rim, -rim], "axes": [2, 3]}
        for name, numbers in ends.items():
            constant = numpy_helper.from_array(np.array(numbers, np.int64), f"crop{i + 1}.{name}")
            nodes.append(helper.make_node("Constant", [], [constant.name], value=constant))
        nodes.append(helper.make_node("Slice", [values[i - 1], *(f"crop{i + 1}.{n}" for n in ends)], [f"crop{i + 1}"]))
        nodes.append(helper.make_node("Add", [f"crop{i + 1}", value], [f"add{i + 1}"]))
        value = f"add{i + 1}"
    return value


def _shifted_sums(
    arch: Architecture,
    i: int,
    values: list[str],
    kernel: np.ndarray,
    bias: np.ndarray | None,
    nodes: list[Any],
    tensors: list[Any],
) -> str:
    """As :func:`_layer`, for a layer of one output without activation."""
    from onnx import helper, numpy_helper

    side, value = kernel.shape[0], f"conv{i + 1}"

    def constant(name: str, numbers: Any, dtype: type) -> str:
        tensors.append(numpy_helper.from_array(np.ascontiguousarray(numbers, dtype), f"{value}.{name}"))
        return f"{value}.{name}"

    products = kernel[..., 0].reshape(side * side, -1, 1, 1)
    nodes.append(helper.make_node("Conv", [values[i], constant("products", products, np.float32)], [f"{value}.all"]))
    axes = constant("axes", [1, 2, 3], np.int64)
    parts = []
    for tap in range(side * side):
        row, column = divmod(tap, side)
        # Ends count from the far edge; the last row and column reach it.
        ends = [tap + 1, *(n - side + 1 if n < side - 1 else np.iinfo(np.int64).max for n in (row, column))]
        window = [constant(f"start{tap}", [tap, row, column], np.int64), constant(f"end{tap}", ends, np.int64), axes]
        parts.append(f"{value}.part{tap}")
        nodes.append(helper.make_node("Slice", [f"{value}.all", *window], [parts[-1]]))
    if bias is not None:
        parts.append(constant("bias", bias.reshape(1, 1, 1, 1), np.float32))
    nodes.append(helper.make_node("Sum", parts, [value]))
    return value


def read_arrays(data: bytes, arch: Architecture, channels: int, scale: int, bias: bool) -> Arrays:
    """The weights in an ``.onnx`` file that :func:`write` made.

    Raises
    ------
    ModelError
        Not such a file, or weights whose names, shapes or type are not the registry's.
    """
    found = _tensors(data)
    arrays: Arrays = []
    for i, (rows, columns, inputs, filters) in enumerate(arch.kernel_shapes(channels, scale), start=1):
        kernel = _take(found, f"conv{i}.kernel", (filters, inputs, rows, columns), arch)
        offset = _take(found, f"conv{i}.bias", (filters,), arch) if bias else None
        arrays.append((np.ascontiguousarray(np.transpose(kernel, (2, 3, 1, 0))), offset))
    if found:
        raise ModelError(
            f"model.onnx holds {sorted(found)[0]!r}, which {arch.name} does not have", "fetch the model again"
        )
    return arrays


def _tensors(data: bytes) -> dict[str, np.ndarray]:
    """The initialisers of the graph by name; none of them may live in another file."""
    from google.protobuf.message import DecodeError
    from onnx import ModelProto, TensorProto, numpy_helper

    model = ModelProto()
    try:
        model.ParseFromString(data)
        for tensor in model.graph.initializer:
            if tensor.data_type != TensorProto.FLOAT or tensor.data_location != TensorProto.DEFAULT:
                raise ValueError(f"{tensor.name} is not float32 in this file")
        return {tensor.name: np.array(numpy_helper.to_array(tensor)) for tensor in model.graph.initializer}
    except (DecodeError, ValueError, RuntimeError) as error:
        raise ModelError(f"model.onnx is damaged ({error})", "fetch the model again") from error


def _take(found: dict[str, np.ndarray], name: str, shape: tuple[int, ...], arch: Architecture) -> np.ndarray:
    array = found.pop(name, None)
    if array is None or array.shape != shape:
        have = "is missing" if array is None else f"has shape {array.shape}"
        raise ModelError(f"model.onnx: {name} {have}, {arch.name} needs {shape}", "fetch the model again")
    return array
