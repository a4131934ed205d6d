"""Sets of directions: random, orthonormal, and evenly spread ones.

A set is an array `(p, d)` of unit rows. A one-dimensional transport cost is the same
along a direction and along its opposite, so only the axes matter.

Which to take: the better a set covers the sphere, the fewer directions reach the same
accuracy of a sliced distance. Two dimensions: the half circle. Three: the spiral. More:
orthonormal blocks, which are exact for quadratic functions of the direction.
`default_directions` makes this choice.
"""

import functools
import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax._checks import (
    as_float_dtype,
    check_count,
    check_key,
    working_dtype,
)


def random_directions(
    key: PRNGKeyArray, num: int, dim: int, dtype: DTypeLike | None = None
) -> Float[Array, "p d"]:
    """Independent directions, uniform on the unit sphere.

    Args:
        key: a random key.
        num: number of directions.
        dim: dimension of the space.
        dtype: a floating-point type; the default float if None.

    Returns:
        Unit rows, `(num, dim)`.

    Raises:
        ValueError: `num` or `dim` is not a positive integer, or `dtype` not a float.

    Example:
        >>> import jax
        >>> from transportjax.sliced import random_directions
        >>> random_directions(jax.random.key(0), 50, 3).shape
        (50, 3)
    """
    check_key("key", key)
    return _random(key, num, dim, _check(num, dim, dtype))


def orthonormal_directions(
    key: PRNGKeyArray, num: int, dim: int, dtype: DTypeLike | None = None
) -> Float[Array, "p d"]:
    """Directions in independent blocks of `dim` orthonormal rows, each block uniform.

    Every direction is uniform on the sphere, so averages stay unbiased, and the mean of
    a quadratic function over a whole block is exact: a squared sliced distance between
    a cloud and its translate has no error at all.

    Args:
        key: a random key.
        num: number of directions; the last block is cut where `dim` does not divide it.
        dim: dimension of the space.
        dtype: a floating-point type; the default float if None.

    Returns:
        Unit rows, `(num, dim)`; rows `b dim` to `(b + 1) dim` are orthonormal.

    Raises:
        ValueError: `num` or `dim` is not a positive integer, or `dtype` not a float.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import orthonormal_directions
        >>> directions = orthonormal_directions(jax.random.key(0), 8, 4)
        >>> bool(jnp.allclose(directions[4:] @ directions[4:].T, jnp.eye(4), atol=1e-6))
        True

    References:
        Rowland, Hron, Tang, Choromanski, Sarlos, Weller (2019), Orthogonal estimation
        of Wasserstein distances.
    """
    check_key("key", key)
    return _orthonormal(key, num, dim, _check(num, dim, dtype))


def haar_rotation(
    key: PRNGKeyArray, dim: int, dtype: DTypeLike | None = None
) -> Float[Array, "d d"]:
    """A uniformly random orthogonal matrix; a reflection in half of the cases.

    Args:
        key: a random key.
        dim: dimension of the space.
        dtype: a floating-point type; the default float if None.

    Returns:
        An orthogonal matrix, whose distribution no rotation changes.

    Raises:
        ValueError: `dim` is not a positive integer, or `dtype` not a float.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import haar_rotation
        >>> rotation = haar_rotation(jax.random.key(0), 3)
        >>> bool(jnp.allclose(rotation @ rotation.T, jnp.eye(3), atol=1e-6))
        True

    References:
        Mezzadri (2007), How to generate random matrices from the classical compact
        groups.
    """
    return _orthonormal(key, dim, dim, _check(1, dim, dtype))


def spiral_directions(
    num: int, *, key: PRNGKeyArray | None = None, dtype: DTypeLike | None = None
) -> Float[Array, "p 3"]:
    """Evenly spread directions in three dimensions, along a generalised spiral.

    Args:
        num: number of directions.
        key: turns the set by a uniformly random rotation, after which every direction
            is uniform on the sphere; without it the set is always the same one.
        dtype: a floating-point type; the default float if None.

    Returns:
        Unit rows, `(num, 3)`.

    Raises:
        ValueError: `num` is not a positive integer, or `dtype` not a float.

    Example:
        >>> from transportjax.sliced import spiral_directions
        >>> spiral_directions(100).shape
        (100, 3)

    References:
        Rakhmanov, Saff, Zhou (1994), Minimal discrete energy on the sphere. Nguyen,
        Bariletto, Ho (2024), Quasi-Monte Carlo for 3D sliced Wasserstein.
    """
    if key is not None:
        check_key("key", key)
    dtype = _check(num, 3, dtype)
    # Known when traced, so in float64: angles beyond thousands of turns stay exact.
    z = 1 - (2 * np.arange(1, num + 1) - 1) / num
    angle = 1.8 * math.sqrt(num) * np.arccos(z)
    radius = np.sqrt(1 - z**2)
    spiral = np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=-1)
    rows = jnp.asarray(spiral, dtype=dtype)
    return rows if key is None else _turned(key, rows)


