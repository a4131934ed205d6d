"""Generalised slices: sliced distances along curved functions of the points.

Any functions g_l of the points may take the place of theta_l.x. The result is a
distance where the g_l together tell distributions apart; a pseudo-distance else.
"""

import functools
import itertools
import math
import operator
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax._checks import (
    as_float,
    as_weights,
    check_count,
    check_key,
    check_num_coefficients,
    check_number,
    check_odd,
    check_projection,
)
from transportjax._sharding import explicit_mesh_guard
from transportjax.onedim.wasserstein import wasserstein_1d

from .directions import unit_rows
from .distance import as_exponent, root_of_cost, weighted_mean
from .pair import checked_pair

Project = Callable[[Float[Array, "n d"]], Float[Array, "p n"]]


@explicit_mesh_guard
def generalised_sliced_wasserstein(
    x: ArrayLike,
    y: ArrayLike,
    project: Project,
    *,
    p: ArrayLike = 2,
    x_weights: ArrayLike | None = None,
    y_weights: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    root: bool = False,
) -> Float[Array, ""]:
    """GSW_p^p, the mean of W_p^p over the slices that `project` makes of the points.

    Differentiable in `x`, `y`, all weights, `p`, and in whatever `project` is
    differentiable in: its leaves, or what it closes over. So its parameters can be
    learned, to maximise the distance (a generalised max-sliced distance) or otherwise.

    Args:
        x: points, (n, d).
        y: points, (m, d); their number may differ.
        project: takes points (n, d) to slices (p, n), and treats each point alike: an
            `eqx.Module` like `PolynomialSlices`, a neural network, or a function.
        p: the exponent >= 1: a number, or a scalar array.
        x_weights: masses >= 0 of `x`, (n,); normalised. None: uniform.
        y_weights: likewise of `y`, (m,).
        weights: weights >= 0 of the slices in the mean, (p,); normalised.
        root: whether to return GSW_p; its gradient is zero where the distance is zero.

    Returns:
        A scalar, in units of the slices to the power p (of the slices, with `root`).

    Raises:
        ValueError: points of the wrong shape, empty, NaN or infinite; `project` returns
            something else than one row a slice, or not finite; bad weights; p < 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import generalised_sliced_wasserstein
        >>> x = jnp.array([[0.0, 0.0], [3.0, 4.0]])
        >>> norms = lambda x: jnp.linalg.norm(x, axis=1)[None]
        >>> print(generalised_sliced_wasserstein(x, 2 * x, norms))  # (0 + 5^2) / 2
        12.5

    References:
        Kolouri, Nadjahi, Simsekli, Badeau, Rohde (2019), Generalized sliced Wasserstein
        distances.
    """
    check_number("p", p, 1)
    (x, y, a, b), dtype = checked_pair(x, y, x_weights, y_weights)
    u, v = project(x.astype(dtype)), project(y.astype(dtype))
    check_projection("project", u, x.shape[0])
    check_projection("project", v, y.shape[0], u.shape[0])
    u, v = (as_float("project(x)", slices).astype(x.dtype) for slices in (u, v))
    exponent = as_exponent(p, x.dtype)
    costs = wasserstein_1d(u, v, p=exponent, x_weights=a, y_weights=b)
    value = weighted_mean(costs, as_weights("weights", weights, costs.shape, x.dtype))
    return (root_of_cost(value, exponent) if root else value).astype(dtype)


class PolynomialSlices(eqx.Module):
    """Homogeneous polynomials of the coordinates, of odd degree m.

    g(x) = sum over |alpha| = m of c_alpha x^alpha, with |c| = 1: the coefficients are
    divided by their norm, so that these leaves can be trained freely. Degree one are
    the linear slices. For odd degrees the distance over all c is a metric.

    Args:
        coefficients: a row for each slice, (p, c), and a column for each monomial, in
            the order of `itertools.combinations_with_replacement(range(d), degree)`.
        degree: m, odd. There are (d + m - 1 choose m) monomials.

    Raises:
        ValueError: an even degree, or a wrong number of columns (when called).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import PolynomialSlices
        >>> slices = PolynomialSlices.random(jax.random.key(0), 10, 2, degree=3)
        >>> slices.coefficients.shape, slices(jnp.ones((5, 2))).shape
        ((10, 4), (10, 5))

    References:
        Kolouri, Nadjahi, Simsekli, Badeau, Rohde (2019), Generalized sliced Wasserstein
        distances, section 3.1.
    """

    coefficients: Float[Array, "p c"] = eqx.field(converter=jnp.asarray)
    degree: int = eqx.field(static=True, default=3)

    def __check_init__(self) -> None:
        """Checks the degree."""
        check_odd("degree", self.degree)

    @classmethod
    def random(
        cls, key: PRNGKeyArray, num: int, dim: int, *, degree: int = 3
    ) -> "PolynomialSlices":
        """Slices whose coefficients are uniform on the sphere."""
        check_key("key", key)
        check_count("num", num)
        check_count("dim", dim)
        check_odd("degree", degree)
        columns = math.comb(dim + degree - 1, degree)
        return cls(unit_rows(jr.normal(key, (num, columns))), degree)

    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "p n"]:
        """The slices of the points."""
        columns, dim = self.coefficients.shape[1], x.shape[1]
        check_num_coefficients("coefficients", columns, dim, self.degree)
        powers = itertools.combinations_with_replacement(range(dim), self.degree)
        places = np.array(list(powers), np.int32).reshape(-1, self.degree)
        factors = (x.T[places[:, i]] for i in range(self.degree))
        monomials = functools.reduce(operator.mul, factors)
        rows = unit_rows(self.coefficients.astype(x.dtype))
        return jnp.matmul(rows, monomials, precision="highest")


class CircularSlices(eqx.Module):
    """Distances to the points r theta of a sphere: slices along concentric spheres.

    g(x) = |x - r theta|, with |theta| = 1: the directions are divided by their norm.
    For a large radius these are linear slices; a radius of the size of the cloud bends
    them most.

    Args:
        directions: theta, a row for each slice, (p, d).
        radius: r > 0, in units of the points.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.sliced import CircularSlices
        >>> slices = CircularSlices(jnp.eye(2), 3.0)
        >>> print(slices(jnp.array([[0.0, 0.0], [3.0, 4.0]])))
        [[3.        4.       ]
         [3.        3.1622777]]

    References:
        Kolouri, Nadjahi, Simsekli, Badeau, Rohde (2019), Generalized sliced Wasserstein
        distances, section 3.1.
    """

    directions: Float[Array, "p d"] = eqx.field(converter=jnp.asarray)
    radius: Float[Array, ""] = eqx.field(converter=jnp.asarray)

    def __call__(self, x: Float[Array, "n d"]) -> Float[Array, "p n"]:
        """The slices of the points."""
        centres = self.radius.astype(x.dtype) * unit_rows(
            self.directions.astype(x.dtype)
        )
        squares = jnp.sum((x[None] - centres[:, None]) ** 2, axis=-1)
        # at a centre the derivative is zero
        return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
