"""Sorted projections that are kept: a target sorted once, many clouds compared.

Most of the time of a sliced distance goes into sorting. Where a cloud is compared again
and again along the same directions, its sorted projections can be kept.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import (
    as_weights,
    check_clouds,
    check_directions,
    check_number,
    check_points,
    check_profiles,
    common_float,
    working_dtype,
)
from transportjax._sharding import explicit_mesh_guard
from transportjax.onedim.wasserstein import cost_of_sorted, sort_weighted

from .distance import root_of_cost, static_or_array, weighted_mean


class SlicedProfile(eqx.Module):
    """A cloud as seen along directions: its sorted projections, and their masses."""

    directions: Float[Array, "p d"]
    values: Float[Array, "p n"]
    weights: Float[Array, "p n"] | None


@explicit_mesh_guard
def sliced_profile(
    x: ArrayLike, directions: ArrayLike, *, weights: ArrayLike | None = None
) -> SlicedProfile:
    """The sorted projections of `x`, to be compared with those of other clouds.

    Differentiable in `x`, `directions` and `weights`, like `sliced_wasserstein`.

    Args:
        x: points, `(n, d)`. If they are far from the origin for their spread, subtract
            one vector from all clouds first, for the sake of rounding.
        directions: unit rows, `(p, d)`: for a comparison, those of the other profile.
        weights: masses >= 0 of `x`, `(n,)`; normalised. None: uniform.

    Returns:
        The profile; half precision is kept in float32.

    Raises:
        ValueError: points or directions of the wrong shape, empty, NaN or infinite;
            directions that are not of norm 1; weights that are negative, all zero or of
            the wrong length.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import sliced_profile
        >>> x = jnp.array([[3.0, 0.0], [1.0, 2.0]])
        >>> print(sliced_profile(x, jnp.eye(2)).values)
        [[1. 3.]
         [0. 2.]]
    """
    x, directions = common_float(("x", x), ("directions", directions))
    work = working_dtype(x.dtype)
    check_points("x", x)
    check_directions("directions", directions, x.shape[1])
    masses = as_weights("weights", weights, x.shape[:1], work)
    return _profile(x.astype(work), directions.astype(work), masses)


@explicit_mesh_guard
def profile_distance(
    x: SlicedProfile,
    y: SlicedProfile,
    *,
    p: ArrayLike = 2,
    weights: ArrayLike | None = None,
    root: bool = False,
) -> Float[Array, ""]:
    """SW_p^p between two profiles, in units of the points to the power p; no sorting.

    `profile_distance(sliced_profile(x, directions), sliced_profile(y, directions))` is
    `sliced_wasserstein(x, y, directions)`, and as differentiable.

    Args:
        x: a profile.
        y: a profile along the same directions; the number of points may differ.
        p: the exponent >= 1: a number, or a scalar array.
        weights: weights >= 0 of the directions in the mean, `(p,)`; normalised.
        root: whether to return SW_p; its gradient is zero where the distance is zero.

    Returns:
        A scalar.

    Raises:
        ValueError: the profiles have different directions; p < 1; weights that are
            negative, all zero or of the wrong length.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import profile_distance, sliced_profile
        >>> target = sliced_profile(jnp.array([[3.0, 4.0]]), jnp.eye(2))
        >>> cloud = sliced_profile(jnp.zeros((4, 2)), target.directions)
        >>> print(profile_distance(cloud, target))
        12.5
    """
    check_profiles(x.directions, y.directions)
    check_number("p", p, 1)
    weights = as_weights("weights", weights, x.values.shape[:1], x.values.dtype)
    power, exponent = static_or_array(p, x.values.dtype)
    value = _distance(x, y, weights, exponent, power)
    return root_of_cost(value, exponent if power is None else power) if root else value


@explicit_mesh_guard
def pairwise_sliced_wasserstein(
    clouds: ArrayLike,
    directions: ArrayLike,
    *,
    p: ArrayLike = 2,
    cloud_weights: ArrayLike | None = None,
    root: bool = False,
) -> Float[Array, "k k"]:
    """SW_p^p between all pairs of k clouds; each cloud is sorted once.

    Differentiable in the clouds, the directions and the weights.

    Args:
        clouds: k clouds of n points, `(k, n, d)`. Fill up smaller clouds with points of
            weight zero.
        directions: unit rows, `(p, d)`.
        p: the exponent >= 1: a number, or a scalar array.
        cloud_weights: masses >= 0, `(k, n)`; each row is normalised. None: uniform.
        root: whether to return SW_p; its gradient is zero where the distance is zero.

    Returns:
        A symmetric matrix with zeros on the diagonal.

    Raises:
        ValueError: as `sliced_wasserstein`.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import pairwise_sliced_wasserstein
        >>> clouds = jnp.array([[[0.0, 0.0]], [[3.0, 4.0]], [[0.0, 2.0]]])
        >>> print(pairwise_sliced_wasserstein(clouds, jnp.eye(2)))
        [[ 0.  12.5  2. ]
         [12.5  0.   6.5]
         [ 2.   6.5  0. ]]
    """
    clouds, directions = common_float(("clouds", clouds), ("directions", directions))
    dtype = clouds.dtype
    work = working_dtype(dtype)
    check_clouds("clouds", clouds)
    check_directions("directions", directions, clouds.shape[2])
    check_number("p", p, 1)
    cloud_weights = as_weights("cloud_weights", cloud_weights, clouds.shape[:2], work)
    power, exponent = static_or_array(p, work)
    matrix = _pairwise(
        clouds.astype(work), directions.astype(work), cloud_weights, exponent, power
    )
    if root:
        matrix = root_of_cost(matrix, exponent if power is None else power)
    return matrix.astype(dtype)


@jax.jit
def _profile(x: Array, directions: Array, weights: Array | None) -> SlicedProfile:
    projections = jnp.matmul(directions, x.T, precision="highest")
    if weights is not None:
        weights = jnp.broadcast_to(weights[None, :], projections.shape)
    return SlicedProfile(directions, *sort_weighted(projections, weights))


@functools.partial(jax.jit, static_argnums=4)
def _distance(
    x: SlicedProfile,
    y: SlicedProfile,
    weights: Array | None,
    exponent: Array | None,
    power: int | float | None,
) -> Array:
    costs = cost_of_sorted(
        x.values,
        y.values,
        p=exponent if power is None else power,
        x_weights=x.weights,
        y_weights=y.weights,
    )
    return weighted_mean(costs, weights)


@functools.partial(jax.jit, static_argnums=4)
def _pairwise(
    clouds: Array,
    directions: Array,
    weights: Array | None,
    exponent: Array | None,
    power: int | float | None,
) -> Array:
    # The same shift of all clouds changes nothing but the rounding.
    masses = jnp.ones_like(clouds[..., 0]) if weights is None else weights
    centre = jnp.tensordot(masses, clouds, 2) / jnp.sum(masses)
    clouds = clouds - lax.stop_gradient(centre)[None, None, :]
    profiles = jax.vmap(_profile, (0, None, 0))(clouds, directions, weights)
    rows, columns = np.triu_indices(clouds.shape[0], 1)

    @jax.checkpoint  # a pair keeps its two places, not what it gathers there
    def cost(pair: Array) -> Array:
        at = functools.partial(lax.dynamic_index_in_dim, keepdims=False)
        one = jax.tree.map(lambda a: at(a, pair[0]), profiles)
        other = jax.tree.map(lambda a: at(a, pair[1]), profiles)
        return _distance(one, other, None, exponent, power)

    costs = lax.map(cost, jnp.stack([jnp.asarray(rows), jnp.asarray(columns)], 1))
    half = jnp.zeros_like(clouds, shape=(len(clouds), len(clouds)))
    half = half.at[rows, columns].set(costs)
    return half + half.T
