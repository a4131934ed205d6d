"""Flow matching in the plane: the same network, trained on two couplings.

A field learns to carry noise to data along straight lines between pairs. Pairs drawn
independently cross, so that the learned paths bend; pairs from the sliced coupling of
each batch hardly cross, and the paths are nearly straight: few steps are enough.

Writes examples/output/flow_matching.png.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax

import transportjax as tj
from transportjax import diagnostics, flows, maps, solvers

OUTPUT = pathlib.Path(__file__).parent / "output" / "flow_matching.png"
BATCH, STEPS = 256, 2000


@functools.partial(jax.jit, static_argnums=1)
def pinwheel(key, n, arms=5):
    keys = jr.split(key, 2)
    radius = 0.35 + 1.9 * jr.uniform(keys[0], (n,))
    arm = 2 * jnp.pi / arms * jr.randint(jr.fold_in(key, 1), (n,), 0, arms)
    angle = arm + 0.75 * radius + 0.13 * jr.normal(keys[1], (n,)) / jnp.sqrt(radius)
    return radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)


def train(is_coupled):
    def loss(field, _, key):
        keys = jr.split(key, 4)
        noise, data = jr.normal(keys[0], (BATCH, 2)), pinwheel(keys[1], BATCH)
        partners = flows.sliced_coupling(keys[2], noise, data) if is_coupled else None
        batch = flows.matching_batch(keys[3], noise, data, partners=partners)
        return flows.matching_loss(field, batch)

    field = maps.VelocityField.create(jr.key(0), 2, width=64, depth=3)
    optimiser = optax.adam(optax.cosine_decay_schedule(3e-3, STEPS))
    options = {"num_steps": STEPS, "block": 500, "optimiser": optimiser}
    return solvers.minimise(loss, field, None, key=jr.key(1), **options).model


def main():
    data = np.asarray(pinwheel(jr.key(2), 4000))
    noise = np.asarray(jr.normal(jr.key(3), (4000, 2)))
    angle = np.arctan2(noise[:, 1], noise[:, 0])
    figure, axes = plt.subplots(2, 4, figsize=(14, 7.2), layout="constrained")
    directions = tj.half_circle_directions(64)
    for row, (name, is_coupled) in zip(
        axes, (("independent", False), ("sliced", True)), strict=True
    ):
        field = train(is_coupled)
        ways = np.asarray(trajectories(field, noise))
        curvature = diagnostics.path_curvature(ways.swapaxes(0, 1))

        pairs, paths, many, few = row
        draw_pairs(pairs, is_coupled)
        pairs.set_title(f"{name} pairs of a batch")
        for way, hue in zip(ways[:160], angle[:160], strict=True):
            colour = plt.cm.hsv(hue / (2 * np.pi) + 0.5)
            paths.plot(*way.T, color=colour, linewidth=0.8, alpha=0.7)
        paths.set_title(f"learned paths, curvature {curvature:.2f}")
        for panel, points, label in (
            (many, ways[:, -1], "32 accurate steps"),
            (few, np.asarray(euler(field, noise, 2)), "2 steps of Euler"),
        ):
            panel.scatter(*data[:1500].T, s=2, color="0.8", linewidths=0)
            panel.scatter(*points.T, s=2, c=angle, cmap="hsv", linewidths=0)
            cost = tj.sliced_wasserstein(points, data, directions)
            panel.set_title(f"{label}: SW2 {float(cost) ** 0.5:.2f}")
    for panel in axes.flat:
        panel.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xticks=[], yticks=[])
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=110)
    print(f"see {OUTPUT}")


def draw_pairs(panel, is_coupled):
    noise, data = jr.normal(jr.key(4), (BATCH, 2)), pinwheel(jr.key(5), BATCH)
    if is_coupled:
        data = data[flows.sliced_coupling(jr.key(6), noise, data)]
    noise, data = np.asarray(noise), np.asarray(data)
    for start, end in zip(noise, data, strict=True):
        panel.plot(*np.stack([start, end]).T, color="0.75", linewidth=0.6)
    panel.scatter(*noise.T, s=5, color="C0", linewidths=0, zorder=2)
    panel.scatter(*data.T, s=5, color="C3", linewidths=0, zorder=2)


@jax.jit
def trajectories(field, x):
    return jax.vmap(maps.ContinuousMap(field, num_steps=32).trajectory)(x)


@functools.partial(jax.jit, static_argnums=2)
def euler(field, x, num_steps):
    for step in range(num_steps):
        t = step / num_steps
        x = x + jax.vmap(field, (None, 0))(t, x) / num_steps
    return x


if __name__ == "__main__":
    main()
