"""Increasing piecewise linear maps of the line, with equally spaced knots."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks

from .bijection import AbstractBijection, at_least_float32, evaluate
from .monotone import count_below, cumulate, lookup

_LEAST_SLOPE = 1e-4  # flat parts of a fit get this slope, so that they can be inverted


class MonotoneGrid(AbstractBijection):
    """An increasing, piecewise linear map of the line through k equally spaced knots.

    Finding the segment of a point takes one multiplication where `MonotoneLinear`
    searches among its knots: the map for many points, made of histograms. The inverse
    searches. Outside the end knots the slope is one. The leaves are unconstrained.

    Usually built by `MonotoneGrid.from_values`; for the p marginals of a `SlicedMap`,
    by `jax.vmap(MonotoneGrid.from_values)`.

    Differentiability is that of `MonotoneLinear`.

    Args:
        log_width: logarithm of the distance between neighbouring knots in x.
        log_heights: logarithms of the k - 1 distances between the knots in y.
        x0: the first knot in x.
        y0: the first knot in y.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import MonotoneGrid
        >>> curve = MonotoneGrid.from_values(0.0, 2.0, jnp.array([0.0, 3.0, 4.0]))
        >>> print(jax.vmap(curve)(jnp.array([-1.0, 0.5, 2.0, 3.0])).round(4))
        [-1.   1.5  4.   5. ]
        >>> print(curve.inverse(1.5).round(4))
        0.5
    """

    log_width: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    log_heights: Float[Array, " segments"] = eqx.field(converter=jnp.asarray)
    x0: Float[Array, ""] = eqx.field(converter=jnp.asarray)
    y0: Float[Array, ""] = eqx.field(converter=jnp.asarray)

    @classmethod
    def from_values(
        cls, low: ArrayLike, high: ArrayLike, values: ArrayLike
    ) -> "MonotoneGrid":
        """The map with the given values at knots from `low` to `high`.

        Args:
            low: the first knot.
            high: the last knot, > low.
            values: images of the knots, shape (k,), non-decreasing, k >= 2. Rises of a
                slope below 1e-4 are raised to it, so that the map can be inverted.

        Returns:
            The map; its leaves are float32 at least.

        Raises:
            ValueError: fewer than two values, decreasing ones, high <= low.
        """
        low, high, values = _checks.common_float(
            ("low", low), ("high", high), ("values", values)
        )
        _checks.check_grid(low, high, values)
        low, high, values = at_least_float32(low, high, values)
        width = (high - low) / (values.shape[0] - 1)
        heights = jnp.maximum(jnp.diff(values), _LEAST_SLOPE * width)
        return cls(jnp.log(width), jnp.log(heights), low, values[0])

    @property
    def knots(self) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        """The knots (x, y), each of shape (k,)."""
        numbers = jnp.arange(self.log_heights.shape[0] + 1).astype(self.x0.dtype)
        return (
            self.x0 + numbers * jnp.exp(self.log_width),
            self.y0 + cumulate(self.log_heights),
        )

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """T(x) and log T'(x)."""
        return evaluate(MonotoneGrid._forward, self, x, ())

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """T^-1(y) and the logarithm of its derivative."""
        return evaluate(MonotoneGrid._backward, self, y, ())

    def _forward(self, x: Array) -> tuple[Array, Array]:
        last = self.log_heights.shape[0]
        rises = cumulate(self.log_heights)
        width = jnp.exp(self.log_width)
        offset = x - self.x0
        place = jnp.clip(offset * jnp.exp(-self.log_width), 0, last)
        index = jnp.minimum(jax.lax.stop_gradient(place).astype("int32"), last - 1)
        share = place - index.astype(x.dtype)
        left, right = lookup(rises, index), lookup(rises, index + 1)
        # the tails: what the clipping cut off goes on with slope one
        value = left + (right - left) * share + (offset - place * width)
        below, above = offset < 0, offset >= last * width
        log_slope = lookup(self.log_heights, index) - self.log_width
        return self.y0 + value, jnp.where(below | above, 0, log_slope)

    def _backward(self, y: Array) -> tuple[Array, Array]:
        rises = cumulate(self.log_heights)
        log_slopes = jnp.pad(self.log_width - self.log_heights, 1)
        number = count_below(rises, y - self.y0)
        left = jnp.maximum(number - 1, 0)
        log_slope = lookup(log_slopes, number)
        step = (y - self.y0 - lookup(rises, left)) * jnp.exp(log_slope)
        start = left.astype(y.dtype) * jnp.exp(self.log_width)
        return self.x0 + start + step, log_slope
