"""Keeps the grain of the original in a graded picture.

A colour transfer stretches some levels, and with them the noise, the banding and the
compression artefacts. Regraining looks for the picture whose gradients are those of the
original and whose colours are those of the graded one.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import (
    as_unit_colours,
    check_count,
    check_number,
    check_picture,
    check_same_length,
    common_float,
)
from transportjax._sharding import explicit_mesh_guard

_LEAST_SIDE = 20  # no level of the pyramid has a side this short, except the picture
_DAMPING = 0.2
_LEAST_SMOOTHNESS = 2.0**-52


@explicit_mesh_guard
def regrain(
    original: ArrayLike,
    graded: ArrayLike,
    *,
    smoothness: ArrayLike = 1.0,
    num_sweeps: Sequence[int] = (4, 16, 32, 64, 64, 64),
) -> Float[Array, "h w c"]:
    r"""A picture with the gradients of `original` and the colours of `graded`.

    It lowers the energy of J, with I the original and T the graded picture,

        ∫ φ |∇J − ∇I|² + ψ |J − T|²
        φ = 30 / (1 + 10 |∇I| / s),  ψ = min(51.2 |∇I|, 1)

    so that flat regions, where a stretched noise shows, follow the gradients of I, and
    textured ones the colours of T. A few damped Jacobi sweeps are done on every level
    of a pyramid, from the coarsest to the finest. The finest is not solved to
    convergence: the schedule is a part of the method.

    For a given original the result is linear in `graded`; it is not clipped. Where the
    original is perfectly flat ψ is zero, and colours come from the surroundings alone:
    an original of one colour comes back as it was. A picture that has been graded into
    itself comes back almost exactly: what the pyramid loses returns with the sweeps.

    Args:
        original: The picture before grading, any number of channels, in [0, 1]: the
            weights are made for that range. Bytes are refused; divide them by 255.
        graded: The picture after grading, of the same shape. It may leave [0, 1].
        smoothness: s >= 0. Larger keeps more of the gradients of the original; at zero
            the graded picture comes back almost unchanged.
        num_sweeps: Sweeps on each level, the full resolution first. Its length is the
            largest number of levels; a level whose sides would not exceed 20 pixels is
            left out.

    Returns:
        The regrained picture. Differentiable with respect to `original`, `graded` and
        `smoothness`, except where the gradient of the original is zero (there its
        length has derivative zero) or ψ saturates.

    Raises:
        ValueError: If the shapes differ or are not (h, w, c), if there is a NaN or an
            infinity, or if an option is out of range.

    Examples:
        >>> ramp = jnp.linspace(0.0, 1.0, 64)[:, None, None] * jnp.ones((1, 64, 3))
        >>> banded = jnp.round(8 * ramp) / 8
        >>> step = lambda picture: float(jnp.max(jnp.diff(picture, axis=0)))
        >>> step(banded), step(regrain(ramp, banded))
        (0.125, 0.019...)

    References:
        Pitié, Kokaram, Dahyot (2005), Towards automated colour grading, CVMP,
        equation 6.
        Pitié, Kokaram, Dahyot (2007), Automated colour grading using colour
        distribution transfer, Computer Vision and Image Understanding 107.
    """
    original = as_unit_colours("original", original)
    graded = as_unit_colours("graded", graded)
    original, graded = common_float(("original", original), ("graded", graded))
    check_picture("original", original)
    check_picture("graded", graded)
    check_same_length("original", original, "graded", graded)
    check_number("smoothness", smoothness, 0.0)
    num_sweeps = tuple(num_sweeps)
    check_count("len(num_sweeps)", len(num_sweeps))
    for num in num_sweeps:
        check_count("num_sweeps", num, 0)
    half = original.dtype.itemsize < 4
    working = jnp.float32 if half else original.dtype
    smoothness = jnp.asarray(smoothness, working)
    result = _regrain(
        original.astype(working), graded.astype(working), smoothness, num_sweeps
    )
    return result.astype(original.dtype)


@functools.partial(jax.jit, static_argnames="num_sweeps")
def _regrain(
    original: Float[Array, "h w c"],
    graded: Float[Array, "h w c"],
    smoothness: Float[Array, ""],
    num_sweeps: tuple[int, ...],
) -> Float[Array, "h w c"]:
    """The levels, down and up again.

    Planes lead inside, (c, h, w), which is the faster. T − I follows I in one stack of
    planes, so that one reduction serves both.
    """
    channels = original.shape[-1]
    both = jnp.concatenate([original, graded - original], axis=-1)
    pyramid = [jnp.moveaxis(both, -1, 0)]
    while len(pyramid) < len(num_sweeps):
        height, width = (math.ceil(size / 2) for size in pyramid[-1].shape[1:])
        if height <= _LEAST_SIDE or width <= _LEAST_SIDE:
            break
        pyramid.append(_halve(pyramid[-1]))
    result = pyramid[-1][:channels]
    for level in reversed(range(len(pyramid))):
        reference, wanted = pyramid[level][:channels], pyramid[level][channels:]
        if level + 1 < len(pyramid):
            result = _double(result, reference.shape)
        result = _solve(
            result, reference, wanted, smoothness, 2.0**-level, num_sweeps[level]
        )
    return jnp.moveaxis(result, 0, -1)


def _solve(
    start: Float[Array, "c h w"],
    reference: Float[Array, "c h w"],
    wanted: Float[Array, "c h w"],
    smoothness: Float[Array, ""],
    scale: float,
    num_sweeps: int,
) -> Float[Array, "c h w"]:
    """One level, from `start`: the weights ψ and φ, and the sweeps.

    φ is proportional to `scale`, the share of the sides that is left on the level.
    """
    length = _gradient_length(reference)
    data = jnp.minimum(256 / 5 * length, 1)
    ratio = 10 * length / jnp.maximum(smoothness, _LEAST_SMOOTHNESS)
    smooth = 30 * scale / (1 + ratio)
    return reference + _sweeps(start - reference, wanted, data, smooth, num_sweeps)


def _gradient_length(picture: Float[Array, "c h w"]) -> Float[Array, "h w"]:
    """|∇I| over all channels, by central differences that are not halved.

    A neighbour beyond the border is the pixel itself. The channels are added one by
    one: a reduction over so short an axis is ten times slower.
    """
    picture = jnp.pad(picture, ((0, 0), (1, 1), (1, 1)), mode="edge")
    square = 0
    for plane in picture:
        down = plane[2:, 1:-1] - plane[:-2, 1:-1]
        across = plane[1:-1, 2:] - plane[1:-1, :-2]
        square = square + down * down + across * across
    flat = square == 0  # where the root has no derivative, and gets zero
    return jnp.where(flat, 0, jnp.sqrt(jnp.where(flat, 1, square)))


def _sweeps(
    change: Float[Array, "c h w"],
    wanted: Float[Array, "c h w"],
    data: Float[Array, "h w"],
    smooth: Float[Array, "h w"],
    num_sweeps: int,
) -> Float[Array, "c h w"]:
    """Damped Jacobi sweeps on the change D = J − I, towards `wanted` = T − I.

    In D the gradients of I are gone, and a sweep is

        D ← 4/5 (ψ (T − I) + Σ φ_n D(n)) / (ψ + Σ φ_n) + 1/5 D

    with φ_n the mean of φ at the pixel and at its neighbour n. Beyond the border a
    neighbour is the pixel itself. φ and D have a frame of zeros here, which makes every
    neighbour a plain slice; the terms that are missing in it are counted apart.
    """
    height, width = smooth.shape
    ends = [
        jnp.asarray((index == 0) * 1.0 + (index == index.size - 1), smooth.dtype)
        for index in (np.arange(height), np.arange(width))
    ]
    missing = ends[0][:, None] + ends[1][None]
    phi = jnp.pad(smooth, 1)
    total = sum(_neighbours(phi)) / 2 + (2 + missing / 2) * smooth
    share = (1 - _DAMPING) / (data + total)
    source = (share * data)[None] * wanted
    phi = phi[None]

    def sweep(framed: Array, _: None) -> tuple[Array, None]:
        here = framed[:, 1:-1, 1:-1]
        around = _neighbours(framed)
        far = sum(p * d for p, d in zip(_neighbours(phi), around, strict=True))
        near = smooth[None] * (sum(around) + 2 * missing[None] * here)
        new = source + share[None] / 2 * (far + near) + _DAMPING * here
        return _frame(new), None

    sweep = jax.checkpoint(sweep, prevent_cse=False)  # keeps D alone, not its products
    framed, _ = jax.lax.scan(sweep, _frame(change), None, length=num_sweeps)
    return framed[:, 1:-1, 1:-1]


def _frame(planes: Float[Array, "c h w"]) -> Float[Array, "c h+2 w+2"]:
    """`planes` in a frame of zeros, one pixel wide."""
    return jnp.pad(planes, ((0, 0), (1, 1), (1, 1)))


def _neighbours(framed: Array) -> list[Array]:
    """The pixels above, below, left and right of all but the frame of `framed`."""
    return [
        framed[..., :-2, 1:-1],
        framed[..., 2:, 1:-1],
        framed[..., 1:-1, :-2],
        framed[..., 1:-1, 2:],
    ]


def _halve(planes: Float[Array, "c h w"]) -> Float[Array, "c h2 w2"]:
    """Antialiased bilinear reduction to half the sides, rounded up.

    Output i is centred on c = (i + 1/2) n/m - 1/2, in [2i - 1/2, 2i + 1/2], and the
    kernel reaches n/m <= 2 pixels, so that 2i - 2, ..., 2i + 2 are all that count.
    """
    for axis in (1, 2):
        size = planes.shape[axis]
        half = math.ceil(size / 2)
        weights = _tap_weights(size, half, 2 * np.arange(half), reach=2)
        padded = _pad(planes, axis, 2)
        slices = [
            jax.lax.slice_in_dim(padded, tap, tap + 2 * half - 1, 2, axis)
            for tap in range(5)
        ]
        planes = _combine(slices, weights, axis)
    return planes


def _double(
    planes: Float[Array, "c h2 w2"], shape: tuple[int, ...]
) -> Float[Array, "c h w"]:
    """Bilinear enlargement to `shape`, whose sides are 2m or 2m - 1 for m here.

    Output 2j + r, r = 0 or 1, is centred in [j - 1/4, j + 3/4], and sees j - 1, j and
    j + 1.
    """
    for axis in (2, 1):
        half, size = planes.shape[axis], shape[axis]
        weights = _tap_weights(half, size, np.arange(size) // 2, reach=1)
        weights = np.pad(weights, ((0, 0), (0, 2 * half - size)))
        padded = _pad(planes, axis, 1)
        slices = [
            jax.lax.slice_in_dim(padded, tap, tap + half, axis=axis) for tap in range(3)
        ]
        phases = [_combine(slices, weights[:, phase::2], axis) for phase in (0, 1)]
        merged = planes.shape[:axis] + (2 * half,) + planes.shape[axis + 1 :]
        planes = jnp.stack(phases, axis=axis + 1).reshape(merged)
        planes = jax.lax.slice_in_dim(planes, 0, size, axis=axis)
    return planes


def _tap_weights(
    size: int, new_size: int, middle: np.ndarray, *, reach: int
) -> np.ndarray:
    """Weights (taps, new_size) of the inputs middle - reach, ..., middle + reach.

    A triangle, as wide as an output pixel where that is the larger, with sum one; the
    picture is mirrored at its borders. It is MATLAB's `imresize`, "bilinear".
    """
    scale = min(new_size / size, 1.0)
    outputs = np.arange(new_size)
    centres = (outputs + 0.5) * size / new_size - 0.5
    taps = middle + np.arange(-reach, reach + 1)[:, None]
    weights = np.maximum(1 - np.abs(taps - centres) * scale, 0)
    weights /= weights.sum(axis=0)
    mirrored = np.where(taps < 0, -1 - taps, taps)
    mirrored = np.where(taps >= size, 2 * size - 1 - taps, mirrored)
    folded = np.zeros_like(weights)
    np.add.at(folded, (mirrored - middle + reach, outputs), weights)
    return folded


def _combine(slices: list[Array], weights: np.ndarray, axis: int) -> Array:
    """The sum of `slices` with weights that vary along `axis`."""
    shape = [1, 1, 1]
    shape[axis] = weights.shape[1]
    total = jnp.zeros_like(slices[0])
    for weight, part in zip(weights, slices, strict=True):
        if weight.any():
            total = total + jnp.asarray(weight.reshape(shape), part.dtype) * part
    return total


def _pad(planes: Float[Array, "c h w"], axis: int, width: int) -> Array:
    """`planes` with `width` zeros at both ends of `axis`."""
    widths = [(0, 0)] * 3
    widths[axis] = (width, width)
    return jnp.pad(planes, widths)
