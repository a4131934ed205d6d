import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import assert_close, perturbed
from scipy.linalg import expm

from transportjax import flows, maps
from transportjax.solvers import minimise

MATRIX = np.array([[0.4, -0.9], [0.7, -0.2]])


class Linear(eqx.Module):
    """v(t, x) = A x."""

    matrix: jax.Array

    def __call__(self, t, x):
        return self.matrix @ x


def field(key, dim=2, num_conditions=0):
    made = maps.VelocityField.create(
        key, dim, num_conditions=num_conditions, width=8, depth=1
    )
    return perturbed(made, jr.fold_in(key, 1), 0.3)


def test_a_linear_field_gives_the_exponential(key, x64):
    map = maps.ContinuousMap(Linear(jnp.asarray(MATRIX)))
    y = jr.normal(key, (2,))
    x, log_det = map.inverse_and_log_det(y)
    np.testing.assert_allclose(x, expm(MATRIX) @ y, rtol=1e-10)
    np.testing.assert_allclose(log_det, np.trace(MATRIX), rtol=1e-12)
    back, log_det = map.transform_and_log_det(x)
    np.testing.assert_allclose(back, y, rtol=1e-10)
    np.testing.assert_allclose(log_det, -np.trace(MATRIX), rtol=1e-12)


def test_time_runs_from_noise_to_data(x64):
    # dx/dt = t and then cos(t): the integral from 0 to 1
    for rate, expected in ((lambda t: t**4, 0.2), (jnp.cos, np.sin(1))):
        map = maps.ContinuousMap(lambda t, x, rate=rate: x * 0 + rate(t), num_steps=4)
        np.testing.assert_allclose(map.inverse(jnp.zeros(1)), [expected], atol=1e-9)


def test_errors_fall_by_the_fifth_power_of_the_steps(key, x64):
    y = jr.normal(key, (2,))

    def error(num_steps):
        swirl = lambda t, x: jnp.stack([jnp.sin(x[1] + t), jnp.cos(3 * x[0])])  # noqa: E731
        exact = maps.ContinuousMap(swirl, num_steps=512).inverse(y)
        found = maps.ContinuousMap(swirl, num_steps=num_steps).inverse(y)
        return float(jnp.max(jnp.abs(found - exact)))

    assert 2**4 < error(8) / error(16) < 2**7


def test_diffrax_arrives_at_the_same_place(key, x64):
    diffrax = pytest.importorskip("diffrax")
    map = maps.ContinuousMap(field(key), num_steps=64)
    y = jr.normal(key, (2,))
    steps = diffrax.PIDController(rtol=1e-9, atol=1e-9)
    term = diffrax.ODETerm(lambda t, x, args: map.field(t, x))
    solution = diffrax.diffeqsolve(
        term, diffrax.Dopri8(), 0, 1, 0.1, y, stepsize_controller=steps
    )
    np.testing.assert_allclose(map.inverse(y), solution.ys[0], rtol=1e-7)


def test_a_divergence_from_signs_is_right_on_average(key, x64):
    velocity = field(key, 3)
    y = jr.normal(key, (3,))
    exact = maps.ContinuousMap(velocity, num_steps=8).inverse_and_log_det(y)

    def estimate(key):
        signs = jr.rademacher(key, (2, 3), "int8")
        return maps.ContinuousMap(velocity, signs, num_steps=8).inverse_and_log_det(y)

    num = 1000
    values, log_dets = jax.jit(jax.vmap(estimate))(jr.split(key, num))
    np.testing.assert_allclose(values[0], exact[0], rtol=1e-12)
    deviation = float(jnp.std(log_dets)) / num**0.5
    assert deviation > 0
    assert abs(float(jnp.mean(log_dets) - exact[1])) < 4 * deviation


def test_signs_are_not_trained(key):
    map = maps.ContinuousMap(field(key), jr.rademacher(key, (1, 2)))
    assert map.probes.dtype == jnp.int8
    assert not maps.trainable_leaves(map).probes


def test_trajectories_pass_where_the_map_leads(key):
    map = maps.ContinuousMap(field(key), num_steps=8)
    y = jr.normal(key, (2,))
    way = map.trajectory(y)
    assert way.shape == (9, 2)
    assert_close(way[0], y)
    assert_close(way[-1], map.inverse(y))


def test_the_density_integrates_to_one(key):
    # tails of the standard normal law, carried outwards by at most a factor of e
    map = maps.ContinuousMap(field(key, 1), num_steps=8)
    flow = flows.Flow(map, 1)
    grid = jnp.linspace(-15, 15, 3001)
    density = jnp.exp(jax.jit(jax.vmap(flow.log_prob))(grid[:, None]))
    assert abs(float(jnp.sum(density)) * 0.01 - 1) < 1e-3
    x, log_prob = flow.sample_and_log_prob(key, 5)
    assert_close(jax.vmap(flow.log_prob)(x), log_prob, 1e-4)


