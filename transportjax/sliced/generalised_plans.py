"""Plans from learned slices: any function that gives each point a number is a slice.

The plan of a slice, and so its cost, changes only where the order of the points does:
the derivative in the slice's parameters is zero almost everywhere. Smoothed by Gaussian
noise on the parameters the cost has a useful derivative, for any optimiser.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax._checks import (
    as_float,
    check_count,
    check_key,
    check_number,
    check_slices,
)
from transportjax._sharding import explicit_mesh_guard
from transportjax.onedim.wasserstein import plan_1d

from .pair import checked_pair
from .plans import Cost, plan_cost, squared_euclidean


@explicit_mesh_guard
def smoothed_sliced_plan_cost(
    project: Callable[[Any, Array], Array],
    params: Any,
    x: ArrayLike,
    y: ArrayLike,
    *,
    key: PRNGKeyArray,
    scale: ArrayLike = 0.1,
    num_samples: int = 10,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
    cost: Cost = squared_euclidean,
    chunk: int | None = None,
) -> Float[Array, ""]:
    r"""The expected cost of the plan of a slice, under noise on its parameters.

    A slice gives each point a number; the plan that is optimal for these numbers is
    taken for a plan of the points. With h(params) the cost of that plan, the value
    estimates E[h(params + scale Z)], Z standard normal. Its derivative in `params` is

        E[(h(params + scale Z) - h(params - scale Z)) Z] / (2 scale),

    estimated from the same samples (Stein), whether or not `project` is differentiable.
    In `x`, `y` and the weights the plans are held, and the derivative is that of the
    costs. A fresh key at each step makes an optimisation stochastic, but unbiased.

    Once the slice is learned, its plan is `plan_1d(project(params, x), project(params,
    y))` and its cost `plan_cost(plan, x, y)`.

    Args:
        project: a function of `(params, points)`, from points (n, d) to numbers (n,).
            `lambda theta, x: x @ theta` is a linear slice.
        params: any pytree; its floating-point leaves are learned, others are kept.
        x: points, `(n, d)`.
        y: points, `(m, d)`.
        key: a random key, for the noise.
        scale: the deviation > 0 of the noise, in units of the parameters: below it the
            cost is blurred. The plan of a linear slice does not depend on the length of
            its direction, so keep that about one, or shrink `scale` as it goes.
        num_samples: pairs of opposite samples; the variance of the gradient grows with
            the number of parameters over this number.
        x_weights: masses >= 0 of `x`, `(n,)`; normalised. None: uniform.
        y_weights: likewise of `y`, `(m,)`.
        cost: a function of pairs of points, as in `sliced_plans`.
        chunk: how many pairs of samples to hold at once. None: all.

    Returns:
        A scalar, in units of the cost function.

    Raises:
        ValueError: points of the wrong shape, empty, NaN or infinite; bad weights; a
            scale that is not positive; a slice or a cost of the wrong shape.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import smoothed_sliced_plan_cost
        >>> x = jnp.array([[0.0, 0.0], [0.1, 1.0]])
        >>> y = x + jnp.array([[5.0, 0.0]])
        >>> theta, key = jnp.array([0.0, 1.0]), jax.random.key(0)
        >>> linear = lambda theta, x: x @ theta
        >>> print(smoothed_sliced_plan_cost(linear, theta, x, y, key=key))
        25.0

    References:
        Chapel, Tavenard and Vaiter (2025), Differentiable generalized sliced
        Wasserstein plans, section 4.
    """
    check_key("key", key)
    (x, y, *masses), dtype = checked_pair(x, y, x_weights, y_weights)
    check_number("scale", scale, 0, open_low=True)
    check_count("num_samples", num_samples)
    chunk = num_samples if chunk is None else chunk
    check_count("chunk", chunk)
    scale = as_float("scale", scale).astype(x.dtype)
    num, keys = min(chunk, num_samples), jr.split(key, num_samples)
    return _smoothed(project, params, x, y, masses, keys, scale, cost, num).astype(
        dtype
    )


@eqx.filter_jit
def _smoothed(
    project: Callable,
    params: Any,
    x: Array,
    y: Array,
    masses: list,
    keys: Array,
    scale: Array,
    cost: Cost,
    chunk: int,
) -> Array:
    learned, kept = eqx.partition(params, eqx.is_inexact_array)
    centre, scale = lax.stop_gradient((learned, scale))

    def value(learned: Any) -> Array:
        """The cost of the plan of a slice."""
        params = eqx.combine(learned, kept)
        x_slice, y_slice = (
            lax.stop_gradient(_project(project, params, points)) for points in (x, y)
        )
        plan = plan_1d(x_slice, y_slice, x_weights=masses[0], y_weights=masses[1])
        return plan_cost(plan, x, y, cost=cost)

    def pair(key: Array) -> tuple[Array, Any]:
        """The mean cost of two opposite samples, and the gradient from them."""
        noise = _normal_like(key, centre)
        steps = jnp.stack([scale, -scale])
        up, down = jax.vmap(lambda step: value(_moved(centre, noise, step)))(steps)
        slope = lax.stop_gradient(up - down) / (2 * scale)
        return (up + down) / 2, jax.tree.map(lambda z: slope.astype(z.dtype) * z, noise)

    values, slopes = lax.map(jax.checkpoint(pair), keys, batch_size=chunk)
    slopes = jax.tree.map(lambda a: jnp.mean(a, axis=0), lax.stop_gradient(slopes))
    # adds zero, with the derivative that the smoothed cost has
    moves = jax.tree.map(lambda s, a, c: jnp.vdot(s, a - c), slopes, learned, centre)
    return sum((a.astype(x.dtype) for a in jax.tree.leaves(moves)), jnp.mean(values))


def _project(project: Callable, params: Any, points: Array) -> Array:
    values = project(params, points)
    check_slices("project", values, points.shape[0])
    return values


def _normal_like(key: Array, tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    keys = jr.split(key, max(len(leaves), 1))
    draws = [
        jr.normal(k, leaf.shape, leaf.dtype)
        for k, leaf in zip(keys, leaves, strict=False)
    ]
    return jax.tree.unflatten(structure, draws)


def _moved(tree: Any, noise: Any, step: Array) -> Any:
    return jax.tree.map(lambda a, z: a + step.astype(a.dtype) * z, tree, noise)
