"""How straight the ways of points are, and what each step of them costs."""

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks
from transportjax.sliced.distance import root_of_cost


def step_costs(clouds: ArrayLike) -> Float[Array, " l"]:
    """The mean of |x_l - x_(l-1)|^2 over the points, for each step of a transport.

    Differentiable.

    Args:
        clouds: the same n points before the first of l steps and after each of them,
            (l + 1, n, d): the rows of `ContinuousMap.trajectory`, or the outputs of
            the layers of a `Scan`.

    Returns:
        The cost of each step, in units of the points squared.

    Raises:
        ValueError: another shape, fewer than two clouds, NaN or infinity.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.diagnostics import step_costs
        >>> print(step_costs(jnp.array([[[0.0]], [[1.0]], [[3.0]]])))
        [1. 4.]
    """
    return jnp.mean(jnp.sum(_steps(clouds) ** 2, axis=-1), axis=-1)


def path_curvature(clouds: ArrayLike) -> Float[Array, ""]:
    """E of the integral over [0, 1] of |dx/dt - (x(1) - x(0))|^2, from places in time.

    Zero if and only if all points move along straight lines at constant speed; then one
    step does the work of all. Divided by the mean of |x(1) - x(0)|^2 it has no unit.

    Differentiable.

    Args:
        clouds: the same n points at l + 1 equally spaced times, (l + 1, n, d).

    Returns:
        The curvature, in units of the points squared.

    Raises:
        ValueError: another shape, fewer than two clouds, NaN or infinity.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.diagnostics import path_curvature
        >>> print(path_curvature(jnp.array([[[0.0]], [[1.0]], [[2.0]]])))
        0.0

    References:
        Liu, Gong and Liu (2023), Flow straight and fast: learning to generate and
        transfer data with rectified flow, section 2.2.
    """
    steps = _steps(clouds)
    bends = steps - jnp.mean(steps, axis=0, keepdims=True)
    return len(steps) * jnp.sum(jnp.mean(jnp.sum(bends**2, axis=-1), axis=-1))


def straightness(clouds: ArrayLike) -> Float[Array, " n"]:
    """How far each point gets, as a share of the length of its way, in [0, 1].

    |x_l - x_0| / sum of |x_i - x_(i-1)|: one if and only if the point moves along a
    straight line and never back, at whatever speed; one too if it does not move.

    Differentiable where every step moves every point.

    Args:
        clouds: the same n points before the first of l steps and after each of them,
            (l + 1, n, d), as of `layer_outputs`.

    Returns:
        The straightness of the way of each point.

    Raises:
        ValueError: another shape, fewer than two clouds, NaN or infinity.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.diagnostics import straightness
        >>> clouds = jnp.array([[[0.0, 0.0]], [[3.0, 0.0]], [[3.0, 4.0]]])
        >>> print(f"{straightness(clouds)[0]:.3f}")  # 5 / 7
        0.714
    """
    steps = _steps(clouds)
    # in units whose square is a number of the dtype: it makes no difference
    largest = jnp.max(jnp.abs(steps), axis=(0, 2))[None, :, None]
    steps = steps / lax.stop_gradient(jnp.where(largest > 0, largest, 1))
    length = jnp.sum(root_of_cost(jnp.sum(steps**2, axis=-1), 2), axis=0)
    distance = root_of_cost(jnp.sum(jnp.sum(steps, axis=0) ** 2, axis=-1), 2)
    moves = length > 0
    return jnp.where(moves, jnp.minimum(distance / jnp.where(moves, length, 1), 1), 1)


def _steps(clouds: ArrayLike) -> Float[Array, "l n d"]:
    clouds = _checks.as_float("clouds", clouds)
    _checks.check_clouds("clouds", clouds)
    _checks.check_num_clouds("clouds", len(clouds), 2)
    return jnp.diff(clouds, axis=0)
