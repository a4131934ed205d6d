"""Splines that make one-dimensional samples normal: the marginals of `gaussianise`.

All axes share the operations, and splines stay knots while the steps go on: most of the
time of a first fit is spent on compiling one step.
"""

import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from transportjax.maps import RationalQuadraticSpline

_NUM_BINS = 512  # a projection is reduced to so many atoms before it is smoothed
_REACH = 8.0  # standard deviations about the mean that the atoms cover at most
_LEAST_SLOPE = 1e-3
_ENDS = 3.0  # standard normal scores of the outer knots
_EDGE_SHARE = 0.1  # of a step, that the slopes of the tails take: few samples are there


def fit_normal_splines(
    x: Float[Array, "p n"],
    weights: Float[Array, " n"],
    bandwidth: Float[Array, "*#p"],
    step_size: Float[Array, ""],
    num_knots: int,
) -> tuple[Float[Array, "3 p k"], Float[Array, ""]]:
    """Splines a share of the way towards Phi^-1 o F_h along each axis, and their cost.

    They are given by their knots: places, values and slopes. F_h is the distribution
    function, smoothed by a kernel of `bandwidth` times Scott's width. With a kernel of
    standard deviation h the smoothed law is wider than the samples: the factor
    sqrt(1 + h^2 / s^2) lets a projection that is already normal map to itself. The cost
    is the mean squared displacement of a whole step.
    """
    atoms, masses, width = _bin(x, weights)
    relative = bandwidth * _effective_count(weights) ** -0.2
    # in bins, counted from the middle; no narrower than one
    count = np.arange(_NUM_BINS) - (_NUM_BINS - 1) / 2
    powers = np.stack([count, count**2], axis=-1).astype(x.dtype)
    mean, second = jnp.matmul(masses, powers, precision="highest").T
    spread = width * jnp.sqrt(jnp.maximum(second - mean**2, 1))[:, None]
    levels = _levels(num_knots).astype(x.dtype)
    # ties leave no room between knots: an increasing ramp of a thousandth of the spread
    ramp = np.linspace(-0.5e-3, 0.5e-3, num_knots).astype(x.dtype)
    knots = _quantiles(atoms, masses, levels) + spread * ramp[None, :]
    h = relative * spread
    score = (knots[:, :, None] - atoms[:, None, :]) / h[:, :, None]
    kernels = jnp.stack([_normal_cdf(score), _normal_pdf(score)], axis=1)
    means = jnp.einsum("pskb,pb->psk", kernels, masses, precision="highest")
    tiny = float(jnp.finfo(x.dtype).eps)
    share = jnp.minimum(jnp.maximum(means[:, 0], tiny), 1 - tiny)
    # as exact as the share, which is so absolutely
    normal = math.sqrt(2) * lax.erf_inv(2 * share - 1)
    widen = jnp.sqrt(1 + relative**2)
    move = widen * normal - knots
    slope = widen * means[:, 1] / h / jnp.maximum(_normal_pdf(normal), tiny)
    gaps = np.append(0, np.diff(levels)).astype(x.dtype)
    cost = jnp.sum(move**2 * gaps[None, :]) / len(x)
    part = np.ones(num_knots, x.dtype)
    part[[0, -1]] = _EDGE_SHARE
    slope = jnp.maximum(1 + step_size * part[None, :] * (slope - 1), _LEAST_SLOPE)
    return jnp.stack([knots, knots + step_size * move, slope]), cost


def apply_splines(
    knots: Float[Array, "3 p k"], z: Float[Array, "p n"]
) -> tuple[Float[Array, "p n"], Float[Array, "p n"]]:
    """Each row through its spline, and the logarithms of the slopes.

    What the map made by `spline_maps` does, but for rounding.
    """
    x, _, slopes = knots
    first, last = x[:, :1], x[:, -1:]
    inside = jnp.where(z > first, jnp.where(z < last, z, last), first)
    before = _count_below(x[:, 1:-1], inside)
    # one read for each point, of all six numbers
    table = jnp.concatenate([knots[:, :, :-1], knots[:, :, 1:]]).transpose(1, 2, 0)
    before = before + np.arange(len(x), dtype=np.int32)[:, None] * table.shape[1]
    ends = table.reshape(-1, 6).at[before].get(mode="promise_in_bounds")
    left, low, start, right, high, end = (ends[:, :, i] for i in range(6))
    # the formulas of `bin_value` and `bin_log_slope`, with t = a / (a + b): quotients
    # that both results have in common would be compiled apart
    a, b, height = inside - left, right - inside, high - low
    width = a + b
    lower = height * (a * a + b * b) + width * (start + end) * a * b
    upper = width * (end * a * a + start * b * b) + 2 * height * a * b
    outer = jnp.where(z < inside, slopes[:, :1], slopes[:, -1:])
    part = a * (height * a + width * start * b) / lower
    value = low + height * part + outer * (z - inside)
    return value, jnp.log(height / lower * (height * width / lower) * upper)


def no_knots(num_knots: int) -> np.ndarray:
    """Knots of a row, (3, num_knots), that `spline_maps` makes the identity."""
    places = np.arange(num_knots)
    return np.stack([places, places, np.ones(num_knots)])


