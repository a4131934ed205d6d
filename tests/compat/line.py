"""Transport on the line under POT's names."""

from collections import namedtuple
from typing import Any

import jax.numpy as jnp
import numpy as np

from transportjax import onedim

from .arrays import back, columns, is_jax, refuses_by_assertion, rows, to_jax

CooTuple = namedtuple("CooTuple", ["data", "rows", "cols"])


def quantile_function(qs: Any, cws: Any, xs: Any, return_index: bool = False) -> Any:
    """`onedim.quantile`, the left-continuous inverse; our weights are the steps.

    Equal steps are no weights for us, which makes the levels those of j / n exactly.
    """
    q, levels, x = rows(qs), rows(cws), rows(xs)
    weights = jnp.diff(levels, axis=-1, prepend=jnp.zeros_like(levels[..., :1]))
    rounding = 4 * jnp.finfo(levels.dtype).eps
    if jnp.max(jnp.ptp(weights, axis=-1) / levels[..., -1]) <= rounding:
        weights = None
    q = q / levels[..., -1:]

    def at_levels(x: Any) -> Any:
        return onedim.quantile(x, q, weights=weights, method="inverse")

    value = back(columns(at_levels(x)), xs)
    if not return_index:
        return value
    places = jnp.broadcast_to(jnp.arange(x.shape[-1], dtype=x.dtype), x.shape)
    return value, back(columns(at_levels(places)).astype(jnp.int32), xs)


def wasserstein_1d(
    u_values: Any,
    v_values: Any,
    u_weights: Any = None,
    v_weights: Any = None,
    p: Any = 1,
    require_sort: bool = True,
    return_plans: Any = False,
) -> Any:
    """`onedim.wasserstein_1d` and `onedim.plan_1d`, for each column."""
    x, y = rows(u_values), rows(v_values)
    weights = {"x_weights": rows(u_weights), "y_weights": rows(v_weights)}
    value = back(onedim.wasserstein_1d(x, y, p=p, **weights), u_values)
    if not return_plans:
        return value
    plan = onedim.plan_1d(x, y, **weights)
    parts = [np.atleast_2d(part) for part in (plan.mass, plan.rows, plan.columns)]
    tuples = [CooTuple(*column) for column in zip(*parts, strict=True)]
    if return_plans == "coo_tuple":
        return value, tuples
    from scipy.sparse import coo_array

    shape = (x.shape[-1], y.shape[-1])
    return value, [coo_array((t.data, (t.rows, t.cols)), shape) for t in tuples]


def _exponent(metric: str, p: Any) -> Any:
    """What power of |x - y| a metric of POT is, on the line."""
    powers = {"sqeuclidean": 2, "euclidean": 1, "cityblock": 1, "minkowski": p}
    if metric not in powers:
        raise ValueError(f"metric '{metric}' is no power of |x - y|")
    return powers[metric]


def _flat(x: Any) -> Any:
    x = to_jax(x)
    if x.ndim == 2 and x.shape[1] == 1:
        return x[:, 0]
    assert x.ndim == 1, f"samples on the line, not of shape {x.shape}"
    return x


def emd_1d(
    x_a: Any,
    x_b: Any,
    a: Any = None,
    b: Any = None,
    metric: str = "sqeuclidean",
    p: Any = 1.0,
    dense: bool = True,
    log: bool = False,
    check_marginals: bool = True,
) -> Any:
    """`onedim.plan_1d`, and the cost by `onedim.wasserstein_1d`."""
    power, x, y = _exponent(metric, p), _flat(x_a), _flat(x_b)
    weights = {"x_weights": to_jax(a), "y_weights": to_jax(b)}
    plan = onedim.plan_1d(x, y, **weights)
    dense_plan = plan.to_dense(x.shape[0], y.shape[0])
    matrix = back(dense_plan, x_a)
    if not dense:
        from scipy.sparse import coo_array

        matrix = coo_array(np.asarray(dense_plan))
    if not log:
        return matrix
    cost = onedim.wasserstein_1d(x, y, p=power, **weights)
    return matrix, {"cost": back(cost, x_a)}


def emd2_1d(
    x_a: Any,
    x_b: Any,
    a: Any = None,
    b: Any = None,
    metric: str = "sqeuclidean",
    p: Any = 1.0,
    dense: bool = True,
    log: bool = False,
) -> Any:
    """The cost of `emd_1d`, which is linked to it in POT too."""
    power, x, y = _exponent(metric, p), _flat(x_a), _flat(x_b)
    weights = {"x_weights": to_jax(a), "y_weights": to_jax(b)}
    cost = back(onedim.wasserstein_1d(x, y, p=power, **weights), x_a)
    return (cost, {"G": emd_1d(x_a, x_b, a, b, metric, p, dense)}) if log else cost


def emd_1d_dual_backprop(
    u_values: Any,
    v_values: Any,
    u_weights: Any = None,
    v_weights: Any = None,
    p: Any = 1,
    require_sort: bool = True,
) -> Any:
    """`onedim.potentials_1d`; POT has it for arrays with derivatives only."""
    assert is_jax(u_values), "POT wants an array with derivatives here"
    x, y = rows(u_values), rows(v_values)
    options = {"p": p, "x_weights": rows(u_weights), "y_weights": rows(v_weights)}
    f, g = onedim.potentials_1d(x, y, **options)
    return columns(f), columns(g), onedim.wasserstein_1d(x, y, **options)


@refuses_by_assertion
def partial_wasserstein_1d(
    x_a: Any, x_b: Any, n_transported_samples: int | None = None, p: Any = 1
) -> Any:
    """`onedim.partial_wasserstein_1d`: which samples join, and at what cost."""
    result = onedim.partial_wasserstein_1d(
        _flat(x_a), _flat(x_b), n_transported_samples, p=p
    )
    return back(tuple(result), x_a)


NAMES = {
    "wasserstein_1d": wasserstein_1d,
    "emd_1d": emd_1d,
    "emd2_1d": emd2_1d,
    "emd_1d_dual_backprop": emd_1d_dual_backprop,
    "lp.solver_1d.quantile_function": quantile_function,
    "partial.partial_wasserstein_1d": partial_wasserstein_1d,
}
