"""Pictures reduced to a few thousand colours with the same law; tables of colours."""

from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np

_MOST_PIXELS = 1 << 18  # a picture is thinned to so many pixels before it is ordered


def sample_colours(
    pixels: np.ndarray, num: int, *, seed: int = 0, mask: np.ndarray | None = None
) -> np.ndarray:
    """`num` colours of a picture whose law is close to that of all its pixels.

    The pixels are ordered along a space-filling curve of colour space (Z-order), and
    every k-th of them is taken, from a random start: a stratified sample, whose error
    falls much faster than that of a random one. The number of colours does not depend
    on the size of the picture, so that one compiled program serves all pictures.

    Args:
        pixels: uint8, uint16 or float, (h, w, c) with c = 1 or 3.
        num: number of colours.
        seed: of the random start.
        mask: pixels that count, bool, (h, w).

    Returns:
        Colours in the dtype of the picture, (num, c). Pixels with NaN are left out.

    Raises:
        ValueError: no pixel counts.
    """
    flat = valid_colours(pixels, mask)
    start = np.random.default_rng(seed).uniform(size=2)
    if len(flat) > _MOST_PIXELS:
        flat = flat[_every(len(flat), _MOST_PIXELS, start[0])]
    chosen = _every(len(flat), num, start[1])
    codes = _curve(_bytes(flat))
    if flat.dtype == np.uint8:
        codes.sort()
        return _uncurve(codes[chosen], flat.shape[1])
    return flat[np.argsort(codes, kind="stable")[chosen]]


def valid_colours(pixels: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """The colours (n, c) that count: inside of the mask, and finite.

    Raises:
        ValueError: there are none.
    """
    flat = pixels.reshape(-1, pixels.shape[-1])
    if mask is not None:
        flat = flat[mask.reshape(-1)]
    if np.issubdtype(flat.dtype, np.floating):
        finite = np.isfinite(flat).all(axis=1)
        flat = flat if finite.all() else flat[finite]
    if not len(flat):
        raise ValueError("no pixel to learn from: the mask is empty, or all is NaN.")
    return flat


def _every(length: int, num: int, start: float) -> np.ndarray:
    """`num` equally spaced positions among `length`, repeated if there are fewer."""
    return ((np.arange(num) + start) * (length / num)).astype(np.int64)


def _bytes(flat: np.ndarray) -> np.ndarray:
    """Colours at 8 bits a channel, between the extremes of the picture for floats."""
    if flat.dtype == np.uint8:
        return flat
    if flat.dtype == np.uint16:
        return (flat >> 8).astype(np.uint8)
    low, high = flat.min(), flat.max()
    scale = 255 / (high - low) if high > low else 0
    return ((flat - low) * scale).astype(np.uint8)


def _curve(flat: np.ndarray) -> np.ndarray:
    """Positions of 8-bit colours on the Z-order curve: the bits of channels mixed."""
    if flat.shape[1] == 1:
        return flat[:, 0].astype(np.uint32)
    spread = np.zeros(256, np.uint32)
    for bit in range(8):
        spread |= ((np.arange(256, dtype=np.uint32) >> bit) & 1) << (3 * bit)
    code = spread[flat[:, 0]] << 2
    code |= spread[flat[:, 1]] << 1
    code |= spread[flat[:, 2]]
    return code


def _uncurve(codes: np.ndarray, channels: int) -> np.ndarray:
    if channels == 1:
        return codes.astype(np.uint8)[:, None]
    out = np.zeros((len(codes), 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            value = (codes >> (3 * bit + 2 - channel)) & 1
            out[:, channel] |= (value << bit).astype(np.uint8)
    return out


class Distinct(NamedTuple):
    """The colours of an 8-bit picture, packed, and each of them once."""

    codes: np.ndarray
    distinct: np.ndarray


def find_distinct(pixels: np.ndarray) -> Distinct | None:
    """The distinct colours of an 8-bit picture; None for pictures of other kinds."""
    if pixels.dtype != np.uint8 or pixels.shape[-1] != 3:
        return None
    codes = pack_colours(pixels.reshape(-1, 3))
    seen = np.zeros(1 << 24, bool)
    seen[codes] = True
    return Distinct(codes, np.flatnonzero(seen).astype(np.uint32))


def map_distinct(
    function: Callable[[np.ndarray], np.ndarray],
    pixels: np.ndarray,
    found: Distinct | None = None,
) -> np.ndarray:
    """An 8-bit picture through `function`, which meets each distinct colour once.

    Exact, and fast where colours repeat: a photograph of 24 megapixels holds well under
    a million.

    Args:
        function: takes uint8 colours (n, c), gives uint8 colours (n, c).
        pixels: uint8, (h, w, c) with c = 1 or 3.
        found: the distinct colours, if they are known already.

    Returns:
        The picture, uint8, (h, w, c).
    """
    if pixels.shape[-1] == 1:
        grey = np.arange(256, dtype=np.uint8)[:, None]
        return function(grey)[:, 0][pixels]
    codes, distinct = found or cast(Distinct, find_distinct(pixels))
    table = np.empty(1 << 24, np.uint32)
    table[distinct] = pack_colours(function(unpack_colours(distinct)))
    return unpack_colours(table[codes]).reshape(pixels.shape)


def pack_colours(colours: np.ndarray) -> np.ndarray:
    """The three bytes of each colour (n, 3) in one uint32, blue highest."""
    code = colours[:, 2].astype(np.uint32)
    for channel in (1, 0):
        code <<= 8
        code |= colours[:, channel]
    return code


def unpack_colours(codes: np.ndarray) -> np.ndarray:
    """The inverse of `pack_colours`: uint8 colours (n, 3)."""
    colours = np.empty((len(codes), 3), np.uint8)
    for channel in range(3):
        colours[:, channel] = (codes >> (8 * channel)).astype(np.uint8)
    return colours
