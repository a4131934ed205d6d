"""Mixtures of Gaussians, and the inner product of two Gaussians in closed form."""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard

from .pair_sums import Side, log_sum_of_pairs

_UNROLLED = 8  # coordinates: up to here sums over them are written out
_UNROLLED_MATRIX = 3  # likewise of a factorisation


class GaussianMixture(eqx.Module):
    """A mixture of Gaussians, p(x) = sum over i of w_i N(x; mean_i, covariance_i).

    The rank of `covariances` tells their kind, and a leading axis of 1 that all
    components share one. The leaves are the three arrays: the mixture can be jitted,
    differentiated, trained with optax, and sharded along its components.

    Args:
        means: centres of the components, `(k, d)`.
        covariances: variances of isotropic components, `(k,)` or `(1,)`; of each
            coordinate, `(k, d)` or `(1, d)`; or symmetric, positive definite matrices,
            `(k, d, d)` or `(1, d, d)`. In units of the points squared.
        weights: masses, `(k,)`, any finite numbers: they need not sum to one, and
            inner products accept negative ones. None: 1/k each.

    Raises:
        ValueError: shapes that do not fit; values that are not finite; variances that
            are not positive; matrices that are not symmetric, positive definite;
            weights that are all zero. Values are looked at unless they are traced.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.mixtures import GaussianMixture
        >>> p = GaussianMixture(jnp.array([[0.0], [4.0]]), jnp.array([1.0]))
        >>> print(p.weights)
        [0.5 0.5]
        >>> print(p.log_prob(jnp.array([2.0])).round(4))  # log N(2; 0, 1)
        -2.9189
    """

    means: Float[Array, "k d"]
    covariances: Float[Array, "..."]
    weights: Float[Array, " k"]

    def __init__(
        self,
        means: ArrayLike,
        covariances: ArrayLike,
        weights: ArrayLike | None = None,
    ):
        named = [("means", means), ("covariances", covariances)]
        if weights is not None:
            named.append(("weights", weights))
        means, covariances, *given = _checks.common_float(*named)
        weights = given[0] if given else uniform_weights(means)
        _checks.check_mixture(means, covariances, weights)
        self.means, self.covariances, self.weights = means, covariances, weights

    def items(self) -> tuple[Any, Callable[[Any, Any], Array]]:
        """The components, and the log-kernel of their inner products (see `l2`)."""
        return (self.means, self.covariances), log_gaussian_product

    def log_prob(self, x: ArrayLike) -> Float[Array, ""]:
        """The logarithm of the density at one point, `(d,)`.

        Many points by `jax.vmap`, or by `jax.lax.map` with a `batch_size` where points
        times components are too many numbers to hold.

        Of the density as it stands: weights that sum to s add log s. Finite, with
        finite gradients, however far the point is. Differentiable in the point and in
        all leaves.

        Raises:
            ValueError: a point of the wrong shape; negative weights.
        """
        return _log_prob(self, x)

    def sample(self, key: PRNGKeyArray, num: int) -> Float[Array, "num d"]:
        """Independent samples; a component is taken with its share of the weights.

        Differentiable in means and covariances; the choice of the components is held
        constant.

        Args:
            key: a PRNG key.
            num: how many.

        Raises:
            ValueError: negative weights; `num` < 1.
        """
        _checks.check_key("key", key)
        return _sample(self, key, num)


def kernel_density(
    points: ArrayLike,
    bandwidth: int | float | ArrayLike,
    *,
    weights: ArrayLike | None = None,
) -> GaussianMixture:
    """The kernel density estimate of a cloud: one Gaussian around each point.

    Differentiable in all three arguments.

    Args:
        points: the cloud, `(n, d)`; the mixture takes its dtype.
        bandwidth: the standard deviation of each Gaussian, in units of the points. The
            product of two equal kernels is exp(-|x - y|^2 / s^2) with the scale s = 2
            `bandwidth`, which some authors call the bandwidth.
        weights: masses of the points, `(n,)`, used as they are. None: 1/n each.

    Raises:
        ValueError: a cloud that is empty or of the wrong shape; a bandwidth that is not
            positive, or whose square is too small or too large for the dtype; weights
            that do not fit; values that are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.mixtures import kernel_density, l2_divergence
        >>> x = jnp.array([[0.0, 0.0], [1.0, 0.0]])
        >>> p, q = kernel_density(x, 0.5), kernel_density(x + 9, 0.5)
        >>> print(f"{l2_divergence(p, q):.3f}")
        0.435
    """
    points = _checks.as_float("points", points)
    _checks.check_points("points", points)
    bandwidth = _checks.as_float("bandwidth", bandwidth).astype(points.dtype)
    _checks.check_width("bandwidth", bandwidth)
    _checks.check_square("bandwidth", bandwidth)
    if weights is not None:
        weights = _checks.as_float("weights", weights).astype(points.dtype)
    return GaussianMixture(points, (bandwidth**2)[None], weights)


def uniform_weights(rows: Array) -> Array:
    """1/k for each of k rows; one weight for an array that a check will refuse."""
    num = rows.shape[0] if rows.ndim == 2 and rows.shape[0] > 0 else 1
    return jnp.full_like(rows, 1 / num, shape=(num,))


def choose_components(key: PRNGKeyArray, weights: Array, num: int) -> Array:
    """Indices of components, each with its share of the weights."""
    share = jax.lax.stop_gradient(weights / jnp.sum(weights))
    return jr.choice(key, len(share), (num,), p=share)


# --- inner products ----------------------------------------------------------------


