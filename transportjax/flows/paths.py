"""Paths from noise to data, and the batches that flow matching learns from.

A path joins a pair of points, and its velocity is known. The field to learn is at each
place the mean of the velocities of all paths that pass there: the regression on single
paths has the same gradient as that on the mean (Lipman et al., 2023, theorem 2).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard
from transportjax.maps import given
from transportjax.maps.roles import takes_condition

Path = Callable[[Array, Array, Array, Array], tuple[Array, Array]]

_LEAST_TIME = 1e-3  # that a bridge keeps away from both ends


class MatchingBatch(NamedTuple):
    """What a field is to learn: at time t, in the place x, the velocity.

    Attributes:
        t: times in [0, 1), (n,).
        x: places, (n, d).
        velocity: what the field should be there, (n, d).
    """

    t: Float[Array, " n"]
    x: Float[Array, "n d"]
    velocity: Float[Array, "n d"]


def linear_path(
    x0: Float[Array, " d"],
    x1: Float[Array, " d"],
    t: Float[Array, ""],
    noise: Float[Array, " d"],
    *,
    sigma: int | float | ArrayLike = 0.0,
) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
    """The point (1 - t) x0 + t x1 + sigma noise of a line, and its velocity x1 - x0.

    With independent pairs it gives the rectified flow of Liu et al. (2023), with nearly
    optimal ones OT-CFM of Tong et al. (2024).

    Args:
        x0: noise, (d,).
        x1: a data point, (d,).
        t: a time in [0, 1].
        noise: standard normal, (d,).
        sigma: standard deviation around the line, in units of the points. Zero is as
            good as any where the field is a smooth network.

    Returns:
        The place and the velocity, (d,) each.

    References:
        Liu, Gong and Liu (2023), Flow straight and fast: learning to generate and
        transfer data with rectified flow.
        Tong et al. (2024), Improving and generalizing flow-based generative models with
        minibatch optimal transport, section 3.2.
    """
    sigma = jnp.asarray(sigma).astype(x0.dtype)
    return (1 - t) * x0 + t * x1 + sigma * noise, x1 - x0


def gaussian_path(
    x0: Float[Array, " d"],
    x1: Float[Array, " d"],
    t: Float[Array, ""],
    noise: Float[Array, " d"],
    *,
    sigma: int | float | ArrayLike = 1e-3,
) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
    """The point (1 - (1 - sigma) t) x0 + t x1 of a line, and its velocity.

    For standard normal x0 it leads from N(0, I) to N(x1, sigma^2 I), so that the law at
    time 1 is smooth. `noise` is not used.

    Args:
        x0: standard normal, (d,).
        x1: a data point, (d,).
        t: a time in [0, 1].
        noise: not used.
        sigma: standard deviation around the data at time 1, in their units.

    Returns:
        The place and the velocity, (d,) each.

    References:
        Lipman, Chen, Ben-Hamu, Nickel and Le (2023), Flow matching for generative
        modeling, section 4.1, example II.
    """
    del noise
    rest = 1 - jnp.asarray(sigma).astype(x0.dtype)
    return (1 - rest * t) * x0 + t * x1, x1 - rest * x0


def bridge_path(
    x0: Float[Array, " d"],
    x1: Float[Array, " d"],
    t: Float[Array, ""],
    noise: Float[Array, " d"],
    *,
    sigma: int | float | ArrayLike = 0.1,
) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
    """A point of a Brownian bridge from x0 to x1, and the velocity there.

    The place is (1 - t) x0 + t x1 + sigma sqrt(t (1 - t)) noise, the velocity its
    derivative in t. That grows without bound at both ends, so times are kept 0.001 away
    from them. With the pairs of `sinkhorn_coupling`, of an entropy of 2 sigma^2, the
    field is that of a Schroedinger bridge.

    Args:
        x0: noise, (d,).
        x1: a data point, (d,).
        t: a time in [0, 1].
        noise: standard normal, (d,).
        sigma: the diffusion, in units of the points by the root of time.

    Returns:
        The place and the velocity, (d,) each.

    References:
        Tong et al. (2024), Improving and generalizing flow-based generative models with
        minibatch optimal transport, section 3.2 (SB-CFM).
    """
    t = jnp.clip(t, _LEAST_TIME, 1 - _LEAST_TIME)
    sigma = jnp.asarray(sigma).astype(x0.dtype)
    spread = jnp.sqrt(t * (1 - t))
    x = (1 - t) * x0 + t * x1 + sigma * spread * noise
    return x, x1 - x0 + (1 - 2 * t) / (2 * spread) * sigma * noise


def trigonometric_path(
    x0: Float[Array, " d"],
    x1: Float[Array, " d"],
    t: Float[Array, ""],
    noise: Float[Array, " d"],
    *,
    sigma: int | float | ArrayLike = 0.0,
) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
    """The point cos(pi t / 2) x0 + sin(pi t / 2) x1 + sigma noise, and its velocity.

    For independent standardised x0 and x1 the variance is the same at all times.

    Args:
        x0: noise, (d,).
        x1: a data point, (d,).
        t: a time in [0, 1].
        noise: standard normal, (d,).
        sigma: standard deviation around the curve, in units of the points.

    Returns:
        The place and the velocity, (d,) each.

    References:
        Albergo and Vanden-Eijnden (2023), Building normalizing flows with stochastic
        interpolants.
    """
    sigma = jnp.asarray(sigma).astype(x0.dtype)
    angle = jnp.pi / 2 * t
    x = jnp.cos(angle) * x0 + jnp.sin(angle) * x1 + sigma * noise
    return x, jnp.pi / 2 * (jnp.cos(angle) * x1 - jnp.sin(angle) * x0)


@explicit_mesh_guard
def matching_batch(
    key: PRNGKeyArray,
    x0: ArrayLike,
    x1: ArrayLike,
    *,
    path: Path = linear_path,
    partners: ArrayLike | None = None,
) -> MatchingBatch:
    """Random places on the paths between two batches, and the velocities there.

    Differentiable in both batches.

    Args:
        key: a random key, for times and noise.
        x0: noise, (n, d).
        x1: data, (n, d), or (m, d) with `partners`.
        path: `linear_path`, `gaussian_path`, `bridge_path` or `trigonometric_path`, of
            another sigma by `functools.partial`, or any function of (x0, x1, t, noise)
            that returns a place and a velocity.
        partners: the row of x1 for each row of x0, (n,), from `sliced_coupling` or
            `sinkhorn_coupling`. None: the same row, an independent coupling if the
            batches are independent.

    Returns:
        The batch: all that `matching_loss` needs.

    Raises:
        ValueError: batches of unequal shapes, empty, NaN or infinite; partners of
            another length, or that are no rows of `x1`; a path that returns something
            else.

    Example:
        >>> import jax.random as jr
        >>> from transportjax import flows
        >>> x0, x1 = jr.normal(jr.key(0), (5, 2)), 1 + jr.normal(jr.key(1), (5, 2))
        >>> partners = flows.sliced_coupling(jr.key(2), x0, x1)
        >>> batch = flows.matching_batch(jr.key(3), x0, x1, partners=partners)
        >>> batch.x.shape
        (5, 2)
    """
    _checks.check_key("key", key)
    x0, x1 = _checks.common_float(("x0", x0), ("x1", x1))
    _checks.check_points("x0", x0)
    _checks.check_points("x1", x1, x0.shape[1])
    if partners is not None:
        x1 = x1[_checks.as_partners("partners", partners, x0.shape[0], x1.shape[0])]
    _checks.check_same_length("x0", x0, "x1", x1)
    time_key, noise_key = jr.split(key)
    t = jr.uniform(time_key, x0.shape[:1], x0.dtype)
    noise = jr.normal(noise_key, x0.shape, x0.dtype)
    found = jax.vmap(path)(x0, x1, t, noise)
    _checks.check_path("path", found, x0.shape)
    return MatchingBatch(t, *found)


def matching_loss(
    field: Callable[..., Any],
    batch: MatchingBatch,
    conditions: ArrayLike | None = None,
) -> Float[Array, ""]:
    """The mean squared error of a field on a batch, over places and coordinates.

    Its gradient in the leaves of the field is an unbiased estimate of that of the error
    to the mean of all paths. Its least value is not zero, because paths cross.

    Args:
        field: a function of (t, x), of a time and a place (d,), as `VelocityField`.
        batch: from `matching_batch`.
        conditions: what the velocities depend on, (n, c), one a place, for a field that
            `given` can put them in.

    Returns:
        The loss, in units of the velocities squared.

    Raises:
        ValueError: a field that returns other shapes than velocities; conditions of
            another number, or for a field that takes none.

    Example:
        >>> import jax.random as jr
        >>> from transportjax import flows
        >>> x0, x1 = jr.normal(jr.key(0), (9, 2)), jr.normal(jr.key(1), (9, 2))
        >>> batch = flows.matching_batch(jr.key(2), x0, x1)
        >>> loss = flows.matching_loss(lambda t, x: -x, batch)
        >>> bool(loss > 0)
        True
    """
    if conditions is None:
        found = jax.vmap(field)(batch.t, batch.x)
    else:
        conditions = _checks.as_float("conditions", conditions)
        _checks.check_conditions("conditions", conditions, batch.t.shape[0])
        _checks.check_takes_condition("field", takes_condition(field))
        found = jax.vmap(lambda t, x, c: given(field, c)(t, x))(
            batch.t, batch.x, conditions
        )
    _checks.check_velocities("field", found.shape, batch.velocity.shape)
    return jnp.mean((found - batch.velocity) ** 2)


@explicit_mesh_guard
def ideal_field(
    t: ArrayLike, x: ArrayLike, data: ArrayLike, *, weights: ArrayLike | None = None
) -> Float[Array, " d"]:
    """The field that flow matching would learn from independent pairs, in closed form.

    From N(0, I) to the points of `data` along straight lines. At time t the place x is
    on paths to all of the data, each with the mass of its Gaussian:

        u_t(x) = (sum_j w_j y_j - x) / (1 - t),  w_j ~ exp(-|x - t y_j|^2 / 2 (1-t)^2).

    It leads each noise to a point of the data: the flow that has learned them by heart.
    An oracle for learned fields, and a flow that needs no training.

    Differentiable in all arguments for t < 1.

    Args:
        t: a time in [0, 1).
        x: a place, (d,).
        data: (n, d).
        weights: masses >= 0 of the data, (n,). None: equal.

    Returns:
        The velocity, (d,).

    Raises:
        ValueError: shapes that do not fit, NaN or infinity, a time out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.flows import ideal_field
        >>> print(ideal_field(0.0, jnp.zeros(1), jnp.array([[1.0], [3.0]])))  # the mean
        [2.]

    References:
        Gagneux, Martin, Emonet, Bertrand and Massias (2025), A visual dive into
        conditional flow matching.
    """
    t, x, data = _checks.common_float(("t", t), ("x", x), ("data", data))
    _checks.check_points("data", data)
    _checks.check_event("x", x, data.shape[1:])
    _checks.check_time("t", t)
    masses = _checks.as_weights("weights", weights, data.shape[:1], data.dtype)
    return _ideal(t, x, data, masses)


@jax.jit
def _ideal(t: Array, x: Array, data: Array, masses: Array | None) -> Array:
    gaps = x[None, :] - t * data
    logits = -jnp.sum(gaps**2, axis=1) / (2 * (1 - t) ** 2)
    if masses is not None:
        held = masses > 0
        log_masses = jnp.log(jnp.where(held, masses, 1))
        logits = jnp.where(held, logits + log_masses, -jnp.inf)
    return (jax.nn.softmax(logits) @ data - x) / (1 - t)
