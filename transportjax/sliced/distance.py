"""The sliced Wasserstein distance: one-dimensional distances, averaged over directions.

    SW_p^p(x, y) = mean over directions theta of W_p^p(theta.x, theta.y)

The points are projected on every direction, and the projections sorted. Directions are
taken in blocks, so that memory does not grow with their number.
"""

import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import (
    as_float,
    as_weights,
    check_count,
    check_number,
)
from transportjax._sharding import explicit_mesh_guard, varying_alike
from transportjax.onedim.wasserstein import wasserstein_1d

from .pair import Pair, checked_pair_along, projections

_BLOCK = 2**22  # projections of a cloud in a block, unless told otherwise, but at least
_ROWS = 64  # directions: below, accelerators leave their fast sort of many long rows


@explicit_mesh_guard
def sliced_wasserstein(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    *,
    p: ArrayLike = 2,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    chunk: int | None = None,
    root: bool = False,
) -> Float[Array, ""]:
    """SW_p^p, the mean of W_p^p along the directions, in units of `x` to the power p.

    Differentiable in `x`, `y`, `directions`, all weights, and `p`; the order of the
    projections is held constant, which is exact almost everywhere. The gradient is
    finite everywhere, also where the distance is zero.

    Args:
        x: points, `(n, d)`.
        y: points, `(m, d)`; their number may differ.
        directions: unit rows, `(p, d)`, as of `default_directions`. Fresh ones at each
            step of an optimisation make its gradient unbiased; about 100 are enough in
            low dimension.
        p: the exponent >= 1: a number, or a scalar array. 1 and 2 are fastest.
        x_weights: masses >= 0 of `x`, `(n,)`; normalised. None: uniform, and faster.
        y_weights: likewise of `y`, `(m,)`.
        weights: weights >= 0 of the directions in the mean, `(p,)`; normalised. None:
            uniform.
        chunk: how many directions to hold at once. Memory is about 6 `chunk (n + m)`
            numbers, with or without the gradient. None: all directions of small clouds,
            and at least 64 of any. Second derivatives by reverse mode need all
            directions in one block on JAX 0.10, which loses them otherwise.
        root: whether to return SW_p, in units of `x`, rather than its power p. The
            gradient of the root is zero where the distance is zero.

    Returns:
        A scalar of the dtype of the inputs; integers count as floats.

    Raises:
        ValueError: points or directions of the wrong shape, empty, NaN or infinite;
            directions that are not of norm 1; weights that are negative, all zero or of
            the wrong length; p < 1. Values are looked at unless they are traced: then
            bad ones give NaN.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import orthonormal_directions, sliced_wasserstein
        >>> x = jnp.array([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
        >>> directions = orthonormal_directions(jax.random.key(0), 3, 3)
        >>> value = sliced_wasserstein(x, x + 2, directions)
        >>> print(value.round(4))  # |(2, 2, 2)|^2 / 3
        4.0

    References:
        Bonneel, Rabin, Peyre, Pfister (2015), Sliced and Radon Wasserstein barycenters
        of measures, section 2.
    """
    problem, power, dtype = _checked(x, y, directions, p, x_weights, y_weights, weights)
    value = _mean_cost(problem, power, _num_blocks(problem, chunk))
    if root:
        value = root_of_cost(value, _exponent(problem.clouds, power))
    return value.astype(dtype)


