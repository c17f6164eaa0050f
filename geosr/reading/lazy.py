"""Indexing of arrays that can read boxes only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def read_indexed(index: Any, shape: tuple[int, ...], read: Callable[[tuple[slice, ...]], np.ndarray]) -> np.ndarray:
    """What ``array[index]`` is, for an array of which ``read`` gives boxes (slices with bounds and without steps).

    Parameters
    ----------
    index : integers, slices (any step) and 1-D integer arrays, one an axis at most; dask fuses such out of slicings,
        flips and selections. Several arrays select independently, as in xarray.
    """
    index = index if isinstance(index, tuple) else (index,)
    if Ellipsis in [i for i in index if not isinstance(i, np.ndarray)]:
        at = next(k for k, i in enumerate(index) if i is Ellipsis)
        index = (*index[:at], *(slice(None),) * (len(shape) - len(index) + 1), *index[at + 1 :])
    index += (slice(None),) * (len(shape) - len(index))
    box, picks, dropped = [], [], []
    for axis, (i, n) in enumerate(zip(index, shape, strict=True)):
        if isinstance(i, slice):
            wanted = np.arange(n)[i]
        else:
            wanted = np.atleast_1d(np.arange(n)[i])
            if np.ndim(i) == 0:
                dropped.append(axis)
        low, high = (int(np.min(wanted)), int(np.max(wanted)) + 1) if wanted.size else (0, 0)
        box.append(slice(low, high))
        picks.append(wanted - low)
    if any(s.start == s.stop for s in box):
        sizes = [p.size for k, p in enumerate(picks) if k not in dropped]
        return read(tuple(slice(0, 1) for _ in shape)).ravel()[:0].reshape(sizes)
    data = read(tuple(box))
    for axis, pick in enumerate(picks):
        if pick.size != data.shape[axis] or (pick.size > 1 and pick[0] != 0) or (np.diff(pick) != 1).any():
            data = np.take(data, pick, axis=axis)
    return data.squeeze(axis=tuple(dropped)) if dropped else data
