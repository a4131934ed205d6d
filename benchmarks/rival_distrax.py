"""distrax, trained next to us."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from .rival_loop import train_in_epochs
from .tables import Data

_LAYERS, _WIDTH, _BINS, _INTERVAL = 8, 64, 8, 4.0


def train_distrax(
    data: Data,
    look: Callable[[Callable[[Any], Any]], None],
    optimiser: optax.GradientTransformation,
    batch_size: int,
    block: int,
    num_steps: int | None = None,
) -> None:
    """Trains a flow of its masked spline couplings, with epochs and looks as ours.

    It has neither networks nor a training loop: the flow is built as in its example,
    with masks that alternate and networks whose last layer starts at zero, of our
    sizes, and its step is compiled.

    Args:
        data: what to train on and to choose by.
        look: called after each block with the log-density of the best flow so far; what
            it raises ends the run.
        optimiser: from optax.
        batch_size: rows of a batch, or all if there are less.
        block: steps between two looks.
        num_steps: steps of the run; None: without end.
    """
    rows, held = jnp.asarray(data.train), jnp.asarray(data.held)
    params = _networks(jr.key(0), rows.shape[1], rows.dtype)

    @jax.jit
    def log_prob(params, x):
        return _flow(params, x.shape[1]).log_prob(x)

    @jax.jit
    def step(params, memory, batch):
        slope = jax.grad(lambda p: -jnp.mean(log_prob(p, batch)))(params)
        updates, memory = optimiser.update(slope, memory, params)
        return optax.apply_updates(params, updates), memory

    train_in_epochs(
        lambda state, places, _: step(*state, rows[places]),
        (params, optimiser.init(params)),
        lambda state: -float(jnp.mean(log_prob(state[0], held))),
        lambda state: functools.partial(log_prob, state[0]),
        look,
        num_rows=len(rows),
        batch_size=batch_size,
        block=block,
        num_steps=num_steps,
    )


def _networks(key: jax.Array, dim: int, dtype: Any) -> list[list[tuple]]:
    """Weights and biases of the layers of a network for each coupling."""
    sizes = (dim, _WIDTH, _WIDTH, dim * (3 * _BINS + 1))
    networks = []
    for layer_key in jr.split(key, _LAYERS):
        keys = jr.split(layer_key, len(sizes) - 1)
        layers = [
            (jr.normal(k, (a, b), dtype) * (2 / a) ** 0.5, jnp.zeros(b, dtype))
            for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
        ]
        last, bias = layers[-1]
        networks.append([*layers[:-1], (0 * last, bias)])
    return networks


def _flow(networks: list[list[tuple]], dim: int) -> Any:
    import distrax  # pyright: ignore[reportMissingImports]

    def spline(params: jax.Array) -> Any:
        return distrax.RationalQuadraticSpline(
            params, -_INTERVAL, _INTERVAL, boundary_slopes="identity"
        )

    mask = np.arange(dim) % 2 == 0
    couplings = [
        distrax.MaskedCoupling(
            mask if number % 2 else ~mask,
            functools.partial(_parameters, network),
            spline,
        )
        for number, network in enumerate(networks)
    ]
    dtype = networks[0][0][0].dtype
    base = distrax.MultivariateNormalDiag(jnp.zeros(dim, dtype), jnp.ones(dim, dtype))
    return distrax.Transformed(base, distrax.Inverse(distrax.Chain(couplings)))


def _parameters(network: list[tuple], x: jax.Array) -> jax.Array:
    """Those of the splines of all coordinates, (..., d, 3 bins + 1)."""
    z = x
    for weights, bias in network[:-1]:
        z = jax.nn.relu(z @ weights + bias)
    weights, bias = network[-1]
    return (z @ weights + bias).reshape(*x.shape, -1)
