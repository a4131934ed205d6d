"""Flow matching: what the coupling of noise and data is worth, and what it costs.

    python -m benchmarks flow_matching

The same field is trained for as many steps on the same batches of the four laws of
`toys`, with independent pairs, with those of `sliced_coupling` and with those of
`sinkhorn_coupling`. Told of each: the curvature of the learnt paths over the mean
squared length of the move (zero: straight lines at constant speed), their straightness,
the sliced W2 from samples by a few steps of Euler to data, next to that between two
samples of the data, and the negative log-likelihood of test samples, next to the truth.

Costs are those of a step of training as it runs in a compiled loop: noise, coupling,
gradient, Adam. The share of the coupling is its time, alone in such a loop, over that
of the whole step, in CPU time, medians over rounds that take turns.

FLOW_MATCHING_STEPS (2000) is the number of steps of each training.
"""

import itertools
import os
import pathlib
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import transportjax as tj
from transportjax import diagnostics, flows, maps, solvers

from . import harness
from .toys import TOYS

_STEPS = int(os.environ.get("FLOW_MATCHING_STEPS", "2000"))
_BATCH, _WIDTH, _RATE = 256, 64, 3e-3
_SAMPLES, _TESTS = 8000, 2000
_EULER = (1, 2, 4, 8, 32)
_DIRECTIONS = 64
_COUPLINGS: dict[str, Callable | None] = {
    "independent": None,
    "sliced": flows.sliced_coupling,
    "Sinkhorn": flows.sinkhorn_coupling,
}
_SHARES = (1, 2, 5, 10, 20, 50, 100)
_LARGE_PLAN = 1024  # rows from which Sinkhorn's plan takes too long to be timed


def report(options: Namespace) -> dict:
    """Trains and times, prints what is found, and returns the record."""
    results = []
    for record in itertools.chain(_learnt(options), _costs(options)):
        results.append(record)
        print(
            "  ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in record.items()
            ),
            flush=True,
        )
    return {
        "topic": "flow_matching",
        "environment": harness.environment(options.dtype),
        "results": results,
    }


def _learnt(options: Namespace) -> Iterator[dict]:
    """A record for each law and coupling."""
    num_steps = 200 if options.quick else _STEPS
    directions = tj.half_circle_directions(_DIRECTIONS)
    distance = jax.jit(lambda x, y: tj.sliced_wasserstein(x, y, directions) ** 0.5)
    for law in list(TOYS)[:1] if options.quick else TOYS:
        toy, rng = TOYS[law], np.random.default_rng(0)
        sizes = (100_000, _SAMPLES, _SAMPLES, _TESTS)
        train, data, other, test = (
            jnp.asarray(toy.sample(rng, n).astype(options.dtype)) for n in sizes
        )
        noise = jr.normal(jr.key(2), data.shape, data.dtype)
        for name, couple in _COUPLINGS.items():
            field = _trained(couple, train, num_steps)
            generate = maps.ContinuousMap(field)
            ways = eqx.filter_jit(jax.vmap(generate.trajectory))(noise).swapaxes(0, 1)
            move = jnp.mean(jnp.sum((ways[-1] - ways[0]) ** 2, axis=1))
            flow = flows.Flow(generate, 2)
            yield {
                "kind": "learnt",
                "case": law,
                "coupling": name,
                "curvature": float(diagnostics.path_curvature(ways) / move),
                "straightness": float(jnp.mean(diagnostics.straightness(ways))),
                "squared_move": float(move),
                **{
                    f"sw2_{n}": float(distance(_euler(field, noise, n), data))
                    for n in _EULER
                },
                "sw2_floor": float(distance(other, data)),
                "nll": -float(jnp.mean(eqx.filter_jit(jax.vmap(flow.log_prob))(test))),
                "nll_truth": -float(np.mean(toy.log_prob(np.asarray(test)))),
            }


def _trained(couple: Callable | None, data: jax.Array, num_steps: int) -> Any:
    """The field that is learnt from pairs of that coupling."""

    def loss(field, batch, key):
        return _loss(couple, field, batch, key)

    return solvers.minimise(
        loss,
        maps.VelocityField.create(jr.key(0), data.shape[1], width=_WIDTH),
        data,
        key=jr.key(1),
        optimiser=optax.adam(optax.cosine_decay_schedule(_RATE, num_steps)),
        batch_size=_BATCH,
        num_steps=num_steps,
        block=num_steps,
    ).model


def _loss(
    couple: Callable | None, field: Any, data: jax.Array, key: jax.Array
) -> jax.Array:
    keys = jr.split(key, 3)
    noise = jr.normal(keys[0], data.shape, data.dtype)
    partners = None if couple is None else couple(keys[1], noise, data)
    batch = flows.matching_batch(keys[2], noise, data, partners=partners)
    return flows.matching_loss(field, batch)


@eqx.filter_jit
def _euler(field: Any, x: jax.Array, num_steps: int) -> jax.Array:
    for step in range(num_steps):
        x = x + jax.vmap(field, (None, 0))(step / num_steps, x) / num_steps
    return x


def _costs(options: Namespace) -> Iterator[dict]:
    """A record for each size: milliseconds of CPU time, and the share."""
    sizes = [(2, 128), (784, 128), (784, 512)]
    for dim, width in sizes[:1] if options.quick else sizes:
        for n in (256, 1024) if options.quick else (256, 1024, 4096):
            rounds = options.rounds or (3 if options.quick else 9)
            case = _cost_case(dim, width, n, options.dtype)
            found = {r["rival"]: r for r in harness.run_case(case, rounds)}
            steps = case.arguments[1].shape[0]
            plain = found.pop("independent")["cpu_s"]
            for name in [name for name in found if not name.endswith("alone")]:
                whole, alone = found[name]["cpu_s"], found[f"{name}, alone"]["cpu_s"]
                yield {
                    "kind": "cost",
                    "case": f"d = {dim}, width {width}",
                    "coupling": name,
                    "batch": n,
                    "independent_ms": 1e3 * plain / steps,
                    "step_ms": 1e3 * whole / steps,
                    "coupling_ms": 1e3 * alone / steps,
                    "share": alone / whole,
                }


