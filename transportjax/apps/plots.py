"""Figures of what was done to a picture."""

from typing import Any

import numpy as np

from .picture import to_unit

_LARGEST = 900  # pixels a side of a picture in a figure
_COLOURS = ("#c8372d", "#3f8f3a", "#3566b8")


def comparison_figure(out: Any, pictures: dict[str, np.ndarray]) -> None:
    """A figure of what was done: two or more pictures above their histograms.

    Args:
        out: name of a file, or a binary file to write PNG to.
        pictures: by their titles, (h, w, c), c = 1 or 3.
    """
    import matplotlib.figure

    size = (4 * len(pictures), 5.2)
    figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
    axes = figure.subplots(2, len(pictures), height_ratios=(2.6, 1))
    tops = []
    for column, (title, pixels) in enumerate(pictures.items()):
        picture, plot = axes[0, column], axes[1, column]
        shown = _shown(pixels)
        picture.imshow(shown[..., 0] if shown.shape[-1] == 1 else shown, **_grey(shown))
        picture.set_title(title)
        picture.set_axis_off()
        tops.append(_histograms(plot, shown))
        plot.set_xlim(0, 255)
        plot.set_xlabel("grey level")
        plot.set_yticks([])
        plot.spines[["top", "left", "right"]].set_visible(False)
    for plot in axes[1]:
        plot.set_ylim(0, max(tops))
    figure.savefig(out, dpi=110, format="png")


def _shown(pixels: np.ndarray) -> np.ndarray:
    """A picture thinned to the size of a figure, in [0, 1]; NaN is black."""
    step = max(1, -(-max(pixels.shape[:2]) // _LARGEST))
    thin = to_unit(pixels[::step, ::step])
    return np.clip(np.nan_to_num(thin), 0, 1)


def _grey(shown: np.ndarray) -> dict[str, Any]:
    if shown.shape[-1] == 1:
        return {"cmap": "gray", "vmin": 0, "vmax": 1}
    return {}


def _histograms(plot: Any, shown: np.ndarray) -> float:
    """One curve a channel; returns a height that shows all but lone spikes."""
    channels = shown.shape[-1]
    heights = []
    for channel in range(channels):
        colour = "#555555" if channels == 1 else _COLOURS[channel]
        share, edges = np.histogram(shown[..., channel], bins=64, range=(0, 1))
        share = share / share.sum()
        plot.stairs(share, edges * 255, color=colour, fill=True, alpha=0.25)
        plot.stairs(share, edges * 255, color=colour, linewidth=1.2)
        heights.append(share)
    return 1.1 * float(np.quantile(np.concatenate(heights), 0.98)) + 1e-3


def flicker_figure(
    out: Any, before: np.ndarray, after: np.ndarray, cuts: np.ndarray
) -> None:
    """A figure of the brightness of the frames of a clip, before and after.

    Args:
        out: name of a file, or a binary file to write PNG to.
        before: mean luma of each frame, (t,), 1 is white.
        after: the same after the removal of flicker.
        cuts: numbers of the frames that begin a shot.
    """
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(11, 3.6), layout="constrained")
    plot = figure.subplots()
    for cut in cuts:
        plot.axvline(cut - 0.5, color="#999999", linestyle=":", linewidth=1)
    plot.plot(255 * before, color=_COLOURS[0], linewidth=1, label="before")
    plot.plot(255 * after, color=_COLOURS[2], linewidth=1.8, label="after")
    plot.set_xlabel("frame")
    plot.set_ylabel("mean luma, 8-bit steps")
    plot.set_xlim(-0.5, len(before) - 0.5)
    plot.spines[["top", "right"]].set_visible(False)
    plot.legend(loc="best", frameon=False, ncols=2)
    figure.savefig(out, dpi=110, format="png")
