import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, check_gradient

from transportjax.apps.flicker_averages import steady_quantiles
from transportjax.onedim import wasserstein_1d

LEVELS = (np.arange(64, dtype=np.float32) + 0.5) / 64


def test_lines_in_time_are_kept_at_the_ends_too():
    times = np.arange(30, dtype=np.float32)[:, None]
    fade = (0.1 + 0.02 * times) * LEVELS
    assert_close(steady_quantiles(fade, window=17, cuts=[]), fade, atol=1e-6)
    both = np.concatenate([fade, 1 - fade[:, ::-1]])
    assert_close(steady_quantiles(both, window=17, cuts=[30]), both, atol=1e-6)
    blurred = np.asarray(steady_quantiles(both, window=17, cuts=[]))
    assert np.abs(blurred - both)[28:32].max() > 0.05


def test_the_average_is_the_barycentre_of_the_frames():
    """In the middle of a symmetric window: no other law is nearer to all in W_2^2."""
    rng = np.random.default_rng(0)
    quantiles = np.sort(rng.uniform(size=(9, 64)).astype(np.float32), axis=1)
    weights = np.exp(-8 * (np.arange(-4, 5) / 9) ** 2)
    mean = steady_quantiles(quantiles, window=9, cuts=[])[4]
    assert_close(mean, weights @ quantiles / weights.sum(), rtol=1e-5)

    def cost(q):
        costs = wasserstein_1d(jnp.broadcast_to(q, (9, 64)), jnp.asarray(quantiles))
        return float(jnp.sum(jnp.asarray(weights, q.dtype) * costs))

    for other in (mean + 0.01, 0.98 * mean + 0.01, mean**1.05):
        assert cost(other) > cost(mean)


def test_one_two_and_equal_frames():
    one = LEVELS[None]
    assert_close(steady_quantiles(one, window=17, cuts=[]), one)
    two = np.stack([LEVELS, LEVELS / 2])
    assert_close(steady_quantiles(two, window=17, cuts=[]), two, atol=1e-6)
    same = np.repeat(one, 20, axis=0)
    assert_close(steady_quantiles(same, window=17, cuts=[7]), same, rtol=1e-5)
    for cuts in (np.array([20]), [-1], np.array([0.5]), np.array([[1]])):
        with pytest.raises(ValueError, match="cuts"):
            steady_quantiles(same, window=17, cuts=cuts)
    with pytest.raises(ValueError, match="window"):
        steady_quantiles(same, window=0.5, cuts=[])


def test_a_drift_that_bends_is_kept_and_flicker_is_not():
    """The law glides from one to another, 100 frames long, within 20 of them."""
    times = np.arange(100, dtype=np.float32)[:, None]
    glide = (0.3 + 0.4 / (1 + np.exp((50 - times) / 4))) * LEVELS
    off = np.abs(np.asarray(steady_quantiles(glide, window=17, cuts=[])) - glide).max()
    assert off < 0.006  # by lines alone 0.014
    noise = np.random.default_rng(0).normal(size=(100, 1)).astype(np.float32)
    rough = {}
    for name, drift in (("still", 0.5 * LEVELS + 0.2), ("glide", glide)):
        frames = drift * (1 + 0.1 * noise)
        steady = np.asarray(steady_quantiles(frames, window=17, cuts=[]))
        second = [np.diff(x.mean(axis=1), 2).std() for x in (frames, steady)]
        rough[name] = second[1] / second[0]
    assert rough["still"] < 0.016
    assert rough["glide"] < 0.02


def test_gradients_against_finite_differences(x64):
    rng = np.random.default_rng(1)
    frames = np.sort(rng.uniform(0.2, 0.8, (6, 8)), axis=1)
    mix = rng.normal(size=frames.shape)
    check_gradient(
        lambda q: jnp.sum(steady_quantiles(q, window=5, cuts=[4]) * mix), frames
    )
