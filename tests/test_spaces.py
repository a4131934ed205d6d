import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers import assert_close, check_gradient

from transportjax.apps import spaces
from transportjax.apps.spaces import SPACES

# CIELAB (D65, two degrees) and OKLab of black, white and the primaries, as published
LAB = {
    (0, 0, 0): (0, 0, 0),
    (1, 1, 1): (100, 0, 0),
    (1, 0, 0): (53.24, 80.09, 67.20),
    (0, 1, 0): (87.73, -86.18, 83.18),
    (0, 0, 1): (32.30, 79.19, -107.86),
}
OKLAB = {
    (0, 0, 0): (0, 0, 0),
    (1, 1, 1): (1, 0, 0),
    (1, 0, 0): (0.628, 0.225, 0.126),
    (0, 1, 0): (0.866, -0.234, 0.179),
    (0, 0, 1): (0.452, -0.032, -0.312),
}
YCBCR = {
    (1, 1, 1): (1, 0, 0),
    (1, 0, 0): (0.2126, -0.114572, 0.5),
    (0, 0, 1): (0.0722, 0.5, -0.045847),
}
JOINTS = (spaces._JOINT, 0.04045, 0.0031308, 12.92 * 0.0031308, 216 / 24389)


def colours(key, low=0.0, high=1.0, num=500):
    return jr.uniform(key, (num, 3), minval=low, maxval=high)


def edges():
    """Black, white, primaries, negative and super-white colours, and the joints."""
    rows = [
        np.eye(3),
        np.zeros((1, 3)),
        np.ones((1, 3)),
        -np.eye(3),
        4 * np.ones((1, 3)),
    ]
    for joint in JOINTS:
        near = joint * np.array([1 - 1e-9, 1, 1 + 1e-9])
        rows += [near[:, None] * np.ones((3, 3)), -near[None]]
    return np.concatenate(rows)


@pytest.mark.parametrize(
    ("name", "table", "digits"), [("lab", LAB, 1e-2), ("oklab", OKLAB, 1e-3)]
)
def test_published_values(name, table, digits, x64):
    result = SPACES[name][0](np.array(list(table), float))
    assert_close(result, list(table.values()), rtol=0, atol=digits)


def test_rec_709(x64):
    result = SPACES["ycbcr"][0](np.array(list(YCBCR), float))
    assert_close(result, list(YCBCR.values()), rtol=0, atol=1e-6)


def test_white_and_greys_are_without_colour(x64):
    grey = np.linspace(0, 1, 11)[:, None] * np.ones((1, 3))
    lab = spaces.srgb_to_lab(grey)
    assert_close(lab[-1], [100, 0, 0], rtol=0, atol=1e-12)
    assert_close(lab[:, 1:], np.zeros((11, 2)), rtol=0, atol=1e-12)
    assert_close(spaces.srgb_to_oklab(grey)[:, 1:], np.zeros((11, 2)), atol=1e-7)
    white = spaces.linear_to_xyz(np.ones(3))
    assert_close(white, [0.3127 / 0.3290, 1, 0.3583 / 0.3290], atol=1e-12)


def test_the_standard_curve(x64):
    x = np.linspace(0, 1, 100001)
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    result = np.asarray(spaces.srgb_to_linear(np.stack([x, -x, x], axis=-1)))
    assert np.abs(result[:, 0] - linear).max() < 3e-9  # the joint
    assert np.abs(result[:, 0] - linear)[x > 0.04045].max() < 1e-15
    assert_close(result[:, 1], -result[:, 0])
    assert np.all(np.diff(result[:, 0]) > 0)


def test_the_joints_are_continuous(x64):
    for joint, function in (
        (spaces._JOINT, spaces.srgb_to_linear),
        (spaces._LINEAR_JOINT, spaces.linear_to_srgb),
        (216 / 24389, spaces.xyz_to_lab),
    ):
        ends = np.array([[joint * (1 - 1e-15)] * 3, [joint * (1 + 1e-15)] * 3])
        low, high = np.asarray(function(ends))
        assert_close(low, high, rtol=0, atol=1e-13)


