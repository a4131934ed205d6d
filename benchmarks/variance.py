"""The error of sliced distances next to their time; reservoirs in an optimisation.

Each case is one size and kind of clouds: four pairs of them, 150 estimates of SW_2^2 of
each, all from the same number of directions. The quality is the relative error in
percent, root mean square over the estimates and the pairs (bias and noise together).
Times are of all 600 estimates. A reservoir of that size makes 150 steps on clouds that
stand still; its first 50 steps, in which it fills, count in the time but not in the
error.

The last cases fit an affine colour map by 500 steps of Adam, from the first picture to
the second, at equal numbers of sorts in a step.
The quality is SW_2 of the result to the palette, in grey levels, along 500 directions,
averaged over four runs.
"""

import functools
import pathlib
from argparse import Namespace
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from PIL import Image

from transportjax import sliced as sl

from .harness import Case, Rival

_SIZES = ((2, 16), (3, 16), (3, 64), (8, 64), (32, 128))
# spread of the log scales, size of the shift and of the outliers' shift; the mild ones
# differ mostly in their means, as clouds do at the start of an optimisation
_KINDS = {"": (0.7, 0.5, 4.0), ", mild": (0.3, 1.0, 3.0)}
_PAIRS, _REPETITIONS, _POINTS = 4, 150, 400
_BURN_IN = 50
_COLOURS = ("crimson", "#4c72b0", "#dd8452", "#55a868", "black", "#8c8c8c", "#64b5cd")
_COLOURS += ("#8172b3", "#6a3d9a", "#ccb974", "#937860", "#e377c2", "#2f4f4f")
_PICTURES = pathlib.Path(__file__).parents[1] / "examples" / "pictures"


def cases(options: Namespace) -> Iterator[Case]:
    """The sizes, and colour matching."""
    repetitions = 20 if options.quick else _REPETITIONS
    sizes = [(*size, "") for size in (_SIZES[:1] if options.quick else _SIZES)]
    if not options.quick:
        sizes += [(*size, ", mild") for size in _SIZES if size[0] > 3]
    for dim, num, kind in sizes:
        pairs = [_clouds(seed, dim, kind, options.dtype) for seed in range(_PAIRS)]
        x, y = (np.stack(clouds) for clouds in zip(*pairs, strict=True))
        keys = np.asarray(jr.key_data(jr.split(jr.key(0), repetitions)))
        truth = np.array([_truth(*pair) for pair in pairs])
        rivals = {
            name: Rival(functools.partial(_repeated, estimate))
            for name, estimate in _estimators(dim, num).items()
        }
        for estimator in ("unbiased", "paper"):
            rivals[f"reservoir, {estimator}"] = Rival(
                functools.partial(_reservoir, estimator, num)
            )
        yield Case(
            f"d = {dim}, {num} directions{kind}",
            (x, y, keys),
            rivals,
            quality=functools.partial(_error, truth),
        )
    if not options.quick:
        for num in (8, 64):
            yield _colour_matching(num, options.dtype)


