"""Partial transport on the line: the cheapest k pairs of points, for every k at once.

An optimal set of k + 1 pairs contains the points of an optimal set of k, and one more
of either side. Those two are neighbours once the points that are chosen already are
left out; the chosen ones between them, equally many of either side, change partners, so
that all are paired in their order. So each step compares one candidate for each pair of
neighbours of different sides, chooses the cheapest, and finds the cost of the single
candidate that is new.
"""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int32

from transportjax._checks import check_count, check_num_pairs
from transportjax._sharding import explicit_mesh_guard

from .levels import by_rows
from .sorting import sort_with_permutation
from .wasserstein import checked_problem, power_cost

_BLOCK = 64  # pairs whose derivatives are computed at once


class PartialTransport(NamedTuple):
    """Which points partial transport pairs, in the order in which they are chosen.

    The first k of `x_indices` and of `y_indices` are the points of the best k pairs;
    sorted by position, the first meets the first, and so on. `marginal_costs` are what
    each pair adds: their cumulative sums are the costs of the best 1, 2, ... pairs.
    """

    x_indices: Int32[Array, "*batch k"]
    y_indices: Int32[Array, "*batch k"]
    marginal_costs: Float[Array, "*batch k"]


@explicit_mesh_guard
def partial_wasserstein_1d(
    x: ArrayLike,
    y: ArrayLike,
    num_transported: int | None = None,
    *,
    p: ArrayLike = 1,
) -> PartialTransport:
    """The cheapest 1, 2, ... pairs of points on the line, and what each adds in cost.

    For each k, the least sum of |x_i - y_j|^p over k pairs, no point in two of them.
    Exact, in `num_transported` steps, one after the other, of O(n + m) work each: for
    thousands of points, not for millions. Memory is O(n + m).

    The marginal costs are differentiable in `x`, `y` and `p`, with the pairs held,
    which is exact almost everywhere; a coinciding pair has derivative zero.

    Args:
        x: finite samples, (..., n).
        y: finite samples, (..., m); the batches broadcast.
        num_transported: how many pairs, static. None: min(n, m).
        p: the exponent, in [1, 1000].

    Returns:
        The indices of the points, in the order in which they are chosen, and the
        marginal costs, which do not decrease, in units of `x` to the power p.

    Raises:
        ValueError: samples that are empty, NaN or infinite; more pairs than points;
            p < 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.onedim import partial_wasserstein_1d
        >>> x, y = jnp.array([5.0, -2.0, 4.0]), jnp.array([-1.0, 1.0, 3.0])
        >>> result = partial_wasserstein_1d(x, y)
        >>> print(result.x_indices, result.y_indices, result.marginal_costs)
        [1 2 0] [0 2 1] [1. 1. 4.]

    References:
        Chapel and Tavenard (2025), One for all and all for one: efficient computation
        of partial Wasserstein distances on the line.
    """
    x, y, p, _, _, dtype = checked_problem(x, y, p, None, None)
    most = min(x.shape[-1], y.shape[-1])
    num = most if num_transported is None else num_transported
    check_count("num_transported", num)
    check_num_pairs("num_transported", num, most)
    result = _partial(x, y, p, num)
    return result._replace(marginal_costs=result.marginal_costs.astype(dtype))


@eqx.filter_jit
def _partial(x: Array, y: Array, p: Any, num: int) -> PartialTransport:
    if x.shape[-1] > y.shape[-1]:  # the work is that of the first
        other = _partial(y, x, p, num)
        return PartialTransport(other.y_indices, other.x_indices, other.marginal_costs)
    power, exponent = (p, None) if isinstance(p, int) else (None, p)

    def run(x: Array, y: Array) -> tuple[Array, Array, Array]:
        return _one_row(x, y, exponent, power, num)

    return PartialTransport(*by_rows("(n),(m)->(k),(k),(k)")(run)(x, y))


class _Interval(NamedTuple):
    """Neighbours of different sides, and the `num_inside` chosen pairs between them.

    `rows` samples of `x` and `columns` samples of `y` come before the first of the two,
    which belongs to `x` or not.
    """

    rows: Int32[Array, "*k"]
    columns: Int32[Array, "*k"]
    starts_with_x: Bool[Array, "*k"]
    num_inside: Int32[Array, "*k"]


def _one_row(
    x: Array, y: Array, p: Array | None, power: int | None, num: int
) -> tuple[Array, Array, Array]:
    x, x_order = sort_with_permutation(x)
    y, y_order = sort_with_permutation(y)
    held = lax.stop_gradient((x, y, p))
    rows, columns, costs, intervals = _choose(*held, power, num)
    costs = _follow(x, y, p, costs, intervals, power)
    return x_order[rows], y_order[columns], costs


