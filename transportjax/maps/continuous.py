"""Maps in continuous time: a velocity field, integrated, is a bijection."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int8, PRNGKeyArray

from transportjax import _checks

from .bijection import AbstractBijection, evaluate, zero_log_det
from .conditioner import Conditioner


class VelocityField(eqx.Module):
    """A network v(t, x): a perceptron of the event, of waves in time, of a condition.

    Time enters as cos(pi f t) and sin(pi f t) for f = 1, 2, ... A new field is zero.

    Differentiable in the time, the event and the leaves, any number of times.

    Args:
        network: from (x, waves, condition) to (d,).
        condition: what the field depends on, (c,), or None; `given` puts it in.

    Example:
        >>> import jax.numpy as jnp, jax.random as jr
        >>> from transportjax.maps import VelocityField
        >>> field = VelocityField.create(jr.key(0), 2)
        >>> print(field(0.5, jnp.ones(2)))
        [0. 0.]
    """

    network: Conditioner
    condition: Float[Array, " c"] | None = None

    @classmethod
    def create(
        cls,
        key: PRNGKeyArray,
        dim: int,
        *,
        num_conditions: int = 0,
        num_waves: int = 4,
        width: int = 128,
        depth: int = 3,
    ) -> "VelocityField":
        """A field that is zero, with a random network.

        Args:
            key: a random key.
            dim: length d of an event.
            num_conditions: length of the condition; 0 for none.
            num_waves: highest frequency f of the waves in time, >= 0; with 0 the field
                does not depend on time.
            width: of the hidden layers.
            depth: number of hidden layers.

        Returns:
            The field; its condition, if it has one, is zero.

        Raises:
            ValueError: sizes out of range.
        """
        _checks.check_key("key", key)
        _checks.check_count("dim", dim)
        _checks.check_count("num_conditions", num_conditions, 0)
        _checks.check_count("num_waves", num_waves, 0)
        num_inputs = dim + 2 * num_waves + num_conditions
        network = Conditioner.create(key, num_inputs, dim, width=width, depth=depth)
        return cls(network, jnp.zeros(num_conditions) if num_conditions else None)

    def __call__(self, t: ArrayLike, x: ArrayLike) -> Float[Array, " d"]:
        """The velocity at time t of one event, (d,); of many by `jax.vmap`."""
        x = _checks.as_float("x", x)
        dim = self.network.last_bias.shape[0]
        _checks.check_event("x", x, (dim,))
        num_conditions = 0 if self.condition is None else self.condition.shape[0]
        num_waves = (self.network.first.shape[1] - dim - num_conditions) // 2
        angles = jnp.pi * jnp.arange(1, num_waves + 1).astype(x.dtype)
        angles = angles * jnp.asarray(t).astype(x.dtype)
        inputs = [x, jnp.cos(angles), jnp.sin(angles)]
        if self.condition is not None:
            inputs.append(self.condition.astype(x.dtype))
        return self.network(jnp.concatenate(inputs))


_State = tuple[Array, Array]  # a place and a log-determinant

# Tsitouras (2011), table 1: when, and from which sum of rates, each rate is taken; the
# last row makes the step.
_TIMES = (0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0)
_WEIGHTS = (
    (),
    (0.161,),
    (-0.008480655492356989, 0.335480655492357),
    (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
    (
        *(5.325864828439257, -11.748883564062828),
        *(7.4955393428898365, -0.09249506636175525),
    ),
    (
        *(5.86145544294642, -12.92096931784711, 8.159367898576159),
        *(-0.071584973281401, -0.028269050394068383),
    ),
    (
        *(0.09646076681806523, 0.01, 0.4798896504144996),
        *(1.379008574103742, -3.290069515436081, 2.324710524099774),
    ),
)


class _Function(eqx.Module):
    """A function as a module without leaves."""

    function: Callable[..., Any] = eqx.field(static=True)

    def __call__(self, t: Any, x: Any) -> Any:
        return self.function(t, x)


def _as_module(field: Any) -> eqx.Module:
    return field if isinstance(field, eqx.Module) else _Function(field)


def _as_signs(probes: Any) -> Array | None:
    return None if probes is None else _checks.as_signs("probes", probes)


class ContinuousMap(AbstractBijection):
    """From data to noise along a velocity field: x(1) = x, dx/dt = v(t, x), to x(0).

    The inverse generates: from noise at time 0 to data at time 1, as flow matching
    trains a field. The log-determinant is minus the integral, along the way, of the
    divergence of v. `Flow(ContinuousMap(field), dim)` is a law with a likelihood.

    The equation is solved by equal steps of Tsitouras' method of order 5, in one
    compiled loop. Values, inverse and log-determinant have its error, which falls by
    2^5 as `num_steps` doubles: if the round trip is not good enough, double it.
    Another solver takes the field itself, as diffrax with steps that adapt does:
    `diffrax.ODETerm(lambda t, x, args: map.field(t, x))`.

    Differentiable in the event and in the leaves of the field, any number of times.

    Args:
        field: a module that maps a time and an event (d,) to a velocity (d,), as
            `VelocityField`; or a plain function, in a map that is not saved.
        probes: None for the exact divergence, at the price of d derivatives of the
            field in each step. Or r vectors of signs +-1, (r, d), as of
            `jax.random.rademacher(key, (r, d), "int8")`, for Hutchinson's estimate, the
            mean of e . (dv/dx) e over them, at the price of r derivatives: a
            log-determinant that is unbiased over the draws of the signs.
        num_steps: steps from end to end, each of 6 evaluations of the field.

    Raises:
        ValueError: probes that are no signs, or `num_steps` below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.maps import ContinuousMap
        >>> grow = ContinuousMap(lambda t, x: x)
        >>> y, log_det = grow.inverse_and_log_det(jnp.ones(2))
        >>> print(f"{y[0]:.3f} {log_det:.3f}")  # e, and 2
        2.718 2.000

    References:
        Chen, Rubanova, Bettencourt and Duvenaud (2018), "Neural ordinary differential
        equations", section 4.
        Grathwohl et al. (2019), "FFJORD", section 3.1: the estimate of the divergence.
        Tsitouras (2011), "Runge-Kutta pairs of order 5(4) satisfying only the first
        column simplifying assumption".
    """

    field: eqx.Module = eqx.field(converter=_as_module)
    probes: Int8[Array, "r d"] | None = eqx.field(converter=_as_signs, default=None)
    num_steps: int = eqx.field(static=True, default=32)

    def __check_init__(self):
        _checks.check_count("num_steps", self.num_steps)

    def transform_and_log_det(
        self, x: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """Where the event comes from at time 0, and the log-determinant."""
        return evaluate(ContinuousMap._forward, self, x, self._shape(x))

    def inverse_and_log_det(
        self, y: ArrayLike
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """Where the noise arrives at time 1, and the log-determinant."""
        return evaluate(ContinuousMap._backward, self, y, self._shape(y))

    def _shape(self, x: ArrayLike) -> tuple[int, ...]:
        """The shape that an event must have, as far as the map knows it."""
        if self.probes is not None:
            return self.probes.shape[1:]
        if isinstance(self.field, VelocityField):
            return self.field.network.last_bias.shape
        return (jnp.size(x),)

    def trajectory(self, y: ArrayLike) -> Float[Array, "steps d"]:
        """The way from noise `y` at time 0 to data: `num_steps` + 1 places in time."""
        return evaluate(ContinuousMap._way, self, y, self._shape(y))[0]

    def _way(self, y: Array) -> _State:
        places, log_dets = self._integrate(y, 0.0, 1.0)[1]
        return jnp.concatenate([y[None, :], places]), log_dets[-1]

    def _forward(self, x: Array) -> _State:
        return self._integrate(x, 1.0, 0.0)[0]

    def _backward(self, y: Array) -> _State:
        return self._integrate(y, 0.0, 1.0)[0]

    def _integrate(self, x: Array, start: float, end: float) -> tuple[_State, _State]:
        """The last state, and those after each step."""
        size = (end - start) / self.num_steps

        def advance(state: _State, index: Array) -> tuple[_State, _State]:
            rates: list[_State] = []
            for time, weights in zip(_TIMES, _WEIGHTS[:-1], strict=True):
                place = _moved(state, rates, size, weights)[0]
                rates.append(self._rates(start + size * (index + time), place))
            state = _moved(state, rates, size, _WEIGHTS[-1])
            return state, state

        index = jnp.arange(self.num_steps).astype(x.dtype)
        return lax.scan(advance, (x, zero_log_det(x)), index)

    def _rates(self, t: Array, x: Array) -> _State:
        """The velocity and its divergence."""
        velocity, push = jax.linearize(lambda x: self.field(t, x), x)  # pyright: ignore
        if self.probes is None:
            basis = jnp.eye(x.shape[0], dtype=x.dtype)
        else:
            basis = self.probes.astype(x.dtype) / self.probes.shape[0] ** 0.5
        basis = basis + jnp.zeros_like(x)[None, :]  # varies over a mesh as x does
        return velocity, jnp.sum(basis * jax.vmap(push)(basis))


def _moved(
    state: _State, rates: list[_State], size: float, weights: tuple[float, ...]
) -> _State:
    """The state after a step of `size` along the weighted sum of the rates."""
    for weight, rate in zip(weights, rates, strict=True):
        state = jax.tree.map(lambda s, r, w=weight: s + size * w * r, state, rate)
    return state
