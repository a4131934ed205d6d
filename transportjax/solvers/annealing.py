"""The loop of registration: level by level, from one start or from many."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from transportjax.maps import AbstractBijection, AbstractWarp, Rigid
from transportjax.maps.normals import jacobian, unit
from transportjax.maps.small_matrices import cofactor
from transportjax.mixtures import (
    OrientedMixture,
    kernel_density,
    l2_divergence,
    overlap,
    paired_divergence,
)

from .frames import Frame, enter, free_leaves, is_linear, leave, with_mean_at
from .quasi_newton import lbfgs
from .rotations import turned
from .solution import Solution

_TOLERANCE = 1e-6  # decrease of the objective, of its size, at which a level ends
_FEW, _MORE = 384, 1024  # points of a sample, for many starts and for the best ones
_KEPT = 8  # starts that go on after the first level
_APART = 0.2  # less, in matrix and translation of unit shapes, are the same


class Cloud(NamedTuple):
    """Points, masses that sum to one, and normals if there are any."""

    points: Float[Array, "n d"]
    weights: Float[Array, " n"]
    normals: Float[Array, "n d"] | None


class Data(NamedTuple):
    """What the map is fitted to; the rows and columns are those of pairs, if any."""

    source: Cloud
    target: Cloud
    pairs: tuple[Array, Array] | None
    pair_weight: Float[Array, ""]  # zero without pairs


class Levels(NamedTuple):
    """One number a level each, coarse to fine."""

    bandwidths: Float[Array, " l"]
    concentrations: Float[Array, " l"]
    bending: Float[Array, " l"]


class Options(NamedTuple):
    """What is compiled in."""

    variant: str
    symmetric: bool
    pairs_only: bool
    centre: bool
    num_starts: int
    num_steps: int
    optimiser: Any


def frame_of(source: Cloud, target: Cloud) -> Frame:
    """The centroids, and the radius of both clouds about their own."""
    middles = [cloud.weights @ cloud.points for cloud in (source, target)]
    squares = [
        cloud.weights @ jnp.sum((cloud.points - middle[None, :]) ** 2, axis=1)
        for cloud, middle in zip((source, target), middles, strict=True)
    ]
    return Frame(middles[0], middles[1], jnp.sqrt((squares[0] + squares[1]) / 2))


@eqx.filter_jit
def anneal(
    data: Data, warp: AbstractBijection, levels: Levels, options: Options
) -> Solution:
    """The map that `register` returns."""
    frame = frame_of(data.source, data.target)
    source = data.source.points
    start = enter(warp, frame)
    data = _normalised(data, frame)
    levels = levels._replace(bandwidths=levels.bandwidths / frame.scale)
    if options.centre:
        mean = data.source.weights @ jax.vmap(start)(data.source.points)
        start = with_mean_at(start, mean, 0 * mean)
    free, fixed = eqx.partition(start, free_leaves(start))
    vector, unravel = ravel_pytree(free)

    def build(vector: Array) -> Any:
        return eqx.combine(unravel(vector), fixed)

    if options.num_starts == 1:
        vector, traces = _run(build, data, options, levels)(vector)
    else:
        vector, traces = _from_many(build, vector, data, options, levels)
    map = leave(build(vector), frame)
    costs, steps = traces
    stats = {"cost": costs, "steps": steps.astype(costs.dtype)}
    return Solution(map, jax.vmap(map)(source), stats)


def _normalised(data: Data, frame: Frame) -> Data:
    def cloud(cloud: Cloud, centre: Array) -> Cloud:
        normals = cloud.normals
        return Cloud(
            (cloud.points - centre[None, :]) / frame.scale,
            cloud.weights,
            None if normals is None else jax.vmap(unit)(normals),
        )

    source, target = cloud(data.source, frame.source), cloud(data.target, frame.target)
    return data._replace(source=source, target=target)


def _run(
    build: Callable[[Array], Any], data: Data, options: Options, levels: Levels
) -> Callable[[Array], tuple[Array, tuple[Array, Array]]]:
    """The descent through the levels from a vector of leaves."""

    def run(start: Array) -> tuple[Array, tuple[Array, Array]]:
        images = _images(build, data.source, start)

        def level(vector: Array, level: Levels) -> tuple[Array, tuple[Array, Array]]:
            def cost(vector: Array) -> Array:
                return _cost(images(vector), data, level, options)

            if options.optimiser is not None:
                return _by_optax(cost, vector, options)
            end = lbfgs(cost, vector, options.num_steps, _TOLERANCE)
            return end.point, (end.value, end.num_steps)

        return lax.scan(level, start, levels)

    return run


def _by_optax(
    cost: Callable[[Array], Array], vector: Array, options: Options
) -> tuple[Array, tuple[Array, Array]]:
    import optax

    optimiser = optax.with_extra_args_support(options.optimiser)

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        vector, state = carry
        value, slope = jax.value_and_grad(cost)(vector)
        move, state = optimiser.update(
            slope, state, vector, value=value, grad=slope, value_fn=cost
        )
        return (vector + move, state), None

    carry = (vector, optimiser.init(vector))
    (vector, _), _ = lax.scan(step, carry, None, length=options.num_steps)
    value = cost(vector)
    return vector, (value, jnp.full_like(value, options.num_steps, dtype="int32"))


# --- many starts -------------------------------------------------------------------


def _from_many(
    build: Callable[[Array], Rigid],
    vector: Array,
    data: Data,
    options: Options,
    levels: Levels,
) -> tuple[Array, tuple[Array, Array]]:
    """The best end of descents from rotations all around the given start."""

    def part(begin: int | None, end: int | None) -> Levels:
        return jax.tree.map(lambda leaf: leaf[begin:end], levels)

    def features(vector: Array) -> Array:
        map = build(vector)
        return jnp.concatenate([map.matrix.reshape(-1), map.translation])

    starts = jnp.stack(
        [ravel_pytree(m)[0] for m in turned(build(vector), options.num_starts)]
    )
    few, more = _sample(data, _FEW), _sample(data, _MORE)
    ends, first = jax.vmap(_run(build, few, options, part(None, 1)))(starts)
    best = _distinct(jax.vmap(features)(ends), first[0][:, -1])[:_KEPT]
    ends, first = ends[best], jax.tree.map(lambda a: a[best], first)
    if len(levels.bandwidths) > 1:
        ends, rest = jax.vmap(_run(build, more, options, part(1, None)))(ends)
        first = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), first, rest)
    best = jnp.argmin(first[0][:, -1])
    vector, last = _run(build, data, options, part(-1, None))(ends[best])
    traces = jax.tree.map(lambda a, b: jnp.concatenate([a[best, :-1], b]), first, last)
    return vector, traces


def _sample(data: Data, num: int) -> Data:
    """Evenly spaced ones of the points that weigh; all points if there are pairs."""
    if data.pairs is not None:
        return data

    def cloud(cloud: Cloud) -> Cloud:
        n = len(cloud.points)
        if n <= num:
            return cloud
        weighing = cloud.weights > 0
        first = jnp.flatnonzero(weighing, size=n, fill_value=0)
        steps = jnp.arange(num, dtype=cloud.weights.dtype) / num
        rows = first[
            (steps * jnp.sum(weighing.astype(steps.dtype))).astype(first.dtype)
        ]
        points, weights, normals = jax.tree.map(lambda a: a[rows], cloud)
        return Cloud(points, weights / jnp.sum(weights), normals)

    return data._replace(source=cloud(data.source), target=cloud(data.target))


def _distinct(features: Array, values: Array) -> Array:
    """The order by value, with those that repeat a better one behind all others."""
    squares = jnp.sum((features[:, None] - features[None]) ** 2, axis=-1)
    order = jnp.arange(len(values))
    better = values[None, :] < values[:, None]
    ties = (values[None, :] == values[:, None]) & (order[None, :] < order[:, None])
    repeats = jnp.any((better | ties) & (squares < _APART**2), axis=1)
    return jnp.lexsort((values, repeats))


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
