"""Increasing piecewise linear maps of the line, with free knots."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from transportjax import _checks

from .bijection import AbstractBijection, as_leaf, at_least_float32, evaluate

# Up to this number of knots, comparing with all of them beats a bisection (on CPU; with
# 512 knots a bisection is 90 times faster).
_MAX_COMPARED = 16


class MonotoneLinear(AbstractBijection):
    """An increasing, piecewise linear map of the line through k free knots.

    Outside the end knots the slope is one: the displacement of the end knot goes on.
    With one knot the map is a translation. The leaves are unconstrained, so whatever
    step an optimiser takes, the map stays strictly increasing.

    Usually built by `MonotoneLinear.from_knots`; for the p marginals of a `SlicedMap`,
    by `jax.vmap(MonotoneLinear.from_knots)` on knots of shape (p, k).

    The value is differentiable in the input and in the leaves, but for the input at the
    knots, where the derivative is that of the segment to the right. The inverse is
    exact: solving a linear equation, not iterating.

    Args:
        log_widths: logarithms of the k - 1 distances between the knots in x.
        log_heights: logarithms of the k - 1 distances between the knots in y.
        x0: the first knot in x.
        y0: the first knot in y.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import MonotoneLinear
        >>> x_knots, y_knots = jnp.array([0.0, 1.0, 2.0]), jnp.array([0.0, 3.0, 4.0])
        >>> curve = MonotoneLinear.from_knots(x_knots, y_knots)
        >>> print(jax.vmap(curve)(jnp.array([-1.0, 0.5, 2.0, 3.0])).round(4))
        [-1.   1.5  4.   5. ]
        >>> print(curve.inverse(1.5).round(4))
        0.5
    """

    log_widths: Float[Array, " segments"] = eqx.field(converter=as_leaf)
    log_heights: Float[Array, " segments"] = eqx.field(converter=as_leaf)
    x0: Float[Array, ""] = eqx.field(converter=as_leaf)
    y0: Float[Array, ""] = eqx.field(converter=as_leaf)

    @classmethod
    def from_knots(cls, x: ArrayLike, y: ArrayLike) -> "MonotoneLinear":
        """The map through the points (x_j, y_j), j = 1..k.

        Knots may repeat: in x (the map jumps), in y (it is flat), or in both. Distances
        below 2^-6 units in the last place of the range are raised to that, which moves
        no knot by more than the rounding of the range and keeps every slope finite and
        positive. Where all knots are equal in x, or in y, the range of the other is
        used; the leaves are float32 at least.

        Args:
            x: knots, shape (k,), non-decreasing, k >= 1.
            y: their images, shape (k,), non-decreasing.

        Returns:
            The map.

        Raises:
            ValueError: knots of unequal or wrong shapes; values that are not finite or
                that decrease.
        """
        x, y = _checks.common_float(("x", x), ("y", y))
        _checks.check_knots("x", x, "y", y)
        return cls(*log_increments(x, y), *at_least_float32(x[0], y[0]))

    @property
    def knots(self) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        """The knots (x, y), each of shape (k,)."""
        return self.x0 + cumulate(self.log_widths), self.y0 + cumulate(self.log_heights)

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """T(x) and log T'(x)."""
        return evaluate(MonotoneLinear._forward, self, x, ())

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """T^-1(y) and the logarithm of its derivative."""
        return evaluate(MonotoneLinear._backward, self, y, ())

    def _forward(self, x: Array) -> tuple[Array, Array]:
        value, log_det = _piecewise(self.log_widths, self.log_heights, x - self.x0)
        return self.y0 + value, log_det

    def _backward(self, y: Array) -> tuple[Array, Array]:
        value, log_det = _piecewise(self.log_heights, self.log_widths, y - self.y0)
        return self.x0 + value, log_det


