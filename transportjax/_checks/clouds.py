"""Errors on samples, points, weights and directions."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .values import check_finite, is_concrete, reads_values


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
