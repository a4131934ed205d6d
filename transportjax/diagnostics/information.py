"""How far samples are from a normal law, and from independent coordinates, in nats."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.scipy.special import digamma, ndtri
from jax.scipy.stats import norm
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard
from transportjax.maps import AbstractBijection
from transportjax.maps.affine import moments
from transportjax.onedim import ranks, sort
from transportjax.solvers import gaussianise

_INDEPENDENT = 0.01  # share of independent coordinates in a joint density


@explicit_mesh_guard
def spacing_entropy(x: ArrayLike) -> Float[Array, "*batch"]:
    """The differential entropy -E log p(x) of samples on the line, in nats.

    From the distances of the order statistics that are 2 n^(1/3) places apart
    (Vasicek's estimate), with the bias taken off that it has for a uniform law. Without
    a kernel, and consistent for any density; -inf where as many samples are tied.

    Differentiable in the samples, where they differ.

    Args:
        x: samples on the last axis, (..., n), n >= 3.

    Returns:
        The entropy of each row.

    Raises:
        ValueError: fewer than three samples, NaN or infinity.

    Example:
        >>> import jax.random as jr
        >>> from transportjax.diagnostics import spacing_entropy
        >>> x = 2 * jr.uniform(jr.key(0), (4000,))
        >>> print(f"{spacing_entropy(x):.1f}")  # log 2
        0.7

    References:
        Vasicek (1976), A test for normality based on sample entropy.
        Wieczorkowski and Grzegorzewski (1999), Entropy estimators: improvements and
        comparisons.
    """
    return _spacing_entropy(_samples(x))


@jax.jit
def _spacing_entropy(x: Array) -> Array:
    n = x.shape[-1]
    m = min(round(n ** (1 / 3)), (n - 1) // 2)
    ordered = sort(x.astype(_checks.working_dtype(x.dtype)))
    places = jnp.arange(n)
    gaps = (
        ordered[..., jnp.minimum(places + m, n - 1)]
        - ordered[..., jnp.maximum(places - m, 0)]
    )
    inner = jnp.arange(m, 2 * m).astype(gaps.dtype)
    ends = (2 / n) * jnp.sum(digamma(inner))
    middle = (1 - 2 * m / n) * digamma(jnp.asarray(2.0 * m, gaps.dtype))
    start = digamma(jnp.asarray(n + 1.0, gaps.dtype))
    return (jnp.mean(jnp.log(gaps), axis=-1) + start - middle - ends).astype(x.dtype)


@explicit_mesh_guard
def negentropy(x: ArrayLike) -> Float[Array, "*batch"]:
    """How much less entropy samples on the line have than a normal law, in nats.

    log(2 pi e var) / 2 - h(x), by `spacing_entropy`: zero for a normal law, positive
    for others, the same in all units. The marginals of a cloud are `negentropy(x.T)`;
    those of all `layer_outputs` of a `gaussianise` map show how fast it works.

    Differentiable in the samples, where they differ.

    Args:
        x: samples on the last axis, (..., n), n >= 3.

    Returns:
        The negentropy of each row; noise of about 1 / sqrt(n) may put it below zero.
        It is infinite where `spacing_entropy` is, and NaN where all samples are equal.

    Raises:
        ValueError: as `spacing_entropy`.

    Example:
        >>> import jax.random as jr
        >>> from transportjax.diagnostics import negentropy
        >>> x = jr.exponential(jr.key(0), (4000,))
        >>> print(f"{negentropy(x):.1f}")  # log(2 pi e) / 2 - 1 = 0.42
        0.4

    References:
        Hyvarinen and Oja (2000), Independent component analysis: algorithms and
        applications, section 4.2.
    """
    return _negentropy(_samples(x))


@jax.jit
def _negentropy(x: Array) -> Array:
    work = x.astype(_checks.working_dtype(x.dtype))
    # in a unit whose square is a number of the dtype: it makes no difference
    work = work - lax.stop_gradient(jnp.mean(work, axis=-1, keepdims=True))
    largest = jnp.max(jnp.abs(work), axis=-1, keepdims=True)
    work = work / lax.stop_gradient(jnp.where(largest > 0, largest, 1))
    normal = (jnp.log(jnp.var(work, axis=-1)) + math.log(2 * math.pi) + 1) / 2
    return (normal - _spacing_entropy(work)).astype(x.dtype)


def _samples(x: ArrayLike) -> Array:
    x = _checks.as_float("x", x)
    _checks.check_samples("x", x)
    _checks.check_count("the number of samples", x.shape[-1], 3)
    return x


class TotalCorrelation(NamedTuple):
    """What `total_correlation` returns.

    Attributes:
        value: the estimate, in nats.
        error: its standard error, from the spread over the samples.
    """

    value: Float[Array, ""]
    error: Float[Array, ""]


def total_correlation(x: ArrayLike, *, key: PRNGKeyArray) -> TotalCorrelation:
    """The sum of the marginal entropies less the joint one, in nats.

    Also called multi-information: KL(p | product of the marginals), zero if and only if
    the coordinates are independent; of two coordinates their mutual information. It is
    the same after any increasing function of each coordinate, so these are made normal
    by their ranks first, ties in random order. The joint density is that of
    `gaussianise`, with a share of 1 % of independent coordinates; it is fitted on one
    half of the samples and evaluated on the other, both ways. What the fit does not see
    is missing: the value is too small rather than too large, most so for densities with
    edges. The joint entropy is `spacing_entropy(x.T).sum() - value`.

    Args:
        x: samples, (n, d), n > 2 d + 1; several hundreds at least, to see more than
            linear dependence.
        key: a random key, for the halves and the fits.

    Returns:
        A `TotalCorrelation`: value and error.

    Raises:
        ValueError: samples that are not (n, d), are too few, NaN or infinite, or whose
            ranks lie in a subspace, as those of two columns that determine each other.

    Example:
        >>> import jax.random as jr
        >>> from transportjax.diagnostics import total_correlation
        >>> x = jr.normal(jr.key(0), (2000, 2))
        >>> x = x.at[:, 1].add(2 * x[:, 0])
        >>> found = total_correlation(x, key=jr.key(1))
        >>> bool(abs(found.value - 0.80) < 0.1)  # log(5) / 2
        True

    References:
        Laparra, Camps-Valls and Malo (2011), Iterative Gaussianization: from ICA to
        random rotations.
        Watanabe (1960), Information theoretical analysis of multivariate correlation.
    """
    _checks.check_key("key", key)
    x = _checks.as_float("x", x)
    _checks.check_points("x", x)
    least = 2 * x.shape[1] + 2  # each half needs more than d
    _checks.check_count("the number of samples", len(x), least)
    half = len(x) // 2
    key_halves, *keys, key_ties = jr.split(key, 4)
    scores = _normal_scores(x.astype(_checks.working_dtype(x.dtype)), key_ties)
    scores = jr.permutation(key_halves, scores)
    halves = scores[:half], scores[half : 2 * half]  # an odd one is left out
    gains = []
    for fitted, other, key in zip(halves, reversed(halves), keys, strict=True):
        _checks.check_points("x", fitted)
        _checks.check_spread("x", fitted.shape, *moments(fitted, None))
        # the columns are normal already
        map = gaussianise(fitted, key=key, columns=False).map
        gains.append(_gains(map, other))
    gain = jnp.concatenate(gains)
    error = jnp.std(gain) / len(gain) ** 0.5
    return TotalCorrelation(jnp.mean(gain).astype(x.dtype), error.astype(x.dtype))


@jax.jit
def _normal_scores(x: Array, key: PRNGKeyArray) -> Array:
    """Each column made normal by its ranks.

    Ties are broken at random, in each column by itself: any order of the rows would
    make columns with ties dependent on each other, and on what the rows are sorted by.
    """

    def levels(column: Array, key: PRNGKeyArray) -> Array:
        order = jr.permutation(key, len(column))
        return jnp.zeros_like(order).at[order].set(ranks(column[order]))

    found = jax.vmap(levels)(x.T, jr.split(key, x.shape[1]))
    return ndtri((found.astype(x.dtype) + 0.5) / len(x)).T


@eqx.filter_jit
def _gains(map: AbstractBijection, x: Array) -> Array:
    """The log-density of the map at each sample, less that of normal coordinates.

    A share of these in the density bounds what a stray may cost.
    """
    z, log_dets = jax.vmap(map.transform_and_log_det)(x)
    ratio = log_dets + jnp.sum(norm.logpdf(z) - norm.logpdf(x), axis=1)
    return jnp.logaddexp(ratio + math.log(1 - _INDEPENDENT), math.log(_INDEPENDENT))
