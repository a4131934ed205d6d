"""The triangular map that makes a mixture of Gaussians one standard normal law."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import log_ndtr, logsumexp, ndtri
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks
from transportjax._sharding import varying_alike
from transportjax.mixtures import GaussianMixture

from .bijection import AbstractBijection, as_leaf, at_least_float32, evaluate

_HALVINGS, _NEWTON_STEPS = 24, 4  # of the inverse, along each coordinate
_LOG_2PI = math.log(2 * math.pi)


class GaussianMixtureMap(AbstractBijection):
    """The Knothe-Rosenblatt map of a Gaussian mixture: what it makes of it is N(0, I).

        y_i = Phi^-1(F(x_i | x_1, ..., x_(i-1))),    i = 1, ..., d.

    Given the coordinates before it, a coordinate has a mixture of normal laws on the
    line, whose distribution function F is known in closed form. So `Flow(map, d)` has
    exactly the density of the mixture, and the map is increasing and triangular: the
    image of a coordinate depends on those before it only.

    The inverse finds each coordinate by bisection and Newton's method, to rounding. All
    goes through logarithms, so that nothing under- or overflows far out. Memory is that
    of the events, whatever the number of components.

    Differentiable in the event and in all leaves, the inverse once. The leaves can be
    trained: the weights are a softmax, and only what lies below the diagonal of
    `shears` counts.

    Args:
        log_weights: logarithms of the masses of the components, up to a constant, (k,).
        means: (k, d).
        shears: matrices U, (k, d, d), of which the part below the diagonal counts: in
            component j the mean of x_i, given those before it, is
            means_ji - sum_(l < i) U_jil (x_l - means_jl).
        log_scales: logarithms of the standard deviations of x_i, given those before it,
            (k, d).

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.flows import Flow
        >>> from transportjax.maps import GaussianMixtureMap
        >>> from transportjax.mixtures import GaussianMixture
        >>> p = GaussianMixture(jnp.array([[0.0, 0.0], [4.0, 1.0]]), jnp.array([1.0]))
        >>> map = GaussianMixtureMap.from_mixture(p)
        >>> x = jnp.array([2.0, 0.5])
        >>> print(Flow(map, 2).log_prob(x).round(4), p.log_prob(x).round(4))
        -3.9629 -3.9629

    References:
        Rosenblatt (1952), "Remarks on a multivariate transformation".
        Villani (2009), "Optimal transport, old and new", chapter 1, the Knothe-
        Rosenblatt rearrangement.
    """

    log_weights: Float[Array, " k"]
    means: Float[Array, "k d"]
    shears: Float[Array, "k d d"]
    log_scales: Float[Array, "k d"]

    def __init__(
        self,
        log_weights: ArrayLike,
        means: ArrayLike,
        shears: ArrayLike,
        log_scales: ArrayLike,
    ):
        leaves = map(as_leaf, (log_weights, means, shears, log_scales))
        self.log_weights, self.means, self.shears, self.log_scales = leaves
        _checks.check_mixture_map(
            self.log_weights, self.means, self.shears, self.log_scales
        )

    @classmethod
    def from_mixture(cls, mixture: GaussianMixture) -> "GaussianMixtureMap":
        """The map of a mixture with covariances of any kind and weights >= 0.

        Differentiable in its leaves.

        Raises:
            ValueError: something else than a Gaussian mixture; negative weights.
        """
        _checks.check_kind("mixture", mixture, GaussianMixture)
        masses = mixture.weights
        name = "mixture.weights"
        _checks.check_signed_weights(name, masses, len(masses), positive=True)
        leaves = (masses, mixture.means, mixture.covariances)
        weights, means, covariances = at_least_float32(*leaves)
        xnp = jnp
        if all(map(_checks.is_on_host, leaves)):  # nothing to compile
            weights, covariances, xnp = np.asarray(weights), np.asarray(covariances), np
        used = weights > 0
        logs = xnp.log(xnp.where(used, weights, 1))
        logs = xnp.where(used, logs, _none(logs.dtype))
        shears, log_scales = _factorised(covariances, means.shape)
        return cls(logs, means, shears, log_scales)

    def to_mixture(self) -> GaussianMixture:
        """The mixture that the map makes normal, with full covariances."""
        eye = jnp.eye(self.means.shape[1], dtype=self.means.dtype)
        unit = jnp.tril(self.shears, -1) + eye[None]
        inverse = jax.scipy.linalg.solve_triangular(
            unit, jnp.zeros_like(unit) + eye[None], lower=True, unit_diagonal=True
        )
        factor = inverse * jnp.exp(self.log_scales)[:, None, :]
        covariances = jnp.matmul(factor, factor.mT, precision="highest")
        weights = jax.nn.softmax(self.log_weights)
        return GaussianMixture(self.means, (covariances + covariances.mT) / 2, weights)

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The image and the log-determinant."""
        return evaluate(GaussianMixtureMap._forward, self, x, self.means.shape[1:])

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The event with that image, and the log-determinant."""
        return evaluate(GaussianMixtureMap._backward, self, y, self.means.shape[1:])

    def _forward(self, x: Array) -> tuple[Array, Array]:
        """One component after the other adds to the masses below and above."""

        def add(masses: tuple, component: tuple) -> tuple[tuple, None]:
            log_weight, mean, shear, log_scale = component
            gaps = x - mean
            before = jnp.matmul(jnp.tril(shear, -1), gaps, precision="highest")
            white = (gaps + before) * jnp.exp(-log_scale)
            logs = log_normal(white) - log_scale
            # not by a difference, in which the weight would be lost far out
            shifted = jnp.concatenate([jnp.zeros_like(logs[:1]), logs[:-1]])
            prior = log_weight + jnp.cumsum(shifted)
            total = prior + logs
            terms = (prior + log_ndtr(white), prior + log_ndtr(-white), prior, total)
            return tuple(map(jnp.logaddexp, masses, terms)), None

        nothing = jnp.zeros_like(x) + _none(x.dtype)
        components = (self.log_weights, self.means, self.shears, self.log_scales)
        start = (nothing, nothing, nothing, nothing)
        (below, above, prior, total), _ = lax.scan(add, start, components)
        y = quantile_of_logs(below - prior, above - prior)
        return y, jnp.sum(total - prior - log_normal(y))

    def _backward(self, y: Array) -> tuple[Array, Array]:
        """One coordinate after the other."""

        def coordinate(carry: tuple, row: tuple) -> tuple[tuple, tuple]:
            gaps, log_weights = carry  # the gaps of coordinates to come are zero
            image, mean, shear, log_scale, place = row
            law = (mean - jnp.sum(shear * gaps, axis=1), log_scale, log_weights)
            value = _quantile(image, law)
            gaps = gaps + (value - mean)[:, None] * place[None, :]
            logs = log_normal((value - law[0]) * jnp.exp(-log_scale)) - log_scale
            log_density = logsumexp(log_weights + logs) - logsumexp(log_weights)
            log_slope = log_density - log_normal(image)
            return (gaps, log_weights + logs), (value, log_slope)

        leaves = (self.log_weights, self.means, self.shears, self.log_scales)
        y, log_weights, means, shears, log_scales = varying_alike((y, *leaves))
        shears = jnp.tril(shears, -1).swapaxes(0, 1)
        rows = (y, means.T, shears, log_scales.T, jnp.eye(len(y), dtype=y.dtype))
        start = (jnp.zeros_like(means), log_weights)
        _, (x, log_slopes) = lax.scan(coordinate, start, rows)
        return x, -jnp.sum(log_slopes)


def _factorised(
    covariances: Array | np.ndarray, shape: tuple[int, ...]
) -> tuple[Any, Any]:
    """The inverse of the unit factor of L D L^T, and log D / 2, of each component."""
    k, d = shape
    dtype = covariances.dtype
    if covariances.ndim < 3:
        diagonal = covariances.reshape(len(covariances), -1)
        scales = jnp.log(jnp.broadcast_to(diagonal, shape)) / 2
        return jnp.zeros((k, d, d), dtype), scales
    if isinstance(covariances, np.ndarray):
        symmetric = covariances.astype(np.float64)
        factor = np.linalg.cholesky((symmetric + symmetric.swapaxes(1, 2)) / 2)
        scales = np.diagonal(factor, axis1=1, axis2=2)
        shears = np.linalg.inv(factor / scales[:, None, :]).astype(dtype)
        log_scales = np.log(scales).astype(dtype)
        return np.broadcast_to(shears, (k, d, d)), np.broadcast_to(log_scales, shape)
    factor = jnp.linalg.cholesky((covariances + covariances.mT) / 2)
    scales = jnp.diagonal(factor, axis1=1, axis2=2)
    eye = jnp.zeros_like(factor) + jnp.eye(d, dtype=dtype)[None]
    shears = jax.scipy.linalg.solve_triangular(
        factor / scales[:, None, :], eye, lower=True, unit_diagonal=True
    )
    shears = jnp.broadcast_to(shears, (k, d, d))
    return shears, jnp.broadcast_to(jnp.log(scales), shape)


# --- a mixture on the line: (means, logarithms of scales and of weights), (k,) each --


def _quantile(image: Array, law: tuple) -> Array:
    """The t with Phi^-1(F(t)) = image; a last step of Newton's has the derivatives."""
    found = lax.stop_gradient(_root(*lax.stop_gradient((image, law))))
    value, slope = _excess(found, image, law)
    return found - value / lax.stop_gradient(slope)


