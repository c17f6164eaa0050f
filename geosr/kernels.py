"""What is done to each tile: :mod:`geosr.tiling` runs these kernels, and they know nothing of tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from odc.geo.geobox import GeoBox

from geosr import conserve as conservation
from geosr import tiling
from geosr.channel import AffineScaler
from geosr.gaps import fill_gaps
from geosr.grid import cell_areas, refine
from geosr.interpolate import RADIUS as BICUBIC_RADIUS
from geosr.interpolate import bicubic

if TYPE_CHECKING:
    from geosr.models import Model


@dataclass(frozen=True)
class Predictor:
    """A kernel for :func:`geosr.tiling.map_tiles`: fill gaps, normalise, predict, denormalise.

    Picklable: a model is named by its path and loaded once per process.

    Attributes
    ----------
    scale : fine cells per coarse cell and axis.
    reach : coarse cells that a prediction depends on, to each side (the network's receptive radius and the
        bicubic's, from the model).
    model : path of the bundle; None for plain bicubic.
    scaler : constants between the field's units and the channel.
    """

    scale: int
    reach: int
    model: str | None = None
    engine: str = "auto"
    scaler: AffineScaler = AffineScaler()

    @classmethod
    def of(cls, model: Model | None, scale: int, engine: str = "auto", units: str | None = None) -> Predictor:
        """The kernel for fields in ``units``: with ``model``, or bicubic without one."""
        if model is None:
            return cls(scale, BICUBIC_RADIUS)
        return cls(scale, model.halo, str(model.path), engine, model.card.scaler.in_units(units))

    @property
    def halo(self) -> int:
        """Coarse cells around a tile: what the network sees, and what the filling of that in turn sees."""
        return 2 * self.reach

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """Fine tile (h * scale, w * scale) from the coarse one with halo; floating, of the block's dtype."""
        inner = slice(self.reach, -self.reach)
        if np.isnan(block[self.halo : -self.halo, self.halo : -self.halo]).all():
            h, w = (n - 2 * self.halo for n in block.shape)
            return np.full((h * self.scale, w * self.scale), np.nan, dtype=block.dtype)
        return self.refine(self.scaler.normalise(fill_gaps(block, self.reach)[inner, inner]))

    def refine(self, channel: np.ndarray) -> np.ndarray:
        """The fine field in physical units from the coarse channel (h + 2 reach, w + 2 reach) without gaps."""
        if self.model is None:
            return self.scaler.denormalise(bicubic(channel, self.scale))
        from geosr.models import load_model

        # Networks work in float32; what float64 asks for beyond that, conservation restores.
        fine = load_model(self.model).predict(channel, engine=self.engine)
        return self.scaler.denormalise(fine.astype(channel.dtype, copy=False))


@dataclass(frozen=True)
class Conserver:
    """A pair kernel: make each coarse cell's mean right and mask the gaps."""

    box: GeoBox
    scale: int
    enabled: bool = True

    def weights(self, rows: slice, cols: slice) -> np.ndarray:
        """True areas of the fine cells under the coarse ``rows`` and ``cols``."""
        return cell_areas(refine(self.box[rows, cols], self.scale))

    def __call__(self, fine: np.ndarray, coarse: np.ndarray, rows: slice, cols: slice) -> np.ndarray:
        if not self.enabled:
            return conservation.mask(fine, coarse, self.scale)
        return conservation.conserve(fine, coarse, self.weights(rows, cols), self.scale)


@dataclass(frozen=True)
class ConservationCheck:
    """A pair kernel: what conservation is off by in a tile, and the largest value, side by side (…, 1, 2)."""

    conserver: Conserver

    def __call__(self, fine: np.ndarray, coarse: np.ndarray, rows: slice, cols: slice) -> np.ndarray:
        weights = self.conserver.weights(rows, cols)
        error = conservation.conservation_error(fine, coarse, weights, self.conserver.scale)
        valid = coarse[np.isfinite(coarse)]
        largest = float(np.abs(valid).max()) if valid.size else 0.0
        return np.array([error, largest]).reshape(*(1 for _ in fine.shape[:-2]), 1, 2)


def relative_error(fine: Any, cells: Any, conserver: Conserver) -> Any:
    """0-d dask array: largest ``|mean of the fine cells - coarse|`` over the largest ``|coarse|``."""
    import dask.array as da

    check = tiling.map_pairs(fine, cells, ConservationCheck(conserver), dtype=np.dtype(np.float64), tile_shape=(1, 2))
    error, largest = check[..., 0::2].max(), check[..., 1::2].max()
    return da.where(largest > 0, error / da.maximum(largest, np.finfo(np.float64).tiny), 0.0)
