"""Mixtures of von Mises-Fisher densities, the Gaussians of directions.

The density of one component around the unit vector m, with concentration kappa, is

    f(u) = C_d(kappa) exp(kappa m.u),        u on the unit sphere of R^d,

and the inner product of two is known in closed form,

    <f, g> = C_d(kappa) C_d(lambda) / C_d(R),      R = |kappa m + lambda n|.

`log_mass` of `bessel`, h, has kappa split off: log C_d(kappa) = -kappa - h(kappa). What
remains of the concentrations is then free of the difference of large numbers,

    kappa + lambda - R = kappa lambda |m - n|^2 / (kappa + lambda + R).

References:
    Mardia and Jupp (2000), Directional statistics, section 9.3.
    Grogan and Dahyot (2018), Shape registration with directional data.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard

from .bessel import bessel_ratio, log_mass, resultant_deficit
from .gaussian import choose_components, squared_norm, uniform_weights
from .pair_sums import Side, log_sum_of_pairs

_MOST_ROUNDS = 200  # of rejection; each accepts 65 % or more


class VonMisesFisherMixture(eqx.Module):
    """A mixture of von Mises-Fisher densities on the unit sphere of R^d, d >= 2.

    The leaves are the three arrays: the mixture can be jitted, differentiated, trained
    with optax, and sharded along its components. Directions are divided by their norm
    where they are used, so that a step of an optimiser needs no projection.

    Args:
        directions: the mean direction of each component, unit rows `(k, d)`.
        concentrations: kappa >= 0 of each component, `(k,)`, or `(1,)` if all share
            one. 0 is the uniform density; 1 / kappa is about the variance along each
            tangent of a concentrated one, in radians squared.
        weights: masses, `(k,)`, any finite numbers: they need not sum to one, and inner
            products accept negative ones. None: 1/k each.
        symmetric: whether a component is (f(u) + f(-u)) / 2, for axes: normals whose
            sign is unknown.

    Raises:
        ValueError: shapes that do not fit; rows that are not of norm 1; negative
            concentrations; values that are not finite; weights that are all zero.
            Values are looked at unless they are traced.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.mixtures import VonMisesFisherMixture, l2_divergence
        >>> p = VonMisesFisherMixture(jnp.eye(3), jnp.array([10.0]))
        >>> print(f"{p.log_prob(jnp.array([0.0, 1.0, 0.0])):.4f}")
        -0.6338
        >>> q = VonMisesFisherMixture(-jnp.eye(3), jnp.array([10.0]))
        >>> print(f"{l2_divergence(p, q):.4f}")
        0.5305
    """

    directions: Float[Array, "k d"]
    concentrations: Float[Array, " _"]
    weights: Float[Array, " k"]
    symmetric: bool = eqx.field(static=True)

    def __init__(
        self,
        directions: ArrayLike,
        concentrations: ArrayLike,
        weights: ArrayLike | None = None,
        *,
        symmetric: bool = False,
    ):
        named = [("directions", directions), ("concentrations", concentrations)]
        if weights is not None:
            named.append(("weights", weights))
        directions, concentrations, *given = _checks.common_float(*named)
        weights = given[0] if given else uniform_weights(directions)
        _checks.check_directional(directions, concentrations, weights)
        self.directions, self.concentrations = directions, concentrations
        self.weights, self.symmetric = weights, bool(symmetric)

    def items(self) -> tuple[Any, Callable[[Any, Any], Array]]:
        """The components, and the log-kernel of their inner products (see `l2`)."""
        components = fisher_items(self.directions, self.concentrations)
        return components, log_axis_product if self.symmetric else log_fisher_product

    def log_prob(self, u: ArrayLike) -> Float[Array, ""]:
        """The logarithm of the density at one unit vector, `(d,)`; many by `jax.vmap`.

        Of the density as it stands: weights that sum to s add log s. Finite, with
        finite gradients, for any concentration. Differentiable in the point and in all
        leaves; the gradient in the point is tangent to the sphere.

        Raises:
            ValueError: a point of the wrong shape, or not of norm 1; negative weights.
        """
        return _log_prob(self, u)

    def sample(self, key: PRNGKeyArray, num: int) -> Float[Array, "num d"]:
        """Independent samples; a component is taken with its share of the weights.

        Differentiable in the directions, and for d = 3 in the concentrations; the
        choice of the components is held constant, and so are, for other d, the
        concentrations, because samples are chosen by rejection there.

        Args:
            key: a PRNG key.
            num: how many.

        Raises:
            ValueError: negative weights; `num` < 1.

        References:
            Wood (1994), Simulation of the von Mises Fisher distribution.
        """
        _checks.check_key("key", key)
        return _sample(self, key, num)


def unit_rows(x: Array) -> Array:
    """The rows of length one; a row of zeros stays, with a gradient of zero."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.where(square > 0, square, 1))


