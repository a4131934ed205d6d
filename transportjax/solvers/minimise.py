"""The loop that trains anything: a model, a loss, an optimiser, mini-batches."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard
from transportjax.maps import trainable_leaves

Loss = Callable[[Any, Any, PRNGKeyArray], Float[Array, ""]]
_BATCH_SIZE = 256


class MinimiseState(eqx.Module):
    """Where a minimisation stands: all that is needed to go on bit for bit.

    Attributes:
        parameters: the leaves of the model that are trained.
        optimiser: what the optimiser remembers.
        order: the rows of the data as this epoch takes them, (n,).
        step: steps done.
        failed_at: the step, counted from zero, whose loss or gradient was not finite;
            -1 if there is none.
        best: the parameters with the least loss on the held-out data so far.
        best_loss: that loss, infinity if there are no such data.
        best_step: after how many steps it was reached.
        key: the random key of the run.
    """

    parameters: Any
    optimiser: Any
    order: Int[Array, " n"]
    step: Int[Array, ""]
    failed_at: Int[Array, ""]
    best: Any
    best_loss: Float[Array, ""]
    best_step: Int[Array, ""]
    key: PRNGKeyArray


class Minimisation(NamedTuple):
    """What `minimise` returns.

    Attributes:
        model: the model with the parameters that were best on the held-out data; with
            the last ones where there are no such data.
        state: to go on from, by `minimise(..., state=state)`.
        stats: "loss", of the batch of each step that was done, before it; "held_out",
            where there are held-out data, of all of them: before the first step, and
            after each block.
    """

    model: Any
    state: MinimiseState
    stats: dict[str, Float[Array, " _"]]


def minimise(
    loss: Loss,
    model: Any,
    data: Any,
    *,
    key: PRNGKeyArray,
    optimiser: Any = None,
    batch_size: int | None = None,
    num_steps: int = 1000,
    block: int = 100,
    held_out: Any = None,
    patience: int | None = None,
    progress: Callable[[MinimiseState, float, float], Any] | None = None,
    state: MinimiseState | None = None,
) -> Minimisation:
    """The model whose leaves minimise a loss over mini-batches of data.

    A block of steps is one compiled loop with the data on the device. Between blocks
    the loss on held-out data decides what is kept and whether to stop: with them, what
    comes back is never worse on them than what came in.

    An ensemble is one model too: stack its members, by `eqx.filter_vmap` of what makes
    one over keys, and let the loss be the sum of theirs.

    Args:
        loss: a function of (model, batch, key) that returns one number; the batch is
            `data` with `batch_size` rows. Define it once, not in a loop: another
            function is compiled anew.
        model: a pytree; `maps.trainable_leaves` tells which leaves are trained.
        data: arrays with a common leading axis of n rows, a pytree of them; None for
            losses that draw their own.
        key: a random key; held-out data are always judged with the same one.
        optimiser: from optax. None: Adam, with steps that rise to 1e-3 over the first
            hundredth of the run and fall to zero by a cosine, and with gradients longer
            than one shortened to it.
        batch_size: rows of a batch. None: 256, or n if that is less. Every row is used
            once in an epoch, but for the last ones that fill no batch.
        num_steps: steps of the whole run, those before `state` included.
        block: steps between two looks at the held-out data.
        held_out: data that are not trained on, like `data`.
        patience: how many blocks in a row may bring no better loss on the held-out
            data before it stops. None: any number.
        progress: called after each block with the state, the mean loss of the block,
            and the loss on the held-out data (NaN without). Keep the state, in memory
            or by `equinox.tree_serialise_leaves` (its key as `jax.random.key_data`), to
            go on after an interruption.
        state: where an earlier run with the same model, data, batch size, block and
            optimiser stood, at the end or in `progress`. The result is then, bit for
            bit, that of one run without a break. `key` is not used. The default
            optimiser is the same if `num_steps` is: its steps fall over all of them.

    Returns:
        The model, the state, and the losses.

    Raises:
        ValueError: data without rows, with unequal numbers of them, or not finite; a
            batch larger than the data; options out of range; a loss that is not one
            number; a model with nothing to train; a state of another run; a call within
            `jit`, `vmap` or `grad`.

    Warns:
        RuntimeWarning: a loss, gradient or step that is not finite. The run stops, with
            the state before that step.

    Example:
        >>> import jax, jax.numpy as jnp, jax.random as jr
        >>> import transportjax as tj
        >>> from transportjax.solvers import minimise
        >>> def loss(map, x, key):
        ...     return jnp.mean((jax.vmap(map)(x) - 1) ** 2)
        >>> x = jr.normal(jr.key(0), (512, 2))
        >>> start = tj.Affine(jnp.eye(2), jnp.zeros(2))
        >>> result = minimise(loss, start, x, key=jr.key(1), num_steps=100)
        >>> bool(result.stats["loss"][-1] < result.stats["loss"][0])
        True
    """
    _check_options(num_steps, block, held_out, patience)
    _checks.check_not_traced("minimise", (key, model, data, held_out))
    _checks.check_key("key", key)
    _checks.check_optimiser("optimiser", optimiser)
    data, held_out = jax.tree.map(jnp.asarray, (data, held_out))
    num_rows = _checks.check_rows_alike("data", jax.tree.leaves(data))
    _checks.check_rows_alike("held_out", jax.tree.leaves(held_out))
    if batch_size is None:
        batch_size = min(_BATCH_SIZE, num_rows or 1)
    _checks.check_count("batch_size", batch_size)
    _checks.check_batch_size("batch_size", batch_size, num_rows)
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((batch_size, *leaf.shape[1:]), leaf.dtype),
        data,
    )
    _checks.check_loss("loss", eqx.filter_eval_shape(loss, model, batch, key))
    parameters, rest = eqx.partition(model, trainable_leaves(model))
    _checks.check_has_leaves("model", jax.tree.leaves(parameters))
    optimiser = _default_optimiser(num_steps) if optimiser is None else optimiser
    begin = functools.partial(_begin, parameters, optimiser.init, key, num_rows or 1)
    if state is not None:
        _checks.check_kind("state", state, MinimiseState)
        _checks.check_same_structure("state", state, eqx.filter_eval_shape(begin))
        state = eqx.tree_at(
            lambda s: s.failed_at, state, jnp.full_like(state.failed_at, -1)
        )
    step = functools.partial(
        _run,
        rest=rest,
        data=data,
        loss=loss,
        optimiser=optimiser,
        batch_size=batch_size,
        block=block,
    )
    judge = functools.partial(_judge, rest=rest, held_out=held_out, loss=loss)
    judge = None if held_out is None else judge
    plan = (num_steps, block, patience)
    state, stats = _train(begin, state, step, judge, plan, progress)
    if state.failed_at >= 0:
        warnings.warn(
            "the loss, its gradient or the step that it leads to is not finite at step "
            f"{state.failed_at}, counted from zero: stopped there, with the state "
            "before that step",
            RuntimeWarning,
            stacklevel=2,
        )
    kept = state.parameters if held_out is None else state.best
    return Minimisation(eqx.combine(kept, rest), state, stats)


def _train(
    begin: Callable[[], MinimiseState],
    state: MinimiseState | None,
    step: Callable[..., tuple[MinimiseState, Array]],
    judge: Callable[[MinimiseState], tuple[MinimiseState, Array]] | None,
    plan: tuple[int, int, int | None],
    progress: Callable[[MinimiseState, float, float], Any] | None,
) -> tuple[MinimiseState, dict[str, Array]]:
    """Blocks of steps, from a state or from the start, up to one of the ends."""
    num_steps, block, patience = plan
    losses, held = [], []
    if state is None:
        state = begin()
        if judge is not None:
            state, value = judge(state)
            held.append(value)
    while (done := int(state.step)) < num_steps and state.failed_at < 0:
        if patience is not None and done - state.best_step >= patience * block:
            break
        size = min(block - done % block, num_steps - done)
        # an array: another size is no other program
        state, values = step(state, size=jnp.asarray(size, "int32"))
        losses.append(values[: int(state.step) - done])
        value = jnp.full_like(state.best_loss, jnp.nan)
        if judge is not None:
            state, value = judge(state)
            held.append(value)
        if progress is not None:
            progress(state, float(jnp.mean(losses[-1])), float(value))
    none = jnp.zeros_like(state.best_loss, shape=(0,))
    stats = {"loss": jnp.concatenate(losses) if losses else none}
    if judge is not None:
        stats["held_out"] = jnp.stack(held) if held else none
    return state, stats


def _check_options(
    num_steps: int, block: int, held_out: Any, patience: int | None
) -> None:
    _checks.check_count("num_steps", num_steps)
    _checks.check_count("block", block)
    if patience is not None:
        _checks.check_count("patience", patience)
        _checks.check_given("held_out", held_out, "`patience` left out")


@functools.cache  # the same object each time, so that nothing is compiled again
def _default_optimiser(num_steps: int) -> Any:
    """Adam with a warm start, a cosine to zero, and shortened gradients."""
    import optax

    warm = max(1, num_steps // 100)
    schedule = optax.warmup_cosine_decay_schedule(
        1e-3 / warm, 1e-3, warm, max(warm + 1, num_steps)
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))


@eqx.filter_jit
def _begin(
    parameters: Any, init: Callable[[Any], Any], key: PRNGKeyArray, num_rows: int
) -> MinimiseState:
    return MinimiseState(
        parameters=parameters,
        optimiser=init(parameters),
        order=jnp.arange(num_rows, dtype="int32"),
        step=jnp.zeros((), "int32"),
        failed_at=jnp.full((), -1, "int32"),
        best=parameters,
        best_loss=jnp.full((), jnp.inf, float),  # a weak dtype would not stay
        best_step=jnp.zeros((), "int32"),
        key=key,
    )


@eqx.filter_jit
@explicit_mesh_guard
def _run(
    state: MinimiseState,
    rest: Any,
    data: Any,
    loss: Loss,
    optimiser: Any,
    batch_size: int,
    block: int,
    size: Int[Array, ""],
) -> tuple[MinimiseState, Float[Array, " block"]]:
    """`size` <= `block` steps, fewer after a failure, and the loss before each."""

    @eqx.filter_value_and_grad
    def slope_of(parameters: Any, batch: Any, key: PRNGKeyArray) -> Array:
        return loss(eqx.combine(parameters, rest), batch, key)

    def goes_on(carry: tuple) -> Array:
        state, _, number = carry
        return (number < size) & (state.failed_at < 0)

    def take(carry: tuple) -> tuple:
        state, losses, number = carry
        order, batch = _next_batch(state, data, batch_size)
        key = jr.fold_in(jr.fold_in(state.key, 1), state.step)
        value, slope = slope_of(state.parameters, batch, key)
        old = (state.parameters, state.optimiser)
        with jax.numpy_dtype_promotion("standard"):  # optax has powers of counts
            updates, memory = optimiser.update(slope, state.optimiser, state.parameters)
        moved = eqx.apply_updates(state.parameters, updates)
        is_fine = _all_finite((value, slope, moved))
        parameters, memory = jax.tree.map(
            lambda a, b: jnp.where(is_fine, a, b), (moved, memory), old
        )
        step = state.step + is_fine.astype("int32")
        failed_at = jnp.where(is_fine, state.failed_at, state.step)
        state = eqx.tree_at(
            lambda s: (s.parameters, s.optimiser, s.order, s.step, s.failed_at),
            state,
            (parameters, memory, order, step, failed_at),
        )
        losses = losses.at[number].set(value.astype(losses.dtype))
        return state, losses, number + 1

    # not a scan: it ends at a failure, and at a last block that is shorter
    losses = jnp.full_like(state.best_loss, jnp.nan, shape=(block,))
    carry = (state, losses, jnp.zeros_like(size))
    state, losses, _ = lax.while_loop(goes_on, take, carry)
    return state, losses


def _next_batch(
    state: MinimiseState, data: Any, batch_size: int
) -> tuple[Int[Array, " n"], Any]:
    """The order of the rows in this epoch, drawn anew at its start, and the next."""
    num_rows = state.order.shape[0]
    if batch_size == num_rows:
        return state.order, data
    per_epoch = num_rows // batch_size
    epoch, place = state.step // per_epoch, state.step % per_epoch

    def shuffled(order: Array) -> Array:
        key = jr.fold_in(jr.fold_in(state.key, 0), epoch)
        # by one sort: `jr.permutation` takes longer to compile
        return lax.sort((jr.bits(key, order.shape), order), num_keys=1)[1]

    order = lax.cond(place == 0, shuffled, lambda order: order, state.order)
    rows = lax.dynamic_slice_in_dim(order, place * batch_size, batch_size)
    return order, jax.tree.map(lambda leaf: leaf[rows], data)


@eqx.filter_jit
@explicit_mesh_guard
def _judge(
    state: MinimiseState, rest: Any, held_out: Any, loss: Loss
) -> tuple[MinimiseState, Float[Array, ""]]:
    """Keeps the parameters if they are the best on the held-out data."""
    key = jr.fold_in(state.key, 2)  # the same for all: losses can be compared
    value = loss(eqx.combine(state.parameters, rest), held_out, key)
    value = value.astype(state.best_loss.dtype)
    is_better = value < state.best_loss

    def places(s: MinimiseState) -> tuple:
        return s.best, s.best_loss, s.best_step

    new = (state.parameters, value, state.step)
    kept = jax.tree.map(lambda a, b: jnp.where(is_better, a, b), new, places(state))
    return eqx.tree_at(places, state, kept), value


def _all_finite(tree: Any) -> Bool[Array, ""]:
    leaves = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves))
