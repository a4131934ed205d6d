"""What the commands on pictures share: files in, files out, maps and tables kept."""

import argparse
import dataclasses
import pathlib
from typing import Any

from .options import Report


def add_exports(add: Any) -> None:
    """The options that keep a map of colours."""
    add(
        "--save-map", metavar="FILE", type=pathlib.Path, help="keep the map for `apply`"
    )
    add("--cube", metavar="FILE", type=pathlib.Path, help="export a .cube 3-D table")
    add(
        "--cube-size",
        type=int,
        choices=(17, 33, 65),
        default=33,
        help="nodes a side of the table (default: 33)",
    )


def export(
    arguments: argparse.Namespace, fitted: Any, source: Any, say: Report
) -> None:
    """Writes the files that these options ask for."""
    from transportjax.apps import colour_map

    if arguments.save_map:
        colour_map.save_colour_map(arguments.save_map, fitted)
    if arguments.cube:
        error = colour_map.export_cube(
            arguments.cube, fitted, arguments.cube_size, source.pixels
        )
        say(
            f"{arguments.cube}: error of the table on this picture, in 8-bit steps: "
            f"{error.mean():.2f} on average, {error.max():.1f} at most"
        )


def conclude(
    arguments: argparse.Namespace,
    fitted: Any,
    source: Any,
    shown: dict[str, Any],
    distances: tuple[float, float],
    say: Report,
) -> None:
    """What `colour` does last: exports, the figure of what is shown, and the report."""
    from transportjax._files import atomic_write
    from transportjax.apps import cdl, plots

    export(arguments, fitted, source, say)
    if arguments.cdl:
        cdl.write_cdl(arguments.cdl, fitted.map)
    if arguments.figure:
        with atomic_write(arguments.figure) as file:
            plots.comparison_figure(file, shown)
    before, after = distances
    say(
        f"distance to the palette (sliced W2, 8-bit steps): {before:.2f} before, "
        f"{after:.2f} after"
    )
    say.times()
    outputs = (
        arguments.output,
        arguments.save_map,
        arguments.cube,
        arguments.cdl,
        arguments.figure,
    )
    say(f"wrote {', '.join(str(path) for path in outputs if path)}")


def check_cube(arguments: argparse.Namespace, source: Any) -> None:
    """Refuses a table for a grey picture, before anything is written."""
    if arguments.cube and source.pixels.shape[-1] == 1:
        raise ValueError(f"{arguments.source}: is grey; --cube is for colour pictures")


def graded(fitted: Any, source: Any, mask: Any, smoothness: float | None) -> Any:
    """The pixels of `source` after the map; its grain restored, if asked for."""
    from transportjax.apps import colour, colour_map

    moved = colour_map.apply_colour_map(fitted, source.pixels, mask=mask)
    if smoothness is None:
        return moved
    return colour.restore_grain(source.pixels, moved, smoothness=smoothness)


def write(arguments: Any, result: Any, source: Any, say: Report) -> None:
    """The result with the transparency and the metadata of the source."""
    from transportjax.apps.images import write_picture

    picture = dataclasses.replace(source, pixels=result)
    for note in write_picture(arguments.output, picture, overwrite=arguments.force):
        say(f"{arguments.output}: {note}")


def read(path: pathlib.Path, say: Report) -> Any:
    """The picture of a file."""
    from transportjax.apps.images import read_picture

    with say.timed("read"):
        picture = read_picture(path)
    for note in picture.meta.notes:
        say(f"{path}: {note}")
    return picture


def read_mask(path: pathlib.Path | None, picture: Any) -> Any:
    """A mask as the mean of its channels, in [0, 1]."""
    if path is None:
        return None
    from transportjax.apps.images import read_picture, to_unit

    mask = to_unit(read_picture(path).pixels).mean(axis=-1)
    if mask.shape != picture.pixels.shape[:2]:
        raise ValueError(
            f"{path}: must have the size of its picture, "
            f"{picture.pixels.shape[1]} x {picture.pixels.shape[0]}; got "
            f"{mask.shape[1]} x {mask.shape[0]}"
        )
    return mask