def test_scikit_image(key, x64):
    color = pytest.importorskip("skimage.color")
    x = np.asarray(colours(key))
    linear = spaces.srgb_to_linear(x)
    assert_close(spaces.linear_to_xyz(linear), color.rgb2xyz(x), rtol=0, atol=5e-4)
    # its matrix and white have six and five digits
    assert_close(spaces.srgb_to_lab(x), color.rgb2lab(x), rtol=0, atol=2e-2)
    lab = np.asarray(spaces.srgb_to_lab(x))
    assert_close(spaces.lab_to_srgb(lab), color.lab2rgb(lab), rtol=0, atol=2e-3)


@pytest.mark.parametrize("name", list(SPACES))
def test_there_and_back(name, key, x64):
    there, back = SPACES[name]
    x = jnp.concatenate([colours(key), colours(key, -0.5, 3.0), edges()])
    assert_close(back(there(x)), x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", list(SPACES))
def test_there_and_back_in_float32(name, key):
    there, back = SPACES[name]
    # the cube of OKLab and the slope 12.92 at black amplify the last bit
    bound = 3e-5 if name == "oklab" else 1e-5
    x = colours(key, num=20000)
    assert there(x).dtype == jnp.float32
    assert_close(back(there(x)), x, rtol=0, atol=bound)
    x = colours(key, -0.5, 3.0)
    assert_close(back(there(x)), x, rtol=0, atol=30 * bound)


@pytest.mark.parametrize("name", list(SPACES))
def test_back_and_there(name, key, x64):
    there, back = SPACES[name]
    scale = jnp.array(
        {"lab": (100.0, 80, 80), "oklab": (1.0, 0.3, 0.3)}.get(name, (1.0, 1, 1))
    )
    y = colours(key, -0.2, 1.2) * scale[None]
    assert_close(there(back(y)), y, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", list(SPACES))
def test_gradients(name, key, x64):
    direction = jnp.array([0.3, -0.5, 0.8])
    for function in SPACES[name]:
        check_gradient(
            lambda x, f=function: jnp.sum(jnp.sin(f(x)) @ direction),
            colours(key, -0.5, 1.5, num=7),
            rtol=1e-5,
        )


@pytest.mark.parametrize("name", list(SPACES))
def test_gradients_are_finite_everywhere(name):
    x = jnp.asarray(edges(), "float32")
    for function in SPACES[name]:
        jacobian = jax.jit(jax.vmap(jax.jacobian(function)))(x)
        assert bool(jnp.all(jnp.isfinite(jacobian)))
        assert bool(jnp.all(jnp.isfinite(function(x))))


def test_slope_at_black():
    slopes = jax.jacobian(spaces.srgb_to_linear)(jnp.zeros(3))
    assert_close(slopes, np.eye(3) / 12.92)
    assert_close(jax.jacobian(spaces.linear_to_srgb)(jnp.zeros(3)), 12.92 * np.eye(3))


def test_shapes_and_dtypes():
    x = jnp.full((2, 5, 3), 0.25)
    for there, back in SPACES.values():
        assert there(x).shape == back(x).shape == x.shape
        single = there(x[0, 0])
        assert_close(there(x)[1, 2], single)
        assert_close(jax.vmap(jax.vmap(there))(x)[0, 1], single)
        for dtype in ("float16", "bfloat16"):
            half = there(x.astype(dtype))
            assert half.dtype == dtype
            assert_close(half.astype("float32")[0, 0], single, rtol=1e-2, atol=1e-2)


def test_what_is_refused(user_errors):
    with pytest.raises(ValueError, match="Divide it by 255"):
        spaces.srgb_to_lab(np.zeros((4, 3), np.uint8))
    with pytest.raises(ValueError, match="three channels"):
        spaces.srgb_to_lab(np.zeros((3, 4)))
    assert spaces.srgb_to_linear([0, 1, 1]).tolist() == [0, 1, 1]
