"""geosr.evaluate: the protocol, its baselines, cases and networks, and whether the shipped models win."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.enums import Resampling

import geosr
from geosr import conserve, grid, interpolate
from geosr.channel import AffineScaler
from geosr.degrade import Degradation, area_mean, degrade
from geosr.downscale import downscale
from geosr.errors import GeosrWarning, InputError, ModelError, UsageError
from geosr.evaluation import metrics
from geosr.evaluation.cases import chosen_networks
from geosr.evaluation.evaluate import (
    BACK_PROJECTED,
    BASELINES,
    BICUBIC,
    BILINEAR,
    CONSERVED,
    NEAREST,
    EmptyTruth,
    Evaluation,
    Evaluations,
    Settings,
    back_projected,
    bilinear,
    evaluate,
    evaluate_array,
    refined,
)
from geosr.evaluation.gains import Gain
from geosr.evaluation.metrics import value_range
from geosr.evaluation.results import verdict
from geosr.models import available, default_model, load_model
from strategies import write_tif


def plumes(shape=(96, 80), seed=0):
    """Smooth background, and point sources smeared downwind."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]].astype(float)
    out = 2 + 0.01 * y
    for _ in range(12):
        cy, cx, strength = rng.uniform(0, shape[0]), rng.uniform(0, shape[1]), rng.gamma(2, 3)
        along = np.clip(x - cx, 0, None)
        width = 1.5 + 0.15 * along
        out += np.where(x >= cx, strength / width * np.exp(-0.5 * ((y - cy) / width) ** 2 - along / 30), 0)
    return out.astype(np.float32)


def raster(values, **attrs):
    box = GeoBox(values.shape, Affine(0.05, 0, 5, 0, -0.05, 52), "EPSG:4326")
    return grid.with_geobox(xr.DataArray(values, dims=("y", "x"), attrs=attrs), box)


def test_order_of_the_baselines_and_what_is_reported():
    truth = raster(plumes(), units="1e15 molec cm-2")
    found = evaluate(truth, 4)
    network, *others = found.networks
    assert list(found.valid.scores) == [NEAREST, BILINEAR, BICUBIC, CONSERVED, BACK_PROJECTED, network, *others]
    assert found.valid.networks == (network, *others)
    psnr = {name: s.psnr for name, s in found.valid.scores.items()}
    assert psnr[NEAREST] < psnr[BILINEAR] < psnr[BICUBIC] < psnr[CONSERVED] < psnr[BACK_PROJECTED]
    assert found.valid.best_interpolation == BACK_PROJECTED
    assert found.valid.gain(BICUBIC) == pytest.approx(psnr[network] - psnr[BICUBIC])
    assert found.valid.data_range == pytest.approx(float(np.ptp(truth.values)))
    assert found.valid.cells == found.away_from_gaps.cells == truth.size
    assert found.conservation_error <= 1e-6 * float(truth.max())
    assert (found.model, found.units, found.scale) == (default_model(4), "1e15 molec cm-2", 4)
    assert json.loads(json.dumps(found.to_dict()))["valid"]["scores"][network]["psnr"] == psnr[network]


def test_units_do_not_matter():
    values = plumes()
    small = evaluate(raster(values / np.float32(60221.4076), units="mol m-2"), 4)
    large = evaluate(raster(values, units="1e15 molec cm-2"), 4)
    bare = evaluate(raster(values), 4)
    for name in (BICUBIC, *large.networks):
        assert small.valid.scores[name].psnr == pytest.approx(large.valid.scores[name].psnr, abs=1e-3)
        assert bare.valid.scores[name].psnr == pytest.approx(large.valid.scores[name].psnr, abs=1e-3)


def test_gaps_are_not_scored():
    values = plumes()
    values[30:33, 40:50] = np.nan
    found = evaluate(raster(values), 4, network=False)
    assert found.valid.cells < np.isfinite(values).sum() + 1
    # 2 x 3 coarse cells hold the gap, and 2 more to each side are near it.
    assert found.away_from_gaps.cells == values.size - 16 * (6 * 7)
    assert found.model is None
    assert tuple(found.valid.scores) == BASELINES
    assert found.verdict() == f"best interpolation: {found.judged.best_interpolation}"
    filled = values.copy()
    filled[30:33, 40:50] = 500  # what is in a gap must not matter: here it is no gap, and everything near changes
    assert evaluate(raster(filled), 4, network=False).away_from_gaps.data_range > found.away_from_gaps.data_range


