"""Does it win? Degrade a truth, downscale it by every method, score each against the truth (Wald's protocol).

Baselines, weakest first: nearest, bilinear, bicubic, conserved bicubic, and bicubic with ten rounds of back-projection,
the strongest classical method here (Irani, M. & Peleg, S. (1991), Improving resolution by image registration, CVGIP
53(3): the coarse residual is refined and added, again and again). The last two and the network are conserved.

Two tables: all valid cells, and those away from gaps. Near a gap every method works with filled neighbours, and the
choice of the filling would be scored instead of the method.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr

from geosr import conserve, degrade, gaps, grid, interpolate, metrics
from geosr.errors import InputError
from geosr.metrics import Scores
from geosr.models import Model, resolve_model

NEAREST, BILINEAR, BICUBIC = "nearest", "bilinear", "bicubic"
CONSERVED, BACK_PROJECTED, SRCNN = "conserved bicubic", "back-projected bicubic", "srcnn"

#: Rounds of back-projection.
ROUNDS = 10

#: Share of a coarse cell that must be valid for the degraded field to have a value there.
MIN_COVER = 0.5

#: Coarse cells from the nearest incomplete coarse cell up to which a cell counts as near a gap.
RIM = interpolate.RADIUS


@dataclass(frozen=True)
class ScoreTable:
    """Scores of every method on one set of cells.

    Attributes
    ----------
    label : which cells.
    cells : how many.
    data_range : value range that PSNR and SSIM use: largest minus smallest truth of these cells.
    scores : method -> scores, weakest baseline first, the network last.
    """

    label: str
    cells: int
    data_range: float
    scores: dict[str, Scores]

    @property
    def best_interpolation(self) -> str:
        """The method without a network that has the smallest RMSE."""
        classical = {name: s.rmse for name, s in self.scores.items() if name != SRCNN}
        return min(classical, key=lambda name: (np.isnan(classical[name]), classical[name]))

    def gain(self, over: str, method: str = SRCNN) -> float:
        """PSNR of ``method`` minus that of ``over``, in dB."""
        return self.scores[method].psnr - self.scores[over].psnr


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found.

    Attributes
    ----------
    scale, units : of the test; units as the truth has them (None if unknown).
    model, model_sha256 : the network scored as "srcnn"; None without one.
    valid, away_from_gaps : the two tables.
    conservation_error : largest ``|block mean - coarse|`` of the network's field (of conserved bicubic without one),
        in the truth's units.
    """

    scale: int
    units: str | None
    model: str | None
    model_sha256: str | None
    valid: ScoreTable
    away_from_gaps: ScoreTable
    conservation_error: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON: a score that does not exist (NaN, or the infinite PSNR of a perfect field) is None."""
        return _finite(asdict(self))

    def to_text(self) -> str:
        """The tables for people, and in the last line whether the network wins."""
        unit = f" {self.units}" if self.units else ""
        lines = [f"x{self.scale}, model {self.model or 'none'}; PSNR over the range of the truth"]
        for table in (self.valid, self.away_from_gaps):
            lines.append(f"\n{table.label}: {table.cells} cells, range {table.data_range:.6g}{unit}")
            lines.append(f"{'':24}{'PSNR dB':>9}{'SSIM':>9}{'RMSE':>12}{'MAE':>12}{'bias':>12}")
            for name, s in table.scores.items():
                lines.append(f"{name:24}{s.psnr:9.2f}{s.ssim:9.4f}{s.rmse:12.4g}{s.mae:12.4g}{s.bias:12.3g}")
        return "\n".join([*lines, "", self.verdict()])

    def verdict(self) -> str:
        """Does the network beat the best interpolation here, away from gaps?"""
        table = self.away_from_gaps if self.away_from_gaps.cells else self.valid
        if SRCNN not in table.scores:
            return f"best interpolation: {table.best_interpolation}"
        best = table.best_interpolation
        gain = table.gain(best)
        if gain > 0:
            return f"srcnn is {gain:.2f} dB better than the best interpolation ({best})"
        return f"srcnn does NOT beat the best interpolation here: {gain:+.2f} dB against {best}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value


def evaluate(
    truth: xr.DataArray,
    scale: int = 4,
    model: str | os.PathLike[str] | Model | None = None,
    *,
    engine: str = "auto",
    network: bool = True,
) -> Evaluation:
    """Score every method on ``truth``.

    Parameters
    ----------
    truth : (y, x) fine field on a grid, NaN where missing, floating; computed whole.
    scale : the truth is area-averaged by this and refined again.
    model : a :class:`~geosr.models.Model`, a shipped name or a path; default: the shipped one for the scale.
    engine : see :func:`geosr.models.engines.engine`.
    network : False scores the baselines only.

    Raises
    ------
    InputError
        Not one 2-D field, or no valid cell.
    ModelError
        No model for the scale.
    """
    scale = grid.check_scale(scale)
    if truth.ndim != 2:
        raise InputError(f"the truth has dimensions {truth.dims}", "choose one field: --time, --variable")
    chosen = resolve_model(model, scale) if network else None
    y, x = grid.spatial_dims(truth)
    cropped = degrade.modcrop(truth.transpose(y, x), scale)
    values = np.asarray(cropped.values)
    if values.dtype.kind != "f":
        values = values.astype(np.float32)
    values = np.where(np.isfinite(values), values, values.dtype.type(np.nan))
    units = truth.attrs.get("units")
    return evaluate_array(values, grid.cell_areas(grid.geobox_of(cropped)), scale, chosen, units=units, engine=engine)


def evaluate_array(
    truth: np.ndarray,
    areas: np.ndarray,
    scale: int,
    model: Model | None,
    *,
    units: str | None = None,
    engine: str = "auto",
) -> Evaluation:
    """:func:`evaluate` on arrays: ``truth`` (h * scale, w * scale) floating, ``areas`` as cell_areas gives them."""
    coarse = degrade.area_mean(truth, areas, scale, MIN_COVER)
    if np.isnan(coarse).all():
        raise InputError("the truth has no valid coarse cell", "check --bbox, --variable and the file's nodata value")
    fields = refined(coarse, areas, scale, model, units=units, engine=engine)
    valid = ~np.isnan(truth) & ~np.isnan(conserve.spread(coarse, scale))
    away = valid & conserve.spread(_away(truth, areas, scale), scale)
    judged = fields[SRCNN if model is not None else CONSERVED]
    return Evaluation(
        scale=scale,
        units=units,
        model=model.card.name if model is not None else None,
        model_sha256=model.sha256 if model is not None else None,
        valid=_table("all valid cells", truth, fields, valid),
        away_from_gaps=_table("away from gaps", truth, fields, away),
        conservation_error=conserve.conservation_error(judged, coarse, areas, scale),
    )


def _table(label: str, truth: np.ndarray, fields: dict[str, np.ndarray], mask: np.ndarray) -> ScoreTable:
    data_range = metrics.value_range(truth, mask)
    scores = {name: metrics.score(truth, field, mask, data_range) for name, field in fields.items()}
    return ScoreTable(label, int(mask.sum()), data_range, scores)


def _away(truth: np.ndarray, areas: np.ndarray, scale: int) -> np.ndarray:
    """Coarse cells with no incomplete coarse cell within :data:`RIM`; the raster's edge is not a gap."""
    from scipy.ndimage import minimum_filter

    complete = ~np.isnan(degrade.area_mean(truth, areas, scale, 1.0))
    return minimum_filter(complete, size=2 * RIM + 1, mode="nearest")


