"""The steps of `gaussianise`: one loop, written to be compiled quickly."""

import functools
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transportjax.maps import AbstractBijection, LogTails, SlicedMap
from transportjax.sliced import AbstractDirections

from .normal_splines import apply_splines, fit_normal_splines, no_knots, spline_maps

_FAR = 4.0  # deviations, beyond which whitened coordinates are drawn in


class Masses(NamedTuple):
    """The masses of all points, those to fit to, and those to judge the fit by."""

    every: Float[Array, " n"]
    fitted: Float[Array, " n"]
    judged: Float[Array, " n"] | None


class Options(NamedTuple):
    """How to fit; the sizes, which are Python's integers, are static."""

    directions: AbstractDirections
    bandwidth: Float[Array, ""]
    step_size: Float[Array, ""]
    num_steps: int
    num_knots: int
    num_points: int  # of the source: others that are held out come behind it


class _State(NamedTuple):
    """Where a fit stands; `best_step` is after how many steps the loss was least."""

    points: Float[Array, "d n"]
    log_dets: Float[Array, " n"]
    directions: Any
    done: Int[Array, ""]
    best_loss: Float[Array, ""]
    best_step: Int[Array, ""]
    best_points: Float[Array, "d n"]


class _Trace(NamedTuple):
    """What each step leaves."""

    axes: Float[Array, "l p d"]
    knots: Float[Array, "l 3 p k"]
    costs: Float[Array, " l"]
    losses: Float[Array, " l"]


class Run(NamedTuple):
    """The points at the end and after the best step, and the layers of all steps."""

    points: Float[Array, "n d"]
    best_points: Float[Array, "n d"]
    layers: SlicedMap
    costs: Float[Array, " l"]
    losses: Float[Array, " l+1"]
    done: Int[Array, ""]
    best_step: Int[Array, ""]


@eqx.filter_jit
def fit(
    source: Float[Array, "n d"],
    whiten: AbstractBijection,
    masses: Masses,
    key: PRNGKeyArray,
    options: Options,
    limit: Int[Array, ""],
    patience: Int[Array, ""],
) -> Run:
    """At most `limit` steps, fewer if `patience` of them have not made a better one."""
    points, log_dets = jax.vmap(whiten.transform_and_log_det, out_axes=(1, 0))(source)
    keys = jr.split(key, 4)
    keys, key_init, key_target = jr.split(keys[1], options.num_steps), keys[0], keys[2]
    # strategies that look at the target meet a sample of it
    target = jr.normal(key_target, source.shape, points.dtype)
    sampled = _sample(masses.fitted)
    strategy = options.directions.init(key_init, len(points))

    def step(carry: tuple[_State, _Trace]) -> tuple[_State, _Trace]:
        state, trace = carry
        axes, strategy = draw(state)
        along = jnp.matmul(axes, state.points, precision="highest")
        knots, cost = fit_normal_splines(
            along,
            masses.fitted,
            options.bandwidth,
            options.step_size,
            options.num_knots,
        )
        moved, log_slopes = apply_splines(knots, along)
        points = state.points + jnp.matmul(axes.T, moved - along, precision="highest")
        log_dets = state.log_dets + jnp.sum(log_slopes, axis=0)
        loss = normal_loss(points, log_dets, masses.judged)
        trace = jax.tree.map(
            lambda rows, row: lax.dynamic_update_index_in_dim(rows, row, state.done, 0),
            trace,
            _Trace(axes, knots, cost, loss),
        )
        better, done = loss < state.best_loss, state.done + 1
        best_loss = jnp.where(better, loss, state.best_loss)
        best_step = jnp.where(better, done, state.best_step)
        best_points = jnp.where(better, points, state.best_points)
        state = _State(
            points, log_dets, strategy, done, best_loss, best_step, best_points
        )
        return state, trace

    def draw(state: _State) -> tuple[Float[Array, "p d"], Any]:
        seen = state.points.T.at[sampled].get(mode="promise_in_bounds")
        key = lax.dynamic_index_in_dim(keys, state.done, keepdims=False)
        axes, _, strategy = options.directions.sample(
            key, state.directions, seen, target
        )
        return axes.astype(points.dtype), strategy

    def goes_on(carry: tuple[_State, _Trace]) -> Array:
        state, _ = carry
        return (state.done < limit) & (state.done - state.best_step < patience)

    loss = normal_loss(points, log_dets, masses.judged)
    zero = jnp.int32(0)
    state = _State(points, log_dets, strategy, zero, loss, zero, points)
    shape = jax.eval_shape(draw, state)[0].shape
    trace = _no_steps(points, shape, options)
    # not a scan: it ends when nothing gets better
    state, trace = lax.while_loop(goes_on, step, (state, trace))
    return Run(
        state.points.T[: options.num_points],
        state.best_points.T[: options.num_points],
        jax.vmap(SlicedMap)(trace.axes, spline_maps(trace.knots)),
        trace.costs,
        jnp.concatenate([loss[None], trace.losses]),
        state.done,
        state.best_step,
    )


def _no_steps(
    points: Float[Array, "d n"], shape: tuple[int, ...], options: Options
) -> _Trace:
    """Room for what the steps leave; without them, identities and NaN."""
    num, like = options.num_steps, functools.partial(jnp.full_like, points)
    knots = no_knots(options.num_knots)[:, None]
    return _Trace(
        like(np.eye(shape[0], shape[1]), shape=(num, *shape)),
        like(knots, shape=(num, 3, shape[0], options.num_knots)),
        like(np.nan, shape=num),
        like(np.nan, shape=num),
    )


def _sample(masses: Float[Array, " n"]) -> Int[Array, " n"]:
    """Places drawn evenly by mass: all of them once if the masses are equal."""
    levels = jnp.cumsum(masses) / jnp.sum(masses)
    places = (jnp.arange(len(masses), dtype=masses.dtype) + 0.5) / len(masses)
    found = jnp.searchsorted(levels, places)
    return jnp.minimum(found, len(masses) - 1)


def normal_loss(
    points: Float[Array, "d n"],
    log_dets: Float[Array, " n"],
    masses: Float[Array, " n"] | None,
) -> Float[Array, ""]:
    """The mean negative log-likelihood, in nats; zero if nothing is judged."""
    if masses is None:
        return jnp.sum(jnp.zeros_like(log_dets))
    size = jnp.sum(points**2, axis=0) + len(points) * math.log(2 * math.pi)
    shares = masses / jnp.sum(masses)
    return jnp.dot(shares, size / 2 - log_dets, precision="highest")


def log_tails(like: Float[Array, " d"]) -> LogTails:
    """What follows a whitening; its leaf is placed as another vector."""
    return LogTails(jnp.full_like(like, _FAR))
