"""Figures of samples beside the data that they were fitted to."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from transportjax._checks import column_name

_DATA, _SAMPLES = "#4a5a6a", "#d1495b"
_MOST_PAIRS = 6  # columns that are shown in pairs
_MOST_OTHERS = 18  # more columns, shown alone
_LARGEST = 3000  # dots of a panel
_MOST_BARS = 60  # of whole numbers
_TAIL = 0.002  # share of the data beyond each end of an axis


def sampling_figure(
    out: Any, data: np.ndarray, samples: np.ndarray, columns: Sequence[str] = ()
) -> None:
    """A figure of every column of data and samples, and of pairs of columns.

    On the diagonal are the distributions, below it pairs of columns of the data, above
    it the same pairs of the samples. Of more than six columns these are the six that
    depend most on each other; others stand alone, on the right.

    Args:
        out: name of a file, or a binary file to write PNG to.
        data: (n, d).
        samples: (m, d).
        columns: names of the columns, () without.
    """
    import matplotlib.figure

    paired, others = _chosen(data)
    side = max(len(paired), 2)
    width = side + -(-len(others) // side)
    figure = matplotlib.figure.Figure(
        figsize=(1.9 * width + 0.6, 1.9 * side + 0.7), layout="constrained"
    )
    panels = figure.subplots(side, width, squeeze=False)
    names = [_short(columns, index) for index in range(data.shape[1])]
    for panel in panels.flat:
        panel.set_visible(False)
    for row, i in enumerate(paired):
        _distribution(panels[row, row], data[:, i], samples[:, i])
        for column, j in enumerate(paired):
            if row > column:
                _pair(panels[row, column], data, i, j, data, _DATA)
            elif row < column:
                _pair(panels[row, column], samples, i, j, data, _SAMPLES)
        panels[row, 0].set_ylabel(names[i], fontsize=8)
        panels[len(paired) - 1, row].set_xlabel(names[i], fontsize=8)
    _only_outer_ticks(panels[: len(paired), : len(paired)])
    for number, i in enumerate(others):
        panel = panels[number % side, side + number // side]
        _distribution(panel, data[:, i], samples[:, i])
        panel.set_title(names[i], fontsize=8)
    figure.align_ylabels(panels[: len(paired), 0])
    _legend(figure, len(data), len(samples))
    figure.savefig(out, dpi=110, format="png")


def _chosen(data: np.ndarray) -> tuple[list[int], list[int]]:
    """Columns to show in pairs, and alone; constant ones are not shown."""
    varying = np.flatnonzero(data.min(axis=0) < data.max(axis=0))
    if len(varying) <= _MOST_PAIRS:
        return varying.tolist(), []
    ranks = data[:, varying].argsort(axis=0).argsort(axis=0)
    strength = np.abs(np.corrcoef(ranks.T)).sum(axis=1)
    best = np.sort(varying[np.argsort(-strength, kind="stable")[:_MOST_PAIRS]])
    others = [int(i) for i in varying if i not in best]
    return best.tolist(), others[:_MOST_OTHERS]


def _distribution(panel: Any, data: np.ndarray, samples: np.ndarray) -> None:
    low, high = _limits(data)
    whole = np.all(data == np.round(data))
    edges = np.linspace(low, high, 41)
    if whole:  # as many of them in one bar as in another
        step = -(-(high - low) // _MOST_BARS)
        edges = np.arange(np.round(low) - 0.5, high + step, step)
    for values, colour, fill in ((data, _DATA, True), (samples, _SAMPLES, False)):
        heights = np.histogram(values, edges)[0] / len(values)
        panel.stairs(
            heights,
            edges,
            color=colour,
            fill=fill,
            alpha=0.45 if fill else 1,
            linewidth=1.3,
        )
    panel.set_visible(True)
    panel.set_xlim(edges[0], edges[-1])
    panel.set_ylim(bottom=0)
    panel.set_yticks([])
    panel.tick_params(labelsize=7)
    panel.locator_params(axis="x", nbins=3, integer=bool(whole))
    panel.spines[["top", "left", "right"]].set_visible(False)


def _pair(
    panel: Any, values: np.ndarray, i: int, j: int, data: np.ndarray, colour: str
) -> None:
    """Dots of column j, across, and i, upwards, on the axes of the data."""
    shown = values[:: -(-len(values) // _LARGEST)]
    jitter = np.random.default_rng(0).uniform(-0.3, 0.3, shown.shape)
    shown = shown + np.where(_is_whole(data), jitter, 0)
    area = float(np.clip(4000 / len(shown), 0.8, 14))
    panel.scatter(shown[:, j], shown[:, i], s=area, alpha=0.5, lw=0, color=colour)
    panel.set_visible(True)
    panel.set_xlim(*_limits(data[:, j]))
    panel.set_ylim(*_limits(data[:, i]))
    panel.tick_params(labelsize=7)
    for axis, column in (("x", j), ("y", i)):
        panel.locator_params(axis=axis, nbins=3, integer=bool(_is_whole(data)[column]))


def _is_whole(data: np.ndarray) -> np.ndarray:
    """Which columns hold few whole numbers, whose dots would lie on each other."""
    spread = data.max(axis=0) - data.min(axis=0)
    return np.all(data == np.round(data), axis=0) & (spread < _MOST_BARS)


def _limits(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, (_TAIL, 1 - _TAIL))
    if low == high:
        low, high = values.min(), values.max()
    margin = 0.5 if _is_whole(values[:, None])[0] else 0.06 * (high - low)
    return float(low - margin), float(high + margin)


def _only_outer_ticks(panels: np.ndarray) -> None:
    last = len(panels) - 1
    for row, line in enumerate(panels):
        for column, panel in enumerate(line):
            bottom, left = row == last, column == 0 and row != 0
            panel.tick_params(
                bottom=bottom, labelbottom=bottom, left=left, labelleft=left
            )


def _short(columns: Sequence[str], index: int) -> str:
    name = columns[index] if columns else column_name((), index)
    return name if len(name) <= 22 else name[:21] + "\N{HORIZONTAL ELLIPSIS}"


def _legend(figure: Any, num_data: int, num_samples: int) -> None:
    from matplotlib.lines import Line2D

    entries = ((_DATA, f"data ({num_data})"), (_SAMPLES, f"samples ({num_samples})"))
    handles = [
        Line2D([], [], color=colour, marker="o", ls="", label=label)
        for colour, label in entries
    ]
    figure.legend(
        handles=handles, loc="outside upper left", ncols=2, frameon=False, fontsize=9
    )
