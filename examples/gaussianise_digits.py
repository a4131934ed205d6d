"""Handwritten digits without gradient descent: a density, and a generator.

The density: each pixel by its own levels, then `gaussianise` along independent
components of patches, which finds out how neighbours depend on each other. It tells how
many bits a picture takes; a mirrored digit takes more. What it draws has strokes and
often a shape, in fragments: patches see no further.

The generator: a cloud of noise, larger than the set of digits, is moved onto them by
iterated transfer along the directions in which both differ most, first of whole
pictures, then of quarters, then of sixteenths. What comes out is for fresh noise, which
the fit has not seen.

    python gaussianise_digits.py digits.npz

The file holds `x`, pictures of 28 x 28 bytes as rows (n, 784), and `test`, True for
those to be held out (n,).

Writes examples/output/gaussianise_digits.png.
"""

import math
import pathlib
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np

from transportjax import flows, maps, sliced, solvers

OUTPUT = pathlib.Path(__file__).parent / "output" / "gaussianise_digits.png"
SHAPE, DIM = (28, 28), 784
NUM = 10_000


def noisy(pictures, key):
    """Uniform within each level, and below the next one."""
    x = pictures + jr.uniform(key, pictures.shape)
    return jnp.minimum(x, jnp.nextafter(pictures + 1.0, 0.0))


def density(pictures):
    """The flow of pictures whose levels are made continuous."""
    first = solvers.level_map(pictures)
    z = eqx.filter_jit(eqx.filter_vmap(first))(noisy(pictures, jr.key(0)))
    directions = sliced.PatchDirections(SHAPE, (4, 2), sliced.IndependentDirections())
    solution = solvers.gaussianise(
        z,
        key=jr.key(1),
        directions=directions,
        num_steps=12,
        num_knots=32,
        step_size=0.6,
        held_out=0.0,
    )
    return flows.Flow(maps.Chain((first, solution.map)), DIM)


@eqx.filter_jit
def bits(flow, pictures, key):
    """The code length in bits per dimension."""
    log_probs = jax.vmap(flow.log_prob)(noisy(pictures, key))
    return -jnp.mean(log_probs) / (DIM * math.log(2))


def generator(pictures):
    """A function of a key and a number: so many pictures, made of noise."""
    target = noisy(jnp.asarray(pictures), jr.key(0))
    mean, cov = target.mean(axis=0), jnp.cov(target.T)
    first = maps.gaussian_map(jnp.zeros(DIM), jnp.eye(DIM), mean, cov)
    cloud = jax.vmap(first)(jr.normal(jr.key(1), (3 * NUM, DIM)))
    parts = [first]
    for side, num_steps in ((28, 60), (14, 15), (7, 6)):
        inner = sliced.MaxSlicedDirections(2 * side, num_starts=1)
        solution = solvers.idt(
            cloud,
            target,
            key=jr.key(side),
            directions=sliced.PatchDirections(SHAPE, side, inner),
            num_steps=num_steps,
            num_bins=128,
            step_size=0.7,
        )
        parts, cloud = [*parts, solution.map], solution.points
    made = eqx.filter_jit(eqx.filter_vmap(maps.Chain(tuple(parts))))
    return lambda key, num: made(jr.normal(key, (num, DIM)))


def sheet(pictures):
    """A hundred pictures in ten rows."""
    pictures = np.clip(pictures, 0, 255).reshape(10, 10, *SHAPE)
    return pictures.transpose(0, 2, 1, 3).reshape(280, 280)


def main(path):
    with np.load(path) as file:
        known, held = file["x"][~file["test"]], file["x"][file["test"]]
    rng = np.random.default_rng(0)
    known, held = rng.permutation(known)[:NUM], rng.permutation(held)[:2000]
    flow = density(known)
    mirrored = held.reshape(-1, *SHAPE).transpose(0, 2, 1).reshape(-1, DIM)
    print(f"{bits(flow, held, jr.key(2)):.3f} bits per dimension of new digits")
    print(f"{bits(flow, mirrored, jr.key(2)):.3f} of the same digits mirrored")
    draw = generator(known.astype(np.float32))

    sheets = {
        "digits": held[:100],
        "drawn from the density of patches": flow.sample(jr.key(3), 100),
        "made of noise by transfer along patches": draw(jr.key(4), 100),
    }
    figure, panels = plt.subplots(1, 3, figsize=(15, 5.4), layout="constrained")
    for panel, (title, pictures) in zip(panels, sheets.items(), strict=True):
        panel.imshow(sheet(np.asarray(pictures)), cmap="gray_r")
        panel.set_axis_off()
        panel.set_title(title)
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=110)
    print(f"see {OUTPUT}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