def _excess(t: Array, image: Array, law: tuple) -> tuple[Array, Array]:
    """By how much log F(t) is above log Phi(image), and its derivative in t.

    Or the same of 1 - F and 1 - Phi, of which the smaller one counts.
    """
    means, log_scales, log_weights = law
    sign = jnp.where(image > 0, -1, 1).astype(image.dtype)
    white = (t - means) * jnp.exp(-log_scales)
    goal = log_ndtr(sign * image) + logsumexp(log_weights)
    mass = logsumexp(log_weights + log_ndtr(sign * white))
    density = logsumexp(log_weights + log_normal(white) - log_scales)
    return mass - goal, sign * jnp.exp(density - mass)


def _root(image: Array, law: tuple) -> Array:
    """By bisection, then Newton's method."""
    means, log_scales, log_weights = law

    def halve(_: Any, ends: tuple) -> tuple:
        low, high = ends
        middle = low + (high - low) / 2
        value, slope = _excess(middle, image, law)
        is_beyond = jnp.where(image > 0, value < 0, value > 0)
        return jnp.where(is_beyond, low, middle), jnp.where(is_beyond, middle, high)

    def newton(_: Any, t: Array) -> Array:
        value, slope = _excess(t, image, law)
        step = jnp.clip(t - value / slope, low, high)
        return jnp.where(jnp.isfinite(step), step, t)

    # one component alone would have it here; all together have it between
    ends = means + jnp.exp(log_scales) * image
    used = log_weights > _none(image.dtype) / 2
    low = jnp.min(jnp.where(used, ends, jnp.inf))
    high = jnp.max(jnp.where(used, ends, -jnp.inf))
    low, high = lax.fori_loop(0, _HALVINGS, halve, (low, high))
    return lax.fori_loop(0, _NEWTON_STEPS, newton, low + (high - low) / 2)


