import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import assert_close, check_gradient

from transportjax.maps import RationalQuadraticSpline

EPS = float(np.finfo("float32").eps)


def random_parameters(seed, k):
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.normal(size=k)), np.sort(rng.exponential(size=k))
    return x, y, np.exp(rng.normal(size=k))


def trained_like(seed, k, spread):
    """A float32 spline whose leaves have moved from the identity by a normal draw."""

    def noise(n):
        return spread * np.random.default_rng([seed, n]).normal(size=n)

    start = RationalQuadraticSpline.identity(k)
    leaves, tree = jax.tree.flatten(start)
    moved = [leaf + noise(leaf.size).reshape(leaf.shape) for leaf in leaves]
    return jax.tree.unflatten(tree, [jnp.asarray(m, "float32") for m in moved])


@jax.jit
def forward(curve, x):
    return jax.vmap(curve.transform_and_log_det)(x)


@jax.jit
def backward(curve, y):
    return jax.vmap(curve.inverse_and_log_det)(y)


@jax.jit
def slopes(curve, x):
    return jax.vmap(jax.grad(curve))(x)


def durkan(x, x_knots, y_knots, derivatives):
    """Equations (4) and (5) of Durkan et al., one point, as printed."""
    i = np.clip(np.searchsorted(x_knots, x, side="right") - 1, 0, len(x_knots) - 2)
    width, height = x_knots[i + 1] - x_knots[i], y_knots[i + 1] - y_knots[i]
    s, t = height / width, (x - x_knots[i]) / width
    d0, d1 = derivatives[i], derivatives[i + 1]
    denominator = s + (d1 + d0 - 2 * s) * t * (1 - t)
    y = y_knots[i] + height * (s * t**2 + d0 * t * (1 - t)) / denominator
    slope = s**2 * (d1 * t**2 + 2 * s * t * (1 - t) + d0 * (1 - t) ** 2)
    return y, slope / denominator**2


@pytest.mark.parametrize("k", [2, 3, 9, 30])
def test_it_is_the_spline_of_the_paper_with_linear_tails(k, x64):
    x_knots, y_knots, derivatives = random_parameters(k, k)
    curve = RationalQuadraticSpline.from_knots(x_knots, y_knots, derivatives)
    x = np.linspace(x_knots[0], x_knots[-1], 200)
    expected = np.array([durkan(t, x_knots, y_knots, derivatives) for t in x]).T
    y, log_slope = forward(curve, x)
    assert_close(y, expected[0])
    assert_close(np.exp(log_slope), expected[1])

    y, log_slope = forward(curve, x_knots[0] - np.array([0.5, 3.0]))
    assert_close(y, y_knots[0] - derivatives[0] * np.array([0.5, 3.0]))
    assert_close(np.exp(log_slope), [derivatives[0]] * 2)
    y, log_slope = forward(curve, x_knots[-1] + np.array([0.5, 3.0]))
    assert_close(y, y_knots[-1] + derivatives[-1] * np.array([0.5, 3.0]))
    assert_close(np.exp(log_slope), [derivatives[-1]] * 2)


def test_knots_are_met_with_their_slopes(x64):
    x_knots, y_knots, derivatives = random_parameters(0, 12)
    curve = RationalQuadraticSpline.from_knots(x_knots, y_knots, derivatives)
    expected = (x_knots, y_knots, derivatives)
    for mine, given in zip(curve.knots, expected, strict=True):
        assert_close(mine, given)
    # at the knots as rounded by the sums, and a little to both sides: C1
    for step in (-1e-9, 0, 1e-9):
        x = curve.knots[0] + step
        assert_close(forward(curve, x)[0], y_knots, rtol=1e-7)
        assert_close(slopes(curve, x), derivatives, rtol=1e-6)
        assert_close(np.exp(forward(curve, x)[1]), derivatives, rtol=1e-6)


def test_slopes_of_a_line_give_the_line():
    x_knots = np.sort(np.random.default_rng(0).normal(size=6))
    curve = RationalQuadraticSpline.from_knots(
        x_knots, 3 * x_knots + 1, 3 * np.ones_like(x_knots)
    )
    x = np.linspace(-5, 5, 50)
    y, log_slope = forward(curve, x)
    assert_close(y, 3 * x + 1)
    assert_close(log_slope, np.log(3) * np.ones(50))


def test_identity():
    curve = RationalQuadraticSpline.identity(8, low=-2, high=5)
    assert_close(curve.knots[0], np.linspace(-2, 5, 8))
    x = np.linspace(-9, 9, 77)
    assert_close(forward(curve, x)[0], x, rtol=1e-6)
    assert_close(forward(curve, x)[1], np.zeros(77), rtol=1e-6)
    assert_close(backward(curve, x)[0], x, rtol=1e-6)


def test_one_knot_is_a_line_through_it():
    one = np.ones(1)
    curve = RationalQuadraticSpline.from_knots(2 * one, 5 * one, 3 * one)
    x = jnp.array([-1.0, 2.0, 4.0])
    assert_close(forward(curve, x)[0], 5 + 3 * (x - 2))
    assert_close(forward(curve, x)[1], np.log(3) * np.ones(3))
    assert_close(backward(curve, x)[0], 2 + (x - 5) / 3)
    assert_close(slopes(curve, x), [3, 3, 3])


