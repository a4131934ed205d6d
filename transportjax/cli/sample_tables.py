"""What `sample` does with tables."""

import argparse
import pathlib
from typing import Any

from .options import Report, naming

STEPS = 300


def check_options(arguments: argparse.Namespace) -> None:
    """Refuses what cannot be written."""
    from transportjax.apps import tables

    for path in (arguments.output, arguments.save_scores):
        if path:
            tables.table_suffix(path)


def read(path: pathlib.Path, array: str | None, say: Report) -> Any:
    """The table of a file."""
    from transportjax.apps import tables

    del say
    if path.is_dir():
        raise ValueError(
            f"{path}: is a folder; must be a table, as DATA or the flow is"
        )
    is_archive = path.suffix.lower() == ".npz"
    return tables.read_table(path, array=array if is_archive else None)


def size(table: Any) -> int:
    """The number of rows."""
    return len(table.values)


def load(path: pathlib.Path) -> Any:
    """The law in a file."""
    from transportjax.apps import sampling

    return sampling.load_table_law(path)


def check(law: Any, table: Any) -> None:
    """Raises unless the table is like those of the law."""
    from transportjax.apps import sampling

    sampling.check_table_of_law(law, table)


def fit(table: Any, arguments: argparse.Namespace) -> Any:
    """The law of a table."""
    from transportjax.apps import sampling

    return sampling.fit_table_law(
        table,
        num_steps=arguments.steps or STEPS,
        train=arguments.train,
        seed=arguments.seed,
    )


def save(path: pathlib.Path, law: Any) -> None:
    """Keeps the law."""
    from transportjax.apps import sampling

    sampling.save_table_law(path, law)


def describe(table: Any, say: Report) -> None:
    """What the samples will be, and what may surprise."""
    import numpy as np

    values = table.values
    say(f"{len(values)} rows, {values.shape[1]} columns")
    constant = values.min(axis=0) == values.max(axis=0)
    whole = np.all(values == np.round(values), axis=0) & ~constant
    for which, what in (
        (whole, "whole numbers, samples are rounded"),
        (constant, "constant, left as they are"),
    ):
        if which.any():
            say(f"{what}: {_listed(np.flatnonzero(which), table.columns)}")
    repeated = len(values) - len(np.unique(values, axis=0))
    if repeated:
        say(f"{repeated} rows repeat others, and count as often as they are there")


def _listed(indices: Any, columns: tuple[str, ...]) -> str:
    """The columns' names, or their numbers."""
    names = [columns[i] if columns else f"column {i + 1}" for i in indices]
    shown = names[:8]
    return ", ".join(shown) + (f" and {len(names) - 8} more" if names[8:] else "")


def judge(law: Any, say: Report) -> None:
    """How likely the rows are that were held out."""
    scores = [f"{score:.4g} under {name}" for name, score in law.scores.items()]
    say("log-likelihood of the rows held out, in nats a row: " + ", ".join(scores))


def score(arguments: argparse.Namespace, law: Any, table: Any) -> None:
    """Tells how likely the rows of a table are."""
    import numpy as np

    from transportjax.apps import sampling, tables

    with naming(arguments.score):
        scores = sampling.table_log_likelihood(law, table)
    # what was asked for is printed, --quiet or not
    print(
        f"{arguments.score}: log-likelihood in nats a row: {scores.mean():.6g} on "
        f"average, {np.median(scores):.6g} in the middle, {scores.min():.6g} at least"
    )
    if arguments.save_scores:
        tables.write_scores(arguments.save_scores, scores, overwrite=arguments.force)


def draw(law: Any, num: int, arguments: argparse.Namespace) -> Any:
    """New rows."""
    from transportjax.apps import sampling

    return sampling.sample_table(
        law, num, seed=arguments.seed, within_range=arguments.within_range
    )


def write(path: pathlib.Path, samples: Any, force: bool) -> None:
    """The rows, as a table."""
    from transportjax.apps import tables

    tables.write_table(path, samples, overwrite=force)


def figure(file: Any, table: Any, samples: Any) -> None:
    """Data and samples, column by column and in pairs."""
    from transportjax.apps import table_plots

    table_plots.sampling_figure(file, table.values, samples.values, table.columns)
