"""Functions that are written for many events, with the batch on the last axis."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

_lanes_p = Primitive("lanes")
_lanes_p.multiple_results = True


def lanes(function: Callable[..., Any], shared: Any, *events: Array) -> Any:
    """`function(shared, *events)` of one event; of all events at once under `vmap`.

    `function` gets events, and returns arrays, with one more axis, the last: the batch.
    There vector instructions run along it, and products of matrices have the form that
    is quickest on CPUs. What `vmap` makes of a function of one event has it in front.

    Differentiable as often as `function`. Under a `vmap` over `shared`, and in
    derivatives of one event, the batch has length one.

    Args:
        function: of `shared` and arrays (..., n); returns a pytree of arrays (..., n).
        shared: a pytree of arrays that all events have in common.
        events: arrays (...).
    """
    leaves, tree = jax.tree.flatten(shared)
    outputs = []

    def flat(*arrays: Any) -> list[Array]:
        own = jax.tree.unflatten(tree, arrays[: len(leaves)])
        values, output = jax.tree.flatten(function(own, *arrays[len(leaves) :]))
        outputs.append(output)
        return values

    values = _lanes_p.bind(*leaves, *events, flat=flat, num_shared=len(leaves))
    return jax.tree.unflatten(outputs[0], values)


def _one(*arrays: Any, flat: Callable, num_shared: int) -> list[Array]:
    """A batch of one event."""
    events = [jnp.expand_dims(event, -1) for event in arrays[num_shared:]]
    values = flat(*arrays[:num_shared], *events)
    return [jnp.squeeze(value, -1) for value in values]


def _abstract(*avals: Any, **params: Any) -> Sequence[Any]:
    return jax.make_jaxpr(functools.partial(_one, **params))(*avals).out_avals


def _batch(
    arrays: Sequence[Any], axes: Sequence[int | None], **params: Any
) -> tuple[Sequence[Any], Sequence[int]]:
    shared = params["num_shared"]
    if any(axis is not None for axis in axes[:shared]):
        values = jax.vmap(functools.partial(_one, **params), tuple(axes))(*arrays)
        return values, [0] * len(values)
    pairs = zip(arrays[shared:], axes[shared:], strict=True)
    size = next(a.shape[axis] for a, axis in pairs if axis is not None)
    events = []
    for array, axis in zip(arrays[shared:], axes[shared:], strict=True):
        if axis is None:
            array = jnp.broadcast_to(jnp.expand_dims(array, -1), (*array.shape, size))
        else:
            # else XLA puts this transposition into a product, in a slow form of it
            array = jax.lax.optimization_barrier(jnp.moveaxis(array, axis, -1))
        events.append(array)
    values = params["flat"](*arrays[:shared], *events)
    return values, [value.ndim - 1 for value in values]


def _jvp(
    primals: Sequence[Any], tangents: Sequence[Any], **params: Any
) -> tuple[Sequence[Any], Sequence[Any]]:
    directions = tuple(ad.instantiate_zeros(tangent) for tangent in tangents)
    function = functools.partial(_one, **params)
    return jax.jvp(function, tuple(primals), directions)


_lanes_p.def_impl(_one)
_lanes_p.def_abstract_eval(_abstract)
mlir.register_lowering(_lanes_p, mlir.lower_fun(_one, multiple_results=True))
batching.primitive_batchers[_lanes_p] = _batch
ad.primitive_jvps[_lanes_p] = _jvp
