"""Coordinates far out drawn in by a logarithm: a layer for data with outliers."""

import equinox as eqx
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks

from .bijection import AbstractBijection, as_leaf, evaluate


class LogTails(AbstractBijection):
    """The identity up to a threshold t, and a logarithm beyond it, along each axis.

        y = sign(x) (t + log(1 + |x| - t))   where |x| > t,

    is once continuously differentiable. A flow behind it is a law that falls off far
    out like a log-normal one. A normal law gives a sample a thousand deviations away a
    log-density of minus half a million, this one of minus seventy. So a few outliers
    that were not among the samples of a fit do not decide its likelihood, nor the steps
    of a training. Meant for standardised or whitened events.

    The image of every float32 number is below 94 + t; the inverse of more overflows.

    Differentiable in the event and in the threshold, which `maximum_likelihood` and
    `minimise` hold constant; the second derivative jumps at the threshold.

    Args:
        threshold: t >= 0, () or (d,).

    Raises:
        ValueError: a threshold of another shape, negative or NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import LogTails
        >>> map = LogTails(jnp.full(3, 4.0))
        >>> y = map(jnp.array([1.0, -5.0, 1e6]))
        >>> print(y.round(2), map.inverse(y).round(2)[:2])
        [ 1.   -4.69 17.82] [ 1. -5.]

    References:
        Jaini, Kobyzev, Yu and Brubaker (2020), "Tails of Lipschitz triangular flows":
        why flows with linear tails cannot change how fast a law falls off.
    """

    threshold: Float[Array, "*event"] = eqx.field(converter=as_leaf)

    def __check_init__(self):
        _checks.check_threshold("threshold", self.threshold)

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """The image and the log-determinant."""
        return evaluate(LogTails._forward, self, x, self.threshold.shape)

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """The event with that image, and the log-determinant."""
        return evaluate(LogTails._backward, self, y, self.threshold.shape)

    def _forward(self, x: Array) -> tuple[Array, Array]:
        inside, beyond = self._parts(x)
        drawn = jnp.log1p(beyond)
        return inside + jnp.sign(x) * drawn, -jnp.sum(drawn)

    def _backward(self, y: Array) -> tuple[Array, Array]:
        inside, beyond = self._parts(y)
        return inside + jnp.sign(y) * jnp.expm1(beyond), jnp.sum(beyond)

    def _parts(self, x: Array) -> tuple[Array, Array]:
        """The part of x up to the threshold, and how far |x| is beyond it."""
        is_beyond = jnp.abs(x) > self.threshold
        inside = jnp.where(is_beyond, jnp.sign(x) * self.threshold, x)
        return inside, jnp.where(is_beyond, jnp.abs(x) - self.threshold, 0 * x)
