"""Increasing rational-quadratic splines of the line, with free knots and slopes."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks

from .bijection import AbstractBijection, as_leaf, at_least_float32, evaluate
from .monotone import count_below, cumulate, log_increments, lookup


class RationalQuadraticSpline(AbstractBijection):
    """An increasing, once continuously differentiable map of the line through k knots.

    Between two knots a ratio of quadratic polynomials, fixed by the two points and the
    slopes there; outside the end knots linear, with the slope of the end knot. Knots
    and slopes are free and the leaves unconstrained. The inverse is the root of a
    quadratic equation, in the form without cancellation.

    Usually built by `from_knots` or `identity`; for the p marginals of a `SlicedMap` by
    `jax.vmap` over either.

    Differentiable in the input and in the leaves; the second derivative in the input
    jumps at the knots.

    Args:
        log_widths: logarithms of the k - 1 distances between the knots in x.
        log_heights: logarithms of the k - 1 distances between the knots in y.
        log_derivatives: logarithms of the k slopes at the knots.
        x0: the first knot in x.
        y0: the first knot in y.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import RationalQuadraticSpline
        >>> x_knots, y_knots = jnp.array([0.0, 1.0, 2.0]), jnp.array([0.0, 3.0, 4.0])
        >>> slopes = jnp.array([2.0, 1.5, 0.5])
        >>> curve = RationalQuadraticSpline.from_knots(x_knots, y_knots, slopes)
        >>> print(jax.vmap(curve)(jnp.array([-1.0, 0.5, 1.0, 4.0])).round(4))
        [-2.      1.5789  3.      5.    ]
        >>> print(curve.inverse(curve(0.5)).round(4))
        0.5

    References:
        Gregory and Delbourgo (1982), "Piecewise rational quadratic interpolation to
        monotonic data".
        Durkan, Bekasov, Murray and Papamakarios (2019), "Neural spline flows".
        Dai and Seljak (2021), "Sliced iterative normalizing flows": free knots with
        linear tails.
    """

    log_widths: Float[Array, " segments"] = eqx.field(converter=as_leaf)
    log_heights: Float[Array, " segments"] = eqx.field(converter=as_leaf)
    log_derivatives: Float[Array, " k"] = eqx.field(converter=as_leaf)
    x0: Float[Array, ""] = eqx.field(converter=as_leaf)
    y0: Float[Array, ""] = eqx.field(converter=as_leaf)

    @classmethod
    def from_knots(
        cls, x: ArrayLike, y: ArrayLike, derivatives: ArrayLike
    ) -> "RationalQuadraticSpline":
        """The map through the points (x_j, y_j) with slope d_j there, j = 1..k.

        Repeated knots are spread as in `MonotoneLinear.from_knots`.

        Args:
            x: knots, shape (k,), non-decreasing, k >= 1.
            y: their images, shape (k,), non-decreasing.
            derivatives: the slopes at the knots, shape (k,), positive.

        Returns:
            The map.

        Raises:
            ValueError: unequal or wrong shapes; values that are not finite, knots that
                decrease, slopes that are not positive.
        """
        x, y, derivatives = _checks.common_float(
            ("x", x), ("y", y), ("derivatives", derivatives)
        )
        _checks.check_knots("x", x, "y", y)
        _checks.check_slopes("derivatives", derivatives, x.shape)
        x, y, derivatives = at_least_float32(x, y, derivatives)
        widths, heights = log_increments(x, y)
        return cls(widths, heights, jnp.log(derivatives), x[0], y[0])

    @classmethod
    def identity(
        cls, num_knots: int, *, low: ArrayLike = -3.0, high: ArrayLike = 3.0
    ) -> "RationalQuadraticSpline":
        """The identity, with equally spaced knots in [low, high]: a start for training.

        Args:
            num_knots: k >= 2.
            low: the first knot; the default suits standardised data.
            high: the last knot, above `low`.

        Returns:
            The map, in the dtype of `low` and `high` (python numbers: default float).
        """
        _checks.check_count("num_knots", num_knots, minimum=2)
        low, high = _checks.common_float(("low", low), ("high", high))
        _checks.check_interval("low", low, "high", high)
        knots = low + (high - low) * jnp.linspace(0, 1, num_knots, dtype=low.dtype)
        return cls.from_knots(knots, knots, jnp.ones_like(knots))

    @property
    def knots(
        self,
    ) -> tuple[Float[Array, " k"], Float[Array, " k"], Float[Array, " k"]]:
        """The knots and slopes (x, y, derivatives), each of shape (k,)."""
        x = self.x0 + cumulate(self.log_widths)
        return x, self.y0 + cumulate(self.log_heights), jnp.exp(self.log_derivatives)

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """T(x) and log T'(x)."""
        return evaluate(RationalQuadraticSpline._forward, self, x, ())

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """T^-1(y) and the logarithm of its derivative."""
        return evaluate(RationalQuadraticSpline._backward, self, y, ())

    def _forward(self, x: Array) -> tuple[Array, Array]:
        knots = cumulate(self.log_widths)
        inside, below, above = _split(x - self.x0, knots[-1])
        b = self._bin(knots, inside)
        t = at_most_one((inside - b.x) / jnp.exp(b.log_width))
        y = b.y + jnp.exp(b.log_height) * bin_value(t, b.start, b.end)
        log_slope = b.log_slope + bin_log_slope(t, 1 - t, b.start, b.end)
        first, last = jnp.exp(self.log_derivatives[jnp.array([0, -1])])
        return self.y0 + y + first * below + last * above, log_slope

    def _backward(self, y: Array) -> tuple[Array, Array]:
        knots = cumulate(self.log_heights)
        inside, below, above = _split(y - self.y0, knots[-1])
        b = self._bin(knots, inside)
        r = at_most_one((inside - b.y) / jnp.exp(b.log_height))
        t, rest = bin_inverse(r, b.start, b.end)
        x = b.x + jnp.exp(b.log_width) * t
        log_slope = b.log_slope + bin_log_slope(t, rest, b.start, b.end)
        first, last = jnp.exp(-self.log_derivatives[jnp.array([0, -1])])
        return self.x0 + x + first * below + last * above, -log_slope

    def _bin(self, knots: Array, inside: Array) -> "_Bin":
        """What the formulas need of the bin between two `knots` that holds `inside`."""
        if self.log_widths.shape[0] == 0:
            zero, d = jnp.zeros_like(inside), self.log_derivatives[0]
            return _Bin(zero, zero, zero, d, d, zero + 1, zero + 1)
        # the last knot belongs to the last bin
        index = count_below(knots[1:-1], inside)
        log_width = lookup(self.log_widths, index)
        log_height = lookup(self.log_heights, index)
        log_slope = log_height - log_width
        return _Bin(
            lookup(cumulate(self.log_widths), index),
            lookup(cumulate(self.log_heights), index),
            log_width,
            log_height,
            log_slope,
            jnp.exp(lookup(self.log_derivatives, index) - log_slope),
            jnp.exp(lookup(self.log_derivatives, index + 1) - log_slope),
        )


