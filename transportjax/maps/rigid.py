"""Rotations with a translation, in the plane and in space."""

import equinox as eqx
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks

from .bijection import (
    AbstractBijection,
    as_leaf,
    at_least_float32,
    evaluate,
    zero_log_det,
)


class Rigid(AbstractBijection):
    """y = R x + t for a rotation R of the plane or of space; events are (2,) or (3,).

    In space the rotation is a quaternion (x, y, z, w), the scalar last, as in scipy's
    `Rotation`. It is divided by its norm where it is used, so the leaf is unconstrained
    and can be trained; q and -q are the same rotation. The log-determinant is zero.

    Args:
        rotation: the angle in radians, counterclockwise, shape (); or the quaternion,
            shape (4,).
        translation: t, shape (2,) or (3,).

    Raises:
        ValueError: shapes that do not fit each other; a quaternion of zeros.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import Rigid
        >>> turn = Rigid(jnp.pi / 2, jnp.array([0.0, 1.0]))
        >>> print(turn(jnp.array([2.0, 0.0])).round(4) + 0.0)
        [0. 3.]
        >>> flip = Rigid(jnp.array([1.0, 0.0, 0.0, 0.0]), jnp.zeros(3))
        >>> print(flip(jnp.array([1.0, 2.0, 3.0])))
        [ 1. -2. -3.]
    """

    rotation: Float[Array, "..."] = eqx.field(converter=as_leaf)
    translation: Float[Array, " d"] = eqx.field(converter=as_leaf)

    def __check_init__(self):
        _checks.check_rigid(self.rotation, self.translation)

    @classmethod
    def identity(cls, dim: int) -> "Rigid":
        """The map that leaves everything in place, in dimension 2 or 3."""
        _checks.check_dimension("Rigid maps", dim, 2, 3, "Affine")
        rotation = jnp.zeros(()) if dim == 2 else jnp.eye(4)[3]
        return cls(rotation, jnp.zeros(dim))

    @classmethod
    def from_matrix(cls, matrix: ArrayLike, translation: ArrayLike) -> "Rigid":
        """The map with a rotation matrix, (2, 2) or (3, 3).

        Differentiable in both. The quaternion has its largest entry positive.

        Raises:
            ValueError: not a rotation, or shapes that do not fit.
        """
        matrix, translation = _checks.common_float(
            ("matrix", matrix), ("translation", translation)
        )
        _checks.check_rotation_matrix("matrix", matrix)
        matrix, translation = at_least_float32(matrix, translation)
        return cls(_angle_or_quaternion(matrix), translation)

    @property
    def matrix(self) -> Float[Array, "d d"]:
        """The rotation matrix R."""
        if self.rotation.ndim == 0:
            cos, sin = jnp.cos(self.rotation), jnp.sin(self.rotation)
            return jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
        return quaternion_matrix(self.rotation)

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """R x + t and zero."""
        return evaluate(Rigid._forward, self, x, self.translation.shape)

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """R^T (y - t) and zero."""
        return evaluate(Rigid._backward, self, y, self.translation.shape)

    def _forward(self, x: Array) -> tuple[Array, Array]:
        value = jnp.matmul(self.matrix, x, precision="highest") + self.translation
        return value, zero_log_det(x)

    def _backward(self, y: Array) -> tuple[Array, Array]:
        back = jnp.matmul(self.matrix.T, y - self.translation, precision="highest")
        return back, zero_log_det(y)


def quaternion_matrix(quaternion: Float[Array, "4"]) -> Float[Array, "3 3"]:
    """The rotation matrix of a quaternion (x, y, z, w) of any length but zero."""
    # R = I + 2/|q|^2 (w [v] + [v]^2), where [v] u = v x u
    x, y, z, w = quaternion
    zero = jnp.zeros_like(w)
    cross = jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3)
    square = jnp.matmul(cross, cross, precision="highest")
    size = jnp.sum(quaternion**2)
    return jnp.eye(3, dtype=size.dtype) + (w * cross + square) * (2 / size)


def _angle_or_quaternion(matrix: Array) -> Array:
    if matrix.shape == (2, 2):
        return jnp.arctan2(matrix[1, 0] - matrix[0, 1], matrix[0, 0] + matrix[1, 1])
    # All products of entries of the quaternion, times four, are linear in the matrix.
    # The row with the largest square is the quaternion itself, up to its length.
    trace = jnp.trace(matrix)
    skew = matrix - matrix.T
    vector = jnp.stack([skew[2, 1], skew[0, 2], skew[1, 0]])
    corner = matrix + matrix.T + (1 - trace) * jnp.eye(3, dtype=matrix.dtype)
    products = jnp.concatenate(
        [
            jnp.concatenate([corner, vector[:, None]], axis=1),
            jnp.concatenate([vector, (1 + trace)[None]])[None, :],
        ]
    )
    row = products[jnp.argmax(jnp.diagonal(products))]
    return row / jnp.sqrt(jnp.sum(row**2))
