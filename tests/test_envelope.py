"""What a field is like, and whether a network has seen its like."""

import json

import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from bundles import NO2_ENVELOPE
from geosr.envelope import CHECKS, Envelope, Judgement, Sample, measure
from geosr.errors import GeosrWarning, ModelError, RefusedError
from geosr.fieldstats import MIN_CELLS, SIDE, WINDOWS, sample
from strategies import smooth_field

NO2 = Envelope.from_dict(NO2_ENVELOPE)
UNITS = "mol m-2"
CELL = 20e3


def plumes(shape=(120, 140), noise=0.02, seed=0) -> np.ndarray:
    """Something like a NO2 map: a varied background, sources with tails, a little noise."""
    rng = np.random.default_rng(seed)
    background = 1 + 0.3 * ndimage.gaussian_filter(rng.normal(size=shape), 12) * 12
    sources = np.where(rng.random(shape) < 0.004, rng.lognormal(3, 1, shape), 0)
    return background + ndimage.gaussian_filter(sources, 2.5) + noise * rng.normal(size=shape)


# --- measuring -------------------------------------------------------------------------------------------------


@given(st.floats(1e-9, 1e17), st.floats(-3, 3), st.integers(0, 9))
@settings(max_examples=20)
def test_nothing_changes_when_the_field_is_scaled_or_shifted(factor, shift, seed):
    field = plumes((50, 60), seed=seed)
    field[10:14, 20:50] = np.nan
    want = measure(field, CELL).statistics
    got = measure(factor * (field + shift), CELL).statistics
    assert set(got) == set(want) == set(CHECKS)
    for name, value in want.items():
        assert got[name] == pytest.approx(value, rel=1e-5), name


def test_statistics_are_those_of_their_definitions():
    field = plumes()
    field[3:9, 40:60] = np.nan
    found = measure(field, CELL)
    valid = field[~np.isnan(field)]
    assert found.cells == valid.size
    low, median, high = np.percentile(valid, [16, 50, 84])
    for name, percent in (("lower", 0.1), ("upper", 99), ("peak", 99.9)):
        reach = abs(np.percentile(valid, percent) - median)
        assert found.statistics[name] == pytest.approx(reach / ((high - low) / 2))
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    response = ndimage.convolve(field, mask, mode="constant", cval=np.nan)[1:-1, 1:-1]
    sigma = (
        stats.median_abs_deviation(response, axis=None, nan_policy="omit", center=lambda *_, **__: 0.0) / 0.67449 / 6
    )
    assert found.statistics["noise"] == pytest.approx(sigma / valid.std(), rel=1e-4)
    ranks = np.full(field.shape, np.nan)
    ranks[~np.isnan(field)] = stats.rankdata(valid)
    pairs = np.hstack([(ranks[:, :-1].ravel(), ranks[:, 1:].ravel()), (ranks[:-1].ravel(), ranks[1:].ravel())])
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    assert found.statistics["neighbours"] == pytest.approx(np.corrcoef(pairs)[0, 1])
    assert found.statistics["levels"] == valid.size


def test_equal_values_share_their_rank():
    field = np.round(plumes(seed=3), 1)
    ranks = stats.rankdata(field).reshape(field.shape)
    pairs = np.hstack([(ranks[:, :-1].ravel(), ranks[:, 1:].ravel()), (ranks[:-1].ravel(), ranks[1:].ravel())])
    found = measure(field, CELL).statistics
    assert found["neighbours"] == pytest.approx(np.corrcoef(pairs)[0, 1])
    assert found["levels"] == len(np.unique(field)) < field.size / 10


@pytest.mark.parametrize("sigma", [0.1, 1.0, 4.0])
def test_noise_is_found_beside_plumes_and_gradients(sigma):
    smooth = ndimage.gaussian_filter(plumes((200, 200), noise=0), 2)
    field = smooth + 0.1 * np.arange(200) + sigma * np.random.default_rng(1).normal(size=smooth.shape)
    found = measure(field, CELL).statistics["noise"] * field.std()
    assert found == pytest.approx(sigma, rel=0.1)
    spiked = field.copy()
    spiked[50:60, 50:60] += 500 * np.random.default_rng(2).random((10, 10))
    assert measure(spiked, CELL).statistics["noise"] * spiked.std() == pytest.approx(found, rel=0.1)


@pytest.mark.parametrize(
    "field",
    [
        np.full((90, 90), 3.0),
        np.full((90, 90), np.nan),
        np.zeros((0, 0)),
        plumes((30, 30)),
        np.eye(200),
        np.where(np.indices((90, 90)).sum(axis=0) < 9, 1.0, np.nan),
    ],
    ids=["constant", "missing", "empty", "tiny", "spikes on a constant", "a corner"],
)
def test_where_there_is_nothing_to_judge_nothing_is_said(field):
    with np.errstate(all="raise"):
        found = measure(field, CELL)
    assert found.statistics == {}
    assert NO2.judge(found, UNITS) == Judgement()


