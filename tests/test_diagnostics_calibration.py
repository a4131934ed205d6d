import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close
from scipy.special import kolmogorov
from scipy.stats import chi2, ks_2samp

import transportjax as tj
from transportjax.diagnostics import calibration
from transportjax.diagnostics.calibration import _kolmogorov_tail


def normal(spread=1.0):
    return tj.Flow(tj.Affine(jnp.eye(2) / spread, jnp.zeros(2)), 2)


def test_levels_are_the_masses_of_regions(key):
    x = 1.3 * jr.normal(key, (400, 2))
    found = calibration(normal(), x, key=jr.key(1), num_samples=40000)
    # of a unit Gaussian the region of higher density is a disc
    expected = np.sort(chi2(2).cdf(np.sum(np.asarray(x) ** 2, axis=1)))
    np.testing.assert_allclose(found.levels, expected, atol=0.015)
    # the distance of uniform levels, up to the samples of the model
    shares = np.arange(401) / 400
    ks = max(np.max(shares[1:] - expected), np.max(expected - shares[:-1]))
    np.testing.assert_allclose(found.distance, ks, atol=0.015)
    assert found.distance > found.band
    assert found.p_value < 0.01


def test_a_right_model_is_in_the_band():
    distances, p_values = [], []
    for seed in range(40):
        x = jr.normal(jr.key(seed), (200, 2))
        found = calibration(normal(), x, key=jr.key(seed + 99))
        distances.append(float(found.distance / found.band))
        p_values.append(float(found.p_value))
    assert np.mean(np.array(distances) > 1) < 0.15
    assert 0.35 < np.mean(p_values) < 0.7
    wide = calibration(normal(2.0), x, key=jr.key(0))
    narrow = calibration(normal(0.5), x, key=jr.key(0))
    assert wide.p_value < 1e-4
    assert narrow.p_value < 1e-4
    assert np.median(wide.levels) < 0.4 < 0.7 < np.median(narrow.levels)


def test_the_distance_is_that_of_scipy(key):
    flow, x = normal(1.2), jr.normal(key, (150, 2))
    found = calibration(flow, x, key=jr.key(1), num_samples=300)
    densities = [
        jax.vmap(flow.log_prob)(points) for points in (x, flow.sample(jr.key(1), 300))
    ]
    expected = ks_2samp(*map(np.array, densities))
    assert_close(found.distance, expected.statistic)


def test_kolmogorovs_law(x64):
    t = np.array([0.0, 0.1, 0.3, 0.5, 1.0, 1.3581, 2.0, 3.0])
    found = [float(_kolmogorov_tail(jnp.asarray(s))) for s in t]
    assert_close(found, kolmogorov(t), rtol=1e-6)


def test_mixtures_have_densities_too(key):
    law = tj.GaussianMixture(jnp.array([[0.0], [4.0]]), jnp.array([1.0]))
    x = law.sample(key, 300)
    found = calibration(law, x, key=jr.key(2))
    assert found.p_value > 0.01
    assert found.levels.shape == (300,)


def test_ties_count_half(key):
    class Uniform:
        def log_prob(self, x):
            return 0 * jnp.sum(x)

        def sample(self, key, num):
            return jr.uniform(key, (num, 2))

    found = calibration(Uniform(), jr.uniform(key, (30, 2)), key=jr.key(0))
    assert_close(found.levels, np.full(30, 0.5))
    assert found.distance == 0
    assert found.p_value == 1


def test_bad_input(user_errors):
    x = jnp.ones((5, 2))
    with pytest.raises(ValueError, match="`flow` must be a Density; got a Affine"):
        calibration(normal().map, x, key=jr.key(0))
    with pytest.raises(ValueError, match="`x` must have shape"):
        calibration(normal(), x[0], key=jr.key(0))
    with pytest.raises(ValueError, match="`num_samples` must be an integer"):
        calibration(normal(), x, key=jr.key(0), num_samples=0)
