"""Exact order statistics without a sort, by counting; also over many devices."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import as_float, check_ranks, check_samples
from transportjax._sharding import explicit_mesh_guard

_DIGIT = 8  # bits of the key that one pass settles


@explicit_mesh_guard
def order_statistics(
    x: ArrayLike, ranks: ArrayLike, *, axis_name: Any = None
) -> Float[Array, "*shape"]:
    """The samples of given ranks in ascending order, exactly, in units of `x`.

    The samples are never sorted and never moved: a histogram of the leading 8 bits of
    their order-preserving integer keys tells which 256th part of the numbers holds each
    rank, the next histogram refines that, and after 4 passes (2 for half, 8 for double
    precision) the number is known to the last bit. Counts are integers, so every
    partition over devices gives the same bits. On one device a sort is as fast from
    some 16 ranks on.

    Differentiable in `x`: an order statistic moves with its sample; where samples tie,
    with the mean of them.

    Args:
        x: finite samples, (..., n).
        ranks: integers, 0 for the least sample, n - 1 for the greatest: a scalar or
            (k,), shared by all rows, in any order. Counts have their dtype: 32 bits
            serve fewer than 2^31 samples in all.
        axis_name: inside of `jax.shard_map`, the mesh axis or axes over which the
            samples are divided. `x` is then one device's part, `ranks` refer to the
            whole, and the result is the same on all devices. Only histograms are sent:
            k x 256 integers a pass.

    Returns:
        The order statistics: the leading axes of `x`, then k.

    Raises:
        ValueError: empty, NaN or infinite samples, ranks that are no integers or not in
            0 ... n - 1. A compiled program clamps such ranks instead.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.onedim import order_statistics
        >>> x = jnp.array([0.5, -1.0, 7.0, 2.0])
        >>> print(order_statistics(x, jnp.array([0, 3])))
        [-1.  7.]

    References:
        Blum, Floyd, Pratt, Rivest and Tarjan, 1973, "Time bounds for selection", for
        the problem; the method is a radix sort that keeps only the digits it needs.
    """
    x, ranks = as_float("x", x), jnp.asarray(ranks)
    check_samples("x", x)
    n = x.shape[-1] * (1 if axis_name is None else lax.axis_size(axis_name))
    check_ranks("ranks", ranks, n)
    ranks = ranks if ranks.dtype.itemsize > 4 else ranks.astype(jnp.int32)
    wanted = jnp.clip(ranks.reshape(-1), 0, n - 1)
    rows = x.reshape(-1, x.shape[-1])
    return _select_rows(rows, wanted, axis_name).reshape(*x.shape[:-1], *ranks.shape)


@functools.partial(jax.jit, static_argnames="axis_name")
def _select_rows(rows: Array, ranks: Array, axis_name: Any) -> Array:
    return jax.vmap(lambda row: _select(row, ranks, axis_name))(rows)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _select(x: Array, ranks: Array, axis_name: Any) -> Array:
    """Order statistics of one row."""
    keys = _to_key(x)
    return _from_key(_select_keys(keys, ranks, axis_name), x.dtype)


@_select.defjvp
def _select_jvp(axis_name: Any, primals: tuple, tangents: tuple) -> tuple:
    # x_(r) is the sample of equal key, and ranks are constant; of tied samples, whose
    # order is arbitrary, the mean.
    x, ranks = primals
    found = _select(x, ranks, axis_name)
    keys, wanted = _to_key(x), _to_key(lax.stop_gradient(found))
    sorted_keys = jnp.sort(wanted)
    slot = jnp.clip(jnp.searchsorted(sorted_keys, keys), 0, wanted.size - 1)
    hit = sorted_keys[slot] == keys
    empty = jnp.zeros(wanted.shape, x.dtype)
    moved = empty.at[slot].add(jnp.where(hit, tangents[0], 0))
    count = empty.at[slot].add(hit.astype(x.dtype))
    if axis_name is not None:
        moved, count = lax.psum((moved, count), axis_name)
    slot = jnp.searchsorted(sorted_keys, wanted)
    return found, moved[slot] / jnp.maximum(count[slot], 1)


def _select_keys(keys: Array, ranks: Array, axis_name: Any) -> Array:
    """The keys of given ranks among unsigned integers."""
    bits = keys.dtype.itemsize * 8
    order = jnp.argsort(ranks)
    remaining = ranks[order]  # ascending, so that known leading digits ascend too
    known = jnp.zeros(ranks.shape, keys.dtype)
    for low_bit in range(bits - _DIGIT, -1, -_DIGIT):
        counts = _count_digits(keys, known, low_bit, ranks.dtype)
        if axis_name is not None:
            counts = lax.psum(counts, axis_name)
        counts = counts[jnp.searchsorted(known, known)]  # equal ones share a row
        upto = jnp.cumsum(counts, axis=-1, dtype=ranks.dtype)
        digit = jnp.sum((upto <= remaining[:, None]).astype(jnp.int32), axis=-1)
        before = jnp.where(digit > 0, _row_entries(upto, jnp.maximum(digit - 1, 0)), 0)
        remaining = remaining - before
        known = known | (digit.astype(keys.dtype) << low_bit)
    return jnp.zeros_like(known).at[order].set(known, unique_indices=True)


def _count_digits(keys: Array, known: Array, low_bit: int, dtype: Any) -> Array:
    """(k, 256) counts of the digit at `low_bit`, of the keys that begin as `known`.

    `known` ascends; where entries are equal the keys are counted for the first.
    """
    digit = (keys >> low_bit) & (2**_DIGIT - 1)
    leading = (keys >> low_bit) >> _DIGIT
    wanted = (known >> low_bit) >> _DIGIT
    slot = jnp.clip(jnp.searchsorted(wanted, leading), 0, known.size - 1)
    hit = wanted[slot] == leading
    empty = jnp.zeros((known.size, 2**_DIGIT), dtype)
    return empty.at[slot, digit.astype(jnp.int32)].add(hit.astype(dtype))


def _row_entries(table: Array, column: Array) -> Array:
    return jnp.take_along_axis(table, column[:, None], axis=-1)[:, 0]


def _to_key(x: Array) -> Array:
    """Unsigned integers in the order of the floats `x`; -0 comes before 0."""
    kind = jnp.dtype(f"uint{x.dtype.itemsize * 8}")
    bits = lax.bitcast_convert_type(x, kind)
    sign = jnp.asarray(1 << (kind.itemsize * 8 - 1), kind)
    return jnp.where(bits & sign, ~bits, bits | sign)


def _from_key(keys: Array, dtype: Any) -> Array:
    """The floats of given keys."""
    sign = jnp.asarray(1 << (keys.dtype.itemsize * 8 - 1), keys.dtype)
    bits = jnp.where(keys & sign, keys & ~sign, ~keys)
    return lax.bitcast_convert_type(bits, dtype)
