"""Sliced distances: ours next to jnp.sort, numpy, torch, POT, OTT-JAX and ReSWD.

The values and gradients are those of W_2^2 on the same directions. ReSWD is the loss of
the authors' repository with its reservoir off, which is its fastest form; it is timed
where the environment variable RESWD names a checkout. What it does then, a sort and a
mean, is timed without it as "torch.sort".
"""

import functools
import importlib
import importlib.util
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transportjax.sliced import sliced_wasserstein

from .harness import Case, Rival

_RESWD = os.environ.get("RESWD", "")  # a checkout of Stability-AI/ReSWD
_SIZES = {  # points of x, dimension, directions
    "small": (1000, 3, 50),
    "medium": (10_000, 3, 100),
    "wide": (5000, 64, 256),
    "large": (100_000, 3, 64),
}


def cases(options: Namespace) -> Iterator[Case]:
    """The value, and its gradient in x; equal sizes, unequal sizes, weights."""
    missing = [name for name, found in _installed().items() if not found]
    if missing:
        print(f"left out: {', '.join(missing)} (not installed, or RESWD not set)")
    for name in ["small"] if options.quick else _SIZES:
        n, d, num = _SIZES[name]
        x, y, directions = _clouds(n, n, d, num, options.dtype)
        size = f"({n}, {d}) x {num}"
        # POT adds up the masses of the points in single precision
        yield Case(f"value {size}", (x, y, directions), _values(), rtol=2e-3)
        yield Case(
            f"value, gradient {size}",
            (x, y, directions),
            _gradients(),
            _gradient,
            rtol=1e-2,  # where two projections tie to rounding, their order is free
        )
    for name in ["small"] if options.quick else ["small", "medium"]:
        n, d, num = _SIZES[name]
        m = n * 9 // 10
        x, y, directions = _clouds(n, m, d, num, options.dtype)
        size = f"({n} v {m}, {d}) x {num}"
        yield Case(f"unequal, value {size}", (x, y, directions), _unequal(), rtol=1e-3)
        rng = np.random.default_rng(1)
        a, b = (rng.uniform(0.5, 1.5, k).astype(options.dtype) for k in (n, m))
        arrays = (x, y, directions, a / a.sum(), b / b.sum())
        yield Case(f"weights, value {size}", arrays, _weighted(), rtol=1e-3)


def _clouds(n: int, m: int, d: int, num: int, dtype: str) -> tuple:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(num, d))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    x, y = rng.normal(size=(n, d)), 0.7 * rng.normal(size=(m, d)) + 0.5
    return tuple(array.astype(dtype) for array in (x, y, directions))


def _plain(x, y, directions):
    """What one writes down first."""
    u, v = jnp.sort(directions @ x.T), jnp.sort(directions @ y.T)
    return jnp.mean((u - v) ** 2)


def _numpy(x, y, directions):
    u, v = np.sort(directions @ x.T), np.sort(directions @ y.T)
    return np.mean((u - v) ** 2)


def _values() -> dict[str, Rival]:
    return {
        "transportjax": Rival(sliced_wasserstein),
        "jax.numpy": Rival(_plain),
        _on_cpu("numpy"): Rival(_numpy, jit=False),
        **_pot(),
        **_torch_peers(),
        **_ott(),
    }


def _gradients() -> dict[str, Rival]:
    return {
        "transportjax": Rival(jax.value_and_grad(sliced_wasserstein)),
        "jax.numpy": Rival(jax.value_and_grad(_plain)),
        **_torch_peers(gradient=True),
        **_ott(gradient=True),
    }


def _unequal() -> dict[str, Rival]:
    return {"transportjax": Rival(sliced_wasserstein), **_pot(), **_ott()}


def _weighted() -> dict[str, Rival]:
    def ours(x, y, directions, a, b):
        return sliced_wasserstein(x, y, directions, x_weights=a, y_weights=b)

    return {"transportjax": Rival(ours), **_pot(), **_ott()}


def _gradient(output):
    return output[1]


def _installed() -> dict[str, bool]:
    names = {"POT": "ot", "torch": "torch", "OTT-JAX": "ott"}
    found = {peer: importlib.util.find_spec(name) for peer, name in names.items()}
    return {**{peer: bool(spec) for peer, spec in found.items()}, "ReSWD": _RESWD != ""}


def _on_cpu(name: str) -> str:
    """The name of a peer that stays on the CPU, whatever JAX runs on."""
    return name if jax.default_backend() == "cpu" else f"{name}, on the CPU"


def _pot() -> dict[str, Rival]:
    """POT on numpy arrays, if it is installed; it returns the root."""
    if not _installed()["POT"]:
        return {}
    import ot

    def function(x, y, directions, a=None, b=None):
        root = ot.sliced_wasserstein_distance(x, y, a, b, projections=directions)
        return root**2

    def prepare(x, y, directions, *weights):
        return x, y, np.ascontiguousarray(directions.T), *weights

    return {_on_cpu("POT (numpy)"): Rival(function, jit=False, prepare=prepare)}


def _torch_peers(*, gradient: bool = False) -> dict[str, Rival]:
    """What there is for torch; on a GPU if JAX and torch both have it."""
    installed = _installed()
    if not installed["torch"]:
        return {}
    import torch

    def plain(x, y, directions):
        u = torch.sort(directions @ x.T).values
        return torch.mean((u - torch.sort(directions @ y.T).values) ** 2)

    losses: dict[str, Callable] = {"torch.sort": plain}
    if installed["POT"]:
        losses["POT (torch)"] = _pot_loss
    if installed["ReSWD"]:
        losses["ReSWD (torch)"] = _reswd_loss
    on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")

    def call(loss, x, y, directions):
        value = loss(x, y, directions)
        output = value.detach()
        if gradient:
            output = output, torch.autograd.grad(value, x)[0]
        if on_gpu:
            torch.cuda.synchronize()
        return output

    def prepare(*arrays):
        x, *others = (torch.from_numpy(array).to(device) for array in arrays)
        return x.requires_grad_(gradient), *others

    return {
        name if on_gpu else _on_cpu(name): Rival(
            functools.partial(call, loss), jit=False, prepare=prepare
        )
        for name, loss in losses.items()
    }


def _pot_loss(x, y, directions):
    import ot

    return ot.sliced_wasserstein_distance(x, y, projections=directions.T) ** 2


def _reswd_loss(x, y, directions):
    """The authors' module; it draws the directions anew, which we replace by ours."""
    loss = _reswd_module()(directions.shape[0], distance="l2", num_new_candidates=0)
    loss._draw_dirs = lambda *_: directions
    return loss(x.T[None], y.T[None], 0)


@functools.cache
def _reswd_module() -> Any:
    sys.path.insert(0, _RESWD)
    return importlib.import_module("src.loss").VectorSWDLoss


def _ott(*, gradient: bool = False) -> dict[str, Rival]:
    """OTT-JAX, if it is installed."""
    if not _installed()["OTT-JAX"]:
        return {}
    from ott.tools import sliced

    def function(x, y, directions, a=None, b=None):
        cost, _ = sliced.sliced_wasserstein(
            x, y, a, b, proj_fn=lambda points: points @ directions.T
        )
        return cost

    return {"OTT-JAX": Rival(jax.value_and_grad(function) if gradient else function)}
