import functools
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.optimize
from helpers import DATA, assert_close, check_gradient
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax.onedim import circle_coordinates, wasserstein_1d, wasserstein_circle

REFERENCE = dict(np.load(DATA / "circle.npz"))


@eqx.filter_jit
def distance(x, y, p: Any = 2, a: Any = None, b: Any = None):
    return wasserstein_circle(x, y, p=p, x_weights=a, y_weights=b)


def linear_program(x, y, p: Any, a: Any = None, b: Any = None):
    """W_p^p on the circle of two single rows, as a linear program."""
    n, m = len(x), len(y)
    a = np.ones(n) if a is None else np.asarray(a, float)
    b = np.ones(m) if b is None else np.asarray(b, float)
    gap = np.abs(np.subtract.outer(x, y)) % 1
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    found = scipy.optimize.linprog(
        1e4 * np.minimum(2 * gap, 2 - 2 * gap).ravel() ** p,  # it stops at 1e-7
        A_eq=np.concatenate([rows, columns]),
        b_eq=np.concatenate([a / a.sum(), b / b.sum()]),
    )
    return found.fun / (1e4 * 2.0**p)


# --- coordinates -------------------------------------------------------------------


def test_coordinates():
    points = [[1, 0], [3, 3], [0, 1], [-1, 0], [-1, -0.0], [0, -2], [2, -2]]
    expected = [0, 1 / 8, 1 / 4, 1 / 2, 1 / 2, 3 / 4, 7 / 8]
    found = circle_coordinates(jnp.array(points))
    assert_close(found, expected, rtol=1e-7)
    # the convention (pi + atan2(-z_2, -z_1)) / (2 pi)
    points = np.random.default_rng(0).normal(size=(2, 50, 2)).astype("float32")
    first, second = np.moveaxis(points.astype(float), -1, 0)
    expected = (np.pi + np.arctan2(-second, -first)) / (2 * np.pi)
    assert_close(circle_coordinates(points), expected, rtol=3e-7)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_coordinates_stay_below_one(dtype):
    points = jnp.array([[1, -1e-9], [1, -1e-3], [1, -0.0], [0, 0]], dtype)
    found = circle_coordinates(points)
    assert found.dtype == dtype
    assert bool(jnp.all((found >= 0) & (found < 1)))
    assert circle_coordinates(np.array([0, 1])) == 0.25  # integers


def test_gradient_of_coordinates(x64):
    points = np.random.default_rng(1).normal(size=(5, 2))
    check_gradient(lambda z: jnp.sum(jnp.sin(circle_coordinates(z))), points)
    slope = jax.jit(jax.jacobian(circle_coordinates))
    assert_close(slope(jnp.array([0.0, 2.0])), [-1 / (4 * np.pi), 0], atol=1e-17)
    assert_close(slope(jnp.zeros(2)), [0, 0], atol=0)


# --- known answers -----------------------------------------------------------------


def test_single_samples(x64):
    x = np.linspace(-1.3, 1.4, 28)[:, None]
    gap = np.abs(x - x.T) % 1
    expected = np.minimum(gap, 1 - gap)
    for p in (1, 3):
        found = distance(x[:, None], x[None], p)
        assert_close(found, expected**p, rtol=1e-12, atol=1e-15)


def test_rotations_of_a_grid():
    # Turned by s, a grid of n points is at the distance of s to the multiples of 1/n.
    x = jnp.linspace(0, 1, 9)[:-1]
    shift = jnp.array([0.0, 0.03, -0.05, 0.3, 0.5, 1.0, 2.11])
    expected = np.asarray(shift) - np.round(np.asarray(shift) * 8) / 8
    assert_close(distance(x, x[None] + shift[:, None]), expected**2, atol=1e-9)
    # n points to n k points: each splits among k, at (j + 1/2) / (n k) - 1 / (2 n)
    fine = jnp.linspace(0, 1, 33)[:-1] + (0.5 / 32 + 0.11)
    gaps = (np.arange(4) + 0.5) / 32 - 1 / 16
    assert_close(distance(x + 1 / 16 + 0.11, fine), np.mean(gaps**2), atol=1e-9)


