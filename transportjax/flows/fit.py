"""A density in one call: fitted first, then trained."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard
from transportjax.maps import AbstractBijection, Chain, trainable_leaves
from transportjax.maps.roles import takes_condition
from transportjax.solvers import Minimisation, MinimiseState, minimise
from transportjax.solvers.gaussianise import column_maps, whitening

from .constructors import spline_flow
from .first_fit import MANY, first_fit, loss_of
from .flow import Flow
from .likelihood import divide, in_blocks, mean_loss, normalised

_NOISES = (0.0, 0.2, 0.4)  # on fewer, in standard deviations, one after the other
_BLOCK, _SHORT_BLOCK = 250, 50  # steps, for many samples and for fewer
_RATE = 1e-2
_WARM = 100  # steps over which the rate rises
_SLOW = 3000  # steps, from which on it falls like one over their root
_POWER = 10  # of the weights of the average over the steps
_GAP = 0.3  # nats by which the average may be better before the steps shrink
_SHRINK = 1e-3  # their logarithm falls by so much a step, at most
_MEMORY = 200  # steps over which the gap is averaged
_LARGEST_GAP = 50.0  # nats that one step counts for


def fit_flow(
    x: ArrayLike,
    *,
    key: PRNGKeyArray,
    flow: Flow | None = None,
    fitted: Flow | None = None,
    weights: ArrayLike | None = None,
    held_out: int | float | ArrayLike | tuple[ArrayLike, ArrayLike | None] = 0.1,
    batch_size: int | None = None,
    num_steps: int = 20_000,
    block: int | None = None,
    patience: int = 10,
    progress: Callable[[Flow, int, float], Any] | None = None,
) -> Minimisation:
    """The law of samples, as a flow: no step size, number of steps or sizes to choose.

    `gaussianise` gives a flow within seconds; of large tables, by fewer steps, along
    random axes, and from a part of the samples. In up to three dimensions, from 1000
    samples on, Gaussian mixtures are tried too (`select_gaussian_mixture`, and the map
    that makes them normal, behind whitening and `LogTails` as in `gaussianise`): they
    are better at clusters and curves, `gaussianise` at edges. Then a `spline_flow` is
    trained, and as soon as held-out samples are more likely under it, it takes the
    place of the first.
    Where the fit starts by making the columns normal, each by itself, the flow that is
    trained comes behind the same maps of the columns, which stay as fitted.

    A flow soon learns less than 5000 samples by heart. So it is trained three times: as
    they are, and with normal noise on them, drawn anew at each step, of their
    covariance by 0.2^2 and by 0.4^2. The held-out samples choose.

    The flow that is judged, kept and returned is the average of the flows along the
    path of Adam, in its leaves; the weight of a step grows with its number to the power
    ten. The average lies in the middle of the valley between whose walls the steps
    jump: it is better than any of them and overfits less. By how much it is better,
    half the product of the gradient and the way from the average tells at no cost;
    where that is more than 0.3 nats, the steps shrink, beside their slow decrease. So
    they stay large where that does not harm, and the run can end at any time.

    Args:
        x: samples, (n, d), n > d.
        key: a random key.
        flow: what to train; None: `spline_flow` with its defaults and `data=x`.
        fitted: what it has to be better than; None: the better one of what
            `gaussianise` and, as told above, mixtures give.
        weights: masses >= 0 of the samples, (n,). None: equal ones.
        held_out: a share in (0, 1) of the samples, drawn at random, that are not
            trained on; or samples of their own, (m, d), or a pair of these and their
            weights, (m,). The number of steps of the fit is chosen with equal ones.
        batch_size: samples of a batch. None: 256, or all if these are less.
        num_steps: steps of a training at most. 20 000 take half a minute to two on a
            processor.
        block: steps between two looks at the held-out samples. None: 250, or 50 with
            less than 5000 samples, where it is soon over.
        patience: how many blocks in a row may bring no better likelihood of the
            held-out samples before it stops.
        progress: called after each fit and after each block with the best flow so far,
            the number of steps of all trainings, and the mean of -log p of that flow
            over the held-out samples, in nats.

    Returns:
        A `Minimisation`: the best flow as `model`; of the best training the last state,
        of both the flow that is stepped and the average, their leaves as one vector;
        and its stats, in nats, "loss" (of each step), "held_out" (of the average, at
        the start and after each block), and "fitted", that of the first flow.

    Raises:
        ValueError: samples that are not (n, d), are empty, too few, integer or NaN, or
            lie in a subspace; bad weights; a flow of other events, or a conditional
            one; options out of range; a call within `jit`, `vmap` or `grad`.

    Warns:
        RuntimeWarning: a loss, gradient or step that is not finite; see `minimise`.

    Example:
        >>> import jax.random as jr
        >>> from transportjax.flows import fit_flow
        >>> x = jr.exponential(jr.key(0), (400, 2))
        >>> flow = fit_flow(x, key=jr.key(1), num_steps=20, block=10).model
        >>> flow.sample(jr.key(2), 3).shape
        (3, 2)

    References:
        Dai and Seljak (2021), "Sliced iterative normalizing flows", for the fit.
        Shamir and Zhang (2013), "Stochastic gradient descent for non-smooth
        optimization", section 4: the average with polynomial weights.
        Lang, Zhang and Xiao (2019), "Using statistics to automate stochastic
        optimization": step sizes by what iterates and gradients have in common.
        Izmailov, Podoprikhin, Garipov, Vetrov and Wilson (2018), "Averaging weights
        leads to wider optima and better generalization".
        Rothfuss, Ferreira, Boehm, Walther, Ulrich, Asfour and Krause (2019), "Noise
        regularization for conditional density estimation".
    """
    _checks.check_not_traced("fit_flow", (key, x, weights, held_out))
    _checks.check_key("key", key)
    # not after the first fits, which may take long
    _checks.check_count("num_steps", num_steps)
    _checks.check_count("patience", patience)
    if block is not None:
        _checks.check_count("block", block)
    train, kept = _parts(x, weights, held_out, key)
    for name, given in (("flow", flow), ("fitted", fitted)):
        if given is not None:
            _checks.check_kind(name, given, Flow)
            _checks.check_samples_of_flow("x", train["x"], given.dim)
            instead = "train it with `maximum_likelihood`"
            _checks.check_unconditional(name, takes_condition(given), instead)
    num, dim = train["x"].shape
    if block is None:
        block = _BLOCK if num >= MANY else _SHORT_BLOCK
    if fitted is None:
        fitted, floor = first_fit(train, kept, key, progress)
    else:
        floor = loss_of(fitted, kept)
        if progress is not None:
            progress(fitted, 0, floor)
    # not before: the first fits take less time than a generator of keys to compile
    flow_key, train_key = jr.split(key, 4)[1:3]
    first: tuple[AbstractBijection, ...] = ()
    if flow is None:
        first = column_maps(fitted.map)
        if first:
            train, kept = _through(Chain(first), train, kept)
        flow = spline_flow(flow_key, dim, data=_by_mass(train))
    both = _averaged(flow)
    start, best, least = 0, fitted, floor

    def best_of(state: MinimiseState) -> tuple[Flow, float]:
        if not state.best_loss < least:
            return best, least
        # by numpy: nothing to compile
        found = both.flow_of(np.asarray(state.best.average))
        found = jax.tree.map(jnp.asarray, found)
        if first:
            found = Flow(Chain((*first, found.map)), dim)
        return found, float(state.best_loss)

    def report(state: MinimiseState, loss: float, value: float) -> None:
        if progress is not None:
            found, value = best_of(state)
            progress(found, start + int(state.step), value)

    runs = []
    for noise in _noises(train):
        run = minimise(
            _loss,
            both.with_noise(noise),
            _Training(train),
            key=train_key,
            optimiser=_averaging(),
            batch_size=batch_size,
            num_steps=num_steps,
            block=block,
            held_out=_Judging(kept),
            patience=patience,
            progress=report,
        )
        best, least = best_of(run.state)
        start += int(run.state.step)
        runs.append(run)
    run = min(runs, key=lambda run: float(run.state.best_loss))
    stats = {**run.stats, "fitted": jnp.asarray(floor, train["x"].dtype)}
    return Minimisation(best, run.state, stats)


def _noises(train: dict) -> tuple[np.ndarray | None, ...]:
    """Of each training: what to multiply normal vectors by, as noise on samples."""
    if len(train["x"]) >= MANY:
        return (None,)
    whiten = explicit_mesh_guard(whitening)("x", train["x"], train["weights"])
    root = np.linalg.inv(np.asarray(whiten.matrix))
    return tuple(noise * root for noise in _NOISES)


def _by_mass(train: dict) -> Float[Array, "n d"]:
    """As many samples, drawn evenly by their weights."""
    if train["weights"] is None:
        return train["x"]
    levels = np.cumsum(np.asarray(train["weights"], np.float64))
    middles = (np.arange(len(levels)) + 0.5) / len(levels)
    rows = np.searchsorted(levels, middles * levels[-1])
    return explicit_mesh_guard(jnp.take)(train["x"], rows, axis=0)


@eqx.filter_jit
@explicit_mesh_guard
def _through(map: AbstractBijection, *sets: dict) -> list[dict]:
    """Sets of samples where a map takes them, with the log-determinants."""
    x = jnp.concatenate([data["x"] for data in sets])
    x, log_dets = in_blocks(map.transform_and_log_det, x)
    ends = np.cumsum([len(data["x"]) for data in sets])[:-1]
    parts = zip(sets, jnp.split(x, ends), jnp.split(log_dets, ends), strict=True)
    return [{**data, "x": x, "log_dets": log_dets} for data, x, log_dets in parts]


class _Averaged(eqx.Module):
    """A flow, and the average of what it was along the steps: all leaves as one vector.

    Steps on one vector are compiled in a fraction of the time of steps on each leaf.
    """

    flow: Any
    average: Any
    noise: Any = None  # on samples: what normal vectors are multiplied by
    rest: Any = None  # of the flow: what is not trained
    form: Any = eqx.field(static=True, default=None)  # the leaves that are

    def with_noise(self, noise: np.ndarray | None) -> "_Averaged":
        matrix = None if noise is None else jnp.asarray(noise, self.flow.dtype)
        return dataclasses.replace(self, noise=matrix)

    def flow_of(self, vector: Array | np.ndarray) -> Flow:
        tree, likes = self.form
        ends = np.cumsum([math.prod(like.shape) for like in likes])
        starts = np.concatenate([[0], ends[:-1]])
        leaves = [
            vector[start:end].reshape(like.shape).astype(like.dtype)
            for start, end, like in zip(starts, ends, likes, strict=True)
        ]
        return eqx.combine(jax.tree.unflatten(tree, leaves), self.rest)


def _averaged(flow: Flow) -> _Averaged:
    parameters, rest = eqx.partition(flow, trainable_leaves(flow))
    leaves, tree = jax.tree.flatten(parameters)
    likes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
    dtype = jnp.result_type(*(like.dtype for like in likes))
    # by numpy: nothing to compile
    vector = jnp.asarray(np.concatenate([np.ravel(leaf) for leaf in leaves]), dtype)
    return _Averaged(vector, vector, None, rest, (tree, likes))


class _Training(NamedTuple):
    data: dict


class _Judging(NamedTuple):
    data: dict


def _parts(
    x: ArrayLike, weights: Any, held_out: Any, key: PRNGKeyArray
) -> tuple[dict, dict]:
    """The samples to train on, and those that are held out."""
    _checks.check_continuous("x", x)
    x = _checks.as_float("x", x)
    x = x.astype(_checks.working_dtype(x.dtype))
    _checks.check_points("x", x)
    weights = _checks.as_weights("weights", weights, x.shape[:1], x.dtype)
    data: dict = {"x": x, "conditions": None, "weights": weights}
    if isinstance(held_out, tuple) or jnp.ndim(held_out) > 0:
        given = held_out if isinstance(held_out, tuple) else (held_out, None)
        _checks.check_listed("held_out", given, 2)
        kept = _checks.as_float("held_out", given[0]).astype(x.dtype)
        _checks.check_points("held_out", kept, x.shape[1])
        masses = _checks.as_weights("held_out[1]", given[1], kept.shape[:1], x.dtype)
        judged = {"x": kept, "conditions": None, "weights": masses}
        return normalised(data), normalised(judged)
    _checks.check_number("held_out", held_out, 0, 1, open_low=True)
    train, kept = divide(data, held_out, jr.split(key, 4)[3])
    assert kept is not None  # the share is more than zero
    return normalised(train), normalised(kept)


def _loss(
    model: _Averaged, batch: _Training | _Judging, key: PRNGKeyArray
) -> Float[Array, ""]:
    """The mean of -log p: trained by the flow, judged by the average."""
    if isinstance(batch, _Judging):
        return mean_loss(model.flow_of(model.average), batch.data, key)
    data = batch.data
    if model.noise is not None:
        x = data["x"]
        noise = jr.normal(key, x.shape, x.dtype) @ lax.stop_gradient(model.noise).T
        data = {**data, "x": x + noise}
    return mean_loss(model.flow_of(model.flow), data, key)


class _Averaging(NamedTuple):
    """What the optimiser remembers; `gap` is by how much the average is better."""

    adam: Any
    count: Int[Array, ""]
    log_rate: Float[Array, ""]
    gap: Float[Array, ""]


@functools.cache  # the same object each time, so that nothing is compiled again
def _averaging() -> Any:
    """Adam for the flow; the average follows by a share that falls like one over t.

    With m_t = m_(t-1) + c_t (w_t - m_(t-1)) and c_t = (k + 1) / (t + k), t = 1, 2, ...,
    the weight of w_s in m_t is about (k + 1) s^k / t^(k + 1). Where the loss f is a
    quadratic function with its minimum at m, f(w) - f(m) = <f'(w), w - m> / 2. While
    the steps still lead somewhere the average lies behind them, and this is negative.
    """
    import optax

    adam = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())

    def init(params: Any) -> Any:
        zero = jnp.zeros_like(params.flow, shape=())
        return _Averaging(adam.init(params.flow), jnp.zeros((), "int32"), zero, zero)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        done = state.count.astype(state.gap.dtype)
        gap = jnp.vdot(updates.flow, params.flow - params.average) / 2
        gap = jnp.clip(gap, -_LARGEST_GAP, _LARGEST_GAP)  # of single steps
        gap = state.gap + (gap - state.gap) / jnp.minimum(done + 1, _MEMORY)
        excess = jnp.clip(gap / _GAP - 1, 0, 1)
        shrink = jnp.where(done >= _WARM, _SHRINK * excess, 0)
        log_rate = state.log_rate - shrink
        plan = jnp.minimum((done + 1) / _WARM, 1) * lax.rsqrt(1 + done / _SLOW)
        rate = _RATE * plan * jnp.exp(log_rate)
        direction, memory = adam.update(updates.flow, state.adam, params.flow)
        steps = -rate * jnp.asarray(direction)
        share = (_POWER + 1) / (done + 1 + _POWER)
        moves = share * (params.flow + steps - params.average)
        updates = dataclasses.replace(updates, flow=steps, average=moves)
        return updates, _Averaging(memory, state.count + 1, log_rate, gap)

    return optax.GradientTransformation(init, update)
