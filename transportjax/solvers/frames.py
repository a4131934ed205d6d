"""Maps in other units: as they act on points that are centred and scaled."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportjax.maps import (
    AbstractBijection,
    AbstractWarp,
    Affine,
    Chain,
    GaussianWarp,
    Rigid,
    Similarity,
    ThinPlateSpline,
)


class Frame(NamedTuple):
    """Source points x are seen as (x - source) / scale, targets likewise."""

    source: Float[Array, " d"]
    target: Float[Array, " d"]
    scale: Float[Array, ""]


def enter(map: AbstractBijection, frame: Frame) -> AbstractBijection:
    """The map of normalised points: (map(source + scale x) - target) / scale.

    Of the same class where the class has such maps, or else a chain of three.
    """
    if isinstance(map, Rigid | Similarity | Affine | AbstractWarp):
        return _rescale(map, frame)
    eye = jnp.eye(frame.source.shape[0], dtype=frame.source.dtype)
    inside = Affine(eye * frame.scale, frame.source)
    outside = Affine(eye / frame.scale, -frame.target / frame.scale)
    return Chain((inside, map, outside))


def leave(map: AbstractBijection, frame: Frame) -> AbstractBijection:
    """The map of which `enter` made `map`."""
    if isinstance(map, Chain):
        return map.maps[1]
    source, target, scale = frame
    return _rescale(map, Frame(-source / scale, -target / scale, 1 / scale))


def _rescale(map: Any, frame: Frame) -> AbstractBijection:
    source, target, scale = frame
    matrix = map.matrix
    image = jnp.matmul(matrix, source, precision="highest")
    if isinstance(map, Rigid):
        return Rigid(map.rotation, (image + map.translation - target) / scale)
    if isinstance(map, Similarity):
        turn = Rigid(map.turn.rotation, (image + map.translation - target) / scale)
        return Similarity(turn, map.log_scale)
    if isinstance(map, Affine):
        return Affine(matrix, (image + map.offset - target) / scale)
    shift = (image + map.shift - target) / scale
    controls = (map.controls - source[None, :]) / scale
    if isinstance(map, GaussianWarp):
        bumps, width = map.coefficients / scale, map.log_width - jnp.log(scale)
        return GaussianWarp(controls, matrix, shift, bumps, width)
    if source.shape[0] == 3:  # f(s r) = s f(r)
        return ThinPlateSpline(controls, matrix, shift, map.coefficients)
    # f(s r) = s^2 f(r) + s^2 r^2 log s. By the side conditions on the weights w_j, the
    # sum of w_j |x - c_j|^2 is constant in x: that of w_j |c_j|^2.
    squares = jnp.sum(controls**2, axis=1)
    constant = jnp.matmul(squares, map.bumps, precision="highest")
    shift = shift + scale * jnp.log(scale) * constant
    return ThinPlateSpline(controls, matrix, shift, map.coefficients * scale)


def free_leaves(map: AbstractBijection) -> Any:
    """Which leaves of an entered map are fitted: not control points, nor widths."""
    spec = jax.tree.map(eqx.is_inexact_array, map)
    if isinstance(map, AbstractWarp):
        spec = eqx.tree_at(lambda warp: warp.controls, spec, False)
    if isinstance(map, GaussianWarp):
        spec = eqx.tree_at(lambda warp: warp.log_width, spec, False)
    if isinstance(map, Chain):
        inside, _, outside = jax.tree.map(lambda _: False, map.maps)
        spec = eqx.tree_at(lambda m: (m.maps[0], m.maps[2]), spec, (inside, outside))
    return spec


def is_linear(map: AbstractBijection) -> bool:
    """Whether images are affine functions of the free leaves."""
    return isinstance(map, Affine | AbstractWarp)


def with_mean_at(
    map: AbstractBijection, mean: Float[Array, " d"], goal: Float[Array, " d"]
) -> AbstractBijection:
    """The map followed by the translation that takes `mean` to `goal`."""
    for kind, where in (
        (Rigid, lambda m: m.translation),
        (Similarity, lambda m: m.turn.translation),
        (Affine, lambda m: m.offset),
        (AbstractWarp, lambda m: m.shift),
    ):
        if isinstance(map, kind):
            return eqx.tree_at(where, map, where(map) + goal - mean)
    return map
