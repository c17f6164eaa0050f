"""A short version of each fault (``python -m tests.faults --long`` plays many trials, ``docs/reliability.md``)."""

from __future__ import annotations

import sys

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="plays with /proc, signals and mounts")

from faults.harness import Bench, places  # noqa: E402
from faults.run import all_faults, table  # noqa: E402


@pytest.fixture(scope="module")
def bench():
    with Bench() as found:
        yield found


@pytest.mark.parametrize(
    "fault",
    [pytest.param(f, id=f"{f.number} {f.name}", marks=[] if f.fast else pytest.mark.slow) for f in all_faults()],
)
def test_fault(fault, bench):
    found = fault.run(bench)
    if found.get("skipped"):
        pytest.skip(found["skipped"])
    assert not found["failures"], found["failed"]
    assert found["trials"]


def test_a_failure_is_counted():
    from faults.harness import Fault

    def play(bench, tally):
        for number in range(3):
            with tally.trial(f"trial {number}"):
                assert number != 1, "one"

    found = Fault("0", "none", "", "", play, True).run(None)
    assert (found["trials"], found["failures"]) == (3, 1)
    assert found["failed"][0].startswith("trial 1: AssertionError: one")
    assert "| 0 |" not in table([found])  # of faults that the list does not have, nothing is said


def test_places_passes_over_what_is_damaged(tmp_path):
    import json
    import zlib

    text = json.dumps([[0, 1, 0, 512, 0, 512], [], {}, None]).encode()
    lines = b"%08x %s\n%08x %s\nnonsense\n" % (zlib.crc32(text), text, zlib.crc32(text) ^ 1, text)
    (tmp_path / "journal").write_bytes(lines)
    assert places(tmp_path / "journal") == [(0, 1, 0, 512, 0, 512)]
