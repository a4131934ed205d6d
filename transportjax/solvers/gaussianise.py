"""Gaussianisation: a normalising flow from data, without gradient descent."""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transportjax._checks import (
    as_float,
    as_weights,
    check_continuous,
    check_count,
    check_number,
    check_points,
    check_share,
    check_spread,
    check_weights,
    is_concrete,
    working_dtype,
)
from transportjax._sharding import explicit_mesh_guard
from transportjax.maps import Affine, Chain, Scan, SlicedMap, gaussian_map
from transportjax.maps.affine import moments
from transportjax.sliced import (
    AbstractDirections,
    GreedyRotations,
    MaxSlicedDirections,
    OrthonormalDirections,
)

from .marginals import project
from .normal_splines import fit_normal_splines
from .solution import Solution

_MOST_GREEDY = 3  # dimensions of the greedy sequence of rotations
_MOST_RANDOM = 9  # dimensions that random rotations still serve well
_CYCLE = 24  # rotations of the greedy sequence
_NUM_DIRECTIONS = 8  # of a step, in many dimensions


@explicit_mesh_guard
def gaussianise(
    source: ArrayLike,
    *,
    key: PRNGKeyArray,
    directions: AbstractDirections | None = None,
    num_steps: int = 300,
    num_knots: int = 64,
    bandwidth: ArrayLike = 0.5,
    step_size: ArrayLike = 0.3,
    weights: ArrayLike | None = None,
    held_out: float | ArrayLike = 0.2,
    patience: int = 30,
) -> Solution:
    """The map that makes `source` standard normal, new points of its law included.

    Whitening, then steps of iterative distribution transfer towards N(0, I): a step
    turns the axes and moves each projection by a spline through Phi^-1 o F, where F is
    the smoothed distribution function of the projection. The smoothing, the partial
    steps and the choice of their number are what make the map generalise: its density,
    log N(T(x)) + log |det T'(x)|, is an estimate of the density of the source.

    The number of steps is the one after which samples that were held out are most
    likely. Where they were a share of the source, the fit is then repeated with all of
    it and that number of steps; no sample is lost.

    Samples that repeat have no density: make rounded values continuous first, with
    `x + step * jr.uniform(key, x.shape)`. Integer arrays are refused.

    Differentiable in the input of the map and in its leaves, which are those of a
    normalising flow: gradient descent can continue the fit.

    Args:
        source: samples, (n, d), n > d.
        key: a random key, for the directions and the held-out share.
        directions: which axes next, orthonormal rows (p <= d). If None, the greedy
            sequence of rotations up to three dimensions, random ones up to nine, and
            above, where almost all random projections look normal, the eight axes that
            look least so (`MaxSlicedDirections(8)`).
        num_steps: number of steps, at most; compile time does not depend on it.
        num_knots: knots of each spline.
        bandwidth: of the smoothing kernel, in units of Scott's rule, s n^(-1/5).
        step_size: share in (0, 1] of each transfer that is carried out: smaller with
            more steps generalises better (shrinkage). The slopes of the tails take a
            tenth of it.
        weights: masses >= 0 of the samples, (n,).
        held_out: a share in [0, 1) of the samples, drawn at random, or other samples
            (m, d). 0: all `num_steps` are made.
        patience: how many steps without a better likelihood of the held-out samples
            end the search.

    Returns:
        A `Solution`: the map is a `Chain` of the whitening and a `Scan` of `SlicedMap`s
        of splines, as many as were best. stats["cost"], one a step of the map, is the
        mean squared displacement to a normal law along its axes, before it.
        stats["held_out"] is the mean negative log-likelihood of the held-out samples,
        in nats, after each step of the search and, first, before it; empty without
        them. Under `jit` and `vmap` sizes cannot depend on values: then there are
        `num_steps` layers and entries, the surplus being identities and NaN.

    Raises:
        ValueError: samples that are not (n, d), are empty, too few, integer or NaN, lie
            in a subspace; bad weights; options out of range.

    Example:
        >>> import jax, jax.random as jr
        >>> import transportjax as tj
        >>> x = jr.exponential(jr.key(0), (1000, 2))
        >>> solution = tj.gaussianise(x, key=jr.key(1))
        >>> z = jax.vmap(solution.map)(jr.exponential(jr.key(2), (1000, 2)))
        >>> bool(abs(z.std(0) - 1).max() < 0.1)
        True

    References:
        Laparra, Camps-Valls and Malo, 2011, "Iterative Gaussianization: from ICA to
        random rotations". Dai and Seljak, 2021, "Sliced iterative normalizing flows",
        section 3 (GIS).
    """
    check_continuous("source", source)
    source = as_float("source", source)
    dtype, source = source.dtype, source.astype(working_dtype(source.dtype))
    check_points("source", source)
    check_count("num_steps", num_steps)
    check_count("num_knots", num_knots, 4)
    check_count("patience", patience)
    check_number("bandwidth", bandwidth, 0, open_low=True)
    check_number("step_size", step_size, 0, 1, open_low=True)
    weights = as_weights("weights", weights, source.shape[:1], source.dtype)
    if directions is None:
        directions = _default_directions(source.shape[1])
    whiten = whitening("source", source, weights)
    points, masses = _divide(source, weights, held_out, key)
    options = _Options(
        directions,
        jnp.asarray(bandwidth).astype(source.dtype),
        jnp.asarray(step_size).astype(source.dtype),
        num_steps,
        num_knots,
    )
    start = jax.vmap(whiten.transform_and_log_det)(points)
    limit, held = jnp.int32(num_steps), jnp.zeros(0, source.dtype)
    if masses.judged is not None:
        search = _fit(start, masses, key, options, limit, jnp.int32(patience))
        limit, held = search.best_step, search.losses
        masses = masses._replace(fitted=masses.every)
    run = _fit(start, masses, key, options, limit, jnp.int32(num_steps))
    layers, cost = run.layers, run.costs
    if is_concrete(limit):
        layers, cost = _first((layers, cost), int(limit))
    if masses.judged is not None and is_concrete(held):
        held = _first(held, int(search.done) + 1)
    stats = {"cost": cost, "held_out": held}
    points = run.points[: source.shape[0]].astype(dtype)
    return Solution(Chain((whiten, Scan(layers))), points, stats)


