"""geosr.degrade: what a coarser sensor would see, gaps and areas included."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox

import geosr
from geosr import conserve, grid
from geosr.degrade import (
    KINDS,
    PRECISION,
    Degradation,
    add_noise,
    area_mean,
    degrade,
    degrade_array,
    modcrop,
    psf,
    psf_kernel,
    reduce_axis,
    resize_down,
)
from geosr.errors import InputError, UsageError
from strategies import geoboxes, values, write_tif


@given(st.data(), geoboxes(max_side=6), st.integers(2, 4), st.sampled_from([0.01, 0.5, 1.0]))
def test_area_mean_by_numpy_average(data, box, scale, least):
    fine_box = grid.refine(box, scale)
    fine = data.draw(values(fine_box.shape, np.float64))
    areas = grid.cell_areas(fine_box)
    coarse = area_mean(fine, areas, scale, least)
    full = np.broadcast_to(areas, fine.shape)
    for i, j in np.ndindex(tuple(box.shape)):
        cell = slice(i * scale, (i + 1) * scale), slice(j * scale, (j + 1) * scale)
        good = ~np.isnan(fine[cell])
        share = full[cell][good].sum() / full[cell].sum()
        if abs(share - least) < 1e-6 and least < 1:
            continue  # a tie: either answer is right
        assert np.isnan(coarse[i, j]) == (not good.any() or share < least - 1e-9)
        if not np.isnan(coarse[i, j]):
            mean = np.average(fine[cell][good], weights=full[cell][good])
            assert coarse[i, j] == pytest.approx(mean, rel=1e-12, abs=1e-9)


@given(st.data(), geoboxes(max_side=6), st.integers(2, 4))
def test_degrading_undoes_conservation(data, box, scale):
    """The coarse field that a conserved refinement averages to is the coarse field."""
    coarse = data.draw(values(box.shape, np.float64))
    areas = grid.cell_areas(grid.refine(box, scale))
    rough = np.random.default_rng(0).normal(size=(box.shape[0] * scale, box.shape[1] * scale))
    fine = conserve.conserve(rough, coarse, areas, scale)
    back = area_mean(fine, areas, scale)
    np.testing.assert_allclose(back, coarse, atol=1e-9)


@given(st.data(), geoboxes(max_side=5), st.integers(2, 4), st.sampled_from(KINDS), st.sampled_from([0.3, 1.0]))
def test_every_kind_has_the_same_gaps_and_keeps_constants_and_scales(data, box, scale, kind, least):
    fine_box = grid.refine(box, scale)
    fine = data.draw(values(fine_box.shape, np.float64))
    areas = grid.cell_areas(fine_box)
    how = Degradation(kind)
    coarse = degrade_array(fine, areas, scale, how, min_valid=least)
    np.testing.assert_array_equal(np.isnan(coarse), np.isnan(area_mean(fine, areas, scale, least)))
    flat = np.where(np.isnan(fine), np.nan, 7.0)
    known = ~np.isnan(coarse)
    np.testing.assert_allclose(degrade_array(flat, areas, scale, how, min_valid=least)[known], 7)
    moved = degrade_array(3 - 2 * fine, areas, scale, how, min_valid=least)
    np.testing.assert_allclose(moved, 3 - 2 * coarse, atol=1e-7)


def test_leading_dimensions():
    fine = np.arange(32, dtype=np.float32).reshape(2, 4, 4)
    out = area_mean(fine, np.ones((4, 1)), 2)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out[0], [[2.5, 4.5], [10.5, 12.5]])
    np.testing.assert_array_equal(out[1], out[0] + 16)


# --- the sensor's response ---


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize(("axis", "response"), [(1, 0.74), (0, 0.44)])
def test_psf_has_the_response_at_the_coarse_nyquist_frequency(scale, axis, response):
    """A wave of two coarse cells comes out with its amplitude times the MTF: across along x, along along y."""
    n = 40 * scale
    phase = np.pi * (np.arange(n) + 0.5) / scale
    wave = np.broadcast_to(np.cos(phase)[:, None] if axis == 0 else np.cos(phase), (n, n))
    inner = slice(6 * scale, -6 * scale)
    seen = psf(wave, (0.74, 0.44), scale)[inner, inner]
    assert (seen * wave[inner, inner]).sum() / (wave[inner, inner] ** 2).sum() == pytest.approx(response, abs=5e-4)


def test_psf_by_sums_over_valid_cells():
    rng = np.random.default_rng(0)
    fine = rng.gamma(1, 3, (20, 17))
    fine[rng.uniform(size=fine.shape) < 0.3] = np.nan
    seen = psf(fine, (0.6, 0.3), 3)
    np.testing.assert_array_equal(np.isnan(seen), np.isnan(fine))
    rows, cols = np.mgrid[:20, :17]
    valid = ~np.isnan(fine)
    across, along = kernel_by_fourier(0.6, 3), kernel_by_fourier(0.3, 3)
    for i, j in np.argwhere(valid):
        weight = along[np.abs(rows - i)] * across[np.abs(cols - j)] * valid
        assert seen[i, j] == pytest.approx((weight * np.nan_to_num(fine)).sum() / weight.sum(), rel=1e-3)


def kernel_by_fourier(response, scale):
    """Weights at distances 0, 1, 2 … of the kernel whose transform at frequency f is response^((1-cos 2 pi f)/(…))."""
    f = np.fft.fftfreq(4096)
    share = (1 - np.cos(2 * np.pi * f)) / (1 - np.cos(np.pi / scale))
    return np.fft.ifft(response**share).real


def test_psf_is_the_gaussian_of_the_formula_where_that_is_wide():
    """sigma = sqrt(-2 ln MTF) / (2 pi f) with f = 1 / (2 scale)."""
    kernel = psf_kernel(0.44, 16)
    sigma = np.sqrt(-2 * np.log(0.44)) / (2 * np.pi / 32)
    place = np.arange(len(kernel)) - len(kernel) // 2
    np.testing.assert_allclose(kernel, np.exp(-0.5 * (place / sigma) ** 2) / sigma / np.sqrt(2 * np.pi), atol=3e-4)


def test_psf_without_blur_is_nothing():
    fine = np.random.default_rng(0).normal(size=(2, 9, 8)).astype(np.float32)
    np.testing.assert_array_equal(psf(fine, (1, 1), 4), fine)


def test_psf_of_a_stack_is_that_of_its_fields():
    fine = np.random.default_rng(0).normal(size=(2, 9, 8))
    np.testing.assert_allclose(psf(fine, (0.5, 0.5), 2)[1], psf(fine[1], (0.5, 0.5), 2))


def test_a_sensor_with_a_psf_sees_less_contrast():
    fine = np.random.default_rng(0).normal(size=(60, 60))
    plain, seen = (degrade_array(fine, np.ones((60, 1)), 3, Degradation(k)) for k in ("area", "psf"))
    assert seen.std() < 0.9 * plain.std()


# --- the papers' degradation ---

SET5 = ("baby", "bird", "butterfly", "head", "woman")


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("number", range(5))
def test_resize_down_is_matlab_s_imresize(data_dir, number, scale):
    """Referee: the low-resolution images that MATLAB's imresize made of Set5, every pixel of them."""
    from skimage.io import imread

    truth = imread(data_dir / "images_set5" / f"{SET5[number]}_GT.bmp")[..., :3].astype(np.float64)
    theirs = imread(data_dir / "images_set5_matlab_lr" / f"img_00{number + 1}_SRF_{scale}_LR.png")[..., :3]
    ny, nx = (n // scale * scale for n in truth.shape[:2])
    eight_bits = truth[:ny, :nx]
    for axis in (0, 1):  # MATLAB rounds after each
        eight_bits = np.clip(np.floor(reduce_axis(eight_bits, scale, axis) + 0.5), 0, 255)
    np.testing.assert_array_equal(eight_bits, theirs)
    ours = resize_down(np.moveaxis(truth[:ny, :nx], -1, 0), np.ones((ny, 1)), scale)
    assert np.abs(np.moveaxis(ours, 0, -1) - theirs)[(theirs > 0) & (theirs < 255)].mean() < 0.5


def test_resize_down_is_pillow_s(tmp_path):
    """Referee without data: Pillow's bicubic reduction (which renormalises at the edge instead of mirroring)."""
    from PIL import Image

    fine = np.random.default_rng(0).normal(size=(60, 48)).astype(np.float32)
    theirs = np.asarray(Image.fromarray(fine).resize((16, 20), Image.Resampling.BICUBIC))
    ours = resize_down(fine, np.ones((60, 1)), 3)
    np.testing.assert_allclose(ours[2:-2, 2:-2], theirs[2:-2, 2:-2], atol=1e-6)


# --- noise ---


def test_noise_is_seeded_gaussian_and_independent_of_gaps():
    coarse = np.zeros((200, 200), np.float32)
    noisy = add_noise(coarse, 0.3, seed=5)
    assert noisy.std() == pytest.approx(0.3, rel=0.02)
    assert abs(noisy.mean()) < 0.01
    np.testing.assert_array_equal(noisy, add_noise(coarse, 0.3, seed=5))
    assert abs(np.corrcoef(noisy.ravel(), add_noise(coarse, 0.3, seed=6).ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(noisy.ravel(), add_noise(coarse, 0.3, seed=5, index=1).ravel())[0, 1]) < 0.02
    gap = coarse.copy()
    gap[:100] = np.nan
    np.testing.assert_array_equal(add_noise(gap, 0.3, seed=5)[100:], noisy[100:])
    assert np.isnan(add_noise(gap, 0.3, seed=5)[:100]).all()


def test_noise_from_a_precision_field():
    fine, areas = np.zeros((40, 40)), np.ones((40, 1))
    precision = np.full((40, 40), 2.0)
    precision[:20] = 0
    precision[20:22, :2] = np.nan
    how = Degradation(noise=PRECISION, seed=1)
    out = degrade_array(fine, areas, 2, how, precision=precision)
    assert (out[:10] == 0).all()
    assert np.isnan(out[10, 0])  # nobody knows the noise there
    assert np.nanstd(out[10:]) == pytest.approx(2, rel=0.2)  # one pixel's noise, not that of a mean of four
    coarse = area_mean(precision, areas, 2, 0.01)
    np.testing.assert_array_equal(out, degrade_array(fine, areas, 2, how, precision=coarse))
    with pytest.raises(UsageError, match="brings none"):
        degrade_array(fine, areas, 2, how)
    with pytest.raises(UsageError, match="grids"):
        degrade_array(fine, areas, 2, how, precision=precision[:5])
    with pytest.raises(InputError, match="precision of -3"):
        add_noise(coarse, coarse - 3, 1)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kind": "median"}, "area, psf, resize"),
        ({"mtf": (0.5, 0)}, "above 0"),
        ({"mtf": (1.1, 0.5)}, "above 0"),
        ({"mtf": (0.5,)}, "two numbers"),
        ({"noise": -1.0}, "0 or larger"),
        ({"noise": float("nan")}, "0 or larger"),
        ({"noise": "some"}, "precision"),
        ({"seed": -1}, "whole number"),
    ],
)
def test_degradations_that_cannot_be(options, match):
    with pytest.raises(UsageError, match=match):
        Degradation(**options)


