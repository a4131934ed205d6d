import jax
import jax.numpy as jnp
import jax.random as jr
import jax.scipy.stats as jss
import numpy as np
import pytest
from helpers import assert_close
from problems import gaussian_cloud, ring_cloud

from transportjax.maps import load, save
from transportjax.solvers import gaussianise


def _log_density(solution, x):
    z, log_det = jax.vmap(solution.map.transform_and_log_det)(x)
    return jnp.sum(jss.norm.logpdf(z), axis=1) + log_det


def _normal_log_density(x, mean, cov):
    centred = np.asarray(x, float) - np.asarray(mean)
    mahalanobis = np.sum(centred * np.linalg.solve(cov, centred.T).T, axis=1)
    return -0.5 * (mahalanobis + np.linalg.slogdet(2 * np.pi * np.asarray(cov))[1])


@pytest.fixture(scope="module")
def fitted():
    return gaussianise(ring_cloud(jr.key(0), 2000, 2), key=jr.key(1), num_steps=60)


def test_new_points_become_normal(fitted):
    fresh = ring_cloud(jr.key(5), 2000, 2)
    z = np.asarray(jax.vmap(fitted.map)(fresh))
    assert np.abs(z.mean(0)).max() < 0.08
    assert np.abs(np.cov(z.T) - np.eye(2)).max() < 0.12
    angle = np.random.default_rng(0).uniform(0, np.pi, 20)
    line = np.sort(z @ np.stack([np.cos(angle), np.sin(angle)]), axis=0)
    normal = jss.norm.ppf((np.arange(2000) + 0.5) / 2000)
    assert np.sqrt(np.mean((line - np.asarray(normal)[:, None]) ** 2)) < 0.12


def test_the_density_holds_on_new_points(fitted):
    # the law: a uniform angle, a radius of N(2, 0.2^2); density 1 / (2 pi r) N(r)
    fresh = ring_cloud(jr.key(6), 2000, 2)
    radius = jnp.linalg.norm(fresh, axis=1)
    exact = jss.norm.logpdf(radius, 2.0, 0.2) - jnp.log(2 * jnp.pi * radius)
    estimate = _log_density(fitted, fresh)
    gaussian = _normal_log_density(fresh, np.mean(fresh, 0), np.cov(fresh.T))
    gap = float(exact.mean() - estimate.mean())
    assert -0.02 < gap < 0.25
    assert gap < 0.3 * float(exact.mean() - gaussian.mean())


def test_the_density_integrates_to_one(fitted):
    side = np.linspace(-4.5, 4.5, 301)
    grid = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    density = np.exp(np.asarray(_log_density(fitted, jnp.asarray(grid, "float32"))))
    assert density.sum() * (side[1] - side[0]) ** 2 == pytest.approx(1, abs=0.01)


def test_it_inverts_and_is_saved(fitted, tmp_path):
    z = jr.normal(jr.key(7), (100, 2))
    x = jax.vmap(fitted.map.inverse)(z)
    assert_close(jax.vmap(fitted.map)(x), z, atol=2e-3)
    save(tmp_path / "flow", fitted.map)
    assert_close(jax.vmap(load(tmp_path / "flow"))(x), jax.vmap(fitted.map)(x), rtol=0)


def test_normal_samples_hardly_move():
    x = gaussian_cloud(jr.key(0), 5000, [1.0, 2.0], [[2.0, 0.5], [0.5, 1.0]])
    solution = gaussianise(x, key=jr.key(1), num_steps=20)
    moments = [1.0, 2.0], [[2.0, 0.5], [0.5, 1.0]]
    fresh = gaussian_cloud(jr.key(2), 5000, *moments)
    gap = _normal_log_density(fresh, *moments) - _log_density(solution, fresh)
    assert abs(float(gap.mean())) < 0.03


def test_weights_ties_and_gradients():
    x = ring_cloud(jr.key(0), 300, 2)
    doubled = jnp.concatenate([x, x])
    plain = gaussianise(x, key=jr.key(1), num_steps=3, weights=jnp.full(300, 2.0))
    assert bool(jnp.all(jnp.isfinite(plain.points)))
    tied = gaussianise(jnp.round(doubled), key=jr.key(1), num_steps=3)
    assert bool(jnp.all(jnp.isfinite(tied.points)))

    def loss(map):
        z, log_det = jax.vmap(map.transform_and_log_det)(x)
        return jnp.mean(0.5 * jnp.sum(z**2, axis=1) - log_det)

    gradient = jax.grad(loss)(plain.map)
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(gradient))


def test_bad_input_is_named(user_errors):
    x = ring_cloud(jr.key(0), 30, 2)
    flat = x.at[:, 1].set(0.0)
    cases = [
        ("`source`", jnp.ones(3), {}),
        ("NaN", x.at[0, 0].set(jnp.nan), {}),
        ("`source`", flat, {}),
        ("`source`", x[:2], {}),
        ("`num_knots`", x, {"num_knots": 2}),
        ("`bandwidth`", x, {"bandwidth": 0.0}),
        ("`step_size`", x, {"step_size": 2.0}),
        ("`weights`", x, {"weights": -jnp.ones(30)}),
    ]
    for match, source, more in cases:
        with pytest.raises(ValueError, match=match):
            gaussianise(source, key=jr.key(0), **more)
