"""A density and a sampler from one map."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from transportjax import _checks
from transportjax.maps import AbstractBijection, Chain, SupportMap, given


class Flow(eqx.Module):
    """A law on R^d: what the inverse of a map makes of a standard normal law.

    The map takes data to latent points, x to z = T(x), as `gaussianise` fits it:

        log p(x) = log N(T(x); 0, I) + log |det T'(x)|,    x = T^-1(z).

    A flow is a pytree whose leaves are those of the map: train it with
    `maximum_likelihood`, or with any loss and optax. `save(path, flow.map)` and
    `Flow(load(path), dim)` keep it in a file.

    Args:
        map: a bijection of events (d,).
        dim: length d of an event.

    Raises:
        ValueError: something else than a map of such events.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr
        >>> import transportjax as tj
        >>> from transportjax.flows import Flow
        >>> flow = Flow(tj.Affine(2.0 * jnp.eye(2), jnp.zeros(2)), 2)
        >>> print(f"{flow.log_prob(jnp.zeros(2)):.2f}")  # N(0, I / 4)
        -0.45
        >>> flow.sample(jr.key(0), 5).shape
        (5, 2)

    References:
        Papamakarios et al. (2021), "Normalizing flows for probabilistic modeling and
        inference", section 2.
    """

    map: AbstractBijection
    dim: int = eqx.field(static=True)

    def __check_init__(self):
        _checks.check_bijection("map", self.map, AbstractBijection)
        _checks.check_count("dim", self.dim)
        event = jax.ShapeDtypeStruct((self.dim,), jnp.result_type(float))
        image = jax.eval_shape(self.map, event)  # its own error, if it cannot take it
        _checks.check_flow_map(image.shape, self.dim)

    def log_prob(
        self, x: ArrayLike, condition: ArrayLike | None = None
    ) -> Float[Array, ""]:
        """The log-density of one event, (d,), in nats; of many by `jax.vmap`.

        Minus infinity, with derivatives of zero, of an event that is infinite or, where
        a layer of the chain is a `SupportMap`, outside of its support; NaN of one with
        a NaN.

        Differentiable in the event, the leaves and the condition.

        Args:
            x: one event.
            condition: what the law depends on, (c,). None: the one that the map holds,
                zero in a new map.

        Raises:
            ValueError: an event or a condition of the wrong shape; a condition where
                the map takes none.
        """
        map = self._under(condition)
        x = _checks.as_float("x", x)
        _checks.check_event("x", x, (self.dim,))
        return _log_prob(map, x)

    def sample(
        self, key: PRNGKeyArray, num: int, condition: ArrayLike | None = None
    ) -> Float[Array, "num d"]:
        """Independent samples. Differentiable in the leaves and the condition.

        Args:
            key: a random key.
            num: how many.
            condition: as in `log_prob`, the same for all samples; for one each, use
                `jax.vmap` over keys and conditions.

        Raises:
            ValueError: `num` < 1; a condition of the wrong shape.
        """
        return self.sample_and_log_prob(key, num, condition)[0]

    def sample_and_log_prob(
        self, key: PRNGKeyArray, num: int, condition: ArrayLike | None = None
    ) -> tuple[Float[Array, "num d"], Float[Array, " num"]]:
        """Samples as from `sample`, and log p of each, for one pass of the map."""
        _checks.check_key("key", key)
        _checks.check_count("num", num)
        shape = (num, self.dim)
        return _sample_and_log_prob(self._under(condition), key, shape, self._dtype())

    def _under(self, condition: ArrayLike | None) -> AbstractBijection:
        return self.map if condition is None else given(self.map, condition)

    def _dtype(self) -> jnp.dtype:
        """The widest dtype of the leaves."""
        leaves = jax.tree.leaves(eqx.filter(self.map, eqx.is_inexact_array))
        dtypes = [leaf.dtype for leaf in leaves]
        return jnp.result_type(*(dtypes or [float]))


@eqx.filter_jit
def _log_prob(map: AbstractBijection, x: Float[Array, " d"]) -> Float[Array, ""]:
    is_outside, inside = _outside(map, x)
    # in place of it one of the inside, so that no derivative is NaN
    z, log_det = map.transform_and_log_det(jnp.where(is_outside, inside, x))
    return jnp.where(is_outside, -jnp.inf, normal_log_prob(z) + log_det)


@eqx.filter_jit
def _sample_and_log_prob(
    map: AbstractBijection, key: PRNGKeyArray, shape: tuple[int, int], dtype: jnp.dtype
) -> tuple[Float[Array, "num d"], Float[Array, " num"]]:
    z = jr.normal(key, shape, dtype)
    x, log_det = jax.vmap(map.inverse_and_log_det)(z)
    return x, jax.vmap(normal_log_prob)(z) - log_det


def _outside(
    map: AbstractBijection, x: Float[Array, " d"]
) -> tuple[Bool[Array, ""], Float[Array, " d"]]:
    """Whether an event has no density, and one that has some."""
    is_outside, inside = jnp.any(jnp.isinf(x)), jnp.zeros_like(x)
    layers = _layers(map)
    for number, support in enumerate(layers):
        if isinstance(support, SupportMap):  # the first one
            before = Chain(layers[:number])
            is_outside = is_outside | support.excludes(before(x))
            inside = lax.stop_gradient(before.inverse(support.inverse(inside)))
            break
    return is_outside & ~jnp.any(jnp.isnan(x)), inside


def _layers(map: AbstractBijection) -> tuple[AbstractBijection, ...]:
    """The maps of a chain, and of chains in it, one after another."""
    if not isinstance(map, Chain):
        return (map,)
    return tuple(layer for part in map.maps for layer in _layers(part))


def normal_log_prob(z: Float[Array, " d"]) -> Float[Array, ""]:
    """The log-density of z under N(0, I), in nats."""
    return -jnp.sum(z * z) / 2 - z.size * (0.5 * math.log(2 * math.pi))
