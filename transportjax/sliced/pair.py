"""Two clouds: checked, in the precision to compute with, and along directions."""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import (
    as_weights,
    check_directions,
    check_points,
    common_float,
    working_dtype,
)


class Pair(NamedTuple):
    """Two clouds, and their masses if these are not uniform."""

    x: Float[Array, "n d"]
    y: Float[Array, "m d"]
    x_weights: Float[Array, " n"] | None
    y_weights: Float[Array, " m"] | None


def checked_pair(
    x: ArrayLike, y: ArrayLike, x_weights: Any = None, y_weights: Any = None
) -> tuple[Pair, Any]:
    """Clouds and masses to compute with; the dtype to return."""
    x, y = common_float(("x", x), ("y", y))
    check_points("x", x)
    check_points("y", y, x.shape[1])
    work = working_dtype(x.dtype)
    a = as_weights("x_weights", x_weights, x.shape[:1], work)
    b = as_weights("y_weights", y_weights, y.shape[:1], work)
    return Pair(x.astype(work), y.astype(work), a, b), x.dtype


def checked_pair_along(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    x_weights: Any = None,
    y_weights: Any = None,
) -> tuple[Pair, Float[Array, "p d"], Any]:
    """Clouds, masses and directions to compute with; the dtype to return."""
    x, y, directions = common_float(("x", x), ("y", y), ("directions", directions))
    pair, dtype = checked_pair(x, y, x_weights, y_weights)
    check_directions("directions", directions, x.shape[1])
    return pair, directions.astype(pair.x.dtype), dtype


def projections(
    pair: Pair, directions: Float[Array, "p d"]
) -> tuple[Float[Array, "p n"], Float[Array, "p m"]]:
    """Both clouds along each direction, from the mean of the second on.

    The same shift of both clouds changes nothing but the rounding.
    """
    centre = lax.stop_gradient(_mean(pair.y, pair.y_weights))
    project = functools.partial(jnp.matmul, directions, precision="highest")
    return project((pair.x - centre).T), project((pair.y - centre).T)


def _mean(points: Array, weights: Array | None) -> Array:
    """The mean of the points, as one row."""
    if weights is None:
        return jnp.mean(points, axis=0, keepdims=True)
    weights = weights / jnp.max(weights)
    return (weights @ points / jnp.sum(weights))[None, :]
