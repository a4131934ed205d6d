"""Videos, frame by frame, through PyAV, which is imported on first use.

FFmpeg is given no protocol but that of local files and no format but those of video, so
that a playlist cannot make it read other files. A file that ends early is an error.
"""

import contextlib
import errno
import os
import pathlib
import re
import stat
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from .video_planes import Planes

# demuxers, in FFmpeg's words
_FORMATS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,mxf,ogg,asf,flv,yuv4mpegpipe,gif"
_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts"),
    *(".m2ts", ".mxf", ".ogv", ".wmv", ".flv", ".3gp", ".y4m"),
)
_PLANAR = re.compile(r"(yuvj?4\d\dp|gray)(\d\d?le)?$")
_MOST_PIXELS = 1 << 27  # of a frame
FULL_RANGE = 2  # FFmpeg's AVCOL_RANGE_JPEG
# of swscale: bicubic, chroma for each pixel, and rounding, else a copy gets darker
CONVERSION = 0x4 | 0x2000 | 0x4000 | 0x40000


class VideoError(ValueError):
    """A video that cannot be read or written; the message names file and reason."""


def is_video_name(path: str | os.PathLike[str]) -> bool:
    """Whether the ending of a name is one of a video."""
    return pathlib.Path(path).suffix.lower() in _SUFFIXES


def import_av() -> Any:
    """PyAV.

    Raises:
        VideoError: it is not installed.
    """
    try:
        import av
    except ImportError:
        raise VideoError(
            "videos need PyAV: pip install 'transportjax[video]'. Folders of frames "
            "(PNG, TIFF, JPEG) do not."
        ) from None
    return av  # its logging stays off: on, it deadlocks with the threads of decoders


@contextlib.contextmanager
def naming_video(shown: str, done: str) -> Iterator[None]:
    """Turns whatever FFmpeg raises into a VideoError that names the file."""
    av = import_av()
    try:
        yield
    except av.error.FFmpegError as error:
        if isinstance(error, OSError) and error.errno:
            raise OSError(error.errno, os.strerror(error.errno), shown) from None
        reason = error.strerror or type(error).__name__
        raise VideoError(f"{shown}: cannot be {done}: {reason}") from error
    except VideoError as error:
        if str(error).startswith(shown):
            raise
        raise VideoError(f"{shown}: {error}") from error.__cause__


@contextlib.contextmanager
def open_video(path: str | os.PathLike[str]) -> Iterator[Any]:
    """The container of a video, and its video stream.

    Raises:
        VideoError: no video, or a damaged one; the message names it.
        OSError: the file is missing or cannot be opened.
    """
    shown = os.fsdecode(path)
    av = import_av()
    mode = os.stat(shown).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a video", shown)
    if not stat.S_ISREG(mode):
        raise VideoError(f"{shown}: is not a regular file")
    if not os.stat(shown).st_size:
        raise VideoError(f"{shown}: is empty")
    options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
    with open(shown, "rb"), naming_video(shown, "read as a video"):
        try:
            container = av.open("file:" + os.path.abspath(shown), options=options)
        except (av.error.ArgumentError, av.error.InvalidDataError) as error:
            raise VideoError(
                "cannot be read as a video: it is of another kind, or damaged"
            ) from error
    with container:
        stream = container.streams.best("video")  # no picture of a cover
        if stream is None:
            raise VideoError(f"{shown}: holds no video stream")
        if stream.codec_context is None or stream.width < 1 or stream.height < 1:
            raise VideoError(f"{shown}: its video cannot be decoded")
        if stream.width * stream.height > _MOST_PIXELS:
            raise VideoError(
                f"{shown}: has frames of {stream.width} x {stream.height} pixels, more "
                f"than {_MOST_PIXELS}"
            )
        stream.thread_type = "AUTO"
        yield container, stream


def decoded(
    path: str | os.PathLike[str],
    container: Any,
    stream: Any,
    other: Callable[[Any], None] | None = None,
) -> Generator[Any, None, None]:
    """The frames of a stream in the order in which they are shown, as PyAV has them.

    Args:
        path: of the file, for messages.
        container: from `open_video`.
        stream: from `open_video`.
        other: called with the packets of all other streams, as they come.

    Raises:
        VideoError: a frame is damaged, changes its size, or the file ends early.
    """
    shown = os.fsdecode(path)
    count, packets, end = 0, 0, Fraction(0)
    chosen = () if other else (stream,)
    with naming_video(shown, "decoded"):
        for packet in container.demux(*chosen):
            if packet.stream is not stream:
                if packet.size and other:
                    other(packet)
                continue
            if packet.size:
                packets += 1
                end = max(end, _end(packet))
            for frame in packet.decode():
                _check_frame(frame, stream, count)
                count += 1
                yield frame
    if not count:
        raise VideoError(f"{shown}: holds no frame")
    _check_whole(shown, container, stream, packets, end)


