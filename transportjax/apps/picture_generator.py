"""What makes pictures of noise: a transfer along patches, from coarse to fine.

The density of `picture_flow` sees small patches, and what it draws has strokes but
seldom a shape. This map has no useful density, and draws whole shapes: a cloud of
normal points, of the mean and covariance of the pictures, is moved onto them by
iterated transfer along those directions in which both differ most, first of whole
pictures, then of patches half as wide, and of half of these; at last pixel by pixel.

The cloud is larger than the set of pictures: what a step matches by chance is mostly
the cloud's own, and would be passed on to other noise. For the same reason a step
carries out a part of each transfer.

References:
    Dai and Seljak (2021), "Sliced iterative normalizing flows", section 3.4 (SIG).
"""

import itertools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float

from transportjax.maps import Affine, Chain
from transportjax.sliced import (
    FixedDirections,
    MaxSlicedDirections,
    PatchDirections,
)
from transportjax.solvers import idt

from .picture_flow import block_size

_CLOUD = (5, 5_000, 30_000)  # points: times the pictures, at least, at most
_STEPS = (60, 15, 6)  # with whole pictures, and with each smaller size
_SHORTEST = 4  # side of a patch
_STEP_SIZE = 0.7
_NUM_BINS = 128
_LEAST_VARIANCE = 1e-3  # of a direction, of that of the rounding


def fit_generator(rows: np.ndarray, shape: tuple[int, ...], key: Any) -> Chain:
    """The map from standard normal points to pictures, values in 0 to 1.

    Args:
        rows: whole numbers of an unsigned dtype, (n, h w c).
        shape: of a picture, (h, w) or (h, w, c).
        key: a random key.
    """
    noise_key, cloud_key, last_key, *keys = jr.split(key, 3 + len(_STEPS))
    levels = _num_levels(rows.dtype)
    noise = np.asarray(jr.uniform(noise_key, rows.shape))
    target = jnp.asarray((rows + noise) / levels, "float32")
    least, most = _CLOUD[1:]
    num = int(np.clip(_CLOUD[0] * len(rows), least, most))
    first = _normal(np.asarray(target, np.float64), 1 / levels)
    cloud = _moved(first, jr.normal(cloud_key, (num, rows.shape[1])))
    maps: list[Any] = [first]
    for size, steps, own in zip(_sizes(shape), _STEPS, keys, strict=False):
        values = size[0] * size[1] * rows.shape[1] // (shape[0] * shape[1])
        inner = MaxSlicedDirections(min(sum(size), values), num_starts=1)
        solution = idt(
            cloud,
            target,
            key=own,
            directions=PatchDirections(shape, size, inner),
            num_steps=steps,
            num_bins=_NUM_BINS,
            step_size=_STEP_SIZE,
        )
        maps, cloud = [*maps, solution.map], solution.points
    pixels = FixedDirections(np.eye(rows.shape[1], dtype=np.float32)[None])
    last = idt(
        cloud, target, key=last_key, directions=pixels, num_steps=1, num_bins=_NUM_BINS
    )
    return Chain((*maps, last.map))


def generated(generator: Any, num: int, dtype: Any, seed: int) -> np.ndarray:
    """Pictures as rows (num, h w c) of whole numbers of that dtype."""
    dim, levels = len(generator.maps[0].offset), _num_levels(np.dtype(dtype))
    size = block_size(num)
    parts = []
    for block in range(-(-num // size)):
        noise = jr.normal(jr.fold_in(jr.key(seed), block), (size, dim))
        parts.append(np.asarray(_moved(generator, noise), np.float64))
    values = np.floor(np.concatenate(parts)[:num] * levels)
    return np.clip(values, 0, levels - 1).astype(dtype)


@eqx.filter_jit
def _moved(map: Any, points: Float[Array, "n d"]) -> Float[Array, "n d"]:
    return jax.vmap(map)(points)


def _num_levels(dtype: np.dtype) -> int:
    return int(np.iinfo(dtype).max) + 1


def _normal(rows: np.ndarray, step: float) -> Affine:
    """From the standard normal law to that of their mean and covariance."""
    mean = rows.mean(axis=0)
    centred = rows - mean
    variances, axes = np.linalg.eigh(centred.T @ centred / len(rows))
    # fewer pictures than values leave directions without any
    scales = np.sqrt(np.maximum(variances, _LEAST_VARIANCE * step**2 / 12))
    matrix = (axes * scales) @ axes.T
    return Affine(jnp.asarray(matrix, "float32"), jnp.asarray(mean, "float32"))


def _sizes(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """The whole picture; then sides about half as long, where such divide it."""
    found = [(shape[0], shape[1])]
    while True:
        height, width = (
            max(
                [d for d in _divisors(side) if _SHORTEST <= d <= side / 2], default=side
            )
            for side in found[-1]
        )
        if (height, width) == found[-1]:
            return found
        found.append((height, width))


def _divisors(number: int) -> list[int]:
    small = itertools.takewhile(lambda d: d * d <= number, itertools.count(1))
    return sorted({e for d in small if number % d == 0 for e in (d, number // d)})
