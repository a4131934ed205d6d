"""What a range scan says besides its points: that the space before them is empty.

A map under which points of one scan come to lie between the scanner and the surface of
the other, or beside its outline, is wrong, however well the rest agrees.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from transportjax.maps.normals import unit

INTRUSION = 2  # what all of a cloud in free space counts, in that of a full overlap

_LEAST, _MOST = 8, 128  # cells along an axis of the picture
_SLACK = 0.5  # cells that a point may stand out before it counts
_ASIDE = 0.4  # weight of what is beside the scan, where it may have had gaps
_NEAREST = 0.05  # to the eye, of the distance of the scan


class View(NamedTuple):
    """A picture of the distances of a scan, as the scanner saw it.

    Attributes:
        centre: the middle of the scan.
        axes: unit rows; the last one looks from the scanner to the centre.
        distance: from the scanner to the centre.
        low: corner of the picture, in the plane through the centre.
        step: length of a cell.
        depth: how far behind that plane the surface begins, in each cell.
        aside: how far a cell is from the nearest one that holds a point.
    """

    centre: Float[Array, "3"]
    axes: Float[Array, "3 3"]
    distance: Float[Array, ""]
    low: Float[Array, "2"]
    step: Float[Array, ""]
    depth: Float[Array, "g g"]
    aside: Float[Array, "g g"]


def view_of(
    points: Float[Array, "n 3"], weights: Float[Array, " n"], eye: Float[Array, "3"]
) -> View:
    """The view of a scan from `eye`; its cells are about as far apart as its points.

    The surface of a cell is the nearest one of the cell and those around it, so that
    edges and small gaps do not count.
    """
    size = min(_MOST, max(_LEAST, math.isqrt(len(points))))
    centre = weights @ points
    distance = jnp.sqrt(jnp.sum((centre - eye) ** 2))
    axes = _axes(unit(centre - eye))
    plane, depth = _projected(points, centre, axes, distance)
    seen = weights > 0
    low = jnp.min(jnp.where(seen[:, None], plane, jnp.inf), axis=0)
    high = jnp.max(jnp.where(seen[:, None], plane, -jnp.inf), axis=0)
    step = jnp.max(high - low) / (size - 3)
    low = low - 1.5 * step
    cells = jnp.floor((plane - low[None, :]) / step).astype("int32")
    cells = jnp.where(seen[:, None], cells, size)  # out of the picture
    empty = jnp.full_like(depth, jnp.inf, shape=(size, size))
    nearest = empty.at[cells[:, 0], cells[:, 1]].min(depth, mode="drop")
    nearest = lax.reduce_window(nearest, float("inf"), lax.min, (3, 3), (1, 1), "SAME")
    is_seen = jnp.isfinite(nearest)
    aside = step * _distances_to(is_seen, depth)
    return View(
        centre, axes, distance, low, step, jnp.where(is_seen, nearest, 0), aside
    )


def intrusion(
    view: View,
    points: Float[Array, "n 3"],
    weights: Float[Array, " n"],
    width: Float[Array, ""],
) -> Float[Array, ""]:
    """The share of the mass that stands in the free space of a scan, in [0, 1]."""
    return weights @ gaps(view, points, width)


def gaps(
    view: View, points: Float[Array, "n 3"], width: Float[Array, ""]
) -> Float[Array, " n"]:
    """How far points are in the free space of a scan, from zero to one.

    Softly: a point that is `width` away from where it could be counts one half, in
    front of the surface, and less beside it: what a scanner measured proves that the
    way there is empty, but where it measured nothing there may be a gap in the scan.
    With derivatives in the points.
    """
    plane, behind = _projected(points, view.centre, view.axes, view.distance)
    size = len(view.depth)
    place = (plane - view.low[None, :]) / view.step - 0.5
    inside = jnp.clip(place, 0, size - 1)
    beyond = view.step * jnp.sqrt(_safe(jnp.sum((place - inside) ** 2, axis=1)))
    aside = _interpolated(view.aside, inside)
    before = _interpolated(view.depth, inside) - behind - _SLACK * view.step
    is_aside = (aside > 0) | (beyond > 1e-3 * view.step)
    gap = jnp.where(is_aside, aside + beyond, jnp.maximum(before, 0)) / width
    return jnp.where(is_aside, _ASIDE, 1) * gap**2 / (1 + gap**2)


def _axes(forward: Array) -> Array:
    """An orthonormal basis whose last row is given."""
    least = jnp.argmin(jnp.abs(forward))
    first = unit(jnp.cross(forward, jnp.eye(3, dtype=forward.dtype)[least]))
    return jnp.stack([first, jnp.cross(forward, first), forward])


def _projected(
    points: Array, centre: Array, axes: Array, distance: Array
) -> tuple[Array, Array]:
    """Where the lines of sight cross the plane through the centre; depth behind it."""
    own = jnp.matmul(points - centre[None, :], axes.T, precision="highest")
    nearer = jnp.maximum(1 + own[:, 2] / distance, _NEAREST)
    return own[:, :2] / nearer[:, None], own[:, 2]


def _interpolated(picture: Array, place: Array) -> Array:
    corner = jnp.clip(jnp.floor(place), 0, len(picture) - 2)
    (a, b), (i, j) = (place - corner).T, corner.astype("int32").T
    upper = (1 - b) * picture[i, j] + b * picture[i, j + 1]
    lower = (1 - b) * picture[i + 1, j] + b * picture[i + 1, j + 1]
    return (1 - a) * upper + a * lower


def _distances_to(marked: Array, like: Array) -> Array:
    """How far each cell is from the nearest marked one, one axis after the other."""
    steps = jnp.arange(len(marked), dtype=like.dtype)
    squares = (steps[:, None] - steps[None, :]) ** 2
    found = jnp.where(marked, 0, float(2 * len(marked) ** 2)).astype(like.dtype)
    for _ in range(2):
        found = jnp.min(squares[:, :, None] + found[None, :, :], axis=1).T
    return jnp.sqrt(found)


def _safe(squares: Array) -> Array:
    """Keeps the slope of a root finite at zero."""
    return jnp.maximum(squares, 1e-12)
