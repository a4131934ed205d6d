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
from transportjax.onedim import binned_atoms

_NUM_BINS = 512  # a projection is reduced to so many atoms before it is smoothed
_BLOCK = 32  # terms of a sum that one product adds
_LEAST_SLOPE = 1e-3
_ENDS = 3.0  # standard normal scores of the outer knots
_EDGE_SHARE = 0.1  # of a step, that the slopes of the tails take: few samples are there


def fit_normal_splines(
    x: Float[Array, "p n"],
    weights: Float[Array, " n"],
    bandwidth: Float[Array, ""],
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
    atoms, masses = binned_atoms(x, num_bins=_NUM_BINS, weights=weights)
    relative = bandwidth * _effective_count(weights) ** -0.2
    centred = atoms - _mean(atoms, masses)[:, None]
    spread = jnp.sqrt(_mean(centred**2, masses))[:, None]
    levels = _levels(num_knots).astype(x.dtype)
    # ties leave no room between knots: an increasing ramp of a thousandth of the spread
    ramp = np.linspace(-0.5e-3, 0.5e-3, num_knots).astype(x.dtype)
    knots = _quantiles(atoms, masses, levels) + spread * ramp[None, :]
    h = relative * spread
    score = (knots[:, :, None] - atoms[:, None, :]) / h[:, :, None]
    share = _mean(_normal_cdf(score), masses)
    density = _mean(_normal_pdf(score), masses) / h
    tiny = float(jnp.finfo(x.dtype).eps)
    share = jnp.minimum(jnp.maximum(share, tiny), 1 - tiny)
    # as exact as the share, which is so absolutely
    normal = math.sqrt(2) * lax.erf_inv(2 * share - 1)
    widen = jnp.sqrt(1 + relative**2)
    move = widen * normal - knots
    slope = widen * density / jnp.maximum(_normal_pdf(normal), tiny)
    gaps = np.append(0, np.diff(levels)).astype(x.dtype)
    cost = jnp.mean(jnp.matmul(move**2, gaps, precision="highest"))
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
    before = _rows(x) + _count_below(x[:, 1:-1], inside)
    after = before + 1
    tables = knots.reshape(3, -1)
    left, low, start = (_take(table, before) for table in tables)
    right, high, end = (_take(table, after) for table in tables)
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


def spline_maps(
    knots: Float[Array, "l 3 p k"], count: Int[Array, ""]
) -> RationalQuadraticSpline:
    """The splines as maps, with two leading axes, of layers and rows.

    Those from layer `count` on are the identity.
    """
    num = knots.shape[-1] - 1
    steps = knots[:, :2, :, 1:] - knots[:, :2, :, :-1]
    # the floor of `RationalQuadraticSpline.from_knots`
    least = (knots[:, :2, :, -1:] - knots[:, :2, :, :1]) * (
        float(jnp.finfo(knots.dtype).eps) / 64
    )
    steps = jnp.maximum(steps, least)
    every = jnp.concatenate([steps[:, 0], steps[:, 1], knots[:, 2]], axis=-1)
    is_made = (jnp.arange(len(knots)) < count)[:, None, None]
    leaves = jnp.where(is_made, jnp.log(every), 0)
    places = jnp.where(is_made[..., None], knots[:, :2, :, :1], 0)
    return RationalQuadraticSpline(
        leaves[..., :num],
        leaves[..., num : 2 * num],
        leaves[..., 2 * num :],
        places[:, 0, :, 0],
        places[:, 1, :, 0],
    )


def _levels(num_knots: int) -> np.ndarray:
    """The levels of the knots: denser in the tails, where Phi^-1 bends."""
    scores = np.linspace(-_ENDS, _ENDS, num_knots)
    return np.array([0.5 * math.erfc(-score / math.sqrt(2)) for score in scores])


def _quantiles(
    atoms: Float[Array, "p b"], masses: Float[Array, "p b"], levels: np.ndarray
) -> Float[Array, "p k"]:
    """The quantile functions of increasing atoms, linear through the mid-ranks."""
    ranks = _running_sums(masses) - masses / 2
    goal = levels[None, :]
    is_below = (ranks[:, None, :] <= goal[:, :, None]).astype(ranks.dtype)
    count = jnp.matmul(is_below, np.ones(ranks.shape[1], ranks.dtype)).astype("int32")
    count = jnp.minimum(jnp.maximum(count, 1), ranks.shape[1] - 1)
    after = _rows(atoms) + count
    ranks, atoms = ranks.reshape(-1), atoms.reshape(-1)
    low, high = _take(ranks, after - 1), _take(ranks, after)
    share = (goal - low) / jnp.where(high > low, high - low, 1)
    share = jnp.minimum(jnp.maximum(share, 0), 1)
    below = _take(atoms, after - 1)
    return below + share * (_take(atoms, after) - below)


def _running_sums(x: Float[Array, "p b"]) -> Float[Array, "p b"]:
    """Cumulative sums, by products in blocks: these are compiled in no time."""
    parts = x.reshape(x.shape[0], -1, _BLOCK)
    ones = np.triu(np.ones((_BLOCK, _BLOCK), x.dtype))
    within = jnp.matmul(parts, ones, precision="highest")
    num = parts.shape[1]
    earlier = np.triu(np.ones((num, num), x.dtype), 1)
    before = jnp.matmul(within[:, :, -1], earlier, precision="highest")
    return (within + before[:, :, None]).reshape(x.shape)


def _count_below(
    tables: Float[Array, "p k"], x: Float[Array, "p n"]
) -> Int[Array, "p n"]:
    """How many of the increasing entries of a row are <= each number of that row."""
    num = tables.shape[1]
    num_bits = num.bit_length()
    size = 2**num_bits - 1
    padding = ((0, 0), (0, size - num))
    padded = jnp.pad(tables, padding, constant_values=np.inf)
    start, flat = _rows(padded) - 1, padded.reshape(-1)

    def step(count: Array, half: Array) -> tuple[Array, None]:
        larger = count + half
        return jnp.where(_take(flat, start + larger) <= x, larger, count), None

    zero = (x < x[:, :1]).astype("int32") * 0
    halves = jnp.array([1 << bit for bit in reversed(range(num_bits))], "int32")
    return jnp.minimum(lax.scan(step, zero, halves)[0], num)


def _rows(tables: Float[Array, "p k"]) -> Int[Array, "p 1"]:
    """Where each row begins, once they are one long row: reads from that are fast."""
    num, size = tables.shape
    return jnp.asarray(np.arange(0, num * size, size, dtype=np.int32)[:, None])


def _take(table: Float[Array, " k"], places: Int[Array, "p n"]) -> Float[Array, "p n"]:
    return table.at[places].get(mode="promise_in_bounds")


def _mean(x: Float[Array, "p *k b"], masses: Float[Array, "p b"]) -> Array:
    """The means over the atoms of each row."""
    return jnp.einsum("p...b,pb->p...", x, masses, precision="highest")


def _normal_cdf(x: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    # absolutely, not relatively exact: all that a mean over samples needs
    return 0.5 + 0.5 * lax.erf(x * math.sqrt(0.5))


def _normal_pdf(x: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    return jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _effective_count(weights: Float[Array, " n"]) -> Float[Array, ""]:
    """Kish's effective sample size."""
    return jnp.sum(weights) ** 2 / jnp.sum(weights**2)
