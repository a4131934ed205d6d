"""Runs rivals in turn on the same arrays, and writes down what they took."""

import dataclasses
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

import transportjax

RESULTS = pathlib.Path(__file__).parent / "results"
_PEERS = ("jax", "jaxlib", "numpy", "scipy", "torch", "POT", "ott-jax", "color-matcher")
_PEERS += ("scikit-image", "pillow", "pykeops", "geomloss", "pycpd", "probreg")
_PEERS += ("flowjax", "zuko", "distrax", "opencv-python-headless")


@dataclasses.dataclass(frozen=True)
class Rival:
    """One way to do the work of a case.

    Args:
        function: called with the arguments of the case, or with what `prepare` made of
            them, once, untimed.
        jit: whether it is a JAX function, to be compiled.
        prepare: converts the arguments, for a peer with arrays of its own.
    """

    function: Callable[..., Any]
    jit: bool = True
    prepare: Callable[..., tuple] = lambda *arguments: arguments


@dataclasses.dataclass(frozen=True)
class Case:
    """The same work for several rivals; the first one is ours.

    Args:
        name: what is done, and on what size.
        arguments: arrays.
        rivals: by name.
        outcome: picks, from a rival's output, what must be equal for all of them.
        rtol: how equal, in relation to the greatest entry.
        quality: for rivals whose outcomes differ: a number for each output, written
            down in place of the comparison.
        once: whether the work is so long that the first calls are what is timed.
    """

    name: str
    arguments: tuple
    rivals: dict[str, Rival]
    outcome: Callable[[Any], Any] = lambda output: jax.tree.leaves(output)[0]
    rtol: float = 1e-4
    quality: Callable[[Any], float] | None = None
    once: bool = False


def run_case(case: Case, rounds: int) -> list[dict]:
    """One record for each rival of `case`."""
    ready = {name: _prepare(rival, case) for name, rival in case.rivals.items()}
    wall: dict[str, list[float]] = {name: [] for name in ready}
    cpu: dict[str, list[float]] = {name: [] for name in ready}
    quality = _first_calls(case, ready, wall, cpu)
    first = {name: wall[name][0] for name in ready}
    for _ in range(0 if case.once else rounds):
        for name, (function, arguments, _) in ready.items():
            cpu_start, start = time.process_time(), time.perf_counter()
            jax.block_until_ready(function(*arguments))
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - cpu_start)
    if case.once:
        rounds = 1
    else:  # the first calls are not counted
        wall, cpu = ({k: times[1:] for k, times in d.items()} for d in (wall, cpu))
    ours = next(iter(ready))
    return [
        {
            "case": case.name,
            "rival": name,
            "shapes": [list(np.shape(a)) for a in case.arguments],
            "rounds": rounds,
            **ready[name][2],
            "first_s": first[name],
            "quality": quality[name],
            "median_s": statistics.median(wall[name]),
            "min_s": min(wall[name]),
            "cpu_s": statistics.median(cpu[name]),
            "ratio": statistics.median(wall[name]) / statistics.median(wall[ours]),
            "cpu_ratio": statistics.median(cpu[name]) / statistics.median(cpu[ours]),
        }
        for name in ready
    ]


def _prepare(rival: Rival, case: Case) -> tuple[Callable, tuple, dict]:
    """What to call, with what, and what its compilation took."""
    arguments = rival.prepare(*case.arguments)
    if not rival.jit:
        return rival.function, arguments, {"compile_s": None, "memory_bytes": None}
    arguments = jax.block_until_ready(jax.device_put(arguments))
    start = time.perf_counter()
    compiled = jax.jit(rival.function).lower(*arguments).compile()
    facts = {"compile_s": time.perf_counter() - start, "memory_bytes": None}
    memory = compiled.memory_analysis()
    if memory is not None:
        facts["memory_bytes"] = (
            memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            + memory.temp_size_in_bytes
        )
    return compiled, arguments, facts


