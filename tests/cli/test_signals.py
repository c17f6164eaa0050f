"""geosr_cli.signals: an interrupt is raised once where it is on its way, and again where it was lost."""

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
        ("at_the_end", "at rest nothing came"),
    ],
)
def test_an_interrupt(where, said):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(where=where)], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == (said, "")


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
