"""What ``geosr info`` says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from geosr.errors import InputError, UsageError
from geosr.reading.info import describe
from reading.make import LAT, LON, NAME, column_file, columns, geotiff, netcdf


def as_json(info):
    return json.loads(json.dumps(info.to_dict(), allow_nan=False))


def test_a_grid(tmp_path):
    data = columns()
    data[0, :4] = np.nan
    info = describe(column_file(tmp_path / "a.nc", data), scale=2)
    said = as_json(info)
    assert (said["variable"], said["units"], said["kind"]) == (NAME, "mol m-2", "grid")
    assert said["grid"]["shape"] == [6, 8]
    assert said["grid"]["bounds"] == [5, 47, 9, 50]
    assert said["grid"]["crs"] == "EPSG:4326"
    assert said["grid"]["cell_km"] == pytest.approx(45.6, abs=0.5)
    values = said["values"]
    assert values["valid"] == pytest.approx(44 / 48)
    assert (values["min"], values["max"]) == (float(np.nanmin(data)), float(np.nanmax(data)))
    assert values["p50"] == pytest.approx(float(np.nanpercentile(data, 50)), rel=1e-6)
    assert (said["plan"]["output"], said["plan"]["shape"]) == ("a_x2.tif", [12, 16])
    assert said["plan"]["cell_size"] == [0.25, 0.25]
    text = info.to_text()
    for words in (NAME, "6 x 8 cells of 0.5", "EPSG:4326", "91.7%", "a_x2.tif", "12 x 16"):
        assert words in text


def test_questions_are_answers(tmp_path):
    two = {f"no2_{k}": (("latitude", "longitude"), columns(), {"units": "mol m-2"}) for k in "ab"}
    info = describe(netcdf(tmp_path / "a.nc", two, lat=LAT, lon=LON))
    assert "--variable" in info.needs
    assert info.candidates == ["no2_a (mol m-2)", "no2_b (mol m-2)"]
    assert "no2_a" in info.to_text()
    as_json(info)
    assert describe(tmp_path / "a.nc", variable="no2_b").variable == "no2_b"
    assert "--crs" in describe(geotiff(tmp_path / "b.tif", columns(), crs=None)).needs
    assert "--input-units" in describe(column_file(tmp_path / "c.nc", units="furlongs")).needs


def test_warnings_and_nothing_valid(tmp_path):
    info = describe(column_file(tmp_path / "a.nc", np.full((6, 8), np.nan, np.float32)))
    assert any("no valid value" in w for w in info.warnings)
    assert as_json(info)["values"]["min"] is None
    assert "warning:" in info.to_text()


def test_times_and_bands(tmp_path):
    data = np.stack([columns(seed=i) for i in range(3)])
    time = (("time",), [0.0, 1.0, 1.5], {"units": "days since 2019-01-01"})
    path = netcdf(
        tmp_path / "a.nc", {"time": time, NAME: (("time", "latitude", "longitude"), data, {})}, lat=LAT, lon=LON
    )
    assert describe(path).times == ["2019-01-01", "2019-01-02", "2019-01-02T12:00"]
    path = geotiff(tmp_path / "a.tif", data, descriptions=["2019-01", "2019-02", "2019-03"])
    assert describe(path).bands == ["2019-01", "2019-02", "2019-03"]


def test_scale_without_a_model_and_impossible_scale(tmp_path):
    path = column_file(tmp_path / "a.nc")
    assert describe(path, scale=7).plan["method"] == "bicubic"
    with pytest.raises(UsageError):
        describe(path, scale=0)


def test_unreadable(tmp_path):
    (tmp_path / "a.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(InputError, match="truncated or corrupt"):
        describe(tmp_path / "a.nc")
    with pytest.raises(InputError, match="no such file"):
        describe(tmp_path / "b.nc")
