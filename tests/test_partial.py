import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from helpers import DATA, assert_close, check_gradient
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax.onedim import partial_wasserstein_1d

REFERENCE = np.load(DATA / "plans_unbalanced.npz")


def exact_costs(x, y, p):
    """The cost of the best 1, 2, ... pairs, by assignment with dummy points."""
    n, m = len(x), len(y)
    cost = np.abs(x[:, None] - y[None]) ** p
    totals = []
    for k in range(1, min(n, m) + 1):
        padded = np.zeros((n + m - k, n + m - k))
        padded[:n, :m], padded[n:, m:] = cost, 1e4  # dummies do not meet
        pairs = scipy.optimize.linear_sum_assignment(padded)
        totals.append(padded[pairs].sum())
    return np.array(totals)


@pytest.fixture(scope="module")
def solve():
    """Compiled once for each exponent and shape."""
    return functools.cache(
        lambda p: jax.jit(functools.partial(partial_wasserstein_1d, p=p))
    )


@pytest.mark.parametrize("p", [1, 2])
def test_reference(p, x64, solve):
    case = {
        f: REFERENCE[f"partial_p{p}/{f}"]
        for f in ("x", "y", "ind_x", "ind_y", "marginal_costs")
    }
    result = solve(p)(case["x"], case["y"])
    assert np.array_equal(result.x_indices, case["ind_x"])
    assert np.array_equal(result.y_indices, case["ind_y"])
    assert_close(result.marginal_costs, case["marginal_costs"], rtol=1e-11)


@pytest.mark.parametrize("p", [1, 2, 1.5])
@pytest.mark.parametrize(("n", "m"), [(8, 6), (6, 8), (7, 7)])
def test_every_number_of_pairs_is_optimal(n, m, p, x64, solve):
    rng = np.random.default_rng(n)
    for trial in range(8):
        x, y = rng.normal(size=n), rng.uniform(0.3, 2) * rng.normal(size=m)
        if trial % 4 == 0:  # ties
            x, y = np.round(2 * x) / 2, np.round(2 * y) / 2
        result = solve(p)(x, y)
        totals = np.cumsum(result.marginal_costs)
        assert_close(totals, exact_costs(x, y, p), rtol=1e-11)
        for k in (2, min(n, m)):  # the indices tell the same
            rows, columns = result.x_indices[:k], result.y_indices[:k]
            assert len(set(rows.tolist())) == len(set(columns.tolist())) == k
            gaps = np.sort(x[np.array(rows)]) - np.sort(y[np.array(columns)])
            assert_close(np.sum(np.abs(gaps) ** p), totals[k - 1], rtol=1e-11)
        assert np.all(np.diff(result.marginal_costs) >= -1e-12)


def test_known_answers(solve):
    result = solve(1)(jnp.array([0.0, 10.0]), jnp.array([11.0, 1.5, 30.0]))
    assert result.x_indices.tolist() == [1, 0]
    assert result.y_indices.tolist() == [0, 1]
    assert result.marginal_costs.tolist() == [1.0, 1.5]
    one = partial_wasserstein_1d(np.array([0, 10]), np.array([12, 30, 60]), 1, p=2)
    assert (one.x_indices[0], one.y_indices[0], one.marginal_costs[0]) == (1, 0, 4)


def test_derivatives_by_finite_differences(x64):
    rng = np.random.default_rng(0)
    x, y, weights = rng.normal(size=9), rng.normal(size=7) + 1, rng.normal(size=7)

    def value(x, y, p=1):
        return weights @ partial_wasserstein_1d(x, y, p=p).marginal_costs

    check_gradient(jax.jit(lambda x, y: value(x, y)), x, y)
    check_gradient(jax.jit(value), x, y, np.array(2.5))


def test_the_gradient_of_all_pairs_is_that_of_the_distance(x64):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=6), rng.normal(size=6)

    def total(x):
        return jnp.sum(partial_wasserstein_1d(x, y, p=2).marginal_costs)

    order = np.argsort(x)
    expected = np.empty(6)
    expected[order] = 2 * (x[order] - np.sort(y))
    assert_close(jax.grad(total)(x), expected, rtol=1e-12)
    assert np.array_equal(jax.grad(total)(jnp.asarray(y)), np.zeros(6))


def test_batches_and_transformations():
    rng = np.random.default_rng(0)
    x, y = np.float32(rng.normal(size=(2, 3, 6))), np.float32(rng.normal(size=5))
    result = partial_wasserstein_1d(x, y, 4)
    assert result.x_indices.shape == result.marginal_costs.shape == (2, 3, 4)
    assert result.marginal_costs.dtype == "float32"
    mapped = jax.jit(jax.vmap(jax.vmap(lambda row: partial_wasserstein_1d(row, y, 4))))(
        x
    )
    for one, other in zip(result, mapped, strict=True):
        assert_close(one, other, rtol=2e-5)
    for place in np.ndindex(2, 3):
        exact = exact_costs(np.float64(x[place]), np.float64(y), 1)[:4]
        assert_close(np.cumsum(result.marginal_costs[place]), exact)


def test_dtypes():
    result = partial_wasserstein_1d(jnp.ones(2, "bfloat16"), jnp.ones(3, "bfloat16"))
    assert result.marginal_costs.dtype == "bfloat16"
    assert result.x_indices.dtype == "int32"
    # not computed with as bytes
    result = partial_wasserstein_1d(np.uint8([3]), np.uint8([250]))
    assert result.marginal_costs.tolist() == [247.0]
    # what overflows is chosen last, and infinite
    x = jnp.array([0.0, 1e30])
    costs = partial_wasserstein_1d(x, -x[::-1] + 1, p=2).marginal_costs
    assert costs[0] == 1
    assert np.isinf(costs[1])


def test_devices():
    rng = np.random.default_rng(0)
    x, y = np.float32(rng.normal(size=(4, 6))), np.float32(rng.normal(size=5))

    def slopes(x, y):
        def total(x):
            return jnp.sum(partial_wasserstein_1d(x, y, 3).marginal_costs)

        return jax.grad(total)(x)

    expected = jax.jit(slopes)(x, y)
    mesh = jax.make_mesh((4,), ("i",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(
        slopes, mesh=mesh, in_specs=(P("i"), P()), out_specs=P("i"), check_vma=True
    )
    assert_close(jax.jit(mapped)(x, y), expected)
    mesh = jax.make_mesh((4,), ("i",))  # of explicit axes
    split = jax.device_put(x, NamedSharding(mesh, P("i")))
    costs = jax.jit(partial_wasserstein_1d)(split, y).marginal_costs
    assert_close(costs, partial_wasserstein_1d(x, y).marginal_costs)


def test_the_gradient_does_not_keep_a_matrix():
    n = 2000

    def total(x, y):
        return jnp.sum(partial_wasserstein_1d(x, y, p=2).marginal_costs ** 2)

    shape = jax.ShapeDtypeStruct((n,), "float32")
    compiled = jax.jit(jax.grad(total)).lower(shape, shape).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < n * n  # a quarter of it


@pytest.mark.usefixtures("user_errors")
def test_bad_input():
    x, y = np.zeros(3), np.zeros(2)
    for arguments, options, message in [
        ((x, y, 3), {}, "num_transported"),
        ((x, y, 0), {}, "num_transported"),
        ((x, y), {"p": 0.5}, "`p`"),
        ((x * np.nan, y), {}, "`x`"),
        ((x, y[:0]), {}, "`y`"),
    ]:
        with pytest.raises(ValueError, match=message):
            partial_wasserstein_1d(*arguments, **options)
