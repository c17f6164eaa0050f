"""Running the command in this process, as the ``geosr`` script would."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from strategies import smooth_field, write_tif


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("geosr: error:")]


@pytest.fixture
def run(capfd, monkeypatch):
    """``run("downscale", path, …)`` gives exit code, stdout and stderr."""
    from geosr_cli.main import main

    def call(*args: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["geosr", *map(str, args)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        code = stop.value.code
        return Outcome(int(code or 0), out, err)

    return call


@pytest.fixture
def tif(tmp_path) -> Path:
    """A field with gaps and negative columns, 41 x 53 cells."""
    data = smooth_field((41, 53), seed=2) * np.float32(1e-4)
    data[10:12, 20] = np.nan
    return write_tif(tmp_path / "no2.tif", data)
