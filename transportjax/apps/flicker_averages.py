"""Laws of brightness averaged in time: flicker goes, drift stays.

The average of quantile functions is the barycentre in W_2 of laws on the line.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import as_cuts, as_float, check_number

# of the power that noise has in an average: in the smoothed rest it has 0.07 of that,
# up to 0.13 near the ends
_SLOW = 0.5
_NONE = 1e-12  # of power, in squares of luma


def steady_quantiles(
    quantiles: ArrayLike, *, window: int | float = 17, cuts: Sequence[int] | np.ndarray
) -> Float[Array, "t *b k"]:
    """Quantile functions averaged in time, within each shot.

    A local line through the quantiles of each level, with Gaussian weights: a steady
    fade is kept, at the ends of a shot too. At each level it is a least squares
    fit, so the result is the barycentre in W_2 when nothing drifts. What the lines
    leave of a drift that bends (a zoom, the end of a fade) is smoothed in the same way
    and added back, as far as it is stronger than what flicker that is independent from
    frame to frame would leave there. Kept in order and in [0, 1]. Differentiable in
    `quantiles`.

    Args:
        quantiles: of each frame, the levels last, any axes in between.
        window: frames that count; the deviation of the weights is a quarter of it.
        cuts: frames that begin a shot.

    Returns:
        The averages, in the shape of `quantiles`.

    Raises:
        ValueError: `window` is less than 1; `cuts` are no numbers of frames.

    Example:
        >>> import jax.numpy as jnp
        >>> q = jnp.array([[0.1, 0.5], [0.3, 0.7], [0.1, 0.5], [0.3, 0.7]])
        >>> print((100 * steady_quantiles(q, window=9, cuts=[])).round())
        [[14. 54.]
         [18. 58.]
         [22. 62.]
         [26. 66.]]

    References:
        Delon, 2006, "Movie and video scale-time equalization application to flicker
        reduction" (averages of quantile functions, without drift). Tukey, 1977,
        "Exploratory data analysis" (twicing: the smoothed rest is added back).
    """
    quantiles = as_float("quantiles", quantiles)
    check_number("window", window, 1)
    cuts = as_cuts("cuts", cuts, len(quantiles))
    starts = np.zeros(len(quantiles), np.int32)
    starts[cuts] = 1
    reach = max(1, int(float(window) / 2))
    shots = jnp.asarray(np.cumsum(starts), jnp.int32)
    return _local_lines(quantiles, shots, jnp.asarray(window, quantiles.dtype), reach)


@functools.partial(jax.jit, static_argnames="reach")
def _local_lines(
    quantiles: Float[Array, "t *b k"], shots: Array, window: Array, reach: int
) -> Float[Array, "t *b k"]:
    num, dtype = len(quantiles), quantiles.dtype
    offsets = jnp.arange(-reach, reach + 1)
    place = jnp.arange(num)[:, None] + offsets[None, :]
    inside = (place >= 0) & (place < num)
    place = jnp.clip(place, 0, num - 1)
    step = offsets.astype(dtype)[None, :] / window
    near = jnp.exp(-8 * step**2)
    near = jnp.where(inside & (shots[place] == shots[:, None]), near, 0)
    s0, s1, s2 = (jnp.sum(near * step**p, axis=1, keepdims=True) for p in range(3))
    determinant = s0 * s2 - s1**2
    line = determinant > 1e-6 * s0**2 / window**2
    slope = jnp.where(line, s1 / jnp.where(line, determinant, 1), 0)
    level = jnp.where(line, s2 / jnp.where(line, determinant, 1), 1 / s0)
    weight = near * (level - slope * step)

    lines = _averages(quantiles, place, weight)
    drift = _averages(quantiles - lines, place, weight)
    noise = _white_noise(quantiles, shots, place, near)
    by_noise = noise * _along(jnp.sum(weight**2, axis=1), noise)
    power = jnp.mean(drift**2, axis=-1, keepdims=True)
    by_noise, power = (_averages(x, place, near / s0) for x in (by_noise, power))
    share = jnp.maximum(1 - _SLOW * by_noise / jnp.maximum(power, _NONE), 0)
    out = lines + jnp.broadcast_to(share, drift.shape) * drift
    return jnp.clip(jax.lax.cummax(out, axis=out.ndim - 1), 0, 1)


def _white_noise(
    quantiles: Float[Array, "t *b k"], shots: Array, place: Array, near: Array
) -> Float[Array, "t *b 1"]:
    """The variance around a smooth course of the quantiles, from second differences.

    Of white noise they have six times the variance; of a drift hardly any.
    """
    middle = quantiles[1:-1]
    second = quantiles[2:] - 2 * middle + quantiles[:-2]
    squares = jnp.mean(second**2, axis=-1, keepdims=True) / 6
    one_shot = (shots[2:] == shots[:-2]).astype(quantiles.dtype)
    ends = [(1, len(quantiles) - 1 - len(one_shot))]
    one_shot = jnp.pad(one_shot, ends)
    squares = jnp.pad(squares, ends + [(0, 0)] * (squares.ndim - 1))
    total = _averages(_along(one_shot, squares) * squares, place, near)
    count = _along(_averages(one_shot, place, near), total)
    return total / jnp.where(count > 0, count, 1)


def _averages(x: Float[Array, "t ..."], place: Array, weight: Array) -> Array:
    """Weighted sums in time: of the frames `place`, (t, o), with `weight`, (t, o)."""

    def add(total: Array, column: tuple[Array, Array]) -> tuple[Array, None]:
        index, share = column
        return total + _along(share, total) * x[index], None

    return jax.lax.scan(add, jnp.zeros_like(x), (place.T, weight.T))[0]


def _along(x: Float[Array, " t"], like: Float[Array, "t ..."]) -> Float[Array, "t ..."]:
    return jnp.broadcast_to(x.reshape((-1,) + (1,) * (like.ndim - 1)), like.shape)
