"""Sorting: ours next to jax.numpy, numpy and torch."""

import importlib.util
from argparse import Namespace
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from transportjax.onedim import sort, sort_with_permutation

from .harness import Case, Rival


def cases(options: Namespace) -> Iterator[Case]:
    """Values, values with permutation, and value with gradient, of several sizes."""
    shapes = [(64, 1000)] if options.quick else [(64, 1000), (64, 8192), (3, 1_000_000)]
    for shape in shapes:
        x = np.random.default_rng(0).normal(size=shape).astype(options.dtype)
        size = f"({shape[0]}, {shape[1]})"
        yield Case(f"values {size}", (x,), _values())
        yield Case(f"values, permutation {size}", (x,), _pairs())
        c = np.linspace(0, 1, x.size, dtype=x.dtype).reshape(shape)
        yield Case(f"value and gradient {size}", (x, c), _gradients(), _gradient)


def _values() -> dict[str, Rival]:
    return {
        "transportjax": Rival(sort),
        "jax.numpy": Rival(lambda x: jnp.sort(x, axis=-1)),
        "numpy": Rival(lambda x: np.sort(x, axis=-1), jit=False),
        **_torch(lambda x: x.sort(dim=-1).values),
    }


def _pairs() -> dict[str, Rival]:
    def jax_pairs(x):
        permutation = jnp.argsort(x, axis=-1)
        return jnp.take_along_axis(x, permutation, axis=-1), permutation

    def numpy_pairs(x):
        permutation = np.argsort(x, axis=-1)
        return np.take_along_axis(x, permutation, axis=-1), permutation

    return {
        "transportjax": Rival(sort_with_permutation),
        "jax.numpy": Rival(jax_pairs),
        "numpy": Rival(numpy_pairs, jit=False),
        **_torch(lambda x: tuple(x.sort(dim=-1))),
    }


def _gradients() -> dict[str, Rival]:
    def of(function):
        return jax.value_and_grad(lambda x, c: jnp.sum(c * function(x) ** 2))

    return {
        "transportjax": Rival(of(sort)),
        "jax.numpy": Rival(of(lambda x: jnp.sort(x, axis=-1))),
    }


def _gradient(output):
    return output[1]


def _torch(function) -> dict[str, Rival]:
    """The rival from torch, if it is installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    def prepare(x):
        return (torch.from_numpy(x),)

    return {"torch": Rival(function, jit=False, prepare=prepare)}
