"""Errors on clips, frames and shot cuts."""

from typing import Any

import numpy as np


def check_frames(name: str, frames: np.ndarray) -> None:
    """Raises unless `frames` is (t, h, w) or (t, h, w, 1 to 4), not empty."""
    if frames.dtype == object or frames.ndim not in (3, 4):
        raise ValueError(
            f"`{name}` must be a clip, (t, h, w) or (t, h, w, c); got shape "
            f"{frames.shape}."
        )
    if frames.size == 0:
        raise ValueError(f"`{name}` must not be empty; got shape {frames.shape}.")


def check_laws(num_axes: int) -> None:
    """Raises unless a law of frames has its axis of time."""
    if num_axes != 2:
        raise ValueError(
            "`law` must be of several frames, with an axis t; got the law of one. "
            "`stack_laws` makes one of many."
        )


def as_cuts(name: str, cuts: Any, num_frames: int) -> np.ndarray:
    """Numbers of frames as int64, without the first; raises for any others."""
    cuts = np.asarray(cuts)
    if cuts.ndim != 1 or (cuts.size and cuts.dtype.kind not in "iu"):
        raise ValueError(f"`{name}` must be a list of numbers of frames; got {cuts}.")
    cuts = np.unique(cuts.astype(np.int64))
    if cuts.size and not 0 <= cuts[0] <= cuts[-1] < num_frames:
        raise ValueError(
            f"`{name}` must be numbers of frames, 0 to {num_frames - 1}; got "
            f"{cuts[0] if cuts[0] < 0 else cuts[-1]}."
        )
    return cuts[cuts > 0]


def check_rate(rate: Any, from_folder: bool, to_folder: bool) -> None:
    """Raises unless there is a rate where it is needed, and none where it is known."""
    if from_folder and not to_folder and rate is None:
        raise ValueError(
            "`rate` must be given: a folder does not say how many frames a second a "
            "video of them has."
        )
    if not from_folder and rate is not None:
        raise ValueError("`rate` is for folders of frames; a video has its own.")