def log_gaussian_product(left: Any, right: Any) -> Array:
    """The logarithm of the integral of two Gaussians' product, N(m - n; 0, S + T).

    Each is (mean, covariance): means are (d,); covariances () for isotropic, (d,) for
    diagonal, (d, d) for full ones, and the two may be of different kinds.
    """
    (mean, cov), (other_mean, other_cov) = left, right
    covs = (cov, other_cov)
    dim, rank = mean.shape[0], max(cov.ndim, other_cov.ndim)
    if rank == 0:
        total = cov + other_cov
        distance = squared_distance(mean, other_mean)
        return -(dim * _log_normaliser(total) + distance / total) / 2
    if rank == 1 and dim > _UNROLLED:
        total = cov + other_cov
        return -jnp.sum(_log_normaliser(total) + (mean - other_mean) ** 2 / total) / 2
    if rank == 1 or dim <= _UNROLLED_MATRIX:
        return _unrolled(mean, other_mean, covs, is_full=rank == 2)
    factor = jnp.linalg.cholesky(sum(_matrix(c, dim) for c in covs))
    white = jax.scipy.linalg.solve_triangular(factor, mean - other_mean, lower=True)
    return -jnp.sum(_log_normaliser(jnp.diagonal(factor) ** 2) + white**2) / 2


def squared_distance(x: Array, y: Array) -> Array:
    """|x - y|^2, written out in few dimensions.

    Coordinates are taken apart before anything is computed: for all pairs of many
    points, the compiler would otherwise form their differences as an array with a short
    last axis, and be seven times slower.
    """
    if x.shape[0] > _UNROLLED:
        return jnp.sum((x - y) ** 2)
    return _total([(x[i] - y[i]) ** 2 for i in range(x.shape[0])])


def dot_product(x: Array, y: Array) -> Array:
    """The inner product of two vectors, written out like `squared_distance`."""
    if x.shape[0] > _UNROLLED:
        return jnp.sum(x * y)
    return _total([x[i] * y[i] for i in range(x.shape[0])])


def _total(terms: list[Array]) -> Array:
    return functools.reduce(operator.add, terms)


def squared_norm(x: Array) -> Array:
    """|x|^2, written out like `squared_distance`."""
    return dot_product(x, x)


def _log_normaliser(variance: Array) -> Array:
    return jnp.log(2 * math.pi * variance)


def _unrolled(x: Array, y: Array, covs: tuple[Array, Array], *, is_full: bool) -> Array:
    """By the factorisation L D L^T of the sum, coordinate by coordinate."""
    factor, pivots, white = {}, [], []
    for i in range(x.shape[0]):
        pivot, rest, row = _entry(covs, i, i), x[i] - y[i], []  # row[j] = L_ij D_j
        for j in range(i if is_full else 0):
            row.append(
                _entry(covs, i, j) - sum(factor[j, k] * row[k] for k in range(j))
            )
            factor[i, j] = row[j] / pivots[j]
            pivot -= factor[i, j] * row[j]
            rest -= factor[i, j] * white[j]
        pivots.append(pivot)
        white.append(rest)
    terms = [_log_normaliser(p) + w**2 / p for p, w in zip(pivots, white, strict=True)]
    return -_total(terms) / 2


def _entry(covs: tuple[Array, Array], i: int, j: int) -> Any:
    """One entry of the sum of two covariances; gradients come out symmetric."""
    entries = []
    for cov in covs:
        if cov.ndim == 2:
            entries.append(cov[i, i] if i == j else (cov[i, j] + cov[j, i]) / 2)
        elif i == j:
            entries.append(cov[i] if cov.ndim else cov)
    return _total(entries)


def _matrix(cov: Array, dim: int) -> Array:
    """A covariance of any kind as a matrix."""
    if cov.ndim == 2:
        return (cov + cov.T) / 2
    diagonal = cov[:, None] if cov.ndim else cov
    return jnp.eye(dim, dtype=cov.dtype) * diagonal


# --- density and samples -----------------------------------------------------------


@explicit_mesh_guard
def _log_prob(mixture: GaussianMixture, x: ArrayLike) -> Array:
    """A point is a Gaussian without variance: the density is an inner product."""
    leaves = jax.tree.leaves(mixture)
    x, *leaves = _checks.common_float(("x", x), *(("leaf", leaf) for leaf in leaves))
    means, covariances, weights = leaves
    _checks.check_event("x", x, means.shape[1:])
    _checks.check_signed_weights("weights", weights, len(weights), positive=True)
    dtype, work = x.dtype, _checks.working_dtype(x.dtype)
    x, means, covariances, weights = (
        a.astype(work) for a in (x, means, covariances, weights)
    )
    point = Side((x[None], jnp.zeros_like(x, shape=(1,))), jnp.ones_like(x, shape=(1,)))
    components = Side((means, covariances), weights)
    return log_sum_of_pairs(log_gaussian_product, point, components).astype(dtype)


@explicit_mesh_guard
def _sample(mixture: GaussianMixture, key: PRNGKeyArray, num: int) -> Array:
    _checks.check_count("num", num)
    weights = mixture.weights
    _checks.check_signed_weights("weights", weights, len(weights), positive=True)
    work = _checks.working_dtype(weights.dtype)
    choose, draw = jr.split(key)
    index = choose_components(choose, weights.astype(work), num)
    dim = mixture.means.shape[1]
    noise = jr.normal(draw, (num, dim), work)
    covariances = mixture.covariances.astype(work)
    if covariances.ndim == 3:
        covariances = (covariances + covariances.mT) / 2
        factors = jnp.linalg.cholesky(covariances)
        own = factors[index] if len(factors) > 1 else factors
        noise = jnp.sum(own * noise[:, None, :], axis=-1)
    else:
        deviations = jnp.sqrt(covariances).reshape(len(covariances), -1)
        own = deviations[index] if len(deviations) > 1 else deviations
        noise = own * noise
    return (mixture.means[index].astype(work) + noise).astype(mixture.means.dtype)
