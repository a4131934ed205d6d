"""Independent components as a strategy of directions."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax._checks import check_count, working_dtype

from .directions import haar_rotation
from .strategies import AbstractDirections, Sample


class IndependentDirections(AbstractDirections):
    """A whole basis of axes along which the points that move look least normal.

    Independent component analysis of points that are white or almost so, as those of
    `gaussianise` are, by a fixed-point iteration from a random rotation: with
    z = w.x of each row w,

        w <- E[tanh(z) x] - E[1 - tanh(z)^2] w,

    then all rows are made orthonormal again, without preferring any. It costs a few
    products of matrices a step, no sorting, where `MaxSlicedDirections` sorts; it looks
    at the points that move alone and takes the law to reach for a normal one.

    Args:
        num_steps: fixed-point iterations in a step.
        num_points: how many points it looks at, drawn anew at each step, at most.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import IndependentDirections
        >>> strategy, key = IndependentDirections(), jax.random.key(0)
        >>> x = jax.random.laplace(key, (4000, 2))
        >>> turn = jnp.array([[0.6, -0.8], [0.8, 0.6]])
        >>> rows, _, _ = strategy.sample(key, (), x @ turn, x)
        >>> print(jnp.sort(abs(rows[0])).round(1))  # of rows 0.6, -0.8 and 0.8, 0.6
        [0.6 0.8]

    References:
        Hyvärinen (1999), "Fast and robust fixed-point algorithms for independent
        component analysis". Laparra, Camps-Valls and Malo (2011), "Iterative
        Gaussianization: from ICA to random rotations".
    """

    num_steps: int = eqx.field(static=True, default=10)
    num_points: int = eqx.field(static=True, default=8192)

    def __check_init__(self) -> None:
        """Checks the options."""
        check_count("num_steps", self.num_steps, 0)
        check_count("num_points", self.num_points, 2)

    def init(self, key: PRNGKeyArray, dim: int) -> tuple:
        """No state."""
        del key, dim
        return ()

    def sample(
        self,
        key: PRNGKeyArray,
        state: Any,
        x: Float[Array, "n d"],
        y: Float[Array, "m d"],
    ) -> Sample:
        """The basis that the iteration has reached."""
        del y
        (num, dim), dtype = x.shape, x.dtype
        key_rows, key_points = jr.split(key)
        if num > self.num_points:
            places = jr.randint(key_points, (self.num_points,), 0, num)
            x = x.at[places].get(mode="promise_in_bounds")
        points = lax.stop_gradient(x.astype(working_dtype(dtype))).T
        points = points - jnp.mean(points, axis=1, keepdims=True)

        def improve(rows: Array, _: None) -> tuple[Array, None]:
            return _fixed_point(rows, points), None

        rows = haar_rotation(key_rows, dim, points.dtype)
        rows = lax.scan(improve, rows, length=self.num_steps)[0]
        return rows.astype(dtype), jnp.full(dim, 1 / dim, dtype), state


def _fixed_point(
    rows: Float[Array, "d d"], points: Float[Array, "d n"]
) -> Float[Array, "d d"]:
    """One iteration, with projections of variance one."""
    z = jnp.matmul(rows, points, precision="highest")
    spread = jnp.std(z, axis=1, keepdims=True)
    spread = jnp.where(spread > 0, spread, 1)
    bent = jnp.tanh(z / spread)
    slope = jnp.mean(1 - bent**2, axis=1, keepdims=True)
    moment = jnp.matmul(bent / spread, points.T, precision="highest") / points.shape[1]
    left, _, right = jnp.linalg.svd(moment - slope * rows, full_matrices=False)
    return jnp.matmul(left, right, precision="highest")
