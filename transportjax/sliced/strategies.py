"""Which directions come next, in an iteration over sets of directions."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax._checks import (
    as_float,
    check_count,
    check_dimension,
    check_directions,
)

from .directions import (
    haar_rotation,
    orthonormal_directions,
    random_directions,
    spiral_directions,
)
from .greedy import greedy_rotations
from .sobol import sobol_directions

Sample = tuple[Float[Array, "p d"], Float[Array, " p"], Any]


class AbstractDirections(eqx.Module):
    """A strategy: given what is known so far, a set of directions and their weights.

    A solver calls `init` once and then `sample` at every step, inside of a `lax.scan`:
    the state keeps its structure, shapes and dtypes. The weights sum to one.
    """

    @abc.abstractmethod
    def init(self, key: PRNGKeyArray, dim: int) -> Any:
        """The state before the first step, for points of dimension `dim`."""

    @abc.abstractmethod
    def sample(
        self,
        key: PRNGKeyArray,
        state: Any,
        x: Float[Array, "n d"],
        y: Float[Array, "m d"],
    ) -> Sample:
        """Directions between the clouds `x` and `y`.

        Args:
            key: a fresh random key.
            state: what `init` or the last call returned.
            x: the points that move, as they are now.
            y: the points to reach.

        Returns:
            The directions, unit rows `(p, d)` of the dtype of `x`, their weights, and
            the next state.
        """


class _AbstractFresh(AbstractDirections):
    """Directions that depend on the key alone, drawn anew at every step."""

    @abc.abstractmethod
    def _draw(self, key: PRNGKeyArray, dim: int, dtype: jnp.dtype) -> Array: ...

    def init(self, key: PRNGKeyArray, dim: int) -> tuple:
        """No state."""
        del key, dim
        return ()

    def sample(
        self,
        key: PRNGKeyArray,
        state: tuple,
        x: Float[Array, "n d"],
        y: Float[Array, "m d"],
    ) -> Sample:
        """Directions drawn from the key."""
        return _equal(self._draw(key, x.shape[-1], x.dtype), state)


class RandomDirections(_AbstractFresh):
    """Independent directions, fresh at every step.

    Args:
        num: number of directions in a step.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import RandomDirections
        >>> strategy, key = RandomDirections(8), jax.random.key(0)
        >>> x = y = jnp.ones((5, 3))
        >>> state = strategy.init(key, 3)
        >>> directions, weights, state = strategy.sample(key, state, x, y)
        >>> directions.shape, weights.shape
        ((8, 3), (8,))
    """

    num: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        """Checks the options."""
        check_count("num", self.num)

    def _draw(self, key: PRNGKeyArray, dim: int, dtype: jnp.dtype) -> Array:
        return random_directions(key, self.num, dim, dtype)


class OrthonormalDirections(_AbstractFresh):
    """Blocks of orthonormal directions, fresh at every step.

    Args:
        num: number of directions in a step. None, the default, is the dimension of the
            points: one uniformly random rotation, the choice of iterated transfer.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import OrthonormalDirections
        >>> strategy, key = OrthonormalDirections(), jax.random.key(0)
        >>> x = y = jnp.ones((5, 3))
        >>> strategy.sample(key, strategy.init(key, 3), x, y)[0].shape
        (3, 3)
    """

    num: int | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        """Checks the options."""
        if self.num is not None:
            check_count("num", self.num)

    def _draw(self, key: PRNGKeyArray, dim: int, dtype: jnp.dtype) -> Array:
        num = dim if self.num is None else self.num
        return orthonormal_directions(key, num, dim, dtype)


class SobolDirections(_AbstractFresh):
    """A Sobol set of directions, with a fresh shift at every step; dimension 1 to 21.

    Args:
        num: number of directions in a step; a power of two is best balanced.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import SobolDirections
        >>> strategy, key = SobolDirections(8), jax.random.key(0)
        >>> x = y = jnp.ones((5, 4))
        >>> strategy.sample(key, strategy.init(key, 4), x, y)[0].shape
        (8, 4)
    """

    num: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        """Checks the options."""
        check_count("num", self.num)

    def _draw(self, key: PRNGKeyArray, dim: int, dtype: jnp.dtype) -> Array:
        return sobol_directions(self.num, dim, key=key, dtype=dtype)


class SpiralDirections(_AbstractFresh):
    """A spiral of directions, with a fresh rotation at every step; dimension 3.

    Args:
        num: number of directions in a step.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import SpiralDirections
        >>> strategy, key = SpiralDirections(8), jax.random.key(0)
        >>> x = y = jnp.ones((5, 3))
        >>> strategy.sample(key, strategy.init(key, 3), x, y)[0].shape
        (8, 3)
    """

    num: int = eqx.field(static=True)

    def __check_init__(self) -> None:
        """Checks the options."""
        check_count("num", self.num)

    def _draw(self, key: PRNGKeyArray, dim: int, dtype: jnp.dtype) -> Array:
        check_dimension("Spiral directions", dim, 3, 3, "`OrthonormalDirections`")
        return spiral_directions(self.num, key=key, dtype=dtype)


class GreedyRotations(AbstractDirections):
    """The greedy sequence of rotations, one a step; at its end it is turned and reused.

    The first `length` steps are exactly `greedy_rotations(length, dim)`. At the start
    of each later cycle all rotations are turned by one that is drawn from the key, so
    that they keep their distances and do not repeat the axes used before.

    Args:
        length: number of rotations in a cycle.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import GreedyRotations
        >>> strategy, key = GreedyRotations(), jax.random.key(0)
        >>> x = y = jnp.ones((5, 3))
        >>> directions, weights, state = strategy.sample(
        ...     key, strategy.init(key, 3), x, y
        ... )
        >>> print(directions)
        [[1. 0. 0.]
         [0. 1. 0.]
         [0. 0. 1.]]
    """

    length: int = eqx.field(static=True, default=12)

    def __check_init__(self) -> None:
        """Checks the options."""
        check_count("length", self.length)

    def init(self, key: PRNGKeyArray, dim: int) -> tuple[Array, Array]:
        """The rotations of this cycle, and the number of steps made."""
        del key
        return greedy_rotations(self.length, dim), jnp.int32(0)

    def sample(
        self,
        key: PRNGKeyArray,
        state: tuple[Array, Array],
        x: Float[Array, "n d"],
        y: Float[Array, "m d"],
    ) -> Sample:
        """The next rotation."""
        table, step = state
        place = step % self.length
        table = lax.cond(
            (place == 0) & (step > 0), lambda: _turned(key, table), lambda: table
        )
        rotation = lax.dynamic_index_in_dim(table, place, keepdims=False)
        return _equal(rotation.astype(x.dtype), (table, step + 1))


class FixedDirections(AbstractDirections):
    """Given sets of directions, in turn, again and again.

    Args:
        table: the sets, `(l, p, d)`, or a single one, `(p, d)`; unit rows.

    Raises:
        ValueError: `table` has another shape, or a row whose norm is not 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.sliced import FixedDirections
        >>> strategy, key = FixedDirections(jnp.eye(3)), jax.random.key(0)
        >>> x = y = jnp.ones((5, 3))
        >>> strategy.sample(key, strategy.init(key, 3), x, y)[0].shape
        (3, 3)
    """

    table: Float[Array, "l p d"]

    def __init__(self, table: ArrayLike):
        array = as_float("table", table)
        check_directions("table", array, sets=True)
        self.table = array[None] if array.ndim == 2 else array

    def init(self, key: PRNGKeyArray, dim: int) -> Array:
        """The number of steps made."""
        del key
        check_directions("table", self.table, dim, sets=True)
        return jnp.int32(0)

    def sample(
        self,
        key: PRNGKeyArray,
        state: Array,
        x: Float[Array, "n d"],
        y: Float[Array, "m d"],
    ) -> Sample:
        """The next set."""
        place = state % self.table.shape[0]
        directions = lax.dynamic_index_in_dim(self.table, place, keepdims=False)
        return _equal(directions.astype(x.dtype), state + 1)


def _equal(directions: Array, state: Any) -> Sample:
    """The directions with equal weights."""
    num = directions.shape[0]
    return directions, jnp.full(num, 1 / num, directions.dtype), state


def _turned(key: PRNGKeyArray, table: Array) -> Array:
    rotation = haar_rotation(key, table.shape[-1], table.dtype)
    return jnp.matmul(table, rotation[None], precision="highest")
