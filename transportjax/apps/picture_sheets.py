"""A sheet of pictures beside those that were drawn."""

from typing import Any

import numpy as np

from .picture import to_unit

_MOST = 100  # pictures of each kind
_PIXELS = 900  # a side of each half, at least that of its pictures


def contact_sheet(out: Any, data: np.ndarray, samples: np.ndarray) -> None:
    """A figure of pictures, on the left, and of as many samples, on the right.

    Args:
        out: name of a file, or a binary file to write PNG to.
        data: uint8 or uint16, (n, h, w) or (n, h, w, c), c = 1 or 3. Of more than a
            hundred some are shown, evenly spread.
        samples: of the same shape, but for their number.
    """
    import matplotlib.figure

    count = min(_MOST, len(data), len(samples))
    side = max(1, int(np.ceil(np.sqrt(count))))
    halves = [_grid(pictures, side) for pictures in (data, samples)]
    height, width = halves[0].shape[:2]
    tall = 9.1 * height / width + 0.3
    figure = matplotlib.figure.Figure(figsize=(18.3, tall), layout="constrained")
    panels = figure.subplots(1, 2)
    titles = (f"data ({len(data)})", f"samples ({len(samples)})")
    for panel, half, title in zip(panels, halves, titles, strict=True):
        panel.imshow(half, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        panel.set_title(title)
        panel.set_axis_off()
    figure.savefig(out, dpi=100, format="png")


def _grid(pictures: np.ndarray, side: int) -> np.ndarray:
    """At most side^2 pictures in rows, a line between them, whole pixels larger."""
    chosen = np.linspace(0, len(pictures) - 1, min(side**2, len(pictures)))
    shown = to_unit(pictures[np.unique(chosen.astype(int))])
    if shown.ndim == 3:
        shown = shown[..., None]
    times = max(1, round(_PIXELS / (side * shown.shape[2])))
    shown = shown.repeat(times, axis=1).repeat(times, axis=2)
    shown = np.pad(shown, ((0, 0), (0, 2), (0, 2), (0, 0)), constant_values=0.5)
    shown = np.pad(
        shown, ((0, side**2 - len(shown)), *[(0, 0)] * 3), constant_values=0.5
    )
    num, height, width, channels = shown.shape
    lines = shown.reshape(side, side, height, width, channels).swapaxes(1, 2)
    grid = lines.reshape(side * height, side * width, channels)
    return grid[..., 0] if channels == 1 else grid
