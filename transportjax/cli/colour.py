"""The commands `colour` and `apply`: colour transfer from file to file."""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

from . import clips, register
from .options import (
    Report,
    UsageError,
    add_output,
    add_strength,
    add_video,
    check_outputs,
    integer_type,
)
from .pictures import (
    add_exports,
    check_cube,
    conclude,
    graded,
    read,
    read_mask,
    write,
)

_COLOUR_EPILOG = """\
examples:
  transportjax colour photo.jpg sunset.jpg -o graded.jpg
  transportjax colour scan.tif ref.png -o out.tif --space lab --regrain --strength 0.8
  transportjax colour a.png b.png -o c.png --save-map grade.tjx --cube grade.cube
  transportjax colour a.png b.png -o c.png --method cdl --cdl grade.cdl
  transportjax colour raw.png graded.png -o c.png --method l2 --pairs --cube look.cube
  transportjax colour clip.mp4 sunset.jpg -o graded.mp4
"""


def add_commands(commands: Any) -> None:
    """Adds the two commands to the parser."""
    _add_colour(commands)
    _add_apply(commands)


def _add_colour(commands: Any) -> None:
    parser = commands.add_parser(
        "colour",
        help="give a picture, or a video, the colours of another",
        description="Give the picture SOURCE the colours of the picture PALETTE. Of a "
        "video, or a folder of frames, all frames are changed by one map.",
        epilog=_COLOUR_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_colour)
    parser.add_argument("source", metavar="SOURCE", type=pathlib.Path)
    parser.add_argument("palette", metavar="PALETTE", type=pathlib.Path)
    add_output(parser)
    add = parser.add_argument
    add(
        "--method",
        choices=("idt", "flow", "mkl", "cdl", "l2", "l2-published"),
        default="idt",
        help="idt reaches the palette; flow too, by gradients of the sliced distance, "
        "and moves colours less; mkl is a smooth linear grade; cdl one of ten numbers; "
        "l2 a smooth bend that moves main colours onto main colours; l2-published the "
        "same with the published settings, to compare with (default: idt)",
    )
    add(
        "--space",
        choices=("rgb", "linear", "lab", "oklab", "luma", "chroma"),
        default="rgb",
        help="where the transfer takes place; luma: lightness alone, chroma: colour "
        "alone (default: rgb)",
    )
    add_strength(parser)
    add(
        "--steps",
        type=integer_type(1),
        help="steps of idt (default: 12), flow (24), cdl (200), l2 (200 a level)",
    )
    add(
        "--pairs",
        action="store_true",
        help="with --method l2: PALETTE is SOURCE, graded, pixel by pixel; what was "
        "painted over does no harm",
    )
    add("--mask", type=pathlib.Path, help="grey picture: where to change the source")
    add(
        "--palette-mask", type=pathlib.Path, help="grey picture: where to learn colours"
    )
    add(
        "--seed",
        type=integer_type(0),
        default=0,
        help="the same seed gives the same picture (default: 0)",
    )
    add_exports(add)
    add(
        "--cdl",
        metavar="FILE",
        type=pathlib.Path,
        help="export the ten numbers of --method cdl: .cdl, .ccc or .cc",
    )
    add("--figure", metavar="FILE", type=pathlib.Path, help="before and after, as PNG")
    add_video(parser)


def _add_apply(commands: Any) -> None:
    parser = commands.add_parser(
        "apply",
        help="use a saved map, a .cube table, or a CDL, on a picture, video or shape",
        description="Use the map MAP on a picture, a video, or a folder of frames: a "
        "file from --save-map, a .cube table, or a colour decision (.cdl, .ccc, .cc). "
        "Or on a shape (.csv, .txt, .npy, .ply, .obj): a map that `register` saved.",
    )
    parser.set_defaults(run=_apply)
    parser.add_argument("map", metavar="MAP", type=pathlib.Path)
    parser.add_argument("source", metavar="IN", type=pathlib.Path)
    add_output(parser)
    parser.add_argument(
        "--mask", type=pathlib.Path, help="grey picture: where to change the source"
    )
    add_video(parser)


def _colour(arguments: argparse.Namespace) -> None:
    from transportjax.apps import cdl, colour

    _check_options(arguments, cdl.SUFFIXES)
    outputs = (
        arguments.output,
        arguments.save_map,
        arguments.cube,
        arguments.cdl,
        arguments.figure,
    )
    inputs = (
        arguments.source,
        arguments.palette,
        arguments.mask,
        arguments.palette_mask,
    )
    if clips.is_clip(arguments.source):
        clips.colour(arguments, outputs, inputs)
        return
    check_outputs(outputs, inputs, arguments.force)
    say = Report(arguments.quiet)
    source, palette = read(arguments.source, say), read(arguments.palette, say)
    check_cube(arguments, source)
    mask = read_mask(arguments.mask, source)
    palette_mask = read_mask(arguments.palette_mask, palette)
    with say.timed("transfer"):
        fitted = colour.fit_colour_map(
            source.pixels,
            palette.pixels,
            method=arguments.method,
            space=arguments.space,
            strength=arguments.strength,
            num_steps=arguments.steps,
            seed=arguments.seed,
            mask=mask,
            palette_mask=palette_mask,
            pairs=arguments.pairs,
        )
        result = graded(fitted, source, mask, arguments.regrain)
    with say.timed("write"):
        write(arguments, result, source, say)
    shown = {
        "source": source.pixels,
        "palette": palette.pixels,
        "result": result,
    }
    before, after = (
        colour.palette_distance(
            pixels, palette.pixels, mask=mask, palette_mask=palette_mask
        )
        for pixels in (source.pixels, result)
    )
    conclude(arguments, fitted, source, shown, (before, after), say)


def _check_options(arguments: argparse.Namespace, suffixes: Sequence[str]) -> None:
    """Refuses options that do not go together."""
    if arguments.pairs and arguments.method not in ("l2", "l2-published"):
        raise UsageError("--pairs needs --method l2")
    if arguments.method == "cdl" and arguments.space != "rgb":
        raise UsageError("--method cdl works with --space rgb only")
    if arguments.cdl is None:
        return
    if arguments.method != "cdl" or arguments.strength != 1:
        raise UsageError("--cdl needs --method cdl, at its whole strength")
    if arguments.cdl.suffix.lower() not in suffixes:
        raise UsageError(f"{arguments.cdl}: must end in {', '.join(suffixes)}")


def _read_map(path: pathlib.Path) -> Any:
    """The map of colours in a file of any of the kinds."""
    from transportjax.apps import cdl, colour_map, lut

    suffix = path.suffix.lower()
    if suffix == ".cube":
        return lut.read_cube(path)
    if suffix in cdl.SUFFIXES:
        return cdl.as_colour_map(cdl.read_cdl(path))
    return colour_map.load_colour_map(path)


def _apply(arguments: argparse.Namespace) -> None:
    from transportjax.apps.shapes import is_shape_name

    inputs = (arguments.map, arguments.source, arguments.mask)
    if clips.is_clip(arguments.source):
        clips.apply(arguments, _read_map(arguments.map), inputs)
        return
    check_outputs((arguments.output,), inputs, arguments.force)
    if is_shape_name(arguments.source):
        register.apply(arguments)
        return
    say = Report(arguments.quiet)
    fitted = _read_map(arguments.map)
    source = read(arguments.source, say)
    mask = read_mask(arguments.mask, source)
    with say.timed("transfer"):
        result = graded(fitted, source, mask, arguments.regrain)
    with say.timed("write"):
        write(arguments, result, source, say)
    say.times()
    say(f"wrote {arguments.output}")
