import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from helpers import assert_close
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax.mixtures import (
    fit_gaussian_mixture,
    kmeans,
)
from transportjax.mixtures.expectation import _fit

KINDS = ["full", "diagonal", "isotropic"]
ALL = [*KINDS, *(f"shared_{kind}" for kind in KINDS)]


def cloud(n=200, d=2, seed=0):
    """Overlapping points, correlated and of different spread."""
    rng = np.random.default_rng(seed)
    mix = np.tril(np.ones((d, d)))
    return np.concatenate(
        [rng.normal(size=(n // 2, d)) @ mix, 0.5 * rng.normal(size=(n - n // 2, d)) + 2]
    )


def matrices(mixture, k):
    """The covariances of all components as matrices."""
    covariances, d = np.asarray(mixture.covariances), mixture.means.shape[1]
    if covariances.ndim == 2:
        covariances = covariances[:, :, None] * np.eye(d)
    elif covariances.ndim == 1:
        covariances = covariances[:, None, None] * np.eye(d)
    return np.broadcast_to(covariances, (k, d, d))


def oracle_step(x, mass, means, covariances, shares, kind):
    """One step of EM in numpy, by textbook formulas; the log-likelihood before it."""
    logs = np.stack(
        [
            scipy.stats.multivariate_normal(m, c).logpdf(x) + np.log(w)
            for m, c, w in zip(means, covariances, shares, strict=True)
        ],
        axis=1,
    )
    value = mass @ scipy.special.logsumexp(logs, axis=1)
    own = mass[:, None] * scipy.special.softmax(logs, axis=1)
    shares = own.sum(axis=0)
    means = (own.T @ x) / shares[:, None]
    d = x.shape[1]
    found = []
    for j, mean in enumerate(means):
        scatter = (own[:, j, None] * (x - mean)).T @ (x - mean) / shares[j]
        if "diagonal" in kind:
            scatter = np.diag(np.diag(scatter))
        if "isotropic" in kind:
            scatter = np.trace(scatter) / d * np.eye(d)
        found.append(scatter)
    if "shared" in kind:
        found = [np.average(found, axis=0, weights=shares)] * len(found)
    return means, np.stack(found), shares, value


@pytest.mark.parametrize("kind", ALL)
def test_steps_are_those_of_numpy(kind, key, x64):
    x, k = cloud(), 3
    mass = np.random.default_rng(1).uniform(0.5, 1.5, len(x))
    mass /= mass.sum()
    fit = functools.partial(
        fit_gaussian_mixture,
        x,
        k,
        key=key,
        covariance=kind,
        weights=mass,
        tolerance=0,
    )
    start = kmeans(x, k, key=key, weights=mass)
    variance = float(start.cost) / 2
    means, shares = np.asarray(start.centres), np.asarray(start.weights)
    covariances = np.broadcast_to(variance * np.eye(2), (k, 2, 2))
    likelihoods = []
    for num_steps in range(1, 6):
        means, covariances, shares, value = oracle_step(
            x, mass, means, covariances, shares, kind
        )
        likelihoods.append(value)
        p = fit(num_steps=num_steps)
        order, other = np.argsort(p.means[:, 0]), np.argsort(means[:, 0])
        assert_close(p.means[order], means[other], rtol=1e-9)
        assert_close(matrices(p, k)[order], covariances[other], rtol=1e-9)
        assert_close(p.weights[order], shares[other], rtol=1e-9)
    # and on to where the likelihood no longer grows
    for num_steps in (20, 80, 500):
        p = fit(num_steps=num_steps)
        state = (np.asarray(p.means), matrices(p, k), np.asarray(p.weights))
        likelihoods.append(oracle_step(x, mass, *state, kind)[-1])
    assert np.all(np.diff(likelihoods) > -1e-12)
    assert likelihoods[4] > likelihoods[0]
    shape = {"full": (2, 2), "diagonal": (2,), "isotropic": ()}[kind.split("_")[-1]]
    assert p.covariances.shape == (1 if "shared" in kind else k, *shape)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_known_mixture_is_found(dtype, key, x64):
    rng = np.random.default_rng(0)
    truth = np.array([[[1.0, 0.6], [0.6, 2.0]], [[0.3, 0.0], [0.0, 0.1]]])
    means, n = np.array([[0.0, 0.0], [9.0, 5.0]]), (6000, 2000)
    x = np.concatenate(
        [rng.multivariate_normal(means[j], truth[j], n[j]) for j in range(2)]
    )
    # far from the origin, where float32 has few digits left
    p = fit_gaussian_mixture(jnp.asarray(x + 100, dtype), 2, key=key)
    assert p.means.dtype == p.covariances.dtype == p.weights.dtype == dtype
    order = np.argsort(p.means[:, 0])
    assert_close(p.weights[order], [0.75, 0.25], rtol=1e-3)
    for j in range(2):
        own = x[: n[0]] if j == 0 else x[n[0] :]
        assert_close(p.means[order][j] - 100, own.mean(axis=0), atol=1e-4)
        assert_close(p.covariances[order][j], np.cov(own.T, bias=True), rtol=2e-3)
        assert_close(p.covariances[order][j], truth[j], atol=0.1)


def test_one_component_has_the_moments_of_the_points(key, x64):
    x, weights = cloud(d=3), np.random.default_rng(0).uniform(size=200)
    p = fit_gaussian_mixture(x, 1, key=key, weights=weights)
    assert_close(p.means[0], np.average(x, axis=0, weights=weights))
    expected = np.cov(x.T, aweights=weights, bias=True)
    assert_close(p.covariances[0], expected, rtol=1e-9)


def test_weights_are_repetitions(key, x64):
    x = np.concatenate([cloud(40), cloud(40) + 30])
    counts = np.random.default_rng(0).integers(0, 4, 80)
    one = fit_gaussian_mixture(x, 2, key=key, weights=counts, tolerance=0)
    repeated = np.repeat(x, counts, axis=0)
    other = fit_gaussian_mixture(repeated, 2, key=key, tolerance=0)
    orders = [np.argsort(p.means[:, 0]) for p in (one, other)]
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert_close(a[orders[0]], b[orders[1]], rtol=1e-8)


@pytest.mark.parametrize("kind", ["full", "diagonal"])
def test_floor(kind, key):
    # a constant coordinate, and a component with a single point
    x = np.float32(cloud(60, 3))
    x[:, 1] = 2.5
    x[0] = [100, 2.5, 100]
    p = fit_gaussian_mixture(x, 3, key=key, covariance=kind, floor=1e-4)
    least = 1e-4 * np.mean(np.var(x.astype("float64"), axis=0))
    variances = np.linalg.eigvalsh(matrices(p, 3))
    assert variances.min() > least * (1 - 1e-3)
    assert_close(variances.min(), least, rtol=1e-3, atol=0)
    assert np.all(np.isfinite(jax.jit(jax.vmap(p.log_prob))(x)))


@pytest.mark.parametrize("value", [0.0, 300.0])
def test_equal_points(value, key):
    x = np.full((5, 2), value, "float32")
    for k in (1, 2):
        p = fit_gaussian_mixture(x, k, key=key)
        assert_close(p.means, x[:k], rtol=1e-6)
        assert_close(jnp.sum(p.weights), 1.0)
        assert np.all(np.linalg.eigvalsh(p.covariances) > 0)
    p = fit_gaussian_mixture(x[:1], 1, key=key, covariance="isotropic")
    assert_close(p.means, x[:1], rtol=1e-6)


def test_seeds_traces_and_vmap(key):
    x = np.float32(cloud(60))
    before = _fit._cache_size()
    options = [(100, 1e-5, 1e-6), (100, 1e-5, 1e-6), (7, 0.0, 1e-3), (3, 1, 1)]
    runs = [
        fit_gaussian_mixture(x, 2, key=key, num_steps=s, tolerance=t, floor=f)
        for s, t, f in options
    ]
    assert _fit._cache_size() == before + 1
    assert np.array_equal(runs[0].means, runs[1].means)
    both = jax.vmap(lambda x: fit_gaussian_mixture(x, 2, key=key))(jnp.stack([x, -x]))
    assert_close(both.means[0], runs[0].means, rtol=1e-4)


def test_reverse_mode_raises(key):
    x = np.float32(cloud(20))
    with pytest.raises(ValueError, match="Reverse-mode"):
        jax.grad(lambda x: jnp.sum(fit_gaussian_mixture(x, 2, key=key).means))(x)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_sharded(kind, key):
    x = np.float32(np.concatenate([cloud(40), cloud(40) + 30]))
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,))
    shards = jax.device_put(x, NamedSharding(mesh, P("data")))
    found, whole = (fit_gaussian_mixture(a, 2, key=key) for a in (shards, x))
    assert_close(
        jnp.sort(found.means, axis=0), jnp.sort(whole.means, axis=0), rtol=1e-4
    )


def test_shard_map(key):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    x = np.float32(cloud(80))

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=P("data"), out_specs=P("data")
    )
    def local(x):
        return fit_gaussian_mixture(x, 1, key=key).means

    assert_close(local(x), [part.mean(axis=0) for part in np.split(x, 4)])


