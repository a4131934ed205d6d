"""Histograms as distributions: O(n), one pass, merged by addition over any devices.

A histogram stands for the distribution that is uniform inside of each bin: its
distribution function is linear between the edges of the bins, which are at
low + i (high - low) / num_bins, i = 0 ... num_bins.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num

from transportjax._checks import (
    as_float,
    check_count,
    check_counts,
    check_levels,
    check_range,
    check_samples,
    check_weights,
    is_concrete,
)
from transportjax._sharding import explicit_mesh_guard

from .levels import (
    checked_samples,
    cumulative_mass,
    divide,
    in_rows,
    neighbours,
    search,
    shift,
    take,
    working_precision,
)


@explicit_mesh_guard
def histogram(
    x: ArrayLike,
    *,
    low: ArrayLike,
    high: ArrayLike,
    num_bins: int,
    weights: ArrayLike | None = None,
) -> Num[Array, "*batch k"]:
    """How many samples, or what mass, lie in each of `num_bins` equal bins.

    Counts are integers, exact up to 2^31 - 1 a bin (floats of 32 bits stop at 2^24).
    Histograms of parts add up to the histogram of the whole: sum them over batches, or
    `jax.lax.psum` them over devices; counts are then bit for bit the same in any
    partition. Differentiable in `weights`; piecewise constant in `x`.

    Args:
        x: finite samples, (..., n).
        low: lower edge of the first bin, one number or one a row (the leading axes of
            `x`).
        high: upper edge of the last bin, likewise; greater than `low`. A sample on an
            edge belongs to the bin above, at `high` to the last bin. Samples outside
            count in the first and the last bin.
        num_bins: number of bins, static.
        weights: masses >= 0 of the samples, (n,) or the shape of `x`; not normalised.

    Returns:
        (..., num_bins): int32 counts, or sums of weights in their dtype (summed in
        float32 for half precision).

    Raises:
        ValueError: empty or NaN samples, bad weights, `high` not above `low`, no bins.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.onedim import histogram
        >>> x = jnp.array([0.1, 0.5, 0.6, 1.0])
        >>> print(histogram(x, low=0, high=1, num_bins=2))
        [1 3]
    """
    check_count("num_bins", num_bins)
    x = as_float("x", x)
    dtype = x.dtype if weights is None else as_float("weights", weights).dtype
    x, mass = checked_samples("x", x, weights, "weights")
    edges = _edges(low, high, num_bins, x)
    counts = _count(x, edges, mass)
    return counts if mass is None else counts.astype(dtype)


@explicit_mesh_guard
def histogram_quantile(
    counts: ArrayLike, q: ArrayLike, *, low: ArrayLike, high: ArrayLike
) -> Float[Array, "*shape"]:
    """The positions below which a share `q` of a histogram lies, in units of its edges.

    The left-continuous inverse of `histogram_distribution`: linear inside of a bin, and
    a jump where bins are empty. Levels 0 and 1 give the outer edges of the outermost
    bins that are not empty. Differentiable in `q`, in floating-point `counts`, and in
    traced `low` and `high`, except at the levels of jumps.

    Args:
        counts: integer counts or masses >= 0 of equal bins, (..., num_bins). The total
            of integer counts must fit in their type.
        q: levels in [0, 1]: a scalar, (k,) for all rows, or (..., k).
        low: lower edge of the first bin, one number or one a row.
        high: upper edge of the last bin, likewise.

    Returns:
        Positions, non-decreasing in `q`: the leading axes of `counts`, then k, in the
        dtype of `counts`, of `q` if those are integers.

    Raises:
        ValueError: counts that are negative, all zero, NaN or absent, levels outside of
            [0, 1], `high` not above `low`.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.onedim import histogram_quantile
        >>> counts = jnp.array([1, 0, 3])
        >>> q = jnp.array([0.0, 0.25, 0.625, 1.0])
        >>> print(histogram_quantile(counts, q, low=0, high=3))
        [0.  1.  2.5 3. ]
    """
    q = as_float("q", q)
    check_levels("q", q)
    scalar = q.ndim == 0
    counts, q, dtype = _counts(counts, q)
    q = in_rows("q", q, "counts", counts.shape[:-1])
    edges = _edges(low, high, counts.shape[-1], q)
    value = _quantile(counts, q, edges).astype(dtype)
    return value[..., 0] if scalar else value


@jax.jit
def _quantile(counts: Array, q: Array, edges: Array) -> Array:
    levels, masses = _levels(counts, q.dtype)
    place = jnp.minimum(search(levels, q), levels.shape[-1] - 1)
    place = take(
        neighbours(levels > shift(levels))[1], place
    )  # at q = 0: the first that is not empty
    share = (q - take(shift(levels), place)) / take(masses, place)
    start, end = _take_edges(edges, place), _take_edges(edges, place + 1)
    value = start + jnp.clip(share, 0, 1) * (end - start)
    return jnp.where(value > end, end, value)


@explicit_mesh_guard
def histogram_distribution(
    counts: ArrayLike, t: ArrayLike, *, low: ArrayLike, high: ArrayLike
) -> Float[Array, "*shape"]:
    """F(t), the share of a histogram that lies below `t`; linear between its edges.

    Zero below `low`, one above `high`. Differentiable inside of bins in `t`, in
    floating-point `counts`, and in traced `low` and `high`.

    Args:
        counts: integer counts or masses >= 0 of equal bins, (..., num_bins). The total
            of integer counts must fit in their type.
        t: positions: a scalar, (k,) for all rows, or (..., k).
        low: lower edge of the first bin, one number or one a row.
        high: upper edge of the last bin, likewise.

    Returns:
        Levels in [0, 1], non-decreasing in `t`: the leading axes of `counts`, then k,
        in the dtype of `counts`, of `t` if those are integers.

    Raises:
        ValueError: counts that are negative, all zero, NaN or absent, NaN in `t`,
            `high` not above `low`.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.onedim import histogram_distribution
        >>> counts, t = jnp.array([1, 0, 3]), jnp.array([0.5, 1.5, 2.5])
        >>> print(histogram_distribution(counts, t, low=0, high=3))
        [0.125 0.25  0.625]
    """
    t = as_float("t", t)
    check_levels("t", t, -jnp.inf, jnp.inf, "positions")
    scalar = t.ndim == 0
    counts, t, dtype = _counts(counts, t)
    t = in_rows("t", t, "counts", counts.shape[:-1])
    edges = _edges(low, high, counts.shape[-1], t)
    level = _distribution(counts, t, edges).astype(dtype)
    return level[..., 0] if scalar else level


@jax.jit
def _distribution(counts: Array, t: Array, edges: Array) -> Array:
    levels, masses = _levels(counts, t.dtype)
    place = _places(t, edges)
    start, end = _take_edges(edges, place), _take_edges(edges, place + 1)
    gap = jnp.where(end > start, end - start, 1)
    share = jnp.clip(t, start, end) - start
    level = take(shift(levels), place) + share / gap * take(masses, place)
    top = take(levels, place)
    return jnp.where((level > top) | (t >= end), top, level)


def _counts(counts: ArrayLike, other: Array) -> tuple[Array, Array, jnp.dtype]:
    """Checked counts, `other` in the precision to compute in, and the output dtype."""
    counts = jnp.asarray(counts)
    if jnp.issubdtype(counts.dtype, jnp.integer):
        if counts.dtype.itemsize < 4:
            counts = counts.astype(jnp.int32)
        check_counts("counts", counts)
        return counts, working_precision(other), other.dtype
    counts = as_float("counts", counts)
    check_samples("counts", counts)
    check_weights("counts", counts, counts.shape)
    wide = working_precision(counts)
    return wide, other.astype(wide.dtype), counts.dtype


def _levels(counts: Array, dtype: jnp.dtype) -> tuple[Array, Array]:
    """Cumulative levels and normalised masses of the bins."""
    if jnp.issubdtype(counts.dtype, jnp.integer):
        total = jnp.cumsum(counts, axis=-1, dtype=counts.dtype)  # exact
        total, counts = total.astype(dtype), counts.astype(dtype)
        return divide(total, total[..., -1:]), counts / total[..., -1:]
    return cumulative_mass(counts), counts / jnp.sum(counts, axis=-1, keepdims=True)


def _edges(low: Any, high: Any, num_bins: int, x: Array) -> Array:
    """Edges of the bins: (num_bins + 1,), or one row for each row of `x`."""
    check_range("low", low, "high", high, x.shape[:-1])
    if np.ndim(low) == np.ndim(high) == 0 and is_concrete(low) and is_concrete(high):
        # In double precision on the host, so that eager and compiled programs agree
        # on the edge cases of 8-bit data.
        start, width = float(low), float(high) - float(low)
        return jnp.asarray(start + np.arange(num_bins + 1) * width / num_bins, x.dtype)
    low, high = as_float("low", low), as_float("high", high)
    batch = max(low.shape, high.shape, key=len)
    rows = (jnp.broadcast_to(a, batch)[..., None].astype(x.dtype) for a in (low, high))
    share = jnp.asarray(np.arange(num_bins + 1) / num_bins, x.dtype)
    low, high = rows
    return low + (high - low) * share.reshape((1,) * len(batch) + (-1,))


def _take_edges(edges: Array, places: Array) -> Array:
    return take(edges, places) if edges.ndim > 1 else edges[places]


def _places(x: Array, edges: Array) -> Array:
    """The bin of each sample, by arithmetic, then corrected by comparing with edges."""
    num_bins = edges.shape[-1] - 1
    low, high = edges[..., :1], edges[..., -1:]
    if edges.ndim == 1:
        low, high = low[0], high[0]
    share = jnp.clip((x - low) / (high - low), 0, 1)
    place = (share * num_bins).astype(jnp.int32)
    place = jnp.clip(
        place, 0, num_bins - 1
    )  # NaN, in a compiled program, goes anywhere
    place = place - (x < _take_edges(edges, place)).astype(jnp.int32)
    place = jnp.clip(place, 0, num_bins - 1)
    place = place + (x >= _take_edges(edges, place + 1)).astype(jnp.int32)
    return jnp.clip(place, 0, num_bins - 1)


@jax.jit
def _count(x: Array, edges: Array, mass: Array | None) -> Array:
    """Counts, or sums of `mass`, by bin, row by row."""
    num_bins = edges.shape[-1] - 1
    places = _places(x, edges)
    rows = places.reshape(-1, places.shape[-1])
    first = jnp.arange(rows.shape[0], dtype=places.dtype)[:, None] * num_bins
    mass = jnp.ones_like(places) if mass is None else mass
    empty = jnp.zeros((rows.shape[0] * num_bins,), mass.dtype)
    total = empty.at[(rows + first).ravel()].add(mass.ravel(), mode="promise_in_bounds")
    return total.reshape(*places.shape[:-1], num_bins)
