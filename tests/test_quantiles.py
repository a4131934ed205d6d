import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, check_gradient
from jax.sharding import NamedSharding, PartitionSpec as P

from transportjax.onedim import distribution, quantile

LEVELS = np.array([0.0, 0.003, 0.2, 0.41, 0.5, 0.77, 0.999, 1.0], np.float32)
METHODS = ["linear", "inverse"]
NUMPY = {"linear": "hazen", "inverse": "inverted_cdf"}


def samples(seed=0, shape=(3, 57)):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Known answers


def test_two_samples_are_joined_from_mid_rank_to_mid_rank():
    x, q = jnp.array([6.0, 2.0]), jnp.array([0.0, 0.25, 0.5, 0.75, 1.0])
    assert_close(quantile(x, q), [2, 2, 4, 6, 6])
    assert_close(quantile(x, q, method="inverse"), [2, 2, 2, 6, 6])
    t = jnp.array([1.0, 2.0, 3.0, 6.0, 6.1])
    assert_close(distribution(x, t), [0, 0.25, 0.375, 0.75, 1])
    assert_close(distribution(x, t, method="inverse"), [0, 0.5, 0.5, 1, 1])


def test_weights_move_the_mid_ranks():
    x, w = jnp.array([6.0, 2.0]), jnp.array([1.0, 3.0])
    q = jnp.array([0.2, 0.375, 0.625, 0.875, 0.9])
    assert_close(quantile(x, q, weights=w), [2, 2, 4, 6, 6])
    assert_close(quantile(x, q, weights=w, method="inverse"), [2, 2, 2, 6, 6])
    assert_close(distribution(x, jnp.array([2.0, 4.0]), weights=w), [0.375, 0.625])


def test_ties_are_at_the_middle_of_their_jump():
    x, t = jnp.array([1, 0, 1, 1, 3]), jnp.array([0.0, 0.5, 1.0, 2.0])
    assert_close(distribution(x, t), [0.1, 0.2, 0.5, 0.8])
    weights = jnp.array([1.0, 1.0, 2.0, 0.0, 1.0])
    assert_close(distribution(x, 1.0, weights=weights), 0.5)
    assert_close(quantile(x, jnp.array([0.3, 0.7])), [1.0, 1.0])


@pytest.mark.parametrize("method", METHODS)
def test_one_sample_has_one_quantile(method):
    q = jnp.array([0.0, 0.3, 1.0])
    assert_close(quantile(jnp.array([5.0]), q, method=method), [5.0, 5.0, 5.0])
    weights = jnp.array([0.1])
    one = quantile(jnp.array([5.0]), q, weights=weights, method=method)
    assert_close(one, [5.0, 5.0, 5.0])
    level = distribution(jnp.array([5.0]), jnp.array([4.0, 5.0, 6.0]), method=method)
    assert_close(level, [0, {"linear": 0.5, "inverse": 1.0}[method], 1])


@pytest.mark.parametrize("method", METHODS)
def test_constant_samples(method):
    x = jnp.full((2, 5), 1e6)
    assert_close(quantile(x, LEVELS, method=method), np.full((2, 8), 1e6), rtol=0)


# Peers


@pytest.mark.parametrize("method", METHODS)
def test_numpy_agrees(method):
    x = samples()
    expected = np.quantile(x, LEVELS, axis=-1, method=NUMPY[method]).T
    assert_close(quantile(x, LEVELS, method=method), expected)


def test_numpy_agrees_with_weights():
    x = samples()[0]
    weights = np.random.default_rng(1).random(57).astype(np.float32)
    weights[3:20] = 0
    expected = np.quantile(x, LEVELS, method="inverted_cdf", weights=weights)
    actual = quantile(x, LEVELS, weights=weights, method="inverse")
    np.testing.assert_array_equal(actual, expected)


# Laws


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weighted", [False, True])
def test_quantile_and_distribution_are_inverse_to_each_other(method, weighted):
    x = samples()
    weights = np.abs(samples(1)) if weighted else None
    levels = distribution(x, x, weights=weights, method=method)
    back = quantile(x, levels, weights=weights, method=method)
    assert_close(back, x, rtol=1e-6)
    if method == "linear":
        q = np.tile(np.linspace(0.02, 0.98, 57, dtype=np.float32), (3, 1))
        t = quantile(x, q, weights=weights)
        inside = (t > x.min(-1, keepdims=True)) & (t < x.max(-1, keepdims=True))
        again = np.asarray(distribution(x, t, weights=weights))
        assert inside.mean() > 0.9
        assert_close(again[inside], q[inside], atol=1e-5)


