"""What a registration is given: two clouds, and the numbers of each level."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from transportjax.maps.normals import unit

from .frames import Frame
from .free_space import View, view_of


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
    optimiser: Any


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
