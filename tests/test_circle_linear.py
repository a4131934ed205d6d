import functools
import re

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import DATA, assert_close, check_gradient

from transportjax.onedim import (
    linear_circular_embedding,
    linear_circular_wasserstein,
    wasserstein_circle,
    wasserstein_circle_uniform,
)

REFERENCE = dict(np.load(DATA / "circle.npz"))


@jax.jit
def uniform(x, a=None):
    return wasserstein_circle_uniform(x, x_weights=a)


@jax.jit
def linear(x, y=None, a=None, b=None):
    return linear_circular_wasserstein(x, y, x_weights=a, y_weights=b)


def brute_linear(x, y, a=None, b=None, num=200_001):
    """The definition, on a fine grid of t."""
    t = (np.arange(num) + 0.5) / num

    def image(x, a):
        x = x % 1
        order = np.argsort(x)
        a = np.ones(len(x)) if a is None else a
        x, a = x[order], a[order] / a.sum()
        level = t - a @ x + 0.5
        lap = np.ceil(level) - 1
        place = np.searchsorted(np.cumsum(a)[:-1], level - lap)
        return x[place] + lap

    gap = image(x, a) - image(y, b)
    return np.mean((gap - np.round(gap)) ** 2)


# --- the uniform law ---------------------------------------------------------------


def test_uniform_known_answers():
    # each of n evenly spaced samples takes an arc of 1/n, wherever they start
    for n in (1, 2, 8):
        x = np.arange(n) / n + np.array([[0.0], [0.03], [-2.7]], "float32")
        assert_close(uniform(x), np.full(3, 1 / (12 * n**2)), rtol=1e-5)
    # all mass at one point, twice
    assert_close(uniform(jnp.array([0.3, 1.3]), jnp.array([1.0, 3.0])), 1 / 12)
    # arcs of 1/4 and 3/4, with the samples in their middles; unsorted
    x, a = jnp.array([0.7, 0.2]), jnp.array([1.0, 3.0])
    assert_close(uniform(x, a), (1 / 4**3 + 27 / 4**3) / 12)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", "abc")
def test_uniform_reference(name, dtype, x64):
    x, a = (REFERENCE.get(f"{name}/{f}") for f in "ua")
    x = jnp.asarray(x, dtype)
    a = None if a is None else jnp.asarray(a, dtype)
    found = uniform(x, a)
    assert found.dtype == dtype
    assert_close(found, REFERENCE[f"{name}_uniform/value"], atol=0)
    assert_close(linear(x, None, a), found, rtol=0, atol=0)
    if a is None:
        slope = jax.grad(lambda x: uniform(x).sum())(x)
        rtol = 1e-9 if dtype == "float64" else 1e-4
        assert_close(slope, REFERENCE[f"{name}_uniform/gradient_u"], rtol, 1e-8)
    else:  # POT sorts the samples, but not their weights
        wrong = REFERENCE[f"{name}_uniform/pot_value"]
        assert np.all(np.abs(wrong / np.asarray(found) - 1) > 0.2)


def test_uniform_is_the_limit_of_many_samples(x64):
    rng = np.random.default_rng(0)
    x, a = rng.uniform(size=(3, 5)), rng.uniform(size=5)
    grid = (np.arange(3000) + 0.5) / 3000
    expected = wasserstein_circle(x, grid, x_weights=a)
    assert_close(uniform(x, a), expected, rtol=1e-6, atol=1e-8)


def test_uniform_invariances(key):
    x, a = jr.uniform(key, (3, 6)), jr.uniform(key, (3, 6))
    expected = uniform(x, a)
    whole = jnp.arange(6.0)[None] - 2
    for found in (uniform(x + 0.37, a), uniform(-x, 5 * a), uniform(x + whole, a)):
        assert_close(found, expected, rtol=2e-5, atol=2e-7)
    counts = jnp.array([2.0, 0.0, 1.0, 3.0, 1.0, 0.0])
    repeated = jnp.repeat(x, np.int32(counts), axis=1)
    assert_close(uniform(x, counts), uniform(repeated), rtol=2e-5)


