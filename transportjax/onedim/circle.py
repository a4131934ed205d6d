r"""Wasserstein distances on the circle.

The circle has length one; coordinates are taken modulo one. A transport plan on it is
one on the line, once both measures are cut open and unrolled, each at a point of its
own. With F^-1(q + 1) = F^-1(q) + 1,

    W_p^p = min over alpha of C(alpha),
    C(alpha) = integral over [0, 1] of |F_x^-1(q) - F_y^-1(q + alpha)|^p dq.

C is convex, and for samples it is piecewise linear: it has a minimum where a level of
`x` meets a level of `y`, alpha = B_j - A_i. There both are cut between two samples, so
that what is left is a distance on the line. Derivatives hold the pair (i, j) constant,
which is exact almost everywhere, also in the weights, for they move alpha along.
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import (
    as_float,
    check_planar,
)
from transportjax._sharding import explicit_mesh_guard

from .levels import cumulative_mass, search, take, working_precision
from .sorting import permute, sort_with_permutation
from .wasserstein import (
    checked_problem,
    cost_of_sorted,
    power_cost,
    same_batch,
    sort_weighted,
)


def circle_coordinates(points: ArrayLike) -> Float[Array, "*batch"]:
    """The coordinates of points in the plane on the circle of length one.

    The angle from the first axis towards the second, in turns: (1, 0) is at 0, (0, 1)
    at 1/4, (-1, 0) at 1/2. The norm of a point does not matter. Differentiable; the
    origin, which has no angle, is put at 0 with derivative zero.

    Args:
        points: points in the plane, (..., 2).

    Returns:
        One coordinate in [0, 1) for each point.

    Raises:
        ValueError: the last axis is not of length two; NaN or infinite values.

    Example:
        >>> import jax.numpy as jnp
        >>> print(circle_coordinates(jnp.array([[2.0, 0.0], [0.0, -1.0]])))
        [0.   0.75]
    """
    points = as_float("points", points)
    check_planar("points", points)
    turn = turns(working_precision(points))
    turn = jnp.where(turn < 0, turn + 1, turn).astype(points.dtype)
    return jnp.where(turn < 1, turn, 0)  # a tiny negative angle has been rounded up


def turns(points: Float[Array, "*batch 2"], least: float = 0.0) -> Array:
    """The angles in [-1/2, 1/2] turns: zero, like their slope, for norms <= `least`."""
    first, second = points[..., 0], points[..., 1]
    least = max(least, float(jnp.finfo(points.dtype).tiny) ** 0.5)
    lost = first**2 + second**2 <= least**2
    angle = jnp.arctan2(jnp.where(lost, 0, second), jnp.where(lost, 1, first))
    return angle / (2 * math.pi)


@explicit_mesh_guard
def wasserstein_circle(
    x: ArrayLike,
    y: ArrayLike,
    *,
    p: ArrayLike = 2,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
) -> Float[Array, "*batch"]:
    r"""W_p^p on the circle of length one, whose distance is min(|x - y|, 1 - |x - y|).

    Exact, by sorting and a search for the best cut. For arc lengths on the circle of
    radius one multiply by (2 pi)^p.

    Differentiable in `x`, `y`, both weights, and `p`, as `wasserstein_1d` is: the order
    of the samples and the cut are held constant, which is exact almost everywhere. The
    derivative in the weights is that of the normalised weights.

    Args:
        x: finite samples, (..., n), in turns; modulo one.
        y: finite samples, (..., m); the batches broadcast, so one `y` serves all rows.
        p: the exponent, in [1, 100]: a number or a scalar array. Integers are fastest,
            and each is compiled apart.
        x_weights: masses >= 0 of `x`, (n,) or the shape of `x`; normalised. None:
            uniform, which is faster by far.
        y_weights: likewise of `y`.

    Returns:
        W_p^p, one for each row.

    Raises:
        ValueError: samples that are empty, NaN or infinite; weights that are negative,
            all zero, NaN or of the wrong shape; p < 1. Where values are traced, bad
            weights give NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> x, y = jnp.array([0.0, 0.5]), jnp.array([0.75, 1.5])
        >>> print(wasserstein_circle(x, y))  # ((1/4)^2 + 0) / 2
        0.03125

    References:
        Delon, Salomon and Sobolevski, 2010, "Fast transport optimization for Monge
        costs on the circle". Rabin, Delon and Gousseau, 2011, "Transportation distances
        on the circle" (p = 1).
    """
    x, y, p, a, b, dtype = checked_problem(x, y, p, x_weights, y_weights, most_p=100.0)
    return _distance(x, y, p, a, b).astype(dtype)


@eqx.filter_jit
def _distance(x: Array, y: Array, p: Any, a: Array | None, b: Array | None) -> Array:
    if x.shape[-1] < y.shape[-1]:  # the search takes steps of the cost of the fewer
        x, y, a, b = y, x, b, a
    x, y, a, b = same_batch(x, y, a, b)
    x, a = sort_weighted(on_circle(x), a)
    y, b = sort_weighted(on_circle(y), b)
    i, j = _cut(*lax.stop_gradient((x, y, p, a, b)))
    x, a = _unrolled(x, a, i)
    y, b = _unrolled(y, b, j)
    return cost_of_sorted(x, y, p=p, x_weights=a, y_weights=b)


def on_circle(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Coordinates modulo one in [-1/2, 1/2], where no subtraction is rounded."""
    return x - jnp.round(x)


