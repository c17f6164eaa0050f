"""Files from strangers, read in a process of their own.

Whatever a file does to the libraries that read it happens in a child that can open no other file, reach no network,
and take no more memory and time than the limits say (:mod:`geosr.reading.sandbox`). It decodes the field into a scratch
file without a name, from which the field is read lazily here; the rest comes as JSON and is checked. What this cannot
do: a kernel without Landlock leaves other files readable, which is said.

One server process is started at first need, in about a second; forks of it wait for files, and each reads one.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from geosr import errors
from geosr.errors import GeosrWarning, InputError, ResourceError, UsageError
from geosr.reading.gate import Fingerprint, fingerprint, local
from geosr.reading.limits import Limits, limits, reading_as
from geosr.reading.parcel import Scratch, plain, scratch_of

if TYPE_CHECKING:
    import xarray as xr

    from geosr.swath import Swath

_START_SECONDS = 120
_MOST_ANSWER = 64 << 20

# Of the environment, the server sees what programs need to start, and nothing that changes what libraries read or that
# may be a secret.
_KEPT = ("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "VIRTUAL_ENV",
         "CONDA_PREFIX", "PYTHONHOME", "PYTHONNOUSERSITE", "PYTHONDONTWRITEBYTECODE")  # fmt: skip
_SET = {"HDF5_PLUGIN_PRELOAD": "::", "PROJ_NETWORK": "OFF", "GDAL_CACHEMAX": "64", "MALLOC_ARENA_MAX": "2",
        "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # fmt: skip

_NONSENSE = "the boxed reader's answer makes no sense"
_KINDS = {kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type)}


def open_untrusted(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    timeout: float | None = None,
    memory: float | None = None,
    **options: Any,
) -> xr.Dataset:
    """:func:`geosr.open_no2` of files from strangers, whose ``options`` these are.

    Parameters
    ----------
    timeout, memory : seconds, and megabytes, for each file; default those of :class:`geosr.reading.limits.Limits`.

    Raises
    ------
    ResourceError
        Reading took more time or memory, or the process that read died.
    """
    from geosr.reading import open_no2

    asked = {"time": timeout, "memory": memory}
    with reading_as({k: v for k, v in asked.items() if v is not None}, untrusted=True):
        return open_no2(path, **options)


def is_swath(path: str | os.PathLike[str]) -> bool:
    """As :func:`geosr.reading.s5p_l2.is_swath`."""
    return _is_swath(local(path), fingerprint(path), limits())


@lru_cache(maxsize=256)
def _is_swath(path: str, state: Fingerprint, most: Limits) -> bool:
    return _ask("is_swath", path, {})[0] is True


def candidates(path: str | os.PathLike[str]) -> list[str]:
    """As :func:`geosr.reading.candidates`."""
    found = _ask("candidates", path, {})[0]
    return [str(name) for name in found] if isinstance(found, list) else []


def read_swath(path: str | os.PathLike[str], **options: Any) -> Swath:
    """As :func:`geosr.reading.s5p_l2.read_swath`."""
    from geosr.footprint import Extent
    from geosr.swath import Swath

    found, array = _ask("swath", path, options)
    try:
        arrays = {k: array(found[k]).values() for k in ("value", "lon_corners", "lat_corners")}
        located = found["located"]
        n = arrays["value"].shape
        if len(n) != 1 or any(arrays[k].shape != (*n, 4) for k in ("lon_corners", "lat_corners")):
            raise InputError(_NONSENSE, "do not use this file", path)
        edges = {k: array(located[k]).values() for k in ("west", "east", "covered")}
        if any(v.shape != (360,) for v in edges.values()):
            raise InputError(_NONSENSE, "do not use this file", path)
        asked = located["asked"]
        extent = Extent(
            float(located["south"]),
            float(located["north"]),
            int(located["pixels"]),
            None if asked is None else (float(asked[0]), float(asked[1]), float(asked[2]), float(asked[3])),
            int(located["inside"]),
            **edges,
        )
        sigma = None if found["precision"] is None else array(found["precision"]).values()
        if sigma is not None and sigma.shape != n:
            raise InputError(_NONSENSE, "do not use this file", path)
        size = (float(found["pixel_size_m"][0]), float(found["pixel_size_m"][1]))
        return Swath(precision=sigma, pixel_size_m=size, attrs=dict(found["attrs"]), name=str(found["name"]),
                     located=extent, **arrays)  # fmt: skip
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(_NONSENSE, "do not use this file", path) from error


def open_grid(path: str | os.PathLike[str], **options: Any) -> xr.Dataset:
    """As :func:`geosr.open_no2` of a grid: lazy, from the scratch file."""
    found, array = _ask("grid", path, options)
    try:
        return _dataset(found, array)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(_NONSENSE, "do not use this file", path) from error


def _dataset(found: Any, array: Any) -> xr.Dataset:
    import dask.array as da
    import xarray as xr
    from affine import Affine
    from odc.geo.crs import CRS
    from odc.geo.geobox import GeoBox
    from pyproj import CRS as ProjCRS

    from geosr.grid import with_geobox

    box = found["box"]
    ny, nx = box["shape"]
    crs = CRS(ProjCRS.from_wkt(str(box["wkt"])))  # from WKT alone: other spellings may name files
    grid = GeoBox((int(ny), int(nx)), Affine(*(float(v) for v in box["affine"])), crs)
    coords = {str(c["name"]): _coordinate(c) for c in found["coords"]}
    fields = {}
    for described in found["variables"]:
        values: Scratch = array(described["values"])
        dims = [str(d) for d in described["dims"]]
        if values.shape[-2:] != (ny, nx):
            raise ValueError("another grid")
        chunks = tuple(max(1, int(n)) for n in described["chunks"])
        lazy = da.from_array(values, chunks=chunks, name=False, meta=np.empty((0,) * values.ndim, values.dtype))
        own = {k: c for k, c in coords.items() if set(c.dims) <= set(dims)}
        data = xr.DataArray(lazy, dims=dims, coords=own, name=str(described["name"]), attrs=dict(described["attrs"]))
        fields[data.name] = with_geobox(data, grid)
    return xr.Dataset(fields, attrs=dict(found["attrs"]))


def _coordinate(described: Any) -> xr.Variable:
    import xarray as xr

    dims, values, dtype = [str(d) for d in described["dims"]], described["values"], str(described["dtype"])
    if dtype == "text":
        data = np.array([str(v) for v in values], dtype=object).astype(str)
    elif np.dtype(dtype).kind == "M":
        data = np.array(values, "i8").view(np.dtype(dtype))
    else:
        data = np.array(values, np.dtype(dtype))
    return xr.Variable(dims, data if dims else data.reshape(()), dict(described["attrs"]))


# --- asking ----------------------------------------------------------------------------------------------------


def _ask(task: str, path: str | os.PathLike[str], options: Mapping[str, Any]) -> tuple[Any, Any]:
    """(the result, a function from the description of an array to the array)."""
    most = limits()
    request = {"task": task, "path": local(path), "options": _sendable(options), "limits": asdict(most)}
    scratch = tempfile.TemporaryFile(prefix="geosr-")  # noqa: SIM115  (it lives as long as the arrays in it)
    here, there = socket.socketpair()
    with here:
        with there:
            _server().submit(json.dumps(request).encode(), [there.fileno(), scratch.fileno()])
        data = _receive(here, most.time, path)
    try:
        answer = json.loads(data)
        _heed(answer, path)
        result = answer["result"]
    except errors.GeosrError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(_NONSENSE, "do not use this file", path) from error
    place = f"/proc/{os.getpid()}/fd/{scratch.fileno()}"
    size = os.fstat(scratch.fileno()).st_size
    return result, lambda described: scratch_of(described, place, size, scratch)


def _sendable(options: Mapping[str, Any]) -> dict[str, Any]:
    sent = {k: v for k, v in options.items() if v is not None or k == "qa"}
    crs = sent.get("crs")
    if crs is not None and not isinstance(crs, (str, int)):
        from geosr.reading.crs import as_crs

        sent["crs"] = as_crs(crs).to_wkt()
    return {k: plain(v) for k, v in sent.items()}


def _receive(here: socket.socket, seconds: float, path: str | os.PathLike[str]) -> bytes:
    """All that the child says; it is killed when its time is over."""
    here.settimeout(_START_SECONDS)
    try:
        head = here.recv(4, socket.MSG_WAITALL)
    except OSError:
        head = b""
    if len(head) < 4:
        raise ResourceError("the process that reads untrusted files did not start", "check memory and installation")
    pid = int.from_bytes(head, "little")
    deadline, parts, size = time.monotonic() + seconds, [], 0
    while True:
        here.settimeout(max(1e-3, deadline - time.monotonic()))
        try:
            part = here.recv(1 << 20)
        except TimeoutError:
            _kill(pid, here)
            raise ResourceError(
                f"timed out: reading it takes more than {seconds:g} s",
                f"do not use this file; or if you trust it, --limit time={10 * seconds:g}",
                path,
            ) from None
        if not part:
            break
        parts.append(part)
        size += len(part)
        if size > _MOST_ANSWER:
            _kill(pid, here)
            raise InputError(_NONSENSE, "do not use this file", path)
    if not parts:
        raise ResourceError(
            "the process that read it died: it crashed, or ran out of memory or time",
            "do not use this file; if you trust it, read it without --untrusted to see more",
            path,
        )
    return b"".join(parts)


def _kill(pid: int, here: socket.socket) -> None:
    """End the child, and wait until it is gone: then nobody holds the other end of the socket."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    here.settimeout(5)
    with contextlib.suppress(OSError):
        while here.recv(1 << 20):
            pass


