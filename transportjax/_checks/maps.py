"""Errors on maps and what they are built from."""

import json
from collections.abc import Collection
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .slices import check_directions
from .values import check_finite, check_same_length, is_concrete, reads_values


def check_event(name: str, x: Array, shape: tuple[int, ...]) -> None:
    """Raises unless `x` is one event of the given shape."""
    if x.shape != shape:
        raise ValueError(
            f"`{name}` must be one event of shape {shape}; got {x.shape}. For many "
            "events, with a leading axis, use jax.vmap(map)(x)."
        )


def check_bijection(name: str, x: Any, base: type) -> None:
    """Raises unless `x` is a map, an instance of `base`."""
    if not isinstance(x, base):
        hint = " Give its `map`." if isinstance(getattr(x, "map", None), base) else ""
        raise ValueError(
            f"`{name}` must be a map, of a class in transportjax.maps; got an object "
            f"of type {type(x).__name__}.{hint}"
        )


def check_kind(name: str, x: Any, kind: type) -> None:
    """Raises unless `x` is an instance of `kind`."""
    if not isinstance(x, kind):
        raise ValueError(
            f"`{name}` must be a {kind.__name__}; got a {type(x).__name__}."
        )


def check_stacked(
    name: str, shapes: list[tuple[int, ...]], num: int | None = None
) -> None:
    """Raises unless all leaf `shapes` begin with one axis of the same length `num`."""
    lengths = {shape[0] if shape else None for shape in shapes}
    if len(lengths) != 1 or None in lengths or (num is not None and lengths != {num}):
        wanted = "the same length" if num is None else f"length {num}"
        raise ValueError(
            f"`{name}` must have a leading axis of {wanted} on every leaf; got leaves "
            f"of shapes {shapes}. Build it by jax.vmap over the constructor."
        )


@reads_values
def check_orthonormal(name: str, directions: Array) -> None:
    """Raises unless `directions` is `(p, d)`, p <= d, with orthonormal rows."""
    check_directions(name, directions)
    if directions.ndim != 2:
        raise ValueError(f"`{name}` must have shape (p, d); got {directions.shape}.")
    p, d = directions.shape
    if p > d:
        raise ValueError(
            f"`{name}` must have at most as many rows as columns, because more than d "
            f"directions cannot be orthogonal in dimension d; got shape {(p, d)}. "
            "Use several layers."
        )
    if not is_concrete(directions) or p * p * d > 2**22:  # 4 M products: 1 ms
        return
    rows = np.asarray(directions, np.float32)  # by numpy: nothing to compile
    worst = float(np.max(np.abs(rows @ rows.T - np.eye(p))))
    if worst > 1e-2:
        raise ValueError(
            f"`{name}` must have orthonormal rows; got rows with an inner product that "
            f"is wrong by {worst:g}. Orthonormalise them, for example by QR."
        )


@reads_values
def check_rows(name: str, rows: Array) -> None:
    """Raises unless `rows` is a finite (p, d); if p <= d, with independent rows."""
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"`{name}` must have shape (p, d); got {rows.shape}.")
    check_finite(name, rows)
    p, d = rows.shape
    if p > d or not is_concrete(rows) or p * p * d > 2**22:
        return
    rank = int(np.linalg.matrix_rank(np.asarray(rows, np.float64), tol=1e-6))
    if rank < p:
        raise ValueError(
            f"`{name}` must have linearly independent rows where there are at most as "
            f"many as columns; got {p} rows of rank {rank}. Remove repeated ones."
        )


@reads_values
def check_knots(x_name: str, x: Array, y_name: str, y: Array) -> None:
    """Raises unless `x` and `y` are finite, non-decreasing knots of one shape (k,)."""
    for name, knots in ((x_name, x), (y_name, y)):
        if knots.ndim != 1 or knots.shape[0] < 1:
            raise ValueError(
                f"`{name}` must have shape (k,) with at least one knot; got "
                f"{knots.shape}. For many curves use jax.vmap."
            )
    check_same_length(x_name, x, y_name, y)
    for name, knots in ((x_name, x), (y_name, y)):
        check_finite(name, knots)
        if is_concrete(knots) and not bool(jnp.all(knots[1:] >= knots[:-1])):
            index = int(jnp.argmax(knots[1:] < knots[:-1]))
            raise ValueError(
                f"`{name}` must not decrease; got {float(knots[index]):g} before "
                f"{float(knots[index + 1]):g} at index {index}."
            )


@reads_values
def check_slopes(name: str, slopes: Array, shape: tuple[int, ...]) -> None:
    """Raises unless `slopes` has `shape` and is finite and positive."""
    if slopes.shape != shape:
        raise ValueError(
            f"`{name}` must have shape {shape}, one slope a knot; got {slopes.shape}."
        )
    check_finite(name, slopes)
    if is_concrete(slopes) and not bool(jnp.all(slopes > 0)):
        raise ValueError(
            f"`{name}` must be positive; got a minimum of {float(jnp.min(slopes)):g}."
        )


