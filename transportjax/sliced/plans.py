"""Plans from slices: optimal plans of projections, taken for plans between the points.

A plan that is optimal along a direction is a plan of the points too, though not the
optimal one: its cost between the points is an upper bound of the optimal cost, which
the best of many directions brings down. Plans are sparse, n + m - 1 entries each, and
nothing of size n x m is formed.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int32

from transportjax._checks import (
    as_float,
    check_count,
    check_number,
    check_pair_costs,
    check_plan,
    check_points,
    common_float,
)
from transportjax._sharding import explicit_mesh_guard
from transportjax.onedim.levels import working_precision
from transportjax.onedim.plan import Plan
from transportjax.onedim.wasserstein import plan_1d

from .pair import Pair, checked_pair_along, projections

_BLOCK = 2**22  # coordinates of pairs in a block of directions, unless told otherwise

Cost = Callable[[Array, Array], Array]


def squared_euclidean(
    x: Float[Array, "k d"], y: Float[Array, "k d"]
) -> Float[Array, " k"]:
    """|x_k - y_k|^2 of each pair of rows: the cost of plans unless told otherwise.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import squared_euclidean
        >>> print(squared_euclidean(jnp.array([[3.0, 4.0]]), jnp.zeros((1, 2))))
        [25.]
    """
    return jnp.sum((x - y) ** 2, axis=-1)


@explicit_mesh_guard
def sliced_plans(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    *,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
    cost: Cost = squared_euclidean,
    chunk: int | None = None,
) -> tuple[Plan, Float[Array, " p"]]:
    """The plan of each direction, optimal along it, and its cost between the points.

    The costs are differentiable in `x`, `y`, and where the cost function is; in the
    weights they are differentiable through the mass. The order of the projections is
    held constant: the costs jump where it changes, so they have no derivative in the
    directions (see `smoothed_sliced_plan_cost`).

    Args:
        x: points, `(n, d)`.
        y: points, `(m, d)`; their number may differ.
        directions: unit rows, `(p, d)`, as of `default_directions`.
        x_weights: masses >= 0 of `x`, `(n,)`; normalised. None: uniform.
        y_weights: likewise of `y`, `(m,)`.
        cost: a function of pairs of points, from rows (k, d) of `x` and (k, d) of `y`
            to (k,) costs. `lambda x, y: abs(x - y).sum(-1)` is the city block distance.
            Each new function object is compiled anew.
        chunk: how many directions to hold at once, but for their plans. None: all of
            small clouds.

    Returns:
        The plans, with a leading axis of p directions, each of total mass one; and
        their costs, in units of the cost function. Of n + m - 1 entries each; without
        weights n + m - gcd(n, m).

    Raises:
        ValueError: points or directions of the wrong shape, empty, NaN or infinite;
            directions that are not of norm 1; weights that are negative, all zero or of
            the wrong length; a cost function whose result has another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import sliced_plans
        >>> x = jnp.array([[0.0, 0.0], [1.0, 1.0]])
        >>> y = jnp.array([[1.0, 0.0], [0.0, 3.0]])
        >>> plans, costs = sliced_plans(x, y, jnp.eye(2))
        >>> print(plans.columns, costs)
        [[1 0]
         [0 1]] [5. 3.]

    References:
        Rowland et al. (2019), Orthogonal estimation of Wasserstein distances; Mahey et
        al. (2023), Fast optimal transport through sliced Wasserstein generalized
        geodesics.
    """
    problem, dtype = _checked(x, y, directions, x_weights, y_weights)
    plans, costs = _plans(problem, cost, _chunk(problem, chunk))
    return _with_mass(plans, plans.mass.astype(dtype)), costs.astype(dtype)


class SlicedPlan(NamedTuple):
    """The cheapest plan of a set of directions, its cost, and its direction's index."""

    plan: Plan
    cost: Float[Array, ""]
    index: Int32[Array, ""]


