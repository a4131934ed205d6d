"""Merged levels: the segments of [0, 1] on which two quantile functions are constant.

What distances, plans and potentials on the line share. Two measures of n and of m atoms
share at most n + m - 1 segments. Walking through them, each level that is passed moves
on by one atom, of `x` or of `y`: the staircase of the optimal plan.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from .levels import take
from .sorting import permute

_BITS = 61  # of the integers, as parts of one, in which levels of weights are compared


class MergedLevels(NamedTuple):
    """n + m - 1 segments of [0, 1], between the merged levels of n and m atoms.

    On segment k, of mass `mass[k]` (which may be zero), the sorted sample `rows[k]` of
    `x` meets the sorted sample `columns[k]` of `y`. Of all n + m levels, those of `x`
    first, `order` is the permutation that sorts them; at equal levels `x` goes first.
    """

    rows: Int[Array | np.ndarray, "*batch k"]
    columns: Int[Array | np.ndarray, "*batch k"]
    mass: Float[Array | np.ndarray, "*batch k"]
    order: Int[Array | np.ndarray, "*batch k+1"]


def pick(x: Array, places: Array | np.ndarray) -> Array:
    """`x[places]` along the last axis; places of numpy are the same for all rows."""
    if isinstance(places, np.ndarray):
        return x.at[..., places].get(mode="promise_in_bounds")
    return take(x, places)


@functools.lru_cache(maxsize=32)
def uniform_levels(n: int, m: int) -> MergedLevels:
    """The segments of n and m atoms of equal masses: constants, in exact arithmetic.

    Example:
        >>> levels = uniform_levels(2, 3)
        >>> print(levels.rows, levels.columns, levels.mass * 6)
        [0 0 1 1] [0 1 1 2] [2. 1. 1. 2.]
    """
    divisor = math.gcd(n, m)  # levels i / n and j / m, in units of divisor / (n m)
    x_levels = np.arange(1, n + 1) * (m // divisor)
    y_levels = np.arange(1, m + 1) * (n // divisor)
    levels = np.concatenate([x_levels, y_levels])
    order = np.argsort(levels, kind="stable")
    from_y = order >= n
    columns = np.cumsum(from_y) - from_y
    rows = np.arange(n + m) - columns
    mass = np.diff(levels[order], prepend=0) / x_levels[-1]
    integers = (a.astype(np.int32) for a in (rows[:-1], columns[:-1], order))
    rows, columns, order = integers
    return MergedLevels(rows, columns, mass[:-1], order)


@functools.lru_cache(maxsize=32)
def uniform_overlaps(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For n >= m atoms of equal masses: which of the m does each of the n meet?

    An interval of length 1 / n meets at most two of the intervals of length 1 / m.

    Returns:
        The first that each meets, the second (or again the first), and the share of its
        mass, in (0, 1], that goes to the first.

    Example:
        >>> first, second, share = uniform_overlaps(3, 2)
        >>> print(first, second, share)
        [0 0 1] [0 1 1] [1.  0.5 1. ]
    """
    start = np.arange(n) * m  # in units of 1 / (n m)
    first = start // n
    second = (start + m - 1) // n
    share = np.minimum(m, (first + 1) * n - start) / m
    return first.astype(np.int32), second.astype(np.int32), share


def weighted_levels(
    x_weights: Float[Array, "*batch n"], y_weights: Float[Array, "*batch m"]
) -> MergedLevels:
    """The segments of atoms with masses, which are normalised.

    Levels are cumulated and compared as integers, where sums are exact: in float32 the
    masses of a million segments would be wrong by some per cent each. The mass is
    differentiable, any number of times, in the weights; rows and columns are constant.

    Args:
        x_weights: masses >= 0, in the order of the sorted samples; not all zero.
        y_weights: likewise, of the same batch and dtype.

    Returns:
        The segments. The mass is NaN where weights are negative, NaN or all zero.

    Example:
        >>> import jax.numpy as jnp
        >>> levels = weighted_levels(jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0]))
        >>> print(levels.rows, levels.columns, levels.mass)
        [0 1 1] [0 0 1] [0.25 0.25 0.5 ]
    """
    merged = _merge(lax.stop_gradient(x_weights), lax.stop_gradient(y_weights))
    mass = _follow(x_weights, y_weights, merged.mass, merged.order)
    return merged._replace(mass=mass)


