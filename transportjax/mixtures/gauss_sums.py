"""Sums of Gaussians of one width over all pairs of two clouds.

    S(x, y) = sum over i, j of a_i b_j exp(-|x_i - y_j|^2 / s^2)

is what inner products of mixtures with one shared bandwidth are made of. It is computed
in one of two ways, neither of which holds n x m numbers:

* **tiles** (tiles.py): all pairs, one tile after the other, in any dimension. With
  weights of one sign, the relative error is about 1e-6 in single and 1e-15 in double
  precision. In single precision it is up to 6e-6 for scales far above the extent of the
  points: the equal numbers of a tile are then rounded alike.
* **Fourier series** (fourier.py), for d <= 3: linear in the number of points. Its error
  is at most 1e-7 in single and 1e-13 in double precision, times 2.6 d sum |a_i|
  sum |b_j|. That is an absolute error: where clouds are so far apart that S itself is
  that small, ask for tiles.

The series costs (n + m) (2 M + 1)^d for M = c / pi (extent / s + c) modes on an axis,
with c = 4 in single and 5.5 in double precision. It is chosen where, by the measured
cost of a pair and of a mode, it is cheaper (modes.py): for instance, on the unit cube
with s = 0.2, from about 15000 points on, or 7500 where several sums are wanted. The
number of modes is static, and is read off the points. Where these are traced, that is
under `jit`, tiles are used unless the caller gives `num_modes`; the program then looks
whether these are enough for the points and the scale that it meets, and takes tiles if
not: the result is right all the same.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard, varying_alike

from . import fourier, tiles
from .modes import How, check_sum, how_to_sum


class GaussL2(NamedTuple):
    """The sums of all pairs of two clouds, and what they make together.

    Args:
        pp: S(x, x).
        pq: S(x, y).
        qq: S(y, y).
        l2: pp - 2 pq + qq, never below zero.
    """

    pp: Float[Array, ""]
    pq: Float[Array, ""]
    qq: Float[Array, ""]
    l2: Float[Array, ""]


@explicit_mesh_guard
def gauss_sum(
    x: ArrayLike,
    y: ArrayLike,
    scale: int | float | ArrayLike,
    *,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
    num_modes: int | Sequence[int] | None = None,
) -> Float[Array, ""]:
    """sum_ij a_i b_j exp(-|x_i - y_j|^2 / scale^2), without unit.

    With uniform weights, the mean over all pairs. Differentiable in all arguments, any
    number of times, forward and reverse; memory is that of the points. Where `y` is the
    very array `x`, and so are the weights, its derivatives take half as long.

    Args:
        x: points, `(n, d)`.
        y: points, `(m, d)`.
        scale: the scale s > 0, in units of the points: two kernels of one bandwidth h
            have s = 2 h.
        x_weights: a, `(n,)`, used as they are, of any sign. None: 1/n each.
        y_weights: b, `(m,)`, likewise.
        num_modes: modes of a Fourier series on each axis, as `fourier_modes` gives
            them, to be used under `jit`; 0 or () for tiles. None: what is faster where
            values can be read, and tiles where they are traced. More than needed make
            the series more exact; where they are not enough, tiles are used. Under
            `vmap` both are computed then.

    Returns:
        A scalar in the dtype of the points; integers count as floats. With weights of
        one sign and by tiles, the relative error is about 1e-6 in single precision, and
        up to 6e-6 for a scale far above the extent of the points.

    Raises:
        ValueError: points of the wrong shape, empty or not finite; a scale that is not
            positive; weights that do not fit; modes in more than three dimensions.
            Values are looked at unless they are traced: then bad ones give NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.mixtures import gauss_sum
        >>> x, y = jnp.zeros((2, 3)), jnp.array([[0.0, 0.0, 2.0]])
        >>> print(gauss_sum(x, y, 2.0).round(2))  # exp(-1)
        0.37

    References:
        Jian and Vemuri (2011), Robust point set registration using Gaussian mixture
        models, section 3.
        Greengard and Strain (1991), The fast Gauss transform, section 1.
    """
    is_own = x is y and x_weights is y_weights
    sums, how, dtype = _checked(x, y, scale, x_weights, y_weights, num_modes)
    return _gauss_sum(sums, how, is_own).astype(dtype)


@explicit_mesh_guard
def gauss_transform(
    x: ArrayLike,
    y: ArrayLike,
    scale: int | float | ArrayLike,
    *,
    weights: ArrayLike | None = None,
    num_modes: int | Sequence[int] | None = None,
) -> Float[Array, " n"]:
    """sum_j b_j exp(-|x_i - y_j|^2 / scale^2) at each x_i, without unit.

    Differentiable like `gauss_sum`.

    Args:
        x: where to take the sum, `(n, d)`.
        y: the centres of the Gaussians, `(m, d)`.
        scale: the scale s > 0, in units of the points: sqrt(2) standard deviations of
            one of these Gaussians.
        weights: b, `(m,)`, used as they are, of any sign. None: 1/m each.
        num_modes: as in `gauss_sum`.

    Returns:
        One sum for each row of `x`.

    Raises:
        ValueError: as `gauss_sum`.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.mixtures import gauss_transform
        >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [0.0]])
        >>> print(gauss_transform(x, y, 1.0).round(2))
        [1.   0.37]

    References:
        Greengard and Strain (1991), The fast Gauss transform, section 1.
    """
    sums, how, dtype = _checked(x, y, scale, None, weights, num_modes, "weights")
    return _gauss_transform(sums, how).astype(dtype)


@explicit_mesh_guard
def gauss_l2(
    x: ArrayLike,
    y: ArrayLike,
    scale: int | float | ArrayLike,
    *,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
    num_modes: int | Sequence[int] | None = None,
) -> GaussL2:
    """S(x, x), S(x, y), S(y, y) and S(x, x) - 2 S(x, y) + S(y, y), without unit.

    The last is (pi s^2)^(d/2) times the squared L2 distance of two densities of kernels
    of bandwidth s / 2. By a Fourier series it is a sum of squares, which keeps its
    precision where x is near y; by tiles it is a difference, with an absolute error of
    a few units of rounding of the sums, and is cut off at zero. Differentiable like
    `gauss_sum`. Under `jit` only those sums are computed that are used.

    Args:
        x: points, `(n, d)`.
        y: points, `(m, d)`.
        scale: as in `gauss_sum`.
        x_weights: as in `gauss_sum`.
        y_weights: as in `gauss_sum`.
        num_modes: as in `gauss_sum`.

    Returns:
        The sums `pp`, `pq`, `qq`, and `l2`.

    Raises:
        ValueError: as `gauss_sum`.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.mixtures import gauss_l2
        >>> x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
        >>> print(gauss_l2(x, x + 9, 2.0).l2.round(4))
        1.0019

    References:
        Jian and Vemuri (2011), Robust point set registration using Gaussian mixture
        models, section 3.
    """
    sums, how, dtype = _checked(
        x, y, scale, x_weights, y_weights, num_modes, num_sums=2
    )
    return GaussL2(*(value.astype(dtype) for value in _gauss_l2(sums, how)))


# --- what has been checked ---------------------------------------------------------


class _Sums(NamedTuple):
    """Two clouds, their weights, None where uniform, and the scale."""

    x: Array
    y: Array
    scale: Array
    x_weights: Array | None
    y_weights: Array | None


def _checked(
    x: Any,
    y: Any,
    scale: Any,
    a: Any,
    b: Any,
    num_modes: Any,
    name_of_b: str = "y_weights",
    num_sums: int = 1,
) -> tuple[_Sums, How, Any]:
    """Arrays to compute with; how; the dtype to return."""
    x, y = _checks.common_float(("x", x), ("y", y))
    scale = _checks.as_float("scale", scale)
    check_sum(x, y, scale)
    work = _checks.working_dtype(x.dtype)
    weights = []
    for name, given, points in (("x_weights", a, x), (name_of_b, b, y)):
        if given is not None:
            given = _checks.as_float(name, given).astype(work)
            _checks.check_signed_weights(name, given, len(points))
        weights.append(given)
    sums = _Sums(x.astype(work), y.astype(work), scale.astype(work), *weights)
    return sums, how_to_sum(*sums[:3], num_modes, num_sums), x.dtype


# --- the sums ----------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(1, 2))
def _gauss_sum(sums: _Sums, how: How, is_own: bool) -> Array:
    def by_tiles(sums: _Sums) -> Array:
        x, y = tiles.scaled_points(*sums[:3])
        if is_own:
            return tiles.self_total(x, _weights(sums)[0])
        return tiles.pair_total(x, y, *_weights(sums))

    def by_series(sums: _Sums) -> Array:
        (p, q), weights, _ = _spectra(sums, how.num_modes)
        return jnp.sum(weights * p * (p if is_own else q))

    return _either(by_tiles, by_series, sums, how)


@functools.partial(jax.jit, static_argnums=1)
def _gauss_transform(sums: _Sums, how: How) -> Array:
    def by_tiles(sums: _Sums) -> Array:
        x, y = tiles.scaled_points(*sums[:3])
        return tiles.kernel_product(x, y, _weights(sums)[1][:, None])[:, 0]

    def by_series(sums: _Sums) -> Array:
        (_, q), weights, where = _spectra(sums, how.num_modes)
        (x, *_) = varying_alike((sums.x, q))
        return fourier.series(x, weights * q, where, how.num_modes)

    return _either(by_tiles, by_series, sums, how)


@functools.partial(jax.jit, static_argnums=1)
def _gauss_l2(sums: _Sums, how: How) -> GaussL2:
    def by_tiles(sums: _Sums) -> GaussL2:
        x, y = tiles.scaled_points(*sums[:3])
        a, b = _weights(sums)
        pp, qq = tiles.self_total(x, a), tiles.self_total(y, b)
        pq = tiles.pair_total(x, y, a, b)
        l2 = pp - 2 * pq + qq
        # never below zero, with the derivatives of the sum
        l2 = l2 + lax.stop_gradient(jnp.maximum(l2, 0) - l2)
        return GaussL2(pp, pq, qq, l2)

    def by_series(sums: _Sums) -> GaussL2:
        (p, q), weights, _ = _spectra(sums, how.num_modes)
        products = (p * p, p * q, q * q, (p - q) ** 2)
        return GaussL2(*(jnp.sum(weights * product) for product in products))

    return _either(by_tiles, by_series, sums, how)


def _either(by_tiles: Any, by_series: Any, sums: _Sums, how: How) -> Any:
    """One of the two; decided by the values, if it was not possible before."""
    positive = jnp.where(sums.scale > 0, sums.scale, jnp.nan)
    sums = sums._replace(scale=positive)
    if not how.num_modes:
        return by_tiles(sums)
    if not how.in_doubt:
        return by_series(sums)
    x, y, scale = map(lax.stop_gradient, sums[:3])
    is_enough = fourier.is_enough(fourier.extent_of(x, y), scale, how.num_modes)
    return lax.cond(is_enough, by_series, by_tiles, sums)


def _weights(sums: _Sums) -> tuple[Array, Array]:
    def filled(weights: Array | None, points: Array) -> Array:
        if weights is not None:
            return weights
        return jnp.full_like(points, 1 / len(points), shape=points.shape[:1])

    return filled(sums.x_weights, sums.x), filled(sums.y_weights, sums.y)


def _spectra(
    sums: _Sums, num_modes: tuple[int, ...]
) -> tuple[tuple[Array, Array], Array, fourier.Frame]:
    """P and Q, the weights of the modes, and where they live."""
    x, y, scale, a, b = varying_alike((*sums[:3], *_weights(sums)))
    where = fourier.frame(x, y, scale, num_modes)
    p = fourier.coefficients(x, a, where, num_modes)
    q = fourier.coefficients(y, b, where, num_modes)
    return (p, q), fourier.mode_weights(where, scale, num_modes), where
