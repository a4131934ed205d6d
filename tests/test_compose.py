import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

from transportjax.maps import Affine, Chain, Invert, MonotoneLinear, Scan

DOUBLE = Affine(2.0 * np.eye(2), np.zeros(2))
SHIFT = Affine(np.eye(2), np.ones(2))
X = jnp.array([1.0, 5.0])


def powers(num_layers):
    """Layer i multiplies by i + 2 and adds 1."""
    matrices = np.arange(2.0, 2 + num_layers)[:, None, None] * np.eye(2)
    return Scan(jax.vmap(Affine, in_axes=(0, None))(matrices, jnp.ones(2)))


def test_a_chain_applies_its_maps_in_reading_order():
    assert_close(Chain((DOUBLE, SHIFT))(X), 2 * X + 1)
    assert_close(Chain([SHIFT, DOUBLE])(X), 2 * X + 2)
    assert_close(Chain((DOUBLE, SHIFT)).inverse(X), (X - 1) / 2)
    assert_close(Chain((DOUBLE, SHIFT)).transform_and_log_det(X)[1], np.log(4))
    assert len(Chain((DOUBLE, SHIFT))) == 2


def test_a_stack_applies_its_layers_in_order():
    assert_close(powers(3)(X), 4 * (3 * (2 * X + 1) + 1) + 1)
    assert_close(powers(3).inverse(powers(3)(X)), X)
    assert_close(powers(3).transform_and_log_det(X)[1], 2 * np.log(24))
    assert_close(Chain([*powers(3)])(X), powers(3)(X))


def test_layers_of_a_stack_are_indexed_and_cut():
    scan = powers(4)
    assert len(scan) == 4
    assert_close(scan[1](X), 3 * X + 1)
    assert_close(scan[-1](X), 5 * X + 1)
    steps = [scan[:k](X) for k in range(5)]
    assert_close(steps[0], X)
    for k in range(4):
        assert_close(steps[k + 1], scan[k](steps[k]))
    assert_close(scan[2:](steps[2]), scan(X))
    assert len(scan[::2]) == 2
    assert len(list(scan)) == 4
    with pytest.raises(IndexError, match="layer 4 of a map with 4 layers"):
        scan[4]


def test_nothing_is_the_identity():
    for nothing in (Chain(()), powers(2)[:0]):
        value, log_det = nothing.transform_and_log_det(X)
        assert_close(value, X)
        assert log_det == 0
        assert nothing.inverse(X).dtype == "float32"
    assert Chain(())(np.array([1, 2])).dtype == "float32"


def test_twice_inverted_is_the_map():
    assert_close(Invert(DOUBLE)(X), X / 2)
    assert_close(Invert(DOUBLE).transform_and_log_det(X)[1], -np.log(4))
    assert_close(Invert(Invert(DOUBLE))(X), 2 * X)


def test_compiling_does_not_depend_on_the_depth():
    sizes = [
        len(jax.jit(lambda s, x: s(x)).lower(powers(n), X).as_text().splitlines())
        for n in (2, 50)
    ]
    assert sizes[0] == sizes[1]


def test_a_stack_of_stacks():
    knots = jnp.linspace(0, 1, 6).reshape(3, 2)
    once = jax.vmap(MonotoneLinear.from_knots)(knots, knots + 1)
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), Scan(once))
    assert_close(Scan(twice)(0.0), 6.0)


def test_errors(user_errors):
    with pytest.raises(ValueError, match=r"`maps\[1\]` must be a map.*type function"):
        Chain((DOUBLE, lambda x: x))
    with pytest.raises(ValueError, match="`map` must be a map"):
        Invert(jnp.sin)
    with pytest.raises(
        ValueError, match="`layers` must have a leading axis of the same"
    ):
        Scan(MonotoneLinear.from_knots(X, X))
    with pytest.raises(ValueError, match="`layers` must be a map"):
        Scan((DOUBLE, SHIFT))
