import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, check_gradient

from transportjax.apps import flicker_curves as fc
from transportjax.apps.flicker_curves import (
    FrameLaw,
    block_curves,
    block_reliability,
    curve_at,
    find_cuts,
    flicker_curve,
)
from transportjax.onedim import wasserstein_1d

LEVELS = (np.arange(64, dtype=np.float32) + 0.5) / 64
NODES = np.linspace(0, 1, fc.NUM_NODES, dtype=np.float32)


def law(quantiles, thumbnails):
    none = np.zeros((len(quantiles), 0, 0, 64), np.float32)
    return FrameLaw(np.asarray(quantiles, np.float32), none, thumbnails)


@pytest.mark.parametrize(
    "light",
    [
        lambda q: 0.8 * q,
        lambda q: q**1.3,
        lambda q: q + 0.06 * np.sin(np.pi * q),
        lambda q: 0.9 * q + 0.05,
        lambda q: q,
    ],
)
def test_a_curve_undoes_a_known_change_of_light(light):
    quantiles = 0.1 + 0.8 * LEVELS
    curve = flicker_curve(light(quantiles), quantiles)
    moved = light(quantiles) + curve_at(curve, jnp.asarray(light(quantiles)))
    assert np.abs(moved - quantiles).max() < 0.003  # less than a step of 8 bits
    assert_close(jnp.mean(moved), np.mean(quantiles), atol=2e-4)
    half = flicker_curve(light(quantiles), quantiles, strength=0.5)
    assert_close(half, curve / 2, atol=1e-7)
    assert not np.asarray(flicker_curve(light(quantiles), quantiles, strength=0)).any()


def test_slopes_and_ends_are_limited():
    quantiles = np.sort(np.random.default_rng(0).uniform(0.4, 0.5, 64))
    for target in (np.sort(quantiles * 4 - 1.5), np.full(64, 0.45)):
        moved = NODES + flicker_curve(quantiles, target, max_slope=2)
        slopes = np.diff(moved) * (fc.NUM_NODES - 1)
        assert moved.min() >= 0
        assert moved.max() <= 1
        inside = (moved[1:] < 1) & (moved[:-1] > 0)
        assert slopes[inside].min() > 0.499
        assert slopes.max() < 2.001
    for name, value in (("strength", 1.1), ("max_slope", 0.9)):
        with pytest.raises(ValueError, match=name):
            flicker_curve(quantiles, quantiles, **{name: value})


def test_black_frames_and_atoms_stay():
    black = np.zeros(64, np.float32)
    assert not np.asarray(flicker_curve(black, black)).any()
    curve = flicker_curve(black, black + 0.1)  # a black frame among others
    assert_close(curve_at(curve, jnp.zeros(1)), np.float32([0.1]), atol=1e-6)


def test_gradients_against_finite_differences(x64):
    rng = np.random.default_rng(1)
    quantiles = np.sort(rng.uniform(0.2, 0.8, (2, 16)))
    targets = quantiles + 0.02 * np.sin(5 * quantiles)
    weights = rng.normal(size=(2, fc.NUM_NODES))

    def total(quantiles, targets, strength):
        curve = flicker_curve(quantiles, targets, strength=strength)
        return jnp.sum(curve * weights)

    check_gradient(total, quantiles, targets, np.array(0.7), rtol=1e-5)


def test_curves_work_under_jit_and_vmap():
    targets = np.stack([LEVELS * 0.9, LEVELS * 0.8 + 0.1])
    both = np.stack([LEVELS, LEVELS])
    rows = jax.vmap(flicker_curve)(both, targets)
    assert_close(rows, flicker_curve(both, targets), atol=1e-6)
    assert_close(jax.jit(flicker_curve)(both, targets), rows, atol=1e-6)


def scene(seed, shape=(16, 16)):
    return np.random.default_rng(seed).uniform(0.1, 0.9, shape).astype(np.float32)


def laws(frames):
    frames = np.asarray(frames, np.float32)
    flat = np.sort(frames.reshape(len(frames), -1), axis=1)
    return law(flat[:, 2::4], frames)


def test_cuts_are_found_and_light_is_none():
    gains = np.random.default_rng(2).uniform(0.6, 1.1, (20, 1, 1))
    flickering = np.stack([scene(0)] * 20) * gains
    assert find_cuts(laws(flickering)).tolist() == []
    fade = np.stack([scene(0)] * 20) * np.linspace(0.05, 1, 20)[:, None, None]
    assert find_cuts(laws(fade)).tolist() == []
    other = np.stack([0.7 * scene(1)] * 20) * gains
    assert find_cuts(laws(np.concatenate([flickering, other]))).tolist() == [20]
    black = np.concatenate([np.zeros((3, 16, 16)), flickering])
    assert find_cuts(laws(black)).tolist() == [3]
    flat = np.random.default_rng(3).uniform(size=(9, 1, 1)) * np.ones((9, 16, 16))
    assert find_cuts(laws(flat)).tolist() == []
    assert find_cuts(laws(flickering[:1])).tolist() == []
    with pytest.raises(ValueError, match="stack_laws"):
        find_cuts(FrameLaw(*(part[0] for part in laws(flickering))))
    with pytest.raises(ValueError, match="threshold"):
        find_cuts(laws(flickering), threshold=-1)


def test_content_changes_only_if_the_order_does():
    a, b = jnp.asarray(np.random.default_rng(4).uniform(size=(2, 64)), jnp.float32)
    assert_close(fc._content_change(a, a**2), np.float32(0), atol=1e-6)
    coupled, best = float(jnp.mean((a - b) ** 2)), float(wasserstein_1d(a, b))
    assert_close(fc._content_change(a, b), coupled - best, rtol=1e-4)


def test_blocks_that_move_follow_the_others():
    still = scene(5, (8, 8))
    frames = np.stack([still * gain for gain in (1, 0.8, 1, 0.9)]).astype(np.float32)
    frames[1:3, :4, :4] = [scene(6, (4, 4)), scene(7, (4, 4))]
    blocks = np.zeros((4, 3, 3, 64), np.float32)
    stacked = FrameLaw(np.zeros((4, 64), np.float32), blocks, frames)
    trust = np.asarray(block_reliability(stacked, []))
    assert trust.shape == (4, 3, 3)
    assert trust[1, 0, 0] < 0.1
    assert_close(trust[:, 2, 2], np.ones(4, np.float32), rtol=1e-4)
    cut = np.asarray(block_reliability(stacked, [1, 2, 3]))
    assert_close(cut, np.ones_like(cut))

    whole = (0.2 + 0.5 * LEVELS).astype(np.float32)
    own = np.broadcast_to(whole, (3, 3, 64))
    target = own + np.float32(0.1) * np.arange(3, dtype=np.float32)[None, :, None]
    one, two = FrameLaw(whole, own, still), FrameLaw(whole + 0.1, target, still)
    middle = np.abs(NODES - 0.45) < 0.2
    curves = np.asarray(block_curves(one, two, np.ones((3, 3), np.float32)))
    for column in range(3):
        expected = 0.1 * column + 0 * curves[:, column, middle]
        assert np.abs(curves[:, column, middle] - expected).max() < 0.01
    lost = np.asarray(block_curves(one, two, np.zeros((3, 3), np.float32)))
    assert np.abs(lost[..., middle] - 0.1).max() < 1e-5  # that of the whole