def test_a_degradation_says_what_it_is():
    assert str(Degradation()) == "area mean"
    assert "0.74 across, 0.44 along" in str(Degradation("psf"))
    assert str(Degradation("resize", noise=0.5, seed=3)).endswith("noise 0.5, seed 3")
    assert Degradation("area").to_dict() == {"kind": "area", "mtf": None, "noise": None, "seed": None}
    assert Degradation("psf", noise=0.1).to_dict()["mtf"] == [0.74, 0.44]


# --- on grids ---


def field(shape, dims=("lat", "lon"), gaps=True):
    box = GeoBox(shape, Affine(0.1, 0, 5, 0, -0.1, 60), "EPSG:4326")
    data = np.random.default_rng(0).gamma(1, 3, shape).astype(np.float32)
    if gaps:
        data[0, 0] = np.nan
    return grid.with_geobox(xr.DataArray(data, dims=dims, attrs={"units": "mol m-2"}, name="no2"), box)


@pytest.mark.parametrize(("shape", "cropped"), [((13, 9), (12, 8)), ((12, 8), (12, 8)), ((7, 4), (4, 4))])
def test_modcrop_keeps_the_upper_left(shape, cropped):
    truth = field(shape)
    out = modcrop(truth, 4)
    assert out.shape == cropped
    assert grid.geobox_of(out) == grid.geobox_of(truth)[: cropped[0], : cropped[1]]
    np.testing.assert_array_equal(out.values, truth.values[: cropped[0], : cropped[1]])
    assert out.attrs == truth.attrs


