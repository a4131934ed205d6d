"""How far two clouds are from each other, as samples of two laws.

None of these is zero for two clouds of the same law: `two_sample_test` tells what is
noise. All pairs of points are taken, in blocks, so that memory is that of the points.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard
from transportjax.mixtures import gauss_l2
from transportjax.onedim import sort
from transportjax.sliced.distance import root_of_cost
from transportjax.sliced.pair import checked_pair

_BLOCK = 2**20  # distances that are held at once, but at least those of one point
_UNROLLED = 16  # dimensions: up to here from differences, which lose no digits
_FEW = 256  # points of a cloud that its scale is read off


@explicit_mesh_guard
def energy_distance(x: ArrayLike, y: ArrayLike) -> Float[Array, ""]:
    """2 E|x - y| - E|x - x'| - E|y - y'| over all pairs, in units of the points.

    Of two laws it is zero if and only if they are equal. Of samples, a point being its
    own partner too, it is never below zero, and about (1/n + 1/m) E|x - x'| for two
    samples of one law. No scale has to be chosen; it sees the mean and the coarse form
    of a cloud best.

    Differentiable in both clouds, where no two points coincide.

    Args:
        x: points, (n, d).
        y: points, (m, d).

    Returns:
        The distance.

    Raises:
        ValueError: clouds of different dimensions, empty, NaN or infinite.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.diagnostics import energy_distance
        >>> print(energy_distance(jnp.zeros((2, 2)), jnp.array([[3.0, 4.0]])))
        10.0

    References:
        Szekely and Rizzo (2013), Energy statistics: a class of statistics based on
        distances.
    """
    pair, dtype = checked_pair(x, y)
    return _energy_distance(pair.x, pair.y).astype(dtype)


@jax.jit
def _energy_distance(x: Array, y: Array) -> Array:
    x, y, unit = in_own_unit(x, y)

    def mean(x: Array, y: Array) -> Array:
        return jnp.mean(over_rows(lambda d: jnp.mean(root_of_cost(d, 2)), x, y))

    return unit * (2 * mean(x, y) - mean(x, x) - mean(y, y))


def mmd(
    x: ArrayLike, y: ArrayLike, *, bandwidth: int | float | ArrayLike | None = None
) -> Float[Array, ""]:
    """The square of the maximum mean discrepancy of a Gaussian kernel, without unit.

    E k(x, x') - 2 E k(x, y) + E k(y, y') over all pairs, k = exp(-|x - y|^2 / (2 h^2)).
    It is never below zero, at most 2, and about (1/n + 1/m) (1 - E k(x, x')) for two
    samples of one law. It sees differences of the size of h best.

    Differentiable in both clouds and the bandwidth; the one that is chosen here is held
    constant.

    Args:
        x: points, (n, d).
        y: points, (m, d).
        bandwidth: h > 0, in units of the points. None: the median distance of two
            points, of up to 256 of each cloud.

    Returns:
        The squared discrepancy.

    Raises:
        ValueError: clouds of different dimensions, empty, NaN or infinite; a
            `bandwidth` that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.diagnostics import mmd
        >>> x = jnp.zeros((2, 2))
        >>> print(mmd(x, x + 1, bandwidth=1.0).round(4))  # 2 - 2 / e
        1.2642

    References:
        Gretton, Borgwardt, Rasch, Scholkopf and Smola (2012), A kernel two-sample test,
        sections 2 and 8.
    """
    pair, dtype = checked_pair(x, y)
    if bandwidth is None:
        bandwidth = median_distance(pair.x, pair.y)
    most = float(jnp.finfo(pair.x.dtype).max)
    _checks.check_number("bandwidth", bandwidth, 0, most, open_low=True)
    scale = jnp.asarray(bandwidth).astype(pair.x.dtype) * 2**0.5
    return gauss_l2(pair.x, pair.y, scale).l2.astype(dtype)


@explicit_mesh_guard
@jax.jit
def median_distance(x: Float[Array, "n d"], y: Float[Array, "m d"]) -> Float[Array, ""]:
    """The median of the positive distances between some points of both clouds."""
    few = [points[:: -(-len(points) // _FEW)] for points in (x, y)]
    *few, unit = in_own_unit(*few)
    points = lax.stop_gradient(jnp.concatenate(few))
    squares = over_rows(lambda squares: squares, points, points).reshape(-1)
    # ties have distance zero: they may not make the scale zero
    num_ties = jnp.sum(squares == 0, dtype="int32")
    num = squares.size - num_ties
    middle = sort(squares)[jnp.stack([num_ties + (num - 1) // 2, num_ties + num // 2])]
    return jnp.where(num == 0, 1, unit * jnp.sqrt(jnp.mean(middle)))


@explicit_mesh_guard
def nearest_neighbour_kl(
    x: ArrayLike, y: ArrayLike, *, num_neighbours: int = 5
) -> Float[Array, ""]:
    """The Kullback-Leibler divergence of the law of `x` from that of `y`, in nats.

    KL(p | q) = E_p log p/q, with both densities at the samples of p from the distances
    r and s to the k-th neighbour among the other samples of p, and among those of q:

        d mean log(s_i / r_i) + log(m / (n - 1)).

    Consistent for any k, but slow in many dimensions: where p has details that are
    finer than the distances, it is too small. It may be below zero.

    Differentiable in both clouds, with the neighbours held constant.

    Args:
        x: samples of p, (n, d).
        y: samples of q, (m, d).
        num_neighbours: k, 1 <= k < n and m. More of them lessen the variance, and
            resolve less.

    Returns:
        The estimate; infinite if more than k points of `x` coincide.

    Raises:
        ValueError: clouds of different dimensions, empty, NaN or infinite;
            `num_neighbours` out of range.

    Example:
        >>> import jax.random as jr
        >>> from transportjax.diagnostics import nearest_neighbour_kl
        >>> x, y = jr.normal(jr.key(0), (2, 4000, 2))
        >>> bool(abs(nearest_neighbour_kl(x, y + 1) - 1) < 0.1)  # |shift|^2 / 2
        True

    References:
        Wang, Kulkarni and Verdu (2009), Divergence estimation for multidimensional
        densities via k-nearest-neighbor distances.
        Perez-Cruz (2008), Kullback-Leibler divergence estimation of continuous
        distributions.
    """
    pair, dtype = checked_pair(x, y)
    _checks.check_count("num_neighbours", num_neighbours)
    _checks.check_num_neighbours(num_neighbours, min(len(pair.x), len(pair.y)))
    return _nearest_neighbour_kl(pair.x, pair.y, num_neighbours).astype(dtype)


@functools.partial(jax.jit, static_argnums=2)
def _nearest_neighbour_kl(x: Array, y: Array, k: int) -> Array:
    x, y, _ = in_own_unit(x, y)
    # the nearest point of x to itself is itself
    own = over_rows(functools.partial(_smallest, rank=k + 1), x, x)
    other = over_rows(functools.partial(_smallest, rank=k), x, y)
    ratio = jnp.mean(jnp.log(other) - jnp.log(own)) / 2
    return x.shape[1] * ratio + jnp.log(jnp.asarray(len(y) / (len(x) - 1), x.dtype))


def _smallest(values: Array, rank: int) -> Array:
    """The smallest value but rank - 1: in passes, much faster than a sort for few."""

    def larger(value: Array, _: None) -> tuple[Array, None]:
        following = jnp.min(jnp.where(values > value, values, jnp.inf))
        is_found = jnp.sum(values <= value) >= rank  # some may be tied
        return jnp.where(is_found, value, following), None

    return lax.scan(larger, jnp.min(values), length=rank - 1)[0]


def in_own_unit(
    x: Float[Array, "n d"], y: Float[Array, "m d"]
) -> tuple[Float[Array, "n d"], Float[Array, "m d"], Float[Array, ""]]:
    """Both clouds, about the middle of y, as multiples of a unit; and that, constant.

    So that squares of distances are numbers of the dtype, whatever the points are.
    """
    middle = lax.stop_gradient(jnp.mean(y, axis=0, keepdims=True))
    x, y = x - middle, y - middle
    largest = jnp.maximum(jnp.max(jnp.abs(x)), jnp.max(jnp.abs(y)))
    unit = lax.stop_gradient(jnp.where(largest > 0, largest, 1))
    return x / unit, y / unit, unit


def over_rows(
    function: Callable[[Array], Array], x: Float[Array, "n d"], y: Float[Array, "m d"]
) -> Array:
    """`function` of the squared distances (m,) of each x to all of y, in blocks."""
    middle = lax.stop_gradient(jnp.mean(y, axis=0, keepdims=True))
    x, y = x - middle, y - middle

    def row(point: Array) -> Array:
        if len(point) <= _UNROLLED:
            squares = sum((y[:, i] - point[i]) ** 2 for i in range(1, len(point)))
            return function((y[:, 0] - point[0]) ** 2 + squares)
        product = jnp.matmul(y, point, precision="highest")
        norms = jnp.sum(y**2, axis=1) + jnp.sum(point**2)
        return function(jnp.maximum(norms - 2 * product, 0))

    return lax.map(jax.checkpoint(row), x, batch_size=max(1, _BLOCK // len(y)))
