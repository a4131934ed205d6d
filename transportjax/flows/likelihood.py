"""Training a flow by maximum likelihood."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PRNGKeyArray

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard
from transportjax.maps.roles import takes_condition
from transportjax.solvers import Minimisation, MinimiseState, minimise

from .flow import Flow

T = TypeVar("T")

_BLOCK = 32768  # rows that go through a flow at a time
_MOST_FITTED = 100_000  # samples, of which a fit without gradients takes about so many


def maximum_likelihood(
    flow: Flow,
    x: ArrayLike,
    *,
    key: PRNGKeyArray,
    conditions: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    held_out: int | float | ArrayLike | tuple[ArrayLike, ArrayLike] = 0.1,
    optimiser: Any = None,
    batch_size: int | None = None,
    num_steps: int = 1000,
    block: int = 100,
    patience: int | None = 10,
    progress: Callable[[MinimiseState, float, float], Any] | None = None,
    state: MinimiseState | None = None,
) -> Minimisation:
    """The flow whose leaves maximise the likelihood of samples, by gradient descent.

    Minimises the mean of -log p(x) over the samples, in nats, on mini-batches. What
    comes back is the flow that was best on held-out samples; it is never worse on them
    than the one that came in.

    Any flow can be trained on: a new one, one that is trained already, or a fitted one,
    `Flow(gaussianise(x).map, dim)`. Its directions stay as fitted, because they must be
    orthonormal (`maps.trainable_leaves`); its splines and its whitening are trained.

    Args:
        flow: where to start.
        x: samples, (n, d).
        key: a random key, for the held-out samples and the batches.
        conditions: (n, c), one a sample, for flows with conditional layers, and only
            for these.
        weights: masses >= 0 of the samples, (n,); None: equal ones. With batches of all
            samples a weight of two is exactly a sample that is there twice.
        held_out: a share in (0, 1) of the samples, drawn at random, that are not
            trained on; 0 for none, then the last flow comes back; or samples of their
            own, (m, d), with conditions a pair (samples, conditions); these count
            equally.
        optimiser: from optax; None: Adam with a schedule, see `minimise`.
        batch_size: samples of a batch. None: 256, or all if these are less.
        num_steps: steps of the whole run, those before `state` included.
        block: steps between two looks at the held-out samples.
        patience: how many blocks in a row may bring no better likelihood of the
            held-out samples before it stops; None: any number.
        progress: called after each block with the state, the mean loss of the block,
            and the loss on the held-out samples (NaN without).
        state: where an earlier run of the same call stood; see `minimise`.

    Returns:
        A `Minimisation`: the flow as `model`, the state to go on from, and the losses
        in nats, "loss" (one a step) and "held_out" (at the start and after each block).

    Raises:
        ValueError: samples that are not (n, d) with the flow's d, are empty, NaN or
            integer; bad or missing conditions; bad weights or held-out samples; a batch
            larger than the samples left to train on; options out of range.

    Warns:
        RuntimeWarning: a loss, gradient or step that is not finite, for example of a
            sample outside of the support. The run stops, with the state before it.

    Example:
        >>> import jax.random as jr
        >>> from transportjax.flows import coupling_flow, maximum_likelihood
        >>> x = 3 + 2 * jr.normal(jr.key(0), (500, 2))
        >>> flow = coupling_flow(jr.key(1), 2, num_layers=2, width=8)
        >>> result = maximum_likelihood(flow, x, key=jr.key(2), num_steps=100)
        >>> bool(result.stats["held_out"][-1] < result.stats["held_out"][0])
        True

    References:
        Papamakarios et al. (2021), "Normalizing flows for probabilistic modeling and
        inference", section 2.3.
    """
    _checks.check_kind("flow", flow, Flow)
    _checks.check_not_traced("maximum_likelihood", (key, flow, x))
    _checks.check_key("key", key)
    if state is not None:
        _checks.check_kind("state", state, MinimiseState)
    if conditions is None:
        instead = "give `conditions`, one a sample"
        _checks.check_unconditional("flow", takes_condition(flow), instead)
    data = _samples(flow, "x", x, "conditions", conditions)
    data["weights"] = _checks.as_weights(
        "weights", weights, data["x"].shape[:1], data["x"].dtype
    )
    key = key if state is None else state.key  # the same samples are held out again
    if isinstance(held_out, tuple):
        _checks.check_listed("held_out", held_out, 2)
        kept = _samples(flow, "held_out", held_out[0], "held_out[1]", held_out[1])
    elif np.ndim(held_out) > 0:
        kept = _samples(flow, "held_out", held_out, "held_out[1]", None)
    else:
        data, kept = divide(data, held_out, key)
    if kept is not None:
        _checks.check_both_conditional(data["conditions"], kept["conditions"])
        kept = normalised(kept)
    return minimise(
        mean_loss,
        flow,
        normalised(data),
        key=key,
        optimiser=optimiser,
        batch_size=batch_size,
        num_steps=num_steps,
        block=block,
        held_out=kept,
        patience=None if kept is None else patience,
        progress=progress,
        state=state,
    )


def _samples(flow: Flow, name: str, x: Any, other: str, conditions: Any) -> dict:
    """Checked samples, and their conditions."""
    _checks.check_continuous(name, x)
    x = _checks.as_float(name, x)
    x = x.astype(_checks.working_dtype(x.dtype))
    _checks.check_samples_of_flow(name, x, flow.dim)
    if conditions is not None:
        conditions = _checks.as_float(other, conditions)
        _checks.check_conditions(other, conditions, len(x))
        # an error, if they misfit
        shapes = (jax.ShapeDtypeStruct(a.shape[1:], a.dtype) for a in (x, conditions))
        try:
            jax.eval_shape(flow.log_prob, *shapes)
        except ValueError as error:
            raise ValueError(f"`{other}` do not fit the flow: {error}") from None
    return {"x": x, "conditions": conditions, "weights": None}


@explicit_mesh_guard
def divide(data: dict, share: Any, key: PRNGKeyArray) -> tuple[dict, dict | None]:
    """The samples to train on, and those that are held out: a random share."""
    num = data["x"].shape[0]
    count = _checks.check_share("held_out", share, num)
    if count == 0:
        return data, None
    return in_two(jr.fold_in(key, 3), data, count)


@functools.partial(jax.jit, static_argnums=2)
def in_two(key: PRNGKeyArray, tree: T, count: int) -> tuple[T, T]:
    """Rows in random order, but for `count` of them, and these."""
    order = jr.permutation(key, len(jax.tree.leaves(tree)[0]))
    rest = jax.tree.map(lambda leaf: leaf[order[count:]], tree)
    return rest, jax.tree.map(lambda leaf: leaf[order[:count]], tree)


@explicit_mesh_guard
def thinned(tree: T) -> T:
    """Samples, of very many a part that is enough for a fit.

    One of each of so many parts in a row, at random: rows may have a period.
    """
    num = len(jax.tree.leaves(tree)[0])
    if num < 2 * _MOST_FITTED:
        return tree
    width = num // _MOST_FITTED
    starts = np.arange(0, num - width + 1, width)
    places = starts + np.random.default_rng(0).integers(width, size=len(starts))
    return jax.tree.map(lambda leaf: leaf[places], tree)


def normalised(data: dict) -> dict:
    """The data with weights whose mean is one."""
    weights = data["weights"]
    if weights is None:
        return data
    _checks.check_weights("weights", weights, weights.shape)  # a part may have none
    return {**data, "weights": weights / jnp.mean(weights)}


def mean_loss(flow: Flow, batch: dict, key: PRNGKeyArray) -> Float[Array, ""]:
    """The weighted mean of -log p, in nats."""
    rows = (batch["x"], batch["conditions"])
    values = -in_blocks(flow.log_prob, *(x for x in rows if x is not None))
    if "log_dets" in batch:  # of what the events have passed before
        values = values - batch["log_dets"]
    weights: Array | None = batch["weights"]
    return jnp.mean(values if weights is None else weights * values)


def in_blocks(function: Callable[..., Any], *rows: Float[Array, "n _"]) -> Any:
    """What `jax.vmap(function)(*rows)` is, of very many rows by some at a time.

    Rows of a block lie far from each other: what is spread over devices stays so.
    """
    num = len(rows[0])
    if num <= _BLOCK:
        return jax.vmap(function)(*rows)
    count = -(-num // _BLOCK)
    size = -(-num // count)
    more = ((0, size * count - num), (0, 0))

    def divided(x: Array) -> Array:
        return jnp.pad(x, more, "edge").reshape(size, count, -1).swapaxes(0, 1)

    def joined(x: Array) -> Array:
        return x.swapaxes(0, 1).reshape(size * count, *x.shape[2:])[:num]

    blocks = tuple(map(divided, rows))
    found = lax.map(lambda block: jax.vmap(function)(*block), blocks)
    return jax.tree.map(joined, found)
