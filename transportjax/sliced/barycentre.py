r"""Sliced Wasserstein barycentres of point clouds.

The barycentre of clouds y_i with weights lambda_i is a cloud x of least energy

    E(x) = sum_i lambda_i / 2 SW_2^2(x, y_i).

Along each direction theta the barycentre is known: its sorted projections are the
averaged ones, sum_i lambda_i sort(theta.y_i). So however many clouds there are, a
direction keeps one sorted profile of them, and a step sorts x alone. With r_theta the
difference of theta.x and of the profile, matched by rank, the Newton step is

    x <- x - H^-1 mean_theta r_theta theta,    H = mean_theta theta theta^T.
"""

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

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
    check_directions,
    check_given,
    check_key,
    check_number,
    check_points,
)
from transportjax._sharding import explicit_mesh_guard
from transportjax.onedim.merging import weighted_levels
from transportjax.onedim.sorting import argsort, permute, unpermute
from transportjax.onedim.wasserstein import sort_weighted

from .averaging import (
    Clouds,
    average,
    cell_means,
    checked_clouds,
    masses_of,
    moments,
)
from .directions import default_directions
from .distance import root_of_cost
from .profiles import SlicedProfile
from .strategies import AbstractDirections

_BLOCK = 2**22  # projections of a cloud in a block, unless told otherwise, but at least
_ROWS = 64  # directions
_DEFAULT = 128  # directions, if none are given


class SlicedBarycentre(NamedTuple):
    """A barycentre, and how the iteration went."""

    points: Float[Array, "n d"]
    energy: Float[Array, " l"]
    step_norm: Float[Array, " l"]


