"""A video written as another with its frames changed, and all else as it was."""

import contextlib
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from transportjax._checks import check_number
from transportjax._files import atomic_write

from .video import (
    CONVERSION,
    FULL_RANGE,
    VideoError,
    decoded,
    import_av,
    matrix_of,
    naming_video,
    open_video,
    pixels_of,
    plane_array,
    planes_of,
)
from .video_hdr import hdr_notes, mastering_options

_CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
_LOSSLESS = {"level": "3", "g": "1", "slices": "16", "slicecrc": "1"}
_FEW = 3  # frames that an encoder keeps back
_TAGS = ("color_range", "colorspace", "color_trc", "color_primaries")


class _Encoding(NamedTuple):
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
    encoding, notes = _encoding(first, num, rgb, lossless, quality)
    with (
        open_video(source) as (container, stream),
        atomic_write(shown, overwrite=overwrite) as file,
        naming_video(shown, "encoded"),
        _output(file, pathlib.Path(path)) as out,
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
    """The first frame, and how many there are, `_FEW` or fewer."""
    with (
        open_video(source) as (container, stream),
        contextlib.closing(decoded(source, container, stream)) as frames,
    ):
        found = list(itertools.islice(frames, _FEW))
        return found[0], len(found)


def _encoding(
    first: Any,
    num: int,
    rgb: bool,
    lossless: bool,
    quality: int | float | None,
) -> tuple[_Encoding, list[str]]:
    """Codec and format for frames like the first, and notes on what they lack.

    `num` is how many there are, if fewer than `_FEW`.
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
        return _Encoding("ffv1", kept, _LOSSLESS), notes
    names = ("libx264",) if depth == 8 else ("libx265", "libx264")
    codec, formats = _find_encoder(names)
    odd = first.width % 2 or first.height % 2
    deep = "" if depth == 8 else ("10le" if depth <= 10 else "12le")
    choices = [wanted, "yuv444p" + deep, "yuv444p10le", "yuv444p"]
    choices = [
        c
        for c in choices
        if c in formats and not (odd and "p" in c[:7] and "444" not in c)
    ]
    if choices[0] != wanted:
        notes.append(f"its pixels were stored as {choices[0]} instead of {wanted}")
    crf = quality if quality is not None else (16 if codec == "libx264" else 18)
    options = {"crf": f"{crf:g}", "preset": "medium"}
    mastering = mastering_options(first) if codec == "libx265" else []
    notes += hdr_notes(first, mastering, graded=rgb)
    if codec == "libx265":
        # of fewer frames than it keeps back it gives no times
        few = ["bframes=0"] if num < _FEW else []
        options["x265-params"] = ":".join(["log-level=none", *mastering, *few])
    return _Encoding(codec, choices[0], options), notes


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
def _output(file: Any, path: pathlib.Path) -> Iterator[Any]:
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


def _add_video(out: Any, stream: Any, first: Any, encoding: _Encoding) -> Any:
    """The stream of changed frames, with what the source says of its frames."""
    rate = stream.average_rate or stream.guessed_rate
    target = out.add_stream(encoding.codec, rate=rate, options=encoding.options)
    context = target.codec_context
    target.width, target.height = first.width, first.height
    target.pix_fmt = encoding.pixel_format
    context.time_base = target.time_base = stream.time_base
    context.thread_type = "AUTO"
    if stream.sample_aspect_ratio:
        context.sample_aspect_ratio = stream.sample_aspect_ratio
    for tag in _TAGS:
        setattr(context, tag, int(getattr(first, tag)))
    if first.format.name.startswith("yuvj"):
        context.color_range = FULL_RANGE
    if encoding.codec == "libx265" and out.format.name != "matroska":
        context.codec_tag = "hvc1"  # what other players than FFmpeg's look for
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
    av = import_av()
    planes = None if rgb else planes_of(frame)
    if planes is not None:
        new = av.VideoFrame(frame.width, frame.height, frame.format.name)
        result = change(number, planes)
        for plane, array in zip(new.planes, (result.luma, *result.chroma), strict=True):
            plane_array(plane, array.dtype)[...] = array
        for tag in _TAGS:
            setattr(new, tag, int(getattr(frame, tag)))
        name = frame.format.name.replace("yuvj", "yuv")
        if name == pixel_format or frame.format.name == pixel_format:
            return new
        return new.reformat(format=pixel_format, interpolation=CONVERSION)
    pixels = np.ascontiguousarray(change(number, pixels_of(frame)))
    name = "rgb24" if pixels.dtype == np.uint8 else "rgb48le"
    new = av.VideoFrame.from_ndarray(pixels, format=name)
    if pixel_format in ("bgr0", "gbrp16le"):
        return new.reformat(format=pixel_format)
    full = frame.color_range == FULL_RANGE or frame.format.name.startswith("yuvj")
    new = new.reformat(
        format=pixel_format,
        interpolation=CONVERSION,
        dst_colorspace=matrix_of(frame),
        dst_color_range="JPEG" if full else "MPEG",
    )
    for tag in _TAGS:
        setattr(new, tag, int(getattr(frame, tag)))
    return new
