"""Mixtures: the L2E objective of two clouds and its gradient, next to what there is.

The value <p, p> - 2 <p, q> and its gradient in x, for n points each, uniform in the
unit cube, with kernels exp(-|x - y|^2 / s^2): 2 n^2 of them. By tiles, by a Fourier
series, and by what is faster of the two, each under `jit`; next to numpy (in blocks of
rows), plain JAX in two spellings, the C extension of gmmreg-python, KeOps, GeomLoss,
and a program of our own written by hand for AVX2, about what a processor can do.

gmmreg-python is found as a module `gmmreg`, or by the environment variable GMMREG,
which names a shared library of its GaussTransform.c. GeomLoss computes <q, q> besides.
With --dtype float64 the program by hand is left out. Sizes and scale are set by
MIXTURES_SIZES (1000,10000,50000) and MIXTURES_SCALE (0.2). Peers that would take
minutes, or more memory than there is, are left out at large sizes.
"""

import ctypes
import functools
import importlib.util
import math
import os
import pathlib
import shutil
import subprocess
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transportjax.mixtures import fourier_modes, gauss_l2, modes

from .harness import Case, Rival

_SIZES = os.environ.get("MIXTURES_SIZES", "1000,10000,50000")
_SCALE = float(os.environ.get("MIXTURES_SCALE", "0.2"))
_NATIVE = pathlib.Path(__file__).parent / "native" / "gauss_avx2.c"
_MOST = {  # points, beyond which a peer takes too long, or too much memory
    "jax, last axis": 10_000,
    "jax, coordinates": 10_000,
    "GeomLoss, tensors": 10_000,
    "gmmreg-python": 46_000,  # its product of the sizes overflows
    "numpy": 50_000,
    "AVX2 by hand": 200_000,
    "KeOps": 50_000,
    "GeomLoss, KeOps": 50_000,
    "tiles": 1_000_000,
}


def cases(options: Namespace) -> Iterator[Case]:
    """Value and gradient at each size, all peers in turn."""
    names = [1000] if options.quick else [int(size) for size in _SIZES.split(",")]
    for n in names:
        rng = np.random.default_rng(0)
        x, y = (rng.uniform(size=(n, 3)).astype(options.dtype) for _ in range(2))
        peers = {**_ours(x, y), **_jax(), **_numpy(), **_torch(), **_gmmreg()}
        if options.dtype == "float32":
            peers |= _by_hand()
        on_cpu = jax.default_backend() == "cpu"
        rivals = {
            name: rival
            for name, rival in peers.items()
            if n <= _MOST.get(name.split(":")[0], n)
            and (on_cpu or rival.jit or n <= 50_000)
        }
        yield Case(
            f"L2E and gradient, n = {n}, s = {_SCALE:g}",
            (x, y),
            rivals,
            lambda output: output[1],
            rtol=1e-3 if options.dtype == "float32" else 1e-6,
        )


# --- ours --------------------------------------------------------------------------


def _ours(x: np.ndarray, y: np.ndarray) -> dict[str, Rival]:
    """The automatic choice, with the modes that the points at hand need, and each."""
    chosen = fourier_modes(x, y, _SCALE, num_sums=2)
    scale = jnp.asarray(_SCALE, x.dtype)
    needed = modes.needed_modes(jnp.asarray(x), jnp.asarray(y), scale)
    assert needed is not None
    return {
        "transportjax": Rival(_l2e(chosen)),
        "tiles": Rival(_l2e(())),
        f"Fourier: {needed[0]} modes": Rival(_l2e(needed)),
    }


def _l2e(num_modes: tuple[int, ...]) -> Callable:
    def value(x, y):
        sums = gauss_l2(x, y, _SCALE, num_modes=num_modes)
        return sums.pp - 2 * sums.pq

    return jax.value_and_grad(value)


# --- what one writes down ----------------------------------------------------------


def _jax() -> dict[str, Rival]:
    def last_axis(x, y):
        return jnp.sum((x[:, None] - y[None]) ** 2, axis=-1)

    def coordinates(x, y):
        return sum((x[:, None, k] - y[None, :, k]) ** 2 for k in range(3))

    def l2e(squares):
        def mean(x, y):
            return jnp.mean(jnp.exp(-squares(x, y) / _SCALE**2))

        return jax.value_and_grad(lambda x, y: mean(x, x) - 2 * mean(x, y))

    return {
        "jax, coordinates": Rival(l2e(coordinates)),
        "jax, last axis": Rival(l2e(last_axis)),
    }


def _numpy() -> dict[str, Rival]:
    """Blocks of rows; squared distances from products, which is fastest in numpy."""

    def rows(x, y):
        value, slope = 0.0, np.empty_like(x)
        norms = np.sum(y * y, axis=1)
        for start in range(0, len(x), 256):
            block = x[start : start + 256]
            squares = np.sum(block * block, axis=1)[:, None] + norms - 2 * block @ y.T
            kernel = np.exp(squares / -(_SCALE**2))
            sums = kernel.sum(axis=1)
            value += sums.sum(dtype=np.float64)
            slope[start : start + 256] = block * sums[:, None] - kernel @ y
        pairs = len(x) * len(y)
        return value / pairs, slope * (-2 / _SCALE**2 / pairs)

    def l2e(x, y):
        (own, own_slope), (cross, slope) = rows(x, x), rows(x, y)
        return own - 2 * cross, 2 * own_slope - 2 * slope

    return {_on_cpu("numpy"): Rival(l2e, jit=False)}


def _on_cpu(name: str) -> str:
    """The name of a peer that stays on the CPU, whatever JAX runs on."""
    return name if jax.default_backend() == "cpu" else f"{name}: on the CPU"


