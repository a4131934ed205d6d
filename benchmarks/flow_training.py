"""Training coupling flows by maximum likelihood, next to flowjax and zuko.

Steps of Adam on batches of 1024, for flows of 8 couplings with networks of two hidden
layers of width 64; splines have 8 bins. A row is 20 steps. Ours and flowjax are one
compiled loop of steps; "one by one" is a compiled step called from Python, and "own
loop" is `maximum_likelihood` and flowjax's `fit_to_data`, with held-out data, one batch
of them judged at the end. flowjax's networks have ReLU by default; "SiLU" has the
networks that ours have. zuko (PyTorch) has its couplings, with ReLU, in a plain loop on
one thread: with two its many small operations take more time, not less. The quality is
the loss of the last step, in nats, of data that are N(0, I): it tells that all of them
train. Parameters are counted and printed.
"""

import importlib.util
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from transportjax.flows import coupling_flow, maximum_likelihood, spline_flow
from transportjax.maps import trainable_leaves

from .harness import Case, Rival

_BATCH, _STEPS, _BINS, _INTERVAL = 1024, 20, 8, 4
_OPTIMISER = optax.adam(1e-3)
Loss = Callable[[Any, jax.Array], jax.Array]


def cases(options: Namespace) -> Iterator[Case]:
    """Both couplings in two and in sixteen dimensions."""
    peers = {"flowjax": _flowjax, "zuko": _zuko}
    for name in [p for p in peers if importlib.util.find_spec(p) is None]:
        print(f"left out: {name} (not installed)")
        del peers[name]
    for kind in ("affine", "spline"):
        for dim in (2,) if options.quick else (2, 16):
            rng = np.random.default_rng(0)
            x = rng.normal(size=((_STEPS + 1) * _BATCH, dim)).astype(options.dtype)
            rivals = _ours(kind, dim)
            for make in peers.values():
                rivals |= make(kind, dim)
            yield Case(f"{kind} couplings, d = {dim}", (x,), rivals, quality=float)


def _ours(kind: str, dim: int) -> dict[str, Rival]:
    sizes = {"num_layers": 8, "rotate": False}
    if kind == "affine":
        flow = coupling_flow(jr.key(0), dim, **sizes)
    else:
        flow = spline_flow(jr.key(0), dim, num_bins=_BINS, interval=_INTERVAL, **sizes)
    parameters, rest = eqx.partition(flow, trainable_leaves(flow))
    _print_size(f"transportjax, {kind}, d = {dim}", parameters)

    def loss(parameters, x):
        return -jnp.mean(jax.vmap(eqx.combine(parameters, rest).log_prob)(x))

    def own(x):
        result = maximum_likelihood(
            flow,
            x,
            key=jr.key(1),
            held_out=1 / (_STEPS + 1),
            optimiser=_OPTIMISER,
            batch_size=_BATCH,
            num_steps=_STEPS,
            block=_STEPS,
        )
        return float(result.stats["loss"][-1])

    return {
        "transportjax": _loop(loss, parameters),
        "transportjax, one by one": _one_by_one(loss, parameters),
        "transportjax, own loop": Rival(own, jit=False),
    }