def _end(packet: Any) -> Fraction:
    """When the frame of a packet stops to be shown, in seconds."""
    if packet.pts is None or not packet.time_base:
        return Fraction(0)
    return (packet.pts + (packet.duration or 0)) * packet.time_base


def _check_frame(frame: Any, stream: Any, number: int) -> None:
    if frame.is_corrupt:
        raise VideoError(f"frame {number} is damaged")
    if (frame.width, frame.height) != (stream.width, stream.height):
        raise VideoError(
            f"frame {number} has {frame.width} x {frame.height} pixels; the frames "
            f"before it have {stream.width} x {stream.height}"
        )


def _check_whole(
    shown: str, container: Any, stream: Any, packets: int, end: Fraction
) -> None:
    """Raises if the container has told of more than there was."""
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    told = _told_end(container, stream)
    if told is None:
        return
    # where frames are missing by its own count, or it tells the time of this stream
    # alone, its time is not rounded
    exact = stream.frames > packets or "DURATION" in stream.metadata
    slack = Fraction(1, 2) if exact else Fraction(3, 2)
    if told - end > slack / rate:
        raise VideoError(
            f"{shown}: is cut off: {float(end):.2f} of {float(told):.2f} seconds are "
            f"there ({packets} frames)"
        )


def _told_end(container: Any, stream: Any) -> Fraction | None:
    """When the video ends by what the file says at its beginning, in seconds."""
    if stream.duration:
        return (stream.duration + (stream.start_time or 0)) * stream.time_base
    found = re.fullmatch(
        r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", "")
    )
    if found:
        hours, minutes, seconds = found.groups()
        return 3600 * int(hours) + 60 * int(minutes) + Fraction(seconds)
    only = all(s.type == "video" for s in container.streams)
    if only and container.duration and container.format.name != "gif":
        return Fraction(container.duration + (container.start_time or 0), 10**6)
    return None


def planes_of(frame: Any) -> Planes | None:
    """The planes of a frame of luma and chroma; None for one of another kind."""
    name = frame.format.name
    if not _PLANAR.match(name):
        return None
    depth = frame.format.components[0].bits
    dtype = np.uint8 if depth == 8 else np.uint16
    arrays = [plane_array(plane, dtype) for plane in frame.planes]
    black, white = luma_range(frame, depth)
    return Planes(arrays[0], tuple(arrays[1:3]), black, white, depth)


def plane_array(plane: Any, dtype: Any) -> np.ndarray:
    """The samples of a plane, without the padding of its lines; a view."""
    size = np.dtype(dtype).itemsize
    lines = np.frombuffer(plane, dtype)[: plane.line_size // size * plane.height]
    return lines.reshape(plane.height, -1)[:, : plane.width]


def luma_range(frame: Any, depth: int) -> tuple[int, int]:
    """The luma of black and of white."""
    name = frame.format.name
    untagged_grey = name.startswith("gray") and not frame.color_range
    if name.startswith("yuvj") or frame.color_range == FULL_RANGE or untagged_grey:
        return 0, (1 << depth) - 1
    return 16 << (depth - 8), 235 << (depth - 8)


def pixels_of(frame: Any) -> np.ndarray:
    """RGB pixels (h, w, 3) of a frame: uint8, or uint16 if it is deeper; a copy."""
    deep = max(part.bits for part in frame.format.components) > 8
    name = "rgb48le" if deep else "rgb24"
    if frame.format.name == name:
        return frame.to_ndarray()
    space = {} if frame.format.is_rgb else {"src_colorspace": matrix_of(frame)}
    converted = frame.reformat(format=name, interpolation=CONVERSION, **space)
    return converted.to_ndarray()


def matrix_of(frame: Any) -> str:
    """The matrix from RGB to luma and chroma; guessed as players do if none is told."""
    named = {1: "itu709", 5: "itu601", 6: "itu601", 4: "fcc", 7: "smpte240m"}
    named |= {9: "bt2020", 10: "bt2020"}
    return named.get(frame.colorspace, "itu709" if frame.height >= 720 else "itu601")


def video_rate(path: str | os.PathLike[str]) -> float:
    """Frames a second of a video, on average."""
    with open_video(path) as (_, stream):
        return float(stream.average_rate or stream.guessed_rate or 25)


def video_frames(path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """The frames of a video as RGB pixels, one after another.

    Args:
        path: the file.

    Yields:
        (h, w, 3), uint8, or uint16 of a video with more than 8 bits; as stored, so not
        turned if a rotation is to be applied for display.

    Raises:
        VideoError: no video, a damaged or a truncated one, or PyAV is not installed.
        OSError: the file is missing or cannot be opened.
    """
    with open_video(path) as (container, stream):
        for frame in decoded(path, container, stream):
            yield pixels_of(frame)
