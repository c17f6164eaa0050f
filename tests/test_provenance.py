import hashlib
import json
import os
import pickle
from dataclasses import FrozenInstanceError

import pytest

from geosr.errors import InputError
from geosr.provenance import Provenance, sha256_of


def test_sha256_is_the_one_of_hashlib_over_several_pieces(tmp_path):
    data = bytes(range(256)) * 10_000  # 2.5 MB
    (tmp_path / "a").write_bytes(data)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(data).hexdigest()


def test_sha256_of_a_folder_sees_names_and_contents_but_not_the_order_of_the_system(tmp_path, monkeypatch):
    walk = os.walk

    def backwards(path):
        for folder, subfolders, names in walk(path):
            subfolders.reverse()
            names.reverse()
            yield folder, subfolders, names

    def make(name, *files):
        folder = tmp_path / name
        for path, text in files:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        return sha256_of(folder)

    one = make("one", ("a/0", "x"), ("b/0", "y"))
    assert make("same", ("b/0", "y"), ("a/0", "x")) == one
    with monkeypatch.context() as patch:
        patch.setattr(os, "walk", backwards)
        assert sha256_of(tmp_path / "one") == one
    assert make("renamed", ("a/1", "x"), ("b/0", "y")) != one
    assert make("changed", ("a/0", "x"), ("b/0", "z")) != one


def test_sha256_of_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        sha256_of(tmp_path / "none")


def test_tags_attrs_and_history_tell_the_same(provenance):
    done = provenance.finish(1.23456789e-9)
    tags = done.tags()
    assert tags["GEOSR_CONSERVATION_ERROR"] == "1.23457e-09"
    assert tags["GEOSR_MODEL"] == "srcnn-x4"
    assert tags["GEOSR_MODEL_SHA256"] == "cd" * 32
    assert tags["GEOSR_INPUT"] == "orbit.nc"
    assert tags["GEOSR_INPUT_SHA256"] == "ab" * 32
    assert tags["GEOSR_SCALE"] == "4"
    assert json.loads(tags["GEOSR_OPTIONS"]) == {"qa": 0.75}
    assert {k.removeprefix("GEOSR_").lower(): v for k, v in tags.items()} == {
        k.removeprefix("geosr_"): v for k, v in done.attrs().items()
    }
    assert done.history_line() == f"{done.created}: geosr {done.geosr_version}: geosr downscale orbit.nc"


def test_what_is_not_known_is_not_written():
    tags = Provenance(method="bicubic", scale=2).tags()
    assert not {"GEOSR_MODEL", "GEOSR_INPUT", "GEOSR_CONSERVATION_ERROR", "GEOSR_OPTIONS"} & set(tags)


def test_conserving_or_not_is_said():
    assert Provenance(conserve=True).tags()["GEOSR_CONSERVE"] == "yes"
    assert Provenance(conserve=False).tags()["GEOSR_CONSERVE"] == "no"


def test_zero_conservation_error_is_written():
    assert Provenance(conservation_error=0.0).tags()["GEOSR_CONSERVATION_ERROR"] == "0"


def test_control_characters_of_a_file_name_are_escaped():
    line = Provenance(inputs=(("a\x1b[31m\nb.nc", None),), method="bicubic").history_line()
    assert "\x1b" not in line
    assert "\n" not in line
    assert "\\x1b" in line


def test_it_is_frozen_even_against_the_callers_dict():
    options = {"qa": 0.75}
    one = Provenance(options=options)
    options["qa"] = 0.5
    assert one.options["qa"] == 0.75
    with pytest.raises(TypeError):
        one.options["qa"] = 1
    with pytest.raises(FrozenInstanceError):
        one.scale = 3


def test_it_travels_to_workers(provenance):
    assert pickle.loads(pickle.dumps(provenance)) == provenance


def test_created_follows_source_date_epoch(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    assert Provenance().created == "1970-01-01T00:00:00Z"


@pytest.fixture
def provenance():
    return Provenance(
        inputs=(("orbit.nc", "ab" * 32),),
        model="srcnn-x4",
        model_sha256="cd" * 32,
        method="srcnn",
        scale=4,
        options={"qa": 0.75},
        command="geosr downscale orbit.nc",
    )