def _heed(answer: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Pass on the warnings of an answer, or raise its error."""
    box = answer["box"]
    open_doors = [
        what
        for key, what in (("files", "open other files"), ("network", "use the network"))
        if box.get(key) is not True
    ]
    if box and open_doors:
        warnings.warn(
            "this system cannot shut a process in (Linux with Landlock can): --untrusted bounds memory and time, but a "
            f"hostile file might still {' and '.join(open_doors)}",
            GeosrWarning,
            stacklevel=2,
        )
    if "error" in answer:
        kind = _KINDS.get(str(answer["error"]))
        what = str(answer["what"])
        if kind is None or not issubclass(kind, errors.GeosrError):
            raise RuntimeError(f"while reading {os.fspath(path)!r} boxed: {what}")
        raise kind(what, str(answer["hint"]), path)
    for text in answer["warnings"]:
        warnings.warn(str(text), GeosrWarning, stacklevel=2)


# --- the server ------------------------------------------------------------------------------------------------


class _Server:
    """A process that forks for each file."""

    def __init__(self) -> None:
        if sys.platform != "linux":
            raise UsageError("--untrusted needs Linux", "read the file on a machine, or in a container, of its own")
        self.owner = os.getpid()
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "geosr.reading.sandbox", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=_environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for us; it ends when we do
            )

    def submit(self, request: bytes, handles: list[int]) -> None:
        """Hand over a request, which a child takes."""
        try:
            socket.send_fds(self.socket, [request], handles)
        except OSError as error:
            raise ResourceError(
                f"the process that reads untrusted files is gone ({error.strerror})", "check memory and try again"
            ) from None

    def usable(self) -> bool:
        """Is it ours (not that of a process that forked us), and alive?"""
        return self.owner == os.getpid() and self.process.poll() is None

    def close(self) -> None:
        """End it, and with it all that it forked."""
        self.socket.close()
        if self.owner == os.getpid():
            self.process.kill()
            self.process.wait()


_started: _Server | None = None
_starting = threading.Lock()


def _server() -> _Server:
    global _started
    with _starting:
        if _started is None or not _started.usable():
            _started = _Server()
        return _started


@atexit.register
def _stop() -> None:
    if _started is not None:
        _started.close()


def _environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k in _KEPT or k.startswith("LC_")}
    return {**kept, **_SET, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
