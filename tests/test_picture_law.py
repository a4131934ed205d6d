"""Laws of small pictures, and the noise within their levels."""

import itertools

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import images, images_and_log_dets, preimages

from transportjax.apps import (
    fit_picture_law,
    load_picture_law,
    picture_log_likelihood,
    sample_pictures,
    save_picture_law,
)
from transportjax.apps.picture_flow import _patches
from transportjax.apps.picture_noise import no_neighbours, normal_law, with_noise
from transportjax.maps import Affine, ModelFileError, save
from transportjax.solvers import level_map


def bars(num, seed=0):
    """Rows that are all dark or all bright, the last one always dark: 2^3 pictures."""
    lit = np.random.default_rng(seed).random((num, 4)) < 0.5
    lit[:, 3] = False
    values = np.where(lit, 200, 10).astype(np.uint8)
    return np.repeat(values[:, :, None], 4, axis=2)


@pytest.fixture(scope="module")
def law():
    return fit_picture_law(bars(1500), num_steps=8)


def test_samples_are_like_the_pictures(law):
    assert law.scores["the flow"] >= law.scores["a normal law"]
    samples = sample_pictures(law, 400)
    assert (samples.shape, samples.dtype) == ((400, 4, 4), np.uint8)
    assert (samples[:, 3] == 10).all()
    lit = samples[:, :3] > 100
    whole = lit.all(axis=2) | ~lit.any(axis=2)
    assert whole.mean() > 0.5  # of independent pixels, one in eight
    np.testing.assert_allclose(lit.mean(axis=(0, 2)), 0.5, atol=0.1)
    np.testing.assert_array_equal(samples, sample_pictures(law, 400))
    assert (samples != sample_pictures(law, 400, seed=1)).any()


def test_likelihoods(law):
    """The pictures have 3 bits each; none of another kind is as likely."""
    scores = picture_log_likelihood(law, bars(500, seed=1))
    assert scores.shape == (500,)
    assert -5 < scores.mean() < -3 * np.log(2)
    turned = bars(500, seed=1).swapaxes(1, 2)
    assert picture_log_likelihood(law, turned).mean() < scores.mean() - 15
    held = law.scores["the flow"]
    assert abs(scores.mean() - held) < 1
    assert law.bits(scores.mean()) == pytest.approx(-scores.mean() / 16 / np.log(2))


def test_noise_is_a_law_within_the_level():
    """Its density has mass one, and is what the quantiles say."""
    x = bars(300)[:, :2, :2].reshape(300, 4).astype(np.int32) // 100
    levels = level_map(x, num_levels=4)
    uniform = no_neighbours(4)
    z, log_q = with_noise(levels, uniform, jnp.asarray(x, "float32"), jr.key(0))
    # uniform between the levels: its density is that of the map
    noisy = preimages(levels, z)
    np.testing.assert_array_equal(np.floor(noisy), x)
    slopes = images_and_log_dets(levels, noisy)[1]
    np.testing.assert_allclose(log_q, -slopes, atol=2e-3)
    law = normal_law(np.asarray(z))
    same = jnp.tile(jnp.asarray(x[:1], "float32"), (40_000, 1))
    z, log_q = with_noise(levels, law, same, jr.key(1))
    low, high = np.asarray(levels(same[0])), np.asarray(levels(same[0] + 1))
    assert (np.asarray(z) >= low).all()
    assert (np.asarray(z) <= high).all()
    # E[1 / q] is the volume of the box
    volume = float(np.prod(high - low))
    found = np.exp(-np.asarray(log_q, np.float64))
    assert abs(found.mean() - volume) < 5 * found.std() / 200


