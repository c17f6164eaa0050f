"""The registry's networks in Keras: for training, and as the reference engine.

Shipped networks are **affine-equivariant** and predict the **residual** to the bicubic refinement:

* no layer has a bias, so f(a x) = a f(x) for every a > 0 (a composition of linear maps and ReLU is positively
  homogeneous: Mohan, S., Kadkhodaie, Z., Simoncelli, E. P. & Fernandez-Granda, C. (2020), Robust and interpretable
  blind image denoising via bias-free convolutional neural networks, ICLR);
* each kernel of the first layer sums to zero, so f(x + c) = f(x) (the residual ignores the level: cf. Herbreteau, S.,
  Moebel, E. & Kervrann, C. (2023), Normalization-equivariant neural networks with application to image denoising,
  NeurIPS, who constrain every layer because their network predicts the field itself).

So downscaled(a x + c) = a downscaled(x) + c. Units do not matter, and neither the mean nor the spread of a patch or a
scene is measured at inference: the output cannot depend on tiles, nor on a gap at the other end of the scene.
Standardising each patch becomes what it is at heart, a weight of the patch in the training loss.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from geosr.models.architectures import Architecture


def build(
    arch: Architecture,
    channels: int = 1,
    *,
    scale: int = 1,
    equivariant: bool = True,
    seed: int = 0,
    training: bool = True,
) -> Any:
    """A Keras model, freshly initialised.

    Parameters
    ----------
    arch : from the registry.
    channels : input channels, all on the network's grid.
    scale : fine cells along a coarse cell's side; decides the last layer of networks on the coarse grid.
    equivariant : no biases and zero-sum first kernels; False builds the network as in the papers.
    seed : of the initial weights.
    training : keep the zero sum after every step; False leaves the constraint out, so that Keras alone can load what
        is saved.

    Returns
    -------
    ``keras.Model`` (n, H, W, channels) -> (n, H - 2 reach, W - 2 reach, outputs), with one output on the fine grid, and
    ``scale ** 2`` on the coarse one (before the pixel shuffle, :func:`shuffle`). Kernels are drawn from He's normal
    distribution, except the last of each residual block and of the network, which are small, so that training starts
    near "no residual".
    """
    import keras

    class ZeroSum(keras.constraints.Constraint):
        """Projects onto kernels whose sum over the window is zero, for each input channel and filter."""

        def __call__(self, w: Any) -> Any:
            return w - keras.ops.mean(w, axis=(0, 1), keepdims=True)

    x = keras.Input((None, None, channels), name="coarse" if arch.coarse else "upsampled")
    values = [x]  # the input of each layer, then the output
    last = len(arch.layers) - 1
    shapes = arch.kernel_shapes(channels, scale)
    for i, (layer, (side, _, inputs, filters)) in enumerate(zip(arch.layers, shapes, strict=True)):
        start: Any = keras.initializers.HeNormal(seed=seed + i)
        if layer.skip or i == last:
            deviation = 1e-3 if i == last else 0.1 * (2 / (side * side * inputs)) ** 0.5
            start = keras.initializers.RandomNormal(stddev=deviation, seed=seed + i)
        x = keras.layers.Conv2D(
            filters,
            side,
            padding="valid",
            activation=layer.activation,
            use_bias=not equivariant,
            kernel_initializer=start,
            kernel_constraint=ZeroSum() if training and equivariant and i == 0 else None,
            name=f"conv{i + 1}",
        )(x)
        if layer.skip:
            x = keras.layers.Add()([keras.layers.Cropping2D(arch.skipped_rim(i))(values[i - 1]), x])
        values.append(x)
    model = keras.Model(values[0], x, name=arch.name)
    if training and equivariant:  # the initial kernels obey as well; Keras applies constraints only after a step
        first = model.layers[1].kernel
        first.assign(ZeroSum()(first))
    return model


def shuffle(blocks: Any, scale: int) -> Any:
    """Tensor (n, h, w, scale ** 2) to (n, h * scale, w * scale, 1): the channels are a coarse cell's fine cells."""
    import tensorflow as tf

    return tf.nn.depth_to_space(blocks, scale)


def arrays_of(model: Any) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """(kernel, bias or None) of each convolution, float32, kernels (rows, columns, inputs, filters)."""
    found = []
    for layer in model.layers:
        weights = [np.asarray(w, dtype=np.float32) for w in layer.get_weights()]
        if weights:
            found.append((weights[0], weights[1] if len(weights) > 1 else None))
    return found


def zero_sum(kernel: np.ndarray) -> np.ndarray:
    """``kernel`` (rows, columns, inputs, filters) with each window's sum removed, computed in float64."""
    exact = kernel.astype(np.float64)
    return (exact - exact.mean(axis=(0, 1), keepdims=True)).astype(kernel.dtype)


def with_arrays(model: Any, arrays: list[tuple[np.ndarray, np.ndarray | None]]) -> Any:
    """``model`` with the weights of ``arrays`` (as :func:`arrays_of` gives them)."""
    model.set_weights([a for pair in arrays for a in pair if a is not None])
    return model
