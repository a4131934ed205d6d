import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, check_gradient, images, images_and_log_dets, preimages

from transportjax.maps import MonotoneGrid, MonotoneLinear

VALUES = np.array([-1.0, -0.5, 2.0, 2.25, 4.0])
POINTS = np.array([-3.0, 0.0, 0.1, 0.74, 1.3, 1.9999, 2.0, 5.0])


def test_it_is_the_polyline_with_tails_of_slope_one():
    curve = MonotoneGrid.from_values(0.0, 2.0, VALUES)
    expected = np.interp(POINTS, np.linspace(0, 2, 5), VALUES)
    expected += np.minimum(POINTS, 0) + np.maximum(POINTS - 2, 0)
    assert_close(images(curve, POINTS), expected)
    knots = curve.knots
    assert_close(knots[0], np.linspace(0, 2, 5))
    assert_close(knots[1], VALUES)


def test_it_agrees_with_free_knots(x64):
    grid = MonotoneGrid.from_values(0.0, 2.0, VALUES)
    free = MonotoneLinear.from_knots(np.linspace(0, 2, 5), VALUES)
    for method in ("transform_and_log_det", "inverse_and_log_det"):
        assert_close(
            np.stack(jax.jit(jax.vmap(getattr(grid, method)))(POINTS)),
            np.stack(jax.jit(jax.vmap(getattr(free, method)))(POINTS)),
        )


def test_flat_parts_can_be_inverted(x64):
    curve = MonotoneGrid.from_values(0.0, 1.0, np.array([0.0, 1.0, 1.0, 1.0, 2.0]))
    points = np.linspace(-0.5, 1.5, 41)
    assert_close(preimages(curve, images(curve, points)), points)
    assert_close(curve(0.4), 1.0, atol=1e-4)


def test_equal_values_and_knots_give_the_identity():
    curve = MonotoneGrid.from_values(1.0, 3.0, jnp.linspace(1.0, 3.0, 100))
    points = jnp.linspace(0, 4, 1001)
    assert_close(images(curve, points), points, rtol=1e-6)


def test_derivatives_are_those_of_finite_differences(x64):
    def loss(x, values, low, high):
        curve = MonotoneGrid.from_values(low, high, values)
        moved, log_det = images_and_log_dets(curve, x)
        return jnp.sum(jnp.sin(moved)) + jnp.sum(log_det)

    points = POINTS[[0, 2, 3, 4, 7]]
    check_gradient(loss, points, VALUES, np.array(-0.03), np.array(2.01))


def test_extremes_stay_finite():
    tiny = MonotoneGrid.from_values(0.0, 1e-30, jnp.array([0.0, 1.0]))
    for x in (0.0, 1.0, 1e10, -1e10):
        value, slope = jax.value_and_grad(tiny)(jnp.float32(x))
        assert bool(jnp.isfinite(value) & jnp.isfinite(slope)), x
    assert float(tiny(1e10)) == pytest.approx(1e10)
    assert bool(jnp.isnan(tiny(jnp.nan)))


def test_bad_input_is_named(user_errors):
    with pytest.raises(ValueError, match="`values`"):
        MonotoneGrid.from_values(0.0, 1.0, jnp.ones(1))
    with pytest.raises(ValueError, match="`values`"):
        MonotoneGrid.from_values(0.0, 1.0, jnp.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="`low`"):
        MonotoneGrid.from_values(1.0, 1.0, jnp.array([0.0, 1.0]))