@pytest.mark.parametrize("n", [10, 49, 100, 1023])
def test_levels_of_whole_ranks_give_that_sample(n):
    x = jnp.arange(n, dtype="float32")
    levels = (np.arange(1, n + 1) / n).astype(np.float32)
    np.testing.assert_array_equal(quantile(x, levels, method="inverse"), x)


@pytest.mark.parametrize("method", METHODS)
def test_equal_weights_are_no_weights(method):
    x, t = samples(), np.sort(samples(2))
    weights = np.full((3, 57), 0.3, np.float32)
    q = (np.arange(8, dtype=np.float32) + 0.3) / 8
    plain, weighted = (
        (
            quantile(x, q, weights=w, method=method),
            distribution(x, t, weights=w, method=method),
        )
        for w in (None, weights)
    )
    assert_close(weighted[0], plain[0], atol=1e-5)
    assert_close(weighted[1], plain[1])


def test_writing_a_sample_twice_with_half_its_weight_changes_nothing():
    x, weights = samples(), np.abs(samples(1))
    x[:, 28:56] = x[:, :28]
    half, once = weights.copy(), weights.copy()
    half[:, :28] /= 2
    half[:, 28:56] = half[:, :28]
    once[:, 28:56] = 0
    values = [quantile(x, LEVELS, weights=w, method="inverse") for w in (half, once)]
    assert_close(*values, rtol=0)
    for method in METHODS:  # at the samples themselves also by mid-ranks
        levels = [distribution(x, x, weights=w, method=method) for w in (half, once)]
        assert_close(*levels)


@pytest.mark.parametrize("method", METHODS)
def test_samples_of_weight_zero_have_no_influence(method):
    x, weights = samples(), np.abs(samples(1))
    weights[:, 10:15] = 0
    t = x.copy()
    quiet, loud = x.copy(), x.copy()
    quiet[:, 10:15] = 0.5
    loud[:, 10:15] = [-1e30, 0.1, 0.1, 1e9, 1e30]
    for function, at in ((quantile, LEVELS), (distribution, t)):
        values = [
            function(z, at, weights=weights, method=method) for z in (quiet, loud)
        ]
        assert_close(*values)
        assert np.abs(values[0]).max() < 10


@pytest.mark.parametrize("method", METHODS)
def test_monotone(method):
    x = np.round(samples() * 3) / 3
    weights = np.abs(samples(1))
    q = np.sort(np.random.default_rng(2).random((3, 57))).astype(np.float32)
    t = np.tile(np.linspace(-4, 4, 57, dtype=np.float32), (3, 1))
    for w in (None, weights):
        assert np.diff(quantile(x, q, weights=w, method=method)).min() >= 0
        level = distribution(x, t, weights=w, method=method)
        assert np.diff(level).min() >= 0
        assert level.min() == 0
        assert level.max() == 1


def test_moves_with_the_samples():
    x = samples()
    moved = quantile(4 * x + 64, LEVELS)
    assert_close(moved, 4 * quantile(x, LEVELS) + 64)
    assert_close(quantile(-x, LEVELS), -quantile(x, 1 - LEVELS))
    np.testing.assert_array_equal(quantile(x[:, ::-1], LEVELS), quantile(x, LEVELS))


def test_far_from_zero_float32_keeps_the_ranks():
    x = 1e6 + np.random.default_rng(0).permutation(64).astype(np.float32)
    level = distribution(x, np.float32(1e6) + np.arange(64, dtype=np.float32))
    assert_close(level, (np.arange(64) + 0.5) / 64)


# Shapes and types


def test_scalars_and_rows_of_levels():
    x = samples()
    assert quantile(x, 0.5).shape == (3,)
    assert_close(quantile(x, 0.5), np.median(x, axis=-1))
    assert distribution(x[0], 0.0).shape == ()
    rows = np.stack([LEVELS, LEVELS[::-1], LEVELS**2])
    together = quantile(x, rows)
    for i in range(3):
        np.testing.assert_array_equal(together[i], quantile(x[i], rows[i]))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtype_is_kept(dtype):
    x = jnp.asarray(samples(), dtype)
    assert quantile(x, LEVELS).dtype == dtype
    assert distribution(x, x).dtype == dtype
    exact = quantile(x.astype(jnp.float32), LEVELS)
    np.testing.assert_array_equal(quantile(x, LEVELS), exact.astype(dtype))


def test_integers_are_promoted_before_arithmetic():
    x = np.array([250, 255, 0, 7], np.uint8)
    assert_close(quantile(x, 0.5), 128.5)
    assert_close(distribution(x, np.int32(253)), 0.775)


@pytest.mark.parametrize("weighted", [False, True])
def test_compiled_and_mapped_are_the_same(weighted):
    x, weights = samples(), np.abs(samples(1))
    t = np.float32([-1.0, 0.0, 1.5])

    def both(x, w):
        w = w if weighted else None
        return quantile(x, LEVELS, weights=w), distribution(x, t, weights=w)

    eager = both(x, weights)
    for actual in (jax.jit(both)(x, weights), jax.vmap(both)(x, weights)):
        assert_close(actual[0], eager[0], atol=1e-6)
        assert_close(actual[1], eager[1], atol=1e-6)