def test_refined_fields_have_the_gaps_of_the_coarse():
    coarse = plumes((20, 18))
    coarse[4, 5] = np.nan
    fields = refined(coarse, np.ones((80, 1)), 4, {"network": load_model(default_model(4))})
    assert list(fields) == [*BASELINES, "network"]
    for field in fields.values():
        np.testing.assert_array_equal(np.isnan(field), conserve.spread(np.isnan(coarse), 4))


@pytest.mark.parametrize("method", ["network", "bicubic"])
def test_what_is_judged_is_what_downscale_gives(method):
    """The protocol refines whole arrays; downscale goes by tiles. Same numbers, gaps and edges included."""
    coarse = plumes((40, 37))
    coarse[10:13, 20:22] = np.nan
    wish = {"method": "bicubic"} if method == "bicubic" else {"model": default_model(4)}
    found = downscale(raster(coarse, units="1e15 molec cm-2"), 4, tile=64, **wish).values
    areas = grid.cell_areas(grid.refine(grid.geobox_of(raster(coarse)), 4))
    fields = refined(coarse, areas, 4, {"network": load_model(default_model(4))})
    judged = fields[CONSERVED if method == "bicubic" else method]
    np.testing.assert_allclose(found, judged, atol=2e-6 * np.nanmax(coarse))


def test_modcrop_of_odd_sizes():
    found = evaluate(raster(plumes((50, 47))), 4, network=False)
    assert found.valid.cells == 48 * 44


@pytest.mark.parametrize("scale", [2, 3, 5])
def test_bilinear_is_gdal_s(scale):
    """Referee: GDAL's bilinear resampling of the same array, away from the edge."""
    coarse = plumes((12, 14))
    with rasterio.MemoryFile() as memory:
        profile = {"driver": "GTiff", "width": 14, "height": 12, "count": 1, "dtype": "float32"}
        with memory.open(**profile) as file:
            file.write(coarse, 1)
        with memory.open() as file:
            shape = (1, 12 * scale, 14 * scale)
            gdal = file.read(1, out_shape=shape[1:], resampling=Resampling.bilinear)
    ours = bilinear(np.pad(coarse, 1, mode="edge"), scale)
    np.testing.assert_allclose(ours[scale:-scale, scale:-scale], gdal[scale:-scale, scale:-scale], atol=1e-5)


def test_back_projection_converges_to_the_coarse_field():
    coarse = plumes((30, 26)).astype(np.float64)
    areas = grid.cell_areas(GeoBox((120, 104), Affine(0.05, 0, 5, 0, -0.05, 52), "EPSG:4326"))
    left = []
    for rounds in (0, 1, 3, 10):
        fine = back_projected(np.pad(coarse, 2 * (rounds + 1), mode="edge"), areas, 4, rounds)
        assert fine.shape == (120, 104)
        left.append(np.abs(area_mean(fine, areas, 4) - coarse).max())
    assert left[0] > 3 * left[1] > 6 * left[2]
    assert left[3] < 0.01 * left[0]


def test_wrong_questions():
    with pytest.raises(InputError, match="no valid"):
        evaluate(raster(np.full((16, 16), np.nan, np.float32)), 4, network=False)
    with pytest.raises(ModelError, match="--no-network"):
        evaluate(raster(plumes((16, 16))), 8)
    with pytest.raises(UsageError, match="smaller --scale"):
        evaluate(raster(plumes((3, 16))), 4, network=False)
    with pytest.raises(UsageError, match="at least one"):
        evaluate([], 4, network=False)
    with pytest.raises(UsageError, match="above 0"):
        evaluate(raster(plumes((16, 16))), 4, network=False, data_range=0)
    with pytest.raises(UsageError, match="shaving"):
        evaluate(raster(plumes((16, 16))), 4, network=False, shave=-1)
    with pytest.raises(ModelError, match="for scale 2"):
        evaluate(raster(plumes((16, 16))), 4, default_model(2))


# --- networks ---


