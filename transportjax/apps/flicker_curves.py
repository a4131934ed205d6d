"""What removes flicker, on numbers alone: laws of brightness, cuts, curves.

Flicker moves the brightness of each frame by an increasing function of its own. The law
of the brightness therefore says how, and the average of the quantile functions over
time (`steady_quantiles`) is the law that the frame should have.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from transportjax._checks import as_cuts, as_float, check_laws, check_number

NUM_NODES = 129  # of a curve
_BANDWIDTH = 0.03  # of its smoothing, in units of luma
_RIDGE = 0.05  # on its slope against 1, in squared bandwidths
_CHANGED = 0.5  # share of the variance of a thumbnail that a cut replaces
_MOVED = 0.05  # change of order in a block, in luma, at which its law counts half
_FEW = 0.02  # mass near a brightness at which a block's curve counts half


class FrameLaw(NamedTuple):
    """The brightness of a frame, or of frames with a leading axis t.

    Attributes:
        whole: quantiles at the levels (i + 1/2) / k of the whole frame, white at 1.
        blocks: the same of blocks around the corners of cells of the frame; y and x are
            0 where only the whole frame counts.
        thumbnail: means of small parts, to tell a change of light from one of content.
    """

    whole: Float[Array | np.ndarray, "*t k"]
    blocks: Float[Array | np.ndarray, "*t y x k"]
    thumbnail: Float[Array | np.ndarray, "*t v u"]


def find_cuts(law: FrameLaw, *, threshold: ArrayLike = 0.02) -> np.ndarray:
    """The frames that begin a new shot, the first frame not counted.

    A frame begins a shot if its brightness has moved (W_1 to the law of the frame
    before it, in units of luma) and its content has changed: less than half of the
    variance of its thumbnail is that of the frame before. Flicker, fades and
    slow motion keep what is brighter than what, so they are no cuts however strong. A
    cut between frames of one law is not found, and needs not be.

    Args:
        law: of all frames, with a leading axis t.
        threshold: least W_1 of a cut; 1 is from black to white.

    Returns:
        Numbers of frames in ascending order, int64.

    Raises:
        ValueError: the law is one of a single frame; `threshold` is negative.
    """
    check_laws(law.whole.ndim)
    check_number("threshold", threshold, 0)
    if len(law.whole) < 2:
        return np.zeros(0, np.int64)
    moved, changed = _changes(law.whole, law.thumbnail)
    found = np.asarray(moved > threshold) & np.asarray(changed > _CHANGED)
    return np.flatnonzero(found) + 1


@jax.jit
def _changes(
    quantiles: Float[Array, "t k"], thumbnails: Float[Array, "t v u"]
) -> tuple[Float[Array, " t-1"], Float[Array, " t-1"]]:
    """W_1 between neighbours, and 1 - 2 cov / (var + var) of their thumbnails."""
    moved = jnp.mean(jnp.abs(jnp.diff(quantiles, axis=0)), axis=1)
    flat = thumbnails.reshape(len(thumbnails), -1)
    flat = flat - jnp.mean(flat, axis=1, keepdims=True)
    power = jnp.mean(flat**2, axis=1)
    shared = jnp.mean(flat[1:] * flat[:-1], axis=1)
    # a little noise, common to both: two frames of one colour do not differ
    noise = (0.5 / 255) ** 2
    return moved, 1 - (shared + noise) / ((power[1:] + power[:-1]) / 2 + noise)


def flicker_curve(
    quantiles: ArrayLike,
    targets: ArrayLike,
    *,
    strength: ArrayLike = 1.0,
    max_slope: ArrayLike = 2.5,
) -> Float[Array, "*b n"]:
    """How far the map of one law onto another moves each brightness.

    The increasing map from quantiles to quantiles, smoothed: at each of 129 equally
    spaced nodes a line is fitted to the displacements of the quantiles near it. Where
    there are none, the nearest ones count. Saturated samples take part: left out, their
    brightness would be extrapolated, and bright parts go on flickering.
    Differentiable in all arguments, except where a limit is reached.

    Args:
        quantiles: of the frame, in [0, 1], ascending along the last axis.
        targets: those that it should have, of the same shape.
        strength: share of the displacement, 0 to 1.
        max_slope: the slope of the map lies in [1 / max_slope, max_slope], so that
            noise is not blown up.

    Returns:
        Displacement at the nodes 0, 1/128, ..., 1; in between it is linear. Nodes stay
        in [0, 1].

    Raises:
        ValueError: `strength` is not in [0, 1], or `max_slope` not at least 1.

    Example:
        >>> import jax.numpy as jnp
        >>> q = jnp.linspace(0.2, 0.6, 64)
        >>> print(flicker_curve(q, 1.25 * q)[jnp.array([32, 64])].round(2))
        [0.06 0.12]
    """
    quantiles = as_float("quantiles", quantiles)
    check_number("strength", strength, 0, 1)
    check_number("max_slope", max_slope, 1)
    dtype = quantiles.dtype
    numbers = (jnp.asarray(x, dtype) for x in (strength, max_slope))
    return _curve(quantiles, jnp.asarray(targets, dtype), *numbers)


@jax.jit
def _curve(quantiles: Array, targets: Array, strength: Array, slope: Array) -> Array:
    displacement, _ = _smooth(quantiles, targets)
    return strength * _limited(displacement, quantiles, targets, slope)


def _smooth(quantiles: Array, targets: Array) -> tuple[Array, Array]:
    """Local lines through (quantile, displacement) at the nodes; the mass near each."""
    nodes = jnp.linspace(0, 1, NUM_NODES, dtype=quantiles.dtype)
    shape = (*quantiles.shape[:-1], NUM_NODES, quantiles.shape[-1])
    moved = jnp.broadcast_to((targets - quantiles)[..., None, :], shape)
    z = jnp.broadcast_to(quantiles[..., None, :], shape)
    z = (z - jnp.broadcast_to(nodes[:, None], shape)) / _BANDWIDTH
    near = -(z**2) / 2
    most = jnp.max(near, axis=-1, keepdims=True)
    weight = jax.nn.softmax(near, axis=-1)
    mass = jnp.mean(jnp.exp(near - most), axis=-1) * jnp.exp(most[..., 0])
    mean, height = jnp.sum(weight * z, axis=-1), jnp.sum(weight * moved, axis=-1)
    centred = z - mean[..., None]
    spread = jnp.sum(weight * centred**2, axis=-1)
    slope = jnp.sum(weight * centred * moved, axis=-1) / (spread + _RIDGE)
    return height - slope * mean, mass


def _limited(displacement: Array, quantiles: Array, targets: Array, slope: Array):
    """Slopes between the limits, nodes in [0, 1], the mean brightness kept."""
    nodes = jnp.linspace(0, 1, NUM_NODES, dtype=quantiles.dtype)
    steps = jnp.diff(displacement, axis=-1) * (NUM_NODES - 1)
    limited = jnp.clip(steps, 1 / slope - 1, slope - 1) / (NUM_NODES - 1)
    first = displacement[..., :1]
    limited = jnp.concatenate([first, first + jnp.cumsum(limited, axis=-1)], axis=-1)
    got = jnp.mean(curve_at(limited, quantiles), axis=-1, keepdims=True)
    limited = limited + jnp.mean(targets - quantiles, axis=-1, keepdims=True) - got
    nodes = jnp.broadcast_to(nodes, limited.shape)
    return jnp.clip(limited, -nodes, 1 - nodes)


def curve_at(curve: Float[Array, "*b n"], luma: Float[Array, "*b m"]) -> Array:
    """A curve between its nodes; beyond them it goes on as at the end."""
    place = jnp.clip(luma, 0, 1) * (NUM_NODES - 1)
    cell = jnp.minimum(jnp.floor(place), NUM_NODES - 2)
    share, index = place - cell, cell.astype(jnp.int32)
    low, high = (jnp.take_along_axis(curve, index + i, axis=-1) for i in (0, 1))
    return low + share * (high - low)


def _content_change(before: Array, after: Array) -> Array:
    """What of E|a - b|^2 is beyond W_2^2(a, b): zero iff both are in the same order.

    An increasing change of brightness is thus no change of content. The samples are on
    the last axis; 2 (E[a' b'] - E[a b]) with a' and b' the sorted ones.
    """
    in_order = jnp.mean(jnp.sort(before, axis=-1) * jnp.sort(after, axis=-1), axis=-1)
    return jnp.maximum(2 * (in_order - jnp.mean(before * after, axis=-1)), 0)


def block_reliability(
    law: FrameLaw, cuts: Sequence[int] | np.ndarray
) -> Float[Array, "t y x"]:
    """How far the law of each block tells of light alone: 1, less where content moves.

    Args:
        law: of all frames, with blocks.
        cuts: frames that begin a shot; a change across one says nothing.
    """
    same_shot = np.ones(max(0, len(law.whole) - 1), bool)
    same_shot[as_cuts("cuts", cuts, len(law.whole)) - 1] = False
    rows, columns = (size - 1 for size in law.blocks.shape[1:3])
    return _reliability(law.thumbnail, jnp.asarray(same_shot), (rows, columns))


@functools.partial(jax.jit, static_argnames="cells")
def _reliability(thumbnails: Array, same_shot: Array, cells: tuple[int, int]) -> Array:
    num, (rows, columns) = len(thumbnails), cells
    down, across = (s // c for s, c in zip(thumbnails.shape[1:], cells, strict=True))
    parts = thumbnails.reshape(num, rows, down, columns, across)
    parts = parts.transpose(0, 1, 3, 2, 4).reshape(num, rows, columns, down * across)
    # at the border the outer cells count twice, which changes no order
    parts = jnp.pad(parts, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    corners = ((0, 0), (0, 1), (1, 0), (1, 1))
    parts = jnp.concatenate(
        [parts[:, i : i + rows + 1, j : j + columns + 1] for i, j in corners], axis=-1
    )
    change = _content_change(parts[:-1], parts[1:])
    change = jnp.where(same_shot[:, None, None], change, 0)
    none = jnp.zeros_like(parts[:1, ..., 0])
    most = jnp.maximum(jnp.concatenate([none, change]), jnp.concatenate([change, none]))
    return 1 / (1 + most / _MOVED**2)


def block_curves(
    law: FrameLaw,
    target: FrameLaw,
    reliability: ArrayLike,
    *,
    strength: ArrayLike = 1.0,
    max_slope: ArrayLike = 2.5,
) -> Float[Array, "y x n"]:
    """One curve a block: its own where it can be trusted, else that of its neighbours.

    Brightness that a block hardly has, and blocks without reliable neighbours, follow
    the curve of the whole frame.

    Args:
        law: of one frame.
        target: the law that it should have.
        reliability: of each block, in [0, 1], (y, x).
        strength: as for `flicker_curve`.
        max_slope: as for `flicker_curve`.
    """
    check_number("strength", strength, 0, 1)
    check_number("max_slope", max_slope, 1)
    numbers = (jnp.asarray(x, jnp.float32) for x in (strength, max_slope))
    laws = (law.whole, target.whole, law.blocks, target.blocks, reliability)
    return _block_curves(*map(jnp.asarray, laws), *numbers)


@jax.jit
def _block_curves(
    quantiles: Array,
    targets: Array,
    blocks: Array,
    block_targets: Array,
    reliability: Array,
    strength: Array,
    slope: Array,
) -> Array:
    whole = _limited(_smooth(quantiles, targets)[0], quantiles, targets, slope)
    own, mass = _smooth(blocks, block_targets)
    shape = own.shape
    own = _limited(own, blocks, block_targets, slope)
    apart = (own - jnp.broadcast_to(whole, shape)) * mass**2 / (mass**2 + _FEW**2)
    trust = jnp.broadcast_to(reliability[..., None], shape)
    around = _spread(trust * apart) / (_spread(trust) + 0.05)
    apart = trust * apart + (1 - trust) * around
    return strength * (jnp.broadcast_to(whole, shape) + apart)


def _spread(x: Float[Array, "y x n"]) -> Float[Array, "y x n"]:
    """Binomial weights over 3 x 3 blocks; nothing beyond the border."""
    for axis in (0, 1):
        pad = [(1, 1) if a == axis else (0, 0) for a in range(3)]
        wide, size = jnp.pad(x, pad), x.shape[axis]
        parts = [jax.lax.slice_in_dim(wide, i, i + size, axis=axis) for i in range(3)]
        x = (parts[0] + 2 * parts[1] + parts[2]) / 4
    return x
