"""One map of colours on many frames: what was computed for one serves the next."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt

from .arrays import blend, soft_mask
from .colour_map import ColourMap, apply_colour_map, evaluate_colours
from .lut import Lut, apply_lut
from .picture import from_unit, to_unit
from .reduction import pack_colours, unpack_colours

_SIDE = 256  # every 8-bit colour is a node
_AT_ONCE = 1 << 16
_STEP = 257  # of 16 bits, in one of 8


def frame_grader(
    colour_map: ColourMap | Lut, *, mask: Any = None
) -> Callable[[Any], Any]:
    """`apply_colour_map` for the frames of a clip, many times as fast.

    8-bit colours are computed when they are first met in the clip, and remembered: the
    result is that of `apply_colour_map`, bit for bit. Colours of 16 bits are
    interpolated between the 8-bit colours around them. Where the map is steep within an
    8-bit step, that is smoother than the map, and off by less than 8-bit frames would
    be. Grey frames, frames of floats, and deep ones for a table are computed one by
    one. The memory is 200 MB.

    Args:
        colour_map: a fitted map, or a 3-D table.
        mask: as for `apply_colour_map`.

    Returns:
        A function of a frame (h, w, c), which gives one of its shape and dtype.
    """
    met, known = (np.zeros(_SIDE**3, bool) for _ in range(2))
    nodes = None

    def grade(pixels: np.ndarray) -> np.ndarray:
        nonlocal nodes
        deep = pixels.dtype == np.uint16 and isinstance(colour_map, ColourMap)
        is_grey = pixels.shape[-1] != 3 or getattr(colour_map, "space", "") == "grey"
        if is_grey or not (deep or pixels.dtype == np.uint8):
            return apply_colour_map(colour_map, pixels, mask=mask)
        if nodes is None:
            nodes = jnp.zeros((_SIDE,) * 3 + (3,), jnp.float32)
        flat = pixels.reshape(-1, 3)
        codes = pack_colours((flat // _STEP).astype(np.uint8) if deep else flat)
        new = _first_met(codes, met)
        if deep:
            new = _first_met(_corners(new), known)
        for start in range(0, len(new), _AT_ONCE):
            part = new[start : start + _AT_ONCE]
            # one compiled program for all sizes: the last colour repeats
            part = np.pad(part, (0, _AT_ONCE - len(part)), mode="edge")
            values = evaluate_colours(colour_map, to_unit(unpack_colours(part)))
            nodes = _remember(nodes, part, values)
        if deep:
            values = apply_lut(_as_lut(nodes), to_unit(flat[:, ::-1]))
        else:
            values = _recall(nodes, codes)
        moved = from_unit(values, pixels.dtype).reshape(pixels.shape)
        if mask is None:
            return moved
        return blend(pixels, moved, soft_mask("mask", mask, pixels))

    return grade


def _first_met(codes: np.ndarray, met: np.ndarray) -> np.ndarray:
    """Each of the packed colours that were not met before, once; now they are."""
    new = codes[~met[codes]]
    wanted = np.zeros_like(met)  # to sort them would take longer
    wanted[new] = met[new] = True
    return np.flatnonzero(wanted).astype(np.uint32)


def _corners(cells: np.ndarray) -> np.ndarray:
    """The packed colours around those between each of these and the next ones."""
    for step in (1, _SIDE, _SIDE**2):
        inside = cells // step % _SIDE < _SIDE - 1
        cells = np.concatenate([cells, cells[inside] + np.uint32(step)])
    return cells


@functools.partial(jax.jit, donate_argnums=0)
def _remember(
    nodes: Float[Array, "k k k 3"],
    codes: UInt[Array, " n"],
    values: Float[Array, "n 3"],
) -> Float[Array, "k k k 3"]:
    flat = nodes.reshape(-1, 3).at[codes].set(values, mode="promise_in_bounds")
    return flat.reshape(nodes.shape)


@jax.jit
def _recall(nodes: Float[Array, "k k k 3"], codes: UInt[Array, " n"]) -> Array:
    return nodes.reshape(-1, 3).at[codes].get(mode="promise_in_bounds")


def _as_lut(nodes: Float[Array, "k k k 3"]) -> Lut:
    """A table [blue, green, red], without a check of all its values."""
    return eqx.tree_at(lambda lut: lut.table, _empty(), nodes)


@functools.cache
def _empty() -> Lut:
    return Lut(np.zeros((2, 2, 2, 3), np.float32))
