"""Unbalanced sliced transport: mass may be made or destroyed, at a price.

Two distances, both KL-penalised. In the sliced unbalanced one (SUOT) every direction
may change the masses by itself; in the unbalanced sliced one (USOT) the points are
given new masses once, the same for all directions, so that outliers are seen as such.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import (
    check_count,
    check_number,
)
from transportjax._sharding import explicit_mesh_guard
from transportjax.onedim.sorting import permute, sort_with_permutation, unpermute
from transportjax.onedim.unbalanced import (
    UnbalancedTransport,
    masses_of,
    penalty_pair,
    relaxed_transport,
    unbalanced_wasserstein_1d,
)
from transportjax.onedim.wasserstein import potentials_of_sorted

from .distance import as_exponent, sliced_wasserstein
from .pair import Pair, checked_pair_along, projections

_BLOCK = 2**22  # projections of both clouds in a block, unless told otherwise


@explicit_mesh_guard
def sliced_unbalanced_wasserstein(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    *,
    penalty: Any,
    p: ArrayLike = 2,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
    num_steps: int = 10,
    line_search: bool = True,
    chunk: int | None = None,
) -> Float[Array, ""]:
    """SUOT, the mean cost of unbalanced transport along the directions.

    Each direction changes the masses by itself; `unbalanced_sliced_wasserstein` changes
    them once. Differentiable in `x`, `y`, `directions`, both weights, `p` and the
    penalties, as `unbalanced_wasserstein_1d` is.

    Args:
        x: points, `(n, d)`.
        y: points, `(m, d)`; their number may differ.
        directions: unit rows, `(p, d)`, as of `default_directions`.
        penalty: rho > 0, in units of `x` to the power p, or a pair of them, of `x` and
            of `y`. Infinity: the masses of that side are kept.
        p: the exponent >= 1.
        x_weights: masses >= 0 of `x`, `(n,)`, not normalised. None: 1 / n each.
        y_weights: likewise of `y`, `(m,)`.
        num_steps: number of steps, as in `unbalanced_wasserstein_1d`.
        line_search: whether to search the best steps.
        chunk: how many directions to hold at once. None: all of small clouds.

    Returns:
        A scalar, in units of `x` to the power p.

    Raises:
        ValueError: points or directions of the wrong shape, empty, NaN or infinite;
            directions that are not of norm 1; weights that are negative, all zero or of
            the wrong length; a penalty that is not positive; p < 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import sliced_unbalanced_wasserstein
        >>> x, y = jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0]])
        >>> print(sliced_unbalanced_wasserstein(x, y, jnp.eye(2), penalty=jnp.inf))
        12.5

    References:
        Bonet et al. (2024), Slicing unbalanced optimal transport, section 3.
        Sejourne, Vialard and Peyre (2022), Faster unbalanced optimal transport:
        translation invariant Sinkhorn and 1-D Frank-Wolfe.
    """
    problem, dtype = _checked(x, y, directions, x_weights, y_weights, p, penalty)
    check_count("num_steps", num_steps)
    chunk = _chunk(problem, chunk)
    return _suot(problem, num_steps, line_search, chunk).astype(dtype)


class _Problem(NamedTuple):
    pair: Pair
    directions: Float[Array, "p d"]
    p: Any  # static if a number of Python
    penalties: tuple[Float[Array, ""], Float[Array, ""]]


@eqx.filter_jit
def _suot(problem: _Problem, num_steps: int, line_search: bool, chunk: int) -> Array:
    pair, directions, p, penalties = problem

    def costs(directions: Array) -> Array:
        return unbalanced_wasserstein_1d(
            *projections(pair, directions),
            penalty=penalties,
            p=p,
            x_weights=pair.x_weights,
            y_weights=pair.y_weights,
            num_steps=num_steps,
            line_search=line_search,
        ).cost

    if chunk == directions.shape[0]:
        return jnp.mean(costs(directions))
    one = jax.checkpoint(lambda direction: costs(direction[None])[0])
    return jnp.mean(lax.map(one, directions, batch_size=chunk))


@explicit_mesh_guard
def unbalanced_sliced_wasserstein(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    *,
    penalty: Any,
    p: ArrayLike = 2,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
    num_steps: int = 10,
    line_search: bool = True,
    chunk: int | None = None,
) -> UnbalancedTransport:
    """USOT: the least sliced distance between new masses of the points, and its price.

    The least sum of SW_p^p between the new masses (as they are, not normalised) and of
    the penalty times KL(new | given) of each side. Points that are far from the other
    cloud lose their mass. The cost is at least that of `sliced_unbalanced_wasserstein`.

    The cost is differentiable in `x`, `y`, `directions`, both weights, `p` and the
    penalties, with masses and potentials held, which is exact at the optimum.

    Args:
        x: points, `(n, d)`.
        y: points, `(m, d)`; their number may differ.
        directions: unit rows, `(p, d)`, as of `default_directions`. The sorted
            projections of all are kept: 2 p (n + m) numbers.
        penalty: rho > 0, in units of `x` to the power p, or a pair of them, of `x` and
            of `y`. Infinity: the masses of that side are kept.
        p: the exponent >= 1.
        x_weights: masses >= 0 of `x`, `(n,)`, not normalised. None: 1 / n each.
        y_weights: likewise of `y`, `(m,)`.
        num_steps: number of steps, as in `unbalanced_wasserstein_1d`; look at `gap`.
        line_search: whether to search the best steps.
        chunk: how many directions to work on at once. None: all of small clouds.

    Returns:
        The cost, the new masses, and the potentials of the points, which are means over
        the directions; and how far at most the cost is from the least.

    Raises:
        ValueError: as `sliced_unbalanced_wasserstein`.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import unbalanced_sliced_wasserstein
        >>> x = y = jnp.array([[0.0, 0.0], [1.0, 2.0]])
        >>> x = x.at[0].set(99.0)
        >>> result = unbalanced_sliced_wasserstein(x, y, jnp.eye(2), penalty=1)
        >>> print(result.x_masses.round(2))
        [0.   0.52]

    References:
        Bonet et al. (2024), Slicing unbalanced optimal transport, section 3 and
        algorithm 2.
    """
    problem, dtype = _checked(x, y, directions, x_weights, y_weights, p, penalty)
    check_count("num_steps", num_steps)
    chunk = _chunk(problem, chunk)
    result = _usot(problem, num_steps, line_search, chunk)
    return jax.tree.map(lambda z: z.astype(dtype), result)


@eqx.filter_jit
def _usot(
    problem: _Problem, num_steps: int, line_search: bool, chunk: int
) -> UnbalancedTransport:
    (x, y, a, b), directions, p, penalties = problem
    held, held_directions, held_p, _ = lax.stop_gradient(problem)
    num = directions.shape[0]

    def sort(direction: Array) -> tuple:
        both = projections(held, direction[None])
        return tuple(sort_with_permutation(values[0]) for values in both)

    profiles = lax.map(sort, held_directions, batch_size=chunk)

    def oracle(a: Array, b: Array) -> tuple[Array, Array]:
        def one(profile: tuple) -> tuple[Array, Array]:
            (x, x_order), (y, y_order) = profile
            weights = {
                "x_weights": permute(a, x_order),
                "y_weights": permute(b, y_order),
            }
            f, g = potentials_of_sorted(x, y, p=held_p, **weights)
            return unpermute(f, x_order), unpermute(g, y_order)

        f, g = lax.map(one, profiles, batch_size=chunk)
        return jnp.mean(f, axis=0), jnp.mean(g, axis=0)

    def transport(a: Array, b: Array) -> Array:
        return sliced_wasserstein(
            x, y, directions, p=p, x_weights=a, y_weights=b, chunk=min(chunk, num)
        )

    zero = 0 * (held.x[0, 0] + held.y[0, 0] + held_directions[0, 0])
    return relaxed_transport(
        masses_of(x[:, 0], a) + zero,  # varies in `shard_map` as the potentials do
        masses_of(y[:, 0], b) + zero,
        penalties,
        oracle,
        transport,
        num_steps=num_steps,
        line_search=line_search,
    )


def _checked(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    x_weights: ArrayLike | None,
    y_weights: ArrayLike | None,
    p: ArrayLike,
    penalty: Any,
) -> tuple["_Problem", Any]:
    """What to compute with; the dtype to return."""
    check_number("p", p, low=1.0, high=1000.0)
    pair, directions, dtype = checked_pair_along(x, y, directions, x_weights, y_weights)
    work = directions.dtype
    return (
        _Problem(pair, directions, as_exponent(p, work), penalty_pair(penalty, work)),
        dtype,
    )


def _chunk(problem: _Problem, chunk: int | None) -> int:
    pair = problem.pair
    if chunk is None:
        chunk = max(1, _BLOCK // (pair.x.shape[0] + pair.y.shape[0]))
    check_count("chunk", chunk)
    return min(chunk, problem.directions.shape[0])
