import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import assert_close, images, images_and_log_dets, preimages
from scipy import stats

from transportjax.flows import Flow, maximum_likelihood
from transportjax.maps import GaussianMixtureMap
from transportjax.mixtures import GaussianMixture, OrientedMixture


def mixture(key, k=5, d=2, spread=3.0):
    mean_key, root_key, weight_key = jr.split(key, 3)
    roots = jnp.eye(d)[None] + 0.5 * jr.normal(root_key, (k, d, d))
    covariances = jnp.matmul(roots, roots.mT, precision="highest")
    means = spread * jr.normal(mean_key, (k, d))
    weights = jr.uniform(weight_key, (k,), minval=0.2)
    return GaussianMixture(means, covariances + 0.1 * jnp.eye(d)[None], weights)


def test_one_gaussian_is_whitened_by_its_factor():
    p = mixture(jr.key(0), k=1, d=3)
    map = GaussianMixtureMap.from_mixture(p)
    x = p.sample(jr.key(1), 20)
    factor = np.linalg.cholesky(np.asarray(p.covariances[0], np.float64))
    expected = np.linalg.solve(factor, np.asarray(x - p.means).T).T
    y, log_dets = images_and_log_dets(map, x)
    assert_close(y, expected, atol=1e-5)
    assert_close(log_dets, -np.log(np.diag(factor)).sum(), atol=1e-5)


def test_on_the_line_it_is_the_distribution_function(x64):
    means, scales = np.array([-3.0, 0.0, 1.0]), np.array([0.2, 1.0, 3.0])
    weights = np.array([0.5, 0.2, 0.3])
    p = GaussianMixture(means[:, None], scales**2, weights)
    map = GaussianMixtureMap.from_mixture(p)
    x = np.linspace(-4, 6, 41)
    mass = (weights * stats.norm.cdf(x[:, None], means, scales)).sum(axis=1)
    y = images(map, x[:, None])[:, 0]
    assert_close(y, stats.norm.ppf(mass), atol=1e-12)
    assert_close(preimages(map, y[:, None])[:, 0], x, atol=1e-9)


@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_flow_has_the_density_of_the_mixture(d):
    p = mixture(jr.key(2), k=7, d=d)
    flow = Flow(GaussianMixtureMap.from_mixture(p), d)
    log_mass = jnp.log(jnp.sum(p.weights))  # of the mixture, which a flow has not
    for size in (1, 10, 300):
        x = size * p.sample(jr.key(3), 50)
        value, slope = jax.jit(jax.vmap(jax.value_and_grad(flow.log_prob)))(x)
        expected, other = jax.jit(jax.vmap(jax.value_and_grad(p.log_prob)))(x)
        assert_close(value, expected - log_mass, rtol=2e-6, atol=1e-4)
        assert_close(slope, other, rtol=1e-3, atol=1e-3)


def test_samples_of_the_mixture_become_normal_and_back():
    p = mixture(jr.key(4), k=4)
    map = GaussianMixtureMap.from_mixture(p)
    z = np.asarray(images(map, p.sample(jr.key(5), 20_000)))
    for column in (z[:, 0], z[:, 1], (z[:, 0] + z[:, 1]) / np.sqrt(2)):
        assert stats.kstest(column, "norm").pvalue > 1e-3
    x = np.asarray(Flow(map, 2).sample(jr.key(6), 20_000))
    others = np.asarray(p.sample(jr.key(7), 20_000))
    for axis in ([1, 0], [0, 1], [0.6, 0.8]):
        assert stats.ks_2samp(x @ axis, others @ axis).pvalue > 1e-3


def test_far_out_and_between_clusters_far_apart():
    means = jnp.array([[0.0, 0.0], [1e4, -1e4]])
    p = GaussianMixture(means, jnp.array([1.0, 1e-2]), jnp.array([0.5, 0.5]))
    map = GaussianMixtureMap.from_mixture(p)
    one = GaussianMixtureMap.from_mixture(GaussianMixture(means[:1], jnp.ones(1)))
    for y in ([-30.0, 25.0], [12.0, -13.0]):
        assert_close(one(jnp.array(y)), y, atol=1e-4)
        assert_close(one.inverse(jnp.array(y)), y, atol=1e-4)
    y = jr.normal(jr.key(8), (200, 2))
    x, log_dets = jax.jit(jax.vmap(map.inverse_and_log_det))(y)
    assert np.isfinite(x).all()
    assert np.isfinite(log_dets).all()
    nearest = jnp.min(jnp.linalg.norm(x[:, None] - means[None], axis=2), axis=1)
    assert float(jnp.max(nearest)) < 6  # nothing falls between
    assert_close(images(map, x), y, atol=0.02)  # of 1e4, float32 has 3 digits left


