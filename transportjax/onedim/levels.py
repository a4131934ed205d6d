"""Levels of weighted samples: cumulative masses, and the search among them.

What quantile functions, transfers and distances on the line share. Rows lie on the last
axis, behind any batch.
"""

import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int32

from transportjax._checks import (
    as_float,
    check_batch,
    check_samples,
    check_weights,
    working_dtype,
)

_BLOCK = 32  # terms that are added in plain floats before the compensated sum


def cumulative_mass(weights: Float[Array, "*batch n"]) -> Float[Array, "*batch n"]:
    """Normalised cumulative weights B_j along the last axis; the last is exactly 1.

    Accurate to a few units of rounding at any n, for the sum is compensated;
    non-decreasing; a weight of zero repeats the level before it exactly. Differentiable
    any number of times.

    Args:
        weights: masses >= 0, not all zero (else the levels are NaN), in the precision
            that the levels shall have.

    Returns:
        The levels B_j = (b_1 + ... + b_j) / (b_1 + ... + b_n).

    Example:
        >>> import jax.numpy as jnp
        >>> print(cumulative_mass(jnp.array([1.0, 0.0, 1.0, 2.0])))
        [0.25 0.25 0.5  1.  ]
    """
    return _cumulative_mass(weights)


@jax.custom_jvp
@jax.jit
def _cumulative_mass(weights: Array) -> Array:
    # Blocks of few terms are summed one after the other, which keeps their sums
    # monotone; sums of blocks are pairs (high, low) of floats. The two are joined so
    # that rounding never lets the levels decrease.
    n = weights.shape[-1]
    num_blocks = -(-n // _BLOCK)
    scaled = weights / jnp.max(weights, axis=-1, keepdims=True)
    pad = [(0, 0)] * (weights.ndim - 1) + [(0, num_blocks * _BLOCK - n)]
    blocks = jnp.pad(scaled, pad).reshape(*weights.shape[:-1], num_blocks, _BLOCK)
    within = running_sums(blocks)
    mass = within[..., -1]
    high, low = _running_pairs((mass, jnp.zeros_like(mass)))
    level = shift(high)[..., None] + (shift(low)[..., None] + within)
    ends = lax.cummax(jnp.where(mass > 0, level[..., -1], 0), axis=mass.ndim - 1)
    floor = shift(ends)[..., None]
    level = jnp.where(within > 0, jnp.maximum(level, floor), floor)
    level = divide(level, ends[..., -1:, None])
    return level.reshape(*weights.shape[:-1], -1)[..., :n]


@_cumulative_mass.defjvp
def _cumulative_mass_jvp(primals: tuple, tangents: tuple) -> tuple:
    # B_j = S_j / S_n, so dB_j = (dS_j - B_j dS_n) / S_n; all scaled by the greatest b.
    levels = _cumulative_mass(*primals)
    scale = lax.stop_gradient(jnp.max(primals[0], axis=-1, keepdims=True))
    total = jnp.sum(primals[0] / scale, axis=-1, keepdims=True)
    sums = jnp.cumsum(tangents[0] / scale, axis=-1)
    return levels, (sums - levels * sums[..., -1:]) / total


def running_sums(x: Array) -> Array:
    """Cumulative sums along a short last axis, added strictly from left to right.

    Monotone for terms >= 0, and unchanged by a term of zero, which sums that are built
    as a tree are not.
    """
    return _running(jnp.add, x)


def _running(add: Callable, terms: Any) -> Any:
    """Sums along the last axis, one term after the other, of an array or a tuple."""

    def step(total: Any, term: Any) -> tuple[Any, Any]:
        total = add(total, term)
        return total, total

    columns = jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), terms)
    zero = jax.tree.map(lambda x: jnp.zeros_like(x[0]), columns)
    sums = lax.scan(step, zero, columns)[1]
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), sums)


def _running_pairs(pairs: tuple[Array, Array]) -> tuple[Array, Array]:
    """Cumulative sums of pairs: within blocks, then of blocks, and so on.

    `lax.associative_scan` would halve them where these are divided by 32, and compile
    for seconds.
    """
    *batch, n = pairs[0].shape
    if n <= _BLOCK:
        return _running(_add_pairs, pairs)
    pad = [(0, 0)] * len(batch) + [(0, -n % _BLOCK)]
    within = _running(
        _add_pairs,
        tuple(jnp.pad(x, pad).reshape(*batch, -1, _BLOCK) for x in pairs),
    )
    ends = _running_pairs(tuple(x[..., -1] for x in within))
    before = tuple(shift(x)[..., None] for x in ends)
    high, low = _add_pairs(before, within)
    return high.reshape(*batch, -1)[..., :n], low.reshape(*batch, -1)[..., :n]


