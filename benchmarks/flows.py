"""Flows: how likely new samples are, against the CPU time that has gone into a flow.

    python -m benchmarks flows

takes the four laws of `toys`, whose densities are known; `flow_tables` takes tables.
The time is that of all threads of this process, from the arrays on the host on, with
all compilation: caches are emptied before each run. Judging by the test samples is not
timed. Every rival keeps what was best on the held-out samples, looks at them every 250
steps, `fit_flow` as often as it does by default, and is shown as of then. Ours:

    fitted       `gaussianise`, no gradient descent
    fit_flow     Gaussian mixtures and the same, in few dimensions, then training, in
                 one call, which needs no known budget
    trained      `spline_flow` and `maximum_likelihood` with a cosine schedule

flowjax has its spline coupling flow, of 8 layers of the same width, in a loop around
its own training step: with its default rate and batch size, and with that cosine
schedule over budgets that are known beforehand, whose number of steps a short run finds
out.

zuko has its neural spline flow, in a loop as its documentation has it, by Adam: as it
comes, of 3 autoregressive transforms, with a constant rate of 1e-3; and of 8 couplings,
with the schedule. distrax has couplings and no more: a flow of 8, with the schedule.
The networks of all have two hidden layers of width 64. A peer is left out where it
cannot be imported.

SINF (Dai and Seljak, 2021, "Sliced iterative normalizing flows"), of whose kind
`fitted` is, fits its Gaussianising flow with its defaults, and stops by itself. It is
no package: the environment variable SINF names a clone of its repository.

FLOWS_SECONDS (60) sets the time of the long runs, FLOWS_TOYS (names with commas
between) chooses among the laws.
"""

import contextlib
import functools
import importlib.metadata
import importlib.util
import os
import pathlib
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import numpy as np

import transportjax as tj
from transportjax.flows import Flow, fit_flow, maximum_likelihood, spline_flow
from transportjax.maps import trainable_leaves

from . import harness
from .rival_runs import BLOCK, TimeIsUp, Watch, cosine, peers, within_budget
from .tables import Data
from .toys import TOYS

_SECONDS = float(os.environ.get("FLOWS_SECONDS", "60"))
_TIMES = (1, 3, 10, 30, 60)


def report(options: Namespace) -> dict:
    """Runs all rivals on all data, prints what they reach, and returns the record."""
    seconds = 5.0 if options.quick else _SECONDS
    results = []
    for case, truth, data in _cases(options):
        print(f"{case} (truth {truth:.3f})")
        for record in records(data, (10.0, seconds)):
            results.append({"case": case, "truth": truth, **record})
    found = environment(options.dtype)
    return {"topic": "flows", "environment": found, "results": results}


def environment(dtype: str) -> dict:
    """What it runs on, with the versions of all that is compared."""
    found = harness.environment(dtype)
    for name in ("equinox", "optax", "flowjax", "zuko", "torch", "distrax"):
        if importlib.util.find_spec(name) is not None:
            found["versions"][name] = importlib.metadata.version(name)
    return found


def records(data: Data, budgets: tuple[float, ...]) -> Iterator[dict]:
    """What each rival reaches, and when; the last budget ends the runs."""
    for name, rival in (_ours() | peers()).items():
        for run, chosen in _runs(name, rival, budgets):
            record = _record(run, chosen, data, budgets[-1])
            _print_row(record, budgets[-1])
            yield record


def _cases(options: Namespace) -> Iterator[tuple[str, float, Data]]:
    """Names, mean log densities of the test samples, and data."""
    names = os.environ.get("FLOWS_TOYS", ",".join(TOYS)).split(",")
    for name in names[:1] if options.quick else names:
        toy, rng = TOYS[name], np.random.default_rng(0)
        sizes = (8000, 2000, 20_000)
        data = Data(*(toy.sample(rng, n).astype(options.dtype) for n in sizes))
        yield name, float(np.mean(toy.log_prob(data.test))), data


def _ours() -> dict[str, Callable]:
    return {"fitted": _fitted, "fit_flow": _fit_flow, "trained": _trained}


def _runs(
    name: str, rival: Callable, budgets: tuple[float, ...]
) -> Iterator[tuple[str, Callable]]:
    """One run, or one for each budget that the schedule has to know."""
    if name == "trained":
        yield name, functools.partial(rival, budget=budgets[-1])
    elif name.endswith("cosine"):
        for budget in budgets:
            yield f"{name} {budget:g} s", functools.partial(rival, budget=budget)
    else:
        yield name, rival


def _record(name: str, rival: Callable, data: Data, limit: float) -> dict:
    """What one rival reaches, and when."""
    jax.clear_caches()
    watch = Watch(data.test, limit)
    with contextlib.suppress(TimeIsUp):
        rival(data, watch)
    return {"rival": name, "seconds": watch.seconds, "log_likelihood": watch.values}