def spline_maps(knots: Float[Array, "l 3 p k"]) -> RationalQuadraticSpline:
    """The splines as maps, with two leading axes, of layers and rows."""
    num = knots.shape[-1] - 1
    steps = knots[:, :2, :, 1:] - knots[:, :2, :, :-1]
    # the floor of `RationalQuadraticSpline.from_knots`
    least = (knots[:, :2, :, -1:] - knots[:, :2, :, :1]) * (
        float(jnp.finfo(knots.dtype).eps) / 64
    )
    steps = jnp.maximum(steps, least)
    leaves = jnp.log(jnp.concatenate([steps[:, 0], steps[:, 1], knots[:, 2]], axis=-1))
    return RationalQuadraticSpline(
        leaves[..., :num],
        leaves[..., num : 2 * num],
        leaves[..., 2 * num :],
        knots[:, 0, :, 0],
        knots[:, 1, :, 0],
    )


def _bin(
    x: Float[Array, "p n"], weights: Float[Array, " n"]
) -> tuple[Float[Array, "p b"], Float[Array, "p b"], Float[Array, "p 1"]]:
    """The points shared out to equally spaced atoms: places, masses, and the distance.

    What `binned_atoms` does, for points of about unit variance about zero.
    """
    used = jnp.where(weights[None, :] > 0, x, 0)
    low = jnp.maximum(jnp.min(used, axis=1, keepdims=True), -_REACH)
    high = jnp.minimum(jnp.max(used, axis=1, keepdims=True), _REACH)
    width = jnp.maximum((high - low) / (_NUM_BINS - 1), float(jnp.finfo(x.dtype).tiny))
    steps = jnp.minimum(jnp.maximum((x - low) / width, 0), _NUM_BINS - 1)
    start = jnp.minimum(jnp.floor(steps), _NUM_BINS - 2)
    masses = (weights / jnp.sum(weights))[None, :]
    upper = masses * (steps - start)
    # one scatter for all rows, behind one another, and for both places of a point
    begin = np.arange(len(x), dtype=np.int32)[:, None] * _NUM_BINS
    sums = lax.scatter_add(
        jnp.zeros_like(x, shape=len(x) * _NUM_BINS),
        (start.astype("int32") + begin)[..., None],
        jnp.stack([masses - upper, upper], axis=-1),
        lax.ScatterDimensionNumbers((2,), (), (0,)),
        mode="promise_in_bounds",
    )
    count = np.arange(_NUM_BINS, dtype=x.dtype)[None, :]
    return low + width * count, sums.reshape(len(x), -1), width


def _levels(num_knots: int) -> np.ndarray:
    """The levels of the knots: denser in the tails, where Phi^-1 bends."""
    scores = np.linspace(-_ENDS, _ENDS, num_knots)
    return np.array([0.5 * math.erfc(-score / math.sqrt(2)) for score in scores])


def _quantiles(
    atoms: Float[Array, "p b"], masses: Float[Array, "p b"], levels: np.ndarray
) -> Float[Array, "p k"]:
    """The quantile functions of increasing atoms, linear through the mid-ranks."""
    place = jnp.arange(atoms.shape[1], dtype=atoms.dtype)
    before = (1 + jnp.sign(place[None, :] - place[:, None])) / 2  # and half of its own
    ranks = jnp.matmul(masses, before, precision="highest")
    # the integral, over the atoms, of how far each gap lies below the level
    low, high = ranks[:, None, :-1], ranks[:, None, 1:]
    tiny = float(jnp.finfo(ranks.dtype).tiny)
    share = (levels[None, :, None] - low) / jnp.maximum(high - low, tiny)
    share = jnp.minimum(jnp.maximum(share, 0), 1)
    return atoms[:, :1] + jnp.sum(share * jnp.diff(atoms)[:, None, :], axis=-1)


def _count_below(
    tables: Float[Array, "p k"], x: Float[Array, "p n"]
) -> Int[Array, "p n"]:
    """How many of the increasing entries of a row are <= each number of that row."""
    num = tables.shape[1]
    num_bits = num.bit_length()
    size = 2**num_bits - 1
    padding = ((0, 0), (0, size - num))
    flat = jnp.pad(tables, padding, constant_values=np.inf).reshape(-1)
    # before each row, once they are one long row: reads from that are fast
    start = np.arange(len(tables), dtype=np.int32)[:, None] * size - 1

    def step(count: Array, half: Array) -> tuple[Array, None]:
        larger = count + half
        found = flat.at[start + larger].get(mode="promise_in_bounds")
        return jnp.where(found <= x, larger, count), None

    zero = (x < x[:, :1]).astype("int32") * 0
    halves = jnp.array([1 << bit for bit in reversed(range(num_bits))], "int32")
    return jnp.minimum(lax.scan(step, zero, halves)[0], num)


def _normal_cdf(x: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    # absolutely, not relatively exact: all that a mean over samples needs
    return 0.5 + 0.5 * lax.erf(x * math.sqrt(0.5))


def _normal_pdf(x: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    return jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _effective_count(weights: Float[Array, " n"]) -> Float[Array, ""]:
    """Kish's effective sample size."""
    return jnp.sum(weights) ** 2 / jnp.sum(weights**2)
