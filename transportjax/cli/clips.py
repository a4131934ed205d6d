"""What the commands do with videos and folders of frames."""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

from .options import Report, UsageError, check_outputs
from .pictures import check_cube, conclude, read, read_mask


def is_clip(path: pathlib.Path) -> bool:
    """Whether a path is one of a video or of a folder of frames."""
    from transportjax.apps import clips

    return clips.is_clip(path)


def check_clip_outputs(
    arguments: argparse.Namespace, outputs: Sequence[Any], inputs: Sequence[Any]
) -> None:
    """Refuses before the work what could not be written after it.

    The first of the outputs is the clip: a video, or a folder if it has no ending.
    """
    from transportjax.apps import clips, frame_folders, video, video_encoding

    clip, *others = outputs
    is_folder = arguments.source.is_dir()
    if not is_folder and arguments.rate is not None:
        raise UsageError("--rate is for folders of frames; a video has its own")
    if not clips.is_folder_name(clip):
        if is_folder and not video.is_video_name(clip):
            raise IsADirectoryError(
                f"{arguments.source}: is a folder of frames, which become a folder or "
                f"a video; {clip} is neither"
            )
        check_outputs(outputs, inputs, arguments.force)
        video_encoding.check_video_output(clip, lossless=arguments.lossless)
        if is_folder and arguments.rate is None:
            raise UsageError("a folder has no frames a second: add --rate 24, or so")
        return
    if arguments.lossless or arguments.crf is not None:
        raise UsageError("--lossless and --crf are for videos")
    if clip.resolve() == arguments.source.resolve():
        raise FileExistsError(f"{clip}: is an input; write to another folder")
    check_outputs(others, inputs, arguments.force)
    frame_folders.check_folder(clip, arguments.force)


def mask_of(path: pathlib.Path | None, source: pathlib.Path) -> Any:
    """A mask of the size of the frames, in [0, 1]."""
    from transportjax.apps import clips
    from transportjax.apps.picture import Picture

    if path is None:
        return None
    first = next(clips.clip_frames(source))
    return read_mask(path, Picture(first))


def colour(
    arguments: argparse.Namespace, outputs: Sequence[Any], inputs: Sequence[Any]
) -> None:
    """`colour` of a clip: one map, fitted to frames from all of it."""
    from transportjax.apps import clips, colour as fitting
    from transportjax.apps.colour_map import apply_colour_map
    from transportjax.apps.picture import Picture

    if arguments.pairs:
        raise UsageError("--pairs is for pictures, not for videos")
    check_clip_outputs(arguments, outputs, inputs)
    say = Report(arguments.quiet)
    palette = read(arguments.palette, say)
    palette_mask = read_mask(arguments.palette_mask, palette)
    mask = mask_of(arguments.mask, arguments.source)
    with say.timed("measure"):
        sample = clips.sample_clip(arguments.source, mask=mask, progress=say.progress)
    check_cube(arguments, Picture(sample))
    with say.timed("fit"):
        fitted = fitting.fit_colour_map(
            sample,
            palette.pixels,
            method=arguments.method,
            space=arguments.space,
            strength=arguments.strength,
            num_steps=arguments.steps,
            seed=arguments.seed,
            palette_mask=palette_mask,
        )
    _grade(arguments, fitted, mask, say)
    shown = {}
    if arguments.figure:
        first = next(clips.clip_frames(arguments.source))
        shown = {
            "first frame": first,
            "palette": palette.pixels,
            "result": apply_colour_map(fitted, first, mask=mask),
        }
    before, after = (
        fitting.palette_distance(pixels, palette.pixels, palette_mask=palette_mask)
        for pixels in (sample, apply_colour_map(fitted, sample))
    )
    conclude(arguments, fitted, Picture(sample), shown, (before, after), say)


def apply(arguments: argparse.Namespace, fitted: Any, inputs: Sequence[Any]) -> None:
    """`apply` on a clip."""
    check_clip_outputs(arguments, (arguments.output,), inputs)
    say = Report(arguments.quiet)
    mask = mask_of(arguments.mask, arguments.source)
    _grade(arguments, fitted, mask, say)
    say.times()
    say(f"wrote {arguments.output}")


def _grade(arguments: Any, fitted: Any, mask: Any, say: Report) -> None:
    from transportjax.apps import clips

    with say.timed("write"):
        notes = clips.grade_clip(
            fitted,
            arguments.source,
            arguments.output,
            mask=mask,
            smoothness=arguments.regrain,
            rate=arguments.rate,
            lossless=arguments.lossless,
            quality=arguments.crf,
            overwrite=arguments.force,
            progress=say.progress,
        )
    for note in notes:
        say(f"{arguments.output}: {note}")
