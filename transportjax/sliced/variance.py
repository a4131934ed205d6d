"""Sliced distances with less error, and with weights that follow the costs."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax._checks import (
    as_float,
    check_costs,
    check_count,
    check_directions,
    check_harmonics,
    check_key,
    check_number,
    check_same_length,
    common_float,
)
from transportjax._sharding import explicit_mesh_guard

from .control_variates import (
    SlicedEstimate,
    controlled_mean,
    gaussian_variate,
    lower_variate,
    upper_variate,
)
from .directions import (
    half_circle_directions,
    orthonormal_directions,
    spiral_directions,
    working_dtype,
)
from .distance import projected_costs, root_of_cost
from .pair import Pair, checked_pair


@explicit_mesh_guard
def sliced_wasserstein_estimate(
    x: ArrayLike,
    y: ArrayLike,
    *,
    key: PRNGKeyArray,
    num: int = 64,
    p: int | float = 2,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
    chunk: int | None = None,
) -> SlicedEstimate:
    r"""SW_p^p by the best means that we have, in units of `x` to the power p.

    One dimension: exact. Two: the half circle, turned. Three: the spiral, turned, and
    for p = 2 the three control variates. More: orthonormal blocks, and for p = 2 the
    control variates. Differentiable in `x`, `y` and their weights.

    The standard error. In four and more dimensions it is honest: from the spread of
    independent blocks, of which there are at least four (of fewer than d rows if `num`
    is below 4 d), and from that of the mean of the Gaussian variate. With few blocks it
    is itself uncertain. In two and three dimensions the directions are one set, whose
    error is too small to be seen from inside; what is returned is half the difference
    between its even and its odd directions, the error of a set of half the size, which
    is larger as a rule. For an honest one there, take the spread of several keys.

    Args:
        x: points, `(n, d)`.
        y: points, `(m, d)`; their number may differ.
        key: of the directions.
        num: number of directions, at least 2.
        p: the exponent >= 1.
        x_weights: masses >= 0 of `x`, `(n,)`; normalised. None: uniform, and faster.
        y_weights: likewise of `y`, `(m,)`.
        chunk: how many directions to hold at once, as in `sliced_wasserstein`.

    Returns:
        The value and its standard error.

    Raises:
        ValueError: as `sliced_wasserstein`; `num` is below 2.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import sliced_wasserstein_estimate
        >>> x = jax.random.normal(jax.random.key(0), (100, 5))
        >>> value, error = sliced_wasserstein_estimate(x, x + 2, key=jax.random.key(1))
        >>> bool(abs(value - 4) < 1e-3)  # |(2, 2, 2, 2, 2)|^2 / 5
        True

    References:
        Nguyen, Ho (2024), Sliced Wasserstein estimation with control variates: the
        lower and the upper one. Rowland et al. (2019), Orthogonal estimation of
        Wasserstein distances.
    """
    check_key("key", key)
    pair, dtype = checked_pair(x, y, x_weights, y_weights)
    check_count("num", num, 2)
    check_number("p", p, 1)
    estimate = _estimate(pair, key, num, p, chunk)
    return SlicedEstimate(*(array.astype(dtype) for array in estimate))


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _estimate(
    pair: Pair, key: PRNGKeyArray, num: int, p: int | float, chunk: int | None
) -> SlicedEstimate:
    x, y, a, b = pair
    dim = x.shape[1]
    masses: dict[str, Any] = {"x_weights": a, "y_weights": b}
    costs_along = functools.partial(projected_costs, x, y, p=p, chunk=chunk, **masses)
    if dim == 1:
        value = costs_along(jnp.ones_like(x, shape=(1, 1)))[0]
        return SlicedEstimate(value, jnp.zeros_like(value))
    key, mean_key = jr.split(key)
    directions, block = _good_directions(key, num, dim, x.dtype)
    variates = ()
    if p == 2 and dim > 2:
        variates = (
            lower_variate(x, y, directions, **masses),
            upper_variate(x, y, directions, **masses),
            gaussian_variate(x, y, directions, key=mean_key, **masses),
        )
    return controlled_mean(costs_along(directions), *variates, block=block)


def harmonic_mean_cost(costs: ArrayLike, directions: ArrayLike) -> SlicedEstimate:
    r"""The mean of the costs over the sphere, by fitting a quadratic function to them.

    The costs are regressed on the spherical harmonics of degree two, the entries of
    theta theta^T - I / d, whose mean is zero; the intercept is the value. Exact for a
    cloud and its translate. It needs no knowledge of the clouds, but d (d + 1) / 2 - 1
    coefficients: good with three times as many directions or more. Orthonormal blocks
    do the same by themselves.

    Args:
        costs: along the directions, `(p,)`.
        directions: unit rows, `(p, d)`, independent and uniform on the sphere.

    Returns:
        The value, with a bias of the order of 1 / p, and the standard error of the
        intercept. Differentiable in both arguments.

    Raises:
        ValueError: fewer directions than d (d + 1) / 2 + 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import harmonic_mean_cost, random_directions
        >>> directions = random_directions(jax.random.key(0), 12, 2)
        >>> print(harmonic_mean_cost(directions[:, 0] ** 2, directions).value.round(3))
        0.5

    References:
        Leluc, Dieuleveut, Portier, Segers, Zhuman (2024), Sliced-Wasserstein estimation
        with spherical harmonics as control variates.
    """
    costs, directions = common_float(("costs", costs), ("directions", directions))
    dtype = costs.dtype
    costs, directions = (a.astype(working_dtype(dtype)) for a in (costs, directions))
    check_costs("costs", costs)
    check_directions("directions", directions)
    num, dim = directions.shape
    check_same_length("costs", costs, "directions", directions[:, 0])
    check_harmonics(num, dim)
    found = _intercept(costs, directions)
    return SlicedEstimate(*(array.astype(dtype) for array in found))


@jax.jit
def _intercept(costs: Array, directions: Array) -> tuple[Array, Array]:
    """The intercept of the regression on quadratic functions; its standard error."""
    num, dim = directions.shape
    # the trace is constant: without its last entry, the diagonal says as much
    rows, columns = (index[:-1] for index in np.triu_indices(dim))
    trace = jnp.asarray(np.where(rows == columns, 1 / dim, 0.0), costs.dtype)
    features = (directions[:, rows] * directions[:, columns] - trace[None, :]).T
    means = jnp.mean(features, axis=1)
    centred = features - means[:, None]
    offset = costs - jnp.mean(costs)
    right = jnp.stack([means, centred @ offset], axis=1)
    share, beta = jnp.linalg.solve(centred @ centred.T, right).T
    weights = 1 / num - share @ centred  # the intercept, as weights of the costs
    residuals = offset - beta @ centred
    variance = jnp.sum(residuals**2) / (num - features.shape[0] - 1)
    return weights @ costs, root_of_cost(variance * jnp.sum(weights**2), 2)


def energy_weights(
    costs: ArrayLike, *, power: ArrayLike | None = None, detach: bool = True
) -> Float[Array, " p"]:
    """Weights of the directions that grow with their costs, for `sliced_wasserstein`.

    The energy-based sliced distance is the mean by these weights: larger than the plain
    one, and a metric for itself, with more of its gradient along the directions in
    which the clouds differ.

    Args:
        costs: along the directions, `(p,)`, as of `projected_costs`.
        power: None: the weights are proportional to exp(cost), as in the paper, which
            depends on the units of the points. A number >= 0: to cost^power, which does
            not; 0 gives equal weights.
        detach: whether the weights are constants for derivatives (the paper's "copy").

    Returns:
        Weights >= 0, of sum one; equal if all costs are zero.

    Raises:
        ValueError: `costs` is not one row of finite numbers; a negative `power`.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import energy_weights
        >>> print((4 * energy_weights(jnp.array([1.0, 3.0]), power=1)).round(2))
        [1. 3.]

    References:
        Nguyen, Ho (2023), Energy-based sliced Wasserstein distance.
    """
    (costs,) = common_float(("costs", costs))
    check_costs("costs", costs)
    dtype = costs.dtype
    energy = costs.astype(working_dtype(dtype))
    if power is not None:
        check_number("power", power, 0)
        power = as_float("power", power).astype(energy.dtype)
        energy = power * jnp.log(jnp.maximum(energy, jnp.finfo(energy.dtype).tiny))
    weights = jax.nn.softmax(energy)
    return (lax.stop_gradient(weights) if detach else weights).astype(dtype)


def _good_directions(
    key: PRNGKeyArray, num: int, dim: int, dtype: jnp.dtype
) -> tuple[Array, int]:
    """Directions, and how many successive ones depend on each other."""
    if dim <= 3:
        even = half_circle_directions if dim == 2 else spiral_directions
        rows = even(num, key=key, dtype=dtype)
        return jnp.concatenate([rows[::2], rows[1::2]]), -(-num // 2)
    block = min(dim, -(-num // 4))
    keys = jr.split(key, -(-num // block))
    draw = functools.partial(orthonormal_directions, num=block, dim=dim, dtype=dtype)
    return jax.vmap(draw)(keys).reshape(-1, dim)[:num], block
