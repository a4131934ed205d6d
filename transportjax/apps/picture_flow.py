"""Flows of pictures on the line: fitted along patches, judged, perhaps trained."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from transportjax.flows import Flow, maximum_likelihood
from transportjax.flows.flow import normal_log_prob
from transportjax.maps import Chain, Scan
from transportjax.sliced import IndependentDirections, PatchDirections
from transportjax.solvers import gaussianise

BLOCK = 1024  # pictures that are mapped at a time
_RATE = 3e-4  # of the training
_PATCHES = (16, 4)  # pixels that patches should have, in turn


def fit_flow_of_pictures(
    z: np.ndarray,
    held: np.ndarray,
    shape: tuple[int, ...],
    num_steps: int,
    key: Any,
) -> tuple[Chain, dict[str, float]]:
    """The flow of pictures on the line, and how likely others are, in nats."""
    solution = gaussianise(
        jnp.asarray(z),
        key=key,
        directions=PatchDirections(shape, _patches(shape), IndependentDirections()),
        num_steps=num_steps,
        num_knots=32,
        step_size=0.6,
        held_out=0.0,
    )
    fitted: Any = solution.map
    *first, scan = fitted.maps
    parts = [_along(Chain(first), scan, jnp.asarray(part)) for part in blocks(held)]
    along = np.concatenate(parts, axis=1)[:, : len(held)].mean(axis=1)
    best = int(np.argmax(along))
    scores = {"a normal law": float(along[0]), "the flow": float(along[best])}
    return Chain((*first, scan[:best])), scores


def trained_flow(
    fitted: Chain, z: np.ndarray, held: np.ndarray, *, num_steps: int, key: Any
) -> tuple[Any, float]:
    """The flow after gradient descent, and its score."""
    import optax

    result = maximum_likelihood(
        Flow(fitted, z.shape[1]),
        z,
        key=key,
        held_out=held,
        optimiser=optax.adam(optax.cosine_decay_schedule(_RATE, num_steps)),
        num_steps=num_steps,
        block=max(1, min(100, num_steps // 4)),
    )
    trained = result.model.map
    return trained, float(np.mean(scores(trained, held)))


def _patches(shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Two sizes that divide a picture, squares if possible, of sixteen pixels and four.

    Where a size has a mirrored twin that fits too, both come in turn.
    """
    height, width = shape[:2]
    sizes = [
        (a, b)
        for a in range(1, height + 1)
        for b in range(1, width + 1)
        if height % a == 0 and width % b == 0 and (a * b > 1 or height * width == 1)
    ]
    found = []
    for wanted in _PATCHES:
        costs = [
            abs(math.log(a * b / wanted)) + abs(math.log(a / b)) / 4 for a, b in sizes
        ]
        least = min(costs)
        found += [s for s, cost in zip(sizes, costs, strict=True) if cost < least + 0.2]
    return tuple(dict.fromkeys(found))


def moved(map: Any, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The images of points under a map, and the log-determinants there."""
    return joined([_apply(map, jnp.asarray(part)) for part in blocks(z)], len(z))


@eqx.filter_jit
def _apply(map: Any, z: Float[Array, "n d"]) -> tuple[Array, Array]:
    return jax.vmap(map.transform_and_log_det)(z)


def scores(fitted: Any, z: np.ndarray) -> np.ndarray:
    """The log-likelihood of each point under a flow, in nats."""
    standard, log_dets = moved(fitted, z)
    return np.asarray(jax.vmap(normal_log_prob)(jnp.asarray(standard))) + log_dets


@eqx.filter_jit
def _along(first: Chain, scan: Scan, z: Float[Array, "n d"]) -> Float[Array, "l n"]:
    """The log-likelihoods after the first maps and after each layer."""

    def apply(carry: tuple, layer: Any) -> tuple:
        moved, more = jax.vmap(layer.transform_and_log_det)(carry[0])
        log_dets = carry[1] + more
        return (moved, log_dets), jax.vmap(normal_log_prob)(moved) + log_dets

    start, begin = apply((z, jnp.zeros(len(z))), first)
    others = lax.scan(apply, start, scan.layers)[1]
    return jnp.concatenate([begin[None], others])


def blocks(rows: np.ndarray) -> list[np.ndarray]:
    """Blocks of one size; the last is filled up with its last row."""
    size = block_size(len(rows))
    missing = -len(rows) % size
    padded = np.pad(rows, ((0, missing), (0, 0)), "edge")
    return np.split(padded, len(padded) // size)


def joined(parts: list, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of arrays of blocks as two of `num` rows."""
    first, second = (np.concatenate([np.asarray(p[i]) for p in parts]) for i in (0, 1))
    return first[:num], second[:num]


def block_size(count: int) -> int:
    """Rows of a block: a power of two, so that few sizes are compiled."""
    return min(BLOCK, 1 << max(count - 1, 1).bit_length())