def test_what_cannot_be_had_is_left_out():
    half = np.where(np.random.default_rng(0).random((90, 90)) < 0.14, plumes((90, 90)), 0.0)
    sparse = np.full((200, 200), np.nan)
    sparse[::2, ::2] = plumes((100, 100))
    with np.errstate(all="raise"):
        assert not {"lower", "upper", "peak"} & set(measure(half, CELL).statistics)
        assert not {"noise", "neighbours"} & set(measure(sparse, CELL).statistics)
    assert "lower" in measure(sparse, CELL).statistics
    assert "neighbours" in measure(half, CELL).statistics


def test_windows_are_one_field():
    field = plumes((100, 90))
    whole = measure(field, CELL)
    parts = measure([field[:50], field[50:]], CELL)
    assert parts.cells == whole.cells
    for name in ("lower", "upper", "peak", "levels"):
        assert parts.statistics[name] == whole.statistics[name]
    for name in ("noise", "neighbours"):  # all but what lies across the cut
        assert parts.statistics[name] == pytest.approx(whole.statistics[name], rel=0.05)


# --- looking at a part of it --------------------------------------------------------------------------------------


def test_a_small_plane_is_looked_at_whole():
    field = plumes((300, 500))
    assert sample(field, CELL) == measure(field, CELL)
    assert sample(da.from_array(field[None, None], chunks=70), CELL) == measure(field, CELL)


def counted(values: np.ndarray, chunk: int) -> tuple[da.Array, list[tuple]]:
    """A lazy array that notes which of its chunks are computed."""
    seen = []

    def look(block, block_info=None):
        seen.append(tuple(a for a, _ in block_info[0]["array-location"]))
        return block

    chunks = (*(1 for _ in values.shape[:-2]), chunk, chunk)
    lazy = da.from_array(values, chunks=chunks, name=False)
    return da.map_blocks(look, lazy, dtype=values.dtype, meta=np.empty((0,) * values.ndim)), seen


def test_of_a_large_lazy_raster_a_few_windows_are_computed():
    tile = plumes((256, 256))
    field = np.tile(tile, (12, 16))
    lazy, seen = counted(field, SIDE)
    found = sample(lazy, CELL)
    assert 0 < found.cells <= WINDOWS * SIDE**2
    assert len(set(seen)) <= 4 * WINDOWS  # a window may lie across four chunks
    rows, cols = (np.array(axis) / n for axis, n in zip(zip(*seen, strict=True), field.shape, strict=True))
    for axis in (rows, cols):  # spread over the whole
        assert len(set((axis * 4).astype(int))) == 4
    want = measure(tile, CELL).statistics
    for name in ("lower", "upper", "noise", "neighbours"):
        assert found.statistics[name] == pytest.approx(want[name], rel=0.2)


def test_windows_without_data_are_passed_over():
    field = np.full((1500, 1500), np.nan)
    field[1000:, :600] = plumes((500, 600))
    assert sample(field, CELL).cells > 4 * SIDE**2
    lazy, seen = counted(np.full((3000, 3000), np.nan), SIDE)
    assert sample(lazy, CELL) == Sample(0, CELL)
    assert len(set(seen)) <= 4 * 64


@pytest.mark.parametrize("shape", [(40, 60, 70), (3, 200, 300), (1, 2, 1000, 9), (2, 3, 5000), (300, 2, 2)])
def test_of_many_planes_some_are_looked_at(shape):
    lazy, seen = counted(np.random.default_rng(0).normal(size=shape), 5000)
    found = sample(lazy, CELL)
    planes = {place[:-2] for place in seen}
    assert len(planes) == min(8, np.prod(shape[:-2]))
    assert (0,) * len(shape[:-2]) in planes
    assert found.statistics == {} or abs(found.statistics["neighbours"]) < 0.1


# --- judging ---------------------------------------------------------------------------------------------------


def judged(field, units=UNITS, cell_m=CELL) -> Judgement:
    return NO2.judge(measure(np.asarray(field, dtype=float), cell_m), units)


