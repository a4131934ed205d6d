"""Sliced distances: ours next to jnp.sort, numpy, POT and OTT-JAX."""

import importlib.util
from argparse import Namespace
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from transportjax.sliced import sliced_wasserstein

from .harness import Case, Rival

_SIZES = {  # points of x, dimension, directions
    "small": (1000, 3, 50),
    "medium": (10_000, 3, 100),
    "wide": (5000, 64, 256),
    "large": (100_000, 3, 64),
}


def cases(options: Namespace) -> Iterator[Case]:
    """The value, and its gradient in x; equal sizes, unequal sizes, weights."""
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
        "numpy": Rival(_numpy, jit=False),
        **_pot(),
        **_ott(),
    }


def _gradients() -> dict[str, Rival]:
    return {
        "transportjax": Rival(jax.value_and_grad(sliced_wasserstein)),
        "jax.numpy": Rival(jax.value_and_grad(_plain)),
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


def _pot() -> dict[str, Rival]:
    """POT on numpy arrays, if it is installed; it returns the root."""
    if importlib.util.find_spec("ot") is None:
        return {}
    import ot

    def function(x, y, directions, a=None, b=None):
        root = ot.sliced_wasserstein_distance(x, y, a, b, projections=directions)
        return root**2

    def prepare(x, y, directions, *weights):
        return x, y, np.ascontiguousarray(directions.T), *weights

    return {"POT (numpy)": Rival(function, jit=False, prepare=prepare)}


def _ott(*, gradient: bool = False) -> dict[str, Rival]:
    """OTT-JAX, if it is installed."""
    if importlib.util.find_spec("ott") is None:
        return {}
    from ott.tools import sliced

    def function(x, y, directions, a=None, b=None):
        cost, _ = sliced.sliced_wasserstein(
            x, y, a, b, proj_fn=lambda points: points @ directions.T
        )
        return cost

    return {"OTT-JAX": Rival(jax.value_and_grad(function) if gradient else function)}
