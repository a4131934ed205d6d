"""The loop of registration: level by level, from one start or from many."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from transportjax.maps import AbstractBijection, AbstractWarp, Rigid, Similarity
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
from .frames import Frame, enter, free_leaves, is_linear, leave, with_mean_at
from .free_space import View, intrusion, view_of
from .quasi_newton import lbfgs
from .rotations import turned
from .solution import Solution

_TOLERANCE = 1e-6  # decrease of the objective, of its size, at which a level ends
_FEW, _MORE = 384, 1024  # points of a sample, for many starts and for the best ones
_KEPT = 24  # starts that go on after the first level, and half of it after the second
_INTRUSION = 0.5  # what all of a cloud in free space counts, in that of a full overlap
_DEEP = 0.5  # how far in a point counts half, of the bandwidth
_APART = 0.2  # less, in matrix and translation of unit shapes, are the same


class Cloud(NamedTuple):
    """Points, masses that sum to one, and what else is known of them."""

    points: Float[Array, "n d"]
    weights: Float[Array, " n"]
    normals: Float[Array, "n d"] | None
    viewpoint: Float[Array, "3"] | None = None


class Data(NamedTuple):
    """What the map is fitted to; the rows and columns are those of pairs, if any."""

    source: Cloud
    target: Cloud
    pairs: tuple[Array, Array] | None
    pair_weight: Float[Array, ""]  # zero without pairs
    views: tuple[View | None, View | None] = (None, None)


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
        normals, eye = cloud.normals, cloud.viewpoint
        return Cloud(
            (cloud.points - centre[None, :]) / frame.scale,
            cloud.weights,
            None if normals is None else jax.vmap(unit)(normals),
            None if eye is None else (eye - centre) / frame.scale,
        )

    clouds = cloud(data.source, frame.source), cloud(data.target, frame.target)
    views = [
        None if c.viewpoint is None else view_of(c.points, c.weights, c.viewpoint)
        for c in clouds
    ]
    return Data(*clouds, data.pairs, data.pair_weight, (views[0], views[1]))


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
            end = lbfgs(cost, vector, options.num_steps, _TOLERANCE)
            return end.point, (end.value, end.num_steps)

        return lax.scan(level, start, levels)

    return run


# --- many starts -------------------------------------------------------------------


def _from_many(
    build: Callable[[Array], Rigid | Similarity],
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
    ends, traces = starts, None
    stages = (few, 0, 1, _KEPT), (few, 1, 2, _KEPT // 2), (more, 2, None, 1)
    for sample, begin, end, kept in stages[: len(levels.bandwidths)]:
        ends, trace = _each(_run(build, sample, options, part(begin, end)), ends)
        traces = trace if traces is None else jax.tree.map(_joined, traces, trace)
        best = _distinct(jax.vmap(features)(ends), traces[0][:, -1])[:kept]
        ends, traces = jax.tree.map(lambda a, best=best: a[best], (ends, traces))
    vector, last = _run(build, data, options, part(-1, None))(ends[0])
    return vector, jax.tree.map(lambda a, b: _joined(a[0, :-1], b, 0), traces, last)


def _joined(a: Array, b: Array, axis: int = 1) -> Array:
    return jnp.concatenate([a, b], axis)


def _each(run: Callable[[Array], Any], starts: Array) -> Any:
    """`run` for each: one by one on a processor, which keeps its tiles in the cache."""
    if jax.default_backend() == "cpu":
        return lax.map(run, starts)
    return jax.vmap(run)(starts)


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
        points, weights, normals = jax.tree.map(lambda a: a[rows], cloud[:3])
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
    return _INTRUSION * jnp.sqrt(sizes[0] * sizes[1])


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