@pytest.mark.usefixtures("user_errors")
def test_variances_that_half_precision_does_not_hold(key):
    x = 1000 * jax.random.normal(key, (200, 2)).astype("float16")
    with pytest.raises(ValueError, match="`x` has variances up to .* float16 does not"):
        fit_gaussian_mixture(x, 2, key=key)


@pytest.mark.usefixtures("user_errors")
def test_errors(key):
    x = np.ones((3, 2))
    with pytest.raises(ValueError, match="`covariance` must be one of 'full'"):
        fit_gaussian_mixture(x, 1, key=key, covariance="spherical")
    with pytest.raises(ValueError, match="`k` must be at most 3"):
        fit_gaussian_mixture(x, 4, key=key)
    with pytest.raises(ValueError, match=r"`floor` must be in \(0, inf\]"):
        fit_gaussian_mixture(x, 1, key=key, floor=0)
    with pytest.raises(ValueError, match="`tolerance` must be in"):
        fit_gaussian_mixture(x, 1, key=key, tolerance=-1)


# --- from a given start ------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_a_start_is_gone_on_from(kind, x64):
    x = cloud()
    options = {"key": jax.random.key(0), "covariance": kind, "tolerance": 0}
    whole = fit_gaussian_mixture(x, 2, num_steps=12, **options)
    half = fit_gaussian_mixture(x, 2, num_steps=5, **options)
    rest = fit_gaussian_mixture(x, 2, num_steps=7, start=half, **options)
    for found, expected in zip(
        jax.tree.leaves(rest), jax.tree.leaves(whole), strict=True
    ):
        assert_close(found, expected, atol=1e-9)


def test_components_without_weight_stay_without(x64):
    x = cloud()
    few = fit_gaussian_mixture(x, 2, key=jax.random.key(0), num_steps=3)
    means = jnp.concatenate([few.means, 0 * few.means])
    covariances = jnp.concatenate([few.covariances, few.covariances])
    start = type(few)(means, covariances, jnp.concatenate([few.weights, jnp.zeros(2)]))
    found = fit_gaussian_mixture(x, 4, key=jax.random.key(0), start=start)
    assert_close(found.weights[2:], [0, 0])
    more = fit_gaussian_mixture(x, 2, key=jax.random.key(0), start=few)
    assert_close(found.means[:2], more.means, atol=1e-9)


def test_a_wrong_start_is_named(user_errors):
    x = jnp.asarray(cloud(), "float32")
    start = fit_gaussian_mixture(x, 2, key=jax.random.key(0), num_steps=1)
    for k, given, message in (
        (3, start, r"`start` must have means of shape \(3, 2\)"),
        (2, start.means, "`start` must be a GaussianMixture"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_gaussian_mixture(x, k, key=jax.random.key(0), start=given)
