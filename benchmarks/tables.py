"""Tables of measurements, as samples for flows.

The rows come in a random order: the first 80 % are for training, 10 % are held out, and
10 % are for the test. They are made continuous by uniform noise as wide as their
rounding, and standardised by what is trained on.
"""

import pathlib
from typing import NamedTuple

import numpy as np


class Data(NamedTuple):
    """Samples to train on, to choose by and to judge by, (n, d) each."""

    train: np.ndarray
    held: np.ndarray
    test: np.ndarray


def read(path: pathlib.Path) -> np.ndarray:
    """The rows of a table in random order, without the jumps of their rounding."""
    rows = np.load(path)["X"] if path.suffix == ".npz" else np.loadtxt(path)
    rng = np.random.default_rng(0)
    columns = []
    for column in rows.astype(np.float64).T:
        gaps = np.diff(np.unique(column))
        step = np.min(gaps[gaps > 1e-6 * np.std(column)])
        columns.append(column + step * rng.uniform(-0.5, 0.5, len(column)))
    return rng.permutation(np.stack(columns, axis=1))


def split(table: np.ndarray, n: int, dtype: str) -> Data:
    """The first n rows of the training part, with as small a share to choose by."""
    eight, nine = len(table) * 8 // 10, len(table) * 9 // 10
    parts = table[:n], table[eight:nine][: max(20, n // 8)], table[nine:]
    mean, deviation = np.mean(parts[0], axis=0), np.std(parts[0], axis=0)
    return Data(*(((part - mean) / deviation).astype(dtype) for part in parts))