def _choose(
    x: Array, y: Array, p: Array | None, power: int | None, num: int
) -> tuple[Array, Array, Array, _Interval]:
    """Places of the chosen among the sorted samples, marginal costs, and intervals.

    All samples in their order are a list, places 1 ... n + m of it, from which the
    chosen are taken out; 0 and the last place stand for its ends.
    """
    n, largest = x.shape[0], float(jnp.finfo(x.dtype).max)
    merged, order = sort_with_permutation(jnp.concatenate([x, y]))
    is_x = order < n
    end = is_x.shape[0] + 1
    is_x = jnp.pad(is_x, 1)
    rows = jnp.cumsum(is_x, dtype=jnp.int32) - is_x.astype(jnp.int32)
    places = jnp.arange(end + 1, dtype=jnp.int32) + 0 * rows
    columns = jnp.maximum(places - 1, 0) - rows

    def between(first: Array, last: Array) -> _Interval:
        return _Interval(
            rows[first], columns[first], is_x[first], (last - first - 1) // 2
        )

    def candidate(first: Array, last: Array) -> Array:
        """What this pair of neighbours would add; infinite if it cannot be."""
        cost = _marginal_cost(x, y, p, between(first, last), power)
        cost = jnp.where(cost < largest, cost, largest)  # before what cannot be
        inside = (first > 0) & (last < end)
        return jnp.where(inside & (is_x[first] != is_x[last]), cost, jnp.inf)

    def step(state: tuple, _: None) -> tuple[tuple, tuple]:
        previous, following, candidates = state
        first = jnp.argmin(candidates).astype(jnp.int32)
        last, cost = following[first], candidates[first]
        left, right = previous[first], following[last]
        candidates = candidates.at[jnp.stack([first, last])].set(jnp.inf)
        candidates = candidates.at[left].set(candidate(left, right))
        state = previous.at[right].set(left), following.at[left].set(right), candidates
        return state, (first, last, cost)

    costs = power_cost(jnp.diff(merged), p if power is None else power)
    costs = jnp.minimum(costs, largest)
    costs = jnp.pad(costs, (1, 2), constant_values=jnp.inf)
    costs = jnp.where(is_x != jnp.roll(is_x, -1), costs, jnp.inf)
    start = jnp.maximum(places - 1, 0), jnp.minimum(places + 1, end), costs
    _, (first, last, costs) = lax.scan(step, start, length=num)
    starts_with_x = is_x[first]
    chosen_rows = rows[jnp.where(starts_with_x, first, last)]
    chosen_columns = columns[jnp.where(starts_with_x, last, first)]
    costs = jnp.where(costs < largest, costs, jnp.inf)
    return chosen_rows, chosen_columns, costs, between(first, last)


def _marginal_cost(
    x: Array, y: Array, p: Array | None, interval: _Interval, power: int | None
) -> Array:
    """What the two ends of an interval add to the cost of the pairs inside of it.

    With an end of `x` first, x_r, x_(r+1), ... meet y_c, y_(c+1), ..., where before
    x_(r+1) met y_c, x_(r+2) met y_(c+1), ... Summed along `x`, new less old, so that
    what is subtracted is alike.
    """
    n = x.shape[0]
    row, column, starts_with_x, num_inside = interval
    padded = jnp.pad(y, n + 1)
    places = jnp.arange(n, dtype=jnp.int32) - row

    def cost(first: Array, length: Array, shift: Array) -> Array:
        partners = lax.dynamic_slice(padded, (shift + n + 1,), (n,))
        used = (places >= first) & (places < first + length)
        return power_cost(
            jnp.where(used, x - partners, 0), p if power is None else power
        )

    first = starts_with_x.astype(jnp.int32)
    new = cost(jnp.zeros_like(first), num_inside + 1, column - row)
    old = cost(first, num_inside, column - row + 1 - 2 * first)
    return jnp.sum(new - old)


@functools.partial(jax.custom_jvp, nondiff_argnums=(5,))
def _follow(
    x: Array,
    y: Array,
    p: Array | None,
    costs: Array,
    intervals: _Interval,
    power: int | None,
) -> Array:
    """`costs`, with the derivative of the marginal costs of the intervals."""
    del x, y, p, intervals, power
    return costs


@_follow.defjvp
def _follow_jvp(power: int | None, primals: tuple, tangents: tuple) -> tuple:
    # In blocks, and computed again in reverse mode, so that nothing n x m is kept.
    x, y, p, _, intervals = primals

    def all_costs(x: Array, y: Array, p: Array | None) -> Array:
        def one(interval: _Interval) -> Array:
            return _marginal_cost(x, y, p, interval, power)

        return lax.map(jax.checkpoint(one), intervals, batch_size=_BLOCK)

    _, tangent = jax.jvp(all_costs, (x, y, p), tuple(tangents[:3]))
    return _follow(*primals, power), tangent
