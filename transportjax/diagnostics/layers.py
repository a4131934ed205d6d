"""What the layers of a map make of a cloud, one after another."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks
from transportjax.maps import AbstractBijection, Chain, ContinuousMap, Invert, Scan


def layer_outputs(map: AbstractBijection, x: ArrayLike) -> Float[Array, "l n d"]:
    """The cloud before the first layer of a map and after each of them.

    The layers are the maps of a `Chain`, taken apart as far as it goes, those of a
    `Scan`, the steps in time of a `ContinuousMap`, and those of an `Invert` in opposite
    order; any other map is one layer. What comes out goes into `step_costs`,
    `straightness`, `path_curvature` and `ricci_coefficients`.

    Differentiable like the map.

    Args:
        map: any map of events (d,): `solution.map`, `flow.map`, or `Invert(flow.map)`
            for the way from noise to data.
        x: points, (n, d).

    Returns:
        The clouds, (l + 1, n, d) for l layers; the last is the image of the map.

    Raises:
        ValueError: something that is no map; points of the wrong shape, NaN or
            infinite.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import transportjax as tj
        >>> from transportjax.diagnostics import layer_outputs
        >>> x = jnp.ones((100, 2))
        >>> shifts = jax.vmap(tj.Affine, (None, 0))(jnp.eye(2), jnp.ones((5, 2)))
        >>> clouds = layer_outputs(tj.Chain((tj.Scan(shifts), tj.Scan(shifts))), x)
        >>> print(clouds.shape, clouds[-1, 0])
        (11, 100, 2) [11. 11.]
    """
    _checks.check_bijection("map", map, AbstractBijection)
    x = _checks.as_float("x", x)
    _checks.check_points("x", x)
    return _layer_outputs(map, x)


@eqx.filter_jit
def _layer_outputs(map: AbstractBijection, x: Array) -> Array:
    places = jax.vmap(lambda point: _way(map, point))(x)
    return jnp.concatenate([x[:, None], places], axis=1).swapaxes(0, 1)


def _way(map: AbstractBijection, x: Array) -> Array:
    """The places of one point after each layer, (l, d)."""
    if isinstance(map, Chain):
        parts = []
        for part in map.maps:
            parts.append(_way(part, x))
            x = jnp.concatenate([x[None], parts[-1]])[-1]
        return jnp.concatenate([x[None][:0], *parts])
    if isinstance(map, Scan):
        return jax.lax.scan(lambda x, layer: _twice(layer(x)), x, map.layers)[1]
    if isinstance(map, ContinuousMap):
        return map.trajectory(map(x))[-2::-1]
    if isinstance(map, Invert):
        return _way_back(map.map, x)
    return map(x)[None]


def _way_back(map: AbstractBijection, y: Array) -> Array:
    """The places after each inverse of a layer, the last layer first."""
    if isinstance(map, Chain):
        return _way(Chain(Invert(part) for part in reversed(map.maps)), y)
    if isinstance(map, Scan):
        places = jax.lax.scan(
            lambda y, layer: _twice(layer.inverse(y)), y, map.layers, reverse=True
        )[1]
        return places[::-1]
    if isinstance(map, ContinuousMap):
        return map.trajectory(y)[1:]
    if isinstance(map, Invert):
        return _way(map.map, y)
    return map.inverse(y)[None]


def _twice(x: Array) -> tuple[Array, Array]:
    """What is carried on, and what is kept."""
    return x, x
