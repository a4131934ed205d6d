import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close, images, images_and_log_dets, jacobians

from transportjax.flows import Flow
from transportjax.maps import Chain, SupportMap
from transportjax.solvers import level_map


def logistic_log_prob(map, x):
    """The log-density of what the inverse makes of independent logistic values."""
    z, log_det = map.transform_and_log_det(x)
    return jnp.sum(-jax.nn.softplus(z) - jax.nn.softplus(-z)) + log_det


@pytest.fixture(scope="module")
def law():
    """Shares of 16 levels in three coordinates: skew, with a gap, one level alone."""
    rng = np.random.default_rng(0)
    skew = rng.dirichlet(np.full(16, 0.5))
    gap = np.where(np.arange(16) < 8, 0, 1 / 8)
    alone = np.eye(16)[0]
    shares = np.stack([skew, gap, alone])
    values = np.stack([rng.choice(16, 4000, p=p) for p in shares], axis=1)
    return values, level_map(values, num_levels=16, prior=10.0)


def test_the_marginals_are_those_of_the_levels(law):
    values, map = law
    counts = np.stack([np.bincount(v, minlength=16) for v in values.T])
    common = (counts.sum(0) + 1) / (counts.sum() + 16)
    exact = (counts + 10 * common) / (4000 + 10)
    levels = np.stack([np.arange(16)] * 3, axis=1)
    log_prob = jax.jit(jax.vmap(lambda x: logistic_log_prob(map, x)))
    for place in (0.1, 0.5, 0.9):  # constant within a level
        found = log_prob(jnp.asarray(levels + place, "float32"))
        assert_close(found, np.log(exact).sum(axis=0), rtol=0, atol=0.02)
    image = images(map, jnp.asarray(values + 0.5, "float32"))
    assert bool(jnp.isfinite(image).all())


def test_levels_come_back_and_the_log_det_is_that_of_the_jacobian(law, key):
    values, map = law
    x = jnp.asarray(values[:50] + np.float32(0.3), "float32")
    z, log_det = images_and_log_dets(map, x)
    back, inverse_log_det = jax.jit(jax.vmap(map.inverse_and_log_det))(z)
    np.testing.assert_array_equal(np.floor(back), values[:50])
    assert_close(inverse_log_det, -log_det, atol=0.01)
    jacobian = jacobians(map, x)
    assert_close(jnp.linalg.slogdet(jacobian).logabsdet, log_det, atol=0.01)


def test_the_code_length_of_evenly_likely_levels_is_eight_bits(key):
    values = jr.randint(key, (5000, 4), 0, 256)
    map = level_map(values, prior=1e6)  # as good as even
    noise = jr.uniform(jr.fold_in(key, 2), (3000, 4))
    x = jr.randint(jr.fold_in(key, 1), (3000, 4), 0, 256).astype(float) + noise
    log_prob = jax.jit(jax.vmap(lambda x: logistic_log_prob(map, x)))(x)
    bits = -float(log_prob.mean()) / (4 * math.log(2))
    assert bits == pytest.approx(8, abs=0.02)
    # and by hand: what a law uniform on [0, 256)^4 assigns
    even = SupportMap(jnp.zeros(4), jnp.full(4, 256.0))
    log_prob = jax.jit(jax.vmap(lambda x: logistic_log_prob(even, x)))(x)
    assert_close(-log_prob / (4 * math.log(2)), np.full(3000, 8.0), rtol=1e-4)


def test_it_starts_a_flow(law):
    _, map = law
    flow = Flow(Chain((map,)), 3)
    x = flow.sample(jr.key(0), 200)
    assert bool(jnp.all((x > -0.1) & (x < 16.1)))
    assert bool(jnp.isfinite(jax.jit(jax.vmap(flow.log_prob))(x)).all())


@pytest.mark.parametrize(
    ("name", "source", "options"),
    [
        ("source", np.zeros((4, 2)), {}),
        ("source", np.zeros(4, int), {}),
        ("source", np.zeros((0, 2), int), {}),
        ("source", np.full((4, 2), 256), {}),
        ("source", np.full((4, 2), -1), {}),
        ("num_levels", np.zeros((4, 2), int), {"num_levels": 1}),
        ("prior", np.zeros((4, 2), int), {"prior": 0.0}),
    ],
)
def test_errors_name_the_argument(name, source, options, user_errors):
    with pytest.raises(ValueError, match=f"`{name}`"):
        level_map(source, **options)
