"""Laws of the rows of a table: fitted, drawn from, scored, kept in a file."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import jax.random as jr
import numpy as np

from transportjax._checks import (
    check_columns,
    check_columns_of_law,
    check_count,
    check_deviations,
    check_independent_columns,
    check_more_rows,
    check_num_steps,
    check_within_range,
)
from transportjax.flows import Flow
from transportjax.maps import AbstractBijection, load, save

from .density import draw, fit_density, log_likelihood
from .model_files import read_about
from .tables import Table

_BLOCK = 16384  # rows that are mapped at a time
_DIGITS = 6  # decimal digits of a sample, in units of the deviation of its column
_MOST_DRAWS = 100  # for one row within the range


@dataclasses.dataclass(frozen=True, eq=False)
class TableLaw:
    """A law of the rows of a table, with a density; `fit_table_law` makes it.

    Attributes:
        map: takes the columns that vary, standardised, to standard normal ones.
        columns: names, () if the table had none.
        centre: means of the columns, (d,).
        scale: their standard deviations, (d,); zero for constant columns, which are
            no part of the map.
        low: their least values, (d,).
        high: their greatest values, (d,).
        whole: which of them hold whole numbers alone, (d,).
        scores: mean log-likelihood of the rows that were held out of the fit, in nats a
            row, under "a normal law", "the flow", and "the trained flow" if it was.
    """

    map: AbstractBijection
    columns: tuple[str, ...]
    centre: np.ndarray
    scale: np.ndarray
    low: np.ndarray
    high: np.ndarray
    whole: np.ndarray
    scores: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def varies(self) -> np.ndarray:
        """Which columns are not constant, (d,)."""
        return self.scale > 0

    @property
    def flow(self) -> Flow:
        """The flow of the standardised columns."""
        return Flow(self.map, int(self.varies.sum()))


def fit_table_law(
    table: Table, *, num_steps: int = 300, train: int = 0, seed: int = 0
) -> TableLaw:
    """The law that rows of a table are samples of.

    It is fitted by `gaussianise` to nine tenths of the rows; the others tell how likely
    new rows are under it.

    Columns are standardised. A column of whole numbers gets noise, uniform in
    [-1/2, 1/2), so that it has a density, which is then the probability of a number;
    samples are rounded. A constant column stays constant.

    Args:
        table: n rows, more than the columns that vary.
        num_steps: of `gaussianise`, at most.
        train: steps of `fit_flow` that follow the fit, at most; what is best on the
            rows held out is kept.
        seed: the same gives the same law.

    Raises:
        ValueError: too few rows, columns that follow from others, no column that
            varies, or numbers of steps out of range.

    Example:
        >>> import numpy as np
        >>> from transportjax.apps import Table, fit_table_law, sample_table
        >>> rng = np.random.default_rng(0)
        >>> table = Table(np.stack([rng.normal(size=500), rng.poisson(3, 500)], 1))
        >>> law = fit_table_law(table, num_steps=10)
        >>> samples = sample_table(law, 100).values
        >>> bool((samples[:, 1] == samples[:, 1].round()).all())
        True
    """
    check_num_steps("train", train)
    values, rng = table.values, np.random.default_rng(seed)
    low, high = values.min(axis=0), values.max(axis=0)
    whole = np.all(values == np.round(values), axis=0)
    noisy = values + np.where(whole, rng.uniform(-0.5, 0.5, values.shape), 0)
    varies = low < high
    check_columns(table.columns, varies)
    check_more_rows(len(values), int(varies.sum()))
    with np.errstate(all="ignore"):  # a square may be too large, or too small
        centre = np.where(varies, noisy.mean(axis=0), low)
        scale = np.where(varies, noisy.std(axis=0), 0)
    check_deviations(table.columns, scale, varies)
    standard = (noisy - centre)[:, varies] / scale[varies]
    check_independent_columns(standard, table.columns, np.flatnonzero(varies))
    map, scores = fit_density(
        jnp.asarray(standard, "float32"),
        key=jr.key(seed),
        num_steps=num_steps,
        train=train,
    )
    volume = float(np.log(scale[varies]).sum())
    scores = {name: score - volume for name, score in scores.items()}
    return TableLaw(map, table.columns, centre, scale, low, high, whole, scores)


def sample_table(
    law: TableLaw, num: int, *, seed: int = 0, within_range: bool = False
) -> Table:
    """Rows drawn from a law.

    Args:
        law: what `fit_table_law` or `load_table_law` returned.
        num: how many rows.
        seed: the same gives the same rows.
        within_range: whether rows with a value beyond the least or the greatest of
            their column are drawn again. Whole numbers never lie beyond.

    Raises:
        ValueError: `num` < 1; hardly any row falls within the range.
    """
    check_count("num", num)
    key, parts, count = jr.key(seed), [], 0
    for block in range(_MOST_DRAWS * -(-num // _BLOCK)):
        standard = np.asarray(draw(law.flow, jr.fold_in(key, block), _size(num)))
        rows = _rows(law, standard.astype(np.float64))
        if within_range:
            rows = rows[np.all((rows >= law.low) & (rows <= law.high), axis=1)]
        parts.append(rows)
        count += len(rows)
        if count >= num:
            break
    check_within_range(count, num)
    return Table(np.concatenate(parts)[:num], law.columns)


def table_log_likelihood(law: TableLaw, table: Table) -> np.ndarray:
    """The log-density of each row, (n,), in nats.

    The density is one of the columns that vary. In a column of whole numbers it is the
    probability of the number. A row that differs in a constant column has minus
    infinity.

    Raises:
        ValueError: another number of columns than the law has.
    """
    check_table_of_law(law, table)
    varies = law.varies
    standard = (table.values - law.centre)[:, varies] / law.scale[varies]
    standard = standard.astype(np.float32)
    size, values = _size(len(standard)), []
    for start in range(0, len(standard), size):
        part = standard[start : start + size]
        padded = np.pad(part, ((0, size - len(part)), (0, 0)), "edge")
        values.append(
            np.asarray(log_likelihood(law.flow, jnp.asarray(padded)))[: len(part)]
        )
    score = np.concatenate(values).astype(np.float64) - np.log(law.scale[varies]).sum()
    same = np.all(table.values[:, ~varies] == law.low[~varies], axis=1)
    return np.where(same, score, -np.inf)


def check_table_of_law(law: TableLaw, table: Table) -> None:
    """Raises unless a table has the columns that the law was fitted to."""
    names, num = table.columns, table.values.shape[1]
    check_columns_of_law("table", names, num, law)


def save_table_law(path: Any, law: TableLaw) -> None:
    """Writes a law to one file; `load_table_law` reads it."""
    about = {
        "kind": "table",
        "columns": list(law.columns),
        **{name: getattr(law, name).tolist() for name in _ARRAYS},
    }
    save(path, law.map, metadata=about)


def load_table_law(path: Any) -> TableLaw:
    """Reads what `save_table_law` wrote.

    Raises:
        ModelFileError: the file is damaged, or holds no law of a table.
        OSError: the file cannot be read.
    """
    what = "a law of the rows of a table"
    about = read_about(path, "table", ("columns", *_ARRAYS), what)
    arrays: Any = {name: np.array(about[name]) for name in _ARRAYS}
    return TableLaw(load(path), tuple(about["columns"]), **arrays)


_ARRAYS = ("centre", "scale", "low", "high", "whole")


def _rows(law: TableLaw, standard: np.ndarray) -> np.ndarray:
    """Rows of the table from standardised columns that vary."""
    rows = np.tile(law.low, (len(standard), 1))
    varies = law.varies
    scale, whole = law.scale[varies], law.whole[varies]
    values = law.centre[varies] + scale * standard
    decimals = _DIGITS - np.floor(np.log10(scale)).astype(int)
    for column in range(values.shape[1]):
        places = 0 if whole[column] else int(decimals[column])
        values[:, column] = np.round(values[:, column], places) + 0.0  # no minus zero
    clipped = np.clip(values, law.low[varies], law.high[varies])
    rows[:, varies] = np.where(whole, clipped, values)
    return rows


def _size(count: int) -> int:
    """Rows of a block: a power of two, so that few sizes are compiled."""
    return min(_BLOCK, 1 << max(count - 1, 1).bit_length())
