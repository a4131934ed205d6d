"""Mixtures on positions and directions: points of a surface with their normals."""

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

from .gaussian import (
    GaussianMixture,
    choose_components,
    log_gaussian_product,
    uniform_weights,
)
from .oriented_tiles import oriented_sum
from .pair_sums import Side, log_sum_of_pairs
from .von_mises_fisher import (
    VonMisesFisherMixture,
    draw_directions,
    fisher_items,
    log_axis_density,
    log_axis_product,
    log_fisher_density,
    log_fisher_product,
    unit_rows,
)


class OrientedMixture(eqx.Module):
    """A mixture on R^d x sphere: a Gaussian of the position times one of the direction.

    p(x, u) = sum over i of w_i N(x; mean_i, variance_i I) f(u; direction_i, kappa_i),
    with the von Mises-Fisher density f. The inner product of two components is the
    product of those of their factors, so that points pull only at points whose normals
    agree. The leaves are the five arrays.

    The wider the Gaussians, the less should the directions count: annealing halves the
    bandwidth and multiplies the concentration by four, both being inverse variances.

    Args:
        means: positions, `(k, d)`, d >= 2.
        covariances: variances of the isotropic Gaussians, `(k,)`, or `(1,)` if all
            share one; in units of the positions squared.
        directions: unit rows, `(k, d)`.
        concentrations: kappa >= 0, `(k,)` or `(1,)`. 0 ignores the directions.
        weights: masses, `(k,)`, any finite numbers. None: 1/k each.
        symmetric: whether u and -u are alike: normals whose sign is unknown.

    Raises:
        ValueError: as `GaussianMixture` and `VonMisesFisherMixture`; positions and
            directions of different shapes; covariances that are not isotropic.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.mixtures import OrientedMixture, overlap
        >>> x, n = jnp.zeros((1, 3)), jnp.array([[0.0, 0.0, 1.0]])
        >>> width, kappa = jnp.array([1.0]), jnp.array([5.0])
        >>> p = OrientedMixture(x, width, n, kappa)
        >>> same = overlap(p, OrientedMixture(x, width, n, kappa))
        >>> turned = overlap(p, OrientedMixture(x, width, -n, kappa))
        >>> print((turned / same).round(4))
        0.0009

    References:
        Grogan and Dahyot (2018), Shape registration with directional data.
    """

    means: Float[Array, "k d"]
    covariances: Float[Array, " _"]
    directions: Float[Array, "k d"]
    concentrations: Float[Array, " _"]
    weights: Float[Array, " k"]
    symmetric: bool = eqx.field(static=True)

    def __init__(
        self,
        means: ArrayLike,
        covariances: ArrayLike,
        directions: ArrayLike,
        concentrations: ArrayLike,
        weights: ArrayLike | None = None,
        *,
        symmetric: bool = False,
    ):
        named = [
            ("means", means),
            ("covariances", covariances),
            ("directions", directions),
            ("concentrations", concentrations),
        ]
        if weights is not None:
            named.append(("weights", weights))
        means, covariances, directions, concentrations, *given = _checks.common_float(
            *named
        )
        weights = given[0] if given else uniform_weights(means)
        _checks.check_mixture(means, covariances, weights)
        _checks.check_directional(directions, concentrations)
        _checks.check_oriented(means, covariances, directions)
        self.means, self.covariances = means, covariances
        self.directions, self.concentrations = directions, concentrations
        self.weights, self.symmetric = weights, bool(symmetric)

    def positions(self) -> GaussianMixture:
        """The mixture of the positions alone, whatever the directions."""
        return GaussianMixture(self.means, self.covariances, self.weights)

    def orientations(self) -> VonMisesFisherMixture:
        """The mixture of the directions alone: no translation changes it."""
        return VonMisesFisherMixture(
            self.directions,
            self.concentrations,
            self.weights,
            symmetric=self.symmetric,
        )

    def items(self) -> tuple[Any, Callable[[Any, Any], Array]]:
        """The components, and the log-kernel of their inner products (see `l2`)."""
        directional = fisher_items(self.directions, self.concentrations)
        components = (self.means, self.covariances), directional
        kernel = _log_axial_product if self.symmetric else _log_oriented_product
        return components, kernel

    def log_prob(self, x: ArrayLike, u: ArrayLike) -> Float[Array, ""]:
        """The logarithm of the density at a position and a unit vector, `(d,)` each.

        Of the density as it stands: weights that sum to s add log s. Differentiable in
        both and in all leaves.

        Raises:
            ValueError: a wrong shape; a direction not of norm 1; negative weights.
        """
        return _log_prob(self, x, u)

    def sample(
        self, key: PRNGKeyArray, num: int
    ) -> tuple[Float[Array, "num d"], Float[Array, "num d"]]:
        """Independent samples: positions and directions.

        Differentiable like those of `GaussianMixture` and `VonMisesFisherMixture`.

        Args:
            key: a PRNG key.
            num: how many.

        Raises:
            ValueError: negative weights; `num` < 1.
        """
        _checks.check_key("key", key)
        return _sample(self, key, num)


