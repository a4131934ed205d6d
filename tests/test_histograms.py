import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, check_gradient
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax.onedim import (
    histogram,
    histogram_distribution,
    histogram_quantile,
    transfer_knots,
)

RANGE = dict(low=-3.0, high=3.0)
LEVELS = np.array([0.0, 0.01, 0.3, 0.5, 0.77, 1.0], np.float32)


def samples(seed=0, shape=(3, 64)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Counts


def test_edges_belong_to_the_bin_above_and_the_last_one_to_the_last():
    x = jnp.array([-9.0, 0.0, 0.5, 1.0, 1.5, 2.0, 9.0])
    counts = histogram(x, low=0.0, high=2.0, num_bins=4)
    np.testing.assert_array_equal(counts, [2, 1, 1, 3])
    assert counts.dtype == jnp.int32


def test_numpy_agrees():
    x = np.clip(samples(), -3, 3)
    counts = histogram(x, **RANGE, num_bins=16)
    for row, expected in zip(counts, x, strict=True):
        np.testing.assert_array_equal(row, np.histogram(expected, 16, (-3, 3))[0])
    weights = np.abs(samples(1))
    sums = histogram(x, **RANGE, num_bins=16, weights=weights)
    expected = np.histogram(x[0], 16, (-3, 3), weights=weights[0])[0]
    assert_close(sums[0], expected)


@pytest.mark.parametrize("high", [1.0, 255.0])
def test_bytes_fill_256_bins_one_by_one(high):
    # each value sits on the edge of its bin
    x = np.arange(256, dtype=np.float32) / np.float32(255) * np.float32(high)
    expected = np.ones(255)
    expected[-1] = 2
    for count in (histogram, jax.jit(histogram, static_argnames=("high", "num_bins"))):
        counts = count(x, low=0.0, high=high, num_bins=255)
        np.testing.assert_array_equal(counts, expected)
    pixels = np.arange(256, dtype=np.uint8)
    counts = histogram(pixels, low=0, high=256, num_bins=256)
    np.testing.assert_array_equal(counts, np.ones(256))


def test_counts_do_not_stop_where_float32_does():
    x = np.zeros(2**24 + 7, np.float16)
    counts = jax.jit(lambda x: histogram(x, low=-1.0, high=1.0, num_bins=2))(x)
    np.testing.assert_array_equal(counts, [0, 2**24 + 7])


def test_one_range_a_row():
    x = samples()
    low, high = x.min(-1), x.max(-1)
    counts = histogram(x, low=low, high=high, num_bins=8)
    moved = histogram(3 * x + 1, low=3 * low + 1, high=3 * high + 1, num_bins=8)
    np.testing.assert_array_equal(counts.sum(-1), [64, 64, 64])
    for i in range(3):
        expected = np.histogram(x[i], 8, (float(low[i]), float(high[i])))[0]
        np.testing.assert_array_equal(counts[i], expected)
    np.testing.assert_array_equal(moved, counts)
    q = histogram_quantile(counts, LEVELS, low=low, high=high)
    assert_close(q[:, 0], low)
    assert_close(q[:, -1], high)
    assert_close(histogram_distribution(counts, q, low=low, high=high)[1], LEVELS)


def test_parts_add_up_bit_for_bit_on_one_device_and_on_four():
    x = samples(shape=(256,))
    whole = histogram(x, **RANGE, num_bins=16)
    parts = histogram(x.reshape(4, 64), **RANGE, num_bins=16).sum(0)
    np.testing.assert_array_equal(parts, whole)

    def count(x):
        return jax.lax.psum(histogram(x, **RANGE, num_bins=16), "data")

    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,))
    spread = jax.shard_map(count, mesh=mesh, in_specs=P("data"), out_specs=P())
    np.testing.assert_array_equal(jax.jit(spread)(x), whole)
    text = jax.jit(spread).lower(x).compile().as_text()
    assert "all-reduce" in text
    assert "all-gather" not in text

    explicit = jax.make_mesh((4,), ("data",))
    sharded = jax.device_put(x, NamedSharding(explicit, P("data")))
    np.testing.assert_array_equal(histogram(sharded, **RANGE, num_bins=16), whole)
    q = histogram_quantile(whole, LEVELS, **RANGE)
    assert q.shape == LEVELS.shape


# Distribution and quantile functions


def test_linear_inside_of_bins_and_jumping_over_empty_ones():
    counts = jnp.array([0, 1, 0, 3, 0])
    t = jnp.array([-1.0, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 9.0])
    levels = histogram_distribution(counts, t, low=0.0, high=5.0)
    assert_close(levels, [0, 0, 0.125, 0.25, 0.25, 0.25, 0.625, 1, 1])
    q = jnp.array([0.0, 0.125, 0.25, 0.625, 1.0])
    back = histogram_quantile(counts, q, low=0.0, high=5.0)
    assert_close(back, [1, 1.5, 2, 3.5, 4])


@pytest.mark.parametrize("dtype", ["int32", "uint8", "float32", "float16"])
def test_inverse_to_each_other(dtype):
    counts = histogram(samples(), **RANGE, num_bins=16).astype(dtype)
    q = np.tile(LEVELS, (3, 1))
    t = histogram_quantile(counts, q, **RANGE)
    assert t.dtype == (dtype if dtype.startswith("float") else "float32")
    back = histogram_distribution(counts, t, **RANGE)
    assert_close(back, q)
    assert np.diff(t).min() >= 0
    edges = np.linspace(-3, 3, 17)
    full = np.flatnonzero(counts[0])
    assert_close(t[0, [0, -1]], [edges[full[0]], edges[full[-1] + 1]], rtol=0)


