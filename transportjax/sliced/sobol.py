"""Directions from Sobol sequences."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jax.scipy.special import ndtri
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax._checks import (
    as_float_dtype,
    check_count,
    check_dimension,
    check_key,
)

from .directions import unit_rows, working_dtype


def sobol_directions(
    num: int,
    dim: int,
    *,
    key: PRNGKeyArray | None = None,
    dtype: DTypeLike | None = None,
) -> Float[Array, "p d"]:
    """Directions from a Sobol sequence, carried to the sphere by the normal quantile.

    Args:
        num: number of directions; a power of two is best balanced.
        dim: dimension of the space, at most 21.
        key: randomises the set by a digital shift, after which every direction is
            uniform on the sphere; without it the set is always the same one.
        dtype: a floating-point type; the default float if None.

    Returns:
        Unit rows, `(num, dim)`.

    Raises:
        ValueError: `num` or `dim` is not a positive integer, `dim` is above 21, or
            `dtype` is not a float.

    Example:
        >>> from transportjax.sliced import sobol_directions
        >>> sobol_directions(64, 5).shape
        (64, 5)

    References:
        Joe, Kuo (2008), Constructing Sobol sequences with better two-dimensional
        projections: the direction numbers. Nguyen, Bariletto, Ho (2024), Quasi-Monte
        Carlo for 3D sliced Wasserstein.
    """
    if key is not None:
        check_key("key", key)
    check_count("num", num)
    check_count("dim", dim)
    check_dimension("Sobol directions", dim, 1, 21, "`orthonormal_directions`")
    return _sobol_directions(key, num, dim, as_float_dtype(dtype))


@functools.partial(jax.jit, static_argnames=("num", "dim", "dtype"))
def _sobol_directions(
    key: PRNGKeyArray | None, num: int, dim: int, dtype: jnp.dtype
) -> Array:
    points = _sobol_points(num, dim)
    if key is None:  # to the centres of the cells of the grid that the points fill
        points = points ^ jnp.uint32(1 << (31 - _num_bits(num)))
    else:
        points = points ^ jr.bits(key, (1, dim), jnp.uint32)
    work = working_dtype(dtype)
    digits = 32 if work == jnp.float64 else 23  # the midpoints are exact, never 0 or 1
    cells = (points >> (32 - digits)).astype(work)
    return unit_rows(ndtri((cells + 0.5) * 2.0**-digits)).astype(dtype)


def _num_bits(num: int) -> int:
    """How many binary digits the first `num` points have; at least one."""
    return max(1, (num - 1).bit_length())


# Joe and Kuo (2008), file new-joe-kuo-6.21201: for each dimension from the second on,
# the degree s and the inner coefficients a of a primitive polynomial over GF(2), and
# the first s direction integers m.
_JOE_KUO = (
    (1, 0, (1,)),
    (2, 1, (1, 3)),
    (3, 1, (1, 3, 1)),
    (3, 2, (1, 1, 1)),
    (4, 1, (1, 1, 3, 3)),
    (4, 4, (1, 3, 5, 13)),
    (5, 2, (1, 1, 5, 5, 17)),
    (5, 4, (1, 1, 5, 5, 5)),
    (5, 7, (1, 1, 7, 11, 19)),
    (5, 11, (1, 1, 5, 1, 1)),
    (5, 13, (1, 1, 1, 3, 11)),
    (5, 14, (1, 3, 5, 5, 31)),
    (6, 1, (1, 3, 3, 9, 7, 49)),
    (6, 13, (1, 1, 1, 15, 21, 21)),
    (6, 16, (1, 3, 1, 13, 27, 49)),
    (6, 19, (1, 1, 1, 15, 7, 5)),
    (6, 22, (1, 3, 1, 15, 13, 25)),
    (6, 25, (1, 1, 5, 5, 19, 61)),
    (7, 1, (1, 3, 7, 11, 23, 15, 103)),
    (7, 4, (1, 3, 7, 13, 13, 15, 69)),
)


def _direction_numbers(dim: int, bits: int) -> np.ndarray:
    """The first `bits` direction numbers of each dimension, `(bits, dim)`, uint32."""
    columns = [[1] * 32]
    for degree, coefficients, initial in _JOE_KUO[: dim - 1]:
        m = list(initial)
        for k in range(degree, 32):
            new = m[k - degree] ^ (m[k - degree] << degree)
            for i in range(1, degree):
                if coefficients >> (degree - 1 - i) & 1:
                    new ^= m[k - i] << i
            m.append(new)
        columns.append(m)
    table = [[m[k] << (31 - k) for m in columns] for k in range(bits)]
    return np.array(table, dtype=np.uint32).reshape(bits, dim)


def _sobol_points(num: int, dim: int) -> Array:
    """The first `num` Sobol points in Gray code order, as 32 binary digits each."""
    index = lax.iota(jnp.uint32, num)[:, None]
    gray = index ^ (index >> 1)
    points = jnp.zeros((num, dim), jnp.uint32)
    for k, numbers in enumerate(_direction_numbers(dim, _num_bits(num))):
        digit = (gray >> k) & 1
        points = points ^ (digit * jnp.asarray(numbers)[None, :])
    return points
