"""The layer of sliced flows: one scalar map along each of any number of directions."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks

from .bijection import AbstractBijection, as_leaf, evaluate
from .sliced import along_rows

_NUM_STEPS = 12  # of Newton's method; 8 were enough for slopes from 1e-5 to 1e3
_NUM_CUTS = 12  # of the bracket of a step, where a full step goes too far


class SlicedStep(AbstractBijection):
    """x + W^+ (T(W x) - W x): scalar maps T along any p rows of W.

    Each row w asks for the displacement T(w.x) - w.x along itself, and x moves by what
    meets these wishes best, in least squares: W^+ is the pseudo-inverse. With the rows
    theta of a sliced distance and their optimal transfers T that is a Newton step of
    SW_2^2 / 2, whose Hessian is proportional to W^T W. With orthonormal rows it is
    `SlicedMap`. A row of norm c weighs c^2 in the compromise.

    **It is a bijection, whatever the rows.** H y = grad phi(x) with H = W^T W (plus the
    projection on what is orthogonal to the rows), and phi, the sum of the integrals of
    the T at w.x, is convex because every T increases, strictly because some w moves any
    x. A step that is carried out in part, id + s (T - id) with s in (0, 1], increases
    too. With more than d rows the inverse is found by Newton's method on phi, each step
    cut where phi would rise again; its number of steps is fixed, and enough for slopes
    that jump by thousands. Otherwise it is exact.

    Differentiable in the input and in all leaves; the inverse once, with more than d
    rows. The leaves are unconstrained: unlike those of `SlicedMap`, the rows may be
    trained.

    Args:
        directions: W, shape (p, d); p <= d rows must be linearly independent.
        marginals: a scalar map whose leaves have a leading axis p, for example
            `jax.vmap(MonotoneLinear.from_knots)(x_knots, y_knots)`.

    Raises:
        ValueError: rows that are empty, NaN or dependent (where their values are
            known), or marginals of another number.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import MonotoneLinear, SlicedStep
        >>> rows = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
        >>> wishes = rows @ jnp.array([3.0, 4.0])  # one translation suits them all
        >>> marginals = jax.vmap(MonotoneLinear)(
        ...     jnp.zeros((3, 0)), jnp.zeros((3, 0)), jnp.zeros(3), wishes
        ... )
        >>> layer = SlicedStep(rows, marginals)
        >>> print(layer(jnp.array([1.0, 1.0])).round(3))
        [4. 5.]

    References:
        Bonneel, Rabin, Peyre, Pfister (2015), Sliced and Radon Wasserstein barycenters
        of measures, section 3.
        Liutkus, Simsekli, Majewski, Durmus, Stoeter (2019), Sliced-Wasserstein flows,
        section 3.3, for the layers that move new points.
    """

    directions: Float[Array, "p d"] = eqx.field(converter=as_leaf)
    marginals: AbstractBijection

    def __check_init__(self):
        _checks.check_rows("directions", self.directions)
        _checks.check_bijection("marginals", self.marginals, AbstractBijection)
        shapes = [leaf.shape for leaf in jax.tree.leaves(self.marginals)]
        _checks.check_stacked("marginals", shapes, self.directions.shape[0])

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The image of a point, and log det of I + W^+ (T' - I) W."""
        return evaluate(SlicedStep._forward, self, x, self.directions.shape[-1:])

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The point that the map takes to `y`, and minus the log det there."""
        return evaluate(SlicedStep._backward, self, y, self.directions.shape[-1:])

    def __call__(self, x: ArrayLike) -> Float[Array, " d"]:
        """The image of a point; outside of jit too, without a determinant."""
        return evaluate(SlicedStep._image, self, x, self.directions.shape[-1:])[0]

    def _image(self, x: Array) -> tuple[Array, Array]:
        """The image of a point, and the log-slopes there."""
        z = _product(self.directions, x)
        moved, log_slopes = self._along(z)
        back = jnp.linalg.pinv(self.directions)
        return x + _product(back, moved - z), log_slopes

    def _forward(self, x: Array) -> tuple[Array, Array]:
        value, log_slopes = self._image(x)
        return value, self._log_det(jnp.linalg.pinv(self.directions), log_slopes)

    def _backward(self, y: Array) -> tuple[Array, Array]:
        back = jnp.linalg.pinv(self.directions)
        target = _product(self.directions, y)
        z, log_slopes = self._along(target, "inverse_and_log_det")
        x = y + _product(back, z - target)
        if self._is_wide():  # then W y = T(W x), row by row
            return x, jnp.sum(log_slopes)
        held, *start = lax.stop_gradient((self, back, x, target))
        x = held._solve(*start)
        # One more step, the only one with derivatives: those of the implicit function.
        z = _product(self.directions, x)
        moved, log_slopes = self._along(z)
        curvature = self._curvature(back, log_slopes)
        rest = y - x - _product(back, moved - z)
        rest = _product(self._curvature(back, jnp.zeros_like(log_slopes)), rest)
        x = x + _solve_positive(lax.stop_gradient(curvature), rest)
        log_slopes = self._along(_product(self.directions, x))[1]
        return x, -self._log_det(back, log_slopes)

    def _solve(self, back: Array, x: Array, target: Array) -> Array:
        """The x with W^T T(W x) = W^T W y, from a start near it; `target` is W y.

        v.(T(z + t v) - W y) is the derivative of phi - <H y, .> along a step of which W
        makes v: negative at t = 0, and increasing. Where it is positive at the full
        step, t = 1, its zero is bracketed, by secants and halvings in turn: the line
        search must be sharp, for where slopes jump a thousandfold Newton's steps are
        wild.
        """

        def newton(x: Array, _: None) -> tuple[Array, None]:
            z = _product(self.directions, x)
            moved, log_slopes = self._along(z)
            curvature = self._curvature(back, log_slopes)
            wish = _product(self.directions.T, target - moved)
            step = _solve_positive(curvature, wish)
            v = _product(self.directions, step)

            def slope(t: Array) -> Array:
                return jnp.vdot(v, self._along(z + t * v)[0] - target)

            def cut(number: Array, bracket: tuple) -> tuple:
                low, high, below, above = bracket
                share = jnp.clip(_secant(below, above), 0.02, 0.98)
                t = low + (high - low) * jnp.where(number % 2 == 1, 0.5, share)
                now = slope(t)
                right, left = (t, high, now, above), (low, t, below, now)
                return jax.tree.map(lambda a, b: jnp.where(now < 0, a, b), right, left)

            below = -jnp.vdot(v, target - moved)
            zero = jnp.zeros_like(below)
            full = slope(zero + 1)
            bracket = (zero, zero + 1, below, full)
            bracket = lax.fori_loop(0, _NUM_CUTS, cut, bracket)
            low, high, below, above = bracket
            t = low + (high - low) * _secant(below, above)
            return x + jnp.where(full <= 0, 1, t) * step, None

        return lax.scan(newton, x, length=_NUM_STEPS)[0]

    def _along(
        self, z: Float[Array, " p"], method: str = "transform_and_log_det"
    ) -> tuple[Float[Array, " p"], Float[Array, " p"]]:
        """The scalar maps at the p numbers, with their log-slopes."""
        return along_rows(self.marginals, method, z)

    def _is_wide(self) -> bool:
        return self.directions.shape[0] <= self.directions.shape[1]

    def _log_det(
        self, back: Float[Array, "d p"], log_slopes: Float[Array, " p"]
    ) -> Float[Array, ""]:
        """The log det of the Jacobian I + W^+ (T' - I) W = H^-1 phi''."""
        if self._is_wide():  # then W W^+ = I
            return jnp.sum(log_slopes)
        flat = self._curvature(back, jnp.zeros_like(log_slopes))
        bent = self._curvature(back, log_slopes)
        return jnp.linalg.slogdet(bent).logabsdet - jnp.linalg.slogdet(flat).logabsdet

    def _curvature(
        self, back: Float[Array, "d p"], log_slopes: Float[Array, " p"]
    ) -> Float[Array, "d d"]:
        """The matrix phi'' = W^T T' W, plus the projection on what no row sees.

        It is positive definite; for slopes of one it is H.
        """
        unseen = jnp.eye(back.shape[0], dtype=back.dtype)
        unseen = unseen - _product(back, self.directions)
        # zero where the rows span the space: its rounding must not hide small slopes
        unseen = jnp.where(jnp.trace(unseen) < 0.5, 0, unseen)
        weighted = jnp.exp(log_slopes)[:, None] * self.directions
        return unseen + _product(self.directions.T, weighted)


def _product(matrix: Array, x: Array) -> Array:
    return jnp.matmul(matrix, x, precision="highest")


def _secant(below: Array, above: Array) -> Array:
    """The share of a bracket at which the line through its ends is zero."""
    gap = above - below
    return jnp.clip(-below / jnp.where(gap > 0, gap, 1), 0, 1)


def _solve_positive(matrix: Float[Array, "d d"], x: Float[Array, " d"]) -> Array:
    """The solution for a positive definite matrix, up to rounding."""
    d = matrix.shape[0]
    least = 2 * d * float(jnp.finfo(x.dtype).eps) * jnp.trace(matrix)
    matrix = matrix + least * jnp.eye(d, dtype=x.dtype)
    return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(matrix), x)
