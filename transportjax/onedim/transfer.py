"""One-dimensional transfer: moving samples or bins so that their distribution matches.

The exact transfer of samples is `quantile_transfer`; a map that can be kept, inverted
and applied to other data is made of `transfer_knots`. `histogram_transfer` and
`frcs_marginal_transfer` repeat the formulas of a published program, for parity.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import (
    check_ascending,
    check_batches,
    check_count,
    check_levels,
    check_same_length,
    common_float,
)
from transportjax._sharding import explicit_mesh_guard

from .levels import (
    by_rows,
    checked_samples,
    divide,
    neighbours,
    running_sums,
    take,
    working_precision,
)
from .merging import uniform_levels, weighted_levels
from .sorting import permute, sort_with_permutation, unpermute

_DAMPING = 1e-6  # of the published formula, in counts, whatever their total
_MACHINE = 2.0**-52  # its widening of the range, in units of x, whatever the dtype


@explicit_mesh_guard
def transfer_knots(
    x_quantiles: ArrayLike, y_quantiles: ArrayLike
) -> tuple[Float[Array, "*batch k"], Float[Array, "*batch k"]]:
    """Knots (x_i, y_i) of the increasing map that takes one distribution to another.

    Where quantiles of the source repeat, the source has an atom, which a map can send
    to one place only: the mean of the quantiles of the target at the same levels. Atoms
    of the target need nothing, their knots are flat.

    Differentiable in both arguments; which quantiles repeat is held constant.

    Args:
        x_quantiles: quantiles of the source in ascending order, (..., k).
        y_quantiles: quantiles of the target at the same levels, of the same shape.

    Returns:
        (x_knots, y_knots), both non-decreasing and of the shape of the arguments: knots
        of an atom are repeated.

    Raises:
        ValueError: shapes differ; NaN; quantiles that descend.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.onedim import transfer_knots
        >>> x, y = jnp.array([0.0, 0.0, 1.0]), jnp.array([2.0, 4.0, 9.0])
        >>> print(*transfer_knots(x, y))
        [0. 0. 1.] [3. 3. 9.]
    """
    x, y = common_float(("x_quantiles", x_quantiles), ("y_quantiles", y_quantiles))
    check_same_length("x_quantiles", x, "y_quantiles", y)
    check_ascending("x_quantiles", x)
    check_ascending("y_quantiles", y)
    x_knots, y_sorted = _ascending(x), _ascending(working_precision(y))
    place = np.arange(x.shape[-1], dtype=np.int32)
    y_knots = _run_means(x_knots, y_sorted, place, place, jnp.ones_like(y_sorted))
    return x_knots, y_knots.astype(y.dtype)


@explicit_mesh_guard
def quantile_transfer(
    x: ArrayLike,
    y: ArrayLike,
    *,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
) -> Float[Array, "*batch n"]:
    """Where the optimal transport of samples `x` onto samples `y` sends each of `x`.

    A sample is sent to the mean of the quantile function of `y` over the levels that it
    occupies in `x`, the barycentric map of the optimal plan. Equal samples go to one
    place, the mean over the levels of all of them, so the result is a function of the
    value: equal colours stay equal. It is non-decreasing in `x`, inside the range of
    `y`, and `x` itself, bit for bit, if `y` and its weights are those of `x`. A sample
    of weight zero occupies a single level, and goes to the quantile of `y` there.

    Differentiable in `y` and the weights. The derivative in `x` is zero almost
    everywhere, which is the truth: the result for n = m is a permutation of `y`. To
    push gradients through a transfer into `x`, hold the map (`transfer_knots`) and
    apply it, or use `soft_transfer`.

    Args:
        x: finite source samples, (..., n).
        y: finite target samples, (..., m); the leading axes broadcast.
        x_weights: masses >= 0 of the source samples, (n,) or the shape of `x`.
        y_weights: masses >= 0 of the target samples, (m,) or the shape of `y`.

    Returns:
        The image of each sample, (..., n).

    Raises:
        ValueError: empty, NaN or infinite samples, leading axes that do not
            broadcast, weights that are negative, all zero or of the wrong shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.onedim import quantile_transfer
        >>> x, y = jnp.array([1.0, 0.0, 0.0]), jnp.array([10.0, 20.0, 60.0])
        >>> print(quantile_transfer(x, y))
        [60. 15. 15.]

    References:
        Ambrosio, Gigli and Savare, 2008, "Gradient flows in metric spaces", section 5.4
        (barycentric projection of a plan).
    """
    x, y = common_float(("x", x), ("y", y))
    dtype = x.dtype
    x, x_weights = checked_samples("x", x, x_weights, "x_weights")
    y, y_weights = checked_samples("y", y, y_weights, "y_weights")
    check_batches("x", x, "y", y)
    batch = jnp.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    (x, permutation), (y, y_permutation) = map(sort_with_permutation, (x, y))
    if x_weights is None and y_weights is None:
        segments = _uniform_segments(x.shape[-1], y.shape[-1], x.dtype)
    else:
        x_mass = _sorted_weights(x, x_weights, permutation, batch)
        y_mass = _sorted_weights(y, y_weights, y_permutation, batch)
        i, j, mass, _ = weighted_levels(x_mass, y_mass)
        segments = i, j, mass
        if y_weights is not None:  # a sample without mass shall not be seen
            previous, following = neighbours(y_mass > 0)
            y = take(y, jnp.where(following < y.shape[-1], following, previous))
    image = _run_means(x, y, *segments)
    permutation = jnp.broadcast_to(permutation, image.shape)
    return unpermute(image, permutation).astype(dtype)


def _uniform_segments(n: int, m: int, dtype: Any) -> tuple[Any, Any, Any]:
    """The segments of levels, on which x_(i) meets y_(j); mass up to a factor."""
    if n == m:
        place = np.arange(n, dtype=np.int32)
        return place, place, np.ones(n, dtype)
    i, j, mass, _ = uniform_levels(n, m)
    return i, j, np.asarray(mass, dtype)


def _sorted_weights(
    x: Array, weights: Array | None, permutation: Array, batch: tuple[int, ...]
) -> Array:
    weights = jnp.ones_like(x) if weights is None else permute(weights, permutation)
    return jnp.broadcast_to(weights, (*batch, x.shape[-1]))


@jax.jit
@by_rows("(n),(m),(k),(k),(k)->(n)")
def _run_means(x: Array, y: Array, i: Array, j: Array, mass: Array) -> Array:
    """For each x_i the mean of y_j over the segments of all that are equal to x_i.

    `x` and `y` ascend. The mean is built on the least y_j of the run, so that it is
    exact where they are equal, and cannot leave their range.
    """
    n, m = x.size, y.size
    is_first = jnp.concatenate([jnp.zeros((1,), bool), x[1:] != x[:-1]])
    run = jnp.cumsum(is_first, dtype=jnp.int32)
    by_run = functools.partial(
        _reduce, segments=run[i], num_segments=n, indices_are_sorted=True
    )
    least, greatest = _extent(j, mass > 0, by_run, m)
    base = take(y, least)
    excess = jnp.where(mass > 0, mass * (take(y, j) - take(base, run[i])), 0)
    total = by_run(jax.ops.segment_sum, mass)
    mean = base + by_run(jax.ops.segment_sum, excess) / jnp.where(total == 0, 1, total)
    top = take(y, greatest)
    return take(jnp.where(mean > top, top, mean), run)


def _reduce(reduce: Callable, data: Array, segments: Array, **options: Any) -> Array:
    return reduce(data, segments, **options)


def _extent(j: Array, has_mass: Array, by_run: Callable, m: int) -> tuple[Array, Array]:
    """The first and the last j of each run, among those with mass if there are any."""
    least = by_run(jax.ops.segment_min, jnp.where(has_mass, j, j + m))
    least = jnp.clip(jnp.where(least < m, least, least - m), 0, m - 1)
    greatest = by_run(jax.ops.segment_max, jnp.where(has_mass, j, -1))
    return least, jnp.clip(greatest, least, m - 1)


@jax.custom_jvp
def _ascending(x: Array) -> Array:
    """`x`, whose entries ascend but for rounding, without that rounding."""
    return lax.cummax(x, axis=x.ndim - 1)


@_ascending.defjvp
def _ascending_jvp(primals: tuple, tangents: tuple) -> tuple:
    # The identity, but for rounding, of which the derivative shall know nothing.
    return _ascending(*primals), tangents[0]


def histogram_transfer(p_x: ArrayLike, p_y: ArrayLike) -> Float[Array, "*batch k"]:
    """For each bin of histogram `p_x` the place in `p_y` of equal cumulative mass.

    The published formula for bins of equal number and width, bin for bin, damping
    included. Its known defects are the formula's: cumulative masses belong to the right
    edges of bins but are read at centres, and the last bin of the source with mass goes
    to the last bin there is, not to the last with mass. Free of them are
    `histogram_quantile` at common levels with `transfer_knots`.

    Differentiable in both arguments, except where a level of one is a level of the
    other. In float32 the damping is lost next to large counts: where bins of the target
    are empty, the result may fall anywhere in the gap; no mass lies there.

    Args:
        p_x: histogram of the source, counts or masses >= 0, (..., n). A constant of
            1e-6 is added to each bin, whatever the total, so counts are damped less
            than frequencies.
        p_y: histogram of the target, of the same shape.

    Returns:
        Fractional, 0-based bins in [0, n - 1], non-decreasing.

    Raises:
        ValueError: shapes differ, no bins, NaN or negative masses. All-zero histograms
            are taken for uniform ones.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.onedim import histogram_transfer
        >>> p_x, p_y = jnp.array([4.0, 4.0, 0.0]), jnp.array([0.0, 4.0, 4.0])
        >>> print(histogram_transfer(p_x, p_y).round(2))
        [1. 2. 2.]

    References:
        Pitié, Kokaram and Dahyot, 2007, "Automated colour grading using colour
        distribution transfer", for the method; frcs/colour-transfer, 2015, for the
        formula.
    """
    p_x, p_y = common_float(("p_x", p_x), ("p_y", p_y))
    check_same_length("p_x", p_x, "p_y", p_y)
    p_x_wide, _ = checked_samples("p_x", p_x, None, "p_x")
    p_y_wide, _ = checked_samples("p_y", p_y, None, "p_y")
    check_levels("p_x", p_x, 0.0, jnp.inf, "masses")
    check_levels("p_y", p_y, 0.0, jnp.inf, "masses")
    return _histogram_transfer(p_x_wide, p_y_wide).astype(p_x.dtype)


@jax.jit
def _histogram_transfer(p_x: Array, p_y: Array) -> Array:
    places = np.arange(p_y.shape[-1]).astype(p_y.dtype)
    return _interp(_damped_levels(p_x), _damped_levels(p_y), places)


def _damped_levels(p: Array) -> Array:
    # Over empty bins levels differ by the damping alone, where each rounding shows in
    # the result: sums are taken in the order of the published program, and divided.
    sums = running_sums(p + _DAMPING)
    return divide(sums, sums[..., -1:])


_interp = by_rows("(n),(k),(k)->(n)")(jnp.interp)


@explicit_mesh_guard
def frcs_marginal_transfer(
    x: ArrayLike, y: ArrayLike, *, num_bins: int = 300
) -> Float[Array, "*batch n"]:
    """Samples `x` moved onto `y` by the histograms of a published program, verbatim.

    For comparison with that program only, in float64: its defects are kept. It shifts
    everything down by one bin (a transfer onto itself is not the identity), sends the
    greatest samples to the greatest of both sets, not of the target, and takes right
    edges of bins for centres. `quantile_transfer` is the right function to use.

    Args:
        x: finite source samples, (..., n).
        y: finite target samples, (..., m); the leading axes broadcast.
        num_bins: number of bins over the range of both sets; the first and the last
            have their centres on its ends. A sample on an edge counts in the lower bin.

    Returns:
        The moved samples, (..., n). Where rounding puts a sample outside of the bins,
        it takes the value of the outermost; the program returns NaN there.

    Raises:
        ValueError: empty, NaN or infinite samples, fewer than two bins.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.onedim import frcs_marginal_transfer
        >>> x = jnp.array([0.0, 1.0])
        >>> print(frcs_marginal_transfer(x, x, num_bins=3))
        [-0.5  0.5]

    References:
        frcs/colour-transfer, 2015, pdf_transfer.m.
    """
    check_count("num_bins", num_bins, 2)
    x, y = common_float(("x", x), ("y", y))
    dtype = x.dtype
    x, _ = checked_samples("x", x, None, "x_weights")
    y, _ = checked_samples("y", y, None, "y_weights")
    check_batches("x", x, "y", y)
    centres = jnp.asarray(np.arange(num_bins) / (num_bins - 1), x.dtype)
    return _frcs_transfer(x, y, centres).astype(dtype)


@jax.jit
@by_rows("(n),(m),(k)->(n)")
def _frcs_transfer(x: Array, y: Array, centres: Array) -> Array:
    """One row; `centres` are those of the bins as shares of the range."""
    low = jnp.minimum(jnp.min(x), jnp.min(y)) - _MACHINE
    high = jnp.maximum(jnp.max(x), jnp.max(y)) + _MACHINE
    # A fused multiply-add would move edges off the samples that lie right on them; a
    # running maximum, which changes nothing, keeps the two operations apart.
    centres = _ascending(centres * (high - low)) + low
    edges = (centres[1:] + centres[:-1]) / 2
    counts = [_counts(z, edges).astype(x.dtype) for z in (x, y)]
    place = jnp.interp(x, centres, _histogram_transfer(*counts))
    return (place - 1) / edges.size * (high - low) + low


def _counts(x: Array, edges: Array) -> Array:
    place = jnp.searchsorted(edges, x, side="left")  # a sample on an edge: below
    return jnp.zeros(edges.size + 1, jnp.int32).at[place].add(1)
