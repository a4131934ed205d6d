"""Principal axes as a strategy of directions."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax._checks import check_count, check_num_orthonormal, working_dtype

from .strategies import AbstractDirections, Sample


class PrincipalDirections(AbstractDirections):
    """The principal axes of the points that move, those of greatest variance first.

    The rotations of the first method of Gaussianisation. They are found anew at every
    step; where all variances are equal, as in whitened points, they say nothing.

    Args:
        num: number of directions in a step. None, the default, is the dimension of the
            points.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import PrincipalDirections
        >>> strategy, key = PrincipalDirections(1), jax.random.key(0)
        >>> x = jax.random.normal(key, (100, 3)) * jnp.array([[1.0, 9.0, 1.0]])
        >>> directions, _, _ = strategy.sample(key, strategy.init(key, 3), x, x)
        >>> print(abs(directions).round(1))
        [[0. 1. 0.]]

    References:
        Laparra, Camps-Valls and Malo, 2011, "Iterative Gaussianization: from ICA to
        random rotations", section II.
    """

    num: int | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        """Checks the options."""
        if self.num is not None:
            check_count("num", self.num)

    def init(self, key: PRNGKeyArray, dim: int) -> tuple:
        """No state."""
        del key
        if self.num is not None:
            check_num_orthonormal("num", self.num, dim)
        return ()

    def sample(
        self,
        key: PRNGKeyArray,
        state: Any,
        x: Float[Array, "n d"],
        y: Float[Array, "m d"],
    ) -> Sample:
        """The leading eigenvectors of the covariance of `x`."""
        points = x.astype(working_dtype(x.dtype))
        centred = points - jnp.mean(points, axis=0)[None, :]
        cov = jnp.matmul(centred.T, centred, precision="highest") / len(points)
        num = x.shape[1] if self.num is None else self.num
        rows = jnp.linalg.eigh(cov)[1].T[::-1][:num]
        return rows.astype(x.dtype), jnp.full(num, 1 / num, x.dtype), state
