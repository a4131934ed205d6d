import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from helpers import assert_close, check_gradient
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from transportjax.sliced import (
    half_circle_angles,
    half_circle_directions,
    inverse_radon,
    radon_barycentre,
    radon_transform,
)

N = 33
ANGLES = (np.arange(60) + 0.5) * np.pi / 60


def gaussian(x, y, s=3.0, h=N, w=N):
    """The density of a normal law about (x, y) from the middle of the picture."""
    columns, rows = (np.arange(k) - (k - 1) / 2 for k in (w, h))
    square = (columns[None, :] - x) ** 2 + (rows[:, None] - y) ** 2
    return np.exp(-square / (2 * s**2)) / (2 * np.pi * s**2)


def gaussian_sinogram(x, y, s, angles, length):
    t = np.arange(length) - (length - 1) / 2
    mean = x * np.cos(angles) + y * np.sin(angles)
    square = (t[None, :] - mean[:, None]) ** 2
    return np.exp(-square / (2 * s**2)) / np.sqrt(2 * np.pi * s**2)


def error(found, expected):
    """The greatest error, in units of the greatest entry."""
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


def moments(image):
    """Means and standard deviations in x and y."""
    place = np.arange(N) - (N - 1) / 2
    across, down = (np.sum(np.asarray(image, np.float64), axis) for axis in (0, 1))
    means = [share @ place for share in (across, down)]
    squares = [share @ place**2 for share in (across, down)]
    return np.array([*means, *np.sqrt(np.subtract(squares, np.square(means)))])


# --- the transform -----------------------------------------------------------------


def test_angles_are_those_of_the_directions(x64):
    angles = half_circle_angles(7)
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert_close(rows, half_circle_directions(7))


@pytest.mark.parametrize(("h", "w"), [(9, 9), (5, 9), (9, 5)])
def test_along_the_axes_rows_and_columns_are_summed(h, w, x64):
    image = np.random.default_rng(0).uniform(size=(h, w))
    found = radon_transform(image, np.array([0, np.pi / 2, np.pi, 1.5 * np.pi]))
    length = found.shape[1]
    assert length >= np.hypot(h, w)
    across, down = (length - w) // 2, (length - h) // 2
    columns = np.pad(image.sum(0), across)
    rows = np.pad(image.sum(1), down)
    expected = np.stack([columns, rows, columns[::-1], rows[::-1]])
    assert_close(found, expected, atol=1e-12)


def test_a_normal_law(x64):
    found = radon_transform(gaussian(4, -5), ANGLES)
    expected = gaussian_sinogram(4, -5, 3.0, ANGLES, found.shape[1])
    assert error(found, expected) < 0.015
    # what is left is the blur of the interpolation, which falls with the resolution
    finer = radon_transform(gaussian(8, -10, 6.0, 65, 65), ANGLES)
    expected = gaussian_sinogram(8, -10, 6.0, ANGLES, finer.shape[1])
    assert error(finer, expected) < 0.004
    assert_close(np.sum(found, axis=1), np.ones(60), rtol=3e-4)


def test_a_disc(x64):
    radius, place = 12.0, np.arange(N) - (N - 1) / 2
    disc = (place[None, :] ** 2 + place[:, None] ** 2 <= radius**2) * 1.0
    found = np.asarray(radon_transform(disc, ANGLES))
    t = np.arange(found.shape[1]) - (found.shape[1] - 1) / 2
    chords = 2 * np.sqrt(np.maximum(radius**2 - t**2, 0))
    inside, outside = np.abs(t) < radius - 2, np.abs(t) > radius + 1
    assert np.abs(found - chords)[:, inside].max() < 1.7
    assert np.abs(np.mean(found, 0) - chords)[inside].max() < 0.7
    assert np.all(found[:, outside] == 0)


