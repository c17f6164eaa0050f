"""What is done to a tile: :mod:`geosr.tiling` runs these kernels, and they know nothing of tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from odc.geo.geobox import GeoBox

from geosr import conserve as conservation
from geosr.channel import AffineScaler
from geosr.errors import ModelError
from geosr.gaps import fill_gaps
from geosr.grid import cell_areas, refine
from geosr.interpolate import RADIUS as BICUBIC_RADIUS
from geosr.interpolate import bicubic, crop

if TYPE_CHECKING:
    from geosr.models import Model


@dataclass(frozen=True)
class Predictor:
    """Fill gaps, normalise, predict, denormalise.

    Picklable: a model is named by its path and loaded once per process.

    Attributes
    ----------
    scale : fine cells per coarse cell and axis.
    reach : coarse cells that a prediction depends on, to each side (the network's receptive radius and the
        bicubic's, from the model).
    model : path of the bundle; None for plain bicubic.
    sha256 : of the bundle, which must not change while tiles are made.
    scaler : constants between the field's units and the channel.
    """

    scale: int
    reach: int
    model: str | None = None
    sha256: str | None = None
    engine: str = "auto"
    scaler: AffineScaler = AffineScaler()

    @classmethod
    def of(cls, model: Model | None, scale: int, engine: str = "auto", units: str | None = None) -> Predictor:
        """For fields in ``units``: with ``model``, or bicubic without one."""
        if model is None:
            return cls(scale, BICUBIC_RADIUS)
        return cls(scale, model.halo, str(model.path), model.sha256, engine, model.card.scaler.in_units(units))

    @property
    def halo(self) -> int:
        """Coarse cells around a tile: what the network sees, and what the filling of that in turn sees."""
        return 2 * self.reach

    def channel(self, window: np.ndarray) -> np.ndarray:
        """The channel (h + 2 reach, w + 2 reach) without gaps, of the field's window (h + 2 halo, w + 2 halo)."""
        return self.scaler.normalise(crop(fill_gaps(window, self.reach), self.reach))

    def refine(self, channel: np.ndarray) -> np.ndarray:
        """The fine field (h * scale, w * scale) in physical units, of the channel's dtype."""
        if self.model is None:
            return self.scaler.denormalise(bicubic(channel, self.scale))
        # Networks work in float32; what float64 asks for beyond that, conservation restores.
        fine = self._network().predict(channel, engine=self.engine)
        return self.scaler.denormalise(fine.astype(channel.dtype, copy=False))

    def sigma(self, channel: np.ndarray) -> np.ndarray:
        """The model's one sigma of each fine value, in physical units; a shift of the field changes nothing, so the
        scaler's offset does not enter."""
        sigma = self._network().sigma(channel, engine=self.engine).astype(channel.dtype, copy=False)
        return sigma * channel.dtype.type(abs(self.scaler.scale))

    def _network(self) -> Model:
        from geosr.models import load_model

        if self.model is None:
            raise ValueError("bicubic has no network")
        model = load_model(self.model)
        if self.sha256 not in (None, model.sha256):
            raise ModelError("the model has changed since the run began", "start again", self.model)
        return model


@dataclass(frozen=True)
class Conserver:
    """Make each coarse cell's mean right and mask the gaps.

    Attributes
    ----------
    box : the coarse grid of the whole raster.
    enabled : correct the means; False only masks.
    """

    box: GeoBox
    scale: int
    enabled: bool = True

    def weights(self, rows: slice, cols: slice) -> np.ndarray:
        """True areas of the fine cells under the coarse ``rows`` and ``cols``."""
        return cell_areas(refine(self.box[rows, cols], self.scale))

    def __call__(
        self, fine: np.ndarray, coarse: np.ndarray, rows: slice, cols: slice
    ) -> tuple[np.ndarray, float, float]:
        """As :func:`geosr.conserve.finish`."""
        return conservation.finish(fine, coarse, self.weights(rows, cols), self.scale, self.enabled)


@dataclass(frozen=True)
class TileKernel:
    """The whole way of a tile: a kernel for :func:`geosr.tiling.map_tiles`.

    Its results: the fine field, a summary (1, 2) of what conservation is off by and of the largest value, and with
    ``uncertain`` the model's one sigma.
    """

    predictor: Predictor
    conserver: Conserver
    uncertain: bool = False

    def __call__(self, window: np.ndarray, rows: slice, cols: slice) -> tuple[np.ndarray, ...]:
        coarse, scale = crop(window, self.predictor.halo), self.predictor.scale
        if np.isnan(coarse).all():
            nothing = np.full((coarse.shape[0] * scale, coarse.shape[1] * scale), np.nan, dtype=window.dtype)
            return (nothing, np.zeros((1, 2)), *([nothing] * self.uncertain))
        channel = self.predictor.channel(window)
        fine, error, largest = self.conserver(self.predictor.refine(channel), coarse, rows, cols)
        found = fine, np.array([[error, largest]])
        if not self.uncertain:
            return found
        return *found, conservation.mask(self.predictor.sigma(channel), coarse, scale)

    def results(self, dtype: np.dtype) -> list[tuple[np.dtype, tuple[int, int] | None]]:
        """What :func:`geosr.tiling.map_tiles` must know of the results, for fields of ``dtype``."""
        return [(dtype, None), (np.dtype(np.float64), (1, 2)), *([(dtype, None)] * self.uncertain)]


def relative_error(check: Any) -> Any:
    """0-d dask array from the tiles' summaries: largest ``|mean of the fine cells - coarse|`` over the largest
    ``|coarse|``."""
    import dask.array as da

    error, largest = check[..., 0::2].max(), check[..., 1::2].max()
    return da.where(largest > 0, error / da.maximum(largest, np.finfo(np.float64).tiny), 0.0)


def error_of(largest: np.ndarray) -> float:
    """The same, from the largest error and the largest value of all tiles."""
    return float(largest[0] / largest[1]) if largest[1] > 0 else 0.0