def _cost_case(dim: int, width: int, n: int, dtype: str) -> harness.Case:
    """Loops of steps on the same noise and data, and of their couplings alone."""
    field = maps.VelocityField.create(jr.key(0), dim, width=width)
    parameters, rest = eqx.partition(field, maps.trainable_leaves(field))
    optimiser = optax.adam(1e-3)

    def train(couple):
        def step(carry, data):
            parameters, memory, key = carry
            key, subkey = jr.split(key)
            value, slope = jax.value_and_grad(
                lambda p: _loss(couple, eqx.combine(p, rest), data, subkey)
            )(parameters)
            with jax.numpy_dtype_promotion("standard"):  # optax has powers of counts
                updates, memory = optimiser.update(slope, memory, parameters)
            return (eqx.apply_updates(parameters, updates), memory, key), value

        def run(noise, batches):
            start = (parameters, optimiser.init(parameters), jr.key(1))
            return jax.lax.scan(step, start, batches)[1]

        return harness.Rival(run)

    def alone(couple):
        def run(noise, batches):
            keys = jr.split(jr.key(1), len(batches))
            return jax.lax.map(lambda args: couple(*args), (keys, noise, batches))

        return harness.Rival(run)

    rivals = {}
    for name, couple in _COUPLINGS.items():
        if name == "Sinkhorn" and n > _LARGE_PLAN:
            continue
        rivals[name] = train(couple)
        if couple is not None:
            rivals[f"{name}, alone"] = alone(couple)
    # So many steps that the call itself, some 0.1 ms, does not count.
    rng = np.random.default_rng(0)
    steps = max(2**15 // n, 20) if dim == 2 else max(2**12 // n, 4)
    noise = rng.normal(size=(steps, n, dim)).astype(dtype)
    if dim == 2:
        data = TOYS["moons"].sample(rng, steps * n).reshape(steps, n, 2)
    else:  # a spectrum that falls like that of pictures
        scales = np.arange(1, dim + 1) ** -0.5
        data = rng.normal(size=noise.shape) * scales / np.mean(scales**2) ** 0.5
    arguments = (noise, data.astype(dtype))
    return harness.Case(f"{dim}, {n}", arguments, rivals, quality=lambda _: 0.0)


def plot(report: dict, path: pathlib.Path) -> None:
    """Quality against steps of Euler, curvature, and the share of the coupling."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    learnt = [r for r in report["results"] if r["kind"] == "learnt"]
    costs = [r for r in report["results"] if r["kind"] == "cost"]
    laws = list(dict.fromkeys(r["case"] for r in learnt))
    figure, panels = plt.subplots(
        2, max(len(laws), 2), figsize=(15, 7.5), layout="constrained", squeeze=False
    )
    for panel, law in zip(panels[0], laws, strict=False):
        mine = [r for r in learnt if r["case"] == law]
        for record in mine:
            values = [record[f"sw2_{n}"] for n in _EULER]
            panel.loglog(_EULER, values, "o-", label=record["coupling"])
        floor = mine[0]["sw2_floor"]
        panel.axhline(floor, color="black", linestyle="--", label="two samples of data")
        panel.set(title=law, xlabel="steps of Euler", xticks=_EULER)
        panel.set_xticklabels([str(n) for n in _EULER])
        panel.minorticks_off()
    panels[0, 0].set_ylabel("sliced W2 to data")
    panels[0, 0].legend()
    _bars(panels[1, 0], learnt, laws, "curvature", "curvature / squared move")
    _bars(panels[1, 1], learnt, laws, "nll", "negative log-likelihood (nats)")
    for panel, name in zip(panels[1, 2:], ("sliced", "Sinkhorn"), strict=False):
        mine = [r for r in costs if r["coupling"] == name]
        for case in dict.fromkeys(r["case"] for r in mine):
            rows = [r for r in mine if r["case"] == case]
            shares = [100 * r["share"] for r in rows]
            panel.loglog([r["batch"] for r in rows], shares, "o-", label=case)
        panel.axhline(5, color="black", linestyle=":", label="5 %")
        sizes = sorted({r["batch"] for r in mine})
        panel.set_xticks(sizes, [str(n) for n in sizes])
        panel.set_yticks(_SHARES, [str(share) for share in _SHARES])
        panel.minorticks_off()
        panel.set(title=f"{name} coupling", xlabel="batch", ylim=(1, 110))
        panel.set_ylabel("share of a training step (% of CPU time)")
        panel.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _bars(
    panel: Any, records: list[dict], laws: list[str], key: str, label: str
) -> None:
    """Bars of all couplings, law by law; with the truth where it is known."""
    for place, name in enumerate(_COUPLINGS):
        values = [r[key] for r in records if r["coupling"] == name]
        panel.bar(np.arange(len(laws)) + 0.27 * (place - 1), values, 0.25, label=name)
    if key == "nll":
        truths = [r["nll_truth"] for r in records if r["coupling"] == "independent"]
        for place, truth in enumerate(truths):
            panel.hlines(truth, place - 0.42, place + 0.42, color="black")
    else:
        panel.set_yscale("log")
    panel.set_xticks(np.arange(len(laws)), laws, fontsize="x-small")
    panel.set_ylabel(label)
