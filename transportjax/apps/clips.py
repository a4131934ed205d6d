"""Clips from file to file: flicker removed, or every frame graded by one map.

A clip is a video, or a folder of pictures. Two passes over its frames, of which only a
few are in memory at a time.
"""

import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any, NamedTuple, cast

import numpy as np

from transportjax._checks import check_count, check_rate

from .arrays import hard_mask
from .colour import restore_grain
from .colour_map import ColourMap
from .flicker import (
    CELLS,
    frame_curve,
    frame_law,
    stack_laws,
    steady_frame,
    steady_law,
)
from .flicker_curves import FrameLaw
from .frame_folders import folder_frames, rewrite_folder
from .frame_grading import frame_grader
from .frame_videos import folder_to_video, video_to_folder
from .lut import Lut
from .video import decoded, is_video_name, open_video, pixels_of, planes_of
from .video_planes import Planes, planes_law, steady_planes
from .video_write import rewrite_video

_MOST_SAMPLED = 1 << 16  # pixels of a frame that count for a map
Progress = Callable[[str, int, int | None], Any]


class DeflickerReport(NamedTuple):
    """What `deflicker_clip` did.

    Attributes:
        before: mean luma of each frame, 1 is white.
        after: the same of the frames that were written.
        cuts: frames that begin a shot.
        notes: sentences on what could not be kept.
    """

    before: np.ndarray
    after: np.ndarray
    cuts: np.ndarray
    notes: tuple[str, ...]


def is_clip(path: str | os.PathLike[str]) -> bool:
    """Whether a path is one of a video, by its ending, or of a folder."""
    return os.path.isdir(path) or is_video_name(path)


def is_folder_name(path: str | os.PathLike[str]) -> bool:
    """Whether frames that are written to a path go into a folder: no ending, or one."""
    return os.path.isdir(path) or not pathlib.Path(path).suffix


def clip_frames(path: str | os.PathLike[str], *, rgb: bool = True) -> Iterator[Any]:
    """The frames of a clip, one after another.

    Args:
        path: a video or a folder of pictures.
        rgb: whether those of a video come as RGB; else as `Planes` where they can.

    Raises:
        VideoError: no video, a damaged or a truncated one, or PyAV is not installed.
        PictureError: the folder holds no frames, or they are not alike.
        OSError: something cannot be read.
    """
    if os.path.isdir(path):
        for picture in folder_frames(path):
            yield picture.pixels
        return
    with open_video(path) as (container, stream):
        for frame in decoded(path, container, stream):
            planes = None if rgb else planes_of(frame)
            yield pixels_of(frame) if planes is None else planes


def _rewrite(
    source: Any,
    path: Any,
    change: Callable,
    *,
    rgb: bool,
    rate: int | float | Fraction | None,
    lossless: bool,
    quality: int | float | None,
    overwrite: bool,
) -> tuple[str, ...]:
    """Frames from a folder or a video to a folder or a video."""
    from_folder, to_folder = os.path.isdir(source), is_folder_name(path)
    if from_folder and to_folder:
        return rewrite_folder(source, path, change, overwrite=overwrite)
    if to_folder:
        return video_to_folder(source, path, change, rgb=rgb, overwrite=overwrite)
    video = {"lossless": lossless, "quality": quality, "overwrite": overwrite}
    if from_folder:
        return folder_to_video(source, path, change, rate=cast(Any, rate), **video)
    return rewrite_video(source, path, change, rgb=rgb, **video)


