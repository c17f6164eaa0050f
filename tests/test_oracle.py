"""The whole protocol once more, with other people's code: GDAL, scikit-image, and plain loops instead of geosr.

Nothing of geosr but :func:`geosr.evaluate` is called. A projected raster with a gap: GDAL averages it, GDAL refines it,
scikit-image scores it, and every score must come out the same, PSNR within 0.01 dB.
"""

from __future__ import annotations

import numpy as np
import pytest
import rioxarray  # noqa: F401
import xarray as xr
from rasterio.enums import Resampling
from rasterio.transform import from_origin
from rasterio.warp import reproject
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

import geosr
from strategies import smooth_field

CELL, CRS = 1000.0, "EPSG:32632"


def truth_on_a_grid(shape, gap):
    values = smooth_field(shape, seed=4) * 3
    if gap:
        values[20:23, 31] = np.nan
    ny, nx = shape
    coords = {"y": 5e6 - CELL * (np.arange(ny) + 0.5), "x": 4e5 + CELL * (np.arange(nx) + 0.5)}
    data = xr.DataArray(values, dims=("y", "x"), coords=coords, attrs={"units": "1e15 molec cm-2"})
    return data.rio.write_crs(CRS)


def warp(values, cell, scale, resampling):
    """GDAL's warper from cells of ``cell`` to cells ``scale`` times as large (below 1: smaller), on the same ground."""
    shape = tuple(round(n / scale) for n in values.shape)
    out = np.empty(shape, np.float64)
    options = {"src_crs": CRS, "dst_crs": CRS, "src_nodata": np.nan, "dst_nodata": np.nan, "resampling": resampling}
    frm, to = from_origin(4e5, 5e6, cell, cell), from_origin(4e5, 5e6, cell * scale, cell * scale)
    reproject(values.astype(np.float64), out, src_transform=frm, dst_transform=to, **options)
    return out


def conserved(fine, coarse, scale):
    """Each block shifted to its coarse value, block by block."""
    out = fine.copy()
    for i, j in np.ndindex(coarse.shape):
        block = slice(i * scale, (i + 1) * scale), slice(j * scale, (j + 1) * scale)
        out[block] += coarse[i, j] - out[block].mean()
    return out


def far_from_gaps(truth, scale):
    """Fine cells that have no incomplete coarse cell within two coarse cells, by looking at each."""
    ny, nx = (n // scale for n in truth.shape)
    far = np.zeros(truth.shape, bool)
    for i, j in np.ndindex(ny, nx):
        rows, cols = (slice(max(0, k - 2) * scale, (k + 3) * scale) for k in (i, j))
        if not np.isnan(truth[rows, cols]).any():
            far[i * scale : (i + 1) * scale, j * scale : (j + 1) * scale] = True
    return far


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("gap", [False, True])
def test_scores_agree_with_an_independent_oracle(scale, gap):
    truth = truth_on_a_grid((73, 86), gap)
    shave = 4 * scale  # GDAL renormalises its kernels at the raster's edge, geosr continues the field
    found = geosr.evaluate(truth, scale, network=False, shave=shave)

    ny, nx = (n // scale * scale for n in truth.shape)
    values = truth.values[:ny, :nx]
    coarse = warp(values, CELL, scale, Resampling.average)
    fields = {
        "nearest": warp(coarse, CELL * scale, 1 / scale, Resampling.nearest),
        "bilinear": warp(coarse, CELL * scale, 1 / scale, Resampling.bilinear),
        "bicubic": warp(coarse, CELL * scale, 1 / scale, Resampling.cubic),
    }
    fields["conserved bicubic"] = conserved(fields["bicubic"], coarse, scale)
    mask = far_from_gaps(values, scale)
    mask[:shave] = mask[-shave:] = mask[:, :shave] = mask[:, -shave:] = False
    t = values[mask].astype(np.float64)
    span = t.max() - t.min()
    table = found.away_from_gaps
    assert table.cells == t.size
    assert table.data_range == pytest.approx(span)
    for name, field in fields.items():
        p, s = field[mask], table.scores[name]
        assert s.psnr == pytest.approx(peak_signal_noise_ratio(t, p, data_range=span), abs=0.01)
        assert s.mse == pytest.approx(mean_squared_error(t, p), rel=2e-3)
        assert s.rmse == pytest.approx(np.sqrt(mean_squared_error(t, p)), rel=1e-3)
        assert s.mae == pytest.approx(sum(abs(a - b) for a, b in zip(p, t, strict=True)) / t.size, rel=1e-3)
        assert s.bias == pytest.approx(p.mean() - t.mean(), abs=1e-5)
        assert s.r2 == pytest.approx(1 - mean_squared_error(t, p) / t.var(), abs=1e-4)
        assert s.correlation == pytest.approx(np.corrcoef(t, p)[0, 1], abs=1e-5)
        if not gap:
            inner = slice(shave, -shave)
            both = values[inner, inner].astype(np.float64), field[inner, inner]
            assert s.ssim == pytest.approx(structural_similarity(*both, data_range=span), abs=1e-4)


def test_true_areas_on_a_geographic_grid():
    """The truth's coarse cells and the conservation by areas that pyproj's authalic latitudes give."""
    from pyproj import Transformer

    shape, scale = (48, 40), 4
    values = smooth_field(shape, seed=1).astype(np.float64) + np.linspace(0, 9, 48)[:, None]
    lat, lon = 80 - 0.5 * (np.arange(48) + 0.5), 0.5 * (np.arange(40) + 0.5)
    coords = {"latitude": lat, "longitude": lon}
    truth = xr.DataArray(values, dims=("latitude", "longitude"), coords=coords).rio.write_crs("EPSG:4326")
    to_plane = Transformer.from_crs("+proj=longlat +R=6371007.2", "+proj=cea +R=6371007.2", always_xy=True)
    edges = np.array([to_plane.transform(0, 80 - 0.5 * i)[1] for i in range(49)])
    areas = np.repeat(-np.diff(edges)[:, None], 40, axis=1)
    blocks = values.reshape(12, 4, 10, 4)
    weights = areas.reshape(12, 4, 10, 4)
    coarse = (blocks * weights).sum(axis=(1, 3)) / weights.sum(axis=(1, 3))
    nearest = np.kron(coarse, np.ones((scale, scale)))
    found = geosr.evaluate(truth, scale, network=False)
    assert found.valid.scores["nearest"].mse == pytest.approx(np.mean((nearest - values) ** 2), rel=1e-9)
