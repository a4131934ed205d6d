"""What `sample` does with tables."""

import argparse
import pathlib
from typing import Any

from .options import Report, naming

STEPS = 300
_MANY = 1e5  # steps in the range of a column, whose rounding is not worth telling
_FEW = 3  # values that repeat, to be told one by one


def check_options(arguments: argparse.Namespace) -> None:
    """Refuses what cannot be written."""
    from transportjax.apps import tables

    for path in (arguments.output, arguments.save_scores):
        if path:
            tables.table_suffix(path)


def read(path: pathlib.Path, arguments: argparse.Namespace, say: Report) -> Any:
    """The table of a file."""
    from transportjax.apps import tables

    if path.is_dir():
        raise ValueError(
            f"{path}: is a folder; must be a table, as DATA or the flow is"
        )
    is_array = path.suffix.lower() in (".npy", ".npz")
    table = tables.read_table(
        path,
        array=arguments.array if path.suffix.lower() == ".npz" else None,
        header=None if is_array else arguments.header,
    )
    if not is_array and arguments.header is None:
        _tell_of_names(path, table.columns, say)
    return table


def _tell_of_names(path: pathlib.Path, columns: tuple[str, ...], say: Report) -> None:
    """What was found out about the first line, where it could be otherwise."""
    from transportjax.apps import table_text

    if not columns:
        say(f"{path}: no names of columns; --header if the first line holds them")
    elif any(map(table_text.is_number, columns)):
        names = _listed(range(len(columns)), columns)
        say(f"{path}: names of columns are {names}; --no-header if these are data")


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

    from transportjax.apps import table_columns

    values = table.values
    say(f"{len(values)} rows, {values.shape[1]} columns")
    forms = [table_columns.column_form(column) for column in values.T]
    notes: dict[str, list[int]] = {}
    for index, form in enumerate(forms):
        for note in _notes(form, values[:, index]):
            notes.setdefault(note, []).append(index)
    for note, indices in notes.items():
        say(f"{note}: {_listed(indices, table.columns)}")
    repeated = len(values) - len(np.unique(values, axis=0))
    if repeated:
        say(f"{repeated} rows repeat others, and count as often as they are there")


def _notes(form: Any, x: Any) -> list[str]:
    """What there is to say of a column, in words that fit others too."""
    import numpy as np

    if form.low == form.high:
        return ["constant, left as they are"]
    notes = []
    if form.step == 1:
        notes.append("whole numbers, samples are rounded")
    elif form.step * _MANY > form.high - form.low:
        notes.append(f"multiples of {form.step:g}, samples too")
    if len(form.repeated) <= _FEW:
        told = [f"exactly {value:g}" for value in form.repeated]
    else:
        told = ["one of a few numbers"]
    notes += [f"often {what}, samples as often" for what in told]
    if len(x) > 1 and np.all(np.diff(x) == 1):
        notes.append("these number the rows; leave them out if that is all they do")
    return notes


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
