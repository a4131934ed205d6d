"""A fitted map of colours: applied to pictures, saved, exported."""

import collections
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax.maps import (
    AbstractBijection,
    ModelFileError,
    load,
    save,
)

from .arrays import blend, join_alpha, soft_mask, split_alpha
from .lut import Lut, apply_lut, bake, table_error, write_cube
from .model_files import read_about
from .picture import from_unit, to_unit
from .reduction import Distinct, map_distinct, sample_colours
from .spaces import SPACES

COLOUR_SPACES = ("rgb", "linear", "lab", "oklab", "luma", "chroma")

_CHUNK = 1 << 16
_UNDER_WAY = 4
_TABLE_NODES = 65
_DARK = 0.01  # of white: in shadows below it differences of channels are mostly noise


class ColourMap(eqx.Module):
    """A fitted colour transfer: encoded sRGB colours in, encoded sRGB colours out.

    Attributes:
        map: the transport, in the channels of `space` that move.
        strength: share of the displacement that is applied.
        space: "rgb", "linear", "lab", "oklab", "luma" (L of CIELAB), "chroma" (a and b
            of CIELAB), "tone" (the luma of Rec. 709; the colours change with it as in
            other light, as far as white and black leave room), or "grey" for pictures
            of one channel.
    """

    map: AbstractBijection
    strength: Float[Array, ""]
    space: str = eqx.field(static=True)

    def __call__(self, colours: Float[Array, "n c"]) -> Float[Array, "n c"]:
        """The colours (n, c) after the transfer; not clipped."""
        moved = jax.vmap(self.map)(channels(colours, self.space))
        moved = with_channels(colours, moved, self.space)
        return colours + self.strength * (moved - colours)


def channels(colours: Float[Array, "n c"], space: str) -> Float[Array, "n k"]:
    """The channels of `colours` that a transfer in `space` moves."""
    if space in ("rgb", "grey"):
        return colours
    if space == "luma":
        return SPACES["lab"][0](colours)[:, :1]
    if space == "tone":
        return SPACES["ycbcr"][0](colours)[:, :1]
    if space == "chroma":
        return SPACES["lab"][0](colours)[:, 1:]
    return SPACES[space][0](colours)


def with_channels(
    colours: Float[Array, "n c"], moved: Float[Array, "n k"], space: str
) -> Float[Array, "n c"]:
    """`colours` with the channels of `channels` replaced by `moved`."""
    if space in ("rgb", "grey"):
        return moved
    if space == "tone":
        return _with_luma(colours, moved)
    if space in ("luma", "chroma"):
        lab = SPACES["lab"][0](colours)
        parts = [moved, lab[:, 1:]] if space == "luma" else [lab[:, :1], moved]
        return SPACES["lab"][1](jnp.concatenate(parts, axis=1))
    return SPACES[space][1](moved)


def _with_luma(colours: Float[Array, "n 3"], luma: Float[Array, "n 1"]) -> Array:
    """`colours` with another luma, and with all differences of channels in proportion.

    Where that leads beyond black or white, they are as large as fits: the luma is
    reached, and red is to green to blue, after grey is taken off, as it was.
    """
    before = channels(colours, "tone")
    ratio = (jnp.maximum(luma, 0) + _DARK) / (jnp.maximum(before, 0) + _DARK)
    parts = colours - before
    # a colour that was outside of [0, 1] may stay as far outside
    columns = jnp.split(colours, 3, axis=1)
    top = functools.reduce(jnp.maximum, columns, jnp.ones_like(before))
    bottom = functools.reduce(jnp.minimum, columns, jnp.zeros_like(before))
    for part in jnp.split(parts, 3, axis=1):
        room = jnp.where(part > 0, top - luma, luma - bottom)
        share = room / jnp.where(part == 0, 1, jnp.abs(part))
        ratio = jnp.where(part == 0, ratio, jnp.minimum(ratio, share))
    return luma + parts * ratio


def apply_colour_map(
    colour_map: ColourMap | Lut, pixels: Any, *, mask: Any = None
) -> Any:
    """A picture after the transfer: same size, dtype and range, alpha untouched.

    An 8-bit picture is computed once for each of its distinct colours: exactly. A large
    deeper one goes through a table of 65 nodes a side if the error of the table, as
    measured on colours of the picture, stays below half an 8-bit step; else, and for
    values outside of [0, 1], each pixel is computed. Integers are rounded to nearest
    and clipped; floats are neither. NaN stays NaN.

    Args:
        colour_map: a fitted map, or a 3-D table.
        pixels: picture, as for `fit_colour_map`.
        mask: (h, w), the share of the change that each pixel takes, bool or in [0, 1].

    Returns:
        An array like `pixels`.

    Raises:
        ValueError: not a picture, a grey map on a colour picture or the reverse.
    """
    return apply_found(colour_map, pixels, mask, None)


