"""The process that takes inputs, one after the other: ``python child.py``.

stdin brings a line of JSON each: reader, path, options, untrusted. stdout takes the answers: what came of it, new lines
of geosr that ran, and the most memory that it took. What the libraries print goes to stderr.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

#: Of these parts of geosr new lines count.
_FOLLOWED = (
    "reading",
    "models",
    "writing",
    "training",
    "units.py",
    "grid.py",
    "swath.py",
    "variables.py",
    "footprint.py",
)


class Lines:
    """The lines of geosr that ran for the first time in this process (Python 3.12 and later; none before)."""

    def __init__(self) -> None:
        self.new: list[str] = []
        self.watch = watch = getattr(sys, "monitoring", None)
        if watch is None:
            return
        import geosr

        root = os.path.dirname(geosr.__file__) + os.sep
        followed = tuple(root + part for part in _FOLLOWED)

        def seen(code: Any, line: int) -> Any:
            if code.co_filename.startswith(followed):
                self.new.append(f"{code.co_filename[len(root) :]}:{line}")
            return watch.DISABLE

        watch.use_tool_id(watch.COVERAGE_ID, "geosr-fuzz")
        watch.register_callback(watch.COVERAGE_ID, watch.events.LINE, seen)
        watch.set_events(watch.COVERAGE_ID, watch.events.LINE)

    def again(self) -> None:
        """All lines are new again."""
        self.new = []
        if self.watch is not None:
            self.watch.restart_events()

    def take(self) -> list[str]:
        """Those since the last call."""
        found, self.new = self.new, []
        return found


def peak_mb() -> float:
    """Most memory since :func:`forget_peak`, in MB."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1000
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def forget_peak() -> None:
    """Linux: begin to count anew."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked: {"outcome": "accepted" or the error's class, "failure": what must not be, …}."""
    from fuzz.tasks import TASKS, Lie
    from geosr.errors import GeosrError
    from geosr.reading.limits import reading_as

    limits = {"time": request["seconds"]} if request["untrusted"] else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with reading_as(limits, untrusted=request["untrusted"]):
                TASKS[request["reader"]](Path(request["path"]), request["options"])
            answer: dict[str, Any] = {"outcome": "accepted"}
        except GeosrError as error:
            answer = {"outcome": type(error).__name__, "told": str(error)}
            if type(error) is GeosrError or error.exit_code == 1:
                answer["failure"] = "GeosrError of no kind"
        except Lie as error:
            answer = {"outcome": "Lie", "told": str(error), "failure": f"Lie: {error}"}
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            answer = {"outcome": type(error).__name__, "told": str(error)[:300]}
            answer |= {"failure": _where(error), "traceback": traceback.format_exc()[-3000:]}
    answer["warned"] = sorted({f"{w.category.__name__}: {w.message}"[:300] for w in caught})
    return answer


def _where(error: BaseException) -> str:
    """The class of an error and the last line of geosr that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f"{os.sep}geosr{os.sep}" in f.filename]
    last = own[-1] if own else frames[-1]
    return f"{type(error).__name__} at {os.path.basename(last.filename)}:{last.lineno} {last.name}"


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    os.environ["HDF5_PLUGIN_PRELOAD"] = "::"
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    most = int(sys.argv[1]) << 20
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import geosr.reading.info
    import geosr.swath  # noqa: F401

    lines = Lines()
    print(json.dumps({"ready": os.getpid()}), file=answers, flush=True)
    for text in sys.stdin:
        forget_peak()
        before = peak_mb()
        request = json.loads(text)
        if request["fresh"]:
            lines.again()
        answer = run(request)
        answer |= {"peak": round(peak_mb(), 1), "before": round(before, 1), "lines": lines.take()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
