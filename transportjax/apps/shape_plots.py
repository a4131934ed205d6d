"""Figures of what a registration did."""

from typing import Any

import numpy as np

from .shape import Shape

_SOURCE, _TARGET = "#d1495b", "#00798c"
_LARGEST = 6000  # points of a shape in a figure


def registration_figure(out: Any, source: Shape, target: Shape, result: Shape) -> None:
    """A figure of a registration: both shapes before it, and after it.

    Shapes of space are seen along their thinnest axis and, below, from the side.

    Args:
        out: name of a file, or a binary file to write PNG to.
        source: what was moved.
        target: what it was moved to.
        result: where it went.
    """
    import matplotlib.figure

    views = _views(target.points)
    figure = matplotlib.figure.Figure(
        figsize=(11, 5.2 * len(views)), layout="constrained"
    )
    # axes of their own: before, the shapes may be far apart
    axes = figure.subplots(len(views), 2, squeeze=False)
    for row, view in zip(axes, views, strict=True):
        for panel, moved, title in zip(
            row, (source, result), ("before", "after"), strict=True
        ):
            _scatter(panel, target, view, _TARGET, "target", 2.5)
            _scatter(panel, moved, view, _SOURCE, "source", 1.0)
            panel.set_title(title)
            panel.set_aspect("equal")
            panel.set_axis_off()
    entries = axes[0, 1].get_legend_handles_labels()
    legend = figure.legend(*entries, loc="outside lower center", ncols=2, frameon=False)
    for handle in filter(None, legend.legend_handles):
        handle.set(sizes=[30], alpha=1)
    figure.savefig(out, dpi=110, format="png")


def _scatter(
    panel: Any, shape: Shape, view: np.ndarray, colour: str, name: str, size: float
) -> None:
    """The target's dots are larger and paler: a source on top of them hides none."""
    points = _thinned(shape.points) @ view
    area = size * float(np.clip(5000 / len(points), 0.5, 12))
    panel.scatter(
        *points.T, s=area, color=colour, alpha=0.8 / size**0.5, lw=0, label=name
    )


def _views(points: np.ndarray) -> list[np.ndarray]:
    """Matrices (d, 2) that project points on the plane of a panel."""
    if points.shape[1] == 2:
        return [np.eye(2)]
    centred = points - points.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)  # the thinnest first
    # the axis of space that is nearest to each keeps its sign: upright stays upright
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(3)])
    thin, middle, long = axes.T
    if np.abs(long).argmax() > np.abs(middle).argmax():
        middle, long = long, middle  # x before y before z on the paper
    return [np.stack([long, middle], axis=1), np.stack([thin, middle], axis=1)]


def _thinned(points: np.ndarray) -> np.ndarray:
    return points[:: max(1, -(-len(points) // _LARGEST))]
