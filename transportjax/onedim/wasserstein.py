r"""Wasserstein distances, optimal plans and dual potentials on the line.

With sorted samples x_(i) of cumulative masses A_i, and y_(j) of B_j, the optimal plan
pairs equal quantiles. The merged levels q_1 <= q_2 <= ... of both sequences cut [0, 1]
into segments of mass delta_k, on each of which one x_(i_k) meets one y_(j_k):

    W_p^p = sum_k delta_k |x_(i_k) - y_(j_k)|^p.

Where no weights are given, the segments are known from the sizes alone. Derivatives
hold the permutations and the pairs (i_k, j_k) constant, which is exact almost
everywhere.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import check_batches, check_number, common_float
from transportjax._sharding import explicit_mesh_guard

from .levels import checked_samples
from .merging import (
    MergedLevels,
    pick,
    uniform_levels,
    uniform_overlaps,
    weighted_levels,
)
from .plan import Plan
from .sorting import permute, sort, sort_with_permutation, unpermute


@explicit_mesh_guard
def wasserstein_1d(
    x: ArrayLike,
    y: ArrayLike,
    *,
    p: ArrayLike = 2,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
) -> Float[Array, "*batch"]:
    r"""W_p^p between samples on the line, in units of `x` to the power p.

    Exact, by sorting. Differentiable in `x`, `y`, both weights, and `p`. The derivative
    holds the order of the samples; where x_(i) = y_(j) it is zero, also for p = 1,
    where that is one of the sub-gradients. The derivative in the weights is that of the
    normalised weights: a Kantorovich potential, less its mean. Where levels of both
    sides coincide or a weight is zero, it is one-sided. Twice differentiable in `x` and
    `y` for p >= 2.

    Args:
        x: finite samples, (..., n).
        y: finite samples, (..., m); the batches broadcast, so one `y` serves all rows.
        p: the exponent, in [1, 1000]: a number or a scalar array. Integers are fastest,
            and each is compiled apart.
        x_weights: masses >= 0 of `x`, (n,) or the shape of `x`; normalised, so that
            their scale does not matter. None: uniform, which is faster.
        y_weights: likewise of `y`.

    Returns:
        W_p^p, one for each row. It is infinite where a distance to the power p
        overflows: in float32 and for p = 2, beyond 1.8e19.

    Raises:
        ValueError: samples that are empty, NaN or infinite; weights that are negative,
            all zero, NaN or of the wrong shape; p < 1. Where values are traced, bad
            weights give NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> x, y = jnp.array([0.0, 1.0]), jnp.array([5.0, 8.0])
        >>> print(wasserstein_1d(x, y))  # (5^2 + 7^2) / 2
        37.0
        >>> print(wasserstein_1d(x, y, p=1, y_weights=jnp.array([3.0, 1.0])))
        5.25

    References:
        Peyré and Cuturi, 2019, "Computational optimal transport", section 2.6.
    """
    x, y, p, a, b, dtype = checked_problem(x, y, p, x_weights, y_weights)
    return _distance(x, y, p, a, b).astype(dtype)


@eqx.filter_jit
def _distance(x: Array, y: Array, p: Any, a: Array | None, b: Array | None) -> Array:
    x, a = sort_weighted(x, a)
    y, b = sort_weighted(y, b)
    return cost_of_sorted(x, y, p=p, x_weights=a, y_weights=b)


@explicit_mesh_guard
def plan_1d(
    x: ArrayLike,
    y: ArrayLike,
    *,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
) -> Plan:
    """The optimal plan between samples on the line, for every convex cost of x - y.

    The mass is differentiable in the weights; in `x` and `y` the plan is constant
    almost everywhere. Tied samples are paired in the order of their indices.

    Args:
        x: finite samples, (..., n).
        y: finite samples, (..., m).
        x_weights: masses of `x`, as in `wasserstein_1d`.
        y_weights: masses of `y`.

    Returns:
        A `Plan` of total mass one, for each row of the batch: in ascending order of `x`
        and of `y`, no pair twice with mass, n + m - 1 entries. Without weights only
        those with mass: n + m - gcd(n, m) of them, so that n = m leaves a permutation.

    Raises:
        ValueError: as `wasserstein_1d`.

    Example:
        >>> import jax.numpy as jnp
        >>> plan = plan_1d(jnp.array([1.0, 0.0]), jnp.array([7.0, 8.0]))
        >>> print(plan.to_dense(2, 2))
        [[0.  0.5]
         [0.5 0. ]]

    References:
        Peyré and Cuturi, 2019, "Computational optimal transport", section 2.6 and the
        north-west corner rule of section 3.4.2.
    """
    x, y, _, a, b, dtype = checked_problem(x, y, 2, x_weights, y_weights)
    plan = _plan(x, y, a, b)
    return Plan(plan.rows, plan.columns, plan.mass.astype(dtype))


@eqx.filter_jit
def _plan(x: Array, y: Array, a: Array | None, b: Array | None) -> Plan:
    x, y, a, b, x_order, y_order = _sorted(x, y, a, b)
    levels = _levels(x, y, a, b)
    entries = levels.rows, levels.columns, levels.mass
    if isinstance(levels.mass, np.ndarray):
        entries = (entry[levels.mass > 0] for entry in entries)
    rows, columns, mass = entries
    rows, columns = pick(x_order, rows), pick(y_order, columns)
    return Plan(rows, columns, jnp.broadcast_to(mass, rows.shape))


@explicit_mesh_guard
def potentials_1d(
    x: ArrayLike,
    y: ArrayLike,
    *,
    p: ArrayLike = 2,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
) -> tuple[Float[Array, "*batch n"], Float[Array, "*batch m"]]:
    r"""Optimal dual potentials f of `x` and g of `y`, in units of `x` to the power p.

    They are feasible, f_i + g_j <= |x_i - y_j|^p, with equality wherever the plan has
    mass; and they share the cost evenly, sum_i a_i f_i = sum_j b_j g_j = W_p^p / 2, of
    the normalised weights a and b. Up to their means they are the derivatives of W_p^p
    in the weights.

    In closed form: along the path of the plan through the pairs (i, j), each step
    raises either i or j, and f or g changes by the change of the cost.

    Args:
        x: finite samples, (..., n).
        y: finite samples, (..., m).
        p: the exponent, in [1, 1000]: a number or a scalar array.
        x_weights: masses of `x`, as in `wasserstein_1d`.
        y_weights: masses of `y`.

    Returns:
        f, one number for each `x`, and g, one for each `y`.

    Raises:
        ValueError: as `wasserstein_1d`.

    Example:
        >>> import jax.numpy as jnp
        >>> f, g = potentials_1d(jnp.array([0.0, 1.0]), jnp.array([2.0]))
        >>> print(f, g)  # W_2^2 = (4 + 1) / 2
        [ 2.75 -0.25] [1.25]

    References:
        Peyré and Cuturi, 2019, "Computational optimal transport", section 3.4.2.
    """
    x, y, p, a, b, dtype = checked_problem(x, y, p, x_weights, y_weights)
    f, g = _potentials(x, y, p, a, b)
    return f.astype(dtype), g.astype(dtype)


@eqx.filter_jit
def _potentials(
    x: Array, y: Array, p: Any, a: Array | None, b: Array | None
) -> tuple[Array, Array]:
    x, y, a, b, x_order, y_order = _sorted(x, y, a, b)
    f, g = potentials_of_sorted(x, y, p=p, x_weights=a, y_weights=b)
    return unpermute(f, x_order), unpermute(g, y_order)


def potentials_of_sorted(
    x: Float[Array, "*batch n"],
    y: Float[Array, "*batch m"],
    *,
    p: Any = 2,
    x_weights: Float[Array, "*batch n"] | None = None,
    y_weights: Float[Array, "*batch m"] | None = None,
) -> tuple[Float[Array, "*batch n"], Float[Array, "*batch m"]]:
    """The potentials of samples that are sorted already, in their order.

    Args:
        x: sorted samples, in the precision to compute with.
        y: sorted samples of the same dtype and batch.
        p: the exponent >= 1; an int is static, and faster than a float.
        x_weights: masses in the order of `x`, of its shape.
        y_weights: likewise of `y`.

    Returns:
        f and g, as `potentials_1d`.
    """
    n = x.shape[-1]
    levels = _levels(x, y, x_weights, y_weights)
    gap = pick(x, levels.rows) - pick(y, levels.columns)
    cost = power_cost(gap, p)
    step, start = jnp.diff(cost, axis=-1), cost[..., :1]
    order = jnp.broadcast_to(levels.order, (*cost.shape[:-1], cost.shape[-1] + 1))
    raises_x = order < n
    f = _sums_before(jnp.where(raises_x[..., :-2], step, 0))
    g = _sums_before(jnp.where(raises_x[..., :-2], 0, step)) + start
    both = unpermute(jnp.where(raises_x, f, g), order)
    f, g = both[..., :n], both[..., n:]
    half = _expected_cost(gap, levels.mass, p) / 2
    f = f + (half - _weighted_mean(f, x_weights))[..., None]
    g = g + (half - _weighted_mean(g, y_weights))[..., None]
    return f, g


def cost_of_sorted(
    x: Float[Array, "... n"],
    y: Float[Array, "... m"],
    *,
    p: Any = 2,
    x_weights: Float[Array, "... n"] | None = None,
    y_weights: Float[Array, "... m"] | None = None,
) -> Float[Array, "..."]:
    """W_p^p of samples that are sorted already: what a fixed target can be kept as.

    Args:
        x: sorted samples, in the precision to compute with.
        y: sorted samples of the same dtype; the batches broadcast.
        p: the exponent >= 1; an int is static, and faster than a float.
        x_weights: masses in the order of `x`, of its shape.
        y_weights: likewise of `y`.

    Returns:
        W_p^p, one for each row.
    """
    x, y, a, b = same_batch(x, y, x_weights, y_weights)
    n, m = x.shape[-1], y.shape[-1]
    if a is None and b is None:
        if n == m:
            return jnp.mean(power_cost(x - y, p), axis=-1)
        return _uneven_cost(x, y, p) if n > m else _uneven_cost(y, x, p)
    levels = weighted_levels(_filled(a, x), _filled(b, y))
    gap = pick(x, levels.rows) - pick(y, levels.columns)
    return _expected_cost(gap, levels.mass, p)


def power_cost(difference: Float[Array, "*shape"], p: Any) -> Float[Array, "*shape"]:
    """|difference|^p, with derivative zero at zero for every p >= 1; fast for ints."""
    if isinstance(p, int) and p % 2 == 0:
        return difference**p
    size = difference * jnp.sign(difference)  # the derivative of `abs` at zero is one
    return size**p


def sort_weighted(
    x: Float[Array, "*batch n"], weights: Float[Array, "*batch n"] | None
) -> tuple[Array, Array | None]:
    """Sorted samples and their weights in the same order, or None for None."""
    if weights is None:
        return sort(x), None
    x, order = sort_with_permutation(x)
    return x, permute(weights, order)


def _uneven_cost(x: Array, y: Array, p: Any) -> Array:
    """W_p^p of sorted samples, more of them in `x` than in `y`.

    Laid out along `x`, each of which meets one or two of `y`: what is gathered is
    short, and the derivative in `x` needs no scatter.
    """
    first, second, share = uniform_overlaps(x.shape[-1], y.shape[-1])
    share = jnp.broadcast_to(share.astype(x.dtype), x.shape)
    cost = share * power_cost(x - pick(y, first), p)
    if (first == second).all():
        return jnp.mean(cost, axis=-1)
    rest = jnp.where(share < 1, x - pick(y, second), 0)
    return jnp.mean(cost + (1 - share) * power_cost(rest, p), axis=-1)


def checked_problem(
    x: ArrayLike,
    y: ArrayLike,
    p: ArrayLike,
    x_weights: Any,
    y_weights: Any,
    *,
    most_p: float = 1000.0,
) -> tuple[Array, Array, Any, Array | None, Array | None, Any]:
    """Checked samples, exponent and weights to compute with; the dtype to return."""
    x, y = common_float(("x", x), ("y", y))
    dtype = x.dtype
    x, x_weights = checked_samples("x", x, x_weights, "x_weights")
    y, y_weights = checked_samples("y", y, y_weights, "y_weights")
    check_batches("x", x, "y", y)
    check_number("p", p, low=1.0, high=most_p)
    if isinstance(p, int | float | np.number) and p == int(p):
        p = int(p)  # static: multiplications instead of a general power
    else:
        p = jnp.asarray(p, x.dtype)
    return x, y, p, x_weights, y_weights, dtype


def same_batch(x: Array, y: Array, a: Array | None, b: Array | None) -> list:
    """All arrays with the common batch of `x` and `y`."""
    batch = np.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    return [
        None if z is None else jnp.broadcast_to(z, (*batch, z.shape[-1]))
        for z in (x, y, a, b)
    ]


def _sorted(
    x: Array, y: Array, a: Array | None, b: Array | None
) -> tuple[Array, Array, Array | None, Array | None, Array, Array]:
    """Sorted samples, their weights, and the permutations, of one batch."""
    x, y, a, b = same_batch(x, y, a, b)
    x, x_order = sort_with_permutation(x)
    y, y_order = sort_with_permutation(y)
    a = None if a is None else permute(a, x_order)
    b = None if b is None else permute(b, y_order)
    return x, y, a, b, x_order, y_order


def _levels(x: Array, y: Array, a: Array | None, b: Array | None) -> MergedLevels:
    """The segments of sorted samples."""
    if a is None and b is None:
        levels = uniform_levels(x.shape[-1], y.shape[-1])
        return levels._replace(mass=levels.mass.astype(x.dtype))
    return weighted_levels(_filled(a, x), _filled(b, y))


def _filled(weights: Array | None, x: Array) -> Array:
    """The weights of `x`, or ones."""
    return jnp.ones_like(x) if weights is None else weights


def _expected_cost(gap: Array, mass: Any, p: Any) -> Array:
    """The sum of mass |gap|^p; without mass, a gap may overflow."""
    mass = jnp.broadcast_to(mass, gap.shape)
    limit = (jnp.finfo(gap.dtype).max / p) ** (1 / p)
    gap = jnp.where((mass == 0) & (jnp.abs(gap) > limit), 0, gap)
    return jnp.sum(mass * power_cost(gap, p), axis=-1)


def _sums_before(step: Array) -> Array:
    """0, the cumulative sums of `step`, and the last of them again."""
    sums = jnp.cumsum(step, axis=-1)
    zero = jnp.zeros_like(step, shape=(*step.shape[:-1], 1))
    sums = jnp.concatenate([zero, sums], axis=-1)
    return jnp.concatenate([sums, sums[..., -1:]], axis=-1)


def _weighted_mean(x: Array, weights: Array | None) -> Array:
    """The mean of `x` along its last axis, by normalised weights."""
    if weights is None:
        return jnp.mean(x, axis=-1)
    weights = weights / jnp.max(weights, axis=-1, keepdims=True)
    return jnp.sum(weights * x, axis=-1) / jnp.sum(weights, axis=-1)
