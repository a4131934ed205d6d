"""Columns made continuous and back, and the laws of tables that have such."""

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import lognorm

from transportjax.apps import (
    Table,
    fit_table_law,
    load_table_law,
    sample_table,
    save_table_law,
    table_log_likelihood,
)
from transportjax.apps.table_columns import column_form, gather, spread

NUM = 1000
RNG = np.random.default_rng(0)
SPREAD = RNG.exponential(size=NUM)
IS_ZERO = RNG.uniform(size=NUM) < 0.4


# a column, its step, and which values have intervals of their own
COLUMNS = {
    "continuous": (RNG.normal(size=NUM), 0.0, []),
    "counts": (RNG.poisson(3, NUM), 1.0, []),
    "two values": (IS_ZERO, 1.0, []),
    "two signs": (np.where(IS_ZERO, -1, 1), 1.0, [1]),
    "prices": (np.round(20 + 5 * SPREAD, 2), 0.01, []),
    "thousands": (1000 * RNG.integers(10, 99, NUM), 1000.0, []),
    "rain": (np.where(IS_ZERO, 0, SPREAD), 0.0, [0]),
    "below zero": (np.where(IS_ZERO, 0, -SPREAD), 0.0, [0]),
    "income": (np.where(IS_ZERO, 0, np.round(5000 * np.exp(SPREAD))), 1.0, [0]),
    "capped": (np.minimum(SPREAD, 1.5), 0.0, [1.5]),
    "filled in": (np.where(IS_ZERO, 0.125, SPREAD - 0.5), 0.0, [0.125]),
    "both ends": (np.clip(SPREAD, 0.25, 1.5), 0.0, [0.25, 1.5]),
    "few values": (RNG.choice([0, 0.5, 1], NUM, p=[0.3, 0.6, 0.1]), 0.1, [0, 0.5, 1]),
    "huge": (np.where(IS_ZERO, 0, 1e30 * SPREAD), 0.0, [0]),
    "tiny": (np.where(IS_ZERO, 0, 1e-30 * SPREAD), 0.0, [0]),
    "rare": (np.where(SPREAD < 2, 0, SPREAD), 0.0, [0]),
    "rare, huge": (np.where(SPREAD < 2, 0, 1e30 * SPREAD), 0.0, [0]),
    "rare, tiny": (np.where(SPREAD < 2, 0, 1e-30 * SPREAD), 0.0, [0]),
    "rare, rounded": (np.round(np.where(SPREAD < 2, 0, 10 * SPREAD)), 1.0, [0]),
    "rare, both sides": (np.where(np.abs(SPREAD - 1) < 0.95, 0, SPREAD - 1), 0.0, [0]),
    "rare, two values": (
        np.where(SPREAD < 2, np.where(IS_ZERO, 0, 0.125), SPREAD),
        0.0,
        [0, 0.125],
    ),
    "rare, capped": (np.minimum(SPREAD, 0.1), 0.0, [0.1]),
    "twice": (np.tile(SPREAD[: NUM // 2], 2), 0.0, []),
    "one": (np.array([3.5]), 0.1, []),
    "a dozen": (SPREAD[:12], 0.0, []),
    "a dozen in pairs": (np.repeat(SPREAD[:6], 2), 0.0, []),
    "a dozen, half zero": (np.where(np.arange(12) < 6, 0, SPREAD[:12]), 0.0, [0]),
    "constant": (np.full(NUM, 3.5), 0.1, []),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_continuous_and_back(name):
    x, step, repeated = COLUMNS[name]
    x = x.astype(float)
    form = column_form(x)
    assert (form.step, form.repeated.tolist()) == (step, repeated)
    places = np.random.default_rng(1).uniform(size=len(x))
    y, log_volumes = spread(form, x, places)
    decimals = 100 if step == 0 else round(-np.log10(step))
    again = gather(form, y, decimals)
    unit = 1e-12 * np.ptp(x) if step == 0 else 0
    np.testing.assert_allclose(again, x, rtol=0, atol=unit)
    is_repeated = np.isin(x, repeated)
    np.testing.assert_array_equal(again[is_repeated], x[is_repeated])
    # in the same order, and next to each other: no interval covers another
    order = np.argsort(y)
    assert (np.diff(x[order]) >= 0).all()
    # what the density is multiplied by: the length of the interval, or the slope
    moved = 1e-7 * np.where((step == 0) & ~is_repeated, np.ptp(x), 0)
    further = spread(form, x + moved, np.where(moved > 0, places, places + 1e-7))[0]
    slopes = (further - y) / np.where(moved > 0, moved, 1e-7)
    slopes *= np.where((step > 0) & (step < 1) & ~is_repeated, 1 / (step or 1), 1)
    is_smooth = np.abs(slopes / np.exp(log_volumes) - 1) < 1e-2
    assert name in ("one", "constant") or is_smooth.mean() > 0.97  # but for knots
    if not repeated:
        assert (log_volumes == np.log(max(step, 1))).all()


@pytest.mark.parametrize("name", ["rain", "capped", "filled in"])
def test_the_density_of_a_value_that_repeats_is_that_of_others(name):
    """Within a factor of two of that of the middle half."""
    x = COLUMNS[name][0]
    form = column_form(x)
    is_other = ~np.isin(x, form.repeated)
    density = is_other.sum() / 2 / np.subtract(*np.quantile(x[is_other], [0.75, 0.25]))
    own = (~is_other).sum() / np.diff(form.scores)[1]  # between start and stop
    assert 0.5 < own / density < 2


def test_between_two_values_there_is_none():
    x = COLUMNS["two signs"][0].astype(float)
    form = column_form(x)
    y = spread(form, x, np.full(len(x), 0.5))[0]
    drawn = gather(form, np.linspace(y.min() - 1, y.max() + 1, 10_001), 0)
    assert set(drawn) == {-1, 1}


@pytest.mark.parametrize("name", [n for n in COLUMNS if n.startswith("rare")])
def test_columns_with_a_value_that_repeats_become_normal(name):
    """Also if the others are few; those keep their law in between."""
    x = COLUMNS[name][0].astype(float)
    form = column_form(x)
    y = spread(form, x, (np.arange(len(x)) + 0.5) / len(x))[0]
    shares = ndtr(np.sort(y))
    error = np.max(np.abs(shares - (np.arange(len(x)) + 0.5) / len(x)))
    assert error < 1 / np.sqrt(len(x))
    drawn = gather(form, ndtri((np.arange(20_000) + 0.5) / 20_000), 100)
    for value in form.repeated:
        assert abs(np.mean(drawn == value) - np.mean(x == value)) < 2 / len(x)


def test_nothing_lies_in_a_gap():
    """Between zero and the least income there is no mass, and none is drawn."""
    x, _, _ = COLUMNS["income"]
    form = column_form(x)
    _, log_volumes = spread(form, np.array([2000.0, 5001.0]), np.full(2, 0.5))
    assert np.isneginf(log_volumes[0])
    assert np.isfinite(log_volumes[1])
    drawn = gather(form, np.linspace(-1e4, 5e4, 20_000), 0)
    assert ((drawn == 0) | (drawn > 4500)).all()
    assert (drawn == 0).any()


def mixed(num=NUM, seed=0):
    """A normal column; rain, most likely where it is low; and incomes."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=num)
    rain = np.where(z + rng.normal(size=num) > 0, 0, rng.exponential(size=num))
    pay = np.round(5000 * np.exp(0.5 * rng.exponential(size=num)))
    return np.stack([z, rain, np.where(rng.uniform(size=num) < 0.3, 0, pay)], axis=1)


@pytest.fixture(scope="module")
def law():
    return fit_table_law(Table(mixed(), ("z", "rain", "pay")), num_steps=60)


def test_samples_have_as_many_zeros(law):
    data, drawn = mixed(), sample_table(law, 10_000).values
    for column in (1, 2):
        share = np.mean(data[:, column] == 0)
        assert abs(np.mean(drawn[:, column] == 0) - share) < 0.04
        assert drawn[:, column].min() == 0
        middle = (np.median(x[x[:, column] > 0, column]) for x in (data, drawn))
        np.testing.assert_allclose(*middle, rtol=0.12)
    pay = drawn[:, 2]
    assert (pay == pay.round()).all()
    assert np.mean((pay > 0) & (pay < 4000)) < 0.005
    # where the first column is high, the second is zero more often
    shares = [np.mean(x[x[:, 0] > 0.5, 1] == 0) for x in (data, drawn)]
    assert abs(shares[0] - shares[1]) < 0.06


def test_the_law_in_a_file_is_the_same(law, tmp_path):
    save_table_law(tmp_path / "law.tjx", law)
    again = load_table_law(tmp_path / "law.tjx")
    table = sample_table(law, 100)
    np.testing.assert_array_equal(sample_table(again, 100).values, table.values)
    scores = table_log_likelihood(law, table)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(table_log_likelihood(again, table), scores)


def test_probabilities_and_densities_have_mass_one():
    """The probability of zero, and the integral over the rest of the column."""
    x = mixed()[:, 1:2]
    law = fit_table_law(Table(x), num_steps=30)
    grid = np.linspace(0, 15, 3001)[:, None]
    mass = np.exp(table_log_likelihood(law, Table(grid)))
    share = np.mean(x == 0)
    assert abs(mass[0] - share) < 0.03
    assert abs(mass[0] + mass[1:].sum() * (grid[1, 0] - grid[0, 0]) - 1) < 0.03
    # the score of held-out rows is of the same kind, of another draw about the same
    other = Table(mixed(4000, seed=1)[:, 1:2])
    assert abs(table_log_likelihood(law, other).mean() - law.scores["the flow"]) < 0.25


def test_no_sign_that_the_data_have_not():
    rng = np.random.default_rng(0)
    x = rng.exponential(size=(500, 2)) * [[1, -1]]
    drawn = sample_table(fit_table_law(Table(x), num_steps=10), 5000).values
    assert (drawn[:, 0] >= 0).all()
    assert (drawn[:, 1] <= 0).all()
    assert len(np.unique(drawn)) > 9900  # not heaped on zero


def test_prices_keep_their_cents():
    rng = np.random.default_rng(0)
    x = np.round(np.exp(3 + 0.4 * rng.normal(size=(400, 1))), 2)
    drawn = sample_table(fit_table_law(Table(x), num_steps=10), 500).values
    np.testing.assert_array_equal(drawn, np.round(drawn, 2))
    assert (drawn != np.round(drawn, 1)).mean() > 0.7


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_huge_and_tiny_columns(scale):
    """The same fit, in other units."""
    x = np.abs(mixed(300)[:, :1])
    one = fit_table_law(Table(x), num_steps=5)
    other = fit_table_law(Table(scale * x), num_steps=5)
    drawn = [sample_table(each, 50).values for each in (one, other)]
    np.testing.assert_allclose(drawn[1] / scale, drawn[0], rtol=1e-3)
    gained = other.scores["the flow"] - one.scores["the flow"]
    assert abs(gained + np.log(scale)) < 1e-3


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_rare_values_keep_their_law(share):
    """Quantiles, shares and likelihoods of a log-normal law among many zeros."""
    num = 20_000

    def draw(seed):
        rng = np.random.default_rng(seed)
        rare = np.where(rng.uniform(size=num) < share, rng.lognormal(size=num), 0)
        return np.stack([rare, rng.normal(size=num)], axis=1)

    x, other = draw(0), draw(1)
    law = fit_table_law(Table(x), num_steps=40)
    drawn = sample_table(law, 100_000).values[:, 0]
    found, count = drawn[drawn > 0], np.sum(x[:, 0] > 0)
    assert abs(np.mean(drawn > 0) - share) < 4 * np.sqrt(share / num)
    levels = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
    # within four standard errors of what was fitted
    shares = lognorm(1).cdf(np.quantile(found, levels))
    assert (np.abs(shares - levels) < 4 * np.sqrt(levels * (1 - levels) / count)).all()
    scores = table_log_likelihood(law, Table(other))
    is_rare = other[:, 0] > 0
    truth = np.where(is_rare, np.log(share), np.log(1 - share))
    truth[is_rare] += lognorm.logpdf(other[is_rare, 0], 1)
    truth -= other[:, 1] ** 2 / 2 + np.log(2 * np.pi) / 2
    assert np.mean(truth - scores) < 0.02
    assert np.mean((truth - scores)[is_rare]) < 0.15


def test_small_values_next_to_many_zeros_have_a_density():
    """Smaller ones than were fitted too, as far as their law goes on."""
    rng = np.random.default_rng(0)
    x = np.where(rng.uniform(size=9000) < 0.5, 0, rng.lognormal(size=9000))
    least = np.partition(x[x > 0], 2)[:3]
    law = fit_table_law(Table(x[~np.isin(x, least), None]), num_steps=5)
    assert np.isfinite(table_log_likelihood(law, Table(least[:, None]))).all()
