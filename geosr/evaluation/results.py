"""What :func:`geosr.evaluate` finds: one case, or several; as plain data, as tables for people, as a figure."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geosr.degrade import Degradation
from geosr.evaluation.baselines import BASELINES, BICUBIC
from geosr.evaluation.gains import Gain, gain_of_many
from geosr.evaluation.metrics import Coverage, Scores

if TYPE_CHECKING:
    from geosr.evaluation.figures import Panels
    from geosr.evaluation.spectrum import Spectrum

#: What gains are over, where the best interpolation differs from case to case.
BEST = "best interpolation"


@dataclass(frozen=True)
class ScoreTable:
    """Scores of every method on one set of cells.

    Attributes
    ----------
    label : which cells.
    cells : how many.
    data_range : value range that PSNR and SSIM use: largest minus smallest truth of these cells, unless one was given.
    scores : method -> scores, weakest baseline first, the networks last.
    networks : which of the methods are networks, in the order they were asked for.
    sigma : network -> how much of its error its one-sigma band holds; networks without a band are absent.
    """

    label: str
    cells: int
    data_range: float
    scores: dict[str, Scores]
    networks: tuple[str, ...] = ()
    sigma: dict[str, Coverage] = field(default_factory=dict)

    @property
    def best_interpolation(self) -> str:
        """The method without a network that has the smallest RMSE."""
        classical = {name: self.scores[name].rmse for name in BASELINES}
        return min(classical, key=lambda name: (np.isnan(classical[name]), classical[name]))

    def gain(self, over: str, method: str | None = None) -> float:
        """PSNR of ``method`` (default: the first network) minus that of ``over``, in dB; KeyError without a network."""
        if method is None and not self.networks:
            raise KeyError("no network was scored")
        return self.scores[method or self.networks[0]].psnr - self.scores[over].psnr


@dataclass(frozen=True)
class Network:
    """A network that was scored: name and hash of its card, family of its architecture.

    ``envelope`` : is the coarse field like those of its training? "inside", "outside: …", or "overridden: …" where
    :func:`geosr.downscale` would refuse it; None where that is not known.
    """

    name: str
    sha256: str
    family: str
    envelope: str | None = None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What :func:`geosr.evaluate` found on one truth.

    Attributes
    ----------
    label : of the case: file, time. May be empty.
    scale, units : of the test; units as the truth has them (None if unknown).
    degradation : how the truth became coarse.
    shave : fine cells at the rim that were not scored; range_given : the value range was given, not the truth's.
    networks : label -> network, in the order they were asked for.
    valid, away_from_gaps : the two tables.
    conservation : method that promises conservation -> largest ``|block mean - coarse|`` found, in the truth's units.
    largest : largest ``|coarse value|``, to hold that against.
    gains : of each network over bicubic and over the best interpolation, on :attr:`judged`.
    spectrum : power spectra, on cells away from gaps; None where no window fits.
    panels : what the figure shows.
    """

    label: str
    scale: int
    units: str | None
    degradation: Degradation
    shave: int
    range_given: bool
    networks: dict[str, Network]
    valid: ScoreTable
    away_from_gaps: ScoreTable
    conservation: dict[str, float]
    largest: float
    gains: tuple[Gain, ...] = ()
    spectrum: Spectrum | None = None
    panels: Panels | None = None

    @property
    def judged(self) -> ScoreTable:
        """The table that the verdict is on: away from gaps; all valid cells where that table is empty."""
        return self.away_from_gaps if self.away_from_gaps.cells else self.valid

    @property
    def conservation_error(self) -> float:
        """The largest of :attr:`conservation`, in the truth's units."""
        return max(self.conservation.values())

    @property
    def model(self) -> str | None:
        """Name of the first network; None without one."""
        return next((n.name for n in self.networks.values()), None)

    @property
    def model_sha256(self) -> str | None:
        """Hash of its card."""
        return next((n.sha256 for n in self.networks.values()), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON: a number that does not exist (NaN, or the infinite PSNR of a perfect field) is None."""
        found = {
            "label": self.label,
            "scale": self.scale,
            "units": self.units,
            "degradation": self.degradation.to_dict(),
            "shave": self.shave,
            "data_range": "given" if self.range_given else "largest minus smallest truth of the table's cells",
            "model": self.model,
            "model_sha256": self.model_sha256,
            "networks": {label: asdict(n) for label, n in self.networks.items()},
            "valid": asdict(self.valid),
            "away_from_gaps": asdict(self.away_from_gaps),
            "judged_on": self.judged.label,
            "best_interpolation": self.judged.best_interpolation,
            "gains": [asdict(g) for g in self.gains],
            "conservation": self.conservation,
            "conservation_error": self.conservation_error,
            "largest_coarse_value": self.largest,
            "spectrum": self.spectrum.to_dict() if self.spectrum is not None else None,
            "verdict": self.verdict(),
        }
        plain: dict[str, Any] = _finite(found)
        return plain

    def to_text(self) -> str:
        """Tables for people, at most 110 columns wide; in the last line whether the networks win."""
        from geosr.evaluation.tables import evaluation_text

        return evaluation_text(self)

    def verdict(self) -> str:
        """Do the networks beat the best interpolation here?"""
        best = self.judged.best_interpolation
        if not self.networks:
            return f"best interpolation: {best}"
        return verdict([g for g in self.gains if g.over == best], f"the best interpolation here, {best}")

    def figure(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Draw truth, coarse field, bicubic, network, errors and spectra: ``.png``, ``.pdf`` or ``.svg``.

        See :func:`geosr.evaluation.figures.draw`. Needs ``geosr[plot]``.
        """
        from geosr.evaluation.figures import draw

        return draw(self, path, overwrite=overwrite)


#: :attr:`Gain.outcome` -> what is said of one method, of several.
_SAID = {
    "won": ("beats", "beat"),
    "open": ("cannot be told apart from", "cannot be told apart from"),
    "tied": ("is as good as", "are as good as"),
    "lost": ("does NOT beat", "do NOT beat"),
}


def verdict(gains: Sequence[Gain], best: str) -> str:
    """Who beats ``best``, and, as the last words, who does not; a gain that may be none is no win."""
    parts = []
    for outcome, said in _SAID.items():
        some = [f"{g.method} ({g.told})" for g in gains if g.outcome == outcome]
        if some:
            parts.append(f"{' and '.join(some)} {said[len(some) > 1]} {best}")
    return "; ".join(parts)


@dataclass(frozen=True, eq=False)
class Evaluations:
    """What :func:`geosr.evaluate` found on several truths: a sequence of :class:`Evaluation`.

    Attributes
    ----------
    cases : in the order they were given.
    gains : of each network over bicubic and over each case's best interpolation: means over the cases.
    """

    cases: tuple[Evaluation, ...]
    gains: tuple[Gain, ...]

    @classmethod
    def of(cls, cases: Sequence[Evaluation]) -> Evaluations:
        """The summary of ``cases``, at least one, with the same networks in each."""
        gains = []
        for network in cases[0].networks:
            tables = [case.judged for case in cases]
            over = {BICUBIC: [t.gain(BICUBIC, network) for t in tables]}
            over[BEST] = [t.gain(t.best_interpolation, network) for t in tables]
            gains += [gain_of_many(values, (network, name)) for name, values in over.items()]
        return cls(tuple(cases), tuple(gains))

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Evaluation]:
        return iter(self.cases)

    def __getitem__(self, index: int) -> Evaluation:
        return self.cases[index]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON, as in :meth:`Evaluation.to_dict`."""
        summary = {"scale": self.cases[0].scale, "gains": [asdict(g) for g in self.gains], "verdict": self.verdict()}
        plain: dict[str, Any] = _finite(summary)
        return {**plain, "cases": [case.to_dict() for case in self.cases]}

    def to_text(self) -> str:
        """A line for each case, then means, then whether the networks win."""
        from geosr.evaluation.tables import evaluations_text

        return evaluations_text(self)

    def verdict(self) -> str:
        """Do the networks beat the best interpolation in the mean, and in how many cases?"""
        if not self.gains:
            best = Counter(case.judged.best_interpolation for case in self.cases).most_common()
            return f"{BEST}: " + ", ".join(f"{name} in {n} of {len(self)} cases" for name, n in best)
        gains = [g for g in self.gains if g.over == BEST]
        text = verdict(gains, f"the {BEST} in the mean")
        for gain in gains:
            lost = gain.n - gain.wins
            if lost and gain.outcome in ("won", "open"):
                text += f"; {gain.method} does NOT beat it in {lost} of {gain.n} cases (worst {gain.worst:+.2f} dB)"
        return text

    def figure(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> list[Path]:
        """A figure for each case: ``F_1.png``, ``F_2.png`` … by the number of the case, for ``F.png``."""
        return [
            case.figure(numbered(path, number), overwrite=overwrite) for number, case in enumerate(self.cases, start=1)
        ]


def numbered(path: str | os.PathLike[str], number: int) -> Path:
    """``F.png`` -> ``F_3.png``."""
    whole = Path(path)
    return whole.with_name(f"{whole.stem}_{number}{whole.suffix}")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
