"""Errors that say what arrived and what to do next.

Every error that geosr raises on purpose derives from :class:`GeosrError` and from the builtin that a Python
caller would expect. ``exit_code`` is what the command exits with. ``path`` is filled in once, at the boundary
where the file is known, so that kernels need not carry file names.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


class GeosrError(Exception):
    """Base of all geosr errors.

    Parameters
    ----------
    what : what is wrong, with the value that arrived.
    hint : what to do next (an option, a command), without a full stop.
    path : the file concerned, if the raiser knows it.
    """

    exit_code = 1

    def __init__(self, what: str, hint: str = "", path: str | os.PathLike[str] | None = None) -> None:
        super().__init__(what, hint)
        self.what = what
        self.hint = hint
        self.path = os.fspath(path) if path is not None else None

    def __str__(self) -> str:
        text = f"{self.what}; {self.hint}" if self.hint else self.what
        return f"{self.path}: {text}" if self.path else text

    def __reduce__(self) -> tuple[type, tuple[str, str, str | None]]:
        return type(self), (self.what, self.hint, self.path)


class UsageError(GeosrError, ValueError):
    """The request contradicts itself or asks for something that does not exist."""

    exit_code = 2


class InputError(GeosrError, ValueError):
    """The input is unreadable, unsupported or invalid."""

    exit_code = 3


class RefusedError(GeosrError, ValueError):
    """The input is refused for safety or size."""

    exit_code = 4


class OutputError(GeosrError, OSError):
    """The output could not be written."""

    exit_code = 5

    # OSError formats (errno, strerror) pairs by itself; ours is the message.
    __str__ = GeosrError.__str__


class ModelError(GeosrError, ValueError):
    """The model is missing, invalid or refused."""

    exit_code = 6


class ResourceError(GeosrError, RuntimeError):
    """Memory, time or workers ran out."""

    exit_code = 7


class OutputLockedError(GeosrError, RuntimeError):
    """Another run is writing the same output."""

    exit_code = 8


class GeosrWarning(UserWarning):
    """Something in the data that the user should know before trusting the result."""


@contextlib.contextmanager
def blame(path: str | os.PathLike[str]) -> Iterator[None]:
    """Add ``path`` to any geosr error raised inside that does not name a file yet."""
    try:
        yield
    except GeosrError as error:
        if error.path is None:
            error.path = os.fspath(path)
        raise
