"""Registration: shapes moved onto others, with outliers and missing parts.

Above, a leaf is bent onto another one by a thin plate spline: no point knows its
partner, half of the other leaf's stalk is missing, and there is dust around. Below, a
scanned shell is turned onto another scan of it, of which a part is missing.

Writes examples/output/register_shapes.png.
"""

import pathlib

import matplotlib.pyplot as plt
import numpy as np

from transportjax.apps import Shape, fit_shape_map

OUTPUT = pathlib.Path(__file__).parent / "output" / "register_shapes.png"
SOURCE, TARGET = "#d1495b", "#00798c"


def leaf(count):
    """The outline of an oak leaf, and its vein."""
    t = np.linspace(-np.pi, np.pi, count)
    radius = 1 + 0.18 * np.cos(9 * t) + 0.25 * np.cos(t)
    outline = np.stack([1.5 * radius * np.cos(t), 0.8 * radius * np.sin(t)], axis=1)
    vein = np.stack([np.linspace(-2.2, 1.5, count // 3), np.zeros(count // 3)], axis=1)
    return np.concatenate([outline, vein])


def bend(points):
    """Turned, grown, and curved like a banana."""
    x, y = points.T
    moved = np.stack([1.15 * x + 0.2 * y, y + 0.22 * x**2 + 0.1 * np.sin(2 * x)], 1)
    cos, sin = np.cos(0.5), np.sin(0.5)
    return moved @ np.array([[cos, sin], [-sin, cos]]) + np.array([1.0, -0.4])


def shell(count):
    """The surface of a sea shell: a tube that grows along a spiral."""
    rng = np.random.default_rng(0)
    turn = 5.2 * np.pi * np.sqrt(rng.uniform(0.05, 1, count))
    around = rng.uniform(-np.pi, np.pi, count)
    size = np.exp(0.13 * turn)
    wide = size * (1 + 0.45 * np.cos(around))
    points = [
        wide * np.cos(turn),
        wide * np.sin(turn),
        size * (0.5 * np.sin(around) - 1.1),
    ]
    return np.stack(points, axis=1) / 4


def rotation(axis, angle):
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def plane(axes, rng):
    source = leaf(240)
    target = bend(leaf(190))
    target = target[target[:, 0] > target[:, 0].min() + 0.35]
    dust = rng.uniform(target.min(0) - 0.5, target.max(0) + 0.5, (60, 2))
    target = np.concatenate([target + 0.01 * rng.normal(size=target.shape), dust])
    fitted = fit_shape_map(Shape(source), Shape(target), warp="tps")

    titles = ("a leaf, and another one in dust", "half way", "a thin plate spline")
    lines, dense = np.linspace(-2.4, 2.4, 17), np.linspace(-2.4, 2.4, 100)
    across = np.stack(np.meshgrid(dense, lines), axis=-1)
    grid = np.concatenate([across, across[..., ::-1]])
    for panel, share, title in zip(axes, (0, 0.5, 1), titles, strict=True):
        part = fitted.part(share)
        bent = part(grid.reshape(-1, 2)).reshape(grid.shape)
        panel.plot(*bent.T, color="0.85", lw=0.7)
        panel.scatter(*target.T, s=26, color=TARGET, alpha=0.45, lw=0)
        panel.scatter(*part(source).T, s=7, color=SOURCE, lw=0)
        panel.set_title(title)
        panel.set_aspect("equal")
        panel.set(xlim=(-2.8, 4.4), ylim=(-2.2, 3.4))
    return np.abs(fitted(source) - bend(source)).max()


def space(axes, rng):
    turn = rotation((1, 2, -1), 2.4)
    scan = shell(6000)
    other = shell(9000)[3000:] @ turn.T + np.array([1.5, 0, 0])
    other = other[other[:, 2] < np.quantile(other[:, 2], 0.67)]
    other = other + 0.01 * rng.normal(size=other.shape)
    fitted = fit_shape_map(Shape(scan), Shape(other), warp="rigid", num_starts=24)

    titles = ("a scan, and a part of another", "half way", "a rigid map")
    for panel, share, title in zip(axes, (0, 0.5, 1), titles, strict=True):
        moved = fitted.part(share)(scan)
        points = np.concatenate([other, moved])
        colours = np.array([TARGET] * len(other) + [SOURCE] * len(moved))
        order = np.argsort(points[:, 1])[::-1]
        panel.scatter(*points[order][:, [0, 2]].T, s=3, c=colours[order], lw=0)
        panel.set_title(title)
        panel.set_aspect("equal")
        panel.set(xlim=(-4.2, 5.2), ylim=(-4.6, 4.2))
    truth = scan @ turn.T + np.array([1.5, 0, 0])
    return np.abs(fitted(scan) - truth).max()


def main():
    rng = np.random.default_rng(1)
    figure, axes = plt.subplots(2, 3, figsize=(15, 10), layout="constrained")
    errors = plane(axes[0], rng), space(axes[1], rng)
    for panel in axes.flat:
        panel.set_axis_off()
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=100)
    print("largest errors: {:.3f} (leaf), {:.3f} (shell)".format(*errors))
    print(f"see {OUTPUT}")


if __name__ == "__main__":
    main()