@explicit_mesh_guard
def sliced_barycentre(
    clouds: ArrayLike | Sequence[ArrayLike],
    weights: ArrayLike | None = None,
    *,
    key: PRNGKeyArray | None = None,
    directions: ArrayLike | AbstractDirections | None = None,
    init: ArrayLike | None = None,
    init_weights: ArrayLike | None = None,
    cloud_weights: Sequence[ArrayLike | None] | ArrayLike | None = None,
    num_steps: int = 100,
    step_size: ArrayLike = 1.0,
    chunk: int | None = None,
) -> SlicedBarycentre:
    r"""The cloud of least weighted sum of squared sliced distances to `clouds`.

    By Newton steps. Along fixed directions the clouds are sorted once, and a step costs
    one sort of the moving cloud, whatever the number of clouds. Barycentres of the same
    clouds for many weights by `jax.vmap` over `weights` share the sorted clouds.

    Differentiable in `weights`, `clouds`, `cloud_weights` and `directions`, through the
    steps; the order of the projections is held constant, which is exact almost
    everywhere. With the default step size and at least d directions each step forgets
    where its points were but for their order: the derivative in `init` is zero.
    Reverse mode keeps the points of each step, and sorts again.

    Args:
        clouds: points, one array `(n_i, d)` a cloud, or `(s, n, d)`. Sizes may differ.
        weights: weights lambda >= 0 of the clouds, `(s,)`; normalised. None: equal.
        key: a random key; needed unless `directions` is an array.
        directions: unit rows `(p, d)`, kept for all steps, best at least ten a
            dimension; or a strategy, which draws fresh ones for each step: the clouds
            are sorted again, and the steps end in fluctuations about the minimum, but
            no direction is left out. None: 128 by `default_directions`.
        init: where to start, `(n, d)`: its size is that of the result. None: the first
            cloud. The energy has several minima; `gaussian_start` prefers no cloud.
        init_weights: masses >= 0 of the moving points, `(n,)`, which stay; normalised.
            None: uniform, which is faster.
        cloud_weights: for each cloud its masses >= 0, `(n_i,)`, or None: uniform.
        num_steps: number of steps; compile time does not depend on it.
        step_size: share in (0, 2] of the Newton step.
        chunk: how many directions to hold at once. None: all of small clouds, and at
            least 64 of any.

    Returns:
        The points `(n, d)`; and for each step the energy E along its directions before
        it, in units of the points squared, and the root mean square of the points'
        displacements. The steps have converged where the latter is at rounding.

    Raises:
        ValueError: clouds or directions of the wrong shape, empty, NaN or infinite; bad
            weights; neither `key` nor `directions`; a step size or count out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import half_circle_directions, sliced_barycentre
        >>> x = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
        >>> moved = 3 * x + jnp.array([[4.0, 8.0]])  # by half: 2 x + (2, 4)
        >>> directions = half_circle_directions(10)
        >>> result = sliced_barycentre([x, moved], directions=directions, num_steps=5)
        >>> print(result.points.round(3))
        [[2. 4.]
         [4. 4.]
         [2. 8.]]

    References:
        Bonneel, Rabin, Peyré, Pfister (2015), Sliced and Radon Wasserstein barycenters
        of measures, section 3 and its remarks on Newton's method.
    """
    if key is not None:
        check_key("key", key)
    arrays, masses, shares, dtype = checked_clouds(clouds, cloud_weights, weights)
    work = arrays[0].dtype
    start = arrays[0] if init is None else as_float("init", init).astype(work)
    check_points("init", start, arrays[0].shape[1])
    init_weights = as_weights("init_weights", init_weights, start.shape[:1], work)
    directions = _checked_directions(directions, key, start)
    check_count("num_steps", num_steps)
    check_number("step_size", step_size, 0, 2, open_low=True)
    if chunk is None:
        chunk = max(_ROWS, _BLOCK // max(len(x) for x in (start, *arrays)))
    check_count("chunk", chunk)
    inputs = Clouds(arrays, masses, shares)
    moving = _Moving(start, init_weights, jnp.asarray(step_size).astype(work))
    result = _descend(inputs, moving, directions, key, num_steps, chunk)
    return SlicedBarycentre(*(array.astype(dtype) for array in result))


def _checked_directions(
    directions: ArrayLike | AbstractDirections | None,
    key: PRNGKeyArray | None,
    points: Array,
) -> Array | AbstractDirections:
    """An array of the dtype of `points`, or a strategy."""
    if directions is None or isinstance(directions, AbstractDirections):
        check_given("key", key, "`directions` as an array")
        assert key is not None
        if directions is not None:
            return directions
        directions = default_directions(key, _DEFAULT, points.shape[1], points.dtype)
    directions = as_float("directions", directions).astype(points.dtype)
    check_directions("directions", directions, points.shape[1])
    return directions


class _Moving(NamedTuple):
    """What moves, and how far."""

    points: Float[Array, "n d"]
    masses: Float[Array, " n"] | None
    step_size: Float[Array, ""]


class _Block(NamedTuple):
    """Directions; their rows of the Newton step H^-1 theta w_theta; and w_theta."""

    directions: Float[Array, "p d"]
    newton: Float[Array, "p d"]
    weights: Float[Array, " p"]


@eqx.filter_jit
def _descend(
    clouds: Clouds,
    moving: _Moving,
    directions: Array | AbstractDirections,
    key: PRNGKeyArray | None,
    num_steps: int,
    chunk: int,
) -> tuple[Array, Array, Array]:
    """The points; the energies before the steps, and their sizes."""
    clouds, centre = _centred(clouds)
    num = len(moving.points) if moving.masses is None else None

    def target(block: _Block) -> tuple[SlicedProfile, Array]:
        return average(_profiles(clouds, block.directions), clouds.shares, num)

    start = moving.points - centre + 0 * clouds.shares[0]
    if isinstance(directions, AbstractDirections):
        everything = jnp.concatenate(clouds.points)

        @jax.checkpoint
        def step(carry: tuple, key: PRNGKeyArray) -> tuple[tuple, tuple]:
            points, state = carry
            rows, weights, state = directions.sample(key, state, points, everything)
            blocks = _blocks(rows.astype(points.dtype), weights, chunk)
            points, stats = _step(points, moving, blocks, target)
            return (points, state), stats

        assert key is not None
        first, rest = jr.split(key)
        carry = start, directions.init(first, start.shape[1])
        (points, _), stats = lax.scan(step, carry, jr.split(rest, num_steps))
    else:
        weights = jnp.full_like(directions[:, 0], 1 / len(directions))
        blocks = _blocks(directions, weights, chunk)
        kept = blocks, lax.map(target, blocks)
        again = jax.checkpoint(lambda x, _: _step(x, moving, kept))
        points, stats = lax.scan(again, start, length=num_steps)
    return points + centre, *stats


def _centred(clouds: Clouds) -> tuple[Clouds, Array]:
    """The clouds about the mean of their means; that mean, as one row.

    The same shift of all clouds changes nothing but the rounding. It must not depend on
    the weights, else `vmap` over these would sort the clouds again for each.
    """
    means = [moments(x, a)[0] for x, a in zip(*clouds[:2], strict=True)]
    centre = lax.stop_gradient(sum(means[1:], means[0]) / len(means))[None, :]
    return clouds._replace(points=[x - centre for x in clouds.points]), centre


def _blocks(directions: Array, weights: Array, chunk: int) -> _Block:
    """Blocks of at most `chunk` directions, filled up by such of weight zero."""
    num, dim = directions.shape
    num_blocks = -(-num // chunk)
    size = -(-num // num_blocks)
    roots = root_of_cost(weights, 2)[:, None]
    # H^-1 theta w, of the pseudo-inverse H^-1: fewer than d directions move the points
    # along themselves only. Of the root of H, for the sake of rounding.
    newton = jnp.linalg.pinv(roots * directions).T * roots
    missing = num_blocks * size - num
    block = _Block(
        jnp.concatenate([directions, jnp.repeat(directions[:1], missing, axis=0)]),
        jnp.pad(newton, ((0, missing), (0, 0))),
        jnp.pad(weights, (0, missing)),
    )
    return jax.tree.map(lambda a: a.reshape(num_blocks, size, *a.shape[1:]), block)


def _step(
    points: Array, moving: _Moving, blocks: Any, target: Any = None
) -> tuple[Array, tuple[Array, Array]]:
    """One Newton step; the energy before it and its size.

    `blocks` are those of the directions, whose averaged projections `target` finds; or
    pairs of blocks and of what it has found.
    """

    def add(total: tuple[Array, Array], item: Any) -> tuple[tuple, None]:
        block, (profile, spread) = item if target is None else (item, target(item))
        residual, cost = _residuals(points, moving.masses, profile)
        move = jnp.matmul(residual.T, block.newton, precision="highest")
        energy = block.weights @ (cost + spread) / 2
        return (total[0] + move, total[1] + energy), None

    (move, energy), _ = lax.scan(add, (points * 0, points[0, 0] * 0), blocks)
    move = moving.step_size * move
    norm = root_of_cost(jnp.mean(jnp.sum(move**2, axis=1)), 2)
    return points - move, (energy, norm)


def _residuals(
    points: Array, masses: Array | None, profile: SlicedProfile
) -> tuple[Array, Array]:
    """Projections less those that they shall be; W_2^2 to the profile."""
    projections = jnp.matmul(profile.directions, points.T, precision="highest")
    order = argsort(projections)
    if masses is None:  # as many levels as points
        residual = projections - unpermute(profile.values, order)
        return residual, jnp.mean(residual**2, axis=1)
    masses = jnp.broadcast_to(masses[None, :], order.shape)
    levels = weighted_levels(permute(masses, order), masses_of(profile))
    means, within = cell_means(profile.values, levels, len(points))
    residual = projections - unpermute(means, order)
    masses = masses / jnp.max(masses)
    share = masses / jnp.sum(masses, axis=1, keepdims=True)
    return residual, jnp.sum(share * residual**2, axis=1) + within


def _profiles(clouds: Clouds, directions: Array) -> list[SlicedProfile]:
    """The profile of each cloud; clouds of one shape by one sort."""

    def profile(x: Array, a: Array | None) -> SlicedProfile:
        projections = jnp.matmul(directions, x.T, precision="highest")
        if a is not None:
            a = jnp.broadcast_to(a[None, :], projections.shape)
        return SlicedProfile(directions, *sort_weighted(projections, a))

    pairs = list(zip(clouds.points, clouds.masses, strict=True))
    alike = len({(x.shape, a is None) for x, a in pairs}) == 1
    if not alike:
        return [profile(x, a) for x, a in pairs]
    stacked = jax.vmap(profile)(*jax.tree.map(lambda *a: jnp.stack(a), *pairs))
    places = range(len(pairs))
    return [jax.tree.map(operator.itemgetter(i), stacked) for i in places]
