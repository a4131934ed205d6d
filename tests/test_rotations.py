"""Beyond the laws of tests/test_maps.py: what these matrices are."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close

from transportjax.maps import Cayley, Householder, Permutation


def test_a_permutation_reorders(key):
    order = jr.permutation(key, 7)
    x = jr.normal(key, (7,))
    np.testing.assert_array_equal(Permutation(order)(x), np.asarray(x)[order])
    np.testing.assert_array_equal(Permutation(order).inverse(x)[order], x)
    assert jax.grad(lambda x: Permutation(order)(x)[0])(x)[order[0]] == 1


def test_reflections_one_after_another(key, x64):
    vectors = jr.normal(key, (3, 4))
    expected = np.eye(4)
    for v in np.asarray(vectors):
        expected = (np.eye(4) - 2 * np.outer(v, v) / (v @ v)) @ expected
    assert_close(Householder(vectors).matrix, expected)
    assert_close(Householder(-1e3 * vectors).matrix, expected)
    x = jr.normal(key, (4,))
    assert_close(Householder(vectors)(x), expected @ x)
    assert np.linalg.det(expected) == pytest.approx(-1)


def test_angles_of_a_cayley_rotation(x64):
    # in the plane the angle is 2 arctan(s)
    for s in (0.0, 0.3, -2.0):
        angle = 2 * np.arctan(s)
        expected = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        assert_close(Cayley(jnp.eye(2), jnp.array([s])).matrix, expected)


def test_it_stays_orthogonal_wherever_training_goes(key, x64):
    start = Cayley.create(key, 5)
    assert_close(start.matrix, start.base)
    turned = Cayley(start.base, 10 * jr.normal(key, (10,))).matrix
    assert_close(turned @ turned.T, np.eye(5))
    assert_close(np.linalg.det(turned), np.linalg.det(start.base))
    assert float(jnp.max(jnp.abs(turned - start.base))) > 0.1


def test_one_dimension(key):
    assert abs(float(Cayley.create(key, 1)(jnp.ones(1))[0])) == 1
    assert_close(Householder.create(key, 1)(jnp.ones(1)), -jnp.ones(1))
    assert_close(Permutation([0])(jnp.ones(1)), jnp.ones(1))


def test_bad_input_is_named(user_errors, key):
    for match, make in [
        ("`order` must be integers", lambda: Permutation(jnp.ones(2))),
        ("`order` must be integers", lambda: Permutation(jnp.zeros((2, 2), int))),
        ("`order` must hold each", lambda: Permutation(jnp.array([0, 2]))),
        ("`vectors` must not hold a zero", lambda: Householder(jnp.zeros((2, 3)))),
        ("`vectors` must have shape", lambda: Householder(jnp.ones(3))),
        ("`vectors` must be finite", lambda: Householder(jnp.full((1, 3), jnp.nan))),
        ("`base` must have rows of norm 1", lambda: Cayley.around(2 * jnp.eye(2))),
        (r"`base` must have shape \(d, d\)", lambda: Cayley.around(jnp.eye(2)[:1])),
        ("`skew` must have shape", lambda: Cayley(jnp.eye(3), jnp.zeros(2))),
        ("`dim`", lambda: Cayley.create(key, 0)),
        ("`dim`", lambda: Householder.create(key, 0)),
        ("`num`", lambda: Householder.create(key, 2, num=0)),
    ]:
        with pytest.raises(ValueError, match=match):
            make()
