"""The networks that geosr knows, as pure data: no framework is imported here.

A bundle names its architecture by a key of :data:`ARCHITECTURES`; a file never brings code or a graph to run. Both
the Keras builder (:mod:`geosr.models.keras_network`) and the ONNX writer (:mod:`geosr.models.onnx_network`) read
the same description.

Three families:

``srcnn``
    Dong, C., Loy, C. C., He, K. & Tang, X. (2016), Image super-resolution using deep convolutional networks, IEEE TPAMI
    38(2), sections 3 and 4.3 (f1-f2-f3 are the kernel sizes; the paper's 9-3-5 has 64 and 32 filters, popular
    implementations double them). It refines the bicubic field, on the fine grid.
``edsr``
    Residual blocks without normalisation on the coarse grid, and a pixel shuffle at the end: a small version of Lim, B.
    et al. (2017), Enhanced deep residual networks for single image super-resolution, CVPR Workshops, sections 3.1 and
    3.2; the shuffle is Shi, W. et al. (2016), Real-time single image and video super-resolution using an efficient
    sub-pixel convolutional neural network, CVPR, eq. 4. Not an SRCNN: deeper, it sees farther (a coarse cell of 3x3
    convolution is ``scale`` fine cells), and a fine cell costs it fewer products.
``sigma``
    A short chain on the coarse grid that says how wrong another network's result is likely to be.

geosr always convolves "valid" over a rim of real neighbours, in training and in inference: "same" padding would put
zeros where the neighbouring tile has data, and the result would depend on where a tile ends.
"""

from __future__ import annotations

from dataclasses import dataclass

from geosr.errors import ModelError
from geosr.interpolate import RADIUS


@dataclass(frozen=True)
class Layer:
    """One convolution.

    Attributes
    ----------
    filters : output channels; 0 in the last layer of a network on the coarse grid, for one per fine cell.
    kernel : side of the square kernel, in cells of the network's grid; odd.
    activation : "relu" or "linear".
    skip : 1 adds the input of the layer before this one, cropped to size: the end of a residual block. 0 adds nothing.
    """

    filters: int
    kernel: int
    activation: str = "relu"
    skip: int = 0


@dataclass(frozen=True)
class Architecture:
    """A stack of convolutions from ``channels`` fields to one residual.

    Attributes
    ----------
    name : key in :data:`ARCHITECTURES`; it begins with the family.
    layers : in order; the last has no activation.
    coarse : the convolutions see the coarse grid, and the last layer's channels are the fine cells of a coarse cell,
        row by row; False: they see the bicubic field on the fine grid.
    """

    name: str
    layers: tuple[Layer, ...]
    coarse: bool = False

    @property
    def family(self) -> str:
        """``srcnn``, ``edsr`` or ``sigma``."""
        return self.name.split("-")[0]

    @property
    def reach(self) -> int:
        """Receptive radius in cells of the network's own grid."""
        return sum((layer.kernel - 1) // 2 for layer in self.layers)

    def radius(self, scale: int) -> int:
        """Receptive radius in fine cells: how far a value's inputs lie to each side."""
        return self.reach * (scale if self.coarse else 1)

    def halo(self, scale: int) -> int:
        """Coarse cells to each side that a coarse cell's result depends on, bicubic refinement included."""
        if self.coarse:
            return max(self.reach, RADIUS)
        return -(-self.reach // scale) + RADIUS

    def skipped_rim(self, index: int) -> int:
        """Cells to crop on each side of what layer ``index`` adds: what it and the layer before it have used up."""
        return sum((layer.kernel - 1) // 2 for layer in self.layers[index - 1 : index + 1])

    def filters(self, scale: int) -> list[int]:
        """Output channels of each layer."""
        return [layer.filters or scale**2 for layer in self.layers]

    def kernel_shapes(self, channels: int, scale: int) -> list[tuple[int, int, int, int]]:
        """Shape of each layer's kernel, (rows, columns, inputs, filters), for ``channels`` input channels."""
        outputs = self.filters(scale)
        inputs = [channels, *outputs[:-1]]
        return [(layer.kernel, layer.kernel, n, m) for layer, n, m in zip(self.layers, inputs, outputs, strict=True)]

    def weight_count(self, channels: int, scale: int, bias: bool) -> int:
        """Number of trained numbers."""
        kernels = sum(a * b * c * d for a, b, c, d in self.kernel_shapes(channels, scale))
        return kernels + (sum(self.filters(scale)) if bias else 0)


def _srcnn(name: str, first: int, second: int, middle: int) -> Architecture:
    return Architecture(name, (Layer(first, 9), Layer(second, middle), Layer(1, 5, "linear")))


def _edsr(filters: int, blocks: int) -> Architecture:
    block = (Layer(filters, 3), Layer(filters, 3, "linear", skip=1))
    layers = (Layer(filters, 3, "linear"), *(block * blocks), Layer(0, 3, "linear"))
    return Architecture(f"edsr-{filters}x{blocks}", layers, coarse=True)


def _sigma(filters: int, depth: int) -> Architecture:
    layers = (*(Layer(filters, 3) for _ in range(depth - 1)), Layer(0, 3, "linear"))
    return Architecture(f"sigma-{filters}x{depth}", layers, coarse=True)


#: Every network that a bundle may name.
ARCHITECTURES: dict[str, Architecture] = {
    a.name: a
    for a in (
        _srcnn("srcnn-9-1-5", 64, 32, 1),
        _srcnn("srcnn-9-3-5", 128, 64, 3),
        _srcnn("srcnn-9-3-5-n64", 64, 32, 3),
        _srcnn("srcnn-9-5-5", 64, 32, 5),
        _edsr(16, 4),
        _edsr(32, 4),
        _edsr(32, 6),
        _edsr(32, 8),
        _edsr(48, 6),
        _edsr(64, 8),
        _sigma(24, 4),
    )
}

#: Families of networks that refine a field.
FAMILIES = ("edsr", "srcnn")


def architecture(name: str) -> Architecture:
    """The architecture called ``name``, or a :class:`ModelError` that lists the known ones."""
    if name not in ARCHITECTURES:
        raise ModelError(f"architecture {name!r} is not known", f"geosr has {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name]
