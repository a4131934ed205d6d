"""Determinants and solutions for matrices of dimension two and three, written out.

A library call for each of a million tiny matrices costs more than the arithmetic, and
its derivatives take long to compile. Larger matrices go to the library.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def cofactor(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """det(J) J^-T, without division: J may be singular."""
    d = matrix.shape[0]
    if d == 1:
        return jnp.ones_like(matrix)
    if d == 2:
        (a, b), (c, e) = matrix
        return jnp.stack([jnp.stack([e, -c]), jnp.stack([-b, a])])
    if d == 3:
        one, two, three = matrix
        rows = (jnp.cross(two, three), jnp.cross(three, one), jnp.cross(one, two))
        return jnp.stack(rows)
    without = [
        jnp.delete(jnp.arange(d), i, assume_unique_indices=True) for i in range(d)
    ]
    minors = jnp.stack(
        [matrix[rows][:, columns] for rows in without for columns in without]
    )
    signs = 1 - 2 * ((jnp.arange(d)[:, None] + jnp.arange(d)[None, :]) % 2)
    return signs.astype(matrix.dtype) * jnp.linalg.det(minors).reshape(d, d)


def log_abs_det(matrix: Float[Array, "d d"]) -> Float[Array, ""]:
    """The logarithm of |det J|; minus infinity for a singular matrix."""
    if matrix.shape[0] > 3:
        return jnp.linalg.slogdet(matrix).logabsdet
    return jnp.log(jnp.abs(jnp.vdot(matrix[0], cofactor(matrix)[0])))


def solve(matrix: Float[Array, "d d"], right: Array) -> Array:
    """J^-1 times a vector (d,) or a matrix (d, n)."""
    if matrix.shape[0] > 3:
        return jnp.linalg.solve(matrix, right)
    factors = cofactor(matrix)
    product = jnp.matmul(factors.T, right, precision="highest")
    return product / jnp.vdot(matrix[0], factors[0], precision="highest")