def linear_model(name="fake", family="edsr", sigma=None, gain=1.0, scale=4, hint=None):
    """What evaluate needs of a network: here ``gain`` times the bicubic of the channel, and perhaps a sigma.

    With a ``hint``, the truth, it wins: half of what bicubic misses is added.
    """

    def predict(coarse, engine):
        found = gain * interpolate.bicubic(np.asarray(coarse, np.float32), scale)
        return found if hint is None else (found + hint / np.float32(2)) / 2  # 2: the scaler's scale

    def band(coarse, engine):
        inner = coarse[interpolate.RADIUS : -interpolate.RADIUS, interpolate.RADIUS : -interpolate.RADIUS]
        return np.full((inner.shape[0] * scale, inner.shape[1] * scale), sigma, np.float32)

    card = SimpleNamespace(name=name, architecture=f"{family}-1", scaler=AffineScaler(0.0, 2.0, "1e15 molec cm-2"))
    return SimpleNamespace(
        card=card,
        family=family,
        scale=scale,
        halo=interpolate.RADIUS,
        sha256="0",
        predict=predict,
        has_sigma=sigma is not None,
        sigma=band,
    )


AREAS = np.ones((96, 1))


def test_a_network_that_is_bicubic_scores_like_conserved_bicubic():
    found = evaluate_array(plumes(), AREAS, 4, linear_model(), units="1e15 molec cm-2")
    assert found.valid.scores["edsr"].psnr == pytest.approx(found.valid.scores[CONSERVED].psnr, abs=1e-3)
    assert found.networks["edsr"].name == "fake"
    gain = {g.over: g for g in found.gains}
    assert set(gain) == {BICUBIC, BACK_PROJECTED}
    assert gain[BACK_PROJECTED].db < 0 < gain[BICUBIC].db
    assert gain[BICUBIC].db == pytest.approx(found.judged.gain(BICUBIC), abs=1e-6)
    assert "does NOT beat the best interpolation here, back-projected bicubic" in found.to_text().splitlines()[-1]
    assert (found.spectrum, found.panels) == (None, None)  # no grid was given
    with pytest.raises(UsageError, match="holds no maps"):
        found.figure("x.png")


def test_several_networks_and_who_wins():
    found = evaluate_array(plumes(), AREAS, 4, {"good": linear_model(hint=plumes()), "poor": linear_model(gain=0.5)})
    assert found.valid.networks == ("good", "poor")
    last = found.to_text().splitlines()[-1]
    assert last.startswith("good (+")
    assert last.endswith("does NOT beat the best interpolation here, back-projected bicubic")
    assert set(found.conservation) == {CONSERVED, BACK_PROJECTED, "good", "poor"}
    assert found.conservation_error == max(found.conservation.values()) < 1e-6 * found.largest


def test_labels_of_networks(monkeypatch):
    monkeypatch.setattr("geosr.evaluation.cases.resolve_model", lambda model, scale: model)
    a, b, c = linear_model("a"), linear_model("b", "srcnn"), linear_model("c", "srcnn")
    assert list(chosen_networks([a, b], 4)) == ["edsr", "srcnn"]
    assert list(chosen_networks([a, b, c], 4)) == ["edsr", "b", "c"]
    assert list(chosen_networks([b, b], 4)) == ["b", "b (2)"]
    assert list(chosen_networks(linear_model("x", "bicubic"), 4)) == ["bicubic (2)"]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_default_is_the_shipped_model_and_the_shipped_srcnn(scale):
    names = {m.card.name for m in chosen_networks(None, scale).values()}
    shipped = [c.name for c in available() if c.scale == scale]
    assert default_model(scale) in names
    assert names <= set(shipped)
    assert any("srcnn" in name for name in names) == any("srcnn" in name for name in shipped)
    assert next(iter(chosen_networks(default_model(scale), scale).values())).card.name == default_model(scale)


def test_coverage_of_a_network_with_sigma():
    """Sigma comes in channel units, here 2e15 molec cm-2; in mol m-2 that is another number, but the same share."""
    truth = plumes()
    truth[30:33, 40:50] = np.nan
    found = evaluate_array(truth, AREAS, 4, linear_model(sigma=0.1), units="1e15 molec cm-2")
    field = refined(area_mean(truth, AREAS, 4, 0.5), AREAS, 4)[CONSERVED]
    error = np.abs(field - truth)[~np.isnan(truth) & ~np.isnan(field)]
    cover = found.valid.sigma["edsr"]
    assert cover.one_sigma == pytest.approx(np.mean(error <= 0.2), abs=1e-3)
    assert cover.two_sigma == pytest.approx(np.mean(error <= 0.4), abs=1e-3)
    assert cover.mean_sigma == pytest.approx(0.2)
    assert found.away_from_gaps.sigma["edsr"].cells == found.away_from_gaps.cells < cover.cells
    assert "within 2" in found.to_text()
    factor = 1e15 * 1e4 / 6.02214076e23
    other = evaluate_array(truth * factor, AREAS, 4, linear_model(sigma=0.1), units="mol m-2")
    assert other.valid.sigma["edsr"].mean_sigma == pytest.approx(0.2 * factor)
    assert other.valid.sigma["edsr"].one_sigma == pytest.approx(cover.one_sigma, abs=1e-3)
    assert "within 2" not in evaluate_array(truth, AREAS, 4, linear_model()).to_text()


