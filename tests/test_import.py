"""Heavy things come late: what an import may cost."""

import subprocess
import sys

import pytest

from geosr import native

HEAVY = ("tensorflow", "keras", "onnxruntime", "matplotlib", "numba", "netCDF4", "distributed", "zarr")


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(out.split())


def test_import_geosr_is_light():
    assert not loaded_after("import geosr") & set(HEAVY)


def loaded_by(args: list[str]) -> set[str]:
    """Modules that the command has imported when it ends."""
    code = (
        f"import sys, atexit; sys.argv = ['geosr', *{args}]; atexit.register(lambda: print(' '.join(sys.modules)))\n"
        "from geosr_cli.main import main; main()"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(out.splitlines()[-1].split())


#: What a small job must not wait for: each takes 0.1 s and more.
UNUSED = {"tensorflow", "keras", "distributed", "matplotlib", "skimage", "zarr", "scipy.ndimage", "tornado"}


@pytest.mark.parametrize(
    ("source", "more"),
    [
        ("simulated_no2_20240612_utm.tif", {"netCDF4", "h5py", "numba", "pint", "geosr.evaluation.evaluate"}),
        # xarray looks for pint when it decodes times; h5py (0.05 s) looks at the structure of HDF5 files.
        ("simulated_no2_20240612_l3.nc", {"numba", "geosr.evaluation.evaluate"}),
        ("S5P_SIMU_L2__NO2____20240612T144349_20240612T144527_34535_01_010000_20240612T144527.nc", {"numba"}),
    ],
)
def test_a_small_job_imports_what_it_uses(sample_dir, tmp_path, source, more):
    output = tmp_path / "fine.tif"
    modules = loaded_by(["downscale", str(sample_dir / source), "-o", str(output), "-q"])
    assert output.is_file()
    assert {"dask.array", "rasterio"} <= modules
    if not native.available():
        more = more - {"numba"}
    assert modules.intersection(UNUSED | more) == set()


@pytest.mark.parametrize("args", [["--help"], ["downscale", "--help"], ["--version"]])
def test_help_imports_nothing_of_geosr(args):
    modules = loaded_by(args)
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