def has_tiles(p: OrientedMixture, q: OrientedMixture) -> bool:
    """Whether `overlap_by_tiles` can do it: all is shared, and the space has three."""
    leaves = p.covariances, p.concentrations, q.covariances, q.concentrations
    return p.means.shape[1] == 3 and all(len(leaf) == 1 for leaf in leaves)


@jax.jit
def overlap_by_tiles(p: OrientedMixture, q: OrientedMixture) -> Array:
    """<p, q>, several times faster than by the log-kernel."""
    left, right = (Side(mixture.items()[0], mixture.weights) for mixture in (p, q))
    value = oriented_sum(_log_oriented_product, left, right)
    if not p.symmetric:
        return value
    position, (n, *rest) = right.items
    turned = Side((position, (-n, *rest)), right.weights)
    return (value + oriented_sum(_log_oriented_product, left, turned)) / 2


def _log_oriented_product(left: Any, right: Any) -> Array:
    return log_gaussian_product(left[0], right[0]) + log_fisher_product(
        left[1], right[1]
    )


def _log_axial_product(left: Any, right: Any) -> Array:
    return log_gaussian_product(left[0], right[0]) + log_axis_product(left[1], right[1])


def _log_oriented_density(event: Any, component: Any) -> Array:
    """A position is a Gaussian without variance."""
    return log_gaussian_product(event[0], component[0]) + log_fisher_density(
        event[1], component[1]
    )


def _log_axial_density(event: Any, component: Any) -> Array:
    return log_gaussian_product(event[0], component[0]) + log_axis_density(
        event[1], component[1]
    )


@explicit_mesh_guard
def _log_prob(mixture: OrientedMixture, x: ArrayLike, u: ArrayLike) -> Array:
    leaves, tree = jax.tree.flatten(mixture)
    named = [("leaf", leaf) for leaf in leaves]
    x, u, *leaves = _checks.common_float(("x", x), ("u", u), *named)
    _checks.check_event("x", x, mixture.means.shape[1:])
    _checks.check_event("u", u, mixture.means.shape[1:])
    _checks.check_on_sphere("u", u[None])
    weights = mixture.weights
    _checks.check_signed_weights("weights", weights, len(weights), positive=True)
    dtype, work = x.dtype, _checks.working_dtype(x.dtype)
    x, u, *leaves = (a.astype(work) for a in (x, u, *leaves))
    mixture = jax.tree.unflatten(tree, leaves)
    position = x[None], (0 * x)[:1]
    event = Side((position, unit_rows(u[None])), 1 + (0 * x)[:1])
    density = _log_axial_density if mixture.symmetric else _log_oriented_density
    components = Side(mixture.items()[0], mixture.weights)
    return log_sum_of_pairs(density, event, components).astype(dtype)


@explicit_mesh_guard
def _sample(
    mixture: OrientedMixture, key: PRNGKeyArray, num: int
) -> tuple[Array, Array]:
    _checks.check_count("num", num)
    weights = mixture.weights
    _checks.check_signed_weights("weights", weights, len(weights), positive=True)
    dtype, work = weights.dtype, _checks.working_dtype(weights.dtype)
    mixture = jax.tree.map(lambda leaf: leaf.astype(work), mixture)
    choose, shift, turn = jr.split(key, 3)
    index = choose_components(choose, mixture.weights, num)
    deviations = jnp.sqrt(mixture.covariances)
    own = deviations[index] if len(deviations) > 1 else deviations
    means = mixture.means[index]
    positions = means + own[:, None] * jr.normal(shift, means.shape, work)
    directions = draw_directions(
        turn,
        mixture.directions,
        mixture.concentrations,
        index,
        symmetric=mixture.symmetric,
    )
    return positions.astype(dtype), directions.astype(dtype)
