"""The command line of the benchmarks: see the docstring of the package."""

import argparse
import importlib
import pathlib
import pkgutil

import jax

import benchmarks

from . import harness

_NO_TOPICS = ("__main__", "harness", "tables", "toys")


def _topics() -> list[str]:
    names = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
    return [n for n in names if n not in _NO_TOPICS and not n.startswith("rival_")]


def main() -> None:
    """Parses the arguments and runs one topic."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"Times a topic next to peers. Topics: {', '.join(_topics())}.",
    )
    parser.add_argument("topic", nargs="?", choices=_topics(), metavar="topic")
    parser.add_argument("--json", type=pathlib.Path, help="where to write the results")
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--rounds", type=int, help="runs of each rival, taken in turn")
    parser.add_argument("--data", type=pathlib.Path, help="data that topics may need")
    options = parser.parse_args()
    if options.topic is None:
        print("\n".join(_topics()))
        return
    jax.config.update("jax_enable_x64", options.dtype == "float64")
    module = importlib.import_module(f"benchmarks.{options.topic}")
    if hasattr(module, "report"):  # what is not the same work for all, run in turn
        report = module.report(options)
    else:
        rounds = options.rounds or (3 if options.quick else 15)
        report = harness.run(
            options.topic, module.cases(options), rounds=rounds, dtype=options.dtype
        )
    if options.json or not options.quick:
        plot = getattr(module, "plot", None)
        print(f"written to {harness.write(report, options.json, plot)}")


if __name__ == "__main__":
    main()