@explicit_mesh_guard
def min_sliced_plan(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    *,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
    cost: Cost = squared_euclidean,
    chunk: int | None = None,
) -> SlicedPlan:
    """The cheapest of the plans of `sliced_plans`: a bound of the optimal cost.

    The plans of the other directions are not kept. The cost is differentiable like
    those of `sliced_plans`, with the direction held constant.

    Args:
        x: points, `(n, d)`.
        y: points, `(m, d)`.
        directions: unit rows, `(p, d)`; the first wins a tie.
        x_weights: masses of `x`, as in `sliced_plans`.
        y_weights: masses of `y`.
        cost: the cost of pairs of points, as in `sliced_plans`.
        chunk: how many directions to hold at once.

    Returns:
        The plan, its cost, and the index of its direction. For the squared Euclidean
        cost that is the "min-SWGG" distance; at least W_2^2.

    Raises:
        ValueError: as `sliced_plans`.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import min_sliced_plan
        >>> x = jnp.array([[0.0, 0.0], [1.0, 1.0]])
        >>> y = jnp.array([[1.0, 0.0], [0.0, 3.0]])
        >>> plan, cost, index = min_sliced_plan(x, y, jnp.eye(2))
        >>> print(plan.to_dense(2, 2), cost, index)
        [[0.5 0. ]
         [0.  0.5]] 3.0 1

    References:
        Mahey et al. (2023), Fast optimal transport through sliced Wasserstein
        generalized geodesics, section 3.
    """
    problem, dtype = _checked(x, y, directions, x_weights, y_weights)
    best = _cheapest(problem, cost, _chunk(problem, chunk))
    plan = _with_mass(best.plan, best.plan.mass.astype(dtype))
    return SlicedPlan(plan, best.cost.astype(dtype), best.index)


@explicit_mesh_guard
def expected_sliced_plan(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    *,
    beta: ArrayLike = 0.0,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
    cost: Cost = squared_euclidean,
    chunk: int | None = None,
) -> tuple[Plan, Float[Array, ""]]:
    """The mean of the plans of `sliced_plans`, cheap ones counting more, and its cost.

    Direction t counts in proportion to exp(-beta cost_t). The cost is differentiable
    like those of `sliced_plans`, and in `beta`, including what the derivative of these
    shares contributes. To hold the plan, take the gradient of `plan_cost` instead.

    Args:
        x: points, `(n, d)`.
        y: points, `(m, d)`.
        directions: unit rows, `(p, d)`.
        beta: an inverse temperature >= 0, in units of one over the cost. 0: all
            directions count alike; the greater, the closer to `min_sliced_plan`.
        x_weights: masses of `x`, as in `sliced_plans`.
        y_weights: masses of `y`.
        cost: the cost of pairs of points, as in `sliced_plans`.
        chunk: how many directions to hold at once, but for their plans.

    Returns:
        The plan, whose entries are those of all p plans, one after the other, so that a
        pair may have several; and its cost.

    Raises:
        ValueError: as `sliced_plans`; a negative or infinite `beta`.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import expected_sliced_plan
        >>> x = jnp.array([[0.0, 0.0], [1.0, 1.0]])
        >>> y = jnp.array([[1.0, 0.0], [0.0, 3.0]])
        >>> plan, cost = expected_sliced_plan(x, y, jnp.eye(2))
        >>> print(plan.to_dense(2, 2), cost)
        [[0.25 0.25]
         [0.25 0.25]] 4.0

    References:
        Liu et al. (2025), Expected sliced transport plans.
    """
    problem, dtype = _checked(x, y, directions, x_weights, y_weights)
    check_number("beta", beta, 0, float(jnp.finfo(jnp.float32).max))
    plans, costs = _plans(problem, cost, _chunk(problem, chunk))
    shares = jax.nn.softmax(-as_float("beta", beta).astype(costs.dtype) * costs)
    plans = _with_mass(plans, (shares[:, None] * plans.mass).astype(dtype))
    return jax.tree.map(jnp.ravel, plans), (shares @ costs).astype(dtype)


def plan_cost(
    plan: Plan, x: ArrayLike, y: ArrayLike, *, cost: Cost = squared_euclidean
) -> Float[Array, "*batch"]:
    """The cost of a plan between the points, in units of the cost function.

    Differentiable in `x`, `y` and the mass.

    Args:
        plan: a plan, or a batch of plans between the same points.
        x: points, `(n, d)`.
        y: points, `(m, d)`.
        cost: the cost of pairs of points, as in `sliced_plans`.

    Returns:
        The sum of mass times cost, one for each plan of the batch.

    Raises:
        ValueError: points of the wrong shape, empty, NaN or infinite; entries of the
            plan that do not exist; a cost function whose result has another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.onedim import plan_1d
        >>> from transportjax.sliced import plan_cost
        >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[5.0], [8.0]])
        >>> plan = plan_1d(x[:, 0], y[:, 0])
        >>> print(plan_cost(plan, x, y))  # (5^2 + 7^2) / 2
        37.0
    """
    x, y = common_float(("x", x), ("y", y))
    check_points("x", x)
    check_points("y", y, x.shape[1])
    check_plan(plan, x.shape[0], y.shape[0])
    return _cost(plan, working_precision(x), working_precision(y), cost).astype(x.dtype)


