"""The envelope of training: what a network was trained on, and whether a field is like it.

A network says something about fields like those it has seen. Compared are the units, the cell size, and the shape and
the noise of the field; the last two by numbers that do not change when the field is scaled or shifted
(:mod:`geosr.fieldstats`), for the networks do not notice that either (:mod:`geosr.models`).

A field outside what was seen (with a margin) is a warning; far outside, the network is refused. The margins
(:data:`CHECKS`) are wide: an honest column map from any sensor must pass. docs/envelope.md has the numbers behind them.

>>> envelope = Envelope.of([measure(coarse, cell_m) for coarse, cell_m in scenes], "mol m-2")  # doctest: +SKIP
>>> envelope.judge(measure(field, 5000.0), "mol m-2").inside  # doctest: +SKIP
True
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from geosr.errors import GeosrWarning, InputError, ModelError, RefusedError
from geosr.fieldstats import Sample, measure, sample

__all__ = ["CHECKS", "Check", "Envelope", "Judgement", "Sample", "measure"]

# As many values as any map of classes has (CORINE, the largest, 44); counted in the sample.
_CLASSES = 48


#: (value, smallest and largest in training) -> does it lie that far off?
Margin = Callable[[float, float, float], bool]


def _never(value: float, low: float, high: float) -> bool:
    return False


def _beyond(below: float, above: float) -> Margin:
    return lambda value, low, high: value < low / below or value > high * above


@dataclass(frozen=True)
class Check:
    """How a statistic is compared with its range in training.

    Attributes
    ----------
    text : the sentence, with ``{}`` for the value.
    outside, far : margins of the warning and of the refusal.
    """

    text: str
    outside: Margin
    far: Margin = _never


#: The margins; docs/envelope.md says what they let pass. How far plumes stand out never refuses a field, for one plume
#: on a constant background stands out without limit; nor does no noise at all, which is an oversampled or drawn map.
CHECKS = {
    "lower": Check(
        "the lowest 0.1 % of the values lie {} spreads below the median", _beyond(3, 3), lambda v, lo, hi: v > 10 * hi
    ),
    "upper": Check("the highest 1 % of the values lie {} spreads above the median", _beyond(2.5, 2)),
    "peak": Check("the highest 0.1 % of the values lie {} spreads above the median", _beyond(3, 3)),
    # A fifth of the way from the noisiest training scene to nothing but noise, and half of it. Much noise with a few
    # plumes in it, as of one overpass over the sea, is data: it has a correlation of some hundredths.
    "noise": Check(
        "noise level {}",
        lambda v, lo, hi: v < lo / 3 or v > hi + 0.2 * (1 - hi),
        lambda v, lo, hi: v > max(0.9, (1 + hi) / 2),
    ),
    "neighbours": Check(
        "correlation of neighbouring cells {}", lambda v, lo, hi: v < lo / 2, lambda v, lo, hi: v < 0.03 < lo
    ),
    "levels": Check("only {} different values", _never, lambda v, lo, hi: v <= _CLASSES < lo),
}

# Cells this much smaller or larger than any in training: outside, and far outside. To the small side lies the same map
# oversampled; to the large side there are no plumes any more.
_SMALLER, _LARGER = (8.0, 100.0), (2.5, 4.0)


@dataclass(frozen=True)
class Judgement:
    """What is outside the envelope, in words; and what is far outside it."""

    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()

    @property
    def inside(self) -> bool:
        return not (self.warnings or self.refusals)

    @property
    def text(self) -> str:
        """All of it, the worst first."""
        return "; ".join((*self.refusals, *self.warnings))

    @property
    def status(self) -> str:
        """For reports: "inside", "outside: …", or, if it ran although it was far outside, "overridden: …"."""
        if self.inside:
            return "inside"
        return f"{'overridden' if self.refusals else 'outside'}: {self.text}"


@dataclass(frozen=True)
class Envelope:
    """What a model was trained on. What is not known (None, a missing key) is not checked.

    Attributes
    ----------
    units : of the training fields.
    cell_m : smallest and largest coarse cell, side in metres.
    statistics : name -> smallest and largest value in any training scene.
    unknown : why nothing of that is known, for weights from elsewhere; "" otherwise.
    """

    units: str | None = None
    cell_m: tuple[float, float] | None = None
    statistics: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    unknown: str = ""

    @classmethod
    def of(cls, samples: Iterable[Sample], units: str | None) -> Envelope:
        """The envelope of training scenes: :func:`measure` of each scene's coarse field."""
        seen = list(samples)
        cells = [s.cell_m for s in seen]
        values = {n: [s.statistics[n] for s in seen if n in s.statistics] for n in CHECKS}
        ranges = {n: (min(v), max(v)) for n, v in values.items() if v}
        return cls(units, (min(cells), max(cells)) if cells else None, ranges)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for ``Card.envelope``."""
        found: dict[str, Any] = {"units": self.units}
        if self.cell_m is not None:
            found["coarse_cell_m"] = [round(v) for v in self.cell_m]
        return found | {"statistics": {n: [float(f"{v:.4g}") for v in ends] for n, ends in self.statistics.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], scale: int = 1) -> Envelope:
        """The envelope in a card; older cards give ``fine_cell_m``, which ``scale`` makes coarse.

        Raises
        ------
        ModelError
            An entry is not what it should be.
        """
        try:
            units = data.get("units")
            fine, coarse = data.get("fine_cell_m"), data.get("coarse_cell_m")
            cell = _range(coarse) if coarse else _range([scale * v for v in fine]) if fine else None
            ranges = {n: _range(v) for n, v in data.get("statistics", {}).items() if n in CHECKS}
        except (TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"the model's envelope is unusable ({error})", "train it again") from error
        return cls(None if units is None else str(units), cell, ranges, str(data.get("unknown", ""))[:200])

    def judge(self, sample: Sample, units: str | None) -> Judgement:
        """Is a field with these statistics and ``units`` (None: unknown) like those of training?

        A field of unknown units is not held against it; only where something else is off, they are mentioned too.
        """
        findings = [self._cells(sample.cell_m)]
        findings += [self._statistic(n, v) for n, v in sample.statistics.items() if n in self.statistics]
        unknown, finding = self._units(units)
        findings.append(finding)
        if unknown and any(findings):
            findings.append((unknown, False))
        told = [f for f in findings if f is not None]
        return Judgement(tuple(t for t, far in told if not far), tuple(t for t, far in told if far))

    def check(self, data: Any, cell_m: float, units: str | None, name: str, force: bool = False) -> str:
        """Judge the coarse field ``data`` (numpy or dask, see :func:`geosr.fieldstats.sample`) for the model ``name``.

        Returns
        -------
        :attr:`Judgement.status`, or "unknown: …" where there is nothing to judge by; what is not "inside" is also a
        :class:`~geosr.errors.GeosrWarning`.

        Raises
        ------
        RefusedError
            The field is far outside and ``force`` is not given.
        """
        if self.unknown:
            text = f"whether {name} is made for such fields is not known ({self.unknown})"
            warnings.warn(f"{text}; geosr evaluate tells on maps of yours", GeosrWarning, stacklevel=2)
            return f"unknown: {self.unknown}"
        seen = sample(data, cell_m) if self.statistics else Sample(0, cell_m)
        found = self.judge(seen, units)
        if found.refusals and not force:
            raise RefusedError(
                f"the field is far outside what {name} was trained on: {found.text}",
                "use --method bicubic, or --force-model to run the network all the same (in Python: force_model=True)",
            )
        if not found.inside:
            how = "far outside" if found.refusals else "outside"
            text = f"the field is {how} what {name} was trained on: {found.text}"
            warnings.warn(f"{text} (--method bicubic takes any field)", GeosrWarning, stacklevel=2)
        return found.status

    def _units(self, given: str | None) -> tuple[str, tuple[str, bool] | None]:
        """What to say of unknown units, and what is wrong with known ones: (text, far)."""
        from geosr.units import parse

        try:
            trained = parse(self.units) if self.units else None
        except InputError:
            trained = None
        if trained is None:
            return "", None
        try:
            unit = parse(given) if given else None
        except InputError:
            unit = None
        if unit is None or (unit.dimension == "dimensionless" and unit.si == 1):
            return f"the units ({given or 'none'}) are not known, trained on {self.units}", None
        if unit.dimension == trained.dimension:
            return "", None
        mass = trained.is_column and unit.dimension == "[mass] / [length] ** 2"
        kind = "columns" if trained.is_column else "another quantity"
        return "", (f"the units {given!r} measure something else, trained on {kind} ({self.units})", not mass)

    def _cells(self, cell_m: float) -> tuple[str, bool] | None:
        if self.cell_m is None or not np.isfinite(cell_m):
            return None
        low, high = self.cell_m
        if low / _SMALLER[0] <= cell_m <= high * _LARGER[0]:
            return None
        far = not low / _SMALLER[1] <= cell_m <= high * _LARGER[1]
        return f"cells of {_metres(cell_m)}, trained on {_metres(low)} to {_metres(high)}", far

    def _statistic(self, name: str, value: float) -> tuple[str, bool] | None:
        check, (low, high) = CHECKS[name], self.statistics[name]
        far = check.far(value, low, high)
        if not far and not check.outside(value, low, high):
            return None
        return f"{check.text.format(_number(value))}, trained on {_number(low)} to {_number(high)}", far


def _range(values: Any) -> tuple[float, float]:
    low, high = (float(v) for v in values)
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise ValueError(f"{values!r} is not a range")
    return low, high


def _number(value: float) -> str:
    return f"{value:.0f}" if 10 <= abs(value) < 1e5 else f"{value:.2g}"


def _metres(value: float) -> str:
    return f"{value / 1000:.3g} km" if value >= 1000 else f"{value:.3g} m"
