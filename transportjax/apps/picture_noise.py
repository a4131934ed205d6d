"""Noise within the levels of pictures that follows the neighbours of a pixel.

Levels have no density until noise is added to them. Uniform noise is worth as much as a
neighbour, and a flow has to make it up when it draws: its samples are full of specks.
Noise that goes where a normal law expects the value leaves less to explain.
"""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax.maps import AbstractBijection, Affine

_UNIT = math.pi / math.sqrt(3)  # the deviation of a logistic law of scale one
_ROUNDS = 8  # of the mean field
_THIN = 4e-6  # least width of a level, of its place: float32 sees no less


def no_neighbours(dim: int) -> Affine:
    """The law of independent pixels, under which the noise is uniform."""
    return Affine(jnp.eye(dim) / _UNIT, jnp.zeros(dim))


def normal_law(z: Float[np.ndarray, "n d"]) -> Affine:
    """The map that makes a normal law standard, of the moments of n values.

    Correlations are shrunk towards zero as far as their errors ask for, so that there
    may be fewer values than dimensions.

    References:
        Schäfer and Strimmer (2005), "A shrinkage approach to large-scale covariance
        matrix estimation and implications for functional genomics", section 2.
    """
    num, dim = z.shape
    mean, spread = z.mean(axis=0), z.std(axis=0)
    scaled = (z - mean) / spread
    products = scaled.T @ scaled / num
    errors = ((scaled**2).T @ (scaled**2) / num - products**2) / (num - 1)
    off = ~np.eye(dim, dtype=bool)
    total = float(np.sum(products[off] ** 2)) or 1.0
    share = min(1.0, float(np.sum(errors[off])) / total)
    shrunk = np.where(off, (1 - share) * products, 1).astype(np.float64)
    values, vectors = np.linalg.eigh(shrunk * np.outer(spread, spread))
    matrix = vectors / np.sqrt(values) @ vectors.T
    return Affine(
        jnp.asarray(matrix, "float32"), jnp.asarray(-matrix @ mean, "float32")
    )


@eqx.filter_jit
def with_noise(
    levels: AbstractBijection,
    law: Affine,
    x: Float[Array, "n d"],
    key: PRNGKeyArray,
) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
    """Values within the levels of pictures, on the line, and their log-density.

    Each pixel draws from a logistic law, cut off at the ends of its level. Its centre
    is what the normal law expects, given the medians of the other pixels of the
    picture; these depend on each other, and are found together.

    With z and q what this returns, E[log p(z) - log q(z)] is a bound from below of the
    log-probability of a picture, for every density p on the line.

    Args:
        levels: the map from values with noise to the line, `level_map`.
        law: the map that makes the normal law standard.
        x: numbers of levels.
        key: a random key.

    References:
        Ho, Chen, Srinivas, Duan and Abbeel (2019), "Flow++: improving flow-based
        generative models with variational dequantization and architecture design",
        section 3.1, for the bound.
    """
    low, high = jax.vmap(levels)(x), jax.vmap(levels)(x + 1)
    high = jnp.maximum(high, low + _THIN * (1 + jnp.abs(low)))
    matmul = functools.partial(jnp.matmul, precision="highest")
    precision = matmul(law.matrix.T, law.matrix)
    tightness = jnp.diagonal(precision)
    mean = -jnp.linalg.solve(law.matrix, law.offset)
    weights = jnp.eye(x.shape[1]) - precision / tightness[:, None]
    scale = 1 / (_UNIT * jnp.sqrt(tightness))

    def improve(centre: Array, _: None) -> tuple[Array, None]:
        medians = _cut_quantile(low, high, centre, scale, jnp.float32(0.5))[0]
        expected = mean[None, :] + matmul(medians - mean[None, :], weights.T)
        return (centre + expected) / 2, None

    centre = lax.scan(improve, mean[None, :] + low * 0, length=_ROUNDS)[0]
    share = jr.uniform(key, x.shape)
    z, log_density = _cut_quantile(low, high, centre, scale, share)
    return z, jnp.sum(log_density, axis=1)


def _cut_quantile(
    low: Array, high: Array, centre: Array, scale: Array, share: Array
) -> tuple[Array, Array]:
    """A quantile of logistic laws between two bounds, and its log-density."""
    first = (low - centre) / scale[None, :]
    last = (high - centre) / scale[None, :]
    mirrored = first + last > 0  # the far tail is exact on the left alone
    start = jnp.where(mirrored, -last, first)
    stop = jnp.where(mirrored, -first, last)
    # F(b) - F(a) = F(b) F(-a) (1 - e^(a - b)), which does not cancel
    log_mass = (
        jax.nn.log_sigmoid(stop)
        + jax.nn.log_sigmoid(-start)
        + jnp.log(-jnp.expm1(start - stop))
    )
    part = jax.nn.sigmoid(start) + share * jnp.exp(log_mass)
    tiny = jnp.finfo(part.dtype).tiny
    at = jnp.clip(jnp.log(jnp.maximum(part, tiny)) - jnp.log1p(-part), start, stop)
    log_density = jax.nn.log_sigmoid(at) + jax.nn.log_sigmoid(-at) - log_mass
    at = jnp.where(mirrored, -at, at)
    return centre + scale[None, :] * at, log_density - jnp.log(scale)[None, :]
