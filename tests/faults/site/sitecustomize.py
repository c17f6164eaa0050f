"""What goes wrong inside a process of geosr, by the environment variable ``GEOSR_FAULT``; on the Python path of the
runs that the scripts start, and found by Python itself, so that workers of a cluster have it too.

``GEOSR_FAULT`` is one or more of, separated by commas:

keep
    An interrupted run keeps its tiles however short it was.
slow=SECONDS
    Each tile takes so much longer.
refuse
    Exit with 99 as soon as a tile is computed: there should have been no computing.
poison=ROW:COLUMN
    The tile with that cell kills the process that computes it.
hog=ROW:COLUMN
    The tile with that cell takes memory until it is stopped, in a worker.
stop=COUNT
    The process kills itself when its journal has so many tiles.
clock
    The wall clock jumps back and forth.
"""

from __future__ import annotations

import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import PathFinder

_GIVEN = os.environ.get("GEOSR_FAULT", "")
FAULTS = {name: value for name, _, value in (part.partition("=") for part in _GIVEN.split(",")) if name}


def _stream(module):
    if not {"slow", "refuse", "poison", "hog"} & set(FAULTS):
        return
    real = module._Terminal.windows

    def windows(self, number, block, place):
        import signal
        import time

        if "refuse" in FAULTS:
            os._exit(99)
        if "poison" in FAULTS and _has(place, FAULTS["poison"]):
            os.kill(os.getpid(), signal.SIGKILL)
        if "hog" in FAULTS and _has(place, FAULTS["hog"]):
            held = []
            while True:
                held.append(bytearray(os.urandom(1 << 20) * 16))
                time.sleep(0.02)
        time.sleep(float(FAULTS.get("slow", 0)))
        return real(self, number, block, place)

    module._Terminal.windows = windows


def _has(place, cell):
    y, x = map(int, cell.split(":"))
    return place.top <= y < place.bottom and place.left <= x < place.right


def _journal(module):
    if "stop" not in FAULTS:
        return
    real = module.Journal.note

    def note(self, landed):
        import signal

        real(self, landed)
        if module.count(self.path.parent) >= int(FAULTS["stop"]):
            os.kill(os.getpid(), signal.SIGKILL)

    module.Journal.note = note


def _atomic(module):
    if "keep" in FAULTS:
        module.KEEP_SECONDS = 0.0


_PATCHES = {
    "geosr.writing.stream": _stream,
    "geosr.writing.journal": _journal,
    "geosr.writing.atomic": _atomic,
}


class _Patching(Loader):
    def __init__(self, loader, patch):
        self.loader, self.patch = loader, patch

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        self.patch(module)


class _Finder(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in _PATCHES:
            return None
        # An editable install may have a finder of its own; a package that is there already knows where its modules lie.
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Patching(spec.loader, _PATCHES[name])
        return spec


def apply() -> None:
    """To modules that are there already, and to those that will come."""
    for name, patch in _PATCHES.items():
        if name in sys.modules:
            patch(sys.modules[name])
    sys.meta_path.insert(0, _Finder())
    if "clock" in FAULTS:
        import random
        import time

        real, jumps = time.time, random.Random(0)
        time.time = lambda: real() + jumps.choice((0, 86400 * 366, -86400 * 4000, 3600, -1))


if FAULTS:
    apply()
