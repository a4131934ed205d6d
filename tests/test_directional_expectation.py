import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close
from jax.sharding import AxisType, PartitionSpec as P

from transportjax.mixtures import (
    VonMisesFisherMixture,
    fit_von_mises_fisher_mixture,
    mean_resultant,
)
from transportjax.mixtures.directional_expectation import _fit


def directions(n):
    x = np.random.default_rng(0).normal(size=(n, 3)) + [[1.0, 1, 0]]
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def log_likelihood(mixture, x):
    return float(jnp.mean(jax.jit(jax.vmap(mixture.log_prob))(x)))


def bases(d):
    return np.linalg.qr(np.random.default_rng(d).normal(size=(d, d)))[0][:2]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("d", [2, 3])
def test_known_directions_are_found(d, symmetric, key):
    truth = VonMisesFisherMixture(
        np.float32(bases(d)),
        np.float32([20.0, 3e4]),
        np.float32([0.3, 0.7]),
        symmetric=symmetric,
    )
    x = truth.sample(jr.key(0), 4000)
    p = fit_von_mises_fisher_mixture(x, 2, key=key, symmetric=symmetric)
    assert p.symmetric == symmetric
    order = np.argsort(p.concentrations)
    assert_close(p.concentrations[order] / truth.concentrations, np.ones(2), rtol=0.1)
    assert_close(p.weights[order], truth.weights, atol=0.03)
    cosines = jnp.sum(p.directions[order] * truth.directions, axis=1)
    assert_close(jnp.abs(cosines), np.ones(2), rtol=1e-3)
    assert symmetric or np.all(cosines > 0)
    # the maximum of the likelihood of one component: A(kappa) = R
    own = x[np.abs(x @ truth.directions[1]) > 0.99]
    if not symmetric and d > 2:
        one = fit_von_mises_fisher_mixture(own, 1, key=key)
        mean = np.mean(np.asarray(own, np.float64), axis=0)
        missing = 1 - np.linalg.norm(mean)
        assert_close(
            1 / float(one.concentrations[0]), 2 * missing / (d - 1), rtol=1e-3, atol=0
        )


@pytest.mark.parametrize(("symmetric", "shared"), [(False, False), (True, True)])
def test_likelihood_grows(symmetric, shared, key, x64):
    x = directions(60)
    fit = functools.partial(
        fit_von_mises_fisher_mixture,
        key=key,
        symmetric=symmetric,
        shared=shared,
        tolerance=0,
    )
    values = [log_likelihood(fit(x, 3, num_steps=s), x) for s in (1, 2, 3, 10, 100)]
    assert np.all(np.diff(values) > -1e-12)
    assert values[-1] > values[0]
    assert fit(x, 3).concentrations.shape == ((1,) if shared else (3,))


def test_weights_are_repetitions(key, x64):
    x, counts = directions(40), np.random.default_rng(1).integers(0, 3, 40)
    fit = functools.partial(fit_von_mises_fisher_mixture, k=1, key=key, tolerance=0)
    one, other = fit(x, weights=counts), fit(np.repeat(x, counts, axis=0))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert_close(a, b, rtol=1e-8)
    resultant = np.linalg.norm(np.average(x, axis=0, weights=counts))
    assert_close(mean_resultant(one.concentrations[0], 3), resultant, rtol=1e-12)


def test_degenerate_directions(key):
    e = np.eye(3, dtype="float32")
    p = fit_von_mises_fisher_mixture(np.repeat(e[:1], 4, axis=0), 2, key=key)
    assert_close(p.concentrations, np.full(2, 1e6))
    assert_close(p.directions, np.repeat(e[:1], 2, axis=0))
    # opposite directions have no mean, and are uniform as far as a density can tell
    p = fit_von_mises_fisher_mixture(np.stack([e[0], -e[0]]), 1, key=key)
    assert p.concentrations[0] < 1e-3
    assert_close(jnp.linalg.norm(p.directions), 1.0)
    p = fit_von_mises_fisher_mixture(
        np.stack([e[0], -e[0]]), 1, key=key, symmetric=True, max_concentration=500
    )
    assert_close(jnp.abs(p.directions[0]), e[0])
    assert_close(p.concentrations, [500.0])


def test_seeds_traces_and_vmap(key):
    x = np.float32(directions(40))
    before = _fit._cache_size()
    runs = [
        fit_von_mises_fisher_mixture(
            x, 2, key=key, num_steps=s, tolerance=t, max_concentration=m
        )
        for s, t, m in [(100, 1e-5, 1e6), (100, 1e-5, 1e6), (7, 0, 10), (3, 1.0, 99.0)]
    ]
    assert _fit._cache_size() == before + 1
    assert np.array_equal(runs[0].directions, runs[1].directions)
    both = jax.vmap(lambda x: fit_von_mises_fisher_mixture(x, 2, key=key))(
        jnp.stack([x, -x])
    )
    assert_close(both.directions[0], runs[0].directions, rtol=1e-3)


def test_shard_map(key):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    x = np.float32(directions(40))

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=P("data"), out_specs=P("data")
    )
    def local(x):
        return fit_von_mises_fisher_mixture(x, 1, key=key).directions

    means = np.stack([part.mean(axis=0) for part in np.split(x, 4)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert_close(local(x), means, rtol=1e-4)


@pytest.mark.usefixtures("user_errors")
def test_errors(key):
    x = np.ones((3, 2))
    with pytest.raises(ValueError, match="`x` must lie on the unit sphere"):
        fit_von_mises_fisher_mixture(x, 1, key=key)
    with pytest.raises(ValueError, match="`max_concentration` must be in"):
        fit_von_mises_fisher_mixture(np.eye(2), 1, key=key, max_concentration=0)
