"""Warps: an affine map plus a bump around each control point."""

import abc
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard

from .bijection import AbstractBijection, evaluate
from .small_matrices import log_abs_det, solve

_NEWTON_STEPS = 16
_DAMPING = (1.0, 0.5, 0.25, 0.1, 0.01, 0.0)  # shares of a step that are tried
_MARGIN = 0.05  # of the extent, on each side of a grid of controls
_NUMS = {2: 8, 3: 6}  # controls along each axis, of a dimension


class AbstractWarp(AbstractBijection):
    """A x + t + sum over j of w_j f(|x - c_j|), for control points c_j.

    The value, the Jacobian and the log-determinant are in closed form. A warp is
    one-to-one as long as it does not fold, that is while det of its Jacobian keeps its
    sign: small enough coefficients. The inverse is found by damped Newton steps from
    the inverse of the affine part, of a fixed number; it is exact, with its derivatives
    up to the second, where the warp does not fold, and some point elsewhere.
    """

    controls: eqx.AbstractVar[Float[Array, "k d"]]
    matrix: eqx.AbstractVar[Float[Array, "d d"]]
    shift: eqx.AbstractVar[Float[Array, " d"]]
    coefficients: eqx.AbstractVar[Float[Array, "k d"]]

    @property
    @abc.abstractmethod
    def bumps(self) -> Float[Array, "k d"]:
        """The weights w_j, one row a control point."""

    @abc.abstractmethod
    def _kernel(self, squares: Array) -> tuple[Array, Array]:
        """The kernel at squared distances s, and 2 df/ds: times x - c, its gradient."""

    def bending_energy(self) -> Float[Array, ""]:
        """How much the warp bends: the sum over i, j of w_i . w_j f(|c_i - c_j|).

        Zero for affine maps. Differentiable in all leaves.
        """
        left, right = self._energy_factors()
        return jnp.vdot(left, right)

    def jacobian(self, x: ArrayLike) -> Float[Array, "d d"]:
        """The matrix of derivatives at one event; at a control point, of its mean."""
        x = _checks.as_float("x", x)
        _checks.check_event("x", x, self.shift.shape)
        return self._jacobian(x.astype(jnp.result_type(x, self.shift)))

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The warped event and log |det| of the Jacobian."""
        return evaluate(type(self)._forward, self, x, self.shift.shape)

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The event that is warped to `y`, by Newton's method, and the log-det."""
        return evaluate(type(self)._backward, self, y, self.shift.shape)

    def _energy_factors(self) -> tuple[Array, Array]:
        """W and K W; both are linear in the coefficients."""
        bumps = self.bumps
        values = jax.vmap(lambda c: self._at(c)[1])(self.controls)
        return bumps, jnp.matmul(values, bumps, precision="highest")

    def _at(self, x: Array) -> tuple[Array, Array, Array]:
        """Differences to the controls, values of the kernel there, and its slopes."""
        differences = x[None, :] - self.controls
        # a sum over a short last axis is slow on CPUs, and this one is written out
        squares = sum(differences[:, i] ** 2 for i in range(x.shape[0]))
        return differences, *self._kernel(jnp.asarray(squares))

    def _value(self, x: Array) -> Array:
        _, values, _ = self._at(x)
        affine = jnp.matmul(self.matrix, x, precision="highest") + self.shift
        return affine + jnp.matmul(values, self.bumps, precision="highest")

    def _jacobian(self, x: Array) -> Array:
        differences, _, slopes = self._at(x)
        gradients = slopes[:, None] * differences
        return self.matrix + jnp.matmul(self.bumps.T, gradients, precision="highest")

    def _forward(self, x: Array) -> tuple[Array, Array]:
        return self._value(x), log_abs_det(self._jacobian(x))

    def _backward(self, y: Array) -> tuple[Array, Array]:
        # Newton's error is squared by each step, that of the derivatives too: after one
        # step from a constant, first derivatives are exact, after two the next as well.
        x = lax.stop_gradient(_newton(*lax.stop_gradient((self, y))))
        for _ in range(2):
            x = x - _step(self, x, y)
        return x, -log_abs_det(self._jacobian(x))


def _step(warp: AbstractWarp, x: Array, y: Array) -> Array:
    return solve(warp._jacobian(x), warp._value(x) - y)


def _newton(warp: AbstractWarp, y: Array) -> Array:
    """The event at which the warp is `y`, without useful derivatives."""

    def improve(x: Array, _: None) -> tuple[Array, None]:
        shares = jnp.asarray(_DAMPING, dtype=x.dtype)
        trials = x[None, :] - shares[:, None] * _step(warp, x, y)[None, :]
        rests = jax.vmap(warp._value)(trials) - y[None, :]
        sizes = jnp.sum(rests**2, axis=1)
        sizes = jnp.where(jnp.isfinite(sizes), sizes, jnp.inf)
        return jnp.where(jnp.isfinite(trials), trials, x)[jnp.argmin(sizes)], None

    start = solve(warp.matrix, y - warp.shift)
    start = jnp.where(jnp.isfinite(start), start, y)
    return lax.scan(improve, start, None, length=_NEWTON_STEPS)[0]


@explicit_mesh_guard
def control_grid(points: ArrayLike, num: int | None = None) -> Float[Array, "k d"]:
    """A grid of num^d control points over the points, in their units.

    It covers their bounding box, enlarged by five percent of its extent on each side.
    An axis along which the points hardly vary gets a twentieth of the longest.

    Args:
        points: the points to be warped, (n, d); put the target's there too if the warp
            shall reach it (`jnp.concatenate`).
        num: control points along each axis, at least two. More bend more finely. None:
            8 in the plane, 6 in space, 5 in other dimensions.

    Returns:
        The grid, the last coordinate running fastest.

    Raises:
        ValueError: points that are not (n, d), are empty, all equal, or hold NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import control_grid
        >>> print(control_grid(jnp.array([[0.0, 0.0], [10.0, 20.0]]), 2))
        [[-0.5 -1. ]
         [-0.5 21. ]
         [10.5 -1. ]
         [10.5 21. ]]
    """
    points = _checks.as_float("points", points)
    _checks.check_points("points", points)
    num = _NUMS.get(points.shape[1], 5) if num is None else num
    _checks.check_count("num", num, 2)
    grid, extent = _grid(points, num)
    _checks.check_extent("points", extent)
    return grid


@functools.partial(jax.jit, static_argnums=1)
def _grid(points: Array, num: int) -> tuple[Float[Array, "k d"], Float[Array, " d"]]:
    """The grid, and the extent of the points."""
    low, high = jnp.min(points, axis=0), jnp.max(points, axis=0)
    extent = jnp.maximum(high - low, _MARGIN * jnp.max(high - low))
    middle, half = (low + high) / 2, (0.5 + _MARGIN) * extent
    axes = jnp.linspace(middle - half, middle + half, num)
    grid = jnp.meshgrid(*axes.T, indexing="ij")
    return jnp.stack(grid, axis=-1).reshape(-1, points.shape[1]), extent