def refined(
    coarse: np.ndarray,
    areas: np.ndarray,
    scale: int,
    model: Model | None = None,
    *,
    units: str | None = None,
    engine: str = "auto",
) -> dict[str, np.ndarray]:
    """``coarse`` (h, w; NaN is missing) refined by every method; (h * scale, w * scale) each, NaN over missing cells.

    Beyond the edge the field continues with its edge values, gaps are filled (:mod:`geosr.gaps`): as in
    :func:`geosr.downscale`.
    """
    reach = interpolate.RADIUS * (ROUNDS + 1)
    halo = max(reach, model.halo if model is not None else 0)
    filled = gaps.fill_gaps(np.pad(coarse, halo, mode="edge"), halo)

    def rim(cells: int) -> np.ndarray:
        return filled[halo - cells : filled.shape[0] - halo + cells, halo - cells : filled.shape[1] - halo + cells]

    cubic = interpolate.bicubic(rim(interpolate.RADIUS), scale)
    fields = {
        NEAREST: conserve.spread(rim(0), scale),
        BILINEAR: bilinear(rim(1), scale),
        BICUBIC: cubic,
        CONSERVED: conserve.conserve(cubic, coarse, areas, scale),
        BACK_PROJECTED: conserve.conserve(back_projected(rim(reach), areas, scale), coarse, areas, scale),
    }
    if model is not None:
        scaler = model.card.scaler.in_units(units)
        # The network's own reach is filled, not more: what geosr.downscale does.
        own = gaps.fill_gaps(np.pad(coarse, model.halo, mode="edge"), model.halo)
        fine = scaler.denormalise(model.predict(scaler.normalise(own), engine))
        fields[SRCNN] = conserve.conserve(fine.astype(coarse.dtype), coarse, areas, scale)
    return {name: conserve.mask(field, coarse, scale) for name, field in fields.items()}


def bilinear(block: np.ndarray, scale: int) -> np.ndarray:
    """Centre-aligned bilinear refinement of ``block`` (h + 2, w + 2) to (h * scale, w * scale)."""
    for axis in (0, 1):
        n = block.shape[axis] - 2
        position = (np.arange(n * scale) + 0.5) / scale + 0.5  # in cells of the block with its rim
        low = np.floor(position).astype(int)
        part = (position - low).astype(block.dtype)
        part = part[:, None] if axis == 0 else part[None, :]
        block = (1 - part) * np.take(block, low, axis) + part * np.take(block, low + 1, axis)
    return block


def back_projected(block: np.ndarray, areas: np.ndarray, scale: int, rounds: int = ROUNDS) -> np.ndarray:
    """Bicubic refinement with ``rounds`` rounds of back-projection.

    Parameters
    ----------
    block : (h + 2 m, w + 2 m) without NaN, with m = 2 (rounds + 1): each round reaches two cells farther.
    areas : fine cell areas of the inner (h * scale, …), (…, 1) or full.

    Returns
    -------
    (h * scale, w * scale). Not yet conserved: what is left of the residual is the caller's to remove.
    """
    margin = interpolate.RADIUS * (rounds + 1)
    rim = margin * scale
    weights = np.pad(areas, ((rim, rim), (0, 0) if areas.shape[-1] == 1 else (rim, rim)), mode="edge")
    fine = interpolate.bicubic(np.pad(block, interpolate.RADIUS, mode="edge"), scale)
    for _ in range(rounds):
        left = (block - conserve.block_mean(fine, weights, scale)).astype(block.dtype)
        fine += interpolate.bicubic(np.pad(left, interpolate.RADIUS, mode="edge"), scale)
    return fine[rim:-rim, rim:-rim]
