"""How frames are encoded: codecs, pixel formats, containers."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .video import (
    CONVERSION,
    FULL_RANGE,
    VideoError,
    import_av,
    matrix_of,
    plane_array,
    planes_of,
)
from .video_hdr import hdr_notes, mastering_options
from .video_planes import Planes

_CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
_LOSSLESS = {"level": "3", "g": "1", "slices": "16", "slicecrc": "1"}
FEW = 3  # frames that an encoder keeps back
TAGS = ("color_range", "colorspace", "color_trc", "color_primaries")


class Encoding(NamedTuple):
    """How the frames are encoded."""

    codec: str
    pixel_format: str
    options: dict[str, str]


def check_video_output(path: str | os.PathLike[str], *, lossless: bool = False) -> None:
    """Raises a VideoError unless a video can be written under that name."""
    suffix = pathlib.Path(path).suffix.lower()
    if suffix not in _CONTAINERS:
        raise VideoError(
            f"{os.fsdecode(path)}: has none of the endings {', '.join(_CONTAINERS)}"
        )
    if lossless and suffix != ".mkv":
        raise VideoError(f"{os.fsdecode(path)}: a lossless video must end in .mkv")


def find_encoding(
    first: Any,
    num: int,
    rgb: bool,
    lossless: bool,
    quality: int | float | None,
) -> tuple[Encoding, list[str]]:
    """Codec and format for frames like the first, and notes on what they lack.

    `num` is how many there are, if fewer than `FEW`.
    """
    depth = max(part.bits for part in first.format.components)
    notes = []
    if any(part.is_alpha for part in first.format.components):
        notes.append("its transparency was dropped")
    if first.interlaced_frame:
        notes.append("it is interlaced; both fields are kept in each frame")
    by_planes = not rgb and planes_of(first) is not None
    wanted = first.format.name.replace("yuvj", "yuv")
    if lossless:
        kept = wanted if by_planes else ("bgr0" if depth == 8 else "gbrp16le")
        notes += hdr_notes(first, [], graded=rgb)
        return Encoding("ffv1", kept, _LOSSLESS), notes
    names = ("libx264",) if depth == 8 else ("libx265", "libx264")
    codec, formats = _find_encoder(names)
    deep = "" if depth == 8 else ("10le" if depth <= 10 else "12le")
    if rgb and wanted.startswith("gray"):  # it may come in colour
        wanted = "yuv420p" + deep
    odd = bool(first.width % 2 or first.height % 2)
    chosen = _nearest_format(wanted, deep, formats, odd)
    if chosen != wanted:
        notes.append(f"its pixels were stored as {chosen} instead of {wanted}")
    crf = quality if quality is not None else (16 if codec == "libx264" else 18)
    options = {"crf": f"{crf:g}", "preset": "medium"}
    mastering = mastering_options(first) if codec == "libx265" else []
    notes += hdr_notes(first, mastering, graded=rgb)
    if codec == "libx265":
        # of fewer frames than it keeps back it gives no times
        few = ["bframes=0"] if num < FEW else []
        options["x265-params"] = ":".join(["log-level=none", *mastering, *few])
    return Encoding(codec, chosen, options), notes


def _nearest_format(wanted: str, deep: str, formats: set[str], odd: bool) -> str:
    """The first format that the encoder takes; no half chroma of an odd side."""
    choices = [wanted, "yuv444p" + deep, "yuv444p10le", "yuv444p"]
    return next(
        c
        for c in choices
        if c in formats and not (odd and "p" in c[:7] and "444" not in c)
    )


def _find_encoder(names: tuple[str, ...]) -> tuple[str, set[str]]:
    """The first encoder that FFmpeg has, and the formats that it takes."""
    av = import_av()
    for name in names:
        try:
            codec = av.Codec(name, "w")
        except av.codec.codec.UnknownCodecError:
            continue
        return name, {form.name for form in codec.video_formats or ()}
    raise VideoError(f"this FFmpeg has none of the encoders {', '.join(names)}")


@contextlib.contextmanager
def open_output(file: Any, path: pathlib.Path) -> Iterator[Any]:
    """The container to write into `file`, which has a name; `path` tells its kind."""
    av = import_av()
    form = _CONTAINERS[path.suffix.lower()]
    # the index in front, so that it plays while it loads; to move it there the muxer
    # opens the file anew, by its name
    options = {} if form == "matroska" else {"movflags": "faststart"}
    out = av.open("file:" + file.name, "w", format=form, options=options)
    try:
        yield out
    except BaseException:
        with contextlib.suppress(Exception):  # the file is thrown away
            out.close()
        raise
    out.close()


def add_video(
    out: Any, first: Any, encoding: Encoding, rate: Any, time_base: Any
) -> Any:
    """A stream of frames like the first."""
    target = out.add_stream(encoding.codec, rate=rate, options=encoding.options)
    context = target.codec_context
    target.width, target.height = first.width, first.height
    target.pix_fmt = encoding.pixel_format
    context.time_base = target.time_base = time_base
    context.thread_type = "AUTO"
    for tag in TAGS:
        setattr(context, tag, int(getattr(first, tag)))
    if first.format.name.startswith("yuvj"):
        context.color_range = FULL_RANGE
    if encoding.codec == "libx265" and out.format.name != "matroska":
        context.codec_tag = "hvc1"  # what other players than FFmpeg's look for
    return target


def planes_frame(frame: Any, planes: Planes) -> Any:
    """A frame like another with other planes."""
    new = import_av().VideoFrame(frame.width, frame.height, frame.format.name)
    fill_planes(new, planes)
    return _tagged(new, frame)


def fill_planes(frame: Any, planes: Planes) -> None:
    """Writes planes into a frame, which may be one of a decoder."""
    # what is written over may be what is written
    arrays = [array.copy() for array in (planes.luma, *planes.chroma)]
    frame.make_writable()
    for plane, array in zip(frame.planes, arrays, strict=True):
        plane_array(plane, array.dtype)[...] = array


def in_format(frame: Any, pixel_format: str) -> Any:
    """A frame in the pixel format of the encoder."""
    if frame.format.name in (pixel_format, pixel_format.replace("yuv", "yuvj")):
        return frame
    return frame.reformat(format=pixel_format, interpolation=CONVERSION)


def pixels_frame(pixels: np.ndarray, like: Any, pixel_format: str) -> Any:
    """A frame of RGB pixels, its matrix, range and tags those of another frame."""
    name = "rgb24" if pixels.dtype == np.uint8 else "rgb48le"
    pixels = np.ascontiguousarray(pixels)
    new = import_av().VideoFrame.from_ndarray(pixels, format=name)
    if pixel_format in ("bgr0", "gbrp16le"):
        return new.reformat(format=pixel_format)
    full = like.color_range == FULL_RANGE or like.format.name.startswith("yuvj")
    new = new.reformat(
        format=pixel_format,
        interpolation=CONVERSION,
        dst_colorspace=matrix_of(like),
        dst_color_range="JPEG" if full else "MPEG",
    )
    return _tagged(new, like)


def _tagged(frame: Any, like: Any) -> Any:
    for tag in TAGS:
        setattr(frame, tag, int(getattr(like, tag)))
    return frame