def _first(tree: Any, count: int) -> Any:
    """The first entries of all leaves, by numpy: no new count compiles new slices."""
    return jax.tree.map(
        lambda leaf: jax.device_put(np.asarray(leaf)[:count], leaf.sharding), tree
    )


def _default_directions(dim: int) -> AbstractDirections:
    if dim <= _MOST_GREEDY:
        return GreedyRotations(_CYCLE)
    if dim <= _MOST_RANDOM:
        return OrthonormalDirections()
    return MaxSlicedDirections(_NUM_DIRECTIONS)


def whitening(
    name: str, source: Float[Array, "n d"], weights: Float[Array, " n"] | None
) -> Affine:
    """The symmetric map to mean zero and identity covariance; errors tell the name."""
    whiten, cov = _whitening(source, weights)
    check_spread(name, source.shape, cov)
    return whiten


@eqx.filter_jit
def _whitening(
    source: Float[Array, "n d"], weights: Float[Array, " n"] | None
) -> tuple[Affine, Float[Array, "d d"]]:
    mean, cov = moments(source, weights)
    normal = jnp.zeros_like(mean), jnp.eye(*cov.shape, dtype=cov.dtype)
    return gaussian_map(mean, cov, *normal), cov


class _Masses(NamedTuple):
    """The masses of all points, those to fit to, and those to judge the fit by."""

    every: Float[Array, " n"]
    fitted: Float[Array, " n"]
    judged: Float[Array, " n"] | None


class _Options(NamedTuple):
    directions: AbstractDirections
    bandwidth: Float[Array, ""]
    step_size: Float[Array, ""]
    num_steps: int
    num_knots: int


class _State(NamedTuple):
    """Where a fit stands; `best_step` is after how many steps the loss was least."""

    points: Float[Array, "n d"]
    log_dets: Float[Array, " n"]
    directions: Any
    done: Int[Array, ""]
    best_loss: Float[Array, ""]
    best_step: Int[Array, ""]


class _Run(NamedTuple):
    points: Float[Array, "n d"]
    layers: SlicedMap
    costs: Float[Array, " l"]
    losses: Float[Array, " l+1"]
    done: Int[Array, ""]
    best_step: Int[Array, ""]


def _divide(
    source: Float[Array, "n d"],
    weights: Float[Array, " n"] | None,
    held_out: Any,
    key: PRNGKeyArray,
) -> tuple[Float[Array, "m d"], _Masses]:
    """All points, the source first, and their masses."""
    num = source.shape[0]
    every = jnp.ones_like(source[:, 0]) if weights is None else weights
    if jnp.ndim(held_out) > 0:
        others = as_float("held_out", held_out).astype(source.dtype)
        check_points("held_out", others, source.shape[1])
        fitted = jnp.pad(every, (0, len(others)))
        judged = jnp.pad(jnp.ones_like(others[:, 0]), (num, 0))
        return jnp.concatenate([source, others]), _Masses(fitted, fitted, judged)
    count = check_share("held_out", held_out, num)
    if count == 0:
        return source, _Masses(every, every, None)
    masses = _hold_out(every, key, count)
    if weights is not None:
        check_weights("weights", masses.judged, (num,))
    return source, masses


