"""geosr.channel: constants in the model's units serve fields in any."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geosr.channel import AffineScaler
from geosr.errors import ModelError


@given(st.floats(-5, 5), st.floats(0.1, 10))
def test_there_and_back(offset, scale):
    field = np.linspace(-3, 40, 50)
    scaler = AffineScaler(offset, scale, "mol m-2")
    np.testing.assert_allclose(scaler.denormalise(scaler.normalise(field)), field, atol=1e-9)


def test_the_channel_does_not_depend_on_the_units():
    scaler = AffineScaler(2.0, 5.0, "1e15 molec cm-2")
    field = np.array([0.0, 2.0, 7.0, 30.0])
    in_mol = field * 1e19 / 6.02214076e23  # 1e15 molec cm-2 is 1e19 molec m-2
    np.testing.assert_allclose(scaler.in_units("mol m-2").normalise(in_mol), scaler.normalise(field), rtol=1e-9)
    assert scaler.normalise(field)[1:3] == pytest.approx([0.0, 1.0])


@pytest.mark.parametrize("units", [None, "K"])
def test_fields_of_another_kind_are_taken_as_numbers(units):
    scaler = AffineScaler(2.0, 5.0, "mol m-2")
    assert scaler.in_units(units) == scaler


@pytest.mark.parametrize("constants", [(0.0, 0.0), (np.nan, 1.0), (0.0, np.inf)])
def test_unusable_constants(constants):
    with pytest.raises(ModelError):
        AffineScaler(*constants)
