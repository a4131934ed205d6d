"""The command `sample`: new rows like those of a table, and how likely rows are."""

import argparse
import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

from .options import Report, UsageError, add_files, check_outputs, integer_type

_EPILOG = """\
examples:
  transportjax sample wine.csv -o more.csv --num 5000 --figure wine.png
  transportjax sample wine.csv --save-flow wine.tjx --train 2000
  transportjax sample --flow wine.tjx -o more.csv --num 100 --seed 7
  transportjax sample --flow wine.tjx --score other.csv --save-scores scores.csv

Tables are .csv, .tsv or .txt, with or without a line of names, .npy or .npz. Cells must
be numbers. Where all numbers of a column are whole, those of its samples are too; a
constant column stays constant.
"""
_DEFAULT_NUM = 1000  # samples of a flow, without data


def add_commands(commands: Any) -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "sample",
        help="draw new rows like those of a table",
        description="Fit a flow to the rows of the table DATA, or take one from a "
        "file; draw rows from it, or tell how likely the rows of another table are.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_sample)
    parser.add_argument("data", metavar="DATA", type=pathlib.Path, nargs="?")
    add_files(parser, "table to write; its ending says the format", required=False)
    add = parser.add_argument
    add("--num", metavar="N", type=integer_type(1), help=_NUM_HELP)
    add(
        "--within-range",
        action="store_true",
        help="draw again what lies beyond the least or greatest number of a column",
    )
    add("--array", metavar="NAME", help="which array of a .npz file is the table")
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
        default=300,
        help="most layers of the flow; fewer are kept where more would fit noise "
        "(default: 300)",
    )
    add(
        "--train",
        metavar="STEPS",
        type=integer_type(0),
        default=0,
        help="train the flow by gradients for so many steps, as long as the rows held "
        "out get likelier (default: 0)",
    )
    add(
        "--score",
        metavar="TABLE",
        type=pathlib.Path,
        help="tell the log-likelihood of the rows of TABLE, in nats a row",
    )
    add(
        "--save-scores",
        metavar="FILE",
        type=pathlib.Path,
        help="write that of each row, as a table",
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
        help="data and samples, column by column and in pairs, as PNG",
    )


_NUM_HELP = f"rows to draw (default: as many as DATA has, {_DEFAULT_NUM} without it)"


def _sample(arguments: argparse.Namespace) -> None:
    from transportjax.apps import sampling, tables

    _check_options(arguments)
    outputs = (
        arguments.output,
        arguments.save_flow,
        arguments.save_scores,
        arguments.figure,
    )
    inputs = (arguments.data, arguments.flow, arguments.score)
    check_outputs(outputs, inputs, arguments.force)
    for path in (arguments.output, arguments.save_scores):
        if path:
            tables.table_suffix(path)
    say = Report(arguments.quiet)
    data = other = None
    with say.timed("read"):
        if arguments.data:
            data = _read(arguments.data, arguments.array)
        if arguments.score:
            other = _read(arguments.score, arguments.array)
    law = _law(arguments, data, say)
    if other is not None:
        _score(arguments, law, other, say)
    if arguments.output or arguments.figure:
        num = arguments.num or (_DEFAULT_NUM if data is None else len(data.values))
        with say.timed("draw"):
            samples = sampling.sample_table(
                law, num, seed=arguments.seed, within_range=arguments.within_range
            )
        _write(arguments, data, samples)
    if arguments.save_flow:
        sampling.save_table_law(arguments.save_flow, law)
    say.times()
    written = ", ".join(str(path) for path in outputs if path)
    if written:
        say(f"wrote {written}")


def _check_options(arguments: argparse.Namespace) -> None:
    """Refuses options that do not go together, and nothing to do."""
    if arguments.data is None and arguments.flow is None:
        raise UsageError("name a table to fit, or a saved flow by --flow")
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


def _read(path: pathlib.Path, array: str | None) -> Any:
    from transportjax.apps import tables

    is_archive = path.suffix.lower() == ".npz"
    return tables.read_table(path, array=array if is_archive else None)


def _law(arguments: argparse.Namespace, data: Any, say: Report) -> Any:
    """The law of the file --flow, or of the data."""
    from transportjax.apps import sampling

    if arguments.flow:
        law = sampling.load_table_law(arguments.flow)
        if data is not None:
            with _naming(arguments.data):
                sampling.check_table_of_law(law, data)
        return law
    _describe(data, say)
    with say.timed("fit"), _naming(arguments.data):
        law = sampling.fit_table_law(
            data,
            num_steps=arguments.steps,
            train=arguments.train,
            seed=arguments.seed,
        )
    scores = [f"{score:.4g} under {name}" for name, score in law.scores.items()]
    say("log-likelihood of the rows held out, in nats a row: " + ", ".join(scores))
    return law


def _describe(data: Any, say: Report) -> None:
    """What the samples will be, and what may surprise."""
    import numpy as np

    values = data.values
    say(f"{len(values)} rows, {values.shape[1]} columns")
    constant = values.min(axis=0) == values.max(axis=0)
    whole = np.all(values == np.round(values), axis=0) & ~constant
    for which, what in (
        (whole, "whole numbers, samples are rounded"),
        (constant, "constant, left as they are"),
    ):
        if which.any():
            say(f"{what}: {_listed(np.flatnonzero(which), data.columns)}")
    repeated = len(values) - len(np.unique(values, axis=0))
    if repeated:
        say(f"{repeated} rows repeat others, and count as often as they are there")


def _listed(indices: Any, columns: tuple[str, ...]) -> str:
    """The columns' names, or their numbers."""
    names = [columns[i] if columns else f"column {i + 1}" for i in indices]
    shown = names[:8]
    return ", ".join(shown) + (f" and {len(names) - 8} more" if names[8:] else "")


def _score(arguments: argparse.Namespace, law: Any, table: Any, say: Report) -> None:
    import numpy as np

    from transportjax.apps import sampling, tables

    with say.timed("score"), _naming(arguments.score):
        scores = sampling.table_log_likelihood(law, table)
    # what was asked for is printed, --quiet or not
    print(
        f"{arguments.score}: log-likelihood in nats a row: {scores.mean():.6g} on "
        f"average, {np.median(scores):.6g} in the middle, {scores.min():.6g} at least"
    )
    if arguments.save_scores:
        tables.write_scores(arguments.save_scores, scores, overwrite=arguments.force)


def _write(arguments: argparse.Namespace, data: Any, samples: Any) -> None:
    from transportjax._files import atomic_write
    from transportjax.apps import table_plots, tables

    if arguments.output:
        tables.write_table(arguments.output, samples, overwrite=arguments.force)
    if arguments.figure:
        with atomic_write(arguments.figure, overwrite=arguments.force) as file:
            table_plots.sampling_figure(file, data.values, samples.values, data.columns)


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
    """Errors on what a file holds begin with its name."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
