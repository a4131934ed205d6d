import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close, check_gradient
from scipy.special import digamma, entr, rel_entr
from scipy.stats import differential_entropy

from transportjax.diagnostics import negentropy, spacing_entropy, total_correlation

NORMAL = math.log(2 * math.pi * math.e) / 2


def test_spacing_entropy_by_loops(x64):
    x = np.random.default_rng(0).normal(size=50)
    m, ordered = 4, np.sort(x)  # 50^(1/3) = 3.7
    gaps = [ordered[min(i + m, 49)] - ordered[max(i - m, 0)] for i in range(50)]
    vasicek = np.mean(np.log(50 / (2 * m) * np.array(gaps)))
    assert_close(vasicek, differential_entropy(x, window_length=m, method="vasicek"))
    bias = math.log(50) - math.log(2 * m) + (1 - 2 * m / 50) * digamma(2 * m)
    bias += -digamma(51) + 2 / 50 * sum(digamma(i + m - 1) for i in range(1, m + 1))
    assert_close(spacing_entropy(x), vasicek - bias)


def test_entropies_of_known_laws():
    rows, n = 40, 1000
    for name, expected in (("normal", NORMAL), ("uniform", 0.0), ("exponential", 1.0)):
        x = getattr(jr, name)(jr.key(0), (rows, n))
        values = np.asarray(spacing_entropy(x))
        error = values.std() / rows**0.5
        assert abs(values.mean() - expected) < 3 * error + 0.006, name


def test_negentropy_has_no_unit(x64):
    x = jr.exponential(jr.key(1), (3, 500))
    value = negentropy(x)
    assert value.shape == (3,)
    assert_close(negentropy(5 * x - 2), value)
    assert_close(value[1], negentropy(x[1]))
    assert negentropy(x.astype("float32")).dtype == jnp.float32
    check_gradient(negentropy, x[0])


@pytest.mark.parametrize("scale", [1e25, 1e-25])
def test_any_unit_in_float32(scale):
    x = jr.exponential(jr.key(0), (2, 300))
    assert_close(negentropy(x * scale), negentropy(x), rtol=1e-4)
    slopes = jax.grad(lambda x: negentropy(x).sum())
    assert_close(scale * slopes(x * scale), slopes(x), rtol=1e-3, atol=1e-5)


def test_tied_samples_have_no_density():
    assert spacing_entropy(jnp.zeros(20)) == -jnp.inf
    assert jnp.isfinite(spacing_entropy(jnp.array([0.0, 1.0, 3.0])))


def correlated(key, n, rho, d=3):
    cov = np.full((d, d), rho) + (1 - rho) * np.eye(d)
    root = jnp.asarray(np.linalg.cholesky(cov), "float32")
    return jr.normal(key, (n, d)) @ root.T, -np.linalg.slogdet(cov)[1] / 2


def test_total_correlation_of_gaussians():
    for rho in (0.0, 0.6):
        x, expected = correlated(jr.key(0), 3000, rho)
        found = total_correlation(x, key=jr.key(1))
        assert abs(found.value - expected) < 3 * found.error + 0.02
        # increasing functions of the coordinates change nothing at all
        bent = jnp.stack([jnp.exp(x[:, 0]), x[:, 1] ** 3, 7 * x[:, 2]], axis=1)
        again = total_correlation(bent, key=jr.key(1))
        assert_close(again.value, found.value, rtol=1e-5)


def test_dependence_without_correlation():
    # a ring: uncorrelated; the mutual information by integration over a grid
    angle = 2 * jnp.pi * jr.uniform(jr.key(2), (3000,))
    ring = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    x = ring + 0.2 * jr.normal(jr.key(3), ring.shape)
    grid = np.linspace(-2, 2, 401)
    angles = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    bumps = [
        np.exp(-((grid[:, None] - side(angles)[None]) ** 2) / 0.08)
        for side in (np.cos, np.sin)
    ]
    joint = bumps[0] @ bumps[1].T
    joint = joint / joint.sum()
    apart = joint.sum(1)[:, None] * joint.sum(0)[None]
    expected = np.sum(rel_entr(joint, apart))
    found = total_correlation(x, key=jr.key(4))
    assert abs(np.corrcoef(x.T)[0, 1]) < 0.05
    assert 0.7 * expected < found.value < expected + 3 * found.error
    # the joint entropy
    joint_entropy = spacing_entropy(x.T).sum() - found.value
    cell = (grid[1] - grid[0]) ** 2
    true = np.sum(entr(joint / cell)) * cell
    np.testing.assert_allclose(joint_entropy, true, atol=0.12)


def test_ties_are_no_dependence():
    rng = np.random.default_rng(0)
    values = np.sort(rng.normal(size=1000))  # as in a sorted table
    faces = rng.integers(0, 2, (2, 1000))
    for x in ((values, faces[0]), (faces[0], faces[1])):
        found = total_correlation(np.stack(x, 1).astype("float32"), key=jr.key(0))
        assert abs(found.value) < 0.05


def test_strays_cost_little():
    x, expected = correlated(jr.key(5), 3000, 0.6)
    x = jax.random.permutation(jr.key(6), x.at[:5].set(1e4))
    found = total_correlation(x, key=jr.key(1))
    assert abs(found.value - expected) < 3 * found.error + 0.05


def test_bad_input(user_errors):
    for function in (spacing_entropy, negentropy):
        with pytest.raises(ValueError, match="must be an integer >= 3; got 2"):
            function(jnp.ones(2))
        with pytest.raises(ValueError, match="`x` must be finite"):
            function(jnp.array([1.0, jnp.nan, 2.0]))
    with pytest.raises(ValueError, match="`x` must have shape"):
        total_correlation(jnp.ones(3), key=jr.key(0))
    for num in (1, 5):  # each half has more than d
        with pytest.raises(ValueError, match=f"must be an integer >= 6; got {num}"):
            total_correlation(jr.normal(jr.key(0), (num, 2)), key=jr.key(0))
    x = jr.normal(jr.key(0), (100, 1))
    with pytest.raises(ValueError, match="`x` must vary in every direction"):
        total_correlation(jnp.concatenate([x, x], axis=1), key=jr.key(0))