def _unrolled(x: Array, a: Array | None, start: Array) -> tuple[Array, Array | None]:
    """Sorted samples from place `start` on, over one lap, with their weights.

    Places go on beyond the ends: n after the last sample it comes again, plus one.
    """
    n = x.shape[-1]
    places = start[..., None] + lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    laps = places // n
    places = places - laps * n
    a = None if a is None else permute(a, places)
    return permute(x, places) + laps.astype(x.dtype), a


def _cut(
    x: Array, y: Array, p: Any, a: Array | None, b: Array | None
) -> tuple[Array, Array]:
    """The places of `x` and `y`, sorted, n >= m, from which on to unroll them."""
    n, m = x.shape[-1], y.shape[-1]
    uniform = a is None and b is None
    if uniform and 4 * math.lcm(n, m) < 2**31:
        return _cut_by_steps(x, y, p, *_uniform_meeting(n, m))
    x_levels, y_levels = sample_levels(x, a), sample_levels(y, b)
    if isinstance(p, int) and p == 1:
        return _cut_at_median(x, y, x_levels, y_levels)
    return _cut_by_steps(x, y, p, *_meeting(x_levels, y_levels))


def sample_levels(
    x: Float[Array, "*batch n"], weights: Float[Array, "*batch n"] | None
) -> Float[Array, "*batch n"]:
    """Cumulative masses of sorted samples; the last is exactly one."""
    if weights is not None:
        return cumulative_mass(weights)
    n = x.shape[-1]
    return jnp.broadcast_to(jnp.asarray(np.arange(1, n + 1) / n, x.dtype), x.shape)


def _cut_at_median(x: Array, y: Array, x_levels: Array, y_levels: Array) -> tuple:
    """The best cut for p = 1: across a gap between samples that no mass has to cross.

    W_1 is the integral of |F_x - F_y - alpha|, so the best alpha is the median of
    F_x - F_y along the circle. It is the value across some gap: there both are cut.
    """
    n, m = x.shape[-1], y.shape[-1]
    z, order = sort_with_permutation(jnp.concatenate([x, y], axis=-1))
    # Before the first sample there is the gap that the last one ends at.
    gaps = jnp.concatenate([z[..., 1:], z[..., :1] + 1], axis=-1) - z
    j = lax.cumsum((order >= n).astype(jnp.int32), axis=order.ndim - 1)
    i = 1 + lax.broadcasted_iota(jnp.int32, order.shape, order.ndim - 1) - j
    levels = [
        jnp.where(count > 0, take(level, jnp.maximum(count - 1, 0)), 0)
        for level, count in ((x_levels, i), (y_levels, j))
    ]
    _, order = sort_with_permutation(levels[0] - levels[1])
    passed = jnp.cumsum(permute(gaps, order), axis=-1)
    middle = jnp.argmax(passed >= passed[..., -1:] / 2, axis=-1)
    gap = take(order, middle[..., None])
    i, j = take(i, gap)[..., 0], take(j, gap)[..., 0]
    return jnp.where(i == n, 0, i), j - jnp.where(i == n, m, 0)