def value_at(record: dict, seconds: float) -> float:
    """The last value that was there after so many seconds; NaN before the first."""
    pairs = zip(record["seconds"], record["log_likelihood"], strict=True)
    before = [value for when, value in pairs if when <= seconds]
    return before[-1] if before else float("nan")


def _print_row(record: dict, limit: float) -> None:
    cells = [f"{t:g} s {value_at(record, t):7.3f}" for t in _TIMES if t <= limit]
    first = record["seconds"][0] if record["seconds"] else float("nan")
    end = record["log_likelihood"][-1] if record["seconds"] else float("nan")
    print(
        f"  {record['rival']:22} first {first:5.1f} s   {'   '.join(cells)}   "
        f"end {end:.3f}",
        flush=True,
    )


@eqx.filter_jit
def _log_prob(flow: Flow, x: jax.Array) -> jax.Array:
    return jax.vmap(flow.log_prob)(x)


def _fitted(data: Data, watch: Watch) -> None:
    solution = tj.gaussianise(data.train, key=jr.key(0), held_out=data.held)
    flow = Flow(solution.map, data.train.shape[1])
    jax.block_until_ready(flow)
    watch.look(functools.partial(_log_prob, flow))


def _fit_flow(data: Data, watch: Watch) -> None:
    def progress(flow: Flow, step: int, loss: float) -> None:
        watch.look(functools.partial(_log_prob, flow))

    fit_flow(data.train, key=jr.key(0), held_out=data.held, progress=progress)


def _trained(data: Data, watch: Watch, *, budget: float) -> None:
    def train(data: Data, watch: Watch, num_steps: int) -> None:
        flow = spline_flow(jr.key(0), data.train.shape[1], data=data.train)
        rest = eqx.partition(flow, trainable_leaves(flow))[1]

        def progress(state: Any, loss: float, held: float) -> None:
            best = eqx.combine(state.best, rest)
            watch.look(functools.partial(_log_prob, best))

        maximum_likelihood(
            flow,
            data.train,
            key=jr.key(1),
            held_out=data.held,
            optimiser=cosine(num_steps),
            num_steps=num_steps,
            block=BLOCK,
            patience=None,
            progress=progress,
        )

    within_budget(train, data, watch, budget)


def plot(report: dict, path: pathlib.Path) -> None:
    """Likelihood against time, a panel for each law whose density is known."""
    import matplotlib.pyplot as plt

    figure, panels, found = panels_of_cases(report, 4.2, sharex=True)
    rivals = list(dict.fromkeys(r["rival"] for r in found))
    colours = plt.get_cmap("tab20" if len(rivals) > 10 else "tab10")
    end = max(s for r in found for s in r["seconds"])
    for case, panel in panels.items():
        mine = [r for r in found if r["case"] == case]
        truth = mine[0]["truth"]
        panel.axhline(truth, color="black", linestyle="--", label="truth")
        for record in mine:
            x = [*record["seconds"], end]
            y = [*record["log_likelihood"], record["log_likelihood"][-1]]
            colour = colours(rivals.index(record["rival"]))
            style = line_style(record["rival"])
            panel.step(x, y, style, where="post", color=colour, label=record["rival"])
            panel.plot(x[:1], y[:1], "o", color=colour, markersize=4)
        panel.set_xscale("log")
        panel.set_xlim(0.8, end)
        panel.set_xticks(_TIMES, [f"{t}" for t in _TIMES])
        panel.minorticks_off()
        panel.set_ylim(truth - 0.7, truth + 0.04)
        panel.set_title(case)
    figure.supxlabel("CPU time (s), compilation included")
    figure.supylabel("log-likelihood of test samples (nats)")
    save_with_legend(figure, path)


def panels_of_cases(
    report: dict, width: float, **options: Any
) -> tuple[Any, dict[str, Any], list[dict]]:
    """A figure, a panel for each case, and the records of runs that got so far."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = [record for record in report["results"] if record["seconds"]]
    cases = list(dict.fromkeys(record["case"] for record in found))
    figure, panels = plt.subplots(
        1,
        len(cases),
        figsize=(width * len(cases), 4.2),
        squeeze=False,
        layout="constrained",
        **options,
    )
    return figure, dict(zip(cases, panels[0], strict=True)), found


def line_style(rival: str) -> str:
    """Dots for peers."""
    return ":" if rival.startswith(("flowjax", "zuko", "distrax", "SINF")) else "-"


def save_with_legend(figure: Any, path: pathlib.Path) -> None:
    """Writes the figure, with the legend of its first panel above."""
    import matplotlib.pyplot as plt

    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=120)
    plt.close(figure)