class _Bin(NamedTuple):
    """One bin; `start` and `end` are its end slopes over its mean slope."""

    x: Array
    y: Array
    log_width: Array
    log_height: Array
    log_slope: Array
    start: Array
    end: Array


# In units of the bin, with u = 1 - t, and e0 and e1 the end slopes over the mean slope
# (delta/s in Durkan et al.), their equations (4) and (5) are
#     r = t (t + e0 u) / D,   D = t^2 + (e0 + e1) t u + u^2,
#     dr/dt = (e1 t^2 + 2 t u + e0 u^2) / D^2.
# All terms are positive, so nothing cancels. Divided by u^2, the first is a quadratic
# equation for t/u,
#     (1 - r) (t/u)^2 + b (t/u) - r = 0,   b = e0 (1 - r) - e1 r,
# whose discriminant b^2 + 4 r (1 - r) is a sum of positive terms as well.
def bin_value(t: Array, start: Array, end: Array) -> Array:
    """The r in [0, 1] of t in [0, 1], both in units of the bin."""
    rest = 1 - t
    return t * (t + start * rest) / _bin_denominator(t, rest, start + end)


def bin_log_slope(t: Array, rest: Array, start: Array, end: Array) -> Array:
    """The logarithm of dr/dt, at t with t + rest = 1."""
    numerator = end * t**2 + 2 * t * rest + start * rest**2
    denominator = _bin_denominator(t, rest, start + end)
    return jnp.log(numerator) - 2 * jnp.log(denominator)


def _bin_denominator(t: Array, rest: Array, slopes: Array) -> Array:
    return t**2 + slopes * t * rest + rest**2


def bin_inverse(r: Array, start: Array, end: Array) -> tuple[Array, Array]:
    """The t in [0, 1] whose value is r, and 1 - t."""
    above = 1 - r
    linear = start * above - end * r
    root = jnp.sqrt(linear**2 + 4 * r * above)
    # the form of the quadratic formula that adds numbers of the same sign
    is_positive = linear >= 0
    t = jnp.where(is_positive, 2 * r, root - linear)
    rest = jnp.where(is_positive, root + linear, 2 * above)
    return t / (t + rest), rest / (t + rest)


def _split(x: Array, end: Array) -> tuple[Array, Array, Array]:
    """The parts of x inside [0, end], below it, and above it; their sum is x.

    The derivative at both ends goes to the part inside, all of it.
    """
    is_below, is_above = x < 0, x > end
    zero = jnp.zeros_like(x)
    inside = jnp.where(is_below, zero, jnp.where(is_above, end, x))
    return inside, jnp.where(is_below, x, zero), jnp.where(is_above, x - end, zero)


def at_most_one(t: Array) -> Array:
    """min(t, 1) against rounding, with the derivative of t where t is one."""
    return jnp.where(t > 1, jnp.ones_like(t), t)
