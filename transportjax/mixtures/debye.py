"""Debye's expansion of modified Bessel functions at a high order, and the way down.

The ratios of consecutive orders, rho_n = I_n(kappa) / (kappa I_(n-1)(kappa)), obey

    rho_n = 1 / (2 n + kappa^2 rho_(n+1)),

which damps errors on the way down. At a high order mu = nu + m the expansion is exact
to the last digits for every kappa. With q = sqrt(mu^2 + kappa^2) and p = mu / q,

    I_mu(kappa) kappa^-mu = exp(q) (mu + q)^-mu (2 pi q)^(-1/2) (1 + series),

series = sum over k of U_k(p) / mu^k, where each term is q^-k times a polynomial in p^2.

References:
    NIST Digital Library of Mathematical Functions, 10.41(ii), 10.29(i).
"""

import functools
import math
from fractions import Fraction
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array


def num_steps(dim: int, dtype: Any) -> int:
    """How far above nu the expansion is taken: to an order of 24, in float32 of 9."""
    least = 9 if jnp.dtype(dtype).itemsize == 4 else 24
    return max(0, math.ceil(least - (dim / 2 - 1)))


def expansion(s: Array, dim: int, above: int = 0) -> tuple[float, Array, Array]:
    """The order mu + above, its q, and its series without the leading one."""
    mu = dim / 2 - 1 + num_steps(dim, s.dtype) + above
    q = jnp.sqrt(mu**2 + s)
    square = (mu / q) ** 2
    series = jnp.zeros_like(s)
    for coefficients in reversed(_polynomials(4 if s.dtype.itemsize == 4 else 9)):
        polynomial = jnp.zeros_like(s)
        for c in reversed(coefficients):
            polynomial = polynomial * square + c
        series = (series + polynomial) / q
    return mu, q, series


def log_ratio(mu: float, q: Array, q1: Array) -> Array:
    """The logarithm of exp(q1 - q) ((mu + q) / (mu + 1 + q1))^mu."""
    step = (2 * mu + 1) / (q + q1)  # q1 - q
    return step - mu * jnp.log1p((1 + step) / (mu + q))


def ratios_of_orders(s: Array, dim: int) -> list[Array]:
    """rho_(mu+1), and by the recurrence rho_mu ... rho_(nu+1)."""
    mu, q, series = expansion(s, dim)
    _, q1, series1 = expansion(s, dim, above=1)
    quotient = jnp.sqrt(q / q1) * (1 + series1) / (1 + series)
    ratios = [jnp.exp(log_ratio(mu, q, q1)) * quotient / (mu + 1 + q1)]
    for step in range(num_steps(dim, s.dtype)):
        ratios.append(1 / (2 * (mu - step) + s * ratios[-1]))
    return ratios


@functools.cache
def _polynomials(num: int) -> tuple[tuple[float, ...], ...]:
    """Coefficients in p^2 of U_k(p) / p^k, k = 1 ... num (DLMF 10.41.9)."""
    found: list[tuple[float, ...]] = []
    u = [Fraction(1)]  # coefficients of U_k in p
    for k in range(1, num + 1):
        new = [Fraction(0)] * (len(u) + 3)
        for i, c in enumerate(u):  # (p^2 - p^4) u' / 2 + integral of (1 - 5 p^2) u / 8
            new[i + 1] += c * Fraction(i, 2) + c / (8 * (i + 1))
            new[i + 3] -= c * Fraction(i, 2) + 5 * c / (8 * (i + 3))
        u = new
        found.append(tuple(float(c) for c in u[k::2]))
    return tuple(found)
