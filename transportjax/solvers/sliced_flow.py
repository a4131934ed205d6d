"""Sliced gradient flow: descent on the sliced distance to a target, as a map."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax._checks import (
    as_float,
    as_weights,
    check_count,
    check_key,
    check_number,
    check_points,
    common_float,
    is_concrete,
)
from transportjax._sharding import explicit_mesh_guard
from transportjax.maps import Scan, SlicedStep
from transportjax.maps.bijection import at_least_float32
from transportjax.sliced import AbstractDirections, OrthonormalDirections

from .marginals import fit_marginals, project
from .solution import Solution

_NUM_DIRECTIONS = 32  # in a step, at least, unless told otherwise


@explicit_mesh_guard
def sliced_flow(
    source: ArrayLike,
    target: ArrayLike,
    *,
    key: PRNGKeyArray,
    directions: AbstractDirections | None = None,
    num_steps: int = 12,
    num_bins: int | None = 512,
    step_size: ArrayLike = 1.0,
    diffusion: ArrayLike = 0.0,
    source_weights: ArrayLike | None = None,
    target_weights: ArrayLike | None = None,
) -> Solution:
    """The map that moves `source` onto `target` down the slope of SW_2^2.

    Each step takes fresh directions theta, any number of them, and makes a Newton step
    on E(x) = SW_2^2(x, target) / 2 along these: with the optimal transfers T_theta of
    the projections,

        G(x) = mean over theta of (theta.x - T_theta(theta.x)) theta,
        x <- x - step_size H^-1 G(x),  H = mean over theta of theta theta^T.

    For orthonormal directions H is I / d, and the step is one of `idt`. More directions
    make a step dearer and the whole map closer to the optimal one: after one step of
    many directions the points are moved by the mean of all transfers. Directions that
    are neither many nor orthonormal leave H badly conditioned, and are best avoided.

    With `diffusion` the points also spread, by Euler-Maruyama steps of the flow
    dx = -H^-1 G(x) dt + sqrt(2 diffusion) dB, dt = step_size: its stationary law is
    target-like but smoother. In the flow of Liutkus et al., which has no H, time is
    longer by d, and the regularisation lambda is diffusion / d. The map that is
    returned is the drift alone: what it does to new points has no noise.

    Derivatives are those of `idt`: the map is differentiable in its input and leaves,
    its leaves in `target` and the weights; the docstring of `idt` tells the two
    meanings of fitting and applying.

    Args:
        source: points to move, (n, d).
        target: points of the law to reach, (m, d).
        key: a random key, for the directions and the noise.
        directions: which directions next. Whole random rotations, as many as make at
            least 32 directions, if None.
        num_steps: number of steps; compile time does not depend on it.
        num_bins: each projection is shared out to so many equally spaced atoms, which
            are the knots of its transfer. None: exact, by sorting, one knot a sample.
        step_size: share in (0, 1] of a Newton step. With diffusion, take small ones.
        diffusion: the diffusivity, >= 0, in units of x squared a unit of time: without
            a target, a coordinate's variance would rise by 2 diffusion step_size a
            step.
        source_weights: masses >= 0 of the source, (n,).
        target_weights: masses >= 0 of the target, (m,).

    Returns:
        A `Solution`: the map is a `Scan` of `SlicedStep`s; stats["cost"] (num_steps,)
        is SW_2^2 along the directions of each step, before it, in units of x squared.

    Raises:
        ValueError: clouds that are not (n, d), are empty, differ in dimension or hold
            NaN; bad weights; a step size, diffusion or count out of range.

    Example:
        >>> import jax, jax.random as jr
        >>> from transportjax.solvers import sliced_flow
        >>> x = jr.normal(jr.key(0), (500, 2))
        >>> y = 2 * jr.normal(jr.key(1), (400, 2)) + 3
        >>> solution = sliced_flow(x, y, key=jr.key(2), num_steps=4)
        >>> bool(abs(solution.points.mean(0) - y.mean(0)).max() < 0.01)
        True

    References:
        Bonneel, Rabin, Peyre, Pfister (2015), Sliced and Radon Wasserstein barycenters
        of measures, section 3.
        Liutkus, Simsekli, Majewski, Durmus, Stoeter (2019), Sliced-Wasserstein flows:
        nonparametric generative modeling via optimal transport and diffusions.
    """
    check_key("key", key)
    source, target = common_float(("source", source), ("target", target))
    check_points("source", source)
    check_points("target", target, source.shape[1])
    check_count("num_steps", num_steps)
    if num_bins is not None:
        check_count("num_bins", num_bins, 2)
    check_number("step_size", step_size, 0, 1, open_low=True)
    check_number("diffusion", diffusion, 0)
    dtype = source.dtype
    source, target = at_least_float32(source, target)
    weights = [
        as_weights("source_weights", source_weights, source.shape[:1], source.dtype),
        as_weights("target_weights", target_weights, target.shape[:1], source.dtype),
    ]
    if directions is None:
        dim = source.shape[1]
        directions = OrthonormalDirections(dim * -(-_NUM_DIRECTIONS // dim))
    step_size = as_float("step_size", step_size).astype(source.dtype)
    noise = None  # and no normal numbers are drawn
    if not is_concrete(diffusion) or diffusion != 0:
        noise = as_float("diffusion", diffusion).astype(source.dtype)
    map, points, cost = _flow(
        source, target, weights, key, directions, step_size, noise, num_steps, num_bins
    )
    return Solution(map, points.astype(dtype), {"cost": cost.astype(dtype)})


@eqx.filter_jit
def _flow(
    source: Float[Array, "n d"],
    target: Float[Array, "m d"],
    weights: list[Float[Array, " _"] | None],
    key: PRNGKeyArray,
    directions: AbstractDirections,
    step_size: Float[Array, ""],
    diffusion: Float[Array, ""] | None,
    num_steps: int,
    num_bins: int | None,
) -> tuple[Scan, Float[Array, "n d"], Float[Array, " l"]]:
    key_init, key_steps = jr.split(key)

    def step(carry, key):
        points, state = carry
        # the directions of `idt` with the same key
        rows, shares, state = directions.sample(key, state, points, target)
        # a row of norm c weighs c^2 in the step, and in the cost
        rows = rows * jnp.sqrt(shares * shares.shape[0])[:, None]
        rows = rows.astype(points.dtype)
        x, y = project(rows, points), project(rows, target)
        marginals, cost = fit_marginals(
            x, y, weights[0], weights[1], step_size, num_bins
        )
        layer = SlicedStep(rows, marginals)
        points = jax.vmap(layer)(points)
        if diffusion is not None:
            noise = jr.normal(jr.fold_in(key, 1), points.shape, points.dtype)
            points = points + jnp.sqrt(2 * diffusion * step_size) * noise
        return (points, state), (layer, cost)

    state = directions.init(key_init, source.shape[1])
    (points, _), (layers, cost) = lax.scan(
        step, (source, state), jr.split(key_steps, num_steps)
    )
    return Scan(layers), points, cost
