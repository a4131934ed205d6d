r"""Sums of Gaussians over all pairs by Fourier series, in time linear in the points.

In one dimension, for |x - y| <= e and a period T > e, Poisson's formula gives

    exp(-(x - y)^2 / s^2) = sum over |m| <= M of w_m exp(2 pi i m (x - y) / T) + error,
    w_m = (sqrt(pi) s / T) exp(-(pi s m / T)^2),

in which exp(2 pi i m (x - y) / T) = cos cos + sin sin separates x from y. In d
dimensions the factors of the axes multiply. With the 2 M + 1 real functions 1, cos, sin
of each axis, their products phi_m, and P_m = sum_i a_i phi_m(x_i), Q_m likewise,

    sum_ij a_i b_j exp(-|x_i - y_j|^2 / s^2) = sum_m w_m P_m Q_m + error.

**Error.** What is cut off beyond M and what comes back from the next periods are equal
for T = e + c s and M = T c / (pi s). Each axis contributes at most 2.6 exp(-c^2) times
sum |a_i| sum |b_j|: the error is absolute, in relation to the sum at coinciding points.
Here M is static, and c, then T, follow from it and from the traced e and s by
c^2 s + e c = pi s M, so that any number of modes is used for all that it can give.

**Differentiation** is plain autodiff of these formulas. T and the centre are constants
in it: the sum does not depend on them, but for the error.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

_CHUNK = 2**17  # numbers in the table of products of one chunk of points
_FEWEST, _MOST = 64, 4096  # points in a chunk
_ERRORS = {"float32": 1e-7, "float64": 1e-13}  # exp(-c^2), about the precision


class Frame(NamedTuple):
    """Where the series lives."""

    centre: Float[Array, " d"]
    period: Float[Array, " d"]


def extent_of(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, " d"]:
    """The sides of the box around both clouds."""
    return _box(x, y)[1]


def _box(x: Array, y: Array) -> tuple[Array, Array]:
    low = jnp.minimum(jnp.min(x, axis=0), jnp.min(y, axis=0))
    return low, jnp.maximum(jnp.max(x, axis=0), jnp.max(y, axis=0)) - low


def frame(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    scale: Float[Array, ""],
    num_modes: tuple[int, ...],
) -> Frame:
    """The centre and the best periods for both clouds, which are constants."""
    x, y, scale = map(lax.stop_gradient, (x, y, scale))
    low, extent = _box(x, y)
    # c of the docstring of the module, written without a difference
    root = jnp.sqrt(extent**2 + 4 * math.pi * scale**2 * _as_row(num_modes, extent))
    c = 2 * math.pi * scale * _as_row(num_modes, extent) / (extent + root)
    return Frame(low + extent / 2, extent + c * scale)


def modes_needed(
    extent: Float[Array, " d"], scale: Float[Array, ""]
) -> Float[Array, " d"]:
    """M for each axis, before rounding up, for an error of about the precision."""
    c = math.sqrt(-math.log(_ERRORS[jnp.dtype(extent.dtype).name]))
    return c / math.pi * (extent / scale + c)


def is_enough(
    extent: Float[Array, " d"], scale: Float[Array, ""], num_modes: tuple[int, ...]
) -> Bool[Array, ""]:
    """Whether so many modes reach the precision; not where something is NaN."""
    return jnp.all(modes_needed(extent, scale) <= _as_row(num_modes, extent))


def coefficients(
    x: Float[Array, "n d"],
    weights: Float[Array, " n"],
    where: Frame,
    num_modes: tuple[int, ...],
) -> Float[Array, "p q"]:
    """P: the sums of the functions of the series over weighted points.

    The last axis is that of the last coordinate, the first holds all others.
    """

    def add(carry: tuple, chunk: tuple) -> tuple[tuple, None]:
        # after Kahan: what rounding lost so far is taken off the next term
        total, lost = carry
        term = one(*chunk) - lost
        result = lax.optimization_barrier(total + term)
        return (result, (result - total) - term), None

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def one(points: Array, weights: Array) -> Array:
        left, right = _tables(points, where, num_modes)
        return jnp.matmul(left * weights[None, :], right.T, precision="highest")

    chunks = _chunks(x, weights, num_modes)
    *first, last = (2 * num + 1 for num in num_modes)
    zero = jnp.zeros_like(x, shape=(math.prod(first), last))
    return lax.scan(add, (zero, zero), chunks)[0][0]


def series(
    x: Float[Array, "n d"],
    amplitudes: Float[Array, "p q"],
    where: Frame,
    num_modes: tuple[int, ...],
) -> Float[Array, " n"]:
    """The sum of the functions of the series times their amplitudes, at each point."""

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def one(points: Array) -> Array:
        left, right = _tables(points, where, num_modes)
        products = left * jnp.matmul(amplitudes, right, precision="highest")
        return jnp.ones_like(products[:, 0]) @ products  # faster than `sum`

    values = lax.map(one, _chunks(x, x[:, 0], num_modes)[0])
    return values.T.reshape(-1)[: len(x)]


def mode_weights(
    where: Frame, scale: Float[Array, ""], num_modes: tuple[int, ...]
) -> Float[Array, "p q"]:
    """w, for the products of real functions; cos and sin have twice that of exp."""
    axes = []
    for period, num in zip(where.period, num_modes, strict=True):
        ratio = scale / period
        order = jnp.arange(1, num + 1, dtype=ratio.dtype)
        decay = 2 * jnp.exp(-((math.pi * ratio * order) ** 2))
        ones = jnp.ones_like(decay, shape=1)
        axes.append(
            math.sqrt(math.pi) * ratio * jnp.concatenate([ones, jnp.repeat(decay, 2)])
        )
    *first, last = axes
    left = functools.reduce(jnp.outer, first, jnp.ones_like(last, shape=1)).reshape(-1)
    return left[:, None] * last[None, :]


def _as_row(num_modes: tuple[int, ...], like: Array) -> Array:
    return jnp.asarray(num_modes, like.dtype)


def _chunks(
    x: Array, weights: Array, num_modes: tuple[int, ...]
) -> tuple[Array, Array]:
    """Points (k, d, c) and weights (k, c), filled up with points that weigh nothing.

    Every k-th point together, which spreads a chunk over the devices that hold them.
    """
    products = math.prod(2 * num + 1 for num in num_modes[:-1])
    size = min(_MOST, max(_FEWEST, _CHUNK // products))
    num = -(-len(x) // size)
    missing = -len(x) % num
    x, weights = jnp.pad(x, ((0, missing), (0, 0))), jnp.pad(weights, (0, missing))
    points = x.reshape(-1, num, x.shape[1]).transpose(1, 2, 0)
    return points, weights.reshape(-1, num).T


def _tables(
    points: Array, where: Frame, num_modes: tuple[int, ...]
) -> tuple[Array, Array]:
    """The functions at points (d, c): products of all axes but the last, and the last.

    The points are the last axis of all arrays, so that all loops are vectorised.
    """
    turns = (points - where.centre[:, None]) * (2 * math.pi / where.period)[:, None]
    # a loop, or the compiler would evaluate them anew for each product they occur in
    tables = lax.map(functools.partial(_harmonics, num=max(num_modes)), turns)
    *first, last = (
        table[: 2 * num + 1] for table, num in zip(tables, num_modes, strict=True)
    )
    left = jnp.ones_like(points[:1])
    for table in first:
        left = (left[:, None] * table[None, :]).reshape(-1, points.shape[1])
    return left, last


def _harmonics(turns: Array, num: int) -> Array:
    """1, cos t, sin t, cos 2 t, sin 2 t and so on, up to cos and sin of num t."""
    orders = jnp.arange(1, num + 1, dtype=turns.dtype)
    angles = orders[:, None] * turns[None, :]
    waves = jnp.stack([jnp.cos(angles), jnp.sin(angles)], axis=1)
    ones = jnp.ones_like(turns)[None, :]
    return jnp.concatenate([ones, waves.reshape(2 * num, -1)])
