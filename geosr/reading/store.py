"""NetCDF files as a list of variables and arrays that read when indexed, by whichever library can.

NetCDF-3 is read by scipy: memory-mapped plain numpy, safe under threads; it finds a truncated file and takes attributes
that are not UTF-8, where netCDF4 gives up. NetCDF-4, HDF5 and CDF-5 are read by netCDF4 under xarray's own lock: HDF5
crashes when two threads use it, and xarray may be writing in one of them. Each read opens the file for itself: no
handle is shared or stays open, and the dask graph can travel to other processes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from geosr.errors import InputError
from geosr.reading.gate import guarded, local, name_for_c, vet
from geosr.reading.lazy import read_indexed


@dataclass(frozen=True)
class Variable:
    """A variable's description.

    Attributes
    ----------
    name : with groups, "PRODUCT/x"; without a leading slash.
    dims : names, without groups.
    dtype : None for what numpy has no number type for (strings, compounds, variable-length arrays).
    kind : in words, what it is where dtype is None.
    chunks : storage chunks, None where contiguous.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype | None
    kind: str = "number"
    chunks: tuple[int, ...] | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> str:
        """Name without groups."""
        return self.name.rsplit("/", 1)[-1]

    @property
    def group(self) -> str:
        """Group, "" for the root."""
        return self.name.rpartition("/")[0]


@dataclass(frozen=True)
class Store:
    """What a file holds.

    Attributes
    ----------
    variables : by name.
    attrs : global ones, then those of the groups, the first of a name wins.
    group_attrs : by group.
    n_dims : number of dimensions declared, also unused ones.
    """

    path: Path
    kind: str
    variables: Mapping[str, Variable]
    attrs: Mapping[str, Any]
    group_attrs: Mapping[str, Mapping[str, Any]]
    n_dims: int

    def near(self, name: str, group: str) -> Variable | None:
        """The variable ``name`` as seen from ``group``: there, or in a parent; "/a/b" is from the root."""
        if name.startswith("/"):
            return self.variables.get(name.strip("/"))
        while True:
            found = self.variables.get(f"{group}/{name}" if group else name)
            if found is not None or not group:
                return found
            group = group.rpartition("/")[0]

    def values(self, variable: Variable) -> np.ndarray:
        """All its raw numbers."""
        return np.asarray(self.array(variable)[(slice(None),) * len(variable.dims)])

    def array(self, variable: Variable) -> Array:
        """Its raw numbers, read when indexed."""
        if variable.dtype is None:
            raise InputError(
                f"variable {variable.name!r} holds {variable.kind}, not numbers", "choose another with --variable"
            )
        return Array(str(self.path), self.kind, variable.name, variable.shape, variable.dtype)


@dataclass(frozen=True)
class Array:
    """A variable's raw numbers (no mask, no scale), read when indexed by slices."""

    path: str
    kind: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        return guarded(lambda: read_indexed(index, self.shape, self._read), self.path)

    def _read(self, box: tuple[slice, ...]) -> np.ndarray:
        if self.kind == "netcdf3":
            with _scipy_file(self.path) as file:
                return np.array(file.variables[self.name].data[box])
        with netcdf4_file(self.path) as file:
            variable = file[self.name]
            variable.set_auto_maskandscale(False)
            return np.asarray(variable[box])


def open_store(path: Path, kind: str) -> Store:
    """Read the structure of a NetCDF or HDF5 file; ``kind`` as :func:`geosr.reading.gate.kind_of` says.

    Raises
    ------
    InputError
        If it is truncated, corrupt, or made of what the libraries do not know.
    RefusedError
        If it reads other files, needs plugins, or is beyond the limits.
    """
    vet(path, kind)
    return guarded(lambda: _scipy_store(path) if kind == "netcdf3" else _netcdf4_store(path, kind), path)


# --- netCDF-3, by scipy ----------------------------------------------------------------------------------------


