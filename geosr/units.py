"""Units of columns: their many spellings, conversion, and whether values can mean what their unit says.

1 mol m-2 = 6.02214076e23 molec m-2 = 6.02214076e19 molec cm-2 (the Avogadro constant, exact since SI 2019).
1 DU = a layer of 1e-5 m of gas at 273.15 K and 101.325 kPa = 2.686780111e20 molec m-2 (Loschmidt constant,
CODATA 2018: 2.686780111e25 m-3).
A number per area without a name ("1/cm2", as OMI files write) counts molecules.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from geosr.errors import GeosrWarning, InputError

if TYPE_CHECKING:
    import pint

# Only what column files use: pint's own registry takes 0.7 s to build, this one 3 ms.
_DEFINITIONS = """
femto- = 1e-15 = f-
pico- = 1e-12 = p-
nano- = 1e-9 = n-
micro- = 1e-6 = u-
milli- = 1e-3 = m-
centi- = 1e-2 = c-
hecto- = 1e2 = h-
kilo- = 1e3 = k-
mega- = 1e6 = M-
giga- = 1e9 = G-
tera- = 1e12 = T-
peta- = 1e15 = P-
exa- = 1e18 = E-
meter = [length] = m = metre
gram = [mass] = g
second = [time] = s = sec
kelvin = [temperature] = K
candela = [luminosity] = cd
mole = [substance] = mol
molecule = mole / 6.02214076e23 = molec = mlc = mcl = molecs = molcs = molecule_NO2
dobson = 2.686780111e20 * molecule / meter ** 2 = DU = Dobson = dobson_unit = dobsons
radian = [] = rad
degree = 0.017453292519943295 * radian = deg
percent = 0.01 = %
ppm = 1e-6 = ppmv
ppb = 1e-9 = ppbv
ppt = 1e-12 = pptv
day = 86400 * second = d
hour = 3600 * second = h = hr
minute = 60 * second = min
pascal = kilogram / meter / second ** 2 = Pa
watt = kilogram * meter ** 2 / second ** 3 = W
joule = kilogram * meter ** 2 / second ** 2 = J
hertz = 1 / second = Hz
"""

#: mol m-2 that real NO2 columns lie within: from a tenth of TROPOMI's noise floor, averaged down, to twenty
#: times the largest columns ever seen (1e-2); outside, numbers and unit contradict each other.
PLAUSIBLE_NO2 = (1e-8, 0.2)

# What an amount of a gas may be measured in: column, concentration, mixing ratio, by number or by mass.
_OF_A_GAS = (
    "dimensionless",
    *(f"[{what}] / [length] ** {n}" for what in ("substance", "mass") for n in (2, 3)),
    "1 / [length] ** 3",
)

# A usual tropospheric column, 2e15 molec cm-2 (mol m-2): what numbers "look like" is the unit that brings them nearest.
_TYPICAL_NO2 = 3.3e-5
_COMMON = ("mol m-2", "umol m-2", "molec cm-2", "1e15 molec cm-2")

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")


@dataclass(frozen=True)
class Unit:
    """A parsed unit.

    Attributes
    ----------
    text : as it was written.
    si : one of this unit in base units (m, g, s, mol, K, 1).
    dimension : e.g. "[substance] / [length] ** 2"; columns have this one.
    """

    text: str
    si: float
    dimension: str

    @property
    def is_column(self) -> bool:
        """Is it an amount per area?"""
        return self.dimension == "[substance] / [length] ** 2"


# The commonest, ready: importing pint takes 0.1 s.
_READY = {
    text: Unit(text, si, "[substance] / [length] ** 2")
    for text, si in zip(_COMMON, (1.0, 1e-6, 1e4 / 6.02214076e23, 1e19 / 6.02214076e23), strict=True)
}


@lru_cache(maxsize=1)
def _registry() -> pint.UnitRegistry:
    import pint

    registry: pint.UnitRegistry = pint.UnitRegistry(None, cache_folder=None, on_redefinition="ignore")
    for line in _DEFINITIONS.strip().splitlines():
        registry.define(line)
    return registry


def _expression(text: str) -> str:
    """``text`` in pint's grammar: ``10^15molec/cm2`` -> ``1e15*molec/cm**2``."""
    s = text.strip()
    if (s[:1], s[-1:]) in (("(", ")"), ("[", "]")):
        s = s[1:-1]
    s = s.replace("#", "1").replace("µ", "u").replace("μ", "u").replace("−", "-").replace("×", "x")
    s = re.sub(r"([A-Za-z)])([⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)", lambda m: f"{m[1]}^{m[2].translate(_SUPERSCRIPTS)}", s)
    s = re.sub(r"10([⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)", lambda m: f"10^{m[1].translate(_SUPERSCRIPTS)}", s)
    s = re.sub(r"[·⋅]", " ", s)
    s = re.sub(r"(?<=[a-z])\.(?=[\s/])", "", s)  # molec. cm-2
    s = re.sub(r"_?\b(?:dobson|DU)[\s_]+units?\b", "DU", s, flags=re.I)
    s = re.sub(r"[\s_]per[\s_]?", "/", s)
    number = re.match(
        r"(?:(?:1(?:\.0*)?\s*)?[x*]\s*)?10\s*(?:\^|\*\*|(?=[-+]\d))\s*\(?([-+]?\d+)\)?", s
    )  # 10^15, 10**15, 1x10^15, 10+15
    scale = ""
    if number:
        scale, s = f"1e{int(number[1])}", s[number.end() :]
    else:
        number = re.match(r"\d*\.?\d+\.?(?:e[-+]?\d+)?(?![\d.])", s, flags=re.I)
        if number:
            scale, s = repr(float(number[0])), s[number.end() :]
    s = s.strip(" *x.") if scale else s.strip()
    s = re.sub(r"([A-Za-z_%]+)\s*(?:\^|\*\*)?\s*\(?([-+]?\d+)\)?", r"\1**\2", s)  # cm-2, cm^-2, cm**-2, cm2
    s = re.sub(r"\s*/\s*", "/", s)
    s = re.sub(r"(?<=[A-Za-z\d)%])[\s.]+(?=[A-Za-z(%])", "*", s)
    if not s:
        return scale
    return f"{scale}{'' if s.startswith('/') else '*'}{s}" if scale else s


