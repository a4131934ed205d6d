"""Affine maps, and the optimal one between two Gaussians (the MKL colour transfer)."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard

from .bijection import AbstractBijection, as_leaf, at_least_float32, evaluate


class Affine(AbstractBijection):
    """y = A x + b for an invertible matrix A; an event is a vector of shape (d,).

    A is factorised once for all events of a `vmap`. A singular A is accepted, because x
    can still be mapped; its log-determinant is minus infinity, its inverse not finite.

    Args:
        matrix: A, shape (d, d).
        offset: b, shape (d,).

    Raises:
        ValueError: shapes other than (d, d) and (d,).

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import Affine
        >>> map = Affine(jnp.array([[1.0, 2.0], [0.0, 1.0]]), jnp.array([10.0, 20.0]))
        >>> print(map(jnp.array([1.0, 2.0])))
        [15. 22.]
        >>> print(map.inverse(jnp.array([15.0, 22.0])))
        [1. 2.]
    """

    matrix: Float[Array, "d d"] = eqx.field(converter=as_leaf)
    offset: Float[Array, " d"] = eqx.field(converter=as_leaf)

    def __check_init__(self):
        _checks.check_affine(self.matrix, self.offset)

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """A x + b and log |det A|."""
        return evaluate(Affine._forward, self, x, self.offset.shape)

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """A^-1 (y - b) and -log |det A|."""
        return evaluate(Affine._backward, self, y, self.offset.shape)

    def _forward(self, x: Array) -> tuple[Array, Array]:
        value = jnp.matmul(self.matrix, x, precision="highest") + self.offset
        return value, jnp.linalg.slogdet(self.matrix).logabsdet

    def _backward(self, y: Array) -> tuple[Array, Array]:
        # The inverse matrix is made once and events are products with it, which stay on
        # their device; a triangular solve would gather them. With one refinement it is
        # as exact as a solve (in float32 up to a condition number of 1e5).
        inverse = jnp.linalg.inv(self.matrix)
        y = y - self.offset
        value = jnp.matmul(inverse, y, precision="highest")
        rest = y - jnp.matmul(self.matrix, value, precision="highest")
        value = value + jnp.matmul(inverse, rest, precision="highest")
        return value, -jnp.linalg.slogdet(self.matrix).logabsdet


def gaussian_map(
    mean_x: ArrayLike,
    cov_x: ArrayLike,
    mean_y: ArrayLike,
    cov_y: ArrayLike,
    *,
    rtol: float | None = None,
) -> Affine:
    """The optimal map from N(mean_x, cov_x) to N(mean_y, cov_y) for squared distances.

    y = A (x - mean_x) + mean_y with the symmetric, positive
    A = cov_x^(-1/2) (cov_x^(1/2) cov_y cov_x^(1/2))^(1/2) cov_x^(-1/2).

    A source without variance in some direction (a grey picture stored as RGB) says
    nothing about that direction, and the formula divides by zero there. Such directions
    pass through: A is the map between the two Gaussians within the other directions,
    and one along these. A target without variance in some direction is reached all the
    same: A is then singular, and has no inverse.

    Differentiable in all four arguments, any number of times, also where eigenvalues
    are equal: no derivative of an eigenvector is taken. The set of directions without
    variance is held constant; the square root has derivative zero along directions in
    which the target has no variance.

    Args:
        mean_x: mean of the source, shape (d,).
        cov_x: covariance of the source, shape (d, d), symmetric, positive semidefinite.
        mean_y: mean of the target, shape (d,).
        cov_y: covariance of the target, shape (d, d).
        rtol: eigenvalues of `cov_x` up to `rtol` times the largest count as zero.
            Default: ten units of rounding a dimension, 10 d eps.

    Returns:
        The map, in the widest dtype of the arguments, float32 at least.

    Raises:
        ValueError: wrong shapes; covariances that are not symmetric and positive
            semidefinite.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import gaussian_map
        >>> cov_x, cov_y = jnp.array([[1.0, 0], [0, 4]]), jnp.array([[9.0, 0], [0, 1]])
        >>> map = gaussian_map(jnp.zeros(2), cov_x, jnp.ones(2), cov_y)
        >>> print(jnp.allclose(map.matrix, jnp.diag(jnp.array([3.0, 0.5]))))
        True

    References:
        Olkin and Pukelsheim (1982), "The distance between two random vectors with given
        dispersion matrices".
        Pitie and Kokaram (2007), "The linear Monge-Kantorovitch linear colour mapping
        for example-based colour transfer", equation (25).
    """
    mean_x, cov_x, mean_y, cov_y = _checks.common_float(
        ("mean_x", mean_x), ("cov_x", cov_x), ("mean_y", mean_y), ("cov_y", cov_y)
    )
    _checks.check_moments("mean_x", mean_x, "cov_x", cov_x)
    _checks.check_moments("mean_y", mean_y, "cov_y", cov_y, dim=mean_x.shape[0])
    mean_x, cov_x, mean_y, cov_y = at_least_float32(mean_x, cov_x, mean_y, cov_y)
    return _gaussian_map(mean_x, cov_x, mean_y, cov_y, rtol)


@explicit_mesh_guard
def monge_kantorovich_linear(
    source: ArrayLike,
    target: ArrayLike,
    *,
    source_weights: ArrayLike | None = None,
    target_weights: ArrayLike | None = None,
    rtol: float | None = None,
) -> Affine:
    """The optimal map between the Gaussians fitted to two clouds of points.

    The clouds' means and covariances go to `gaussian_map`. Covariances are unbiased:
    sums are divided by n - 1, and with weights w by W - sum(w^2) / W, W = sum(w), which
    is the same for equal weights and does not depend on their scale. A single point has
    no variance: it is moved onto the target's mean.

    Differentiable in the points and in the weights.

    Args:
        source: points, shape (n, d).
        target: points, shape (m, d).
        source_weights: weights of the source points, shape (n,), >= 0.
        target_weights: weights of the target points, shape (m,), >= 0.
        rtol: as in `gaussian_map`.

    Returns:
        The map, in the widest dtype of points and weights, float32 at least.

    Raises:
        ValueError: empty clouds, unequal dimensions, values that are not finite,
            negative or all-zero weights.

    Example:
        >>> import jax
        >>> import jax.random as jr
        >>> from transportjax.maps import monge_kantorovich_linear
        >>> source = jr.normal(jr.key(0), (1000, 3))
        >>> target = 2.0 * jr.normal(jr.key(1), (1500, 3)) + 5.0
        >>> moved = jax.vmap(monge_kantorovich_linear(source, target))(source)
        >>> print(abs(moved.mean(0) - target.mean(0)).max() < 1e-4)
        True

    References:
        Pitie and Kokaram (2007), "The linear Monge-Kantorovitch linear colour mapping
        for example-based colour transfer".
    """
    named = [("source", source), ("target", target)]
    named += [("source_weights", source_weights), ("target_weights", target_weights)]
    given = [pair for pair in named if pair[1] is not None]
    floats = dict(
        zip([name for name, _ in given], _checks.common_float(*given), strict=True)
    )
    x, y = floats["source"], floats["target"]
    _checks.check_points("source", x)
    _checks.check_points("target", y, x.shape[1])
    for name, points in (("source_weights", x), ("target_weights", y)):
        if name in floats:
            _checks.check_weights(name, floats[name], points.shape[:1])
    floats = dict(zip(floats, at_least_float32(*floats.values()), strict=True))
    source_moments = moments(floats["source"], floats.get("source_weights"))
    target_moments = moments(floats["target"], floats.get("target_weights"))
    return _gaussian_map(*source_moments, *target_moments, rtol)


def moments(x: Array, weights: Array | None) -> tuple[Array, Array]:
    """Mean (d,) and unbiased covariance (d, d)."""
    if weights is None:
        weights = jnp.full_like(x[:, 0], 1 / x.shape[0])
    else:
        weights = weights / jnp.max(weights)  # so that no sum overflows
        weights = weights / jnp.sum(weights)
    mean = jnp.matmul(weights, x, precision="highest")
    centred = x - mean[None, :]
    # far from zero the mean is rounded; what is left of it goes a second time
    rest = jnp.matmul(weights, centred, precision="highest")
    centred = centred - rest[None, :]
    second = jnp.matmul(weights[None, :] * centred.T, centred, precision="highest")
    # zero for one point, whose second moment is zero too
    effective = 1 - jnp.sum(weights**2)
    is_spread = effective > float(jnp.finfo(x.dtype).eps)
    effective = jnp.where(is_spread, effective, jnp.ones_like(effective))
    return mean + rest, second / effective


@jax.jit
def _gaussian_map(
    mean_x: Array, cov_x: Array, mean_y: Array, cov_y: Array, rtol: Array | None
) -> Affine:
    matrix = optimal_matrix(*_pass_null_directions(cov_x, cov_y, rtol))
    offset = mean_y - jnp.matmul(matrix, mean_x, precision="highest")
    return Affine(matrix, offset)


def _pass_null_directions(
    cov_x: Array, cov_y: Array, rtol: Array | None
) -> tuple[Array, Array]:
    """Both covariances with one equal variance along the null directions of `cov_x`.

    The two blocks no longer interact, and the block of the null directions maps N(0, s)
    to N(0, s): by the identity.
    """
    cov_x, cov_y = _symmetric(cov_x), _symmetric(cov_y)
    values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(cov_x))
    largest = values[-1]
    least = largest * (_rounding(cov_x) if rtol is None else rtol)
    vectors = jnp.where((values <= least)[None, :], vectors, jnp.zeros_like(vectors))
    null = jnp.matmul(vectors, vectors.T, precision="highest")
    rest = jnp.eye(cov_x.shape[0], dtype=cov_x.dtype) - null
    level = jnp.where(largest > 0, largest, jnp.ones_like(largest)) * null
    return (
        _symmetric(_rotate(rest, cov_x) + level),
        _symmetric(_rotate(rest, cov_y) + level),
    )


@jax.custom_jvp
def optimal_matrix(
    cov_x: Float[Array, "d d"], cov_y: Float[Array, "d d"]
) -> Float[Array, "d d"]:
    """The symmetric A >= 0 with A cov_x A = cov_y, for cov_x > 0 and cov_y >= 0.

    With cov_x = X X^T, cov_y = Y Y^T and X^T Y = U S V^T it is Y V U^T X^-1; a step of
    Newton's method takes most of the rounding away. The roots of the textbook formula
    would square the condition number, and cost float32 three digits on photographs.
    """
    start, factor, inverse, roots = _factorise(cov_x, cov_y)
    start = _symmetric(start)
    rest = _rotate(inverse, cov_y - _rotate(start, cov_x))
    return start + _symmetric(_rotate(factor, _divide(rest, roots)))


# A C A = D, for covariances C and D, gives dA (C A) + (C A)^T dA = dD - A dC A: linear
# equations that have one solution also where eigenvalues are equal, and eigenvectors
# have no derivative. As a linear solve they can be differentiated any number of times.
@optimal_matrix.defjvp
def _optimal_matrix_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]):
    (cov_x, cov_y), (d_cov_x, d_cov_y) = primals, tangents
    matrix = optimal_matrix(cov_x, cov_y)
    change = _symmetric(d_cov_y) - _rotate(matrix, _symmetric(d_cov_x))
    ca = _product(cov_x, matrix)

    def left_side(z: Array) -> Array:
        return _product(z, ca) + _product(ca.T, z)

    # C A = P^-T S P^T, so that for Z = P W P^T the left side is P (W S + S W) P^T.
    def solve(_, right: Array) -> Array:
        _, factor, inverse, roots = _factorise(cov_x, cov_y)
        return _rotate(factor, _divide(_rotate(inverse, right), roots))

    def solve_transposed(_, right: Array) -> Array:
        _, factor, inverse, roots = _factorise(cov_x, cov_y)
        return _rotate(inverse.T, _divide(_rotate(factor.T, right), roots))

    return matrix, jax.lax.custom_linear_solve(
        left_side, change, solve, solve_transposed
    )


def _factorise(cov_x: Array, cov_y: Array) -> tuple[Array, Array, Array, Array]:
    """A but for rounding, P = X^-T U, P^-1, and diag(S), as in `optimal_matrix`."""
    values, vectors = jnp.linalg.eigh(cov_x)
    deviations = jnp.sqrt(values)
    x_root, x_inverse = vectors * deviations[None, :], vectors.T / deviations[:, None]
    y_values, y_vectors = jnp.linalg.eigh(cov_y)
    y_root = y_vectors * jnp.sqrt(jnp.maximum(y_values, 0))[None, :]
    u, roots, v = jnp.linalg.svd(_product(x_root.T, y_root))
    matrix = _product(_product(y_root, v.T), _product(u.T, x_inverse))
    return matrix, _product(x_inverse.T, u), _product(u.T, x_root.T), roots


def _divide(matrix: Array, roots: Array) -> Array:
    """The W with W S + S W = `matrix`; zero where S has only rounding."""
    sums = roots[:, None] + roots[None, :]
    is_safe = sums > _rounding(matrix) * roots[0]
    return jnp.where(is_safe, matrix / jnp.where(is_safe, sums, 1), 0)


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision="highest")


def _rotate(outer: Array, inner: Array) -> Array:
    return _product(_product(outer, inner), outer.T)


def _symmetric(matrix: Array) -> Array:
    return (matrix + matrix.T) / 2


def _rounding(matrix: Array) -> float:
    """What eigenvalues owe to rounding, relative to the largest one."""
    return 10 * matrix.shape[0] * float(jnp.finfo(matrix.dtype).eps)
