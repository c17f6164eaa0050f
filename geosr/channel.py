"""From a physical field to the one dimensionless channel that a network sees, and back.

The scaler travels in the model's card. It is affine with constants: a statistic of the scene or of a tile would
make the output depend on what else happens to be in the file, and one missing pixel would change it everywhere.
Scenes and sensors differ too much for constants to standardise them; the shipped networks need no standardising,
because they are affine-equivariant by construction (see :mod:`geosr.models`), and the constants only keep
float32 products near 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geosr.errors import GeosrError, ModelError


@dataclass(frozen=True)
class AffineScaler:
    """``channel = (x - offset) / scale``.

    Attributes
    ----------
    offset, scale : in ``units``; scale is not 0.
    units : unit of the fields the constants belong to; None if the model takes any numbers as they are.
    """

    offset: float = 0.0
    scale: float = 1.0
    units: str | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.offset) and np.isfinite(self.scale)) or self.scale == 0:
            raise ModelError(f"scaler (offset {self.offset}, scale {self.scale}) is unusable", "train the model again")

    def in_units(self, units: str | None) -> AffineScaler:
        """The same scaler for a field in ``units``.

        A field without units, or with units of another kind (a mixing ratio), is taken as the numbers it has:
        the caller checks whether the model is made for that.
        """
        from geosr.units import factor

        if self.units is None or units is None or units == self.units:
            return self
        try:
            ratio = factor(self.units, units)
        except GeosrError:
            return self
        return AffineScaler(self.offset * ratio, self.scale * ratio, units)

    def normalise(self, field: np.ndarray) -> np.ndarray:
        """Physical ``field`` to the dimensionless channel, same shape and dtype; NaN stays NaN."""
        return (field - field.dtype.type(self.offset)) / field.dtype.type(self.scale)

    def denormalise(self, channel: np.ndarray) -> np.ndarray:
        """Inverse of :meth:`normalise`."""
        return channel * channel.dtype.type(self.scale) + channel.dtype.type(self.offset)
