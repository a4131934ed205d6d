"""Flicker removal: made-up flicker of a moving picture, and what is left of it.

Writes examples/output/deflicker.png.
"""

import pathlib

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import transportjax as tj

FOLDER = pathlib.Path(__file__).parent
OUTPUT = FOLDER / "output" / "deflicker.png"
NUM, SIZE = 72, (384, 216)
SHOWN = range(20, 28)
LUMA = np.array([0.2126, 0.7152, 0.0722])


def moving(name):
    """A slow zoom into a picture."""
    with Image.open(FOLDER / "pictures" / name) as file:
        picture = file.convert("RGB")
    frames = []
    for share in np.linspace(0, 1, NUM // 2):
        across = picture.width * (0.9 - 0.25 * share)
        down = across * SIZE[1] / SIZE[0]
        left, top = (picture.width - across) * share, (picture.height - down) / 2
        box = (left, top, left + across, top + down)
        frames.append(picture.resize(SIZE, Image.Resampling.BICUBIC, box=box))
    return np.stack([np.asarray(frame) for frame in frames]) / 255


def flickering(clean):
    """Each frame with a gain and a gamma of its own."""
    rng = np.random.default_rng(0)
    gain, gamma = np.exp(0.1 * rng.normal(size=(2, NUM, 1, 1, 1)))
    return np.rint(255 * np.clip(gain * clean**gamma, 0, 1)).astype(np.uint8)


def strip(frames):
    """A column of each frame, side by side: flicker shows as stripes."""
    middle = SIZE[0] // 3
    return np.concatenate([f[:, middle : middle + 12] for f in frames], axis=1)


def main():
    clean = np.concatenate(
        [moving("scotland_house.png"), 0.8 * moving("scotland_plain.png")]
    )
    before = flickering(clean)
    after = tj.deflicker(before)

    figure = plt.figure(figsize=(14, 9.6), layout="constrained")
    rows = figure.subfigures(3, 1, height_ratios=(1.25, 1.25, 1))
    for row, frames, name in zip(
        rows, (before, after), ("before", "after"), strict=False
    ):
        panels = row.subplots(2, 1, height_ratios=(1, 1.1))
        panels[0].imshow(np.concatenate([frames[i, ::2, ::2] for i in SHOWN], axis=1))
        panels[0].set_title(f"{name}: frames {SHOWN[0]} to {SHOWN[-1]}", fontsize=11)
        panels[1].imshow(strip(frames), aspect="auto")
        panels[1].set_title(
            f"{name}: a column of each of the {NUM} frames", fontsize=11
        )
        for panel in panels:
            panel.set_axis_off()
    plot = rows[2].subplots()
    for frames, look in (
        (255 * clean, {"color": "#888888", "linestyle": "--", "label": "made without"}),
        (before, {"color": "#c8372d", "linewidth": 1, "label": "before"}),
        (after, {"color": "#2456a6", "linewidth": 2, "label": "after"}),
    ):
        plot.plot((frames @ LUMA).mean((1, 2)), **look)
    plot.set_xlim(0, NUM - 1)
    plot.set_xlabel("frame; the shot changes in the middle")
    plot.set_ylabel("mean luma, 8-bit steps")
    plot.spines[["top", "right"]].set_visible(False)
    plot.legend(frameon=False, ncols=3)
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=90)
    print(f"see {OUTPUT}")


if __name__ == "__main__":
    main()