@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_float32_round_trip_at_trained_parameters(spread):
    for seed in range(10):
        curve = trained_like(seed, 16, spread)
        x = np.random.default_rng(seed).normal(size=500).astype("float32") * 3
        y, log_slope = forward(curve, x)
        back, inverse_log_slope = backward(curve, y)
        size = np.max(np.abs(x)) + np.max(np.abs(y)) * np.exp(-log_slope)
        assert np.max(np.abs(back - x) / (EPS * size)) < 8
        # the slope of a bin is relative to its width: a rounding of x is 1/width of it
        assert_close(inverse_log_slope, -log_slope, rtol=1e-3)


def test_steep_and_flat_bins_are_inverted(x64):
    x_knots, y_knots = np.array([0.0, 1.0, 2.0]), np.array([0.0, 1e-3, 1.0])
    for start, end in [(1e3, 1e-3), (1e-3, 1e3), (1e-6, 1e-6), (1e6, 1e6)]:
        derivatives = np.array([start, 1.0, end])
        curve = RationalQuadraticSpline.from_knots(x_knots, y_knots, derivatives)
        x = np.linspace(0, 2, 101)
        y, log_slope = forward(curve, x)
        assert np.all(np.diff(y) > 0)
        back, inverse_log_slope = backward(curve, y)
        size = 1 + y * np.exp(-log_slope)  # of a rounding of y, seen in x
        assert np.max(np.abs(back - x) / size) < 1e-15
        assert_close(inverse_log_slope, -log_slope, rtol=1e-6)


def test_derivatives_everywhere(x64):
    parameters = random_parameters(7, 6)
    x = np.concatenate([np.linspace(-3, 3, 20), parameters[0], parameters[1]])

    @jax.jit
    def loss(x, *parameters):
        curve = RationalQuadraticSpline.from_knots(*parameters)
        y, log_slope = forward(curve, x)
        z, inverse_log_slope = backward(curve, x)
        return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(z) + log_slope + inverse_log_slope)

    check_gradient(loss, x[:20], *parameters, rtol=1e-5, atol=1e-6)
    for array in jax.tree.leaves(jax.grad(loss, argnums=(0, 1, 2, 3))(x, *parameters)):
        assert np.all(np.isfinite(array))


@pytest.mark.parametrize("spread", [10.0, 30.0])
def test_wild_leaves_stay_finite_and_increasing(spread):
    curve = trained_like(0, 12, spread)
    knots = np.asarray(curve.knots[0])
    x = np.sort(np.concatenate([knots, np.linspace(knots[0], knots[-1], 300)]))
    y, log_slope = forward(curve, x)
    assert np.all(np.isfinite(log_slope))
    assert np.all(np.diff(y) >= -EPS * np.max(np.abs(y)))


def test_repeated_knots_are_spread():
    x_knots, y_knots = np.array([0.0, 1, 1, 2]), np.array([0.0, 1, 1, 3])
    curve = RationalQuadraticSpline.from_knots(x_knots, y_knots, np.ones(4))
    x = np.array([0.0, 0.5, 1.0, 1.5, 2.0])

    def value(curve, x):
        return jnp.sum(jnp.stack(forward(curve, x)))

    for leaf in jax.tree.leaves(jax.grad(value, argnums=(0, 1))(curve, x)):
        assert np.all(np.isfinite(leaf))
    assert_close(forward(curve, x)[0][jnp.array([0, 2, 4])], [0, 1, 3])


def test_events_that_are_not_finite():
    curve = trained_like(0, 8, 0.3)
    x = jnp.array([-jnp.inf, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(forward(curve, x)[0], x)
    np.testing.assert_array_equal(backward(curve, x)[0], x)


def test_it_learns_a_curve_from_the_identity():
    x = jnp.linspace(-2.5, 2.5, 64)
    target = jnp.sinh(x)
    optimiser = optax.adam(0.05)

    def loss(curve):
        return jnp.mean((jax.vmap(curve)(x) - target) ** 2)

    def step(carry, _):
        curve, state = carry
        value, gradient = jax.value_and_grad(loss)(curve)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(gradient, state)
        return (optax.apply_updates(curve, updates), state), value

    start = RationalQuadraticSpline.identity(8)
    run = jax.jit(lambda c: jax.lax.scan(step, (c, optimiser.init(c)), length=300))
    (curve, _), values = run(start)
    assert values[0] > 1
    assert loss(curve) < 1e-2
    assert np.all(np.diff(forward(curve, jnp.linspace(-9, 9, 500))[0]) > 0)


def test_errors(user_errors):
    from_knots = RationalQuadraticSpline.from_knots
    for arguments, match in [
        (([0, 1], [0, 1], [1]), r"`derivatives` must have shape \(2,\)"),
        (
            ([0, 1], [0, 1], [1, 0]),
            "`derivatives` must be positive; got a minimum of 0",
        ),
        (([0, 1], [0, 1], [1, np.inf]), "`derivatives` must be finite"),
        (([1, 0], [0, 1], [1, 1]), "`x` must not decrease"),
        (([0, 1], [0, 1, 2], [1, 1]), "equal shapes"),
    ]:
        with pytest.raises(ValueError, match=match):
            from_knots(*arguments)
    with pytest.raises(ValueError, match="`num_knots` must be an integer >= 2"):
        RationalQuadraticSpline.identity(1)
    with pytest.raises(ValueError, match="`low` must be below `high`"):
        RationalQuadraticSpline.identity(4, low=1.0, high=0.0)
