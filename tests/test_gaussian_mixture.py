import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.special
import scipy.stats
from helpers import assert_close, check_gradient

from transportjax.mixtures import GaussianMixture, kernel_density, overlap

KINDS = ("isotropic", "diagonal", "full")
EVERY = [(kind, shared) for kind in KINDS for shared in (False, True)]


def leaves(kind, shared=False, k=3, d=2, seed=0):
    """Means, covariances and weights in float64."""
    rng = np.random.default_rng(seed)
    num = 1 if shared else k
    factors = rng.normal(size=(num, d, d))
    covariances = {
        "isotropic": rng.uniform(0.3, 1, num),
        "diagonal": rng.uniform(0.3, 1, (num, d)),
        "full": factors @ factors.swapaxes(1, 2) + 0.3 * np.eye(d),
    }[kind]
    return rng.normal(size=(k, d)), covariances, rng.uniform(0.2, 1, k)


def matrices(covariances, k, d):
    """Covariances of any kind as `k` matrices."""
    if covariances.ndim < 3:
        covariances = covariances.reshape(len(covariances), -1)[:, :, None] * np.eye(d)
    return np.broadcast_to(covariances, (k, d, d))


# --- the density -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "shared", "d"),
    [(kind, False, d) for kind in KINDS for d in (1, 2, 3, 5, 9)]
    + [(kind, True, 2) for kind in KINDS],
)
def test_log_prob(kind, shared, d, x64):
    means, covariances, weights = leaves(kind, shared, d=d)
    x = np.random.default_rng(1).normal(size=d)
    logs = [
        scipy.stats.multivariate_normal(m, c).logpdf(x)
        for m, c in zip(means, matrices(covariances, 3, d), strict=True)
    ]
    expected = scipy.special.logsumexp(logs, b=weights)
    mixture = GaussianMixture(means, covariances, weights)
    assert_close(mixture.log_prob(x), expected, rtol=1e-12)


@pytest.mark.parametrize(("kind", "shared"), [("isotropic", True), ("full", False)])
def test_derivatives_of_log_prob(kind, shared, x64):
    means, covariances, weights = leaves(kind, shared)

    @jax.jit
    def value(x, means, covariances, weights):
        if kind == "full":
            covariances = (covariances + covariances.swapaxes(1, 2)) / 2
        return GaussianMixture(means, covariances, weights).log_prob(x)

    check_gradient(value, np.array([0.3, -0.4]), means, covariances, weights)
    zero = weights * np.array([1, 0, 1])  # the density is linear in each weight
    slope = jax.grad(value, 3)(np.zeros(2), means, covariances, zero)
    density = [value(np.zeros(2), means, covariances, w) for w in np.eye(3)]
    total = value(np.zeros(2), means, covariances, zero)
    assert_close(slope, np.exp(np.array(density) - total), rtol=1e-10)


def test_log_prob_far_away_and_of_many_points():
    means, covariances, weights = (np.float32(a) for a in leaves("diagonal"))
    mixture = GaussianMixture(means, covariances, weights)
    points = np.float32([[0, 0], [1e4, -3e3]])
    run = jax.jit(jax.vmap(jax.value_and_grad(lambda x, p: p.log_prob(x)), (0, None)))
    values, slopes = run(points, mixture)
    assert np.all(np.isfinite(values))
    assert np.all(np.isfinite(slopes))
    assert values[1] < -1e7
    assert_close(values[0], mixture.log_prob(points[0]))


def test_the_density_has_the_mass_of_the_weights(x64):
    mixture = GaussianMixture(*leaves("full", d=1))
    x = np.linspace(-12, 12, 2001)[:, None]
    density = np.exp(jax.vmap(mixture.log_prob)(x))
    assert_close(np.sum(density) * (x[1, 0] - x[0, 0]), mixture.weights.sum())


# --- samples -----------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "shared"), EVERY)
def test_sample(kind, shared, key):
    means, covariances, weights = leaves(kind, shared)
    mixture = GaussianMixture(*(np.float32(a) for a in (means, covariances, weights)))
    num = 20_000
    x = np.asarray(mixture.sample(key, num), np.float64)
    assert x.shape == (num, 2)
    share = weights / weights.sum()
    mean = share @ means
    spread = means - mean
    inside = np.einsum("k,kij->ij", share, matrices(covariances, 3, 2))
    cov = inside + np.einsum("k,ki,kj->ij", share, spread, spread)
    error = np.sqrt(np.diag(cov) / num)
    assert np.all(np.abs(x.mean(0) - mean) < 6 * error)
    assert_close(np.cov(x.T), cov, rtol=0, atol=8 * np.max(cov) / np.sqrt(num))


def test_components_without_weight_are_not_sampled(key):
    mixture = GaussianMixture(
        np.array([[0.0], [50], [90]]), np.ones(1), np.array([1.0, 0, 3])
    )
    x = mixture.sample(key, 4000)[:, 0]
    assert not np.any((x > 20) & (x < 80))
    assert 0.7 < np.mean(x > 80) < 0.8


def test_samples_move_with_the_leaves(key, x64):
    means, covariances, weights = leaves("full")

    @jax.jit
    def total(means, covariances):
        covariances = (covariances + covariances.swapaxes(1, 2)) / 2
        return jnp.sum(GaussianMixture(means, covariances, weights).sample(key, 4) ** 2)

    check_gradient(total, means, covariances)


