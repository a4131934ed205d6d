"""flowjax, trained next to us."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from .rival_loop import train_in_epochs
from .tables import Data


def train_flowjax(
    data: Data,
    look: Callable[[Callable[[Any], Any]], None],
    optimiser: optax.GradientTransformation,
    batch_size: int,
    block: int,
    num_steps: int | None = None,
) -> None:
    """Trains its spline coupling flow by its own step, with epochs and looks as ours.

    Args:
        data: what to train on and to choose by.
        look: called after each block with the log-density of the best flow so far; what
            it raises ends the run.
        optimiser: from optax.
        batch_size: rows of a batch, or all if there are less.
        block: steps between two looks.
        num_steps: steps of the run; None: without end.
    """
    import paramax
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import Normal
    from flowjax.flows import coupling_flow
    from flowjax.train.losses import MaximumLikelihoodLoss
    from flowjax.train.train_utils import step

    flow = coupling_flow(
        jr.key(0),
        base_dist=Normal(jnp.zeros(data.train.shape[1])),
        transformer=RationalQuadraticSpline(knots=8, interval=4),
        nn_width=64,
        nn_depth=2,
        flow_layers=8,
    )
    params, static = eqx.partition(
        flow,
        eqx.is_inexact_array,
        is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable),
    )
    loss = MaximumLikelihoodLoss()
    judge_loss = eqx.filter_jit(lambda params, x: loss(params, static, x))
    log_prob = eqx.filter_jit(lambda params, x: eqx.combine(params, static).log_prob(x))
    rows, held = jnp.asarray(data.train), jnp.asarray(data.held)

    def advance(state: tuple, places: np.ndarray, _: int) -> tuple:
        params, memory = state
        more = {"optimizer": optimiser, "opt_state": memory, "loss_fn": loss}
        return step(params, static, rows[places], **more)[:2]

    train_in_epochs(
        advance,
        (params, optimiser.init(params)),
        lambda state: float(judge_loss(state[0], held)),
        lambda state: functools.partial(log_prob, state[0]),
        look,
        num_rows=len(rows),
        batch_size=batch_size,
        block=block,
        num_steps=num_steps,
    )
