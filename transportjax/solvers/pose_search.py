"""Where each of many rotations overlaps best: all translations at once.

The overlap of two clouds of Gaussians is a correlation in the translation between them,
and so is the mass of one in the free space of the other. On a grid, the fast Fourier
transform gives both for all translations, at a cost that hardly depends on the number
of points. So no start is lost because centroids of parts that were seen differ.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from .clouds import Data
from .free_space import INTRUSION, View, gaps

_CELLS = {2: 64, 3: 40}  # of the grid along an axis
_HALF = 3.0  # side of the grid, in radii of the clouds
_REACH = 1.6  # most of a translation along an axis, in radii
_DEEP = 0.5  # how far in free space a point counts half, in cells
_TOGETHER = 16  # rotations at a time on an accelerator


def best_translations(
    data: Data, matrices: Float[Array, "k d d"], *, symmetric: bool
) -> tuple[Float[Array, " k"], Float[Array, "k d"]]:
    """How well each matrix can overlap, and the translation that does so.

    The kernel is a Gaussian with the width of a cell, times ((1 + n . m) / 2)^2 or, if
    they have no sign, (n . m)^2 of normals. Overlaps count relative to those of the
    clouds with themselves.

    Args:
        data: clouds centred at the origin, of radius one.
        matrices: rotations, or multiples of them.
        symmetric: whether normals have no sign.
    """
    source, target = data.source, data.target
    dim = source.points.shape[1]
    grid = _Grid(dim, source.points)
    x_view, y_view = data.views

    def density(points: Array, weights: Array, normals: Array | None) -> Array:
        """Transforms of the channels, the masses alone first."""
        values = weights[None, :] * _channels(normals, weights, symmetric)
        return grid.transform(grid.spread(points, values))

    def own(points: Array, weights: Array, normals: Array | None) -> Array:
        parts = density(points, weights, normals)[1:]
        power = jnp.sum(parts * jnp.conj(parts), axis=0)
        return grid.back(grid.kernel * power).reshape(-1)[0]

    ends = [(c.points, c.weights, c.normals) for c in (source, target)]
    whole = jnp.sqrt(own(*ends[0]) * own(*ends[1]))
    fixed = density(*ends[1])
    goal = grid.kernel[None] * fixed[1:] / whole.astype(fixed.dtype)
    behind = None if y_view is None else grid.transform(grid.free(y_view, grid.places))

    def best(matrix: Array) -> tuple[Array, Array]:
        points = _product(source.points, matrix.T)
        normals = source.normals
        if normals is not None:
            normals = _product(normals, matrix.T)
            normals = normals / jnp.linalg.norm(matrix[0])
        moved = jnp.conj(density(points, source.weights, normals))
        score = jnp.sum(moved[1:] * goal, axis=0)
        if behind is not None:
            score = score - INTRUSION / 2 * moved[0] * behind
        if x_view is not None:  # at the places that the rotation takes to the grid
            places = _product(grid.places, jnp.linalg.inv(matrix).T)
            before = grid.transform(grid.free(x_view, places))
            score = score - INTRUSION / 2 * fixed[0] * jnp.conj(before)
        return grid.best(grid.back(score))

    together = 1 if jax.default_backend() == "cpu" else _TOGETHER
    return lax.map(best, matrices, batch_size=min(together, len(matrices)))


class _Grid:
    """A periodic grid around the origin, and functions on it."""

    def __init__(self, dim: int, like: Array):
        self.size, self.dim, self.like = _CELLS[dim], dim, like
        self.step = 2 * _HALF / self.size
        self.shape = (self.size,) * dim
        whole = 2 * math.pi * np.fft.fftfreq(self.size)
        half = 2 * math.pi * np.fft.rfftfreq(self.size)
        squares = sum(
            f**2 for f in np.meshgrid(*[whole] * (dim - 1), half, indexing="ij")
        )
        # of exp(-|k|^2 / 4), with k counted in cells
        kernel = (4 * math.pi) ** (dim / 2) * jnp.asarray(np.exp(-squares), like.dtype)
        self.kernel = lax.complex(kernel, jnp.zeros_like(kernel))
        self.shifts = self.step * self.size * np.fft.fftfreq(self.size)

    @property
    def places(self) -> Array:
        """The points of the grid, (cells, d)."""
        axis = np.arange(self.size) * self.step - _HALF
        places = np.stack(np.meshgrid(*[axis] * self.dim, indexing="ij"), axis=-1)
        return jnp.asarray(places.reshape(-1, self.dim), self.like.dtype)

    def spread(self, points: Array, values: Array) -> Array:
        """Values (c, n) at points, shared linearly by the corners of their cells."""
        place = (points + _HALF) / self.step
        inside = jnp.all((place >= 0) & (place <= self.size - 1), axis=1)
        values = jnp.where(inside[None, :], values, 0)
        corner = jnp.floor(place)
        part = place - corner
        out = jnp.zeros_like(values, shape=(len(values), self.size**self.dim))
        for offset in itertools.product((0, 1), repeat=self.dim):
            step = jnp.asarray(offset, place.dtype)[None, :]
            share = jnp.prod(jnp.abs(1 - step - part), axis=1)
            index = jnp.mod(corner + step, self.size).astype("int32")
            flat = jnp.ravel_multi_index(tuple(index.T), self.shape, mode="wrap")
            out = out.at[:, flat].add(share[None, :] * values)
        return out.reshape(-1, *self.shape)

    def free(self, view: View, places: Array) -> Array:
        """How far each place is in the free space of a view, from zero to one."""
        width = jnp.asarray(_DEEP * self.step, places.dtype)
        return gaps(view, places, width).reshape(self.shape)

    def transform(self, values: Array) -> Array:
        """The Fourier transform over the last axes."""
        return jnp.fft.rfftn(values, axes=tuple(range(-self.dim, 0)))

    def back(self, values: Array) -> Array:
        """The inverse of `transform`."""
        return jnp.fft.irfftn(values, s=self.shape)

    def best(self, scores: Array) -> tuple[Array, Array]:
        """The greatest score of a translation within reach, and that translation."""
        near = np.abs(self.shifts) <= _REACH
        for axis in range(self.dim):
            shape = [-1 if k == axis else 1 for k in range(self.dim)]
            scores = jnp.where(near.reshape(shape), scores, -jnp.inf)
        index = jnp.argmax(scores)
        shifts = jnp.asarray(self.shifts, scores.dtype)
        where = jnp.stack(jnp.unravel_index(index, self.shape))
        return scores.reshape(-1)[index], shifts[where]


def _channels(normals: Array | None, weights: Array, symmetric: bool) -> Array:
    """Features (c, n), the first one 1; products of the others add to the kernel."""
    one = jnp.ones_like(weights)[None, :]
    if normals is None:
        return jnp.concatenate([one, one])
    n = normals.T
    dim = len(n)
    squares = [
        n[i] * n[j] * (1 if i == j else math.sqrt(2))
        for i in range(dim)
        for j in range(i, dim)
    ]
    squares = jnp.stack(squares)
    if symmetric:
        return jnp.concatenate([one, squares])
    return jnp.concatenate([one, one / 2, math.sqrt(0.5) * n, squares / 2])


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision="highest")
