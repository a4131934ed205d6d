"""The one door to sorting: sorted values, permutations and ranks along the last axis.

The compiler sorts floats slowly on a CPU: its order of floats (NaN last, -0 = 0) is a
compiled function, called once per comparison. Integers of the same order are compared
inline, four to five times faster. So every float is mapped to an integer key, a
sign-magnitude number turned into a two's complement one:

- the two zeros share the key 0, so they tie, and a sorted zero is +0;
- denormal numbers keep their order and their bits (`jnp.sort` treats them as equal);
- every NaN, of either sign, gets the largest key: NaN comes last.

To sort with a permutation, a CPU packs a key of 32 bits and its index in 64 bits and
sorts those; keys of 64 bits take two such sorts, by the lower half and by the upper.
Other platforms sort pairs of an unsigned key and an index, which their library takes as
a radix sort. All sorts are stable. A CPU sorts by merging; it is handed runs of eight
that are sorted already, by minima and maxima of whole vectors, which saves another
tenth to fifth of the time.

Derivatives never pass through the sort primitive: the permutation is constant almost
everywhere, so a tangent is gathered by it, a cotangent is scattered back.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Int32, Num

from transportjax._checks import as_float, check_sortable
from transportjax._sharding import explicit_mesh_guard

# Sorts eight columns: pairs that are put in order, one after the other (Batcher, 1968,
# "Sorting networks and their applications").
_NETWORK = (
    *((0, 1), (2, 3), (4, 5), (6, 7), (0, 2), (1, 3), (4, 6), (5, 7), (1, 2), (5, 6)),
    *((0, 4), (1, 5), (2, 6), (3, 7), (2, 4), (3, 5), (1, 2), (3, 4), (5, 6)),
)


@explicit_mesh_guard
def sort(x: ArrayLike) -> Num[Array, "*batch n"]:
    """`x` in ascending order along its last axis; stable, NaN last.

    Differentiable in `x`: the tangent is permuted like `x`. Where entries of `x` tie
    the derivative is the one of a stable order.

    Args:
        x: any batch of sequences; floats, or integers, which stay integers.

    Returns:
        The sorted values, with the bits of the input, except that -0 becomes 0 and
        every NaN the same one.

    Raises:
        ValueError: `x` is a scalar, is complex, or is too long for 32-bit indices.

    Example:
        >>> from transportjax.onedim import sort
        >>> print(sort(jnp.array([3.0, 1.0, 2.0])))
        [1. 2. 3.]
    """
    return _sort(_sortable(x))


@explicit_mesh_guard
def argsort(x: ArrayLike) -> Int32[Array, "*batch n"]:
    """The stable permutation that sorts `x` along its last axis; NaN last.

    Constant almost everywhere: its derivative is zero.

    Args:
        x: any batch of sequences; floats or integers.

    Returns:
        32-bit indices: `x[permutation]` is sorted.

    Raises:
        ValueError: `x` is a scalar, is complex, or is too long for 32-bit indices.

    Example:
        >>> from transportjax.onedim import argsort
        >>> print(argsort(jnp.array([3.0, 1.0, 2.0])))
        [1 2 0]
    """
    return _sort_pairs(lax.stop_gradient(_sortable(x)))[1]


@explicit_mesh_guard
def sort_with_permutation(
    x: ArrayLike,
) -> tuple[Num[Array, "*batch n"], Int32[Array, "*batch n"]]:
    """`x` in ascending order along its last axis, and the permutation, by one sort.

    Differentiable in `x` like `sort`; the permutation is constant.

    Args:
        x: any batch of sequences; floats, or integers, which stay integers.

    Returns:
        The values of `sort(x)` and the indices of `argsort(x)`.

    Raises:
        ValueError: `x` is a scalar, is complex, or is too long for 32-bit indices.

    Example:
        >>> from transportjax.onedim import sort_with_permutation
        >>> values, permutation = sort_with_permutation(jnp.array([3.0, 1.0, 2.0]))
        >>> print(values, permutation)
        [1. 2. 3.] [1 2 0]
    """
    return _sort_with_permutation(_sortable(x))


@explicit_mesh_guard
def ranks(x: ArrayLike) -> Int32[Array, "*batch n"]:
    """The place that each entry of `x` takes in the stable order of the last axis.

    The inverse of the permutation `argsort(x)`; ties are ranked by their index. Its
    derivative is zero.

    Args:
        x: any batch of sequences; floats or integers.

    Returns:
        32-bit ranks from 0 to n - 1.

    Raises:
        ValueError: `x` is a scalar, is complex, or is too long for 32-bit indices.

    Example:
        >>> from transportjax.onedim import ranks
        >>> print(ranks(jnp.array([30.0, 10.0, 20.0])))
        [2 0 1]
    """
    permutation = argsort(x)
    places = lax.broadcasted_iota(jnp.int32, permutation.shape, permutation.ndim - 1)
    return unpermute(places, permutation)


def permute(x: Num[Array, "*batch n"], permutation: Int32[Array, "*batch n"]) -> Array:
    """`x[permutation]` along the last axis.

    The indices are promised to be a permutation, so that the transpose, `unpermute`, is
    a scatter without collisions.
    """
    return _permute(x, permutation)


def unpermute(
    x: Num[Array, "*batch n"], permutation: Int32[Array, "*batch n"]
) -> Array:
    """The inverse of `permute`: puts entry i of `x` at place `permutation[i]`."""
    return _unpermute(x, permutation)


@functools.partial(jnp.vectorize, signature="(n),(n)->(n)")
def _permute(x: Array, permutation: Array) -> Array:
    return x.at[permutation].get(mode="promise_in_bounds", unique_indices=True)


@functools.partial(jnp.vectorize, signature="(n),(n)->(n)")
def _unpermute(x: Array, permutation: Array) -> Array:
    empty = (permutation * 0).astype(x.dtype)  # varies over a mesh as the output does
    return empty.at[permutation].set(x, mode="promise_in_bounds", unique_indices=True)


def _sortable(x: ArrayLike) -> Array:
    """`x` as an array of integers or floats that has a last axis."""
    if isinstance(x, Array | np.ndarray) and jnp.issubdtype(x.dtype, jnp.integer):
        values = jnp.asarray(x)
    else:
        values = as_float("x", x)
    check_sortable("x", values)
    return values


@jax.custom_jvp
@jax.jit
def _sort(x: Array) -> Array:
    """Sorted values; without the permutation, as long as nobody differentiates."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return lax.sort(x)
    keys = lax.platform_dependent(
        _to_key(x),
        cpu=_merge_sort,
        default=lambda keys: _signed(lax.sort(_unsigned(keys))),
    )
    return _from_key(keys, x.dtype)


