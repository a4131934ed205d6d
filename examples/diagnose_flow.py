"""Is the model good yet? Three densities of one cloud, examined on held-out samples.

Two-sample tests compare samples of the model with samples of the data: the statistics
in units of their spread under equal laws, from permutations. The calibration compares
log-densities: regions that hold a share of the mass of the model should hold that share
of the data. Distances that compare the coarse form of clouds let pass what neighbours
and log-densities do not: arms that are blurred, or that are drawn too thin.

Writes examples/output/diagnose_flow.png.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib.pyplot as plt
import numpy as np

import transportjax as tj
from transportjax import diagnostics, flows

OUTPUT = pathlib.Path(__file__).parent / "output" / "diagnose_flow.png"
EVENTS, FEW = 1600, 800  # for the calibration, and for the tests
STATISTICS = {
    "energy distance": diagnostics.energy_distance,
    "MMD": diagnostics.mmd,
    "sliced W2": functools.partial(
        tj.sliced_wasserstein, directions=tj.half_circle_directions(32)
    ),
    "KL by neighbours": diagnostics.nearest_neighbour_kl,
}


@functools.partial(jax.jit, static_argnums=1)
def pinwheel(key, n, arms=5):
    keys = jr.split(key, 3)
    radius = 0.35 + 1.9 * jr.uniform(keys[0], (n,))
    arm = 2 * jnp.pi / arms * jr.randint(keys[1], (n,), 0, arms)
    angle = arm + 0.75 * radius + 0.13 * jr.normal(keys[2], (n,)) / jnp.sqrt(radius)
    return radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)


def models(data):
    yield "kernels, too wide", tj.kernel_density(data, 0.25)
    flow = flows.coupling_flow(jr.key(1), 2, data=data, num_layers=6, width=32)
    trained = tj.maximum_likelihood(flow, data, key=jr.key(2), num_steps=400).model
    yield "affine couplings", trained
    yield "Gaussianisation", tj.Flow(tj.gaussianise(data, key=jr.key(3)).map, 2)


def main():
    data, held_out = pinwheel(jr.key(0), 3000), pinwheel(jr.key(4), EVENTS)
    figure, axes = plt.subplots(3, 4, figsize=(15, 10.5), layout="constrained")
    for (name, law), row in zip(models(data), axes, strict=True):
        samples = np.asarray(law.sample(jr.key(5), EVENTS))[:FEW]
        row[0].scatter(*samples.T, s=3, color="C0", linewidths=0)
        row[0].set(xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xticks=[], yticks=[])
        row[0].set_title(name)
        tests = {
            label: diagnostics.two_sample_test(
                held_out[:FEW], samples, statistic, key=jr.key(6), num_permutations=100
            )
            for label, statistic in STATISTICS.items()
        }
        draw_scores(row[1], tests)
        diagnostics.plot_two_sample_test(tests["energy distance"], row[2])
        row[2].set_xlabel("energy distance")
        found = diagnostics.calibration(
            law, held_out, key=jr.key(7), num_samples=EVENTS
        )
        diagnostics.plot_calibration(found, row[3])
        values = ", ".join(f"{k} p = {float(t.p_value):.2f}" for k, t in tests.items())
        print(f"{name}: {values}; calibration p = {float(found.p_value):.2f}")
    OUTPUT.parent.mkdir(exist_ok=True)
    figure.savefig(OUTPUT, dpi=110)
    print(f"see {OUTPUT}")


def draw_scores(panel, tests):
    """How many standard deviations of its null each statistic is above the mean."""
    for place, test in enumerate(tests.values()):
        null = np.asarray(test.null)
        centre, spread = null.mean(), null.std()
        scores = (null - centre) / spread
        shifts = place + 0.25 * np.linspace(-1, 1, len(scores))
        panel.scatter(scores, shifts, s=4, color="0.7", linewidths=0)
        score = (float(test.value) - centre) / spread
        panel.plot(score, place, "o", color="C3", markersize=9)
    panel.set_yticks(range(len(tests)), tests)
    panel.set(xscale="symlog", xlim=(-6, 200), ylim=(len(tests) - 0.4, -0.6))
    panel.set_xticks([-3, 0, 3, 10, 30, 100], ["-3", "0", "3", "10", "30", "100"])
    panel.minorticks_off()
    panel.set(xlabel="standard deviations above equal laws")
    panel.set_title("two-sample tests")


if __name__ == "__main__":
    main()