@lru_cache(maxsize=256)
def parse(text: str) -> Unit:
    """The unit that ``text`` spells.

    Raises
    ------
    InputError
        If it is no unit that geosr knows.

    >>> parse("10^15molec/cm2").si == parse("Pmolec cm-2").si
    True
    """
    return _READY.get(text) or _parsed(text)


def _parsed(text: str) -> Unit:
    """:func:`parse` by pint."""
    import tokenize

    unknown = InputError(
        f"units {text!r} are not known",
        "say what they are, e.g. --input-units 'mol m-2' (or 'molec cm-2', '1e15 molec cm-2', 'umol m-2', 'DU')",
    )
    if text.strip().lower() in ("none", "unitless", "dimensionless", "-", "1"):
        return Unit(text, 1.0, "dimensionless")
    expression = _expression(text) if len(text) <= 80 else ""
    if not re.fullmatch(r"[\w%*/().+\- ]+", expression) or re.search(r"\d\*\*|\*\*[-+]?\d{3}", expression):
        raise unknown  # no unit, and no arithmetic that takes for ever (9**9**9)
    for candidate in (expression, re.sub(r"[A-Za-z_]{4,}", lambda m: m[0].lower(), expression)):
        try:
            quantity: pint.Quantity = _registry().Quantity(1) * _registry().parse_expression(candidate)
            base = quantity.to_base_units()
            break
        except (Exception, tokenize.TokenError):  # pint raises a dozen kinds on text that is no unit
            continue
    else:
        raise unknown
    si, dimension = float(base.magnitude), str(base.dimensionality)
    if not np.isfinite(si) or si <= 0:
        raise unknown
    if dimension == "1 / [length] ** 2":
        si, dimension = si / 6.02214076e23, "[substance] / [length] ** 2"
    return Unit(text, si, dimension)


def factor(frm: str, to: str) -> float:
    """What numbers in ``frm`` are multiplied by to be in ``to``.

    Raises
    ------
    InputError
        If either is unknown or they measure different things.
    """
    a, b = parse(frm), parse(to)
    if a.dimension != b.dimension:
        raise InputError(
            f"{frm!r} cannot be converted to {to!r}",
            "they measure different things; if the file is wrong about its own, say --input-units",
        )
    return a.si / b.si


def convert(data: xr.DataArray, to: str, quiet: bool = False) -> xr.DataArray:
    """``data`` in units ``to``; lazy on lazy data, dtype and other attributes kept.

    Data without units are taken to be in ``to`` already, with a :class:`GeosrWarning` unless ``quiet``.
    """
    parse(to)
    frm = data.attrs.get("units")
    out = data
    if frm is not None:
        ratio = factor(str(frm), to)
        out = data if ratio == 1 else data * data.dtype.type(ratio)
    elif not quiet:
        warnings.warn(
            f"{data.name or 'data'}: the file gives no units: its numbers are taken as {to}", GeosrWarning, stacklevel=2
        )
    return out.assign_attrs({**data.attrs, "units": to})


def plausibility(values: np.ndarray, units: str | None) -> str | None:
    """What to warn of when NO2 ``values`` contradict their ``units``; None if they may be right.

    Parameters
    ----------
    values : any shape; NaN ignored. A sample will do.
    """
    if units is None:
        return None
    unit = parse(units)
    if unit.dimension not in _OF_A_GAS or re.search(r"%|percent", units):
        return f"units {units!r} are none of an amount of NO2; say what they are, e.g. --input-units 'mol m-2'"
    sizes = np.abs(np.asarray(values, dtype=np.float64))
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    if not unit.is_column or sizes.size == 0:
        return None
    typical = float(np.median(sizes))
    column = typical * unit.si
    if PLAUSIBLE_NO2[0] <= column <= PLAUSIBLE_NO2[1]:
        return None
    guess = min(_COMMON, key=lambda u: abs(np.log10(typical * parse(u).si / _TYPICAL_NO2)))
    in_molec = column / parse("molec cm-2").si
    if parse(guess).si == unit.si:
        return f"values near {typical:.2g} {units} are no NO2 columns in any usual unit; is it the right variable?"
    return (
        f"values near {typical:.2g} contradict their units {units!r} (NO2 columns of {in_molec:.1g} molec cm-2 do not "
        f"exist); they look like {guess}: if so, say --input-units {guess!r}"
    )
