import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, check_gradient, images_and_log_dets

from transportjax.maps import MonotoneLinear
from transportjax.maps.monotone import count_below, cumulate

EPS = float(np.finfo("float32").eps)


def polyline(x, x_knots, y_knots):
    """The oracle: numpy's interpolation and tails of slope one, in float64."""
    x, x_knots, y_knots = (np.asarray(a, "float64") for a in (x, x_knots, y_knots))
    inside = np.interp(x, x_knots, y_knots)
    return inside + np.minimum(x - x_knots[0], 0) + np.maximum(x - x_knots[-1], 0)


def random_knots(seed, k):
    rng = np.random.default_rng(seed)
    return np.sort(rng.normal(size=k)), np.sort(rng.exponential(size=k))


def apply(curve, x):
    return jax.jit(lambda curve, x: jax.vmap(curve)(x))(curve, x)


def invert(curve, y):
    return jax.jit(lambda curve, y: jax.vmap(curve.inverse)(y))(curve, y)


@pytest.mark.parametrize("k", [1, 2, 5, 40])
def test_it_is_the_polyline_with_tails_of_slope_one(k, x64):
    x_knots, y_knots = random_knots(k, k)
    curve = MonotoneLinear.from_knots(x_knots, y_knots)
    x = np.concatenate([np.linspace(-5, 5, 100), x_knots])
    assert_close(apply(curve, x), polyline(x, x_knots, y_knots), rtol=1e-12)
    y = polyline(x, x_knots, y_knots)
    assert_close(invert(curve, y), x, rtol=1e-10)


def test_values_by_hand():
    curve = MonotoneLinear.from_knots(np.array([0, 1, 3]), np.array([10, 12, 13]))
    assert_close(apply(curve, np.array([-1.0, 0.5, 1, 2, 4])), [9, 11, 12, 12.5, 14])
    slopes = jnp.exp(images_and_log_dets(curve, jnp.array([-1, 0.5, 2]))[1])
    assert_close(slopes, [1, 2, 0.5])


@pytest.mark.parametrize(
    ("scale", "shift"), [(1, 0), (255, 0), (1e-30, 0), (1e30, 0), (1, 1e4)]
)
def test_float32_keeps_512_knots_to_a_millionth_of_the_range(scale, shift):
    x_knots, y_knots = (
        (a * scale + shift).astype("float32") for a in random_knots(0, 512)
    )
    curve = MonotoneLinear.from_knots(x_knots, y_knots)
    rounding = EPS * shift
    for mine, knots in zip(curve.knots, (x_knots, y_knots), strict=True):
        assert np.max(np.abs(mine - knots)) <= 1e-6 * np.ptp(knots) + rounding
    x = np.linspace(x_knots[0], x_knots[-1], 2000)
    error = apply(curve, x) - polyline(x, x_knots, y_knots)
    # where the slope is steep, a rounded knot in x is seen magnified in y
    slope = np.max(np.diff(y_knots) / np.diff(x_knots).clip(1e-9 * scale))
    shifts = 1e-6 * np.ptp(x_knots) + rounding
    assert np.max(np.abs(error)) <= 1e-6 * np.ptp(y_knots) + 2 * slope * shifts


def test_equal_knots_are_the_identity_to_rounding():
    knots = random_knots(1, 300)[0].astype("float32")
    curve = MonotoneLinear.from_knots(knots, knots)
    x = np.random.default_rng(0).normal(size=1000).astype("float32") * 2
    y, log_det = images_and_log_dets(curve, x)
    assert np.max(np.abs(y - x)) <= 4 * EPS * np.ptp(knots)
    np.testing.assert_array_equal(log_det, 0)


REPEATED = {
    "in x, a jump": ([0, 1, 1, 2], [0, 1, 5, 6]),
    "in y, a flat": ([0, 1, 2, 3], [0, 1, 1, 4]),
    "in both": ([0, 1, 1, 1, 2], [0, 3, 3, 3, 4]),
    "at the ends": ([0, 0, 1, 1], [0, 1, 2, 4]),
    "constant source": ([2, 2, 2, 2], [0, 1, 3, 4]),
    "constant target": ([0, 1, 3, 4], [2, 2, 2, 2]),
    "both constant": ([2, 2, 2], [5, 5, 5]),
    "zero": ([0, 0, 0], [0, 0, 0]),
}


