"""Descent by a transformation of optax, a fixed number of steps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def by_optax(
    cost: Callable[[Array], Array], vector: Array, optimiser: Any, num_steps: int
) -> tuple[Array, tuple[Array, Array]]:
    """The last vector, and the cost and the number of evaluations there."""
    import optax

    optimiser = optax.with_extra_args_support(optimiser)

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        vector, state = carry
        value, slope = jax.value_and_grad(cost)(vector)
        move, state = optimiser.update(
            slope, state, vector, value=value, grad=slope, value_fn=cost
        )
        return (vector + move, state), None

    carry = (vector, optimiser.init(vector))
    (vector, _), _ = lax.scan(step, carry, None, length=num_steps)
    value = cost(vector)
    return vector, (value, jnp.full_like(value, num_steps, dtype="int32"))
