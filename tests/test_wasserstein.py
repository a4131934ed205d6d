import equinox as eqx
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.stats
from helpers import DATA, assert_close, check_gradient
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax.onedim import plan_1d, potentials_1d, wasserstein_1d
from transportjax.onedim.sorting import sort
from transportjax.onedim.wasserstein import cost_of_sorted

REFERENCE = dict(np.load(DATA / "wasserstein_1d.npz"))
CASES = sorted({k.split("/")[0] for k in REFERENCE if k.startswith("w1d_")})
distance = jax.jit(wasserstein_1d, static_argnames="p")


def brute(x, y, p, a=None, b=None):
    """W_p^p in float64, by the integral of |F^-1 - G^-1|^p between all levels."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    a = np.ones(len(x)) if a is None else np.asarray(a, float)
    b = np.ones(len(y)) if b is None else np.asarray(b, float)
    order, other = np.argsort(x, kind="stable"), np.argsort(y, kind="stable")
    levels, others = np.cumsum(a[order] / a.sum()), np.cumsum(b[other] / b.sum())
    levels[-1] = others[-1] = 1
    merged = np.union1d(levels, others)
    i, j = np.searchsorted(levels, merged), np.searchsorted(others, merged)
    cost = np.abs(x[order][i] - y[other][j]) ** p
    return float(np.sum(np.diff(merged, prepend=0) * cost))


# Known answers


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_translation(p, key):
    x = jr.normal(key, (3, 20))
    shift = jnp.array([2.0, -0.5, 0.0])
    assert_close(distance(x, x + shift[:, None], p=p), jnp.abs(shift) ** p, atol=1e-6)


def test_known_answers():
    x, y = jnp.array([3.0, 0.0, 1.0]), jnp.array([7.0, 5.0])
    # 0 -> 5 (1/3), 1 -> 5 (1/6), 1 -> 7 (1/6), 3 -> 7 (1/3)
    assert_close(wasserstein_1d(x, y, p=1), 5 / 3 + 4 / 6 + 6 / 6 + 4 / 3)
    assert_close(wasserstein_1d(x, y), 25 / 3 + 16 / 6 + 36 / 6 + 16 / 3)
    assert_close(wasserstein_1d(y, x, p=3), 125 / 3 + 64 / 6 + 216 / 6 + 64 / 3)
    # one atom: the p-th moment about it
    assert_close(wasserstein_1d(x, jnp.array([1.0]), p=3), (8 + 1 + 0) / 3)
    assert_close(wasserstein_1d(jnp.array([1.0]), jnp.array([4.0])), 9.0)
    # a mass of 1/4 moves by 1
    weights = jnp.array([3.0, 1.0])
    ends = jnp.array([0.0, 1.0])
    assert_close(wasserstein_1d(ends, ends, x_weights=weights), 0.25)
    assert_close(wasserstein_1d(ends, ends, y_weights=weights, p=1), 0.25)


def test_quantiles_of_two_gaussians(x64):
    # W_2^2 = (m - m')^2 + (s - s')^2
    levels = (np.arange(200_000) + 0.5) / 200_000
    z = scipy.stats.norm.ppf(levels)
    x, y = 1 + 2 * z, 4 + 0.5 * z
    assert_close(wasserstein_1d(x, y), 9 + 2.25, rtol=1e-4)
    # half of the samples have the same quantiles
    half = scipy.stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    assert_close(wasserstein_1d(x, 4 + 0.5 * half), 9 + 2.25, rtol=1e-4)


@pytest.mark.parametrize("sizes", [(9, 9), (4, 8)])
def test_w1_equals_scipy(sizes, x64):
    rng = np.random.default_rng(0)
    x, y = (np.round(rng.normal(size=k), 1) for k in sizes)
    a, b = (rng.integers(0, 4, k) + np.eye(k)[0] for k in sizes)
    expected = scipy.stats.wasserstein_distance
    assert_close(wasserstein_1d(x, y, p=1), expected(x, y), rtol=1e-12)
    both = wasserstein_1d(x, y, p=1, x_weights=a, y_weights=b)
    assert_close(both, expected(x, y, a, b), rtol=1e-12)
    one = wasserstein_1d(x, y, p=1, y_weights=b)
    assert_close(one, expected(x, y, None, b), rtol=1e-12)


# Reference values


@eqx.filter_jit
def _value_and_gradients(arrays, p):
    def total(arrays):
        u, v, a, b = arrays
        value = wasserstein_1d(u, v, p=p, x_weights=a, y_weights=b)
        return value.sum(), value

    return jax.value_and_grad(total, has_aux=True)(arrays)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, "float64") for case in CASES]
    + [
        (case, "float32")
        for case in CASES
        if "unequal_p2" in case or "batch_p2" in case
    ],
)
def test_reference(case, dtype, x64):
    p = float(case.rsplit("_p", 1)[1])
    p = int(p) if p < 3 and p == int(p) else jnp.asarray(p, dtype)
    names = ("u", "v", "a", "b")
    given = [REFERENCE.get(f"{case}/{name}") for name in names]
    arrays = tuple(None if z is None else jnp.asarray(z.T, dtype) for z in given)
    (_, value), gradients = _value_and_gradients(arrays, p)
    assert value.dtype == dtype
    assert_close(value, REFERENCE[f"{case}/value"], atol=0)
    for name, gradient in zip(names, gradients, strict=True):
        expected = REFERENCE.get(f"{case}/g_{name}")
        if expected is None:
            continue
        expected, tol = expected.T, 1e-9 if dtype == "float64" else 1e-4
        if name in "ab":
            held = np.asarray(arrays[names.index(name)]) > 0
            expected = np.where(held, expected - _mean(expected, held), 0)
            gradient = np.where(held, gradient - _mean(gradient, held), 0)
        size = np.abs(expected).max()
        assert_close(gradient, expected, rtol=tol, atol=tol * size)


def _mean(x, held):
    return np.mean(x, axis=-1, keepdims=True, where=held)


def test_reference_plan(x64):
    x, y, a, b = (REFERENCE[f"emd1d/{name}"] for name in "xyab")
    plan = plan_1d(x, y, x_weights=a, y_weights=b)
    assert plan.mass.shape == (x.size + y.size - 1,)
    assert_close(plan.to_dense(x.size, y.size), REFERENCE["emd1d/plan"], rtol=1e-12)
    gap = np.abs(x[plan.rows] - y[plan.columns])
    for name, cost in (("sqeuclidean", gap**2), ("cityblock", gap)):
        expected = REFERENCE[f"emd1d_{name}/cost"]
        assert_close(jnp.vdot(plan.mass, cost), expected, rtol=1e-12)


@pytest.mark.parametrize("p", [1, 2])
def test_reference_potentials(p, x64):
    x, y, a, b = (REFERENCE[f"emd1d/{name}"] for name in "xyab")
    found = potentials_1d(x, y, p=p, x_weights=a, y_weights=b)
    for potential, name in zip(found, "fg", strict=True):
        assert_close(potential, REFERENCE[f"emd1d_potentials_p{p}/{name}"], rtol=1e-9)


# Laws

clouds = st.tuples(
    st.lists(st.integers(-20, 20), min_size=6, max_size=6),
    st.lists(st.integers(-20, 20), min_size=4, max_size=4),
    st.lists(st.integers(0, 3), min_size=6, max_size=6).filter(any),
    st.lists(st.integers(0, 3), min_size=4, max_size=4).filter(any),
)


def law(test):
    test = hypothesis.settings(deadline=None, max_examples=60, derandomize=True)(test)
    return hypothesis.given(clouds)(test)


def arrays(cloud):
    return [jnp.asarray(np.asarray(z, "float32")) for z in cloud]


@law
def test_every_cloud_has_the_exact_distance(cloud):
    x, y, a, b = arrays(cloud)
    for p in (1, 2):
        assert_close(distance(x, y, p=p), brute(x, y, p), atol=1e-5)
        weighted = distance(x, y, p=p, x_weights=a, y_weights=b)
        assert_close(weighted, brute(x, y, p, a, b), atol=1e-5)


@hypothesis.settings(deadline=None, max_examples=10, derandomize=True)
@hypothesis.given(clouds)
def test_weights_are_repetitions(cloud):
    x, y, a, b = cloud
    many = wasserstein_1d(np.repeat(np.float32(x), a), np.repeat(np.float32(y), b), p=2)
    x, y, a, b = arrays(cloud)
    few = distance(x, y, x_weights=a, y_weights=b)
    assert_close(few, many, atol=1e-5)
    doubled = distance(x, y, x_weights=2 * a, y_weights=b / 3)
    assert_close(doubled, few, atol=1e-5)


@law
def test_symmetries(cloud):
    x, y, a, b = arrays(cloud)
    weights = {"x_weights": a, "y_weights": b}
    value = distance(x, y, **weights)
    assert_close(distance(y, x, x_weights=b, y_weights=a), value, atol=1e-5)
    assert_close(distance(x + 7, y + 7, **weights), value, atol=1e-5)
    assert_close(distance(-3 * x, -3 * y, **weights), 9 * value, atol=1e-4)
    turned = {"x_weights": a[::-1], "y_weights": b[::-1]}
    assert_close(distance(x[::-1], y[::-1], **turned), value, atol=1e-5)
    assert_close(distance(x, y[::-1]), distance(x, y), atol=1e-5)
    assert distance(x, x) == 0
    assert_close(distance(x, x, x_weights=a, y_weights=5 * a), 0, atol=1e-5)


@law
def test_triangle_inequality(cloud):
    x, y, a, b = arrays(cloud)
    z = jnp.sort(x * y[0])
    root = lambda x, y, **k: np.sqrt(distance(x, y, **k))  # noqa: E731
    through = root(x, z, x_weights=a) + root(z, y, y_weights=b)
    assert root(x, y, x_weights=a, y_weights=b) <= through + 1e-3


@law
def test_plan_and_potentials_certify_each_other(cloud):
    x, y, a, b = arrays(cloud)
    weights = {"x_weights": a, "y_weights": b}
    plan = jax.jit(plan_1d)(x, y, **weights)
    dense = plan.to_dense(6, 4)
    assert_close(dense.sum(1), a / a.sum(), atol=1e-6)
    assert_close(dense.sum(0), b / b.sum(), atol=1e-6)
    for p in (1, 2):
        cost = np.abs(x[:, None] - y[None, :]) ** p
        value = distance(x, y, p=p, **weights)
        assert_close(jnp.vdot(dense, cost), value, atol=1e-4)
        f, g = jax.jit(potentials_1d, static_argnames="p")(x, y, p=p, **weights)
        assert (f[:, None] + g[None, :] <= cost + 1e-3).all()
        assert_close(jnp.vdot(f, a) / a.sum(), value / 2, atol=1e-3)
        assert_close(jnp.vdot(g, b) / b.sum(), value / 2, atol=1e-3)


# Derivatives

SHAPES = {"equal": (5, 5), "more": (7, 3), "fewer": (4, 6), "one": (1, 3)}


@pytest.mark.parametrize(
    ("shape", "p"),
    [("equal", 1), ("more", 2.5), ("fewer", 2), ("one", 3)],
)
def test_gradients(shape, p, x64):
    n, m = SHAPES[shape]
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, n)), 0.3 + 1.5 * rng.normal(size=(2, m))
    a, b = rng.uniform(0.5, 2, n), rng.uniform(0.5, 2, (2, m))

    @jax.jit
    def value(x, y, a, b):
        plain = wasserstein_1d(x, y, p=p)
        return jnp.sum(plain + wasserstein_1d(x, y, p=p, x_weights=a, y_weights=b))

    check_gradient(value, x, y, a, b)


def test_gradient_in_the_exponent(x64):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=5), rng.normal(size=4)
    value = jax.jit(lambda p: wasserstein_1d(x, y, p=p))
    check_gradient(value, np.asarray(1.7))
    assert_close(value(2.0), wasserstein_1d(x, y), rtol=1e-12)
    assert_close(value(1.0), wasserstein_1d(x, y, p=1), rtol=1e-12)


def test_second_derivatives(x64):
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=5), rng.normal(size=5)
    both = (jax.hessian(wasserstein_1d), jax.jacfwd(jax.jacfwd(wasserstein_1d)))
    hessian, forward = jax.jit(lambda *clouds: [f(*clouds) for f in both])(x, y)
    assert_close(hessian, 2 / 5 * np.eye(5), atol=1e-12)
    assert_close(forward, hessian, atol=1e-12)
    a, b = rng.uniform(0.5, 2, 5), rng.uniform(0.5, 2, 3)

    @jax.jit
    def squared_gradient(x, a, b):
        value = lambda x: wasserstein_1d(x, y[:3], p=3, x_weights=a, y_weights=b)  # noqa: E731
        return jnp.sum(jax.grad(value)(x) ** 2)

    check_gradient(squared_gradient, x, a, b)


@pytest.mark.parametrize("p", [1, 1.5, 2])
def test_gradient_is_zero_where_the_clouds_coincide(p, key):
    x = jnp.round(jr.normal(key, (9,)), 1)  # with ties
    a = jnp.arange(9.0)

    def value(x, y, a):
        weighted = wasserstein_1d(x, y, p=p, x_weights=a, y_weights=a)
        return wasserstein_1d(x, y, p=p) + weighted

    slopes = jax.jit(jax.grad(value, argnums=(0, 1, 2)))
    for gradient in slopes(x, x[::-1], a * 0 + 1)[:2]:
        np.testing.assert_array_equal(gradient, np.zeros(9))
    for gradient in slopes(x, x, a)[:2]:
        np.testing.assert_array_equal(gradient, np.zeros(9))
    constant = jnp.full(9, 2.0)
    for gradient in slopes(constant, constant, a + 1):
        np.testing.assert_array_equal(gradient, np.zeros(9))


def test_gradient_in_the_weights_is_a_centred_potential(x64):
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=7), rng.normal(size=4)
    a, b = rng.uniform(0.1, 1, 7), rng.uniform(0.1, 1, 4)
    a[2] = b[1] = 0  # the derivative of an atom without mass: what mass would cost

    @jax.jit
    def value(a, b):
        return wasserstein_1d(x, y, x_weights=a, y_weights=b)

    f, g = potentials_1d(x, y, x_weights=a, y_weights=b)
    by_a, by_b = jax.jit(jax.grad(value, argnums=(0, 1)))(a, b)
    assert_close(by_a, (f - f @ a / a.sum()) / a.sum(), rtol=1e-9)
    assert_close(by_b, (g - g @ b / b.sum()) / b.sum(), rtol=1e-9)
    assert abs(by_a @ a) < 1e-12  # the scale of the weights does not matter
    more = a.copy()
    more[2] = 1e-7
    assert_close(by_a[2], (value(more, b) - value(a, b)) / 1e-7, rtol=1e-5)


def test_gradient_of_the_mass_of_a_plan(x64):
    rng = np.random.default_rng(6)
    x, y, c = rng.normal(size=4), rng.normal(size=3), rng.normal(size=6)

    @jax.jit
    def value(a, b):
        return jnp.vdot(c, plan_1d(x, y, x_weights=a, y_weights=b).mass)

    check_gradient(value, rng.uniform(1, 2, 4), rng.uniform(1, 2, 3))


def test_a_gradient_in_x_alone_sorts_y_without_a_permutation(key):
    x, y = jr.normal(key, (2, 3, 24))
    gradient = jax.jit(jax.grad(lambda x, y: wasserstein_1d(x, y).sum()))
    lines = gradient.lower(x, y).compile().as_text().splitlines()
    sorts = [line.split(" sort(")[0] for line in lines if " sort(" in line]
    assert sorted("s64" in line for line in sorts) == [False, True]


# Precision and range


def test_a_million_samples_in_float32():
    rng = np.random.default_rng(0)
    n, m = 1_000_000, 999_000
    x = rng.normal(size=n).astype("float32")
    y = (0.5 * rng.normal(size=m) + 0.1).astype("float32")
    a, b = rng.gamma(0.5, size=n), rng.exponential(size=m)
    a, b = a.astype("float32"), b.astype("float32")
    z = (1.1 * rng.normal(size=n)).astype("float32")
    assert_close(distance(x, z), brute(x, z, 2), rtol=1e-6)
    assert_close(distance(x, y), brute(x, y, 2), rtol=1e-6)

    @jax.jit
    def value(x, y, a, b):
        return wasserstein_1d(x, y, p=1, x_weights=a, y_weights=b)

    found, gradient = jax.value_and_grad(value)(x, y, a, b)
    assert_close(found, brute(x, y, 1, a, b), rtol=1e-5)
    # every sample has its own mass: |dW_1 / dx_i| = a_i where it moves in one direction
    share = a.astype(float) / a.astype(float).sum()
    size = np.abs(gradient)
    assert np.mean(np.abs(size - share) <= 2e-5 * share) > 0.99


def test_offset_and_magnitudes_in_float32(key):
    x, y = jr.normal(key, (2, 50))
    for n, a in ((50, None), (40, jnp.arange(1.0, 41.0))):
        far = np.float32(1e6) + np.asarray([x, y])
        expected = brute(far[0], far[1][:n], 2, None, a)
        assert_close(distance(*far[:1], far[1][:n], y_weights=a), expected)
        unit = distance(x, y[:n], y_weights=a)
        small = distance(1e-15 * x, 1e-15 * y[:n], y_weights=a)
        assert_close(small, unit * 1e-30, atol=0)
        large = distance(1e30 * x, 1e30 * y[:n], y_weights=a, p=1)
        assert_close(large, 1e30 * distance(x, y[:n], y_weights=a, p=1), rtol=1e-5)
        assert distance(1e30 * x, 1e30 * y[:n], y_weights=a) == jnp.inf
        huge = lambda x, n=n, a=a: wasserstein_1d(x, 1e30 * y[:n], y_weights=a)  # noqa: E731
        assert np.isfinite(jax.jit(jax.grad(huge))(1e30 * x)).all()


def test_a_sample_without_mass_has_no_influence_whatever_its_value():
    x, y = np.float32([1.0, 3e38, 2.0, -3e38]), np.float32([4.0, 5.0, 6.0])
    a = np.float32([1.0, 0.0, 2.0, 0.0])

    @jax.jit
    def value_and_slope(x, a):
        weights = {"x_weights": a, "y_weights": jnp.ones(3)}
        return jax.value_and_grad(wasserstein_1d)(x, y, **weights)

    value, gradient = value_and_slope(x, a)
    assert_close(value, brute(x[::2], y, 2, a[::2]))
    assert_close(gradient[::2], value_and_slope(x[::2], a[::2])[1])
    np.testing.assert_array_equal(gradient[1::2], 0)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_integers_are_converted_first(dtype):
    rng = np.random.default_rng(1)
    x, y = (rng.integers(0, 2 if dtype == "bool" else 256, k) for k in (20, 15))
    found = wasserstein_1d(x.astype(dtype), y.astype(dtype))
    assert found.dtype == jnp.float32
    assert_close(found, brute(x, y, 2))
    weights = rng.integers(1, 9, 20).astype("uint8")
    weighted = wasserstein_1d(x.astype(dtype), y.astype(dtype), x_weights=weights)
    assert_close(weighted, brute(x, y, 2, weights))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype, key):
    x, y = jr.normal(key, (2, 3000)).astype(dtype)
    found = wasserstein_1d(x, y[:2000])
    assert found.dtype == dtype
    expected = brute(np.float64(x), np.float64(y[:2000]), 2)
    assert_close(np.float64(found), expected, rtol=1e-2)
    f, _ = potentials_1d(x[:5], y[:4])
    assert f.dtype == plan_1d(x[:5], y[:4]).mass.dtype == dtype
    assert wasserstein_1d(x, y.astype("float32")).dtype == jnp.float32


# Shapes and errors


def test_one_target_for_many_rows(key):
    x, y = jr.normal(key, (2, 3, 5)), jnp.arange(4.0)
    expected = [[brute(row, y, 2) for row in block] for block in x]
    assert_close(wasserstein_1d(x, y), expected)
    assert_close(wasserstein_1d(y, x), expected)
    a = jnp.arange(1.0, 6.0)
    expected = [[brute(row, y, 2, a) for row in block] for block in x]
    assert_close(wasserstein_1d(x, y, x_weights=a), expected)
    plan = plan_1d(x, y, x_weights=a)
    assert plan.rows.shape == plan.columns.shape == plan.mass.shape == (2, 3, 8)
    cost = jnp.take_along_axis(x, plan.rows, -1) - y[plan.columns]
    assert_close(jnp.sum(plan.mass * cost**2, -1), expected)
    assert_close(plan.to_dense(5, 4).sum(-1), jnp.broadcast_to(a / 15, (2, 3, 5)))
    f, g = potentials_1d(x, y, x_weights=a)
    assert f.shape == (2, 3, 5)
    assert g.shape == (2, 3, 4)
    assert_close(2 * g.mean(-1), expected)


def test_a_fixed_target_can_be_kept_sorted(key):
    x, y = jr.normal(key, (2, 3, 6))
    found = cost_of_sorted(sort(x), sort(y[0]), p=1)
    assert_close(found, wasserstein_1d(x, y[0], p=1))


@pytest.mark.parametrize("function", [wasserstein_1d, plan_1d, potentials_1d])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": []}, "`x` must hold at least one sample"),
        ({"y": np.zeros((3, 0))}, "`y` must hold at least one sample"),
        ({"x": 3.0}, "`x` must hold at least one sample"),
        ({"x": [1.0, np.nan]}, "`x` must be finite; got NaN"),
        ({"y": [1.0, np.inf]}, "`y` must be finite; got infinity"),
        ({"x": np.zeros((2, 3)), "y": np.zeros((3, 3))}, "leading axes"),
        ({"x_weights": [1.0, -1.0]}, "`x_weights` must be >= 0"),
        ({"y_weights": [0.0, 0.0, 0.0]}, "`y_weights` must not be all zero"),
        ({"y_weights": [1.0, 1.0]}, "`y_weights` must have shape"),
        ({"x_weights": [1.0, np.nan]}, "`x_weights` must be finite"),
        ({"x": np.zeros(2, "complex64")}, "real numbers"),
    ],
)
def test_bad_input_raises(function, change, message, user_errors):
    given = {"x": [1.0, 2.0], "y": [1.0, 2.0, 4.0]} | change
    with pytest.raises(ValueError, match=message):
        function(given.pop("x"), given.pop("y"), **given)


@pytest.mark.parametrize("p", [0.5, np.nan, np.ones(2), "2"])
@pytest.mark.parametrize("function", [wasserstein_1d, potentials_1d])
def test_bad_exponent_raises(function, p, user_errors):
    with pytest.raises(ValueError, match="`p` must be"):
        function([1.0, 2.0], [1.0], p=p)


def test_bad_values_that_are_traced_give_nan():
    x, y = jnp.array([1.0, 2.0]), jnp.array([1.0, 3.0, 4.0])
    for weights in ([-1.0, 2.0], [0.0, 0.0], [jnp.nan, 1.0]):
        assert jnp.isnan(distance(x, y, x_weights=jnp.array(weights)))
    assert jnp.isnan(distance(x.at[0].set(jnp.nan), y))


# Transformations and devices


def _everything(x, y, a, b):
    def total(x, y, a, b):
        plain = wasserstein_1d(x, y, p=1)
        value = plain + wasserstein_1d(x, y, x_weights=a, y_weights=b)
        return value.sum(), value

    gradient = jax.value_and_grad(total, argnums=(0, 1, 2, 3), has_aux=True)
    (_, value), gradients = gradient(x, y, a, b)
    plan = plan_1d(x, y, x_weights=a, y_weights=b)
    return value, gradients, plan, potentials_1d(x, y)


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(7)
    shapes = ((8, 6), (8, 5), (8, 6), (8, 5))
    given = [jnp.asarray(rng.uniform(0.5, 2, s), "float32") for s in shapes]
    return given, jax.jit(_everything)(*given)


def _same(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


def test_eager_vmap_and_scan(problem):
    given, expected = problem
    _same(_everything(*given)[0], expected[0])
    _same(jax.jit(jax.vmap(_everything))(*given), expected)
    rows = lambda carry, row: (carry, _everything(*row))  # noqa: E731
    _same(jax.jit(lambda given: lax.scan(rows, 0, given)[1])(tuple(given)), expected)


def test_on_several_devices(problem):
    given, expected = problem
    auto = jax.make_mesh((4,), ("p",), axis_types=(AxisType.Auto,))
    split = [jax.device_put(z, NamedSharding(auto, P("p"))) for z in given]
    program = jax.jit(_everything).lower(*split).compile()
    for word in ("all-gather", "all-to-all", "collective-permute", "all-reduce"):
        assert word not in program.as_text()
    _same(program(*split), expected)
    mapped = jax.shard_map(
        _everything, mesh=auto, in_specs=P("p"), out_specs=P("p"), check_vma=True
    )
    _same(jax.jit(mapped)(*given), expected)
    # one target and its weights, which are the same on every device
    shared = jax.shard_map(
        lambda x, y, a, b: _everything(x, y, a, b)[0],
        mesh=auto,
        in_specs=(P("p"), P(), P("p"), P()),
        out_specs=P("p"),
        check_vma=True,
    )
    x, y, a, b = given
    once = jax.jit(_everything)(x, y[0], a, b[0])[0]
    _same(jax.jit(shared)(x, y[0], a, b[0]), once)
    explicit = jax.make_mesh((4,), ("p",), axis_types=(AxisType.Explicit,))
    split = [jax.device_put(z, NamedSharding(explicit, P("p"))) for z in given]
    _same(jax.jit(_everything)(*split), expected)


def test_one_gradient_step_is_one_all_reduce(problem):
    (x, y, _, _), _ = problem
    mesh = jax.make_mesh((4,), ("p",), axis_types=(AxisType.Auto,))
    split = [jax.device_put(z, NamedSharding(mesh, P("p"))) for z in (x, y)]
    value = jax.value_and_grad(lambda x, y: wasserstein_1d(x, y).mean())
    text = jax.jit(value).lower(*split).compile().as_text()
    assert text.count(" all-reduce(") == 1
    assert "all-gather" not in text


def test_traces_once():
    traces = []

    @jax.jit
    def function(x, y, p):
        traces.append(1)
        return wasserstein_1d(x, y, p=p)

    for p in (1.0, 1.5, 2.0):
        function(jnp.arange(3.0), jnp.arange(4.0), p)
    assert len(traces) == 1