@jax.jit
def fisher_items(directions: Array, concentrations: Array) -> tuple[Array, ...]:
    """What the kernels take: unit directions, concentrations, and their `log_mass`."""
    mass = log_mass(concentrations, directions.shape[1])
    return unit_rows(directions), concentrations, mass


# --- inner products ----------------------------------------------------------------


def log_fisher_product(left: Any, right: Any) -> Array:
    """The logarithm of the inner product of two components."""
    (m, kappa, mass), (n, other, other_mass) = left, right
    return _log_product(m, kappa, n, other) - mass - other_mass


def log_axis_product(left: Any, right: Any) -> Array:
    """Likewise of two antipodally symmetric components."""
    (m, kappa, mass), (n, other, other_mass) = left, right
    both = jnp.logaddexp(
        _log_product(m, kappa, n, other), _log_product(m, kappa, -n, other)
    )
    return both - math.log(2) - mass - other_mass


@jax.custom_jvp
def _log_product(m: Array, kappa: Array, n: Array, other: Array) -> Array:
    """R - kappa - lambda + h(R)."""
    resultant = jnp.sqrt(squared_norm(kappa * m + other * n))
    total = kappa + other + resultant
    lost = kappa * other * squared_norm(m - n) / jnp.where(total > 0, total, 1)
    return log_mass(resultant, m.shape[0]) - lost


@functools.partial(_log_product.defjvp, symbolic_zeros=True)
def _log_product_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    """The derivatives, with rho(R^2) = A(R) / R, which is analytic also at R = 0.

    h(R) + R has the derivative A(R), so that with R^2 = (kappa + lambda)^2 - kappa
    lambda |m - n|^2 for unit vectors, and c = m.n,

        d/d|m - n|^2 = -kappa lambda rho / 2,    d/dkappa = rho (kappa + lambda c) - 1.

    The second would cancel where the vectors are nearly parallel. With
    a = kappa + lambda c > 0 it is -(1 - A(R)) - rho lambda^2 (1 - c^2) / (R + a).
    """
    m, kappa, n, other = primals
    dots = [None if isinstance(dot, SymbolicZero) else dot for dot in tangents]
    dim, distance = m.shape[0], squared_norm(m - n)
    square = squared_norm(kappa * m + other * n)
    rho = bessel_ratio(square, dim)
    tangent = jnp.zeros_like(square)
    for dot, sign in ((dots[0], 1), (dots[2], -1)):
        if dot is not None:
            moved = jax.jvp(squared_norm, (m - n,), (sign * dot,))[1]
            tangent = tangent - 0.5 * kappa * other * rho * moved

    def slope(kappa: Array, other: Array) -> Array:
        along = kappa + other * (1 - distance / 2)
        is_near = (along > 0) & (square > 0)
        resultant = jnp.sqrt(jnp.where(is_near, square, 1))
        across = (
            distance * (1 - distance / 4) / (resultant + jnp.where(is_near, along, 1))
        )
        near = resultant_deficit(resultant, dim) + rho * other**2 * across
        return jnp.where(is_near, -near, rho * along - 1)

    if dots[1] is not None:
        tangent = tangent + slope(kappa, other) * dots[1]
    if dots[3] is not None:
        tangent = tangent + slope(other, kappa) * dots[3]
    return _log_product(m, kappa, n, other), tangent


# --- density and samples -----------------------------------------------------------


def log_fisher_density(u: Any, component: Any) -> Array:
    """The logarithm of one component at a unit vector."""
    m, kappa, mass = component
    return -mass - 0.5 * kappa * squared_norm(u - m)


def log_axis_density(u: Any, component: Any) -> Array:
    """Likewise of an antipodally symmetric component."""
    m, kappa, mass = component
    both = jnp.logaddexp(
        log_fisher_density(u, component), log_fisher_density(-u, component)
    )
    return both - math.log(2)


@explicit_mesh_guard
def _log_prob(mixture: VonMisesFisherMixture, u: ArrayLike) -> Array:
    leaves = jax.tree.leaves(mixture)
    u, *leaves = _checks.common_float(("u", u), *(("leaf", leaf) for leaf in leaves))
    _checks.check_event("u", u, leaves[0].shape[1:])
    _checks.check_on_sphere("u", u[None])
    weights = leaves[2]
    _checks.check_signed_weights("weights", weights, len(weights), positive=True)
    dtype, work = u.dtype, _checks.working_dtype(u.dtype)
    u, directions, concentrations, weights = (a.astype(work) for a in (u, *leaves))
    point = Side(unit_rows(u[None]), jnp.ones_like(u, shape=(1,)))
    components = Side(fisher_items(directions, concentrations), weights)
    density = log_axis_density if mixture.symmetric else log_fisher_density
    return log_sum_of_pairs(density, point, components).astype(dtype)