def test_uniform_at_many_samples():
    levels = (np.arange(100_000) + 0.5) / 100_000
    x = levels + 0.05 * np.sin(2 * np.pi * levels)  # the map q -> x, of mean zero
    assert_close(uniform(np.float32(x)), 0.05**2 / 2, rtol=1e-5)
    ones = np.ones(100_000, "float32")
    assert_close(uniform(np.float32(x), ones), 0.05**2 / 2, rtol=1e-5)


# --- the linear distance -----------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", "abc")
def test_linear_reference(name, dtype, x64):
    given = [REFERENCE.get(f"{name}/{f}") for f in "uvab"]
    x, y, a, b = (None if z is None else jnp.asarray(z, dtype) for z in given)
    found = linear(x, y, a, b)
    assert found.dtype == dtype
    assert_close(found, REFERENCE[f"{name}_linear/value"], atol=0)
    assert_close(linear(x, None, a), REFERENCE[f"{name}_linear/unif"], atol=0)
    # POT takes the quantile one sample off, and a grid of a hundred points
    wrong = REFERENCE[f"{name}_linear/pot_value"]
    assert np.all(np.abs(wrong / np.asarray(found) - 1) > 5e-3)
    wrong = REFERENCE[f"{name}_linear/pot_unif"] / REFERENCE[f"{name}_linear/unif"]
    assert np.all(np.abs(wrong - 1) > 0.05)
    for row in range(2):
        masses = [None if w is None else np.asarray(w, float) for w in (a, b)]
        brute = brute_linear(given[0][row], given[1][row], *masses)
        assert_close(found[row], brute, rtol=1e-3)


def test_linear_known_answers(key):
    shift = jnp.array([0.0, 0.1, -0.3, 0.5, 1.2])
    expected = (shift - jnp.round(shift)) ** 2
    one = jnp.full((5, 1), 0.7)
    assert_close(linear(one, one + shift[:, None]), expected, atol=1e-6)
    x = jr.uniform(key, (9,))
    assert linear(x, x) == 0
    assert linear(x, x, jnp.ones(9), 2 * jnp.ones(9)) == 0
    assert_close(linear(jnp.array([0.1]), jnp.array([0.8])), 0.09)


def test_linear_laws(key):
    first, second = jr.split(key)
    x, y = jr.uniform(first, (4, 6)), jr.uniform(second, (4, 6)) ** 2
    a, b = jr.uniform(second, (4, 6)), jr.uniform(first, (4, 6))
    expected = linear(x, y, a, b)
    whole = jnp.arange(6.0)[None] - 2
    for found in (
        linear(y, x, b, a),
        linear(x + 0.37, y + 0.37, a, b),
        linear(-x, -y, a, b),
        linear(x + whole, y - 1, 7 * a, b),
    ):
        assert_close(found, expected, rtol=2e-5, atol=1e-6)
    shortest = wasserstein_circle(x, y, x_weights=a, y_weights=b)
    assert bool(jnp.all(expected >= shortest - 1e-6))
    counts = jnp.array([2.0, 0.0, 1.0, 3.0, 1.0, 0.0])
    repeated = jnp.repeat(x, np.int32(counts), axis=1)
    assert_close(linear(x, y, counts), linear(repeated, y), rtol=2e-5, atol=1e-7)
    # evenly spaced samples are nearly the uniform law
    grid = jnp.linspace(0, 1, 2001)[1:]
    assert_close(linear(x, grid, a), uniform(x, a), rtol=1e-3)


# --- the embedding -----------------------------------------------------------------


def test_embedding_known_answers():
    x = jnp.array([0.75, 0.25])
    # T takes (0, 1/2] to 1/4 and (1/2, 1] to 3/4
    t = jnp.array([0.25, 0.5, 0.6, 1.0, 1.1, -0.1])
    expected = [0.0, -0.25, 0.15, -0.25, 0.15, -0.15]
    assert_close(linear_circular_embedding(x, t), expected, atol=1e-6)
    assert_close(linear_circular_embedding(x, 0.25), 0.0, atol=1e-7)
    rows = linear_circular_embedding(jnp.stack([x, x + 0.1]), jnp.stack([t, t]))
    assert rows.shape == (2, 6)
    assert_close(rows[1], linear_circular_embedding(x, t - 0.1), atol=1e-6)


