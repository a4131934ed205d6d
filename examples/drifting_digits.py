"""Handwritten digits in one step of a small network, trained by drifting on a CPU.

The network turns noise and a class into principal components of a picture. Digits of
one class are drifted towards digits of that class along the sum of two fields: the
descent of the energy distance, which keeps samples apart, and a little of the two-sided
field, which draws strokes sharp (alone, in so many dimensions, it makes the samples of
a class alike). Judged by whether neighbours among made digits tell the class of real
ones that nobody has trained on, next to neighbours among as many real digits.

    python drifting_digits.py digits.npz

The file holds `x`, pictures of 28 x 28 bytes as rows (n, 784), `y`, their classes (n,),
and `test`, True for those to be held out (n,).

Writes examples/output/drifting_digits.png.
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax

from transportjax import diagnostics, flows, maps, solvers

OUTPUT = pathlib.Path(__file__).parent / "output" / "drifting_digits.png"
COMPONENTS, NOISE, CLASSES, BATCH, STEPS = 40, 8, 10, 128, 4000
MADE = 1000  # of each class, to be judged


def principal_components(pictures):
    """The first directions of variance, (components, 784), and the mean."""
    mean = pictures.mean(axis=0)
    few = pictures[:: len(pictures) // 20_000 + 1] - mean
    basis = np.linalg.eigh(few.T @ few)[1][:, ::-1][:, :COMPONENTS].T
    return basis, mean


def made(network, scales, key, n):
    """`n` digits of each class, (classes, n, components)."""
    noise = jr.normal(key, (NOISE, CLASSES * n))
    label = jnp.repeat(jnp.eye(CLASSES), n, axis=1)
    start = jnp.pad(noise, ((0, COMPONENTS - NOISE), (0, 0)))
    points = start + network.many(jnp.concatenate([noise, label]))
    return (points.T * scales).reshape(CLASSES, n, COMPONENTS)


def field(x, y):
    apart = -len(x) / 2 * jax.grad(diagnostics.energy_distance)(x, y)
    return apart + 0.02 * flows.two_sided_drift(x, y, temperatures=(0.1,))


def train(bank, scales):
    """The network, from as many digits of each class, (classes, n, components)."""

    def loss(network, _, key):
        keys = jr.split(key)
        x = made(network, scales, keys[0], BATCH)
        chosen = jr.randint(keys[1], (CLASSES, BATCH, 1), 0, bank.shape[1])
        y = jnp.take_along_axis(bank, chosen, axis=1)
        drift = jax.vmap(field)(jax.lax.stop_gradient(x), y)
        return flows.drift_loss(
            x.reshape(-1, COMPONENTS), drift.reshape(-1, COMPONENTS)
        )

    network = maps.Conditioner.create(
        jr.key(0), NOISE + CLASSES, COMPONENTS, width=384, depth=3
    )
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.warmup_cosine_decay_schedule(0.0, 1e-3, 50, STEPS)),
    )
    options = {"optimiser": optimiser, "num_steps": STEPS, "block": 1000}
    return solvers.minimise(loss, network, None, key=jr.key(1), **options).model


def neighbours(x, y):
    """The distance of each x to the nearest y, and which one it is."""
    squares = (x**2).sum(1)[:, None] - 2 * x @ y.T + (y**2).sum(1)
    return np.sqrt(np.maximum(squares.min(axis=1), 0)).mean(), squares.argmin(axis=1)


def main(path):
    with np.load(path) as file:
        pictures, classes, is_held = (
            file["x"] / np.float32(255),
            file["y"],
            file["test"],
        )
    basis, mean = principal_components(pictures[~is_held])
    points = (pictures - mean) @ basis.T
    known, held = points[~is_held], points[is_held]
    groups = [known[classes[~is_held] == c] for c in range(CLASSES)]
    smallest = min(map(len, groups))
    bank = jnp.stack([group[:smallest] for group in groups])
    scales = jnp.asarray(known.std(axis=0))
    network = train(bank, scales)

    digits = np.asarray(made(network, scales, jr.key(2), MADE))
    order = np.random.default_rng(0).permutation(len(held))[:2000]
    questions, answers = held[order], classes[is_held][order]
    labels = np.repeat(np.arange(CLASSES), MADE)
    for name, rows in (("made", digits), ("real", np.asarray(bank[:, :MADE]))):
        rows = rows.reshape(-1, COMPONENTS)
        away, nearest = neighbours(questions, rows)
        back, _ = neighbours(rows[::5], held)
        right = (labels[nearest] == answers).mean()
        print(
            f"{len(rows)} {name} digits tell the class of {100 * right:.1f} % of "
            f"held-out ones; mean distance from those to them {away:.2f}, "
            f"from them to those {back:.2f}"
        )

    sheet = np.clip(digits[:, :10] @ basis + mean, 0, 1).reshape(10, 10, 28, 28)
    figure, panel = plt.subplots(figsize=(7, 7), layout="constrained")
    panel.imshow(sheet.transpose(0, 2, 1, 3).reshape(280, 280), cmap="gray_r")
    panel.set_axis_off()
    panel.set_title("digits made in one step, the first ten of each class")
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=110)
    print(f"see {OUTPUT}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
