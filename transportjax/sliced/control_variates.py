r"""Control variates of a sliced distance: less error from the same directions.

The error of a sliced distance is that of a mean over the sphere. A control variate is a
function of the direction that follows the cost, is cheap (here: no sorting, moments of
the clouds alone), and has a known mean: the part of the error that it explains is
removed. Between Gaussian clouds with the mean and covariance of x and y the cost is

    W_2^2(theta) = (theta.(m_x - m_y))^2 + (s_x - s_y)^2,  s^2 = theta^T S theta,

which lies between its first term, the lower variate, and (theta.(m_x - m_y))^2 +
s_x^2 + s_y^2, the upper one.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax._checks import (
    as_weights,
    check_costs,
    check_count,
    check_key,
    check_same_length,
    common_float,
    working_dtype,
)
from transportjax._sharding import explicit_mesh_guard

from .directions import default_directions, random_directions
from .distance import root_of_cost
from .pair import Pair, checked_pair_along

_RIDGE = 1e-4  # of the squared size of a variate: where two of them nearly coincide


class SlicedEstimate(NamedTuple):
    """An estimate of a sliced distance, and how far off it may be."""

    value: Float[Array, ""]
    standard_error: Float[Array, ""]


class Variate(NamedTuple):
    """A function on the sphere: along directions, and its mean over all of them."""

    values: Float[Array, " p"]
    mean: Float[Array, ""]
    mean_error: Float[Array, ""]  # the standard error of the mean; zero if it is exact


@explicit_mesh_guard
def lower_variate(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    *,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
) -> Variate:
    """(theta.(m_x - m_y))^2: all of W_2^2 between a cloud and its translate.

    Args:
        x: points, `(n, d)`.
        y: points, `(m, d)`.
        directions: unit rows, `(p, d)`, uniform on the sphere.
        x_weights: masses >= 0 of `x`, `(n,)`; normalised. None: uniform.
        y_weights: likewise of `y`, `(m,)`.

    Returns:
        The values, and their exact mean, in units of `x` squared.

    Raises:
        ValueError: as `sliced_wasserstein`.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import lower_variate
        >>> x, y = jnp.zeros((3, 2)), jnp.array([[3.0, 4.0]])
        >>> lower = lower_variate(x, y, jnp.eye(2))
        >>> print(lower.values, lower.mean)
        [ 9. 16.] 12.5

    References:
        Nguyen, Ho (2024), Sliced Wasserstein estimation with control variates.
    """
    directions, shift, _, _ = _moments(x, y, directions, x_weights, y_weights)
    return _exact(_project(directions, shift) ** 2, jnp.mean(shift**2))


@explicit_mesh_guard
def upper_variate(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    *,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
) -> Variate:
    """(theta.(m_x - m_y))^2 plus both variances along theta; the cost is never larger.

    Args:
        x: points, `(n, d)`.
        y: points, `(m, d)`.
        directions: unit rows, `(p, d)`, uniform on the sphere.
        x_weights: masses >= 0 of `x`, `(n,)`; normalised. None: uniform.
        y_weights: likewise of `y`, `(m,)`.

    Returns:
        The values, and their exact mean, in units of `x` squared.

    Raises:
        ValueError: as `sliced_wasserstein`.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import upper_variate
        >>> x, y = jnp.array([[-1.0, 0.0], [1.0, 0.0]]), jnp.array([[3.0, 4.0]])
        >>> upper = upper_variate(x, y, jnp.eye(2))
        >>> print(upper.values, upper.mean)
        [10. 16.] 13.0

    References:
        Nguyen, Ho (2024), Sliced Wasserstein estimation with control variates.
    """
    directions, shift, x_cov, y_cov = _moments(x, y, directions, x_weights, y_weights)
    variances = _variances(directions, x_cov) + _variances(directions, y_cov)
    mean = jnp.mean(shift**2 + jnp.diagonal(x_cov) + jnp.diagonal(y_cov))
    return _exact(_project(directions, shift) ** 2 + variances, mean)


@explicit_mesh_guard
def gaussian_variate(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    *,
    key: PRNGKeyArray,
    num_mean: int | None = None,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
) -> Variate:
    r"""W_2^2 along theta between Gaussian clouds of the same moments.

    It is a lower bound of the cost (Gelbrich), and near it. Of its mean only that of
    s_x s_y has no closed form. It is found from many directions, which here
    cost no sorting, and itself has control variates: s_x^2, s_y^2 and their products,
    whose means are known.

    Args:
        x: points, `(n, d)`.
        y: points, `(m, d)`.
        directions: unit rows, `(p, d)`, uniform on the sphere.
        key: of the directions for the mean.
        num_mean: number of directions for the mean. None: 4096, where the error of the
            mean is about 0.2 %; fewer beyond 32 dimensions, where variances differ
            less between directions and cost more.
        x_weights: masses >= 0 of `x`, `(n,)`; normalised. None: uniform.
        y_weights: likewise of `y`, `(m,)`.

    Returns:
        The values, their mean, and its standard error, in units of `x` squared.

    Raises:
        ValueError: as `sliced_wasserstein`; `num_mean` is not an integer of at least 8.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import gaussian_variate
        >>> x, y = jnp.array([[-1.0, 0.0], [1.0, 0.0]]), jnp.array([[3.0, 4.0]])
        >>> gauss = gaussian_variate(x, y, jnp.eye(2), key=jax.random.key(0))
        >>> print(gauss.values, gauss.mean)
        [10. 16.] 13.0

    References:
        Gelbrich (1990), On a formula for the L2 Wasserstein metric between measures on
        Euclidean and Hilbert spaces.
    """
    check_key("key", key)
    directions, *moments = _moments(x, y, directions, x_weights, y_weights)
    dim = directions.shape[1]
    if num_mean is None:
        num_mean = max(256, min(4096, 2**17 // dim))
    check_count("num_mean", num_mean, 8)
    return _gaussian(directions, tuple(moments), key, num_mean)


def controlled_mean(
    costs: ArrayLike,
    *variates: Variate,
    weights: ArrayLike | None = None,
    block: int = 1,
    split: bool = False,
) -> SlicedEstimate:
    r"""The mean of the costs, less what the control variates explain of its error.

    With f the variates less their known means, the value is mean(costs) - beta.mean(f),
    where beta are the coefficients of the regression of the costs on the variates: the
    best ones. It is the intercept, exact where the costs are a combination of the
    variates. As beta comes from the same directions, there is a bias, of the order of
    1 / p; the error falls as 1 / sqrt(p).

    Differentiable in the costs, the variates and the weights. The weights of the
    directions must not stem from their costs, or there is nothing to be explained.

    Args:
        costs: along the directions, `(p,)`, as of `projected_costs`.
        variates: of `lower_variate`, `upper_variate`, `gaussian_variate`, or your own;
            along the same directions. With several, the fit has a ridge of 1e-4. None:
            the plain mean, and its standard error.
        weights: weights >= 0 of the directions, `(p,)`; normalised. None: uniform.
        block: how many successive directions depend on each other: d for those of
            `orthonormal_directions`. For the standard error alone.
        split: whether to take the coefficients for each half of the directions from the
            other half. Without bias if the halves are independent, but noisier.

    Returns:
        The value and its standard error, from the spread of the blocks and from the
        errors of the means. It is infinite if there is but one block.

    Raises:
        ValueError: costs, variates and weights of different lengths; `split` with fewer
            than two blocks.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import controlled_mean, lower_variate
        >>> from transportjax.sliced import projected_costs, random_directions
        >>> x = jnp.array([[0.0, 0.0], [1.0, 2.0]])
        >>> directions = random_directions(jax.random.key(0), 8, 2)
        >>> costs = projected_costs(x, x + 2, directions)
        >>> lower = lower_variate(x, x + 2, directions)
        >>> print(controlled_mean(costs, lower).value.round(4))
        4.0

    References:
        Nguyen, Ho (2024), Sliced Wasserstein estimation with control variates, section
        3; they divide by the second moment of f, not by its variance. Owen (2013),
        Monte Carlo theory, methods and examples, section 8.9: several variates.
    """
    (costs,) = common_float(("costs", costs))
    dtype = costs.dtype
    costs = costs.astype(working_dtype(dtype))
    check_costs("costs", costs)
    for variate in variates:
        check_same_length("a variate's values", variate.values, "costs", costs)
    weights = _direction_weights(weights, costs)
    check_count("block", block)
    if split:
        check_count("number of blocks", -(-costs.shape[0] // block), 2)
    found = _controlled(costs, variates, weights, block, split)
    return SlicedEstimate(*(array.astype(dtype) for array in found))


@functools.partial(jax.jit, static_argnums=(3, 4))
def _controlled(
    costs: Array, variates: Any, weights: Array, block: int, split: bool
) -> tuple[Array, Array]:
    """The value and its standard error."""
    num, zero = costs.shape[0], jnp.zeros_like(costs)
    variates = [Variate(*(jnp.asarray(a, costs.dtype) for a in v)) for v in variates]
    features = jnp.stack([zero, *(v.values - v.mean for v in variates)])[1:]
    if split:
        half = -(-num // block) // 2 * block
        beta = _split_coefficients(costs, features, weights, half)
    else:
        beta = _coefficients(costs, features, weights)[:, None]
    residuals = costs - jnp.sum(beta * features, axis=0)
    value = weights @ residuals
    variance = _block_variance(weights * (residuals - value), block)
    variance = variance * (num / max(1, num - len(variates)))
    for coefficients, variate in zip(beta, variates, strict=True):
        variance += (jnp.mean(coefficients) * variate.mean_error) ** 2
    return value, root_of_cost(variance, 2)


def _direction_weights(weights: ArrayLike | None, costs: Array) -> Array:
    weights = as_weights("weights", weights, costs.shape, costs.dtype)
    if weights is None:
        return jnp.full_like(costs, 1 / costs.shape[0])
    weights = weights / jnp.max(weights)
    return weights / jnp.sum(weights)


def _moments(
    x: ArrayLike,
    y: ArrayLike,
    directions: ArrayLike,
    x_weights: ArrayLike | None,
    y_weights: ArrayLike | None,
) -> tuple[Array, Array, Array, Array]:
    """The directions, the difference of the means, and both covariances."""
    pair, directions, _ = checked_pair_along(x, y, directions, x_weights, y_weights)
    return directions, *_of_clouds(pair)


@jax.jit
def _of_clouds(pair: Pair) -> tuple[Array, Array, Array]:
    """The difference of the means, and both covariances."""
    x, y, a, b = pair
    centre = lax.stop_gradient(jnp.mean(y, axis=0))  # for the sake of rounding

    def moments(points: Array, weights: Array | None) -> tuple[Array, Array]:
        weights = jnp.ones_like(points[:, 0]) if weights is None else weights
        weights = weights / jnp.max(weights)
        weights = weights / jnp.sum(weights)
        points = points - centre[None, :]
        mean = _project(weights[None, :], points)[0]
        points = points - mean[None, :]
        return mean, _project((weights[:, None] * points).T, points)

    (x_mean, x_cov), (y_mean, y_cov) = moments(x, a), moments(y, b)
    return x_mean - y_mean, x_cov, y_cov


_project = functools.partial(jnp.matmul, precision="highest")


def _variances(directions: Array, cov: Array) -> Array:
    """Along each direction; never negative."""
    return jnp.maximum(jnp.sum(_project(directions, cov) * directions, axis=1), 0)


def _exact(values: Array, mean: Array) -> Variate:
    return Variate(values, mean, jnp.zeros_like(mean))


@functools.partial(jax.jit, static_argnums=3)
def _gaussian(
    directions: Array, moments: tuple[Array, ...], key: PRNGKeyArray, num_mean: int
) -> Variate:
    """The Gaussian variate; its mean from `num_mean` directions."""
    shift, x_cov, y_cov = moments
    dim = directions.shape[1]

    def deviations(rows: Array) -> tuple[Array, Array]:
        a, b = _variances(rows, x_cov), _variances(rows, y_cov)
        return root_of_cost(a, 2), root_of_cost(b, 2)

    s, t = deviations(directions)
    values = _project(directions, shift) ** 2 + (s - t) ** 2
    # evenly spread where that is cheap; the variates below leave little to orthonormal
    draw = default_directions if dim <= 3 else random_directions
    s, t = deviations(draw(key, num_mean, dim, directions.dtype))
    squares = [_exact(s**2, jnp.trace(x_cov) / dim)]
    squares += [_exact(t**2, jnp.trace(y_cov) / dim)]
    for one, other, value in (
        (x_cov, x_cov, s**4),
        (y_cov, y_cov, t**4),
        (x_cov, y_cov, (s * t) ** 2),
    ):  # the fourth moments of uniform directions
        both = jnp.trace(one) * jnp.trace(other) + 2 * jnp.sum(one * other)
        squares.append(_exact(value, both / (dim * (dim + 2))))
    product = controlled_mean(s * t, *squares)
    mean = squares[0].mean + squares[1].mean - 2 * product.value + jnp.mean(shift**2)
    return Variate(values, mean, 2 * product.standard_error)


def _coefficients(costs: Array, features: Array, weights: Array) -> Array:
    """The coefficients of the variates, `(k,)`; zero for one that is constant."""
    features = features - (features @ weights)[:, None]
    size = root_of_cost(features**2 @ weights, 2)
    safe = jnp.where(size > 0, size, 1)
    unit = features / safe[:, None]
    right = (unit * weights[None, :]) @ (costs - weights @ costs)
    if features.shape[0] < 2:  # no ridge
        return right / safe
    gram = _project(unit * weights[None, :], unit.T)
    ridge = jnp.where(size > 0, _RIDGE, 1).astype(gram.dtype)
    return jnp.linalg.solve(gram + jnp.diag(ridge), right) / safe


def _split_coefficients(
    costs: Array, features: Array, weights: Array, half: int
) -> Array:
    """The coefficients for each direction, from the other half of them; `(k, p)`."""
    parts = [slice(half, None), slice(None, half)]
    betas = []
    for part in parts:
        mass = weights[part] / jnp.sum(weights[part])
        betas.append(_coefficients(costs[part], features[:, part], mass))
    lengths = np.array([half, costs.shape[0] - half])
    return jnp.repeat(
        jnp.stack(betas, axis=1), lengths, axis=1, total_repeat_length=costs.shape[0]
    )


def _block_variance(deviations: Array, block: int) -> Array:
    """The variance of a sum of deviations in independent blocks."""
    num_blocks = -(-deviations.shape[0] // block)
    padded = jnp.pad(deviations, (0, num_blocks * block - deviations.shape[0]))
    sums = jnp.sum(padded.reshape(num_blocks, block), axis=1)
    if num_blocks == 1:
        return jnp.full_like(sums[0], jnp.inf)
    return jnp.sum(sums**2) * (num_blocks / (num_blocks - 1))