@explicit_mesh_guard
def barycentric_projection(plan: Plan, y: ArrayLike, n: int) -> Float[Array, "n d"]:
    """Where the plan sends each of the n points of `x`: the mean of its targets.

    Differentiable in `y` and the mass.

    Args:
        plan: one plan.
        y: points, `(m, d)`.
        n: the number of points of `x`, static.

    Returns:
        The mean of the points of `y`, by the mass that they get from each point of `x`;
        NaN for points that have no mass.

    Raises:
        ValueError: points of the wrong shape, empty, NaN or infinite; a batch of plans,
            or entries that do not exist.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import barycentric_projection, min_sliced_plan
        >>> x, y = jnp.zeros((1, 2)), jnp.array([[1.0, 0.0], [3.0, 2.0]])
        >>> plan = min_sliced_plan(x, y, jnp.eye(2)).plan
        >>> print(barycentric_projection(plan, y, 1))
        [[2. 1.]]
    """
    y = as_float("y", y)
    check_points("y", y)
    check_count("n", n)
    check_plan(plan, n, y.shape[0], batch=False)
    return _projection(plan, working_precision(y), n).astype(y.dtype)


@functools.partial(jax.jit, static_argnums=2)
def _projection(plan: Plan, points: Array, n: int) -> Array:
    mass = plan.mass.astype(points.dtype)
    sent = mass[:, None] * points[plan.columns]
    total = jnp.zeros((n,), mass.dtype).at[plan.rows].add(mass)[:, None]
    sums = jnp.zeros((n, points.shape[1]), mass.dtype).at[plan.rows].add(sent)
    has_mass = total > 0
    return jnp.where(has_mass, sums / jnp.where(has_mass, total, 1), jnp.nan)


class _Problem(NamedTuple):
    pair: Pair
    directions: Float[Array, "p d"]


def _checked(
    x: ArrayLike, y: ArrayLike, directions: ArrayLike, x_weights: Any, y_weights: Any
) -> tuple[_Problem, Any]:
    """What to compute with, and the dtype to return."""
    pair, directions, dtype = checked_pair_along(x, y, directions, x_weights, y_weights)
    return _Problem(pair, directions), dtype


def _chunk(problem: _Problem, chunk: int | None) -> int:
    num = problem.directions.shape[0]
    if chunk is None:
        entries = problem.pair.x.size + problem.pair.y.size
        chunk = max(1, _BLOCK // entries)
    check_count("chunk", chunk)
    return min(chunk, num)


def _with_mass(plan: Plan, mass: Array) -> Plan:
    return Plan(plan.rows, plan.columns, mass)


def _cost(plan: Plan, x: Array, y: Array, cost: Cost) -> Array:
    rows, columns = (x[plan.rows.reshape(-1)], y[plan.columns.reshape(-1)])
    costs = cost(rows, columns)
    check_pair_costs("cost", costs, rows.shape[0])
    costs = costs.astype(x.dtype).reshape(plan.mass.shape)
    return jnp.sum(plan.mass.astype(x.dtype) * costs, axis=-1)


def _block(problem: _Problem, directions: Array, cost: Cost) -> tuple[Plan, Array]:
    """The plans of some directions, and their costs."""
    pair = problem.pair
    plans = plan_1d(
        *lax.stop_gradient(projections(pair, directions)),
        x_weights=pair.x_weights,
        y_weights=pair.y_weights,
    )
    return plans, _cost(plans, pair.x, pair.y, cost)


@eqx.filter_jit
def _plans(problem: _Problem, cost: Cost, chunk: int) -> tuple[Plan, Array]:
    """The plans of all directions, and their costs."""
    num = problem.directions.shape[0]
    if chunk == num:
        return _block(problem, problem.directions, cost)

    def one(direction: Array) -> tuple[Plan, Array]:
        both = _block(problem, direction[None], cost)
        return jax.tree.map(lambda a: a[0], both)

    return lax.map(jax.checkpoint(one), problem.directions, batch_size=chunk)


@eqx.filter_jit
def _cheapest(problem: _Problem, cost: Cost, chunk: int) -> SlicedPlan:
    still = lax.stop_gradient(problem)

    def costs_of(direction: Array) -> Array:
        return _block(still, direction[None], cost)[1][0]

    costs = lax.map(costs_of, still.directions, batch_size=chunk)
    index = jnp.argmin(lax.stop_gradient(costs)).astype(jnp.int32)
    direction = lax.dynamic_index_in_dim(still.directions, index)
    plan, value = jax.tree.map(lambda a: a[0], _block(problem, direction, cost))
    return SlicedPlan(plan, value, index)
