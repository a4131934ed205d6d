"""The loop of registration: level by level, from one start or from many."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from transportjax.maps import AbstractBijection, AbstractWarp
from transportjax.maps.normals import jacobian, unit
from transportjax.maps.small_matrices import cofactor
from transportjax.mixtures import (
    OrientedMixture,
    kernel_density,
    l2_divergence,
    overlap,
    paired_divergence,
)

from .by_optax import by_optax
from .clouds import Cloud, Data, Levels, Options, frame_of, normalised
from .frames import enter, free_leaves, is_linear, leave, with_mean_at
from .free_space import INTRUSION, intrusion
from .many_starts import from_many
from .quasi_newton import lbfgs
from .solution import Solution

_DEEP = 0.5  # how far in a point counts half, of the bandwidth


@eqx.filter_jit
def anneal(
    data: Data, warp: AbstractBijection, levels: Levels, options: Options
) -> Solution:
    """The map that `register` returns."""
    frame = frame_of(data.source, data.target)
    source = data.source.points
    start = enter(warp, frame)
    data = normalised(data, frame)
    levels = levels._replace(bandwidths=levels.bandwidths / frame.scale)
    if options.centre:
        mean = data.source.weights @ jax.vmap(start)(data.source.points)
        start = with_mean_at(start, mean, 0 * mean)
    free, fixed = eqx.partition(start, free_leaves(start))
    vector, unravel = ravel_pytree(free)

    def build(vector: Array) -> Any:
        return eqx.combine(unravel(vector), fixed)

    def descent(data: Data, levels: Levels) -> Any:
        return _run(build, data, options, levels)

    if options.num_starts == 1:
        vector, traces = descent(data, levels)(vector)
    else:
        vector, traces = from_many(descent, build, vector, data, levels, options)
    map = leave(build(vector), frame)
    costs, steps = traces
    stats = {"cost": costs, "steps": steps.astype(costs.dtype)}
    return Solution(map, jax.vmap(map)(source), stats)


def _run(
    build: Callable[[Array], Any], data: Data, options: Options, levels: Levels
) -> Callable[[Array], tuple[Array, tuple[Array, Array]]]:
    """The descent through the levels from a vector of leaves."""

    def run(start: Array) -> tuple[Array, tuple[Array, Array]]:
        images = _images(build, data.source, start)

        def level(vector: Array, level: Levels) -> tuple[Array, tuple[Array, Array]]:
            whole = _whole(data, level, options)

            def cost(vector: Array) -> Array:
                value = _cost(images(vector), data, level, options)
                if not any(data.views):
                    return value
                share = _intrusion(build(vector), data, level.bandwidths)
                return value + whole * share

            if options.optimiser is not None:
                return by_optax(cost, vector, options.optimiser, options.num_steps)
            end = lbfgs(cost, vector, options.num_steps, options.tolerance)
            return end.point, (end.value, end.num_steps)

        return lax.scan(level, start, levels)

    return run


# --- the objective -----------------------------------------------------------------


def _images(
    build: Callable[[Array], Any], source: Cloud, start: Array
) -> Callable[[Array], tuple]:
    """What the objective needs of a map: points, Jacobians, and bending factors."""

    def images(vector: Array) -> tuple:
        map = build(vector)
        points = jax.vmap(map)(source.points)
        jacobians = factors = None
        if source.normals is not None:
            jacobians = jax.vmap(jacobian, (None, 0))(map, source.points)
        if isinstance(map, AbstractWarp):
            factors = map._energy_factors()
        return points, jacobians, factors

    if not is_linear(build(start)):
        return images
    # Affine in the leaves: the kernels around the control points are evaluated once.
    base, push = jax.linearize(images, start)
    return lambda vector: jax.tree.map(jnp.add, base, push(vector - start))


def _cost(images: tuple, data: Data, level: Levels, options: Options) -> Array:
    points, jacobians, factors = images
    cost = 0 * points[0, 0]
    if not options.pairs_only:
        cost = _divergence(points, jacobians, data, level, options)
    if data.pairs is not None:
        moved, goals = points[data.pairs[0]], data.target.points[data.pairs[1]]
        apart = paired_divergence(moved, goals, 2 * level.bandwidths)
        cost = (1 - data.pair_weight) * cost + data.pair_weight * apart
    if factors is not None:
        cost = cost + level.bending * jnp.vdot(*factors, precision="highest")
    return cost


def _intrusion(map: Any, data: Data, width: Array) -> Array:
    """The mean share of both clouds that stands in the free space of the other."""
    sides = (
        (data.views[1], map, data.source),
        (data.views[0], map.inverse, data.target),
    )
    shares = [
        intrusion(view, jax.vmap(move)(cloud.points), cloud.weights, _DEEP * width)
        for view, move, cloud in sides
        if view is not None
    ]
    return sum(shares, 0 * width) / 2


def _whole(data: Data, level: Levels, options: Options) -> Array:
    """The weight of intrusion: the overlap of the clouds with themselves."""
    if not any(data.views):
        return 0 * level.bandwidths
    cross = options._replace(variant="cross")
    sizes = []
    for cloud in (data.source, data.target):
        eye = jnp.eye(cloud.points.shape[1], dtype=cloud.points.dtype)
        turns = jnp.broadcast_to(eye, (len(cloud.points), *eye.shape))
        own = data._replace(source=cloud, target=cloud)
        sizes.append(_divergence(cloud.points, turns, own, level, cross))
    return INTRUSION * jnp.sqrt(sizes[0] * sizes[1])


def _divergence(
    points: Array, jacobians: Any, data: Data, level: Levels, options: Options
) -> Array:
    """The divergence of the mixtures; coinciding kernels count one."""
    source, target, variant = data.source, data.target, options.variant
    width = level.bandwidths
    if source.normals is None or target.normals is None:
        return l2_divergence(
            kernel_density(points, width, weights=source.weights),
            kernel_density(target.points, width, weights=target.weights),
            variant=variant,
            normalisation="peak",
        )

    def mixture(points: Array, normals: Array, weights: Array) -> OrientedMixture:
        variance, kappa = width[None] ** 2, level.concentrations[None]
        return OrientedMixture(
            points, variance, normals, kappa, weights, symmetric=options.symmetric
        )

    normals = jax.vmap(_turn)(jacobians, source.normals)
    p = mixture(points, normals, source.weights)
    q = mixture(target.points, target.normals, target.weights)
    value = l2_divergence(p, q, variant=variant)
    if variant == "cauchy_schwarz":
        return value
    one = mixture(
        target.points[:1], target.normals[:1], jnp.ones_like(target.weights[:1])
    )
    return value / lax.stop_gradient(overlap(one, one))


def _turn(matrix: Array, normal: Array) -> Array:
    return unit(jnp.matmul(cofactor(matrix), normal, precision="highest"))