def _cut_by_steps(
    x: Array, y: Array, p: Any, meeting: Callable, limit: int
) -> tuple[Array, Array]:
    """The best cut, by bisection for the sign change of the slope of C.

    Raising alpha a little, at each level B_j the x-sample that is there meets y_(j+1)
    instead of y_j: the slope is the sum of these changes of the cost.

    Args:
        x: sorted samples.
        y: sorted samples, not more.
        p: the exponent.
        meeting: for alpha, in integer units, the place in (x - 1, x, x + 1) that each
            level B_j meets, and how far below the level of that place it is.
        limit: one, in these units; a minimum lies in [-1, 1].
    """
    n, m = x.shape[-1], y.shape[-1]
    laps = jnp.concatenate([x - 1, x, x + 1], axis=-1)
    following = jnp.concatenate([y[..., 1:], y[..., :1] + 1], axis=-1)

    def narrow(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        met = take(laps, meeting(middle[..., None])[0])
        change = power_cost(met - following, p) - power_cost(met - y, p)
        falls = (jnp.sum(change, axis=-1) < 0) | (middle == low)  # the latter: done
        return jnp.where(falls, middle, low), jnp.where(falls, high, middle)

    start = jnp.full(x.shape[:-1], limit, jnp.int64 if limit >= 2**30 else jnp.int32)
    bounds = narrow(0, (-start - 1, start))  # from here on, bounds vary as the data do
    _, alpha = lax.fori_loop(1, (2 * limit).bit_length(), narrow, bounds)
    places, below = meeting(alpha[..., None])
    # Of several pairs the last: clouds far from the ends stay uncut if they can.
    j = m - 1 - jnp.argmin(below[..., ::-1], axis=-1).astype(jnp.int32)
    i = take(places, j[..., None])[..., 0] + 1
    return i % n, j + 1 - (i // n - 1) * m


def _uniform_meeting(n: int, m: int) -> tuple[Callable, int]:
    """`meeting` for equal masses, where all levels are known."""
    limit = math.lcm(n, m)
    unit = limit // n
    ends = np.arange(1, m + 1, dtype=np.int32) * (limit // m)

    def meeting(alpha: Array) -> tuple[Array, Array]:
        before = jnp.reshape(ends + limit - 1, (1,) * (alpha.ndim - 1) + (m,)) - alpha
        places = before // unit
        return places, places * unit + (unit - 1) - before

    return meeting, limit


def _meeting(x_levels: Array, y_levels: Array) -> tuple[Callable, int]:
    """`meeting` for any masses, whose levels are rounded as their floats are."""
    n = x_levels.shape[-1]
    bits, integer = (24, jnp.int32) if x_levels.dtype.itemsize == 4 else (53, jnp.int64)
    limit = 2**bits
    starts, ends = (jnp.round(z * limit).astype(integer) for z in (x_levels, y_levels))

    def meeting(alpha: Array) -> tuple[Array, Array]:
        before = ends - alpha - 1
        within = before & (limit - 1)
        places = search(starts, within, side="right")
        below = take(starts, places) - within - 1
        return places + ((before >> bits).astype(jnp.int32) + 1) * n, below

    return meeting, limit
