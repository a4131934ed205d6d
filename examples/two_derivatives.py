"""Differentiating through a transfer, in its two senses.

1. Hold the map, and push gradients through it into its input: here a gradient of a
   function of the moved point, taken back to where the point came from.
2. Let the target be learned: here the points of a palette are moved by gradient descent
   until the *transferred* source has the wanted shape.

Writes examples/output/two_derivatives.png.
"""

import pathlib

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import optax

import transportjax as tj

OUTPUT = pathlib.Path(__file__).parent / "output" / "two_derivatives.png"


def hold_the_map(source, target):
    """Gradients of the height of the moved points, with respect to the source."""
    solution = tj.idt(source, target, key=jr.key(2), num_steps=8)
    held = jax.lax.stop_gradient(solution.map)

    def height(x):
        return jnp.sum(jax.vmap(held)(x)[:, 1])

    return jax.grad(height)(source), solution.points


def learn_the_target(source, start):
    """Moves the target until the transferred source is a thin ring."""

    def loss(target):
        moved = tj.idt(source, target, key=jr.key(3), num_steps=6).points
        radius = jnp.linalg.norm(moved, axis=1)
        return jnp.mean((radius - 1.5) ** 2)

    optimiser = optax.adam(0.05)

    @jax.jit
    def step(carry, _):
        target, state = carry
        value, gradient = jax.value_and_grad(loss)(target)
        update, state = optimiser.update(gradient, state)
        return (optax.apply_updates(target, update), state), value

    (target, _), losses = jax.lax.scan(step, (start, optimiser.init(start)), length=100)
    return target, losses


def main():
    source = jr.normal(jr.key(0), (1500, 2))
    target = jr.normal(jr.key(1), (1200, 2)) @ jnp.array([[1.2, 0.9], [0.0, 0.4]])
    gradient, moved = hold_the_map(source, target)
    learned, losses = learn_the_target(source, target)

    figure, axes = plt.subplots(1, 4, figsize=(15, 4), layout="constrained")
    axes[0].scatter(*source.T, s=3, c=moved[:, 1], cmap="viridis")
    few = slice(0, 150)
    axes[0].quiver(*source[few].T, *gradient[few].T, width=0.003)
    axes[0].set_title("held map: d(height of moved)/d(source)")
    axes[1].scatter(*target.T, s=3, color="0.5")
    axes[1].set_title("target before learning")
    axes[2].scatter(*learned.T, s=3)
    axes[2].set_title("target learned through the transfer")
    for panel in axes[:3]:
        panel.set(xlim=(-4, 4), ylim=(-4, 4), aspect="equal")
    axes[3].semilogy(losses)
    axes[3].set(title="distance of the moved source from a ring", xlabel="step")
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=110)
    print(f"loss {float(losses[0]):.3f} to {float(losses[-1]):.4f}; see {OUTPUT}")


if __name__ == "__main__":
    main()