def deflicker_clip(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    window: int | float = 17,
    strength: int | float = 1.0,
    local: bool = False,
    cuts: Sequence[int] | np.ndarray | None = None,
    mask: Any = None,
    max_slope: int | float = 2.5,
    rate: int | float | Fraction | None = None,
    lossless: bool = False,
    quality: int | float | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> DeflickerReport:
    """Writes a clip without its flicker: `deflicker`, from file to file.

    Args:
        source: a video, or a folder of pictures.
        path: where to: a video, or, if it has no ending, a folder (`rewrite_video`,
            `rewrite_folder`, `folder_to_video`, `video_to_folder`).
        window: as for `deflicker`, in frames.
        strength: as for `deflicker`.
        local: as for `deflicker`.
        cuts: as for `deflicker`.
        mask: (h, w), where to learn the brightness.
        max_slope: as for `deflicker`.
        rate: frames a second of a folder, needed where it becomes a video.
        lossless: as for `rewrite_video`.
        quality: as for `rewrite_video`.
        overwrite: whether existing files may be replaced.
        progress: called with "measure" or "write", the number of frames done and the
            number of all, None if it is not known yet.

    Returns:
        Brightness before and after, cuts and notes.

    Raises:
        ValueError: an option is out of range, or files are no clips (`clip_frames`).
        OSError: something cannot be read or written.
    """
    check_rate(rate, os.path.isdir(source), is_folder_name(path))
    tell = progress or (lambda *_: None)
    cells = CELLS if local else None
    laws = []
    for frame in clip_frames(source, rgb=False):
        laws.append(_law(frame, cells, mask))
        tell("measure", len(laws), None)
    law = stack_laws(laws)
    steady = steady_law(law, window=window, cuts=cuts)
    after = np.zeros(len(laws))

    def change(number: int, frame: Any) -> Any:
        curve = frame_curve(steady, number, strength=strength, max_slope=max_slope)
        steadied = steady_planes if isinstance(frame, Planes) else steady_frame
        new = steadied(frame, curve)
        after[number] = _law(new, None, mask).whole.mean()
        tell("write", number + 1, len(laws))
        return new

    notes = _rewrite(
        source,
        path,
        change,
        rgb=False,
        rate=rate,
        lossless=lossless,
        quality=quality,
        overwrite=overwrite,
    )
    before = np.asarray(law.whole).mean(axis=1)
    return DeflickerReport(before, after, steady.cuts, notes)


def _law(frame: Any, cells: tuple[int, int] | None, mask: Any) -> FrameLaw:
    if not isinstance(frame, Planes):
        return frame_law(frame, cells=cells, mask=mask)
    held = hard_mask("mask", mask, frame.luma[..., None])
    return planes_law(frame, cells=cells, mask=held)


def grade_clip(
    colour_map: ColourMap | Lut,
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    mask: Any = None,
    smoothness: int | float | None = None,
    rate: int | float | Fraction | None = None,
    lossless: bool = False,
    quality: int | float | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> tuple[str, ...]:
    """Writes a clip with every frame changed by the same map, so that nothing flickers.

    8-bit frames become what `apply_colour_map` makes of them, deeper ones nearly so
    (`frame_grader`).

    Args:
        colour_map: a fitted map, or a 3-D table.
        source: a video, or a folder of pictures.
        path: where to, as for `deflicker_clip`.
        mask: as for `apply_colour_map`, the same for all frames.
        smoothness: if given, the grain of each frame is restored (`restore_grain`).
        rate: frames a second of a folder, needed where it becomes a video.
        lossless: as for `rewrite_video`.
        quality: as for `rewrite_video`.
        overwrite: whether existing files may be replaced.
        progress: as for `deflicker_clip`.

    Returns:
        Notes on what could not be kept.

    Raises:
        ValueError: files are no clips; a map of grey for a clip in colour, or reverse.
        OSError: something cannot be read or written.
    """
    check_rate(rate, os.path.isdir(source), is_folder_name(path))
    grade = frame_grader(colour_map, mask=mask)

    def change(number: int, pixels: np.ndarray) -> np.ndarray:
        moved = grade(pixels)
        if smoothness is not None:
            moved = restore_grain(pixels, moved, smoothness=smoothness)
        if progress:
            progress("write", number + 1, None)
        return moved

    return _rewrite(
        source,
        path,
        change,
        rgb=True,
        rate=rate,
        lossless=lossless,
        quality=quality,
        overwrite=overwrite,
    )


def sample_clip(
    path: str | os.PathLike[str],
    *,
    num_frames: int = 32,
    mask: Any = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """One picture with pixels of frames that are spread evenly over a clip.

    What a colour map of the whole clip is fitted to: `fit_colour_map` of it and a
    palette. All frames are read; at most twice `num_frames` are held, thinned.

    Args:
        path: a video, or a folder of pictures.
        num_frames: at least so many frames, if there are so many.
        mask: (h, w), pixels that count, True or > 0.5.
        progress: as for `deflicker_clip`.

    Returns:
        Pixels (n, 1, c) in the dtype of the clip.
    """
    check_count("num_frames", num_frames)
    kept, every = [], 1
    for number, frame in enumerate(clip_frames(path)):
        if progress:
            progress("measure", number + 1, None)
        if number % every:
            continue
        pixels = np.asarray(frame)
        held = hard_mask("mask", mask, pixels)
        flat = pixels.reshape(-1, pixels.shape[-1])
        flat = flat if held is None else flat[held.reshape(-1)]
        step = max(1, len(flat) // _MOST_SAMPLED)
        kept.append(flat[::step].copy())
        if len(kept) == 2 * num_frames:
            kept, every = kept[::2], 2 * every
    return np.concatenate(kept)[:, None]
