"""Plans from slices under POT's names."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transportjax import sliced

from .arrays import back, is_jax, refuses_by_assertion, to_jax
from .line import CooTuple
from .sliced_distances import directions_for


@functools.cache
def _cost(metric: str, p: Any) -> Callable:
    """The cost of pairs of points that a metric of POT is."""
    if metric == "sqeuclidean":
        return sliced.squared_euclidean
    orders = {"euclidean": 2, "cityblock": 1, "minkowski": p}
    assert metric in orders, f"no metric of plans: '{metric}'"
    return lambda x, y: jnp.linalg.norm(x - y, ord=orders[metric], axis=-1)


def _problem(
    X_s: Any,
    X_t: Any,
    a: Any,
    b: Any,
    projections: Any,
    metric: str,
    p: Any,
    n_projections: int | None,
    seed: Any,
    batch_size: int | None,
) -> tuple[tuple, dict]:
    """The arguments of our functions."""
    if projections is None:
        assert n_projections is not None, "n_projections or projections must be given"
    directions = directions_for(X_s, projections, n_projections or 0, seed)
    weights = {"x_weights": to_jax(a), "y_weights": to_jax(b)}
    options = {"cost": _cost(metric, p), "chunk": batch_size, **weights}
    return (to_jax(X_s), to_jax(X_t), directions), options


def _tuples(plans: Any, like: Any) -> list[CooTuple]:
    """A list of plans, one for each direction."""
    parts = back((plans.mass, plans.rows, plans.columns), like)
    return [CooTuple(*entries) for entries in zip(*parts, strict=True)]


def _matrix(plan: Any, X_s: Any, X_t: Any, dense: bool) -> Any:
    """A dense plan; for numpy a sparse one if that is asked for."""
    if dense or is_jax(X_s):
        return back(plan.to_dense(len(X_s), len(X_t)), X_s)
    from scipy.sparse import coo_array

    rows, columns, mass = (
        np.asarray(part) for part in (plan.rows, plan.columns, plan.mass)
    )
    return coo_array((mass, (rows, columns)), (len(X_s), len(X_t)))


@refuses_by_assertion
def sliced_plans(
    X_s: Any,
    X_t: Any,
    a: Any = None,
    b: Any = None,
    metric: str = "sqeuclidean",
    p: Any = 2,
    projections: Any = None,
    n_projections: int | None = None,
    seed: Any = None,
    batch_size: int | None = None,
    log: bool = False,
) -> Any:
    """`sliced.sliced_plans`."""
    arrays, options = _problem(
        X_s, X_t, a, b, projections, metric, p, n_projections, seed, batch_size
    )
    plans, costs = sliced.sliced_plans(*arrays, **options)
    result = _tuples(plans, X_s), back(costs, X_s)
    if not log:
        return result
    x, y, directions = arrays
    names = ("X_projection", "Y_projection", "projections")
    values = (x @ directions.T, y @ directions.T, directions.T)
    return *result, back(dict(zip(names, values, strict=True)), X_s)


@refuses_by_assertion
def min_sliced_transport_plan(
    X_s: Any,
    X_t: Any,
    a: Any = None,
    b: Any = None,
    projections: Any = None,
    metric: str = "sqeuclidean",
    p: Any = 2,
    n_projections: int | None = None,
    seed: Any = None,
    batch_size: int | None = None,
    dense: bool = True,
    log: bool = False,
) -> Any:
    """`sliced.min_sliced_plan`; the log by `sliced.sliced_plans`."""
    arrays, options = _problem(
        X_s, X_t, a, b, projections, metric, p, n_projections, seed, batch_size
    )
    best = sliced.min_sliced_plan(*arrays, **options)
    result = _matrix(best.plan, X_s, X_t, dense), back(best.cost, X_s)
    if not log:
        return result
    x, y, directions = arrays
    direction = directions[best.index]
    record = {
        "projections": directions.T,
        "costs": sliced.sliced_plans(*arrays, **options)[1],
        "min_projection": direction,
        "X_min_projection": x @ direction,
        "Y_min_projection": y @ direction,
    }
    return *result, back(record, X_s)


@refuses_by_assertion
def expected_sliced_plan(
    X_s: Any,
    X_t: Any,
    a: Any = None,
    b: Any = None,
    projections: Any = None,
    metric: str = "sqeuclidean",
    p: Any = 2,
    n_projections: int | None = None,
    beta: Any = 0.0,
    seed: Any = None,
    dense: bool = True,
    batch_size: int | None = None,
    log: bool = False,
) -> Any:
    """`sliced.expected_sliced_plan`; the log by `sliced.sliced_plans`."""
    arrays, options = _problem(
        X_s, X_t, a, b, projections, metric, p, n_projections, seed, batch_size
    )
    plan, cost = sliced.expected_sliced_plan(*arrays, beta=beta, **options)
    result = _matrix(plan, X_s, X_t, dense), back(cost, X_s)
    if not log:
        return result
    plans, costs = sliced.sliced_plans(*arrays, **options)
    record = {
        "projections": arrays[2].T,
        "costs": costs,
        "weights": jax.nn.softmax(-beta * costs),
    }
    return *result, {**back(record, X_s), "G": _tuples(plans, X_s)}


NAMES = {
    "sliced.sliced_plans": sliced_plans,
    "min_sliced_transport_plan": min_sliced_transport_plan,
    "expected_sliced_plan": expected_sliced_plan,
}