@pytest.mark.parametrize("shape", [(1,), (4,), (1, 2), (4, 2), (1, 2, 2), (4, 2, 2)])
def test_all_kinds_of_covariances_there_and_back(shape):
    means = 3 * jr.normal(jr.key(9), (4, 2))
    variances = jr.uniform(jr.key(10), shape[:2], minval=0.5, maxval=2.0)
    full = variances
    if len(shape) == 3:
        full = variances[:, :, None] * jnp.eye(2)[None] + 0.2
    p = GaussianMixture(means, full, jnp.array([0.1, 0.2, 0.3, 0.4]))
    map = GaussianMixtureMap.from_mixture(p)
    q = map.to_mixture()
    assert q.covariances.shape == (4, 2, 2)
    x = p.sample(jr.key(11), 30)
    assert_close(jax.vmap(q.log_prob)(x), jax.vmap(p.log_prob)(x), atol=1e-5)
    traced = jax.jit(GaussianMixtureMap.from_mixture)(p)
    for leaf, other in zip(jax.tree.leaves(map), jax.tree.leaves(traced), strict=True):
        assert_close(leaf, other, atol=1e-5)


def test_a_component_without_weight_does_not_matter():
    p = mixture(jr.key(12), k=3)
    weights = jnp.array([0.5, 0.5, 0.0])
    with_it = GaussianMixture(p.means, p.covariances, weights)
    without = GaussianMixture(p.means[:2], p.covariances[:2], weights[:2])
    maps = [GaussianMixtureMap.from_mixture(q) for q in (with_it, without)]
    x = p.sample(jr.key(13), 20)
    first, second = (images_and_log_dets(m, x) for m in maps)
    assert_close(first[0], second[0], atol=1e-6)
    assert_close(first[1], second[1], atol=1e-6)
    back = [preimages(m, x / 5) for m in maps]
    assert_close(back[0], back[1], atol=1e-5)
    slope = jax.grad(lambda m: jnp.sum(images(m, x)))(maps[0])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


def test_its_leaves_can_be_trained():
    p = mixture(jr.key(14), k=3)
    x, test = p.sample(jr.key(15), 4000), p.sample(jr.key(16), 4000)
    off = GaussianMixture(p.means + 0.5, 2 * p.covariances, jnp.ones(3) / 3)
    flow = Flow(GaussianMixtureMap.from_mixture(off), 2)
    adam = optax.adam(1e-2)
    result = maximum_likelihood(flow, x, key=jr.key(17), optimiser=adam, num_steps=600)
    truth = jnp.mean(jax.vmap(p.log_prob)(test)) - jnp.log(jnp.sum(p.weights))
    before, after = (
        jnp.mean(jax.vmap(model.log_prob)(test)) for model in (flow, result.model)
    )
    assert before < truth - 0.1
    assert after > truth - 0.02


def test_bad_input_is_named(user_errors):
    p = mixture(jr.key(18), k=2)
    oriented = OrientedMixture(
        p.means, jnp.ones(1), jnp.ones((2, 2)) / jnp.sqrt(2.0), jnp.ones(1)
    )
    negative = GaussianMixture(p.means, p.covariances, jnp.array([1.0, -0.1]))
    for wrong, message in ((oriented, "must be a GaussianMixture"), (negative, ">= 0")):
        with pytest.raises(ValueError, match=message):
            GaussianMixtureMap.from_mixture(wrong)
    map = GaussianMixtureMap.from_mixture(p)
    leaves = [map.log_weights, map.means, map.shears, map.log_scales]
    for place, name in ((0, "log_weights"), (2, "shears"), (3, "log_scales")):
        wrong = list(leaves)
        wrong[place] = leaves[place][:1]
        with pytest.raises(ValueError, match=f"`{name}` must have shape"):
            GaussianMixtureMap(*wrong)
    with pytest.raises(ValueError, match="`x`"):
        map(jnp.zeros(3))
