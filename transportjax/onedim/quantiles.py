"""Quantile and distribution functions of weighted samples, on the last axis.

Two conventions, each with its inverse. With sorted samples x_(j) of normalised weights
b_j and cumulative levels B_j = b_1 + ... + b_j:

- "linear": the quantile function is piecewise linear through the mid-ranks
  (B_j - b_j / 2, x_(j)), and constant beyond the first and the last of them;
- "inverse": it is the left-continuous inverse of the step function F(t) = P(x <= t).
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import as_float, check_choice, check_levels, common_float
from transportjax._sharding import explicit_mesh_guard

from .levels import (
    checked_samples,
    cumulative_mass as cumulative_mass,
    divide,
    in_rows,
    neighbours,
    search,
    shift,
    take,
)
from .sorting import permute, sort, sort_with_permutation

METHODS = ("linear", "inverse")


@explicit_mesh_guard
def quantile(
    x: ArrayLike,
    q: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    method: str = "linear",
) -> Float[Array, "*shape"]:
    """The values below which a share `q` of the samples `x` lies, in units of `x`.

    Differentiable in `x` (through the values; the permutation is constant almost
    everywhere) and, by the method "linear", in `q` and `weights`.

    Args:
        x: finite samples, (..., n).
        q: levels in [0, 1]: a scalar, (k,) for all rows, or (..., k). They are rounded
            to the dtype of `x` (to float32 for half precision).
        weights: masses >= 0 of the samples, (n,) or the shape of `x`; normalised. A
            sample of weight zero has no influence whatever its value.
        method: "linear", through the mid-ranks: smooth where the data are, and equal to
            `numpy.quantile(..., method="hazen")` without weights; "inverse", the least
            sample whose distribution function reaches `q`: always a sample, and not
            changed by writing a sample twice with half of its weight.

    Returns:
        The quantiles, non-decreasing in `q`: the leading axes of `x`, then k. Level 0
        gives the least sample, level 1 the greatest.

    Raises:
        ValueError: empty, NaN or infinite samples, levels outside of [0, 1], weights
            that are negative, all zero or of the wrong shape, unknown method.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.onedim import quantile
        >>> x = jnp.array([4.0, 1.0, 3.0, 2.0])
        >>> print(quantile(x, jnp.array([0.0, 0.5, 1.0])))
        [1.  2.5 4. ]
        >>> print(quantile(x, 0.5, weights=1 / x, method="inverse"))
        2.0

    References:
        Hyndman and Fan, 1996, "Sample quantiles in statistical packages", definitions 1
        ("inverse") and 5 ("linear").
    """
    check_choice("method", method, METHODS)
    x, q = as_float("x", x), as_float("q", q)
    dtype, scalar = x.dtype, q.ndim == 0
    x, weights = checked_samples("x", x, weights, "weights")
    check_levels("q", q)
    q = in_rows("q", q.astype(x.dtype), "x", x.shape[:-1])
    value = _quantile(x, weights, q, method).astype(dtype)
    return value[..., 0] if scalar else value


@functools.partial(jax.jit, static_argnames="method")
def _quantile(x: Array, weights: Array | None, q: Array, method: str) -> Array:
    x, levels = _sorted_levels(x, weights)
    find = _mid_ranks_around if method == "linear" else _containing
    return _interpolate(x, *find(levels, x.shape[-1], q))


@explicit_mesh_guard
def distribution(
    x: ArrayLike,
    t: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    method: str = "linear",
) -> Float[Array, "*shape"]:
    """F(t), the share of the samples `x` below `t`: the inverse function of `quantile`.

    Differentiable by the method "linear": in `t` and in `x` between samples, and in
    `weights`. At a lone sample the derivative in `t` is the one from the right; at tied
    samples F jumps, and its derivative in `t` and `x` is given as zero. By the method
    "inverse" it is differentiable in `weights`.

    Args:
        x: finite samples, (..., n).
        t: positions: a scalar, (k,) for all rows, or (..., k).
        weights: masses >= 0 of the samples, (n,) or the shape of `x`; normalised. A
            sample of weight zero has no influence.
        method: "linear", through the mid-ranks: 0 below the least sample, 1 above the
            greatest, and at tied samples the middle of the jump; "inverse", P(x <= t),
            a right-continuous step function.

    Returns:
        Levels in [0, 1], non-decreasing in `t`: the leading axes of `x`, then k.

    Raises:
        ValueError: as `quantile`; NaN in `t`.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.onedim import distribution
        >>> x = jnp.array([1.0, 2.0, 3.0, 4.0])
        >>> print(distribution(x, jnp.array([0.0, 2.0, 2.5, 9.0])))
        [0.    0.375 0.5   1.   ]
    """
    check_choice("method", method, METHODS)
    x, t = common_float(("x", x), ("t", t))
    dtype, scalar = x.dtype, t.ndim == 0
    x, weights = checked_samples("x", x, weights, "weights")
    check_levels("t", t, -jnp.inf, jnp.inf, "positions")
    t = in_rows("t", t.astype(x.dtype), "x", x.shape[:-1])
    level = _distribution(x, weights, t, method).astype(dtype)
    return level[..., 0] if scalar else level


@functools.partial(jax.jit, static_argnames="method")
def _distribution(x: Array, weights: Array | None, t: Array, method: str) -> Array:
    x, levels = _sorted_levels(x, weights)
    below, upto = search(x, t, side="left"), search(x, t, side="right")
    if method == "linear":
        return _linear_level(x, levels, t, below, upto)
    return _level_of(levels, x.shape[-1], upto, t.dtype)


def _sorted_levels(x: Array, weights: Array | None) -> tuple[Array, Array | None]:
    """Sorted samples and their cumulative levels B_j; None for B_j = j / n."""
    if weights is None:
        return sort(x), None
    x, permutation = sort_with_permutation(x)
    return x, cumulative_mass(permute(weights, permutation))


def _interpolate(x: Array, low: Array, high: Array, share: Array) -> Array:
    """Values between two places of sorted `x`; monotone in spite of rounding."""
    below, above = take(x, low), take(x, high)
    value = below + share * (above - below)
    return jnp.where(value > above, above, value)


def _containing(levels: Array | None, n: int, q: Array) -> tuple[Array, Array, Array]:
    """The place of the sample with B_{j-1} < q <= B_j, as a bracket of width zero."""
    if levels is None:
        # Levels of j / n are meant to give j: what is that close is rounding.
        rank, nearest = q * n, jnp.round(q * n)
        close = jnp.abs(rank - nearest) <= 2 * jnp.finfo(q.dtype).eps * nearest
        rank = jnp.where(close, nearest, jnp.ceil(rank))
        place = jnp.clip(rank.astype(jnp.int32) - 1, 0, n - 1)
    else:
        place = jnp.clip(search(levels, q), 0, n - 1)
        place = take(
            neighbours(levels > shift(levels))[1], place
        )  # at q = 0: the first with mass
    return place, place, jnp.zeros_like(q)


def _mid_ranks_around(
    levels: Array | None, n: int, q: Array
) -> tuple[Array, Array, Array]:
    """The places whose mid-ranks enclose `q`, and how far `q` is between them."""
    if levels is None:
        rank = q * n - 0.5
        low = jnp.clip(jnp.floor(rank).astype(jnp.int32), 0, n - 1)
        share = jnp.clip(rank - low.astype(q.dtype), 0, 1)
        return low, jnp.minimum(low + 1, n - 1), share
    previous, following = neighbours(levels > shift(levels))
    middle = (levels + shift(levels)) / 2
    place, _, _ = _containing(levels, n, q)
    before = take(previous, jnp.maximum(place - 1, 0))
    before = jnp.where((place == 0) | (before < 0), place, before)
    after = take(following, jnp.minimum(place + 1, n - 1))
    after = jnp.where((place == n - 1) | (after == n), place, after)
    is_after = q >= take(middle, place)
    low, high = jnp.where(is_after, place, before), jnp.where(is_after, after, place)
    gap = take(middle, high) - take(middle, low)
    share = (q - take(middle, low)) / jnp.where(gap > 0, gap, 1)
    return low, high, jnp.where(gap > 0, share, 0)


def _level_of(levels: Array | None, n: int, count: Array, dtype: jnp.dtype) -> Array:
    """The mass of the first `count` sorted samples."""
    if levels is None:
        return divide(count.astype(dtype), n)
    return jnp.where(count > 0, take(levels, jnp.maximum(count - 1, 0)), 0)


def _linear_level(
    x: Array, levels: Array | None, t: Array, below: Array, upto: Array
) -> Array:
    """F(t) through the mid-ranks; `below` samples are < t and `upto` are <= t."""
    n = x.shape[-1]
    if levels is None:
        first, left, right = below, upto - 1, upto
    else:
        previous, following = neighbours(levels > shift(levels))
        first = take(following, jnp.minimum(below, n - 1))
        left = jnp.where(upto > 0, take(previous, jnp.maximum(upto - 1, 0)), -1)
        right = jnp.where(upto < n, take(following, jnp.minimum(upto, n - 1)), n)
    has_left, has_right = left >= 0, right < n
    left, right = jnp.maximum(left, 0), jnp.minimum(right, n - 1)
    start, end = take(x, left), take(x, right)
    inside = has_left & has_right & (end > start)
    gap = jnp.where(inside, end - start, 1)
    share = jnp.where(inside, t - start, 0) / gap
    before, after = _mid_rank(levels, n, left, t), _mid_rank(levels, n, right, t)
    level = before + share * (after - before)
    level = jnp.where(level > after, after, level)
    level = jnp.where(has_left, jnp.where(has_right | (t <= start), level, 1), 0)
    jump = _level_of(levels, n, below, t.dtype) + _level_of(levels, n, upto, t.dtype)
    return jnp.where(has_left & (first < left), jump / 2, level)


def _mid_rank(levels: Array | None, n: int, place: Array, like: Array) -> Array:
    """B_j - b_j / 2 at a place of the sorted samples."""
    if levels is None:
        return divide(place.astype(like.dtype) + 0.5, n)
    return take((levels + shift(levels)) / 2, place)