def test_embedding_gives_the_distances(key):
    first, second = jr.split(key)
    x, y = jr.uniform(first, (3, 5)) + 2, jr.uniform(second, (3, 8)) ** 2
    a = jr.uniform(second, (3, 5))
    t = jnp.asarray((np.arange(50_000) + 0.5) / 50_000, "float32")
    embed = jax.jit(lambda x, t, a=None: linear_circular_embedding(x, t, x_weights=a))
    one, other = embed(x, t, a), embed(y, t)
    assert float(jnp.max(jnp.abs(one))) <= 0.5
    assert_close(jnp.mean(one**2, axis=-1), uniform(x, a), rtol=1e-3)
    gap = one - other
    gap = gap - jnp.round(gap)
    assert_close(jnp.mean(gap**2, axis=-1), linear(x, y, a), rtol=2e-3)
    lapped = embed(
        x + jnp.arange(5.0)[None] - 3, t, a
    )  # the same, but for rounded steps
    assert float(jnp.mean(jnp.abs(lapped - one) > 1e-5)) < 1e-3


# --- derivatives, dtypes, errors ---------------------------------------------------


def test_gradients(x64):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 2, (3, 6)), rng.uniform(-1, 2, 5)
    a, b = rng.uniform(0.5, 1.5, (3, 6)), rng.uniform(0.5, 1.5, 5)

    def some(x, y):
        t = jnp.linspace(0, 1, 7)
        displacements = linear_circular_embedding(x, t + y[0])
        return jnp.sum(uniform(x)) + jnp.sum(linear(x, y)) + jnp.sum(displacements**3)

    def weighted(x, y, a, b):
        return jnp.sum(uniform(x, a)) + jnp.sum(linear(x, y, a, b))

    check_gradient(jax.jit(some), x, y)
    check_gradient(jax.jit(weighted), x, y, a, b)
    hessian = jax.jit(jax.hessian(uniform))(y)
    assert_close(hessian, (np.eye(5) - 1 / 5) * 2 / 5, rtol=1e-12)


def test_eager_and_vmap():
    rng = np.random.default_rng(1)
    x, y, a = (jnp.asarray(rng.uniform(size=s), "float32") for s in ((3, 6), 5, (3, 6)))
    assert_close(wasserstein_circle_uniform(x, x_weights=a), uniform(x, a))
    eager = linear_circular_wasserstein(x, y, x_weights=a)
    assert_close(eager, linear(x, y, a))
    assert_close(jax.vmap(linear, (0, None, 0))(x, y, a), eager)
    assert_close(jax.vmap(uniform)(x, a), uniform(x, a))


def test_half_precision_and_integers(user_errors):
    x = jnp.array([0.125, 0.5, 0.75], "bfloat16")
    for function in (uniform, functools.partial(linear, y=x[:2])):
        found = function(x)
        assert found.dtype == "bfloat16"
    assert linear_circular_embedding(x, jnp.zeros(2, "bfloat16")).dtype == "bfloat16"
    assert_close(uniform(np.array([3, 4])), 1 / 12)


def test_errors(user_errors):
    x = jnp.array([0.1, 0.2])
    for call, message in [
        (lambda: wasserstein_circle_uniform(jnp.zeros(0)), "at least one sample"),
        (
            lambda: wasserstein_circle_uniform(x, x_weights=x - 1),
            "`x_weights` must be >= 0",
        ),
        (
            lambda: linear_circular_wasserstein(x, y_weights=x),
            "`y_weights` was given, but not `y`",
        ),
        (lambda: linear_circular_wasserstein(x, x * jnp.nan), "`y` must be finite"),
        (lambda: linear_circular_embedding(x, jnp.zeros((3, 2))), "`t` must have"),
        (lambda: linear_circular_embedding(x, jnp.inf), "`t` must be finite"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
    for weights in ([-1.0, 2.0], [0.0, 0.0], [jnp.nan, 1.0]):
        assert jnp.isnan(uniform(x, jnp.array(weights)))
        assert jnp.isnan(linear(x, x, jnp.array(weights)))
    assert jnp.isnan(linear(x.at[0].set(jnp.nan), x))
