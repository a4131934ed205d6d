r"""Unbalanced transport on the line: mass may be made or destroyed, at a price.

    UOT(a, b) = min over masses a~, b~ of equal sum of
        W_p^p(a~, b~) + rho_1 KL(a~ | a) + rho_2 KL(b~ | b),

where W_p^p is that of masses as they are, not normalised. The dual is a maximum over
potentials f_i + g_j <= |x_i - y_j|^p of a smooth concave function,

    sum_i rho_1 a_i (1 - exp(-f_i / rho_1)) + sum_j rho_2 b_j (1 - exp(-g_j / rho_2)),

and a~_i = a_i exp(-f_i / rho_1), likewise b~. It is maximised by Frank and Wolfe's
method: the linear problem of each step is balanced transport between a~ and b~, whose
potentials have a closed form. Between steps the best constant is moved from g to f,
which makes the masses equal.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import (
    as_float,
    check_count,
    check_listed,
    check_number,
)
from transportjax._sharding import explicit_mesh_guard

from .sorting import permute, sort_with_permutation, unpermute
from .wasserstein import (
    checked_problem,
    cost_of_sorted,
    potentials_of_sorted,
    same_batch,
)

_BISECTIONS = 20  # of the length of a step

Oracle = Callable[[Array, Array], tuple[Array, Array]]


class UnbalancedTransport(NamedTuple):
    """What unbalanced transport costs, and which masses are carried.

    `x_masses` and `y_masses` are what is left of the given masses; they have equal
    sums. The potentials are dual variables: feasible, so that what they attain bounds
    the optimal cost from below, by `gap` less than `cost`, which bounds it from above.
    All but the cost have the derivative zero.
    """

    cost: Float[Array, "*batch"]
    x_masses: Float[Array, "*batch n"]
    y_masses: Float[Array, "*batch m"]
    x_potential: Float[Array, "*batch n"]
    y_potential: Float[Array, "*batch m"]
    gap: Float[Array, "*batch"]


@explicit_mesh_guard
def unbalanced_wasserstein_1d(
    x: ArrayLike,
    y: ArrayLike,
    *,
    penalty: Any,
    p: ArrayLike = 2,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
    num_steps: int = 10,
    line_search: bool = True,
) -> UnbalancedTransport:
    r"""The cost of transport on the line that may also change the masses, KL-penalised.

    The least sum of W_p^p between masses, and of the penalty times the Kullback-Leibler
    divergence KL(new | given) = sum(new log(new / given) - new + given) on each side.

    The cost is differentiable in `x`, `y`, both weights, `p` and the penalties, by the
    envelope theorem: masses and potentials are held, which is exact at the optimum, so
    look at `gap`. The derivative in the weights is rho (1 - exp(-f / rho)).

    Args:
        x: finite samples, (..., n).
        y: finite samples, (..., m); the batches broadcast.
        penalty: rho > 0, in units of `x` to the power p, or a pair of them, of `x` and
            of `y`; numbers or scalar arrays. Mass is moved rather than unmade where
            |x - y|^p is well below their sum. Infinity: the masses of that side are
            kept.
        p: the exponent, in [1, 1000].
        x_weights: masses >= 0 of `x`, (n,) or the shape of `x`, which are not
            normalised: the sums of both sides may differ. None: 1 / n each.
        y_weights: likewise of `y`.
        num_steps: number of steps, static. Ten are plenty where the penalty is as large
            as the cost; where it is much less, take more, by `gap`.
        line_search: whether to search the best step, by 20 evaluations of the
            potentials, which takes less time than a step and saves many. False: steps
            of 2 / (2 + i), i = 0, 1, ..., as in the paper.

    Returns:
        The cost, the masses and the potentials, in the order of the samples, and the
        gap. The cost is infinite if both penalties are and the masses differ.

    Raises:
        ValueError: samples that are empty, NaN or infinite; weights that are negative,
            all zero, NaN or of the wrong shape; a penalty that is not positive; p < 1.
            Where values are traced, bad ones give NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.onedim import unbalanced_wasserstein_1d
        >>> x, y = jnp.array([0.0, 9.0]), jnp.array([0.0])
        >>> result = unbalanced_wasserstein_1d(x, y, penalty=(1, jnp.inf), p=1)
        >>> print(result.x_masses.round(3), result.y_masses)
        [1. 0.] [1.]

    References:
        Sejourne, Vialard and Peyre (2022), Faster unbalanced optimal transport:
        translation invariant Sinkhorn and 1-D Frank-Wolfe.
    """
    x, y, p, a, b, dtype = checked_problem(x, y, p, x_weights, y_weights)
    check_count("num_steps", num_steps)
    penalties = penalty_pair(penalty, x.dtype)
    result = _unbalanced(x, y, p, a, b, penalties, num_steps, line_search)
    return jax.tree.map(lambda z: z.astype(dtype), result)


@eqx.filter_jit
def _unbalanced(
    x: Array,
    y: Array,
    p: Any,
    a: Array | None,
    b: Array | None,
    penalties: tuple[Array, Array],
    num_steps: int,
    line_search: bool,
) -> UnbalancedTransport:
    x, y, a, b = same_batch(x, y, a, b)
    a, b = masses_of(x, a) + 0 * x, masses_of(y, b) + 0 * y
    x, x_order = sort_with_permutation(x)
    y, y_order = sort_with_permutation(y)
    held_x, held_y, held_p = lax.stop_gradient((x, y, p))

    def oracle(a: Array, b: Array) -> tuple[Array, Array]:
        weights = {"x_weights": a, "y_weights": b}
        return potentials_of_sorted(held_x, held_y, p=held_p, **weights)

    def transport(a: Array, b: Array) -> Array:
        return cost_of_sorted(x, y, p=p, x_weights=a, y_weights=b)

    result = relaxed_transport(
        permute(a, x_order),
        permute(b, y_order),
        penalties,
        oracle,
        transport,
        num_steps=num_steps,
        line_search=line_search,
    )
    return result._replace(
        x_masses=unpermute(result.x_masses, x_order),
        y_masses=unpermute(result.y_masses, y_order),
        x_potential=unpermute(result.x_potential, x_order),
        y_potential=unpermute(result.y_potential, y_order),
    )


def masses_of(x: Float[Array, "*batch n"], weights: Array | None) -> Array:
    """The weights, or else masses that sum to one."""
    return jnp.full_like(x, 1 / x.shape[-1]) if weights is None else weights


def penalty_pair(penalty: Any, dtype: Any) -> tuple[Array, Array]:
    """The checked penalties of both sides."""
    if not isinstance(penalty, tuple | list):
        penalty = as_float("penalty", penalty)
        penalty = list(penalty) if penalty.ndim == 1 else [penalty, penalty]
    check_listed("penalty", penalty, 2)
    for value in penalty:
        check_number("penalty", value, 0, open_low=True)
    first, second = (as_float("penalty", value).astype(dtype) for value in penalty)
    return jnp.where(first > 0, first, jnp.nan), jnp.where(second > 0, second, jnp.nan)


def relaxed_transport(
    a: Float[Array, "*batch n"],
    b: Float[Array, "*batch m"],
    penalties: tuple[Float[Array, ""], Float[Array, ""]],
    oracle: Oracle,
    transport: Callable[[Array, Array], Array],
    *,
    num_steps: int,
    line_search: bool,
) -> UnbalancedTransport:
    """KL-unbalanced transport, given how to solve the balanced problem.

    Args:
        a: masses of one side.
        b: masses of the other.
        penalties: rho_1 and rho_2.
        oracle: from normalised masses of both sides to optimal potentials.
        transport: from normalised masses to the optimal cost, differentiable in the
            points.
        num_steps: number of steps.
        line_search: whether to search the best step.

    Returns:
        The solution; the masses and the potentials as `a` and `b` are ordered.
    """
    sides = lax.stop_gradient(
        (_Side(a, jnp.log(a), 1 / penalties[0]), _Side(b, jnp.log(b), 1 / penalties[1]))
    )
    f, g = _frank_wolfe(*sides, oracle, num_steps, line_search)
    masses = [side.masses(h) for side, h in zip(sides, (f, g), strict=True)]
    carried = jnp.sum(masses[0], axis=-1)
    cost = carried * transport(sides[0].shares(f), sides[1].shares(g))
    dual = jnp.zeros_like(cost)
    for side, given, h, rho in zip(sides, (a, b), (f, g), penalties, strict=True):
        cost = cost + _penalty(side, given, h, rho)
        dual = dual + jnp.sum(side.masses_given * side.slopes(h), axis=-1)
    unequal = jnp.isinf(penalties[0]) & jnp.isinf(penalties[1]) & _differ(*masses)
    cost = jnp.where(unequal, jnp.inf, cost)
    gap = jnp.maximum(lax.stop_gradient(cost) - dual, 0)
    return UnbalancedTransport(cost, masses[0], masses[1], f, g, gap)


class _Side(NamedTuple):
    """The masses of one side, and the inverse of their penalty, which may be zero."""

    masses_given: Array
    log_masses: Array
    inverse: Array

    def logits(self, potential: Array) -> Array:
        """Logarithms of the masses that belong to a potential."""
        return self.log_masses - potential * self.inverse

    def shares(self, potential: Array) -> Array:
        """These masses, normalised."""
        return jax.nn.softmax(self.logits(potential), axis=-1)

    def masses(self, potential: Array) -> Array:
        """These masses, not normalised."""
        return self.masses_given * jnp.exp(-potential * self.inverse)

    def slopes(self, potential: Array) -> Array:
        """The slopes rho (1 - exp(-f / rho)); for infinite rho, f."""
        inverse = jnp.where(self.inverse == 0, 1, self.inverse)
        slopes = -jnp.expm1(-potential * self.inverse) / inverse
        return jnp.where(self.inverse == 0, potential, slopes)


def _penalty(side: _Side, given: Array, potential: Array, rho: Array) -> Array:
    """The penalty rho KL(new | given), with the derivatives of the optimal cost.

    Its terms are given (1 - exp(-u) (1 + u)), u = f / rho. To the value nothing is
    added but the derivative in the masses that are given.
    """
    u = potential * side.inverse
    terms = side.masses_given * (-jnp.expm1(-u) - u * jnp.exp(-u))
    finite = jnp.where(jnp.isinf(rho), 0, rho)
    change = jnp.sum((given - side.masses_given) * side.slopes(potential), axis=-1)
    return finite * jnp.sum(terms, axis=-1) + change


def _frank_wolfe(
    x_side: _Side, y_side: _Side, oracle: Oracle, num_steps: int, line_search: bool
) -> tuple[Array, Array]:
    """Potentials that nearly maximise the dual, with masses of equal sums."""

    def step(potentials: tuple, index: Array) -> tuple[tuple, None]:
        f, g = _balanced(x_side, y_side, *potentials)
        best_f, best_g = oracle(x_side.shares(f), y_side.shares(g))
        moves = best_f - f, best_g - g
        if line_search:
            size = _best_step(x_side, y_side, (f, g), moves)
        else:
            size = 2 / (2 + index)
        return (f + size * moves[0], g + size * moves[1]), None

    # in `shard_map` both vary over the devices as soon as one side does
    zero = x_side.masses_given[..., :1] * 0 + y_side.masses_given[..., :1] * 0
    start = x_side.masses_given * 0 + zero, y_side.masses_given * 0 + zero
    indices = jnp.arange(num_steps, dtype=start[0].dtype)
    potentials, _ = lax.scan(step, start, indices)
    return _balanced(x_side, y_side, *potentials)


def _balanced(x_side: _Side, y_side: _Side, f: Array, g: Array) -> tuple[Array, Array]:
    """Both, after the best constant is moved to f: it makes the masses equal."""
    logsumexp = functools.partial(jax.nn.logsumexp, axis=-1, keepdims=True)
    total = x_side.inverse + y_side.inverse
    excess = logsumexp(x_side.logits(f)) - logsumexp(y_side.logits(g))
    shift = jnp.where(total == 0, 0, excess / jnp.where(total == 0, 1, total))
    return f + shift, g - shift


def _best_step(x_side: _Side, y_side: _Side, at: tuple, moves: tuple) -> Array:
    """The best step in [0, 1], by bisection of the slope, which falls.

    The slope, over the masses (of which both sides have the same sum, after the best
    shift), is the sum of shares times moves.
    """

    def halve(bounds: tuple, _: None) -> tuple[tuple, None]:
        low, high = bounds
        size = (low + high) / 2
        slope = jnp.zeros_like(size)
        for side, h, move in zip((x_side, y_side), at, moves, strict=True):
            shares = side.shares(h + size * move)
            slope = slope + jnp.sum(shares * move, axis=-1, keepdims=True)
        rises = slope > 0
        return (jnp.where(rises, size, low), jnp.where(rises, high, size)), None

    zero = at[0][..., :1] * 0
    (_, high), _ = lax.scan(halve, (zero, zero + 1), length=_BISECTIONS)
    return high


def _differ(x_masses: Array, y_masses: Array) -> Array:
    """Whether sums differ by more than rounding."""
    one, other = jnp.sum(x_masses, axis=-1), jnp.sum(y_masses, axis=-1)
    slack = 4 * float(jnp.finfo(one.dtype).eps) ** 0.5
    return jnp.abs(one - other) > slack * jnp.maximum(one, other)