def _add_pairs(a: tuple, b: tuple) -> tuple[Array, Array]:
    """The sum of two pairs high + low, with the rounding error of high kept in low."""
    high = a[0] + b[0]
    part = high - a[0]
    error = (a[0] - (high - part)) + (b[0] - part)
    return high, a[1] + b[1] + error


def divide(x: Array, y: ArrayLike) -> Array:
    """`x / y`, rounded once.

    The compiler would multiply by the inverse of a divisor that many share: x / x would
    not be 1. The barrier hides from it that they share it.
    """
    divisor = jnp.broadcast_to(jnp.asarray(y, x.dtype), x.shape)
    return x / lax.optimization_barrier(divisor)


def shift(x: Array) -> Array:
    """Each entry's predecessor on the last axis; zero for the first."""
    return jnp.concatenate([jnp.zeros_like(x[..., :1]), x[..., :-1]], axis=-1)


def by_rows(signature: str) -> Callable[[Callable], Callable]:
    """`jnp.vectorize`, also for numbers of leading axes that differ: they broadcast."""
    inputs = re.findall(r"\(([^)]*)\)", signature.split("->")[0])
    num_core = [len(names.split(",")) if names else 0 for names in inputs]

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def call(*arrays: Array | np.ndarray, **options: Any) -> Any:
            rows = functools.partial(function, **options)
            ranks = [a.ndim - core for a, core in zip(arrays, num_core, strict=True)]
            shapes = [
                (1,) * (max(ranks) - rank) + a.shape
                for a, rank in zip(arrays, ranks, strict=True)
            ]
            arrays = tuple(map(jnp.reshape, arrays, shapes))
            return jnp.vectorize(rows, signature=signature)(*arrays)

        return call

    return decorate


@functools.partial(jax.jit, static_argnames="side")
@by_rows("(n),(k)->(k)")
def search(values: Array, t: Array, *, side: str = "left") -> Array:
    """How many sorted `values` are below `t` (side "right": below or equal)."""
    return jnp.searchsorted(values, t, side=side)


@jax.jit
@by_rows("(n),(k)->(k)")
def take(x: Array, places: Array) -> Array:
    """`x[places]` along the last axis; places must be within it, and may repeat."""
    return x.at[places].get(mode="promise_in_bounds")


@jax.jit
def neighbours(
    has_mass: Bool[Array, "*batch n"],
) -> tuple[Int32[Array, "*batch n"], Int32[Array, "*batch n"]]:
    """For each place, the last place up to it and the first from it on that has mass.

    -1 where there is none before, n where there is none after.
    """
    n, axis = has_mass.shape[-1], has_mass.ndim - 1
    places = lax.broadcasted_iota(jnp.int32, has_mass.shape, axis)
    previous = lax.cummax(jnp.where(has_mass, places, -1), axis=axis)
    following = lax.cummin(jnp.where(has_mass, places, n), axis=axis, reverse=True)
    return previous, following


def working_precision(x: Array) -> Array:
    """`x`, with half precision promoted to float32."""
    return x.astype(working_dtype(x.dtype))


def checked_samples(
    name: str, x: Array, weights: ArrayLike | None, weights_name: str
) -> tuple[Array, Array | None]:
    """Checked samples and weights of their shape, in the precision to compute with."""
    check_samples(name, x)
    if weights is None:
        return working_precision(x), None
    weights = as_float(weights_name, weights)
    shared = x.ndim > 1 and weights.ndim == 1
    check_weights(weights_name, weights, x.shape[-1:] if shared else x.shape)
    x = working_precision(x)
    return x, jnp.broadcast_to(weights.astype(x.dtype), x.shape)


def in_rows(name: str, x: Array, other: str, batch: tuple[int, ...]) -> Array:
    """`x` of shape (), (k,) or (*batch, k) in the shape (*batch, k); k = 1 for ()."""
    x = x[None] if x.ndim == 0 else x
    check_batch(name, x, other, batch)
    return jnp.broadcast_to(x, (*batch, x.shape[-1]))
