"""Tiles or a Fourier series: which is faster, and how many modes it takes.

The number of modes is static, and is read off the points where they have values, which
they have not under `jit`. The caller of a program can read it off beforehand.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array

from transportjax import _checks

from . import fourier

_PER_POINT = 900  # the cost of a point in a series, in pairs of a tile, ...
_PER_MODE = 0.42  # ... and that of a mode of a point
_FEW = 2**22  # pairs, below which a series is not worth its compilation


def fourier_modes(
    x: ArrayLike,
    y: ArrayLike,
    scale: int | float | ArrayLike,
    *,
    margin: int | float = 1,
    num_sums: int = 1,
) -> tuple[int, ...]:
    """How many modes a Fourier series needs on each axis, or () if tiles are faster.

    What to pass as `num_modes` under `jit`. Each number is even, so that a program is
    compiled for few of them while points move.

    Args:
        x: points, `(n, d)`.
        y: points, `(m, d)`.
        scale: the least scale that will be used.
        margin: a factor on the extent of the points, to leave them room to move.
        num_sums: how many sums over all pairs are wanted at once: tiles take each by
            itself, a series has them all. 2 for what `gauss_l2` gives.

    Returns:
        One number for each axis; () also if values are traced, or d > 3.

    Raises:
        ValueError: as `gauss_sum`.

    Example:
        >>> import numpy as np
        >>> from transportjax.mixtures import fourier_modes
        >>> x = np.random.default_rng(0).uniform(size=(20_000, 3)).astype("float32")
        >>> fourier_modes(x, x, 0.5), fourier_modes(x, x, 0.001)
        ((8, 8, 8), ())
    """
    x, y = _checks.common_float(("x", x), ("y", y))
    scale = _checks.as_float("scale", scale)
    check_sum(x, y, scale)
    work = _checks.working_dtype(x.dtype)
    _checks.check_count("num_sums", num_sums)
    arrays = (x.astype(work), y.astype(work), scale.astype(work))
    return _fastest_modes(*arrays, num_sums, margin)


class How(NamedTuple):
    """Modes of a series on each axis, none for tiles; whether they may be too few."""

    num_modes: tuple[int, ...]
    in_doubt: bool = False


def how_to_sum(x: Array, y: Array, scale: Array, num_modes: Any, num_sums: int) -> How:
    """Tiles or a series, of how many modes."""
    if num_modes is None:
        return How(_fastest_modes(x, y, scale, num_sums))
    modes = _checks.as_num_modes("num_modes", num_modes, x.shape[1])
    needed = needed_modes(x, y, scale) if modes else None
    if needed is None:
        return How(modes, in_doubt=bool(modes))
    is_enough = all(map(int.__ge__, modes, needed))
    return How(modes if is_enough else ())


def check_sum(x: Array, y: Array, scale: Array) -> None:
    """Raises unless these are two clouds of one dimension, and a scale."""
    _checks.check_points("x", x)
    _checks.check_points("y", y, x.shape[1])
    _checks.check_width("scale", scale)


def _fastest_modes(
    x: Array, y: Array, scale: Array, num_sums: int, margin: int | float = 1
) -> tuple[int, ...]:
    """The modes that are needed, if they can be known, and cost less than tiles.

    The measured cost of a point of a series is that of 900 pairs, plus that of 0.42
    pairs for each of the (2 M + 1)^d products of modes. A third is what is expected of
    accelerators, for a multiplication next to an exponential.
    """
    (n, d), m = x.shape, len(y)
    pairs = num_sums * n * m
    if d > 3 or pairs < _FEW:
        return ()
    needed = needed_modes(x, y, scale, margin)
    if needed is None:
        return ()
    modes = math.prod(2 * num + 1 for num in needed)
    return needed if (n + m) * (_PER_POINT + _PER_MODE * modes) < pairs else ()


def needed_modes(
    x: Array, y: Array, scale: Array, margin: int | float = 1
) -> tuple[int, ...] | None:
    """M for each axis, even; None if values are traced or not finite."""
    x, y, scale = map(lax.stop_gradient, (x, y, scale))  # concrete in an eager `grad`
    if not all(map(_checks.is_concrete, (x, y, scale))):
        return None
    with jax.ensure_compile_time_eval():
        needed = fourier.modes_needed(margin * fourier.extent_of(x, y), scale)
        if not bool(jnp.all(jnp.isfinite(needed))):
            return None
        return tuple(2 * math.ceil(float(num) / 2) for num in needed)
