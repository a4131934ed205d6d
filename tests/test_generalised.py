import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close, check_gradient
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax.onedim import wasserstein_1d
from transportjax.sliced import (
    CircularSlices,
    PolynomialSlices,
    generalised_sliced_wasserstein,
    random_directions,
    sliced_wasserstein,
)


def clouds(n=12, m=9, d=2, dtype="float32"):
    rng = np.random.default_rng(0)
    return (
        jnp.asarray(rng.normal(size=(n, d)), dtype),
        jnp.asarray(0.5 * rng.normal(size=(m, d)) + 1, dtype),
    )


@pytest.mark.parametrize("p", [1, 2, 3.0])
def test_linear_slices_give_the_sliced_distance(p, key):
    x, y = clouds()
    directions = random_directions(key, 5, 2)
    a, w = jnp.linspace(1.0, 2.0, 12), jnp.linspace(0.0, 1.0, 5)
    options = {"p": p, "x_weights": a, "weights": w}
    expected = sliced_wasserstein(x, y, directions, **options)
    linear = PolynomialSlices(3 * directions, 1)  # coefficients are normalised
    for project in (linear, lambda x: directions @ x.T):
        value = generalised_sliced_wasserstein(x, y, project, **options)
        assert_close(value, expected)
    root = generalised_sliced_wasserstein(x, y, linear, root=True, **options)
    assert_close(root, expected ** (1 / p))


def test_cubes_on_the_line():
    x, y = clouds(d=1)
    cubic = PolynomialSlices(np.array([[2.0], [-1.0]]), 3)
    expected = wasserstein_1d(x[:, 0] ** 3, y[:, 0] ** 3)
    assert_close(generalised_sliced_wasserstein(x, y, cubic), expected)


def test_polynomials_are_the_sums_of_monomials(x64):
    x = np.random.default_rng(0).normal(size=(6, 2))
    c = np.random.default_rng(1).normal(size=(3, 4))
    c /= np.linalg.norm(c, axis=1, keepdims=True)
    u, v = x.T
    monomials = np.stack([u**3, u**2 * v, u * v**2, v**3])
    assert_close(PolynomialSlices(c)(jnp.asarray(x)), c @ monomials)
    # odd: the slices of x and -x differ in sign
    slices = PolynomialSlices.random(jr.key(0), 4, 3, degree=5)
    x = jr.normal(jr.key(1), (7, 3))
    assert slices.coefficients.shape == (4, 21)
    assert_close(slices(-x), -slices(x))
    assert_close(slices(2 * x), 32 * slices(x))


def test_circles_of_large_radius_are_lines(x64):
    x, y = clouds(dtype="float64")
    directions = random_directions(jr.key(0), 6, 2, "float64")
    expected = sliced_wasserstein(x, y, directions)
    value = generalised_sliced_wasserstein(x, y, CircularSlices(directions, 1e5))
    assert_close(value, expected, rtol=1e-4)
    small = CircularSlices(2 * directions, 1.5)  # directions are normalised
    distance = np.linalg.norm(x[None] - 1.5 * directions[:, None], axis=-1)
    assert_close(small(x), distance)


def test_curved_slices_see_what_lines_hardly_see():
    # equal means and variances along every line: a ring and a cross of its covariance
    angle = 2 * np.pi * np.arange(64) / 64
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    radius = np.where(np.arange(64) % 2 == 0, 0.2, np.sqrt(2 - 0.04))[:, None]
    rings = radius * ring
    lines = sliced_wasserstein(ring, rings, random_directions(jr.key(0), 64, 2))
    circles = CircularSlices(random_directions(jr.key(0), 64, 2), 1e-3)
    curved = generalised_sliced_wasserstein(ring, rings, circles)
    assert_close(curved, np.mean((radius - 1) ** 2), rtol=1e-2)
    assert curved > 3 * lines


def test_gradients_in_everything(x64):
    x, y = clouds(dtype="float64")
    a, w = jnp.linspace(1.0, 2.0, 12), jnp.linspace(0.5, 1.0, 5)
    coefficients = jr.normal(jr.key(0), (5, 4))

    directions = random_directions(jr.key(1), 5, 2, "float64")

    @jax.jit
    def distances(x, y, a, w, coefficients, directions, radius):
        polynomials = PolynomialSlices(coefficients)
        circles = CircularSlices(directions, radius)
        distance = functools.partial(generalised_sliced_wasserstein, x, y)
        weighted = distance(polynomials, x_weights=a, weights=w)
        return weighted + 10 * distance(circles, root=True)

    args = (x, y, a, w, coefficients, directions, 1.2)
    check_gradient(distances, *args, rtol=1e-5)