@explicit_mesh_guard
def projected_costs(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    *,
    p: ArrayLike = 2,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
    chunk: int | None = None,
) -> Float[Array, " p"]:
    """W_p^p along each direction, in units of `x` to the power p.

    `sliced_wasserstein` is their mean. For independent directions its standard error is
    `costs.std(ddof=1) / sqrt(p)`; their maximum is the max-sliced distance over the
    set. Differentiable like `sliced_wasserstein`.

    Args:
        x: points, `(n, d)`.
        y: points, `(m, d)`.
        directions: unit rows, `(p, d)`.
        p: the exponent >= 1: a number, or a scalar array.
        x_weights: masses >= 0 of `x`, `(n,)`; normalised. None: uniform.
        y_weights: likewise of `y`, `(m,)`.
        chunk: how many directions to hold at once, as in `sliced_wasserstein`; here
            a gradient sorts again what it does not hold.

    Returns:
        One cost for each direction.

    Raises:
        ValueError: as `sliced_wasserstein`.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import projected_costs
        >>> x, y = jnp.zeros((4, 2)), jnp.array([[3.0, 4.0]])
        >>> print(projected_costs(x, y, jnp.eye(2)))
        [ 9. 16.]
    """
    problem, power, dtype = _checked(x, y, directions, p, x_weights, y_weights, None)
    costs = _all_costs(problem, power, _num_blocks(problem, chunk))
    return costs.astype(dtype)


class _Clouds(NamedTuple):
    """What all directions share. A static exponent is not here: `p` is None then."""

    pair: Pair
    p: Float[Array, ""] | None


class _Problem(NamedTuple):
    clouds: _Clouds
    directions: Float[Array, "p d"]
    weights: Any  # (p,), or None


def _checked(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    p: ArrayLike,
    x_weights: ArrayLike | None,
    y_weights: ArrayLike | None,
    weights: ArrayLike | None,
) -> tuple[_Problem, int | float | None, Any]:
    """Arrays to compute with; the exponent if it is static; the dtype to return."""
    pair, directions, dtype = checked_pair_along(x, y, directions, x_weights, y_weights)
    check_number("p", p, 1)
    power, exponent = static_or_array(p, directions.dtype)
    w = as_weights("weights", weights, directions.shape[:1], directions.dtype)
    return _Problem(_Clouds(pair, exponent), directions, w), power, dtype


def static_or_array(p: Any, dtype: Any) -> tuple[int | float | None, Array | None]:
    """The exponent as a number of Python, or else as an array."""
    if isinstance(p, int | float | np.number):
        return (int(p) if p == int(p) else float(p)), None
    return None, as_float("p", p).astype(dtype)


def as_exponent(p: Any, dtype: Any) -> Any:
    """The exponent as a number of Python if it is one, or else as an array."""
    power, exponent = static_or_array(p, dtype)
    return exponent if power is None else power