def check_affine(matrix: Array, offset: Array) -> None:
    """Raises unless `matrix` is (d, d) and `offset` is (d,)."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] < 1:
        raise ValueError(f"`matrix` must have shape (d, d); got {matrix.shape}.")
    if offset.shape != matrix.shape[:1]:
        raise ValueError(
            f"`offset` must have shape {matrix.shape[:1]}, like the rows of `matrix`; "
            f"got {offset.shape}."
        )


@reads_values
def check_moments(
    mean_name: str, mean: Array, cov_name: str, cov: Array, dim: int | None = None
) -> None:
    """Raises unless `mean` is (d,) and `cov` a covariance matrix, (d, d)."""
    if mean.ndim != 1 or mean.shape[0] < 1 or dim not in (None, mean.shape[0]):
        wanted = "(d,)" if dim is None else f"({dim},), like the other mean"
        raise ValueError(f"`{mean_name}` must have shape {wanted}; got {mean.shape}.")
    if cov.shape != 2 * mean.shape:
        raise ValueError(
            f"`{cov_name}` must have shape {2 * mean.shape}, to go with `{mean_name}`; "
            f"got {cov.shape}."
        )
    check_finite(mean_name, mean)
    check_finite(cov_name, cov)
    if not is_concrete(cov):
        return
    values = np.asarray(cov, dtype=np.float64)
    size = np.max(np.abs(values))
    if np.max(np.abs(values - values.T)) > 1e-3 * size:
        raise ValueError(f"`{cov_name}` must be symmetric.")
    least = float(np.min(np.linalg.eigvalsh((values + values.T) / 2)))
    if least < -1e-3 * size:
        raise ValueError(
            f"`{cov_name}` must be positive semidefinite; got an eigenvalue of "
            f"{least:g}."
        )


def check_json(name: str, value: Any) -> None:
    """Raises unless `value` consists of JSON values, and comes back as it was."""
    try:
        is_kept = json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError, RecursionError):
        is_kept = False
    if not is_kept:
        raise ValueError(
            f"`{name}` must consist of strings, finite numbers, bools, None, lists, "
            f"and dictionaries with strings as keys; got {value!r:.80}."
        )


def check_metadata(name: str, value: Any) -> None:
    """Raises unless `value` is a dictionary of JSON values."""
    if not isinstance(value, dict):
        raise ValueError(f"`{name}` must be a dictionary; got {value!r:.80}.")
    check_json(name, value)


@reads_values
def check_storable(name: str, x: Any, dtypes: Collection[str]) -> None:
    """Raises if array `x` is traced, or of a dtype that a file does not hold."""
    if not is_concrete(x):
        raise ValueError(f"`{name}` must not be traced; save it outside of jax.jit.")
    if x.dtype.name not in dtypes:
        raise ValueError(f"`{name}` holds an array of dtype {x.dtype}; no file can.")


def check_saveable(
    name: str, class_name: str, is_known: bool, known: Collection[str]
) -> None:
    """Raises unless a file can hold objects of the class."""
    if not is_known:
        raise ValueError(
            f"`{name}` holds an object of type {class_name}; a file can hold "
            f"{', '.join(known)}, tuples, arrays, numbers and strings."
        )


@reads_values
def check_grid(low: Array, high: Array, values: Array) -> None:
    """Raises unless `values` are >= 2 non-decreasing values on a grid low < high."""
    if low.shape or high.shape or values.ndim != 1 or values.shape[0] < 2:
        raise ValueError(
            "`low` and `high` must be numbers and `values` (k,), k >= 2; got shapes "
            f"{low.shape}, {high.shape} and {values.shape}."
        )
    for name, x in (("low", low), ("high", high), ("values", values)):
        check_finite(name, x)
    if is_concrete(low) and is_concrete(high) and not bool(low < high):
        raise ValueError(f"`low` must be less than `high`; got {low} and {high}.")
    if is_concrete(values) and not bool(jnp.all(jnp.diff(values) >= 0)):
        raise ValueError("`values` must not decrease.")


@reads_values
def check_decision(
    name: str, x: Array, shape: tuple[int, ...], *, positive: bool
) -> None:
    """Raises unless `x` are numbers of a colour decision."""
    if x.shape != shape:
        wanted = f"shape {shape}" if shape else "one number"
        raise ValueError(f"`{name}` must be of {wanted}; got shape {x.shape}.")
    check_finite(name, x)
    if positive and is_concrete(x) and not bool(jnp.all(x > 0)):
        raise ValueError(f"`{name}` must be positive; got {x}.")