def test_antipodes():
    # from two poles to the two others: a quarter turn, whichever way
    x, y = jnp.array([0.0, 0.5]), jnp.array([0.25, 0.75])
    for p in (1, 2, 3):
        assert_close(distance(x, y, p), 0.25**p)
    gradient = jax.grad(distance)(x, y)
    assert bool(jnp.all(jnp.isfinite(gradient)))
    # half of the mass has to go half around
    half = jnp.array([0.0, 0.0])
    assert_close(distance(half, x), 0.25 / 2)


def test_no_distance(key):
    x = jr.uniform(key, (3, 7), minval=-2, maxval=2)
    a = jr.uniform(key, (3, 7))
    whole = jnp.arange(7.0)[None] - 3
    order = jr.permutation(key, 7)
    assert bool(jnp.all(distance(x, x) == 0))
    assert bool(jnp.all(distance(x, x, 2, a, a) == 0))
    assert bool(jnp.all(distance(x, x, 1, a, a) == 0))
    assert_close(distance(x, (x + whole)[:, order]), jnp.zeros(3), atol=1e-6)
    gradient = jax.grad(lambda x, y: distance(x, y).sum())(x, x)
    assert bool(jnp.all(gradient == 0))


def test_on_a_short_arc_it_is_the_line(x64):
    rng = np.random.default_rng(2)
    x, y = rng.uniform(size=(4, 9)) / 2, rng.uniform(size=(4, 6)) / 2
    a, b = rng.uniform(size=(4, 9)), rng.uniform(size=6)
    line = wasserstein_1d(x, y, p=1)
    assert_close(distance(x + 0.7, y + 0.7, 1), line, rtol=1e-12)
    line = wasserstein_1d(x, y, x_weights=a, y_weights=b)
    assert_close(distance(x + 0.7, y + 0.7, 2, a, b), line, rtol=1e-12)


# --- a linear program --------------------------------------------------------------


