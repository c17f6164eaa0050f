"""Arrays out of an HDF5 file from a stranger, in a process of its own: a script, not a module to import.

stdin brings the file, stdout takes the answer: the length of a JSON text in 8 bytes, that text, then the arrays' bytes.
The file is opened as an image in memory. Only hard links are followed; what lies outside the file (external storage,
external links, virtual datasets), is packed, or claims more bytes than it has, is refused before it is read.
Attributes, where Keras keeps a configuration, are not looked at.

``python -I hdf5_arrays.py LIMIT_MODULE MOST_BYTES``: the file that bounds what this process may do
(:mod:`geosr.reading.landlock`), and how many bytes of arrays to hand back at most.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from typing import Any

_MOST_OBJECTS, _MOST_DEPTH = 4000, 32
_MEMORY, _SECONDS = 768 << 20, 30


class Refused(Exception):
    """What is wrong with the file, in words."""


def arrays(data: bytes, most: int) -> list[tuple[str, Any]]:
    """(path, array) of every array of numbers in the file, those of an optimizer left out."""
    from h5py import h5f, h5g, h5o

    found: list[tuple[str, Any]] = []
    seen: set[int] = set()
    total = 0
    waiting = [("", h5g.open(h5f.open_file_image(data), b"/"))]
    while waiting:
        path, group = waiting.pop()
        if group.get_num_objs() + len(seen) > _MOST_OBJECTS:
            raise Refused(f"it holds more than {_MOST_OBJECTS} objects")
        for name in group:
            if group.links.get_info(name).type != 0:  # H5L_TYPE_HARD
                raise Refused(f"{_shown(path, name)} is a link, which may lead to another file")
            place = _shown(path, name)
            if not path and name.lstrip(b"_").startswith(b"optimizer"):
                continue
            if place.count("/") > _MOST_DEPTH:
                raise Refused(f"its groups are more than {_MOST_DEPTH} deep")
            item = h5o.open(group, name)
            address = h5o.get_info(item).addr
            if address in seen:
                raise Refused(f"{place} is there twice")
            seen.add(address)
            if isinstance(item, h5g.GroupID):
                waiting.append((place, item))
                continue
            array = _array(item, place, most - total)
            if array is not None:
                total += array.nbytes
                found.append((place, array))
    return found


def _shown(path: str, name: bytes) -> str:
    return f"{path}/{name.decode('utf-8', 'replace')}".lstrip("/")


def _array(item: Any, place: str, room: int) -> Any:
    """The numbers of a dataset; None if it is a single one or holds none."""
    import numpy as np
    from h5py import h5d, h5s, h5t

    if not isinstance(item, h5d.DatasetID):
        return None
    plan = item.get_create_plist()
    if plan.get_layout() == h5d.VIRTUAL or plan.get_external_count():
        raise Refused(f"{place} is stored in another file (external storage)")
    if plan.get_nfilters() or plan.get_layout() not in (h5d.CONTIGUOUS, h5d.COMPACT):
        raise Refused(f"{place} is packed or in chunks, which Keras's weights are not")
    shape = item.get_space().get_simple_extent_dims()
    if not shape or item.get_type().get_class() != h5t.FLOAT:
        return None  # counters, seeds
    dtype = np.dtype(item.dtype)
    size = dtype.itemsize
    for n in shape:
        size *= int(n)
    if size > room or size != item.get_storage_size():
        raise Refused(f"{place} claims {' x '.join(map(str, shape))} numbers, which the file does not hold")
    out = np.empty(shape, dtype)
    item.read(h5s.ALL, h5s.ALL, out)
    return out.astype(dtype.newbyteorder("="))


def main() -> None:
    """Bound this process, read, answer."""
    spec = importlib.util.spec_from_file_location("landlock", sys.argv[1])
    if spec is not None and spec.loader is not None:
        import h5py  # noqa: F401  (what it loads must be there before files are given up)
        import numpy as np  # noqa: F401

        bounds = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(bounds)
        if sys.platform.startswith("linux"):
            bounds.die_with_parent()
            bounds.limit_resources(_MEMORY, _SECONDS, int(sys.argv[2]) + (1 << 20))
            bounds.leave_network()
            bounds.restrict([sys.prefix, sys.base_prefix, "/usr/lib", "/lib"])
    answer: dict[str, Any]
    found: list[tuple[str, Any]] = []
    try:
        found = arrays(sys.stdin.buffer.read(), int(sys.argv[2]))
        answer = {"arrays": [[path, list(a.shape), a.dtype.str] for path, a in found]}
    except Refused as error:
        answer = {"refused": str(error)}
    except Exception as error:  # h5py raises nearly every kind there is
        answer = {"damaged": " ".join(str(error).split())[:200] or type(error).__name__}
    text = json.dumps(answer).encode()
    sys.stdout.buffer.write(len(text).to_bytes(8, "little") + text)
    for _, array in found if "arrays" in answer else []:
        sys.stdout.buffer.write(array.tobytes())
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
