"""Heavy things come late: what an import may cost."""

import subprocess
import sys

import pytest

HEAVY = ("tensorflow", "keras", "onnxruntime", "matplotlib", "numba", "netCDF4", "distributed", "zarr")


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(out.split())


def test_import_geosr_is_light():
    assert not loaded_after("import geosr") & set(HEAVY)


@pytest.mark.parametrize("args", [["--help"], ["downscale", "--help"], ["--version"]])
def test_help_imports_nothing_of_geosr(args):
    code = (
        f"import sys, atexit; sys.argv = ['geosr', *{args}]; atexit.register(lambda: print(' '.join(sys.modules)))\n"
        "from geosr_cli.main import main; main()"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    modules = set(out.splitlines()[-1].split())
    assert "click" in modules
    assert not modules & {*HEAVY, "geosr", "numpy", "xarray", "rasterio"}


def test_functions_are_not_hidden_by_their_modules():
    """``geosr.downscale`` and ``geosr.degrade`` are functions and the names of modules."""
    import geosr
    import geosr.degrade
    import geosr.downscale
    import geosr.evaluation

    for name in ("degrade", "downscale", "evaluate"):
        assert callable(getattr(geosr, name)), name
        assert name in geosr.__all__
    from geosr.degrade import modcrop

    assert callable(modcrop)
    da_doorway = geosr.accessor.GeosrDataArrayAccessor
    assert da_doorway.downscale.__doc__
