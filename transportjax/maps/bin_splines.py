"""Rational-quadratic splines with few bins, another one for each number."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from .spline import at_most_one, bin_inverse, bin_log_slope, bin_value

_LEAST_SLOPE = 1e-2  # of a spline at its knots
_LEAST_SHARE = 1e-2  # of a bin, in units of the mean one


class RawSplines(NamedTuple):
    """m splines at each of n places: free numbers, zero for the identity."""

    widths: Float[Array, "m bins n"]
    heights: Float[Array, "m bins n"]
    slopes: Float[Array, "m inner n"]


@functools.partial(jax.checkpoint, static_argnums=(2, 3), prevent_cse=False)
def splines(
    raw: RawSplines,
    z: Float[Array, "m n"],
    interval: float,
    is_inverse: bool,
) -> tuple[Float[Array, "m n"], Float[Array, "m n"]]:
    """Each coordinate through its spline, and the logarithms of the slopes.

    Increasing in [-interval, interval], and the identity outside. A derivative computes
    this again, instead of keeping its many small arrays.
    """
    is_inside = jnp.abs(z) <= interval
    # outside, another number: a division there must not leak into a derivative
    inside = jnp.where(is_inside, z, jnp.zeros_like(z))
    b = _bin(raw, inside, interval, is_inverse)
    log_slope = jnp.log(b.height / b.width)
    if is_inverse:
        r = _share((inside - b.y) / b.height)
        t, rest = bin_inverse(r, b.start, b.end)
        moved = b.x + b.width * t
        log_slope = -log_slope - bin_log_slope(t, rest, b.start, b.end)
    else:
        t = _share((inside - b.x) / b.width)
        moved = b.y + b.height * bin_value(t, b.start, b.end)
        log_slope = log_slope + bin_log_slope(t, 1 - t, b.start, b.end)
    zero = jnp.zeros_like(z)
    return jnp.where(is_inside, moved, z), jnp.where(is_inside, log_slope, zero)


class _Bin(NamedTuple):
    """One bin of each spline; `start` and `end` are end slopes over the mean slope."""

    x: Array
    y: Array
    width: Array
    height: Array
    start: Array
    end: Array


def _bin(
    raw: RawSplines,
    inside: Float[Array, "m n"],
    interval: float,
    is_inverse: bool,
) -> _Bin:
    """The bin, in x or for the inverse in y, that holds each coordinate.

    Found by comparison, and read by sums over the bins, because there are few and each
    coordinate has its own: no search, no gather, no scatter in derivatives.
    """
    num = raw.widths.shape[1]
    least = 2 * interval * _LEAST_SHARE / num
    # the bins are `least` + scale exp(raw) wide, their sum is 2 `interval`
    widths, width_scale = _exponentials(raw.widths, 2 * interval)
    heights, height_scale = _exponentials(raw.heights, 2 * interval)
    searched = (heights, height_scale) if is_inverse else (widths, width_scale)
    index = _count_below(*lax.stop_gradient(searched), inside, least, interval)
    number = jnp.arange(num, dtype=inside.dtype)[None, :, None]
    here, below = number == index[:, None], number < index[:, None]
    start = least * index - interval
    width = least + width_scale * _sum(here, widths)
    height = least + height_scale * _sum(here, heights)
    per_mean = width / height
    # zero means slope one: so it is at the two ends
    return _Bin(
        start + width_scale * _sum(below, widths),
        start + height_scale * _sum(below, heights),
        width,
        height,
        _slope(_sum(here[:, 1:], raw.slopes)) * per_mean,
        _slope(_sum(here[:, :-1], raw.slopes)) * per_mean,
    )


def _sum(mask: Bool[Array, "m k n"], x: Float[Array, "m k n"]) -> Float[Array, "m n"]:
    """The sum of what is marked in each column; a product with the marks is slower."""
    return jnp.sum(jnp.where(mask, x, jnp.zeros_like(x)), axis=1)


def _count_below(
    parts: Float[Array, "m k n"],
    scale: Float[Array, "m n"],
    inside: Float[Array, "m n"],
    least: float,
    interval: float,
) -> Float[Array, "m n"]:
    """How many bins end at or below each coordinate, the last one left out."""
    num = parts.shape[1] - 1
    # by a product and a sum, which are done once: the compiler would repeat a loop over
    # the bins for each use of the count
    until = np.tri(num, num + 1, dtype=parts.dtype)
    ends = jnp.einsum("kj,mjn->mkn", until, parts, precision="highest")
    shift = (least * np.arange(1, num + 1) - interval).astype(parts.dtype)
    is_above = scale[:, None] * ends + shift[None, :, None] <= inside[:, None]
    return jnp.sum(is_above.astype(parts.dtype), axis=1)


def _share(t: Array) -> Array:
    """The t between 0 and 1 against rounding, with its derivative at both."""
    return jnp.where(t < 0, jnp.zeros_like(t), at_most_one(t))


def _exponentials(
    raw: Float[Array, "m k n"], total: float
) -> tuple[Float[Array, "m k n"], Float[Array, "m n"]]:
    """Shares before they are divided by their sum, and what they are to be scaled by.

    Scaled, they and the k least increments have the sum `total`.
    """
    top = lax.stop_gradient(jnp.max(raw, axis=1, keepdims=True))
    parts = jnp.exp(raw - top)
    return parts, total * (1 - _LEAST_SHARE) / jnp.sum(parts, axis=1)


def _slope(raw: Float[Array, "m n"]) -> Float[Array, "m n"]:
    """Slopes above `_LEAST_SLOPE`; one for zero."""
    shift = math.log(math.expm1(1 - _LEAST_SLOPE))
    return _LEAST_SLOPE + jax.nn.softplus(raw + shift)
