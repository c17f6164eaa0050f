"""Units: spellings, conversions, plausibility."""

from __future__ import annotations

import contextlib

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from geosr import units
from geosr.errors import GeosrWarning, InputError
from geosr.units import convert, factor, parse, plausibility

AVOGADRO = 6.02214076e23

# What one of it is in mol m-2, and how people write it.
SPELLINGS = {
    1.0: [
        "mol m-2",
        "mol/m2",
        "mol/m^2",
        "mol m^-2",
        "mol m**-2",
        "mol*m-2",
        "mol.m-2",
        "mole m-2",
        "moles/m2",
        " mol m-2 ",
        "mol / m^2",
        "[mol m-2]",
        "mol m⁻²",
        "mol per m2",
        "mol_per_m2",
    ],
    1e-6: ["umol m-2", "µmol m-2", "μmol/m²", "micromol m-2", "umol/m^2", "1e-6 mol m-2", "10^-6 mol m-2"],
    1e-9: ["nmol m-2"],
    1e-3: ["mmol m-2", "kmol/km2"],
    1e4 / AVOGADRO: [
        "molec cm-2",
        "molec/cm2",
        "molecules cm-2",
        "molecules/cm^2",
        "molecule/cm2",
        "molec. cm-2",
        "1/cm2",
        "cm-2",
        "cm^-2",
        "#/cm2",
        "Molecules/cm2",
        "molecules cm^(-2)",
        "(molec/cm2)",
        "molecules per cm2",
        "molec cm**-2",
        "molecules_percm2",
    ],
    1e19 / AVOGADRO: [
        "1e15 molec cm-2",
        "10^15molec/cm2",
        "1e15molec/cm2",
        "1e+15 molecules/cm2",
        "Pmolec cm-2",
        "1E15 molec/cm2",
        "10**15 molec cm-2",
        "10¹⁵ molec cm⁻²",
        "x10^15 molec cm-2",
        "1x10^15 molec cm-2",
        "1.0e15 molec/cm^2",
        "10^15 molec./cm^2",
        "1e15 cm-2",
        "1e15 mlc/cm2",
        "10e14 molec/cm2",
    ],
    1 / AVOGADRO: ["molec m-2", "1/m2"],
    2.686780111e20 / AVOGADRO: ["DU", "Dobson", "dobson", "Dobson Units", "dobson unit"],
}


@pytest.mark.parametrize(("value", "text"), [(v, t) for v, texts in SPELLINGS.items() for t in texts])
def test_spellings(value, text):
    unit = parse(text)
    assert unit.is_column
    assert unit.si == pytest.approx(value, rel=1e-14)
    assert unit.text == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-9", 1e-9),
        ("1", 1.0),
        ("ppb", 1e-9),
        ("%", 0.01),
        ("K", 1.0),
        ("m", 1.0),
        ("Pa", 1e3),
        ("hPa", 1e5),
        ("kg m-2", 1e3),
        ("degree", np.pi / 180),
    ],
)
def test_other_quantities(text, value):
    unit = parse(text)
    assert not unit.is_column
    assert unit.si == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "banana",
        "",
        " ",
        "furlongs/m2",
        "mol m-2; ls",
        "__import__('os')",
        "9**9**9**9",
        "m**99999",
        "0",
        "-1 mol m-2",
        "1e999 mol m-2",
        "x" * 1000,
        "days since 2000-01-01",
        "(((",
        "mol m-",
    ],
)
def test_unknown(text):
    with pytest.raises(InputError, match="--input-units"):
        parse(text)


@given(st.text(max_size=30))
def test_no_text_breaks_it(text):
    with contextlib.suppress(InputError):
        assert parse(text).si > 0


@pytest.mark.parametrize("text", units._READY)
def test_the_commonest_are_what_pint_makes_of_them(text):
    assert parse(text) == units._parsed(text)


def test_factor_against_the_definitions():
    assert factor("mol m-2", "molec cm-2") == 6.02214076e19
    assert factor("1e15 molec cm-2", "umol m-2") == pytest.approx(1e21 / 6.02214076e19, rel=1e-15)
    # 0.01 mm of gas at 273.15 K and 101.325 kPa, by the ideal gas law (R exact)
    assert factor("DU", "mol m-2") == pytest.approx(1e-5 * 101325 / (8.31446261815324 * 273.15), rel=1e-9)
    with pytest.raises(InputError, match="different things"):
        factor("K", "mol m-2")


def test_referee():
    """UDUNITS, where it knows the spelling."""
    cf_units = pytest.importorskip("cf_units")
    for text in ("mol m-2", "umol m-2", "kmol/km2", "nmol m-2", "mol/m^2"):
        assert factor(text, "mol m-2") == pytest.approx(cf_units.Unit(text).convert(1.0, "mol m-2"), rel=1e-12)


def test_convert_is_lazy_and_keeps_the_rest():
    data = xr.DataArray(
        da.ones((4, 4), chunks=2, dtype=np.float32), dims=("y", "x"), attrs={"units": "mol m-2", "long_name": "c"}
    )
    out = convert(data, "1e15 molec cm-2")
    assert out.chunks == data.chunks
    assert out.dtype == np.float32
    assert out.attrs == {"units": "1e15 molec cm-2", "long_name": "c"}
    np.testing.assert_allclose(out, 6.02214076e4, rtol=1e-7)
    assert data.attrs["units"] == "mol m-2"
    with pytest.warns(GeosrWarning, match="the file gives no units: its numbers are taken as DU"):
        bare = convert(data.drop_attrs(), "DU")
    assert bare.attrs["units"] == "DU"
    np.testing.assert_array_equal(bare, data)


COMMON = ["mol m-2", "umol m-2", "molec cm-2", "1e15 molec cm-2"]


@pytest.mark.parametrize("real", COMMON)
@pytest.mark.parametrize("said", COMMON)
def test_plausibility_knows_what_numbers_look_like(real, said):
    molec = np.random.default_rng(0).lognormal(np.log(2.5e15), 0.8, 1000)
    text = plausibility(molec * factor("molec cm-2", real), said)
    if real == said or {real, said} == {"umol m-2", "1e15 molec cm-2"}:  # a factor of 17 apart: both may be
        assert text is None
    else:
        assert repr(said) in text
        assert f"--input-units {real!r}" in text


@pytest.mark.parametrize("typical", [3e13, 1e14, 1e15, 1e17])
def test_clean_and_dirty_air_are_plausible(typical):
    assert plausibility(np.full(9, typical), "molec cm-2") is None


def test_nothing_to_judge():
    assert plausibility(np.array([np.nan, 0.0]), "mol m-2") is None
    assert plausibility(np.array([1e15]), None) is None
    assert "none of an amount of NO2" in str(plausibility(np.array([1e15]), "K"))
