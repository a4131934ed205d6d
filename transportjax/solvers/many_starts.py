"""Registration from rotations all around: which starts are worth a descent."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from transportjax.maps import Rigid, Similarity

from .clouds import Cloud, Data, Levels, Options
from .frames import with_mean_at
from .pose_search import best_translations
from .rotations import turned

_FEW, _MORE = 384, 1024  # points of a sample, for many starts and for the best ones
_STARTS = 48  # the most that are descended from
_KEPT = 24  # of them after the first level, and half of it after the second
_APART = 0.2  # less, in matrix and translation of unit shapes, are the same

_Descent = Callable[[Array], tuple[Array, tuple[Array, Array]]]


def from_many(
    descent: Callable[[Data, Levels], _Descent],
    build: Callable[[Array], Rigid | Similarity],
    vector: Float[Array, " p"],
    data: Data,
    levels: Levels,
    options: Options,
) -> tuple[Array, tuple[Array, Array]]:
    """The best end of descents from rotations all around the given start.

    Args:
        descent: the descent through levels from a vector of leaves, for some data.
        build: the map with a vector of leaves.
        vector: leaves to start from.
        data: normalised clouds.
        levels: coarse to fine.
        options: of `register`.
    """

    def part(begin: int | None, end: int | None) -> Levels:
        return jax.tree.map(lambda leaf: leaf[begin:end], levels)

    def features(vector: Array) -> Array:
        map = build(vector)
        return jnp.concatenate([map.matrix.reshape(-1), map.translation])

    ends, traces = _starts(build(vector), data, options), None
    few, more = _sample(data, _FEW), _sample(data, _MORE)
    stages = (few, 0, 1, _KEPT), (few, 1, 2, _KEPT // 2), (more, 2, None, 1)
    for sample, begin, end, kept in stages[: len(levels.bandwidths)]:
        ends, trace = _each(descent(sample, part(begin, end)), ends)
        traces = trace if traces is None else jax.tree.map(_joined, traces, trace)
        best = _distinct(jax.vmap(features)(ends), traces[0][:, -1])[:kept]
        ends, traces = jax.tree.map(lambda a, best=best: a[best], (ends, traces))
    vector, last = descent(data, part(-1, None))(ends[0])
    return vector, jax.tree.map(lambda a, b: _joined(a[0, :-1], b, 0), traces, last)


def _starts(
    map: Rigid | Similarity, data: Data, options: Options
) -> Float[Array, "k p"]:
    """Leaves of rotations of a map, and of the map; those that overlap best, if many.

    Where the start may be moved, each is put where it overlaps best.
    """
    starts = turned(map, options.num_starts)
    if options.centre and not options.pairs_only:
        matrices = jax.vmap(lambda m: m.matrix)(starts)
        scores, places = best_translations(data, matrices, symmetric=options.symmetric)
        starts = jax.vmap(lambda m, t: with_mean_at(m, m.translation, t))(
            starts, places
        )
        best = lax.top_k(scores, min(_STARTS, len(scores)))[1]
        starts = jax.tree.map(lambda leaf: leaf[best], starts)
    leaves = jax.vmap(lambda m: ravel_pytree(m)[0])(starts)
    return jnp.concatenate([ravel_pytree(map)[0][None, :], leaves])


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
