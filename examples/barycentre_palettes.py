"""Barycentres of the colours of three pictures, and a picture painted with them.

The colours of a picture are a cloud of points in the cube of red, green and blue. In
the corners of the triangle are three such palettes; every other place is the palette
between them, by which the same picture is graded.

Writes examples/output/barycentre_palettes.png.
"""

import pathlib

import jax
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import transportjax as tj
from transportjax.apps import restore_grain
from transportjax.sliced import sliced_barycentre

FOLDER = pathlib.Path(__file__).parent
OUTPUT = FOLDER / "output" / "barycentre_palettes.png"
SIDE = 4  # pictures along an edge of the triangle
NUM_COLOURS = 2048


def photograph(name):
    with Image.open(FOLDER / "pictures" / name) as image:
        return np.asarray(image.convert("RGB").resize((360, 270))) / 255.0


def sunset(rng, h=180, w=240):
    """A third palette: a sky from violet to gold above dark hills."""
    stops = np.array([0.0, 0.35, 0.6, 0.78, 1.0])
    colours = np.array(
        [
            [0.16, 0.10, 0.32],
            [0.48, 0.19, 0.42],
            [0.85, 0.35, 0.32],
            [0.98, 0.62, 0.28],
            [1.0, 0.88, 0.55],
        ]
    )
    y, x = np.meshgrid(np.linspace(0, 1.3, h), np.linspace(0, 1, w), indexing="ij")
    waves = 0.03 * np.sin(9 * x + 14 * y) + 0.02 * np.sin(23 * x - 31 * y)
    sky = np.stack([np.interp(y + waves, stops, c) for c in colours.T], axis=-1)
    glow = np.exp(-((x - 0.65) ** 2 + (y - 0.82) ** 2) / 0.02)[..., None]
    sky = sky + glow * (np.array([1.0, 0.95, 0.75]) - sky)
    for base, height, tone in ((0.95, 0.09, 0.16), (1.1, 0.07, 0.07)):
        hill = base + height * np.sin(5 * x + 20 * base) + 0.02 * np.sin(17 * x)
        dark = np.array([0.9, 0.55, 0.75]) * tone
        sky = np.where((y > hill)[..., None], dark + 0.04 * (1.3 - y)[..., None], sky)
    return np.clip(sky + 0.015 * rng.normal(size=sky.shape), 0, 1)


def triangle():
    """Weights (k, 3) of the places in the triangle, and the places (k, 2)."""
    steps = SIDE - 1
    weights = np.array(
        [(steps - row, row - i, i) for row in range(SIDE) for i in range(row + 1)]
    )
    corners = np.array([[0.5, 0], [0, 1], [1, 1]])
    return np.float32(weights / steps), weights @ corners


def swatches(colours, num=24):
    """The palette as a strip: means of equal shares of it, along its main axis."""
    centred = colours - colours.mean(0)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    order = np.argsort(centred @ axis * np.sign(axis.sum()))
    return np.stack([part.mean(0) for part in np.array_split(colours[order], num)])


def main():
    rng = np.random.default_rng(0)
    scene = photograph("scotland_house.png")
    pictures = (scene, photograph("scotland_plain.png"), sunset(rng))
    clouds = np.stack(
        [rng.choice(p.reshape(-1, 3), NUM_COLOURS, replace=False) for p in pictures]
    ).astype(np.float32)
    weights, places = triangle()
    directions = tj.default_directions(jr.key(0), 32, 3)

    def between(clouds, weights):
        return sliced_barycentre(clouds, weights, directions=directions).points

    palettes = np.asarray(jax.jit(jax.vmap(between, (None, 0)))(clouds, weights))

    figure = plt.figure(figsize=(15, 13.4))
    width, height = 0.96 / SIDE, 0.94 / SIDE
    for share, (x, y), palette in zip(weights, places, palettes, strict=True):
        palette = np.clip(palette, 0, 1)
        graded = tj.colour_transfer(scene, palette.reshape(32, -1, 3))
        graded = restore_grain(scene, graded)
        left = 0.02 + x * width + 0.006
        bottom = 0.97 - (y + 1) * height
        panel = figure.add_axes((left, bottom + 0.045, width - 0.012, height - 0.07))
        panel.imshow(graded, aspect="auto")
        strip = figure.add_axes((left, bottom + 0.025, width - 0.012, 0.018))
        strip.imshow(swatches(palette)[None], aspect="auto")
        panel.set_title(" : ".join(f"{(SIDE - 1) * s:.0f}" for s in share), size=9)
        for axes in (panel, strip):
            axes.set_axis_off()
    for name, picture, left, bottom in (
        ("the picture, and palette 1", pictures[0], 0.03, 0.80),
        ("palette 2", pictures[1], 0.03, 0.60),
        ("palette 3", pictures[2], 0.79, 0.60),
    ):
        axes = figure.add_axes((left, bottom, 0.18, 0.14))
        axes.imshow(picture, aspect="auto")
        axes.set_title(name, size=10)
        axes.set_axis_off()
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=100)
    print(f"see {OUTPUT}")


if __name__ == "__main__":
    main()