# --- options ---


def test_data_range_and_shave():
    truth = plumes()
    plain = evaluate_array(truth, AREAS, 4, None)
    given = evaluate_array(truth, AREAS, 4, None, settings=Settings(data_range=100.0))
    assert given.valid.data_range == 100
    for name in BASELINES:
        difference = 20 * np.log10(100 / plain.valid.data_range)
        assert given.valid.scores[name].psnr == pytest.approx(plain.valid.scores[name].psnr + difference)
    assert "(given)" in given.to_text()
    shaved = evaluate_array(truth, AREAS, 4, None, settings=Settings(shave=4))
    inner = truth[4:-4, 4:-4]
    assert shaved.valid.cells == inner.size
    field = refined(area_mean(truth, AREAS, 4), AREAS, 4)[BICUBIC][4:-4, 4:-4]
    everywhere = np.ones(inner.shape, bool)
    expected = metrics.score(inner, field, everywhere, value_range(inner, everywhere))
    assert shaved.valid.scores[BICUBIC].psnr == pytest.approx(expected.psnr)
    assert "4 cells shaved" in shaved.to_text()


@pytest.mark.parametrize("kind", ["area", "psf", "resize"])
def test_the_degradation_is_what_degrade_makes(kind):
    truth = raster(plumes())
    found = evaluate(truth, 4, network=False, kind=kind, noise=0.2, seed=3)
    coarse = degrade(truth, 4, 0.5, kind=kind, noise=0.2, seed=3).values
    nearest = conserve.spread(coarse, 4)
    assert found.valid.scores[NEAREST].rmse == pytest.approx(np.sqrt(np.mean((nearest - truth.values) ** 2)), rel=1e-6)
    assert found.degradation == Degradation(kind, noise=0.2, seed=3)
    assert found.to_dict()["degradation"]["noise"] == 0.2
    assert found.conservation_error < 1e-6 * found.largest  # conserved is what the sensor saw


def test_noise_of_a_dataset_s_precision():
    truth = raster(plumes(), units="1e15 molec cm-2", ancillary_variables="no2_precision").rename("no2")
    ds = xr.Dataset({"no2": truth, "no2_precision": xr.zeros_like(truth) + 0.3}, attrs={"source": "day.nc"})
    found = evaluate(ds, 4, network=False, noise="precision", seed=1)
    same = evaluate(truth, 4, network=False, noise=0.3, seed=1)
    assert found.valid.scores[NEAREST].rmse == pytest.approx(same.valid.scores[NEAREST].rmse, rel=1e-5)
    given = evaluate(truth, 4, network=False, noise=xr.zeros_like(truth) + 0.3, seed=1)
    assert given.valid.scores[NEAREST].rmse == pytest.approx(same.valid.scores[NEAREST].rmse, rel=1e-5)
    with pytest.raises(UsageError, match="brings none"):
        evaluate(ds.drop_vars("no2_precision"), 4, network=False, noise="precision")
    with pytest.raises(UsageError, match="brings no precision"):
        evaluate(truth, 4, network=False, noise="precision")
    with pytest.raises(UsageError, match="several truths"):
        evaluate([truth, truth], 4, network=False, noise=truth)


