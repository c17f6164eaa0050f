"""Draws docs/before_after.png, the picture in the README, from sample_data/ (needs geosr[plot]).

The coarse map is the sample's fine truth averaged to cells four times larger, so that the truth can stand beside it.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

import geosr
from geosr.degrade import area_mean
from geosr.grid import cell_areas, coarsen, geobox_of, with_geobox

HERE = Path(__file__).parent
SCALE = 4
WINDOW = {"longitude": slice(-28.9, -26.5), "latitude": slice(45.9, 44.1)}


def main() -> None:
    truth = geosr.open_no2(next((HERE.parent / "sample_data").glob("*_truth.nc"))).geosr.no2.compute()
    box = geobox_of(truth)
    values = area_mean(truth.values, cell_areas(box), SCALE, 0.5)
    coarse = with_geobox(xr.DataArray(values, dims=truth.dims, name=truth.name, attrs=truth.attrs), coarsen(box, SCALE))
    fine = coarse.geosr.downscale(SCALE)
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.9), sharey=True, layout="constrained")
    top = float(np.nanpercentile(fine.sel(WINDOW), 99.5)) * 1e6
    titles = ("before: 0.05°", f"after: geosr downscale --scale {SCALE}", "the truth (simulated)")
    for ax, data, title in zip(axes, (coarse, fine, truth), titles, strict=True):
        part = data.sel(WINDOW)
        image = ax.pcolormesh(
            part.longitude, part.latitude, part * 1e6, vmin=0, vmax=top, cmap="inferno", rasterized=True
        )
        ax.set(title=title, xlabel="longitude", aspect=1 / np.cos(np.deg2rad(45)))
    axes[0].set_ylabel("latitude")
    figure.colorbar(image, ax=axes, label="tropospheric NO2, µmol m$^{-2}$", shrink=0.9)
    figure.savefig(HERE / "before_after.png", dpi=110)


if __name__ == "__main__":
    main()
