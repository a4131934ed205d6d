"""What functions need to run on many devices.

On a mesh with explicit axes (what `jax.make_mesh` gives by default) `sort`, `cumsum`,
`searchsorted` and thirty more operations raise. A guarded function hands its arguments
to the compiler's own propagation (`jax.sharding.auto_axes`) there, and is called as it
is everywhere else.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.core
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec, auto_axes

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


def _explicit_mesh(args: Any) -> Any:
    """The mesh with explicit axes that some array in `args` lives on, or None."""
    for leaf in jax.tree.leaves(args):
        if not isinstance(leaf, jax.Array):
            continue
        sharding = getattr(jax.typeof(leaf), "sharding", None)
        if sharding is None or sharding.mesh.empty:
            continue
        # in a trace one without a sharded axis may be an entry of a `vmap`
        is_placed = not isinstance(leaf, jax.core.Tracer) or any(
            axis is not None for axis in sharding.spec
        )
        mesh = sharding.mesh
        if is_placed and not (mesh.are_all_axes_auto or mesh.are_all_axes_manual):
            return mesh
    return None


def _on_one_mesh(arrays: list[jax.Array]) -> list[jax.Array]:
    """Arrays on one device put on the mesh of the others, if it is known.

    What depends on them alone could not be placed there otherwise.
    """
    if any(isinstance(array, jax.core.Tracer) for array in arrays):
        return arrays
    place = next(filter(None, map(everywhere, arrays)), None)
    if place is None:
        return arrays
    return [
        array if len(array.devices()) > 1 else jax.device_put(array, place)
        for array in arrays
    ]


def explicit_mesh_guard(function: F) -> F:
    """`function`, made to work with arrays on explicit axes; its output is replicated.

    Array arguments may be positional or keywords; everything else passes through.
    """

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        mesh = _explicit_mesh((args, kwargs))
        if mesh is None:
            return function(*args, **kwargs)
        leaves, tree = jax.tree.flatten((args, kwargs))
        is_array = [isinstance(leaf, jax.Array) for leaf in leaves]

        def call(*arrays: Any) -> Any:
            supply = iter(arrays)
            merged = [
                next(supply) if array else leaf
                for leaf, array in zip(leaves, is_array, strict=True)
            ]
            inner_args, inner_kwargs = jax.tree.unflatten(tree, merged)
            return function(*inner_args, **inner_kwargs)

        arrays = [leaf for leaf, array in zip(leaves, is_array, strict=True) if array]
        replicated = NamedSharding(mesh, PartitionSpec())
        run = auto_axes(call, axes=mesh.axis_names, out_sharding=replicated)
        return run(*_on_one_mesh(arrays))

    return guarded  # pyright: ignore[reportReturnType]


def everywhere(x: Any) -> jax.sharding.Sharding | None:
    """The placement on all devices of `x`; None for one, to bind nothing to it."""
    if not isinstance(x, jax.Array) or len(x.devices()) < 2:
        return None
    if isinstance(x.sharding, NamedSharding):
        return NamedSharding(x.sharding.mesh, PartitionSpec())
    return x.sharding


def varying_alike(tree: T) -> T:
    """In `shard_map`, the arrays of a tree all varying over the same mesh axes.

    Otherwise the gradient in an array that is the same everywhere would be summed over
    the devices at once, although the value is not.
    """
    signs = [array.reshape(-1)[0] < 0 for array in jax.tree.leaves(tree)]
    zero = functools.reduce(jnp.logical_or, signs) & False
    return jax.tree.map(lambda array: array + zero.astype(array.dtype), tree)
