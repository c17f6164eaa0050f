"""The networks that geosr knows, as pure data: no framework is imported here.

A bundle names its architecture by a key of :data:`ARCHITECTURES`; a file never brings code or a graph to run. Both
the Keras builder (:mod:`geosr.models.keras_network`) and the ONNX writer (:mod:`geosr.models.onnx_network`) read
the same description.

The three networks are those of Dong, C., Loy, C. C., He, K. & Tang, X. (2016), Image super-resolution using deep
convolutional networks, IEEE TPAMI 38(2), sections 3 and 4.3 (f1-f2-f3 are the kernel sizes). ``Layer.padding`` says
how popular implementations pad while training (9-3-5 with "valid" outer and "same" inner convolution). geosr itself
always convolves "valid" over a rim of real neighbours, in training and in inference: "same" padding would put zeros
where the neighbouring tile has data, and the result would depend on where a tile ends.
"""

from __future__ import annotations

from dataclasses import dataclass

from geosr.errors import ModelError


@dataclass(frozen=True)
class Layer:
    """One convolution.

    Attributes
    ----------
    filters : output channels.
    kernel : side of the square kernel, in fine cells; odd.
    padding : "valid" or "same", as trained in the literature (see the module's docstring).
    activation : "relu" or "linear".
    """

    filters: int
    kernel: int
    padding: str = "valid"
    activation: str = "relu"


@dataclass(frozen=True)
class Architecture:
    """A stack of convolutions from ``channels`` upsampled fields to one.

    Attributes
    ----------
    name : key in :data:`ARCHITECTURES`.
    layers : in order; the last has one filter and no activation.
    """

    name: str
    layers: tuple[Layer, ...]

    @property
    def radius(self) -> int:
        """Receptive radius in fine cells: how far a value's inputs lie to each side."""
        return sum((layer.kernel - 1) // 2 for layer in self.layers)

    def kernel_shapes(self, channels: int) -> list[tuple[int, int, int, int]]:
        """Shape of each layer's kernel, (rows, columns, inputs, filters), for ``channels`` input channels."""
        inputs = [channels, *(layer.filters for layer in self.layers[:-1])]
        return [(layer.kernel, layer.kernel, n, layer.filters) for layer, n in zip(self.layers, inputs, strict=True)]

    def weight_count(self, channels: int, bias: bool) -> int:
        """Number of trained numbers."""
        kernels = sum(a * b * c * d for a, b, c, d in self.kernel_shapes(channels))
        return kernels + (sum(layer.filters for layer in self.layers) if bias else 0)


def _srcnn(name: str, first: int, second: int, middle: int, middle_padding: str = "valid") -> Architecture:
    return Architecture(
        name,
        (Layer(first, 9), Layer(second, middle, middle_padding), Layer(1, 5, activation="linear")),
    )


#: Every network that a bundle may name.
ARCHITECTURES: dict[str, Architecture] = {
    a.name: a
    for a in (
        _srcnn("srcnn-9-1-5", 64, 32, 1),
        _srcnn("srcnn-9-3-5", 128, 64, 3, "same"),
        _srcnn("srcnn-9-5-5", 64, 32, 5),
    )
}


def architecture(name: str) -> Architecture:
    """The architecture called ``name``, or a :class:`ModelError` that lists the known ones."""
    if name not in ARCHITECTURES:
        raise ModelError(f"architecture {name!r} is not known", f"geosr has {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]
