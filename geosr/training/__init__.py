"""Training: rasters and a recipe in, a bundle with its card out.

``recipe`` says what is to be done (``folders`` and ``choices`` write one), ``truths``, ``scenes`` and ``split`` bring
the data, ``examples`` cuts it, ``fitting`` finds the weights, ``skill`` judges them, ``run`` does it all in order.
"""

from __future__ import annotations

from geosr.training.run import Task, prepare, train

__all__ = ["Task", "prepare", "train"]
