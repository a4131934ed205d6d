"""The loop around the training steps of peers: epochs and looks as ours."""

from collections.abc import Callable
from typing import Any

import numpy as np


def train_in_epochs(
    step: Callable[[Any, np.ndarray, int], Any],
    state: Any,
    judge: Callable[[Any], float],
    log_prob_of: Callable[[Any], Callable[[Any], Any]],
    look: Callable[[Callable[[Any], Any]], None],
    *,
    num_rows: int,
    batch_size: int,
    block: int,
    num_steps: int | None,
) -> None:
    """Steps on batches of rows, drawn anew in each epoch; the best state is shown.

    Args:
        step: from the state, the rows of a batch and the number of the step to the next
            state.
        state: the first one.
        judge: the loss of a state on the held-out samples.
        log_prob_of: the log-density of a state, as a function that stays what it is.
        look: called after each block with that of the best state so far; what it raises
            ends the run.
        num_rows: of the samples.
        batch_size: rows of a batch, or all if there are less.
        block: steps between two looks.
        num_steps: steps of the run; None: without end.
    """
    rng = np.random.default_rng(0)
    best, least, done = log_prob_of(state), float("inf"), 0
    size = min(batch_size, num_rows)
    while num_steps is None or done < num_steps:
        order = rng.permutation(num_rows)
        for start in range(0, num_rows - size + 1, size):
            state = step(state, order[start : start + size], done)
            done += 1
            if done % block == 0:
                value = judge(state)
                if value < least:
                    best, least = log_prob_of(state), value
                look(best)
            if done == num_steps:
                break