@contextlib.contextmanager
def _scipy_file(path: str | Path) -> Iterator[Any]:
    from scipy.io import netcdf_file

    file = netcdf_file(local(path), "r", mmap=True)
    try:
        yield file
    finally:
        # Views of the memory map must be gone before it closes; readers copy.
        file.variables.clear()
        file.close()


def _text(value: Any) -> Any:
    """Attribute bytes as text: UTF-8, else Latin-1."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode("utf-8").rstrip("\0")
    except UnicodeDecodeError:
        return value.decode("latin-1").rstrip("\0")


def _scipy_store(path: Path) -> Store:
    variables = {}
    with _scipy_file(path) as file:
        for name, v in file.variables.items():
            dtype = np.dtype(v.data.dtype)
            numeric = dtype.kind in "iufb"
            attrs = {k: _text(a) for k, a in v._attributes.items()}
            variables[name] = Variable(
                name, tuple(v.dimensions), tuple(v.shape), dtype if numeric else None, "text", None, attrs
            )
            del v
        attrs = {k: _text(a) for k, a in file._attributes.items()}
        n_dims = len(file.dimensions)
    return Store(path, "netcdf3", variables, attrs, {"": attrs}, n_dims)


# --- netCDF-4, HDF5 and CDF-5, by netCDF4 ----------------------------------------------------------------------


@contextlib.contextmanager
def netcdf4_file(path: str | Path) -> Iterator[Any]:
    """The file, open by netCDF4 under the lock; whoever opens it has had it vetted."""
    import netCDF4
    from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK

    with NETCDF4_PYTHON_LOCK, name_for_c(path) as name, netCDF4.Dataset(name, "r") as file:
        yield file


# What netCDF4 raises for a name or value that is not text in the encoding, or of a type that it does not know.
_UNREADABLE = (UnicodeError, AttributeError, KeyError, TypeError, ValueError, RuntimeError, OSError)


def _attrs_of(item: Any) -> dict[str, Any]:
    """Attributes; one that cannot be read (not UTF-8, exotic type) must not make the data unreadable."""
    found = {}
    try:
        names = item.ncattrs()
    except _UNREADABLE:
        return {}
    for name in names:
        for encoding in ("utf-8", "latin-1"):
            try:
                found[name] = item.getncattr(name, encoding=encoding)
                break
            except _UNREADABLE:
                continue
    return found


def _netcdf4_store(path: Path, kind: str) -> Store:
    variables: dict[str, Variable] = {}
    group_attrs: dict[str, dict[str, Any]] = {}
    n_dims = 0
    with netcdf4_file(path) as file:
        waiting = [("", file)]
        while waiting:
            prefix, group = waiting.pop(0)
            group_attrs[prefix] = _attrs_of(group)
            n_dims += len(group.dimensions)
            for name, v in group.variables.items():
                full = f"{prefix}/{name}" if prefix else name
                variables[full] = _netcdf4_variable(full, v)
            waiting += [(f"{prefix}/{name}" if prefix else name, child) for name, child in group.groups.items()]
    attrs: dict[str, Any] = {}
    for found in group_attrs.values():
        for key, value in found.items():
            attrs.setdefault(key, value)
    return Store(path, kind, variables, attrs, group_attrs, n_dims)


def _netcdf4_variable(name: str, v: Any) -> Variable:
    try:
        dtype: np.dtype | None = np.dtype(v.dtype)
    except TypeError:
        dtype = None
    if v.dtype is str or dtype is None or dtype.kind in "SUO":
        words, dtype = "text", None
    elif dtype.kind not in "iufb" or type(v.datatype).__name__ in ("CompoundType", "VLType", "EnumType"):
        kind = {"VLType": "lists", "EnumType": "categories (an enumeration)"}.get(type(v.datatype).__name__)
        words, dtype = kind or f"compound or complex values ({v.dtype})", None
    else:
        words = "number"
    chunking = v.chunking() if v.dimensions else None
    chunks = tuple(chunking) if isinstance(chunking, (list, tuple)) else None
    return Variable(name, tuple(v.dimensions), tuple(v.shape), dtype, words, chunks, _attrs_of(v))
