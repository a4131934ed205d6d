"""Laws of the rows of a table: fitted, drawn from, scored, kept in a file."""

import dataclasses
import math
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
    check_spread_of_columns,
    check_within_range,
)
from transportjax.flows import Flow
from transportjax.maps import AbstractBijection, load, save

from .density import draw, fit_density, log_likelihood
from .model_files import read_about
from .table_columns import ColumnForm, column_form, gather, spread
from .tables import Table

_BLOCK = 16384  # rows that are mapped at a time
_DIGITS = 6  # decimal digits of a sample, in units of the deviation of its column
_DISTANCES = 1000  # of knots, the least ones, that count as a deviation
_MOST_DRAWS = 100  # for one row within the range


@dataclasses.dataclass(frozen=True, eq=False)
class TableLaw:
    """A law of the rows of a table, with a density; `fit_table_law` makes it.

    Attributes:
        map: takes the columns that vary, continuous and standardised, to standard
            normal ones.
        columns: names, () if the table had none.
        centre: means of the continuous columns, (d,).
        scale: their standard deviations, (d,); zero for constant columns, which are
            no part of the map.
        forms: for each column how it is made continuous.
        scores: mean log-likelihood of the rows that were held out of the fit, in nats a
            row, under "a normal law", "the flow", and "the trained flow" if it was.
    """

    map: AbstractBijection
    columns: tuple[str, ...]
    centre: np.ndarray
    scale: np.ndarray
    forms: tuple[ColumnForm, ...]
    scores: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def varies(self) -> np.ndarray:
        """Which columns are not constant, (d,)."""
        return self.scale > 0

    @property
    def low(self) -> np.ndarray:
        """The least values of the columns, (d,)."""
        return np.array([form.low for form in self.forms])

    @property
    def high(self) -> np.ndarray:
        """Their greatest values, (d,)."""
        return np.array([form.high for form in self.forms])

    @property
    def flow(self) -> Flow:
        """The flow of the standardised columns."""
        return Flow(self.map, int(self.varies.sum()))


def fit_table_law(
    table: Table, *, num_steps: int = 300, train: int = 0, seed: int = 0
) -> TableLaw:
    """The law that rows of a table are samples of.

    It is fitted by `gaussianise` to nine tenths of the rows; the others tell how likely
    new rows are under it. Of 1000 rows or more with up to three columns that vary,
    Gaussian mixtures are tried, too (`select_gaussian_mixture`), and kept where these
    others are likelier under them: so clusters stay apart.

    Columns are standardised. A constant column stays constant. In others what repeats
    is given a density, and comes back in the samples:

    * Rounded numbers, whole ones or such as prices, get noise, uniform over what would
      be rounded to them. Samples are rounded as they are.
    * A value that stands out among continuous or many whole ones, by a twentieth of
      the rows or more and by five, such as zero rainfall or no income, gets an interval
      of its own. Samples have as many of them. Others that are less than a fifth of the
      rows keep their law next to it.

    Samples have no sign that the numbers of a column do not have.

    Args:
        table: n rows, more than the columns that vary.
        num_steps: of `gaussianise`, at most.
        train: steps of a training by `fit_flow`, at most; what is best on the
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
    varies = values.min(axis=0) < values.max(axis=0)
    check_columns(table.columns, varies)
    check_more_rows(len(values), int(varies.sum()))
    with np.errstate(all="ignore"):  # a square may be too large, or too small
        forms = tuple(column_form(column) for column in values.T)
        places = rng.uniform(size=values.shape)
        continuous, log_volumes = _spread(forms, values, places)
        centre = np.where(varies, continuous.mean(axis=0), values[0])
        scale = np.where(varies, continuous.std(axis=0), 0)
    check_deviations(table.columns, scale, varies)
    standard = (continuous - centre)[:, varies] / scale[varies]
    # of all but whole numbers without the noise, which hides it
    is_whole = np.array([form.step >= 1 for form in forms])
    quiet = np.where(is_whole, places, 0.5)
    plain = _spread(forms, values, quiet)[0][:, varies]
    plain = (plain - plain.mean(axis=0)) / scale[varies]
    numbers = np.flatnonzero(varies)
    check_independent_columns(plain, table.columns, numbers)
    check_spread_of_columns(standard, table.columns, numbers)
    map, scores = fit_density(
        jnp.asarray(standard, "float32"),
        key=jr.key(seed),
        num_steps=num_steps,
        train=train,
        log_volumes=log_volumes[:, varies].sum(axis=1) - np.log(scale[varies]).sum(),
    )
    return TableLaw(map, table.columns, centre, scale, forms, scores)


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

    The density is one of the columns that vary, in their units. It holds instead the
    probability of the number in columns of whole numbers, and of a number that has an
    interval of its own, see `fit_table_law`. So rows that are zero in other columns
    cannot be compared by it: there it has other units. A row that differs in a constant
    column has minus infinity, or is between such a number and the others, in a gap.

    Raises:
        ValueError: another number of columns than the law has.
    """
    check_table_of_law(law, table)
    varies = law.varies
    places = np.full(table.values.shape, 0.5)
    continuous, log_volumes = _spread(law.forms, table.values, places)
    standard = (continuous - law.centre)[:, varies] / law.scale[varies]
    standard = standard.astype(np.float32)
    size, values = _size(len(standard)), []
    for start in range(0, len(standard), size):
        part = standard[start : start + size]
        padded = np.pad(part, ((0, size - len(part)), (0, 0)), "edge")
        values.append(
            np.asarray(log_likelihood(law.flow, jnp.asarray(padded)))[: len(part)]
        )
    score = np.concatenate(values).astype(np.float64) - np.log(law.scale[varies]).sum()
    score += log_volumes[:, varies].sum(axis=1)
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
        "forms": [
            {name: np.asarray(getattr(form, name)).tolist() for name in _FORM}
            for form in law.forms
        ],
    }
    save(path, law.map, metadata=about)


