"""From an interval to the whole line: the first layer for data with bounds."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from transportjax import _checks

from .bijection import AbstractBijection, as_leaf, evaluate


class SupportMap(AbstractBijection):
    """Coordinates with bounds, each moved to the whole line.

    Between two bounds log((x - low) / (high - x)); above one bound the inverse of
    softplus, log(exp(x - low) - 1), which is x - low far from it; below one bound the
    mirror image; without bounds the identity. As the first layer of a flow it makes
    sure that no mass lies outside of the support.

    Events on or beyond a bound have no image: NaN or infinite; `Flow.log_prob` knows
    that their density is zero. Data that lie on it, as counts do, need noise first.
    Units matter for a single bound: standardise scales.

    Differentiable in the event and in finite bounds. `maximum_likelihood` and
    `minimise` hold the bounds constant.

    Args:
        low: lower bounds, () or (d,); minus infinity for none.
        high: upper bounds, of the same shape; infinity for none.

    Raises:
        ValueError: unequal shapes, or bounds that are not in order.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import SupportMap
        >>> map = SupportMap(jnp.array([0.0, 0.0]), jnp.array([1.0, jnp.inf]))
        >>> z = map(jnp.array([0.5, 50.0]))
        >>> print(z.round(2), map.inverse(z).round(2))
        [ 0. 50.] [ 0.5 50. ]
    """

    low: Float[Array, "*event"] = eqx.field(converter=as_leaf)
    high: Float[Array, "*event"] = eqx.field(converter=as_leaf)

    def __check_init__(self):
        _checks.check_support(self.low, self.high)

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """The image and the log-determinant."""
        return evaluate(SupportMap._forward, self, x, self.low.shape)

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """The event within the bounds, and the log-determinant."""
        return evaluate(SupportMap._backward, self, y, self.low.shape)

    def excludes(self, x: Float[Array, "*event"]) -> Bool[Array, ""]:
        """Whether an event has a coordinate on or beyond a bound."""
        return jnp.any((x <= self.low) | (x >= self.high))

    def _forward(self, x: Array) -> tuple[Array, Array]:
        has_low, has_high = jnp.isfinite(self.low), jnp.isfinite(self.high)
        # Distances to the bounds. Where there is none: one, and nothing leaks into a
        # derivative.
        one = jnp.ones_like(x)
        above = jnp.where(has_low, x - jnp.where(has_low, self.low, x), one)
        below = jnp.where(has_high, jnp.where(has_high, self.high, x) - x, one)
        value = jnp.where(has_low, _log_expm1(above), x)
        value = jnp.where(has_high, -_log_expm1(below), value)
        value = jnp.where(has_low & has_high, jnp.log(above) - jnp.log(below), value)
        slope = jnp.where(has_low, -_log_rest(above), 0 * x)
        slope = jnp.where(has_high, -_log_rest(below), slope)
        both = jnp.log(above + below) - jnp.log(above) - jnp.log(below)
        return value, jnp.sum(jnp.where(has_low & has_high, both, slope))

    def _backward(self, y: Array) -> tuple[Array, Array]:
        has_low, has_high = jnp.isfinite(self.low), jnp.isfinite(self.high)
        zero = jnp.zeros_like(y)
        low = jnp.where(has_low, self.low, zero)
        high = jnp.where(has_high, self.high, zero)
        width = jnp.where(has_low & has_high, high - low, zero + 1)
        value = jnp.where(has_low, low + jax.nn.softplus(y), y)
        value = jnp.where(has_high, high - jax.nn.softplus(-y), value)
        # from the nearer bound, so that the digits of its distance are kept
        between = jnp.where(
            y < 0, low + width * jax.nn.sigmoid(y), high - width * jax.nn.sigmoid(-y)
        )
        value = jnp.where(has_low & has_high, between, value)
        slope = jnp.where(has_low, jax.nn.log_sigmoid(y), zero)
        slope = jnp.where(has_high, jax.nn.log_sigmoid(-y), slope)
        both = jnp.log(width) + jax.nn.log_sigmoid(y) + jax.nn.log_sigmoid(-y)
        return value, jnp.sum(jnp.where(has_low & has_high, both, slope))


def _log_expm1(x: Array) -> Array:
    """The log(exp(x) - 1), without overflow."""
    return x + _log_rest(x)


def _log_rest(x: Array) -> Array:
    """The log(1 - exp(-x)) for x > 0."""
    return jnp.log(-jnp.expm1(-x))