def apply_found(
    colour_map: ColourMap | Lut, pixels: Any, mask: Any, found: Distinct | None
) -> Any:
    """`apply_colour_map`, where the distinct colours may have been found already."""
    picture, alpha = split_alpha("pixels", pixels)
    count = 3 if isinstance(colour_map, Lut) or colour_map.space != "grey" else 1
    if picture.shape[-1] != count:
        kinds = {1: "grey", 3: "colour"}
        raise ValueError(
            f"`pixels` must be a {kinds[count]} picture, as the map was fitted on "
            f"one; got {picture.shape[-1]} channels."
        )
    if picture.dtype == np.uint8:
        moved = map_distinct(
            lambda colours: from_unit(
                evaluate_colours(colour_map, to_unit(colours)), np.uint8
            ),
            picture,
            found,
        )
    else:
        flat = to_unit(picture).reshape(-1, count)
        moved = _evaluate_many(colour_map, flat).reshape(picture.shape)
        moved = from_unit(moved, picture.dtype)
    if mask is not None:
        moved = blend(picture, moved, soft_mask("mask", mask, picture))
    return join_alpha(moved, alpha, pixels)


def _evaluate_many(colour_map: ColourMap | Lut, flat: np.ndarray) -> np.ndarray:
    """By a table if that is much less work and accurate enough, else one by one."""
    is_colour = isinstance(colour_map, ColourMap) and colour_map.space != "grey"
    inside = flat.min() >= 0 and flat.max() <= 1  # not so if there is a NaN
    if is_colour and inside and len(flat) > 4 * _TABLE_NODES**3:
        table = bake(
            lambda colours: evaluate_colours(colour_map, colours), _TABLE_NODES
        )
        probe = flat[:: max(1, len(flat) >> 14)]
        error = table_error(
            lambda colours: evaluate_colours(colour_map, colours), table, probe
        )
        if float(jnp.max(error)) <= 0.5 / 255:
            return evaluate_colours(table, flat)
    return evaluate_colours(colour_map, flat)


def evaluate_colours(colour_map: ColourMap | Lut, colours: ArrayLike) -> np.ndarray:
    """Any number of colours (n, c) after the map, in blocks of one compiled size."""
    if isinstance(colour_map, Lut):
        return np.asarray(apply_lut(colour_map, colours))
    return in_blocks(lambda block: _evaluate_block(colour_map, block), colours)


@eqx.filter_jit
def _evaluate_block(colour_map: ColourMap, block: ArrayLike) -> Float[Array, "n c"]:
    return colour_map(jnp.asarray(block))


def in_blocks(function: Callable[[np.ndarray], ArrayLike], colours: Any) -> np.ndarray:
    """`function` of float32 colours (n, c), called with blocks of one size.

    A few calls are under way at a time, so that no core waits for the one before.
    """
    colours = np.asarray(colours)
    starts = range(0, len(colours), _CHUNK)
    waiting, out = collections.deque(), []
    for start in starts:
        block = colours[start : start + _CHUNK].astype(np.float32, copy=False)
        size = len(block)
        if size < _CHUNK:
            block = np.pad(block, ((0, _CHUNK - size), (0, 0)))
        waiting.append((function(block), size))
        while len(waiting) > (_UNDER_WAY if start != starts[-1] else 0):
            values, size = waiting.popleft()
            out.append(np.asarray(values)[:size])
    return np.concatenate(out)


def save_colour_map(path: Any, colour_map: ColourMap) -> None:
    """Writes a fitted map to one file, to be used on other pictures."""
    about = {
        "kind": "colour",
        "space": colour_map.space,
        "strength": float(colour_map.strength),
    }
    save(path, colour_map.map, metadata=about)


def load_colour_map(path: Any) -> ColourMap:
    """Reads what `save_colour_map` wrote.

    Raises:
        ModelFileError: the file is damaged, or holds no map of colours.
    """
    about = read_about(path, "colour", ("space", "strength"), "one of colours")
    if about["space"] not in (*COLOUR_SPACES, "tone", "grey"):
        raise ModelFileError(path, f"its colour space {about['space']!r} is unknown")
    strength = jnp.asarray(about["strength"], jnp.float32)
    return ColourMap(load(path), strength, about["space"])


def export_cube(
    path: Any, colour_map: ColourMap, num_nodes: int, pixels: Any, *, title: str = ""
) -> np.ndarray:
    """Writes a colour map as a 3-D table (.cube), and says how far the table is off.

    Args:
        path: file to write.
        colour_map: a fitted map of colour pictures.
        num_nodes: nodes a side, 33 or 65 for most programs.
        pixels: a picture, on whose colours the error is measured.
        title: a line for the file.

    Returns:
        For a sample of the colours, the largest error of a channel, in 8-bit steps.

    Raises:
        ValueError: the map is one of grey pictures.
    """
    picture, _ = split_alpha("pixels", pixels)
    if colour_map.space == "grey" or picture.shape[-1] != 3:
        raise ValueError("a .cube table is for colour pictures; this map is of grey.")
    table = bake(lambda colours: evaluate_colours(colour_map, colours), num_nodes)
    write_cube(path, table, title=title)
    probe = to_unit(sample_colours(picture, 1 << 14))
    error = table_error(
        lambda colours: evaluate_colours(colour_map, colours), table, probe
    )
    return np.asarray(error) * 255