def _first_calls(case: Case, ready: dict, wall: dict, cpu: dict) -> dict:
    """Runs every rival once, and compares the outcomes or measures their quality.

    A rival that is not compiled beforehand compiles what it needs. The times go into
    the lists of `wall` and `cpu`.

    Returns:
        The quality, by name, None if it is not measured.
    """
    quality, expected = {}, None
    for name, (function, arguments, _) in ready.items():
        cpu_start, start = time.process_time(), time.perf_counter()
        output = jax.block_until_ready(function(*arguments))
        wall[name].append(time.perf_counter() - start)
        cpu[name].append(time.process_time() - cpu_start)
        quality[name] = None
        if case.quality is not None:
            quality[name] = case.quality(output)
            continue
        found = np.asarray(case.outcome(output)).astype(np.float64)
        if expected is None:
            expected = found
        size = np.max(np.abs(expected), initial=0)
        np.testing.assert_allclose(
            found,
            expected,
            rtol=case.rtol,
            atol=case.rtol * size,
            err_msg=f"{case.name}: {name} does other work than ours",
        )
    return quality


def environment(dtype: str) -> dict:
    """Where and with what a benchmark ran."""
    versions = {"transportjax": transportjax.__version__}
    for name in _PEERS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "num_devices": jax.device_count(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": versions,
        "dtype": dtype,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _processor() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    found = re.search(r"model name\s*: (.*)", text)
    return found.group(1) if found else platform.processor()


def run(topic: str, cases: Iterable[Case], *, rounds: int, dtype: str) -> dict:
    """Runs all cases, prints a table while doing so, and returns the report."""
    report = {"topic": topic, "environment": environment(dtype), "results": []}
    print(
        _row(
            "case",
            "rival",
            *("compile", "first", "median", "min", "CPU", "ratio", "CPU ratio"),
            "quality",
        )
    )
    for case in cases:
        for record in run_case(case, rounds):
            report["results"].append(record)
            compile_s = record["compile_s"]
            print(
                _row(
                    record["case"],
                    record["rival"],
                    "" if compile_s is None else f"{compile_s:.2f} s",
                    *(
                        f"{1e3 * record[k]:.2f} ms"
                        for k in ("first_s", "median_s", "min_s", "cpu_s")
                    ),
                    *(f"{record[k]:.2f}" for k in ("ratio", "cpu_ratio")),
                    "" if record["quality"] is None else f"{record['quality']:.2f}",
                ),
                flush=True,
            )
    return report


def _row(case: str, rival: str, *numbers: str) -> str:
    return f"{case:34} {rival:22}" + "".join(f"{number:>12}" for number in numbers)


def write(
    report: dict,
    path: pathlib.Path | None,
    plot: Callable[[dict, pathlib.Path], None] | None = None,
) -> pathlib.Path:
    """Writes the report as JSON, and a plot beside it, by `plot` if it is given."""
    if path is None:
        device = re.sub(r"[^a-z0-9]+", "-", report["environment"]["device"].lower())
        path = RESULTS / f"{report['topic']}-{device.strip('-')}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
    (plot or _plot)(report, path.with_suffix(".png"))
    return path


def _plot(report: dict, path: pathlib.Path) -> None:
    """How many times our time each rival takes, on a logarithmic axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    results = report["results"]
    key = "cpu_ratio" if report["environment"]["platform"] == "cpu" else "ratio"
    cases = list(dict.fromkeys(record["case"] for record in results))
    rivals = dict.fromkeys(record["rival"] for record in results)
    rows, ticks, row = [], [], 0.0
    for case in cases:
        size = sum(record["case"] == case for record in results)
        rows += [row + i for i in range(size)]
        ticks.append(row + (size - 1) / 2)
        row += size + 1  # a gap between the cases
    figure, axes = plt.subplots(figsize=(8, 1.5 + 0.14 * row), layout="constrained")
    palette = plt.get_cmap("tab10" if len(rivals) <= 10 else "tab20")
    for number, name in enumerate(rivals):
        mine = [i for i, record in enumerate(results) if record["rival"] == name]
        lengths = [results[i][key] for i in mine]
        axes.barh(
            [rows[i] for i in mine], lengths, 0.9, color=palette(number), label=name
        )
    axes.set_yticks(ticks, cases)
    axes.set_ylim(row - 1, -1)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    device = report["environment"]["device"]
    axes.set_xlabel(f"time / our time ({device}, {report['environment']['dtype']})")
    figure.legend(loc="outside upper center", ncols=4, fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)
