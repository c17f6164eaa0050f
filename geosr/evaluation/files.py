"""Evaluation of files, with figures: what the command ``geosr evaluate`` calls, and scripts may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from geosr.errors import UsageError, blame
from geosr.evaluation.evaluate import Evaluation, Evaluations, evaluate

StrPath = str | PathLike[str]


def evaluate_files(
    paths: Sequence[StrPath],
    *,
    reading: Mapping[str, Any] | None = None,
    figure: StrPath | None = None,
    overwrite: bool = False,
    **options: Any,
) -> tuple[Evaluation | Evaluations, list[Path]]:
    """Score every method on the fields in ``paths``.

    Parameters
    ----------
    reading : options of :func:`geosr.open_no2`, for every file.
    figure : file to draw into, or of several cases ``F_1.png``, ``F_2.png`` … for ``F.png``. Checked before anything is
        computed.
    overwrite : replace existing figures.
    options : of :func:`geosr.evaluate`.

    Returns
    -------
    The result, and the figures that were written.
    """
    from geosr.evaluation.figures import check_figure
    from geosr.evaluation.results import numbered
    from geosr.grid import spatial_dims
    from geosr.reading import open_no2
    from geosr.variables import main_variable

    if not paths:
        raise UsageError("no truth to evaluate on", "name at least one file")
    if figure is not None:
        check_figure(figure, overwrite=True)  # format and folder; which files it is to be is known only later
    truths, cases = [], 0
    for path in paths:
        with blame(path):
            truths.append(open_no2(path, **(reading or {})))
            field = main_variable(truths[-1])
            y, x = spatial_dims(field)
            cases += field.size // (field.sizes[y] * field.sizes[x])
    several = cases > 1 or len(paths) > 1
    if figure is not None:
        for target in [numbered(figure, n + 1) for n in range(cases)] if several else [figure]:
            check_figure(target, overwrite)
    found = evaluate(truths if len(paths) > 1 else truths[0], **options)
    if figure is None:
        return found, []
    drawn = found.figure(figure, overwrite=overwrite)
    return found, drawn if isinstance(drawn, list) else [drawn]