@pytest.mark.parametrize("grid_of_the_precision", ["fine", "coarse"])
def test_the_band_that_is_measured_is_what_downscale_writes(grid_of_the_precision):
    """Referee: geosr.downscale of the degraded field with its precision."""
    truth = raster(plumes(), units="1e15 molec cm-2", ancillary_variables="no2_precision").rename("no2")
    precision = (0.2 + truth / 10).rename("no2_precision")
    coarse = degrade(truth, 4, 0.5, noise=precision, seed=1).assign_attrs(truth.attrs)
    coarse_precision = degrade(precision, 4, 1e-6).drop_attrs()
    ds = xr.Dataset({"no2": truth, "no2_precision": precision})
    if grid_of_the_precision == "fine":
        found = evaluate(ds, 4, default_model(4), noise="precision", seed=1)
    else:
        found = evaluate(truth, 4, default_model(4), noise=coarse_precision, seed=1)
    fine = downscale(xr.Dataset({"no2": coarse, "no2_precision": coarse_precision}), 4, model=default_model(4))
    everywhere = np.ones(truth.shape, bool)
    wanted = metrics.coverage(truth.values, fine["no2"].values, fine["no2_uncertainty"].values, everywhere)
    got = found.valid.sigma[next(iter(found.networks))]
    for key in ("one_sigma", "two_sigma", "mean_sigma", "rms_sigma"):
        assert getattr(got, key) == pytest.approx(getattr(wanted, key), abs=1e-3)


# --- what has nothing to score, and what a network does not know ---


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_truths_are_left_out(value):
    good, flat = raster(plumes()), raster(np.full((96, 80), value, np.float32))
    with pytest.raises(InputError, match=f"is {value:g} everywhere: a constant field has nothing to score"):
        evaluate(flat, 4, network=False)
    with pytest.raises(EmptyTruth):
        evaluate_array(flat.values, AREAS, 4, linear_model(), settings=Settings(data_range=5.0))
    with pytest.warns(GeosrWarning, match="constant field has nothing to score: left out"):
        found = evaluate([good, flat], 4)
    alone = evaluate([good], 4)
    assert found.to_dict() == alone.to_dict()
    assert all(np.isfinite(g.db) for g in found.gains)
    with pytest.warns(GeosrWarning), pytest.raises(InputError, match="none of the truths has anything to score"):
        evaluate([flat, flat], 4, network=False)


def test_a_truth_that_is_constant_away_from_gaps_is_judged_on_all_cells():
    values = np.full((96, 80), 3, np.float32)
    values[40:44, 36:40] = plumes((4, 4))
    values[44:46, 36:40] = np.nan
    found = evaluate_array(values, AREAS, 4, None)
    assert found.away_from_gaps.cells == 0
    assert found.judged is found.valid
    assert np.isfinite(found.judged.scores[BICUBIC].psnr)


def test_the_heading_says_where_cases_fall_back_to_all_cells():
    everywhere = np.where(np.arange(96)[:, None] % 8 == 0, np.nan, plumes()).astype(np.float32)
    good, holed = (evaluate_array(v, AREAS, 4, None) for v in (plumes(), everywhere))
    for cases, heading, marks in (
        ((good, good), "dB, away from gaps, over", "  "),
        ((good, holed), "dB, away from gaps (*: all valid cells), over", " *"),
        ((holed, holed), "dB, all valid cells (*), over", "**"),
    ):
        lines = Evaluations.of(cases).to_text().splitlines()
        assert heading in lines[1]
        assert "".join(line[3] for line in lines[4:6]) == marks


def test_without_a_network_the_best_interpolations_are_counted():
    plain, noisy = (evaluate(raster(plumes()), 4, network=False, noise=n) for n in (0.0, 3.0))
    best = [found.judged.best_interpolation for found in (plain, noisy)]
    assert best[0] != best[1]
    told = Evaluations.of([noisy, plain, plain]).verdict()
    assert told == f"best interpolation: {best[0]} in 2 of 3 cases, {best[1]} in 1 of 3 cases"


@pytest.mark.parametrize(
    ("shave", "error", "match"),
    [(48, UsageError, "shaving 48 cells leaves nothing of 112 x 96"), (40, InputError, "no valid cell is left")],
)
def test_shaving_all_of_it(shave, error, match):
    values = np.full((112, 96), np.nan, np.float32)
    values[:, :32] = plumes((112, 32))
    with pytest.raises(error, match=match):
        evaluate(raster(values), 4, network=False, shave=shave)


