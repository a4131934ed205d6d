"""The Radon transform of pictures of densities, its inverse, and Radon barycentres.

A picture `(h, w)` holds a density at the centres of square pixels of side one. The
middle of the picture is the origin, x runs along its rows to the right, y down its
columns. The projection at angle a is onto the direction (cos a, sin a): at t it is the
integral of the density along the line x cos a + y sin a = t.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import (
    as_float,
    check_count,
    check_densities,
    check_matrix,
    check_vector,
    common_float,
    working_dtype,
)
from transportjax._sharding import explicit_mesh_guard
from transportjax.onedim.histograms import histogram_quantile
from transportjax.onedim.levels import by_rows

from .averaging import shares_of

_FINER = 4  # samples of a filtered projection in a pixel, between which lines are drawn


def half_circle_angles(num: int) -> Float[Array, " p"]:
    """The angles in [0, pi) of `half_circle_directions`, equally spaced.

    Args:
        num: number of angles.

    Returns:
        (i + 1/2) pi / num.

    Raises:
        ValueError: `num` is not a positive integer.

    Example:
        >>> from transportjax.sliced import half_circle_angles
        >>> print(half_circle_angles(2).round(1))
        [0.8 2.4]
    """
    check_count("num", num)
    return jnp.asarray((np.arange(num) + 0.5) * (math.pi / num), jnp.result_type(float))


@explicit_mesh_guard
def radon_transform(image: ArrayLike, angles: ArrayLike) -> Float[Array, "p t"]:
    """The projections of a density: its integrals along lines, in units of pixels.

    Each line is followed pixel by pixel, along rows or columns, whichever it crosses
    more steeply, with linear interpolation between the two pixels next to it. Linear in
    `image`, and differentiable; in `angles` as well, but for kinks.

    Args:
        image: density, (h, w), zero outside.
        angles: in radians, (p,).

    Returns:
        One projection a row. The columns are one pixel apart, the middle of the row is
        the origin, and all of the picture is on it: t >= (h^2 + w^2)^(1/2).

    Raises:
        ValueError: arrays of the wrong shape, empty, NaN or infinite.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import radon_transform
        >>> image = jnp.array([[1.0, 0.0], [0.0, 2.0]])
        >>> print(radon_transform(image, jnp.array([0.0])))
        [[0.  0.5 1.5 1.  0. ]]

    References:
        Joseph (1982), An improved algorithm for reprojecting rays through pixel images.
    """
    image, angles = common_float(("image", image), ("angles", angles))
    check_matrix("image", image, "(h, w)")
    check_vector("angles", angles)
    work = working_dtype(image.dtype)
    return _transform(image.astype(work), angles.astype(work)).astype(image.dtype)


@explicit_mesh_guard
def inverse_radon(
    sinogram: ArrayLike, angles: ArrayLike, *, shape: tuple[int, int] | None = None
) -> Float[Array, "h w"]:
    """The density whose projections are `sinogram`, by filtered back-projection.

    Linear in `sinogram`, and differentiable; in `angles` almost everywhere. The error
    falls with the number of angles: for details of one pixel all over a picture of n
    pixels a side it takes about 1.5 n.

    Args:
        sinogram: projections, one a row, (p, t), as of `radon_transform`.
        angles: their angles in radians, (p,), equally spaced on a half circle.
        shape: of the result. None: the largest square that fits, which is the picture
            if that was square.

    Returns:
        The density, (h, w). It may be negative where the density is small, and where
        the rows are not the projections of any density.

    Raises:
        ValueError: arrays of the wrong shape, empty, NaN or infinite.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import (
        ...     half_circle_angles, inverse_radon, radon_transform
        ... )
        >>> x, y = jnp.meshgrid(jnp.arange(32.0), jnp.arange(32.0))
        >>> image = jnp.exp(-((x - 12) ** 2) / 18 - (y - 20) ** 2 / 18)
        >>> angles = half_circle_angles(48)
        >>> back = inverse_radon(radon_transform(image, angles), angles)
        >>> bool(jnp.max(jnp.abs(back - image)) < 0.02)
        True

    References:
        Kak and Slaney (1988), Principles of computerized tomographic imaging, section
        3.3.
    """
    sinogram, angles = common_float(("sinogram", sinogram), ("angles", angles))
    check_matrix("sinogram", sinogram, "(p, t)")
    check_vector("angles", angles, sinogram.shape[0])
    if shape is None:
        side = max(1, math.floor((sinogram.shape[1] - 2) / math.sqrt(2)))
        shape = side, side
    for size in shape:
        check_count("shape", size)
    work = working_dtype(sinogram.dtype)
    image = _inverse(sinogram.astype(work), angles.astype(work), tuple(shape))
    return image.astype(sinogram.dtype)


@explicit_mesh_guard
def radon_barycentre(
    images: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    num_angles: int = 180,
    num_levels: int | None = None,
) -> Float[Array, "h w"]:
    """The Radon barycentre of densities, a density of sum one.

    Along each direction the projections of the densities have a barycentre, whose
    quantile function is the mean of theirs; the result is the density of which these
    are the projections, as nearly as there is one. It lies in the convex hull of the
    densities, and is the displacement interpolation if they are translates of each
    other; otherwise it is close to the sliced barycentre, but not the same.

    Barycentres of the same densities for many weights by `jax.vmap` over `weights`
    share the Radon transforms and the quantiles. Differentiable in `weights` and
    `images`, where these are positive.

    Args:
        images: s densities >= 0, (s, h, w); each is normalised.
        weights: weights >= 0 of the densities, (s,); normalised. None: equal.
        num_angles: number of directions, equally spaced. Few of them leave streaks
            around small details far from the middle.
        num_levels: at how many levels quantiles are taken, denser towards 0 and 1.
            None: two for each pixel of the diagonal.

    Returns:
        The density, (h, w), without the negative parts that the inverse Radon transform
        has.

    Raises:
        ValueError: densities of the wrong shape, empty, NaN, negative or all zero; bad
            weights or counts.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import radon_barycentre
        >>> x, y = jnp.meshgrid(jnp.arange(40.0), jnp.arange(40.0))
        >>> images = [jnp.exp(-((x - c) ** 2 + (y - 9) ** 2) / 18) for c in (12, 28)]
        >>> between = radon_barycentre(jnp.stack(images), num_angles=60)
        >>> row, column = jnp.unravel_index(jnp.argmax(between), between.shape)
        >>> int(row), int(column)
        (9, 20)

    References:
        Bonneel, Rabin, Peyré, Pfister (2015), Sliced and Radon Wasserstein barycenters
        of measures, section 4.
    """
    images = as_float("images", images)
    work = working_dtype(images.dtype)
    check_densities("images", images)
    shares = shares_of(weights, images.shape[0], work)
    check_count("num_angles", num_angles)
    if num_levels is None:
        num_levels = 2 * _length(*images.shape[1:])
    check_count("num_levels", num_levels, 2)
    angles = half_circle_angles(num_angles).astype(work)
    image = _barycentre(images.astype(work), shares, angles, num_levels)
    return image.astype(images.dtype)


def _length(h: int, w: int) -> int:
    """How many samples a projection has."""
    return math.ceil(math.hypot(h, w)) + 2


def _centred(num: int, like: Array) -> Array:
    """Places of `num` samples, the middle at zero."""
    return jnp.asarray(np.arange(num) - (num - 1) / 2, like.dtype)


def _interpolate(rows: Array, places: Array) -> Array:
    """`rows` at fractional places along the last axis, zero outside; linear between."""
    num = rows.shape[-1]
    low = jnp.floor(places)
    share = places - low
    low = jnp.clip(low, -2, num).astype(jnp.int32)

    def at(index: Array) -> Array:
        inside = (index >= 0) & (index < num)
        index = jnp.clip(index, 0, num - 1)
        values = jnp.take_along_axis(rows, index, axis=-1, mode="promise_in_bounds")
        return jnp.where(inside, values, 0)

    return at(low) * (1 - share) + at(low + 1) * share


@jax.jit
def _transform(image: Array, angles: Array) -> Array:
    h, w = image.shape
    side = max(h, w)
    square = jnp.pad(image, ((0, side - h), (0, side - w)))
    rows = jnp.asarray(np.arange(side), image.dtype)
    t = _centred(_length(h, w), image)

    def project(angle: Array) -> Array:
        # A line that crosses rows steeply meets each of them at one x, and the step
        # from row to row along the line is 1 / |cos|. For the others, x and y change.
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        flat = jnp.abs(sin) > jnp.abs(cos)
        picture = jnp.where(flat, square.T, square)
        cos, sin = jnp.where(flat, sin, cos), jnp.where(flat, cos, sin)
        middle_x = jnp.where(flat, (h - 1) / 2, (w - 1) / 2).astype(image.dtype)
        middle_y = jnp.where(flat, (w - 1) / 2, (h - 1) / 2).astype(image.dtype)
        x = (t[None, :] - sin * (rows - middle_y)[:, None]) / cos + middle_x
        return jnp.sum(_interpolate(picture, x), axis=0) / jnp.abs(cos)

    return lax.map(project, angles)


@functools.partial(jax.jit, static_argnums=2)
def _inverse(sinogram: Array, angles: Array, shape: tuple[int, int]) -> Array:
    num = sinogram.shape[1]
    filtered = _filtered(sinogram)
    x, y = _centred(shape[1], sinogram), _centred(shape[0], sinogram)

    def add(image: Array, item: tuple[Array, Array]) -> tuple[Array, None]:
        row, angle = item
        t = jnp.cos(angle) * x[None, :] + jnp.sin(angle) * y[:, None]
        places = _FINER * (t + (num - 1) / 2)
        values = _interpolate(row, places.reshape(-1))
        return image + values.reshape(image.shape), None

    start = jnp.zeros_like(sinogram, shape=shape) + 0 * sinogram[0, 0]
    total, _ = lax.scan(add, start, (filtered, angles))
    return total * (math.pi / len(angles))


def _filtered(sinogram: Array) -> Array:
    """Projections, filtered by |frequency|, at `_FINER` samples a pixel.

    The filter is the transform of the band-limited kernel at the pixels, which keeps
    the mean, and not of |frequency| itself. Between them the band-limited function is
    evaluated by a longer transform.
    """
    num = sinogram.shape[1]
    length = 2 ** (2 * num - 1).bit_length()
    place = np.fft.fftfreq(length, 1 / length)
    odd = place % 2 != 0
    kernel = np.where(odd, -1 / (math.pi * np.where(odd, place, 1)) ** 2, 0)
    kernel[0] = 1 / 4
    spectrum = jnp.fft.rfft(sinogram, length)
    spectrum = spectrum * jnp.asarray(np.fft.rfft(kernel), spectrum.dtype)[None, :]
    finer = jnp.fft.irfft(spectrum, _FINER * length) * _FINER
    return finer[:, : _FINER * (num - 1) + 1]


@functools.partial(jax.jit, static_argnums=3)
def _barycentre(images: Array, shares: Array, angles: Array, num_levels: int) -> Array:
    quantiles = _quantiles(images, angles, num_levels)  # the same for all weights
    mean = jnp.tensordot(shares, quantiles, 1, precision="highest")
    num = _length(*images.shape[1:])
    edges = jnp.asarray(np.arange(num + 1) - num / 2, images.dtype)
    edges = jnp.broadcast_to(edges, (len(angles), num + 1))
    levels = jnp.asarray(_levels(num_levels), images.dtype)
    levels = jnp.broadcast_to(levels, mean.shape)
    masses = jnp.diff(_interp(edges, mean, levels), axis=-1)
    image = jnp.maximum(_inverse(masses, angles, images.shape[1:]), 0)
    return image / jnp.sum(image)


_interp = by_rows("(n),(k),(k)->(n)")(jnp.interp)


def _quantiles(images: Array, angles: Array, num_levels: int) -> Array:
    """Quantiles of the projections, (s, p, levels), in pixels from the middle."""
    images = images / jnp.max(images, axis=(1, 2), keepdims=True)
    sinograms = jax.vmap(_transform, (0, None))(images, angles)
    # Less than rounding leaves of the sums is nothing: else a density would end there
    # on the right, but on the left where it underflows.
    least = jnp.finfo(images.dtype).eps * jnp.sum(sinograms, axis=-1, keepdims=True)
    sinograms = jnp.where(sinograms > least, sinograms, 0)
    half = sinograms.shape[-1] / 2
    levels = jnp.asarray(_levels(num_levels), images.dtype)
    return histogram_quantile(sinograms, levels, low=-half, high=half)


def _levels(num: int) -> np.ndarray:
    """Levels from 0 to 1, denser towards both, where densities fade."""
    return (1 - np.cos(np.linspace(0, math.pi, num))) / 2
