"""Distances of all pairs of two clouds, as a matrix."""

import jax.numpy as jnp
from jaxtyping import Array, Float

_FEW = 8  # dimensions, up to which differences are cheaper than a product of matrices


def squared_distances(
    x: Float[Array, "n d"], y: Float[Array, "m d"]
) -> Float[Array, "n m"]:
    """|x_i - y_j|^2, without an array of n m d numbers.

    In few dimensions from differences, so that near pairs keep their digits; in many by
    one product of matrices, with the mean of y at the origin.
    """
    if x.shape[1] <= _FEW:
        gaps = [x[:, None, i] - y[None, :, i] for i in range(x.shape[1])]
        return sum((gap**2 for gap in gaps[1:]), gaps[0] ** 2)
    middle = jnp.mean(y, axis=0, keepdims=True)
    x, y = x - middle, y - middle
    squares = jnp.sum(x**2, axis=1)[:, None] + jnp.sum(y**2, axis=1)[None, :]
    return jnp.maximum(squares - 2 * jnp.matmul(x, y.T, precision="highest"), 0)