@jax.jit
def _values_and_gradients(curve, x):
    """Value, log-slope, inverse, its log-slope; the gradients of their sum."""

    def total(curve, x):
        values = [*curve.transform_and_log_det(x), *curve.inverse_and_log_det(x)]
        return sum(values), values

    gradient = jax.grad(total, argnums=(0, 1), has_aux=True)
    gradients, values = jax.vmap(gradient, in_axes=(None, 0))(curve, x)
    return values, gradients


@pytest.mark.parametrize("case", REPEATED)
def test_repeated_knots(case):
    x_knots, y_knots = (np.array(a, "float32") for a in REPEATED[case])
    curve = MonotoneLinear.from_knots(x_knots, y_knots)
    for leaf in jax.tree.leaves(curve):
        assert np.all(np.isfinite(leaf))
    apart = np.linspace(-1, 5, 240, dtype="float32") + 0.01  # away from the jumps
    apart = apart[np.abs(apart[:, None] - x_knots).min(axis=1) > 1e-3][:200]
    near = np.stack([x_knots, y_knots, np.nextafter(x_knots, 9)]).ravel()
    x = np.sort(np.concatenate([apart, np.resize(near, 15)]))
    (y, *_), _ = observed = _values_and_gradients(curve, x)
    for array in jax.tree.leaves(observed):
        assert np.all(np.isfinite(array))
    assert np.all(np.diff(y) >= 0)
    is_apart = np.isin(x, apart)
    expected = polyline(x, x_knots, y_knots)
    assert_close(y[is_apart], expected[is_apart], rtol=3e-6)


def test_gradients_through_repeated_knots_are_finite():
    x_knots = jnp.array([0.0, 1.0, 1.0, 2.0])
    y_knots = jnp.array([0.0, 1.0, 1.0, 3.0])

    @jax.jit
    def loss(x_knots, y_knots):
        curve = MonotoneLinear.from_knots(x_knots, y_knots)
        return jnp.sum(jax.vmap(curve)(jnp.array([-1.0, 0.5, 1.0, 1.5, 3.0])))

    for gradient in jax.grad(loss, argnums=(0, 1))(x_knots, y_knots):
        assert np.all(np.isfinite(gradient))


def test_knots_on_both_sides_of_a_point_move_it(x64):
    x_knots, y_knots = random_knots(3, 20)
    x = np.linspace(-4, 4, 50)

    @jax.jit
    def loss(x_knots, y_knots):
        return jnp.sum(jax.vmap(MonotoneLinear.from_knots(x_knots, y_knots))(x) ** 2)

    check_gradient(loss, x_knots, y_knots)


@pytest.mark.parametrize("seed", range(3))
def test_any_leaves_give_an_increasing_map_in_float32(seed):
    rng = np.random.default_rng(seed)
    # most increments are far below the rounding of the sums
    logs = rng.normal(size=(2, 700)).astype("float32") * [[3], [12]][seed % 2]
    curve = MonotoneLinear(*logs.astype("float32"), *np.float32([0.3, -7]))
    knots = np.asarray(curve.knots[0])
    x = np.concatenate([knots, np.nextafter(knots, np.inf), knots - 3, knots + 3])
    x = np.sort(np.concatenate([x, rng.uniform(x.min(), x.max(), 5000)])).astype(
        "float32"
    )
    y, log_det = jax.jit(jax.vmap(curve.transform_and_log_det))(x)
    rounding = EPS * np.max(np.abs(y))
    assert np.all(np.diff(y) >= -rounding)
    assert np.all(np.isfinite(log_det))
    inside = (x >= knots[0]) & (x <= knots[-1])
    assert np.all(y[inside] >= curve.knots[1][0] - rounding)
    assert np.all(y[inside] <= curve.knots[1][-1] + rounding)


def test_a_jump_is_crossed_back():
    x_knots, y_knots = np.array([0.0, 1, 1, 2]), np.array([0.0, 1, 5, 6])
    curve = MonotoneLinear.from_knots(x_knots, y_knots)
    assert_close(invert(curve, np.array([2.0, 3.0, 4.0])), [1.0, 1.0, 1.0], rtol=1e-6)


