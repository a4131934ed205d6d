"""Palettes: the main colours of a picture, some of them changed, the others held.

Writes examples/output/edit_palette.png.
"""

import pathlib

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from transportjax.apps import apply_colour_map, edit_palette, picture_palette

FOLDER = pathlib.Path(__file__).parent
OUTPUT = FOLDER / "output" / "edit_palette.png"
EDITS = {
    "the heather turns green": {"#8a4a20": "#4a7a20"},
    "or violet, below an evening sky": {"#8a4a20": "#7a3c78", "#ecefec": "#f4d8b4"},
    "only the sky, colder": {"#ecefec": "#c8dcf0", "#c8ced5": "#9cb8dc"},
}


def main():
    with Image.open(FOLDER / "pictures" / "scotland_house.png") as image:
        picture = np.asarray(image.convert("RGB"))
    panels = {"the picture and its palette": picture}
    for name, edits in EDITS.items():
        panels[name] = apply_colour_map(edit_palette(picture, edits), picture)

    figure, axes = plt.subplots(
        4, 2, figsize=(13, 10.4), height_ratios=(9, 1, 9, 1), layout="constrained"
    )
    for index, (name, shown) in enumerate(panels.items()):
        row, column = 2 * (index // 2), index % 2
        axes[row, column].imshow(shown)
        axes[row, column].set_title(name)
        colours, shares = picture_palette(shown, num_colours=20)  # as the edits do
        # a strip in which each colour takes as much room as in the picture
        places = np.searchsorted(np.cumsum(shares), np.linspace(0, 0.999, 600))
        axes[row + 1, column].imshow(colours[places][None], aspect="auto")
    for panel in axes.flat:
        panel.set_axis_off()
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=100)
    print(f"see {OUTPUT}")


if __name__ == "__main__":
    main()
