"""Three ways from noise to data, layer by layer: which of them tear neighbourhoods?

IDT moves noise onto the samples by transfers along turned axes. A flow of couplings is
trained by maximum likelihood, and a velocity field by flow matching. Each cloud on the
way is a graph that joins every point to its nearest neighbours. Its total curvature
tells how even the graph is, its length how far apart its points are; under Ricci flow,
which smooths a geometry out, curvature and changes of length are correlated negatively,
over the layers (overall) and over the points of a layer (local).

Writes examples/output/ricci_layers.png.
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

OUTPUT = pathlib.Path(__file__).parent / "output" / "ricci_layers.png"
POINTS, NEIGHBOURS, LAYERS = 800, 20, 8


@functools.partial(jax.jit, static_argnums=1)
def pinwheel(key, n, arms=5):
    keys = jr.split(key, 3)
    radius = 0.35 + 1.9 * jr.uniform(keys[0], (n,))
    arm = 2 * jnp.pi / arms * jr.randint(keys[1], (n,), 0, arms)
    angle = arm + 0.75 * radius + 0.13 * jr.normal(keys[2], (n,)) / jnp.sqrt(radius)
    return radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)


def transfers(data):
    noise = jr.normal(jr.key(1), data.shape)
    return tj.idt(noise, data, key=jr.key(2), num_steps=LAYERS).map


def couplings(data):
    flow = flows.spline_flow(jr.key(3), 2, data=data, num_layers=LAYERS - 1, width=32)
    options = {"key": jr.key(4), "num_steps": 400}
    return tj.Invert(tj.maximum_likelihood(flow, data, **options).model.map)


def matching(data):
    def loss(field, batch, key):
        keys = jr.split(key, 3)
        noise = jr.normal(keys[0], batch.shape)
        partners = flows.sliced_coupling(keys[1], noise, batch)
        return flows.matching_loss(
            field, flows.matching_batch(keys[2], noise, batch, partners=partners)
        )

    field = maps.VelocityField.create(jr.key(5), 2, width=64, depth=3)
    options = {"num_steps": 2500, "batch_size": 256, "block": 500}
    optimiser = optax.adam(optax.cosine_decay_schedule(3e-3, 2500))
    options |= {"key": jr.key(6), "optimiser": optimiser}
    field = solvers.minimise(loss, field, data, **options).model
    return tj.Invert(maps.ContinuousMap(field, num_steps=LAYERS))


def main():
    data = pinwheel(jr.key(0), 8000)
    noise = jr.normal(jr.key(7), (POINTS, 2))
    hue = np.arctan2(noise[:, 1], noise[:, 0])
    fits = {
        "IDT": transfers,
        "spline couplings": couplings,
        "flow matching": matching,
    }
    figure, axes = plt.subplots(
        3,
        6,
        figsize=(17, 8.6),
        layout="constrained",
        width_ratios=(1, 1, 1, 1, 1.4, 1.2),
    )
    for (name, fit), row in zip(fits.items(), axes, strict=True):
        clouds = np.asarray(diagnostics.layer_outputs(fit(data), noise))
        found = diagnostics.ricci_coefficients(clouds, NEIGHBOURS)
        draw_clouds(row[:4], clouds, hue)
        row[0].set_ylabel(name, fontsize=13)
        draw_graphs(row[4], found)
        draw_layers(row[5], found, clouds)
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=110)
    print(f"see {OUTPUT}")


def draw_clouds(panels, clouds, hue):
    for panel, layer in zip(panels, (2, 4, 6, LAYERS), strict=True):
        panel.scatter(*clouds[layer].T, c=hue, cmap="hsv", s=4, linewidths=0)
        panel.set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xticks=[], yticks=[])
        panel.set_title(f"layer {layer}")


def draw_graphs(panel, found):
    """Both sums, each as a share of its value before the first layer."""
    places = np.arange(len(found.curvature))
    panel.plot(places, found.curvature / found.curvature[0], "o-", label="curvature")
    panel.plot(places, found.length / found.length[0], "s--", label="length")
    panel.set(xlabel="layer", ylabel="of the graph, relative", ylim=(0.9, 1.35))
    panel.set_title(f"overall Ricci coefficient {found.overall:.2f}")
    panel.legend(frameon=False, loc="upper left")


def draw_layers(panel, found, clouds):
    panel.bar(np.arange(1, len(clouds)), found.layers, color="C2")
    panel.axhline(0, color="0.5", linewidth=0.8)
    share = float(diagnostics.straightness(clouds).mean())
    panel.set(xlabel="layer", ylabel="local Ricci coefficient", ylim=(-0.5, 0.5))
    panel.set_title(f"straightness of the ways {share:.2f}")


if __name__ == "__main__":
    main()
