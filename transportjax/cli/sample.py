"""The command `sample`: new rows like those of a table, or new pictures of a folder."""

import argparse
import pathlib
from typing import Any

from . import sample_pictures, sample_tables
from .options import (
    Report,
    UsageError,
    add_files,
    check_outputs,
    integer_type,
    naming,
)

_EPILOG = """\
examples:
  transportjax sample wine.csv -o more.csv --num 5000 --figure wine.png
  transportjax sample wine.csv --save-flow wine.tjx --train 2000
  transportjax sample --flow wine.tjx -o more.csv --num 100 --seed 7
  transportjax sample --flow wine.tjx --score other.csv --save-scores scores.csv
  transportjax sample digits -o new --num 64 --figure sheet.png

Tables are .csv, .tsv or .txt, with or without a line of names, .npy or .npz. Cells must
be numbers. Samples are rounded as the numbers of their column are; a number that many
rows share, such as zero, comes back as often; no sign appears that a column has not; a
constant column stays constant. Scores are logarithms of densities, in the units of the
columns, but of probabilities for whole numbers and for those that many rows share.

DATA may be a folder of small pictures too, all of one size, or an array of them,
(n, h, w) or (n, h, w, c), in .npy or .npz. OUT is then a folder for PNG files
0001.png, ..., or .npy or .npz. A picture has at most 1024 values, its width times its
height times its channels.
"""
_DEFAULT_NUM = 1000  # samples of a flow, without data


def add_commands(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "sample",
        help="draw new rows like those of a table, or new small pictures",
        description="Fit a flow to the rows of the table DATA, or to a folder of small "
        "pictures, or take one from a file; draw from it, or tell how likely the rows "
        "of another table, or other pictures, are.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_sample)
    parser.add_argument("data", metavar="DATA", type=pathlib.Path, nargs="?")
    add_files(parser, "table or folder to write", required=False)
    add = parser.add_argument
    add("--num", metavar="N", type=integer_type(1), help=_NUM_HELP)
    add(
        "--within-range",
        action="store_true",
        help="draw again what lies beyond the least or greatest number of a column",
    )
    add(
        "--header",
        action=argparse.BooleanOptionalAction,
        help="whether the first line of a text holds names (default: if none is a "
        "number, or if they count up, as years do)",
    )
    add("--array", metavar="NAME", help="which array of a .npz file to take")
    add("--flow", metavar="FILE", type=pathlib.Path, help="take the flow from a file")
    add(
        "--save-flow",
        metavar="FILE",
        type=pathlib.Path,
        help="keep the flow for --flow",
    )
    add(
        "--steps",
        type=integer_type(1),
        help="most layers of the flow; fewer are kept where more would fit noise "
        f"(default: {sample_tables.STEPS}, {sample_pictures.STEPS} for pictures)",
    )
    add(
        "--train",
        metavar="STEPS",
        type=integer_type(0),
        default=0,
        help="train the flow by gradients for so many steps, as long as what is held "
        "out gets likelier (default: 0)",
    )
    add(
        "--score",
        metavar="DATA",
        type=pathlib.Path,
        help="tell the log-likelihood of other rows or pictures, in nats each",
    )
    add(
        "--save-scores",
        metavar="FILE",
        type=pathlib.Path,
        help="write that of each one, as a table",
    )
    add(
        "--seed",
        type=integer_type(0),
        default=0,
        help="the same seed gives the same samples (default: 0)",
    )
    add(
        "--figure",
        metavar="FILE",
        type=pathlib.Path,
        help="data and samples, by columns and in pairs, or side by side, as PNG",
    )


_NUM_HELP = f"how many to draw (default: as many as in DATA, {_DEFAULT_NUM} without it)"


def _sample(arguments: argparse.Namespace) -> None:
    _check_options(arguments)
    kind = _kind(arguments)
    kind.check_options(arguments)
    _check_files(arguments, kind)
    say = Report(arguments.quiet)
    data = other = None
    with say.timed("read"):
        if arguments.data:
            data = kind.read(arguments.data, arguments, say)
        if arguments.score:
            other = kind.read(arguments.score, arguments, say)
    law = _law(arguments, kind, data, say)
    if other is not None:
        with say.timed("score"):
            kind.score(arguments, law, other)
    if arguments.output or arguments.figure:
        num = arguments.num or (_DEFAULT_NUM if data is None else kind.size(data))
        with say.timed("draw"):
            samples = kind.draw(law, num, arguments)
        _write(arguments, kind, data, samples)
    if arguments.save_flow:
        kind.save(arguments.save_flow, law)
    say.times()
    written = ", ".join(str(path) for path in _outputs(arguments) if path)
    if written:
        say(f"wrote {written}")


def _check_options(arguments: argparse.Namespace) -> None:
    """Refuses options that do not go together, and nothing to do."""
    if arguments.data is None and arguments.flow is None:
        raise UsageError("name data to fit, or a saved flow by --flow")
    if arguments.figure and arguments.data is None:
        raise UsageError("--figure needs DATA, to show it beside the samples")
    if arguments.flow and arguments.data and not arguments.figure:
        raise UsageError("with --flow, DATA is not fitted: it is for --figure alone")
    if arguments.flow and (arguments.save_flow or arguments.train):
        raise UsageError("--save-flow and --train are for a flow that is fitted")
    if arguments.save_scores and not arguments.score:
        raise UsageError("--save-scores needs --score")
    wanted = ("output", "save_flow", "score", "figure")
    if not any(getattr(arguments, name) for name in wanted):
        raise UsageError("nothing to do: give -o, --save-flow, --score or --figure")


def _kind(arguments: argparse.Namespace) -> Any:
    """The module that knows what DATA, or the flow, is of."""
    from transportjax.maps import read_header

    if arguments.flow:
        about = read_header(arguments.flow).get("metadata") or {}
        is_pictures = about.get("kind") == "pictures"
    else:
        is_pictures = sample_pictures.is_pictures(arguments.data, arguments.array)
    return sample_pictures if is_pictures else sample_tables


def _outputs(arguments: argparse.Namespace) -> tuple[Any, ...]:
    return (
        arguments.output,
        arguments.save_flow,
        arguments.save_scores,
        arguments.figure,
    )


def _check_files(arguments: argparse.Namespace, kind: Any) -> None:
    """Refuses before the work what could not be written after it."""
    outputs = list(_outputs(arguments))
    inputs = (arguments.data, arguments.flow, arguments.score)
    into = arguments.output
    if into and kind is sample_pictures and not sample_pictures.is_array(into):
        sample_pictures.check_folder(into, inputs, arguments.force)
        outputs[0] = None
    check_outputs(outputs, inputs, arguments.force)


def _law(arguments: argparse.Namespace, kind: Any, data: Any, say: Report) -> Any:
    """The law of the file --flow, or of the data."""
    if arguments.flow:
        law = kind.load(arguments.flow)
        if data is not None:
            with naming(arguments.data):
                kind.check(law, data)
        return law
    kind.describe(data, say)
    with say.timed("fit"), naming(arguments.data):
        law = kind.fit(data, arguments)
    kind.judge(law, say)
    return law


def _write(arguments: argparse.Namespace, kind: Any, data: Any, samples: Any) -> None:
    from transportjax._files import atomic_write

    if arguments.output:
        kind.write(arguments.output, samples, arguments.force)
    if arguments.figure:
        with atomic_write(arguments.figure, overwrite=arguments.force) as file:
            kind.figure(file, data, samples)
