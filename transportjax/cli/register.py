"""The command `register`: one shape moved onto another, from file to file."""

import argparse
import pathlib
from typing import Any

from .options import (
    Report,
    UsageError,
    add_files,
    check_outputs,
    integer_type,
    number_type,
)

_EPILOG = """\
examples:
  transportjax register scan.ply model.ply -o moved.ply --warp rigid --starts 24
  transportjax register fish.csv other.csv -o moved.csv --figure figure.png
  transportjax register a.obj b.obj -o c.obj --save-map warp.tjx --between 10
  transportjax apply warp.tjx landmarks.csv -o moved.csv
"""


def add_commands(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "register",
        help="move a shape onto another",
        description="Move the shape SOURCE onto the shape TARGET: sets of points or "
        "meshes, in the plane or in space; .csv, .txt, .npy, .ply or .obj. Points "
        "need not correspond, and both may have some that the other lacks.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_register)
    parser.add_argument("source", metavar="SOURCE", type=pathlib.Path)
    parser.add_argument("target", metavar="TARGET", type=pathlib.Path)
    add_files(
        parser, "shape to write, in the order of SOURCE; its ending says the format"
    )
    _add_fit(parser.add_argument)
    parser.add_argument(
        "--save-map", metavar="FILE", type=pathlib.Path, help="keep the map for `apply`"
    )
    parser.add_argument(
        "--between",
        metavar="N",
        type=integer_type(2),
        help="write N shapes on the way from SOURCE to OUT as well: OUT_000, OUT_001, "
        "...; the first is SOURCE",
    )
    parser.add_argument(
        "--figure", metavar="FILE", type=pathlib.Path, help="before and after, as PNG"
    )


def _add_fit(add: Any) -> None:
    """The options of the fit."""
    add(
        "--warp",
        choices=("rigid", "similarity", "affine", "tps", "rbf"),
        default="tps",
        help="rigid turns and shifts; similarity scales too; affine stretches and "
        "shears; tps bends (thin plate spline), rbf bends in places (default: tps)",
    )
    add(
        "--normals",
        action="store_true",
        help="match the normals of the points too; both files must hold them",
    )
    add(
        "--starts",
        metavar="N",
        type=integer_type(1),
        default=1,
        help="rotations to begin at, the best is taken: for shapes turned by more than "
        "about 45 degrees; 24, or 1000 for scans that overlap little (default: 1)",
    )
    add(
        "--bandwidths",
        metavar="H",
        type=number_type(0.0),
        nargs="+",
        help="widths of the kernels, from coarse to fine, in the units of TARGET "
        "(default: from the size of the shapes)",
    )
    add(
        "--bending",
        metavar="WEIGHT",
        type=number_type(0.0),
        help="weight of the bending of tps and rbf: larger is stiffer (default: 0.3)",
    )
    add("--steps", type=integer_type(1), help="most steps at each bandwidth")
    add(
        "--points",
        metavar="N",
        type=integer_type(4),
        default=2000,
        help="most points of each shape to fit with; all are moved (default: 2000)",
    )
    add(
        "--seed",
        type=integer_type(0),
        default=0,
        help="the same seed gives the same result (default: 0)",
    )


def _register(arguments: argparse.Namespace) -> None:
    from transportjax._files import atomic_write
    from transportjax.apps import registration, shape_plots
    from transportjax.apps.shapes import check_writable, read_shape

    if arguments.bending is not None and arguments.warp not in ("tps", "rbf"):
        raise UsageError("--bending is for --warp tps and --warp rbf")
    frames = _frames(arguments.output, arguments.between or 0)
    outputs = (arguments.output, arguments.save_map, arguments.figure, *frames)
    check_outputs(outputs, (arguments.source, arguments.target), arguments.force)
    say = Report(arguments.quiet)
    with say.timed("read"):
        source, target = read_shape(arguments.source), read_shape(arguments.target)
    check_writable(arguments.output, source)
    with say.timed("fit"):
        fitted = registration.fit_shape_map(
            source,
            target,
            warp=arguments.warp,
            normals=arguments.normals,
            num_starts=arguments.starts,
            bandwidths=arguments.bandwidths,
            bending=arguments.bending,
            num_steps=arguments.steps,
            num_points=arguments.points,
            seed=arguments.seed,
        )
        result = registration.apply_shape_map(fitted, source)
    with say.timed("write"):
        _write(arguments.output, result, arguments.force, say)
        for number, path in enumerate(frames):
            part = fitted.part(number / (len(frames) - 1))
            moved = registration.apply_shape_map(part, source)
            _write(path, moved, arguments.force, Report(True))
    if arguments.save_map:
        registration.save_shape_map(arguments.save_map, fitted)
    if arguments.figure:
        with atomic_write(arguments.figure) as file:
            shape_plots.registration_figure(file, source, target, result)
    before, after = (
        registration.shape_distance(shape, target) for shape in (source, result)
    )
    say(
        "mean distance to the nearest point of the target: "
        f"{before:.4g} before, {after:.4g} after"
    )
    say.times()
    written = [str(path) for path in outputs[:3] if path]
    if frames:
        written.append(f"{frames[0]} to {frames[-1].name}")
    say(f"wrote {', '.join(written)}")


def apply(arguments: argparse.Namespace) -> None:
    """The command `apply` on a shape."""
    from transportjax.apps import registration
    from transportjax.apps.shapes import check_writable, read_shape

    for option, value in (("--mask", arguments.mask), ("--regrain", arguments.regrain)):
        if value is not None:
            raise UsageError(f"{option} is for pictures; {arguments.source} is a shape")
    say = Report(arguments.quiet)
    with say.timed("read"):
        fitted = registration.load_shape_map(arguments.map)
        source = read_shape(arguments.source)
    check_writable(arguments.output, source)
    with say.timed("move"):
        result = registration.apply_shape_map(fitted, source)
    _write(arguments.output, result, arguments.force, say)
    say.times()
    say(f"wrote {arguments.output}")


def _write(path: pathlib.Path, shape: Any, force: bool, say: Report) -> None:
    from transportjax.apps.shapes import write_shape

    for note in write_shape(path, shape, overwrite=force):
        say(f"{path}: {note}")


def _frames(output: pathlib.Path, count: int) -> list[pathlib.Path]:
    return [
        output.with_name(f"{output.stem}_{number:03d}{output.suffix}")
        for number in range(count)
    ]