def test_conditions(key):
    velocity = field(key, 2, num_conditions=2)
    condition = jnp.array([1.0, -2.0])
    there = maps.given(velocity, condition)
    x = jnp.ones(2)
    assert jnp.any(there(0.3, x) != velocity(0.3, x))
    flow = flows.Flow(maps.ContinuousMap(velocity, num_steps=4), 2)
    direct = flows.Flow(maps.ContinuousMap(there, num_steps=4), 2)
    assert_close(flow.log_prob(x, condition), direct.log_prob(x))
    # in the loss, one a place
    batch = flows.matching_batch(key, jr.normal(key, (3, 2)), jnp.ones((3, 2)))
    conditions = jnp.stack([condition, 0 * condition, condition])
    loss = flows.matching_loss(velocity, batch, conditions)
    errors = [
        maps.given(velocity, c)(t, x) - v
        for c, t, x, v in zip(conditions, *batch, strict=True)
    ]
    assert_close(loss, np.mean(np.square(errors)))


def test_a_learned_field_is_the_mean_of_all_paths():
    """Flow matching on three points learns what `ideal_field` says."""
    data = jnp.array([[-2.0], [1.0], [2.0]])
    made = maps.VelocityField.create(jr.key(0), 1, width=32, depth=2)

    def loss(made, _, key):
        keys = jr.split(key, 3)
        x0 = jr.normal(keys[0], (256, 1))
        x1 = data[jr.randint(keys[1], (256,), 0, 3)]
        return flows.matching_loss(made, flows.matching_batch(keys[2], x0, x1))

    adam = optax.adam(optax.cosine_decay_schedule(1e-2, 600))
    made = minimise(
        loss, made, None, key=jr.key(1), num_steps=600, optimiser=adam
    ).model
    t, x = jnp.meshgrid(jnp.array([0.1, 0.3, 0.5]), jnp.linspace(-1.0, 1.0, 5))
    t, x = t.ravel(), x.reshape(-1, 1)
    ideal = jax.vmap(lambda t, x: flows.ideal_field(t, x, data))(t, x)
    error = jnp.mean((jax.vmap(made)(t, x) - ideal) ** 2)
    assert error < 0.05 * jnp.var(ideal), error


def test_the_ideal_field_is_a_mean_over_pairs(key, x64):
    """By Monte Carlo, among noise whose paths pass nearby."""
    data = jr.normal(key, (4, 1))
    keys = jr.split(key, 2)
    num, t, place = 400_000, 0.6, 0.3
    x0, x1 = jr.normal(keys[0], (num, 1)), data[jr.randint(keys[1], (num,), 0, 4)]
    near = jnp.abs((1 - t) * x0 + t * x1 - place) < 0.02
    mean = jnp.sum(jnp.where(near, x1 - x0, 0)) / jnp.sum(near, dtype=float)
    ideal = flows.ideal_field(t, jnp.array([place]), data)
    np.testing.assert_allclose(ideal, [mean], atol=0.05)


def test_the_ideal_field_leads_noise_onto_the_data(key):
    data = jr.normal(key, (5, 2))
    late = 0.999  # the field has no limit at one

    def velocity(t, x):
        return late * flows.ideal_field(late * t, x, data)

    noise = jr.normal(jr.fold_in(key, 1), (40, 2))
    map = maps.ContinuousMap(velocity, num_steps=200)
    ends = jax.jit(jax.vmap(map.inverse))(noise)
    gaps = jnp.min(jnp.linalg.norm(ends[:, None] - data[None], axis=-1), axis=1)
    assert jnp.mean(gaps < 0.02) > 0.9


def test_weights_of_the_ideal_field_are_repetitions(key):
    data = jr.normal(key, (3, 2))
    x = jnp.array([0.3, -0.2])
    weighted = flows.ideal_field(0.4, x, data, weights=jnp.array([2, 0, 1]))
    repeated = flows.ideal_field(0.4, x, data[jnp.array([0, 0, 2])])
    assert_close(weighted, repeated)
    slope = jax.grad(lambda w: flows.ideal_field(0.4, x, data, weights=w)[0])
    assert jnp.all(jnp.isfinite(slope(jnp.array([2.0, 0.0, 1.0]))))


def test_bad_input(key, user_errors):
    velocity = field(key)
    with pytest.raises(ValueError, match=r"`probes` must hold \+1 and -1"):
        maps.ContinuousMap(velocity, jnp.ones((2, 2)) / 2)
    with pytest.raises(ValueError, match=r"`probes` must have shape \(r, d\)"):
        maps.ContinuousMap(velocity, jnp.ones(2))
    with pytest.raises(ValueError, match="`num_steps` must be an integer"):
        maps.ContinuousMap(velocity, num_steps=0)
    with pytest.raises(ValueError, match="`x` must be one event of shape"):
        maps.ContinuousMap(lambda t, x: x)(jnp.ones((2, 2)))
    with pytest.raises(ValueError, match=r"`t` must be in \[0, 1\)"):
        flows.ideal_field(1.0, jnp.ones(2), jnp.ones((3, 2)))
    with pytest.raises(ValueError, match="`num_waves` must be an integer"):
        maps.VelocityField.create(key, 2, num_waves=-1)
    with pytest.raises(ValueError, match="`map` holds an object of type _Function"):
        maps.save("nowhere", maps.ContinuousMap(lambda t, x: x))
