"""Rotations spread evenly, from which to start."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from transportjax.maps import Rigid, Similarity


def turned(map: Rigid | Similarity, num: int) -> Rigid | Similarity:
    """The map followed by `num` rotations about the image of the origin, stacked.

    The map itself is the first.

    References:
        Alexa (2022), Super-Fibonacci spirals: fast, low-discrepancy sampling of SO(3).
    """
    is_scaled = isinstance(map, Similarity)
    rigid = map.turn if is_scaled else map
    if rigid.rotation.ndim == 0:
        turns = 2 * math.pi * np.arange(num) / num
        followed = jnp.add
    else:
        turns, followed = spread_quaternions(num), quaternion_product

    def one(turn: Array) -> Rigid | Similarity:
        moved = Rigid(followed(turn, rigid.rotation), rigid.translation)
        return eqx.tree_at(lambda m: m.turn, map, moved) if is_scaled else moved

    return jax.vmap(one)(jnp.asarray(turns, rigid.rotation.dtype))


def spread_quaternions(num: int) -> np.ndarray:
    """`num` unit quaternions (x, y, z, w) all around, the identity first."""
    sqrt2, psi = math.sqrt(2), 1.533751168755204  # psi^4 = psi + 4
    steps = np.arange(num) + 0.5
    inner, outer = np.sqrt(steps / num), np.sqrt(1 - steps / num)
    one, two = 2 * np.pi * steps / sqrt2, 2 * np.pi * steps / psi
    spiral = np.stack(
        [
            inner * np.sin(one),
            inner * np.cos(one),
            outer * np.sin(two),
            outer * np.cos(two),
        ],
        axis=1,
    )
    back = spiral[0] * np.array([-1, -1, -1, 1])
    return np.stack(_product(spiral.T, back), axis=1)


def quaternion_product(
    left: Float[Array, "4"], right: Float[Array, "4"]
) -> Float[Array, "4"]:
    """The rotation `right` followed by `left`."""
    return jnp.stack(_product(left, right))


def _product(left: Array | np.ndarray, right: Array | np.ndarray) -> list:
    a, b, c, w = left
    x, y, z, v = right
    return [
        w * x + v * a + b * z - c * y,
        w * y + v * b + c * x - a * z,
        w * z + v * c + a * y - b * x,
        w * v - a * x - b * y - c * z,
    ]