def half_circle_directions(
    num: int, *, key: PRNGKeyArray | None = None, dtype: DTypeLike | None = None
) -> Float[Array, "p 2"]:
    """Equispaced directions on the upper half of the circle.

    Args:
        num: number of directions.
        key: turns the set by a random part of its spacing, after which every direction
            is uniform on the half circle; without it the first angle is half a spacing.
        dtype: a floating-point type; the default float if None.

    Returns:
        Unit rows, `(num, 2)`.

    Raises:
        ValueError: `num` is not a positive integer, or `dtype` not a float.

    Example:
        >>> from transportjax.sliced import half_circle_directions
        >>> print(half_circle_directions(2).round(3))
        [[ 0.707  0.707]
         [-0.707  0.707]]
    """
    if key is not None:
        check_key("key", key)
    dtype = _check(num, 2, dtype)
    return _half_circle(key, num, dtype)


def default_directions(
    key: PRNGKeyArray, num: int, dim: int, dtype: DTypeLike | None = None
) -> Float[Array, "p d"]:
    """The random set of directions that suits the dimension best.

    Two dimensions: the shifted half circle; three: the rotated spiral; otherwise
    orthonormal blocks. Compared with as many independent directions, the error of a
    squared sliced distance is smaller by a factor of about 50 in two dimensions (16
    directions) and 20 in three (64 directions), and of 1 to 10 above.

    Args:
        key: a random key.
        num: number of directions.
        dim: dimension of the space.
        dtype: a floating-point type; the default float if None.

    Returns:
        Unit rows, `(num, dim)`, each of them uniform on the sphere (on the half circle
        in two dimensions), so that averages over them are unbiased.

    Raises:
        ValueError: `num` or `dim` is not a positive integer, or `dtype` not a float.

    Example:
        >>> import jax
        >>> from transportjax.sliced import default_directions
        >>> default_directions(jax.random.key(0), 64, 3).shape
        (64, 3)
    """
    check_key("key", key)
    _check(num, dim, dtype)
    if dim == 2:
        return half_circle_directions(num, key=key, dtype=dtype)
    if dim == 3:
        return spiral_directions(num, key=key, dtype=dtype)
    return orthonormal_directions(key, num, dim, dtype)


def _check(num: int, dim: int, dtype: DTypeLike | None) -> jnp.dtype:
    check_count("num", num)
    check_count("dim", dim)
    return as_float_dtype(dtype)


def unit_rows(x: Float[Array, "p d"]) -> Float[Array, "p d"]:
    """The rows divided by their norm; a row of zeros becomes the first axis."""
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    first = jnp.eye(1, x.shape[-1], dtype=x.dtype)
    return jnp.where(norm > 0, x / jnp.where(norm > 0, norm, 1), first)


@functools.partial(jax.jit, static_argnames=("num", "dim", "dtype"))
def _random(key: PRNGKeyArray, num: int, dim: int, dtype: jnp.dtype) -> Array:
    gaussian = jr.normal(key, (num, dim), working_dtype(dtype))
    return unit_rows(gaussian).astype(dtype)


@functools.partial(jax.jit, static_argnames=("num", "dim", "dtype"))
def _orthonormal(key: PRNGKeyArray, num: int, dim: int, dtype: jnp.dtype) -> Array:
    """Blocks of rows: the Q of a Gaussian matrix whose R has a positive diagonal."""
    shape = (-(-num // dim), dim, min(num, dim))
    q, r = jnp.linalg.qr(jr.normal(key, shape, working_dtype(dtype)))
    diagonal = jnp.diagonal(r, axis1=-2, axis2=-1)[:, None, :]
    rows = jnp.where(diagonal < 0, -q, q).mT
    return rows.reshape(-1, dim)[:num].astype(dtype)


@functools.partial(jax.jit, static_argnames=("num", "dtype"))
def _half_circle(key: PRNGKeyArray | None, num: int, dtype: jnp.dtype) -> Array:
    work = working_dtype(dtype)
    shift = 0.5 if key is None else jr.uniform(key, dtype=work)
    angle = (jnp.arange(num, dtype=work) + shift) * (math.pi / num)
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1).astype(dtype)


@jax.jit
def _turned(key: PRNGKeyArray, rows: Float[Array, "p d"]) -> Float[Array, "p d"]:
    """The rows, turned by one uniformly random rotation."""
    work, dim = working_dtype(rows.dtype), rows.shape[-1]
    rotation = _orthonormal(key, dim, dim, work)
    turned = jnp.matmul(rows.astype(work), rotation, precision="highest")
    return unit_rows(turned).astype(rows.dtype)
