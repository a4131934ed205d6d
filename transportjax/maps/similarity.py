"""Rotation, translation and one scale."""

import equinox as eqx
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks

from .bijection import AbstractBijection, as_leaf, evaluate
from .rigid import Rigid


class Similarity(AbstractBijection):
    """y = s R x + t: a `Rigid` map of the event times s = exp(log_scale) > 0.

    Angles and ratios of lengths stay. The log-determinant is d log s. Differentiable
    in the event and in all leaves, which are unconstrained.

    Args:
        turn: R and t.
        log_scale: log s, shape ().

    Raises:
        ValueError: a scale that is no finite number; a `turn` that is no `Rigid`.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import Rigid, Similarity
        >>> turn = Rigid(jnp.pi / 2, jnp.array([0.0, 1.0]))
        >>> print(Similarity(turn, jnp.log(3.0))(jnp.array([2.0, 0.0])).round(4) + 0.0)
        [0. 7.]
    """

    turn: Rigid
    log_scale: Float[Array, ""] = eqx.field(converter=as_leaf)

    def __check_init__(self):
        _checks.check_kind("turn", self.turn, Rigid)
        _checks.check_number("log_scale", self.log_scale)

    @classmethod
    def identity(cls, dim: int) -> "Similarity":
        """The map that leaves everything in place, in dimension 2 or 3."""
        return cls(Rigid.identity(dim), jnp.zeros(()))

    @property
    def matrix(self) -> Float[Array, "d d"]:
        """The matrix s R."""
        return jnp.exp(self.log_scale) * self.turn.matrix

    @property
    def translation(self) -> Float[Array, " d"]:
        """The translation t."""
        return self.turn.translation

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The image s R x + t, and d log s."""
        return evaluate(Similarity._forward, self, x, self.translation.shape)

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The event R^T (y - t) / s, and -d log s."""
        return evaluate(Similarity._backward, self, y, self.translation.shape)

    def _forward(self, x: Array) -> tuple[Array, Array]:
        value, zero = self.turn._forward(jnp.exp(self.log_scale) * x)
        return value, zero + x.shape[0] * self.log_scale

    def _backward(self, y: Array) -> tuple[Array, Array]:
        value, zero = self.turn._backward(y)
        return jnp.exp(-self.log_scale) * value, zero - y.shape[0] * self.log_scale
