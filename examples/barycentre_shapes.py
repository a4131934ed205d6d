"""Barycentres between three shapes: clouds of points (sliced), pictures (Radon).

Every place in a triangle is a set of weights of the shapes in its corners. All clouds
of the triangle are found at once, by `jax.vmap` over the weights.

Writes examples/output/barycentre_shapes.png.
"""

import pathlib

import jax
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np

import transportjax as tj
from transportjax.sliced import gaussian_start, radon_barycentre, sliced_barycentre

OUTPUT = pathlib.Path(__file__).parent / "output" / "barycentre_shapes.png"
SIDE = 5  # shapes along an edge of the triangle
POINTS = 3000
COLOURS = np.array([[0.86, 0.13, 0.33], [0.95, 0.66, 0.10], [0.08, 0.42, 0.72]])


def heart(x, y):
    x, y = 1.25 * x, 1.25 * y + 0.15
    return (x**2 + y**2 - 1) ** 3 < x**2 * y**3


def star(x, y):
    # within one sector of the star, the edge is a straight line
    angle = np.mod(np.arctan2(x, y) + np.pi / 5, 2 * np.pi / 5) - np.pi / 5
    radius, inner = np.hypot(x, y), 0.42
    along, across = radius * np.cos(angle), np.abs(radius * np.sin(angle))
    foot, height = inner * np.cos(np.pi / 5), inner * np.sin(np.pi / 5)
    return across < (1 - along) * height / (1 - foot)


def moon(x, y):
    return (np.hypot(x, y) < 0.95) & (np.hypot(x - 0.42, y - 0.18) > 0.74)


def cloud(shape, n, rng):
    """Points, uniform inside of the shape."""
    points = rng.uniform(-1.1, 1.1, (40 * n, 2))
    return points[shape(*points.T)][:n].astype(np.float32)


def picture(shape, size):
    """The share of each pixel that lies inside of the shape, the top row first."""
    fine = (np.arange(4 * size) + 0.5) / (2 * size) - 1
    inside = shape(1.3 * fine[None, :], -1.3 * fine[:, None])
    return inside.reshape(size, 4, size, 4).mean((1, 3)).astype(np.float32)


def triangle():
    """Weights (k, 3) of the places in the triangle, and the places (k, 2)."""
    steps = SIDE - 1
    weights = np.array(
        [(i, j, steps - i - j) for i in range(SIDE) for j in range(SIDE - i)]
    )
    corners = np.array([[0.5, np.sqrt(3) / 2], [0, 0], [1, 0]])
    return np.float32(weights / steps), 2.3 * weights @ corners


def main():
    shapes, rng = (heart, star, moon), np.random.default_rng(0)
    weights, places = triangle()
    clouds = np.stack([cloud(shape, POINTS, rng) for shape in shapes])
    directions = tj.half_circle_directions(32)
    start = gaussian_start(jr.key(0), clouds, POINTS)

    # what does not depend on the weights, the sorted shapes, is found once for all
    def points_between(clouds, weights):
        result = sliced_barycentre(
            clouds, weights, directions=directions, init=start, num_steps=100
        )
        return result.points, result.step_norm[-1]

    pictures = np.stack([picture(shape, 128) for shape in shapes])
    points, last_step = jax.jit(jax.vmap(points_between, (None, 0)))(clouds, weights)
    densities = jax.jit(jax.vmap(radon_barycentre, (None, 0)))(pictures, weights)

    figure, axes = plt.subplots(1, 2, figsize=(16, 7.4), layout="constrained")
    figure.set_facecolor("white")
    for place, share, cloud_, density in zip(
        places, weights, np.asarray(points), np.asarray(densities), strict=True
    ):
        colour = share @ COLOURS
        axes[0].scatter(*(cloud_ + place).T, s=1.2, color=colour, linewidths=0)
        ink = np.clip(density / np.quantile(density, 0.985), 0, 1)[..., None]
        extent = [place[0] - 1.3, place[0] + 1.3, place[1] - 1.3, place[1] + 1.3]
        rgba = np.concatenate([np.broadcast_to(colour, (128, 128, 3)), ink], -1)
        axes[1].imshow(rgba, extent=extent, interpolation="bilinear")
    axes[0].set_title(f"sliced barycentres of clouds of {POINTS} points")
    axes[1].set_title("Radon barycentres of pictures of 128 x 128 pixels")
    for panel in axes:
        panel.set(aspect="equal", xlim=(-1.4, 10.6), ylim=(-1.4, 9.6))
        panel.set_axis_off()
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=100)
    print(f"largest last step {float(last_step.max()):.1e}; see {OUTPUT}")


if __name__ == "__main__":
    main()
