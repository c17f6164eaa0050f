"""Which variable is meant."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from geosr.errors import InputError
from geosr.variables import Candidate, ancillary_of, choose, main_variable, precision_of

S5P = "nitrogendioxide_tropospheric_column"


def bands(*names, **attrs):
    return [Candidate(n, attrs) for n in names]


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ([S5P, f"{S5P}_precision", f"{S5P}_precision_kernel", "air_mass_factor_troposphere", "qa_value"], S5P),
        (
            [
                "tropospheric_NO2_column_number_density",
                "NO2_column_number_density",
                "stratospheric_NO2_column_number_density",
                "NO2_slant_column_number_density",
                "cloud_fraction",
            ],
            "tropospheric_NO2_column_number_density",
        ),
        (
            ["ColumnAmountNO2", "ColumnAmountNO2Trop", "ColumnAmountNO2Std", "ColumnAmountNO2TropStd", "Weight"],
            "ColumnAmountNO2Trop",
        ),
        (
            [
                "tropospheric_no2_vertical_column",
                "tropospheric_no2_vertical_column_uncertainty",
                "fit_root_mean_square",
            ],
            "tropospheric_no2_vertical_column",
        ),  # TEMPO
        (["TroposphericNO2", "TroposphericNO2_err", "counts"], "TroposphericNO2"),  # TEMIS
        (["no2_trop_vcd", "elevation"], "no2_trop_vcd"),
        (["PRODUCT/" + S5P, "PRODUCT/SUPPORT_DATA/nitrogendioxide_total_column"], "PRODUCT/" + S5P),
        (["no2", "no2_count", "cloud_fraction", "temperature"], "no2"),
        (["NO2_column_number_density", "cloud_fraction"], "NO2_column_number_density"),
        (["methane", "methane_precision"], "methane"),
        (["elevation"], "elevation"),
        (["qa_value"], "qa_value"),
    ],
)
def test_obvious(names, chosen):
    assert choose(bands(*names)).name == chosen
    assert choose(bands(*reversed(names))).name == chosen


def test_by_standard_name_and_description():
    a = Candidate("var1", {"standard_name": "troposphere_mole_content_of_nitrogen_dioxide"})
    b = Candidate("var2", {"standard_name": "troposphere_mole_content_of_nitrogen_dioxide standard_error"})
    c = Candidate("var3", {"standard_name": "atmosphere_mole_content_of_nitrogen_dioxide"})
    assert choose([c, b, a]) is a
    assert choose([b, c]) is c
    d = Candidate("vcd", {"long_name": "Tropospheric NO2 column"})
    assert choose([c, d]) is d
    assert choose([Candidate("no2_total", {"long_name": "NO2 in troposphere and stratosphere"}), d]) is d


def test_ambiguous_lists_candidates_with_units():
    two = [Candidate("no2_a", {"units": "mol m-2"}), Candidate("no2_b"), Candidate("cloud")]
    with pytest.raises(InputError, match=r"no2_a \(mol m-2\), no2_b; .*--variable no2_a"):
        choose(two)
    with pytest.raises(InputError, match="and 18 more"):
        choose(bands(*(f"field{i}" for i in range(30))))
    with pytest.raises(InputError, match="no gridded"):
        choose([])


def test_companions_in_groups_are_not_candidates():
    main = Candidate("PRODUCT/no2", {"ancillary_variables": "no2_extra"})
    assert choose([Candidate("PRODUCT/no2_extra"), main]) is main


def test_named():
    found = bands("A/no2", "B/no2", "cloud")
    assert choose(found, "cloud").name == "cloud"
    assert choose(found, "CLOUD").name == "cloud"
    assert choose(found, "/B/no2").name == "B/no2"
    with pytest.raises(InputError, match="A/no2, B/no2"):
        choose(found, "no2")
    with pytest.raises(InputError, match="no variable 'so2'.*A/no2"):
        choose(found, "so2")


def dataset(**attrs):
    grid = {"y": np.arange(4.0), "x": np.arange(5.0)}
    field = (("y", "x"), np.zeros((4, 5), np.float32))
    return xr.Dataset(
        {
            "column": (*field, {"long_name": "NO2", "ancillary_variables": "spread n missing"}),
            "spread": (*field, {"long_name": "NO2"}),
            "n": (("y", "x"), np.zeros((4, 5), np.int32)),
            "profile": (("y",), np.zeros(4)),
            "label": (("y", "x"), np.full((4, 5), "a")),
            "x_bnds": (("x", "nv"), np.zeros((5, 2))),
            "error": ((), 0.0),
        },
        {k: (k, v, {"bounds": f"{k}_bnds"}) for k, v in grid.items()},
    )


def test_datasets_in_memory():
    ds = dataset()
    main = main_variable(ds)
    assert main.name == "column"
    assert main_variable(ds, "n").name == "n"
    assert [a.name for a in ancillary_of(ds, main)] == ["spread", "n"]
    assert ancillary_of(ds, ds["n"]) == []
    with pytest.raises(InputError, match="no variable 'label'"):
        main_variable(ds, "label")
    assert ds.geosr.no2.name == "column"


def test_ancillary_in_the_encoding_counts_too():
    """Where xarray puts it when it decodes a file."""
    ds = dataset()
    ds["column"].encoding["ancillary_variables"] = ds["column"].attrs.pop("ancillary_variables")
    assert main_variable(ds).name == "column"
    assert [a.name for a in ancillary_of(ds, ds["column"])] == ["spread", "n"]


def test_the_precision_among_the_companions():
    def some(*names, dtype=np.float32, **attrs):
        return [xr.DataArray(np.zeros((2, 2), dtype), dims=("y", "x"), name=n, attrs=attrs) for n in names]

    (main,) = some("no2")
    marked = some("sigma", standard_name="troposphere_mole_content_of_nitrogen_dioxide standard_error")
    named = some("no2_count", "other_precision", "no2_precision")
    assert precision_of(main, marked + named).name == "no2_precision"
    assert precision_of(main, named + some("no2_uncertainty")).name == "no2_uncertainty"
    assert precision_of(main, named[:2] + marked).name == "sigma"
    assert precision_of(main, named[:2]) is None
    assert precision_of(main, some("no2_precision", dtype=np.int16)) is None
    assert precision_of(main, []) is None