# --- peers -------------------------------------------------------------------------


def _torch() -> dict[str, Rival]:
    """KeOps and GeomLoss, if they are installed; on a GPU if torch has one too."""
    names = ("torch", "pykeops", "geomloss")
    torch_found, keops_found, geomloss_found = map(importlib.util.find_spec, names)
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        print(f"left out: {', '.join(missing)} (not installed)")
    if not torch_found:
        return {}
    import torch

    losses: dict[str, Callable] = {}
    if keops_found:
        losses["KeOps"] = _keops_loss()
    if geomloss_found:
        losses["GeomLoss, tensors"] = _geomloss("tensorized")
        if keops_found:
            losses["GeomLoss, KeOps"] = _geomloss("online")
    on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")

    def call(loss, x, y):
        value = loss(x, y)
        output = value.detach(), torch.autograd.grad(value, x)[0]
        if on_gpu:
            torch.cuda.synchronize()
        return tuple(array.cpu().numpy() for array in output)

    def prepare(x, y):
        x, y = (torch.from_numpy(array).to(device) for array in (x, y))
        return x.requires_grad_(), y

    return {
        name if on_gpu else _on_cpu(name): Rival(
            functools.partial(call, loss), jit=False, prepare=prepare
        )
        for name, loss in losses.items()
    }


def _keops_loss() -> Callable:
    from pykeops.torch import LazyTensor  # pyright: ignore[reportMissingImports]

    def mean(x, y):
        gaps = LazyTensor(x[:, None, :]) - LazyTensor(y[None, :, :])
        kernel = (-(gaps**2).sum(-1) / _SCALE**2).exp()
        return kernel.sum(dim=1).sum() / (len(x) * len(y))

    return lambda x, y: mean(x, x) - 2 * mean(x, y)


def _geomloss(backend: str) -> Callable:
    """Half of <p, p> - 2 <p, q> + <q, q>, with exp(-r^2 / (2 blur^2))."""
    from geomloss import SamplesLoss  # pyright: ignore[reportMissingImports]

    loss = SamplesLoss("gaussian", blur=_SCALE / math.sqrt(2), backend=backend)
    return lambda x, y: 2 * loss(x, y)


def _gmmreg() -> dict[str, Rival]:
    """The C extension of gmmreg-python: double precision, one thread."""
    transform = _gauss_transform()
    if transform is None:
        print("left out: gmmreg-python (not installed, and GMMREG not set)")
        return {}

    def l2e(x, y):
        (own, own_slope), (cross, slope) = transform(x, x), transform(x, y)
        return own - 2 * cross, 2 * own_slope - 2 * slope

    def prepare(x, y):
        return tuple(np.ascontiguousarray(array, np.float64) for array in (x, y))

    return {_on_cpu("gmmreg-python"): Rival(l2e, jit=False, prepare=prepare)}


def _gauss_transform() -> Callable | None:
    library = os.environ.get("GMMREG", "")
    if not library:
        if importlib.util.find_spec("gmmreg") is None:
            return None
        found = importlib.import_module("gmmreg._extension")
        return lambda x, y: found.gauss_transform(x, y, _SCALE)
    function = ctypes.CDLL(library).GaussTransform
    arrays = np.ctypeslib.ndpointer(np.float64, flags="C")
    function.argtypes = [arrays, arrays, *[ctypes.c_int] * 3, ctypes.c_double, arrays]
    function.restype = ctypes.c_double

    def transform(x, y):
        slope = np.zeros_like(x)
        value = function(x, y, len(x), len(y), x.shape[1], _SCALE, slope)
        return value, slope

    return transform


def _by_hand() -> dict[str, Rival]:
    """Our own program, if it can be compiled here."""
    rows = _compiled()
    if rows is None:
        print("left out: AVX2 by hand (no compiler, or not such a processor)")
        return {}

    def slopes(x, y):
        factor = np.float32(math.sqrt(math.log2(math.e)) / _SCALE)
        fill = -len(y) % 8
        points, others = (np.ascontiguousarray(array.T * factor) for array in (x, y))
        others = np.pad(others, ((0, 0), (0, fill)))
        weights = np.pad(np.full(len(y), 1 / len(y), np.float32), (0, fill))
        out = np.empty((4, len(x)), np.float32)
        rows(len(x), len(y) + fill, points, others, weights, out)
        value = out[0].sum(dtype=np.float64) / len(x)
        # each difference carries the factor once, the chain rule once more
        return value, out[1:].T * (-2 * math.log(2) * factor / len(x))

    def l2e(x, y):
        (own, own_slope), (cross, slope) = slopes(x, x), slopes(x, y)
        return own - 2 * cross, 2 * own_slope - 2 * slope

    return {_on_cpu("AVX2 by hand"): Rival(l2e, jit=False)}


@functools.cache
def _compiled() -> Any:
    compiler = shutil.which("cc")
    info = pathlib.Path("/proc/cpuinfo")
    if compiler is None or not info.exists() or "avx2" not in info.read_text():
        return None
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # do not count waiting as work
    library = pathlib.Path(tempfile.mkdtemp()) / "gauss_avx2.so"
    flags = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"]
    command = [compiler, *flags, str(_NATIVE), "-o", str(library)]
    if subprocess.run(command, check=False).returncode != 0:
        return None
    rows = ctypes.CDLL(str(library)).gauss_rows
    arrays = np.ctypeslib.ndpointer(np.float32, flags="C")
    rows.argtypes = [ctypes.c_long, ctypes.c_long, *[arrays] * 4]
    rows.restype = None
    return rows
