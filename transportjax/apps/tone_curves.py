"""The tones of a picture through maps of its tiles: block by block, or traced at once.

A tone is shared out between two of equally spaced places in [0, 1]; the masses there,
tile by tile, are what maps are made of. A map is given by its values at places, is
linear in between, and is blended with those of the neighbouring tiles.
"""

import collections
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import working_dtype

from .colour_map import channels, with_channels
from .picture import white

BLOCK = 1 << 17  # pixels in one call
_UNDER_WAY = 4


def tile_grid(shape: tuple[int, ...], tiles: int | None) -> tuple[np.ndarray, int]:
    """The sides in pixels and in tiles, and the number of tables of the program."""
    height, width = shape[:2]
    if tiles is None:
        return np.array([height, width, 1, 1], np.int32), 1
    longest = max(height, width)
    down, across = (
        max(1, min(side, round(tiles * side / longest))) for side in (height, width)
    )
    return np.array([height, width, down, across], np.int32), tiles * tiles


def each_block(
    function: Callable[[np.ndarray, np.ndarray, np.ndarray | None], Array],
    flat: np.ndarray,
    other: np.ndarray | None,
    width: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """`function` of blocks of one size, the last one padded; a few are under way.

    It is called with the row and the column of the first pixel, the pixels, and what
    there is in `other` for them.
    """
    waiting = collections.deque()
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK]
        part = None if other is None else other[start : start + BLOCK]
        missing = BLOCK - len(block)
        if missing:
            block = np.pad(block, ((0, missing), (0, 0)))
            part = None if part is None else np.pad(part, (0, missing))
        first = np.array(divmod(start, width), np.int32)
        waiting.append((start, function(first, block, part)))
        if len(waiting) > _UNDER_WAY:
            begin, values = waiting.popleft()
            yield begin, np.asarray(values)
    yield from ((begin, np.asarray(values)) for begin, values in waiting)


# The work on a block is cut in three programs, because in one the compiler would work
# out what many parts share for each of them anew.


@functools.partial(jax.jit, static_argnums=1)
def tones_of(block: ArrayLike, space: str) -> Float[Array, "n k"]:
    """What a map in `space` moves, white at 1."""
    return channels(_to_unit(jnp.asarray(block)), space)


def _to_unit(block: Array) -> Array:
    if jnp.issubdtype(block.dtype, jnp.floating):
        return block.astype(working_dtype(block.dtype))
    return block.astype(jnp.float32) / white(block.dtype)


@functools.partial(jax.jit, static_argnums=(4, 5))
def count_masses(
    tones: Float[Array, "n k"],
    counts: ArrayLike | None,
    start: ArrayLike,
    grid: ArrayLike,
    num_tables: int,
    num_places: int,
) -> Float[Array, "tables k places"]:
    """The mass of each channel at the places, tile by tile."""
    num, count = tones.shape
    grid = jnp.asarray(grid)
    row, column = _positions(num, jnp.asarray(start), grid)
    inside = row < grid[0]  # not of the padding of the last block
    if counts is not None:
        inside = inside & jnp.asarray(counts)
    lower, fraction = _between(jnp.clip(tones, 0, 1), num_places)
    tile = jnp.zeros_like(row)
    if num_tables > 1:
        # those in which the centres of pixels lie
        down, _ = _divide((2 * row + 1) * grid[2], 2 * grid[0])
        across, _ = _divide((2 * column + 1) * grid[3], 2 * grid[1])
        down, across = jnp.clip(down, 0, grid[2] - 1), jnp.clip(across, 0, grid[3] - 1)
        tile = down * grid[3] + across
    first = tile[:, None] * count + jnp.arange(count, dtype=jnp.int32)[None, :]
    node = first * num_places + lower
    mass = jnp.where(inside, 1, 0).astype(tones.dtype)[:, None]
    both = jnp.stack([mass * (1 - fraction), mass * fraction], axis=-1)
    empty = jnp.zeros((num_tables * count * num_places,), tones.dtype)
    nodes = jnp.stack([node, node + 1], axis=-1)
    masses = empty.at[nodes].add(both, mode="promise_in_bounds")
    return masses.reshape(num_tables, count, num_places)


