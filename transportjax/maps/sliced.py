"""The layer of all sliced transports: one scalar map along each of p directions."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks

from .bijection import AbstractBijection, as_leaf, evaluate

_MOST_UNROLLED = 4  # rows for which the program spells the scalar maps out


class SlicedMap(AbstractBijection):
    """x + W^T (T(W x) - W x): scalar maps T along the p orthonormal rows of W, p <= d.

    Every coordinate of W x moves by its own increasing function, and what is orthogonal
    to the rows stays. The log-determinant is the sum of log T'. Iterated distribution
    transfer, Gaussianisation and sliced normalising flows are stacks of this layer
    (`Scan`).

    The rows of W must stay orthonormal: the inverse and the log-determinant rest on it.
    Keep `directions` out of the trained leaves, or make them orthonormal after each
    step. More directions than dimensions cannot be orthonormal and are refused.

    Args:
        directions: W, shape (p, d), orthonormal rows.
        marginals: a scalar map whose leaves have a leading axis p, for example
            `jax.vmap(MonotoneLinear.from_knots)(x_knots, y_knots)`.

    Raises:
        ValueError: p > d, rows that are not orthonormal (where their values are
            known), or marginals of another number.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import MonotoneLinear, SlicedMap
        >>> knots = jnp.array([[0.0, 1.0]])
        >>> stretch = jax.vmap(MonotoneLinear.from_knots)(knots, 3.0 * knots)
        >>> layer = SlicedMap(jnp.array([[0.0, 1.0]]), stretch)
        >>> print(layer(jnp.array([5.0, 0.5])).round(4))
        [5.  1.5]

    References:
        Pitie, Kokaram and Dahyot (2005), "N-dimensional probability density function
        transfer and its application to colour transfer".
        Dai and Seljak (2021), "Sliced iterative normalizing flows", section 3.
    """

    directions: Float[Array, "p d"] = eqx.field(converter=as_leaf)
    marginals: AbstractBijection

    def __check_init__(self):
        _checks.check_orthonormal("directions", self.directions)
        _checks.check_bijection("marginals", self.marginals, AbstractBijection)
        shapes = [leaf.shape for leaf in jax.tree.leaves(self.marginals)]
        _checks.check_stacked("marginals", shapes, self.directions.shape[0])

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The image of a point and the sum of log T'."""
        return evaluate(SlicedMap._forward, self, x, self.directions.shape[-1:])

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The same layer with the inverse scalar maps."""
        return evaluate(SlicedMap._backward, self, y, self.directions.shape[-1:])

    def _forward(self, x: Array) -> tuple[Array, Array]:
        return self._move(x, "transform_and_log_det")

    def _backward(self, y: Array) -> tuple[Array, Array]:
        return self._move(y, "inverse_and_log_det")

    def _move(self, x: Array, method: str) -> tuple[Array, Array]:
        z = jnp.matmul(self.directions, x, precision="highest")
        moved, log_dets = along_rows(self.marginals, method, z)
        return x + _combine(self.directions, moved - z), jnp.sum(log_dets)


def _combine(directions: Float[Array, "p d"], steps: Float[Array, " p"]) -> Array:
    """W^T applied to steps along the rows."""
    if steps.shape[0] > _MOST_UNROLLED:
        return jnp.matmul(directions.T, steps, precision="highest")
    # spelled out, it becomes a part of the loop that reads the tables
    return sum(
        (step * row for step, row in zip(steps, directions, strict=True)),
        start=jnp.zeros_like(directions, shape=directions.shape[1:]),
    )


def along_rows(
    marginals: AbstractBijection, method: str, z: Float[Array, " p"]
) -> tuple[Float[Array, " p"], Float[Array, " p"]]:
    """`method` of the p scalar maps at the p numbers."""
    if z.shape[0] > _MOST_UNROLLED:
        return jax.vmap(lambda t, s: getattr(t, method)(s))(marginals, z)
    # the reads of one table are twice as fast as those of one table of many
    results = [
        getattr(jax.tree.map(lambda leaf, row=row: leaf[row], marginals), method)(
            z[row]
        )
        for row in range(z.shape[0])
    ]
    moved, log_dets = zip(*results, strict=True)
    return jnp.stack(moved), jnp.stack(log_dets)