def _num_blocks(problem: _Problem, chunk: int | None) -> int:
    num = problem.directions.shape[0]
    if chunk is None:
        points = max(map(len, problem.clouds.pair[:2]))
        chunk = max(_ROWS, _BLOCK // points)
    check_count("chunk", chunk)
    return -(-num // chunk)


def in_blocks(rows: Array, num_blocks: int) -> Array:
    """Every `num_blocks`-th row together; the first row fills up what is missing.

    Blocks of neighbours would do, but these spread over the devices that hold the rows.
    """
    size = -(-rows.shape[0] // num_blocks)
    missing = num_blocks * size - rows.shape[0]
    filled = jnp.concatenate([rows, jnp.repeat(rows[:1], missing, axis=0)])
    return filled.reshape(size, num_blocks, *rows.shape[1:]).swapaxes(0, 1)


def _costs(clouds: _Clouds, directions: Array, power: int | float | None) -> Array:
    """W_p^p along each direction of one block."""
    return wasserstein_1d(
        *projections(clouds.pair, directions),
        p=_exponent(clouds, power),
        x_weights=clouds.pair.x_weights,
        y_weights=clouds.pair.y_weights,
    )


def _exponent(clouds: _Clouds, power: int | float | None) -> Any:
    return clouds.p if power is None else power


@functools.partial(jax.jit, static_argnums=(1, 2))
def _all_costs(problem: _Problem, power: int | float | None, num_blocks: int) -> Array:
    """W_p^p along each direction."""
    if num_blocks == 1:
        return _costs(problem.clouds, problem.directions, power)
    blocks = in_blocks(problem.directions, num_blocks)
    one = jax.checkpoint(lambda block: _costs(problem.clouds, block, power))
    return lax.map(one, blocks).T.reshape(-1)[: problem.directions.shape[0]]


@functools.partial(jax.jit, static_argnums=(1, 2))
def _mean_cost(problem: _Problem, power: int | float | None, num_blocks: int) -> Array:
    """The weighted mean of the costs."""
    if num_blocks == 1:
        costs = _costs(problem.clouds, problem.directions, power)
        return weighted_mean(costs, problem.weights)
    weights = _normalised(problem.weights, problem.directions[:, 0])
    problem = problem._replace(weights=weights)
    return _mean_over_blocks(problem, power, num_blocks)


def weighted_mean(costs: Array, weights: Array | None) -> Array:
    """The mean of the costs, by weights that need not sum to one."""
    return _normalised(weights, costs) @ costs


def _normalised(weights: Array | None, like: Array) -> Array:
    if weights is None:
        return jnp.full_like(like, 1 / like.shape[0])
    weights = weights / jnp.max(weights)
    return weights / jnp.sum(weights)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _mean_over_blocks(
    problem: _Problem, power: int | float | None, num_blocks: int
) -> Array:
    return problem.weights @ _all_costs(problem, power, num_blocks)


@functools.partial(_mean_over_blocks.defjvp, symbolic_zeros=True)
def _mean_over_blocks_jvp(
    power: int | float | None, num_blocks: int, primals: tuple, tangents: tuple
) -> tuple[Array, Array]:
    """The gradient, summed over the blocks next to the value, times the tangents.

    Plain reverse mode would keep the permutations of all blocks, p (n + m) numbers, or
    sort twice. The tangent is linear in the tangents of the inputs, with coefficients
    that are known at once, so reverse mode scales the gradient and that is all.
    """
    problem, dots = varying_alike(primals[0]), tangents[0]
    moves = jax.tree.map(lambda dot: not isinstance(dot, SymbolicZero), dots)
    dots = eqx.filter(dots, moves)
    split = functools.partial(_split, num_blocks=num_blocks)
    (moving, moving_rows), (still, still_rows) = map(
        split, eqx.partition(problem, moves)
    )

    def add(total: Any, rows: Any) -> tuple[Any, Any]:
        def cost(moving: tuple, still: tuple) -> Array:
            clouds, (directions, weights) = eqx.combine(moving, still)
            return weights @ _costs(clouds, directions, power)

        value, (slope, row_slopes) = jax.value_and_grad(cost)(
            (moving, rows[0]), (still, rows[1])
        )
        return jax.tree.map(jnp.add, total, (value, slope)), row_slopes

    zero = jnp.zeros_like(problem.weights, shape=())
    start = (zero, jax.tree.map(jnp.zeros_like, moving))
    (value, slope), row_slopes = lax.scan(add, start, (moving_rows, still_rows))
    products = jax.tree.map(jnp.vdot, (slope, row_slopes), split(dots))
    return value, sum(jax.tree.leaves(products), jnp.zeros_like(value))


def _split(problem: _Problem, num_blocks: int) -> tuple[_Clouds, tuple]:
    """What all blocks share, and the blocks of directions and of their weights."""
    directions, weights = problem.directions, problem.weights
    if directions is not None:
        directions = in_blocks(directions, num_blocks)
    if weights is not None:  # the rows that fill up weigh nothing
        size = -(-weights.shape[0] // num_blocks)
        weights = jnp.pad(weights, (0, num_blocks * size - weights.shape[0]))
        weights = weights.reshape(size, num_blocks).T
    return problem.clouds, (directions, weights)


def root_of_cost(value: Array, p: Any) -> Array:
    """`value` to the power 1/p, whose derivative at zero is zero."""
    zero = value == 0
    safe = jnp.where(zero, 1, value)
    square = isinstance(p, int | float) and p == 2  # an array may be traced
    return jnp.where(zero, 0, jnp.sqrt(safe) if square else safe ** (1 / p))
