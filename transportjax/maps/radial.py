"""Warps by Gaussian bumps, in any dimension."""

import equinox as eqx
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks

from .bijection import as_leaf
from .warp import AbstractWarp


class GaussianWarp(AbstractWarp):
    """A x + t + sum over j of w_j exp(-|x - c_j|^2 / (2 b^2)), b the width.

    Smooth, and affine far from the control points; the warp of coherent point drift
    with A = I and t = 0. Differentiable in the event and in all leaves. The inverse is
    by Newton's method, where the warp does not fold (see `AbstractWarp`).

    Args:
        controls: control points, (k, d), more than d, not in a hyperplane.
        matrix: A, (d, d).
        shift: t, (d,).
        coefficients: the weights w_j, one row for each control point, (k, d).
        log_width: the logarithm of b, a number; so that it can be trained.

    Raises:
        ValueError: shapes that do not fit, or too few controls.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import GaussianWarp
        >>> controls = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
        >>> warp = GaussianWarp.identity(controls, width=0.5)
        >>> print(warp(jnp.array([0.25, 0.5])))
        [0.25 0.5 ]

    References:
        Myronenko and Song (2010), Point set registration: coherent point drift,
        section 5.
        Jian and Vemuri (2011), Robust point set registration using Gaussian mixture
        models, section 4.2.
    """

    controls: Float[Array, "k d"] = eqx.field(converter=as_leaf)
    matrix: Float[Array, "d d"] = eqx.field(converter=as_leaf)
    shift: Float[Array, " d"] = eqx.field(converter=as_leaf)
    coefficients: Float[Array, "k d"] = eqx.field(converter=as_leaf)
    log_width: Float[Array, ""] = eqx.field(converter=as_leaf)

    def __check_init__(self):
        _checks.check_warp(self.controls, self.matrix, self.shift, self.coefficients)
        _checks.check_number("log_width", self.log_width)

    @classmethod
    def identity(
        cls, controls: ArrayLike, *, width: int | float | ArrayLike | None = None
    ) -> "GaussianWarp":
        """The warp that leaves everything in place.

        Args:
            controls: control points, (k, d).
            width: b > 0, in units of the points. None: one and a half times the mean
                distance of a control point to its nearest neighbour, so that the bumps
                overlap.

        Raises:
            ValueError: bad controls, or a width that is not positive.
        """
        controls = _checks.as_float("controls", controls)
        _checks.check_controls("controls", controls)
        width = (
            _spacing(controls) if width is None else _checks.as_float("width", width)
        )
        _checks.check_number("width", width, 0, open_low=True)
        eye = jnp.eye(controls.shape[1], dtype=controls.dtype)
        log_width = jnp.log(width).astype(controls.dtype)
        return cls(controls, eye, 0 * eye[0], jnp.zeros_like(controls), log_width)

    @property
    def bumps(self) -> Float[Array, "k d"]:
        """The weights w_j."""
        return self.coefficients

    def _kernel(self, squares: Array) -> tuple[Array, Array]:
        precision = jnp.exp(-2 * self.log_width)
        value = jnp.exp(-squares * precision / 2)
        return value, -precision * value


def _spacing(controls: Array) -> Array:
    squares = jnp.sum((controls[:, None] - controls[None]) ** 2, axis=-1)
    squares = squares + jnp.diag(jnp.full(len(controls), jnp.inf, squares.dtype))
    return 1.5 * jnp.mean(jnp.sqrt(jnp.min(squares, axis=1)))
