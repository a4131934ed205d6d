import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from transportjax.apps.colour_map import ColourMap, apply_colour_map
from transportjax.apps.frame_grading import frame_grader
from transportjax.apps.lut import bake
from transportjax.maps import MonotoneLinear, SlicedMap


def steep(channels=3):
    """A map of colours that jumps at 0.4 in each channel."""
    x = jnp.tile(jnp.array([0.0, 0.4, 0.401, 1.0]), (channels, 1))
    y = jnp.tile(jnp.array([0.1, 0.3, 0.7, 0.9]), (channels, 1))
    curves = jax.vmap(MonotoneLinear.from_knots)(x, y)
    layer = SlicedMap(jnp.eye(channels)[::-1], curves)
    return ColourMap(layer, jnp.asarray(0.8), "rgb" if channels == 3 else "grey")


def frames(dtype, channels=3):
    """Three frames, which share some colours."""
    top = np.iinfo(dtype).max
    size = (3, 9, 7, channels)
    pixels = np.random.default_rng(0).integers(0, top, size, dtype, endpoint=True)
    pixels[1:, :4] = pixels[0, :4]
    pixels[2, 8] = (np.array([0, 0.4, 1]) * top).astype(dtype)[:channels]
    return pixels


@pytest.mark.parametrize("kind", ["map", "table"])
def test_frames_of_8_bits_are_graded_bit_for_bit(kind):
    fitted = steep() if kind == "map" else bake(lambda x: x[:, ::-1] ** 2, 9)
    mask = np.linspace(0, 1, 63).reshape(9, 7)
    grade = frame_grader(fitted, mask=mask)
    for frame in frames(np.uint8):
        expected = apply_colour_map(fitted, frame, mask=mask)
        np.testing.assert_array_equal(grade(frame), expected)


def test_deep_frames_lie_between_the_8_bit_colours_around_them():
    grade = frame_grader(steep())
    for frame in frames(np.uint16):
        graded = grade(frame)
        assert graded.dtype == np.uint16
        cell = frame // 257
        corners = []
        for step in itertools.product((0, 1), repeat=3):
            colours = np.minimum(cell + np.array(step), 255) * 257
            corners.append(apply_colour_map(steep(), colours.astype(np.uint16)))
        corners = np.stack(corners).astype(int)
        assert (graded >= corners.min(axis=0) - 1).all()
        assert (graded <= corners.max(axis=0) + 1).all()
        # and where the map is not steep, nothing is lost
        exact = apply_colour_map(steep(), frame).astype(int)
        far = (np.abs(frame / 65535 - 0.4) > 0.01).all(axis=-1)
        assert far.sum() > 40
        assert np.abs(graded - exact)[far].max() <= 1


def test_grey_frames_and_wrong_ones():
    grey = frames(np.uint8, 1)[0]
    fitted = steep(channels=1)
    np.testing.assert_array_equal(
        frame_grader(fitted)(grey), apply_colour_map(fitted, grey)
    )
    with pytest.raises(ValueError, match="must be a grey picture"):
        frame_grader(fitted)(frames(np.uint8)[0])
    with pytest.raises(ValueError, match="mask"):
        frame_grader(steep(), mask=np.ones((2, 2)))(frames(np.uint8)[0])
