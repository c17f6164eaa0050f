"""Evaluations as text: tables that fit 110 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geosr.evaluation.baselines import BICUBIC

if TYPE_CHECKING:
    from geosr.evaluation.results import Evaluation, Evaluations, ScoreTable

WIDTH = 110
_NAME = 24


def short(text: str, width: int) -> str:
    """``text`` in ``width`` columns, its middle left out if need be: both ends of a file's name tell it apart."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def evaluation_text(found: Evaluation) -> str:
    """Settings, the two tables of scores, spectra and conservation, sigma, and the verdict."""
    names = ", ".join(f"{label} = {n.name}" if label != n.name else label for label, n in found.networks.items())
    shaved = f"; {found.shave} cells shaved" if found.shave else ""
    lines = [
        *([found.label] if found.label else []),
        f"x{found.scale}, {found.degradation}; networks: {names or 'none'}{shaved}",
    ]
    for table in (found.valid, found.away_from_gaps):
        lines += ["", *_score_lines(table, found)]
    lines += ["", *_resolution_lines(found)]
    sigma = [line for table in (found.valid, found.away_from_gaps) for line in _sigma_lines(table, found.units)]
    if sigma:
        lines += ["", "one-sigma band (Gaussian errors: 68.3 % within 1 sigma, 95.4 % within 2)", *sigma]
    return "\n".join([*lines, "", found.verdict()])


def _score_lines(table: ScoreTable, found: Evaluation) -> list[str]:
    unit = f" {found.units}" if found.units else ""
    given = "given" if found.range_given else "the truth's"
    head = f"{table.label}: {table.cells} cells; PSNR and SSIM over a range of {table.data_range:.6g}{unit} ({given})"
    lines = [head]
    lines.append(
        f"{'':{_NAME}}{'PSNR dB':>9}{'SSIM':>8}{'MSE':>11}{'RMSE':>11}{'MAE':>11}{'bias':>11}{'R2':>9}{'corr':>9}"
    )
    for name, s in table.scores.items():
        lines.append(
            f"{short(name, _NAME):{_NAME}}{s.psnr:9.2f}{s.ssim:8.4f}{s.mse:11.4g}{s.rmse:11.4g}{s.mae:11.4g}"
            f"{s.bias:11.2g}{s.r2:9.5f}{s.correlation:9.5f}"
        )
    return lines


def _resolution_lines(found: Evaluation) -> list[str]:
    """Effective resolution, power ratios at three wavelengths, and conservation errors."""
    spectrum = found.spectrum
    cells = (4, 2, 1)
    if spectrum is None:
        lines = ["no window of 8 x 8 coarse cells without gaps: no spectrum"]
        head = ""
    else:
        km = spectrum.coarse_cell_km
        lines = [
            f"spectrum: {spectrum.windows} windows of {spectrum.side} x {spectrum.side} cells; coarse cell {km:.3g} km",
            "resolution: wavelength where error power is half the truth's; power: of the field, over the truth's",
        ]
        head = f"{'resolution km':>14}{'in cells':>9}" + "".join(f"{f'power {c * km:.3g} km':>15}" for c in cells)
    lines.append(f"{'':{_NAME}}{head}{'conservation':>15}")
    for name in found.valid.scores:
        text = ""
        if spectrum is not None:
            resolution = spectrum.effective_resolution_km(name)
            text = f"{'-' if np.isnan(resolution) else f'{resolution:.4g}':>14}{_or_dash(resolution / km, 2):>9}"
            text += "".join(f"{_or_dash(spectrum.ratio_at(name, c * km), 3):>15}" for c in cells)
        error = found.conservation.get(name)
        share = f"{error / found.largest:15.1e}" if error is not None and found.largest > 0 else f"{'-':>15}"
        lines.append(f"{short(name, _NAME):{_NAME}}{text}{share}")
    lines.append("in cells: of the coarse grid; conservation: largest |block mean - coarse| over the largest |coarse|")
    return lines


def _or_dash(value: float, digits: int) -> str:
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def _sigma_lines(table: ScoreTable, units: str | None) -> list[str]:
    unit = f" {units}" if units else ""
    return [
        f"{short(name, _NAME):{_NAME}}{c.one_sigma:9.1%} within 1,{c.two_sigma:7.1%} within 2;"
        f" mean sigma {c.mean_sigma:.4g}{unit} ({table.label})"
        for name, c in table.sigma.items()
        if c.cells
    ]


def _cells(found: Evaluations) -> str:
    """Which cells the cases are judged on."""
    fell_back = [case.judged is not case.away_from_gaps for case in found]
    if all(fell_back):
        return "all valid cells (*)"
    return "away from gaps (*: all valid cells)" if any(fell_back) else "away from gaps"


def evaluations_text(found: Evaluations) -> str:
    """A line for each case; for each network mean gains with their intervals; the verdict."""
    first = found.cases[0]
    networks = list(first.networks)
    shown = networks[:2]  # more do not fit; the means below and --json have them all
    names = ", ".join(f"{label} = {n.name}" for label, n in first.networks.items()) or "none"
    lines = [
        f"x{first.scale}, {first.degradation}; {len(found)} cases; networks: {names}",
        f"PSNR in dB, {_cells(found)}, over each case's own range; best: the best interpolation of the case",
        "",
    ]
    wide = WIDTH - 4 - 9 - 9 - 9 - 20 * len(shown)
    head = f"{'':4}{'':{wide}}{'cells':>9}{'bicubic':>9}{'best':>9}"
    lines.append(head + "".join(f"{short(n, 10):>12}{'- best':>8}" for n in shown))
    for number, case in enumerate(found.cases, start=1):
        table = case.judged
        best = table.best_interpolation
        mark = " " if table is case.away_from_gaps else "*"
        row = f"{number:3}{mark}{short(case.label, wide - 1):{wide}}{table.cells:9}"
        row += f"{table.scores[BICUBIC].psnr:9.2f}{table.scores[best].psnr:9.2f}"
        lines.append(row + "".join(f"{table.scores[n].psnr:12.2f}{table.gain(best, n):+8.2f}" for n in shown))
    if found.gains:
        sure = any(gain.low is not None for gain in found.gains)
        interval = f"[95 % interval, bootstrap over {len(found)} cases]" if sure else "(too few cases for an interval)"
        lines += ["", f"mean gain {interval}, smallest gain, cases won"]
    for gain in found.gains:
        label = f"{gain.method} over {gain.over}"
        lines.append(f"{short(label, 44):44}{gain!s:>30}{gain.worst:+10.2f}{f'{gain.wins} of {gain.n}':>14}")
    return "\n".join([*lines, "", found.verdict()])