def test_large_counts_are_summed_exactly():
    counts = jnp.array([2**30, 1, 2**30 - 2])
    levels = histogram_distribution(counts, jnp.array([1.0, 3.0]), low=0.0, high=3.0)
    assert_close(levels, [2**30 / (2**31 - 1), 1], rtol=1e-7)


def test_scale_of_masses_is_of_no_account():
    masses = np.abs(samples(shape=(3, 16)))
    t = histogram_quantile(masses, LEVELS, **RANGE)
    assert_close(histogram_quantile(masses * 1e20, LEVELS, **RANGE), t)
    assert histogram_quantile(masses, 0.5, **RANGE).shape == (3,)
    assert histogram_distribution(masses[0], 0.5, **RANGE).shape == ()


def test_compiled_is_eager():
    counts = histogram(samples(), **RANGE, num_bins=16)

    def both(counts, q, low):
        t = histogram_quantile(counts, q, low=low, high=3.0)
        return t, histogram_distribution(counts, t, low=low, high=3.0)

    eager = both(counts, LEVELS, -3.0)
    for actual, expected in zip(
        jax.jit(both)(counts, LEVELS, -3.0), eager, strict=True
    ):
        assert_close(actual, expected, atol=1e-6)
    mapped = jax.vmap(both, (0, None, None))(counts, LEVELS, -3.0)
    for actual, expected in zip(mapped, eager, strict=True):
        assert_close(actual, expected, atol=1e-6)


def test_derivatives(x64):
    rng = np.random.default_rng(5)
    masses, q, t = rng.random(8) + 0.1, rng.random(5), rng.normal(size=5)

    @jax.jit
    def through_quantile(masses, q, low, high):
        return jnp.sum(jnp.sin(histogram_quantile(masses, q, low=low, high=high)))

    @jax.jit
    def through_distribution(masses, t, low, high):
        return jnp.sum(jnp.sin(histogram_distribution(masses, t, low=low, high=high)))

    check_gradient(through_quantile, masses, q, -3.1, 3.3)
    check_gradient(through_distribution, masses, t, -3.1, 3.3)
    x = rng.normal(size=20)

    @jax.jit
    def of_weights(w):
        return jnp.sum(jnp.sin(histogram(x, weights=w, **RANGE, num_bins=4)))

    check_gradient(of_weights, rng.random(20))


# A map between histograms, without the defects of the published one


def histogram_map(x, y, t, low, high, num_bins):
    """`t` moved by the map between the histograms of x and y at common levels."""
    p_x, p_y = (histogram(z, low=low, high=high, num_bins=num_bins) for z in (x, y))
    edges = np.linspace(low, high, num_bins + 1, dtype=np.float32)
    levels = jnp.sort(
        jnp.concatenate(
            [
                histogram_distribution(p_x, edges, low=low, high=high),
                histogram_distribution(p_y, edges, low=low, high=high),
            ]
        )
    )
    q_x, q_y = (histogram_quantile(p, levels, low=low, high=high) for p in (p_x, p_y))
    return jnp.interp(t, *transfer_knots(q_x, q_y))


def test_histogram_map_of_a_sample_onto_itself_is_the_identity():
    x = np.random.default_rng(0).random(5000).astype(np.float32)
    assert_close(histogram_map(x, x, x, 0.0, 1.0, 64), x, rtol=1e-6)


def test_histogram_map_sends_saturated_samples_to_the_greatest_of_the_target():
    rng = np.random.default_rng(1)
    x = np.minimum(rng.random(5000) * 1.05, 1).astype(np.float32)
    y = (0.6 * rng.random(4000)).astype(np.float32)
    ends = histogram_map(x, y, np.array([x.min(), 1.0], np.float32), 0.0, 1.0, 100)
    assert_close(ends, [0.0, 0.6], atol=0.011)
    assert ends[1] <= 0.6 + 1e-6


def test_histogram_map_has_no_bias_where_the_scale_changes():
    x = ((np.arange(8000) + 0.5) / 8000).astype(np.float32)
    moved = histogram_map(x, x / 4, x, 0.0, 1.0, 64)
    assert_close(moved, x / 4, atol=1e-5)


# Errors


def test_errors(user_errors):
    x = jnp.ones(3)
    with pytest.raises(ValueError, match="`high` must be greater than `low`"):
        histogram(x, low=1.0, high=1.0, num_bins=2)
    with pytest.raises(ValueError, match="`low` must be one number or have shape"):
        histogram(x, low=jnp.zeros(2), high=1.0, num_bins=2)
    with pytest.raises(ValueError, match="`num_bins` must be an integer >= 1"):
        histogram(x, low=0.0, high=1.0, num_bins=0)
    with pytest.raises(ValueError, match="`x` must be finite; got NaN"):
        histogram(x * jnp.nan, low=0.0, high=1.0, num_bins=2)
    with pytest.raises(ValueError, match="must be finite"):
        histogram(x, low=0.0, high=jnp.inf, num_bins=2)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.array([1, -1]), "be >= 0"),
        (np.array([0, 0]), "not be all zero"),
        (np.array([0.0, 0.0]), "not be all zero"),
        (np.array([2**30, 2**30], np.int32), "have a total that fits in int32"),
        (np.array([], np.int32), "hold at least one bin"),
        (np.array([1.0, np.nan]), "be finite; got NaN"),
    ],
)
def test_errors_of_counts(user_errors, counts, message):
    with pytest.raises(ValueError, match=f"`counts` must {message}"):
        histogram_quantile(counts, 0.5, low=0.0, high=1.0)
