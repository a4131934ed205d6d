"""Drifting in the plane: a network of one step, trained down to the noise of samples.

Every step of the training moves the samples of a network along a field to the data, the
sum of two: a difference of scores, with a bandwidth drawn anew at each step, finds the
shape, on a part of the batch, for it takes all pairs; the optimal transfers along
random axes balance the mass. The steps fall to zero, which averages the noise of the
batches. The noise that the network is fed is in part normal, in part coins, one branch
for each outcome: that helps it to part a law in pieces. It is the same recipe for both
laws. At the end the sliced distance to fresh data is compared with that between two
samples of the data, along the same directions, the least that can be reached on
average: both laws are there, within the errors of those means. The dust that is left
between the squares of the checkerboard is too little mass to count in that distance.

Writes examples/output/drifting.png.
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
from transportjax import flows, maps, solvers

OUTPUT = pathlib.Path(__file__).parent / "output" / "drifting.png"
STEPS, BATCH, FEW = 2000, 2048, 1024
NORMALS, COINS = 2, 6
SHOWN = (100, 400, 2000)
SAMPLES, PAIRS = 8000, 64
DIRECTIONS = tj.half_circle_directions(32)


def moons(key, n):
    keys = jr.split(key, 3)
    angle = jnp.pi * jr.uniform(keys[0], (n, 1))
    side = jnp.where(jr.bernoulli(keys[1], shape=(n, 1)), 1.0, -1.0)
    arc = jnp.concatenate([jnp.cos(angle) - 0.5, jnp.sin(angle) - 0.25], axis=1)
    points = side * arc + 0.08 * jr.normal(keys[2], (n, 2))
    return points / jnp.array([[0.87, 0.4965]])


def checkerboard(key, n):
    keys = jr.split(key, 3)
    column, row = jr.randint(keys[0], (n,), 0, 4), jr.randint(keys[1], (n,), 0, 2)
    corner = jnp.stack([column, 2 * row + column % 2], axis=1) - 2
    return 2 / 2.3 * (corner + jr.uniform(keys[2], (n, 2)))


@functools.partial(jax.jit, static_argnums=2)
def made(network, key, n):
    """Samples of the network."""
    keys = jr.split(key)
    normal, coins = jr.normal(keys[0], (NORMALS, n)), jr.rademacher(keys[1], (COINS, n))
    return network.many(jnp.concatenate([normal, coins.astype(normal.dtype)])).T


def generator(network):
    return lambda key, n: made(network, key, n)


def loss(network, data, key):
    keys = jr.split(key, 3)
    x = made(network, keys[0], len(data))
    bandwidth = jnp.exp(jr.uniform(keys[1], minval=np.log(0.1), maxval=np.log(0.4)))
    field = flows.sliced_drift(x, data, key=keys[2], num_rotations=2)
    score = flows.score_drift(x[:FEW], data[:FEW], bandwidth=bandwidth)
    return flows.drift_loss(x, field.at[:FEW].add(score))


# defined once: both laws use the same compiled program
OPTIMISER = optax.adam(optax.cosine_decay_schedule(5e-3, STEPS))


def train(data, look):
    """The trained network; `look` gets the steps done and the network, now and then."""
    return solvers.minimise(
        loss,
        maps.Conditioner.create(jr.key(0), NORMALS + COINS, 2, width=128, depth=3),
        data,
        key=jr.key(1),
        optimiser=OPTIMISER,
        num_steps=STEPS,
        batch_size=BATCH,
        progress=lambda state, *_: look(int(state.step), state.parameters),
    ).model


@jax.jit
def distance(x, y):
    """The sliced W2, a length."""
    return tj.sliced_wasserstein(x, y, DIRECTIONS) ** 0.5


def distances(sample, other, num_pairs):
    """Those of fresh samples of the data from samples of another law."""
    return np.array(
        [
            distance(sample(jr.key(100 + i), SAMPLES), other(jr.key(200 + i), SAMPLES))
            for i in range(num_pairs)
        ]
    )


def main():
    figure, axes = plt.subplots(2, 5, figsize=(16, 6.8), layout="constrained")
    for name, law, row in zip(
        ("moons", "checkerboard"), (moons, checkerboard), axes, strict=True
    ):
        sample = jax.jit(law, static_argnums=1)
        panels, steps, course = iter(row), [], []

        def look(step, network, panels=panels, steps=steps, course=course, law=sample):
            steps.append(step)
            course.append(distances(law, generator(network), 4).mean())
            if step in SHOWN:
                draw(next(panels), made(network, jr.key(4), SAMPLES), f"{step} steps")

        network = train(sample(jr.key(1), 1_000_000), look)
        floor = distances(sample, sample, PAIRS)
        end = distances(sample, generator(network), PAIRS)
        draw(row[3], sample(jr.key(5), SAMPLES), "data")
        row[0].set_ylabel(name)
        draw_course(row[4], steps, course, floor)
        found, least = (
            f"{values.mean():.4f} +- {values.std() / PAIRS**0.5:.4f}"
            for values in (end, floor)
        )
        print(
            f"{name}: sliced W2 to fresh data {found}, between two samples of the "
            f"data {least} (means of {PAIRS} pairs, standard errors)"
        )
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=110)
    print(f"see {OUTPUT}")


def draw(panel, points, title):
    panel.scatter(*np.asarray(points).T, s=1.5, alpha=0.5, linewidths=0)
    panel.set(xlim=(-2.3, 2.3), ylim=(-2.3, 2.3), aspect="equal", title=title)
    panel.set(xticks=[], yticks=[])


def draw_course(panel, steps, course, floor):
    panel.semilogy(steps, course, ".-", label="to fresh data")
    panel.axhline(floor.mean(), color="C3", label="two samples of the data")
    low, high = np.quantile(floor, [0.1, 0.9])
    panel.axhspan(low, high, color="C3", alpha=0.15, linewidth=0)
    panel.set(title="sliced W2, mean of 4 pairs", xlabel="step")
    panel.legend()


if __name__ == "__main__":
    main()
