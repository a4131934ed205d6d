"""Errors on samples, points, weights and plans."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .values import (
    as_float,
    check_finite,
    is_concrete,
    reads_values,
)


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


def as_weights(
    name: str, weights: Any, shape: tuple[int, ...], dtype: Any
) -> Array | None:
    """Checked weights of the given shape, in `dtype`; None where there are none."""
    if weights is None:
        return None
    weights = as_float(name, weights).astype(dtype)
    check_weights(name, weights, shape)
    return weights


def check_sortable(name: str, x: Array) -> None:
    """Raises unless `x` has a last axis that 32-bit indices can count."""
    if x.ndim < 1:
        raise ValueError(f"`{name}` must have a last axis to sort along; got a scalar.")
    if x.shape[-1] >= 2**31:
        raise ValueError(
            f"`{name}` must have fewer than 2^31 entries on its last axis, so that 32 "
            f"bits can count them; got {x.shape[-1]}."
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
def check_spread(
    name: str,
    shape: tuple[int, ...],
    mean: Array | np.ndarray,
    cov: Array | np.ndarray,
) -> None:
    """Raises unless n samples in d dimensions are enough, and fill the space.

    Whether a direction is empty is seen in the columns standardised; their units may
    differ as far as the dtype allows. A column that varies by no more than the rounding
    of its mean is constant.
    """
    n, d = shape
    if n <= d:
        raise ValueError(
            f"`{name}` must have more samples than dimensions; got {n} samples in "
            f"dimension {d}."
        )
    if not is_concrete(cov):
        return
    # sums of numpy's are in double precision, those of XLA in that of the samples
    least = least_spread(d, cov.dtype, 0 if isinstance(cov, np.ndarray) else n)
    tiny = 7 * least_spread(d, cov.dtype)
    tiny = max(tiny**2, least_spread(d, "float64")) ** 0.5
    rounding = 4 * float(jnp.finfo(cov.dtype).eps) * np.abs(np.asarray(mean, float))
    cov = np.asarray(cov, np.float64)
    scale = np.sqrt(np.diagonal(cov))
    scale = np.where(scale <= rounding, 0, scale)
    if scale.min() < tiny * scale.max() or not 0 < scale.max() < np.inf:
        raise ValueError(
            f"`{name}` must vary in every column, in comparable units; the standard "
            f"deviation of column {np.argmin(scale)}, counted from zero, is "
            f"{scale.min():.2g}, the largest {scale.max():.2g}. Remove constant "
            "columns, and standardise the others."
        )
    variances, axes = np.linalg.eigh(cov / scale[:, None] / scale)
    # the samples are rounded too, by more where they are far from zero
    noise = np.sum((axes[:, 0] * rounding / scale) ** 2) / 48  # 4 times its variance
    if variances[0] <= least * variances[-1] + noise:
        raise ValueError(
            f"`{name}` must vary in every direction; of standardised columns the "
            f"smallest variance is {variances[0]:.2g}, the largest "
            f"{variances[-1]:.2g}. Remove columns that follow from others, or add a "
            "little noise."
        )


def least_spread(d: int, dtype: Any, n: int = 0) -> float:
    """The smallest variance that is not rounding, in units of the largest.

    Of the covariance C of d standardised columns. Entries rounded by a share u each,
    half of eps, move eigenvalues by u |C|_F, which is at most u sqrt(d) of the largest.
    Sums of n terms in this precision have errors of about u sqrt(n). Measured ones
    were up to 0.4 of the former, and for a million rows up to 2.6 of the sum of both.

    Args:
        d: number of columns.
        dtype: of the covariance.
        n: number of rows, where they were summed in this dtype; 0: in a wider one.

    References:
        Higham and Mary (2019), "A new approach to probabilistic rounding error
        analysis", theorem 3.1.
    """
    return 2 * float(jnp.finfo(dtype).eps) * (d**0.5 + n**0.5)


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


def check_num_pairs(name: str, num: int, most: int) -> None:
    """Raises if more pairs are asked for than the smaller side has points."""
    if num > most:
        raise ValueError(
            f"`{name}` must be at most {most}, the size of the smaller side; got {num}."
        )
