"""The abstract class of all maps, and the rule for the dtype they compute in."""

import abc
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec, auto_axes
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks

M = TypeVar("M", bound="AbstractBijection")


class AbstractBijection(eqx.Module):
    """An invertible map of one event: a number, or a vector of shape `(d,)`.

    Many events are mapped by `jax.vmap(map)(x)`. A map is a pytree whose leaves are all
    arrays: it can be jitted, differentiated with respect to its leaves, trained with
    optax, sharded, and written to a file (`save`).

    A new map defines the two methods below; `map(x)` and `map.inverse(y)` follow, and
    what they do not need of a log-determinant is removed by the compiler.

    dtype: the result has the dtype of the event. Integers, bools and python numbers
    take the dtype of the map. The computation runs in the widest of the dtypes of the
    event and of the leaves, and in float32 at least: a float32 map of float64 events
    computes in float64, and float16 events are rounded once, at the end.
    """

    @abc.abstractmethod
    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """The image y = T(x) and log |det dT/dx|, a scalar."""

    @abc.abstractmethod
    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """The event x = T^-1(y) and log |det dT^-1/dy|, a scalar."""

    def __call__(self, x: ArrayLike) -> Float[Array, "*event"]:
        """The image T(x) of one event."""
        return self.transform_and_log_det(x)[0]

    def inverse(self, y: ArrayLike) -> Float[Array, "*event"]:
        """The event x with T(x) = y."""
        return self.inverse_and_log_det(y)[0]

    def astype(self: M, dtype: Any) -> M:
        """The same map with its floating-point leaves in `dtype`."""
        return _cast(self, _checks.as_float_dtype(dtype))


def evaluate(
    method: Callable[[M, Array], tuple[Array, Array]],
    bijection: M,
    event: ArrayLike,
    shape: tuple[int, ...] | None = None,
) -> tuple[Array, Array]:
    """`method(bijection, event)`, with the event checked and the dtypes made one.

    Every map calls its private methods through here, which see floating-point events
    of shape `shape` (None: not checked) and leaves of the same dtype.
    """
    x = _checks.as_float("x", event)
    if shape is not None:
        _checks.check_event("x", x, shape)
    own = [leaf.dtype for leaf in jax.tree.leaves(bijection) if _is_float(leaf)]
    is_strong = _is_float(event) and not getattr(event, "weak_type", False)
    result_dtype = x.dtype if is_strong or not own else _widest(own)
    wide = _widest([jnp.dtype("float32"), result_dtype, *own])
    apply = _on_explicit_axes(_compiled(method), x)
    value, log_det = apply(_cast(bijection, wide), x.astype(wide))
    return value.astype(result_dtype), log_det.astype(result_dtype)


@functools.cache
def _compiled(method: Callable[[M, Array], tuple[Array, Array]]) -> Any:
    """`method` as one program: called outside of `jit` it is compiled once, not always.

    Each call of a loop such as `lax.scan` would be a new one to the compiler.
    """
    return eqx.filter_jit(method)


def zero_log_det(x: Array) -> Array:
    """A scalar zero with the dtype and, in `shard_map`, the varying axes of `x`."""
    return jnp.sum(jnp.zeros_like(x))


def as_leaf(x: Any) -> Array:
    """`x` as a leaf: a floating-point JAX array, whose dtype is not a weak one."""
    x = _checks.as_float("a leaf of a map", x)
    return jnp.array(x, dtype=x.dtype)  # a copy: in `vmap`, x can hide a numpy array


def at_least_float32(*arrays: Array) -> tuple[Array, ...]:
    """The arrays, half precision widened: so the leaves of fitted maps are kept."""
    return tuple(a.astype("float32") if a.dtype.itemsize < 4 else a for a in arrays)


def _on_explicit_axes(
    method: Callable[[M, Array], tuple[Array, Array]], x: Array
) -> Callable[[M, Array], tuple[Array, Array]]:
    """`method`; for an event on a mesh with explicit axes, these are made automatic.

    Lookups in tables raise there. The axis of events that `vmap` hides keeps its
    sharding, an axis of the event itself loses it.
    """
    mesh = jax.typeof(x).sharding.mesh
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    explicit = tuple(name for name, kind in kinds if kind is AxisType.Explicit)
    if not explicit:
        return method
    replicated = NamedSharding(mesh, PartitionSpec())
    out_sharding = (replicated, replicated)
    return auto_axes(method, axes=explicit, out_sharding=out_sharding)  # pyright: ignore


def _is_float(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)


def _widest(dtypes: list[Any]) -> Any:
    return max(dtypes, key=lambda dtype: dtype.itemsize)


def _cast(tree: M, dtype: Any) -> M:
    """`tree` with its floating-point leaves in `dtype`; no work where they are."""
    return jax.tree.map(
        lambda a: a.astype(dtype) if _is_float(a) and a.dtype != dtype else a, tree
    )
