"""Three-dimensional lookup tables: any map of colours, baked, applied and exchanged.

A table answers in the time of four reads, whatever the map that it was made from, and
the `.cube` file is what grading programs, video players and cameras read.
"""

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import (
    as_float,
    as_unit_colours,
    check_at_most,
    check_choice,
    check_colour_table,
    check_count,
    check_function_of_colours,
    check_three_channels,
    check_title,
    is_concrete,
)
from transportjax._sharding import explicit_mesh_guard

from . import cube
from .cube import LutError as LutError

_METHODS = ("tetrahedral", "trilinear")
_CHUNK = 1 << 18  # pixels in one call: small beside a picture, large beside a call
_BAKED_AT_ONCE = 1 << 16


class Lut(eqx.Module):
    """A function of colours, tabulated on a lattice and interpolated in between.

    Colours outside of the domain are moved to its nearest point first. In between the
    interpolation is continuous, exact for affine functions, and of second order in the
    distance of the nodes for smooth ones. It is differentiable in the table, and in the
    colours except between cells.

    Attributes:
        table: The colours at the nodes, `table[red, green, blue]`.
        low: Darkest colour of the domain, one value a channel.
        high: Brightest colour of the domain.

    Examples:
        >>> negative = bake(lambda colours: 1 - colours, 2)
        >>> negative(jnp.array([0.2, 0.5, 1.0])).round(3).tolist()
        [0.8..., 0.5, 0.0]
    """

    table: Float[Array, "k k k 3"]
    low: Float[Array, "3"]
    high: Float[Array, "3"]

    def __init__(self, table: ArrayLike, low: ArrayLike = 0.0, high: ArrayLike = 1.0):
        table = as_float("table", table)
        ends = [
            as_float(name, end).astype(table.dtype)
            for name, end in (("low", low), ("high", high))
        ]
        check_colour_table(table, *ends)
        self.table = table
        self.low, self.high = (jnp.broadcast_to(end, (3,)) for end in ends)

    def __call__(
        self, colours: ArrayLike, *, method: str = "tetrahedral"
    ) -> Float[Array, "*n 3"]:
        """The colours (..., 3) after the table; NaN stays NaN.

        Args:
            colours: Colours in the domain of the table, floats; bytes are refused.
            method: "tetrahedral", which keeps greys of a grey-preserving table grey, or
                "trilinear", which some programs use. They agree at the nodes.
        """
        check_choice("method", method, _METHODS)
        colours = as_unit_colours("colours", colours)
        check_three_channels("colours", colours.shape)
        dtype = colours.dtype
        if dtype.itemsize < 4:
            colours = colours.astype(jnp.float32)
        return _interpolate(self, colours, method).astype(dtype)


@explicit_mesh_guard
@functools.partial(jax.jit, static_argnames="method")
def _interpolate(
    lut: Lut, colours: Float[Array, "*n 3"], method: str
) -> Float[Array, "*n 3"]:
    """The table between its nodes, by the reads of one cell."""
    num_nodes = lut.table.shape[0]
    table, low, high = (
        leaf.astype(colours.dtype) for leaf in (lut.table, lut.low, lut.high)
    )
    scale = (num_nodes - 1) / (high - low)
    position = (colours - jnp.broadcast_to(low, colours.shape)) * jnp.broadcast_to(
        scale, colours.shape
    )
    # written so that NaN picks cell 0, and that the ends belong to the outer cells:
    # there `clip` would halve the derivative
    inside = jnp.where(position > 0, position, 0)
    cell = jnp.minimum(jnp.floor(inside), num_nodes - 2)
    fraction = position - jax.lax.stop_gradient(cell)
    fraction = jnp.where(fraction < 0, 0, jnp.where(fraction > 1, 1, fraction))
    strides = (num_nodes**2, num_nodes, 1)
    node = sum(
        cell[..., axis].astype(jnp.int32) * stride
        for axis, stride in enumerate(strides)
    )
    corners = _tetrahedron if method == "tetrahedral" else _cube
    flat = table.reshape(-1, 3)
    total = jnp.zeros_like(colours)
    for step, weight in corners(fraction, strides):
        value = flat.at[node + step].get(mode="promise_in_bounds")
        total = total + weight[..., None] * value
    return total


