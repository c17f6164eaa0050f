"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Machines differ in speed, so no example is timed; in CI a failure must be one that anybody can repeat.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# In the background of a shell the tests ignore Ctrl-C, and the commands that they start would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the real files that may not be redistributed; tests that need them skip without it."""
    folder = Path(os.environ.get("GEOSR_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "README.md").is_file():
        pytest.skip(f"no real data at {folder} (set GEOSR_DATA)")
    return folder


@pytest.fixture(scope="session")
def sample_dir() -> Path:
    return ROOT / "sample_data"
