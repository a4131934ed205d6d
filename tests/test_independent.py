import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close

from transportjax.sliced import IndependentDirections, haar_rotation


@pytest.fixture(scope="module")
def sample():
    strategy = IndependentDirections(20)
    return jax.jit(lambda key, x: strategy.sample(key, (), x, x)[:2])


def mixed(key, dim, num):
    """White points with independent components, half of them flat, half peaked."""
    flat = 3**0.5 * jr.uniform(key, (num, dim - dim // 2), minval=-1)
    peaked = jr.laplace(jr.fold_in(key, 1), (num, dim // 2)) / 2**0.5
    turn = haar_rotation(jr.fold_in(key, 2), dim)
    return jnp.concatenate([flat, peaked], axis=1) @ turn.T, turn


def test_it_finds_the_components(key, sample):
    x, turn = mixed(key, 6, 8000)
    rows, weights = sample(jr.fold_in(key, 3), x)
    assert_close(rows @ rows.T, np.eye(6), atol=2e-6)
    assert_close(weights, np.full(6, 1 / 6))
    cosines = np.abs(rows @ turn)
    assert cosines.max(axis=1).min() > 0.97
    assert sorted(np.argmax(cosines, axis=1)) == list(range(6))
    # of points that are larger, the same
    assert_close(sample(jr.fold_in(key, 3), 50 * x)[0], rows, atol=1e-3)


def test_points_without_spread_give_a_basis(key, sample):
    rows, _ = sample(key, jnp.ones((50, 6)))
    assert_close(rows @ rows.T, np.eye(6), atol=2e-6)


def test_it_looks_at_so_many_points_of_all(key):
    strategy = IndependentDirections(2, num_points=100)
    x, _ = mixed(key, 3, 3000)
    jaxpr = jax.make_jaxpr(lambda x: strategy.sample(key, (), x, x)[0])(x)
    assert "3,100" in str(jaxpr)
    keys = jr.split(key, 2)
    rows = jax.vmap(lambda key: strategy.sample(key, (), x, x)[0])(keys)
    assert_close(rows[1], strategy.sample(keys[1], (), x, x)[0], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("num_steps", {"num_steps": -1}),
        ("num_points", {"num_points": 1}),
    ],
)
def test_errors_name_the_argument(name, options, user_errors):
    with pytest.raises(ValueError, match=f"`{name}`"):
        IndependentDirections(**options)