# --- the class ---------------------------------------------------------------------


def test_leaves_and_defaults():
    mixture = GaussianMixture(np.zeros((4, 2), np.float32), np.ones(1, np.float32))
    assert_close(mixture.weights, np.full(4, 0.25))
    shapes = [leaf.shape for leaf in jax.tree.leaves(mixture)]
    assert shapes == [(4, 2), (1,), (4,)]
    assert all(leaf.dtype == "float32" for leaf in jax.tree.leaves(mixture))


def test_dtypes(key, x64):
    for dtype in ("float16", "bfloat16", "float32", "float64"):
        mixture = kernel_density(jnp.ones((3, 2), dtype), 0.5)
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(mixture))
        assert mixture.log_prob(jnp.zeros(2, dtype)).dtype == dtype
        assert mixture.sample(key, 2).dtype == dtype
    assert kernel_density(np.arange(4, dtype=np.uint8)[:, None], 1).means.dtype == float


def test_kernel_density(x64):
    rng = np.random.default_rng(0)
    points, weights = rng.normal(size=(6, 2)), rng.uniform(0, 1, 6)
    found = kernel_density(points, 0.4, weights=weights)
    x = np.array([0.3, 0.2])
    kernels = scipy.stats.norm(points, 0.4).pdf(x).prod(axis=1)
    assert_close(found.log_prob(x), np.log(weights @ kernels), rtol=1e-12)
    assert_close(found.covariances, [0.16])

    def value(points, bandwidth, weights):
        return kernel_density(points, bandwidth, weights=weights).log_prob(x)

    check_gradient(jax.jit(value), points, np.array(0.4), weights)


def test_mixtures_under_vmap_and_scan(key):
    means = jr.normal(key, (5, 3, 2))
    many = jax.vmap(lambda m: GaussianMixture(m, jnp.ones(1)))(means)
    one = GaussianMixture(means[1], jnp.ones(1))
    values = jax.jit(jax.vmap(overlap))(many, many)
    assert_close(values[1], overlap(one, one))

    def step(mixture, _):
        return jax.tree.map(lambda leaf: 0.5 * leaf, mixture), mixture.log_prob(
            means[0, 0]
        )

    logs = jax.lax.scan(step, one, None, length=2)[1]
    assert_close(logs[0], one.log_prob(means[0, 0]))


# --- errors ------------------------------------------------------------------------

MEANS = np.zeros((3, 2))
UNEVEN = np.array([[[1.0, 0.5], [0.0, 1.0]]])
INDEFINITE = np.array([[[1.0, 2.0], [2.0, 1.0]]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((MEANS[0], np.ones(1)), r"`means` must have shape \(n, d\)"),
        ((MEANS[:0], np.ones(1)), "`means` must not be empty"),
        ((MEANS + np.nan, np.ones(1)), "`means` must be finite; got NaN"),
        ((MEANS, np.ones(())), r"`covariances` must have shape \(3,\) for variances"),
        ((MEANS, np.ones(2)), r"`covariances` must have shape \(3,\) for variances"),
        ((MEANS, np.ones((3, 3, 3))), "`covariances` must have shape"),
        ((MEANS, np.zeros(1)), "`covariances` must be positive; got a variance of 0"),
        ((MEANS, -np.ones((3, 2))), "`covariances` must be positive"),
        ((MEANS, np.full(3, np.nan)), "`covariances` must be finite"),
        ((MEANS, UNEVEN), "`covariances` must be symmetric"),
        ((MEANS, INDEFINITE), "positive definite; got an eigenvalue of -1"),
        ((MEANS, np.zeros((3, 2, 2))), "positive definite; got an eigenvalue of 0"),
        ((MEANS, np.ones(1), np.ones(2)), r"`weights` must have shape \(3,\)"),
        ((MEANS, np.ones(1), np.zeros(3)), "`weights` must not be all zero"),
        ((MEANS, np.ones(1), np.full(3, np.inf)), "`weights` must be finite"),
        (("means", np.ones(1)), "`means` must be an array of numbers"),
    ],
)
def test_errors(arguments, message, user_errors):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(*arguments)


def test_errors_of_methods(key, user_errors):
    mixture = GaussianMixture(MEANS, np.ones(1), np.array([1.0, -0.5, 1]))
    with pytest.raises(ValueError, match="`weights` must be >= 0 where"):
        mixture.log_prob(np.zeros(2))
    with pytest.raises(ValueError, match="`weights` must be >= 0 where"):
        mixture.sample(key, 3)
    mixture = GaussianMixture(MEANS, np.ones(1))
    with pytest.raises(ValueError, match=r"`x` must be one event of shape \(2,\)"):
        mixture.log_prob(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="`num` must be an integer >= 1"):
        mixture.sample(key, 0)
    for bandwidth in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="`bandwidth` must be positive"):
            kernel_density(MEANS, bandwidth)
    for bandwidth, dtype in ((1e-25, "float32"), (1e25, "float32"), (300, "float16")):
        with pytest.raises(ValueError, match="`bandwidth` must have a square"):
            kernel_density(np.asarray(MEANS, dtype), bandwidth)
    with pytest.raises(ValueError, match="`bandwidth` must be one number"):
        kernel_density(MEANS, np.ones(3))
    with pytest.raises(ValueError, match=r"`points` must have shape \(n, d\)"):
        kernel_density(MEANS[0], 1.0)