@functools.partial(jax.jit, static_argnames="count")
def _hold_out(every: Float[Array, " n"], key: PRNGKeyArray, count: int) -> _Masses:
    """`count` samples held out: a random one of each of so many parts in a row."""
    num = len(every)
    bounds = (np.arange(count + 1) * num // count).astype(np.int32)
    start, width = bounds[:-1], np.diff(bounds)
    shift = jr.randint(jr.fold_in(key, 1), (count,), 0, width, "int32")
    is_held = jnp.zeros(num, bool).at[start + shift].set(True)
    judged = jnp.where(is_held, every, 0)
    return _Masses(every, every - judged, judged)


@eqx.filter_jit
def _fit(
    start: tuple[Float[Array, "n d"], Float[Array, " n"]],
    masses: _Masses,
    key: PRNGKeyArray,
    options: _Options,
    limit: Int[Array, ""],
    patience: Int[Array, ""],
) -> _Run:
    """At most `limit` steps, fewer if `patience` of them have not made a better one."""
    points, log_dets = start
    key_init, key_steps, key_target = jr.split(key, 3)
    # strategies that look at the target meet a sample of it
    target = jr.normal(key_target, points.shape, points.dtype)
    sampled = _sample(masses.fitted)

    def move(state: _State, key: PRNGKeyArray):
        seen = state.points.at[sampled].get(mode="promise_in_bounds")
        axes, _, strategy = options.directions.sample(
            key, state.directions, seen, target
        )
        axes = axes.astype(points.dtype)
        splines, cost = fit_normal_splines(
            project(axes, state.points),
            masses.fitted,
            options.bandwidth,
            options.step_size,
            options.num_knots,
        )
        layer = SlicedMap(axes, splines)
        moved, more = jax.vmap(layer.transform_and_log_det)(state.points)
        log_dets, done = state.log_dets + more, state.done + 1
        loss = _loss(moved, log_dets, masses.judged)
        better = loss < state.best_loss
        best_loss = jnp.where(better, loss, state.best_loss)
        best_step = jnp.where(better, done, state.best_step)
        state = _State(moved, log_dets, strategy, done, best_loss, best_step)
        return state, (layer, cost, loss)

    def stay(state: _State, key: PRNGKeyArray):
        layer, cost, loss = jax.eval_shape(move, state, key)[1]
        # splines whose leaves are all zero are the identity
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), layer.marginals)
        axes = jnp.eye(*layer.directions.shape, dtype=layer.directions.dtype)
        none = (jnp.full((), jnp.nan, x.dtype) for x in (cost, loss))
        return state, (SlicedMap(axes, zeros), *none)

    def step(state: _State, key: PRNGKeyArray):
        is_on = (state.done < limit) & (state.done - state.best_step < patience)
        return lax.cond(is_on, move, stay, state, key)

    loss = _loss(points, log_dets, masses.judged)
    strategy = options.directions.init(key_init, points.shape[1])
    zero = jnp.int32(0)
    state, (layers, costs, losses) = lax.scan(
        step,
        _State(points, log_dets, strategy, zero, loss, zero),
        jr.split(key_steps, options.num_steps),
    )
    losses = jnp.concatenate([loss[None], losses])
    return _Run(state.points, layers, costs, losses, state.done, state.best_step)


def _sample(masses: Float[Array, " n"]) -> Int[Array, " n"]:
    """Places drawn evenly by mass: all of them once if the masses are equal."""
    levels = jnp.cumsum(masses) / jnp.sum(masses)
    places = (jnp.arange(len(masses), dtype=masses.dtype) + 0.5) / len(masses)
    found = jnp.searchsorted(levels, places)
    return jnp.minimum(found, len(masses) - 1)


def _loss(
    points: Float[Array, "n d"],
    log_dets: Float[Array, " n"],
    masses: Float[Array, " n"] | None,
) -> Float[Array, ""]:
    """The mean negative log-likelihood, in nats; zero if nothing is judged."""
    if masses is None:
        return jnp.sum(jnp.zeros_like(log_dets))
    normal = jnp.sum(jax.scipy.stats.norm.logpdf(points), axis=1)
    return -jnp.sum(masses / jnp.sum(masses) * (normal + log_dets))
