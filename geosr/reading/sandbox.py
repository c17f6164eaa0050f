"""The process in which files from strangers are read: ``python -m geosr.reading.sandbox SOCKET``.

It loads the libraries once and keeps some forks of itself waiting. Each does one request: it shuts itself in
(:mod:`landlock`: no files but this one and the programs' own, no network, bounded memory and processor time), reads,
leaves numbers in a scratch file that it was given open and a description in JSON (:mod:`parcel`), and ends. What a
damaged or hostile file does to the libraries ends with it. :mod:`untrusted` is the other side. Linux only.
"""

from __future__ import annotations

import gc
import json
import math
import os
import select
import signal
import socket
import sys
import sysconfig
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from geosr.errors import GeosrError, GeosrWarning, InputError, ResourceError
from geosr.reading import landlock
from geosr.reading.limits import limits, reading_as
from geosr.reading.parcel import Writer, plain

#: Bytes of a value in the scratch file, at most; with ``pixels`` of the limits it bounds the file.
CELL_BYTES = 8

# Forks that wait: to ask what a swath is, and to read it, are two requests.
_WAITING = 2

# Milliseconds between looks at whether those that wait are still there.
_LOOK_MS = 1000

# Of a process id, as it is told.
_PID_BYTES = 4

# Fewer cells than this are decoded without threads.
_FEW_CELLS = 4_000_000


def serve(sock: socket.socket) -> None:
    """Keep forks waiting at ``sock`` until its other side is gone.

    ``sock`` (SOCK_SEQPACKET) brings requests: JSON, with the descriptors of a socket for the answer and of the scratch
    file. An answer is the fork's process id in 4 bytes, and JSON.
    """
    import tempfile

    raster, grid, classic = _small_files()
    with tempfile.TemporaryDirectory(prefix="geosr-") as folder:
        for name, content in (("a.tif", raster), ("a.nc", grid)):  # HDF5 opens what has a name only
            with open(f"{folder}/{name}", "wb") as file:
                file.write(content)
        _warm_up([f"{folder}/a.tif", f"{folder}/a.nc"])
    small = [_in_memory(raster), _in_memory(classic)]
    _programs()
    gc.collect()
    gc.freeze()  # so that forks share this memory
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    own = os.getpid()
    taken, tell = os.pipe()
    watch = select.poll()
    watch.register(taken, select.POLLIN)
    watch.register(sock, 0)  # POLLHUP, when the other side is gone
    waiting: set[int] = set()
    while True:
        waiting = {pid for pid in waiting if os.path.exists(f"/proc/{pid}")}  # one that waits may be killed, too
        while len(waiting) < _WAITING:
            pid = os.fork()
            if pid == 0:
                os.close(taken)
                _child(own, sock, tell, small)
            waiting.add(pid)
        for handle, _ in watch.poll(_LOOK_MS):
            if handle != taken:
                return
            told = os.read(taken, 64 * _PID_BYTES)
            waiting -= {int.from_bytes(told[i : i + _PID_BYTES], "little") for i in range(0, len(told), _PID_BYTES)}


def _small_files() -> tuple[bytes, bytes, bytes]:
    """A small GeoTIFF, and a small grid as NetCDF-4 and NetCDF-3."""
    import netCDF4
    import numpy as np
    import rasterio

    place = {"crs": "EPSG:32631", "transform": rasterio.Affine(1000, 0, 5e5, 0, -1000, 5e6)}
    with rasterio.MemoryFile() as memory:
        with memory.open(driver="GTiff", width=4, height=3, count=1, dtype="float32", **place) as raster:
            raster.write(np.ones((1, 3, 4), "f4"))
        tif = memory.read()
    grids = []
    for kind in ("NETCDF4", "NETCDF3_CLASSIC"):
        file = netCDF4.Dataset("a.nc", "w", format=kind, memory=1024)
        for name, unit, values in (("latitude", "north", [44.0, 45.0]), ("longitude", "east", [5.0, 6.0, 7.0])):
            file.createDimension(name, len(values))
            axis = file.createVariable(name, "f8", (name,))
            axis.units, axis[:] = f"degrees_{unit}", values
        field = file.createVariable("tropospheric_NO2_column_number_density", "f4", ("latitude", "longitude"))
        field.units, field[:] = "mol m-2", np.linspace(1e-5, 2e-5, 6).reshape(2, 3)
        grids.append(bytes(file.close()))
    return tif, grids[0], grids[1]


