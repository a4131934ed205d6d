"""Frames as video stores them: a plane of luma, two of chroma, integers.

Flicker is removed there without a detour over RGB: what the map does not change stays
as it is, bit for bit, at any depth, subsampling and colour matrix.
"""

from typing import Any, NamedTuple

import numpy as np

from .flicker import law_of_codes, luma_change, thinned
from .flicker_curves import FrameLaw

# (blue - luma) / Cb and (red - luma) / Cr: 1.86 and 1.57 for Rec. 709, 1.77 and 1.40
# for Rec. 601, 1.88 and 1.47 for Rec. 2020; the result hardly depends on them
_FACTORS = (1.85, 1.5)


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

    Red and blue are moved by the function that moves luma, as `steady_frame` moves all
    channels. Luma below black or above white moves as black or white does.

    Args:
        frame: of any depth.
        curve: from `frame_curve`.

    Returns:
        New planes; `frame` itself where the curve is zero.
    """
    if not np.any(curve):
        return frame
    most = (1 << frame.depth) - 1
    if curve.ndim == 1 and frame.luma.dtype == np.uint8:  # one table does it
        codes = np.arange(most + 1)[None]
        table = np.clip(np.rint(codes + _moved(codes, frame, curve)), 0, most)
        # six times as fast as indexing
        looked_up = frame.luma.tobytes().translate(table.astype(np.uint8).tobytes())
        luma = np.frombuffer(looked_up, np.uint8).reshape(frame.luma.shape)
    else:
        luma = np.rint(frame.luma + _moved(frame.luma, frame, curve))
        luma = np.clip(luma, 0, most).astype(frame.luma.dtype)
    chroma = tuple(
        _steady_chroma(plane, frame, curve, factor)
        for plane, factor in zip(frame.chroma, _FACTORS, strict=False)
    )
    return frame._replace(luma=luma, chroma=chroma)


def _moved(codes: np.ndarray, frame: Planes, curve: np.ndarray) -> np.ndarray:
    """How far values of luma, red or blue move, in units of the stored luma."""
    span = frame.white - frame.black
    inside = (np.clip(codes, frame.black, frame.white) - frame.black).astype(np.int32)
    shift = max(0, int(span).bit_length() - 12)
    moved = luma_change(inside >> shift, (span >> shift) + 1, curve)
    return moved * np.float32(span)


def _steady_chroma(
    chroma: np.ndarray, frame: Planes, curve: np.ndarray, factor: float
) -> np.ndarray:
    """Chroma c is (x - y) / factor of a channel x and luma y: both move."""
    height, width = chroma.shape
    down, across = (
        -(-full // part)
        for full, part in zip(frame.luma.shape, chroma.shape, strict=True)
    )
    luma = frame.luma[::down, ::across][:height, :width].astype(np.float32)
    neutral = np.float32(1 << (frame.depth - 1))
    # the range of chroma is 224 / 219 of that of luma, unless both are full
    span = 219 / 224 if frame.black else 1.0
    slope = np.float32(factor * span)
    channel = luma + slope * (chroma - neutral)
    moved = _moved(np.rint(channel), frame, curve) - _moved(luma, frame, curve)
    out = np.rint(chroma + moved / slope)
    return np.clip(out, 0, (1 << frame.depth) - 1).astype(chroma.dtype)