def _tetrahedron(
    fraction: Float[Array, "*n 3"], strides: tuple[int, int, int]
) -> list[tuple[Array | int, Array]]:
    """Steps and weights of the four corners of the tetrahedron around a colour.

    It holds the path along the edges of the cell, from corner (0, 0, 0) to (1, 1, 1),
    that goes along the axis of the largest fraction first and of the smallest last.
    """
    x, y, z = jnp.moveaxis(fraction, -1, 0)
    xy, yz, xz = x >= y, y >= z, x >= z
    x_first, y_first = xy & xz, ~xy & yz
    z_last, y_last = xz & yz, xy & ~yz
    most = _pick(x_first, y_first, x, y, z)
    least = _pick(z_last, y_last, z, y, x)
    middle = x + y + z - most - least
    along_x, along_y, along_z = strides
    end = along_x + along_y + along_z
    first = _pick(x_first, y_first, along_x, along_y, along_z)
    last = end - _pick(z_last, y_last, along_z, along_y, along_x)
    return [(0, 1 - most), (first, most - middle), (last, middle - least), (end, least)]


def _pick(first: Array, second: Array, a: Any, b: Any, c: Any) -> Array:
    """`a` where `first`, else `b` where `second`, else `c`."""
    return jnp.where(first, a, jnp.where(second, b, c))


def _cube(
    fraction: Float[Array, "*n 3"], strides: tuple[int, int, int]
) -> Iterator[tuple[int, Array]]:
    """Steps and weights of the eight corners of the cell around a colour."""
    for corner in np.ndindex(2, 2, 2):
        parts = [
            fraction[..., axis] if up else 1 - fraction[..., axis]
            for axis, up in enumerate(corner)
        ]
        step = sum(up * stride for up, stride in zip(corner, strides, strict=True))
        yield step, parts[0] * parts[1] * parts[2]


def bake(
    function: Callable[[Array], ArrayLike],
    num_nodes: int = 33,
    *,
    low: ArrayLike = 0.0,
    high: ArrayLike = 1.0,
) -> Lut:
    """The table of a function of colours.

    Args:
        function: Maps colours (n, 3) to colours (n, 3). It is called with at most 65536
            colours, always with the same number of them.
        num_nodes: Nodes along each axis, 2 to 256. 33 and 65 are what most programs
            take: one and eight megabytes as a file.
        low: Darkest colour of the domain, a number or one a channel.
        high: Brightest colour of the domain; above 1 for high dynamic range.

    Returns:
        The table. Differentiable with respect to what `function` closes over.

    Raises:
        ValueError: If an option is out of range, if `function` returns another shape,
            or if it returns NaN or an infinity.

    Examples:
        >>> bake(lambda colours: colours**2, 17).table.shape
        (17, 17, 17, 3)
    """
    check_count("num_nodes", num_nodes, 2)
    check_at_most("num_nodes", num_nodes, cube.MOST_NODES, "nodes along each axis")
    dtype = jnp.result_type(float)
    first, last = (
        jnp.broadcast_to(as_float(name, end).astype(dtype), (3,))
        for name, end in (("low", low), ("high", high))
    )
    nodes = jnp.linspace(first, last, num_nodes)
    total = num_nodes**3
    at_once = min(total, _BAKED_AT_ONCE)
    parts = []
    for start in range(0, total, at_once):
        index = np.minimum(np.arange(start, start + at_once), total - 1)
        axes = np.unravel_index(index, (num_nodes,) * 3)
        lattice = jnp.stack([nodes[i, c] for c, i in enumerate(axes)], axis=-1)
        part = as_float("function(colours)", function(lattice))
        check_function_of_colours(part.shape, lattice.shape)
        parts.append(part)
    table = jnp.concatenate(parts)[:total].reshape((num_nodes,) * 3 + (3,))
    return Lut(table, first, last)


