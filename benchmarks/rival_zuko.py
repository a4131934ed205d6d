"""zuko, in PyTorch, trained next to us."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from .rival_loop import train_in_epochs
from .tables import Data


def train_zuko(
    data: Data,
    look: Callable[[Callable[[Any], Any]], None],
    rates: Callable[[int], float],
    batch_size: int,
    block: int,
    num_steps: int | None = None,
    **sizes: Any,
) -> None:
    """Trains its neural spline flow by Adam, with epochs and looks as ours.

    It has no training loop; this is the one of its documentation. One thread: with more
    its small operations take more CPU time, and hardly less time.

    Args:
        data: what to train on and to choose by.
        look: called after each block with the log-density of the best flow so far; what
            it raises ends the run.
        rates: the step size of each step.
        batch_size: rows of a batch, or all if there are less.
        block: steps between two looks.
        num_steps: steps of the run, whose gradients longer than one are shortened to
            it, as ours; None: without end, and as they are.
        sizes: for its `NSF`, where they are not the defaults.
    """
    import torch
    import zuko  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows, held = torch.from_numpy(data.train), torch.from_numpy(data.held)
    flow = zuko.flows.NSF(features=rows.shape[1], **sizes).to(rows.dtype)
    optimiser = torch.optim.Adam(flow.parameters(), lr=rates(0))

    def step(flow: Any, places: np.ndarray, done: int) -> Any:
        optimiser.param_groups[0]["lr"] = rates(done)
        optimiser.zero_grad()
        loss = -flow().log_prob(rows[places]).mean()
        loss.backward()
        if num_steps is not None:
            torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimiser.step()
        return flow

    def log_prob_of(flow: Any) -> Callable[[Any], np.ndarray]:
        kept = copy.deepcopy(flow)
        return lambda x: _log_prob(kept, torch.from_numpy(x))

    train_in_epochs(
        step,
        flow,
        lambda flow: -float(np.mean(_log_prob(flow, held))),
        log_prob_of,
        look,
        num_rows=len(rows),
        batch_size=batch_size,
        block=block,
        num_steps=num_steps,
    )


def _log_prob(flow: Any, x: Any) -> np.ndarray:
    import torch

    with torch.no_grad():
        return flow().log_prob(x).numpy()