def test_nothing_left_is_an_error():
    with pytest.raises(UsageError, match="smaller --scale"):
        modcrop(field((3, 9)), 4)


def test_degrade_on_its_grid():
    truth = field((13, 9))
    coarse = degrade(truth, 4, min_valid=0.5)
    box = grid.geobox_of(coarse)
    assert coarse.shape == box.shape == (3, 2)
    assert box.affine == Affine(0.4, 0, 5, 0, -0.4, 60)
    assert coarse.attrs["units"] == "mol m-2"
    assert np.isfinite(coarse.values).all()
    assert np.isnan(degrade(truth, 4).values).sum() == 1
    areas = grid.cell_areas(grid.geobox_of(modcrop(truth, 4)))
    np.testing.assert_array_equal(coarse.values, area_mean(truth.values[:12, :8], areas, 4, 0.5))


def test_degrade_in_any_dimension_order():
    truth = field((12, 8))
    stack = xr.concat([truth, truth + 1], "time")
    turned = degrade(stack.transpose("lat", "lon", "time"), 4, 0.5)
    assert turned.dims == ("time", "lat", "lon")
    np.testing.assert_allclose(turned[1] - turned[0], 1, atol=1e-5)


def test_degrade_takes_a_kind_and_noise_by_field():
    truth = field((13, 9), gaps=False)
    seen = degrade(truth, 4, kind="psf", mtf=(0.5, 0.5))
    areas = grid.cell_areas(grid.geobox_of(modcrop(truth, 4)))
    blurred = psf(truth.values[:12, :8], (0.5, 0.5), 4)
    np.testing.assert_array_equal(seen.values, area_mean(blurred, areas, 4))
    stack = xr.concat([truth, truth], "time")
    plain = degrade(stack, 4)
    for noise in (0.5, xr.full_like(truth, 0.5), xr.full_like(degrade(truth, 4), 0.5), xr.full_like(stack, 0.5)):
        noisy = degrade(stack, 4, noise=noise, seed=2) - plain
        np.testing.assert_allclose(noisy[0].values, add_noise(np.zeros((3, 2)), 0.5, 2, 0), atol=1e-5)
        np.testing.assert_allclose(noisy[1].values, add_noise(np.zeros((3, 2)), 0.5, 2, 1), atol=1e-5)
    with pytest.raises(UsageError, match="dimensions"):
        degrade(truth, 4, noise=truth.isel(lat=0))