@explicit_mesh_guard
def _sample(mixture: VonMisesFisherMixture, key: PRNGKeyArray, num: int) -> Array:
    _checks.check_count("num", num)
    weights = mixture.weights
    _checks.check_signed_weights("weights", weights, len(weights), positive=True)
    work = _checks.working_dtype(weights.dtype)
    choose, draw = jr.split(key)
    index = choose_components(choose, weights.astype(work), num)
    directions = mixture.directions.astype(work)
    concentrations = mixture.concentrations.astype(work)
    samples = draw_directions(
        draw, directions, concentrations, index, symmetric=mixture.symmetric
    )
    return samples.astype(weights.dtype)


@functools.partial(jax.jit, static_argnames="symmetric")
def draw_directions(
    key: PRNGKeyArray,
    directions: Array,
    concentrations: Array,
    index: Array,
    *,
    symmetric: bool,
) -> Array:
    """One sample of each component in `index`."""
    height, turn, flip = jr.split(key, 3)
    m = unit_rows(directions)[index]
    kappa = jnp.broadcast_to(concentrations, directions.shape[:1])[index]
    num, dim = m.shape
    # 1 - m.u, which keeps its digits for concentrated components
    below = (_draw_on_sphere if dim == 3 else _draw_by_rejection)(height, kappa, dim)
    tangent = jr.normal(turn, m.shape, m.dtype)
    for _ in range(2):  # twice, for noise that is nearly along m
        along = jnp.sum(tangent * m, axis=-1, keepdims=True)
        tangent = unit_rows(tangent - along * m)
    aside = jnp.sqrt(jnp.maximum(below * (2 - below), 0))
    samples = (1 - below)[:, None] * m + aside[:, None] * tangent
    if symmetric:
        samples = samples * jr.rademacher(flip, (num, 1), samples.dtype)
    return samples


def _draw_on_sphere(key: PRNGKeyArray, kappa: Array, dim: int) -> Array:
    """1 - m.u for d = 3, where its distribution function has a closed inverse."""
    least = float(jnp.finfo(kappa.dtype).tiny) ** 0.5
    uniform = jr.uniform(key, kappa.shape, kappa.dtype, minval=least)
    kappa = jnp.maximum(kappa, least)
    return -jnp.log1p(uniform * jnp.expm1(-2 * kappa)) / kappa


def _draw_by_rejection(key: PRNGKeyArray, kappa: Array, dim: int) -> Array:
    """1 - m.u by Wood's algorithm, written in x = 1 - m.u and its proposal's centre."""
    kappa, half = lax.stop_gradient(kappa), (dim - 1) / 2
    b = half / (kappa + jnp.sqrt(kappa**2 + half**2))
    x0 = 2 * b / (1 + b)

    def unfinished(carry: tuple) -> Array:
        _, accepted, _, rounds = carry
        return jnp.any(~accepted) & (rounds < _MOST_ROUNDS)

    def step(carry: tuple) -> tuple:
        x, accepted, key, rounds = carry
        key, propose, decide = jr.split(key, 3)
        z = _draw_uniform_height(propose, kappa, dim)
        new = 2 * b * z / (1 - (1 - b) * z)
        quotient = (x0 + (1 - x0) * new) / (x0 * (2 - x0))
        log_ratio = kappa * (x0 - new) + 2 * half * jnp.log(quotient)
        log_uniform = -jr.exponential(decide, kappa.shape, kappa.dtype)
        x = jnp.where(accepted, x, new)
        return x, accepted | (log_ratio >= log_uniform), key, rounds + 1

    start = (x0, x0 < 0, key, jnp.zeros_like(x0, shape=(), dtype="int32"))
    return lax.while_loop(unfinished, step, start)[0]


def _draw_uniform_height(key: PRNGKeyArray, like: Array, dim: int) -> Array:
    """(1 + m.u) / 2 of a uniform direction, a symmetric beta variable.

    In the plane of m and another axis the direction has a uniform angle, and a squared
    length whose distribution function has a closed inverse.
    """
    turn, length = jr.uniform(key, (2, *like.shape), like.dtype)
    if dim == 2:
        return jnp.cos(math.pi * turn) ** 2
    radius = jnp.sqrt(1 - length ** (2 / (dim - 2)))
    return (1 + radius * jnp.cos(2 * math.pi * turn)) / 2
