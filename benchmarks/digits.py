"""Digits: the code length of unseen pictures, against the CPU time of the fit.

    python -m benchmarks digits --data DIR      # holds mnist70k.npz

The file holds `x`, pictures of 28 x 28 bytes as rows (n, 784), and `test`, True for
those to be held out (n,). Every law is one of bytes with uniform noise; its code length
is -log2 of the density of the test pictures, noise added, over 784: bits per dimension.
Uniform bytes have 8. No rival sees the test pictures; the numbers of steps are fixed
beforehand. Ours, all after `level_map`, which alone knows each pixel apart:

    rotations      `gaussianise` along random rotations of all pixels
    default        along the eight directions that look least normal
    patches        along random rotations of patches, 4 x 4 and 2 x 2 in turn
    independent    along independent components of the same patches
    trained        the last, then `maximum_likelihood` behind the level map, for
                   DIGITS_TRAINING (40) steps

The time is that of all threads of this process, with all compilation; caches are
emptied before each run. That of `trained` includes the fit.
"""

import math
import os
import pathlib
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax import lax

from transportjax.flows import Flow, maximum_likelihood
from transportjax.flows.flow import normal_log_prob
from transportjax.maps import Chain
from transportjax.sliced import (
    IndependentDirections,
    OrthonormalDirections,
    PatchDirections,
)
from transportjax.solvers import gaussianise, level_map

from . import harness

_SHAPE, _DIM = (28, 28), 784
_RATE = 3e-4
_NUM_TRAINING = int(os.environ.get("DIGITS_TRAINING", "40"))
_HELD_OUT = 2000  # pictures of those to learn from, by which the training is judged
_OPTIONS = {"num_knots": 32, "step_size": 0.6, "held_out": 0.0}
_INDEPENDENT = PatchDirections(_SHAPE, (4, 2), IndependentDirections())
_RIVALS = {  # directions and number of steps
    "rotations": (OrthonormalDirections(), 2),
    "default": (None, 40),
    "patches": (PatchDirections(_SHAPE, (4, 2)), 16),
    "independent": (_INDEPENDENT, 16),
}
_LARGE = {"independent": (_INDEPENDENT, 20)}


class _Digits(NamedTuple):
    train: np.ndarray
    held: np.ndarray
    test: np.ndarray


def report(options: Namespace) -> dict:
    """Fits all rivals, prints what they reach, and returns the record."""
    if options.data is None:
        sys.exit("digits: say where mnist70k.npz lies, by --data")
    digits = _read(options.data)
    if options.quick:
        digits = _Digits(digits.train[:2000], digits.held[:200], digits.test[:500])
    print(f"{'rival':14}{'digits':>8}{'steps':>7}{'CPU':>10}{'bits':>9}")
    results = []
    for name, count, chosen in _runs(options.quick):
        jax.clear_caches()
        record = _fitted(name, digits._replace(train=digits.train[:count]), *chosen)
        results += record
    found = harness.environment(options.dtype)
    return {"topic": "digits", "environment": found, "results": results}


def _runs(quick: bool) -> Iterator[tuple[str, int, tuple]]:
    """Names, numbers of pictures, and directions with the number of steps."""
    for name, (directions, num_steps) in _RIVALS.items():
        yield name, 10_000, (directions, 2 if quick else num_steps)
    if not quick:
        for name, chosen in _LARGE.items():
            yield name, 58_000, chosen


def _read(folder: pathlib.Path) -> _Digits:
    """The pictures, in a random order."""
    with np.load(folder / "mnist70k.npz") as file:
        pictures, is_test = file["x"], file["test"]
    known, test = pictures[~is_test], pictures[is_test]
    known = known[np.random.default_rng(0).permutation(len(known))]
    return _Digits(known[:-_HELD_OUT], known[-_HELD_OUT:], test)


