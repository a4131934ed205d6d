"""Beyond the laws of tests/test_maps.py: formulas, extremes, what outliers weigh."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close, check_gradient

from transportjax.flows import Flow, maximum_likelihood, spline_flow
from transportjax.maps import LogTails
from transportjax.solvers import gaussianise


def test_formulas(x64):
    map = LogTails(np.array([2.0, 2.0, 0.0, 1.5]))
    x = np.array([1.9, -5.0, 3.0, 1.5])
    value, log_det = map.transform_and_log_det(x)
    assert_close(value, [1.9, -2 - np.log(4.0), np.log(4.0), 1.5])
    assert_close(log_det, -2 * np.log(4.0))
    assert_close(map.inverse(value), x)


def test_it_is_smooth_at_the_threshold(x64):
    map = LogTails(3.0)
    for at in (3.0, -3.0):
        values = [float(jax.grad(map)(at + step)) for step in (-1e-9, 0.0, 1e-9)]
        assert_close(np.array(values), np.ones(3), 1e-8)


def test_extremes():
    map = LogTails(4.0)
    far = jnp.array([3e38, -3e38, 1e30])
    assert_close(jax.vmap(lambda x: map.inverse(map(x)))(far), far, 1e-4)
    assert bool(jnp.isinf(map.inverse(200.0)))
    assert map(jnp.inf) == jnp.inf
    assert bool(jnp.isnan(map(jnp.nan)))


def test_derivatives(x64):
    def value(x, threshold):
        map = LogTails(threshold)
        y, log_det = map.transform_and_log_det(x)
        z, other = map.inverse_and_log_det(x)
        return jnp.sum(jnp.sin(y) + z**2) + log_det + 2 * other

    x = jnp.array([0.3, -2.5, 4.0])
    check_gradient(value, x, jnp.array([1.0, 1.5, 2.0]))


@pytest.mark.parametrize("threshold", [[-1.0], [np.nan], [[1.0]]])
def test_bad_thresholds(threshold):
    with pytest.raises(ValueError, match="`threshold`"):
        LogTails(np.array(threshold))


def mean_log_prob(flow, x):
    return float(jnp.mean(jax.jit(jax.vmap(flow.log_prob))(x)))


def test_outliers_do_not_decide_a_fit():
    """One sample in a thousand is a thousand deviations away, none in the fit."""
    x, others = jr.normal(jr.key(0), (1000, 2)), jr.normal(jr.key(1), (1000, 2))
    fitted = Flow(gaussianise(x, key=jr.key(2)).map, 2)
    with_outlier = others.at[0].set(jnp.array([1000.0, -50.0]))
    lost = mean_log_prob(fitted, others) - mean_log_prob(fitted, with_outlier)
    assert 0.03 < lost < 1


def test_outliers_do_not_decide_a_training():
    """A flow learns the rest of the samples, and its samples are like these."""
    x = jr.exponential(jr.key(0), (800, 2)).at[0, 0].set(1e4)
    flow = spline_flow(jr.key(1), 2, data=x, num_layers=2, width=16, depth=1)
    options = {"key": jr.key(2), "num_steps": 600, "patience": None}
    result = maximum_likelihood(flow, x, held_out=x[1:200], **options)
    drawn = result.model.sample(jr.key(3), 2000)
    assert 0.4 < float(jnp.median(drawn[:, 0])) < 1.1  # the truth: 0.69


def test_a_fit_on_a_mesh_with_explicit_axes():
    mesh = jax.make_mesh((len(jax.devices()),), ("data",))
    rows = jax.NamedSharding(mesh, jax.P("data"))
    x = jr.normal(jr.key(0), (64 * len(jax.devices()), 2))
    fitted = gaussianise(jax.device_put(x, rows), key=jr.key(1), num_steps=2)
    alone = gaussianise(x, key=jr.key(1), num_steps=2)
    assert_close(fitted.points, alone.points, atol=1e-3)
