"""Signals that ask for the end: raised in the main thread as exceptions, which unwind the stack and so tidy up.

An exception can be lost on its way. One that is raised in the callback of a weak reference, as Python's own imports
have them, is printed and forgotten; and some libraries take whatever ends an import for a package that is not there.
So one looks again a moment later, and asks again where nothing has come of it. And one that is raised while a thread of
a pool starts leaves a thread that nobody knows and that Python, at the end, waits for; one in the middle of putting an
output in place leaves its folder. So those are left to finish, for a while.
"""

from __future__ import annotations

import atexit
import signal
import sys
import time
from types import FrameType
from typing import Any

#: Seconds in which a second Ctrl-C is the same wish, said twice: it must not cut short what the first one tidies up.
SAME_WISH = 2.0

# Seconds after which one looks whether something has come of it, and whether a thread has started.
_LOOK = 0.2
_SOON = 0.005

# Functions, by module, in which nothing is raised: those that start a thread, and those that put an output in place.
_NOT_IN = {
    ("threading", "start"),
    ("concurrent.futures.thread", "submit"),
    ("geosr.writing.atomic", "commit"),
    ("geosr.writing.atomic", "__enter__"),
    ("geosr.writing.atomic", "__exit__"),
}

_CAN_LOOK = hasattr(signal, "setitimer")  # not on Windows
_ASKING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Terminated(SystemExit):
    """SIGTERM or SIGHUP asked for the end; its code is what a shell makes of the signal."""


class _Wish:
    """What was asked for last, and when; nothing any more when it is ``over``."""

    error: BaseException | None = None
    at = -SAME_WISH
    over = False


def listen() -> None:
    """Have SIGINT raise KeyboardInterrupt, and SIGTERM and SIGHUP :class:`Terminated`, until :func:`settled`."""
    _Wish.over = False
    for signum in _ASKING:
        if signal.getsignal(signum) != signal.SIG_IGN:  # as nohup and shells have it for what runs in the background
            signal.signal(signum, _stop)
    sys.unraisablehook = _unraisable
    atexit.register(_ignore)  # the first to come is the last to be called


def settled(for_good: bool = False) -> None:
    """The run has ended, one way or the other: nothing is asked for again.

    ``for_good``: and Python is about to end, with the code that was decided, whatever comes now.
    """
    if _Wish.error is not None:
        _look_in(0)
    _Wish.over = for_good


def _ignore() -> None:
    """From here on Python takes handlers away, and a signal would end it with another code."""
    for signum in _ASKING:
        signal.signal(signum, signal.SIG_IGN)


def _stop(signum: int, frame: FrameType | None) -> None:
    now = time.monotonic()
    if now - _Wish.at < SAME_WISH or _Wish.over:
        return
    _Wish.at = now
    _Wish.error = KeyboardInterrupt() if signum == signal.SIGINT else Terminated(128 + signum)
    _raise(frame)


def _look(signum: int, frame: FrameType | None) -> None:
    """Raise what was asked for again, unless it is on its way."""
    error = sys.exception()
    while error is not None:
        if error is _Wish.error:
            _look_in(_LOOK)
            return
        error = error.__context__
    _raise(frame)


def _raise(frame: FrameType | None) -> None:
    if _Wish.error is None:
        return
    if _CAN_LOOK and time.monotonic() - _Wish.at < SAME_WISH and _is_busy(frame):
        _look_in(_SOON)
        return
    _look_in(_LOOK)
    raise _Wish.error


def _is_busy(frame: FrameType | None) -> bool:
    while frame is not None:
        if (frame.f_globals.get("__name__"), frame.f_code.co_name) in _NOT_IN:
            return True
        frame = frame.f_back
    return False


def _look_in(seconds: float) -> None:
    """Only once something was asked for: until then an alarm is the caller's, and ends the run."""
    if _CAN_LOOK:
        signal.signal(signal.SIGALRM, _look)
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _unraisable(lost: Any) -> None:
    """As Python does, but silent where what was asked for is lost (it is asked for again), and when all is over: what
    libraries cannot take down in order then has no bearing on the output."""
    if not _Wish.over and (lost.exc_value is not _Wish.error or _Wish.error is None):
        sys.__unraisablehook__(lost)
