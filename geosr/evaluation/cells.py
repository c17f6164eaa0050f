"""Which cells are scored: all valid ones, and those away from gaps."""

from __future__ import annotations

import numpy as np

from geosr import conserve, interpolate
from geosr.degrade import area_mean
from geosr.errors import InputError, UsageError
from geosr.evaluation import metrics

#: Share of a coarse cell that must be valid for the degraded field to have a value there.
MIN_COVER = 0.5

#: Coarse cells from the nearest incomplete coarse cell up to which a cell counts as near a gap.
RIM = interpolate.RADIUS


class EmptyTruth(InputError):
    """A truth with nothing to score: no valid coarse cell, or the same value everywhere."""


def scored(
    truth: np.ndarray, coarse: np.ndarray, far: np.ndarray, scale: int, shave: int
) -> tuple[np.ndarray, np.ndarray]:
    """Masks (y, x) of the cells that are scored: all valid ones, and those ``far`` (h, w) from gaps.

    The second is empty where the truth is constant there. Raises :class:`EmptyTruth` where nothing is left of the
    first, or one value; :class:`~geosr.errors.UsageError` where no raster of this size is left by the shaving.
    """
    if 2 * shave >= min(truth.shape):
        raise UsageError(f"shaving {shave} cells leaves nothing of {truth.shape[0]} x {truth.shape[1]}", "shave fewer")
    if np.isnan(coarse).all():
        raise EmptyTruth("the truth has no valid coarse cell", "check --bbox, --variable and the file's nodata value")
    valid = metrics.shave(~np.isnan(truth) & ~np.isnan(conserve.spread(coarse, scale)), shave)
    if not valid.any():
        raise EmptyTruth(f"no valid cell is left by shaving {shave}", "shave fewer")
    if not metrics.value_range(truth, valid) > 0:
        value = float(truth[valid][0])
        raise EmptyTruth(f"the truth is {value:g} everywhere: a constant field has nothing to score", "take another")
    away = valid & conserve.spread(far, scale)
    return valid, away if metrics.value_range(truth, away) > 0 else np.zeros_like(away)


def away_from_gaps(truth: np.ndarray, areas: np.ndarray, scale: int) -> np.ndarray:
    """Coarse cells with no incomplete coarse cell within :data:`RIM`; the raster's edge is not a gap."""
    from scipy.ndimage import minimum_filter

    complete = ~np.isnan(area_mean(truth, areas, scale, 1.0))
    return minimum_filter(complete, size=2 * RIM + 1, mode="nearest")
