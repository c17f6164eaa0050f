"""Which of a file's variables is meant.

By name if one is named; else the one tropospheric NO2 column; else the one NO2 column; else the one gridded variable.
Errors of the column, kernels, air mass factors, slant and stratospheric columns, counts and flags are never chosen
unasked. What is ambiguous is an error that lists the candidates. The same rules serve NetCDF variables, GeoTIFF bands
and Datasets in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import xarray as xr

from geosr.errors import InputError
from geosr.grid import spatial_dims

_NO2 = re.compile(r"no2|nitrogen[ _]?dioxide", re.IGNORECASE)
_NO2_TEXT = re.compile(r"\bno[_ ]?2\b|no₂|nitrogen[ _]?dioxide", re.IGNORECASE)
_TROPOSPHERIC = re.compile(r"trop(?!opause|ical)", re.IGNORECASE)
_SECONDARY = re.compile(
    r"precision|uncert|error|(?<![a-z])err(?![a-z])|std|stdev|standard|sigma|variance|noise|kernel|(?<![a-z])avk?(?![a-z])"
    r"|amf|air_?mass|strat(?!egy)|ghost|slant|(?<![a-z])scd|qa_?value|(?<![a-z])q[ac](?![a-z])|quality|flag|mask|index"
    r"|count|weight|number_of|n_?obs|(?<![a-z])num(?![a-z])|samples|apriori|a_priori|profile|scaling|conservation",
    re.IGNORECASE,
)
_MODIFIERS = ("standard_error", "status_flag", "number_of_observations", "detection_minimum")


@dataclass(frozen=True)
class Candidate:
    """What the choice needs to know of a variable.

    Attributes
    ----------
    name : e.g. "PRODUCT/nitrogendioxide_tropospheric_column", or a band's description.
    attrs : CF attributes.
    shape : sizes, for the messages.
    number : 1-based, by which a GeoTIFF band can also be named.
    """

    name: str
    attrs: Mapping[str, Any] = field(default_factory=dict)
    shape: tuple[int, ...] = ()
    number: int | None = None

    @property
    def base(self) -> str:
        """The name without its groups."""
        return self.name.rsplit("/", 1)[-1]

    @property
    def _standard_name(self) -> str:
        return str(self.attrs.get("standard_name", ""))

    @property
    def is_secondary(self) -> bool:
        """Says the name that this belongs to a column, or is a step to one, rather than being it?"""
        return bool(_SECONDARY.search(self.base)) or any(m in self._standard_name.split() for m in _MODIFIERS)

    @property
    def is_no2(self) -> bool:
        """Is it nitrogen dioxide, by name or description?"""
        if _NO2.search(self.base) or "nitrogen_dioxide" in self._standard_name:
            return True
        return any(_NO2_TEXT.search(str(self.attrs.get(k, ""))) for k in ("long_name", "description", "title"))

    @property
    def is_tropospheric(self) -> bool:
        """Is it of the troposphere, by name or, where the name is silent, by description?"""
        if _TROPOSPHERIC.search(self.base) or self._standard_name.startswith("troposphere_"):
            return True
        if re.search("total|summed", self.base, re.IGNORECASE):
            return False
        return any(_TROPOSPHERIC.search(str(self.attrs.get(k, ""))) for k in ("long_name", "description", "title"))

    def __str__(self) -> str:
        units = self.attrs.get("units")
        label = f"{self.number}: {self.name}" if self.number is not None else self.name
        return f"{label} ({units})" if units else label


def choose(candidates: Sequence[Candidate], name: str | None = None) -> Candidate:
    """The variable that ``name`` names, or the one that is obviously meant.

    Parameters
    ----------
    candidates : gridded numeric variables, in the file's order.
    name : name, name with groups ("PRODUCT/x"), or number of a band.

    Raises
    ------
    InputError
        No variable of that name, none at all, or several equally likely ones; lists the candidates.
    """
    if name is not None:
        return _named(candidates, str(name))
    if not candidates:
        raise InputError("holds no gridded numeric variable", "geosr info shows what is in the file")
    ancillary = {w for c in candidates for w in str(c.attrs.get("ancillary_variables", "")).split()}
    own = [c for c in candidates if c.base not in ancillary and c.name not in ancillary]
    primary = [c for c in own if not c.is_secondary]
    no2 = [c for c in primary if c.is_no2]
    for tier in ([c for c in no2 if c.is_tropospheric], no2, primary, own, list(candidates)):
        if len(tier) == 1:
            return tier[0]
        if tier:
            raise ambiguous(tier)
    raise ambiguous(candidates)


def ambiguous(candidates: Sequence[Candidate]) -> InputError:
    """The error that lists ``candidates`` and names the option."""
    return InputError(
        f"holds {len(candidates)} variables that may be meant: {_listing(candidates)}",
        f"choose one with --variable, e.g. --variable {_quoted(candidates[0])} (in Python: variable=…)",
    )


def _quoted(candidate: Candidate) -> str:
    text = str(candidate.number) if candidate.number is not None else candidate.name
    return f"'{text}'" if re.search(r"\s", text) else text


def _listing(candidates: Sequence[Candidate], most: int = 12) -> str:
    more = f", and {len(candidates) - most} more" if len(candidates) > most else ""
    return ", ".join(str(c) for c in candidates[:most]) + more


def _named(candidates: Sequence[Candidate], name: str) -> Candidate:
    wanted = name.strip().strip("/")
    for same in (
        lambda c: c.name.strip("/") == wanted,
        lambda c: c.base == wanted,
        lambda c: c.number is not None and str(c.number) == wanted,
        lambda c: c.base.lower() == wanted.lower(),
    ):
        found = [c for c in candidates if same(c)]
        if len(found) == 1:
            return found[0]
        if found:
            raise ambiguous(found)
    if not candidates:
        raise InputError(f"holds no gridded numeric variable, so no {name!r}", "geosr info shows what is in the file")
    raise InputError(
        f"holds no variable {name!r}; it holds {_listing(candidates)}", "choose one of these with --variable"
    )


# --- Datasets in memory ----------------------------------------------------------------------------------------


def _candidates(ds: xr.Dataset) -> list[Candidate]:
    bounds = {str(v.attrs.get("bounds") or v.encoding.get("bounds")) for v in ds.variables.values()}
    found = []
    for name, data in ds.data_vars.items():
        if data.ndim < 2 or data.dtype.kind not in "fiub" or str(name) in bounds:
            continue
        try:
            spatial_dims(data)
        except InputError:
            continue
        attrs = {**data.encoding, **data.attrs} if "ancillary_variables" in data.encoding else data.attrs
        found.append(Candidate(str(name), attrs, data.shape))
    return found


def main_variable(ds: xr.Dataset, name: str | None = None) -> xr.DataArray:
    """The field of ``ds``: the variable ``name``, or the one that is obviously meant (see the module's docstring).

    Raises
    ------
    InputError
        No such variable, none on a grid, or an ambiguous choice.
    """
    return ds[choose(_candidates(ds), name).name]


def ancillary_of(ds: xr.Dataset, main: xr.DataArray) -> list[xr.DataArray]:
    """Variables of ``ds`` that CF ``ancillary_variables`` of ``main`` names and that lie on its grid."""
    names = str(main.attrs.get("ancillary_variables") or main.encoding.get("ancillary_variables") or "").split()
    grid = spatial_dims(main)
    return [ds[n] for n in names if n in ds.data_vars and ds[n].dtype.kind in "fiu" and set(grid) <= set(ds[n].dims)]


def precision_of(main: xr.DataArray, ancillary: Iterable[xr.DataArray]) -> xr.DataArray | None:
    """The one standard error of ``main`` among its ``ancillary`` variables.

    ``<main>_uncertainty``, which may say more than the precision; else ``<main>_precision``; else the first whose CF
    standard name has the modifier ``standard_error``.
    """
    found = {str(a.name): a for a in ancillary if a.dtype.kind == "f"}
    for ending in ("_uncertainty", "_precision"):
        if f"{main.name}{ending}" in found:
            return found[f"{main.name}{ending}"]
    marked = [a for a in found.values() if "standard_error" in str(a.attrs.get("standard_name", "")).split()]
    return marked[0] if marked else None
