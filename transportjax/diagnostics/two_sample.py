"""Whether two clouds are samples of one law."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard
from transportjax.mixtures.tiles import kernel_product, scaled_points
from transportjax.sliced.distance import root_of_cost
from transportjax.sliced.pair import checked_pair

from .divergences import energy_distance, in_own_unit, median_distance, mmd, over_rows

_Statistic = Callable[[Array, Array], Array]
_BATCH = 2**14  # points of the permuted clouds that are held at once
_ROUNDINGS = 100.0  # of the largest value, up to which two are equal


class TwoSampleTest(NamedTuple):
    """What `two_sample_test` returns.

    Attributes:
        value: the statistic of the two clouds.
        null: what it is after each permutation, that is, of clouds of the same sizes
            that are samples of one law: `value` is noise where it is not above them.
        p_value: how often a value as large occurs if the laws are equal; NaN if the
            value is.
    """

    value: Float[Array, ""]
    null: Float[Array, " k"]
    p_value: Float[Array, ""]


@explicit_mesh_guard
def two_sample_test(
    x: ArrayLike,
    y: ArrayLike,
    statistic: _Statistic = energy_distance,
    *,
    key: PRNGKeyArray,
    num_permutations: int = 200,
) -> TwoSampleTest:
    """Whether two clouds differ by more than samples of one law do: a permutation test.

    The clouds are thrown together and divided at random, many times, which leaves the
    statistic as it is if the laws are equal. The test has the level of its p-value for
    any statistic, any law and any number of samples, if these are independent.

    For `energy_distance` and `mmd` (with the bandwidth that it chooses) one pass over
    all pairs serves all permutations. Other statistics are computed for each of them.

    Args:
        x: samples, (n, d).
        y: samples, (m, d).
        statistic: a function of two clouds, larger where they differ more, that can be
            traced: `energy_distance`, `mmd`, `nearest_neighbour_kl`, or a partial
            function, for example of `tj.sliced_wasserstein` with directions. A new
            function is compiled anew.
        key: a random key, for the permutations.
        num_permutations: how many; the p-value is at least 1 / (1 + num_permutations).

    Returns:
        A `TwoSampleTest`: value, null (num_permutations,) and p_value.

    Raises:
        ValueError: clouds of different dimensions, empty, NaN or infinite; a
            `statistic` that does not return one real number; `num_permutations` < 1.

    Example:
        >>> import functools
        >>> import jax.random as jr
        >>> import transportjax as tj
        >>> from transportjax.diagnostics import two_sample_test
        >>> x, y = jr.normal(jr.key(0), (2, 200, 2))
        >>> distance = functools.partial(
        ...     tj.sliced_wasserstein, directions=tj.half_circle_directions(16)
        ... )
        >>> same = two_sample_test(x, y, distance, key=jr.key(1))
        >>> other = two_sample_test(x, 1.5 * y, distance, key=jr.key(1))
        >>> print(bool(same.p_value > 0.05), bool(other.p_value < 0.05))
        True True

    References:
        Phipson and Smyth (2010), Permutation P-values should never be zero.
        Gretton et al. (2012), A kernel two-sample test.
    """
    _checks.check_key("key", key)
    pair, dtype = checked_pair(x, y)
    _checks.check_count("num_permutations", num_permutations)
    if statistic is energy_distance:
        value, null = _energies(pair.x, pair.y, key, num_permutations)
    elif statistic is mmd:
        value, null = _discrepancies(pair.x, pair.y, key, num_permutations)
    else:
        _checks.check_loss("statistic", jax.eval_shape(statistic, pair.x, pair.y))
        value, null = _one_by_one(statistic, pair.x, pair.y, key, num_permutations)
    p_value = _p_value(value, null)
    return TwoSampleTest(*(x.astype(dtype) for x in (value, null, p_value)))


@jax.jit
def _p_value(value: Array, null: Array) -> Array:
    """The share of divisions, with that of the clouds, of a value as large.

    Divisions of small clouds repeat, and then differ by rounding.
    """
    sizes = jnp.abs(jnp.append(null, value))
    largest = jnp.max(jnp.where(jnp.isfinite(sizes), sizes, 0))
    rounding = _ROUNDINGS * float(jnp.finfo(value.dtype).eps) * largest
    is_below = null < value - rounding
    share = (1 + jnp.sum(~is_below)) / (1 + len(null))
    return jnp.where(jnp.isnan(value), jnp.nan, share)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _one_by_one(
    statistic: _Statistic, x: Array, y: Array, key: PRNGKeyArray, num: int
) -> tuple[Array, Array]:
    n, points = len(x), jnp.concatenate([x, y])

    def permuted(key: PRNGKeyArray) -> Array:
        moved = points[jr.permutation(key, len(points))]
        return statistic(moved[:n], moved[n:])

    batch = min(num, max(1, _BATCH // len(points)))
    return statistic(x, y), lax.map(permuted, jr.split(key, num), batch_size=batch)


@functools.partial(jax.jit, static_argnums=3)
def _energies(x: Array, y: Array, key: PRNGKeyArray, num: int) -> tuple[Array, Array]:
    """The energy distance is -w D w, with the weights w = 1/n of x and -1/m of y."""
    x, y, unit = in_own_unit(x, y)
    points, weights = jnp.concatenate([x, y]), _signed_weights(x, y, key, num)

    def product(squares: Array) -> Array:
        return jnp.matmul(root_of_cost(squares, 2), weights, precision="highest")

    products = over_rows(product, points, points)
    return _divided(-unit * jnp.sum(weights * products, axis=0))


@functools.partial(jax.jit, static_argnums=3)
def _discrepancies(
    x: Array, y: Array, key: PRNGKeyArray, num: int
) -> tuple[Array, Array]:
    """The squared discrepancy is w K w, with the same weights."""
    weights = _signed_weights(x, y, key, num)
    scale = median_distance(x, y) * 2**0.5
    points = jnp.concatenate(scaled_points(x, y, scale))
    products = kernel_product(points, points, weights)
    return _divided(jnp.sum(weights * products, axis=0))


def _signed_weights(x: Array, y: Array, key: PRNGKeyArray, num: int) -> Array:
    """1/n of the points of x and -1/m of those of y; the same permuted, in columns."""
    ours, theirs = (
        jnp.full_like(x[:, 0], 1 / len(x)),
        jnp.full_like(y[:, 0], 1 / len(y)),
    )
    weights = jnp.concatenate([ours, -theirs])
    permuted = jax.vmap(jr.permutation, (0, None))(jr.split(key, num), weights)
    return jnp.concatenate([weights[None, :], permuted]).T


def _divided(values: Array) -> tuple[Array, Array]:
    values = jnp.maximum(values, 0)
    return values[0], values[1:]
