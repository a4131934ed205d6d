"""What a registration is given: two clouds, and the numbers of each level."""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportjax.maps.normals import unit

from .frames import Frame
from .free_space import View, view_of

_PROBES = 128  # points whose neighbours are looked for
_LEAST_LACK = 1e-6  # of one minus the cosine of neighbours' normals
_QUARTILE = -0.6745  # the lower one of a standard normal variable


class Cloud(NamedTuple):
    """Points, masses that sum to one, and what else is known of them."""

    points: Float[Array, "n d"]
    weights: Float[Array, " n"]
    normals: Float[Array, "n d"] | None
    viewpoint: Float[Array, "3"] | None = None


class Data(NamedTuple):
    """What the map is fitted to; the rows and columns are those of pairs, if any."""

    source: Cloud
    target: Cloud
    pairs: tuple[Array, Array] | None
    pair_weight: Float[Array, ""]  # zero without pairs
    views: tuple[View | None, View | None] = (None, None)


class Levels(NamedTuple):
    """One number a level each, coarse to fine."""

    bandwidths: Float[Array, " l"]
    concentrations: Float[Array, " l"]
    bending: Float[Array, " l"]


class Options(NamedTuple):
    """What is compiled in."""

    variant: str
    symmetric: bool
    pairs_only: bool
    centre: bool
    num_starts: int
    num_steps: int
    tolerance: float  # decrease of the objective, of its size, at which a level ends
    optimiser: Any


@jax.jit
def frame_of(source: Cloud, target: Cloud) -> Frame:
    """The centroids, and the radius of both clouds about their own."""
    middles = [cloud.weights @ cloud.points for cloud in (source, target)]
    squares = [
        cloud.weights @ jnp.sum((cloud.points - middle[None, :]) ** 2, axis=1)
        for cloud, middle in zip((source, target), middles, strict=True)
    ]
    return Frame(middles[0], middles[1], jnp.sqrt((squares[0] + squares[1]) / 2))


def normalised(data: Data, frame: Frame) -> Data:
    """Clouds about the origin with a radius of one, and what scanners saw."""

    def cloud(cloud: Cloud, centre: Array) -> Cloud:
        normals, eye = cloud.normals, cloud.viewpoint
        return Cloud(
            (cloud.points - centre[None, :]) / frame.scale,
            cloud.weights,
            None if normals is None else jax.vmap(unit)(normals),
            None if eye is None else (eye - centre) / frame.scale,
        )

    clouds = cloud(data.source, frame.source), cloud(data.target, frame.target)
    views = [
        None if c.viewpoint is None else view_of(c.points, c.weights, c.viewpoint)
        for c in clouds
    ]
    return Data(*clouds, data.pairs, data.pair_weight, (views[0], views[1]))


@eqx.filter_jit
def steadiness(source: Cloud, target: Cloud, *, symmetric: bool) -> Array:
    """The concentration of the normals of neighbours, about each other.

    It is the most that normals can say: what they differ by is noise, or as much of the
    curvature as the distance of the samples lets through. From quartiles of both
    clouds, so that strays and other sheets hardly count. With kappa about the inverse
    variance of an angle, 2 kappa (1 - cosine) is chi-squared, with d - 1 degrees of
    freedom; its quartile is by Wilson and Hilferty.
    """
    lacks = [_quartile_of_lacks(cloud, symmetric) for cloud in (source, target)]
    freedom = max(source.points.shape[1] - 1, 1)
    spread = 2 / (9 * freedom)
    quartile = freedom * (1 - spread + _QUARTILE * math.sqrt(spread)) ** 3
    return quartile / jnp.maximum(lacks[0] + lacks[1], _LEAST_LACK)


def _quartile_of_lacks(cloud: Cloud, symmetric: bool) -> Array:
    """Of one minus the cosines of normals of nearest points; zero for one point."""
    points, masses = cloud.points, cloud.weights
    normals = jax.vmap(unit)(jnp.asarray(cloud.normals))
    probes = jnp.arange(0, len(points), -(-len(points) // _PROBES))
    gaps = [column[probes, None] - column[None, :] for column in points.T]
    squares = jnp.asarray(sum(gap**2 for gap in gaps))
    # a repetition of a point is not another
    other = (squares > 0) & (masses > 0)[None, :]
    nearest = jnp.argmin(jnp.where(other, squares, jnp.inf), axis=1)
    cosines = jnp.sum(normals[probes] * normals[nearest], axis=1)
    cosines = jnp.abs(cosines) if symmetric else cosines
    counts = jnp.any(other, axis=1) & (masses[probes] > 0)
    lacks = jnp.where(counts, 1 - cosines, jnp.nan)
    return jnp.nan_to_num(jnp.nanquantile(lacks, 0.25))