def test_next_to_a_rotation_of_the_picture(x64):
    image = gaussian(4, -5, h=29, w=N) + 0.5 * gaussian(-6, 2, 2.0, h=29, w=N)
    square = np.pad(image, ((2, 2), (0, 0)))
    found = np.asarray(radon_transform(image, ANGLES[::7]))
    t = np.arange(found.shape[1]) - (found.shape[1] - 1) / 2
    for row, angle in zip(found, ANGLES[::7], strict=True):
        turned = scipy.ndimage.rotate(square, np.degrees(angle), reshape=False, order=3)
        expected = np.interp(t, np.arange(N) - (N - 1) / 2, turned.sum(0), 0, 0)
        assert error(row, expected) < 0.02


# --- the inverse -------------------------------------------------------------------


def test_the_inverse_of_a_known_transform(x64):
    sinogram = gaussian_sinogram(4, -5, 3.0, ANGLES, 49)
    found = inverse_radon(sinogram, ANGLES)
    assert found.shape == (N, N)
    assert error(found, gaussian(4, -5)) < 2e-3
    found = inverse_radon(sinogram, ANGLES, shape=(20, 30))
    assert error(found, gaussian(4, -5, h=20, w=30)) < 2e-3


def test_there_and_back(x64):
    image = gaussian(4, -5, h=29, w=N) + 0.5 * gaussian(-6, 2, 2.5, h=29, w=N)
    back = inverse_radon(radon_transform(image, ANGLES), ANGLES, shape=image.shape)
    assert error(back, image) < 0.03


def test_gradients_of_the_transforms(x64):
    rng = np.random.default_rng(0)
    image, angles = rng.normal(size=(5, 7)), np.array([0.3, 1.2, 2.1])
    mix = rng.normal(size=(3, 11))

    @jax.jit
    def forward(image, angles):
        return jnp.sum(mix * radon_transform(image, angles))

    check_gradient(forward, image, angles)

    @jax.jit
    def backward(sinogram, angles):
        return jnp.sum(image * inverse_radon(sinogram, angles, shape=(5, 7)))

    check_gradient(backward, mix, angles)


# --- barycentres -------------------------------------------------------------------

fitted = jax.jit(functools.partial(radon_barycentre, num_angles=60))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_between_translates(dtype, x64):
    images = np.stack([gaussian(-6, 5), gaussian(7, -3)]).astype(dtype)
    weights = np.array([0.3, 0.7], dtype)
    found = fitted(images, weights)
    assert found.dtype == dtype
    x, y = 0.3 * -6 + 0.7 * 7, 0.3 * 5 - 0.7 * 3
    assert error(found, gaussian(x, y)) < 0.045
    assert_close(jnp.sum(found), 1)
    assert np.all(np.asarray(found) >= 0)
    assert_close(moments(found)[:2], (x, y), atol=0.03)


def test_between_scalings(x64):
    images = np.stack([gaussian(0, 0, 2.5), 40 * gaussian(0, 0, 4.5)])
    found = fitted(images, np.array([1.0, 1.0]))
    # the blur of pixels adds a little to the variance, and takes it from the peak
    assert error(found, gaussian(0, 0, 3.5)) < 0.06
    assert_close(moments(found), (0, 0, 3.5, 3.5), atol=0.1)


def test_one_picture_is_its_own_barycentre(x64):
    image = gaussian(4, -5) + 0.5 * gaussian(-6, 2)
    for images, weights in (
        ([image, image], [0.2, 0.8]),
        ([image, gaussian(-8, 8)], [1.0, 0.0]),
    ):
        found = fitted(np.stack(images), np.array(weights))
        assert error(found, image / image.sum()) < 0.03


def test_quarter_turns_and_mirrors(x64):
    images = np.stack([gaussian(-6, 5, 2.0), gaussian(7, -3) + gaussian(5, 5)])
    weights = np.array([0.3, 0.7])
    found = fitted(images, weights)
    turned = fitted(np.rot90(images, axes=(1, 2)), weights)
    # sums of cumulative masses round differently at both ends: far tails move a little
    assert error(turned, np.rot90(found)) < 3e-4
    mirrored = fitted(images[:, :, ::-1], weights)
    assert error(mirrored, np.asarray(found)[:, ::-1]) < 3e-4
    exchanged = fitted(images[::-1], 5 * weights[::-1])
    assert error(exchanged, found) < 1e-8


