"""Iterative distribution transfer: one-dimensional transfers along turning axes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax._checks import (
    as_weights,
    check_count,
    check_key,
    check_number,
    check_points,
    common_float,
)
from transportjax._sharding import explicit_mesh_guard
from transportjax.maps import Scan, SlicedMap
from transportjax.sliced import (
    AbstractDirections,
    GreedyRotations,
    OrthonormalDirections,
)

from .marginals import fit_marginals, project
from .solution import Solution


@explicit_mesh_guard
def idt(
    source: ArrayLike,
    target: ArrayLike,
    *,
    key: PRNGKeyArray,
    directions: AbstractDirections | None = None,
    num_steps: int = 12,
    num_bins: int | None = 512,
    step_size: ArrayLike = 1.0,
    source_weights: ArrayLike | None = None,
    target_weights: ArrayLike | None = None,
) -> Solution:
    """The map that moves `source` onto `target` by iterative distribution transfer.

    Each step turns the axes, and moves the source along each of them by the exact
    one-dimensional transfer f = F_target^-1 o F_source of the projections. Equal
    projections move alike (ties are averaged), so that the result is a map of space: it
    applies to new points. Source equal to target is a fixed point. The map is close to
    the optimal one, but is not it.

    Derivatives. The map is differentiable in its input and its leaves, and its leaves
    in `target`, `target_weights` and `source`. *Fit-and-apply has two meanings*: with
    one knot a sample (`num_bins=None`) the points are a rearrangement of the target,
    and their derivative in `source` is zero. To push gradients through the transfer
    into its input, hold the map:
    `jax.vmap(jax.lax.stop_gradient(solution.map))(source)`.
    To learn the target, do not. With bins, whose masses are continuous in the samples,
    both derivatives are there, those of the binned transfer.

    Args:
        source: points to move, (n, d).
        target: points of the law to reach, (m, d).
        key: a random key, for the directions.
        directions: which axes next, orthonormal rows (p <= d). The greedy rotation
            sequence up to three dimensions, Haar rotations above, if None.
        num_steps: number of steps; compile time does not depend on it.
        num_bins: each projection is shared out to so many equally spaced atoms, which
            are the knots: O(n), one pass, histograms on sharded points. None: exact, by
            sorting, one knot a sample; for small samples and heavy tails.
        step_size: share in (0, 1] of each transfer that is carried out (relaxation).
        source_weights: masses >= 0 of the source, (n,).
        target_weights: masses >= 0 of the target, (m,).

    Returns:
        A `Solution`: the map is a `Scan` of `SlicedMap`s; stats["cost"] (num_steps,) is
        the mean W_2^2 of the projections before each step, in units of x squared.

    Raises:
        ValueError: clouds that are not (n, d), are empty, differ in dimension or hold
            NaN; bad weights; a step size or count out of range.

    Example:
        >>> import jax, jax.random as jr
        >>> import transportjax as tj
        >>> x = jr.normal(jr.key(0), (500, 2))
        >>> y = 2 * jr.normal(jr.key(1), (400, 2)) + 3
        >>> solution = tj.idt(x, y, key=jr.key(2), num_steps=4)
        >>> bool(abs(solution.points.mean(0) - y.mean(0)).max() < 0.01)
        True

    References:
        Pitie, Kokaram and Dahyot, 2005, "N-dimensional probability density function
        transfer and its application to colour transfer", algorithm 1; 2007, "Automated
        colour grading using colour distribution transfer".
    """
    check_key("key", key)
    source, target = common_float(("source", source), ("target", target))
    check_points("source", source)
    check_points("target", target, source.shape[1])
    check_count("num_steps", num_steps)
    if num_bins is not None:
        check_count("num_bins", num_bins, 2)
    check_number("step_size", step_size, 0, 1, open_low=True)
    weights = [
        as_weights("source_weights", source_weights, source.shape[:1], source.dtype),
        as_weights("target_weights", target_weights, target.shape[:1], source.dtype),
    ]
    if directions is None:
        directions = (
            GreedyRotations() if source.shape[1] <= 3 else OrthonormalDirections()
        )
    step_size = jnp.asarray(step_size).astype(source.dtype)
    return _idt(
        source, target, weights, key, directions, step_size, num_steps, num_bins
    )


@eqx.filter_jit
def _idt(
    source: Float[Array, "n d"],
    target: Float[Array, "m d"],
    weights: list[Float[Array, " _"] | None],
    key: PRNGKeyArray,
    directions: AbstractDirections,
    step_size: Float[Array, ""],
    num_steps: int,
    num_bins: int | None,
) -> Solution:
    key_init, key_steps = jr.split(key)

    def step(carry, key):
        points, state = carry
        axes, _, state = directions.sample(key, state, points, target)
        axes = axes.astype(points.dtype)
        if axes.shape[0] > axes.shape[1]:
            raise ValueError(
                "`directions` must give at most d orthonormal rows a step; got "
                f"{axes.shape[0]} rows in dimension {axes.shape[1]}."
            )
        marginals, cost = fit_marginals(
            project(axes, points),
            project(axes, target),
            weights[0],
            weights[1],
            step_size,
            num_bins,
        )
        layer = SlicedMap(axes, marginals)
        return (jax.vmap(layer)(points), state), (layer, cost)

    state = directions.init(key_init, source.shape[1])
    (points, _), (layers, cost) = lax.scan(
        step, (source, state), jr.split(key_steps, num_steps)
    )
    return Solution(Scan(layers), points, {"cost": cost})