def _noisy(pictures: np.ndarray, seed: int) -> jax.Array:
    noise = jr.uniform(jr.key(seed), pictures.shape)
    # the greatest noise would round up to the next level
    return jnp.minimum(pictures + noise, jnp.nextafter(pictures + 1.0, 0.0))


def _fitted(name: str, digits: _Digits, directions: Any, num_steps: int) -> list[dict]:
    """The records of a fit, and of training it where the rival is the last one."""
    test = _noisy(digits.test, 1)
    start = time.process_time()
    first = level_map(digits.train)
    x = _noisy(digits.train, 0)
    z = _images(first, x)
    solution = gaussianise(
        z, key=jr.key(2), directions=directions, num_steps=num_steps, **_OPTIONS
    )
    jax.block_until_ready(solution.points)
    seconds = time.process_time() - start
    fitted: Any = solution.map
    bits = _bits_along(first, fitted.maps, test)
    record = _record(name, digits, num_steps, seconds, bits)
    if name != "independent" or len(digits.train) > 10_000 or num_steps < 3:
        return [record]
    start = time.process_time()
    result = maximum_likelihood(
        Flow(solution.map, _DIM),
        z,
        key=jr.key(3),
        held_out=_images(first, _noisy(digits.held, 4)),
        optimiser=optax.adam(optax.cosine_decay_schedule(_RATE, _NUM_TRAINING)),
        num_steps=_NUM_TRAINING,
        block=_NUM_TRAINING // 2,
    )
    jax.block_until_ready(result.stats)
    seconds += time.process_time() - start
    trained: Any = result.model.map
    bits = _bits_along(first, trained.maps, test)
    return [record, _record("trained", digits, _NUM_TRAINING, seconds, bits[-1:])]


def _record(
    name: str, digits: _Digits, num_steps: int, seconds: float, bits: np.ndarray
) -> dict:
    row = f"{name:14}{len(digits.train):8}{num_steps:7}{seconds:8.1f} s{bits[-1]:9.4f}"
    print(row, flush=True)
    return {
        "rival": name,
        "num_train": len(digits.train),
        "num_test": len(digits.test),
        "num_steps": num_steps,
        "cpu_s": seconds,
        "bits": bits.tolist(),
    }


@eqx.filter_jit
def _images(map: Any, x: jax.Array) -> jax.Array:
    return jax.vmap(map)(x)


@eqx.filter_jit
def _bits_of_layers(first: Any, scan: Any, x: jax.Array) -> jax.Array:
    def bits(z: jax.Array, log_det: jax.Array) -> jax.Array:
        log_probs = jax.vmap(normal_log_prob)(z) + log_det
        return -jnp.mean(log_probs) / (_DIM * math.log(2))

    def apply(carry: tuple, layer: Any) -> tuple:
        moved, more = jax.vmap(layer.transform_and_log_det)(carry[0])
        after = moved, carry[1] + more
        return after, bits(*after)

    start = jax.vmap(first.transform_and_log_det)(x)
    return jnp.append(bits(*start)[None], lax.scan(apply, start, scan.layers)[1])


def _bits_along(first: Any, maps: tuple, x: jax.Array) -> np.ndarray:
    """Bits per dimension, after whitening and after each layer."""
    *others, scan = maps
    start = Chain((first, *others))
    parts = [_bits_of_layers(start, scan, part) for part in jnp.split(x, 5)]
    return np.mean(np.asarray(parts, np.float64), axis=0)


def plot(report: dict, path: pathlib.Path) -> None:
    """Bits per dimension against CPU time; a fit with the same share for each step."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
    for record in report["results"]:
        bits = record["bits"]
        label = f"{record['rival']}, {record['num_train']} digits"
        marker = "o" if len(bits) == 1 else "."
        seconds = np.linspace(0, record["cpu_s"], len(bits) + 1)[1:]
        panel.plot(seconds, bits, marker=marker, label=label)
    panel.set_xscale("log")
    panel.set_xlabel("CPU time (s), compilation included, shared evenly by the layers")
    panel.set_ylabel("bits per dimension of the test digits")
    panel.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)
