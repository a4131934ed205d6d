"""Smooth transfer: quantile and distribution functions blurred by a logistic kernel.

The distribution function of samples x_i of normalised weights a_i, blurred at the scale
h, is F_x(t) = sum_i a_i sigma((t - x_i) / h), with sigma(z) = 1 / (1 + exp(-z)). It
increases strictly, so that F_y^-1(F_x(t)) is smooth in everything. In the tails F falls
like an exponential: the map goes on there as a translation.

Levels are kept as log F below the median and as log (1 - F) above it, so that a tail
is as precise as the middle. The sign `side` says which: +1 for F, -1 for 1 - F.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import (
    as_float,
    check_batches,
    check_levels,
    check_number,
    common_float,
)
from transportjax._sharding import explicit_mesh_guard

from .levels import by_rows, checked_samples, in_rows

_PAIRS = 2**20  # how many (t, x) pairs are held at a time
_STEPS = 100  # more than bisection needs in double precision


@explicit_mesh_guard
def soft_transfer(
    x: ArrayLike,
    y: ArrayLike,
    t: ArrayLike,
    *,
    bandwidth: ArrayLike,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
) -> Float[Array, "*shape"]:
    """Where the smooth transport of `x` onto `y` sends `t`: F_y^-1(F_x(t)).

    F_x and F_y are distribution functions blurred by a logistic kernel. The map is
    increasing and smooth, with tails of slope one; `x` and `y` exchanged give its
    inverse. As the bandwidth vanishes it becomes `quantile_transfer` (at samples
    without ties, for n = m).

    Differentiable, twice or more, in `x`, `y`, `t`, `bandwidth` and the weights, and
    with derivatives that are not zero, unlike those of `quantile_transfer` in `x`. With
    t = x the two add up: the gradient of `soft_transfer(x, y, x)` in `x` is that of
    fitting and applying. The inverse is differentiated by the implicit function
    theorem.

    The cost is that of some ten passes over all pairs of `t` with `x` and `y` (fifty,
    if the bandwidth is far below the gaps). Pairs are never stored. For large samples
    draw a part of them.

    Args:
        x: finite source samples, (..., n).
        y: finite target samples, (..., m); the leading axes broadcast.
        t: positions to move: a scalar, (k,) for all rows, or (..., k).
        bandwidth: the scale h > 0 of the kernel, one number in units of `x`; its
            standard deviation is 1.8 h. Where a gap between samples is wider than
            some 30 h (70 h in double precision), the map is not determined there.
        x_weights: masses >= 0 of the source samples, (n,) or the shape of `x`.
        y_weights: masses >= 0 of the target samples, (m,) or the shape of `y`.

    Returns:
        The images: the leading axes of `x` and `y`, then k.

    Raises:
        ValueError: empty, NaN or infinite samples or positions, bad weights, a
            bandwidth that is not positive.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from transportjax.onedim import soft_transfer
        >>> x, y = jnp.array([0.0, 1.0, 2.0]), jnp.array([0.0, 2.0, 4.0])
        >>> def move(t):
        ...     return soft_transfer(x, y, t, bandwidth=0.5)
        >>> print(f"{move(1.0):.2f}, slope {jax.grad(move)(1.0):.2f}")
        2.00, slope 1.61

    References:
        Azzalini, 1981, "A note on the estimation of a distribution function and
        quantiles by a kernel method", Biometrika 68.
    """
    x, y, t = common_float(("x", x), ("y", y), ("t", t))
    dtype, scalar = x.dtype, t.ndim == 0
    x, x_weights = checked_samples("x", x, x_weights, "x_weights")
    y, y_weights = checked_samples("y", y, y_weights, "y_weights")
    check_batches("x", x, "y", y)
    check_levels("t", t, -jnp.inf, jnp.inf, "positions")
    check_number("bandwidth", bandwidth, 0, open_low=True)
    h = as_float("bandwidth", bandwidth).astype(x.dtype)
    batch = jnp.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    t = in_rows("t", t.astype(x.dtype), "x", batch)
    a, b = _masses(x, x_weights), _masses(y, y_weights)
    moved = _transfer(x, a, y, b, t, h).astype(dtype)
    return moved[..., 0] if scalar else moved


def _masses(x: Array, weights: Array | None) -> Array:
    """Normalised weights."""
    if weights is None:
        return jnp.full_like(x, 1 / x.shape[-1])
    weights = weights / lax.stop_gradient(jnp.max(weights, axis=-1, keepdims=True))
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


@jax.jit
@by_rows("(n),(n),(m),(m),(k),()->(k)")
def _transfer(x: Array, a: Array, y: Array, b: Array, t: Array, h: Array) -> Array:
    below = _sum_over(*map(lax.stop_gradient, (t, jnp.ones_like(t), x, a, h)))
    side = jnp.where(below <= 0.5, 1, -1).astype(t.dtype)
    return _quantile(_log_mass(t, side, x, a, h), side, y, b, h)


def _log_mass(t: Array, side: Array, x: Array, a: Array, h: Array) -> Array:
    """Log F(t), or log (1 - F(t)) where `side` is -1."""
    # Where t is `reach` bandwidths outside of all samples, the kernel is an exponential
    # to rounding, so log F is linear beyond.
    low, high = _extent(x, a)
    reach = (2 - jnp.log(jnp.finfo(t.dtype).eps)).astype(t.dtype) * h
    low, high = lax.stop_gradient((low - reach, high + reach))
    inside = jnp.where(t < low, low, jnp.where(t > high, high, t))
    beyond = side * (t - inside) / h
    beyond = jnp.where(beyond < 0, beyond, 0)
    total = _sum_over(inside, side, x, a, h)
    return jnp.log(jnp.maximum(total, jnp.finfo(t.dtype).tiny)) + beyond


def _extent(x: Array, a: Array) -> tuple[Array, Array]:
    """The least and the greatest sample that has mass."""
    low = jnp.min(jnp.where(a > 0, x, jnp.inf))
    return low, jnp.max(jnp.where(a > 0, x, -jnp.inf))


def _sum_over(t: Array, side: Array, x: Array, a: Array, h: Array) -> Array:
    """sum_i a_i sigma(side (t - x_i) / h), a chunk of samples at a time."""
    n = x.size
    num_chunks = -(-n // max(1, _PAIRS // max(1, t.size)))
    if num_chunks == 1:
        return _sum_chunk(t, side, x, a, h)
    size = -(-n // num_chunks)
    pad = (0, num_chunks * size - n)
    chunks = jnp.pad(x, pad, mode="edge"), jnp.pad(a, pad)
    chunks = [c.reshape(num_chunks, size) for c in chunks]

    def add(total: Array, chunk: list[Array]) -> tuple[Array, None]:
        # Reverse mode computes a chunk again rather than storing its pairs.
        return total + jax.checkpoint(_sum_chunk)(t, side, *chunk, h), None

    start = 0 * (t + side + x[0] + a[0] + h)  # varies over a mesh as the sum does
    return lax.scan(add, start, chunks)[0]


def _sum_chunk(t: Array, side: Array, x: Array, a: Array, h: Array) -> Array:
    z = side[:, None] * (t[:, None] - x[None, :]) / h
    return jnp.sum(a[None, :] * jax.nn.sigmoid(z), axis=-1)


@jax.custom_jvp
def _quantile(log_level: Array, side: Array, y: Array, b: Array, h: Array) -> Array:
    """The t with `_log_mass(t, side, y, b, h) == log_level`."""
    # The kernel lies between its copies at the least and the greatest sample, and so
    # does the root between theirs.
    level = jnp.minimum(log_level, -jnp.finfo(y.dtype).eps)
    shift = side * h * (level - jnp.log(-jnp.expm1(level)))
    low, high = (end + shift for end in _extent(y, b))
    tolerance = 4 * jnp.finfo(y.dtype).eps

    def unfinished(state: tuple) -> Array:
        return (state[0] < _STEPS) & jnp.any(~state[-1])

    def improve(state: tuple) -> tuple:
        # Newton's step, as long as each is half of the last and stays between the
        # bounds; else the bounds are halved.
        count, t, low, high, last, done = state
        value, slope = jax.jvp(
            lambda t: _log_mass(t, side, y, b, h), (t,), (jnp.ones_like(t),)
        )
        error = value - log_level
        is_above = side * error > 0
        low, high = jnp.where(is_above, low, t), jnp.where(is_above, t, high)
        step = -error / jnp.where(slope == 0, 1, slope)
        newton = (slope != 0) & (2 * jnp.abs(step) <= last)
        newton = newton & (t + step > low) & (t + step < high)
        middle = low + (high - low) / 2
        new = jnp.where(newton, t + step, middle)
        met = jnp.abs(error) <= tolerance * jnp.maximum(1, jnp.abs(log_level))
        still = jnp.abs(new - t) <= tolerance / 2 * jnp.abs(t)
        last = jnp.abs(new - t)
        new = jnp.where(done | met, t, new)
        return count + 1, new, low, high, last, done | met | still

    # Only the value comes from this loop, whose length depends on the data; derivatives
    # come from the rule below.
    start = (0, low + (high - low) / 2, low, high, high - low, low > high)
    return lax.while_loop(unfinished, improve, start)[1]


@_quantile.defjvp
def _quantile_jvp(primals: tuple, tangents: tuple) -> tuple:
    # With G = _log_mass, G(t, y, b, h) = l: G_t dt = dl - (G_y dy + G_b db + G_h dh).
    log_level, side, y, b, h = primals
    t = _quantile(*primals)
    _, moved = jax.jvp(
        lambda y, b, h: _log_mass(t, side, y, b, h), (y, b, h), tangents[2:]
    )
    _, slope = jax.jvp(lambda t: _log_mass(t, side, y, b, h), (t,), (jnp.ones_like(t),))
    # In a gap that is so wide that no density is left, the derivative is finite.
    floor = jnp.sqrt(jnp.finfo(y.dtype).tiny) / h
    slope = side * jnp.maximum(side * slope, floor)
    return t, (tangents[0] - moved) / slope
