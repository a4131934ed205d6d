"""Large samples reduced to a few weighted atoms on a grid: O(n), one pass."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import as_float, check_count
from transportjax._sharding import explicit_mesh_guard

from .levels import checked_samples

_REACH = 8.0  # standard deviations about the mean that the grid covers at most


@explicit_mesh_guard
def binned_atoms(
    x: ArrayLike, *, num_bins: int, weights: ArrayLike | None = None
) -> tuple[Float[Array, "*batch k"], Float[Array, "*batch k"]]:
    """The samples shared out to `num_bins` equally spaced atoms: places and masses.

    A sample between two places gives to each of them a share that falls linearly with
    its distance (cloud in cell). So the mean is kept, and the masses are continuous in
    the samples, where those of a histogram jump. The grid covers the samples, but
    reaches at most 8 deviations from the mean, so that one outlier does not empty all
    bins but two; what lies further counts at the ends. The cost is that of two
    histograms, and on sharded samples nothing but these is communicated.

    Differentiable in `x`, except where a sample passes a place, and in `weights`.

    Args:
        x: samples, (..., n).
        num_bins: number of atoms, at least 2, static.
        weights: masses >= 0 of the samples, (n,) or the shape of `x`.

    Returns:
        (places, masses), each (..., num_bins): places increase strictly, in units of
        `x`; masses sum to one.

    Raises:
        ValueError: empty or NaN samples, bad weights, fewer than two bins.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.onedim import binned_atoms
        >>> x = jnp.array([0.0, 0.25, 1.0, 1.0])
        >>> place, mass = binned_atoms(x, num_bins=3)
        >>> print(place, mass)
        [0.  0.5 1. ] [0.375 0.125 0.5  ]

    References:
        Hockney and Eastwood, 1988, "Computer simulation using particles", section 5-3.
    """
    check_count("num_bins", num_bins, 2)
    given = as_float("x", x)
    x, masses = checked_samples("x", given, weights, "weights")
    if masses is None:
        masses = jnp.ones_like(x)
    rows, out = (-1, x.shape[-1]), (*x.shape[:-1], num_bins)
    both = _bin_rows(x.reshape(rows), masses.reshape(rows), num_bins)
    places, masses = (a.reshape(out).astype(given.dtype) for a in both)
    return places, masses


@functools.partial(jax.jit, static_argnums=2)
def _bin_rows(
    x: Float[Array, "p n"], weights: Float[Array, "p n"], num_bins: int
) -> tuple[Float[Array, "p k"], Float[Array, "p k"]]:
    weights = weights / jnp.sum(weights, axis=1, keepdims=True)
    low, width = _grid(x, weights, num_bins)
    last = num_bins - 1
    steps = (x - low) / width
    inside = jnp.where(steps > 0, jnp.where(steps < last, steps, last), 0)
    start = jnp.minimum(jnp.floor(lax.stop_gradient(inside)), last - 1)
    share = inside - start
    # one scatter for all rows, behind one another, and for both places of a sample
    begin = np.arange(0, len(x) * num_bins, num_bins, dtype=np.int32)[:, None]
    index = start.astype(jnp.int32) + begin
    both = jnp.stack([weights * (1 - share), weights * share], axis=-1)
    zeros = jnp.zeros((len(x), num_bins), x.dtype) + 0 * low
    mass = lax.scatter_add(
        zeros.reshape(-1),
        index[..., None],
        both,
        lax.ScatterDimensionNumbers((2,), (), (0,)),
        mode="promise_in_bounds",
    )
    places = jnp.arange(num_bins).astype(x.dtype)[None, :]
    return low + width * places, mass.reshape(zeros.shape)


def _grid(
    x: Float[Array, "p n"], weights: Float[Array, "p n"], num_bins: int
) -> tuple[Float[Array, "p 1"], Float[Array, "p 1"]]:
    """The first place of each row, and the distance of its places (> 0)."""
    used = weights > 0
    least = jnp.min(jnp.where(used, x, jnp.inf), axis=1, keepdims=True)
    most = jnp.max(jnp.where(used, x, -jnp.inf), axis=1, keepdims=True)
    middle = (least + most) / 2
    rest = jnp.where(used, x - middle, 0)
    mean = jnp.sum(weights * rest, axis=1, keepdims=True)
    centred = jnp.where(used, rest - mean, 0)
    variance = jnp.sum(weights * centred**2, axis=1, keepdims=True)
    mean = middle + mean
    positive = variance > 0
    deviation = jnp.sqrt(jnp.where(positive, variance, 1))
    reach = jnp.where(positive, _REACH * deviation, 0)
    low = jnp.maximum(least, mean - reach)
    high = jnp.minimum(most, mean + reach)
    # a constant sample still needs places that differ in this dtype
    size = jnp.maximum(jnp.abs(least), jnp.abs(most))
    info = jnp.finfo(x.dtype)
    floor = size * (8 * float(info.eps)) + 8 * float(info.tiny) / float(info.eps)
    return low, jnp.maximum((high - low) / (num_bins - 1), floor)
