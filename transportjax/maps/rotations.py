"""Permutations and rotations: maps that keep volumes, between other layers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transportjax import _checks

from .bijection import AbstractBijection, as_leaf, evaluate, zero_log_det
from .small_matrices import solve


class Permutation(AbstractBijection):
    """The coordinates in another order: y_i = x_(order_i).

    Args:
        order: a permutation of 0, ..., d - 1, (d,); integers, so that training leaves
            it alone.

    Raises:
        ValueError: something else.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import Permutation
        >>> print(Permutation([2, 0, 1])(jnp.array([1.0, 2.0, 3.0])))
        [3. 1. 2.]
    """

    order: Int[Array, " d"] = eqx.field(converter=jnp.asarray)

    def __check_init__(self):
        _checks.check_order("order", self.order)

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The coordinates in the new order, and zero."""
        return evaluate(Permutation._forward, self, x, self.order.shape)

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The coordinates in the old order, and zero."""
        return evaluate(Permutation._backward, self, y, self.order.shape)

    def _forward(self, x: Array) -> tuple[Array, Array]:
        return x[self.order], zero_log_det(x)

    def _backward(self, y: Array) -> tuple[Array, Array]:
        return y[jnp.argsort(self.order)], zero_log_det(y)


class Householder(AbstractBijection):
    """A product of reflections in hyperplanes through the origin: an orthogonal map.

    The first vector reflects first; r reflections have the determinant (-1)^r, and d of
    them make every orthogonal matrix with that determinant. The matrix is multiplied
    out once for all events of a `vmap`.

    Differentiable in the event and in the vectors, whose lengths do not matter.

    Args:
        vectors: normals of the hyperplanes, (r, d), none of them zero.

    Raises:
        ValueError: another shape; zero, NaN or infinity.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import Householder
        >>> print(Householder(jnp.array([[3.0, 0.0]]))(jnp.array([1.0, 2.0])))
        [-1.  2.]

    References:
        Tomczak and Welling (2016), "Improving variational auto-encoders using
        Householder flow", section 3.
    """

    vectors: Float[Array, "r d"] = eqx.field(converter=as_leaf)

    def __check_init__(self):
        _checks.check_reflections("vectors", self.vectors)

    @classmethod
    def create(
        cls, key: PRNGKeyArray, dim: int, *, num: int | None = None
    ) -> "Householder":
        """`num` random reflections (None: `dim` of them) of events of length `dim`."""
        _checks.check_key("key", key)
        _checks.check_count("dim", dim)
        num = dim if num is None else num
        _checks.check_count("num", num)
        return cls(jr.normal(key, (num, dim)))

    @property
    def matrix(self) -> Float[Array, "d d"]:
        """The orthogonal matrix."""

        def reflect(matrix: Array, v: Array) -> tuple[Array, None]:
            unit = v / jnp.linalg.norm(v)
            product = jnp.matmul(unit, matrix, precision="highest")
            return matrix - 2 * unit[:, None] * product[None, :], None

        eye = jnp.eye(self.vectors.shape[1], dtype=self.vectors.dtype)
        start = eye + 0 * self.vectors[:1]  # varies as the vectors do, in `shard_map`
        return jax.lax.scan(reflect, start, self.vectors)[0]

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The image, and zero."""
        return evaluate(Householder._forward, self, x, self.vectors.shape[1:])

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The event with the given image, and zero."""
        return evaluate(Householder._backward, self, y, self.vectors.shape[1:])

    def _forward(self, x: Array) -> tuple[Array, Array]:
        return jnp.matmul(self.matrix, x, precision="highest"), zero_log_det(x)

    def _backward(self, y: Array) -> tuple[Array, Array]:
        return jnp.matmul(y, self.matrix, precision="highest"), zero_log_det(y)


class Cayley(AbstractBijection):
    """A rotation around a given one: x to A (I + S)^-1 (I - S) x, with a skew S.

    The way to train a rotation without leaving the rotations: with S = 0 it is A, and
    small entries of S are half the angles by which it turns. Rotations by a half-turn
    relative to A are not reached.

    Differentiable in the event and in both leaves. `maximum_likelihood` and `minimise`
    train `skew` alone, because `base` must stay orthogonal.

    Args:
        base: the orthogonal matrix A, (d, d).
        skew: the entries of S above the diagonal, (d (d - 1) / 2,), row by row.

    Raises:
        ValueError: a base that is not orthogonal, another number of entries.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import Cayley
        >>> quarter = Cayley(jnp.eye(2), jnp.array([1.0]))
        >>> print(quarter(jnp.array([1.0, 0.0])).round(4) + 0.0)
        [0. 1.]

    References:
        Cayley (1846), "Sur quelques proprietes des determinants gauches".
    """

    base: Float[Array, "d d"] = eqx.field(converter=as_leaf)
    skew: Float[Array, " m"] = eqx.field(converter=as_leaf)

    def __check_init__(self):
        _checks.check_orthonormal("base", self.base)
        _checks.check_skew("base", self.base, "skew", self.skew)

    @classmethod
    def around(cls, base: ArrayLike) -> "Cayley":
        """The rotation `base` itself, (d, d), with room to be trained."""
        base = _checks.as_float("base", base)
        dim = base.shape[-1] if base.ndim else 0
        return cls(base, jnp.zeros_like(base, shape=(dim * (dim - 1) // 2,)))

    @classmethod
    def create(cls, key: PRNGKeyArray, dim: int) -> "Cayley":
        """A random rotation or reflection, evenly distributed."""
        _checks.check_key("key", key)
        _checks.check_count("dim", dim)
        return cls.around(jr.orthogonal(key, dim))

    @property
    def matrix(self) -> Float[Array, "d d"]:
        """The orthogonal matrix."""
        dim = self.base.shape[0]
        upper = jnp.zeros_like(self.base).at[jnp.triu_indices(dim, 1)].set(self.skew)
        skew, eye = upper - upper.T, jnp.eye(dim, dtype=upper.dtype)
        turn = solve(eye + skew, eye - skew)
        return jnp.matmul(self.base, turn, precision="highest")

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The image, and zero."""
        return evaluate(Cayley._forward, self, x, self.base.shape[1:])

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """The event with the given image, and zero."""
        return evaluate(Cayley._backward, self, y, self.base.shape[1:])

    def _forward(self, x: Array) -> tuple[Array, Array]:
        return jnp.matmul(self.matrix, x, precision="highest"), zero_log_det(x)

    def _backward(self, y: Array) -> tuple[Array, Array]:
        return jnp.matmul(y, self.matrix, precision="highest"), zero_log_det(y)