@jax.jit
def _merge(a: Array, b: Array) -> MergedLevels:
    n = a.shape[-1]
    with jax.enable_x64(True):  # inside of this function only
        # The lowest bit says whose level it is: one sort of bare integers is enough.
        keys = [2 * _integer_levels(a), 2 * _integer_levels(b) + 1]
        keys = lax.sort(jnp.concatenate(keys, axis=-1))
        from_y = (keys & 1).astype(jnp.int32)
        levels = jnp.minimum(keys >> 1, 2**_BITS)[..., :-1]
        starts = jnp.concatenate([jnp.zeros_like(levels[..., :1]), levels], axis=-1)
        mass = jnp.diff(starts, axis=-1).astype(a.dtype) * 2.0**-_BITS
        axis = keys.ndim - 1
        columns = lax.cumsum(from_y, axis=axis) - from_y
        rows = lax.broadcasted_iota(jnp.int32, keys.shape, axis) - columns
        order = jnp.where(from_y == 1, columns + n, rows)
        rows = jnp.minimum(rows, n - 1)[..., :-1]  # past the last, if no mass is left
    valid = (_is_valid(a) & _is_valid(b))[..., None]
    return MergedLevels(rows, columns[..., :-1], jnp.where(valid, mass, jnp.nan), order)


def _integer_levels(weights: Array) -> Array:
    """Cumulative weights, as integers of which 2^61 are one.

    The last is greater by one bit, for the path must end at the last atoms, also if
    those before them reach the level one already.
    """
    n, axis = weights.shape[-1], weights.ndim - 1
    weights = weights.astype(jnp.float64)
    scale = 2.0 ** (62 - n.bit_length())  # so that the sum stays below 2^62
    units = weights / jnp.max(weights, axis=-1, keepdims=True) * scale
    sums = lax.cumsum(jnp.round(units).astype(jnp.int64), axis=axis)
    sums = sums.astype(jnp.float64)
    levels = (sums / sums[..., -1:] * 2.0**_BITS).astype(jnp.int64)
    return levels.at[..., -1].set(2**_BITS + 1)


def _is_valid(weights: Array) -> Array:
    """Whether a row of weights can be normalised."""
    most = jnp.max(weights, axis=-1)
    return (jnp.min(weights, axis=-1) >= 0) & (most > 0) & (most < jnp.inf)


@jax.custom_jvp
def _follow(a: Array, b: Array, mass: Array, order: Array) -> Array:
    """`mass`, with the derivative of the differences of the merged levels."""
    del a, b, order
    return mass


@_follow.defjvp
def _follow_jvp(primals: tuple, tangents: tuple) -> tuple:
    # mass_k = q_k - q_(k-1), where q is the merged sequence of both sides' levels.
    a, b, mass, order = primals
    both = [_levels_tangent(a, tangents[0]), _levels_tangent(b, tangents[1])]
    moved = permute(jnp.concatenate(both, axis=-1), order)[..., :-1]
    before = jnp.concatenate([jnp.zeros_like(moved[..., :1]), moved[..., :-1]], -1)
    return _follow(a, b, mass, order), moved - before


def _levels_tangent(weights: Array, tangent: Array) -> Array:
    """The tangent of A_i = S_i / S_n: (dS_i - A_i dS_n) / S_n; zero for the last."""
    scale = lax.stop_gradient(jnp.max(weights, axis=-1, keepdims=True))
    sums = jnp.cumsum(weights / scale, axis=-1)
    moved = jnp.cumsum(tangent / scale, axis=-1)
    return (moved - sums / sums[..., -1:] * moved[..., -1:]) / sums[..., -1:]
