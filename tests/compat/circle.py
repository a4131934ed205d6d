"""Transport on the circle under POT's names; both have a circle of length one."""

from typing import Any

import jax.numpy as jnp

from transportjax import onedim

from .arrays import back, columns, rows, to_jax


def _checked_columns(u_values: Any, v_values: Any) -> tuple[Any, Any]:
    """Where POT wants as many columns on both sides, ours would broadcast."""
    if jnp.ndim(u_values) != jnp.ndim(v_values) or (
        jnp.shape(u_values)[1:] != jnp.shape(v_values)[1:]
    ):
        shapes = jnp.shape(u_values), jnp.shape(v_values)
        raise ValueError(f"u and v must have the same columns; got {shapes}")
    return rows(u_values), rows(v_values)


def wasserstein_circle(
    u_values: Any,
    v_values: Any,
    u_weights: Any = None,
    v_weights: Any = None,
    p: Any = 1,
    Lm: Any = 10,
    Lp: Any = 10,
    tm: Any = -1,
    tp: Any = 1,
    eps: Any = 1e-6,
    require_sort: bool = True,
) -> Any:
    """`onedim.wasserstein_circle`; what bounds POT's search is not used."""
    x, y = _checked_columns(u_values, v_values)
    weights = {"x_weights": rows(u_weights), "y_weights": rows(v_weights)}
    # POT has one result for each column, and takes one column for a vector
    value = onedim.wasserstein_circle(
        jnp.atleast_2d(x), jnp.atleast_2d(y), p=p, **weights
    )
    return back(value, u_values)


def binary_search_circle(
    u_values: Any,
    v_values: Any,
    u_weights: Any = None,
    v_weights: Any = None,
    p: Any = 1,
    *search: Any,
    log: bool = False,
    **options: Any,
) -> Any:
    """`onedim.wasserstein_circle`."""
    value = wasserstein_circle(
        u_values, v_values, u_weights, v_weights, p, *search, **options
    )
    if log:
        raise NotImplementedError("the place of the cut is not given out")
    return value


def semidiscrete_wasserstein2_unif_circle(u_values: Any, u_weights: Any = None) -> Any:
    """`onedim.wasserstein_circle_uniform`."""
    x = jnp.atleast_2d(rows(u_values))
    value = onedim.wasserstein_circle_uniform(x, x_weights=rows(u_weights))
    return back(value, u_values)


def linear_circular_embedding(
    x: Any, u_values: Any, u_weights: Any = None, require_sort: bool = True
) -> Any:
    """`onedim.linear_circular_embedding`, whose samples come first."""
    samples = jnp.atleast_2d(rows(u_values))
    value = onedim.linear_circular_embedding(
        samples, to_jax(x), x_weights=rows(u_weights)
    )
    return back(columns(value), u_values)


def linear_circular_ot(
    u_values: Any, v_values: Any = None, u_weights: Any = None, v_weights: Any = None
) -> Any:
    """`onedim.linear_circular_wasserstein`."""
    x, y = jnp.atleast_2d(rows(u_values)), None
    if v_values is not None:
        y = jnp.atleast_2d(_checked_columns(u_values, v_values)[1])
    weights = {"x_weights": rows(u_weights), "y_weights": rows(v_weights)}
    return back(onedim.linear_circular_wasserstein(x, y, **weights), u_values)


NAMES = {
    "binary_search_circle": binary_search_circle,
    "wasserstein_circle": wasserstein_circle,
    "semidiscrete_wasserstein2_unif_circle": semidiscrete_wasserstein2_unif_circle,
    "linear_circular_ot": linear_circular_ot,
    "lp.solver_circle.linear_circular_embedding": linear_circular_embedding,
}