def apply_lut(
    lut: Lut, pixels: ArrayLike, *, method: str = "tetrahedral"
) -> Float[Array, "*n 3"]:
    """All pixels (..., 3) after the table, in blocks of one compiled size.

    Like `lut(pixels)`, but pictures of every size share one compiled program, and what
    is needed in between does not grow with the picture.

    Args:
        lut: The table.
        pixels: A picture, or any array of colours on its last axis; bytes are refused.
        method: "tetrahedral" or "trilinear".

    Returns:
        Colours of the shape and dtype of `pixels`. Differentiable, as `lut` is.

    Examples:
        >>> apply_lut(bake(lambda colours: 1 - colours), jnp.ones((2, 4, 3))).shape
        (2, 4, 3)
    """
    check_choice("method", method, _METHODS)
    pixels = as_unit_colours("pixels", pixels)
    check_three_channels("pixels", pixels.shape)
    if not all(is_concrete(leaf) for leaf in (pixels, *jax.tree.leaves(lut))):
        return lut(pixels, method=method)
    flat = np.asarray(pixels).reshape(-1, 3)
    out = np.empty_like(flat)
    for start in range(0, len(flat), _CHUNK):
        block = flat[start : start + _CHUNK]
        size = len(block)
        if size < _CHUNK:
            block = np.pad(block, ((0, _CHUNK - size), (0, 0)))
        out[start : start + size] = np.asarray(_apply_block(lut, block, method))[:size]
    return jnp.asarray(out.reshape(pixels.shape))


@eqx.filter_jit
def _apply_block(lut: Lut, block: ArrayLike, method: str) -> Float[Array, "n 3"]:
    return lut(block, method=method)


def table_error(
    function: Callable[[Array], ArrayLike], lut: Lut, points: ArrayLike
) -> Float[Array, " n"]:
    """How far a table is from its function at each of the `points`.

    Args:
        function: Maps colours (n, 3) to colours (n, 3).
        lut: A table of that function.
        points: Colours (n, 3), best those of the picture that the table is meant for.

    Returns:
        Largest absolute error over the channels, in the units of the colours.

    Examples:
        >>> square = lambda colours: colours**2
        >>> table_error(square, bake(square, 3), jnp.array([[0.25, 0, 0]])).tolist()
        [0.0625]
    """
    points = as_unit_colours("points", points)
    check_three_channels("points", points.shape)
    exact = as_float("function(points)", function(points))
    check_function_of_colours(exact.shape, points.shape)
    return jnp.max(jnp.abs(lut(points) - exact.astype(points.dtype)), axis=-1)


def write_cube(path: str | os.PathLike[str], lut: Lut, *, title: str = "") -> None:
    """Writes a table as a `.cube` file, as Iridas, Adobe and Resolve read it.

    Values have nine decimals. The file appears under its name only when it is complete.

    Args:
        path: The file to write; an existing one is replaced.
        lut: The table.
        title: A name for the file, one line without quotation marks.

    Raises:
        ValueError: If the title is no such line.
        OSError: If the file cannot be written.

    References:
        Adobe Systems (2013), Cube LUT Specification, version 1.0.
    """
    check_title(title, 200)
    table, low, high = (np.asarray(leaf) for leaf in (lut.table, lut.low, lut.high))
    cube.write(path, table, low, high, title)


def read_cube(path: str | os.PathLike[str]) -> Lut:
    """Reads a 3-D table from a `.cube` file.

    Understood are TITLE, LUT_3D_SIZE, DOMAIN_MIN, DOMAIN_MAX, LUT_3D_INPUT_RANGE and
    comments. Everything else, 1-D tables and shapers among it, is refused rather than
    passed over, because without it the colours would be wrong.

    Args:
        path: The file to read.

    Returns:
        The table.

    Raises:
        LutError: If the file is damaged, not a 3-D table, or holds what is not
            understood. The message names the file and the line.
        OSError: If the file cannot be read.
    """
    return Lut(*(jnp.asarray(part, jnp.result_type(float)) for part in cube.read(path)))
