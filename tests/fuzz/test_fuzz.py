"""A short fuzzing of every reader, and a longer one (``-m nightly``); ``tests/fuzz/run.py`` takes any number."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import pytest

from fuzz.documents import keras_seeds
from fuzz.edits import ADDRESS, SECRET, damage
from fuzz.fields import hdf5_resum, hdf5_sums, lookup3
from fuzz.run import READERS, Fuzzer
from fuzz.watch import Bench

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is watched, and files, as Linux lets one")

#: Inputs of the short run; what starts a process for each input, or writes an output, has fewer.
SHORT = {"tiff": 120, "netcdf3": 100, "hdf5": 80, "swath": 60, "bundle": 120, "keras": 4, "journal": 10,
         "manifest": 150, "recipe": 150}  # fmt: skip
LONG = {name: 2000 if short > 50 else 200 for name, short in SHORT.items()}


@pytest.fixture(scope="module")
def bench():
    with Bench() as bench:
        yield bench


def check(bench, reader, seed, inputs, tmp_path, untrusted=False):
    fuzzer = Fuzzer(bench, reader, seed, untrusted, out=tmp_path)
    if not fuzzer.corpus:
        pytest.skip("h5py, which makes the seeds, is not installed")
    tally = fuzzer.run(inputs)
    assert not tally.failures, tally.line()
    assert tally.inputs == inputs
    # Honest seeds are among them, and what is refused is refused for more than one reason.
    assert tally.outcomes["accepted"] > 0
    return tally


@pytest.mark.parametrize("reader", READERS)
def test_only_geosrs_own_errors(bench, reader, tmp_path):
    check(bench, reader, 11, SHORT[reader], tmp_path)


@pytest.mark.parametrize("reader", [name for name, one in READERS.items() if one.raster])
def test_only_geosrs_own_errors_of_untrusted_files(bench, reader, tmp_path):
    check(bench, reader, 12, 6, tmp_path, untrusted=True)


@pytest.mark.nightly
@pytest.mark.parametrize("reader", READERS)
def test_only_geosrs_own_errors_in_a_long_run(bench, reader, tmp_path):
    check(bench, reader, 1, LONG[reader], tmp_path)


# --- the fuzzer itself -----------------------------------------------------------------------------------------


def test_inputs_are_the_same_for_a_seed(bench):
    """Also HDF5's and zip's, whose writers put the time into them: the second ones are made in another second."""

    def fuzzers():
        keras_seeds.cache_clear()
        return {reader: Fuzzer(bench, reader, 3) for reader in READERS}

    ones, then = fuzzers(), int(time.time())
    while int(time.time()) < then + 2:  # a zip's seconds are even
        time.sleep(0.05)
    for reader, other in fuzzers().items():
        numbers = range(other.first + 20)
        # Not the inputs themselves, which pytest would print.
        assert [hash(str(ones[reader].input(i))) == hash(str(other.input(i))) for i in numbers] == [True] * len(numbers)


def test_checksums_are_those_of_hdf5():
    """A file of the newest version of the format, whose parts have one each; and two values of lookup3.c itself."""
    assert lookup3(b"") == 0xDEADBEEF
    assert lookup3(b"Four score and seven years ago") == 0x17770551
    seed = READERS["hdf5"].seeds()[0]
    sums = hdf5_sums(seed)
    assert len(sums) > 5
    spoiled = bytearray(seed)
    for _, end in sums:
        spoiled[end] ^= 1
    assert hdf5_resum(bytes(spoiled), sums) == seed


def test_damage_changes_most_inputs():
    seeds = READERS["tiff"].seeds()
    rng = random.Random(0)
    changed = [damage(rng, seed, READERS["tiff"].fields, seeds) != seed for seed in seeds * 5]
    assert sum(changed) > 0.9 * len(changed)


@pytest.fixture(scope="module")
def puppet(tmp_path_factory):
    """A bench whose child does what its inputs say, in Python."""
    with Bench(seconds=1, most_mb=400) as bench:
        bench.child.program = tmp_path_factory.mktemp("puppet") / "child.py"
        bench.child.program.write_text(
            f"import sys; sys.path.insert(0, {str(Path(__file__).resolve().parents[1])!r})\n"
            "import fuzz.child, fuzz.tasks\n"
            "fuzz.tasks.TASKS['recipe'] = lambda path, options: exec(path.read_text(), {})\n"
            "fuzz.child.main()\n"
        )
        yield bench


@pytest.mark.parametrize(
    ("orders", "failure"),
    [
        ("raise KeyError('x')", "KeyError"),
        ("raise MemoryError", "MemoryError"),
        ("a = bytearray(1 << 29)", "memory"),
        ("open({secret!r}).close()", "secret file"),
        ("import socket; socket.create_connection(('127.0.0.1', {port}))", "local port"),
        ("from geosr.errors import InputError; raise InputError(open({secret!r}).read())", "secret"),
        ("import os; os.kill(os.getpid(), 11)", "crash"),
        ("import time; time.sleep(60)", "hang"),
    ],
)
def test_failures_are_seen(puppet, orders, failure):
    """What the watch is there for; and that it goes on after it."""
    orders = orders.format(secret=str(puppet.canary.path), port=puppet.canary.port)
    found = puppet.run("recipe", orders.encode(), ".toml", {}, untrusted=True)
    assert failure in found["failure"]
    assert "failure" not in puppet.run("recipe", b"pass", ".toml", {}, untrusted=True)


def test_what_is_planted_is_as_long_as_its_placeholder(bench):
    data = b"<" + SECRET + b">" + ADDRESS
    planted = bench.canary.planted(data)
    assert len(planted) == len(data)
    assert str(bench.canary.port).encode() in planted
    path = planted[1 : planted.index(b">")].decode()
    with open(path) as file:
        assert file.read(4) == "the-"
    assert bench.canary.touched() == "the secret file"
    assert bench.canary.touched() == ""