def _piecewise(log_widths: Array, log_heights: Array, x: Array) -> tuple[Array, Array]:
    """The polyline from the origin at x, with slope one at both sides, and log-slope.

    Coordinates start at the first knot, so that data far from zero lose nothing. The
    tails are entries of the tables like the segments: no case is distinguished, and no
    branch can leak a NaN into a derivative.
    """
    x_knots, y_knots = cumulate(log_widths), cumulate(log_heights)
    # Slopes of the rounded knots, so that the pieces meet; a piece that rounding has
    # made empty is never looked up.
    widths, heights = jnp.diff(x_knots), jnp.diff(y_knots)
    slopes = heights / jnp.where(widths > 0, widths, jnp.ones_like(widths))
    index = count_below(x_knots, x)
    # the left tail is anchored at the first knot, as the first segment is
    x_left = lookup(jnp.concatenate([x_knots[:1], x_knots]), index)
    y_left = lookup(jnp.concatenate([y_knots[:1], y_knots]), index)
    slope = lookup(jnp.pad(slopes, 1, constant_values=1), index)
    log_slope = lookup(jnp.pad(log_heights - log_widths, 1), index)
    return y_left + (x - x_left) * slope, log_slope


def cumulate(log_increments: Float[Array, " segments"]) -> Float[Array, " k"]:
    """The k = segments + 1 cumulative sums of exp(log_increments), the first zero.

    Never decreasing: sums are made in blocks, and where increments are below the
    rounding the blocks can overlap by a unit in the last place.
    """
    sums = jnp.pad(jnp.cumsum(jnp.exp(log_increments)), (1, 0))
    return sums + jax.lax.stop_gradient(jax.lax.cummax(sums) - sums)


@jax.jit
def log_increments(
    x: Float[Array, " k"], y: Float[Array, " k"]
) -> tuple[Float[Array, " segments"], Float[Array, " segments"]]:
    """Logarithms of the increments of both sequences, floored as in `from_knots`."""
    x, y = at_least_float32(x, y)
    x_range, y_range = x[-1] - x[0], y[-1] - y[0]
    return (
        _log_increments(x, jnp.where(x_range > 0, x_range, y_range)),
        _log_increments(y, jnp.where(y_range > 0, y_range, x_range)),
    )


def _log_increments(x: Array, scale: Array) -> Array:
    info = jnp.finfo(x.dtype)
    scale = jax.lax.stop_gradient(jnp.where(scale > 0, scale, jnp.ones_like(scale)))
    least = jnp.maximum(scale * (float(info.eps) / 64), float(info.tiny))
    return jnp.log(jnp.maximum(jnp.diff(x), least))


def count_below(knots: Float[Array, " k"], x: Float[Array, ""]) -> Int[Array, ""]:
    """The number of sorted knots that are <= x; 0 for NaN. No derivative.

    A bisection whose every step is one pass over the events of a `vmap`. Written out
    instead of looped over, the compiler repeats it for every lookup that follows.
    """
    knots, x = jax.lax.stop_gradient((knots, x))
    k = knots.shape[0]
    if k <= _MAX_COMPARED:
        return jnp.sum(knots <= x, dtype="int32")
    num_bits = k.bit_length()
    padded = jnp.pad(knots, (0, 2**num_bits - 1 - k), constant_values=jnp.inf)

    def step(count: Array, size: Array) -> tuple[Array, None]:
        larger = count + size
        return jnp.where(lookup(padded, larger - 1) <= x, larger, count), None

    start = (x < knots[0]).astype("int32") * 0
    sizes = jnp.array([1 << bit for bit in reversed(range(num_bits))], dtype="int32")
    count = jax.lax.scan(step, start, sizes)[0]
    return jnp.minimum(count, k)  # infinite x passes the padding too


def lookup(table: Float[Array, " k"], index: Int[Array, ""]) -> Float[Array, ""]:
    """`table[index]`, where the index is known to be in bounds."""
    return table.at[index].get(mode="promise_in_bounds")
