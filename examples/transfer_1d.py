"""The one-dimensional transfer f = F_y^-1 o F_x: a map that reshapes a histogram.

Writes examples/output/transfer_1d.png.
"""

import pathlib

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt

import transportjax as tj

OUTPUT = pathlib.Path(__file__).parent / "output" / "transfer_1d.png"


def main():
    key_x, key_side, key_y = jr.split(jr.key(0), 3)
    x = 0.15 * jr.normal(key_x, (4000,)) + 0.5
    side = jr.bernoulli(key_side, 0.35, (3000,))
    y = 0.06 * jr.normal(key_y, (3000,)) + jnp.where(side, 0.75, 0.25)

    moved = tj.quantile_transfer(x, y)
    grid = jnp.linspace(0.05, 0.95, 400)
    curves = {
        f"smooth, bandwidth {h}": tj.soft_transfer(x, y, grid, bandwidth=h)
        for h in (0.01, 0.05)
    }
    slope = jax.vmap(
        jax.grad(lambda t: tj.soft_transfer(x, y, t[None], bandwidth=0.05)[0])
    )(grid)

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    bins = jnp.linspace(-0.1, 1.1, 90)
    for values, name in ((x, "x"), (y, "y"), (moved, "f(x)")):
        filled = name != "f(x)"
        axes[0].hist(
            values,
            bins,
            density=True,
            label=name,
            histtype="stepfilled" if filled else "step",
            color=None if filled else "black",
            alpha=0.5 if filled else 1,
        )
    axes[0].set_title("f moves the law of x onto that of y")
    axes[0].legend()
    order = tj.argsort(x)
    axes[1].plot(x[order], moved[order], "k", label="exact")
    for name, curve in curves.items():
        axes[1].plot(grid, curve, label=name)
    axes[1].set(title="the map f", xlabel="x", ylabel="f(x)")
    axes[1].legend()
    axes[2].plot(grid, slope)
    axes[2].set(title="derivative of the smooth map, 0.05", xlabel="x", ylim=(0, None))
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=110)
    cost = tj.wasserstein_1d(x, y, p=2)
    print(f"W_2(x, y) = {float(cost) ** 0.5:.4f}; see {OUTPUT}")


if __name__ == "__main__":
    main()
