"""Errors on tables of samples."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .clouds import least_spread

_RANK_TOLERANCE = 1e-10  # of a variance that other columns leave, of one


def column_name(columns: Sequence[str], index: int) -> str:
    """How an error calls a column, counted from one."""
    return f"column {index + 1}" + (f" ({columns[index]})" if columns else "")


def check_table(values: np.ndarray, columns: Sequence[str]) -> None:
    """Raises unless `values` is a finite (n, d) that names go with."""
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"`values` must be (n, d), n, d >= 1; got {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError("`values` must be finite; got a NaN or an infinity.")
    num = values.shape[1]
    if columns and len(columns) != num:
        raise ValueError(f"`columns` must hold {num} names; got {len(columns)}.")


def check_unmasked(name: str, values: Any) -> None:
    """Raises if entries of an array are masked."""
    if np.ma.is_masked(values):
        raise ValueError(
            f"`{name}` must not have masked entries; fill them in, or leave out their "
            "rows or columns."
        )


def check_num_steps(name: str, num: Any) -> None:
    """Raises unless `num` is an integer >= 0."""
    if isinstance(num, bool) or not isinstance(num, int | np.integer) or num < 0:
        raise ValueError(f"`{name}` must be an integer >= 0; got {num!r}.")


def check_columns(columns: Sequence[str], varies: np.ndarray) -> None:
    """Raises unless some column varies."""
    if not varies.any():
        what = "the only column is" if len(varies) == 1 else "all columns are"
        raise ValueError(f"{what} constant: there is nothing to fit.")


def check_more_rows(num: int, dim: int) -> None:
    """Raises unless there are more rows than columns to fit."""
    if num <= dim:
        raise ValueError(
            f"a fit needs more rows than columns that vary; got {num} rows to fit and "
            f"{dim} such columns."
        )


def check_deviations(
    columns: Sequence[str], scale: np.ndarray, varies: np.ndarray
) -> None:
    """Raises unless all columns that vary have a standard deviation."""
    bad = np.flatnonzero(varies & ~((scale > 0) & (scale < np.inf)))
    if len(bad):
        raise ValueError(
            f"{column_name(columns, int(bad[0]))} has no standard deviation: squares "
            "of its numbers are too large or too small. Give them in other units."
        )


def check_independent_columns(
    standard: np.ndarray, columns: Sequence[str], numbers: np.ndarray
) -> None:
    """Raises if a standardised column is a linear function of those before it."""
    factor = np.asarray(np.linalg.qr(standard, mode="r"))
    left = np.diagonal(factor) ** 2 / len(standard)
    if (left > _RANK_TOLERANCE).all():
        return
    name = column_name(columns, int(numbers[np.argmax(left <= _RANK_TOLERANCE)]))
    raise ValueError(
        f"{name} is a linear function of the columns before it; leave it out."
    )


def check_spread_of_columns(
    standard: np.ndarray, columns: Sequence[str], numbers: np.ndarray
) -> None:
    """Raises if a standardised column is all but a function of others, in float32."""
    dim = standard.shape[1]
    variances, axes = np.linalg.eigh(standard.T @ standard / len(standard))
    if variances[0] <= least_spread(dim, "float32") * variances[-1]:
        name = column_name(columns, int(numbers[np.argmax(np.abs(axes[:, 0]))]))
        raise ValueError(
            f"{name} is almost a linear function of other columns, as a sum of them or "
            "the rest of a hundred per cent is; leave it out, or one of them."
        )


def check_within_range(count: int, num: int) -> None:
    """Raises if fewer than `num` rows were found within the range of the data."""
    if count < num:
        raise ValueError(
            "fewer than one sample in a hundred is within the range of every column; "
            "draw without that limit."
        )


def check_columns_of_law(name: str, names: Sequence[str], num: int, law: Any) -> None:
    """Raises unless a table has the columns that a law was fitted to."""
    wanted = len(law.scale)
    if num != wanted:
        raise ValueError(
            f"`{name}` must have the {wanted} columns that the flow was fitted to; "
            f"got {num}."
        )
    if names and law.columns and tuple(names) != tuple(law.columns):
        index = next(i for i in range(num) if names[i] != law.columns[i])
        raise ValueError(
            f"`{name}` must have the columns that the flow was fitted to, in their "
            f"order; column {index + 1} is {names[index]!r}, not "
            f"{law.columns[index]!r}."
        )


def as_table(
    name: str, x: Any, dim: int | None = None, columns: Sequence[str] = ()
) -> np.ndarray:
    """`x` as a float64 (n, d); raises unless it is finite, with the `dim` columns.

    What scikit-learn's own checks look for is in the words of scikit-learn.
    """
    if hasattr(x, "toarray"):
        raise ValueError(f"`{name}`: sparse input is not supported; give X.toarray().")
    check_unmasked(name, x)
    names = column_names(x)
    try:
        x = np.asarray(x)
        x = x if np.iscomplexobj(x) else x.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"`{name}` must be an array of numbers (n, d): {error}."
        ) from None
    if np.iscomplexobj(x):
        raise ValueError(f"`{name}` must be real. Complex data not supported.")
    if x.ndim != 2:
        raise ValueError(
            f"`{name}` must have shape (n, d); got {x.shape}. Reshape your data: one "
            "row a sample."
        )
    for count, what in zip(x.shape, ("sample", "feature"), strict=True):
        if count == 0:
            raise ValueError(
                f"`{name}` has 0 {what}(s) (shape={x.shape}) while a minimum of 1 is "
                "required."
            )
    if dim is not None and x.shape[1] != dim:
        raise ValueError(
            f"{name} has {x.shape[1]} features, but FlowEstimator is expecting {dim} "
            "features as input: as many columns as the fitted samples had."
        )
    if columns and names and names != tuple(columns):
        raise ValueError(
            f"`{name}` must have the columns that were fitted, in their order: "
            f"{', '.join(columns)}; got {', '.join(names)}."
        )
    if not np.isfinite(x).all():
        raise ValueError(f"`{name}` must be finite; got a NaN or an infinity.")
    return x


def column_names(x: Any) -> tuple[str, ...]:
    """The names of the columns of a data frame, if all are strings."""
    names = tuple(getattr(x, "columns", ()))
    return names if all(isinstance(name, str) for name in names) else ()


def check_num_rows(name: str, num: int, dim: int) -> None:
    """Raises unless there are more samples than columns."""
    if num <= dim:
        raise ValueError(
            f"`{name}` must have more rows than columns; got n_samples = {num} rows "
            f"with a weight, and {dim} columns."
        )


def check_varying(name: str, x: np.ndarray) -> None:
    """Raises if a column is constant."""
    constant = np.flatnonzero(x.min(axis=0) == x.max(axis=0))
    if len(constant):
        raise ValueError(
            f"`{name}` must vary in every column; columns {constant.tolist()}, counted "
            "from zero, are constant."
        )


def check_fitted(name: str, fitted: bool) -> None:
    """Raises unless an estimator is fitted."""
    if not fitted:
        raise ValueError(f"this {name} is not fitted yet; call `fit` first.")


def as_seed(name: str, value: Any) -> int:
    """`value` as an int; raises unless it is an integer >= 0."""
    check_num_steps(name, value)
    return int(value)
