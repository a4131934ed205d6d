"""How the peers of the topic `flows` are run, and on which watch."""

import functools
import importlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from .rival_distrax import train_distrax
from .rival_flowjax import train_flowjax
from .rival_sinf import sinf_module, train_sinf
from .rival_zuko import train_zuko
from .tables import Data

BLOCK = 250  # steps between two looks
_RATE, _BATCH = 3e-3, 256  # with a cosine schedule, ours and the peers'


class TimeIsUp(Exception):
    """The run has had its time."""


class Watch:
    """Notes the likelihood of the test samples against CPU time, until time is up.

    The time in which it judges is not counted.
    """

    def __init__(self, test: np.ndarray, limit: float):
        self.test, self.limit = test, limit
        self.seconds: list[float] = []
        self.values: list[float] = []
        self.start = time.process_time()

    def look(self, judge: Callable[[Any], Any]) -> None:
        """Notes the mean of `judge(test)`, the log-likelihoods."""
        now = time.process_time()
        self.seconds.append(now - self.start)
        self.values.append(float(np.mean(judge(self.test))))
        self.start += time.process_time() - now
        if self.seconds[-1] > self.limit:
            raise TimeIsUp


@functools.cache  # tells once what is left out
def peers() -> dict[str, Callable]:
    """Those that can be imported, by name."""
    rivals = {
        "flowjax": _flowjax_default,
        "flowjax, cosine": _flowjax_cosine,
        "zuko": _zuko_default,
        "zuko, cosine": _zuko_cosine,
        "distrax, cosine": _distrax_cosine,
    }
    for package in ("flowjax.train", "zuko", "distrax"):
        try:
            importlib.import_module(package)
        except ImportError:
            name = package.partition(".")[0]
            print(f"left out: {name} (it, or what it needs, is not installed)")
            rivals = {k: v for k, v in rivals.items() if not k.startswith(name)}
    try:
        rivals["SINF"] = functools.partial(_sinf, module=sinf_module())
    except ImportError as error:
        print(f"left out: SINF ({error})")
    return rivals


def _rates(num_steps: int) -> optax.Schedule:
    """Step sizes that rise over a fiftieth of the run, and fall to zero."""
    warm = max(1, num_steps // 50)
    return optax.warmup_cosine_decay_schedule(
        _RATE / warm, _RATE, warm, max(warm + 1, num_steps)
    )


def cosine(num_steps: int) -> optax.GradientTransformation:
    """Adam with such steps."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(_rates(num_steps)))


def within_budget(
    train: Callable[[Data, Watch, int], None], data: Data, watch: Watch, budget: float
) -> None:
    """Trains for as many steps as fit into a budget, which a short run finds out."""
    jax.clear_caches()
    trial = Watch(data.test[:1], float("inf"))
    train(data, trial, 2 * BLOCK)
    first, second = trial.seconds[-2:]
    rate = BLOCK / (second - first)
    jax.clear_caches()
    num_steps = max(BLOCK, int((budget - first) * rate) + BLOCK)
    watch.start = time.process_time()
    train(data, watch, num_steps)


def _flowjax_default(data: Data, watch: Watch) -> None:
    # the defaults of its fit_to_data
    train_flowjax(data, watch.look, optax.adam(5e-4), 100, BLOCK)


def _flowjax_cosine(data: Data, watch: Watch, *, budget: float) -> None:
    within_budget(_cosine_run(train_flowjax), data, watch, budget)


def _distrax_cosine(data: Data, watch: Watch, *, budget: float) -> None:
    within_budget(_cosine_run(train_distrax), data, watch, budget)


def _zuko_default(data: Data, watch: Watch) -> None:
    train_zuko(data, watch.look, lambda _: 1e-3, _BATCH, BLOCK)


def _zuko_cosine(data: Data, watch: Watch, *, budget: float) -> None:
    def train(data: Data, watch: Watch, num_steps: int) -> None:
        rates = np.asarray(_rates(num_steps)(np.arange(num_steps))).tolist()
        rate = rates.__getitem__
        train_zuko(
            data, watch.look, rate, _BATCH, BLOCK, num_steps, transforms=8, passes=2
        )

    within_budget(train, data, watch, budget)


def _sinf(data: Data, watch: Watch, *, module: Any) -> None:
    train_sinf(data, watch.look, module)


def _cosine_run(train: Callable) -> Callable[[Data, Watch, int], None]:
    """That training with the schedule, as a function of the number of steps."""

    def run(data: Data, watch: Watch, num_steps: int) -> None:
        train(data, watch.look, cosine(num_steps), _BATCH, BLOCK, num_steps)

    return run
