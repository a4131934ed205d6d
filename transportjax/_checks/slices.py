"""Errors on directions, planes, and what lies along them."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .clouds import check_points
from .values import (
    check_count,
    check_finite,
    is_concrete,
    reads_values,
    working_dtype,
)


def check_dimension(
    subject: str, dim: int, low: int, high: int, instead: str = ""
) -> None:
    """Raises unless `low <= dim <= high`, the dimensions in which `subject` exist."""
    if not low <= dim <= high:
        where = f"{low}" if low == high else f"{low} to {high}"
        advice = f" Use {instead}." if instead else ""
        raise ValueError(
            f"{subject} exist in dimension {where}; got dimension {dim}.{advice}"
        )


@reads_values
def check_directions(
    name: str, directions: Array, dim: int | None = None, *, sets: bool = False
) -> None:
    """Raises unless `directions` is `(p, d)` (or `sets` of it) with rows of norm 1."""
    if directions.ndim not in (2, 2 + sets) or 0 in directions.shape:
        shape = "(p, d) or (l, p, d)" if sets else "(p, d)"
        raise ValueError(
            f"`{name}` must have shape {shape}, one direction a row; got "
            f"{directions.shape}."
        )
    if dim is not None and directions.shape[-1] != dim:
        raise ValueError(
            f"`{name}` must have {dim} columns, one for each coordinate of the points; "
            f"got shape {directions.shape}. Is it transposed?"
        )
    if not is_concrete(directions):
        return
    check_finite(name, directions)
    # by numpy: nothing to compile
    norms = np.linalg.norm(np.asarray(directions, np.float32), axis=-1).reshape(-1)
    worst = float(norms[np.argmax(np.abs(norms - 1))])
    if abs(worst - 1) > 1e-2:
        raise ValueError(
            f"`{name}` must have rows of norm 1; got a row of norm {worst:g}. Divide "
            "each row by its norm."
        )


def check_num_orthonormal(name: str, num: int, dim: int) -> None:
    """Raises unless `num` orthonormal directions exist in dimension `dim`."""
    check_count(name, num)
    if num > dim:
        raise ValueError(
            f"`{name}` must be at most {dim}, the dimension of the points: more "
            f"directions cannot be orthonormal; got {num}."
        )


def check_projection(
    name: str, values: Any, num: int, count: int | None = None
) -> None:
    """Raises unless `name` has made slices `(p, n)` of `num` points."""
    shape = getattr(values, "shape", None)
    if shape is None or len(shape) != 2 or shape[1] != num or 0 in shape:
        got = type(values).__name__ if shape is None else f"shape {shape}"
        raise ValueError(
            f"`{name}` must take points (n, d) to slices (p, n), one slice a row, here "
            f"(p, {num}); it returned {got}."
        )
    if count is not None and shape[0] != count:
        raise ValueError(
            f"`{name}` must make as many slices of both clouds; it made {count} and "
            f"{shape[0]}."
        )


def check_num_coefficients(name: str, num: int, dim: int, degree: int) -> None:
    """Raises unless there is a coefficient for each monomial."""
    wanted = math.comb(dim + degree - 1, degree)
    if num != wanted:
        raise ValueError(
            f"`{name}` must have {wanted} columns, one for each monomial of degree "
            f"{degree} in dimension {dim}; got {num}."
        )


def check_odd(name: str, value: Any) -> None:
    """Raises unless `value` is an odd positive integer."""
    check_count(name, value)
    if value % 2 == 0:
        raise ValueError(
            f"`{name}` must be odd, or else points x and -x look the same; got {value}."
        )


@reads_values
def check_profiles(x_directions: Array, y_directions: Array) -> None:
    """Raises unless two profiles are along the same directions."""
    same = x_directions.shape == y_directions.shape
    if same and is_concrete(x_directions) and is_concrete(y_directions):
        same = bool(jnp.all(x_directions == y_directions))
    if not same:
        raise ValueError(
            "`x` and `y` must be profiles along the same directions; got directions of "
            f"shapes {x_directions.shape} and {y_directions.shape} that differ."
        )


def check_planar(name: str, points: Array) -> None:
    """Raises unless `points` is a finite array (..., 2)."""
    if points.ndim < 1 or points.shape[-1] != 2:
        raise ValueError(
            f"`{name}` must be points in the plane, of shape (..., 2); got "
            f"{points.shape}."
        )
    check_finite(name, points)


@reads_values
def check_on_sphere(name: str, x: Array, dim: int | None = None) -> None:
    """Raises unless `x` is `(n, d)`, d >= 2, with rows of norm 1."""
    check_points(name, x, dim)
    if x.shape[1] < 2:
        raise ValueError(
            f"`{name}` must lie on a sphere in dimension 2 or more; got shape "
            f"{x.shape}."
        )
    if not is_concrete(x):
        return
    worst = float(_worst_norm(x.astype(working_dtype(x.dtype))))
    if abs(worst - 1) > max(1e-4, 4 * float(jnp.finfo(x.dtype).eps)):
        raise ValueError(
            f"`{name}` must lie on the unit sphere; got a point of norm {worst:g}. "
            "Divide each point by its norm."
        )


@jax.jit
def _worst_norm(x: Array) -> Array:
    norms = jnp.linalg.norm(x, axis=-1)
    return norms[jnp.argmax(jnp.abs(norms - 1))]


@reads_values
def check_planes(name: str, planes: Array, dim: int) -> None:
    """Raises unless `planes` is `(p, 2, dim)`, each of two orthonormal rows."""
    if planes.ndim != 3 or planes.shape[0] < 1 or planes.shape[1:] != (2, dim):
        raise ValueError(
            f"`{name}` must have shape (p, 2, {dim}), two rows a plane; got "
            f"{planes.shape}."
        )
    if not is_concrete(planes):
        return
    check_finite(name, planes)
    # by numpy: nothing to compile
    rows = np.asarray(planes, np.float32)
    worst = float(np.max(np.abs(rows @ rows.swapaxes(1, 2) - np.eye(2))))
    if worst > 1e-2:
        raise ValueError(
            f"`{name}` must have orthonormal rows in each plane; got an inner product "
            f"that is wrong by {worst:g}. Make them by `sphere_planes`, or by QR."
        )


def check_slices(name: str, values: Any, num: int) -> None:
    """Raises unless a slice has returned one number for each point."""
    if jnp.shape(values) != (num,):
        raise ValueError(
            f"`{name}` must return one number for each point, shape ({num},); got "
            f"{jnp.shape(values)}."
        )


def check_costs(name: str, costs: Array) -> None:
    """Raises unless `costs` is one row of finite numbers, one for each direction."""
    if costs.ndim != 1 or costs.shape[0] < 1:
        raise ValueError(
            f"`{name}` must have shape (p,), one a direction; got {costs.shape}."
        )
    check_finite(name, costs)


def check_harmonics(num: int, dim: int) -> None:
    """Raises unless `num` directions determine all harmonics of degree two."""
    terms = dim * (dim + 1) // 2 - 1
    if num < terms + 2:
        raise ValueError(
            f"`costs` must hold at least {terms + 2} directions in dimension {dim}, "
            f"better {3 * terms}: {terms} coefficients are fitted; got {num}. Use "
            "`controlled_mean`, or orthonormal directions."
        )
