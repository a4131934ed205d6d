"""Transport onto the uniform law of [0, 1], with a limit to its slope."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import (
    as_float,
    check_count,
    check_number,
    check_weights,
    is_concrete,
)
from transportjax._sharding import explicit_mesh_guard

from .levels import working_precision

_HALVINGS = 30  # the lift lies in [0, 1]; its last digits come from a formula


@explicit_mesh_guard
def uniform_transfer(
    masses: ArrayLike, *, limit: ArrayLike = math.inf
) -> Float[Array, "*batch k"]:
    """The map that makes masses on [0, 1] uniform there, at the places of the masses.

    The places are i / (k - 1), i = 0 ... k - 1. A mass there is an atom, and goes to
    the mean of the levels that it occupies (its mid-rank), so the mean of the image is
    1/2 whatever the ties. Or it is a triangle that reaches to the neighbouring places,
    as samples shared out between two places make them (`binned_atoms`): the result is
    then the distribution function, exactly. In between, interpolate linearly.

    With a limit no slope is larger. The map then takes 0 to 0 and 1 to 1, and what is
    cut off from steep pieces lifts all others by one amount, as far as the limit lets
    them: at the limit 1 the map is the identity.

    Differentiable in the masses and in a limit that is traced, except where a slope
    just reaches it.

    Args:
        masses: counts or masses >= 0, (..., k), k >= 2; they need not sum to one.
        limit: the largest slope, >= 1; infinite: none.

    Returns:
        Values in [0, 1], non-decreasing along the last axis.

    Raises:
        ValueError: masses that are negative, all zero or NaN; fewer than two; a limit
            below one.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.onedim import uniform_transfer
        >>> masses = jnp.array([2.0, 6.0, 0.0, 0.0, 0.0])
        >>> print(uniform_transfer(masses))
        [0.125 0.625 1.    1.    1.   ]
        >>> print(uniform_transfer(masses, limit=1.5))
        [0.    0.375 0.75  0.875 1.   ]

    References:
        Zuiderveld (1994), "Contrast limited adaptive histogram equalization", Graphics
        Gems IV, section VIII.5, for the limit; there the lifted pieces may exceed it.
    """
    masses = as_float("masses", masses)
    check_count("masses.shape[-1]", masses.shape[-1] if masses.ndim else 0, 2)
    check_weights("masses", masses, masses.shape)
    check_number("limit", limit, 1)
    wide = working_precision(masses)
    if is_concrete(limit) and np.isinf(limit):
        return _mid_ranks(wide).astype(masses.dtype)
    return _limited(wide, jnp.asarray(limit, wide.dtype)).astype(masses.dtype)


@jax.jit
def _mid_ranks(masses: Float[Array, "*batch k"]) -> Float[Array, "*batch k"]:
    start, rises, _ = _pieces(masses)
    rises = jnp.concatenate([start, rises], axis=-1)
    return jnp.minimum(jnp.cumsum(rises, axis=-1), 1)


def _pieces(masses: Array) -> tuple[Array, Array, Array]:
    """The jump at 0, the rises between the places, and the jump at 1: sum one."""
    masses = masses / jnp.sum(masses, axis=-1, keepdims=True)
    half = masses / 2
    return half[..., :1], half[..., 1:] + half[..., :-1], half[..., -1:]


@jax.jit
def _limited(masses: Array, limit: Float[Array, ""]) -> Float[Array, "*batch k"]:
    start, rises, end = _pieces(masses)
    num = rises.shape[-1]
    # a jump has no slope that could be limited: it joins the piece beside it
    rises = rises.at[..., :1].add(start).at[..., -1:].add(end)
    most = limit / num
    free = rises + _lift(*lax.stop_gradient((rises, most))) < most
    # the lift once more, from those that it leaves free: exactly, with its derivative
    kept = jnp.sum(jnp.where(free, rises, most), axis=-1, keepdims=True)
    count = jnp.sum(free, axis=-1, keepdims=True).astype(rises.dtype)
    lift = (1 - kept) / jnp.maximum(count, 1)
    rises = jnp.where(free, rises + lift, most)
    values = jnp.cumsum(rises, axis=-1)
    return jnp.concatenate([jnp.zeros_like(start), jnp.minimum(values, 1)], axis=-1)


def _lift(rises: Array, most: Array) -> Array:
    """The amount with which the rises, cut at `most`, sum to one; by bisection."""

    def halve(bounds: tuple[Array, Array], _: Any) -> tuple[tuple[Array, Array], None]:
        low, high = bounds
        middle = (low + high) / 2
        total = jnp.sum(jnp.minimum(rises + middle, most), axis=-1, keepdims=True)
        short = total < 1
        return (jnp.where(short, middle, low), jnp.where(short, high, middle)), None

    zero = rises[..., :1] * 0
    (low, _), _ = lax.scan(halve, (zero, zero + 1), None, length=_HALVINGS)
    return low
