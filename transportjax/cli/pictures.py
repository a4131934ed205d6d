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