def _clouds(
    seed: int, dim: int, kind: str, dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """Two anisotropic clouds, turned and shifted; a tenth of one is far away."""
    rng = np.random.default_rng(seed)
    spread, shift, far = _KINDS[kind]

    def turned():
        scales = np.exp(spread * rng.normal(size=dim))
        rotation = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
        return (rng.normal(size=(_POINTS, dim)) * scales) @ rotation

    x, y = turned(), turned() + shift * rng.normal(size=dim)
    y[: _POINTS // 10] += far * rng.normal(size=dim)
    return x.astype(dtype), y.astype(dtype)


def _truth(x: np.ndarray, y: np.ndarray) -> float:
    """SW_2^2 from very many directions, to about 0.02 %."""
    dim, key = x.shape[1], jr.key(123)
    many = 30_000 // dim * dim
    rows = sl.default_directions(key, many, dim, x.dtype)
    costs = sl.projected_costs(x, y, rows)
    if dim <= 3:
        return float(jnp.mean(costs))
    variates = sl.lower_variate(x, y, rows), sl.upper_variate(x, y, rows)
    gauss = sl.gaussian_variate(x, y, rows, key=key, num_mean=200_000)
    return float(sl.controlled_mean(costs, *variates, gauss).value)


def _estimators(dim: int, num: int) -> dict[str, Callable]:
    """Ours first; each takes x, y and a key."""

    def ours(x, y, key):
        return sl.sliced_wasserstein_estimate(x, y, key=key, num=num).value

    def plain(draw, x, y, key):
        return jnp.mean(sl.projected_costs(x, y, draw(key)))

    def controlled(draw, variate, x, y, key):
        rows = draw(key)
        costs = sl.projected_costs(x, y, rows)
        return sl.controlled_mean(costs, variate(x, y, rows, key)).value

    def lower(x, y, rows, key):
        return sl.lower_variate(x, y, rows)

    def upper(x, y, rows, key):
        return sl.upper_variate(x, y, rows)

    def gauss(x, y, rows, key):
        return sl.gaussian_variate(x, y, rows, key=jr.fold_in(key, 1))

    def harmonics(x, y, key):
        rows = independent(key)
        return sl.harmonic_mean_cost(sl.projected_costs(x, y, rows), rows).value

    def independent(key):
        return sl.random_directions(key, num, dim)

    def orthonormal(key):
        return sl.orthonormal_directions(key, num, dim)

    def sobol(key):
        return sl.sobol_directions(num, dim) @ sl.haar_rotation(key, dim)

    found = {"transportjax": ours, "independent": functools.partial(plain, independent)}
    found["orthonormal blocks"] = functools.partial(plain, orthonormal)
    if dim <= 21:
        found["Sobol, turned"] = functools.partial(plain, sobol)
    for size, name, draw in (
        (2, "half circle", sl.half_circle_directions),
        (3, "spiral", sl.spiral_directions),
    ):
        if size == dim:
            spread = functools.partial(draw, num)
            found[name] = lambda x, y, key, f=spread: plain(
                lambda k: f(key=k), x, y, key
            )
    for name, draw, variate in (
        ("lower variate", independent, lower),
        ("upper variate", independent, upper),
        ("Gaussian variate", independent, gauss),
        ("orthonormal, Gaussian", orthonormal, gauss),
    ):
        found[name] = functools.partial(controlled, draw, variate)
    if num > dim * (dim + 1) // 2 + 1:
        found["harmonics"] = harmonics
    return found


def _repeated(estimate: Callable, x, y, keys):
    """One estimate after the other, as in a loop of training."""

    def of_pair(pair):
        return jax.lax.map(lambda key: estimate(*pair, jr.wrap_key_data(key)), keys)

    return jax.lax.map(of_pair, (x, y))


def _reservoir(estimator: str, num: int, x, y, keys):
    def of_pair(pair):
        def step(state, key):
            loss, state = sl.reservoir_loss(
                *pair,
                state,
                key=jr.wrap_key_data(key),
                num_new=num // 4,
                estimator=estimator,
            )
            return state, loss

        state = sl.reservoir_init(num - num // 4, x.shape[-1], dtype=x.dtype)
        return jax.lax.scan(step, state, keys)[1]

    losses = jax.lax.map(of_pair, (x, y))
    return losses[:, min(_BURN_IN, losses.shape[1] // 2) :]


def _error(truth: np.ndarray, estimates) -> float:
    """The root mean square of the relative error, in percent."""
    relative = np.asarray(estimates, np.float64) / truth[:, None] - 1
    return float(100 * np.sqrt(np.mean(relative**2)))


def _colour_matching(num: int, dtype: str) -> Case:
    rng = np.random.default_rng(0)

    def colours(name):
        picture = Image.open(_PICTURES / f"scotland_{name}.png").convert("RGB")
        flat = np.asarray(picture).reshape(-1, 3) / 255
        return flat[rng.choice(len(flat), 1000, replace=False)].astype(dtype)

    x, y = colours("house"), colours("plain")

    def fresh(draw, state, x, y, key):
        return sl.sliced_wasserstein(x, y, draw(key, num, 3)), state

    def kept(estimator, state, x, y, key):
        options = {"key": key, "num_new": num // 4, "estimator": estimator}
        return sl.reservoir_loss(x, y, state, **options)

    losses = {
        "spiral": functools.partial(fresh, sl.default_directions),
        "independent": functools.partial(fresh, sl.random_directions),
    }
    for estimator in ("unbiased", "snis", "paper"):
        losses[f"reservoir, {estimator}"] = functools.partial(kept, estimator)
    directions = sl.default_directions(jr.key(5), 500, 3)

    def quality(maps):
        found = [_moved(m, x) for m in zip(*maps, strict=True)]
        value = [sl.sliced_wasserstein(m, y, directions) for m in found]
        return float(255 * jnp.sqrt(jnp.mean(jnp.stack(value))))

    return Case(
        f"colours, {num} directions",
        (x, y),
        {k: Rival(functools.partial(_fit, f, num)) for k, f in losses.items()},
        quality=quality,
    )


def _moved(parameters, x):
    matrix, offset = parameters
    return x @ matrix.T + offset[None, :]


def _fit(loss: Callable, num: int, x, y, num_steps: int = 500):
    """The affine maps of four runs of Adam, whose rate falls to zero."""
    import optax

    optimiser = optax.adam(optax.cosine_decay_schedule(0.05, num_steps))

    def run(key):
        def step(carry, key):
            parameters, memory, state = carry

            def value(parameters):
                return loss(state, _moved(parameters, x), y, key)

            slope, state = jax.grad(value, has_aux=True)(parameters)
            update, memory = optimiser.update(slope, memory)
            return (optax.apply_updates(parameters, update), memory, state), None

        start = jnp.eye(3, dtype=x.dtype), jnp.zeros(3, x.dtype)
        state = sl.reservoir_init(num - num // 4, 3, dtype=x.dtype)
        carry = (start, optimiser.init(start), state)
        return jax.lax.scan(step, carry, jr.split(key, num_steps))[0][0]

    return jax.lax.map(run, jr.split(jr.key(1), 4))


def plot(report: dict, path: pathlib.Path) -> None:
    """Error against time, one panel a size, on logarithmic axes of one scale."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    results = [r for r in report["results"] if r["case"].startswith("d = ")]
    names = list(dict.fromkeys(r["case"] for r in results))
    rivals = list(dict.fromkeys(r["rival"] for r in results))
    figure, panels = plt.subplots(
        2, 4, figsize=(14, 7), sharex=True, sharey=True, layout="constrained"
    )
    *panels, last = panels.flat
    handles = {}
    for panel, name in zip(panels, names, strict=False):
        _draw(panel, [r for r in results if r["case"] == name], rivals)
        panel.set_title(name, fontsize=11)
        handles |= dict(zip(*panel.get_legend_handles_labels()[::-1], strict=True))
    for panel in panels[len(names) :]:
        panel.axis("off")
    last.axis("off")
    last.legend(handles.values(), handles.keys(), loc="center", frameon=False)
    panels[3].xaxis.set_tick_params(labelbottom=True)
    figure.supxlabel("CPU time of one estimate (ms)")
    figure.supylabel("relative error, root mean square (%)")
    device = report["environment"]["device"]
    figure.suptitle(f"SW$_2^2$ of clouds of {_POINTS} points ({device})")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw(panel, records: list[dict], rivals: list[str]) -> None:
    """One panel; below the dashed line is what is better than more directions."""
    markers = "*osDvP^<>hXdp8"
    for record in records:
        place = rivals.index(record["rival"])
        count = record["shapes"][0][0] * record["shapes"][2][0]
        time = 1e3 * record["cpu_s"] / count
        if record["rival"] == "independent":
            times = np.geomspace(0.1, 10, 2)
            line = record["quality"] * np.sqrt(time / times)
            label = "independent, more of them"
            panel.plot(times, line, "--", color="grey", linewidth=1, label=label)
        panel.loglog(
            time,
            record["quality"],
            markers[place % len(markers)],
            color=_COLOURS[place % len(_COLOURS)],
            markersize=16 if place == 0 else 8,
            markeredgecolor="white",
            markeredgewidth=0.6,
            label=record["rival"],
            zorder=4 if place == 0 else 3,
        )
    panel.set_xlim(0.15, 6)
    panel.set_ylim(0.02, 400)
    panel.set_xticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
    panel.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    panel.minorticks_off()
    panel.grid(True, alpha=0.35)
