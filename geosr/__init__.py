"""geosr: super-resolution that is right for georeferenced columns.

>>> import geosr
>>> ds = geosr.open_no2("s5p.nc")                 # doctest: +SKIP
>>> fine = geosr.downscale("s5p.nc", scale=4)     # doctest: +SKIP
>>> fine = da.geosr.downscale(scale=4)            # doctest: +SKIP

Importing geosr registers the ``.geosr`` accessors of xarray and imports neither TensorFlow nor ONNX Runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geosr import accessor as _accessor  # noqa: F401  (registers da.geosr and ds.geosr)
from geosr._version import __version__

# Not lazy: a later first import of the module of the same name would hide the function.
from geosr.degrade import degrade
from geosr.downscale import downscale

if TYPE_CHECKING:
    from geosr.evaluation.evaluate import evaluate
    from geosr.models import load_model
    from geosr.reading import open_no2

__all__ = ["__version__", "degrade", "downscale", "evaluate", "load_model", "open_no2"]

_LAZY = {"evaluate": "geosr.evaluation.evaluate", "load_model": "geosr.models", "open_no2": "geosr.reading"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'geosr' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