def _flowjax(kind: str, dim: int) -> dict[str, Rival]:
    import paramax  # pyright: ignore[reportMissingImports]
    from flowjax import (  # pyright: ignore[reportMissingImports]
        bijections,
        distributions,
        flows,
        train,
    )

    def make(activation):
        spline = bijections.RationalQuadraticSpline(knots=_BINS, interval=_INTERVAL)
        return flows.coupling_flow(
            jr.key(0),
            base_dist=distributions.Normal(jnp.zeros(dim)),
            transformer=spline if kind == "spline" else None,
            flow_layers=8,
            nn_width=64,
            nn_depth=2,
            nn_activation=activation,
        )

    def is_fixed(leaf):
        return isinstance(leaf, paramax.NonTrainable)

    def parts(flow):
        parameters, rest = eqx.partition(flow, eqx.is_inexact_array, is_leaf=is_fixed)

        def loss(parameters, x):
            return -jnp.mean(paramax.unwrap(eqx.combine(parameters, rest)).log_prob(x))

        return loss, parameters

    flow, negative = make(jax.nn.relu), train.losses.MaximumLikelihoodLoss()
    _print_size(f"flowjax, {kind}, d = {dim}", parts(flow)[1])

    def own(x):
        _, losses = train.fit_to_data(
            jr.key(1),
            flow,
            x,
            loss_fn=negative,  # the same object: so its step is compiled once
            optimizer=_OPTIMISER,
            max_epochs=1,
            batch_size=_BATCH,
            val_prop=1 / (_STEPS + 1),
            show_progress=False,
        )
        return losses["train"][-1]

    return {
        "flowjax": _loop(*parts(flow)),
        "flowjax, SiLU": _loop(*parts(make(jax.nn.silu))),
        "flowjax, one by one": _one_by_one(*parts(flow)),
        "flowjax, own loop": Rival(own, jit=False),
    }


def _zuko(kind: str, dim: int) -> dict[str, Rival]:
    import torch  # pyright: ignore[reportMissingImports]
    import zuko  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    torch.manual_seed(0)
    options = {"transforms": 8, "hidden_features": (64, 64)}
    if kind == "spline":
        options["univariate"] = zuko.transforms.MonotonicRQSTransform
        options["shapes"] = ((_BINS,), (_BINS,), (_BINS - 1,))
    flow = zuko.flows.NICE(dim, **options)
    count = sum(p.numel() for p in flow.parameters())
    print(f"zuko, {kind}, d = {dim}: {count} parameters")
    optimiser = torch.optim.Adam(flow.parameters(), lr=1e-3)

    def run(batches):
        loss = None
        for x in batches:
            optimiser.zero_grad()
            loss = -flow().log_prob(x).mean()
            loss.backward()
            optimiser.step()
        return loss.item()

    def prepare(x):
        parts = np.split(x[: _STEPS * _BATCH], _STEPS)
        return ([torch.from_numpy(part) for part in parts],)

    return {"zuko": Rival(run, jit=False, prepare=prepare)}


def _step(loss: Loss, carry: tuple[Any, Any], x: jax.Array) -> tuple[tuple, jax.Array]:
    parameters, memory = carry
    value, slope = jax.value_and_grad(loss)(parameters, x)
    with jax.numpy_dtype_promotion("standard"):  # optax has powers of counts
        updates, memory = _OPTIMISER.update(slope, memory, parameters)
    return (eqx.apply_updates(parameters, updates), memory), value


def _loop(loss: Loss, parameters: Any) -> Rival:
    """All steps in one compiled loop."""

    def run(carry, batches):
        return jax.lax.scan(lambda c, x: _step(loss, c, x), carry, batches)[1][-1]

    return Rival(run, prepare=lambda x: _begin(parameters, x))


def _one_by_one(loss: Loss, parameters: Any) -> Rival:
    """A compiled step, called from Python."""
    step = jax.jit(lambda carry, x: _step(loss, carry, x))

    def run(carry, batches):
        value = None
        for x in batches:
            carry, value = step(carry, x)
        return value

    def prepare(x):
        carry, batches = _begin(parameters, x)
        return carry, list(batches)

    return Rival(run, jit=False, prepare=prepare)


def _begin(parameters: Any, x: np.ndarray) -> tuple[tuple[Any, Any], jax.Array]:
    """Parameters, the memory of the optimiser, and the batches."""
    batches = jnp.asarray(x[: _STEPS * _BATCH].reshape(_STEPS, _BATCH, -1))
    return (parameters, _OPTIMISER.init(parameters)), batches


def _print_size(name: str, parameters: Any) -> None:
    leaves = jax.tree.leaves(eqx.filter(parameters, eqx.is_inexact_array))
    print(f"{name}: {sum(leaf.size for leaf in leaves)} parameters")
