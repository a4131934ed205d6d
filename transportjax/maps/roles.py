"""Leaves with a part of their own: conditions that are put in, and constants."""

from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array

from transportjax import _checks

from .rotations import Cayley
from .sliced import SlicedMap
from .supports import SupportMap
from .tails import LogTails

T = TypeVar("T")

# What training must leave alone: rows that must stay orthonormal, bounds of the data.
_CONSTANTS: dict[type[eqx.Module], tuple[str, ...]] = {
    Cayley: ("base",),
    LogTails: ("threshold",),
    SlicedMap: ("directions",),
    SupportMap: ("low", "high"),
}


def given(map: T, condition: ArrayLike) -> T:
    """The map, or model, with all its conditional layers under one condition.

    A law that depends on a condition is a map for each: `given(map, c)(x)`, and for
    many pairs `jax.vmap(lambda x, c: given(map, c)(x))(x, c)`. A conditional layer is a
    module with a field `condition` that holds an array. Differentiable in the
    condition.

    Args:
        map: any map, or any pytree that holds some.
        condition: (c,).

    Returns:
        The same, with another condition.

    Raises:
        ValueError: a condition of another length, or a map that takes none.

    Example:
        >>> import jax.numpy as jnp, jax.random as jr
        >>> from transportjax.maps import AffineCoupling, given
        >>> layer = AffineCoupling.create(jr.key(0), 2, num_conditions=3)
        >>> print(given(layer, jnp.ones(3)).condition)
        [1. 1. 1.]
    """
    _checks.check_takes_condition("map", takes_condition(map))
    parts, tree = jax.tree.flatten(map, is_leaf=_is_conditional)
    value = _checks.as_float("condition", condition)
    parts = [_given(part, value) if _is_conditional(part) else part for part in parts]
    return jax.tree.unflatten(tree, parts)


def takes_condition(map: Any) -> bool:
    """Whether a map, or model, has a conditional layer."""
    parts = jax.tree.leaves(map, is_leaf=_is_conditional)
    return any(_is_conditional(part) for part in parts)


def _is_conditional(x: Any) -> bool:
    return isinstance(x, eqx.Module) and eqx.is_array(getattr(x, "condition", None))


def _given(layer: Any, condition: Array) -> Any:
    held = layer.condition
    _checks.check_condition("condition", condition.shape, held.shape[-1])
    # a stack of layers has a stack of conditions
    condition = jnp.broadcast_to(condition.astype(held.dtype), held.shape)
    return eqx.tree_at(lambda layer: layer.condition, layer, condition)


def trainable_leaves(model: T) -> T:
    """Which leaves of a model training may move: True or False in place of each.

    True for floating-point arrays, but for those that a map needs as they are: the
    directions of `SlicedMap`, which must stay orthonormal, the base of `Cayley`, the
    bounds of `SupportMap`, the threshold of `LogTails`, and conditions. `minimise` and
    `maximum_likelihood` train what is True. In a loop of your own:

        moved, fixed = eqx.partition(model, trainable_leaves(model))

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import Cayley, trainable_leaves
        >>> marks = trainable_leaves(Cayley.around(jnp.eye(2)))
        >>> marks.base, marks.skew
        (False, True)
    """
    return jax.tree.map(_mark, model, is_leaf=_is_special)


def _is_special(x: Any) -> bool:
    return isinstance(x, tuple(_CONSTANTS)) or _is_conditional(x)


def _mark(x: Any) -> Any:
    if not _is_special(x):
        return eqx.is_inexact_array(x)
    constant = next((n for kind, n in _CONSTANTS.items() if isinstance(x, kind)), ())
    if _is_conditional(x):
        constant = (*constant, "condition")
    # what lies inside may hold special modules in turn
    marks = jax.tree.map(_mark, x, is_leaf=lambda y: y is not x and _is_special(y))
    return eqx.tree_at(
        lambda m: [getattr(m, name) for name in constant], marks, replace_fn=_never
    )


def _never(marks: Any) -> Any:
    return jax.tree.map(lambda _: False, marks)
