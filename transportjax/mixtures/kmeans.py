"""Weighted k-means: a start by k-means++, and Lloyd's iterations."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard

_ROWS = 2**14  # points in a block
_PAIRS = 2**22  # points times clusters, in a block, at most
_UNROLLED = 16  # coordinates: up to here squared distances are written out


class Clusters(NamedTuple):
    """The outcome of `kmeans`."""

    centres: Float[Array, "k d"]
    weights: Float[Array, " k"]  # the share of each cluster in the mass; they sum to 1
    labels: Int[Array, " n"]  # the cluster of each point
    cost: Float[Array, ""]  # weighted mean squared distance to the centre


@explicit_mesh_guard
def kmeans(
    x: ArrayLike,
    k: int,
    *,
    key: PRNGKeyArray,
    weights: ArrayLike | None = None,
    num_steps: int = 100,
) -> Clusters:
    """Clusters of least squared distance to their centres, a local minimum of it.

    The start is greedy k-means++: each next centre is the best of a few points drawn
    with probability proportional to mass times squared distance to the centres so far.
    Lloyd's iterations follow until nothing moves. A cluster that loses all its points
    starts again at the point that contributes most to the cost. If there are fewer than
    k different points, the clusters left over repeat a centre and weigh nothing.

    In more than 16 dimensions distances are taken by matrix products, for speed: their
    rounding hides what is smaller than the extent of the points by a factor of several
    thousand in single precision.

    One run finds a good minimum, not the best: for that, map over keys with `jax.vmap`
    and keep the lowest cost. The same key gives the same clusters.

    Differentiable: the centres, weights and cost in the points and their masses, with
    the labels held constant, which is exact almost everywhere once nothing moves.

    Args:
        x: points, `(n, d)`.
        k: number of clusters, at most n.
        key: a PRNG key, for the start.
        weights: masses >= 0 of the points, `(n,)`, as if a point were repeated.
            None: equal.
        num_steps: most iterations; 100 are rarely needed.

    Returns:
        `Clusters`: `centres` `(k, d)`; `weights` `(k,)`, the mass of each cluster, with
        sum one; `labels` `(n,)`; and `cost`, in units of x squared.

    Raises:
        ValueError: points that are not (n, d), empty or not finite; k above n; bad
            weights.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.mixtures import kmeans
        >>> x = jnp.array([[0.0], [2.0], [9.0], [9.0], [10.0], [10.0], [11.0], [11.0]])
        >>> clusters = kmeans(x, 2, key=jax.random.key(0))
        >>> print(jnp.sort(clusters.centres[:, 0]), jnp.sort(clusters.weights))
        [ 1. 10.] [0.25 0.75]

    References:
        Arthur and Vassilvitskii (2007), k-means++: the advantages of careful seeding.
        Lloyd (1982), Least squares quantization in PCM.
    """
    _checks.check_key("key", key)
    points, w = checked_sample(x, k, weights)
    _checks.check_count("num_steps", num_steps)
    dtype, work = points.dtype, _checks.working_dtype(points.dtype)
    steps = jnp.asarray(num_steps, "int32")
    found = _kmeans(points.astype(work), w, key, k, steps)
    return jax.tree.map(lambda a: a.astype(dtype) if a.dtype == work else a, found)


def checked_sample(
    x: ArrayLike, k: int, weights: ArrayLike | None
) -> tuple[Array, Array | None]:
    """The points as floats, and their weights in the dtype to compute with."""
    points = _checks.as_float("x", x)
    _checks.check_points("x", points)
    _checks.check_count("k", k)
    _checks.check_num_components(k, points.shape[0])
    work = _checks.working_dtype(points.dtype)
    return points, _checks.as_weights("weights", weights, points.shape[:1], work)


def masses(x: Array, weights: Array | None) -> Array:
    """The weights, or equal ones, with sum one."""
    if weights is None:
        return jnp.full_like(x[:, 0], 1 / x.shape[0])
    weights = weights / jnp.max(weights)  # so that no sum overflows
    return weights / jnp.sum(weights)


def centred(x: Array, mass: Array) -> tuple[Array, Array]:
    """The points from their mean on, and the mean."""
    mean = jnp.matmul(mass, x, precision="highest")
    shifted = x - mean[None, :]
    return shifted, mean


class Blocks(NamedTuple):
    """Points in blocks, with the points on the last axis; padding weighs nothing."""

    x: Float[Array, "b d rows"]
    mass: Float[Array, "b rows"]


def in_blocks(x: Array, mass: Array, width: int) -> Blocks:
    """Blocks whose tables, `width` numbers a point, are of moderate size."""
    rows = max(1, min(_ROWS, _PAIRS // width))
    num_blocks = -(-x.shape[0] // rows)
    size = -(-x.shape[0] // num_blocks)
    missing = num_blocks * size - x.shape[0]
    x = jnp.concatenate([x, jnp.repeat(x[:1], missing, axis=0)])
    mass = jnp.pad(mass, (0, missing))
    x = x.reshape(num_blocks, size, -1).swapaxes(1, 2)
    return Blocks(x, mass.reshape(num_blocks, size))


@functools.partial(jax.jit, static_argnums=3)
def _kmeans(
    x: Array, weights: Array | None, key: PRNGKeyArray, k: int, num_steps: Array
) -> Clusters:
    mass = masses(x, weights)
    shifted, mean = centred(x, mass)
    fixed_x, fixed_mass = lax.stop_gradient((shifted, mass))
    blocks = in_blocks(fixed_x, fixed_mass, k)
    centres = _seed(fixed_x, fixed_mass, key, k)
    centres = _lloyd(blocks, centres, num_steps)
    labels = lax.map(lambda block: _nearest(block, centres)[0], blocks.x)
    labels = labels.reshape(-1)[: x.shape[0]]
    # The means once more, now differentiable, and exact in clusters far from the mean.
    rest = shifted - centres[labels]
    shares = jax.ops.segment_sum(mass, labels, k)
    sums = jax.ops.segment_sum(mass[:, None] * rest, labels, k)
    moved = sums / jnp.where(shares > 0, shares, 1)[:, None]
    cost = jnp.sum(mass * jnp.sum((rest - moved[labels]) ** 2, axis=1))
    return Clusters(mean[None, :] + centres + moved, shares, labels, cost)


def _seed(x: Array, mass: Array, key: PRNGKeyArray, k: int) -> Array:
    """Greedy k-means++."""
    num_trials = 2 + int(math.log(k))
    keys = jr.split(key, k)
    columns = x.T

    def distances(centre: Array) -> Array:
        return _squared_distances(columns, centre)

    def step(nearest: Array, key: PRNGKeyArray) -> tuple[Array, Array]:
        contribution = mass * nearest
        contribution = jnp.where(jnp.any(contribution > 0), contribution, mass)
        trials = x[_draw(contribution, key, num_trials)]
        costs = lax.map(
            lambda c: jnp.vdot(mass, jnp.minimum(nearest, distances(c))), trials
        )
        centre = trials[jnp.argmin(costs)]
        return jnp.minimum(nearest, distances(centre)), centre

    first = x[_draw(mass, keys[0], 1)[0]]
    _, others = lax.scan(step, distances(first), keys[1:])
    return jnp.concatenate([first[None], others])


def _squared_distances(columns: Array, centre: Array) -> Array:
    """|x - c|^2 of the points in the columns."""
    if columns.shape[0] > _UNROLLED:
        return jnp.sum((columns - centre[:, None]) ** 2, axis=0)
    squares = [(columns[i] - centre[i]) ** 2 for i in range(columns.shape[0])]
    return functools.reduce(jnp.add, squares)


def _draw(mass: Array, key: PRNGKeyArray, num: int) -> Array:
    """Indices with probability proportional to mass, by rows and then within a row.

    A plain cumulative sum over a million numbers would round the small ones away.
    """
    size = math.isqrt(mass.shape[0] - 1) + 1
    table = jnp.pad(mass, (0, size * size - mass.shape[0])).reshape(size, size)
    in_rows = jnp.sum(table, axis=1)

    def one(uniform: Array) -> Array:
        row = _locate(in_rows, uniform[0])
        return row * size + _locate(table[row], uniform[1])

    return jax.vmap(one)(jr.uniform(key, (num, 2), mass.dtype))


def _locate(mass: Array, uniform: Array) -> Array:
    """The index at which the cumulative mass passes a share of the total."""
    total = jnp.cumsum(mass)
    index = jnp.sum(total <= uniform * total[-1], dtype="int32")
    positions = jnp.arange(mass.shape[0], dtype="int32")
    return jnp.minimum(index, jnp.max(jnp.where(mass > 0, positions, 0)))


def _lloyd(blocks: Blocks, centres: Array, num_steps: Array) -> Array:
    """Iterations until the centres stay as they are."""

    def moves(carry: tuple) -> Array:
        step, _, moved = carry
        return moved & (step < num_steps)

    def update(carry: tuple) -> tuple:
        step, centres, _ = carry
        new = _new_centres(blocks, centres)
        return step + 1, new, jnp.any(new != centres)

    zero = jnp.sum(centres) * 0
    start = (zero.astype("int32"), centres, zero == 0)
    return lax.while_loop(moves, update, start)[1]


def _new_centres(blocks: Blocks, centres: Array) -> Array:
    """The means of the clusters; one that is empty goes to the costliest point."""
    k = centres.shape[0]

    def sums(block: Blocks) -> tuple[Array, Array, Array]:
        labels, distances = _nearest(block.x, centres)
        numbers = jnp.arange(k, dtype=labels.dtype)
        own = labels[None, :] == numbers[:, None]
        own = jnp.where(own, block.mass[None, :], 0)
        columns = jnp.concatenate([block.x, jnp.ones_like(block.x[:1])])
        totals = jnp.matmul(own, columns.T, precision="highest")
        cost = block.mass * distances
        worst = jnp.argmax(cost)
        return totals, cost[worst], block.x[:, worst]

    totals, costs, points = lax.map(sums, blocks)
    totals, costliest = jnp.sum(totals, axis=0), jnp.argmax(costs)
    share = totals[:, -1:]
    means = jnp.where(
        share > 0, totals[:, :-1] / jnp.where(share > 0, share, 1), centres
    )
    is_empty = share[:, 0] == 0
    first = jnp.arange(k, dtype="int32") == jnp.argmax(is_empty).astype("int32")
    restart = first & is_empty & (costs[costliest] > 0)
    return jnp.where(restart[:, None], points[costliest][None, :], means)


def _nearest(columns: Array, centres: Array) -> tuple[Array, Array]:
    """The nearest centre of each point, and its squared distance.

    One centre after the other, for all points of the block at once: ten times faster
    on a CPU than `argmin`. In many dimensions the distances come from matrix products,
    four times faster than differences, which do not cancel.
    """
    rows, distances = centres, functools.partial(_squared_distances, columns)
    if columns.shape[0] > _UNROLLED:
        products = jnp.matmul(centres, columns, precision="highest")
        norms = jnp.sum(centres**2, axis=1, keepdims=True)
        own = jnp.sum(columns**2, axis=0)[None, :]
        rows, distances = own - 2 * products + norms, lambda row: row

    def step(carry: tuple, row: Array) -> tuple[tuple, None]:
        best, label, number = carry
        new = distances(row)
        is_nearer = new < best
        label = jnp.where(is_nearer, number, label)
        return (jnp.where(is_nearer, new, best), label, number + 1), None

    zero = columns[0] * 0
    start = (zero + jnp.inf, zero.astype("int32"), jnp.sum(zero).astype("int32"))
    (best, label, _), _ = lax.scan(step, start, rows)
    return label, jnp.maximum(best, 0)
