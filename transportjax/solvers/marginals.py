"""One-dimensional transfers along given axes: what the steps of the solvers fit."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportjax.maps import AbstractBijection, MonotoneGrid, MonotoneLinear
from transportjax.onedim import (
    binned_atoms,
    quantile_transfer,
    sort,
    wasserstein_1d,
)
from transportjax.onedim.levels import neighbours, take
from transportjax.onedim.merging import weighted_levels

_LEAST_MASS = 1e-5  # of a bin, in units of the mean: less counts as empty


def project(
    axes: Float[Array, "p d"], points: Float[Array, "n d"]
) -> Float[Array, "p n"]:
    """The points along each axis."""
    return jnp.matmul(axes, points.T, precision="highest")


def fit_marginals(
    x: Float[Array, "p n"],
    y: Float[Array, "p m"],
    x_weights: Float[Array, " n"] | None,
    y_weights: Float[Array, " m"] | None,
    step_size: Float[Array, ""],
    num_bins: int | None,
) -> tuple[AbstractBijection, Float[Array, ""]]:
    """The transfers along each axis, and the mean W_2^2 that they remove."""
    if num_bins is None:
        x_weights, y_weights = _in_rows(x_weights, x), _in_rows(y_weights, y)
        image = quantile_transfer(x, y, x_weights=x_weights, y_weights=y_weights)
        cost = wasserstein_1d(x, y, x_weights=x_weights, y_weights=y_weights)
        moved = x + step_size * (image - x)
        marginals = jax.vmap(MonotoneLinear.from_knots)(sort(x), sort(moved))
        return marginals, jnp.mean(cost)
    x, x_masses = binned_atoms(x, num_bins=num_bins, weights=x_weights)
    y, y_masses = binned_atoms(y, num_bins=num_bins, weights=y_weights)
    move, cost = jax.vmap(_transfer_atoms)(x, y, x_masses, y_masses)
    moved = _bridge(x, x + step_size * move, x_masses)
    marginals = jax.vmap(MonotoneGrid.from_values)(x[:, 0], x[:, -1], moved)
    return marginals, jnp.mean(cost)


def _in_rows(
    weights: Float[Array, " n"] | None, x: Float[Array, "p n"]
) -> Float[Array, "p n"] | None:
    return None if weights is None else jnp.broadcast_to(weights, x.shape)


def _transfer_atoms(
    x: Float[Array, " k"],
    y: Float[Array, " k"],
    x_masses: Float[Array, " k"],
    y_masses: Float[Array, " k"],
) -> tuple[Float[Array, " k"], Float[Array, ""]]:
    """Mean displacement of each of the increasing `x` in the optimal plan; its cost."""
    plan = weighted_levels(x_masses, y_masses)
    gap = take(y, plan.columns) - take(x, plan.rows)
    total, move = (
        jax.ops.segment_sum(values, plan.rows, len(x), indices_are_sorted=True)
        for values in (plan.mass, plan.mass * gap)
    )
    return move / jnp.where(total > 0, total, 1), jnp.sum(plan.mass * gap**2)


def _bridge(
    x: Float[Array, "p k"], y: Float[Array, "p k"], masses: Float[Array, "p k"]
) -> Float[Array, "p k"]:
    """`y`, on a straight line over the empty bins: they say nothing about the map."""
    last = x.shape[-1] - 1
    # what rounding leaves in a bin is no mass: its level may be that of a neighbour
    before, after = neighbours(masses > _LEAST_MASS / x.shape[-1])
    left, right = jnp.maximum(before, 0), jnp.minimum(after, last)
    x_left, x_right, y_left, y_right = (
        take(values, places)
        for values, places in ((x, left), (x, right), (y, left), (y, right))
    )
    # at the ends, and at a filled bin itself, there is one neighbour: a translation
    is_between = (before >= 0) & (after <= last) & (right > left)
    width = jnp.where(is_between, x_right - x_left, 1)
    slope = jnp.where(is_between, (y_right - y_left) / width, 1)
    start = before >= 0
    return jnp.where(start, y_left, y_right) + slope * (
        x - jnp.where(start, x_left, x_right)
    )
