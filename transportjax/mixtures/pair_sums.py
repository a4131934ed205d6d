"""Sums over all pairs of two sets of items, in memory of the size of the sets.

    sum over i, j of a_i b_j exp(k(left_i, right_j))        and its logarithm

The n x m kernel is computed in tiles, a block of rows by all columns, each of which is
used and forgotten, for the value and for all derivatives.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard, varying_alike

_TILE = 2**19  # pairs in a tile of a processor
_GROWTH = 32  # of a tile for an accelerator, which needs more work at once
_SMALL = 9  # numbers of an item: larger ones are held for each pair of a tile

Kernel = Callable[[Any, Any], Array]


class Side(NamedTuple):
    """One of the two sets: its items, and a weight for each.

    The leaves of `items` have a leading axis of n, or of 1 if the items share them.
    """

    items: Any
    weights: Float[Array, " n"]


@explicit_mesh_guard
def pair_sum(
    log_kernel: Kernel,
    left: Any,
    right: Any,
    *,
    left_weights: ArrayLike | None = None,
    right_weights: ArrayLike | None = None,
) -> Float[Array, ""]:
    """The sum over all pairs of a_i b_j exp(log_kernel(left_i, right_j)).

    Differentiable in the items and the weights, in every mode and any number of times;
    value and gradient come out of one pass over the pairs. Memory is proportional to
    n + m.

    Args:
        log_kernel: a function of one item of each side, whose value is a scalar. Use a
            function defined in a module, not a lambda or a closure made at each call:
            programs are compiled once for each. Arrays that it needs besides belong
            into the items.
        left: a pytree of arrays with a leading axis of n items; arrays with a leading
            axis of 1 are shared by all items.
        right: a pytree of arrays with a leading axis of m items, or 1.
        left_weights: a, `(n,)`, any numbers, used as they are. None: 1/n each.
        right_weights: b, `(m,)`, likewise.

    Returns:
        A scalar, in the widest dtype of the items.

    Raises:
        ValueError: arrays without a common leading axis; weights that do not fit, are
            all zero or not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.mixtures import pair_sum
        >>> def log_kernel(x, y):
        ...     return -jnp.abs(x - y)
        >>> x, y = jnp.arange(2000.0), jnp.arange(3000.0)
        >>> print((3000 * pair_sum(log_kernel, x, y)).round(3))  # about coth(1/2)
        2.163
    """
    pair, dtype = _checked(
        log_kernel, left, right, left_weights, right_weights, positive=False
    )
    return _sum(log_kernel, False, *pair).astype(dtype)


@explicit_mesh_guard
def log_pair_sum(
    log_kernel: Kernel,
    left: Any,
    right: Any,
    *,
    left_weights: ArrayLike | None = None,
    right_weights: ArrayLike | None = None,
) -> Float[Array, ""]:
    """The logarithm of `pair_sum`, which neither over- nor underflows.

    Differentiable like `pair_sum`, also where that is zero or infinite.

    Args:
        log_kernel: as in `pair_sum`.
        left: n items, as there.
        right: m items.
        left_weights: a, `(n,)`, >= 0, used as they are. None: 1/n each.
        right_weights: b, `(m,)`, likewise.

    Returns:
        A scalar, in the widest dtype of the items.

    Raises:
        ValueError: as `pair_sum`; negative weights.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.mixtures import log_pair_sum
        >>> def log_kernel(x, y):
        ...     return -((x - y) ** 2)
        >>> print(log_pair_sum(log_kernel, jnp.zeros(3), jnp.full(2, 100.0)))
        -10000.0
    """
    pair, dtype = _checked(
        log_kernel, left, right, left_weights, right_weights, positive=True
    )
    return _sum(log_kernel, True, *pair).astype(dtype)


def _checked(
    log_kernel: Kernel, left: Any, right: Any, a: Any, b: Any, *, positive: bool
) -> tuple[tuple[Side, Side], Any]:
    """Both sides in the precision to compute with; the dtype to return."""
    named = []
    for name, side in (("left", left), ("right", right)):
        named += [(name, leaf) for leaf in jax.tree.leaves(side)]
        _checks.check_items(name, [np.shape(leaf) for leaf in jax.tree.leaves(side)])
    leaves, tree = _checks.common_float(*named), jax.tree.structure((left, right))
    dtype, work = leaves[0].dtype, _checks.working_dtype(leaves[0].dtype)
    items = jax.tree.unflatten(tree, [leaf.astype(work) for leaf in leaves])
    sides = []
    for name, own, weights in zip(("left", "right"), items, (a, b), strict=True):
        num = max(map(len, jax.tree.leaves(own)))
        if weights is None:
            weights = jnp.full_like(jax.tree.leaves(own)[0], 1 / num, shape=(num,))
        weights = _checks.as_float(f"{name}_weights", weights).astype(work)
        _checks.check_signed_weights(f"{name}_weights", weights, num, positive=positive)
        sides.append(Side(own, weights))
    first = jax.tree.map(lambda leaf: leaf[0], items)
    _checks.check_log_kernel(jnp.shape(jax.eval_shape(log_kernel, *first)))
    return (sides[0], sides[1]), dtype


def sum_of_pairs(log_kernel: Kernel, left: Side, right: Side) -> Array:
    """`pair_sum` of what has been checked."""
    return _sum(log_kernel, False, left, right)


def log_sum_of_pairs(log_kernel: Kernel, left: Side, right: Side) -> Array:
    """`log_pair_sum` of what has been checked."""
    return _sum(log_kernel, True, left, right)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sum(log_kernel: Kernel, is_log: bool, left: Side, right: Side) -> Array:
    num_blocks = _num_blocks(left, right)
    if num_blocks == 1:
        value, shift = _scaled(log_kernel, is_log, left, right)
        return jnp.log(value) + shift if is_log else value
    is_own = jax.tree.map(lambda leaf: len(leaf) == len(left.weights), left)
    rows, shared = eqx.partition(left, is_own)
    return _in_blocks(log_kernel, is_log, num_blocks, rows, (shared, right))


def _num_blocks(left: Side, right: Side) -> int:
    """How many blocks of rows there are; one, if the whole is a tile."""
    leaves = jax.tree.leaves((left.items, right.items))
    size = max(leaf.size // len(leaf) for leaf in leaves)
    pairs = _TILE if jax.default_backend() == "cpu" else _TILE * _GROWTH
    if size > _SMALL:
        pairs = pairs // size
    rows = max(1, pairs // len(right.weights))
    return -(-len(left.weights) // rows)


def _scaled(
    log_kernel: Kernel, is_log: bool, left: Side, right: Side
) -> tuple[Array, Array]:
    """S and a shift with sum = S exp(shift), of one tile; the shift is a constant."""
    logs = _tile(log_kernel, left, right)
    if not is_log:
        value = _bilinear(left.weights, jnp.exp(logs), right.weights)
        return value, jnp.zeros_like(value)
    # A weight w is (w / c) exp(log c) with the constant c = w: a product that does not
    # underflow. Where w = 0, c is 1, and the derivative in the weight is right too.
    (a, log_a), (b, log_b) = _ratio(left.weights), _ratio(right.weights)
    logs = logs + log_a[:, None] + log_b[None, :]
    counts = (left.weights > 0)[:, None] & (right.weights > 0)[None, :]
    info = jnp.finfo(logs.dtype)
    lowest = float(info.min) / 2
    shift = jnp.max(jnp.where(counts | jnp.isnan(logs), logs, lowest))
    shift = lax.stop_gradient(jnp.maximum(shift, lowest))
    # only items without weight can be above, and zero times infinity would be NaN
    most = math.log(float(info.max)) / 4
    return _bilinear(a, jnp.exp(jnp.minimum(logs - shift, most)), b), shift


def _ratio(weights: Array) -> tuple[Array, Array]:
    constant = lax.stop_gradient(jnp.where(weights > 0, weights, 1))
    return weights / constant, jnp.log(constant)


def _bilinear(a: Array, kernel: Array, b: Array) -> Array:
    product = functools.partial(jnp.matmul, precision="highest")
    return product(a, product(kernel, b))


def _tile(log_kernel: Kernel, left: Side, right: Side) -> Array:
    """The log-kernel of all pairs of items."""

    def split(side: Side) -> tuple[Any, Any]:
        num = len(side.weights)
        own = jax.tree.map(lambda leaf: leaf if len(leaf) == num else leaf[0], side[0])
        return own, jax.tree.map(lambda x: 0 if len(x) == num else None, side[0])

    (left_items, rows), (right_items, columns) = split(left), split(right)
    one_row = jax.vmap(log_kernel, (None, columns))
    return jax.vmap(one_row, (rows, None))(left_items, right_items)


# --- many tiles --------------------------------------------------------------------


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _in_blocks(
    log_kernel: Kernel, is_log: bool, num_blocks: int, rows: Side, rest: Any
) -> Array:
    """The sum, one block of rows after the other."""

    def step(_: None, block: Side) -> tuple[None, tuple[Array, Array]]:
        return None, _scaled(log_kernel, is_log, *_joined(block, rest))

    values, shifts = lax.scan(step, None, _blocks(rows, num_blocks))[1]
    if not is_log:
        return _long_sum(values)
    shift = lax.stop_gradient(jnp.max(shifts))
    return jnp.log(_long_sum(values * jnp.exp(shifts - shift))) + shift


@functools.partial(_in_blocks.defjvp, symbolic_zeros=True)
def _in_blocks_jvp(
    log_kernel: Kernel, is_log: bool, num_blocks: int, primals: tuple, tangents: tuple
) -> tuple[Array, Array]:
    """The gradient, summed over the blocks next to the value, times the tangents.

    Plain reverse mode would keep all tiles, or compute each twice. The tangent is
    linear in the tangents of the inputs, with coefficients that are known at once, so
    reverse mode scales the gradient and that is all. The rule is itself differentiated
    by recomputing the tiles.
    """
    primals = varying_alike(primals)
    moves = jax.tree.map(lambda dot: not isinstance(dot, SymbolicZero), tangents)
    moving, still = eqx.partition(primals, moves)
    dots = eqx.filter(tangents, moves)

    def value_of(moving: Any, still: Any) -> tuple[Array, Array]:
        return _scaled(log_kernel, is_log, *_joined(*eqx.combine(moving, still)))

    def add(carry: tuple, blocks: tuple) -> tuple[tuple, tuple]:
        shift, total, lost = carry
        (value, own_shift), (slope, rest_slope) = jax.value_and_grad(
            value_of, has_aux=True
        )((blocks[0], moving[1]), (blocks[1], still[1]))
        new = (value, rest_slope)
        if is_log:
            greater = lax.stop_gradient(jnp.maximum(shift, own_shift))
            keep, take = jnp.exp(shift - greater), jnp.exp(own_shift - greater)
            total, lost = (jax.tree.map(lambda x: keep * x, t) for t in (total, lost))
            new = jax.tree.map(lambda x: take * x, new)
            shift = greater
        total, lost = _add(total, lost, new)
        return (shift, total, lost), (slope, own_shift)

    zero = jnp.zeros_like(primals[0].weights, shape=())
    start = (zero, jax.tree.map(jnp.zeros_like, moving[1]))
    lowest = zero + float(jnp.finfo(zero.dtype).min) / 2 if is_log else zero
    # two checkpoints, because each reverse differentiation uses one up
    run = jax.checkpoint(functools.partial(lax.scan, jax.checkpoint(add)))
    (shift, (value, rest_slope), _), (slope, shifts) = run(
        (lowest, start, jax.tree.map(jnp.zeros_like, start)),
        (_blocks(moving[0], num_blocks), _blocks(still[0], num_blocks)),
    )
    if is_log:
        scale = jnp.exp(shifts - shift)
        slope = jax.vmap(lambda c, s: jax.tree.map(lambda x: c * x, s))(scale, slope)
    dots = (_blocks(dots[0], num_blocks), dots[1])
    inner = functools.partial(jnp.vdot, precision="highest")
    products = jax.tree.leaves(jax.tree.map(inner, (slope, rest_slope), dots))
    tangent = sum(products, jnp.zeros_like(value))
    if is_log:
        return jnp.log(value) + shift, tangent / value
    return value, tangent


def _joined(rows: Side, rest: tuple[Side, Side]) -> tuple[Side, Side]:
    """Both sides, from the rows of the left one and all else."""
    return eqx.combine(rows, rest[0]), rest[1]


def _blocks(rows: Side, num_blocks: int) -> Side:
    """Every `num_blocks`-th row together, filled up with rows that weigh nothing.

    Blocks of neighbours would do, but these spread over the devices that hold the rows.
    """

    def split(leaf: Array, *, repeat: bool) -> Array:
        size = -(-len(leaf) // num_blocks)
        missing = num_blocks * size - len(leaf)
        if missing:
            rest = jnp.repeat(leaf[:1], missing, axis=0)
            leaf = jnp.concatenate([leaf, rest if repeat else 0 * rest])
        return leaf.reshape(size, num_blocks, *leaf.shape[1:]).swapaxes(0, 1)

    return Side(
        jax.tree.map(functools.partial(split, repeat=True), rows.items),
        jax.tree.map(functools.partial(split, repeat=False), rows.weights),
    )


def _add(total: Any, lost: Any, new: Any) -> tuple[Any, Any]:
    """`total` + `new`, and what rounding has lost so far, after Kahan."""
    new = jax.tree.map(jnp.subtract, new, lost)
    result = jax.tree.map(jnp.add, total, new)
    lost = jax.tree.map(lambda t, r, n: (r - t) - n, total, result, new)
    return result, lost


def _long_sum(values: Array) -> Array:
    """The sum of many values, as exact as that of few."""
    zero = jnp.zeros_like(values[0])
    return lax.scan(lambda c, x: (_add(*c, x), None), (zero, zero), values)[0][0]
