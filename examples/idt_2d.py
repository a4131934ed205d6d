"""Iterative distribution transfer in the plane, step by step.

Writes examples/output/idt_2d.png.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np

import transportjax as tj

OUTPUT = pathlib.Path(__file__).parent / "output" / "idt_2d.png"


@functools.partial(jax.jit, static_argnums=1)
def spiral(key, n):
    key_angle, key_noise = jr.split(key)
    angle = 3 * jnp.pi * jnp.sqrt(jr.uniform(key_angle, (n,), minval=0.03))
    points = angle[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1) / 4
    return points + 0.06 * jr.normal(key_noise, (n, 2))


def main():
    n = 6000
    source = np.asarray(jr.normal(jr.key(0), (n, 2)))
    target = np.asarray(spiral(jr.key(1), n))
    solution = tj.idt(source, target, key=jr.key(2), num_steps=24)

    colour = np.arctan2(source[:, 1], source[:, 0])
    shown = (0, 1, 2, 4, 8, 24)
    figure, axes = plt.subplots(2, 4, figsize=(14, 7), layout="constrained")
    frame = {"s": 2, "cmap": "hsv", "linewidths": 0}
    for panel, steps in zip(axes.flat, shown, strict=False):
        points = jax.vmap(solution.map[:steps])(source) if steps else source
        panel.scatter(*np.asarray(points).T, c=colour, **frame)
        panel.set_title(f"after step {steps}" if steps else "source")
    axes[1, 2].scatter(*target.T, color="0.4", s=2, linewidths=0)
    axes[1, 2].set_title("target")
    for panel in axes.flat[:-1]:
        panel.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xticks=[], yticks=[])
    trace = axes[1, 3]
    trace.semilogy(range(1, 25), solution.stats["cost"], "o-")
    trace.set(title="mean squared W2 along the axes", xlabel="step")
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=110)
    # points that the map squeezes through a gap of the target do not come back exactly
    back = jax.vmap(solution.map.inverse)(solution.points)
    error = np.linalg.norm(np.asarray(back) - source, axis=1)
    print(
        f"round-trip error: median {np.median(error):.0e}, of one point in ten more "
        f"than {np.quantile(error, 0.9):.0e}; see {OUTPUT}"
    )


if __name__ == "__main__":
    main()
