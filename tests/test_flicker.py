import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close

import transportjax as tj
from transportjax.apps.flicker import (
    frame_curve,
    frame_law,
    luma_change,
    stack_laws,
    steady_frame,
    steady_law,
)
from transportjax.apps.flicker_curves import flicker_curve
from transportjax.apps.picture import to_unit

LUMA = np.array([0.2126, 0.7152, 0.0722])
NUM = 24


def scene(seed=0, shape=(72, 96)):
    """Smooth colours between 0.1 and 0.8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]] / shape[0]
    waves = [np.sin(a * x + b * y + c) for a, b, c in rng.uniform(2, 9, (3, 3))]
    return 0.45 + 0.3 * np.stack(waves, -1) + 0.05 * rng.uniform(-1, 1, (*shape, 1))


def random(seed=1, low=0.8, high=1.2):
    return np.random.default_rng(seed).uniform(low, high, (NUM, 1, 1, 1))


def bytes_of(frames):
    return np.clip(np.rint(255 * frames), 0, 255).astype(np.uint8)


def means(frames):
    return (to_unit(np.asarray(frames)) @ LUMA).mean((1, 2))


def roughness(frames):
    """Flicker in 8-bit steps: how far means are from lines through their neighbours."""
    return 255 * np.sqrt(np.mean(np.diff(means(frames), 2) ** 2) / 6)


LIGHTS = {
    "gain": lambda x, a: x * a,
    "gamma": lambda x, a: x**a,
    "bend": lambda x, a: x + 0.5 * (a - 1) * np.sin(np.pi * x),
    "lift": lambda x, a: x + 0.4 * (a - 1) * (1 - x),
}


@pytest.mark.parametrize("name", LIGHTS)
def test_made_up_flicker_of_a_still_scene_is_undone(name):
    still = scene()[None].repeat(NUM, axis=0)
    flickering = bytes_of(LIGHTS[name](still, random()))
    steady = tj.deflicker(flickering)
    assert steady.dtype == np.uint8
    assert roughness(flickering) > 5
    assert roughness(steady) < 0.25
    # every pixel of every frame, next to the frame before: what rounding leaves
    before, after = (
        np.abs(np.diff(clip.astype(int), axis=0)).mean()
        for clip in (flickering, steady)
    )
    assert before > 6
    assert after < 0.15 * before


def test_the_light_that_is_left_is_the_average():
    still = scene()[None].repeat(NUM, axis=0)
    gains = np.where(np.arange(NUM) % 2, 1.15, 0.85)[:, None, None, None]
    steady = tj.deflicker(bytes_of(still * gains))[6:-6]
    # colours that a gain of 1.15 has clipped are off by more
    assert np.abs(to_unit(steady) - still[6:-6]).mean() < 0.006


def test_hue_and_saturation_stay():
    still = scene()[None].repeat(NUM, axis=0)
    steady = to_unit(tj.deflicker(bytes_of(still * random(low=0.9, high=1.1))))
    shares = steady / steady.sum(-1, keepdims=True)
    expected = still / still.sum(-1, keepdims=True)
    assert np.abs(shares - expected).mean() < 0.004


def test_no_value_leaves_the_range_and_greys_stay_grey():
    rng = np.random.default_rng(0)
    frame = rng.uniform(size=(20, 30, 3))
    frame[0, 0], frame[0, 1], frame[1] = 0, 1, frame[1, :, :1]
    for gain in (0.7, 1.4):
        law, target = frame_law(frame), frame_law((frame * gain).clip(0, 1))
        curve = flicker_curve(law.whole, target.whole)
        moved = steady_frame(frame, curve)
        assert moved.min() >= 0
        assert moved.max() <= 1
        assert np.ptp(moved[1], axis=-1).max() < 1e-6
        assert abs(moved.mean() - (frame * gain).clip(0, 1).mean()) < 0.02


def test_fades_pans_and_still_clips_stay():
    fade = scene()[None] * np.linspace(0, 1, NUM)[:, None, None, None]
    assert np.abs(tj.deflicker(fade) - fade).max() < 0.02
    assert np.abs(tj.deflicker(fade) - fade).mean() < 0.002
    wide = scene(shape=(72, 240))
    pan = np.stack([wide[:, 2 * i : 2 * i + 96] for i in range(NUM)])
    assert np.abs(tj.deflicker(pan) - pan).mean() < 0.004
    still = bytes_of(scene())[None].repeat(NUM, axis=0)
    assert np.abs(tj.deflicker(still).astype(int) - still).max() <= 1


def test_cuts_are_respected():
    dark, bright = 0.5 * scene(0), 0.2 + 0.9 * scene(1)
    clip = np.concatenate([[dark] * 12, [bright] * 12])
    flickering = clip * random(low=0.93, high=1.07)
    for cuts in (None, [12]):
        steady = means(tj.deflicker(flickering, cuts=cuts))
        assert np.ptp(steady[:12]) < 0.3 * np.ptp(means(flickering)[:12])
        assert abs(steady[12] - steady[11]) > 0.9 * np.ptp(means(clip))
    blurred = means(tj.deflicker(flickering, cuts=[]))
    assert abs(blurred[12] - blurred[11]) < 0.3 * np.ptp(means(clip))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
@pytest.mark.parametrize("local", [False, True])
def test_strength_zero_is_the_identity_bit_for_bit(dtype, local):
    rng = np.random.default_rng(0)
    clip = rng.uniform(size=(5, 40, 50, 4))
    if dtype.startswith("u"):
        clip = (clip * np.iinfo(dtype).max).astype(dtype)
    out = tj.deflicker(clip.astype(dtype), strength=0, local=local)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, clip.astype(dtype))


def test_kinds_of_frames():
    clip = scene()[None] * random()
    whole = tj.deflicker(clip)
    alpha = np.random.default_rng(0).uniform(size=(*clip.shape[:3], 1))
    out = tj.deflicker(np.concatenate([clip, alpha], -1))
    assert_close(out[..., :3], whole, atol=1e-6)
    np.testing.assert_array_equal(out[..., 3:], alpha)
    deep = tj.deflicker(np.rint(clip.clip(0, 1) * 65535).astype(np.uint16))
    assert deep.dtype == np.uint16
    assert np.abs(deep / 65535 - whole.clip(0, 1)).mean() < 1e-3
    grey = tj.deflicker(clip[..., 1])
    assert grey.shape == clip.shape[:3]
    assert_close(tj.deflicker(clip[..., 1:2])[..., 0], grey)
    repeated = tj.deflicker(np.repeat(clip[..., 1:2], 3, axis=-1))
    assert_close(repeated, np.repeat(grey[..., None], 3, -1), atol=2e-3)
    array = tj.deflicker(jnp.asarray(clip, jnp.float32))
    assert isinstance(array, jnp.ndarray)


def test_one_frame_two_frames_black_frames():
    still = bytes_of(scene())
    np.testing.assert_array_equal(tj.deflicker(still[None]), still[None])
    two = np.stack([still, still // 2])
    assert np.abs(tj.deflicker(two).astype(int) - two).max() <= 1  # a line fits both
    for local in (False, True):
        black = np.zeros((5, 20, 30, 3), np.uint8)
        np.testing.assert_array_equal(tj.deflicker(black, local=local), black)
        tiny = np.full((6, 1, 2, 3), 7, np.uint8)
        np.testing.assert_array_equal(tj.deflicker(tiny, local=local), tiny)


def test_nan_stays_and_does_not_count():
    clip = scene()[None] * random()
    holed = clip.copy()
    holed[:, :5, :5] = np.nan
    out = tj.deflicker(holed)
    assert np.isnan(out[:, :5, :5]).all()
    assert_close(out[:, 5:], tj.deflicker(clip)[:, 5:], atol=5e-3)


def test_a_mask_says_where_to_learn():
    clip = np.zeros((NUM, 100, 96, 3))
    clip[:, 14:86] = scene()[None] * random()  # between black bars
    noise = np.random.default_rng(3).uniform(size=(NUM, 1, 1, 1))
    clip[:, :14] = noise * scene(2)[:14]  # something that blinks
    mask = np.zeros((100, 96), bool)
    mask[14:86] = True
    steady = tj.deflicker(clip, mask=mask)
    inside = steady[:, 14:86]
    assert roughness(inside) < 0.1 * roughness(clip[:, 14:86])
    assert roughness(tj.deflicker(clip)[:, 14:86]) > 3 * roughness(inside)
    soft = mask.astype(np.float32)
    np.testing.assert_array_equal(steady, tj.deflicker(clip, mask=soft))


def test_local_flicker_needs_the_local_variant():
    ramp = np.linspace(-1, 1, 96)[None, None, :, None]
    still = scene()[None].repeat(NUM, axis=0)
    flickering = bytes_of(still * (1 + (random() - 1) * ramp))
    parts = [slice(0, 24), slice(72, 96)]

    def rough(clip):
        return np.mean([roughness(clip[:, :, part]) for part in parts])

    whole, local = (tj.deflicker(flickering, local=v) for v in (False, True))
    assert rough(flickering) > 5
    assert rough(whole) > 0.8 * rough(flickering)
    assert rough(local) < 0.2 * rough(flickering)
    gains = bytes_of(still * random())  # and does no harm to light of the whole
    assert roughness(tj.deflicker(gains, local=True)) < 0.3


def test_frames_one_at_a_time_are_the_array():
    clip = bytes_of(scene()[None] * random())
    for local, cells in ((False, None), (True, (6, 8))):
        law = stack_laws(frame_law(frame, cells=cells) for frame in clip)
        steady = steady_law(law, window=9)
        out = [
            steady_frame(frame, frame_curve(steady, number, strength=0.5))
            for number, frame in enumerate(clip)
        ]
        expected = tj.deflicker(clip, window=9, strength=0.5, local=local)
        np.testing.assert_array_equal(np.stack(out), expected)


def test_blocks_are_blended_bilinearly():
    curve = np.zeros((3, 5, 129), np.float32)
    curve += np.arange(3)[:, None, None] + 10 * np.arange(5)[None, :, None]
    codes = np.random.default_rng(0).integers(0, 256, (45, 64))
    moved = luma_change(codes, 256, curve)
    y, x = np.mgrid[:45, :64]
    expected = (y + 0.5) / 45 * 2 + 10 * ((x + 0.5) / 64 * 4)
    # a cell begins at a whole pixel
    assert np.abs(moved - expected).max() < 0.06


@pytest.mark.parametrize(
    ("words", "frames", "options"),
    [
        ("`frames` must be a clip", np.zeros((4, 5)), {}),
        ("must not be empty", np.zeros((0, 4, 5, 3)), {}),
        ("1 to 4 channels", np.zeros((2, 4, 5, 6)), {}),
        ("uint8, uint16 or float", np.zeros((2, 4, 5, 3), np.int32), {}),
        ("strength", np.zeros((2, 4, 5, 3)), {"strength": 2.0}),
        ("window", np.zeros((2, 4, 5, 3)), {"window": 0.0}),
        ("max_slope", np.zeros((2, 4, 5, 3)), {"max_slope": 0.5}),
        ("cuts", np.zeros((2, 4, 5, 3)), {"cuts": [2]}),
        ("mask", np.zeros((2, 4, 5, 3)), {"mask": np.ones((5, 4))}),
        ("no pixel", np.zeros((2, 4, 5, 3)), {"mask": np.zeros((4, 5))}),
        ("no pixel", np.full((2, 4, 5, 3), np.nan), {}),
    ],
)
def test_errors_say_what_is_wrong(words, frames, options):
    with pytest.raises(ValueError, match=words):
        tj.deflicker(frames, **options)
