"""Modified Bessel functions, as the von Mises-Fisher density in dimension d needs them.

With the order nu = d/2 - 1, kappa >= 0 and s = kappa^2, the function

    g(s) = log(I_nu(kappa) kappa^-nu)

is analytic in s, also at s = 0, and grows like kappa. Here are g - kappa (up to a
constant), its derivatives, and the ratio rho = I_(nu+1)(kappa) / (kappa I_nu(kappa)),
for which dg/ds = rho / 2. All are right for any d >= 2 and any kappa: no difference of
large numbers, and no switch between an exact and an asymptotic formula. `debye` has the
expansion that they come from; the circle and the sphere have closed forms.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import (
    as_float,
    check_concentrations,
    check_sphere_dimension,
    working_dtype,
)

from .debye import expansion, log_ratio, num_steps, ratios_of_orders

_LEAST = 1e-12  # of a resultant, and of what it lacks to one


def mean_resultant(concentration: ArrayLike, dim: int) -> Float[Array, "..."]:
    """A_d(kappa), the length of the mean of a von Mises-Fisher density; no unit.

    A_d = I_(d/2)(kappa) / I_(d/2-1)(kappa) increases from 0 at kappa = 0 to 1. It is
    minus the derivative of `log_normaliser`. The relative error is that of a few
    roundings for any concentration. Differentiable in the concentration, any number of
    times.

    Args:
        concentration: kappa >= 0, any shape.
        dim: d >= 2, the dimension of the space around the sphere.

    Returns:
        Numbers in [0, 1], of the shape and dtype of `concentration`.

    Raises:
        ValueError: a negative or infinite concentration, a dimension below 2.

    Example:
        >>> from transportjax.mixtures import mean_resultant
        >>> print(mean_resultant(2.0, 3).round(4))  # coth(2) - 1/2
        0.5373

    References:
        Mardia and Jupp (2000), Directional statistics, section 9.3.
    """
    kappa, dtype = _checked(concentration, dim)
    return jax.jit(_mean_resultant, static_argnums=1)(kappa, dim).astype(dtype)


def log_normaliser(concentration: ArrayLike, dim: int) -> Float[Array, "..."]:
    """Log C_d(kappa), of the density C_d(kappa) exp(kappa m.u) on the unit sphere.

    C_d = kappa^nu / ((2 pi)^(d/2) I_nu(kappa)), nu = d/2 - 1; at kappa = 0 it is one
    over the area of the sphere. Differentiable in the concentration, any number of
    times; the derivative is -`mean_resultant`.

    Args:
        concentration: kappa >= 0, any shape.
        dim: d >= 2, the dimension of the space around the sphere.

    Returns:
        Logarithms, of the shape and dtype of `concentration`.

    Raises:
        ValueError: as `mean_resultant`.

    Example:
        >>> from transportjax.mixtures import log_normaliser
        >>> print(log_normaliser(0.0, 3).round(4))  # -log(4 pi)
        -2.531

    References:
        Mardia and Jupp (2000), Directional statistics, section 9.3.
    """
    kappa, dtype = _checked(concentration, dim)
    return jax.jit(_log_normaliser, static_argnums=1)(kappa, dim).astype(dtype)


def _checked(concentration: ArrayLike, dim: int) -> tuple[Array, Any]:
    kappa = as_float("concentration", concentration)
    check_concentrations("concentration", kappa)
    check_sphere_dimension("dim", dim)
    return kappa.astype(working_dtype(kappa.dtype)), kappa.dtype


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _mean_resultant(kappa: Array, dim: int) -> Array:
    return kappa * bessel_ratio(kappa**2, dim)


@_mean_resultant.defjvp
def _mean_resultant_jvp(dim: int, primals: tuple, tangents: tuple) -> tuple:
    """By the deficit: rho + 2 s drho/ds would cancel at large kappa."""
    (kappa,) = primals
    _, dot = jax.jvp(lambda kappa: resultant_deficit(kappa, dim), primals, tangents)
    return _mean_resultant(kappa, dim), -dot


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _log_normaliser(kappa: Array, dim: int) -> Array:
    return -kappa - log_mass(kappa, dim)


@_log_normaliser.defjvp
def _log_normaliser_jvp(dim: int, primals: tuple, tangents: tuple) -> tuple:
    (kappa,), (dot,) = primals, tangents
    return _log_normaliser(kappa, dim), -_mean_resultant(kappa, dim) * dot


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def log_mass(kappa: Array, dim: int) -> Array:
    """The logarithm of the integral of exp(kappa (m.u - 1)) over the unit sphere.

    -log C_d(kappa) - kappa; the error is a few roundings of max(1, |value|).
    """
    if dim == 2:
        return math.log(2 * math.pi) + jnp.log(jax.scipy.special.i0e(kappa))
    if dim == 3:  # sinh(kappa) / kappa, without overflow
        twice = 2 * jnp.where(kappa > 0, kappa, 1)
        scaled_sinh = jnp.where(kappa > 0, -jnp.expm1(-twice) / twice, 1)
        return math.log(4 * math.pi) + jnp.log(scaled_sinh)
    mu, q, series = expansion(kappa**2, dim)
    steps = [rho * (mu + q) for rho in ratios_of_orders(kappa**2, dim)[1:]]
    return (
        mu**2 / (q + kappa)  # q - kappa without the cancellation of large kappa
        - (dim / 2 - 1) * jnp.log((mu + q) / (2 * math.pi))
        - 0.5 * jnp.log(q / (2 * math.pi))
        + jnp.log1p(series)
        - jnp.log(math.prod(steps, start=jnp.ones_like(q)))
    )


@log_mass.defjvp
def _log_mass_jvp(dim: int, primals: tuple, tangents: tuple) -> tuple:
    (kappa,), (dot,) = primals, tangents
    return log_mass(kappa, dim), -resultant_deficit(kappa, dim) * dot


def _elementwise(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """`function`, whose derivatives of all orders are computed in forward mode.

    Reverse mode then finds one product with the slope, instead of the long chain of
    operations behind it: less memory, and a fraction of the time to compile.
    """

    def slope(x: Array) -> Array:
        return jax.jvp(function, (x,), (0 * x + 1,))[1]

    result = jax.custom_jvp(function)
    result.defjvps(lambda dot, _, x: _elementwise(slope)(x) * dot)
    return result


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def bessel_ratio(s: Array, dim: int) -> Array:
    """A_d(kappa) / kappa of s = kappa^2; 1/d at zero. Relative error: a few roundings.

    Twice the derivative in s of log(I_nu(kappa) kappa^-nu).
    """
    if dim == 2:
        return _ratio_on_circle(s)
    return _smooth_ratio(s, dim)


@bessel_ratio.defjvp
def _bessel_ratio_jvp(dim: int, primals: tuple, tangents: tuple) -> tuple:
    """Not by the closed form of d = 2, whose derivative would cancel."""
    smooth = _elementwise(lambda s: _smooth_ratio(s, dim))
    _, dot = jax.jvp(smooth, primals, tangents)
    return bessel_ratio(primals[0], dim), dot


def _smooth_ratio(s: Array, dim: int) -> Array:
    """`bessel_ratio`, by a formula that may be differentiated."""
    return _ratio_on_sphere(s) if dim == 3 else ratios_of_orders(s, dim)[-1]


def resultant_deficit(kappa: Array, dim: int) -> Array:
    """1 - A_d(kappa), with a small relative error where A is nearly one, too.

    About (d - 1) / (2 kappa) for large kappa.
    """
    return _elementwise(lambda kappa: _deficit(kappa, dim))(kappa)


def _deficit(kappa: Array, dim: int) -> Array:
    """`resultant_deficit`, by the recurrence of b_n = 1 - kappa rho_n.

    It is b_n = (2 n - kappa b_(n+1)) / (2 n + kappa - kappa b_(n+1)), where
    kappa b_(n+1) is near n + 1/2: little cancels. The first one comes from the
    logarithm of kappa rho_(mu+1).
    """
    if dim == 3:
        is_small = kappa < 2
        safe = jnp.where(is_small, 2, kappa)
        closed = 1 / safe + 2 * jnp.exp(-2 * safe) / jnp.expm1(-2 * safe)
        return jnp.where(is_small, 1 - kappa * bessel_ratio(kappa**2, 3), closed)
    mu, q, series = expansion(kappa**2, dim)
    _, q1, series1 = expansion(kappa**2, dim, above=1)
    is_small = kappa < mu
    safe = jnp.where(is_small, mu, kappa)
    log_resultant = (
        log_ratio(mu, q, q1)
        + 0.25 * jnp.log1p(-(2 * mu + 1) / q1**2)
        + jnp.log1p((series1 - series) / (1 + series))
        - jnp.log1p((mu + 1 + (mu + 1) ** 2 / (q1 + safe)) / safe)
    )
    ratio = ratios_of_orders(kappa**2, dim)[0]
    deficit = jnp.where(is_small, 1 - kappa * ratio, -jnp.expm1(log_resultant))
    for step in range(num_steps(dim, kappa.dtype)):
        order = mu - step
        rest = kappa * deficit
        deficit = (2 * order - rest) / (2 * order + kappa - rest)
    return deficit


def concentration_of(resultant: Array, deficit: Array, dim: int) -> Array:
    """The kappa with A_d(kappa) = `resultant` = 1 - `deficit`, both given.

    Newton's iteration on log(A / (1 - A)) as a function of log(kappa): its slope is one
    at both ends, and the start is right there, so that six steps are enough anywhere.

    References:
        Banerjee, Dhillon, Ghosh and Sra (2005), Clustering on the unit hypersphere
        using von Mises-Fisher distributions, equation (4.4): the start.
    """
    resultant, deficit = (jnp.maximum(a, _LEAST) for a in (resultant, deficit))
    wanted = jnp.log(resultant) - jnp.log(deficit)
    start = jnp.log(resultant * (dim - resultant**2) / (deficit * (1 + resultant)))

    def newton(_: Any, log_kappa: Array) -> Array:
        kappa = jnp.exp(log_kappa)
        found, slope = jax.jvp(
            lambda kappa: resultant_deficit(kappa, dim), (kappa,), (kappa,)
        )
        own = kappa * bessel_ratio(kappa**2, dim)
        excess = jnp.log(own) - jnp.log(found) - wanted
        return log_kappa + excess * own * found / slope

    return jnp.exp(lax.fori_loop(0, 6, newton, start))


def _ratio_on_circle(s: Array) -> Array:
    """I_1(kappa) / (kappa I_0(kappa))."""
    is_tiny = s < float(jnp.finfo(s.dtype).eps)
    kappa = jnp.sqrt(jnp.where(is_tiny, 1, s))
    quotient = jax.scipy.special.i1e(kappa) / (kappa * jax.scipy.special.i0e(kappa))
    return jnp.where(is_tiny, 0.5 - s / 16, quotient)


def _ratio_on_sphere(s: Array) -> Array:
    """(coth(kappa) - 1 / kappa) / kappa; up to kappa = 2 by the continued fraction.

    The recurrence from rho = 0 at a high order gives a quotient of polynomials in s
    with positive coefficients.
    """
    is_small = s < 4
    kappa = jnp.sqrt(jnp.where(is_small, 4, s))
    closed = (1 - 2 * jnp.exp(-2 * kappa) / jnp.expm1(-2 * kappa) - 1 / kappa) / kappa
    return jnp.where(is_small, ratio_near_zero(jnp.where(is_small, s, 0)), closed)


def ratio_near_zero(s: Array) -> Array:
    """`bessel_ratio` on the sphere in space, for 0 <= s <= 4."""
    above, below = _continued_fraction(5 if s.dtype.itemsize == 4 else 10)
    return _horner(above, s) / _horner(below, s)


def _horner(coefficients: tuple[float, ...], x: Array) -> Array:
    value = jnp.zeros_like(x)
    for c in reversed(coefficients):
        value = value * x + c
    return value


@functools.cache
def _continued_fraction(levels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """1 / (3 + s / (5 + s / (7 + ...))) as a quotient of polynomials in s."""
    above, below = [1], [2 * levels + 3]
    for level in reversed(range(levels)):  # 1 / (2 n + s above / below)
        size = max(len(below), len(above) + 1)
        shifted = [0, *above] + [0] * (size - len(above) - 1)
        padded = below + [0] * (size - len(below))
        odd = 2 * level + 3
        above, below = (
            below,
            [odd * b + a for a, b in zip(shifted, padded, strict=True)],
        )
    scale = below[0]
    return tuple(a / scale for a in above), tuple(b / scale for b in below)
