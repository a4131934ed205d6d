"""One network, four divergences between its samples and the data, one line each.

A network of one step turns noise into data. What it minimises is exchanged: the sliced
Wasserstein distance, the same along a reservoir of directions that remembers where the
clouds were far apart, the L2 divergence of kernel densities, the energy distance. The
loop is that of the library but for the reservoir: a loss with a memory carries it from
step to step. All four are judged by the sliced distance to fresh data. Kernels as
narrow as the arms draw them best; the energy distance, which sees the coarse form, is
slowest to call in the strays.

Writes examples/output/train_by_any_divergence.png.
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
from transportjax import diagnostics, maps, sliced, solvers

OUTPUT = pathlib.Path(__file__).parent / "output" / "train_by_any_divergence.png"
BATCH, STEPS, WIDTH = 512, 1500, 0.15
OPTIMISER = optax.adam(optax.cosine_decay_schedule(3e-3, STEPS))


def by_slices(x, y, key):
    return tj.sliced_wasserstein(x, y, tj.orthonormal_directions(key, 16, 2))


def by_reservoir(x, y, key, state):
    return sliced.reservoir_loss(x, y, state, key=key, num_new=8)


def by_mixtures(x, y, key):
    return tj.l2_divergence(tj.kernel_density(x, WIDTH), tj.kernel_density(y, WIDTH))


def by_energy(x, y, key):
    return diagnostics.energy_distance(x, y)


@functools.partial(jax.jit, static_argnums=1)
def pinwheel(key, n, arms=5):
    keys = jr.split(key, 3)
    radius = 0.35 + 1.9 * jr.uniform(keys[0], (n,))
    arm = 2 * jnp.pi / arms * jr.randint(keys[1], (n,), 0, arms)
    angle = arm + 0.75 * radius + 0.13 * jr.normal(keys[2], (n,)) / jnp.sqrt(radius)
    return radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)


@functools.partial(jax.jit, static_argnums=2)
def made(network, key, n):
    """Samples of the network, which moves noise: a new one leaves it in place."""
    noise = jr.normal(key, (2, n))
    return (noise + network.many(3 * noise)).T


def batches(network, key):
    keys = jr.split(key, 3)
    return made(network, keys[0], BATCH), pinwheel(keys[1], BATCH), keys[2]


def train(network, divergence):
    def loss(network, _, key):
        return divergence(*batches(network, key))

    options = {"optimiser": OPTIMISER, "num_steps": STEPS}
    return solvers.minimise(loss, network, None, key=jr.key(1), **options).model


@jax.jit
def train_with_memory(network):
    def loss(network, memory, key):
        return by_reservoir(*batches(network, key), memory)

    def step(carry, key):
        network, memory, optimiser = carry
        slope, memory = jax.grad(loss, has_aux=True)(network, memory, key)
        with jax.numpy_dtype_promotion("standard"):
            move, optimiser = OPTIMISER.update(slope, optimiser)
        return (optax.apply_updates(network, move), memory, optimiser), None

    start = (network, sliced.reservoir_init(8, 2), OPTIMISER.init(network))
    return jax.lax.scan(step, start, jr.split(jr.key(1), STEPS))[0][0]


def main():
    network = maps.Conditioner.create(jr.key(0), 2, 2, width=96, depth=3)
    fresh, again = (np.asarray(pinwheel(jr.key(i), 4000)) for i in (2, 3))
    directions = tj.half_circle_directions(64)

    def distance(x):
        return float(tj.sliced_wasserstein(x, fresh, directions)) ** 0.5

    figure, axes = plt.subplots(1, 4, figsize=(15, 4.2), layout="constrained")
    for panel, name, trained in zip(
        axes,
        ("sliced Wasserstein", "reservoir", "L2 of kernel densities", "energy"),
        (
            train(network, by_slices),
            train_with_memory(network),
            train(network, by_mixtures),
            train(network, by_energy),
        ),
        strict=True,
    ):
        points = np.asarray(made(trained, jr.key(4), 4000))
        panel.scatter(*fresh.T, s=2, color="0.8", linewidths=0)
        panel.scatter(*points.T, s=2, color="C0", linewidths=0)
        panel.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xticks=[], yticks=[])
        panel.set_title(f"{name}: SW2 {distance(points):.3f}")
        print(f"{name}: sliced W2 {distance(points):.3f}")
    figure.suptitle(f"two samples of the data: SW2 {distance(again):.3f}")
    print(f"two samples of the data: sliced W2 {distance(again):.3f}")
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=110)
    print(f"see {OUTPUT}")


if __name__ == "__main__":
    main()
