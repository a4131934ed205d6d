"""Thin plate splines: the warps of the plane and of space that bend the least."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard

from .bijection import as_leaf, at_least_float32
from .small_matrices import solve
from .warp import AbstractWarp


class ThinPlateSpline(AbstractWarp):
    """A x + t + sum over j of w_j f(|x - c_j|), f(r) = r^2 log r or, in space, -r.

    The weights obey the side conditions, sum of w_j = 0 and sum of w_j c_j^T = 0, by
    construction: they are the leaf `coefficients` minus its affine part at the control
    points. So the leaf is unconstrained, and coefficients that obey the conditions are
    the weights themselves. Otherwise like a map of control points of any number.

    Differentiable in the event and in all leaves, except that in space the map has a
    kink of its first derivatives at each control point; the mean is taken there. The
    inverse is by Newton's method, where the spline does not fold (see `AbstractWarp`).

    Args:
        controls: control points, (k, d), more than d and not in a line or plane; d is
            2 or 3.
        matrix: A, (d, d).
        shift: t, (d,).
        coefficients: one row for each control point, (k, d).

    Raises:
        ValueError: another dimension, shapes that do not fit, or too few controls.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import ThinPlateSpline, control_grid
        >>> controls = control_grid(jnp.array([[0.0, 0.0], [1.0, 1.0]]), 3)
        >>> spline = ThinPlateSpline.identity(controls)
        >>> print(spline(jnp.array([0.25, 0.5])), spline.bending_energy())
        [0.25 0.5 ] 0.0

    References:
        Bookstein (1989), Principal warps: thin-plate splines and the decomposition of
        deformations.
        Wahba (1990), Spline models for observational data, section 2.4.
    """

    controls: Float[Array, "k d"] = eqx.field(converter=as_leaf)
    matrix: Float[Array, "d d"] = eqx.field(converter=as_leaf)
    shift: Float[Array, " d"] = eqx.field(converter=as_leaf)
    coefficients: Float[Array, "k d"] = eqx.field(converter=as_leaf)

    def __check_init__(self):
        _checks.check_warp(self.controls, self.matrix, self.shift, self.coefficients)
        _check_dimension(self.controls)

    @classmethod
    def identity(cls, controls: ArrayLike) -> "ThinPlateSpline":
        """The spline that leaves everything in place."""
        controls = _checks.as_float("controls", controls)
        _checks.check_controls("controls", controls)
        eye = jnp.eye(controls.shape[1], dtype=controls.dtype)
        return cls(controls, eye, 0 * eye[0], jnp.zeros_like(controls))

    @property
    def bumps(self) -> Float[Array, "k d"]:
        """The weights w_j: the coefficients, with the side conditions fulfilled."""
        return _without_affine(self.controls, self.coefficients)

    def _kernel(self, squares: Array) -> tuple[Array, Array]:
        return thin_plate_kernel(squares, self.shift.shape[0])


def thin_plate_kernel(squares: Array, dim: int) -> tuple[Array, Array]:
    """The kernel f at squared distances s, and 2 df/ds; both zero at distance zero."""
    positive = squares > 0
    safe = jnp.where(positive, squares, 1)
    if dim == 2:
        log = jnp.log(safe)
        value, slope = safe * log / 2, log + 1
    else:
        value = -jnp.sqrt(safe)
        slope = 1 / value
    return jnp.where(positive, value, 0), jnp.where(positive, slope, 0)


@explicit_mesh_guard
def thin_plate_fit(
    x: ArrayLike, y: ArrayLike, *, smoothness: int | float | ArrayLike = 0.0
) -> ThinPlateSpline:
    """The spline that takes points `x` to `y`, and bends as little as it can.

    It minimises the sum of |spline(x_i) - y_i|^2 / `smoothness` plus the bending
    energy, over all functions; its control points are `x`. One dense solve: O(k^3) time
    and O(k^2) memory. Differentiable in all arguments.

    Args:
        x: points, (k, d), d 2 or 3, more than d, not in a line or plane; distinct where
            the smoothness is 0.
        y: where they shall go, (k, d).
        smoothness: one number, or one for each point, (k,), >= 0. 0 interpolates; large
            values give the best affine map. In units of `x`^2 in the plane, of `x` in
            space.

    Returns:
        A `ThinPlateSpline`.

    Raises:
        ValueError: clouds of other shapes; equal points that are to be interpolated; a
            smoothness that is negative or has another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import thin_plate_fit
        >>> corners = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        >>> moved = corners.at[3].add(0.5)
        >>> print(thin_plate_fit(corners, moved)(corners[3]).round(4))
        [1.5 1.5]

    References:
        Wahba (1990), Spline models for observational data, section 2.4.
    """
    x, y, smoothness = _checks.common_float(
        ("x", x), ("y", y), ("smoothness", smoothness)
    )
    _checks.check_points("x", x)
    _checks.check_points("y", y, x.shape[1])
    _checks.check_same_length("x", x, "y", y)
    _checks.check_controls("x", x)
    _check_dimension(x)
    _checks.check_one_or_each("smoothness", smoothness, x.shape[0], "point")
    _checks.check_distinct("x", x, "smoothness", smoothness)
    return _fit(*at_least_float32(x, y, smoothness))


@jax.jit
def _fit(x: Array, y: Array, smoothness: Array) -> ThinPlateSpline:
    # (K + smoothness) W + affine(x) = y with W = N v, N orthonormal and orthogonal to
    # affine functions: N^T (K + smoothness) N v = N^T y, a positive definite system.
    k, d = x.shape
    squares = sum((x[:, None, i] - x[None, :, i]) ** 2 for i in range(d))
    kernel = thin_plate_kernel(jnp.asarray(squares), d)[0]
    kernel = kernel + jnp.diag(jnp.broadcast_to(smoothness, (k,)))
    # the affine functions get a block of their own, in place of N
    outside = _without_affine(x, jnp.eye(k, dtype=x.dtype))
    inside = jnp.eye(k, dtype=x.dtype) - outside
    system = _product(outside, _product(kernel, outside))
    system = system + jnp.max(jnp.abs(kernel)) * inside
    weights = _without_affine(x, jnp.linalg.solve(system, _product(outside, y)))
    rest = y - _product(kernel, weights)
    mean_x, mean_rest = jnp.mean(x, axis=0), jnp.mean(rest, axis=0)
    matrix = _slope(x, rest).T
    return ThinPlateSpline(x, matrix, mean_rest - _product(matrix, mean_x), weights)


def _without_affine(controls: Array, rows: Array) -> Array:
    """The rows, (k, n), minus what is affine in the controls: they sum to zero then.

    The projection is unique, whereas an orthonormal basis of what is left would not be:
    a map read from a file would depend on the machine's factorisation.
    """
    centred = controls - jnp.mean(controls, axis=0)[None, :]
    for _ in range(2):  # the second time removes what rounding has left
        rows = rows - jnp.mean(rows, axis=0)[None, :]
        rows = rows - _product(centred, _slope(controls, rows))
    return rows


def _slope(x: Array, y: Array) -> Array:
    """The (d, n) matrix B of the least squares fit y = mean + (x - mean) B."""
    centred = x - jnp.mean(x, axis=0)[None, :]
    centred_y = y - jnp.mean(y, axis=0)[None, :]
    # of any size: the determinant of the products is a high power of it; a power of two
    # changes no digits
    exponent = jnp.frexp(lax.stop_gradient(jnp.max(jnp.abs(centred))))[1]
    size = jnp.ldexp(jnp.ones_like(centred[0, 0]), exponent)
    centred = centred / size
    return solve(_product(centred.T, centred), _product(centred.T, centred_y)) / size


def _product(left: Array, right: Array) -> Array:
    return jnp.matmul(left, right, precision="highest")


def _check_dimension(controls: Array) -> None:
    _checks.check_dimension(
        "Thin plate splines", controls.shape[1], 2, 3, "GaussianWarp"
    )
