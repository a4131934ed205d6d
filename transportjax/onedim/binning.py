"""Large samples reduced to a few weighted atoms, one a bin: O(n), one pass."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import as_float, check_count
from transportjax._sharding import explicit_mesh_guard

from .levels import checked_samples

_REACH = 8.0  # standard deviations about the mean that the bins cover at most


@explicit_mesh_guard
def binned_atoms(
    x: ArrayLike, *, num_bins: int, weights: ArrayLike | None = None
) -> tuple[Float[Array, "*batch k"], Float[Array, "*batch k"]]:
    """The samples of each of `num_bins` equal bins as one atom: its mean and mass.

    The bins cover the samples, but reach at most 8 deviations from the mean, so
    that one outlier does not empty all others; what lies further counts in the outer
    bins. The mean of the whole sample is kept exactly. The cost is that of a histogram,
    and on sharded samples nothing but the histograms is communicated.

    Differentiable in `x`: the mean of a bin moves with its samples, and masses are
    piecewise constant. Differentiable in `weights`.

    Args:
        x: samples, (..., n).
        num_bins: number of bins, static.
        weights: masses >= 0 of the samples, (n,) or the shape of `x`.

    Returns:
        (positions, masses), each (..., num_bins): positions increase strictly, in units
        of `x` (the centre of the bin where it is empty); masses sum to one.

    Raises:
        ValueError: empty or NaN samples, bad weights, fewer than one bin.

    Example:
        >>> from transportjax.onedim import binned_atoms
        >>> position, mass = binned_atoms([0.0, 0.1, 0.9, 1.0], num_bins=2)
        >>> print(position.round(2), mass)
        [0.05 0.95] [0.5 0.5]
    """
    check_count("num_bins", num_bins)
    given = as_float("x", x)
    x, masses = checked_samples("x", given, weights, "weights")
    if masses is None:
        masses = jnp.ones_like(x)
    shape = x.shape[:-1]
    flat = x.reshape(-1, x.shape[-1])
    positions, masses = jax.vmap(_bin_row, in_axes=(0, 0, None))(
        flat, masses.reshape(flat.shape), num_bins
    )
    out = (*shape, num_bins)
    return tuple(a.reshape(out).astype(given.dtype) for a in (positions, masses))


def _bin_row(
    x: Float[Array, " n"], weights: Float[Array, " n"], num_bins: int
) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    weights = weights / jnp.sum(weights)
    low, width = _bins(x, weights, num_bins)
    place = (x - low) / width
    index = jnp.clip(jnp.floor(place), 0, num_bins - 1).astype(jnp.int32)
    centre = index.astype(x.dtype) + 0.5
    zeros = jnp.zeros((num_bins,), x.dtype) + 0 * low
    mass = zeros.at[index].add(weights)
    # Offsets from the centre, not positions: small numbers add up without loss. With
    # the bin's index held constant the edges cancel in the derivative of the mean.
    moment = zeros.at[index].add(weights * (place - centre))
    filled = mass > 0
    offset = jnp.where(filled, moment / jnp.where(filled, mass, 1), 0)
    inner = jnp.clip(offset[1:-1], -0.5, 0.5)  # rounding must not reorder the bins
    if num_bins > 1:
        first = jnp.minimum(offset[:1], 0.5)
        last = jnp.maximum(offset[-1:], -0.5)
        offset = jnp.concatenate([first, inner, last])
    number = jnp.arange(num_bins).astype(x.dtype) + 0.5
    return low + width * (number + offset), mass


def _bins(
    x: Float[Array, " n"], weights: Float[Array, " n"], num_bins: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The lower edge of the first bin, and the width of the bins (> 0)."""
    used = weights > 0
    least = jnp.min(jnp.where(used, x, jnp.inf))
    most = jnp.max(jnp.where(used, x, -jnp.inf))
    middle = (least + most) / 2
    mean = middle + jnp.sum(weights * jnp.where(used, x - middle, 0))
    variance = jnp.sum(weights * jnp.where(used, x - mean, 0) ** 2)
    positive = variance > 0
    deviation = jnp.sqrt(jnp.where(positive, variance, 1))
    reach = jnp.where(positive, _REACH * deviation, 0)
    low = jnp.maximum(least, mean - reach)
    high = jnp.minimum(most, mean + reach)
    # a constant sample still needs bins that differ in this dtype
    size = jnp.maximum(jnp.abs(least), jnp.abs(most))
    info = jnp.finfo(x.dtype)
    floor = size * (8 * float(info.eps)) + 8 * float(info.tiny) / float(info.eps)
    return low, jnp.maximum((high - low) / num_bins, floor)