def load_table_law(path: Any) -> TableLaw:
    """Reads what `save_table_law` wrote.

    Raises:
        ModelFileError: the file is damaged, or holds no law of a table.
        OSError: the file cannot be read.
    """
    what = "a law of the rows of a table"
    about = read_about(path, "table", ("columns", "forms", *_ARRAYS), what)
    arrays: Any = {name: np.array(about[name]) for name in _ARRAYS}
    forms = tuple(
        ColumnForm(**{name: _number_or_array(form[name]) for name in _FORM})
        for form in about["forms"]
    )
    return TableLaw(load(path), tuple(about["columns"]), **arrays, forms=forms)


_ARRAYS = ("centre", "scale")
_FORM = tuple(field.name for field in dataclasses.fields(ColumnForm))


def _number_or_array(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    return np.array(value, float) if isinstance(value, list) else float(value)


def _spread(
    forms: tuple[ColumnForm, ...], values: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """`spread` of each column."""
    parts = [spread(*each) for each in zip(forms, values.T, places.T, strict=True)]
    continuous, log_volumes = zip(*parts, strict=True)
    return np.stack(continuous, axis=1), np.stack(log_volumes, axis=1)


def _rows(law: TableLaw, standard: np.ndarray) -> np.ndarray:
    """Rows of the table from standardised columns that vary."""
    rows = np.tile(law.low, (len(standard), 1))
    for place, column in enumerate(np.flatnonzero(law.varies)):
        form, scale = law.forms[column], law.scale[column]
        y = law.centre[column] + scale * standard[:, place]
        if form.is_normal:  # scores have no unit
            distances = np.diff(form.places)
            scale = _DISTANCES * np.min(distances[distances > 0])
        digit = min(scale, form.high - form.low) / 10**_DIGITS
        unit = form.step if form.step >= 1 else max(form.step, digit)
        decimals = -math.floor(math.log10(unit) + 1e-9)
        rows[:, column] = gather(form, y, decimals)
    return rows


def _size(count: int) -> int:
    """Rows of a block: a power of two, so that few sizes are compiled."""
    return min(_BLOCK, 1 << max(count - 1, 1).bit_length())
