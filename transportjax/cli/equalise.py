"""The command `equalise`: the tones of a picture spread from black to white."""

import argparse
import math
import pathlib
from typing import Any

from .options import (
    Report,
    UsageError,
    add_output,
    add_strength,
    check_outputs,
    integer_type,
    naming,
    number_type,
)
from .pictures import add_exports, check_cube, export, read, read_mask, write

_EPILOG = """\
examples:
  transportjax equalise foggy.jpg -o clear.jpg
  transportjax equalise scan.tif -o out.tif --local --limit 2 --strength 0.7
  transportjax equalise dark.png -o bright.png --limit inf --figure figure.png
  transportjax equalise a.png -o b.png --save-map tones.map --cube tones.cube
"""

_NARROW = 128  # levels: less than half of the range


def add_commands(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "equalise",
        help="spread the tones of a picture evenly from black to white",
        description="Spread the tones of the picture SOURCE evenly from black to "
        "white; with --local in each part of it. Write the picture OUT.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_equalise)
    parser.add_argument("source", metavar="SOURCE", type=pathlib.Path)
    add_output(parser)
    add = parser.add_argument
    add(
        "--limit",
        type=number_type(1.0),
        default=3.0,
        help="how much steeper contrasts may become at most: 1 changes nothing, inf "
        "makes all tones equally frequent (default: 3)",
    )
    add(
        "--local",
        metavar="TILES",
        type=integer_type(1),
        nargs="?",
        const=8,
        help="in each part by itself: tiles along the longer side (8 if not given)",
    )
    add(
        "--space",
        choices=("tone", "rgb"),
        default="tone",
        help="tone: lightness alone, as if the light were another; rgb: each channel "
        "by itself, which takes away a cast (default: tone)",
    )
    add_strength(parser)
    add("--mask", type=pathlib.Path, help="grey picture: where to change the source")
    add_exports(add)
    add("--figure", metavar="FILE", type=pathlib.Path, help="before and after, as PNG")


def _equalise(arguments: argparse.Namespace) -> None:
    from transportjax._files import atomic_write
    from transportjax.apps import colour, plots
    from transportjax.apps.equalise import equalise, fit_equaliser

    if arguments.local is not None and (arguments.save_map or arguments.cube):
        raise UsageError(
            "--local has a map for each part: --save-map and --cube need one for all"
        )
    outputs = (
        arguments.output,
        arguments.save_map,
        arguments.cube,
        arguments.figure,
    )
    check_outputs(outputs, (arguments.source, arguments.mask), arguments.force)
    say = Report(arguments.quiet)
    source = read(arguments.source, say)
    check_cube(arguments, source)
    mask = read_mask(arguments.mask, source)
    options = {
        "limit": arguments.limit,
        "space": arguments.space,
        "strength": arguments.strength,
        "mask": mask,
    }
    pixels = _with_alpha(source)
    with say.timed("equalise"), naming(arguments.source):
        result = equalise(pixels, tiles=arguments.local, **options)
        result = result[..., : source.pixels.shape[-1]]
        if arguments.regrain is not None:
            result = colour.restore_grain(
                source.pixels, result, smoothness=arguments.regrain
            )
    with say.timed("write"):
        write(arguments, result, source, say)
    if arguments.save_map or arguments.cube:
        export(arguments, fit_equaliser(pixels, **options), source, say)
    if arguments.figure:
        shown = {"source": source.pixels, "result": result}
        with atomic_write(arguments.figure) as file:
            plots.comparison_figure(file, shown)
    _say_tones(source, result, arguments, say)
    say.times()
    say(f"wrote {', '.join(str(path) for path in outputs if path)}")


def _with_alpha(picture: Any) -> Any:
    """The pixels, and the alpha as a last channel, for what it hides does not count."""
    import numpy as np

    if picture.alpha is None:
        return picture.pixels
    return np.concatenate([picture.pixels, picture.alpha[..., None]], axis=-1)


def _say_tones(
    source: Any, result: Any, arguments: argparse.Namespace, say: Report
) -> None:
    """Says where most of the tones were, and where they are."""
    before, after = (_range(pixels, source.alpha) for pixels in (source.pixels, result))
    say(
        f"nine tenths of the tones, in 8-bit levels: {before[0]:.0f} to "
        f"{before[1]:.0f} before, {after[0]:.0f} to {after[1]:.0f} after"
    )
    widened = after[1] - after[0]
    if math.isfinite(arguments.limit) and 0 < widened < _NARROW:
        say("the limit holds the tones together: a larger --limit spreads them more")


def _range(pixels: Any, alpha: Any) -> Any:
    """The levels below which one and nineteen of twenty pixels are; of their luma."""
    import numpy as np

    from transportjax.apps.images import to_unit
    from transportjax.apps.spaces import srgb_to_ycbcr

    flat = pixels.reshape(-1, pixels.shape[-1])
    if alpha is not None and alpha.any():
        flat = flat[alpha.reshape(-1) > 0]
    thin = to_unit(flat[:: max(1, len(flat) >> 20)])
    tones = thin if thin.shape[-1] == 1 else np.asarray(srgb_to_ycbcr(thin))[:, :1]
    return 255 * np.quantile(tones, (0.05, 0.95))
