"""geosr_cli.signals: an interrupt is raised once where it is on its way, and again where it was lost."""

import signal
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

# Sends SIGINT while `where` runs, and says what came of it.
SCRIPT = """
import os, signal, time, weakref
from geosr_cli import signals

class Thing:
    pass

def interrupted(*gone):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.05)  # it is raised here

def in_a_callback():
    thing = Thing()
    reference = weakref.ref(thing, interrupted)
    del thing

def in_an_import():
    try:
        interrupted()
    except BaseException:  # as some libraries do, for a package that may be missing
        pass

def while_one_tidies_up():
    try:
        interrupted()
    finally:
        time.sleep(0.7)
        print("tidied", end=" ")

def at_the_end():
    try:
        interrupted()
    except KeyboardInterrupt:
        signals.settled()
    time.sleep(0.7)
    print("at rest", end=" ")

def while_a_thread_starts():
    import atexit, threading
    from concurrent.futures import ThreadPoolExecutor

    real = threading.Event.wait
    threading.Event.wait = lambda event, *most: [real(event, *most), interrupted()]
    pool = ThreadPoolExecutor(1)
    atexit.register(pool.shutdown)  # as dask does
    try:
        pool.submit(print, "begun", end=" ", flush=True)
    finally:
        threading.Event.wait = real
    time.sleep(0.7)

def while_an_output_is_put_in_place():
    import tempfile
    from pathlib import Path
    from geosr.writing import atomic

    real = atomic._fsync_tree
    atomic._fsync_tree = lambda path: [interrupted(), real(path)]
    target = Path(tempfile.mkdtemp(), "a.tif")
    try:
        with atomic.Staging(target) as staging:
            staging.path("made").write_text("whole")
            staging.commit({{staging.path("made"): target}})
        time.sleep(0.7)
    finally:
        print(target.read_text(), *[path.name for path in target.parent.iterdir()], end=" ")

signals.listen()
try:
    {where}()
    time.sleep(0.7)
    print("nothing came")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("in_a_callback", "interrupted"),
        ("in_an_import", "interrupted"),
        ("while_one_tidies_up", "tidied interrupted"),
        ("while_a_thread_starts", "begun interrupted"),
        ("while_an_output_is_put_in_place", "whole a.tif interrupted"),
        ("at_the_end", "at rest nothing came"),
    ],
)
def test_an_interrupt(where, said):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(where=where)], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == (said, "")


@pytest.mark.parametrize(
    ("count", "said"), [(0, "nothing was written"), (1, "a.tif was written"), (3, "3 outputs were")]
)
def test_what_was_written_is_said(monkeypatch, count, said):
    from geosr.writing import atomic
    from geosr_cli import main

    monkeypatch.setattr(atomic, "WRITTEN", atomic.Written(count, "a.tif"))
    assert main._interrupted("interrupted", KeyboardInterrupt()).startswith(f"interrupted; {said}")


def test_a_callers_alarm_is_its_own():
    run = "import signal, time; from geosr_cli import signals; signals.listen(); signal.alarm(1); time.sleep(20)"
    assert subprocess.run([sys.executable, "-c", run], timeout=60).returncode == -signal.SIGALRM


def test_an_interrupt_while_python_ends_changes_nothing():
    run = "import atexit, os, signal; from geosr_cli import signals; signals.listen(); signals.settled(for_good=True)\n"
    run += "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):\n    os.kill(os.getpid(), number)\n"
    assert subprocess.run([sys.executable, "-c", run], timeout=60).returncode == 0


def test_the_code_is_ours_where_an_import_was_interrupted(tmp_path):
    """CPython remembers an interrupt inside exec() of a string, and ends a run by ``-m`` by the signal."""
    text = """
    import sys
    import click
    from geosr_cli import main

    def invoke(group, ctx):
        exec("raise KeyboardInterrupt")

    click.Group.invoke = invoke
    sys.argv = ["geosr", "info", "x.tif"]
    main.main()
    """
    (tmp_path / "interrupted.py").write_text(textwrap.dedent(text))
    run = [sys.executable, "-m", "interrupted"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "geosr: interrupted; nothing was written\n")
