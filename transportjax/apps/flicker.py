"""Flicker removal: frames in, steady frames out, on arrays or one frame at a time.

`deflicker` does it all for an array. Longer clips take two passes over their frames:
`frame_law` of each, `steady_law` of all, then `steady_frame` of each.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from transportjax._checks import check_frames, check_pixels_left
from transportjax.onedim import histogram_quantile

from .arrays import hard_mask, join_alpha, split_alpha
from .flicker_averages import steady_quantiles
from .flicker_curves import (
    FrameLaw,
    block_curves,
    block_reliability,
    find_cuts,
    flicker_curve,
)
from .picture import to_unit, white

CELLS = (6, 8)  # of the local variant: rows and columns
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # ITU-R BT.709, encoded values
_NUM_LEVELS = 64  # of a quantile function
_NUM_CODES = 1024  # of a luma that is no integer, in its histogram
_NUM_FINE = 4096  # of values that are moved, unless they are bytes
_MOST_PIXELS = 1 << 18  # that a law is measured on
_THUMBNAIL = (16, 16)
_PARTS = 4  # of the thumbnail with cells, along each side of one
_FEWEST = 64  # pixels of a block that has a law of its own


class SteadyLaw(NamedTuple):
    """What `steady_frame` needs to know of each frame, with a leading axis t.

    Attributes:
        law: the brightness of the frames.
        target: the brightness that they should have.
        reliability: of the laws of the blocks, (t, y, x), 0 to 1.
        cuts: frames that begin a shot.
    """

    law: FrameLaw
    target: FrameLaw
    reliability: Float[Array | np.ndarray, "t y x"]
    cuts: np.ndarray


def deflicker(
    frames: Any,
    *,
    window: int | float = 17,
    strength: int | float = 1.0,
    local: bool = False,
    cuts: Sequence[int] | np.ndarray | None = None,
    mask: Any = None,
    max_slope: int | float = 2.5,
) -> Any:
    """The frames of a clip without flicker.

    The brightness of each frame is moved by an increasing function, so that its law
    becomes the average of the laws of the frames around it: gains, changes of gamma or
    contrast, and any other change of all brightness together are undone. Slow changes
    such as fades stay. Averages never reach across shot cuts.

    Brightness is the luma of Rec. 709 of encoded values. All channels are moved by its
    function, as they were by the change of light, exposure or print that it undoes:
    colours come back with their saturation, greys stay grey, and no value leaves
    [0, 1].

    Args:
        frames: (t, h, w) or (t, h, w, c), c = 1 or 3, or 2 or 4 with alpha; uint8,
            uint16, or floats with white at 1.
        window: frames that are averaged, with Gaussian weights whose deviation is a
            quarter of it. Longer ones remove slower flicker, and blur what a moving
            camera does to the light. 17 frames are 0.7 seconds of film.
        strength: share of the change; at 0 the result is `frames`, bit for bit.
        local: whether the light flickers differently over the picture: one function a
            block of a grid of 7 x 9, blended. Blocks whose content moves follow the
            others.
        cuts: frames that begin a shot; None: they are looked for (`find_cuts`).
        mask: (h, w), where to learn the brightness, such as without a black border;
            True or > 0.5. The whole frame is changed.
        max_slope: the functions do not raise contrast by more, nor lower it by more
            than one over it.

    Returns:
        An array like `frames`.

    Raises:
        ValueError: no clip, or an option out of range.

    Example:
        >>> import numpy as np
        >>> import transportjax as tj
        >>> ramp = np.linspace(0.1, 0.7, 64 * 48).reshape(48, 64)
        >>> flickering = np.stack([ramp * gain for gain in (1, 1.2) * 6])
        >>> steady = tj.deflicker(flickering)
        >>> for clip in (flickering, steady):
        ...     print(abs(np.diff(clip.mean((1, 2)))).max().round(2))
        0.08
        0.0

    References:
        Pitie, Dahyot, Kelly and Kokaram, 2004, "A new robust technique for stabilizing
        brightness fluctuations in image sequences". Naranjo and Albiol, 2000, "Flicker
        reduction in old films".
    """
    array = np.asarray(frames)
    check_frames("frames", array)
    cells = CELLS if local else None
    law = stack_laws(frame_law(frame, cells=cells, mask=mask) for frame in array)
    steady = steady_law(law, window=window, cuts=cuts)
    out = np.empty_like(array)
    for number, frame in enumerate(array):
        curve = frame_curve(steady, number, strength=strength, max_slope=max_slope)
        out[number] = steady_frame(frame, curve)
    return jnp.asarray(out) if isinstance(frames, jax.Array) else out


def frame_law(
    frame: Any, *, cells: tuple[int, int] | None = None, mask: Any = None
) -> FrameLaw:
    """The brightness of one frame, of which at most 262144 pixels are looked at.

    Args:
        frame: (h, w) or (h, w, c), as for `deflicker`.
        cells: rows and columns of cells, around whose corners the local variant looks;
            None: it is not asked for.
        mask: (h, w), pixels that count.

    Returns:
        64 quantiles, of blocks too, and a thumbnail. NaN does not count.

    Raises:
        ValueError: no picture; a mask of another size; no pixel counts.
    """
    pixels, _ = split_alpha("frame", frame)
    valid = hard_mask("mask", mask, pixels)
    thin = thinned(pixels.shape[:2])
    luma = _luma(to_unit(pixels[thin]))
    finite = np.isfinite(luma)
    valid = finite if valid is None else finite & valid[thin]
    return law_of_codes(_codes(luma, _NUM_CODES), _NUM_CODES, cells=cells, valid=valid)


def law_of_codes(
    codes: np.ndarray,
    num_codes: int,
    *,
    cells: tuple[int, int] | None = None,
    valid: np.ndarray | None = None,
) -> FrameLaw:
    """`frame_law` of a luma in integers, 0 for black to `num_codes` - 1 for white.

    Args:
        codes: (h, w).
        num_codes: at most some thousands.
        cells: as for `frame_law`.
        valid: pixels that count, bool, (h, w).
    """
    (parts, num_parts), (places, num_places) = (
        _places(codes.shape, grid) for grid in (_thumbnail_grid(cells), cells or (1, 1))
    )
    if valid is None:
        valid = np.ones(codes.shape, bool)
    chosen = codes[valid].astype(np.int64)
    check_pixels_left(chosen.size)
    parts, places = parts[valid], places[valid]
    sums = np.bincount(parts, chosen, minlength=num_parts)
    means = sums / np.maximum(np.bincount(parts, minlength=num_parts), 1)
    thumbnail = (means / (num_codes - 1)).reshape(_thumbnail_grid(cells))
    counts = np.bincount(places * num_codes + chosen, minlength=num_places * num_codes)
    counts = counts.reshape(*(cells or (1, 1)), num_codes).astype(np.int32)
    whole, blocks = _quantiles(counts, cells is not None)
    return FrameLaw(whole, blocks, np.asarray(thumbnail, np.float32))


@functools.partial(jax.jit, static_argnames="local")
def _quantiles(counts: Array, local: bool) -> tuple[Array, Array]:
    """Of all cells together, and of the cells around each corner."""
    num_codes = counts.shape[-1]
    total = jnp.sum(counts, axis=(0, 1))
    wide = jnp.pad(counts if local else counts[:0, :0], ((1, 1), (1, 1), (0, 0)))
    around = wide[1:, 1:] + wide[1:, :-1] + wide[:-1, 1:] + wide[:-1, :-1]
    around = around if local else around[:0, :0]
    few = jnp.sum(around, axis=-1, keepdims=True) < _FEWEST
    around = jnp.where(few, jnp.broadcast_to(total, around.shape), around)
    levels = (jnp.arange(_NUM_LEVELS, dtype=jnp.float32) + 0.5) / _NUM_LEVELS
    # a code stands for all that is rounded to it
    half = 0.5 / (num_codes - 1)
    whole, blocks = (
        jnp.clip(histogram_quantile(c, levels, low=-half, high=1 + half), 0, 1)
        for c in (total, around)
    )
    return whole, blocks


def thinned(shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Every how many rows and columns of a frame of that shape are measured."""
    step = max(1, int(np.ceil((shape[0] * shape[1] / _MOST_PIXELS) ** 0.5)))
    return slice(step // 2, None, step), slice(step // 2, None, step)


def _thumbnail_grid(cells: tuple[int, int] | None) -> tuple[int, int]:
    return _THUMBNAIL if cells is None else (_PARTS * cells[0], _PARTS * cells[1])


@functools.lru_cache(maxsize=8)
def _places(shape: tuple[int, int], grid: tuple[int, int]) -> tuple[np.ndarray, int]:
    """The number of the part of a grid that each pixel lies in, and how many."""
    row, column = (np.arange(s) * g // s for s, g in zip(shape, grid, strict=True))
    return row[:, None] * grid[1] + column, grid[0] * grid[1]


def stack_laws(laws: Iterable[FrameLaw]) -> FrameLaw:
    """The laws of single frames as one, with a leading axis t."""
    return FrameLaw(*(np.stack(parts) for parts in zip(*laws, strict=True)))


def steady_law(
    law: FrameLaw,
    *,
    window: int | float = 17,
    cuts: Sequence[int] | np.ndarray | None = None,
) -> SteadyLaw:
    """The brightness that each frame should have.

    Args:
        law: of all frames, from `stack_laws`.
        window: as for `deflicker`.
        cuts: as for `deflicker`.
    """
    found = find_cuts(law) if cuts is None else np.asarray(cuts)
    whole = steady_quantiles(law.whole, window=window, cuts=found)
    if not np.size(law.blocks):
        trust = np.ones(law.blocks.shape[:3], np.float32)
        return SteadyLaw(law, law._replace(whole=whole), trust, found)
    blocks = steady_quantiles(law.blocks, window=window, cuts=found)
    target = FrameLaw(np.asarray(whole), np.asarray(blocks), law.thumbnail)
    return SteadyLaw(law, target, np.asarray(block_reliability(law, found)), found)


def frame_curve(
    steady: SteadyLaw,
    number: int,
    *,
    strength: int | float = 1.0,
    max_slope: int | float = 2.5,
) -> Float[np.ndarray, "*b n"]:
    """How a frame must be changed: `flicker_curve`, or one for each block, (y, x, n).

    Args:
        steady: from `steady_law`.
        number: of the frame.
        strength: share of the change, 0 to 1.
        max_slope: as for `deflicker`.
    """
    law, target = (
        FrameLaw(*(x[number] for x in part)) for part in (steady.law, steady.target)
    )
    numbers = {"strength": strength, "max_slope": max_slope}
    if not np.size(law.blocks):
        return np.asarray(flicker_curve(law.whole, target.whole, **numbers))
    return np.asarray(block_curves(law, target, steady.reliability[number], **numbers))


def steady_frame(frame: Any, curve: Any) -> Any:
    """A frame after the change of brightness that a curve tells of.

    Args:
        frame: (h, w) or (h, w, c), as for `deflicker`.
        curve: from `frame_curve`.

    Returns:
        An array like `frame`.
    """
    pixels, alpha = split_alpha("frame", frame)
    num_codes = 256 if pixels.dtype == np.uint8 else _NUM_FINE
    curve, unit = np.asarray(curve), to_unit(pixels)

    def change(values: np.ndarray) -> np.ndarray:
        return luma_change(_codes(values, num_codes), num_codes, curve)

    moved = np.stack([change(unit[..., i]) for i in range(unit.shape[-1])], axis=-1)
    luma = _luma(unit)
    # where the function bends, its mean over the channels is not that of their mean
    moved += (change(luma) - _luma(moved))[..., None]
    # what was outside of [0, 1], as floats may be, stays there
    most = white(pixels.dtype)
    x = pixels.astype(np.float32) if pixels.dtype.kind == "u" else pixels
    out = np.clip(x + most * moved, np.minimum(x, 0), np.maximum(x, most))
    out = np.rint(out) if pixels.dtype.kind == "u" else out
    return join_alpha(out.astype(pixels.dtype), alpha, frame)


def luma_change(
    codes: np.ndarray, num_codes: int, curve: np.ndarray
) -> Float[np.ndarray, "h w"]:
    """How far the value of each pixel moves, in units of white.

    Args:
        codes: values in integers, 0 for black to `num_codes` - 1 for white, (h, w).
        num_codes: at most some thousands.
        curve: from `frame_curve`; those of blocks are blended bilinearly.
    """
    place = np.linspace(0, curve.shape[-1] - 1, num_codes)
    cell = np.minimum(place.astype(np.int64), curve.shape[-1] - 2)
    share = (place - cell).astype(np.float32)
    tables = curve[..., cell] * (1 - share) + curve[..., cell + 1] * share
    tables = tables.astype(np.float32)
    if curve.ndim == 1:
        return tables[codes]
    out = np.empty(codes.shape, np.float32)
    (tops, down), (lefts, across) = (
        _blends(size, grid - 1)
        for size, grid in zip(codes.shape, curve.shape[:2], strict=True)
    )
    for i, (top, bottom) in enumerate(zip(tops, tops[1:], strict=False)):
        for j, (left, right) in enumerate(zip(lefts, lefts[1:], strict=False)):
            corners = tables[i : i + 2, j : j + 2].reshape(4, num_codes).T
            four = np.ascontiguousarray(corners)[codes[top:bottom, left:right]]
            x, y = across[left:right], down[top:bottom, None]
            upper = four[..., 0] + x * (four[..., 1] - four[..., 0])
            lower = four[..., 2] + x * (four[..., 3] - four[..., 2])
            out[top:bottom, left:right] = upper + y * (lower - upper)
    return out


@functools.lru_cache(maxsize=8)
def _blends(size: int, num_cells: int) -> tuple[list[int], np.ndarray]:
    """Where cells begin along an axis, and how far each pixel is through its own."""
    place = (np.arange(size) + 0.5) * num_cells / size
    cell = np.arange(size) * num_cells // size
    starts = [int(np.searchsorted(cell, c)) for c in range(num_cells + 1)]
    return starts, np.clip(place - cell, 0, 1).astype(np.float32)


def _luma(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels @ _LUMA


def _codes(values: np.ndarray, num_codes: int) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        scaled = np.nan_to_num(values * np.float32(num_codes - 1))
    return np.clip(np.rint(scaled), 0, num_codes - 1).astype(np.int32)