# --- the normal law in logarithms --------------------------------------------------


def log_normal(z: Array) -> Array:
    """The log-density of N(0, 1)."""
    return -(z * z) / 2 - _LOG_2PI / 2


def quantile_of_logs(below: Array, above: Array) -> Array:
    """Phi^-1(u) from log u and log(1 - u), of which the smaller one counts."""
    is_low = below < above
    lower = _lower_quantile(jnp.where(is_low, below, above))
    return jnp.where(is_low, lower, -lower)


@jax.custom_jvp
def _lower_quantile(log_mass: Array) -> Array:
    """Phi^-1(e^v) for v <= log 1/2, by Newton's method on log Phi."""
    far = -12.0  # Phi(-4.4): from here on the asymptotic form is a good start
    near = ndtri(jnp.exp(jnp.maximum(log_mass, far)))
    square = -2 * jnp.minimum(log_mass, far) - _LOG_2PI
    z = jnp.where(log_mass > far, near, -jnp.sqrt(square - jnp.log(square)))
    for _ in range(2):
        log_phi = log_ndtr(z)
        z = z - (log_phi - log_mass) * jnp.exp(log_phi - log_normal(z))
    return z


@_lower_quantile.defjvp
def _lower_quantile_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """The derivative is Phi(z) / phi(z)."""
    (log_mass,), (tangent,) = primals, tangents
    z = _lower_quantile(log_mass)
    return z, jnp.exp(log_mass - log_normal(z)) * tangent


def _none(dtype: Any) -> float:
    """The logarithm of no mass: finite, so that derivatives are."""
    return float(jnp.finfo(dtype).min) / 4
