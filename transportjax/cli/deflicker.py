"""The command `deflicker`: a video, or a folder of frames, without its flicker."""

import argparse
import pathlib
from typing import Any

from . import clips
from .options import (
    Report,
    UsageError,
    add_files,
    add_strength,
    add_video,
    number_type,
)

_EPILOG = """\
examples:
  transportjax deflicker old_film.mp4 -o steady.mp4
  transportjax deflicker timelapse.mov -o steady.mov --window 2s --figure light.png
  transportjax deflicker frames/ -o steady/ --local --strength 0.8
  transportjax deflicker frames/ -o steady.mp4 --rate 24

CLIP is a video, or a folder of frames (PNG, TIFF, JPEG) in the order of the numbers in
their names; so is OUT, a folder if its name has no ending. From video to video audio,
subtitles and the times of frames are kept. Shot cuts are found; --cuts names them where
that fails.
"""


def add_commands(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "deflicker",
        help="remove flicker from a video or a folder of frames",
        description="Write the clip CLIP without the flicker of its brightness.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_deflicker)
    parser.add_argument("source", metavar="CLIP", type=pathlib.Path)
    add_files(parser, "video or folder to write")
    add = parser.add_argument
    add(
        "--window",
        type=_window,
        default=(17.0, False),
        metavar="N",
        help="frames that are averaged, or seconds with an s behind: 0.7s; what is "
        "slower stays (default: 17)",
    )
    add_strength(parser)
    add(
        "--local",
        action="store_true",
        help="for light that flickers differently over the picture",
    )
    add(
        "--max-slope",
        type=number_type(1.0),
        default=2.5,
        metavar="G",
        help="contrast is raised by no more, and noise with it (default: 2.5)",
    )
    add(
        "--cuts",
        type=_cuts,
        metavar="N,N,...",
        help="numbers of the frames, from 0, that begin a shot; none: no cuts",
    )
    add("--mask", type=pathlib.Path, help="grey picture: where to learn the brightness")
    add(
        "--figure",
        metavar="FILE",
        type=pathlib.Path,
        help="mean brightness of the frames before and after, as PNG",
    )
    add_video(parser)


def _window(text: str) -> tuple[float, bool]:
    """A number, and whether it is one of seconds."""
    value = float(text.removesuffix("s"))
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value, text.endswith("s")


def _cuts(text: str) -> list[int]:
    return [] if text == "none" else [int(part) for part in text.split(",")]


def _deflicker(arguments: argparse.Namespace) -> None:
    from transportjax._files import atomic_write
    from transportjax.apps import clips as apps, plots

    outputs = (arguments.output, arguments.figure)
    clips.check_clip_outputs(arguments, outputs, (arguments.source, arguments.mask))
    say = Report(arguments.quiet)
    with say.timed("all"):
        report = apps.deflicker_clip(
            arguments.source,
            arguments.output,
            window=_frames(arguments),
            strength=arguments.strength,
            local=arguments.local,
            cuts=arguments.cuts,
            mask=clips.mask_of(arguments.mask, arguments.source),
            max_slope=arguments.max_slope,
            rate=arguments.rate,
            lossless=arguments.lossless,
            quality=arguments.crf,
            overwrite=arguments.force,
            progress=say.progress,
        )
    for note in report.notes:
        say(f"{arguments.output}: {note}")
    if arguments.figure:
        with atomic_write(arguments.figure) as file:
            plots.flicker_figure(file, report.before, report.after, report.cuts)
    count = len(report.before)
    found = ", ".join(map(str, report.cuts)) or "none"
    say(f"{count} frame{'s' if count > 1 else ''}; shots begin at: {found}")
    if count > 2:
        before, after = (flicker(m, report.cuts) for m in (report.before, report.after))
        say(f"flicker in 8-bit steps of luma: {before:.2f} before, {after:.2f} after")
    say.times()
    say(f"wrote {', '.join(str(path) for path in outputs if path)}")


def _frames(arguments: argparse.Namespace) -> float:
    """The window in frames."""
    from transportjax.apps.video import video_rate

    value, is_seconds = arguments.window
    if not is_seconds:
        return max(1.0, value)
    if not arguments.source.is_dir():
        return max(1.0, value * video_rate(arguments.source))
    if arguments.rate is None:
        raise UsageError("--window in seconds: a folder has no rate, add --rate")
    return max(1.0, value * float(arguments.rate))


def flicker(means: Any, cuts: Any) -> float:
    """The deviation of the mean luma from a line through its neighbours, in 8 bits."""
    import numpy as np

    second = np.diff(means, 2)
    within = np.ones(len(second), bool)
    for cut in cuts:
        within[max(0, cut - 2) : cut] = False
    # of white noise, the second difference has six times the variance
    return 255 * float(np.sqrt(np.mean(second[within] ** 2) / 6)) if within.any() else 0