@pytest.mark.parametrize("share", [0, -1, 2, float("nan"), float("inf")])
def test_valid_shares_that_cannot_be(share):
    with pytest.raises(UsageError, match="above 0, up to 1"):
        degrade(field((13, 9)), 4, min_valid=share)


def test_all_doorways_lead_to_the_function(tmp_path):
    truth = field((13, 9))
    how = {"kind": "resize", "noise": 0.1, "seed": 3}
    expected = degrade(truth, 4, 0.5, **how)
    xr.testing.assert_identical(truth.geosr.degrade(4, 0.5, **how), expected)
    xr.testing.assert_identical(geosr.degrade(truth, 4, 0.5, **how), expected)
    ds = truth.to_dataset().assign_attrs(title="a day")
    got = ds.geosr.degrade(4, 0.5, **how)
    xr.testing.assert_identical(got, geosr.degrade(ds, 4, 0.5, **how))
    xr.testing.assert_identical(got.no2, expected)
    assert got.attrs == {"title": "a day"}
    path = write_tif(tmp_path / "t.tif", truth.values)
    xr.testing.assert_identical(geosr.degrade(path, 4, 0.5), geosr.degrade(geosr.open_no2(path), 4, 0.5))


def test_a_dataset_brings_its_precision():
    truth = field((13, 9)).assign_attrs(ancillary_variables="no2_precision")
    ds = xr.Dataset({"no2": truth, "no2_precision": xr.full_like(truth, 0.5)})
    got = geosr.degrade(ds, 4, 0.5, noise=PRECISION, seed=3)
    np.testing.assert_array_equal(got.no2.values, degrade(truth, 4, 0.5, noise=0.5, seed=3).values)
    assert list(got.data_vars) == ["no2"]
    assert "ancillary_variables" not in got.no2.attrs
    for without in (ds.drop_vars("no2_precision"), truth):
        with pytest.raises(UsageError, match="brings none"):
            geosr.degrade(without, 4, noise=PRECISION)
