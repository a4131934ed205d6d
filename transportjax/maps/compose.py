"""Maps made of maps: one after another, a stack of equal ones, the inverse."""

from collections.abc import Iterable

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks

from .bijection import AbstractBijection, evaluate, zero_log_det


class Chain(AbstractBijection):
    """Maps applied one after another, in reading order: `maps[0]` comes first.

    For many equal maps use `Scan`, which compiles one of them. An empty chain is the
    identity.

    Args:
        maps: the maps, of any classes, all for events of the same shape.

    Example:
        >>> import jax.numpy as jnp
        >>> import transportjax.maps as tm
        >>> double = tm.Affine(2.0 * jnp.eye(2), jnp.zeros(2))
        >>> shift = tm.Affine(jnp.eye(2), jnp.ones(2))
        >>> print(tm.Chain((double, shift))(jnp.array([1.0, 2.0])))
        [3. 5.]
    """

    maps: tuple[AbstractBijection, ...]

    def __init__(self, maps: Iterable[AbstractBijection]):
        self.maps = tuple(maps)
        for index, map in enumerate(self.maps):
            _checks.check_bijection(f"maps[{index}]", map, AbstractBijection)

    def __len__(self) -> int:
        return len(self.maps)

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """The image maps[-1](... maps[0](x)) and the sum of the log-determinants."""
        return evaluate(Chain._forward, self, x)

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """The inverses in opposite order, and the sum of their log-determinants."""
        return evaluate(Chain._backward, self, y)

    def _forward(self, x: Array) -> tuple[Array, Array]:
        total = zero_log_det(x)
        for map in self.maps:
            x, log_det = map.transform_and_log_det(x)
            total = total + log_det
        return x, total

    def _backward(self, y: Array) -> tuple[Array, Array]:
        total = zero_log_det(y)
        for map in reversed(self.maps):
            y, log_det = map.inverse_and_log_det(y)
            total = total + log_det
        return y, total


class Scan(AbstractBijection):
    """A stack of equal maps, applied one after another by `lax.scan`.

    The compile time does not depend on their number. The stack is one map whose leaves
    have a leading axis l: what `jax.vmap(make_map)(...)` makes, and what a fitting loop
    in `lax.scan` returns. The first layer is applied first.

    `len(scan)` counts the layers, `scan[i]` is layer i, and `scan[:k]` is the map made
    of the first k layers, to stop early or to show the way step by step. An empty stack
    is the identity.

    Args:
        layers: a map with a leading axis l on every leaf.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import transportjax.maps as tm
        >>> shifts = jnp.array([[1.0], [10.0], [100.0]])
        >>> layers = jax.vmap(tm.Affine, in_axes=(None, 0))(jnp.eye(1), shifts)
        >>> scan = tm.Scan(layers)
        >>> print(scan(jnp.zeros(1)), scan[:2](jnp.zeros(1)))
        [111.] [11.]
    """

    layers: AbstractBijection

    def __check_init__(self):
        _checks.check_bijection("layers", self.layers, AbstractBijection)
        shapes = [leaf.shape for leaf in jax.tree.leaves(self.layers)]
        _checks.check_stacked("layers", shapes)

    def __len__(self) -> int:
        return jax.tree.leaves(self.layers)[0].shape[0]

    def __getitem__(self, index: int | slice) -> AbstractBijection:
        """Layer `index`, or the `Scan` of a slice of the layers."""
        if isinstance(index, slice):
            return Scan(jax.tree.map(lambda leaf: leaf[index], self.layers))
        if not -len(self) <= index < len(self):
            raise IndexError(f"layer {index} of a map with {len(self)} layers")
        return jax.tree.map(lambda leaf: leaf[index], self.layers)

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """The image under all layers and the sum of the log-determinants."""
        return evaluate(Scan._forward, self, x)

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """The inverses, last layer first, and the sum of their log-determinants."""
        return evaluate(Scan._backward, self, y)

    def _forward(self, x: Array) -> tuple[Array, Array]:
        def step(carry: tuple[Array, Array], layer: AbstractBijection):
            x, total = carry
            x, log_det = layer.transform_and_log_det(x)
            return (x, total + log_det), None

        return jax.lax.scan(step, (x, zero_log_det(x)), self.layers)[0]

    def _backward(self, y: Array) -> tuple[Array, Array]:
        def step(carry: tuple[Array, Array], layer: AbstractBijection):
            y, total = carry
            y, log_det = layer.inverse_and_log_det(y)
            return (y, total + log_det), None

        return jax.lax.scan(step, (y, zero_log_det(y)), self.layers, reverse=True)[0]


class Invert(AbstractBijection):
    """The inverse of a map, as a map.

    Args:
        map: any map.

    Example:
        >>> import jax.numpy as jnp
        >>> import transportjax.maps as tm
        >>> double = tm.Affine(2.0 * jnp.eye(2), jnp.zeros(2))
        >>> print(tm.Invert(double)(jnp.array([1.0, 2.0])))
        [0.5 1. ]
    """

    map: AbstractBijection

    def __check_init__(self):
        _checks.check_bijection("map", self.map, AbstractBijection)

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """The inverse of the map at x, with its log-determinant."""
        return self.map.inverse_and_log_det(x)

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """The map itself at y, with its log-determinant."""
        return self.map.transform_and_log_det(y)
