import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close

from transportjax.mixtures import (
    GaussianMixture,
    fit_gaussian_mixture,
    model_selection,
    select_gaussian_mixture,
)


def ring(num_clusters=24, scale=0.05):
    """Clusters on a circle."""
    angle = np.arange(num_clusters) * (2 * np.pi / num_clusters)
    centres = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return GaussianMixture(centres.astype("float32"), np.float32([scale**2]))


def mean_log_prob(mixture, x):
    return float(jnp.mean(jax.jit(jax.vmap(mixture.log_prob))(x)))


def test_as_many_components_as_the_law_needs():
    p = ring()
    x, held, test = (
        p.sample(jr.key(seed), n) for seed, n in enumerate((6400, 1000, 4000))
    )
    seen = []
    found = select_gaussian_mixture(x, held, key=jr.key(3), progress=seen.append)
    sizes = [len(one.mixture.weights) for one in seen]
    assert sizes[0] == 16
    assert 24 <= sizes[-1] <= 48
    losses = [float(one.held_out) for one in seen]
    assert losses[-1] < losses[0] - 0.02
    assert found.held_out == seen[-1].held_out
    assert_close(found.held_out, -mean_log_prob(found.mixture, held), atol=1e-5)
    assert mean_log_prob(found.mixture, test) > mean_log_prob(p, test) - 0.03


def test_one_gaussian_is_one_component():
    x, held = jr.normal(jr.key(4), (500, 3)), jr.normal(jr.key(5), (100, 3))
    found = select_gaussian_mixture(x, held, key=jr.key(6)).mixture
    assert found.weights.shape == (1,)
    assert_close(found.means[0], np.mean(x, axis=0), atol=1e-5)
    assert_close(found.covariances[0], np.cov(x.T, bias=True), atol=1e-5)
    one = select_gaussian_mixture(x[:3], held, key=jr.key(6)).mixture
    assert_close(one.means[0], np.mean(x[:3], axis=0), atol=1e-5)


def test_a_weight_is_a_point_repeated():
    p = ring(3, 0.3)
    x, held = p.sample(jr.key(7), 900), p.sample(jr.key(8), 200)
    weights = jnp.asarray(np.arange(900) % 3, x.dtype)  # every third does not count
    found = select_gaussian_mixture(x, held, key=jr.key(9), weights=weights)
    repeated = jnp.repeat(x, weights.astype("int32"), axis=0)
    assert len(repeated) == 900
    k = len(found.mixture.weights)
    same = fit_gaussian_mixture(
        repeated, k, key=jr.key(9), start=found.mixture, num_steps=1, floor=1e-3
    )
    other = fit_gaussian_mixture(
        x,
        k,
        key=jr.key(9),
        weights=weights,
        start=found.mixture,
        num_steps=1,
        floor=1e-3,
    )
    assert_close(same.means, other.means, atol=1e-5)
    without = select_gaussian_mixture(x[weights > 0], held, key=jr.key(9))
    assert abs(float(without.held_out - found.held_out)) < 0.1


def test_rounded_and_repeated_points_have_no_spikes():
    x = jnp.round(3 * jr.normal(jr.key(10), (3000, 2)))
    found = select_gaussian_mixture(x[300:], x[:300], key=jr.key(11)).mixture
    least = jnp.min(jnp.linalg.eigvalsh(found.covariances))
    assert float(least) > 0.9e-3 * float(jnp.mean(jnp.var(x, axis=0)))
    same = jnp.ones((200, 2))
    found = select_gaussian_mixture(same, same[:9], key=jr.key(12))
    assert np.isfinite(found.held_out)
    assert_close(found.mixture.means[0], [1.0, 1.0], atol=1e-5)


def test_columns_of_other_units_change_nothing_else():
    p = ring(6, 0.2)
    x, held = p.sample(jr.key(20), 2000), p.sample(jr.key(21), 500)
    units, origin = np.float32([1e-4, 512.0]), np.float32([3e-4, -100.0])
    found = select_gaussian_mixture(x, held, key=jr.key(22))
    moved, others = (np.asarray(points) * units + origin for points in (x, held))
    other = select_gaussian_mixture(moved, others, key=jr.key(22))
    expected = float(found.held_out) + np.sum(np.log(units))
    assert_close(other.held_out, expected, atol=5e-3)
    assert len(other.mixture.weights) == len(found.mixture.weights)


def test_of_many_points_some_are_taken(monkeypatch):
    p = ring(4, 0.2)
    x, held = p.sample(jr.key(13), 3000), p.sample(jr.key(14), 500)
    monkeypatch.setattr(model_selection, "_MOST_POINTS", 1000)
    few = select_gaussian_mixture(x, held, key=jr.key(15))
    same = select_gaussian_mixture(x[::3], held, key=jr.key(15))
    assert float(few.held_out) == float(same.held_out)


def test_dtype_and_determinism(x64):
    p = ring(4, 0.2)
    x, held = (np.asarray(p.sample(jr.key(k), 500), np.float64) for k in (16, 17))
    found, again = (select_gaussian_mixture(x, held, key=jr.key(18)) for _ in range(2))
    assert found.mixture.means.dtype == found.held_out.dtype == np.float64
    assert float(found.held_out) == float(again.held_out)


def test_bad_input_is_named(user_errors):
    x = jr.normal(jr.key(19), (50, 2))
    for wrong, message in (
        ((x[:, 0], x), "`x` must have shape"),
        ((x, x[:, :1]), "`held_out`"),
        ((x.at[3].set(jnp.nan), x), "`x`"),
        ((x, x[:0]), "`held_out`"),
    ):
        with pytest.raises(ValueError, match=message):
            select_gaussian_mixture(*wrong, key=jr.key(0))
    with pytest.raises(ValueError, match="`weights`"):
        select_gaussian_mixture(x, x, key=jr.key(0), weights=-jnp.ones(50))
    with pytest.raises(ValueError, match="within jit.*fit_gaussian_mixture"):
        jax.jit(lambda x: select_gaussian_mixture(x, x, key=jr.key(0)).held_out)(x)
