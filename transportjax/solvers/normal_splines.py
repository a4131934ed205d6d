"""Splines that make one-dimensional samples normal: the marginals of `gaussianise`."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf, ndtri
from jaxtyping import Array, Float

from transportjax.maps import RationalQuadraticSpline
from transportjax.onedim import binned_atoms
from transportjax.onedim.levels import take

_NUM_BINS = 512  # a projection is reduced to so many atoms before it is smoothed
_LEAST_SLOPE = 1e-3
_ENDS = 3.0  # standard normal scores of the outer knots
_EDGE_SHARE = 0.1  # of a step, that the slopes of the tails take: few samples are there


def fit_normal_splines(
    x: Float[Array, "p n"],
    weights: Float[Array, " n"],
    bandwidth: Float[Array, ""],
    step_size: Float[Array, ""],
    num_knots: int,
) -> tuple[RationalQuadraticSpline, Float[Array, ""]]:
    """Splines a share of the way towards Phi^-1 o F_h along each axis, and their cost.

    F_h is the distribution function, smoothed by a kernel of `bandwidth` times Scott's
    width. The cost is the mean squared displacement of a whole step.
    """
    atoms, masses = binned_atoms(x, num_bins=_NUM_BINS, weights=weights)
    relative = bandwidth * _effective_count(weights) ** -0.2
    fit = functools.partial(
        _fit_spline, relative=relative, step_size=step_size, num_knots=num_knots
    )
    splines, costs = jax.vmap(fit)(atoms, masses)
    return splines, jnp.mean(costs)


def _fit_spline(
    atoms: Float[Array, " b"],
    masses: Float[Array, " b"],
    *,
    relative: Float[Array, ""],
    step_size: Float[Array, ""],
    num_knots: int,
) -> tuple[RationalQuadraticSpline, Float[Array, ""]]:
    """One spline, by a kernel of the `relative` width in units of the deviation.

    With a kernel of standard deviation h the smoothed law is wider than the samples:
    the factor sqrt(1 + h^2 / s^2) lets a projection that is already normal map to
    itself.
    """
    mean = jnp.sum(masses * atoms)
    spread = jnp.sqrt(jnp.sum(masses * (atoms - mean) ** 2))
    levels = jnp.asarray(_levels(num_knots), atoms.dtype)
    # ties leave no room between knots: an increasing ramp of a thousandth of the spread
    ramp = jnp.linspace(-0.5e-3, 0.5e-3, num_knots, dtype=atoms.dtype)
    knots = _quantiles(atoms, masses, levels) + spread * ramp
    h = relative * spread
    score = (knots[:, None] - atoms[None, :]) / h
    share = jnp.matmul(_normal_cdf(score), masses, precision="highest")
    density = jnp.matmul(_normal_pdf(score), masses, precision="highest") / h
    tiny = float(jnp.finfo(atoms.dtype).eps)
    normal = ndtri(jnp.clip(share, tiny, 1 - tiny))
    widen = jnp.sqrt(1 + relative**2)
    move = widen * normal - knots
    slope = widen * density / jnp.maximum(_normal_pdf(normal), tiny)
    cost = jnp.sum(jnp.diff(levels) * move[1:] ** 2)
    part = jnp.full(num_knots, step_size).at[jnp.array([0, -1])].mul(_EDGE_SHARE)
    slope = jnp.maximum(1 + part * (slope - 1), _LEAST_SLOPE)
    value = knots + step_size * move
    return RationalQuadraticSpline.from_knots(knots, value, slope), cost


def _levels(num_knots: int) -> np.ndarray:
    """The levels of the knots: denser in the tails, where Phi^-1 bends."""
    scores = np.linspace(-_ENDS, _ENDS, num_knots)
    return np.array([0.5 * math.erfc(-score / math.sqrt(2)) for score in scores])


def _quantiles(
    atoms: Float[Array, " b"], masses: Float[Array, " b"], levels: Float[Array, " k"]
) -> Float[Array, " k"]:
    """The quantile function of increasing atoms, linear through the mid-ranks."""
    ranks = jnp.cumsum(masses) - masses / 2
    # comparing with all of them compiles faster than a search, and runs as fast
    count = jnp.sum(ranks[None, :] <= levels[:, None], axis=1, dtype="int32")
    after = jnp.clip(count, 1, len(atoms) - 1)
    low, high = take(ranks, after - 1), take(ranks, after)
    share = jnp.clip((levels - low) / jnp.where(high > low, high - low, 1), 0, 1)
    below, above = take(atoms, after - 1), take(atoms, after)
    return below + share * (above - below)


def _normal_cdf(x: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    # absolutely, not relatively exact: all that a mean over samples needs
    return 0.5 + 0.5 * erf(x * math.sqrt(0.5))


def _normal_pdf(x: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    return jnp.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def _effective_count(weights: Float[Array, " n"]) -> Float[Array, ""]:
    """Kish's effective sample size."""
    return jnp.sum(weights) ** 2 / jnp.sum(weights**2)