def _between(values: Array, num_places: int) -> tuple[Array, Array]:
    """The place below each value of [0, 1], and the share of the way to the next."""
    place = values * (num_places - 1)
    lower = jnp.minimum(lax.stop_gradient(place).astype(jnp.int32), num_places - 2)
    return lower, place - lower.astype(values.dtype)


@functools.partial(jax.jit, static_argnums=4)
def through_curves(
    tones: Float[Array, "n k"],
    start: ArrayLike,
    grid: ArrayLike,
    curves: Float[Array, "tables k places"],
    num_tables: int,
) -> Float[Array, "n k"]:
    """The tones after the maps, which go on with slope one beyond black and white."""
    inside = jnp.clip(tones, 0, 1)
    if num_tables == 1:
        moved = _read(curves, jnp.zeros((len(tones), 1), jnp.int32), inside)
    else:
        moved = jnp.zeros_like(tones)
        where = len(tones), jnp.asarray(start), jnp.asarray(grid)
        for tile, weight in _corners(*where, tones.dtype):
            moved = moved + weight[:, None] * _read(curves, tile[:, None], inside)
    return moved + (tones - inside)


@functools.partial(jax.jit, static_argnums=4)
def with_tones(
    block: ArrayLike,
    tones: Float[Array, "n k"],
    share: ArrayLike | None,
    strength: ArrayLike,
    space: str,
) -> Array:
    """The pixels with other tones, or on the way there, in their dtype."""
    block = jnp.asarray(block)
    colours = _to_unit(block)
    moved = with_channels(colours, tones, space)
    amount = jnp.asarray(strength, colours.dtype)
    if share is not None:
        amount = amount * jnp.asarray(share, colours.dtype)[:, None]
    colours = colours + amount * (moved - colours)
    if jnp.issubdtype(block.dtype, jnp.floating):
        return colours.astype(block.dtype)
    top = white(block.dtype)
    return jnp.rint(jnp.clip(colours, 0, 1) * top).astype(block.dtype)


def _read(curves: Array, tile: Array, values: Array) -> Array:
    """The maps of tiles (n, 1) at `values` (n, k) of [0, 1]."""
    _, count, num_places = curves.shape
    lower, fraction = _between(values, num_places)
    channel = jnp.arange(count, dtype=jnp.int32)[None, :]
    node = (tile * count + channel) * num_places + lower
    flat = curves.reshape(-1)
    left, right = (flat.at[n].get(mode="promise_in_bounds") for n in (node, node + 1))
    return left + fraction * (right - left)


def _positions(num: int, start: Array, grid: Array) -> tuple[Array, Array]:
    """The rows and columns of `num` pixels, one after the other from `start` on."""
    row, column = _divide(jnp.arange(num, dtype=jnp.int32) + start[1], grid[1])
    return start[0] + row, column


def _divide(x: Array, by: Array) -> tuple[Array, Array]:
    """Quotient and remainder of integers >= 0."""
    # in floats, put right where that is rounded: a division of integers is slow
    quotient = (x.astype(jnp.float32) / by.astype(jnp.float32)).astype(jnp.int32)
    rest = x - quotient * by
    step = (rest >= by).astype(jnp.int32) - (rest < 0).astype(jnp.int32)
    return quotient + step, rest - step * by


def _corners(
    num: int, start: Array, grid: Array, dtype: Any
) -> Iterator[tuple[Array, Array]]:
    """The four tiles whose centres are about each pixel, and their weights.

    Beyond the outermost centres the nearest tiles go on.
    """
    # in integers, since floats that are worked out in two places may be rounded apart
    axes = []
    for place, size, number in zip(
        _positions(num, start, grid), grid[:2], grid[2:], strict=True
    ):
        beyond = jnp.maximum((2 * place + 1) * number - size, 0)
        first, rest = _divide(beyond, 2 * size)
        first = jnp.clip(first, 0, number - 1)  # beyond the picture: padding
        second = jnp.minimum(first + 1, number - 1)
        fraction = rest.astype(dtype) / (2 * size).astype(dtype)
        axes.append(((first, 1 - fraction), (second, fraction)))
    for down, down_weight in axes[0]:
        for across, across_weight in axes[1]:
            yield down * grid[3] + across, down_weight * across_weight
