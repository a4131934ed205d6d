"""Arrays of any kind taken as pictures, and given back as they came."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from transportjax._checks import check_mask, check_pixels

from .picture import from_unit, to_unit


def split_alpha(name: str, pixels: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """The colours (h, w, 1 or 3) of a picture, and its alpha (h, w, 1) if any."""
    array = np.asarray(pixels)
    check_pixels(name, array)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[-1] in (2, 4):
        return array[..., :-1], array[..., -1:]
    return array, None


def join_alpha(moved: np.ndarray, alpha: np.ndarray | None, like: Any) -> Any:
    """The inverse of `split_alpha`: an array of the shape and library of `like`."""
    if alpha is not None:
        moved = np.concatenate([moved, alpha.astype(moved.dtype)], axis=-1)
    moved = moved.reshape(np.shape(like))
    return jnp.asarray(moved) if isinstance(like, jax.Array) else moved


def soft_mask(name: str, mask: Any, pixels: np.ndarray | jax.Array) -> np.ndarray:
    """A mask as shares in [0, 1], (h, w)."""
    mask = np.asarray(mask)
    check_mask(name, mask, pixels.shape[:2])
    if mask.dtype == np.uint8 or mask.dtype == np.uint16:
        return to_unit(mask)
    return mask.astype(np.float32)


def hard_mask(name: str, mask: Any, pixels: np.ndarray) -> np.ndarray | None:
    """A mask as True and False, (h, w); None if there is none."""
    return None if mask is None else soft_mask(name, mask, pixels) > 0.5


def blend(before: np.ndarray, after: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Rows at a time, so that a large picture needs no large copies."""
    out = np.empty_like(after)
    rows = max(1, (1 << 20) // max(1, before.shape[1]))
    for start in range(0, len(out), rows):
        part = slice(start, start + rows)
        x, y = to_unit(before[part]), to_unit(after[part])
        # whole shares first: where the mask is 0 or 1 nothing is rounded or NaN
        weight = share[part][:, :, None]
        mixed = from_unit(x + weight * (y - x), after.dtype)
        out[part] = np.where(
            weight <= 0, before[part], np.where(weight >= 1, after[part], mixed)
        )
    return out
