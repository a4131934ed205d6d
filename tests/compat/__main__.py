"""`python tests/compat`: how many of POT's own tests pass through transportjax."""

# ruff: noqa: T201
import argparse
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections import Counter

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from compat import sources  # noqa: E402 - this file is run as a script

LEAST = 96


def main() -> int:
    """Runs POT's tests twice, prints what passes, and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python tests/compat", description=__doc__)
    parser.add_argument("--pot", type=pathlib.Path, help="a checkout of POT")
    default = pathlib.Path(tempfile.gettempdir()) / "transportjax-compat"
    parser.add_argument(
        "--cache", type=pathlib.Path, default=default, help=f"{default}"
    )
    parser.add_argument("--least", type=int, default=LEAST, help=f"to pass: {LEAST}")
    parser.add_argument("-k", default="", help="as pytest's: which tests")
    parser.add_argument("--verbose", action="store_true", help="pytest's own output")
    options = parser.parse_args()
    try:
        version = importlib.metadata.version("POT")
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit("needs POT: pip install POT pytest") from None
    options.cache.mkdir(parents=True, exist_ok=True)
    tests, source = sources.obtain(options.pot, version, options.cache)
    files = sources.present(tests)
    print(f"POT {version}; tests from {source}")
    for missing in set(sources.FILES) - set(files):
        print(f"not there: {missing}")
    sides = {
        side: run(side, tests.resolve(), files, options)
        for side in ("pot", "transportjax")
    }
    passed = summarise(sides["pot"], sides["transportjax"])
    return 0 if passed >= options.least else 1


def run(side: str, tests: pathlib.Path, files: list[str], options) -> dict:
    """The report of the plugin on one run."""
    report = options.cache.resolve() / f"{side}.json"
    report.unlink(missing_ok=True)
    settings = options.cache / "pytest.ini"
    settings.write_text("[pytest]\n")
    disabled = dict.fromkeys(
        (f"POT_BACKEND_DISABLE_{name}" for name in ("PYTORCH", "TENSORFLOW", "CUPY")),
        "1",
    )
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        **disabled,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    environment.setdefault("JAX_PLATFORMS", "cpu")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "compat.plugin", "-c", str(settings.resolve())]
    command += [f"--rootdir={tests}", f"--compat-side={side}", "--tb=short"]
    command += [f"--compat-report={report}", "-k", options.k, *files]
    print(f"running on {side} ...", flush=True)
    output = None if options.verbose else subprocess.PIPE
    done = subprocess.run(command, cwd=tests, env=environment, stdout=output, text=True)
    if not report.exists():
        raise SystemExit(f"pytest ended with {done.returncode}\n{done.stdout or ''}")
    return json.loads(report.read_text())


def summarise(pot: dict, ours: dict) -> int:
    """Prints the tables; returns how many tests pass through transportjax."""
    runs = [name for name, test in pot["tests"].items() if test["outcome"] == "passed"]
    kinds = {name: _kind(ours["tests"].get(name)) for name in runs}
    columns = ("through us", "not reaching us", "fails")
    print(f"\n{'file':34}{'runs on POT':>13}" + "".join(f"{c:>17}" for c in columns))
    files = list(dict.fromkeys(name.split("::")[0] for name in runs))
    for file in [*files, ""]:
        found = Counter(kinds[name] for name in runs if name.startswith(file))
        numbers = "".join(f"{found[c]:>17}" for c in columns)
        print(f"{file or 'all':34}{found.total():>13}{numbers}")
    for kind in columns[1:]:
        print(f"\n{kind}:")
        for name in (name for name in runs if kinds[name] == kind):
            lines = ours["tests"].get(name, {}).get("reason", "not run").splitlines()
            words = " ".join(line.strip() for line in lines if line.strip())
            print(f"  {name}" + (f"\n    {words[:150]}" if kind == "fails" else ""))
    print(f"\n{'name':52}{'calls':>7}  our functions behind it")
    for name, count in ours["calls"].items():
        print(f"{name:52}{count:>7}  {', '.join(ours['behind'].get(name, ['-']))}")
    passed = sum(kind == "through us" for kind in kinds.values())
    print(f"\n{passed} of {len(runs)} tests that run on POT pass through transportjax")
    return passed


def _kind(test: dict | None) -> str:
    if test is None or test["outcome"] != "passed":
        return "fails"
    return "through us" if test["reached"] else "not reaching us"


if __name__ == "__main__":
    sys.exit(main())