@_sort.defjvp
def _sort_jvp(primals: tuple, tangents: tuple) -> tuple:
    # x_(i) = x[permutation[i]], and the permutation is constant almost everywhere.
    values, permutation = _sort_with_permutation(*primals)
    return values, _permute(tangents[0], permutation)


def _sort_with_permutation(x: Array) -> tuple[Array, Array]:
    values, permutation = _sort_pairs(lax.stop_gradient(x))
    return _follow(x, values, permutation), permutation


@jax.custom_jvp
def _follow(x: Array, values: Array, permutation: Array) -> Array:
    """`values`, with the derivative of `x[permutation]`, which they are equal to."""
    del x, permutation
    return values


@_follow.defjvp
def _follow_jvp(primals: tuple, tangents: tuple) -> tuple:
    x, values, permutation = primals
    return _follow(x, values, permutation), _permute(tangents[0], permutation)


@jax.jit
def _sort_pairs(x: Array) -> tuple[Array, Array]:
    """Sorted values and the permutation; not differentiable."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return _with_index(x)
    keys, permutation = lax.platform_dependent(
        _to_key(x),
        cpu=_halves_with_index if x.dtype.itemsize > 4 else _packed_with_index,
        default=_unsigned_with_index,
    )
    return _from_key(keys, x.dtype), permutation


def _with_index(keys: Array) -> tuple[Array, Array]:
    index = lax.broadcasted_iota(jnp.int32, keys.shape, keys.ndim - 1)
    keys, permutation = lax.sort((keys, index), num_keys=1, is_stable=True)
    return keys, permutation


def _unsigned_with_index(keys: Array) -> tuple[Array, Array]:
    keys, permutation = _with_index(_unsigned(keys))
    return _signed(keys), permutation


def _packed_with_index(keys: Array) -> tuple[Array, Array]:
    """The same by one sort of 64-bit integers: key in the upper half, index below."""
    dtype = keys.dtype
    with jax.enable_x64(True):  # inside of this sort only
        index = lax.broadcasted_iota(jnp.int64, keys.shape, keys.ndim - 1)
        packed = _merge_sort((keys.astype(jnp.int64) << 32) | index)
        return (packed >> 32).astype(dtype), packed.astype(jnp.int32)


def _halves_with_index(keys: Array) -> tuple[Array, Array]:
    """The same for keys of 64 bits: sorts by the lower halves, then by the upper."""
    sign = jnp.iinfo(keys.dtype).min
    index = lax.broadcasted_iota(keys.dtype, keys.shape, keys.ndim - 1)
    lower = _merge_sort(((keys << 32) ^ sign) | index).astype(jnp.int32)
    upper = _permute(keys, lower) >> 32
    upper = _merge_sort((upper << 32) | index).astype(jnp.int32)
    permutation = _permute(lower, upper)
    return _permute(keys, permutation), permutation


def _merge_sort(keys: Array) -> Array:
    """Sorted integers; equal ones are not told apart."""
    num = keys.shape[-1] // 8
    columns = [keys[..., c * num : (c + 1) * num] for c in range(8)]
    for low, high in _NETWORK:
        pair = columns[low], columns[high]
        columns[low], columns[high] = jnp.minimum(*pair), jnp.maximum(*pair)
    runs = jnp.stack(columns, axis=-1).reshape(*keys.shape[:-1], 8 * num)
    return lax.sort(jnp.concatenate([runs, keys[..., 8 * num :]], axis=-1))


def _to_key(x: Array) -> Array:
    """Signed integers of the width of float `x` and of its order."""
    bits = lax.bitcast_convert_type(x, f"int{8 * x.dtype.itemsize}")
    sign = jnp.iinfo(bits.dtype).min
    infinity, nan = (_bits(v, x.dtype) for v in (np.inf, np.nan))
    magnitude = bits & ~sign
    key = jnp.where(bits < 0, -magnitude, magnitude)
    return jnp.where(magnitude > infinity, nan, key)


def _from_key(key: Array, dtype: jnp.dtype) -> Array:
    """The float of `dtype` whose key is `key`."""
    sign = jnp.iinfo(key.dtype).min
    return lax.bitcast_convert_type(jnp.where(key < 0, sign - key, key), dtype)


def _bits(value: float, dtype: jnp.dtype) -> int:
    """The bits of a number that is not negative."""
    return int(np.abs(np.asarray(value, dtype)).view(f"int{8 * dtype.itemsize}"))


def _unsigned(keys: Array) -> Array:
    """Signed keys as unsigned ones of the same order."""
    sign = jnp.iinfo(keys.dtype).min
    return lax.bitcast_convert_type(keys ^ sign, f"uint{8 * keys.dtype.itemsize}")


def _signed(keys: Array) -> Array:
    """The inverse of `_unsigned`."""
    keys = lax.bitcast_convert_type(keys, f"int{8 * keys.dtype.itemsize}")
    return keys ^ jnp.iinfo(keys.dtype).min
