import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import DATA, assert_close, check_gradient

from transportjax.onedim import wasserstein_1d
from transportjax.sliced import (
    Variate,
    controlled_mean,
    energy_weights,
    gaussian_variate,
    half_circle_directions,
    harmonic_mean_cost,
    lower_variate,
    orthonormal_directions,
    projected_costs,
    random_directions,
    sliced_wasserstein,
    sliced_wasserstein_estimate,
    spiral_directions,
    upper_variate,
)

REFERENCE = np.load(DATA / "control_variates.npz")
VARIATES = {"lcv": lower_variate, "ucv": upper_variate}


def clouds(d=5, n=40, m=40, seed=0):
    """Float64: two clouds that differ in shape and place, one with an outlying part."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * np.exp(0.5 * rng.normal(size=d))
    y = rng.normal(size=(m, d)) * np.exp(0.5 * rng.normal(size=d)) + 0.5
    y[: m // 8] += 2
    return x, y


def rows(num, d, seed=1):
    directions = np.random.default_rng(seed).normal(size=(num, d))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


# --- against reference data --------------------------------------------------------


@pytest.mark.parametrize("p", [1, 2])
def test_parity(p, x64):
    x, y, directions = (REFERENCE[f"cv_p1/{k}"] for k in "XYP")
    directions = directions.T

    @jax.jit
    @functools.partial(jax.jacrev, has_aux=True)
    def run(x):
        costs = projected_costs(x, y, directions, p=p)
        found = {"w": costs}
        for name, variate in VARIATES.items():
            values, mean, _ = variate(x, y, directions)
            f = values - mean
            # the published coefficient: over the second moment, not the variance
            beta = f @ (costs - jnp.mean(costs)) / (f @ f)
            found[name] = jnp.mean(costs) - beta * jnp.mean(f)
        for name, detach in (("ebsw", True), ("ebsw_nodetach", False)):
            found[name] = energy_weights(costs, detach=detach) @ costs
        return {k: v for k, v in found.items() if k != "w"}, found

    slopes, found = run(x)
    for name, value in found.items():
        assert_close(value, REFERENCE[f"cv_p{p}/{name}"])
    for name, slope in slopes.items():
        assert_close(slope, REFERENCE[f"cv_p{p}/g_{name}_X"], atol=1e-12)


def test_controlled_mean_is_the_intercept_of_least_squares(x64):
    x, y, directions = (REFERENCE[f"cv_p1/{k}"] for k in "XYP")
    directions = directions.T
    costs = projected_costs(x, y, directions)
    lower, upper = (v(x, y, directions) for v in VARIATES.values())
    weights = np.random.default_rng(0).uniform(0.5, 1.5, len(costs))
    for w in (None, weights):
        root = np.ones(len(costs)) if w is None else np.sqrt(w)
        for used, rtol in (((lower,), 1e-9), ((lower, upper), 2e-3)):  # the ridge
            f = [np.ones(len(costs)), *(v.values - v.mean for v in used)]
            fit = np.linalg.lstsq(root[:, None] * np.stack(f, 1), root * costs)[0]
            estimate = controlled_mean(costs, *used, weights=w)
            assert_close(estimate.value, fit[0], rtol=rtol)


# --- variates ----------------------------------------------------------------------


@pytest.mark.parametrize("d", [2, 3])
def test_means_of_variates_are_those_over_the_sphere(d, key, x64):
    x, y = clouds(d)
    a = np.random.default_rng(5).uniform(0.5, 1.5, 40)
    many = half_circle_directions(1000) if d == 2 else spiral_directions(20_000)
    gauss = functools.partial(gaussian_variate, key=key)
    for function, rtol in ((lower_variate, 1e-4), (upper_variate, 1e-4), (gauss, 1e-3)):
        found = function(x, y, many, x_weights=a)
        assert_close(found.mean, jnp.mean(found.values), rtol=rtol)


def test_the_error_of_the_gaussian_mean_is_known(key, x64):
    x, y = clouds(6)
    directions = rows(8, 6)
    draw = functools.partial(gaussian_variate, x, y, directions, num_mean=512)
    found = jax.jit(jax.vmap(lambda k: draw(key=k)))(jr.split(key, 200))
    exact = gaussian_variate(x, y, directions, key=jr.key(9), num_mean=400_000)
    assert abs(jnp.mean(found.mean) - exact.mean) < 5 * found.mean.std() / 200**0.5
    assert 0.7 < jnp.std(found.mean) / jnp.mean(found.mean_error) < 1.4
    assert jnp.mean(found.mean_error) < 0.01 * exact.mean


def test_variates_of_gaussian_clouds(x64):
    x, y = clouds()
    directions = rows(30, 5)
    costs = projected_costs(x, y, directions)
    lower, upper = (v(x, y, directions).values for v in VARIATES.values())
    gauss = gaussian_variate(x, y, directions, key=jr.key(0)).values
    mean = (directions @ (x.mean(0) - y.mean(0))) ** 2
    deviations = [np.std(directions @ cloud.T, axis=1) for cloud in (x, y)]
    assert_close(lower, mean)
    assert_close(upper, mean + deviations[0] ** 2 + deviations[1] ** 2)
    assert_close(gauss, mean + (deviations[0] - deviations[1]) ** 2)
    assert np.all(lower <= gauss)
    assert np.all(gauss <= costs)
    assert np.all(costs <= upper)


def test_weights_are_repetition(key, x64):
    x, y = clouds(3, n=6, m=8)
    counts = np.array([1, 2, 1, 3, 1, 0])
    repeated = np.repeat(x, counts, axis=0)
    options = {"key": key, "num": 8}
    one = sliced_wasserstein_estimate(x, y, x_weights=3.0 * counts, **options)
    other = sliced_wasserstein_estimate(repeated, y, **options)
    assert_close(one.value, other.value, rtol=1e-7)
    other = sliced_wasserstein_estimate(y, x, y_weights=counts, **options)
    assert_close(one.value, other.value, rtol=1e-7)


# --- the estimate ------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_translation_has_no_error(d, key, x64):
    x, _ = clouds(d)
    shift = np.arange(1.0, d + 1)
    found = sliced_wasserstein_estimate(x, x + shift, key=key, num=4 * d)
    assert_close(found.value, np.sum(shift**2) / d, rtol=5e-4 if d > 2 else 1e-8)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_one_dimension_is_exact(p, key, x64):
    x, y = clouds(1, m=30)
    found = sliced_wasserstein_estimate(x, y, key=key, p=p)
    assert_close(found.value, wasserstein_1d(x[:, 0], y[:, 0], p=p))
    assert found.standard_error == 0


@pytest.mark.parametrize(
    ("d", "p", "num", "error"),
    [(2, 2, 16, 2e-2), (3, 2, 32, 1e-2), (6, 2, 48, 2e-2), (6, 1, 48, 6e-2)],
)
def test_accuracy_and_honesty(d, p, num, error, key):
    x, y = (np.float32(cloud) for cloud in clouds(d))
    many = {2: half_circle_directions, 3: spiral_directions}.get(d)
    many = many(4000) if many else orthonormal_directions(jr.key(3), 12_000, d)
    truth = sliced_wasserstein(x, y, many, p=p)

    def run(key):
        fresh = random_directions(key, num, d)
        plain = sliced_wasserstein(x, y, fresh, p=p)
        return sliced_wasserstein_estimate(x, y, key=key, num=num, p=p), plain

    found, plain = jax.jit(lambda keys: jax.lax.map(run, keys))(jr.split(key, 100))
    spread = jnp.sqrt(jnp.mean((found.value / truth - 1) ** 2))
    assert spread < error
    assert spread < 0.6 * jnp.sqrt(jnp.mean((plain / truth - 1) ** 2))
    claimed = jnp.sqrt(jnp.mean(found.standard_error**2)) / truth
    assert claimed > 0.75 * spread
    if d > 3:
        assert claimed < 1.6 * spread


def test_the_plain_standard_error(x64):
    costs = np.random.default_rng(0).uniform(1, 2, 20)
    found = controlled_mean(costs)
    assert_close(found.value, costs.mean())
    assert_close(found.standard_error, costs.std(ddof=1) / 20**0.5)
    blocks = costs.reshape(5, 4).mean(1)
    found = controlled_mean(costs, block=4)
    assert_close(found.standard_error, blocks.std(ddof=1) / 5**0.5)
    assert controlled_mean(costs, block=20).standard_error == np.inf
    exact = controlled_mean(costs, Variate(jnp.asarray(costs), 1.5, jnp.float64(0.1)))
    assert_close(exact.value, 1.5)  # the variate is the cost: its mean is the value
    assert_close(exact.standard_error, 0.1)


def test_the_split_has_no_bias(key):
    # independent costs that are a quadratic function of the variate: the bias is real
    def run(key):
        f = jr.normal(key, (6,))
        variate = Variate(f, jnp.zeros(()), jnp.zeros(()))
        costs = f + f**3 + f**2
        both = (
            controlled_mean(costs, variate),
            controlled_mean(costs, variate, split=True),
        )
        return [estimate.value for estimate in both]

    plain, split = jax.jit(jax.vmap(run))(jr.split(key, 20_000))
    error = split.std() / 20_000**0.5
    assert abs(split.mean() - 1) < 4 * error
    assert abs(plain.mean() - 1) > 0.1


def test_constant_variates_change_nothing(x64):
    costs = np.random.default_rng(0).uniform(1, 2, 9)
    zero = Variate(jnp.zeros(9), jnp.zeros(()), jnp.zeros(()))
    for used in ((zero,), (zero, zero)):
        assert_close(controlled_mean(costs, *used).value, costs.mean())


# --- harmonics and energies --------------------------------------------------------


def test_harmonics_are_the_intercept_of_least_squares(x64):
    x, y = clouds(3)
    directions = rows(20, 3)
    costs = np.asarray(projected_costs(x, y, directions))
    products = directions[:, :, None] * directions[:, None, :] - np.eye(3) / 3
    design = np.concatenate([np.ones((20, 1)), products.reshape(20, 9)], axis=1)
    expected = np.linalg.lstsq(design, costs, rcond=1e-10)[0][0]
    assert_close(harmonic_mean_cost(costs, directions).value, expected)
    exact = harmonic_mean_cost((directions @ np.arange(3.0)) ** 2, directions)
    assert_close(exact.value, 5 / 3)
    assert exact.standard_error < 1e-7


def test_energy_weights(x64):
    costs = np.array([0.0, 1.0, 3.0])
    expected = np.exp(costs) / np.exp(costs).sum()
    assert_close(energy_weights(costs), expected)
    assert_close(energy_weights(costs, power=2), [0, 0.1, 0.9])
    assert_close(energy_weights(costs, power=0), np.full(3, 1 / 3))
    assert_close(energy_weights(np.zeros(4), power=1), np.full(4, 0.25))
    assert_close(energy_weights(np.array([1e4, 0.0])), [1.0, 0.0])  # no overflow
    x, y = clouds()
    directions = rows(8, 5)
    costs = projected_costs(x, y, directions)
    weights = energy_weights(costs, power=1)
    value = sliced_wasserstein(x, y, directions, weights=weights)
    assert_close(value, jnp.sum(costs**2) / jnp.sum(costs))
    check_gradient(
        lambda c: energy_weights(c, power=2, detach=False) @ c, costs, rtol=1e-5
    )


# --- derivatives, dtypes, transformations ------------------------------------------


@pytest.mark.parametrize(("d", "p"), [(2, 2), (5, 2), (5, 3)])
def test_gradients_of_the_estimate(d, p, key, x64):
    x, y = clouds(d, n=6, m=7)
    weights = np.random.default_rng(2).uniform(0.5, 1.5, 6)
    run = functools.partial(sliced_wasserstein_estimate, key=key, num=12, p=p)
    value = jax.jit(lambda x, y, a: run(x, y, x_weights=a).value)
    check_gradient(value, x, y, weights, rtol=1e-5)
    # equal clouds: no distance, and no gradient that is not finite
    counts = np.array([2.0, 1, 1, 1, 1, 1])
    same = x[[0, 0, 1, 2, 3, 4, 5]]
    assert abs(value(x, same, counts)) < 1e-12
    for slope in jax.jit(jax.grad(value, (0, 1, 2)))(x, same, counts):
        assert np.all(np.isfinite(slope))


def test_gradients_of_the_harmonics(x64):
    costs = np.random.default_rng(0).uniform(1, 2, 12)
    check_gradient(lambda c, r: harmonic_mean_cost(c, r).value, costs, rows(12, 2))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_dtypes(dtype, key, x64):
    x, y = (jnp.asarray(cloud, dtype) for cloud in clouds(4))
    directions = jnp.asarray(rows(12, 4), dtype)

    def run(x, y):
        costs = projected_costs(x, y, directions)
        upper = upper_variate(x, y, directions)
        return (
            sliced_wasserstein_estimate(x, y, key=key),
            controlled_mean(costs, upper),
            harmonic_mean_cost(costs, directions),
            energy_weights(costs),
        )

    assert all(a.dtype == dtype for a in jax.tree.leaves(jax.eval_shape(run, x, y)))


def test_single_precision_vmap_and_integers(key):
    x, y = (np.float32(10 * cloud) for cloud in clouds(4, n=16, m=16))
    run = functools.partial(sliced_wasserstein_estimate, key=key, num=16)
    with jax.enable_x64(True):
        exact = float(run(np.float64(x.round()), np.float64(y.round())).value)
    integers = run(x.round().astype("int32"), y.round().astype("int32"))
    assert_close(integers.value / 100, exact / 100, rtol=0.2)  # other directions
    batch = jnp.stack([x.round(), x + 1])
    value = jax.vmap(lambda x: run(x, y.round()).value)(batch)[0]
    assert_close(value, integers.value, rtol=1e-4)


# --- errors ------------------------------------------------------------------------


def _estimate(**change):
    options = {"x": np.ones((5, 3)), "y": np.ones((4, 3)), "key": jr.key(0)} | change
    return sliced_wasserstein_estimate(**options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _estimate(x=np.ones(3)), r"`x` must have shape \(n, d\)"),
        (lambda: _estimate(y=np.ones((4, 2))), "`y` must have 3 columns"),
        (lambda: _estimate(num=1), "`num` must be an integer >= 2; got 1"),
        (lambda: _estimate(p=0.5), "`p` must be in"),
        (lambda: _estimate(x_weights=-np.ones(5)), "`x_weights` must be >= 0"),
        (lambda: lower_variate(np.ones((2, 3)), np.ones((2, 3)), np.eye(2)), "3 col"),
        (
            lambda: gaussian_variate(
                np.ones((2, 3)), np.ones((2, 3)), np.eye(3), key=jr.key(0), num_mean=1
            ),
            "`num_mean` must be an integer >= 8",
        ),
        (lambda: controlled_mean(np.ones((2, 2))), r"`costs` must have shape \(p,\)"),
        (
            lambda: controlled_mean(np.ones(3), Variate(np.ones(2), 0.0, 0.0)),
            "must have equal shapes",
        ),
        (lambda: controlled_mean(np.ones(3), weights=np.ones(2)), r"shape \(3,\)"),
        (lambda: controlled_mean(np.ones(3), block=0), "`block` must be an integer"),
        (
            lambda: controlled_mean(np.ones(3), block=3, split=True),
            "`number of blocks` must be an integer >= 2",
        ),
        (
            lambda: harmonic_mean_cost(np.ones(10), rows(10, 4)),
            "at least 11 directions in dimension 4, better 27",
        ),
        (lambda: energy_weights([1.0, np.nan]), "`costs` must be finite"),
        (lambda: energy_weights([1.0], power=-1), "`power` must be in"),
    ],
)
def test_errors(call, message, user_errors):
    with pytest.raises(ValueError, match=message):
        call()