RNG = np.random.default_rng(0)
CLASSES = np.digitize(ndimage.gaussian_filter(RNG.normal(size=(99, 99)), 3), np.linspace(-0.1, 0.1, 8))
NONSENSE = {
    "white noise": (RNG.normal(size=(64, 64)), "noise level"),
    "uniform noise": (RNG.random((64, 64)), "noise level"),
    "lognormal noise": (RNG.lognormal(size=(64, 64)), "correlation of neighbouring cells"),
    "rare spikes of noise": (RNG.lognormal(0, 2, size=(64, 64)), "correlation of neighbouring cells"),
    "a checkerboard": (np.indices((64, 64)).sum(axis=0) % 2, "noise level"),
    "a map of classes": (CLASSES, "only 9 different values"),
    "an undeclared nodata value": (np.where(RNG.random((120, 140)) < 0.01, -9999, plumes()), "below the median"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_what_is_no_column_map_is_refused(name):
    field, words = NONSENSE[name]
    found = judged(field)
    assert any(words in text for text in found.refusals), found
    assert all("trained on" in text for text in found.refusals + found.warnings)
    assert judged(field * 1e15 + 5e14).refusals
    assert measure(np.asarray(field, dtype=float), CELL).statistics["noise"] <= 1


@pytest.mark.parametrize("noise", [0.02, 0.2, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_maps_of_plumes_pass(noise, seed):
    """The noise is up to that of single TROPOMI pixels over clean ground."""
    found = judged(plumes(noise=noise, seed=seed))
    assert not found.refusals
    assert found.inside or noise > 0.1


@pytest.mark.parametrize("seed", range(4))
def test_a_few_plumes_in_much_noise_are_data(seed):
    found = judged(smooth_field((250, 250), seed))
    assert not found.refusals
    assert found.warnings


@pytest.mark.parametrize(
    ("units", "refused", "warned"),
    [
        ("mol m-2", False, False),
        ("molecules/cm^2", False, False),
        ("1/cm2", False, False),
        ("DU", False, False),
        ("kg m-2", False, True),
        ("m", True, False),
        ("K", True, False),
        ("ppb", True, False),
        ("percent", True, False),
        ("ug m-3", True, False),
        ("mol", True, False),
        (None, False, False),
        ("", False, False),
        ("1", False, False),
        ("counts of bananas", False, False),
    ],
)
def test_units(units, refused, warned):
    found = judged(plumes(), units)
    assert bool(found.refusals) == refused
    assert bool(found.warnings) == warned
    if refused or warned:
        assert f"'{units}'" in found.text
        assert "1e15 molec cm-2" in found.text


def test_units_that_are_not_known_are_mentioned_only_if_something_else_is_off():
    assert judged(plumes(), None).inside
    far = judged(plumes(), None, 300e3)
    assert far.warnings == (
        "cells of 300 km, trained on 10 km to 111 km",
        "the units (none) are not known, trained on 1e15 molec cm-2",
    )
    assert judged(plumes(), UNITS, 300e3).warnings == far.warnings[:1]
    assert Envelope().judge(measure(plumes(), 1.0), "K").inside, "a model without units takes anything"
    assert Envelope("furlongs of fun").judge(measure(plumes(), 1.0), "K").inside


@pytest.mark.parametrize(
    ("metres", "refused", "outside"),
    [
        (10, True, True),
        (99, True, True),
        (1100, False, True),
        (1300, False, False),
        (10e3, False, False),
        (111e3, False, False),
        (250e3, False, False),
        (300e3, False, True),
        (500e3, True, True),
        (float("nan"), False, False),
    ],
)
def test_cell_sizes(metres, refused, outside):
    found = judged(plumes(), cell_m=metres)
    assert (bool(found.refusals), not found.inside) == (refused, outside)


@pytest.mark.parametrize("name", sorted(CHECKS))
def test_each_range_has_its_margins(name):
    low, high = NO2.statistics[name]

    def verdict(value):
        found = NO2.judge(Sample(9999, CELL, {name: value}), UNITS)
        return "far" if found.refusals else "outside" if found.warnings else "inside"

    assert verdict(low) == verdict(high) == verdict((low + high) / 2) == "inside"
    beyond = {
        "lower": {0.1: "outside", 5: "outside", 50: "far"},
        "upper": {1.5: "outside", 40: "outside", 1e9: "outside"},
        "peak": {2: "outside", 200: "outside", 1e9: "outside"},
        "noise": {0.0: "outside", 0.2: "inside", 0.5: "outside", 0.85: "outside", 0.95: "far", 1.0: "far"},
        "neighbours": {0.5: "inside", 0.4: "outside", 0.02: "far", -1: "far", 1.0: "inside"},
        "levels": {2: "far", 48: "far", 49: "inside", 1e7: "inside"},
    }
    for value, want in beyond[name].items():
        assert verdict(value) == want, value


def test_an_envelope_holds_what_it_was_made_of():
    fields = [plumes(seed=s, noise=0.02 * s) for s in range(5)]
    samples = [measure(f, 1e4 * (n + 1)) for n, f in enumerate(fields)] + [Sample(0, 5e3)]
    envelope = Envelope.of(samples, UNITS)
    assert envelope.cell_m == (5e3, 5e4)
    assert all(envelope.judge(s, UNITS).inside for s in samples)
    for name, (low, high) in envelope.statistics.items():
        values = [s.statistics[name] for s in samples[:-1]]
        assert (low, high) == (min(values), max(values))


def test_it_travels_in_a_card():
    envelope = Envelope.of([measure(plumes(seed=s), CELL) for s in range(3)], UNITS)
    text = json.dumps(envelope.to_dict(), allow_nan=False)
    back = Envelope.from_dict(json.loads(text), scale=4)
    assert back.to_dict() == envelope.to_dict()
    assert back.units == UNITS
    assert back.cell_m == (CELL, CELL)
    for name, ends in envelope.statistics.items():
        assert back.statistics[name] == pytest.approx(ends, rel=1e-3)


def test_what_a_card_does_not_say_is_not_checked():
    noise = measure(NONSENSE["white noise"][0], 3.0)
    assert Envelope.from_dict({}).judge(noise, "K").inside
    assert Envelope.of([], None) == Envelope()
    old = {"units": "1e15 molec cm-2", "values": {"min": 0.06, "max": 57.5}, "fine_cell_m": [5023, 10047]}
    first = Envelope.from_dict(old, scale=4)
    assert first.cell_m == (20092, 40188)
    assert first.judge(measure(NONSENSE["white noise"][0], CELL), UNITS).inside
    assert first.judge(noise, "K").refusals[0] == "cells of 3 m, trained on 20.1 km to 40.2 km"


@pytest.mark.parametrize(
    "wrong",
    [
        {"coarse_cell_m": "large"},
        {"coarse_cell_m": [3]},
        {"coarse_cell_m": [2, 1]},
        {"fine_cell_m": 7},
        {"statistics": []},
        {"statistics": {"noise": [0, None]}},
        {"statistics": {"noise": [float("nan"), 1]}},
        {"coarse_cell_m": [1, float("inf")]},
    ],
)
def test_a_card_from_a_stranger_is_checked(wrong):
    with pytest.raises(ModelError, match="envelope"):
        Envelope.from_dict(wrong, 4)


def test_check_refuses_warns_and_yields():
    noise, field = NONSENSE["white noise"][0], plumes()
    with pytest.raises(RefusedError, match=r"m9 was trained on: noise level 0.97, .*--method bicubic.*--force-model"):
        NO2.check(noise, CELL, UNITS, "m9")
    with pytest.warns(GeosrWarning, match="far outside what m9"):
        assert NO2.check(noise, CELL, UNITS, "m9", force=True).startswith(
            "overridden: noise level 0.97, trained on 0.009"
        )
    with pytest.warns(GeosrWarning, match="is outside what m9"):
        assert NO2.check(field, 300e3, UNITS, "m9").startswith("outside: cells of 300 km")
    assert NO2.check(field, CELL, UNITS, "m9") == NO2.check(field, CELL, UNITS, "m9", force=True) == "inside"


def test_fewer_cells_than_the_least_say_nothing():
    side = int(MIN_CELLS**0.5)
    assert measure(RNG.normal(size=(side, side)), CELL).statistics == {}
    assert measure(RNG.normal(size=(side + 1, side + 1)), CELL).statistics["noise"] > 0.85


@pytest.mark.filterwarnings("ignore::geosr.errors.GeosrWarning")
@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize(
    ("pattern", "silent"),
    [
        ("no2_gems_china/daily/*2023102[135]*.tif", True),
        ("no2_gems_china/*UTC.tif", True),
        ("no2_omi_world/*2020.tif", True),
        ("no2_omi_countries/[GU]*.tif", False),
        ("no2_omi_romania/*monthly.nc", False),
        ("no2_s5p_l3_harp/*.nc", True),
        ("no2_s5p_gee/no2_2*.tif", False),
    ],
)
def test_no_real_column_map_is_refused(data_dir, pattern, silent, scale):
    import geosr
    from geosr.degrade import area_mean
    from geosr.grid import cell_areas, cell_size_m, geobox_of

    paths = sorted(data_dir.glob(pattern))
    assert paths
    for path in paths:
        column = geosr.open_no2(path, variable="1" if "countries" in pattern else None).geosr.no2
        column = column.isel(dict.fromkeys(column.dims[:-2], 0))
        box = geobox_of(column)
        ny, nx = (n // scale * scale for n in column.shape)
        coarse = area_mean(column.values[:ny, :nx], cell_areas(box)[:ny, :1], scale, 0.5)
        found = NO2.judge(sample(coarse, scale * cell_size_m(box)), column.attrs.get("units"))
        assert not found.refusals, path
        assert found.inside or not silent, (path, found)


def test_elevation_is_refused_by_its_units(data_dir):
    import geosr

    heights = geosr.open_no2(data_dir / "covariates_gems_china" / "dem_m.tif", input_units="m").geosr.no2
    found = NO2.judge(sample(heights.data, 5e3), heights.attrs["units"])
    assert found.refusals == ("the units 'm' measure something else, trained on columns (1e15 molec cm-2)",)
