"""Planes through the origin, and the projection of the sphere onto their circles.

A plane is two orthonormal rows U. It meets the unit sphere in a great circle, on which
the point nearest to x is U x / |U x|; what counts is its angle, in turns.
"""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax._checks import (
    as_float,
    as_float_dtype,
    check_count,
    check_key,
    check_on_sphere,
    check_planes,
    common_float,
)
from transportjax._sharding import explicit_mesh_guard
from transportjax.onedim.circle import turns
from transportjax.onedim.levels import working_precision

from .directions import (
    orthonormal_directions,
    spiral_directions,
    working_dtype,
)


def sphere_planes(
    key: PRNGKeyArray, num: int, dim: int, dtype: DTypeLike | None = None
) -> Float[Array, "p 2 d"]:
    """Planes through the origin, each uniform among all, spread evenly.

    In three dimensions they are orthogonal to the directions of a rotated spiral,
    otherwise in blocks of planes that are orthogonal to each other. Averages over them
    are unbiased. Compared with as many independent planes, the error of a squared
    sliced distance is smaller by a factor of about 30 in three dimensions (32 planes)
    and 5 in four to 32.

    Args:
        key: a random key.
        num: number of planes.
        dim: dimension of the space, at least 2, where there is only one plane.
        dtype: a floating-point type; the default float if None.

    Returns:
        Two orthonormal rows for each plane, `(num, 2, dim)`.

    Raises:
        ValueError: `num` is not a positive integer, `dim` not one of at least 2, or
            `dtype` not a float.

    Example:
        >>> import jax
        >>> from transportjax.sliced import sphere_planes
        >>> sphere_planes(jax.random.key(0), 50, 3).shape
        (50, 2, 3)
    """
    check_key("key", key)
    check_count("num", num)
    check_count("dim", dim, 2)
    kind = as_float_dtype(dtype)
    if dim == 3:
        normals = spiral_directions(num, key=key, dtype=working_dtype(kind))
        return _orthogonal_planes(normals).astype(kind)
    per_block = dim // 2
    num_blocks = -(-num // per_block)
    rows = orthonormal_directions(key, num_blocks * dim, dim, kind)
    blocks = rows.reshape(num_blocks, dim, dim)[:, : 2 * per_block]
    return blocks.reshape(-1, 2, dim)[:num]


def random_planes(
    key: PRNGKeyArray, num: int, dim: int, dtype: DTypeLike | None = None
) -> Float[Array, "p 2 d"]:
    """Independent planes through the origin, uniform among all.

    Args:
        key: a random key.
        num: number of planes.
        dim: dimension of the space, at least 2.
        dtype: a floating-point type; the default float if None.

    Returns:
        Two orthonormal rows for each plane, `(num, 2, dim)`.

    Raises:
        ValueError: as `sphere_planes`.

    Example:
        >>> import jax
        >>> from transportjax.sliced import random_planes
        >>> random_planes(jax.random.key(0), 50, 3).shape
        (50, 2, 3)
    """
    check_key("key", key)
    check_count("num", num)
    check_count("dim", dim, 2)
    plane = functools.partial(orthonormal_directions, num=2, dim=dim, dtype=dtype)
    return jax.vmap(plane)(jr.split(key, num))


@explicit_mesh_guard
def circle_projections(x: ArrayLike, planes: ArrayLike) -> Float[Array, "p n"]:
    """The coordinates of points on the great circles of planes, in turns.

    Differentiable in `x` and `planes`. A point orthogonal to a plane, up to rounding,
    has no angle: its coordinate is 0, with derivative zero.

    Args:
        x: points on the unit sphere, `(n, d)`.
        planes: two orthonormal rows for each plane, `(p, 2, d)`.

    Returns:
        Coordinates in [0, 1), counted from the first row towards the second.

    Raises:
        ValueError: points that are not on the sphere, planes that are not orthonormal,
            or of wrong shapes; NaN or infinite values. Values are looked at unless they
            are traced.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import circle_projections
        >>> plane = jnp.eye(2, 3)[None]
        >>> print(circle_projections(jnp.array([[0.0, 0.6, 0.8]]), plane))
        [[0.25]]
    """
    x = as_float("x", x)
    check_on_sphere("x", x)  # as exactly as its dtype tells
    x, planes = common_float(("x", x), ("planes", planes))
    check_planes("planes", planes, x.shape[1])
    coordinates = great_circle_turns(working_precision(x), working_precision(planes))
    coordinates = coordinates - jnp.floor(coordinates)
    coordinates = coordinates.astype(x.dtype)
    return jnp.where(coordinates < 1, coordinates, 0)


def great_circle_turns(
    x: Float[Array, "n d"], planes: Float[Array, "p 2 d"]
) -> Float[Array, "p n"]:
    """The angles of projections in [-1/2, 1/2] turns, of unchecked arguments."""
    rows = planes.reshape(-1, planes.shape[-1])
    projections = jnp.matmul(rows, x.T, precision="highest")
    projections = projections.reshape(-1, 2, x.shape[0]).swapaxes(1, 2)
    return turns(projections, float(jnp.finfo(x.dtype).eps))


def _orthogonal_planes(normals: Float[Array, "p 3"]) -> Float[Array, "p 2 3"]:
    """The planes orthogonal to unit vectors; finite for all of them.

    Duff et al. (2017), Building an orthonormal basis, revisited.
    """
    a, b, c = normals.T
    sign = jnp.where(c < 0, -1, 1).astype(c.dtype)
    scale = -1 / (sign + c)
    first = [1 + sign * a * a * scale, sign * a * b * scale, -sign * a]
    second = [a * b * scale, sign + b * b * scale, -b]
    return jnp.stack([jnp.stack(row, axis=-1) for row in (first, second)], axis=1)
