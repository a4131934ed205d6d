"""A robust distance of clouds whose points are paired."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard

from .gaussian import squared_distance


@explicit_mesh_guard
def paired_divergence(
    x: ArrayLike,
    y: ArrayLike,
    scale: int | float | ArrayLike,
    *,
    weights: ArrayLike | None = None,
) -> Float[Array, ""]:
    """The sum over pairs of w_k (2 - 2 exp(-|x_k - y_k|^2 / scale^2)), without unit.

    Twice the Welsch loss: each pair counts by the squared L2 distance, in units of its
    peak, of two equal Gaussians around its points. For near pairs it is
    2 |x_k - y_k|^2 / scale^2; wrong pairs, further apart than twice the scale, hardly
    pull. Differentiable in all arguments, any number of times.

    Args:
        x: points, `(n, d)`.
        y: their partners, `(n, d)`; repeat points that have several.
        scale: the scale s > 0, in units of the points: twice the bandwidth h of either
            kernel.
        weights: w, `(n,)`, used as they are. None: 1/n each, the mean over the pairs;
            weights of one give the sum.

    Returns:
        A scalar, in the dtype of the points.

    Raises:
        ValueError: points of different shapes, empty or not finite; a scale that is not
            positive; weights that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.mixtures import paired_divergence
        >>> x = jnp.array([[0.0, 0.0], [1.0, 2.0]])
        >>> y = jnp.array([[0.0, 0.1], [90.0, 9.0]])  # the second is an outlier
        >>> print(paired_divergence(x, y, 1.0).round(4))
        1.01

    References:
        Grogan and Dahyot (2019), L2 divergence for robust colour transfer, on
        correspondences.
    """
    x, y = _checks.common_float(("x", x), ("y", y))
    _checks.check_points("x", x)
    _checks.check_same_length("x", x, "y", y)
    _checks.check_points("y", y)
    dtype, work = x.dtype, _checks.working_dtype(x.dtype)
    scale = _checks.as_float("scale", scale).astype(work)
    _checks.check_width("scale", scale)
    if weights is None:
        weights = jnp.full_like(x, 1 / len(x), shape=x.shape[:1], dtype=work)
    weights = _checks.as_float("weights", weights).astype(work)
    _checks.check_signed_weights("weights", weights, len(x))
    x, y = x.astype(work) / scale, y.astype(work) / scale
    losses = -2 * jnp.expm1(-jax.vmap(squared_distance)(x, y))
    return jnp.vdot(weights, losses, precision="highest").astype(dtype)
