import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, check_gradient

from transportjax.onedim.levels import cumulative_mass, neighbours


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(0)
    values = rng.random(1_000_000).astype(np.float32) ** 8
    values[rng.random(values.size) < 0.3] = 0
    values[:100] = 0
    return values


def test_cumulative_mass_of_a_million_float32_weights_is_exact_to_rounding(weights):
    levels = np.asarray(jax.jit(cumulative_mass)(weights))
    exact = np.cumsum(weights, dtype=np.float64)
    exact /= exact[-1]
    eps = np.finfo(np.float32).eps
    assert levels.dtype == np.float32
    assert np.abs(levels - exact).max() <= 1.5 * eps
    assert levels[-1] == 1
    assert np.abs(np.cumsum(weights) / np.sum(weights) - exact).max() > 20 * eps


def test_levels_never_decrease_and_weights_of_zero_repeat_them_exactly(weights):
    levels = np.asarray(jax.jit(cumulative_mass)(weights))
    steps = np.diff(levels, prepend=np.float32(0))
    assert steps.min() >= 0
    assert np.all(steps[weights == 0] == 0)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_levels_do_not_depend_on_the_scale_of_the_weights(scale):
    weights = jnp.array([[1.0, 2.0, 0.0, 5.0], [0.0, 0.0, 1.0, 0.0]])
    expected = [[0.125, 0.375, 0.375, 1.0], [0.0, 0.0, 1.0, 1.0]]
    assert_close(cumulative_mass(weights * scale), expected)


def test_all_zero_weights_are_not_passed_over():
    assert jnp.isnan(cumulative_mass(jnp.zeros(3))).all()


def test_derivatives_of_the_levels_once_and_twice(x64):
    rng = np.random.default_rng(1)
    weights = rng.random(40)
    mark = jnp.asarray(rng.normal(size=40))

    @jax.jit
    def value(w):
        return jnp.sum(mark * jnp.sin(3 * cumulative_mass(w)))

    check_gradient(value, weights)
    slope = jax.jit(lambda w: jnp.sum(mark * jax.grad(value)(w)))
    check_gradient(slope, weights, rtol=1e-5)


def test_neighbours_are_the_nearest_places_with_mass():
    previous, following = neighbours(jnp.array([False, True, False, False, True]))
    np.testing.assert_array_equal(previous, [-1, 1, 1, 1, 4])
    np.testing.assert_array_equal(following, [1, 1, 4, 4, 4])
    assert neighbours(jnp.array([True, False]))[1][1] == 2
