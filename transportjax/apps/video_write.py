"""A video written as another with its frames changed, and all else as it was."""

import contextlib
import itertools
import os
import pathlib
from collections.abc import Callable
from typing import Any

from transportjax._checks import check_number
from transportjax._files import atomic_write

from .video import decoded, import_av, naming_video, open_video, pixels_of, planes_of
from .video_encoding import (
    FEW,
    Encoding,
    add_video,
    check_video_output,
    find_encoding,
    in_format,
    open_output,
    pixels_frame,
    planes_frame,
)


def rewrite_video(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    change: Callable[[int, Any], Any],
    *,
    rgb: bool = True,
    lossless: bool = False,
    quality: int | float | None = None,
    overwrite: bool = False,
) -> tuple[str, ...]:
    """Writes the video `source` to `path` with its frames changed.

    Times of frames, however irregular, audio, subtitles, chapters, rotation, the shape
    of pixels, colour tags and texts are kept, and so are, in HEVC, the mastering
    display and the light level of HDR; audio and subtitles are copied, not encoded
    anew. Frames of 8 bits become H.264, deeper ones HEVC of 10 or 12 bits, in the
    subsampling that they have. The file appears under its name when it is complete,
    not before; .mp4 and .mov have their index in front, so that they play while they
    load.

    Args:
        source: a video.
        path: where to, .mp4, .m4v, .mov or .mkv.
        change: called with the number of each frame and the frame, gives a frame of
            the same kind and size.
        rgb: whether frames come as RGB pixels (`video_frames`); else they come as
            `Planes` where the video stores luma and chroma, which needs no conversion.
        lossless: FFV1, in .mkv, so that nothing is lost but to rounding.
        quality: the CRF of the encoder, less is better; None: 16 for H.264 and 18 for
            HEVC, which the eye does not tell from the original.
        overwrite: whether an existing file may be replaced.

    Returns:
        What could not be kept, in sentences.

    Raises:
        VideoError: `source` is no video, damaged, or truncated; `path` has another
            ending; the encoder fails; or PyAV is not installed.
        OSError: a file is missing, exists already, or cannot be written.
    """
    if quality is not None:
        check_number("quality", quality, 0, 51)
    check_video_output(path, lossless=lossless)
    shown = os.fsdecode(path)
    first, num = _first_frames(source)
    encoding, notes = find_encoding(first, num, rgb, lossless, quality)
    with (
        open_video(source) as (container, stream),
        atomic_write(shown, overwrite=overwrite) as file,
        naming_video(shown, "encoded"),
        open_output(file, pathlib.Path(path)) as out,
    ):
        target = _add_video(out, stream, first, encoding)
        others, left = _add_others(out, container, stream)
        copy_packet = _copier(out, others)
        last = None
        for number, frame in enumerate(decoded(source, container, stream, copy_packet)):
            new = _changed(frame, number, change, rgb, encoding.pixel_format)
            new.pts = _next_time(frame, last, stream)
            new.time_base = stream.time_base
            last = new.pts
            out.mux(target.encode(new))
        out.mux(target.encode(None))
    return (*notes, *left)


def _first_frames(source: str | os.PathLike[str]) -> tuple[Any, int]:
    """The first frame, and how many there are, `FEW` or fewer."""
    with (
        open_video(source) as (container, stream),
        contextlib.closing(decoded(source, container, stream)) as frames,
    ):
        found = list(itertools.islice(frames, FEW))
        return found[0], len(found)


def _add_video(out: Any, stream: Any, first: Any, encoding: Encoding) -> Any:
    """The stream of changed frames, with what the source says of its frames."""
    rate = stream.average_rate or stream.guessed_rate
    target = add_video(out, first, encoding, rate, stream.time_base)
    if stream.sample_aspect_ratio:
        target.codec_context.sample_aspect_ratio = stream.sample_aspect_ratio
    if first.rotation:
        target.set_display_rotation(first.rotation)
    _describe(target, stream)
    return target


def _describe(target: Any, stream: Any) -> None:
    told = {k: v for k, v in stream.metadata.items() if k not in _WRITTEN_ANEW}
    target.metadata.update(told)
    target.disposition = stream.disposition


_WRITTEN_ANEW = ("DURATION", "ENCODER", "encoder", "BPS", "NUMBER_OF_FRAMES")


def _add_others(out: Any, container: Any, stream: Any) -> tuple[dict, list[str]]:
    """Copies of all other streams, by index, and notes on those left out."""
    av = import_av()
    out.metadata.update(container.metadata)
    chapters = container.chapters()
    if chapters:
        out.set_chapters(chapters)
    others, notes = {}, []
    for other in container.streams:
        if other is stream:
            continue
        what = f"stream {other.index} ({other.type})"
        if other.type == "attachment":
            out.add_attachment(other.name or "", other.mimetype or "", other.data)
            continue
        try:
            others[other.index] = out.add_stream_from_template(other)
            _describe(others[other.index], other)
        except (ValueError, av.error.FFmpegError):
            notes.append(f"{what} was left out: this kind of file cannot hold it")
    return others, notes


def _copier(out: Any, others: dict) -> Callable[[Any], None]:
    def copy_packet(packet: Any) -> None:
        target = others.get(packet.stream.index)
        if target is not None and packet.dts is not None:
            packet.stream = target
            out.mux_one(packet)

    return copy_packet


def _next_time(frame: Any, last: int | None, stream: Any) -> int:
    """When a frame is shown, later than the one before it."""
    if frame.pts is not None and (last is None or frame.pts > last):
        return frame.pts
    if last is None:
        return 0
    rate = stream.average_rate or stream.guessed_rate
    step = round(1 / (rate * stream.time_base)) if rate else 1
    return last + max(1, step)


def _changed(
    frame: Any, number: int, change: Callable, rgb: bool, pixel_format: str
) -> Any:
    """The frame after the change, in the format of the encoder."""
    planes = None if rgb else planes_of(frame)
    if planes is None:
        return pixels_frame(change(number, pixels_of(frame)), frame, pixel_format)
    return in_format(planes_frame(frame, change(number, planes)), pixel_format)
