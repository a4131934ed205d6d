"""Frames as video stores them: a plane of luma, two of chroma, integers.

Flicker is removed there without a detour over RGB: what the map does not change stays
as it is, bit for bit, at any depth, subsampling and colour matrix.
"""

from typing import Any, NamedTuple

import numpy as np

from .flicker import MOST_RATIO, law_of_codes, luma_change, thinned
from .flicker_curves import FrameLaw


class Planes(NamedTuple):
    """The planes of a frame, and what their values mean.

    Attributes:
        luma: uint8 or uint16, (h, w).
        chroma: none, or two of the dtype of `luma`, as large or smaller.
        black: luma of black, 16 for most 8-bit video.
        white: luma of white, 235 for most 8-bit video.
        depth: bits of a sample; no chroma is at half of its range.
    """

    luma: np.ndarray
    chroma: tuple[np.ndarray, ...]
    black: int
    white: int
    depth: int


def planes_law(
    frame: Planes, *, cells: tuple[int, int] | None = None, mask: Any = None
) -> FrameLaw:
    """The brightness of a frame, as `frame_law`; `mask` is bool, (h, w)."""
    thin = thinned(frame.luma.shape)
    inside = np.clip(frame.luma[thin], frame.black, frame.white) - frame.black
    shift = max(0, int(frame.white - frame.black).bit_length() - 10)
    num_codes = ((frame.white - frame.black) >> shift) + 1
    valid = None if mask is None else mask[thin]
    return law_of_codes(inside >> shift, num_codes, cells=cells, valid=valid)


def steady_planes(frame: Planes, curve: np.ndarray) -> Planes:
    """A frame after the change of brightness that a curve tells of.

    Chroma is scaled with the luma, which keeps hue and saturation as `steady_frame`
    does; colours that no screen can show are left to the player. Luma below black or
    above white moves as black or white does.

    Args:
        frame: of any depth.
        curve: from `frame_curve`.

    Returns:
        New planes; `frame` itself where the curve is zero.
    """
    if not np.any(curve):
        return frame
    most = (1 << frame.depth) - 1
    span = frame.white - frame.black
    if curve.ndim == 1:  # one table does it
        codes = np.arange(most + 1)
        place = np.clip((codes - frame.black) / span, 0, 1) * (len(curve) - 1)
        moved = span * np.interp(place, np.arange(len(curve)), curve)
        table = np.clip(np.rint(codes + moved), 0, most).astype(frame.luma.dtype)
        luma = _looked_up(table, frame.luma)
    else:
        inside = np.clip(frame.luma, frame.black, frame.white) - frame.black
        shift = max(0, int(span).bit_length() - 12)
        moved = luma_change(inside >> shift, (span >> shift) + 1, curve)
        moved *= np.float32(span)
        luma = np.clip(np.rint(frame.luma + moved), 0, most).astype(frame.luma.dtype)
    chroma = tuple(_scaled(plane, frame, luma) for plane in frame.chroma)
    return frame._replace(luma=luma, chroma=chroma)


def _looked_up(table: np.ndarray, plane: np.ndarray) -> np.ndarray:
    if plane.dtype == np.uint8:  # six times as fast as indexing
        moved = plane.tobytes().translate(table.tobytes())
        return np.frombuffer(moved, np.uint8).reshape(plane.shape)
    return table[plane]


def _scaled(chroma: np.ndarray, frame: Planes, luma: np.ndarray) -> np.ndarray:
    """A plane of chroma, scaled by the ratio of the luma after and before."""
    height, width = chroma.shape
    down, across = (
        -(-full // part) for full, part in zip(luma.shape, chroma.shape, strict=True)
    )
    black = np.float32(frame.black)
    before, after = (
        plane[::down, ::across][:height, :width] - black for plane in (frame.luma, luma)
    )
    ratio = np.maximum(after, 1) / np.maximum(before, 1)
    ratio = np.clip(ratio, 1 / MOST_RATIO, MOST_RATIO)
    neutral = np.float32(1 << (frame.depth - 1))
    scaled = np.rint(neutral + ratio * (chroma - neutral))
    return np.clip(scaled, 0, (1 << frame.depth) - 1).astype(chroma.dtype)