def test_constants_of_a_compiled_program_are_checked_and_work():
    x = jnp.asarray(samples())
    compiled = jax.jit(lambda q: quantile(x, q, weights=jnp.abs(x)))
    assert_close(compiled(LEVELS), quantile(x, LEVELS, weights=jnp.abs(x)))


def test_on_an_explicit_mesh():
    x = samples(shape=(64,))
    mesh = jax.make_mesh((4,), ("data",))
    sharded = jax.device_put(x, NamedSharding(mesh, P("data")))
    np.testing.assert_array_equal(quantile(sharded, LEVELS), quantile(x, LEVELS))
    level = distribution(sharded, LEVELS, weights=jnp.abs(sharded))
    assert_close(level, distribution(x, LEVELS, weights=np.abs(x)))


def test_rows_in_a_manual_mesh():
    x, weights = samples(shape=(4, 16)), np.abs(samples(1, (4, 16)))
    mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))

    def both(x, w):
        return quantile(x, LEVELS, weights=w), distribution(x, LEVELS, weights=w)

    mapped = jax.jit(
        jax.shard_map(both, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    )
    for actual, expected in zip(mapped(x, weights), both(x, weights), strict=True):
        assert_close(actual, expected)


# Derivatives


def test_derivatives_of_the_quantile(x64):
    rng = np.random.default_rng(3)
    x, w = rng.normal(size=(2, 12)), rng.random((2, 12)) + 0.1
    q = np.array([0.013, 0.21, 0.48, 0.81])
    check_gradient(jax.jit(lambda x, q: jnp.sum(jnp.sin(quantile(x, q)))), x, q)

    @jax.jit
    def weighted(x, q, w):
        return jnp.sum(jnp.sin(quantile(x, q, weights=w)))

    check_gradient(weighted, x, q, w)
    assert np.abs(jax.grad(weighted, 2)(x, q, w)).min() > 0


def test_derivatives_of_the_distribution(x64):
    rng = np.random.default_rng(4)
    x, w, t = rng.normal(size=(2, 12)), rng.random((2, 12)) + 0.1, rng.normal(size=5)
    check_gradient(jax.jit(lambda x, t: jnp.sum(jnp.sin(distribution(x, t)))), x, t)

    @jax.jit
    def weighted(x, t, w):
        return jnp.sum(jnp.sin(distribution(x, t, weights=w)))

    check_gradient(weighted, x, t, w)


def test_the_level_of_a_sample_does_not_move_with_it():
    x = jnp.asarray(samples()[0])
    gradient = jax.grad(lambda x: jnp.sum(distribution(x, x) ** 2))(x)
    assert_close(gradient, jnp.zeros_like(x), atol=1e-5)


def test_gradients_at_ties_are_finite_and_keep_their_sum():
    x = jnp.array([0.0, 1.0, 1.0, 1.0, 2.0])
    gradient = jax.grad(lambda x: quantile(x, 0.45))(x)
    assert_close(gradient.sum(), 1.0)
    for t in (0.0, 1.0, 2.0, jnp.inf, -jnp.inf):
        slopes = jax.grad(distribution, (0, 1))(x, t)
        assert all(bool(jnp.isfinite(s).all()) for s in slopes)


# Errors


@pytest.mark.parametrize(
    ("x", "q", "weights", "message"),
    [
        ([], [0.5], None, "`x` must hold at least one sample"),
        ([1.0, jnp.nan], [0.5], None, "`x` must be finite; got NaN"),
        ([1.0, 2.0], [1.5], None, "`q` must hold levels in"),
        ([1.0, 2.0], [jnp.nan], None, "`q` must hold levels in"),
        ([1.0, 2.0], [[0.5]], None, "`q` must have shape"),
        ([1.0, 2.0], [0.5], [1.0, -1.0], "`weights` must be >= 0"),
        ([1.0, 2.0], [0.5], [0.0, 0.0], "`weights` must not be all zero"),
        ([1.0, 2.0], [0.5], [1.0], "`weights` must have shape"),
    ],
)
def test_errors_of_the_quantile(user_errors, x, q, weights, message):
    with pytest.raises(ValueError, match=message):
        quantile(x, q, weights=weights)


def test_errors_of_options(user_errors):
    with pytest.raises(ValueError, match="`method` must be one of 'linear', 'inverse'"):
        quantile([1.0], 0.5, method="median")
    with pytest.raises(ValueError, match="`t` must hold positions"):
        distribution([1.0], jnp.nan)