def problems(n, m, seed=0):
    """Rows of samples, some of which tie, and of weights, some of them zero or even."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-1, 2, (12, n)), rng.uniform(-1, 2, (12, m))
    x[:4], y[:4] = np.round(8 * x[:4]) / 8, np.round(8 * y[:4]) / 8
    y[4:6] = np.resize(x[4:6], (2, m))
    a, b = rng.uniform(size=(12, n)), rng.uniform(size=(12, m))
    a[::3], b[::3] = 1, 1
    a[1::3] = rng.integers(0, 3, (4, n)) + np.eye(n)[0]
    b[1::3] = rng.integers(0, 3, (4, m)) + np.eye(m)[-1]
    return x, y, a, b


@pytest.mark.parametrize(("n", "m"), [(1, 3), (5, 5), (6, 4)])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_linear_program(n, m, weighted, x64):
    rows = problems(n, m)[: 2 + 2 * weighted]
    x, y, a, b = (*rows, None, None)[:4]
    for p in (1, 1.5, 2, 5):
        expected = [linear_program(*r[:2], p, *r[2:]) for r in zip(*rows, strict=True)]
        found = distance(x, y, jnp.asarray(float(p)), a, b)
        assert_close(found, expected, rtol=1e-9, atol=1e-12)
        if weighted and p == 1:  # by the median, and not by bisection
            assert_close(distance(x, y, p, a, b), expected, rtol=1e-9, atol=1e-12)
        if n == 6:
            single = [None if z is None else np.float32(z) for z in (x, y, a, b)]
            found = distance(*single[:2], jnp.float32(p), *single[2:])
            assert found.dtype == "float32"
            assert_close(found, expected, rtol=2e-5, atol=5e-7)


def test_w1_counts_the_gap_across_zero(x64):
    """A formula in use forgets the gap from the last sample, past 0, to the first."""
    rng = np.random.default_rng(0)
    x, y = np.sort(rng.uniform(0.3, 0.6, 4)), np.sort(rng.uniform(0.2, 0.95, 4))
    z = np.sort(np.concatenate([x, y]))
    level = np.searchsorted(x, z, "right") / 4 - np.searchsorted(y, z, "right") / 4

    def w1(last):
        gap = np.append(np.diff(z), last)
        order = np.argsort(level)
        passed = np.cumsum(gap[order])
        median = level[order][np.searchsorted(passed, passed[-1] / 2)]
        return np.sum(gap * np.abs(level - median))

    expected = linear_program(x, y, 1)
    wrong, right = w1(1 - z[-1]), w1(1 - z[-1] + z[0])
    assert_close(right, expected, rtol=1e-12)
    assert abs(wrong - expected) > 0.1
    turned = np.linspace(0, 1, 7)[:, None]
    for a in (None, np.ones(4)):
        found = distance(x + turned, y + turned, 1, a, a)
        assert_close(found, np.full(7, expected), rtol=1e-12)


# --- against reference data --------------------------------------------------------


@eqx.filter_jit
def value_and_gradients(x, y, a, b, p):
    def total(x, y):
        value = distance(x, y, p, a, b)
        return value.sum(), value

    return jax.value_and_grad(total, (0, 1), has_aux=True)(x, y)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
@pytest.mark.parametrize("name", "abc")
def test_reference(name, p, dtype, x64):
    given = [REFERENCE.get(f"{name}/{f}") for f in "uvab"]
    arrays = [None if z is None else jnp.asarray(z, dtype) for z in given]
    static = f"{name}{p}" in ("a2", "c1")
    exponent = p if static else jnp.asarray(p, dtype)
    (_, value), gradients = value_and_gradients(*arrays, exponent)
    assert value.dtype == dtype
    rtol, slope_rtol = {"float64": (1e-9, 1e-7), "float32": (2e-5, 1e-4)}[dtype]
    case = f"{name}_p{p}"
    assert_close(value, REFERENCE[f"{case}/value"], rtol=rtol, atol=0)
    for gradient, field in zip(gradients, "uv", strict=True):
        expected = REFERENCE[f"{case}/gradient_{field}"]
        size, gradient = np.abs(expected).max(), np.asarray(gradient)
        assert_close(gradient, expected, rtol=slope_rtol, atol=slope_rtol * size)


# --- derivatives -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "m", "p", "weighted"),
    [(5, 5, None, 0), (6, 4, 2, 0), (4, 7, None, 1), (6, 4, 1, 1)],
)
def test_gradient(n, m, p, weighted, x64):
    rng = np.random.default_rng(n)
    arrays = [rng.uniform(-1, 2, (3, n)), rng.uniform(size=m)]
    if weighted:
        arrays += [rng.uniform(0.5, 1.5, (3, n)), rng.uniform(0.5, 1.5, m)]
    num = len(arrays)
    if p is None:
        arrays.append(np.array(1.7))

    @jax.jit
    def total(*arrays):
        exponent = arrays[-1] if p is None else p
        return distance(*arrays[:2], exponent, *arrays[2:num]).sum()

    check_gradient(total, *arrays)


def test_gradient_of_weights_is_that_of_the_linear_program(x64):
    rng = np.random.default_rng(5)
    x, y, a, b = (rng.uniform(0.2, 1, k) for k in (4, 5, 4, 5))
    gradients = jax.grad(lambda a, b: distance(x, y, 2, a, b), (0, 1))(a, b)
    for weights, gradient in zip((a, b), gradients, strict=True):
        for k in range(len(weights)):
            step, values = np.zeros(len(weights)), []
            step[k] = 1e-4
            for sign in (1, -1):
                pair = [w + sign * step if w is weights else w for w in (a, b)]
                values.append(linear_program(x, y, 2, *pair))
            assert_close(gradient[k], (values[0] - values[1]) / 2e-4, rtol=1e-6)


def test_second_derivative(x64):
    rng = np.random.default_rng(6)
    x, y = rng.uniform(size=6), rng.uniform(size=4)
    hessian = jax.jit(jax.hessian(distance))(x, y)
    assert_close(hessian, np.eye(6) / 3, rtol=1e-12)  # 2 / n, as on the line


# --- metamorphic laws --------------------------------------------------------------


@pytest.mark.parametrize(("p", "weighted"), [(1, True), (2, True)])
def test_invariances(p, weighted, key):
    x, y = jr.uniform(key, (3, 8)), jr.beta(key, 2.0, 3.0, (3, 8))
    a, b = (jr.uniform(key, (3, 8)), jnp.ones(8)) if weighted else (None, None)
    expected = distance(x, y, p, a, b)
    order = jr.permutation(key, 8)
    mixed = None if a is None else a[:, order]
    for found in (
        distance(x + 0.37, y + 0.37, p, a, b),
        distance(-x, -y, p, a, b),
        distance(x + 3, y - 2, p, a, b),
        distance(y, x, p, b, a),
        distance(x[:, order], y, p, mixed, b),
    ):
        assert_close(found, expected, rtol=2e-5, atol=1e-6)
    line = wasserstein_1d(x, y, p=p, x_weights=a, y_weights=b)
    assert bool(jnp.all(expected <= line + 1e-6))


def test_weights_are_repetitions(key):
    x, y = jr.uniform(key, (5,)), jr.uniform(jr.fold_in(key, 1), (4,))
    counts = np.array([2, 0, 1, 3, 1])
    masses = counts.astype("float32")
    expected = distance(np.repeat(x, counts), y)
    assert_close(distance(x, y, 2, 0.3 * masses), expected, rtol=2e-5)
    expected = distance(np.repeat(x, counts), y, 1)
    assert_close(distance(y, x, 1, None, 7 * masses), expected, rtol=2e-5)


def test_large_samples():
    # x and y are quantiles at the same levels, so that sizes hardly matter.
    levels, fewer = ((np.arange(k) + 0.5) / k for k in (40_000, 39_999))
    x, y = np.float32(levels), np.float32(levels**2)
    expected = wasserstein_circle(x.astype(float), y.astype(float))
    assert_close(distance(x, y), expected, rtol=1e-6)
    assert_close(distance(x, np.float32(fewer**2)), expected, rtol=1e-4)
    weights = np.random.default_rng(0).uniform(size=40_000)
    ends = np.cumsum(weights) / weights.sum()
    places = np.float32(ends - weights / weights.sum() / 2)
    found = distance(places, y, 2, np.float32(weights))
    assert_close(found, expected, rtol=1e-4)


# --- dtypes, errors ----------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype, key):
    x, y = jr.uniform(key, (6,), dtype), jr.uniform(key, (2, 9), dtype)
    found = distance(x, y)
    assert found.dtype == dtype
    exact = distance(x.astype("float32"), y.astype("float32"))
    assert_close(found, exact.astype(dtype).astype("float32"), rtol=2e-2, atol=1e-4)


def test_integers_and_lists(user_errors):
    assert wasserstein_circle(np.array([0, 5]), np.array([7])) == 0
    found = wasserstein_circle(jnp.array([0.25]), np.array([0, 1], "uint8"), p=1.0)
    assert_close(found, 0.25)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([], [1.0]), {}, "`x` must hold at least one sample"),
        (([0.1], [np.nan]), {}, "`y` must be finite; got NaN"),
        (([0.1], [0.2]), {"p": 0.5}, "`p` must be in [1, 100]; got 0.5"),
        (([0.1], [0.2]), {"p": 200}, "`p` must be in [1, 100]; got 200"),
        (([0.1], [0.2]), {"x_weights": [-1.0]}, "`x_weights` must be >= 0"),
        (([0.1], [0.2]), {"y_weights": [1.0, 2.0]}, "`y_weights` must have shape (1,)"),
        (([[0.1]] * 2, [[0.2]] * 3), {}, "leading axes that broadcast"),
    ],
)
def test_errors(arguments, options, message, user_errors):
    arguments = [jnp.array(z) for z in arguments]
    options = {k: v if k == "p" else jnp.array(v) for k, v in options.items()}
    with pytest.raises(ValueError, match=re.escape(message)):
        wasserstein_circle(*arguments, **options)
    with pytest.raises(ValueError, match=r"`points` must be points in the plane"):
        circle_coordinates(jnp.zeros((2, 3)))


def test_bad_values_that_are_traced():
    x, y = jnp.array([0.1, 0.2]), jnp.array([0.1, 0.3, 0.4])
    for p in (1, 2):
        for weights in ([-1.0, 2.0], [0.0, 0.0], [jnp.nan, 1.0]):
            assert jnp.isnan(distance(x, y, p, jnp.array(weights)))
        assert jnp.isnan(distance(x.at[0].set(jnp.nan), y, p))


# --- transformations and devices ---------------------------------------------------


def everything(x, y, a, b):
    def total(x, y, a, b):
        value = wasserstein_circle(x, y, x_weights=a, y_weights=b)
        return value.sum(), value

    return jax.value_and_grad(total, (0, 1, 2, 3), has_aux=True)(x, y, a, b)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(7)
    shapes = ((8, 6), (8, 5), (8, 6), (8, 5))
    given = [jnp.asarray(rng.uniform(0.5, 2, s), "float32") for s in shapes]
    (_, value), gradients = jax.jit(everything)(*given)
    return given, (value, gradients)


def same(found, expected):
    (_, value), gradients = found
    for a, b in zip(jax.tree.leaves((value, gradients)), jax.tree.leaves(expected)):  # noqa: B905
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


def test_eager_vmap_and_scan(problem):
    given, expected = problem
    x, y, a, b = given
    eager = wasserstein_circle(x, y, x_weights=a, y_weights=b)
    np.testing.assert_allclose(eager, expected[0], rtol=2e-6)
    row_by_row = jax.jit(jax.vmap(wasserstein_circle))(x, y)
    np.testing.assert_allclose(row_by_row, wasserstein_circle(x, y), rtol=2e-6)
    rows = lambda carry, row: (carry, everything(*row))  # noqa: E731
    same(jax.jit(lambda given: lax.scan(rows, 0, given)[1])(tuple(given)), expected)


def test_on_several_devices(problem):
    given, expected = problem
    auto = jax.make_mesh((4,), ("p",), axis_types=(AxisType.Auto,))
    rows = functools.partial(jax.shard_map, mesh=auto, out_specs=P("p"), check_vma=True)
    one = lambda *given: everything(*given)[0][1]  # noqa: E731
    slopes = jax.jit(rows(lambda *g: everything(*g)[1], in_specs=P("p")))
    same(((0, expected[0]), slopes(*given)), expected)
    x, y, a, b = given
    shared = rows(one, in_specs=(P("p"), P(), P("p"), P()))
    found = jax.jit(shared)(x, y[0], a, b[0])
    np.testing.assert_allclose(found, jax.jit(one)(x, y[0], a, b[0]), rtol=2e-6)
    shared = rows(wasserstein_circle, in_specs=(P("p"), P()))
    np.testing.assert_allclose(jax.jit(shared)(x, y[0]), distance(x, y[0]), rtol=2e-6)
    explicit = jax.make_mesh((4,), ("p",), axis_types=(AxisType.Explicit,))
    split = [jax.device_put(z, NamedSharding(explicit, P("p"))) for z in given]
    same(jax.jit(everything)(*split), expected)


def test_traces_once():
    traces = []

    @jax.jit
    def function(x, y, p):
        traces.append(1)
        return wasserstein_circle(x, y, p=p)

    for p in (1.0, 1.5, 2.0):
        function(jnp.array([0.2, 0.5]), jnp.array([0.3]), p)
    assert len(traces) == 1
