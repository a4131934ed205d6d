"""Equalisation: tones spread from black to white, for all and in each part.

Writes examples/output/equalise.png.
"""

import pathlib

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import transportjax as tj
from transportjax.apps import fit_equaliser, srgb_to_ycbcr

FOLDER = pathlib.Path(__file__).parent
OUTPUT = FOLDER / "output" / "equalise.png"


def foggy_picture():
    """The sample picture behind fog: a narrow range of light tones."""
    with Image.open(FOLDER / "pictures" / "scotland_plain.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    return (110 + 0.45 * pixels).astype(np.uint8)


def tones(picture):
    return np.asarray(srgb_to_ycbcr(picture / 255))[..., 0].ravel()


def main():
    picture = foggy_picture()
    panels = {
        "the picture": picture,
        "no limit: all tones equally often": tj.equalise(picture, limit=jnp.inf),
        "slopes up to 3, the default": tj.equalise(picture),
        "in tiles, slopes up to 3": tj.equalise(picture, tiles=8),
    }
    figure, axes = plt.subplots(
        3, 4, figsize=(17, 8.4), height_ratios=(3.2, 1, 1.6), layout="constrained"
    )
    for column, (name, shown) in enumerate(panels.items()):
        axes[0, column].imshow(shown)
        axes[0, column].set_title(name)
        axes[0, column].set_axis_off()
        axes[1, column].hist(tones(shown), bins=64, range=(0, 1), color="#44688a")
        axes[1, column].set_xlim(0, 1)
        axes[1, column].set_yticks([])
    # the maps themselves: distribution functions, without and with a limit; in tiles
    # a tone goes to many places
    places = np.linspace(0, 1, 500)
    for column, limit in ((1, jnp.inf), (2, 3.0)):
        fitted = fit_equaliser(tones(picture).reshape(picture.shape[:2]), limit=limit)
        curve = np.asarray(fitted(jnp.asarray(places[:, None])))
        axes[2, column].plot(places, curve, color="#c8372d")
    chosen = np.random.default_rng(0).choice(picture.shape[0] * picture.shape[1], 4000)
    moved = tones(panels["in tiles, slopes up to 3"])
    axes[2, 3].scatter(tones(picture)[chosen], moved[chosen], s=1, color="#c8372d")
    axes[2, 0].plot(places, places, color="#c8372d")
    for panel in axes[2]:
        panel.set_xlim(0, 1)
        panel.set_ylim(0, 1)
        panel.set_xlabel("tone before")
    axes[2, 0].set_ylabel("tone after")
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=100)
    print(f"see {OUTPUT}")


if __name__ == "__main__":
    main()