def test_gradients_are_finite_where_slices_are_not_smooth():
    x = jnp.zeros((3, 2)).at[1, 0].set(1.0)
    slices = CircularSlices(jnp.eye(2), 1.0)
    slope = jax.jit(
        jax.grad(
            lambda x: generalised_sliced_wasserstein(x, x[:2] + 0, slices, root=True)
        )
    )(x)
    assert np.all(np.isfinite(slope))
    cubic = PolynomialSlices(jnp.ones((1, 4)))
    value = lambda x: generalised_sliced_wasserstein(x, 1 - x, cubic)  # noqa: E731
    slope = jax.jit(jax.grad(value))(x)
    assert np.all(np.isfinite(slope))


def test_slices_can_be_learned_to_tell_clouds_apart():
    x, y = clouds(60, 60)
    slices = PolynomialSlices.random(jr.key(0), 1, 2, degree=3)
    loss = jax.jit(
        jax.value_and_grad(lambda s: -generalised_sliced_wasserstein(x, y, s))
    )
    first, _ = loss(slices)
    for _ in range(50):
        _, slope = loss(slices)
        slices = jax.tree.map(lambda s, g: s - 0.1 * g, slices, slope)
    assert loss(slices)[0] < 1.2 * first  # both are negative


def test_jit_vmap_dtypes_and_sharding():
    x, y = clouds()
    slices = PolynomialSlices.random(jr.key(0), 3, 2)
    value = generalised_sliced_wasserstein(x, y, slices)
    jitted = jax.jit(generalised_sliced_wasserstein)(x, y, slices)
    assert_close(jitted, value)
    each = jax.vmap(lambda x: generalised_sliced_wasserstein(x, y, slices))
    batch = jax.jit(each)(jnp.stack([x, x + 1]))
    assert_close(batch[0], value)
    half = generalised_sliced_wasserstein(x.astype("float16"), y, slices)
    assert half.dtype == "float32"
    half = generalised_sliced_wasserstein(*clouds(dtype="float16"), slices)
    assert half.dtype == "float16"
    assert_close(half, value, rtol=2e-2)
    whole = generalised_sliced_wasserstein(
        np.full((2, 2), 200, "uint8"), np.zeros((2, 2), "uint8"), lambda x: x.T
    )
    assert_close(whole, 200.0**2)
    mesh = jax.make_mesh((4,), ("data",), (AxisType.Explicit,))
    sharded = jax.device_put(x, NamedSharding(mesh, P("data")))
    assert_close(generalised_sliced_wasserstein(sharded, y, slices), value)


@pytest.mark.parametrize(
    ("project", "options", "message"),
    [
        (lambda x: x[:, 0], {}, r"to slices \(p, n\).* returned shape \(5,\)"),
        (lambda x: x, {}, r"`project` must take .* here \(p, 5\)"),
        (lambda x: [[0.0] * 5], {}, "it returned list"),
        (lambda x: jnp.ones((len(x), len(x))), {}, "as many slices of both"),
        (lambda x: x.T / 0, {}, "must be finite"),
        (lambda x: x.T, {"p": 0.5}, "`p` must be in"),
        (lambda x: x.T, {"weights": np.ones(3)}, "`weights` must have shape"),
        (PolynomialSlices(np.ones((1, 3))), {}, "4 columns, one for each monomial"),
    ],
)
def test_errors(project, options, message, user_errors):
    with pytest.raises(ValueError, match=message):
        generalised_sliced_wasserstein(
            np.ones((5, 2)), np.ones((4, 2)), project, **options
        )


def test_even_degrees_are_refused(key, user_errors):
    with pytest.raises(ValueError, match="`degree` must be odd"):
        PolynomialSlices.random(key, 3, 2, degree=2)
    with pytest.raises(ValueError, match="`degree` must be odd"):
        PolynomialSlices(np.ones((3, 3)), 2)