def test_a_field_unlike_those_of_training_is_scored_with_a_warning():
    noise = raster(np.random.default_rng(0).normal(size=(160, 160)).astype(np.float32), units="1e15 molec cm-2")
    with pytest.warns(GeosrWarning, match="the truth: the coarse field is far outside .* downscale refuses it"):
        found = evaluate(noise, 4, default_model(4))
    (network,) = found.networks.values()
    assert network.envelope.startswith("overridden: ")
    assert found.to_dict()["networks"][network.family]["envelope"] == network.envelope
    assert np.isfinite(found.judged.gain(BICUBIC))
    wide = raster(plumes(), units="K")
    with pytest.warns(GeosrWarning, match="measure something else"):
        evaluate(wide, 4, default_model(4))
    (inside,) = evaluate(raster(plumes(), units="1e15 molec cm-2"), 4, default_model(4)).networks.values()
    assert inside.envelope == "inside"


# --- verdicts ---


def gain(db, low=None, high=None, method="net", units="blocks"):
    n = (20 if low is not None else 2) if units == "blocks" else (9 if low is not None else 2)
    return Gain(method, "b", db, low, high, units, n, db, int(db > 0))


@pytest.mark.parametrize(
    ("gains", "told"),
    [
        ([gain(0.4, 0.1, 0.6)], "net (+0.40 dB [+0.10, +0.60]) beats b"),
        ([gain(-0.4, -0.6, -0.1)], "net (-0.40 dB [-0.60, -0.10]) does NOT beat b"),
        ([gain(0.44, -0.28, 2.18)], "net (+0.44 dB [-0.28, +2.18]) cannot be told apart from b"),
        ([gain(-0.2, -0.3, 0.1)], "net (-0.20 dB [-0.30, +0.10]) cannot be told apart from b"),
        ([gain(2.5e-7, 1e-7, 3e-7)], "net (+0.00 dB [+0.00, +0.00]) is as good as b"),
        ([gain(-2.5e-7)], "net (-0.00 dB, too small for an interval) is as good as b"),
        ([gain(0.4)], "net (+0.40 dB, too small for an interval) beats b"),
        ([gain(-0.4)], "net (-0.40 dB, too small for an interval) does NOT beat b"),
        ([gain(0.4, units="cases")], "net (+0.40 dB, too few cases for an interval) beats b"),
        ([gain(1, 0.5, 2), gain(2, 1, 3, "o")], "net (+1.00 dB [+0.50, +2.00]) and o (+2.00 dB [+1.00, +3.00]) beat b"),
        (
            [gain(-1, -2, -0.5), gain(0.2, -1, 1, "o")],
            "o (+0.20 dB [-1.00, +1.00]) cannot be told apart from b; net (-1.00 dB [-2.00, -0.50]) does NOT beat b",
        ),
    ],
)
def test_a_verdict_claims_what_the_interval_bears(gains, told):
    assert verdict(gains, "b") == told


# --- several cases ---


def test_each_time_is_a_case_and_noise_is_its_own():
    stack = xr.concat([raster(plumes(seed=i)) for i in range(3)], "time")
    stack = stack.assign_coords(time=np.array(["2024-06-12", "2024-06-13", "2024-06-14"], "datetime64[ns]"))
    found = evaluate(stack, 4)
    assert isinstance(found, Evaluations)
    assert [case.label for case in found] == ["2024-06-12", "2024-06-13", "2024-06-14"]
    alone = evaluate(stack[1], 4)
    assert isinstance(alone, Evaluation)
    assert found[1].to_dict()["valid"] == alone.to_dict()["valid"]
    network = next(iter(found[0].networks))
    mean = np.mean([case.judged.gain(BICUBIC) for case in found])
    over = {g.over: g for g in found.gains if g.method == network}
    assert over[BICUBIC].db == pytest.approx(mean)
    assert over["best interpolation"].db == pytest.approx(
        np.mean([case.judged.gain(case.judged.best_interpolation) for case in found])
    )
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert len(document["cases"]) == 3
    assert document["verdict"] in found.to_text()
    same = evaluate([stack[0], stack[0]], 4, network=False, noise=0.5)
    assert same[0].valid.scores[NEAREST].rmse != same[1].valid.scores[NEAREST].rmse


def test_empty_cases_are_left_out_with_a_warning():
    good = raster(plumes())
    empty = good.where(False)
    with pytest.warns(GeosrWarning, match="left out"):
        found = evaluate([good, empty], 4, network=False)
    assert len(found) == 1
    with pytest.warns(GeosrWarning), pytest.raises(InputError, match="none of the truths"):
        evaluate([empty, empty], 4, network=False)
    lone = evaluate([good], 4, network=False)  # a list gives Evaluations, also of one
    assert isinstance(lone, Evaluations)
    pair = Evaluations.of([evaluate_array(plumes(seed=i), AREAS, 4, linear_model()) for i in (0, 1)])
    assert "too few cases for an interval" in pair.to_text()


