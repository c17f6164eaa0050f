"""The parent's side: a child that takes inputs, ended when it hangs and started again, and what no input may touch."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fuzz.edits import ADDRESS, SECRET

_START_SECONDS = 180
#: What geosr itself allows the reading of an untrusted file (:class:`geosr.reading.limits.Limits`).
MEGABYTES = 4096
#: What the secret file holds.
TOLD = b"the-canary-sings-2b91"


class Child:
    """A process that takes inputs (:mod:`fuzz.child`).

    Parameters
    ----------
    folder : where its temporary files and its stderr go.
    seconds : that an input may take.
    megabytes : address space of the process.
    """

    def __init__(self, folder: Path, seconds: float = 30, megabytes: int = 12_000) -> None:
        self.folder, self.seconds, self.megabytes = folder, seconds, megabytes
        self.process: subprocess.Popen[bytes] | None = None
        self.program = Path(__file__).with_name("child.py")
        self.log = folder / "child.log"
        self.waiting = b""

    def run(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the child says; or {"outcome": "crash" or "hang", "told": …} of one that says no more."""
        child = self._started()
        place = self.log.stat().st_size
        try:
            _pipe(child.stdin).write(json.dumps(request).encode() + b"\n")
            _pipe(child.stdin).flush()
        except OSError:
            pass
        line = self._line(time.monotonic() + self.seconds)
        if line is not None:
            return json.loads(line)
        hung = child.poll() is None and not self._gone(child)
        if hung:
            child.send_signal(signal.SIGUSR1)  # it says where it is
            time.sleep(0.3)
        self.close()
        said = self.log.read_bytes()[place:].decode("utf-8", "replace")
        tail = said.partition("Extension modules:")[0].strip()[-3000:]
        if hung:
            return {"outcome": "hang", "told": f"more than {self.seconds:g} s", "traceback": tail}
        code = child.returncode
        told = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return {"outcome": "crash", "told": told, "traceback": tail}

    def _gone(self, child: subprocess.Popen[bytes]) -> bool:
        """Its stdout is closed: it is on its way out."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.5)
            return True
        return False

    def _started(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            self.close()
            self.waiting = b""
            (self.folder / "tmp").mkdir(exist_ok=True)
            env = {**os.environ, "TMPDIR": str(self.folder / "tmp"), "TF_CPP_MIN_LOG_LEVEL": "3"}
            with open(self.log, "ab") as log:
                self.process = subprocess.Popen(
                    [sys.executable, str(self.program), str(self.megabytes)],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=env, cwd=self.folder,
                    start_new_session=True,
                )  # fmt: skip
            if self._line(time.monotonic() + _START_SECONDS) is None:
                raise RuntimeError(f"the child did not start: {self.log.read_text(errors='replace')[-2000:]}")
        return self.process

    def _line(self, until: float) -> bytes | None:
        """The next line of the child; None if it ends or is late."""
        stream = _pipe(self.process.stdout if self.process else None)
        while b"\n" not in self.waiting:
            ready, _, _ = select.select([stream], [], [], max(0, until - time.monotonic()))
            part = os.read(stream.fileno(), 1 << 20) if ready else b""
            if not part:
                return None
            self.waiting += part
        line, _, self.waiting = self.waiting.partition(b"\n")
        return line

    def close(self) -> None:
        """End it, and what it has started."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(OSError):
                    _pipe(pipe).close()
            self.process = None


def _pipe(stream: Any) -> Any:
    if stream is None:
        raise RuntimeError("no child")
    return stream


class Canary:
    """A secret file and a local port, and whether anybody has touched them. Inputs name them by placeholders."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "secret"
        self.path.write_bytes(TOLD * 200)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.setblocking(False)
        self.port = self.server.getsockname()[1]
        self.notify = -1
        if sys.platform == "linux":
            libc = ctypes.CDLL(None, use_errno=True)
            self.notify = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
            if libc.inotify_add_watch(self.notify, os.fsencode(self.path), 0x1 | 0x20) < 0:  # IN_ACCESS | IN_OPEN
                raise OSError(ctypes.get_errno(), "inotify_add_watch")

    def planted(self, data: bytes) -> bytes:
        """``data`` with the real path and address in place of the placeholders."""
        path, address = os.fsencode(self.path), ADDRESS.replace(b"00000", b"%05d" % self.port)
        # As long as the placeholder, so that nothing moves: slashes more do not matter.
        head, _, name = path.rpartition(b"/")
        return data.replace(SECRET, head.ljust(len(SECRET) - len(name), b"/") + name).replace(ADDRESS, address)

    def touched(self) -> str:
        """What has been touched since the last call; "" if nothing."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                self.server.accept()[0].close()
                found.append("the local port")
        if self.notify >= 0:
            with contextlib.suppress(BlockingIOError):
                if os.read(self.notify, 4096):
                    found.append("the secret file")
        return " and ".join(dict.fromkeys(found))

    def close(self) -> None:
        self.server.close()
        if self.notify >= 0:
            os.close(self.notify)


class Bench:
    """Children, a canary, and a folder for all of it."""

    def __init__(self, seconds: float = 30, most_mb: float = MEGABYTES) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="geosr-fuzz-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        self.most_mb, self.seconds = most_mb, seconds
        self.canary = Canary(self.folder)
        self.child = Child(self.folder, seconds)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *exc: object) -> None:
        self.child.close()
        self.canary.close()
        self._folder.cleanup()

    def run(
        self, reader: str, data: bytes, suffix: str, options: dict[str, Any], untrusted: bool, fresh: bool = False
    ) -> dict[str, Any]:
        """What comes of an input: the child's answer, with "failure" where it is none that may be.

        ``fresh``: all lines of geosr are new again.
        """
        place = self.folder / "input"
        place.mkdir(exist_ok=True)
        path = place / f"input{suffix}"
        path.write_bytes(self.canary.planted(data))
        # A child that reads as untrusted ends its own; it has a little longer to say so.
        self.child.seconds = self.seconds * (4 if untrusted else 1)
        seconds = min(self.seconds, 20) if untrusted else 0
        request = {"reader": reader, "path": str(path), "options": options, "untrusted": untrusted, "seconds": seconds,
                   "fresh": fresh}  # fmt: skip
        answer = self.child.run(request)
        for rest in place.iterdir():
            rest.unlink()
        touched = self.canary.touched()
        if touched:
            answer["failure"] = f"touched {touched}"
        elif TOLD.decode() in json.dumps(answer):
            answer["failure"] = "told the secret"
        elif answer.get("peak", 0) > self.most_mb:
            answer["failure"] = answer.get("failure") or f"memory: more than {self.most_mb:g} MB"
            answer["told"] = f"{answer['peak']:.0f} MB ({answer.get('told', '')})"
        elif answer["outcome"] in ("crash", "hang") and untrusted:
            answer["failure"] = f"{answer['outcome']} although untrusted"
        return answer
