r"""Sliced distances on the sphere: transport on circles, averaged over planes.

A plane through the origin, with orthonormal rows U, meets the unit sphere in a great
circle. A point x goes to its nearest point there, U x / |U x|, of which the angle
counts, in turns. Distances on the circle of length one, averaged over planes, compare
clouds on the sphere.

All values depend on the directions of the points alone. Gradients in points are ambient
ones, and yet tangent to the sphere: orthogonal to each point, there is nothing to
project. A step along them leaves the sphere; divide by the norm after it.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import (
    as_float,
    as_weights,
    check_absent,
    check_count,
    check_number,
    check_on_sphere,
    check_planes,
    common_float,
)
from transportjax._sharding import explicit_mesh_guard
from transportjax.onedim.circle import wasserstein_circle
from transportjax.onedim.circle_linear import (
    linear_circular_wasserstein,
    wasserstein_circle_uniform,
)
from transportjax.onedim.levels import working_precision

from .distance import as_exponent, in_blocks, root_of_cost
from .planes import great_circle_turns

_BLOCK = 2**21  # coordinates of a cloud in a block, unless told otherwise, but at least
_ROWS = 64  # planes


@explicit_mesh_guard
def spherical_sliced_wasserstein(
    x: ArrayLike,
    y: ArrayLike,
    planes: ArrayLike,
    *,
    p: ArrayLike = 2,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
    chunk: int | None = None,
    root: bool = False,
) -> Float[Array, ""]:
    """SSW_p^p: the mean over planes of W_p^p between projections onto great circles.

    Circles have length one; for arc lengths multiply by (2 pi)^p. Differentiable in
    `x`, `y`, `planes`, both weights and `p`, with the order of the projections and the
    cuts of the circles held constant. Gradients in points are tangent to the sphere.

    Args:
        x: points on the unit sphere, `(n, d)`, d >= 2.
        y: points on it, `(m, d)`; their number may differ.
        planes: two orthonormal rows for each plane, `(p, 2, d)`, as of `sphere_planes`.
            Fresh ones at each step of an optimisation make its gradient unbiased. In
            two dimensions one is enough: W_p^p on the circle.
        p: the exponent in [1, 100]: a number, or a scalar array. Integers are fastest.
        x_weights: masses >= 0 of `x`, `(n,)`; normalised. None: uniform, which is
            faster by far.
        y_weights: likewise of `y`, `(m,)`.
        chunk: how many planes to hold at once; a gradient computes again what it does
            not hold. None: all planes of small clouds, and at least 64 of any.
        root: whether to return SSW_p rather than its power p. The gradient of the root
            is zero where the distance is zero.

    Returns:
        A scalar of the dtype of the inputs; integers count as floats.

    Raises:
        ValueError: points that are not on the sphere up to 1e-4, planes that are not
            orthonormal, or of wrong shapes; NaN or infinite values; weights that are
            negative, all zero or of the wrong length; p < 1. Values are looked at
            unless they are traced.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import spherical_sliced_wasserstein
        >>> x, y = jnp.array([[1.0, 0.0, 0.0]]), jnp.array([[0.0, 1.0, 0.0]])
        >>> value = spherical_sliced_wasserstein(x, y, jnp.eye(2, 3)[None])
        >>> print(value)  # a quarter of the circle, squared
        0.0625

    References:
        Bonet, Berg, Courty, Septier, Drumetz and Pham, 2023, "Spherical sliced
        Wasserstein".
    """
    check_number("p", p, 1, 100)
    return _sliced(x, y, planes, p, x_weights, y_weights, chunk, root)


@explicit_mesh_guard
def spherical_sliced_uniform(
    x: ArrayLike,
    planes: ArrayLike,
    *,
    x_weights: ArrayLike | None = None,
    chunk: int | None = None,
    root: bool = False,
) -> Float[Array, ""]:
    """SSW_2^2 between a cloud and the uniform law on the sphere, in closed form.

    The uniform law is uniform on every great circle, so no sample of it is needed; at
    n points the value is at least 1 / (12 n^2). Differentiable in `x`, `planes` and the
    weights. As a loss it spreads points evenly.

    Args:
        x: points on the unit sphere, `(n, d)`, d >= 2.
        planes: two orthonormal rows for each plane, `(p, 2, d)`.
        x_weights: masses >= 0 of `x`, `(n,)`; normalised. None: uniform.
        chunk: how many planes to hold at once, as in `spherical_sliced_wasserstein`.
        root: whether to return SSW_2.

    Returns:
        A scalar; circles have length one.

    Raises:
        ValueError: as `spherical_sliced_wasserstein`.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import spherical_sliced_uniform
        >>> x = jnp.array([[1.0, 0.0], [-1.0, 0.0]])
        >>> print(spherical_sliced_uniform(x, jnp.eye(2)[None]))  # 1 / 48
        0.020833334

    References:
        Bonet, Berg, Courty, Septier, Drumetz and Pham, 2023, "Spherical sliced
        Wasserstein", section 3.2.
    """
    return linear_spherical_sliced(
        x, None, planes, x_weights=x_weights, chunk=chunk, root=root
    )


@explicit_mesh_guard
def linear_spherical_sliced(
    x: ArrayLike,
    y: ArrayLike | None,
    planes: ArrayLike,
    *,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
    chunk: int | None = None,
    root: bool = False,
) -> Float[Array, ""]:
    """LSSOT_2^2: the mean over planes of the linear circular distance.

    As `spherical_sliced_wasserstein` for p = 2, with `linear_circular_wasserstein` on
    the great circles: without the search, at least as great, and a metric by linear
    features of each cloud. Differentiable in everything.

    Args:
        x: points on the unit sphere, `(n, d)`, d >= 2.
        y: points on it, `(m, d)`, or None: the uniform law, where it is SSW_2^2.
        planes: two orthonormal rows for each plane, `(p, 2, d)`.
        x_weights: masses >= 0 of `x`, `(n,)`; normalised. None: uniform.
        y_weights: likewise of `y`, `(m,)`.
        chunk: how many planes to hold at once, as in `spherical_sliced_wasserstein`.
        root: whether to return LSSOT_2.

    Returns:
        A scalar; circles have length one.

    Raises:
        ValueError: as `spherical_sliced_wasserstein`; or weights without points.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import linear_spherical_sliced
        >>> x, y = jnp.array([[1.0, 0.0, 0.0]]), jnp.array([[0.0, 1.0, 0.0]])
        >>> print(linear_spherical_sliced(x, y, jnp.eye(2, 3)[None]))
        0.0625

    References:
        Liu, Bai, Martin, Shi, Shahbazi, Landman, Chang and Kolouri, 2025, "Linear
        spherical sliced optimal transport".
    """
    if y is None:
        check_absent("y_weights", y_weights, "y")
    return _sliced(x, y, planes, None, x_weights, y_weights, chunk, root)


class _Problem(NamedTuple):
    x: Float[Array, "n d"]
    y: Float[Array, "m d"] | None  # None: the uniform law
    x_weights: Float[Array, " n"] | None
    y_weights: Float[Array, " m"] | None
    p: Any  # an int or an array; None: the linear circular distance


def _sliced(
    x: ArrayLike,
    y: ArrayLike | None,
    planes: ArrayLike,
    p: Any,
    x_weights: ArrayLike | None,
    y_weights: ArrayLike | None,
    chunk: int | None,
    root: bool,
) -> Array:
    """The mean cost over planes, of unchecked arguments."""
    x = as_float("x", x)
    y = None if y is None else as_float("y", y)
    check_on_sphere("x", x)  # as exactly as its dtype tells
    if y is not None:
        check_on_sphere("y", y, x.shape[1])
    rest = [] if y is None else [("y", y)]
    x, planes, *rest = common_float(("x", x), ("planes", planes), *rest)
    check_planes("planes", planes, x.shape[1])
    dtype = x.dtype
    x, planes, *rest = map(working_precision, (x, planes, *rest))
    y = rest[0] if rest else None
    a = as_weights("x_weights", x_weights, x.shape[:1], x.dtype)
    b = None
    if y is not None:
        b = as_weights("y_weights", y_weights, y.shape[:1], x.dtype)
    p = None if p is None else as_exponent(p, x.dtype)
    points = max(len(cloud) for cloud in (x, *rest))
    chunk = max(_ROWS, _BLOCK // points) if chunk is None else chunk
    check_count("chunk", chunk)
    problem, num_blocks = _Problem(x, y, a, b, p), -(-planes.shape[0] // chunk)
    value = _mean_cost(problem, planes, num_blocks)
    return (root_of_cost(value, 2 if p is None else p) if root else value).astype(dtype)


@eqx.filter_jit
def _mean_cost(problem: _Problem, planes: Array, num_blocks: int) -> Array:
    """The mean cost over the planes, in blocks."""
    if num_blocks == 1:
        return jnp.mean(_costs(problem, planes))
    one = jax.checkpoint(lambda block: _costs(problem, block))
    costs = lax.map(one, in_blocks(planes, num_blocks))
    return jnp.mean(costs.T.reshape(-1)[: planes.shape[0]])


def _costs(problem: _Problem, planes: Array) -> Array:
    """The cost between projections onto each circle."""
    x, y, a, b, p = problem
    x = great_circle_turns(x, planes)
    if y is None:
        return wasserstein_circle_uniform(x, x_weights=a)
    y = great_circle_turns(y, planes)
    if p is None:
        return linear_circular_wasserstein(x, y, x_weights=a, y_weights=b)
    return wasserstein_circle(x, y, p=p, x_weights=a, y_weights=b)
