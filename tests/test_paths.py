import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close

from transportjax import flows

PATHS = {
    "linear": flows.linear_path,
    "linear, wide": functools.partial(flows.linear_path, sigma=0.3),
    "gaussian": functools.partial(flows.gaussian_path, sigma=0.2),
    "bridge": functools.partial(flows.bridge_path, sigma=0.5),
    "trigonometric": functools.partial(flows.trigonometric_path, sigma=0.1),
}
each_path = pytest.mark.parametrize("name", PATHS)


def ends(key, d=3):
    return jr.normal(key, (3, d))


@each_path
def test_velocity_is_the_derivative_of_the_path(name, key, x64):
    x0, x1, noise = ends(key)
    for t in (0.1, 0.5, 0.8):
        place, velocity = PATHS[name](x0, x1, jnp.asarray(t), noise)
        eps = 1e-5
        up, down = (
            PATHS[name](x0, x1, jnp.asarray(t + s), noise)[0] for s in (eps, -eps)
        )
        np.testing.assert_allclose(velocity, (up - down) / (2 * eps), atol=1e-8)
        _, slope = jax.jvp(
            lambda t: PATHS[name](x0, x1, t, noise)[0],
            (jnp.asarray(t),),
            (jnp.asarray(1.0),),
        )
        np.testing.assert_allclose(velocity, slope, atol=1e-12)
        assert place.shape == (3,)


@each_path
def test_paths_lead_from_noise_to_data(name, key):
    x0, x1, noise = ends(key)
    if name == "bridge":  # stops short of the ends
        noise = jnp.zeros_like(noise)
    start, _ = PATHS[name](x0, x1, jnp.asarray(0.0), noise)
    end, _ = PATHS[name](x0, x1, jnp.asarray(1.0), noise)
    around = {"linear, wide": 0.3, "trigonometric": 0.1}.get(name, 0.0)
    atol = 1e-2 if name == "bridge" else 1e-6
    np.testing.assert_allclose(start, x0 + around * noise, atol=atol)
    spread = 0.2 * x0 if name == "gaussian" else around * noise
    np.testing.assert_allclose(end, x1 + spread, atol=atol)


def test_the_bridge_has_a_finite_velocity_at_its_ends(key):
    x0, x1, noise = ends(key)
    for t in (0.0, 1.0):
        velocity = flows.bridge_path(x0, x1, jnp.asarray(t), noise)[1]
        assert jnp.all(jnp.isfinite(velocity))
        assert jnp.max(jnp.abs(velocity - (x1 - x0))) < 10


def test_variances_of_the_trigonometric_path(key):
    keys = jr.split(key, 2)
    x0, x1 = (jr.normal(k, (4000, 1)) for k in keys)
    for t in (0.2, 0.7):
        x, _ = jax.vmap(flows.trigonometric_path, (0, 0, None, 0))(
            x0, x1, jnp.asarray(t), x0
        )
        assert abs(float(jnp.var(x)) - 1) < 0.1


@each_path
def test_batches_hold_points_of_the_paths(name, key):
    x0, x1 = jr.normal(key, (7, 2)), 3 + jr.normal(jr.fold_in(key, 1), (7, 2))
    batch = flows.matching_batch(key, x0, x1, path=PATHS[name])
    assert batch.t.shape == (7,)
    assert jnp.all((batch.t >= 0) & (batch.t < 1))
    time_key, noise_key = jr.split(key)
    noise = jr.normal(noise_key, (7, 2))
    for i in range(7):
        x, velocity = PATHS[name](x0[i], x1[i], batch.t[i], noise[i])
        assert_close(batch.x[i], x)
        assert_close(batch.velocity[i], velocity)


def test_partners_choose_the_rows(key):
    x0, x1 = jr.normal(key, (4, 2)), jr.normal(jr.fold_in(key, 1), (6, 2))
    partners = jnp.array([5, 0, 0, 3])
    batch = flows.matching_batch(key, x0, x1, partners=partners)
    assert_close(batch.velocity, x1[partners] - x0)
    again = flows.matching_batch(key, x0, x1[partners])
    assert_close(batch.x, again.x)
    jitted = jax.jit(lambda p: flows.matching_batch(key, x0, x1, partners=p))(partners)
    assert_close(jitted.x, batch.x)


def test_dtypes(key, x64):
    x0 = jr.normal(key, (4, 2), "float32")
    batch = flows.matching_batch(key, x0, np.ones((4, 2), "uint8"))
    assert {a.dtype for a in batch} == {jnp.dtype("float64")}  # the default float
    wide = functools.partial(flows.bridge_path, sigma=jnp.float64(0.1))
    batch = flows.matching_batch(key, x0, x0.astype("float16"), path=wide)
    assert {a.dtype for a in batch} == {jnp.dtype("float32")}


def test_the_loss_is_the_mean_square(key):
    x0, x1 = jr.normal(key, (9, 2)), jr.normal(jr.fold_in(key, 1), (9, 2))
    batch = flows.matching_batch(key, x0, x1)

    def field(t, x):
        return t * x

    expected = np.mean((batch.t[:, None] * batch.x - batch.velocity) ** 2)
    assert_close(flows.matching_loss(field, batch), expected)


def test_bad_input(key, user_errors):
    x0, x1 = jr.normal(key, (4, 2)), jr.normal(key, (5, 2))
    with pytest.raises(ValueError, match="`x0` and `x1` must have equal shapes"):
        flows.matching_batch(key, x0, x1)
    with pytest.raises(ValueError, match="`x1` must have 2 columns"):
        flows.matching_batch(key, x0, x1[:, :1])
    with pytest.raises(ValueError, match=r"`partners` must be in 0, ..., 4; got"):
        flows.matching_batch(key, x0, x1, partners=[0, 1, 2, 5])
    with pytest.raises(ValueError, match="`partners` must be integers of shape"):
        flows.matching_batch(key, x0, x1, partners=[0, 1])
    batch = flows.matching_batch(key, x0, x1[1:])
    with pytest.raises(ValueError, match="`field` must return one velocity of shape"):
        flows.matching_loss(lambda t, x: t, batch)
    with pytest.raises(ValueError, match="`conditions` must have shape"):
        flows.matching_loss(lambda t, x: x, batch, jnp.ones((3, 1)))
    with pytest.raises(ValueError, match="`field` takes no condition"):
        flows.matching_loss(lambda t, x: x, batch, jnp.ones((4, 1)))
    with pytest.raises(ValueError, match="`path` must return a place and a velocity"):
        flows.matching_batch(key, x0, x0, path=lambda x0, x1, t, noise: x0)
    with pytest.raises(ValueError, match=r"both of shape \(2,\); got \[\(2,\), \(\)\]"):
        flows.matching_batch(key, x0, x0, path=lambda x0, x1, t, noise: (x0, t))
