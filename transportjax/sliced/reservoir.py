r"""A reservoir of directions: ReSWD, the sliced distance with a memory.

In an optimisation the clouds move a little at each step, so that directions along which
they were far apart a step ago are worth keeping. A reservoir keeps k of all directions
seen so far, drawn without replacement with probabilities that grow with their cost w_i,
and forgets them over a time of tau steps (`decay`). Each direction has an exponential
variable E_i; kept are those with the smallest keys

    r_i = log E_i - log w_i + age_i / tau,

weighted reservoir sampling in the domain of logarithms, where no cost is too small.
Ageing shifts all keys alike. So what is kept are the k smallest keys of the whole
stream; and with rho, the smallest key ever turned away, direction i is kept with
probability p_i = 1 - exp(-w_i exp(rho - age_i / tau)). One over these probabilities
makes the loss unbiased.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Bool, Float, Int32, PRNGKeyArray

from transportjax._checks import (
    as_float_dtype,
    check_choice,
    check_count,
    check_directions,
    check_key,
    check_number,
    working_dtype,
)
from transportjax._sharding import explicit_mesh_guard

from .directions import default_directions
from .distance import projected_costs, static_or_array
from .pair import checked_pair
from .strategies import AbstractDirections, Sample

_ESTIMATORS = ("unbiased", "snis", "paper")

Sampler = Callable[[PRNGKeyArray, int, int], Array]


class ReservoirState(NamedTuple):
    """The kept directions, and what is known of those that were not kept.

    Costs and keys are logarithms, aged: all entries of `log_weights` fall, and those of
    `log_keys` and `threshold` rise, by 1 / tau a step.
    """

    directions: Float[Array, "k d"]
    log_weights: Float[Array, " k"]  # log w_i - age_i / tau, of the cost when drawn
    log_keys: Float[Array, " k"]  # r_i: the smallest are kept
    ages: Int32[Array, " k"]  # steps since they were drawn
    valid: Bool[Array, " k"]  # whether the place is taken
    threshold: Float[Array, ""]  # rho: the smallest key ever turned away
    count: Float[Array, ""]  # of all directions ever drawn, each as exp(-age / tau)


def reservoir_init(
    num_kept: int, dim: int, *, dtype: DTypeLike | None = None
) -> ReservoirState:
    """An empty reservoir, for `reservoir_loss`.

    Args:
        num_kept: number of directions to keep; 48 in the paper.
        dim: dimension of the points.
        dtype: a floating-point type, that of the points; the default float if None.
            Half precision is kept in float32.

    Returns:
        The state, whose shapes and dtypes never change.

    Raises:
        ValueError: `num_kept` or `dim` is not a positive integer.

    Example:
        >>> from transportjax.sliced import reservoir_init
        >>> reservoir_init(48, 3).directions.shape
        (48, 3)
    """
    check_count("num_kept", num_kept)
    check_count("dim", dim)
    dtype = working_dtype(as_float_dtype(dtype))
    zeros = jnp.zeros(num_kept, dtype)
    return _emptied(
        ReservoirState(
            jnp.zeros((num_kept, dim), dtype).at[:, 0].set(1),
            zeros,
            zeros,
            jnp.zeros(num_kept, jnp.int32),
            jnp.zeros(num_kept, bool),
            zeros[0],
            zeros[0],
        )
    )


@explicit_mesh_guard
def reservoir_loss(
    x: ArrayLike,
    y: ArrayLike,
    state: ReservoirState,
    *,
    key: PRNGKeyArray,
    num_new: int = 16,
    p: ArrayLike = 2,
    decay: ArrayLike = 30.0,
    reset: ArrayLike = 0.5,
    estimator: str = "unbiased",
    sampler: Sampler | None = None,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
) -> tuple[Float[Array, ""], ReservoirState]:
    r"""SW_p^p along kept and new directions, and the reservoir after this step.

    A pure step, for `jax.value_and_grad(..., has_aux=True)` and `lax.scan`. The clouds
    are sorted once, along the kept and the new directions; empty places are filled with
    new ones. Differentiable in `x`, `y` and their weights, through the costs alone: the
    directions and their weights in the loss are constants.

    Three estimators. "unbiased": every new direction counts once, every kept one 1 /
    p_i times (see above), so that the expectation is that of the mean of the costs
    over all directions ever drawn, aged; for clouds that stand still, SW_p^p itself
    (exactly with `reset=0`). "snis": the kept ones, by weights 1 / w_i that sum to one;
    the bias falls with `num_kept`, and for p = 2 the noise is larger. "paper": the kept
    ones, by weights proportional to w_i, as published. They are
    drawn in proportion to w_i already, so this is about E[w^2] / E[w]: 1.2 to 5 times
    SW_p^p. It is small where SW_p^p is, with little noise, and it presses on the
    directions that are far apart; but it is another loss.

    Do not expect much of it. At equal numbers of sorts, on clouds that stand still, the
    unbiased estimate has a relative error of about 1 / sqrt(num_kept): less than that
    of independent directions where their costs differ by more than their mean (clouds
    of high dimension), and in `benchmarks/variance.py` never less than that of
    orthonormal or evenly spread ones. In colour matching there, fresh directions of
    `default_directions` are as good, and better if they are few.

    Args:
        x: points, `(n, d)`.
        y: points, `(m, d)`.
        state: of `reservoir_init`, or what the last step returned.
        key: a fresh random key.
        num_new: number of new directions.
        p: the exponent >= 1: a number, or a scalar array.
        decay: the time tau > 0, in steps, after which a direction has lost all but 1/e
            of its weight; the half life is 0.69 tau. Infinity: it loses none.
        reset: in [0, 1]. The reservoir is emptied after a step in which its directions
            count for less, compared with the same number of new ones, than this share;
            for the estimator "paper", when the effective number of weights, 1 / sum
            of squares, is below this share of `num_kept`. 0: never.
        estimator: "unbiased", "snis" or "paper".
        sampler: draws directions, as unit rows, from a key, their number and the
            dimension. None: `default_directions`.
        x_weights: masses >= 0 of `x`, `(n,)`; normalised. None: uniform.
        y_weights: likewise of `y`, `(m,)`.

    Returns:
        The loss, in units of `x` to the power p, and the state.

    Raises:
        ValueError: as `sliced_wasserstein`; or an option that is out of its range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import reservoir_init, reservoir_loss
        >>> x = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> state = reservoir_init(8, 2)
        >>> for step in range(3):
        ...     key = jax.random.key(step)
        ...     loss, state = reservoir_loss(x, x + 1, state, key=key, num_new=4)
        >>> bool(abs(loss - 1) < 0.3)  # |(1, 1)|^2 / 2
        True

    References:
        Boss et al. (2025), ReSWD: ReSTIR'd, not shaken. Efraimidis, Spirakis (2006),
        Weighted random sampling with a reservoir: the keys. Cohen, Kaplan (2007),
        Summarizing data using bottom-k sketches: the probabilities p_i.
    """
    check_key("key", key)
    pair, dtype = checked_pair(x, y, x_weights, y_weights)
    check_directions("state.directions", state.directions, pair.x.shape[1])
    check_count("num_new", num_new)
    check_number("decay", decay, 0, open_low=True)
    check_number("reset", reset, 0, 1)
    check_choice("estimator", estimator, _ESTIMATORS)
    check_number("p", p, 1)
    work = state.log_keys.dtype
    power, exponent = static_or_array(p, work)
    sampler = sampler or default_directions
    decay, reset = (jnp.asarray(option, work) for option in (decay, reset))
    loss, state = _loss(
        (*pair, exponent), state, key, decay, reset, num_new, power, estimator, sampler
    )
    return loss.astype(dtype), state


@functools.partial(jax.jit, static_argnums=(5, 6, 7, 8))
def _loss(
    arrays: tuple[Any, ...],
    state: ReservoirState,
    key: PRNGKeyArray,
    decay: Array,
    reset: Array,
    num_new: int,
    power: int | float | None,
    estimator: str,
    sampler: Sampler,
) -> tuple[Array, ReservoirState]:
    x, y, a, b, exponent = arrays
    p = exponent if power is None else power

    def costs(directions: Array) -> Array:
        directions = directions.astype(x.dtype)
        found = projected_costs(x, y, directions, p=p, x_weights=a, y_weights=b)
        return found.astype(decay.dtype)

    state, candidates = _candidates(state, key, num_new, sampler, 1 / decay, costs)
    weights, next_state = _selected(state, candidates, estimator, reset, 1 / decay)
    return weights @ candidates.costs, next_state


class ReservoirDirections(AbstractDirections):
    """The directions of a reservoir and their weights, for whoever takes both.

    `sliced_wasserstein(x, y, directions, weights=weights)` is then `reservoir_loss`
    divided by the sum of its weights, which is one on average. It sorts twice: where
    the loss is all that is wanted, `reservoir_loss` is faster.

    Args:
        num_kept: number of directions to keep; a step has `num_kept + num_new`.
        num_new: number of new directions in a step.
        p: the exponent of the costs.
        decay: the time of forgetting, in steps, as in `reservoir_loss`.
        reset: when to empty the reservoir, as in `reservoir_loss`.
        estimator: "unbiased", "snis" or "paper", as in `reservoir_loss`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import ReservoirDirections
        >>> strategy, key = ReservoirDirections(8, 4), jax.random.key(0)
        >>> x, y = jnp.zeros((5, 3)), jnp.ones((5, 3))
        >>> state = strategy.init(key, 3)
        >>> directions, weights, state = strategy.sample(key, state, x, y)
        >>> directions.shape, weights.shape
        ((12, 3), (12,))
    """

    num_kept: int = eqx.field(static=True, default=48)
    num_new: int = eqx.field(static=True, default=16)
    p: int | float = eqx.field(static=True, default=2)
    decay: float = eqx.field(static=True, default=30.0)
    reset: float = eqx.field(static=True, default=0.5)
    estimator: str = eqx.field(static=True, default="unbiased")

    def __check_init__(self) -> None:
        """Checks the options."""
        check_count("num_kept", self.num_kept)
        check_count("num_new", self.num_new)
        check_number("p", self.p, 1)
        check_number("decay", self.decay, 0, open_low=True)
        check_number("reset", self.reset, 0, 1)
        check_choice("estimator", self.estimator, _ESTIMATORS)

    def init(self, key: PRNGKeyArray, dim: int) -> ReservoirState:
        """An empty reservoir, of the default float."""
        del key
        return reservoir_init(self.num_kept, dim)

    def sample(
        self,
        key: PRNGKeyArray,
        state: ReservoirState,
        x: Float[Array, "n d"],
        y: Float[Array, "m d"],
    ) -> Sample:
        """Kept and new directions, by their weights in the loss."""
        x, y = lax.stop_gradient((x, y))
        work = state.log_keys.dtype
        rate = jnp.asarray(1 / self.decay, work)
        reset = jnp.asarray(self.reset, work)

        def costs(directions: Array) -> Array:
            values = projected_costs(x, y, directions.astype(x.dtype), p=self.p)
            return values.astype(work)

        state, candidates = _candidates(
            state, key, self.num_new, default_directions, rate, costs
        )
        weights, state = _selected(state, candidates, self.estimator, reset, rate)
        weights = (weights / jnp.sum(weights)).astype(x.dtype)
        return candidates.directions.astype(x.dtype), weights, state


class _Candidates(NamedTuple):
    """The kept directions and then the new ones."""

    directions: Float[Array, "p d"]
    costs: Float[Array, " p"]  # now
    log_weights: Float[Array, " p"]
    log_keys: Float[Array, " p"]
    ages: Int32[Array, " p"]
    old: Bool[Array, " p"]  # drawn in an earlier step


def _candidates(
    state: ReservoirState,
    key: PRNGKeyArray,
    num_new: int,
    sampler: Sampler,
    rate: Array,
    costs_along: Callable[[Array], Array],
) -> tuple[ReservoirState, _Candidates]:
    """The state, one step older, and all that may be kept next."""
    fill_key, new_key, exponential_key = jr.split(key, 3)
    num, dim = state.directions.shape
    dtype = state.log_keys.dtype

    def filled() -> Array:
        fresh = sampler(fill_key, num, dim).astype(dtype)
        return jnp.where(state.valid[:, None], state.directions, fresh)

    kept = lax.cond(jnp.all(state.valid), lambda: state.directions, filled)
    new = sampler(new_key, num_new, dim).astype(dtype)
    directions = lax.stop_gradient(jnp.concatenate([kept, new]))
    costs = costs_along(directions)

    old = jnp.pad(state.valid, (0, num_new))
    state = state._replace(
        log_weights=state.log_weights - rate,
        log_keys=state.log_keys + rate,
        ages=state.ages + 1,
        threshold=state.threshold + rate,
        count=state.count * jnp.exp(-rate) + jnp.sum(~old).astype(dtype),
    )
    least = jnp.finfo(dtype).tiny
    log_costs = jnp.log(jnp.maximum(lax.stop_gradient(costs), least))
    log_exponential = -jr.gumbel(exponential_key, old.shape, dtype)

    def merged(of_kept: Array, of_new: Array) -> Array:
        return jnp.where(old, jnp.pad(of_kept, (0, num_new)), of_new)

    return state, _Candidates(
        directions,
        costs,
        merged(state.log_weights, log_costs),
        merged(state.log_keys, log_exponential - log_costs),
        merged(state.ages, jnp.zeros_like(old, jnp.int32)),
        old,
    )


def _selected(
    state: ReservoirState,
    candidates: _Candidates,
    estimator: str,
    reset: Array,
    rate: Array,
) -> tuple[Array, ReservoirState]:
    """The weights of all candidates in the loss, and the next state."""
    num = state.directions.shape[0]
    negative_keys, order = lax.top_k(-candidates.log_keys, num + 1)
    kept = order[:num]
    log_discounts = -candidates.ages.astype(rate.dtype) * rate
    old = candidates.old
    if estimator == "unbiased":
        log_weights = candidates.log_weights + state.threshold
        probabilities = -jnp.expm1(-jnp.exp(log_weights))
        inverse = jnp.exp(log_discounts) / jnp.where(old, probabilities, 1)
        weights = jnp.where(old, inverse, 1) / state.count
    else:  # the log of what they are drawn in proportion to, or the target over it
        logits = candidates.log_weights
        logits = logits if estimator == "paper" else log_discounts - logits
        weights = jnp.zeros_like(logits).at[kept].set(jax.nn.softmax(logits[kept]))
    if estimator == "paper":
        drop = _share(weights[kept], jnp.ones_like(state.valid)) < reset
    else:
        parts = weights * lax.stop_gradient(candidates.costs)
        drop = _share(parts, old) < reset * _share(parts, ~old)
    next_state = ReservoirState(
        candidates.directions[kept],
        candidates.log_weights[kept],
        candidates.log_keys[kept],
        candidates.ages[kept],
        jnp.ones_like(state.valid),
        jnp.minimum(state.threshold, -negative_keys[num]),
        state.count,
    )
    empty = _emptied(next_state)
    next_state = jax.tree.map(lambda a, b: jnp.where(drop, a, b), empty, next_state)
    return lax.stop_gradient(weights), next_state


def _share(parts: Array, chosen: Array) -> Any:
    """The effective number of the chosen parts, 1 / their number to one; one if none.

    One where all parts are equal. No part is squared before it is divided by the
    greatest, so that none is lost to rounding.
    """
    parts = jnp.where(chosen, parts, 0)
    top = jnp.max(parts)
    parts = parts / jnp.where(top > 0, top, 1)
    squares, number = jnp.sum(parts**2), jnp.sum(chosen).astype(parts.dtype)
    share = jnp.sum(parts) ** 2 / jnp.where(top > 0, squares * number, 1)
    return jnp.where(top > 0, share, 1)


def _emptied(state: ReservoirState) -> ReservoirState:
    return state._replace(
        valid=jnp.zeros_like(state.valid),
        threshold=jnp.full_like(state.threshold, jnp.inf),
        count=jnp.zeros_like(state.count),
    )