def _in_memory(content: bytes) -> str:
    """Path of a file in memory, good in this process and its forks."""
    handle = os.memfd_create("geosr")
    os.write(handle, content)
    return f"/proc/self/fd/{handle}"


def _warm_up(small: list[str]) -> None:
    """Read small files, so that all that reading imports is there, and libraries have opened their own data.

    PROJ opens its database anew after a fork. No thread is left: the box is around the thread that it is built in.
    """
    import pint  # noqa: F401  (xarray looks for it)

    import geosr.reading.netcdf3_scan
    import geosr.reading.s5p_l2  # noqa: F401

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in small:
            _is_swath(path, {}, _Nowhere())
            _grid(path, {}, _Nowhere())


class _Nowhere(Writer):
    """Takes arrays and keeps nothing."""

    def __init__(self) -> None:
        super().__init__(os.open(os.devnull, os.O_WRONLY))

    def __del__(self) -> None:
        os.close(self.handle)


def _child(parent: int, sock: socket.socket, tell: int, small: list[str]) -> None:
    """Wait for a request, shut in, do it, answer, end."""
    code = 1
    try:
        landlock.die_with_parent()
        if os.getppid() != parent:
            return
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):  # libraries print what they find in files
            os.dup2(nothing, stream)
        _warm_up(small)
        body, handles, _, _ = socket.recv_fds(sock, 1 << 18, 2)
        if not body:
            return
        os.write(tell, os.getpid().to_bytes(_PID_BYTES, "little"))
        sock.close()
        os.close(tell)
        with socket.socket(fileno=handles[0]) as answer:
            answer.sendall(os.getpid().to_bytes(_PID_BYTES, "little"))
            answer.sendall(json.dumps(_answer(json.loads(body), handles[1])).encode())
        code = 0
    finally:
        os._exit(code)


def _answer(request: dict[str, Any], scratch: int) -> dict[str, Any]:
    heard: list[str] = []
    box: dict[str, bool] = {}
    try:
        with reading_as(request["limits"], untrusted=False), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", GeosrWarning)
            box.update(_shut_in(request["path"]))
            result = _TASKS[request["task"]](request["path"], request["options"], Writer(scratch))
        heard = [str(w.message) for w in caught]
        return {"result": result, "warnings": heard, "box": box}
    except GeosrError as error:
        return {"error": type(error).__name__, "what": error.what, "hint": error.hint, "box": box}
    except MemoryError:
        most = request["limits"]["memory"]
        return {
            "error": ResourceError.__name__,
            "what": f"reading it takes more than {most:g} MB",
            "hint": f"if you trust the file: --limit memory={2 * most:g}",
            "box": box,
        }
    except Exception as error:
        return {"error": "bug", "what": f"{type(error).__name__}: {error}", "hint": "", "box": box}


def _shut_in(path: str) -> dict[str, bool]:
    """Give up what reading ``path`` does not need; which of it the kernel could take away."""
    if len(os.listdir("/proc/self/task")) != 1:
        raise RuntimeError("threads would stay outside the box")
    most = limits()
    cores = os.cpu_count() or 1
    landlock.limit_resources(
        int(most.memory * 1e6), math.ceil(most.time * cores) + 1, int(most.pixels) * CELL_BYTES + (1 << 20)
    )
    alone = landlock.leave_network()
    files = landlock.restrict([os.path.realpath(path), *_programs()])
    return {"files": files, "network": alone or (files and landlock.version() >= 4)}


@lru_cache(maxsize=1)
def _programs() -> tuple[str, ...]:
    """Where Python, its packages and the data of libraries lie; what lies in another of these is left out."""
    found = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    for name, module in list(sys.modules.items()):
        if "." not in name and name != "__main__":
            found.update(getattr(module, "__path__", None) or [getattr(module, "__file__", None) or ""])
    for prefix in (sys.prefix, "/usr", "/usr/local"):
        found.update(f"{prefix}/share/{data}" for data in ("proj", "gdal", "zoneinfo"))
    found.update(("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/dev/urandom", "/dev/null"))
    outer: list[str] = []
    for path in sorted(os.path.realpath(p) for p in found if p and os.path.exists(p)):
        if not outer or not path.startswith(outer[-1].rstrip("/") + "/"):
            outer.append(path)
    return tuple(outer)


