"""Colour transfer in Python: methods, strength, grain, and a map that is used again.

Writes examples/output/colour_transfer.png.
"""

import pathlib

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import transportjax as tj
from transportjax.apps import (
    apply_colour_map,
    fit_colour_map,
    palette_distance,
    restore_grain,
)

FOLDER = pathlib.Path(__file__).parent
OUTPUT = FOLDER / "output" / "colour_transfer.png"


def main():
    source, palette = (
        np.asarray(Image.open(FOLDER / "pictures" / name).convert("RGB"))
        for name in ("scotland_house.png", "scotland_plain.png")
    )
    graded = {
        "source": source,
        "palette": palette,
        "mkl: linear": tj.colour_transfer(source, palette, method="mkl"),
        "idt: reaches the palette": tj.colour_transfer(source, palette),
        "idt, half strength": tj.colour_transfer(source, palette, strength=0.5),
        "idt, chroma alone": tj.colour_transfer(source, palette, space="chroma"),
    }
    # the same in steps: a map that is fitted once serves any number of pictures
    colour_map = fit_colour_map(source, palette)
    moved = apply_colour_map(colour_map, source)
    graded["idt, grain restored"] = restore_grain(source, moved)
    smooth = restore_grain(source, moved, smoothness=0.2)
    graded["idt, grain restored in part"] = smooth

    figure, axes = plt.subplots(2, 4, figsize=(16, 6.6), layout="constrained")
    for panel, (name, picture) in zip(axes.flat, graded.items(), strict=True):
        panel.imshow(picture)
        distance = palette_distance(picture, palette)
        panel.set_title(f"{name}\ndistance to the palette {distance:.1f}", fontsize=10)
        panel.set_axis_off()
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=100)
    print(f"see {OUTPUT}")


if __name__ == "__main__":
    main()
