"""Folders of frames made into videos, and videos made into folders of frames."""

import itertools
import os
import pathlib
import tempfile
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from transportjax._checks import check_number
from transportjax._files import atomic_write

from .frame_folders import check_folder, folder_frames
from .images import write_picture
from .picture import Picture
from .video import (
    VideoError,
    decoded,
    import_av,
    naming_video,
    open_video,
    pixels_of,
    planes_of,
)
from .video_encoding import (
    FEW,
    TAGS,
    add_video,
    check_video_output,
    fill_planes,
    find_encoding,
    open_output,
    pixels_frame,
)
from .video_hdr import hdr_notes


def folder_to_video(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    change: Callable[[int, np.ndarray], Any],
    *,
    rate: int | float | Fraction,
    lossless: bool = False,
    quality: int | float | None = None,
    overwrite: bool = False,
) -> tuple[str, ...]:
    """Writes the frames of a folder, changed, as a video.

    8 bits become H.264, 16 bits HEVC of 10 bits, both with half as much chroma along
    each axis, or all of it where a side is odd; the matrix is that of Rec. 709.

    Args:
        source: a folder of pictures (`folder_frames`), uint8 or uint16.
        path: as for `rewrite_video`.
        change: called with the number of each frame and its pixels, gives new pixels.
        rate: frames a second.
        lossless: as for `rewrite_video`.
        quality: as for `rewrite_video`.
        overwrite: whether an existing file may be replaced.

    Returns:
        What could not be kept, in sentences.

    Raises:
        ValueError: frames of floats; `rate` is not above 0; `path` has another ending;
            or PyAV is not installed.
        PictureError: a frame cannot be read, or differs from the first.
        OSError: a file exists already, or cannot be written.
    """
    check_number("rate", rate, 1e-3, 1e4)
    if quality is not None:
        check_number("quality", quality, 0, 51)
    check_video_output(path, lossless=lossless)
    shown = os.fsdecode(path)
    rate = Fraction(rate).limit_denominator(1001)
    pictures = folder_frames(source)
    ahead = list(itertools.islice(pictures, FEW))
    if ahead[0].pixels.dtype.kind == "f":
        raise VideoError(f"{os.fsdecode(source)}: frames of floats cannot be a video")
    first = _template(ahead[0].pixels)
    encoding, notes = find_encoding(first, len(ahead), True, lossless, quality)
    with (
        atomic_write(shown, overwrite=overwrite) as file,
        naming_video(shown, "encoded"),
        open_output(file, pathlib.Path(path)) as out,
    ):
        target = add_video(out, first, encoding, rate, 1 / rate)
        lost = False
        for number, picture in enumerate(itertools.chain(ahead, pictures)):
            lost |= picture.alpha is not None
            pixels = _colours(change(number, picture.pixels))
            frame = pixels_frame(pixels, first, encoding.pixel_format)
            frame.pts, frame.time_base = number, 1 / rate
            out.mux(target.encode(frame))
        out.mux(target.encode(None))
    return (*notes, *["its transparency was dropped"] * lost)


def _colours(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels


def _template(pixels: np.ndarray) -> Any:
    """A frame that has the format and the tags of the video to write."""
    deep = pixels.dtype == np.uint16
    height, width = pixels.shape[:2]
    name = "yuv420p10le" if deep else "yuv420p"
    frame = import_av().VideoFrame(width, height, name)
    for tag in TAGS:
        setattr(frame, tag, 1)  # limited range; Rec. 709
    return frame


def video_to_folder(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    change: Callable[[int, Any], Any],
    *,
    rgb: bool = True,
    overwrite: bool = False,
) -> tuple[str, ...]:
    """Writes the frames of a video, changed, as pictures, 000000.png and on.

    They are turned as they are shown. Frames of more than 8 bits become PNG of 16. The
    folder is made when all of them are there.

    Args:
        source: a video.
        path: a folder, which may exist if it is empty.
        change: as for `rewrite_video`.
        rgb: as for `rewrite_video`.
        overwrite: whether files of the same names may be replaced; others are left
            alone.

    Returns:
        What could not be kept, in sentences.

    Raises:
        VideoError: `source` is no video, damaged, or truncated; or PyAV is not
            installed.
        OSError: `path` is not empty and `overwrite` is False, or cannot be written.
    """
    target = pathlib.Path(path)
    check_folder(target, overwrite)
    notes = ["the times of its frames were not kept"]
    with (
        open_video(source) as (container, stream),
        tempfile.TemporaryDirectory(
            prefix=f".{target.name}.part-", dir=target.resolve().parent
        ) as made,
    ):
        if len(container.streams) > 1:
            notes.append("its sound and other streams were left out")
        names = []
        for number, frame in enumerate(decoded(source, container, stream)):
            if not number:
                if any(part.is_alpha for part in frame.format.components):
                    notes.append("its transparency was dropped")
                notes += hdr_notes(frame, [], graded=rgb)
            planes = None if rgb else planes_of(frame)
            if planes is None:
                pixels = change(number, pixels_of(frame))
            else:
                # in a new frame the place of chroma samples would not be known
                fill_planes(frame, change(number, planes))
                pixels = pixels_of(frame)
            pixels = np.rot90(pixels, frame.rotation // 90)
            names.append(f"{number:06}.png")
            picture = Picture(np.ascontiguousarray(pixels))
            write_picture(pathlib.Path(made, names[-1]), picture)
        target.mkdir(exist_ok=True)
        for name in names:
            os.replace(pathlib.Path(made, name), target / name)
    return tuple(notes)