def test_errors_name_the_case():
    ds = raster(np.full((16, 16), np.nan, np.float32)).rename("no2").to_dataset().assign_attrs(source="day.nc")
    with pytest.raises(InputError, match="day.nc: the truth has no valid"):
        evaluate(ds, 4, network=False)


def test_a_case_that_loses_is_named_last():
    cases = []
    for seed, wins in ((0, True), (1, False), (2, True)):
        model = linear_model(hint=plumes(seed=seed)) if wins else linear_model()
        cases.append(evaluate_array(plumes(seed=seed), AREAS, 4, {"net": model}, label=f"day {seed}"))
    found = Evaluations.of(cases)
    assert found.gains[1].wins == 2
    last = found.to_text().splitlines()[-1]
    assert last.startswith("net (+")
    assert "too" not in last
    assert "cannot be told apart from the best interpolation in the mean" in last  # of three, one loses
    assert last.split("; ")[1].startswith("net does NOT beat it in 1 of 3 cases (worst -")
    sure = Evaluations.of([cases[0], cases[2]] * 5 + [cases[1]]).verdict()
    assert " beats the best interpolation in the mean; net does NOT beat it in 1 of 11 cases (worst -" in sure


def test_texts_fit_110_columns():
    truth = raster(plumes() * np.float32(-1e17), units="molec cm-2")
    one = evaluate(truth, 4)
    long = xr.concat([truth] * 3, "time").to_dataset(name="no2").assign_attrs(source="S5P_" + "x" * 90 + ".nc")
    for text in (one.to_text(), evaluate(long, 4).to_text()):
        *table, verdict = text.splitlines()
        assert max(map(len, table)) <= 110, max(table, key=len)
        assert verdict


def test_all_doorways_lead_to_the_function():
    truth = raster(plumes(), units="1e15 molec cm-2")
    expected = geosr.evaluate(truth, 4, network=False, kind="psf", shave=4).to_dict()
    assert truth.geosr.evaluate(4, network=False, kind="psf", shave=4).to_dict() == expected
    ds = truth.rename("no2").to_dataset()
    assert ds.geosr.evaluate(4, network=False, kind="psf", shave=4).to_dict() == expected


def test_truths_are_files_too(tmp_path):
    path = write_tif(tmp_path / "ok.tif", plumes())
    expected = evaluate(geosr.open_no2(path), 4, network=False).to_dict()
    assert geosr.evaluate(str(path), 4, network=False).to_dict() == expected
    assert geosr.evaluate(path, 4, network=False).to_dict() == expected
    several = geosr.evaluate([path, str(path)], 4, network=False)
    assert [case.label for case in several] == ["ok.tif", "ok.tif"]
    with pytest.raises(InputError, match="none.tif"):
        geosr.evaluate(tmp_path / "none.tif", 4)


@pytest.mark.parametrize("truth", [plumes(), [plumes()], 4, None])
def test_what_is_no_truth(truth):
    with pytest.raises(UsageError, match="truth cannot be of the type .* DataArray on a grid"):
        evaluate(truth, 4, network=False)


# --- real data outside the training set ---

HELD_OUT = {
    "no2_omi_world/WorldNO2_2020.tif": "molec cm-2",
    "no2_gems_china/daily/gems_no2_trop_20231024_daymean.tif": "1e15 molec cm-2",
    "no2_gems_china/daily/gems_no2_trop_20231030_daymean.tif": "1e15 molec cm-2",
}


@pytest.mark.slow
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", HELD_OUT)
def test_shipped_models_win_on_held_out_data(data_dir, name, scale):
    """Other dates: better than the best interpolation, in PSNR and in structure, for each network judged by default."""
    truth = geosr.open_no2(data_dir / name, input_units=HELD_OUT[name])
    for model in chosen_networks(None, scale).values():
        assert name.rsplit("/")[-1] not in model.card.training["files"]
    found = evaluate(truth, scale)
    for table in (found.valid, found.away_from_gaps):
        for network in table.networks:
            assert table.gain(CONSERVED, network) > 0.3
            assert table.gain(BACK_PROJECTED, network) > 0.15
            assert table.scores[network].ssim > table.scores[BACK_PROJECTED].ssim
