"""The structure of an HDF5 file (NetCDF-4 is one), looked at before its values are: does it stay within itself?

An HDF5 file may name other files whose bytes are then read as its own (external storage, external links, virtual
datasets), load code (filters that are plugins), run in circles (links), and claim or unpack to any size. netCDF-C goes
along with all of it. The scan uses HDF5's low-level interface, follows hard links alone, reads no value, and opens no
other file.

h5py and netCDF4 may bring a libhdf5 each; all use of either happens under xarray's one lock.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

from geosr.errors import GeosrError, RefusedError
from geosr.reading.limits import HARMLESS_CELLS, Limits

_HARD = 0  # H5L_TYPE_HARD; soft is 1, external 64

# Filters that are part of HDF5. Others are plugins: code from a folder, by a number in the file.
_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "n-bit", 6: "scale-offset"}

# Plugins that are often met, so that the message can name them (The HDF Group's register of filters).
_PLUGINS = {307: "bzip2", 32000: "LZF", 32001: "Blosc", 32004: "LZ4", 32008: "bitshuffle", 32013: "ZFP",
            32015: "Zstandard", 32017: "SZ", 32026: "Blosc2"}  # fmt: skip

_OWN_COPY = "it may read other files; get a copy that holds its data itself (nccopy, or h5repack)"


def check_hdf5(path: str | os.PathLike[str], limits: Limits) -> None:
    """Does the HDF5 file at ``path`` stay within itself, and within ``limits``?

    Raises
    ------
    RefusedError
        External storage, external links, virtual datasets, soft links, groups in a circle, filters that are plugins or
        pack several times; too many variables, too deep groups, too large chunks, more values than the file can hold.
    Exception
        What h5py raises for a damaged file.
    """
    from h5py import h5f, h5p
    from xarray.backends.netCDF4_ import NETCDF4_PYTHON_LOCK

    with NETCDF4_PYTHON_LOCK:
        access = h5p.create(h5p.FILE_ACCESS)
        access.set_fapl_sec2()  # whatever HDF5_DRIVER says
        access.set_fclose_degree(h5f.CLOSE_STRONG)
        file = h5f.open(os.fsencode(os.path.abspath(path)), h5f.ACC_RDONLY, fapl=access)
        try:
            _Scan(os.path.getsize(path), limits).run(file)
        except GeosrError as error:
            error.path = os.fspath(path)
            raise
        finally:
            file.close()


@dataclass
class _Scan:
    """What has been met so far."""

    size: int
    limits: Limits
    variables: int = 0

    def run(self, file: Any) -> None:
        """Walk over the groups, each once. (S5P products have 1,400, most of them empty: this loop counts.)"""
        from h5py import h5d, h5g, h5o

        open_object, Group, Dataset = h5o.open, h5g.GroupID, h5d.DatasetID
        root = open_object(file, b"/")
        groups, most = {h5o.get_info(root).addr}, self.limits.variables
        waiting = [(root, b"", 0)]
        while waiting:
            group, prefix, depth = waiting.pop()
            for name, address in self.hard_links(group, prefix):
                if address in groups:
                    what = f"group {_shown(prefix + b'/' + name)} is linked in a circle, or twice"
                    raise RefusedError(what, "get a copy without such links (nccopy, or h5repack)")
                found = open_object(group, name)
                if isinstance(found, Group):
                    groups.add(address)
                    if depth >= self.limits.depth:
                        self.limits.check("depth", depth + 1, f"its groups lie {depth + 1} deep", more=True)
                    if len(groups) > most:
                        self.limits.check("variables", len(groups), f"it holds {len(groups)} groups", more=True)
                    waiting.append((found, prefix + b"/" + name, depth + 1))
                elif isinstance(found, Dataset):
                    self.variables += 1
                    if self.variables > most:
                        self.limits.check(
                            "variables", self.variables, f"it holds {self.variables} variables", more=True
                        )
                    self.dataset(found, prefix + b"/" + name)

    def hard_links(self, group: Any, prefix: bytes) -> list[tuple[bytes, int]]:
        """(name, address) of what hangs in a group; raises for any other kind of link."""
        found: list[tuple[bytes, int]] = []
        most = int(self.limits.variables)

        def take(name: bytes, info: Any) -> bytes | None:
            if info.type != _HARD:
                return b"%d %s" % (info.type, name)
            found.append((name, info.u))
            return b"!" if len(found) > most else None

        stopped = group.links.iterate(take, info=True)[0]
        if len(found) > most:
            self.limits.check("variables", len(found), f"group {_shown(prefix)} holds {len(found)} objects", more=True)
        if stopped:
            kind, _, name = stopped.partition(b" ")
            shown = _shown(prefix + b"/" + name)
            if kind == b"1":
                raise RefusedError(f"{shown} is a soft link", "get a copy without links (nccopy, or h5repack)")
            what = "an external link" if kind == b"64" else "a link of a kind that geosr does not know"
            raise RefusedError(f"{shown} is {what}", _OWN_COPY)
        return found

    def dataset(self, dataset: Any, name: bytes) -> None:
        """Raise where a dataset reads other files, needs plugins, or is too large."""
        from h5py import h5d

        how = dataset.get_create_plist()
        layout = how.get_layout()
        if layout == h5d.VIRTUAL:
            raise RefusedError(f"{_shown(name)} is a virtual dataset", _OWN_COPY)
        if how.get_external_count():
            raise RefusedError(f"{_shown(name)} has external storage", _OWN_COPY)
        self.filters(how, name)
        width = dataset.get_type().get_size()
        if layout == h5d.CHUNKED:
            chunk = how.get_chunk()
            megabytes = math.prod(chunk) * width / 1e6
            if megabytes > self.limits.block:
                sides = " x ".join(map(str, chunk))
                what = f"one chunk of {_shown(name)} is {sides}, {megabytes:.0f} MB unpacked"
                self.limits.check("block", megabytes, what)
        shape = dataset.shape
        cells = math.prod(shape or ())  # None: no data space; (): a single value
        if cells > HARMLESS_CELLS:
            self.limits.check_cells(cells, self.size, f"{_shown(name)} claims {' x '.join(map(str, shape))}")

    def filters(self, how: Any, name: bytes) -> None:
        """Raise for filters that are no part of HDF5, or that pack more than once."""
        numbers = [how.get_filter(i)[0] for i in range(how.get_nfilters())]
        for number in numbers:
            if number not in _FILTERS:
                called = f" ({_PLUGINS[number]})" if number in _PLUGINS else ""
                raise RefusedError(
                    f"{_shown(name)} needs filter {number}{called}, a plugin",
                    "repack it with deflate first (nccopy -d 4 -F none IN OUT, or h5repack -f GZIP=4)",
                )
        twice = next((_FILTERS[n] for n in numbers if numbers.count(n) > 1), None)
        if twice:
            raise RefusedError(
                f"{_shown(name)} goes through the filter {twice} more than once",
                "no honest file does; get it from its source",
            )


def _shown(name: bytes) -> str:
    text = name.decode("utf-8", "replace").lstrip("/") or "/"
    return repr(text if len(text) < 80 else text[:77] + "…")