# --- what can be asked for -------------------------------------------------------------------------------------


def _is_swath(path: str, options: Mapping[str, Any], out: Writer) -> bool:
    from geosr.reading.s5p_l2 import is_swath

    return is_swath(path)


def _candidates(path: str, options: Mapping[str, Any], out: Writer) -> list[str]:
    from geosr.reading import candidates

    return candidates(path)


def _swath(path: str, options: Mapping[str, Any], out: Writer) -> dict[str, Any]:
    """The fields of :class:`geosr.swath.Swath`; arrays go to the scratch file."""
    from geosr.reading.s5p_l2 import read_swath

    swath = read_swath(path, **options)
    found = swath.extent()
    return {
        "value": out.array(swath.value),
        "precision": None if swath.precision is None else out.array(swath.precision),
        "lon_corners": out.array(swath.lon_corners),
        "lat_corners": out.array(swath.lat_corners),
        "pixel_size_m": list(swath.pixel_size_m),
        "attrs": plain(swath.attrs),
        "name": swath.name,
        "located": {
            "south": found.south,
            "north": found.north,
            "pixels": found.pixels,
            "asked": found.asked,
            "inside": found.inside,
            "west": out.array(found.west),
            "east": out.array(found.east),
            "covered": out.array(found.covered),
        },
    }


def _grid(path: str, options: Mapping[str, Any], out: Writer) -> dict[str, Any]:
    """The Dataset of :func:`geosr.open_no2`: fields to the scratch file, coordinates by their grid."""
    import dask
    import dask.array as da
    import numpy as np
    from dask.local import synchronous_executor
    from dask.threaded import get as threads

    from geosr.grid import geobox_of
    from geosr.reading import open_no2
    from geosr.variables import main_variable

    # In this thread alone: in others PROJ would open its database once more.
    with dask.config.set(pool=synchronous_executor):
        ds = open_no2(path, **options)
    cells = sum(v.size for v in ds.data_vars.values())
    shape = " x ".join(str(n) for n in main_variable(ds).shape)
    limits().check("pixels", cells, f"{cells} pixels ({shape}) to hold at once")
    box = geobox_of(main_variable(ds))
    variables, sources = [], []
    targets: list[Any] = []
    for name, v in ds.data_vars.items():
        slot = out.reserve(v.shape, v.dtype)
        sources.append(v.data if isinstance(v.data, da.Array) else da.from_array(np.asarray(v.data)))
        targets.append(slot)
        described = {"name": str(name), "dims": list(v.dims), "values": slot.described(), "attrs": plain(v.attrs)}
        variables.append({**described, "chunks": [c[0] for c in sources[-1].chunks]})
    if cells < _FEW_CELLS:
        with dask.config.set(pool=synchronous_executor):
            for slot, values in zip(targets, dask.compute(*sources, scheduler=threads), strict=True):
                slot[tuple(slice(0, n) for n in slot.shape)] = values
    else:
        da.store(sources, targets, lock=False, scheduler=threads)
    if box.crs is None:
        raise InputError("no CRS", "declare it with --crs (in Python: crs=…), e.g. --crs EPSG:4326")
    leading = {
        n: c for n, c in ds.coords.items() if n != "spatial_ref" and not set(c.dims) & set(variables[0]["dims"][-2:])
    }
    return {
        "variables": variables,
        "coords": [_coordinate(str(n), c) for n, c in leading.items()],
        "box": {
            "shape": list(box.shape),
            "affine": list(box.affine)[:6],
            "wkt": box.crs.to_wkt(),
        },
        "attrs": plain(ds.attrs),
    }


def _coordinate(name: str, coordinate: Any) -> dict[str, Any]:
    values = coordinate.values
    dtype = values.dtype.str if values.dtype.kind in "iufM" else "text"
    listed = values.astype("i8").ravel().tolist() if values.dtype.kind == "M" else values.ravel().tolist()
    listed = listed if dtype != "text" else [str(v) for v in listed]
    attrs = plain(coordinate.attrs)
    return {"name": name, "dims": list(coordinate.dims), "dtype": dtype, "values": listed, "attrs": attrs}


_TASKS = {"is_swath": _is_swath, "candidates": _candidates, "swath": _swath, "grid": _grid}


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        serve(connection)
    os._exit(0)  # at once
