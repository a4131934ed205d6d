import fractions

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, check_gradient

from transportjax.onedim.merging import (
    uniform_levels,
    uniform_overlaps,
    weighted_levels,
)

SIZES = [(1, 1), (1, 4), (4, 1), (5, 5), (4, 6), (6, 4), (7, 3), (1, 0)]


def staircase(a, b):
    """The segments in exact fractions, by walking along both sequences."""
    i = j = 0
    left, right = fractions.Fraction(a[0]), fractions.Fraction(b[0])
    found = []
    while True:
        mass = min(left, right)
        found.append((i, j, mass))
        left, right = left - mass, right - mass
        if i == len(a) - 1 and j == len(b) - 1:
            return found
        if left == 0 and i < len(a) - 1:
            i, left = i + 1, fractions.Fraction(a[i + 1])
        else:
            j, right = j + 1, fractions.Fraction(b[j + 1])


def check(levels, a, b):
    expected = staircase(a, b)
    np.testing.assert_array_equal(levels.rows, [i for i, _, _ in expected])
    np.testing.assert_array_equal(levels.columns, [j for _, j, _ in expected])
    assert_close(levels.mass, [float(mass) for _, _, mass in expected], rtol=3e-7)
    assert sorted(np.asarray(levels.order)) == list(range(len(a) + len(b)))


@pytest.mark.parametrize(("n", "m"), SIZES[:-1])
def test_uniform_levels(n, m):
    a, b = [fractions.Fraction(1, n)] * n, [fractions.Fraction(1, m)] * m
    check(uniform_levels(n, m), a, b)
    found = weighted_levels(jnp.ones(n), 5 * jnp.ones(m))
    check(found, a, b)
    np.testing.assert_array_equal(found.order, uniform_levels(n, m).order)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (4, 1), (6, 4), (7, 3), (5, 5)])
def test_uniform_overlaps(n, m):
    first, second, share = uniform_overlaps(n, m)
    plan = np.zeros((n, m))
    np.add.at(plan, (np.arange(n), first), share / n)
    np.add.at(plan, (np.arange(n), second), (1 - share) / n)
    expected = np.zeros((n, m))
    levels = uniform_levels(n, m)
    np.add.at(expected, (levels.rows, levels.columns), levels.mass)
    np.testing.assert_allclose(plan, expected, atol=1e-15)
    assert (share > 0).all()


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1, 3], [2, 2]),
        ([1, 0, 1, 2], [1, 1, 0, 0]),
        ([0, 0, 1], [0, 1, 0]),
        ([5], [1, 2, 3]),
        ([1, 2, 4, 8, 16], [16, 8, 4, 2, 1]),
    ],
)
def test_weighted_levels_walk_down_the_staircase(a, b):
    exact = [[fractions.Fraction(v, sum(w)) for v in w] for w in (a, b)]
    found = weighted_levels(jnp.asarray(a, float), jnp.asarray(b, float))
    total = np.zeros((len(a), len(b)))
    np.add.at(total, (found.rows, found.columns), found.mass)
    expected = np.zeros_like(total)
    for i, j, mass in staircase(*exact):
        expected[i, j] += float(mass)
    np.testing.assert_allclose(total, expected, atol=1e-7)
    assert (np.asarray(found.mass) >= 0).all()
    if 0 not in a + b:
        check(found, *exact)


def test_scale_of_the_weights_does_not_matter():
    a, b = jnp.array([1.0, 2, 3, 1e-3]), jnp.array([2.0, 5.0, 1.0])
    one = weighted_levels(a, b)
    for scale in (1e-30, 1e30):
        other = weighted_levels(scale * a, b / scale)
        np.testing.assert_allclose(other.mass, one.mass, rtol=1e-6)
    assert_close(one.mass.sum(), 1.0)


def test_masses_of_a_million_atoms_are_exact_in_float32():
    n, m = 1_000_000, 999
    rng = np.random.default_rng(0)
    a, b = (rng.uniform(0.5, 1.5, k).astype("float32") for k in (n, m))
    found = jax.jit(weighted_levels)(a, b)
    given = np.zeros(n)
    np.add.at(given, found.rows, found.mass)
    exact = a.astype(float) / a.astype(float).sum()
    np.testing.assert_allclose(given, exact, rtol=1e-6)


@pytest.mark.parametrize("bad", [[-1.0, 2.0], [0.0, 0.0], [jnp.nan, 1.0], [jnp.inf, 1]])
def test_bad_weights_give_nan(bad):
    good = jnp.ones(3)
    assert jnp.isnan(weighted_levels(jnp.array(bad), good).mass).all()
    assert jnp.isnan(weighted_levels(good, jnp.array(bad)).mass).all()


def test_derivative_of_the_mass(x64):
    rng = np.random.default_rng(1)
    a, b = rng.uniform(0.5, 2, (2, 5)), rng.uniform(0.5, 2, (2, 3))
    c = rng.normal(size=(2, 7))

    def value(a, b):
        return jnp.sum(c * weighted_levels(a, b).mass ** 2)

    def both(a, b):  # and its second derivatives
        return value(a, b) + jnp.sum(jax.grad(value, argnums=1)(a, b) ** 2)

    check_gradient(jax.jit(both), a, b, rtol=1e-5)
