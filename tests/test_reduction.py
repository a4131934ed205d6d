import numpy as np
import pytest

from transportjax.apps.reduction import map_distinct, sample_colours


def _picture(shape=(60, 80, 3), seed=0):
    rng = np.random.default_rng(seed)
    return (rng.beta(2, 5, shape) * 255).astype(np.uint8)


def test_a_sample_has_the_law_of_the_picture():
    pixels = _picture((300, 400, 3))
    flat = pixels.reshape(-1, 3).astype(float)
    sample = sample_colours(pixels, 4096).astype(float)
    rng = np.random.default_rng(1)
    random = [flat[rng.choice(len(flat), 4096)] for _ in range(9)]

    def distance(a):
        levels = np.linspace(0.01, 0.99, 99)
        difference = np.quantile(a, levels, axis=0) - np.quantile(flat, levels, axis=0)
        return np.sqrt((difference**2).mean())

    assert distance(sample) < 0.75 * np.median([distance(a) for a in random])
    assert np.abs(sample.mean(0) - flat.mean(0)).max() < 0.3


def test_every_colour_of_a_sample_is_one_of_the_picture():
    for pixels in (_picture(), _picture((50, 40, 1)), _picture().astype(np.float32)):
        sample = sample_colours(pixels, 1000)
        assert sample.dtype == pixels.dtype
        assert sample.shape == (1000, pixels.shape[-1])
        have = {tuple(c) for c in pixels.reshape(-1, pixels.shape[-1])}
        assert {tuple(c) for c in sample} <= have


def test_all_pixels_are_taken_when_as_many_are_asked_for():
    pixels = _picture((20, 30, 3))
    sample = sample_colours(pixels, 600)
    assert sorted(map(tuple, sample)) == sorted(map(tuple, pixels.reshape(-1, 3)))


def test_sixteen_bit_and_float_pictures_keep_their_values():
    rng = np.random.default_rng(3)
    deep = rng.integers(0, 65536, (40, 50, 3), dtype=np.uint16)
    sample = sample_colours(deep, 2000)
    assert sorted(map(tuple, sample)) == sorted(map(tuple, deep.reshape(-1, 3)))


def test_masks_and_nan_are_left_out():
    pixels = _picture().astype(np.float32)
    pixels[:30] = 300
    mask = np.zeros((60, 80), bool)
    mask[30:] = True
    pixels[45, 3] = np.nan
    sample = sample_colours(pixels, 500, mask=mask)
    assert np.isfinite(sample).all()
    assert sample.max() < 256
    with pytest.raises(ValueError, match="mask"):
        sample_colours(pixels, 500, mask=np.zeros((60, 80), bool))


def test_the_seed_alone_decides():
    pixels = _picture()
    same = sample_colours(pixels, 100, seed=4), sample_colours(pixels, 100, seed=4)
    assert (same[0] == same[1]).all()
    assert (sample_colours(pixels, 100, seed=5) != same[0]).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_function_of_colour_is_applied_exactly(channels):
    pixels = _picture((70, 90, channels))

    def function(colours):
        assert len(np.unique(colours, axis=0)) == len(colours)
        return 255 - colours[:, ::-1] // 3

    flat = pixels.reshape(-1, channels)
    expected = (255 - flat[:, ::-1] // 3).reshape(pixels.shape)
    assert (map_distinct(function, pixels) == expected).all()
