"""Unbalanced transport under POT's names, which has it for torch and JAX only."""

from typing import Any

import jax
import jax.numpy as jnp

from transportjax import onedim, sliced

from .arrays import columns, is_jax, rows, to_jax
from .sliced_distances import directions_for


def _penalty(reg_m: Any) -> Any:
    """A number or a pair, as we take it; POT's may be a list or array of one, too."""
    if isinstance(reg_m, jax.Array) and reg_m.size == 1:
        return reg_m.reshape(())
    if isinstance(reg_m, list | tuple):
        return reg_m[0] if len(reg_m) == 1 else tuple(reg_m)
    return reg_m


def uot_1d(
    u_values: Any,
    v_values: Any,
    reg_m: Any,
    u_weights: Any = None,
    v_weights: Any = None,
    p: Any = 2,
    require_sort: bool = True,
    numItermax: int = 10,
    returnCost: str = "linear",
    log: bool = False,
) -> Any:
    """`onedim.unbalanced_wasserstein_1d`; the linear part by `wasserstein_1d`."""
    assert is_jax(u_values), "POT wants an array with derivatives here"
    x, y = rows(u_values), rows(v_values)
    result = onedim.unbalanced_wasserstein_1d(
        x,
        y,
        penalty=_penalty(reg_m),
        p=p,
        x_weights=rows(u_weights),
        y_weights=rows(v_weights),
        num_steps=numItermax,
    )
    masses = result.x_masses, result.y_masses
    linear = jnp.sum(masses[0], axis=-1) * onedim.wasserstein_1d(
        x, y, p=p, x_weights=masses[0], y_weights=masses[1]
    )
    cost = linear if returnCost == "linear" else result.cost
    output = columns(masses[0]), columns(masses[1]), cost
    if not log:
        return output
    potentials = columns(result.x_potential), columns(result.y_potential)
    names = ("f", "g", "total_cost", "linear_cost")
    values = (*potentials, result.cost, linear)
    return *output, dict(zip(names, values, strict=True))


def _problem(
    X_s: Any,
    X_t: Any,
    reg_m: Any,
    a: Any,
    b: Any,
    n_projections: int,
    p: Any,
    projections: Any,
    seed: Any,
    numItermax: int,
) -> tuple[tuple, dict]:
    """The arguments of our functions."""
    assert is_jax(X_s), "POT wants an array with derivatives here"
    directions = directions_for(X_s, projections, n_projections, seed)
    options = {
        "penalty": _penalty(reg_m),
        "p": p,
        "x_weights": to_jax(a),
        "y_weights": to_jax(b),
        "num_steps": numItermax,
    }
    return (to_jax(X_s), to_jax(X_t), directions), options


def sliced_unbalanced_ot(
    X_s: Any,
    X_t: Any,
    reg_m: Any,
    a: Any = None,
    b: Any = None,
    n_projections: int = 50,
    p: Any = 2,
    projections: Any = None,
    seed: Any = None,
    numItermax: int = 10,
    log: bool = False,
) -> Any:
    """`sliced.sliced_unbalanced_wasserstein`; the log by the function on the line."""
    arrays, options = _problem(
        X_s, X_t, reg_m, a, b, n_projections, p, projections, seed, numItermax
    )
    cost = sliced.sliced_unbalanced_wasserstein(*arrays, **options)
    if not log:
        return cost
    x, y, directions = arrays
    on_lines = onedim.unbalanced_wasserstein_1d(
        directions @ x.T, directions @ y.T, **options
    )
    return cost, {
        "projections": directions.T,
        "projected_uots": on_lines.cost,
        "a_reweighted": on_lines.x_masses.T,
        "b_reweighted": on_lines.y_masses.T,
    }


def unbalanced_sliced_ot(
    X_s: Any,
    X_t: Any,
    reg_m: Any,
    a: Any = None,
    b: Any = None,
    n_projections: int = 50,
    p: Any = 2,
    projections: Any = None,
    seed: Any = None,
    numItermax: int = 10,
    log: bool = False,
) -> Any:
    """`sliced.unbalanced_sliced_wasserstein`; the log by `projected_costs`."""
    arrays, options = _problem(
        X_s, X_t, reg_m, a, b, n_projections, p, projections, seed, numItermax
    )
    result = sliced.unbalanced_sliced_wasserstein(*arrays, **options)
    masses = result.x_masses, result.y_masses
    if not log:
        return *masses, result.cost
    costs = sliced.projected_costs(
        *arrays, p=p, x_weights=masses[0], y_weights=masses[1]
    )
    full_mass = jnp.full_like(costs, jnp.sum(masses[0]))
    return (
        *masses,
        result.cost,
        {
            "projections": arrays[2].T,
            "sot_loss": jnp.mean(costs * full_mass),
            "1d_losses": costs,
            "full_mass": full_mass,
        },
    )


NAMES = {
    "uot_1d": uot_1d,
    "sliced_unbalanced_ot": sliced_unbalanced_ot,
    "unbalanced_sliced_ot": unbalanced_sliced_ot,
}
