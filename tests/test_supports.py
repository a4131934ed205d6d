"""Beyond the laws of tests/test_maps.py: formulas, bounds, extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, check_gradient

from transportjax.maps import SupportMap

LOW = [0.0, 2.0, -np.inf, -np.inf]
HIGH = [1.0, np.inf, -3.0, np.inf]


@pytest.fixture
def map(x64):
    return SupportMap(jnp.array(LOW), jnp.array(HIGH))


def test_formulas(map):
    x = np.array([0.2, 2.5, -4.0, 7.0])
    expected = [np.log(0.2 / 0.8), np.log(np.expm1(0.5)), -np.log(np.expm1(1.0)), 7.0]
    assert_close(map(x), expected)
    assert_close(map.inverse(np.array(expected)), x)


def test_every_latent_point_is_taken_inside_the_bounds():
    map = SupportMap(jnp.array(LOW), jnp.array(HIGH))
    for z in (-80.0, -10.0, 0.0, 10.0, 80.0):
        x, log_det = map.inverse_and_log_det(jnp.full(4, z))
        assert bool(jnp.all((x >= map.low) & (x <= map.high)))
        assert bool(jnp.isfinite(log_det))
    with np.errstate(all="raise"):
        far = jnp.array([0.5, 1e30, -1e30, 1e30])
        assert_close(map(far)[1:], jnp.array([1e30, -1e30, 1e30]))


def test_precision_near_a_bound_at_zero():
    map = SupportMap(0.0, 1.0)
    for z in (-60.0, -20.0, 3.0):
        assert_close(map(map.inverse(z)), z, 1e-5)


def test_a_support_of_numbers_in_the_middle_of_a_chain(x64):
    map = SupportMap(1.0, jnp.inf)
    value, log_det = map.transform_and_log_det(3.0)
    assert value.shape == log_det.shape == ()
    assert_close(log_det, jnp.log(jax.grad(map)(3.0)))


def test_derivatives_in_bounds_and_events(x64):
    def value(x, low, high):
        map = SupportMap(
            jnp.array([low, low, -jnp.inf, -jnp.inf]),
            jnp.array([high, jnp.inf, high, jnp.inf]),
        )
        z, log_det = map.transform_and_log_det(x)
        y, inverse_log_det = map.inverse_and_log_det(x)
        return jnp.sum(jnp.sin(z) + y**2) + log_det + 2 * inverse_log_det

    x = jnp.array([0.2, 2.5, -4.0, 7.0])
    check_gradient(jax.jit(value), x, jnp.array(-1.0), jnp.array(1.5))


def test_bad_input_is_named(user_errors):
    for match, low, high in [
        ("equal|both have shape", jnp.zeros(2), jnp.ones(3)),
        ("both have shape", jnp.zeros((2, 2)), jnp.ones((2, 2))),
        ("`low` must be less", jnp.zeros(2), jnp.array([1.0, 0.0])),
        ("`low` must be less", 0.0, jnp.nan),
    ]:
        with pytest.raises(ValueError, match=match):
            SupportMap(low, high)
