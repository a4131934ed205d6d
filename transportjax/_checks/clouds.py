"""Errors on samples, points, weights and directions."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .values import check_count, check_finite, is_concrete, reads_values


def check_samples(name: str, x: Array) -> None:
    """Raises unless `x` has a last axis of at least one finite sample."""
    if x.ndim < 1 or x.shape[-1] < 1:
        raise ValueError(
            f"`{name}` must hold at least one sample on its last axis; got shape "
            f"{x.shape}."
        )
    check_finite(name, x)


def check_points(name: str, x: Array, dim: int | None = None) -> None:
    """Raises unless `x` is a finite, non-empty `(n, d)` cloud (of dimension `dim`)."""
    if x.ndim != 2:
        raise ValueError(f"`{name}` must have shape (n, d); got {x.shape}.")
    if x.shape[0] < 1 or x.shape[1] < 1:
        raise ValueError(f"`{name}` must not be empty; got shape {x.shape}.")
    if dim is not None and x.shape[1] != dim:
        raise ValueError(
            f"`{name}` must have {dim} columns like the other cloud; got shape "
            f"{x.shape}."
        )
    check_finite(name, x)


@reads_values
def check_weights(name: str, weights: Array, shape: tuple[int, ...]) -> None:
    """Raises unless `weights` has `shape`, is >= 0, and sums to more than zero."""
    if weights.shape != shape:
        raise ValueError(
            f"`{name}` must have shape {shape}, one weight a sample; got "
            f"{weights.shape}."
        )
    if not is_concrete(weights):
        return
    check_finite(name, weights)
    least = float(jnp.min(weights))
    if least < 0:
        raise ValueError(
            f"`{name}` must be >= 0; got a minimum of {least:g}. Are they logarithms?"
        )
    if not bool(jnp.all(jnp.sum(weights, axis=-1) > 0)):
        raise ValueError(f"`{name}` must not be all zero.")


def check_sortable(name: str, x: Array) -> None:
    """Raises unless `x` has a last axis that 32-bit indices can count."""
    if x.ndim < 1:
        raise ValueError(f"`{name}` must have a last axis to sort along; got a scalar.")
    if x.shape[-1] >= 2**31:
        raise ValueError(
            f"`{name}` must have fewer than 2^31 entries on its last axis, so that 32 "
            f"bits can count them; got {x.shape[-1]}."
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
    with jax.ensure_compile_time_eval():  # a constant of a traced function has values
        check_finite(name, directions)
        norms = jnp.linalg.norm(directions.astype(jnp.float32), axis=-1)
        worst = float(norms.reshape(-1)[jnp.argmax(jnp.abs(norms - 1))])
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


def check_levels(
    name: str, x: Array, low: float = 0.0, high: float = 1.0, what: str = "levels"
) -> None:
    """Raises if concrete `x` holds NaN or a number outside of [low, high]."""
    if not is_concrete(x) or x.size == 0:
        return
    with jax.ensure_compile_time_eval():
        least, greatest = float(jnp.min(x)), float(jnp.max(x))
    if not (low <= least and greatest <= high):  # also if one of them is NaN
        raise ValueError(
            f"`{name}` must hold {what} in [{low:g}, {high:g}]; got a minimum of "
            f"{least:g} and a maximum of {greatest:g}."
        )


def check_batch(name: str, x: Array, other: str, batch: tuple[int, ...]) -> None:
    """Raises unless `x` is one row (k,) or has the leading axes `batch` of `other`."""
    if x.ndim != 1 and x.shape[:-1] != batch:
        raise ValueError(
            f"`{name}` must have shape (k,), or the leading axes {batch} of `{other}`; "
            f"got {x.shape}."
        )


@reads_values
def check_counts(name: str, counts: Array) -> None:
    """Raises unless integer `counts` are >= 0, not all zero, and can be summed."""
    if counts.ndim < 1 or counts.shape[-1] < 1:
        raise ValueError(
            f"`{name}` must hold at least one bin on its last axis; got shape "
            f"{counts.shape}."
        )
    if not is_concrete(counts):
        return
    values = np.asarray(counts)
    if values.min() < 0:
        raise ValueError(f"`{name}` must be >= 0; got a minimum of {values.min()}.")
    totals = values.sum(axis=-1, dtype=np.float64)
    if totals.min() == 0:
        raise ValueError(f"`{name}` must not be all zero.")
    if totals.max() > np.iinfo(values.dtype).max:
        raise ValueError(
            f"`{name}` must have a total that fits in {values.dtype}; got "
            f"{totals.max():g}. Pass them as floats."
        )


def check_ranks(name: str, ranks: Array, n: int) -> None:
    """Raises unless `ranks` are integers, if concrete in 0 ... n - 1."""
    if not jnp.issubdtype(ranks.dtype, jnp.integer) or ranks.ndim > 1:
        raise ValueError(
            f"`{name}` must be an integer or integers of shape (k,); got dtype "
            f"{ranks.dtype} and shape {ranks.shape}."
        )
    if not is_concrete(ranks) or ranks.size == 0:
        return
    with jax.ensure_compile_time_eval():
        least, greatest = int(ranks.min()), int(ranks.max())
    if least < 0 or greatest >= n:
        raise ValueError(
            f"`{name}` must be in 0 ... {n - 1}; got a minimum of {least} and a "
            f"maximum of {greatest}."
        )


def check_batches(name: str, x: Array, other: str, y: Array) -> None:
    """Raises unless the leading axes of `x` and `y` broadcast."""
    try:
        np.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    except ValueError:
        raise ValueError(
            f"`{name}` and `{other}` must have leading axes that broadcast; got shapes "
            f"{x.shape} and {y.shape}."
        ) from None


def check_ascending(name: str, x: Array) -> None:
    """Raises unless `x` has a last axis and, if concrete, is finite and ascends."""
    if x.ndim < 1 or x.shape[-1] < 1:
        raise ValueError(
            f"`{name}` must hold at least one entry on its last axis; got shape "
            f"{x.shape}."
        )
    if not is_concrete(x):
        return
    with jax.ensure_compile_time_eval():
        check_finite(name, x)
        # differences of the size of rounding errors are let pass
        size = jnp.max(jnp.abs(x)) * (8 * float(jnp.finfo(x.dtype).eps))
        ascends = bool(jnp.all(x[..., 1:] >= x[..., :-1] - size))
    if not ascends:
        raise ValueError(f"`{name}` must ascend along its last axis; sort it.")


@reads_values
def check_spread(name: str, shape: tuple[int, ...], cov: Array) -> None:
    """Raises unless n samples in d dimensions are enough, and fill the space."""
    n, d = shape
    if n <= d:
        raise ValueError(
            f"`{name}` must have more samples than dimensions; got {n} samples in "
            f"dimension {d}."
        )
    if not is_concrete(cov):
        return
    variances = np.linalg.eigvalsh(np.asarray(cov, np.float64))
    if variances[0] <= 10 * d * float(jnp.finfo(cov.dtype).eps) * variances[-1]:
        raise ValueError(
            f"`{name}` must vary in every direction; its smallest variance is "
            f"{variances[0]:.2g}, its largest {variances[-1]:.2g}. Remove columns that "
            "are constant or that follow from others, or add a little noise."
        )


def check_clouds(name: str, x: Array) -> None:
    """Raises unless `x` is a finite, non-empty stack `(k, n, d)` of clouds."""
    if x.ndim != 3 or 0 in x.shape:
        raise ValueError(
            f"`{name}` must have shape (k, n, d), k clouds of n points each; got "
            f"{x.shape}."
        )
    check_finite(name, x)


def check_matrix(name: str, x: Array, axes: str) -> None:
    """Raises unless `x` is a finite, non-empty matrix of the `axes` named."""
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"`{name}` must have shape {axes}; got {x.shape}.")
    check_finite(name, x)


def check_vector(name: str, x: Array, num: int | None = None) -> None:
    """Raises unless `x` is a finite, non-empty vector (of `num` entries)."""
    if x.ndim != 1 or x.shape[0] < 1 or (num is not None and x.shape[0] != num):
        shape = "(n,) with n >= 1" if num is None else f"({num},)"
        raise ValueError(f"`{name}` must have shape {shape}; got {x.shape}.")
    check_finite(name, x)


@reads_values
def check_densities(name: str, images: Array) -> None:
    """Raises unless `images` is a stack (s, h, w) of masses >= 0, none all zero."""
    if images.ndim != 3 or 0 in images.shape:
        raise ValueError(
            f"`{name}` must have shape (s, h, w), one density each; got {images.shape}."
        )
    check_weights(name, images.reshape(len(images), -1), (len(images), images[0].size))


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
    exact = x if x.dtype.itemsize >= 4 else x.astype(jnp.float32)
    norms = jnp.linalg.norm(exact, axis=-1)
    worst = float(norms[jnp.argmax(jnp.abs(norms - 1))])
    if abs(worst - 1) > max(1e-4, 4 * float(jnp.finfo(x.dtype).eps)):
        raise ValueError(
            f"`{name}` must lie on the unit sphere; got a point of norm {worst:g}. "
            "Divide each point by its norm."
        )


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
    rows = planes.astype(jnp.float32)
    gram = jnp.matmul(rows, rows.mT, precision="highest")
    worst = float(jnp.max(jnp.abs(gram - jnp.eye(2, dtype=gram.dtype)[None])))
    if worst > 1e-2:
        raise ValueError(
            f"`{name}` must have orthonormal rows in each plane; got an inner product "
            f"that is wrong by {worst:g}. Make them by `sphere_planes`, or by QR."
        )


@reads_values
def check_plan(plan: Any, n: int, m: int, *, batch: bool = True) -> None:
    """Raises unless `plan` is one plan (or a `batch`) between n and m points."""
    shapes = [a.shape for a in (plan.rows, plan.columns, plan.mass)]
    if len(set(shapes)) > 1 or not shapes[0] or (len(shapes[0]) > 1 and not batch):
        wanted = "one shape (..., k)" if batch else "shape (k,), one plan"
        raise ValueError(
            f"`plan` must have rows, columns and masses of {wanted}; got {shapes}."
        )
    for name, places, size in (("rows", plan.rows, n), ("columns", plan.columns, m)):
        if not is_concrete(places) or places.size == 0:
            continue
        least, greatest = int(jnp.min(places)), int(jnp.max(places))
        if least < 0 or greatest >= size:
            raise ValueError(
                f"`plan.{name}` must be in 0 ... {size - 1}; got a minimum of {least} "
                f"and a maximum of {greatest}. Is it a plan between other points?"
            )


def check_pair_costs(name: str, costs: Any, num: int) -> None:
    """Raises unless a cost function has returned one cost for each pair."""
    if jnp.shape(costs) != (num,):
        raise ValueError(
            f"`{name}` must return one cost for each pair of rows, shape ({num},); got "
            f"{jnp.shape(costs)}."
        )


def check_slices(name: str, values: Any, num: int) -> None:
    """Raises unless a slice has returned one number for each point."""
    if jnp.shape(values) != (num,):
        raise ValueError(
            f"`{name}` must return one number for each point, shape ({num},); got "
            f"{jnp.shape(values)}."
        )


def check_num_pairs(name: str, num: int, most: int) -> None:
    """Raises if more pairs are asked for than the smaller side has points."""
    if num > most:
        raise ValueError(
            f"`{name}` must be at most {most}, the size of the smaller side; got {num}."
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
