"""Sums over all pairs of oriented points on surfaces, one tile after the other.

    sum_ij a_i b_j exp(-|x_i - y_j|^2 / s^2) F(|m_i - n_j|^2),

    F = exp(R - kappa - lambda) h(R),    R = |kappa m + lambda n|,
    h(R) = (1 - exp(-2 R)) / (2 R):

the products of Gaussians of one width with von Mises-Fisher densities in space, of one
concentration on each side, up to constants. The kernel and its slope in |m - n|^2,
-kappa lambda / 2 times the kernel times rho(R), share all that is dear:

    h rho = (1 - h (1 + R)) / R^2.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from transportjax._sharding import varying_alike

from .bessel import ratio_near_zero
from .pair_sums import Kernel, Side, sum_of_pairs
from .tiles import exp2_minus, inner, num_tiles, scaled_points, squared_distances, tiles

_LN2, _LOG2E = math.log(2), math.log2(math.e)
_SERIES = 0.5  # R, below which h is its series
_LEAST = 1e-30  # keeps zero concentrations from a division by zero


def oriented_sum(log_kernel: Kernel, left: Side, right: Side) -> Float[Array, ""]:
    """`sum_of_pairs`, of a log-kernel that is the logarithm of the above.

    The items are ((x, variance), (m, kappa, mass)), unit vectors m of R^3; variances
    and concentrations are shared. The general way takes over for derivatives in what is
    shared, and for second derivatives.
    """
    return _total(log_kernel, *varying_alike((left, right)))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _total(log_kernel: Kernel, left: Side, right: Side) -> Array:
    return _one_side(log_kernel, left, right, slopes=False)[0]


@functools.partial(_total.defjvp, symbolic_zeros=True)
def _total_jvp(log_kernel: Kernel, primals: tuple, tangents: tuple) -> tuple:
    """The gradient, made in the pass that makes the value, times the tangents."""
    left, right = primals
    shared = [dots.items[0][1:] + dots.items[1][1:] for dots in tangents]
    if not all(isinstance(dot, SymbolicZero) for dot in shared[0] + shared[1]):
        dots = jax.tree.map(_filled, tangents, primals, is_leaf=_is_zero)
        return jax.jvp(functools.partial(sum_of_pairs, log_kernel), (left, right), dots)
    value, tangent = None, jnp.zeros_like(left.weights[0])
    for own, other, dots in ((left, right, tangents[0]), (right, left, tangents[1])):
        moving = dots.items[0][0], dots.items[1][0], dots.weights
        if all(isinstance(dot, SymbolicZero) for dot in moving):
            continue
        value, slopes = _value_and_slopes(log_kernel, own, other)
        for slope, dot in zip(slopes, moving, strict=True):
            if not isinstance(dot, SymbolicZero):
                tangent = tangent + inner(slope.reshape(-1), dot.reshape(-1))
    if value is None:
        value = _total(log_kernel, left, right)
    return value, tangent


def _is_zero(dot: Any) -> bool:
    return isinstance(dot, SymbolicZero)


def _filled(dot: Array | SymbolicZero, like: Array) -> Array:
    return jnp.zeros_like(like) if isinstance(dot, SymbolicZero) else dot


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _value_and_slopes(
    log_kernel: Kernel, left: Side, right: Side
) -> tuple[Array, tuple[Array, Array, Array]]:
    """The sum, and its derivatives in the points, vectors and weights on the left."""
    return _one_side(log_kernel, left, right, slopes=True)


@_value_and_slopes.defjvp
def _value_and_slopes_jvp(log_kernel: Kernel, primals: tuple, tangents: tuple) -> tuple:
    def general(left: Side, right: Side) -> tuple:
        value, slopes = jax.value_and_grad(
            lambda left: sum_of_pairs(log_kernel, left, right)
        )(left)
        return value, (slopes.items[0][0], slopes.items[1][0], slopes.weights)

    return jax.jvp(general, primals, tangents)


def _one_side(log_kernel: Kernel, left: Side, right: Side, *, slopes: bool) -> tuple:
    """With u = K b, the slope in x_i is -2 a_i (x_i u_i - (K b y)_i) / s^2.

    With K' = K rho and u' = K' b, that in m_i is
    -kappa lambda a_i (m_i u'_i - (K' b n)_i).
    """
    (x, variance), (m, kappa, _) = left.items
    (y, other_variance), (n, other_kappa, _) = right.items
    scale = jnp.sqrt(2 * (variance[0] + other_variance[0]))
    kappas = kappa[0] + other_kappa[0], kappa[0] * other_kappa[0]
    a, b = left.weights, right.weights
    # All kernels are multiples of the one of the same position and direction.
    item = jax.tree.map(lambda leaf: leaf[0], left.items)
    other = jax.tree.map(lambda leaf: leaf[0], right.items)
    other = (item[0][0], *other[0][1:]), (item[1][0], *other[1][1:])
    highest = _fraction(kappas[0], jnp.exp(-2 * kappas[0]))
    peak = jnp.exp(log_kernel(item, other)) / highest
    x, y = scaled_points(x, y, scale)
    columns = b[:, None]
    if slopes:
        columns = jnp.concatenate([columns, columns * y, columns, columns * n], 1)
    near = jnp.concatenate([x, m], 1), jnp.concatenate([y, n], 1)
    out = peak * _products(*near, columns, kappas)
    value = inner(a, out[:, 0])
    if not slopes:
        return value, None
    by_point = x * out[:, :1] - out[:, 1:4]
    by_vector = m * out[:, 4:5] - out[:, 5:8]
    factor = -2 * math.sqrt(_LOG2E) * _LN2 / scale  # the points are scaled
    gradient = (
        factor * a[:, None] * by_point,
        -kappas[1] * a[:, None] * by_vector,
        out[:, 0],
    )
    return value, gradient


def _products(x: Array, y: Array, columns: Array, kappas: tuple) -> Array:
    """K times one column, or K times the first four and K' times the last four.

    x and y hold points and vectors.
    """
    num_rows, num_columns = num_tiles(len(x), len(y))
    rows = tiles(x, num_rows).swapaxes(1, 2)
    others = tuple(tiles(a, num_columns).swapaxes(1, 2) for a in (y, columns))
    size = columns.shape[1]

    def row(points: Array) -> Array:
        def add(carry: tuple, tile: tuple) -> tuple[tuple, None]:
            # after Kahan, as in `tiles`
            total, lost = carry
            term = _tile(points, tile[0], tile[1], kappas) - lost
            result = lax.optimization_barrier(total + term)
            return (result, (result - total) - term), None

        if num_columns == 1:
            return _tile(points, others[0][0], others[1][0], kappas)
        zero = jnp.zeros_like(points, shape=(size, points.shape[1]))
        return lax.scan(add, (zero, zero), others)[0][0]

    out = row(rows[0])[None] if num_rows == 1 else lax.map(row, rows)
    return out.transpose(2, 0, 1).reshape(-1, size)[: len(x)]


def _tile(x: Array, y: Array, columns: Array, kappas: tuple) -> Array:
    # the barriers: see `tiles`; those below keep what is dear from being done twice
    x, y, columns = lax.optimization_barrier((x, y, columns))
    apart = jnp.minimum(squared_distances(x[3:], y[3:]), 4)
    total, product = kappas
    square = jnp.maximum(total**2 - product * apart, 0)
    resultant = jnp.sqrt(square)
    lost = product * apart / (total + resultant + _LEAST)  # kappa + lambda - R
    height = exp2_minus(squared_distances(x[:3], y[:3]) + _LOG2E * lost)
    if len(columns) > 1:
        height, resultant = lax.optimization_barrier((height, resultant))
    kernel = height * _fraction(resultant, exp2_minus(2 * _LOG2E * resultant))
    times = functools.partial(jnp.matmul, precision="highest")
    if len(columns) == 1:
        return times(columns, kernel)
    kernel = lax.optimization_barrier(kernel)
    square = resultant**2
    near = kernel * ratio_near_zero(jnp.minimum(square, 4))
    slope = (height - kernel * (1 + resultant)) / jnp.maximum(square, 4)
    slope = jnp.where(square < 4, near, slope)
    return jnp.concatenate([times(columns[:4], kernel), times(columns[4:], slope)])


def _fraction(resultant: Array, own: Array) -> Array:
    """h(R), given exp(-2 R); near zero its series, in powers of -2 R."""
    terms = 10 if resultant.dtype.itemsize == 4 else 18
    t = -2 * jnp.minimum(resultant, _SERIES)
    series = jnp.full_like(t, 1 / math.factorial(terms))
    for k in reversed(range(1, terms)):
        series = series * t + 1 / math.factorial(k)
    closed = (1 - own) / (2 * jnp.maximum(resultant, _SERIES))
    return jnp.where(resultant < _SERIES, series, closed)
