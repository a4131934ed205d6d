"""Gaussian mixtures fitted to points by the EM algorithm, in blocks of points."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard

from .gaussian import GaussianMixture
from .kmeans import Blocks, centred, checked_sample, in_blocks, kmeans, masses

_KINDS = ("full", "diagonal", "isotropic")
_CHOICES = (*_KINDS, *(f"shared_{kind}" for kind in _KINDS))


@explicit_mesh_guard
def fit_gaussian_mixture(
    x: ArrayLike,
    k: int,
    *,
    key: PRNGKeyArray,
    covariance: str = "full",
    weights: ArrayLike | None = None,
    start: GaussianMixture | None = None,
    num_steps: int = 100,
    tolerance: int | float | ArrayLike = 1e-5,
    floor: int | float | ArrayLike = 1e-6,
) -> GaussianMixture:
    """The Gaussian mixture of greatest likelihood, a local maximum of it, by EM.

    Starts from `kmeans`, or a given mixture, whose components without weight stay
    without. The likelihood never falls from one step to the next. No
    variance, along any axis, is allowed below `floor` times the mean variance of the
    points, and the likelihood is maximal under this condition: so constant coordinates,
    repeated points and components with a single point do no harm. If all points are
    equal, their variance counts as one (or as that of their rounding).

    The same key gives the same mixture. Not for gradients: reverse mode raises, because
    the number of steps depends on the data; forward mode goes through the steps.

    Args:
        x: points, `(n, d)`.
        k: number of components, at most n.
        key: a PRNG key, for the start.
        covariance: `"full"`, `"diagonal"` or `"isotropic"`, or one that all components
            share: `"shared_full"`, `"shared_diagonal"`, `"shared_isotropic"`.
        weights: masses >= 0 of the points, `(n,)`, as if a point were repeated.
            None: equal.
        start: a mixture of k components to go on from; only where `covariance` is
            `"full"` do its covariances count beyond their diagonals. None: clusters.
        num_steps: most steps.
        tolerance: stops when the mean log-likelihood of a point grows by less.
        floor: least variance, as a share > 0 of the mean variance of the points.

    Returns:
        A `GaussianMixture` whose weights sum to one, in the dtype of x; the shape of
        its `covariances` is `(k, d, d)`, `(k, d)` or `(k,)`, or has a leading axis of 1
        if they are shared.

    Raises:
        ValueError: points that are not (n, d), empty or not finite; k above n; bad
            weights; a start of another size, or with negative weights; unknown options;
            numbers out of range.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr
        >>> from transportjax.mixtures import fit_gaussian_mixture
        >>> x = jr.normal(jr.key(0), (1000, 2))
        >>> x = jnp.concatenate([x, 0.5 * x + 9])
        >>> p = fit_gaussian_mixture(x, 2, key=jr.key(1), covariance="isotropic")
        >>> print(jnp.sort(p.covariances).round(1), p.weights.round(2))
        [0.3 1. ] [0.5 0.5]

    References:
        Dempster, Laird and Rubin (1977), Maximum likelihood from incomplete data via
        the EM algorithm, section 4.3.
    """
    _checks.check_key("key", key)
    points, w = checked_sample(x, k, weights)
    _checks.check_choice("covariance", covariance, _CHOICES)
    options = checked_options(num_steps, tolerance, points)
    _checks.check_number("floor", floor, 0, open_low=True)
    work = options[1].dtype
    least = jnp.asarray(floor).astype(work)
    if start is not None:
        _checks.check_kind("start", start, GaussianMixture)
        shape = (k, points.shape[1])
        _checks.check_start("start", start.means, start.weights, shape)
        start = jax.tree.map(lambda leaf: leaf.astype(work), start)
    found = _fit(points.astype(work), w, key, start, k, covariance, least, *options)
    _checks.check_variances("x", found[1], points.dtype)
    return GaussianMixture(*(leaf.astype(points.dtype) for leaf in found))


def checked_options(
    num_steps: int, tolerance: int | float | ArrayLike, x: Array
) -> tuple[Array, Array]:
    """Both as arrays, so that programs are compiled once for all their values."""
    _checks.check_count("num_steps", num_steps)
    _checks.check_number("tolerance", tolerance, 0)
    work = _checks.working_dtype(x.dtype)
    return jnp.asarray(num_steps, "int32"), jnp.asarray(tolerance).astype(work)


def run_expectation(
    step: Callable[[Any], tuple[Any, Array]],
    start: Any,
    num_steps: Array,
    tolerance: Array,
) -> Any:
    """The parameters after steps of EM, until the log-likelihood stops growing.

    `step` takes parameters to better ones, and to the log-likelihood of its argument.
    """

    def grows(carry: tuple) -> Array:
        count, _, last, before = carry
        return (count < num_steps) & ((count < 2) | (last - before > tolerance))

    def update(carry: tuple) -> tuple:
        count, parameters, last, _ = carry
        parameters, value = step(parameters)
        return count + 1, parameters, value, last

    zero = functools.reduce(
        jnp.add, [jnp.sum(leaf) * 0 for leaf in jax.tree.leaves(start)]
    )
    carry = zero.astype("int32"), start, zero, zero
    return lax.while_loop(grows, update, carry)[1]


class _Parameters(NamedTuple):
    """Components in the frame of the points' mean, all with full covariances.

    A covariance is V diag(variances) V^T; for kinds other than full, V is the identity.
    """

    weights: Float[Array, " k"]
    means: Float[Array, "k d"]
    axes: Float[Array, "k d d"]
    variances: Float[Array, "k d"]


@functools.partial(jax.jit, static_argnums=(4, 5))
def _fit(
    x: Array,
    weights: Array | None,
    key: PRNGKeyArray,
    start: GaussianMixture | None,
    k: int,
    covariance: str,
    floor: Array,
    num_steps: Array,
    tolerance: Array,
) -> tuple[Array, Array, Array]:
    kind, is_shared = covariance.removeprefix("shared_"), "shared" in covariance
    mass = masses(x, weights)
    shifted, mean = centred(x, mass)
    least = floor * _mean_variance(x, shifted, mass)
    if start is None:
        clusters = lax.stop_gradient(kmeans(shifted, k, key=key, weights=mass))
        first = _start(clusters.centres, clusters.weights, clusters.cost, least)
    else:
        first = _going_on(start, mean, kind, least)
    blocks = in_blocks(shifted, mass, k * x.shape[1])
    step = functools.partial(
        _step, blocks=blocks, kind=kind, is_shared=is_shared, least=least
    )
    found = run_expectation(step, first, num_steps, tolerance)
    axes, variances = found.axes, found.variances
    if is_shared:
        axes, variances = axes[:1], variances[:1]
    if kind == "full":
        scaled = axes * variances[:, None, :]
        covariances = jnp.matmul(scaled, axes.mT, precision="highest")
        covariances = (covariances + covariances.mT) / 2
    else:
        covariances = variances if kind == "diagonal" else variances[:, 0]
    return found.means + mean[None, :], covariances, found.weights


def _mean_variance(x: Array, shifted: Array, mass: Array) -> Array:
    """The variance of the points along a mean axis; above that of their rounding."""
    variance = jnp.vdot(mass, jnp.mean(shifted**2, axis=1), precision="highest")
    rounding = float(jnp.finfo(x.dtype).eps) * jnp.max(jnp.abs(x))
    variance = jnp.maximum(variance, rounding**2)
    return jnp.where(variance > 0, variance, 1)


def _start(centres: Array, weights: Array, cost: Array, least: Array) -> _Parameters:
    """The clusters, with the variance within them for all."""
    k, d = centres.shape
    variance = jnp.maximum(cost / d, least)
    eye = jnp.eye(d, dtype=centres.dtype)
    axes = jnp.zeros_like(centres, shape=(k, d, d)) + eye[None]
    return _Parameters(weights, centres, axes, jnp.zeros_like(centres) + variance)


def _going_on(
    start: GaussianMixture, mean: Array, kind: str, least: Array
) -> _Parameters:
    """The components of a mixture, in the frame of the mean."""
    means, covariances = start.means, start.covariances
    k, d = means.shape
    axes = jnp.zeros_like(means, shape=(k, d, d)) + jnp.eye(d, dtype=means.dtype)[None]
    if covariances.ndim < 3:
        variances = covariances.reshape(len(covariances), -1)
    elif kind == "full":
        variances, vectors = jnp.linalg.eigh((covariances + covariances.mT) / 2)
        axes = jnp.broadcast_to(vectors, axes.shape)
    else:
        variances = jnp.diagonal(covariances, axis1=1, axis2=2)
    variances = jnp.maximum(jnp.broadcast_to(variances, means.shape), least)
    weights = start.weights / jnp.sum(start.weights)
    return _Parameters(weights, means - mean[None, :], axes, variances)


def _step(
    now: _Parameters, *, blocks: Blocks, kind: str, is_shared: bool, least: Array
) -> tuple[_Parameters, Array]:
    """One step of EM, and the mean log-likelihood before it."""
    sums = lax.map(functools.partial(_expectation, now, kind), blocks)
    shares, first, second, value = jax.tree.map(lambda a: jnp.sum(a, axis=0), sums)
    safe = jnp.where(shares > 0, shares, 1)
    shift = first / safe[:, None]
    if kind == "full":
        scatter = second / safe[:, None, None] - shift[:, :, None] * shift[:, None, :]
    else:
        scatter = second / safe[:, None] - shift**2
        if kind == "isotropic":
            scatter = jnp.zeros_like(scatter) + jnp.mean(scatter, axis=1, keepdims=True)
    if is_shared:
        mean = jnp.tensordot(shares, scatter, 1, precision="highest")
        scatter = jnp.zeros_like(scatter) + (mean / jnp.sum(shares))[None]
    axes, variances = now.axes, scatter
    if kind == "full":
        variances, axes = jnp.linalg.eigh((scatter + scatter.mT) / 2)
    variances = jnp.maximum(variances, least)
    total = jnp.sum(shares)
    return _Parameters(shares / total, now.means + shift, axes, variances), value


def _expectation(now: _Parameters, kind: str, block: Blocks) -> tuple[Array, ...]:
    """Sums over the points of a block, each weighted by mass and responsibility.

    Of one, of x - m and of its square, where m is the mean of a component so far, so
    that little cancels; and of the log-likelihood.
    """
    delta = block.x[None] - now.means[:, :, None]  # (k, d, rows)
    white = delta
    if kind == "full":
        white = jnp.matmul(now.axes.mT, delta, precision="highest")
    logs = -0.5 * jnp.sum(white**2 / now.variances[:, :, None], axis=1)
    constants = jnp.log(2 * math.pi * now.variances)
    logs = logs + (jnp.log(now.weights) - 0.5 * jnp.sum(constants, axis=1))[:, None]
    log_density = jax.nn.logsumexp(logs, axis=0)
    own = jnp.exp(logs - log_density[None, :]) * block.mass[None, :]
    first = jnp.matmul(delta, own[:, :, None], precision="highest")[:, :, 0]
    weighted = own[:, None, :] * delta
    if kind == "full":
        second = jnp.matmul(weighted, delta.mT, precision="highest")
    else:
        second = jnp.sum(weighted * delta, axis=2)
    value = jnp.vdot(block.mass, log_density, precision="highest")
    return jnp.sum(own, axis=1), first, second, value
