"""Limited-memory BFGS that evaluates once a step, for many problems under `vmap`.

A line search in a loop of its own runs, under `vmap`, until the slowest of the problems
has ended it, in every step. Here a step that fails to descend is shortened in the next
step of the one loop, while other problems go on.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

_MEMORY = 10  # pairs of steps and differences of gradients
_FIRST_STEP = 0.1  # its length, where parameters are of order one
_SUFFICIENT = 1e-4  # Armijo's constant
_SHORTEST = 1e-6  # a share of a step; where even that does not descend, it is over


class Descent(NamedTuple):
    """The end of a descent.

    Attributes:
        point: the best parameters.
        value: the function there.
        num_steps: how often the function was evaluated.
    """

    point: Float[Array, " p"]
    value: Float[Array, ""]
    num_steps: Int[Array, ""]


class _State(NamedTuple):
    point: Array
    value: Array
    gradient: Array
    direction: Array
    share: Array  # of the direction that is tried next
    steps: Array  # (memory, p), newest first
    changes: Array  # of the gradient, likewise
    curvatures: Array  # (memory,) their products; zero where there is none yet
    count: Array
    is_over: Array


def lbfgs(
    function: Callable[[Float[Array, " p"]], Float[Array, ""]],
    start: Float[Array, " p"],
    num_steps: int,
    tolerance: float,
) -> Descent:
    """A local minimum of `function` near `start`.

    Ends when a step lowers the value by less than `tolerance` times its size, or after
    `num_steps` evaluations. Pairs without positive curvature are left out, so that the
    direction always descends.
    """
    evaluate = jax.value_and_grad(function)

    def proceed(state: _State) -> _State:
        trial = state.point + state.share * state.direction
        return _advance(state, trial, *evaluate(trial), tolerance)

    def goes_on(state: _State) -> Array:
        return ~state.is_over & (state.count < num_steps)

    state = lax.while_loop(goes_on, proceed, _begin(start))
    return Descent(state.point, state.value, state.count)


def _begin(point: Array) -> _State:
    """Before the first evaluation, so that the loop has the only one to compile."""
    memory = jnp.zeros((_MEMORY, 1), point.dtype) + 0 * point[None, :]
    still = 0 * point
    zero = jnp.sum(still)
    count = jnp.zeros_like(zero, dtype="int32")
    return _State(
        *(point, zero + jnp.inf, still, still, zero + 1),
        *(memory, memory, memory[:, 0], count, count > 0),
    )


def _advance(
    state: _State, trial: Array, value: Array, gradient: Array, tolerance: float
) -> _State:
    is_first = state.count == 0  # then `trial` is the start
    slope = state.share * jnp.vdot(state.gradient, state.direction)
    drop = state.value - value
    descends = is_first | (drop >= -_SUFFICIENT * slope)  # false for NaN
    state = _remember(state, descends, trial - state.point, gradient - state.gradient)
    # where the parabola through both values and the slope has its minimum
    shorter = state.share * jnp.clip(slope / (2 * (slope + drop)), 0.1, 0.5)
    shorter = jnp.where(jnp.isfinite(shorter), shorter, 0.1 * state.share)
    ends = descends & (drop <= tolerance * jnp.abs(value))
    moved = state._replace(
        point=jnp.where(descends, trial, state.point),
        value=jnp.where(descends, value, state.value),
        gradient=jnp.where(descends, gradient, state.gradient),
    )
    direction = jnp.where(descends, _direction(moved), state.direction)
    is_stuck = is_first & (~jnp.isfinite(value) | jnp.all(gradient == 0))
    return moved._replace(
        direction=direction,
        share=jnp.where(descends, 1, shorter).astype(value.dtype),
        count=state.count + 1,
        is_over=ends | is_stuck | (~descends & (shorter < _SHORTEST)),
    )


def _remember(state: _State, descends: Array, step: Array, change: Array) -> _State:
    curvature = jnp.vdot(step, change)
    size = jnp.sqrt(jnp.sum(step**2) * jnp.sum(change**2))
    use = descends & (curvature > 1e-6 * size)

    def push(memory: Array, new: Array) -> Array:
        pushed = jnp.concatenate([new[None], memory[:-1]])
        return jnp.where(use, pushed, memory)

    return state._replace(
        steps=push(state.steps, step),
        changes=push(state.changes, change),
        curvatures=push(state.curvatures, curvature),
    )


def _direction(state: _State) -> Array:
    """Minus the inverse Hessian, as far as it is remembered, times the gradient."""
    known = state.curvatures > 0
    inverses = jnp.where(known, 1 / jnp.where(known, state.curvatures, 1), 0)
    pairs = (state.steps, state.changes, inverses)

    def backward(vector: Array, pair: tuple) -> tuple[Array, Array]:
        step, change, inverse = pair
        factor = inverse * jnp.vdot(step, vector)
        return vector - factor * change, factor

    def forward(vector: Array, pair: tuple) -> tuple[Array, None]:
        step, change, inverse, factor = pair
        return vector + (factor - inverse * jnp.vdot(change, vector)) * step, None

    vector, factors = lax.scan(backward, state.gradient, pairs)
    # the newest pair tells the size of the inverse Hessian
    size = state.curvatures[0] / jnp.maximum(jnp.sum(state.changes[0] ** 2), 1e-30)
    length = jnp.sqrt(jnp.sum(state.gradient**2))
    first = _FIRST_STEP / jnp.where(length > 0, length, 1)
    vector = vector * jnp.where(known[0], size, first)
    vector, _ = lax.scan(forward, vector, (*pairs, factors), reverse=True)
    return -vector
