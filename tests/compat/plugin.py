"""The plugin of pytest that puts our functions behind POT's names, and keeps count.

A test counts as one of ours only if it reached a public function of transportjax.
"""

import collections
import functools
import json
import operator
import pathlib
import sys
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from transportjax import onedim, sliced

from . import circle, line, plans, sliced_distances, sphere, unbalanced

FAMILIES = (line, circle, sliced_distances, sphere, plans, unbalanced)


class Count:
    """Which functions were called, in all and in the test that is running."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self.behind: dict[str, set[str]] = collections.defaultdict(set)
        self.reached: set[str] = set()
        self.current: list[str] = []
        self.outcomes: dict[str, dict] = {}

    def name(self, name: str, function: Callable) -> Callable:
        """A function under a name of POT."""
        self.names[name] = 0

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.names[name] += 1
            self.current.append(name)
            try:
                return function(*args, **kwargs)
            finally:
                self.current.pop()

        return counted

    def ours(self, name: str, function: Callable) -> Callable:
        """A public function of transportjax."""

        @functools.wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.reached.add(name)
            if self.current:
                self.behind[self.current[-1]].add(name)
            return function(*args, **kwargs)

        return counted


COUNT = Count()


def install() -> None:
    """Replaces POT's functions wherever a public module of POT holds them."""
    import ot

    for backend in ot.backend.get_backend_list():
        # POT leaves it empty on a CPU, and tests of the dtype then test nothing
        if str(backend) == "jax" and not backend.__type_list__:
            backend.__type_list__ = [jnp.ones((), d) for d in ("float32", "float64")]

    for room in (onedim, sliced):
        _count_public(room)
    modules = [
        module
        for name, module in sys.modules.items()
        if name.split(".")[0] == "ot" and "._" not in name
    ]
    for family in FAMILIES:
        for name, function in family.NAMES.items():
            try:
                original = operator.attrgetter(name)(ot)
            except AttributeError:  # an older POT
                continue
            replacement = COUNT.name(f"ot.{name}", function)
            for module in modules:
                for attribute in [k for k, v in vars(module).items() if v is original]:
                    setattr(module, attribute, replacement)


def _count_public(room: ModuleType) -> None:
    """The adapter looks functions up in the rooms; the library itself does not."""
    label = room.__name__.split(".")[-1]
    for name, value in list(vars(room).items()):
        if isinstance(value, FunctionType) and not name.startswith("_"):
            setattr(room, name, COUNT.ours(f"{label}.{name}", value))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--compat-side", choices=["pot", "transportjax"], required=True)
    parser.addoption("--compat-report", type=pathlib.Path, required=True)


def pytest_configure(config: pytest.Config) -> None:
    jax.config.update("jax_enable_x64", True)
    if config.getoption("--compat-side") == "transportjax":
        install()
    if not hasattr(pytest, "skip_backend"):
        # the source archive of POT lacks the conftest that defines it
        pytest.skip_backend = _skip_backend  # type: ignore[attr-defined]


def _skip_backend(name: str, reason: str = "") -> Callable:
    def decorate(test: Callable) -> Callable:
        @functools.wraps(test)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if str(kwargs.get("nx")) == name:
                pytest.skip(reason or f"not for {name}")
            return test(*args, **kwargs)

        return wrapped

    return decorate


@pytest.fixture(params=["numpy", "jax"])
def nx(request: pytest.FixtureRequest) -> Any:
    """Likewise; a conftest of POT comes before it."""
    import ot

    backends = {str(backend): backend for backend in ot.backend.get_backend_list()}
    return backends[request.param]


def pytest_runtest_setup(item: pytest.Item) -> None:
    COUNT.reached.clear()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when != "call" and report.passed:
        return
    crash = getattr(report.longrepr, "reprcrash", None)
    COUNT.outcomes[report.nodeid] = {
        "outcome": report.outcome,
        "reason": crash.message if crash else "",
        "reached": sorted(COUNT.reached),
    }


def pytest_sessionfinish(session: pytest.Session) -> None:
    behind = {name: sorted(functions) for name, functions in COUNT.behind.items()}
    report = {"tests": COUNT.outcomes, "calls": COUNT.names, "behind": behind}
    path = session.config.getoption("--compat-report")
    path.write_text(json.dumps(report, indent=1) + "\n")