def scan_shapes(jaxpr):
    """The shapes of what each loop of a program returns, one list a loop."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "scan":
            yield [variable.aval.shape for variable in equation.outvars]
            continue
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from scan_shapes(inner)


def test_a_sweep_shares_the_transforms():
    images = np.stack([gaussian(-6, 5), gaussian(7, -3)]).astype("float32")
    sweep = np.random.default_rng(0).uniform(size=(7, 2)).astype("float32")
    many = jax.vmap(lambda w: radon_barycentre(images, w, num_angles=60))
    loops = list(scan_shapes(jax.make_jaxpr(many)(sweep).jaxpr))
    forward, backward = loops[0], loops[-1]
    assert forward[0][0] == 60  # one loop over the angles, for both pictures
    assert all(7 not in shape for shape in forward)
    assert any(7 in shape for shape in backward)
    found = jax.jit(many)(sweep)
    assert_close(found[3], fitted(images, sweep[3]), rtol=1e-4, atol=1e-7)


def test_gradient_of_a_barycentre(x64):
    rng = np.random.default_rng(0)
    images = rng.uniform(0.5, 1.5, size=(2, 5, 6))
    mix = rng.normal(size=(5, 6))

    @jax.jit
    def value(images, weights):
        found = radon_barycentre(images, weights, num_angles=4, num_levels=30)
        return jnp.sum(mix * found)

    check_gradient(value, images, np.array([0.3, 0.7]), eps=1e-7, rtol=1e-5)


# --- types, devices, errors --------------------------------------------------------


def test_types():
    image = jnp.asarray(gaussian(4, -5), "bfloat16")
    sinogram = radon_transform(image, jnp.asarray(ANGLES[:4], "bfloat16"))
    assert sinogram.dtype == "bfloat16"
    assert inverse_radon(sinogram, sinogram[:, 0], shape=(4, 4)).dtype == "bfloat16"
    found = radon_barycentre(image[None], num_angles=4)
    assert found.dtype == "bfloat16"
    whole = np.array([[0, 200], [255, 0]], "uint8")
    assert_close(
        radon_transform(whole, np.float32(ANGLES[:2])),
        radon_transform(np.float32(whole), np.float32(ANGLES[:2])),
    )


def test_explicit_axes():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    images = np.stack([gaussian(x, 3, 2, 12, 12) for x in (-3, -1, 1, 3)])
    images = images.astype("float32")
    placed = jax.device_put(images, NamedSharding(mesh, P("data")))
    with jax.set_mesh(mesh):
        found = radon_barycentre(placed, num_angles=6)
    expected = radon_barycentre(images, num_angles=6)
    assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: radon_transform(x[0], x[0]), r"`image` must have shape \(h, w\)"),
        (lambda x: radon_transform(x, x), r"`angles` must have shape \(n,\)"),
        (lambda x: radon_transform(x * np.nan, x[0]), "`image` must be finite"),
        (lambda x: inverse_radon(x[0], x[0]), r"`sinogram` must have shape \(p, t\)"),
        (lambda x: inverse_radon(x, x[0, :2]), r"`angles` must have shape \(3,\)"),
        (lambda x: inverse_radon(x, x[:, 0], shape=(0, 3)), "`shape` must be an integ"),
        (lambda x: half_circle_angles(0), "`num` must be an integer >= 1"),
        (lambda x: radon_barycentre(x), r"`images` must have shape \(s, h, w\)"),
        (lambda x: radon_barycentre(-x[None]), "`images` must be >= 0"),
        (lambda x: radon_barycentre(0 * x[None]), "`images` must not be all zero"),
        (lambda x: radon_barycentre(x[None], x[0]), r"`weights` must have shape \(1,"),
        (lambda x: radon_barycentre(x[None], num_angles=0), "`num_angles` must be"),
        (lambda x: radon_barycentre(x[None], num_levels=1), "`num_levels` must be"),
    ],
)
def test_errors(call, message, user_errors):
    with pytest.raises(ValueError, match=message):
        call(np.ones((3, 4)))
