"""Maps as bijections of flowjax and distrax, and bijections of flowjax as maps."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax import _checks
from transportjax.maps import AbstractBijection, given, trainable_leaves
from transportjax.maps.bijection import evaluate

from .packages import imported


def to_flowjax(map: AbstractBijection, shape: tuple[int, ...]) -> Any:
    """A map as a bijection of flowjax: its `transform` is the map.

    Its leaves are those of the map, and flowjax trains them; what `maps.given` and
    `maps.trainable_leaves` hold constant is wrapped by `paramax.non_trainable`. A map
    with conditional layers has a `cond_shape`, and takes the condition of each call.

    Args:
        map: any map.
        shape: of one event: () or (d,).

    Returns:
        A `flowjax.bijections.AbstractBijection`.

    Raises:
        ImportError: flowjax is not installed.
        ValueError: not a map, or not one of such events.

    Example:
        >>> import jax.numpy as jnp
        >>> import transportjax as tj
        >>> from transportjax.interop import to_flowjax
        >>> double = tj.Affine(2.0 * jnp.eye(2), jnp.zeros(2))
        >>> bijection = to_flowjax(double, (2,))  # doctest: +SKIP
        >>> bijection.transform(jnp.ones(2))  # doctest: +SKIP
        Array([2., 2.], dtype=float32)
    """
    shape = _checked_shape(map, shape)
    non_trainable = imported("paramax", "flowjax").non_trainable
    marks = trainable_leaves(map)
    held = jax.tree.map(lambda leaf, m: leaf if m else non_trainable(leaf), map, marks)
    num = _num_conditions(map)
    return _flowjax_class()(held, shape, None if num is None else (num,))


def from_flowjax(bijection: Any) -> "ForeignBijection":
    """A bijection of flowjax as a map: map(x) is its `transform`.

    The map has inverse and log-determinant, can be a part of `Chain`, `Invert` and
    `Flow`, and is trained by `minimise` and `maximum_likelihood`. What flowjax wraps as
    not trainable has zero derivatives. A conditional bijection becomes a conditional
    map: `maps.given(map, condition)`, or `flow.log_prob(x, condition)`. The file format
    of `save` holds no classes of flowjax; `map.bijection` gives the bijection back.

    A flow of flowjax generates, from noise to data, while `Flow` takes a map from data
    to noise: `Flow(Invert(from_flowjax(distribution.bijection)), dim)`.

    Args:
        bijection: a `flowjax.bijections.AbstractBijection`, with events () or (d,), and
            a condition (c,) if any.

    Raises:
        ImportError: flowjax is not installed.
        ValueError: another object, or events or conditions of other shapes.
    """
    kind = imported("flowjax.bijections").AbstractBijection
    _checks.check_kind("bijection", bijection, kind)
    for name in ("shape", "cond_shape"):
        shape = getattr(bijection, name)
        _checks.check_one_axis(f"bijection.{name}", shape or ())
    arrays, rest = eqx.partition(bijection, eqx.is_array)
    if bijection.cond_shape is None:
        return ForeignBijection(arrays, rest, None)
    # a scalar condition is held as a vector of length one
    return ForeignBijection(arrays, rest, jnp.zeros(bijection.cond_shape or (1,)))


class ForeignBijection(AbstractBijection):
    """A bijection of flowjax as a map; `from_flowjax` makes it."""

    arrays: Any
    rest: Any = eqx.field(static=True)
    condition: Float[Array, " c"] | None

    @property
    def bijection(self) -> Any:
        """The bijection of flowjax, with the leaves as they are now."""
        return eqx.combine(self.arrays, self.rest)

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """What `bijection.transform_and_log_det` returns."""
        return evaluate(ForeignBijection._forward, self, x, self.rest.shape)

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, "*event"], Float[Array, ""]]:
        """What `bijection.inverse_and_log_det` returns."""
        return evaluate(ForeignBijection._backward, self, y, self.rest.shape)

    def _forward(self, x: Array) -> tuple[Array, Array]:
        return self.bijection.transform_and_log_det(x, self._condition())

    def _backward(self, y: Array) -> tuple[Array, Array]:
        return self.bijection.inverse_and_log_det(y, self._condition())

    def _condition(self) -> Array | None:
        if self.condition is None:
            return None
        return self.condition.reshape(self.rest.cond_shape)


def to_distrax(map: AbstractBijection, shape: tuple[int, ...]) -> Any:
    """A map as a bijector of distrax: its `forward` is the map.

    Leading axes of what comes in are batches. A conditional map stays under the
    condition that it holds: `to_distrax(maps.given(map, condition), shape)`. The leaves
    are those of the map, so that a jitted function may take the bijector.

    Args:
        map: any map.
        shape: of one event: () or (d,).

    Returns:
        A `distrax.Bijector`.

    Raises:
        ImportError: distrax is not installed.
        ValueError: not a map, or not one of such events.
    """
    shape = _checked_shape(map, shape)
    return _distrax_class()(map, shape)


def _checked_shape(map: AbstractBijection, shape: Any) -> tuple[int, ...]:
    _checks.check_bijection("map", map, AbstractBijection)
    shape = _checks.as_event_shape("shape", shape)
    event = jax.ShapeDtypeStruct(shape, jnp.result_type(float))
    image = jax.eval_shape(map, event)  # its own error, if it cannot take it
    _checks.check_same_event("map", image.shape, shape)
    return shape


def _num_conditions(map: AbstractBijection) -> int | None:
    """The length of the condition of the conditional layers, None without any."""

    def is_conditional(x: Any) -> bool:
        return isinstance(x, eqx.Module) and eqx.is_array(getattr(x, "condition", None))

    parts = jax.tree.leaves(map, is_leaf=is_conditional)
    lengths = [part.condition.shape[-1] for part in parts if is_conditional(part)]
    return lengths[0] if lengths else None


@functools.cache
def _flowjax_class() -> Any:
    base = imported("flowjax.bijections").AbstractBijection

    class TransportBijection(base):
        """A map of transportjax."""

        map: AbstractBijection
        shape: tuple[int, ...] = eqx.field(static=True)
        cond_shape: tuple[int, ...] | None = eqx.field(static=True)

        def transform_and_log_det(self, x, condition=None):
            return self._under(condition).transform_and_log_det(x)

        def inverse_and_log_det(self, y, condition=None):
            return self._under(condition).inverse_and_log_det(y)

        def _under(self, condition):
            return self.map if self.cond_shape is None else given(self.map, condition)

    return TransportBijection


@functools.cache
def _distrax_class() -> Any:
    distrax = imported("distrax")

    class TransportBijector(distrax.Bijector):
        """A map of transportjax."""

        def __init__(self, map, shape):
            super().__init__(event_ndims_in=len(shape))
            self._map, self._shape = map, shape

        def forward_and_log_det(self, x):
            return self._batched(self._map.transform_and_log_det)(x)

        def inverse_and_log_det(self, y):
            return self._batched(self._map.inverse_and_log_det)(y)

        def _batched(self, method):
            event = "(d)" if self._shape else "()"
            return jnp.vectorize(method, signature=f"{event}->{event},()")

    return TransportBijector
