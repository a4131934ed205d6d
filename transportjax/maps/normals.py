"""How normals move along with the points of a shape."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard

from .affine import Affine
from .bijection import AbstractBijection
from .rigid import Rigid
from .similarity import Similarity
from .small_matrices import cofactor
from .warp import AbstractWarp


@explicit_mesh_guard
def transport_normals(
    map: AbstractBijection, x: ArrayLike, normals: ArrayLike
) -> Float[Array, "n d"]:
    """Unit normals of a curve or surface at the images of its points.

    A normal moves by the cofactor matrix of the Jacobian, det(J) J^-T, which takes the
    vector of an area to that of its image. It needs no inverse, and keeps the
    orientation also where the map turns the space inside out. The length is divided
    out; a normal that the map takes to zero stays zero. Tangents move by J itself.

    Differentiable in the points, the normals, and the leaves of the map.

    Args:
        map: any map of events (d,); closed forms are used for rigid and affine maps and
            for warps, and automatic derivatives for others.
        x: points, (n, d).
        normals: their normals, (n, d), of any length.

    Returns:
        Normals of length one, (n, d).

    Raises:
        ValueError: shapes that do not fit; values that are not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import Affine, transport_normals
        >>> stretch = Affine(jnp.diag(jnp.array([2.0, 1.0])), jnp.zeros(2))
        >>> diagonal = jnp.ones((1, 2))
        >>> print(transport_normals(stretch, 0 * diagonal, diagonal).round(4))
        [[0.4472 0.8944]]
    """
    x, normals = _checks.common_float(("x", x), ("normals", normals))
    _checks.check_bijection("map", map, AbstractBijection)
    _checks.check_points("x", x)
    _checks.check_normals("normals", normals, x.shape)
    moved = jax.vmap(_move, (None, 0, 0))(map, x, normals)
    return moved.astype(x.dtype)


def jacobian(map: AbstractBijection, x: Array) -> Array:
    """The matrix of derivatives at one event."""
    if isinstance(map, AbstractWarp):
        return map.jacobian(x)
    if isinstance(map, Affine | Rigid | Similarity):
        return map.matrix
    return jax.jacfwd(map)(x)


def unit(vector: Array) -> Array:
    """The vector divided by its length; zero, with gradient zero, for zero."""
    # of entries of any size, whose squares could overflow
    size = jnp.max(jnp.abs(vector))
    scaled = vector / jnp.where(size > 0, jax.lax.stop_gradient(size), 1)
    square = jnp.sum(scaled**2)
    return scaled / jnp.sqrt(jnp.where(size > 0, square, 1))


def _move(map: AbstractBijection, x: Array, normal: Array) -> Array:
    matrix = cofactor(jacobian(map, x))
    return unit(jnp.matmul(matrix, normal.astype(matrix.dtype), precision="highest"))
