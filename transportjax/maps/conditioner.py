"""The network that tells a coupling layer what to do."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax import _checks

from .bijection import as_leaf
from .lanes import lanes


class Conditioner(eqx.Module):
    """A multilayer perceptron whose leaves are all arrays; SiLU after hidden layers.

    A new one gives zeros, because its last layer starts at zero: a layer that asks it
    for its parameters starts as the identity.

    Differentiable in the input and in the leaves, any number of times.

    Args:
        first: weights of the first layer, (width, inputs).
        first_bias: its biases, (width,).
        hidden: weights of the further hidden layers, (depth - 1, width, width).
        hidden_bias: their biases, (depth - 1, width).
        last: weights of the last layer, (outputs, width).
        last_bias: its biases, (outputs,).

    Example:
        >>> import jax.numpy as jnp, jax.random as jr
        >>> from transportjax.maps import Conditioner
        >>> network = Conditioner.create(jr.key(0), 3, 2, width=8, depth=2)
        >>> print(network(jnp.ones(3)))
        [0. 0.]
    """

    first: Float[Array, "width inputs"] = eqx.field(converter=as_leaf)
    first_bias: Float[Array, " width"] = eqx.field(converter=as_leaf)
    hidden: Float[Array, "more width width"] = eqx.field(converter=as_leaf)
    hidden_bias: Float[Array, "more width"] = eqx.field(converter=as_leaf)
    last: Float[Array, "outputs width"] = eqx.field(converter=as_leaf)
    last_bias: Float[Array, " outputs"] = eqx.field(converter=as_leaf)

    @classmethod
    def create(
        cls,
        key: PRNGKeyArray,
        num_inputs: int,
        num_outputs: int,
        *,
        width: int = 64,
        depth: int = 2,
    ) -> "Conditioner":
        """A network with `depth` hidden layers, random but for the last layer: zero.

        The weights of a layer with n inputs have a variance of 2 / n (He's rule).

        Args:
            key: a random key.
            num_inputs: length of the input, 0 for a network that is a constant.
            num_outputs: length of the output.
            width: of the hidden layers.
            depth: number of hidden layers.

        Raises:
            ValueError: counts out of range.
        """
        _checks.check_key("key", key)
        _checks.check_count("num_inputs", num_inputs, 0)
        for name, count in (
            ("num_outputs", num_outputs),
            ("width", width),
            ("depth", depth),
        ):
            _checks.check_count(name, count)
        return cls(*_leaves(key, num_inputs, num_outputs, width, depth))

    def __call__(self, x: ArrayLike) -> Float[Array, " outputs"]:
        """The output for one input, (inputs,)."""
        return lanes(Conditioner.many, self, jnp.asarray(x))

    def many(self, x: Float[Array, "inputs n"]) -> Float[Array, "outputs n"]:
        """The outputs for many inputs, both in columns."""
        return self.last @ self.features(x) + self.last_bias[:, None]

    def features(self, x: Float[Array, "inputs n"]) -> Float[Array, "width n"]:
        """What the last layer gets of many inputs, both in columns."""
        z = _silu(self.first @ x + self.first_bias[:, None])
        # written out: the layers are few, and a loop inside a loop over maps is slow
        for weights, bias in zip(self.hidden, self.hidden_bias, strict=True):
            z = _silu(weights @ z + bias[:, None])
        return z


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _leaves(
    key: PRNGKeyArray, num_inputs: int, num_outputs: int, width: int, depth: int
) -> tuple[Array, ...]:
    """Those of a new network."""
    first_key, hidden_key = jr.split(key)
    scale = (2 / max(num_inputs, 1)) ** 0.5
    return (
        scale * jr.normal(first_key, (width, num_inputs)),
        jnp.zeros(width),
        (2 / width) ** 0.5 * jr.normal(hidden_key, (depth - 1, width, width)),
        jnp.zeros((depth - 1, width)),
        jnp.zeros((num_outputs, width)),
        jnp.zeros(num_outputs),
    )


# The automatic derivative keeps three arrays of this size for the way back; this one
# keeps the factor.
@jax.custom_jvp
def _silu(z: Array) -> Array:
    return z * _sigmoid(z)


@_silu.defjvp
def _silu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (z,), (dz,) = primals, tangents
    share = _sigmoid(z)
    value = z * share
    return value, (share + value * (1 - share)) * dz


def _sigmoid(z: Array) -> Array:
    """By tanh, which takes half the time of exp and a division on CPUs."""
    return 0.5 * jnp.tanh(0.5 * z) + 0.5
