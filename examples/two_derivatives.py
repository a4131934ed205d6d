"""Differentiating through a transfer, in its two senses.

1. Hold the map, and push gradients through it into its input: here a gradient of the
   height of the moved points, taken back to where the points came from.
2. Let the target be learned: here a target is stretched and shifted by gradient descent
   until the *transferred* source has the wanted mean and covariance.

Writes examples/output/two_derivatives.png.
"""

import pathlib

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np
import optax

import transportjax as tj

OUTPUT = pathlib.Path(__file__).parent / "output" / "two_derivatives.png"


WANTED_MEAN = jnp.array([1.0, -0.5])
WANTED_COV = jnp.array([[0.5, -0.4], [-0.4, 1.5]])


def hold_the_map(source, target):
    """Gradients of the height of the moved points, with respect to the source."""
    solution = tj.idt(source, target, key=jr.key(2), num_steps=6, num_bins=32)
    held = jax.lax.stop_gradient(solution.map)

    def height(x):
        return jnp.sum(jax.vmap(held)(x)[:, 1])

    return jax.grad(height)(source), solution.points


def learn_the_target(source, start):
    """Moves the target until the transferred source has the wanted moments."""

    def transferred(parameters):
        stretch, shift = parameters
        target = start @ stretch + shift
        return tj.idt(source, target, key=jr.key(3), num_steps=6, num_bins=32).points

    def loss(parameters):
        moved = transferred(parameters)
        mean = moved.mean(axis=0)
        cov = (moved - mean).T @ (moved - mean) / len(moved)
        return jnp.sum((mean - WANTED_MEAN) ** 2) + jnp.sum((cov - WANTED_COV) ** 2)

    optimiser = optax.adam(0.03)

    @jax.jit
    def step(carry, _):
        parameters, state = carry
        value, gradient = jax.value_and_grad(loss)(parameters)
        update, state = optimiser.update(gradient, state)
        return (optax.apply_updates(parameters, update), state), value

    parameters = (jnp.eye(2), jnp.zeros(2))
    carry = parameters, optimiser.init(parameters)
    (learned, _), losses = jax.lax.scan(step, carry, length=150)
    return transferred(parameters), transferred(learned), losses


def ellipse(mean, cov):
    """The points two standard deviations from the mean."""
    angle = jnp.linspace(0, 2 * jnp.pi, 100)
    circle = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    return mean[:, None] + 2 * jnp.linalg.cholesky(cov) @ circle


def main():
    source = jr.normal(jr.key(0), (1000, 2))
    target = jr.normal(jr.key(1), (800, 2)) @ jnp.array([[1.2, 0.9], [0.0, 0.4]])
    gradient, moved = hold_the_map(source, target)
    start = 0.8 * jr.normal(jr.key(4), (800, 2))
    before, after, losses = learn_the_target(source, start)

    figure, axes = plt.subplots(1, 4, figsize=(16, 4.2), layout="constrained")
    axes[0].scatter(*np.asarray(source).T, s=4, c=moved[:, 1], cmap="viridis")
    few = slice(0, 200)
    arrows = {"angles": "xy", "scale_units": "xy", "scale": 2, "width": 0.003}
    axes[0].quiver(*np.asarray(source[few]).T, *np.asarray(gradient[few]).T, **arrows)
    axes[0].set_title(
        "held map: where the source must go\nfor the moved points to rise"
    )
    for panel, points, name in (
        (axes[1], before, "source, transferred\nbefore learning the target"),
        (axes[2], after, "source, transferred\nto the learned target"),
    ):
        panel.scatter(*np.asarray(points).T, s=3, color="0.5")
        panel.plot(*ellipse(WANTED_MEAN, WANTED_COV), "C3", label="wanted, 2 s.d.")
        panel.set_title(name)
        panel.legend(loc="lower left")
    for panel in axes[:3]:
        panel.set(xlim=(-4, 4), ylim=(-4, 4), aspect="equal")
    axes[3].semilogy(losses)
    axes[3].set(title="squared error of the moments", xlabel="step of Adam")
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=100)
    print(f"loss {float(losses[0]):.3f} to {float(losses[-1]):.1e}; see {OUTPUT}")


if __name__ == "__main__":
    main()
