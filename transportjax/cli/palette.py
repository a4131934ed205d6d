"""The command `palette`: the main colours of a picture, named and changed."""

import argparse
import pathlib
from typing import Any

from .options import (
    Report,
    UsageError,
    add_output,
    add_strength,
    check_outputs,
    integer_type,
    number_type,
)
from .pictures import add_exports, export, graded, read, read_mask, write

_EPILOG = """\
examples:
  transportjax palette photo.jpg
  transportjax palette photo.jpg -o out.jpg --edit '#d96440=#3060c0'
  transportjax palette photo.jpg -o out.jpg --edit '#d96440=#3060c0' '#bd9f83=#bd9f83'

An edit of a colour to itself holds it.
"""


def add_commands(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "palette",
        help="show the main colours of a picture, or change some of them",
        description="Print the main colours of the picture SOURCE; with --edit, change "
        "colours and their shades, hold the others, and write the picture OUT.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_palette)
    parser.add_argument("source", metavar="SOURCE", type=pathlib.Path)
    add_output(parser, required=False)
    add = parser.add_argument
    add(
        "--edit",
        metavar="'#FROM=#TO'",
        type=_edit,
        nargs="+",
        action="extend",
        help="colours to change, as in '#d96440=#3060c0'",
    )
    add(
        "--radius",
        type=number_type(1.0),
        default=15.0,
        help="how far an edit reaches, in units of CIELAB (default: 15)",
    )
    add_strength(parser)
    add(
        "--colours",
        metavar="N",
        type=integer_type(1),
        help="main colours: to print (default: 12), or to hold (20)",
    )
    add("--mask", type=pathlib.Path, help="grey picture: where to change the source")
    add("--seed", type=integer_type(0), default=0, help="of the clusters (default: 0)")
    add_exports(add)


def _edit(text: str) -> tuple[str, str]:
    before, equals, after = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text} is not like '#d96440=#3060c0'")
    return before, after


def _palette(arguments: argparse.Namespace) -> None:
    if (arguments.edit is None) != (arguments.output is None):
        raise UsageError("--edit and -o go together; without both, colours are printed")
    if arguments.edit is None:
        _print(arguments)
        return
    from transportjax.apps.palette import edit_palette

    outputs = (arguments.output, arguments.save_map, arguments.cube)
    check_outputs(outputs, (arguments.source, arguments.mask), arguments.force)
    say = Report(arguments.quiet)
    source = read(arguments.source, say)
    mask = read_mask(arguments.mask, source)
    before, after = zip(*arguments.edit, strict=True)
    with say.timed("edit"):
        fitted = edit_palette(
            source.pixels,
            (list(before), list(after)),
            radius=arguments.radius,
            num_colours=arguments.colours or 20,
            strength=arguments.strength,
            seed=arguments.seed,
            mask=mask,
        )
        result = graded(fitted, source, mask, arguments.regrain)
    with say.timed("write"):
        write(arguments, result, source, say)
    export(arguments, fitted, source, say)
    say.times()
    say(f"wrote {', '.join(str(path) for path in outputs if path)}")


def _print(arguments: argparse.Namespace) -> None:
    from transportjax.apps.images import from_unit
    from transportjax.apps.palette import picture_palette

    for option in ("save_map", "cube", "regrain"):
        if getattr(arguments, option) is not None:
            raise UsageError(f"--{option.replace('_', '-')} needs --edit and -o")
    source = read(arguments.source, Report(True))
    colours, shares = picture_palette(
        source.pixels,
        arguments.colours or 12,
        seed=arguments.seed,
        mask=read_mask(arguments.mask, source),
    )
    for colour, share in zip(from_unit(colours, "uint8"), shares, strict=True):
        print(f"#{colour.tobytes().hex()}  {100 * share:5.1f} %")
