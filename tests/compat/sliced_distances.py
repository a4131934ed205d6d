"""Sliced distances under POT's names; POT's directions are columns, ours rows."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from transportjax import sliced

from .arrays import back, float_dtype, is_jax, key_of, to_jax


def get_random_projections(
    d: int,
    n_projections: int,
    seed: Any = None,
    backend: Any = None,
    type_as: Any = None,
) -> Any:
    """`sliced.random_directions`, as columns."""
    dtype = float_dtype(type_as)
    directions = sliced.random_directions(key_of(seed), n_projections, d, dtype).T
    as_jax = is_jax(type_as) or str(backend) == "jax"
    return directions if as_jax else np.asarray(directions)


def directions_for(x: Any, projections: Any, n_projections: int, seed: Any) -> Any:
    """Directions as rows: the ones that are given, or random ones."""
    if projections is None:
        num, dim = n_projections, jnp.shape(x)[1]
        return sliced.random_directions(key_of(seed), num, dim, float_dtype(x))
    return to_jax(projections).T


def _scaled(scaler: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """The clouds after a scaler of POT: an object with `transform`, or a function."""
    if scaler is None:
        return x, y
    function = getattr(scaler, "transform", scaler)
    if not callable(function):
        raise ValueError("scaler must be None, a function, or have a transform method")
    return function(x), function(y)


def _problem(
    X_s: Any,
    X_t: Any,
    a: Any,
    b: Any,
    n_projections: int,
    p: Any,
    projections: Any,
    seed: Any,
    scaler: Any,
) -> tuple[tuple, dict]:
    """The arguments of our functions."""
    X_s, X_t = _scaled(scaler, X_s, X_t)
    directions = directions_for(X_s, projections, n_projections, seed)
    options = {"p": p, "x_weights": to_jax(a), "y_weights": to_jax(b)}
    return (to_jax(X_s), to_jax(X_t), directions), options


def _log(directions: Any, costs: Any, like: Any) -> dict:
    return back({"projections": directions.T, "projected_emds": costs}, like)


def sliced_wasserstein_distance(
    X_s: Any,
    X_t: Any,
    a: Any = None,
    b: Any = None,
    n_projections: int = 50,
    p: Any = 2,
    projections: Any = None,
    seed: Any = None,
    log: bool = False,
    scaler: Any = None,
) -> Any:
    """`sliced.sliced_wasserstein`, the root; `sliced.projected_costs` for the log."""
    arrays, options = _problem(
        X_s, X_t, a, b, n_projections, p, projections, seed, scaler
    )
    value = back(sliced.sliced_wasserstein(*arrays, root=True, **options), X_s)
    if not log:
        return value
    costs = sliced.projected_costs(*arrays, **options)
    return value, _log(arrays[2], costs, X_s)


def max_sliced_wasserstein_distance(
    X_s: Any,
    X_t: Any,
    a: Any = None,
    b: Any = None,
    n_projections: int = 50,
    p: Any = 2,
    projections: Any = None,
    seed: Any = None,
    log: bool = False,
    scaler: Any = None,
) -> Any:
    """The greatest of `sliced.projected_costs`, which is what POT's name means."""
    arrays, options = _problem(
        X_s, X_t, a, b, n_projections, p, projections, seed, scaler
    )
    costs = sliced.projected_costs(*arrays, **options)
    value = back(jnp.max(costs) ** (1 / p), X_s)
    return (value, _log(arrays[2], costs, X_s)) if log else value


NAMES = {
    "sliced.get_random_projections": get_random_projections,
    "sliced_wasserstein_distance": sliced_wasserstein_distance,
    "max_sliced_wasserstein_distance": max_sliced_wasserstein_distance,
}
