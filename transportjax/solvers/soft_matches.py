"""Which points of two clouds belong together, in shares, given where one has moved.

Each point of the source stands for a Gaussian around it, and target points are shared
among them and a uniform density of strays. With normals the Gaussians are discs, and
there is a von Mises-Fisher density around each normal besides.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from transportjax.mixtures.bessel import log_mass

from .clouds import Cloud

_BLOCK = 1 << 20  # pairs of points at a time
_THINNEST = 0.1  # side of the box of strays, of its longest


class Estimate(NamedTuple):
    """Where the source is, with what is estimated."""

    points: Float[Array, "n d"]
    normals: Float[Array, "n d"] | None
    leaves: Float[Array, "p d"]
    variance: Float[Array, ""]  # along the normals, if there are any
    flatness: Float[Array, ""]  # that variance, of the one across the normals
    concentration: Float[Array, ""]  # of the normals
    strays: Float[Array, ""]
    count: Array
    is_over: Array


class Sums(NamedTuple):
    """Sums over the target of shares of its points, for each source point."""

    masses: Float[Array, " n"]
    pulls: Float[Array, "n d"]  # share times difference
    squares: Float[Array, ""]  # share times squared difference, over all
    heights: Float[Array, ""]  # likewise, of the part along the normals
    lacks: Float[Array, ""]  # share times one minus the cosine of normals, over all
    fit: Float[Array, ""]  # logarithms of the density, at the estimates of the state


def stray_density(y: Cloud) -> Array:
    """One over the size of the box around the points that weigh."""
    weighs = (y.weights > 0)[:, None]
    low = jnp.min(jnp.where(weighs, y.points, jnp.inf), axis=0)
    high = jnp.max(jnp.where(weighs, y.points, -jnp.inf), axis=0)
    return 1 / jnp.prod(jnp.maximum(high - low, _THINNEST * jnp.max(high - low)))


def expectation(
    x: Cloud, y: Cloud, density: Array, *, symmetric: bool
) -> Callable[[Estimate], Sums]:
    """The expectations, in blocks of the target, given the density of strays."""
    num, dim = x.points.shape
    size = max(1, min(len(y.points), _BLOCK // num))
    blocks = -(-len(y.points) // size)

    def blocked(rows: Array) -> Array:
        pads = [(0, blocks * size - len(rows))] + [(0, 0)] * (rows.ndim - 1)
        return jnp.pad(rows, pads).reshape(blocks, size, *rows.shape[1:])

    rows = jax.tree.map(blocked, (y.points, y.weights, y.normals))

    def sums_of(state: Estimate) -> Sums:
        kernel = (2 * math.pi * state.variance) ** (-dim / 2)
        kernel = kernel * state.flatness ** ((dim - 1) / 2)
        kernel = kernel * _height_of_normals(state, dim)
        # of strays, next to a kernel of height one
        level = state.strays * density / ((1 - state.strays) * kernel)

        def block(sums: Sums, given: tuple) -> tuple[Sums, None]:
            points, masses, normals = given
            apart = [points[None, :, k] - state.points[:, None, k] for k in range(dim)]
            squares = jnp.asarray(sum(a**2 for a in apart))
            along = _squares_along(state, apart)
            size = state.flatness * squares + (1 - state.flatness) * along
            heights = x.weights[:, None] * jnp.exp(-size / (2 * state.variance))
            agreement, lacks = _agreement(state, normals, symmetric=symmetric)
            heights = heights * agreement
            total = jnp.sum(heights, axis=0) + level
            shares = heights * (masses / total)[None, :]
            new = Sums(
                jnp.sum(shares, axis=1),
                jnp.stack([jnp.sum(shares * a, axis=1) for a in apart], axis=1),
                jnp.sum(shares * squares),
                jnp.sum(shares * along),
                jnp.sum(shares * lacks),
                jnp.sum(masses * jnp.log((1 - state.strays) * kernel * total)),
            )
            return jax.tree.map(jnp.add, sums, new), None

        zero = 0 * state.points
        start = Sums(zero[:, 0], zero, *(4 * (zero[0, 0],)))
        return lax.scan(block, start, rows)[0]

    return sums_of


def _squares_along(state: Estimate, apart: list[Array]) -> Array:
    """The squares of differences, of their part along the normals."""
    if state.normals is None:
        return jnp.zeros_like(apart[0])
    parts = [n[:, None] * a for n, a in zip(state.normals.T, apart, strict=True)]
    return jnp.asarray(sum(parts)) ** 2


def _height_of_normals(state: Estimate, dim: int) -> Array | float:
    """The density of a normal at its mean, next to that of uniform ones."""
    if state.normals is None:
        return 1.0
    kappa = state.concentration
    return jnp.exp(log_mass(0 * kappa, dim) - log_mass(kappa, dim))


def _agreement(
    state: Estimate, normals: Array | None, *, symmetric: bool
) -> tuple[Array | float, Array | float]:
    """The density of normals next to its peak; one minus the cosine that is expected.

    Of symmetric ones, the sign is among what is expected.
    """
    if state.normals is None or normals is None:
        return 1.0, 0.0
    columns = range(normals.shape[1])
    parts = [normals[None, :, k] - state.normals[:, None, k] for k in columns]
    lacks = jnp.asarray(sum(p**2 for p in parts)) / 2
    kappa = state.concentration
    if not symmetric:
        return jnp.exp(-kappa * lacks), lacks
    lacks = jnp.minimum(lacks, 2 - lacks)
    turned = jnp.exp(-2 * kappa * (1 - lacks))
    turns = turned / (1 + turned)
    lacks_of_sign = lacks + 2 * (1 - lacks) * turns
    return jnp.exp(-kappa * lacks) * (1 + turned) / 2, lacks_of_sign