def test_the_inverse_is_exact_to_rounding():
    x_knots, y_knots = (a.astype("float32") for a in random_knots(5, 512))
    curve = MonotoneLinear.from_knots(x_knots, y_knots)
    x = np.random.default_rng(0).normal(size=4000).astype("float32")
    y, log_det = images_and_log_dets(curve, x)
    error = np.abs(invert(curve, y) - x)
    ulps = EPS * (np.ptp(x_knots) + np.ptp(y_knots) * np.exp(-log_det))
    assert np.max(error / ulps) < 4


def test_the_derivative_at_a_knot_is_that_to_the_right():
    x_knots, y_knots = np.array([0.0, 1, 3]), np.array([0.0, 2, 3])
    curve = MonotoneLinear.from_knots(x_knots, y_knots)
    (_, log_slopes, *_), _ = _values_and_gradients(curve, x_knots.astype("float32"))
    assert_close(jnp.exp(log_slopes), [2, 0.5, 1])
    slopes = jax.jit(jax.vmap(jax.grad(curve)))(jnp.asarray(x_knots))
    assert_close(slopes, [2, 0.5, 1])


def test_events_that_are_not_finite():
    for k in (3, 40):
        knots = jnp.arange(k, dtype="float32")
        curve = MonotoneLinear.from_knots(knots, knots + 1)
        x = jnp.array([-jnp.inf, jnp.inf, jnp.nan])
        for values in (apply(curve, x), invert(curve, x)):
            np.testing.assert_array_equal(values, x)


def test_half_precision_knots_are_kept_in_float32():
    knots = jnp.linspace(0, 1, 9).astype("bfloat16")
    curve = MonotoneLinear.from_knots(knots, knots)
    assert {leaf.dtype for leaf in jax.tree.leaves(curve)} == {jnp.dtype("float32")}
    assert_close(curve.knots[0], knots.astype("float32"), rtol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 512])
def test_count_below_is_a_sorted_search(k):
    rng = np.random.default_rng(k)
    knots = np.sort(rng.integers(0, 2 * k, k)).astype("float32")
    x = np.concatenate([knots, knots + 0.5, [-1, 4 * k, np.inf, -np.inf]])
    search = jax.jit(jax.vmap(count_below, in_axes=(None, 0)))
    found = search(jnp.asarray(knots), jnp.asarray(x))
    np.testing.assert_array_equal(found, np.searchsorted(knots, x, side="right"))
    assert found.dtype == "int32"


def test_sums_are_made_once_for_all_events():
    curve = MonotoneLinear.from_knots(*random_knots(0, 40))
    jaxpr = jax.make_jaxpr(lambda c, x: jax.vmap(c)(x))(curve, jnp.zeros(1000))
    sizes = [
        (name, size)
        for name, size in _primitive_sizes(jaxpr.jaxpr)
        if name in ("cumsum", "cummax", "exp", "div")
    ]
    assert {name for name, _ in sizes} == {"cumsum", "cummax", "exp", "div"}
    assert max(size for _, size in sizes) == 40


def _primitive_sizes(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name, max(v.aval.size for v in eqn.outvars)
        for value in jax.tree.leaves(eqn.params, is_leaf=lambda v: hasattr(v, "eqns")):
            if hasattr(value, "jaxpr"):
                value = value.jaxpr
            if hasattr(value, "eqns"):
                yield from _primitive_sizes(value)


def test_cumulated_sums_never_decrease():
    logs = np.random.default_rng(0).normal(size=5000).astype("float32") * 15
    assert np.all(np.diff(cumulate(jnp.asarray(logs))) >= 0)


def test_errors(user_errors):
    from_knots = MonotoneLinear.from_knots
    for x, y, match in [
        ([0, 1], [[0, 1]], r"`y` must have shape \(k,\)"),
        ([], [], "at least one knot"),
        ([0, 1], [0, 1, 2], "equal shapes"),
        ([0, 2, 1], [0, 1, 2], r"`x` must not decrease; got 2 before 1 at index 1"),
        ([0, 1], [1, 0], "`y` must not decrease"),
        ([0, np.nan], [0, 1], "`x` must be finite; got NaN"),
        ("knots", [0], "`x` must be an array of numbers"),
    ]:
        with pytest.raises(ValueError, match=match):
            from_knots(x, y)