def test_the_noise_is_worth_its_while():
    """A bound with noise that follows the neighbours is closer than with any."""
    data = bars(2000).reshape(2000, 16)
    levels = level_map(data.astype(np.int32))
    x = jnp.asarray(data, "float32")
    bounds, law = [], no_neighbours(16)
    for turn in range(2):
        z, log_q = with_noise(levels, law, x, jr.key(turn))
        law = normal_law(np.asarray(z))
        standard, log_dets = images_and_log_dets(law, z)
        normal = -jnp.sum(standard**2, axis=1) / 2 - 8 * np.log(2 * np.pi)
        bounds.append(float(jnp.mean(normal + log_dets - log_q)))
    assert bounds[1] > bounds[0] + 0.7


def test_normal_law_of_few_points():
    z = np.random.default_rng(0).normal(2, 3, (20, 50)).astype(np.float32)
    law = normal_law(z)
    assert np.isfinite(law.matrix).all()
    np.testing.assert_allclose(images(law, z).mean(axis=0), 0, atol=1e-4)
    many = np.random.default_rng(0).normal(size=(20_000, 3)) @ np.diag([1, 2, 3.0])
    many[:, 1] += many[:, 0]
    moved = images(normal_law(many.astype(np.float32)), many.astype(np.float32))
    np.testing.assert_allclose(np.cov(moved.T), np.eye(3), atol=0.02)


def test_sixteen_bits_colours_and_few_pictures():
    rng = np.random.default_rng(0)
    shade = rng.integers(0, 60_000, (40, 1, 1, 1))
    pictures = np.tile(shade, (1, 2, 2, 3)) + rng.integers(0, 5000, 3)
    law = fit_picture_law(pictures.astype(np.uint16), num_steps=2)
    samples = sample_pictures(law, 30)
    assert (samples.dtype, samples.shape) == (np.uint16, (30, 2, 2, 3))
    assert (samples >= law.low).all()
    assert (samples <= law.high).all()
    scores = picture_log_likelihood(law, pictures)
    assert scores.mean() > -12 * np.log(65536)  # better than all levels alike


def test_saved_and_foreign(law, tmp_path):
    save_picture_law(tmp_path / "law.tjx", law)
    again = load_picture_law(tmp_path / "law.tjx")
    np.testing.assert_array_equal(sample_pictures(law, 9), sample_pictures(again, 9))
    np.testing.assert_array_equal(
        picture_log_likelihood(law, bars(9)), picture_log_likelihood(again, bars(9))
    )
    save(tmp_path / "map.tjx", Affine(np.eye(2, dtype="f4"), np.zeros(2, "f4")))
    with pytest.raises(ModelFileError, match="not a law of pictures"):
        load_picture_law(tmp_path / "map.tjx")


def test_patches_divide_every_picture():
    assert _patches((28, 28)) == ((4, 4), (2, 2))
    for height, width in itertools.product((1, 2, 6, 13, 17), repeat=2):
        for a, b in _patches((height, width)):
            assert height % a == 0
            assert width % b == 0
            assert a * b > 1 or height * width == 1
    assert set(_patches((17, 17))) == {(17, 1), (1, 17)}


@pytest.mark.parametrize(
    ("words", "pictures"),
    [
        ("must be (n, h, w)", np.zeros((20, 4))),
        ("one or three channels", np.zeros((20, 3, 8, 8))),
        ("must hold whole numbers", np.full((20, 2, 2), 0.5)),
        ("must hold whole numbers", np.full((20, 2, 2), np.nan)),
        ("must be in 0, ..., 65535", np.full((20, 2, 2), -1)),
        ("at least 10; got 1", np.zeros((1, 2, 2), np.uint8)),
        ("all pictures are equal", np.ones((20, 2, 2), np.uint8)),
        ("at most 1024 values", np.zeros((20, 33, 32), np.uint8)),
    ],
)
def test_errors(words, pictures):
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")):
        fit_picture_law(pictures)


def test_errors_of_other_pictures(law):
    with pytest.raises(ValueError, match="4 x 4; got 4 x 5"):
        picture_log_likelihood(law, np.zeros((3, 4, 5), np.uint8))
    with pytest.raises(ValueError, match="must have 8 bits"):
        picture_log_likelihood(law, np.zeros((3, 4, 4), np.uint16))
