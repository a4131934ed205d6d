import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, check_gradient
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax.onedim import order_statistics

RANKS = np.array([17, 0, 63, 31, 31], np.int32)


def samples(seed=0, shape=(3, 64)):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * 10.0 ** rng.integers(-6, 6, shape)).astype("f4")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_same_as_sorting(dtype):
    x = jnp.asarray(np.clip(samples(), -6e4, 6e4), dtype)
    found = order_statistics(x, RANKS)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, jnp.sort(x, axis=-1)[:, RANKS])


def test_the_same_as_sorting_in_double_precision(x64):
    x = np.random.default_rng(1).normal(size=(2, 64))
    found = order_statistics(x, RANKS.astype(np.int64))
    np.testing.assert_array_equal(found, np.sort(x)[:, RANKS])


def test_extreme_numbers_ties_and_zeros():
    x = np.zeros(64, np.float32)
    x[:6] = [3e38, -3e38, 1e-40, -1e-40, 1.0, -0.0]
    expected = np.sort(x)[RANKS]
    np.testing.assert_array_equal(order_statistics(x, RANKS), expected)
    every = order_statistics(x, np.arange(64))
    np.testing.assert_array_equal(np.asarray(every), np.sort(x))


def test_one_sample_and_a_scalar_rank():
    assert order_statistics(jnp.array([2.5]), 0) == 2.5
    assert order_statistics(samples(), 3).shape == (3,)


def test_integers_are_promoted():
    found = order_statistics(np.array([7, 255, 0], np.uint8), np.array([2, 0]))
    np.testing.assert_array_equal(found, np.float32([255, 0]))


def spread(function):
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Auto,))
    return jax.shard_map(function, mesh=mesh, in_specs=P("data"), out_specs=P())


def test_four_devices_find_the_same_bits_and_send_only_histograms():
    x = samples(shape=(64,))
    find = jax.jit(spread(lambda x: order_statistics(x, RANKS, axis_name="data")))
    np.testing.assert_array_equal(find(x), np.sort(x)[RANKS])
    text = find.lower(x).compile().as_text()
    assert "all-reduce" in text
    assert "all-gather" not in text
    mesh = jax.make_mesh((4,), ("data",))
    sharded = jax.device_put(x, NamedSharding(mesh, P("data")))
    np.testing.assert_array_equal(order_statistics(sharded, RANKS), np.sort(x)[RANKS])


def test_derivative_is_that_of_the_sample(x64):
    rng = np.random.default_rng(2)
    x, mark = rng.normal(size=64), jnp.asarray(rng.normal(size=5))

    @jax.jit
    def value(x):
        return jnp.sum(mark * jnp.sin(order_statistics(x, RANKS)))

    check_gradient(value, x)
    row = jax.jit(jax.jacobian(order_statistics))(x, RANKS[:1])[0]
    np.testing.assert_array_equal(row, np.arange(64) == np.argsort(x)[RANKS[0]])


def test_derivative_at_ties_is_shared_also_over_devices():
    x = samples(shape=(64,))
    x[5] = x[40] = np.sort(x)[31]
    tied = np.flatnonzero(x == x[5])
    mark = jnp.arange(1.0, 6.0)

    def value(x, axis_name=None):
        return jnp.sum(mark * order_statistics(x, RANKS, axis_name=axis_name))

    gradient = jax.grad(value)(x)
    assert_close(gradient.sum(), mark.sum())
    assert len(tied) == 3
    assert_close(gradient[tied], np.full(3, 9 / 3))
    over = jax.jit(jax.grad(spread(lambda x: value(x, "data"))))(x)
    np.testing.assert_array_equal(over, gradient)


def test_compiled_and_mapped():
    x = samples()
    eager = order_statistics(x, RANKS)
    np.testing.assert_array_equal(jax.jit(order_statistics)(x, RANKS), eager)
    mapped = jax.vmap(order_statistics, (0, None))(x, RANKS)
    np.testing.assert_array_equal(mapped, eager)


@pytest.mark.parametrize(
    ("x", "ranks", "message"),
    [
        ([1.0, 2.0], 2, "`ranks` must be in 0 ... 1"),
        ([1.0, 2.0], [-1], "`ranks` must be in 0 ... 1"),
        ([1.0, 2.0], 0.5, "`ranks` must be an integer"),
        ([1.0, jnp.nan], 0, "`x` must be finite; got NaN"),
        ([], 0, "`x` must hold at least one sample"),
    ],
)
def test_errors(user_errors, x, ranks, message):
    with pytest.raises(ValueError, match=message):
        order_statistics(x, ranks)
