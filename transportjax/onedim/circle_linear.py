r"""The circle against its uniform law, and in linear coordinates.

On the circle of length one, the uniform law is transported onto a measure by a map that
is known in closed form. It starts from the level m - 1/2, where m is the mean of the
coordinates, whatever the point where they start:

    T(t) = F^-1(t - m + 1/2), with F^-1(q + 1) = F^-1(q) + 1.

The displacement T(t) - t represents the measure in a linear space: its squared norm is
W_2^2 to the uniform law, and the distance between two such functions, along the circle,
approximates W_2.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import (
    as_float,
    check_absent,
    check_batches,
    check_finite,
    common_float,
)
from transportjax._sharding import explicit_mesh_guard

from .circle import on_circle, sample_levels
from .levels import checked_samples, in_rows, search, take
from .sorting import sort_with_permutation
from .wasserstein import sort_weighted


@explicit_mesh_guard
def wasserstein_circle_uniform(
    x: ArrayLike, *, x_weights: ArrayLike | None = None
) -> Float[Array, "*batch"]:
    """W_2^2 between samples and the uniform law, on the circle of length one.

    Exact, by sorting. Differentiable in `x` and the weights, with the order of the
    samples held constant.

    Args:
        x: finite samples, (..., n), in turns; modulo one.
        x_weights: masses >= 0 of `x`, (n,) or the shape of `x`; normalised. None:
            uniform.

    Returns:
        W_2^2, one for each row; 1/12 for a single sample.

    Raises:
        ValueError: samples that are empty, NaN or infinite; weights that are negative,
            all zero, NaN or of the wrong shape. Where values are traced, bad weights
            give NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> print(wasserstein_circle_uniform(jnp.array([0.1, 0.6])))  # 1 / (12 n^2)
        0.020833334

    References:
        Bonet, Berg, Courty, Septier, Drumetz and Pham, 2023, "Spherical sliced
        Wasserstein", proposition 1.
    """
    x = as_float("x", x)
    dtype = x.dtype
    x, a = checked_samples("x", x, x_weights, "x_weights")
    return _to_uniform(x, a).astype(dtype)


@jax.jit
def _to_uniform(x: Array, weights: Array | None) -> Array:
    # With M_i the middle of the levels of sample i, and c the mean of x_i - M_i,
    #   W_2^2 = integral over q of (F^-1(q) - q - c)^2
    #         = sum_i a_i (x_i - M_i - c)^2 + sum_i a_i^3 / 12.
    x, weights = sort_weighted(on_circle(x), weights)
    mass = _mass(x, weights)
    rest = x - (sample_levels(x, weights) - mass / 2)
    rest = rest - jnp.sum(mass * rest, axis=-1, keepdims=True)
    return jnp.sum(mass * (rest**2 + mass**2 / 12), axis=-1)


def _mass(x: Array, weights: Array | None) -> Array:
    """The normalised masses of samples; NaN if some are negative or all are zero."""
    if weights is None:
        return jnp.full_like(x, 1 / x.shape[-1])
    negative = jnp.min(weights, axis=-1, keepdims=True) < 0
    weights = jnp.where(negative, jnp.nan, weights)
    weights = weights / jnp.max(weights, axis=-1, keepdims=True)
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


@explicit_mesh_guard
def linear_circular_wasserstein(
    x: ArrayLike,
    y: ArrayLike | None = None,
    *,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
) -> Float[Array, "*batch"]:
    r"""LCOT_2^2, the linear circular distance, on the circle of length one.

    The squared distance along the circle of the two measures' images of t, averaged
    over t: of `linear_circular_embedding(x, t)` and that of `y`. It is a metric, at
    least W_2^2, and equal to it if one of the two is uniform. It needs no search: each
    measure is mapped on its own. Exact: both images are step functions, that are
    constant together on n + m segments.

    Differentiable in `x`, `y` and the weights, also through the segments, which move
    with the means; the order of samples and of segments is held constant.

    Args:
        x: finite samples, (..., n), in turns; modulo one.
        y: finite samples, (..., m); the batches broadcast. None: the uniform law.
        x_weights: masses >= 0 of `x`, (n,) or the shape of `x`; normalised. None:
            uniform.
        y_weights: likewise of `y`.

    Returns:
        LCOT_2^2, one for each row.

    Raises:
        ValueError: as `wasserstein_circle`; or weights without samples.

    Example:
        >>> import jax.numpy as jnp
        >>> x, y = jnp.array([0.0, 0.5]), jnp.array([0.25, 0.75])
        >>> print(linear_circular_wasserstein(x, y))
        0.0625

    References:
        Martin, Medri, Bai, Liu, Yan, Rohde and Kolouri, 2024, "LCOT: linear circular
        optimal transport".
    """
    if y is None:
        check_absent("y_weights", y_weights, "y")
        return wasserstein_circle_uniform(x, x_weights=x_weights)
    x, y = common_float(("x", x), ("y", y))
    dtype = x.dtype
    x, a = checked_samples("x", x, x_weights, "x_weights")
    y, b = checked_samples("y", y, y_weights, "y_weights")
    check_batches("x", x, "y", y)
    return _linear_distance(x, y, a, b).astype(dtype)


@jax.jit
def _linear_distance(x: Array, y: Array, a: Array | None, b: Array | None) -> Array:
    batch = jnp.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    x, x_ends, x_first = (_in_batch(z, batch) for z in _image(x, a))
    y, y_ends, y_first = (_in_batch(z, batch) for z in _image(y, b))
    ends, order = sort_with_permutation(jnp.concatenate([x_ends, y_ends], axis=-1))
    # The first segment begins where the last one ends, a lap before.
    before = jnp.concatenate([ends[..., -1:] - 1, ends[..., :-1]], axis=-1)
    is_x = order < x.shape[-1]
    gap = _met(x, x_first, is_x) - _met(y, y_first, ~is_x)
    return jnp.sum((ends - before) * on_circle(gap) ** 2, axis=-1)


def _in_batch(x: Array, batch: tuple[int, ...]) -> Array:
    return jnp.broadcast_to(x, (*batch, x.shape[-1]))


def _image(x: Array, weights: Array | None) -> tuple[Array, Array, Array]:
    """The values of T, ascending; where in [0, 1] each ends; which one ends first."""
    x, level = _reach(x, weights)
    level = level - jnp.floor(level[..., -1:])
    wraps = level < 0
    wrapped = jnp.where(level < -1, 0, level + 1)  # below -1: the last one, rounded
    first = jnp.sum(wraps, axis=-1, keepdims=True, dtype=jnp.int32)
    return x, jnp.where(wraps, wrapped, level), first


def _met(x: Array, first: Array, ends: Array) -> Array:
    """The value on each segment; after those that `ends`, the next one begins.

    They are counted around the circle: ends that tie are never taken out of order.
    """
    ends = ends.astype(jnp.int32)
    passed = lax.cumsum(ends, axis=ends.ndim - 1) - ends
    return take(x, (first + passed) % x.shape[-1])


def _reach(x: Array, weights: Array | None) -> tuple[Array, Array]:
    """The values T takes, ascending, and up to which t each of them reaches."""
    x, weights = sort_weighted(on_circle(x), weights)
    mean = jnp.sum(_mass(x, weights) * x, axis=-1, keepdims=True)
    return x, sample_levels(x, weights) + (mean - 0.5)


@explicit_mesh_guard
def linear_circular_embedding(
    x: ArrayLike, t: ArrayLike, *, x_weights: ArrayLike | None = None
) -> Float[Array, "..."]:
    """T(t) - t, where T transports the uniform law onto samples, on the circle.

    The values at evenly spaced t are linear features of the measure: the mean over t of
    the squared distance along the circle, z - round(z), between those of two measures
    approximates `linear_circular_wasserstein`, which is exact.

    The derivative in `x` is that of the samples that are met; it is zero in the
    weights, and -1 in `t`.

    Args:
        x: finite samples, (..., n), in turns; modulo one.
        t: where to evaluate, in turns: a number, (k,), or (..., k) with the batch of
            `x`.
        x_weights: masses >= 0 of `x`, (n,) or the shape of `x`; normalised. None:
            uniform.

    Returns:
        Displacements, (..., k), or (...) for a number `t`; not reduced modulo one, and
        at most 1/2 in size.

    Raises:
        ValueError: as `wasserstein_circle_uniform`; `t` of the wrong shape, NaN or
            infinite.

    Example:
        >>> import jax.numpy as jnp
        >>> x, t = jnp.array([0.25, 0.75]), jnp.array([0.125, 0.25, 0.375])
        >>> print(linear_circular_embedding(x, t))
        [ 0.125  0.    -0.125]

    References:
        Martin, Medri, Bai, Liu, Yan, Rohde and Kolouri, 2024, "LCOT: linear circular
        optimal transport".
    """
    x, t = common_float(("x", x), ("t", t))
    dtype = x.dtype
    x, a = checked_samples("x", x, x_weights, "x_weights")
    check_finite("t", t)
    scalar = t.ndim == 0
    t = in_rows("t", t.astype(x.dtype), "x", x.shape[:-1])
    values = _embedding(x, t, a).astype(dtype)
    return values[..., 0] if scalar else values


@jax.jit
def _embedding(x: Array, t: Array, weights: Array | None) -> Array:
    x, reach = _reach(x, weights)
    # The lap that t is in, (reach_n - 1, reach_n] and on, and the sample it meets.
    laps = jnp.ceil(t - reach[..., -1:])
    places = search(reach, t - laps)
    places = jnp.minimum(places, x.shape[-1] - 1)
    return take(x, places) + laps - t
